"""What is killed, and how: processes that log or sync, forked by order, SIGKILLed as a group.

The campaigns are in ``killing_training`` and ``killing_syncs``.

`python -m tests.faults.killing FD PURPOSE` is a *zygote*: it has imported everything and opened
nothing, and forks a child for every order, so that a round costs milliseconds. A child leads a
process group of its own; who gave the order kills it.

What a writer's n-th call logs follows from the writer's tag and n alone (``script``); a call that
returned is acknowledged through a pipe. The reader, plain sqlite3, then knows every value that has
to be in the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import journaltrack
from journaltrack import Tracker
from tests.processes import ENVIRONMENT

WRITERS = {"processes": 8, "forks": 3, "threads": 4, "one": 1}
LIFE_S = 1_200  # a child that nobody killed by then ends by itself
WAIT_S = 600.0
# prctl(2): orphans of a group become the zygote's children, which knows then when all have ended
SET_CHILD_SUBREAPER = 36


# -- what a call logs
# -----------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """What is in an entry that tells it from all others."""

    kind: str
    name: str | None = None
    value: float | None = None
    step: int | None = None
    text: str | None = None


def content(tag, number):
    """The bytes of the artifact that this call logs."""
    return f"{tag}.{number}\n".encode() * (1 + zlib.crc32(tag.encode()) % 500)


def script(tag, number):
    """What the call does, and the entries that it makes. Tags of writers that have a tracker of
    their own hold one hyphen.
    """
    if number == 0:
        return "create", [Item("create", text=tag)]
    own = tag.count("-") == 1
    if own and number % (20 if tag.endswith("-parent") else 200) == 15:
        return "reopen", []
    chance = zlib.crc32(f"{tag}.{number}".encode())
    chance, more = chance % 1_000, chance // 1_000 % 7
    points = [Item("metric", f"{tag}.{i}", number + i / 16, number) for i in range(1 + more)]
    if chance < 700:
        return "metric", points[:1]
    if chance < 800:
        return "timed metric", points[:1]
    if chance < 900:
        return "metrics", points
    if chance < 960:
        return "parameters", [
            Item("parameter", f"p{i}", text=f"{tag}.{number}.{i}") for i in range(1 + more)
        ]
    if chance < 985:
        return "input", [Item("input", "data", text=f"{tag}.{number}")]
    if chance < 991:
        sha256 = hashlib.sha256(content(tag, number)).hexdigest()
        return "artifact", [
            Item("upload", f"a{more}", text=sha256),
            Item("output", f"a{more}", text=sha256),
        ]
    return ("reopen" if own and chance > 995 else "flush"), []


class Writer:
    """Makes one writer's calls in their order, and acknowledges each when it has returned."""

    def __init__(self, order, tag, acks, tracker=None) -> None:
        self.order, self.tag, self.acks, self.tracker = order, tag, acks, tracker
        self.options = {
            "trial_component_name": order["component"],
            "journal": order["folder"],
            "sync": "off",
        }
        if tracker is None:
            self.call(0)

    def run(self, calls=None) -> None:
        """Make so many calls; None: until the kill."""
        for number in itertools.count(1) if calls is None else range(1, calls + 1):
            self.call(number)

    def call(self, number) -> None:
        """Make the call with this number."""
        does, items = script(self.tag, number)
        tracker = self.tracker
        if does == "create":
            self.tracker = Tracker.create(display_name=self.tag, resume=True, **self.options)
        elif does == "metric":
            tracker.log_metric(items[0].name, items[0].value, iteration_number=number)
        elif does == "timed metric":
            tracker.log_metric(
                items[0].name, items[0].value, timestamp=time.time(), iteration_number=number
            )
        elif does == "metrics":
            tracker.log_metrics({item.name: item.value for item in items}, iteration_number=number)
        elif does == "parameters":
            tracker.log_parameters({item.name: item.text for item in items})
        elif does == "input":
            tracker.log_input(items[0].name, items[0].text)
        elif does == "artifact":
            file = Path(self.order["scratch"], f"{self.tag}.{number}")
            file.write_bytes(content(self.tag, number))
            tracker.log_artifact(file, name=items[0].name)
            file.unlink()
        elif does == "flush":
            tracker.flush()
        else:
            tracker.close()
            self.tracker = Tracker.load(**self.options)
        os.write(self.acks, f"{self.tag} {number}\n".encode())


# -- in the zygote and its children
# ---------------------------------------------------------------------------------


def _guarded(work, acks) -> int:
    """Do it; whatever it raises is told, since nothing may go wrong in training after any kill."""
    signal.alarm(LIFE_S)
    try:
        work()
    except BaseException:  # noqa: BLE001 - told, and the process ends
        os.write(
            acks, ("! " + traceback.format_exc()[-3_000:].replace("\n", " | ") + "\n").encode()
        )
        return 1
    return 0


def _forked(work, acks) -> int:
    child = os.fork()
    if child == 0:
        os._exit(_guarded(work, acks))
    return child


def _train(order, acks) -> None:
    if order["mode"] == "processes":  # each opens the journal by itself, or makes it
        for n in range(WRITERS["processes"]):
            _forked(lambda n=n: Writer(order, f"{order['tag']}-w{n}", acks).run(), acks)
        while True:
            os.wait()
    writer = Writer(order, f"{order['tag']}-{'parent' if order['mode'] == 'forks' else 'w0'}", acks)
    if order["mode"] == "threads":
        for n in range(WRITERS["threads"]):
            shared = Writer(order, f"{writer.tag}-t{n}", acks, writer.tracker)
            threading.Thread(target=_guarded, args=(shared.run, acks)).start()
    elif order["mode"] == "forks":
        _train_with_forks(order, acks, writer)
    else:
        writer.run(order["calls"])
        writer.tracker.close()


def _train_with_forks(order, acks, writer) -> None:
    """As a DataLoader does: workers with the parent's tracker, anew in every epoch; the parent
    may close and load meanwhile.
    """
    for epoch in itertools.count():
        workers = []
        for n in range(WRITERS["forks"]):
            shared = Writer(order, f"{writer.tag}-e{epoch}f{n}", acks, writer.tracker)
            workers.append(
                _forked(
                    lambda shared=shared, n=n: (shared.run(20), n or shared.tracker.close()), acks
                )
            )
        for number in range(20 * epoch + 1, 20 * epoch + 21):
            writer.call(number)
        for worker in workers:
            os.waitpid(worker, 0)


def _sync(order, acks) -> None:
    report = journaltrack.sync(order["folder"], endpoint_url=order["endpoint_url"])
    os.write(acks, f"{report.pending} {report.problem}\n".encode())


def zygote(orders: socket.socket, purpose: str) -> None:
    """Carry out orders until nobody gives any."""
    # "entries wait in memory" would be an acknowledgement that means less
    warnings.simplefilter("error", RuntimeWarning)
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    if purpose == "sync":
        _import_the_rest()
    while message := socket.recv_fds(orders, 65_536, 1):
        if not message[0]:
            return
        order, (acks,) = json.loads(message[0]), message[1]
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            orders.close()
            code = _guarded(
                partial(_sync if "endpoint_url" in order else _train, order, acks), acks
            )
            for thread in threading.enumerate():
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join()
            os._exit(code)
        # the shells' way: whoever is first, it leads a group from now on
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(child, child)
        os.close(acks)
        orders.send(str(child).encode())
        code = None
        with contextlib.suppress(ChildProcessError):
            while True:
                ended, status = os.wait()
                code = os.waitstatus_to_exitcode(status) if ended == child else code
        orders.send(str(code).encode())


def _import_the_rest() -> None:
    """What a first call imports late, and botocore's models, which a process reads once: no
    connection is made.
    """
    from journaltrack.remotes import retry
    from journaltrack.remotes.aws.clients import Clients
    from journaltrack.replay import reconciler
    from journaltrack.util.deadline import Deadline

    assert all((reconciler, retry))
    clients = Clients(endpoint_url="http://127.0.0.1:1", deadline=Deadline(), connections=1)
    assert all((clients.sagemaker, clients.metrics, clients.s3, clients.sts))


# -- in the process that gives the orders
# -----------------------------------------------------------------------------


class Zygote:
    """A process from which children are forked, one order at a time."""

    def __init__(self, purpose) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(WAIT_S)
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("AWS_")
        } | ENVIRONMENT
        command = [sys.executable, "-m", "tests.faults.killing", str(theirs.fileno()), purpose]
        self.process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], env=environment, pass_fds=[theirs.fileno()]
        )
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.wait()


class Child:
    """An order under way: its process group, and what that tells."""

    def __init__(self, zygote, **order) -> None:
        self._socket = zygote.socket
        self._read, write = os.pipe()
        socket.send_fds(self._socket, [json.dumps(order).encode()], [write])
        os.close(write)
        self.told = b""
        self.ended = False  # nobody is left who could tell something
        self.pid = int(self._socket.recv(64))

    def listen(self, timeout_s, *, until=lambda told: False, also=()) -> None:
        """Take in what is told until the time is over, the condition holds, all have ended, or
        ``also`` has something to read.
        """
        end = time.monotonic() + timeout_s
        while not self.ended and not until(self.told):
            ready, _, _ = select.select([self._read, *also], [], [], max(0, end - time.monotonic()))
            if self._read in ready:
                piece = os.read(self._read, 1 << 16)
                self.told += piece
                self.ended = not piece
            if not ready or set(ready) - {self._read}:
                return

    def kill(self) -> int | None:
        """SIGKILL to the group; see ``end``."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.end()

    def end(self) -> int | None:
        """Wait until every process of the group has ended; returns the leader's exit code."""
        self.listen(WAIT_S)
        assert self.ended, "a killed process lives on, or one that should end does not"
        os.close(self._read)
        return int(self._socket.recv(64))


if __name__ == "__main__":
    zygote(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
