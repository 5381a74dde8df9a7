"""Implement ``journaltrack export``: write metrics or entries to a file."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, cast

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals, each
from journaltrack.errors import RemoteError

if TYPE_CHECKING:
    from journaltrack.journal.filter import Choice
    from journaltrack.transfer.export.dataset import DatasetReport
    from journaltrack.transfer.export.exporter import ExportReport, Format
    from journaltrack.transfer.export.tables import TableName

_STDOUT = "-"
_WHEN = "2h, 3d (ago), 2026-11-03, 2026-11-03T12:00+01:00"


class _TerminatedError(BaseException):
    """Signal SIGTERM.

    It ends the export as Ctrl-C does, so that no partial file stays.
    """


@click.command(
    epilog="\b\nExamples:\n  journaltrack export -o metrics.parquet\n  journaltrack export "
    "/mnt/usb/journal --table entries -o entries.csv\n"
    "  journaltrack export --component 'digits-*' --since 2d | jq -c .name\n"
    "  journaltrack export journals --to s3://my-bucket/runs"
)
@about_journals
@click.option(
    "--table",
    type=click.Choice(["metrics", "entries"]),
    show_default="metrics",
    help="The points of metrics, or all entries.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="Default: by the ending of FILE; jsonl for -.",
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=click.Path(),
    show_default=_STDOUT,
    help="The file; - is standard output.",
)
@click.option(
    "--to",
    "dataset",
    metavar="DATASET",
    help="Instead of FILE: add what is new to this dataset of Parquet files, a folder or "
    "s3://BUCKET/PREFIX.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@common.component_option
@click.option(
    "--since", metavar="WHEN", type=common.When(), help=f"Only what was recorded since: {_WHEN}."
)
@click.option("--until", metavar="WHEN", type=common.When(), help="Only what was recorded before.")
@common.connection_options
@common.common_options
def command(
    journals: Journals,
    *,
    table: str | None,
    file_format: str | None,
    target: str | None,
    dataset: str | None,
    force: bool,
    component: str | None,
    since: int | None,
    until: int | None,
    config_file: str | None,
    profile: str | None,
    region: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> ExitCode:
    """Write the metrics or all entries of JOURNAL as JSON Lines, CSV or Parquet.

    A folder of journals stands for those in it. All go into one FILE, where journal_id tells them
    apart. FILE appears only when it is complete. Entries recorded after the start are left out.
    States are as of reading.

    With --to, the metrics, entries and deliveries that the dataset lacks are added to it. Run it
    again at any time, also for copies of a journal.

    docs/reference/columns.md has the columns, docs/dataset.md the dataset. The command changes no
    journal, and uses the network for s3:// alone.
    """
    reach = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    if dataset is not None:
        of_files = {
            "--output": target,
            "--table": table,
            "--format": file_format,
            "--force": force,
            "--component": component,
            "--since": since,
            "--until": until,
        }
        refused = [name for name, value in of_files.items() if value]
        if refused:
            raise click.UsageError(f"{', '.join(refused)} can't be used with --to")
        return _to_dataset(journals, dataset, config_file, reach, as_json=as_json)
    common.refuse_without(
        "--to s3://...", {f"--{name.replace('_', '-')}": each for name, each in reach.items()}
    )
    from journaltrack.journal.filter import Choice  # noqa: PLC0415 - SQLAlchemy

    choice = Choice(component, since_ns=since, until_ns=until)
    target, table = target or _STDOUT, table or "metrics"
    return _to_file(journals, target, table, file_format, choice, force=force, as_json=as_json)


def _to_file(
    journals: Journals,
    target: str,
    table: str,
    file_format: str | None,
    choice: Choice,
    *,
    force: bool,
    as_json: bool,
) -> ExitCode:
    """Write what was chosen to a file."""
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.export.exporter import export_chosen  # noqa: PLC0415 - SQLAlchemy

    what = (
        output.plural(len(journals.folders), "journal")
        if journals.are_several
        else common.path_of(journals.folders[0])
    )
    to: str | IO[bytes] = target
    if target == _STDOUT:
        file_format = file_format or "jsonl"
        to = _stdout(file_format, as_json=as_json)
    with _terminable() as ended, ProgressView(f"export of {what}") as view:
        try:
            with common.usable(None if target == _STDOUT else target, "written"):
                made = export_chosen(
                    journals.folders,
                    choice,
                    to=to,
                    table=cast("TableName", table),
                    format=cast("Format | None", file_format),
                    force=force,
                    on_progress=view,
                )
        except _TerminatedError:
            return ExitCode.TERMINATED
        finally:
            ended.set()
    if target == _STDOUT:
        output.Bytes().flush()
    elif as_json:
        _print_json(journals, made)
    else:
        of_many = f" of {output.plural(len(made), 'journal')}" if journals.are_several else ""
        rows = output.plural(sum(each.rows for each in made), "row")
        output.say(
            f"{output.clean(made[0].output)}: {rows} of {made[0].table}{of_many} as "
            f"{made[0].format}"
        )
    _tell(made)
    return ExitCode.OK


def _to_dataset(
    journals: Journals,
    to: str,
    config_file: str | None,
    reach: dict[str, str | None],
    *,
    as_json: bool,
) -> ExitCode:
    """Add what is new to a dataset. A journal that can't be read does not stop the others."""
    from journaltrack.app import dataset  # noqa: PLC0415 - shell completion imports this module
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.export.dataset import extend  # noqa: PLC0415
    from journaltrack.util import paths  # noqa: PLC0415

    _, connection = common.reach(config_file, reach)
    folders = [paths.journal_folder(each) for each in journals.folders]
    made: list[DatasetReport] = []
    refused: list[RemoteError] = []

    def add(journal: str | None) -> ExitCode:
        """Add what is new of one journal."""
        folder = paths.journal_folder(journal)
        try:
            with (
                common.usable(to, "written"),
                ProgressView(f"export of {output.clean(folder)}") as view,
            ):
                made.append(extend(store, folder, on_progress=view))
        except RemoteError as error:
            # The others would meet it, too.
            refused.append(error)
            raise
        if as_json:
            output.print_json({**made[-1].to_json(), "exit_code": int(ExitCode.OK)})
        else:
            output.say(f"{journals.heading(made[-1].journal)}{_told(made[-1])}")
        return ExitCode.OK

    with _terminable() as ended:
        try:
            with common.usable(to, "written"), dataset.opened(to, folders, connection) as store:
                code = each(
                    journals,
                    add,
                    as_json="document" if as_json else None,
                    has_ended=lambda: bool(refused),
                    verdict="exported",
                )
        except _TerminatedError:
            return ExitCode.TERMINATED
        finally:
            ended.set()
    _tell(made)
    return code


def _told(made: DatasetReport) -> str:
    new = (
        f"{output.plural(made.metrics, 'metric')}, {output.plural(made.entries, 'entry')} "
        f"and {output.plural(made.deliveries, 'delivery')} in "
        f"{output.plural(len(made.files), 'new file')}"
        if made.files
        else "nothing new"
    )
    return f"{output.clean(made.dataset)}: {new}"


def _print_json(journals: Journals, made: Sequence[ExportReport]) -> None:
    documents = [each.to_json() for each in made]
    told = {"journals": documents} if journals.are_several else documents[0]
    output.print_json({**told, "exit_code": int(ExitCode.OK)})


def _stdout(file_format: str, *, as_json: bool) -> IO[bytes]:
    """Return standard output as the file to export to, unless it can't be that."""
    if as_json:
        raise click.UsageError("--json and the export both use stdout; name a file with --output")
    if not output.on_terminal():
        return cast("IO[bytes]", output.Bytes())
    if file_format == "parquet":
        raise click.UsageError("Parquet can't be printed on a terminal; name a file with --output")
    return cast("IO[bytes]", _Terminal())


def _tell(made: Sequence[ExportReport | DatasetReport]) -> None:
    """Say what the rows do not show."""
    removed, unsound = sum(each.removed for each in made), sum(each.unsound for each in made)
    if removed:
        gone = output.plural(removed, "entry")
        output.say(
            f"note: {gone} were pruned from the journal and are not in the export; `journaltrack "
            "audit` has the record",
            err=True,
        )
    if unsound:
        hint = "the column `unsound` lists them; check the journal with `journaltrack check`"
        output.problem(
            "warning",
            f"in {output.plural(unsound, 'row')} cells were left out that journaltrack never "
            "records",
            hint,
        )


class _Terminal:
    """Write to a terminal as a binary stream; escape what could control it."""

    def write(self, data: bytes) -> int:
        """Write whole lines."""
        text = data.decode().replace("\r\n", "\n")
        output.say("\n".join(map(output.clean, text.removesuffix("\n").split("\n"))))
        return len(data)


@contextlib.contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Raise ``_TerminatedError`` on SIGTERM until the event is set."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        """End the export at the first signal."""
        if not ended.is_set():
            ended.set()
            raise _TerminatedError

    before: Any = signal.signal(signal.SIGTERM, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)
