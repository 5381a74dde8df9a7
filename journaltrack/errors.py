"""Define every exception that journaltrack raises, and what each means for the data.

::

    JournaltrackError                     base class; carries a ``hint``: what to do next
    ├── InvalidInputError (ValueError)    an invalid argument; nothing was journaled
    │   ├── ArtifactError                 the file is missing, no file, or changed during the copy
    │   ├── ComponentNotFoundError        ``Tracker.load``: no such trial component
    │   ├── NothingMatchesError           a filter matches nothing in the journal
    │   └── UndeliverableError            ``strict=True``: AWS could never accept the value
    ├── MissingExtraError (ImportError)   an optional package is missing; nothing was journaled
    ├── InvalidTypeError (TypeError)      an argument of the wrong type; nothing was journaled
    ├── RunContextError (RuntimeError)    a ``Run`` outside of its block; nothing was journaled
    ├── JournalError                      the journal itself
    │   ├── JournalNotFoundError          no such folder, or no ``journal.db`` in it
    │   ├── NotAJournalError              something else is there; it was not changed
    │   ├── JournalOutdatedError          an older version wrote it; open for reading only
    │   ├── JournalTooNewError            a newer version wrote it; nothing was changed
    │   ├── JournalCorruptError           SQLite reports a damaged file; nothing was changed
    │   ├── JournalAlteredError           foreign schema or records; nothing was changed
    │   ├── EvidenceError                 another copy's evidence contradicts; nothing was imported
    │   ├── JournalWriteError             the journal takes no entries (``unwritten`` wait)
    │   │   ├── JournalLockedError        another process held the lock for too long
    │   │   ├── JournalFullError          no space left on the device
    │   │   └── JournalReadOnlyError      folder, file or file system is read-only
    │   ├── JournalBehindError            another copy was delivered further; nothing was sent
    │   ├── BundleError                   can't write or read a bundle; the journal is unchanged
    │   │   ├── BundleSpoolError          the spool's blobs for a bundle are missing or damaged
    │   │   ├── BundleDamagedError        the bundle is cut short, altered, or none
    │   │   └── BundleTooNewError         a newer version wrote the bundle
    │   ├── MirrorError                   a mirror can't be read or written; no journal was changed
    │   ├── LeaseHeldError                another process holds the journal's lease
    │   └── LeaseLostError                another process took our lease; the pass stopped
    └── RemoteError                       a failed request, classified; see ``ErrorKind``
        ├── NotSentError                  held back before its first byte: the pass was over
        ├── UnexpectedError               one request failed in an unknown way
        ├── CopyAheadError                another copy of this journal created the component
        ├── AlreadyExistsError            create: the name is taken
        └── ComponentMissingError         update or metrics: the component does not exist

Must not know SQLite, boto3 or the command line.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from typing import Any, Final, Literal

from journaltrack.util.text import without_secrets

_OS_HINTS: Final = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        "check owner and permissions (ls -ln), or run it as the journal's owner",
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on that device"),
    **dict.fromkeys(
        (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV),
        "the file system went away: mount it again",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "too many files are open: raise the limit (ulimit -n)"
    ),
    errno.ENAMETOOLONG: "name a folder with a shorter path",
    errno.EIO: "the disk fails: see dmesg, and copy the folder to another one",
    errno.EROFS: "the file system is read-only: mount it writable, or copy the folder",
}


def printable(text: str) -> str:
    """Escape a text so that it is safe on one line of a terminal or a log.

    Escapes everything unprintable: control characters (with ESC), line breaks, bidirectional
    overrides, zero-width characters, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def described(error: BaseException) -> str:
    """Return a foreign exception's type and words."""
    # A plug-in's exception may raise anything instead of telling its words.
    try:
        text = str(error)
    except Exception:  # noqa: BLE001
        text = ""
    name = type(error).__name__
    return printable(f"{name}: {text}" if text else name)


def os_hint(error: OSError) -> str:
    """Return what to do about a file that can't be used."""
    return _OS_HINTS.get(error.errno or 0, "check this file with the system (ls -l, mount, dmesg)")


class JournaltrackError(Exception):
    """Base of all errors of this package.

    Errors quote journals and remotes, and whoever catches them prints them. So this class removes
    secrets from the message (``util.text``), and makes it ``printable``.

    Args:
        message: What happened, and what it means for the data.
        hint: What to do about it, in one or two sentences. Empty if there is nothing to do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = printable(without_secrets(message))
        self.hint = printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        """Return the message and, on lines of their own, the hint and the topic to read."""
        lines = [self.message, *([f"hint: {self.hint}"] if self.hint else []), more(self)]
        return "\n".join(lines)


class InvalidInputError(JournaltrackError, ValueError):
    """An argument is invalid. Nothing was journaled."""


class ArtifactError(InvalidInputError):
    """The file to log is missing, is not a regular file, or kept changing while it was copied."""


class ComponentNotFoundError(InvalidInputError):
    """SageMaker answered that the trial component to load does not exist."""


class NothingMatchesError(InvalidInputError):
    """A filter matches nothing in the journal. Nothing was read, sent or changed."""


class UndeliverableError(InvalidInputError):
    """With ``strict=True``: AWS could never accept this value, so it was not journaled."""


class MissingExtraError(JournaltrackError, ImportError):
    """A call needs a package that an extra of journaltrack installs. Nothing was journaled."""


class InvalidTypeError(JournaltrackError, TypeError):
    """An argument has the wrong type. Nothing was journaled."""


class RunContextError(JournaltrackError, RuntimeError):
    """A ``Run`` is used outside of its ``with`` block, or nested, or there is none to load."""


class JournalError(JournaltrackError):
    """Base of errors about a journal."""


class JournalNotFoundError(JournalError):
    """There is no journal at the path."""


class NotAJournalError(JournalError):
    """What is at the path is not a journal. No changes were made."""


class JournalTooNewError(JournalError):
    """A newer journaltrack wrote the journal. No changes were made."""


class JournalOutdatedError(JournalError):
    """The journal has an older schema, and is open for reading only.

    Opening it for writing upgrades it.
    """


class JournalCorruptError(JournalError):
    """SQLite reports the journal's file as damaged. No changes were made."""


class JournalAlteredError(JournalError):
    """No journaltrack makes this journal's schema or records. No changes were made."""


class EvidenceError(JournalError):
    """Receipts or entries of another copy contradict themselves or this copy.

    None of them were imported.
    """


class JournalBehindError(JournalError):
    """Another copy of the journal was delivered further. This copy sent nothing."""


class JournalWriteError(JournalError):
    """The journal takes no entries now.

    Args:
        message: What happened.
        hint: What to do.
        unwritten: Number of entries that wait in memory. They are lost if the process ends before
            they are written.
    """

    def __init__(self, message: str, *, hint: str = "", unwritten: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.unwritten = unwritten


class JournalLockedError(JournalWriteError):
    """Another process held the journal's write lock for longer than the busy time-out."""


class JournalFullError(JournalWriteError):
    """No space is left on the journal's device."""


class JournalReadOnlyError(JournalWriteError):
    """The journal's folder, file or file system can't be written."""


class BundleError(JournalError):
    """A bundle can't be written or read. The journal was not changed."""


class BundleSpoolError(BundleError):
    """Blobs for the bundle are missing from the journal's spool, or damaged.

    Args:
        message: What happened, naming some of the blobs.
        hint: What to do.
        blobs: ``"missing"`` or ``"damaged"`` for each of the blobs, by digest.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        blobs: Mapping[str, Literal["missing", "damaged"]] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.blobs = dict(blobs or {})


class BundleDamagedError(BundleError):
    """A bundle is cut short or altered, or the file is no bundle. Nothing was imported."""


class BundleTooNewError(BundleError):
    """A newer journaltrack wrote the bundle. Nothing was imported."""


class MirrorError(JournalError):
    """A mirror's folder can't be read or written. No journal was changed."""


class LeaseHeldError(JournalError):
    """Another process holds this journal's lease. The message names it."""


class LeaseLostError(JournalError):
    """Another process took over the lease during the pass (after a suspended laptop, say)."""


class ErrorKind(enum.Enum):
    """Say what a remote's failure means. The remote classifies, the reconciler decides."""

    TRANSIENT = "transient"
    """The same request may succeed later. It is retried with backoff, then stays pending."""
    PERMANENT = "permanent"
    """The remote will never accept the request. The entry at fault is isolated and quarantined."""
    HOLD = "hold"
    """This component can't go on until a person acts. It stays pending, the others go on."""
    HALT = "halt"
    """Every request would fail (credentials, region). The pass stops, all stays pending."""


COPY_AHEAD_HINT: Final = (
    "sync the other copy, or bring its receipts here (`journaltrack receipts export` there, "
    "`journaltrack receipts import` here); if it is lost, `journaltrack sync --even-if-behind` "
    "sends what is pending here, also points that are there already"
)
_REPEATABLE_HINT: Final = (
    "perhaps the journal was delivered there from elsewhere (as a bundle, from a mirror), or under "
    "another address or name of that server: `journaltrack status` lists those used here; else "
    "`journaltrack sync --even-if-behind` with this --to sends everything again, and each point "
    "is there once"
)
NOT_ALLOWED: Final = "NotAllowed"
"""The code of a request that the configuration's table ``[allow]`` forbids. Nothing was sent."""
DEADLINE_OVER: Final = "DeadlineOver"
"""The code of a request that did not begin, or was ended, since its time was over."""


class RemoteError(JournaltrackError):
    """A request that the remote refused, or that got no answer.

    Args:
        message: The remote's own words, if any.
        kind: What the failure means, see ``ErrorKind``.
        code: The error code of the remote (``ThrottlingException``) or of the transport
            (``ConnectTimeout``).
        hint: What to do.
        request_id: The remote's id of the request, if it answered.
        maybe_applied: The request may have taken effect although no answer arrived.
        unreachable: The remote did not answer at all (DNS, connection refused, time-out).
        uploads_only: With ``HALT``: only uploads halt (no permission on the bucket). Other streams
            go on.
        everywhere: With ``HALT``: no request of any journal can succeed (credentials, region,
            clock, certificate).
        throttled: With ``TRANSIENT``: the remote asks for fewer requests per second.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        code: str,
        hint: str = "",
        request_id: str | None = None,
        maybe_applied: bool = False,
        unreachable: bool = False,
        uploads_only: bool = False,
        everywhere: bool = False,
        throttled: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.code = code
        self.request_id = request_id
        self.maybe_applied = maybe_applied
        self.unreachable = unreachable
        self.uploads_only = uploads_only
        self.everywhere = everywhere
        self.throttled = throttled

    @property
    def members(self) -> dict[str, Any]:
        """Return what it was made with, without the message."""
        names = (
            *("kind", "code", "hint", "request_id", "maybe_applied"),
            *("unreachable", "uploads_only", "everywhere", "throttled"),
        )
        return {name: getattr(self, name) for name in names}


class NotSentError(RemoteError):
    """The request was held back before its first byte. It certainly had no effect."""

    def __init__(self, message: str = "the time was over before the request was sent") -> None:
        super().__init__(message, kind=ErrorKind.TRANSIENT, code="NotSent")


class UnexpectedError(RemoteError):
    """One request failed in a way that the remote did not classify."""

    def __init__(self, error: BaseException, *, maybe_applied: bool) -> None:
        super().__init__(
            f"a request failed unexpectedly: {type(error).__name__}: {error}",
            kind=ErrorKind.TRANSIENT,
            code=type(error).__name__,
            hint="nothing was lost, sync again; if that fails too, report the output of `-v`",
            maybe_applied=maybe_applied,
        )


class CopyAheadError(RemoteError):
    """Another copy of this journal created the component, as the journal's mark on it shows."""

    def __init__(
        self, component: str, *, request_id: str | None = None, repeatable: bool = False
    ) -> None:
        super().__init__(
            f"another copy of this journal created the component {component}: nothing was sent",
            kind=ErrorKind.HALT,
            code="CopyAhead",
            hint=_REPEATABLE_HINT if repeatable else COPY_AHEAD_HINT,
            request_id=request_id,
            everywhere=True,
        )


class AlreadyExistsError(RemoteError):
    """``create``: a component with that name exists already."""


class ComponentMissingError(RemoteError):
    """``update`` or ``put_metrics``: the remote does not know the component."""


_TOPICS: Final[Mapping[type[JournaltrackError], str]] = {
    InvalidInputError: "invalid-input",
    InvalidTypeError: "invalid-input",
    RunContextError: "invalid-input",
    MissingExtraError: "missing-extra",
    JournalError: "journal-error",
    JournalNotFoundError: "journal-not-found",
    NotAJournalError: "not-a-journal",
    JournalOutdatedError: "journal-outdated",
    JournalTooNewError: "journal-too-new",
    JournalCorruptError: "journal-damaged",
    JournalAlteredError: "journal-altered",
    EvidenceError: "evidence",
    JournalBehindError: "copy-ahead",
    JournalWriteError: "journal-write",
    JournalLockedError: "journal-locked",
    JournalFullError: "journal-full",
    JournalReadOnlyError: "journal-read-only",
    BundleError: "bundle",
    MirrorError: "mirror",
    LeaseHeldError: "lease",
    LeaseLostError: "lease",
    CopyAheadError: "copy-ahead",
    JournaltrackError: "journal-error",
}
_TOPICS_OF_KINDS: Final[Mapping[ErrorKind, str]] = {
    ErrorKind.TRANSIENT: "request-failed",
    ErrorKind.PERMANENT: "request-refused",
    ErrorKind.HOLD: "run-held",
    ErrorKind.HALT: "sync-stopped",
}


def topic(error: JournaltrackError) -> str:
    """Return what to read about an error: a heading of ``docs/reference/errors.md``.

    A failed request is told by what it means, other errors by their class.
    """
    if isinstance(error, RemoteError) and type(error) not in _TOPICS:
        if error.code == NOT_ALLOWED:
            return "not-allowed"
        return "unreachable" if error.unreachable else _TOPICS_OF_KINDS[error.kind]
    return next(_TOPICS[each] for each in type(error).__mro__ if each in _TOPICS)


def more(error: JournaltrackError) -> str:
    """Return the line that leads from an error to its topic."""
    return f"more: journaltrack help {topic(error)}"
