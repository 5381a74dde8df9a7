"""Training processes that are killed, for the tests of interrupted runs."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests import warm
from tests.patience import FOREVER_S

RUN = """
import os, select, shutil, subprocess, sys, threading
from journaltrack import Tracker

def pause():
    # A signal that comes just before the read would wait for its end: Python calls no handler in it.
    while not select.select([0], [], [], 1)[0]: pass
    os.read(0, 1)
def say(*what): print(*what, flush=True)

with Tracker.create(trial_component_name=sys.argv[2], journal=sys.argv[1], sync="off", resume=True) as tracker:
    tracker.log_metric("loss", 1.0, iteration_number=1)
    BODY
    say("ready")
    pause()
say("ended")
pause()
"""


class Training:
    """A process that is inside of a tracker's block, for as long as nobody lets it go on.

    Args:
        journal: Of the run.
        body: What it does in the block before it says that it is ready; `pause` waits for a line,
            `say` prints one.
        component: The run.
        program: Instead of the usual one.
    """

    def __init__(self, journal, body="pass", component="run", program=RUN):
        indented = body.strip("\n").replace("\n", "\n    ")
        command = [sys.executable, "-c", program.replace("BODY", indented), str(journal), component]
        self.process = warm.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def ready(self):
        """Wait until it is inside of the block."""
        self.hear("ready")
        return self

    def hear(self, word):
        """Wait for this line; returns the lines before it."""
        lines = []
        for line in self.process.stdout:
            if line.strip() == word:
                return lines
            lines.append(line.strip())
        raise AssertionError((lines, self.process.stderr.read()))

    def go_on(self):
        """End one pause."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self, number=signal.SIGKILL):
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        """Wait for the end; returns the exit code."""
        code = self.process.wait(FOREVER_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        return code
