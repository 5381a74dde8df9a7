"""The command line: exit codes, JSON, and what a hostile journal may show on a terminal."""

from __future__ import annotations

import json
import math
import re
import shlex
import sqlite3
import warnings
from contextlib import closing

import click
import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.cli.sync import _explain
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.status import status
from journaltrack.util.digest import PART_BYTES, PartDigests
from tests.builders import opened
from tests.failing_remote import FailingRemote, passing


@pytest.fixture
def journal(tmp_path):
    """The folder of a journal as a command takes it, with texts that would move the cursor."""
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off")
    tracker.log_parameters({"lr": 0.1, "evil\x1b]0;owned\x07[red]": "a\x1b[2Jb"})
    tracker.log_metric("loss", 0.5, iteration_number=3)
    return tmp_path / "j"


def call(*arguments):
    """Run a command: exit code and what it printed."""
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    return done.exit_code, done.output


def deliver(journal, remote=None):
    """Replay the journal to a remote in memory."""
    opened = Journal.open(journal)
    Reconciler(opened, remote or MemoryRemote()).run()
    opened.close()


class Poisoned(MemoryRemote):
    """Refuses every metric for good, until it is healed."""

    healed = False

    def put_metrics(self, component, points):
        if self.healed:
            return super().put_metrics(component, points)
        raise RemoteError(
            "no metrics here",
            kind=ErrorKind.PERMANENT,
            code="ValidationException",
            request_id="r-1",
        )


def test_audit_is_zero_only_when_all_is_delivered(journal):
    """Pending is exit code 3, quarantined 4, delivered 0; the totals add up."""
    assert call("audit", journal)[0] == 3
    remote = Poisoned()
    deliver(journal, remote)
    code, printed = call("audit", journal)
    assert code == 4
    assert "no metrics here" in printed
    assert call("retry", journal)[0] == 0
    assert call("audit", journal)[0] == 3
    remote.healed = True
    deliver(journal, remote)
    code, printed = call("audit", journal, "--json")
    assert code == 0
    assert json.loads(printed)
    assert json.loads(call("status", journal, "--json")[1])


def test_delivered_journal_audits_clean(journal):
    """After a replay the check of every digest ends with exit code 0."""
    deliver(journal)
    code, printed = call("check", journal)
    assert code == 0, printed


@pytest.mark.parametrize(
    "command", [["audit", "entries"], ["status"], ["show", "run"], ["sync", "--dry-run"]]
)
def test_nothing_from_a_journal_reaches_the_terminal_raw(journal, command):
    """Control characters and markup in names and values are escaped by every command."""
    code, printed = call(*command, journal)
    assert code in {0, 3}, printed
    assert "\x1b" not in printed
    assert "\x07" not in printed


@pytest.mark.parametrize("command", ["sync", "status", "audit", "retry"])
def test_missing_journal_is_exit_code_8_with_a_hint(tmp_path, command):
    """A path without a journal is an error with a hint, not a traceback."""
    code, printed = call(command, tmp_path / "nowhere")
    assert code == 8
    assert "hint" in printed
    assert "Traceback" not in printed


def test_show_reads_back_offline(journal):
    """Show prints folded parameters and the last metrics without any network."""
    code, printed = call("show", "run", "--journal", journal)
    assert code == 0
    assert "lr" in printed
    assert "loss" in printed


@pytest.fixture
def folder(tmp_path):
    """A folder of two journals."""
    for name in ("a", "b"):
        with Tracker.create(
            trial_component_name=f"run-{name}", journal=tmp_path / "all" / name, sync="off"
        ) as tracker:
            tracker.log_metric("loss", 0.5, iteration_number=1)
    return tmp_path / "all"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["doctor"], "check"),
        (["verify", "--repair"], "check --remote"),
        (["settle", "--delivered"], "resolve"),
        (["syncc"], "sync"),
        (["sync", "--componet", "x"], "--component"),
        (["audit", "--entries"], "journaltrack audit entries"),
        (["audit", "--entry", "3"], "journaltrack audit entry"),
        (["audit", "--history", "lr"], "journaltrack audit history"),
        (["audit", "--timeline"], "journaltrack audit timeline"),
        (["audit", "--verify"], "journaltrack check"),
        (["audit", "--state", "pending"], "journaltrack audit entries"),
        (["audit", "entris"], "journaltrack audit entries"),
        (["audit", "--json", "entries"], "journaltrack audit entries"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_wrong_usage_with_what_was_meant(said, meant):
    """A command or option that does not exist, or is called otherwise here, ends with 2 and its
    name.
    """
    done = CliRunner().invoke(main, said)
    assert done.exit_code == 2
    assert f"'{meant}'" in done.stderr


@pytest.fixture
def displayed(tmp_path):
    """The folder of a journal with two components, one of which has a display name."""
    for display_name, name in (("My-first-run", "first-run"), (None, "other")):
        Tracker.create(
            display_name, trial_component_name=name, journal=tmp_path / "d", sync="off"
        ).close()
    return tmp_path / "d"


@pytest.mark.parametrize(
    "question",
    [
        ["audit", "--component"],
        ["audit", "entries", "--component"],
        ["export", "--component"],
        ["show"],
        ["finish", "--status", "Stopped"],
    ],
)
def test_a_display_name_is_taken_for_a_name(displayed, question):
    """What a list shows can be asked for, in any case; what nothing is called is refused."""
    assert call(*question, "y-first-run", displayed)[0] == 2
    assert call(*question, "my-FIRST-run", displayed)[0] in {0, 3}


def test_a_pattern_fits_display_names_where_it_fits_no_name(displayed):
    """So it is with the names of a command about several runs."""
    _, told = call("audit", "entries", "--json", "--component", "My-first*", displayed)
    assert {json.loads(line)["component"] for line in told.splitlines()} == {"first-run"}


def test_a_command_about_a_component_lists_those_there_are(displayed):
    """A missing name is answered as a wrong one is; without a journal, that it is missing."""
    code, told = call("finish", "-j", displayed)
    assert code == 2
    assert "Missing argument 'COMPONENT'. The journal has: first-run, other" in told
    assert json.loads(call("finish", "-j", displayed, "--json")[1].splitlines()[0])
    code, told = call("finish", "-j", displayed / "nowhere")
    assert code == 2
    assert "Missing argument 'COMPONENT'." in told
    assert "has:" not in told


def test_wrong_usage_is_a_document_where_json_is_asked_for():
    """A script that reads JSON finds the error in it, whichever part of the line is wrong."""
    for said in (
        ["statu", "--json"],
        ["sync", "--nonsense", "--json"],
        ["check", "--deep", "--json"],
    ):
        done = CliRunner().invoke(main, said)
        assert (done.exit_code, json.loads(done.stdout)["exit_code"]) == (2, 2)


@pytest.mark.parametrize(
    "command",
    [
        ["sync", "--dry-run"],
        ["status"],
        ["audit"],
        ["audit", "entries"],
        ["audit", "history", "status"],
        ["audit", "timeline"],
        ["check"],
        ["retry", "--dry-run"],
        ["resolve", "--delivered", "--dry-run"],
    ],
    ids=" ".join,
)
def test_journals_are_named_in_one_way(folder, command):
    """As arguments, with -j as often as you like, or by their folder: the answer is about the
    same journals.
    """
    one, other = folder / "a", folder / "b"
    answers = []
    for named in ([one, other], ["-j", one, "-j", other], [one, "-j", other], [folder]):
        code, printed = call(*command, *named, "--json")
        assert code in {0, 3}, printed
        try:
            told = json.loads(printed)["journals"]
        except (json.JSONDecodeError, KeyError):
            told = list(map(json.loads, printed.splitlines()))
        answers.append({each["journal"] for each in told})
    assert answers == [{str(one), str(other)}] * 4


ABOUT_ONE = [
    ["finish", "run-a", "--status", "Stopped", "--force"],
    ["prune", "--delivered-before", "0s", "--unasked"],
    ["bundle", "-o", "x.bundle"],
    ["receipts", "export", "-o", "x.receipts"],
    ["audit", "entry", "1"],
    ["audit", "entries", "--after", "1"],
]


def leaves(command=main, words=()):
    """Every command of the CLI that is not a group, with its words."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name in command.list_commands(None):
        yield from leaves(command.get_command(None, name), (*words, name))


@pytest.mark.parametrize(("words", "command"), [*leaves()])
def test_every_command_has_what_the_manual_promises_of_all(words, command):
    """Each has --json, -v and --help, and takes journals, except config, help, completion, and run,
    whose output and arguments are those of another program.
    """
    options = {name for each in command.params for name in each.opts}
    assert "-v" in options
    assert ("--json" in options) == (words[0] != "run")
    takes = {"-j", "arguments"} <= options
    assert takes == (words[0] not in {"config", "help", "completion", "run"})


@pytest.mark.parametrize(("words", "command"), [*leaves()])
def test_the_help_of_every_command_has_examples_that_can_be_called(words, command):
    """The examples name commands and options that exist, and one of them is the command itself."""
    examples = [
        shlex.split(each) for each in re.findall(r"\bjournaltrack ([^|>&;#)\n]+)", command.epilog)
    ]
    assert any(tuple(each[: len(words)]) == words for each in examples)
    for each in examples:
        # What follows is another program's command line.
        own = each[: each.index("--")] if "--" in each else each
        done = CliRunner().invoke(main, [*own, "--help"])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "--deep"], "--deep needs --remote"),
        (["check", "--component", "x", "--rate", "3"], "--component, --rate need --remote"),
        (["check", "--bucket", "b"], "--bucket needs --access"),
        (["status", "--count", "2"], "--count needs --watch"),
        (["status", "--interval", "3"], "--interval needs --watch"),
        (["status", "--health-file", "f", "--count", "1"], "--count, --health-file need --watch"),
        (["status", "--watch", "--check"], "--check looks once: leave out --watch"),
        (
            ["prune", "--archive", "a.csv", "--blobs-delivered-before", "1d"],
            "--archive needs --delivered-before",
        ),
        (["config", "--example", "--json"], "--example prints TOML: leave out --json"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(journal, monkeypatch, arguments, says):
    """An option that needs another one is wrong usage without it, in the same words everywhere."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(journal))
    code, told = call(*arguments)
    assert code == 2
    assert says in told


@pytest.mark.parametrize(
    "word", ["entires", "proof", "entries2", "--component=x -j {journal} proof"]
)
def test_a_word_after_audit_that_is_no_question_brings_the_questions(journal, word, monkeypatch):
    """The error names what may have been meant, or all questions; its usage has no hidden name."""
    monkeypatch.chdir(journal.parent)
    code, told = call("audit", *word.format(journal=journal).split())
    assert code == 2
    assert "Usage: main audit [QUESTION]" in told
    assert "Did you mean 'journaltrack audit entries'?" in told or (
        "The questions are entries, entry, history, timeline." in told
    )


def test_the_overview_is_called_audit(journal):
    """No usage and no hint names the hidden command; paths stay paths."""
    assert call("audit", journal.name + "/", "--nope")[1].startswith("Usage: main audit [OPTIONS]")
    assert "overview" not in call("audit", "--nope")[1]
    assert call("audit", journal.parent / "proof")[0] == 8
    assert call("audit", "-j", "proof")[0] == 8


def test_files_and_times_that_contradict_themselves_are_refused(journal, tmp_path):
    """A name of one format with another one asked for, and an end before the beginning."""
    for name, other in (("m.parquet", "csv"), ("m.csv", "jsonl"), ("m.JSONL", "csv")):
        code, told = call("export", journal, "-o", tmp_path / name, "--format", other)
        assert code == 2
        assert f"the name {name} implies" in told
        assert not (tmp_path / name).exists()
    assert call("export", journal, "-o", tmp_path / "m.txt", "--format", "csv")[0] == 0
    span = ["--since", "2h", "--until", "3h"]
    for command in (
        ["export"],
        ["audit", "entries"],
        ["audit", "timeline"],
        ["audit", "history", "lr"],
    ):
        code, told = call(*command, journal, *span)
        assert code == 2
        assert "no entry can match" in told
        assert call(*command, journal, "--since", "3h", "--until", "0s")[0] in {0, 3}


@pytest.mark.parametrize("content", [b"import journaltrack\n", b"", b"{}\n", bytes(2_000)])
def test_a_file_that_is_none_of_ours_is_exit_code_8(journal, tmp_path, content):
    """Whichever command is given it; one that does not exist is wrong usage."""
    file = tmp_path / "train.py"
    file.write_bytes(content)
    for arguments in (
        ["bundle", "--check", file],
        ["bundle", "--extract", file, tmp_path / "new"],
        ["receipts", "import", file, journal],
        ["sync", file],
    ):
        assert call(*arguments)[0] == 8, arguments
    assert call("bundle", "--check", tmp_path / "no")[0] == 2
    code, told = call("bundle", "--check", file, file)
    assert (code, "--check reads one bundle" in told) == (2, True)
    assert call("receipts", "import", tmp_path / "no", journal)[0] == 2


def test_what_people_read_has_no_raw_members(tmp_path):
    """Times are times, tracebacks have lines, and whole numbers no fraction."""

    def train():
        """Log, and fail."""
        with Tracker.create(
            trial_component_name="bad", journal=tmp_path / "j", sync="off"
        ) as tracker:
            tracker.log_parameter("layers", 4)
            tracker.log_output("model", "s3://bucket/model")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        train()
    told = "".join(call("audit", "entry", seq, tmp_path / "j")[1] for seq in range(1, 6))
    assert re.search(r"^  end +\d{4}-\d\d-\d\dT\S+Z$", told, re.MULTILINE)
    assert re.search(r"^ +ValueError: boom$", told, re.MULTILINE)
    assert "_ns" not in told
    assert "a output" not in told
    assert "kind output, stream component" in told
    history = call("audit", "history", "status", tmp_path / "j")[1]
    assert re.search(r" end=\d{4}-", history)
    assert "_ns" not in history
    for shown in (
        call("show", "bad", tmp_path / "j")[1],
        call("audit", "history", "layers", tmp_path / "j")[1],
        call("audit", "entries", "--name", "layers", tmp_path / "j")[1],
        call("audit", "entry", 3, tmp_path / "j")[1].split("packages")[0],
    ):
        assert re.search(r"\b4\b", shown)
        assert "4.0" not in shown
    assert re.search(r"^  delivered +-$", call("audit", tmp_path / "j")[1], re.MULTILINE)
    made = call("bundle", tmp_path / "j", "-o", tmp_path / "b")[1]
    assert "no artifact contents" in made


def test_the_digests_of_many_parts_are_cut_for_a_person(tmp_path):
    """A file of gigabytes has thousands of characters of them. JSON has them all."""
    parts = PartDigests(PART_BYTES, bytes(32 * 100))
    blob = vocabulary.BlobRef("0" * 64, None, None)
    draft = vocabulary.upload("a", blob, 100 * PART_BYTES, None, "a", parts=parts)
    with opened(tmp_path, {"run": [draft]}) as journal:
        path = journal.path
    told = call("audit", "entry", 1, path)[1]
    assert max(map(len, told.split("parts", 1)[1].splitlines()[:3])) < 400
    detail = json.loads(call("audit", "entry", 1, path, "--json")[1])["entry"]["detail"]
    assert PartDigests.read(detail["parts"]) == parts


@pytest.mark.parametrize("number", ["abc", "0", "-1", "1.5", "9" * 30])
def test_what_is_not_the_number_of_an_entry_is_said_in_our_words(journal, number):
    """The error names the argument as it was written, and the command that lists the numbers."""
    code, told = call("audit", "entry", "--", number, journal)
    assert code == 2
    assert f"{number} is not the number of an entry; `journaltrack audit entries` lists" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--watch", "--count"],
        ["status", "--watch", "--interval"],
        ["audit", "entries", "--limit"],
        ["check", "--remote", "--rate"],
        ["sync", "--concurrency"],
        ["sync", "--deadline"],
    ],
)
def test_what_is_no_number_is_said_in_plain_words(arguments):
    """No error speaks of ranges of integers or floats."""
    code, told = call(*arguments, "abc")
    assert code == 2
    assert re.search(r"'abc' is not a valid (whole )?number\.", told)


@pytest.mark.parametrize("command", [["status"], ["audit"], ["audit", "entries"], ["check"]])
def test_several_journals_are_a_blank_line_apart(journal, displayed, command):
    """The second answer does not run into the first one, and nothing stands before the first."""
    told = call(*command, journal, displayed)[1]
    heads = [at for at, line in enumerate(told.splitlines()) if re.match(r"journal  |/", line)]
    assert heads[0] == 0
    assert all(told.splitlines()[at - 1] == "" for at in heads[1:])
    assert len(heads) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "entries"], "object per line"),
        (["audit", "history"], "object per line"),
        (["audit", "timeline"], "object per line"),
        (["watch"], "object per line"),
        (["show"], "one JSON document"),
    ],
)
def test_the_help_says_whether_json_is_one_document_or_lines(arguments, says):
    """Lines of JSON are not announced as one document."""
    told = " ".join(call(*arguments, "--help")[1].split())
    assert says in told
    assert ("one JSON document" in told) != ("object per line" in told)


@pytest.mark.parametrize("command", ABOUT_ONE, ids=lambda each: " ".join(each[:2]))
def test_a_command_about_one_journal_says_which_it_found(folder, command, tmp_path, monkeypatch):
    """A folder with two is wrong usage that names both; with one in it, it is that one. Nothing
    is written.
    """
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("journal.db")}
    done = CliRunner().invoke(main, [*command, str(folder)])
    assert done.exit_code == 2
    assert str(folder / "a") in done.stderr
    assert str(folder / "b") in done.stderr
    assert {path: path.read_bytes() for path in folder.rglob("journal.db")} == before
    assert list(tmp_path.glob("x.*")) == []
    (folder / "a").rename(tmp_path / "alone-in-it")
    (tmp_path / "one").mkdir()
    (tmp_path / "alone-in-it").rename(tmp_path / "one" / "a")
    assert CliRunner().invoke(main, [*command, str(tmp_path / "one")]).exit_code in {0, 3, 4}


def test_a_journal_is_the_same_however_its_path_is_written(folder, monkeypatch):
    """A trailing slash, or ~, makes no list of one journal."""
    monkeypatch.setenv("HOME", str(folder))
    for named in (folder / "a", f"{folder / 'a'}/", "~/a"):
        assert json.loads(call("audit", named, "--json")[1])["totals"]["entries"] == 4


def test_a_filter_that_names_something_in_some_journals_is_one_note(tmp_path):
    """Not a line for each of the others."""
    for number in range(5):
        with Tracker.create(
            trial_component_name=f"run-{number}", journal=tmp_path / "all" / str(number), sync="off"
        ):
            pass
    done = CliRunner().invoke(main, ["audit", str(tmp_path / "all"), "--component", "run-3"])
    assert done.exit_code == 3
    assert done.stderr == "note: 4 of 5 journals have nothing that matches the filter\n"


def test_what_can_never_be_sent_is_not_offered_to_retry(tmp_path):
    """NaN stays quarantined: retry releases the others alone, and neither it nor sync advises
    what changes nothing.
    """
    remote = Poisoned()
    with (
        warnings.catch_warnings(),
        Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker,
    ):
        warnings.simplefilter("ignore")
        tracker.log_metric("loss", math.nan)
        tracker.log_metric("loss", 0.5)
    deliver(tmp_path / "j", remote)
    told = json.loads(call("retry", tmp_path / "j", "--json")[1])
    assert (told["quarantined"], told["undeliverable"], told["released"]) == (2, 1, 1)
    remote.healed = True
    deliver(tmp_path / "j", remote)
    done = CliRunner().invoke(main, ["retry", str(tmp_path / "j")])
    assert (done.exit_code, done.stdout) == (0, "nothing to release\n")
    assert "1 entry can never be sent" in done.stderr
    code, printed = call("audit", tmp_path / "j")
    assert code == 4
    assert "NaN" in printed


def test_status_shows_an_error_while_it_holds(journal):
    """What went wrong is there until the component was delivered to; then it is history, for
    audit.
    """
    remote = Poisoned()
    deliver(journal, remote)
    assert (
        json.loads(call("status", journal, "--json")[1])["journals"][0]["last_error"]["code"]
        == "ValidationException"
    )
    remote.healed = True
    call("retry", journal)
    deliver(journal, remote)
    (status,) = json.loads(call("status", journal, "--json")[1])["journals"]
    assert (status["last_error"], status["last_success"]["action"]) == (None, "metrics")


class Unsteady(MemoryRemote):
    """Refuses requests of one kind while that is set, and leaves their entries pending."""

    refuses = "put_metrics"

    def put_metrics(self, component, points):
        self.check("put_metrics")
        return super().put_metrics(component, points)

    def upload(self, blob):
        self.check("upload")
        return super().upload(blob)

    def check(self, kind):
        if self.refuses == kind:
            raise RemoteError("not now", kind=ErrorKind.HOLD, code="ResourceLimitExceeded")


def test_a_sync_says_what_a_cut_answer_left_in_doubt(tmp_path, capsys):
    """Points that may have arrived are not called pending."""
    remote = FailingRemote()
    remote.failures["put_metrics"] += [passing("ConnectionClosedError", maybe_applied=True)]
    with closing(Journal.open(tmp_path / "journal")) as journal:
        run = journal.component("run")
        journal.append(run, [vocabulary.create(owner="me"), vocabulary.metric("m", 1.0, 1, 1)])
        report = Reconciler(journal, remote).run()
        _explain(report, status(journal), None, stopped=False)
    told = " ".join(capsys.readouterr().err.split())
    assert "some requests failed, 1 point may have arrived and is in doubt" in told
    assert "their entries stay pending" not in told


def last_errors(journal):
    """The codes that status and audit give as the last error: (status, audit, its component)."""
    (status,) = json.loads(call("status", journal, "--json")[1])["journals"]
    audit = json.loads(call("audit", journal, "--json")[1])
    found = (status["last_error"], audit["last_error"], audit["components"][0]["last_error"])
    return [each and each["code"] for each in found]


@pytest.mark.parametrize("kind", ["put_metrics", "upload"])
def test_audit_and_status_forget_an_error_that_was_overcome(tmp_path, kind):
    """Both name it while its entries wait, also when other requests are delivered; neither does
    once they are, whatever waits by then.
    """
    remote, journal = Unsteady(), tmp_path / "j"
    remote.refuses = kind
    tracker = Tracker.create(trial_component_name="run", journal=journal, sync="off")
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    tracker.log_artifact(file)
    tracker.log_metric("loss", 0.5, iteration_number=1)
    deliver(journal, remote)
    tracker.log_parameters({"lr": 0.1})
    if kind == "upload":
        tracker.log_metric("loss", 0.4, iteration_number=2)
    deliver(journal, remote)
    assert last_errors(journal) == ["ResourceLimitExceeded"] * 3
    assert "last error" in call("audit", journal)[1]
    remote.refuses = None
    deliver(journal, remote)
    tracker.log_metric("loss", 0.3, iteration_number=3)
    assert last_errors(journal) == [None] * 3
    printed = call("audit", journal)[1]
    assert "last error" not in printed
    assert "pending since" not in printed
    tracker.close()


def test_config_names_the_journal_and_the_region_in_force(tmp_path, monkeypatch):
    """With what names them, also where nothing is configured."""
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path))
    told = json.loads(call("config", "--json")[1])["in_force"]
    assert told["journal"] == {"value": str(tmp_path / "journal"), "from": "JOURNALTRACK_HOME"}
    assert told["region"]["value"] is None
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION", "JOURNALTRACK_REGION"):
        monkeypatch.setenv(variable, variable.lower().replace("_", "-"))
        told = json.loads(call("config", "--json")[1])["in_force"]
        assert told["region"] == {"value": variable.lower().replace("_", "-"), "from": variable}
    assert "region   journaltrack-region (from JOURNALTRACK_REGION)" in call("config")[1]


def test_check_repairs_the_journal_and_says_what_was_altered(journal):
    """0 when all is well, 4 for what can be mended, 8 for what somebody altered; --remote's
    options want --remote.
    """
    assert call("check", journal)[0] == 0
    deliver(journal)
    with closing(sqlite3.connect(journal / "journal.db")) as connection, connection:
        connection.execute("UPDATE mark SET seq = 1000")
    assert call("check", journal)[0] == 4
    assert call("check", "--repair", journal)[0] == 0
    with closing(sqlite3.connect(journal / "journal.db")) as connection, connection:
        connection.execute("DELETE FROM delivery WHERE seq = 2")
    code, printed = call("check", journal, "--json")
    assert code == 8
    assert "chains" in {finding["check"] for finding in json.loads(printed)["findings"]}
    assert call("check", "--component", "run", journal)[0] == 2


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["che"], ["check"]),
        (["audit", ""], ["entries", "entry", "history", "timeline"]),
        (["audit", "--comp"], ["--component"]),
        (["audit", "entries", "--st"], ["--state"]),
        (["check", "--rem"], ["--remote"]),
    ],
    ids=" ".join,
)
def test_the_shell_completes_commands_questions_and_options(line, offered):
    """As click's scripts ask for it; a question of audit is a command, and its own options are
    those of the overview.
    """
    environment = {
        "_JOURNALTRACK_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["journaltrack", *line]),
        "COMP_CWORD": str(len(line)),
    }
    done = CliRunner().invoke(main, [], env=environment, prog_name="journaltrack")
    assert [answer.removeprefix("plain,") for answer in done.output.splitlines()] == offered


def test_a_command_in_place_of_seconds_is_told_where_to_stand():
    """The value may be left out, so the next word is taken for it."""
    done = CliRunner().invoke(main, ["run", "--system-metrics", "python", "t.py"])
    assert done.exit_code == 2
    assert "put -- before the command: -- python" in " ".join(done.output.split())
