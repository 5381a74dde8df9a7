"""Implement ``journaltrack import``: take over runs that other tools recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, arguments_and_journals
from journaltrack.util import patterns

if TYPE_CHECKING:
    from journaltrack.importers.record import Imported
    from journaltrack.importers.source import LeftOuts, Source

_LISTED_MAX: Final = 40
_CALLED_ELSEWHERE: Final = {
    **dict.fromkeys(("tb", "tfevents", "torch", "tensorboardx"), "tensorboard"),
    **dict.fromkeys(("lightning", "keras", "tsv"), "csv"),
    "mlflow": "mlruns",
    "wandb": "wandb-export",
    "neptune": "neptune-export",
}


class _Formats(click.Group):
    """Suggest the format for a name that is similar, or that other tools use."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; suggest a similar format for an unknown one."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            known = _CALLED_ELSEWHERE.get(name.lower())
            meant = [known] if known else patterns.near(name, list(self.commands))
            hint = (
                f" Did you mean {' or '.join(map(repr, meant))}?"
                if meant
                else f" There are: {', '.join(self.commands)}."
            )
            raise click.UsageError(f"No such format {output.clean(name)!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Formats,
    epilog="\b\nExamples:\n"
    "  journaltrack import tensorboard runs/\n"
    "  journaltrack import csv lightning_logs/ -j journals/lightning\n"
    "  journaltrack import mlruns mlruns/ --prefix old-",
)
def command() -> None:
    """Take over runs that another tool recorded, with their times and steps.

    Import again to bring what is new: nothing is recorded twice. What has no place in a journal is
    left out, and listed. The command uses no network. `journaltrack sync` delivers the runs.
    """


def _told_apart(arguments: tuple[str, ...], options: tuple[str, ...]) -> dict[str, Any]:
    """Return what to import, and the journal: the first argument is never a journal."""
    from journaltrack.util import paths  # noqa: PLC0415 - completion

    named = [each for each in arguments[1:] if (paths.expanded(each) / paths.DATABASE).is_file()]
    sources = [*arguments[:1], *(each for each in arguments[1:] if each not in named)]
    return {"sources": sources, "journals": Journals([*named, *options])}


def _importing(called: Callable[..., Source]) -> Callable[..., ExitCode]:
    """Add what all formats have in common: PATH..., the journal, names, ``--json``.

    Args:
        called: Finds the runs at one path; gets the options of its format.
    """

    @functools.wraps(called)
    def run(
        *,
        sources: Sequence[str],
        journals: Journals,
        name: str | None,
        prefix: str,
        status: str | None,
        as_json: bool,
        **options: Any,  # noqa: ANN401 - click's
    ) -> ExitCode:
        """Import each path in turn."""
        from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
        from journaltrack.importers.record import import_source  # noqa: PLC0415 - completion

        context = click.get_current_context()
        journal = journals.only(f"import {context.info_name}")
        # All of them first: a wrong path, and nothing is imported.
        found = [called(path, **options) for path in sources]
        if name is not None and len(found) > 1:
            raise click.UsageError("--name is for one run; use --prefix")
        done = []
        for source in found:
            label = f"import of {source.path}"
            with ProgressView(label, unit="bytes") as view:
                done.append(
                    import_source(
                        source, journal, name=name, prefix=prefix, status=status, on_progress=view
                    )
                )
        return _answer(done, as_json=as_json)

    decorators = (
        arguments_and_journals(
            _told_apart,
            "The journal to import into; created if it is missing.",
            metavar="PATH... [JOURNAL]",
            required=True,
            type=click.Path(),
        ),
        click.option("--name", metavar="NAME", help="The name of the run, if it is only one."),
        click.option(
            "--prefix", metavar="TEXT", default="", help="Begin the names of new runs with TEXT."
        ),
        click.option(
            "--status",
            type=click.Choice(["Completed", "Failed", "Stopped"]),
            help="How runs ended of which the source does not say it.",
        ),
        common.common_options,
    )
    command_function: Callable[..., ExitCode] = run
    for decorator in reversed(decorators):
        command_function = decorator(command_function)
    return command_function


@command.command(
    "tensorboard",
    epilog="\b\nExamples:\n  journaltrack import tensorboard runs/\n"
    "  journaltrack import tensorboard lightning_logs/version_3 --name digits-3",
)
@_importing
def _tensorboard(path: str) -> Source:
    """Import TensorBoard's event files below PATH.

    Each folder with event files is a run. Scalars become metrics, hyper-parameters parameters, the
    last images and texts artifacts. Needs TensorBoard: pip install 'journaltrack[tensorboard]'.
    """
    from journaltrack.importers import tensorboard  # noqa: PLC0415 - completion

    return tensorboard.find(path)


@command.command(
    "csv",
    epilog="\b\nExamples:\n  journaltrack import csv lightning_logs/\n"
    "  journaltrack import csv training.log --step epoch --name digits-3\n"
    "  journaltrack import csv results/ --files '*.csv' --time when",
)
@_importing
@click.option(
    "--files",
    metavar="GLOB",
    default="metrics.csv",
    show_default=True,
    help="Which files of a folder are runs, by their names.",
)
@click.option("--step", metavar="COLUMN", help="The step's column; default: step, epoch, ...")
@click.option("--time", metavar="COLUMN", help="The time's column; default: timestamp, time, ...")
@click.option("--delimiter", metavar="CHAR", help="Between cells; default: the header's.")
def _csv(path: str, **options: Any) -> Source:  # noqa: ANN401 - click's
    """Import a CSV file, or those below a folder: Lightning's, Keras', or any other.

    A row is a step, a column a metric; cells may be empty. `hparams.yaml` beside it has the
    parameters. Without a column of times, all points get the time of the file's last change.
    """
    from journaltrack.importers import csv_files  # noqa: PLC0415 - completion

    return csv_files.find(path, **options)


@command.command(
    "mlruns",
    epilog="\b\nExamples:\n  journaltrack import mlruns mlruns/\n"
    "  journaltrack import mlruns mlruns/123456 --deleted --no-artifacts",
)
@_importing
@click.option("--deleted", is_flag=True, help="Also runs and experiments deleted in MLflow.")
@click.option("--artifacts/--no-artifacts", default=True, help="Import the files of the runs.")
def _mlruns(path: str, **options: Any) -> Source:  # noqa: ANN401 - click's
    """Import MLflow's file store, an experiment in it, or one run. Needs no MLflow.

    A run's name is its id; the run's name in MLflow is its display name.
    """
    from journaltrack.importers import mlruns  # noqa: PLC0415 - completion

    return mlruns.find(path, **options)


@command.command(
    "wandb-export",
    epilog="\b\nExamples:\n  journaltrack import wandb-export history.csv --name digits-3\n"
    "  journaltrack import wandb-export exported/",
)
@_importing
@click.option("--step", metavar="COLUMN", help="The step's column; default: _step.")
def _wandb_export(path: str, **options: Any) -> Source:  # noqa: ANN401 - click's
    """Import histories exported from Weights & Biases: CSV, JSON, JSON Lines or Parquet.

    As run.history() and run.scan_history() give them, or a chart's CSV. Beside a history,
    config.json and run.json describe the run. Files of offline runs (run-*.wandb) are not read.
    """
    from journaltrack.importers import wandb_export  # noqa: PLC0415 - completion

    return wandb_export.find(path, **options)


@command.command(
    "neptune-export",
    epilog="\b\nExamples:\n  journaltrack import neptune-export exports/\n"
    "  journaltrack import neptune-export exports/data --files /mnt/cold/files",
)
@_importing
@click.option(
    "--files", metavar="FOLDER", type=click.Path(), help="The files; default: files beside data."
)
@click.option(
    "--step-multiplier",
    metavar="N",
    type=common.Whole(min=1),
    default=1,
    help="Multiply the steps, which are decimal in Neptune.",
)
def _neptune_export(path: str, **options: Any) -> Source:  # noqa: ANN401 - click's
    """Import what neptune-exporter wrote. Needs pyarrow: pip install 'journaltrack[parquet]'."""
    from journaltrack.importers import neptune_export  # noqa: PLC0415 - completion

    return neptune_export.find(path, **options)


def _answer(done: Sequence[Imported], *, as_json: bool) -> ExitCode:
    """Print what was imported, and return the exit code."""
    code = ExitCode.PROBLEMS if any(each.is_harm for each in done) else ExitCode.OK
    if as_json:
        documents = [each.to_json() for each in done]
        told = documents[0] if len(documents) == 1 else {"imports": documents}
        output.print_json({**told, "exit_code": int(code)})
    else:
        for each in done:
            _print(each)
    return code


def _print(done: Imported) -> None:
    """Say what was imported, and what was left out."""
    shown = done.runs[:_LISTED_MAX]
    rows = [
        (
            run.name,
            run.points,
            run.state,
            run.known or None,
            "new" if run.is_new else "more" if run.is_changed else "nothing new",
        )
        for run in shown
    ]
    tables.table("imported", ("run", "points", "other entries", "points known", "what"), rows)
    if len(done.runs) > len(shown):
        output.say(f"  and {len(done.runs) - len(shown)} more runs")
    _print_left_out("", done.left_out)
    for run in done.runs:
        if run.has_other_name:
            output.problem(
                "note",
                f"{run.asked_name}: the source is imported already, as {run.name}; no second run "
                "was made",
            )
        _print_left_out(f"{run.name}: ", run.left_out)
        _print_left_out(f"{run.name}: ", run.noted, "recorded, but not as SageMaker takes it: ")
        if run.missing and (run.points or run.is_new):
            output.problem(
                "note",
                f"{run.name}: the journal has {output.plural(run.missing, 'point')} of it that the "
                "source lacks",
                "if these are two runs, import this one with --name",
            )
    not_finite, old = (
        sum(getattr(run, each) for run in done.runs) for each in ("not_finite", "old")
    )
    if not_finite:
        output.say(
            f"{output.plural(not_finite, 'value')} NaN or infinite: recorded, but SageMaker takes "
            "none"
        )
    if old:
        output.problem(
            "note",
            f"{output.plural(old, 'point')} older than 14 days: SageMaker may refuse them",
            '`timestamps = "shift"` in the configuration then sends them with the time of their '
            "delivery; the journal keeps their own",
        )
    points = sum(run.points for run in done.runs)
    output.say(
        f"{output.clean(done.path)}: {output.plural(points, 'new point')} of "
        f"{output.plural(len(done.runs), 'run')} in {output.clean(done.journal)}"
    )


def _print_left_out(whose: str, left_out: LeftOuts, said: str = "left out: ") -> None:
    for what, why, is_harm, count, examples, is_more in left_out.told():
        some = f" ({', '.join(examples)}{', ...' if is_more else ''})"
        text = f"{whose}{said}{output.plural(count, what)}{some if examples else ''}: {why}"
        if is_harm:
            output.problem("warning", text)
        else:
            output.say(output.clean(text))
