"""Implement ``journaltrack audit``: what was recorded, and what became of it.

The command is a group of questions. Without a question it prints the overview: components, totals
and removals. ``audit_entries`` and ``audit_history`` have the questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from journaltrack.cli import audit_entries, audit_history, common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals, each, of_destination
from journaltrack.journal.context import facts_of
from journaltrack.util import paths, patterns

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from journaltrack.journal.removed import Removal
    from journaltrack.journal.writer_records import WriterRecord
    from journaltrack.replay.evidence.anchors import Anchor
    from journaltrack.reports.report import (
        AuditReport,
        ComponentAudit,
        Problem,
        ReceiptGroup,
        States,
    )

_STATE_COLUMNS = (
    "entries",
    "pending",
    "in flight",
    "delivered",
    "superseded",
    "in doubt",
    "quarantined",
)
_UNCHECKED = "; the chains of digests were not checked (journaltrack check)"
_OVERVIEW = "overview"
_CONTEXTS_MAX = 5
"""Processes whose context is shown; ``--json`` has all."""
_MOVED = {
    "--entries": "audit entries",
    "--entry": "audit entry",
    "--history": "audit history",
    "--timeline": "audit timeline",
    "--verify": "check",
    "--anchor": "check --anchor",
    **dict.fromkeys(
        ("--state", "--kind", "--name", "--since", "--until", "--limit", "--after"), "audit entries"
    ),
}
"""Map options that moved to the question or command that has them now."""


class _OfGroup(click.Context):
    """Call a command by its group's name, in usage and hints: its own name is hidden."""

    @property
    def command_path(self) -> str:
        """Return the words before the arguments."""
        return super().command_path if self.parent is None else self.parent.command_path


class _Overview(click.Command):
    """Answer ``audit`` without a question."""

    context_class = _OfGroup

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; name the question that has a misplaced option."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            meant = _MOVED.get(error.option_name)
            if meant is None:
                raise
            raise click.UsageError(
                f"No such option '{error.option_name}'. Did you mean 'journaltrack {meant}'?", ctx
            ) from error


class _Questions(click.Group):
    """Choose the overview when the first word is not a question."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the overview before arguments that name no question."""
        is_named = bool(args) and args[0] in {*self.commands, *ctx.help_option_names}
        if not is_named and (args or not ctx.resilient_parsing):
            args = [_OVERVIEW, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete questions, and the arguments and options of the overview."""
        return [
            *super().shell_complete(ctx, incomplete),
            *_overview.shell_complete(ctx, incomplete),
        ]

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List the questions in the order of use, without the hidden overview."""
        return [name for name in self.commands if name != _OVERVIEW]

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage of the overview, with an optional question before it."""
        return ["[QUESTION]", *_overview.collect_usage_pieces(ctx)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the overview, then the questions."""
        _overview.format_options(ctx, formatter)
        with formatter.section("Questions"):
            formatter.write_dl(
                [
                    (name, self.commands[name].get_short_help_str(80))
                    for name in self.list_commands(ctx)
                ]
            )


@click.group(
    cls=_Questions,
    epilog="\b\nExamples:\n  journaltrack audit\n  journaltrack audit /mnt/usb/journal "
    "--component 'digits-*'\n"
    "  journaltrack audit entries --state quarantined\n"
    "  journaltrack audit entries --json | jq -c 'select(.kind == \"metric\")'\n"
    "  journaltrack audit entry 23\n  journaltrack audit history learning_rate\n"
    "  journaltrack audit timeline --since 2h --limit 100",
)
def command() -> None:
    """Show what each JOURNAL recorded, what was delivered when, and what was not.

    Every entry is in exactly one state, and the states add up. Delivered entries come with AWS's
    request ids.

    The exit code is 0 if everything is delivered, 3 if entries are pending, 4 if some are
    quarantined or in doubt, and 8 if something does not add up. The audit changes nothing.

    A QUESTION is about single entries. Each has its own options and --help.
    """


@command.command(_OVERVIEW, cls=_Overview, hidden=True)
@about_journals
@of_destination
@common.component_option
@common.common_options
def _overview(journals: Journals, *, component: str | None, as_json: bool) -> ExitCode:
    """Show the overview: components, who recorded them, requests, problems, totals."""
    _refuse_unknown_question()
    return each(
        journals,
        lambda path: _report(path, component, as_json=as_json, apart=journals.is_later(path)),
        as_json="document" if as_json else None,
        verdict="all delivered",
    )


for _question in (
    audit_entries.entries_command,
    audit_entries.entry_command,
    audit_history.history_command,
    audit_history.timeline_command,
):
    command.add_command(_question)


def _refuse_unknown_question() -> None:
    """Refuse a word that is neither a question nor a path that exists."""
    context = click.get_current_context()
    questions = command.list_commands(context)
    for word in context.params["arguments"]:
        if "/" in word or paths.expanded(word).exists():
            continue
        meant = patterns.near(word, questions)
        hint = (
            f"Did you mean 'journaltrack audit {meant[0]}'?"
            if meant
            else f"The questions are {', '.join(questions)}."
        )
        raise click.UsageError(
            f"There is no journal {output.clean(word)}, and no such question. {hint}",
            context.parent,
        )


def _report(path: str | None, component: str | None, *, as_json: bool, apart: bool) -> ExitCode:
    from journaltrack.reports.report import audit  # noqa: PLC0415 - SQLAlchemy

    report = audit(path, component=component)
    code = _code(report)
    if as_json:
        output.print_json({"journal": report.path, **report.to_json(), "exit_code": int(code)})
    else:
        if apart:
            output.say()
        _print(report)
    if report.inconsistencies:
        output.problem(
            "error",
            f"the journal does not add up: {'; '.join(report.inconsistencies)}",
            "`journaltrack check` names the entries",
        )
    return code


def _code(report: AuditReport) -> ExitCode:
    if report.inconsistencies:
        return ExitCode.JOURNAL
    if report.totals.quarantined or report.totals.in_doubt:
        return ExitCode.PROBLEMS
    return ExitCode.OK if report.all_delivered else ExitCode.PENDING


def _print(report: AuditReport) -> None:
    """Print the overview; the last line says that the chains were not checked."""
    about: list[tuple[str, object]] = [
        ("journal", report.path),
        ("journal id", report.journal_id),
        (
            "created",
            f"{output.moment(report.created_at_ns)} by journaltrack {report.created_by_version}",
        ),
    ]
    if report.anchor is not None:
        about.append(("anchored", _anchored(report.anchor)))
    tables.fields(about)
    for component in report.components:
        output.say()
        _print_component(component)
    # Other machines synced it too: what became of its entries is not known to this one alone.
    if len({each.host for each in report.reconcilers}) > 1:
        output.say()
        columns = ("host", "user", "processes", "attestations", "first", "last")
        moments = [
            (output.moment(r.first_started_at_ns), output.moment(r.last_started_at_ns))
            for r in report.reconcilers
        ]
        rows = [
            (r.host, r.user, r.processes, r.attestations, *times)
            for r, times in zip(report.reconcilers, moments, strict=True)
        ]
        tables.table("synced on", columns, rows)
    output.say()
    _table_of_states("totals", ("component",), _totals(report))
    if report.problems_omitted:
        output.say(
            f"{output.plural(report.problems_omitted, 'entry')} with further problems: see them "
            "with `journaltrack audit entries`"
        )
    for removal in report.removals:
        output.say(_removal(removal))
    for told in report.hearsay:
        output.say(output.hearsay_text(told))
    for begun in report.unfinished:
        output.problem("warning", begun.text, begun.hint)
    totals = report.totals
    if report.all_delivered:
        output.say(f"all delivered: {output.plural(totals.entries, 'entry')}{_UNCHECKED}")
    elif totals.delivered == totals.entries:
        output.say(
            f"all {output.plural(totals.entries, 'entry')} that are here are delivered, but the "
            f"journal does not add up: {output.clean('; '.join(report.inconsistencies))}"
        )
    else:
        output.say(
            f"not all delivered: {totals.delivered} of "
            f"{output.plural(totals.entries, 'entry')}{_UNCHECKED}"
        )


def _anchored(anchor: Anchor) -> str:
    """Return when and where it was anchored; on a terminal only the bucket."""
    where = "in parameters" if anchor.uri is None else anchor.uri
    if output.on_terminal() and anchor.uri is not None:
        where = "/".join([*anchor.uri.split("/")[:3], "…"])
    return f"{output.moment(anchor.at_ns)}, sha256 {output.digest(anchor.sha256)}, {where}"


def _removal(removal: Removal) -> str:
    """Describe one removal by prune, as a sentence."""
    parts = []
    if removal.entries:
        before = (
            f" that were delivered before {output.moment(removal.before_ns)}"
            if removal.before_ns is not None
            else ""
        )
        parts.append(f"{output.plural(removal.entries, 'entry')}{before}")
    if removal.blobs:
        parts.append(
            f"{output.plural(removal.blobs, 'content')} of the spool "
            f"({output.size(removal.blob_bytes)})"
        )
    archive = removal.archive
    kept = (
        f"; archived in {archive.get('name')}, SHA-256 {output.digest(archive.get('sha256'))}"
        if archive
        else ""
    )
    who = f"{removal.user}@{removal.host} (pid {removal.pid})"
    return output.clean(
        f"removed on the record: {' and '.join(parts) or 'nothing'}, "
        f"{output.moment(removal.at_ns)} by {who}{kept}"
    )


def _table_of_states(title: str, of: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Print a table of counts.

    A narrow terminal leaves out columns that are 0 in every row.
    """
    columns = (*of, *_STATE_COLUMNS)
    zero = [name for place, name in enumerate(columns) if all(row[place] == 0 for row in rows)]
    tables.table(
        title,
        columns,
        rows,
        spare=[
            name
            for name in ("in flight", "in doubt", "superseded", "quarantined", "pending")
            if name in zero
        ],
    )


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
    tables.fields(_about(component))
    _table_of_states(
        "  entries",
        ("stream", "kind"),
        [(k.stream, k.kind, *_counts(k.states)) for k in component.kinds],
    )
    tables.table(
        "  recorded by",
        ("host", "user", "pid", "started", "entries", "version", "python", "commit", "program"),
        [_writer(writer) for writer in component.writers],
        spare=("commit", "python", "version"),
    )
    tables.table("  ran in", ("pid", "what", "value"), _ran_in(component))
    ids = ("first request id", "last request id")
    tables.table(
        "  requests",
        ("action", "outcome", "requests", "sent", "first", "last", *ids),
        [_requests(group) for group in component.receipts],
        spare=("first request id", "first", "last"),
    )
    tables.table(
        "  problems",
        ("state", "kind", "name", "entries", "first", "last", "code", "request id", "reason"),
        [_problem(problem) for problem in component.problems],
    )


def _about(component: ComponentAudit) -> list[tuple[str, object]]:
    """Return what is printed above a component's tables."""
    confirmed = "not confirmed yet"
    if component.confirmed_at_ns is not None:
        confirmed = f"confirmed {output.moment(component.confirmed_at_ns)}"
    recorded = (component.first_recorded_at_ns, component.last_recorded_at_ns)
    delivered = None
    if component.first_delivered_at_ns is not None:
        first_and_last = (component.first_delivered_at_ns, component.last_delivered_at_ns)
        delivered = " to ".join(map(output.moment, first_and_last))
    rows: list[tuple[str, object]] = [
        ("component", component.name),
        ("  origin", f"{', '.join(component.origins) or 'unknown'}; {confirmed}"),
        ("  arn", component.arn),
        ("  recorded", " to ".join(map(output.moment, recorded))),
        ("  delivered", delivered),
    ]
    if component.run is not None:
        rows.append(("  run", component.run.text))
    if component.last_error is not None:
        last = component.last_error
        why = (
            f"{last.action} {last.outcome} {output.moment(last.at_ns)}, request "
            f"{last.request_id or '-'}: {last.code or ''} {last.text or ''}"
        )
        rows.append(("  last error", output.cut(why, 1_000)))
    if component.unknown_kinds:
        kinds = ", ".join(component.unknown_kinds)
        rows.append(("  needs newer", f"kinds that this version can't send: {kinds}"))
    if component.removed:
        gone = output.plural(component.removed, "entry")
        rows.append(("  removed", f"{gone}, on the record; no other number here counts them"))
    if component.redacted:
        names = ", ".join(component.redacted)
        rows.append(("  redacted", f"{names}: the values were not recorded"))
    return rows


def _ran_in(component: ComponentAudit) -> list[tuple[object, ...]]:
    """Return what the first processes ran in; what is as in the process before, once."""
    rows: list[tuple[object, ...]] = []
    told: dict[str, str] = {}
    for writer in component.writers[:_CONTEXTS_MAX]:
        facts = dict(facts_of(writer.context))
        rows += [(writer.pid, what, facts[what]) for what in facts if facts[what] != told.get(what)]
        told = facts
    return rows


def _requests(group: ReceiptGroup) -> tuple[object, ...]:
    return (
        group.action,
        group.outcome,
        group.receipts,
        group.attempts,
        output.moment(group.first_started_at_ns),
        output.moment(group.last_finished_at_ns),
        group.first_request_id,
        group.last_request_id,
    )


def _problem(problem: Problem) -> tuple[object, ...]:
    return (
        problem.state,
        problem.kind,
        problem.name,
        problem.entries,
        problem.first_seq,
        problem.last_seq,
        problem.code,
        problem.request_id,
        output.cut(problem.reason or ""),
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
        audit_entries.commit(writer),
        writer.program,
    )
