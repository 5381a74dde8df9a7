"""What a tracker needs of the network and of the reconciling side, as callables that the composition root hands in. Nothing here does anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay on close: one component of one journal, within ``deadline_s`` seconds."""

    journal: Path
    component: str
    deadline_s: float
    boto3_session: Any
    sagemaker_client: Any


class Background(Protocol):
    """Delivers a journal while training goes on."""

    def finish(self, request: ReplayRequest) -> None:
        """Deliver what is asked for, within its deadline, and end when no other tracker needs it. Never raises for the network's sake."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What needs the network or the lease, handed in by the composition root.

    Attributes:
        replay: Delivers what it can; never raises for the network's sake.
        lookup: Whether a component exists: True, False, or None when that can't be told in time.
        background: Begins to deliver a journal from now on, for ``sync="background"``.
        make_room: Removes delivered contents from the spool of the journal in a folder, until so many bytes are free or nothing more
            can go; returns how many it freed.
    """

    replay: Callable[[ReplayRequest], None] | None = None
    lookup: Callable[[str, float, Any, Any], bool | None] | None = None
    background: Callable[[ReplayRequest], Background] | None = None
    make_room: Callable[[Path, int], int] | None = None
