"""Log what a script gives to TensorBoard: a ``SummaryWriter`` like that of torch.

    from journaltrack.integrations.tensorboard import SummaryWriter

instead of ``from torch.utils.tensorboard import SummaryWriter``. Neither torch nor TensorBoard is
imported, and no event file is written.

Invariant: an ``add_`` call never ends training. What has no place in a run is left out, with one
warning for each method.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, is_rank_zero, prefixed, with_base_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from journaltrack.tracking.tracker import Tracker

_BINS: Final = 64
"""Of a histogram whose bins TensorBoard would choose."""


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
        place = Path(log_dir).name if log_dir else comment
        if place.strip("-_. ") and tracker is None:
            options = with_base_name(options, place)
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
        """Record a point. A step with a fraction is none; ``walltime`` is its time in seconds."""
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
            values = tag_scalar_dict
            if callable(getattr(values, "items", None)):
                values = prefixed(f"{main_tag}/", values)
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
            if hparam_dict is not None:
                self._run.log_parameters(hparam_dict)
            if metric_dict:
                # TensorBoard shows what has no step at step 0, too.
                self._run.log_metrics(metric_dict, 0 if global_step is None else global_step)

    def add_text(
        self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """Record a text as an artifact: Markdown, as TensorBoard reads it."""
        if self._is_here():
            self._run.log_media("text", _given(text_string), f"{tag}.md", global_step)

    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """Record an image as an artifact: PNG. Images of a batch are put side by side."""
        if self._is_here():
            self._run.log_media(
                "image", lambda: _image(img_tensor, dataformats), f"{tag}.png", global_step
            )

    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Record a batch of images; see ``add_image``."""
        self.add_image(tag, img_tensor, global_step, walltime, dataformats)

    def add_figure(
        self,
        tag: str,
        figure: Any,
        global_step: Any = None,
        close: bool = True,
        walltime: float | None = None,
    ) -> None:
        """Record a figure of matplotlib, or some, as artifacts: PNG. Then close them."""
        figures = figure if isinstance(figure, (list, tuple)) else [figure]
        for number, each in enumerate(figures):
            if self._is_here():
                name = tag if each is figure else f"{tag}/{number}"
                self._run.log_media("figure", _given(each), f"{name}.png", global_step)
            if close and "matplotlib.pyplot" in sys.modules:
                sys.modules["matplotlib.pyplot"].close(each)

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: Any = None,
        bins: Any = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """Record a histogram as an artifact: JSON of counts and of the edges between them."""
        if self._is_here():
            self._run.log_media(
                "dict", lambda: _histogram(values, bins, max_bins), f"{tag}.json", global_step
            )

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Take any other ``add_`` method, also of future versions, and leave it out."""
        if not name.startswith("add_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def leave_out(*_: object, **__: object) -> None:
            """Warn, once for each method."""
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


def _given(value: object) -> Callable[[], object]:
    return lambda: value


def _array(value: Any) -> Any:
    """Return an array of NumPy's. Whoever has an image or values has NumPy."""
    import numpy as np  # noqa: PLC0415 - most scripts write scalars alone

    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _image(value: Any, dataformats: str) -> Any:
    """Return an image as height x width (x channels), or what was given if it is none."""
    array, axes = _array(value), dataformats.upper()
    if array.ndim != len(axes) or not set(axes) <= set("NHWC") or array.dtype.kind not in "fiub":
        return value
    array = array.transpose([axes.index(axis) for axis in "NHWC" if axis in axes])
    # TensorBoard cuts floats to this range, too.
    array = array.clip(0, 1) if array.dtype.kind == "f" else array
    if "N" in axes:
        # One row of all images of the batch.
        array = array.swapaxes(0, 1).reshape(array.shape[1], -1, *array.shape[3:])
    return array


def _histogram(values: Any, bins: Any, max_bins: int | None) -> dict[str, Any]:
    """Return counts and edges of the finite values, and how many others there are."""
    import numpy as np  # noqa: PLC0415 - as above

    found = _array(values).astype(float).ravel()
    finite = found[np.isfinite(found)]
    counts, edges = np.histogram(finite, bins=_BINS if bins == "tensorflow" else bins)
    if max_bins is not None and len(counts) > max_bins:
        counts, edges = np.histogram(finite, bins=max_bins)
    others = len(found) - len(finite)
    return {"counts": counts.tolist(), "edges": edges.tolist(), "not finite": others}
