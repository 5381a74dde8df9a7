"""Search with Optuna in a storage, as the mode in the first argument says.

Each process of a mode continues the study. What the study holds at the end is in ``study.json``.
"""

import json
import os
import signal
import sys

import optuna

from journaltrack.integrations.optuna import JournaltrackCallback

MODE = sys.argv[1]
optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    kind = trial.suggest_categorical("kind", ["a", "b", None])
    trial.suggest_categorical("size", [8, 16])
    for step in range(3):
        trial.report(x * x + step, step)
        if step == 1 and trial.number % 5 == 2:
            raise optuna.TrialPruned
    if trial.number % 5 == 3:
        raise ValueError("caught")
    if MODE == "raise" and trial.number == 6:
        raise RuntimeError("the search went wrong")
    if MODE == "kill" and trial.number == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    trial.set_user_attr("kind", kind)
    return x * x


def kill_between(study, trial):
    """Kill the process after Optuna has stored a trial, before it is recorded."""
    if MODE == "kill-between" and trial.number == 6:
        os.kill(os.getpid(), signal.SIGKILL)


def main():
    study = optuna.create_study(
        storage="sqlite:///study.db",
        study_name="A study of x",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),
        direction="maximize",
    )
    with JournaltrackCallback(journal="journal", sync="off", trial_runs=MODE == "runs") as callback:
        study.optimize(
            objective,
            n_trials=10,
            callbacks=[kill_between, callback],
            catch=(ValueError,),
            n_jobs=3 if MODE == "threads" else 1,
        )
    with open("study.json", "w") as file:
        rows = [
            {
                "number": trial.number,
                "state": trial.state.name,
                "value": trial.value,
                "params": trial.params,
                "duration_s": trial.duration.total_seconds(),
                "complete": trial.datetime_complete.timestamp(),
                "intermediate": trial.intermediate_values,
            }
            for trial in study.trials
            if trial.state.is_finished()
        ]
        best = study.best_trial
        json.dump({"trials": rows, "run": callback.run_name, "best": best.number}, file)


main()
