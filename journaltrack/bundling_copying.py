"""Bytes from one file into another, hashed by a second thread while the first one reads and writes.

SHA-256 takes about as long for a byte as a disk does (1.2 GiB/s beside 1.4): in turns, a bundle would take twice as long as a copy.
``hashlib`` and ``os`` free the interpreter's lock. What is hashed is what is written: both from the same buffer.
Must not know what is copied.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

BUFFER_BYTES: Final = 1024 * 1024
_BUFFERS: Final = 8
_FLUSH_EVERY_BYTES: Final = 64 * 1024 * 1024
"""So much at most waits for the disk unasked: progress is true also on a slow stick, and the last barrier is short."""


class Copier:
    """Buffers and a thread that hashes; use it as a context manager, from one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "journaltrack-hash")
        self._buffers = [bytearray(BUFFER_BYTES) for _ in range(_BUFFERS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """End the thread."""
        self._pool.shutdown()

    def copy(self, source: int, size_bytes: int, write: Callable[[memoryview], object]) -> str:
        """Hand ``size_bytes`` from the descriptor's position on to ``write``, or fewer if the file ends before.

        Returns:
            Their SHA-256 in hexadecimal.
        """
        digest = hashlib.sha256()
        under_way: deque[Future[None]] = deque()
        try:
            for number, view in enumerate(self._pieces(source, size_bytes, under_way)):
                if number == 0 and size_bytes <= BUFFER_BYTES:
                    digest.update(view)  # for little, the hand-over would cost more than it saves
                else:
                    under_way.append(self._pool.submit(digest.update, view))
                write(view)
        finally:
            while under_way:
                under_way.popleft().result()
        return digest.hexdigest()

    def _pieces(self, source: int, size_bytes: int, under_way: deque[Future[None]]) -> Iterator[memoryview]:
        """The file's bytes in the buffers; one is filled anew when the thread is done with it."""
        number = 0
        with open(source, "rb", buffering=0, closefd=False) as file:
            while size_bytes > 0:
                while len(under_way) >= _BUFFERS - 1:
                    under_way.popleft().result()
                view = memoryview(self._buffers[number % _BUFFERS])[: min(size_bytes, BUFFER_BYTES)]
                count = file.readinto(view)
                if not count:
                    return
                yield view[:count]
                size_bytes -= count
                number += 1

    def digest(self, source: int, size_bytes: int, on_bytes: Callable[[int], object] = lambda _: None) -> str:
        """As ``copy``, without writing; ``on_bytes`` is told of each piece."""
        return self.copy(source, size_bytes, lambda view: on_bytes(len(view)))


class SteadyFile:
    """A file that is written at its position, and waited for in the background while more is written.

    Args:
        descriptor: Open for writing; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(1, "journaltrack-flush")
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def write(self, data: bytes | memoryview) -> None:
        """All of it.

        Raises:
            OSError: The disk refuses it, or what was written before.
        """
        write_all(self._descriptor, data)
        self._unflushed += len(data)
        if self._unflushed >= _FLUSH_EVERY_BYTES and (self._flushing is None or self._flushing.done()):
            self._awaited()
            self._unflushed = 0
            self._flushing = self._pool.submit(os.fdatasync, self._descriptor)

    def flush(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: It is not.
        """
        self._awaited()  # the kernel tells of a failure once, and perhaps told that call
        os.fsync(self._descriptor)

    def close(self) -> None:
        """End the thread; call it in any case."""
        self._pool.shutdown()

    def _awaited(self) -> None:
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            flushing.result()


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of it, at the descriptor's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
