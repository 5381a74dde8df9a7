"""Deliver a tracker's run: on close, on save, beside training; and ask SageMaker about a name.

Nothing here reaches a network by itself: ``Services`` do. Every call of one goes through ``guard``,
within a deadline. Must not know the tracker, the reconciler, boto3 or SQL.

Invariant: only the process that made the tracker delivers. A forked child and a process that
unpickled it leave that to it. What they log is mirrored for as long as they live.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from journaltrack.errors import ComponentNotFoundError
from journaltrack.journal import vocabulary
from journaltrack.tracking.recording import held_of
from journaltrack.tracking.settings import FETCH_S, asked, replay_request
from journaltrack.tracking.validation import Redaction
from journaltrack.util.deadline import Deadline
from journaltrack.util.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft
    from journaltrack.tracking.members import TrialComponentMetricSummary
    from journaltrack.tracking.settings import (
        Ask,
        Background,
        Mirroring,
        ReplayRequest,
        Services,
        Settings,
    )

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
        self._mirroring: Mirroring | None = None
        self._others: Sequence[TrialComponentMetricSummary] | None = None
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Return whether this process delivers and ends the run."""
        return os.getpid() == self._pid

    def leave_to_others(self) -> None:
        """Neither deliver nor end the run from here."""
        # -1 is no process's pid.
        self._pid = -1

    def begin(self) -> None:
        """Begin to mirror and to deliver beside training, if the settings say so."""
        settings, mirror = self._settings, self._services().mirror
        to = settings.mirror
        # In every process that logs: it may outlive the one that made the tracker.
        if to is not None and mirror is not None and self._mirroring is None:
            every_s = settings.configuration.mirror_every_s
            self._mirroring = guarded(
                lambda: mirror(self._journal.path, to, every_s),
                f"{self._name} is not mirrored; `journaltrack mirror {self._journal.path} {to}` "
                "does that",
            )
        start = self._services().background
        if self._settings.sync == "background" and start is not None and self.is_here():
            failure = f"{self._name} is not delivered in the background, but on close"
            request = self._request()
            self._background = guarded(lambda: start(request), failure)

    def elsewhere(self) -> Sequence[TrialComponentMetricSummary]:
        """Return what other journals in the mirror have of the run's metrics, as of the first call.

        It brings into this journal what its copies on other nodes logged.
        """
        find, mirror = self._services().elsewhere, self._settings.mirror
        if self._others is None and find is not None and mirror is not None:
            from journaltrack.tracking.members import summaries_elsewhere  # noqa: PLC0415 - see there

            deadline = Deadline(FETCH_S)
            self._others = guarded(
                lambda: summaries_elsewhere(
                    self._journal,
                    self._name,
                    find(self._journal.path, mirror, self._name, deadline),
                ),
                f"{self._name} is counted without what other nodes logged, if they did; to log no "
                "point twice, start again when the mirror can be read",
                deadline,
            )
        # It is not tried again: training would wait again.
        self._others = self._others or ()
        return self._others

    def finish(self) -> None:
        """Deliver what is pending, at the tracker's end."""
        if not self.is_here():
            return
        self._finish_mirroring()
        background, self._background = self._background, None
        deliver = self._services().replay if self._settings.sync != "off" else None
        if background is not None:
            deliver = background.finish
        how = "the next close or `journaltrack sync` delivers them"
        failure = f"{self._name} was not delivered on close; its entries stay in the journal, {how}"
        self._guarded(deliver, failure)

    def _finish_mirroring(self) -> None:
        """Wait until everything is mirrored, within the deadline of a close."""
        mirroring, self._mirroring = self._mirroring, None
        if mirroring is None:
            return
        deadline = Deadline(self._settings.close_deadline_s)
        failure = f"{self._name} may not be mirrored completely"
        problem = guarded(lambda: mirroring.finish(deadline), failure, deadline)
        if problem is not None:
            logger.warning(
                "%s is not mirrored completely: %s; its entries stay in the journal, and "
                "`journaltrack mirror %s %s` mirrors them",
                self._name,
                problem,
                self._journal.path,
                self._settings.mirror,
            )

    def flush(self) -> None:
        """Mirror what is new at once, without waiting for it."""
        if self._mirroring is not None:
            self._mirroring.hurry()

    def save(self) -> None:
        """Mirror and deliver what is pending, while the tracker stays open."""
        self.flush()
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


def look_up(
    ask: Ask | None, journal: Path, name: str, settings: Settings, deadline_s: float | None = None
) -> Mapping[str, Any] | None:
    """Return SageMaker's description of a component: empty if there is none, None unanswered.

    Args:
        ask: The service, see ``Services``.
        journal: The journal's folder.
        name: The component's name.
        settings: Say how to reach SageMaker. With ``sync="off"`` it is not asked.
        deadline_s: Seconds that the answer may take; None for the configured value.
    """
    if ask is None or settings.sync == "off":
        return None
    if deadline_s is None:
        deadline_s = settings.configuration.lookup_deadline_s
    request = replay_request(journal, name, deadline_s, settings)
    return guarded(
        lambda: ask(request, "describe_trial_component", {"TrialComponentName": name}),
        f"SageMaker could not be asked for {name}; the first sync verifies it",
        request.deadline,
    )


def loaded(
    name: str, answer: Mapping[str, Any] | None, settings: Settings, *, is_job: bool
) -> Draft:
    """Draft the first entry of a component that the journal did not have.

    Args:
        name: The component's name.
        answer: From ``look_up``. None: the entry says that the name is not verified.
        settings: The tracker's.
        is_job: Whether it is the component of a job, which exists.

    Raises:
        ComponentNotFoundError: SageMaker has no such component.
    """
    if answer is not None and not answer:
        raise ComponentNotFoundError(
            f"SageMaker has no trial component {name}",
            hint="check name and region, or create it: Tracker.create(..., resume=True)",
        )
    redaction = Redaction(settings.redact)
    held = held_of(answer or {}, lambda _, key: redaction.matches(key))
    return vocabulary.load(
        job=is_job,
        verified=answer is not None,
        held=held,
        bucket=settings.artifact_bucket,
        prefix=settings.artifact_prefix,
    )
