"""Hold the parts of a trial component: what it is made of, and how a change of it is recorded.

``Recording`` is a dict whose every change is an entry. ``held_of`` says what a journal keeps of
SageMaker's description. ``items_of_pages`` reads a list that SageMaker gives page by page.

Must not know the tracker, which hands in what records.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.tracking import validation

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from journaltrack.journal.vocabulary import Direction

logger = logging.getLogger(__name__)

_HELD: Final = (
    "TrialComponentArn",
    "DisplayName",
    "Source",
    "Status",
    "Parameters",
    "InputArtifacts",
    "OutputArtifacts",
)
_TIMES: Final = ("StartTime", "EndTime", "CreationTime", "LastModifiedTime")
_MAPS: Final = (
    ("Parameters", vocabulary.PARAMETER, "StringValue"),
    ("InputArtifacts", vocabulary.INPUT, "Value"),
    ("OutputArtifacts", vocabulary.OUTPUT, "Value"),
)
"""Maps of DescribeTrialComponent, the kinds of their entries, and the members of their values."""


class Recorder(NamedTuple):
    """What a component needs of its tracker to record a change.

    Attributes:
        parameters: Records parameters, all or none.
        references: Records inputs or outputs by name, each a text or an artifact, all or none.
        status: Records a status or a time.
        file: Records a file by direction, path, name and media type, without lineage. In S3 its
            key ends in the file's own name.
        output: Records the end of what was printed, as an artifact.
        save: Delivers what is pending.
        ask: Makes one request of SageMaker, by boto3's name of it; raises if there is no answer.
        client: The caller's client for SageMaker, or None.
    """

    parameters: Callable[[Mapping[str, Any]], None]
    references: Callable[[Direction, Mapping[str, Any]], None]
    status: Callable[[vocabulary.Draft], None]
    file: Callable[[Direction, str | os.PathLike[str], str | None, str | None], None]
    output: Callable[[bytes], None]
    save: Callable[[], None]
    ask: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
    client: Any = None


class Recording(dict[str, Any]):
    """A component's parameters or artifacts. Every change of it is recorded, or raises.

    Args:
        read: Returns what is known so far.
        own: Returns those of them that this journal recorded.
        record: Records values by name.
        what: What they are, for messages.
    """

    def __init__(
        self,
        read: Callable[[], dict[str, Any]],
        own: Callable[[], dict[str, Any]],
        record: Callable[[Mapping[str, Any]], None],
        what: str,
    ) -> None:
        super().__init__(read())
        self._read = read
        self._own = own
        self._record = record
        self._what = what

    def __setitem__(self, name: str, value: object) -> None:
        self._add({name: value})

    def update(self, *values: Any, **named: Any) -> None:  # noqa: ANN401 - as of a dict
        """Record values by name, all or none."""
        given, own = dict(*values, **named), self._own()
        # What was read here says nothing new. A file would become a text.
        self._add({name: value for name, value in given.items() if not _is_in(own, name, value)})

    def _add(self, values: Mapping[str, Any]) -> None:
        if values:
            self._record(values)
            dict.update(self, self._read())

    def __ior__(self, values: Any) -> Self:  # type: ignore[override,misc]  # noqa: ANN401
        self.update(values)
        return self

    def setdefault(self, name: str, value: Any = None) -> Any:  # noqa: ANN401
        """Record a value, unless there is one of that name."""
        if name not in self:
            self._add({name: value})
        return self[name]

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def pop(self, name: str, *default: Any) -> Any:  # noqa: ANN401
        """Raise if there is something to remove."""
        if name in self:
            self.clear()
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Raise."""
        self.clear()
        return super().popitem()

    def clear(self) -> None:
        """Raise if there is something to remove."""
        if self:
            raise InvalidInputError(
                f"{self._what} can't be removed: a journal only adds; nothing was changed",
                hint="record another value, or remove it in SageMaker (UpdateTrialComponent)",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a plain dict."""
        return dict, (dict(self),)


def _is_in(own: Mapping[str, Any], name: str, value: object) -> bool:
    held = own.get(name, _is_in)
    if isinstance(held, float) and isinstance(value, float) and math.isnan(held):
        return math.isnan(value)
    return type(held) is type(value) and bool(held == value)


def held_of(answer: Mapping[str, Any], is_redacted: Callable[[str, str], bool]) -> dict[str, Any]:
    """Return what to keep of DescribeTrialComponent's answer, as JSON values.

    Times are nanoseconds since the epoch, UTC. Who created or changed the component is left out.
    An answer that is not of that form is not kept.

    Args:
        answer: boto3's.
        is_redacted: Returns whether the value of a kind and name must not be kept.
    """
    try:
        held = {name: answer[name] for name in _HELD if answer.get(name)}
        for name in _TIMES:
            if isinstance(answer.get(name), datetime):
                held[name] = validation.timestamp_ns(answer[name])
        for name, kind, member in _MAPS:
            if name in held:
                held[name] = {
                    key: {member: vocabulary.REDACTED} if is_redacted(kind, key) else dict(value)
                    for key, value in held[name].items()
                }
        json.dumps(held, allow_nan=False)
    # A caller's own client, or a stand-in, may answer anything.
    except (TypeError, ValueError, AttributeError, RecursionError):
        logger.debug("the answer of the look-up is not kept", exc_info=True)
        return {}
    return held


def members_of(held: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the members of a map, those that are what SageMaker can have sent."""
    members = held.get(name)
    for key, value in members.items() if isinstance(members, dict) else ():
        if isinstance(value, dict):
            yield key, value


def ns_in(held: Mapping[str, Any], name: str) -> int | None:
    """Return a time of what ``held_of`` kept, in nanoseconds; None without a sound one."""
    nanoseconds = held.get(name)
    if type(nanoseconds) is not int or limits.time_problem(nanoseconds, name):
        return None
    return nanoseconds


def time_in(held: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time of what ``held_of`` kept; None without a sound one."""
    return moment(ns_in(held, name))


def moment(nanoseconds: int | None) -> datetime | None:
    """Return nanoseconds since the epoch as a datetime in UTC; None if there is none of them."""
    if limits.time_problem(nanoseconds, "the time"):
        return None
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc)


def items_of_pages(
    ask: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
    operation: str,
    members: Mapping[str, Any],
    items: str,
) -> Iterator[Any]:
    """Yield the items of all pages of SageMaker's answer.

    Args:
        ask: Makes one request, by boto3's name of the operation and the members.
        operation: What to list or search.
        members: The request's.
        items: The answer's member with the items.
    """
    token: dict[str, Any] = {}
    while True:
        page = ask(operation, {**members, **token})
        yield from page.get(items, ())
        # A stand-in may give the same page for ever.
        if not page.get("NextToken") or page["NextToken"] == token.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}
