"""Read the points of a journal's runs, and draft those that MLflow's code logs.

In MLflow a point is its run, name, step, time and value: one that comes again is no other point.
Its code relies on that. ``log_model`` logs all points of the model's step again, each with the
model's id, to say that they tell of the model; ``log_metrics`` logs each point once per model of
its step. Here a document of the run says which points tell of which model, and a point that is
there is not recorded again.

Must not know MLflow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.compat.mlflow import state
from journaltrack.compat.mlflow.state import Point
from journaltrack.journal import fold, removed, vocabulary
from journaltrack.journal.queries import IS_POINT

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft

_PAGE: Final = 50_000
"""Ours: points that are read at a time."""
_MS: Final = 10**6
_COLUMNS: Final = "SELECT seq, component_id, name, value, step, timestamp_ns, payload FROM entry "
_SELECT_POINTS: Final = f"{_COLUMNS}WHERE seq > ? AND {IS_POINT} ORDER BY seq LIMIT {_PAGE}"
_SELECT_HISTORY: Final = (
    f"{_COLUMNS}WHERE component_id = ? AND {IS_POINT} AND name IN (SELECT value FROM json_each(?)) "
    "ORDER BY seq"
)
_SELECT_LINKS: Final = (
    "SELECT e.seq, c.name, e.name, e.payload FROM entry e "
    "JOIN component c ON c.id = e.component_id "
    "WHERE e.seq > ? AND e.stream <> 'metric' AND e.kind = 'label' "
    f"AND e.name GLOB '{vocabulary.MODEL_METRICS}*' ORDER BY e.seq"
)


class Logged(NamedTuple):
    """A point as MLflow's code logs it, with the model and the dataset that it tells of."""

    name: str
    point: Point
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class OfModel(NamedTuple):
    """A point of a run that tells of a logged model."""

    run_id: str
    name: str
    point: Point
    dataset_name: str | None
    dataset_digest: str | None


class Points:
    """The points of a journal, as far as they were read. Any thread may use it.

    Args:
        journal: An open journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.RLock()
        self._upto = self._links_upto = 0
        self._latest: dict[int, dict[str, Point]] = defaultdict(dict)
        self._of_models: dict[str, dict[OfModel, None]] = defaultdict(dict)
        # All points of some metrics, by component and name: of those that were logged again.
        self._held: dict[tuple[int, str], set[tuple[Any, ...]]] = {}

    def latest(self, component_id: int) -> dict[str, Point]:
        """Return the latest point of each metric of a run, as MLflow finds it."""
        with self._lock:
            self._read()
            return dict(self._latest.get(component_id, {}))

    def history(self, component_id: int, name: str) -> list[Point]:
        """Return the points of a metric in the order of recording, each once."""
        rows = self._journal.database.read(_SELECT_HISTORY, (component_id, json.dumps([name])))
        found: dict[tuple[Any, ...], Point] = {}
        for point in map(_point, rows):
            if point is not None:
                found.setdefault(_identity(point), point)
        return list(found.values())

    def of_model(self, model_id: str) -> list[OfModel]:
        """Return the points that tell of a logged model, each once."""
        with self._lock:
            self._read_links()
            return list(self._of_models.get(model_id, ()))

    def drafts(self, component_id: int, logged: Sequence[Logged]) -> list[Draft]:
        """Draft points of one call, each once, and what says of which model they tell.

        A point with a model is left out if it is there. One without a model is not looked for:
        MLflow's code logs it when it is new.
        """
        again = [each for each in logged if each.model_id]
        with self._lock:
            seen = self._known(component_id, again) if again else set()
        drafts: list[Draft] = []
        links: dict[str, list[Logged]] = defaultdict(list)
        for each in logged:
            key = (each.name, *_identity(each.point))
            if key not in seen:
                drafts.append(draft(each.name, each.point))
            if each.model_id:
                links[each.model_id].append(each)
            seen.add(key)
        return [*drafts, *(_link(*each) for each in links.items())]

    def _known(self, component_id: int, logged: Iterable[Logged]) -> set[tuple[Any, ...]]:
        """Return those of some points that the run has."""
        self._read()
        latest = self._latest.get(component_id, {})
        # A point after the latest one is new: most are.
        old = [
            each
            for each in logged
            if each.name in latest and each.point[:2] <= latest[each.name][:2]
        ]
        if missing := {e.name for e in old if (component_id, e.name) not in self._held}:
            self._held |= {(component_id, name): set() for name in missing}
            asked = (component_id, json.dumps(sorted(missing)))
            self._hold(self._journal.database.read(_SELECT_HISTORY, asked))
        return {
            (each.name, *identity)
            for each in old
            if (identity := _identity(each.point)) in self._held[component_id, each.name]
        }

    def _hold(self, rows: Iterable[Sequence[Any]]) -> None:
        for row in rows:
            _, component_id, name, *_ = row
            held = self._held.get((component_id, name))
            if held is not None and (point := _point(row)) is not None:
                held.add(_identity(point))

    def _read(self) -> None:
        """Read what was added of all runs: the journal has no index of points by run."""
        if not self._upto:
            self._read_removed()
        while True:
            rows = self._journal.database.read(_SELECT_POINTS, (self._upto,))
            if self._held:
                self._hold(rows)
            for row in rows:
                point = _point(row)
                if point is None:
                    continue
                _, component_id, name, *_ = row
                latest = self._latest[component_id]
                known = latest.get(name)
                if known is None or not _is_later(known, point):
                    latest[name] = point
            if rows:
                self._upto = rows[-1][0]
            if len(rows) < _PAGE:
                return

    def _read_removed(self) -> None:
        """Begin with the last of the points that were pruned: it is on the record."""
        ids = {row.name.lower(): row.id for row in self._journal.components()}
        for (component, name), gone in removed.metrics(self._journal.database).items():
            if component in ids:
                last = Point(gone.last.step or 0, gone.last.timestamp_ns // _MS, gone.last.value)
                self._latest[ids[component]][name] = last

    def _read_links(self) -> None:
        for seq, run_id, name, payload in self._journal.database.read(
            _SELECT_LINKS, (self._links_upto,)
        ):
            self._links_upto = seq
            model_id, _, _ = name.removeprefix(vocabulary.MODEL_METRICS).partition("/")
            # A stranger's journal may have anything: it must not hide the others.
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                told = json.loads(vocabulary.decode(payload)["text"])
                for metric, step, ms, value, *dataset in told["points"]:
                    point = Point(int(step), int(ms), float(value))
                    named = (fold.text_or_none(each) for each in dataset)
                    self._of_models[model_id][OfModel(run_id, metric, point, *named)] = None


def draft(name: str, point: Point) -> Draft:
    """Draft a point."""
    return vocabulary.metric(name, point.value, point.step, point.timestamp_ms * _MS)


def _link(model_id: str, logged: Iterable[Logged]) -> Draft:
    """Draft the document which says that points tell of a model."""
    told = [
        (
            each.name,
            each.point.step,
            each.point.timestamp_ms,
            # JSON has no NaN and no infinity.
            each.point.value if math.isfinite(each.point.value) else str(each.point.value),
            each.dataset_name,
            each.dataset_digest,
        )
        for each in logged
    ]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return state.document(vocabulary.MODEL_METRICS, f"{model_id}/{digest}", {"points": told})


def _identity(point: Point) -> tuple[Any, ...]:
    """Return what makes a point in its metric. NaN equals NaN here."""
    return point if point.value == point.value else (*point[:2], None)


def _is_later(known: Point, other: Point) -> bool:
    """Return whether a point counts as later than another one. NaN is never the greater value."""
    return (known.step, known.timestamp_ms) > (other.step, other.timestamp_ms) or (
        (known.step, known.timestamp_ms) == (other.step, other.timestamp_ms)
        and known.value > other.value
    )


def _point(row: Sequence[Any]) -> Point | None:
    """Return a point of its columns; None: they can't be read."""
    *_, value, step, timestamp_ns, payload = row
    try:
        if value is None:
            value = float(vocabulary.decode(payload)["exact"])
        return Point(int(step or 0), int(timestamp_ns or 0) // _MS, float(value))
    except (ValueError, KeyError, TypeError):
        return None
