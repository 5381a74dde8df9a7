"""Implement ``journaltrack show``: runs as their journals know them."""

from __future__ import annotations

import itertools
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, tables, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.errors import NothingMatchesError
from journaltrack.journal.context import packages_of

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


def _print(view: ComponentView) -> None:
    """Print a run; in a pipe, nothing is cut."""
    width = output.line_width() if output.on_terminal() else None
    rows = _fields(view)
    label = max(len(name) for name, _ in rows) + 2
    lines = [line for name, value in rows for line in _wrapped(name, value, width, label)]
    tables.fields(lines)
    _print_failure(view)
    parameters = [(p.name, output.number(p.value), p.place) for p in view.parameters]
    cut = [tables.table("parameters", ("name", "value", "state"), parameters, width)]
    artifacts = list(_artifacts(view.artifacts))
    if artifacts:
        # What no artifact has is no column.
        kept = [
            place
            for place, name in enumerate(_ARTIFACTS)
            if name in {"name", "state"} or any(row[place] not in (None, "") for row in artifacts)
        ]
        shown = [tuple(row[place] for place in kept) for row in artifacts]
        columns = [_ARTIFACTS[place] for place in kept]
        cut.append(tables.table("artifacts", columns, shown, width))
    names, metrics = _metrics(view.metrics, width)
    cut.append(tables.table("metrics", names, metrics, width, frozenset(names) - {"name"}))
    gone = sum(metric.removed for metric in view.metrics)
    if gone:
        output.say(
            f"{output.plural(gone, 'point')} of these were pruned from the journal; "
            "`journaltrack audit` says when and by whom"
        )
    for told in view.hearsay:
        output.say(output.hearsay_text(told))
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
    """Print the end of a failed run's traceback, and of what it printed."""
    is_bad = view.status.primary == "Failed" or (view.run and view.run.state == "interrupted")
    if not is_bad:
        return
    from journaltrack.readmodel.artifacts import (  # noqa: PLC0415 - completion
        TAIL_LINES,
        of_view,
        output_tail,
    )

    traceback = (view.status.traceback or "").rstrip().splitlines()[-TAIL_LINES:]
    printed = output_tail([of_view(each, view.journal) for each in view.artifacts])
    for title, lines in (("traceback", traceback), ("end of output.log", printed)):
        if lines:
            output.say(title, style="bold")
            for line in lines:
                output.say(f"{output.SEPARATOR}{output.clean(line)}")


def _fields(view: ComponentView) -> list[tuple[str, object]]:
    status = view.status
    trials = ", ".join(
        f"{trial or '(default trial)'} of {experiment or '(its experiment)'}"
        for experiment, trial in view.trials
    )
    known: list[tuple[str, object]] = [
        ("component", view.name),
        ("display name", view.display_name),
        ("journal", view.journal),
        ("origin", ", ".join(view.origins)),
        ("arn", view.arn),
        ("status", f"{status.primary or '-'}{': ' + status.message if status.message else ''}"),
        ("started", output.moment(status.start_ns)),
        ("ended", output.moment(status.end_ns)),
    ]
    # Without a display name, and before a sync, there is nothing to say.
    rows = [(name, value) for name, value in known if value not in (None, "", "-")]
    if status.start_ns is not None and status.end_ns is not None:
        rows.append(("duration", viewing.span((status.end_ns - status.start_ns) / 1e9)))
    if view.run is not None:
        rows.append(("run", view.run.text))
    rows += _recorded_by(view)
    if trials:
        rows.append(("trials", trials))
    rows += [("dataset", each.text) for each in view.datasets]
    if view.note:
        rows.append(("note", view.note))
    if view.tags:
        rows.append(("tags", ", ".join(f"{key}={value}" for key, value in view.tags.items())))
    return rows


def _recorded_by(view: ComponentView) -> list[tuple[str, object]]:
    """Return who recorded the run, with which code, and where."""
    from journaltrack.reports.processes import told  # noqa: PLC0415 - completion

    rows: list[tuple[str, object]] = [
        *told(view.writers, imported_from=view.imported_from, is_import=view.is_import)
    ]
    installed = len(packages_of(view.writers[-1].context)) if view.writers else 0
    if installed and not view.is_import:
        # Before what tells of earlier processes.
        place = next((i for i, row in enumerate(rows) if row[0] == "before"), len(rows))
        rows.insert(place, ("packages", f"{installed} installed; --json lists them"))
    return rows


def _wrapped(name: str, value: object, width: int | None, label: int) -> list[tuple[str, object]]:
    """Wrap a field into lines of at most ``width`` characters, with its label."""
    if name in _WHOLE or value is None or width is None:
        return [(name, value)]
    lines = textwrap.wrap(output.cell(value), width - label, break_on_hyphens=False) or [""]
    return [(name, lines[0]), *(("", line) for line in lines[1:])]


def _metrics(
    metrics: Sequence[MetricView], width: int | None
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
        if width is None or tables.fitted(names, cells, width) == cells:
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


_ARTIFACTS: Final = ("name", "type", "size", "steps", "sha256", "state", "value")


def _artifacts(artifacts: Sequence[ArtifactView]) -> Iterator[tuple[object, ...]]:
    """Yield a row for each artifact; the contents of its steps share one."""
    for _, group in itertools.groupby(
        artifacts, lambda each: (each.name, each.direction, each.step is None)
    ):
        of_steps = list(group)
        for each in of_steps if of_steps[-1].step is None else of_steps[-1:]:
            steps = [one.step for one in of_steps if one.step is not None]
            told = f"{steps[0]} to {steps[-1]} ({len(steps)})" if len(steps) > 1 else each.step
            kind = each.kind or each.media_type
            yield (
                each.name,
                f"{kind or ''} (input)".strip() if each.direction == "input" else kind,
                None if each.size_bytes is None else output.size(each.size_bytes),
                told,
                each.sha256 and output.digest(each.sha256),
                each.state,
                each.value,
            )
