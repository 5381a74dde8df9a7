"""Trials, recorded offline."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from journaltrack.compat.smexperiments import _base_types
from journaltrack.compat.smexperiments.trial_component import TrialComponent
from journaltrack.tracking import experiments
from journaltrack.tracking.catalog import Source

if TYPE_CHECKING:
    from journaltrack.compat.smexperiments.api_types import (
        TrialComponentSummary,
        TrialSearchResult,
        TrialSummary,
    )

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]


class Trial(_base_types.Record):
    """A collection of trial components, in an experiment.

    Assigning to ``display_name`` or ``tags`` records the new value.
    """

    _kind = "trial"
    _changeable = frozenset({"display_name", "tags"})

    trial_name: str | None = None
    trial_arn: str | None = None
    display_name: str | None = None
    experiment_name: str | None = None
    tags: Any = None
    creation_time: datetime | None = None
    last_modified_time: datetime | None = None

    MAX_DELETE_ALL_ATTEMPTS = 3

    @classmethod
    def load(cls, trial_name: str, sagemaker_boto_client: Any = None) -> Trial:  # noqa: ANN401
        """Return a trial as SageMaker has it; without an answer, as the journal does.

        Raises:
            ComponentNotFoundError: SageMaker has none of that name, and neither has the journal.
        """
        return cls._loaded(trial_name, sagemaker_boto_client)

    @classmethod
    def create(
        cls,
        experiment_name: str,
        trial_name: str | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        trial_components: builtins.list[Any] | None = None,
        tags: Tags | None = None,
    ) -> Trial:
        """Record a trial, and deliver it if SageMaker answers in time.

        Its experiment is created when missing. To a trial that exists already tags are added.

        Args:
            experiment_name: Its experiment.
            trial_name: Its name; None for a unique one.
            sagemaker_boto_client: Client for the delivery.
            trial_components: Components to add: trackers, components, summaries or names.
            tags: Tags of the trial.

        Raises:
            InvalidInputError: SageMaker could never take it. Nothing was recorded.
        """
        made = cls(
            sagemaker_boto_client,
            trial_name=trial_name or _base_types.name("Trial"),
            experiment_name=experiment_name,
        )
        made._declare({"tags": tags})
        if tags is not None:
            made.__dict__["tags"] = tags
        for each in trial_components or ():
            made.add_trial_component(each)
        return made.save()

    @classmethod
    def list(
        cls,
        experiment_name: str | None = None,
        trial_component_name: str | None = None,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Iterator[TrialSummary]:
        """Yield the journal's trials, and SageMaker's if it answers in time.

        Args:
            experiment_name: Only those of this experiment.
            trial_component_name: Only those that this component is in.
            created_before: Only those created before this time.
            created_after: Only those created after this time.
            sort_by: "Name" or "CreationTime", the default.
            sort_order: "Ascending" or "Descending", the default.
            sagemaker_boto_client: Client for the question.
        """
        members = {
            "ExperimentName": experiment_name,
            "TrialComponentName": trial_component_name,
            "CreatedBefore": created_before,
            "CreatedAfter": created_after,
            "SortBy": sort_by,
            "SortOrder": sort_order,
        }
        return experiments.listed(Source(None, sagemaker_boto_client), "trial", members)

    @classmethod
    def search(
        cls,
        search_expression: Any = None,  # noqa: ANN401 - a SearchExpression, or a dict
        sort_by: str | None = None,
        sort_order: str | None = None,
        max_results: int | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Iterator[TrialSearchResult]:
        """Yield the trials that an expression fits, from the journal and from SageMaker."""
        members = {"SortBy": sort_by, "SortOrder": sort_order, "MaxResults": max_results}
        source = Source(None, sagemaker_boto_client)
        return experiments.searched(source, "trial", search_expression, members)

    def add_trial_component(self, tc: Any) -> None:  # noqa: ANN401 - see below
        """Record that a component belongs to the trial. A component may be in many trials.

        An open tracker delivers it on close. Otherwise it is delivered now, if SageMaker answers in
        time.

        Args:
            tc: A tracker, a component, a summary, or a component's name.
        """
        experiments.join(self._source, tc, self.experiment_name, self._name)

    def remove_trial_component(self, tc: Any) -> None:  # noqa: ANN401
        """Record that a component no longer belongs to the trial; see ``add_trial_component``."""
        experiments.leave(self._source, tc, self._name)

    def list_trial_components(
        self,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> Iterator[TrialComponentSummary]:
        """Yield the trial's components, see ``TrialComponent.list``."""
        return TrialComponent.list(
            trial_name=self.trial_name,
            created_before=created_before,
            created_after=created_after,
            sort_by=sort_by,
            sort_order=sort_order,
            max_results=max_results,
            next_token=next_token,
            sagemaker_boto_client=self.sagemaker_boto_client,
        )

    def delete_all(self, action: str) -> None:
        """Delete the trial and its components in SageMaker, now; see ``Experiment.delete_all``."""
        _base_types.check_forced(action)
        self._delete_trial(self._name)

    def _declare(self, members: Mapping[str, Any]) -> None:
        experiments.declare(
            self._source, "trial", self._name, experiment=self.experiment_name, **members
        )
