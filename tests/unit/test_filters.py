"""Filters: one that names nothing is wrong usage with what is near, whatever the command;
several journals, and folders of them.
"""

from __future__ import annotations

import csv
import json
from difflib import SequenceMatcher

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import ExitCode, main
from journaltrack.journal.journal import Journal
from journaltrack.util import patterns
from tests.simulator import simulator

PRUNE = ("prune", "--delivered-before", "1d")


def run(*arguments):
    """A command, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def recorded(folder, name):
    with Tracker.create(trial_component_name=name, journal=folder, sync="off") as tracker:
        tracker.log_parameter("learning_rate", 0.1)
        tracker.log_parameter("learning_rate", 0.2)
        tracker.log_metric("train:loss", 0.5, iteration_number=1)
    return folder


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal, as a command takes it."""
    return recorded(tmp_path / "journal", "digits-1")


@pytest.fixture
def folder(tmp_path):
    """A folder with two journals."""
    for name in ("digits-1", "digits-2"):
        recorded(tmp_path / "all" / name, name)
    return tmp_path / "all"


@pytest.mark.parametrize(
    "arguments",
    [
        ("sync",),
        ("sync", "--dry-run"),
        ("check", "--remote", "--region", "us-east-1"),
        ("audit",),
        ("audit", "entries"),
        ("audit", "history", "learning_rate"),
        ("audit", "timeline"),
        ("export",),
        ("export", "--table", "entries"),
        ("retry",),
        ("retry", "--dry-run"),
        ("resolve", "--delivered"),
        PRUNE,
        (*PRUNE, "--dry-run"),
        ("prune", "--blobs-delivered-before", "1d"),
    ],
    ids=" ".join,
)
def test_a_component_that_is_not_there_is_wrong_usage(journal, arguments):
    """A misspelt pattern ends every command with 2 and the right name; nothing is printed that
    looks like an answer.
    """
    before = (journal / "journal.db").read_bytes()
    done = run(*arguments, journal, "--component", "digtis-*")
    assert done.exit_code == ExitCode.USAGE, done.output
    assert "no component that fits 'digtis-*'" in done.stderr
    assert "perhaps digits-1" in done.stderr
    assert done.stdout == ""
    assert (journal / "journal.db").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [("show", "digtis-1", "-j"), ("finish", "digtis-1", "--status", "Stopped", "-j")],
    ids=lambda each: each[0],
)
def test_a_name_that_is_not_there_is_wrong_usage(journal, arguments):
    """So do the commands about one component."""
    done = run(*arguments, journal)
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert "perhaps digits-1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("entries", "--name", "loss"), "perhaps train:loss"),
        (("entries", "--name", "TRAIN:*"), "perhaps train:loss"),
        (("timeline", "--name", "learning-rate"), "perhaps learning_rate"),
        (("entries", "--kind", "metrics"), "perhaps metric"),
        (("timeline", "--kind", "paramter"), "perhaps parameter"),
        (("entries", "--kind", "parameter", "--name", "train:loss"), "it has: learning_rate"),
        (("history", "learning-rate"), "perhaps learning_rate"),
        (("history", "train:loss"), "it has: learning_rate, status"),
        (("history", "learning_rate", "--kind", "output"), "no output 'learning_rate'"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else None,
)
def test_names_and_kinds_that_are_not_there_are_wrong_usage(journal, arguments, told):
    """What the filters of an audit name is there, or what is near is said."""
    done = run("audit", *arguments, journal)
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("entries", "--state", "quarantined"),
        ("entries", "--kind", "upload"),
        ("entries", "--name", "train:*", "--until", "2000-01-01"),
        ("timeline", "--name", "train:loss", "--state", "in doubt"),
        ("history", "status", "--until", "2000-01-01"),
    ],
    ids=" ".join,
)
def test_an_answer_may_be_empty(journal, arguments):
    """States, times and known kinds can't be misspelt: that there is nothing is an answer."""
    assert run("audit", *arguments, journal).exit_code in {ExitCode.OK, ExitCode.PENDING}


def test_nothing_is_sent_and_json_says_why(journal, credentials_of):
    """A sync of a component that is not there asks nobody; scripts find the hint in the
    document.
    """
    with simulator() as sim:
        done = run(
            "sync", journal, "--component", "nothing", "--json", "--endpoint-url", sim.endpoint_url
        )
        assert not sim.requests
    (told,) = json.loads(done.stdout)["journals"]
    assert (done.exit_code, told["error"]["type"]) == (ExitCode.USAGE, "NothingMatchesError")
    assert told["error"]["hint"] == "it has: digits-1"


@pytest.fixture
def credentials_of(monkeypatch):
    """Credentials, as a user has them."""
    for name, value in {
        "ACCESS_KEY_ID": "AKIDTEST",
        "SECRET_ACCESS_KEY": "secret",
        "REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.parametrize("command", ["sync", "check", "audit", "export"])
def test_of_several_journals_one_must_have_it(folder, credentials_of, command):
    """Where one of a folder's journals has the component, that the others have not is a note; if
    none has it, it is wrong usage.
    """
    with simulator() as sim:
        where = ("--endpoint-url", sim.endpoint_url) if command in {"sync", "check"} else ()
        where += ("--remote",) if command == "check" else ()
        done = run(command, folder, "--component", "digits-2", *where)
        wrong = run(command, folder, "--component", "digtis-2", *where)
    assert done.exit_code in {ExitCode.OK, ExitCode.PENDING}, done.output
    assert "digits-2" in done.stdout
    assert (wrong.exit_code, wrong.stderr.count("error:")) == (ExitCode.USAGE, 1)


def test_a_folder_stands_for_its_journals(folder, credentials_of):
    """What is delivered by one sync of the folder is verified and audited by one command each."""
    with simulator() as sim:
        at = ("--endpoint-url", sim.endpoint_url, "--json")
        before = run("audit", folder, "--json")
        synced, verified = run("sync", folder, *at), run("check", "--remote", folder, *at)
    audited = run("audit", folder, "--json")
    assert [done.exit_code for done in (before, synced, verified, audited)] == [3, 0, 0, 0], (
        synced.output
    )
    assert [each["delivered"] for each in json.loads(synced.stdout)["journals"]] == [6, 6]
    assert [
        each["remote"]["checked"]["components"] for each in json.loads(verified.stdout)["journals"]
    ] == [1, 1]
    assert [each["totals"]["delivered"] for each in json.loads(audited.stdout)["journals"]] == [
        6,
        6,
    ]


def test_sync_and_audit_count_alike(journal, credentials_of):
    """What is superseded is delivered, to both: the counts are the same."""
    with simulator() as sim:
        done = run("sync", journal, "--json", "--endpoint-url", sim.endpoint_url)
    (synced,) = json.loads(done.stdout)["journals"]
    audited = json.loads(run("audit", journal, "--json").stdout)["totals"]
    for name in ("delivered", "superseded", "quarantined", "in_doubt"):
        assert synced[name] == audited[name]
    assert synced["superseded"] == 2, "a parameter and the status InProgress"
    assert synced["delivered"] == audited["entries"]


def test_lines_of_several_journals_name_theirs(folder):
    """One JSON object a line, each with its journal."""
    lines = [
        json.loads(line) for line in run("audit", "entries", folder, "--json").stdout.splitlines()
    ]
    assert {line["journal"]: line["component"] for line in lines} == {
        str(folder / name): name for name in ("digits-1", "digits-2")
    }


@pytest.mark.parametrize(
    "arguments", [("entry", "1"), ("entries", "--after", "1")], ids=lambda each: each[0]
)
def test_questions_about_one_journal_want_one(folder, arguments):
    """A number of an entry says nothing where there are several journals."""
    done = run("audit", *arguments, folder)
    assert (done.exit_code, "about one journal" in done.output) == (ExitCode.USAGE, True)


def test_one_damaged_journal_keeps_no_other(folder):
    """The others are answered, and the exit code is that of the damaged one."""
    (folder / "digits-1" / "journal.db").write_bytes(b"no database" * 500)
    done = run("audit", folder, "--json")
    damaged, whole = json.loads(done.stdout)["journals"]
    assert (done.exit_code, damaged["exit_code"]) == (ExitCode.JOURNAL, ExitCode.JOURNAL)
    assert whole["totals"]["entries"] == 6


def test_the_last_lines_about_several_journals_are_about_all(folder, credentials):
    """Who reads the end alone does not take the last journal for all: it counts the journals, and
    names those that are not well. A journal without what a filter names does not count.
    """

    def last(*arguments):
        return run(*arguments).stdout.split("\n\n")[-1].splitlines()

    assert last("audit", folder) == [
        "not all delivered: 2 of 2 journals",
        *(f"  {folder / name}" for name in ("digits-1", "digits-2")),
    ]
    with simulator() as sim:
        assert last("sync", folder, "--endpoint-url", sim.endpoint_url) == [
            "all delivered: 2 journals"
        ]
    assert last("audit", folder) == ["all delivered: 2 journals"]
    assert last("audit", folder, "--component", "digits-1")[-1].startswith("all delivered: 6 ent")
    assert last("check", folder) == ["all well: 2 journals"]
    (folder / "digits-1" / "journal.db").write_bytes(b"no database" * 500)
    assert last("check", folder) == ["not all well: 1 of 2 journals", f"  {folder / 'digits-1'}"]


def test_an_export_of_a_folder_is_one_file(folder, tmp_path):
    """Rows of all journals, told apart by journal_id; a journal that can't be read leaves no
    file.
    """
    done = run("export", folder, "-o", tmp_path / "all.csv", "--json")
    assert done.exit_code == 0, done.output
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids = {row["component"]: row["journal_id"] for row in rows}
    for name in ("digits-1", "digits-2"):
        opened = Journal.open(folder / name, create=False, read_only=True)
        assert ids[name] == opened.journal_id
        opened.close()
    assert [each["rows"] for each in json.loads(done.stdout)["journals"]] == [1, 1]
    (folder / "digits-2" / "journal.db").write_bytes(b"no database" * 500)
    assert run("export", folder, "-o", tmp_path / "other.csv").exit_code == ExitCode.JOURNAL
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize(
    ("wanted", "names", "told"),
    [
        ("x", [], "it has none at all"),
        ("*", [], "it has none at all"),
        ("digits-[12]*", ["digit-1", "mnist-1"], "perhaps digit-1"),
        (
            "*-trian",
            ["a-very-long-name-of-some-run-train"],
            "perhaps a-very-long-name-of-some-run-train",
        ),
        ("LOSS", ["loss"], "perhaps loss"),
        ("zzz", list("abcdefg"), "it has: c, d, e, f, g and 2 more"),
        ("acc", ["val-accrual", *"bdefghi"], "perhaps val-accrual"),
        ("wxyz", ["wx", *"bdefghi"], "perhaps wx"),
        ("accuracy", ["valid-cur", *"bdefghi"], "it has: valid-cur, f, g, h, i and 3 more"),
    ],
)
def test_what_is_near_is_told(wanted, names, told):
    """Whatever the pattern's wildcards, and whichever part of the name it is of."""
    assert patterns.hint(wanted, names) == told


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("ab" * 50_000, ["loss", "ab" * 90]),
        ("ab" * 95, ["ba" * 95 + str(number) for number in range(10_000)]),
        ("[*?" * 50_000, ["loss"]),
    ],
    ids=["long", "many alike", "wild"],
)
def test_looking_for_what_is_near_is_bounded(monkeypatch, wanted, names):
    """However long the text is that was asked for, and however alike a foreign journal's names.

    Comparing costs the product of the lengths; the sum of those is what is counted.
    """
    costs = []
    ratio = SequenceMatcher.ratio

    def counted(matcher):
        costs.append(len(matcher.a) * len(matcher.b))
        return ratio(matcher)

    monkeypatch.setattr(SequenceMatcher, "ratio", counted)
    assert patterns.hint(wanted, names)
    assert sum(costs) < 10_000_000
