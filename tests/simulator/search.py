"""SageMaker's Search over experiments, trials and components.

What it is: compiles a search expression against botocore's shape of the records, then asks each
record.
It must not know: HTTP, faults, how a thing came to be.
Invariant: a search changes nothing; an expression is refused as a whole before any record is read,
so that an empty account refuses what a full one does.

From the reference: properties are those of the record, and `Tags.KEY`; comparison needs numbers or
times, Contains and In need text; 50 conditions in all; one Contains, but for the properties that it
lists; the latest modified comes first. From AWS's own examples: `Parents.TrialName`,
`Parameters.KEY` without its type, `metrics.NAME.max` in any case. Documented nowhere that we found,
so chosen here: text is equal in its exact spelling; NotEquals holds where Equals doesn't, thus also
for what is not there; a metric without a statistic means its last value; what lacks the property of
SortBy is last.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

from tests.simulator.answers import Operations, Output, Params, invalid, page_of, present, tag_list
from tests.simulator.constraints import service_model
from tests.simulator.sagemaker import component_record, experiment_record, trial_record
from tests.simulator.state import Component, State, Trial
from tests.simulator.wire import ServiceError

Value = str | float
Record = Output
Predicate = Callable[[Record], bool]

_CONDITIONS_MAX = 50
# The kind of resource, and the name of its shape and of its member in a result.
_RESOURCES = {
    "Experiment": "Experiment",
    "ExperimentTrial": "Trial",
    "ExperimentTrialComponent": "TrialComponent",
}
_KINDS = {"string": "text", "timestamp": "time", "integer": "number", "double": "number"}
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
_CONTAINS_OFTEN = {
    "displayname",
    "experimentname",
    "trialname",
    "trialcomponentname",
    "tags",
    "inputartifacts",
    "outputartifacts",
}


@dataclass(frozen=True, slots=True)
class _Property:
    """What a name stands for: its kind (text, number, time, either, group) and its values."""

    kind: str
    values: Callable[[Any], list[Value]]


class Search:
    """The service; the caller holds the lock.

    Attributes:
        lag_s: How long ago a thing was created before it is found. AWS indexes in its own time
            (its integration tests wait for up to 30 s).
    """

    def __init__(self, state: State, region: str, clock: Callable[[], float]) -> None:
        self.lag_s = 0.0
        self._state, self._region, self._clock = state, region, clock
        self.operations: Operations = {"Search": self._search}

    def _search(self, params: Params) -> Output:
        name = _RESOURCES.get(params["Resource"])
        if name is None:
            message = f"The simulated account has no resources of type {params['Resource']}"
            raise invalid(message)
        shape = service_model("sagemaker").shape_for(name)
        order = _resolve(shape, params.get("SortBy") or "LastModifiedTime")
        matches = _compile(shape, params.get("SearchExpression"))
        latest = self._clock() - self.lag_s
        found = [
            {member: value for member, value in record.items() if member in shape.members}
            for record in self._records(name)
            if record["CreationTime"] <= latest and matches(record)
        ]
        with_it = [record for record in found if order.values(record)]
        with_it.sort(key=lambda record: _sort_key(order.values(record)[0]))
        if params.get("SortOrder", "Descending") == "Descending":
            with_it.reverse()
        ordered = with_it + [record for record in found if not order.values(record)]
        page, token = page_of(params, ordered)
        return present(
            {
                "Results": [{name: record} for record in page],
                "NextToken": token,
                "TotalHits": {"Value": len(ordered), "Relation": "EqualTo"},
            }
        )

    def _records(self, name: str) -> list[Record]:
        state = self._state
        if name == "Experiment":
            experiments = state.experiments.values()
            return [_tagged(experiment_record(item), item.tags) for item in experiments]
        if name == "Trial":
            return [self._trial(item) for item in state.trials.values()]
        return [self._component(item) for item in state.components.values()]

    def _trial(self, item: Trial) -> Record:
        members = ("TrialComponentName", "TrialComponentArn", "CreationTime", "CreatedBy")
        # A test may have taken a component out of the account behind the trial's back.
        held = [self._state.components.get(name) for name in item.components]
        records = [component_record(one, self._region) for one in held if one is not None]
        summaries = [{name: record[name] for name in members} for record in records]
        return {**_tagged(trial_record(item), item.tags), "TrialComponentSummaries": summaries}

    def _component(self, item: Component) -> Record:
        parents = [
            {"TrialName": trial.name, "ExperimentName": trial.experiment}
            for trial in self._state.trials.values()
            if item.name.lower() in trial.components
        ]
        record = component_record(item, self._region)
        return {**_tagged(record, item.tags), "Parents": parents}


def _tagged(record: Record, tags: Mapping[str, str]) -> Record:
    return {**record, "Tags": tag_list(tags)}


def _compile(shape: Any, expression: Params | None) -> Predicate:
    if expression is None:
        return lambda _record: True
    if _count(expression) > _CONDITIONS_MAX:
        message = f"A search expression can have at most {_CONDITIONS_MAX} conditions"
        raise invalid(message)
    once = [name for name in _contained(expression) if _head(name) not in _CONTAINS_OFTEN]
    if len(once) > 1:
        message = "'CONTAINS' operator usage limit of 1 exceeded."
        raise invalid(message)
    return _expression(shape, expression)


def _count(expression: Params) -> int:
    nested = expression.get("NestedFilters") or []
    deeper = expression.get("SubExpressions") or []
    own = len(expression.get("Filters") or []) + len(nested) + len(deeper)
    return own + sum(len(item["Filters"]) for item in nested) + sum(_count(item) for item in deeper)


def _contained(expression: Params) -> list[str]:
    """Name the properties that the filters with Contains ask for."""
    filters = list(expression.get("Filters") or [])
    for nested in expression.get("NestedFilters") or []:
        filters += nested["Filters"]
    names = [item["Name"] for item in filters if item.get("Operator") == "Contains"]
    for deeper in expression.get("SubExpressions") or []:
        names += _contained(deeper)
    return names


def _head(name: str) -> str:
    return name.partition(".")[0].lower()


def _expression(shape: Any, expression: Params) -> Predicate:
    conditions = [
        *(_filter(shape, item) for item in expression.get("Filters") or ()),
        *(_nested(shape, item) for item in expression.get("NestedFilters") or ()),
        *(_expression(shape, item) for item in expression.get("SubExpressions") or ()),
    ]
    if not conditions:
        message = "A search expression needs a filter, a nested filter or a subexpression"
        raise invalid(message)
    every = any if expression.get("Operator") == "Or" else all
    return lambda record: every(condition(record) for condition in conditions)


def _nested(shape: Any, nested: Params) -> Predicate:
    """A nested filter holds if one item of a list satisfies all of its conditions."""
    prefix = nested["NestedPropertyName"]
    member = _members(shape).get(prefix.lower())
    if member is None or shape.members[member].type_name != "list":
        raise _unknown(prefix)
    items = shape.members[member].member
    conditions = []
    for item in nested["Filters"]:
        head, _, rest = item["Name"].partition(".")
        if head.lower() != prefix.lower() or not rest:
            raise _unknown(item["Name"])
        conditions.append(_filter(items, {**item, "Name": rest}))
    return lambda record: any(
        all(condition(item) for condition in conditions) for item in record.get(member) or ()
    )


def _filter(shape: Any, item: Params) -> Predicate:
    name, how, given = item["Name"], item.get("Operator") or "Equals", item.get("Value")
    asked = _resolve(shape, name)
    read = asked.values
    if how in {"Exists", "NotExists"}:
        return lambda record: bool(read(record)) == (how == "Exists")
    if given is None:
        message = f"The filter of {name} needs a Value for {how}"
        raise invalid(message)
    if how in _COMPARISONS:
        compare, bound = _COMPARISONS[how], _bound(name, asked.kind, how, given)
        return lambda record: any(
            compare(value, bound) for value in read(record) if not isinstance(value, str)
        )
    if how in {"Contains", "In"}:
        if asked.kind in {"number", "time"} or (how, asked.kind) == ("In", "group"):
            raise _unsupported(name, how)
        one_of = given.split(",")
        fits = (lambda text: text in one_of) if how == "In" else (lambda text: given in text)
        return lambda record: any(fits(v) for v in read(record) if isinstance(v, str))
    if asked.kind == "group":
        raise _unsupported(name, how)
    wanted = _equal_to(name, asked.kind, given)
    return lambda record: any(v in wanted for v in read(record)) == (how == "Equals")


def _bound(name: str, kind: str, how: str, given: str) -> float:
    if kind in {"text", "group"}:
        raise _unsupported(name, how)
    return _time(name, given) if kind == "time" else _number(name, given)


def _equal_to(name: str, kind: str, given: str) -> set[Value]:
    """Give the values that count as equal; a parameter may be a number or a text."""
    if kind == "time":
        return {_time(name, given)}
    if kind == "number":
        return {_number(name, given)}
    try:
        return {given, float(given)} if kind == "either" else {given}
    except ValueError:
        return {given}


def _number(name: str, given: str) -> float:
    try:
        return float(given)
    except ValueError:
        message = f"The value '{given}' of the filter of {name} is not a number"
        raise invalid(message) from None


def _time(name: str, given: str) -> float:
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        message = f"The value '{given}' of the filter of {name} is not a date-time of ISO 8601"
        raise invalid(message) from None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def _resolve(shape: Any, path: str) -> _Property:
    """Find what a property's name stands for in a shape.

    Raises:
        ServiceError: The shape has no such property.
    """
    found = _step(shape, path)
    if found is None:
        raise _unknown(path)
    return found


def _step(shape: Any, path: str) -> _Property | None:
    if shape.name == "TrialComponentParameterValue":
        return None if path else _Property("either", partial(_leaves, shape))
    if shape.type_name in _KINDS:
        return None if path else _Property(_KINDS[shape.type_name], partial(_leaves, shape))
    if not path:
        return _Property("group", partial(_leaves, shape))
    if shape.type_name == "structure":
        head, _, rest = path.partition(".")
        member = _members(shape).get(head.lower())
        inner = _step(shape.members[member], rest) if member else None
        return _inside(inner, lambda value: [value[member]] if member in value else [])
    if shape.type_name == "map":
        return _of_map(shape, path)
    return _of_list(shape, path)


def _of_map(shape: Any, path: str) -> _Property | None:
    """`KEY` or `KEY.Member`: a key has dots if what comes after the last is no member."""
    key, inner = path, _step(shape.value, "")
    head, _, last = path.rpartition(".")
    if shape.value.name == "TrialComponentArtifact":
        named = bool(head) and last.lower() in _members(shape.value)
        key, inner = (head, _step(shape.value, last)) if named else (path, _step(shape.value, ""))
    return _inside(inner, lambda value: [value[key]] if key in value else [])


def _of_list(shape: Any, path: str) -> _Property | None:
    item = shape.member
    if item.name == "Tag":
        return _Property("text", lambda tags: [tag["Value"] for tag in tags if tag["Key"] == path])
    if item.name == "TrialComponentMetricSummary":
        head, _, last = path.rpartition(".")
        named = bool(head) and last.lower() in _members(item)
        name, inner = (head, _step(item, last)) if named else (path, _step(item, "Last"))
        return _inside(inner, lambda metrics: [m for m in metrics if m["MetricName"] == name])
    return _inside(_step(item, path), lambda value: value)


def _inside(inner: _Property | None, take: Callable[[Any], Sequence[Any]]) -> _Property | None:
    if inner is None:
        return None
    read = inner.values
    return _Property(inner.kind, lambda value: [v for item in take(value) for v in read(item)])


def _leaves(shape: Any, value: Any) -> list[Value]:
    """Give every text and number inside of a value, keys of maps included."""
    if shape.type_name == "map":
        inner = (leaf for item in value.values() for leaf in _leaves(shape.value, item))
        return [*value, *inner]
    if shape.type_name == "list":
        return [leaf for item in value for leaf in _leaves(shape.member, item)]
    if shape.type_name == "structure":
        members = shape.members
        return [
            leaf for name in members.keys() & value for leaf in _leaves(members[name], value[name])
        ]
    return [value]


def _members(shape: Any) -> dict[str, str]:
    return {name.lower(): name for name in shape.members}


def _sort_key(value: Value) -> tuple[bool, Value]:
    return isinstance(value, str), value


def _unknown(name: str) -> ServiceError:
    message = f"Unknown property name: {name}"
    return invalid(message)


def _unsupported(name: str, how: str) -> ServiceError:
    message = f"The operator {how} is not supported for the property {name}"
    return invalid(message)
