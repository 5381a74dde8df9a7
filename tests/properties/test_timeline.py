"""The timeline of a random history, against what the journal's tables hold."""

from __future__ import annotations

import itertools
import random
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.entry import NO_REQUESTS
from journaltrack.reports.history import timeline
from tests.patience import scaled

SECOND_NS = 10**9
FAULTS = (
    {"kind": ErrorKind.TRANSIENT, "code": "Throttled"},
    {"kind": ErrorKind.TRANSIENT, "code": "ReadTimeout", "maybe_applied": True},
    {"kind": ErrorKind.PERMANENT, "code": "ValidationException"},
    {"kind": ErrorKind.HOLD, "code": "Conflict"},
    {"kind": ErrorKind.HALT, "code": "ExpiredToken"},
)


class Unreliable(MemoryRemote):
    """Fails now and then in every way that there is."""

    def __init__(self, chance):
        super().__init__()
        self.chance = chance

    def _stumble(self):
        if self.chance.random() < 0.3:
            raise RemoteError("no", request_id="r-x", **self.chance.choice(FAULTS))

    def create(self, spec):
        self._stumble()
        return super().create(spec)

    def upload(self, blob):
        raise RemoteError("no such blob", kind=ErrorKind.PERMANENT, code="BlobMissing")

    def update(self, component, fields):
        self._stumble()
        return super().update(component, fields)

    def put_metrics(self, component, points):
        self._stumble()
        return super().put_metrics(component, points)


class History:
    """A journal to which things happen."""

    def __init__(self, folder, chance):
        self.chance = chance
        self.numbers = itertools.count(1)
        self.now_ns = 2_000_000_000 * SECOND_NS
        self.folder = folder
        self.remote = Unreliable(chance)
        self.journal = Journal.open(folder, clock_ns=self.clock)
        for name in "ab":
            self.journal.append(
                self.journal.component(name), [vocabulary.create(owner=f"owner of {name}")]
            )

    def clock(self):
        self.now_ns += SECOND_NS
        return self.now_ns

    def log(self):
        drafts = [
            vocabulary.metric("m", float(next(self.numbers)), None, 1)
            for _ in range(self.chance.randrange(15))
        ]
        drafts += (
            [vocabulary.metric("m", float("nan"), None, 1)] if self.chance.random() < 0.4 else []
        )
        drafts += [vocabulary.parameter(self.chance.choice("xy"), float(next(self.numbers)))]
        if self.chance.random() < 0.3:
            blob = BlobRef(f"{next(self.numbers):064x}", None, None)
            drafts += [
                vocabulary.upload("f", blob, 1, None, "f"),
                vocabulary.artifact("output", "f", blob, None),
            ]
        self.journal.append(self.journal.component(self.chance.choice("ab")), drafts)

    def replay(self):
        options = Options(concurrency=1, visible_after_s=self.chance.choice([0.0, 1e9]))
        # progress is told while it goes on
        Reconciler(self.journal, self.remote, options=options, clock_ns=self.clock).run()

    def under_lease(self, work):
        held = leases.acquire(self.journal.database)
        try:
            work(held)
        finally:
            held.release()

    def release(self):
        what = self.chance.choice([["quarantined"], ["in doubt"], ["quarantined", "in doubt"]])
        self.under_lease(
            lambda held: Settlement(self.journal.database, held, self.clock).release(what)
        )

    def decide(self):
        outcome = self.chance.choice(["delivered", "quarantined"])
        self.under_lease(
            lambda held: in_doubt.decide(
                Attestor(self.journal.database, held, self.clock), outcome, "I say so", None
            )
        )

    def killed(self):
        """A pass that ends between intent and answer."""
        pending = [
            entry.seq for entry in self.journal.entries(pending=True) if entry.kind == "metric"
        ][:10]
        if pending:
            intent = Intent("metrics", 1, pending)
            self.under_lease(
                lambda held: Settlement(self.journal.database, held, self.clock).begin([intent])
            )


def happen(folder, seed):
    """A random history."""
    history = History(folder, random.Random(seed))
    for _ in range(40):
        step = history.chance.choice(
            [
                history.log,
                history.log,
                history.replay,
                history.replay,
                history.release,
                history.decide,
                history.killed,
            ]
        )
        step()
    history.journal.close()
    return history


@settings(max_examples=scaled(6))
@given(st.integers(0, 2**32))
def test_the_timeline_has_every_event_once_and_in_order(seed):
    """Of a random history: every writer, entry, settlement, request and answer is in the
    timeline once, in order of time.
    """
    with tempfile.TemporaryDirectory() as folder:
        history = happen(Path(folder, "journal"), seed)
        events = list(timeline(history.folder))
        assert [event.position for event in events] == sorted({event.position for event in events})
        with closing(sqlite3.connect(history.folder / "journal.db")) as connection:
            count = lambda sql: connection.execute(f"SELECT count(*) FROM {sql}").fetchone()[0]  # noqa: E731
            decided = f"action IN ({', '.join(map(repr, sorted(NO_REQUESTS)))})"
            kinds = Counter("entry" if event.entry else event.event for event in events)
            assert kinds["started"] == count("writer")
            assert kinds["entry"] == count("entry") + count("delivery")
            assert kinds["sent"] == count(f"receipt WHERE NOT {decided}")
            assert kinds["answered"] == count(
                f"receipt WHERE finished_at_ns IS NOT NULL AND NOT {decided}"
            )
            assert kinds["released"] == count("receipt WHERE action = 'release'")
            assert kinds["decided"] == count("receipt WHERE action = 'settle'")
