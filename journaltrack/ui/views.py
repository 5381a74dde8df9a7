"""Answer what the page asks, as data for JSON. Knows no HTTP.

Each function takes the read model, which any thread may use, and returns what ``json.dumps`` takes
without NaN. Names and values are foreign text: whoever shows them escapes them. Answers are small
by construction: lists hold the columns that are shown, curves what fits on a screen.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import JournaltrackError, NothingMatchesError
from journaltrack.journal import view
from journaltrack.journal.context import facts_of, packages_of
from journaltrack.journal.sqlite import files
from journaltrack.readmodel.model import telling

if TYPE_CHECKING:
    from journaltrack.journal.writers import WriterRecord
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Axis, Run
    from journaltrack.readmodel.source import Source
    from journaltrack.reports.entries import AuditedEntry
    from journaltrack.reports.status import JournalStatus

Json = dict[str, Any]

RUNS_MAX: Final = 100
"""Our limit: runs in one chart or comparison."""
_COLUMNS_MAX: Final = 4_000
_NAMES_MAX: Final = 2_000
_DEFAULT_COLUMNS: Final = 4
"""Our choice: of parameters, and of metrics."""
_CELL_CHARS: Final = 200
_NOT_FINITE_MAX: Final = 10
_PROBLEMS_MAX: Final = 200
_PREVIEW_TEXT_BYTES: Final = 256 * 1024
_PREVIEW_IMAGE_BYTES: Final = 16 * 1024 * 1024
_IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""Images by their first bytes. SVG is shown as text: it may hold a script."""


def listed(
    model: ReadModel, *, where: str = "", sort: str = "", columns: Sequence[str] = (), limit: int
) -> Json:
    """Return the table of runs.

    Args:
        model: Of the journals.
        where: As for ``ReadModel.runs``; "" for all.
        sort: As for ``ReadModel.runs``; "" for the newest first.
        columns: ``p:NAME`` for parameters, ``m:NAME`` for metrics; none: some that tell most.
        limit: How many runs to return.
    """
    runs = model.runs(where=where or None, sort=sort or None)
    parameters = list(dict.fromkeys(name for run in runs for name in run.parameters))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    shown = runs[:limit]
    chosen = list(columns) or _default_columns(shown)
    return {
        "total": len(runs),
        "journals": len({run.journal for run in runs}),
        "parameters": parameters[:_NAMES_MAX],
        "metrics": metrics[:_NAMES_MAX],
        "columns": chosen,
        "runs": [_row(run, chosen) for run in shown],
        "problems": [_error(error) for _, error in runs.problems],
    }


def _default_columns(runs: Sequence[Run]) -> list[str]:
    chosen = telling(runs, _DEFAULT_COLUMNS)
    return [
        *("status", "started", "duration"),
        *(f"p:{name}" for name in sorted(chosen.parameters)),
        *(f"m:{name}" for name in sorted(chosen.metrics)),
        *(["tags"] if any(run.tags for run in runs) else []),
        *(["note"] if any(run.note for run in runs) else []),
        "delivery",
    ]


def _row(run: Run, columns: Sequence[str]) -> Json:
    names = {kind: [c[2:] for c in columns if c.startswith(kind)] for kind in ("p:", "m:")}
    not_finite = run.metrics.not_finite
    return {
        **_heading(run),
        "not_finite": {
            "points": sum(not_finite.values()),
            "metrics": list(not_finite)[:_NOT_FINITE_MAX],
        },
        "parameters": {
            name: _cut(view.to_json(run.parameters[name]))
            for name in names["p:"]
            if name in run.parameters
        },
        "metrics": {
            name: view.to_json(run.metrics[name].last)
            for name in names["m:"]
            if name in run.metrics
        },
    }


def _heading(run: Run) -> Json:
    return {
        "key": run.key,
        "name": run.name,
        "display_name": run.display_name,
        "journal": run.journal,
        "status": run.status,
        "started": view.iso(run.started_ns),
        "ended": view.iso(run.ended_ns),
        "duration_s": run.duration_s,
        "tags": {str(key): _cut(value) for key, value in run.tags.items()},
        "note": run.note,
        "delivery": view.to_json(run.delivery),
    }


def _cut(value: Any) -> Any:  # noqa: ANN401 - a text or a number
    is_long = isinstance(value, str) and len(value) > _CELL_CHARS
    return f"{value[:_CELL_CHARS]}…" if is_long else value


def run(model: ReadModel, key: str) -> Json:
    """Return everything of one run but its points."""
    found = model.run(key)
    details = model.details(found, metrics=False)
    told: Json = details.to_json()
    for artifact in (*told["inputs"], *told["outputs"], *told["diffs"]):
        sha256 = artifact["sha256"]
        artifact["here"] = bool(sha256 and model.artifact_file(found, sha256))
    return {
        **_heading(found),
        "message": found.message,
        "traceback": details.status.traceback,
        "parameters": told["parameters"],
        "inputs": told["inputs"],
        "outputs": told["outputs"],
        "diffs": told["diffs"],
        "trials": told["trials"],
        "arn": details.arn,
        "is_hearsay": bool(details.hearsay),
        "metrics": [{"name": name, **summary.to_json()} for name, summary in found.metrics.items()],
        "writers": [_writer(each) for each in model.writers(found)],
        "timeline": [view.to_json(event) for event in model.timeline(found)],
        "unreadable": len(details.unreadable),
        "audit": shlex.join(["journaltrack", "audit", found.journal, "--component", found.name]),
    }


def _writer(writer: WriterRecord) -> Json:
    return {
        **view.to_json(replace(writer, context=None)),
        "facts": facts_of(writer.context),
        "installed": packages_of(writer.context),
    }


def compare(model: ReadModel, keys: Sequence[str]) -> Json:
    """Return what differs between runs, and each metric side by side.

    Runs that are gone are named in ``missing``.
    """
    found, missing = [], []
    for key in list(dict.fromkeys(keys))[:RUNS_MAX]:
        try:
            found.append(model.run(key))
        except NothingMatchesError:  # noqa: PERF203 - one that is gone must not hide the others
            missing.append(key)
    comparison = model.compare(found)
    differing = set(comparison.differing)
    return {
        "runs": [_heading(each) for each in comparison.runs],
        "missing": missing,
        "parameters": [
            {"name": name, "values": view.to_json(values), "differs": name in differing}
            for name, values in comparison.parameters.items()
        ],
        "metrics": [
            {
                "name": name,
                "goal": metric.goal,
                "best": list(metric.best),
                "runs": [None if each is None else each.to_json() for each in metric.values],
            }
            for name, metric in comparison.metrics.items()
        ],
    }


def series(
    model: ReadModel,
    metric: str,
    keys: Sequence[str],
    *,
    x: Axis,
    lo: float | None,
    hi: float | None,
    columns: int,
) -> Json:
    """Return one metric's curves of some runs, as many points as columns can show."""
    curves = []
    for key in list(dict.fromkeys(keys))[:RUNS_MAX]:
        try:
            found = model.series(
                key, metric, columns=max(1, min(columns, _COLUMNS_MAX)), x=x, lo=lo, hi=hi
            )
            last = model.run(key).metrics[metric].last
        except (NothingMatchesError, KeyError):
            continue
        curves.append(
            {
                "run": key,
                "x": list(found.x),
                "y": list(found.y),
                "points": found.points,
                "is_exact": found.is_exact,
                "not_finite": found.not_finite,
                "first": found.first,
                "end": found.last,
                "last": view.to_json(last),
            }
        )
    return {"metric": metric, "x": x, "series": curves}


def points_csv(model: ReadModel, metric: str, keys: Sequence[str]) -> Iterator[str]:
    """Yield all points of a metric as CSV: run, step, time, value."""
    yield "run,step,time,value\r\n"
    for key in list(dict.fromkeys(keys))[:RUNS_MAX]:
        try:
            found = model.run(key)
            points = found.metrics(metric)
        except NothingMatchesError:
            continue
        lines = io.StringIO()
        writer = csv.writer(lines)
        for step, value, time_ns in points:
            writer.writerow((unformula(found.name), step, view.iso(time_ns), repr(value)))
            if lines.tell() > 1 << 16:
                yield lines.getvalue()
                lines.seek(0)
                lines.truncate()
        yield lines.getvalue()


def unformula(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula."""
    return f"'{text}" if re.match(r"[=+\-@\t\r]", text) else text


def delivery(model: ReadModel) -> Json:
    """Return where each journal stands, what went wrong, and what to run next."""
    endpoints = _endpoints()
    return {"journals": [_journal(source, endpoints) for source in model.sources]}


def _endpoints() -> dict[str, str]:
    """Return what living watchers know of each journal's endpoint."""
    from journaltrack.watch import health  # noqa: PLC0415 - the first page needs none

    found = {}
    for state in health.living():
        endpoint = state.get("endpoint") or {}
        error = endpoint.get("error") or {}
        told = "up" if endpoint.get("up") else f"down: {error.get('message') or 'unknown'}"
        for journal in state["journals"]:
            path = os.path.realpath(str(journal.get("journal")))
            found[path] = f"{told} (says the watcher, process {state.get('pid')})"
    return found


def _journal(source: Source, endpoints: Mapping[str, str]) -> Json:
    from journaltrack.reports.status import status, undeliverable  # noqa: PLC0415 - as above

    path = str(source.path)
    try:
        current = status(source.folder)
        problems = _problems(source.folder) if current.quarantined or current.in_doubt else []
        releasable = current.quarantined - undeliverable(source.folder)
    except (JournaltrackError, OSError) as error:
        return {"path": path, "error": _error(error)}
    return {
        "path": path,
        "status": current.to_json(),
        "endpoint": endpoints.get(os.path.realpath(path), "unknown: no watcher runs"),
        "problems": problems,
        "next": _next(path, current, releasable),
    }


def _problems(folder: Path) -> list[Json]:
    from journaltrack.reports.entries import each_entry  # noqa: PLC0415 - as above

    def alike(entry: AuditedEntry) -> tuple[str, ...]:
        parts = (entry.component, entry.kind, entry.name, entry.state, entry.reason)
        return tuple(str(part or "") for part in parts)

    found = []
    for state in ("quarantined", "in doubt"):
        entries = sorted(each_entry(folder, state=state, limit=_PROBLEMS_MAX), key=alike)
        for (component, kind, name, _, reason), group in groupby(entries, alike):
            seqs = sorted(entry.seq for entry in group)
            span = f"entry {seqs[0]}" if len(seqs) == 1 else f"{len(seqs)} entries from {seqs[0]}"
            found.append(
                {
                    "run": component,
                    "what": f"{kind} {name} ({span})",
                    "state": state,
                    "reason": reason,
                }
            )
    return found


def _next(path: str, current: JournalStatus, releasable: int) -> list[Json]:
    """Return the commands that a person may want now, and why."""
    where = shlex.quote(path)
    found = []
    if current.pending and current.lease is None:
        found.append({"why": "Send what is pending", "command": f"journaltrack sync {where}"})
    if current.in_doubt:
        why = "Ask AWS what became of entries in doubt, and decide"
        found += [
            {"why": why, "command": f"journaltrack check --remote {where}"},
            {"why": "Decide by hand", "command": "journaltrack resolve --help"},
        ]
    if current.quarantined:
        found.append({"why": "See each refused entry", "command": f"journaltrack audit {where}"})
    if releasable:
        why = "Try again what AWS refused, once the reason is gone"
        found.append({"why": why, "command": f"journaltrack retry {where}"})
    if current.exposed is not None:
        found.append({"why": current.exposed, "command": f"chmod -R go-rwx {where}"})
    if not found and not current.in_flight:
        why = "Compare with what AWS holds"
        found.append({"why": why, "command": f"journaltrack check --remote {where}"})
    return found


def _error(error: Exception) -> Json:
    if isinstance(error, JournaltrackError):
        return {"message": error.message, "hint": error.hint or ""}
    return {"message": str(error), "hint": ""}


@dataclass(frozen=True, slots=True)
class Content:
    """A logged file's content, to be read from the journal's spool."""

    file: Path
    name: str

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; a link or special file in its place is an error.

        Raises:
            OSError, ValueError: It is gone, or no regular file.
        """
        with files.opened_blob(self.file) as descriptor:
            while piece := os.read(descriptor, 1 << 18):
                yield piece

    def size_bytes(self) -> int:
        """Return its size; raise as ``chunks``."""
        with files.opened_blob(self.file) as descriptor:
            return os.fstat(descriptor).st_size

    def preview(self) -> tuple[str, str, bytes]:
        """Return how to show it, its media type and the bytes to show.

        "image", "json" or "text"; "none" if it is neither.
        """
        with files.opened_blob(self.file) as descriptor:
            size = os.fstat(descriptor).st_size
            head = os.pread(descriptor, _PREVIEW_TEXT_BYTES, 0)
            media_type = _image_type(head)
            if media_type and size <= _PREVIEW_IMAGE_BYTES:
                return "image", media_type, os.pread(descriptor, _PREVIEW_IMAGE_BYTES, 0)
        # The cut may go through a character.
        text = head.decode("utf-8", "replace").rstrip("\ufffd") if b"\0" not in head else ""
        if "\ufffd" in text or (head and not text):
            return "none", "text/plain", b""
        if size <= len(head):
            try:
                return "json", "text/plain", json.dumps(json.loads(text)).encode()
            except (ValueError, RecursionError):
                pass
        else:
            text += f"\n… {size - len(head)} more bytes"
        return "text", "text/plain", text.encode()


def _image_type(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _IMAGES if head.startswith(magic)), None)


def _named(model: ReadModel, key: str) -> Iterator[tuple[str | None, str]]:
    """Yield digests and names of a run's artifacts, then those that only the journal tells."""
    for artifact in model.run(key).artifacts:
        yield artifact.sha256, artifact.name
    for diff in model.details(key, metrics=False).diffs:
        yield diff.sha256, diff.name


def content(model: ReadModel, key: str, sha256: str) -> Content:
    """Return the content of an artifact of a run.

    Raises:
        NothingMatchesError: The run has no such artifact, or its content is not in the journal.
    """
    file = model.artifact_file(key, sha256)
    if file is not None:
        name = next((name for known, name in _named(model, key) if known == sha256), sha256)
        return Content(file, name)
    raise NothingMatchesError(
        "the content of this artifact is not in the journal",
        hint="it was pruned or never copied here; SageMaker's S3 bucket may have it",
    )
