"""Experiments and trials of a journal: declared, delivered, in nobody's way, and no runs."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import closing
from datetime import timedelta

import pytest
from click.testing import CliRunner

from journaltrack import bundle, export, limits, prune, sync
from journaltrack.app.api import verify
from journaltrack.cli import main
from journaltrack.errors import ErrorKind, NothingMatchesError, RemoteError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.groups import Declaration, Group, declared, group_of, row_of
from journaltrack.journal.journal import Journal
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.component import show
from journaltrack.reports.report import audit
from journaltrack.reports.status import status
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.transfer.merge import merge
from tests import independent_verifier
from tests.builders import CREATION
from tests.copies import verify_chains
from tests.failing_remote import FailingRemote, passing
from tests.simulator import HttpError, simulator
from tests.simulator.clients import client

EXPERIMENT, TRIAL = row_of("experiment", "e"), row_of("trial", "t")


@pytest.fixture
def folder(tmp_path):
    """The folder of a journal."""
    return tmp_path / "journal"


def record(folder, row, *drafts):
    """Record entries of a row, each in a transaction of its own."""
    with closing(Journal.open(folder)) as journal:
        for draft in drafts:
            journal.append(journal.component(row), [draft])


def replayed(folder, remote):
    """The report of one pass."""
    with closing(Journal.open(folder)) as journal:
        return Reconciler(journal, remote).run()


def made_before(sim):
    """Make the experiment and the trial by somebody else's hand."""
    with closing(AwsRemote(endpoint_url=sim.endpoint_url)) as remote:
        remote.declare(declared([Declaration(1, Group("trial", "t", "e"))]))


def states(folder):
    """The entries by kind and state."""
    with view.opened(folder) as journal:
        rows = journal.database.read(
            "SELECT e.kind, coalesce(d.outcome, 'pending') FROM entry e "
            "LEFT JOIN delivery d ON d.seq = e.seq"
        )
    return Counter(rows)


def denied(operation):
    """A missing permission."""
    return RemoteError(
        f"not authorized to perform: sagemaker:{operation}",
        kind=ErrorKind.HALT,
        code="AccessDeniedException",
        request_id="r-1",
    )


# -- what declarations add up to -----------------------------------------------------------


def test_rows_have_names_that_no_component_has():
    """A row's name tells what it stands for, in any case, and is no name of SageMaker's."""
    for kind, name in (("experiment", "e"), ("trial", "experiment-trial-1")):
        row = row_of(kind, name)
        assert group_of(row) == group_of(row.upper()[: -len(name)] + name) == (kind, name)
        assert limits.name_problem(row, "name")
    for name in ("experiment", "experiment-trial", "experiments/x", "run"):
        assert group_of(name) is None


def of(seq, *, if_new=False, **members):
    """One declaration of an experiment."""
    tags = tuple(members.pop("tags", {}).items())
    return Declaration(seq, Group("experiment", "e", tags=tags, **members), if_new)


def test_the_last_to_give_a_member_wins():
    """What is not given stays; a description may be emptied; tags add up."""
    found = declared(
        [
            of(1, display_name="a", description="x", tags={"k": "1", "l": "1"}),
            of(2, description="", tags={"k": "2"}),
        ]
    )
    assert found.make == found.change
    assert found.make == Group("experiment", "e", None, "a", "", (("k", "2"), ("l", "1")))


def test_what_is_for_a_new_one_gives_way_to_all_else():
    """In any order: the first of them makes it, and changes nothing of what is there."""
    new, newer, set_ = (
        of(1, if_new=True, display_name="new", tags={"k": "new"}),
        of(2, if_new=True, display_name="newer", description="newer"),
        of(3, display_name="set"),
    )
    for order in itertools.permutations((new, set_)):
        found = declared(list(order))
        assert (found.make.display_name, found.make.tags) == ("set", (("k", "new"),))
        assert found.change == Group("experiment", "e", display_name="set")
    found = declared([new, newer])
    assert (found.make.display_name, found.change) == ("new", None)


# -- delivery --------------------------------------------------------------------------------


def test_experiments_and_trials_are_delivered_in_one_request_each(folder):
    """Several declarations of one row fold; order of rows does not matter."""
    record(folder, TRIAL, vocabulary.trial("e", display_name="T", tags={"a": "1"}))
    record(
        folder,
        EXPERIMENT,
        vocabulary.experiment(display_name="first", description="D"),
        vocabulary.experiment(display_name="E", tags={"b": "2"}),
    )
    remote = FailingRemote()
    report = replayed(folder, remote)
    assert (report.delivered, report.pending, report.held) == (3, 0, {})
    assert states(folder)["experiment", "delivered"] == 2
    assert sorted(remote.asked) == [("declare", "e"), ("declare", "t")]
    assert remote.group("experiment", "e") == Group(
        "experiment", "e", None, "E", "D", (("b", "2"),)
    )
    assert remote.group("trial", "t") == Group("trial", "t", "e", "T", None, (("a", "1"),))
    replayed(folder, remote)
    assert len(remote.asked) == 2


def test_an_earlier_declaration_that_arrives_late_overrides_nothing(folder):
    """One that was refused and released, when a later one has arrived, gives only what that one
    did not give.
    """
    remote = FailingRemote()
    record(folder, EXPERIMENT, vocabulary.experiment(display_name="old", description="old"))
    remote.failures["declare"].append(
        RemoteError("a pattern", kind=ErrorKind.PERMANENT, code="ValidationException")
    )
    assert replayed(folder, remote).quarantined == 1
    record(folder, EXPERIMENT, vocabulary.experiment(display_name="new", tags={"k": "new"}))
    replayed(folder, remote)
    CliRunner().invoke(main, ["retry", str(folder)])
    assert replayed(folder, remote).pending == 0
    found = remote.group("experiment", "e")
    assert (found.display_name, found.description) == ("new", "old")


@pytest.mark.slow
def test_a_refused_declaration_stands_alone(folder, credentials):
    """What AWS refuses for good is quarantined with its reason; the others of the row arrive."""
    record(
        folder,
        EXPERIMENT,
        vocabulary.experiment(description="kept"),
        vocabulary.experiment(display_name="not a name"),
        vocabulary.experiment(tags={f"k{number}": "v" for number in range(51)}),
        vocabulary.experiment(tags={"k": "v"}),
    )
    record(folder, TRIAL, vocabulary.trial("other"), vocabulary.trial("e"))
    record(folder, row_of("experiment", "no name"), vocabulary.experiment())
    with simulator() as sim:
        made_before(sim)
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert (report.quarantined, report.pending, report.held) == (4, 0, {})
        assert (sim.experiments["e"].description, sim.experiments["e"].tags) == (
            "kept",
            {"k": "v"},
        )


@pytest.mark.parametrize("kind", ["halt", "hold", "passing"])
def test_nothing_waits_for_experiments_that_are_refused(folder, kind):
    """However many may not be declared, for whatever reason, runs are delivered, and the next
    sync tries again.
    """
    failures = {
        "halt": lambda: denied("AddTags"),
        "hold": lambda: RemoteError(
            "quota", kind=ErrorKind.HOLD, code="ResourceLimitExceeded", request_id="r"
        ),
        "passing": passing,
    }
    for number in range(12):
        record(folder, row_of("experiment", f"e{number}"), vocabulary.experiment(tags={"k": "v"}))
    record(folder, "run", CREATION, vocabulary.parameter("lr", 0.1))
    record(folder, "run", vocabulary.metric("loss", 1.0, 1, 10**18))
    remote = FailingRemote()
    remote.failures["declare"].extend(failures[kind]() for _ in range(12))
    report = replayed(folder, remote)
    assert report.halted is None
    assert report.pending == 12
    assert "run" not in report.held
    assert len(report.held) == (0 if kind == "passing" else 12)
    assert remote.components["run"].parameters == {"lr": 0.1}
    assert len(remote.components["run"].points) == 1
    assert replayed(folder, remote).pending == 0


@pytest.mark.parametrize("fails", ["experiment", "trial"])
def test_nothing_makes_what_a_declaration_failed_to_make_for_now(folder, fails):
    """A trial's declaration and an association would make it bare, and what is for a new one
    alone would be lost. They wait for the next pass, in their order, and nothing else does.
    """
    tags = {"team": "vision"}
    rows = {
        EXPERIMENT: vocabulary.experiment(display_name="Shown", tags=tags, if_new=True),
        TRIAL: vocabulary.trial("E", display_name="Shown", tags=tags, if_new=True),
    }
    for row, draft in rows.items():
        record(folder, row, draft)
    joins = [vocabulary.associate(experiment="E", trial=each) for each in ("T", "u")]
    record(folder, "run", CREATION, *joins, vocabulary.parameter("lr", 0.1))
    record(folder, "run", vocabulary.associate(experiment="other", trial="v"))
    record(folder, "gone", CREATION, joins[0], vocabulary.disassociate("t"))
    record(folder, "by-trial", CREATION, vocabulary.associate(experiment=None, trial="t"))
    remote = FailingRemote()
    remote.failures["declare"].extend([None] * (fails == "trial") + [passing()])
    report = replayed(folder, remote)
    assert (report.halted, report.held) == (None, {})
    assert remote.trials("run") == ({"v"} if fails == "experiment" else {"u", "v"})
    assert remote.components["run"].parameters == {"lr": 0.1}
    assert replayed(folder, remote).pending == 0
    for kind, name in (("experiment", "e"), ("trial", "t")):
        found = remote.group(kind, name)
        assert (found.display_name, dict(found.tags)) == ("Shown", tags)
    assert remote.trials("run") == {"t", "u", "v"}
    assert (remote.trials("gone"), remote.trials("by-trial")) == (frozenset(), {"t"})


@pytest.mark.parametrize("operation", ["AddTags", "UpdateExperiment", "UpdateTrial"])
def test_a_missing_permission_holds_the_declaration_alone(folder, credentials, operation):
    """The sync names the experiment or trial; association and run are there."""
    record(folder, EXPERIMENT, vocabulary.experiment(description="D", tags={"k": "v"}))
    record(folder, TRIAL, vocabulary.trial("e", display_name="T", tags={"k": "v"}))
    record(folder, "run", CREATION, vocabulary.associate(experiment="e", trial="t"))
    with simulator() as sim:
        made_before(sim)
        sim.fail(operation, HttpError(400, "AccessDeniedException", "not authorized"), times=99)
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert report.halted is None
        assert set(report.held) <= {EXPERIMENT, TRIAL}
        assert report.held
        assert report.pending == len(report.held)
        assert sim.trials["t"].components == ["run"]
        sim.clear_faults()
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        assert sim.experiments["e"].tags == sim.trials["t"].tags == {"k": "v"}
        assert (sim.experiments["e"].description, sim.trials["t"].display_name) == ("D", "T")


def test_a_quota_of_experiments_holds_back_no_metrics(folder, credentials):
    """The association waits; the rest of the component is delivered."""
    record(folder, "run", CREATION, vocabulary.associate(experiment="e", trial="t"))
    record(folder, "run", vocabulary.metric("loss", 1.0, 1, 1_764_000_000 * 10**9))
    with simulator() as sim:
        sim.fail("CreateExperiment", HttpError(400, "ResourceLimitExceeded", "limit"), times=99)
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert (set(report.held), report.pending) == ({"run"}, 1)
        assert len(sim.components["run"].metrics) == 1


# -- in and out of trials ---------------------------------------------------------------------


def test_the_last_word_decides_whether_a_component_is_in_a_trial(folder):
    """In one pass or in several, for each trial by itself, whatever failed in between."""
    said = [("a", True), ("b", True), ("a", False), ("b", False), ("b", True), ("c", False)]
    record(folder, "run", CREATION)
    remote = FailingRemote()
    remote.failures["disassociate"].append(passing())
    for number, (trial, joins) in enumerate(said):
        record(
            folder,
            "run",
            vocabulary.associate(experiment="e", trial=trial)
            if joins
            else vocabulary.disassociate(trial.upper()),
        )
        if number % 2:
            replayed(folder, remote)
    while replayed(folder, remote).pending:
        pass
    assert remote.trials("run") == {"b"}
    assert show(folder, "run").trials == (("e", "b"),)


def test_a_failed_departure_is_not_overtaken(folder):
    """What puts the component back waits in the same pass, so that the order holds."""
    record(
        folder,
        "run",
        CREATION,
        vocabulary.associate(experiment="e", trial="t"),
        vocabulary.disassociate("t"),
        vocabulary.associate(experiment="e", trial="t"),
        vocabulary.associate(experiment="e", trial="other"),
    )
    remote = FailingRemote()
    remote.failures["disassociate"].append(passing())
    assert replayed(folder, remote).pending == 2
    assert remote.trials("run") == {"t", "other"}
    assert replayed(folder, remote).pending == 0
    assert remote.trials("run") == {"t", "other"}


def test_an_association_that_arrives_late_does_not_undo_a_departure(folder):
    """Released by hand after the component left the trial, it needs no request."""
    record(folder, "run", CREATION, vocabulary.associate(experiment=None, trial="t"))
    remote = FailingRemote()
    remote.failures["associate"].append(
        RemoteError("no such trial", kind=ErrorKind.PERMANENT, code="ResourceNotFound")
    )
    replayed(folder, remote)
    record(folder, "run", vocabulary.disassociate("t"))
    replayed(folder, remote)
    CliRunner().invoke(main, ["retry", str(folder)])
    assert replayed(folder, remote).pending == 0
    assert remote.trials("run") == frozenset()
    assert states(folder)["associate", "superseded"] == 1


# -- no runs, but entries as all others --------------------------------------------------------


def test_rows_of_experiments_are_no_runs(folder):
    """They are in no list of runs and are not shown as one; their entries are counted."""
    record(folder, EXPERIMENT, vocabulary.experiment())
    record(folder, TRIAL, vocabulary.trial("e"))
    record(folder, "run", CREATION)
    found = status(folder)
    assert (found.components, found.pending) == (1, 3)
    with pytest.raises(NothingMatchesError):
        show(folder, EXPERIMENT)
    with view.opened(folder) as journal:
        assert [row.name for row in journal.runs()] == ["run"]
    report = audit(folder)
    assert report.totals.entries == 3
    assert {each.name for each in report.components} == {"run", EXPERIMENT, TRIAL}
    assert not report.inconsistencies
    assert [each.trial_component_name for each in TrialComponent.list(journal=folder)] == ["run"]


def test_an_anchor_is_set_on_no_experiment(folder):
    """Anchors that are parameters go to components alone."""
    record(folder, EXPERIMENT, vocabulary.experiment())
    record(folder, "run", CREATION)
    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        report = Reconciler(journal, remote, options=Options(anchor="parameter")).run()
    assert (report.pending, report.held) == (0, {})
    assert set(remote.components) == {"run"}


@pytest.mark.parametrize(
    ("row", "draft"),
    [
        (EXPERIMENT, vocabulary.metric("loss", 1.0, 1, 10**18)),
        (EXPERIMENT, vocabulary.parameter("lr", 1.0)),
        (EXPERIMENT, CREATION),
        (EXPERIMENT, vocabulary.trial("e")),
        (TRIAL, vocabulary.associate(experiment="e", trial="t")),
        (TRIAL, vocabulary.trial("e")._replace(payload="{}")),
        (EXPERIMENT, vocabulary.experiment(name="Other")),
        (TRIAL, vocabulary.trial("e", name="Other")),
        (TRIAL, vocabulary.trial("e")._replace(payload='{"experiment":"e","tags":{"a":1}}')),
        (TRIAL, vocabulary.trial("e")._replace(payload='{"experiment":"e","tags":"a"}')),
        ("run", vocabulary.experiment()),
        ("run", vocabulary.disassociate("t")._replace(payload="{}")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_entries_that_no_journaltrack_records_are_quarantined(folder, row, draft):
    """A crafted journal's entries of the wrong row, or of no meaning, are refused unsent."""
    record(folder, row, draft)
    remote = FailingRemote()
    assert replayed(folder, remote).quarantined == 1
    assert remote.asked == []


def test_a_dry_run_tells_what_would_be_declared(folder):
    """By row, with what a new one would get; nothing is sent."""
    record(folder, TRIAL, vocabulary.trial("e", tags={"k": "v"}))
    record(folder, "run", CREATION, vocabulary.disassociate("t"))
    done = CliRunner().invoke(main, ["sync", str(folder), "--dry-run", "--json"])
    assert done.exit_code == 0
    told = {
        each["component"]: each for each in json.loads(done.stdout)["journals"][0]["components"]
    }
    assert told[TRIAL]["declared"] == {"experiment": "e", "tags": {"k": "v"}}
    assert (told[TRIAL]["requests"], told["run"]["left_trials"]) == ({"declare": 1}, ["t"])
    text = CliRunner().invoke(main, ["sync", str(folder), "--dry-run"]).stdout
    assert TRIAL in text
    assert "out of t" in text


def test_merged_declarations_count_by_their_time(folder, tmp_path):
    """Of two journals, the value that was recorded last is the one that is sent, whatever the
    order of the merge.
    """
    record(tmp_path / "early", EXPERIMENT, vocabulary.experiment(display_name="early"))
    record(folder, EXPERIMENT, vocabulary.experiment(display_name="late"))
    merge(tmp_path / "early", into=folder)
    remote = MemoryRemote()
    assert replayed(folder, remote).delivered == 2
    assert remote.group("experiment", "e").display_name == "late"


# -- checked against AWS -----------------------------------------------------------------------


@pytest.mark.parametrize("denied", ["CreateExperiment", "CreateTrial"])
def test_what_is_there_needs_no_permission_to_make_it(folder, credentials, denied):
    """A component gets into a trial that an administrator made, and the description is set. What
    is not there waits, with AWS's words about the permission.
    """
    record(folder, EXPERIMENT, vocabulary.experiment(description="D"))
    record(folder, TRIAL, vocabulary.trial("e", tags={"k": "v"}))
    record(folder, "run", CREATION, vocabulary.associate(experiment="e", trial="t"))
    record(folder, "other", CREATION, vocabulary.associate(experiment="f", trial="u"))
    with simulator() as sim:
        sagemaker = client(sim, "sagemaker")
        sagemaker.create_experiment(ExperimentName="e")
        sagemaker.create_trial(ExperimentName="e", TrialName="t")
        sim.fail(denied, HttpError(400, "AccessDeniedException", "no, you may not"), times=99)
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert sim.trials["t"].components == ["run"]
        assert (sim.experiments["e"].description, sim.trials["t"].tags) == ("D", {"k": "v"})
        assert list(report.held) == ["other"]
        assert "no, you may not" in report.held["other"].message
        assert report.pending == 1
        sim.clear_faults()
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0


@pytest.fixture
def delivered(folder, credentials):
    """A simulator with a delivered journal: an experiment, a trial, and a run in two trials."""
    record(folder, EXPERIMENT, vocabulary.experiment(display_name="E", tags={"k": "v"}))
    record(folder, TRIAL, vocabulary.trial("e", display_name="T"))
    record(
        folder,
        "run",
        CREATION,
        vocabulary.associate(experiment="e", trial="t"),
        vocabulary.associate(experiment="e", trial="u"),
        vocabulary.parameter("lr", 0.1),
    )
    with simulator() as sim:
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        yield sim


def checked(folder, sim, **options):
    """The report of a check of the remote."""
    return verify(folder, endpoint_url=sim.endpoint_url, **options)


def test_experiments_trials_and_places_in_them_are_compared(folder, delivered):
    """All is there after a sync, and is counted."""
    report = checked(folder, delivered)
    assert report.verified, report.differences
    assert (report.checked.groups, report.checked.trials, report.checked.components) == (2, 2, 1)


@pytest.mark.slow
def test_what_is_gone_of_an_experiment_is_named_and_made_again(folder, delivered):
    """A trial, a tag and a place in a trial that are gone are repaired; a changed name is not."""
    delivered.experiments["e"].tags.clear()
    delivered.experiments["e"].display_name = "theirs"
    delivered.trials["u"].components.clear()
    del delivered.trials["t"]
    report = checked(folder, delivered)
    assert {(each.kind, each.what, each.name) for each in report.differences} == {
        ("missing", "experiment", "tag k"),
        ("different", "experiment", "display name"),
        ("missing", "trial", "u"),
        ("missing", "trial", "t"),
    }
    delivered.experiments["e"].display_name = "E"
    report = checked(folder, delivered, repair=True)
    assert report.verified, report.differences
    assert delivered.trials["u"].components == delivered.trials["t"].components == ["run"]
    assert delivered.experiments["e"].tags == {"k": "v"}


def test_trials_that_may_not_be_listed_are_unknown(folder, delivered):
    """A missing permission says nothing about what is there."""
    delivered.fail("ListTrials", HttpError(400, "AccessDeniedException"), times=99)
    report = checked(folder, delivered)
    assert {(each.kind, each.what) for each in report.differences} == {("unknown", "trial")}


@pytest.mark.parametrize(
    ("denied", "untold"),
    [
        ("ListTags", {("experiment", "tags")}),
        ("DescribeExperiment", {("experiment", "e")}),
        ("DescribeTrial", {("trial", "t")}),
    ],
)
def test_what_may_not_be_read_of_an_experiment_ends_no_comparison(
    folder, delivered, denied, untold
):
    """It is unknown by its name. All else is compared: a parameter that is gone is found, and so is
    another display name.
    """
    delivered.components["run"].parameters.clear()
    delivered.experiments["e"].display_name = "theirs"
    delivered.fail(denied, HttpError(400, "AccessDeniedException"), times=99)
    report = checked(folder, delivered)
    found = {(each.kind, each.what, each.name) for each in report.differences}
    assert {(what, name) for kind, what, name in found if kind == "unknown"} == untold
    assert ("missing", "parameter", "lr") in found
    assert (("different", "experiment", "display name") in found) is (
        denied != "DescribeExperiment"
    )
    assert report.halted is None


def test_tags_are_asked_for_where_some_were_given(folder, delivered):
    """A trial without tags needs no permission to list them."""
    checked(folder, delivered)
    assert [each.params["ResourceArn"] for each in delivered.calls("ListTags")] == [
        delivered.experiments["e"].arn
    ]


def test_journals_with_experiments_are_proved_bundled_merged_pruned_and_exported(
    folder, delivered, tmp_path
):
    """As all journals are: every chain holds, also by the verifier that knows the format alone,
    and what carries or removes entries knows these.
    """
    record(folder, "run", vocabulary.disassociate("u"))
    record(folder, EXPERIMENT, vocabulary.experiment(display_name="later"))
    assert sync(folder, endpoint_url=delivered.endpoint_url).pending == 0
    assert delivered.trials["u"].components == []
    assert verify_chains(folder) == []
    assert independent_verifier.verify(folder) == []
    bundle(folder, to=tmp_path / "j.jtb")
    merge(folder, into=tmp_path / "merged")
    assert verify_chains(tmp_path / "merged") == []
    # What arrived by one journal's word arrived; the copy sends nothing.
    assert states(tmp_path / "merged") == states(folder)
    assert prune(folder, delivered_before=timedelta(0), unasked=True).entries == 0
    kinds = {"experiment": 2, "trial": 1, "associate": 2, "disassociate": 1}
    assert {kind: n for (kind, _), n in states(folder).items() if kind in kinds} == kinds
    export(folder, to=tmp_path / "entries.jsonl", table="entries")
    told = (tmp_path / "entries.jsonl").read_text(encoding="utf-8")
    assert json.loads(told.splitlines()[0])["component"] == EXPERIMENT
