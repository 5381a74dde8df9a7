"""Bytes from one file into another: a second thread reads and hashes them while the first one writes.

SHA-256 takes about as long for a byte as a disk does (1.2 GiB/s beside 1.4): in turns, a copy would take twice as long as either.
``hashlib`` and ``os`` free the interpreter's lock. What is hashed is what is written: both from the same buffer.
Must not know what is copied.

copy_file_range(2) with hashing beside it was measured too (ADR 0022): no faster, since the bytes have to be read for their digest
anyway, it can't tell a failing source from a failing target, and what is hashed is then read a second time.
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
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

BUFFER_BYTES: Final = 256 * 1024
"""Stays in a core's cache between reading and hashing; smaller ones cost more in handing over."""
ALONE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Up to here one thread does both: starting another and handing over cost more than they save on a busy machine."""
_BUFFERS: Final = 32
"""8 MiB: what is hashed while a disk stalls for 5 ms. One more is taken only when all wait to be written: most of the time
three do, which stay in the cache, and a fresh page costs more than hashing it."""
_KEEP_SIZE: Final = 1  # fallocate(2): the blocks, but not the size
_ALL_OF_IT: Final = 7  # sync_file_range(2): wait for what is under way, write the rest, wait for that
_NOT_HERE: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE})
_LOOK_S: Final = 1.0
"""How often it is seen whether the hashing thread still lives while it hands nothing over."""
_FLUSH_EVERY_BYTES: Final = 8 * 1024 * 1024
"""So much at most waits for the disk unasked: progress is true also on a slow stick, and the last barrier is short."""


class Copier:
    """Buffers, and a thread that reads and hashes; use it as a context manager, from one thread at a time."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, _BUFFERS * BUFFER_BYTES))  # zeroed by the kernel, page by page, when it is used
        self._taken = 0
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._tasks: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        # Pieces, and then their digest or what went wrong.
        self._filled: SimpleQueue[tuple[memoryview, int] | str | BaseException] = SimpleQueue()
        self._cancelled = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """End the thread."""
        if self._thread is not None:
            self._cancelled = True
            self._tasks.put(None)
            self._free.put(memoryview(b""))  # Ctrl-C may have come between taking one and giving it back
            self._thread.join()

    def copy(self, source: int, size_bytes: int, write: Callable[[memoryview], object]) -> str:
        """Hand ``size_bytes`` from the descriptor's position on to ``write``, or fewer if the file ends before.

        Returns:
            Their SHA-256 in hexadecimal.

        Raises:
            OSError: The file can't be read.
            Exception: Whatever else ended the hashing, on whichever thread.
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

    def digest(self, source: int, size_bytes: int, write: Callable[[memoryview], object] = lambda _: None) -> str:
        """As ``copy``, all on this thread: where ``write`` costs nothing, that is faster, since what was read is in its core's cache."""
        digest = hashlib.sha256()
        view = self._memory[:BUFFER_BYTES]
        with open(source, "rb", buffering=0, closefd=False) as file:
            while count := file.readinto(view[: min(size_bytes, BUFFER_BYTES)]):
                digest.update(view[:count])
                write(view[:count])
                size_bytes -= count
        return digest.hexdigest()

    def _started(self) -> bool:
        """Whether there is a thread; there can't be when the interpreter is on its way out, or has too many."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="journaltrack-hash", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _buffer(self) -> memoryview:
        """A free one; on the hashing thread."""
        if self._taken < _BUFFERS:
            try:
                return self._free.get_nowait()
            except Empty:
                start, self._taken = self._taken * BUFFER_BYTES, self._taken + 1
                return self._memory[start : start + BUFFER_BYTES]
        return self._free.get()

    def _abandon(self) -> None:
        """Have the thread stop, and the buffers back."""
        self._cancelled = True
        while isinstance(piece := self._handed(), tuple):
            self._free.put(piece[0])

    def _handed(self) -> tuple[memoryview, int] | str | BaseException:
        """Return what the thread hands over next; an error when it ended without a word.

        To hand over an error takes memory, too.
        """
        while True:
            try:
                return self._filled.get(timeout=_LOOK_S)
            except Empty:  # noqa: PERF203 - once a second at most
                if self._thread is None or not self._thread.is_alive():
                    self._thread = None  # the next copy starts another
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
                self._filled.put((buffer, count))  # first: it is written while it is hashed, and filled anew by this thread alone
                digest.update(view[:count])
                size_bytes -= count
        return digest.hexdigest()


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

    def reserve(self, size_bytes: int) -> None:
        """Have the blocks for so many bytes found at once, in a piece, where the file system can; its size stays.

        Raises:
            OSError: There is not so much room.
        """
        if _fallocate is not None and _fallocate(self._descriptor, _KEEP_SIZE, 0, size_bytes) != 0:
            number = ctypes.get_errno()
            if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise OSError(number, os.strerror(number))

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
            with contextlib.suppress(RuntimeError):  # no new thread while the interpreter is on its way out: ``flush`` does it all
                self._flushing = self._pool.submit(_push, self._descriptor)

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


def _push(descriptor: int) -> None:
    """Wait until the bytes of a file are with the disk; no barrier, so that nobody has to wait for the file system's own log meanwhile.

    fdatasync, which commits that log each time, held up every write for 50 ms.

    Raises:
        OSError: The disk refuses them.
    """
    if _sync_file_range is None:  # macOS
        os.fsync(descriptor)
    elif _sync_file_range(descriptor, 0, 0, _ALL_OF_IT) != 0 and ctypes.get_errno() not in _NOT_HERE:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _found(name: str, *types: type[Any]) -> Callable[..., int] | None:
    """A function of the C library; None where it has none of that name."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:
        return None
    function.argtypes = types
    return cast("Callable[..., int]", function)


_sync_file_range: Final = _found("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_memcmp: Final = _found("memcmp", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_fallocate: Final = _found(
    "fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
)  # posix_fallocate would write zeros where it must


def are_equal(one: memoryview, other: memoryview) -> bool:
    """Whether two writable buffers have the same bytes; other threads run meanwhile, which ``==`` does not let them."""
    if _memcmp is None or len(one) != len(other):
        return len(one) == len(other) and bytes(one) == bytes(other)
    places = [ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)) for buffer in (one, other)]
    return _memcmp(*places, len(one)) == 0


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of it, at the descriptor's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
