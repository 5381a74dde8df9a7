"""Log an accelerate run: ``Accelerator(log_with="journaltrack")``, once this module is imported.

For accelerate 0.30 or later. Before 1.15 there is no register: pass the tracker itself. Must not
know other frameworks.

Invariant: the constructor touches no process group. accelerate makes trackers before there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, importing, with_base_name

with importing("accelerate"):
    from accelerate import tracking
    from accelerate.tracking import GeneralTracker, on_main_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.tracking.tracker import Tracker
    from journaltrack.tracking.validation import Parameters


class JournaltrackTracker(Logs, GeneralTracker):
    """Record what ``Accelerator.log`` gets, on the main process.

    ``Accelerator.end_training`` ends the run as Completed; what is logged later continues it.
    accelerate tells nothing of an exception: the run becomes Failed when the exception ends the
    process, or a ``with`` block of the tracker.

    Args:
        run_name: The project's name, which ``init_trackers`` passes: the begin of the run's name,
            unless ``trial_component_name`` is given.
        tracker: Record with this tracker, whose end is yours; None to make one.
        options: Arguments of ``Tracker.create``: ``init_trackers(…, init_kwargs={"journaltrack":
            {…}})``.
    """

    name: Final = "journaltrack"
    requires_logging_directory: Final = False
    main_process_only: Final = True

    def __init__(
        self,
        run_name: str | None = None,
        tracker: Tracker | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if run_name and tracker is None:
            options = with_base_name(options, run_name)
        self._run = FrameworkRun(tracker, options)

    @on_main_process
    def start(self) -> None:
        """Begin the run, when ``init_trackers`` is called."""
        self._run.tracker  # noqa: B018 - the first use makes it

    @on_main_process
    def store_init_configuration(self, values: Parameters) -> None:
        """Record the configuration, nested as it may be."""
        self._run.log_parameters(values)

    @on_main_process
    def log(self, values: Mapping[str, Any], step: int | None = None, **_: object) -> None:
        """Record the numbers of a step. A text is left out, with one warning for each name."""
        self._run.log_metrics(values, step)

    @on_main_process
    def finish(self) -> None:
        """End the run, and deliver."""
        self._run.end()


if hasattr(tracking, "register_tracker_class"):
    tracking.register_tracker_class(JournaltrackTracker)
