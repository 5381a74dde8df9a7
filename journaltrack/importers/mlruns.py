"""Read MLflow's file store (``mlruns``), with the standard library alone.

MLflow 3 refuses to open such a folder unless ``MLFLOW_ALLOW_FILE_STORE`` is set. The layout is that
of MLflow 1 to 3: ``EXPERIMENT/RUN/meta.yaml`` beside the folders ``metrics`` (a line per point:
milliseconds, value, step), ``params``, ``tags`` and ``artifacts``. A name with a slash is a path.
Artifacts that a run has elsewhere are not looked for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.importers import yaml_text
from journaltrack.importers.source import (
    READ_EVERY_BYTES,
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
    found_at,
    number_of,
    text_of,
)
from journaltrack.journal.vocabulary import RUN_NAME

FORMAT: Final = "mlruns"
META: Final = "meta.yaml"
TRASH: Final = ".trash"
_STATUSES: Final = {3: "Completed", 4: "Failed", 5: "Stopped"}
_NAMES: Final = {"FINISHED": 3, "FAILED": 4, "KILLED": 5, "RUNNING": 1, "SCHEDULED": 2}
_NOTE: Final = "mlflow.note.content"
_TEXT_BYTES_MAX: Final = 1024 * 1024
"""Ours: the largest parameter, tag or description of a run that is read."""
_LINE_BYTES_MAX: Final = 4096


def find(path: str | os.PathLike[str], *, deleted: bool = False, artifacts: bool = True) -> Source:
    """Find the runs in a file store, in one of its experiments, or one run.

    Args:
        path: ``mlruns``, the folder of an experiment, or that of a run.
        deleted: Also runs and experiments that were deleted in MLflow.
        artifacts: Also the files of the runs.

    Raises:
        InvalidInputError: There is no run.
    """
    root = found_at(path)
    left_out: list[LeftOut] = []
    runs: list[SourceRun] = []
    folders = _run_folders(root)
    for folder in folders:
        try:
            meta = _meta(folder)
            experiment = _meta(folder.parent) if (folder.parent / META).is_file() else {}
        except (OSError, ValueError) as error:
            left_out.append(LeftOut("run", f"its {META}: {error}", str(folder), is_harm=True))
            continue
        stages = (meta.get("lifecycle_stage"), experiment.get("lifecycle_stage"))
        if not deleted and ("deleted" in stages or folder.parent.parent.name == TRASH):
            left_out.append(LeftOut("run", "it is deleted in MLflow", folder.name))
            continue
        run_id = str(meta.get("run_id") or meta.get("run_uuid") or folder.name)
        runs.append(
            SourceRun(
                name=run_id,
                id=run_id,
                mark=run_id,
                items=functools.partial(_items, folder, meta, experiment, artifacts),
                size_bytes=sum(file.stat().st_size for file in _files(folder / "metrics", [])),
                display_name=_text_of(meta.get("run_name")) or _tag(folder, RUN_NAME),
            )
        )
    if not folders:
        raise InvalidInputError(
            f"{root} has no runs of MLflow; nothing was imported",
            hint=f"a run is a folder with {META} and metrics; name the folder mlruns",
        )
    return Source(FORMAT, root, tuple(sorted(runs, key=lambda run: run.id)), tuple(left_out))


def _run_folders(root: Path) -> list[Path]:
    """Return the folders of runs: of this one, of an experiment, or of a store with its trash."""
    if _is_run(root):
        return [root]
    found: list[Path] = []
    for store in (root, root / TRASH):
        for folder in _folders(store):
            if _is_run(folder):
                found.append(folder)
            elif folder.name != "models":
                found += [each for each in _folders(folder) if _is_run(each)]
    return found


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.is_dir() and each.name != TRASH)


def _is_run(folder: Path) -> bool:
    """Return whether it is a run, and not an experiment, a model or a trace."""
    if not (folder / META).is_file():
        return False
    try:
        meta = _meta(folder)
    except (OSError, ValueError):
        # It is damaged: told by who reads it.
        return (folder / "metrics").is_dir() or (folder / "params").is_dir()
    return "run_id" in meta or "run_uuid" in meta


def _meta(folder: Path) -> dict[str, Any]:
    """Return what the description of a run or an experiment says.

    Raises:
        ValueError: It is no mapping in YAML.
        OSError: It can't be read.
    """
    found = yaml_text.load(_read(folder / META, folder))
    if not isinstance(found, dict):
        msg = "it is no mapping"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    return found


def _items(
    folder: Path, meta: dict[str, Any], experiment: dict[str, Any], artifacts: bool
) -> Iterator[Item]:
    left_out: list[LeftOut] = []
    values = {}
    for file in _files(folder / "params", left_out):
        try:
            values[_key(folder / "params", file)] = _number_or_text(_read(file, folder))
        except (OSError, ValueError) as error:  # noqa: PERF203 - one of many may be damaged
            left_out.append(LeftOut("parameter", str(error), file.name, is_harm=True))
    if values:
        yield Parameters(values)
    yield from _tags(folder, experiment, left_out)
    for file in _files(folder / "metrics", left_out):
        yield from _points(_key(folder / "metrics", file), file)
    if artifacts:
        for file in _files(folder / "artifacts", left_out):
            yield File(file, _key(folder / "artifacts", file))
    uri = _text_of(meta.get("artifact_uri")) or ""
    if uri and not (folder / "artifacts").is_dir() and not uri.startswith(("file:", "/")):
        yield LeftOut("artifacts", f"they are at {uri}", folder.name)
    if (folder / "inputs").is_dir():
        yield LeftOut("dataset", "journaltrack has no place for it", folder.name)
    yield from left_out
    yield from _status(meta)


def _tags(folder: Path, experiment: dict[str, Any], left_out: list[LeftOut]) -> Iterator[Item]:
    tags: dict[str, str] = {}
    if name := _text_of(experiment.get("name")):
        tags["mlflow.experiment"] = name
    for file in _files(folder / "tags", left_out):
        key = _key(folder / "tags", file)
        try:
            text = _read(file, folder)
        except (OSError, ValueError) as error:
            yield LeftOut("tag", str(error), key, is_harm=True)
            continue
        if key == _NOTE:
            yield Note(text)
        elif key != RUN_NAME:
            tags[key] = text
    if tags:
        yield Tags(tags)


def _points(name: str, file: Path) -> Iterator[Item]:
    """Read the points of a metric. What is no such line is left out, a last one without its end."""
    read = number = 0
    with file.open("rb") as stream:
        while line := stream.readline(_LINE_BYTES_MAX):
            number += 1
            read += len(line)
            if read >= READ_EVERY_BYTES:
                yield Read(read)
                read = 0
            if not line.endswith(b"\n"):
                why = "it is not written to its end (yet), or is no line of MLflow"
                yield LeftOut("line", why, f"{name}:{number}", is_harm=True)
                continue
            # Timestamp, value, step; of MLflow 1 without a step, of 3 with a dataset behind it.
            time_text, _, rest = line.decode(errors="replace").partition(" ")
            value_text, *more = rest.split() or [""]
            value = number_of(value_text)
            try:
                time_ms, step = int(time_text), int(more[0]) if more else 0
            except ValueError:
                value, time_ms, step = None, 0, 0
            if value is None:
                yield LeftOut("line", "it is no point", f"{name}:{number}", is_harm=True)
            else:
                yield Point(name, value, step, time_ms * 10**6)
    yield Read(read)


def _status(meta: dict[str, Any]) -> Iterator[Item]:
    code = meta.get("status")
    code = _NAMES.get(code, code) if isinstance(code, str) else code
    primary = _STATUSES.get(code) if isinstance(code, int) else None
    if primary is None:
        yield LeftOut("status", "the run was not over; import it again when it is")
    times = [
        each * 10**6
        if isinstance(each, int) and 0 <= each <= limits.JOURNAL_NS_MAX // 10**6
        else None
        for each in (meta.get("start_time"), meta.get("end_time"))
    ]
    if primary is not None or times[0] is not None:
        yield Status(primary, times[0], times[1] if primary is not None else None)


def _files(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    return list(below(folder, left_out.append)) if folder.is_dir() else []


def _key(folder: Path, file: Path) -> str:
    """Return a name that MLflow keeps as a path."""
    return file.relative_to(folder).as_posix()


def _tag(folder: Path, key: str) -> str | None:
    try:
        return _read(folder / "tags" / key, folder) or None
    except (OSError, ValueError):
        return None


def _read(file: Path, folder: Path) -> str:
    return text_of(file, folder, _TEXT_BYTES_MAX)


def _text_of(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _number_or_text(text: str) -> str | float:
    """Return the number that a parameter spells: MLflow keeps texts alone."""
    try:
        whole = int(text)
    except ValueError:
        number = number_of(text)
        return text if number is None or str(number) != text else number
    return whole if str(whole) == text else text
