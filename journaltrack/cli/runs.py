"""Implement ``journaltrack runs``: the list of runs, filtered and sorted."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, tables, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals
from journaltrack.errors import JournalNotFoundError, NothingMatchesError

if TYPE_CHECKING:
    from journaltrack.readmodel.expression import Ask, Names
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Goal, Run, Runs

_METRICS_MAX: Final = 8
"""Ours: metrics and parameters that are columns by themselves."""
_SPARK_COLUMNS: Final = 12
_PIPE_WIDTH: Final = 120
"""Ours: of the columns that are chosen for a pipe, unless COLUMNS says another."""
_CELL_CHARS_MAX: Final = 24
"""Ours: of a text, before the room that is left is shared."""
_NAME_CHARS_MIN: Final = 8
"""Ours: how much of a name is left beside what tells it from its like."""


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
    with _told_of_runs(journals), viewing.looking_at(journals.named, codes) as model:
        runs = model.runs(where=where, sort=sort, tags=_tags(tags), limit=limit)
        if as_json:
            output.print_json(runs.to_json())
        elif as_csv:
            _print_csv(runs, columns)
        elif not runs:
            output.say("no runs" if not (where or tags) else "no run matches")
        else:
            _print(model, runs, sort, columns, list(_tags(tags)))
    return viewing.code_of(codes)


@contextlib.contextmanager
def _told_of_runs(journals: Journals) -> Iterator[None]:
    """Suggest `show` if what was named as a journal is the name of a run."""
    try:
        yield
    except JournalNotFoundError as error:
        (name, *others) = journals.typed or ("",)
        if others or "/" in name:
            raise
        with viewing.looking_at((), []) as model:
            try:
                known = [run.name for run in model.find([name])]
            except NothingMatchesError:
                raise error from None
        if not known:
            raise
        raise JournalNotFoundError(
            error.message, hint=f"{name} is a run: `journaltrack show {shlex.quote(name)}`"
        ) from None


def _tags(given: Sequence[str]) -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for each in given:
        key, equals, value = each.partition("=")
        found[key] = value if equals else None
    return found


def _print_csv(runs: Runs, columns: str | None) -> None:
    from journaltrack.readmodel.run import row  # noqa: PLC0415

    if columns is None:
        rows = [row(run, extremes=True) for run in runs]
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


def _print(
    model: ReadModel, runs: Runs, sort: str | None, columns: str | None, tags: Sequence[str]
) -> None:
    from journaltrack.readmodel import expression  # noqa: PLC0415

    known = expression.Names.of(runs)
    sorted_by, descends = expression.sort_name(sort, known) if sort else (None, False)
    left_out = 0
    if columns is None:
        names, by_importance, left_out = _by_default(runs, known, sorted_by, tags)
    else:
        names = by_importance = _asked(runs, columns)[0]
    by_direction: Goal | None = "max" if descends else "min"
    of_names = {
        name: _Column(name, runs, known, by_direction if name == sorted_by else None)
        for name in names
    }
    sparks: dict[str, _Text] = {}
    if sorted_by in of_names and output.on_terminal():
        sparks[sorted_by] = _Sparks(model, runs, sorted_by, known)
    label = _Text("run", viewing.labels(runs), end_tells=True)

    def beside(names: Iterable[str]) -> list[_Text]:
        """Return the columns of names, each with its curve."""
        found = (each for name in names for each in (of_names[name], sparks.get(name)))
        return [label, *(each for each in found if each is not None)]

    # What was asked for is shown, whatever its width.
    is_own_choice = columns is not None and not output.on_terminal()
    chosen = beside(by_importance)
    fitting = chosen if is_own_choice else _fitting(chosen)
    shown = [each for each in beside(names) if each in fitting]
    _widen(shown)
    lines = tables.aligned(
        list(zip(*([column.title, *column.cells()] for column in shown), strict=True)),
        [column.at_right for column in shown],
        painted=True,
    )
    output.write("\n".join(lines))
    left_out += len([name for name in names if of_names[name] not in shown])
    if left_out:
        output.say(
            f"hint: {output.plural(left_out, 'column')} left out; --columns chooses, --json and "
            "--csv have all",
            err=True,
        )
    elif any(column.is_cut for column in shown):
        output.say("hint: --json shows in full what is cut at …", err=True)


def _by_default(
    runs: Sequence[Run], known: Names, sorted_by: str | None, tags: Sequence[str]
) -> tuple[list[str], list[str], int]:
    """Choose the columns if none are named.

    Returns:
        The columns in order, the same columns by importance, and how many more there are.
    """
    from journaltrack.readmodel.model import telling  # noqa: PLC0415

    chosen = telling(runs, _METRICS_MAX)
    both = known.parameters & known.metrics
    names_of = {name: f"params.{name}" if name in both else name for name in chosen.parameters}
    asked = [f"tags.{tag}" for tag in tags]
    # What an import notes of the source, and MLflow for itself, is for `show`.
    telling_tags = sorted(
        tag
        for tag in known.tags
        if not tag.startswith(("imported_", "mlflow."))
        and (len(runs) == 1 or len({run.tags.get(tag) for run in runs}) > 1)
    )
    other_tags = [f"tags.{tag}" for tag in telling_tags if f"tags.{tag}" not in asked]
    note = ["note"] if any(run.note for run in runs) else []
    first = ["status", "age", "duration", *([sorted_by] if sorted_by else []), *asked]
    others = [*other_tags[:_METRICS_MAX], *note]
    # In turn: a narrow terminal has room for some of each, and runs are compared by metrics.
    in_turn = itertools.chain.from_iterable(
        itertools.zip_longest(chosen.metrics, names_of.values())
    )
    by_importance = dict.fromkeys([*first, *(name for name in in_turn if name), *others])
    in_order = dict.fromkeys(
        [
            *first,
            *(names_of[name] for name in sorted(names_of)),
            *sorted(chosen.metrics),
            *others,
        ]
    )
    left_out = chosen.left_out + len(other_tags[_METRICS_MAX:])
    return list(in_order), list(by_importance), left_out


def _cut_name(text: str, width: int) -> str:
    """Cut a name to its end, which tells it from others; one with an addition, before that."""
    name, _, added = text.rpartition(" (")
    room = width - output.columns_of(f" ({added}")
    if output.columns_of(text) <= width or not name or room < _NAME_CHARS_MIN:
        return output.end_of(text, width)
    return f"{output.cut_line(name, room)} ({added}"


class _Text:
    """A column of texts, narrowed to what a readable cell has until there is room."""

    def __init__(self, title: str, texts: Sequence[str], *, end_tells: bool = False) -> None:
        """Args: the title, a cell per run, and whether the end of a text tells it from others."""
        self.title, self.at_right, self._texts = output.clean(title), False, texts
        self._cut = _cut_name if end_tells else output.cut_line
        self._marks: Sequence[str] = [""] * len(texts)
        self.width: int | None = None
        if output.on_terminal():
            self.title = output.end_of(self.title, _CELL_CHARS_MAX)
            self.width = _CELL_CHARS_MAX

    @property
    def columns(self) -> int:
        """Return how many columns of the terminal it takes."""
        return max(map(output.columns_of, [self.title, *self.cells()]))

    @property
    def is_cut(self) -> bool:
        """Return whether a text is not whole."""
        width = self.width
        return width is not None and any(output.columns_of(text) > width for text in self._texts)

    def cells(self) -> list[str]:
        """Return a cell per run."""
        width = self.width
        texts = self._texts if width is None else [self._cut(text, width) for text in self._texts]
        return [text + mark for text, mark in zip(texts, self._marks, strict=True)]


class _Column(_Text):
    """What the runs have by a name; the best of several values is marked."""

    def __init__(self, name: str, runs: Sequence[Run], known: Names, goal: Goal | None) -> None:
        values = [known.asked(name)(run) for run in runs]
        goal = _goal(name, known, goal)
        every = [value for value in values if isinstance(value, (int, float))]
        numbers = [value for value in every if not math.isnan(value)]
        best = None if goal is None or not numbers else (min if goal == "min" else max)(numbers)
        texts = [output.cell(_shown(name, value)) for value in values]
        if name == "journal" and output.on_terminal():
            texts = _apart(texts)
        super().__init__(name, texts, end_tells=name == "journal")
        self.at_right = len(every) == len([value for value in values if value is not None])
        if best is not None and len(every) > 1:
            mark = viewing.best_mark()
            # Every cell has the mark's place, so that digits stay aligned.
            self._marks = [
                mark if value == best else " " if self.at_right else "" for value in values
            ]
        self.at_right &= name not in {"age", "duration"}


class _Sparks(_Text):
    """The curve of a metric in a few characters, after its value."""

    def __init__(self, model: ReadModel, runs: Sequence[Run], name: str, known: Names) -> None:
        metric = _metric_of(name, known)
        cells = []
        for run in runs:
            summary = None if metric is None else run.metrics.get(metric)
            # A blank is a gap: few points get few columns, not gaps between them.
            columns = min(_SPARK_COLUMNS, summary.points) if summary else 0
            series = model.series(run, metric, columns=columns) if metric and columns else None
            cells.append(viewing.sparkline(series, columns) if series else "")
        super().__init__("", cells)


def _apart(journals: Sequence[str]) -> list[str]:
    """Return paths without the folders that all share."""
    shared = os.path.commonpath(journals) if all(map(os.path.isabs, journals)) else ""
    if len(set(journals)) == 1 or len(shared) <= 1:
        return list(journals)
    return [f"…{os.sep}{os.path.relpath(each, shared)}" for each in journals]


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


def _fitting(columns: Sequence[_Text]) -> list[_Text]:
    """Return the columns that fit. In a pipe, cells are whole, and count as if they were cut.

    Args:
        columns: The most important first; the first one always fits.
    """
    at_most = None if output.on_terminal() else _CELL_CHARS_MAX
    first = columns[0].columns if at_most is None else min(columns[0].columns, at_most)
    room = output.line_width(otherwise=_PIPE_WIDTH) - first
    kept = [columns[0]]
    for column in columns[1:]:
        needed = min(column.columns, at_most or column.columns) + len(output.SEPARATOR)
        if needed <= room:
            room -= needed
            kept.append(column)
    return kept


def _widen(columns: Sequence[_Text]) -> None:
    """Give the columns whose texts are cut what room there is, the first one first."""
    cut = [column for column in columns if column.is_cut]
    if not cut:
        return
    taken = sum(each.columns for each in columns) + len(output.SEPARATOR) * (len(columns) - 1)
    room = output.line_width() - taken
    for column in cut:
        if column.width is not None and room > 0:
            before = column.columns
            column.width += room
            room -= column.columns - before
