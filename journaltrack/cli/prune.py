"""Implement ``journaltrack prune``: remove what was delivered long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode, exit_code_of
from journaltrack.cli.journals import Journals, about_journals
from journaltrack.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.journal.sqlite.footprint import Footprint
    from journaltrack.retention.prune import PruneReport

_UNCONFIRMED_MAX = 10
_WHEN = "30d (ago), 2026-11-03, 2026-11-03T12:00+01:00"


@click.command(
    epilog="\b\nExamples:\n  journaltrack prune --delivered-before 30d --dry-run\n"
    "  journaltrack prune --delivered-before 30d --archive 2026-11.parquet\n"
    "  journaltrack prune --blobs-delivered-before 1d      # the spool alone"
)
@about_journals
@click.option(
    "--delivered-before",
    metavar="WHEN",
    type=common.When(),
    help=f"Entries that were delivered before: {_WHEN}.",
)
@click.option(
    "--blobs-delivered-before",
    metavar="WHEN",
    type=common.When(),
    help="Artifacts in the spool that were uploaded before.",
)
@click.option(
    "--to",
    metavar="NAME",
    help="Prune the copy for this destination ([destinations.NAME], or an address) instead.",
)
@click.option(
    "--archive",
    metavar="FILE",
    type=click.Path(),
    help="First export what is removed to FILE, as its name says: .jsonl, .csv, .parquet.",
)
@common.component_option
@click.option("--no-compact", is_flag=True, help="Keep the freed pages in the database file.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would go, what stays, and why. Change nothing, contact nobody.",
)
@click.option(
    "--unasked",
    is_flag=True,
    help="Do not ask SageMaker and S3: trust the journal's record of deliveries.",
)
@click.option(
    "--trust",
    metavar="ID",
    multiple=True,
    help="Trust deliveries that this bundle, receipts file or journal claims (its id, from "
    'audit), or "all". May be repeated.',
)
@common.connection_options
@common.common_options
def command(
    journals: Journals,
    *,
    delivered_before: int | None,
    blobs_delivered_before: int | None,
    to: str | None,
    archive: str | None,
    component: str | None,
    no_compact: bool,
    dry_run: bool,
    unasked: bool,
    trust: tuple[str, ...],
    config_file: str | None,
    as_json: bool,
    **aws: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Remove entries of JOURNAL that were delivered before a time.

    Undelivered entries always stay.

    The command first asks SageMaker and S3, as `check --remote` does. A component stays whole if
    anything but its status is missing or different there. An artifact stays if S3 does not have
    it. If AWS can't be asked, nothing is removed (exit code 5 or 6).

    Each component keeps what it needs to continue and to be shown: its origin, its status, the
    last value of each name, and the sums of its metrics. Each removal is recorded, and the chains
    of digests still hold. See docs/retention.md.
    """
    from journaltrack.app.composition import run_prune  # noqa: PLC0415
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.verification.verifier import REQUESTS_PER_S, VerifyOptions  # noqa: PLC0415

    _check_times(delivered_before, blobs_delivered_before, archive)
    path = journals.only()
    known, connection = common.reach(config_file, aws, REQUESTS_PER_S)
    connection = connection.to(None if to is None else known.destination(to))
    with (
        ProgressView(f"prune of {common.path_of(path)}") as view,
        common.usable(archive, "written", "; nothing was removed"),
    ):
        try:
            done = run_prune(
                path,
                connection,
                VerifyOptions(visible_after_s=known.visible_after_s),
                delivered_before_ns=delivered_before,
                blobs_before_ns=blobs_delivered_before,
                component=component,
                archive=archive,
                dry_run=dry_run,
                compact=not no_compact,
                on_progress=view,
                unasked=unasked,
                trust=trust,
            )
        except RemoteError as error:
            output.problem(
                "error",
                f"nothing was removed, since AWS could not confirm the deliveries: {error.message}",
                error.hint,
            )
            return exit_code_of(error)
    return _tell(done, as_json=as_json)


def _check_times(
    delivered_before: int | None, blobs_delivered_before: int | None, archive: str | None
) -> None:
    """Refuse a prune that names no time for what it would remove."""
    if delivered_before is None and blobs_delivered_before is None:
        raise click.UsageError(
            "give --delivered-before WHEN, or --blobs-delivered-before WHEN for the spool alone; "
            "nothing was removed"
        )
    if delivered_before is None:
        common.refuse_without("--delivered-before", {"--archive": archive})


def _tell(done: PruneReport, *, as_json: bool) -> ExitCode:
    unconfirmed = {**done.unconfirmed, **done.blobs_unconfirmed}
    untold = {**done.untold, **done.blobs_untold}
    code = ExitCode.PENDING if untold else ExitCode.OK
    code = ExitCode.PROBLEMS if unconfirmed else code
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(code)})
    else:
        _print(done)
    _explain(done)
    _explain_stays(
        unconfirmed,
        "`journaltrack check --remote` lists all differences; with --repair it sends what is "
        "missing",
    )
    _explain_stays(
        untold,
        "nothing is known to be missing: prune again later, or ask with `journaltrack check "
        "--remote`",
    )
    return code


def _explain(done: PruneReport) -> None:
    """Explain on stderr what stayed although it was asked for, and what to do."""
    if done.blobs_kept:
        output.problem(
            "warning",
            f"{output.plural(done.blobs_kept, 'artifact')} of the spool stayed: their bytes are "
            "not what was recorded",
            "`journaltrack check` names them",
        )
    if done.blobs_recent:
        output.problem(
            "note",
            f"{output.plural(done.blobs_recent, 'delivered artifact')} stayed: recorded in the "
            "last ten minutes, and a call may still need the bytes",
            "prune again later",
        )
    for each in done.hearsay:
        output.problem(
            "note",
            f"{output.hearsay_text(each)}: they stay",
            f"if you trust it, run `journaltrack prune --trust {each.id[:16]}`",
        )


def _explain_stays(stays: Mapping[str, str], hint: str) -> None:
    """Say what stays and why, with one hint for all."""
    for which, why in list(stays.items())[:_UNCONFIRMED_MAX]:
        output.problem("warning", f"{which} stayed: {why}", hint)
    if len(stays) > _UNCONFIRMED_MAX:
        output.say(f"... and {len(stays) - _UNCONFIRMED_MAX} more; --json has them", err=True)


def _print(done: PruneReport) -> None:
    from journaltrack.retention.plan import REASONS  # noqa: PLC0415

    removed = "would remove" if done.dry_run else "removed"
    if done.delivered_before_ns is not None:
        output.say(
            f"{removed} {output.plural(done.entries, 'entry')} delivered before "
            f"{output.moment(done.delivered_before_ns)}"
        )
        tables.table("goes", ("component", "entries"), list(done.by_component.items()))
        tables.table(
            "stays",
            ("entries", "state", "why"),
            [
                (n, reason, meaning)
                for reason, meaning in REASONS.items()
                if (n := done.stays.get(reason))
            ],
        )
    if done.blobs_before_ns is not None:
        contents = output.plural(done.blobs, "artifact")
        output.say(
            f"{removed} {contents} ({output.size(done.blob_bytes)}) from the spool, uploaded "
            f"before {output.moment(done.blobs_before_ns)}"
        )
    if done.archive is not None:
        archive = done.archive
        output.say(
            f"archive: {output.clean(archive.name)}, {output.plural(archive.rows, 'row')}, "
            f"SHA-256 {output.digest(archive.sha256)}"
        )
    if done.before is not None and done.after is not None:
        output.say(
            f"database: {_size(done.before)} before, {_size(done.after)} now"
            + ("" if done.compacted else f"; not compacted: {output.clean(done.not_compacted)}")
        )


def _size(footprint: Footprint) -> str:
    free = f" ({output.size(footprint.free_bytes)} of it free)" if footprint.free_bytes else ""
    return f"{output.size(footprint.database_bytes + footprint.wal_bytes)}{free}"
