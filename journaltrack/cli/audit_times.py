"""How ``journaltrack audit`` answers about times: the past, clocks, and the order of all that happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from journaltrack.cli import output
from journaltrack.cli.audit_entries import short_value, who
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.cli.audit_entries import Page
    from journaltrack.reports.choice import Choice
    from journaltrack.reports.clocks import ClockAnomaly
    from journaltrack.reports.pending import PendingAt, PendingEntry
    from journaltrack.reports.timeline import Event

_ANOMALIES = {
    "back": "the clock went back while it logged",
    "jump": "the clock went ahead by hours, as later entries show",
    "future": "recorded in the future of this machine's clock",
    "started late": "recorded before its writer started",
    "timestamp": "the metric's own time is far from that of recording",
    "settled early": "settled before it was recorded",
    "finished early": "the request was answered before it was sent",
}


def show_pending_at(path: str | None, at_ns: int, component: str | None, *, as_json: bool) -> ExitCode:
    """Counts of what waited then."""
    from journaltrack.reports.pending import pending_at  # noqa: PLC0415 - SQLAlchemy

    found = pending_at(path, at_ns, component=component)
    if as_json:
        output.print_json({**found.to_json(), "exit_code": int(ExitCode.OK)})
    else:
        _print_pending(found)
    return ExitCode.OK


def _print_pending(found: PendingAt) -> None:
    counts = [f"{found.pending} pending", f"{found.in_flight} in flight"] + ([f"{found.unknown} perhaps"] if found.unknown else [])
    output.say(f"recorded and not settled at {output.instant(found.at_ns)}: {', '.join(counts)}")
    output.table(
        "by component and kind",
        ("component", "kind", "pending", "in flight", "perhaps", "oldest", "recorded"),
        [
            (g.component, g.kind, g.pending, g.in_flight, g.unknown, g.oldest_seq, output.instant(g.oldest_recorded_at_ns))
            for g in found.groups
        ],
    )
    if found.unknown:
        output.say("perhaps: settled without a request and released later; the journal does not tell since when it was settled")
    if found.unreadable:
        output.say(f"{output.plural(len(found.unreadable), 'receipt')} can't be read: of what they name, only what holds now is known")


def list_pending_at(path: str | None, at_ns: int, component: str | None, page: Page, after_seq: int, *, as_json: bool) -> ExitCode:
    """The entries that waited then."""
    from journaltrack.journal.view import to_json  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.pending import each_pending_at  # noqa: PLC0415

    each = each_pending_at(path, at_ns, component=component, after_seq=after_seq, limit=page.to_read)
    found = page.of(each, lambda entry: entry.seq)
    if as_json:
        for entry in found:
            output.print_json_line(to_json(entry))
    else:
        columns = ("seq", "recorded", "component", "kind", "name", "then", "now", "settled")
        output.listing(columns, {"seq"}, map(_pending_row, found), "no such entries")
    page.say(as_json=as_json)
    return ExitCode.OK


def _pending_row(entry: PendingEntry) -> tuple[object, ...]:
    return (
        entry.seq,
        output.instant(entry.recorded_at_ns),
        entry.component,
        entry.kind,
        entry.name,
        entry.state_then,
        entry.outcome or "pending",
        output.instant(entry.settled_at_ns),
    )


def show_clocks(path: str | None, component: str | None, *, as_json: bool) -> ExitCode:
    """What is odd about the times."""
    from journaltrack.reports.clocks import clocks  # noqa: PLC0415 - SQLAlchemy

    found = clocks(path, component=component)
    if as_json:
        output.print_json({"anomalies": [anomaly.to_json() for anomaly in found], "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    columns = ("what", "times", "by at most", "where", "one time", "the odd one", "writer")
    output.table("clocks", columns, [_anomaly_row(anomaly) for anomaly in found])
    if not found:
        output.say("the times in the journal fit together")
    return ExitCode.OK


def _anomaly_row(anomaly: ClockAnomaly) -> tuple[object, ...]:
    writer = anomaly.writer
    return (
        _ANOMALIES[anomaly.kind],
        anomaly.times,
        output.duration(anomaly.worst_s),
        f"entry {anomaly.seq}" if anomaly.receipt_id is None else f"receipt {anomaly.receipt_id}",
        output.instant(anomaly.expected_ns),
        output.instant(anomaly.found_ns),
        None if writer is None else f"{writer.user}@{writer.host}:{writer.pid}",
    )


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
