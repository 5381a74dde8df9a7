"""What the operations of SageMaker share: refusals, tags, times, and lists by pages.

It must not know: one operation from another, state, HTTP.
Invariant: a list is filtered by its times, sorted and cut into pages in one place, so all of them
refuse the same tokens and order what was created at one moment alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tests.simulator.auth import caller_arn
from tests.simulator.wire import ServiceError

Params = Mapping[str, Any]
Output = dict[str, Any]
Operations = Mapping[str, Callable[[Params], Output]]

TAGS_MAX = 50
# The reference of the API names 10 for each of the lists.
PAGE_DEFAULT = 10


class Dated(Protocol):
    """What has a time of creation in seconds since 1970."""

    @property
    def created(self) -> float:
        """When it was created."""


T = TypeVar("T")
D = TypeVar("D", bound=Dated)


def invalid(message: str) -> ServiceError:
    """Give a refusal of what was asked for."""
    return ServiceError(400, "ValidationException", message)


def missing(name: str, kind: str) -> ServiceError:
    """Give a refusal because of something that is not there."""
    return ServiceError(400, "ResourceNotFound", f"{kind} '{name}' does not exist.")


def existing(thing: T | None, name: str, kind: str) -> T:
    """Give a thing that was looked up, or the refusal if it is not there."""
    if thing is None:
        raise missing(name, kind)
    return thing


def present(output: Output) -> Output:
    """Leave out what is None: AWS sends no null."""
    return {name: value for name, value in output.items() if value is not None}


def times(created: float, modified: float) -> Output:
    """Say when, and by whom, a thing was created and last modified."""
    who = {"UserProfileArn": caller_arn()}
    return {
        "CreationTime": created,
        "CreatedBy": who,
        "LastModifiedTime": modified,
        "LastModifiedBy": who,
    }


def tags_of(params: Params) -> dict[str, str]:
    """Read the tags of a request: AWS reserves keys, and takes none twice."""
    given = params.get("Tags") or ()
    tags = {tag["Key"]: tag["Value"] for tag in given}
    if len(tags) < len(given):
        message = "Tag keys must be unique per resource"
        raise invalid(message)
    if any(key.lower().startswith("aws:") for key in tags):
        message = "aws: prefixed tag key names are not allowed for external use"
        raise invalid(message)
    return tags


def tag_list(tags: Mapping[str, str]) -> list[Output]:
    """Write tags as the answers have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def listed(
    params: Params,
    found: Sequence[D],
    member: str,
    render: Callable[[D], Output],
    sort_keys: Mapping[str, Callable[[D], Any]],
) -> Output:
    """Answer a List operation: what was created in time, sorted, one page of it.

    Args:
        params: Members of the request: CreatedAfter, CreatedBefore, SortBy, SortOrder, MaxResults,
            NextToken.
        found: What matches everything else, the first created first.
        member: Name of the list in the answer.
        render: Writes one item.
        sort_keys: The values of SortBy beside CreationTime, which is the default.
    """
    after, before = params.get("CreatedAfter"), params.get("CreatedBefore")
    timely = [
        item
        for item in found
        if (after is None or item.created >= after) and (before is None or item.created <= before)
    ]
    by = params.get("SortBy") or "CreationTime"
    timely.sort(key=sort_keys.get(by, lambda item: item.created))
    # AWS lists the newest first unless told otherwise; of one moment, what came later.
    if params.get("SortOrder", "Descending") == "Descending":
        timely.reverse()
    page, token = page_of(params, timely)
    return present({member: [present(render(item)) for item in page], "NextToken": token})


def page_of(
    params: Params, found: Sequence[T], default: int = PAGE_DEFAULT
) -> tuple[Sequence[T], str | None]:
    """Cut a page out of a list.

    Returns:
        The page, and the token of the next; None at the end.

    Raises:
        ServiceError: The token is none of these.
    """
    token = params.get("NextToken")
    if token is not None and not (token.isascii() and token.isdigit()):
        message = "Invalid pagination token"
        raise invalid(message)
    start = int(token or 0)
    end = start + params.get("MaxResults", default)
    return found[start:end], str(end) if end < len(found) else None
