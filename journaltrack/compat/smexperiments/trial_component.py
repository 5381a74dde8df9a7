"""Trial components, with the original's signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any, Final

from journaltrack.compat.smexperiments import _base_types
from journaltrack.errors import InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.tracking import trial_component

if TYPE_CHECKING:
    from datetime import datetime

    from journaltrack.compat.smexperiments.api_types import (
        TrialComponentSearchResult,
        TrialComponentSummary,
    )

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]

_MEMBERS: Final = (
    "trial_component_name",
    "trial_component_arn",
    "display_name",
    "source",
    "status",
    "start_time",
    "end_time",
    "creation_time",
    "last_modified_time",
    "parameters",
    "input_artifacts",
    "output_artifacts",
    "metrics",
    "tags",
)


class TrialComponent(trial_component.TrialComponent):
    """A trial component, see ``journaltrack.types``. In the default journal."""

    __slots__ = ()

    def _own_parameters(self) -> dict[str, str | float | None]:
        """Return what the original would have sent: None, NaN and infinity as their text."""
        return {
            name: vocabulary.sent_parameter(value)
            for name, value in super()._own_parameters().items()
        }

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
        """Return a component, or a dict of attributes, as boto3 takes it, without what is None."""
        if isinstance(obj, trial_component.TrialComponent):
            obj = {name: getattr(obj, name) for name in _MEMBERS}
        given = _base_types.Record.to_boto(obj)
        shape = {name: _boto(value) for name, value in given.items()}
        if "Parameters" in given:
            shape["Parameters"] = {
                name: {"NumberValue": value}
                if isinstance(value, Number)
                else {"StringValue": str(value)}
                for name, value in given["Parameters"].items()
            }
        return shape

    def with_boto(self, boto_dict: Mapping[str, Any]) -> None:
        """Raise: a component's attributes are its journal's."""
        type(self).from_boto(boto_dict)


def _boto(value: Any) -> Any:  # noqa: ANN401 - an attribute's value, and boto3's
    """Return an attribute's value as boto3 takes it: objects, and those in it, are dicts."""
    if is_dataclass(value) and not isinstance(value, type):
        return _base_types.Record.to_boto({n.name: getattr(value, n.name) for n in fields(value)})
    if isinstance(value, Mapping):
        return {name: _boto(each) for name, each in value.items()}
    return [_boto(each) for each in value] if isinstance(value, list) else value
