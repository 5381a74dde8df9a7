"""Log lines for grep."""

from __future__ import annotations

import json
import shlex

from hypothesis import given
from hypothesis import strategies as st

from journaltrack.util.text import fields_of, logfmt


def test_plain_values_stay_plain():
    """What needs no quotes has none; what is None is left out."""
    assert (
        logfmt("pass", journal="/data/run-1", delivered=20, error=None)
        == "event=pass journal=/data/run-1 delivered=20"
    )


@given(st.text())
def test_any_value_stays_on_its_line_and_can_be_read_back(text):
    """No value breaks the line, adds a field or hides the next one."""
    line = logfmt("x", value=text, last=1)
    assert "\n" not in line
    assert line.isprintable()
    value = line.removeprefix("event=x value=").removesuffix(" last=1")
    assert (json.loads(value) if value.startswith('"') else value) == text
    assert fields_of(line) == {"event": "x", "value": text, "last": "1"}


def test_a_shell_splits_it_into_its_fields():
    """Common values survive `read` and `shlex`."""
    assert shlex.split(logfmt("down", error="could not connect", code="E1")) == [
        "event=down",
        "error=could not connect",
        "code=E1",
    ]
