"""What a callback costs in a real training or search, beside what writes the least: a CSV row.

Each side trains in a process of its own, with one callback whose calls are timed. XGBoost and
LightGBM evaluate two sets by two metrics; SQLite's bare commit of four rows stands beside them. Of
Optuna the floor is what it does itself for a trial that costs nothing, with its storage in SQLite.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from typing import Any

from benchmarks import append
from benchmarks.measure import Result, Run, Side, Values, compare, own_folder, take_turns

OPTIONS = {"trial_component_name": "run", "journal": "journal", "sync": "off"}
CSV_ROW = "a flushed CSV row"
COMMIT = "a bare commit of 4 rows"
SETS = ("train", "valid")


def run(run: Run) -> list[Result]:
    """Measure each framework."""
    rounds = {
        "xgboost": run.size(2_000, 200),
        "lightgbm": run.size(2_000, 200),
        "optuna": run.size(300, 50),
    }
    results = []
    for framework, count in rounds.items():
        sides = [
            Side(name, f"benchmarks.callbacks:{framework}", {"rounds": count, "ours": ours})
            for name, ours in ((f"{framework}: journaltrack", True), (f"{framework}: floor", False))
        ]
        if framework != "optuna":
            sides.append(Side(COMMIT, "benchmarks.callbacks:commit", {"rounds": count}))
        ours, floor, *commits = take_turns(sides, run.rounds).values()
        results.append(
            compare(
                "callbacks",
                f"{framework}: callback per {'trial' if framework == 'optuna' else 'round'}",
                "µs",
                [each["call_us"] for each in ours],
                [each["call_us"] for each in floor],
                floor_name="Optuna's own work" if framework == "optuna" else CSV_ROW,
            )
        )
        results += [
            compare(
                "callbacks",
                f"{framework}: callback per round, to what SQLite takes",
                "µs",
                [each["call_us"] for each in ours],
                [each["call_us"] for each in commit],
                floor_name=COMMIT,
            )
            for commit in commits
        ]
        results.append(
            compare(
                "callbacks",
                f"{framework}: of it, part of the training",
                "%",
                [each["share_percent"] for each in ours],
            )
        )
    return results


class Timed:
    """Sums up what the calls of a function take, but for the first one, which sets up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.total_s = 0.0
        self.calls = -1

    def __call__(self, *arguments: Any, **named: Any) -> Any:  # noqa: D102 - as the function
        began = time.perf_counter()
        result = self.function(*arguments, **named)
        took = time.perf_counter() - began
        self.calls += 1
        self.total_s += took if self.calls else 0.0
        return result

    def values(self, training_s: float) -> Values:
        """The mean of a call, and its part of the training."""
        return {
            "call_us": self.total_s / self.calls * 1e6,
            "share_percent": self.total_s / training_s * 100,
        }


class Rows:
    """Writes a CSV row for each round."""

    def __init__(self) -> None:
        # One file, until the process ends.
        self.file = open("rounds.csv", "w", newline="")  # noqa: SIM115, PTH123
        self.writer = csv.writer(self.file)

    def write(self, step: int, values: list[float]) -> None:
        """Write a row that survives the process, as a point of the journal does."""
        self.writer.writerow([step, *values])
        self.file.flush()


def commit(rounds: int) -> Values:
    """What SQLite alone takes for the points of a round, with what the process must survive."""
    with own_folder():
        return {"call_us": 1e6 / append.bare_batches("bare", rounds, 4)["calls_per_s"]}


def _data() -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    x = random.normal(size=(2_000, 10))
    return x, (x[:, 0] + random.normal(size=2_000) > 0).astype(int)


def xgboost(rounds: int, ours: bool) -> Values:
    """Train with XGBoost."""
    import xgboost as library

    from journaltrack.integrations.xgboost import JournaltrackCallback

    with own_folder():
        x, y = _data()
        sets = [library.DMatrix(x[:1000], y[:1000]), library.DMatrix(x[1000:], y[1000:])]
        rows = Rows()

        class Floor(library.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
                found = [each[-1] for data in evals_log.values() for each in data.values()]
                rows.write(epoch, found)
                return False

        callback = JournaltrackCallback(**OPTIONS) if ours else Floor()
        callback.after_iteration = timed = Timed(callback.after_iteration)
        began = time.perf_counter()
        library.train(
            {"objective": "binary:logistic", "eval_metric": ["logloss", "auc"], "nthread": 1},
            sets[0],
            rounds,
            evals=list(zip(sets, SETS, strict=True)),
            verbose_eval=False,
            callbacks=[callback],
        )
        training_s = time.perf_counter() - began
    return timed.values(training_s)


def lightgbm(rounds: int, ours: bool) -> Values:
    """Train with LightGBM."""
    import lightgbm as library

    from journaltrack.integrations.lightgbm import JournaltrackCallback

    with own_folder():
        x, y = _data()
        train = library.Dataset(x[:1000], y[:1000], free_raw_data=False)
        rows = Rows()

        def floor(env: Any) -> None:
            rows.write(env.iteration, [each[2] for each in env.evaluation_result_list])

        timed = Timed(JournaltrackCallback(**OPTIONS) if ours else floor)
        began = time.perf_counter()
        library.train(
            {
                "objective": "binary",
                "metric": ["binary_logloss", "auc"],
                "verbose": -1,
                "num_threads": 1,
            },
            train,
            rounds,
            valid_sets=[train, train.create_valid(x[1000:], y[1000:])],
            valid_names=list(SETS),
            callbacks=[timed],
        )
        training_s = time.perf_counter() - began
    return timed.values(training_s)


def optuna(rounds: int, ours: bool) -> Values:
    """Search with Optuna in SQLite. The floor is its own time for a trial."""
    import optuna as library

    from journaltrack.integrations.optuna import JournaltrackCallback

    library.logging.set_verbosity(library.logging.ERROR)
    with own_folder():
        sampler = library.samplers.RandomSampler(seed=0)
        study = library.create_study(storage="sqlite:///study.db", sampler=sampler)

        def objective(trial: Any) -> float:
            x = trial.suggest_float("x", -1, 1)
            return float(x * x + (trial.suggest_categorical("kind", ["a", "b"]) == "a"))

        timed = Timed(JournaltrackCallback(**OPTIONS))
        study.optimize(objective, 3, callbacks=[timed])
        began = time.perf_counter()
        study.optimize(objective, rounds, callbacks=[timed] if ours else [])
        training_s = time.perf_counter() - began
    values = timed.values(training_s)
    return values if ours else {"call_us": training_s / rounds * 1e6, "share_percent": 100.0}
