"""What no tracker records and no service takes: names and payloads of an entry beyond every limit. Pure.

A tracker refuses these at the call, so they come from journals that somebody made. They are refused while a journal is read, before a
request is built from them: AWS would refuse them too, but only after megabytes of them were sent, and perhaps with the whole request.
"""

from __future__ import annotations

from collections.abc import Mapping

from journaltrack import limits
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.entries import Entry


def out_of_bounds(entry: Entry) -> str | None:
    """Why the entry can't be sent, whatever else it says; None if nothing is known against it.

    Raises:
        ValueError: Its payload can't be read.
    """
    if len(entry.component) > limits.NAME_CHARS_MAX:
        return f"the component's name has {len(entry.component)} characters; SageMaker takes at most {limits.NAME_CHARS_MAX}"
    if entry.kind == vocabulary.CREATE:
        return _of_creation(entry.detail)
    if entry.kind == vocabulary.ASSOCIATE:
        named = ((what, entry.detail.get(what)) for what in ("experiment", "trial"))
        return next((p for what, name in named if isinstance(name, str) and (p := limits.name_problem(name, f"the {what}'s name"))), None)
    if entry.kind == vocabulary.STATUS:
        message = entry.detail.get("message")
        return _too_long(message, "the status message", limits.STATUS_MESSAGE_CHARS_MAX) or _too_long(
            entry.detail.get("primary"), "the status", limits.NAME_CHARS_MAX
        )
    return _of_upload(entry) if entry.kind == vocabulary.UPLOAD else None


def _of_creation(detail: Mapping[str, object]) -> str | None:
    tags = detail.get("tags")
    if isinstance(tags, dict):
        if len(tags) > limits.TAGS_MAX:
            return f"the component has {len(tags)} tags; SageMaker takes at most {limits.TAGS_MAX}"
        for key, value in tags.items():
            problem = limits.tag_problem(key, value) if isinstance(value, str) else "a tag's value is not text"
            if problem:
                return problem
    return _too_long(detail.get("owner"), "the owner", limits.OWNER_CHARS_MAX) or _too_long(
        detail.get("display_name"), "the display name", limits.NAME_CHARS_MAX
    )


def _of_upload(entry: Entry) -> str | None:
    bucket, prefix = entry.detail.get("bucket"), entry.detail.get("prefix")
    if isinstance(bucket, str) and len(bucket) > limits.ARTIFACT_VALUE_CHARS_MAX:  # also an access point's ARN
        return f"the bucket's name has {len(bucket)} characters"
    parts = (prefix if isinstance(prefix, str) else "", entry.component, entry.name or "")
    size_bytes = sum(len(part.encode(errors="replace")) + 1 for part in parts)
    if size_bytes > limits.OBJECT_KEY_BYTES_MAX:
        return f"its place in S3 would have {size_bytes} bytes; S3 takes at most {limits.OBJECT_KEY_BYTES_MAX}"
    return None


def _too_long(text: object, what: str, chars_max: int) -> str | None:
    if isinstance(text, str) and len(text) > chars_max:
        return f"{what} has {len(text)} characters; SageMaker takes at most {chars_max}"
    return None
