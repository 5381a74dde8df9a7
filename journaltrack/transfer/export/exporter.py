"""Implement ``journaltrack.export``: write metrics or entries to a file.

Must not know a remote. Invariants: changes no journal. A file gets its name only when it is
complete and on the disk; until then an existing file of that name stays as it is. Memory does not
grow with the journal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from journaltrack.errors import InvalidInputError, NothingMatchesError
from journaltrack.journal import removed, view
from journaltrack.journal.filter import Choice
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.export.pages import Reader
from journaltrack.transfer.export.tables import (
    TABLES,
    Csv,
    JsonLines,
    Page,
    Parquet,
    Table,
    TableName,
    load,
)
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.view import When

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "csv", "parquet")
_FORMAT_OF: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


_AnyJournal: TypeAlias = "Journal | str | os.PathLike[str] | None"


class _Writer(Protocol):
    def write(self, page: Page) -> None:
        """Write a page of rows."""

    def close(self) -> None:
        """Write what ends the file."""

    def abandon(self) -> None:
        """Write nothing more: the file is not kept."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Say what was exported.

    Attributes:
        journal, journal_id: From which journal.
        output: The file; None for a stream.
        table, format: Which table, in which format.
        rows: How many.
        unsound: In how many rows a cell was left out, because journaltrack never records such a
            value.
        last_seq: The newest entry that was read. Later ones were recorded meanwhile.
        removed: Entries removed from the journal on the record; the export does not have them.
    """

    journal: str
    journal_id: str
    output: str | None
    table: TableName
    format: Format
    rows: int
    unsound: int
    last_seq: int
    removed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def export(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str] | IO[bytes],
    table: TableName = "metrics",
    format: Format | None = None,  # noqa: A002 - what everybody calls it
    component: str | None = None,
    since: When | None = None,
    until: When | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExportReport:
    """Write a journal's metrics or entries to a file.

    docs/reference/columns.md describes the columns.

    Entries recorded after the start are left out. The state of an entry is as of when it is read.

    Args:
        journal: An open journal, a path, or None for the default journal.
        to: The file, which appears when it is complete; or a binary stream, which is not closed.
        table: ``"metrics"``: the points of metrics; ``"entries"``: all entries and their states.
        format: ``"jsonl"``, ``"csv"`` or ``"parquet"`` (which needs pyarrow); None: from the
            file's name.
        component: Shell pattern of component names (case does not matter); None: all.
        since: Only what was recorded then or later: an aware datetime, a timedelta (before now),
            or nanoseconds since the epoch.
        until: Only what was recorded before then; given in the same way.
        force: Replace the file if it exists.
        on_progress: Called now and then with how many entries were read, of how many.

    Raises:
        InvalidInputError: The file exists, its name implies no format, or pyarrow is missing.
            Nothing was written.
        JournalError: The journal can't be read. No file is left.
        OSError: The file can't be written. No file is left.
    """
    chosen = _format(to, format)
    if table not in TABLES:
        raise InvalidInputError(
            f"there is no table {table!r}", hint=f"it is one of {', '.join(TABLES)}"
        )
    choice = Choice(
        component,
        since_ns=view.nanoseconds("since", since),
        until_ns=view.nanoseconds("until", until),
    )
    return export_chosen(
        [journal],
        choice,
        to=to,
        table=table,
        format=chosen,
        force=force,
        on_progress=on_progress,
    )[0]


def export_chosen(
    journals: Sequence[_AnyJournal],
    choice: Choice,
    *,
    condition: str = "1",
    to: str | os.PathLike[str] | IO[bytes],
    table: TableName,
    format: Format | None = None,  # noqa: A002
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[ExportReport]:
    """Export the chosen entries of several journals into one file.

    The journals are read one after the other. One without a component of the choice is left out.
    After an error no file is left. ``condition`` is further SQL of ours about an entry ``e``. The
    other arguments are those of ``export``.

    Returns:
        What was exported, by journal.

    Raises:
        NothingMatchesError: No journal has a component of the choice.
        JournalError, InvalidInputError, OSError: As of ``export``.
    """
    chosen = _format(to, format)
    if chosen == "parquet":
        load()
    tell = on_progress or (lambda _: None)
    named = _named(journals, choice.component)
    made = []
    with contextlib.ExitStack() as stack:
        target: Path | None = None
        if isinstance(to, (str, os.PathLike)):
            folders = [folder for folder, _ in named]
            target, stream = stack.enter_context(paths.whole_file(to, *folders, force=force))
        else:
            stream = to
        writer = _writer(chosen, stream, TABLES[table])
        try:
            for _, journal in named:
                with view.opened(journal) as own:
                    rows, unsound, last_seq = _copy(
                        Reader(own, TABLES[table], choice, condition), writer, tell
                    )
                    output = None if target is None else str(target)
                    gone = removed.entries(own.database)
                    about = (str(own.path), own.journal_id, output, table, chosen)
                    made.append(ExportReport(*about, rows, unsound, last_seq, gone))
            writer.close()
        except BaseException:
            writer.abandon()
            raise
    return made


def _named(
    journals: Sequence[_AnyJournal], component: str | None
) -> list[tuple[Path, _AnyJournal]]:
    """Return the journals that have such a component, and their folders.

    All of them can be read: this runs before a byte is written.
    """
    found: list[tuple[Path, _AnyJournal]] = []
    unnamed = []
    for journal in journals:
        with view.opened(journal) as own:
            try:
                view.matching(own, component, displayed=True)
            except NothingMatchesError as error:
                unnamed.append(error)
            else:
                found.append((own.path, journal))
    if not found and unnamed:
        raise unnamed[0]
    return found


def _copy(
    reader: Reader, writer: _Writer, tell: Callable[[Progress], None]
) -> tuple[int, int, int]:
    """Copy the rows; return how many, how many unsound, and the last entry."""
    rows = unsound = 0
    tell(Progress(0, reader.last_seq, 0))
    for page in reader.pages():
        writer.write(page)
        rows += page.rows
        unsound += page.unsound
        tell(Progress(page.last_seq, reader.last_seq, 0))
    return rows, unsound, reader.last_seq


def _writer(chosen: Format, stream: IO[bytes], table: Table) -> _Writer:
    if chosen == "parquet":
        return Parquet(stream, table)
    return JsonLines(stream, table) if chosen == "jsonl" else Csv(stream, table)


def _format(to: object, chosen: str | None) -> Format:
    """Return the requested format, or the one that the file's name implies.

    A name that implies another format than the requested one would mislead every reader.
    """
    suffix = Path(to).suffix.lower() if isinstance(to, (str, os.PathLike)) else ""
    for known in FORMATS:
        if chosen == known:
            implied = _FORMAT_OF.get(suffix, known)
            if implied != known:
                raise InvalidInputError(
                    f"the name {Path(str(to)).name} implies {implied}, but the format is {known}; "
                    "nothing was written",
                    hint="leave out the format, or change the name",
                )
            return known
    if chosen is not None:
        raise InvalidInputError(
            f"there is no format {chosen!r}", hint=f"it is one of {', '.join(FORMATS)}"
        )
    if suffix not in _FORMAT_OF:
        what = f"the name {Path(to).name}" if isinstance(to, (str, os.PathLike)) else "a stream"
        raise InvalidInputError(
            f"{what} implies no format",
            hint=f"name one of {', '.join(FORMATS)}, or end the name in {', '.join(_FORMAT_OF)}",
        )
    return _FORMAT_OF[suffix]


def check_target(to: str | os.PathLike[str], journal: Path) -> None:
    """Refuse a name at which no export of the journal in that folder can be created.

    Create nothing.

    Raises:
        InvalidInputError: Something is there already, no file can be there, or the name implies
            no known format.
    """
    _format(to, None)
    paths.file_target(to, journal, force=False)
