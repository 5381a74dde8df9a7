"""The audit's questions: entries by page and filter, one entry in full, a key's history, the
timeline.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import queries, view, vocabulary, writer_records
from journaltrack.journal.filter import Choice
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.entries import each_entry, entries_of, unsettled
from journaltrack.reports.entry import entry
from journaltrack.reports.history import history, position, timeline

SECOND_NS = 10**9
START_NS = 2_000_000_000 * SECOND_NS


class Scripted(MemoryRemote):
    """Fails as a script says: errors, or None for what goes well."""

    def __init__(self):
        super().__init__()
        self.script = []

    def put_metrics(self, component, points):
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        return super().put_metrics(component, points)


class Site:
    """A journal on a clock of its own, which goes on a second with every look."""

    def __init__(self, folder):
        self.now_ns = START_NS
        self.folder = folder
        self.remote = Scripted()
        self.journal = Journal.open(folder, clock_ns=self.clock)

    def clock(self):
        self.now_ns += SECOND_NS
        return self.now_ns

    def log(self, component, *drafts):
        self.journal.append(self.journal.component(component), list(drafts))

    def metrics(self, component, count, name="loss"):
        for number in range(count):
            self.log(component, vocabulary.metric(name, float(number), number, self.now_ns))

    def replay(self, *script, **options):
        self.remote.script = list(script)
        Reconciler(
            self.journal,
            self.remote,
            options=Options(concurrency=1, **options),
            clock_ns=self.clock,
            attempts=lambda: 3,
        ).run()

    def under_lease(self, work):
        held = leases.acquire(self.journal.database)
        try:
            return work(held)
        finally:
            held.release()

    def release(self, *outcomes):
        return self.under_lease(
            lambda held: Settlement(self.journal.database, held, self.clock).release(outcomes)
        )


@pytest.fixture
def site(tmp_path):
    """Two components with a create each."""
    made = Site(tmp_path / "journal")
    for name in ("a", "b"):
        made.log(name, vocabulary.create(owner=f"owner of {name}"))
    yield made
    made.journal.close()


def failure(kind=ErrorKind.TRANSIENT, code="Throttled", request_id="r-failed", **options):
    return RemoteError("not now", kind=kind, code=code, request_id=request_id, **options)


def call(*arguments):
    """Run the audit in this process: exit code and output."""
    done = CliRunner().invoke(main, ["audit", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.stdout


def test_filters_choose_by_component_kind_name_state_and_time(site):
    """Each filter leaves out exactly what it says, alone and together with others."""
    site.metrics("a", 5)
    site.log("a", vocabulary.parameter("lr", 1.0), vocabulary.metric("loss", float("nan"), None, 1))
    middle_ns = site.now_ns
    site.metrics("b", 5, name="train:loss")
    everything = list(each_entry(site.folder))
    assert len(everything) == 14
    for options, wanted in (
        ({"name": "l*"}, lambda e: (e.name or "").startswith("l")),
        ({"name": "[!l]*"}, lambda e: bool(e.name) and e.name[0] != "l"),
        ({"kind": "metric", "component": "B"}, lambda e: e.kind == "metric" and e.component == "b"),
        ({"since_ns": middle_ns}, lambda e: e.recorded_at_ns >= middle_ns),
        ({"until_ns": middle_ns}, lambda e: e.recorded_at_ns < middle_ns),
        ({"state": "quarantined"}, lambda e: e.state == "quarantined"),
        (
            {"state": "pending", "name": "train:*", "since_ns": middle_ns},
            lambda e: e.name == "train:loss",
        ),
        ({"state": "in flight"}, lambda _: False),
    ):
        assert list(each_entry(site.folder, **options)) == [e for e in everything if wanted(e)], (
            options
        )


def test_pages_neither_lose_nor_repeat_while_others_append(site):
    """Page after page, with appends in between: every entry once, in order, and all that was
    there at the start.
    """
    site.metrics("a", 40)
    before = [found.seq for found in each_entry(site.folder, kind="metric")]
    seen, after = [], 0
    while page := entries_of(site.journal, kind="metric", after_seq=after, limit=7):
        seen += [found.seq for found in page]
        after = seen[-1]
        if len(seen) < 60:
            site.metrics("b", 3)
            site.log("b", vocabulary.parameter("x", 1.0))
    assert seen == sorted(set(seen))
    assert seen[: len(before)] == before
    assert seen == [found.seq for found in each_entry(site.folder, kind="metric")]
    assert [
        found.seq for found in each_entry(site.folder, kind="metric", after_seq=seen[9], limit=5)
    ] == seen[10:15]


def test_an_entry_has_all_its_attempts(site):
    """Failed, in doubt, read back and released, refused, released, delivered: every receipt in
    order, with times and request ids.
    """
    site.metrics("a", 1)
    site.replay(failure())
    site.replay(failure(code="ReadTimeout", request_id="r-lost", maybe_applied=True))
    site.replay(visible_after_s=0.0)  # reads back that it is not there, and sends it again
    (found,) = each_entry(site.folder, kind="metric")
    told = entry(site.folder, found.seq)
    said = [(r.action, r.outcome, r.request_id, r.attempts) for r in told.receipts]
    assert said[:2] == [("metrics", "failed", "r-failed", 3), ("metrics", "in doubt", "r-lost", 3)]
    assert [outcome for action, outcome, *_ in said if action == "readback"] == ["released"]
    assert said[-1][:2] == ("metrics", "delivered")
    assert said[-1][2].startswith("memory-")
    assert told.receipts[-1].id == told.entry.receipt_id
    assert all(r.started_at_ns <= r.finished_at_ns for r in told.receipts)
    assert told.writer.host == found.host
    assert told.writer_seq == 3
    assert told.earlier is told.later is None
    site.metrics("a", 1)
    site.replay(failure(ErrorKind.PERMANENT, "ValidationException", "r-bad"))
    site.release("quarantined")
    site.replay()
    told = entry(site.folder, site.journal.last_seq())
    assert [(r.action, r.outcome) for r in told.receipts] == [
        ("metrics", "refused"),
        ("release", "released"),
        ("metrics", "delivered"),
    ]


def test_an_entry_names_what_superseded_it_and_what_settled_it(site, tmp_path):
    """Of an overridden parameter the later entry, of a second upload of the same content the
    first one's receipt; neighbours of its key.
    """
    (tmp_path / "file").write_bytes(b"content")
    blob = Spool(site.folder / "spool").add(tmp_path / "file")
    upload = vocabulary.upload("f", BlobRef(blob.sha256, None, None), blob.size_bytes, None, "file")
    site.log("a", vocabulary.parameter("lr", 1.0), vocabulary.parameter("lr", 2.0), upload)
    site.replay()
    site.log("a", upload)
    site.replay()
    first, second, sent, again = (entry(site.folder, seq) for seq in (3, 4, 5, 6))
    assert (first.superseded_by, second.superseded_by) == (4, None)
    assert (first.earlier, first.later, second.earlier) == (None, 4, 3)
    assert again.receipts == ()
    assert again.entry.superseded
    assert again.settled_by == sent.receipts[-1]
    assert entry(site.folder, 7) is None
    assert entry(site.folder, 2**70) is None


def test_a_request_that_ended_in_an_unknown_way_counts_as_sent_once(site):
    """How often a remote sent what broke it is not known: the receipt says once, and that the
    points are in doubt.
    """
    site.metrics("a", 1)
    site.replay(ZeroDivisionError("a bug"))
    (found,) = each_entry(site.folder, kind="metric")
    (receipt,) = entry(site.folder, found.seq).receipts
    assert (receipt.action, receipt.outcome, receipt.attempts) == ("metrics", "in doubt", 1)


def test_a_writer_is_told_with_what_its_row_has(site):
    """Commit, uncommitted changes and packages; None where they are not known, and for nonsense."""
    with closing(sqlite3.connect(site.folder / "journal.db")) as connection, connection:
        connection.execute("DROP TRIGGER writer_no_update")
    for dirty, packages, told in (
        (None, None, (None, None)),
        (1, '{"numpy": "2.0", "torch": 3}', (True, {"numpy": "2.0"})),
        (0, "[" * 5_000, (False, None)),
        (7, "[1]", (None, None)),
    ):
        with closing(sqlite3.connect(site.folder / "journal.db")) as connection, connection:
            context = json.dumps({"folder": "/work", "installed": {"torch": "2"}})
            connection.execute(
                "UPDATE writer SET git_dirty = ?, packages = ?, context = ?",
                (dirty, packages, context),
            )
        writer = writer_records.writer(site.journal.database, 1)
        assert (writer.git_dirty, writer.packages) == told
        assert writer.context == {"folder": "/work", "installed": {"torch": "2"}}
        assert writer_records.writers(site.journal.database) == {
            1: replace(writer, context={"folder": "/work"})
        }
    deep = json.dumps({"folder": "/work", "job": {"RANK": [[["x"]]]}, "x": "[" * 9})
    deep = deep.replace('"[[[[[[[[["', f"{'[' * 900}{']' * 900}").replace("/work", "/w\\ud800")
    strange = '{"cpu": {"count": 1' + "0" * 400 + ', "usable": NaN, "limit": Infinity, "a": 2}}'
    for text, told in (
        (deep, {"folder": "/w\ud800", "job": {"RANK": []}, "x": [[]]}),
        (strange, {"cpu": {"a": 2}}),
    ):
        with closing(sqlite3.connect(site.folder / "journal.db")) as connection, connection:
            connection.execute("UPDATE writer SET context = ?", (text,))
        found = writer_records.writer(site.journal.database, 1)
        assert found.context == told
        assert json.dumps(view.to_json(found), allow_nan=False)
    for nonsense in ("[", "7", "[" * 5_000, b"\x00", 1.5, None):
        with closing(sqlite3.connect(site.folder / "journal.db")) as connection, connection:
            connection.execute("UPDATE writer SET context = ?", (nonsense,))
        assert writer_records.writer(site.journal.database, 1).context is None
        assert writer_records.writers(site.journal.database)[1].context is None


def test_history_tells_each_value_and_what_it_changed(site):
    """Every value in order with the one before, by component and kind; a value logged again is
    no change; the status has a history too.
    """
    site.log("a", vocabulary.parameter("lr", 1.0), vocabulary.status(primary="InProgress"))
    site.log("b", vocabulary.parameter("lr", 9.0))
    site.log("a", vocabulary.parameter("lr", 1.0))
    middle_ns = site.now_ns
    site.log(
        "a",
        vocabulary.parameter("lr", "1.0"),
        vocabulary.status(primary="Completed", message="well"),
        vocabulary.parameter("lrx", 3.0),
    )
    site.log("a", vocabulary.artifact("input", "lr", "s3://b/x", None))
    site.metrics("a", 3, name="lr")
    revisions = list(history(site.folder, "lr"))
    assert [
        (r.entry.component, r.entry.kind, r.value, r.earlier, r.changed) for r in revisions
    ] == [
        ("a", "parameter", 1.0, None, True),
        ("a", "parameter", 1.0, 1.0, False),
        ("a", "parameter", "1.0", 1.0, True),
        ("a", "input", "s3://b/x", None, True),
        ("b", "parameter", 9.0, None, True),
    ]
    assert [r.earlier_seq for r in revisions] == [None, 3, 6, None, None]
    assert [r.value["primary"] for r in history(site.folder, "status")] == [
        "InProgress",
        "Completed",
    ]
    assert [r.value for r in history(site.folder, "lr", kind="input")] == ["s3://b/x"]
    assert [r.entry.component for r in history(site.folder, "lr", component="B*")] == ["b"]
    (last,) = history(site.folder, "lr", kind="parameter", component="a", since_ns=middle_ns + 1)
    assert (last.value, last.earlier) == ("1.0", 1.0)
    assert list(history(site.folder, "nothing")) == []


def test_the_timeline_of_a_name_is_what_happened_to_it(site):
    """Recorded, sent, refused, released, sent again, delivered, in this order, and nothing of
    other entries.
    """
    site.metrics("a", 1, name="other")
    site.log("a", vocabulary.metric("loss", 1.0, 1, 1))
    site.replay(
        failure(ErrorKind.PERMANENT, "ValidationException"),
        None,
        failure(ErrorKind.PERMANENT, "ValidationException"),
    )
    site.release("quarantined")
    site.replay()
    told = [event.event for event in timeline(site.folder, Choice(name="loss"))]
    assert told == [
        "started",
        "recorded",
        "sent",
        "answered",
        "sent",
        "answered",
        "released",
        "sent",
        "answered",
        "delivered",
    ]
    events = list(timeline(site.folder))
    assert [event.at_ns for event in events] == sorted(event.at_ns for event in events)
    bounds = Choice(since_ns=events[3].at_ns, until_ns=events[-1].at_ns)
    assert list(timeline(site.folder, bounds)) == [
        e for e in events if bounds.since_ns <= e.at_ns < bounds.until_ns
    ]
    assert {event.component for event in timeline(site.folder, Choice(component="b"))} == {
        None,
        "b",
    }


@pytest.mark.parametrize(
    "choice",
    [Choice(), Choice(name="l*"), Choice(component="a"), Choice(state="delivered", kind="metric")],
)
def test_pages_of_the_timeline_make_the_whole(site, choice, monkeypatch):
    """Whatever is chosen, few or many entries, pages that follow each other are the whole
    timeline.
    """
    site.metrics("a", 23)
    site.metrics("b", 5)
    site.replay()
    whole = list(timeline(site.folder, choice))
    monkeypatch.setattr("journaltrack.reports.history._FIRST_PAGE", 3)
    monkeypatch.setattr("journaltrack.reports.history._FEW", 4)  # so that it is many
    pages, after = [], {}
    while page := list(timeline(site.folder, choice, limit=7, **after)):
        pages += page
        after = {"after": position(str(page[-1].position))}
    assert pages == whole


def test_entries_says_where_the_next_page_begins(site):
    """With --limit the last line names --after; following it lists everything once; the exit
    code is that of the whole.
    """
    site.metrics("a", 9)
    assert unsettled(site.folder) == (True, False)
    code, printed = call("entries", site.folder, "--limit", "4")
    assert code == 3
    assert printed.splitlines()[-1] == "more follow: repeat the command with --after 4"
    seqs, after = [], "0"
    for _ in itertools.repeat(None, 4):
        lines = [
            json.loads(line)
            for line in call("entries", site.folder, "--json", "--limit", "4", "--after", after)[
                1
            ].splitlines()
        ]
        seqs += [line["seq"] for line in lines if "seq" in line]
        if "next_after" not in lines[-1]:
            break
        after = str(lines[-1]["next_after"])
    assert seqs == list(range(1, 12))
    site.replay()
    assert call("entries", site.folder, "--limit", "1")[0] == 0
    site.log("a", vocabulary.metric("loss", float("nan"), None, 1))
    assert call("entries", site.folder, "--state", "pending") == (4, "no such entries\n")
    assert call("entries", site.folder, "--component", "b")[0] == 0
    code, printed = call("timeline", site.folder, "--limit", "2", "--json")
    place = json.loads(printed.splitlines()[-1])["next_after"]
    assert (
        json.loads(
            call("timeline", site.folder, "--limit", "1", "--after", place, "--json")[
                1
            ].splitlines()[0]
        )["event"]
        == "recorded"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--state", "pending"],
        ["entries", "--entry", "3"],
        ["entry", "3", "--limit", "3"],
        ["entry", "3", "--component", "a"],
        ["history", "lr", "--kind", "metric"],
        ["entries", "--after", "1.2.3"],
        ["entries", "--state", "pending", "--state", "quarantined"],
        ["timeline", "--state", "pending", "--state", "quarantined"],
        ["timeline", "--after", "3"],
        ["timeline", "--after", "1.9.3"],
        ["timeline", "--verify"],
        ["entry", "99"],
    ],
)
def test_questions_that_make_no_sense_are_refused(site, arguments):
    """One question at a time, with filters that belong to it: anything else is wrong usage, not
    an answer to another question.
    """
    assert call(*arguments, site.folder)[0] == 2


@pytest.mark.parametrize("chosen", [queries.PROBLEM, queries.IN_DOUBT, queries.QUARANTINED])
def test_problems_are_read_by_their_index(site, chosen):
    """To read what is in doubt or quarantined costs nothing for what was delivered."""
    with closing(sqlite3.connect(site.folder / "journal.db")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT d.seq FROM delivery d WHERE {chosen}")
        assert [step for *_, step in plan if "delivery_problem" not in step] == []
