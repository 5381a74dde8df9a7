"""What the commands share: their options, which journals they are about, and exit codes of errors.

Imports nothing heavy: shell completion imports every command's module.
"""

from __future__ import annotations

import datetime as dt
import errno
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from journaltrack import errors
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.output import UnheardError, clean, problem, say
from journaltrack.util.text import without_secrets

_Command = TypeVar("_Command", bound=Callable[..., Any])

JSON = "journaltrack.json"
VERBOSE = "journaltrack.verbose"
_UNIT_S = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class When(click.ParamType[int]):
    """A point in time, as nanoseconds since the epoch: ``2h`` (ago), ``3d``, ``2026-11-03``, ``2026-11-03T12:00+01:00``."""

    name = "when"

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's
        """See ``click.ParamType.convert``."""
        if isinstance(value, int):
            return value
        ago = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*(s|m|min|h|d|w)", value.strip())
        if ago:
            return self._clock_ns() - int(float(ago[1]) * _UNIT_S[ago[2]] * 1e9)
        try:
            # Python 3.10 knows no "Z"; a time without an offset is local time.
            return int(dt.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value.strip())).astimezone().timestamp() * 1e9)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{clean(value)} is no time: say 2h, 3d, 2026-11-03 or 2026-11-03T12:00+01:00", param, ctx)


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON] = value
    return value


def _set_verbose(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    ctx.meta[VERBOSE] = max(value, ctx.meta.get(VERBOSE, 0))
    if value:
        configure_logging(ctx.meta[VERBOSE])


def verbose_option(command: _Command) -> _Command:
    """``-v``: tracebacks and the log."""
    return click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        is_eager=True,
        callback=_set_verbose,
        help="Log to stderr, with tracebacks; -vv: all of it.",
    )(command)


def common_options(command: _Command) -> _Command:
    """``--json`` and ``-v``, which every command has."""
    as_json = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_set_json, help="Print one JSON document and nothing else on stdout."
    )
    return as_json(verbose_option(command))


def component_option(command: _Command) -> _Command:
    """``--component GLOB``."""
    return click.option(
        "--component",
        metavar="GLOB",
        shell_complete=complete_component,
        help="Only components whose name fits the pattern, such as 'digits-*' (case does not matter).",
    )(command)


def config_option(command: _Command) -> _Command:
    """``--config FILE``."""
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The configuration (TOML) to use; `journaltrack config` shows what is in force.",
    )(command)


def connection_options(command: _Command) -> _Command:
    """``--config``, ``--profile``, ``--region``, ``--endpoint-url``: how to reach AWS."""
    endpoint_url = click.option("--endpoint-url", metavar="URL", help="One endpoint for all services, instead of AWS's.")
    region = click.option("--region", metavar="NAME", help="AWS region.")
    profile = click.option("--profile", metavar="NAME", help="Profile of the AWS configuration.")
    return config_option(profile(region(endpoint_url(command))))


def many_journals(command: _Command) -> _Command:
    """``[JOURNAL]...`` or ``-j JOURNAL`` several times."""
    argument = click.argument("journals", metavar="[JOURNAL]...", nargs=-1, type=click.Path())
    option = click.option(
        "-j", "--journal", "more_journals", metavar="JOURNAL", multiple=True, type=click.Path(), help="The same as the argument."
    )
    return argument(option(command))


def one_journal(command: _Command) -> _Command:
    """``[JOURNAL]`` or ``-j JOURNAL``."""
    argument = click.argument("journal", metavar="[JOURNAL]", required=False, type=click.Path())
    option = click.option("-j", "--journal", "other_journal", metavar="JOURNAL", type=click.Path(), help="The same as the argument.")
    return argument(option(command))


def chosen(*named: str | None) -> str | None:
    """The one journal that was named, in whichever way; None for the default.

    Raises:
        click.UsageError: Two were named.
    """
    given = [name for name in named if name is not None]
    if len(given) > 1:
        raise click.UsageError(f"this command is about one journal, and two are named: {' and '.join(map(clean, given))}")
    return given[0] if given else None


def path_of(journal: str | None) -> str:
    """The journal's folder as messages and JSON name it."""
    from journaltrack.util import paths  # noqa: PLC0415

    return str(paths.expanded(journal if journal is not None else paths.default_journal()).absolute())


# Of the system's errors those that say themselves what is wrong, wherever they come from.
def exit_code_of(error: BaseException) -> ExitCode:
    """What an exception means to the caller of a command."""
    if isinstance(error, (errors.LeaseHeldError, errors.LeaseLostError)):
        return ExitCode.LEASE_HELD
    if isinstance(error, errors.JournalError):
        return ExitCode.JOURNAL
    if isinstance(error, errors.RemoteError):
        return ExitCode.HALTED if error.kind is errors.ErrorKind.HALT and not error.unreachable else ExitCode.UNREACHABLE
    if isinstance(error, errors.JournaltrackError):
        return ExitCode.USAGE
    return ExitCode.JOURNAL if isinstance(error, OSError) else ExitCode.UNEXPECTED


def told_unheard(error: UnheardError) -> ExitCode:
    """What it means that the command's output can't be written; on stderr, unless its reader has seen enough."""
    if error.reason.errno == errno.EPIPE:
        return ExitCode.BROKEN_PIPE
    problem("error", f"what the command prints can't be written: {error.reason.strerror}", errors.os_hint(error.reason))
    return ExitCode.OUTPUT


def report_error(error: BaseException, *, verbose: bool) -> None:
    """An exception on stderr: message and hint, the traceback with ``-v`` alone."""
    if verbose:
        import traceback  # noqa: PLC0415

        for line in "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines():
            say(clean(without_secrets(line)), err=True)
    if isinstance(error, errors.JournaltrackError):
        problem("error", error.message, error.hint)
    elif isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename is not None else ""
        problem("error", f"{what}{error.strerror or error}; nothing already written is lost", errors.os_hint(error))
    else:
        hint = "" if verbose else "this is a bug in journaltrack; run it again with -v and report the traceback"
        problem("error", f"unexpected: {type(error).__name__}: {without_secrets(str(error))}", hint)


class _Printer(logging.Handler):
    """Log records on stderr, escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line per record."""
        try:
            text = f"{record.levelname.lower()}: {clean(without_secrets(record.getMessage()))}"
            click.echo(text.encode(errors="replace").decode(), file=sys.stderr)
        except Exception:  # noqa: BLE001 - logging must not end a sync
            self.handleError(record)


class _OnceOnly(logging.Filter):
    """Without ``-v``: our own warnings, but not those that the summary of a sync repeats."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.startswith("journaltrack") and not record.name.startswith("journaltrack.replay.reconciler")


_printer = _Printer()
_once_only = _OnceOnly()


def configure_logging(verbose: int = 0) -> None:
    """Log through one escaping handler: the log quotes journals and remotes, and Python's last resort prints them raw."""
    root = logging.getLogger()
    root.addHandler(_printer)
    _printer.removeFilter(_once_only)
    if not verbose:
        _printer.addFilter(_once_only)
    _printer.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    logging.getLogger("journaltrack").setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])


def complete_component(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of components for the shell, from the journal on the command line so far."""
    from journaltrack.journal.journal import Journal  # noqa: PLC0415

    named: Sequence[str | None] = [ctx.params.get(key) for key in ("journal", "other_journal")]
    named = [*named, *(ctx.params.get("journals") or ()), *(ctx.params.get("more_journals") or ())]
    try:
        journal = Journal.open(next((n for n in named if n), None), create=False, read_only=True)
        try:
            names = [str(row.name) for row in journal.components()]
        finally:
            journal.close()
    except Exception:  # noqa: BLE001 - the shell's prompt is no place for errors
        return []
    return [name for name in names if name.isprintable() and name.lower().startswith(incomplete.lower())]


def named(journals: Sequence[str], more: Sequence[str]) -> list[str | None]:
    """The journals on the command line, each once; the default one (None) when there are none."""
    return list(dict.fromkeys([*journals, *more])) or [None]


def with_folders(journals: Sequence[str | None]) -> list[str | None]:
    """The same with each folder of journals replaced by those in it."""
    from journaltrack.util import paths  # noqa: PLC0415
    from journaltrack.watch.folders import journals_in  # noqa: PLC0415

    found: list[str | None] = []
    for journal in journals:
        inside = [] if journal is None else [str(path) for path in journals_in(paths.expanded(journal))]
        found += inside or [journal]
    return list(dict.fromkeys(found))


def is_verbose() -> bool:
    """Whether ``-v`` was given."""
    return bool(click.get_current_context().meta.get(VERBOSE))
