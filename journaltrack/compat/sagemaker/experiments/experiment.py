"""Experiments by the SageMaker Python SDK's API, recorded offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from journaltrack.compat.sagemaker.experiments.session import source_of
from journaltrack.compat.smexperiments._base_types import ExperimentRecord
from journaltrack.tracking import experiments

if TYPE_CHECKING:
    from journaltrack.tracking.catalog import Source

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]


class Experiment(ExperimentRecord):
    """A collection of runs.

    Assigning to ``description``, ``display_name`` or ``tags`` records the new value.
    """

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

    @property
    def _source(self) -> Source:
        session = self.sagemaker_session
        return super()._source if session is None else source_of(session)
