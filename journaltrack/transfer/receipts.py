"""Export and import receipts: one copy's attestations as a file for another copy.

The file is JSON Lines in ASCII: a header, the processes that attest, and their attestations in the
order in which they came into the journal. The last line holds the number and the SHA-256 of all
lines before. docs/reference/receipts-format.md lists the members.

The file proves that it is whole, and that its chains are. It does not prove who made it: compare
its digest with the one that was printed where it was made.

Invariants: a file is verified to its last line before anything is touched. Memory grows with
processes, not with attestations.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from journaltrack import limits
from journaltrack.errors import EvidenceError, InvalidInputError, JournalTooNewError
from journaltrack.journal import destinations, queries, view, vocabulary
from journaltrack.journal.chain import BODY_CHARS_MAX
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite import copies
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay.evidence import statements
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.evidence.taken import Origin
from journaltrack.replay.lease import Lease, acquire
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.apply import Applied, Applier
from journaltrack.transfer.apply_source import (
    Attested,
    Checker,
    Source,
    WriterRow,
    check_link,
    check_writer,
    forged,
)
from journaltrack.util import paths
from journaltrack.util.text import is_newer_version, version_needed

FORMAT: Final = "journaltrack receipts"
VERSION: Final = 1
"""Of the file; a reader refuses a higher one."""
REQUIRED_VERSION: Final = "0.1.0"
"""The first journaltrack that reads files of ``VERSION``."""
LINE_BYTES_MAX: Final = 2 * BODY_CHARS_MAX + 4096
"""Our limit for a line; the body's quotes are escaped in it."""
PROCESSES_MAX: Final = 1_000_000
"""Our limit: processes that a file describes or names; about 300 MB."""
_EVERY: Final = 1_000
_OPTIONAL: Final = frozenset({"context"})
"""Columns of a process that are left out if they are NULL, as they were before 0004."""
_NULLABLE: Final = _OPTIONAL | {"git_commit", "git_dirty", "packages", "journal_id"}
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class ReceiptsExported:
    """What was written.

    Attributes:
        journal, journal_id: The journal.
        output: The file; None for a stream.
        attestations: How many.
        reconcilers: How many processes made them.
        sha256: Of all lines but the last. Compare it where the file is imported.
    """

    journal: str
    journal_id: str
    output: str | None
    attestations: int
    reconcilers: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


@dataclass(frozen=True, slots=True)
class ReceiptsImported:
    """What was taken over.

    Attributes:
        journal, journal_id: The journal that took it over.
        input, from_journal_id, sha256: The file, the journal that it is of, and its digest.
        attestations: How many are in the file.
        new: How many of them were not here yet.
        reconcilers: How many of the processes that made them were not here yet.
        elsewhere: New attestations about entries none of which is here. They are kept, and count
            when the entries come.
        settled: By outcome, how many more entries are settled so than before.
        kept: Entries that stay in doubt or quarantined here. The other copy released them, but
            did not know why they are so here.
        pending: How many entries of the journal are pending now.
        dry_run: Whether nothing was changed.
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
        """Convert to what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def export_receipts(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str] | IO[bytes],
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ReceiptsExported:
    """Write all attestations of a journal to a file.

    The file gets its name when it is whole.

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
        destinations.refuse_copy(own.path, "asked for receipts")
        if isinstance(to, (str, os.PathLike)):
            with paths.whole_file(to, own.path, force=force) as (target, stream):
                counts = _write(own, stream, on_progress)
            return ReceiptsExported(str(own.path), own.journal_id, str(target), *counts)
        return ReceiptsExported(str(own.path), own.journal_id, None, *_write(own, to, on_progress))


def _write(
    journal: Journal, stream: IO[bytes], on_progress: Callable[[Progress], None] | None
) -> tuple[int, int, str]:
    database = journal.database
    digest = hashlib.sha256()
    count = 0
    tell = on_progress or (lambda _: None)

    def put(members: Mapping[str, Any]) -> None:
        """Write one line."""
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
        for *described, digest_of_row in connection.execute(
            f"SELECT {columns}, w.digest FROM writer w {where} ORDER BY w.id"
        ):
            put(line_of_process(WriterRow(tuple(described), digest_of_row)))
        sql = (
            "SELECT w.uuid, a.writer_seq, a.body, a.digest FROM attestation a "
            "JOIN writer w ON w.id = a.writer_id ORDER BY a.id"
        )
        for uuid, writer_seq, body, body_digest in connection.execute(sql):
            put(line_of_attestation(Attested(uuid, writer_seq, body, bytes(body_digest))))
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

    This takes many short transactions, since others may append meanwhile. A file that contradicts
    the journal or itself changes nothing. After a kill, import it again to complete it. A further
    import changes nothing.

    An entry that is pending here and was delivered there becomes delivered. An entry in doubt
    here stays in doubt if the other copy released it without knowing that.

    Args:
        file: From ``export_receipts``.
        journal: Its folder, or None for the default journal.
        dry_run: Say what would change; change nothing.
        on_progress: Called now and then while the file is read.

    Raises:
        InvalidInputError: The file does not exist, or holds receipts of another journal.
        EvidenceError: The file holds no receipts, was cut, changed or forged, or contradicts the
            journal.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written.
        OSError: The file can't be read.
    """
    source = ReceiptsFile.opened(file, on_progress)
    opened = Journal.open(journal, create=False)
    try:
        destinations.refuse_copy(opened.path, "given the receipts of another copy")
        _refuse_foreign(source, opened)
        lease = acquire(opened.database)
        try:
            applied = apply(opened.database, lease, source, dry_run=dry_run)
            pending = queries.pending_count(opened.database)
        finally:
            lease.release()
        settled = dict(applied.settled)
        return ReceiptsImported(
            *(
                str(opened.path),
                opened.journal_id,
                source.name,
                source.journal_id,
                source.sha256,
                source.count,
                applied.attestations,
            ),
            *(
                applied.reconcilers,
                applied.elsewhere,
                settled,
                applied.kept,
                pending - (sum(settled.values()) if dry_run else 0),
                dry_run,
            ),
        )
    finally:
        opened.close()


def apply(database: Database, lease: Lease, source: Source, *, dry_run: bool = False) -> Applied:
    """Apply a source's attestations, and move the low-water mark.

    Raises:
        EvidenceError: They contradict themselves or the journal. Nothing was changed.
    """
    # A dry run works on a copy: others that append would wait for its long transaction.
    if dry_run:
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
        checker = stack.enter_context(
            contextlib.closing(Checker(applier.here, database, applier.here.components_of))
        )
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
            "SELECT 1 FROM json_each(?) n JOIN writer w ON w.uuid = n.value "
            "WHERE EXISTS (SELECT 1 FROM entry e WHERE e.writer_id = w.id) LIMIT 1",
            (json.dumps(sorted(source.named)),),
        )
    if not known:
        raise InvalidInputError(
            f"{source.name} is of the journal {source.journal_id}, and about no entry of "
            f"{journal.path}, which is {journal.journal_id}; nothing was taken over",
            hint="name the journal that it is of, or one into which that was merged",
        )


@dataclass(slots=True)
class ReceiptsFile:
    """A file of receipts; ``opened`` verifies it. Implements ``apply_source.Source``.

    Attributes:
        count: How many attestations it holds.
        named: The processes whose entries it is about.
    """

    path: Path
    name: str = ""
    journal_id: str = ""
    count: int = 0
    sha256: str = ""
    writers: dict[str, WriterRow] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    _identity: tuple[int, ...] = ()

    @classmethod
    def opened(
        cls, path: str | os.PathLike[str], on_progress: Callable[[Progress], None] | None = None
    ) -> ReceiptsFile:
        """Read a whole file, and check that it is complete.

        Every chain in it must hold, and every body must be readable.

        Raises:
            InvalidInputError: There is no such file.
            JournalTooNewError: It needs a newer version.
            EvidenceError: It is no file of receipts, or it was cut or changed.
            OSError: It can't be read.
        """
        file = cls(paths.expanded(path).absolute())
        file.name = str(file.path)
        if not file.path.is_file():
            raise InvalidInputError(
                f"{file.path} is not a file",
                hint="name a file that `journaltrack receipts export` made",
            )
        file._verify(on_progress or (lambda _: None))
        return file

    @property
    def origin(self) -> Origin:
        """Implement ``apply_source.Source``."""
        return Origin("receipts", self.sha256)

    def attestations(self) -> Iterator[Attested]:
        """Implement ``apply_source.Source``. The file must be the one that was verified."""
        with self.path.open("rb") as stream:
            if _identity(stream) != self._identity:
                raise forged(self.name, "the file was changed while it was read")
            for line in _lines(stream, self.name):
                members = _members(line, self.name)
                if "body" in members:
                    yield attestation_in(members, self.name)

    def _verify(self, tell: Callable[[Progress], None]) -> None:
        digest = hashlib.sha256()
        chains: dict[str, tuple[int, bytes]] = {}
        lines = 0
        trailer: dict[str, Any] | None = None
        with self.path.open("rb") as stream:
            self._identity = _identity(stream)
            for line in _lines(stream, self.name):
                if trailer is not None:
                    raise forged(self.name, "there are lines after its last one")
                members = _members(line, self.name, first=not lines)
                if not lines:
                    self._read_header(members)
                elif "process" in members:
                    self._read_process(members)
                elif "body" in members:
                    self._read_attestation(members, chains)
                    if self.count % _EVERY == 0:
                        tell(Progress(self.count, self.count, 0))
                elif "sha256" in members:
                    trailer = members
                    continue
                else:
                    raise forged(
                        self.name, f"line {lines + 1} is of no kind that a file of receipts has"
                    )
                digest.update(line)
                lines += 1
        self.sha256 = digest.hexdigest()
        if trailer is None:
            raise forged(self.name, "its end is missing: the file was cut")
        if trailer != {"lines": lines, "sha256": self.sha256}:
            raise forged(
                self.name,
                "its last line does not fit the lines before: the file was changed, or lines "
                "were lost",
            )
        self.heads = {uuid: head for uuid, (head, _) in chains.items()}

    def _read_header(self, members: Mapping[str, Any]) -> None:
        if members.get("format") != FORMAT:
            raise _none(self.name)
        version, required = members.get("version"), members.get("required_version")
        if (type(version) is int and version > VERSION) or is_newer_version(required):
            raise JournalTooNewError(
                f"{self.name} was made by a newer journaltrack; nothing was taken over",
                hint=f"install {version_needed(required)}: pip install -U journaltrack",
            )
        if version != VERSION:
            raise forged(self.name, "it does not say which format it has")
        journal_id = members.get("journal_id")
        if not isinstance(journal_id, str) or not 0 < len(journal_id) <= statements.UUID_CHARS_MAX:
            raise forged(self.name, "it does not say of which journal it is")
        self.journal_id = journal_id

    def _read_process(self, members: Mapping[str, Any]) -> None:
        row = process_in(members, self.name)
        if row.uuid in self.writers or len(self.writers) >= PROCESSES_MAX:
            raise forged(
                self.name,
                f"the process {limits.shown(row.uuid)} is described twice, or one too many",
            )
        self.writers[row.uuid] = row

    def _read_attestation(
        self, members: Mapping[str, Any], chains: dict[str, tuple[int, bytes]]
    ) -> None:
        each = attestation_in(members, self.name)
        row = self.writers.get(each.uuid)
        if row is None:
            raise forged(
                self.name,
                f"an attestation is of the process {limits.shown(each.uuid)}, which is not "
                "described",
            )
        chain = chains.get(each.uuid) or (0, vocabulary.attestation_start(row.begin))
        check_link(each, chain, self.name)
        chains[each.uuid] = (each.writer_seq, each.digest)
        try:
            self.named.update(statements.read(each.body).entries)
        except ValueError as error:
            raise forged(
                self.name,
                f"attestation {each.writer_seq} of the process {limits.shown(each.uuid)} can't "
                f"be read: {error}",
            ) from error
        if len(self.named) > PROCESSES_MAX:
            raise forged(self.name, f"it names entries of more than {PROCESSES_MAX} processes")
        self.count += 1


def line_of_process(row: WriterRow) -> dict[str, Any]:
    """Return the members of a process's line."""
    return {
        "process": {
            name: value
            for name, value in zip(schema.WRITER_COLUMNS, row.columns, strict=True)
            if value is not None or name not in _OPTIONAL
        },
        "digest": row.digest.hex() if isinstance(row.digest, bytes) else None,
    }


def line_of_attestation(each: Attested) -> dict[str, Any]:
    """Return the members of an attestation's line."""
    return {"by": each.uuid, "seq": each.writer_seq, "body": each.body, "digest": each.digest.hex()}


def process_in(members: Mapping[str, Any], where: str) -> WriterRow:
    """Return the process that a line describes.

    Args:
        members: Of the line.
        where: The file, for messages.

    Raises:
        EvidenceError: It is not described as journaltrack describes it, or was changed.
    """
    described = members["process"]
    if not isinstance(described, dict) or {*described, *_OPTIONAL} != set(schema.WRITER_COLUMNS):
        raise forged(where, "a process is not described as journaltrack describes it")
    columns = tuple(map(described.get, schema.WRITER_COLUMNS))
    numbers = {"pid", "started_at_ns", "git_dirty"}
    for name, value in described.items():
        right = (
            type(value) is int and -(2**63) <= value < 2**63
            if name in numbers
            else isinstance(value, str) and _is_text(value)
        )
        if not right and not (value is None and name in _NULLABLE):
            raise forged(where, f"{name} of a process can't be {limits.shown(str(value)[:200])}")
    row = WriterRow(columns, _bytes(members.get("digest")))
    if not 0 < len(row.uuid) <= statements.UUID_CHARS_MAX:
        raise forged(where, f"the process {limits.shown(row.uuid)} is described wrongly")
    check_writer(row, where)
    return row


def attestation_in(members: Mapping[str, Any], where: str) -> Attested:
    """Return the attestation of a line.

    Args:
        members: Of the line.
        where: The file, for messages.

    Raises:
        EvidenceError: A member is missing or wrong.
    """
    uuid, writer_seq, body, digest = (
        members.get("by"),
        members.get("seq"),
        members.get("body"),
        _bytes(members.get("digest")),
    )
    if (
        not isinstance(uuid, str)
        or type(writer_seq) is not int
        or not isinstance(body, str)
        or digest is None
    ):
        raise forged(where, "an attestation in it has a missing or wrong member")
    return Attested(uuid, writer_seq, body, digest)


def _lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    while line := stream.readline(LINE_BYTES_MAX):
        if not line.endswith(b"\n"):
            raise forged(name, "a line in it is not whole: the file was cut")
        yield line


def _members(line: bytes, name: str, *, first: bool = False) -> dict[str, Any]:
    try:
        members = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise _none(name) if first else forged(name, "a line in it is no JSON object")
    return members


def _none(name: str) -> EvidenceError:
    return EvidenceError(
        f"{name} is no file of receipts; nothing was taken over",
        hint="`journaltrack receipts export` makes one",
    )


def _bytes(value: object) -> bytes | None:
    try:
        return bytes.fromhex(value) if isinstance(value, str) and len(value) == 64 else None  # noqa: PLR2004
    except ValueError:
        return None


def _is_text(value: str) -> bool:
    try:
        return len(value.encode()) <= statements.TEXT_CHARS_MAX
    except UnicodeEncodeError:
        return False


def _identity(stream: IO[bytes]) -> tuple[int, ...]:
    status = os.fstat(stream.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
