"""Implement ``journaltrack run``: run a command as a recorded run."""

from __future__ import annotations

from typing import Any

import click

from journaltrack.cli import common, output
from journaltrack.util.output import TAIL_BYTES, TAIL_BYTES_MAX

EVERY_S = 10.0
"""The default of ``tracking.system``, which shell completion does not import."""


class _Seconds(common.Number):
    """Parse SECONDS, which may be left out: then COMMAND must not stand in its place."""

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return the number, or say how to leave it out."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = f"without SECONDS, put -- before the command: -- {value} ..."
            self.fail(f"{error.message} {hint}", param, ctx)


@click.command(
    # What begins like an option before COMMAND is one of ours, or misspelt: it is never run.
    context_settings={"allow_interspersed_args": False},
    epilog="\b\nExamples:\n  journaltrack run -- python train.py --epochs 10\n"
    "  journaltrack run --name digits-1 --sync off -- ./train.sh",
)
@click.argument(
    "command_line", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED
)
@click.option(
    "-j", "--journal", metavar="JOURNAL", help="Record here instead of the default journal."
)
@click.option("--name", metavar="NAME", help="The run's name; an existing run goes on.")
@click.option("--display-name", metavar="NAME", help="The name that SageMaker shows.")
@click.option("--experiment", metavar="NAME", help="Experiment that the run belongs to.")
@click.option("--trial", metavar="NAME", help="Trial that the run belongs to.")
@click.option(
    "--sync",
    type=click.Choice(["close", "background", "off"]),
    help="When to deliver, also for trackers of the command (JOURNALTRACK_SYNC).",
)
@click.option(
    "--output-bytes",
    metavar="N",
    type=common.Whole(0, TAIL_BYTES_MAX),
    default=TAIL_BYTES,
    show_default=True,
    help="How much of the end of the output to record; 0 for none.",
)
@click.option(
    "--tensorboard",
    metavar="DIR",
    help="Import the event files that COMMAND writes into this folder, as they are written.",
)
@click.option(
    "--system-metrics",
    metavar="SECONDS",
    type=_Seconds(0),
    is_flag=False,
    flag_value=EVERY_S,
    help="Record how busy machine, processes and GPUs are, every SECONDS (10).",
)
@common.verbose_option
def command(
    command_line: tuple[str, ...],
    *,
    journal: str | None,
    name: str | None,
    display_name: str | None,
    experiment: str | None,
    trial: str | None,
    sync: str | None,
    output_bytes: int,
    system_metrics: float | None,
    tensorboard: str | None,
) -> None:
    """Run COMMAND, and record its start, its end and the end of its output as a run.

    Trackers of COMMAND without a name of their own record into this run. The exit code is that of
    COMMAND, 128+N if signal N killed it. COMMAND runs also if the journal can't be written.
    """
    from journaltrack.app.launch import Launch, Run  # noqa: PLC0415 - shell completion

    run = Run(
        Launch(
            command_line,
            name,
            journal,
            display_name,
            experiment,
            trial,
            sync,
            output_bytes,
            system_metrics,
            tensorboard,
        )
    )

    def on_name(name: str) -> None:
        """Tell a person which run it is."""
        if output.on_terminal(err=True):
            output.say(f"run {name} in {output.clean(run.journal)}", err=True)

    code = run.execute(lambda message, hint: output.problem("warning", message, hint), on_name)
    click.get_current_context().exit(code)
