"""What ``journaltrack`` exports: which names, with which arguments, and what those mean."""

from __future__ import annotations

import datetime as dt
import inspect
import itertools
import json
import math
import pkgutil
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import journaltrack
import journaltrack.testing
import journaltrack.types
from journaltrack import Journal, JournaltrackWarning, Tracker
from journaltrack.errors import (
    ErrorKind,
    InvalidInputError,
    InvalidTypeError,
    NothingMatchesError,
    RemoteError,
)
from journaltrack.replay.remote import Answer, Refusal
from journaltrack.testing import MemoryRemote, OfflineJournal, offline_journal
from journaltrack.types import Progress
from tests.copies import change

__all__ = ["offline_journal"]

EXPORTED = {
    *(
        "Tracker",
        "Journal",
        "TrialComponent",
        "sync",
        "runs",
        "status",
        "audit",
        "check",
        "verify",
        "export",
        "export_dataset",
        "bundle",
        "open_bundle",
    ),
    *(
        "merge",
        "export_receipts",
        "import_receipts",
        "prune",
        "retry",
        "resolve",
        "finish",
        "errors",
        "JournaltrackWarning",
    ),
    "__version__",
}
FUNCTIONS = {
    name: getattr(journaltrack, name)
    for name in sorted(EXPORTED)
    if inspect.isfunction(getattr(journaltrack, name))
}
JOURNAL = "str | os.PathLike[str] | None"
DIFFERENT = {
    (journaltrack.finish, "component"),
    (journaltrack.bundle, "to"),
    (journaltrack.export_dataset, "to"),
}
"""A run is finished by its name, which is no pattern; a bundle is a file, and never a stream, and a
dataset is a folder.
"""


@pytest.fixture
def folder(offline_journal, tmp_path):
    """A journal with a run, an artifact and a point that SageMaker can't take."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    with Tracker.create(trial_component_name="run") as tracker:
        tracker.log_parameter("lr", 0.1)
        tracker.log_metric("loss", 0.5, step=1)
        with pytest.warns(JournaltrackWarning):
            tracker.log_metric("loss", math.nan, step=2)
        tracker.log_artifact(tmp_path / "model.bin")
    return offline_journal.path


class Picky(MemoryRemote):
    """Refuses every point while it is."""

    is_picky = True

    def put_metrics(self, component, points):
        refused = {
            n: Refusal("VALIDATION_ERROR", "not today", permanent=True) for n in range(len(points))
        }
        return (
            Answer("memory-0", refused=refused)
            if self.is_picky
            else super().put_metrics(component, points)
        )


class Unsure(MemoryRemote):
    """Takes points, and loses its answer."""

    def put_metrics(self, component, points):
        super().put_metrics(component, points)
        raise RemoteError(
            "the answer was lost", kind=ErrorKind.TRANSIENT, code="Lost", maybe_applied=True
        )


def test_these_names_are_exported_and_no_others():
    """``__all__``, ``dir`` and what a star-import brings are the list; every name is there, and
    no module has one of them.
    """
    assert set(journaltrack.__all__) == set(dir(journaltrack)) == EXPORTED
    assert len(journaltrack.__all__) == len(EXPORTED)
    brought: dict[str, object] = {}
    exec("from journaltrack import *", brought)
    assert set(brought) - {"__builtins__"} == EXPORTED
    modules = {module.name for module in pkgutil.iter_modules(journaltrack.__path__)}
    assert modules & EXPORTED == {"errors"}
    with pytest.raises(AttributeError, match="no attribute 'Options'"):
        _ = journaltrack.Options


def test_what_functions_return_can_be_annotated():
    """``journaltrack.types`` has the class of every report, each name of it is there, and
    importing it is cheap.
    """
    types = set(journaltrack.types.__all__)
    assert len(types) == len(journaltrack.types.__all__)
    assert all(hasattr(journaltrack.types, name) for name in types)
    for name, function in FUNCTIONS.items():
        assert inspect.signature(function).return_annotation in types, name
    program = (
        "import sys, journaltrack.types; print({'boto3', 'sqlalchemy', 'click', 'rich'} & "
        "set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )


def test_arguments_are_plain_and_of_one_meaning():
    """No function asks for an object of our own making or for a clock, and an argument of one name
    has one type in all of them.
    """
    known: dict[str, str] = {"component": "str | None", "journal": JOURNAL}
    for function, parameter in itertools.chain.from_iterable(
        ((function, parameter) for parameter in inspect.signature(function).parameters.values())
        for function in FUNCTIONS.values()
    ):
        annotation = str(parameter.annotation).replace("Journal | ", "")
        assert not re.search(
            "Options|Deadline|RateLimit|Connection|Configuration|Storage", annotation
        ), (function, parameter)
        assert parameter.name == "on_progress" or "Callable" not in annotation, (
            function,
            parameter,
        )
        if (function, parameter.name) in DIFFERENT:
            continue
        assert annotation == known.setdefault(parameter.name, annotation), (function, parameter)
    shared = (
        "component",
        "deadline_s",
        "requests_per_s",
        "region",
        "profile",
        "endpoint_url",
        "on_progress",
    )
    for function in (journaltrack.sync, journaltrack.verify, journaltrack.prune):
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].kind for name in shared} == dict.fromkeys(
            shared, inspect.Parameter.KEYWORD_ONLY
        )
    assert {"since", "concurrency"} <= inspect.signature(journaltrack.sync).parameters.keys()


CALLS = {
    "runs": lambda journal, to: journaltrack.runs(journal),
    "status": lambda journal, to: journaltrack.status(journal),
    "audit": lambda journal, to: journaltrack.audit(journal),
    "check": lambda journal, to: journaltrack.check(journal),
    "sync": lambda journal, to: journaltrack.sync(journal),
    "verify": lambda journal, to: journaltrack.verify(journal),
    "prune": lambda journal, to: journaltrack.prune(
        journal, delivered_before=dt.timedelta(0), dry_run=True
    ),
    "retry": lambda journal, to: journaltrack.retry(journal),
    "resolve": lambda journal, to: journaltrack.resolve(journal, outcome="delivered"),
    "finish": lambda journal, to: journaltrack.finish("run", "Completed", journal=journal),
    "export": lambda journal, to: journaltrack.export(journal, to=to / "a.jsonl", force=True),
    "export_dataset": lambda journal, to: journaltrack.export_dataset(journal, to=to / "dataset"),
    "bundle": lambda journal, to: journaltrack.bundle(journal, to=to / "a.bundle", force=True),
    "export_receipts": lambda journal, to: journaltrack.export_receipts(
        journal, to=to / "a.receipts", force=True
    ),
    "import_receipts": lambda journal, to: (
        journaltrack.export_receipts(journal, to=to / "a.receipts", force=True),
        journaltrack.import_receipts(to / "a.receipts", journal),
    )[1],
}


def test_every_function_is_called():
    """The list of calls is that of the functions, but for those without a journal to be
    configured.
    """
    assert set(CALLS) == set(FUNCTIONS) - {"open_bundle", "merge"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_journal_is_named_in_any_way(folder, tmp_path, name):
    """As text, as a path, as an open journal that goes on being used, or not at all: it is the
    same one.
    """
    opened = Journal.open(folder)
    try:
        for journal in (str(folder), folder, opened, OfflineJournal(folder), None):
            report = CALLS[name](journal, tmp_path)
            assert json.loads(json.dumps(report.to_json()))
            where = getattr(report, "journal", getattr(report, "path", str(folder)))
            assert Path(where) == folder
            opened.append(opened.component("run"), [])
            assert opened.find("run") is not None
    finally:
        opened.close()
    assert journaltrack.check(folder).healthy


def test_a_loaded_run_that_is_missing_is_made_only_if_that_is_asked_for(offline_journal):
    """Somebody may have deleted it: until then its entries wait."""
    with Tracker.load("elsewhere") as tracker:
        tracker.log_metric("loss", 0.5)
    assert journaltrack.sync().delivered == 0
    assert not offline_journal.remote.components
    assert journaltrack.sync(create_or_attach=True).pending == 0
    assert len(offline_journal.remote.components["elsewhere"].points) == 1


def test_open_journals_are_merged(folder, tmp_path):
    """``merge`` takes open journals, too, as sources and as the target."""
    with closing(Journal.open(folder)) as source, closing(Journal.open(tmp_path / "all")) as target:
        merged = journaltrack.merge(source, into=target)
        assert Path(merged.journal) == tmp_path / "all"
        assert not journaltrack.merge([source, folder], into=target).changed
        assert merged.entries == source.last_seq() == target.last_seq()


def test_quarantined_entries_are_retried(folder, offline_journal):
    """What SageMaker refused is counted by a dry run, released, and sent; what it can never take
    stays quarantined.
    """
    offline_journal.remote = Picky()
    assert journaltrack.sync().quarantined == 1
    assert journaltrack.retry(dry_run=True).released == 0
    offline_journal.remote.is_picky = False
    told = journaltrack.retry(component="RU*")
    assert (told.quarantined, told.undeliverable, told.in_doubt, told.released) == (2, 1, 0, 1)
    assert journaltrack.sync().delivered == 1
    told = journaltrack.retry()
    assert (told.quarantined, told.undeliverable, told.released) == (1, 1, 0)
    with pytest.raises(NothingMatchesError):
        journaltrack.retry(component="walk*")


def test_entries_in_doubt_are_resolved(folder, offline_journal):
    """Whoever looked says what became of them; it is on the record with the note, and nothing is
    sent.
    """
    offline_journal.remote = Unsure()
    assert journaltrack.sync().in_doubt == 1
    assert journaltrack.resolve(outcome="quarantined", dry_run=True).in_doubt == 1
    told = journaltrack.resolve(outcome="quarantined", note="not in Studio")
    assert (told.in_doubt, told.resolved, journaltrack.status().quarantined) == (1, 1, 2)
    assert any(
        "not in Studio" in str(problem.reason)
        for problem in journaltrack.audit().components[0].problems
    )
    assert journaltrack.retry().released == 1
    journaltrack.sync()
    assert journaltrack.resolve(outcome="delivered").resolved == 1
    assert journaltrack.resolve(outcome="delivered").resolved == 0
    assert journaltrack.status().in_doubt == 0
    with pytest.raises(InvalidInputError, match="must be 'delivered' or 'quarantined'"):
        journaltrack.resolve(outcome="lost")


def test_what_is_in_doubt_is_sent_again_if_that_is_asked_for(folder, offline_journal):
    """``retry(in_doubt=True)`` releases it, and the point is then there twice."""
    offline_journal.remote = Unsure()
    journaltrack.sync()
    assert journaltrack.retry().released == 0
    told = journaltrack.retry(in_doubt=True)
    assert (told.in_doubt, told.released) == (1, 1)
    journaltrack.sync()
    assert [point.value for point in offline_journal.remote.components["run"].points] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: journaltrack.sync(deadline_s=0), InvalidInputError),
        (lambda: journaltrack.sync(deadline_s=math.nan), InvalidInputError),
        (lambda: journaltrack.sync(deadline_s="5"), InvalidTypeError),
        (lambda: journaltrack.sync(concurrency=0), InvalidInputError),
        (lambda: journaltrack.sync(concurrency=1.5), InvalidInputError),
        (lambda: journaltrack.sync(requests_per_s=-1), InvalidInputError),
        (lambda: journaltrack.sync(region=5), InvalidInputError),
        (lambda: journaltrack.sync(boto3_session="research"), InvalidTypeError),
        (lambda: journaltrack.sync(sagemaker_boto_client="eu-west-1"), InvalidTypeError),
        (lambda: journaltrack.sync(buckets={"old": "No Bucket"}), InvalidInputError),
        (lambda: journaltrack.sync(buckets={"unknown": "other"}), NothingMatchesError),
        (lambda: journaltrack.sync(component="walk*"), NothingMatchesError),
        (lambda: journaltrack.sync(since=dt.datetime(2026, 1, 1)), InvalidInputError),  # noqa: DTZ001
        (lambda: journaltrack.sync(since=1.5), InvalidTypeError),
        (lambda: journaltrack.status(since="2h"), InvalidTypeError),
        (lambda: journaltrack.verify(deadline_s=-1), InvalidInputError),
        (lambda: journaltrack.verify(boto3_session=5), InvalidTypeError),
        (journaltrack.prune, InvalidInputError),
        (lambda: journaltrack.prune(delivered_before=True), InvalidTypeError),
        (lambda: journaltrack.check(restore_from=["."]), InvalidInputError),
    ],
)
def test_what_can_not_be_right_is_refused_and_nothing_is_sent(folder, offline_journal, call, error):
    """A wrong argument is an error of ours with a message, whatever it is, and neither remote
    nor journal is touched.
    """
    before = journaltrack.status()
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.message
    assert offline_journal.remote.components == {}
    after = journaltrack.status()
    assert (after.pending, after.last_seq) == (before.pending, before.last_seq)


def test_moments_are_said_in_three_ways(folder, offline_journal):
    """A datetime, how long ago, and nanoseconds choose the same entries; what no clock shows is
    before or after everything.
    """
    entries = journaltrack.status().pending
    later_ns = time.time_ns() + 10**9
    later = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
    for since in (
        0,
        dt.timedelta(days=1),
        dt.timedelta.max,
        dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc),
        -(2**70),
    ):
        assert journaltrack.status(since=since).pending == entries
    creation = 1
    for since in (
        later_ns,
        later,
        dt.datetime.max.replace(tzinfo=dt.timezone.utc),
        2**70,
        -dt.timedelta(hours=1),
    ):
        assert journaltrack.status(since=since).pending == creation
    assert journaltrack.sync(since=later).delivered == creation
    assert journaltrack.sync(since=dt.timedelta(hours=1)).pending == 0


def test_the_configuration_counts_where_nothing_is_given(
    folder, offline_journal, tmp_path, monkeypatch
):
    """What an operator allows holds for ``sync`` as for the command, and what is passed comes
    before the file.
    """
    (tmp_path / "config.toml").write_text(
        'concurrency = 3\nregion = "nowhere"\n[allow]\ncomponents = ["other-*"]\n'
    )
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(tmp_path / "config.toml"))
    report = journaltrack.sync()
    assert (report.delivered, set(report.held)) == (0, {"run"})
    assert offline_journal.remote.components == {}
    monkeypatch.setenv("JOURNALTRACK_CONCURRENCY", "1000")
    with pytest.raises(InvalidInputError, match="JOURNALTRACK_CONCURRENCY"):
        journaltrack.sync()
    monkeypatch.delenv("JOURNALTRACK_CONCURRENCY")
    with pytest.raises(InvalidInputError, match="concurrency in the call is 2000"):
        journaltrack.sync(concurrency=2000)


def test_progress_is_told_by_all_in_one_form(folder, tmp_path):
    """Whatever takes its time tells a ``Progress`` that never goes back, and ends with
    everything done.
    """
    for call in (
        lambda tell: journaltrack.check(on_progress=tell),
        lambda tell: journaltrack.sync(on_progress=tell),
        lambda tell: journaltrack.verify(on_progress=tell),
        lambda tell: journaltrack.export(to=tmp_path / "a.csv", on_progress=tell),
        lambda tell: journaltrack.export_dataset(to=tmp_path / "dataset", on_progress=tell),
        lambda tell: journaltrack.bundle(to=tmp_path / "a.bundle", on_progress=tell),
        lambda tell: journaltrack.open_bundle(tmp_path / "a.bundle").extract(
            tmp_path / "extracted", tell
        ),
        lambda tell: journaltrack.merge(
            [journaltrack.status().path], into=tmp_path / "all", on_progress=tell
        ),
        lambda tell: journaltrack.prune(delivered_before=dt.timedelta(0), on_progress=tell),
    ):
        told: list[Progress] = []
        call(told.append)
        assert told
        assert all(isinstance(each, Progress) for each in told)
        assert all(earlier.done <= later.done for earlier, later in itertools.pairwise(told))
        assert told[-1].done == told[-1].total


def test_a_deadline_ends_a_sync(folder, offline_journal):
    """What is not sent in time stays pending, and the report says so."""

    class Slow(MemoryRemote):
        def create(self, spec):
            while time.monotonic() < ends:
                pass
            return super().create(spec)

    offline_journal.remote = Slow()
    ends = time.monotonic() + 0.2
    report = journaltrack.sync(deadline_s=0.1)
    assert report.out_of_time
    assert journaltrack.status().pending + journaltrack.status().in_flight > 0
    assert journaltrack.sync(deadline_s=3600).pending == 0


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE entry SET value = 9.0 WHERE name = 'lr'",
        "UPDATE writer SET user = 'somebody else'",
        "UPDATE delivery SET reason = 'of its own' WHERE seq = 1",
        "UPDATE receipt SET request_id = 'made up' WHERE id = 1",
        "DELETE FROM attestation WHERE id = (SELECT max(id) FROM attestation)",
        "UPDATE meta SET created_by_version = '0.0.1'",
    ],
)
def test_check_finds_what_was_changed(folder, tampering):
    """Entries, who recorded them, what became of them and what the journal says of itself: no
    change passes ``check``.
    """
    journaltrack.sync()
    assert journaltrack.check().healthy
    change(folder, tampering)
    found = journaltrack.check()
    assert not found.healthy
    assert {"chains"} <= {
        finding.check for finding in found.findings if finding.severity == "problem"
    }


def test_check_finds_what_was_cut_off_by_an_anchor(folder, offline_journal, tmp_path):
    """Two anchors of one name in two folders are two: what the journal lost since one of them is
    found.
    """
    journaltrack.sync()
    (document,) = offline_journal.remote.stored.values()
    for place, content in (("good", document), ("bad", b"{}")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "anchor.json").write_bytes(content)
    assert journaltrack.check(anchors=str(tmp_path / "good" / "anchor.json")).healthy
    found = journaltrack.check(
        anchors=[tmp_path / "bad" / "anchor.json", tmp_path / "good" / "anchor.json"]
    )
    assert len([finding for finding in found.findings if finding.severity == "problem"]) == 1
    change(folder, "DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry)")
    change(folder, "DELETE FROM delivery WHERE seq NOT IN (SELECT seq FROM entry)")
    assert any(
        "anchor" in finding.message
        for finding in journaltrack.check(anchors=[tmp_path / "good" / "anchor.json"]).findings
    )
    with pytest.raises(OSError, match="none"):
        journaltrack.check(anchors=[tmp_path / "none.json"])


def test_check_repairs(folder, tmp_path):
    """A lost artifact comes back from where its file still is; what was done is told, and the
    journal is healthy.
    """
    (blob,) = (path for path in (folder / "spool").rglob("*") if path.is_file())
    blob.unlink()
    assert not journaltrack.check().healthy
    found = journaltrack.check(repair=True, restore_from=[str(tmp_path)])
    assert found.healthy
    assert [(each.repair, each.done) for each in found.repaired] == [("spool", True)]
    assert blob.read_bytes() == b"weights"


def test_prune_takes_plain_arguments(folder, offline_journal, tmp_path):
    """What was delivered goes once the remote has confirmed it, and stays where the remote lost
    it.
    """
    journaltrack.sync()
    kept = offline_journal.remote.components.pop("run")
    assert journaltrack.prune(delivered_before=dt.timedelta(0)).entries == 0
    offline_journal.remote.components["run"] = kept
    would = journaltrack.prune(delivered_before=dt.timedelta(0), dry_run=True)
    done = journaltrack.prune(
        delivered_before=time.time_ns(), archive=str(tmp_path / "gone.jsonl"), component="RUN"
    )
    assert would.entries == done.entries > 0
    assert done.asked
    assert done.archive.rows == done.entries
    assert (
        journaltrack.prune(delivered_before=dt.timedelta(0), unasked=True, trust="all").asked
        is False
    )
