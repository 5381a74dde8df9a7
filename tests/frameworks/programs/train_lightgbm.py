"""Train trees with LightGBM, as the mode in the first argument says."""

import json
import os
import signal
import sys
from pathlib import Path

import lightgbm
import numpy as np

from journaltrack.integrations.lightgbm import JournaltrackCallback

MODE = sys.argv[1]


def report(env):
    """Tell what LightGBM evaluated; and end as the mode says."""
    with open("reported.jsonl", "a") as file:
        file.writelines(
            json.dumps([f"{data}/{metric}", env.iteration, value]) + "\n"
            for data, metric, value, *_ in env.evaluation_result_list
        )
    if MODE == "raise" and env.iteration == 5:
        raise ValueError("training went wrong")
    if env.iteration % 4 == 3:
        env.model.save_model("checkpoint.txt")
    if MODE == "kill" and env.iteration == 9:
        os.kill(os.getpid(), signal.SIGKILL)


def main():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    y = (x[:, 0] + random.normal(size=300) > 0).astype(int)
    train = lightgbm.Dataset(x[:200], y[:200], free_raw_data=False)
    last = "checkpoint.txt" if MODE == "resume" and Path("checkpoint.txt").exists() else None
    done = lightgbm.Booster(model_file=last).current_iteration() if last else 0
    callback = JournaltrackCallback(
        trial_component_name="run", resume=True, journal="journal", sync="off"
    )
    lightgbm.train(
        {
            "objective": "binary",
            "metric": ["binary_logloss", "auc"],
            "verbose": -1,
            "num_threads": 1,
        },
        train,
        20 - done,
        valid_sets=[train, train.create_valid(x[200:], y[200:])],
        valid_names=["train", "valid"],
        init_model=last,
        callbacks=[report, callback],
    )


main()
