"""Receipts as a file: the attestations of one copy of a journal, to be carried back to another.

JSON Lines in ASCII: a header, the processes that attest, their attestations in the order in which they came into the journal,
and a last line with the number and the SHA-256 of all lines before. docs/cli.md has the members. The file proves that it is
whole and that its chains are; not who made it: compare its digest with what was printed where it was made.

Invariants: a file is verified to its last line before anything is touched; memory grows with processes, not with attestations.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from journaltrack.errors import InvalidInputError
from journaltrack.journal import view
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite import copies
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.apply.applier import Applied, Applier
from journaltrack.transfer.apply.checks import Checker
from journaltrack.transfer.apply.source import Source
from journaltrack.transfer.receipts_file import FORMAT, REQUIRED_VERSION, VERSION, ReceiptsFile
from journaltrack.util import paths

_EVERY: Final = 1_000
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class ReceiptsExported:
    """What was written.

    Attributes:
        journal, journal_id: From where.
        output: The file; None for a stream.
        attestations, reconcilers: How many, by how many processes.
        sha256: Of all lines but the last: what to compare where the file is imported.
    """

    journal: str
    journal_id: str
    output: str | None
    attestations: int
    reconcilers: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


@dataclass(frozen=True, slots=True)
class ReceiptsImported:
    """What was taken over.

    Attributes:
        journal, journal_id: Into where.
        input, from_journal_id, sha256: The file, the journal that it is of, and its digest.
        attestations: In the file; ``new`` of them were not here yet, by ``reconcilers`` processes that were not.
        elsewhere: Of the new ones, those about entries none of which is here. They are kept, and count when the entries come.
        settled: By outcome, how many more entries are settled so than before.
        kept: Entries that stay in doubt or quarantined although the other copy released them: it did not know why they are so here.
        pending: Entries of the journal that are pending now.
        dry_run: Nothing was changed.
    """

    journal: str
    journal_id: str
    input: str
    from_journal_id: str
    sha256: str
    attestations: int
    new: int
    reconcilers: int
    elsewhere: int
    settled: dict[str, int]
    kept: int
    pending: int
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def export_receipts(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str] | IO[bytes],
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ReceiptsExported:
    """Write all attestations of a journal to a file, which gets its name when it is whole.

    Args:
        journal: An open journal, a path, or None for the default journal.
        to: The file, or a binary stream, which is not closed.
        force: Replace the file if it exists.
        on_progress: Called now and then with how many were written, of how many.

    Raises:
        InvalidInputError: The file exists. It was left as it is.
        JournalError: The journal can't be read. No file is left.
        OSError: The file can't be written. No file is left.
    """
    with view.opened(journal) as own:
        if isinstance(to, (str, os.PathLike)):
            with paths.whole_file(to, own.path, force=force) as (target, stream):
                counts = _write(own, stream, on_progress)
            return ReceiptsExported(str(own.path), own.journal_id, str(target), *counts)
        return ReceiptsExported(str(own.path), own.journal_id, None, *_write(own, to, on_progress))


def _write(journal: Journal, stream: IO[bytes], on_progress: Callable[[Progress], None] | None) -> tuple[int, int, str]:
    database = journal.database
    digest = hashlib.sha256()
    count = 0
    tell = on_progress or (lambda _: None)

    def put(members: Mapping[str, Any]) -> None:
        line = _encode(members).encode() + b"\n"
        digest.update(line)
        stream.write(line)

    with view.snapshot(database):
        where = "WHERE EXISTS (SELECT 1 FROM attestation a WHERE a.writer_id = w.id)"
        ((attestations, reconcilers),) = database.read(
            f"SELECT (SELECT count(*) FROM attestation), (SELECT count(*) FROM writer w {where})"
        )
        put(
            {
                "format": FORMAT,
                "version": VERSION,
                "required_version": REQUIRED_VERSION,
                "journal_id": journal.journal_id,
                "made_at": view.iso(time.time_ns()),
                "processes": reconcilers,
                "attestations": attestations,
            }
        )
        columns = ", ".join(f"w.{name}" for name in schema.WRITER_COLUMNS)
        connection = database.connection
        for *described, described_digest in connection.execute(f"SELECT {columns}, w.digest FROM writer w {where} ORDER BY w.id"):
            known = described_digest.hex() if isinstance(described_digest, bytes) else None
            put({"process": dict(zip(schema.WRITER_COLUMNS, described, strict=True)), "digest": known})
        sql = "SELECT w.uuid, a.writer_seq, a.body, a.digest FROM attestation a JOIN writer w ON w.id = a.writer_id ORDER BY a.id"
        for uuid, writer_seq, body, body_digest in connection.execute(sql):
            put({"by": uuid, "seq": writer_seq, "body": body, "digest": bytes(body_digest).hex()})
            count += 1
            if count % _EVERY == 0:
                tell(Progress(count, attestations, 0))
    whole = digest.hexdigest()
    stream.write(_encode({"lines": 1 + reconcilers + count, "sha256": whole}).encode() + b"\n")
    stream.flush()
    return count, reconcilers, whole


def import_receipts(
    file: str | os.PathLike[str],
    journal: str | os.PathLike[str] | None = None,
    *,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ReceiptsImported:
    """Take over what another copy of a journal knows of its entries.

    In many short transactions, since others may append meanwhile; a file that contradicts the journal or itself changes nothing. After
    a kill do it again: that completes it. Again, it changes nothing. What is pending here and was delivered there is delivered; what is in doubt
    here and was released by somebody who did not know that stays in doubt.

    Args:
        file: From ``export_receipts``.
        journal: Its folder, or None for the default journal.
        dry_run: Say what would change; change nothing.
        on_progress: Called now and then while the file is read.

    Raises:
        InvalidInputError: It is no file of receipts, or one of another journal.
        EvidenceError: It was cut, changed or forged, or contradicts the journal.
        LeaseHeldError: The journal is being reconciled.
        JournalError: The journal can't be read or written.
        OSError: The file can't be read.
    """
    source = ReceiptsFile.opened(file, on_progress)
    opened = Journal.open(journal, create=False)
    try:
        _refuse_foreign(source, opened)
        lease = leases.acquire(opened.database)
        try:
            applied = apply(opened.database, lease, source, dry_run=dry_run)
            pending = opened.database.read("SELECT (SELECT count(*) FROM entry) - (SELECT count(*) FROM delivery)")[0][0]
        finally:
            lease.release()
        settled = dict(applied.settled)
        return ReceiptsImported(
            *(str(opened.path), opened.journal_id, source.name, source.journal_id, source.sha256, source.count, applied.attestations),
            *(applied.reconcilers, applied.elsewhere, settled, applied.kept, pending - (sum(settled.values()) if dry_run else 0), dry_run),
        )
    finally:
        opened.close()


def apply(database: Database, lease: leases.Lease, source: Source, *, dry_run: bool = False) -> Applied:
    """Apply a source's attestations, and move the low-water mark.

    Raises:
        EvidenceError: They contradict themselves or the journal. Nothing was changed.
    """
    if dry_run:  # on a copy: others may append to the journal, and would wait for a transaction as long as it takes
        generation = lease.generation
        try:
            with copies.place_for_copy(database.path) as file:
                with database.lock, translated(database.path):
                    copies.write_copy(database.connection, file)
                with contextlib.closing(Database(file)) as copy:
                    return apply(copy, lease, source)
        finally:
            lease.generation = generation
    with contextlib.ExitStack() as stack:
        applier = stack.enter_context(contextlib.closing(Applier(Attestor(database, lease))))
        checker = stack.enter_context(contextlib.closing(Checker(applier, database, applier.components_of)))
        checked = checker.check(source)
        if checked.taken:
            applier.begin(checked)
        applier.take_over(checked)
        Settlement(database, lease).advance_mark()
        applier.end({source.origin})
    return applier.applied


def _refuse_foreign(source: ReceiptsFile, journal: Journal) -> None:
    if source.journal_id == journal.journal_id or not source.count:
        return
    with translated(journal.database.path):
        known = journal.database.read(
            "SELECT 1 FROM json_each(?) n JOIN writer w ON w.uuid = n.value WHERE EXISTS (SELECT 1 FROM entry e WHERE e.writer_id = w.id) LIMIT 1",
            (json.dumps(sorted(source.named)),),
        )
    if not known:
        raise InvalidInputError(
            f"{source.name} is of the journal {source.journal_id}, and about no entry of {journal.path}, which is {journal.journal_id}; "
            "nothing was taken over",
            hint="name the journal that it belongs to, or a merge that has its entries",
        )
