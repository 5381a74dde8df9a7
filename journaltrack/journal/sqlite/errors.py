"""Turn SQLite's errors into ours: what they mean for the data, what to do.

This module alone reads SQLite's error codes and messages (https://sqlite.org/rescode.html).
Must not know what is stored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.errors import (
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalLockedError,
    JournalNotFoundError,
    JournalReadOnlyError,
    JournalWriteError,
    NotAJournalError,
)

PATH_BYTES_MAX: Final = 504
"""SQLite's limit for a database's path, in bytes, with all links resolved.

MAX_PATHNAME (os_unix.c) less 8 for suffixes.
"""
OUT_OF_DESCRIPTORS: Final = frozenset([errno.EMFILE, errno.ENFILE])
_DESCRIPTORS: Final = 6
"""File descriptors of one open journal: database, log, shared memory, our locks, one to spare."""

REFUSED: Final = (sqlite3.Error, OverflowError, UnicodeError, MemoryError)
"""What the driver raises. Any other exception from a statement comes from a signal handler."""


def is_about_values(error: BaseException) -> bool:
    """Return whether a statement failed for its values, so that it always will."""
    return isinstance(error, (OverflowError, UnicodeError, sqlite3.InterfaceError)) or (
        isinstance(error, sqlite3.ProgrammingError) and "bind" in str(error)
    )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file at ``path`` into ours, with a hint."""
    try:
        yield
    except OSError as error:
        # Without errno it comes from a signal handler (a time-out is an OSError). Others come from
        # what we do beside SQLite: looking at the folder, syncing names.
        if error.errno is None:
            raise
        code = errno.errorcode.get(error.errno, "")
        raise unusable(path) or JournalWriteError(
            f"the journal at {path.parent} can't be reached: {error.strerror or error} ({code})",
            hint="check the folder's permissions and file system; recorded entries are not lost",
        ) from error
    except UnicodeDecodeError as error:
        # SQLite quotes the damaged bytes in its message.
        raise JournalCorruptError(
            f"the journal at {path.parent} is damaged: its schema is not text",
            hint="copy the whole folder, then `journaltrack check --repair`",
        ) from error
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        # A bug of ours: no hint would help.
        raise
    except sqlite3.IntegrityError as error:
        raise JournalCorruptError(
            f"the journal at {path.parent} contradicts itself: {error}; this was not recorded",
            hint="copy the whole folder before anything else; then `journaltrack check` says more",
        ) from error
    except sqlite3.Error as error:
        raise _translate(error, path) from error


def _translate(error: sqlite3.Error, path: Path) -> JournalError:
    text = str(error)
    name = getattr(error, "sqlite_errorname", "") or ""  # Python 3.11 and later
    if is_lock(error):
        return JournalLockedError(
            f"the journal at {path.parent} is locked by another process: {text}",
            hint="find that process (fuser, lsof); if this disk is on a network, use a local one",
        )
    if "unable to open" in text:
        own = unusable(path)
        if own is not None:
            return own
    if "full" in text:
        return JournalFullError(
            f"no space is left for the journal at {path.parent}",
            hint="free space on that device; recorded entries are not lost",
        )
    if "readonly" in text or "read-only" in text:
        return JournalReadOnlyError(
            f"the journal at {path.parent} can't be written: {text}",
            hint="make it writable, or copy it to a folder that is",
        )
    if "not a database" in text:
        return NotAJournalError(
            f"{path} is not a journal: {text}", hint="name the folder of a journal"
        )
    if "malformed" in text or "corrupt" in text or name.startswith("SQLITE_CORRUPT"):
        return JournalCorruptError(
            f"the journal at {path.parent} is damaged: {text}",
            hint="copy the whole folder; then `journaltrack check --repair` restores what it can",
        )
    reason = _reason(path)
    if "unable to open" in text:
        if isinstance(reason, (FileNotFoundError, NotADirectoryError)):
            return JournalNotFoundError(
                f"there is no journal at {path.parent}",
                hint="check the path, or set JOURNALTRACK_JOURNAL",
            )
        return JournalReadOnlyError(
            f"the journal at {path.parent} can't be opened: {_worded(text, reason)}",
            hint="check owner and permissions of the folder, or copy it to one that is writable",
        )
    return JournalWriteError(
        f"the journal at {path.parent} failed: {_worded(text, reason)}",
        hint="check the disk (dmesg); recorded entries are not lost",
    )


def _reason(path: Path) -> OSError | None:
    """Return why the operating system refuses to look at the file.

    None if it does not refuse. SQLite's messages hide this reason.
    """
    try:
        # This opens nothing: closing a descriptor would drop this process's locks.
        path.stat()
    except OSError as error:
        return error
    return None


def _worded(text: str, reason: OSError | None) -> str:
    return (
        text
        if reason is None
        else f"{text} ({errno.errorcode.get(reason.errno or 0, reason.errno)}: {reason.strerror})"
    )


def unusable(path: Path) -> JournalError | None:
    """Return an error if this process can't open files, or no file of that name.

    Returns:
        An error about file descriptors or the path's length; None if neither is the reason.
    """
    opened: list[int] = []
    try:
        while len(opened) < _DESCRIPTORS:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in OUT_OF_DESCRIPTORS:
            return JournalWriteError(
                f"the journal at {path.parent} can't be opened: {error.strerror}",
                hint="close files, or raise the limit (ulimit -n); recorded entries are not lost",
            )
    finally:
        for descriptor in opened:
            os.close(descriptor)
    size = len(os.fsencode(os.path.realpath(path)))
    if size > PATH_BYTES_MAX:
        return JournalNotFoundError(
            f"there can be no journal at {path.parent}: the path of {path.name} has {size} bytes, "
            f"and SQLite opens {PATH_BYTES_MAX} at most",
            hint="name a folder with a shorter path",
        )
    return None


def is_lock(error: sqlite3.Error) -> bool:
    """Return whether another connection's lock caused the error."""
    name = getattr(error, "sqlite_errorname", "") or ""  # Python 3.11 and later
    return "locked" in str(error) or "busy" in str(error) or name.startswith("SQLITE_BUSY")
