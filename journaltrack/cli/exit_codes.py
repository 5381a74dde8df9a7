"""Define the exit codes of every command, choose the one of an error, and report the error."""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable

from journaltrack import errors
from journaltrack.cli.output import UnheardError, clean, problem, say
from journaltrack.util.text import without_secrets


class ExitCode(enum.IntEnum):
    """Say how a command ended. Stable: scripts depend on the numbers.

    If several apply, ``worst`` picks the one to return.
    """

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    PENDING = 3
    PROBLEMS = 4
    HALTED = 5
    UNREACHABLE = 6
    LEASE_HELD = 7
    JOURNAL = 8
    OUTPUT = 9
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """Return the meaning in one line, for the help."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "all well; after sync and audit: everything is delivered",
    ExitCode.UNEXPECTED: "an error in journaltrack itself (-v shows the traceback)",
    ExitCode.USAGE: "wrong usage",
    ExitCode.PENDING: "not everything is delivered: entries are pending or held",
    ExitCode.PROBLEMS: "entries are quarantined or in doubt; check: problems or differences; "
    "import: unreadable parts",
    ExitCode.HALTED: "stopped by credentials, permission or region; nothing is lost",
    ExitCode.UNREACHABLE: "AWS can't be reached, or the deadline expired",
    ExitCode.LEASE_HELD: "another process holds the journal's lease",
    ExitCode.JOURNAL: "the journal is missing, too new, damaged, altered, read-only, or behind "
    "another copy",
    ExitCode.OUTPUT: "the output can't be written, for example on a full disk",
    ExitCode.INTERRUPTED: "ended by Ctrl-C before everything was delivered",
    ExitCode.BROKEN_PIPE: "the reader of the output is gone, as with head",
    ExitCode.TERMINATED: "ended by SIGTERM before everything was delivered",
}
_SEVERITY = (
    ExitCode.OK,
    ExitCode.BROKEN_PIPE,
    ExitCode.OUTPUT,
    ExitCode.PENDING,
    ExitCode.PROBLEMS,
    ExitCode.UNREACHABLE,
    ExitCode.HALTED,
    ExitCode.LEASE_HELD,
    ExitCode.JOURNAL,
    ExitCode.USAGE,
    ExitCode.UNEXPECTED,
    ExitCode.TERMINATED,
    ExitCode.INTERRUPTED,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the worst of several codes; ``OK`` for none."""
    return max(codes, key=_SEVERITY.index, default=ExitCode.OK)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an exception."""
    if isinstance(error, (errors.LeaseHeldError, errors.LeaseLostError)):
        return ExitCode.LEASE_HELD
    if isinstance(error, errors.JournalError):
        return ExitCode.JOURNAL
    if isinstance(error, errors.RemoteError):
        return (
            ExitCode.HALTED
            if error.kind is errors.ErrorKind.HALT and not error.unreachable
            else ExitCode.UNREACHABLE
        )
    if isinstance(error, errors.JournaltrackError):
        return ExitCode.USAGE
    return ExitCode.JOURNAL if isinstance(error, OSError) else ExitCode.UNEXPECTED


def told_unheard(error: UnheardError) -> ExitCode:
    """Report that the output can't be written, and return the exit code.

    A reader that has closed the pipe has seen enough: nothing is reported then.
    """
    if error.reason.errno == errno.EPIPE:
        return ExitCode.BROKEN_PIPE
    problem(
        "error",
        f"the output can't be written: {error.reason.strerror}",
        errors.os_hint(error.reason),
    )
    return ExitCode.OUTPUT


def report_error(error: BaseException, *, verbose: bool, told: set[str] | None = None) -> None:
    """Print an exception's message and hint on stderr; with ``-v`` also the traceback.

    Args:
        error: The exception.
        verbose: Whether to print the traceback.
        told: Hints of failed requests that were printed, and are not repeated: many journals meet
            one outage. Gets this one.
    """
    if verbose:
        import traceback  # noqa: PLC0415

        for line in "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        ).splitlines():
            say(clean(without_secrets(line)), err=True)
    if isinstance(error, errors.RemoteError) and told is not None:
        if error.hint in told:
            problem("error", error.message)
            return
        told.add(error.hint)
    if isinstance(error, errors.JournaltrackError):
        problem("error", error.message, error.hint)
        # Wrong usage needs no page: its hint says all.
        if exit_code_of(error) is not ExitCode.USAGE:
            say(errors.more(error), err=True)
    elif isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename is not None else ""
        problem(
            "error",
            f"{what}{error.strerror or error}; nothing already written is lost",
            errors.os_hint(error),
        )
    else:
        hint = (
            ""
            if verbose
            else "this is a bug in journaltrack; run it again with -v and report the traceback"
        )
        problem("error", f"unexpected: {type(error).__name__}: {without_secrets(str(error))}", hint)
