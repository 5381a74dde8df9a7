"""Answer what the page asks, as data for JSON. Knows no HTTP.

Each function takes the read model, which any thread may use, and returns what ``json.dumps`` takes
without NaN. Names and values are foreign text: whoever shows them escapes them. Answers are small
by construction: lists hold the columns that are shown, curves what fits on a screen.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import JournaltrackError, NothingMatchesError
from journaltrack.journal import view
from journaltrack.journal.context import packages_of
from journaltrack.journal.provenance import DIFF_NAME
from journaltrack.readmodel.artifacts import output_tail
from journaltrack.readmodel.model import labels, telling
from journaltrack.readmodel.run import BADLY_ENDED
from journaltrack.reports.processes import told

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.writer_records import WriterRecord
    from journaltrack.readmodel.artifacts import Artifact, Preview
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Axis, Run
    from journaltrack.readmodel.source import Source
    from journaltrack.reports.component import ComponentView
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
_STEPS_MAX: Final = 1_000
"""Our limit: contents of steps of one artifact in one answer."""


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
        "destinations": view.to_json(run.destinations),
    }


def _cut(value: Any) -> Any:  # noqa: ANN401 - a text or a number
    is_long = isinstance(value, str) and len(value) > _CELL_CHARS
    return f"{value[:_CELL_CHARS]}…" if is_long else value


def run(model: ReadModel, key: str) -> Json:
    """Return everything of one run but its points."""
    found = model.run(key)
    details = model.details(found, metrics=False)
    view_json: Json = details.to_json()
    return {
        **_heading(found),
        "message": found.message,
        "traceback": details.status.traceback,
        "parameters": view_json["parameters"],
        "artifacts": list(_artifacts(found, details)),
        "output": output_tail(found.artifacts) if found.status in BADLY_ENDED else [],
        "trials": view_json["trials"],
        "arn": details.arn,
        "is_hearsay": bool(details.hearsay),
        "metrics": [{"name": name, **summary.to_json()} for name, summary in found.metrics.items()],
        "recorded": told(
            details.writers, imported_from=details.imported_from, is_import=details.is_import
        ),
        "packages": {} if details.is_import else _packages(details.writers),
        "timeline": [view.to_json(event) for event in model.timeline(found)],
        "unreadable": len(details.unreadable),
        "audit": shlex.join(["journaltrack", "audit", found.journal, "--component", found.name]),
    }


def _artifacts(found: Run, details: ComponentView) -> Iterator[Json]:
    """Yield what the run has, by name: with the contents of its steps, the latest ones."""
    files = {each.sha256: each.file is not None for each in found.artifacts}
    newest = details.writers[-1].id if details.writers else None
    groups = groupby(details.artifacts, lambda each: (each.name, each.direction))
    for _, group in groups:
        of_steps = list(group)
        # Git's diffs have one name, and no steps.
        for each in of_steps[-1:] if of_steps[-1].step is not None else of_steps:
            is_diff = each.name == DIFF_NAME
            yield {
                **view.to_json(each),
                "here": files.get(each.sha256, False),
                "is_newest_diff": is_diff and each.writer_id == newest,
                "steps": [
                    {"step": one.step, "sha256": one.sha256, "size_bytes": one.size_bytes}
                    for one in of_steps[-_STEPS_MAX:]
                    if one.step is not None
                ],
            }


def _packages(writers: Sequence[WriterRecord]) -> Json:
    """Return the packages of the newest process: all installed, and those that it imported."""
    if not writers:
        return {}
    newest = writers[-1]
    return {"installed": packages_of(newest.context), "imported": dict(newest.packages or {})}


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
        "runs": [
            {**_heading(each), "label": label}
            for each, label in zip(comparison.runs, labels(comparison.runs), strict=True)
        ],
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
                "best_ever": list(metric.best_ever),
                "runs": [None if each is None else each.to_json() for each in metric.values],
            }
            for name, metric in comparison.metrics.items()
        ],
        "code": [{"name": name, "values": list(texts)} for name, texts in comparison.code.items()],
        "packages": [
            {"name": name, "values": list(versions)}
            for name, versions in comparison.packages.items()
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
    for copy in current.destinations:
        to = f"--to {copy.name} {where}"
        if copy.pending:
            why = f"Send what {copy.name} lacks"
            found.append({"why": why, "command": f"journaltrack sync {to}"})
        if copy.quarantined:
            why = f"See each entry that {copy.name} refused"
            found.append({"why": why, "command": f"journaltrack audit {to}"})
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


def artifact(model: ReadModel, key: str, sha256: str) -> Artifact:
    """Return the artifact of a run that has a content.

    Raises:
        NothingMatchesError: The run has none, or its content is not in the journal.
    """
    for each in model.run(key).artifacts:
        if sha256 and each.sha256 == sha256 and each.file is not None:
            return each
    raise NothingMatchesError(
        "the content of this artifact is not in the journal",
        hint="it was pruned or never copied here; SageMaker's S3 bucket may have it",
    )


def preview(found: Artifact) -> tuple[Preview, Json]:
    """Return what can be shown of an artifact, and the same for JSON, without an image's bytes."""
    shown = found.preview()
    table = shown.table
    told = {"kind": shown.kind, "text": shown.text}
    return shown, told if table is None else {**told, **table._asdict()}
