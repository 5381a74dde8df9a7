"""Run a command as a recorded run, for ``journaltrack run``.

The command gets an environment in which its trackers belong to the run. Its output passes through
a relay (``util/output``), which keeps the end of it. This process waits for signals and for the
command's end, and does nothing else. A thread records: training never waits for the journal, and
runs if there is none.

Signals: a signal for this process alone goes on to the command. A signal for the process group
(Ctrl-C), or for all processes of a job, has reached the command already: it is not sent again.

Invariants: the command is started once, whatever fails here, and its exit code is returned. After
``SIGKILL`` of this process Linux kills the command, too: whoever kills what they started wants it
dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from journaltrack import limits
from journaltrack.errors import JournaltrackError, described
from journaltrack.journal import provenance, vocabulary
from journaltrack.journal.context import Guard
from journaltrack.tracking import jobs, validation
from journaltrack.tracking.settings import (
    closing_on_error,
    name_for,
    open_journal,
    run_of_launch,
    settings_of,
    system_seconds,
)
from journaltrack.tracking.tracker import Tracker
from journaltrack.util import paths, process
from journaltrack.util.config import RUN_JOB_VARIABLE, RUN_VARIABLE
from journaltrack.util.output import (
    DRAIN_S,
    SIGNALS,
    TAIL_BYTES,
    Relay,
    open_standard_streams,
)

if TYPE_CHECKING:
    from journaltrack.importers.tensorboard import Follower
    from journaltrack.journal.journal import Journal

logger = logging.getLogger(__name__)

_BEGIN_S: Final = 1.0
"""Ours: how long the command's start waits until the run's start is recorded."""
_NAME_S: Final = 5.0
"""Ours: how long it waits in a job, whose journal decides the run's name."""
_KEEP_FIRST_S: Final = 60.0
_KEEP_MAX_S: Final = 1_800.0
"""Ours: the output is recorded after a minute, two, four and so on, then every half hour."""
_FOLLOW_S: Final = 10.0
"""Ours: how often the event files of TensorBoard are looked at."""
_END_S: Final = 60.0
"""Ours: how much longer than the delivery the recording of the end may take."""
_STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a run to end."""
_SIGNALLED: Final = 128
"""What shells add to a signal's number for the exit code."""
_QUIET: Final = (signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH)
_NOT_FOUND, _NOT_RUN = 127, 126
"""The exit codes of shells for a command that is not there, or can't be run."""
_LOOK_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run, and how to record it.

    Attributes:
        command: The program and its arguments.
        name: The run's name; None for a new one, which begins with the script's.
        journal: The journal's folder; None for the default journal.
        display_name, experiment, trial, sync: See ``Tracker.create``.
        tail_bytes: How much of the end of the output is kept. 0: the command prints as ever.
        system_metrics: See ``Tracker.create``.
        tensorboard: A folder into which the command writes event files, which are imported.
    """

    command: tuple[str, ...]
    name: str | None = None
    journal: str | None = None
    display_name: str | None = None
    experiment: str | None = None
    trial: str | None = None
    sync: str | None = None
    tail_bytes: int = TAIL_BYTES
    system_metrics: bool | float | None = None
    tensorboard: str | None = None


class Run:
    """A launch under its name. What can be wrong about it is said before anything is started.

    Raises:
        InvalidInputError: A name or option has an impossible value.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        settings = settings_of(sync=launch.sync)
        self.settings = settings
        self.display_name, self.mended = None, None
        if launch.display_name is not None:
            self.display_name, self.mended = validation.display_name(launch.display_name)
        for name, what in ((launch.experiment, "experiment name"), (launch.trial, "trial name")):
            if name is not None:
                validation.entity_name(name, what)
        self.name, self.base = _name(launch)
        self._naming = threading.Lock()
        self.journal = paths.journal_folder(launch.journal)
        self.rank = process.rank()
        self.system_s = system_seconds(launch.system_metrics, settings)

    def named(self, name: str | None = None) -> str:
        """Decide the run's name, once, and return it.

        Args:
            name: What to decide. None: a new one, because the journal has not told one in time.
        """
        with self._naming:
            if self.name is None:
                self.name = name or name_for(None, self.base, resume=False)
            return self.name

    def environment(self) -> dict[str, str]:
        """Return the environment of the command, without the run's name."""
        job = os.environ.get("SLURM_JOB_ID", "")
        own = {"JOURNALTRACK_JOURNAL": str(self.journal), RUN_JOB_VARIABLE: job}
        if self.launch.sync:
            own["JOURNALTRACK_SYNC"] = self.launch.sync
        # This process takes them, and not each tracker of the command besides.
        if self.system_s:
            own["JOURNALTRACK_SYSTEM_EVERY_S"] = "0"
        return {**os.environ, **own}

    def execute(
        self, tell: Callable[[str, str], None], on_name: Callable[[str], None] = lambda _: None
    ) -> int:
        """Run the command, and return its exit code, or 128 and the number of its signal.

        Afterwards this process still has all signals blocked: nothing replaces the exit code.

        Args:
            tell: Takes a message and a hint, about what could not be recorded.
            on_name: Takes the run's name, before the command starts.
        """
        open_standard_streams()
        # ``sigwait`` must get also those that are ignored by default.
        for number in _QUIET:
            signal.signal(number, lambda *_: None)
        # As with nohup: the command ignores them, too.
        stops = {each for each in _STOPS if signal.getsignal(each) is not signal.SIG_IGN}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS | {signal.SIGCHLD})
        relay = self._relay(tell)
        child = _Child(self.launch.command, self.environment(), relay, mask)
        recorder = _Recorder(self, relay, tell)
        recorder.start()
        recorder.began.wait(_BEGIN_S if self.name else _NAME_S)
        on_name(self.named())
        child.go(self.named(), tell)
        _wait_for_end(child, relay, stops)
        ended = child.ended()
        recorder.end(ended)
        if not _wait_for(recorder, stops, self.settings.close_deadline_s + _END_S):
            tell("the end of the run may not be recorded", "`journaltrack finish` records it")
        if relay is not None:
            relay.end()
        return ended.code

    def _relay(self, tell: Callable[[str, str], None]) -> Relay | None:
        try:
            return Relay((1, 2) if self.launch.tail_bytes else (), self.launch.tail_bytes)
        except OSError as error:
            tell(f"the output is not kept: {error}", "the command runs all the same")
            return None


def _name(launch: Launch) -> tuple[str | None, str]:
    """Return the run's name, and what the names of such runs begin with.

    The name is the given one, that of a launch around this one, or a new one, which begins with the
    script's. In a job the journal decides: a job that is started again continues its runs. Then
    there is no name yet.
    """
    words = [word for word in launch.command if word.endswith((".py", ".sh", ".ipynb"))]
    script = limits.suggested_name(Path(words[0] if words else launch.command[0]).stem).lower()
    named, job = launch.name or run_of_launch(), jobs.name_of_this_job()
    if named is not None:
        return name_for(named, None, resume=False), script
    if job is not None:
        return None, jobs.valid(f"{job}-{script}")
    return name_for(None, script, resume=False), script


def _last_change_ns(folder: Path) -> int:
    """Return a time after the last change of the event files that are there, by their disk."""
    last_ns = 0
    for file in folder.rglob("*tfevents*"):
        # It may be gone.
        with contextlib.suppress(OSError):
            last_ns = max(last_ns, file.stat().st_mtime_ns + 1)
    return last_ns


@dataclass(frozen=True, slots=True)
class Ended:
    """How the command ended.

    Attributes:
        code: Its exit code, or 128 and the number of the signal that killed it.
        status: The run's status.
        message: What happened, None if all is well.
        at_ns: When, nanoseconds since the epoch.
    """

    code: int
    status: str
    message: str | None
    at_ns: int

    @classmethod
    def of(cls, code: int, killed_by: int | None, asked: int | None) -> Ended:
        """Tell what an end means.

        Args:
            code: The exit code.
            killed_by: The signal that killed the command.
            asked: The last signal that asked it to end, as far as this process got it.
        """
        if code == 0:
            return cls(code, "Completed", None, time.time_ns())
        # A shell says by its own code that its command was killed.
        number = code - _SIGNALLED if killed_by is None else killed_by
        message = f"exit code {code}" if killed_by is None else f"killed by {_name_of(killed_by)}"
        if killed_by is None and _name_of(number):
            message += f" ({_name_of(number)})"
        stopped = number in _STOPS or asked is not None
        if asked is not None and number not in _STOPS:
            message += f" after {_name_of(asked)}"
        return cls(code, "Stopped" if stopped else "Failed", message, time.time_ns())


def _name_of(number: int) -> str:
    """Return a signal's name; "" if there is none of that number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class _Child:
    """The command's process. It exists from the start, and waits for ``go``.

    So it is forked while this process has one thread, and runs when the run is recorded.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        relay: Relay | None,
        mask: set[int | signal.Signals],
    ) -> None:
        self.asked: int | None = None
        self.code: int | None = None
        self.is_stopped = False
        self._killed_by: int | None = None
        self._command = command
        gate, self._gate = os.pipe()
        self._failure, failure = os.pipe()
        libc, parent = ctypes.CDLL(None), os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._gate)
                if sys.platform == "linux":
                    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                for number, end in (relay.ends if relay is not None else {}).items():
                    os.dup2(end, number)
                name = os.read(gate, limits.NAME_CHARS_MAX)
                # Whoever started it has died.
                if name and os.getppid() == parent:
                    environment = {**environment, RUN_VARIABLE: name.decode()}
                    _become(command, environment, mask, failure)
            finally:
                os._exit(_NOT_RUN)
        os.close(gate)
        os.close(failure)
        if relay is not None:
            relay.close_ends()

    def go(self, name: str, tell: Callable[[str, str], None]) -> None:
        """Start the command, in the run of this name."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, name.encode())
        os.close(self._gate)
        told = os.read(self._failure, 16)
        os.close(self._failure)
        if told:
            why = os.strerror(int(told))
            tell(f"{self._command[0]} can't be run: {why}", "check its name and PATH")

    def send(self, number: int) -> None:
        """Send a signal to the command, unless it has ended."""
        # Not reaped yet: its number is its own.
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def look(self) -> None:
        """Note what became of the command: stopped, continued or ended."""
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                return
            self.is_stopped = os.WIFSTOPPED(status)
            if os.WIFSIGNALED(status):
                self._killed_by = os.WTERMSIG(status)
                self.code = _SIGNALLED + self._killed_by
            elif os.WIFEXITED(status):
                self.code = os.WEXITSTATUS(status)

    def ended(self) -> Ended:
        """Return how the command ended."""
        return Ended.of(self.code or 0, self._killed_by, self.asked)


def _become(
    command: Sequence[str],
    environment: Mapping[str, str],
    mask: set[int | signal.Signals],
    failure: int,
) -> NoReturn:
    """Become the command, in its process; tell an error's number."""
    # Python handles or ignores these, and programs expect their usual effect.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, *_QUIET):
        if number in {signal.SIGPIPE, signal.SIGXFSZ} or callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - what the user asks for
    except OSError as error:
        os.write(failure, str(error.errno or 0).encode())
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN)


def _wait_for_end(child: _Child, relay: Relay | None, stops: set[signal.Signals]) -> None:
    """Pass signals on until the command has ended.

    Args:
        child: The command.
        relay: Its relay.
        stops: Signals that ask it to end.
    """
    stopping = False
    while child.code is None:
        number = signal.sigwait(SIGNALS | {signal.SIGCHLD})
        if number in stops:
            child.asked = number
        if number == signal.SIGCHLD:
            child.look()
        elif number == signal.SIGWINCH:
            # The command may have looked at the size before the relay changed it.
            if relay is not None:
                relay.kept(content=False)
            child.send(number)
        elif relay is None or not relay.got_too(number):
            child.send(number)
        stopping = stopping or number == signal.SIGTSTP
        if stopping and child.is_stopped:
            # Now the shell takes over, until it continues this process.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
            stopping = False


class _Recorder(threading.Thread):
    """Records the run beside the command. Nothing that fails here reaches the command.

    Attributes:
        began: Set when the start is recorded, or can't be.
    """

    def __init__(self, run: Run, relay: Relay | None, tell: Callable[[str, str], None]) -> None:
        super().__init__(name="journaltrack-run", daemon=True)
        self.began = threading.Event()
        self._run = run
        self._relay = relay
        self._tell = tell
        self._over = threading.Event()
        self._ended: Ended | None = None
        self._tracker: Tracker | None = None
        self._seen = 0
        self._began_ns = time.time_ns()
        self._follower: Follower | None = None
        board = run.launch.tensorboard
        self._board = board and str(Path(board).expanduser().absolute())
        self._start = jobs.Start()
        self._since_ns: int | None = None

    def end(self, ended: Ended) -> None:
        """Record the end, and deliver. Returns at once."""
        self._ended = ended
        self._over.set()

    def run(self) -> None:
        """Record the start, the output now and then, and the end."""
        self._guarded("the run is not recorded yet", self._begin)
        self.began.set()
        pause_s = _KEEP_FIRST_S
        keep_at = time.monotonic() + pause_s
        often_s = _KEEP_MAX_S if self._run.launch.tensorboard is None else _FOLLOW_S
        while not self._over.wait(max(0.0, min(often_s, keep_at - time.monotonic()))):
            if self._follower is not None:
                self._guarded("event files are not imported yet", self._follower.poll)
            if time.monotonic() >= keep_at:
                self._guarded("the output is not recorded yet", self._keep_output)
                pause_s = min(2 * pause_s, _KEEP_MAX_S)
                keep_at = time.monotonic() + pause_s
        self._guarded("the end of the run is not recorded", self._finish)

    def _guarded(self, failure: str, work: Callable[[], object]) -> None:
        try:
            work()
        except JournaltrackError as error:
            self._tell(f"{failure}: {error.message}", error.hint)
        except Exception as error:  # training must not end for it
            logger.debug("recording failed", exc_info=True)
            self._tell(f"{failure}: {described(error)}", "the command is not disturbed")

    def _begin(self) -> None:
        run = self._run
        # First and once: soon the command writes, too.
        if self._since_ns is None:
            self._since_ns = 0 if self._board is None else _last_change_ns(Path(self._board))
        # Its code, interpreter and packages, not those of this process.
        provenance.launches(run.launch.command)
        journal, _ = open_journal(run.journal, run.settings, "buffer")
        with closing_on_error(journal, owned=True):
            self._create(journal)
            self._tracker = tracker = Tracker.load(
                run.named(),
                journal=journal,
                sync=run.launch.sync,
                system_metrics=run.system_s or False,
            )
        if run.rank is None:
            component = tracker.trial_component
            # A run that is continued keeps its start, as a tracker's does.
            start_ns = None if component.start_time is not None else self._began_ns
            component.journal.append(
                component.component_id,
                [vocabulary.status(primary="InProgress", start_ns=start_ns)],
            )
        if run.mended is not None:
            self._tell(run.mended, "to choose it yourself, give --display-name another one")
        if self._board is not None:
            self._guarded("event files are not imported", self._follow)

    def _create(self, journal: Journal) -> None:
        """Record the creation of the run, or that it is continued."""
        run, launch = self._run, self._run.launch
        words = Guard(run.settings.redact).command(launch.command)
        self._start = start = jobs.Start.of(words, self._board, self._since_ns or 0)
        draft = vocabulary.create(
            owner=str(uuid.uuid4()),
            display_name=run.display_name,
            resume=True,
            launch=start.to_json(),
        )
        if run.name is None:
            name, component_id = jobs.claim(journal, run.base, start, draft)
        else:
            name, component_id = run.name, journal.component(run.name)
            journal.append(component_id, [draft])
        if run.named(name) != name:
            # That took too long: the command runs under another name.
            component_id = journal.component(run.named())
            journal.append(component_id, [draft])
        if launch.experiment is not None or launch.trial is not None:
            member = vocabulary.associate(experiment=launch.experiment, trial=launch.trial)
            journal.append(component_id, [member])

    def _follow(self) -> None:
        """Begin to import the event files of this run, also of what it wrote before a kill."""
        from journaltrack.importers.tensorboard import Follower  # noqa: PLC0415 - an extra

        assert self._tracker is not None  # noqa: S101 - it was made
        assert self._board is not None  # noqa: S101 - it was asked for
        component = self._tracker.trial_component
        # Of the launches with this folder: each one's files were changed from its time on.
        known = [*jobs.starts_in(component.journal), (component.component_id, self._start)]
        launches = [
            (each.since_ns, number) for number, each in known if each.board == self._start.board
        ]

        def is_ours(changed_ns: int) -> bool:
            """Return whether the last launch before a file's change was one of this run."""
            last = [number for since_ns, number in launches if since_ns <= changed_ns][-1:]
            return last == [component.component_id]

        self._follower = Follower(
            self._board,
            component.journal,
            component.component_id,
            self._run.named(),
            is_ours=is_ours,
        )

    def _keep_output(self, wait_s: float = 0.0) -> None:
        """Record the end of the output, if there is more of it."""
        kept = None if self._relay is None else self._relay.kept(wait_s)
        if self._tracker is None or kept is None or kept.seen == self._seen or not kept.content:
            return
        recorder = self._tracker.trial_component.recorder
        assert recorder is not None  # noqa: S101 - a tracker is its component's recorder
        recorder.output(kept.text())
        self._seen = kept.seen

    def _finish(self) -> None:
        if self._tracker is None:
            self._begin()
        tracker, ended = self._tracker, self._ended
        assert tracker is not None  # noqa: S101 - _begin raises otherwise
        assert ended is not None  # noqa: S101 - see ``end``
        self._guarded("the output is not recorded", lambda: self._keep_output(DRAIN_S))
        if self._follower is not None:
            self._guarded("event files are not imported", self._follower.finish)
            if self._run.rank is None:
                self._tell_of_files(tracker, len(self._follower.files))
        if self._run.rank is None or ended.status == "Failed":
            self._record_end(tracker, ended)
        tracker.close()
        tracker.trial_component.journal.close()

    def _tell_of_files(self, tracker: Tracker, count: int) -> None:
        """Record how many event files were found, and warn if there is none."""
        tracker.log_parameter(vocabulary.EVENT_FILES, count)
        if not count:
            self._tell(
                f"{self._board} has no event files of this run: nothing was imported",
                "give --tensorboard the folder that the command writes",
            )

    def _record_end(self, tracker: Tracker, ended: Ended) -> None:
        tracker.log_parameter("run/exit_code", ended.code)
        component = tracker.trial_component
        last = component.journal.last_status(component.component_id)
        # What the script itself recorded of its end says more.
        own = None if last is None or last.in_progress else last.primary
        if own is None or (own == "Completed" and ended.status != own):
            where = "" if self._run.rank is None else f"rank {self._run.rank}: "
            message = ended.message and where + ended.message
            component.journal.append(
                component.component_id,
                [vocabulary.status(primary=ended.status, message=message, end_ns=ended.at_ns)],
            )


def _wait_for(recorder: _Recorder, stops: set[signal.Signals], most_s: float) -> bool:
    """Wait until the end is recorded and delivered, or somebody asks this process to end.

    Returns:
        Whether all was done.
    """
    until = time.monotonic() + most_s
    while recorder.is_alive() and time.monotonic() < until:
        recorder.join(_LOOK_S)
        if signal.sigpending() & stops:
            break
    return not recorder.is_alive()
