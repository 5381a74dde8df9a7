"""Copy a file's bytes: one thread reads and hashes, another writes.

SHA-256 and a disk are about equally fast (1.2 and 1.4 GiB/s): one after the other would take twice
as long. ``hashlib`` and ``os`` release the interpreter's lock. Both threads use the same buffer, so
the bytes that are hashed are the bytes that are written.

copy_file_range(2) with hashing beside it was measured, too (ADR 0022). It is no faster, because the
digest needs the bytes in memory anyway. It can't tell a failing source from a failing target. And
the bytes that are hashed come from a second read.

Must not know what is copied.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

    from typing_extensions import Self

PIECE_BYTES: Final = 256 * 1024
"""Small enough to stay in a core's cache between reading and hashing.

Smaller buffers cost more to hand over.
"""
ALONE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Up to this size one thread reads, hashes and writes.

On a busy machine, a second thread costs more than it saves.
"""
_BUFFERS: Final = 32
"""8 MiB in all: what one thread hashes while a disk stalls for 5 ms.

A new buffer is used only when all others wait to be written. Most of the time three are in use and
stay in the cache. A page that was never used costs more than its hashing.
"""
# fallocate(2): allocate the blocks, and keep the file's size.
_KEEP_SIZE: Final = 1
# sync_file_range(2): wait for writes in progress, start the rest, and wait for it.
_ALL_OF_IT: Final = 7
_NOT_HERE: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE})
_LOOK_S: Final = 1.0
"""How often to check that the hashing thread is alive while it hands nothing over."""
_FLUSH_EVERY_BYTES: Final = 8 * 1024 * 1024
"""How many bytes may be written before they are pushed to the disk.

So progress is real on a slow USB stick, too, and the last fsync is short.
"""


class Copier:
    """Own the buffers and the thread that reads and hashes.

    Use it as a context manager. Not thread-safe.
    """

    def __init__(self) -> None:
        # The kernel provides a page when it is first used.
        self._memory = memoryview(mmap.mmap(-1, _BUFFERS * PIECE_BYTES))
        self._taken = 0
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._tasks: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        # Pieces with their size; at the end the digest, or the error.
        self._filled: SimpleQueue[tuple[memoryview, int] | str | BaseException] = SimpleQueue()
        self._cancelled = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread."""
        if self._thread is not None:
            self._cancelled = True
            self._tasks.put(None)
            # Ctrl-C may have come before a buffer was given back: the thread must not wait for it.
            self._free.put(memoryview(b""))
            self._thread.join()

    def copy(self, source: int, size_bytes: int, write: Callable[[memoryview], object]) -> str:
        """Pass bytes from a descriptor's position on to ``write``, and hash them.

        Args:
            source: The descriptor.
            size_bytes: How many bytes. If the file ends before, fewer are copied.
            write: Called on this thread with each piece.

        Returns:
            The bytes' SHA-256 in hexadecimal.

        Raises:
            OSError: The file can't be read.
            Exception: Any other error of either thread.
        """
        if size_bytes <= ALONE_BYTES_MAX or not self._started():
            return self.digest(source, size_bytes, write)
        self._cancelled = False
        self._tasks.put((source, size_bytes))
        result = None
        try:
            while isinstance(result := self._handed(), tuple):
                buffer, count = result
                try:
                    write(buffer[:count])
                finally:
                    self._free.put(buffer)
        finally:
            if isinstance(result, tuple) or result is None:
                self._abandon()
        if isinstance(result, BaseException):
            raise result
        return result

    def digest(
        self, source: int, size_bytes: int, write: Callable[[memoryview], object] = lambda _: None
    ) -> str:
        """Do the same as ``copy`` on this thread alone.

        That is faster if ``write`` costs nothing, because the bytes stay in one core's cache.
        """
        digest = hashlib.sha256()
        view = self._memory[:PIECE_BYTES]
        with open(source, "rb", buffering=0, closefd=False) as file:
            while count := file.readinto(view[: min(size_bytes, PIECE_BYTES)]):
                digest.update(view[:count])
                write(view[:count])
                size_bytes -= count
        return digest.hexdigest()

    def _started(self) -> bool:
        """Start the thread if there is none, and return whether there is one now.

        None can start while the interpreter exits, or at the limit of threads.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="journaltrack-hash", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _buffer(self) -> memoryview:
        """Return a free buffer. Called on the hashing thread."""
        if self._taken < _BUFFERS:
            try:
                return self._free.get_nowait()
            except Empty:
                start, self._taken = self._taken * PIECE_BYTES, self._taken + 1
                return self._memory[start : start + PIECE_BYTES]
        return self._free.get()

    def _abandon(self) -> None:
        """Stop the thread's work, and take its buffers back."""
        self._cancelled = True
        while isinstance(piece := self._handed(), tuple):
            self._free.put(piece[0])

    def _handed(self) -> tuple[memoryview, int] | str | BaseException:
        """Return what the thread hands over next; an error if the thread died.

        A thread without memory can't even hand over its error.
        """
        while True:
            try:
                return self._filled.get(timeout=_LOOK_S)
            except Empty:  # noqa: PERF203 - once a second at most
                if self._thread is None or not self._thread.is_alive():
                    # The next copy starts another thread.
                    self._thread = None
                    return RuntimeError("the thread that hashes has ended")

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._filled.put(self._read(*task))
            except BaseException as error:  # noqa: BLE001, PERF203 - ``copy`` raises it
                self._filled.put(error)

    def _read(self, source: int, size_bytes: int) -> str:
        digest = hashlib.sha256()
        with open(source, "rb", buffering=0, closefd=False) as file:
            while size_bytes > 0 and not self._cancelled:
                buffer = self._buffer()
                view = buffer[:size_bytes]
                try:
                    count = file.readinto(view) or 0
                except OSError:
                    self._free.put(buffer)
                    raise
                if not count:
                    self._free.put(buffer)
                    break
                # Hand over before hashing, so that it is written meanwhile. Only this thread
                # changes buffers, so it can still read this one.
                self._filled.put((buffer, count))
                digest.update(view[:count])
                size_bytes -= count
        return digest.hexdigest()


class SteadyFile:
    """Write a file, and push its bytes to the disk in the background.

    Args:
        descriptor: Open for writing. The caller closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool: ThreadPoolExecutor | None = None
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def reserve(self, size_bytes: int) -> None:
        """Allocate the blocks for that many bytes at once, if the file system can.

        The file's size does not change.

        Raises:
            OSError: The disk has no room for them.
        """
        if _fallocate is not None and _fallocate(self._descriptor, _KEEP_SIZE, 0, size_bytes) != 0:
            number = ctypes.get_errno()
            if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise OSError(number, os.strerror(number))

    def write(self, data: bytes | memoryview) -> None:
        """Write all the bytes.

        Raises:
            OSError: The disk refuses these bytes, or earlier ones.
        """
        write_all(self._descriptor, data)
        self._unflushed += len(data)
        if self._unflushed >= _FLUSH_EVERY_BYTES and (
            self._flushing is None or self._flushing.done()
        ):
            self._awaited()
            self._unflushed = 0
            # No new thread can start while the interpreter exits, and this can't be imported: then
            # ``flush`` does all of it.
            with contextlib.suppress(RuntimeError):
                if self._pool is None:
                    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as above

                    self._pool = ThreadPoolExecutor(1, "journaltrack-flush")
                self._flushing = self._pool.submit(_push, self._descriptor)

    def flush(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: The disk refuses it.
        """
        # The kernel reports a failure only once, perhaps to the background call.
        self._awaited()
        os.fsync(self._descriptor)

    def close(self) -> None:
        """End the thread. Call it in every case."""
        if self._pool is not None:
            self._pool.shutdown()

    def _awaited(self) -> None:
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            flushing.result()


def _push(descriptor: int) -> None:
    """Write a file's bytes to the disk and wait for that, without a barrier.

    fdatasync would commit the file system's own log each time, which delayed every other write by
    50 ms.

    Raises:
        OSError: The disk refuses them.
    """
    # macOS does not have it.
    if _sync_file_range is None:
        os.fsync(descriptor)
    elif (
        _sync_file_range(descriptor, 0, 0, _ALL_OF_IT) != 0 and ctypes.get_errno() not in _NOT_HERE
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _found(name: str, *types: type[Any]) -> Callable[..., int] | None:
    """Return a function of the C library; None if it does not exist here."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:
        return None
    function.argtypes = types
    return cast("Callable[..., int]", function)


_sync_file_range: Final = _found(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)
_memcmp: Final = _found("memcmp", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
# posix_fallocate would write zeros on file systems that can't allocate.
_fallocate: Final = _found(
    "fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
)


def are_equal(one: memoryview, other: memoryview) -> bool:
    """Return whether two writable buffers have the same bytes.

    Unlike ``==``, memcmp lets other threads run meanwhile.
    """
    if _memcmp is None or len(one) != len(other):
        return len(one) == len(other) and bytes(one) == bytes(other)
    places = [
        ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
        for buffer in (one, other)
    ]
    return _memcmp(*places, len(one)) == 0


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all the bytes at the descriptor's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
