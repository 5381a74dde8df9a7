"""Search expressions, as SageMaker's Search takes them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, unique
from typing import Any

from journaltrack.compat.smexperiments import _base_types
from journaltrack.errors import InvalidInputError


@unique
class Operator(Enum):
    """How a filter compares."""

    EQUALS = "Equals"
    NOT_EQUALS = "NotEquals"
    GREATER_THAN = "GreaterThan"
    GREATER_THAN_OR_EQUAL = "GreaterThanOrEqualTo"
    LESS_THAN = "LessThan"
    LESS_THAN_OR_EQUAL = "LessThanOrEqualTo"
    CONTAINS = "Contains"
    EXISTS = "Exists"
    NOT_EXISTS = "NotExists"


@unique
class BooleanOperator(Enum):
    """How the parts of an expression are joined."""

    AND = "And"
    OR = "Or"


class SearchObject(_base_types.ApiObject):
    """A part of a search expression."""

    def to_boto(self) -> dict[str, Any]:  # type: ignore[override]
        """Return it as boto3 takes it."""
        return _base_types.ApiObject.to_boto(self)


class Filter(SearchObject):
    """Compare a property such as "Parameters.lr" with a text."""

    name: str | None = None
    operator: str | None = None
    value: str | None = None

    def __init__(
        self, name: str, operator: Operator | None = None, value: str | None = None
    ) -> None:
        super().__init__(name=name, operator=operator and operator.value, value=value)


class NestedFilter(SearchObject):
    """Filters that one member of a property such as "Metrics" must fit."""

    nested_property_name: str | None = None
    filters: list[dict[str, Any]] | None = None

    def __init__(self, property_name: str, filters: Sequence[Filter]) -> None:
        super().__init__(nested_property_name=property_name, filters=_of(filters))


class SearchExpression(SearchObject):
    """Filters, joined by "And" or "Or"."""

    filters: list[dict[str, Any]] | None = None
    nested_filters: list[dict[str, Any]] | None = None
    sub_expressions: list[dict[str, Any]] | None = None
    operator: str | None = None

    def __init__(
        self,
        filters: Sequence[Filter] | None = None,
        nested_filters: Sequence[NestedFilter] | None = None,
        sub_expressions: Sequence[SearchExpression] | None = None,
        boolean_operator: BooleanOperator = BooleanOperator.AND,
    ) -> None:
        if filters is None and nested_filters is None and sub_expressions is None:
            raise InvalidInputError(
                "a search expression needs a filter, a nested filter or a subexpression"
            )
        super().__init__(
            filters=_of(filters),
            nested_filters=_of(nested_filters),
            sub_expressions=_of(sub_expressions),
            operator=boolean_operator.value,
        )


def _of(parts: Sequence[SearchObject] | None) -> list[dict[str, Any]] | None:
    return None if parts is None else [each.to_boto() for each in parts]
