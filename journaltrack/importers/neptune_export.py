"""Read what ``neptune-exporter`` wrote: the runs of Neptune, which has closed.

Its layout: ``data/PROJECT/RUN_part_N.parquet``, with a row per attribute or point of a series, and
beside it ``files/``, which the rows name. A run is whole when it has part 0, which is written last.
"""

from __future__ import annotations

import datetime as dt
import decimal
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import InvalidInputError, MissingExtraError, described
from journaltrack.importers import tables
from journaltrack.importers.source import (
    Content,
    File,
    Item,
    LeftOut,
    Note,
    Parameters,
    Point,
    Read,
    Source,
    SourceRun,
    Status,
    Tags,
    below,
    digest,
    found_at,
    step_of,
)

FORMAT: Final = "neptune-export"
TEXT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Ours: bytes of the series of texts of one run that are kept."""
_PART: Final = re.compile(r"(?P<run>.+)_part_(?P<number>\d+)")
_TYPES: Final = {"float", "int", "string", "bool", "datetime", "string_set"}
_DISPLAY: Final = "sys/name"


def find(
    path: str | os.PathLike[str],
    *,
    files: str | os.PathLike[str] | None = None,
    step_multiplier: int = 1,
) -> Source:
    """Find the exported runs below a folder.

    Args:
        path: The folder of the export, its folder ``data``, or a project's.
        files: The folder of the files; None: ``files`` in or beside these.
        step_multiplier: Multiplies steps, which are decimal in Neptune.

    Raises:
        InvalidInputError: There is none.
        MissingExtraError: pyarrow is not installed.
    """
    root = found_at(path)
    left_out: list[LeftOut] = []
    folder_of_files = found_at(files) if files is not None else _files_near(root)
    parts: dict[tuple[Path, str], dict[int, Path]] = {}
    for file in [root] if root.is_file() else below(root, left_out.append):
        named = _PART.fullmatch(file.stem)
        if file.suffix == ".parquet" and named:
            key = (file.parent, named["run"])
            parts.setdefault(key, {})[int(named["number"])] = file
    if not parts:
        raise InvalidInputError(
            f"{root} has no runs of neptune-exporter; nothing was imported",
            hint="they are files RUN_part_0.parquet; name the folder that you gave as --data-path",
        )
    runs = []
    for (_, name), numbered in sorted(parts.items()):
        if 0 not in numbered:
            why = "its export is not complete: it has no part 0"
            left_out.append(LeftOut("run", why, name, is_harm=True))
            continue
        found = [file for _, file in sorted(numbered.items())]
        try:
            run = _run(found, folder_of_files, step_multiplier)
        except MissingExtraError:
            raise
        # pyarrow raises anything for a damaged or crafted file.
        except Exception as error:  # noqa: BLE001
            why = f"it can't be read: {described(error)}"
            left_out.append(LeftOut("run", why, str(found[0]), is_harm=True))
            continue
        runs.append(run)
    return Source(FORMAT, root, tuple(runs), tuple(left_out))


def _files_near(root: Path) -> Path | None:
    """Return the folder of the files: in the export, or beside its data."""
    places = [root / "files", *(parent / "files" for parent in list(root.parents)[:3])]
    return next((place for place in places if place.is_dir()), None)


def _run(parts: list[Path], files: Path | None, multiplier: int) -> SourceRun:
    """Describe a run by its first rows: the exporter writes its parameters first."""
    rows = next(iter(tables.parquet(parts[0])), None)
    if not rows:
        msg = "it has no rows"
        raise ValueError(msg)
    project, run_id = str(rows[0]["project_id"]), str(rows[0]["run_id"])
    display = next((row["string_value"] for row in rows if row["attribute_path"] == _DISPLAY), None)
    return SourceRun(
        name=f"{project.rpartition('/')[2]}/{run_id}",
        id=f"{project}/{run_id}",
        mark=digest(project, run_id),
        items=lambda: _Reader(parts, files, multiplier).items(),
        size_bytes=sum(part.stat().st_size for part in parts),
        display_name=display if isinstance(display, str) and display else None,
    )


@dataclass(slots=True)
class _Reader:
    """Read the rows of one run."""

    parts: list[Path]
    files: Path | None
    multiplier: int
    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    text_bytes: int = 0

    def items(self) -> Iterator[Item]:
        """Yield the points and files as they come, then all else."""
        for part in self.parts:
            try:
                for rows in tables.parquet(part):
                    for row in rows:
                        yield from self._row(row)
            # As above. The parts after it are read.
            except Exception as error:  # noqa: BLE001
                why = f"it can't be read: {described(error)}"
                yield LeftOut("file", why, str(part), is_harm=True)
            yield Read(part.stat().st_size)
        for path, lines in self.texts.items():
            yield Content("".join(lines).encode(), f"{path}.txt", "text/plain")
        yield from self._described()

    def _row(self, row: Mapping[str, Any]) -> Iterator[Item]:
        path, kind = str(row["attribute_path"]), row["attribute_type"]
        if kind in _TYPES:
            value = row[f"{kind}_value"]
            if value is not None:
                self.values[path] = value
            return
        if kind == "float_series":
            step, time_ns = self._step(row), tables.moment_ns(row["timestamp"])
            if isinstance(step, LeftOut):
                yield step._replace(example=path)
            elif time_ns is None:
                yield LeftOut("point", "it has no time", path, is_harm=True)
            elif row["float_value"] is not None:
                yield Point(path, float(row["float_value"]), step, time_ns)
        elif kind == "string_series":
            yield from self._text(path, row)
        elif kind in {"file", "file_series"}:
            yield self._file(path, row)
        else:
            yield LeftOut(str(kind).replace("_", " "), "journaltrack has no place for it", path)

    def _step(self, row: Mapping[str, Any]) -> int | LeftOut | None:
        step = row["step"]
        if step is None:
            return None
        exact = decimal.Decimal(step) * self.multiplier
        found = step_of(float(exact))
        if isinstance(found, LeftOut) and not found.is_harm:
            return found._replace(why=f"{found.why}: use --step-multiplier")
        return found

    def _text(self, path: str, row: Mapping[str, Any]) -> Iterator[Item]:
        text = row["string_value"]
        if text is None:
            return
        line = f"{row['step']}; {row['timestamp']}; {text}\n"
        self.text_bytes += len(line)
        if self.text_bytes > TEXT_BYTES_MAX:
            yield LeftOut("text", f"a run has more than {TEXT_BYTES_MAX} bytes of them", path)
        else:
            self.texts.setdefault(path, []).append(line)

    def _file(self, path: str, row: Mapping[str, Any]) -> Item:
        named = (row["file_value"] or {}).get("path")
        if not named:
            return LeftOut("artifact", "the export does not say where it is", path)
        if self.files is None:
            return LeftOut("artifact", "the folder of the files is not there: use --files", path)
        file = (self.files / named).resolve()
        if not file.is_relative_to(self.files.resolve()):
            return LeftOut(
                "artifact", "it is not below the folder of the files", path, is_harm=True
            )
        if file.is_dir():
            return LeftOut("artifact", "it is a folder", path)
        step = self._step(row)
        suffix = f"/step-{step}" if isinstance(step, int) else ""
        return File(file, f"{path}{suffix}")

    def _described(self) -> Iterator[Item]:
        """Yield the parameters, and what Neptune itself knew of the run."""
        values = self.values
        own = {name: value for name, value in values.items() if not name.startswith("sys/")}
        parameters = {
            name: value.isoformat()
            if isinstance(value, dt.datetime)
            else ", ".join(sorted(value))
            if isinstance(value, list)
            else value
            for name, value in sorted(own.items())
        }
        if parameters:
            yield Parameters(parameters)
        tags = {"neptune.id": values.get("sys/id"), "neptune.owner": values.get("sys/owner")}
        for key in ("tags", "group_tags"):
            found = values.get(f"sys/{key}")
            tags[f"neptune.{key}"] = " ".join(sorted(found)) if isinstance(found, list) else found
        kept = {key: str(value) for key, value in tags.items() if value}
        if kept:
            yield Tags(kept)
        if values.get("sys/description"):
            yield Note(str(values["sys/description"]))
        start, end = (
            tables.moment_ns(values.get(f"sys/{each}"))
            for each in ("creation_time", "modification_time")
        )
        primary = "Failed" if values.get("sys/failed") is True else None
        if start is not None or primary is not None:
            yield Status(primary, start, end)
