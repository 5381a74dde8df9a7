"""The stand-in for sagemaker-experiments has the original's names, and its signatures."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROZEN = json.loads((ROOT / "tests/smexperiments-0.1.45.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/smexperiments.md").read_text(encoding="utf-8")
NAMES = {
    f"{cls}.{member}" if member != "()" else f"{cls}()": signature
    for cls, members in FROZEN["names"].items()
    for member, signature in (members or {"()": None}).items()
}
DIFFERENT = {
    # Three of four are optional, since the journal takes their place.
    "tracker.Tracker()",
    # Made by trackers.
    "trial_component.TrialComponent()",
}
SAME_MEMBERS = {
    "Experiment": "() from_boto to_boto with_boto",
    "Trial": "() from_boto to_boto with_boto",
    "TrialComponent": "last_modified_time source tags to_boto trial_component_name",
    "Tracker": "log_roc_curve",
    "SageMakerFileMetricsWriter": "() close",
    "SageMakerMetricsWriterException": "()",
    "Operator": "CONTAINS EQUALS EXISTS GREATER_THAN GREATER_THAN_OR_EQUAL LESS_THAN LESS_THAN_OR_EQUAL NOT_EQUALS NOT_EXISTS",
    "BooleanOperator": "AND OR",
    "SearchObject": "() to_boto",
    "Filter": "() name operator to_boto value",
    "NestedFilter": "() filters nested_property_name to_boto",
    "SearchExpression": "() filters nested_filters operator sub_expressions to_boto",
    "TrainingJob": "() from_boto to_boto with_boto",
}
SAME = {
    cls + ("()" if member == "()" else f".{member}")
    for cls, members in SAME_MEMBERS.items()
    for member in members.split()
}


def ours(name):
    """The stand-in's object of a dotted name of the original; its type's text for an attribute
    that instances alone have.
    """
    module, cls, *member = name.removesuffix("()").split(".")
    found = getattr(importlib.import_module(f"journaltrack.compat.smexperiments.{module}"), cls)
    for each in member:
        found = getattr(found, each, None) or inspect.get_annotations(found).get(each)
    return found


def signature_of(function):
    """A signature without annotations."""
    found = inspect.signature(function)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_of_the_original_is_there_with_its_signature(name):
    """By the table that was frozen from the wheel; names, order, kinds and defaults are equal."""
    found = ours(name)
    module, cls, *member = name.removesuffix("()").split(".")
    assert found is not None or not member or hasattr(ours(f"{module}.{cls}"), member[0])
    if NAMES[name] is not None and name not in DIFFERENT:
        assert signature_of(found) == NAMES[name]


def test_the_page_names_what_differs_once_and_nothing_else():
    """docs/smexperiments.md has each name that behaves differently in one row, without its module;
    each is one of the original's.
    """
    cells = re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE)
    named = re.findall(r"`([^`]+)`", " ".join(cells))
    assert sorted(named) == sorted(set(named))
    known = {name.partition(".")[2] for name in NAMES}
    assert set(named) <= known
    assert {name.partition(".")[2] for name in DIFFERENT} <= set(named)
    assert known - set(named) == SAME
