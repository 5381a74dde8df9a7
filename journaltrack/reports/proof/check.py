"""Check that a journal is as it was written, from its chains to the blobs' bytes.

What it finds:

- an entry, writer or attestation that was changed, inserted, reordered, or removed from the
middle;
- a receipt or settlement that differs from what was attested, or that nothing attests;
- a blob that is missing or has other bytes;
- pages that SQLite calls damaged.

What it can't find: entries that were removed from the end of a writer's chain, and a forgery by
somebody who recomputed the chains. For those, compare with an anchor, a copy, or a head that was
noted elsewhere.

It changes nothing. It reads no file outside the journal's folder, whatever the journal says.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import JournalError
from journaltrack.journal import destinations, view
from journaltrack.journal.chain import ChainProblem, ProblemKind, chain_problems, writer_problems
from journaltrack.journal.queries import PROBLEM
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.connection import Database
from journaltrack.replay.evidence import anchors
from journaltrack.replay.evidence.statements import REPAIR
from journaltrack.reports.proof import beside
from journaltrack.reports.proof.attested import Evidence, evidence_of
from journaltrack.reports.proof.replayed import record_problems
from journaltrack.transfer.bundle import layout
from journaltrack.util import config, paths
from journaltrack.util.digest import digest_of, is_digest

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.chain import Gaps

_LOST: Final = (
    "SELECT uuid, host, pid FROM writer WHERE id NOT IN (SELECT writer_id FROM entry) "
    "AND id NOT IN (SELECT writer_id FROM attestation)"
)
ADVICE: Final[Mapping[ProblemKind, str]] = {
    "database": (
        "SQLite's pages are damaged, so entries may be unreadable; "
        "`journaltrack check --repair` restores what is readable into a new database"
    ),
    "meta": (
        "the journal's description of itself was edited; its entries have chains of their own, "
        "which prove them independently of it"
    ),
    "writer": (
        "it is unknown who recorded some entries; if a writer's row is gone, "
        "so is the start of its chain, and none of its entries is proved"
    ),
    "chain": (
        "this writer's entries are proved up to there, and not from there on; "
        "compare with a copy of the journal to see which one was edited"
    ),
    "gap": "entries are missing or out of place; only a copy of the journal has them",
    "attestation": (
        "from there on, nothing proves what this process says about deliveries; "
        "look the request ids up in AWS CloudTrail, or compare with a copy of the journal"
    ),
    "receipt": "nothing proves what it says was sent; look its request id up in AWS CloudTrail",
    "delivery": "nothing proves what became of the entry; the entry itself has a chain of its own",
    "record": (
        "this record differs from what entries and attestations say: somebody edited it, or a "
        "page of the database was lost"
    ),
    "blob": (
        "the artifact can't be uploaded from here any more; if it was uploaded before, S3 has "
        "it: compare its SHA-256 there"
    ),
    "anchor": (
        "records that were there at a sync are missing from the end, or a chain was recomputed; "
        "or this copy is older than the one that was synced"
    ),
    "anchor file": (
        "nothing was compared with this file, so it proves nothing about the journal; either the "
        "file or the journal is not the one that you mean"
    ),
}
"""What each kind of problem means for the data, and what helps."""


@contextlib.contextmanager
def proved(database: Database) -> Iterator[tuple[list[ChainProblem], Evidence]]:
    """Give ``record_evidence`` inside a snapshot that lasts for the block.

    Its temporary tables are kept in memory if no disk has room for them.

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
    """Find what is wrong in the tables, and sum up the attestations.

    Python's own conversion from UTF-8 to text is twice as fast as ours. It fails on bytes that
    are no text; then everything is read again with ours. The caller holds a snapshot.

    Returns:
        What is wrong with writers, attestations, entries and records, and what the attestations
        say.
    """
    connection = database.connection
    tolerant = connection.text_factory
    connection.text_factory = str
    try:
        return _recomputed(database)
    except (JournalError, UnicodeDecodeError):
        # The tolerant reading below finds the problem, or raises again.
        pass
    finally:
        connection.text_factory = tolerant
    return _recomputed(database)


def _recomputed(database: Database) -> tuple[list[ChainProblem], Evidence]:
    found = writer_problems(database)
    with beside.following(database) as followed:
        records, evidence = record_problems(database)
        gaps = (evidence.gaps, evidence.gaps_to_come)
        begin = followed()
        entries = chain_problems(database, gaps, evidence.pruned_to, begin)
        if entries and begin is not None:
            entries = chain_problems(database, gaps, evidence.pruned_to)
    return [*found, *entries, *_lost(database), *records], evidence


def _lost(database: Database) -> Iterator[ChainProblem]:
    """Yield the processes of which a rebuilt database has nothing but their names.

    Each recorded itself together with its first entry or attestation, and ``prune`` keeps the last
    one. Only a copy for a destination has processes without any.
    """
    if destinations.name_of(database.path.parent) != config.SAGEMAKER:
        return
    if not database.read("SELECT 1 FROM receipt WHERE action = ? LIMIT 1", (REPAIR,)):
        return
    for uuid, host, pid in database.read(_LOST):
        message = f"all that the writer {limits.shown(str(uuid))} recorded is lost"
        yield ChainProblem("gap", message, str(uuid), str(host), pid)


def database_problems(database: Database) -> Iterator[ChainProblem]:
    """Yield what SQLite's own check of pages and indexes reports."""
    for (line,) in database.read("PRAGMA integrity_check(20)"):
        if line != "ok":
            # One row may have several lines, with a heading that says nothing.
            for each in str(line).splitlines():
                if each.strip() and not each.startswith("***"):
                    yield ChainProblem("database", each)


def references_without_blob(database: Database) -> Iterator[ChainProblem]:
    """Yield the uploads of contents that the journal does not know."""
    rows = database.read(
        "SELECT u.sha256, min(u.seq) FROM (SELECT e.seq, CASE "
        "WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.sha256') END AS sha256 "
        "FROM entry e WHERE e.stream = 'upload' AND e.kind = 'upload') u "
        "WHERE u.sha256 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blob b "
        "WHERE b.sha256 = u.sha256) GROUP BY 1"
    )
    for sha256, seq in rows:
        yield ChainProblem(
            "blob",
            f"entry {seq} names the content {str(sha256)[:100]}, which is not recorded",
            seq=seq,
            sha256=str(sha256),
        )


def needed_contents(database: Database) -> set[str]:
    """Return the contents of undelivered uploads: the spool must have them.

    Unlike ``spool.needed_blobs``, this believes no derived table: somebody may have edited them.
    """
    rows = database.read(
        "SELECT DISTINCT json_extract(e.payload, '$.sha256') FROM entry e "
        "LEFT JOIN delivery d ON d.seq = e.seq WHERE e.stream = 'upload' "
        f"AND json_valid(e.payload) AND (d.seq IS NULL OR {PROBLEM})"
    )
    return {str(sha256) for (sha256,) in rows}


def left_out(folder: Path) -> frozenset[str]:
    """Return the contents that the bundle of this journal left out.

    They had been delivered from where the bundle was made.
    """
    try:
        # Neither a link nor a FIFO: the folder may be somebody else's.
        file = os.open(
            folder / layout.MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        # The journal came in no bundle.
        return frozenset()
    try:
        data = os.read(file, limits.MANIFEST_BYTES_MAX)
        return frozenset(layout.decode(data, reader_version=__version__).left_out)
    except (OSError, ValueError, JournalError):
        # The file is no manifest that journaltrack wrote.
        return frozenset()
    finally:
        os.close(file)


def is_absent(spool: Path, sha256: str) -> bool:
    """Return whether nothing is in the place of the blob, not even a link."""
    return is_digest(sha256) and not os.path.lexists(spool / sha256[:2] / sha256)


def blob_problem(spool: Path, sha256: object, size_bytes: object) -> str | None:
    """Return why a blob is not what it should be, or None.

    It follows no link and opens only regular files.

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
                return (
                    f"the blob {sha256} has {found.st_size} bytes, {str(size_bytes)[:80]} were "
                    "recorded"
                )
            found_sha256 = digest_of(functools.partial(os.read, file))
    except FileNotFoundError:
        return f"the blob {sha256} is missing from the spool"
    except OSError as error:
        return f"the blob {sha256} can't be read: {error.strerror}"
    except ValueError:
        return f"the blob {sha256} is not a regular file"
    return (
        None if found_sha256 == sha256 else f"the blob {sha256} has other bytes than were recorded"
    )


def bad_contents(database: Database) -> dict[str, str]:
    """Read every recorded content. Return what is wrong with it, by digest.

    What was removed on the record, or left out of a bundle, may be absent. Only if something is
    absent, the attestations are read for that.
    """
    folder = database.path.parent
    spool, bad = folder / paths.SPOOL, {}
    for sha256, size_bytes in database.read("SELECT sha256, size_bytes FROM blob ORDER BY sha256"):
        message = blob_problem(spool, sha256, size_bytes)
        if message is not None:
            bad[str(sha256)] = message
    absent = {sha256 for sha256 in bad if is_absent(spool, sha256)}
    if absent:
        removed = (evidence_of(database).blobs_removed | left_out(folder)) & absent
        for sha256 in removed - needed_contents(database):
            del bad[sha256]
    return bad


class _Head(NamedTuple):
    anchor: str
    uuid: str
    number: int
    digest: str


def anchor_problems(
    database: Database, documents: Mapping[str, bytes], gaps: Gaps | None = None
) -> list[ChainProblem]:
    """Find where a journal is behind its anchors, or differs from them.

    Args:
        database: Of the journal, in a snapshot. This function trusts the chains:
            ``record_evidence`` checks them.
        documents: Anchors by name. If a name has the form of ``anchors.name_of``, the SHA-256 in
            it is compared too.
        gaps: What was removed on the record.
    """
    found: list[ChainProblem] = []
    ((journal_id,),) = database.read("SELECT journal_id FROM meta")
    digests = {hashlib.sha256(content).hexdigest() for content in documents.values()}
    heads: dict[anchors.Kind, list[_Head]] = {"entries": [], "attestations": []}
    for name, content in sorted(documents.items()):
        document = _document(str(journal_id), name, content)
        if isinstance(document, str):
            found.append(ChainProblem("anchor file", document))
            continue
        if (
            document.previous is not None
            and document.previous not in digests
            and len(documents) > 1
        ):
            found.append(
                ChainProblem(
                    "anchor", f"the anchor before {limits.shown(name)} is missing: it was removed"
                )
            )
        heads["entries"] += [_Head(name, uuid, *head) for uuid, head in document.entries.items()]
        heads["attestations"] += [
            _Head(name, uuid, *head) for uuid, head in document.attestations.items()
        ]
    found += _behind(database, "entries", "entry", heads["entries"], gaps or {})
    found += _behind(database, "attestations", "attestation", heads["attestations"], {})
    return found


def _document(journal_id: str, name: str, content: bytes) -> anchors.HeadsDocument | str:
    """Return what an anchor says, or why it says nothing about this journal."""
    document = anchors.decode(content)
    named = anchors.NAME.fullmatch(name.rpartition("/")[2])
    if document is None or (named and named[2] != hashlib.sha256(content).hexdigest()):
        return f"the anchor {limits.shown(name)} was altered: it is not the document that was made"
    if document.journal_id != journal_id:
        return (
            f"the anchor {limits.shown(name)} is of the journal "
            f"{limits.shown(document.journal_id)}, not of this one"
        )
    return document


def anchors_fitting(
    database: Database,
    documents: Mapping[str, bytes],
    problems: Iterable[ChainProblem],
    gaps: Gaps,
) -> Iterator[tuple[str, bool]]:
    """Say of each anchor that fits how much of the journal it proves.

    An anchor names only the chains that grew since the one before.

    Args:
        database: Of the journal, in a snapshot.
        documents: As for ``anchor_problems``.
        problems: Of the chains, and what ``anchor_problems`` found. An anchor fits if no chain
            that it names has one.
        gaps: What was removed on the record.

    Yields:
        A message, and whether the anchors before it are all there, back to the first.
    """
    ((journal_id,),) = database.read("SELECT journal_id FROM meta")
    previous = {}
    for content in documents.values():
        if (each := anchors.decode(content)) is not None:
            previous[hashlib.sha256(content).hexdigest()] = each.previous
    broken = {problem.writer for problem in problems if problem.writer is not None}
    for name, content in sorted(documents.items()):
        document = _document(str(journal_id), name, content)
        if isinstance(document, str) or broken & {*document.entries, *document.attestations}:
            continue
        entries = sum(number for number, _ in document.entries.values())
        chains = len(document.entries) + len(document.attestations)
        message = (
            f"the anchor {limits.shown(name)} fits: all {entries} "
            f"{'entry' if entries == 1 else 'entries'} and {chains} "
            f"{'chain' if chains == 1 else 'chains'} that it names are here, unchanged"
            + (", or were pruned on the record" if gaps.keys() & document.entries.keys() else "")
        )
        before = document.previous
        # It ends: no document has the digest of a later one.
        while before in previous:
            before = previous[before]
        yield message, before is None


def _behind(
    database: Database, kind: anchors.Kind, table: str, heads: list[_Head], gaps: Gaps
) -> Iterator[ChainProblem]:
    """Yield the heads that the journal does not reach, or has otherwise.

    Of each writer only the furthest such head comes.
    """
    writers = {
        str(uuid): (i, str(host), pid)
        for i, uuid, host, pid in database.read("SELECT id, uuid, host, pid FROM writer")
    }
    places = json.dumps(
        sorted({(writers[head.uuid][0], head.number) for head in heads if head.uuid in writers})
    )
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
        end = max(ends.get(writer_id, 0), gone)
        message = None
        if head.uuid not in writers:
            message = (
                f"nothing is here of a process of which the anchor {limits.shown(head.anchor)} has "
                f"{head.number} {kind}: another copy of the journal was delivered, or all of it "
                "was removed"
            )
        elif end < head.number:
            gone_count = head.number - end
            were = {"entries": "entry was", "attestations": "attestation was"}[kind]
            what = f"1 {were}" if gone_count == 1 else f"{gone_count} {kind} were"
            message = (
                f"{what} removed from the end of a writer's chain: it "
                f"ends at {end}, and the anchor {limits.shown(head.anchor)} has {head.number}"
            )
        elif there.get((writer_id, head.number), head.digest) != head.digest:
            message = (
                f"number {head.number} of a writer's {kind} is not what the anchor "
                f"{limits.shown(head.anchor)} has"
            )
        if message is not None:
            told.add(head.uuid)
            yield ChainProblem("anchor", message, head.uuid, host, pid)
