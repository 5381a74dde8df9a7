"""Run ``journaltrack watch`` as a child process, for ``sync="background"``.

All trackers of a process that write to one journal share one child. Its stdin is a pipe: one line
of configuration, then nothing until this process closes its end. The kernel closes it when this
process ends, in whatever way. The child then records the answers to requests in flight, and ends.
``close`` ends the child first, and delivers the rest as ``sync="close"`` does. A caller's boto3
session or client can't be used by another process: then the watcher runs on a thread here instead.

Invariants: nothing here keeps the interpreter from exiting. No other process holds this end of the
pipe. A forked process has no child of its own for a journal that its parent delivers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from journaltrack.app import composition
from journaltrack.app.connection import Connection, probe
from journaltrack.util import config, process
from journaltrack.watch.breaker import Backoff

if TYPE_CHECKING:
    from journaltrack.tracking.settings import ReplayRequest
    from journaltrack.util.config import Configuration
    from journaltrack.util.deadline import Deadline
    from journaltrack.watch.journal import Delivery, DeliveryRequest

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.5
"""Seconds between looks of the watcher without an event: two ``stat`` calls, 5 µs."""
_STOP_S: Final = 0.25
"""Seconds that the last ``close`` waits for the watcher beyond its deadline.

The watcher then ends by itself.
"""
_LOOK_EVERY_S: Final = 1.0
"""Seconds between looks whether the child lives."""
_RESTART_FIRST_S: Final = 1.0
_RESTART_MAX_S: Final = 60.0
"""Maximal seconds between restarts of a child that ends at once."""
_ENVIRONMENT: Final = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_START: Final = "from journaltrack.cli import main; main(prog_name='journaltrack')"


class _Deliverer(Protocol):
    def end(self, deadline: Deadline) -> None:
        """End, waiting until the deadline at most.

        After that, continue to end without the caller.
        """


class Background:
    """Deliver one journal for as long as trackers of this process use it."""

    def __init__(self, journal: Path, request: ReplayRequest) -> None:
        """Use ``start``."""
        self.users = 0
        self._journal = journal
        self._deliverer: _Deliverer | None = None
        known = request.configuration
        watch = known.watch._replace(
            poll_s=min(known.watch.poll_s, max(_POLL_S, known.watch.debounce_s))
        )
        if (
            request.boto3_session is not None
            or request.sagemaker_client is not None
            or not process.can_have_child()
        ):
            self._deliverer = _Thread(journal, request, known._replace(watch=watch))
        elif _delivered_by_parent.get(journal) != os.getppid():
            watch = watch._replace(folders=(), health_file=None, metrics_file=None)
            self._deliverer = _Child(journal, known._replace(watch=watch))

    def finish(self, request: ReplayRequest) -> None:
        """Deliver what a closing tracker has pending; the last tracker ends the watcher."""
        with _guard:
            self.users -= 1
            last = self.users == 0 and _running.get(self._journal) is self
            if last:
                del _running[self._journal]
        if last and self._deliverer is not None:
            self._deliverer.end(request.deadline)
        composition.replay(request)

    def leave_to_parent(self) -> object:
        """Give up what is the parent's in a forked process, without ending it."""
        if isinstance(self._deliverer, _Child):
            self._deliverer.close_pipe()
        return self


def command_of(*arguments: str) -> list[str]:
    """Return what runs ``journaltrack`` with these arguments."""
    return process.python(_START, *arguments)


class _Child:
    """Run ``journaltrack watch`` as a child process, and restart it if it ends early."""

    def __init__(self, journal: Path, configuration: Configuration) -> None:
        self._command = command_of("watch", "--child", str(journal))
        self._configuration = json.dumps(config.as_overrides(configuration)).encode() + b"\n"
        self._ending = threading.Event()
        self._start()
        self._thread = threading.Thread(
            target=self._keep, name="journaltrack-background", daemon=True
        )
        self._thread.start()

    def end(self, deadline: Deadline) -> None:
        """End the child by closing the pipe, see ``_Deliverer``."""
        with _guard:
            self._ending.set()
            self.close_pipe()
        self._thread.join(max(_STOP_S, deadline.remaining_s()))

    def close_pipe(self) -> None:
        """Close this end of the pipe."""
        pipe = self._process.stdin
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

    def _start(self) -> None:
        # Nobody may fork with the pipe's end before ``close_pipe`` knows it.
        with _guard:
            if self._ending.is_set():
                return
            self._environment = _environment()
            self._started = time.monotonic()
            # A session of its own: this process decides about Ctrl-C and signals to the process
            # group, and without a terminal no credential helper can ask anybody. Unbuffered: a
            # fork finds nothing in a buffer, and no lock.
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and code of ours
                self._command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            assert self._process.stdin is not None  # noqa: S101 - it was asked for
            # It has ended already: ``_keep`` sees that.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(self._configuration)

    def _keep(self) -> None:
        """Restart the child when it ends or its credentials change; finally reap it."""
        pauses = Backoff(_RESTART_FIRST_S, _RESTART_MAX_S, random.random)
        while not self._ending.wait(_LOOK_EVERY_S):
            try:
                if self._process.poll() is None:
                    if self._environment != _environment():
                        self._process.terminate()
                    continue
                self.close_pipe()
                if time.monotonic() - self._started > _RESTART_MAX_S:
                    pauses.reset()
                if not self._ending.wait(pauses.next_s()):
                    self._start()
            # No process or descriptor is left, or a variable went away while the environment was
            # read.
            except (OSError, KeyError) as error:
                logger.debug("the background delivery's child could not be supervised: %s", error)
        self._process.wait()


class _Thread:
    """Run the watcher on a thread of this process."""

    def __init__(self, journal: Path, request: ReplayRequest, configuration: Configuration) -> None:
        from journaltrack.watch.folders import NoEvents  # noqa: PLC0415 - a child needs none
        from journaltrack.watch.watcher import Watcher  # noqa: PLC0415

        self._connection = Connection.of(request)
        self._of_a_pass = configuration.of_a_pass(watching=True)
        self._watcher = Watcher(
            lambda: [journal],
            self._deliver,
            lambda: probe(self._connection),
            configuration.watch,
            events=lambda _: NoEvents(),
            arrivals=False,
        )
        self._thread = threading.Thread(
            target=self._watcher.run, name="journaltrack-background", daemon=True
        )
        self._thread.start()

    def end(self, deadline: Deadline) -> None:
        """End the watcher, see ``_Deliverer``."""
        self._watcher.stop()
        self._thread.join(max(_STOP_S, deadline.remaining_s()))

    def _deliver(self, request: DeliveryRequest) -> Delivery:
        from journaltrack.replay.reconciler import Options  # noqa: PLC0415 - in the first pass

        return composition.deliver(request, self._connection, Options(**self._of_a_pass))


def _environment() -> dict[str, str]:
    """Return the environment variables that say how to reach AWS."""
    return {
        name: value for name, value in os.environ.items() if name.upper().startswith(_ENVIRONMENT)
    }


_running: dict[Path, Background] = {}
_guard = threading.RLock()
_delivered_by_parent: dict[Path, int] = {}
"""In a forked process: the parent's process id, by journal that the parent delivers."""
_left_behind: list[object] = []
"""In a forked process: what is the parent's, kept so that nothing closes or reaps it."""


def start(request: ReplayRequest) -> Background:
    """Deliver a journal in the background until ``finish``.

    Trackers of one journal share one delivery.
    """
    journal = request.journal.resolve()
    with _guard:
        found = _running.get(journal)
        if found is None:
            found = _running[journal] = Background(journal, request)
        found.users += 1
    return found


def _forked() -> None:
    for journal, background in _running.items():
        _delivered_by_parent[journal] = os.getppid()
        _left_behind.append(background.leave_to_parent())
    _running.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forked)
