"""Parameters as frameworks give them: nested, repeated, odd, and more than SageMaker takes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import math
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Mapping
from contextlib import closing

import attrs
import numpy as np
import pytest

from journaltrack import Journal, Tracker, TrialComponent
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.tracking import shapes
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.transfer.merge import merge
from journaltrack.util import process


@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)


@attrs.define
class Data:
    path: str = "s3://b/data"
    shuffle: bool = True


class Color(enum.Enum):
    RED = 1


class Config(Mapping):
    """A mapping as OmegaConf's: reading all of it raises if a value is missing."""

    def __init__(self, **values):
        self._values = values

    def __getitem__(self, name):
        if self._values[name] == "???":
            raise ValueError(f"missing mandatory value: {name}")
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


class Silent:
    """It has no text."""

    def __repr__(self):
        raise RuntimeError("no")


class Changing(Config):
    """A mapping that another thread changes meanwhile."""

    def __iter__(self):
        yield from ("a", "b")
        raise RuntimeError("mapping changed size during iteration")


class Locked(dict):
    """A mapping whose own methods all raise."""

    def __iter__(self):
        raise RuntimeError("no")

    items = keys = __getitem__ = __iter__


class Classless:
    """It raises when it is asked for anything, even its class."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


class Odd(float):
    """A number that does not compare and has no text."""

    def __float__(self):
        raise RuntimeError("no")

    is_integer = __eq__ = __repr__ = __float__
    __hash__ = float.__hash__


class Attributed:
    """What attrs would never make."""

    __attrs_attrs__ = (1, 2)


@dataclasses.dataclass
class Unset:
    lr: float = 0.1

    def __getattribute__(self, name):
        raise RuntimeError(name)


HOSTILE = [
    *(Changing(a=1, b=2), Locked(a=1), Classless(), Odd(1.5), Attributed(), Unset()),
    *(Silent(), types.SimpleNamespace(x=Classless())),
]


def values(folder, kind="parameter"):
    """Name and value of each entry, in order of recording: a number, or the payload."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        sql = "SELECT name, coalesce(value, payload) FROM entry WHERE kind = ? ORDER BY seq"
        return connection.execute(sql, (kind,)).fetchall()


def test_nested_parameters_are_named_by_their_path(tracker):
    """Whatever keeps them, in the caller's order; lists and empty objects are one value."""
    tracker.log_parameters(
        {
            "lr": 0.1,
            "model": {"layers": [64, 32], "head": {"dropout": None}, 0: "zero", Color.RED: 1},
            "optimizer": Optimizer(),
            "data": Data(),
            "args": argparse.Namespace(seed=1, more=types.SimpleNamespace(deep=True)),
            "config": Config(a=1, b=Config(c="x")),
            "empty": {},
            "nested": {"empty": {}},
            "kind": Optimizer,
        }
    )
    assert list(tracker.trial_component.parameters.items()) == [
        ("lr", 0.1),
        ("model/layers", "[64, 32]"),
        ("model/head/dropout", None),
        ("model/0", "zero"),
        ("model/Color.RED", 1.0),
        ("optimizer/name", "adam"),
        ("optimizer/betas", "(0.9, 0.999)"),
        ("data/path", "s3://b/data"),
        ("data/shuffle", "True"),
        ("args/seed", 1.0),
        ("args/more/deep", "True"),
        ("config/a", 1.0),
        ("config/b/c", "x"),
        ("empty", "{}"),
        ("nested/empty", "{}"),
        ("kind", str(Optimizer)),
    ]


@pytest.mark.filterwarnings("ignore::journaltrack.tracking.validation.JournaltrackWarning")
def test_a_search_shows_parameters_in_the_shape_of_sagemaker(folder, tracker):
    """What is no finite number has a text there."""
    tracker.log_parameters({"n": 2, "none": None, "nan": math.nan, "text": "x"})
    (found,) = TrialComponent.search(journal=folder)
    assert {name: dict(value) for name, value in found.parameters.items()} == {
        "n": {"NumberValue": 2.0},
        "none": {"StringValue": "None"},
        "nan": {"StringValue": "nan"},
        "text": {"StringValue": "x"},
    }


def test_the_separator_is_the_callers(tracker):
    """The same object under another separator has other names."""
    tracker.log_parameters({"a": {"b": {"c": 1}}}, separator=".")
    assert tracker.trial_component.parameters == {"a.b.c": 1.0}
    for wrong in ("", None, 3):
        with pytest.raises(InvalidTypeError, match="separator"):
            tracker.log_parameters({"a": 1}, separator=wrong)


@pytest.mark.parametrize("given", [attrs.asdict(Data()), Data(), Config(**attrs.asdict(Data()))])
def test_an_object_with_fields_is_taken_as_the_whole(tracker, given):
    """attrs and configurations are parameters themselves, too."""
    tracker.log_parameters(given)
    assert tracker.trial_component.parameters == {"path": "s3://b/data", "shuffle": "True"}


@pytest.mark.parametrize(
    "given",
    [{"a": {"b": 1}, "a/b": 2}, {"a/b": 2, "a": {"b": 1}}, {"a": {1: 1, "1": 2}}],
    ids=["nested first", "nested last", "one text"],
)
def test_two_values_of_one_name_are_refused(folder, tracker, given):
    """Which of them counts could not be seen: nothing is recorded."""
    with pytest.raises(InvalidInputError, match="two parameters would have the name"):
        tracker.log_parameters(given)
    assert values(folder) == []


def test_the_last_of_equal_pairs_counts(tracker):
    """Pairs that are not nested are calls after each other, as before."""
    tracker.log_parameters([("a", 1), ("a", 2)])
    tracker.log_parameters([("a", 3), ("a", 2)])
    assert tracker.trial_component.parameters == {"a": 2.0}


@pytest.mark.slow
def test_what_contains_itself_or_is_too_deep_is_refused(folder, tracker):
    """With an error that names the place; a part that is used twice is no cycle."""
    circle = {"a": {}}
    circle["a"]["b"] = circle["a"]
    whole = {}
    whole["self"] = whole
    for wrong in (circle, whole):
        with pytest.raises(InvalidInputError, match="contains itself"):
            tracker.log_parameters(wrong)
    deep: dict[str, object] = {}
    for _ in range(shapes.DEPTH_MAX + 1):
        deep = {"x": deep}
    with pytest.raises(InvalidInputError, match="nested deeper than"):
        tracker.log_parameters(deep)
    wide = {}
    for _ in range(shapes.DEPTH_MAX - 2):
        wide = {"x": wide, "y": wide}
    for many in (wide, {str(number): 1 for number in range(shapes.NAMES_MAX + 1)}):
        with pytest.raises(InvalidInputError, match="more than 100000 names"):
            tracker.log_parameters(many)
    assert values(folder) == []
    part = {"c": 1}
    tracker.log_parameters({"a": part, "b": part})
    assert tracker.trial_component.parameters == {"a/c": 1.0, "b/c": 1.0}


def test_a_value_that_can_not_be_read_is_left_out_and_the_others_recorded(tracker):
    """One warning per name, after the others are recorded."""
    given = {"good": 1, "bad": Silent(), "cfg": Config(a=1, lost="???"), "deep": {"x" * 400: 1}}
    with pytest.warns(JournaltrackWarning) as told:
        tracker.log_parameters(given)
    assert len(told) == 3
    assert tracker.trial_component.parameters == {"good": 1.0, "cfg/a": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_parameters(given)


@pytest.mark.filterwarnings("ignore::journaltrack.tracking.validation.JournaltrackWarning")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_object_costs_the_others_whatever_it_raises(folder, number):
    """Neither as a value, nested or in a list, nor in a pattern's search, nor as a metric."""
    bad = HOSTILE[number]
    with Tracker.create(journal=folder, sync="off", redact=["secret"]) as tracker:
        tracker.log_parameters({"a": 1, "bad": bad, "in": {"bad": bad, "c": 3}, "l": [bad], "z": 2})
        assert tracker.trial_component.parameters.items() >= {("a", 1.0), ("in/c", 3.0), ("z", 2.0)}
        tracker.log_metrics({"m": 1.0, "bad": bad, "pair": (1.0, bad), "n": 2})
    assert {("m", 1.0), ("n", 2.0)} <= set(values(folder, "metric"))


@pytest.mark.filterwarnings("ignore::journaltrack.tracking.validation.JournaltrackWarning")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_an_object_that_can_not_be_read_is_refused_with_our_error(folder, tracker, number):
    """As the whole, as a name, as a figure, image, text, document or table."""
    bad = HOSTILE[number]
    calls = [
        lambda: tracker.log_parameters([(bad, 1), ("nested", {"a": 1})]),
        lambda: tracker.log_metrics([(bad, 1.0)]),
        lambda: tracker.log_figure(bad, "f"),
        lambda: tracker.log_image(bad, "i"),
        lambda: tracker.log_text(bad, "t"),
    ]
    for call in calls:
        with pytest.raises((InvalidInputError, InvalidTypeError)):
            call()
    assert values(folder) == values(folder, "metric") == values(folder, "upload") == []
    for call in (
        lambda: tracker.log_parameters(bad),
        lambda: tracker.log_metrics(bad),
        lambda: tracker.log_dict({"a": bad}, "d"),
        lambda: tracker.log_table("t", [{"a": bad}]),
        lambda: tracker.log_table("t", bad),
    ):
        with contextlib.suppress(InvalidInputError, InvalidTypeError):
            call()


def test_a_strict_tracker_records_nothing_of_a_call_with_a_bad_value(tmp_path):
    """Neither of parameters nor of metrics."""
    with Tracker.create(journal=tmp_path / "s", sync="off", strict=True) as tracker:
        with pytest.raises(InvalidInputError, match="no text"):
            tracker.log_parameters({"good": 1, "bad": Silent()})
        with pytest.raises(InvalidTypeError, match="must be a number"):
            tracker.log_metrics({"good": 1.0, "bad": "text"})
    assert values(tmp_path / "s") == values(tmp_path / "s", "metric") == []


def test_one_bad_parameter_alone_raises(tracker):
    """There are no others that it would cost."""
    with pytest.raises(InvalidInputError, match="no text"):
        tracker.log_parameter("bad", Silent())
    with pytest.raises(InvalidInputError, match="320"):
        tracker.log_parameters({"good": 1, "x" * 400: 2})
    assert tracker.trial_component.parameters == {}


# -- unchanged ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::journaltrack.tracking.validation.JournaltrackWarning")
def test_what_did_not_change_is_not_recorded_again(folder, tracker):
    """Frameworks log all parameters at each fit and test; only what is new costs an entry."""
    given = {"lr": 0.1, "name": "adam", "n": 3, "none": None, "flag": True, "big": 2**60 + 1}
    for _ in range(3):
        tracker.log_parameters(given)
        tracker.log_parameter("nan", math.nan)
    assert len(values(folder)) == len(given) + 1
    tracker.log_parameters({**given, "lr": 0.2})
    tracker.log_parameters(given)
    assert [each for each in values(folder) if each[0] == "lr"] == [
        ("lr", 0.1),
        ("lr", 0.2),
        ("lr", 0.1),
    ]


@pytest.mark.filterwarnings("ignore::journaltrack.tracking.validation.JournaltrackWarning")
def test_values_of_other_types_are_other_values(folder, tracker):
    """1, 1.0, True, "1", None and "None" do not stand for each other."""
    given = [1, 1.0, True, "1", "True", None, "None", math.nan, "nan"]
    for value in given:
        tracker.log_parameter("p", value)
    assert len(values(folder)) == len(given)


@pytest.mark.filterwarnings("ignore::journaltrack.tracking.validation.JournaltrackWarning")
def test_a_later_process_knows_what_the_journal_has(folder, tracker):
    """A resumed or loaded run, a reopened tracker and a pickled one record only what is new."""
    given = {"lr": 0.1, "model": {"layers": 3}, "text": "é\ud800", "none": None}
    tracker.log_parameters(given)
    tracker.close()
    for again in (
        tracker,
        Tracker.create(trial_component_name="run", resume=True, journal=folder, sync="off"),
        Tracker.load("run", journal=folder, sync="off"),
        pickle.loads(pickle.dumps(tracker)),
    ):
        again.log_parameters({**given, "more": 1})
        again.close()
    assert [name for name, _ in values(folder)] == ["lr", "model/layers", "text", "none", "more"]


def test_what_another_process_changed_since_is_recorded_again(folder, tracker):
    """The value of the last call counts, whoever made the calls in between."""
    tracker.log_parameters({"lr": 0.1, "seed": 1})
    script = (
        "from journaltrack import Tracker\n"
        f"t = Tracker.load('run', journal={str(folder)!r}, sync='off')\n"
        "t.log_parameters({'lr': 0.2, 'seed': 1})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    tracker.log_parameters({"lr": 0.1, "seed": 1})
    assert [value for name, value in values(folder) if name == "lr"] == [0.1, 0.2, 0.1]
    assert [value for name, value in values(folder) if name == "seed"] == [1.0]
    assert tracker.trial_component.parameters["lr"] == 0.1


def test_a_forked_child_and_its_parent_know_of_each_other(folder, tracker):
    """What the child inherited is checked against the journal, as the parent's is."""
    tracker.log_parameter("lr", 0.1)
    child = os.fork()
    if child == 0:
        tracker.log_parameter("lr", 0.1)
        tracker.log_parameter("lr", 0.2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    tracker.log_parameter("lr", 0.2)
    tracker.log_parameter("lr", 0.1)
    assert [value for _, value in values(folder)] == [0.1, 0.2, 0.1]


def test_an_assignment_beside_the_tracker_counts(folder, tracker):
    """Through the component, and through another tracker of the same journal."""
    tracker.log_parameter("lr", 0.1)
    tracker.trial_component.parameters["lr"] = 0.2
    tracker.log_parameter("lr", 0.1)
    other = Tracker.load("run", journal=folder, sync="off")
    other.log_parameter("lr", 0.3)
    tracker.log_parameter("lr", 0.1)
    other.close()
    assert [value for _, value in values(folder)] == [0.1, 0.2, 0.1, 0.3, 0.1]


def test_a_merge_beside_the_tracker_counts(tmp_path, folder):
    """What came later by its time is what the run has, though it came from another journal."""
    clock = iter(range(10**18, 2 * 10**18, 10**9))
    with (
        closing(Journal.open(folder, clock_ns=lambda: next(clock))) as mine,
        closing(Journal.open(tmp_path / "other", clock_ns=lambda: next(clock))) as theirs,
    ):
        tracker = Tracker.create(trial_component_name="run", journal=mine, sync="off")
        other = Tracker.create(trial_component_name="run", journal=theirs, sync="off")
        tracker.log_parameter("lr", 0.1)
        other.log_parameter("lr", 0.2)
        other.log_parameter("seed", 1)
        tracker.log_parameter("seed", 2)
        theirs.flush()
        merge(theirs.path, into=mine.path)
        assert tracker.trial_component.parameters == {"lr": 0.2, "seed": 2.0}
        tracker.log_parameters({"lr": 0.1, "seed": 2})
        assert tracker.trial_component.parameters == {"lr": 0.1, "seed": 2.0}
    assert [each for each in values(folder) if each[0] == "lr"][-1] == ("lr", 0.1)
    assert len(values(folder)) == 5


def test_many_threads_record_the_last_value_of_each(folder, tracker):
    """No thread takes what another one is about to change for what is there."""

    def work(mine):
        for value in range(40):
            tracker.log_parameters({"shared": value % 2, f"own-{mine}": value})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    tracker.log_parameter("shared", 7)
    assert tracker.trial_component.parameters == {
        "shared": 7.0,
        **{f"own-{number}": 39.0 for number in range(4)},
    }
    shared = [value for name, value in values(folder) if name == "shared"]
    assert len(values(folder)) == len(shared) + 160


def test_nothing_is_left_out_while_the_journal_refuses(folder, tracker, monkeypatch):
    """What waits in memory is not in the journal yet: all of a call waits behind it."""
    tracker.log_parameter("lr", 0.1)
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tracker.trial_component.journal.database.set_busy_timeout(0.01)
        with pytest.warns(RuntimeWarning, match="wait in memory"):
            tracker.log_parameter("lr", 0.2)
        tracker.log_parameter("lr", 0.1)
        other.execute("ROLLBACK")
    tracker.flush()
    assert [value for _, value in values(folder)] == [0.1, 0.2, 0.1]


# -- redacted ----------------------------------------------------------------------------------


def test_a_pattern_fits_the_whole_name_each_part_and_what_a_list_holds(folder):
    """A secret is one wherever the configuration keeps it."""
    tracker = Tracker.create(
        trial_component_name="run",
        journal=folder,
        sync="off",
        redact=["*token*", "password", "a/b", "whole/name"],
    )
    secrets = {
        "db": {"password": "hunter2", "user": "me"},
        "tokens": {"first": "hunter2"},
        "a/b": {"c": "hunter2"},
        "whole": {"name": "hunter2"},
        "x/password": "hunter2",
        "users": [{"name": "me", "password": "hunter2"}, Optimizer()],
        "deep": ([types.SimpleNamespace(api_token="hunter2")],),
    }
    tracker.log_parameters(secrets)
    tracker.log_parameter("one", {"password": "hunter2"})
    tracker.log_parameters({"db": {"password": "hunter3"}}, separator=".")
    tracker.log_parameters(secrets)
    tracker.close()
    assert b"hunter" not in (folder / "journal.db").read_bytes()
    read = dict(tracker.trial_component.parameters)
    assert read.pop("db/user") == "me"
    assert set(read.values()) == {"[redacted]"}
    assert len(read) == 9
    assert len(values(folder)) == 10


# -- metrics -----------------------------------------------------------------------------------


def test_a_metric_that_is_no_number_is_left_out_and_the_others_recorded(folder, tracker):
    """One warning per name, which comes last; a single one raises."""
    given = {"loss": 0.5, "note": "text", "none": None, "array": np.zeros(3), "n": np.int64(2)}
    with pytest.warns(JournaltrackWarning) as told:
        tracker.log_metrics(given, step=1)
    assert len(told) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_metrics(given, step=2)
        tracker.log_metrics({"note": "text"})
    assert values(folder, "metric") == [("loss", 0.5), ("n", 2.0)] * 2
    with pytest.raises(InvalidTypeError):
        tracker.log_metric("note", "text")


def test_a_mean_with_its_deviation_makes_two_points(folder, tracker):
    """As xgboost's cross-validation gives them; a pair with a text in it is no number."""
    tracker.log_metrics({"auc": (np.float64(0.9), 0.01), "loss": 1}, step=3)
    tracker.log_metric("auc", (0.8, np.float32(0.5)))
    with pytest.warns(JournaltrackWarning):
        tracker.log_metrics({"odd": (1.0, "x"), "three": (1, 2, 3)})
    assert values(folder, "metric") == [
        ("auc", 0.9),
        ("auc-std", 0.01),
        ("loss", 1.0),
        ("auc", 0.8),
        ("auc-std", 0.5),
    ]


def test_a_rank_of_thousands_of_digits_is_none(monkeypatch):
    """Python refuses to read such a number; a launch ended with that error."""
    monkeypatch.setenv("RANK", "9" * 5_000)
    assert process.rank() is None


def raising(*_):
    raise RuntimeError("hostile")


class Lying(str):
    """A text whose methods lie or raise."""

    __slots__ = ()
    __str__ = __eq__ = __hash__ = __len__ = encode = lower = strip = raising


class Classless(str):
    """A text that raises when it is asked for its class."""

    __slots__ = ()
    __class__ = property(raising)


class Sealed(str):
    """A text that raises for each attribute."""

    __slots__ = ()
    __getattribute__ = raising


@pytest.mark.parametrize("kind", [Lying, Classless, Sealed])
def test_a_text_of_any_class_is_its_characters(folder, tracker, kind):
    """As a name and as a value, also of a name that is known already."""
    for _ in range(2):
        tracker.log_metric(kind("m"), 1.0)
        tracker.log_metrics([(kind("m"), 2.0)])
    tracker.log_parameter(kind("p"), kind("v"))
    tracker.log_parameters([(kind("q"), kind("w")), ("n", 1)])
    tracker.log_output(kind("o"), kind("s3://b/k"))
    component = tracker.trial_component
    assert component.output_artifacts["o"].value == "s3://b/k"
    found = component.parameters
    assert (found["p"], found["n"]) == ("v", 1.0)
    assert type(next(iter(found))) is str
