"""Everything that a program does to the files below a folder, recorded from the kernel's side.

A seccomp filter sends the system calls that change files to the recording process, which looks at
them while the program waits, and lets them go on (seccomp_unotify(2)). No strace, no compiler, no
root. What a call writes is read from the program's memory. Calls that would move bytes without our
seeing them (reflink, copy_file_range, sendfile) are answered with an error, so that the program
falls back to writing.

    events = record([sys.executable, "program.py"], folder=tmp_path / "disk",
    acknowledgements=tmp_path / "acks")

The program may ask for errors, by writing a line to the acknowledgements: ``fault ENOSPC
write,truncate *-wal``, ``fault none``. With a number behind it (``fault EIO write *-wal 20``) one
such call in so many fails, by a seeded choice.
"""

from __future__ import annotations

import array
import ast
import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import functools
import json
import os
import pathlib
import platform
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import weakref
from typing import NamedTuple

_MACHINES = {
    "x86_64": (
        0xC000003E,
        317,
        {
            1: "write", 18: "pwrite", 20: "writev", 2: "open", 257: "openat", 85: "creat", 77: "ftruncate", 76: "truncate",
            82: "rename", 264: "renameat", 316: "renameat2", 87: "unlink", 263: "unlinkat", 84: "rmdir", 83: "mkdir", 258: "mkdirat",
            74: "fsync", 75: "fdatasync", 86: "link", 265: "linkat",
            17: "pread", 0: "read", 16: "ioctl", 326: "refused", 40: "refused", 285: "refused", 296: "refused", 328: "refused",
        },
    ),
    "aarch64": (
        0xC00000B7,
        277,
        {
            64: "write", 68: "pwrite", 66: "writev", 56: "openat", 46: "ftruncate", 45: "truncate", 38: "renameat", 276: "renameat2",
            35: "unlinkat", 34: "mkdirat", 82: "fsync", 83: "fdatasync", 37: "linkat",
            67: "pread", 63: "read", 29: "ioctl", 285: "refused", 71: "refused", 47: "refused", 70: "refused", 287: "refused",
        },
    ),
}  # fmt: skip
_FICLONE = 0x40049409
_AT_FDCWD = -100
_KINDS = {
    "write": "write", "pwrite": "write", "writev": "write", "ftruncate": "truncate", "fsync": "sync", "fdatasync": "sync",
    "pread": "read", "read": "read",
}  # fmt: skip
_CONTINUE = 1
_RECEIVE, _SEND = 0xC0502100, 0xC0182101


class Event(NamedTuple):
    """One effect on the files. Paths are absolute; ``to`` is the new name of a rename."""

    kind: str  # write, truncate, create, mkdir, rename, unlink, rmdir, fsync, ack
    path: str
    offset: int = 0
    data: bytes = b""
    to: str = ""


class Recording(NamedTuple):
    """What ``record`` gives."""

    events: list[Event]
    code: int
    failed: int


class Killing:
    """Kills one program again and again, each time when it is about to make another change of a
    file.

    Neither the clock nor the machine's speed decides when: a kill at the n-th change comes there on
    every machine. Each run is a process of its own, forked by a `Nursery`.

    Args:
        code: The program, as text.
        place: A folder of its own, for the program's file.
    """

    def __init__(self, code, place):
        self.program = place / "program.py"
        self.program.write_text(code, encoding="utf-8")
        self.env = os.environ | {"PYTHONPATH": os.fspath(pathlib.Path(__file__).parents[2])}
        self.env["TMPDIR"] = os.fspath(place)  # a kill may leave something there
        self.nursery = Nursery(self.program, self.env)

    def changes(self, folder, *arguments):
        """How many changes the program makes below a folder, left alone."""
        done = self._run(folder, arguments, None)
        assert done.code == 0
        return len(done.events)

    def killed(self, folder, *arguments, at):
        """Whether it was killed at its so many'th change; if not, it made fewer, and ended well."""
        code = self.code(folder, *arguments, at=at)
        assert code in {0, -signal.SIGKILL}
        return code != 0

    def code(self, folder, *arguments, at, number=signal.SIGKILL):
        """Its exit code, when a signal comes at its so many'th change."""
        return self._run(folder, arguments, at, number).code

    def _run(self, folder, arguments, at, number=signal.SIGKILL):
        none = self.program.with_suffix(".none")
        return record(
            [self.program, *arguments],
            folder=folder,
            acknowledgements=none,
            kill_at=at,
            number=number,
            nursery=self.nursery,
        )


class Nursery:
    """A process that imported what a program imports, and forks a child for each run of it.

    Starting Python and importing takes ten times as long as most programs do. Nothing has run in
    the process but imports.
    """

    def __init__(self, program, env):
        self.control, theirs = socket.socketpair()
        command = [sys.executable, __file__, "--nursery", str(theirs.fileno()), str(program)]
        with theirs:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)
        weakref.finalize(self, self._end, self.control, process)

    def start(self, channel, arguments):
        """Fork a child that has the channel, and runs the program with these arguments."""
        socket.send_fds(self.control, [json.dumps(arguments).encode()], [channel.fileno()])

    def wait(self, timeout_s):
        """Return the exit code of the child."""
        self.control.settimeout(timeout_s)
        return int(self.control.recv(64))

    @staticmethod
    def _end(control, process):
        control.close()
        process.wait()


@functools.cache
def supported() -> str | None:
    """Why nothing can be recorded here, or None."""
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        return "recording file-system calls needs Linux on x86_64 or aarch64"
    child = subprocess.run(
        [sys.executable, __file__, "--probe"], capture_output=True, text=True, check=False
    )
    return (
        None
        if child.returncode == 0
        else f"the kernel gives no seccomp listener here: {child.stderr.strip()[-200:]}"
    )


def record(
    command,
    *,
    folder,
    acknowledgements,
    env=None,
    reads=False,
    timeout_s=1_200,
    kill_at=None,
    number=signal.SIGKILL,
    nursery=None,
):
    """Run a Python program under the recorder.

    Args:
        command: Arguments for the interpreter: a file and its arguments.
        folder: What happens below it is recorded.
        acknowledgements: A file outside; each write to it is an ``ack`` event with what was
            written.
        env: Of the program.
        reads: Whether reads can fail, too; slow.
        timeout_s: Bound on its time.
        kill_at: Send the program a signal when it is about to make its so many'th change below the
            folder; SIGKILL comes before it is made.
        number: The signal.
        nursery: What starts the program; None: a Python of its own.

    Returns:
        The events in order, the program's exit code, and how many calls were made to fail.
    """
    ours, theirs = socket.socketpair()
    arguments = ["reads" if reads else "-", *map(str, command)]
    with ours, theirs:
        if nursery is None:
            program = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                env=env,
            )
        else:
            program = nursery
            nursery.start(theirs, arguments)
        theirs.close()
        ours.settimeout(timeout_s)
        pid, descriptors, _, _ = socket.recv_fds(ours, 64, 1)
        listener = descriptors[0]
    try:
        recorder = _Recorder(listener, os.path.realpath(folder), os.path.realpath(acknowledgements))
        events = recorder.run(
            timeout_s, lambda: len(recorder.events) == kill_at and os.kill(int(pid), number)
        )
    finally:
        os.close(listener)
    code = program.wait(timeout_s)
    return Recording(events, code, recorder.failed)


class _Recorder:
    def __init__(self, listener, folder, acknowledgements):
        self.listener, self.folder, self.acknowledgements = listener, folder, acknowledgements
        self.names = _MACHINES[platform.machine()][2]
        self.events = []
        self.fault = None  # (error, kinds, pattern, one in how many)
        self.chance = random.Random(1)
        self.failed = 0

    def run(self, timeout_s, look):
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while True:
            ready = poll.poll(timeout_s * 1000)
            if not ready:
                raise TimeoutError("the recorded program makes no call")
            if not ready[0][1] & select.POLLIN:
                return self.events  # the last of its processes has ended
            request = bytearray(80)
            try:
                fcntl.ioctl(self.listener, _RECEIVE, request)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue  # it was killed meanwhile
                raise
            identity, pid, _, number, _, _, *arguments = struct.unpack("=QIIiIQ6Q", request)
            failure = self.seen(pid, self.names[number], arguments)
            look()
            answer = struct.pack("=QqiI", identity, 0, -failure, 0 if failure else _CONTINUE)
            with contextlib.suppress(FileNotFoundError):  # it was killed meanwhile
                fcntl.ioctl(self.listener, _SEND, bytearray(answer))

    def seen(self, pid, name, a):
        """Note one call; the error that it is to get instead of being made, or 0."""
        if name == "refused":
            return errno.ENOSYS
        if name == "ioctl":
            return errno.EOPNOTSUPP if a[1] & 0xFFFFFFFF == _FICLONE else 0
        if name in {
            "write",
            "pwrite",
            "writev",
            "ftruncate",
            "fsync",
            "fdatasync",
            "pread",
            "read",
        }:
            return self.seen_descriptor(pid, name, a)
        return self.seen_path(pid, name, a)

    def fails(self, kind, path):
        """The error that the program asked for, or 0."""
        if self.fault is None or not (path + "/").startswith(self.folder + "/"):
            return 0
        error, kinds, pattern, one_in = self.fault
        if kind in kinds and fnmatch.fnmatch(path, pattern) and self.chance.randrange(one_in) == 0:
            self.failed += 1
            return error
        return 0

    def ask(self, line):
        """What the program wants to fail from now on."""
        if line.startswith("fault none"):
            self.fault = None
        elif line.startswith("fault "):
            _, error, kinds, pattern, *one_in = line.split()
            self.fault = getattr(errno, error), set(kinds.split(",")), pattern, int(*one_in or (1,))

    def seen_descriptor(self, pid, name, a):
        descriptor = ctypes.c_int(a[0] & 0xFFFFFFFF).value
        try:
            path = os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(" (deleted)")
        except OSError:
            return 0
        if path == self.acknowledgements and name == "write":
            self.events.append(Event("ack", path, data=memory(pid, a[1], a[2])))
            self.ask(self.events[-1].data.decode())
        failure = self.fails(_KINDS[name], path)
        if failure or name in {"pread", "read"} or not self.below(path):
            return failure
        if name in {"fsync", "fdatasync"}:
            self.events.append(Event("fsync", path))
        elif name == "ftruncate":
            self.events.append(Event("truncate", path, a[1]))
        elif name == "pwrite":
            self.events.append(Event("write", path, a[3], memory(pid, a[1], a[2])))
        else:
            data = memory(pid, a[1], a[2]) if name == "write" else vectors(pid, a[1], a[2])
            with open(f"/proc/{pid}/fdinfo/{descriptor}") as info:
                fields = dict(line.split(":", 1) for line in info)
            append = int(fields["flags"], 8) & os.O_APPEND
            self.events.append(
                Event("write", path, os.path.getsize(path) if append else int(fields["pos"]), data)
            )
        return 0

    def seen_path(self, pid, name, a):
        at = name.endswith(("at", "at2"))
        first = self.path(pid, a[0] if at else _AT_FDCWD, a[1] if at else a[0])
        if name in {"open", "openat", "creat"}:
            return self.seen_open(
                first, os.O_CREAT | os.O_TRUNC if name == "creat" else a[2 if at else 1]
            )
        failure = self.fails("name", first)
        if failure:
            return failure
        if name == "truncate" and self.below(first):
            self.events.append(Event("truncate", first, a[1]))
        elif name in {"mkdir", "mkdirat"} and self.below(first) and not os.path.lexists(first):
            self.events.append(Event("mkdir", first))
        elif (
            name in {"unlink", "unlinkat", "rmdir"} and self.below(first) and os.path.lexists(first)
        ):
            is_folder = name == "rmdir" or (at and a[2] & 0x200)
            # the kernel refuses to remove a folder that is not empty
            if not (is_folder and os.listdir(first)):
                self.events.append(Event("rmdir" if is_folder else "unlink", first))
        elif name in {"rename", "renameat", "renameat2", "link", "linkat"}:
            second = self.path(pid, a[2] if at else _AT_FDCWD, a[3] if at else a[1])
            if self.below(first) or self.below(second):
                self.events.append(Event("link" if "link" in name else "rename", first, to=second))
        return 0

    def seen_open(self, path, flags):
        new = flags & os.O_CREAT and not os.path.lexists(path)
        failure = self.fails("create" if new else "open" if flags & 3 else "look", path)
        if not failure and self.below(path):
            if new:
                self.events.append(Event("create", path))
            elif flags & os.O_TRUNC:
                self.events.append(Event("truncate", path, 0))
        return failure

    def path(self, pid, directory, address):
        text = os.fsdecode(string(pid, address))
        directory = ctypes.c_int(directory & 0xFFFFFFFF).value
        base = f"/proc/{pid}/cwd" if directory == _AT_FDCWD else f"/proc/{pid}/fd/{directory}"
        joined = os.path.join(os.readlink(base), text)
        parent, name = os.path.split(os.path.normpath(joined))
        return os.path.join(os.path.realpath(parent), name)

    def below(self, path):
        return (path + "/").startswith(self.folder + "/") and not path.endswith("-shm")


def memory(pid, address, size):
    """Bytes of another process."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(address)
        content = b""
        while len(content) < size:
            part = file.read(size - len(content))
            if not part:
                raise OSError(errno.EFAULT, "the memory of the recorded program can't be read")
            content += part
        return content


def vectors(pid, address, count):
    """What an array of iovec names."""
    pairs = struct.unpack(f"={2 * count}Q", memory(pid, address, 16 * count))
    return b"".join(
        memory(pid, start, size) for start, size in zip(pairs[::2], pairs[1::2], strict=True)
    )


def string(pid, address):
    """A text that ends with a zero."""
    content = b""
    while b"\0" not in content:
        content += memory(pid, address + len(content), 256 - (address + len(content)) % 256)
    return content.split(b"\0", 1)[0]


# -- in the recorded process
# -------------------------------------------------------------------------------------


def listen(*, reads=False):
    """Install the filter in this thread and all that come of it; the listener's descriptor."""
    audit, seccomp, names = _MACHINES[platform.machine()]
    names = [number for number, name in names.items() if reads or name not in {"read", "pread"}]
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, 0x7FFF0000), (0x20, 0, 0, 0)]
    for number in names:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x7FC00000)]
    program.append((0x06, 0, 0, 0x7FFF0000))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    listener = libc.syscall(
        ctypes.c_long(seccomp),
        ctypes.c_ulong(1),
        ctypes.c_ulong(8),
        ctypes.byref(Program(len(program), ctypes.addressof(buffer))),
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)")
    return listener


def nurse(control, program):
    """Import what the program does; return in each child, with its channel and arguments."""
    for node in ast.walk(ast.parse(pathlib.Path(program).read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), program, "exec"), {})
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not request:
            sys.exit()
        child = os.fork()
        if child == 0:
            control.close()
            return descriptors[0], json.loads(request)
        os.close(descriptors[0])
        control.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def main():
    """Install the filter, hand the listener over, run the program in its place."""
    if sys.argv[1] == "--probe":
        listen()
        os._exit(0)  # no further call: nobody answers
    if sys.argv[1] == "--nursery":
        sys.path.insert(0, os.getcwd())
        descriptor, arguments = nurse(socket.socket(fileno=int(sys.argv[2])), sys.argv[3])
    else:
        descriptor, arguments = int(sys.argv[1]), sys.argv[2:]
    import runpy

    channel = socket.socket(fileno=descriptor)
    listener = listen(reads=arguments[0] == "reads")
    # socket.send_fds writes nothing that is filtered: sendmsg(2).
    channel.sendmsg(
        [b"%d" % os.getpid()],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))],
    )
    os.close(listener)
    channel.close()
    sys.argv = arguments[1:]
    sys.path.insert(0, os.getcwd())
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
