"""Deliver a tracker's run: on close, on save, beside training; and ask SageMaker about a name.

Nothing here reaches a network by itself: ``Services`` do. Every call of one goes through ``guard``,
within a deadline. Must not know the tracker, the reconciler, boto3 or SQL.

Invariant: only the process that made the tracker delivers. A forked child and a process that
unpickled it leave that to it.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from journaltrack.errors import ComponentNotFoundError
from journaltrack.journal import vocabulary
from journaltrack.tracking.recording import held_of
from journaltrack.tracking.settings import asked, replay_request
from journaltrack.tracking.validation import Redaction
from journaltrack.util.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft
    from journaltrack.tracking.settings import Background, ReplayRequest, Services, Settings

logger = logging.getLogger(__name__)


class Delivery:
    """Deliver one tracker's run.

    Args:
        journal: The tracker's journal.
        name: The component's name.
        settings: The tracker's.
        services: Returns what reaches the network, as it is at the time of a call.
    """

    def __init__(
        self, journal: Journal, name: str, settings: Settings, services: Callable[[], Services]
    ) -> None:
        self._journal = journal
        self._name = name
        self._settings = settings
        self._services = services
        self._background: Background | None = None
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Return whether this process delivers and ends the run."""
        return os.getpid() == self._pid

    def leave_to_others(self) -> None:
        """Neither deliver nor end the run from here."""
        # -1 is no process's pid.
        self._pid = -1

    def begin(self) -> None:
        """Begin to deliver beside training, if the settings say so."""
        start = self._services().background
        if self._settings.sync == "background" and start is not None and self.is_here():
            failure = f"{self._name} is not delivered in the background, but on close"
            request = self._request()
            self._background = guarded(lambda: start(request), failure)

    def finish(self) -> None:
        """Deliver what is pending, at the tracker's end."""
        if not self.is_here():
            return
        background, self._background = self._background, None
        deliver = self._services().replay if self._settings.sync != "off" else None
        if background is not None:
            deliver = background.finish
        how = "the next close or `journaltrack sync` delivers them"
        failure = f"{self._name} was not delivered on close; its entries stay in the journal, {how}"
        self._guarded(deliver, failure)

    def save(self) -> None:
        """Deliver what is pending, while the tracker stays open."""
        if self.is_here() and self._settings.sync != "off":
            failure = f"{self._name} was not saved; its entries stay in the journal"
            self._guarded(self._services().replay, failure)

    def ask(self, operation: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make one request of SageMaker within the deadline of a close.

        Raises:
            RemoteError: There is no answer, or a refusal.
        """
        return asked(self._services().ask, self._request(), operation, members)

    def make_room(self, journal: Path, wanted_bytes: int) -> int:
        """Remove delivered contents from the spool, and return how many bytes that freed."""
        make_room = self._services().make_room
        if make_room is None:
            return 0
        return (
            guarded(lambda: make_room(journal, wanted_bytes), "no room could be made in the spool")
            or 0
        )

    def _guarded(self, deliver: Callable[[ReplayRequest], None] | None, failure: str) -> None:
        if deliver is not None:
            request = self._request()
            guarded(lambda: deliver(request), failure, request.deadline, sends=True)

    def _request(self) -> ReplayRequest:
        # The path is read at every call: the journal may have been moved.
        return replay_request(
            self._journal.path, self._name, self._settings.close_deadline_s, self._settings
        )


def loaded(
    services: Services,
    journal: Path,
    name: str,
    deadline_s: float | None,
    settings: Settings,
    *,
    is_job: bool,
) -> Draft:
    """Ask SageMaker for a component that the journal does not have, and draft its first entry.

    A job's component is not asked for: it exists. Without an answer in time the entry says that
    the name is not verified.

    Args:
        services: What reaches the network.
        journal: The journal's folder.
        name: The component's name.
        deadline_s: Seconds that the look-up may take; None for the configured value.
        settings: The tracker's. With ``sync="off"`` nothing is asked.
        is_job: Whether it is the component of a job.

    Raises:
        ComponentNotFoundError: SageMaker has no such component.
    """
    answer: Mapping[str, Any] | None = None
    ask = services.ask
    if not is_job and settings.sync != "off" and ask is not None:
        if deadline_s is None:
            deadline_s = settings.configuration.lookup_deadline_s
        request = replay_request(journal, name, deadline_s, settings)
        members = {"TrialComponentName": name}
        failure = f"SageMaker could not be asked for {name}; it is verified at the first replay"
        answer = guarded(
            lambda: ask(request, "describe_trial_component", members), failure, request.deadline
        )
    if answer is not None and not answer:
        raise ComponentNotFoundError(
            f"SageMaker has no trial component {name}",
            hint="check name and region, or create it: Tracker.create(..., resume=True)",
        )
    redaction = Redaction(settings.redact)
    held = held_of(answer or {}, lambda _, key: redaction.matches(key))
    return vocabulary.load(job=is_job, verified=answer is not None, held=held)
