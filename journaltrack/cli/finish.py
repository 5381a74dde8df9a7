"""Implement ``journaltrack finish``: record how a run ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals

if TYPE_CHECKING:
    from journaltrack.tracking.finish import FinalStatus


@click.command(
    epilog="\b\nExamples:\n  journaltrack finish digits-1 --status Stopped\n"
    "  journaltrack finish digits-1 --status Failed --message 'the node was lost'"
)
@common.component_argument
@about_journals
@click.option(
    "--status",
    "ended_as",
    required=True,
    type=click.Choice(["Stopped", "Failed", "Completed"], case_sensitive=False),
    help="How it ended.",
)
@click.option(
    "--message",
    metavar="TEXT",
    help="Why, as SageMaker shows it: one line of at most 1,024 characters.",
)
@click.option(
    "--force", is_flag=True, help="Replace another final status. Do not warn if the run is alive."
)
@common.common_options
def command(
    component: str,
    journals: Journals,
    *,
    ended_as: str,
    message: str | None,
    force: bool,
    as_json: bool,
) -> ExitCode:
    """Record how the run COMPONENT in JOURNAL ended, with the time of its last entry.

    The command contacts nobody; the next sync delivers the record. A sync ends interrupted runs
    itself if it can prove that their processes are dead. Use this command for the others: runs of
    another host, or on a disk without locks.
    """
    from journaltrack.tracking.finish import finish  # noqa: PLC0415 - opens journals

    done = finish(
        component,
        cast("FinalStatus", ended_as),
        message=message,
        journal=journals.only(),
        force=force,
    )
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(ExitCode.OK)})
    else:
        instead = "" if done.replaced is None else f", in place of {done.replaced}"
        output.say(
            f"{output.clean(done.component)} is recorded as {done.status}{instead}; `journaltrack "
            "sync` delivers it"
        )
    if done.is_alive and not force and done.before is not None:
        process = f"process {done.before.pid} on {done.before.host}"
        output.problem(
            "warning",
            f"the run is alive: {process} began it",
            "what it records later counts, including its final status",
        )
    return ExitCode.OK
