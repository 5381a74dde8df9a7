"""Implement ``journaltrack show``: runs as their journals know them."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from journaltrack.cli import audit_entries, common, output, tables, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.errors import NothingMatchesError
from journaltrack.journal.context import facts_of, packages_of

if TYPE_CHECKING:
    from journaltrack.reports.component import ArtifactView, ComponentView, MetricView

_WHOLE = frozenset({"journal", "arn"})
"""Fields to copy and paste: they are never cut."""
_NUMBERS = frozenset({"last", "min", "max"})


@click.command(
    epilog="\b\nExamples:\n  journaltrack show\n  journaltrack show digits-1\n"
    "  journaltrack show 'digits-*' -j /data/runs\n"
    "  journaltrack show digits-1 /mnt/usb/journal --json | jq .parameters"
)
@viewing.about_runs("[RUN]... [JOURNAL]...")
@common.common_options
def command(names: Sequence[str], named: Sequence[str], *, as_json: bool) -> ExitCode:
    """Show each RUN's parameters, artifacts, status, note and last metrics.

    A RUN is a name, a display name, or a shell pattern in quotes; without one, the newest run is
    shown. The command uses no network and changes no journal.
    """
    codes: list[ExitCode] = []
    views = _views(names, named, codes)
    code = viewing.code_of(codes)
    if as_json and len(views) == 1:
        output.print_json({**views[0].to_json(), "exit_code": int(code)})
    elif as_json:
        output.print_json({"runs": [view.to_json() for view in views], "exit_code": int(code)})
    else:
        for number, view in enumerate(views):
            if number:
                output.say()
            _print(view)
    return code


def _views(
    names: Sequence[str], named: Sequence[str], codes: list[ExitCode]
) -> list[ComponentView]:
    """Return what to show. A run that is named in full needs no list of all runs."""
    from journaltrack.reports.component import show  # noqa: PLC0415 - SQLAlchemy

    unnamed: NothingMatchesError | None = None
    if len(names) == 1 and len(named) <= 1 and not any(map(viewing.is_several, named)):
        try:
            return [show(named[0] if named else None, names[0])]
        except NothingMatchesError as error:
            unnamed = error
    with viewing.looking_at(named, codes) as model:
        try:
            return [model.details(run) for run in model.find(names)]
        except NothingMatchesError as error:
            raise unnamed or error from None


_LINEAGE = ("name", "type", "direction", "state", "title")


def _print(view: ComponentView) -> None:
    width = output.line_width()
    rows = _fields(view)
    label = max(len(name) for name, _ in rows) + 2
    tables.fields([line for name, value in rows for line in _wrapped(name, value, width - label)])
    parameters = [(p.name, output.number(p.value), p.place) for p in view.parameters]
    cut = [tables.table("parameters", ("name", "value", "state"), parameters, width)]
    for title, artifacts in (
        ("inputs", view.inputs),
        ("outputs", view.outputs),
        ("git diffs", view.diffs),
    ):
        columns = ("name", "media type", "size", "state", "value")
        cut.append(
            tables.table(title, columns, [_artifact(artifact) for artifact in artifacts], width)
        )
    lineage = [
        (each.name, each.artifact_type, each.direction, each.state, each.title)
        for each in view.lineage
    ]
    cut.append(tables.table("lineage", _LINEAGE, lineage, width))
    shown, metrics = _metrics(view.metrics, width)
    cut.append(tables.table("metrics", shown, metrics, width, frozenset(shown) - {"name"}))
    gone = sum(metric.removed for metric in view.metrics)
    if gone:
        output.say(
            f"{output.plural(gone, 'point')} of these were pruned from the journal; "
            "`journaltrack audit` says when and by whom"
        )
    for told in view.hearsay:
        output.say(output.hearsay_text(told))
    _print_failure(view)
    if any(cut):
        output.say(
            "hint: --json and `journaltrack audit entry N` show in full what ends in …", err=True
        )
    if view.unreadable:
        output.problem(
            "warning",
            f"{output.plural(len(view.unreadable), 'entry')} can't be read, the first is "
            f"{view.unreadable[0]}",
        )


def _print_failure(view: ComponentView) -> None:
    """Print the end of a failed run's traceback and of its output."""
    from journaltrack.reports.component import TAIL_LINES, output_tail  # noqa: PLC0415 - as above

    if view.status.primary != "Failed":
        return
    traceback = "\n".join((view.status.traceback or "").rstrip().splitlines()[-TAIL_LINES:])
    for title, text in (("traceback", traceback), ("end of output.log", output_tail(view))):
        if text:
            output.say(f"\n{title}")
            for line in text.split("\n"):
                output.say(f"  {output.clean(line)}")


def _fields(view: ComponentView) -> list[tuple[str, object]]:
    status = view.status
    trials = ", ".join(
        f"{trial or '(default trial)'} of {experiment or '(its experiment)'}"
        for experiment, trial in view.trials
    )
    rows: list[tuple[str, object]] = [
        ("component", view.name),
        ("display name", view.display_name),
        ("journal", view.journal),
        ("origin", ", ".join(view.origins)),
        ("arn", view.arn),
        ("status", f"{status.primary or '-'}{': ' + status.message if status.message else ''}"),
        ("started", output.moment(status.start_ns)),
        ("ended", output.moment(status.end_ns)),
    ]
    if status.start_ns is not None and status.end_ns is not None:
        rows.append(("duration", viewing.span((status.end_ns - status.start_ns) / 1e9)))
    if view.run is not None:
        rows.append(("run", view.run.text))
    rows += _recorded_by(view)
    if trials:
        rows.append(("trials", trials))
    if view.note:
        rows.append(("note", view.note))
    if view.tags:
        rows.append(("tags", ", ".join(f"{key}={value}" for key, value in view.tags.items())))
    return rows


def _recorded_by(view: ComponentView) -> list[tuple[str, object]]:
    """Return who recorded the run first, with which code, and where."""
    if not view.writers:
        return []
    first = view.writers[0]
    others = len(view.writers) - 1
    more = f"; and {output.plural(others, 'process', 'processes')} more" if others else ""
    installed = len(packages_of(first.context))
    return [
        ("recorded by", f"{first.user}@{first.host}, pid {first.pid}{more}"),
        *([("commit", audit_entries.commit(first, 100))] if first.git_commit else []),
        *facts_of(first.context),
        *([("packages", f"{installed} installed; --json lists them")] if installed else []),
    ]


def _wrapped(name: str, value: object, width: int) -> list[tuple[str, object]]:
    """Wrap a field into lines of at most ``width`` characters."""
    if name in _WHOLE or value is None:
        return [(name, value)]
    lines = textwrap.wrap(output.cell(value), width, break_on_hyphens=False) or [""]
    return [(name, lines[0]), *(("", line) for line in lines[1:])]


def _metrics(
    metrics: Sequence[MetricView], width: int
) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """Return columns and rows that fit.

    If all digits do not fit, there are fewer columns and five digits.
    """
    columns = ("name", "points", "not finite", "last", "step", "min", "max", "at")
    rows: list[tuple[object, ...]] = []
    for m in metrics:
        numbers = (
            output.number(m.last_value),
            m.last_step,
            output.number(m.minimum),
            output.number(m.maximum),
        )
        rows.append((m.name, m.points, m.not_finite, *numbers, output.moment(m.last_timestamp_ns)))
    empty = frozenset() if any(m.not_finite for m in metrics) else frozenset({"not finite"})
    for left_out, are_short in (
        (frozenset(), False),
        (empty, False),
        (empty, True),
        (empty | {"at"}, True),
    ):
        kept = [place for place, name in enumerate(columns) if name not in left_out]
        names = [columns[place] for place in kept]
        chosen = [
            tuple(
                _short(row[place]) if are_short and columns[place] in _NUMBERS else row[place]
                for place in kept
            )
            for row in rows
        ]
        cells = [[output.cell(value) for value in row] for row in chosen]
        if tables.fitted(names, cells, width) == cells:
            break
    return names, chosen


def _short(number: object) -> object:
    """Return the first five digits of a number; other texts as they are."""
    text = str(number)
    digits = text.removeprefix("-")
    # Possibly too many for a double.
    if digits.isdecimal() and len(digits) > sys.float_info.dig:
        return f"{text[: -len(digits)]}{digits[0]}.{digits[1:5]}e+{len(digits) - 1}"
    try:
        value = float(text)
    except ValueError:
        return number
    return f"{value:.5g}" if math.isfinite(value) else number


def _artifact(artifact: ArtifactView) -> tuple[object, ...]:
    value = artifact.value or (
        f"sha256 {output.digest(artifact.sha256)}, not uploaded yet" if artifact.sha256 else None
    )
    size = output.size(artifact.size_bytes) if artifact.size_bytes is not None else None
    return (artifact.name, artifact.media_type, size, artifact.state, value)
