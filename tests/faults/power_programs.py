"""What test_power_loss records: run as a program, `power_programs.py SCENARIO FOLDER
ACKNOWLEDGEMENTS`.

A line is acknowledged only when the call that it tells of has returned.
"""

from __future__ import annotations

import base64
import os
import pickle
import sys
import threading
from contextlib import closing
from pathlib import Path

from journaltrack import Tracker
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.checkpoint import write_back
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler

CALLS = 44


def call(tracker, writer, number, scratch):
    """One call of a writer; what it does follows from its number."""
    if number % 11 == 3:
        tracker.log_parameter(f"{writer}:{number}", number)
    elif number % 11 == 5:
        tracker.log_metrics({f"{writer}:{number}:{part}": part for part in range(3)})
    elif number % 11 == 8:
        scratch.write_bytes(blob(writer, number))
        tracker.log_artifact(str(scratch), name=f"{writer}:{number}")
    else:
        tracker.log_metric(f"{writer}", number, iteration_number=number)


def blob(writer, number):
    """The bytes of an artifact, of a few pages."""
    return f"{writer}:{number};".encode() * 900


def expected(writer, number):
    """The entries of a call, as (kind, name, value) of the journal's columns."""
    if number % 11 == 3:
        return {("parameter", f"{writer}:{number}", float(number))}
    if number % 11 == 5:
        return {("metric", f"{writer}:{number}:{part}", float(part)) for part in range(3)}
    if number % 11 == 8:
        return {("upload", f"{writer}:{number}", None), ("output", f"{writer}:{number}", None)}
    return {("metric", writer, float(number))}


class Acknowledging:
    """Writes lines to the file that the recorder knows."""

    def __init__(self, path):
        self.descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def say(self, *words):
        os.write(self.descriptor, (" ".join(map(str, words)) + "\n").encode())


def log(folder, acks, writer, *, durability, flush_every=0, calls=range(CALLS), resume=True):
    """A writer's calls, each acknowledged, and its close."""
    scratch = Path(acks_path).with_name(f"scratch-{writer}")
    tracker = Tracker.create(
        trial_component_name="run",
        resume=resume,
        journal=folder / "journal",
        durability=durability,
        sync="off",
    )
    for number in calls:
        call(tracker, writer, number, scratch)
        acks.say("call", writer, number)
        if flush_every and number % flush_every == flush_every - 1:
            tracker.flush()
            acks.say("flushed", writer, number)
    tracker.close()
    acks.say("flushed", writer, calls[-1])


def power(folder, acks):
    """One writer, each call a barrier."""
    log(folder, acks, "w", durability="power")


def process(folder, acks):
    """One writer that flushes now and then."""
    log(folder, acks, "w", durability="process", flush_every=9)


def mixed(folder, acks):
    """A writer that does not wait for the disk makes the journal; one that does goes on in it,
    while it is open and after.
    """
    first = Tracker.create(
        trial_component_name="run", journal=folder / "journal", durability="process", sync="off"
    )
    first.log_parameter("first", 1)
    log(folder, acks, "v", durability="power", calls=range(12))
    first.log_parameter("second", 2)
    first.close()
    log(folder, acks, "w", durability="power", calls=range(12))


def checkpoint(folder, acks):
    """Enough for the log to be written back and begun anew, several times."""
    scratch = Path(acks_path).with_name("scratch")
    tracker = Tracker.create(
        trial_component_name="run", journal=folder / "journal", durability="power", sync="off"
    )
    tracker._journal.database.connection.execute("PRAGMA wal_autocheckpoint = 20")
    for number in range(CALLS):
        call(tracker, "w", number, scratch)
        acks.say("call", "w", number)
    tracker.close()


def threads(folder, acks):
    """Two threads on one tracker."""
    tracker = Tracker.create(
        trial_component_name="run", journal=folder / "journal", durability="power", sync="off"
    )

    def run(writer):
        scratch = Path(acks_path).with_name(f"scratch-{writer}")
        for number in range(CALLS // 2):
            call(tracker, writer, number, scratch)
            acks.say("call", writer, number)

    both = [threading.Thread(target=run, args=(writer,)) for writer in ("v", "w")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    tracker.close()


def beside(folder, acks):
    """The log is written back by another thread, again and again, also while calls wait for the
    last of it.
    """
    scratch = Path(acks_path).with_name("scratch")
    tracker = Tracker.create(
        trial_component_name="run", journal=folder / "journal", durability="power", sync="off"
    )
    stop = threading.Event()

    def write_back_again():
        while not stop.is_set():
            write_back(tracker._journal.database, log_pages_max=10)

    thread = threading.Thread(target=write_back_again)
    thread.start()
    for number in range(CALLS):
        call(tracker, "w", number, scratch)
        acks.say("call", "w", number)
    stop.set()
    thread.join()
    tracker.close()


def ranks(folder, acks):
    """Two processes on one journal."""
    Tracker.create(
        trial_component_name="run", journal=folder / "journal", durability="power", sync="off"
    ).close()
    children = []
    for writer in ("v", "w"):
        pid = os.fork()
        if not pid:
            log(folder, acks, writer, durability="power", calls=range(CALLS // 2))
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0


class RecordedRemote(MemoryRemote):
    """Each effect is acknowledged as the call that makes it again."""

    acks: Acknowledging

    def _told(self, name, *arguments):
        answer = getattr(super(), name)(*arguments)
        self.acks.say("sent", base64.b64encode(pickle.dumps((name, arguments))).decode())
        return answer

    def create(self, *arguments):
        return self._told("create", *arguments)

    def update(self, *arguments):
        return self._told("update", *arguments)

    def upload(self, *arguments):
        return self._told("upload", *arguments)

    def put_metrics(self, *arguments):
        return self._told("put_metrics", *arguments)


def sync(folder, acks):
    """Training that is closed, then a pass, more training, another pass."""
    remote = RecordedRemote()
    remote.acks = acks
    for calls in (range(30), range(30, CALLS)):
        log(folder, acks, "w", durability="process", calls=calls)
        with closing(Journal.open(folder / "journal")) as journal:
            report = Reconciler(journal, remote, options=Options(concurrency=2)).run()
        acks.say("synced", report.pending)


def upgrade(folder, acks):
    """A journal of the current schema, brought to a later one."""
    from journaltrack.journal.schema import migrate, schema

    log(folder, acks, "w", durability="process")
    migrate.upgrade(
        folder / "journal" / "journal.db",
        schema.HEAD,
        now_ns=5,
        migrations=Path(os.environ["MIGRATIONS"]),
        head=os.environ["NEXT_REVISION"],
    )
    acks.say("upgraded")


if __name__ == "__main__":
    scenario, root, acks_path = sys.argv[1:]
    globals()[scenario](Path(root), Acknowledging(acks_path))
