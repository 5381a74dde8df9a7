"""``journaltrack settle``: a person decides what became of entries in doubt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal


@click.command(
    epilog="\b\nExamples:\n  journaltrack settle --delivered --component digits-1 --note 'counted in Studio'\n"
    "  journaltrack settle --set-aside --dry-run\n  journaltrack retry --in-doubt        # or: send them again"
)
@common.one_journal
@common.component_option
@click.option("--delivered", is_flag=True, help="They are in SageMaker: they count as delivered.")
@click.option("--set-aside", is_flag=True, help="Leave them as they are: they are quarantined, and `journaltrack retry` releases them.")
@click.option("--note", metavar="TEXT", default="", help="Why, for the audit.")
@click.option("--dry-run", is_flag=True, help="Say what would be settled, change nothing.")
@common.common_options
def command(
    journal: str | None,
    other_journal: str | None,
    *,
    component: str | None,
    delivered: bool,
    set_aside: bool,
    note: str,
    dry_run: bool,
    as_json: bool,
) -> ExitCode:
    """Say what became of the entries of JOURNAL that are in doubt: metrics that were sent, and whose answer was lost.

    Every sync reads back what SageMaker shows, and settles by itself what that proves; the audit tells what was seen of the rest.
    The decision is recorded with your name. Nothing is sent.
    """
    from journaltrack.journal.journal import Journal  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.status import status  # noqa: PLC0415

    if delivered == set_aside:
        raise click.UsageError("say --delivered or --set-aside")
    path = common.chosen(journal, other_journal)
    before = status(path, component=component)
    settled = 0
    if not dry_run and before.in_doubt:
        opened = Journal.open(path, create=False)
        try:
            settled = _settle(opened, component, delivered=delivered, note=note)
        finally:
            opened.close()
    if as_json:
        output.print_json(
            {
                "journal": before.path,
                "journal_id": before.journal_id,
                "dry_run": dry_run,
                "in_doubt": before.in_doubt,
                "settled": settled,
                "exit_code": int(ExitCode.OK),
            }
        )
        return ExitCode.OK
    outcome = "delivered" if delivered else "quarantined"
    if dry_run:
        output.say(f"would settle {output.plural(before.in_doubt, 'entry')} in doubt as {outcome}")
    elif settled:
        output.say(f"settled {output.plural(settled, 'entry')} as {outcome}")
    else:
        output.say("nothing is in doubt")
    return ExitCode.OK


def _settle(journal: Journal, component: str | None, *, delivered: bool, note: str) -> int:
    from journaltrack.journal import provenance  # noqa: PLC0415
    from journaltrack.journal.view import matching  # noqa: PLC0415
    from journaltrack.replay import lease as leases  # noqa: PLC0415
    from journaltrack.replay.evidence import in_doubt  # noqa: PLC0415
    from journaltrack.replay.evidence.attestations import Attestor  # noqa: PLC0415

    decision = "there" if delivered else "set aside"
    reason = f"{provenance.user()} settled it by hand as {decision}" + (f": {note}" if note else "")
    ids = matching(journal, component)
    lease = leases.acquire(journal.database)
    try:
        outcome: Literal["delivered", "quarantined"] = "delivered" if delivered else "quarantined"
        return in_doubt.decide(Attestor(journal.database, lease), outcome, reason, None if ids is None else json.loads(ids))
    finally:
        lease.release()
