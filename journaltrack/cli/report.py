"""Implement ``journaltrack report``: runs in one file, to send or to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from journaltrack.cli import common, output, viewing
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.util import paths

_STDOUT = "-"


@click.command(
    epilog="\b\nExamples:\n  journaltrack report digits-1 -o report.html\n"
    "  journaltrack report 'digits-*' -j /data/runs -o report.html\n"
    "  journaltrack report digits-1 --format md >> pull-request.md"
)
@viewing.about_runs("[RUN]... [JOURNAL]...")
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="The file to write; - for stdout.  [default: report.html, or - for md]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("html", "md")),
    help="The format.  [default: by the file's name, else html]",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@common.common_options
def command(
    names: Sequence[str],
    named: Sequence[str],
    *,
    target: str | None,
    form: str | None,
    force: bool,
    as_json: bool,
) -> ExitCode:
    """Write each RUN into one file that opens anywhere, without a network.

    It has who recorded the runs, when, with which code, their parameters, curves, artifacts with
    digests, what became of each entry, the result of `journaltrack check`, and how to verify all
    that. Without a RUN, the newest one is written. No journal is changed.
    """
    from journaltrack.ui.report import gather, to_markdown  # noqa: PLC0415 - completion

    if form is None:
        form = "md" if target is not None and target.endswith((".md", ".markdown")) else "html"
    if target is None:
        target = _STDOUT if form == "md" else "report.html"
    if target == _STDOUT and as_json:
        raise click.UsageError("--json needs stdout for itself: name a file with -o")
    codes: list[ExitCode] = []
    with viewing.looking_at(named, codes) as model:
        runs = model.find(names)
        # Before a large journal is read.
        file = None
        for run in () if target == _STDOUT else runs:
            file = paths.file_target(target, Path(run.journal), force=force)
        report = gather(model, runs)
    if form == "md":
        text = to_markdown(report)
    else:
        from journaltrack.ui.page import to_html  # noqa: PLC0415

        text = to_html(report)
    code = viewing.code_of(codes)
    if file is None:
        output.write(text.rstrip("\n"))
        return code
    with paths.whole(file, durable=False, force=force) as partial:
        partial.write_text(text, encoding="utf-8")
    size = file.stat().st_size
    if as_json:
        written = [each.run.name for each in report.runs]
        told = {"file": str(file), "format": form, "size_bytes": size, "runs": written}
        output.print_json({**told, "exit_code": int(code)})
    else:
        count = output.plural(len(report.runs), "run")
        output.say(f"{output.clean(file)}: {count}, {output.size(size)}")
    return code
