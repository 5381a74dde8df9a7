"""Send bytes to S3: storage options, request bodies, signatures, and the parts of one upload.

Storage options (encryption, bucket owner, requester pays) are members of every request that has
them. One hook adds them: botocore's model says which operations take which member.

A body is read while it is sent, in pieces that fit into a core's cache. So no whole part is ever in
memory. A deadline can end a transfer in the middle, and a time-out bounds one piece.

Invariants of an upload in parts:

- The digest of a part and the digest of the whole are of the same bytes in memory.
- The bytes are read a second time to send them. S3 compares them with the part's digest.
- No upload completes unless the digests of all parts are recorded, or that of the whole, hashed in
  order, is.
- A part that the store holds is not sent again if its number, size and SHA-256 match.

Nothing is hashed if the digests of the parts were recorded with that of the whole, from the same
bytes: then S3 compares what was logged with what arrives, part by part (ADR 0061).

Otherwise one thread at a time reads and hashes. It computes both digests of a piece while the piece
is in the cache. The other threads send. Buffers of a whole part, hashed by all threads at once,
took up to 1.7 times the CPU (ADR 0022).

Must not know which uploads exist, or how one begins and ends: see ``multipart``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from botocore import auth

from journaltrack.util.digest import PARTS_MAX, part_bytes_of
from journaltrack.util.threads import DaemonPool

if TYPE_CHECKING:
    from journaltrack.util.config import Storage
    from journaltrack.util.digest import PartDigests

_OUR_HOOK: Final = "journaltrack-storage"
_EVENT: Final = "before-parameter-build.s3"
CHUNK_BYTES: Final = 256 * 1024
"""Bytes that are read, hashed or sent at a time. They fit into a core's cache.

http.client would send 16 KiB at a time, which costs 10 % more CPU for a transfer.
"""
_SIGNER: Final = "journaltrack-s3v4"
_CHECKSUM: Final = "x-amz-checksum-sha256"
_BODIES: Final = ("PutObject", "UploadPart")
"""Operations whose checksum header is that of the body.

In CompleteMultipartUpload the header is the checksum of the object.
"""
_PART_BYTES_MIN: Final = 5 << 20
_RESUMED_PART_BYTES_MAX: Final = 64 << 20
"""Ours: largest part of a resumed upload, unless S3's limit of parts needs larger ones.

The size comes from a note in the journal, which may hold any number.
"""
CONNECTIONS: Final = 4
"""Ours: connections of one upload."""


def ask_for(
    client: Any,  # noqa: ANN401 - boto3 has no types of its own
    storage: Storage,
    owner_of: Callable[[str], str | None],
) -> None:
    """Make an S3 client add the storage options to its requests.

    Args:
        client: A client that this package made.
        storage: The configured options.
        owner_of: Returns the account that a bucket must belong to, or None for any.
    """
    wanted = {
        "ServerSideEncryption": storage.encryption or ("aws:kms" if storage.kms_key else None),
        "SSEKMSKeyId": storage.kms_key,
        "RequestPayer": "requester" if storage.requester_pays else None,
    }

    def add(*, params: dict[str, Any], model: Any, **_: object) -> None:  # noqa: ANN401
        """Set what the operation takes and the request leaves open."""
        members: Mapping[str, Any] = model.input_shape.members
        owner = owner_of(str(params.get("Bucket", "")))
        for name, value in ({**wanted, "ExpectedBucketOwner": owner}).items():
            if value is not None and name in members:
                params.setdefault(name, value)

    client.meta.events.register_first(_EVENT, add, unique_id=_OUR_HOOK)


class Body:
    """A range of a file as the file object that botocore wants as a body.

    Uses memory for one piece.

    Args:
        descriptor: File descriptor. The caller closes it. Its position is not used or changed.
        start: Offset of the body in the file, bytes.
        size_bytes: Size of the body.
        check: Called before each piece. An exception from it ends the request.
    """

    def __init__(
        self, descriptor: int, start: int, size_bytes: int, check: Callable[[], object]
    ) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size_bytes = size_bytes
        self._check = check
        self._place = 0
        self._piece = memoryview(bytearray(min(CHUNK_BYTES, size_bytes)))

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return the next piece; it is valid until the next call.

        The piece has up to ``CHUNK_BYTES`` even if ``size`` is smaller: http.client asks for 16
        KiB.

        Raises:
            OSError: The file ends before the body does.
        """
        self._check()
        left = self._size_bytes - self._place
        if left <= 0:
            return b""
        wanted = left if size < 0 else min(left, max(size, CHUNK_BYTES))
        piece = (
            self._piece[:wanted] if wanted <= len(self._piece) else memoryview(bytearray(wanted))
        )
        count = os.preadv(self._descriptor, [piece], self._start + self._place)
        # Without an error, the server would wait for the rest.
        if not count:
            raise OSError(errno.EIO, "the file has become shorter")
        self._place += count
        return piece[:count]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek as in a file; botocore rewinds the body to send a redirected request."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size_bytes}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """Return the position, as of a file."""
        return self._place


class _ChecksumAuth(auth.S3SigV4Auth):  # type: ignore[misc]
    """botocore's signature with the body's digest taken from the request's checksum header.

    S3 verifies both the signature and the checksum.
    """

    def payload(self, request: Any) -> str:  # noqa: ANN401
        """Return the body's SHA-256 in hexadecimal."""
        value = request.headers.get(_CHECKSUM)
        try:
            return base64.b64decode(value, validate=True).hex()
        except (TypeError, ValueError, binascii.Error):
            return str(super().payload(request))


def sign_by_checksum(client: Any) -> None:  # noqa: ANN401
    """Keep an S3 client from hashing bodies whose SHA-256 the request already carries.

    botocore computes and signs the SHA-256 of a body, unless the connection uses TLS and botocore
    computed a checksum itself. A checksum that the caller passed does not count:
    ``botocore.auth.S3SigV4Auth._should_sha256_sign_payload`` looks for ``request_algorithm``.
    """
    auth.AUTH_TYPE_MAPS.setdefault(_SIGNER, _ChecksumAuth)
    for operation in _BODIES:
        client.meta.events.register_first(f"choose-signer.s3.{operation}", _chosen)


def _chosen(
    *, signing_name: str, signature_version: object, context: dict[str, Any], **_: object
) -> str | None:
    """Choose our signer in place of botocore's usual one.

    Requests with another signer (SigV4a, S3 Express, none, presigned) keep it.
    """
    usual = (
        context.get("auth_type") in {None, "v4"}
        and signature_version in {"v4", "s3v4"}
        and signing_name == "s3"
    )
    return _SIGNER if usual else None


class DamagedError(Exception):
    """The file does not hold the bytes that were recorded."""


class _StoppedError(Exception):
    """Another connection failed."""


class Held(NamedTuple):
    """A part that the store holds.

    Attributes:
        size_bytes: Its size.
        sha256: Its digest in base64. None if the store reports none.
        etag: Its ETag.
    """

    size_bytes: int
    sha256: str | None
    etag: str


class Part(NamedTuple):
    """A part to send.

    Attributes:
        number: Counted from 1.
        place: Its offset in the file, bytes.
        size_bytes: Its size.
        sha256: Its digest in base64.
    """

    number: int
    place: int
    size_bytes: int
    sha256: str

    def compare(self, descriptor: int) -> None:
        """Raise ``DamagedError`` unless the file has these bytes."""
        if digest_at(descriptor, self.place, self.size_bytes) != self.sha256:
            raise DamagedError


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a file: where each begins and ends. Parts are numbered from 1."""

    size_bytes: int
    part_bytes: int

    @classmethod
    def of(cls, size_bytes: int, part_bytes: int | None = None) -> Plan:
        """Make the plan for a file.

        Args:
            size_bytes: Size of the file.
            part_bytes: Part size of an earlier upload of the file. Ignored if it is out of range.
        """
        least, usual = -(-size_bytes // PARTS_MAX), part_bytes_of(size_bytes)
        smallest, largest = max(_PART_BYTES_MIN, least), max(_RESUMED_PART_BYTES_MAX, usual)
        if part_bytes is not None and smallest <= part_bytes <= largest:
            return cls(size_bytes, part_bytes)
        return cls(size_bytes, usual)

    @property
    def count(self) -> int:
        """Return the number of parts."""
        return -(-self.size_bytes // self.part_bytes)

    @property
    def connections(self) -> int:
        """Return how many parts are sent at a time."""
        return max(1, min(CONNECTIONS, self.count))

    def place(self, number: int) -> int:
        """Return the offset of a part in the file, bytes."""
        return (number - 1) * self.part_bytes

    def size(self, number: int) -> int:
        """Return the size of a part in bytes, or 0 if there is no part of that number."""
        if number <= 0:
            return 0
        return max(0, min(self.part_bytes, self.size_bytes - self.place(number)))

    def digests_in(self, recorded: PartDigests | None) -> list[str]:
        """Return the digests of all parts in base64; [] if others were recorded, or none."""
        size = hashlib.sha256().digest_size
        if recorded is None or (recorded.part_bytes, len(recorded.digests)) != (
            self.part_bytes,
            self.count * size,
        ):
            return []
        return [
            base64.b64encode(recorded.digests[start : start + size]).decode()
            for start in range(0, self.count * size, size)
        ]


class Parts:
    """The parts of one upload and their progress. ``send`` can be called again after a failure.

    Args:
        plan: The parts of the file.
        sha256: Digest of the whole file, in hexadecimal.
        held: Parts that the store holds already, by number.
        recorded: The digests of parts that were recorded with that of the whole, if they were.
    """

    def __init__(
        self,
        plan: Plan,
        sha256: str,
        held: Mapping[int, Held],
        recorded: PartDigests | None = None,
    ) -> None:
        self._plan = plan
        self._sha256 = sha256
        self._held = held
        # In base64: recorded, or of the parts that went into the digest of the whole, in order.
        self._digests = plan.digests_in(recorded)
        self._are_recorded = bool(self._digests)
        self._etags: dict[int, str] = {}
        self._whole = hashlib.sha256()
        self._turn = threading.Condition()
        self._waiting: list[int] = []
        self._error: BaseException | None = None

    def send(self, descriptor: int, put: Callable[[Part], str]) -> None:
        """Send every part that the store does not hold yet.

        Args:
            descriptor: File descriptor.
            put: Sends a part and returns the store's ETag. Called from several threads.

        Raises:
            DamagedError: The file does not hold the bytes that were recorded.
        """
        self._error = None
        # ``_next`` pops from the end: part 1 comes last here.
        numbers = range(self._plan.count, 0, -1)
        self._waiting = [number for number in numbers if number not in self._etags]
        pool = DaemonPool(self._plan.connections - 1, "journaltrack-part")
        # At the interpreter's exit no thread can start: then this thread sends every part.
        with contextlib.suppress(RuntimeError):
            for _ in range(self._plan.connections - 1):
                pool.submit(self._work, descriptor, put)
        self._work(descriptor, put)
        pool.shutdown()
        if self._error is not None:
            raise self._error

    @property
    def size_bytes(self) -> int:
        """Return the size of the whole file."""
        return self._plan.size_bytes

    def sent(self) -> list[tuple[int, str, str]]:
        """Return all parts in order, as number, ETag and SHA-256 in base64."""
        numbers = range(1, self._plan.count + 1)
        return [(number, self._etags[number], self._digests[number - 1]) for number in numbers]

    def composite(self) -> str:
        """Return S3's checksum of the whole: the digest of all parts' digests, "-", their count."""
        digest = hashlib.sha256(b"".join(map(base64.b64decode, self._digests))).digest()
        return f"{base64.b64encode(digest).decode()}-{self._plan.count}"

    def _work(self, descriptor: int, put: Callable[[Part], str]) -> None:
        """Send parts on one connection, one at a time, until none is left or one failed."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        place, size = self._plan.place, self._plan.size
        try:
            while (number := self._next()) is not None:
                digest = (
                    self._digests[number - 1]
                    if self._are_recorded
                    else self._hashed(descriptor, number, buffer)
                )
                part = Part(number, place(number), size(number), digest)
                held = self._held.get(number)
                if held is not None and (held.size_bytes, held.sha256) == (part.size_bytes, digest):
                    self._etags[number] = held.etag
                else:
                    self._etags[number] = put(part)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - ``send`` raises it
            with self._turn:
                self._error = self._error or error
                self._turn.notify_all()

    def _next(self) -> int | None:
        with self._turn:
            return self._waiting.pop() if self._waiting and self._error is None else None

    def _hashed(self, descriptor: int, number: int, buffer: memoryview) -> str:
        """Return the digest of a part, and add its bytes to the digest of the whole in order."""
        with self._turn:
            self._turn.wait_for(lambda: self._error is not None or number <= len(self._digests) + 1)
            if self._error is not None:
                raise _StoppedError
            again = number <= len(self._digests)
        place, size_bytes = self._plan.place(number), self._plan.size(number)
        # An earlier call of ``send`` hashed this part and failed to send it.
        if again:
            digest = digest_at(descriptor, place, size_bytes, buffer)
            if self._digests[number - 1] != digest:
                raise DamagedError
            return digest
        # No other thread hashes meanwhile: the next part's turn comes with the append below.
        digest = digest_at(descriptor, place, size_bytes, buffer, self._whole.update)
        if number == self._plan.count and self._whole.hexdigest() != self._sha256:
            raise DamagedError
        with self._turn:
            self._digests.append(digest)
            self._turn.notify_all()
        return digest


def digest_at(
    descriptor: int,
    place: int,
    size_bytes: int,
    buffer: memoryview | None = None,
    also: Callable[[memoryview], object] = lambda _: None,
) -> str:
    """Return the SHA-256, in base64, of a range of a file.

    Args:
        descriptor: File descriptor.
        place: Offset of the range, bytes.
        size_bytes: Size of the range.
        buffer: Memory to read into. None allocates 256 KiB.
        also: Called with every piece, in order.

    Raises:
        DamagedError: The file ends within the range.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES)) if buffer is None else buffer
    while size_bytes:
        count = os.preadv(descriptor, [buffer[:size_bytes]], place)
        if not count:
            raise DamagedError
        digest.update(buffer[:count])
        also(buffer[:count])
        place, size_bytes = place + count, size_bytes - count
    return base64.b64encode(digest.digest()).decode()
