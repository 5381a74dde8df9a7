"""The parts of one upload: their sizes, their digests, and threads that send them.

Invariants: what is hashed for a part and what is hashed for the whole are the same bytes in memory; what is sent is read once more, and
the store compares it with the part's digest. The whole is hashed in order, and nothing is complete unless its digest is the one that
the journal recorded. A part that the store has is not sent again if number, size and SHA-256 are those of ours.

One thread at a time reads and hashes, both digests of a piece while it is in its core's cache, and the others send: buffers of a whole
part, hashed by all threads at once, took up to 1.7 times the CPU (ADR 0022).

Must not know which uploads there are, or how one is begun and ended: see ``multipart``.

How S3 is to keep what is uploaded, and on whose account: members of every request that has them.

One hook, not a parameter at each call: which operations take which member, botocore's model says.

What is sent to S3, in pieces, and signed by the digest that is known already.

The bytes of a request are read when they are sent, a piece at a time that stays in a core's cache: a deadline ends a transfer in its
middle, a slow connection's time-out is one of a piece, and no part is ever in memory.

Must not know which request it is.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from botocore import auth

from journaltrack.util.threads import DaemonPool

if TYPE_CHECKING:
    from journaltrack.util.config import Storage

_OUR_HOOK: Final = "journaltrack-storage"
_EVENT: Final = "before-parameter-build.s3"


def ask_for(
    client: Any,  # noqa: ANN401 - boto3 has no types of its own
    storage: Storage,
    owner_of: Callable[[str], str | None],
) -> None:
    """Have an S3 client ask for this storage.

    Args:
        client: One of our own.
        storage: What is configured.
        owner_of: The account that a bucket must belong to; None: any.
    """
    wanted = {
        "ServerSideEncryption": storage.encryption or ("aws:kms" if storage.kms_key else None),
        "SSEKMSKeyId": storage.kms_key,
        "RequestPayer": "requester" if storage.requester_pays else None,
    }

    def add(*, params: dict[str, Any], model: Any, **_: object) -> None:  # noqa: ANN401
        members: Mapping[str, Any] = model.input_shape.members
        owner = owner_of(str(params.get("Bucket", "")))
        for name, value in ({**wanted, "ExpectedBucketOwner": owner}).items():
            if value is not None and name in members:
                params.setdefault(name, value)

    client.meta.events.register_first(_EVENT, add, unique_id=_OUR_HOOK)


CHUNK_BYTES: Final = 256 * 1024
"""http.client would send 16 KiB at a time, which costs a tenth of a transfer's CPU more."""
_SIGNER: Final = "journaltrack-s3v4"
_CHECKSUM: Final = "x-amz-checksum-sha256"
_BODIES: Final = ("PutObject", "UploadPart")
"""Where that header is the digest of the body; with CompleteMultipartUpload it speaks of the object."""


class Body:
    """A part of a file as botocore wants a body, a file of its own. Memory: one piece.

    Args:
        descriptor: Of the file, which stays the caller's. Its position is neither used nor changed.
        start: Where the body begins in it.
        size_bytes: Of the body.
        check: Called before each piece; what it raises ends the request.
    """

    def __init__(self, descriptor: int, start: int, size_bytes: int, check: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size_bytes = size_bytes
        self._check = check
        self._place = 0
        self._piece = memoryview(bytearray(min(CHUNK_BYTES, size_bytes)))

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, size: int = -1) -> bytes | memoryview:
        """The next piece, ``CHUNK_BYTES`` also where less was asked for, as http.client does; valid until the next one is read.

        Raises:
            OSError: The file ends before the body does.
        """
        self._check()
        left = self._size_bytes - self._place
        if left <= 0:
            return b""
        wanted = left if size < 0 else min(left, max(size, CHUNK_BYTES))
        piece = self._piece[:wanted] if wanted <= len(self._piece) else memoryview(bytearray(wanted))
        count = os.preadv(self._descriptor, [piece], self._start + self._place)
        if not count:
            raise OSError(errno.EIO, "the file has become shorter")  # the server would wait for the rest
        self._place += count
        return piece[:count]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file: a redirected request is sent again."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size_bytes}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """As of a file."""
        return self._place


class _ChecksumAuth(auth.S3SigV4Auth):  # type: ignore[misc]
    """botocore's signature, with the digest of the body taken from the checksum that the request carries; S3 verifies both."""

    def payload(self, request: Any) -> str:  # noqa: ANN401
        """The body's SHA-256 in hexadecimal."""
        value = request.headers.get(_CHECKSUM)
        try:
            return base64.b64decode(value, validate=True).hex()
        except (TypeError, ValueError, binascii.Error):
            return str(super().payload(request))


def sign_by_checksum(client: Any) -> None:  # noqa: ANN401
    """Have an S3 client not hash bodies again whose SHA-256 it is given.

    botocore signs the SHA-256 of a body, which it computes, unless the connection has TLS and it computed a checksum itself; one that
    it was given does not count (botocore.auth.S3SigV4Auth._should_sha256_sign_payload looks for ``request_algorithm``).
    """
    auth.AUTH_TYPE_MAPS.setdefault(_SIGNER, _ChecksumAuth)
    for operation in _BODIES:
        client.meta.events.register_first(f"choose-signer.s3.{operation}", _chosen)


def _chosen(*, signing_name: str, signature_version: object, context: dict[str, Any], **_: object) -> str | None:
    """The signer, in the place of botocore's usual one; other ones (SigV4a, S3 Express, none, presigned) stay."""
    usual = context.get("auth_type") in {None, "v4"} and signature_version in {"v4", "s3v4"} and signing_name == "s3"
    return _SIGNER if usual else None


PART_BYTES: Final = 8 << 20
"""As boto3's: what a kill costs a connection at most."""
_PART_BYTES_MIN: Final = 5 << 20
_RESUMED_PART_BYTES_MAX: Final = 64 << 20
"""Ours: of an upload that is continued, where S3 asks for no larger ones. A note may say anything."""
_PARTS_MAX: Final = 10_000
"""S3's limits: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html; 48.8 TiB are 10,000 parts of 5 GiB."""
CONNECTIONS: Final = 4
"""Ours: of one upload."""
_PIECE_BYTES: Final = 256 << 10


class DamagedError(Exception):
    """The bytes are not those that were recorded."""


class _StoppedError(Exception):
    """Another connection failed."""


class Held(NamedTuple):
    """A part that the store has; ``sha256`` in base64, None where it tells none."""

    size_bytes: int
    sha256: str | None
    etag: str


class Part(NamedTuple):
    """A part to send: where it begins in the file, and its SHA-256 in base64."""

    number: int
    place: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Where each part of a file begins and ends. Parts are numbered from 1."""

    size_bytes: int
    part_bytes: int

    @classmethod
    def of(cls, size_bytes: int, part_bytes: int | None = None) -> Plan:
        """The plan for a file.

        Args:
            size_bytes: Of the file.
            part_bytes: As an earlier upload of it was begun; not used if it can't be.
        """
        least = -(-size_bytes // _PARTS_MAX)
        usual = max(PART_BYTES, -(-least // (1 << 20)) << 20)
        fits = part_bytes is not None and max(_PART_BYTES_MIN, least) <= part_bytes <= max(_RESUMED_PART_BYTES_MAX, usual)
        return cls(size_bytes, part_bytes if part_bytes is not None and fits else usual)

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.size_bytes // self.part_bytes)

    @property
    def connections(self) -> int:
        """How many of them are sent at a time."""
        return max(1, min(CONNECTIONS, self.count))

    def place(self, number: int) -> int:
        """Where in the file the part begins."""
        return (number - 1) * self.part_bytes

    def size(self, number: int) -> int:
        """Bytes of the part; 0 if there is none of that number."""
        return max(0, min(self.part_bytes, self.size_bytes - self.place(number))) if number > 0 else 0


class Parts:
    """What is known of the parts of an upload; can be sent, and if that fails, sent on.

    Args:
        plan: Of the file.
        sha256: Of the whole, in hexadecimal.
        held: Parts that the store has.
    """

    def __init__(self, plan: Plan, sha256: str, held: Mapping[int, Held]) -> None:
        self._plan = plan
        self._sha256 = sha256
        self._held = held
        self._digests: list[str] = []  # of the parts that were hashed for the whole, in base64
        self._etags: dict[int, str] = {}
        self._whole = hashlib.sha256()
        self._turn = threading.Condition()
        self._waiting: list[int] = []
        self._error: BaseException | None = None

    def send(self, descriptor: int, put: Callable[[Part], str]) -> None:
        """Have the store hold every part.

        Args:
            descriptor: Of the file.
            put: Sends a part; returns the store's ETag. Called from several threads.

        Raises:
            DamagedError: The file is not what was recorded.
        """
        self._error = None
        self._waiting = [number for number in range(self._plan.count, 0, -1) if number not in self._etags]  # the first one last
        pool = DaemonPool(self._plan.connections - 1, "journaltrack-part")
        try:
            for _ in range(self._plan.connections - 1):
                pool.submit(self._work, descriptor, put)
        except RuntimeError:  # no new thread, on the way out: this one does it
            pass
        self._work(descriptor, put)
        pool.shutdown()
        if self._error is not None:
            raise self._error

    @property
    def size_bytes(self) -> int:
        """Of all of them."""
        return self._plan.size_bytes

    def sent(self) -> list[tuple[int, str, str]]:
        """All parts, in order: number, ETag, SHA-256 in base64."""
        return [(number, self._etags[number], self._digests[number - 1]) for number in range(1, self._plan.count + 1)]

    def composite(self) -> str:
        """The checksum that S3 gives to the whole: of its parts' digests, with their number."""
        digest = hashlib.sha256(b"".join(map(base64.b64decode, self._digests))).digest()
        return f"{base64.b64encode(digest).decode()}-{self._plan.count}"

    def _work(self, descriptor: int, put: Callable[[Part], str]) -> None:
        """One connection: a part at a time, until there are no more or one failed."""
        buffer = memoryview(bytearray(_PIECE_BYTES))
        try:
            while (number := self._next()) is not None:
                part = Part(number, self._plan.place(number), self._plan.size(number), self._hashed(descriptor, number, buffer))
                held = self._held.get(number)
                has = held is not None and (held.size_bytes, held.sha256) == (part.size_bytes, part.sha256)
                self._etags[number] = held.etag if held is not None and has else put(part)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised by ``send``
            with self._turn:
                self._error = self._error or error
                self._turn.notify_all()

    def _next(self) -> int | None:
        with self._turn:
            return self._waiting.pop() if self._waiting and self._error is None else None

    def _hashed(self, descriptor: int, number: int, buffer: memoryview) -> str:
        """The digest of a part, which is hashed for the whole, too, when its turn has come."""
        with self._turn:
            self._turn.wait_for(lambda: self._error is not None or number <= len(self._digests) + 1)
            if self._error is not None:
                raise _StoppedError
            again = number <= len(self._digests)
        place, size_bytes = self._plan.place(number), self._plan.size(number)
        if again:  # it was hashed before, and could not be sent then
            digest = digest_at(descriptor, place, size_bytes, buffer)
            if self._digests[number - 1] != digest:
                raise DamagedError
            return digest
        digest = digest_at(descriptor, place, size_bytes, buffer, self._whole.update)  # no other turn begins before this part is counted
        if number == self._plan.count and self._whole.hexdigest() != self._sha256:
            raise DamagedError
        with self._turn:
            self._digests.append(digest)
            self._turn.notify_all()
        return digest


def digest_at(
    descriptor: int, place: int, size_bytes: int, buffer: memoryview | None = None, also: Callable[[memoryview], object] = lambda _: None
) -> str:
    """The SHA-256 in base64 of some bytes of a file.

    Args:
        descriptor: Of the file.
        place: Where they begin.
        size_bytes: How many they are.
        buffer: Memory to use.
        also: Handed every piece of them, in order.

    Raises:
        DamagedError: The file ends before.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE_BYTES)) if buffer is None else buffer
    while size_bytes:
        count = os.preadv(descriptor, [buffer[:size_bytes]], place)
        if not count:
            raise DamagedError
        digest.update(buffer[:count])
        also(buffer[:count])
        place, size_bytes = place + count, size_bytes - count
    return base64.b64encode(digest.digest()).decode()
