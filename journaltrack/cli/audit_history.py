"""Answer the questions of ``journaltrack audit`` about what happened over time.

The questions are the history of a key, and the timeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.audit_entries import (
    VALUE_CHARS_MAX,
    Page,
    answered,
    chosen,
    page_options,
    short_value,
    since_option,
    state_of,
    until_option,
    who,
)
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals

if TYPE_CHECKING:
    from journaltrack.journal.filter import Choice
    from journaltrack.reports.history import Event, KeyKind, Revision

_KEY_KINDS = ("parameter", "input", "output", "status")


@click.command(
    "history",
    short_help="Show every value of a parameter, input, output, or the status.",
    epilog="\b\nExamples:\n  journaltrack audit history learning_rate\n"
    "  journaltrack audit history status --component 'digits-*'",
)
@click.argument("name")
@about_journals
@common.component_option
@click.option(
    "--kind",
    metavar="KIND",
    type=click.Choice(_KEY_KINDS),
    help=f"Only of this kind: {', '.join(_KEY_KINDS)}.",
)
@since_option
@until_option
@common.options_with_json_lines
def history_command(
    name: str,
    journals: Journals,
    *,
    component: str | None,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Show every value of NAME and what it changed.

    NAME is a parameter, an input, an output, or `status`.
    """
    return answered(
        journals,
        lambda path: _show_history(
            path, name, chosen(path, component, key=name, **asked), as_json=as_json
        ),
        as_json=as_json,
    )


@click.command(
    "timeline",
    short_help="Show everything that happened, in order.",
    epilog="\b\nExamples:\n  journaltrack audit timeline --since 2h --limit 100\n"
    "  journaltrack audit timeline --component digits-1 --json | jq -c .event",
)
@about_journals
@common.component_option
@page_options
@common.options_with_json_lines
def timeline_command(
    journals: Journals,
    *,
    component: str | None,
    limit: int | None,
    after: str | None,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Show everything that happened in each JOURNAL, in order.

    Events are writers, entries, requests, settlements and decisions.
    """
    if after is not None:
        journals.only("--after")
    return answered(
        journals,
        lambda path: _list_timeline(
            path,
            chosen(path, component, **asked),
            Page(limit, as_json=as_json),
            after,
            as_json=as_json,
        ),
        as_json=as_json,
    )


def _show_history(path: str | None, name: str, choice: Choice, *, as_json: bool) -> ExitCode:
    """Print every value of a key."""
    from journaltrack.journal.view import to_json  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.history import history  # noqa: PLC0415

    found = history(
        path,
        name,
        kind=cast("KeyKind | None", choice.kind),
        component=choice.component,
        since_ns=choice.since_ns,
        until_ns=choice.until_ns,
    )
    if as_json:
        for revision in found:
            output.print_json_line(to_json(revision))
        return ExitCode.OK
    columns = (
        "seq",
        "recorded",
        "component",
        "kind",
        "value",
        "before",
        "before seq",
        "state",
        "writer",
    )
    tables.listing(
        columns,
        {"seq", "before seq"},
        map(_revision_row, found),
        f"the journal has no parameter, input, output or status {output.clean(name)}",
        texts={"component", "value", "before"},
        spare=("writer", "before seq", "recorded", "kind"),
    )
    return ExitCode.OK


def _revision_row(revision: Revision) -> tuple[object, ...]:
    entry = revision.entry
    before = (
        "(first)"
        if revision.earlier_seq is None
        else _said(revision.earlier)
        if revision.changed
        else "(the same)"
    )
    return (
        entry.seq,
        output.moment(entry.recorded_at_ns),
        entry.component,
        entry.kind,
        _said(revision.value),
        before,
        revision.earlier_seq,
        state_of(entry),
        who(entry),
    )


def _said(value: object) -> str:
    if isinstance(value, dict):
        members = [output.with_moment(key, part) for key, part in value.items()]
        value = " ".join(f"{key}={part}" for key, part in members)
    return output.cut("-" if value is None else output.number(value), VALUE_CHARS_MAX)


def _list_timeline(
    path: str | None, choice: Choice, page: Page, after: str | None, *, as_json: bool
) -> ExitCode:
    """Print everything that happened, in order."""
    from journaltrack.reports.history import START, position, timeline  # noqa: PLC0415 - SQLAlchemy

    try:
        place = START if after is None else position(after)
    except ValueError as error:
        raise click.BadParameter(
            "it must be what the page before printed, such as 1790000000000000000.1.23",
            param_hint="--after",
        ) from error
    found = page.of(
        timeline(path, choice, after=place, limit=page.to_read), lambda event: str(event.position)
    )
    if as_json:
        for event in found:
            output.print_json_line(event.to_json())
    else:
        columns = (
            "time",
            "event",
            "component",
            "about",
            "value",
            "sent",
            "request id",
            "who or why",
        )
        texts, spare = (
            {"component", "about", "value", "who or why"},
            ("request id", "sent", "who or why", "value"),
        )
        tables.listing(
            columns, {"sent"}, map(_event_row, found), "nothing happened", texts=texts, spare=spare
        )
    page.say()
    return ExitCode.OK


def _event_row(event: Event) -> tuple[object, ...]:
    about: object = None
    value = request_id = why = sent = None
    if event.writer is not None:
        about, why = (
            f"writer {event.writer.id}: {event.writer.program}",
            f"{event.writer.user}@{event.writer.host}:{event.writer.pid}",
        )
    elif event.entry is not None:
        entry = event.entry
        about = f"entry {entry.seq}: {entry.kind} {entry.name or ''}".rstrip()
        if event.event == "recorded":
            value, why = short_value(entry), who(entry)
        else:
            request_id, why = entry.request_id, entry.reason
    elif event.receipt is not None:
        receipt = event.receipt
        about = (
            f"receipt {receipt.id}: "
            f"{receipt.action}{f' of {output.cut(receipt.entries, 40)}' if receipt.entries else ''}"
        )
        if event.event != "sent":
            value, sent, request_id = receipt.outcome, receipt.attempts, receipt.request_id
            why = ": ".join(str(part) for part in (receipt.error_code, receipt.error_text) if part)
    return (
        output.instant(event.at_ns),
        event.event,
        event.component,
        output.cut(about, 100),
        value,
        sent,
        request_id,
        output.cut(why or "", 200),
    )
