"""Parameters that SageMaker can't take: recorded, read back, and sent in one artifact."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, limits
from journaltrack.cli import main
from journaltrack.errors import UndeliverableError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.component import show
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.transfer.merge import merge
from tests.copies import verify_chains
from tests.failing_remote import FailingRemote, passing
from tests.simulator import simulator

pytestmark = pytest.mark.filterwarnings("ignore::journaltrack.JournaltrackWarning")
LONG = "x" * 3_000
FILE = vocabulary.PARAMETERS_FILE


def delivered(folder, remote):
    """The report of one pass, which leaves nothing pending and nothing quarantined."""
    with closing(Journal.open(folder)) as journal:
        report = Reconciler(journal, remote).run()
    assert (report.pending, report.quarantined, report.failed) == (0, 0, None)
    return report


def held(folder, remote, name=FILE):
    """What the artifact that the run's output names holds."""
    sha256 = remote.objects[remote.components["run"].output_artifacts[name].value]
    return json.loads((folder / "spool" / sha256[:2] / sha256).read_bytes())


def uploads(folder):
    """How many times the file was recorded."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        sql = "SELECT count(*) FROM entry WHERE kind = 'upload' AND payload LIKE '%\"of\"%'"
        return connection.execute(sql).fetchone()[0]


def test_what_sagemaker_can_not_take_goes_into_one_artifact(folder, tracker):
    """Long texts, several lines, NaN and names beyond 300, with all that fits beside it."""
    odd = {"long": LONG, "lines": "a\nb", "nan": math.nan, "half": "\ud800", "none": None}
    many = {f"p{number}": number for number in range(310)}
    tracker.log_parameters({**odd, **many})
    tracker.close()
    remote = MemoryRemote()
    delivered(folder, remote)
    run = remote.components["run"]
    assert len(run.parameters) == limits.PARAMETERS_MAX
    assert run.parameters["none"] == "None"
    last = {f"p{number}": float(number) for number in range(299, 310)}
    assert held(folder, remote) == {
        "long": LONG,
        "lines": "a\nb",
        "nan": "nan",
        "half": "\ud800",
        **last,
    }
    assert run.output_artifacts[FILE].media_type == "application/json"
    read = dict(tracker.trial_component.parameters)
    assert math.isnan(read.pop("nan"))
    assert read == {k: v for k, v in {**odd, **many}.items() if k != "nan"}
    assert uploads(folder) == 1
    assert verify_chains(folder) == []
    delivered(folder, remote)
    assert uploads(folder) == 1


def test_it_is_told_once_for_each_tracker(folder, tracker):
    """However many parameters and calls: the warning names the first, and how many more."""
    with pytest.warns(JournaltrackWarning, match=r"'a'.*3000 characters.*and 1 more.*parameters"):
        tracker.log_parameters({"a": LONG, "b": LONG, "c": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_parameters({"d": LONG, "e": "a\nb"})
        tracker.log_parameter("nan", math.nan)
    strict = Tracker.create(journal=folder, sync="off", strict=True)
    with pytest.raises(UndeliverableError):
        strict.log_parameters({"good": 1, "long": LONG})
    assert strict.trial_component.parameters == {}


def test_the_last_value_of_each_name_counts(folder, tracker):
    """A later value replaces one in the file; one that fits again leaves the file."""
    remote = MemoryRemote()
    tracker.log_parameters({"a": LONG, "b": "a\nb", "c": "short"})
    delivered(folder, remote)
    assert held(folder, remote) == {"a": LONG, "b": "a\nb"}
    tracker.log_parameters({"a": "short", "c": LONG})
    tracker.log_parameters({"b": "c\nd"})
    tracker.log_parameters({"b": "e\nf"})
    delivered(folder, remote)
    assert held(folder, remote) == {"b": "e\nf", "c": LONG}
    assert remote.components["run"].parameters["a"] == "short"
    tracker.log_parameters({"b": 1, "c": 2})
    delivered(folder, remote)
    assert held(folder, remote) == {}
    assert uploads(folder) == 3


def test_a_file_that_is_not_delivered_yet_is_made_anew_too(folder, tracker):
    """While S3 can't be reached, a value that fits again leaves the file all the same."""
    tracker.log_parameters({"a": LONG, "b": LONG})
    remote = FailingRemote()
    remote.failures["upload"].append(passing(unreachable=True))
    with closing(Journal.open(folder)) as journal:
        assert Reconciler(journal, remote).run().pending == 2
    tracker.log_parameters({"a": "short"})
    delivered(folder, remote)
    assert held(folder, remote) == {"b": LONG}


def test_many_calls_make_one_artifact(folder, tracker):
    """A script that logs a thousand parameters one by one uploads one file for a pass."""
    for number in range(1_000):
        tracker.log_parameter(f"p{number}", number)
    remote = MemoryRemote()
    delivered(folder, remote)
    assert len(held(folder, remote)) == 700
    assert uploads(folder) == 1
    assert len(remote.objects) == 1


@pytest.mark.slow
def test_two_processes_that_pass_the_limit_together_lose_nothing(folder, tracker):
    """Neither knows of the other's names: the pass counts."""
    script = (
        "import sys\nfrom journaltrack import Tracker\n"
        f"t = Tracker.load('run', journal={str(folder)!r}, sync='off')\n"
        "print(flush=True)\nsys.stdin.readline()\n"
        "t.log_parameters({f'{sys.argv[1]}-{i}': i for i in range(200)})\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for each in both:
        each.stdout.readline()
    for each in both:
        each.stdin.write("\n")
        each.stdin.close()
    for each in both:
        assert each.wait() == 0
        each.stdout.close()
    remote = MemoryRemote()
    delivered(folder, remote)
    sent = remote.components["run"].parameters
    in_file = held(folder, remote)
    assert (len(sent), len(in_file)) == (300, 100)
    assert {*sent, *in_file} == {f"{name}-{i}" for name in "ab" for i in range(200)}


def test_a_killed_and_resumed_run_has_all_of_it_in_the_file(folder):
    """Nothing of the file depends on the process that recorded the parameters."""
    script = (
        "import os, signal\nfrom journaltrack import Tracker\n"
        f"t = Tracker.create(trial_component_name='run', journal={str(folder)!r}, sync='off')\n"
        "t.log_parameters({'a': 'x' * 3000, 'fits': 1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    remote = MemoryRemote()
    with Tracker.create(
        trial_component_name="run", resume=True, journal=folder, sync="off"
    ) as tracker:
        tracker.log_parameters({"a": "x" * 3000, "fits": 1, "b": "a\nb"})
    delivered(folder, remote)
    assert held(folder, remote) == {"a": LONG, "b": "a\nb"}


def test_a_pass_that_is_killed_after_it_made_the_file_makes_no_second_one(folder, tracker):
    """The next pass finds that the file is the one that it would make."""
    tracker.log_parameters({"a": LONG})

    class Killed(BaseException):
        pass

    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        reconciler = Reconciler(journal, remote)
        reconciler._settle = lambda *_: (_ for _ in ()).throw(Killed)
        with pytest.raises(Killed):
            reconciler.run()
    assert uploads(folder) == 1
    delivered(folder, remote)
    assert held(folder, remote) == {"a": LONG}
    assert uploads(folder) == 1


def test_merged_copies_have_one_file_of_both(tmp_path, folder, tracker):
    """Each copy went on with parameters of its own."""
    tracker.log_parameters({"a": LONG})
    tracker.close()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for place, name in ((folder, "b"), (copy, "c")):
        with Tracker.load("run", journal=place, sync="off") as again:
            again.log_parameters({name: f"{name}\n{name}"})
    merge(copy, into=folder)
    remote = MemoryRemote()
    delivered(folder, remote)
    assert held(folder, remote) == {"a": LONG, "b": "b\nb", "c": "c\nc"}
    assert verify_chains(folder) == []


def test_an_artifact_of_that_name_stays_the_users(tmp_path, folder, tracker):
    """The file has another name then; with no place for a reference, it is uploaded alone."""
    (tmp_path / FILE).write_text("{}")
    tracker.log_artifact(tmp_path / FILE)
    tracker.log_parameters({"a": LONG})
    remote = MemoryRemote()
    delivered(folder, remote)
    other = vocabulary.PARAMETERS_FILES[1]
    assert held(folder, remote) == {}
    assert held(folder, remote, other) == {"a": LONG}
    full = Tracker.create(trial_component_name="full", journal=folder, sync="off")
    for number in range(limits.ARTIFACTS_MAX):
        full.log_output(f"o{number}", "v")
    full.log_parameters({"a": LONG})
    delivered(folder, remote)
    assert len(remote.components["full"].output_artifacts) == limits.ARTIFACTS_MAX
    assert uploads(folder) == 2


def test_the_file_goes_where_the_runs_artifacts_go(folder):
    """To the bucket and prefix that the tracker was given, though a pass makes the file."""
    with Tracker.create(
        trial_component_name="run",
        journal=folder,
        sync="off",
        artifact_bucket="my-bucket",
        artifact_prefix="runs",
    ) as tracker:
        tracker.log_parameters({"a": LONG})
    remote = MemoryRemote()
    delivered(folder, remote)
    assert remote.components["run"].output_artifacts[FILE].value.startswith("s3://my-bucket/runs/")


def test_what_an_earlier_version_quarantined_is_released_into_the_file(folder, tracker):
    """Its refusal stays on the record until `retry` releases it."""
    tracker.trial_component.journal.append(
        tracker.trial_component.component_id, [vocabulary.parameter("old", LONG)]
    )
    tracker.close()
    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        assert Reconciler(journal, remote).run().pending == 0
    assert FILE not in remote.components["run"].output_artifacts
    assert verify_chains(folder) == []
    released = CliRunner().invoke(main, ["retry", str(folder)])
    assert released.exit_code == 0, released.output
    delivered(folder, remote)
    assert held(folder, remote) == {"old": LONG}


def test_what_somebody_altered_is_not_in_the_file(folder, tracker):
    """The pass holds it back, as all entries of a chain that does not hold."""
    tracker.log_parameters({"good": LONG})
    tracker.close()
    with Tracker.load("run", journal=folder, sync="off") as other:
        other.log_parameters({"altered": LONG, "last": 1})
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        named = "SELECT sql FROM sqlite_master WHERE name = 'entry_no_update'"
        ((trigger,),) = connection.execute(named).fetchall()
        connection.execute("DROP TRIGGER entry_no_update")
        connection.execute(
            "UPDATE entry SET payload = replace(payload, 'xxx', 'yyy') WHERE name = 'altered'"
        )
        connection.execute(trigger)
    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        Reconciler(journal, remote).run()
    assert held(folder, remote) == {"good": LONG}


def test_a_file_that_can_not_be_made_keeps_its_parameters_pending(tmp_path, folder, tracker):
    """The others are delivered; the next pass makes it."""
    tracker.log_parameters({"a": LONG, "lr": 0.1})
    tracker.close()
    digest = hashlib.sha256(json.dumps({"a": LONG}, indent=1).encode()).hexdigest()
    (tmp_path / "elsewhere").mkdir()
    (folder / "spool").mkdir(exist_ok=True)
    link = folder / "spool" / digest[:2]
    link.symlink_to(tmp_path / "elsewhere")
    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        assert Reconciler(journal, remote).run().pending == 1
    assert remote.components["run"].parameters == {"lr": 0.1}
    assert list((tmp_path / "elsewhere").iterdir()) == []
    link.unlink()
    delivered(folder, remote)
    assert held(folder, remote) == {"a": LONG}


@pytest.mark.slow
def test_sync_exits_with_0_and_check_finds_it(folder, tracker, credentials):
    """Against a service with AWS's rules: nothing is refused, and everything is there."""
    tracker.log_parameters({"long": LONG, "nan": math.nan, **{f"p{i}": i for i in range(305)}})
    tracker.close()
    run = CliRunner()
    with simulator() as sim:
        for command in (
            ["sync", str(folder)],
            ["audit", str(folder)],
            ["check", str(folder), "--remote"],
        ):
            at = [] if command[0] == "audit" else ["--endpoint-url", sim.endpoint_url]
            found = run.invoke(main, [*command, *at])
            assert found.exit_code == 0, (command, found.output)
        (component,) = sim.components.values()
        assert len(component.parameters) == 300
        assert FILE in component.output_artifacts


def test_the_views_say_where_a_parameter_is(folder, tracker):
    """Before the pass as far as the value tells it, afterwards of all."""
    tracker.log_parameters({"long": LONG, **{f"p{i}": i for i in range(301)}})
    tracker.close()
    before = {each.name: each.in_file for each in show(folder, "run").parameters}
    assert [name for name, is_in in before.items() if is_in] == ["long"]
    delivered(folder, MemoryRemote())
    after = {each.name: each.in_file for each in show(folder, "run").parameters}
    assert [name for name, is_in in after.items() if is_in] == ["long", "p300"]
    told = CliRunner().invoke(main, ["show", "run", "--journal", str(folder)]).output
    assert f"in {FILE}" in told
