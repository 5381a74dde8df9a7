"""`journaltrack run`: real commands in real processes, with signals, terminals, pipes that nobody
reads and journals that can't be written.
"""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack import Tracker
from journaltrack.journal.journal import Journal
from journaltrack.readmodel import model as readmodel
from journaltrack.reports.component import show
from journaltrack.util.config import RUN_VARIABLE
from tests.patience import FOREVER_S

COUNTING = """
import signal, sys
mine = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, mine)
print("ready", flush=True)
got = [signal.sigwaitinfo(mine)]
while more := signal.sigtimedwait(mine, 1.5):
    got.append(more)
print("got", *[signal.Signals(each.si_signo).name for each in got], flush=True)
sys.exit(len(got))
"""
"""Waits for a signal, and 1.5 s for more; says which came, and exits with their number."""


def command(folder, *words, options=()):
    """The command line of a launch that records in a folder as `run`."""
    return [
        *(sys.executable, "-m", "journaltrack", "run", "--sync", "off", "--name", "run"),
        *("-j", str(folder), *options, "--", *words),
    ]


def python(folder, program, *options):
    """The same, of a program of Python."""
    return command(folder, sys.executable, "-c", program, options=options)


def done(line, **options):
    """A launch that has ended."""
    return subprocess.run(line, capture_output=True, check=False, timeout=FOREVER_S, **options)


def read_until(descriptor, word):
    """What a descriptor gives until a word came."""
    found = b""
    while word not in found:
        readable, _, _ = select.select([descriptor], [], [], FOREVER_S)
        assert readable, found
        chunk = os.read(descriptor, 4096)
        assert chunk, found
        found += chunk
    return found


def output_of(folder, name="output.log"):
    """The recorded end of the output."""
    view = show(folder, "run")
    (kept,) = [each for each in view.outputs if each.name == name]
    return (Path(folder) / "spool" / kept.sha256[:2] / kept.sha256).read_bytes()


@pytest.fixture
def folder(tmp_path):
    """Where the journal is. A hang-up ends launches, as under nohup it would not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield tmp_path / "journal"
    signal.signal(signal.SIGHUP, before)


def test_output_passes_byte_for_byte_and_its_end_is_recorded(folder):
    """Any bytes arrive on the stream that they were written to, the exit code is the command's,
    and the artifact has both streams.
    """
    program = (
        "import os, sys; os.write(1, bytes(range(256))); os.write(2, b'\\xff\\r\\x1b[31mred\\n'); "
        "sys.exit(7)"
    )
    ended = done(python(folder, program))
    assert (ended.returncode, ended.stdout) == (7, bytes(range(256)))
    assert ended.stderr == b"\xff\r\x1b[31mred\n"
    kept = output_of(folder)
    assert bytes(range(256)) in kept
    assert ended.stderr in kept
    view = show(folder, "run")
    assert (view.status.primary, view.status.message) == ("Failed", "exit code 7")
    assert view.status.start_ns <= view.status.end_ns
    assert {each.name: each.value for each in view.parameters}["run/exit_code"] == 7


def test_a_run_that_ends_well_is_completed_without_a_tracker(folder):
    """A script that only prints is a run with a start, an end and its output."""
    ended = done(command(folder, "echo", "done"))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"done\n", b"")
    view = show(folder, "run")
    assert (view.status.primary, view.status.message) == ("Completed", None)
    assert output_of(folder) == b"done\n"


@pytest.mark.parametrize(
    ("number", "status"), [("KILL", "Failed"), ("SEGV", "Failed"), ("TERM", "Stopped")]
)
def test_a_signal_that_kills_the_command_is_its_exit_code(folder, number, status):
    """128 and the signal's number is returned, as by a shell, and the signal is recorded."""
    ended = done(command(folder, "sh", "-c", f"kill -{number} $$"))
    assert ended.returncode == 128 + signal.Signals[f"SIG{number}"]
    now = show(folder, "run").status
    assert (now.primary, now.message) == (status, f"killed by SIG{number}")


@pytest.mark.parametrize(
    ("word", "code"), [("/nowhere/train", 127), ("nosuchcommand", 127), ("/etc/passwd", 126)]
)
def test_a_command_that_can_not_be_run_is_told_and_recorded(folder, word, code):
    """The exit code is a shell's, the message names the command, and the run is Failed."""
    ended = done(command(folder, word))
    assert ended.returncode == code
    assert word in ended.stderr.decode()
    assert show(folder, "run").status.primary == "Failed"


def test_trackers_without_a_name_are_in_the_run(folder):
    """`create`, `create(resume=True)` and `load` belong to the run and its journal, in children
    too; a name of their own, and the second `create` of a process, do not.
    """
    program = """
import subprocess, sys
from journaltrack import Tracker
first = Tracker.create(display_name="shown")
first.log_metric("loss", 1.0, step=0)
Tracker.create(resume=True).log_metric("loss", 2.0, step=1)
Tracker.load().log_parameter("rate", 0.1)
named = Tracker.create(trial_component_name="mine")
second = Tracker.create()
code = 'from journaltrack import Tracker; Tracker.create().log_metric("loss", 3.0, step=2)'
subprocess.run([sys.executable, "-c", code], check=True)
print(first.trial_component, named, second)
"""
    ended = done(python(folder, program))
    assert ended.returncode == 0, ended.stderr
    view = show(folder, "run")
    assert view.display_name == "shown"
    assert [(each.name, each.points) for each in view.metrics] == [("loss", 3)]
    assert "rate" in {each.name for each in view.parameters}
    with closing(Journal.open(folder, read_only=True)) as journal:
        names = [row.name for row in journal.runs()]
    assert names[:2] == ["run", "mine"]
    assert len(names) == 3


def test_the_variable_wins_over_a_job_s_run(folder, monkeypatch):
    """In a SageMaker job the launch's run comes before the job's component."""
    monkeypatch.setenv("TRAINING_JOB_ARN", "arn:aws:sagemaker:us-east-1:1:training-job/job")
    monkeypatch.setenv(RUN_VARIABLE, "Launched")
    tracker = Tracker.load(journal=folder, sync="off")
    assert str(tracker) == "launched"
    monkeypatch.delenv(RUN_VARIABLE)
    assert str(Tracker.load(journal=folder, sync="off")) == "job-aws-training-job"


def test_a_job_that_the_command_submits_is_no_part_of_its_run(folder):
    """`sbatch` hands the environment on: in the other job the run's name does not count, in a step
    of the same job it does.
    """
    script = "from journaltrack import Tracker; print(Tracker.create(resume=True, sync='off'))"
    step = shlex.join([sys.executable, "-c", script])
    ended = done(
        command(folder, "sh", "-c", f"SLURM_STEP_ID=0 {step}; SLURM_JOB_ID=2 {step}"),
        env=os.environ | {"SLURM_JOB_ID": "1"},
    )
    assert ended.stdout.decode().split() == ["run", "slurm-2"]


def test_what_the_script_says_of_its_end_stays(folder):
    """The message of the script's exception is not replaced by an exit code, but a run that was
    called Completed before the script failed is Failed.
    """
    block = "from journaltrack import Tracker\nwith Tracker.create(resume=True):\n    "
    assert done(python(folder, block + 'raise ValueError("the loss is NaN")')).returncode == 1
    now = show(folder, "run").status
    assert (now.primary, now.message) == ("Failed", "the loss is NaN")
    assert done(python(folder, block + "pass\nraise SystemExit(9)")).returncode == 9
    now = show(folder, "run").status
    assert (now.primary, now.message) == ("Failed", "exit code 9")
    assert done(python(folder, block + "pass")).returncode == 0
    assert show(folder, "run").status.primary == "Completed"


@pytest.mark.parametrize("to_group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_reaches_the_command_once(folder, number, to_group):
    """Whether a signal is sent to the launch alone or to all of its group: the command gets it, and
    gets it once.
    """
    process = subprocess.Popen(
        python(folder, COUNTING), stdout=subprocess.PIPE, start_new_session=True
    )
    read_until(process.stdout.fileno(), b"ready\n")
    (os.killpg if to_group else os.kill)(process.pid, number)
    rest, _ = process.communicate(timeout=FOREVER_S)
    assert rest.decode().split() == ["got", number.name]
    assert process.returncode == 1
    now = show(folder, "run").status
    stops = number in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    assert now.primary == ("Stopped" if stops else "Failed")
    assert now.message == (f"exit code 1 after {number.name}" if stops else "exit code 1")


def on_terminal(line):
    """Start a launch on a terminal, which is its controlling one; returns pid and descriptor."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(line[0], line)
    return pid, terminal


def ended(pid):
    """The exit code of a process that was waited for."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_on_a_terminal_the_command_has_one_and_ctrl_c_comes_once(folder):
    """The streams are terminals of the right size, line ends are as the terminal makes them, and
    Ctrl-C interrupts the command once.
    """
    program = (
        "import os, sys; print(sys.stdout.isatty(), sys.stderr.isatty(), flush=True)" + COUNTING
    )
    pid, terminal = on_terminal(python(folder, program))
    said = read_until(terminal, b"ready")
    assert b"True True\r\n" in said
    assert b"\r\r" not in said
    os.write(terminal, b"\x03")
    assert b"got SIGINT" in read_until(terminal, b"got SIGINT\r\n")
    assert ended(pid) == 1
    os.close(terminal)
    assert show(folder, "run").status.message == "exit code 1 after SIGINT"


def test_a_terminal_s_new_size_reaches_the_command(folder):
    """SIGWINCH finds the new size in the command's own terminal."""
    program = """
import os, signal
def told(number, frame):
    size = os.get_terminal_size(1)
    if size.columns == 123:
        print("size", size.columns, size.lines, flush=True)
        os._exit(0)
signal.signal(signal.SIGWINCH, told)
print("ready", flush=True)
while True:
    signal.pause()
"""
    import fcntl
    import struct
    import termios

    pid, terminal = on_terminal(python(folder, program))
    read_until(terminal, b"ready")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 123, 0, 0))
    read_until(terminal, b"size 123 45")
    assert ended(pid) == 0
    os.close(terminal)


def test_ctrl_z_stops_the_launch_and_fg_continues_it(folder):
    """A shell sees the job stopped, and both processes go on when it is continued."""
    program = (
        "import os, signal; "
        "signal.signal(signal.SIGCONT, lambda *_: os.write(1, b'goes on\\n')); "
        "print('ready', flush=True); "
        "[signal.pause() for _ in iter(int, 1)]"
    )
    script = f"set -m; {shlex.join(python(folder, program))}; echo stopped:$?; fg; echo code:$?"
    pid, terminal = on_terminal(["/bin/bash", "--norc", "-c", script])
    read_until(terminal, b"ready")
    os.write(terminal, b"\x1a")
    said = read_until(terminal, b"goes on\r\n")
    assert b"stopped:148" in said
    os.write(terminal, b"\x03")
    read_until(terminal, b"code:130")
    ended(pid)
    os.close(terminal)


def test_who_holds_the_output_after_the_end_delays_nothing_and_can_go_on(folder, tmp_path):
    """The command ends while a process that it started still prints: the launch ends with the
    command's code, and what is printed later arrives.
    """
    go, line = tmp_path / "go", "import sys, subprocess; "
    os.mkfifo(go)
    later = f"sh -c 'cat {go}; echo later'"
    program = line + f"subprocess.Popen({later!r}, shell=True); print('first'); sys.exit(3)"
    process = subprocess.Popen(python(folder, program), stdout=subprocess.PIPE)
    assert process.wait(FOREVER_S) == 3
    assert output_of(folder) == b"first\n"
    go.write_text("x")
    assert process.stdout.read() == b"first\nxlater\n"
    process.stdout.close()


def test_a_command_that_closes_its_output_runs_on(folder):
    """Closed streams end neither the launch nor the record."""
    program = "import os; os.write(1, b'a\\n'); os.close(1); os.close(2); os._exit(5)"
    ended = done(python(folder, program))
    assert (ended.returncode, ended.stdout) == (5, b"a\n")
    assert show(folder, "run").status.message == "exit code 5"


def test_much_output_passes_and_only_its_end_is_kept(folder):
    """Of 10 MB all bytes arrive, and whole lines of at most the given size are recorded."""
    program = "print('\\n'.join(map('{:09}'.format, range(1_000_000))))"
    ended = done(python(folder, program, "--output-bytes", "1000"))
    assert len(ended.stdout) == 10_000_000
    first, *lines = output_of(folder).splitlines()
    assert first == f"[{10_000_000 - 10 * len(lines)} bytes before these are not kept]".encode()
    assert lines[-1] == b"000999999"
    assert 90 < len(lines) <= 100


def test_a_reader_that_is_gone_ends_the_command_as_ever(folder):
    """`| head` gets its lines, and the command gets the broken pipe that it would get alone."""
    line = shlex.join(command(folder, "yes"))
    ended = done(["bash", "-c", f"set -o pipefail; {line} | head -2; echo ${{PIPESTATUS[0]}}"])
    assert ended.stdout == b"y\ny\n141\n"
    assert show(folder, "run").status.message == "killed by SIGPIPE"


@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "0<&-", "1>&- 2>&-"])
def test_closed_streams_are_no_fault(folder, closed):
    """Whichever of them the launch has not, the command runs, and its output is kept."""
    program = "import os; os.write(1, b'out\\n'); os.write(2, b'err\\n'); os._exit(3)"
    ended = done(["bash", "-c", f"{shlex.join(python(folder, program))} {closed}"])
    assert ended.returncode == 3
    assert ended.stdout == (b"out\n" if "1" not in closed else b"")
    assert sorted(output_of(folder).split()) == [b"err", b"out"]


def test_nohup_survives_a_hang_up(folder):
    """Neither the launch nor the command ends, and a failure later is not taken for its effect;
    other signals are passed on.
    """
    program = (
        "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(4)); "
        "print('ready', flush=True); [signal.pause() for _ in iter(int, 1)]"
    )
    process = subprocess.Popen(
        ["nohup", *python(folder, program)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    read_until(process.stdout.fileno(), b"ready\n")
    os.killpg(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait(FOREVER_S) == 4
    process.stdout.close()
    now = show(folder, "run").status
    assert (now.primary, now.message) == ("Failed", "exit code 4")


def test_without_capture_the_command_has_our_streams(folder):
    """--output-bytes 0 puts nothing between, and records no output."""
    ended = done(command(folder, "echo", "x", options=("--output-bytes", "0")))
    assert ended.stdout == b"x\n"
    assert show(folder, "run").outputs == ()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")
def test_a_journal_that_can_not_be_written_is_told_and_the_command_runs(tmp_path):
    """The exit code and the output are the command's; a warning says what is missing."""
    (tmp_path / "file").write_text("not a folder")
    ended = done(command(tmp_path / "file" / "journal", "sh", "-c", "echo out; exit 3"))
    assert (ended.returncode, ended.stdout) == (3, b"out\n")
    assert b"warning: the run is not recorded yet" in ended.stderr


def test_a_locked_journal_delays_no_command(folder):
    """While another program holds the journal's lock, the command runs and ends; what happened is
    recorded when the lock is free.
    """
    done(command(folder, "true"))
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            command(folder, "sh", "-c", "echo began; exit 4"), stdout=subprocess.PIPE
        )
        read_until(process.stdout.fileno(), b"began")
        other.execute("ROLLBACK")
    assert process.wait(FOREVER_S) == 4
    process.stdout.close()
    assert show(folder, "run").status.message == "exit code 4"


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
def test_a_launch_that_is_killed_takes_the_command_with_it(folder):
    """After SIGKILL of the launch the command is dead, and the run is interrupted."""
    program = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    process = subprocess.Popen(python(folder, program), stdout=subprocess.PIPE)
    pid = int(read_until(process.stdout.fileno(), b"\n"))
    process.kill()
    assert process.wait(FOREVER_S) == -signal.SIGKILL
    # The end of the file: the command and the relay are gone.
    assert process.stdout.read() == b""
    process.stdout.close()
    until = time.monotonic() + FOREVER_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        os.sched_yield()
    assert not Path(f"/proc/{pid}").exists()
    assert show(folder, "run").run.state == "interrupted"


def test_impossible_options_are_wrong_usage_before_anything_runs(folder, tmp_path):
    """A name that can't be one, a number of bytes that is too large, a misspelt option, which is
    told the right one: exit code 2, and the command was not started.
    """
    for options in (
        ("--name", "a_b"),
        ("--experiment", "x y"),
        ("--output-bytes", "-1"),
        ("--tensorbord", "board"),
    ):
        ended = done(command(folder, "touch", str(tmp_path / "ran"), options=options))
        assert ended.returncode == 2, options
    assert b"--tensorboard" in ended.stderr
    assert not (tmp_path / "ran").exists()
    assert not folder.exists()


def test_system_metrics_are_those_of_the_command(folder):
    """They are recorded by the launch alone, once, and count the command's processes."""
    program = """
import os
from journaltrack import Tracker
memory = bytearray(200_000_000)
memory[::4096] = b"x" * len(memory[::4096])
tracker = Tracker.create(system_metrics=None)
print(os.environ["JOURNALTRACK_SYSTEM_EVERY_S"], flush=True)
input()
"""
    process = subprocess.Popen(
        python(folder, program, "--system-metrics", "0.1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert read_until(process.stdout.fileno(), b"\n") == b"0\n"
    with closing(Journal.open(folder, read_only=True)) as journal:
        before = journal.last_seq()
        until = time.monotonic() + FOREVER_S
        while journal.last_seq() < before + 40 and time.monotonic() < until:
            os.sched_yield()
    process.communicate(b"\n", timeout=FOREVER_S)
    metrics = {each.name: each for each in show(folder, "run").metrics}
    assert metrics["system/process_memory_bytes"].maximum > 200_000_000


def test_kill_of_everything_keeps_the_output_that_was_recorded_before(folder):
    """The output is recorded every so often: after SIGKILL of the whole group an artifact is there,
    and the run is interrupted.
    """
    quick = (
        "import sys; from journaltrack.app import launch; launch._KEEP_FIRST_S = 0.2; "
        "from journaltrack.cli import main; main(prog_name='journaltrack')"
    )
    line = [sys.executable, "-c", quick, *command(folder, "sh", "-c", "echo kept; sleep 1000")[3:]]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True)
    read_until(process.stdout.fileno(), b"kept\n")
    until = time.monotonic() + FOREVER_S
    while time.monotonic() < until:
        if (folder / "journal.db").exists() and show(folder, "run").outputs:
            break
    os.killpg(process.pid, signal.SIGKILL)
    # The end of the file: the command and the relay are gone, too.
    assert process.stdout.read() == b""
    process.stdout.close()
    process.wait(FOREVER_S)
    assert output_of(folder) == b"kept\n"
    assert show(folder, "run").run.state == "interrupted"


def test_a_signal_while_it_delivers_ends_the_launch_with_the_command_s_code(folder):
    """Whoever does not want to wait for AWS gets the exit code, and everything is recorded."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": "AKIDTEST",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "JOURNALTRACK_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "JOURNALTRACK_CLOSE_DEADLINE_S": "3600",
        }
        line = command(folder, "sh", "-c", "exit 3", options=("--sync", "close"))
        process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE)
        # It has begun to deliver.
        connection, _ = silent.accept()
        process.terminate()
        _, told = process.communicate(timeout=FOREVER_S)
        connection.close()
    assert process.returncode == 3
    assert b"Traceback" not in told
    assert show(folder, "run").status.message == "exit code 3"


def test_a_second_command_of_a_slurm_job_hides_no_failure(folder):
    """Of two commands in one job the first one's failure stays a run of its own; when the job is
    requeued, each continues its run, which is called continued from then on, and keeps its start
    and what it printed before. A tracker finds the run that was launched for it.
    """
    script = """if True:
        import os, sys
        from journaltrack import Tracker
        print(Tracker.load(sync="off"))
        print(os.environ.get("SLURM_RESTART_COUNT"), file=sys.stderr)
    """
    environment = {"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0"}

    def launched(*words, restart=None):
        line = command(folder, *words)
        del line[line.index("--name") : line.index("--name") + 2]
        own = environment | ({"SLURM_RESTART_COUNT": restart} if restart else {})
        return done(line, env=os.environ | own)

    def runs():
        with closing(Journal.open(folder, read_only=True)) as journal:
            return {row.name: show(folder, row.name) for row in journal.runs()}

    assert launched("false").returncode == 1
    told = [launched(sys.executable, "-c", script).stdout for _ in range(2)]
    python = Path(sys.executable).stem.replace(".", "-")
    names = [f"slurm-4711-{python}", f"slurm-4711-{python}-2"]
    assert [each.decode().strip() for each in told] == names
    assert {name: (view.status.primary, view.origins) for name, view in runs().items()} == {
        "slurm-4711-false": ("Failed", ("created",)),
        **dict.fromkeys(names, ("Completed", ("created",))),
    }
    began = {name: view.status.start_ns for name, view in runs().items()}
    again = launched(sys.executable, "-c", script, restart="1").stdout
    assert again.decode().strip() == names[0]
    assert {name: view.status.start_ns for name, view in runs().items()} == began
    assert [view.origins for view in runs().values()] == [
        ("created",),
        ("created", "resumed"),
        ("created",),
    ]
    with readmodel.open([folder]) as model:
        model.refresh()
        found = {each.name: each.read() for each in model.find(names[:1])[0].artifacts}
    assert list(found) == ["output.log", "output.log.1"]
    assert (b"1" in found["output.log"], b"None" in found["output.log.1"]) == (True, True)


BOARD = """
import sys
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

def write(folder, steps):
    writer = EventFileWriter(folder)
    for step in steps:
        value = Summary.Value(tag="loss", simple_value=float(step))
        writer.add_event(Event(wall_time=1e9 + step, step=step, summary=Summary(value=[value])))
    writer.close()
"""
"""Writes event files as torch's SummaryWriter does."""


def test_event_files_of_tensorboard_are_imported_while_they_are_written(folder, tmp_path):
    """Scalars of a script that knows no tracker are in the run before it ends, with steps and
    times, each once; files of an earlier run are not.
    """
    pytest.importorskip("tensorboard")
    board = tmp_path / "board"
    subprocess.run(
        [sys.executable, "-c", f"{BOARD}\nwrite({str(board)!r}, range(100, 103))"], check=True
    )
    long_ago = time.time() - 3600
    for file in board.iterdir():
        os.utime(file, (long_ago, long_ago))
    program = f"{BOARD}\nwrite(sys.argv[1], range(3))\nprint('wrote', flush=True)\ninput()\n"
    program += "write(sys.argv[1] + '/test', range(3, 5))"
    quick = (
        "import sys; from journaltrack.app import launch; launch._FOLLOW_S = 0.1; "
        "from journaltrack.cli import main; main(prog_name='journaltrack')"
    )
    words = command(
        folder, sys.executable, "-c", program, board, options=("--tensorboard", str(board))
    )
    process = subprocess.Popen(
        [sys.executable, "-c", quick, *words[3:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    read_until(process.stdout.fileno(), b"wrote\n")
    until = time.monotonic() + FOREVER_S
    while not show(folder, "run").metrics and time.monotonic() < until:
        pass
    assert [(each.name, each.points) for each in show(folder, "run").metrics] == [("loss", 3)]
    process.communicate(b"\n", timeout=FOREVER_S)
    assert process.returncode == 0
    found = {each.name: each for each in show(folder, "run").metrics}
    assert {name: each.points for name, each in found.items()} == {"loss": 3, "test/loss": 2}
    assert (found["loss"].last_value, found["loss"].last_step) == (2.0, 2)
    assert found["loss"].last_timestamp_ns == 1_000_000_002 * 10**9


def test_points_that_a_kill_left_in_event_files_arrive_when_the_run_is_continued(folder, tmp_path):
    """After SIGKILL of a launch that imported nothing yet, the next launch of the run imports what
    was written before, but nothing of another run with the same folder. A folder without event
    files is told.
    """
    pytest.importorskip("tensorboard")
    board = tmp_path / "board"
    options = ("--tensorboard", str(board))
    program = f"{BOARD}\nwrite({str(board)!r}, range(3))\nprint('wrote', flush=True)\ninput()\n"
    process = subprocess.Popen(
        command(folder, sys.executable, "-c", program, options=options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    read_until(process.stdout.fileno(), b"wrote\n")
    process.kill()
    process.communicate(timeout=FOREVER_S)
    assert show(folder, "run").metrics == ()
    other = command(
        folder, sys.executable, "-c", f"{BOARD}\nwrite({str(board)!r}, [7])", options=options
    )
    other[other.index("run", 4)] = "other"
    assert done(other).stderr == b""
    again = done(command(folder, "true", options=options))
    assert (again.returncode, again.stderr) == (0, b"")
    view = show(folder, "run")
    assert [(each.name, each.points, each.last_step) for each in view.metrics] == [("loss", 3, 2)]
    assert [(each.points, each.last_step) for each in show(folder, "other").metrics] == [(1, 7)]
    assert {each.name: each.value for each in view.parameters}["run/event_files"] == 1
    empty = done(command(folder, "true", options=("--tensorboard", str(tmp_path / "none"))))
    assert b"has no event files of this run: nothing was imported" in empty.stderr
    values = {each.name: each.value for each in show(folder, "run").parameters}
    assert values["run/event_files"] == 0


def test_a_display_name_that_is_mended_is_told(folder):
    """Recorded as SageMaker takes it, with a warning."""
    ended = done(command(folder, "true", options=("--display-name", "my run")))
    assert b"recorded and sent as 'my-run'" in ended.stderr
    assert show(folder, "run").display_name == "my-run"
