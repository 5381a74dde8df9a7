"""``journaltrack retry``: what was set aside becomes pending again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals, each

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.evidence.outcomes import DeliveryOutcome
    from journaltrack.reports.status import JournalStatus


@click.command(
    epilog="\b\nExamples:\n  journaltrack retry && journaltrack sync\n  journaltrack retry --component 'digits-*' --dry-run\n"
    "  journaltrack retry --in-doubt        # metrics may be there twice afterwards"
)
@about_journals
@common.component_option
@click.option("--in-doubt", is_flag=True, help="Also entries whose delivery is in doubt. Metrics among them may be duplicated.")
@click.option("--dry-run", is_flag=True, help="Say what would be released, change nothing.")
@common.common_options
def command(journals: Journals, *, component: str | None, in_doubt: bool, dry_run: bool, as_json: bool) -> ExitCode:
    """Release the quarantined entries of each JOURNAL: the next sync sends them again.

    Do it after the cause is gone (see `journaltrack audit`). What can never be delivered, such as NaN,
    stays quarantined. A receipt records the release.
    """

    def answer(path: str | None) -> ExitCode:
        heading = f"{output.clean(common.path_of(path))}: " if journals.are_several else ""
        return _retry(path, component, heading, in_doubt=in_doubt, dry_run=dry_run, as_json=as_json)

    return each(journals, answer, as_json="document" if as_json else None)


def _retry(path: str | None, component: str | None, heading: str, *, in_doubt: bool, dry_run: bool, as_json: bool) -> ExitCode:
    from journaltrack.journal.journal import Journal  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.status import status, undeliverable  # noqa: PLC0415

    before = status(path, component=component)
    never = undeliverable(path, component=component) if before.quarantined else 0
    quarantined = before.quarantined - never
    would = quarantined + (before.in_doubt if in_doubt else 0)
    released = 0
    if not dry_run and would:
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
                "undeliverable": never,
                "in_doubt": before.in_doubt,
                "released": released,
                "exit_code": int(ExitCode.OK),
            }
        )
    elif dry_run:
        in_parts = f"{quarantined} quarantined, {before.in_doubt if in_doubt else 0} in doubt"
        output.say(f"{heading}would release {output.plural(would, 'entry')}: {in_parts}")
    elif released:
        output.say(f"{heading}released {output.plural(released, 'entry')}; `journaltrack sync` sends them")
    else:
        output.say(f"{heading}nothing to release")
    if not as_json:
        _tell_the_rest(before, never, in_doubt=in_doubt)
    if in_doubt and before.in_doubt:
        output.problem(
            "warning",
            f"{output.plural(before.in_doubt, 'entry')} in doubt may have arrived already: sent again, their metrics may be there twice",
            "compare with what SageMaker shows before the next sync",
        )
    return ExitCode.OK


def _tell_the_rest(before: JournalStatus, never: int, *, in_doubt: bool) -> None:
    """On stderr: what stays as it is."""
    if never:
        what = f"{output.plural(never, 'entry')} can never be sent to SageMaker: quarantined for good, and kept in the journal"
        output.problem("note", what, "`journaltrack audit` says why")
    if before.in_doubt and not in_doubt:
        output.say(f"hint: {output.plural(before.in_doubt, 'entry')} in doubt stay so; --in-doubt releases them too", err=True)


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
