"""Log a LightGBM training: ``lightgbm.train(…, callbacks=[JournaltrackCallback()])``.

For LightGBM 3.3 or later: ``train``, ``cv``, and the estimators for scikit-learn. Needs no import
of LightGBM: its callbacks are any callables. Must not know other frameworks.

Invariant: each evaluation that LightGBM makes is a point, that of the round which ends training,
too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, is_rank_zero, prefixed

if TYPE_CHECKING:
    from journaltrack.tracking.tracker import Tracker

FIRST: Final = -(2**31)
"""The order of a callback that comes before all others."""


class JournaltrackCallback(Logs):
    """Record a training's evaluations and parameters, on rank zero.

    Points are named ``valid_0/l2``. Their step is the round. It goes on where the model of
    ``init_model=`` ends. A second training begins to be counted anew, so give each training a
    callback, or a ``prefix``. ``cv`` gives the mean, and the standard deviation as
    ``valid/l2-std``.

    The last round ends the run as Completed; what comes later continues it. LightGBM tells nothing
    of an exception, nor of early stopping. Then the run ends when the process exits, or at the end
    of a ``with`` block of the callback: as Failed with the exception's message, else Completed.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        prefix: The beginning of all names, such as ``"fold-1/"``.
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
        self._records = False
        # LightGBM sets them in the instance's __dict__, if it has none there. A callback that ends
        # training raises: those after it do not see the round.
        self.order = FIRST
        self.before_iteration = False

    def __call__(self, env: Any) -> None:
        """Record the evaluations of a round; of the first one, the parameters."""
        if env.iteration == env.begin_iteration:
            self._records = is_rank_zero()
            # After early stopping nothing has ended the training before.
            self._run.begin_training()
            if self._records:
                self._log_parameters(env)
        if not self._records:
            return
        values: dict[str, float] = {}
        for result in env.evaluation_result_list or ():
            # By position: tuples until 4.7, whose fields have names.
            data, metric, value = result[0], result[1], result[2]
            if data == "cv_agg":
                # Until 4.6 `cv` put the name of the data into that of the metric.
                data, _, metric = metric.partition(" ")
            name = f"{self._prefix}{data}/{metric}"
            values[name] = float(value)
            if len(result) > 4:  # noqa: PLR2004 - of cv
                values[f"{name}-std"] = float(result[4])
        if values:
            self._run.log_metrics(values, env.iteration)
        if env.iteration + 1 >= env.end_iteration:
            self._run.end()

    def _log_parameters(self, env: Any) -> None:
        rounds = env.end_iteration - env.begin_iteration
        given = {"num_iterations": rounds, **(env.params or {})}
        self._run.log_parameters(prefixed(self._prefix, given))
