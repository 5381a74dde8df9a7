"""Record the run of a training framework, for every logger of this package.

A framework makes its logger before the job's processes know their ranks, copies it to them, asks
for its name, ends it and uses it again. ``FrameworkRun`` stands that: its tracker is made when the
first value comes, and opens again after each end. Must not know any framework.

Invariants: a value, name or step that can't be recorded is left out with one warning, and does not
end training (unless the tracker is strict). Nothing here waits for the network but ``end``, within
the tracker's deadline.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import inspect
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import (
    InvalidInputError,
    InvalidTypeError,
    JournalFullError,
    JournaltrackError,
    MissingExtraError,
    described,
)
from journaltrack.tracking import shapes, sigterm, validation, writers
from journaltrack.tracking.jobs import name_of_this_job
from journaltrack.tracking.members import TrialComponentStatus
from journaltrack.tracking.settings import is_success, name_for
from journaltrack.tracking.sigterm import TerminatedError
from journaltrack.tracking.tracker import Tracker
from journaltrack.util import patterns

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from journaltrack.tracking.validation import Parameters

logger = logging.getLogger(__name__)

CHECKPOINT_FILES_MAX: Final = 40
"""Files that the checkpoints of one logger may have: SageMaker takes 60 outputs of a run."""
_CALLED: Final = {
    **dict.fromkeys(("name", "run_name", "run_id", "version", "id"), ("trial_component_name",)),
    **dict.fromkeys(("project", "project_name", "experiment"), ("experiment_name",)),
    **dict.fromkeys(("path", "dir", "save_dir", "log_dir"), ("journal",)),
}
"""What loggers of others call an argument of ``Tracker.create``."""


class UnendedError(Exception):
    """Training began, and the process exits without an end of it."""


class FrameworkRun:
    """The run that one logger records.

    The caller of ``tracker=`` owns that tracker: its status and its end are the caller's affair.

    Args:
        tracker: Record with this tracker; None to make one.
        options: Arguments of ``Tracker.create``, for the one to make.
        epoch: The metric that tells the epoch. It is recorded once per change, because frameworks
            add it to every step.

    Attributes:
        name: Of the run, known before it is made.
        is_training: Whether the framework is inside of a training that it will end.
        conclude: Records, as the interpreter exits, what belongs to the end of a run that nobody
            ended. It gets the exception that ended the program.

    Raises:
        InvalidInputError: Both were given, or a name has an impossible value.
        InvalidTypeError: ``Tracker.create`` has no such argument.
    """

    def __init__(
        self, tracker: Tracker | None, options: Mapping[str, Any], *, epoch: str = "epoch"
    ) -> None:
        if tracker is not None and options:
            raise InvalidInputError(
                f"tracker= and {', '.join(options)} were given: a tracker has its own",
                hint="give a tracker, or arguments of Tracker.create",
            )
        self._is_ours = tracker is None
        self._tracker = tracker
        self._options = dict(options)
        if tracker is None:
            self.name = self._choose_name()
        else:
            self.name = tracker.trial_component.trial_component_name
        self._epoch = epoch
        self._last_epoch: object = None
        # Of this training and of the one before: where its steps began, and of which series.
        self._first: tuple[int, frozenset[Any]] | None = None
        self._before: tuple[int, frozenset[Any]] | None = None
        self._last_step = 0
        self.is_training = False
        self.conclude: Callable[[BaseException | None], None] | None = None
        self._checkpoints: set[str] = set()
        self._set_up()

    def _set_up(self) -> None:
        """Begin in this process: the constructor's, or one that a copy came to."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._in_progress = False
        self._told: set[str] = set()

    def _choose_name(self) -> str:
        """Choose the run's name now, so that each copy of this records the same run."""
        try:
            inspect.signature(Tracker.create).bind(**self._options)
        except TypeError as error:
            known = [*inspect.signature(Tracker.create).parameters]
            odd = [name for name in self._options if name not in known]
            meant = dict.fromkeys(
                f"{near}="
                for name in odd
                for near in _CALLED.get(name) or patterns.near(name, known)
            )
            raise InvalidTypeError(
                f"Tracker.create takes no such arguments: {error}; nothing was recorded",
                hint=f"{patterns.PERHAPS}{' or '.join(meant)}"
                if meant
                else "help(Tracker.create) has its arguments",
            ) from error
        given = self._options.get("trial_component_name")
        resume = bool(self._options.get("resume"))
        base = self._options.pop("base_trial_component_name", None)
        if given is None and base is None and not resume and name_of_this_job() is None:
            base = script_name()
        name = name_for(given, base, resume=resume, display_name=self._options.get("display_name"))
        # A name of our own is nobody else's: whichever copy comes first makes the run.
        self._options.update(trial_component_name=name, resume=resume or given is None)
        return name

    def __getstate__(self) -> dict[str, Any]:
        """Copy to another process, where the run is one that may exist.

        No session can be copied there, and another one could be of another account: such a copy
        does not deliver, as a copy of a tracker does not.
        """
        state = self._state()
        if self._options.get("boto3_session") is not None:
            state["_options"] |= {"boto3_session": None, "sync": "off"}
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy within the process, where all use one session."""
        session = self._options.get("boto3_session")
        memo[id(session)] = session
        return self._twin(copy.deepcopy(self._state(), memo))

    def __copy__(self) -> Self:
        """Copy within the process, see ``__deepcopy__``."""
        return self._twin(self._state())

    def _twin(self, state: dict[str, Any]) -> Self:
        twin = type(self).__new__(type(self))
        twin.__setstate__(state)
        return twin

    def _state(self) -> dict[str, Any]:
        state = {**vars(self), "_options": {**self._options, "resume": True}}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set_up()

    # -- recording -------------------------------------------------------------------------

    @property
    def tracker(self) -> Tracker:
        """Return the tracker, with its run in progress. The first use makes it."""
        if self._in_progress and self._tracker is not None:
            return self._tracker
        return self._begin()

    def suggest(self, **options: object) -> None:
        """Suggest arguments of ``Tracker.create`` that nobody gave, for a run not made yet."""
        self._options = {**options, **self._options}

    @property
    def is_made(self) -> bool:
        """Return whether there is a tracker."""
        return self._tracker is not None

    def _begin(self) -> Tracker:
        with self._lock:
            if self._tracker is None:
                is_copy = os.getpid() != self._pid
                self._tracker = Tracker.create(
                    **(self._options | {"resume": True} if is_copy else self._options)
                )
            if not self._in_progress:
                if self._is_ours:
                    self._tracker.__enter__()
                if self._is_ours or self.conclude is not None:
                    self._began_in = os.getpid()
                    _in_progress.append(self)
                    sigterm.watch_exits()
                self._in_progress = True
            return self._tracker

    def log_metric(
        self, name: str, value: object, step: object = None, timestamp: object = None
    ) -> None:
        """Record one point; see ``log_metrics``."""
        if type(value) is not float:
            value = validation.scalar(value)
        if type(value) is float and type(step) is int and timestamp is None:
            # The quickest way of a tracker. What it refuses, the other way tells.
            with contextlib.suppress(InvalidInputError, InvalidTypeError):
                self.tracker.log_metric(name, value, step=step)
                self._last_step = step
                if self._first is None:
                    self._count_from(step, (name,))
                return
        self.log_metrics({name: value}, step, timestamp)

    def log_metrics(
        self, values: Mapping[str, Any], step: object = None, timestamp: object = None
    ) -> None:
        """Record the points of one step.

        Args:
            values: Numbers by name; see ``Tracker.log_metrics``.
            step: The framework's step, as of ``Tracker.log_metric``. None, or one that SageMaker
                can't take, such as 1.5: the points have no step.
            timestamp: As of ``Tracker.log_metric``; None, or an impossible one: now.
        """
        tracker = self.tracker
        if not callable(getattr(values, "items", None)):
            error = InvalidTypeError(f"metrics must be a mapping, not {type(values).__name__}")
            if self._is_strict():
                raise error
            self.leave_out("a call's metric", error)
            return
        if self._epoch in values:
            values = self._with_new_epoch(values)
        left_out: dict[str, Exception] = {}
        if step is not None and not (type(step) is int and 0 <= step <= limits.STEP_MAX):
            step = _step(step, left_out)
        if timestamp is not None:
            timestamp = _moment(timestamp, left_out)
        if left_out and self._is_strict():
            raise left_out.popitem()[1]
        if values:
            log: Any = tracker.log_metrics
            self._record(
                lambda some: log(some, timestamp=timestamp, step=step),
                values,
                lambda: list(values.items()),
                left_out,
            )
            if step is not None:
                self._last_step = step
                if self._first is None:
                    self._count_from(step, values)

    def _with_new_epoch(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return values without the epoch, unless it is another one than that of the last call."""
        epoch = validation.scalar(values[self._epoch])
        # Anything else is compared in its own way, or not at all.
        epoch = epoch if isinstance(epoch, (int, float, str)) else None
        if epoch is not None and epoch == self._last_epoch:
            values = {name: value for name, value in values.items() if name != self._epoch}
        self._last_epoch = epoch
        return values

    def _count_from(self, step: int, names: Iterable[Any]) -> None:
        """Note where the steps of a training begin. Warn if they are those of the one before."""
        self._first = step, frozenset(names) - {self._epoch}
        if self._before is None:
            return
        first, series = self._before
        if step <= first and series & self._first[1]:
            writers.warn(
                f"{self.name}: training counts from step {step} again, so its points mix with "
                "those of the training before; give each training a logger and a run of its own, "
                "or let it go on where the last one ended"
            )

    def begin_training(self) -> None:
        """Note that what comes next is of another training: its steps may begin anew."""
        first, self._first = self._first, None
        # A single step is a test or a summary.
        if first is not None and self._last_step > first[0]:
            self._before = first

    def log_parameters(self, parameters: Parameters) -> None:
        """Record parameters, nested ones too. Those that did not change are not recorded again."""

        def parts() -> list[tuple[Any, Any]]:
            """Return the values to record one by one: nested ones, if they can be taken apart."""
            try:
                return [each[:2] for each in shapes.flattened(parameters, "/")]
            except InvalidInputError:
                # One of them contains itself, or two have one name.
                return shapes.pairs(parameters, "parameters")
            except InvalidTypeError as error:
                left_out["a call's parameter"] = error
                return []

        left_out: dict[str, Exception] = {}
        self._record(self.tracker.log_parameters, parameters, parts, left_out)

    def _record(
        self,
        record: Callable[[Any], None],
        whole: object,
        parts: Callable[[], list[tuple[Any, Any]]],
        left_out: dict[str, Exception],
    ) -> None:
        """Record all values in one transaction. If one is refused, record the others.

        Args:
            record: Records some values by name.
            whole: All of them.
            parts: Returns names and values, to record one by one.
            left_out: What else to warn of, by its words. The warnings come last: they may be
                errors.
        """
        try:
            record(whole)
        except (InvalidInputError, InvalidTypeError):
            if self._is_strict():
                raise
            for name, value in parts():
                try:
                    record({name: value})
                except (InvalidInputError, InvalidTypeError) as refused:  # noqa: PERF203
                    left_out[_shown(name)] = refused
        for what, why in left_out.items():
            self.leave_out(what, why)

    def log_media(
        self, kind: str, make: Callable[[], object], name: str, step: object = None
    ) -> None:
        """Record a figure, image, text or document of a step as an artifact.

        What can't be made into one, or does not fit into the spool, is left out with a warning.

        Args:
            kind: "figure", "image", "text" or "dict": ``Tracker.log_…``.
            make: Returns what that takes. It may raise anything.
            name: The artifact's name.
            step: As of ``log_metrics``.
        """
        left_out: dict[str, Exception] = {}
        known = None if step is None else _step(step, left_out)
        if left_out and self._is_strict():
            raise left_out.popitem()[1]
        log = getattr(self.tracker, f"log_{kind}")
        try:
            log(_made(kind, make), name, step=known)
        except (InvalidInputError, InvalidTypeError, MissingExtraError, JournalFullError) as error:
            if self._is_strict():
                raise
            left_out[f"the {kind} {limits.shown(name)}"] = error
        for what, why in left_out.items():
            self.leave_out(what, why)

    def leave_out(self, what: str, why: Exception | str) -> None:
        """Warn, once for each of them, of something that is not recorded."""
        if what not in self._told:
            self._told.add(what)
            text = why.message if isinstance(why, JournaltrackError) else str(why)
            writers.warn(f"{what} is not recorded: {text}")

    def log_checkpoint(self, path: str | os.PathLike[str], name: str) -> None:
        """Record a checkpoint, a file or a folder, with its bytes as they are now.

        A file that is gone, or does not fit into the spool, is left out with a warning. So is a
        folder with more files than a run may have, as a whole.

        Args:
            path: The file or folder.
            name: The artifact's name; a folder's files have theirs below it.
        """
        root = os.fspath(path)
        files = {name: root}
        if os.path.isdir(root):  # noqa: PTH112 - never raises
            try:
                below = writers.below(root)
            except InvalidInputError as error:
                self.leave_out(f"the checkpoint {limits.shown(name)}", error)
                return
            files = {f"{name}/{each}": file for file, each in below.found}
            if below.left_out:
                why = writers.told(root, below.left_out, len(files))
                self.leave_out(f"a part of the checkpoint {limits.shown(name)}", why)
        files = {key[-limits.ARTIFACT_KEY_CHARS_MAX :]: file for key, file in files.items()}
        # A part of a checkpoint is none.
        if len(self._checkpoints | files.keys()) > CHECKPOINT_FILES_MAX:
            self.leave_out(
                "a checkpoint",
                f"{name} has {len(files)} files, and a run keeps at most {CHECKPOINT_FILES_MAX} "
                f"files of checkpoints, of which it has {len(self._checkpoints)}; "
                "log_artifacts(folder) records more",
            )
            return
        for key, file in files.items():
            try:
                self.tracker.log_artifact(file, name=key)
            # One file that is gone costs no other.
            except (InvalidInputError, JournalFullError) as error:  # noqa: PERF203
                if self._is_strict():
                    raise
                self.leave_out(f"the checkpoint {limits.shown(key)}", error)
            else:
                self._checkpoints.add(key)

    def _is_strict(self) -> bool:
        return self.tracker._settings.strict  # noqa: SLF001 - the package's own

    # -- ends ------------------------------------------------------------------------------

    def end(self, error: BaseException | None = None) -> None:
        """Record how training ended, and deliver. What comes later continues the run.

        Args:
            error: What ended training, see ``Tracker``; None: the run is Completed.
        """
        self.is_training = False
        with self._lock:
            tracker, was_in_progress = self._tracker, self._in_progress
            self._leave()
        if tracker is None or not self._is_ours or (error is None and not was_in_progress):
            return
        kind = None if error is None else type(error)
        tracker.__exit__(kind, error, None if error is None else error.__traceback__)

    def stop(
        self, message: str | None, at: dt.datetime | None = None, *, status: str = "Stopped"
    ) -> None:
        """Record that the run is Stopped. Deliver nothing.

        Args:
            message: Why.
            at: Its end; None: another process shall continue it.
            status: What it is instead.
        """
        with self._lock:
            tracker = self._tracker
            self._leave()
        if tracker is not None and self._is_ours:
            tracker.trial_component.status = TrialComponentStatus(status, message)
            if at is not None:
                tracker.trial_component.end_time = at
            tracker.flush()

    def _leave(self) -> None:
        self._in_progress = False
        self.begin_training()
        with contextlib.suppress(ValueError):
            _in_progress.remove(self)
        if not _in_progress:
            sigterm.ignore_exits()

    def end_at_exit(self) -> None:
        """End a run that nobody ended, as the interpreter exits.

        An exception that ends the program is known by then. Otherwise a training that began, and
        was not ended, failed: frameworks call nothing when it raises.
        """
        if self._began_in != os.getpid():
            return
        # In an interactive session it may be of anything.
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        if self._tracker is not None and self._tracker.is_terminated:
            error = TerminatedError()
        error = error or sigterm.exit_error()
        if self.is_training and (error is None or is_success(error)):
            error = UnendedError("the process exited before training ended")
        if self.conclude is not None:
            self.conclude(error)
        self.end(error)


def _shown(name: object) -> str:
    try:
        return limits.shown(str(name))
    # A name that is no text may raise anything instead of telling its words.
    except Exception:  # noqa: BLE001
        return f"a name that is a {type(name).__name__}"


def _made(kind: str, make: Callable[[], object]) -> object:
    try:
        return make()
    # NumPy and its like refuse a value with any exception.
    except Exception as error:
        raise InvalidInputError(f"it is no {kind}: {described(error)}") from error


def _step(step: object, left_out: dict[str, Exception]) -> int | None:
    """Return a framework's step as a journal takes it; note why it is left out."""
    try:
        return validation.step(step)
    except JournaltrackError as error:
        left_out["the step of points"] = error
        return None


def _moment(timestamp: object, left_out: dict[str, Exception]) -> object:
    """Return a time that a journal takes, or None; note why it is left out."""
    try:
        validation.timestamp_ns(timestamp)
    except JournaltrackError as error:
        left_out["the time of points"] = error
        return None
    return timestamp


_in_progress: list[FrameworkRun] = []


@atexit.register
def _end_all() -> None:
    for run in [*_in_progress]:
        try:
            run.end_at_exit()
        except Exception:  # noqa: PERF203 - a few runs, once
            logger.exception("the end of %s could not be recorded", run.name)


def script_name() -> str | None:
    """Return the program's name, as the beginning of a run's; None in a notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not isinstance(file, str):
        return None
    path = Path(file)
    # `python -m package`
    name = path.parent.name if path.stem == "__main__" else path.stem
    return limits.suggested_name(name).lower()
