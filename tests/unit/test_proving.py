"""What was altered in a journal is not carried out: not sent, not settled, not anchored; what
others recorded is.
"""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from journaltrack.errors import ErrorKind, JournalAlteredError, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease
from journaltrack.replay.evidence import anchors, in_doubt
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.retention.prune import prune
from tests.copies import change

FORGED = {
    "value": 666.0,
    "name": "forged",
    "step": 66,
    "recorded_at_ns": 1,
    "writer_seq": 40,
    "component_id": 2,
    "digest": b"\x01" * 32,
}


def record(folder, *, steps=10):
    """Two processes, each with a component of its own, log by turns; entries 1 to 4 make and
    parametrize the components.
    """
    with closing(Journal.open(folder)) as first, closing(Journal.open(folder)) as second:
        for name, journal in (("a", first), ("b", second)):
            component = journal.component(name)
            journal.append(
                component,
                [vocabulary.create(owner=name, resume=True), vocabulary.parameter("rate", 1.0)],
            )
        for step in range(steps):
            for name, journal in (("a", first), ("b", second)):
                journal.append_metric(
                    journal.component(name), "loss", float(step), step, 1_000 + step
                )
    return folder


def passed(folder, remote, **options):
    """What a pass reports."""
    with closing(Journal.open(folder, create=False)) as journal:
        return Reconciler(journal, remote, options=Options(**options)).run()


def values(remote, component):
    """Of the points that the remote holds."""
    return (
        [point.value for point in remote.components[component].points]
        if component in remote.components
        else None
    )


def forge(folder, seq, column, value):
    """Change an entry, and its digest so that it fits its content: its own link holds then."""
    change(folder, f"UPDATE entry SET {column} = ? WHERE seq = ?", value, seq)
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        (entry,) = journal.entries(after_seq=seq - 1, limit=1)
        (before,) = journal.database.read(
            "SELECT digest FROM entry WHERE writer_id = ? AND writer_seq = ?",
            (entry.writer_id, entry.writer_seq - 1),
        )
    draft = vocabulary.Draft(
        entry.stream,
        entry.kind,
        entry.name,
        entry.value,
        entry.step,
        entry.timestamp_ns,
        entry.payload,
    )
    (digest,) = vocabulary.chain_next_entries(
        before[0], entry.writer_seq, entry.component, [draft], entry.recorded_at_ns
    )
    change(folder, "UPDATE entry SET digest = ? WHERE seq = ?", digest, seq)


@pytest.mark.parametrize("column", FORGED)
def test_an_altered_entry_holds_back_its_writer_and_nobody_else(tmp_path, column):
    """Whatever column of a pending entry is changed: nothing of its writer is sent, all of the
    other's is, and the pass says so.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    change(folder, f"UPDATE entry SET {column} = ? WHERE seq = 9", FORGED[column])
    report = passed(folder, remote)
    assert values(remote, "a") is None
    assert values(remote, "b") == [float(step) for step in range(10)]
    assert isinstance(report.altered, JournalAlteredError)
    assert report.problem is report.altered
    assert report.pending == 12
    assert json.loads(json.dumps(report.to_json()))["altered"]["message"] == report.altered.message


def test_an_entry_whose_digest_was_made_to_fit_breaks_the_next_link(tmp_path):
    """Who alters an entry and its digest breaks the link after it: neither that nor anything
    else of the writer is sent.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    forge(folder, 9, "value", 666.0)
    report = passed(folder, remote)
    assert values(remote, "a") is None
    assert len(values(remote, "b")) == 10
    assert "entry 11" in report.altered.message


def test_a_removed_entry_holds_back_its_writer(tmp_path):
    """An entry that is gone from the middle, and on no record, leaves nothing of its writer to
    be sent.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    change(folder, "DELETE FROM entry WHERE seq = 9")
    report = passed(folder, remote)
    assert values(remote, "a") is None
    assert len(values(remote, "b")) == 10
    assert "1 of its writer" in report.altered.message or "expected" in report.altered.message


def test_what_came_before_is_looked_at_with_what_is_sent(tmp_path):
    """The digest of an entry that was delivered is changed: what its writer records next does
    not follow from it, and is not sent.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    with closing(Journal.open(folder)) as first, closing(Journal.open(folder)) as second:
        for journal, name in ((first, "a"), (second, "b")):
            journal.append_metric(journal.component(name), "more", 1.0, 1, 1)
        last = first.last_seq() - 1
        assert passed(folder, remote).altered is None
        change(folder, "UPDATE entry SET digest = ? WHERE seq = ?", b"\x02" * 32, last)
        for journal, name in ((first, "a"), (second, "b")):
            journal.append_metric(journal.component(name), "more", 2.0, 2, 2)
    report = passed(folder, remote)
    assert [point.value for point in remote.components["a"].points if point.name == "more"] == [1.0]
    assert [point.value for point in remote.components["b"].points if point.name == "more"] == [
        1.0,
        2.0,
    ]
    assert report.altered is not None


def test_a_writer_that_is_not_as_it_described_itself_is_held_back(tmp_path):
    """Who recorded entries can't be told any more: they are not sent in that name."""
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    change(folder, "UPDATE writer SET host = 'elsewhere' WHERE id = 1")
    assert passed(folder, remote).altered is not None
    assert values(remote, "a") is None
    assert len(values(remote, "b")) == 10


def test_a_renamed_component_gets_nothing(tmp_path):
    """The name of a component is in the digests of its entries: none is sent to another one."""
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    change(folder, "UPDATE component SET name = 'production' WHERE name = 'a'")
    assert passed(folder, remote).altered is not None
    assert set(remote.components) == {"b"}


def test_removal_on_the_record_breaks_no_chain(tmp_path):
    """What `prune` removed before an entry that is pending leaves its link provable; a removal
    that is on a forged record does not.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    # its last entry stays pending, what is before it goes
    with closing(Journal.open(folder, create=False)) as journal:
        component = journal.component("a")
        for step in range(50):
            journal.append_metric(component, "more", float(step), step, 1)
        assert Reconciler(journal, remote).run().pending == 0
        journal.append(component, [vocabulary.Draft("component", "note@2", payload="{}")])
        journal.append_metric(component, "more", 50.0, 50, 1)
        assert Reconciler(journal, remote).run().altered is None
        ((pruned_to,),) = journal.database.read("SELECT max(seq) - 1 FROM entry")
        assert prune(folder, ask=None, delivered_before_ns=2**62).entries > 40
        assert not journal.database.read(
            "SELECT 1 FROM entry WHERE seq BETWEEN ? AND ?", (pruned_to - 40, pruned_to - 2)
        )
    report = passed(folder, remote)
    assert report.altered is None
    change(
        folder,
        'UPDATE attestation SET body = replace(body, \'"action":"prune"\', \'"action":"prune" \')',
    )
    assert passed(folder, remote).altered is not None


def test_unproved_sends_what_is_held_back(tmp_path):
    """A person may have it sent as it is, as of a journal that was restored from damaged pages;
    it is not anchored for that.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    change(folder, "UPDATE entry SET value = 666.0 WHERE seq = 9")
    assert passed(folder, remote).altered is not None
    report = passed(folder, remote, unproved=True, anchor="s3")
    assert report.altered is None
    assert report.pending == 0
    assert 666.0 in values(remote, "a")
    assert [len(document.entries) for document in anchored(remote)] == [1]


def anchored(remote):
    """The anchors that the remote holds."""
    return [
        anchors.decode(content)
        for uri, content in sorted(remote.stored.items())
        if "journaltrack-anchors" in uri
    ]


def test_an_anchor_leaves_out_what_does_not_hold(tmp_path):
    """What was altered after its delivery, before it was ever anchored, is vouched for by no
    anchor; the other process is anchored.
    """
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    assert passed(folder, remote, anchor="off").pending == 0
    change(folder, "UPDATE entry SET value = 666.0 WHERE seq = 9")
    report = passed(folder, remote, anchor="s3")
    (document,) = anchored(remote)
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        ((other,),) = journal.database.read("SELECT uuid FROM writer WHERE id = 2")
    assert list(document.entries) == [other]
    assert report.altered is not None


def test_an_anchor_leaves_out_altered_attestations(tmp_path):
    """An attestation that was changed is vouched for by no anchor."""
    folder, remote = record(tmp_path / "journal"), MemoryRemote()
    assert passed(folder, remote, anchor="off").pending == 0
    change(
        folder,
        "UPDATE attestation SET body = replace(body, 'delivered', 'superseded') WHERE id = 2",
    )
    report = passed(folder, remote, anchor="s3")
    (document,) = anchored(remote)
    assert report.altered is not None
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        ((forger,),) = journal.database.read(
            "SELECT w.uuid FROM attestation a JOIN writer w ON w.id = a.writer_id WHERE a.id = 2"
        )
    assert forger not in document.attestations
    assert len(document.entries) == 2


class Losing(MemoryRemote):
    """Takes points without an answer."""

    losing = True

    def put_metrics(self, component, points):
        answer = super().put_metrics(component, points)
        if self.losing:
            raise RemoteError(
                "reset", kind=ErrorKind.TRANSIENT, code="ConnectionClosedError", maybe_applied=True
            )
        return answer


def test_no_doubt_about_an_altered_entry_is_settled(tmp_path):
    """What is in doubt and was altered is neither read back nor settled by hand as delivered;
    what is not altered is.
    """
    folder, remote = record(tmp_path / "journal"), Losing()
    passed(folder, remote)
    change(folder, "UPDATE entry SET value = 2.0000001 WHERE seq = 9")
    remote.losing = False
    passed(folder, remote, visible_after_s=0.0)
    with closing(Journal.open(folder, create=False)) as journal:
        held = lease.acquire(journal.database)
        ids = [row.id for row in journal.components() if row.name == "a"]
        with pytest.raises(JournalAlteredError):
            in_doubt.decide(Attestor(journal.database, held), "delivered", "I say so", ids)
        rows = journal.database.read(
            "SELECT e.component_id, count(*) FROM delivery d JOIN entry e USING (seq) "
            "WHERE d.outcome = 'in doubt' GROUP BY 1"
        )
        assert dict(rows)[ids[0]] == 10
        others = [row.id for row in journal.components() if row.name == "b"]
        assert (
            in_doubt.decide(Attestor(journal.database, held), "delivered", "I say so", others) == 10
        )
        held.release()
