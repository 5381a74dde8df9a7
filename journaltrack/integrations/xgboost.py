"""Log an XGBoost training: ``xgboost.train(…, callbacks=[JournaltrackCallback()])``.

For XGBoost 1.3 or later: ``train``, ``cv``, and the estimators for scikit-learn. Must not know
other frameworks.

Invariant: each value of ``evals_result`` is a point. XGBoost does not call the remaining callbacks
of a round when one of them stops training, and before 3.0 it calls them in any order: what they hid
is recorded at the end.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, importing, is_rank_zero, prefixed
from journaltrack.tracking import validation

with importing("XGBoost"):
    import numpy as np
    import xgboost
    from xgboost.callback import TrainingCallback
    from xgboost.core import XGBoostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from journaltrack.tracking.tracker import Tracker


class JournaltrackCallback(Logs, TrainingCallback):
    """Record a training's evaluations, parameters and best round, on rank zero.

    Points are named ``valid/logloss``. Their step is the round. It goes on where the model of
    ``xgb_model=`` ends. A second training begins to be counted anew, so give each training a
    callback, or a ``prefix``. ``cv`` gives the mean, and the standard deviation as
    ``test/logloss-std``.

    The end of training ends the run as Completed; what comes later continues it. XGBoost tells
    nothing of an exception: then the run becomes Failed when the process exits, or at the end of a
    ``with`` block of the callback.

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
        super().__init__()
        self._run = FrameworkRun(tracker, options)
        self._prefix = prefix
        self._records = False
        self._next_step = 0
        self._evals: Mapping[str, Mapping[str, list[Any]]] = {}
        # How many values of each series are recorded.
        self._recorded: dict[tuple[str, str], int] = {}
        self._best: dict[str, Any] = {}

    def before_training(self, model: Any) -> Any:
        """Record the parameters that XGBoost uses."""
        self._records = is_rank_zero() and _worker_rank() == 0
        if self._records:
            booster = _booster(model)
            self._run.is_training = True
            self._next_step, self._evals, self._recorded = _rounds(booster), {}, {}
            self._best = _best(booster)
            try:
                self._log_parameters(_parameters(booster))
            # XGBoost promises nothing about the form of its configuration.
            except (XGBoostError, LookupError, TypeError, ValueError) as error:
                self._run.leave_out("XGBoost's configuration", error)
        return model

    def after_iteration(
        self,
        model: Any,
        epoch: int,
        evals_log: Mapping[str, Mapping[str, list[Any]]],
    ) -> bool:
        """Record the evaluations of a round. Never stops training."""
        if self._records:
            self._evals = evals_log
            self._log_new()
            self._next_step += 1
        return False

    def after_training(self, model: Any) -> Any:
        """Record the best round, end the run, and deliver."""
        if self._records:
            self._log_new()
            best = _best(_booster(model))
            # A model that is trained further has those of the training before.
            self._log_parameters(best if best != self._best else {})
            self._evals = {}
            self._run.end()
        return model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Record what an exception of another callback hid, and end the run."""
        if self._evals:
            self._log_new()
        super().__exit__(kind, error, traceback)

    def _log_new(self) -> None:
        """Record what the evaluations have and the run has not."""
        values: dict[str, float] = {}
        for data, metrics in self._evals.items():
            for metric, series in metrics.items():
                if len(series) > self._recorded.get((data, metric), 0):
                    self._recorded[data, metric] = len(series)
                    value, name = series[-1], f"{self._prefix}{data}/{metric}"
                    if isinstance(value, tuple):
                        value, values[f"{name}-std"] = value[0], float(value[1])
                    values[name] = float(value)
        if values:
            self._run.log_metrics(values, self._next_step)

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._run.log_parameters(prefixed(self._prefix, parameters))


def _booster(model: Any) -> Any:
    """Return the model; of the boosters of ``cv`` the first, whose settings are those of all."""
    folds = getattr(model, "cvfolds", None)
    return folds[0].bst if folds else model


def _worker_rank() -> int:
    """Return the rank among the workers of a distributed training, such as Dask's."""
    # Before 1.7 it was in `rabit`. Outside of a distributed training the rank is 0.
    collective = getattr(xgboost, "collective", None) or getattr(xgboost, "rabit", None)
    return int(collective.get_rank()) if collective is not None else 0


def _rounds(booster: Any) -> int:
    """Return how many rounds a model has been trained for."""
    # XGBoost 1.3 can't tell.
    count = getattr(booster, "num_boosted_rounds", None)
    return 0 if count is None else int(count())


def _best(booster: Any) -> dict[str, Any]:
    """Return what early stopping found. A model has it as text."""
    texts = {name: booster.attr(name) for name in ("best_iteration", "best_score")}
    return {name: validation.number_in(text) for name, text in texts.items() if text is not None}


def _parameters(booster: Any) -> dict[str, Any]:
    """Return the parameters that XGBoost uses, under XGBoost's names.

    A booster does not know which of them the caller gave. Its configuration has all, in sections
    that end with "_param".
    """
    config = json.loads(booster.save_config())["learner"]
    found = {name: _setting(value) for name, value in _leaves(config)}
    found["objective"] = config["objective"]["name"]
    metrics = [each["name"] for each in config.get("metrics", ())]
    return found | ({"eval_metric": ", ".join(metrics)} if metrics else {})


def _leaves(section: Mapping[str, Any], *, is_wanted: bool = False) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, is_wanted=name.endswith("_param"))
        elif isinstance(value, list):
            for each in value:
                yield from _leaves(each) if isinstance(each, dict) else ()
        elif is_wanted:
            yield name, value


def _setting(text: str) -> Any:
    """Return a setting. XGBoost keeps 0.3 in 32 bits, and writes it as "0.300000012"."""
    value = validation.number_in(text)
    return float(str(np.float32(value))) if isinstance(value, float) else value
