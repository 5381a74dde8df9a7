"""Show that a copy of a journal is still mirrored, and see for how long one has been silent.

``<journal id>/<replica>/heartbeat`` is one small JSON object, replaced by renaming. It says when it
was written, the last segment, and when the next one comes at the latest. Without a promise of a
next one, its writer has ended in order.

Two machines' clocks are never compared. A reader knows that a replica is silent in two ways. It
has seen the same heartbeat for so long itself, by a clock that counts suspended time. Or the file
is so much older than one that the reader has just written beside it: both times are the server's.
Lustre, GPFS and others take the times of their clients, so there the second way is not used.

What a heartbeat says is not proved: nothing but the silence of a node depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack.mirror import exchange, shared_files
from journaltrack.mirror.exchange import Since
from journaltrack.util import paths, process

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.mirror.exchange import State
    from journaltrack.mirror.folders import Mirror, Replica

FILE: Final = "heartbeat"
_FORMAT: Final = "journaltrack heartbeat"
_BYTES_MAX: Final = 4096
_TOKEN_CHARS: Final = 16
_EVERY_MAX_S: Final = 86_400.0
_MISSED: Final = 3
"""Our choice: how many heartbeats may be missing, however short a silence is asked for."""
_SERVERS_TIME: Final = frozenset({"nfs", "nfs4", "cifs", "smb3"})
"""Shared file systems whose files have the server's time."""


@dataclass(frozen=True, slots=True)
class Life:
    """What is seen of one replica.

    Attributes:
        name: Of the replica.
        at_ns: When it last showed that it lives, by its own clock.
        every_s: When the next heartbeat was to come at the latest; None: none was promised.
        silent_s: For how long it has been silent, at least.
    """

    name: str
    at_ns: int
    every_s: float | None
    silent_s: float

    def is_silent(self, after_s: float) -> bool:
        """Return whether it was to show that it lives, and has not for so long."""
        return self.every_s is not None and self.silent_s >= self.limit_s(after_s)

    def limit_s(self, after_s: float) -> float:
        """Return after which time it counts as silent, if ``after_s`` is asked for."""
        return max(after_s, _MISSED * (self.every_s or 0.0))


def beat(replica: Replica, segment: int, at_ns: int, every_s: float | None) -> None:
    """Show that a replica is mirrored.

    Args:
        replica: Which.
        segment: Its last segment.
        at_ns: Nanoseconds since the epoch.
        every_s: When the next heartbeat comes at the latest; None: none is promised.

    Raises:
        MirrorError: It can't be written.
    """
    members = {
        "format": _FORMAT,
        "version": 1,
        "at_ns": at_ns,
        "segment": segment,
        "every_s": every_s,
        "host": process.host(),
        "boot": process.boot(),
        "pid": os.getpid(),
    }
    file = replica.path / FILE
    # Without the folder nothing is mirrored, or somebody removed it: the next segment tells.
    with shared_files.explained(file, "written"), contextlib.suppress(FileNotFoundError):
        shared_files.replace_whole(file, json.dumps(members).encode() + b"\n", replica.mirror)


def look(mirror: Mirror, journal_id: str, state: State) -> list[Life]:
    """Return what is seen of a journal's other replicas, and note it in ``state``.

    Raises:
        MirrorError: The mirror can't be read, or not be written: then nobody can tell.
    """
    found: list[Life] = []
    place = mirror.path / journal_id
    with shared_files.explained(mirror.path, "read"):
        kind = paths.network_file_system(mirror.path)
    now_ns = None
    for name, seen in state.seen.items():
        file = place / name / FILE
        with shared_files.explained(file, "read"):
            data = shared_files.content(file, _BYTES_MAX)
        promise = _promise(data)
        if data is None or promise is None:
            continue
        # A new segment shows it as well.
        digest = hashlib.sha256(data).hexdigest()[:_TOKEN_CHARS]
        token = f"{digest} {seen.number}"
        silent_s = None if seen.life is None or seen.life.of != token else seen.life.passed_s()
        if silent_s is None:
            seen.life, silent_s = Since.now(token), 0.0
        at_ns, every_s = promise
        is_first = seen.beat is None
        if seen.beat is None or seen.beat.of != digest:
            seen.beat = Since(digest, "", 0.0) if is_first else Since.now(digest)
        seen.every_s = every_s
        if every_s is not None:
            # Who can't write there may have lost touch with it.
            with shared_files.explained(place, "written"):
                now_ns = now_ns or shared_files.now_ns(place, mirror.path)
            if kind is None or kind in _SERVERS_TIME:
                age_s = _age_s(file, now_ns)
                silent_s = max(silent_s, age_s)
                if is_first:
                    now = Since.now(digest)
                    seen.beat = now._replace(at_s=now.at_s - age_s)
        found.append(Life(name, at_ns, every_s, silent_s))
    return found


def living(copy: Path) -> set[str]:
    """Return the processes (their uuids) on nodes that live, as far as a copy knows.

    Of such a node this machine has seen a new heartbeat, or one that is new by the server's time,
    and the next ones are not overdue. Whoever delivers or reads the mirror looks for them
    (``look``); without that, none is known to live. Nothing is written, and
    the mirror is not asked.
    """
    found: set[str] = set()
    for state in exchange.all_of(copy).values():
        for seen in state.seen.values():
            ago_s = None if seen.beat is None else seen.beat.passed_s()
            if ago_s is not None and ago_s < _MISSED * (seen.every_s or 0.0):
                found |= seen.processes
    return found


def _age_s(file: Path, now_ns: int) -> float:
    try:
        return max(0.0, (now_ns - file.lstat().st_mtime_ns) / 1e9)
    except OSError:
        # It is being replaced.
        return 0.0


def _promise(data: bytes | None) -> tuple[int, float | None] | None:
    """Return when a heartbeat was written and when the next one is due; None: it is none."""
    try:
        found: Any = json.loads(data or b"")
        if found["format"] != _FORMAT or found["version"] != 1:
            return None
        at_ns, every_s = found["at_ns"], found["every_s"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(at_ns) is not int or not 0 <= at_ns < 2**63:
        return None
    is_time = type(every_s) in {int, float} and math.isfinite(every_s)
    return at_ns, min(float(every_s), _EVERY_MAX_S) if is_time and every_s > 0 else None
