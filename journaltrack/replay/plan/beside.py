"""Values of this journal beside those of others that write to the same component. Pure: what may be sent, and what is older.

A service holds the last value that it was sent, and says of none when it was recorded. What it does show is when the run whose
status it holds began and ended. A status that was recorded before that run's last known moment is older, and is not sent. A parameter
or artifact that was recorded before that run *began*, and is there with another value, counts as older, too: the run that came later
set it. Everything else is sent: whether it is older can't be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack.replay.plan.actions import Change, Update

if TYPE_CHECKING:
    from journaltrack.replay.remote import RemoteComponent

_EXACT_NS: Final = 1_000_000_000
"""A service keeps times in less detail than we do."""


class Beside(NamedTuple):
    """What is left of an update; ``older`` says, by ``seq``, why the remote keeps its own."""

    update: Update
    older: Mapping[int, str]


def beside(update: Update, found: RemoteComponent) -> Beside:
    """Take out of an update what is older than what the remote holds.

    Args:
        update: Its blobs are resolved.
        found: The component as it is there.
    """
    status = found.status
    own_ns = update.own_until_ns or 0
    began_ns, ended_ns = (
        at_ns if at_ns is not None and at_ns > own_ns + _EXACT_NS else 0
        for at_ns in ((status.start_ns, status.end_ns) if status else (0, 0))
    )
    known_ns = max(began_ns, ended_ns)
    older: dict[int, str] = {}
    changes = []
    for change in update.changes:
        recorded_ns = change.each[-1].place.recorded_at_ns
        if change.map == "status":
            is_older = recorded_ns + _EXACT_NS < known_ns
        else:
            theirs = getattr(found, change.map).get(change.key)
            is_older = recorded_ns + _EXACT_NS < began_ns and theirs is not None and theirs != change.value
        if is_older:
            older |= dict.fromkeys((part.place.seq for part in change.each), _reason(change, found, began_ns, known_ns))
        else:
            changes.append(change)
    return Beside(replace(update, changes=tuple(changes)), older)


def _reason(change: Change, found: RemoteComponent, began_ns: int, known_ns: int) -> str:
    primary = (found.status and found.status.primary) or "no status"
    if change.map == "status":
        return f"SageMaker holds a later status, of another journal: {primary}, at {_moment(known_ns)}"
    return f"SageMaker holds another value, of a run that began later, at {_moment(began_ns)}, in another journal"


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
