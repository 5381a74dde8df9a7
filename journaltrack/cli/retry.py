"""Implement ``journaltrack retry``: make quarantined entries pending again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals, each, of_destination

if TYPE_CHECKING:
    from journaltrack.app.api import Retried


@click.command(
    epilog="\b\nExamples:\n  journaltrack retry && journaltrack sync\n  journaltrack retry "
    "--component 'digits-*' --dry-run\n"
    "  journaltrack retry --in-doubt        # metrics may be there twice afterwards"
)
@about_journals
@of_destination
@common.component_option
@click.option(
    "--in-doubt",
    is_flag=True,
    help="Also entries whose delivery is in doubt. Metrics among them may be duplicated.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be released; change nothing.")
@common.common_options
def command(
    journals: Journals, *, component: str | None, in_doubt: bool, dry_run: bool, as_json: bool
) -> ExitCode:
    """Release the quarantined entries of each JOURNAL: the next sync sends them again.

    First remove the cause (see `journaltrack audit`). What AWS can never take, such as a metric of
    NaN, stays quarantined. A receipt records the release.
    """
    return each(
        journals,
        lambda path: _retry(
            path,
            component,
            journals.heading(path),
            in_doubt=in_doubt,
            dry_run=dry_run,
            as_json=as_json,
        ),
        as_json="document" if as_json else None,
    )


def _retry(
    path: str | None,
    component: str | None,
    heading: str,
    *,
    in_doubt: bool,
    dry_run: bool,
    as_json: bool,
) -> ExitCode:
    from journaltrack.app.api import retry  # noqa: PLC0415 - shell completion imports this module

    told = retry(path, component=component, in_doubt=in_doubt, dry_run=dry_run)
    if as_json:
        output.print_json({**told.to_json(), "exit_code": int(ExitCode.OK)})
    elif dry_run:
        quarantined, unsure = (
            told.quarantined - told.undeliverable,
            told.in_doubt if in_doubt else 0,
        )
        in_parts = f"{quarantined} quarantined, {unsure} in doubt"
        output.say(
            f"{heading}would release {output.plural(quarantined + unsure, 'entry')}: {in_parts}"
        )
    elif told.released:
        output.say(
            f"{heading}released {output.plural(told.released, 'entry')}; `journaltrack sync` "
            "sends them"
        )
    else:
        output.say(f"{heading}nothing to release")
    if not as_json:
        _tell_the_rest(told, in_doubt=in_doubt)
    if in_doubt and told.in_doubt:
        output.problem(
            "warning",
            f"{output.plural(told.in_doubt, 'entry')} in doubt may have arrived already: sent "
            "again, their metrics may be there twice",
            "compare with what SageMaker shows before the next sync",
        )
    return ExitCode.OK


def _tell_the_rest(told: Retried, *, in_doubt: bool) -> None:
    """Say on stderr what stays as it is."""
    if told.undeliverable:
        what = (
            f"{output.plural(told.undeliverable, 'entry')} can never be sent to "
            f"{common.service_of(told.journal)}: quarantined for good, and kept in the journal"
        )
        output.problem("note", what, "`journaltrack audit` says why")
    if told.in_doubt and not in_doubt:
        output.say(
            f"hint: {output.plural(told.in_doubt, 'entry')} in doubt stay so; --in-doubt "
            "releases them too",
            err=True,
        )
