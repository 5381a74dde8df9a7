"""A program that starts warm is what it is when an interpreter of its own starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests import warm

pytestmark = pytest.mark.slow

PROGRAM = """
import atexit, json, os, signal, sys, threading
atexit.register(print, "the end")
thread = threading.Thread(target=lambda: print("of a thread"))
thread.start()
thread.join()
print(json.dumps({
    "argv": sys.argv, "orig": sys.orig_argv[1:], "path": sys.path, "name": __name__, "cwd": os.getcwd(),
    "environment": dict(os.environ), "input": sys.stdin.read(), "main": vars(sys.modules["__main__"]) is globals(),
    "files": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:3], "leader": os.getsid(0) == os.getpid(),
    "errors": [sys.stdin.errors, sys.stdout.errors, sys.stderr.errors, sys.stdout.encoding],
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "pipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, "tests": "tests" in sys.modules,
}))
sys.exit(7)
"""
ENDS = [
    "1 / 0",
    "def inner():\n    raise KeyboardInterrupt\ninner()",
    "raise SystemExit('no')",
    "import sys; sys.stdout.close()",
    "class Kept:\n    __del__ = lambda self: print('cleared')\nkept = Kept()",
]


def both(command, **options):
    """What a command gives that starts cold, and warm."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    results = []
    for popen in (subprocess.Popen, warm.Popen):
        with popen([sys.executable, *command], stdin=subprocess.PIPE, **pipes, **options) as each:
            printed, errors = each.communicate("said")
        # From 3.13 on, an interpreter shows the lines of its own `-c`.
        shown = [line for line in errors.splitlines() if not line.startswith("    ")]
        results.append((printed, shown, each.returncode))
    return results


@pytest.mark.parametrize("way", ["text", "file"])
def test_a_warm_program_finds_what_a_cold_one_finds(tmp_path, way):
    """Arguments, path, folder, variables, pipes, session, signals, threads, end and code."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["-c", PROGRAM] if way == "text" else [str(tmp_path / "program.py")]
    env = {**os.environ, "OWN": "ä", "HOME": str(tmp_path)}
    cold, hot = both([*command, "--an", "option"], cwd=tmp_path, env=env, start_new_session=True)
    assert hot == cold
    assert cold[2] == 7
    first, told, last = cold[0].splitlines()
    assert (first, last) == ("of a thread", "the end")
    found = json.loads(told)
    assert found["input"] == "said"
    assert found["leader"]


@pytest.mark.parametrize("program", ENDS)
def test_a_warm_program_ends_as_a_cold_one(program):
    """By an error, a signal or a message: what it prints, and its code."""
    cold, hot = both(["-c", program])
    assert hot == cold


def test_the_command_line_is_the_same():
    """``python -m journaltrack`` refuses and tells the same, with the same code."""
    cold, hot = both(["-m", "journaltrack", "audit", "--no-such-option"])
    assert hot == cold
    assert cold[1][0].startswith("Usage: journaltrack audit")


def test_a_warm_program_is_a_process_of_its_own(tmp_path):
    """It is waited for in vain while it lives, dies of a signal, and tells which."""
    program = "import sys; print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for number in (signal.SIGKILL, signal.SIGTERM):
        with warm.Popen(command, **pipes) as process:
            assert process.stdout.readline() == "up\n"
            assert process.pid != os.getpid()
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0)
            process.send_signal(number)
            assert process.wait() == -number


def test_what_an_interpreter_reads_when_it_starts_is_started_cold(tmp_path):
    """Another PYTHONPATH is obeyed, and so is an option; another program is that program."""
    (tmp_path / "beside.py").write_text("print('found')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import beside"]
    assert warm.run(command, env=env, capture_output=True, text=True).stdout == "found\n"
    command = [sys.executable, "-O", "-c", "assert False; print('optimised')"]
    assert warm.run(command, capture_output=True, text=True).stdout == "optimised\n"
    assert warm.run(["echo", "said"], capture_output=True, text=True).stdout == "said\n"
