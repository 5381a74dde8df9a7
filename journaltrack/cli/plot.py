"""Implement ``journaltrack plot``: curves in the terminal, of several runs, and live."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from journaltrack import limits
from journaltrack.cli import canvas, common, output, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.errors import NothingMatchesError
from journaltrack.journal.vocabulary import order_of_metric

if TYPE_CHECKING:
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Axis, Run, Series

_HEIGHT: Final = 15
_METRICS_MAX: Final = 4
"""Ours: metrics that are drawn if none is named."""
_LOOK_EVERY_S: Final = 0.25
_OVERHEAD_LINES: Final = 3


@click.command(
    epilog="\b\nExamples:\n  journaltrack plot loss\n  journaltrack plot digits-1 digits-2 loss "
    "--log-y\n  journaltrack plot 'digits-*' train:loss val:loss --x time\n"
    "  journaltrack plot loss --follow"
)
@viewing.about_runs("[RUN]... [METRIC]... [JOURNAL]...", other_names=True)
@click.option(
    "-m",
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    help="A metric, if its name is also that of a run; may be repeated.",
)
@click.option(
    "--x",
    "axis",
    type=click.Choice(["step", "time", "relative"]),
    default="step",
    show_default=True,
    help="What to draw over: the step, the time, or the seconds since the run started.",
)
@click.option("--log-x", is_flag=True, help="Use a logarithmic horizontal axis.")
@click.option("--log-y", is_flag=True, help="Use a logarithmic vertical axis.")
@click.option("--from", "lo", metavar="X", type=float, help="Begin at this step or second.")
@click.option("--to", "hi", metavar="X", type=float, help="End at this step or second.")
@click.option(
    "--height", metavar="LINES", type=common.Whole(3, 200), help="Height of a plot.  [default: 15]"
)
@click.option(
    "--follow", is_flag=True, help="Draw again when points arrive, until the runs end or Ctrl-C."
)
@common.options_with_json(
    "Print one JSON document and nothing else on stdout; with --follow, one JSON object per "
    "change, on a line."
)
def command(names: Sequence[str], named: Sequence[str], **given: Any) -> ExitCode:  # noqa: ANN401
    """Draw the curves of METRICs of RUNs; curves of one metric share a plot.

    A RUN is a name, a display name, or a shell pattern in quotes; without one, the newest run is
    drawn. A METRIC is a name or a pattern; without one, the first four are drawn. Each column of
    dots shows the lowest and highest value there. NaN and infinity leave a gap. The command changes
    nothing and contacts nobody.
    """
    if given["follow"] and not (output.on_terminal() or given["as_json"]):
        raise click.UsageError("--follow needs a terminal, or --json")
    codes: list[ExitCode] = []
    with viewing.looking_at(named, codes) as model:
        plot = _Plot(model, names, **given)
        if given["follow"]:
            plot.follow()
        elif given["as_json"]:
            code = viewing.code_of(codes)
            output.print_json({**plot.to_json(), "exit_code": int(code)})
        else:
            output.write("\n".join(plot.lines()))
    return viewing.code_of(codes)


class _Plot:
    """Draw some metrics of some runs, as they are now."""

    def __init__(
        self,
        model: ReadModel,
        names: Sequence[str],
        *,
        metrics: Sequence[str],
        axis: Axis,
        log_x: bool,
        log_y: bool,
        lo: float | None,
        hi: float | None,
        height: int | None,
        follow: bool,
        as_json: bool,
    ) -> None:
        self._model = model
        self._as_json = as_json
        self._axis: Axis = axis
        self._log_x, self._log_y = log_x, log_y
        self._lo, self._hi = lo, hi
        runs, self._metrics = _chosen(model, names, metrics)
        self._keys = [run.key for run in runs]
        fitting = shutil.get_terminal_size((output.PLAIN_WIDTH, 24)).lines
        room = fitting // len(self._metrics) - _OVERHEAD_LINES - len(runs)
        self._height = height or (max(3, min(_HEIGHT, room)) if follow else _HEIGHT)

    @property
    def _runs(self) -> list[Run]:
        return [self._model.run(key) for key in self._keys]

    def _series(self, run: Run, metric: str, columns: int) -> Series:
        return self._model.series(
            run, metric, columns=columns, x=self._axis, lo=self._lo, hi=self._hi
        )

    def lines(self) -> list[str]:
        """Return all plots as lines."""
        width = output.line_width()
        runs, found = self._runs, []
        labels = viewing.labels(runs)
        for metric in self._metrics:
            having = [
                (label, run)
                for label, run in zip(labels, runs, strict=True)
                if metric in run.metrics
            ]
            series = [self._series(run, metric, 2 * width) for _, run in having]
            curves = [
                canvas.Curve(label, each.x, each.y)
                for (label, _), each in zip(having, series, strict=True)
            ]
            found.append(output.painted(output.clean(metric), "bold"))
            beyond = self._beyond(series)
            if beyond:
                found.append(beyond)
                continue
            found += canvas.drawn(
                curves,
                width=width,
                height=self._height,
                x_label=self._x_label,
                log_x=self._log_x,
                log_y=self._log_y,
            )
            found += canvas.legend(curves, [_said(run, metric) for _, run in having])
        return [output.cut_line(line, width) for line in found]

    def _beyond(self, series: Sequence[Series]) -> str:
        """Say where the points are if none is in the range that was asked for; else ""."""
        ends = [each for one in series for each in (one.first, one.last) if each is not None]
        low = -math.inf if self._lo is None else self._lo
        high = math.inf if self._hi is None else self._hi
        if not ends or (max(ends) >= low and min(ends) <= high):
            return ""
        first, last = self._x_label(min(ends)), self._x_label(max(ends))
        return f"  no point in this range: the points are from {first} to {last}"

    def _x_label(self, x: float) -> str:
        if self._axis == "time":
            return output.moment(int(x * 1e9))
        if self._axis == "relative":
            return viewing.span(x) or "0 s"
        return str(viewing.number(x))

    def to_json(self) -> dict[str, Any]:
        """Return what is drawn, at most two points per column of 500."""
        return {
            "axis": self._axis,
            "curves": [
                {
                    **self._series(run, metric, 500).to_json(),
                    "name": run.name,
                    "display_name": run.display_name,
                    "status": run.status,
                }
                for metric in self._metrics
                for run in self._runs
                if metric in run.metrics
            ],
        }

    def follow(self) -> None:
        """Draw until all runs are over, or Ctrl-C."""
        from journaltrack.readmodel.run import OVER  # noqa: PLC0415

        never = threading.Event()
        with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
            show = self._shown(stack)
            while True:
                show()
                while not self._model.refresh():
                    if all(run.status in OVER for run in self._runs):
                        return
                    never.wait(_LOOK_EVERY_S)

    def _shown(self, stack: contextlib.ExitStack) -> Any:  # noqa: ANN401 - a function
        if self._as_json:
            return lambda: output.print_json_line(self.to_json())
        from rich.live import Live  # noqa: PLC0415 - only for a terminal
        from rich.text import Text  # noqa: PLC0415

        live = stack.enter_context(Live(console=output.terminal(), auto_refresh=False))
        return lambda: live.update(Text.from_ansi("\n".join(self.lines())), refresh=True)


def _said(run: Run, metric: str) -> str:
    summary = run.metrics[metric]
    parts = [f"last {viewing.number(summary.last)}"]
    if summary.step is not None:
        parts[0] += f" at {summary.step}"
    if summary.min is not None:
        parts += [f"min {viewing.number(summary.min)}", f"max {viewing.number(summary.max)}"]
    if summary.not_finite:
        parts.insert(1, f"{summary.not_finite} not finite")
    return ", ".join(parts)


def _chosen(
    model: ReadModel, names: Sequence[str], metrics: Sequence[str]
) -> tuple[list[Run], list[str]]:
    """Tell runs from metrics: what names a run is a run, everything else has to be a metric."""
    from journaltrack.util import patterns  # noqa: PLC0415

    wanted = list(metrics)
    runs: dict[str, Run] = {}
    for name in names:
        try:
            runs |= {run.key: run for run in model.find([name])}
        except NothingMatchesError:  # noqa: PERF203 - then it has to be a metric
            wanted.append(name)
    chosen = list(runs.values()) or _newest(model, wanted)
    known = sorted({metric for run in chosen for metric in run.metrics}, key=order_of_metric)
    if not wanted:
        if not known:
            raise NothingMatchesError(
                "these runs have no metrics", hint="`journaltrack runs` lists runs"
            )
        if len(known) > _METRICS_MAX:
            output.say(
                f"hint: {output.plural(len(known) - _METRICS_MAX, 'metric')} left out; name the "
                "metrics to draw, or a pattern such as 'val*'",
                err=True,
            )
        return chosen, known[:_METRICS_MAX]
    found: dict[str, None] = {}
    for name in wanted:
        fitting = [name] if name in known else [m for m in known if patterns.fits(m, name)]
        if not fitting:
            raise _unknown(model, name, known, is_metric=name in metrics)
        found |= dict.fromkeys(fitting)
    return chosen, list(found)


def _unknown(
    model: ReadModel, name: str, known: Sequence[str], *, is_metric: bool
) -> NothingMatchesError:
    """Return the error of a name that is neither a run's nor a metric's of the chosen runs."""
    from journaltrack.util import patterns  # noqa: PLC0415

    of_metrics = f"metrics: {patterns.hint(name, known)}"
    if is_metric:
        return NothingMatchesError(f"no metric is called {limits.shown(name)}", hint=of_metrics)
    labels = [run.label for run in reversed(model.runs())]
    return NothingMatchesError(
        f"{limits.shown(name)} is neither a run nor a metric",
        hint=f"runs: {patterns.hint(name, labels)}; {of_metrics}",
    )


def _newest(model: ReadModel, metrics: Sequence[str]) -> list[Run]:
    """Return the newest run that has one of the metrics; the newest one if none has."""
    for run in model.runs():
        if any(metric in run.metrics for metric in metrics):
            return [run]
    return model.find()
