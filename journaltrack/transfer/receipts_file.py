"""A file of receipts, read with suspicion: verified to its last line before anything of it is used.

Memory grows with the processes in it, not with attestations.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalTooNewError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.chain import BODY_CHARS_MAX
from journaltrack.journal.schema import schema
from journaltrack.replay.evidence import statements
from journaltrack.replay.evidence.taken import Origin
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.apply.source import Attested, WriterRow, check_link, check_writer, forged
from journaltrack.util import paths, versions

FORMAT: Final = "journaltrack receipts"
VERSION: Final = 1
"""Of the file; a reader refuses a higher one."""
REQUIRED_VERSION: Final = "0.1.0"
"""The first journaltrack that reads files of ``VERSION``."""
LINE_BYTES_MAX: Final = 2 * BODY_CHARS_MAX + 4096
"""Ours: of a line; a body has its quotes escaped in it."""
PROCESSES_MAX: Final = 1_000_000
"""Ours: described in a file, or named in it; about 300 MB."""
_EVERY: Final = 1_000


@dataclass(slots=True)
class ReceiptsFile:
    """A file of receipts; ``opened`` verifies it. Implements ``applier.Source``."""

    path: Path
    name: str = ""
    journal_id: str = ""
    count: int = 0
    sha256: str = ""
    writers: dict[str, WriterRow] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """The processes whose entries it is about."""
    _identity: tuple[int, ...] = ()

    @classmethod
    def opened(cls, path: str | os.PathLike[str], on_progress: Callable[[Progress], None] | None = None) -> ReceiptsFile:
        """Read all of it, and see that it is whole, that every chain in it is, and that every body can be read.

        Raises:
            InvalidInputError: It is no file of receipts.
            JournalTooNewError: It needs a newer version.
            EvidenceError: It was cut or changed.
            OSError: It can't be read.
        """
        file = cls(paths.expanded(path).absolute())
        file.name = str(file.path)
        if not file.path.is_file():
            raise InvalidInputError(f"{file.path} is not a file", hint="name a file that `journaltrack receipts export` made")
        file._verify(on_progress or (lambda _: None))
        return file

    @property
    def origin(self) -> Origin:
        """See ``applier.Source``."""
        return Origin("receipts", self.sha256)

    def attestations(self) -> Iterator[Attested]:
        """See ``applier.Source``. The file is the one that was verified."""
        with self.path.open("rb") as stream:
            if _identity(stream) != self._identity:
                raise forged(self.name, "the file was changed while it was read")
            for line in _lines(stream, self.name):
                members = _members(line, self.name)
                if "body" in members:
                    yield self._attested(members)

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
                    raise forged(self.name, f"line {lines + 1} is none of such a file")
                digest.update(line)
                lines += 1
        self.sha256 = digest.hexdigest()
        if trailer is None:
            raise forged(self.name, "its end is missing: the file was cut")
        if trailer != {"lines": lines, "sha256": self.sha256}:
            raise forged(self.name, "its last line does not fit the lines before: the file was changed, or lines were lost")
        self.heads = {uuid: head for uuid, (head, _) in chains.items()}

    def _read_header(self, members: Mapping[str, Any]) -> None:
        if members.get("format") != FORMAT:
            raise _none(self.name)
        version, required = members.get("version"), members.get("required_version")
        if (type(version) is int and version > VERSION) or versions.is_newer(required):
            raise JournalTooNewError(
                f"{self.name} was made by a newer journaltrack; nothing was taken over",
                hint=f"install {versions.needed(required)}: pip install -U journaltrack",
            )
        if version != VERSION:
            raise forged(self.name, "it does not say which format it has")
        journal_id = members.get("journal_id")
        if not isinstance(journal_id, str) or not 0 < len(journal_id) <= statements.UUID_CHARS_MAX:
            raise forged(self.name, "it does not say of which journal it is")
        self.journal_id = journal_id

    def _read_process(self, members: Mapping[str, Any]) -> None:
        described, digest = members["process"], _bytes(members.get("digest"))
        if not isinstance(described, dict) or set(described) != set(schema.WRITER_COLUMNS) or len(self.writers) >= PROCESSES_MAX:
            raise forged(self.name, "a process is not described as journaltrack describes it")
        columns = tuple(described[name] for name in schema.WRITER_COLUMNS)
        numbers = {"pid", "started_at_ns", "git_dirty"}
        for name, value in described.items():
            right = type(value) is int and -(2**63) <= value < 2**63 if name in numbers else isinstance(value, str) and _is_text(value)
            if not right and not (value is None and name in {"git_commit", "git_dirty", "packages", "journal_id"}):
                raise forged(self.name, f"{name} of a process can't be {limits.shown(str(value)[:200])}")
        row = WriterRow(columns, digest)
        if not 0 < len(row.uuid) <= statements.UUID_CHARS_MAX or row.uuid in self.writers:
            raise forged(self.name, f"the process {limits.shown(row.uuid)} is described twice, or not at all")
        check_writer(row, self.name)
        self.writers[row.uuid] = row

    def _read_attestation(self, members: Mapping[str, Any], chains: dict[str, tuple[int, bytes]]) -> None:
        each = self._attested(members)
        row = self.writers.get(each.uuid)
        if row is None:
            raise forged(self.name, f"an attestation is of the process {limits.shown(each.uuid)}, which is not described")
        chain = chains.get(each.uuid) or (0, vocabulary.attestation_start(row.begin))
        check_link(each, chain, self.name)
        chains[each.uuid] = (each.writer_seq, each.digest)
        try:
            self.named.update(statements.read(each.body).entries)
        except ValueError as error:
            raise forged(
                self.name, f"attestation {each.writer_seq} of the process {limits.shown(each.uuid)} can't be read: {error}"
            ) from error
        if len(self.named) > PROCESSES_MAX:
            raise forged(self.name, f"it names entries of more than {PROCESSES_MAX} processes")
        self.count += 1

    def _attested(self, members: Mapping[str, Any]) -> Attested:
        uuid, writer_seq, body, digest = members.get("by"), members.get("seq"), members.get("body"), _bytes(members.get("digest"))
        if not isinstance(uuid, str) or type(writer_seq) is not int or not isinstance(body, str) or digest is None:
            raise forged(self.name, "an attestation in it is none")
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


def _none(name: str) -> InvalidInputError:
    return InvalidInputError(f"{name} is no file of receipts; nothing was taken over", hint="`journaltrack receipts export` makes one")


def _bytes(value: object) -> bytes | None:
    try:
        return bytes.fromhex(value) if isinstance(value, str) and len(value) == 64 else None  # noqa: PLR2004 - of SHA-256
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
