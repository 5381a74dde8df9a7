"""A tracker that writes a thousand values at a time: a call that returned may have left nothing
behind.
"""

import os

EVERY = 1000


def start(folder):
    kept = []

    def write():
        with open(f"{folder}/values", "a") as file:
            file.write("".join(f"{step}\n" for step in kept))
        kept.clear()

    def log(step):
        kept.append(step)
        if len(kept) == EVERY:
            write()

    return log, write


def found(folder):
    if not os.path.exists(f"{folder}/values"):
        return []
    with open(f"{folder}/values") as file:
        return [int(line) for line in file]
