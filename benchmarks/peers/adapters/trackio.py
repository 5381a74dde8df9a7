"""Trackio: a list in memory that a thread writes to SQLite twice a second."""

import glob
import json
import os
import sqlite3


def start(folder):
    os.environ["TRACKIO_DIR"] = folder  # read when it is imported
    import trackio

    run = trackio.init(
        project="benchmark", name="benchmark", embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    return lambda step: run.log({"loss": 1.0 / (step + 1)}, step=step), trackio.finish


def found(folder):
    steps = []
    for path in glob.glob(f"{folder}/**/*.db", recursive=True):
        for step, metrics in sqlite3.connect(path).execute("SELECT step, metrics FROM metrics"):
            if "loss" in json.loads(metrics):
                steps.append(step)
    return steps
