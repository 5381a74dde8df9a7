"""Read one journal, with its side cache: its runs, curves and timeline. Never writes the journal.

A journal may be replaced, pruned, damaged or gone while somebody looks at it. Then ``problem`` says
so, and what was read before stays. Must not know how runs are chosen, sorted or shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from journaltrack.errors import JournalCorruptError, JournaltrackError, NothingMatchesError
from journaltrack.journal import interruption, view, vocabulary, writer_records
from journaltrack.journal.contents import Content
from journaltrack.journal.groups import is_run
from journaltrack.journal.journal import Journal, LastStatus
from journaltrack.journal.queries import ENTRY_COLUMNS
from journaltrack.readmodel import deliveries, series
from journaltrack.readmodel.artifacts import Artifact
from journaltrack.readmodel.cache import Cache, Folded
from journaltrack.readmodel.cache_file import UNUSABLE
from journaltrack.readmodel.expression import plain
from journaltrack.readmodel.run import (
    Axis,
    Delivery,
    Event,
    Metrics,
    Points,
    Run,
    Series,
    now_ns,
)
from journaltrack.reports import component
from journaltrack.util import paths, patterns
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from journaltrack.reports.component import ComponentView

T = TypeVar("T")

_STATUS: Final = {
    "Completed": "completed",
    "Failed": "failed",
    "Stopped": "stopped",
    "Stopping": "stopping",
}
_IN_PROGRESS: Final = "InProgress"


class Source:
    """One journal, or a bundle with one.

    Args:
        path: The journal's folder, or the bundle's file.
        cache: Keep the side cache in a file.

    Attributes:
        path: As it was given, absolute.
        problem: Why the journal can't be read now; None if it can.
    """

    def __init__(self, path: Path, *, cache: bool = True) -> None:
        self.path = path
        self.problem: JournaltrackError | None = None
        self._in_memory = not cache
        self._closed = False
        self._lock = threading.RLock()
        self._extracted: tempfile.TemporaryDirectory[str] | None = None
        self._journal: Journal | None = None
        self._cache: Cache | None = None
        self._identity = self._cache_name = ""
        # The journal's files when this source was put to rest; None: it is awake.
        self._rested: tuple[Any, ...] | None = None
        self._rests = False
        self._place: tuple[int, int] | None = None
        self._seen: tuple[Any, ...] = ()
        self._revision = ""
        self._runs: dict[int, Folded] = {}
        self._summaries: dict[int, dict[str, tuple[Any, ...]]] = {}
        self._delivery_of: Callable[[Folded], Delivery] = lambda _: Delivery()
        self._copies = deliveries.Copies()
        self._states: dict[int, str] = {}
        self._start = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]

    def close(self) -> None:
        """Close the journal and the cache. Idempotent."""
        with self._lock:
            self._closed = True
            self._let_go()
            if self._cache is not None:
                self._cache.close()
                self._cache = None
            if self._extracted is not None:
                self._extracted.cleanup()
                self._extracted = None

    def rest(self) -> None:
        """Close the files until they are needed: a process may have few open, and many journals."""
        with self._lock:
            self._rests = True
            if self._journal is not None and self._seen:
                rested = self._seen[0]
                self._let_go()
                self._rested = rested
            if self._cache is not None and self._cache.file is not None:
                self._cache.close()
                self._cache = None

    def refresh(self) -> bool:
        """Read what the journal recorded since. Return whether anything changed."""
        with self._lock:
            before = (self.problem and self.problem.message, self._states)
            try:
                changed = self._refresh()
                self.problem = None
            except (JournaltrackError, OSError, sqlite3.Error) as error:
                changed = False
                self.problem = self._explained(error)
                self._let_go()
            return changed or before != (self.problem and self.problem.message, self._states)

    def _explained(self, error: Exception) -> JournaltrackError:
        if isinstance(error, JournaltrackError):
            return error
        return JournalCorruptError(
            f"the journal at {self.path} can't be read: {error}",
            hint="`journaltrack check` says what is wrong with it",
        )

    def _refresh(self) -> bool:
        # A run in progress may end without a change of the journal.
        asleep = self._rested is not None and not self._states
        folder = self._folder()
        if (
            asleep
            and self._rested == deliveries.signature(folder)
            and not self._copies.are_news(folder)
        ):
            return False
        journal = self._opened()
        seen = self._version(journal)
        if self._seen and seen[0] != self._seen[0] and seen[1] == self._seen[1]:
            # A file that was opened as unchangeable, or a private copy of an older journal.
            self._let_go()
            journal = self._opened()
            seen = self._version(journal)
        changed = seen != self._seen
        if changed and _revision(journal) != self._revision:
            # Another version upgraded it meanwhile.
            self._let_go()
            journal = self._opened()
            seen = self._version(journal)
        if changed:
            cache = self._cache_of(journal)
            with view.snapshot(journal.database):
                news = cache.follow(journal, self._identity)
                if news.is_whole:
                    self._runs, self._summaries = {}, {}
                self._runs |= {run.component_id: run for run in news.runs}
                self._summaries |= news.metrics
                self._delivery_of = deliveries.of_journal(journal)
            self._seen = seen
        changed |= self._copies.follow(journal, changed=changed)
        self._states = self._now_states(journal)
        return changed

    def _version(self, journal: Journal) -> tuple[Any, ...]:
        """Return what is another one after each change of the journal."""
        return deliveries.signature(journal.path), journal.database.read("PRAGMA data_version")[0][
            0
        ]

    def _opened(self) -> Journal:
        """Return the journal, open; another file in its place is opened instead."""
        journal = self._journal
        folder = self._folder()
        place = _place(folder / paths.DATABASE)
        if journal is not None and place == self._place:
            return journal
        self._let_go()
        self._journal = journal = Journal.open(folder, create=False, read_only=True)
        self._place, self._revision = place, _revision(journal)
        return journal

    def _folder(self) -> Path:
        if not self.path.is_file():
            return self.path
        if self._extracted is None:
            from journaltrack.transfer.bundle.unpack import open_bundle  # noqa: PLC0415

            with open_bundle(self.path) as bundle:
                self._extracted = tempfile.TemporaryDirectory(prefix="journaltrack-")
                return bundle.extract_database(Path(self._extracted.name) / "journal")
        return Path(self._extracted.name) / "journal"

    def _let_go(self) -> None:
        journal, self._journal = self._journal, None
        self._seen, self._rested = (), None
        if journal is not None:
            with contextlib.suppress(JournaltrackError, OSError, sqlite3.Error):
                journal.close()

    def _cache_of(self, journal: Journal) -> Cache:
        # A bundle's database is extracted anew each time; its bytes never change.
        place = "bundle" if self._extracted is not None else self._place
        self._identity = f"{journal.journal_id} {place}"
        self._cache_name = f"{journal.journal_id} {self.path}"
        return self._open_cache()

    def _open_cache(self) -> Cache:
        if self._cache is None:
            self._cache = Cache(self._cache_name, in_memory=self._in_memory)
        return self._cache

    def _now_states(self, journal: Journal) -> dict[int, str]:
        """Return the state of each run in progress; one on a node that mirrors and lives runs."""
        begun = {
            number: LastStatus(run.state["begun_by"][0], run.state["begun_by"][1], _IN_PROGRESS)
            for number, run in self._runs.items()
            if run.state["status"][0] == _IN_PROGRESS and run.state["begun_by"]
        }
        found: dict[int, str] = dict(interruption.states(journal, begun))
        unknown = [number for number, state in found.items() if state == "unknown"]
        if unknown:
            from journaltrack.mirror import heartbeat  # noqa: PLC0415 - few have a mirror

            living = heartbeat.living(journal.path)
            for number in unknown:
                writer = writer_records.writer(journal.database, begun[number].writer_id)
                if writer is not None and writer.uuid in living:
                    found[number] = "running"
        return found

    # -- reading -----------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return the runs as of the last ``refresh``, in the order in which they began."""
        with self._lock:
            seen_ns = now_ns()
            return [
                self._run(run, seen_ns)
                for run in self._runs.values()
                if is_run(str(run.state["name"]))
            ]

    def owns(self, key: str) -> bool:
        """Return whether a key is of a run of this journal."""
        return key.startswith(f"{self._start}.")

    def run(self, key: str) -> Run:
        """Return the run of a key.

        Raises:
            NothingMatchesError: There is none.
        """
        with self._lock:
            return self._run(self._runs[self._number(key)], now_ns())

    def _number(self, key: str) -> int:
        number = key.partition(".")[2]
        if not self.owns(key) or not number.isdecimal() or int(number) not in self._runs:
            raise NothingMatchesError(f"there is no run {key!r}", hint="list the runs again")
        return int(number)

    def _run(self, run: Folded, seen_ns: int) -> Run:
        state, number = run.state, run.component_id
        primary, message, start_ns, end_ns = state["status"]
        status = _STATUS.get(primary, "created" if primary is None else str(primary).lower())
        if primary == _IN_PROGRESS:
            status = self._states.get(number, "unknown")
        if status == "interrupted" and end_ns is None:
            end_ns = run.last_ns
        return Run(
            key=f"{self._start}.{number}",
            name=str(state["name"]),
            display_name=state["tags"].get(vocabulary.RUN_NAME) or state["display_name"],
            journal=str(self.path),
            status=status,
            started_ns=start_ns if start_ns is not None else state["first_ns"],
            ended_ns=end_ns,
            last_entry_ns=run.last_ns,
            seen_ns=seen_ns,
            parameters=state["parameters"],
            tags=state["tags"],
            note=state["note"],
            metrics=Metrics(
                self._summaries.get(number, {}), lambda name: self._points(number, name)
            ),
            delivery=self._delivery_of(run),
            destinations=self._copies.deliveries(run),
            artifacts=tuple(self._artifacts(state)),
            message=message,
            experiments=tuple((pair[0], pair[1]) for pair in state["experiments"]),
        )

    def _artifacts(self, state: dict[str, Any]) -> Iterator[Artifact]:
        spool = str(self.path / paths.SPOOL)
        for each in itertools.starmap(Content, state["artifacts"]):
            is_read = each.sha256 is None or is_digest(each.sha256)
            yield Artifact(
                each.name,
                each.direction,
                each.value,
                each.media_type,
                each.sha256 if is_read else None,
                each.size_bytes,
                each.kind,
                each.step,
                spool,
            )

    def _points(self, number: int, name: str) -> Points:
        if self._closed:
            # A list of runs outlives what it was read with.
            with contextlib.closing(Source(self.path, cache=not self._in_memory)) as again:
                again.refresh()
                return again._points(number, name)  # noqa: SLF001 - of this class
        points = Points(name, [], [], [])
        for block in self._from_cache(lambda cache: list(cache.blocks(number, name))):
            mask = block.stepless
            points.steps.extend(
                block.x if mask is None else [None if mask[i] else x for i, x in enumerate(block.x)]
            )
            points.values.extend(block.values)
            points.times_ns.extend(block.ns)
        return points

    def _from_cache(self, read: Callable[[Cache], T]) -> T:
        """Read from the cache; if it is damaged, make it again and read once more."""
        with self._lock:
            if self._closed or not self._cache_name:
                raise self.problem or JournalCorruptError(f"the journal at {self.path} is closed")
            try:
                if self._cache is None:
                    # It may have been removed meanwhile.
                    self._fill()
                cache = self._open_cache()
                try:
                    return read(cache)
                except UNUSABLE as error:
                    cache.start_again(error)
                self._fill()
                return read(self._open_cache())
            finally:
                self._doze()

    def _fill(self) -> None:
        """Read from the journal what the cache lacks.

        Raises:
            JournaltrackError: The journal can't be read.
        """
        self._seen, self._rested = (), None
        self.refresh()
        if self.problem is not None:
            raise self.problem

    @contextlib.contextmanager
    def _awake(self) -> Iterator[Journal]:
        """Give the open journal to a block."""
        with self._lock:
            try:
                yield self._opened()
            finally:
                self._doze()

    def _doze(self) -> None:
        """Rest again, if this source was at rest."""
        if self._rests:
            self.rest()

    def series(
        self,
        key: str,
        metric: str,
        columns: int | None,
        axis: Axis,
        lo: float | None,
        hi: float | None,
    ) -> Series:
        """Return a metric's curve, see ``ReadModel.series``."""
        run = self.run(key)
        if metric not in run.metrics:
            raise NothingMatchesError(
                f"the run {run.label} has no metric {metric!r}",
                hint=patterns.hint(metric, list(run.metrics)),
            )
        number = self._number(key)
        by_step = axis == "step"
        shift_ns = (run.started_ns or 0) if axis == "relative" else 0
        extents = self._from_cache(lambda cache: cache.extents(number, metric))
        ranges = [each[4:6] if by_step else each[6:8] for each in extents]

        def scaled(x: float) -> float:
            """Return a stored x as the axis shows it."""
            return x if by_step else (x - shift_ns) / 1e9

        if not extents:
            return Series(key, metric, axis, [], [], 0)
        first = scaled(min(low for low, _ in ranges))
        last = scaled(max(high for _, high in ranges))
        lo, hi = first if lo is None else lo, last if hi is None else hi
        in_order = all(each[3] for each in extents) and all(
            one[1] <= other[0] for one, other in itertools.pairwise(ranges)
        )
        if in_order:
            # The neighbours of the range, too: the curve reaches its borders.
            inside = [
                place
                for place, (low, high) in enumerate(ranges)
                if scaled(high) >= lo and scaled(low) <= hi
            ] or [sum(scaled(high) < lo for _, high in ranges)]
            chosen = range(max(inside[0] - 1, 0), min(inside[-1] + 2, len(extents)))
            numbers = [extents[place][0] for place in chosen]
        else:
            numbers = [each[0] for each in extents]
        parts: Iterator[series.Part] = (
            series.Part(
                block.x if by_step else [(each - shift_ns) / 1e9 for each in block.ns],
                block.values,
                block.not_finite,
            )
            for block in self._from_cache(lambda cache: list(cache.blocks(number, metric, numbers)))
        )
        if not in_order:
            parts = iter([series.sorted_part(parts)])
        kept = list(series.within(parts, lo, hi))
        count = sum(len(part.x) for part in kept)
        if columns is None or count <= 2 * columns or hi <= lo:
            curve = series.whole(kept)
        else:
            curve = series.thinned(kept, columns, lo, hi)
        not_finite = sum(
            part.not_finite and sum(not math.isfinite(v) for v in part.values) for part in kept
        )
        return Series(
            key, metric, axis, curve.x, curve.y, count, curve.is_exact, not_finite, first, last
        )

    def timeline(self, key: str, limit: int, after_seq: int) -> list[Event]:
        """Return what was recorded of a run besides metrics, see ``ReadModel.timeline``."""
        number = self._number(key)
        with self._awake() as journal, view.snapshot(journal.database):
            flying = view.in_flight(journal.database)
            rows = journal.database.read_page(
                f"SELECT {ENTRY_COLUMNS}, d.outcome, d.reason FROM entry e "
                "LEFT JOIN delivery d ON d.seq = e.seq WHERE e.component_id = ? "
                "AND e.stream <> 'metric' AND e.seq > ? ORDER BY e.seq LIMIT ?",
                (number, after_seq, limit),
            )
        events = []
        for *columns, outcome, reason in rows:
            entry = vocabulary.entry_of(tuple(columns))
            state = view.state_of(outcome, flying=flying.names(entry.seq))
            events.append(
                Event(
                    entry.seq,
                    entry.recorded_at_ns,
                    entry.kind,
                    entry.name,
                    _said(entry),
                    state,
                    reason if isinstance(reason, str) else None,
                )
            )
        return events

    def details(self, key: str, *, metrics: bool) -> ComponentView:
        """Return what ``journaltrack show`` tells of a run, see ``ReadModel.details``."""
        run = self.run(key)
        with self._awake() as journal:
            return component.show(journal, run.name, metrics=metrics)

    @property
    def folder(self) -> Path:
        """Return the journal's folder; of a bundle, the one it was extracted into.

        Raises:
            JournaltrackError: The bundle can't be read.
        """
        with self._lock:
            return self._folder()


def _place(file: Path) -> tuple[int, int] | None:
    """Return which file has the name now; None if none can be seen."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _revision(journal: Journal) -> str:
    return str(journal.database.read("SELECT version_num FROM alembic_version"))


def _said(entry: vocabulary.Entry) -> str:
    """Return what an entry sets, in a few words."""
    if entry.value is not None:
        return plain(entry.value)
    try:
        detail = entry.detail
    except ValueError as error:
        return f"can't be read: {error}"
    for member in ("text", "value", "exact", "primary", "note", "file_name", "sha256"):
        if isinstance(detail.get(member), str):
            return str(detail[member])
    said = []
    for key, member in detail.items():
        # A member that holds others is named by these.
        for name, value in member.items() if isinstance(member, dict) else [(key, member)]:
            if key.endswith("_ns"):
                said.append(f"{key.removesuffix('_ns')}={view.iso_seconds(value)}")
            elif key != "owner" and value is not None:
                said.append(f"{name}={plain(value)}")
    return ", ".join(said)
