"""Train trees with XGBoost, as the mode in the first argument says."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import xgboost

from journaltrack.integrations.xgboost import JournaltrackCallback

MODE = sys.argv[1]


class Reporting(xgboost.callback.TrainingCallback):
    """Tell what XGBoost evaluated, by its own count of rounds; and end as the mode says."""

    def after_iteration(self, model, epoch, evals_log):
        step = model.num_boosted_rounds() - 1
        with open("reported.jsonl", "a") as file:
            for data, metrics in evals_log.items():
                file.writelines(
                    json.dumps([f"{data}/{metric}", step, values[-1]]) + "\n"
                    for metric, values in metrics.items()
                )
        if MODE == "raise" and step == 5:
            raise ValueError("training went wrong")
        if step % 4 == 3:
            model.save_model("checkpoint.json")
        if MODE == "kill" and step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def main():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    y = (x[:, 0] + random.normal(size=300) > 0).astype(int)
    train, valid = xgboost.DMatrix(x[:200], y[:200]), xgboost.DMatrix(x[200:], y[200:])
    last = "checkpoint.json" if MODE == "resume" and Path("checkpoint.json").exists() else None
    done = xgboost.Booster(model_file=last).num_boosted_rounds() if last else 0
    # Ours first: what XGBoost tells of a round is in the journal when the process is killed.
    callback = JournaltrackCallback(
        trial_component_name="run", resume=True, journal="journal", sync="off"
    )
    xgboost.train(
        {"objective": "binary:logistic", "eval_metric": ["logloss", "auc"], "nthread": 1},
        train,
        20 - done,
        evals=[(train, "train"), (valid, "valid")],
        xgb_model=last,
        verbose_eval=False,
        callbacks=[callback, Reporting()],
    )


main()
