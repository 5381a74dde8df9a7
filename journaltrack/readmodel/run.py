"""Hold what the read model returns: runs, metrics, series and comparisons.

Values only. Must not know SQLite, a journal, or who prints them. Times are nanoseconds since the
epoch, UTC. Names and values are foreign text: whoever shows them escapes them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, SupportsIndex, TypeAlias, overload

from journaltrack.errors import JournaltrackError, NothingMatchesError
from journaltrack.journal import view
from journaltrack.readmodel.artifacts import Artifact, pandas
from journaltrack.util import patterns

Axis: TypeAlias = Literal["step", "time", "relative"]
"""What a curve is drawn over: the step, seconds since the epoch, or seconds since the start."""
Goal: TypeAlias = Literal["min", "max"]

AXES: Final[tuple[Axis, ...]] = ("step", "time", "relative")
OVER: Final = frozenset({"completed", "failed", "stopped", "interrupted"})
"""The statuses of runs that are over."""
BADLY_ENDED: Final = frozenset({"failed", "interrupted"})
"""The statuses of runs of which the end of the output is shown."""
STATUSES: Final = (
    *("running", "completed", "failed", "stopped", "stopping"),
    *("interrupted", "unknown", "created"),
)
"""What a run's status may be; a journal of a newer version may have others."""
_SHOWN: Final = 20
"""Ours: runs in a list's text."""
_HIGHER: Final = (
    *("acc", "auc", "f1", "precision", "recall", "score", "r2", "map", "ap", "bleu", "rouge"),
    *("iou", "dice", "reward", "return", "throughput", "accuracy", "sensitivity", "specificity"),
)
_LOWER: Final = (
    *("loss", "error", "err", "mse", "rmse", "mae", "mape", "nll", "perplexity", "ppl", "wer"),
    *("cer", "fid", "bce", "ce", "kl", "regret", "latency", "cost"),
)


class MetricSummary(NamedTuple):
    """What one metric of a run adds up to.

    Attributes:
        last: The value that was recorded last; NaN and infinity are values.
        step: Its step; None if it was recorded without.
        min, max: The finite extremes; None if no value is finite.
        points: How many values were recorded, with those that were pruned.
        min_step, max_step: The steps of the extremes, of the first point that has them.
        not_finite: How many values are NaN or infinite.
        last_ns: When the last value was recorded or said to be, nanoseconds since the epoch.
        removed: How many points were pruned from the journal: curves lack them.
    """

    last: float | None
    step: int | None
    min: float | None
    max: float | None
    points: int
    min_step: int | None = None
    max_step: int | None = None
    not_finite: int = 0
    last_ns: int | None = None
    removed: int = 0

    @property
    def count(self) -> int:  # type: ignore[override]
        """Return ``points``, by the name that it has in ``TrialComponent.metrics``."""
        return self.points

    def best(self, goal: Goal) -> float | None:
        """Return the lowest or the highest finite value."""
        return self.min if goal == "min" else self.max

    def best_step(self, goal: Goal) -> int | None:
        """Return the step of the lowest or the highest value."""
        return self.min_step if goal == "min" else self.max_step

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes; NaN and infinity become text."""
        members: dict[str, Any] = view.to_json(self._asdict())
        last_ns = members.pop("last_ns")
        return {**members, "last_at": view.iso(last_ns)}


_NOT_FINITE: Final = MetricSummary._fields.index("not_finite")


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one metric of one run, in the order of ``x``.

    Attributes:
        run: The key of the run.
        metric: The metric's name.
        axis: What ``x`` is. Points without a step have the number of points before them as ``x``.
        x: Steps, or seconds.
        y: Values. None is a gap: the value there is NaN or infinite.
        points: How many points are in the range. If there are more than asked for, ``x`` and ``y``
            hold for each column its lowest and its highest value, and a gap if it has one.
        is_exact: Whether each point is in ``x`` and ``y``.
        not_finite: How many of the points are NaN or infinite.
        first, last: The range of ``x`` over all points of the metric; None if it has none.
    """

    run: str
    metric: str
    axis: Axis
    x: Sequence[float]
    y: Sequence[float | None]
    points: int
    is_exact: bool = True
    not_finite: int = 0
    first: float | None = None
    last: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


@dataclass(frozen=True, slots=True)
class Points:
    """All points of one metric, in the order in which they were recorded.

    Attributes:
        metric: The metric's name.
        steps: None where a point was recorded without a step.
        values: With NaN and infinity.
        times_ns: Nanoseconds since the epoch.
    """

    metric: str
    steps: list[int | None]
    values: list[float]
    times_ns: list[int]

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.values)

    def __iter__(self) -> Iterator[tuple[int | None, float, int]]:
        """Yield step, value and time of each point."""
        return zip(self.steps, self.values, self.times_ns, strict=True)

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas is optional
        """Return a pandas DataFrame with the columns ``step``, ``value`` and ``time``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pd = pandas()
        return pd.DataFrame(
            {
                "step": pd.array(self.steps, dtype="Int64"),
                "value": self.values,
                "time": pd.to_datetime(self.times_ns, utc=True),
            }
        )


class Metrics(Mapping[str, MetricSummary]):
    """The metrics of a run: a mapping of summaries, which reads a metric's points when called.

    ``run.metrics["loss"].min`` is a summary; ``run.metrics("loss").values`` is a list.
    """

    __slots__ = ("_read", "_summaries")

    def __init__(
        self, summaries: Mapping[str, tuple[Any, ...]], read: Callable[[str], Points]
    ) -> None:
        # Members of summaries: a list of ten thousand runs makes few of them.
        self._summaries = summaries
        self._read = read

    def __getitem__(self, name: str) -> MetricSummary:
        """Return what a metric adds up to."""
        if name not in self._summaries:
            raise _UnknownError(
                f"the run has no metric {name!r}; {patterns.hint(str(name), list(self))}"
            )
        summary = MetricSummary(*self._summaries[name])
        # SQLite keeps NaN as NULL.
        return summary if summary.last is not None else summary._replace(last=math.nan)

    def __contains__(self, name: object) -> bool:
        """Return whether the run has the metric."""
        return name in self._summaries

    def __iter__(self) -> Iterator[str]:
        """Yield the names, sorted."""
        return iter(self._summaries)

    def __len__(self) -> int:
        """Return the number of metrics."""
        return len(self._summaries)

    def __repr__(self) -> str:
        """Return the names and last values."""
        return f"<{len(self)} metrics: {', '.join(map(repr, self))}>"

    @property
    def not_finite(self) -> dict[str, int]:
        """Return how many values are NaN or infinite, of each metric that has some."""
        counts = ((name, summary[_NOT_FINITE]) for name, summary in self._summaries.items())
        return {name: count for name, count in counts if count}

    def __call__(self, name: str) -> Points:
        """Read all points of a metric.

        Raises:
            NothingMatchesError: The run has no such metric.
            JournalError: The journal can't be read.
        """
        if name not in self._summaries:
            raise NothingMatchesError(
                f"the run has no metric {name!r}", hint=patterns.hint(name, list(self))
            )
        return self._read(name)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a run's entries; the numbers add up to ``entries``.

    ``pending`` includes what is in flight.
    """

    entries: int = 0
    delivered: int = 0
    pending: int = 0
    in_doubt: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One entry on a run's timeline: everything recorded that is no point of a metric.

    Attributes:
        seq: Its number in the journal.
        at_ns: When it was recorded.
        kind: Its kind (``create``, ``parameter``, ``status``, ...).
        text: What it says, in a few words.
        state: pending, in flight, delivered, in doubt or quarantined; None if unknown.
        reason: Why it is quarantined or in doubt.
    """

    seq: int
    at_ns: int | None
    kind: str
    name: str | None
    text: str
    state: view.State | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as its journal tells it. The last recorded value of each key counts.

    Attributes:
        key: Identifies the run among all journals, in links too.
        name: Its name at AWS.
        journal: The journal's folder, or the bundle.
        status: running, interrupted, unknown (in progress, but nobody can tell from here),
            completed, failed, stopped, stopping, or created (no status was recorded).
        message: The status message.
        started_ns, ended_ns: As recorded. A run without a start started with its first entry. An
            interrupted run ended with its last one.
        last_entry_ns: When its last entry was recorded.
        seen_ns: When the journal was read: age and duration refer to it.
        parameters: Texts and numbers by name.
        artifacts: Its inputs and outputs, charts, each step of what was logged with steps, and
            git's diffs.
        experiments: The (experiment, trial) pairs that it belongs to.
        delivery: What became of its entries at SageMaker.
        destinations: The same at each further destination that got any.
    """

    key: str
    name: str
    display_name: str | None
    journal: str
    status: str
    started_ns: int | None
    ended_ns: int | None
    last_entry_ns: int | None
    seen_ns: int
    parameters: Mapping[str, str | float]
    tags: Mapping[str, str]
    note: str | None
    metrics: Metrics
    delivery: Delivery = field(default_factory=Delivery)
    artifacts: tuple[Artifact, ...] = ()
    message: str | None = None
    experiments: tuple[tuple[str | None, str | None], ...] = ()
    destinations: Mapping[str, Delivery] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return the name that people gave it, else its name."""
        return self.display_name or self.name

    @property
    def age_s(self) -> float | None:
        """Return how long ago it started, in seconds."""
        return None if self.started_ns is None else (self.seen_ns - self.started_ns) / 1e9

    @property
    def duration_s(self) -> float | None:
        """Return how long it ran, or runs, in seconds.

        None if nobody knows: it has no end, and does not run here.
        """
        end_ns = self.ended_ns
        if end_ns is None and self.status == "running":
            end_ns = self.seen_ns
        if self.started_ns is None or end_ns is None:
            return None
        return max(0.0, (end_ns - self.started_ns) / 1e9)

    @property
    def started(self) -> dt.datetime | None:
        """Return when it started, as an aware datetime."""
        return _moment(self.started_ns)

    @property
    def ended(self) -> dt.datetime | None:
        """Return when it ended, as an aware datetime."""
        return _moment(self.ended_ns)

    def artifact(self, name: str, step: int | None = None) -> Artifact:
        """Return an artifact by its name: ``run.artifact("confusion.json").table()``.

        Args:
            name: As the script named it.
            step: The step that it belongs to; None: the last one.

        Raises:
            NothingMatchesError: The run has no such artifact.
        """
        found = [each for each in self.artifacts if each.name == name]
        if step is not None:
            found = [each for each in found if each.step == step]
        if not found:
            at_step = "" if step is None else f" of step {step}"
            raise NothingMatchesError(
                f"the run has no artifact {name!r}{at_step}",
                hint=patterns.hint(name, list(dict.fromkeys(each.name for each in self.artifacts))),
            )
        return found[-1]

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes; times become ISO 8601 text."""
        return {
            "key": self.key,
            "name": self.name,
            "display_name": self.display_name,
            "journal": self.journal,
            "status": self.status,
            "message": self.message,
            "started": view.iso(self.started_ns),
            "ended": view.iso(self.ended_ns),
            "last_entry": view.iso(self.last_entry_ns),
            "age_s": self.age_s,
            "duration_s": self.duration_s,
            "parameters": view.to_json(self.parameters),
            "tags": dict(self.tags),
            "note": self.note,
            "metrics": {name: summary.to_json() for name, summary in self.metrics.items()},
            "delivery": view.to_json(self.delivery),
            "destinations": view.to_json(self.destinations),
            "artifacts": [each.to_json() for each in self.artifacts],
            "experiments": [list(pair) for pair in self.experiments],
        }

    def _repr_html_(self) -> str:
        """Show the run in a notebook."""
        from journaltrack.util.text import html_table  # noqa: PLC0415

        metrics = {
            name: f"{summary.last!r} (min {summary.min!r}, max {summary.max!r}, "
            f"{summary.points} points)"
            for name, summary in self.metrics.items()
        }
        return html_table(
            self.label,
            {
                "status": self.status,
                "started": view.iso_seconds(self.started_ns),
                "ended": view.iso_seconds(self.ended_ns),
                "journal": self.journal,
                "note": self.note,
                **{f"tag {key}": value for key, value in self.tags.items()},
                **self.parameters,
                **metrics,
            },
        )


class Runs(list[Run]):
    """A list of runs, which a notebook shows as a table.

    Attributes:
        problems: Journals that could not be read, and why. Their runs are missing here.
    """

    def __init__(
        self, runs: Iterable[Run] = (), problems: Iterable[tuple[str, JournaltrackError]] = ()
    ) -> None:
        super().__init__(runs)
        self.problems = tuple(problems)

    @overload
    def __getitem__(self, place: SupportsIndex | str, /) -> Run: ...

    @overload
    def __getitem__(self, place: slice, /) -> list[Run]: ...

    def __getitem__(self, place: SupportsIndex | str | slice, /) -> Run | list[Run]:
        """Return a run by its place, its name or its display name; of several, the first.

        Raises:
            KeyError: No run has the name.
        """
        if not isinstance(place, str):
            return super().__getitem__(place)
        for names in ([run.name for run in self], [run.display_name for run in self]):
            if place in names:
                return super().__getitem__(names.index(place))
        hint = patterns.hint(place, [run.label for run in reversed(self)])
        raise _UnknownError(f"no run is called {place!r}; {hint}")

    def __repr__(self) -> str:
        """Return a line per run: all that a run has would fill pages."""
        lines = [
            f"  {run.label}: {run.status}, {len(run.metrics)} metrics" for run in self[:_SHOWN]
        ]
        more = [f"  … {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([f"<{len(self)} runs", *lines, *more]) + ">"

    def to_json(self) -> list[dict[str, Any]]:
        """Return what ``json.dumps`` takes."""
        return [run.to_json() for run in self]

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas is optional
        """Return a pandas DataFrame: a row per run, columns for parameters and last values.

        ``started`` and ``ended`` are times in UTC.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pd = pandas()
        frame = pd.DataFrame([row(run) for run in self])
        for name in ("started", "ended"):
            times = [getattr(run, name) for run in self]
            frame[name] = pd.Series(pd.to_datetime(times, utc=True), index=frame.index)
        return frame

    def _repr_html_(self) -> str:
        """Show the runs in a notebook."""
        from journaltrack.util.text import html_rows  # noqa: PLC0415

        return html_rows([row(run) for run in self])


class _UnknownError(KeyError):
    """A name that nothing has; the text is shown as it is written."""

    def __str__(self) -> str:
        return str(self.args[0])


def row(run: Run, *, extremes: bool = False) -> dict[str, Any]:
    """Return a run as one flat row: ``params.NAME``, ``metrics.NAME`` and ``tags.NAME``.

    Args:
        run: The run.
        extremes: Also ``metrics.NAME.min`` and ``metrics.NAME.max``.
    """
    metrics: dict[str, Any] = {}
    for name, summary in run.metrics.items():
        metrics[f"metrics.{name}"] = summary.last
        if extremes:
            metrics[f"metrics.{name}.min"], metrics[f"metrics.{name}.max"] = (
                summary.min,
                summary.max,
            )
    return {
        "name": run.name,
        "display_name": run.display_name,
        "status": run.status,
        "started": view.iso(run.started_ns),
        "ended": view.iso(run.ended_ns),
        "duration_s": run.duration_s,
        **{f"params.{name}": value for name, value in run.parameters.items()},
        **metrics,
        **{f"tags.{name}": value for name, value in run.tags.items()},
        "note": run.note,
        "journal": run.journal,
    }


class ComparedMetric(NamedTuple):
    """One metric of several runs.

    Attributes:
        values: A summary per run, None where a run lacks the metric.
        goal: Whether low or high values are good; None if the name does not tell.
        best: Places of the runs with the best last value.
        best_ever: Places of the runs with the best value of all.
    """

    values: tuple[MetricSummary | None, ...]
    goal: Goal | None
    best: tuple[int, ...]
    best_ever: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between runs.

    Attributes:
        runs: The runs, in the order of the columns.
        parameters: A value per run (None: it has none) by name, sorted.
        differing: The names of parameters that are not the same in all runs.
        tags: As ``parameters``.
        metrics: By name, sorted.
        code: In what the code of the runs differs, such as the commit: a text per run by label.
        packages: The packages whose versions differ: a version per run by name.
    """

    runs: tuple[Run, ...]
    parameters: Mapping[str, tuple[str | float | None, ...]]
    differing: tuple[str, ...]
    tags: Mapping[str, tuple[str | None, ...]]
    metrics: Mapping[str, ComparedMetric]
    code: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    packages: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        return {
            "runs": [
                {
                    "key": run.key,
                    "name": run.name,
                    "display_name": run.display_name,
                    "journal": run.journal,
                    "status": run.status,
                }
                for run in self.runs
            ],
            "parameters": view.to_json(self.parameters),
            "differing": list(self.differing),
            "tags": view.to_json(self.tags),
            "metrics": {
                name: {
                    "goal": metric.goal,
                    "best": list(metric.best),
                    "best_ever": list(metric.best_ever),
                    "values": [each and each.to_json() for each in metric.values],
                }
                for name, metric in self.metrics.items()
            },
            "code": view.to_json(self.code),
            "packages": view.to_json(self.packages),
        }


def goal_of(metric: str) -> Goal | None:
    """Guess from a metric's name whether low or high values are good. None if it does not tell."""
    words = patterns.words(metric)
    # f1 and r2 are two words.
    pairs = ["".join(pair) for pair in itertools.pairwise(words)]
    for word in reversed([*pairs, *words]):
        if word in _LOWER:
            return "min"
        if word in _HIGHER:
            return "max"
    return None


def now_ns() -> int:
    """Return the time of a reading."""
    return time.time_ns()


def _moment(time_ns: int | None) -> dt.datetime | None:
    if time_ns is None:
        return None
    try:
        return dt.datetime.fromtimestamp(time_ns / 1e9, dt.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None
