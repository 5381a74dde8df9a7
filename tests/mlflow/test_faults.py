"""Faults of a real MLflow server, of the line to it, of people on it, and of the sync itself.

After each of them the server's own database and folder are compared with what was recorded: every
point, parameter, tag, dataset and file is there, once, in one run.
"""

from __future__ import annotations

import queue
import signal
from contextlib import closing

import pytest

from journaltrack import Journal, sync, verify
from journaltrack.errors import ErrorKind
from journaltrack.journal import vocabulary
from tests.builders import add_artifact
from tests.mlflow.conftest import ask
from tests.patience import FOREVER_S
from tests.processes import sync_process

pytestmark = pytest.mark.mlflow
AT_MS = 1_700_000_000_000
# More names than a request takes: the points come in several.
NAMES = [f"metric/{number}" for number in range(110)]
POINTS = sorted((name, step / 8, AT_MS + step, step) for name in NAMES for step in range(3))
PARAMS = {f"p{number}": str(number) for number in range(105)}
TAGS = {
    "team": "vision",
    "mlflow.note.content": "a note",
    "journaltrack.trial.first": "{experiment}",
}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def recorded(tmp_path, request):
    """Makes journals of one run each, with entries of all kinds; returns folder and run."""
    made = []

    def record():
        component = f"{request.node.name.translate(NO_NAME)[:100]}-{len(made)}"
        made.append(component)
        experiment = f"of-{component}"
        drafts = [
            vocabulary.create(owner=f"owner-of-{component}", tags={"team": "vision"}),
            vocabulary.associate(experiment=experiment, trial="first"),
            vocabulary.status(primary="InProgress", start_ns=AT_MS * 10**6),
            *(vocabulary.parameter(name, int(value)) for name, value in PARAMS.items()),
            vocabulary.artifact("input", "data", "s3://bucket/data.csv", "text/csv"),
            vocabulary.note("a note"),
            *(
                vocabulary.metric(name, value, step, at_ms * 10**6)
                for name, value, at_ms, step in POINTS
            ),
            vocabulary.status(primary="Completed", end_ns=(AT_MS + 9) * 10**6),
        ]
        folder = tmp_path / component
        with closing(Journal.open(folder)) as journal:
            journal.append(journal.component(component), drafts)
            add_artifact(journal, b"the model of " + component.encode(), component)
        return folder, component

    return record


NO_NAME = str.maketrans("_[]", "---")


def log(journal, component, step):
    """Log one more point, and return it as the server keeps it."""
    with closing(Journal.open(journal)) as opened:
        draft = vocabulary.metric(NAMES[0], step / 8, step, (AT_MS + step) * 10**6)
        opened.append(opened.component(component), [draft])
    return (NAMES[0], step / 8, AT_MS + step, step)


def assert_whole(running, component, *more):
    """The server holds one run, with all that was recorded, once."""
    ((_, held),) = running.held(component).items()
    assert held["points"] == sorted([*POINTS, *more])
    assert (held["params"], held["status"]) == (PARAMS, "FINISHED")
    wanted = {key: text.format(experiment=f"of-{component}") for key, text in TAGS.items()}
    assert held["tags"].items() >= wanted.items()
    assert held["inputs"] == [("data",)]
    assert held["files"] == {"model": b"the model of " + component.encode()}


def assert_settled(report):
    """Nothing waits, and nothing was set aside."""
    assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0), report


def test_a_sync_that_is_killed_at_any_request_leaves_one_run_with_everything_once(
    running, relay, recorded
):
    """For each request of a sync: SIGKILL when the server has answered it; the next sync delivers
    the rest.
    """
    for number in range(1, 100):
        journal, component = recorded()
        before = len(relay.asked)
        syncing = queue.SimpleQueue()

        def kill(n, *, wanted=before + number, syncing=syncing):
            """Kill the sync after the server got its request of that number."""
            if n == wanted:
                syncing.get(timeout=FOREVER_S).kill()
            return "after" if n >= wanted else None

        relay.fault = kill
        process = sync_process(journal, NOWHERE, "--to", relay.uri)
        syncing.put(process)
        out, err = process.communicate()
        relay.fault = lambda _: None
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, out + err
        assert_settled(sync(journal, destination=relay.uri))
        assert_whole(running, component)
    assert number > 10, "it was killed in the midst of each kind of request"
    assert_whole(running, component)


@pytest.mark.parametrize("fault", ["before", "after"])
def test_whichever_answer_is_cut_off_everything_is_there_once(running, relay, recorded, fault):
    """For each request of a sync: no answer to it, before or after it took effect."""
    for number in range(1, 100):
        journal, component = recorded()
        wanted = len(relay.asked) + number
        relay.fault = lambda n, wanted=wanted: fault if n == wanted else None
        sync(journal, destination=relay.uri)
        was_cut = len(relay.asked) >= wanted
        relay.fault = lambda _: None
        assert_settled(sync(journal, destination=relay.uri))
        assert_whole(running, component)
        if not was_cut:
            break
    assert number > 10


@pytest.mark.parametrize("status", [401, 503])
def test_a_server_that_refuses_everything_quarantines_nothing(running, relay, recorded, status):
    """A sync that meets 401 or 503 from its sixth request on stops; the next one delivers."""
    journal, component = recorded()
    relay.fault = lambda n: status if n > 5 else None
    report = sync(journal, destination=relay.uri)
    assert (report.quarantined, report.in_doubt) == (0, 0)
    assert report.pending > 0
    if status == 401:
        assert report.halted.kind is ErrorKind.HALT
    relay.fault = lambda _: None
    assert_settled(sync(journal, destination=relay.uri))
    assert_whole(running, component)


def test_a_server_that_is_killed_and_started_again_gets_the_rest(running, relay, recorded):
    """SIGKILL of the server in the midst of a sync: the points wait until it is there again."""
    journal, component = recorded()

    def kill(n):
        """Kill the server at the tenth request, and pass on no other."""
        if n == 10:
            running.kill()
        return "before" if n >= 10 else None

    relay.fault = kill
    report = sync(journal, destination=relay.uri)
    assert report.pending > 0
    relay.fault = lambda _: None
    running.start()
    assert_settled(sync(journal, destination=relay.uri))
    assert_whole(running, component)


def test_a_deleted_experiment_holds_its_runs_until_it_is_restored(running, server, recorded):
    """A run there, and one that is new, wait; restored, both get everything."""
    journal, component = recorded()
    assert_settled(sync(journal, destination=server))
    name = f"of-{component}"
    told = ask(server, "experiments/get-by-name", experiment_name=name)["experiment"]
    ask(server, "experiments/delete", {"experiment_id": told["experiment_id"]})
    more = log(journal, component, 9)
    with closing(Journal.open(journal)) as opened:
        new = [
            vocabulary.create(owner="new"),
            vocabulary.associate(experiment=name, trial=None),
            vocabulary.metric("loss", 1.0, 1, AT_MS * 10**6),
        ]
        opened.append(opened.component(f"new-{component}"), new)
    report = sync(journal, destination=server)
    assert {*report.held} == {component, f"new-{component}"}, report
    assert (report.quarantined, report.in_doubt) == (0, 0)
    ask(server, "experiments/restore", {"experiment_id": told["experiment_id"]})
    assert_settled(sync(journal, destination=server))
    assert_whole(running, component, more)
    ((_, held),) = running.held(f"new-{component}").items()
    assert held["points"] == [("loss", 1.0, AT_MS, 1)]


def test_a_renamed_experiment_keeps_its_run(running, server, recorded):
    """Points that come later go to the same run, under the experiment's new name."""
    journal, component = recorded()
    assert_settled(sync(journal, destination=server))
    before = [*running.held(component)]
    told = ask(server, "experiments/get-by-name", experiment_name=f"of-{component}")
    renamed = {"experiment_id": told["experiment"]["experiment_id"], "new_name": f"x-{component}"}
    ask(server, "experiments/update", renamed)
    more = log(journal, component, 9)
    assert_settled(sync(journal, destination=server))
    assert [*running.held(component)] == before
    assert_whole(running, component, more)


@pytest.mark.parametrize("remedy", ["restore", "repair"])
def test_a_run_that_was_deleted_is_held_and_is_whole_again(running, server, recorded, remedy):
    """Restored on the server, or made again by a repair: it has everything, once."""
    journal, component = recorded()
    assert_settled(sync(journal, destination=server))
    (run_id,) = running.held(component)
    ask(server, "runs/delete", {"run_id": run_id})
    more = log(journal, component, 9)
    report = sync(journal, destination=server)
    assert ([*report.held], report.quarantined) == ([component], 0)
    assert not running.held(component)
    if remedy == "restore":
        ask(server, "runs/restore", {"run_id": run_id})
        assert_settled(sync(journal, destination=server))
    else:
        assert verify(journal, destination=server, repair=True, requests_per_s=1_000).verified
    assert_whole(running, component, more)
