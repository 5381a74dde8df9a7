"""Name the services that a tracker needs from others, as callables.

The callables need the network or the reconciler. This module implements none of them, and the
tracker does not know who does. ``WIRED`` finds them in the composition root, which the first call
of one imports. So a tracker's class is complete wherever it comes from: a worker unpickles it by
its module.
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
    """A tracker's request for one component of its journal.

    Attributes:
        journal: The journal's folder.
        component: The component's name.
        deadline_s: How long it may take, in seconds.
        deadline: The same, running since the request. It is cancelled when nobody waits any more.
        configuration: The configuration when the tracker was created.
        boto3_session: The caller's session, or None.
        sagemaker_client: The caller's client, or None.
    """

    journal: Path
    component: str
    deadline_s: float
    deadline: Deadline
    configuration: Configuration
    boto3_session: Any
    sagemaker_client: Any


class Background(Protocol):
    """A delivery of a journal that runs beside training."""

    def finish(self, request: ReplayRequest) -> None:
        """Deliver the request within its deadline; end if no other tracker needs it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Callables that need the network or the lease.

    Each may raise anything. The tracker's guard keeps that from training.

    Attributes:
        replay: Delivers what it can.
        lookup: Returns whether SageMaker has a component of that name.
        background: Starts to deliver a journal, for ``sync="background"``.
        make_room: Removes delivered contents from the spool of the journal in a folder. It stops
            when that many bytes are free, or when nothing more can be removed. Returns how many
            bytes it freed.
    """

    replay: Callable[[ReplayRequest], None] | None = None
    lookup: Callable[[ReplayRequest], bool] | None = None
    background: Callable[[ReplayRequest], Background] | None = None
    make_room: Callable[[Path, int], int] | None = None


def _later(service: str) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:  # noqa: ANN401 - what the service returns
        return getattr(importlib.import_module("journaltrack.app.composition").SERVICES, service)(
            *arguments
        )

    return call


WIRED: Final = Services(
    *(_later(service) for service in ("replay", "lookup", "background", "make_room"))
)
"""The services of the composition root."""
