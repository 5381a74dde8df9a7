"""Experiments, recorded offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from journaltrack.compat.smexperiments import _base_types
from journaltrack.compat.smexperiments.trial import Trial
from journaltrack.tracking import experiments
from journaltrack.tracking.catalog import Source
from journaltrack.tracking.recording import items_of_pages

if TYPE_CHECKING:
    from journaltrack.compat.smexperiments.api_types import (
        ExperimentSearchResult,
        ExperimentSummary,
    )

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]


class Experiment(_base_types.ExperimentRecord):
    """A collection of trials.

    Assigning to ``description``, ``display_name`` or ``tags`` records the new value.
    """

    MAX_DELETE_ALL_ATTEMPTS = 3

    @classmethod
    def create(
        cls,
        experiment_name: str | None = None,
        description: str | None = None,
        tags: Tags | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401 - boto3 has no types of its own
    ) -> Experiment:
        """Record an experiment, and deliver it if SageMaker answers in time.

        One that exists already is changed: the description is set, and tags are added.

        Raises:
            InvalidInputError: SageMaker could never take it. Nothing was recorded.
        """
        members = {"description": description, "tags": tags}
        made = cls(sagemaker_boto_client, experiment_name=experiment_name)
        made._declare(members)
        made.__dict__.update({k: v for k, v in members.items() if v is not None})
        return made.save()

    @classmethod
    def load(
        cls,
        experiment_name: str,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Experiment:
        """Return an experiment as SageMaker has it; without an answer, as the journal does.

        Raises:
            ComponentNotFoundError: SageMaker has none of that name, and neither has the journal.
        """
        return cls._loaded(experiment_name, sagemaker_boto_client)

    @classmethod
    def list(
        cls,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Iterator[ExperimentSummary]:
        """Yield the journal's experiments, and SageMaker's if it answers in time.

        Args:
            created_before: Only those created before this time.
            created_after: Only those created after this time.
            sort_by: "Name" or "CreationTime", the default.
            sort_order: "Ascending" or "Descending", the default.
            sagemaker_boto_client: Client for the question.
        """
        members = {
            "CreatedBefore": created_before,
            "CreatedAfter": created_after,
            "SortBy": sort_by,
            "SortOrder": sort_order,
        }
        return experiments.listed(Source(None, sagemaker_boto_client), "experiment", members)

    @classmethod
    def search(
        cls,
        search_expression: Any = None,  # noqa: ANN401 - a SearchExpression, or a dict
        sort_by: str | None = None,
        sort_order: str | None = None,
        max_results: int | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Iterator[ExperimentSearchResult]:
        """Yield the experiments that an expression fits, from the journal and from SageMaker."""
        members = {"SortBy": sort_by, "SortOrder": sort_order, "MaxResults": max_results}
        source = Source(None, sagemaker_boto_client)
        return experiments.searched(source, "experiment", search_expression, members)

    def create_trial(
        self, trial_name: str | None = None, trial_name_prefix: str = "SageMakerTrial"
    ) -> Trial:
        """Record a trial of the experiment, see ``Trial.create``.

        Args:
            trial_name: Its name; None for a unique one.
            trial_name_prefix: The beginning of a unique name.
        """
        return Trial.create(
            str(self.experiment_name),
            trial_name or _base_types.name(trial_name_prefix),
            self.sagemaker_boto_client,
        )

    def delete_all(self, action: str) -> None:
        """Delete the experiment, its trials and their components in SageMaker, now.

        Args:
            action: "--force", to confirm it.

        Raises:
            InvalidInputError: (a ValueError) It is not confirmed. Nothing was deleted.
            RemoteError: SageMaker could not be asked, or refuses. Call it again to delete the rest.
        """
        _base_types.check_forced(action)
        members = {"ExperimentName": self.experiment_name}
        for each in [*items_of_pages(self._ask, "list_trials", members, "TrialSummaries")]:
            self._delete_trial(each["TrialName"])
        self.delete()
