"""What strictly typed callers may pass: no test runs this, ``make lint`` checks it; an ignore
that is not needed is an error.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

import journaltrack
from journaltrack import Journal, Tracker
from journaltrack.compat.sagemaker import Experiment, Run, SortByType, list_runs, load_run
from journaltrack.testing import LoggedRun, OfflineJournal, offline
from journaltrack.types import Examination, MetricsWriter, PassReport, Progress, Runs, VerifyReport


@dataclass
class Settings:
    """Parameters as a dataclass."""

    lr: float = 0.1


class Writer:
    """A caller's own metrics writer, typed as the original's."""

    def log_metric(
        self,
        metric_name: str,
        value: float,
        timestamp: float | None = None,
        iteration_number: int | None = None,
    ) -> None:
        """Take a point."""

    def close(self) -> None:
        """Take no more."""


def train(tracker: Tracker) -> None:
    """NumPy's numbers and times, namespaces, dataclasses, pairs and own writers are taken; what
    raises is refused.
    """
    tracker.log_metric("a", np.float32(0.5), iteration_number=np.int64(3))
    tracker.log_metric("a", np.int64(5), np.datetime64("now"))
    tracker.log_metric("a", np.array([0.5]), 1_700_000_000)
    tracker.log_metrics({"a": np.float32(0.5), "b": 1}, 3, 1.7e9)
    tracker.log_metric("a", 0.5, step=np.int64(3))
    tracker.log_metrics({"a": 0.5}, step=3)
    tracker.log_parameters(argparse.Namespace(lr=0.1))
    tracker.log_parameters(Settings())
    tracker.log_parameters([("lr", 0.1)])
    tracker.log_parameters({"lr": np.float32(0.1)})
    Tracker(tracker.trial_component, Writer())
    Tracker.create(sync=False)
    tracker.log_metric("a", "0.5")  # type: ignore[arg-type]
    tracker.log_metric("a", 0.5, iteration_number="3")  # type: ignore[arg-type]
    tracker.log_metric("a", 0.5, step="3")  # type: ignore[arg-type]
    tracker.log_parameters(None)  # type: ignore[arg-type]


def deliver(journal: Journal, folder: Path) -> VerifyReport:
    """A journal is a path or an open one, moments are said in three ways, reports have types;
    objects of ours are no arguments.
    """

    def tell(progress: Progress) -> None:
        print(progress.done, progress.total)  # noqa: T201 - what a caller does

    report: PassReport = journaltrack.sync(
        journal, since=timedelta(hours=2), buckets={"old": "new"}, on_progress=tell
    )
    print(report.delivered, report.halted)  # noqa: T201
    runs: Runs = journaltrack.runs(journal, folder, where="lr < 1", tags={"a": None}, limit=3)
    print([run.metrics["loss"].min or run.metrics("loss").values for run in runs])  # noqa: T201
    journaltrack.runs(limit="3")  # type: ignore[arg-type]
    journaltrack.status(folder, since=datetime.now(timezone.utc))
    journaltrack.audit(str(folder), component="a*")
    examination: Examination = journaltrack.check(journal, repair=True, restore_from=[folder])
    print(examination.healthy, examination.repaired)  # noqa: T201
    journaltrack.prune(delivered_before=1_700_000_000_000_000_000, archive=folder / "gone.parquet")
    journaltrack.merge([journal, folder], into="all")
    journaltrack.export_receipts(journal, to=folder / "receipts", on_progress=tell)
    journaltrack.import_receipts(folder / "receipts", journal)
    journaltrack.retry(in_doubt=True)
    journaltrack.resolve(outcome="delivered")
    journaltrack.finish("a", "Failed", journal=journal)
    journaltrack.resolve(outcome="lost")  # type: ignore[arg-type]
    journaltrack.sync(deadline=5)  # type: ignore[call-arg]
    journaltrack.sync(since="2h")  # type: ignore[arg-type]
    return journaltrack.verify(
        journal, deadline_s=5, requests_per_s=2, region="eu-west-1", on_progress=tell
    )


def test_training(offline_journal: OfflineJournal) -> LoggedRun:
    """What ``journaltrack.testing`` gives has types, too."""
    writer: MetricsWriter = Writer()
    with offline() as journal, Tracker.create() as tracker:
        tracker.log_table("t", {"x": [1, 2]}, output_artifact=False)
        tracker.log_roc_curve([0, 1], [0.1, 0.9], "roc")
        tracker.log_precision_recall([0, 1], [0.1, 0.9], 1, title="pr", no_skill=0.5)
        tracker.log_confusion_matrix(["a"], ["a"])
        Tracker(Tracker.create().trial_component, writer)
        journaltrack.audit(journal)
    return offline_journal.run()


def test_a_run_of_the_sdk() -> list[Run]:
    """The SDK's calls, as its users write them."""
    Experiment.create("digits", display_name="Digits", tags=[{"Key": "team", "Value": "vision"}])
    with Run("digits", "first", tags={"team": "vision"}) as run:
        run.log_parameters({"lr": 0.1, "optimizer": "adam"})
        run.log_metric("loss", np.float32(0.5), timestamp=datetime.now(timezone.utc), step=1)
        run.log_file(Path("model.bin"), is_output=False)
        run.log_metric("loss", [0.5])  # type: ignore[arg-type]
        with load_run() as same:
            same.log_artifact("data", "s3://my-data/digits")
    return list_runs("digits", sort_by=SortByType.NAME)
