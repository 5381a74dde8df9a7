"""Validation: a programmer's mistake raises, data passes and keeps its meaning."""

from __future__ import annotations

import enum
import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack import limits, validation
from journaltrack.errors import InvalidInputError, InvalidTypeError


class Optimizer(str, enum.Enum):
    """Text with a name of its own, as configurations have it."""

    SGD = "sgd"


class Tensor:
    """What a zero-dimensional tensor looks like from outside."""

    shape = ()

    def item(self):
        """The number in it."""
        return 0.5


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
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
        (1j, "1j"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_parameter_values_keep_their_meaning(value, kept):
    """Numbers stay numbers of the plain type, text stays its characters, the rest becomes its text."""
    found = validation.parameter_value(value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize("value", [math.nan, Decimal("NaN"), Decimal("sNaN"), np.float64("nan")])
def test_a_value_that_is_no_number_passes(value):
    """NaN of every make is data, not a mistake: it reaches the journal as NaN."""
    assert math.isnan(validation.metric_value(value))
    assert math.isnan(validation.parameter_value(value))


@pytest.mark.parametrize(
    ("value", "kept"), [(True, 1), (2, 2), (np.float32(0.5), 0.5), (Tensor(), 0.5), (Decimal("0.5"), 0.5), (Fraction(1, 2), 0.5)]
)
def test_metric_values_are_plain_numbers(value, kept):
    """What counts as a number arrives as an int or float."""
    found = validation.metric_value(value)
    assert found == kept
    assert type(found) in {int, float}


@pytest.mark.parametrize("value", ["0.5", 1j, None, [1.0], np.zeros(2)])
def test_what_is_no_number_is_no_metric(value):
    """Text, complex numbers and arrays are a TypeError."""
    with pytest.raises(InvalidTypeError):
        validation.metric_value(value)


@pytest.mark.parametrize(("value", "kept"), [(Fraction(10**400), math.inf), (-Fraction(10**400), -math.inf)])
def test_a_number_beyond_a_double_is_infinite_with_its_sign(value, kept):
    """A number that no double holds is data: it passes as an infinity."""
    assert validation.metric_value(value) == kept


@given(st.integers(0, limits.STEP_MAX))
def test_steps_of_every_integral_type_are_the_same(step):
    """int, integral float and NumPy integer mean the same step."""
    assert validation.step(step) == validation.step(float(step)) == validation.step(np.int64(step)) == step


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (2**31, ValueError),
        (10**400, ValueError),
        (1.5, TypeError),
        (math.nan, TypeError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_steps_that_can_never_be_right_raise(value, error):
    """The limit is 0 to 2^31-1, and True is no step."""
    with pytest.raises(error, match="iteration_number"):
        validation.step(value)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.integers(-23, 23))  # noqa: DTZ001 - the zone is the other argument
def test_aware_datetimes_are_exact_to_the_microsecond(moment, hours):
    """The nanoseconds lead back to the same instant, whatever its zone."""
    aware = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    microseconds, rest = divmod(validation.timestamp_ns(aware), 1000)
    assert rest == 0
    assert datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds) == aware


@pytest.mark.parametrize(
    "value",
    [-1, math.nan, math.inf, 1e300, 10**400, datetime.min, datetime.max, datetime(1969, 12, 31, tzinfo=timezone.utc)],  # noqa: DTZ901
)
def test_times_that_aws_can_not_hold_raise(value):
    """Before 1970 and after 9999 is an InvalidInputError, and never another exception on the way to it."""
    with pytest.raises(InvalidInputError, match="timestamp"):
        validation.timestamp_ns(value)


@pytest.mark.parametrize("value", ["now", True, 1j, [1]])
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


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a b", "a.b", "x" * 121, "a\n"])
def test_entity_names_that_sagemaker_refuses_raise(name):
    """Letters, digits and hyphens between them, at most 120."""
    with pytest.raises(InvalidInputError, match="display name"):
        validation.entity_name(name, "display name")


def test_tags_are_a_dict_or_awss_list():
    """Both forms mean the same; neither form is a TypeError, too many a ValueError."""
    assert validation.tags([{"Key": "team", "Value": "vision"}]) == validation.tags({"team": "vision"}) == {"team": "vision"}
    assert validation.tags(None) == {}
    for wrong in ("team", [("team", "vision")], {"team": 1}):
        with pytest.raises(InvalidTypeError):
            validation.tags(wrong)
    for wrong in ({f"k{i}": "v" for i in range(51)}, {"": "v"}, {"k": "v" * 257}, {"k!": "v"}):
        with pytest.raises(InvalidInputError):
            validation.tags(wrong)
