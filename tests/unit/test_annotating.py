"""Tags and notes at any time: recorded, delivered, verified, repaired, kept."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.component import show
from journaltrack.tracking.annotation import annotate
from journaltrack.verification import repair
from journaltrack.verification.verifier import Verifier, VerifyOptions
from tests.builders import CREATION, opened


@pytest.fixture
def folder(tmp_path):
    """The journal of a run that is over, created with a tag."""
    with Tracker.create(
        "Shown", trial_component_name="run", journal=tmp_path / "j", sync="off", tags={"team": "a"}
    ):
        pass
    return tmp_path / "j"


def deliver(folder, remote):
    """A pass."""
    with closing(Journal.open(folder)) as journal:
        return Reconciler(journal, remote).run()


def differences(folder, remote):
    """(kind, what, name) of all differences."""
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        report = Verifier(journal, remote, options=VerifyOptions(visible_after_s=0)).run()
    return {(each.kind, each.what, each.name) for each in report.differences}


def call(*arguments):
    """The exit code and output of a command."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_a_tracker_sets_tags_and_a_note_at_any_time(tmp_path):
    """While the run goes on and after ``close``; the last value counts, and reads back."""
    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path / "j", sync="off", tags={"team": "a"}
    )
    tracker.set_tags({"team": "b", "stage": "first"})
    tracker.set_note("to be looked at")
    tracker.close()
    tracker.set_tags([{"Key": "stage", "Value": "second"}])
    tracker.set_note("fine, \n after all: «ok»")
    tracker.close()
    wanted = {"team": "b", "stage": "second"}
    assert {each["Key"]: each["Value"] for each in tracker.trial_component.tags} == wanted
    (run,) = journaltrack.runs(tmp_path / "j")
    assert (dict(run.tags), run.note) == (wanted, "fine, \n after all: «ok»")
    view = show(tmp_path / "j", "run")
    assert (view.tags, view.note) == (wanted, "fine, \n after all: «ok»")


def test_an_empty_note_is_none(folder):
    """It removes the one before, which stays on record."""
    annotate("run", note="wrong run", journal=folder)
    annotate("run", note="", journal=folder)
    assert journaltrack.runs(folder)[0].note is None
    assert show(folder, "run").note is None
    assert "wrong run" in call("audit", "timeline", folder)[1]


@pytest.mark.parametrize(
    "tags",
    [{"k" * 129: "v"}, {"k": "v" * 257}, {"": "v"}, {"k": "a,b"}, {f"k{n}": "" for n in range(51)}],
    ids=["long key", "long value", "no key", "comma", "51"],
)
def test_tags_that_aws_refuses_are_refused_at_the_call(folder, tags):
    """Nothing is recorded, and the error names the limit."""
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        before = tracker.trial_component.tags
        with pytest.raises(InvalidInputError):
            tracker.set_tags(tags)
        with pytest.raises(InvalidInputError):
            annotate("run", tags=tags, journal=folder)
        assert tracker.trial_component.tags == before


def test_the_fifty_first_tag_of_a_run_is_refused(folder):
    """Tags of all calls count; another value of a known key is none more."""
    annotate("run", tags={f"k{n}": "" for n in range(49)}, journal=folder)
    with pytest.raises(InvalidInputError, match="would have 51 tags"):
        annotate("run", tags={"one": "", "k0": "x"}, journal=folder)
    annotate("run", tags={"k0": "x", "team": "z"}, journal=folder)
    assert journaltrack.runs(folder)[0].tags["k0"] == "x"


@pytest.mark.parametrize("note", [None, 3, b"text"])
def test_a_note_is_a_text(folder, note):
    """Anything else is a programmer's mistake."""
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        with pytest.raises(InvalidTypeError):
            tracker.set_note(note)
        with pytest.raises(InvalidInputError):
            tracker.set_note("x" * 10_001)


def test_tags_are_delivered_in_one_request_and_notes_stay(folder):
    """The last value of each key arrives; a note needs no request, and nothing stays pending."""
    remote = MemoryRemote()
    deliver(folder, remote)
    annotate("run", tags={"team": "b", "a": "1"}, note="good", journal=folder)
    annotate("run", tags={"a": "2"}, journal=folder)
    report = deliver(folder, remote)
    assert (report.pending, report.requests) == (0, 1)
    assert remote.tags("run") == {"team": "b", "a": "2"}
    assert journaltrack.status(folder).pending == 0


def test_a_released_value_does_not_replace_a_later_one(folder):
    """What is sent again is only what no later entry, which arrived, has set."""
    remote = MemoryRemote()
    annotate("run", tags={"a": "1", "b": "1"}, journal=folder)
    annotate("run", tags={"a": "2"}, journal=folder)
    deliver(folder, remote)
    first = show_seq(folder, {"a": "1", "b": "1"})
    with closing(Journal.open(folder)) as journal:
        journal.database.write(lambda c: c.execute("DELETE FROM delivery WHERE seq = ?", (first,)))
        journal.database.write(
            lambda c: c.execute("INSERT OR IGNORE INTO unsettled VALUES (?)", (first,))
        )
    remote.components["run"].tags["b"] = "changed"
    deliver(folder, remote)
    assert remote.tags("run") == {"team": "a", "a": "2", "b": "1"}


def show_seq(folder, tags):
    """The ``seq`` of the entry with these tags."""
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        return next(
            entry.seq
            for entry in journal.state_entries(1)
            if entry.kind == vocabulary.TAGS and vocabulary.tags_of(entry) == tags
        )


def test_what_a_remote_refuses_is_quarantined_alone(folder):
    """One entry too many at the remote: it is found by halves, and the others arrive."""
    remote = MemoryRemote()
    deliver(folder, remote)
    remote.components["run"].tags |= {f"foreign{n}": "" for n in range(48)}
    annotate("run", tags={"one": "1"}, journal=folder)
    annotate("run", tags={"two": "2", "three": "3"}, journal=folder)
    report = deliver(folder, remote)
    assert (report.quarantined, report.pending) == (1, 0)
    assert remote.tags("run")["one"] == "1"
    assert "two" not in remote.tags("run")


def test_crafted_tags_and_notes_are_quarantined(tmp_path):
    """A payload of another shape is refused with a reason, and hides nothing else."""
    bad = ['{"tags":[1]}', '{"tags":{"k":1}}', '{"tags":{"k":"a,b"}}', "{}", "no json", None]
    drafts = [vocabulary.Draft("component", "tags", payload=payload) for payload in bad]
    drafts.append(vocabulary.Draft("component", "note", payload='{"note":5}'))
    with opened(tmp_path, {"run": [CREATION, *drafts, vocabulary.tags({"k": "v"})]}):
        pass
    remote = MemoryRemote()
    report = deliver(tmp_path / "journal", remote)
    assert (report.quarantined, report.pending) == (len(drafts), 0)
    assert remote.tags("run") == {"k": "v"}
    assert dict(journaltrack.runs(tmp_path / "journal")[0].tags)["k"] == "v"
    assert show(tmp_path / "journal", "run").note is None


def test_a_check_finds_tags_that_are_gone_and_repairs_them(folder):
    """A deleted tag is missing and is added again; another value is told, and left alone."""
    remote = MemoryRemote()
    annotate("run", tags={"a": "1", "b": "2"}, journal=folder)
    deliver(folder, remote)
    assert differences(folder, remote) == set()
    del remote.components["run"].tags["a"]
    remote.components["run"].tags["b"] = "theirs"
    assert differences(folder, remote) == {("missing", "tag", "a"), ("different", "tag", "b")}
    with closing(Journal.open(folder)) as journal:
        report = Verifier(journal, remote, options=VerifyOptions(visible_after_s=0)).run()
        held = leases.acquire(journal.database)
        reopened = repair.reopen(
            journal.database,
            held,
            report.differences,
            read_at_ns=report.at_ns,
            receipt_id=report.receipt_id,
        )
        held.release()
    assert reopened == 1
    deliver(folder, remote)
    assert remote.tags("run")["a"] == "1"


def test_tags_and_notes_survive_a_prune(folder):
    """Whatever was delivered: each may tell only a part, and notes are nowhere else."""
    annotate("run", tags={"a": "1"}, note="keep me", journal=folder)
    annotate("run", tags={"b": "1"}, journal=folder)
    deliver(folder, MemoryRemote())
    annotate("run", note="keep me, too", journal=folder)
    deliver(folder, MemoryRemote())
    journaltrack.prune(folder, delivered_before=time.time_ns(), unasked=True)
    (run,) = journaltrack.runs(folder)
    assert (dict(run.tags), run.note) == ({"team": "a", "a": "1", "b": "1"}, "keep me, too")


def test_the_command_line_notes_and_tags(folder):
    """By name, display name or a pattern that fits one run; the list shows both."""
    assert call("tag", "run", "stage=candidate", "path=a/b", "-j", folder)[0] == 0
    assert call("note", "Shown", "it = good", folder)[0] == 0
    code, told = call("runs", folder, "--json")
    (run,) = json.loads(told)
    assert code == 0
    assert run["tags"] == {"team": "a", "stage": "candidate", "path": "a/b"}
    assert run["note"] == "it = good"
    assert [r["name"] for r in json.loads(call("runs", "--tag", "stage", folder, "--json")[1])] == [
        "run"
    ]
    assert json.loads(call("runs", "--tag", "stage=other", folder, "--json")[1]) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tag", "run"], "name a run, and then tags"),
        (["tag", "a=b", "c=d"], "name a run, and then tags"),
        (["tag", "run", "a"], "name a run, and then tags"),
        (["tag", "run", "a=b,c"], "can't be used"),
        (["tag", "rnu", "a=b"], "perhaps run"),
        (["note", "rnu", "text"], "perhaps run"),
        (["note", "run", "x" * 10_001], "10000 are taken at most"),
    ],
)
def test_what_cant_be_recorded_is_wrong_usage(folder, arguments, says):
    """The exit code is 2, and nothing is recorded."""
    before = journaltrack.status(folder).last_seq
    code, told = call(*arguments, "-j", folder)
    assert code == 2
    assert says in told
    assert journaltrack.status(folder).last_seq == before


def test_a_pattern_that_fits_several_runs_names_them(folder):
    """A note is about one run: nothing is recorded for several."""
    Tracker.create(trial_component_name="run-2", journal=folder, sync="off").close()
    code, told = call("note", "ru*", "text", "-j", folder)
    assert code == 2
    assert "2 runs fit" in told


def test_a_name_in_several_journals_is_told_with_them(tmp_path):
    """The hint names each journal with the option that chooses it, and the options work."""
    for journal in ("a", "b c"):
        for name in ("exp-1", "exp-2"):
            with Tracker.create(trial_component_name=name, journal=tmp_path / journal, sync="off"):
                pass
    done = CliRunner().invoke(main, ["tag", "exp-1", "team=x", "-j", str(tmp_path)])
    assert done.exit_code == 2
    assert f"-j '{tmp_path / 'b c'}', -j {tmp_path / 'a'}" in done.stderr
    assert "exp-1, exp-1" not in done.stderr
    done = CliRunner().invoke(main, ["tag", "exp-*", "team=x", "-j", str(tmp_path)])
    assert f"exp-2 -j {tmp_path / 'a'}" in done.stderr
    assert call("tag", "exp-1", "team=x", "-j", tmp_path / "b c")[0] == 0
    assert not any(run.tags for run in journaltrack.runs(tmp_path / "a"))
