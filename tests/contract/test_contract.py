"""What every remote does, whatever is behind it."""

from __future__ import annotations

import threading

import pytest

from journaltrack import limits
from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal.fold import Artifact, Status
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from tests.contract.conftest import Subject

AT_NS = 1_700_000_000_123_456_000


def made(subject: Subject, name: str) -> str:
    subject.remote.create(ComponentSpec(name, "owner-1"))
    return name


def test_a_missing_component_is_none(subject: Subject, name: str):
    """Describing what does not exist is an answer, not an error."""
    assert subject.remote.describe(name) is None


def test_create_then_describe_tells_whose_it_is(subject: Subject, name: str):
    """The owner and the display name of a create come back from describe, with an ARN and a
    request id.
    """
    answer = subject.remote.create(ComponentSpec(name, "owner-1", "My-run", (("team", "vision"),)))
    found = subject.remote.describe(name)
    assert found is not None
    assert (found.name, found.owner, found.display_name) == (name, "owner-1", "My-run")
    assert answer.arn == found.arn
    assert bool(answer.request_id) is subject.request_ids
    assert not subject.request_ids or found.request_id != answer.request_id


def test_a_taken_name_is_refused(subject: Subject, name: str):
    """A second create of a name, in whatever case, is refused and changes nothing."""
    made(subject, name)
    # moto replaces the component: only describing first protects it
    if not subject.refuses_taken_names:
        assert subject.remote.create(ComponentSpec(name, "owner-2")).arn
        return
    with pytest.raises(AlreadyExistsError) as caught:
        subject.remote.create(ComponentSpec(name.upper(), "owner-2"))
    assert bool(caught.value.request_id) is subject.request_ids
    found = subject.remote.describe(name)
    assert found is not None
    assert found.owner == "owner-1"


def test_a_name_that_aws_can_not_take_is_permanent(subject: Subject):
    """A bad name is the entry's own fault."""
    if not subject.validates:
        assert subject.remote.create(ComponentSpec("no_underscores", "o")).arn
        return
    with pytest.raises(RemoteError) as caught:
        subject.remote.create(ComponentSpec("no_underscores", "o"))
    assert caught.value.kind is ErrorKind.PERMANENT


def test_update_merges_per_key(subject: Subject, name: str):
    """Keys that an update names are replaced, the others stay, also where the service itself
    replaces whole maps.
    """
    made(subject, name)
    subject.remote.update(
        name,
        Fields(
            parameters={"lr": 0.1, "optimizer": "adam"},
            input_artifacts={"data": Artifact("s3://b/data", "text/csv")},
            output_artifacts={"model": Artifact("s3://b/model")},
            status=Status("InProgress", None, AT_NS),
        ),
    )
    answer = subject.remote.update(
        name,
        Fields(
            parameters={"lr": 0.2, "epochs": 3.0},
            input_artifacts={"more": Artifact("s3://b/more")},
            status=Status("Completed", "ok"),
        ),
    )
    found = subject.remote.describe(name)
    assert found is not None
    held = subject.remote.can.held
    assert found.parameters == {"lr": held(0.2), "optimizer": "adam", "epochs": held(3.0)}
    assert found.input_artifacts == {
        "data": Artifact("s3://b/data", "text/csv"),
        "more": Artifact("s3://b/more"),
    }
    assert found.output_artifacts == {"model": Artifact("s3://b/model")}
    assert found.status is not None
    assert (found.status.primary, found.status.message) == ("Completed", "ok")
    assert bool(answer.request_id) is subject.request_ids


def test_the_same_update_twice_is_as_once(subject: Subject, name: str):
    """An update can be sent again."""
    made(subject, name)
    fields = Fields(parameters={"a": 1.0, "b": "two"})
    subject.remote.update(name, fields)
    subject.remote.update(name, fields)
    found = subject.remote.describe(name)
    assert found is not None
    assert found.parameters == {"a": subject.remote.can.held(1.0), "b": "two"}


def test_status_times_come_back(subject: Subject, name: str):
    """Start and end keep their milliseconds."""
    made(subject, name)
    subject.remote.update(
        name, Fields(status=Status("Completed", None, AT_NS, AT_NS + 5_250_000_000))
    )
    found = subject.remote.describe(name)
    assert found is not None
    assert found.status is not None
    assert found.status.start_ns is not None
    assert found.status.end_ns is not None
    assert abs(found.status.start_ns - AT_NS) < 1_000_000
    assert abs(found.status.end_ns - AT_NS - 5_250_000_000) < 1_000_000


@pytest.mark.parametrize(
    "fields",
    [
        Fields(parameters={f"p{i}": float(i) for i in range(limits.PARAMETERS_MAX + 1)}),
        Fields(parameters={"p": "x" * (limits.PARAMETER_STRING_CHARS_MAX + 1)}),
        Fields(parameters={"k" * (limits.PARAMETER_KEY_CHARS_MAX + 1): 1.0}),
        Fields(output_artifacts={"a": Artifact("s3://b/k", "application/vnd.ms-excel")}),
        Fields(
            output_artifacts={
                f"a{i}": Artifact("s3://b/k") for i in range(limits.ARTIFACTS_MAX + 1)
            }
        ),
    ],
    ids=["parameters", "long-value", "long-key", "media-type", "artifacts"],
)
def test_an_update_beyond_a_limit_is_permanent_and_changes_nothing(
    subject: Subject, name: str, fields: Fields
):
    """What AWS can never take is refused as a whole, and as the entry's own fault."""
    made(subject, name)
    if not subject.aws_limits:
        assert subject.remote.update(name, fields).arn
        return
    with pytest.raises(RemoteError) as caught:
        subject.remote.update(name, fields)
    assert caught.value.kind is ErrorKind.PERMANENT
    found = subject.remote.describe(name)
    assert found is not None
    assert not found.parameters
    assert not found.output_artifacts


def test_updating_a_missing_component_is_held(subject: Subject, name: str):
    """That a component is gone holds it, and nothing is quarantined."""
    with pytest.raises(ComponentMissingError) as caught:
        subject.remote.update(name, Fields(parameters={"a": 1.0}))
    assert caught.value.kind is ErrorKind.HOLD


def test_metrics_of_a_missing_component(subject: Subject, name: str):
    """Metrics of a component that is not there are refused as such."""
    points = [MetricPoint("loss", 0.5, 1, AT_NS)]
    if not subject.tells_missing:  # moto: HTTP 200 and VALIDATION_ERROR, for the first point alone
        refused = subject.remote.put_metrics(name, points).refused
        assert {i: (r.code, r.permanent) for i, r in refused.items()} == {
            0: ("VALIDATION_ERROR", True)
        }
        return
    with pytest.raises(ComponentMissingError) as caught:
        subject.remote.put_metrics(name, points)
    assert caught.value.kind is ErrorKind.HOLD


def test_ten_points_arrive(subject: Subject, name: str):
    """A full request is taken whole, for a name in whatever case."""
    made(subject, name)
    answer = subject.remote.put_metrics(
        name, [MetricPoint(f"m{i}", i / 10, i, AT_NS) for i in range(10)]
    )
    assert not answer.refused
    assert bool(answer.request_id) is subject.request_ids
    assert subject.points is not None
    assert subject.points(name) == 10


def test_points_need_no_step(subject: Subject, name: str):
    """A point without an iteration number is sent without one."""
    made(subject, name)
    points = [MetricPoint("loss", 0.5, None, AT_NS)]
    if not subject.takes_metrics_without_step:
        with pytest.raises(RemoteError) as caught:
            subject.remote.put_metrics(name, points)
        assert caught.value.kind is ErrorKind.TRANSIENT
        return
    assert not subject.remote.put_metrics(name, points).refused


def test_metrics_sent_twice_are_there_twice(subject: Subject, name: str):
    """AWS de-duplicates no points: that is why a lost answer is in doubt."""
    made(subject, name)
    points = [MetricPoint("loss", 0.5, 1, AT_NS)]
    subject.remote.put_metrics(name, points)
    subject.remote.put_metrics(name, points)
    assert subject.points is not None
    assert subject.points(name) == (2 if subject.appends else 1)
    assert not (subject.appends and subject.remote.can.repeatable)


@pytest.mark.parametrize("trial", [None, "a-trial"])
def test_associate_makes_what_is_missing_and_can_be_repeated(
    subject: Subject, name: str, trial: str | None
):
    """Experiment and trial are made when missing; that they exist is as good."""
    made(subject, name)
    trial = trial and f"{trial}-{name}"
    first = subject.remote.associate(name, f"exp-{name}", trial)
    again = subject.remote.associate(
        name, f"exp-{name}".upper() if subject.validates else f"exp-{name}", trial
    )
    assert bool(first.request_id) is bool(again.request_id) is subject.request_ids


def test_associate_with_a_missing_trial_alone_is_permanent(subject: Subject, name: str):
    """A trial can't be made without its experiment's name."""
    made(subject, name)
    if not subject.trials:
        subject.remote.associate(name, None, "nowhere")
        assert "nowhere" in (subject.remote.trials(name) or ())
        return
    with pytest.raises(RemoteError) as caught:
        subject.remote.associate(name, None, f"nowhere-{name}")
    assert caught.value.kind is ErrorKind.PERMANENT
    assert "experiment" in caught.value.hint


def test_threads_share_a_remote(subject: Subject, name: str):
    """Eight threads that start at once lose nothing."""
    made(subject, name)
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def work(n: int) -> None:
        barrier.wait()
        try:
            subject.remote.put_metrics(name, [MetricPoint(f"m{n}", 1.0, 1, AT_NS)])
        except RemoteError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert subject.points is not None
    assert subject.points(name) == 8


def test_describe_sums_metrics_up(subject: Subject, name: str):
    """Count, extremes and the last value of each metric come with the component; a metric
    without points is not there. Or every point can be read.
    """
    made(subject, name)
    subject.remote.put_metrics(
        name,
        [
            MetricPoint("loss", value, step, AT_NS + step)
            for step, value in enumerate((0.5, -2.0, 4.0, 0.25))
        ],
    )
    subject.remote.put_metrics(name, [MetricPoint("other", 7.0, 1, AT_NS)])
    found = subject.remote.describe(name)
    assert found is not None
    if subject.remote.can.reads_points:
        points = subject.remote.points(name, "loss")
        assert sorted((each.step, each.value) for each in points) == [
            (0, 0.5),
            (1, -2.0),
            (2, 4.0),
            (3, 0.25),
        ]
        assert [*subject.remote.points(name, "none")] == []
        return
    assert set(found.metrics) == {"loss", "other"}
    loss = found.metrics["loss"]
    assert (loss.points, loss.minimum, loss.maximum, loss.last) == (4, -2.0, 4.0, 0.25)
    assert loss.mean == pytest.approx(0.6875)
