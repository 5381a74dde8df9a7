"""Log a Lightning run: ``Trainer(logger=JournaltrackLogger())``.

For ``lightning`` and ``pytorch_lightning``, 2.0 or later: whichever of the two is imported, since
``lightning`` installs both. Must not know other frameworks.

Invariant: what a ``Trainer`` calls at each step waits for nothing. ``finalize`` alone delivers,
within the tracker's deadline: it ends a ``fit``, and Lightning uses the logger again for ``test``.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, checkpoints_kept, importing

_IS_OLD = "lightning.pytorch" not in sys.modules and (
    "pytorch_lightning" in sys.modules
    or (find_spec("lightning") is None and find_spec("pytorch_lightning") is not None)
)
with importing("Lightning"):
    if _IS_OLD:
        from pytorch_lightning.loggers import Logger
        from pytorch_lightning.loggers.logger import rank_zero_experiment
        from pytorch_lightning.utilities import rank_zero_only
    else:
        from lightning.pytorch.loggers import Logger
        from lightning.pytorch.loggers.logger import rank_zero_experiment
        from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.integrations.loggers import Checkpoints
    from journaltrack.tracking.tracker import Tracker
    from journaltrack.tracking.validation import Parameters


class FitFailedError(Exception):
    """Lightning says that training failed, and there is no exception."""


class JournaltrackLogger(Logs, Logger):
    """Record what a ``Trainer`` logs, on rank zero.

    ``fit``, ``validate`` and ``test`` end the run: as Completed, Failed with the exception's
    message, or Stopped on Ctrl-C. The next of them continues it. If Slurm requeues the job, the run
    is Stopped, and ``resume=True`` continues it.

    ``epoch``, which Lightning adds to each step, is recorded once per change.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        log_checkpoints: Which checkpoints of ``ModelCheckpoint`` to record as artifacts, with their
            bytes: "last" or "best" at the end of ``fit``; "all" as they are saved, up to 40 files.
        save_dir: The folder below which Lightning saves checkpoints.
        options: Arguments of ``Tracker.create``.
    """

    def __init__(
        self,
        *,
        tracker: Tracker | None = None,
        log_checkpoints: Checkpoints = False,
        save_dir: str | os.PathLike[str] = "lightning_logs",
        **options: Any,
    ) -> None:
        super().__init__()
        self._kept = checkpoints_kept(log_checkpoints)
        self._save_dir = os.fspath(save_dir)
        self._name = str(options.get("experiment_name") or "journaltrack")
        self._run = FrameworkRun(tracker, options)
        self._paths = {"last": "", "best": ""}
        self._recorded: dict[str, float] = {}

    # -- what a Trainer asks ---------------------------------------------------------------

    @property
    def name(self) -> str:
        """Return the experiment's name, or "journaltrack": a folder of checkpoints."""
        return self._name

    @property
    def version(self) -> str:
        """Return the run's name: a folder of checkpoints."""
        return self._run.name

    @property
    def save_dir(self) -> str:
        """Return the folder below which checkpoints are."""
        return self._save_dir

    @property
    def log_dir(self) -> str:
        """Return the folder of the run's checkpoints. The logger writes nothing there."""
        return os.path.join(self._save_dir, self._name, self._run.name)  # noqa: PTH118 - text

    @property
    @rank_zero_experiment
    def experiment(self) -> Tracker:
        """Return the tracker; on other ranks an object whose methods do nothing."""
        return self._run.tracker

    # -- what a Trainer tells --------------------------------------------------------------

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record the metrics of a step."""
        self._run.log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Parameters | None, *_: object, **__: object) -> None:
        """Record hyperparameters. Those that did not change are not recorded again."""
        if params is not None:
            self._run.log_parameters(params)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Record a checkpoint, or note where it is: it may be gone at the end of ``fit``."""
        saved = str(getattr(checkpoint_callback, "_last_checkpoint_saved", ""))
        last = str(getattr(checkpoint_callback, "last_model_path", "")) or saved
        best = str(getattr(checkpoint_callback, "best_model_path", ""))
        self._paths = {"last": last, "best": best}
        if self._kept == "all" and saved:
            self._record(saved, os.path.basename(saved))  # noqa: PTH119 - text

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a ``fit``, ``validate`` or ``test``, and deliver.

        Args:
            status: "success"; "failed"; or "finished", which Lightning says when Slurm requeues the
                job, before it saves a checkpoint: then nothing waits for the network.
        """
        path = self._paths.get(self._kept)
        if path and status != "finished":
            self._record(path, f"{self._kept}{os.path.splitext(path)[1]}")  # noqa: PTH122 - text
        if status == "finished":
            self._run.stop("Slurm requeued the job")
        elif status == "success":
            self._run.end()
        else:
            # Lightning calls this while it handles the exception.
            self._run.end(sys.exc_info()[1] or FitFailedError(f"Lightning ended it as {status}"))

    def _record(self, path: str, name: str) -> None:
        """Record a checkpoint, unless it is the one recorded last under that name."""
        try:
            changed_at = os.stat(path).st_mtime  # noqa: PTH116 - text
        except OSError:
            changed_at = -1.0
        if self._recorded.get(path) != changed_at:
            self._recorded[path] = changed_at
            self._run.log_checkpoint(path, f"checkpoints/{name}")
