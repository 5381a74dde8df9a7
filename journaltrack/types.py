"""Annotate what journaltrack's functions take and return.

These are reports, protocols and aliases. Every report that a function returns has ``to_json()``.
Times in reports are nanoseconds since the epoch (``*_ns``).
"""

from __future__ import annotations

from journaltrack.app.api import Resolution, Resolved, Retried
from journaltrack.doctor import Examination, Finding, Repaired
from journaltrack.journal.append import OnJournalError
from journaltrack.journal.interruption import RunInProgress
from journaltrack.journal.removed import Removal
from journaltrack.journal.sqlite.connection import Durability
from journaltrack.journal.sqlite.footprint import Footprint
from journaltrack.journal.view import ErrorRecord, State, When
from journaltrack.journal.writer_records import WriterRecord
from journaltrack.readmodel.artifacts import Artifact, Table
from journaltrack.readmodel.run import MetricSummary, Points, Run, Runs
from journaltrack.replay.evidence.anchors import Anchor
from journaltrack.replay.evidence.taken import Unfinished
from journaltrack.replay.pass_report import PassReport, Position, Progress
from journaltrack.reports.proof.hearsay import Hearsay
from journaltrack.reports.report import (
    AuditReport,
    ComponentAudit,
    KindStates,
    Problem,
    ReceiptGroup,
    ReconcilerRecord,
    States,
)
from journaltrack.reports.status import (
    JournalStatus,
    LastSuccess,
    LeaseHolder,
    PendingStream,
    Sizes,
)
from journaltrack.retention.prune import Archive, PruneReport
from journaltrack.tracking.catalog import (
    TrialComponentSearchResult,
    TrialComponentSummary,
)
from journaltrack.tracking.experiments import (
    ExperimentSearchResult,
    ExperimentSummary,
    TrialSearchResult,
    TrialSummary,
)
from journaltrack.tracking.finish import FinalStatus, Finished
from journaltrack.tracking.members import (
    TrialComponentArtifact,
    TrialComponentMetricSummary,
    TrialComponentSource,
    TrialComponentStatus,
)
from journaltrack.tracking.validation import Moment, Number, Parameters
from journaltrack.tracking.writers import ArtifactUploader, LineageArtifactTracker, MetricsWriter
from journaltrack.transfer.bundle.layout import Manifest
from journaltrack.transfer.bundle.pack import BundleReport
from journaltrack.transfer.bundle.unpack import Bundle
from journaltrack.transfer.export.dataset import DatasetReport
from journaltrack.transfer.export.exporter import ExportReport, Format
from journaltrack.transfer.export.tables import TableName
from journaltrack.transfer.merge import MergedSource, MergeReport
from journaltrack.transfer.receipts import ReceiptsExported, ReceiptsImported
from journaltrack.verification.diff import Difference
from journaltrack.verification.expected import Undelivered
from journaltrack.verification.verifier import AnchorsReport, Checked, Repair, VerifyReport

__all__ = [
    "Anchor",
    "AnchorsReport",
    "Archive",
    "Artifact",
    "ArtifactUploader",
    "AuditReport",
    "Bundle",
    "BundleReport",
    "Checked",
    "ComponentAudit",
    "DatasetReport",
    "Difference",
    "Durability",
    "ErrorRecord",
    "Examination",
    "ExperimentSearchResult",
    "ExperimentSummary",
    "ExportReport",
    "FinalStatus",
    "Finding",
    "Finished",
    "Footprint",
    "Format",
    "Hearsay",
    "JournalStatus",
    "KindStates",
    "LastSuccess",
    "LeaseHolder",
    "LineageArtifactTracker",
    "Manifest",
    "MergeReport",
    "MergedSource",
    "MetricSummary",
    "MetricsWriter",
    "Moment",
    "Number",
    "OnJournalError",
    "Parameters",
    "PassReport",
    "PendingStream",
    "Points",
    "Position",
    "Problem",
    "Progress",
    "PruneReport",
    "ReceiptGroup",
    "ReceiptsExported",
    "ReceiptsImported",
    "ReconcilerRecord",
    "Removal",
    "Repair",
    "Repaired",
    "Resolution",
    "Resolved",
    "Retried",
    "Run",
    "RunInProgress",
    "Runs",
    "Sizes",
    "State",
    "States",
    "Table",
    "TableName",
    "TrialComponentArtifact",
    "TrialComponentMetricSummary",
    "TrialComponentSearchResult",
    "TrialComponentSource",
    "TrialComponentStatus",
    "TrialComponentSummary",
    "TrialSearchResult",
    "TrialSummary",
    "Undelivered",
    "Unfinished",
    "VerifyReport",
    "When",
    "WriterRecord",
]
