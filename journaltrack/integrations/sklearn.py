"""Log searches of scikit-learn, and the tasks of its fits.

``log_search`` takes a search that has been fitted, of any version. ``JournaltrackCallback`` follows
a fit from the inside, by the protocol for callbacks of scikit-learn 1.9, which is experimental
there: few estimators have it, and it may change. Must not know other frameworks.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import InvalidInputError
from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, is_rank_zero, prefixed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.tracking.tracker import Tracker

_ADDRESS: Final = re.compile(r"(?: object)? at 0x[0-9a-fA-F]+")


def log_search(
    search: Any,
    *,
    tracker: Tracker | None = None,
    prefix: str = "",
    **options: Any,
) -> str:
    """Record a fitted search: its settings, its best candidate, and all results as a table.

    For GridSearchCV, RandomizedSearchCV, their halving versions, and what has the same attributes.

    Args:
        search: The search, after ``fit``.
        tracker: Record with this tracker, whose end is yours; None to make a run, which is
            Completed at the end.
        prefix: The beginning of all names, such as ``"forest/"``.
        options: Arguments of ``Tracker.create``.

    Returns:
        The run's name.

    Raises:
        InvalidInputError: The search has no results yet. Nothing was recorded.
    """
    if not hasattr(search, "cv_results_"):
        raise InvalidInputError(
            f"{type(search).__name__} has no cv_results_; nothing was recorded",
            hint="call fit first"
            if hasattr(search, "refit")
            else "give a fitted search such as GridSearchCV; of any other estimator, use "
            "Tracker.log_parameters(estimator.get_params())",
        )
    run = FrameworkRun(tracker, options)
    _log_results(run, search, prefix)
    run.end()
    return run.name


class JournaltrackCallback(Logs):
    """Record the tasks of a fit: ``estimator.set_callbacks(JournaltrackCallback())``.

    Each task, such as an iteration, or a fold of a candidate, is a point ``<task>/duration_s``. Its
    step is the number that scikit-learn gives the task. The estimator's parameters are recorded at
    the beginning, and the results of a search at the end. A task in another process (``n_jobs``) is
    recorded from there.

    The end of the fit ends the run: as Completed, or Failed with the exception's message. A later
    fit continues it, and its tasks begin to be counted anew.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        prefix: The beginning of all names, such as ``"forest/"``.
        options: Arguments of ``Tracker.create``.
    """

    def __init__(
        self,
        *,
        tracker: Tracker | None = None,
        prefix: str = "",
        **options: Any,
    ) -> None:
        self._run = FrameworkRun(tracker, options)
        self._prefix = prefix
        self._began_at: dict[Any, float] = {}
        self._outer_error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copy to another process: scikit-learn does it for each task there."""
        state = {**vars(self), "_began_at": {}, "_outer_error": None}
        tracker = self._run._tracker  # noqa: SLF001 - the property would begin a run that is over
        if tracker is not None:
            path = os.fspath(tracker.trial_component.journal.path)
            state["_run"] = (self._run.name, path)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Record with the run of an earlier copy in this process: each has files open."""
        vars(self).update(state)
        if isinstance(state["_run"], tuple):
            self._run = _joined(*state["_run"])

    def setup(self, estimator: Any, context: Any) -> None:
        """Record the estimator's parameters."""
        if is_rank_zero():
            # A fit in an `except` block has that exception from the beginning.
            self._outer_error = sys.exc_info()[1]
            self._run.is_training = _is_outermost(context)
            self._run.log_parameters(prefixed(self._prefix, _settings(estimator)))

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Note when a task begins."""
        self._began_at[context] = time.perf_counter()

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        """Record a task's duration. Never stops a fit."""
        self._log_task(context, {})
        return False

    def teardown(self, estimator: Any, context: Any) -> None:
        """Record the results of a search, end the run, and deliver."""
        if not (_is_outermost(context) and is_rank_zero()):
            return
        self._began_at.clear()
        # scikit-learn calls this while an exception of the fit is on its way.
        error, outer = sys.exc_info()[1], self._outer_error
        self._outer_error = None
        if error is outer:
            error = None
            if hasattr(estimator, "cv_results_"):
                _log_results(self._run, estimator, self._prefix)
        self._run.end(error)

    def _log_task(self, context: Any, values: Mapping[str, Any]) -> None:
        began_at, name = self._began_at.pop(context, None), _task(context)
        if name and is_rank_zero():
            took = {} if began_at is None else {"duration_s": time.perf_counter() - began_at}
            points = prefixed(f"{self._prefix}{name}/", {**took, **values})
            self._run.log_metrics(points, context.task_id)


class JournaltrackScoringCallback(JournaltrackCallback):
    """Record also ``<task>/<score>`` of each task that has a usable estimator.

    A score is computed on the data of its task, which takes time: after each iteration of a
    ``LogisticRegression``, on all its training data.

    Args:
        scoring: As of scikit-learn's ``check_scoring``: a name, or several.
        options: Arguments of ``JournaltrackCallback``.
    """

    def __init__(self, scoring: Any, **options: Any) -> None:
        super().__init__(**options)
        self._scoring = [scoring] if isinstance(scoring, str) else scoring

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        # scikit-learn makes the values that a signature names.
        X: Any = None,  # noqa: N803
        y: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        """Record a task's duration and scores. Never stops a fit."""
        scores: dict[str, Any] = {}
        if fitted_estimator is not None and X is not None and is_rank_zero():
            from sklearn.metrics import check_scoring  # noqa: PLC0415 - log_search needs no metrics

            found = check_scoring(estimator, self._scoring)(fitted_estimator, X, y)
            scores = found if isinstance(found, dict) else {"score": found}
        self._log_task(context, scores)
        return False


@functools.cache
def _joined(name: str, journal: str) -> FrameworkRun:
    """Return the run that a copy in this process records. It neither begins nor ends it."""
    known = {"trial_component_name": name, "resume": True, "journal": journal, "sync": "off"}
    run = FrameworkRun(None, known)
    run._is_ours = False  # noqa: SLF001 - the package's own
    return run


def _is_outermost(context: Any) -> bool:  # a CallbackContext
    """Return whether a fit is none of a search's or pipeline's, whose parts have many."""
    return context.parent is None


def _task(context: Any) -> str:
    """Return the name of a task: its place below the fit. The fit itself has none.

    Parts on the way have their number, such as ``search-0/candidate-split-evaluation``.
    """
    parts: list[str] = []
    while context.parent is not None:
        above = context.parent
        is_other = context.estimator_name != above.estimator_name
        name = context.estimator_name if is_other else context.task_name
        parts.append(f"{name}-{context.task_id}" if parts else name)
        context = above
    return "/".join(reversed(parts))


def _settings(estimator: Any) -> dict[str, Any]:
    """Return an estimator's class and parameters; of estimators among them the class."""
    found: dict[str, Any] = {"estimator": type(estimator).__name__}
    # What has the attributes of a search need not be an estimator.
    parameters = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    for name, value in parameters.items():
        if hasattr(value, "get_params"):
            found[name] = type(value).__name__
        elif isinstance(value, float) and math.isnan(value):
            # Of each search, `error_score`. SageMaker takes no NaN, and the text says the same.
            found[name] = str(value)
        else:
            found[name] = _without_address(value)
    return found


def _without_address(value: Any) -> Any:
    """Return a parameter's value, of what is shown by its address a text that other runs share.

    Functions, callable objects, and SciPy's distributions, from which a search draws, also inside
    of a grid.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {name: _without_address(each) for name, each in value.items()}
    if hasattr(value, "dist") and hasattr(value, "args") and hasattr(value, "kwds"):
        arguments = [
            *map(str, value.args),
            *(f"{name}={each}" for name, each in value.kwds.items()),
        ]
        return f"{value.dist.name}({', '.join(arguments)})"
    if hasattr(value, "__name__"):
        return value.__name__
    text = str(value)
    if not _ADDRESS.search(text):
        return value
    if isinstance(value, list | tuple):
        return [_without_address(each) for each in value]
    return _ADDRESS.sub("", text)


def _log_results(run: FrameworkRun, search: Any, prefix: str) -> None:
    """Record a fitted search."""
    results, best = search.cv_results_, getattr(search, "best_index_", None)
    values = {
        "search": type(search).__name__,
        "candidates": len(results["params"]),
        "splits": getattr(search, "n_splits_", None),
        **_settings(search),
        # Of several scores without `refit` there is no best.
        **prefixed("best/", _without_address(getattr(search, "best_params_", {}))),
    }
    run.log_parameters(prefixed(prefix, values))
    if best is not None:
        scores = {
            name: results[name][best]
            for name in results
            if name.startswith(("mean_", "std_")) and "time" not in name
        }
        # With a step a sync can tell whether a point arrived, and moto takes no point without.
        run.log_metrics(prefixed(f"{prefix}best/", scores), int(best))
    table = {name: _column(column) for name, column in results.items() if name != "params"}
    run.tracker.log_table(f"{prefix}cv_results", table)


def _column(column: Any) -> list[Any]:
    """Return a column of results. A masked cell is a parameter that the candidate has not."""
    cells = column.tolist() if hasattr(column, "tolist") else column
    return [_without_address(each) for each in cells]
