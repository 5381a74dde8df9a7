"""``sync="background"``: a watcher inside of the training process, with passes in a process of their own.

One daemon thread a journal, shared by the trackers that write to it, looks at two files a few times a second; what changed
is delivered by ``pass_process``, so that replaying takes neither time nor the interpreter lock from training. With a boto3
session or client of the caller's, which no other process can use, passes run on a thread here instead.

Invariants: nothing here keeps the interpreter from exiting; a forked child has none of it, until it makes a tracker itself.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.app import composition
from journaltrack.app.pass_process import PassProcess
from journaltrack.watch.folders import NoEvents
from journaltrack.watch.journal import Delivery, DeliveryRequest
from journaltrack.watch.watcher import Watcher

if TYPE_CHECKING:
    from journaltrack.errors import RemoteError
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.replay.reconciler import Options
    from journaltrack.tracking.services import ReplayRequest
    from journaltrack.util.deadline import Deadline

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.5
"""No event tells of the process's own writes: two ``stat`` calls, 5 µs, so often."""
_STOP_S: Final = 0.25
"""How long the last tracker's ``close`` waits for its thread, and for its helper, beyond its deadline: both end by themselves."""


class Background:
    """Delivers one journal for as long as trackers of this process use it."""

    def __init__(self, journal: Path, request: ReplayRequest) -> None:
        """Use ``start``."""
        known = request.configuration
        self._journal = journal
        self._users = 0
        self._process: PassProcess | None = None
        self._connection = composition.Connection.of(request)
        self._of_a_pass = known.of_a_pass(watching=True)
        if request.boto3_session is None and request.sagemaker_client is None and sys.executable:
            self._process = PassProcess(
                {
                    **known.of_a_connection(),
                    "storage": asdict(known.storage()),
                    "requests_per_s": known.requests_per_s,
                    "options": self._of_a_pass,
                    "allow": asdict(known.allow),
                }
            )
        watch = replace(known.watch, poll_s=min(known.watch.poll_s, max(_POLL_S, known.watch.debounce_s)))
        self._watcher = Watcher([journal], self._deliver, self._probe, watch, events=lambda _: NoEvents(), arrivals=False)
        self._thread = threading.Thread(target=self._watcher.run, name="journaltrack-background", daemon=True)
        self._thread.start()

    def finish(self, request: ReplayRequest) -> None:
        """A tracker closes: deliver what its component has pending, within its deadline."""
        try:
            composition.report_on_close(request, self._final(request))
        finally:
            self._leave(request.deadline)

    def _final(self, request: ReplayRequest) -> PassReport | None:
        asked = DeliveryRequest(request.journal, request.deadline)
        if self._process is not None:
            return self._process.deliver(asked, request.component).report
        return composition.deliver(asked, self._connection, self._options(request.component)).report

    def _leave(self, deadline: Deadline) -> None:
        """The last tracker ends all this; what does not end in time ends by itself."""
        with _guard:
            self._users -= 1
            if self._users > 0 or _running.get(self._journal) is not self:
                return
            del _running[self._journal]
        self._watcher.stop()
        self._thread.join(max(_STOP_S, deadline.remaining_s()))
        if self._process is not None:
            self._process.close(max(_STOP_S, deadline.remaining_s()))

    def _deliver(self, request: DeliveryRequest) -> Delivery:
        if self._process is not None:
            return self._process.deliver(request)
        return composition.deliver(request, self._connection, self._options())

    def _options(self, component: str | None = None) -> Options:
        from journaltrack.replay.reconciler import Options  # noqa: PLC0415 - a helper process imports it, this one need not

        return Options(component, wait_for_lease=component is not None, **self._of_a_pass)

    def _probe(self) -> RemoteError | None:
        return composition.probe(self._connection) if self._process is None else self._process.probe()


_running: dict[Path, Background] = {}
_guard = threading.Lock()


def start(request: ReplayRequest) -> Background:
    """The journal's background delivery, begun if this is its first tracker in this process; end it with ``finish``."""
    journal = request.journal.resolve()
    with _guard:
        found = _running.get(journal)
        if found is None:
            found = _running[journal] = Background(journal, request)
        found._users += 1  # noqa: SLF001 - guarded by this module's lock
    return found


def _forked() -> None:
    global _guard  # noqa: PLW0603 - another thread may have held it at the fork
    _guard = threading.Lock()
    _left_behind.append(dict(_running))
    _running.clear()


_left_behind: list[object] = []  # a parent's, in a forked child: kept, so that nothing closes what is the parent's

os.register_at_fork(after_in_child=_forked)
