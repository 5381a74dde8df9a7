"""Log what a script gives to TensorBoard: a ``SummaryWriter`` like that of torch.

    from journaltrack.integrations.tensorboard import SummaryWriter

instead of ``from torch.utils.tensorboard import SummaryWriter``. Neither torch nor TensorBoard is
imported, and no event file is written.

Invariant: an ``add_`` call never ends training. What has no place in a run is left out, with one
warning for each method.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from journaltrack import limits
from journaltrack.integrations.base import FrameworkRun, Logs, is_rank_zero

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from journaltrack.tracking.tracker import Tracker


class SummaryWriter(Logs):
    """Record the calls of a ``torch.utils.tensorboard.SummaryWriter``, on rank zero.

    All calls go to one run: ``add_scalars`` and ``add_hparams`` make no further ones. Values keep
    the precision that they have. ``close`` ends the run as Completed, and a later call continues
    it. A writer that nobody closes ends with the process: as Failed, if an exception ends it.

    Args:
        log_dir: The folder whose last part begins the run's name. It is made when ``log_dir`` or
            ``get_logdir()`` is asked for; the writer itself puts nothing there.
        comment: As of torch's writer: the end of the folder's name if there is no ``log_dir``.
        purge_step, max_queue, flush_secs, filename_suffix: Without effect.
        tracker: Record with this tracker, whose end is yours; None to make one.
        options: Arguments of ``Tracker.create``.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
        *,
        tracker: Tracker | None = None,
        **options: Any,
    ) -> None:
        place = os.path.basename(os.fspath(log_dir).rstrip("/")) if log_dir else comment  # noqa: PTH119
        named = {"trial_component_name", "base_trial_component_name"} & set(options)
        if place.strip("-_. ") and tracker is None and not named and not options.get("resume"):
            options["base_trial_component_name"] = limits.suggested_name(place)
        self._run = FrameworkRun(tracker, options)
        self._log_dir = os.fspath(log_dir) if log_dir else f"runs/{self._run.name}"
        self._records: bool | None = None

    @property
    def log_dir(self) -> str:
        """Return the folder for what a script writes beside its scalars."""
        os.makedirs(self._log_dir, exist_ok=True)  # noqa: PTH103 - text
        return self._log_dir

    def get_logdir(self) -> str:
        """Return ``log_dir``."""
        return self.log_dir

    # -- what is recorded ------------------------------------------------------------------

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: Any = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Record a point. A step of a float is cut; ``walltime`` is its time in seconds."""
        if self._is_here():
            self._run.log_metric(tag, scalar_value, global_step, walltime)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Record a point for each tag, named ``main_tag/tag``."""
        if self._is_here():
            values = {f"{main_tag}/{tag}": value for tag, value in tag_scalar_dict.items()}
            self._run.log_metrics(values, global_step, walltime)

    def add_hparams(
        self,
        hparam_dict: Mapping[str, Any],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Mapping[str, Any] | None = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> None:
        """Record parameters and metrics of this run."""
        if self._is_here():
            self._run.log_parameters(hparam_dict)
            if metric_dict:
                self._run.log_metrics(metric_dict, global_step)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Take any other ``add_`` method, also of future versions, and leave it out."""
        if not name.startswith("add_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def leave_out(*_: object, **__: object) -> None:
            self._run.leave_out(f"what {name} got", "a run has no place for it")

        return leave_out

    # -- ends ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until everything is on the disk, where it survives a loss of power."""
        if self._run.is_made:
            self._run.tracker.flush()

    def close(self) -> None:
        """End the run, and deliver. A later call continues it."""
        self._run.end()

    def _is_here(self) -> bool:
        """Return whether this process records: known at the first value, not before."""
        if self._records is None:
            self._records = is_rank_zero()
        return self._records
