"""Open journals to look at their runs. Reads journals, never writes one.

    with read_model.open(["/data/runs"]) as model:
        for run in model.runs(where="status = completed", sort="loss.min", limit=10):
            print(run.label, run.metrics["loss"].min)

A ``Source`` is one journal with its side cache (``cache``). A ``ReadModel`` joins several. Both may
be used by any thread. A journal that can't be read (damaged, newer, gone, not readable) is a
``problem``, and hides no other journal.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournaltrackError, NothingMatchesError
from journaltrack.journal.provenance import DIFF_NAME
from journaltrack.journal.vocabulary import EVENT_FILES, SYSTEM
from journaltrack.readmodel import expression
from journaltrack.readmodel.run import (
    AXES,
    Axis,
    ComparedMetric,
    Comparison,
    Event,
    Goal,
    Run,
    Runs,
    Series,
    goal_of,
)
from journaltrack.readmodel.source import Source
from journaltrack.reports import processes
from journaltrack.util import paths, patterns

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from journaltrack.journal.writer_records import WriterRecord
    from journaltrack.reports.component import ComponentView

_NAME_CHARS: Final = 24
"""Ours: longer names are told apart by what differs in them."""
_ID: Final = re.compile("[0-9a-f]{32}")
_ID_CHARS: Final = 8
"""Ours: how much of an id is shown at least."""
OPEN_MAX: Final = 32
"""Ours: journals that stay open. Each takes up to eight file descriptors, of 1,024 by default."""
AnyPath: TypeAlias = "str | os.PathLike[str]"


def runs(
    *journals: AnyPath | None,
    where: str | None = None,
    sort: str | None = None,
    tags: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Runs:
    """List the runs of journals.

    Args:
        journals: Journals, folders with journals in them, mirrors, and bundles. None at all: the
            configured journal. Of a mirror, the copies of its journals are extended first.
        where: Only runs for which this holds: ``"lr < 0.1 and status = completed"``; see
            docs/runs.md.
        sort: A metric (its last value, or ``loss.min``, ``loss.max``), a parameter, a tag, or
            ``age``, ``duration``, ``name``, ``status``; ascending, or descending after ``-``. Runs
            without the value come last. None: the newest first.
        tags: Only runs with these tags; None as a value: with any value.
        limit: At most this many, after sorting.

    Returns:
        A list of runs. ``problems`` of it says which journals could not be read.

    Raises:
        InvalidInputError: ``where`` or ``sort`` can't be understood.
        NothingMatchesError: They name what no run has.
        JournalError: No journal could be read, or a mirror holds nothing yet.
    """
    problems: list[tuple[str, JournaltrackError]] = []
    named = [_in_place(each, problems) for each in journals if each is not None]
    with open(named) as model:
        model.refresh()
        if model.problems and len(model.problems) == len(model.sources):
            raise model.problems[0][1]
        found = model.runs(where=where, sort=sort, tags=tags, limit=limit)
        return Runs(found, (*problems, *found.problems))


def _in_place(journal: AnyPath, problems: list[tuple[str, JournaltrackError]]) -> AnyPath:
    """Return a journal, or the folder of a mirror's copies in place of a mirror."""
    folder = paths.expanded(journal)
    if not paths.is_mirror(folder):
        return journal
    from journaltrack.mirror import copies  # noqa: PLC0415 - few name one

    found = copies.extended(folder)
    for copied in found:
        told = (copied.problem, *(replica.problem for replica in copied.replicas))
        problems += [(str(folder), problem) for problem in told if problem is not None]
    return copies.folder_of(found, folder)


def open(  # noqa: A001 - read as read_model.open
    journals: Iterable[AnyPath] = (), *, cache: bool = True
) -> ReadModel:
    """Open journals to look at them, for as long as you like.

    Args:
        journals: As for ``runs``. Folders are searched again at each ``refresh``.
        cache: Keep a side cache in the user's cache folder; else in memory.

    Returns:
        A model that has read nothing yet: call ``refresh``.
    """
    return ReadModel(journals, cache=cache)


class ReadModel:
    """Several journals, as a list of runs.

    Attributes:
        problems: The journals that can't be read now, by path, and why. What was read of them
            before is still shown.
    """

    def __init__(self, journals: Iterable[AnyPath], *, cache: bool) -> None:
        """Use ``open``."""
        named = [paths.expanded(each).absolute() for each in journals]
        self._named = tuple(dict.fromkeys(named)) or (paths.default_journal().absolute(),)
        self._in_file = cache
        self._lock = threading.RLock()
        self._sources: dict[Path, Source] = {}

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return the journals, in the order in which they were named."""
        return tuple(self._sources.values())

    @property
    def problems(self) -> tuple[tuple[str, JournaltrackError], ...]:
        """Return the journals that can't be read now, and why."""
        return tuple(
            (str(source.path), source.problem)
            for source in self.sources
            if source.problem is not None
        )

    def refresh(self) -> bool:
        """Read what was recorded since. Return whether anything changed.

        Cheap if nothing did: a few system calls and one PRAGMA a journal.
        """
        with self._lock:
            found = [
                journal
                for named in self._named
                for journal in ([*paths.journals_in(named)] or [named])
            ]
            changed = False
            for path in found:
                if path not in self._sources:
                    self._sources[path] = Source(path, cache=self._in_file)
                    changed = True
        for place, source in enumerate(self.sources):
            changed |= source.refresh()
            if place >= OPEN_MAX:
                source.rest()
        return changed

    def runs(
        self,
        *,
        where: str | None = None,
        sort: str | None = None,
        tags: Mapping[str, str | None] | None = None,
        limit: int | None = None,
    ) -> Runs:
        """List runs as of the last ``refresh``, see ``runs``."""
        found = [run for source in self.sources for run in source.runs()]
        names = expression.Names.of(found) if where or sort else None
        if where and names is not None:
            test = expression.parsed(where, names)
            found = [run for run in found if test(run)]
        for tag, value in (tags or {}).items():
            found = [
                run
                for run in found
                if tag in run.tags and (value is None or run.tags[tag] == value)
            ]
        found.sort(key=lambda run: run.started_ns or 0, reverse=True)
        if sort and names is not None:
            ask, descends = expression.sort_key(sort, names)
            found = expression.in_order(found, ask, descends=descends)
        return Runs(found if limit is None else found[: max(limit, 0)], self.problems)

    def run(self, key: str) -> Run:
        """Return the run of a key.

        Raises:
            NothingMatchesError: There is none (any more).
        """
        return self._source(key).run(key)

    def find(self, wanted: Sequence[str] = ()) -> list[Run]:
        """Return runs by name, display name, key or shell pattern, in the order of the patterns.

        No pattern: the newest run.

        Raises:
            NothingMatchesError: A pattern matches no run.
        """
        known = self.runs()
        if not known:
            raise NothingMatchesError(
                f"there are no runs in {', '.join(map(str, self._named))}",
                hint="a training script's first Tracker.create() makes one",
            )
        if not wanted:
            return known[:1]
        found: dict[str, Run] = {}
        for pattern in wanted:
            exact = [run for run in known if pattern in {run.key, run.name, run.display_name}]
            matching = (
                exact
                or self._labelled(pattern)
                or [
                    run
                    for run in known
                    if patterns.fits(run.name, pattern)
                    or (run.display_name and patterns.fits(run.display_name, pattern))
                ]
            )
            if not matching:
                labels = [run.label for run in reversed(known)]
                every = list(dict.fromkeys([*(run.name for run in reversed(known)), *labels]))
                names = every if patterns.near(pattern, every) else list(dict.fromkeys(labels))
                raise NothingMatchesError(
                    f"no run is called {limits.shown(pattern)}", hint=patterns.hint(pattern, names)
                )
            found |= {run.key: run for run in matching}
        return list(found.values())

    def _labelled(self, wanted: str) -> list[Run]:
        """Return the run of a label that tells it from runs of the same name, as a list has it."""
        if not wanted.endswith(")"):
            return []
        runs = self.runs()
        found = [run for run, label in zip(runs, labels(runs), strict=True) if label == wanted]
        # A list of other runs may have cut the name elsewhere.
        chars = len(wanted.rpartition(" (")[2]) - 1
        return found or [run for run in runs if f"{run.label} ({run.name[:chars]})" == wanted]

    def series(
        self,
        run: Run | str,
        metric: str,
        *,
        columns: int | None = None,
        x: Axis = "step",
        lo: float | None = None,
        hi: float | None = None,
    ) -> Series:
        """Return a metric's curve, at most three points per column.

        Args:
            run: The run, or its key.
            metric: The metric's name.
            columns: Columns of pixels to fill; None: give all points.
            x: What to draw over: "step", "time" (seconds since the epoch) or "relative" (seconds
                since the run started).
            lo: The first ``x`` to show; None: that of the first point. The nearest point before it
                is included, so that the curve reaches the border.
            hi: The last ``x`` to show; None: that of the last point.

        Raises:
            NothingMatchesError: There is no such run or metric.
            InvalidInputError: The axis is unknown, or ``columns`` is not positive.
        """
        if x not in AXES or (columns is not None and columns < 1):
            raise InvalidInputError(
                f"x={x!r}, columns={columns!r}: can't be drawn",
                hint=f"x is one of {', '.join(AXES)}; columns is at least 1",
            )
        key = _key(run)
        return self._source(key).series(key, metric, columns, x, lo, hi)

    def compare(self, runs: Sequence[Run | str]) -> Comparison:
        """Compare runs: which parameters and which code differ, metrics side by side."""
        found = [run if isinstance(run, Run) else self.run(run) for run in runs]
        code, packages = processes.compared([self._newest(run) for run in found])
        return replace(compared(found), code=code, packages=packages)

    def timeline(self, run: Run | str, *, limit: int = 1_000, after_seq: int = 0) -> list[Event]:
        """Return what was recorded of a run besides metrics, in order."""
        key = _key(run)
        return self._source(key).timeline(key, limit, after_seq)

    def details(self, run: Run | str, *, metrics: bool = True) -> ComponentView:
        """Return what ``journaltrack show`` tells of a run, with the state of each value.

        Args:
            run: The run, or its key.
            metrics: Sum the metrics up, too, which reads all points.
        """
        key = _key(run)
        return self._source(key).details(key, metrics=metrics)

    def close(self) -> None:
        """Close the journals and caches. Idempotent."""
        for source in self.sources:
            source.close()

    def _newest(self, run: Run) -> tuple[WriterRecord | None, str | None]:
        """Return the process that recorded a run last, and the digest of its changes to a commit.

        An import's code is not the run's.
        """
        try:
            details = self.details(run, metrics=False)
        # What is compared is known without the journal, which may be gone meanwhile.
        except JournaltrackError:
            return None, None
        if details.is_import or not details.writers:
            return None, None
        newest = details.writers[-1]
        diffs = (each for each in details.artifacts if each.name == DIFF_NAME)
        return newest, next((each.sha256 for each in diffs if each.writer_id == newest.id), None)

    def _source(self, key: str) -> Source:
        for source in self.sources:
            if source.owns(key):
                return source
        raise NothingMatchesError(f"there is no run {key!r}", hint="list the runs again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def compared(runs: Sequence[Run]) -> Comparison:
    """Compare runs."""
    parameters = {
        name: tuple(run.parameters.get(name) for run in runs)
        for name in sorted({name for run in runs for name in run.parameters})
    }
    tags = {
        name: tuple(run.tags.get(name) for run in runs)
        for name in sorted({name for run in runs for name in run.tags})
    }
    metrics = {}
    for name in sorted({name for run in runs for name in run.metrics}):
        values = tuple(run.metrics.get(name) for run in runs)
        goal = goal_of(name)
        last = [each and each.last for each in values]
        ever = [each.best(goal) if each and goal else None for each in values]
        metrics[name] = ComparedMetric(values, goal, _best(last, goal), _best(ever, goal))
    return Comparison(
        tuple(runs),
        parameters,
        tuple(name for name, values in parameters.items() if len(set(values)) > 1),
        tags,
        metrics,
    )


def _best(values: Sequence[float | None], goal: Goal | None) -> tuple[int, ...]:
    """Return the places of the lowest or highest finite value; none if one run alone has any."""
    known = [each for each in values if each is not None]
    finite = [each for each in known if math.isfinite(each)]
    if goal is None or not finite or len(known) == 1:
        return ()
    best = (min if goal == "min" else max)(finite)
    return tuple(place for place, each in enumerate(values) if each == best)


class Telling(NamedTuple):
    """Names that tell most about some runs.

    Attributes:
        parameters, metrics: Those first that most runs have, then by name. A caller that shows
            them sorted has the same order whatever the filter.
        left_out: How many more of both there are.
    """

    parameters: list[str]
    metrics: list[str]
    left_out: int


def telling(runs: Sequence[Run], at_most: int) -> Telling:
    """Choose the parameters and metrics that tell most about runs, for columns of a list.

    Parameters are those that differ; of one run, all. First come those with several values, then
    those that some runs lack. If there are more than ``at_most``, only those count that at least
    half of the runs have: one run with a thousand metrics hides nothing. Of metrics, a run that
    would have none has its commonest one. Metrics of the system are never among them, nor is how
    many event files `run` found.

    Args:
        runs: The runs of the list.
        at_most: How many of each.
    """
    parameters = Counter(name for run in runs for name in run.parameters if name != EVENT_FILES)
    metrics = Counter(name for run in runs for name in run.metrics if not name.startswith(SYSTEM))
    differing = {
        name: having
        for name, having in parameters.items()
        if len(runs) == 1 or not _is_same(runs, name)
    }
    varying = {
        name: having
        for name, having in differing.items()
        if not _is_same([run for run in runs if name in run.parameters], name)
    }
    of_parameters = _commonest(varying, len(runs), at_most)
    if len(of_parameters) < at_most:
        others = {name: having for name, having in differing.items() if name not in varying}
        more = at_most - len(of_parameters)
        of_parameters += _commonest(others, len(runs), more, at_least_some=not of_parameters)
    of_metrics = _commonest(metrics, len(runs), at_most)
    for run in runs:
        own = [name for name in run.metrics if name in metrics]
        if own and len(of_metrics) < at_most and not any(name in of_metrics for name in own):
            of_metrics.append(min(own, key=lambda name: (-metrics[name], name)))
    left_out = len(differing) + len(metrics) - len(of_parameters) - len(of_metrics)
    return Telling(of_parameters, of_metrics, left_out)


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run, which tells it from the others.

    A label that several share is followed by the name, or by what differs in long names, or else
    in the paths of their journals.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        places[run.label].append(place)
    found = [run.label for run in runs]
    for label, group in places.items():
        if len(group) == 1:
            continue
        names = _differing([runs[place].name for place in group])
        journals = _differing([runs[place].journal for place in group])
        if any(names):
            whole = [runs[place].name for place in group]
            names = whole if max(map(len, whole)) <= _NAME_CHARS else _beginnings(names)
        for place, name, journal in zip(group, names, journals, strict=True):
            is_clear = bool(name) and names.count(name) == 1
            told = name if is_clear else " ".join(filter(None, (name, journal)))
            found[place] = f"{label} ({told})" if told else label
    return found


def _differing(names: Sequence[str]) -> list[str]:
    """Return the parts of names that are not the same in all; "" if none differs."""
    if len(set(names)) == 1:
        return [""] * len(names)
    # A part with what separates it from the next one.
    parts = [re.findall(r"[^-_./: ]*[-_./: ]?", name)[:-1] for name in names]
    shortest = min(map(len, parts)) - 1
    first = 0
    while first < shortest and len({each[first] for each in parts}) == 1:
        first += 1
    last = 0
    while last < shortest - first and len({each[-1 - last] for each in parts}) == 1:
        last += 1
    return ["".join(each[first : len(each) - last]).rstrip("-_./: ") or "" for each in parts]


def _beginnings(names: Sequence[str]) -> list[str]:
    """Return names cut to what tells them apart, if they are ids without parts, as of MLflow."""
    if not all(_ID.fullmatch(name) for name in names):
        return list(names)
    length = next(
        (
            chars
            for chars in range(_ID_CHARS, max(map(len, names)))
            if len({name[:chars] for name in names}) == len(set(names))
        ),
        None,
    )
    return [name[:length] for name in names]


def _commonest(
    having: Mapping[str, int], runs: int, at_most: int, *, at_least_some: bool = True
) -> list[str]:
    names = sorted(having, key=lambda name: (-having[name], name))
    if len(names) > at_most:
        common = [name for name in names[:at_most] if 2 * having[name] >= runs]
        return common or (names[:at_most] if at_least_some else [])
    return names


def _is_same(runs: Sequence[Run], parameter: str) -> bool:
    first = runs[0].parameters.get(parameter)
    is_nan = first != first  # noqa: PLR0124 - the test for NaN
    values = (run.parameters.get(parameter) for run in runs)
    return all(value == first or (is_nan and value != value) for value in values)  # noqa: PLR0124


def _key(run: Run | str) -> str:
    return run if isinstance(run, str) else run.key
