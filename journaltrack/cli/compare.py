"""Implement ``journaltrack compare``: what differs between runs, and their metrics side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, tables, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.reports.processes import IMPORTED_KEY

if TYPE_CHECKING:
    from journaltrack.readmodel.run import ComparedMetric, Comparison, Goal

_RUNS_BY_DEFAULT: Final = 2
_PACKAGES_SHOWN: Final = 5
_CELL_CHARS_MAX: Final = 24
_CELL_CHARS_MIN: Final = 9


@click.command(
    epilog="\b\nExamples:\n  journaltrack compare\n  journaltrack compare 'digits-*'\n"
    "  journaltrack compare baseline wide /mnt/usb/journal --all --json"
)
@viewing.about_runs("[RUN]... [JOURNAL]...")
@click.option("--all", "show_all", is_flag=True, help="Also parameters that do not differ.")
@common.common_options
def command(
    names: Sequence[str], named: Sequence[str], *, show_all: bool, as_json: bool
) -> ExitCode:
    """Compare runs: code and parameters that differ, and metrics with the best value marked.

    A RUN is a name, a display name, or a shell pattern in quotes; without one, the two newest runs
    are compared. The mark is on the lowest or highest value, the last one and of all (loss.min), as
    the metric's name tells (loss, accuracy). The command changes nothing and contacts nobody.
    """
    codes: list[ExitCode] = []
    with viewing.looking_at(named, codes) as model:
        runs = model.find(names) if names else model.runs(limit=_RUNS_BY_DEFAULT)
        compared = model.compare(runs or model.find())
        code = viewing.code_of(codes)
        if as_json:
            output.print_json({**compared.to_json(), "exit_code": int(code)})
        else:
            _print(compared, show_all=show_all)
    return code


def _print(compared: Comparison, *, show_all: bool) -> None:
    names = viewing.labels(compared.runs)
    for number, group in enumerate(_groups(compared, names, show_all=show_all)):
        if number:
            output.say()
        _print_group(compared, names, group, show_all=show_all)
    more = len(compared.packages) - _PACKAGES_SHOWN
    if more > 0 and not show_all:
        differ = "package differs" if more == 1 else "packages differ"
        output.say(f"{more:,} more {differ}; --all shows them")
    same = len(compared.parameters) - len(compared.differing)
    if same and not show_all:
        output.say(
            f"{output.plural(same, 'parameter')} "
            f"{'is' if same == 1 else 'are'} the same in all runs; --all shows them"
        )


def _groups(
    compared: Comparison, names: Sequence[str], *, show_all: bool
) -> Iterator[Sequence[int]]:
    """Yield the places of runs that fit beside each other on the terminal; all of them in a pipe.

    At least one is in each group.
    """
    places = range(len(names))
    if not output.on_terminal():
        yield places
        return
    rows = list(_rows(compared, names, places, show_all=show_all))
    widths = [max(map(output.columns_of, column)) for column in zip(*rows, strict=True)]
    room = output.line_width() - widths[0]
    group: list[int] = []
    left = room
    for place in places:
        left -= widths[place + 1] + len(output.SEPARATOR)
        if left < 0 and group:
            yield group
            group, left = [], room - widths[place + 1] - len(output.SEPARATOR)
        group.append(place)
    yield group


def _print_group(
    compared: Comparison, names: Sequence[str], places: Sequence[int], *, show_all: bool
) -> None:
    rows = list(_rows(compared, names, places, show_all=show_all))
    right = [False] + [True] * len(places)
    if output.on_terminal():
        width = output.line_width() + len(output.SEPARATOR)
        rows = tables.fitted(rows[0], rows, width, least=_CELL_CHARS_MIN)
    lines = list(tables.aligned(rows, right, painted=True))
    output.write("\n".join([output.painted(lines[0], "bold"), *lines[1:]]))


def _rows(
    compared: Comparison, names: Sequence[str], places: Sequence[int], *, show_all: bool
) -> Iterator[list[str]]:
    runs = [compared.runs[place] for place in places]
    yield ["run", *(_cut(names[place]) for place in places)]
    yield ["status", *(run.status for run in runs)]
    yield ["duration", *(output.cell(viewing.span(run.duration_s)) for run in runs)]
    packages = list(compared.packages)[: None if show_all else _PACKAGES_SHOWN]
    code = {
        **compared.code,
        **{f"package {name}": compared.packages[name] for name in packages},
    }
    for name, texts in code.items():
        yield [output.cell(name), *(_cut(output.cell(texts[place])) for place in places)]
    shown = compared.parameters if show_all else compared.differing
    for name in shown:
        values = compared.parameters[name]
        yield [
            output.cell(name),
            *(_cut(output.cell(viewing.number(values[place]))) for place in places),
        ]
    for name, tags in compared.tags.items():
        if show_all or (len(set(tags)) > 1 and name != IMPORTED_KEY):
            yield [output.cell(f"tag {name}"), *(_cut(output.cell(tags[p])) for p in places)]
    for name, metric in compared.metrics.items():
        yield [output.cell(name), *_metric(metric, places)]
        goal = metric.goal
        if goal and any(
            each and each.best(goal) not in {None, each.last} for each in metric.values
        ):
            yield [output.cell(f"{name}.{goal}"), *_extreme(metric, goal, places)]


def _metric(metric: ComparedMetric, places: Sequence[int]) -> Iterator[str]:
    mark = viewing.best_mark()
    for place in places:
        summary = metric.values[place]
        is_best = place in metric.best
        yield output.cell(summary and viewing.number(summary.last)) + (mark if is_best else " ")


def _extreme(metric: ComparedMetric, goal: Goal, places: Sequence[int]) -> Iterator[str]:
    mark = viewing.best_mark()
    for place in places:
        summary = metric.values[place]
        is_best = place in metric.best_ever
        yield output.cell(summary and viewing.number(summary.best(goal))) + (
            mark if is_best else " "
        )


def _cut(text: str) -> str:
    return output.cut(text, _CELL_CHARS_MAX) if output.on_terminal() else text
