"""A file system that misbehaves as shared ones do, in memory and behind the kernel's FUSE device.

One *server* holds the files. Each mount is a *client* of it, with a view of its own: names that
other clients made or removed appear after some looks at the folder only (``stale_looks``), and the
kernel caches attributes for as long as it is told (``cached_s``). A file that a client still names,
and that is gone on the server, is a stale handle. There are no locks and no mapped memory. A crash
of the server loses every byte that was not synced, and every name whose folder was not.

The server is a process of its own, which speaks the kernel's protocol (fuse(4)); no library is
needed, but the right to mount. ``SharedDisk`` steers it while others use the mounts. It counts
operations as a file server sees them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import socket
import stat
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.faults import faulty_disk

_HEADER, _REPLY = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_ENTRY, _VALID = struct.Struct("<4Q2I"), struct.Struct("<QII")
_INIT = struct.Struct("<4I2H2I2H8I")
_SETTING = struct.Struct("<2I6Q8I")
_DATA = struct.Struct("<2Q2IQ2I")
_BYTES = 1 << 20
_OPERATIONS = {
    1: "lookup", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 9: "mkdir", 10: "unlink",
    11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write", 17: "statfs",
    18: "release", 20: "fsync", 25: "flush", 26: "init", 27: "opendir", 28: "readdir",
    29: "releasedir", 30: "fsyncdir", 31: "getlk", 32: "setlk", 33: "setlkw", 35: "create",
}  # fmt: skip
_UNANSWERED = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_DIRECT_IO = 1
_FLAGS = (1 << 1) | (1 << 5) | (1 << 10) | (1 << 18)  # POSIX_LOCKS, BIG_WRITES, FLOCK, PARALLEL


@dataclass(frozen=True)
class Fault:
    """Let operations fail.

    Attributes:
        operation: A value of ``_OPERATIONS``.
        number: With this errno.
        after: How many succeed first.
        count: How many fail then.
        is_done: Whether the server does them all the same, and only the answer is lost.
    """

    operation: str
    number: int
    after: int = 0
    count: int = 1
    is_done: bool = False


@dataclass
class _Node:
    mode: int
    data: bytearray = field(default_factory=bytearray)
    synced: int = 0
    children: dict[bytes, int] = field(default_factory=dict)
    synced_children: dict[bytes, int] = field(default_factory=dict)
    links: int = 1
    mtime_ns: int = 0


class _RefusedError(OSError):
    """The operation's answer is an error."""


@dataclass
class _Client:
    """One mount: what it has seen of each folder, and how often it has looked since."""

    descriptor: int
    views: dict[int, tuple[dict[bytes, int], int]] = field(default_factory=dict)


class _Server:
    def __init__(self) -> None:
        self.nodes = {1: _Node(stat.S_IFDIR | 0o755)}
        self.next = 2
        self.faults: list[list[Any]] = []
        self.counts: Counter[str] = Counter()
        self.stale_looks = 0
        self.cached_s = 0
        self.room: int | None = None
        self.full = errno.ENOSPC

    # -- what the operations do -------------------------------------------------------------------

    def answer(self, client: _Client, opcode: int, at: int, body: bytes) -> bytes:
        """Do an operation; return its answer.

        Raises:
            _RefusedError: It fails.
        """
        name = _OPERATIONS.get(opcode)
        if name is None or name in {"getlk", "setlk", "setlkw"}:
            if name is not None:
                self.counts[name] += 1
            raise _RefusedError(errno.ENOSYS if name is None else errno.ENOLCK, "not here")
        self.counts[name] += 1
        failing = self._failing(name)
        if failing is not None and not failing.is_done:
            raise _RefusedError(failing.number, name)
        result: bytes = getattr(self, f"_{name}")(client, at, body)
        if failing is not None:
            raise _RefusedError(failing.number, name)
        return result

    def _failing(self, name: str) -> Fault | None:
        for each in self.faults:
            fault, seen = each
            if fault.operation == name:
                each[1] += 1
                if fault.after <= seen < fault.after + fault.count:
                    return fault
        return None

    def crash(self) -> None:
        """Lose what was not synced."""
        for node in self.nodes.values():
            if stat.S_ISDIR(node.mode):
                node.children = dict(node.synced_children)
            else:
                del node.data[node.synced :]
        named = Counter(child for node in self.nodes.values() for child in node.children.values())
        for number, node in self.nodes.items():
            node.links = named[number] if number > 1 else 1

    def _node(self, at: int) -> _Node:
        if at not in self.nodes or not self.nodes[at].links:
            raise _RefusedError(errno.ESTALE, "the file is gone")
        return self.nodes[at]

    def _view(self, client: _Client, at: int) -> dict[bytes, int]:
        """Return a folder's names as a client sees them."""
        children = self._node(at).children
        seen, looks = client.views.get(at, (children, 0))
        if looks >= self.stale_looks:
            seen, looks = children, 0
        client.views[at] = (dict(seen), looks + 1)
        return client.views[at][0]

    def _named(self, client: _Client, at: int, name: bytes, child: int | None) -> None:
        """Give a name to a file, or take it away: the client that does it sees that."""
        for names in (self._node(at).children, client.views.get(at, ({}, 0))[0]):
            if child is None:
                names.pop(name, None)
            else:
                names[name] = child

    def _attributes(self, at: int) -> bytes:
        node = self._node(at)
        seconds, nanoseconds = divmod(node.mtime_ns, 10**9)
        size = len(node.data)
        blocks = -(-size // 512)
        times = (seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds)
        return _ATTRIBUTES.pack(
            at, size, blocks, *times[:3], *times[3:], node.mode, node.links, 0, 0, 0, 4096, 0
        )

    def _entry(self, at: int) -> bytes:
        cached = (self.cached_s, self.cached_s, 0, 0)
        return _ENTRY.pack(at, 0, *cached) + self._attributes(at)

    def _made(self, client: _Client, at: int, name: bytes, mode: int) -> int:
        if name in self._node(at).children:
            raise _RefusedError(errno.EEXIST, "is there")
        number, self.next = self.next, self.next + 1
        self.nodes[number] = _Node(mode, mtime_ns=time.time_ns())
        self._named(client, at, name, number)
        return number

    def _init(self, client: _Client, at: int, body: bytes) -> bytes:
        return _INIT.pack(7, 31, 65536, _FLAGS, 12, 9, _BYTES >> 1, 1, 0, 0, *[0] * 8)

    def _lookup(self, client: _Client, at: int, body: bytes) -> bytes:
        child = self._view(client, at).get(body.rstrip(b"\0"))
        if child is None:
            raise _RefusedError(errno.ENOENT, "is not there")
        return self._entry(child)

    def _getattr(self, client: _Client, at: int, body: bytes) -> bytes:
        return _VALID.pack(self.cached_s, 0, 0) + self._attributes(at)

    def _setattr(self, client: _Client, at: int, body: bytes) -> bytes:
        valid, _, _, size, *_, mode, _, _, _, _ = _SETTING.unpack_from(body)
        node = self._node(at)
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
        if valid & 8:
            node.data = node.data[:size].ljust(size, b"\0")
        return self._getattr(client, at, body)

    def _mkdir(self, client: _Client, at: int, body: bytes) -> bytes:
        mode, _ = struct.unpack_from("<2I", body)
        return self._entry(self._made(client, at, body[8:-1], stat.S_IFDIR | mode & 0o7777))

    def _symlink(self, client: _Client, at: int, body: bytes) -> bytes:
        name, target, _ = body.split(b"\0")
        child = self._made(client, at, name, stat.S_IFLNK | 0o777)
        self.nodes[child].data[:] = target
        return self._entry(child)

    def _readlink(self, client: _Client, at: int, body: bytes) -> bytes:
        return bytes(self._node(at).data)

    def _unlink(self, client: _Client, at: int, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        child = self._node(at).children.get(name)
        if child is None:
            raise _RefusedError(errno.ENOENT, "is not there")
        self._named(client, at, name, None)
        self._dropped(child)
        return b""

    def _dropped(self, child: int) -> None:
        self.nodes[child].links -= 1

    _rmdir = _unlink

    def _rename(self, client: _Client, at: int, body: bytes) -> bytes:
        (to,) = struct.unpack_from("<Q", body)
        old, new, _ = body[8:].split(b"\0")
        child = self._node(at).children.get(old)
        if child is None:
            raise _RefusedError(errno.ENOENT, "is not there")
        before = self._node(to).children.get(new)
        if before is not None and before != child:
            self._dropped(before)
        self._named(client, at, old, None)
        self._named(client, to, new, child)
        return b""

    def _link(self, client: _Client, at: int, body: bytes) -> bytes:
        (child,) = struct.unpack_from("<Q", body)
        name = body[8:].rstrip(b"\0")
        if name in self._node(at).children:
            raise _RefusedError(errno.EEXIST, "is there")
        self._node(child).links += 1
        self._named(client, at, name, child)
        return self._entry(child)

    def _open(self, client: _Client, at: int, body: bytes) -> bytes:
        self._node(at)
        return struct.pack("<QII", at, _DIRECT_IO, 0)

    def _create(self, client: _Client, at: int, body: bytes) -> bytes:
        _, mode, _, _ = struct.unpack_from("<4I", body)
        child = self._made(client, at, body[16:].rstrip(b"\0"), stat.S_IFREG | mode & 0o7777)
        return self._entry(child) + self._open(client, child, b"")

    def _read(self, client: _Client, at: int, body: bytes) -> bytes:
        _, offset, size, *_ = _DATA.unpack_from(body)
        return bytes(self._node(at).data[offset : offset + size])

    def _write(self, client: _Client, at: int, body: bytes) -> bytes:
        _, offset, size, *_ = _DATA.unpack_from(body)
        node = self._node(at)
        if self.room is not None and self._used() + size > self.room:
            raise _RefusedError(self.full, "is full")
        node.data[offset : offset + size] = body[_DATA.size : _DATA.size + size]
        node.mtime_ns = time.time_ns()
        return struct.pack("<2I", size, 0)

    def _used(self) -> int:
        return sum(len(node.data) for node in self.nodes.values() if node.links)

    def _statfs(self, client: _Client, at: int, body: bytes) -> bytes:
        return struct.pack("<5Q4I6I", *[1 << 20] * 5, 4096, 255, 4096, 0, *[0] * 6)

    def _fsync(self, client: _Client, at: int, body: bytes) -> bytes:
        node = self._node(at)
        node.synced = len(node.data)
        return b""

    def _flush(self, client: _Client, at: int, body: bytes) -> bytes:
        return b""

    _release = _releasedir = _flush
    _opendir = _open

    def _fsyncdir(self, client: _Client, at: int, body: bytes) -> bytes:
        node = self._node(at)
        node.synced_children = dict(node.children)
        return b""

    def _readdir(self, client: _Client, at: int, body: bytes) -> bytes:
        _, offset, size, *_ = _DATA.unpack_from(body)
        # A listing is one look, in however many answers it comes.
        view = self._view(client, at) if not offset else client.views[at][0]
        found = b""
        for place, (name, child) in enumerate(list(view.items())[offset:], offset + 1):
            kind = stat.S_IFMT(self.nodes[child].mode) >> 12
            each = struct.pack("<2Q2I", child, place, len(name), kind) + name
            each += b"\0" * (-len(each) % 8)
            if len(found) + len(each) > size:
                break
            found += each
        return found

    # -- the kernel's protocol --------------------------------------------------------------------

    def serve(self, clients: list[_Client], control: socket.socket) -> None:
        """Answer the kernel and the test, until the test's end closes its side."""
        is_paused = False
        while True:
            waited = [control.fileno(), *([] if is_paused else [c.descriptor for c in clients])]
            ready = select.select(waited, [], [])[0]
            if control.fileno() in ready:
                command = _received(control)
                if command is None:
                    return
                is_paused = command.pop("is_paused", is_paused)
                if command.pop("crash", False):
                    self.crash()
                if "faults" in command:
                    command["faults"] = [[fault, 0] for fault in command["faults"]]
                for name, value in command.items():
                    setattr(self, name, value)
                _send(control, dict(self.counts))
            for client in clients:
                if client.descriptor in ready:
                    self._serve(client)

    def _serve(self, client: _Client) -> None:
        try:
            data = os.read(client.descriptor, _BYTES + 4096)
        except OSError as error:
            # ENOENT: the one who asked was interrupted. ENODEV: it is unmounted.
            if error.errno in {errno.ENOENT, errno.EAGAIN, errno.EINTR}:
                return
            os._exit(0)
        _, opcode, unique, at, *_ = _HEADER.unpack_from(data)
        if opcode in _UNANSWERED:
            return
        number, answer = 0, b""
        try:
            answer = self.answer(client, opcode, at, data[_HEADER.size :])
        except _RefusedError as refused:
            number = refused.errno or errno.EIO
        reply = _REPLY.pack(_REPLY.size + len(answer), -number, unique) + answer
        with contextlib.suppress(FileNotFoundError):
            os.write(client.descriptor, reply)


def _send(to: socket.socket, what: Any) -> None:
    data = pickle.dumps(what)
    to.sendall(struct.pack("<I", len(data)) + data)


def _received(control: socket.socket) -> Any:
    head = control.recv(4, socket.MSG_WAITALL)
    if not head:
        return None
    return pickle.loads(control.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL))


class SharedDisk:
    """A server, and its mounts in this process's own namespace. Use it in ``faulty_disk.in_child``.

    Args:
        folders: Where each client's mount is.

    Raises:
        faulty_disk.UnableError: This machine has no FUSE, or permits no mount.
    """

    def __init__(self, *folders: os.PathLike[str]) -> None:
        faulty_disk.own_mounts()
        clients = []
        for folder in folders:
            os.makedirs(folder)
            try:
                descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise faulty_disk.UnableError(f"no FUSE here: {error}") from error
            options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0"
            faulty_disk.mount("shared", folder, "fuse", 0, options)
            clients.append(_Client(descriptor))
        self._control, theirs = socket.socketpair()
        self._server = os.fork()
        if self._server == 0:
            self._control.close()
            with contextlib.suppress(BaseException):
                _Server().serve(clients, theirs)
            os._exit(1)
        theirs.close()
        for client in clients:
            os.close(client.descriptor)

    def set(self, **settings: Any) -> Counter[str]:
        """Steer the server: its attributes, ``is_paused`` and ``crash``; return its counts."""
        _send(self._control, settings)
        return Counter(_received(self._control))

    def close(self) -> None:
        """End the server. What still uses a mount gets an error."""
        self._control.close()
        os.waitpid(self._server, 0)
