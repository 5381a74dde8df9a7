"""Processes as training makes them: workers forked and spawned, ranks, daemon threads, signals
at any moment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing

import pytest

import journaltrack
from journaltrack import Tracker
from tests import warm
from tests.copies import verify_chains
from tests.simulator import simulator


@pytest.fixture
def folder(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal"


def points(folder, name=None):
    """How often each value was recorded, as plain sqlite3 reads it."""
    with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT value FROM entry WHERE stream = 'metric' AND name = coalesce(?, name)", (name,)
        )
        return Counter(value for (value,) in rows)


def run(code, *arguments):
    """A script in a process of its own; its output."""
    done = warm.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1_200,
    )
    assert done.returncode == 0, done.stderr
    return done


INTERRUPTED = """
import random, signal, sqlite3, sys, warnings
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
warnings.simplefilter("ignore")
class Interruption(BaseException): pass
armed = False
def interrupt(*_):
    global armed
    armed = False  # the loop ends also where CPython swallows what is raised: in a weakref's callback, in __del__
    raise Interruption
signal.signal(signal.SIGALRM, interrupt)
journal = Journal.open(sys.argv[1], busy_timeout_s=0.001)
component = journal.component("run")
other = sqlite3.connect(sys.argv[1] + "/journal.db", isolation_level=None)
random.seed(int(sys.argv[2]))
returned, n = [], 0
def log():  # a function: CPython 3.13 puts the end of a loop outside of the `try` around it
    global n
    while armed:
        n += 1
        if n % 3: journal.append_metric(component, "m", float(n), None, 1)
        elif n % 2: journal.append(component, [vocabulary.metric("m", float(n), None, 1), vocabulary.metric("m", n + 0.5, None, 1)])
        else: journal.append_metrics(component, [("m", float(n)), ("m", n + 0.5)], None, 1)
        returned.append(float(n))
for interruption in range(int(sys.argv[3])):
    locked = interruption % 20 == 5
    if locked: other.execute("BEGIN IMMEDIATE")
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4))
        log()
    except Interruption: pass
    if locked: other.execute("ROLLBACK")
signal.setitimer(signal.ITIMER_REAL, 0)
journal._next_try = 0.0
journal.append_metric(component, "end", -1.0, None, 1)
journal.close()
print(*returned, -1.0)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_an_exception_of_a_signal_handler_at_any_moment_of_an_append_costs_nothing(folder, seed):
    """Interrupted 1,500 times in mid-append, also while entries wait: every call that returned
    is there once, all chains hold.
    """
    returned = {float(value) for value in run(INTERRUPTED, folder, seed, 1500).stdout.split()}
    found = points(folder)
    assert returned <= set(found)
    assert set(found.values()) == {1}
    assert {value + 0.5 for value in found if value % 3 == 0} == {
        value for value in found if value % 1
    }, "half a call is there"
    assert verify_chains(folder) == []


INTERRUPTED_GROUPS = """
import random, signal, sys, threading
from journaltrack.journal.journal import Journal
class Interruption(BaseException): pass
armed = False
def interrupt(*_):
    global armed
    armed = False  # the loop ends also where CPython swallows what is raised: in a weakref's callback, in __del__
    raise Interruption
signal.signal(signal.SIGALRM, interrupt)
journal = Journal.open(sys.argv[1], durability="power")
component = journal.component("run")
random.seed(int(sys.argv[2]))
returned, stop = [], threading.Event()
def log_on(first):
    n = first
    while not stop.is_set():
        journal.append_metrics(component, [("m", float(n)), ("m", n + 0.5)], None, 1)
        returned.append(float(n))
        n += 1
threads = [threading.Thread(target=log_on, args=(number * 1_000_000,)) for number in (1, 2, 3)]
for thread in threads: thread.start()
n = 0
def log():  # a function: CPython 3.13 puts the end of a loop outside of the `try` around it
    global n
    while armed:
        n += 1
        journal.append_metrics(component, [("m", float(n)), ("m", n + 0.5)], None, 1)
        returned.append(float(n))
for interruption in range(int(sys.argv[3])):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-3))
        log()
    except Interruption: pass
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
for thread in threads: thread.join()
journal.close()
print(*returned)
"""


def test_an_interruption_of_one_thread_costs_the_others_nothing(folder):
    """The main thread is interrupted 300 times while threads share transactions with it: what
    returned is there once, in whole calls.
    """
    returned = [float(value) for value in run(INTERRUPTED_GROUPS, folder, 3, 300).stdout.split()]
    found = points(folder)
    assert set(returned) <= set(found)
    assert set(found.values()) == {1}
    assert {value + 0.5 for value in found if not value % 1} == {
        value for value in found if value % 1
    }, "half a call is there"
    assert verify_chains(folder) == []


def log_numbers(tracker, first, count):
    """Log so many numbers of one metric."""
    for number in range(first, first + count):
        tracker.log_metric("m", float(number), iteration_number=number)


def log_and_close(tracker, first):
    """What a worker does."""
    log_numbers(tracker, first, 50)
    tracker.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_log_with_their_parents_tracker(folder, method):
    """Four workers, however started, log beside their parent with the tracker it handed them:
    all is there, the run is the parent's.
    """
    context = multiprocessing.get_context(method)
    tracker = Tracker.create(trial_component_name="run", journal=folder, sync="off")
    with tracker:
        stop = threading.Event()
        logged = []

        def log_on():
            while not stop.is_set():
                logged.append(len(logged))
                tracker.log_metric("parent", float(len(logged) - 1))

        thread = threading.Thread(target=log_on)
        thread.start()
        workers = [
            context.Process(target=log_and_close, args=(tracker, 1000 * n)) for n in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stop.set()
        thread.join()
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert tracker.trial_component.status.primary_status == "InProgress", (
            "a worker ended the run"
        )
    assert points(folder, "m") == Counter(float(1000 * n + i) for n in range(4) for i in range(50))
    assert points(folder, "parent") == Counter(map(float, logged))
    assert verify_chains(folder) == []


DATA_LOADER = """
import multiprocessing, sys
from journaltrack import Tracker
class Dataset:
    def __init__(self, tracker): self.tracker = tracker
    def __getitem__(self, i):
        self.tracker.log_metric("read", float(i))
        return i
def work(dataset, tasks, results):
    for i in iter(tasks.get, None): results.put(dataset[i])
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off") as tracker:
        for epoch in range(3):
            tasks, results = context.Queue(), context.Queue()
            workers = [context.Process(target=work, args=(Dataset(tracker), tasks, results), daemon=True) for _ in range(3)]
            for worker in workers: worker.start()
            for i in range(60):
                tasks.put(100 * epoch + i)
                tracker.log_metric("trained", float(100 * epoch + results.get()), iteration_number=i)
            for worker in workers: tasks.put(None)
            for worker in workers: worker.join()
"""


def test_a_data_loaders_workers_and_the_training_loop_share_a_tracker(folder):
    """Workers forked anew every epoch by a parent that logs all the time record every item that
    they read.
    """
    run(DATA_LOADER, folder)
    assert points(folder, "read") == Counter(
        float(100 * epoch + i) for epoch in range(3) for i in range(60)
    )
    assert len(points(folder, "trained").keys()) > 0
    assert verify_chains(folder) == []


RANK = """
import sys
from journaltrack import Tracker
rank = int(sys.argv[2])
with Tracker.create(trial_component_name="ddp", resume=True, journal=sys.argv[1], sync="off") as tracker:
    tracker.log_parameters({"world_size": 8, f"rank{rank}-device": f"cuda:{rank}"})
    for step in range(100):
        tracker.log_metric(f"loss-{rank}", rank + step / 1000, iteration_number=step)
"""


def test_eight_ranks_on_one_journal_become_one_component(folder, monkeypatch):
    """Eight processes that start at once, on a journal that is not there yet, record all; a sync
    makes one component of it.
    """
    ranks = [
        warm.Popen(
            [sys.executable, "-c", RANK, folder, str(rank)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(8)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 8, errors
    assert points(folder).total() == 800
    assert verify_chains(folder) == []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with simulator() as sim:
        report = journaltrack.sync(folder, region="us-east-1", endpoint_url=sim.endpoint_url)
        assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0)
        assert list(sim.components) == ["ddp"]
        assert len(sim.components["ddp"].parameters) == 9
        assert Counter((p.name, p.step) for p in sim.components["ddp"].metrics) == Counter(
            (f"loss-{r}", s) for r in range(8) for s in range(100)
        )


EXITING = """
import os, sys, threading
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off")
started = threading.Barrier(5)
def log(thread):
    n = 0
    while True:
        value = float(1_000_000 * thread + n)
        tracker.log_metric("m", value)
        os.write(1, f"{value}\\n".encode())
        n += 1
        if n == 20: started.wait()
for thread in range(4): threading.Thread(target=log, args=(thread,), daemon=True).start()
started.wait()
"""


def test_an_interpreter_that_exits_under_logging_daemon_threads_loses_nothing(folder):
    """The main thread ends without close while four daemon threads log: no crash, and every call
    that returned is there.
    """
    for _ in range(3):
        done = run(EXITING, folder.with_name(f"journal{_}"))
        assert "Fatal" not in done.stderr
        lines = done.stdout.split("\n")[:-1]
        returned = {float(line) for line in lines}
        assert len(returned) >= 80
        assert returned <= set(points(folder.with_name(f"journal{_}")))


WAITING = """
import sqlite3, sys, warnings
from journaltrack import Tracker
from journaltrack.journal.journal import Journal
warnings.simplefilter("ignore")
journal = Journal.open(sys.argv[1], busy_timeout_s=0.01)
tracker = Tracker.create(trial_component_name="run", journal=journal, sync="off")
other = sqlite3.connect(sys.argv[1] + "/journal.db", isolation_level=None)
other.execute("BEGIN IMMEDIATE")
for n in range(7): tracker.log_metric("m", float(n))
assert journal.unwritten == 7
if sys.argv[2] == "freed": other.execute("ROLLBACK")
"""


def test_what_waits_in_memory_is_written_when_the_interpreter_ends(folder):
    """A script that ends without close while its journal is locked: freed in time, nothing is
    lost; not freed, it says how much is.
    """
    run(WAITING, folder, "freed")
    assert points(folder).total() == 7
    done = run(WAITING, folder.with_name("locked"), "held")
    assert "7 entries could not be written" in done.stderr
    assert points(folder.with_name("locked")).total() == 0


TERMINATED = """
import os, signal, sys
from journaltrack import Tracker
def stop(*_): raise SystemExit(143)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
with Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off") as tracker:
    n = 0
    while True:
        tracker.log_metric("m", float(n))
        os.write(1, b".")
        n += 1
"""


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGINT, "Stopped", None), (signal.SIGTERM, "Failed", 143)],
)
def test_a_run_ended_by_a_signal_says_so_and_keeps_all(folder, number, status, code):
    """Ctrl-C, or a scheduler's SIGTERM turned into SystemExit, in the midst of logging: the
    status tells, every returned call is there.
    """
    with warm.Popen(
        [sys.executable, "-c", TERMINATED, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        returned = len(process.stdout.read(200))
        process.send_signal(number)
        returned += len(process.stdout.read())
    assert process.returncode == (code if code is not None else -number)
    assert returned <= points(folder).total() <= returned + 1
    tracker = Tracker.load("run", journal=folder, sync="off")
    assert tracker.trial_component.status.primary_status == status
    tracker.close()
    assert verify_chains(folder) == []


def test_parent_and_child_go_on_with_one_tracker_after_a_fork(folder):
    """After fork both log, flush and read back with the same tracker, again and again, and are
    writers of their own.
    """
    tracker = Tracker.create(trial_component_name="run", journal=folder, sync="off")
    tracker.log_parameter("before", 1)
    children = []
    for generation in range(5):
        child = os.fork()
        if child == 0:
            log_numbers(tracker, 1000 * (generation + 1), 40)
            tracker.flush()
            os._exit(0 if tracker.trial_component.parameters["before"] == 1 else 1)
        children.append(child)
        log_numbers(tracker, 100_000 + 1000 * generation, 40)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 5
    tracker.close()
    assert points(folder).total() == 400
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        assert connection.execute("SELECT count(*) FROM writer").fetchone() == (6,)
    assert verify_chains(folder) == []
