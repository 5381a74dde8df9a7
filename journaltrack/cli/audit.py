"""``journaltrack audit``: what was recorded, and what became of all of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.auditing import AuditReport, ComponentAudit, States, WriterRecord
    from journaltrack.report import State
    from journaltrack.report_entries import AuditedEntry
    from journaltrack.report_integrity import ChainProblem

_STATE_COLUMNS = ("entries", "pending", "in flight", "delivered", "superseded", "in doubt", "quarantined")
_STATES = ("pending", "in flight", "delivered", "in doubt", "quarantined")
_LINES_AT_A_TIME = 1_000


@click.command(
    epilog="\b\nExamples:\n  journaltrack audit\n  journaltrack audit /mnt/usb/journal --verify\n"
    "  journaltrack audit --component 'digits-*' --entries --state quarantined\n  journaltrack audit --entries --json | jq -c 'select(.kind == \"metric\")'"
)
@common.one_journal
@common.component_option
@click.option("--entries", is_flag=True, help="List every entry with what became of it; with --json one JSON object per line.")
@click.option("--state", type=click.Choice(_STATES), help="With --entries: only those in this state.")
@click.option("--kind", metavar="KIND", help="With --entries: only those of this kind (parameter, metric, upload, ...).")
@click.option("--verify", is_flag=True, help="Recompute the chains of digests and the digests of all artifacts.")
@common.common_options
def command(
    journal: str | None,
    other_journal: str | None,
    *,
    component: str | None,
    entries: bool,
    state: str | None,
    kind: str | None,
    verify: bool,
    as_json: bool,
) -> ExitCode:
    """What was recorded in JOURNAL, by which process, what was delivered when and with which request id, and what was not.

    Every entry is in exactly one state, and the states add up. The exit code is 0 only if all is delivered: 3 while some
    is pending, 4 if some is quarantined or in doubt, 8 if something does not add up. Changes nothing.
    """
    from journaltrack.auditing import audit  # noqa: PLC0415 - SQLAlchemy

    if (state or kind) and not entries:
        raise click.UsageError("--state and --kind choose among --entries")
    path = common.chosen(journal, other_journal)
    report = audit(path, component=component)
    verified = _verified(path) if verify else None
    code = _code(report, verified)
    if entries:
        _entries(path, component, cast("State | None", state), kind, as_json=as_json)
    if as_json and not entries:
        output.print_json({**report.to_json(), "verified": _json(verified), "exit_code": int(code)})
    if not as_json:
        _print(report, only_totals=entries)
    if report.inconsistencies:
        output.problem(
            "error", f"the journal does not add up: {'; '.join(report.inconsistencies)}", "journaltrack audit --verify names the entries"
        )
    _print_verified(verified, as_json=as_json)
    return code


def _verified(path: str | None) -> list[ChainProblem]:
    from journaltrack.report_integrity import verify_chains  # noqa: PLC0415

    return verify_chains(path)


def _code(report: AuditReport, verified: Sequence[ChainProblem] | None) -> ExitCode:
    if report.inconsistencies or verified:
        return ExitCode.JOURNAL
    if report.totals.quarantined or report.totals.in_doubt:
        return ExitCode.PROBLEMS
    return ExitCode.OK if report.all_delivered else ExitCode.PENDING


def _json(verified: Sequence[ChainProblem] | None) -> Any:  # noqa: ANN401 - JSON
    from journaltrack.report import to_json  # noqa: PLC0415

    return to_json(verified)


def _print(report: AuditReport, *, only_totals: bool) -> None:
    output.fields(
        [
            ("journal", report.path),
            ("journal id", report.journal_id),
            ("created", f"{output.moment(report.created_at_ns)} by journaltrack {report.created_by_version}"),
        ]
    )
    if not only_totals:
        for component in report.components:
            output.say()
            _print_component(component)
    if len({each.host for each in report.reconcilers}) > 1:  # what became of its entries is not this machine's knowledge alone
        output.say()
        columns = ("host", "user", "processes", "attestations", "first", "last")
        moments = [(output.moment(r.first_started_at_ns), output.moment(r.last_started_at_ns)) for r in report.reconcilers]
        rows = [(r.host, r.user, r.processes, r.attestations, *times) for r, times in zip(report.reconcilers, moments, strict=True)]
        output.table("reconciled on", columns, rows)
    output.say()
    output.table("totals", ("component", *_STATE_COLUMNS), _totals(report))
    if report.problems_omitted:
        output.say(f"{output.plural(report.problems_omitted, 'entry')} with further problems: see them with --entries")
    totals = report.totals
    if report.all_delivered:
        output.say(f"all delivered: {output.plural(totals.entries, 'entry')}")
    else:
        output.say(f"not all delivered: {totals.delivered} of {output.plural(totals.entries, 'entry')}")


def _totals(report: AuditReport) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [(c.name, *_counts(c.states)) for c in report.components]
    return [*rows, ("(all)", *_counts(report.totals))]


def _counts(states: States) -> tuple[int, ...]:
    return (
        states.entries,
        states.pending,
        states.in_flight,
        states.delivered,
        states.superseded,
        states.in_doubt,
        states.quarantined,
    )


def _print_component(component: ComponentAudit) -> None:
    confirmed = f"confirmed {output.moment(component.confirmed_at_ns)}" if component.confirmed_at_ns is not None else "not confirmed yet"
    rows: list[tuple[str, object]] = [
        ("component", component.name),
        ("  origin", f"{', '.join(component.origins) or 'unknown'}; {confirmed}"),
        ("  arn", component.arn),
        ("  recorded", f"{output.moment(component.first_recorded_at_ns)} to {output.moment(component.last_recorded_at_ns)}"),
        ("  delivered", f"{output.moment(component.first_delivered_at_ns)} to {output.moment(component.last_delivered_at_ns)}"),
    ]
    if component.last_error is not None:
        last = component.last_error
        why = f"{last.action} {last.outcome} {output.moment(last.at_ns)}, request {last.request_id or '-'}: {last.code or ''} {last.text or ''}"
        rows.append(("  pending since", output.cut(why, 1_000)))
    if component.unknown_kinds:
        rows.append(("  needs newer", f"kinds that this version can't send: {', '.join(component.unknown_kinds)}"))
    if component.redacted:
        rows.append(("  redacted", f"{', '.join(component.redacted)}: the values were not recorded"))
    output.fields(rows)
    output.table("  entries", ("stream", "kind", *_STATE_COLUMNS), [(k.stream, k.kind, *_counts(k.states)) for k in component.kinds])
    output.table(
        "  recorded by",
        ("host", "user", "pid", "started", "entries", "version", "python", "commit", "program"),
        [_writer(writer) for writer in component.writers],
    )
    output.table(
        "  requests",
        ("action", "outcome", "requests", "sent", "first", "last", "first request id", "last request id"),
        [
            (
                r.action,
                r.outcome,
                r.receipts,
                r.attempts,
                output.moment(r.first_started_at_ns),
                output.moment(r.last_finished_at_ns),
                r.first_request_id,
                r.last_request_id,
            )
            for r in component.receipts
        ],
    )
    output.table(
        "  problems",
        ("state", "kind", "name", "entries", "first", "last", "code", "request id", "reason"),
        [
            (p.state, p.kind, p.name, p.entries, p.first_seq, p.last_seq, p.code, p.request_id, output.cut(p.reason or ""))
            for p in component.problems
        ],
    )


def _writer(writer: WriterRecord) -> tuple[object, ...]:
    return (
        writer.host,
        writer.user,
        writer.pid,
        output.moment(writer.started_at_ns),
        writer.entries,
        writer.package_version,
        writer.python_version,
        output.cut(writer.git_commit or "", 13),
        writer.program,
    )


def _entries(path: str | None, component: str | None, state: State | None, kind: str | None, *, as_json: bool) -> None:
    """Every entry, in constant memory."""
    from journaltrack.report import to_json  # noqa: PLC0415
    from journaltrack.report_entries import each_entry  # noqa: PLC0415

    found = each_entry(path, component=component, state=state, kind=kind)
    if as_json:
        for entry in found:
            output.print_json_line(to_json(entry))
        return
    _print_entries(found)
    output.say()


def _print_entries(found: Iterable[AuditedEntry]) -> None:
    columns = (
        "seq",
        "recorded",
        "component",
        "kind",
        "name",
        "value",
        "step",
        "state",
        "settled",
        "action",
        "sent",
        "request id",
        "writer",
        "reason",
    )
    widths = [len(name) for name in columns]
    right = [name in {"seq", "step", "sent"} for name in columns]
    rows = iter(found)
    lines: list[list[str]] = [list(columns)]
    while page := list(islice(rows, _LINES_AT_A_TIME)):
        lines += [[output.cell(value) for value in _columns(entry)] for entry in page]
        output.say("\n".join(output.aligned(lines, right, widths)))
        lines = []
    if lines:
        output.say("no such entries")


def _columns(entry: AuditedEntry) -> tuple[object, ...]:
    return (
        entry.seq,
        output.moment(entry.recorded_at_ns),
        entry.component,
        entry.kind,
        entry.name,
        output.cut(str(_value(entry)), 60),
        entry.step,
        "superseded" if entry.superseded else entry.state,
        output.moment(entry.settled_at_ns),
        entry.action,
        entry.attempts,
        entry.request_id,
        f"{entry.user}@{entry.host}:{entry.pid}",
        output.cut(entry.reason or "", 200),
    )


def _value(entry: AuditedEntry) -> object:
    """The value as recorded, or what stands for it: text, a URI, a digest, a status."""
    if entry.value is not None:
        return entry.value
    return next((entry.detail[key] for key in ("exact", "text", "value", "sha256", "primary") if key in entry.detail), "-")


def _print_verified(verified: Sequence[ChainProblem] | None, *, as_json: bool) -> None:
    if verified is None:
        return
    if not verified:
        output.say("verified: every chain of digests and every artifact is as it was recorded", err=as_json)
        return
    for found in verified:
        whose = f" (writer {found.writer}, pid {found.pid} on {found.host})" if found.writer else ""
        output.problem("error", f"{found.message}{whose}")
    output.say("hint: copy the whole journal before anything else, and compare with a backup; sync does not depend on the chains", err=True)
