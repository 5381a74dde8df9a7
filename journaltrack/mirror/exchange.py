"""Remember what a journal has exchanged with a mirror: ``mirror.json`` in the journal's folder.

The file is a convenience, and no evidence: a mirror's own files say how far each replica came.
Without it, everything is read and compared again, and this copy of the journal writes into a new
replica's folder. It names the database for which it was written: a copied folder is another
replica.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from journaltrack.errors import JournalWriteError, LeaseHeldError, os_hint
from journaltrack.util import paths, process
from journaltrack.util.deadline import Deadline

FILE: Final = paths.MIRRORED
LOCK: Final = "mirror.lock"
_HOST: Final = re.compile(r"[^\w.-]", re.ASCII)
_HOST_CHARS: Final = 40
_LOOK_S: Final = 0.05
"""How often to look whether the lock is free."""
DIGESTS_MAX: Final = 256
"""How many earlier segments a replica may go back to and begin anew from."""


class Since(NamedTuple):
    """Since when this machine sees something unchanged.

    Attributes:
        of: What: a claim's number, or what a sign of life says.
        boot: The id of the machine's boot.
        at_s: Seconds since that boot; a suspended machine's time counts.
    """

    of: int | str
    boot: str
    at_s: float

    @classmethod
    def now(cls, of: int | str) -> Since:
        """Return that it is seen since now."""
        return cls(of, process.boot() or "", process.since_boot_s())

    def passed_s(self) -> float | None:
        """Return how long that is ago; None: nobody can tell, since the machine was booted."""
        passed_s = process.since_boot_s() - self.at_s
        return passed_s if self.boot == (process.boot() or "") and passed_s >= 0 else None


@dataclass(slots=True)
class Seen:
    """What was taken over of another replica.

    Attributes:
        number: Of the last segment.
        digests: The SHA-256 of the last segments, by their numbers.
        noted: Segments whose attestations were not taken over: notes of what others took over.
        processes: The uuids of processes that its segments describe.
        halted: As its last segment says, see ``Segment``.
        artifacts: Of the next segment: how many bytes of its artifacts were there, and when that
            last changed, seconds since 1970 by this machine's clock.
        life: Its last sign of life (``silence``).
        beat: Its last heartbeat. Of the first one that was seen, nobody can tell the age.
        every_s: When the next one was to come at the latest; None: none was promised.
    """

    number: int = 0
    digests: dict[int, str] = field(default_factory=dict)
    noted: list[int] = field(default_factory=list)
    processes: set[str] = field(default_factory=set)
    halted: dict[str, int] = field(default_factory=dict)
    artifacts: tuple[int, float] | None = None
    life: Since | None = None
    beat: Since | None = None
    every_s: float | None = None

    def take(self, number: int, sha256: str, processes: Iterable[str]) -> None:
        """Note that a segment was taken over."""
        self.number = number
        self.processes.update(processes)
        self.digests[number] = sha256
        self.artifacts = None
        while len(self.digests) > DIGESTS_MAX:
            del self.digests[min(self.digests)]


@dataclass(slots=True)
class State:
    """What one journal has exchanged with one mirror.

    Attributes:
        replica: The name under which this copy of the journal writes; "" if it does not.
        seen: By name: the other replicas.
        folder: Where the mirror is, on this machine.
        last_seq, last_digest: The newest entry when ``heads`` was right, and its digest
            (hexadecimal).
        heads: By the process's uuid: place and digest (hexadecimal) of its last entry here.
        number: The highest number that this copy gave a segment. No number is used twice: a reader
            may have seen a segment that the server lost.
        claim: Another copy's claim that is waited for (``delivery``).
    """

    replica: str = ""
    folder: str = ""
    seen: dict[str, Seen] = field(default_factory=dict)
    last_seq: int = 0
    last_digest: str = ""
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)
    number: int = 0
    claim: Since | None = None

    @property
    def foreign(self) -> set[str]:
        """Return the processes (their uuids) that came from other replicas."""
        return set().union(*(seen.processes for seen in self.seen.values()))


def load(journal: Path, mirror_id: str) -> State:
    """Return what is known of one mirror. What can't be read is not known."""
    return all_of(journal).get(mirror_id, State())


def all_of(journal: Path) -> dict[str, State]:
    """Return what is known of each mirror, by its id. What can't be read is not known."""
    try:
        members = json.loads((journal / FILE).read_bytes())
        is_own = members["of"] == _identity(journal)
        return {name: _state(each, is_own=is_own) for name, each in members["mirrors"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def save(journal: Path, mirror_id: str, state: State) -> None:
    """Write what is known of one mirror.

    Raises:
        JournalWriteError: The journal's folder can't be written.
    """
    file = journal / FILE
    mirrors = {name: asdict(each) for name, each in all_of(journal).items()}
    mirrors[mirror_id] = asdict(state)
    members = {"version": 1, "of": _identity(journal), "mirrors": mirrors}
    try:
        with paths.whole(file, durable=False) as partial:
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(members, default=sorted), encoding="utf-8")
    except OSError as error:
        raise JournalWriteError(
            f"{file} can't be written: {error.strerror}; the journal itself is unchanged",
            hint=os_hint(error),
        ) from error


def new_replica() -> str:
    """Return a name for the segments of this copy. It names the machine, for people."""
    return f"{_HOST.sub('-', process.host())[:_HOST_CHARS]}-{os.urandom(8).hex()}"


@contextlib.contextmanager
def alone(journal: Path, *, name: str = LOCK, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other processes from doing the same with the journal. The kernel frees the lock.

    Args:
        journal: The folder with the lock's file.
        name: Of that file.
        wait_s: How long to wait for another process.

    Raises:
        LeaseHeldError: Another process does it now.
        JournalWriteError: The journal's folder can't be written.
    """
    file = journal / name
    try:
        descriptor = open_lock(file)
    except OSError as error:
        raise JournalWriteError(
            f"{file} can't be written: {error.strerror}", hint=os_hint(error)
        ) from error
    try:
        deadline = Deadline(wait_s)
        while not locks(descriptor):
            if deadline.over:
                raise LeaseHeldError(
                    f"another process mirrors the journal at {journal} now; no changes were made",
                    hint="one process at a time: wait for it, or end it",
                )
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def open_lock(file: Path) -> int:
    """Open the file of a lock, and return its descriptor. To close that frees the lock.

    Raises:
        OSError: It can't be opened.
    """
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def locks(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file; return whether no other process keeps it from that. Does not wait.

    A file system without locks can't tell: there is nobody. No segment is ever overwritten.
    """
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _state(found: dict[str, Any], *, is_own: bool) -> State:
    return State(
        str(found["replica"]) if is_own else "",
        str(found["folder"]),
        {name: _seen(each) for name, each in found["seen"].items()},
        int(found["last_seq"]),
        str(found["last_digest"]),
        {uuid: (int(place), str(text)) for uuid, (place, text) in found["heads"].items()},
        int(found["number"]) if is_own else 0,
        _since(found.get("claim")),
    )


def _seen(members: dict[str, Any]) -> Seen:
    artifacts = members["artifacts"]
    return Seen(
        int(members["number"]),
        {int(number): str(sha256) for number, sha256 in members["digests"].items()},
        [int(number) for number in members["noted"]],
        set(map(str, members["processes"])),
        {str(uuid): int(place) for uuid, place in members["halted"].items()},
        None if artifacts is None else (int(artifacts[0]), float(artifacts[1])),
        _since(members.get("life")),
        _since(members.get("beat")),
        None if members.get("every_s") is None else float(members["every_s"]),
    )


def _since(members: Any) -> Since | None:  # noqa: ANN401 - of JSON
    if members is None:
        return None
    of, boot, at_s = members
    return Since(of if isinstance(of, int) else str(of), str(boot), float(at_s))


def _identity(journal: Path) -> list[Any]:
    """Return what tells the journal's file from a copy of it."""
    found = (journal / paths.DATABASE).stat()
    return [process.host(), found.st_dev, found.st_ino]
