"""`sigterm="stop"`: real SIGTERMs to real processes, inside of a tracker's block, at its end, in
children and threads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from journaltrack import Tracker
from journaltrack.errors import InvalidInputError
from journaltrack.reports.component import show
from tests import warm
from tests.faults.interrupting import RUN, Training
from tests.patience import FOREVER_S
from tests.simulator import simulator

STOPPING = RUN.replace('sync="off"', 'sync="off", sigterm="stop"')
# Python 3.12 warns of a fork beside threads, which is what is tried with these.
FORKING = ("-W", "ignore:This process:DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal"


def run(program, folder, *options):
    """A program that has ended, with what it printed."""
    return warm.run(
        [sys.executable, *options, "-c", program, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=FOREVER_S,
    )


def end_of(folder):
    """Status and message of the run."""
    now = show(folder, "run").status
    return now.primary, now.message


def test_sigterm_ends_the_block_and_the_run_as_stopped(folder):
    """The run is Stopped with the message SIGTERM and an end, what was logged is there, and the
    exit code is that of SIGTERM.
    """
    process = Training(folder, program=STOPPING).ready()
    assert process.kill(signal.SIGTERM) == 143
    assert end_of(folder) == ("Stopped", "SIGTERM")
    view = show(folder, "run")
    assert view.status.end_ns is not None
    assert view.run is None
    assert [metric.points for metric in view.metrics] == [1]


def test_without_it_sigterm_kills_as_ever(folder):
    """The default is what it was: the process dies of the signal, and the run is interrupted."""
    process = Training(folder).ready()
    assert process.kill(signal.SIGTERM) == -signal.SIGTERM
    assert show(folder, "run").run.state == "interrupted"


def test_the_configuration_has_it_too(folder, monkeypatch):
    """JOURNALTRACK_SIGTERM=stop does what the argument does, the argument comes first, and a
    wrong word is refused.
    """
    monkeypatch.setenv("JOURNALTRACK_SIGTERM", "stop")
    process = Training(folder).ready()
    assert process.kill(signal.SIGTERM) == 143
    assert end_of(folder) == ("Stopped", "SIGTERM")
    process = Training(
        folder, program=RUN.replace('sync="off"', 'sync="off", sigterm="default"')
    ).ready()
    assert process.kill(signal.SIGTERM) == -signal.SIGTERM
    with pytest.raises(InvalidInputError, match="sigterm"):
        Tracker.create(journal=folder, sigterm="ignore")


def test_the_clean_end_delivers(folder, monkeypatch):
    """SIGTERM in the block, sync="close": the run is in SageMaker as Stopped when the process is
    gone.
    """
    with simulator() as sim:
        for name, value in {
            "AWS_ENDPOINT_URL": sim.endpoint_url,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        process = Training(
            folder, program=RUN.replace('sync="off"', 'close_deadline_s=3_600, sigterm="stop"')
        ).ready()
        assert process.kill(signal.SIGTERM) == 143
        assert sim.components["run"].status == {"PrimaryStatus": "Stopped", "Message": "SIGTERM"}


def test_the_former_handler_is_back_after_the_block(folder):
    """A handler of the program's own has SIGTERM again when the block is left; inside of it the
    run ends.
    """
    body = 'say("inside")'
    program = STOPPING.replace(
        "with Tracker",
        'import signal\nsignal.signal(signal.SIGTERM, lambda *_: say("mine"))\nwith Tracker',
    )
    process = Training(folder, body, program=program)
    process.hear("ready")
    process.go_on()
    process.hear("ended")
    process.process.send_signal(signal.SIGTERM)
    process.hear("mine")
    process.go_on()
    assert process.ended() == 0
    assert end_of(folder) == ("Completed", None)


def test_a_forked_child_dies_of_sigterm_as_ever(folder):
    """A worker that is terminated (`multiprocessing`'s `terminate`) neither ends the run nor
    survives.
    """
    body = """
import signal
child = os.fork()
if child == 0:
    signal.pause()
os.kill(child, signal.SIGTERM)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    process = Training(folder, body, program=STOPPING)
    assert process.hear("ready") == [str(-signal.SIGTERM)]
    assert end_of(folder) == ("InProgress", None)
    process.go_on()
    process.hear("ended")
    assert end_of(folder) == ("Completed", None)
    process.kill()


def test_a_forked_child_calls_the_programs_own_handler(folder):
    """The handler that was there before the block is the child's."""
    body = """
import signal
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(1)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    program = STOPPING.replace(
        "with Tracker",
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(7))\nwith Tracker",
    )
    process = Training(folder, body, program=program)
    assert process.hear("ready") == ["7"]
    process.kill()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [("pass", "Completed", -signal.SIGTERM), ("raise KeyError('x')", "Failed", -signal.SIGTERM)],
)
def test_sigterm_during_the_end_waits_for_it(folder, body, status, code):
    """While the block ends for another reason SIGTERM tears nothing apart; then it does what it
    does without us.
    """
    program = f"""
import os, signal, sys
from journaltrack import Tracker

class Writer:
    def log_metric(self, *a): pass
    def close(self): os.kill(os.getpid(), signal.SIGTERM)

made = Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off", sigterm="stop")
made._metrics_writer = Writer()
with made:
    {body}
print("never", flush=True)
"""
    done = run(program, folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert show(folder, "run").status.primary == status


def test_a_second_sigterm_does_not_keep_the_first_from_ending_the_run(folder):
    """A launcher that repeats itself: the run is Stopped, the exit code is 143."""
    program = """
import os, signal, sys
from journaltrack import Tracker

class Writer:
    def log_metric(self, *a): pass
    def close(self): os.kill(os.getpid(), signal.SIGTERM)

with Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off", sigterm="stop") as made:
    made._metrics_writer = Writer()
    os.kill(os.getpid(), signal.SIGTERM)
"""
    done = run(program, folder)
    assert done.returncode == 143, done.stderr
    assert end_of(folder) == ("Stopped", "SIGTERM")


def test_another_thread_is_told_that_it_has_no_effect(folder):
    """Only the main thread handles signals: elsewhere a warning says so, and the block works."""
    program = STOPPING.replace(
        "with Tracker", "def main():\n  global tracker\n  with Tracker"
    ).replace("\n    ", "\n      ")
    program = program.replace(
        '\nsay("ended")',
        '\nthread = threading.Thread(target=main)\nthread.start()\nthread.join()\nsay("ended")',
    )
    process = Training(folder, program=program.replace("BODY", "pass")).ready()
    process.go_on()
    process.hear("ended")
    process.process.stdin.close()
    assert "only the main thread" in process.process.stderr.read()
    process.process.wait(FOREVER_S)
    process.process.stdout.close()
    process.process.stderr.close()
    assert end_of(folder) == ("Completed", None)


def test_nested_blocks_all_stop(folder):
    """Two trackers of one process, one block in the other: SIGTERM ends both runs as Stopped."""
    program = """
import os, signal, sys
from journaltrack import Tracker
made = lambda name: Tracker.create(trial_component_name=name, journal=sys.argv[1], sync="off", sigterm="stop")
with made("outer"), made("run"):
    os.kill(os.getpid(), signal.SIGTERM)
"""
    done = run(program, folder)
    assert done.returncode == 143, done.stderr
    assert end_of(folder) == ("Stopped", "SIGTERM")
    assert show(folder, "outer").status.primary == "Stopped"


def test_sigterm_in_a_callback_is_not_lost(folder):
    """CPython drops exceptions of ``__del__``, weak references and fork hooks: SIGTERM ends the
    block all the same.
    """
    program = """
import os, signal, sys, weakref
from journaltrack import Tracker

class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10): pass

class Other: pass

def callback(_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(10): pass

for way in ("del", "weakref", "fork"):
    try:
        with Tracker.create(trial_component_name=way, journal=sys.argv[1], sync="off", sigterm="stop"):
            if way == "del":
                Thing()
            elif way == "weakref":
                other = Other()
                kept = weakref.ref(other, callback)
                del other
            else:
                os.register_at_fork(before=lambda: callback(None))
                if os.fork() == 0: os._exit(0)
                os.wait()
            while True: pass
    except SystemExit:
        pass
"""
    done = run(program, folder, *FORKING)
    assert (done.returncode, done.stderr) == (0, "")
    assert [show(folder, way).status.primary for way in ("del", "weakref", "fork")] == [
        "Stopped"
    ] * 3


def test_sigterm_at_any_line_of_the_hooks_of_a_fork_is_not_lost(folder):
    """It ends the block after the fork, and no later signal is blocked."""
    program = """
import os, signal, sys
from journaltrack import Tracker
from journaltrack.tracking import sigterm

HOOKS = {each.__code__ for each in (sigterm._before_fork, sigterm._after_fork_in_parent)}

def terminate_at(line):
    lines = iter(range(line + 1))
    def trace(frame, event, _):
        if frame.f_code not in HOOKS: return None
        if event == "line" and next(lines, None) == line: os.kill(os.getpid(), signal.SIGTERM)
        return trace
    return lines, trace

def wait_if_sent(lines):  # a function: CPython 3.13 puts the end of a loop outside of the `try` around it
    while next(lines, None) is None: pass

def sigterm_came(line):
    lines, trace = terminate_at(line)
    try:
        with Tracker.create(trial_component_name=f"run-{line}", journal=sys.argv[1], sync="off", sigterm="stop"):
            sys.settrace(trace)
            child = os.fork()
            sys.settrace(None)
            if child == 0: os._exit(0)
            os.wait()
            wait_if_sent(lines)
            return False
    except SystemExit:
        return True
    finally:
        sys.settrace(None)

number = 0
while sigterm_came(number):
    number += 1
assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(number)
"""
    done = run(program, folder, *FORKING)
    assert (done.returncode, done.stderr) == (0, "")
    lines = int(done.stdout)
    assert lines >= 6
    stopped = [show(folder, f"run-{n}").status.primary for n in range(lines + 1)]
    assert stopped == ["Stopped"] * lines + ["Completed"]


def test_a_call_that_is_interrupted_by_sigterm_leaves_the_journal_whole(folder):
    """SIGTERM in the middle of calls, again and again: every call that returned is there once,
    and every run is Stopped.
    """
    program = """
import subprocess, sys
from journaltrack import Tracker
sender = "import os, signal, sys\\nfor line in sys.stdin:\\n for _ in range(int(line)): pass\\n os.kill(os.getppid(), signal.SIGTERM)"
sender = subprocess.Popen([sys.executable, "-c", sender], stdin=subprocess.PIPE, text=True)
returned = 0
for start in range(40):
    try:
        with Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off", sigterm="stop", resume=True) as tracker:
            tracker.log_metric("loss", 0.0)
            returned += 1
            sender.stdin.write(f"{start * 500}\\n")
            sender.stdin.flush()
            while True:
                tracker.log_metric("loss", 1.0)
                returned += 1
    except SystemExit:
        pass
sender.stdin.close()
sender.wait()
print(returned)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    view = show(folder, "run")
    assert (view.status.primary, view.status.message) == ("Stopped", "SIGTERM")
    points = view.metrics[0].points
    assert int(done.stdout) <= points <= int(done.stdout) + 40, (
        "one call per SIGTERM may be recorded without having returned"
    )
    assert not os.path.lexists(folder / "writers")
