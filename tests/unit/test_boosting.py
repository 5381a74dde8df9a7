"""The callbacks of XGBoost and LightGBM, in real trainings; and that of CatBoost."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

from journaltrack import JournaltrackWarning, Tracker
from journaltrack.integrations import catboost as of_catboost
from journaltrack.integrations import lightgbm as of_lightgbm
from journaltrack.testing import OfflineJournal
from tests.late import Late, needs

needs("lightgbm", "xgboost")
lightgbm, xgboost = Late("lightgbm"), Late("xgboost")
of_xgboost = Late("journaltrack.integrations.xgboost")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 5))
Y = (X[:, 0] + RANDOM.normal(size=200) > 0).astype(int)
METRICS = ["logloss", "auc"]
XGBOOST = {"objective": "binary:logistic", "eval_metric": METRICS, "eta": 0.3, "nthread": 1}
LIGHTGBM = {
    "objective": "binary",
    "metric": ["binary_logloss", "auc"],
    "verbose": -1,
    "num_threads": 1,
}
OLD = namedtuple(  # noqa: PYI024 - as LightGBM 3.3 had it
    "CallbackEnv", "model params iteration begin_iteration end_iteration evaluation_result_list"
)


@pytest.fixture
def offline(tmp_path):
    return OfflineJournal(tmp_path / "journal")


def options(offline, name="run", **more):
    return {"journal": offline.path, "trial_component_name": name, "sync": "off", **more}


def series(offline, name="run"):
    """The points of each metric, as (step, value)."""
    metrics = offline.run(name).metrics
    return {name: [(each.step, each.value) for each in metrics[name]] for name in metrics}


def steps(points):
    return [step for step, _ in points]


def reported(results, first=0):
    """What a framework reported, as points."""
    return {
        f"{data}/{metric}": list(enumerate(map(float, values), first))
        for data, metrics in results.items()
        for metric, values in metrics.items()
    }


def boost(callbacks, rounds=6, **more):
    """Train with XGBoost; the model and its ``evals_result``."""
    results = {}
    train, valid = xgboost.DMatrix(X[:150], Y[:150]), xgboost.DMatrix(X[150:], Y[150:])
    model = xgboost.train(
        XGBOOST,
        train,
        rounds,
        evals=[(train, "train"), (valid, "valid")],
        evals_result=results,
        verbose_eval=False,
        callbacks=callbacks,
        **more,
    )
    return model, results


def grow(callbacks, rounds=6, parameters=LIGHTGBM, **more):
    """Train with LightGBM; the model and what ``record_evaluation`` has."""
    results = {}
    train = lightgbm.Dataset(X[:150], Y[:150], free_raw_data=False)
    model = lightgbm.train(
        parameters,
        train,
        rounds,
        valid_sets=[train, train.create_valid(X[150:], Y[150:])],
        valid_names=["train", "valid"],
        callbacks=[*callbacks, lightgbm.record_evaluation(results)],
        **more,
    )
    return model, results


FRAMEWORKS = pytest.mark.parametrize(
    ("module", "train"),
    [(of_xgboost, boost), (of_lightgbm, grow)],
    ids=["xgboost", "lightgbm"],
)


@FRAMEWORKS
def test_each_evaluation_is_a_point(offline, module, train):
    """The values are exactly those that the framework keeps, the step is the round."""
    _, results = train([module.JournaltrackCallback(**options(offline))])
    assert series(offline) == reported(results)
    assert offline.run().status == "Completed"


@FRAMEWORKS
def test_a_model_that_is_trained_further_continues_the_steps(offline, module, train):
    """The rounds of the model before count, as when a killed job goes on from a checkpoint."""
    model, before = train([module.JournaltrackCallback(**options(offline))])
    further = {"xgb_model": model} if module is of_xgboost else {"init_model": model}
    again = module.JournaltrackCallback(**options(offline, resume=True))
    _, after = train([again], rounds=4, **further)
    wanted = {name: points + reported(after, 6)[name] for name, points in reported(before).items()}
    assert series(offline) == wanted


@FRAMEWORKS
def test_a_second_training_is_recorded_as_well(offline, module, train):
    """A callback that is used again continues its run, counts from 0 again, and says so."""
    callback = module.JournaltrackCallback(**options(offline))
    _, first = train([callback])
    with pytest.warns(JournaltrackWarning, match="counts from step 0 again"):
        _, second = train([callback], rounds=3)
    wanted = {name: points + reported(second)[name] for name, points in reported(first).items()}
    assert series(offline) == wanted
    assert offline.run().status == "Completed"


@FRAMEWORKS
def test_prefixes_keep_trainings_apart(offline, module, train):
    """Folds of one run have series and parameters of their own."""
    with Tracker.create(**options(offline)) as tracker:
        for fold in range(2):
            _, results = train([module.JournaltrackCallback(tracker=tracker, prefix=f"{fold}/")])
    found = series(offline)
    assert found["1/valid/auc"] == reported(results)["valid/auc"] == found["0/valid/auc"]
    assert offline.run().parameters["1/objective"] == offline.run().parameters["0/objective"]


@FRAMEWORKS
def test_a_tracker_that_was_given_is_the_callers(offline, module, train):
    """The end of training does not end it."""
    with Tracker.create(**options(offline)) as tracker:
        train([module.JournaltrackCallback(tracker=tracker)])
        assert not tracker.closed
        assert offline.run().status == "InProgress"
        tracker.log_metric("after", 1.0)
    assert offline.run().status == "Completed"


@FRAMEWORKS
def test_the_callback_stops_no_training(offline, module, train):
    """All rounds that were asked for are made."""
    _, results = train([module.JournaltrackCallback(**options(offline))], rounds=9)
    assert len(results["valid"]["auc"]) == 9


class Interrupting:
    """A callback of either framework that raises in a round."""

    def __init__(self, at, error):
        self.at, self.error = at, error

    def __call__(self, env):
        if env.iteration == self.at:
            raise self.error


def interrupting(module, error, at=2):
    if module is not of_xgboost:
        return Interrupting(at, error)

    class InterruptingXGBoost(Interrupting, xgboost.callback.TrainingCallback):
        def after_iteration(self, model, epoch, evals_log):
            if epoch == self.at:
                raise self.error
            return False

    return InterruptingXGBoost(at, error)


@FRAMEWORKS
@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("boom"), "Failed"), (KeyboardInterrupt(), "Stopped")]
)
def test_an_exception_ends_the_with_block_as_failed(offline, module, train, error, status):
    """The run has the exception's message, and all rounds until then."""
    with (
        pytest.raises(type(error)),
        module.JournaltrackCallback(**options(offline)) as callback,
    ):
        train([callback, interrupting(module, error)])
    found = offline.run()
    assert found.status == status
    assert found.message == (str(error) or "KeyboardInterrupt") or status == "Stopped"
    assert steps(series(offline)["valid/auc"]) == [0, 1, 2]


@pytest.mark.slow
@FRAMEWORKS
def test_an_exception_that_ends_the_process_makes_the_run_failed(offline, module, train, tmp_path):
    """Without a ``with`` block, too: the framework tells nothing."""
    program = (
        f"from tests.unit.test_boosting import *\nmodule = {module.__name__.replace('.', '_')}\n"
        f"{train.__name__}([module.JournaltrackCallback(**options(OfflineJournal('j'))), "
        "interrupting(module, ValueError('boom'))])\n"
    ).replace("journaltrack_integrations_", "of_")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ValueError: boom" in done.stderr
    found = OfflineJournal(tmp_path / "j").run()
    assert (found.status, found.message) == ("Failed", "boom")


@FRAMEWORKS
def test_other_ranks_record_nothing(offline, module, train, monkeypatch):
    """Of the processes of one job, one records."""
    monkeypatch.setenv("RANK", "1")
    train([module.JournaltrackCallback(**options(offline))])
    assert not offline.path.exists()


# -- XGBoost -------------------------------------------------------------------------------


def test_a_callback_that_stops_xgboost_hides_no_round(offline):
    """XGBoost leaves out the callbacks after the one that stops: the last round is a point."""
    stopping = xgboost.callback.EarlyStopping(rounds=2)
    callback = of_xgboost.JournaltrackCallback(**options(offline))
    _, results = boost([stopping, callback], rounds=50)
    assert series(offline) == reported(results)
    assert 2 < len(results["valid"]["auc"]) < 50
    assert offline.run().status == "Completed"


def test_a_callback_that_raises_before_ours_hides_no_round(offline):
    """XGBoost has evaluated the round by then: the ``with`` block records it."""
    raising = interrupting(of_xgboost, ValueError("boom"))
    with (
        pytest.raises(ValueError, match="boom"),
        of_xgboost.JournaltrackCallback(**options(offline)) as callback,
    ):
        boost([raising, callback])
    assert steps(series(offline)["valid/auc"]) == [0, 1, 2]
    assert offline.run().status == "Failed"


def test_early_stopping_of_xgboost_is_recorded(offline):
    """The best round and its score are parameters; those of a former training are not."""
    callback = of_xgboost.JournaltrackCallback(**options(offline))
    model, results = boost([callback], rounds=50, early_stopping_rounds=2)
    found = offline.run().parameters
    assert found["best_iteration"] == model.best_iteration
    assert found["best_score"] == results["valid"]["auc"][model.best_iteration]
    boost([of_xgboost.JournaltrackCallback(**options(offline, "further"))], xgb_model=model)
    assert "best_iteration" not in offline.run("further").parameters


def test_the_parameters_that_xgboost_uses_are_recorded(offline):
    """Also the defaults, under XGBoost's names, as the numbers that the caller wrote."""
    boost([of_xgboost.JournaltrackCallback(**options(offline))])
    found = offline.run().parameters
    wanted = {"eta": 0.3, "max_depth": 6, "objective": "binary:logistic", "booster": "gbtree"}
    assert {name: found[name] for name in wanted} == wanted
    assert found["eval_metric"] == "logloss, auc"


def test_cross_validation_of_xgboost_has_means_and_deviations(offline):
    """``cv`` gives pairs: two series."""
    results = xgboost.cv(
        XGBOOST,
        xgboost.DMatrix(X, Y),
        5,
        nfold=3,
        as_pandas=False,
        callbacks=[of_xgboost.JournaltrackCallback(**options(offline))],
    )
    found = {name: [value for _, value in points] for name, points in series(offline).items()}
    for data in ("train", "test"):
        for metric in METRICS:
            assert found[f"{data}/{metric}"] == results[f"{data}-{metric}-mean"]
            assert found[f"{data}/{metric}-std"] == results[f"{data}-{metric}-std"]
    assert offline.run().parameters["max_depth"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("booster", ["gblinear", "dart"])
def test_other_boosters_of_xgboost_are_recorded(offline, booster):
    """Their configurations have other sections."""
    data = xgboost.DMatrix(X, Y)
    callback = of_xgboost.JournaltrackCallback(**options(offline))
    xgboost.train({"booster": booster}, data, 2, callbacks=[callback])
    assert offline.run().parameters["booster"] == booster


def test_estimators_of_xgboost_and_their_copies_record_one_run(offline):
    """scikit-learn copies an estimator's callbacks: each copy records the same run."""
    pytest.importorskip("sklearn")
    model = xgboost.XGBClassifier(
        n_estimators=3,
        n_jobs=1,
        callbacks=[of_xgboost.JournaltrackCallback(**options(offline))],
    )
    other = copy.deepcopy(model)
    model.fit(X, Y, eval_set=[(X, Y)], verbose=False)
    other.fit(X, Y, eval_set=[(X, Y)], verbose=False)
    wanted = reported(model.evals_result())["validation_0/logloss"]
    assert series(offline) == {"validation_0/logloss": wanted * 2}


def test_a_training_without_evaluations_has_parameters_and_a_status(offline):
    """There are no points to record, and the run says what ran."""
    callback = of_xgboost.JournaltrackCallback(**options(offline))
    xgboost.train(XGBOOST, xgboost.DMatrix(X, Y), 2, callbacks=[callback])
    found = offline.run()
    assert (found.status, found.metrics) == ("Completed", {})
    assert found.parameters["eta"] == 0.3


# -- LightGBM ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [-10, 0, 30])
def test_a_callback_that_stops_lightgbm_hides_no_round(offline, order):
    """It ends training by an exception: ours comes before any other."""

    def stop(env):
        if env.iteration == 3:
            raise lightgbm.callback.EarlyStopException(3, env.evaluation_result_list)

    stop.order = order
    with of_lightgbm.JournaltrackCallback(**options(offline)) as callback:
        grow([stop, callback], rounds=50)
    assert all(steps(points) == [0, 1, 2, 3] for points in series(offline).values())
    assert offline.run().status == "Completed"


def test_early_stopping_of_lightgbm_ends_the_with_block_as_completed(offline):
    """LightGBM does not tell of it, the block does."""
    with of_lightgbm.JournaltrackCallback(**options(offline)) as callback:
        model, results = grow([callback, lightgbm.early_stopping(2, verbose=False)], rounds=50)
    assert model.best_iteration < 48
    found = series(offline)
    # What it records itself, it records before the last round's end.
    assert {name: points[: len(results["valid"]["auc"])] for name, points in found.items()} == (
        reported(results)
    )
    assert offline.run().status == "Completed"


def test_parameters_of_lightgbm_are_recorded(offline):
    """The caller's own, and the number of rounds."""
    given = {**LIGHTGBM, "num_leaves": 7}
    grow([of_lightgbm.JournaltrackCallback(**options(offline))], parameters=given)
    found = offline.run().parameters
    assert (found["num_leaves"], found["num_iterations"]) == (7, 6)
    assert found["objective"] == "binary"


def test_cross_validation_of_lightgbm_has_means_and_deviations(offline):
    """``cv`` gives a fifth member: two series."""
    results = lightgbm.cv(
        LIGHTGBM,
        lightgbm.Dataset(X, Y),
        5,
        nfold=3,
        eval_train_metric=True,
        callbacks=[of_lightgbm.JournaltrackCallback(**options(offline))],
    )
    found = {name: [value for _, value in points] for name, points in series(offline).items()}
    wanted = {}
    for name, values in results.items():
        data, _, metric = name.partition(" ")
        wanted[f"{data}/{metric}".replace("-stdv", "-std").replace("-mean", "")] = values
    assert found == wanted
    assert offline.run().status == "Completed"


def test_environments_of_lightgbm_3_are_read(offline):
    """There a result was a tuple, and in ``cv`` the metric's name had the data's."""
    callback = of_lightgbm.JournaltrackCallback(**options(offline))
    for round_, results in enumerate(
        (
            [("cv_agg", "valid l2", 0.5, False, 0.1)],
            [("cv_agg", "valid l2", 0.4, False, 0.2)],
        )
    ):
        callback(OLD(None, {"num_leaves": 7}, round_, 0, 2, results))
    assert series(offline) == {
        "valid/l2": [(0, 0.5), (1, 0.4)],
        "valid/l2-std": [(0, 0.1), (1, 0.2)],
    }
    assert offline.run().status == "Completed"


def test_estimators_of_lightgbm_are_recorded(offline):
    """Their ``fit`` takes callbacks."""
    pytest.importorskip("sklearn")
    model = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1)
    callback = of_lightgbm.JournaltrackCallback(**options(offline))
    with warnings.catch_warnings():
        # From 4.7 on there are other arguments.
        warnings.simplefilter("ignore")
        model.fit(X, Y, eval_set=[(X, Y)], callbacks=[callback])
    assert series(offline) == reported(model.evals_result_)


# -- CatBoost, which tests/frameworks/test_catboost.py trains with -------------------------


def test_what_catboost_tells_is_recorded(offline):
    """It gives all values so far, and with ``metric_period`` no new one at most iterations."""
    callback = of_catboost.JournaltrackCallback(**options(offline))
    told = [([0.5], []), ([0.5], []), ([0.5, 0.25], [0.75])]
    with callback:
        for number, (loss, area) in enumerate(told, 1):
            metrics = {"learn": {"Logloss": loss}, "validation": {"AUC": area} if area else {}}
            info = SimpleNamespace(iteration=number, metrics=metrics)
            # CatBoost stops at anything but True.
            assert callback.after_iteration(info) is True
        with pytest.warns(JournaltrackWarning, match="counts from step 0 again"):
            callback.after_iteration(
                SimpleNamespace(iteration=1, metrics={"learn": {"Logloss": [9.0]}})
            )
    assert series(offline) == {
        "learn/Logloss": [(0, 0.5), (2, 0.25), (0, 9.0)],
        "validation/AUC": [(2, 0.75)],
    }
    assert offline.run().status == "Completed"
