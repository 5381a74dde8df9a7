"""Implement ``journaltrack resolve``: decide what became of entries in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals, each

if TYPE_CHECKING:
    from journaltrack.app.api import Resolution


@click.command(
    epilog="\b\nExamples:\n  journaltrack resolve --delivered --component digits-1 --note 'in "
    "Studio'\n"
    "  journaltrack resolve --set-aside --dry-run\n  journaltrack retry --in-doubt        # or: "
    "send them again"
)
@about_journals
@common.component_option
@click.option("--delivered", is_flag=True, help="Count them as delivered: they are in SageMaker.")
@click.option(
    "--set-aside", is_flag=True, help="Quarantine them; `journaltrack retry` releases them."
)
@click.option("--note", metavar="TEXT", default="", help="Why, for the audit.")
@click.option("--dry-run", is_flag=True, help="Show what would be resolved; change nothing.")
@common.common_options
def command(
    journals: Journals,
    *,
    component: str | None,
    delivered: bool,
    set_aside: bool,
    note: str,
    dry_run: bool,
    as_json: bool,
) -> ExitCode:
    """Decide about the entries of each JOURNAL that are in doubt.

    These are metrics that were sent, but whose answer was lost.

    Every sync reads back what SageMaker shows, and settles what that proves. `journaltrack audit`
    shows what was seen of the rest. Your decision is recorded with your name. Nothing is sent.
    """
    if delivered == set_aside:
        raise click.UsageError("give --delivered or --set-aside")
    outcome: Resolution = "delivered" if delivered else "quarantined"
    return each(
        journals,
        lambda path: _resolve(
            path,
            component,
            outcome,
            note,
            journals.heading(path),
            dry_run=dry_run,
            as_json=as_json,
        ),
        as_json="document" if as_json else None,
    )


def _resolve(
    path: str | None,
    component: str | None,
    outcome: Resolution,
    note: str,
    heading: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> ExitCode:
    from journaltrack.app.api import resolve  # noqa: PLC0415 - shell completion imports this module

    told = resolve(path, outcome=outcome, component=component, note=note, dry_run=dry_run)
    if as_json:
        output.print_json({**told.to_json(), "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    if dry_run:
        output.say(
            f"{heading}would resolve {output.plural(told.in_doubt, 'entry')} in doubt as {outcome}"
        )
    elif told.resolved:
        output.say(f"{heading}resolved {output.plural(told.resolved, 'entry')} as {outcome}")
    else:
        output.say(f"{heading}nothing is in doubt")
    return ExitCode.OK
