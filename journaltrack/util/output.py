"""Pass output through, byte for byte as it comes, and keep its end.

A *relay* stands between processes that print and the descriptors that they print to. A terminal
stays a terminal for them (a pseudo-terminal), anything else is a pipe. The relay is a process, not
a thread: C code that prints while it holds the interpreter's lock would wait for a thread for ever.
It outlives the process that started it for as long as somebody can still print. Signals of a
terminal or to the process group do not end it. It says which it got: so ``launch`` knows whether a
signal was for it alone.

``Relay`` starts one for other processes. ``Capture`` puts one behind this process's own output.

This file is also the relay's program. It is run by its path, in 15 ms, so it must import nothing
but the standard library at import. Must not know what becomes of what is kept.

Invariant: the relay never makes a printing process wait, unless the reader of its output does.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import subprocess

TAIL_BYTES: Final = 1_000_000
"""Ours: how much of the end of the output is kept by default."""
TAIL_BYTES_MAX: Final = 64_000_000
DRAIN_S: Final = 2.0
"""Ours: how long the end of a run waits until all that was printed has passed."""
_CHUNK_BYTES: Final = 1 << 18
_PIPE_BYTES: Final = 1 << 20
"""What a process can print without waiting for the relay; Linux allows it to everybody."""
_SIZE_EVERY_S: Final = 0.5
_ANSWER_S: Final = 5.0
"""Ours: how long the relay may be slower than it was asked to be."""
_LOOK_S: Final = 0.002
_REAP_S: Final = 0.1
"""Ours: how long to wait for the relay. It ends at once if nobody else can print."""
_LAST_STANDARD: Final = 2
_NOWHERE: Final = -1
"""Stands for a descriptor: what is printed there is kept, and written nowhere."""
# How long to wait until all has passed, and whether the kept bytes are wanted.
_REQUEST: Final = struct.Struct("!d?")
# Whether all has passed, how many bytes did, and how many follow.
_ANSWER: Final = struct.Struct("!?QQ")
# When a signal came, by the system's monotonic clock, and which.
_SIGNAL: Final = struct.Struct("!dB")
SIGNALS: Final = frozenset(
    {
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1),
        *(signal.SIGUSR2, signal.SIGXCPU, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH),
    }
)
"""Signals that end no relay, and that a relay reports."""
_BLOCKED: Final = SIGNALS | {signal.SIGALRM, signal.SIGTTIN, signal.SIGTTOU}
_ALSO_S: Final = 0.5
"""Ours: how far apart in time two processes get what is sent to both, on a busy machine."""
_STALE_S: Final = 2.0
"""Ours: a signal that the relay got so long before is another one."""


class Kept(NamedTuple):
    """The end of what was printed.

    Attributes:
        content: The last bytes, from the start of a line on.
        seen: How many bytes were printed in all.
        is_all: Whether everything printed so far had passed.
    """

    content: bytes
    seen: int
    is_all: bool

    def text(self) -> bytes:
        """Return the content, after a line that says what was left out."""
        left_out = self.seen - len(self.content)
        note = f"[{left_out} bytes before these are not kept]\n" if left_out > 0 else ""
        return note.encode() + self.content


class Relay:
    """A relay in a process of its own.

    Args:
        targets: Where the output goes: descriptors of this process, or -1 for nowhere.
        tail_bytes: How many of the last bytes of all targets together are kept.

    Attributes:
        ends: By target, the descriptor to print to. Give them to a process, then ``close_ends``.

    Raises:
        OSError: No process can be started here.
    """

    def __init__(self, targets: Sequence[int], tail_bytes: int = TAIL_BYTES) -> None:
        import subprocess  # noqa: PLC0415 - the relay itself starts nothing

        if not sys.executable or getattr(sys, "frozen", False):
            msg = "this program is no Python interpreter, which the relay needs"
            raise OSError(msg)
        self.ends: dict[int, int] = {}
        self._guard = threading.Lock()
        streams: list[tuple[int, int]] = []
        with contextlib.ExitStack() as theirs:
            for target in targets:
                # Both streams to one terminal or file stay in the order in which they were written.
                twin = next((each for each in self.ends if _is_same(each, target)), None)
                if twin is not None:
                    self.ends[target] = self.ends[twin]
                    continue
                source, self.ends[target] = _terminal(target) if _is_terminal(target) else _pipe()
                theirs.callback(os.close, source)
                # The relay has standard streams of its own.
                copy = _copy_of(target)
                if copy >= 0:
                    theirs.callback(os.close, copy)
                streams.append((source, copy))
            asked, self._requests = _high(os.pipe())
            theirs.callback(os.close, asked)
            self._answers, answers = _high(os.pipe())
            theirs.callback(os.close, answers)
            self._signals, signals = _high(os.pipe())
            theirs.callback(os.close, signals)
            told = json.dumps([streams, asked, answers, signals, tail_bytes])
            passed = {asked, answers, signals, *(n for pair in streams for n in pair if n >= 0)}
            # The relay inherits the mask: no signal can end it, however early.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
            try:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - constant
                    [sys.executable, "-I", "-S", __file__, told],
                    pass_fds=sorted(passed),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                self.close_ends()
                self._close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close_ends(self) -> None:
        """Close this process's copies of the ends, which others print to."""
        for end in set(self.ends.values()):
            os.close(end)
        self.ends.clear()

    def kept(self, wait_s: float = 0.0, *, content: bool = True) -> Kept | None:
        """Return the end of what was printed; None if the relay was killed.

        The pseudo-terminals take the size of their terminals by this, too.

        Args:
            wait_s: Wait so long until all that was printed has passed.
            content: Whether the bytes are wanted.
        """
        with self._guard, contextlib.suppress(OSError):
            os.write(self._requests, _REQUEST.pack(wait_s, content))
            until = time.monotonic() + wait_s + _ANSWER_S
            head = self._read(_ANSWER.size, until)
            if head is not None:
                is_all, seen, length = _ANSWER.unpack(head)
                found = self._read(length, until)
                return None if found is None else Kept(found, seen, is_all)
        return None

    def got_too(self, number: int) -> bool:
        """Return whether the relay just got a signal that this process got.

        Then it was sent to the process group, or to all processes of a job.
        """
        now = time.monotonic()
        while _is_ready(self._signals, max(0.0, now + _ALSO_S - time.monotonic())):
            told = os.read(self._signals, _SIGNAL.size)
            if not told:
                return False
            at, which = _SIGNAL.unpack(told)
            if which == number and at > now - _STALE_S:
                return True
        return False

    def end(self) -> None:
        """Leave the relay alone: it ends when nobody can print to it any more."""
        import subprocess  # noqa: PLC0415 - as above

        with self._guard:
            self._close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)
        # Somebody can still print. It is reaped when the next relay is left alone.
        _left[:] = [each for each in (*_left, self._process) if each.poll() is None]
        atexit.unregister(_leave)
        atexit.register(_leave)

    def _close(self) -> None:
        for each in (self._requests, self._answers, self._signals):
            os.close(each)

    def _read(self, length: int, until: float) -> bytes | None:
        found = bytearray()
        while len(found) < length:
            if not _is_ready(self._answers, max(0.0, until - time.monotonic())):
                # Whoever asks next would get this answer.
                msg = "the relay does not answer"
                raise OSError(msg)
            chunk = os.read(self._answers, length - len(found))
            if not chunk:
                return None
            found += chunk
        return bytes(found)


class Capture:
    """Keep the end of what this process prints, from now until ``end``.

    Descriptors 1 and 2 are replaced, so the output of C code and of children counts. Where
    ``sys.stdout`` does not write to its descriptor (notebooks, pytest), it is replaced, too.

    Args:
        tail_bytes: How many of the last bytes are kept.

    Raises:
        OSError: No relay can be started here. Nothing was changed.
    """

    def __init__(self, tail_bytes: int = TAIL_BYTES) -> None:
        _flush()
        self._originals = {number: copy for number in (1, 2) if (copy := _copy_of(number)) >= 0}
        try:
            self._relay = Relay([*self._originals.values(), _NOWHERE], tail_bytes)
        except OSError:
            for copy in self._originals.values():
                os.close(copy)
            raise
        self._pid = os.getpid()
        self._ours: dict[int, os.stat_result] = {}
        for number, copy in self._originals.items():
            os.dup2(self._relay.ends[copy], number)
            self._ours[number] = os.fstat(number)
        beside = os.dup(self._relay.ends[_NOWHERE])
        self._relay.close_ends()
        self._beside = beside
        self._streams: dict[str, _Tee] = {}
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            if stream is not None and _number_of(stream) != number:
                self._streams[name] = _Tee(stream, beside)
                setattr(sys, name, self._streams[name])
        _captures.append(self)

    def end(self) -> Kept | None:
        """Print to where it was before, and return the end of what was printed.

        None in a forked child, the second time, and if the relay was killed. What somebody else has
        replaced meanwhile stays.
        """
        if os.getpid() != self._pid:
            return None
        # A signal handler may end it meanwhile.
        self._pid = -1
        _flush()
        for name, tee in self._streams.items():
            if getattr(sys, name) is tee:
                setattr(sys, name, tee.stream)
            tee.descriptor = _NOWHERE
        if self._streams:
            # Another thread may be about to write there: the number must stay taken.
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._beside, inheritable=False)
            os.close(nowhere)
        else:
            os.close(self._beside)
        for number, copy in self._originals.items():
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(number), self._ours[number]):
                    os.dup2(copy, number)
            os.close(copy)
        if self in _captures:
            later = _captures[_captures.index(self) + 1 :]
            _captures.remove(self)
            # What they have not passed on yet comes here.
            for capture in reversed(later):
                capture._relay.kept(DRAIN_S, content=False)  # noqa: SLF001 - of this class
        found = self._relay.kept(DRAIN_S)
        self._relay.end()
        return found


class _Tee:
    """A stream of Python that also goes to a descriptor of a relay."""

    def __init__(self, stream: Any, descriptor: int) -> None:  # noqa: ANN401 - any file-like object
        self.stream = stream
        self.descriptor = descriptor

    def write(self, text: str) -> Any:  # noqa: ANN401 - what the stream returns
        """Write to both."""
        written = self.stream.write(text)
        if self.descriptor >= 0 and isinstance(text, str):
            left = memoryview(text.encode(errors="replace"))
            # The relay was killed.
            with contextlib.suppress(OSError):
                while left:
                    left = left[os.write(self.descriptor, left) :]
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all lines to both."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the stream's own
        return getattr(self.stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)


_captures: list[Capture] = []
"""Captures of this process, in the order in which they began: each gets what later ones pass on."""
_left: list[subprocess.Popen[bytes]] = []
"""Relays that go on without us, until they have ended."""


def _leave() -> None:
    for each in _left:
        # Else Popen would warn of a process that still runs, as it shall.
        if each.poll() is None:
            each.returncode = 0


def _is_ready(descriptor: int, wait_s: float | None = None, event: int = select.POLLIN) -> bool:
    """Wait until a descriptor can be read or written, or has ended; return whether it did."""
    # One for each call: no two threads may use one. Unlike select, it takes any number.
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if wait_s is None else wait_s * 1e3))


def _is_terminal(target: int) -> bool:
    return target >= 0 and os.isatty(target)


def _is_same(one: int, other: int) -> bool:
    """Return whether both lead to the same terminal, file or pipe."""
    return min(one, other) >= 0 and os.path.samestat(os.fstat(one), os.fstat(other))


def _high(pair: tuple[int, int]) -> tuple[int, int]:
    """Return two new descriptors under numbers that no standard stream has.

    Where standard streams are closed, theirs are given to whatever is opened next.
    """
    moved = [each if each > _LAST_STANDARD else _copy_of(each) for each in pair]
    for each in {*pair} - {*moved}:
        os.close(each)
    return moved[0], moved[1]


def open_standard_streams() -> None:
    """Open the standard streams that are closed, to nowhere: nothing else gets their numbers."""
    # Each time, the lowest number that is free.
    while (number := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= _LAST_STANDARD:
        os.set_inheritable(number, True)
    os.close(number)


def _pipe() -> tuple[int, int]:
    """Return a pipe that holds much."""
    source, end = _high(os.pipe())
    # Elsewhere a pipe has the size that it has.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return source, end


def _terminal(target: int) -> tuple[int, int]:
    """Return a pseudo-terminal like a terminal, which changes nothing of what is written."""
    source, end = _high(os.openpty())
    with contextlib.suppress(termios.error):
        attributes = termios.tcgetattr(target)
        # The terminal itself adds the carriage returns.
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(end, termios.TCSANOW, attributes)
    _copy_size(target, source, b"")
    return source, end


def _copy_size(target: int, source: int, before: bytes) -> bytes:
    """Give a pseudo-terminal the size of a terminal, and return the size."""
    size = before
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(target, termios.TIOCGWINSZ, bytes(8))
        if size != before:
            fcntl.ioctl(source, termios.TIOCSWINSZ, size)
    return size


def _copy_of(number: int) -> int:
    """Return a copy of a descriptor, -1 if it is closed."""
    try:
        # Not one of the standard streams' numbers, which may be free.
        return number if number < 0 else fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return _NOWHERE


def _number_of(stream: Any) -> int:  # noqa: ANN401 - any file-like object
    try:
        return int(stream.fileno())
    # Foreign code.
    except Exception:  # noqa: BLE001
        return _NOWHERE


def _flush() -> None:
    """Write what Python and C hold back."""
    for stream in (sys.stdout, sys.stderr):
        # Foreign code, and a full disk.
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(Exception):
        import ctypes  # noqa: PLC0415 - only where output is kept

        ctypes.CDLL(None).fflush(None)


# -- the relay's process -----------------------------------------------------------------------


class _Tail:
    """The last bytes of all streams."""

    def __init__(self, most: int) -> None:
        self.seen = 0
        self._most = most
        self._bytes = bytearray()
        self._guard = threading.Lock()

    def add(self, chunk: bytes) -> None:
        """Add bytes; drop old ones, seldom and many at a time."""
        with self._guard:
            self.seen += len(chunk)
            self._bytes += chunk
            if len(self._bytes) > 2 * self._most:
                del self._bytes[: -self._most or None]

    def content(self) -> tuple[bytes, int]:
        """Return the last bytes, from the start of a line on, and how many there were in all."""
        with self._guard:
            kept = bytes(self._bytes[-self._most :]) if self._most else b""
            if len(kept) < self.seen:
                kept = kept[kept.find(b"\n") + 1 :]
            return kept, self.seen


class _Stream(threading.Thread):
    """Copies one source to its target."""

    def __init__(self, source: int, target: int, tail: _Tail) -> None:
        super().__init__()
        self._source = source
        self._target = target
        self._tail = tail
        self._guard = threading.Lock()
        self._is_busy = False
        self._is_over = False
        self._size = b""
        self._size_at = 0.0

    def run(self) -> None:
        """Copy until nobody can write, or nobody reads any more."""
        while True:
            _is_ready(self._source)
            with self._guard:
                try:
                    chunk = os.read(self._source, _CHUNK_BYTES)
                # Nobody has the pseudo-terminal any more.
                except OSError:
                    chunk = b""
                self._is_busy = bool(chunk)
            self._tail.add(chunk)
            if not chunk or not self._pass_on(chunk):
                break
            self._is_busy = False
        with self._guard:
            self._is_over = True
            # If the reader is gone, whoever writes is told so, as without a relay.
            os.close(self._source)

    def has_passed(self) -> bool:
        """Return whether all that was written until now has passed."""
        with self._guard:
            return self._is_over or not (self._is_busy or _is_ready(self._source, 0))

    def resize(self) -> None:
        """Give the pseudo-terminal the size of its terminal."""
        with self._guard:
            if not self._is_over and _is_terminal(self._target):
                self._size = _copy_size(self._target, self._source, self._size)

    def _pass_on(self, chunk: bytes) -> bool:
        """Write a chunk, and return whether somebody reads."""
        if time.monotonic() - self._size_at > _SIZE_EVERY_S:
            self._size_at = time.monotonic()
            self.resize()
        left = memoryview(chunk)
        while left and self._target >= 0:
            try:
                left = left[os.write(self._target, left) :]
            except BlockingIOError:  # noqa: PERF203 - each chunk is large
                _is_ready(self._target, event=select.POLLOUT)
            except BrokenPipeError:
                return False
            # A full disk, a terminal that is gone: the output is kept all the same.
            except OSError:
                return True
        return True


def _relay(told: str) -> None:
    """Be a relay, until nobody can print and nobody asks."""
    streams, asked, answers, signals, most = json.loads(told)
    threading.Thread(target=_report, args=(signals,), daemon=True).start()
    tail = _Tail(most)
    threads = [_Stream(source, target, tail) for source, target in streams]
    for thread in threads:
        thread.start()
    while request := os.read(asked, _REQUEST.size):
        wait_s, wanted = _REQUEST.unpack(request)
        for thread in threads:
            thread.resize()
        is_all = _within(wait_s, lambda: all(thread.has_passed() for thread in threads))
        kept, seen = tail.content()
        content = kept if wanted else b""
        left = memoryview(_ANSWER.pack(is_all, seen, len(content)) + content)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(answers, left) :]


def _report(signals: int) -> None:
    """Say which signals came, as long as somebody listens."""
    with contextlib.suppress(OSError):
        while True:
            number = signal.sigwait(SIGNALS)
            os.write(signals, _SIGNAL.pack(time.monotonic(), number))


def _within(wait_s: float, is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + wait_s
    while not (found := is_so()) and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return found


if __name__ == "__main__":
    _relay(sys.argv[1])
