"""A journal goes to several destinations, each with its own record of what arrived."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, sync
from journaltrack.cli import ExitCode, main
from journaltrack.errors import InvalidInputError, JournalCorruptError
from journaltrack.journal import destinations, vocabulary
from journaltrack.mirror import copies as mirror_copies
from journaltrack.mirror import folders
from journaltrack.mirror.ship import Shipper
from journaltrack.readmodel import model as read_model
from journaltrack.reports.status import status
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.transfer.bundle.pack import bundle
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from journaltrack.ui import views
from journaltrack.util import config
from journaltrack.util.deadline import Deadline
from tests import golden
from tests.builders import CREATION, add_artifact, opened, tracked
from tests.processes import ENVIRONMENT
from tests.simulator import simulator
from tests.simulator.mlflow import MlflowServer


@pytest.fixture
def server():
    """A strict MLflow server."""
    with MlflowServer() as server:
        yield server


@pytest.fixture
def lab(server, tmp_path, monkeypatch):
    """The server is the destination "lab" of the configuration."""
    file = tmp_path / "config.toml"
    file.write_text(f'[destinations.lab]\nuri = "{server.uri}"\nexperiment = "ours"\n')
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def sagemaker():
    """A simulated AWS."""
    with simulator() as sim:
        yield sim


def command(*arguments):
    """Run a command: its exit code and what it printed."""
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    return done.exit_code, done.output


def values(server):
    """The points of the metric "loss", in order."""
    return sorted(server.history(server.active()[0], "loss"), key=lambda point: point[2])


def entries(folder):
    """Every entry with its digest, as the database has them."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        sql = (
            "SELECT e.seq, w.uuid, e.writer_seq, c.name, e.stream, e.kind, e.name, e.value, e.step, "
            "e.timestamp_ns, e.payload, e.recorded_at_ns, e.digest FROM entry e "
            "JOIN writer w ON w.id = e.writer_id JOIN component c ON c.id = e.component_id ORDER BY 1"
        )
        return connection.execute(sql).fetchall()


def test_a_destination_that_is_added_later_gets_the_whole_history(tmp_path, lab, sagemaker):
    """What SageMaker has is sent again to the new one, and its record stays as it is."""
    journal = tracked(tmp_path, steps=5, parameters={"lr": 0.1}, artifact=b"the model")
    url = ("--endpoint-url", sagemaker.endpoint_url)
    assert command("sync", journal, "--to", "sagemaker", *url)[0] == ExitCode.OK
    before = status(journal)
    code, printed = command("sync", journal, "--to", "lab")
    assert code == ExitCode.OK, printed
    assert [step for _, _, step in values(lab)] == [0, 1, 2, 3, 4]
    assert [*lab.files.values()] == [b"the model"]
    # The list of artifacts has the file: no tag points to it.
    assert not [key for key in lab.active()[0].tags if key.startswith("journaltrack.output.")]
    after = status(journal)
    assert (after.pending, after.last_success) == (0, before.last_success)
    assert [(each.name, each.pending) for each in after.destinations] == [("lab", 0)]
    asked = len(lab.asked)
    command("sync", journal, "--to", "lab")
    assert len(lab.asked) == asked, "nothing is left to ask for"


def test_one_sync_delivers_to_all_and_one_failure_stops_no_other(tmp_path, lab, sagemaker):
    """While the lab is away SageMaker gets everything; later the lab does, and nothing twice."""
    journal = tracked(tmp_path, steps=5)
    url = ("--endpoint-url", sagemaker.endpoint_url)
    lab.stop()
    code, _ = command("sync", journal, *url)
    assert code == ExitCode.UNREACHABLE
    assert len(sagemaker.components["run"].metrics) == 5
    assert [each.pending for each in status(journal).destinations] == [8]
    assert command("status", journal, "--check")[0] == ExitCode.PENDING
    lab.start()
    assert command("sync", journal, *url)[0] == ExitCode.OK
    assert len(sagemaker.components["run"].metrics) == 5
    assert len(values(lab)) == 5
    assert command("status", journal, "--check")[0] == ExitCode.OK


def test_a_copy_has_the_entries_under_their_numbers_and_with_their_digests(tmp_path, lab):
    """Whatever came since the last sync is appended, and the copy proves as the journal does."""
    journal = tracked(tmp_path, steps=3)
    command("sync", journal, "--to", "lab")
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        with pytest.warns(JournaltrackWarning):
            tracker.log_metric("loss", math.nan, iteration_number=7)
        with pytest.warns(JournaltrackWarning):
            tracker.log_parameter("text", "two\nlines")
    command("sync", journal, "--to", "lab")
    copy = destinations.folder_of(journal, "lab")
    assert entries(copy) == entries(journal)
    assert command("check", journal, "--to", "lab")[0] == ExitCode.OK
    run = lab.active()[0]
    assert math.isnan(values(lab)[-1][0])
    assert run.params["text"] == "two\nlines"


def test_what_sagemaker_can_never_take_is_judged_by_each_destination(tmp_path, lab):
    """NaN is quarantined in the journal, and delivered to a server that takes it."""
    with (
        Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker,
        pytest.warns(JournaltrackWarning),
    ):
        tracker.log_metric("loss", math.nan, iteration_number=0)
    assert command("sync", tmp_path / "j", "--to", "lab")[0] == ExitCode.OK
    now = status(tmp_path / "j")
    assert now.quarantined == 1
    assert [(c.pending, c.quarantined) for c in now.destinations] == [(0, 0)]


@pytest.mark.parametrize("chars", [2_501, 6_000, 6_001, 8_001])
@pytest.mark.parametrize("first", ["lab", "sagemaker"])
@pytest.mark.filterwarnings("ignore::journaltrack.JournaltrackWarning")
def test_a_long_parameter_holds_up_no_destination(tmp_path, lab, sagemaker, chars, first):
    """SageMaker gets its file of them; a server gets them, or they are quarantined there."""
    journal = tracked(tmp_path, steps=1, parameters={"long": "x" * chars, "lr": 0.1})
    there = ExitCode.OK if chars <= 6_000 else ExitCode.PROBLEMS
    options = {"sagemaker": ("--endpoint-url", sagemaker.endpoint_url), "lab": ()}
    order = [first, *({"lab", "sagemaker"} - {first})]
    for text in "xyz":
        with Tracker.load("run", journal=journal, sync="off") as tracker:
            tracker.log_parameter(f"long {text}", text * chars)
        for name in order:
            code, printed = command("sync", journal, "--to", name, *options[name])
            assert code == (there if name == "lab" else ExitCode.OK), printed
    assert command("sync", journal, "--to", "lab")[0] == there
    told = command("audit", journal, "--to", "lab")[1]
    assert (f"{chars} characters" in told) == (there != ExitCode.OK)
    assert entries(destinations.folder_of(journal, "lab")) == entries(journal)
    (run,) = lab.active()
    given = {f"long {text}": text * chars for text in "xyz"} | {"long": "x" * chars}
    assert run.params == {"lr": "0.1"} | (given if chars <= 6_000 else {})
    assert lab.files == {}
    assert not any("parameters.json" in key for key in run.tags)
    assert [*sagemaker.components["run"].output_artifacts] == ["parameters.json"]
    printed = command("check", journal, "--remote", "--to", "lab")[1]
    assert "everything that was delivered is there" in printed


def test_what_is_only_superseded_is_not_told_as_delivered(tmp_path, sagemaker, lab):
    """A label has no place at SageMaker: nothing was sent."""
    journal = tracked(tmp_path)
    url = ("--endpoint-url", sagemaker.endpoint_url)
    command("sync", journal, "--to", "sagemaker", *url)
    with opened(tmp_path, {"run": [vocabulary.label("mlflow.source.name", "train.py")]}):
        pass
    code, printed = command("sync", journal, "--to", "sagemaker", *url)
    assert (code, ": 0 delivered, 1 superseded, 0 quar" in printed) == (ExitCode.OK, True), printed


def test_a_copy_that_was_removed_is_made_again(tmp_path, lab):
    """The message of one that does not fit the journal says how, and then it goes on."""
    journal = tracked(tmp_path, steps=2, parameters={"lr": 0.1})
    backup = tmp_path / "backup"
    shutil.copytree(journal, backup)
    for number in (1, 2):
        with Tracker.load("run", journal=journal, sync="off") as tracker:
            tracker.log_parameter("late", number)
        if number == 1:
            command("sync", journal, "--to", "lab")
            shutil.move(journal / "destinations", backup)
            shutil.rmtree(journal)
            backup.rename(journal)
    copy = destinations.folder_of(journal, "lab")
    code, printed = command("sync", journal, "--to", "lab")
    assert (code, "--even-if-behind" in printed) == (ExitCode.JOURNAL, True), printed
    shutil.rmtree(copy)
    code, printed = command("sync", journal, "--to", "lab", "--even-if-behind")
    assert code == ExitCode.OK, printed
    assert command("sync", journal, "--to", "lab")[0] == ExitCode.OK
    assert len(values(lab)) == 2


def test_questions_are_answered_per_destination(tmp_path, lab):
    """``status``, ``audit`` and its questions with ``--to`` are about that destination alone."""
    journal = tracked(tmp_path, steps=3)
    command("sync", journal, "--to", "lab")
    told = json.loads(command("status", journal, "--to", "lab", "--json")[1])
    (only,) = told["journals"]
    assert (only["pending"], only["last_seq"]) == (0, 6)
    assert json.loads(command("status", journal, "--json")[1])["journals"][0]["pending"] == 6
    assert command("audit", journal, "--to", "lab")[0] == ExitCode.OK
    assert command("audit", journal)[0] == ExitCode.PENDING
    lines = command("audit", "entries", "-j", journal, "--to", "lab", "--json")[1].splitlines()
    assert {json.loads(line)["state"] for line in lines} <= {"delivered", "superseded"}
    assert "to lab" in command("status", journal)[1]
    assert command("status", journal, "--to", "lap")[0] == ExitCode.USAGE


def test_the_page_tells_each_runs_deliveries_by_destination(tmp_path, lab):
    """In the list, of a run and of the journal: what is delivered, pending and quarantined there,
    also of what was recorded since, and of a copy that changes beside the page.
    """
    journal = tracked(tmp_path, steps=3)
    with read_model.open([journal], cache=False) as model:
        model.refresh()
        assert views.listed(model, limit=9)["runs"][0]["destinations"] == {}
        command("sync", journal, "--to", "lab")
        assert model.refresh()
        (row,) = views.listed(model, limit=9)["runs"]
        entries = row["delivery"]["entries"]
        assert row["delivery"]["pending"] == entries
        there = {"entries": entries, "delivered": entries, "pending": 0}
        assert row["destinations"]["lab"].items() >= there.items()
        late = [vocabulary.metric("loss", 1.0, 9, 1_000), vocabulary.metric("loss", 1.0, 9, -1)]
        with opened(tmp_path, {"run": late}):
            pass
        assert model.refresh()
        told = views.run(model, row["key"])["destinations"]["lab"]
        assert (told["entries"], told["delivered"], told["pending"]) == (entries + 2, entries, 2)
        (page,) = views.delivery(model)["journals"]
        assert f"journaltrack sync --to lab {journal}" in {n["command"] for n in page["next"]}
        command("sync", journal, "--to", "lab")
        assert model.refresh()
        told = views.listed(model, limit=9)["runs"][0]["destinations"]["lab"]
        assert (told["delivered"], told["pending"], told["quarantined"]) == (entries + 1, 0, 1)
        shutil.rmtree(journal / "destinations")
        assert model.refresh()
        assert views.listed(model, limit=9)["runs"][0]["destinations"] == {}


def test_a_dry_run_tells_what_a_destination_would_get_and_changes_nothing(tmp_path, lab):
    """Everything before the first sync, what is new after it; nobody is asked, no file changes."""
    journal = tracked(tmp_path, steps=30, parameters={"lr": 0.1}, artifact=b"the model")

    def planned():
        """The requests by action that a dry run prints."""
        code, printed = command("sync", journal, "--to", "lab", "--dry-run", "--json")
        assert code == ExitCode.OK, printed
        (told,) = json.loads(printed)["journals"]
        assert (told["destination"], told["dry_run"]) == ("lab", True)
        return [
            (each["component"], each["requests"].get("points"), each["metrics"])
            for each in told["components"]
        ]

    # MLflow takes all points in one request, SageMaker ten.
    assert planned() == [("run", 1, {"loss": 30})]
    assert re.search(
        "points +1 request +loss 30", command("sync", journal, "--to", "lab", "--dry-run")[1]
    )
    assert not lab.asked
    assert not destinations.copies(journal)
    command("sync", journal, "--to", "lab")
    assert planned() == []
    with opened(tmp_path, {"run": [vocabulary.metric("loss", 1.0, 99, 1_000)]}):
        pass
    before, asked = entries(destinations.copies(journal)["lab"]), len(lab.asked)
    assert planned() == [("run", 1, {"loss": 1})]
    assert entries(destinations.copies(journal)["lab"]) == before
    assert len(lab.asked) == asked


def test_a_copy_that_can_not_be_read_hides_nothing_of_the_journal(tmp_path, lab):
    """``status`` and ``check`` tell of the journal, and ``status`` says what is wrong."""
    journal = tracked(tmp_path, steps=3)
    command("sync", journal, "--to", "lab")
    assert command("check", journal)[0] == ExitCode.OK
    (destinations.folder_of(journal, "lab") / "journal.db").write_bytes(b"no database" * 1_000)
    now = status(journal)
    assert (now.pending, now.destinations[0].pending) == (6, None)
    assert now.destinations[0].problem
    code, printed = command("status", journal)
    assert (code, "can't be read" in printed) == (ExitCode.OK, True)


def test_an_address_is_a_destination_without_any_configuration(tmp_path, server):
    """The same address is the same destination; its credentials are not written down."""
    journal = tracked(tmp_path, steps=3)
    secret = server.uri.replace("http://", "http://user:hidden@")
    assert command("sync", journal, "--to", server.uri)[0] == ExitCode.OK
    asked = len(server.asked)
    assert command("sync", journal, "--to", secret)[0] == ExitCode.OK
    assert len(server.asked) == asked
    assert sync(journal, destination=server.uri).pending == 0
    (copy,) = destinations.copies(journal).values()
    assert "hidden" not in (copy / "destination.json").read_text()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("lap", "perhaps lab"),
        ("cloud", "or is the ARN of a managed MLflow"),
        ("arn:aws:x", "mlflow-tracking-server/NAME"),
        ("journaltrack:", "names a journal"),
    ],
)
def test_a_wrong_destination_says_what_one_looks_like(tmp_path, lab, to, said):
    """A name that is nearly one, an address of no server, and a journal's own URI."""
    journal = tracked(tmp_path)
    code, printed = command("sync", journal, "--to", to)
    assert (code != ExitCode.OK, said in printed) == (True, True), printed


def test_commands_take_a_journal_as_mlflows_code_names_it(tmp_path, lab, monkeypatch):
    """Also in the configuration. A failed connection is told once."""
    journal = tracked(tmp_path)
    assert "run" in command("runs", f"journaltrack://{journal}")[1]
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", f"journaltrack://{journal}")
    assert f"{journal}\n" in command("status", "journaltrack:")[1]
    lab.stop()
    code, printed = command("sync", "journaltrack:", "--to", "lab")
    assert (code, printed.count("NewConnectionError")) == (ExitCode.UNREACHABLE, 0)
    shown = command("status", "journaltrack:", "--to", "lab")[1]
    assert shown.count("NewConnectionError") == 1
    lab.start()


def test_a_server_that_came_back_empty_is_told_and_gets_everything_again(tmp_path, lab):
    """By the next sync that sends something, by status, and by every hint until it is mended."""
    journal = tracked(tmp_path, steps=5, parameters={"lr": 0.1}, artifact=b"the model")
    command("sync", journal, "--to", "lab")
    lab.runs.clear()
    lab.files.clear()
    with Tracker.create(trial_component_name="new", journal=journal, sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    code, printed = command("sync", journal, "--to", "lab")
    assert code == ExitCode.OK
    assert "MLflow no longer has run, which was delivered" in printed
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_metric("loss", 9.0, iteration_number=9)
    for _ in range(2):
        code, printed = command("sync", journal, "--to", "lab")
        assert (code, "--repair sends it again" in printed) == (ExitCode.PENDING, True), printed
    printed = command("status", journal, "--to", "lab")[1]
    assert re.search("gone +1 run: run", printed), printed
    assert "1 runs gone" in command("status", journal)[1]
    code, printed = command("check", journal, "--remote", "--to", "lab")
    assert (code, "check --remote --repair --to lab`" in printed) == (ExitCode.PROBLEMS, True)
    assert command("check", journal, "--remote", "--repair", "--to", "lab")[0] == ExitCode.OK
    (run,) = lab.active("run")
    assert (len(run.points), run.params) == (6, {"lr": "0.1"})
    assert [*lab.files.values()] == [b"the model"]
    assert "gone" not in command("status", journal)[1]


def test_status_says_who_refuses_an_entry(tmp_path, lab, monkeypatch):
    """What SageMaker alone refuses counts for nothing where SageMaker gets nothing."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        with pytest.warns(JournaltrackWarning):
            tracker.log_metric("loss", math.nan, iteration_number=0)
        with pytest.warns(JournaltrackWarning):
            tracker.log_output("long", "x" * 9_000)
    assert re.search("quarantined +[12] .*, by SageMaker\n", command("status", tmp_path / "j")[1])
    printed = command("sync", tmp_path / "j", "--to", "lab")[1]
    assert "`journaltrack audit --to lab` names them" in printed
    printed = command("status", tmp_path / "j", "--to", "lab")[1]
    assert re.search("quarantined +1 entry, by lab", printed)
    monkeypatch.setenv("JOURNALTRACK_DELIVER_TO", "lab")
    assert "by SageMaker, where nothing is delivered to" in command("status", tmp_path / "j")[1]


def test_a_copy_is_never_taken_for_the_journal(tmp_path, lab):
    """It is not delivered to SageMaker, merged, bundled, mirrored, pruned or asked for receipts."""
    journal = tracked(tmp_path, steps=3)
    command("sync", journal, "--to", "lab")
    copy = destinations.folder_of(journal, "lab")
    receipts = tmp_path / "receipts"
    export_receipts(journal, to=receipts)
    for use in (
        lambda: sync(copy),
        lambda: sync(copy, destination="lab"),
        lambda: merge(copy, into=journal),
        lambda: merge(journal, into=copy),
        lambda: bundle(copy, to=tmp_path / "b"),
        lambda: export_receipts(copy, to=tmp_path / "r"),
        lambda: import_receipts(receipts, copy),
        lambda: Shipper(copy, None),
    ):
        with pytest.raises(InvalidInputError, match="is a copy of the journal"):
            use()
    assert command("prune", copy, "--delivered-before", "0s")[0] == ExitCode.USAGE


def test_a_journal_in_a_folder_of_journals_is_one_journal(tmp_path, lab):
    """Its copies are not found as journals of their own."""
    tracked(tmp_path, steps=3)
    command("sync", tmp_path / "journal", "--to", "lab")
    told = json.loads(command("status", tmp_path, "--json")[1])
    assert len(told["journals"]) == 1


def test_prune_takes_nothing_from_a_destination(tmp_path, lab, sagemaker):
    """What leaves the journal was copied before, for a destination that was never synced, too."""
    journal = tracked(tmp_path, steps=50, artifact=b"the model")
    url = ("--endpoint-url", sagemaker.endpoint_url)
    command("sync", journal, "--to", "sagemaker", *url)
    code, printed = command(
        *(
            "prune",
            journal,
            "--delivered-before",
            "0s",
            "--blobs-delivered-before",
            "0s",
            *url,
        )
    )
    assert code == ExitCode.OK, printed
    assert len(entries(journal)) < 50
    assert command("sync", journal, "--to", "lab")[0] == ExitCode.OK
    assert [step for _, _, step in values(lab)] == [*range(50)]
    assert [*lab.files.values()] == [b"the model"]
    copy = destinations.folder_of(journal, "lab")
    code, printed = command("prune", journal, "--delivered-before", "0s", "--to", "lab")
    assert code == ExitCode.OK, printed
    assert len(entries(copy)) < 50
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_metric("loss", 51.0, iteration_number=50)
    assert command("sync", journal, "--to", "lab")[0] == ExitCode.OK
    assert [step for _, _, step in values(lab)] == [*range(51)]
    assert command("check", journal, "--remote", "--to", "lab")[0] == ExitCode.OK


def test_a_lost_copy_is_made_again_when_it_is_asked_for_and_nothing_is_there_twice(tmp_path, lab):
    """Without the record of what arrived nothing is sent; with ``--even-if-behind`` everything is,
    into the same run.
    """
    journal = tracked(tmp_path, steps=5, parameters={"lr": 0.1}, artifact=b"the model")
    command("sync", journal, "--to", "lab")
    (run,) = lab.active()
    before = (dict(run.points), dict(run.params), run.status, dict(lab.files))
    shutil.rmtree(journal / "destinations")
    code, printed = command("sync", journal, "--to", "lab")
    assert (code, "--even-if-behind" in printed) == (ExitCode.JOURNAL, True)
    assert command("sync", journal, "--to", "lab", "--even-if-behind")[0] == ExitCode.OK
    (again,) = lab.active()
    assert again.id == run.id
    assert (dict(again.points), dict(again.params), again.status, dict(lab.files)) == before


def test_bytes_that_only_a_mirror_has_are_fetched_for_a_destination(tmp_path, lab):
    """A run that is continued on another node delivers its artifacts from the mirror."""
    with opened(tmp_path / "lost", {"run": [CREATION]}) as journal:
        add_artifact(journal, b"weights" * 1_000)
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Shipper(tmp_path / "lost" / "journal", mirror)) as shipper:
        shipper.copy_blobs(shipper.ship())
    assert mirror_copies.fetch(tmp_path / "next", mirror.path, "run", Deadline(600))
    assert command("sync", tmp_path / "next", "--to", "lab")[0] == ExitCode.OK
    assert [*lab.files.values()] == [b"weights" * 1_000]


def test_a_backup_that_was_put_back_is_noticed(tmp_path, lab):
    """A journal whose entries differ from the copy's is not delivered as if it were the same."""
    journal = tracked(tmp_path, steps=3)
    backup = tmp_path / "backup"
    shutil.copytree(journal, backup)
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_metric("loss", 1.0, iteration_number=9)
    command("sync", journal, "--to", "lab")
    for name in ("journal.db", "journal.db-wal"):
        (journal / name).unlink(missing_ok=True)
        if (backup / name).exists():
            shutil.copy(backup / name, journal / name)
    with pytest.raises(JournalCorruptError, match="no copy of the journal"):
        sync(journal, destination="lab")


def test_an_entry_that_was_altered_before_it_was_copied_is_held_back(tmp_path, lab):
    """Nothing of its process is sent, as to SageMaker."""
    journal = tracked(tmp_path, steps=3)
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        connection.execute("DROP TRIGGER entry_no_update")
        connection.execute("UPDATE entry SET value = 9.0 WHERE step = 1")
        connection.commit()
    code, _ = command("sync", journal, "--to", "lab")
    assert code == ExitCode.JOURNAL
    assert not lab.active()


def test_the_address_of_a_destination_can_not_change_unnoticed(tmp_path, lab, monkeypatch):
    """A copy that says what another server has is not used for a new one."""
    journal = tracked(tmp_path, steps=3)
    command("sync", journal, "--to", "lab")
    other = tmp_path / "other.toml"
    other.write_text('[destinations.lab]\nuri = "http://127.0.0.1:9/"\n')
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(other))
    with pytest.raises(InvalidInputError, match="the destination lab was"):
        sync(journal, destination="lab")


@pytest.mark.parametrize("what", ["destinations", "destinations/lab", "destinations/lab/spool"])
def test_a_copy_that_a_link_leads_to_is_not_used(tmp_path, lab, what):
    """A journal from somebody else can't have another journal written into."""
    journal = tracked(tmp_path, steps=3)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(journal, elsewhere)
    place = journal / what
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere)
    before = entries(elsewhere)
    with pytest.raises(JournalCorruptError, match="by a link"):
        sync(journal, destination="lab")
    assert entries(elsewhere) == before
    assert not lab.asked


@pytest.mark.parametrize("revision", golden.REVISIONS)
def test_journals_of_all_revisions_can_be_delivered(tmp_path, lab, revision):
    """A journal that an older version made is upgraded, and its history arrives."""
    journal = golden.restore(revision, tmp_path / "journal")
    code, printed = command("sync", journal, "--to", "lab")
    assert code in {ExitCode.OK, ExitCode.PENDING, ExitCode.PROBLEMS}, printed
    assert any(run.points for run in lab.active())


def test_a_check_finds_each_point_that_the_server_lost_and_sends_it_again(tmp_path, lab):
    """Points, parameters, notes and artifacts are compared one by one; a repair brings them back,
    and makes a run that was deleted again with all of them.
    """
    journal = tracked(tmp_path, steps=50, parameters={"lr": 0.1}, artifact=b"the model")
    with opened(tmp_path, {"run": [vocabulary.note("a note")]}):
        pass
    command("sync", journal, "--to", "lab")
    assert command("check", journal, "--remote", "--to", "lab")[0] == ExitCode.OK
    run = lab.active()[0]
    whole = dict(run.points)
    lost = sorted(run.points)[:3]
    for each in lost:
        del run.points[each]
    del run.tags["journaltrack.status"], run.tags["mlflow.note.content"]
    lab.files.clear()
    code, printed = command("check", journal, "--remote", "--to", "lab")
    assert code == ExitCode.PROBLEMS
    assert "47 points" in printed
    code, printed = command("check", journal, "--remote", "--repair", "--to", "lab")
    assert code == ExitCode.OK, printed
    assert (run.points, run.tags["mlflow.note.content"]) == (whole, "a note")
    run.deleted = True
    code, printed = command("check", journal, "--remote", "--repair", "--to", "lab")
    assert code == ExitCode.OK, printed
    (again,) = lab.active()
    assert (again.points, again.tags["mlflow.note.content"]) == (whole, "a note")
    place = f"{again.experiment_id}/{again.id}/artifacts/model.bin"
    assert lab.files[place] == b"the model"


def test_parameters_wait_for_the_end_of_the_run_where_that_is_configured(tmp_path, lab):
    """Until then each is a tag, which is read back; then the last value is the parameter."""
    with (tmp_path / "config.toml").open("a") as file:
        file.write('parameters = "last"\n')
    journal = tmp_path / "journal"

    def synced(*drafts):
        """Record these, and deliver: the run, which a check agrees with."""
        with opened(tmp_path, {"run": drafts}):
            pass
        code, printed = command("sync", journal, "--to", "lab")
        assert code == ExitCode.OK, printed
        assert command("check", journal, "--remote", "--to", "lab")[0] == ExitCode.OK
        return lab.active()[0]

    begin = vocabulary.status(primary="InProgress")
    run = synced(CREATION, begin, vocabulary.parameter("lr", 1), vocabulary.parameter("a@b", 5))
    tags = {"journaltrack.parameter.lr": "1", "journaltrack.parameter.a_x40_b": "5"}
    assert run.params == {}
    assert run.tags.items() >= tags.items()
    assert synced(vocabulary.parameter("lr", 2)).params == {}
    end = vocabulary.status(primary="Completed")
    run = synced(vocabulary.parameter("lr", 3), vocabulary.parameter("new", 4), end)
    assert run.params == {"lr": "3", "a_x40_b": "5", "new": "4"}
    assert synced(vocabulary.parameter("lr", 6)).params == run.params
    assert run.tags["journaltrack.parameter.lr"] == "6"


def test_a_tracker_delivers_to_all_destinations_when_it_closes(
    tmp_path, lab, sagemaker, monkeypatch
):
    """``sync="close"`` and the configuration are enough."""
    monkeypatch.setenv("JOURNALTRACK_ENDPOINT_URL", sagemaker.endpoint_url)
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j") as tracker:
        tracker.log_metric("loss", 1.0, iteration_number=0)
    assert len(sagemaker.components["run"].metrics) == 1
    assert len(values(lab)) == 1


def test_deliver_to_leaves_out_what_it_does_not_name(tmp_path, lab, monkeypatch):
    """With ``deliver_to = ["lab"]`` nobody asks AWS for anything."""
    monkeypatch.setenv("JOURNALTRACK_DELIVER_TO", "lab")
    monkeypatch.setenv("JOURNALTRACK_ENDPOINT_URL", "http://127.0.0.1:9")
    journal = tracked(tmp_path, steps=3)
    assert command("sync", journal)[0] == ExitCode.OK
    assert len(values(lab)) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[destinations.lab]\nurl = "http://x"', "destinations.lab.url"),
        ("[destinations.lab]", "destinations.lab.uri"),
        ('[destinations.lab]\nuri = "sqlite:///x"', "destinations.lab.uri"),
        ('[destinations.sagemaker]\nuri = "http://x"', "a destination's name"),
        ('[destinations."../x"]\nuri = "http://x"', "a destination's name"),
        ('[destinations.lab]\nuri = "http://x"\nkind = "wandb"', "destinations.lab.kind"),
        ('[destinations.lab]\nuri = "http://x"\nparameters = "all"', "must be first or last"),
        ("destinations = 3", "must be a table"),
        ('deliver_to = ["lab"]', "deliver_to"),
    ],
)
def test_a_wrong_table_says_which_key_is_wrong(tmp_path, text, said):
    """No destination is guessed."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=said):
        config.load(file, environ={})


def test_overrides_carry_destinations_to_another_process(tmp_path):
    """A background process has the destinations of its parent, whatever its own file says."""
    file = tmp_path / "config.toml"
    file.write_text(
        'deliver_to = ["b", "a"]\n[destinations.a]\nuri = "http://a"\nprofile = "p"\n'
        '[destinations.b]\nuri = "https://b"\n'
    )
    known = config.load(file, environ={}).configuration
    carried = json.loads(json.dumps(config.as_overrides(known)))
    again = config.load("/dev/null", environ={}, overrides=carried).configuration
    assert again == known
    assert [each.name for each in again.targets] == ["b", "a"]


@pytest.mark.parametrize(
    "question",
    ["check", "check --remote", "status", "audit", "audit entries", "audit entry 1", "retry"],
)
def test_a_destination_of_a_named_configuration_is_found_by_every_question(
    tmp_path, lab, monkeypatch, question
):
    """What was synced with ``--config`` can be asked for with it."""
    file = os.environ["JOURNALTRACK_CONFIG"]
    monkeypatch.delenv("JOURNALTRACK_CONFIG")
    journal = tracked(tmp_path, steps=1)
    named = ("--to", "lab", "--config", file)
    assert command("sync", journal, *named)[0] == ExitCode.OK
    code, printed = command(*question.split(), journal, *named)
    assert code == ExitCode.OK, printed
    code, printed = command(*question.split(), journal, "--to", "lab")
    assert (code, "no destination" in printed) == (ExitCode.USAGE, True), printed


def test_a_configuration_that_names_no_destination_is_refused_where_it_has_no_effect(tmp_path):
    """``--config`` of a question is for its ``--to``."""
    for question in ("status", "check"):
        code, printed = command(question, tmp_path, "--config", tmp_path / "two.toml")
        assert (code, "--to" in printed) == (ExitCode.USAGE, True), printed
