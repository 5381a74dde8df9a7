"""Implement ``journaltrack status``: where journals stand now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals, each, of_destination
from journaltrack.util.text import duration

if TYPE_CHECKING:
    from journaltrack.reports.status import CopyStatus, JournalStatus, Sizes

_INTERVAL_S: Final = 2.0
_GONE_MAX: Final = 5
"""Ours: runs that are named."""


@click.command(
    epilog="\b\nExamples:\n  journaltrack status\n  journaltrack status /mnt/usb/run-*/journal\n"
    "  journaltrack status --watch /data/journals\n  journaltrack status --check || echo 'not "
    "all is delivered'"
)
@about_journals
@of_destination
@click.option(
    "--watch",
    is_flag=True,
    help="Repeat until Ctrl-C, with the rate of delivery and the watcher's next attempt.",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=common.Number(0.1),
    help="With --watch: time between looks.  [default: 2]",
)
@click.option("--count", metavar="N", type=common.Whole(1), help="With --watch: end after N looks.")
@click.option(
    "--health-file",
    "health_files",
    metavar="FILE",
    multiple=True,
    type=click.Path(),
    help="With --watch: the health file of another user's watcher. May be repeated.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 4 when entries are quarantined or in doubt, with 3 when some are pending.",
)
@common.options_with_json(
    "Print one JSON document and nothing else on stdout; with --watch, one JSON object per look, "
    "on a line."
)
def command(
    journals: Journals,
    *,
    watch: bool,
    interval: float | None,
    count: int | None,
    health_files: tuple[str, ...],
    check: bool,
    as_json: bool,
) -> ExitCode:
    """Show what is pending in each JOURNAL, its age, and the last error.

    Also show who holds the journal's lease, and its size.

    A folder of journals stands for those in it. The command changes nothing, contacts nobody, and
    works on read-only media. Its cost does not grow with what was delivered.
    """
    if watch:
        from journaltrack.cli.live import show  # noqa: PLC0415

        if check:
            raise click.UsageError("--check looks once: leave out --watch")
        files = [*map(Path, health_files), *_configured()]
        return show(
            journals.folders,
            health_files=files,
            interval_s=_INTERVAL_S if interval is None else interval,
            count=count,
            as_json=as_json,
        )
    common.refuse_without(
        "--watch", {"--interval": interval, "--count": count, "--health-file": health_files}
    )
    return each(
        journals,
        lambda journal: _show(
            journal, check=check, as_json=as_json, apart=journals.is_later(journal)
        ),
        as_json="list" if as_json else None,
        changes=False,
    )


def _show(journal: str | None, *, check: bool, as_json: bool, apart: bool) -> ExitCode:
    from journaltrack.reports.status import status  # noqa: PLC0415 - SQLAlchemy

    current = status(journal, hearsay=True)
    code = _code(current) if check else ExitCode.OK
    if as_json:
        output.print_json({"journal": current.path, **current.to_json(), "exit_code": int(code)})
    else:
        if apart:
            output.say()
        _print(current)
    return code


def _configured() -> list[Path]:
    """Return the configured health file.

    A watcher of another user may have the same configuration.
    """
    from journaltrack.util import config  # noqa: PLC0415 - shell completion imports this module

    named = config.current().watch.health_file
    return [] if named is None else [Path(named)]


def _is_target(status: JournalStatus) -> bool:
    """Return whether anything is delivered where the status is of: ``deliver_to`` may say not."""
    from journaltrack.util import config  # noqa: PLC0415 - as above

    return status.destination != config.SAGEMAKER or None in config.current().targets


def _code(status: JournalStatus) -> ExitCode:
    copies = status.destinations
    # Without a copy, nothing was delivered anywhere.
    counts = _is_target(status) or not copies
    if (counts and (status.quarantined or status.in_doubt)) or any(
        c.quarantined or c.in_doubt for c in copies
    ):
        return ExitCode.PROBLEMS
    pending = counts and (status.pending or status.in_flight)
    return ExitCode.PENDING if pending or any(c.pending != 0 for c in copies) else ExitCode.OK


def _refused(status: JournalStatus) -> str:
    """Return how many entries are quarantined, and who refuses them: others may take them."""
    told = output.plural(status.quarantined, "entry")
    if not status.quarantined:
        return told
    told += f", by {common.service_of(status.path)}"
    return told if _is_target(status) else f"{told}, where nothing is delivered to (deliver_to)"


def _print(status: JournalStatus) -> None:
    from journaltrack.journal import destinations  # noqa: PLC0415 - as above

    rows: list[tuple[str, object]] = [
        ("journal", status.path),
        ("journal id", status.journal_id),
        ("components", status.components),
        ("pending", output.plural(status.pending, "entry")),
    ]
    rows += [(f"  {stream.stream}", stream.entries) for stream in status.pending_by_stream]
    if status.oldest_pending_at_ns is not None and status.oldest_pending_age_s is not None:
        rows.append(
            (
                "oldest pending",
                (
                    f"{output.moment(status.oldest_pending_at_ns)} "
                    f"({duration(status.oldest_pending_age_s)} ago)"
                ),
            )
        )
    rows += [
        ("in flight", output.plural(status.in_flight, "entry")),
        ("in doubt", output.plural(status.in_doubt, "entry")),
        ("quarantined", _refused(status)),
        ("last success", _last_success(status)),
        ("last error", _last_error(status)),
        ("lease held by", _holder(status)),
    ]
    rows += [(f"to {each.to}", _copied(each)) for each in status.destinations]
    if status.gone:
        shown = ", ".join(status.gone[:_GONE_MAX])
        rows.append(("gone", f"{output.plural(len(status.gone), 'run')}: {shown}"))
    rows += [("run", f"{run.component}: {run.text}") for run in status.left_open]
    rows.append(("size", _sizes(status.sizes)))
    tables.fields(rows)
    for told in status.hearsay:
        output.say(output.hearsay_text(told))
    if status.unfinished_receipts and status.lease is None:
        requests = output.plural(status.unfinished_receipts, "request")
        output.say(
            f"hint: {requests} of a sync that ended early have no recorded answer; the next sync "
            "settles them",
            err=True,
        )
    for begun in status.unfinished:
        output.problem("warning", begun.text, begun.hint)
    if status.gone:
        from journaltrack.replay.evidence.gone import REMEDY  # noqa: PLC0415 - few need it

        output.say(f"hint: what was delivered and is not there any more: {REMEDY}", err=True)
    if status.exposed is not None:
        output.problem("warning", status.exposed)
    if status.quarantined or status.in_doubt:
        to = destinations.option_of(status.path)
        output.say(
            f"hint: `journaltrack audit{to}` names what is quarantined or in doubt, and why",
            err=True,
        )


def _copied(copy: CopyStatus) -> str:
    if copy.pending is None:
        return f"it can't be read: {output.clean(copy.problem or '')}"
    problems = (
        ("quarantined", copy.quarantined),
        ("in doubt", copy.in_doubt),
        ("runs gone", copy.gone),
    )
    told = [f"{count} {state}" for state, count in problems if count]
    return ", ".join([f"{output.plural(copy.pending, 'entry')} pending", *told])


def _sizes(sizes: Sizes) -> str:
    free = (
        f" ({output.size(sizes.database_free_bytes)} of it free)"
        if sizes.database_free_bytes
        else ""
    )
    delivered = (
        f" ({output.size(sizes.spool_delivered_bytes)} no longer needed)"
        if sizes.spool_delivered_bytes
        else ""
    )
    return (
        f"database {output.size(sizes.database_bytes)}{free}, log "
        f"{output.size(sizes.wal_bytes)}, spool {output.size(sizes.spool_bytes)} in "
        f"{output.plural(sizes.spool_files, 'file')}{delivered}"
    )


def _last_success(status: JournalStatus) -> str | None:
    last = status.last_success
    return (
        None
        if last is None
        else f"{output.moment(last.at_ns)} {last.action}, request {last.request_id or '-'}"
    )


def _last_error(status: JournalStatus) -> str | None:
    last = status.last_error
    if last is None:
        return None
    return output.cut(
        f"{output.moment(last.at_ns)} {last.action} {last.outcome}: {last.code or ''} "
        f"{last.text or ''}"
    )


def _holder(status: JournalStatus) -> str | None:
    holder = status.lease
    return (
        None if holder is None else f"{holder.owner} since {output.moment(holder.acquired_at_ns)}"
    )
