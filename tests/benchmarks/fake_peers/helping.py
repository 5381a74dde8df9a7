"""A tracker with a helper in a session of its own, which writes what the calls hand over; it
outlives who is killed alone.
"""

import os
import subprocess
import sys

_HELPER = """
import sys
with open(sys.argv[1], "a") as file:
    for line in sys.stdin:
        file.write(line)
        file.flush()
import time
time.sleep(600)
"""


def start(folder):
    helper = subprocess.Popen(
        [sys.executable, "-c", _HELPER, f"{folder}/values"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    with open(f"{folder}/helper", "w") as file:
        file.write(str(helper.pid))

    def log(step):
        os.write(helper.stdin.fileno(), b"%d\n" % step)

    return log, helper.stdin.close


def found(folder):
    if not os.path.exists(f"{folder}/values"):
        return []  # killed before it was at its work
    with open(f"{folder}/values") as file:
        return [int(line) for line in file.read().split("\n")[:-1]]
