"""Implement ``journaltrack completion``: print click's completion script."""

from __future__ import annotations

import click
from click import shell_completion

from journaltrack.cli.common import common_options
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.output import print_json, write


@click.command(
    epilog="\b\nExamples:\n"
    "  echo 'eval \"$(journaltrack completion bash)\"' >> ~/.bashrc\n"
    "  echo 'eval \"$(journaltrack completion zsh)\"' >> ~/.zshrc\n"
    "  journaltrack completion fish > ~/.config/fish/completions/journaltrack.fish"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def command(ctx: click.Context, shell: str, *, as_json: bool) -> ExitCode:
    """Print the script that lets SHELL complete commands, options and component names.

    Load it from your shell's start-up file, as the examples do. bash must be 4.4 or later.
    """
    kind = shell_completion.get_completion_class(shell)
    if kind is None:  # pragma: no cover - click has the three
        raise click.UsageError(f"click has no completion for {shell}")
    root = ctx.find_root()
    completion = kind(root.command, {}, "journaltrack", "_JOURNALTRACK_COMPLETE")
    script = completion.source_template % completion.source_vars()
    if as_json:
        print_json({"shell": shell, "script": script, "exit_code": int(ExitCode.OK)})
    else:
        write(script)
    return ExitCode.OK
