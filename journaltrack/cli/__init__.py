"""Run the command line, importing only the command that runs.

Invariant: ``journaltrack --help`` imports click and nothing heavy. SQLAlchemy, rich and boto3 come
with the commands that use them (``tests/unit/test_cli.py`` measures it). The group also handles
errors that no command caught, and prints the exit codes in its help. A command chooses, calls and
prints; it holds no other logic.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Mapping
from typing import Any

import click

from journaltrack._version import __version__
from journaltrack.cli.common import (
    JSON,
    VERBOSE,
    configure_logging,
    verbose_option,
)
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error, told_unheard
from journaltrack.cli.output import (
    UnheardError,
    clean,
    error_json,
    is_of_click,
    print_json_line,
    problem,
    unheard,
    with_streams,
)
from journaltrack.util import patterns
from journaltrack.util.config import unknown_variables

__all__ = ["ExitCode", "main"]

COMMANDS = {
    "run": "Run a command as a recorded run.",
    "sync": "Deliver what is pending to SageMaker and S3.",
    "watch": "Deliver what is written into journals, as it is written.",
    "status": "Show what is pending, how old it is, and what went wrong last.",
    "audit": "Show what was recorded, by whom, and what became of it.",
    "check": "Check a journal, or with --remote what SageMaker and S3 hold; repair.",
    "runs": "List runs: filter, sort, and see their parameters and metrics.",
    "show": "Show a run's parameters, artifacts and metrics, offline.",
    "get": "Copy artifacts of a run out of its journal.",
    "compare": "Compare runs: what differs, metrics side by side.",
    "plot": "Draw metrics in the terminal, of several runs, and live.",
    "ui": "Show runs in a browser, offline and live.",
    "report": "Write runs into one file, to send or to keep.",
    "import": "Take over runs from TensorBoard, CSV, MLflow, W&B or Neptune.",
    "export": "Export metrics or entries as JSON Lines, CSV or Parquet.",
    "bundle": "Pack a journal into one file, for a machine that has a network.",
    "mirror": "Write a journal into a shared folder, to deliver from another machine.",
    "merge": "Merge several journals, or copies of one, into one.",
    "fleet": "Run a command for many journals on a Dask cluster.",
    "receipts": "Carry acknowledgements from one copy to another.",
    "retry": "Make quarantined entries pending again.",
    "resolve": "Decide about entries in doubt.",
    "note": "Write a note about a run.",
    "tag": "Set tags of a run, also when it is over.",
    "finish": "Record how a run ended whose process is gone.",
    "prune": "Remove what was delivered long ago, on the record.",
    "help": "Show the documentation of a topic, offline.",
    "config": "Show what is configured, and where each value comes from.",
    "completion": "Print shell completion for bash, zsh or fish.",
}
"""Map each command to its short help. The module of that name has the attribute ``command``."""
_CALLED_ELSEWHERE = {
    **dict.fromkeys(("doctor", "fsck", "repair"), "check"),
    "verify": "check --remote",
    "settle": "resolve",
    **dict.fromkeys(("push", "upload", "replay"), "sync"),
    **dict.fromkeys(("log", "history"), "audit"),
    **dict.fromkeys(("list", "ls"), "runs"),
    "diff": "compare",
    "chart": "plot",
    **dict.fromkeys(("download", "artifacts", "fetch"), "get"),
}
"""Map names that other tools and older versions use to our command."""


_OPTIONS_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("--filter", "--query", "--search"), "--where"),
    **dict.fromkeys(("--order-by", "--sort-by", "--order"), "--sort"),
    **dict.fromkeys(("--out", "--out-file", "--file", "--dest", "--path"), "--output"),
    **dict.fromkeys(("--overwrite", "--clobber"), "--force"),
    **dict.fromkeys(("--max", "--top", "--head"), "--limit"),
    **dict.fromkeys(("--run", "--run-name"), "--name"),
}
"""Map options of other tools to ours."""


class LazyGroup(click.Group):
    """Import commands on use, and turn exceptions into messages and exit codes."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List the commands in the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its command."""
        if cmd_name not in COMMANDS:
            return None
        # "import" is no name of a module.
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f"journaltrack.cli.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; suggest a similar command for an unknown one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            meant = (
                [_CALLED_ELSEWHERE[name]]
                if name in _CALLED_ELSEWHERE
                else patterns.near(name, list(COMMANDS))
            )
            hint = f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
            raise click.UsageError(f"No such command {clean(name)!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; note ``--json``, so that errors are JSON too."""
        ctx.meta[JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the short help without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes, folded to the terminal's width."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code.value:>3}", code.meaning) for code in ExitCode])

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - click's
        """Run as click does, with standard streams that exist."""
        with_streams()
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's
        """Make the context as click does; handle errors of printing the help."""
        try:
            return super().make_context(*args, **options)
        except OSError as error:
            raise click.exceptions.Exit(told_unheard(unheard(sys.stdout, error))) from error
        except click.ClickException as error:
            raise _refused(error, as_json=False) from error

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command and exit with the code that it returns."""
        configure_logging(ctx.meta.get(VERBOSE, 0))
        try:
            for unknown in unknown_variables():
                problem("warning", unknown.text, unknown.hint)
            result = super().invoke(ctx)
        except click.ClickException as error:
            raise _refused(error, as_json=bool(ctx.meta.get(JSON))) from error
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            result = ExitCode.INTERRUPTED
            _tell_as_json(ctx, error, result)
        except UnheardError as error:
            result = told_unheard(error)
        except Exception as error:  # noqa: BLE001 - told below, with what it means
            # Click failed to write the help of a command.
            if isinstance(error, OSError) and is_of_click(error):
                ctx.exit(int(told_unheard(unheard(sys.stdout, error))))
            result = exit_code_of(error)
            _tell_as_json(ctx, error, result)
            report_error(error, verbose=bool(ctx.meta.get(VERBOSE)))
        if isinstance(result, ExitCode):
            ctx.exit(int(result))
        return result


def _tell_as_json(ctx: click.Context, error: BaseException, code: ExitCode) -> None:
    """Print an error on stdout, if the command was asked for JSON."""
    if ctx.meta.get(JSON):
        # One line: `audit entries --json` may have printed lines before it.
        print_json_line(error_json(error, code))


def _unknown_option(error: click.NoSuchOption, ctx: click.Context) -> click.NoSuchOption:
    """Return the error of an unknown option, with what may have been meant."""
    name = error.option_name
    known = [each for param in ctx.command.params for each in param.opts]
    elsewhere = [each for each in (_OPTIONS_ELSEWHERE.get(name),) if each in known]
    meant = elsewhere or error.possibilities or patterns.near(name, known)
    # click keeps only those of its possibilities that are spelled like it.
    hint = f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return click.NoSuchOption(name, f"No such option {clean(name)!r}.{hint}", ctx=ctx)


def _refused(error: click.ClickException, *, as_json: bool) -> click.exceptions.Exit:
    """Report wrong usage and return the exit.

    If stderr can't be written, the exit code tells.
    """
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        error = _unknown_option(error, error.ctx)
    try:
        if as_json:
            print_json_line(
                {
                    "error": {"type": "UsageError", "message": error.format_message(), "hint": ""},
                    "exit_code": error.exit_code,
                }
            )
        error.show()
    except OSError as lost:
        unheard(sys.stderr, lost)
    return click.exceptions.Exit(error.exit_code)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="journaltrack")
@verbose_option
def main() -> None:
    """Record experiments offline, deliver them to SageMaker, and prove what arrived.

    A JOURNAL is the folder that a training script wrote. Without one, commands use
    JOURNALTRACK_JOURNAL, or "journal" in JOURNALTRACK_HOME, or "journal" in your data folder.

    \b
    Example:
      journaltrack status                  show what is pending
      journaltrack sync                    send it
      journaltrack audit                   show what arrived and what did not
    """  # noqa: D301 - click wants the backspace itself
