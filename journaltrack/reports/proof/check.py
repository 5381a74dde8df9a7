"""Proof that a journal is as it was written: chains of digests, places without gaps, records against evidence, artifact bytes.

What it finds: an entry, writer or attestation that was changed, removed from the middle, inserted or reordered; a receipt or
settlement that is not what was attested, or that nothing attests; a blob that is missing or has other bytes; pages that SQLite
calls damaged. What it can't find: what was removed from the end of a writer's chain, and a forgery by somebody who recomputes
the chains: for those compare with an anchor (``anchors``), a copy, or a head that was noted elsewhere.

Changes nothing, and reads no file outside the journal's folder, whatever the journal says.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import JournalError
from journaltrack.journal import view
from journaltrack.journal.chain import ChainProblem, ProblemKind, chain_problems, writer_problems
from journaltrack.journal.queries import PROBLEM
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.connection import Database
from journaltrack.replay.evidence import anchors
from journaltrack.reports.proof.replayed import Evidence, record_problems
from journaltrack.transfer.bundle import layout
from journaltrack.util import paths
from journaltrack.util.digest import digest_of, is_digest

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.chain import Gaps
    from journaltrack.journal.journal import Journal

__all__ = [
    "ADVICE",
    "ChainProblem",
    "blob_problem",
    "chain_problems",
    "database_problems",
    "is_absent",
    "needed_contents",
    "record_evidence",
    "references_without_blob",
    "verify_chains",
]

ADVICE: Final[Mapping[ProblemKind, str]] = {
    "database": "SQLite's pages are damaged: entries may be unreadable; `journaltrack check --repair` restores what is there into a new database",
    "meta": "somebody edited what the journal says of itself; the entries have chains of their own, and stand or fall by those",
    "writer": "who recorded entries can't be told; if a row is gone, so is the beginning of its chain: nothing of that writer is proved",
    "chain": "of that writer the entries from there on are not proved, those before are; which of them was edited can be told by a copy",
    "gap": "entries are missing or out of place; what was there can be told by a copy alone",
    "attestation": "what that process says of deliveries is not proved from there on: ask AWS's CloudTrail by request id, or compare with a copy",
    "receipt": "what it says was sent is not proved: the request id can be looked up at AWS",
    "delivery": "what it says of the entry is not proved; the entry itself has a chain of its own",
    "record": "this can be computed from entries and attestations, and is not what comes out: somebody edited it, or a page was lost",
    "blob": "the artifact can't be uploaded from here any more; if it was before, S3 has it: compare its SHA-256",
    "anchor": "what was there at a sync is not here: removed from the end, or a chain was computed anew; or this copy is older than the one synced then",
}
"""What each kind of problem means for the data, and what helps."""


def verify_chains(
    journal: Journal | str | os.PathLike[str] | None = None, *, anchors: Mapping[str, bytes] | None = None
) -> list[ChainProblem]:
    """Recompute everything that can be recomputed: see docs/performance.md for how long it takes; all blobs are read.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        anchors: Documents by name that the journal is held against too, see ``anchors``.

    Returns:
        What is wrong; per chain only the first broken link, since all later ones depend on it. Empty when all is well.

    Raises:
        JournalError: The journal can't be read.
    """
    with view.opened(journal) as own, _pages_checked(own) as pages:
        with proved(own.database) as (found, evidence):
            found.extend(references_without_blob(own.database))
            found.extend(anchor_problems(own.database, anchors or {}, evidence.gaps))
            blobs = own.database.read("SELECT sha256, size_bytes FROM blob ORDER BY sha256")
            gone = (evidence.blobs_removed | left_out(own.path)) - needed_contents(own.database)
        for sha256, size_bytes in blobs:
            if sha256 in gone and is_absent(own.path / paths.SPOOL, sha256):
                continue
            message = blob_problem(own.path / paths.SPOOL, sha256, size_bytes)
            if message is not None:
                found.append(ChainProblem("blob", message, sha256=str(sha256)))
    return [*pages, *found]


@contextlib.contextmanager
def proved(database: Database) -> Iterator[tuple[list[ChainProblem], Evidence]]:
    """``record_evidence`` in a snapshot, which the block is in, too. Its temporary tables are in memory where no disk has room for them.

    Raises:
        JournalError: The journal can't be read.
    """
    for in_memory in (False, True):
        with view.snapshot(database, in_memory=in_memory):
            try:
                found = record_evidence(database)
            except JournalError:
                if in_memory:
                    raise
                continue
            yield found
            return


def record_evidence(database: Database) -> tuple[list[ChainProblem], Evidence]:
    """What is wrong with writers, attestations, entries and records, and what the attestations amount to; inside of a snapshot.

    Python's own way from UTF-8 to text is twice as fast as ours, and gives up where a text is none.
    """
    connection = database.connection
    tolerant = connection.text_factory
    connection.text_factory = str
    try:
        return _recomputed(database)
    except (JournalError, UnicodeDecodeError):
        pass  # told of below, or again
    finally:
        connection.text_factory = tolerant
    return _recomputed(database)


def _recomputed(database: Database) -> tuple[list[ChainProblem], Evidence]:
    found = writer_problems(database)
    records, evidence = record_problems(database)
    gaps = (evidence.gaps, evidence.gaps_to_come)
    return [*found, *chain_problems(database, gaps, evidence.pruned_to), *records], evidence


@contextlib.contextmanager
def _pages_checked(journal: Journal) -> Iterator[list[ChainProblem]]:
    """SQLite's check of all pages, beside the block: it holds no interpreter lock. The list is complete when the block is left."""
    found: list[ChainProblem] = []
    failed: list[BaseException] = []

    def check() -> None:
        try:
            with closing(Database(journal.database.path, read_only=True)) as database:
                found.extend(database_problems(database))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failed.append(error)

    thread = threading.Thread(target=check, name="journaltrack-pages", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        thread.join()
    if failed:
        raise failed[0]


def database_problems(database: Database) -> Iterator[ChainProblem]:
    """What SQLite's own check of pages and indexes says."""
    for (line,) in database.read("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield ChainProblem("database", str(line))


def references_without_blob(database: Database) -> Iterator[ChainProblem]:
    """Uploads of contents that the journal does not know."""
    rows = database.read(
        "SELECT u.sha256, min(u.seq) FROM (SELECT e.seq, CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.sha256') END "
        "AS sha256 FROM entry e WHERE e.stream = 'upload' AND e.kind = 'upload') u "
        "WHERE u.sha256 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blob b WHERE b.sha256 = u.sha256) GROUP BY 1"
    )
    for sha256, seq in rows:
        yield ChainProblem("blob", f"entry {seq} names the content {str(sha256)[:100]}, which is not recorded", seq=seq, sha256=str(sha256))


def needed_contents(database: Database) -> set[str]:
    """Contents of uploads that are not delivered: the spool must have them."""
    rows = database.read(
        "SELECT DISTINCT json_extract(e.payload, '$.sha256') FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
        f"WHERE e.stream = 'upload' AND json_valid(e.payload) AND (d.seq IS NULL OR {PROBLEM})"
    )
    return {str(sha256) for (sha256,) in rows}


def left_out(folder: Path) -> frozenset[str]:
    """Contents that were left out of the bundle that a journal came in: delivered from where it was made."""
    try:
        # Neither a link nor a FIFO: the folder may be somebody else's.
        file = os.open(folder / layout.MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return frozenset()  # it came in no bundle
    try:
        data = os.read(file, limits.MANIFEST_BYTES_MAX)
        return frozenset(layout.decode(data, reader_version=__version__).left_out)
    except (OSError, ValueError, JournalError):
        return frozenset()  # it is none of ours
    finally:
        os.close(file)


def is_absent(spool: Path, sha256: str) -> bool:
    """Whether nothing is in the place of the blob, not even a link."""
    return is_digest(sha256) and not os.path.lexists(spool / sha256[:2] / sha256)


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
        with files.opened_blob(spool / sha256[:2] / sha256) as file:
            found = os.fstat(file)
            if found.st_size != size_bytes:
                return f"the blob {sha256} has {found.st_size} bytes, {str(size_bytes)[:80]} were recorded"
            found_sha256 = digest_of(functools.partial(os.read, file))
    except FileNotFoundError:
        return f"the blob {sha256} is missing from the spool"
    except OSError as error:
        return f"the blob {sha256} can't be read: {error.strerror}"
    except ValueError:
        return f"the blob {sha256} is not a regular file"
    return None if found_sha256 == sha256 else f"the blob {sha256} has other bytes than were recorded"


class _Head(NamedTuple):
    anchor: str
    uuid: str
    number: int
    digest: str


def anchor_problems(database: Database, documents: Mapping[str, bytes], gaps: Gaps | None = None) -> list[ChainProblem]:
    """Where a journal is behind its anchors, or is not what they say.

    Args:
        database: Of the journal, in a snapshot; that its chains hold is for ``proof.check`` to say.
        documents: By name. One that is named as ``anchors.name_of`` does is held against the SHA-256 in it, too.
        gaps: What was removed on the record.
    """
    found: list[ChainProblem] = []
    ((journal_id,),) = database.read("SELECT journal_id FROM meta")
    digests = {hashlib.sha256(content).hexdigest() for content in documents.values()}
    heads: dict[anchors.Kind, list[_Head]] = {"entries": [], "attestations": []}
    for name, content in sorted(documents.items()):
        document, named = anchors.decode(content), anchors.NAME.fullmatch(name)
        if document is None or (named and named[2] != hashlib.sha256(content).hexdigest()):
            found.append(ChainProblem("anchor", f"the anchor {limits.shown(name)} is not the document that it was made as"))
            continue
        if document.journal_id != journal_id:
            message = f"the anchor {limits.shown(name)} is of the journal {limits.shown(document.journal_id)}, not of this one"
            found.append(ChainProblem("anchor", message))
            continue
        if document.previous is not None and document.previous not in digests and len(documents) > 1:
            found.append(ChainProblem("anchor", f"the anchor before {limits.shown(name)} is missing: it was removed"))
        heads["entries"] += [_Head(name, uuid, *head) for uuid, head in document.entries.items()]
        heads["attestations"] += [_Head(name, uuid, *head) for uuid, head in document.attestations.items()]
    found += _behind(database, "entries", "entry", heads["entries"], gaps or {})
    found += _behind(database, "attestations", "attestation", heads["attestations"], {})
    return found


def _behind(database: Database, kind: anchors.Kind, table: str, heads: list[_Head], gaps: Gaps) -> Iterator[ChainProblem]:
    """Heads that the journal does not reach, or has otherwise; of each writer the furthest."""
    writers = {str(uuid): (i, str(host), pid) for i, uuid, host, pid in database.read("SELECT id, uuid, host, pid FROM writer")}
    places = json.dumps(sorted({(writers[head.uuid][0], head.number) for head in heads if head.uuid in writers}))
    there = {
        (writer_id, number): bytes(digest).hex() if isinstance(digest, bytes) else ""
        for writer_id, number, digest in database.read(
            f"SELECT writer_id, writer_seq, digest FROM {table} WHERE (writer_id, writer_seq) IN "
            "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
            (places,),
        )
    }
    ends = dict(database.read(f"SELECT writer_id, max(writer_seq) FROM {table} GROUP BY writer_id"))
    told: set[str] = set()
    for head in sorted(heads, key=lambda head: -head.number):
        if head.uuid in told:
            continue
        writer_id, host, pid = writers.get(head.uuid, (0, None, None))
        gone = gaps[head.uuid].end if head.uuid in gaps else 0
        end = max(ends.get(writer_id, 0), gone) if head.uuid in writers else 0
        message = None
        if end < head.number:
            message = (
                f"{head.number - end} {kind} were removed from the end of a writer's chain: it ends at {end}, "
                f"and the anchor {limits.shown(head.anchor)} has {head.number}"
            )
        elif there.get((writer_id, head.number), head.digest) != head.digest:
            message = f"number {head.number} of a writer's {kind} is another one than when it was anchored ({limits.shown(head.anchor)})"
        if message is not None:
            told.add(head.uuid)
            yield ChainProblem("anchor", message, head.uuid, host, pid)
