"""Share options, logging and signal handling among commands.

Invariant: imports nothing heavy, since shell completion imports every command's module.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.output import clean, write
from journaltrack.util import patterns
from journaltrack.util.text import epoch_s, without_secrets

if TYPE_CHECKING:
    from types import FrameType

    from journaltrack.app.connection import Connection
    from journaltrack.util.config import Configuration
    from journaltrack.util.deadline import Deadline

_Command = TypeVar("_Command", bound=Callable[..., Any])

JSON = f"{__name__}.json"
VERBOSE = f"{__name__}.verbose"
# How long an interrupted sync waits for answers: the longest silence that a request allows.
_IN_FLIGHT_S: Final = 30.0
_UNIT_S = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Whole(click.IntRange):
    """Parse a whole number within bounds."""

    name = "whole number"


class Number(click.FloatRange):
    """Parse a number within bounds."""

    name = "number"


class When(click.ParamType[int]):
    """Parse a point in time into nanoseconds since the epoch.

    Takes ``2h`` (ago), ``3d``, ``2026-11-03`` and ``2026-11-03T12:00+01:00``.
    """

    name = "when"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Convert as click does."""
        if isinstance(value, int):
            return value
        ago = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*(s|m|min|h|d|w)", value.strip())
        if ago:
            return time.time_ns() - int(float(ago[1]) * _UNIT_S[ago[2]] * 1e9)
        seconds = epoch_s(value)
        if seconds is None:
            self.fail(
                f"{clean(value)} is not a time: use 2h, 3d, 2026-11-03 or 2026-11-03T12:00+01:00",
                param,
                ctx,
            )
        return int(seconds * 1e9)


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON] = value
    return value


def _set_verbose(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    ctx.meta[VERBOSE] = max(value, ctx.meta.get(VERBOSE, 0))
    if value:
        configure_logging(ctx.meta[VERBOSE])


def verbose_option(command: _Command) -> _Command:
    """Add ``-v``, for the log and tracebacks."""
    return click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        is_eager=True,
        callback=_set_verbose,
        help="Log to stderr, with tracebacks; -vv for debug messages.",
    )(command)


def options_with_json(help_of_json: str) -> Callable[[_Command], _Command]:
    """Return the decorator that adds ``--json`` and ``-v``, which every command has."""

    def add(command: _Command) -> _Command:
        """Add the options."""
        as_json = click.option(
            "--json",
            "as_json",
            is_flag=True,
            is_eager=True,
            callback=_set_json,
            help=help_of_json,
        )
        return as_json(verbose_option(command))

    return add


common_options = options_with_json("Print one JSON document and nothing else on stdout.")
options_with_json_lines = options_with_json(
    "Print one JSON object per line and nothing else on stdout."
)


def component_option(command: _Command) -> _Command:
    """Add ``--component GLOB``."""
    return click.option(
        "--component",
        metavar="GLOB",
        shell_complete=complete_component,
        help="Only components whose name fits the pattern, such as 'digits-*' (case does "
        "not matter).",
    )(command)


def config_option(command: _Command) -> _Command:
    """Add ``--config FILE``."""
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The configuration (TOML) to use; `journaltrack config` shows what is in force.",
    )(command)


def connection_options(command: _Command) -> _Command:
    """Add the options that say how to reach AWS."""
    endpoint_url = click.option(
        "--endpoint-url", metavar="URL", help="One endpoint for all services, instead of AWS's."
    )
    region = click.option("--region", metavar="NAME", help="AWS region.")
    profile = click.option("--profile", metavar="NAME", help="Profile of the AWS configuration.")
    return config_option(profile(region(endpoint_url(command))))


def reach(
    config_file: str | None, given: Mapping[str, object], unless_configured: float = 0.0
) -> tuple[Configuration, Connection]:
    """Return the configuration with the given options, and the connection that it describes.

    Args:
        config_file: The file to read; None: the usual one.
        given: Values by key, which override the file's; None as a value: not given.
        unless_configured: The limit of requests per second if none is configured.
    """
    from journaltrack.app.connection import Connection  # noqa: PLC0415
    from journaltrack.remotes.rate_limit import RateLimit  # noqa: PLC0415
    from journaltrack.util import config  # noqa: PLC0415 - shell completion imports this module

    known = config.load(config_file, overrides=given).configuration
    return known, Connection.configured(known, RateLimit(known.requests_per_s or unless_configured))


def refuse_without(needed: str, given: Mapping[str, object]) -> None:
    """Refuse options that have no effect without another one that was not given.

    Args:
        needed: The other option.
        given: Values of the options by name; the default, or a value that is false: not given.
    """
    names = [name for name, value in given.items() if value]
    if names:
        verb = "needs" if len(names) == 1 else "need"
        raise click.UsageError(f"{', '.join(names)} {verb} {needed}")


def path_of(journal: str | None) -> str:
    """Return the journal's folder as messages and JSON name it, or a bundle's file or address."""
    from journaltrack.util import paths  # noqa: PLC0415

    if journal is not None and journal.startswith(paths.S3):
        return journal
    return str(paths.journal_folder(journal))


def service_of(journal: str) -> str:
    """Return whose deliveries a journal has, for people: of a copy its destination."""
    from journaltrack.journal import destinations  # noqa: PLC0415 - shell completion imports this
    from journaltrack.util import config  # noqa: PLC0415

    name = destinations.name_of(journal)
    return "SageMaker" if name == config.SAGEMAKER else name


class _Printer(logging.Handler):
    """Print log records on stderr, escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line per record."""
        try:
            text = f"{record.levelname.lower()}: {clean(without_secrets(record.getMessage()))}"
            write(text, err=True)
        except Exception:  # noqa: BLE001 - logging must not end a sync
            self.handleError(record)


class _OnceOnly(logging.Filter):
    """Let our own warnings pass, except those that a sync's summary repeats.

    This is the filter without ``-v``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print a record."""
        return record.name.startswith("journaltrack") and not record.name.startswith(
            "journaltrack.replay.reconciler"
        )


_printer = _Printer()
_once_only = _OnceOnly()


def configure_logging(verbose: int = 0) -> None:
    """Log through one handler that escapes.

    The log quotes journals and remotes, and Python's last-resort handler prints them raw.
    """
    root = logging.getLogger()
    root.addHandler(_printer)
    _printer.removeFilter(_once_only)
    if not verbose:
        _printer.addFilter(_once_only)
    _printer.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    logging.getLogger("journaltrack").setLevel(
        (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    )


@contextlib.contextmanager
def usable(file: str | None, use: str, effect: str = "") -> Iterator[None]:
    """Report a file that can't be used as wrong usage.

    Args:
        file: The file, as it was named; None: errors are not about a file of the caller's.
        use: "read" or "written".
        effect: What that means for the data, after a semicolon.
    """
    try:
        yield
    except OSError as error:
        if file is None:
            raise
        raise click.UsageError(
            f"{clean(Path(file))} can't be {use}: {error.strerror}{effect}"
        ) from error


def complete_component(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete component names, from the journal on the command line so far."""
    return [
        name
        for name in _components(ctx)
        if name.isprintable() and name.lower().startswith(incomplete.lower())
    ]


def _components(ctx: click.Context) -> list[str]:
    """Return the components of the journal on the command line so far; none if it can't be read."""
    from journaltrack.journal.journal import Journal  # noqa: PLC0415

    named = [*(ctx.params.get("arguments") or ()), *(ctx.params.get("options") or ())]
    try:
        journal = Journal.open(named[0] if named else None, create=False, read_only=True)
        try:
            return [str(row.name) for row in journal.runs()]
        finally:
            journal.close()
    # Neither the shell's prompt nor a message about another mistake is a place for errors.
    except Exception:  # noqa: BLE001
        return []


class _Component(click.Argument):
    """Take the name of a component; if it is missing, say which names there are."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401 - click's
        """Process as click does; name the journal's components in the error."""
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter as error:
            names = _components(ctx)
            if not names:
                raise
            listed = f"The journal has: {clean(patterns.some(names))}"
            raise click.MissingParameter(listed, ctx, self) from error


component_argument = click.argument("component", cls=_Component, shell_complete=complete_component)
"""Add the argument ``COMPONENT``, for commands about one component."""


def is_verbose() -> bool:
    """Return whether ``-v`` was given."""
    return bool(click.get_current_context().meta.get(VERBOSE))


@dataclass(slots=True)
class Stoppable:
    """Hold a run's deadline, and the signal that cut it short (0 for none)."""

    deadline: Deadline
    signal: int = 0

    def code(self, code: ExitCode) -> ExitCode:
        """Return the exit code of a run that a signal may have ended early."""
        if not self.signal or code is ExitCode.OK:
            return code
        return ExitCode.INTERRUPTED if self.signal == signal.SIGINT else ExitCode.TERMINATED


@contextlib.contextmanager
def stopping(run: Stoppable) -> Iterator[None]:
    """Cut the deadline short at the first SIGINT or SIGTERM.

    The handlers are then restored: a second signal has its usual effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: FrameType | None) -> None:
        """Cut the deadline short, and give the signals their usual effect again."""
        run.signal = number
        run.deadline.cancel(grace_s=_IN_FLIGHT_S)
        for each, handler in before.items():
            signal.signal(each, handler)
        # ``print`` is not safe in a signal handler.
        os.write(2, b"\nstopping after the requests in flight; repeat to stop within seconds\n")

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
