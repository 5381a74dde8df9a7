"""Pending entries as planning takes them: the quick way says what the slow one does, whatever is
in the journal.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from journaltrack.journal import queries, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.connection import Database
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.plan import pending as reading
from journaltrack.replay.plan import planner as planning
from journaltrack.replay.plan.actions import PutMetrics, Settle, Update
from journaltrack.replay.plan.pending import read_states
from journaltrack.replay.reconciler import Options, Reconciler
from tests.faults.hostile import by_hand
from tests.patience import scaled

NAMES = st.sampled_from(["loss", "acc", "l\x00ss", "ü" * 128, "x" * 255])
METRICS = st.builds(
    vocabulary.metric,
    NAMES,
    st.floats() | st.integers(-(2**70), 2**70),
    st.none() | st.integers(0, 2**31 - 1),
    st.integers(0, 2**62),
)
DRAFTS = st.one_of(
    METRICS,
    METRICS,
    st.builds(
        vocabulary.parameter,
        st.sampled_from("abc"),
        st.floats(allow_nan=False) | st.text("xy\n", max_size=3),
    ),
    st.just(vocabulary.create(owner="me")),
    st.builds(vocabulary.status, primary=st.sampled_from(["InProgress", "Completed"])),
    st.just(vocabulary.Draft("component", "create@9", payload="{}")),
    st.just(vocabulary.Draft("metric", "metric@9", "loss", 1.0, 1, 1)),
    st.just(vocabulary.Draft("component", "metric", "loss", 1.0, 1, 1)),
    st.just(vocabulary.Draft("metric", "parameter", "a", 1.0)),
    st.just(vocabulary.Draft("metric", "metric", "loss", 2.0, None, None)),
    st.just(vocabulary.Draft("metric", "metric", "no\nname", 2.0, None, 5)),
)
COLUMNS = (
    "writer_id",
    "writer_seq",
    "component_id",
    "stream",
    "kind",
    "name",
    "value",
    "step",
    "timestamp_ns",
    "payload",
    "recorded_at_ns",
    "digest",
)
ODD = [
    None,
    0,
    -1,
    1.5,
    7,
    2**31,
    2**62,
    1e300,
    math.inf,
    -math.inf,
    "",
    "text",
    "7",
    "x" * 300,
    "é" * 256,
    b"",
    b"blob",
    b"7",
]
WRONG = st.sampled_from(ODD)
POINTS = [(vocabulary.metric("loss", 1.0, step, 5), 0, False) for step in range(3)]


def of_entries(journal, options):
    """The plan as it is when every entry is read whole."""
    entries = [
        entry for entry in journal.entries(pending=True, limit=10**6) if options.wants(entry)
    ]
    states = read_states(journal.database, {entry.component_id for entry in entries})
    return planning.plan(entries, states)


def of_chunks(journal, options):
    """The plan as a pass makes it, and the chunks."""
    chunks = list(reading.pending_chunks(journal, options.wanted))
    actions = []
    for chunk in chunks:
        states = read_states(journal.database, chunk.component_ids)
        actions += planning.plan(chunk.entries, states, chunk.points)
    return actions, chunks


def meaning(actions):
    """By entry: what is sent of it, to which component, or why not. How requests are cut is left
    out.
    """
    found = {}
    for action in actions:
        for seq in action.seqs:
            assert seq not in found, "an entry in two actions"
            found[seq] = (action.component_id, action.action)
        if isinstance(action, PutMetrics):
            found.update(
                {
                    seq: (action.component_id, action.component, repr(p))
                    for seq, p in zip(action.seqs, action.points, strict=True)
                }
            )
        if isinstance(action, Settle):
            found.update(
                dict.fromkeys(action.seqs, (action.component_id, action.outcome, action.reason))
            )
        if isinstance(action, Update):
            found.update(
                {
                    change.seq: (action.component_id, change.map, change.key, repr(change.value))
                    for change in action.changes
                }
            )
    return found


@contextlib.contextmanager
def recorded(folder, drafts):
    """A journal of two writers and three components, the drafts dealt out to them."""
    first, second = Journal.open(folder), Journal.open(folder)
    ids = [first.component(name) for name in ("a", "b", "c")]
    for number, (draft, which, other) in enumerate(drafts):
        (second if other else first).append(ids[which], [draft])
        assert first.last_seq() == number + 1
    second.close()
    try:
        yield first
    finally:
        first.close()


@pytest.mark.slow
@settings(max_examples=scaled(30))
@given(
    drafts=st.lists(st.tuples(DRAFTS, st.integers(0, 2), st.booleans()), min_size=1, max_size=40),
    settled=st.sets(st.integers(1, 40), max_size=10),
    damage=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(COLUMNS), WRONG), max_size=6),
    metrics_max=st.sampled_from([1, 3, 7, 20_000]),
    others_max=st.sampled_from([1, 2, 60_000]),
    options=st.sampled_from([Options(), Options(component="[ab]"), Options(since_ns=2**61)]),
)
@example(POINTS, set(), [(2, "component_id", -math.inf)], 20_000, 60_000, Options())
@example(POINTS, set(), [(2, "component_id", math.inf)], 20_000, 60_000, Options())
@example(
    [(vocabulary.metric("loss", math.nan, 1, 5), 0, False), *POINTS],
    {2},
    [(3, "value", -math.inf)],
    3,
    1,
    Options(),
)
@example(
    POINTS,
    set(),
    [(1, "step", -math.inf), (2, "writer_id", -math.inf), (3, "timestamp_ns", math.nan)],
    1,
    2,
    Options(),
)
def test_columns_are_planned_as_entries_are(
    drafts, settled, damage, metrics_max, others_max, options
):
    """Whatever was recorded, settled, left out or forged: each entry is planned as when it is
    read whole, once; and in its chunk.
    """
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK_METRICS", metrics_max)
        patch.setattr(reading, "CHUNK_OTHERS_MAX", others_max)
        folder = Path(place) / "journal"
        with recorded(folder, drafts) as journal:
            held = leases.acquire(journal.database)
            pending = {entry.seq for entry in journal.entries(pending=True)}
            Settlement(journal.database, held).settle(
                [Settle(1, tuple(sorted(settled & pending)), "superseded", "for the test")]
            )
            held.release()
        shutil.copytree(folder, folder.with_name("forged"))
        with by_hand(folder.with_name("forged")) as connection:
            for seq, column, value in damage:
                connection.execute(f"UPDATE entry SET {column} = ? WHERE seq = ?", (value, seq))
        journal = Journal.open(folder.with_name("forged"))
        try:
            actions, chunks = of_chunks(journal, options)
            expected = meaning(of_entries(journal, options))
            found = meaning(actions)
            assert found.keys() == expected.keys()
            # else a later chunk does not know of the values that an earlier one overrode
            if len(chunks) == 1:
                assert found == expected
            else:
                assert {seq: told for seq, told in found.items() if len(told) == 3} == {
                    seq: told for seq, told in expected.items() if len(told) == 3
                }
            upto = 0
            for chunk in chunks:
                seqs = [entry.seq for entry in chunk.entries]
                assert seqs == sorted(seqs)
                for seq in (*seqs, *(seq for each in chunk.points for seq in each.seqs)):
                    assert upto < seq <= chunk.upto_seq
                assert sum(len(each.seqs) for each in chunk.points) <= metrics_max
                assert len(seqs) <= others_max
                upto = chunk.upto_seq
            rows = journal.database.read("SELECT seq, writer_id, writer_seq FROM entry")
            places = {seq: (writer, place) for seq, writer, place in rows}
            for action in actions:
                if isinstance(action, PutMetrics):
                    told = [
                        (writer, place)
                        for writer, first, last in action.runs
                        for place in range(first, last + 1)
                    ]
                    assert told == [places[seq] for seq in action.seqs]
        finally:
            journal.close()


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A journal of 5 metrics and a parameter, of which the third metric is to be damaged."""
    folder = tmp_path_factory.mktemp("beside") / "journal"
    drafts = [vocabulary.create(owner="me"), vocabulary.parameter("rate", 1.0)]
    drafts += [vocabulary.metric("loss", 10.0 + step, step, step + 1) for step in range(5)]
    with recorded(folder, [(draft, 0, False) for draft in drafts]):
        pass
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_one_odd_cell_keeps_nothing_else_from_being_delivered(beside, tmp_path, column):
    """Whatever one cell of a metric is replaced by, infinity and bytes among it: a pass holds its
    writer's entries back, and delivers all others when it is told to send what is not proved.
    """
    for number, value in enumerate([*ODD, math.nan]):
        folder = tmp_path / str(number)
        shutil.copytree(beside, folder)
        with by_hand(folder) as connection:
            before = connection.execute("SELECT * FROM entry WHERE seq = 5").fetchone()
            connection.execute(f"UPDATE entry SET {column} = ? WHERE seq = 5", (value,))
            is_same = connection.execute("SELECT * FROM entry WHERE seq = 5").fetchone() == before
        remote = MemoryRemote()
        with contextlib.closing(Journal.open(folder)) as journal:
            report = Reconciler(journal, remote, options=Options()).run()
            assert report.halted is None, (column, value)
            assert (report.altered is None) == is_same, (column, value)
            assert set(remote.components) == ({"a"} if is_same else set()), (column, value)
            report = Reconciler(journal, remote, options=Options(unproved=True)).run()
        assert report.halted is None, (column, value)
        sent = {point.value for point in remote.components["a"].points}
        assert sent >= {10.0, 11.0, 13.0, 14.0}, (column, value, sent)
        assert remote.components["a"].parameters == {"rate": 1.0}, (column, value)


def test_a_backlog_of_other_runs_is_not_read_for_one(tmp_path, monkeypatch):
    """What is pending of one component is read at once, however much of others comes before;
    none of it leaves SQLite.
    """
    monkeypatch.setattr(reading, "CHUNK_METRICS", 10)
    monkeypatch.setattr(reading, "CHUNK_OTHERS_MAX", 10)
    drafts = [(vocabulary.metric("loss", 1.0, n, 5), 1, False) for n in range(100)]
    drafts += [(vocabulary.parameter(f"p{n}", 1.0), 1, False) for n in range(100)]
    drafts += [(vocabulary.metric("loss", 1.0, n, 5), 0, False) for n in range(3)] + [
        (vocabulary.parameter("x", 1.0), 0, True)
    ]
    with recorded(tmp_path / "journal", drafts) as journal:
        statements = []
        journal.database.connection.set_trace_callback(statements.append)
        (chunk,) = reading.pending_chunks(journal, Options(component="a").wanted)
        journal.database.connection.set_trace_callback(None)
    assert [list(each.seqs) for each in chunk.points] == [[201, 202, 203]]
    assert [entry.seq for entry in chunk.entries] == [204]
    assert sum("FROM entry" in each for each in statements) <= 5


def test_a_backlog_of_a_held_run_is_not_read_on_once_it_is_held(tmp_path, monkeypatch):
    """A pass over all runs reads of one that can't be delivered what it needs to find that out;
    the others' entries go out.
    """
    monkeypatch.setattr(reading, "CHUNK_METRICS", 10)
    drafts = [(vocabulary.load(), 1, False), (vocabulary.create(owner="me"), 0, False)]
    drafts += [(vocabulary.metric("loss", 1.0, n, 5), 1, False) for n in range(100)]
    drafts += [(vocabulary.metric("loss", 2.0, n, 5), 0, False) for n in range(3)]
    remote = MemoryRemote()
    with recorded(tmp_path / "journal", drafts) as journal:
        statements = []
        journal.database.connection.set_trace_callback(statements.append)
        report = Reconciler(journal, remote).run()
        journal.database.connection.set_trace_callback(None)
    assert ([*report.held], report.delivered, report.pending) == (["b"], 4, 101)
    assert [point.value for point in remote.components["a"].points] == [2.0] * 3
    assert sum("e.component_id, e.name, e.value" in each for each in statements) == 2


def test_plain_metrics_are_not_read_as_entries(tmp_path):
    """What trackers record is read the quick way: all of it, but for what has no exact number or
    no usual time.
    """
    drafts = [
        (vocabulary.metric("loss", value, step, 5), 0, False)
        for step, value in enumerate([1.0, -0.0, 1e-320])
    ]
    with recorded(tmp_path / "journal", drafts) as journal:
        (chunk,) = reading.pending_chunks(journal, Options().wanted)
    assert chunk.entries == []
    assert [(each.component, list(each.seqs)) for each in chunk.points] == [("a", [1, 2, 3])]


def test_metrics_with_large_payloads_are_read_a_page_at_a_time(tmp_path, monkeypatch):
    """A crafted journal may give each point a payload of any size: no chunk holds more than a
    page of them, and all are delivered.
    """
    monkeypatch.setattr(reading, "PAGE_BYTES_MAX", 5_000)
    read_page = Database.read_page
    monkeypatch.setattr(Database, "read_page", lambda *args: read_page(*args, bytes_max=5_000))
    payload = vocabulary.encode({"exact": "1" * 2_000})
    drafts = [vocabulary.create(owner="me")]
    drafts += [vocabulary.Draft("metric", "metric", "loss", 1.0, n, 5, payload) for n in range(20)]
    remote = MemoryRemote()
    with recorded(tmp_path / "journal", [(draft, 0, False) for draft in drafts]) as journal:
        chunks = [*reading.pending_chunks(journal, Options().wanted)]
        report = Reconciler(journal, remote).run()
    assert max(len(chunk.seqs) for chunk in chunks) <= 4
    assert (report.delivered, len(remote.components["a"].points)) == (21, 20)


def test_what_is_appended_meanwhile_is_in_a_later_chunk(tmp_path):
    """Reading goes on until there is nothing more; what comes between two chunks is in neither
    of them twice.
    """
    with recorded(
        tmp_path / "journal", [(vocabulary.metric("loss", 1, n, 5), 0, False) for n in range(3)]
    ) as journal:
        chunks = reading.pending_chunks(journal, Options().wanted)
        first = next(chunks)
        journal.append(1, [vocabulary.parameter("a", 1.0)])
        journal.append_metric(1, "loss", 1.0, 4, 5)
        second = next(chunks)
        assert next(chunks, None) is None
    assert (first.upto_seq, second.upto_seq) == (3, 5)
    assert [entry.seq for entry in second.entries] == [4]
    assert [list(each.seqs) for each in second.points] == [[5]]


@pytest.mark.parametrize(
    "sql",
    [
        reading._SELECT_PLAIN + reading._FIRST_ONES,
        reading._SELECT_OTHERS,
        f"SELECT e.seq {queries.PENDING}",
    ],
)
def test_pending_entries_are_found_by_their_number_and_looked_up_by_it(tmp_path, sql):
    """SQLite walks the entries above a number, and looks for the settlement of each by its own:
    no list of all settlements is made.
    """
    with recorded(
        tmp_path / "journal", [(vocabulary.metric("loss", 1, 1, 5), 0, False)]
    ) as journal:
        parameters = (0, 10, 10, "[]")[: 4 if "?4" in sql else 3 if "?3" in sql else 0]
        steps = [row[3] for row in journal.database.read(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    assert any(step.startswith("SEARCH e USING INTEGER PRIMARY KEY (rowid>?") for step in steps), (
        steps
    )
    assert "USING ROWID SEARCH ON TABLE delivery FOR IN-OPERATOR" in steps, steps
    assert not [
        step
        for step in steps
        if step.startswith("SCAN") and "json_each" not in step and step != "SCAN mark"
    ], steps
