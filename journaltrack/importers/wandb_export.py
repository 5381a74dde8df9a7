"""Read what was exported from Weights & Biases: histories as CSV, JSON, JSON Lines or Parquet.

That is what ``run.history()`` and ``run.scan_history()`` of its public API give, the file of a
run's history artifact, and the CSV of a chart, with several runs in one file. Beside a history may
lie ``config.json`` (or ``config.yaml``) and ``run.json``, with id, name, state, tags and notes. The
files of offline runs (``run-*.wandb``) are not read: their format is wandb's own affair, and
changes with it.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import InvalidInputError
from journaltrack.importers import tables, yaml_text
from journaltrack.importers.source import (
    Item,
    LeftOut,
    Note,
    Parameters,
    Read,
    Source,
    SourceRun,
    Status,
    Tags,
    below,
    digest,
    found_at,
    text_of,
)
from journaltrack.util.text import text_or_none

FORMAT: Final = "wandb-export"
OFFLINE: Final = "an offline run is not read: its format changes with wandb; sync and export it"
_STATUSES: Final = {
    "finished": "Completed",
    "failed": "Failed",
    "crashed": "Failed",
    "killed": "Stopped",
    "preempted": "Stopped",
}
_SKIPPED: Final = frozenset({"_runtime", "_wandb", "Unnamed: 0", "index"})
"""Columns of wandb and pandas that say nothing of the run."""
_CONFIGS: Final = ("config.json", "config.yaml")
_DESCRIPTIONS: Final = ("run.json", "metadata.json", "wandb-metadata.json")
_BESIDE: Final = {*_CONFIGS, *_DESCRIPTIONS, "summary.json", "wandb-summary.json"}
_PART: Final = re.compile(r"(history|\d{4})")
_NUMBER: Final = re.compile(r"\d{4}")
"""Names of files that say nothing: the run has the folder's name."""
_OF_CHART: Final = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?")
_CHART_STEPS: Final = {"step", "wall time", "relative time (process)", "relative time (wall)"}


def find(path: str | os.PathLike[str], *, step: str | None = None) -> Source:
    """Find the runs in an exported file, or in a folder of them.

    Args:
        path: The file or folder.
        step: The column of the step; None: ``_step``.

    Raises:
        InvalidInputError: There is none.
        MissingExtraError: It is Parquet, and pyarrow is not installed.
    """
    root = found_at(path)
    left_out: list[LeftOut] = []
    files = [root] if root.is_file() else list(below(root, left_out.append))
    offline = [file for file in files if file.suffix == ".wandb"]
    left_out += [LeftOut("offline run", OFFLINE, str(file)) for file in offline]
    histories = [
        file for file in files if file.suffix in tables.SUFFIXES and file.name not in _BESIDE
    ]
    if not histories:
        raise InvalidInputError(
            f"{root} has no exported history; nothing was imported"
            + (f". {OFFLINE.capitalize()}" if offline else ""),
            hint="write one with wandb's API: pandas.DataFrame(run.scan_history()).to_csv(FILE)",
        )
    base = root.parent if root.is_file() else root
    runs: list[SourceRun] = []
    for file, *more in _by_run(histories):
        table = tables.Table(file)
        first = table.first_or(left_out.append)
        if first is None:
            continue
        if {"summary", "config"} <= first.keys():
            why = "it lists runs with their summaries, and has no history"
            left_out.append(LeftOut("file", why, str(file)))
        elif _is_chart(first):
            runs += _of_chart(table, first)
        else:
            runs.append(_run(base, [table, *map(tables.Table, more)], first, step))
    return Source(FORMAT, root, tuple(runs), tuple(left_out))


def _by_run(histories: list[Path]) -> list[list[Path]]:
    """Return the files of each run. The artifact of a long history has many, with numbers."""
    found: dict[Path, list[Path]] = {}
    for file in sorted(histories):
        found.setdefault(file.parent if _NUMBER.fullmatch(file.stem) else file, []).append(file)
    return list(found.values())


def _run(base: Path, parts: list[tables.Table], first: tables.Row, step: str | None) -> SourceRun:
    table, file = parts[0], parts[0].path
    described = _described(file.parent, base)
    place = file.parent if _PART.fullmatch(file.stem) else file.with_suffix("")
    name = place.relative_to(base).as_posix() if place != base else place.name
    columns = table.columns(first, step if step is not None else _known(first, "_step"))
    run_id = text_or_none(described.get("id"))
    status = file.stat()
    return SourceRun(
        name=run_id or name,
        id=run_id or name,
        mark=run_id or digest(name, tables.first_mark(first)),
        items=functools.partial(
            _items, base, parts, tables.Columns(columns.step, columns.time, _SKIPPED), described
        ),
        size_bytes=sum(part.path.stat().st_size for part in parts),
        display_name=text_or_none(described.get("display_name", described.get("name"))),
        untimed_ns=status.st_mtime_ns if columns.time is None else None,
        is_guess=run_id is None,
    )


def _known(row: tables.Row, name: str) -> str | None:
    return name if name in row else None


def _items(
    base: Path, parts: list[tables.Table], columns: tables.Columns, described: dict[str, Any]
) -> Iterator[Item]:
    yield from _config(parts[0].path.parent, base, described.get("config"))
    tags = described.get("tags")
    labels = {"tags": " ".join(map(str, tags)) if isinstance(tags, list) else None}
    for key in ("group", "job_type", "project", "entity"):
        labels[key] = text_or_none(described.get(key))
    if kept := {f"wandb.{key}": text for key, text in labels.items() if text}:
        yield Tags(kept)
    if note := text_or_none(described.get("notes")):
        yield Note(note)
    rows = itertools.chain.from_iterable(part.rows() for part in parts)
    yield from tables.points(rows, columns)
    start, end = (
        tables.moment_ns(described.get(api, described.get(file)))
        for api, file in (("created_at", "startedAt"), ("heartbeat_at", "heartbeatAt"))
    )
    primary = _STATUSES.get(str(described.get("state")))
    if primary is not None or start is not None:
        yield Status(primary, start, end if primary is not None else None)


def _config(folder: Path, base: Path, config: object) -> Iterator[Item]:
    """Yield the parameters: of the run's description, or of a file beside it."""
    for name in _CONFIGS:
        file = folder / name
        if file.is_file():
            try:
                config = _loaded(file, base)
            except (OSError, ValueError, RecursionError) as error:
                yield LeftOut("description", str(error), str(file), is_harm=True)
    if isinstance(config, dict):
        values = {
            str(name): value["value"] if _is_wrapped(value) else value
            for name, value in config.items()
            if not str(name).startswith(("_wandb", "wandb_version"))
        }
        if values:
            yield Parameters(values)


def _is_wrapped(value: object) -> bool:
    """Return whether it is an entry of ``config.yaml``: a description and a value."""
    return isinstance(value, dict) and "value" in value and value.keys() <= {"desc", "value"}


def _described(folder: Path, base: Path) -> dict[str, Any]:
    """Return what the files beside a history say of its run; what can't be read says nothing."""
    found: dict[str, Any] = {}
    for name in _DESCRIPTIONS:
        file = folder / name
        if file.is_file():
            try:
                described = _loaded(file, base)
            except (OSError, ValueError, RecursionError):
                continue
            found = {**(described if isinstance(described, dict) else {}), **found}
    return found


def _loaded(file: Path, base: Path) -> Any:  # noqa: ANN401
    text = text_of(file, base)
    return yaml_text.load(text) if file.suffix == ".yaml" else json.loads(text)


def _is_chart(first: tables.Row) -> bool:
    """Return whether it is a chart's table: a column for each run and metric."""
    names = list(first)
    return (
        len(names) > 1
        and any(name.lower() in _CHART_STEPS for name in names)
        and all(_OF_CHART.fullmatch(name) for name in names if name.lower() not in _CHART_STEPS)
    )


def _of_chart(table: tables.Table, first: tables.Row) -> list[SourceRun]:
    columns: dict[str, dict[str, str]] = {}
    for name in first:
        found = _OF_CHART.fullmatch(name)
        if found and not found["range"]:
            columns.setdefault(found["run"], {})[name] = found["metric"]
    steps = [name for name in first if name.lower() == "step"]
    times = [name for name in first if name.lower() == "wall time"]
    status = table.path.stat()
    return [
        SourceRun(
            name=run,
            id=run,
            mark=digest(run, table.path.stem, *sorted(metrics.values())),
            items=functools.partial(
                _chart_items,
                table,
                tables.Columns(next(iter(steps), None), next(iter(times), None)),
                metrics,
            ),
            size_bytes=status.st_size,
            untimed_ns=None if times else status.st_mtime_ns,
            is_guess=True,
        )
        for run, metrics in sorted(columns.items())
    ]


def _chart_items(
    table: tables.Table, columns: tables.Columns, metrics: dict[str, str]
) -> Iterator[Item]:
    """Read one run's columns of a chart, under the names of the metrics."""
    kept = {each for each in (columns.step, columns.time) if each is not None}

    def of_run() -> Iterator[tables.Row | LeftOut | Read]:
        """Yield the rows with this run's cells."""
        for row in table.rows():
            if isinstance(row, LeftOut | Read):
                yield row
            else:
                yield {
                    metrics.get(name, name): cell
                    for name, cell in row.items()
                    if name in metrics or name in kept
                }

    return tables.points(of_run(), columns)
