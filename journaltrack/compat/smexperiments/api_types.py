"""What lists and searches return, and what a component's attributes hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from journaltrack.compat.smexperiments import _base_types
from journaltrack.tracking.catalog import TrialComponentSearchResult, TrialComponentSummary
from journaltrack.tracking.experiments import (
    ExperimentSearchResult,
    ExperimentSummary,
    TrialSearchResult,
    TrialSummary,
)
from journaltrack.tracking.members import (
    TrialComponentArtifact,
    TrialComponentMetricSummary,
    TrialComponentSource,
    TrialComponentStatus,
)

__all__ = [
    "BatchPutMetricsError",
    "ExperimentSearchResult",
    "ExperimentSource",
    "ExperimentSummary",
    "TrainingJobSearchResult",
    "TrialComponentArtifact",
    "TrialComponentMetricSummary",
    "TrialComponentParameterValue",
    "TrialComponentParameters",
    "TrialComponentSearchResult",
    "TrialComponentSource",
    "TrialComponentStatus",
    "TrialComponentSummary",
    "TrialSearchResult",
    "TrialSource",
    "TrialSummary",
]


@dataclass(frozen=True, slots=True)
class TrialComponentParameterValue:
    """A parameter's value: a text or a number."""

    string_value: str | None = None
    number_value: float | None = None

    def __str__(self) -> str:
        """Return the value as text."""
        if self.string_value is not None:
            return self.string_value
        return "" if self.number_value is None else str(self.number_value)


@dataclass(frozen=True, slots=True)
class ExperimentSource:
    """What made an experiment."""

    source_arn: str | None = None


@dataclass(frozen=True, slots=True)
class TrialSource:
    """What made a trial."""

    source_arn: str | None = None


@dataclass(frozen=True, slots=True)
class BatchPutMetricsError:
    """Why a point was refused. `journaltrack audit` has these."""

    code: str | None = None
    message: str | None = None
    metric_index: int | None = None


class TrialComponentParameters(dict[str, Any]):
    """Parameters by name. A component's own are a dict that records changes."""


class TrainingJobSearchResult(_base_types.ApiObject):
    """A training job that a search found. Nested members are boto3's."""

    def __getattr__(self, name: str) -> None:
        """Return None for members that the answer lacks."""
        if name.startswith("_"):
            raise AttributeError(name)
