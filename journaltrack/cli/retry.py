"""``journaltrack retry``: what was set aside becomes pending again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.evidence.statements import DeliveryOutcome
    from journaltrack.reports.status import JournalStatus


@click.command(
    epilog="\b\nExamples:\n  journaltrack retry && journaltrack sync\n  journaltrack retry --component 'digits-*' --dry-run\n"
    "  journaltrack retry --in-doubt        # metrics may be there twice afterwards"
)
@common.one_journal
@common.component_option
@click.option("--in-doubt", is_flag=True, help="Also entries whose delivery is in doubt. Metrics among them may be duplicated.")
@click.option("--dry-run", is_flag=True, help="Say what would be released, change nothing.")
@common.common_options
def command(
    journal: str | None, other_journal: str | None, *, component: str | None, in_doubt: bool, dry_run: bool, as_json: bool
) -> ExitCode:
    """Release the quarantined entries of JOURNAL: the next sync sends them again.

    Do it after the cause is gone (see `journaltrack audit`); entries that SageMaker can never accept are set aside again
    by the next sync. A receipt records the release.
    """
    from journaltrack.journal.journal import Journal  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.status import status  # noqa: PLC0415

    path = common.chosen(journal, other_journal)
    before = status(path, component=component)
    released = 0
    if not dry_run and (before.quarantined or (in_doubt and before.in_doubt)):
        opened = Journal.open(path, create=False)
        try:
            released = _release(opened, component, in_doubt=in_doubt)
        finally:
            opened.close()
    if as_json:
        output.print_json(
            {
                "journal": before.path,
                "journal_id": before.journal_id,
                "dry_run": dry_run,
                "quarantined": before.quarantined,
                "in_doubt": before.in_doubt,
                "released": released,
                "exit_code": int(ExitCode.OK),
            }
        )
    else:
        _print(before, released, in_doubt=in_doubt, dry_run=dry_run)
    if in_doubt and before.in_doubt:
        output.problem(
            "warning",
            f"{output.plural(before.in_doubt, 'entry')} in doubt may have arrived already: sent again, their metrics may be there twice",
            "compare with what SageMaker shows before the next sync",
        )
    return ExitCode.OK


def _release(journal: Journal, component: str | None, *, in_doubt: bool) -> int:
    from journaltrack.journal.view import matching  # noqa: PLC0415
    from journaltrack.replay import lease as leases  # noqa: PLC0415
    from journaltrack.replay.evidence.outcomes import Settlement  # noqa: PLC0415

    outcomes: list[DeliveryOutcome] = ["quarantined", "in doubt"] if in_doubt else ["quarantined"]
    ids = matching(journal, component)
    lease = leases.acquire(journal.database)
    try:
        return Settlement(journal.database, lease).release(outcomes, None if ids is None else json.loads(ids))
    finally:
        lease.release()


def _print(before: JournalStatus, released: int, *, in_doubt: bool, dry_run: bool) -> None:
    would = before.quarantined + (before.in_doubt if in_doubt else 0)
    if dry_run:
        output.say(
            f"would release {output.plural(would, 'entry')}: {before.quarantined} quarantined, {before.in_doubt if in_doubt else 0} in doubt"
        )
    elif released:
        output.say(f"released {output.plural(released, 'entry')}; `journaltrack sync` sends them")
    else:
        output.say("nothing to release")
    if before.in_doubt and not in_doubt:
        output.say(f"hint: {output.plural(before.in_doubt, 'entry')} in doubt stay so; --in-doubt releases them too", err=True)
