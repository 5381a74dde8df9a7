"""Reading back: the journal's entries as one component."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import pytest

from journaltrack import Journal
from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import BlobRef, Draft
from journaltrack.tracking.members import TrialComponentArtifact, TrialComponentStatus
from journaltrack.tracking.trial_component import TrialComponent


@pytest.fixture
def component(tmp_path):
    """A component without entries, in a journal of its own."""
    journal = Journal.open(tmp_path / "journal")
    yield TrialComponent(journal, journal.component("run"), "run")
    journal.close()


def test_a_component_without_entries_has_nothing(component):
    """Every attribute is there and empty."""
    assert (
        component.trial_component_name,
        component.trial_component_arn,
        component.display_name,
    ) == ("run", None, None)
    assert (component.status, component.start_time, component.end_time) == (None, None, None)
    assert (component.parameters, component.input_artifacts, component.output_artifacts) == (
        {},
        {},
        {},
    )


def test_the_last_value_per_name_counts(component):
    """Parameters and artifacts fold; inputs and outputs of one name are apart."""
    component.journal.append(
        component.component_id,
        [
            vocabulary.create(owner="o", display_name="Shown"),
            vocabulary.parameter("lr", 0.1),
            vocabulary.parameter("lr", "low"),
            vocabulary.artifact("input", "data", "s3://b/1", "text/csv"),
            vocabulary.artifact("input", "data", "s3://b/2", None),
            vocabulary.artifact("output", "data", "s3://b/3", None),
        ],
    )
    assert component.display_name == "Shown"
    assert component.parameters == {"lr": "low"}
    assert component.input_artifacts == {"data": TrialComponentArtifact("s3://b/2")}
    assert component.output_artifacts == {"data": TrialComponentArtifact("s3://b/3")}


def test_what_can_not_be_delivered_reads_back_too(component):
    """What SageMaker can't take was recorded, so it is there, and None is None."""
    component.journal.append(
        component.component_id,
        [
            vocabulary.parameter("long", "x" * 3_000),
            vocabulary.parameter("inf", float("-inf")),
            vocabulary.parameter("nan", float("nan")),
            vocabulary.parameter("big", 10**400),
            vocabulary.parameter("none", None),
        ],
    )
    assert math.isnan(component.parameters["nan"])
    assert {**component.parameters, "nan": None} == {
        "long": "x" * 3_000,
        "inf": -math.inf,
        "nan": None,
        "big": str(10**400),
        "none": None,
    }


def test_statuses_merge(component):
    """A start time stays when a later status says nothing of it; times are aware, UTC."""
    component.journal.append(
        component.component_id,
        [vocabulary.status(primary="InProgress", start_ns=1_700_000_000_123_456_000)],
    )
    component.journal.append(
        component.component_id,
        [vocabulary.status(primary="Failed", message="why", end_ns=1_700_000_001 * 10**9)],
    )
    assert component.status == TrialComponentStatus("Failed", "why")
    assert component.start_time == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=timezone.utc)
    assert component.end_time == datetime(2023, 11, 14, 22, 13, 21, tzinfo=timezone.utc)


def test_a_logged_file_reads_back_as_its_path_in_the_spool(component):
    """Before the upload, the value is where the bytes are."""
    sha256 = "ab" * 32
    component.journal.append(
        component.component_id,
        [vocabulary.artifact("output", "model", BlobRef(sha256, None, None), "text/plain")],
    )
    expected = component.journal.path / "spool" / "ab" / sha256
    assert component.output_artifacts["model"] == TrialComponentArtifact(
        str(expected), "text/plain"
    )


def test_a_crafted_digest_names_no_path(component):
    """A journal from somebody else can't make an artifact's value point outside of its spool."""
    crafted = Draft(
        "component",
        "output",
        "model",
        payload=vocabulary.encode({"sha256": "../../../../etc/passwd"}),
    )
    component.journal.append(component.component_id, [crafted])
    with pytest.raises(ValueError, match="not a SHA-256"):
        _ = component.output_artifacts
