"""Every exception that journaltrack raises, and what each means for the data.

::

    JournaltrackError                      all of ours; carries a ``hint``: what to do next
    ├── InvalidInputError  (ValueError)    a call that can never be right; nothing was journaled
    │   ├── ArtifactError                  the file is missing, not a file, or changed while it was copied
    │   ├── ComponentNotFoundError         ``Tracker.load``: SageMaker says that there is no such trial component
    │   ├── NothingMatchesError            a filter names nothing that the journal has
    │   └── UndeliverableError             ``strict=True`` only: AWS could never accept the value
    ├── InvalidTypeError   (TypeError)     an argument of the wrong type; nothing was journaled
    ├── JournalError                       the journal itself
    │   ├── JournalNotFoundError           no such folder, or no ``journal.db`` in it
    │   ├── NotAJournalError               something else lives there; it was left alone
    │   ├── JournalOutdatedError           written by an older journaltrack, and opened for reading alone
    │   ├── JournalTooNewError             written by a newer journaltrack; nothing was changed
    │   ├── JournalCorruptError            SQLite says that the file is damaged; nothing was changed
    │   ├── JournalAlteredError            its schema or own records are not what journaltrack makes; nothing was changed
    │   ├── EvidenceError                  receipts or entries of another copy contradict themselves or this one; nothing was taken over
    │   ├── JournalWriteError              the journal does not take entries now (``unwritten`` says how many wait)
    │   │   ├── JournalLockedError         another process held it for longer than the time allowed
    │   │   ├── JournalFullError           no space left on the device
    │   │   └── JournalReadOnlyError       the folder, file or file system is read-only
    │   ├── JournalBehindError             another copy of it was delivered further; nothing was sent
    │   ├── BundleError                    a bundle can't be written, or read; the journal is as it was
    │   │   ├── BundleSpoolError           blobs that belong into the bundle are missing from the spool, or damaged
    │   │   ├── BundleDamagedError         the bundle is cut short, altered, or none; nothing was taken from it
    │   │   └── BundleTooNewError          a newer journaltrack wrote the bundle; nothing was taken from it
    │   ├── LeaseHeldError                 somebody else reconciles this journal right now
    │   └── LeaseLostError                 our lease was taken over in mid-pass; the pass stopped
    └── RemoteError                        an answer (or none) from the remote, classified; see ``ErrorKind``
        ├── NotSentError                   it was held back before its first byte: the pass was over
        ├── UnexpectedError                something that no remote should raise; one request is concerned
        ├── CopyAheadError                 another copy of this journal made the component
        ├── AlreadyExistsError             create: the name is taken
        └── ComponentMissingError          update or metrics: the component is not there

This module knows nothing of SQLite, boto3 or the command line.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from typing import Final, Literal

from journaltrack.util.text import without_secrets

_OS_HINTS: Final = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check owner and permissions (ls -ln), or run it as the user who owns the journal"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on that device"),
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV), "the file system went away: mount it again"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open: raise the limit (ulimit -n)"),
    errno.ENAMETOOLONG: "name a folder with a shorter path",
    errno.EIO: "the disk fails: see dmesg, and copy the folder to another one",
    errno.EROFS: "the file system is read-only: mount it writable, or copy the folder",
}


def printable(text: str) -> str:
    """Text on one line that can do nothing to a terminal or a log.

    Everything that is not printable is escaped: control characters (with ESC), line breaks, bidirectional overrides, zero-width
    characters, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def described(error: BaseException) -> str:
    """A foreign exception in words; those of plug-ins may have none."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever it raises
        text = ""
    name = type(error).__name__
    return printable(f"{name}: {text}" if text else name)


def os_hint(error: OSError) -> str:
    """What to do about a file that can't be used."""
    return _OS_HINTS.get(error.errno or 0, "see what the system says of this file (ls -l, mount, dmesg)")


class JournaltrackError(Exception):
    """Base of all errors of this package.

    Errors quote journals and remotes, and are printed by whoever catches them: what they quote is made ``printable`` here, and loses
    what is secret in it (``foreign_text``).

    Args:
        message: What happened and what it means for the data.
        hint: What to do about it, one or two sentences; empty when there is nothing to do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = printable(without_secrets(message))
        self.hint = printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        """The message and, on a line of its own, the hint."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class InvalidInputError(JournaltrackError, ValueError):
    """An argument that can never be right. Nothing was journaled."""


class ArtifactError(InvalidInputError):
    """The file to log is missing, is not a regular file, or kept changing while it was copied."""


class ComponentNotFoundError(InvalidInputError):
    """SageMaker answered that the trial component to load does not exist."""


class NothingMatchesError(InvalidInputError):
    """A filter names nothing that the journal has; nothing was read, sent or changed by it."""


class UndeliverableError(InvalidInputError):
    """With ``strict=True``: AWS could never accept this value, so it was not journaled."""


class InvalidTypeError(JournaltrackError, TypeError):
    """An argument of the wrong type. Nothing was journaled."""


class JournalError(JournaltrackError):
    """Something about a journal."""


class JournalNotFoundError(JournalError):
    """There is no journal at the path."""


class NotAJournalError(JournalError):
    """What is at the path is not a journal. It was left as it is."""


class JournalTooNewError(JournalError):
    """The journal was written by a newer journaltrack than this one. It was left as it is."""


class JournalOutdatedError(JournalError):
    """The journal has an older schema, and was opened for reading alone: it is upgraded when it is opened for writing."""


class JournalCorruptError(JournalError):
    """SQLite reports the journal's file as damaged. It was left as it is."""


class JournalAlteredError(JournalError):
    """The journal's schema or its own records are not what any journaltrack makes. It was left as it is."""


class EvidenceError(JournalError):
    """Receipts or entries from another copy contradict themselves, or what is here. Nothing of them was taken over."""


class JournalBehindError(JournalError):
    """Another copy of the journal was delivered further than this one knows. Nothing of this one was sent."""


class JournalWriteError(JournalError):
    """The journal does not take entries.

    Args:
        message: What happened.
        hint: What to do.
        unwritten: Entries that wait in memory and are lost if the process ends before they are written.
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
    """A bundle can't be written, or read. The journal was left as it is."""


class BundleSpoolError(BundleError):
    """Blobs that belong into the bundle are missing from the journal's spool, or damaged there.

    Args:
        message: What happened, naming some of them.
        hint: What to do.
        blobs: All of them, by digest: ``"missing"`` or ``"damaged"``.
    """

    def __init__(self, message: str, *, hint: str = "", blobs: Mapping[str, Literal["missing", "damaged"]] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.blobs = dict(blobs or {})


class BundleDamagedError(BundleError):
    """A bundle is cut short or altered, or the file is no bundle. Nothing was taken from it."""


class BundleTooNewError(BundleError):
    """The bundle was written by a newer journaltrack than this one. Nothing was taken from it."""


class LeaseHeldError(JournalError):
    """Another process reconciles this journal now; the message names it."""


class LeaseLostError(JournalError):
    """The lease was taken over by somebody else in mid-pass (a stopped machine, a suspended laptop)."""


class ErrorKind(enum.Enum):
    """What a remote's failure means; the remote classifies, the reconciler decides."""

    TRANSIENT = "transient"
    """The same request may succeed later: retried with back-off, then left pending."""
    PERMANENT = "permanent"
    """The remote will never accept this request: what it carries is quarantined, after isolating the culprit."""
    HOLD = "hold"
    """This component can't go on until a person acts; it stays pending, the others go on."""
    HALT = "halt"
    """Nobody's fault and nothing can go on (credentials, permission, region): the pass stops, all stays pending."""


COPY_AHEAD_HINT: Final = (
    "sync the other copy, or bring its receipts here (`journaltrack receipts export` there, `journaltrack receipts import` here); if it is lost, "
    "`journaltrack sync --even-if-behind` sends what is pending here, also points that are there already"
)
NOT_ALLOWED: Final = "NotAllowed"
"""The code of a request that the table ``[allow]`` of the configuration forbids: nothing was sent."""
DEADLINE_OVER: Final = "DeadlineOver"
"""The code of a request that was not begun, or was ended, since its time was over."""


class RemoteError(JournaltrackError):
    """A request that the remote refused, or that got no answer.

    Args:
        message: The remote's own words where there are any.
        kind: What the failure means, see ``ErrorKind``.
        code: The remote's error code (``ThrottlingException``) or the transport's (``ConnectTimeout``).
        hint: What to do.
        request_id: The remote's id of the request, when it answered.
        maybe_applied: The request may have taken effect although no answer arrived.
        unreachable: No conversation took place at all (DNS, refused, no answer within the time-out).
        uploads_only: With ``HALT``: only uploads are halted (no permission on the bucket), other streams go on.
        everywhere: With ``HALT``: no request of any journal can succeed (credentials, region, clock, certificate).
        throttled: With ``TRANSIENT``: the remote asks for fewer requests a second.
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


class NotSentError(RemoteError):
    """The request was held back before its first byte: it certainly had no effect."""

    def __init__(self, message: str = "the time was over before the request was sent") -> None:
        super().__init__(message, kind=ErrorKind.TRANSIENT, code="NotSent")


class UnexpectedError(RemoteError):
    """Something failed that nobody expected to fail, for one request."""

    def __init__(self, error: BaseException, *, maybe_applied: bool) -> None:
        super().__init__(
            f"a request failed in a way that nobody expected: {type(error).__name__}: {error}",
            kind=ErrorKind.TRANSIENT,
            code=type(error).__name__,
            hint="its entries stay in the journal and the next sync tries again; if that fails, too, report it with the output of `-v`",
            maybe_applied=maybe_applied,
        )


class CopyAheadError(RemoteError):
    """The component was made with this journal's own mark, and not by this copy of the journal."""

    def __init__(self, component: str, *, request_id: str | None = None) -> None:
        super().__init__(
            f"another copy of this journal made the trial component {component} already, and this copy knows nothing of that; nothing was sent to it",
            kind=ErrorKind.HALT,
            code="CopyAhead",
            hint=COPY_AHEAD_HINT,
            request_id=request_id,
            everywhere=True,
        )


class AlreadyExistsError(RemoteError):
    """``create``: a component of that name exists already."""


class ComponentMissingError(RemoteError):
    """``update`` or ``put_metrics``: the remote does not know the component."""
