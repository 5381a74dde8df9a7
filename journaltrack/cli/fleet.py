"""Implement ``journaltrack fleet``: run a command for many journals on a Dask cluster."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode, worst
from journaltrack.cli.journals import Journals, about_journals

if TYPE_CHECKING:
    from journaltrack.fleet import FleetReport


@click.command(
    epilog="\b\nExamples:\n"
    "  journaltrack fleet sync /shared/journals --scheduler tcp://head:8786\n"
    "  journaltrack fleet export J --scheduler tcp://a:8786 --options '--to /runs'"
)
@click.argument("command", type=click.Choice(["sync", "export", "audit", "check", "status"]))
@about_journals
@click.option(
    "--scheduler", metavar="ADDRESS", required=True, help="Of the cluster: tcp://HOST:8786."
)
@click.option(
    "--requests-per-s",
    metavar="RATE",
    type=click.FloatRange(0, min_open=True),
    help="What all workers together may send.",
)
@click.option(
    "--per-task",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Journals for each command on a worker.",
)
@click.option(
    "--options", "further", metavar="TEXT", default="", help="Further options of COMMAND."
)
@common.common_options
def command(
    command: str,
    journals: Journals,
    *,
    scheduler: str,
    requests_per_s: float | None,
    per_task: int,
    further: str,
    as_json: bool,
) -> ExitCode:
    """Run COMMAND for each JOURNAL on the workers of a Dask cluster.

    A folder of journals stands for those in it. Workers need the same paths and credentials of
    their own. A command whose worker dies runs again. Needs `pip install 'journaltrack[dask]'`.
    """
    from journaltrack import fleet  # noqa: PLC0415 - shell completion imports this module
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415

    distributed = fleet.load()
    folders = [common.path_of(each) for each in journals.folders]
    groups = [folders[n : n + per_task] for n in range(0, len(folders), per_task)]
    try:
        words = [command, *shlex.split(further)]
        client = distributed.Client(scheduler, set_as_default=False)
    except ValueError as error:
        raise click.UsageError(f"{output.clean(str(error))}. Nothing was started.") from error
    except OSError as error:
        raise fleet.unreachable(scheduler, error) from error
    with client, ProgressView(f"{command} of {len(folders)} journals", unit="commands") as view:
        done = fleet.run_many(
            words, groups, client=client, requests_per_s=requests_per_s, on_progress=view
        )
    code = worst([_code(each.exit_code) for each in done.outcomes])
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(code)})
    else:
        _print(done)
    return code


def _code(number: int) -> ExitCode:
    """Return the exit code that a command's stands for; a signal counts as unexpected."""
    return ExitCode(number) if number in {int(each) for each in ExitCode} else ExitCode.UNEXPECTED


def _print(done: FleetReport) -> None:
    for each in done.failed:
        about = ", ".join(output.clean(journal) for journal in each.journals)
        output.say(f"{about}: exit code {each.exit_code}: {_code(each.exit_code).meaning}")
        for line in each.problems.splitlines()[-3:]:
            output.say(f"  {output.clean(line)}")
    good = len(done.outcomes) - len(done.failed)
    output.say(
        f"{done.command}: {good} of {output.plural(len(done.outcomes), 'command')} ended well"
    )
