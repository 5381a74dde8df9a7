"""Proof that a journal is as it was written: digest chains, places without gaps, artifact bytes. Changes nothing.

What it finds: an entry that was changed, removed from the middle, inserted or reordered; a blob that is missing or has
other bytes; pages that SQLite calls damaged. What it can't find: entries removed from a writer's end, and a forgery by
somebody who recomputes the chain: for those compare with a copy, or with a digest kept elsewhere.

Reads no file outside the journal's folder, whatever the journal says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack import access, limits, paths, report
from journaltrack import entries as vocabulary
from journaltrack.spool import is_digest

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.database import Database
    from journaltrack.journal import Journal

ProblemKind: TypeAlias = Literal["database", "chain", "gap", "writer", "blob"]

_PAGE_ENTRIES: Final = 10_000
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """Something that is not as it was written.

    Attributes:
        kind: "database" (SQLite's own check), "chain" (an entry's content and digest differ), "gap" (an entry is
            missing or out of place), "writer" (entries of a process that is not recorded), "blob".
        message: What was found.
        writer: The process's unique id.
        host, pid: Of that process.
        seq: Of the entry.
        sha256: Of the blob.
    """

    kind: ProblemKind
    message: str
    writer: str | None = None
    host: str | None = None
    pid: int | None = None
    seq: int | None = None
    sha256: str | None = None


@dataclass(slots=True)
class _Chain:
    uuid: str
    host: str
    pid: int
    digest: bytes
    writer_seq: int = 0
    broken: bool = False


def verify_chains(journal: Journal | str | os.PathLike[str] | None = None) -> list[ChainProblem]:
    """Recompute everything that can be recomputed: 10 to 20 s for 1,000,000 entries, and the reading of all blobs.

    Args:
        journal: An open journal, its folder, or None for the default journal.

    Returns:
        What is wrong; per writer only the first broken link, since all later ones depend on it. Empty when all is well.

    Raises:
        JournalError: The journal can't be read.
    """
    with report.opened(journal) as own:
        found = [*database_problems(own.database)]
        with report.snapshot(own.database):
            found += chain_problems(own.database)
            found += references_without_blob(own.database)
            blobs = own.database.read("SELECT sha256, size_bytes FROM blob ORDER BY sha256")
        for sha256, size_bytes in blobs:
            message = blob_problem(own.path / paths.SPOOL, sha256, size_bytes)
            if message is not None:
                found.append(ChainProblem("blob", message, sha256=str(sha256)))
        return found


def database_problems(database: Database) -> Iterator[ChainProblem]:
    """What SQLite's own check of pages and indexes says."""
    for (line,) in database.read("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield ChainProblem("database", str(line))


def chain_problems(database: Database) -> Iterator[ChainProblem]:
    """The first broken link of each writer."""
    chains = {
        writer_id: _Chain(uuid, host, pid, vocabulary.chain_start(str(uuid)))
        for writer_id, uuid, host, pid in database.read("SELECT id, uuid, host, pid FROM writer")
    }
    unknown: set[Any] = set()
    after_seq = 0
    while True:
        rows = database.read_page(
            "SELECT e.seq, e.writer_id, e.writer_seq, c.name, e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
            "e.recorded_at_ns, e.digest FROM entry e LEFT JOIN component c ON c.id = e.component_id WHERE e.seq > ? ORDER BY e.seq LIMIT ?",
            (after_seq, _PAGE_ENTRIES),
        )
        if not rows:
            return
        for seq, writer_id, *link in rows:
            chain = chains.get(writer_id)
            if chain is None:
                if writer_id not in unknown:
                    unknown.add(writer_id)
                    yield ChainProblem("writer", f"entries from {seq} on are of writer {writer_id}, which is not recorded", seq=seq)
            elif not chain.broken:
                problem = _follow(chain, seq, *link)
                if problem is not None:
                    chain.broken = True
                    yield problem
        after_seq = rows[-1][0]


def _follow(
    chain: _Chain,
    seq: int,
    writer_seq: int,
    component: str | None,
    stream: str,
    kind: str,
    name: str | None,
    value: float | None,
    step: int | None,
    timestamp_ns: int | None,
    payload: str | None,
    recorded_at_ns: int,
    digest: object,
) -> ChainProblem | None:
    """One link further, or what is wrong with it."""
    who = (chain.uuid, chain.host, chain.pid, seq)
    if writer_seq != chain.writer_seq + 1:
        return ChainProblem("gap", f"entry {seq} is number {writer_seq} of its writer, {chain.writer_seq + 1} was expected", *who)
    # SQLite keeps no sign of zero, the digest does: both are tried.
    for same in (value, -0.0) if value == 0 else (value,):
        draft = vocabulary.Draft(stream, kind, name, same, step, timestamp_ns, payload)  # type: ignore[arg-type]
        try:
            expected = vocabulary.chain_next(chain.digest, writer_seq, component, draft, recorded_at_ns)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # a column of a type that no entry has
            break
        if expected == digest:
            chain.digest, chain.writer_seq = expected, writer_seq
            return None
    return ChainProblem("chain", f"entry {seq} is not what its writer recorded: its digest does not fit its content", *who)


def references_without_blob(database: Database) -> Iterator[ChainProblem]:
    """Uploads of contents that the journal does not know."""
    rows = database.read(
        "SELECT u.sha256, min(u.seq) FROM (SELECT e.seq, CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.sha256') END "
        "AS sha256 FROM entry e WHERE e.stream = 'upload' AND e.kind = 'upload') u "
        "WHERE u.sha256 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blob b WHERE b.sha256 = u.sha256) GROUP BY 1"
    )
    for sha256, seq in rows:
        yield ChainProblem("blob", f"entry {seq} names the content {str(sha256)[:100]}, which is not recorded", seq=seq, sha256=str(sha256))


def blob_problem(spool: Path, sha256: object, size_bytes: object) -> str | None:
    """Why a blob is not what it should be, or None. Follows no link and opens nothing but regular files.

    Args:
        spool: The folder.
        sha256: As recorded, whatever that is.
        size_bytes: As recorded.
    """
    if not isinstance(sha256, str) or not is_digest(sha256):
        return f"{limits.shown(str(sha256))} is not a SHA-256"
    try:
        with access.opened_blob(spool / sha256[:2] / sha256) as file:
            found = os.fstat(file)
            if found.st_size != size_bytes:
                return f"the blob {sha256} has {found.st_size} bytes, {str(size_bytes)[:80]} were recorded"
            digest = hashlib.sha256()
            while chunk := os.read(file, _READ_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return f"the blob {sha256} is missing from the spool"
    except OSError as error:
        return f"the blob {sha256} can't be read: {error.strerror}"
    except ValueError:
        return f"the blob {sha256} is not a regular file"
    return None if digest.hexdigest() == sha256 else f"the blob {sha256} has other bytes than were recorded"
