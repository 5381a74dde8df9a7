"""Implement ``journaltrack note``: write down what a person has to say about a run."""

from __future__ import annotations

import click

from journaltrack.cli import common, output, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals


@click.command(
    epilog="\b\nExamples:\n  journaltrack note digits-1 'diverged after the third restart'\n"
    "  journaltrack note digits-1 '' -j /data/runs"
)
@common.component_argument
@click.argument("text")
@about_journals
@common.common_options
def command(component: str, text: str, journals: Journals, *, as_json: bool) -> ExitCode:
    """Set the note of a run to TEXT; an empty TEXT removes it.

    COMPONENT is its name or display name. `journaltrack runs` and `show` print the note. It stays
    in the journal: SageMaker has no place for it. Earlier notes stay on record (`journaltrack audit
    timeline`).
    """
    done = viewing.annotated(component, journals.named, note=text)
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(ExitCode.OK)})
    else:
        what = "has this note" if done.note else "has no note any more"
        output.say(f"{output.clean(done.component)} {what}")
    return ExitCode.OK
