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


def test_the_page_names_every_name_and_no_other():
    """docs/smexperiments.md has a row for each public name, and says "same" or "different"."""
    rows = re.findall(r"^\| `([a-z_]+\.[^`]+)` \| (same|different) \|", PAGE, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(NAMES)
    for name in DIFFERENT:
        assert dict(rows)[name] == "different"
