"""Fold what was recorded of a run, except its metrics, into what a list of runs shows.

The last recorded value of each key counts, delivered or not: a list shows what the script said.
(``reports.component`` shows what SageMaker will show, with the state of each value.) Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from journaltrack.journal import contents, fold, groups, vocabulary
from journaltrack.journal.fold import Place, Status
from journaltrack.journal.vocabulary import Entry
from journaltrack.util.text import text_or_none

TEXT_CHARS_MAX: Final = 20_000
"""Ours: longer texts are cut. SageMaker takes 2,500 characters, and ``show`` has all of them."""


def folded(
    name: str | None, entries: Iterable[Entry], origins: Mapping[int, int]
) -> dict[str, Any]:
    """Return what entries add up to, as JSON takes it.

    Args:
        name: The component's name.
        entries: Of one component, without metrics, in the order of ``seq``.
        origins: See ``queries.origins``.
    """
    known = list(entries)
    places = [Place(e.seq, e.recorded_at_ns, origins.get(e.writer_id, 0)) for e in known]
    state: dict[str, Any] = {
        "name": name,
        "display_name": None,
        "parameters": {},
        "tags": {},
        "note": None,
        "first_ns": min((e.recorded_at_ns for e in known if e.recorded_at_ns), default=None),
    }
    status: Any = Status()
    in_order = fold.in_order(known, places)
    state["artifacts"] = contents.contents(in_order)
    for entry in in_order:
        try:
            if entry.kind == vocabulary.STATUS:
                status = fold.merge_status(status, fold.value_of(entry))
            else:
                _add(state, entry)
        except ValueError:  # noqa: PERF203 - one bad entry must not hide the others
            continue
    state["experiments"] = [
        groups.membership_of(entry)
        for entry in groups.memberships(
            [entry for entry in known if entry.kind in groups.MEMBERSHIPS], origins
        ).values()
        if entry.kind == vocabulary.ASSOCIATE
    ]
    # The process that recorded the last status is the one whose death interrupts the run.
    state["begun_by"] = next(
        (
            [entry.seq, entry.writer_id]
            for entry in reversed(known)
            if entry.kind == vocabulary.STATUS
            and vocabulary.primary_status(entry) is not None
            and vocabulary.silence_of(entry) is None
        ),
        None,
    )
    state["status"] = [status.primary, status.message, status.start_ns, status.end_ns]
    return state


def _add(state: dict[str, Any], entry: Entry) -> None:
    detail = entry.detail
    if entry.kind == vocabulary.CREATE:
        tags = detail.get("tags")
        state["display_name"] = text_or_none(detail.get("display_name")) or state["display_name"]
        if isinstance(tags, dict):
            state["tags"] |= {str(key): str(value) for key, value in tags.items()}
    elif entry.kind in {vocabulary.TAGS, vocabulary.LABEL}:
        vocabulary.lay_tags(state["tags"], entry)
    elif entry.kind == vocabulary.NOTE:
        state["note"] = vocabulary.note_of(entry) or None
    elif entry.kind == vocabulary.PARAMETER:
        exact = detail.get("exact") if entry.value is None else None
        value = exact if isinstance(exact, str) else fold.value_of(entry)
        if isinstance(value, str) and len(value) > TEXT_CHARS_MAX:
            value = value[: TEXT_CHARS_MAX - 1] + "…"
        state["parameters"][str(entry.name)] = value
