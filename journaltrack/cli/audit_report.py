"""How ``journaltrack audit`` prints the report: components, their requests and problems, totals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from journaltrack.cli import output

if TYPE_CHECKING:
    from journaltrack.journal.removed import Removal
    from journaltrack.journal.writers import WriterRecord
    from journaltrack.reports.proof.hearsay import Hearsay
    from journaltrack.reports.report import AuditReport, ComponentAudit, States

_STATE_COLUMNS = ("entries", "pending", "in flight", "delivered", "superseded", "in doubt", "quarantined")


_UNCHECKED = "; the chains of digests were not checked (--verify)"


def print_report(report: AuditReport, *, verified: bool) -> None:
    """All of it; the last line says whether the chains are ``verified`` too."""
    about: list[tuple[str, object]] = [
        ("journal", report.path),
        ("journal id", report.journal_id),
        ("created", f"{output.moment(report.created_at_ns)} by journaltrack {report.created_by_version}"),
    ]
    if report.anchor is not None:
        anchor = report.anchor
        about.append(("anchored", f"{output.moment(anchor.at_ns)}, {anchor.uri or f'in parameters: {anchor.sha256}'}"))
    output.fields(about)
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
    for removal in report.removals:
        output.say(_removal(removal))
    for told in report.hearsay:
        output.say(hearsay_text(told))
    for each in report.unfinished:
        output.problem("warning", each.text, each.hint)
    totals = report.totals
    unchecked = "" if verified else _UNCHECKED
    if report.all_delivered:
        output.say(f"all delivered: {output.plural(totals.entries, 'entry')}{unchecked}")
    else:
        output.say(f"not all delivered: {totals.delivered} of {output.plural(totals.entries, 'entry')}{unchecked}")


def hearsay_text(told: Hearsay) -> str:
    """What one bundle, file or journal alone tells, as a sentence."""
    counts = ((told.entries, "entry"), (told.contents, "content"))
    what = " and ".join(output.plural(count, name) for count, name in counts if count)
    name = {"bundle": "the bundle", "receipts": "the receipts"}.get(told.kind, "the journal")
    when = f" (taken over {output.moment(told.at_ns)} by {told.by})" if told.at_ns else ""
    say = "say" if told.kind == "receipts" else "says"
    return output.clean(f"hearsay: {what} count as delivered because {name} {told.id[:16]} {say} so{when}")


def _removal(removal: Removal) -> str:
    """What one prune removed, as a sentence."""
    parts = []
    if removal.entries:
        before = f" that were delivered before {output.moment(removal.before_ns)}" if removal.before_ns is not None else ""
        parts.append(f"{output.plural(removal.entries, 'entry')}{before}")
    if removal.blobs:
        parts.append(f"{output.plural(removal.blobs, 'content')} of the spool ({output.size(removal.blob_bytes)})")
    archive = removal.archive
    kept = f"; archived in {archive.get('name')}, SHA-256 {archive.get('sha256')}" if archive else ""
    who = f"{removal.user}@{removal.host} (pid {removal.pid})"
    return output.clean(f"removed on the record: {' and '.join(parts) or 'nothing'}, {output.moment(removal.at_ns)} by {who}{kept}")


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
    if component.run is not None:
        rows.append(("  run", component.run.text))
    if component.last_error is not None:
        last = component.last_error
        why = f"{last.action} {last.outcome} {output.moment(last.at_ns)}, request {last.request_id or '-'}: {last.code or ''} {last.text or ''}"
        rows.append(("  pending since", output.cut(why, 1_000)))
    if component.unknown_kinds:
        rows.append(("  needs newer", f"kinds that this version can't send: {', '.join(component.unknown_kinds)}"))
    if component.removed:
        rows.append(("  removed", f"{output.plural(component.removed, 'entry')}, on the record; they are in no other number here"))
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
        commit(writer),
        writer.program,
    )


def commit(writer: WriterRecord, chars_max: int = 13) -> str:
    """The commit that a process ran from, and whether there were changes beside it."""
    return output.cut(writer.git_commit or "", chars_max) + ("+changes" if writer.git_dirty else "")
