"""Ours, as a training script calls it."""

import sqlite3

from journaltrack import Tracker


def start(folder, durability="process"):
    tracker = Tracker.create(journal=folder, durability=durability, sync="off")
    log_metric = tracker.log_metric
    return lambda step: log_metric("loss", 1.0 / (step + 1), iteration_number=step), tracker.close


def found(folder, durability="process"):
    return [
        step
        for (step,) in sqlite3.connect(f"{folder}/journal.db").execute(
            "SELECT step FROM entry WHERE kind = 'metric'"
        )
    ]
