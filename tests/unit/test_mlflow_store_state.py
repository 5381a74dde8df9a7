"""The pure parts of the MLflow store: names, ids, and what entries add up to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack import limits
from journaltrack.compat.mlflow import addresses, state
from journaltrack.compat.mlflow.state import ExperimentState, RunState
from journaltrack.errors import InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import Entry
from journaltrack.util import paths


def entries(component, *drafts):
    """The drafts as entries."""
    return [
        Entry(seq, 1, seq, 1, component, *draft[:7], 1_000_000 * seq, b"")
        for seq, draft in enumerate(drafts, start=1)
    ]


def folded(*drafts):
    """What drafts add up to as a run."""
    run = RunState("run")
    for entry in entries("run", *drafts):
        run.add(entry)
    return run


@pytest.mark.parametrize(
    ("uri", "journal"),
    [
        ("journaltrack:", None),
        ("journaltrack://", None),
        ("journaltrack:///", None),
        ("journaltrack:///data/my%20journal", "/data/my journal"),
        ("journaltrack:/data/journal", "/data/journal"),
        ("journaltrack:journal", "journal"),
    ],
)
def test_a_tracking_uri_names_a_journal(uri, journal):
    """Without a path it is the default journal. Commands take the URI, too."""
    assert paths.of_uri(uri) == journal
    expected = paths.default_journal() if journal is None else Path(journal)
    assert paths.expanded(uri) == expected


@pytest.mark.parametrize(
    "uri", ["journaltrack://host/journal", "journaltrack:///j?a=b", "http://x"]
)
def test_a_uri_that_names_no_journal_is_refused(uri):
    """A host or a query has no meaning, and says so."""
    with pytest.raises(InvalidInputError, match="names no journal"):
        paths.of_uri(uri)


@given(st.text(min_size=1), st.text("ab/ .%#?", max_size=9))
def test_an_artifact_uri_says_where_its_files_are(name, folder):
    """Whatever characters the journal's folder has."""
    journal, folder = f"/{name.replace('/', '')}/journal", folder.strip("/")
    uri = addresses.artifact_uri(journal, "run", folder)
    assert addresses.place_of(uri) == (journal, "run", folder)


@given(st.text(min_size=1, max_size=300))
def test_an_experiment_has_a_name_that_sagemaker_takes(name):
    """A legal name stays; another one is changed, and ids are those of MLflow's own stores."""
    given_name = addresses.experiment_name(name)
    assert limits.name_problem(given_name, "") is None
    assert (given_name == name) == (limits.name_problem(name, "") is None)
    number = addresses.experiment_id(given_name)
    assert number == "0" or (number.isdecimal() and len(number) == 18)


def test_tags_that_sagemaker_takes_are_tags_and_all_others_labels():
    """MLflow's own, long and too many tags never count as tags of SageMaker; all are read back."""
    wanted = {f"k{n}": "v" for n in range(60)} | {
        "mlflow.user": "ada",
        "long": "x" * 300,
        state.NOTE: "a note",
    }
    drafts = state.tag_drafts(wanted, set())
    (tags,) = (vocabulary.tags_of(draft) for draft in drafts if draft.kind == vocabulary.TAGS)
    assert len(tags) == limits.TAGS_MAX
    assert not any(draft.undeliverable for draft in drafts)
    run = folded(*drafts)
    assert run.tags == wanted
    assert run.legal_tags == tags.keys()
    # A tag that SageMaker has may change; one more may not.
    again = state.tag_drafts({"k0": "new", "k99": "v"}, run.legal_tags)
    assert [draft.kind for draft in again] == [vocabulary.TAGS, vocabulary.LABEL]


def test_a_removed_tag_is_gone_whatever_it_was():
    """The last word counts, also of a note."""
    tags = {"team": "vision", "long": "x" * 300, state.NOTE: "text"}
    removed = state.tag_drafts(dict.fromkeys(tags), set())
    assert folded(*state.tag_drafts(tags, set()), *removed).tags == {}
    back = state.tag_drafts({"team": "audio"}, set())
    assert folded(*state.tag_drafts(tags, set()), *removed, *back).tags == {"team": "audio"}


def test_a_run_is_what_its_entries_say():
    """Parameters are texts, as MLflow's; what can't be read hides nothing."""
    run = folded(
        vocabulary.create(owner="me", display_name="first-run", tags={"a": "b"}),
        vocabulary.associate(experiment="digits", trial=None, full_name="my digits"),
        vocabulary.status(primary="InProgress", start_ns=5_000_000),
        vocabulary.parameter("lr", 0.5),
        vocabulary.parameter("n", 3),
        vocabulary.parameter("none", None),
        vocabulary.tags({"c": "d"})._replace(payload="{"),
        vocabulary.upload("a/b", vocabulary.BlobRef("0" * 64, None, None), 7, None, "b"),
        state.document(vocabulary.MODEL, "m-1", {"name": "model"}),
        vocabulary.label(f"{vocabulary.MODEL}m-2", "{"),
        vocabulary.status(primary="Failed", end_ns=9_000_000),
    )
    assert run.parameters == {"lr": "0.5", "n": "3", "none": "None"}
    assert run.tags == {"a": "b", vocabulary.RUN_NAME: "first-run"}
    assert (run.status_name, run.start_ms, run.end_ms) == ("FAILED", 5, 9)
    assert (run.experiment, run.full_name) == ("digits", "my digits")
    assert run.files == {"a/b": ("0" * 64, 7)}
    assert list(run.told(vocabulary.MODEL)) == [("m-1", {"name": "model"})]


def test_what_is_not_unicode_is_read_as_its_escape():
    """Whoever recorded it: pandas and servers' databases refuse it as it is."""
    odd = os.fsdecode(b"a\xff\xc3\xa9")
    drafts = [vocabulary.parameter("p", odd), *state.tag_drafts({"t": odd, state.NOTE: odd}, set())]
    run = folded(*drafts, vocabulary.tags({"u": odd}))
    texts = {run.parameters["p"], *run.tags.values()}
    assert texts == {"a\\udcffé"} == {state.as_unicode(odd)}


def test_an_experiment_is_what_its_entries_say():
    """Tags of any length, its name in MLflow, and whether it was deleted."""
    known = ExperimentState("my-digits", full_name="my digits")
    drafts = [
        state.experiment_draft(known, {"team": "vision", "mlflow.note.content": "x", "gone": "y"}),
        state.experiment_draft(known, {"gone": None}, state.DELETED),
    ]
    read = ExperimentState("my-digits")
    for entry in entries("experiment/my-digits", *drafts):
        read.add(entry)
    assert (read.shown, read.is_deleted) == ("my digits", True)
    assert read.tags == {"team": "vision", "mlflow.note.content": "x"}
    payload = json.loads(drafts[0].payload)
    # SageMaker's own, and what stays in the journal.
    assert payload["tags"] == {"team": "vision", "gone": "y"}
    assert payload["labels"] == {"mlflow.note.content": "x"}
