"""Read CSV files: of Lightning's CSVLogger, of Keras' CSVLogger, or any with a row per step.

Lightning's folder (``lightning_logs/version_0``) has ``metrics.csv`` and ``hparams.yaml``. When a
new metric comes, Lightning writes the file anew, with more columns: what identifies a run is the
first row without its empty cells.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.errors import InvalidInputError
from journaltrack.importers import tables, yaml_text
from journaltrack.importers.source import (
    Item,
    LeftOut,
    Parameters,
    Point,
    Source,
    SourceRun,
    Status,
    below,
    digest,
    found_at,
    text_of,
)
from journaltrack.util import patterns

if TYPE_CHECKING:
    import os

FORMAT: Final = "csv"
USUAL: Final = "metrics.csv"
HPARAMS: Final = "hparams.yaml"
_GENERIC: Final = {"metrics", "progress", "log", "logs", "history", "results", "training"}
"""Names of files that say nothing: the run has the folder's name."""
_VERSION: Final = re.compile(r"version_\d+")
_SUFFIXES: Final = {".csv", ".tsv", ".log", ".txt"}
"""Of files that may be meant, if a folder has none of the usual name."""
_DELIMITERS: Final = {"\\t": "\t", "tab": "\t"}


def find(
    path: str | os.PathLike[str],
    *,
    files: str = USUAL,
    step: str | None = None,
    time: str | None = None,
    delimiter: str | None = None,
) -> Source:
    """Find the runs in a CSV file, or in a folder of them.

    Args:
        path: The file or folder.
        files: Which files of a folder are runs: a shell pattern of their names.
        step: The column of the step; None: "step", "epoch" or the like, else the row's number.
        time: The column of the time; None: "timestamp" or the like. Without one, points get the
            time of the file's last change.
        delimiter: Between cells; None: the one of ``,``, ``;`` and tab that the header has.

    Raises:
        InvalidInputError: There is no such file or column.
    """
    root = found_at(path)
    left_out: list[LeftOut] = []
    delimiter = _DELIMITERS.get(delimiter or "", delimiter)
    if delimiter is not None and len(delimiter) != 1:
        raise InvalidInputError("a delimiter is one character; nothing was imported")
    if root.is_file():
        found = [root]
    else:
        there = list(below(root, left_out.append))
        found = [file for file in there if fnmatch.fnmatch(file.name, files)]
        if not found:
            others = [file for file in there if file.suffix.lower() in _SUFFIXES]
            names = [file.relative_to(root).as_posix() for file in others]
            kinds = " or ".join(sorted({f"--files '*{file.suffix}'" for file in others}))
            raise InvalidInputError(
                f"{root} has no file {files}; nothing was imported",
                hint=f"it has {patterns.some(sorted(names))}: name its path, or use {kinds}"
                if others
                else "name a CSV file, or a folder with some",
            )
    runs, base = [], root if root.is_dir() else root.parent
    for file in found:
        table = tables.Table(file, delimiter)
        first = table.first_or(left_out.append)
        if first is None:
            continue
        columns = table.columns(first, step, time)
        name, last = _named(root, file)
        status = file.stat()
        runs.append(
            SourceRun(
                name=name,
                id=name,
                mark=digest(last, tables.first_mark(first)),
                items=functools.partial(_items, table, columns, base),
                size_bytes=status.st_size,
                untimed_ns=status.st_mtime_ns if columns.time is None else None,
                is_guess=True,
            )
        )
    return Source(FORMAT, root, tuple(runs), tuple(left_out))


def _named(root: Path, file: Path) -> tuple[str, str]:
    """Return the name of a run, and the part of it that is the same wherever one looks from.

    A run has the folder's name if the file's says nothing.
    """
    place = file.parent if file.stem.lower() in _GENERIC else file.with_suffix("")
    name = place.relative_to(root.parent).as_posix() if root.is_dir() else place.name
    last = place.name
    # Lightning's folders have the same names everywhere.
    if _VERSION.fullmatch(last):
        last = f"{place.parent.name}/{last}"
    return name if len(name) > len(last) else last, last


def _items(table: tables.Table, columns: tables.Columns, root: Path) -> Iterator[Item]:
    hparams = table.path.with_name(HPARAMS)
    if hparams.is_file():
        try:
            found = yaml_text.load(text_of(hparams, root))
        except (OSError, ValueError) as error:
            why = f"no parameter of it is imported, since it can't be read: {error}"
            yield LeftOut("description", why, str(hparams), is_harm=True)
        else:
            if isinstance(found, dict):
                yield Parameters(found)
            elif found is not None:
                why = "its parameters have no names"
                yield LeftOut("description", why, str(hparams), is_harm=True)
    times_ns: tuple[int, int] | None = None
    for item in tables.points(table.rows(), columns):
        if type(item) is Point and item.time_ns is not None:
            at_ns = item.time_ns
            first_ns, last_ns = times_ns or (at_ns, at_ns)
            times_ns = min(first_ns, at_ns), max(last_ns, at_ns)
        yield item
    if times_ns is not None:
        # Else the run would have begun with its import.
        yield Status(None, *times_ns)
