"""Experiments by the SageMaker Python SDK's API, recorded offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from journaltrack.compat.sagemaker.experiments.session import source_of
from journaltrack.compat.smexperiments._base_types import Record
from journaltrack.tracking import experiments

if TYPE_CHECKING:
    from datetime import datetime

    from journaltrack.tracking.catalog import Source
    from journaltrack.tracking.experiments import TrialSummary

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]


class Experiment(Record):
    """A collection of runs.

    Assigning to ``description``, ``display_name`` or ``tags`` records the new value.
    """

    _kind = "experiment"
    _changeable = frozenset({"description", "display_name", "tags"})

    experiment_name: str | None = None
    experiment_arn: str | None = None
    display_name: str | None = None
    description: str | None = None
    tags: Any = None
    creation_time: datetime | None = None
    last_modified_time: datetime | None = None
    sagemaker_session: Any = None

    @classmethod
    def create(
        cls,
        experiment_name: str,
        display_name: str | None = None,
        description: str | None = None,
        tags: Tags | None = None,
        sagemaker_session: Any = None,  # noqa: ANN401 - the SDK's, or boto3's
    ) -> Experiment:
        """Record an experiment, and deliver it if SageMaker answers in time.

        One that exists already is changed: what is given is set, and tags are added.

        Args:
            experiment_name: Its name.
            display_name: The name that SageMaker shows.
            description: What it is about.
            tags: Its tags.
            sagemaker_session: See ``Run``.

        Raises:
            InvalidInputError: (a ValueError) SageMaker could never take it. Nothing was recorded.
        """
        members: dict[str, Any] = {
            "display_name": display_name,
            "description": description,
            "tags": tags,
        }
        source = source_of(sagemaker_session)
        experiments.declare(source, "experiment", experiment_name, **members)
        made = cls(
            source.client,
            experiment_name=experiment_name,
            sagemaker_session=sagemaker_session,
            **{name: value for name, value in members.items() if value is not None},
        )
        return made.save()

    @classmethod
    def load(
        cls,
        experiment_name: str,
        sagemaker_session: Any = None,  # noqa: ANN401 - the SDK's, or boto3's
    ) -> Experiment:
        """Return an experiment as SageMaker has it; without an answer, as the journal does.

        Args:
            experiment_name: Its name.
            sagemaker_session: See ``Run``.

        Raises:
            ComponentNotFoundError: (a ValueError) SageMaker has none of that name, and neither has
                the journal.
        """
        source = source_of(sagemaker_session)
        return cls.from_boto(
            experiments.load(source, "experiment", experiment_name),
            sagemaker_boto_client=source.client,
            sagemaker_session=sagemaker_session,
        )

    def list_trials(
        self,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
    ) -> Iterator[TrialSummary]:
        """Yield the journal's run groups, and SageMaker's if it answers in time.

        Args:
            created_before: Only those created before this time.
            created_after: Only those created after this time.
            sort_by: "Name" or "CreationTime", the default.
            sort_order: "Ascending" or "Descending", the default.
        """
        members = {
            "ExperimentName": self.experiment_name,
            "CreatedBefore": created_before,
            "CreatedAfter": created_after,
            "SortBy": sort_by,
            "SortOrder": sort_order,
        }
        return experiments.listed(self._source, "trial", members)

    @property
    def _source(self) -> Source:
        session = self.sagemaker_session
        return super()._source if session is None else source_of(session)
