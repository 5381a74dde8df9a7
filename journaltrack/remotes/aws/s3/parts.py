"""The parts of one upload: their sizes, their digests, and threads that send them.

Invariants: what is hashed for a part and what is hashed for the whole are the same bytes in memory; what is sent is read once more, and
the store compares it with the part's digest. The whole is hashed in order, and nothing is complete unless its digest is the one that
the journal recorded. A part that the store has is not sent again if number, size and SHA-256 are those of ours.

One thread at a time reads and hashes, both digests of a piece while it is in its core's cache, and the others send: buffers of a whole
part, hashed by all threads at once, took up to 1.7 times the CPU (ADR 0022).

Must not know which uploads there are, or how one is begun and ended: see ``multipart``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from journaltrack.util.daemon_pool import DaemonPool

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
