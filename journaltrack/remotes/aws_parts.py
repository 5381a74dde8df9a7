"""The parts of one upload: their sizes, their digests, and threads that send them.

Invariants: every byte is read once, and that read is what is hashed for its part, hashed for the whole, and sent; the whole is hashed in
order, and nothing is complete unless its digest is the one that the journal recorded. A part that the store has is not sent again if
number, size and SHA-256 are those of ours.

Must not know which uploads there are, or how one is begun and ended: see ``aws_multipart``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from journaltrack.daemon_pool import DaemonPool

PART_BYTES: Final = 8 << 20
"""As boto3's: what a kill costs a connection at most."""
_PART_BYTES_MIN: Final = 5 << 20
_PARTS_MAX: Final = 10_000
"""S3's limits: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html; 48.8 TiB are 10,000 parts of 5 GiB."""
CONNECTIONS: Final = 4
BUFFERS_BYTES_MAX: Final = 64 << 20
"""Ours: of one upload. Each connection has a part in memory; parts that are larger than 16 MiB (of files above 156 GiB) have fewer."""


class DamagedError(Exception):
    """The bytes are not those that were recorded."""


class _StoppedError(Exception):
    """Another connection failed."""


class Held(NamedTuple):
    """A part that the store has; ``sha256`` in base64, None where it tells none."""

    size_bytes: int
    sha256: str | None
    etag: str


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
        fits = part_bytes is not None and max(_PART_BYTES_MIN, least) <= part_bytes <= max(BUFFERS_BYTES_MAX, usual)
        return cls(size_bytes, part_bytes if part_bytes is not None and fits else usual)

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.size_bytes // self.part_bytes)

    @property
    def connections(self) -> int:
        """How many of them are sent at a time."""
        return max(1, min(CONNECTIONS, self.count, BUFFERS_BYTES_MAX // self.part_bytes))

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

    def send(self, descriptor: int, put: Callable[[int, memoryview, str], str]) -> None:
        """Have the store hold every part.

        Args:
            descriptor: Of the file.
            put: Sends a part, given its number, bytes and SHA-256 in base64; returns the store's ETag. Called from several threads.

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
        return f"{_base64(b''.join(map(base64.b64decode, self._digests)))}-{self._plan.count}"

    def _work(self, descriptor: int, put: Callable[[int, memoryview, str], str]) -> None:
        """One connection: a part at a time, until there are no more or one failed."""
        buffer = memoryview(bytearray(self._plan.part_bytes))
        try:
            while (number := self._next()) is not None:
                view = buffer[: self._plan.size(number)]
                digest = self._read(descriptor, number, view)
                held = self._held.get(number)
                has = held is not None and (held.size_bytes, held.sha256) == (len(view), digest)
                self._etags[number] = held.etag if held is not None and has else put(number, view, digest)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised by ``send``
            with self._turn:
                self._error = self._error or error
                self._turn.notify_all()

    def _next(self) -> int | None:
        with self._turn:
            return self._waiting.pop() if self._waiting and self._error is None else None

    def _read(self, descriptor: int, number: int, view: memoryview) -> str:
        """The bytes of a part, and its digest."""
        read_into(descriptor, self._plan.place(number), view)
        digest = _base64(view)
        with self._turn:
            self._turn.wait_for(lambda: self._error is not None or number <= len(self._digests) + 1)
            if self._error is not None:
                raise _StoppedError
            again = number <= len(self._digests)
        if again:  # it was read before, and could not be sent then
            if self._digests[number - 1] != digest:
                raise DamagedError
            return digest
        self._whole.update(view)  # nobody else's turn comes before this part is counted
        if number == self._plan.count and self._whole.hexdigest() != self._sha256:
            raise DamagedError
        with self._turn:
            self._digests.append(digest)
            self._turn.notify_all()
        return digest


def read_into(descriptor: int, place: int, view: memoryview) -> None:
    """Fill a buffer from a place in a file.

    Raises:
        DamagedError: The file ends before.
    """
    while view:
        count = os.preadv(descriptor, [view], place)
        if not count:
            raise DamagedError
        view, place = view[count:], place + count


def digest_at(descriptor: int, place: int, size_bytes: int) -> str:
    """The SHA-256 in base64 of some bytes of a file; of fewer, if it ends before."""
    digest = hashlib.sha256()
    while size_bytes and (block := os.pread(descriptor, min(size_bytes, 1 << 20), place)):
        digest.update(block)
        size_bytes, place = size_bytes - len(block), place + len(block)
    return base64.b64encode(digest.digest()).decode()


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
