"""Implement ``journaltrack merge``: merge journals or copies into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals

if TYPE_CHECKING:
    from journaltrack.transfer.merge import MergeReport

_LISTED_MAX = 5


@click.command(
    epilog="\b\nExamples:\n  journaltrack merge node-1/journal node-2/journal --into all\n  "
    "journaltrack merge /media/usb/* --into all\n"
    "  journaltrack sync all"
)
@about_journals
@click.option(
    "--into",
    "target",
    metavar="TARGET",
    required=True,
    type=click.Path(),
    help="The journal to merge into; created if it is missing.",
)
@common.common_options
def command(journals: Journals, *, target: str, as_json: bool) -> ExitCode:
    """Merge the entries, receipts and artifacts of each JOURNAL into TARGET.

    The journals may come from a fleet of nodes, or be copies of one journal. They are not changed,
    and may be written to meanwhile: merge again to bring the rest. No entry is merged twice, and
    what was delivered is not sent again. Training may go on in TARGET.
    """
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.merge import merge  # noqa: PLC0415 - SQLAlchemy

    if not journals.named:
        raise click.UsageError("name the journals to merge: JOURNAL..., or a folder of journals")
    with ProgressView(f"merge into {common.path_of(target)}") as view:
        done = merge(
            [Path(str(journal)) for journal in journals.folders], into=target, on_progress=view
        )
    missing = any(source.blobs_missing for source in done.sources)
    code = ExitCode.PROBLEMS if missing else ExitCode.OK
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(code)})
    else:
        _print(done)
    return code


def _print(done: MergeReport) -> None:
    columns = ("journal", "entries", "known", "receipts", "artifacts", "size")
    rows = [
        (
            s.journal,
            s.entries,
            s.known,
            s.attestations,
            s.blobs,
            output.size(s.blob_bytes) if s.blobs else None,
        )
        for s in done.sources
    ]
    tables.table("new from", columns, rows)
    for source in done.sources:
        if source.taken_as_found:
            what = (
                f"{output.plural(source.taken_as_found, 'entry')} of {output.clean(source.journal)}"
            )
            output.say(
                f"{what} were settled or in flight there without a chained receipt: this merge "
                "attests them as they were found"
            )
        if source.kept:
            what = f"{output.plural(source.kept, 'entry')} stay as they are: "
            output.say(
                f"{what}{output.clean(source.journal)} released them without knowing why they "
                "are so"
            )
        if source.blobs_missing:
            shown = ", ".join(source.blobs_missing[:_LISTED_MAX]) + (
                ", ..." if len(source.blobs_missing) > _LISTED_MAX else ""
            )
            message = (
                f"{source.journal} lacks {output.plural(len(source.blobs_missing), 'artifact')} "
                f"that it names: {shown}"
            )
            output.problem(
                "warning",
                message,
                "`journaltrack check --repair --restore-from FOLDER` restores them; then merge "
                "again",
            )
    made = "made" if done.created else ("changed" if done.changed else "nothing new")
    output.say(
        f"{output.clean(done.journal)}: {made}; {output.plural(done.entries, 'entry')}, "
        f"{done.pending} pending"
    )
