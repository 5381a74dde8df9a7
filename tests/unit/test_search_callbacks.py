"""What is recorded of scikit-learn's searches and fits, and of Optuna's studies."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from contextlib import closing
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import journaltrack
from journaltrack import Journal, JournaltrackWarning, Tracker
from journaltrack.errors import InvalidInputError
from journaltrack.integrations.optuna import JournaltrackCallback as StudyCallback
from journaltrack.integrations.sklearn import (
    JournaltrackCallback,
    JournaltrackScoringCallback,
    log_search,
)
from journaltrack.testing import OfflineJournal
from journaltrack.tracking import validation
from tests.late import Late, needs
from tests.processes import ENVIRONMENT

needs("optuna", "sklearn")
optuna = Late("optuna")
loguniform, uniform = Late("scipy.stats", "loguniform"), Late("scipy.stats", "uniform")
LogisticRegression = Late("sklearn.linear_model", "LogisticRegression")
GridSearchCV = Late("sklearn.model_selection", "GridSearchCV")
RandomizedSearchCV = Late("sklearn.model_selection", "RandomizedSearchCV")
Pipeline = Late("sklearn.pipeline", "Pipeline")
FunctionTransformer = Late("sklearn.preprocessing", "FunctionTransformer")
MinMaxScaler = Late("sklearn.preprocessing", "MinMaxScaler")
StandardScaler = Late("sklearn.preprocessing", "StandardScaler")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(120, 4))
Y = (X[:, 0] + RANDOM.normal(size=120) > 0).astype(int)
SKLEARN = tuple(map(int, re.findall(r"\d+", metadata.version("scikit-learn"))[:2]))
NEEDS_CALLBACKS = pytest.mark.skipif(SKLEARN < (1, 9), reason="scikit-learn 1.9 has callbacks")


@pytest.fixture
def offline(tmp_path):
    return OfflineJournal(tmp_path / "journal")


@pytest.fixture(autouse=True)
def quiet():
    """Optuna tells each trial on stderr."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def options(offline, name="run", **more):
    return {"journal": offline.path, "trial_component_name": name, "sync": "off", **more}


def table(offline, title):
    """The columns of the table that was recorded last with a title."""
    found = [
        document
        for path in Path(offline.path, "spool").rglob("*")
        if path.is_file() and (document := json.loads(path.read_bytes())).get("title") == title
    ]
    return found[-1]["data"]


# -- log_search ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "search",
    [
        ("GridSearchCV", {}),
        ("RandomizedSearchCV", {"n_iter": 2}),
        ("HalvingGridSearchCV", {"random_state": 0}),
    ],
    ids=lambda search: search[0],
)
def test_each_kind_of_search_is_recorded(offline, search):
    """The best candidate, its scores, and each column of the results but the parameters twice."""
    from sklearn import model_selection
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401

    kind, more = search
    grid = {"C": [0.1, 1.0, 9.0] if kind.startswith("Halving") else [0.1, 1.0]}
    search = getattr(model_selection, kind)(LogisticRegression(), grid, cv=2, **more).fit(X, Y)
    assert log_search(search, **options(offline)) == "run"
    found = offline.run()
    assert found.status == "Completed"
    assert found.parameters["best/C"] == search.best_params_["C"]
    assert found.parameters["search"] == type(search).__name__
    assert found.metrics["best/mean_test_score"][0].value == search.best_score_
    assert found.metrics["best/mean_test_score"][0].step == search.best_index_
    columns = table(offline, "cv_results")
    assert set(columns) == set(search.cv_results_) - {"params"}
    for name in columns:
        assert columns[name] == np.asarray(search.cv_results_[name]).tolist()


def test_candidates_with_different_parameters_have_empty_cells(offline):
    """A parameter that a candidate has not is null; an estimator among them is its text."""
    pipeline = Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())])
    grid = [{"model__C": [0.1]}, {"scale": [MinMaxScaler(), "passthrough"]}]
    log_search(GridSearchCV(pipeline, grid, cv=2).fit(X, Y), **options(offline))
    columns = table(offline, "cv_results")
    assert columns["param_model__C"] == [0.1, None, None]
    assert columns["param_scale"] == [None, "MinMaxScaler()", "passthrough"]
    assert offline.run().parameters["estimator__model"] == "LogisticRegression"


def test_several_scores_without_a_best_one_are_recorded(offline):
    """Without ``refit`` scikit-learn names no best candidate: the table has all."""
    search = GridSearchCV(
        LogisticRegression(), {"C": [1.0]}, cv=2, scoring=["accuracy", "roc_auc"], refit=False
    )
    log_search(search.fit(X, Y), **options(offline))
    assert offline.run().metrics == {}
    assert "mean_test_roc_auc" in table(offline, "cv_results")


def test_a_candidate_whose_fit_failed_has_an_empty_score(offline):
    """NaN is null in the table, and no error."""
    search = GridSearchCV(LogisticRegression(), {"C": [-1.0, 1.0]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    log_search(search, **options(offline))
    assert table(offline, "cv_results")["mean_test_score"] == [None, search.best_score_]


@pytest.mark.parametrize("is_list", [False, True])
def test_what_a_search_draws_from_is_told_without_addresses(offline, is_list):
    """Distributions with their arguments, functions by name: as text that the next run shares."""
    drawn = {
        "model__C": loguniform(0.1, 10),
        "model__tol": uniform(loc=1e-4, scale=1e-3),
        "change__func": [identity, None],
    }
    pipeline = Pipeline([("change", FunctionTransformer()), ("model", LogisticRegression())])
    grid = [drawn] if is_list else drawn
    search = RandomizedSearchCV(pipeline, grid, n_iter=3, cv=2, random_state=0).fit(X, Y)
    log_search(search, **options(offline))
    found = offline.run().parameters
    assert not [each for each in found.values() if " at 0x" in str(each)]
    assert set(table(offline, "cv_results")["param_change__func"]) == {"identity", None}
    told = str([found[each] for each in found if each.startswith("param_distributions")])
    for text in ("loguniform(0.1, 10)", "uniform(loc=0.0001, scale=0.001)", "identity"):
        assert text in told


def identity(x):
    """Change nothing."""
    return x


def test_a_search_without_results_is_refused(offline):
    """Nothing is recorded, and the error says what to do."""
    with pytest.raises(InvalidInputError, match="cv_results_"):
        log_search(GridSearchCV(LogisticRegression(), {"C": [1.0]}), **options(offline))
    assert not offline.path.exists()


def test_searches_of_one_tracker_are_kept_apart_by_prefixes(offline):
    """The tracker is the caller's: neither search ends it."""
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
    with Tracker.create(**options(offline)) as tracker:
        log_search(search, tracker=tracker, prefix="a/")
        log_search(search, tracker=tracker, prefix="b/")
        assert not tracker.closed
        assert offline.run().status == "InProgress"
    found = offline.run()
    assert found.parameters["a/best/C"] == found.parameters["b/best/C"]
    assert table(offline, "a/cv_results") == table(offline, "b/cv_results")


# -- scikit-learn's callbacks --------------------------------------------------------------


@NEEDS_CALLBACKS
def test_each_iteration_is_scored(offline):
    """The score of an iteration is that of the estimator, as it would be then."""
    model = LogisticRegression(max_iter=5)
    callback = JournaltrackScoringCallback("neg_log_loss", **options(offline))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_callbacks(callback).fit(X, Y)
    found = offline.run()
    scores = [each.value for each in found.metrics["lbfgs-iter/neg_log_loss"]]
    assert [each.step for each in found.metrics["lbfgs-iter/neg_log_loss"]] == [*range(len(scores))]
    assert scores == sorted(scores)
    from sklearn.metrics import log_loss

    assert scores[-1] == pytest.approx(-log_loss(Y, model.predict_proba(X)))
    assert len(found.metrics["lbfgs-iter/duration_s"]) >= len(scores)
    assert (found.status, found.parameters["max_iter"]) == ("Completed", 5)


@NEEDS_CALLBACKS
def test_without_scores_no_estimator_is_made(offline):
    """scikit-learn makes what a signature names: the plain callback names nothing."""
    made = []

    from sklearn import linear_model

    class Telling(linear_model.LogisticRegression):
        def __copy__(self):
            made.append(self)
            return LogisticRegression(**self.get_params())

    Telling(max_iter=500).set_callbacks(JournaltrackCallback(**options(offline))).fit(X, Y)
    assert made == []


@NEEDS_CALLBACKS
def test_a_fit_in_an_except_block_is_completed(offline):
    """The exception that is handled there is not the fit's."""
    model = LogisticRegression().set_callbacks(JournaltrackCallback(**options(offline)))
    try:
        int("outer")
    except ValueError:
        model.fit(X, Y)
    assert offline.run().status == "Completed"


@NEEDS_CALLBACKS
def test_fits_inside_of_a_search_do_not_end_the_run(offline):
    """A callback of the inner estimator sees each of its fits; the search goes on after them."""
    callback = JournaltrackCallback(**options(offline))
    with callback:
        inner = LogisticRegression().set_callbacks(callback)
        GridSearchCV(inner, {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
        assert offline.run().status == "InProgress"
    found = offline.run()
    assert found.status == "Completed"
    assert {each.partition("/")[0] for each in found.metrics} >= {"search-0"}


@NEEDS_CALLBACKS
def test_copies_of_a_callback_use_one_set_of_files(offline):
    """scikit-learn copies the callback into a worker for each task: a search has thousands."""
    callback = JournaltrackCallback(**options(offline))
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2).set_callbacks(callback)
    search.fit(X, Y)
    copied = pickle.dumps(callback)
    copies = [pickle.loads(copied)]
    copies[0]._run.log_metrics({"task": 0.0}, 0)
    files = len(os.listdir("/proc/self/fd"))
    for number in range(1, 30):
        copies.append(pickle.loads(copied))
        copies[-1]._run.log_metrics({"task": 1.0}, number)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert [each.step for each in offline.run().metrics["task"]] == [*range(30)]
    copies[0]._run.end()


# -- Optuna --------------------------------------------------------------------------------


def objective(trial):
    return trial.suggest_float("x", -1, 1) ** 2


def values(offline, name, run="run"):
    return {each.step: each.value for each in offline.run(run).metrics.get(name, ())}


def test_objectives_have_names(offline):
    """Those of the study; else ``value`` and, if there are several, their number."""

    def two(trial):
        x = trial.suggest_float("x", 0, 1)
        return x, 1 - x

    study = optuna.create_study(directions=["minimize", "maximize"])
    with StudyCallback(**options(offline)) as callback:
        study.optimize(two, 3, callbacks=[callback])
    for number, trial in enumerate(study.trials):
        found = [values(offline, name)[number] for name in ("value-0", "value-1")]
        assert found == trial.values
    assert "best_value" not in offline.run().metrics
    best = ", ".join(str(trial.number) for trial in study.best_trials)
    assert offline.run().parameters["best/trials"] == best

    study = optuna.create_study(directions=["minimize", "maximize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.set_metric_names(["loss", "accuracy"])
    with StudyCallback(**options(offline, "named")) as callback:
        study.optimize(two, 1, callbacks=[callback])
    assert values(offline, "accuracy", "named") == {0: study.trials[0].values[1]}


def test_trials_that_break_a_constraint_are_not_the_best(offline):
    """The best value so far counts feasible trials alone, as Optuna's does."""

    def constraints(trial):
        return [1.0 if trial.number < 2 else -1.0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(constraints_func=constraints, seed=0)
    study = optuna.create_study(sampler=sampler)
    with StudyCallback(**options(offline)) as callback:
        study.optimize(objective, 4, callbacks=[callback])
    found = values(offline, "best_value")
    assert set(found) == {2, 3}
    assert found[3] == study.best_value


def test_another_study_of_the_same_run_is_recorded_too(offline):
    """A trial is told from one of the same number by its time: a study in memory begins anew."""
    for _ in range(2):
        study = optuna.create_study()
        with StudyCallback(**options(offline, resume=True)) as callback:
            study.optimize(objective, 3, callbacks=[callback])
    points = offline.run().metrics["value"]
    assert sorted(each.step for each in points) == [0, 0, 1, 1, 2, 2]


def test_trials_before_the_callback_are_recorded(offline):
    """The run shows the study, also if journaltrack came later."""
    study = optuna.create_study()
    study.optimize(objective, 3)
    with StudyCallback(**options(offline)) as callback:
        study.optimize(objective, 1, callbacks=[callback])
    assert values(offline, "value") == {each.number: each.value for each in study.trials}


@pytest.mark.slow
def test_trials_that_another_journal_has_are_left_to_it(tmp_path):
    """Workers on other hosts record their own trials into the one run of the study."""
    storage = f"sqlite:///{tmp_path}/study.db"
    recorded = []
    for host in ("a", "b"):
        study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
        journal = OfflineJournal(tmp_path / host)
        with StudyCallback(journal=journal.path, sync="off") as callback:
            study.optimize(objective, 3, callbacks=[callback])
        recorded.append((callback.run_name, set(values(journal, "state", callback.run_name))))
        study._storage.remove_session()
        study._storage._backend.engine.dispose()
    assert recorded[0][0] == recorded[1][0]
    assert [numbers for _, numbers in recorded] == [{0, 1, 2}, {3, 4, 5}]


def test_a_first_trial_that_raises_makes_a_failed_run(offline):
    """Optuna calls no callback at all; the block knows."""
    study = optuna.create_study()

    def failing(trial):
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"), StudyCallback(**options(offline)) as callback:
        study.optimize(failing, 3, callbacks=[callback])
    assert (offline.run().status, offline.run().message) == ("Failed", "boom")


def test_runs_of_trials_have_the_times_of_their_trials(offline):
    """Completed and pruned, also those that a process before this one had finished."""

    def pruned(trial):
        if trial.number == 1:
            raise optuna.TrialPruned
        return objective(trial)

    study = optuna.create_study()
    study.optimize(pruned, 2)
    with StudyCallback(**options(offline), trial_runs=True) as callback:
        study.optimize(pruned, 1, callbacks=[callback])
    found = journaltrack.runs(offline.path)
    for trial, status in zip(study.trials, ("completed", "stopped", "completed"), strict=True):
        run = found[f"run-trial-{trial.number:05d}"]
        assert run.status == status
        assert run.started == trial.datetime_start.astimezone()
        assert run.ended == trial.datetime_complete.astimezone()


def test_an_objective_logs_into_the_run_of_its_trial(offline):
    """``tracker_of`` gives its tracker; without such runs, the error says how to get them."""
    study = optuna.create_study()

    def logging(trial):
        for step in range(3):
            callback.tracker_of(trial).log_metric("loss", float(step), step=step)
        return objective(trial)

    with StudyCallback(**options(offline), trial_runs=True) as callback:
        study.optimize(logging, 2, callbacks=[callback])
    for number in range(2):
        run = f"run-trial-{number:05d}"
        assert values(offline, "loss", run) == {0: 0.0, 1: 1.0, 2: 2.0}
        assert offline.run(run).status == "Completed"
    with pytest.raises(InvalidInputError, match="trial_runs"):
        StudyCallback(**options(offline, "other")).tracker_of(study.ask())


def test_a_tracker_that_was_given_records_the_study(offline):
    """Its run is the study's, the runs of trials are beside it, and its end is the caller's."""
    study = optuna.create_study()
    with Tracker.create(**options(offline)) as tracker:
        with StudyCallback(tracker=tracker, trial_runs=True) as callback:
            study.optimize(objective, 2, callbacks=[callback])
        assert not tracker.closed
    assert offline.runs() == ["run", "run-trial-00000", "run-trial-00001"]
    assert table(offline, "trials")["number"] == [0, 1]


def test_infinite_values_cost_no_trial(offline):
    """Optuna takes them; they stay in the journal, with a warning."""
    study = optuna.create_study()
    with (
        pytest.warns(JournaltrackWarning, match="value"),
        StudyCallback(**options(offline)) as callback,
    ):
        study.optimize(lambda trial: float("inf"), 2, callbacks=[callback])
    assert values(offline, "value") == {0: float("inf"), 1: float("inf")}


def test_a_study_is_not_recorded_by_other_ranks(offline, monkeypatch):
    """Of the processes of one job, one records."""
    monkeypatch.setenv("RANK", "1")
    with StudyCallback(**options(offline)) as callback:
        optuna.create_study().optimize(objective, 2, callbacks=[callback])
    assert not offline.path.exists()


def test_a_study_resumes_its_run_whatever_begins_the_name(offline):
    """The beginning of a name makes a new one only for a new study."""
    study = optuna.create_study()
    names = []
    for _ in range(2):
        with StudyCallback(
            journal=offline.path, sync="off", base_trial_component_name="search"
        ) as callback:
            study.optimize(objective, 2, callbacks=[callback])
        names.append(callback.run_name)
    assert offline.runs() == names[:1] == names[1:]
    assert names[0].startswith("search-")
    assert set(values(offline, "value", names[0])) == {0, 1, 2, 3}


def test_a_storage_that_fails_at_the_end_hides_no_exception(offline):
    """The run is Failed with the exception that ended the block, and a warning tells the rest."""
    study = optuna.create_study()

    class Gone(type(study._storage)):
        def get_all_trials(self, *arguments, **named):
            raise OSError("the storage is gone")

    def failing(trial):
        if trial.number == 1:
            study._storage.__class__ = Gone
            raise ValueError("boom")
        return objective(trial)

    with (
        pytest.warns(JournaltrackWarning, match="storage is gone"),
        pytest.raises(ValueError, match="boom"),
        StudyCallback(**options(offline)) as callback,
    ):
        study.optimize(failing, 3, callbacks=[callback])
    assert (offline.run().status, offline.run().message) == ("Failed", "boom")


def test_choices_are_numbers_where_they_can_be(offline):
    """True and False are 1 and 0; texts are indices, whose meaning is a parameter."""

    def choosing(trial):
        trial.suggest_categorical("flag", [False, True])
        trial.suggest_categorical("size", [16, 32])
        trial.suggest_categorical("kind", ["a", None])
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with StudyCallback(**options(offline)) as callback:
        study.optimize(choosing, 5, callbacks=[callback])
    for trial in study.trials:
        wanted = {**trial.params, "kind": ["a", None].index(trial.params["kind"])}
        found = {name: values(offline, f"params/{name}")[trial.number] for name in wanted}
        assert found == wanted
    assert offline.run().parameters["choices/kind"] == "['a', None]"
    assert "choices/flag" not in offline.run().parameters


def test_a_pruned_trial_has_an_end(offline):
    """Its run is Stopped, at the time when Optuna pruned it."""
    study = optuna.create_study()

    def pruned(trial):
        trial.report(1.0, 0)
        raise optuna.TrialPruned

    with StudyCallback(**options(offline), trial_runs=True) as callback:
        study.optimize(pruned, 1, callbacks=[callback])
    found = offline.run("run-trial-00000")
    assert found.status == "Stopped"
    with closing(Journal.open(offline.path, create=False, read_only=True)) as journal:
        entries = [e for e in journal.entries() if e.component == "run-trial-00000"]
    ends = [e.detail["end_ns"] for e in entries if e.kind == "status" and "end_ns" in e.detail]
    assert ends == [validation.timestamp_ns(study.trials[0].datetime_complete)]


def test_a_study_knows_what_to_resume(tmp_path, offline, monkeypatch):
    """Without a name ``resume=True`` means the study's run, in a job and outside of one."""
    for job in (None, "4711"):
        if job is not None:
            monkeypatch.setenv("SLURM_JOB_ID", job)
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
        study = optuna.create_study(storage=storage, study_name="bowl", load_if_exists=True)
        with StudyCallback(journal=offline.path, sync="off", resume=True) as callback:
            study.optimize(objective, 2, callbacks=[callback])
        storage.engine.dispose()
    (name,) = offline.runs()
    assert name.startswith("bowl-")
    study = optuna.create_study()
    with StudyCallback(journal=tmp_path / "other", sync="off") as callback:
        study.optimize(objective, 1, callbacks=[callback])
    assert not callback.tracker.trial_component.trial_component_name.startswith("no-name-")
    assert sorted(values(offline, "state", name)) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_study_without_a_block_is_concluded_at_exit(offline, tmp_path):
    """The table and the best trial are recorded, and a trial that raised, as with a block."""
    code = (
        "import optuna\n"
        "from journaltrack.integrations.optuna import JournaltrackCallback\n"
        f"callback = JournaltrackCallback(trial_component_name='run', journal={str(offline.path)!r}"
        ", sync='off')\n"
        "study = optuna.create_study()\n"
        "study.optimize(lambda t: t.suggest_float('x', 0, 1) / (3 - t.number), 9,"
        " callbacks=[callback])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ZeroDivisionError" in done.stderr
    found = offline.run()
    assert (found.status, found.message) == (
        "Failed",
        "float division by zero",
    )
    assert "best/x" in found.parameters
    assert table(offline, "trials")["state"] == ["COMPLETE"] * 3 + ["FAIL"]
    assert values(offline, "state")[3] == 3
