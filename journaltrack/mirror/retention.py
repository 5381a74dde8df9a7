"""Remove from a mirror the journals that were delivered long ago, on the record.

A journal leaves a mirror as a whole: its segments, the bytes of its artifacts, the names of its
runs. Here, this machine's copy must have all that is in the mirror, proved, and each entry must
have been delivered before the given time. The copy stays, and is a journal like any other. In the
mirror stay the claims, so that nobody who comes back sends anything again, and a *record*: up to
which entry of each process, and which segment of each replica, the mirror had everything.

A node that comes back writes its journal again, under numbers that no reader has seen. A process
that was killed is completed by the next one. Must not know a remote.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack._version import __version__
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import ARRIVED
from journaltrack.mirror import copies, delivery, exchange, folders, shared_files
from journaltrack.util.intervals import SEQ_MAX

if TYPE_CHECKING:
    from journaltrack.mirror.copies import Copied
    from journaltrack.mirror.folders import Mirror

_FORMAT: Final = "journaltrack removed from mirror"
_BYTES_MAX: Final = 16 << 20
_STAYING: Final = (
    "SELECT count(*) FILTER (WHERE d.seq IS NULL), "
    f"count(*) FILTER (WHERE d.seq IS NOT NULL AND NOT {ARRIVED}), "
    f"count(*) FILTER (WHERE {ARRIVED} AND d.settled_at_ns >= ?), count(*) "
    "FROM entry e LEFT JOIN delivery d ON d.seq = e.seq"
)


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of one journal of a mirror.

    Attributes:
        journal_id: The journal's.
        copy: The folder of this machine's copy; None: there is none.
        why_not: Why it stays; None: it was removed, or would be.
        entries: How many entries the copy has.
        files, size_bytes: In the mirror.
    """

    journal_id: str
    copy: Path | None
    why_not: str | None
    entries: int = 0
    files: int = 0
    size_bytes: int = 0


def prune(folder: Path, delivered_before_ns: int, *, dry_run: bool = False) -> list[Removal]:
    """Remove the journals of a mirror of which every entry was delivered before a time.

    Args:
        folder: The mirror's.
        delivered_before_ns: The time, nanoseconds since the epoch.
        dry_run: Change nothing but this machine's copies.

    Raises:
        MirrorError: The mirror can't be read or written. What was removed is on the record.
        JournalTooNewError, InvalidInputError: It is none, or a newer version made it.
    """
    mirror = folders.opened(folder)
    found = []
    for copied in copies.extended(mirror.path):
        place = mirror.path / copied.journal_id
        if not dry_run and (place / folders.RECORD).exists():
            _complete(mirror, copied.journal_id)
        if not mirror.replicas(copied.journal_id):
            continue
        files = list(_files(mirror, copied.journal_id))
        why_not, entries = _why_not(mirror, copied, delivered_before_ns)
        size_bytes = sum(size for _, size in files)
        done = Removal(copied.journal_id, copied.folder, why_not, entries, len(files), size_bytes)
        if why_not is None and not dry_run:
            _remove(mirror, copied)
        found.append(done)
    return found


def removed(mirror: Mirror) -> dict[str, dict[str, Any]]:
    """Return the records of a mirror, by the journal's id.

    Raises:
        MirrorError: The mirror can't be read.
    """
    found = {}
    for journal_id in mirror.journals():
        file = mirror.path / journal_id / folders.RECORD
        with shared_files.explained(file, "read"):
            data = shared_files.content(file, _BYTES_MAX)
        with contextlib.suppress(ValueError, RecursionError):
            members = json.loads(data or b"")
            if isinstance(members, dict) and members.get("format") == _FORMAT:
                found[journal_id] = members
    return found


def _why_not(mirror: Mirror, copied: Copied, before_ns: int) -> tuple[str | None, int]:
    """Return why a journal stays in the mirror, and how many entries the copy has."""
    if copied.folder is None:
        return "no segment of it is whole", 0
    with closing(Journal.open(copied.folder, create=False, read_only=True)) as journal:
        # Whoever names the year 2500 means all: SQLite's integers end before that.
        rows = journal.database.read(_STAYING, (min(before_ns, SEQ_MAX),))
        ((pending, problems, later, entries),) = rows
    if copied.problem is not None or copied.notes:
        return "this machine's copy does not have all of it", entries
    if delivery.newest(mirror, copied.journal_id).is_held:
        return "a machine delivers it, or has not ended that", entries
    for count, what in (
        (problems, "are quarantined or in doubt"),
        (pending, "are not delivered yet"),
        (later, "were delivered, but not before that time"),
    ):
        if count:
            return f"{count} entries {what}", entries
    return None, entries


def _remove(mirror: Mirror, copied: Copied) -> None:
    """Record what the mirror had of a journal, then remove it."""
    assert copied.folder is not None  # noqa: S101 - ``_why_not`` has looked
    place = mirror.path / copied.journal_id
    with exchange.alone(copied.folder, wait_s=copies.WAIT_S):
        state = exchange.load(copied.folder, mirror.id)
    taken = {each.name: each.number for each in copied.replicas} | (
        {state.replica: state.number} if state.replica else {}
    )
    replicas = {
        name: {
            "number": taken[name],
            "sha256": state.seen[name].digests.get(taken[name]) if name in state.seen else None,
        }
        for name in mirror.replicas(copied.journal_id)
        if name in taken
    }
    members = {
        "format": _FORMAT,
        "version": 1,
        "journal_id": copied.journal_id,
        "removed_at_ns": time.time_ns(),
        "removed_by": f"journaltrack {__version__}",
        "copy_of": state.replica,
        "replicas": replicas,
        "heads": {uuid: list(link) for uuid, link in state.heads.items()},
    }
    with shared_files.explained(place / folders.RECORD, "written"):
        data = json.dumps(members).encode() + b"\n"
        shared_files.write_whole(place / folders.RECORD, data, mirror.path)
    for name in replicas:
        _take_away(mirror, copied.journal_id, name, taken[name])
    _complete(mirror, copied.journal_id)


def _take_away(mirror: Mirror, journal_id: str, name: str, taken: int | None) -> None:
    """Take a folder out of sight, unless its writer has written since."""
    folder = mirror.path / journal_id / name
    hidden = folder.with_name(f".{name}.partial")
    with shared_files.explained(folder, "removed"):
        if not folder.exists():
            return
        folder.rename(hidden)
    replica = folders.Replica(mirror.path, hidden)
    if taken is not None and replica.listed().newest > taken:
        with shared_files.explained(folder, "put back"):
            hidden.rename(folder)


def _complete(mirror: Mirror, journal_id: str) -> None:
    """Remove what is out of sight, and artifacts that no segment names any more."""
    if not mirror.replicas(journal_id):
        _take_away(mirror, journal_id, folders.BLOBS, None)
        # Nobody continues a run from here any more.
        runs = mirror.path / folders.RUNS
        for name in shared_files.folders_in(runs):
            with shared_files.explained(runs / name, "removed"):
                (runs / name / journal_id).unlink(missing_ok=True)
                # Another journal has a run of that name, or a node makes it now.
                with contextlib.suppress(OSError):
                    (runs / name).rmdir()
    place = mirror.path / journal_id
    with shared_files.explained(place, "removed"):
        for hidden in place.glob(".*.partial"):
            if hidden.is_dir() and not hidden.is_symlink():
                shutil.rmtree(hidden)
            else:
                hidden.unlink(missing_ok=True)


def _files(mirror: Mirror, journal_id: str) -> Iterator[tuple[Path, int]]:
    """Yield the files that would go, with their sizes in bytes."""
    place = mirror.path / journal_id
    with shared_files.explained(place, "read"):
        for name in (*mirror.replicas(journal_id), folders.BLOBS):
            for path in (place / name).rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if not path.is_dir():
                        yield path, path.lstat().st_size
