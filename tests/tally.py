"""What attacks counted, for the table of `make soak` and of docs/reliability.md."""

from __future__ import annotations

import json
import os
from collections import Counter

PATH = os.environ.get("JOURNALTRACK_TALLY")  # now: tests run without such variables


def count(attack, *, attacks, checked=0, lost=0):
    """Add to the tally, if somebody keeps one: JOURNALTRACK_TALLY names the file.

    Args:
        attack: What was done; the rows of the table.
        attacks: How often.
        checked: Entries that were looked for afterwards.
        lost: How many of them were lost, doubled or torn.
    """
    if PATH:
        line = json.dumps([attack, attacks, checked, lost]) + "\n"
        descriptor = os.open(PATH, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode())  # one write: tests of several processes append
        os.close(descriptor)


def rows(path):
    """(attack, attacks, checked, lost), added up, in order of first mention."""
    sums = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            attack, *numbers = json.loads(line)
            sums.setdefault(attack, Counter()).update(
                dict(zip(("attacks", "checked", "lost"), numbers, strict=True))
            )
    return [
        (attack, each["attacks"], each["checked"], each["lost"]) for attack, each in sums.items()
    ]
