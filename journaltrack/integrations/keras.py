"""Log a Keras run: ``model.fit(…, callbacks=[JournaltrackCallback()])``.

For Keras 3, with any backend. Must not know other frameworks.

Invariant: what Keras calls at each batch waits for nothing.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from journaltrack.errors import InvalidInputError
from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, importing, is_rank_zero, prefixed

with importing("Keras"):
    from keras.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.tracking.tracker import Tracker


class JournaltrackCallback(Logs, Callback):
    """Record the logs of ``fit`` and ``evaluate``, on rank zero.

    The values of an epoch are points of Keras' epoch, which counts from 0, with the learning rate.
    Each epoch begins to be counted anew in a second ``fit``, unless it has ``initial_epoch``.
    ``evaluate`` by itself gives points named ``test_…``.

    ``fit`` ends the run as Completed; what comes later continues it. Keras tells nothing of an
    exception: then the run becomes Failed when the process exits, or at the end of a ``with`` block
    of the callback.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        every_batches: Also record the values of each so many batches, as ``batch_…``, counted over
            all epochs. They are Keras' averages over the epoch so far. 0 for none.
        log_model: Record the model as the artifact ``model.keras`` at the end of ``fit``.
        options: Arguments of ``Tracker.create``.
    """

    def __init__(
        self,
        *,
        tracker: Tracker | None = None,
        every_batches: int = 0,
        log_model: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if every_batches < 0:
            raise InvalidInputError(f"every_batches is {every_batches}; it must be 0 or more")
        self._run = FrameworkRun(tracker, options)
        self._every_batches = every_batches
        self._log_model = log_model
        self._batches = 0
        self._records = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record what ``fit`` was given, and the optimizer's settings."""
        self._records = is_rank_zero()
        if not self._records:
            return
        self._run.is_training = True
        parameters: dict[str, Any] = {"fit": dict(self.params or {})}
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            parameters["optimizer"] = optimizer.get_config()
        # A model that is not built yet has no count.
        with contextlib.suppress(ValueError):
            parameters["model"] = {"name": self.model.name, "weights": self.model.count_params()}
        self._run.log_parameters(parameters)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the values of an epoch."""
        if not self._records:
            return
        values = dict(logs or {})
        optimizer: Any = getattr(self.model, "optimizer", None)
        # There may be none, and a schedule can't be read with every backend.
        with contextlib.suppress(Exception):
            values.setdefault("learning_rate", float(optimizer.learning_rate))
        self._run.log_metrics(values, epoch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the values of a batch, if wanted."""
        step, self._batches = self._batches, self._batches + 1
        if self._records and self._every_batches and step % self._every_batches == 0:
            self._run.log_metrics(prefixed("batch_", logs or {}), step)

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record the values of an ``evaluate`` outside of ``fit``, and end the run again."""
        # Inside of ``fit`` they come at the end of the epoch.
        if not self._run.is_training and logs and is_rank_zero():
            self._run.log_metrics(prefixed("test_", logs))
            self._run.end()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """End the run, and deliver."""
        if not self._records:
            return
        if self._log_model:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.keras")
                self.model.save(file)
                self._run.log_checkpoint(file, file.name)
        self._run.end()
