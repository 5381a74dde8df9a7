"""``journaltrack doctor``: is the journal well, and what can be done if not?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.doctor import Examination, Finding, Repaired

_STYLES: Final = {"problem": "red", "warning": "yellow"}


@click.command(
    epilog="\b\nExamples:\n  journaltrack doctor                                   look, change nothing\n"
    "  journaltrack doctor --repair\n  journaltrack doctor --repair --restore-from ~/checkpoints"
)
@common.one_journal
@click.option(
    "--repair", is_flag=True, help="Repair what can be repaired. Nothing is deleted: what is replaced goes to damaged/ in the journal."
)
@click.option(
    "--restore-from",
    metavar="FOLDER",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --repair: look there, by content, for artifacts that are missing from the spool or damaged in it.",
)
@common.common_options
def command(journal: str | None, other_journal: str | None, *, repair: bool, restore_from: Sequence[Path], as_json: bool) -> ExitCode:
    """Examine JOURNAL: its files, disk, locks, database, records, chains, artifacts and clock.

    Says what each finding means for the data, and what to do. Training may go on meanwhile.
    """
    from journaltrack import doctor  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.journal import view  # noqa: PLC0415 - SQLAlchemy

    if restore_from and not repair:
        raise click.UsageError("--restore-from is for --repair")
    path = common.chosen(journal, other_journal)
    examination = before = doctor.examine(path, progress=_progress)
    repaired: list[Repaired] = []
    if repair:
        repaired = doctor.mend(before, restore_from=restore_from)
        examination = doctor.examine(path, progress=_progress) if repaired else before
    code = ExitCode.OK if examination.healthy else ExitCode.PROBLEMS
    if as_json:
        output.print_json(
            {
                "journal": examination.path,
                "journal_id": examination.journal_id,
                "healthy": examination.healthy,
                "checked": view.to_json(examination.checked),
                "findings": view.to_json(examination.findings),
                "repaired": view.to_json(repaired),
                "exit_code": int(code),
            }
        )
    else:
        _print(examination, repaired, offer=not repair)
    return code


def _progress(check: str) -> None:
    if sys.stderr.isatty():
        output.say(f"checking {check} ...", err=True)


def _print(examination: Examination, repaired: Sequence[Repaired], *, offer: bool) -> None:
    from journaltrack.doctor import CHECKS  # noqa: PLC0415

    skipped = [check for check in CHECKS if check not in examination.checked]
    output.fields(
        [
            ("journal", examination.path),
            ("journal id", examination.journal_id),
            ("checked", ", ".join(examination.checked)),
            *([("not checked", ", ".join(skipped))] if skipped else []),
        ]
    )
    if repaired:
        output.say()
    for each in repaired:
        output.say(f"{'repaired' if each.done else 'not repaired'}: {each.repair}: {output.clean(each.message)}")
    for finding in examination.findings:
        output.say()
        _print_finding(finding)
    output.say()
    problems = sum(f.severity == "problem" for f in examination.findings)
    warnings = sum(f.severity == "warning" for f in examination.findings)
    if examination.healthy:
        output.say("the journal is well" + (f", with {output.plural(warnings, 'warning')}" if warnings else ""))
    else:
        output.say(
            f"the journal has {output.plural(problems, 'problem')}" + (f" and {output.plural(warnings, 'warning')}" if warnings else "")
        )
    if offer and any(f.repair for f in examination.findings):
        output.say("hint: journaltrack doctor --repair mends what can be mended", err=True)


def _print_finding(finding: Finding) -> None:
    text = f"{finding.severity}: {finding.check}: {output.cut(output.clean(finding.message), 500)}"
    if output.on_terminal():
        output.terminal().print(text, style=_STYLES.get(finding.severity), soft_wrap=True)
    else:
        output.say(text)
    output.say(f"  meaning: {output.clean(finding.meaning)}")
    if finding.advice:
        output.say(f"  advice: {output.clean(finding.advice)}")
