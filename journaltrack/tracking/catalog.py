"""List and search trial components: in the journal, and in SageMaker if it answers in time.

One shape serves all of it: that of boto3's answers. A component of the journal is put into it, so
that the journal and SageMaker are filtered and sorted (``search_rules``) and merged alike.

Must not know boto3. What the network is needed for goes through ``Services.ask`` and the guard.

Invariants: nothing is recorded, and no journal is made. Without an answer, the journal's is the
answer. Of a component that both have, SageMaker's values count, except where the journal has
entries that are not delivered yet.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError, JournalNotFoundError
from journaltrack.journal import groups, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import origins
from journaltrack.tracking.jobs import component_of
from journaltrack.tracking.members import TrialComponentStatus, metric_summaries
from journaltrack.tracking.recording import moment
from journaltrack.tracking.search_rules import Shape, checked, expression_of, fits, in_sequence, utc
from journaltrack.tracking.settings import replay_request, settings_of
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.util import paths
from journaltrack.util.guard import guarded

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.tracking.members import TrialComponentMetricSummary
    from journaltrack.tracking.settings import Services, Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
_MAPS: Final = ("Parameters", "InputArtifacts", "OutputArtifacts")
_JOB: Final = re.compile(
    r"arn:[^:]*:sagemaker:[^:]*:[^:]*:(training|processing|transform)-job/(.+)"
)


@dataclass(frozen=True, slots=True)
class TrialComponentSummary:
    """A component in a list."""

    trial_component_name: str | None = None
    trial_component_arn: str | None = None
    display_name: str | None = None
    source_arn: str | None = None
    status: TrialComponentStatus | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    creation_time: datetime | None = None
    created_by: Any = None
    last_modified_time: datetime | None = None
    last_modified_by: Any = None
    trial_component_source: Shape | None = None

    def __str__(self) -> str:
        """Return the name, so that other libraries take the summary for it."""
        return self.trial_component_name or ""


@dataclass(frozen=True, slots=True)
class TrialComponentSearchResult:
    """A component that a search found. As in the original, nested members are boto3's."""

    trial_component_name: str | None = None
    trial_component_arn: str | None = None
    display_name: str | None = None
    source: Shape | None = None
    status: Shape | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    creation_time: datetime | None = None
    created_by: Any = None
    last_modified_time: datetime | None = None
    last_modified_by: Any = None
    parameters: Shape | None = None
    input_artifacts: Shape | None = None
    output_artifacts: Shape | None = None
    metrics: Any = None
    source_detail: Any = None
    tags: Any = None
    parents: Any = None

    def __str__(self) -> str:
        """Return the name, so that other libraries take the result for it."""
        return self.trial_component_name or ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where to look: a journal (None: the default one), and SageMaker as a caller reaches it.

    ``session`` is boto3's. A client is made of it when SageMaker is asked, and not before.
    """

    journal: str | os.PathLike[str] | Journal | None
    client: Any = None
    session: Any = None

    @property
    def folder(self) -> Path:
        """Return the journal's folder."""
        journal = self.journal
        return journal.path if isinstance(journal, Journal) else paths.journal_folder(journal)

    @property
    def settings(self) -> Settings:
        """Return the configuration, with the caller's client and session."""
        return settings_of(session=self.session, client=self.client)


def components(source: Source, members: Shape) -> Iterator[TrialComponentSummary]:
    """Return an iterator over the components of a list, see ``TrialComponent.list``.

    Args:
        source: Where to look.
        members: Of the request ListTrialComponents; None: not given.

    Raises:
        InvalidInputError: It can't be sorted so.
    """
    by = checked(members.get("SortBy") or "CreationTime", ("Name", "CreationTime"), "sort_by")
    order = order_of(members)
    before, after = bounds_of(members)
    job = _JOB.fullmatch(str(members.get("SourceArn") or ""))

    def is_wanted(shape: Shape) -> bool:
        """Return whether a component of the journal belongs into the list."""
        created = shape.get("CreationTime")
        is_of_job = members.get("SourceArn") is None or (
            job is not None and shape["TrialComponentName"].lower() == component_of(job[2], job[1])
        )
        parents = shape["Parents"]
        return (
            is_of_job
            and (before is None or (created is not None and created <= before))
            and (after is None or (created is not None and created >= after))
            and has_parent(parents, "TrialName", members.get("TrialName"))
            and has_parent(parents, "ExperimentName", members.get("ExperimentName"))
        )

    def left(pending: TrialComponent) -> bool:
        """Return whether the component is to leave the trial, which SageMaker has not heard."""
        known = _memberships(pending).get(str(members.get("TrialName")).lower())
        return known is not None and known.kind == vocabulary.DISASSOCIATE

    def answers(settings: Settings) -> list[Shape] | None:
        """Return SageMaker's components, or None without an answer."""
        found = pages(source, settings, "list_trial_components", members, "TrialComponentSummaries")
        return found and [{**each, "Source": each.get("TrialComponentSource")} for each in found]

    def results() -> Iterator[TrialComponentSummary]:
        """Yield the components of both, in order."""
        key = "TrialComponentName" if by == "Name" else by
        for shape in in_sequence(_both(source, is_wanted, answers, left), key, order):
            status = shape.get("Status")
            yield made(
                TrialComponentSummary,
                {
                    **shape,
                    "SourceArn": (shape.get("Source") or {}).get("SourceArn"),
                    "TrialComponentSource": shape.get("Source"),
                    "Status": status and made(TrialComponentStatus, status),
                },
            )

    return results()


def search(
    source: Source,
    expression: Any,  # noqa: ANN401 - the original's, or a dict
    members: Shape,
) -> Iterator[TrialComponentSearchResult]:
    """Return an iterator over the components that an expression fits.

    See ``TrialComponent.search``.

    Args:
        source: Where to look.
        expression: SageMaker's SearchExpression, or an object with ``to_boto()``.
        members: Further ones of the request Search; None: not given.

    Raises:
        InvalidInputError: The expression has an unknown operator, or it can't be sorted so.
        InvalidTypeError: It is no expression.
    """
    wanted = expression_of(expression)
    order = order_of(members)
    asked = {**members, "Resource": "ExperimentTrialComponent", "SearchExpression": wanted or None}

    def answers(settings: Settings) -> list[Shape] | None:
        """Return SageMaker's components, or None without an answer."""
        found = pages(source, settings, "search", asked, "Results")
        return found and [each["TrialComponent"] for each in found if "TrialComponent" in each]

    def results() -> Iterator[TrialComponentSearchResult]:
        """Yield the components of both, in order."""
        shapes = _both(source, lambda shape: fits(wanted, shape), answers, with_metrics=True)
        for shape in in_sequence(shapes, members.get("SortBy") or "LastModifiedTime", order):
            yield made(TrialComponentSearchResult, shape)

    return results()


def _both(
    source: Source,
    is_wanted: Callable[[Shape], bool],
    answers: Callable[[Settings], list[Shape] | None],
    left: Callable[[TrialComponent], bool] = lambda _: False,
    *,
    with_metrics: bool = False,
) -> list[Shape]:
    """Return SageMaker's components, and those of the journal that fit, each once.

    Those of SageMaker are left out that, by what the journal has yet to deliver, have ``left``.
    """
    found = answers(source.settings)
    remote = {str(each["TrialComponentName"]).lower(): each for each in found or ()}
    with reading(source.journal) as journal:
        if journal is None:
            return list(remote.values())
        metrics: Mapping[int, Sequence[TrialComponentMetricSummary]] | None = None
        for row in journal.runs():
            known = remote.get(row.name.lower())
            component = TrialComponent(journal, row.id, row.name, pending_alone=known is not None)
            try:
                shape = _shape(component)
                if with_metrics and known is None:
                    # One look at all points, and none if SageMaker has all of these.
                    metrics = metric_summaries(journal) if metrics is None else metrics
                    shape["Metrics"] = _metrics(metrics.get(row.id, ()))
            except ValueError:
                # A crafted journal, see ``TrialComponent``. It hides no other component.
                logger.warning("%s can't be read and is left out", limits.shown(row.name))
                continue
            if known is not None and left(component):
                del remote[row.name.lower()]
            elif known is not None:
                remote[row.name.lower()] = _over(shape, known)
            elif is_wanted(shape):
                remote[row.name.lower()] = shape
    return list(remote.values())


@contextlib.contextmanager
def reading(journal: str | os.PathLike[str] | Journal | None) -> Iterator[Journal | None]:
    """Open a journal to read it; None if there is none."""
    if isinstance(journal, Journal):
        yield journal
        return
    try:
        opened = Journal.open(journal, create=False, read_only=True)
    except JournalNotFoundError:
        yield None
        return
    with contextlib.closing(opened):
        yield opened


def pages(
    source: Source, settings: Settings, operation: str, members: Shape, items: str
) -> list[Shape] | None:
    """Return the items of all pages of an answer; None without an answer.

    Each page has the time of a look-up.

    Raises:
        InvalidInputError: There is no page of this size.
        InvalidTypeError: The size of a page is no integer.
    """
    given = {name: value for name, value in members.items() if value is not None}
    if "MaxResults" in given:
        given["MaxResults"] = _page_size(given["MaxResults"])
    ask = _services().ask
    if ask is None or settings.sync == "off":
        return None
    found: list[Shape] | None = None
    while True:
        request = replay_request(
            source.folder, "", settings.configuration.lookup_deadline_s, settings
        )
        failure = (
            f"SageMaker could not be asked ({operation}); the journal alone answers"
            if found is None
            else f"SageMaker's answer is incomplete ({operation}): {len(found)} were read"
        )
        answer = guarded(partial(ask, request, operation, given), failure, request.deadline)
        if answer is None:
            return found
        found = [*(found or ()), *answer.get(items, ())]
        token = answer.get("NextToken")
        # A stand-in may give the same page for ever.
        if not token or token == given.get("NextToken"):
            return found
        given["NextToken"] = token


def _services() -> Services:
    from journaltrack.tracking.tracker import Tracker  # noqa: PLC0415 - it imports trial_component

    return Tracker.services


def _shape(component: TrialComponent) -> dict[str, Any]:
    """Return a component of the journal as SageMaker would describe it."""
    status = component.status
    source = component.source
    sent = {name: vocabulary.sent_parameter(each) for name, each in component.parameters.items()}
    return {
        "TrialComponentName": component.trial_component_name,
        "TrialComponentArn": component.trial_component_arn,
        "DisplayName": component.display_name,
        "Source": source and {"SourceArn": source.source_arn, "SourceType": source.source_type},
        "Status": status and present(PrimaryStatus=status.primary_status, Message=status.message),
        "StartTime": component.start_time,
        "EndTime": component.end_time,
        "CreationTime": component.creation_time or _first_seen(component),
        "LastModifiedTime": component.last_modified_time or _last_entry(component),
        "Parameters": {
            name: {"StringValue" if isinstance(each, str) else "NumberValue": each}
            for name, each in sent.items()
        },
        "InputArtifacts": {
            name: present(Value=each.value, MediaType=each.media_type)
            for name, each in component.input_artifacts.items()
        },
        "OutputArtifacts": {
            name: present(Value=each.value, MediaType=each.media_type)
            for name, each in component.output_artifacts.items()
        },
        "Tags": component.tags or [],
        "Parents": _parents(component),
    }


def _metrics(summaries: Sequence[TrialComponentMetricSummary]) -> list[dict[str, Any]]:
    """Return a component's metrics as SageMaker's Search has them."""
    return [
        present(
            MetricName=each.metric_name,
            TimeStamp=each.time_stamp,
            Max=each.max,
            Min=each.min,
            Last=each.last,
            Count=each.count,
            Avg=each.avg,
        )
        for each in summaries
    ]


def present(**members: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def _first_seen(component: TrialComponent) -> datetime | None:
    sql = "SELECT created_at_ns FROM component WHERE id = ?"
    ((at_ns,),) = component.journal.database.read(sql, (component.component_id,))
    return moment(at_ns if isinstance(at_ns, int) else None)


def _last_entry(component: TrialComponent) -> datetime | None:
    times = [e.recorded_at_ns for e in component.journal.state_entries(component.component_id)]
    return moment(max(times, default=None))


def _parents(component: TrialComponent) -> list[dict[str, str]]:
    """Return the trials that the component is to be in, as SageMaker's Search names them."""
    return [
        present(ExperimentName=groups.membership_of(entry)[0], TrialName=groups.trial_of(entry))
        for entry in _memberships(component).values()
        if entry.kind == vocabulary.ASSOCIATE and groups.trial_of(entry)
    ]


def _memberships(component: TrialComponent) -> dict[str, vocabulary.Entry]:
    """Return the last word about each trial of a component, by the trial's name in lower case."""
    entries = [e for kind in sorted(groups.MEMBERSHIPS) for e in component.entries(kind)]
    return groups.memberships(entries, origins(component.journal.database.read))


def has_parent(parents: Sequence[Shape], what: str, name: object) -> bool:
    """Return whether one of the parents has this name, or none is asked for."""
    return name is None or any(each.get(what, "").lower() == str(name).lower() for each in parents)


def _over(pending: Shape, held: Shape) -> dict[str, Any]:
    """Return what SageMaker holds, with what the journal has yet to deliver."""
    merged = dict(held)
    for name, value in pending.items():
        if name in _MAPS and value and name in held:
            merged[name] = {**held[name], **value}
        elif name in {"Status", "StartTime", "EndTime"} and value:
            merged[name] = value
        else:
            merged.setdefault(name, value)
    return merged


def made(kind: Callable[..., T], shape: Shape) -> T:
    """Make an object of those of boto3's members that it has fields for."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    named = {snake(name): value for name, value in shape.items()}
    return kind(**{name: value for name, value in named.items() if name in known})


def snake(name: str) -> str:
    """Return a member of boto3's as an attribute: ``AutoMLJobArn`` is ``auto_ml_job_arn``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# -- what a request asks for ------------------------------------------------------------------


def order_of(members: Shape) -> str:
    """Return the order that a request asks for."""
    return checked(
        members.get("SortOrder") or "Descending", ("Ascending", "Descending"), "sort_order"
    )


def bounds_of(members: Shape) -> tuple[datetime | None, datetime | None]:
    """Return the times that a request asks for: created before, created after.

    Raises:
        InvalidTypeError: One is no datetime.
    """
    bounds = []
    for name, what in (("CreatedBefore", "created_before"), ("CreatedAfter", "created_after")):
        value = members.get(name)
        if not isinstance(value, (datetime, type(None))):
            raise InvalidTypeError(f"{what} must be a datetime, not {type(value).__name__}")
        bounds.append(utc(value))
    return bounds[0], bounds[1]


def _page_size(wanted: Any) -> int:  # noqa: ANN401 - a caller's
    """Return the size of SageMaker's pages, at most its own limit. All pages are read."""
    try:
        size = operator.index(wanted)
    except TypeError as error:
        raise InvalidTypeError(
            f"max_results must be an int, not {type(wanted).__name__}"
        ) from error
    if size < 1:
        raise InvalidInputError(f"max_results is {size}; it must be positive")
    return min(size, limits.PAGE_ITEMS_MAX)
