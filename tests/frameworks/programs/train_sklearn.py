"""Search with scikit-learn, as the mode in the first argument says."""

import json
import os
import signal
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from journaltrack.integrations.sklearn import JournaltrackCallback

MODE = sys.argv[1]
calls = 0


def score(model, x, y):
    """Score, and end as the mode says."""
    global calls  # noqa: PLW0603
    calls += 1
    if calls == 5 and MODE == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if calls == 5 and MODE == "raise":
        raise ValueError("the search went wrong")
    return model.score(x, y)


def main():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4))
    y = (x[:, 0] + random.normal(size=200) > 0).astype(int)
    search = GridSearchCV(
        LogisticRegression(),
        {"C": [0.01, 0.1, 1.0, 10.0]},
        scoring=score,
        cv=3,
        error_score="raise",
        n_jobs=2 if MODE == "workers" else None,
    )
    callback = JournaltrackCallback(
        trial_component_name="run", resume=True, journal="journal", sync="off"
    )
    search.set_callbacks(callback).fit(x, y)
    if MODE == "again":
        search.fit(x, y)
    with open("results.json", "w") as file:
        results = {name: np.asarray(each).tolist() for name, each in search.cv_results_.items()}
        json.dump({"results": results, "best": search.best_params_}, file)


main()
