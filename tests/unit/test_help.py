"""`journaltrack help`: what errors lead to, and where it finds a topic."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import errors
from journaltrack.cli import COMMANDS, main
from journaltrack.cli.help import about, pages, sections

DOCS = Path(__file__).parents[2] / "docs"
OF_THEIR_OWN = {
    errors.NotSentError: [errors.NotSentError()],
    errors.UnexpectedError: [errors.UnexpectedError(OSError("x"), maybe_applied=True)],
    errors.CopyAheadError: [errors.CopyAheadError("run-1")],
}


def told(*arguments):
    return CliRunner().invoke(main, arguments)


def each_error():
    """Every public class, and every kind of request that failed."""
    for cls in vars(errors).values():
        if inspect.isclass(cls) and issubclass(cls, errors.JournaltrackError):
            if not issubclass(cls, errors.RemoteError):
                yield cls("x")
            elif cls in OF_THEIR_OWN:
                yield from OF_THEIR_OWN[cls]
            else:
                for kind in errors.ErrorKind:
                    yield cls("x", kind=kind, code="C")
                yield cls("x", kind=errors.ErrorKind.HALT, code="C", unreachable=True)
                yield cls("x", kind=errors.ErrorKind.HOLD, code=errors.NOT_ALLOWED)


def test_every_error_leads_to_a_section_that_is_there_and_every_section_is_led_to():
    """The topics of all errors are the headings of the page of errors."""
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    headings = {name for name, text in sections(page) if text.startswith("### ")}
    assert {errors.topic(error) for error in each_error()} == headings


def test_a_topic_of_an_error_is_found_in_the_page_of_errors():
    """No page and no heading elsewhere hides the section that an error names."""
    for error in each_error():
        topic = errors.topic(error)
        assert about(topic).startswith(f"### {topic}\n")


def test_an_error_names_its_topic_on_the_command_line_and_in_python(tmp_path):
    """The line `more:` is a command that works, after an error that ended a command and in a
    traceback; wrong usage has none.
    """
    done = told("status", str(tmp_path / "nowhere"))
    line = done.stderr.splitlines()[-1]
    assert line == "more: journaltrack help journal-not-found"
    assert told(*line.split()[2:]).output.startswith("### journal-not-found")
    assert str(errors.JournalFullError("full", hint="free space")).splitlines() == [
        "full",
        "hint: free space",
        "more: journaltrack help journal-full",
    ]
    assert "more:" not in told("status", "--no-such-option").stderr


def test_a_topic_is_a_page_a_heading_or_a_command():
    """Pages come first, whole; then any heading, with what is below it; each command has one."""
    assert told("help", "watch").output == (DOCS / "watch.md").read_text(encoding="utf-8")
    section = told("help", "bad-input").output
    assert section.startswith("## Bad input\n")
    assert "\n## " not in section
    for command in COMMANDS:
        assert about(command)
    unit = (DOCS / "journaltrack.service").read_text(encoding="utf-8")
    assert told("help", "journaltrack.service").output == unit
    assert json.loads(told("help", "watch", "--json").output)["text"].startswith("# Watch")


def test_without_a_topic_all_pages_are_listed_with_their_titles():
    """Each page that ships has its line."""
    shown = dict(line.split(maxsplit=1) for line in told("help").output.splitlines())
    assert set(shown) == set(pages())
    assert shown["glossary"] == "Glossary"
    assert shown["trees-and-searches"]


@pytest.mark.parametrize(
    ("topic", "meant"), [("jornal-locked", "journal-locked"), ("wach", "watch")]
)
def test_an_unknown_topic_is_wrong_usage_and_names_similar_ones(topic, meant):
    """A slip of the finger costs one more try."""
    done = told("help", topic)
    assert done.exit_code == 2
    assert f"'{meant}'" in done.stderr


def test_a_comment_in_a_block_is_no_heading():
    """A section goes on over fenced blocks, whose first line often names a file."""
    text = "# A\n\n```python\n# train.py\n```\n\n## B c, d\n\nb\n\n# C\n"
    assert [name for name, _ in sections(text)] == ["a", "b-c-d", "c"]
    assert next(sections(text))[1].endswith("b\n\n")
