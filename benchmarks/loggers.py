"""What a logged step costs: our loggers, and the framework's own in the same run.

Run with the frameworks' environment: ``.venv-frameworks/bin/python -m benchmarks loggers``. Each
side makes the calls that its framework makes at a logged step, in a process of its own. Lightning
and Keras have a CSV logger; transformers, accelerate and torch have their writer of TensorBoard.
SQLite's bare commit of the
three rows stands beside each. What is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks import append
from benchmarks.measure import Result, Run, Side, Values, compare, own_folder, say, take_turns

FRAMEWORKS = {
    "lightning": "CSVLogger",
    "keras": "CSVLogger",
    "transformers": "TensorBoardCallback",
    "accelerate": "TensorBoardTracker",
    "torch": "its SummaryWriter",
}
OPTIONS = {"trial_component_name": "run", "journal": "journal", "sync": "off"}
COMMIT = "a bare commit of 3 rows"
Step = Callable[[int, dict[str, float]], None]


def run(run: Run) -> list[Result]:
    """Compare each logger with its framework's own."""
    steps = run.size(5_000, 500)
    results = []
    for framework, floor in FRAMEWORKS.items():
        if importlib.util.find_spec(framework) is None:
            say(f"  {framework} is not installed: left out")
            continue
        sides = [
            Side(
                f"{framework}: {name}",
                "benchmarks.loggers:measure",
                {"framework": framework, "ours": ours, "steps": steps},
            )
            for name, ours in (("journaltrack", True), (floor, False))
        ]
        sides.append(Side(COMMIT, "benchmarks.loggers:commit", {"steps": steps}))
        *found, commits = take_turns(sides, run.rounds).values()
        for figure, unit in (("step_us", "µs"), ("step_cpu_us", "µs of CPU")):
            ours, theirs = ([each[figure] for each in values] for values in found)
            what = f"{framework}: a logged step of 3 metrics"
            results.append(
                compare("loggers", what, unit, ours, theirs, floor_name=floor, target=1.0)
            )
        results.append(
            compare(
                "loggers",
                f"{framework}: a logged step, to what SQLite takes",
                "µs of CPU",
                [each["step_cpu_us"] for each in found[0]],
                [each["step_cpu_us"] for each in commits],
                floor_name=COMMIT,
            )
        )
    return results


def commit(steps: int) -> Values:
    """What SQLite alone takes for three points in one transaction."""
    with own_folder():
        return {"step_cpu_us": append.bare_batches("bare", steps, 3)["cpu_us"]}


def measure(framework: str, ours: bool, steps: int) -> Values:
    """Log so many steps; microseconds per step."""
    with own_folder():
        step = _SIDES[framework](ours)
        for number in range(10):
            step(number, {"loss": 1.0, "accuracy": 0.5, "rate": 0.1})
        began, busy = time.perf_counter(), time.process_time()
        for number in range(10, 10 + steps):
            step(number, {"loss": 1 / number, "accuracy": 1 - 1 / number, "rate": 0.1})
        took, cpu = time.perf_counter() - began, time.process_time() - busy
    return {"step_us": took / steps * 1e6, "step_cpu_us": cpu / steps * 1e6}


def _lightning(ours: bool) -> Step:
    from lightning.pytorch.loggers import CSVLogger

    from journaltrack.integrations.lightning import JournaltrackLogger

    logger = JournaltrackLogger(**OPTIONS) if ours else CSVLogger("csv")

    def step(number: int, values: dict[str, float]) -> None:
        logger.log_metrics({**values, "epoch": number // 100}, number)
        logger.save()

    return step


def _keras(ours: bool) -> Step:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    from journaltrack.integrations.keras import JournaltrackCallback

    callback = JournaltrackCallback(**OPTIONS) if ours else keras.callbacks.CSVLogger("log.csv")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    callback.on_train_begin()
    return callback.on_epoch_end


def _transformers(ours: bool) -> Step:
    from transformers.integrations import TensorBoardCallback

    from journaltrack.integrations.transformers import JournaltrackCallback

    callback: Any = JournaltrackCallback(**OPTIONS) if ours else TensorBoardCallback()
    arguments = SimpleNamespace(output_dir="out")

    def step(number: int, values: dict[str, float]) -> None:
        state = SimpleNamespace(is_world_process_zero=True, global_step=number)
        callback.on_log(arguments, state, None, logs={**values, "epoch": number / 100})

    return step


def _accelerate(ours: bool) -> Step:
    from accelerate import Accelerator

    import journaltrack.integrations.accelerate

    assert journaltrack.integrations.accelerate
    name = "journaltrack" if ours else "tensorboard"
    accelerator = Accelerator(cpu=True, log_with=name, project_dir="project")
    accelerator.init_trackers("run", init_kwargs={"journaltrack": OPTIONS} if ours else {})
    return lambda number, values: accelerator.log(values, step=number)


def _torch(ours: bool) -> Step:
    if ours:
        from journaltrack.integrations.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(**OPTIONS)
    else:
        from torch.utils.tensorboard import SummaryWriter as TorchWriter

        writer = TorchWriter("events")

    def step(number: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, number)

    return step


_SIDES = {
    "lightning": _lightning,
    "keras": _keras,
    "transformers": _transformers,
    "accelerate": _accelerate,
    "torch": _torch,
}
