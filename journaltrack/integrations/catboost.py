"""Log a CatBoost training: ``model.fit(…, callbacks=[JournaltrackCallback()])``.

For CatBoost 1.0 or later, on the CPU: on GPUs CatBoost takes no callbacks. Needs no import of
CatBoost: its callbacks are any objects with ``after_iteration``. Must not know other frameworks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, is_rank_zero

if TYPE_CHECKING:
    from journaltrack.tracking.tracker import Tracker


class JournaltrackCallback(Logs):
    """Record a training's evaluations, on rank zero.

    Points are named ``validation/Logloss``. Their step is the iteration, from 0, as in
    ``model.get_evals_result()``. A second training begins to be counted anew, so give each training
    a callback, or a ``prefix``.

    CatBoost tells nothing of parameters and of the end. The run ends when the process exits, or at
    the end of a ``with`` block of the callback: as Failed with an exception's message, else
    Completed.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        prefix: The beginning of all names, such as ``"fold-1/"``.
        options: Arguments of ``Tracker.create``.
    """

    def __init__(self, *, tracker: Tracker | None = None, prefix: str = "", **options: Any) -> None:
        self._run = FrameworkRun(tracker, options)
        self._prefix = prefix
        # How many values of each series CatBoost had at the last iteration.
        self._seen: dict[str, int] = {}

    def after_iteration(self, info: Any) -> bool:
        """Record the evaluations of an iteration. True lets CatBoost go on."""
        if info.iteration == 1:
            self._seen.clear()
            self._run.begin_training()
        values: dict[str, float] = {}
        for data, metrics in info.metrics.items():
            for metric, series in metrics.items():
                name = f"{self._prefix}{data}/{metric}"
                # With `metric_period` most iterations have no new value.
                if len(series) != self._seen.get(name, 0):
                    self._seen[name] = len(series)
                    values[name] = float(series[-1])
        if values and is_rank_zero():
            self._run.log_metrics(values, info.iteration - 1)
        return True
