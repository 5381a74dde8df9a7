"""What a replay records: intents before outcomes, one settlement an entry, and what a killed
pass leaves.
"""

from __future__ import annotations

import random
import time

import pytest

from journaltrack.errors import JournalCorruptError, JournalNotFoundError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import PENDING, low_water_mark, pending_count
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import TRANSACTION_S, Scribe, Turns
from journaltrack.replay.evidence.outcomes import Delivery, Intent, Outcome, Settlement
from journaltrack.replay.evidence.statements import Settled, Statement
from journaltrack.replay.plan.actions import Settle
from journaltrack.replay.plan.pending import Wanted, pending_chunks, read_states
from journaltrack.util.intervals import as_intervals
from tests.builders import points

pytestmark = pytest.mark.journal({"a": points(8), "b": points(12)[8:]})


@pytest.fixture
def records(journal):
    """The records of one pass."""
    held = leases.acquire(journal.database)
    yield Settlement(journal.database, held)
    held.release()


def outcomes(journal):
    """How each settled entry ended, from the table alone."""
    return dict(journal.database.read("SELECT seq, outcome FROM delivery ORDER BY seq"))


def test_an_intent_is_there_before_its_outcome(journal, records):
    """A receipt is unfinished until its outcome is recorded, and then names what was answered."""
    (receipt,) = records.begin([Intent("metrics", 1, [1, 2, 3])])
    assert journal.database.read("SELECT entries, finished_at_ns FROM receipt") == [("1-3", None)]
    assert outcomes(journal) == {}
    records.finish(
        [
            Outcome(
                receipt,
                1,
                "delivered",
                request_id="r-1",
                deliveries=[Delivery(n, "delivered") for n in (1, 2, 3)],
            )
        ]
    )
    assert journal.database.read(
        "SELECT outcome, request_id, finished_at_ns IS NOT NULL FROM receipt"
    ) == [("delivered", "r-1", 1)]
    assert outcomes(journal) == {1: "delivered", 2: "delivered", 3: "delivered"}


def test_recovery_puts_lost_metrics_in_doubt_and_nothing_else(journal, records):
    """Of a killed pass, metrics are in doubt and what can be sent again is pending; doing it
    twice changes nothing.
    """
    records.begin(
        [Intent("metrics", 1, [1, 2, 5]), Intent("update", 1, [3]), Intent("upload", 2, [9])]
    )
    assert records.recover() == 3
    assert outcomes(journal) == {1: "in doubt", 2: "in doubt", 5: "in doubt"}
    assert [row[0] for row in journal.database.read("SELECT outcome FROM receipt ORDER BY id")] == [
        "in doubt",
        "interrupted",
        "interrupted",
    ]
    assert records.recover() == 0
    assert pending_count(journal.database) == 9


def test_no_entry_is_settled_twice(journal, records):
    """A second settlement of an entry is refused, with all that was to be recorded with it."""
    records.settle([Settle(1, (1, 2), "superseded", "by 3")])
    (receipt,) = records.begin([Intent("metrics", 1, [2, 3])])
    with pytest.raises(JournalCorruptError):
        records.finish(
            [
                Outcome(
                    receipt,
                    1,
                    "delivered",
                    deliveries=[Delivery(3, "delivered"), Delivery(2, "delivered")],
                )
            ]
        )
    assert outcomes(journal) == {1: "superseded", 2: "superseded"}
    assert journal.database.read("SELECT finished_at_ns FROM receipt") == [(None,)], (
        "nothing of the transaction stayed"
    )


def test_a_finished_receipt_never_changes(journal, records):
    """What was answered stays as it was recorded."""
    (receipt,) = records.begin([Intent("metrics", 1, [1])])
    records.finish([Outcome(receipt, 1, "delivered", deliveries=[Delivery(1, "delivered")])])
    with pytest.raises(JournalCorruptError):
        records.finish([Outcome(receipt, 1, "refused")])
    assert journal.database.read("SELECT outcome FROM receipt") == [("delivered",)]


def test_outcomes_and_the_next_intents_are_recorded_together(journal, records):
    """What became of a request and that another begins are one transaction; entries come in any
    number.
    """
    (first,) = records.begin([Intent("metrics", 1, [1, 2, 3])])
    (second,) = records.begin(
        [Intent("metrics", 1, range(4, 9))],
        [Outcome(first, 1, "delivered", request_id="r-1", delivered=(1, 2, 3))],
    )
    assert journal.database.read("SELECT id, entries, outcome FROM receipt ORDER BY id") == [
        (first, "1-3", "delivered"),
        (second, "4-8", None),
    ]
    with pytest.raises(JournalCorruptError):
        records.begin(
            [Intent("metrics", 2, [9])], [Outcome(second, 1, "delivered", delivered=(3, 4))]
        )
    assert journal.database.read("SELECT id, outcome FROM receipt ORDER BY id") == [
        (first, "delivered"),
        (second, None),
    ]
    assert outcomes(journal) == dict.fromkeys((1, 2, 3), "delivered")


def test_ten_entries_at_once_are_ten_settlements(journal, records):
    """A full request's settlements, written by one statement, are as single ones: their own
    number, once.
    """
    (receipt,) = records.begin([Intent("metrics", 1, [*range(1, 10), 12])])
    records.finish([Outcome(receipt, 1, "delivered", delivered=(*range(1, 10), 12))])
    rows = journal.database.read(
        "SELECT seq, receipt_id, outcome, reason FROM delivery ORDER BY seq"
    )
    assert rows == [(seq, receipt, "delivered", None) for seq in (*range(1, 10), 12)]
    (again,) = records.begin([Intent("metrics", 1, [1])])
    with pytest.raises(JournalCorruptError):
        records.finish([Outcome(again, 1, "delivered", delivered=(10, 11, *range(1, 9)))])
    assert len(outcomes(journal)) == 10


def test_of_a_journal_whose_place_is_gone_what_was_sent_is_recorded_and_nothing_begins(
    journal, records, tmp_path
):
    """A journal that was moved in mid-pass learns what became of its requests; no other is
    begun.
    """
    (receipt,) = records.begin([Intent("metrics", 1, [1])])
    journal.path.rename(tmp_path / "elsewhere")
    with pytest.raises(JournalNotFoundError):
        records.begin(
            [Intent("metrics", 1, [2])], [Outcome(receipt, 1, "delivered", delivered=(1,))]
        )
    assert journal.database.read("SELECT id, outcome FROM receipt") == [(receipt, "delivered")]
    assert outcomes(journal) == {1: "delivered"}
    (tmp_path / "elsewhere").rename(journal.path)


def test_receipts_have_numbers_of_their_own_even_where_there_are_none_left(journal, records):
    """A crafted journal with the highest number there is: requests are recorded under numbers
    that are free.
    """
    with journal.database.transaction() as connection:
        connection.execute(
            "INSERT INTO receipt (id, action, entries, generation, started_at_ns) "
            "VALUES (?, 'update', '', 1, 1)",
            (2**63 - 2,),
        )
    begun = records.begin(
        [Intent("metrics", 1, [1]), Intent("metrics", 1, [2]), Intent("metrics", 1, [3])]
    )
    assert len({*begun, 2**63 - 2}) == 4
    found = dict(journal.database.read("SELECT id, entries FROM receipt"))
    assert [found[receipt] for receipt in begun] == ["1", "2", "3"]


def test_a_partial_answer_leaves_the_rest_pending(journal, records):
    """Only what an outcome names is settled."""
    (receipt,) = records.begin([Intent("metrics", 1, range(1, 9))])
    records.finish(
        [
            Outcome(
                receipt,
                1,
                "partial",
                deliveries=[
                    Delivery(1, "delivered"),
                    Delivery(4, "quarantined", "VALIDATION_ERROR"),
                ],
            )
        ]
    )
    assert pending_count(journal.database) == 10
    assert [entry.seq for entry in journal.entries(pending=True)] == [
        2,
        3,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
    ]


def test_the_mark_passes_what_was_seen_and_is_listed(journal, records, monkeypatch):
    """Entries that a pass has left pending are listed, as long as there is room; each is
    pending, once, wherever the mark is.
    """
    monkeypatch.setattr("journaltrack.replay.evidence.outcomes.UNSETTLED_MAX", 3)

    def check(mark, listed, pending):
        assert journal.database.read("SELECT seq FROM mark") == [(mark,)]
        assert [seq for (seq,) in journal.database.read("SELECT seq FROM unsettled")] == listed
        assert [
            seq for (seq,) in journal.database.read(f"SELECT e.seq {PENDING} ORDER BY e.seq")
        ] == pending
        assert pending_count(journal.database) == len(pending)
        chunks = pending_chunks(journal, Wanted())
        assert (
            sorted(
                seq
                for c in chunks
                for seq in [*(e.seq for e in c.entries), *(s for p in c.points for s in p.seqs)]
            )
            == pending
        )
        assert low_water_mark(journal.database) == min(pending, default=13) - 1

    def settle(*seqs):
        records.settle([Settle(1, seqs, "quarantined", "for the test")])

    settle(1, 3, 4, 6)
    records.advance_mark(6)
    check(6, [2, 5], [2, 5, 7, 8, 9, 10, 11, 12])
    settle(7, 8)
    records.advance_mark()
    check(8, [2, 5], [2, 5, 9, 10, 11, 12])
    settle(2, 10)
    records.advance_mark(12)  # there is room for two more, and no place for the third
    check(11, [5, 9, 11], [5, 9, 11, 12])
    settle(5, 9, 11)
    records.advance_mark(12)
    check(12, [12], [12])
    settle(12)
    records.advance_mark()
    check(12, [], [])
    assert records.release(("quarantined",)) == 12
    check(0, [], [*range(1, 13)])
    settle(*range(1, 12))
    records.advance_mark(12)
    check(12, [12], [12])


def test_the_mark_never_passes_a_pending_entry(journal, records):
    """In whatever order entries are settled, everything up to the mark is settled, and the count
    is right.
    """
    for seqs in ((2, 3), (1,), (12,), (5, 6), (4,), (7, 8, 9, 10, 11)):
        records.settle([Settle(1, seqs, "superseded", "for the test")])
        records.advance_mark()
        mark = low_water_mark(journal.database)
        known = outcomes(journal)
        assert all(seq in known for seq in range(1, mark + 1))
        assert mark == 12 or mark + 1 not in known
        assert pending_count(journal.database) == 12 - len(known)
    assert low_water_mark(journal.database) == 12
    journal.append_metric(1, "loss", 1.0, 1, 1)
    records.advance_mark()
    assert pending_count(journal.database) == 1


def test_a_release_makes_entries_pending_again_even_below_the_mark(journal, records):
    """Released entries of the component that was named are pending, a receipt says so, and
    others stay as they are.
    """
    records.settle([Settle(1, tuple(range(1, 13)), "quarantined", "for the test")])
    records.advance_mark()
    assert pending_count(journal.database) == 0
    assert records.release(["quarantined"], [2]) == 4
    assert [
        entry.seq
        for entry in journal.entries(after_seq=low_water_mark(journal.database), pending=True)
    ] == [9, 10, 11, 12]
    assert journal.database.read("SELECT action, outcome, entries FROM receipt") == [
        ("release", "released", "9-12")
    ]
    assert records.release(["in doubt"]) == 0
    assert records.release(["quarantined", "in doubt"]) == 8
    assert pending_count(journal.database) == 12


def test_what_a_remote_confirmed_is_known_to_the_next_plan(journal, records):
    """A confirmed component, its fields and the places of its blobs are the state that planning
    starts from.
    """
    blob = vocabulary.BlobRef("a" * 64, None, "prefix")
    made, updated, uploaded = records.begin(
        [Intent("ensure", 1, [1]), Intent("update", 1, [2]), Intent("upload", 1, [3])]
    )
    before = read_states(journal.database, [1])[1]
    assert (before.confirmed, before.create_attempted) == (False, True)
    records.finish(
        [
            Outcome(made, 1, "delivered", confirmed_arn="arn:x"),
            Outcome(updated, 1, "delivered", fields=[("parameters", "lr", 2)]),
            Outcome(uploaded, 1, "delivered", location=(blob, "s3://b/k")),
        ]
    )
    state = read_states(journal.database, [1])[1]
    assert state.confirmed
    assert state.keys["parameters"] == {"lr"}
    assert state.locations == {blob: ("s3://b/k", uploaded)}
    assert journal.find("a").arn == "arn:x"
    (gone,) = records.begin([Intent("update", 1, [4])])
    records.finish([Outcome(gone, 1, "held", missing=True)])
    assert not read_states(journal.database, [1])[1].confirmed


def test_many_rows_keep_no_append_waiting(records):
    """A transaction that took long is followed by one of fewer rows, quick ones by one of more."""
    turns = Turns(records.attestor)
    first = turns.size
    with turns.transaction():
        until = time.monotonic() + 2 * TRANSACTION_S
        while time.monotonic() < until:
            pass
    fewer = turns.size
    assert fewer <= first / 2
    # one that the machine delays shows nothing
    for _ in range(1_000):
        with turns.transaction():
            pass
        if turns.size > fewer:
            break
    assert turns.size > fewer


@pytest.mark.parametrize("seed", range(20))
def test_a_plain_attestation_is_what_the_encoder_writes(tmp_path, seed):
    """Of entries of several writers, in any order: put together by hand from known places, or
    looked up and encoded, it is the same text.
    """
    chance = random.Random(seed)
    writers = [Journal.open(tmp_path / "journal") for _ in range(3)]
    component = writers[0].component('ru"n')
    for number in range(40):
        chance.choice(writers).append_metric(component, "loss", float(number), number, 1)
    places = writers[0].database.read("SELECT seq, writer_id, writer_seq FROM entry ORDER BY seq")
    chosen = [place for place in places if chance.random() < 0.6]
    runs: list[tuple[int, int, int]] = []
    for before, (seq, writer_id, place) in zip([(0, 0, 0), *chosen], chosen, strict=False):
        if runs and before[0] == seq - 1 and runs[-1][0] == writer_id and runs[-1][2] == place - 1:
            runs[-1] = (writer_id, runs[-1][1], place)
        else:
            runs.append((writer_id, place, place))
    intervals = as_intervals(seq for seq, _, _ in chosen)
    said = Statement(
        "metrics",
        "delivered",
        component,
        intervals,
        7,
        3,
        [Settled("delivered", None, intervals)],
        1,
        5,
        2,
        'r"é',
    )
    scribe = Scribe()
    with writers[0].database.transaction() as connection:
        by_hand = scribe._plain_body(connection, said._replace(runs=runs))
        (encoded,) = scribe._bodies(connection, [said])
    assert by_hand == encoded
    for writer in writers:
        writer.close()
