"""Real faults of a disk, in a forked child: file systems of its own, system calls that fail, and a
plain reader that counts.

``in_child`` runs a scenario in a process of its own; what it mounts is seen by it alone.
``failing`` runs calls on a thread whose system calls the kernel lets fail (seccomp), while the
other threads' disk is well: a fault that begins and ends.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import os
import pickle
import platform
import signal
import socket
import sqlite3
import struct
import sys
import threading
import traceback
import warnings
from pathlib import Path

import pytest

from journaltrack import Tracker
from tests.copies import verify_chains
from tests.patience import FOREVER_S

LIFE_S = 1_200
NEWNS, NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class UnableError(Exception):
    """The machine does not permit this fault."""


# -- a process of its own
# -----------------------------------------------------------------------------------------------


def in_child(scenario, *args):
    """What the scenario returns, run in a forked child; its failure is this test's."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        signal.alarm(LIFE_S)
        os._exit(_told(scenario, args, theirs))
    theirs.close()
    with ours, ours.makefile("rb") as told:
        answer = told.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert answer, f"the child ended with {code} and told nothing"
    kind, value = pickle.loads(answer)
    if kind == "unable":
        pytest.skip(value)
    assert kind == "done", value
    return value


def assert_in_child(scenario, *args):
    """Run a scenario that asserts in a forked child: its failure is this test's."""
    assert in_child(scenario, *args) is None


def _told(scenario, args, to):
    try:
        answer = ("done", scenario(*args))
    except UnableError as error:
        answer = ("unable", str(error))
    except BaseException:  # noqa: BLE001 - told, and the process ends
        answer = ("failed", traceback.format_exc())
    sys.stdout.flush()
    to.sendall(pickle.dumps(answer))
    return 0


@contextlib.contextmanager
def warned():
    """A list of the warnings of the block, as text."""
    texts = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield texts
    texts += [str(w.message) for w in found if issubclass(w.category, RuntimeWarning)]


# -- file systems
# ------------------------------------------------------------------------------------------------


def _checked(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise UnableError(f"{what}: {os.strerror(number)}")


def own_mounts():
    """From now on this process sees mounts of its own."""
    uid, gid = os.getuid(), os.getgid()
    _checked(
        _libc.unshare(NEWNS if uid == 0 else NEWNS | NEWUSER),
        "no mount namespace is permitted here",
    )
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _checked(
        _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mounts can't be made private"
    )


def mount(source, target, kind=None, flags=0, data=None):
    """Mount a file system, or change a mount, as the system call of that name does."""
    arguments = [os.fsencode(v) if v is not None else None for v in (source, target, kind)]
    _checked(
        _libc.mount(*arguments, flags, os.fsencode(data) if data else None),
        f"{target} can't be mounted",
    )


def small_disk(folder, kilobytes=1024):
    """A file system of that size at the folder, seen by this process alone."""
    own_mounts()
    folder.mkdir(exist_ok=True)
    mount("tmpfs", folder, "tmpfs", 0, f"size={kilobytes}k")
    return folder


def remount(folder, *, writable):
    """Make a mount that is a bind mount of itself read-only, also while files are open for
    writing, or writable again.
    """
    mount(None, folder, None, MS_REMOUNT | MS_BIND | (0 if writable else MS_RDONLY))


class Ballast:
    """A file that takes all space that is left."""

    def __init__(self, folder, leave_bytes=0):
        self.path = folder / "ballast"
        self._fill(leave_bytes)

    def _fill(self, leave_bytes):
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        if leave_bytes:
            os.truncate(self.path, max(0, self.path.stat().st_size - leave_bytes))

    def drop(self):
        """Give the space back."""
        self.path.unlink()


# -- system calls that fail
# -------------------------------------------------------------------------------------------------

CALLS = {
    "x86_64": {
        "open": 257,
        "write": 1,
        "pread": 17,
        "pwrite": 18,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "fstatat": 262,
        "statx": 332,
    },
    "aarch64": {
        "open": 56,
        "write": 64,
        "pread": 67,
        "pwrite": 68,
        "fsync": 82,
        "fdatasync": 83,
        "ftruncate": 46,
        "fstatat": 79,
        "statx": 291,
    },
}.get(platform.machine())
NAMES = ("open", "fstatat", "statx")
WRITES, SYNCS, READS = ("pwrite", "ftruncate"), ("fsync", "fdatasync"), ("pread",)


def failing(work, calls, number=errno.EIO):
    """Run ``work`` on a thread of which every such system call fails; returns its result, raises
    what it raises.
    """
    if CALLS is None:
        raise UnableError(f"system calls of {platform.machine()} are not known to this test")
    results = []

    def run():
        try:
            _let_fail([CALLS[c] for c in calls], number)
            results.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            results.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = results[0]
    if error is not None:
        raise error
    return result


def _let_fail(numbers, number):
    """seccomp(2): this thread's calls of these numbers fail from now on."""
    code = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the call's number
    for at, n in enumerate(numbers):
        # equal: to the last instruction
        code.append(struct.pack("HBBI", 0x15, len(numbers) - at, 0, n))
    code.append(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))  # allow
    code.append(struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | number))  # fail with this errno
    _filter(code)


def _filter(code):
    program = ctypes.create_string_buffer(b"".join(code))
    header = struct.pack("HL", len(code), ctypes.addressof(program))
    _checked(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    _checked(
        _libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0),
        "no seccomp filter is permitted here",
    )


_MMAP, _FCNTL = {"x86_64": (9, 72), "aarch64": (222, 25)}.get(platform.machine(), (0, 0))
# Of a call the argument that tells, the bits of it that count, and their values that are refused.
LACKING = {
    "shared memory": (_MMAP, 3, 0xF, (1,)),
    "locks": (_FCNTL, 1, 0xFFFF, (5, 6, 7, 36, 37, 38)),
}


def without(what, work, number):
    """Run ``work`` on a thread for which no file can be shared as memory, or locked; returns its
    result.
    """
    if not _MMAP:
        raise UnableError(f"system calls of {platform.machine()} are not known to this test")
    with concurrent.futures.ThreadPoolExecutor(
        1, initializer=_refuse, initargs=(*LACKING[what], number)
    ) as pool:
        return pool.submit(work).result()


def _refuse(call, argument, mask, values, number):
    """seccomp(2): such calls of this thread, and of threads that it starts, fail from now on."""
    code = [
        struct.pack("HBBI", 0x20, 0, 0, 0),  # load the call's number
        struct.pack("HBBI", 0x15, 0, 2 + len(values), call),  # another one: to the last but one
        struct.pack("HBBI", 0x20, 0, 0, 16 + 8 * argument),
        struct.pack("HBBI", 0x54, 0, 0, mask),
        *(struct.pack("HBBI", 0x15, len(values) - at, 0, value) for at, value in enumerate(values)),
        struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000),
        struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | number),
    ]
    _filter(code)


# -- training, and what is left of it
# -------------------------------------------------------------------------------------------


class Training:
    """A tracker whose acknowledged metrics are counted: values 0, 1, 2, ...; what a call raises
    goes up.
    """

    def __init__(self, folder, **options):
        self.folder = folder
        self.tracker = Tracker.create(
            trial_component_name="run", journal=folder, sync="off", **options
        )
        self.acknowledged = 0

    def log(self, count=1):
        """So many points more."""
        for _ in range(count):
            self.tracker.log_metric(
                "loss", float(self.acknowledged), iteration_number=self.acknowledged
            )
            self.acknowledged += 1

    def journal(self):
        """The tracker's journal: to look inside."""
        return self.tracker._journal


def written(folder):
    """The points in a journal in their order, by a plain reader that knows nothing of the
    package.
    """
    uri = f"file:{folder / 'journal.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, timeout=FOREVER_S, uri=True)) as connection:
        rows = connection.execute(
            "SELECT value FROM entry WHERE stream = 'metric' ORDER BY seq"
        ).fetchall()
    return [int(value) for (value,) in rows]


def whole(folder, count):
    """Whether exactly these acknowledged points are there, in order, and every chain holds."""
    found = written(folder)
    assert found == list(range(count)), (len(found), count, found[:5], found[-5:])
    assert verify_chains(folder) == []
    return True
