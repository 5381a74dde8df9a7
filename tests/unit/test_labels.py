"""Labels: tags that MLflow takes and SageMaker does not. They disturb no delivery to SageMaker."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from journaltrack import runs
from journaltrack.cli import main
from journaltrack.journal import vocabulary
from journaltrack.journal.groups import Declared, Group
from journaltrack.journal.vocabulary import DATASET, OWN_LABEL, RUN_NAME
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports import component
from tests.simulator.mlflow import MlflowServer
from tests.unit.test_mlflow_remote import connected, delivered, judge_anew, only_run
from tests.unit.test_terminal import on_terminal

SET = {"dataset": {"name": "iris", "digest": "abc", "source_type": "code", "source": "{}"}}
LABELS = [
    vocabulary.label("mlflow.source.name", "train.py"),
    vocabulary.label("long", "x" * 7_000),
    vocabulary.label("gone", "soon"),
    vocabulary.label("gone", None),
    vocabulary.label(f"{OWN_LABEL}other", "document"),
    vocabulary.label(f"{DATASET}abc/iris", json.dumps({**SET, "tags": []})),
]
SETS = [
    vocabulary.label(
        f"{DATASET}abc/iris",
        json.dumps({**SET, "tags": [{"key": "mlflow.data.context", "value": "training"}]}),
    ),
    vocabulary.label(f"{DATASET}x/odd", '{"dataset": 5}'),
    vocabulary.label(f"{DATASET}y/gone", json.dumps({**SET, "tags": []})),
    vocabulary.label(f"{DATASET}y/gone", None),
]


@pytest.mark.journal({"run": [vocabulary.create(owner="me", tags={"gone": "was"}), *LABELS]})
def test_labels_are_shown_as_tags(journal):
    """Also their removal; documents among them are none. So it is in `show` and in `runs`."""
    shown = {"mlflow.source.name": "train.py", "long": "x" * 7_000}
    assert component.show(journal, "run").tags == shown
    (run,) = runs(journal.path)
    assert run.tags == shown


@pytest.mark.journal({"run": [vocabulary.create(owner="me"), *LABELS, *SETS]})
def test_dataset_inputs_are_told(journal):
    """In `show` and in a report; one that can't be read, or was removed, hides no other."""
    told = "iris (abc), training, code"
    for command in (["show", "run"], ["report", "--format", "md", "-o", "-"]):
        done = CliRunner().invoke(main, [*command, "-j", str(journal.path)])
        assert done.exit_code == 0, done.output
        printed = done.output.replace("\\", "")
        assert (printed.count(told), printed.count("(abc)")) == (1, 1), printed
    (shown,) = component.show(journal, "run").to_json()["datasets"]
    assert (shown["name"], shown["context"], shown["source"]) == ("iris", "training", "{}")


def outcomes(journal):
    """What became of the labels: outcome and reason."""
    return journal.database.read(
        "SELECT e.name, d.outcome, d.reason FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
        "WHERE e.kind = 'label' ORDER BY e.seq"
    )


@pytest.mark.journal({"run": [vocabulary.create(owner="me"), *LABELS]})
def test_sagemaker_gets_no_label_and_quarantines_none(journal):
    """They count as superseded, with the reason; the run itself is delivered."""
    remote = MemoryRemote()
    report = Reconciler(journal, remote).run()
    assert (report.pending, report.quarantined) == (0, 0), report
    assert remote.tags("run") == {}
    assert {
        (outcome, "SageMaker has no place" in reason) for _, outcome, reason in outcomes(journal)
    } == {("superseded", True)}


@pytest.mark.journal({"run": [vocabulary.create(owner="me"), *LABELS]})
def test_mlflow_gets_labels_as_tags_and_datasets(journal):
    """A removed one is gone, a document of the store stays, a dataset input is one."""
    with MlflowServer() as server:
        report = delivered(server, journal)
        assert (report.pending, report.quarantined) == (0, 0), report
        run = only_run(server)
        own = {key: text for key, text in run.tags.items() if not key.startswith("journaltrack.")}
        assert own == {"mlflow.source.name": "train.py", "long": "x" * 7_000}
        assert run.datasets == {("iris", "abc"): {**SET, "tags": []}}
        stayed = {name for name, outcome, _ in outcomes(journal) if outcome == "superseded"}
        assert f"{OWN_LABEL}other" in stayed
        # What was there is removed as well.
        with connected(server, owners={"run": "me"}) as remote:
            assert remote.tags("run")["long"] == "x" * 7_000
            journal.append(journal.component("run"), [vocabulary.label("long", None)])
        delivered(server, journal)
        assert "long" not in only_run(server).tags


@pytest.mark.journal(
    {
        "child": [
            vocabulary.create(owner="its"),
            vocabulary.associate(
                experiment="my-experiment", trial=None, full_name="/my experiment"
            ),
            vocabulary.label("mlflow.parentRunId", "parent"),
            vocabulary.metric("loss", 1.0, -5, 1_000_000),
        ],
        "parent": [
            vocabulary.create(owner="mine"),
            vocabulary.associate(
                experiment="my-experiment", trial=None, full_name="/my experiment"
            ),
        ],
    }
)
def test_a_nested_run_is_below_the_servers_own_run(journal):
    """The parent's id is the one there, whichever was made first; the experiment has its name."""
    judge_anew(journal)
    with MlflowServer() as server:
        report = delivered(server, journal, owners={"child": "its", "parent": "mine"})
        assert (report.pending, report.quarantined) == (0, 0), report
        child, parent = only_run(server, "child"), only_run(server, "parent")
        with connected(server, owners={"child": "its", "parent": "mine"}) as remote:
            assert remote.tags("child") == {"mlflow.parentRunId": "parent"}
        assert child.tags["mlflow.parentRunId"] == parent.id
        assert server.history(child, "loss") == [(1.0, 1, -5)]
        assert server.experiments[child.experiment_id].name == "/my experiment"


def test_an_experiment_with_another_name_there_is_read_back():
    """It is found by its name in the journal, and by no other."""
    group = Group("experiment", "my-experiment", tags=(("k", "v"),), full_name="/my experiment")
    with MlflowServer() as server, connected(server) as remote:
        remote.declare(Declared(group, group))
        assert remote.group("experiment", "My-Experiment").tags == (("k", "v"),)
        assert remote.group("experiment", "/my experiment") is None


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("a", "{"),
        ("a", '{"text": 3}'),
        (f"{DATASET}a", '{"text": "no JSON"}'),
        (f"{DATASET}a", '{"text": "{\\"dataset\\": {\\"name\\": 1}}"}'),
        (f"{DATASET}a", '{"text": "{\\"dataset\\": {\\"name\\": \\"a\\"}}"}'),
        (f"{DATASET}a", '{"text": "{\\"tags\\": 3}"}'),
    ],
)
@pytest.mark.journal({"run": [vocabulary.create(owner="me")]})
def test_a_label_that_can_not_be_read_is_quarantined_alone(journal, name, payload):
    """A crafted label hides nothing of its run."""
    draft = vocabulary.label(name, "b")._replace(payload=payload)
    journal.append(journal.component("run"), [draft, vocabulary.label("good", "text")])
    judge_anew(journal)
    with MlflowServer() as server:
        report = delivered(server, journal)
        assert (report.pending, report.quarantined) == (0, 1), report
        assert only_run(server).tags["good"] == "text"


NAMED = [
    vocabulary.create(owner="me", display_name="by-hand-2"),
    vocabulary.label(RUN_NAME, "by hand 2"),
]


@pytest.mark.journal({"0" * 32: NAMED, "1" * 32: NAMED, "2" * 32: NAMED[:1]})
def test_a_run_has_the_name_that_mlflow_has(journal, monkeypatch):
    """As it was logged and as it is now; commands take it, and what tells several apart."""
    number = journal.find("2" * 32).id
    for name in ("first name", "best so far"):
        journal.append(number, [vocabulary.label(RUN_NAME, name)])
    shown = on_terminal(["runs", journal.path], 60, monkeypatch)
    assert {line[:20].strip() for line in shown.splitlines()[1:]} == {
        "by hand 2 (00000000)",
        "by hand 2 (11111111)",
        "best so far",
    }
    for name, found in (
        ("best so far", "2"),
        ("by hand 2 (00000000)", "0"),
        ("by hand 2 (1111)", "1"),
    ):
        done = CliRunner().invoke(main, ["show", name, "-j", str(journal.path), "--json"])
        assert json.loads(done.stdout)["name"] == found * 32, done.output
    tagged = CliRunner().invoke(main, ["tag", "BEST so far", "a=b", "-j", str(journal.path)])
    assert tagged.exit_code == 0, tagged.output
    for name, count in (("by-hand-2", 3), ("by hand 2", 2), ("best*", 1)):
        told = ["audit", "entries", "-j", str(journal.path), "--component", name, "--json"]
        lines = CliRunner().invoke(main, told).output.splitlines()
        assert len({json.loads(line)["component"] for line in lines}) == count, lines
    hint = CliRunner().invoke(main, ["tag", "by hand 2", "a=b", "-j", str(journal.path)]).output
    assert "2 runs fit" in hint
