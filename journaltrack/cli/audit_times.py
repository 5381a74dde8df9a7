"""How ``journaltrack audit`` prints the timeline: all that happened, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from journaltrack.cli import output
from journaltrack.cli.audit_entries import short_value, who
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.cli.audit_entries import Page
    from journaltrack.reports.choice import Choice
    from journaltrack.reports.timeline import Event


def list_timeline(path: str | None, choice: Choice, page: Page, after: str | None, *, as_json: bool) -> ExitCode:
    """All that happened, in order."""
    from journaltrack.reports.timeline import START, position, timeline  # noqa: PLC0415 - SQLAlchemy

    try:
        place = START if after is None else position(after)
    except ValueError as error:
        raise click.BadParameter(
            "with --timeline it is what the page before said, such as 1790000000000000000.1.23", param_hint="--after"
        ) from error
    found = page.of(timeline(path, choice, after=place, limit=page.to_read), lambda event: str(event.position))
    if as_json:
        for event in found:
            output.print_json_line(event.to_json())
    else:
        columns = ("time", "event", "component", "about", "value", "sent", "request id", "who or why")
        output.listing(columns, {"sent"}, map(_event_row, found), "nothing happened")
    page.say(as_json=as_json)
    return ExitCode.OK


def _event_row(event: Event) -> tuple[object, ...]:
    about: object = None
    value = request_id = why = sent = None
    if event.writer is not None:
        about, why = f"writer {event.writer.id}: {event.writer.program}", f"{event.writer.user}@{event.writer.host}:{event.writer.pid}"
    elif event.entry is not None:
        entry = event.entry
        about = f"entry {entry.seq}: {entry.kind} {entry.name or ''}".rstrip()
        if event.event == "recorded":
            value, why = short_value(entry), who(entry)
        else:
            request_id, why = entry.request_id, entry.reason
    elif event.receipt is not None:
        receipt = event.receipt
        about = f"receipt {receipt.id}: {receipt.action} of {output.cut(receipt.entries, 40)}"
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
