"""Implement ``journaltrack tag``: set tags of a run, also when it is over."""

from __future__ import annotations

from collections.abc import Sequence

import click

from journaltrack.cli import common, output, viewing
from journaltrack.cli.exit_codes import ExitCode


@click.command(
    epilog="\b\nExamples:\n  journaltrack tag digits-1 stage=candidate team=vision\n"
    "  journaltrack tag digits-1 stage=rejected -j /data/runs"
)
@viewing.about_runs("RUN KEY=VALUE... [JOURNAL]...", other_names=True)
@common.common_options
def command(names: Sequence[str], named: Sequence[str], *, as_json: bool) -> ExitCode:
    """Set tags of a RUN: the last value per KEY counts.

    RUN is its name, its display name, or a shell pattern in quotes that fits one run. If it fits
    several, nothing is recorded, and the error names them: tag each by itself.

    A run has at most 50 tags. A KEY has at most 128 characters, a VALUE at most 256: letters,
    digits, spaces and _.:/=+-@. The next sync delivers them.
    """
    run, *pairs = names or ("",)
    tags = dict(each.partition("=")[::2] for each in pairs)
    if not run or "=" in run or not pairs or not all("=" in each for each in pairs):
        raise click.UsageError("name a run, and then tags: journaltrack tag RUN KEY=VALUE...")
    done = viewing.annotated(run, named, tags=tags)
    if as_json:
        output.print_json({**done.to_json(), "exit_code": int(ExitCode.OK)})
    else:
        told = ", ".join(f"{key}={value}" for key, value in done.tags.items())
        output.say(
            f"{output.clean(done.component)} is tagged {output.clean(told)}; `journaltrack sync` "
            "delivers it"
        )
    return ExitCode.OK
