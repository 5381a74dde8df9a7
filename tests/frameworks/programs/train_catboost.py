"""Train trees with CatBoost, as the mode in the first argument says."""

import json
import os
import signal
import sys

import catboost
import numpy as np

from journaltrack.integrations.catboost import JournaltrackCallback

MODE = sys.argv[1]


class Ending:
    """End as the mode says."""

    def after_iteration(self, info):
        if MODE == "raise" and info.iteration == 6:
            raise ValueError("training went wrong")
        if MODE == "kill" and info.iteration == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def main():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    y = (x[:, 0] + random.normal(size=300) > 0).astype(int)
    model = catboost.CatBoostClassifier(
        iterations=20,
        custom_metric=["AUC"],
        thread_count=1,
        verbose=False,
        metric_period=3 if MODE == "period" else 1,
        save_snapshot=MODE in {"kill", "resume"},
        snapshot_interval=0,
    )
    with JournaltrackCallback(
        trial_component_name="run", resume=True, journal="journal", sync="off"
    ) as callback:
        evaluation = (x[200:], y[200:])
        for _ in range(1 + (MODE == "again")):
            model.fit(x[:200], y[:200], eval_set=evaluation, callbacks=[callback, Ending()])
            with open("reported.jsonl", "a") as file:
                for data, metrics in model.get_evals_result().items():
                    for metric, values in metrics.items():
                        steps = [0, 3, 6, 9, 12, 15, 18, 19] if MODE == "period" else range(20)
                        file.writelines(
                            json.dumps([f"{data}/{metric}", step, value]) + "\n"
                            for step, value in zip(steps, values, strict=True)
                        )


main()
