"""Implement ``journaltrack receipts``: carry receipts between copies."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, cast

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals

if TYPE_CHECKING:
    from journaltrack.transfer.receipts import ReceiptsImported

_STDOUT = "-"
_SHOWN_OUTCOMES = ("delivered", "superseded", "in doubt", "quarantined")


@click.group(
    epilog="\b\nExamples:\n"
    "  journaltrack receipts export -o it.receipts  # where it was synced\n"
    "  journaltrack receipts import it.receipts     # where it was recorded"
)
def command() -> None:
    """Carry the state of a journal's entries from one copy to another.

    A copy that was synced on another machine knows what arrived. Its receipts bring that to the
    journal that it was copied from.
    """


@command.command(
    "export",
    epilog="\b\nExamples:\n"
    "  journaltrack receipts export /media/usb/journal -o /media/usb/receipts.jsonl\n"
    "  journaltrack receipts export -o - | gzip > receipts.jsonl.gz",
)
@about_journals
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=click.Path(),
    required=True,
    help="The file; - is standard output.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@common.common_options
def export_command(journals: Journals, *, target: str, force: bool, as_json: bool) -> ExitCode:
    """Write all receipts of JOURNAL to FILE. Changes nothing.

    FILE appears only when it is complete.

    FILE has no values of entries. It has names of components, hosts, users and programs, and AWS's
    error texts.
    """
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.receipts import export_receipts  # noqa: PLC0415 - SQLAlchemy

    path = journals.only("receipts export")
    if target == _STDOUT and as_json:
        raise click.UsageError("--json and the receipts both use stdout; name a file with --output")
    to: str | IO[bytes] = cast("IO[bytes]", output.Bytes()) if target == _STDOUT else target
    with (
        ProgressView(f"receipts of {common.path_of(path)}", unit="receipts") as view,
        common.usable(None if target == _STDOUT else target, "written"),
    ):
        made = export_receipts(path, to=to, force=force, on_progress=view)
    if target == _STDOUT:
        output.Bytes().flush()
    elif as_json:
        output.print_json({**made.to_json(), "exit_code": int(ExitCode.OK)})
    else:
        output.say(
            f"{output.clean(made.output)}: {output.plural(made.attestations, 'receipt')} of "
            f"{_processes(made.reconcilers)}"
        )
        output.say(f"sha256 {output.digest(made.sha256)}")
    return ExitCode.OK


@command.command(
    "import",
    epilog="\b\nExamples:\n"
    "  journaltrack receipts import /media/usb/receipts.jsonl --dry-run\n"
    "  journaltrack receipts import /media/usb/receipts.jsonl runs/journal",
)
@click.argument("file", metavar="FILE", type=click.Path())
@about_journals
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@common.common_options
def import_command(file: str, journals: Journals, *, dry_run: bool, as_json: bool) -> ExitCode:
    """Import the receipts in FILE into JOURNAL.

    What that copy delivered counts as delivered here.

    The whole file is verified before anything is changed: all receipts are imported, or none.
    Importing again changes nothing. If you don't trust the way the file came, compare its sha256
    with what the export printed.
    """
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.receipts import import_receipts  # noqa: PLC0415 - SQLAlchemy

    path = journals.only("receipts import")
    with (
        ProgressView(f"receipts into {common.path_of(path)}", unit="receipts") as view,
        common.usable(file, "read"),
    ):
        done = import_receipts(file, path, dry_run=dry_run, on_progress=view)
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(ExitCode.OK)})
    else:
        _print(done)
    return ExitCode.OK


def _print(done: ReceiptsImported) -> None:
    output.say(f"sha256 {output.digest(done.sha256)}")
    if not done.new:
        output.say(
            f"nothing new: all {output.plural(done.attestations, 'receipt')} were here already"
        )
        return
    would = "would take over" if done.dry_run else "took over"
    output.say(
        f"{would} {done.new} of {output.plural(done.attestations, 'receipt')}, of "
        f"{_processes(done.reconcilers)} new here"
    )
    changes = [
        f"{done.settled[outcome]:+d} {outcome}"
        for outcome in _SHOWN_OUTCOMES
        if done.settled.get(outcome)
    ]
    output.say(f"entries: {', '.join(changes) or 'no change'}; {done.pending} pending")
    if done.kept:
        output.say(
            f"{output.plural(done.kept, 'entry')} stay as they are here: the copy that released "
            "them did not know why"
        )
    if done.elsewhere:
        output.say(
            f"{output.plural(done.elsewhere, 'receipt')} about entries that are not here: kept "
            "until they arrive"
        )


def _processes(count: int) -> str:
    return output.plural(count, "process", "processes")
