"""`Tracker.create(capture_output=True)`: what a process prints goes where it went, and its end is
recorded.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.readmodel.artifacts import of_view, output_tail
from journaltrack.reports.component import show
from journaltrack.util import output
from tests.patience import FOREVER_S

BEGIN = """
import ctypes, os, sys
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off", capture_output=True)
"""


def run(program, folder, **options):
    """A program that has ended."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program, str(folder)],
        capture_output=True,
        check=False,
        timeout=FOREVER_S,
        **options,
    )


def recorded(folder):
    """The recorded end of the output; None if there is none."""
    kept = [each for each in show(folder, "run").outputs if each.name == "output.log"]
    return (
        (Path(folder) / "spool" / kept[0].sha256[:2] / kept[0].sha256).read_bytes()
        if kept
        else None
    )


def test_all_that_is_printed_passes_and_is_recorded(tmp_path):
    """Python, C code that holds the interpreter's lock, raw writes and children: in order, on the
    stream that they chose, until close; what comes later is not recorded.
    """
    program = """
print("python")
ctypes.PyDLL(None).puts(b"c" * 300_000)
os.write(2, b"\\xffraw\\n")
ctypes.PyDLL(None).fflush(None)
sys.stdout.flush()
os.system("echo child")
tracker.close()
print("later")
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"\xffraw\n"
    assert sorted(done.stdout.split()) == sorted([b"python", b"c" * 300_000, b"child", b"later"])
    kept = recorded(tmp_path)
    # Two streams meet where one is in the middle of a line.
    assert len(kept) == len(done.stdout) - len(b"later\n") + len(done.stderr)
    assert [kept.count(each) for each in (b"python\n", b"\xffraw\n", b"child\n")] == [1, 1, 1]


@pytest.mark.slow
def test_the_end_is_recorded_without_a_close(tmp_path):
    """A script that forgets `close`, or ends by an exception, has its output recorded, with the
    traceback's first lines that were printed by then.
    """
    done = run('print("x")', tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert recorded(tmp_path) == b"x\n"
    # By one stream: between two of them there is no order.
    program = 'print("x", file=sys.stderr); raise ValueError("of mine")'
    failed = run(program, tmp_path / "other")
    assert failed.stderr.startswith(b"x\n")
    assert failed.stderr.endswith(b"ValueError: of mine\n")
    assert recorded(tmp_path / "other") == failed.stderr


def test_a_forked_child_ends_nothing(tmp_path):
    """A child that closes its tracker leaves the parent's output captured."""
    program = """
if os.fork() == 0:
    print("child", flush=True)
    tracker.close()
    os._exit(0)
os.wait()
print("parent")
tracker.close()
"""
    done = run(program, tmp_path)
    assert done.stdout.split() == [b"child", b"parent"]
    assert recorded(tmp_path).split() == [b"child", b"parent"]


def test_two_captures_end_in_any_order(tmp_path):
    """Each records what was printed while it lived, and afterwards the output is as before."""
    program = """
second = Tracker.create(trial_component_name="b", journal=sys.argv[1], sync="off", capture_output=True)
print("both", flush=True)
tracker.close()
print("second", flush=True)
second.close()
print("none")
"""
    done = run(program, tmp_path)
    assert (done.stdout, done.stderr) == (b"both\nsecond\nnone\n", b"")
    assert recorded(tmp_path) == b"both\n"


def test_under_pytest_python_s_own_streams_count(tmp_path, capfd):
    """Where sys.stdout is not descriptor 1, both are recorded, both pass, and both are restored."""
    before = sys.stdout
    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path, sync="off", capture_output=True
    )
    sys.stdout.write("python\n")
    os.write(1, b"descriptor\n")
    tracker.close()
    assert sys.stdout is before
    sys.stdout.write("later\n")
    assert sorted(capfd.readouterr().out.split()) == ["descriptor", "later", "python"]
    assert sorted(recorded(tmp_path).split()) == [b"descriptor", b"python"]


def test_with_replaced_streams_what_others_have_replaced_stays(tmp_path, capsys):
    """Somebody who replaced the stream or the descriptor meanwhile keeps theirs."""
    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path, sync="off", capture_output=True
    )
    ours, theirs = sys.stdout, io.StringIO()
    saved, other = os.dup(1), os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    sys.stdout = theirs
    os.dup2(other, 1)
    try:
        tracker.close()
        assert sys.stdout is theirs
        assert os.path.samestat(os.fstat(1), os.fstat(other))
    finally:
        sys.stdout = ours.stream
        os.dup2(saved, 1)
        for each in (saved, other):
            os.close(each)
    assert recorded(tmp_path) is None


def test_without_a_relay_nothing_is_changed(tmp_path, monkeypatch):
    """If no process can be started, a warning says that the output is not kept, and all is as
    before.
    """
    monkeypatch.setattr(sys, "executable", "")
    number = os.fstat(1).st_ino
    with pytest.warns(UserWarning, match="the output is not kept"):
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path, sync="off", capture_output=True
        )
    assert os.fstat(1).st_ino == number
    tracker.close()
    assert recorded(tmp_path) is None


def test_a_killed_relay_is_no_error(tmp_path):
    """If the relay is gone, close records the rest, and the output is as before."""
    program = """
os.kill(tracker._capture._relay._process.pid, 9)
os.waitpid(tracker._capture._relay._process.pid, 0)
tracker.log_metric("loss", 1.0, step=0)
tracker.close()
print("later")
"""
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"later\n", b"")
    assert recorded(tmp_path) is None
    assert [each.name for each in show(tmp_path, "run").metrics] == ["loss"]


def test_streams_to_one_file_keep_their_order(tmp_path):
    """With `2>&1` the file and the record have the lines in the order of their printing."""
    words = ["out", "err"] * 50
    program = "for n in range(50): os.write(1, b'out\\n'); os.write(2, b'err\\n')"
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-c", BEGIN + program, str(tmp_path / "j")],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=FOREVER_S,
        )
    assert (tmp_path / "log").read_text().split() == words
    assert recorded(tmp_path / "j").decode().split() == words


def test_a_process_without_stdin_keeps_its_output(tmp_path):
    """The number of a closed stream is given to whatever is opened next: not to the relay."""
    program = "print('x', flush=True); tracker.close()"
    line = [sys.executable, "-c", BEGIN + program, str(tmp_path)]
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(line)} 0<&-"],
        capture_output=True,
        check=False,
        timeout=FOREVER_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert recorded(tmp_path) == b"x\n"


@pytest.fixture
def printed(tmp_path):
    """Records a text as what a run printed; returns what `show` knows of the run."""

    def record(content):
        with Tracker.create(
            trial_component_name="run", journal=tmp_path, sync="off", resume=True
        ) as tracker:
            tracker.trial_component.recorder.output(content)
        return show(tmp_path, "run")

    return record


def tail(view, *count):
    """The last lines that are told of a run."""
    return output_tail([of_view(each, view.journal) for each in view.artifacts], *count)


def test_the_tail_is_what_a_terminal_would_show(printed):
    """Without colours, titles, control characters and overwritten progress; cut in both ways."""
    view = printed(
        b"first\n\x1b]0;title\x07\x1b[31mred\x1b[0m\xff\r\n 1%\r99%\r100%\n\ttab\x00\x07\n"
        + b"x" * 600
        + b"\n\n"
    )
    wide = "x" * 499 + "…"
    assert tail(view) == ["first", "red\N{REPLACEMENT CHARACTER}", "100%", "\ttab", wide]
    assert tail(view, 2) == ["\ttab", wide]
    huge = printed(b"".join(b"%d\n" % number for number in range(100_000)))
    assert tail(huge, 2) == ["99998", "99999"]


def test_no_tail_is_told_of_what_is_not_here(printed, tmp_path):
    """No such artifact, no content, and a link or a pipe in a stranger's spool: nothing."""
    view = printed(b"secret\n")
    (kept,) = view.outputs
    assert tail(dataclasses.replace(view, artifacts=())) == []
    assert tail(view) == ["secret"]
    file = tmp_path / "spool" / kept.sha256[:2] / kept.sha256
    file.chmod(0o600)
    file.rename(tmp_path / "elsewhere")
    assert tail(view) == []
    file.symlink_to(tmp_path / "elsewhere")
    assert tail(view) == []
    file.unlink()
    os.mkfifo(file)
    assert tail(view) == []
    file.unlink()
    file.parent.rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / file.name)
    file.parent.symlink_to(tmp_path)
    assert tail(view) == []


def test_show_tells_why_a_run_failed(tmp_path):
    """The exception with its type, the end of its traceback, and the end of the output."""
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path, sync="off")
    tracker.trial_component.recorder.output(b"epoch 0\n\x1b[31mepoch 1\n")
    with pytest.raises(KeyError), tracker:
        raise KeyError("lr")
    told = CliRunner().invoke(main, ["show", "run", "-j", str(tmp_path)]).output
    assert "Failed: 'lr'" in told
    assert "\n  KeyError: 'lr'\n" in told
    assert "\ntraceback\n  Traceback (most recent call last):\n" in told
    assert "\nend of output.log\n  epoch 0\n  epoch 1\n" in told


def test_a_relay_that_is_still_needed_is_no_warning(tmp_path):
    """A child that holds the output when the process ends: nothing is said of the relay."""
    program = "os.posix_spawn('/bin/cat', ['cat'], os.environ); tracker.close()"
    process = subprocess.Popen(
        [sys.executable, "-W", "always", "-c", BEGIN + program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.wait(FOREVER_S) == 0
    assert process.communicate(timeout=FOREVER_S)[1] == b""


def test_the_end_of_the_output_begins_with_a_line():
    """What is kept is at most as much as was asked for, whole lines, and says what is missing."""
    tail = output._Tail(10)
    tail.add(b"first\nsecond\nthird\n")
    content, seen = tail.content()
    assert (content, seen) == (b"third\n", 19)
    assert output.Kept(content, seen, True).text() == (
        b"[13 bytes before these are not kept]\nthird\n"
    )
    for _ in range(10_000):
        tail.add(b"x")
    assert tail.content() == (b"x" * 10, 10_019)
