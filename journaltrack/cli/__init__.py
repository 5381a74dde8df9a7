"""The command line: a group that imports a command's module when that command runs.

``journaltrack --help`` imports click and nothing else of weight: SQLAlchemy, rich and boto3 come with the commands
that use them (``tests/unit/test_cli.py`` measures it). Here are also the last resort for errors, and the help's table
of exit codes. The commands hold no logic of their own beyond choosing, calling and printing.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from journaltrack._version import __version__
from journaltrack.cli import exit_codes
from journaltrack.cli.common import JSON, VERBOSE, configure_logging, exit_code_of, report_error, told_unheard, verbose_option
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.output import UnheardError, error_json, is_of_click, print_json_line, unheard, with_streams

__all__ = ["ExitCode", "main"]

COMMANDS = {
    "sync": "Replay what is pending to SageMaker and S3.",
    "watch": "Deliver what is written into journals, as it is written.",
    "status": "What is pending, how old it is, and what went wrong last.",
    "audit": "What was recorded, by whom, and what became of all of it.",
    "verify": "Is what was delivered still there, as it was sent.",
    "show": "A component's parameters, artifacts and metrics, offline.",
    "export": "Metrics or entries as JSON Lines, CSV or Parquet.",
    "bundle": "Pack a journal into one file, for a machine that has a network.",
    "merge": "Several journals, or copies of one, into one.",
    "receipts": "Carry acknowledgements from one copy to another.",
    "retry": "Make quarantined entries pending again.",
    "settle": "Decide about entries in doubt.",
    "finish": "Say how a run ended whose process is gone.",
    "prune": "Remove what was delivered long ago, on the record.",
    "doctor": "Is the journal well, and what can be repaired.",
    "config": "What is configured, and where each value comes from.",
    "completion": "Shell completion for bash, zsh and fish.",
}
"""Each is the attribute ``command`` of the module of that name in this package."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use, and which turns exceptions into messages and exit codes."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order of their use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"journaltrack.cli.{cmd_name}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Short help without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - click's
        """See ``click.Command.main``."""
        with_streams()
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's
        """See ``click.Command.make_context``; it prints help and version itself."""
        try:
            return super().make_context(*args, **options)
        except OSError as error:
            raise click.exceptions.Exit(told_unheard(unheard(sys.stdout, error))) from error
        except click.ClickException as error:
            raise _refused(error) from error

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command; its result is the exit code."""
        configure_logging(ctx.meta.get(VERBOSE, 0))
        try:
            result = super().invoke(ctx)
        except click.ClickException as error:
            raise _refused(error) from error
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            result = ExitCode.INTERRUPTED
        except UnheardError as error:
            result = told_unheard(error)
        except Exception as error:  # noqa: BLE001 - told below, with what it means
            if isinstance(error, OSError) and is_of_click(error):  # a command's help
                ctx.exit(int(told_unheard(unheard(sys.stdout, error))))
            result = exit_code_of(error)
            if ctx.meta.get(JSON):
                print_json_line(error_json(error, result))  # one line: with --entries others may stand before it
            report_error(error, verbose=bool(ctx.meta.get(VERBOSE)))
        if isinstance(result, ExitCode):
            ctx.exit(int(result))
        return result


def _refused(error: click.ClickException) -> click.exceptions.Exit:
    """Wrong usage, told here: where stderr can't be written, the exit code tells."""
    try:
        error.show()
    except OSError as lost:
        unheard(sys.stderr, lost)
    return click.exceptions.Exit(error.exit_code)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"\b\nExit codes:\n{exit_codes.table()}",
)
@click.version_option(__version__, prog_name="journaltrack")
@verbose_option
def main() -> None:
    """Record experiments offline, replay them to SageMaker, and prove what arrived.

    A JOURNAL is the folder that a training script wrote; without one, commands use JOURNALTRACK_JOURNAL, or "journal" in
    JOURNALTRACK_HOME or in the user's data folder.

    \b
    Example:
      journaltrack status                  what waits
      journaltrack sync                    send it
      journaltrack audit                   what arrived, and what did not
    """  # noqa: D301 - click wants the backspace itself
