"""Define a segment: what one copy of a journal recorded since its last segment, in one file.

docs/reference/mirror-format.md describes the format for readers. A segment is JSON Lines: a header,
the processes that wrote, the artifacts, runs of entries, attestations, and a last line with the
SHA-256 of all lines before. An entry's line is its canonical encoding, the very bytes that its
digest is of. So whoever has the digest before a run can prove the run with SHA-256 alone.
Processes and attestations have the lines of a file of receipts.

Invariant: ``parse`` returns a segment only if every byte of it is as it was written. Whether what
it says is true, its chains prove (``rows``). Pure, but for ``read``: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import EvidenceError, JournalTooNewError
from journaltrack.journal import vocabulary
from journaltrack.journal.chain import FACTS, describes
from journaltrack.mirror.folders import Span
from journaltrack.transfer.apply_source import Attested, WriterRow, forged
from journaltrack.transfer.receipts import (
    attestation_in,
    line_of_attestation,
    line_of_process,
    process_in,
)
from journaltrack.util.digest import is_digest
from journaltrack.util.intervals import SEQ_MAX, as_text, ranges_in, size
from journaltrack.util.text import is_newer_version, version_needed

if TYPE_CHECKING:
    from journaltrack.mirror.folders import Replica

FORMAT: Final = "journaltrack segment"
VERSION: Final = 1
"""Of the file; a reader refuses a higher one."""
REQUIRED_VERSION: Final = "0.1.0"
"""The first journaltrack that reads segments of ``VERSION``."""
BYTES_MAX: Final = 256 << 20
"""Our limit for a file that somebody else may have made."""
_FACTS: Final = tuple(FACTS.split(", "))
_FACT_TYPES: Final = (str, int, str, str, int, int)
_DIGEST_BYTES: Final = 32
_PAGE: Final = 500
"""Fewer than the 700 new objects after which Python's garbage collector runs."""
_TEXT: Final = (str, type(None))
_INTEGER: Final = (int, type(None))
_SOUND: Final = frozenset(
    itertools.product(
        *((int,), (str,), (str,), (str,), _TEXT, (float, type(None)), _INTEGER, _INTEGER, _TEXT),
        (int,),
    )
)
"""The types that the members of an entry's line may have."""
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class NotWholeError(Exception):
    """The bytes are not those of a whole segment: cut, changed, or no segment at all."""


class AbsentError(NotWholeError):
    """There is no such file, or none is visible yet."""


class Link(NamedTuple):
    """A place in a chain, and the digest there."""

    place: int
    digest: bytes


_NOWHERE: Final = Link(0, b"")


@dataclass(slots=True)
class Run:
    """Entries of one process, in order.

    Attributes:
        uuid: The process's.
        after: The link before the first.
        seqs: (first, last) of their ``seq`` in the copy that wrote the segment.
        lines: Their canonical encodings.
        head: The last link.
        removed: What was removed there on the record between them: first, last, and the digest of
            the last, in hexadecimal.
    """

    uuid: str
    after: Link
    seqs: list[tuple[int, int]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    head: Link = _NOWHERE
    removed: list[tuple[int, int, str]] = field(default_factory=list)


class Blob(NamedTuple):
    """An artifact that entries of the segment name.

    ``is_there`` is False if its bytes were not in the spool any more.
    """

    sha256: str
    size_bytes: int
    spooled_at_ns: int
    is_there: bool


class InDoubt(NamedTuple):
    """Entries that a request had carried whose answer was not there yet.

    ``entries`` are ranges of places, by the process's uuid.
    """

    entries: Mapping[str, str]
    since_ns: int


class Reached(NamedTuple):
    """How far a copy had written segments: the last row of each kind that it has looked at."""

    seq: int = 0
    attestation: int = 0
    receipt: int = 0


@dataclass(slots=True)
class Segment:
    """The content of one file.

    Attributes:
        journal: What the journal says of itself, by ``chain.FACTS``.
        journal_digest: The digest of that.
        replica: The copy that wrote it.
        number: From 1 on.
        previous: The SHA-256 of the segment that it continues, in hexadecimal; None: it is the
            first, or begins anew.
        reached: How far that copy had come.
        made_at_ns, made_by: When, and by which journaltrack.
        halted: By a process's uuid: from which place on nothing of it is mirrored, since that
            entry is not what was recorded.
        processes: That wrote what is in it.
        sha256: Of all lines but the last, in hexadecimal; "" before it is encoded.
        size_bytes: Of the file; 0 before it is encoded.
        joins: The number of the first segment that it stands for, and the ``link`` of the last;
            None: it stands for itself.
    """

    journal: tuple[Any, ...]
    journal_digest: bytes
    replica: str
    number: int
    previous: str | None
    reached: Reached
    made_at_ns: int
    made_by: str
    halted: Mapping[str, int] = field(default_factory=dict)
    processes: list[WriterRow] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    attestations: list[Attested] = field(default_factory=list)
    in_doubt: list[InDoubt] = field(default_factory=list)
    sha256: str = ""
    size_bytes: int = 0
    joins: tuple[int, str] | None = None

    @property
    def span(self) -> Span:
        """Return the numbers that it covers."""
        return Span(self.number if self.joins is None else self.joins[0], self.number)

    @property
    def link(self) -> str:
        """Return what the segment behind it names as the one before."""
        return self.sha256 if self.joins is None else self.joins[1]

    @property
    def journal_id(self) -> str:
        """Return the journal's id."""
        return str(self.journal[0])

    @property
    def entries(self) -> int:
        """Return how many entries it holds."""
        return sum(len(run.lines) for run in self.runs)


def encode(segment: Segment) -> bytes:
    """Return the bytes of a segment, and set its ``sha256`` and ``size_bytes``."""
    lines = [_encode(_header(segment)).encode()]
    lines += [_encode(line_of_process(row)).encode() for row in segment.processes]
    for blob in segment.blobs:
        members = {
            "blob": blob.sha256,
            "size_bytes": blob.size_bytes,
            "spooled_at_ns": blob.spooled_at_ns,
        }
        lines.append(_encode(members | ({} if blob.is_there else {"missing": True})).encode())
    for run in segment.runs:
        lines.append(_encode(_run_line(run)).encode())
        lines += run.lines
    lines += [_encode(line_of_attestation(each)).encode() for each in segment.attestations]
    lines += [
        _encode({"in_doubt": dict(each.entries), "since_ns": each.since_ns}).encode()
        for each in segment.in_doubt
    ]
    text = b"\n".join(lines) + b"\n"
    segment.sha256 = hashlib.sha256(text).hexdigest()
    data = text + _encode({"lines": len(lines), "sha256": segment.sha256}).encode() + b"\n"
    segment.size_bytes = len(data)
    return data


def read(replica: Replica, span: Span) -> Segment:
    """Return the segment in a file of a replica.

    Raises:
        AbsentError: There is none.
        NotWholeError: Bytes are missing or changed.
        JournalTooNewError: It needs a newer version.
        EvidenceError: It is no segment that journaltrack writes, or not the one of that place.
        MirrorError: The file can't be read.
    """
    where = str(replica.file(span))
    data = replica.read(span, BYTES_MAX)
    if data is None:
        msg = "it is not there"
        raise AbsentError(msg)
    segment = parse(data, where)
    found = (segment.journal_id, segment.replica, segment.span)
    if found != (replica.path.parent.name, replica.path.name, span):
        raise forged(where, "it is of another journal or replica, or has another number")
    return segment


def parse(data: bytes, where: str) -> Segment:
    """Return a segment of which every byte is as it was written.

    Args:
        data: The file's content.
        where: The file, for messages.

    Raises:
        NotWholeError: Bytes are missing or changed.
        JournalTooNewError: It needs a newer version.
        EvidenceError: It is whole, and no segment that journaltrack writes.
    """
    body, last = _halves(data)
    trailer = _members(last)
    if trailer is None or set(trailer) != {"lines", "sha256"}:
        msg = "its last line is missing"
        raise NotWholeError(msg)
    sha256 = hashlib.sha256(body).hexdigest()
    lines = body.split(b"\n")[:-1]
    if trailer != {"lines": len(lines), "sha256": sha256} or not lines:
        msg = "its last line does not fit the lines before"
        raise NotWholeError(msg)
    try:
        segment = _headed(lines[0], where)
        segment.sha256, segment.size_bytes = sha256, len(data)
        for line in lines[1:]:
            _read_line(line, segment, where)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, EvidenceError):
            raise
        raise forged(where, f"it is no segment that journaltrack writes ({error})") from error
    if any(size(run.seqs) != len(run.lines) for run in segment.runs):
        raise forged(where, "it does not say the order of its entries")
    return segment


def rows(run: Run, known: Link, where: str) -> Iterator[tuple[Any, ...]]:
    """Prove a run, and yield its entries.

    Args:
        run: The run.
        known: A link of that chain that is proved already.
        where: The file, for messages.

    Yields:
        Of each entry its place, its component's name, ``stream`` to ``recorded_at_ns`` as in the
        journal, and its digest.

    Raises:
        EvidenceError: The digests do not lead from ``after`` to ``head``, or pass ``known`` with
            another digest, or a line is not what an entry's digest is of.
    """
    who = limits.shown(run.uuid)
    place, digest = run.after
    gaps = {first: Link(last, bytes.fromhex(text)) for first, last, text in run.removed}
    middles: dict[tuple[str, str], str] = {}
    for entry, line in _entries(run, where):
        if place == known.place:
            _refuse_fork(run, known, digest, where)
        if place + 1 in gaps:
            place, digest = gaps[place + 1]
            if place == known.place:
                _refuse_fork(run, known, digest, where)
        place += 1
        if tuple(map(type, entry)) not in _SOUND or entry[0] != place:
            raise forged(where, f"entry {place} of the process {who} is missing, or none")
        if not _is_canonical(entry, line, middles):
            raise forged(where, f"entry {place} of the process {who} is not in canonical form")
        digest = hashlib.sha256(digest + line).digest()
        yield (*entry, digest)
    if (place, digest) != run.head:
        raise forged(where, f"the digests of the process {who} do not lead to where it says")
    if place == known.place:
        _refuse_fork(run, known, digest, where)


def _is_canonical(entry: list[Any], line: bytes, middles: dict[tuple[str, str], str]) -> bool:
    """Return whether a line is the canonical encoding of its entry.

    Args:
        entry: Its members, of the right types.
        line: The line.
        middles: What points of a metric share; is added to.
    """
    place, component, _, kind, name, value, step, timestamp_ns, payload, recorded_at_ns = entry
    # Nearly always. This takes a third of the general way.
    if kind == "metric" and value is not None and payload is None and name is not None:
        middle = middles.get((component, name))
        if middle is None:
            middle = middles[component, name] = vocabulary.metric_text(component, name)
        said = "null" if step is None else step
        text = f"[{place}{middle}{value!r},{said},{timestamp_ns},null,{recorded_at_ns}]"
        if text.encode() == line:
            return True
    return vocabulary.canonical(*entry) == line


def _refuse_fork(run: Run, known: Link, digest: bytes, where: str) -> None:
    if digest != known.digest:
        what = f"entry {known.place} of the process {limits.shown(run.uuid)}"
        raise forged(
            where, f"{what} differs from the one here: both copies were continued, or one altered"
        )


def _entries(run: Run, where: str) -> Iterator[tuple[list[Any], bytes]]:
    """Yield the entries of a run, each with its line."""
    for start in range(0, len(run.lines), _PAGE):
        lines = run.lines[start : start + _PAGE]
        try:
            found = json.loads((b"[" + b",".join(lines) + b"]").decode(), parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise forged(where, f"its entries can't be read ({error})") from error
        if len(found) != len(lines) or not all(type(each) is list for each in found):
            raise forged(where, "one of its lines is not one entry")
        yield from zip(found, lines, strict=True)


def _refused(constant: str) -> Any:  # noqa: ANN401 - json's
    raise ValueError(constant)


def _halves(data: bytes) -> tuple[bytes, bytes]:
    """Return all lines but the last, and the last."""
    end = data.rfind(b"\n", 0, -1) + 1
    if not data.endswith(b"\n") or not end:
        msg = "it ends within a line"
        raise NotWholeError(msg)
    return data[:end], data[end:]


def _members(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _header(segment: Segment) -> dict[str, Any]:
    members: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "required_version": REQUIRED_VERSION,
        "journal": dict(zip(_FACTS, segment.journal, strict=True)),
        "digest": segment.journal_digest.hex(),
        "replica": segment.replica,
        "number": segment.number,
        "previous": segment.previous,
        "reached": segment.reached._asdict(),
        "made_at_ns": segment.made_at_ns,
        "made_by": segment.made_by,
        "halted": dict(segment.halted),
    }
    if segment.joins is not None:
        first, sha256 = segment.joins
        members["joins"] = {"first": first, "sha256": sha256}
    return members


def _headed(line: bytes, where: str) -> Segment:
    """Return a segment without content, from its first line.

    Raises:
        JournalTooNewError: It needs a newer version.
        EvidenceError: It is not the first line of a segment.
        KeyError, TypeError, ValueError: The same.
    """
    members = _members(line)
    if members is None or members.get("format") != FORMAT:
        raise forged(where, "it is no segment")
    version, required = members["version"], members["required_version"]
    if (type(version) is int and version > VERSION) or is_newer_version(required):
        raise JournalTooNewError(
            f"{where} was made by a newer journaltrack; nothing was taken over",
            hint=f"install {version_needed(required)}: pip install -U journaltrack",
        )
    facts = tuple(members["journal"][name] for name in _FACTS)
    digest = bytes.fromhex(members["digest"])
    if tuple(map(type, facts)) != _FACT_TYPES or not describes(digest, facts):
        raise forged(where, "what it says of its journal was changed")
    previous = members["previous"]
    if previous is not None and not is_digest(previous):
        raise forged(where, "it does not say which segment it continues")
    halted = {str(uuid): _number(place) for uuid, place in members["halted"].items()}
    segment = Segment(
        facts,
        digest,
        str(members["replica"]),
        _number(members["number"]),
        previous,
        Reached(*(_number(members["reached"][name]) for name in Reached._fields)),
        _number(members["made_at_ns"]),
        str(members["made_by"]),
        halted,
    )
    if "joins" in members:
        first, sha256 = _number(members["joins"]["first"]), members["joins"]["sha256"]
        if not is_digest(sha256) or not 0 < first < segment.number:
            raise forged(where, "it does not say which segments it stands for")
        segment.joins = first, sha256
    return segment


def _run_line(run: Run) -> dict[str, Any]:
    members = {
        "entries": run.uuid,
        "seqs": as_text(run.seqs),
        "after": [run.after.place, run.after.digest.hex()],
        "head": [run.head.place, run.head.digest.hex()],
    }
    return members | ({"removed": run.removed} if run.removed else {})


def _read_line(line: bytes, segment: Segment, where: str) -> None:
    if line.startswith(b"["):
        segment.runs[-1].lines.append(line)
        return
    members = _members(line)
    if members is None:
        raise forged(where, "a line of it is no JSON object")
    if "process" in members:
        segment.processes.append(process_in(members, where))
    elif "entries" in members:
        segment.runs.append(_run_in(members))
    elif "body" in members:
        segment.attestations.append(attestation_in(members, where))
    elif "blob" in members:
        segment.blobs.append(_blob_in(members))
    elif "in_doubt" in members:
        named = {str(uuid): str(text) for uuid, text in members["in_doubt"].items()}
        for text in named.values():
            ranges_in(text)
        segment.in_doubt.append(InDoubt(named, _number(members["since_ns"])))
    # What a later version adds without a higher ``VERSION`` may be left out.


def _run_in(members: Mapping[str, Any]) -> Run:
    removed = [
        (_number(first), _number(last), bytes.fromhex(digest).hex())
        for first, last, digest in members.get("removed", ())
    ]
    return Run(
        str(members["entries"]),
        _link(members["after"]),
        ranges_in(members["seqs"]),
        head=_link(members["head"]),
        removed=removed,
    )


def _blob_in(members: Mapping[str, Any]) -> Blob:
    if not is_digest(members["blob"]):
        msg = "an artifact has no SHA-256"
        raise ValueError(msg)
    size_bytes, spooled_at_ns = _number(members["size_bytes"]), _number(members["spooled_at_ns"])
    return Blob(members["blob"], size_bytes, spooled_at_ns, members.get("missing") is not True)


def _link(value: Any) -> Link:  # noqa: ANN401 - json's
    place, digest = value
    link = Link(_number(place), bytes.fromhex(digest))
    if len(link.digest) != _DIGEST_BYTES:
        msg = "a link has no SHA-256"
        raise ValueError(msg)
    return link


def _number(value: object) -> int:
    """Return a number from elsewhere that SQLite can hold.

    Raises:
        ValueError: It is none.
    """
    if type(value) is not int or not 0 <= value <= SEQ_MAX:
        msg = f"{limits.shown(str(value)[:80])} is no number"
        raise ValueError(msg)
    return value
