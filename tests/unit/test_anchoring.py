"""Anchors: what a chain alone can't prove, a document outside of the journal does."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.evidence import anchors
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.proof.check import anchor_problems
from journaltrack.reports.report import audit
from tests.builders import CREATION, add_artifact
from tests.copies import verify_chains, without_triggers

pytestmark = pytest.mark.journal({"run": [CREATION]})


class Refusing(MemoryRemote):
    """A store that takes artifacts and no documents."""

    refusing = True

    def put_document(self, document):
        if self.refusing:
            raise RemoteError("no", kind=ErrorKind.HALT, code="AccessDenied", request_id="r-1")
        return super().put_document(document)


@pytest.fixture
def journal(journal):
    """The open journal, with an artifact and some points, all pending."""
    add_artifact(journal)
    log(journal, range(10))
    return journal


def log(journal, steps):
    """Points of these steps."""
    for step in steps:
        journal.append_metric(journal.component("run"), "loss", 1.0 / (step + 1), step, 1)


def synced(journal, remote, **options):
    """A pass; all documents that the remote holds then, by their names."""
    report_of_pass = Reconciler(journal, remote, options=Options(**options)).run()
    assert report_of_pass.halted is None
    return {uri.rpartition("/")[2]: content for uri, content in remote.stored.items()}


def problems(path, documents):
    """What the anchors say of the journal."""
    with view.opened(path) as own:
        return [problem.message for problem in anchor_problems(own.database, documents)]


def changed(journal, *statements):
    """The journal's folder after statements that no trigger prevents."""
    path = journal.path
    journal.close()
    with without_triggers(path) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def test_a_pass_anchors_in_the_bucket_of_the_artifacts(journal):
    """One document, named by its digest, with the head of every chain; the journal knows of it. It
    lies in a folder of its own, and not below the artifacts' prefix.
    """
    remote = MemoryRemote()
    documents = synced(journal, remote)
    ((uri, content),) = remote.stored.items()
    sha256 = hashlib.sha256(content).hexdigest()
    assert (
        uri == f"s3://the-bucket/journaltrack-anchors/{journal.journal_id}/00000001-{sha256}.json"
    )
    document = anchors.decode(content)
    ((writer, digest),) = journal.database.read(
        "SELECT w.uuid, e.digest FROM entry e JOIN writer w ON w.id = e.writer_id "
        "ORDER BY seq DESC LIMIT 1"
    )
    assert document.entries == {writer: (13, digest.hex())}
    assert len(document.attestations) == 1
    assert (document.number, document.previous) == (1, None)
    known = anchors.last(journal.database)
    assert (known.number, known.sha256, known.uri) == (1, sha256, uri)
    assert audit(journal).anchor == known
    assert problems(journal.path, documents) == []
    assert verify_chains(journal) == []


def test_nothing_new_is_not_anchored_again(journal):
    """A pass without anything to say leaves no document; the next entry makes one that names the
    one before.
    """
    remote = MemoryRemote()
    first = synced(journal, remote)
    assert synced(journal, remote) == first
    log(journal, [10])
    second = synced(journal, remote)
    (new,) = second.keys() - first.keys()
    (old,) = first
    assert anchors.decode(second[new]).previous == hashlib.sha256(first[old]).hexdigest()
    assert {number for number, _ in anchors.decode(second[new]).entries.values()} == {14}
    assert problems(journal.path, second) == []


def test_a_journal_without_artifacts_is_anchored_where_the_configuration_says(tmp_path):
    """By default there is no bucket to put it; "s3" takes the default one; "parameter" needs
    none; "off" is off.
    """
    found = {}
    for places in ("artifacts", "s3", "parameter", "both", "off"):
        with closing(Journal.open(tmp_path / places)) as journal:
            journal.append(
                journal.component("run"),
                [vocabulary.create(owner="me"), vocabulary.metric("m", 1.0, 1, 1)],
            )
            remote = MemoryRemote()
            documents = synced(journal, remote, anchor=places)
            named = remote.components["run"].parameters.get(anchors.PARAMETER)
            found[places] = (len(documents), named is not None)
            if named is not None:
                assert named == f"1 {anchors.last(journal.database).sha256}"
            assert verify_chains(journal) == []
    assert found == {
        "artifacts": (0, False),
        "s3": (1, False),
        "parameter": (0, True),
        "both": (0, True),
        "off": (0, False),
    }


def test_the_document_is_in_the_journal_too(journal):
    """What a parameter names can be shown: the attestation has the document's text."""
    synced(journal, MemoryRemote(), anchor="both")
    bodies = [json.loads(body) for (body,) in journal.database.read("SELECT body FROM attestation")]
    (told,) = [body["anchor"] for body in bodies if "anchor" in body]
    assert hashlib.sha256(told["document"].encode()).hexdigest() == told["sha256"]


@pytest.mark.parametrize("table", ["entry", "attestation"])
def test_a_cut_off_end_is_found(journal, table):
    """The chains of what is left hold; only the anchor tells that there was more, and whose."""
    remote = MemoryRemote()
    synced(journal, remote)
    log(journal, range(10, 15))
    documents = synced(journal, remote)
    last = journal.last_seq()
    cuts = {
        "entry": (
            f"DELETE FROM entry WHERE seq > {last - 5}",
            f"DELETE FROM delivery WHERE seq > {last - 5}",
            "DELETE FROM receipt WHERE id > 5",
            "DELETE FROM attestation WHERE writer_id > 2",
            f"UPDATE mark SET seq = {last - 5}",
        ),
        "attestation": (
            "DELETE FROM attestation WHERE writer_id > 2",
            "DELETE FROM receipt WHERE id > 5",
            f"DELETE FROM delivery WHERE seq > {last - 5}",
            f"UPDATE mark SET seq = {last - 5}",
        ),
    }
    path = changed(journal, *cuts[table])
    assert verify_chains(path) == []
    found = problems(path, documents)
    assert any(
        message.startswith(
            "5 entries were removed" if table == "entry" else "1 attestation was removed"
        )
        for message in found
    ), found


def test_a_rewritten_chain_is_found(journal):
    """Whoever recomputes all digests has another head than the anchor."""
    remote = MemoryRemote()
    documents = synced(journal, remote)
    (seq,) = journal.database.read("SELECT max(seq) FROM entry")[0]
    path = changed(journal, f"UPDATE entry SET digest = zeroblob(32) WHERE seq = {seq}")
    assert any("is not what the anchor" in message for message in problems(path, documents))


def test_the_heads_of_an_altered_chain_are_anchored_no_more(journal):
    """An anchor names the chains that held when it was made, and no end that somebody forged."""
    remote = MemoryRemote()
    synced(journal, remote)
    log(journal, [10])
    with closing(Journal.open(journal.path)) as other:
        log(other, [11])
    seq = journal.last_seq() - 1
    path = changed(journal, f"UPDATE entry SET value = 7.0 WHERE seq = {seq}")
    with closing(Journal.open(path)) as again:
        documents = synced(again, remote)
        ((writer,),) = again.database.read(
            "SELECT w.uuid FROM entry e JOIN writer w ON w.id = e.writer_id ORDER BY seq DESC "
            "LIMIT 1"
        )
    assert anchors.decode(documents[max(documents)]).entries.keys() == {writer}


def test_changed_foreign_and_missing_anchors_are_told(journal, tmp_path):
    """A document with another digest than its name, one of another journal, one that is no
    anchor, and a removed one.
    """
    remote = MemoryRemote()
    synced(journal, remote)
    for step in (10, 11):
        log(journal, [step])
        documents = synced(journal, remote)
    first, second, third = sorted(documents)
    assert problems(
        journal.path, {first: documents[first].replace(b'"number":1', b'"number":7')}
    ) == [f"the anchor {first!r} was altered: it is not the document that was made"]
    assert problems(journal.path, {"x": b"[" * 100_000}) == [
        "the anchor 'x' was altered: it is not the document that was made"
    ]
    assert problems(journal.path, {first: documents[first], third: documents[third]}) == [
        f"the anchor before {third!r} is missing: it was removed"
    ]
    with closing(Journal.open(tmp_path / "other")) as other:
        other.append(other.component("run"), [vocabulary.create(owner="me")])
        assert "is of the journal" in problems(other.path, {second: documents[second]})[0]


def test_an_anchor_that_fails_fails_nothing_else(journal):
    """Everything is delivered, a receipt says why there is no anchor, and the next pass makes
    one.
    """
    remote = Refusing()
    assert synced(journal, remote) == {}
    assert journal.database.read(
        "SELECT outcome, error_code FROM receipt WHERE action = 'anchor'"
    ) == [("failed", "AccessDenied")]
    assert journal.entries(pending=True) == []
    remote.refusing = False
    documents = synced(journal, remote)
    assert len(documents) == 1
    assert problems(journal.path, documents) == []
    assert verify_chains(journal) == []


def test_a_watcher_anchors_now_and_then_and_at_the_end(journal):
    """A journal that is written to all the time is anchored once in a while; a run that ended at
    once.
    """
    remote = MemoryRemote()
    counts = []
    for step in range(10, 13):
        log(journal, [step])
        counts.append(len(synced(journal, remote, anchor_every_s=3600.0)))
    journal.append(journal.component("run"), [vocabulary.status(primary="Completed", end_ns=1)])
    counts.append(len(synced(journal, remote, anchor_every_s=3600.0)))
    assert counts == [1, 1, 1, 2]


def test_the_command_line_compares_with_kept_anchors(journal, tmp_path):
    """`check --anchor` proves a journal that is whole, and names what was cut off from one that
    is not.
    """
    documents = synced(journal, MemoryRemote())
    ((name, content),) = documents.items()
    (tmp_path / name).write_bytes(content)
    check = ["check", "--anchor", str(tmp_path / name), "-j", str(journal.path)]
    done = CliRunner().invoke(main, check)
    assert (done.exit_code, "the journal is well" in done.output) == (0, True), done.output
    told = json.loads(content)
    count = sum(number for number, _ in told["entries"].values())
    chains = len(told["entries"]) + len(told["attestations"])
    fits = f"fits: all {count} entries and {chains} chain"
    assert fits in done.output
    last = journal.last_seq()
    changed(
        journal,
        f"DELETE FROM entry WHERE seq = {last}",
        f"DELETE FROM delivery WHERE seq = {last}",
        f"UPDATE mark SET seq = {last - 1}",
    )
    done = CliRunner().invoke(main, check)
    assert done.exit_code == 8
    assert "1 entry was removed from the end of a writer's chain" in done.output
    assert "fits:" not in done.output


def test_an_anchor_without_those_before_it_is_no_proof_of_the_whole(journal, tmp_path):
    """It names only the chains that grew. So alone it comes with a warning, and with all those
    before it without.
    """
    remote = MemoryRemote()
    files = []
    for step in (10, 11, 12):
        log(journal, [step])
        documents = synced(journal, remote)
    for name in sorted(documents):
        files.append(tmp_path / name)
        files[-1].write_bytes(documents[name])
    told = {}
    for which in ((0,), (2,), (1, 2), (0, 1, 2)):
        options = [each for i in which for each in ("--anchor", str(files[i]))]
        done = CliRunner().invoke(main, ["check", *options, "-j", str(journal.path)])
        text = " ".join(done.output.split())
        told[which] = (
            done.exit_code,
            text.count("nobody changed or removed what the journal had"),
            text.count("says nothing of other chains"),
        )
    assert told == {(0,): (0, 1, 0), (2,): (0, 0, 1), (1, 2): (8, 0, 1), (0, 1, 2): (0, 1, 0)}


def test_a_chain_whose_process_is_not_here_is_told_without_a_pid(journal, tmp_path):
    """Of a process that only the anchor names, neither pid nor host are known."""
    backup = shutil.copytree(journal.path, tmp_path / "backup")
    ((name, content),) = synced(journal, MemoryRemote()).items()
    (tmp_path / name).write_bytes(content)
    check = ["check", "--anchor", str(tmp_path / name), "-j", str(backup)]
    text = " ".join(CliRunner().invoke(main, check).output.split())
    assert ", a process that is not in this journal)" in text
    assert "None" not in text


def test_an_audit_says_what_does_not_add_up(journal):
    """Where a row was removed, all that is left is delivered: its last line says what is wrong."""
    synced(journal, MemoryRemote())
    path = changed(journal, "DELETE FROM entry WHERE seq = 5")
    done = CliRunner().invoke(main, ["audit", str(path)])
    text = " ".join(done.output.split())
    assert "all 12 entries that are here are delivered, but the journal does not add up: " in text
    assert "not all delivered" not in text


@pytest.mark.parametrize("how", ["another journal", "altered", "no anchor"])
def test_a_file_that_is_no_anchor_of_the_journal_is_told_as_such(journal, tmp_path, how):
    """The journal's data is not under suspicion: the advice is about the file. It is no proof, so
    the check fails. Another anchor that fits is told beside it.
    """
    documents = synced(journal, MemoryRemote())
    ((name, content),) = documents.items()
    good, bad = tmp_path / "good.json", tmp_path / name
    good.write_bytes(content)
    others = {
        "another journal": content.replace(journal.journal_id.encode(), b"0" * 32),
        "altered": content.replace(b'"number": 1', b'"number": 2').replace(
            b'"number":1', b'"number":2'
        ),
        "no anchor": b"{}",
    }
    assert others[how] != content
    if how == "another journal":
        bad = tmp_path / "other.json"
    bad.write_bytes(others[how])
    options = ["--anchor", str(good), "--anchor", str(bad), "-j", str(journal.path)]
    done = CliRunner().invoke(main, ["check", *options])
    assert done.exit_code == 8
    assert "nothing was compared with this file" in done.output
    assert "name an anchor of this journal" in done.output
    assert "missing from the end" not in done.output
    # The name before it is cut where the test's folder has a long path, and the line may break.
    assert " ".join(done.output.split()).count(" fits: ") == 1
