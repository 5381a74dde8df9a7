"""Read a trial component back from the journal, as it was logged.

That includes values that AWS could never accept.

``component_of_this_job`` finds the component of the SageMaker job that this process runs in.
SageMaker creates it shortly after the job starts. The sources are the environment and the files
that SageMaker gives to a job, as the original library reads them
(``smexperiments/_environment.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.journal import vocabulary
from journaltrack.journal.fold import (
    FieldValue,
    Place,
    Status,
    blob_of,
    in_order,
    merge_status,
    value_of,
)
from journaltrack.journal.queries import origins
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

PROCESSING_JOB_CONFIG: Final = Path("/opt/ml/config/processingjobconfig.json")


def component_of_this_job(processing_config: Path = PROCESSING_JOB_CONFIG) -> str | None:
    """Return the name of this job's component; None outside a SageMaker job."""
    for variable, kind in (("TRAINING_JOB_ARN", "training"), ("TRANSFORM_JOB_ARN", "transform")):
        name = _name_in(os.environ.get(variable))
        if name:
            return component_of(name, kind)
    try:
        config = json.loads(processing_config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = _name_in(config.get("ProcessingJobArn") if isinstance(config, dict) else None)
    return component_of(name, "processing") if name else None


def component_of(job_name: str, kind: str) -> str:
    """Return the name of the component that SageMaker creates for a job.

    ``kind`` is "training", "processing" or "transform".
    """
    return f"{job_name}-aws-{kind}-job".lower()


def _name_in(arn: object) -> str | None:
    """Return the last part of ``arn:aws:sagemaker:REGION:ACCOUNT:training-job/NAME``."""
    return arn.rpartition("/")[2] or None if isinstance(arn, str) and "/" in arn else None


@dataclass(frozen=True, slots=True)
class TrialComponentArtifact:
    """An artifact. ``value`` is a URI, a text, or a logged file's path in the spool."""

    value: str
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentStatus:
    """``primary_status`` is InProgress, Completed, Failed, Stopping or Stopped."""

    primary_status: str | None = None
    message: str | None = None


class TrialComponent:
    """The component that a tracker tracks. Every attribute reads the journal again.

    Entries whose payload can't be decoded are skipped: the journal may be damaged or crafted.

    Args:
        journal: The journal that has it.
        component_id: Its id, from ``journal.component``.
        name: Its name.
    """

    def __init__(self, journal: Journal, component_id: int, name: str) -> None:
        self.journal = journal
        self.component_id = component_id
        self.trial_component_name = name

    @property
    def trial_component_arn(self) -> str | None:
        """Return the ARN; None until a replay confirmed the component."""
        row = self.journal.find(self.trial_component_name)
        return row.arn if row else None

    @property
    def display_name(self) -> str | None:
        """Return the display name that was given to ``create``."""
        names = [e.detail.get("display_name") for e in self._entries(vocabulary.CREATE)]
        return next((name for name in reversed(names) if name), None)

    @property
    def parameters(self) -> dict[str, str | float]:
        """Return the last value per name. A number that is no finite double is text."""
        values: dict[str, str | float] = {}
        for entry in self._entries(vocabulary.PARAMETER):
            detail = entry.detail
            values[entry.name or ""] = (
                str(detail.get("text", detail.get("exact", "")))
                if entry.value is None
                else entry.value
            )
        return values

    @property
    def input_artifacts(self) -> dict[str, TrialComponentArtifact]:
        """Return the last input per name."""
        return self._artifacts(vocabulary.INPUT)

    @property
    def output_artifacts(self) -> dict[str, TrialComponentArtifact]:
        """Return the last output per name."""
        return self._artifacts(vocabulary.OUTPUT)

    @property
    def status(self) -> TrialComponentStatus | None:
        """Return the last status; None if none was set."""
        status = self._status()
        return TrialComponentStatus(status.primary, status.message) if status.primary else None

    @property
    def start_time(self) -> datetime | None:
        """Return when the run started, in UTC."""
        return _moment(self._status().start_ns)

    @property
    def end_time(self) -> datetime | None:
        """Return when the run ended, in UTC."""
        return _moment(self._status().end_ns)

    def _entries(self, kind: str) -> list[vocabulary.Entry]:
        """Return entries in the order in which they were recorded.

        In a merged journal this is not the order of ``seq``.
        """
        found = [
            e
            for e in self.journal.state_entries(self.component_id)
            if e.kind == kind and _is_readable(e)
        ]
        origin = origins(self.journal.database.read).get
        return in_order(
            found, [Place(n, e.recorded_at_ns, origin(e.writer_id, 0)) for n, e in enumerate(found)]
        )

    def _artifacts(self, kind: str) -> dict[str, TrialComponentArtifact]:
        artifacts = {}
        for entry in self._entries(kind):
            detail = entry.detail
            value = detail.get("value")
            if not isinstance(value, str):
                if not isinstance(detail.get("sha256"), str):
                    continue
                # This checks the digest: a crafted one could name a file outside the spool.
                sha256 = blob_of(entry).sha256
                value = str(self.journal.path / paths.SPOOL / sha256[:2] / sha256)
            artifacts[entry.name or ""] = TrialComponentArtifact(value, detail.get("media_type"))
        return artifacts

    def _status(self) -> Status:
        merged: FieldValue = Status()
        for entry in self._entries(vocabulary.STATUS):
            # A crafted journal may have impossible times.
            with contextlib.suppress(ValueError):
                merged = merge_status(merged, value_of(entry))
        return merged if isinstance(merged, Status) else Status()

    def __repr__(self) -> str:
        return f"TrialComponent({self.trial_component_name!r}, journal={str(self.journal.path)!r})"


def _is_readable(entry: vocabulary.Entry) -> bool:
    try:
        return entry.unsound is None and isinstance(entry.detail, dict)
    except ValueError:
        return False


def _moment(nanoseconds: int | None) -> datetime | None:
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc)
