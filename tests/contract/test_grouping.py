"""Experiments and trials at every remote: declared, changed, joined and left, again and again."""

from __future__ import annotations

import pytest

from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal.groups import Declaration, Declared, Group, declared
from journaltrack.replay.plan.actions import ComponentSpec
from tests.contract.conftest import Subject, aws
from tests.simulator import HttpError, simulator

WHOLE = pytest.mark.parametrize(
    "subject",
    ["memory", "retrying-memory", "aws-simulator", "retrying-aws-simulator"],
    indirect=True,
)
"""Where experiments and trials can be changed, and names are unique. At moto neither is so."""
WHOLE_AND_MLFLOW = pytest.mark.parametrize("subject", [*WHOLE.args[1], "mlflow"], indirect=True)
"""The same, where names, limits and belonging need not be AWS's."""


def told(group: Group, *, if_new: bool = False) -> Declared:
    """Return one declaration as a remote takes it."""
    return declared([Declaration(1, group, if_new)])


@WHOLE_AND_MLFLOW
def test_an_experiment_is_made_with_everything_and_declared_again(subject: Subject, name: str):
    """Before, nothing is there; after one or many declarations it is as declared."""
    wanted = Group("experiment", name, None, "Shown", "About it.", (("team", "v"),))
    assert subject.remote.group("experiment", name) is None
    for _ in range(3):
        answer = subject.remote.declare(told(wanted))
        assert bool(answer.request_id) is subject.request_ids
        assert answer.arn
        assert subject.remote.group("experiment", name) == wanted


def test_a_declaration_makes_what_is_missing_at_every_remote(subject: Subject, name: str):
    """An experiment first, or its trial first: both are there afterwards."""
    subject.remote.create(ComponentSpec(name, "owner-1"))
    assert subject.remote.declare(told(Group("trial", f"t-{name}", f"e-{name}"))).arn
    assert subject.remote.declare(told(Group("experiment", f"f-{name}"))).arn
    answer = subject.remote.associate(name, None, f"t-{name}")
    assert bool(answer.request_id) is subject.request_ids


@WHOLE_AND_MLFLOW
def test_a_trial_is_made_with_its_experiment(subject: Subject, name: str):
    """The experiment need not be there, and one that is there stays as it is."""
    trial = Group("trial", f"t-{name}", name, "Trial", None, (("a", "1"),))
    subject.remote.declare(told(trial))
    assert subject.remote.group("trial", f"t-{name}") == trial
    subject.remote.declare(told(Group("experiment", name, description="Later.")))
    subject.remote.declare(told(Group("trial", f"u-{name}", name)))
    found = subject.remote.group("experiment", name)
    assert found is not None
    assert found.description == "Later."


@WHOLE_AND_MLFLOW
def test_a_declaration_changes_what_it_gives_and_nothing_else(subject: Subject, name: str):
    """Tags are added; what is not given stays."""
    subject.remote.declare(told(Group("experiment", name, None, "Shown", "About.", (("a", "1"),))))
    subject.remote.declare(told(Group("experiment", name, description="", tags=(("b", "2"),))))
    found = subject.remote.group("experiment", name)
    assert found is not None
    assert (found.display_name, found.description or "") == ("Shown", "")
    assert set(found.tags) == {("a", "1"), ("b", "2")}


@WHOLE_AND_MLFLOW
def test_what_is_for_a_new_one_alone_changes_nothing_that_is_there(subject: Subject, name: str):
    """It makes what is missing, and leaves the rest."""
    for display_name in ("First", "Second"):
        given = Group("experiment", name, display_name=display_name, tags=((display_name, "1"),))
        subject.remote.declare(told(given, if_new=True))
    found = subject.remote.group("experiment", name)
    assert found is not None
    assert (found.display_name, found.tags) == ("First", (("First", "1"),))


@WHOLE
def test_a_trial_stays_in_its_experiment(subject: Subject, name: str):
    """Another experiment's trial of that name is refused for good."""
    subject.remote.declare(told(Group("trial", f"t-{name}", name)))
    with pytest.raises(RemoteError) as caught:
        subject.remote.declare(told(Group("trial", f"t-{name}", f"other-{name}")))
    assert caught.value.kind is ErrorKind.PERMANENT
    assert name in caught.value.message


@WHOLE
@pytest.mark.parametrize(
    "wrong",
    [
        {"display_name": "with space"},
        {"description": "x" * 3073},
        {"tags": tuple((f"k{number}", "v") for number in range(51))},
        {"tags": (("k" * 129, "v"),)},
    ],
    ids=["display name", "description", "tags", "key"],
)
def test_what_aws_never_takes_is_permanent(subject: Subject, name: str, wrong: dict[str, object]):
    """The limits of the names, the description and the tags are AWS's, new or not."""
    group = Group("experiment", name, **wrong)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(RemoteError) as caught:
            subject.remote.declare(told(group))
        assert caught.value.kind is ErrorKind.PERMANENT
        subject.remote.declare(told(Group("experiment", name)))


@WHOLE_AND_MLFLOW
def test_a_component_joins_and_leaves_trials(subject: Subject, name: str):
    """Leaving can be repeated, and so can leaving what was never there."""
    remote = subject.remote
    assert remote.trials(name) is None
    remote.create(ComponentSpec(name, "owner-1"))
    for trial in ("a", "b"):
        remote.associate(name, f"e-{name}", f"{trial}-{name}")
    assert remote.trials(name) == {f"a-{name}", f"b-{name}"}
    for trial in ("a", "a", "never"):
        answer = remote.disassociate(name, f"{trial}-{name}")
        assert bool(answer.request_id) is subject.request_ids
    assert remote.trials(name) == {f"b-{name}"}


@pytest.mark.parametrize(
    ("denied", "left"), [("UpdateExperiment", "tags"), ("AddTags", "description")]
)
def test_a_refused_change_keeps_no_other_change_from_arriving(denied: str, left: str):
    """Tags arrive though the description may not be changed, and the other way round."""
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        remote.declare(told(Group("experiment", "e")))
        sim.fail(denied, HttpError(400, "AccessDeniedException", "not authorized"), times=9)
        with pytest.raises(RemoteError) as caught:
            remote.declare(told(Group("experiment", "e", description="D", tags=(("k", "v"),))))
        assert caught.value.kind is ErrorKind.HALT
        found = sim.experiments["e"]
        assert (found.tags == {"k": "v"}, found.description == "D") == (
            left == "tags",
            left == "description",
        )


def test_what_is_deleted_meanwhile_is_made_again(tmp_path):
    """A trial whose experiment vanished after it was made here is worth another attempt."""
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        remote.declare(told(Group("experiment", "e")))
        del sim.experiments["e"]
        with pytest.raises(RemoteError) as caught:
            remote.declare(told(Group("trial", "t", "e")))
        assert caught.value.kind is ErrorKind.TRANSIENT
        remote.declare(told(Group("trial", "t", "e")))
        assert sim.trials["t"].experiment == "e"


@WHOLE_AND_MLFLOW
def test_tags_are_added_to_those_that_are_there(subject: Subject, name: str):
    """Again and again, with the last value; of a component that is missing there are none."""
    assert subject.remote.tags(name) is None
    with pytest.raises(ComponentMissingError):
        subject.remote.add_tags(name, {"a": "1"})
    subject.remote.create(ComponentSpec(name, "owner-1", tags=(("team", "v"),)))
    for value in ("1", "2", "2"):
        answer = subject.remote.add_tags(name, {"a": value})
        assert bool(answer.request_id) is subject.request_ids
    assert subject.remote.tags(name) == {"team": "v", "a": "2"}


@WHOLE
def test_too_many_tags_are_refused_for_good(subject: Subject, name: str):
    """What is there stays as it is."""
    subject.remote.create(ComponentSpec(name, "owner-1"))
    subject.remote.add_tags(name, {f"k{n}": "" for n in range(50)})
    with pytest.raises(RemoteError) as refused:
        subject.remote.add_tags(name, {"one": "more"})
    assert refused.value.kind is ErrorKind.PERMANENT
    assert len(subject.remote.tags(name) or ()) == 50
