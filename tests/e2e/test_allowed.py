"""An inbox is no deputy: what a dropped journal may have done with the operator's credentials,
and how the rest is refused.
"""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.journal import vocabulary
from journaltrack.journal.groups import row_of
from journaltrack.journal.journal import Journal
from tests.processes import arrived, states
from tests.simulator import HttpError, simulator

HELD, QUARANTINED, HALTED, REFUSED = 3, 4, 5, 8


@pytest.fixture
def sim(credentials, monkeypatch):
    """A strict AWS."""
    with simulator() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint_url)
        yield running


@pytest.fixture
def sync(tmp_path):
    """Syncs a journal under an allow-list, and expects an exit code; what it printed."""

    def run(folder, *lines, code=0, options=()):
        (tmp_path / "config.toml").write_text("\n".join(["[allow]", *lines]))
        result = CliRunner().invoke(
            main, ["sync", str(folder), "--config", str(tmp_path / "config.toml"), *options]
        )
        assert result.exit_code == code, result.output
        return result.output

    return run


def record(folder, component="run", artifact=None, **options):
    """A closed journal with two points, and perhaps an artifact of these bytes."""
    with Tracker.create(
        trial_component_name=component, journal=folder, sync="off", **options
    ) as tracker:
        for step in range(2):
            tracker.log_metric("loss", float(step), iteration_number=step)
        if artifact is not None:
            source = folder.parent / "artifact.bin"
            source.write_bytes(artifact)
            tracker.log_artifact(source)
    return folder


def written(sim):
    """What was asked for that changes something."""
    return {
        call.operation
        for call in sim.requests
        if not call.operation.startswith(("Describe", "List", "Get", "Head"))
    }


def test_without_a_list_everything_is_delivered(tmp_path, sim, sync):
    """By default nothing is refused: buckets and experiments are made as ever."""
    record(tmp_path / "j", artifact=b"x", artifact_bucket="team-bucket", experiment_name="Digits")
    sync(tmp_path / "j")
    assert states(tmp_path / "j")["pending"] == 0
    assert "team-bucket" in sim.buckets


def test_a_component_that_is_not_allowed_is_held_and_no_other(tmp_path, sim, sync):
    """Nothing is written to it, whether it is there or not; the other one of the journal is
    delivered, and all of it once it is allowed.
    """
    journal = record(tmp_path / "j", "digits-1")
    record(journal, "prod")
    with Tracker.load("prod-2", journal=journal, sync="off") as tracker:
        tracker.log_parameter("x", 1)
    sim.add_component("prod-2")
    output = sync(journal, 'components = ["DIGITS-*"]', code=HELD)
    assert "the trial component 'prod' is not allowed" in output
    assert "allow.components" in output
    assert set(sim.components) == {"digits-1", "prod-2"}
    assert not sim.components["prod-2"].parameters
    assert len(sim.components["digits-1"].metrics) == 2
    sync(journal, 'components = ["digits-*", "prod*"]')
    assert states(journal)["pending"] == 0


def test_of_a_bucket_that_is_replaced_the_new_one_has_to_be_allowed(tmp_path, sim, sync):
    """What the operator puts in its place is what is used, and looked at."""
    journal = record(tmp_path / "j", artifact=b"1", artifact_bucket="misspelt")
    output = sync(
        journal, 'buckets = ["team-*"]', code=HALTED, options=("--bucket", "misspelt=prod-data")
    )
    assert "the bucket 'prod-data' is not allowed" in output
    sync(journal, 'buckets = ["team-*"]', options=("--bucket", "misspelt=team-a"))
    assert {bucket for bucket, key in sim.objects if "artifact.bin" in key} == {"team-a"}


def test_a_dry_run_tells_what_is_not_allowed(tmp_path, sim, sync):
    """Each request that a sync would have refused is counted with the reason, as text and as
    JSON; of a replaced bucket the new one counts.
    """
    journal = record(
        tmp_path / "j",
        "run-1",
        artifact=b"12",
        artifact_bucket="prod-data",
        experiment_name="Secret",
    )
    record(journal, "prod")
    lines = (
        'components = ["run-*"]',
        'buckets = ["team-*"]',
        'experiments = ["Digits"]',
        "artifact_bytes_max = 1",
    )
    output = sync(journal, *lines, options=("--dry-run",))
    for refused in (
        "the bucket 'prod-data'",
        "the experiment 'Secret'",
        "the trial component 'prod'",
    ):
        assert f"{refused} is not allowed" in output
    output = sync(journal, *lines, options=("--dry-run", "--json", "--bucket", "prod-data=team-a"))
    run, prod = (each["refused"] for each in json.loads(output)["journals"][0]["components"])
    assert sorted(why.partition(" is ")[0].partition(" has ")[0] for why in run) == [
        "the artifact 'artifact.bin'",
        "the experiment 'Secret'",
    ]
    assert list(prod.values()) == [3]
    assert not sim.requests


def test_a_bucket_that_is_not_allowed_takes_nothing(tmp_path, sim, sync):
    """Neither it nor an anchor is made; parameters and metrics go out, artifacts wait, exit code
    5; other buckets and the default one go on.
    """
    journal = record(tmp_path / "j", "run-1", artifact=b"1", artifact_bucket="prod-data")
    record(journal, "run-2", artifact=b"2", artifact_bucket="team-a")
    record(journal, "run-3", artifact=b"3")
    output = sync(journal, 'buckets = ["team-*"]', code=HALTED)
    assert "the bucket 'prod-data' is not allowed" in output
    assert "prod-data" not in sim.buckets
    assert sorted(bucket for bucket, key in sim.objects if "artifact.bin" in key) == [
        "sagemaker-us-east-1-123456789012",
        "team-a",
    ]
    assert len(sim.components["run-1"].metrics) == 2
    assert states(journal)["quarantined"] == 0
    sync(journal, 'buckets = ["team-*", "prod-data"]')
    assert states(journal)["pending"] == 0


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [
        ("team-a", True),
        ("team-a/deep/er", True),
        ("/team-a/x/", True),
        ("team-ab", False),
        ("team-a/../prod", True),
        ("../prod", False),
        (None, False),
    ],
)
def test_a_prefix_is_looked_at_as_it_is_used(tmp_path, sim, sync, prefix, allowed):
    """A folder with all that is below is allowed, by the name that the object gets: ``..`` leads
    out of none, and the default one has to be named.
    """
    options = {} if prefix is None else {"artifact_prefix": prefix}
    journal = record(tmp_path / "j", artifact=b"1", artifact_bucket="a-bucket", **options)
    sync(journal, 'prefixes = ["team-a"]', code=0 if allowed else HALTED)
    assert all(key.startswith("team-a/") for _, key in sim.objects)
    assert bool(sim.objects) == allowed


@pytest.mark.parametrize(
    ("prefixes", "begin"),
    [
        (["team-a"], "team-a/journaltrack-anchors/"),
        (["team-a", "/journaltrack-anchors/"], "journaltrack-anchors/"),
        (["team-?", "journaltrack-*"], "journaltrack-anchors/"),
    ],
)
def test_anchors_keep_to_the_prefixes_that_are_allowed(tmp_path, sim, sync, prefixes, begin):
    """At the root only if that is allowed, too; else below the artifacts' prefix."""
    journal = record(
        tmp_path / "j", artifact=b"1", artifact_bucket="a-bucket", artifact_prefix="team-a"
    )
    sync(journal, f"prefixes = {prefixes}", code=0)
    (key,) = {key for _, key in sim.objects} - {key for _, key in sim.artifacts}
    assert key.startswith(begin)


def test_one_folder_that_is_not_allowed_holds_up_no_other(tmp_path, sim, sync):
    """Artifacts for an allowed folder of the same bucket are uploaded beside."""
    journal = tmp_path / "j"
    for number in range(4):
        record(
            journal,
            f"a-{number}",
            artifact=b"a%d" % number,
            artifact_bucket="one",
            artifact_prefix="prod",
        )
        record(
            journal,
            f"b-{number}",
            artifact=b"b%d" % number,
            artifact_bucket="one",
            artifact_prefix="team",
        )
    sync(journal, 'prefixes = ["team"]', code=HALTED)
    assert (
        len([key for _, key in sim.objects if key.startswith("team/") and "anchors" not in key])
        == 4
    )
    assert not [key for _, key in sim.objects if key.startswith("prod/")]


@pytest.mark.parametrize(
    "group",
    [{"experiment_name": "Prod"}, {"experiment_name": "Digits", "trial_name": "prod-trial"}],
)
def test_an_experiment_or_trial_that_is_not_allowed_is_not_made_or_joined(
    tmp_path, sim, sync, group
):
    """Neither by an experiment's name nor by a trial that belongs to another one; the component
    itself is delivered.
    """
    journal = record(tmp_path / "j", **group)
    output = sync(journal, 'experiments = ["digits*"]', code=HELD)
    assert "allow.experiments" in output
    assert not written(sim) & {"CreateExperiment", "CreateTrial", "AssociateTrialComponent"}
    assert len(sim.components["run"].metrics) == 2
    sync(journal, 'experiments = ["digits*", "prod*"]')
    assert states(journal)["pending"] == 0


def test_what_is_declared_needs_an_allowed_name(tmp_path, sim, sync):
    """An experiment or trial of another name waits, and so does one that must not be made; what
    is there may be changed.
    """
    journal = record(tmp_path / "j")
    with closing(Journal.open(journal)) as opened:
        for name in ("digits", "prod"):
            row = opened.component(row_of("experiment", name))
            opened.append(row, [vocabulary.experiment(tags={"k": "v"})])
            row = opened.component(row_of("trial", f"{name}-trial"))
            opened.append(row, [vocabulary.trial(name)])
        row = opened.component(row_of("trial", "digits-in-prod"))
        opened.append(row, [vocabulary.trial("prod")])
    rule = 'experiments = ["digits*"]'
    assert sync(journal, rule, options=("--dry-run",)).count("is not allowed") == 3
    output = sync(journal, rule, "create_experiments = false", code=HELD)
    assert "allow.create_experiments" in output
    assert not sim.experiments
    output = sync(journal, rule, code=HELD)
    assert "allow.experiments" in output
    assert (set(sim.experiments), set(sim.trials)) == ({"digits"}, {"digits-trial"})
    with closing(Journal.open(journal)) as opened:
        row = opened.component(row_of("experiment", "digits"))
        opened.append(row, [vocabulary.experiment(description="D")])
    sync(journal, rule, "create_experiments = false", code=HELD)
    assert sim.experiments["digits"].description == "D"
    sync(journal)
    assert states(journal)["pending"] == 0


def test_nothing_is_made_where_that_is_switched_off(tmp_path, sim, sync):
    """Missing buckets and experiments stay missing; what needs them waits, and goes out when
    somebody made them.
    """
    journal = record(
        tmp_path / "j", artifact=b"1", artifact_bucket="missing", experiment_name="Digits"
    )
    switches = ("create_buckets = false", "create_experiments = false")
    output = sync(journal, *switches, code=HALTED)
    assert "allow.create_buckets" in output
    assert "allow.create_experiments" in output
    assert not written(sim) & {"CreateBucket", "CreateExperiment", "CreateTrial"}
    assert states(journal)["quarantined"] == 0
    other = record(
        tmp_path / "other",
        "other",
        artifact=b"2",
        artifact_bucket="missing",
        experiment_name="Digits",
    )
    sync(other)
    sync(journal, *switches)
    assert states(journal)["pending"] == 0


def test_an_artifact_that_is_too_large_is_set_aside(tmp_path, sim, sync):
    """Not a byte of it is sent; all else is, and it goes out once the limit is raised and it is
    released.
    """
    journal = record(tmp_path / "j", artifact=b"12345")
    output = sync(journal, "artifact_bytes_max = 4", code=QUARANTINED)
    assert "quarantined" in output
    assert not [key for _, key in sim.objects if "artifact.bin" in key]
    assert CliRunner().invoke(main, ["retry", str(journal)]).exit_code == 0
    sync(journal, "artifact_bytes_max = 5")
    assert states(journal)["quarantined"] == 0


def test_a_journal_that_is_too_large_is_not_opened(tmp_path, sim, sync):
    """Exit code 8, with the limit; nothing is asked of AWS, and nothing of the journal changes."""
    journal = record(tmp_path / "j")
    before = (journal / "journal.db").read_bytes()
    output = sync(journal, "journal_bytes_max = 1000", code=REFUSED)
    assert "allow.journal_bytes_max" in output
    assert sim.requests == []
    assert (journal / "journal.db").read_bytes() == before


def test_a_crafted_place_of_an_anchor_is_not_used(tmp_path, sim, sync):
    """A journal that claims that its artifacts went to a foreign bucket has neither that bucket
    made nor anything put there or listed.
    """
    from tests.copies import without_triggers

    journal = record(tmp_path / "j", artifact=b"1", artifact_bucket="team-a")
    sync(journal)
    with without_triggers(journal) as connection:
        connection.execute("UPDATE location SET bucket = 'prod-data'")
        connection.execute(
            "UPDATE attestation SET body = replace(body, 's3://team-a', 's3://prod-data')"
        )
    record(journal, "run-2")
    before = len(sim.requests)
    # the attestation was altered: no anchor is made of it
    sync(journal, 'buckets = ["team-*"]', code=REFUSED)
    assert "prod-data" not in sim.buckets
    assert not [call for call in sim.requests[before:] if "prod-data" in str(call)]


def test_a_watcher_keeps_to_the_list(tmp_path, sim, watch):
    """A journal that is dropped into an inbox has nothing done that is not allowed; the log says
    what, and the next journal is delivered.
    """
    config = tmp_path / "config.toml"
    config.write_text(
        '[allow]\ncomponents = ["digits-*"]\nbuckets = ["team-*"]\ncreate_buckets = false\n'
    )
    inbox = tmp_path / "inbox"
    record(inbox / "1", "prod", artifact=b"1", artifact_bucket="prod-data")
    record(inbox / "2", "digits-1")
    watching = watch(inbox, sim.endpoint_url, "--config", str(config))
    watching.wait_for("event=pass", "inbox/1", "code=NotAllowed", "allow.components")
    assert arrived(sim, 2, "digits-1")
    assert watching.end() == 0
    assert set(sim.components) == {"digits-1"}
    assert not written(sim) & {"CreateBucket", "PutObject"}


def test_the_status_tells_what_was_not_allowed(tmp_path, sim, sync):
    """What was refused last, and why, is in the journal's status."""
    journal = record(tmp_path / "j", "prod")
    sync(journal, 'components = ["digits-*"]', code=HELD)
    told = json.loads(CliRunner().invoke(main, ["status", str(journal), "--json"]).stdout)
    assert "NotAllowed" in json.dumps(told)


@pytest.mark.lineage
@pytest.mark.parametrize(
    "rule", ['components = ["other-*"]', 'buckets = ["other-*"]', 'prefixes = ["other"]']
)
def test_lineage_is_of_what_is_allowed(tmp_path, sim, sync, rule):
    """What was uploaded before is linked only if its component, bucket and prefix are allowed
    now; otherwise it waits, and nothing is sent for it.
    """
    journal = record(tmp_path / "j", artifact=b"1", artifact_bucket="team-a")
    sim.fail("CreateArtifact", HttpError(400, "AccessDeniedException"))
    sync(journal, code=HELD)
    before = len(sim.requests)
    output = sync(journal, rule, code=HELD)
    assert "is not allowed by allow." in output
    sent = {call.operation for call in sim.requests[before:]}
    assert sent.isdisjoint({"HeadObject", "CreateArtifact", "AddAssociation"})
    assert states(journal)["pending"] == 1
    dry = json.loads(sync(journal, rule, options=("--dry-run", "--json")))
    (plan,) = dry["journals"][0]["components"]
    assert (plan["lineage"], sum(plan["refused"].values())) == (["artifact-bin"], 1)
    sync(journal)
    assert len(sim.lineage.associations) == 1
