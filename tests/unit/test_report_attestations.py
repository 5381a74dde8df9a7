"""What attestations amount to: the last claim about each place holds, and what was removed on
the record may be gone.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import warnings
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack import Tracker
from journaltrack.errors import JournalCorruptError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import statements
from journaltrack.replay.evidence.attestations import Attestor, Statement
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.proof.attested import Evidence
from journaltrack.reports.report import audit
from journaltrack.transfer.apply_source import Coverage
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from tests import independent_verifier
from tests.copies import verify_chains

PUTS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 12), st.sampled_from([None, 1, 2, 3])), max_size=25
)


@given(PUTS)
def test_the_last_claim_about_a_place_holds(puts):
    """Against a dictionary of places: whatever intervals are put over each other, in whatever
    order.
    """
    coverage, places = Coverage(), {}
    for first, length, number in puts:
        coverage.put(first, first + length, number)
        for place in range(first, first + length + 1):
            places.pop(place, None)
            if number is not None:
                places[place] = number
    found = {
        place: held for first, last, held in coverage.of(1, 50) for place in range(first, last + 1)
    }
    assert found == places
    for first, length, _ in puts:
        cut = {
            place: held
            for a, b, held in coverage.of(first, first + length)
            for place in range(a, b + 1)
        }
        assert cut == {
            place: number for place, number in places.items() if first <= place <= first + length
        }


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"finished_at_ns": "1", "outcome": "x", "entries": {}},
        {"finished_at_ns": 1, "outcome": "x", "entries": []},
        {
            "finished_at_ns": 1,
            "outcome": "x",
            "entries": {"u": "nonsense"},
            "settled": [["delivered", None, None]],
        },
        {"finished_at_ns": 1, "outcome": "x", "entries": {}, "settled": [["delivered"]]},
        {"finished_at_ns": 1, "outcome": "x", "entries": {}, "settled": 7},
        {"finished_at_ns": 1, "outcome": "x", "entries": {}, "component": "a", "object": []},
        {
            "finished_at_ns": 1,
            "outcome": "x",
            "entries": {},
            "component": "a",
            "object": {"sha256": []},
        },
        {"finished_at_ns": 1, "outcome": "x", "entries": {}, "removed": [["u", 1]]},
        {"finished_at_ns": 1, "outcome": "x", "entries": {}, "removed": [["u", 1, 2, "zz"]]},
    ],
)
def test_a_body_that_nobody_wrote_is_refused(members):
    """Members of other types and shapes, from a crafted journal: no exception, no claim."""
    with pytest.raises((ValueError, TypeError)):
        Evidence().take(json.dumps({"action": "x", "generation": 1, "started_at_ns": 1} | members))


def test_what_was_removed_on_the_record_may_be_gone(tmp_path):
    """Delivered points in the middle are removed with an attestation that names them: all is
    well; one more is a gap.
    """
    with closing(Journal.open(tmp_path / "j")) as journal:
        component = journal.component("a")
        journal.append(component, [vocabulary.create(owner="me")])
        for step in range(8):
            journal.append_metric(component, "loss", 1.0, step, 1)
        Reconciler(journal, MemoryRemote(), options=Options(anchor="off")).run()
        uuid = journal.database.read("SELECT uuid FROM writer WHERE id = 1")[0][0]
        digest = journal.database.read("SELECT digest FROM entry WHERE seq = 6")[0][0].hex()
        held = leases.acquire(journal.database)
        attestor = Attestor(journal.database, held)
        with attestor.transaction() as connection:
            removed = {"removed": [[uuid, 4, 6, digest]]}
            attestor.attest(
                connection,
                [Statement("prune", "pruned", None, (), 1, held.generation, more=removed)],
            )
        held.release()
    remove(tmp_path / "j", "seq BETWEEN 4 AND 6")
    assert verify_chains(tmp_path / "j") == independent_verifier.verify(tmp_path / "j") == []
    shutil.copytree(tmp_path / "j", tmp_path / "more")
    remove(tmp_path / "more", "seq = 8")
    assert {problem.kind for problem in verify_chains(tmp_path / "more")} == {"gap"}
    assert independent_verifier.verify(tmp_path / "more")


@pytest.mark.slow
def test_a_journal_that_names_its_entries_without_end_is_refused_soon(tmp_path):
    """A few megabytes of attestations that each release all entries cost no hours: the proof and
    the audit say what they are.
    """
    with closing(Journal.open(tmp_path / "j")) as journal:
        component = journal.component("a")
        journal.append(component, [vocabulary.create(owner="me")])
        journal.append(
            component, [vocabulary.metric("loss", 1.0, step, 1) for step in range(2_000)]
        )
        Reconciler(journal, MemoryRemote(), options=Options(anchor="off")).run()
        held = leases.acquire(journal.database)
        attestor = Attestor(journal.database, held)
        everything = Statement(
            "retry", statements.RELEASED, None, ((1, 2_001),), 1, held.generation
        )
        with attestor.transaction() as connection:
            attestor.attest(connection, [everything] * 90)
        assert verify_chains(tmp_path / "j") == []
        with attestor.transaction() as connection:
            attestor.attest(connection, [everything] * 600)
        held.release()
    with pytest.raises(JournalCorruptError, match="more than 100 times"):
        verify_chains(tmp_path / "j")


def remove(folder, which):
    """Without a trace."""
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as connection:
        ((trigger,),) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'entry_no_delete'"
        ).fetchall()
        connection.executescript(
            f"DROP TRIGGER entry_no_delete; DELETE FROM entry WHERE {which}; DELETE "
            f"FROM delivery WHERE {which}"
        )
        connection.execute(trigger)


def test_refusals_at_the_call_follow_from_the_entries(tmp_path):
    """One output too many and the upload that belongs to it, NaN: all is proved; another reason is
    not. Parameters are not refused.
    """
    (tmp_path / "file").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Tracker.create(
            trial_component_name="run", journal=tmp_path / "j", sync="off"
        ) as tracker:
            tracker.log_parameters({f"p{n}": n for n in range(303)})
            tracker.log_parameter("p301", 7)
            for n in range(61):
                tracker.log_output(f"o{n}", "s3://b/k")
            tracker.log_artifact(str(tmp_path / "file"), name="one-more")
            tracker.log_metric("loss", float("nan"))
    assert verify_chains(tmp_path / "j") == independent_verifier.verify(tmp_path / "j") == []
    with closing(sqlite3.connect(tmp_path / "j" / "journal.db")) as connection, connection:
        assert connection.execute(
            "SELECT count(*) FROM delivery WHERE outcome = 'quarantined'"
        ).fetchone() == (4,)
        connection.execute(
            "UPDATE delivery SET reason = replace(reason, '60', '59') "
            "WHERE reason LIKE '%60 output artifacts%'"
        )
    assert {problem.kind for problem in verify_chains(tmp_path / "j")} == {"delivery"}


def test_receipts_about_components_of_another_node_are_no_loss(tmp_path):
    """The receipts of a merged journal, imported where only one of its nodes is: what was
    uploaded for the other is not missing here.
    """
    for node in ("n1", "n2"):
        (tmp_path / node).write_text(node)
        with Tracker.create(
            trial_component_name=node, journal=tmp_path / f"j-{node}", sync="off"
        ) as tracker:
            tracker.log_artifact(str(tmp_path / node))
    merge([tmp_path / "j-n1", tmp_path / "j-n2"], into=tmp_path / "all")
    with closing(Journal.open(tmp_path / "all")) as journal:
        Reconciler(journal, MemoryRemote(), options=Options()).run()
    export_receipts(tmp_path / "all", to=tmp_path / "receipts")
    import_receipts(tmp_path / "receipts", tmp_path / "j-n1")
    assert audit(tmp_path / "j-n1").all_delivered
    assert verify_chains(tmp_path / "j-n1") == independent_verifier.verify(tmp_path / "j-n1") == []
