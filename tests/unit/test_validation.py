"""Validation: a programmer's mistake raises, data passes and keeps its meaning."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import math
import time
import types
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.tracking import shapes, validation


class Optimizer(str, enum.Enum):
    """Text with a name of its own, as configurations have it."""

    SGD = "sgd"


class Tensor:
    """What a tensor of one element looks like from outside."""

    def __init__(self, *shape):
        self.shape = shape

    def item(self):
        """The number in it."""
        return 0.5


class Eager:
    """What TensorFlow's tensor of one element looks like from outside: it has no item()."""

    def __init__(self, *shape):
        self.shape = shape

    def numpy(self):
        """The same as NumPy's."""
        return np.full(self.shape, 0.5)


class Unreadable:
    """A tensor without a value here, as on PyTorch's device "meta"."""

    shape = ()

    def item(self):
        """It has none."""
        msg = "no value on this device"
        raise RuntimeError(msg)

    def __str__(self):
        return "unreadable"


class Moody:
    """An object that can't be asked what it is."""

    @property
    def shape(self):
        """Not now."""
        msg = "not now"
        raise RuntimeError(msg)

    dtype = as_tuple = item = shape

    def __str__(self):
        return "moody"


class Floating:
    """A number of a library's own."""

    def __float__(self):
        return 0.5


class Silent:
    """An object that can't be made text of."""

    def __str__(self):
        msg = "no text"
        raise KeyError(msg)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("text", "text"),
        ("", ""),
        (Optimizer.SGD, "sgd"),
        (np.str_("text"), "text"),
        (True, "True"),
        (np.bool_(False), "False"),
        (3, 3),
        (2**63 + 1, 2**63 + 1),
        (0.1, 0.1),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.array(3), 3),
        (Tensor(), 0.5),
        (Tensor(1), 0.5),
        (Tensor(1, 1), 0.5),
        (Eager(1), 0.5),
        (np.array([7]), 7),
        (np.array([[0.5]], dtype=np.float32), 0.5),
        (np.array([True]), "True"),
        (np.array([["text"]]), "text"),
        (pd.Series([3]), 3),
        (np.array([1, 2]), "[1 2]"),
        (Unreadable(), "unreadable"),
        (Moody(), "moody"),
        (np.datetime64("2024-01-02T03:04:05.000000006"), "2024-01-02T03:04:05.000000006"),
        (np.timedelta64(5, "ns"), str(np.timedelta64(5, "ns"))),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
        (1j, "1j"),
        (None, None),
        ([1, 2], "[1, 2]"),
    ],
)
def test_parameter_values_keep_their_meaning(value, kept):
    """Numbers stay numbers of the plain type, text stays its characters, the rest becomes its
    text.
    """
    found = validation.parameter_value(value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize("value", [math.nan, Decimal("NaN"), Decimal("sNaN"), np.float64("nan")])
def test_a_value_that_is_no_number_passes(value):
    """NaN of every make is data, not a mistake: it reaches the journal as NaN."""
    assert math.isnan(validation.metric_value(value))
    assert math.isnan(validation.parameter_value(value))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (True, 1),
        (2, 2),
        (np.float32(0.5), 0.5),
        (Tensor(), 0.5),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 2), 0.5),
        (Tensor(1, 1, 1), 0.5),
        (Eager(), 0.5),
        (Eager(1), 0.5),
        (np.array([[3]]), 3),
        (Floating(), 0.5),
        (np.uint64(2**64 - 1), 2**64 - 1),
        ("0.5", 0.5),
        (" -3 ", -3),
        ("1e3", 1000.0),
        (str(2**53 + 1), 2**53 + 1),
        (np.str_("0.5"), 0.5),
        (np.array(["0.5"]), 0.5),
    ],
)
def test_metric_values_are_plain_numbers(value, kept):
    """What counts as a number arrives as an int or float."""
    found = validation.metric_value(value)
    assert found == kept
    assert type(found) in {int, float}


@pytest.mark.parametrize(
    "value",
    [
        "half",
        "",
        "1,5",
        1j,
        np.complex64(1),
        None,
        [1.0],
        np.zeros(2),
        np.zeros(0),
        Unreadable(),
        Moody(),
        float,
        np.timedelta64(5, "ns"),
        np.datetime64(5, "ns"),
        pd.Series([1.0, 2.0]),
        pd.Timestamp("2024-01-01"),
        np.array(["half"]),
        np.array(["0.5", "1"]),
        b"1",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_no_metric(value):
    """Other text, complex numbers and arrays are a TypeError."""
    with pytest.raises(InvalidTypeError):
        validation.metric_value(value)


@pytest.mark.parametrize(
    ("value", "kept"), [(Fraction(10**400), math.inf), (-Fraction(10**400), -math.inf)]
)
def test_a_number_beyond_a_double_is_infinite_with_its_sign(value, kept):
    """A number that no double holds is data: it passes as an infinity."""
    assert validation.metric_value(value) == kept


@given(st.integers(0, limits.STEP_MAX))
def test_steps_of_every_integral_type_are_the_same(step):
    """int, integral float and NumPy integer mean the same step."""
    assert (
        validation.step(step)
        == validation.step(float(step))
        == validation.step(np.int64(step))
        == validation.step(np.array([step]))
        == step
    )


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (2**31, ValueError),
        (10**400, ValueError),
        (10**5_000, ValueError),
        (np.zeros(2, dtype=int), TypeError),
        (object(), TypeError),
        (np.timedelta64(1, "s"), TypeError),
        (1.5, TypeError),
        (math.nan, TypeError),
        (True, TypeError),
        ("1", TypeError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_steps_that_can_never_be_right_raise(value, error):
    """The limit is 0 to 2^31-1, and True is no step."""
    with pytest.raises(error, match="iteration_number"):
        validation.step(value)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2262, 4, 10)), st.integers(-23, 23))  # noqa: DTZ001 - the zone is the other argument
def test_aware_datetimes_are_exact_to_the_microsecond(moment, hours):
    """The nanoseconds lead back to the same instant, whatever its zone."""
    aware = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    microseconds, rest = divmod(validation.timestamp_ns(aware), 1000)
    assert rest == 0
    assert datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds) == aware


@pytest.mark.parametrize(
    "value",
    [
        -1,
        math.nan,
        math.inf,
        1e300,
        10**400,
        10**5_000,
        datetime.min,  # noqa: DTZ901
        datetime.max,  # noqa: DTZ901
        datetime(1969, 12, 31, tzinfo=timezone.utc),
        pd.NaT,
        np.datetime64("NaT"),
        np.datetime64("NaT", "ns"),
        np.array(["NaT"], dtype="datetime64[s]"),
        np.datetime64("1969-12-31"),
        np.datetime64("-300000-01-01"),
        np.datetime64("300000-01-01"),
        np.datetime64("9999-12-31"),
        np.datetime64(-1, "ns"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_times_that_no_journal_can_hold_raise(value):
    """Before 1970, after 2262 and no point in time is an InvalidInputError, and never another
    exception on the way to it.
    """
    with pytest.raises(InvalidInputError, match="timestamp"):
        validation.timestamp_ns(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2262, 4, 12, tzinfo=timezone.utc),
        9_223_372_037,
        np.datetime64("2262-04-11T23:47:16.854776"),
        np.datetime64(datetime(2262, 4, 12)),  # noqa: DTZ001 - NumPy's are UTC
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_time_beyond_64_bit_nanoseconds_names_the_limit(value):
    """The error says which moment is the last; seconds, datetimes and NumPy's alike."""
    with pytest.raises(InvalidInputError, match="2262-04-11"):
        validation.timestamp_ns(value)


def test_the_last_moment_is_taken():
    """2^63-1 nanoseconds since the epoch, to the nanosecond."""
    assert validation.timestamp_ns(np.datetime64(2**63 - 1, "ns")) == 2**63 - 1
    assert validation.timestamp_ns(9_223_372_036) == 9_223_372_036 * 10**9


@pytest.mark.parametrize(
    ("value", "nanoseconds"), [(0, 0), (0.5, 500_000_000), (np.datetime64(0, "ns"), 0)]
)
def test_the_first_moment_is_taken(value, nanoseconds):
    """1970 begins with its first nanosecond, and what comes after it in the first second."""
    assert validation.timestamp_ns(value) == nanoseconds


@pytest.mark.parametrize(
    ("value", "is_hinted"),
    [(9_223_372_036_000, True), (9_223_372_036_001, False), (-1, False)],
)
def test_milliseconds_are_told_from_nonsense(value, is_hinted):
    """The hint is given up to the last second that a journal can hold."""
    with pytest.raises(InvalidInputError) as caught:
        validation.timestamp_ns(value)
    assert ("milliseconds" in caught.value.hint) == is_hinted


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_pandas_and_numpys_times_are_exact(zone, monkeypatch):
    """pandas' keep their nanoseconds, naive ones are local time as every naive datetime; NumPy's
    of any unit are UTC.
    """
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        nanoseconds = 1_700_000_000_123_456_789
        assert (
            validation.timestamp_ns(pd.Timestamp(nanoseconds, unit="ns", tz="UTC")) == nanoseconds
        )
        assert (
            validation.timestamp_ns(pd.Timestamp(nanoseconds, unit="ns", tz="Europe/Berlin"))
            == nanoseconds
        )
        local = pd.Timestamp(datetime.fromtimestamp(1_700_000_000))  # noqa: DTZ006 - naive is local time
        assert (
            validation.timestamp_ns(local + pd.Timedelta(nanoseconds - 1_700_000_000 * 10**9, "ns"))
            == nanoseconds
        )
        units = {
            "ns": 1,
            "us": 10**3,
            "ms": 10**6,
            "s": 10**9,
            "m": 60 * 10**9,
            "h": 3_600 * 10**9,
            "D": 86_400 * 10**9,
        }
        for unit, each in units.items():
            moment = np.datetime64(nanoseconds, "ns").astype(f"datetime64[{unit}]")
            assert validation.timestamp_ns(moment) == nanoseconds // each * each, unit
        assert (
            validation.timestamp_ns(np.datetime64(nanoseconds // 10, "10ns"))
            == nanoseconds // 10 * 10
        )
        assert (
            validation.timestamp_ns(np.datetime64(1_700_000_000_123_456, "ps")) == 1_700_000_000_123
        )
        assert validation.timestamp_ns(np.datetime64("2023", "Y")) == 1_672_531_200 * 10**9
        assert (
            validation.timestamp_ns(np.array([nanoseconds], dtype="datetime64[ns]")) == nanoseconds
        )
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        "now",
        True,
        1j,
        [1],
        np.array([1, 2], dtype="datetime64[s]"),
        np.timedelta64(1, "s"),
        np.zeros(2),
    ],
)
def test_what_is_no_time_is_a_type_error(value):
    """A timestamp is a datetime or a number."""
    with pytest.raises(InvalidTypeError):
        validation.timestamp_ns(value)


@pytest.mark.parametrize("name", ["", "x" * 11, "a\nb", "a\rb", "\ud800"])
def test_keys_that_aws_can_never_accept_raise(name):
    """Empty, too long, with a line break, or not UTF-8."""
    with pytest.raises(InvalidInputError, match="loss name"):
        validation.key(name, "loss name", 10)


def test_a_key_is_plain_text():
    """An enum's member names what its value says, as a plain str that SQLite takes."""
    found = validation.key(Optimizer.SGD, "name", 10)
    assert (found, type(found)) == ("sgd", str)


@pytest.mark.parametrize("name", [None, 3, b"name", ["name"]])
def test_a_name_that_is_no_text_is_our_type_error(name):
    """Not the error of a regular expression."""
    with pytest.raises(InvalidTypeError, match="display name must be a str"):
        validation.entity_name(name, "display name")
    with pytest.raises(InvalidTypeError, match="display name must be a str"):
        validation.display_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a b", "a.b", "x" * 121, "a\n"])
def test_entity_names_that_sagemaker_refuses_raise(name):
    """Letters, digits and hyphens between them, at most 120."""
    with pytest.raises(InvalidInputError, match="display name") as caught:
        validation.entity_name(name, "display name")
    suggestion = caught.value.hint.removeprefix("for example ")
    assert validation.entity_name(suggestion, "display name") == suggestion


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        ("my run", "my-run"),
        ("v1.2", "v1-2"),
        ("_a_b_", "a-b"),
        ("a - b", "a-b"),
        ("a..b", "a-b"),
        ("Run", "Run"),
        ("a--b", "a--b"),
    ],
)
def test_a_display_name_with_other_separators_is_mended(given, mended):
    """Dots, underscores and spaces become hyphens, which is told; a name that can be used stays
    as it is.
    """
    name, told = validation.display_name(given)
    assert name == mended
    assert (told is None) == (given == mended)


@pytest.mark.parametrize(
    "name", ["", "...", "lr=0.1", "é x", "a/b", "a\nb", "-a", "x" * 121, "x" * 110 + " " + "y" * 20]
)
def test_any_other_display_name_is_refused_with_one_that_can_be_used(name):
    """What is meant can't be told, but how it could be written can."""
    with pytest.raises(InvalidInputError, match="display name") as caught:
        validation.display_name(name)
    assert validation.display_name(caught.value.hint.removeprefix("for example "))[1] is None


def test_a_value_without_a_text_is_an_input_error():
    """What ``str`` raises does not come out as it is, also where an integer is hidden in a list."""
    for value in (Silent(), [10**5_000]):
        with pytest.raises(InvalidInputError, match="has no text"):
            validation.parameter_value(value)


def test_a_text_that_no_journal_takes_is_refused(monkeypatch):
    """SQLite's rows end at 1 GB: the limit is named at the call."""
    monkeypatch.setattr(limits, "TEXT_CHARS_MAX", 1_000)
    assert validation.parameter_value("x" * 1_000) == "x" * 1_000
    with pytest.raises(InvalidInputError, match="at most 1000"):
        validation.parameter_value("x" * 1_001)


@dataclasses.dataclass
class Settings:
    """Parameters as a dataclass; one of them has not been set."""

    lr: float = 0.1
    unset: int = dataclasses.field(init=False)


@pytest.mark.parametrize(
    "value",
    [
        {"lr": 0.1},
        argparse.Namespace(lr=0.1),
        types.SimpleNamespace(lr=0.1),
        Settings(),
        [("lr", 0.1)],
        (["lr", 0.1],),
        {"lr": 0.1}.items(),
        types.MappingProxyType({"lr": 0.1}),
        pd.Series({"lr": 0.1}),
        (pair for pair in [("lr", 0.1)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_of_every_shape_are_pairs(value):
    """What people keep parameters in is taken as it is."""
    assert shapes.pairs(value, "parameters") == [("lr", 0.1)]


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "lr",
        b"lr",
        ["lr"],
        [("lr", 1, 2)],
        {"lr"},
        Settings,
        dict,
        {"ab"},
        [Silent()],
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_names_and_values_is_a_type_error(value):
    """The error says what was given and what is taken."""
    with pytest.raises(InvalidTypeError, match="parameters must be"):
        shapes.pairs(value, "parameters")


def test_tags_are_a_dict_or_awss_list():
    """Both forms mean the same; neither form is a TypeError, too many a ValueError."""
    assert (
        validation.tags([{"Key": "team", "Value": "vision"}])
        == validation.tags({"team": "vision"})
        == {"team": "vision"}
    )
    assert validation.tags(None) == {}
    for wrong in ("team", [("team", "vision")], {"team": 1}):
        with pytest.raises(InvalidTypeError):
            validation.tags(wrong)
    for wrong in ({f"k{i}": "v" for i in range(51)}, {"": "v"}, {"k": "v" * 257}, {"k!": "v"}):
        with pytest.raises(InvalidInputError):
            validation.tags(wrong)
