"""Trial components, with the original's signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from journaltrack.compat.smexperiments import _base_types
from journaltrack.errors import InvalidInputError
from journaltrack.tracking import trial_component

if TYPE_CHECKING:
    from datetime import datetime

    from journaltrack.compat.smexperiments.api_types import (
        TrialComponentSearchResult,
        TrialComponentSummary,
    )

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]


class TrialComponent(trial_component.TrialComponent):
    """A trial component, see ``journaltrack.types``. In the default journal."""

    __slots__ = ()

    @classmethod
    def create(  # type: ignore[override]
        cls,
        trial_component_name: str,
        display_name: str | None = None,
        tags: Tags | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401 - boto3 has no types of its own
    ) -> TrialComponent:
        """Record a new component, offline."""
        return cls._of(
            super().create(trial_component_name, display_name, tags, sagemaker_boto_client)
        )

    @classmethod
    def load(  # type: ignore[override]
        cls,
        trial_component_name: str,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> TrialComponent:
        """Return a component that exists."""
        return cls._of(super().load(trial_component_name, sagemaker_boto_client))

    @classmethod
    def list(  # type: ignore[override]
        cls,
        source_arn: str | None = None,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        trial_name: str | None = None,
        experiment_name: str | None = None,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> Iterator[TrialComponentSummary]:
        """Yield the journal's components, and SageMaker's if it answers in time."""
        return super().list(
            source_arn,
            created_before,
            created_after,
            sort_by,
            sort_order,
            sagemaker_boto_client,
            trial_name,
            experiment_name,
            max_results,
            next_token,
        )

    @classmethod
    def search(  # type: ignore[override]
        cls,
        search_expression: Any = None,  # noqa: ANN401
        sort_by: str | None = None,
        sort_order: str | None = None,
        max_results: int | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> Iterator[TrialComponentSearchResult]:
        """Yield the components that an expression fits, from the journal and from SageMaker."""
        return super().search(
            search_expression, sort_by, sort_order, max_results, sagemaker_boto_client
        )

    @classmethod
    def _of(cls, found: trial_component.TrialComponent) -> TrialComponent:
        """Return the same component as one of this class, so that ``isinstance`` finds it."""
        component = cls(found.journal, found.component_id, found.trial_component_name)
        component.recorder = found.recorder
        return component

    @classmethod
    def from_boto(cls, boto_dict: Mapping[str, Any], **kwargs: Any) -> None:  # noqa: ANN401, ARG003
        """Raise: a component is read from a journal."""
        raise InvalidInputError(
            "a trial component is not made of boto3's answer; nothing was recorded",
            hint="TrialComponent.load(name) reads it from the journal and from SageMaker",
        )

    @classmethod
    def to_boto(cls, obj: object) -> dict[str, Any]:
        """Return an object's attributes, or a dict, by boto3's names, without those of None."""
        return _base_types.Record.to_boto(obj)

    def with_boto(self, boto_dict: Mapping[str, Any]) -> None:
        """Raise: a component's attributes are its journal's."""
        type(self).from_boto(boto_dict)
