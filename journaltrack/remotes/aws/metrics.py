"""Reading metrics back from SageMaker: summaries from DescribeTrialComponent, single steps from BatchGetMetrics.

Both are aggregates (counts and means), and documented nowhere to be complete at once; ``journaltrack.replay.evidence.readback`` says what
they prove. Endpoints or permissions without BatchGetMetrics give the summaries alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from journaltrack.errors import ErrorKind
from journaltrack.remotes.aws.errors import classified, not_found
from journaltrack.replay.evidence.readback import ReadBack, Shown
from journaltrack.replay.remote import RemoteMetric

if TYPE_CHECKING:
    from journaltrack.remotes.aws.clients import Clients

logger = logging.getLogger(__name__)

OWNER_PREFIX: Final = "journaltrack:"
"""How MetadataProperties.GeneratedBy says whose a component is."""
QUERIES_MAX: Final = 100
"""Queries in one BatchGetMetrics request (``MetricQueryList``); a metric takes two: counts and means."""


def read_back(clients: Clients, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
    """See ``Remote.read_metrics``.

    Raises:
        ClientError, BotoCoreError, RemoteError: The request failed.
    """
    try:
        answer = clients.sagemaker.describe_trial_component(TrialComponentName=component)
    except ClientError as error:
        if not_found(error):
            return None
        raise
    totals = {name: Shown(metric.points, metric.mean) for name, metric in summaries(answer).items()}
    shown: dict[tuple[str, int], Shown] = {}
    read: set[str] = set()
    remaining = iter(steps.items())
    while some := dict(islice(remaining, QUERIES_MAX // 2)):
        results = _queried(clients, answer["TrialComponentArn"], some)
        if results is None:
            break
        for name, of_metric in zip(some, results, strict=True):
            if of_metric is not None:
                read.add(name)
                shown.update({(name, step): each for step, each in of_metric.items()})
    described = answer.get("ResponseMetadata", {})
    return ReadBack(
        totals,
        shown,
        frozenset(read),
        described.get("RequestId"),
        owner=owner_of(answer) or "",
        at_ns=_date_ns(described.get("HTTPHeaders")),
    )


def owner_of(answer: Mapping[str, Any]) -> str | None:
    """``ComponentSpec.owner`` of a component, from a DescribeTrialComponent answer; None if it was not made by us."""
    generated_by = str((answer.get("MetadataProperties") or {}).get("GeneratedBy", ""))
    return generated_by[len(OWNER_PREFIX) :] if generated_by.startswith(OWNER_PREFIX) else None


def _date_ns(headers: Mapping[str, str] | None) -> int | None:
    """When the service says that it answered (RFC 9110, ``Date``), to the second."""
    try:
        return int(parsedate_to_datetime((headers or {})["date"]).timestamp()) * 10**9
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def summaries(answer: Mapping[str, Any]) -> dict[str, RemoteMetric]:
    """The metrics of a DescribeTrialComponent answer (``TrialComponentMetricSummary``: no member is required), by name."""
    found: dict[str, RemoteMetric] = {}
    for each in answer.get("Metrics", []):
        if "MetricName" in each and "Count" in each and "Avg" in each:
            mean = each["Avg"]
            found[each["MetricName"]] = RemoteMetric(
                each["Count"], each.get("Min", mean), each.get("Max", mean), each.get("Last", mean), mean
            )
    return found


def _queried(clients: Clients, arn: str, steps: Mapping[str, tuple[int, int]]) -> list[dict[int, Shown] | None] | None:
    """By metric, in order: its steps, or None where they can't be told; None for all if the request is not to be had."""
    queries = [_query(arn, name, statistic, *bounds) for name, bounds in steps.items() for statistic in ("Count", "Avg")]
    try:
        answer = clients.metrics.batch_get_metrics(MetricQueries=queries)
    except ClientError as error:
        if classified(error).kind is ErrorKind.TRANSIENT:
            raise
        logger.info("single steps can't be read back, sums alone are compared: %s", classified(error).message)
        return None
    results = answer.get("MetricQueryResults", [])
    if len(results) != len(queries):
        return None
    pairs = zip(_pairs(results), steps.values(), strict=True)
    return [_steps(counts, means, bounds) for (counts, means), bounds in pairs]


def _query(arn: str, name: str, statistic: str, first: int, last: int) -> dict[str, Any]:
    return {
        "MetricName": name,
        "ResourceArn": arn,
        "MetricStat": statistic,
        "Period": "IterationNumber",
        "XAxisType": "IterationNumber",
        "Start": first,
        "End": last,
    }


def _pairs(results: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return zip(results[::2], results[1::2], strict=True)


def _steps(counts: dict[str, Any], means: dict[str, Any], bounds: tuple[int, int]) -> dict[int, Shown] | None:
    """One metric's steps; None unless both answers are complete and about the same steps."""
    if counts.get("Status") != "Complete" or means.get("Status") != "Complete":
        return None
    count_of = dict(zip(counts["XAxisValues"], counts["MetricValues"], strict=False))
    mean_of = dict(zip(means["XAxisValues"], means["MetricValues"], strict=False))
    if count_of.keys() != mean_of.keys():
        return None
    first, last = bounds
    return {step: Shown(round(count), mean_of[step]) for step, count in count_of.items() if first <= step <= last}
