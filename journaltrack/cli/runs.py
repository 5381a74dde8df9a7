"""Implement ``journaltrack runs``: the list of runs, filtered and sorted."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, tables, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals
from journaltrack.journal.vocabulary import SYSTEM

if TYPE_CHECKING:
    from journaltrack.readmodel.expression import Ask, Names
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Goal, Run, Runs

_METRICS_MAX: Final = 8
"""Ours: metrics and parameters that are columns by themselves."""
_SPARK_COLUMNS: Final = 12
_CELL_CHARS_MAX: Final = 24
_NAME_CHARS_MAX: Final = 24


@click.command(
    epilog="\b\nExamples:\n  journaltrack runs\n  journaltrack runs --sort loss.min --limit 10\n"
    '  journaltrack runs --where "lr < 0.1 and status = completed"\n'
    "  journaltrack runs /data/runs --columns lr,loss,val:acc --tag team=vision\n"
    "  journaltrack runs --csv > runs.csv"
)
@about_journals
@click.option(
    "--sort",
    metavar="NAME",
    help="Sort by a metric (its last value, or loss.min, loss.max), a parameter, a tag, age, "
    "duration, name or status. -NAME sorts in descending order. Runs without the value come last.",
)
@click.option(
    "--where",
    metavar="EXPRESSION",
    help='Only runs for which this holds, such as "lr < 0.1 and status = completed".',
)
@click.option(
    "--columns",
    metavar="NAMES",
    help="Columns to show after the name, separated by commas: lr,loss.min,tags.team,age.",
)
@click.option(
    "--tag",
    "tags",
    metavar="KEY[=VALUE]",
    multiple=True,
    help="Only runs with this tag; may be repeated.",
)
@click.option("--limit", metavar="N", type=common.Whole(1), help="At most N runs, after sorting.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, all columns.")
@common.options_with_json("Print one JSON list of runs and nothing else on stdout.")
def command(
    journals: Journals,
    *,
    sort: str | None,
    where: str | None,
    columns: str | None,
    tags: tuple[str, ...],
    limit: int | None,
    as_csv: bool,
    as_json: bool,
) -> ExitCode:
    """List the runs in each JOURNAL, the newest first.

    A JOURNAL may be a folder of journals, or a bundle. The command changes nothing and contacts
    nobody. It keeps a cache in your cache folder, so that the next call is fast.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    codes: list[ExitCode] = []
    with viewing.looking_at(journals.named, codes) as model:
        runs = model.runs(where=where, sort=sort, tags=_tags(tags), limit=limit)
        if as_json:
            output.print_json(runs.to_json())
        elif as_csv:
            _print_csv(runs, columns)
        elif not runs:
            output.say("no runs" if not (where or tags) else "no run matches")
        else:
            _print(model, runs, sort, columns)
    return viewing.code_of(codes)


def _tags(given: Sequence[str]) -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for each in given:
        key, equals, value = each.partition("=")
        found[key] = value if equals else None
    return found


def _print_csv(runs: Runs, columns: str | None) -> None:
    from journaltrack.readmodel.run import row  # noqa: PLC0415

    if columns is None:
        rows = [row(run) for run in runs]
    else:
        names, asked = _asked(runs, columns)
        rows = [
            {"name": run.name, **{name: ask(run) for name, ask in zip(names, asked, strict=True)}}
            for run in runs
        ]
    header = dict.fromkeys(key for each in rows for key in each)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # A file gets texts as they were recorded, a terminal never does.
    shown = output.clean if output.on_terminal() else (lambda value: value)
    writer.writerow([shown(key) for key in header])
    for each in rows:
        cells = [each.get(key) for key in header]
        writer.writerow([shown(cell) if isinstance(cell, str) else cell for cell in cells])
    with io.BufferedWriter(output.Bytes()) as stream:
        stream.write(text.getvalue().encode(errors="backslashreplace"))


def _asked(runs: Sequence[Run], columns: str) -> tuple[list[str], list[Ask]]:
    from journaltrack.readmodel.expression import Names, column_names  # noqa: PLC0415

    known = Names.of(runs)
    names = column_names(columns)
    return names, [known.asked(name, " for a column") for name in names]


def _print(model: ReadModel, runs: Runs, sort: str | None, columns: str | None) -> None:
    from journaltrack.readmodel import expression  # noqa: PLC0415

    known = expression.Names.of(runs)
    sorted_by, descends = expression.sort_name(sort, known) if sort else (None, False)
    if columns is None:
        names, left_out = _by_default(runs, known, sorted_by)
    else:
        names, left_out = _asked(runs, columns)[0], 0
    by_direction: Goal | None = "max" if descends else "min"
    shown = [
        _Column(name, runs, known, by_direction if name == sorted_by else None) for name in names
    ]
    if sorted_by in names and output.on_terminal():
        shown.insert(names.index(sorted_by) + 1, _Sparks(model, runs, sorted_by, known))
    titles, cells = ["run"], [[_name(label)] for label in viewing.labels(runs)]
    right = [False]
    for column in shown:
        titles.append(column.title)
        right.append(column.at_right)
        for row, cell in zip(cells, column.cells, strict=True):
            row.append(cell)
    fitting = _fitting([titles, *cells])
    lines = tables.aligned(
        [[row[place] for place in fitting] for row in [titles, *cells]],
        [right[place] for place in fitting],
        painted=True,
    )
    output.write("\n".join(lines))
    left_out += len([title for title in titles if title]) - len(
        [place for place in fitting if titles[place]]
    )
    if left_out:
        output.say(
            f"hint: {output.plural(left_out, 'column')} left out; --columns chooses, --json and "
            "--csv have all",
            err=True,
        )


def _by_default(runs: Sequence[Run], known: Names, sorted_by: str | None) -> tuple[list[str], int]:
    """Return the columns to show when none are named, and how many more there are."""
    first = ["status", "age", "duration"]
    if sorted_by and sorted_by not in first:
        first.append(sorted_by)
    parameters = sorted(
        name
        for name in known.parameters
        if len(runs) == 1 or len({run.parameters.get(name) for run in runs}) > 1
    )
    metrics = sorted(name for name in known.metrics if not name.startswith(SYSTEM))
    tags = sorted(known.tags)
    both = [name for name in (*parameters, *metrics) if name in known.parameters & known.metrics]
    parameters_shown = [
        f"params.{name}" if name in both else name for name in parameters[:_METRICS_MAX]
    ]
    others = [
        # In turn: a narrow terminal has room for some of each.
        *(
            name
            for pair in itertools.zip_longest(parameters_shown, metrics[:_METRICS_MAX])
            for name in pair
            if name is not None
        ),
        *(f"tags.{name}" for name in tags[:_METRICS_MAX]),
        *(["note"] if any(run.note for run in runs) else []),
    ]
    left_out = sum(max(0, len(each) - _METRICS_MAX) for each in (parameters, metrics, tags))
    return [*first, *(name for name in others if name not in first)], left_out


class _Column:
    """A column of the list: its title, and a cell for each run."""

    def __init__(self, name: str, runs: Sequence[Run], known: Names, goal: Goal | None) -> None:
        values = [known.asked(name)(run) for run in runs]
        goal = _goal(name, known, goal)
        every = [value for value in values if isinstance(value, (int, float))]
        numbers = [value for value in every if not math.isnan(value)]
        best = None if goal is None or not numbers else (min if goal == "min" else max)(numbers)
        self.title = output.clean(name)
        self.at_right = len(every) == len([value for value in values if value is not None])
        self.cells = [output.cell(_shown(name, value)) for value in values]
        if output.on_terminal():
            self.title = output.end_of(self.title, _CELL_CHARS_MAX)
            self.cells = [output.cut(cell, _CELL_CHARS_MAX) for cell in self.cells]
        if best is not None and len(runs) > 1:
            mark = viewing.best_mark()
            # Every cell has the mark's place, so that digits stay aligned.
            self.cells = [
                cell + (mark if value == best else " " if self.at_right else "")
                for cell, value in zip(self.cells, values, strict=True)
            ]
        self.at_right &= name not in {"age", "duration"}


class _Sparks(_Column):
    """The curve of a metric in a few characters, after its value."""

    def __init__(self, model: ReadModel, runs: Sequence[Run], name: str, known: Names) -> None:
        self.title, self.at_right = "", False
        metric = _metric_of(name, known)
        self.cells = []
        for run in runs:
            summary = None if metric is None else run.metrics.get(metric)
            # A blank is a gap: few points get few columns, not gaps between them.
            columns = min(_SPARK_COLUMNS, summary.points) if summary else 0
            series = model.series(run, metric, columns=columns) if metric and columns else None
            self.cells.append(viewing.sparkline(series, columns) if series else "")


def _metric_of(name: str, known: Names) -> str | None:
    """Return the metric that a name asks for; None if it asks for something else."""
    inner = name.removeprefix("metrics.")
    for metric in (inner, inner.rpartition(".")[0]):
        if metric in known.metrics:
            return metric
    return None


def _goal(name: str, known: Names, otherwise: Goal | None) -> Goal | None:
    """Return which values of a column are good: as its name tells, or as the runs are sorted."""
    from journaltrack.readmodel.run import goal_of  # noqa: PLC0415

    metric = _metric_of(name, known)
    if metric is None or name.endswith((".step", ".points", ".min_step", ".max_step")):
        return None
    return goal_of(metric) or otherwise


def _shown(name: str, value: object) -> object:
    if name in {"age", "duration"}:
        return viewing.span(value if isinstance(value, (int, float)) else None)
    if name in {"started", "ended"} and isinstance(value, float):
        return output.moment(int(value * 1e9))
    return viewing.number(value)


def _name(label: str) -> str:
    return output.end_of(label, _NAME_CHARS_MAX) if output.on_terminal() else label


def _fitting(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the places of the columns that fit: all of them in a pipe."""
    places = list(range(len(rows[0])))
    if not output.on_terminal():
        return places
    widths = [max(map(output.columns_of, column)) for column in zip(*rows, strict=True)]
    room, kept = output.line_width() + len(output.SEPARATOR), []
    for place in places:
        needed = widths[place] + len(output.SEPARATOR)
        if needed <= room:
            room -= needed
            kept.append(place)
    return kept or [0]
