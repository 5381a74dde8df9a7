"""An MLflow server as a remote: every value is there once, whatever happened to an answer."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import random
import re
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from journaltrack.errors import NOT_ALLOWED, ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Artifact
from journaltrack.journal.groups import Declared, Group
from journaltrack.remotes.allow import AllowingRemote, Rules
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.remotes.mlflow import names, told_as
from journaltrack.remotes.mlflow.http import Http, server_of
from journaltrack.remotes.mlflow.parents import Parents
from journaltrack.remotes.mlflow.remote import MlflowRemote
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay.lease import Gate
from journaltrack.replay.plan.actions import ComponentSpec
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.util.config import AllowConfiguration
from journaltrack.util.deadline import Deadline
from tests.builders import CREATION, add_artifact, opened, points
from tests.simulator.mlflow import CUT_AFTER, CUT_BEFORE, MlflowServer
from tests.simulator.wire import HttpReply

OWNERS = {"run": "me"}


@pytest.fixture
def server():
    """A strict server on loopback."""
    with MlflowServer() as server:
        yield server


@contextmanager
def connected(server, gate=None, owners=OWNERS, **options):
    """The remote for a pass, which waits for nothing between its attempts."""
    gate = gate or Gate(Deadline())
    at = options.pop("at", None) or server_of(server.uri, environ={})
    http = Http(at, deadline=gate, connections=16)
    remote = MlflowRemote(http, owners=owners, bucket=MemoryRemote, **options)
    try:
        yield RetryingRemote(remote, deadline=gate, sleep=lambda _: None)
    finally:
        remote.close()


def delivered(server, journal, *, owners=OWNERS, **options):
    """Make one pass, and return its report."""
    gate = Gate(Deadline())
    with connected(server, gate, owners) as remote:
        return Reconciler(
            journal,
            remote,
            options=Options(**options),
            deadline=gate,
            attempts=remote.attempts_of_last_call,
        ).run()


def only_run(server, component="run"):
    """The one active run of a component."""
    (run,) = server.active(component)
    return run


def judge_anew(journal):
    """Forget what SageMaker could never take, as the copy for a destination does."""
    journal.database.write(lambda connection: connection.execute("DELETE FROM delivery"))


EVERYTHING = [
    vocabulary.create(owner="me", display_name="The-run", tags={"team": "vision", "a@b": "c"}),
    vocabulary.associate(experiment="digits", trial="first"),
    vocabulary.status(primary="InProgress", start_ns=1_700_000_000_123_456_789),
    vocabulary.parameter("lr", 0.1),
    vocabulary.parameter("epochs", 5),
    vocabulary.parameter("lr@k", "x" * 5_000),
    vocabulary.parameter("nothing", None),
    vocabulary.parameter("nan", math.nan),
    vocabulary.artifact("input", "data", "s3://bucket/data.csv", "text/csv"),
    vocabulary.note("a note"),
    vocabulary.tags({"stage": "test"}),
    *points(5),
    vocabulary.metric("100%", 1.5, None, 2_000_000_000),
    vocabulary.metric("loss", math.nan, 7, 3_000_000_000),
    vocabulary.metric("loss", math.inf, 8, 3_000_000_000),
    vocabulary.status(primary="Completed", message="all done", end_ns=1_700_000_100_000_000_000),
]


@pytest.mark.journal({"run": EVERYTHING})
def test_everything_of_a_run_is_there(server, journal):
    """One pass delivers all kinds of entries; nothing is pending, quarantined or in doubt."""
    judge_anew(journal)
    add_artifact(journal, b"the model")
    report = delivered(server, journal)
    assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0), report
    run = only_run(server)
    assert (run.name, run.status, run.start_time, run.end_time) == (
        "The-run",
        "FINISHED",
        1_700_000_000_123,
        1_700_000_100_000,
    )
    assert server.experiments[run.experiment_id].name == "digits"
    assert run.params == {
        "lr": "0.1",
        "epochs": "5",
        "lr_x40_k": "x" * 5_000,
        "nothing": "None",
        "nan": "nan",
    }
    assert run.tags["team"] == "vision"
    assert run.tags["stage"] == "test"
    assert run.tags["mlflow.note.content"] == "a note"
    assert run.tags["journaltrack.trial.first"] == "digits"
    assert {name for name, _ in run.datasets} == {"data"}
    assert sorted(run.points) == sorted(
        [
            *(("loss", repr(float(n)), 0, n) for n in range(5)),
            ("100_x25_", "1.5", 2_000, 0),
            ("loss", "nan", 3_000, 7),
            ("loss", "1.7976931348623157e+308", 3_000, 8),
        ]
    )
    assert server.files == {f"{run.experiment_id}/{run.id}/artifacts/model": b"the model"}
    told = journal.database.read(
        "SELECT d.reason FROM delivery d JOIN entry e ON e.seq = d.seq WHERE e.step = 8"
    )
    assert "infinity" in told[0][0]


@pytest.mark.journal({"run": EVERYTHING})
def test_what_was_delivered_is_read_back_as_it_was_logged(server, journal):
    """Names, values, status, times, tags and every point come back from the server."""
    judge_anew(journal)
    delivered(server, journal)
    with connected(server) as remote:
        held = remote.describe("RUN")
        assert (held.name, held.owner, held.display_name) == ("run", "me", "The-run")
        assert held.parameters["lr@k"] == "x" * 5_000
        assert held.input_artifacts == {"data": Artifact("s3://bucket/data.csv", "text/csv")}
        assert (held.status.primary, held.status.message) == ("Completed", "all done")
        assert held.status.start_ns == 1_700_000_000_123_456_789
        assert remote.tags("run")["a@b"] == "c"
        assert remote.trials("run") == {"first"}
        assert [(p.value, p.step) for p in remote.points("run", "100%")] == [(1.5, 0)]
        assert len(list(remote.points("run", "loss"))) == 7


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@example("grad_x1_@")
@example("_x5f_")
@example("a/../b")
@example("/")
@example("..")
@example("x" * 300)
@example("a//../b" + "x" * 300)
@example("/" * 100)
@given(st.text(min_size=1, max_size=320).filter(lambda name: name.isprintable()))
def test_every_name_is_spelled_so_that_it_is_taken_and_read_back(name):
    """MLflow's own rule takes the spelling, and reading it back gives the name."""
    from tests.simulator.mlflow import _check_key

    text = names.spelled(name)
    _check_key(text, "metric")
    kept = names.kept_by(name)
    held = {} if kept is None else {kept.removeprefix(names.NAME): name}
    assert names.read(text, held) == name
    _check_key(names.tag(name), "tag")
    assert not names.tag(name).startswith(names.OURS)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab_x5f@/. ", min_size=1, max_size=8), min_size=2, max_size=2, unique=True))
def test_two_names_never_become_one(pair):
    """Different names have different spellings."""
    assert names.spelled(pair[0]) != names.spelled(pair[1])


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.3, 0.5]))
def test_whatever_is_cut_off_every_point_is_there_once_in_one_run(tmp_path_factory, seed, share):
    """Requests without an answer, applied or not, and failures: passes converge to one run."""
    chance = random.Random(seed)
    faults = [CUT_BEFORE, CUT_AFTER, 503, 500, 429]
    drafts = [CREATION, *points(30), vocabulary.parameter("lr", 1)]
    drafts.append(vocabulary.status(primary="Completed"))
    with (
        MlflowServer() as server,
        opened(tmp_path_factory.mktemp("cut"), {"run": drafts}) as journal,
    ):
        add_artifact(journal)
        server.fault = lambda *_: chance.choice(faults) if chance.random() < share else None
        for _ in range(12):
            if delivered(server, journal).pending == 0:
                break
        server.fault = lambda *_: None
        report = delivered(server, journal)
        assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0)
        run = only_run(server)
        assert sorted(server.history(run, "loss")) == [(float(n), 0, n) for n in range(30)]
        assert (run.params, run.status) == ({"lr": "1"}, "FINISHED")
        assert [*server.files.values()] == [b"model"]


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_a_creation_that_takes_effect_late_leaves_one_run(server, journal):
    """A run that a lost request made after the next one was answered is deleted, not filled."""
    delivered(server, journal)
    first = only_run(server)
    with connected(server, owners={}) as remote:
        twin = {k: v for k, v in first.tags.items() if k != "journaltrack.delivered"}
        twin["journaltrack.created"] = "1"
        http = remote._inner._http
        content = {"experiment_id": first.experiment_id, "start_time": 0, "run_name": "run"}
        http.post(
            "runs/create",
            {**content, "tags": [{"key": k, "value": v} for k, v in twin.items()]},
            "run",
        )
        assert len(server.active("run")) == 2
    journal.append(journal.component("run"), points(1, "more"))
    delivered(server, journal)
    assert only_run(server).id == first.id
    assert len(first.points) == 4


def test_runs_of_one_name_from_two_journals_are_two_runs(server, tmp_path):
    """A run is found by its owner, too: no journal writes into another one's run."""
    for owner in ("me", "you"):
        drafts = [vocabulary.create(owner=owner), *points(3, owner)]
        with opened(tmp_path / owner, {"run": drafts}) as journal:
            report = delivered(server, journal, owners={"run": owner})
            assert (report.pending, report.halted) == (0, None)
    assert [{p[0] for p in run.points} for run in server.active("run")] == [{"me"}, {"you"}]


@pytest.mark.parametrize("first", ["child", "parent", "grandchild"])
def test_a_child_finds_its_parent_of_another_journal_whichever_comes_first(server, tmp_path, first):
    """The parent takes what waits for it; the child of a child as well."""
    parents = {"parent": None, "child": "parent", "grandchild": "child"}
    for name in [first, *(each for each in parents if each != first)]:
        labels = {"mlflow.runName": name, "mlflow.parentRunId": parents[name]}
        told = [vocabulary.label(key, text) for key, text in labels.items() if text]
        with opened(tmp_path / name, {name: [vocabulary.create(owner=name), *told]}) as journal:
            report = delivered(server, journal, owners={name: name})
            assert (report.pending, report.quarantined) == (0, 0), report
    runs = {name: only_run(server, name) for name in parents}
    held = {name: run.tags.get("mlflow.parentRunId") for name, run in runs.items()}
    assert held == {"parent": None, "child": runs["parent"].id, "grandchild": runs["child"].id}
    assert not any(key.endswith("track.parent") for run in runs.values() for key in run.tags)


@pytest.mark.journal({"child": [CREATION], "parent": [CREATION]})
def test_a_parent_that_arrives_while_its_child_is_told_of_it_is_found(server, journal):
    """The parent saw no child that waits, and the child saw no parent: it looks once more."""
    delivered(server, journal)
    child, parent = only_run(server, "child"), only_run(server, "parent")
    found = iter([None, parent.id])
    with connected(server, owners={}) as remote:
        http = remote._inner._http
        parents = Parents(http, list, lambda _: next(found), ())
        tags = parents.tags("parent")
        http.post("runs/log-batch", {"run_id": child.id, "tags": told_as.pairs(tags)})
        assert child.tags["journaltrack.parent"] == "true"
        parents.look_again(child.id, tags)
    assert child.tags["mlflow.parentRunId"] == parent.id
    assert "journaltrack.parent" not in child.tags


@pytest.mark.parametrize("owner", ["a' OR tags.`x` = 'b", "`", "x" * 250 + "'", "a\nb"])
def test_an_owner_that_no_search_finds_makes_no_run(server, tmp_path, owner):
    """A crafted journal can't make a run that is made again by each pass, nor find others' runs."""
    drafts = [vocabulary.create(owner=owner), *points(2)]
    with opened(tmp_path, {"run": drafts}) as journal:
        for _ in range(2):
            report = delivered(server, journal, owners={"run": owner})
            assert (report.delivered, report.halted) == (0, None)
    assert not server.runs


@pytest.mark.journal({"run": [CREATION, vocabulary.parameter("lr", 1)]})
def test_a_parameter_that_changes_keeps_its_first_value_and_the_tag_counts(server, journal):
    """MLflow can't change a parameter: the latest value is a tag, and is what is read back."""
    component = journal.component("run")
    for value in (1, 2, 1):
        journal.append(component, [vocabulary.parameter("lr", value)])
        assert delivered(server, journal).quarantined == 0
        with connected(server) as remote:
            assert remote.describe("run").parameters == {"lr": str(value)}
    assert only_run(server).params == {"lr": "1"}


@pytest.mark.journal({"run": [CREATION, *(vocabulary.parameter(f"p{n}", n) for n in range(450))]})
def test_more_parameters_than_one_request_takes_are_all_there(server, journal):
    """They go in as many requests as necessary; SageMaker's limit of 300 does not count."""
    assert delivered(server, journal).quarantined == 0
    assert len(only_run(server).params) == 450


@pytest.mark.journal(
    {"run": [CREATION, *(each for n in range(230) for each in points(9, f"m{n}"))]}
)
def test_points_of_many_metrics_are_all_there(server, journal):
    """No request has too many points or names."""
    assert delivered(server, journal).quarantined == 0
    assert len(only_run(server).points) == 230 * 9


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_a_run_that_was_deleted_holds_only_itself(server, journal):
    """Points of a deleted run stay pending, and nobody makes another run for them unasked."""
    delivered(server, journal)
    only_run(server).deleted = True
    journal.append(journal.component("run"), points(1, "more"))
    journal.append(journal.component("other"), [vocabulary.create(owner="me-too"), *points(2)])
    report = delivered(server, journal, owners={**OWNERS, "other": "me-too"})
    assert report.halted is None
    assert len(only_run(server, "other").points) == 2
    assert (report.quarantined, report.pending, [*report.held]) == (0, 1, ["run"])
    again = delivered(server, journal)
    assert (again.pending, [*again.held]) == (1, ["run"])
    assert not server.active("run")


DELETION = vocabulary.label(vocabulary.STAGE, vocabulary.DELETED)


@pytest.mark.journal({"run": [CREATION, DELETION, *points(3)]})
def test_a_run_that_was_deleted_offline_arrives_whole_and_is_deleted_there(server, journal):
    """After everything else of it, files too. Restored offline, it is restored there first."""
    add_artifact(journal, b"weights")
    assert delivered(server, journal).pending == 0
    assert server.active("run") == []
    (run,) = server.runs.values()
    assert (run.deleted, len(run.points), list(server.files.values())) == (True, 3, [b"weights"])
    with connected(server) as remote:
        # A check finds it as it finds others.
        assert remote.describe("run").owner == "me"
        assert len([*remote.points("run", "loss")]) == 3
    asked = len(server.asked)
    assert delivered(server, journal).requests == 0
    assert len(server.asked) == asked
    component_id = journal.component("run")
    # What comes late arrives all the same, and the run stays deleted.
    journal.append(component_id, [vocabulary.metric("late", 1.0, 1, 1), vocabulary.note("late")])
    assert delivered(server, journal).pending == 0
    assert (server.active("run"), server.history(run, "late")) == ([], [(1.0, 0, 1)])
    restored = vocabulary.label(vocabulary.STAGE, "active")
    journal.append(
        component_id, [vocabulary.metric("loss", 9.0, 9, 1), vocabulary.tags({"a": "b"}), restored]
    )
    assert delivered(server, journal).pending == 0
    assert only_run(server) is run
    assert (len(run.points), run.tags["a"], len(server.runs)) == (5, "b", 1)


@pytest.mark.journal({"run": [CREATION, DELETION, *points(3)]})
def test_a_run_is_not_deleted_before_everything_else_of_it_is_there(server, journal):
    """Whatever is cut off: a run that is gone takes nothing. Then the next pass deletes it."""
    server.fault = lambda _, __, path: 503 if path.endswith("/log-batch") else None
    assert delivered(server, journal).pending > 0
    assert len(server.active("run")) == 1
    server.fault = lambda _, __, path: CUT_BEFORE if path.endswith("/delete") else None
    assert delivered(server, journal).pending == 1
    # Another attempt finds what the lost answer did.
    server.fault = lambda _, __, path: CUT_AFTER if path.endswith("/delete") else None
    assert delivered(server, journal).pending == 0
    (run,) = server.runs.values()
    assert (run.deleted, len(run.points)) == (True, 3)


@pytest.mark.journal({"run": [CREATION, vocabulary.associate(experiment="gone", trial=None)]})
def test_a_deleted_experiment_holds_its_runs_and_says_what_to_do(server, journal):
    """Nothing is sent into a deleted experiment, and the report names it."""
    server._add_experiment("gone").deleted = True
    report = delivered(server, journal)
    assert report.held["run"].code == "ExperimentDeleted"
    assert not server.runs


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_a_renamed_experiment_keeps_its_run(server, journal):
    """The run is found by its tags, wherever it is."""
    delivered(server, journal)
    server.experiments[only_run(server).experiment_id].name = "renamed"
    journal.append(journal.component("run"), points(1, "more"))
    assert delivered(server, journal).pending == 0
    assert len(only_run(server).points) == 4


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (HttpReply(401, b"no"), "halted"),
        (HttpReply(403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'), "halted"),
        (HttpReply(200, b"<html>sign in</html>"), "halted"),
        (HttpReply(200, b'{"login": "please"}'), "halted"),
        (HttpReply(302, b"", {"Location": "http://127.0.0.1:1/"}), "halted"),
        (HttpReply(404, b"<html>Not Found</html>"), "halted"),
        (HttpReply(400, b'{"error_code": "BAD_REQUEST", "message": "IntegrityError"}'), "passing"),
        (HttpReply(503, b"busy"), "passing"),
        (HttpReply(429, b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow"}'), "passing"),
    ],
)
@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_an_answer_that_is_not_the_entries_fault_quarantines_nothing(server, journal, reply, kind):
    """Whatever answers instead of the server, everything stays pending and is delivered later."""
    server.fault = lambda *_: reply
    report = delivered(server, journal)
    assert (report.delivered, report.quarantined, report.in_doubt) == (0, 0, 0)
    assert report.pending == 4
    if kind == "halted":
        assert report.halted.everywhere
        assert len(server.asked) <= 3
    server.fault = lambda *_: None
    assert delivered(server, journal).pending == 0


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_an_answer_that_no_mlflow_gives_delivers_nothing(server, journal):
    """JSON of something in between, in place of the answer to points, is no delivery."""
    odd = HttpReply(200, b'{"status": "ok"}')
    server.fault = lambda _n, _m, path: odd if path.endswith("log-batch") else None
    report = delivered(server, journal)
    assert (report.delivered, report.pending, report.halted.everywhere) == (1, 3, True)
    server.fault = lambda *_: None
    assert delivered(server, journal).pending == 0


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_a_server_that_is_away_is_unreachable_and_nothing_is_lost(server, journal):
    """The pass halts soon, and delivers everything when the server is back."""
    server.stop()
    report = delivered(server, journal)
    assert report.halted.unreachable
    assert report.pending == 4
    server.start()
    assert delivered(server, journal).pending == 0


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_nothing_leaves_after_the_deadline(server, journal):
    """A pass whose time is over asks the server for nothing."""
    gate = Gate(Deadline(0.0))
    with connected(server, gate) as remote:
        report = Reconciler(journal, remote, deadline=gate).run()
    assert (server.asked, report.pending) == ([], 4)


@pytest.mark.journal({"run": [CREATION]})
def test_an_artifact_of_another_content_is_left_alone(server, journal):
    """A name that is taken by other bytes gets the digest; a second pass sends nothing again."""
    add_artifact(journal, b"ours")
    server.fault = lambda _n, method, _p: 500 if method == "PUT" else None
    delivered(server, journal)
    run = only_run(server)
    folder = f"{run.experiment_id}/{run.id}/artifacts"
    run.tags = {k: v for k, v in run.tags.items() if not k.startswith("journaltrack.artifact.")}
    server.files[f"{folder}/model"] = b"theirs"
    server.fault = lambda *_: None
    assert delivered(server, journal).pending == 0
    digest = hashlib.sha256(b"ours").hexdigest()
    assert server.files == {f"{folder}/model": b"theirs", f"{folder}/model.{digest[:12]}": b"ours"}
    with connected(server) as remote:
        uri = f"mlflow-artifacts:/{folder}/model.{digest[:12]}"
        found = remote.find_object(uri, read=True)
        assert (found.size_bytes, found.sha256, found.noted_sha256) == (4, digest, digest)


@pytest.mark.journal({"run": [CREATION, *points(2)]})
def test_a_store_that_can_not_be_written_halts_uploads_only(journal):
    """A server whose artifacts are elsewhere gets the metrics, and the report says why not more."""
    add_artifact(journal)
    with MlflowServer("gs://bucket") as server:
        report = delivered(server, journal)
        assert report.uploads_halted.code == "NoArtifactStore"
        assert len(only_run(server).points) == 2


def test_artifacts_in_s3_go_there_directly(tmp_path):
    """The remote for buckets gets the place that the run has there."""
    with (
        MlflowServer("s3://models/prefix") as server,
        opened(tmp_path, {"run": [CREATION]}) as journal,
    ):
        add_artifact(journal)
        gate = Gate(Deadline())
        store = MemoryRemote()
        http = Http(server_of(server.uri, environ={}), deadline=gate, connections=4)
        remote = MlflowRemote(http, owners=OWNERS, bucket=lambda: store)
        assert Reconciler(journal, remote, deadline=gate).run().pending == 0
        run = only_run(server)
        assert [*store.objects] == [
            f"s3://models/prefix/{run.experiment_id}/{run.id}/artifacts/model"
        ]
        http.close()


@pytest.mark.journal({"run": [CREATION, *points(2)]})
def test_a_bucket_that_refuses_what_the_server_signed_halts_uploads_only(journal):
    """Metrics are delivered, nothing is quarantined, no error shows the signature; once the server
    may write there, the file follows. An answer that is cut off is asked for again.
    """
    add_artifact(journal)
    refusal = HttpReply(403, b"<Error><Code>AccessDenied</Code></Error>")
    with MlflowServer("s3://the-bucket") as server:

        def passed():
            """Make one pass with uploads that the server signs."""
            gate = Gate(Deadline())
            with connected(server, gate, presigned=True) as remote:
                return Reconciler(journal, remote, deadline=gate).run()

        server.fault = lambda _, method, __: refusal if method == "PUT" else None
        report = passed()
        assert (report.quarantined, report.uploads_halted.code) == (0, "HTTP403")
        assert "AccessDenied" in report.uploads_halted.message
        assert "signature" not in str(report.uploads_halted)
        assert len(only_run(server).points) == 2
        assert not server.files
        cuts = iter([CUT_BEFORE, CUT_AFTER, 503])
        server.fault = lambda _, method, __: next(cuts, None) if method == "PUT" else None
        assert passed().pending == 0
        assert [*server.files.values()] == [b"model"]


def test_experiments_and_trials_are_declared_and_read_back(server):
    """A declaration makes the experiment, sets what it gives, and comes back."""
    experiment = Group("experiment", "Digits", None, "All digits", "about", (("team", "a@b"),))
    trial = Group("trial", "first try", "Digits", "First", None, (("k", "v"),))
    with connected(server) as remote:
        for each in (experiment, trial):
            remote.declare(Declared(each, each))
            assert remote.group(each.kind, each.name.lower()) == each
        assert remote.group("experiment", "other") is None


def test_a_run_is_not_made_in_an_experiment_that_is_not_allowed(server, tmp_path):
    """``[allow]`` counts before the run is there; a missing experiment is not made either."""
    for rules, options, code in (
        (AllowConfiguration(experiments=("ours*",)), {}, NOT_ALLOWED),
        (AllowConfiguration(), {"creates": False}, NOT_ALLOWED),
    ):
        with connected(server, **options) as remote:
            allowing = AllowingRemote(remote, Rules(rules, {}))
            with pytest.raises(RemoteError) as raised:
                allowing.create(ComponentSpec("run", "me", experiment="theirs"))
            assert raised.value.code == code
    assert not server.runs
    assert [each.name for each in server.experiments.values()] == ["Default"]


@pytest.mark.parametrize(
    ("uri", "environ", "header"),
    [
        ("{}", {}, None),
        ("http://user:p%40ss@{host}", {}, "Basic dXNlcjpwQHNz"),
        ("{}", {"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
        (
            "{}",
            {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "p@ss"},
            "Basic dXNlcjpwQHNz",
        ),
    ],
)
def test_credentials_are_sent_and_no_error_shows_them(server, uri, environ, header):
    """User and password, or a token, are in the header, and in no message."""
    seen = []
    server.allow = lambda request: seen.append(request.headers.get("authorization"))
    at = server_of(uri.format(server.uri, host=server.uri[7:]), environ=environ)
    with connected(server, at=at) as remote, pytest.raises(RemoteError) as raised:
        remote.describe("run")
    assert seen == [header]
    assert raised.value.kind is ErrorKind.HALT
    assert "p@ss" not in f"{raised.value} {raised.value.hint} {at.base}"


@pytest.mark.parametrize(
    "uri", ["", "ftp://host", "databricks", "http://", "arn:aws-cn:sagemaker:x"]
)
def test_an_address_of_no_server_is_refused_before_anything_is_sent(uri):
    """It halts everything, and says what an address looks like."""
    with pytest.raises(RemoteError, match="no address") as raised:
        server_of(uri, environ={})
    assert raised.value.everywhere


def signature_of(request, secret):
    """Compute a request's signature of version 4 by AWS's specification alone."""

    def keyed(key, text):
        return hmac.digest(key, text.encode(), "sha256")

    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=[^/]+/(\d+)/([^/]+)/([^/]+)/aws4_request, "
        r"SignedHeaders=([^,]+), Signature=(\w+)",
        request.headers["authorization"],
    )
    day, region, service, signed, claimed = found.groups()
    headers = "".join(f"{name}:{request.headers[name]}\n" for name in signed.split(";"))
    query = "&".join(sorted(request.query.split("&"))) if request.query else ""
    path = quote(request.path, safe="/~")
    digest = hashlib.sha256(request.body).hexdigest()
    canonical = f"{request.method}\n{path}\n{query}\n{headers}\n{signed}\n{digest}"
    scope = f"{day}/{region}/{service}/aws4_request"
    stamp = request.headers["x-amz-date"]
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = keyed(keyed(keyed(keyed(f"AWS4{secret}".encode(), day), region), service), "aws4_request")
    expected = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}".encode(), "sha256")
    return (region, service, set(signed.split(";"))), claimed, expected.hex()


@pytest.mark.parametrize(
    ("kind", "service", "header"),
    [
        ("mlflow-tracking-server/team", "sagemaker-mlflow", "x-mlflow-sm-tracking-server-arn"),
        ("mlflow-app/app-12", "sagemaker", "x-sm-mlflow-app-arn"),
    ],
)
@pytest.mark.journal({"run": [*EVERYTHING]})
def test_requests_to_managed_mlflow_are_signed(server, journal, monkeypatch, kind, service, header):
    """Each request carries the server's ARN, signed with its body; the server checks it."""
    from journaltrack.remotes.mlflow.signature import signer

    for name, value in (("ACCESS_KEY_ID", "AKID"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    arn = f"arn:aws:sagemaker:eu-west-1:123456789012:{kind}"
    seen = []

    def allow(request):
        scope, claimed, expected = signature_of(request, "secret")
        seen.append((*scope, request.headers[header]))
        return claimed == expected

    server.allow = allow
    add_artifact(journal, b"the model")
    gate = Gate(Deadline())
    at = server_of(arn, signer=signer(None, gate), endpoint=server.uri)
    with connected(server, gate, at=at) as remote:
        report = Reconciler(journal, remote, deadline=gate).run()
    assert (report.halted, report.pending) == (None, 0)
    assert {each[:2] for each in seen} == {("eu-west-1", service)}
    assert {each[3] for each in seen} == {arn}
    assert all({header, "host", "x-amz-content-sha256", "x-amz-date"} <= each[2] for each in seen)
    assert {method for method, _ in server.asked} == {"GET", "POST", "PUT"}


def dataset_input(key="source", text="s", **tag):
    """The label of a dataset input, of which one text is another."""
    dataset = {"name": "n", "digest": "d", "source_type": "local", "source": "s", key: text}
    tags = [{"key": "k", "value": "v", **tag}]
    return vocabulary.label("#dataset/d/n", json.dumps({"dataset": dataset, "tags": tags}))


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (dataset_input(), None),
        (dataset_input("digest", "d" * 36), None),
        (dataset_input("digest", "d" * 37), "the dataset's digest has 37 characters"),
        (dataset_input("name", "n" * 501), "the dataset's name has 501 characters"),
        (dataset_input("source", "\ud800"), "the dataset's source contains a character"),
        (dataset_input(value="v" * 501), "the dataset's tag's value has 501 characters"),
    ],
)
def test_a_dataset_that_mlflow_refuses_is_never_sent(label, problem):
    """Its lengths are those of MLflow's own check (``validation.py``)."""
    entry = vocabulary.Entry(1, 1, 1, 1, "run", *label[:7], 1, b"")
    told = names.refuses(entry)
    assert told is None if problem is None else told.startswith(problem)


@pytest.mark.journal({"run": [CREATION]})
def test_a_content_is_stored_under_each_of_its_names(server, journal):
    """MLflow's code reads by path. A name that comes later is stored, a known one is not again."""
    add_artifact(journal, b"the model")
    add_more(journal, "copy/of/it")
    report = delivered(server, journal)
    assert report.pending == 0
    names = {"model", "copy/of/it"}
    assert {path.partition("/artifacts/")[2] for path in server.files} == names
    add_more(journal, "later")
    add_more(journal, "model")
    before = len(server.asked)
    assert delivered(server, journal).pending == 0
    assert {path.partition("/artifacts/")[2] for path in server.files} == names | {"later"}
    assert set(server.files.values()) == {b"the model"}
    sent = [path for method, path in server.asked[before:] if method == "PUT"]
    assert [path.rpartition("/")[2] for path in sent] == ["later"]


@pytest.mark.journal({"run": [CREATION]})
def test_a_file_that_is_a_folder_too_is_stored_beside_it(server, journal):
    """A tracker takes both, and no disk can hold both; what is there stays where it is."""
    add_artifact(journal, b"the model")
    add_more(journal, "q")
    add_more(journal, "r/f.txt")
    assert delivered(server, journal).pending == 0
    add_more(journal, "q/f.txt")
    add_more(journal, "r")
    for _ in range(2):
        assert delivered(server, journal).pending == 0
    held = {path.partition("/artifacts/")[2] for path in server.files}
    digest = hashlib.sha256(b"the model").hexdigest()[:12]
    assert held == {"model", "q", "r/f.txt", "q.files/f.txt", f"r.{digest}"}


@pytest.mark.journal({"run": [CREATION]})
def test_what_replaces_has_the_name_and_the_last_content(server, journal):
    """Whether both are sent in one pass or not; a check finds the last one, and misses none."""
    add_artifact(journal, b"first")
    add_artifact(journal, b"second")
    for content in (b"third", b"second"):
        add_more(journal, "table", content, replaces=True)
    report = delivered(server, journal)
    assert (report.pending, report.quarantined) == (0, 0)
    held = {path.partition("/artifacts/")[2]: content for path, content in server.files.items()}
    assert held["table"] == b"second"
    # Others are never overwritten.
    assert sorted(held.values()) == [b"first", b"second", b"second"]
    add_more(journal, "table", b"first", replaces=True)
    assert delivered(server, journal).pending == 0
    held = {path.partition("/artifacts/")[2]: content for path, content in server.files.items()}
    assert (held["table"], len(held)) == (b"first", 3)


@pytest.mark.journal({"run": [CREATION]})
def test_no_name_is_decoded_or_refused_by_the_server(server, journal):
    """It decodes paths twice and more often: one file would take another one's place."""
    wanted = {"a b": b"1", "a%20b": b"2", "a%2520b": b"3", "x#y": b"4", "100%": b"5"}
    for content in wanted.values():
        add_artifact(journal, content)
    for name, content in wanted.items():
        add_more(journal, name, content)
    report = delivered(server, journal)
    assert (report.pending, report.quarantined) == (0, 0), report
    held = {path.partition("/artifacts/")[2]: content for path, content in server.files.items()}
    spelled = {"a%20b": "a_x25_20b", "a%2520b": "a_x25_2520b", "x#y": "x_x23_y"}
    assert held.items() >= {spelled.get(name, name): text for name, text in wanted.items()}.items()
    with connected(server) as remote:
        uris = journal.database.read("SELECT uri FROM location")
        assert all(remote.find_object(uri, read=True).sha256 for (uri,) in uris)


def add_more(journal, name, content=b"the model", **options):
    """Record a content of ``add_artifact`` under another name."""
    sha256 = hashlib.sha256(content).hexdigest()
    blob = vocabulary.BlobRef(sha256, "the-bucket", "the-prefix")
    upload = vocabulary.upload(name, blob, len(content), None, name, **options)
    reference = vocabulary.artifact("output", name, blob, None)
    journal.append(journal.component("run"), [upload, reference])
