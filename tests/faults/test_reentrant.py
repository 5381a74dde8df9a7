"""Calls from inside calls: a signal handler, ``__del__`` or a logging handler logs while the same
thread is logging.

At every line of every call: ``sys.settrace`` sees each line before it is executed, in this package
and below it.
"""

from __future__ import annotations

import functools
import gc
import itertools
import linecache
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, contextmanager

import pytest

from journaltrack import Tracker
from journaltrack.journal.journal import Journal
from tests.copies import verify_chains


@functools.cache
def takes_no_exception(file, number):
    """Return whether what a handler raises at the line would not come out of it.

    No signal arrives at a bare ``try:``, and what a trace function raises there passes by all
    handlers (CPython 3.11). In the callback of a weak reference Python swallows, and pytest
    reports, what is raised.
    """
    return linecache.getline(file, number).strip() == "try:" or os.path.basename(file) in {
        "_weakrefset.py",
        "weakref.py",
    }


class AtLine:
    """Runs ``work`` once, before the ``number``-th line that is executed under it; with
    ``place``, before that line alone.
    """

    def __init__(self, number, work, place=None):
        self.left = number
        self.work = work
        self.place = place
        self.done = False

    def __call__(self, frame, event, arg):
        if self.done:  # nothing more to look for: the rest runs at full speed
            sys.settrace(None)
            return None
        if self.place is not None and frame.f_code.co_filename != self.place[0]:
            return None  # none of its lines is the place
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and self.place in {None, place} and not takes_no_exception(*place):
            self.left -= 1
            if self.left < 0:
                self.done = True
                self.work()
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)


def places_in(call):
    """The lines that a call executes: (how often it was executed before, place), for its first,
    second and last time.

    A loop over the descriptors of a test's process goes round hundreds of times, and no time
    differs from the second.
    """
    seen = Counter()

    def see(frame, event, _arg):
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not takes_no_exception(*place):
            seen[place] += 1
        return see

    before = sys.gettrace()
    sys.settrace(see)
    try:
        call()
    finally:
        sys.settrace(before)
    return [
        (number, place)
        for place, times in seen.items()
        for number in sorted({0, 1, times - 1})
        if number < times
    ]


class Calls:
    """Public calls of one tracker, with what each must leave in the journal."""

    def __init__(self, folder, durability):
        self.folder = folder
        self.tracker = Tracker.create(
            trial_component_name="run",
            journal=folder / "journal",
            sync="off",
            durability=durability,
        )
        self.numbers = itertools.count()
        self.expected = Counter()
        self.file = folder / "model"
        self.file.write_bytes(b"weights")

    def metric(self):
        number = next(self.numbers)
        self.tracker.log_metric("m", float(number), iteration_number=1)
        self.expected["metric", "m", float(number)] += 1

    def metrics(self):
        number = next(self.numbers)
        self.tracker.log_metrics({"a": float(number), "b": float(number)})
        self.expected.update([("metric", "a", float(number)), ("metric", "b", float(number))])

    def looked(self):
        """A point before which the journal's files are looked at, as every 250 ms."""
        self.tracker._journal._looked_ns = self.tracker._journal._locks_ns = 0
        self.metric()

    def parameters(self):
        number = next(self.numbers)
        self.tracker.log_parameters({"p": float(number), "q": float(number)})
        self.expected.update([("parameter", "p", float(number)), ("parameter", "q", float(number))])

    def refused(self):
        """A point that is quarantined in its own transaction."""
        number = next(self.numbers)
        self.tracker._notices._told.add(("metric", "nan"))
        self.tracker.log_metric("nan", float("nan"), iteration_number=number)
        self.expected["metric", "nan", None] += 1

    def artifact(self):
        self.tracker.log_artifact(self.file, name="model")
        self.expected.update([("upload", "model", None), ("output", "model", None)])

    def flush(self):
        self.tracker.flush()

    def close(self):
        self.tracker.close()
        self.tracker = Tracker.load(
            "run", journal=self.folder / "journal", sync="off", durability="process"
        )

    def found(self):
        """What plain sqlite3 reads."""
        with closing(sqlite3.connect(self.folder / "journal" / "journal.db")) as connection:
            return Counter(
                connection.execute("SELECT kind, name, value FROM entry WHERE name IS NOT NULL")
            )

    def check(self):
        """Every call is there once, and the chains are whole."""
        self.tracker.close()
        assert self.found() == self.expected
        with closing(sqlite3.connect(self.folder / "journal" / "journal.db")) as connection:
            for _, places in itertools.groupby(
                connection.execute(
                    "SELECT writer_id, writer_seq FROM entry ORDER BY writer_id, seq"
                ),
                lambda row: row[0],
            ):
                found = [place for _, place in places]
                assert found == list(range(1, len(found) + 1))
        assert verify_chains(self.folder / "journal") == []


def at_every_line(outer, nested):
    """Make the outer call again and again, with the other one before its first line, its second,
    ...; returns how many.
    """
    outer()
    outer()
    reached = 0
    for number, place in places_in(outer):
        with AtLine(number, nested, place) as trace:
            outer()
        reached += trace.done
    return reached


NESTED = ["metric", "metrics", "parameters", "refused", "artifact", "flush"]


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("outer", NESTED)
def test_a_call_from_inside_a_call_is_recorded_once(tmp_path, outer, durability):
    """A point that is logged at any line of another call: one entry for each call, and whole
    chains.
    """
    calls = Calls(tmp_path, durability)
    assert at_every_line(getattr(calls, outer), calls.metric) > 20
    calls.check()


@pytest.mark.parametrize("nested", NESTED[1:])
@pytest.mark.parametrize("outer", ["metric", "parameters"])
def test_any_call_may_come_from_inside_another(tmp_path, outer, nested):
    """Whatever is called at any line of a call: one entry for each call, and whole chains."""
    calls = Calls(tmp_path, "process")
    assert at_every_line(getattr(calls, outer), getattr(calls, nested)) > 20
    calls.check()


class Interruption(BaseException):
    """What a signal handler raises."""


@pytest.fixture
def no_collector():
    """Keep the garbage collector out: Python swallows, and pytest reports, what is raised in
    code that it calls.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("outer", ["metric", "metrics", "parameters", "refused", "flush"])
def test_a_handler_that_logs_and_raises_costs_nothing(tmp_path, outer):
    """As SIGTERM's that logs and exits: its point is there at once, the call that it ended is
    there whole or not at all.
    """
    calls = Calls(tmp_path, "process")

    def log_and_raise():
        calls.metric()
        raise Interruption

    outer_call = getattr(calls, outer)
    outer_call()
    calls.metric()
    for number in itertools.count():
        before = calls.expected.copy()
        try:
            with AtLine(number, log_and_raise) as trace:
                outer_call()
        except Interruption:
            found = calls.found()
            assert not before - found
            assert calls.tracker._journal.unwritten == 0
            calls.expected = found
            assert found["metric", "m", float(next(calls.numbers) - 1)] == 1
        if not trace.done:
            break
    calls.check()


@pytest.mark.parametrize("nested", ["metric", "parameters", "close"])
def test_a_call_from_inside_close_is_recorded_once(tmp_path, nested):
    """Also while the tracker closes, which a nested close does not disturb."""
    calls = Calls(tmp_path, "process")
    calls.metric()
    places = places_in(calls.tracker.close)
    reached = 0
    for round_, (number, place) in enumerate(places):
        if round_ % 50 == 0:  # another component: what a load reads grows with each entry
            component = f"run-{round_}"
            Tracker.create(
                trial_component_name=component, journal=tmp_path / "journal", sync="off"
            ).close()
        calls.tracker = Tracker.load(component, journal=tmp_path / "journal", sync="off")
        calls.metric()
        tracker = calls.tracker
        work = tracker.close if nested == "close" else getattr(calls, nested)
        with AtLine(number, work, place) as trace:
            tracker.close()
        reached += trace.done
    assert reached > 200
    calls.check()


TIMER = """
import os, signal, sys, warnings
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off", durability=sys.argv[2])
acks = os.open(sys.argv[3], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
fired = 0
def handler(*_):
    global fired
    fired += 1
    tracker.log_metric("timer", float(fired))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
n = 0
while fired < 150:
    n += 1
    tracker.log_metric("loop", float(n))
    os.write(acks, b"%d\\n" % n)
signal.setitimer(signal.ITIMER_REAL, 0)
tracker.close()
print(n, fired)
"""


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_timer_that_logs_neither_hangs_nor_repeats(tmp_path, durability):
    """Every 3 ms a handler logs, also inside itself, while the main thread logs without a pause:
    each call is there once.
    """
    command = [sys.executable, "-c", TIMER, str(tmp_path / "j"), durability, str(tmp_path / "acks")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loops, fired = map(int, done.stdout.split())
    with closing(sqlite3.connect(tmp_path / "j" / "journal.db")) as connection:
        for name, count in (("loop", loops), ("timer", fired)):
            rows = connection.execute(
                "SELECT value FROM entry WHERE name = ? ORDER BY seq", (name,)
            ).fetchall()
            assert sorted(value for (value,) in rows) == [float(n) for n in range(1, count + 1)]
    assert verify_chains(tmp_path / "j") == []


def test_a_logging_handler_may_log_what_is_logged(tmp_path):
    """A handler that counts the warnings of this package as a metric: no call hangs, and each is
    there.
    """
    with closing_tracker(tmp_path) as tracker:

        class Counting(logging.Handler):
            count = 0

            def emit(self, record):
                self.count += 1
                tracker.log_metric("warnings", float(self.count))

        handler = Counting()
        logging.getLogger("journaltrack").addHandler(handler)
        try:
            tracker.log_metric("m", 1.0)
            shutil.rmtree(tmp_path / "journal")
            tracker._journal._looked_ns = tracker._journal._locks_ns = 0
            with pytest.warns(RuntimeWarning, match="was deleted"):
                tracker.log_metric("m", 2.0)
        finally:
            logging.getLogger("journaltrack").removeHandler(handler)
        assert handler.count == 1
    with closing(sqlite3.connect(tmp_path / "journal" / "journal.db")) as connection:
        rows = connection.execute(
            "SELECT name, value FROM entry WHERE stream = 'metric' ORDER BY seq"
        ).fetchall()
    assert sorted(rows) == [("m", 1.0), ("m", 2.0), ("warnings", 1.0)]


@contextmanager
def closing_tracker(tmp_path):
    """A tracker that is closed at the end."""
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off")
    yield tracker
    tracker.close()


def test_a_call_inside_another_connections_transaction_waits_in_memory(tmp_path):
    """Logged in the middle of a replay's transaction by its own thread: it would wait for
    itself, so it waits in memory.
    """
    with closing_tracker(tmp_path) as tracker:
        tracker.log_metric("m", 1.0)
        with closing(Journal.open(tmp_path / "journal")) as other:
            with other.database.transaction(), pytest.warns(RuntimeWarning, match="made inside of"):
                tracker.log_metric("m", 2.0)
            assert tracker._journal.unwritten == 1
    with closing(sqlite3.connect(tmp_path / "journal" / "journal.db")) as connection:
        rows = connection.execute(
            "SELECT value FROM entry WHERE stream = 'metric' ORDER BY seq"
        ).fetchall()
    assert rows == [(1.0,), (2.0,)]


class TimeUpError(TimeoutError):
    """What the usual handler of SIGALRM raises: an OSError, and an Exception, of the user's."""


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("outer", ["metric", "metrics", "refused", "looked"])
def test_an_exception_of_a_handler_is_the_users_and_costs_no_other_call(tmp_path, outer):
    """Raised at any line, it comes out of the call; what the handler had logged is there, and
    nothing else is doubled or lost.

    Not in the questions that a parameter's value is asked: there any exception is one of the
    value's.
    """
    calls = Calls(tmp_path, "process")
    getattr(calls, outer)()
    calls.metric()

    def log_and_raise():
        calls.metric()
        raise TimeUpError

    swallowed = 0
    for number in itertools.count():
        before = calls.expected.copy()
        raised = False
        try:
            with AtLine(number, log_and_raise) as trace:
                getattr(calls, outer)()
        except TimeUpError:
            raised = True
        swallowed += trace.done and not raised
        found = calls.found()
        assert not before - found
        assert found["metric", "m", float(next(calls.numbers) - 1)] == 1 or not trace.done
        assert calls.tracker._journal.unwritten == 0
        calls.expected = found
        if not trace.done:
            break
    assert swallowed == 0
    calls.check()


DEADLOCK = """
import logging, sqlite3, sys, threading, warnings
warnings.simplefilter("ignore")
from journaltrack import Tracker
from journaltrack.journal.journal import Journal
journal = Journal.open(sys.argv[1], busy_timeout_s=0.05)
tracker = Tracker.create(trial_component_name="run", journal=journal, sync="off")
class Counting(logging.Handler):
    def emit(self, record): tracker.log_metric("records", 1.0)
handler = Counting()
logging.getLogger().addHandler(handler)
stop = threading.Event()
def speak():
    while not stop.is_set(): logging.getLogger("mine").warning("hello")
thread = threading.Thread(target=speak)
other = sqlite3.connect(sys.argv[1] + "/journal.db", isolation_level=None, check_same_thread=False)
thread.start()
for n in range(10):
    other.execute("BEGIN IMMEDIATE")
    while not journal.unwritten: tracker.log_metric("m", float(n))
    other.execute("ROLLBACK")
    while journal.unwritten: tracker.log_metric("m", float(n))
stop.set()
thread.join()
journal.close()
print("end")
"""


def test_a_logging_handler_of_another_thread_is_never_waited_for(tmp_path):
    """One thread logs metrics from a logging handler, another one has news to log: neither waits
    for the other's lock.
    """
    done = subprocess.run(
        [sys.executable, "-c", DEADLOCK, str(tmp_path / "j")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout == "end\n", done.stderr
    assert verify_chains(tmp_path / "j") == []


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_a_close_while_a_handler_logs_keeps_a_copy(tmp_path):
    """The journal stays locked, thousands of calls wait, and a handler logs every 3 ms: close
    says where the copy is.
    """
    code = TIMER.replace("while fired < 150:", "other = __import__('sqlite3').connect(sys.argv[1] + '/journal.db', isolation_level=None)\n"
                         "warnings.simplefilter('ignore')\nother.execute('BEGIN "
                         "IMMEDIATE')\ntracker._journal.database.set_busy_timeout(0.01)\n"
                         "while fired < 20 or n < 3_000:")  # fmt: skip
    code = code.replace(
        "signal.setitimer(signal.ITIMER_REAL, 0)\ntracker.close()",
        "try: tracker.close()\nexcept Exception as error: print(type(error).__name__, "
        "error)\nsignal.setitimer(signal.ITIMER_REAL, 0)",
    )
    environment = os.environ | {"JOURNALTRACK_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, str(tmp_path / "j"), "process", str(tmp_path / "acks")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert "JournalWriteError" in done.stdout, done.stdout + done.stderr
    assert "A copy of them" in done.stdout
