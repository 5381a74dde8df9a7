"""What ``mlflow.log_metric`` takes with a journal behind it, beside MLflow's own default, SQLite.

Needs MLflow: ``.venv-mlflow/bin/python -m benchmarks mlflow-store`` after ``make test-mlflow``.
Each side logs in a process of its own, by MLflow's own code.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, compare, own_folder, say, take_turns

TARGET_US = 250
SQLITE = "MLflow's own SQLite store"


def run(run: Run) -> list[Result]:
    """Measure both stores. The targets are 250 µs a call, and a tenth of what SQLite takes."""
    if importlib.util.find_spec("mlflow") is None:
        say("  mlflow is not installed here: .venv-mlflow/bin/python -m benchmarks mlflow-store")
        return []
    target = "benchmarks.mlflow_store:log"
    sides = [
        Side("journal", target, {"calls": run.size(5_000, 500), "ours": True}),
        Side(SQLITE, target, {"calls": run.size(500, 50), "ours": False}),
    ]
    ours, theirs = take_turns(sides, run.rounds).values()
    return [
        compare(
            "mlflow-store",
            "mlflow.log_metric into a journal",
            "µs",
            [each["call_us"] for each in ours],
            [each["call_us"] for each in theirs],
            floor_name=SQLITE,
            target=TARGET_US,
        )
    ]


def log(calls: int, ours: bool) -> Values:
    """Log one point a call, after some that are not counted. The median call, in µs."""
    import mlflow

    with own_folder():
        folder = Path.cwd()
        mlflow.set_tracking_uri(
            f"journaltrack://{folder}/journal" if ours else f"sqlite:///{folder}/mlflow.db"
        )
        taken_ns = []
        with mlflow.start_run():
            for step in range(-20, calls):
                began = time.perf_counter_ns()
                mlflow.log_metric("loss", 1.0 / (step + 30), step=max(step, 0))
                if step >= 0:
                    taken_ns.append(time.perf_counter_ns() - began)
        return {"call_us": statistics.median(taken_ns) / 1e3}
