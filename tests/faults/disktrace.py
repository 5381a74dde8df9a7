"""Everything that a program does to the files below a folder, recorded from the kernel's side.

A seccomp filter sends the system calls that change files to the recording process, which looks at them while the program
waits, and lets them go on (seccomp_unotify(2)). No strace, no compiler, no root. What a call writes is read from the
program's memory. Calls that would move bytes without our seeing them (reflink, copy_file_range, sendfile) are answered
with an error, so that the program falls back to writing.

    events = record([sys.executable, "program.py"], folder=tmp_path / "disk", acknowledgements=tmp_path / "acks")
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import subprocess
import sys
from typing import NamedTuple

_MACHINES = {
    "x86_64": (
        0xC000003E,
        317,
        {
            1: "write", 18: "pwrite", 20: "writev", 2: "open", 257: "openat", 85: "creat", 77: "ftruncate", 76: "truncate",
            82: "rename", 264: "renameat", 316: "renameat2", 87: "unlink", 263: "unlinkat", 84: "rmdir", 83: "mkdir", 258: "mkdirat",
            74: "fsync", 75: "fdatasync", 86: "link", 265: "linkat",
            16: "ioctl", 326: "refused", 40: "refused", 285: "refused", 296: "refused", 328: "refused",
        },
    ),
    "aarch64": (
        0xC00000B7,
        277,
        {
            64: "write", 68: "pwrite", 66: "writev", 56: "openat", 46: "ftruncate", 45: "truncate", 38: "renameat", 276: "renameat2",
            35: "unlinkat", 34: "mkdirat", 82: "fsync", 83: "fdatasync", 37: "linkat",
            29: "ioctl", 285: "refused", 71: "refused", 47: "refused", 70: "refused", 287: "refused",
        },
    ),
}  # fmt: skip
_FICLONE = 0x40049409
_AT_FDCWD = -100
_CONTINUE = 1
_RECEIVE, _SEND = 0xC0502100, 0xC0182101


class Event(NamedTuple):
    """One effect on the files. Paths are absolute; ``to`` is the new name of a rename."""

    kind: str  # write, truncate, create, mkdir, rename, unlink, rmdir, fsync, ack
    path: str
    offset: int = 0
    data: bytes = b""
    to: str = ""


def supported() -> str | None:
    """Why nothing can be recorded here, or None."""
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        return "recording file-system calls needs Linux on x86_64 or aarch64"
    child = subprocess.run([sys.executable, __file__, "--probe"], capture_output=True, text=True, check=False)
    return None if child.returncode == 0 else f"the kernel gives no seccomp listener here: {child.stderr.strip()[-200:]}"


def record(command, *, folder, acknowledgements, env=None, timeout_s=120):
    """Run a Python program under the recorder.

    Args:
        command: Arguments for the interpreter: a file and its arguments.
        folder: What happens below it is recorded.
        acknowledgements: A file outside; each write to it is an ``ack`` event with what was written.
        env: Of the program.
        timeout_s: Bound on its time.

    Returns:
        The events in order, and the program's exit code.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, str(theirs.fileno()), *map(str, command)]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env) as program:
        theirs.close()
        ours.settimeout(timeout_s)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        listener = descriptors[0]
        ours.close()
        try:
            events = _Recorder(listener, os.path.realpath(folder), os.path.realpath(acknowledgements)).run(timeout_s)
        finally:
            os.close(listener)
        code = program.wait(timeout_s)
    return events, code


class _Recorder:
    def __init__(self, listener, folder, acknowledgements):
        self.listener, self.folder, self.acknowledgements = listener, folder, acknowledgements
        self.names = _MACHINES[platform.machine()][2]
        self.events = []

    def run(self, timeout_s):
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
            answer = struct.pack("=QqiI", identity, 0, -failure, 0 if failure else _CONTINUE)
            with contextlib.suppress(FileNotFoundError):  # it was killed meanwhile
                fcntl.ioctl(self.listener, _SEND, bytearray(answer))

    def seen(self, pid, name, a):
        """Note one call; the error that it is to get instead of being made, or 0."""
        if name == "refused":
            return errno.ENOSYS
        if name == "ioctl":
            return errno.EOPNOTSUPP if a[1] & 0xFFFFFFFF == _FICLONE else 0
        if name in {"write", "pwrite", "writev", "ftruncate", "fsync", "fdatasync"}:
            self.seen_descriptor(pid, name, a)
        else:
            self.seen_path(pid, name, a)
        return 0

    def seen_descriptor(self, pid, name, a):
        descriptor = ctypes.c_int(a[0] & 0xFFFFFFFF).value
        try:
            path = os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(" (deleted)")
        except OSError:
            return
        if path == self.acknowledgements and name == "write":
            self.events.append(Event("ack", path, data=memory(pid, a[1], a[2])))
        if not self.below(path):
            return
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
            self.events.append(Event("write", path, os.path.getsize(path) if append else int(fields["pos"]), data))

    def seen_path(self, pid, name, a):
        at = name.endswith(("at", "at2"))
        first = self.path(pid, a[0] if at else _AT_FDCWD, a[1] if at else a[0])
        if name in {"open", "openat", "creat"}:
            flags = os.O_CREAT | os.O_TRUNC if name == "creat" else a[2 if at else 1]
            if self.below(first) and flags & os.O_CREAT and not os.path.lexists(first):
                self.events.append(Event("create", first))
            elif self.below(first) and flags & os.O_TRUNC:
                self.events.append(Event("truncate", first, 0))
        elif name == "truncate" and self.below(first):
            self.events.append(Event("truncate", first, a[1]))
        elif name in {"mkdir", "mkdirat"} and self.below(first) and not os.path.lexists(first):
            self.events.append(Event("mkdir", first))
        elif name in {"unlink", "unlinkat", "rmdir"} and self.below(first) and os.path.lexists(first):
            self.events.append(Event("rmdir" if name == "rmdir" or (at and a[2] & 0x200) else "unlink", first))
        elif name in {"rename", "renameat", "renameat2", "link", "linkat"}:
            second = self.path(pid, a[2] if at else _AT_FDCWD, a[3] if at else a[1])
            if self.below(first) or self.below(second):
                self.events.append(Event("link" if "link" in name else "rename", first, to=second))

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
    return b"".join(memory(pid, start, size) for start, size in zip(pairs[::2], pairs[1::2], strict=True))


def string(pid, address):
    """A text that ends with a zero."""
    content = b""
    while b"\0" not in content:
        content += memory(pid, address + len(content), 256 - (address + len(content)) % 256)
    return content.split(b"\0", 1)[0]


# -- in the recorded process -------------------------------------------------------------------------------------


def listen():
    """Install the filter in this thread and all that come of it; the listener's descriptor."""
    audit, seccomp, names = _MACHINES[platform.machine()]
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
        ctypes.c_long(seccomp), ctypes.c_ulong(1), ctypes.c_ulong(8), ctypes.byref(Program(len(program), ctypes.addressof(buffer)))
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)")
    return listener


def main():
    """Install the filter, hand the listener over, run the program in its place."""
    if sys.argv[1] == "--probe":
        listen()
        os._exit(0)  # no further call: nobody answers
    import runpy

    channel = socket.socket(fileno=int(sys.argv[1]))
    listener = listen()
    # socket.send_fds writes nothing that is filtered: sendmsg(2).
    channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)
    channel.close()
    sys.argv = sys.argv[2:]
    sys.path.insert(0, os.getcwd())
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
