"""What a tracker needs of the network and of the reconciling side, as callables. Nothing here does anything.

The tracker knows none of those who do it. ``WIRED`` finds them in the composition root, which is imported when one of them
is called first: wherever a tracker's class comes from (a worker unpickles it by its module), it is complete.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.util.config import Configuration
    from journaltrack.util.deadline import Deadline


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What a tracker asks for: its component, in its journal, in time.

    Attributes:
        journal: Its folder.
        component: Its name.
        deadline_s: How long it may take, seconds.
        deadline: The same, begun when it was asked for; cancelled when nobody waits for it any more.
        configuration: As it was when the tracker was made.
        boto3_session: Of the caller, or None.
        sagemaker_client: Of the caller, or None.
    """

    journal: Path
    component: str
    deadline_s: float
    deadline: Deadline
    configuration: Configuration
    boto3_session: Any
    sagemaker_client: Any


class Background(Protocol):
    """Delivers a journal while training goes on."""

    def finish(self, request: ReplayRequest) -> None:
        """Deliver what is asked for, within its deadline, and end when no other tracker needs it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What needs the network or the lease. Each may raise anything, which the tracker's guard keeps from training.

    Attributes:
        replay: Delivers what it can.
        lookup: Whether SageMaker has a component of that name.
        background: Begins to deliver a journal from now on, for ``sync="background"``.
        make_room: Removes delivered contents from the spool of the journal in a folder, until so many bytes are free or nothing more
            can go; returns how many it freed.
    """

    replay: Callable[[ReplayRequest], None] | None = None
    lookup: Callable[[ReplayRequest], bool] | None = None
    background: Callable[[ReplayRequest], Background] | None = None
    make_room: Callable[[Path, int], int] | None = None


def _later(service: str) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:  # noqa: ANN401 - what the service returns
        return getattr(importlib.import_module("journaltrack.app.composition").SERVICES, service)(*arguments)

    return call


WIRED: Final = Services(*(_later(service) for service in ("replay", "lookup", "background", "make_room")))
"""The composition root's own."""
