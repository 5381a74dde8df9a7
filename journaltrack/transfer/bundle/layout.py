"""Lay out a bundle: a tar archive that follows from its manifest.

docs/reference/bundle-format.md describes the format for readers.

::

    journaltrack-bundle.json     the manifest: what this is, and every member with size and digest
    journal.db                   a snapshot of the database
    spool/ab/ab12...             the blobs, in order of their digests
    journaltrack-bundle.sha256   the digests of all members before it, the manifest's included,
                                 as ``sha256sum -c`` reads them
    (two blocks of zeros)

Invariants: the manifest determines which members there are, their order, where each begins, and
the digests of their contents. ``tarfile`` writes and reads single headers, one block at a time: no
header can say where the next one is, or name a file. Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, TypeAlias

from journaltrack.errors import BundleDamagedError, BundleTooNewError
from journaltrack.limits import MANIFEST_BYTES_MAX, shown
from journaltrack.util import paths
from journaltrack.util.digest import is_digest
from journaltrack.util.text import is_newer_version, version_needed

FORMAT_VERSION: Final = 1
REQUIRED_VERSION: Final = "0.1.0"
"""The first journaltrack that reads bundles of ``FORMAT_VERSION``."""
MANIFEST: Final = paths.BUNDLE_MANIFEST
SUMS: Final = "journaltrack-bundle.sha256"
BLOCK_BYTES: Final = 512
END: Final = bytes(2 * BLOCK_BYTES)
HEAD_BYTES: Final = 4096
"""This many bytes of a manifest hold the members that are the same in every version."""

Content: TypeAlias = Literal["undelivered", "all"]
Harm: TypeAlias = Literal["missing", "damaged"]

_HEAD: Final = re.compile(
    r'\{\n "journaltrack_bundle": (\d{1,9}),\n "required_version": "([\w.+-]{0,40})",\n '
    r'"journal_id": ("(?:[^"\\]|\\.){1,2400}"),\n'
)
_VERSION: Final = re.compile(r"\d{1,4}(\.\d{1,6}){1,3}[\w.+-]{0,40}", re.ASCII)
_HOST: Final = re.compile(r"[\w.-]{0,255}", re.ASCII)
_NUMBER_MAX: Final = 2**63 - 1
_SIZE_OCTAL_MAX: Final = 8**11 - 1  # eleven octal digits
_CHECKSUM: Final = slice(148, 156)
_MODE: Final = 0o600
_TYPES: Final = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Say what a bundle is and holds.

    Attributes:
        journal_id: Of the journal.
        created_at_ns: When the snapshot was made.
        package_version, host: By which journaltrack, and on which machine.
        last_seq: The newest entry in the snapshot.
        content: Whether blobs that were delivered already are in it.
        database_bytes, database_sha256: The snapshot.
        blobs: Digest and size of each blob in the bundle, sorted.
        left_out: Digests of blobs left out because they are delivered, or no entry names them
            yet, sorted.
        damaged: Digests of blobs that should be in it but were missing from the spool or damaged
            there, sorted.
    """

    journal_id: str
    created_at_ns: int
    package_version: str
    host: str
    last_seq: int
    content: Content
    database_bytes: int
    database_sha256: str
    blobs: Mapping[str, int]
    left_out: tuple[str, ...] = ()
    damaged: Mapping[str, Harm] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Describe one file of the archive.

    ``offset`` is where its header begins; ``sha256`` is the digest of its content.
    """

    name: str
    size_bytes: int
    sha256: str
    offset: int

    @property
    def content_offset(self) -> int:
        """Return where its content begins."""
        return self.offset + BLOCK_BYTES

    @property
    def content_end(self) -> int:
        """Return where its padding begins."""
        return self.content_offset + self.size_bytes

    @property
    def end(self) -> int:
        """Return where the next member begins."""
        return self.content_end + len(self.padding)

    @property
    def padding(self) -> bytes:
        """Return the zeros that fill its last block."""
        return bytes(-self.size_bytes % BLOCK_BYTES)


class Layout:
    """Give every byte of a bundle except those of the blobs and the database.

    Args:
        manifest: Of the bundle.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.manifest_bytes = encode(manifest)
        self.manifest_sha256 = hashlib.sha256(self.manifest_bytes).hexdigest()
        self.database = Member(
            paths.DATABASE, manifest.database_bytes, manifest.database_sha256, self._first().end
        )
        self.sums_bytes = "".join(
            f"{m.sha256}  {m.name}\n" for m in (self._first(), self.database, *self.blobs())
        ).encode("ascii")
        last = self.database
        for last in self.blobs():  # noqa: B007 - the last one is wanted
            pass
        self.sums = Member(
            SUMS, len(self.sums_bytes), hashlib.sha256(self.sums_bytes).hexdigest(), last.end
        )
        self.size_bytes = self.sums.end + len(END)

    def _first(self) -> Member:
        return Member(MANIFEST, len(self.manifest_bytes), self.manifest_sha256, 0)

    def blobs(self) -> Iterator[Member]:
        """Return the members under ``spool/``, in order."""
        offset = self.database.end
        for sha256, size_bytes in self.manifest.blobs.items():
            member = Member(f"{paths.SPOOL}/{sha256[:2]}/{sha256}", size_bytes, sha256, offset)
            yield member
            offset = member.end

    def members(self) -> Iterator[Member]:
        """Return all members, in order."""
        yield self._first()
        yield self.database
        yield from self.blobs()
        yield self.sums

    def header(self, member: Member) -> bytes:
        """Return the header block before its content."""
        return header(member.name, member.size_bytes, self.manifest.created_at_ns // 1_000_000_000)


def header(name: str, size_bytes: int, modified_s: int) -> bytes:
    """Return the tar header of a regular file that only its owner may read.

    Sizes from 8 GiB on are binary, since the octal field has no room for them. GNU tar, bsdtar,
    busybox and Python read that.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size_bytes, _MODE, min(modified_s, _SIZE_OCTAL_MAX)
    return info.tobuf(
        tarfile.USTAR_FORMAT if size_bytes <= _SIZE_OCTAL_MAX else tarfile.GNU_FORMAT, "ascii"
    )


def _read(block: bytes) -> tarfile.TarInfo | None:
    """Return what a header says; None if it is not one.

    Its checksum has one possible form here: ``tarfile`` takes several, and would not see a bit
    flipped there.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return info if block[_CHECKSUM] == b"%06o\0 " % info.chksum else None


def is_header_of(member: Member, block: bytes) -> bool:
    """Return whether a header is that of this member.

    It must be a regular file of the member's name and size, for its owner alone.
    """
    info = _read(block)
    if info is None:
        return False
    found = (info.name, info.size, info.type, info.linkname, info.mode)
    return found == (member.name, member.size_bytes, tarfile.REGTYPE, "", _MODE)


def manifest_size(block: bytes) -> int | None:
    """Return the manifest's length, from the first header of a file.

    Return None if the header is not that of a bundle.
    """
    info = _read(block)
    sound = (
        info is not None
        and 0 < info.size <= MANIFEST_BYTES_MAX
        and is_header_of(Member(MANIFEST, info.size, "", 0), block)
    )
    return info.size if info is not None and sound else None


def is_first(data: bytes) -> bool:
    """Return whether bytes, perhaps cut short, begin as a bundle does."""
    name = MANIFEST.encode("ascii") + b"\0"
    return data[: len(name)] == name[: len(data)]


def described(block: bytes) -> str:
    """Describe a header that stands where another one should, for messages."""
    if not any(block):
        return "zeros"
    if block[257:262] != b"ustar":
        return "not the header of an archive"
    # Also of a header whose checksum is wrong.
    name = block[:100].partition(b"\0")[0].decode("utf-8", "replace")
    kind = _TYPES.get(block[156:157])
    return shown(name) + (f", {kind}" if kind else "")


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as it is in the bundle.

    The first three members, and their places, are the same in all versions.
    """
    members = {
        "journaltrack_bundle": FORMAT_VERSION,
        "required_version": REQUIRED_VERSION,
        "journal_id": manifest.journal_id,
        "created_at_ns": manifest.created_at_ns,
        "created_by": {"version": manifest.package_version, "host": manifest.host},
        "last_seq": manifest.last_seq,
        "content": manifest.content,
        "database": {"size_bytes": manifest.database_bytes, "sha256": manifest.database_sha256},
        "blobs": dict(manifest.blobs),
        "left_out": list(manifest.left_out),
        "damaged": dict(manifest.damaged or {}),
    }
    return json.dumps(members, indent=1).encode("ascii") + b"\n"


def decode(data: bytes, *, reader_version: str) -> Manifest:
    """Parse a manifest strictly: accept exactly what ``encode`` makes.

    Args:
        data: Its bytes, at most ``MANIFEST_BYTES_MAX``.
        reader_version: Of this journaltrack.

    Raises:
        BundleTooNewError: Its format is newer than this code; the version needed is named.
        BundleDamagedError: journaltrack never writes such a manifest.
    """
    head = _HEAD.match(data[:HEAD_BYTES].decode("ascii", "replace"))
    if head is None:
        _damaged("does not begin as one")
    if int(head[1]) > FORMAT_VERSION or is_newer_version(head[2], reader_version):
        needed = version_needed(head[2], reader=reader_version)
        raise BundleTooNewError(
            f"the bundle has format {head[1]}, this version ({reader_version}) reads "
            f"{FORMAT_VERSION} at most; nothing was taken from it",
            hint=f"install {needed}: pip install -U journaltrack",
        )
    # A real manifest has few objects, and a digest for every comma else: anything else could take
    # far more memory than its text.
    text = data.decode("ascii", "replace")
    if text.count("{") + text.count("[") > 16 or text.count(",") * 64 > len(text) + 16 * 64:  # noqa: PLR2004
        _damaged("has another structure")
    try:
        manifest = _manifest(
            json.loads(text, parse_int=_integer, parse_float=_damaged, parse_constant=_damaged)
        )
        exact = encode(manifest) == data
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleDamagedError("its manifest can't be read", hint=DAMAGED_HINT) from error
    if not exact:
        _damaged("is not what journaltrack writes")
    return manifest


DAMAGED_HINT: Final = (
    "copy the bundle again, or create it again with `journaltrack bundle`; if you did not create "
    "it, do not trust it"
)


def _manifest(members: dict[str, Any]) -> Manifest:
    """Build a manifest from parsed JSON.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is not a manifest.
    """
    made_by, database, blobs, left_out, damaged = (
        members[n] for n in ("created_by", "database", "blobs", "left_out", "damaged")
    )
    manifest = Manifest(
        members["journal_id"],
        members["created_at_ns"],
        made_by["version"],
        made_by["host"],
        members["last_seq"],
        members["content"],
        database["size_bytes"],
        database["sha256"],
        blobs,
        tuple(left_out),
        damaged,
    )
    numbers = (manifest.created_at_ns, manifest.database_bytes, *blobs.values())
    lists = (list(blobs), left_out, list(damaged))
    sound = (
        isinstance(manifest.journal_id, str)
        # As the database says: it may be negative in a crafted journal.
        and type(manifest.last_seq) is int
        and abs(manifest.last_seq) <= _NUMBER_MAX + 1
        and all(type(number) is int and 0 <= number <= _NUMBER_MAX for number in numbers)
        and _VERSION.fullmatch(manifest.package_version) is not None
        and _HOST.fullmatch(manifest.host) is not None
        and manifest.content in {"undelivered", "all"}
        and is_digest(manifest.database_sha256)
        and all(map(is_digest, (digest for each in lists for digest in each)))
        and all(each == sorted(set(each)) for each in lists)
        and sum(map(len, lists)) == len({digest for each in lists for digest in each})
        and set(damaged.values()) <= {"missing", "damaged"}
    )
    if not sound:
        msg = "values that journaltrack never writes"
        raise ValueError(msg)
    return manifest


def host_of(name: str) -> str:
    """Return a host's name as it goes into a manifest."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:255]


def _integer(text: str) -> int:
    if len(text) > 20:  # noqa: PLR2004 - a sign and the digits of 2^63; Python takes long for very long ones
        _damaged("has a number that is too large")
    return int(text)


def _damaged(what: str) -> NoReturn:
    raise BundleDamagedError(f"its manifest {what}", hint=DAMAGED_HINT)
