"""The SageMaker metrics service, on the simulated account.

What it is: BatchPutMetrics, BatchGetMetrics and the summaries that DescribeTrialComponent gives.
It must not know: HTTP, credentials, how faults are scheduled.
Invariant: BatchPutMetrics appends, always: the real service documents no de-duplication, so points
that were sent twice are there twice.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.simulator.state import Component, MetricPoint, State
from tests.simulator.wire import ServiceError

Params = Mapping[str, Any]
Output = dict[str, Any]

_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Min": min,
    "Max": max,
    "Avg": statistics.fmean,
    "Count": len,
    "StdDev": statistics.pstdev,
    "Last": lambda values: values[-1],
}
_PERIODS_S = {"OneMinute": 60, "FiveMinute": 300, "OneHour": 3600}


class Metrics:
    """The service; the caller holds the lock.

    Attributes:
        names_max: Distinct metric names to a component before METRIC_LIMIT_EXCEEDED.
        window_s: How far (past, future) a timestamp may lie, else VALIDATION_ERROR.
    """

    def __init__(self, state: State, clock: Callable[[], float]) -> None:
        self.names_max: int | None = None
        self.window_s: tuple[float, float] | None = None
        self._state, self._clock = state, clock

    def batch_put(
        self, params: Params, failing: Mapping[int, str], n: int, *, applied: bool = False
    ) -> Output:
        """Append every item but those in `failing` (index from 0 to error code); these, too, if
        `applied`.
        """
        name = params["TrialComponentName"]
        component = self._state.components.get(name)
        if component is None:
            message = f"TrialComponent '{name}' does not exist."
            raise ServiceError(400, "ResourceNotFound", message)
        errors: list[Output] = []
        for index, item in enumerate(params["MetricData"]):
            code = failing.get(index) or self._error(component, item)
            if code:
                errors.append({"Code": code, "MetricIndex": index})
                if not applied:
                    continue
            component.metrics.append(
                MetricPoint(
                    item["MetricName"], item["Timestamp"], item.get("Step"), item["Value"], n
                )
            )
        return {"Errors": errors} if errors else {}

    def batch_get(self, params: Params) -> Output:
        """Read back statistics per iteration or per stretch of time."""
        return {"MetricQueryResults": [self._query(query) for query in params["MetricQueries"]]}

    def _error(self, component: Component, item: Params) -> str | None:
        if self.window_s is not None:
            age = self._clock() - item["Timestamp"]
            past, future = self.window_s
            if not -future <= age <= past:
                return "VALIDATION_ERROR"
        if self.names_max is not None:
            names = {point.name for point in component.metrics} | {item["MetricName"]}
            if len(names) > self.names_max:
                return "METRIC_LIMIT_EXCEEDED"
        return None

    def _query(self, query: Params) -> Output:
        owners = [c for c in self._state.components.values() if c.arn == query["ResourceArn"]]
        if not owners:
            message = f"'{query['ResourceArn']}' does not exist"
            return {"Status": "ValidationError", "Message": message, **_values({}, len)}
        groups: dict[int, list[float]] = {}
        for point in owners[0].metrics:
            at = _x_value(point, query)
            if point.name != query["MetricName"] or at is None:
                continue
            if query.get("Start", at) <= at <= query.get("End", at):
                groups.setdefault(at, []).append(point.value)
        return {"Status": "Complete", **_values(groups, _STATISTICS[query["MetricStat"]])}


def _x_value(point: MetricPoint, query: Params) -> int | None:
    if query["XAxisType"] == "IterationNumber":
        return point.step
    period_s = _PERIODS_S.get(query["Period"], 1)
    return int(point.timestamp) // period_s * period_s


def _values(
    groups: Mapping[int, list[float]], statistic: Callable[[Sequence[float]], float]
) -> Output:
    ordered = sorted(groups.items())
    return {
        "XAxisValues": [at for at, _ in ordered],
        "MetricValues": [float(statistic(values)) for _, values in ordered],
    }


def metric_summaries(component: Component) -> list[Output]:
    """Summarise each metric of a component, as DescribeTrialComponent does."""
    by_name: dict[str, list[MetricPoint]] = {}
    for point in component.metrics:
        by_name.setdefault(point.name, []).append(point)
    return [
        {
            "MetricName": name,
            "SourceArn": component.arn,
            "TimeStamp": points[-1].timestamp,
            "Max": max(point.value for point in points),
            "Min": min(point.value for point in points),
            "Last": points[-1].value,
            "Count": len(points),
            "Avg": statistics.fmean(point.value for point in points),
        }
        for name, points in by_name.items()
    ]
