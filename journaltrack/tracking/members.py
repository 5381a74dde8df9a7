"""Hold the members of a trial component as a script reads them.

Apart from what records: a start of training needs none of them, and dataclasses take a tenth of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TrialComponentArtifact:
    """An artifact.

    ``value`` is a URI or a text; of a file that is not uploaded yet, its path in the spool.
    """

    value: str
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentStatus:
    """``primary_status`` is InProgress, Completed, Failed, Stopping or Stopped."""

    primary_status: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentSource:
    """The job that a component belongs to."""

    source_arn: str | None = None
    source_type: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentMetricSummary:
    """A metric's points in the journal, as SageMaker would sum them up."""

    metric_name: str
    count: int
    min: float
    max: float
    avg: float
    last: float
    time_stamp: datetime | None = None
