"""Receipts as a file: what comes back is what was attested, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.errors import EvidenceError, InvalidInputError, JournalTooNewError, LeaseHeldError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import attestation_next, attestation_start
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Delivery, Intent, Outcome, Settlement
from journaltrack.replay.evidence.statements import REPAIR, Settled
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from journaltrack.util import process
from tests.copies import change, content, points, read, record, sound, states, sync


@pytest.fixture
def copies(tmp_path):
    """A journal, and a copy of it that was synced elsewhere."""
    record(
        tmp_path / "origin",
        *points(*range(1, 25)),
        vocabulary.parameter("x", 1.0),
        vocabulary.metric("m", float("nan"), None, 1),
    )
    shutil.copytree(tmp_path / "origin", tmp_path / "copy")
    remote = MemoryRemote()
    assert sync(tmp_path / "copy", remote).pending == 0
    return tmp_path / "origin", tmp_path / "copy", remote


@pytest.fixture
def receipts(copies, tmp_path):
    """The copy's receipts, as a file."""
    export_receipts(copies[1], to=tmp_path / "receipts.jsonl")
    return tmp_path / "receipts.jsonl"


def everything(folder):
    """All that a journal holds of entries and what became of them."""
    return [
        read(folder, f"SELECT * FROM {name}")
        for name in ("entry", "receipt", "delivery", "attestation", "component", "field", "mark")
    ]


def rewritten(lines, alter, *, rechained):
    """The file with its attestations' bodies altered; digests and the last line are computed
    anew if ``rechained``.
    """
    made, chain = [], None
    for line in lines[:-1]:
        members = json.loads(line)
        if "process" in members:
            chain = attestation_start(bytes.fromhex(members["digest"]))
        if "body" in members:
            body = json.loads(members["body"])
            alter(body)
            members["body"] = json.dumps(body, separators=(",", ":"))
            if rechained:
                chain = attestation_next(chain, members["body"])
                members["digest"] = chain.hex()
        made.append(json.dumps(members, separators=(",", ":")).encode() + b"\n")
    digest = hashlib.sha256(b"".join(made)).hexdigest()
    return b"".join(made) + json.dumps({"lines": len(made), "sha256": digest}).encode() + b"\n"


def test_the_origin_knows_then_what_arrived(copies, receipts):
    """What the copy delivered is delivered in the origin, the audit has its requests, and a sync
    makes none.
    """
    origin, copy, remote = copies
    done = import_receipts(receipts, origin)
    assert done.settled == {"delivered": 26}
    assert (done.pending, done.new) == (0, done.attestations)
    assert content(origin) == content(copy)
    requests = [
        {
            (r.action, r.outcome, r.receipts, r.attempts)
            for r in audit(folder).components[0].receipts
        }
        for folder in (origin, copy)
    ]
    assert requests[0] == requests[1]
    assert audit(origin).inconsistencies == ()
    sound(origin)
    assert sync(origin, remote).requests == 0


def test_a_second_import_changes_nothing(copies, receipts):
    """It finds nothing new."""
    import_receipts(receipts, copies[0])
    before = everything(copies[0])
    done = import_receipts(receipts, copies[0])
    assert (done.new, done.settled, done.kept) == (0, {}, 0)
    assert everything(copies[0]) == before


def test_a_dry_run_says_the_same_and_changes_nothing(copies, receipts):
    """Its numbers are those of the import after it."""
    before = everything(copies[0])
    said = import_receipts(receipts, copies[0], dry_run=True)
    assert everything(copies[0]) == before
    done = import_receipts(receipts, copies[0])
    assert (said.new, said.settled, said.pending) == (done.new, done.settled, done.pending)


def test_both_machines_may_have_delivered(copies, receipts):
    """When both copies delivered the same entries, both keep both machines' requests, and agree."""
    origin, copy, remote = copies
    sync(origin, remote, even_if_behind=True)
    import_receipts(receipts, origin)
    export_receipts(origin, to=receipts, force=True)
    import_receipts(receipts, copy)
    assert content(origin) == content(copy)
    for folder in (origin, copy):
        sound(folder)
        requests = {(r.action, r.outcome): r.receipts for r in audit(folder).components[0].receipts}
        assert requests["metrics", "delivered"] == 6
    assert read(origin, "SELECT seq, outcome, settled_at_ns FROM delivery") == read(
        copy, "SELECT seq, outcome, settled_at_ns FROM delivery"
    )


def test_the_audit_shows_both_machines(copies, tmp_path, monkeypatch):
    """Who synced the copies is in the audit of each, by host."""
    origin, copy, remote = copies
    monkeypatch.setattr(process, "host", lambda: "elsewhere")
    sync(origin, remote, even_if_behind=True)
    for source, target in ((origin, copy), (copy, origin)):
        export_receipts(source, to=tmp_path / "r", force=True)
        import_receipts(tmp_path / "r", target)
    for folder in (origin, copy):
        found = {r.host: r.processes for r in audit(folder).reconcilers}
        assert len(found) == 2
        assert found["elsewhere"] == 1
        ran = CliRunner().invoke(main, ["audit", str(folder)])
        assert "synced on" in ran.output
        assert ran.output.count("elsewhere") == 1


def test_a_file_that_was_cut_is_refused_at_every_place(copies, receipts):
    """Whatever lines or bytes are missing at the end, nothing is taken over."""
    whole = receipts.read_bytes()
    lines = whole.splitlines(keepends=True)
    before = everything(copies[0])
    for count in range(len(lines)):
        for rest in (b"", lines[count][: len(lines[count]) // 2], lines[count][:-1]):
            receipts.write_bytes(b"".join(lines[:count]) + rest)
            with pytest.raises((EvidenceError, InvalidInputError)):
                import_receipts(receipts, copies[0])
    for count in range(len(lines)):
        receipts.write_bytes(b"".join(lines[:count] + lines[count + 1 :]))
        with pytest.raises((EvidenceError, InvalidInputError)):
            import_receipts(receipts, copies[0])
    receipts.write_bytes(whole + lines[-2])
    with pytest.raises(EvidenceError):
        import_receipts(receipts, copies[0])
    assert everything(copies[0]) == before


def forgeries(body):
    """Each member, changed."""
    for name, value in body.items():
        if isinstance(value, int):
            yield name, value + 1
        elif isinstance(value, str):
            yield name, value + "x"
        elif isinstance(value, dict):
            yield name, {next(iter(value), "u"): "1-2"}
        elif isinstance(value, list):
            yield name, [["quarantined", "because", None]]
    yield "settled", [["delivered", None, None]]
    yield "arn", "arn:evil"


def test_a_forged_receipt_is_refused(copies, receipts):
    """Each member of each receipt, changed: without its digest at once; with all digests anew as
    soon as the true one is known.
    """
    lines = receipts.read_bytes().splitlines(keepends=True)
    bodies = [json.loads(json.loads(line)["body"]) for line in lines if b'"body"' in line]
    before = everything(copies[0])
    knows = copies[1]
    known = everything(knows)
    for body in bodies:
        for name, value in forgeries(body):
            if body.get(name) == value:
                continue

            def alter(other, body=body, name=name, value=value):
                if other == body:
                    other[name] = value

            receipts.write_bytes(rewritten(lines, alter, rechained=False))
            with pytest.raises(EvidenceError, match=r"attest|digest"):
                import_receipts(receipts, copies[0])
            receipts.write_bytes(rewritten(lines, alter, rechained=True))
            with pytest.raises(EvidenceError, match=r"forged|can't be read"):
                import_receipts(receipts, knows)
    assert everything(copies[0]) == before
    assert everything(knows) == known


def test_a_process_that_is_described_otherwise_is_refused(copies, receipts):
    """A changed host is found by the digest of the description."""
    text = receipts.read_text()
    receipts.write_text(text.replace('"pid":', '"pid":1', 1))
    with pytest.raises(EvidenceError, match="described itself"):
        import_receipts(receipts, copies[0])


def test_a_receipt_of_another_component_is_refused(copies, receipts):
    """What says of an entry that it is of a component that it is not of is forged, however well
    it is chained.
    """
    record(copies[0], *points(1), component="b")
    lines = receipts.read_bytes().splitlines(keepends=True)

    def alter(body):
        body["component"] = "b"

    receipts.write_bytes(rewritten(lines, alter, rechained=True))
    before = everything(copies[0])
    with pytest.raises(EvidenceError, match="not of the component"):
        import_receipts(receipts, copies[0])
    assert everything(copies[0]) == before


@pytest.mark.parametrize(
    "member",
    [
        {"finished_at_ns": "now"},
        {"finished_at_ns": 2**70},
        {"generation": 2**62},
        {"generation": True},
        {"entries": {"u": "1-99999999999999999999999"}},
        {"entries": {"u": "9-1"}},
        {"entries": {"u" * 500: "1"}},
        {"entries": ["1"]},
        {"settled": [["gone", None, None]]},
        {"settled": [["delivered", 5, None]]},
        {"settled": {"delivered": 1}},
        {"error_text": "\ud800"},
        {"component": 5},
        {"object": {"sha256": "../../etc/passwd", "bucket": "", "prefix": "", "uri": "s3://b"}},
        {"action": "x" * 2_000_000},
    ],
)
def test_hostile_members_are_refused(copies, receipts, member):
    """Types, sizes and names that no journaltrack writes change nothing, in well-made chains
    too.
    """
    lines = receipts.read_bytes().splitlines(keepends=True)
    before = everything(copies[0])
    receipts.write_bytes(rewritten(lines, lambda body: body.update(member), rechained=True))
    with pytest.raises(EvidenceError, match="can't be read"):
        import_receipts(receipts, copies[0])
    assert everything(copies[0]) == before


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"{}\n",
        b'{"format": "journaltrack receipts"}\n',
        b"null\n",
    ],
)
def test_what_is_no_file_of_receipts_is_refused(copies, tmp_path, text):
    """Whatever else a file holds is refused with a message."""
    (tmp_path / "f").write_bytes(text)
    with pytest.raises((InvalidInputError, EvidenceError, JournalTooNewError)):
        import_receipts(tmp_path / "f", copies[0])


def test_deep_bodies_are_refused(copies, receipts):
    """A body that is nested too deep is none."""
    lines = receipts.read_bytes().splitlines(keepends=True)
    members = [json.loads(line) for line in lines]
    chain = None
    for each in members:
        if "process" in each:
            chain = attestation_start(bytes.fromhex(each["digest"]))
        if "body" in each:
            each["body"] = '{"a":' * 50_000 + "1" + "}" * 50_000
            chain = attestation_next(chain, each["body"])
            each["digest"] = chain.hex()
    made = b"".join(json.dumps(each).encode() + b"\n" for each in members[:-1])
    last = {"lines": len(members) - 1, "sha256": hashlib.sha256(made).hexdigest()}
    receipts.write_bytes(made + json.dumps(last).encode() + b"\n")
    with pytest.raises(EvidenceError, match="can't be read"):
        import_receipts(receipts, copies[0])


def test_a_newer_file_is_refused_with_the_version_needed(copies, receipts):
    """The header says which."""
    receipts.write_text(
        receipts.read_text()
        .replace('"version":1', '"version":2')
        .replace('"required_version":"', '"required_version":"9.', 1)
    )
    with pytest.raises(JournalTooNewError, match=r"9\."):
        import_receipts(receipts, copies[0])


def test_receipts_of_another_journal_are_refused(receipts, tmp_path):
    """They are about no entry of this one."""
    record(tmp_path / "other", *points(1))
    with pytest.raises(InvalidInputError, match="about no entry"):
        import_receipts(receipts, tmp_path / "other")


def test_a_journal_that_is_being_reconciled_takes_no_receipts(copies, receipts):
    """Who holds the lease is named."""
    journal = Journal.open(copies[0])
    lease = leases.acquire(journal.database)
    try:
        with pytest.raises(LeaseHeldError):
            import_receipts(receipts, copies[0])
    finally:
        lease.release()
        journal.close()


def test_an_export_changes_nothing_and_replaces_no_file(copies, receipts):
    """A file that is there is left as it is, unless it is to be replaced."""
    before, text = everything(copies[1]), receipts.read_bytes()
    with pytest.raises(InvalidInputError, match="exists"):
        export_receipts(copies[1], to=receipts)
    assert receipts.read_bytes() == text
    export_receipts(copies[1], to=receipts, force=True)
    assert everything(copies[1]) == before


def put_in_doubt(folder, seqs, finish):
    """A pass that sent metrics; with ``finish`` its outcome is recorded, else it was killed and
    the next one finds out.
    """
    journal = Journal.open(folder)
    lease = leases.acquire(journal.database)
    records = Settlement(journal.database, lease)
    (receipt,) = records.begin([Intent("metrics", 1, seqs)])
    if finish:
        records.finish(
            [
                Outcome(
                    receipt,
                    1,
                    "in doubt",
                    deliveries=[Delivery(seq, "in doubt", "no answer") for seq in seqs],
                )
            ]
        )
    else:
        records.recover()
    lease.release()
    journal.close()


def release(folder, outcome):
    """A person wants it sent again."""
    journal = Journal.open(folder)
    lease = leases.acquire(journal.database)
    Settlement(journal.database, lease).release([outcome])
    lease.release()
    journal.close()


@pytest.mark.parametrize("finish", [True, False])
def test_a_release_that_did_not_know_leaves_it_in_doubt(tmp_path, finish):
    """Two machines lost the answer to the same points, one of them released its own: they stay
    in doubt where that was not known.
    """
    record(tmp_path / "origin", *points(1, 2, 3))
    shutil.copytree(tmp_path / "origin", tmp_path / "copy")
    put_in_doubt(tmp_path / "origin", [2, 3], finish)
    put_in_doubt(tmp_path / "copy", [2, 3, 4], finish)
    release(tmp_path / "copy", "in doubt")
    export_receipts(tmp_path / "copy", to=tmp_path / "r")
    done = import_receipts(tmp_path / "r", tmp_path / "origin")
    assert done.kept == 2
    assert states(tmp_path / "origin") == {"in doubt": 2, "pending": 2}
    sound(tmp_path / "origin")
    export_receipts(tmp_path / "origin", to=tmp_path / "r2")
    import_receipts(tmp_path / "r2", tmp_path / "copy")
    assert content(tmp_path / "copy") == content(tmp_path / "origin")
    sound(tmp_path / "copy")
    release(tmp_path / "copy", "in doubt")
    export_receipts(tmp_path / "copy", to=tmp_path / "r", force=True)
    assert import_receipts(tmp_path / "r", tmp_path / "origin").kept == 0
    assert states(tmp_path / "origin") == {"pending": 4}
    sound(tmp_path / "origin")


def test_what_a_repair_settled_in_one_copy_is_sound_in_another(tmp_path):
    """A repair says of earlier requests what became of entries: its own receipt settles nothing,
    wherever it is taken over.
    """
    record(tmp_path / "origin", *points(1, 2, 3))
    shutil.copytree(tmp_path / "origin", tmp_path / "copy")
    journal = Journal.open(tmp_path / "copy", create=False)
    held = leases.acquire(journal.database)
    attestor = Attestor(journal.database, held)
    with attestor.transaction() as connection:
        attestor.decide(
            connection,
            REPAIR,
            "repaired",
            None,
            (),
            [Settled("in doubt", "its page was lost", [(2, 3)])],
        )
    held.release()
    journal.close()
    export_receipts(tmp_path / "copy", to=tmp_path / "receipts.jsonl")
    import_receipts(tmp_path / "receipts.jsonl", tmp_path / "origin")
    for folder in (tmp_path / "copy", tmp_path / "origin"):
        assert states(folder) == {"pending": 2, "in doubt": 2}
        sound(folder)


def test_receipts_of_a_merge_go_back_to_each_node(tmp_path):
    """Receipts about entries that a node does not have are kept, and count as soon as the
    entries come.
    """
    remote = MemoryRemote()
    record(tmp_path / "one", *points(1, 2), component="shared")
    record(tmp_path / "two", *points(3, 4), component="shared")
    record(tmp_path / "two", *points(5), component="of-two")
    merge([tmp_path / "one", tmp_path / "two"], into=tmp_path / "all")
    assert sync(tmp_path / "all", remote).pending == 0
    export_receipts(tmp_path / "all", to=tmp_path / "r")
    done = import_receipts(tmp_path / "r", tmp_path / "one")
    assert done.pending == 0
    assert done.elsewhere > 0
    sound(tmp_path / "one")
    assert sync(tmp_path / "one", remote).requests == 0
    merge([tmp_path / "two"], into=tmp_path / "one")
    assert content(tmp_path / "one") == content(tmp_path / "all")
    assert states(tmp_path / "one") == {"delivered": 8}
    sound(tmp_path / "one")
    assert audit(tmp_path / "one").inconsistencies == ()
    assert len(remote.components["shared"].points) == 4


def test_receipts_of_a_copy_that_went_on_and_was_pruned_cut_nothing_off(tmp_path):
    """What another copy removed on the record is missing behind the last entry here, and is not
    called removed from the end of its chain.
    """
    journal = Journal.open(tmp_path / "copy")
    component = journal.component("a")
    journal.append(component, [vocabulary.create(owner="owner of a", resume=True), *points(1, 2)])
    journal.flush()
    shutil.copytree(tmp_path / "copy", tmp_path / "origin")
    journal.append(component, points(*range(3, 20)))
    journal.close()
    sync(tmp_path / "copy", MemoryRemote())
    assert prune(tmp_path / "copy", ask=None, delivered_before_ns=2**62, compact=False).entries > 10
    sound(tmp_path / "copy")
    export_receipts(tmp_path / "copy", to=tmp_path / "receipts")
    import_receipts(tmp_path / "receipts", tmp_path / "origin")
    sound(tmp_path / "origin")
    assert states(tmp_path / "origin") == {"delivered": 3}


def test_a_fork_of_receipts_is_refused(copies, receipts):
    """A process that attests different things in two copies is told of, and nothing is taken
    over.
    """
    import_receipts(receipts, copies[0])
    others = 'substr(body, 1, 17) <> \'{"action":"taken"\''
    body = read(copies[0], f"SELECT body FROM attestation WHERE {others} ORDER BY id DESC LIMIT 1")[
        0
    ][0]
    changed = json.dumps({**json.loads(body), "attempts": 7}, separators=(",", ":"))
    previous = read(
        copies[0],
        f"SELECT digest FROM attestation WHERE {others} ORDER BY id DESC LIMIT 1 OFFSET 1",
    )[0][0]
    change(
        copies[0],
        "UPDATE attestation SET body = ?, digest = ? WHERE body = ?",
        changed,
        attestation_next(previous, changed),
        body,
    )
    before = everything(copies[0])
    with pytest.raises(EvidenceError, match="says something else"):
        import_receipts(receipts, copies[0])
    assert everything(copies[0]) == before
