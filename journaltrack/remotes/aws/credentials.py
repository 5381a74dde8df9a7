"""Credentials for requests that nobody attends: had in time, or not at all, and never by asking a person.

Where credentials come from is botocore's affair, and the user's: files, a program (``credential_process``), STS, a session
with providers of its own. Any of these may take for ever, raise anything, or want to ask for an MFA code on the terminal,
which would stop a training process. So a look-up is made on a thread of its own and given up after ``WAIT_S``, or when the
pass has no time left; a code is never asked for; and all that is raised is a ``RemoteError``, or botocore's own.

With a person at the terminal (``journaltrack sync``), botocore does as it likes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from journaltrack.errors import ErrorKind, NotSentError, RemoteError, described
from journaltrack.util.deadline import Deadline
from journaltrack.util.threads import CallError, OutOfTimeError, bounded

T = TypeVar("T")

WAIT_S: Final = 30.0
"""Ours: the longest wait for credentials, as long as for a server's answer."""
_RENEW: Final = "renew them (for example `aws sso login`), or mend what provides them"
_CONFIGURE: Final = (
    "configure credentials (`aws configure`, AWS_PROFILE, or --profile), or put the file or program there that the profile names"
)
"""Where a file or program can't be opened: renewing would not help."""


class Patience:
    """How long one pass waits for credentials.

    Args:
        deadline: Of the pass.
        attended: A person may be asked, who takes the time that it takes.
    """

    def __init__(self, deadline: Deadline, *, attended: bool) -> None:
        self._deadline = deadline
        self.attended = attended
        self._failure: Exception | None = None
        self._programs: list[subprocess.Popen[bytes]] = []

    def session(self, make: Callable[[], Any], *, ours: bool) -> Any:  # noqa: ANN401 - boto3 has no types of its own
        """A session that has its credentials, and keeps them.

        Args:
            make: Makes or returns the session of boto3.
            ours: It is nobody else's: what it asks and runs may be replaced.

        Raises:
            BotoCoreError, ClientError: botocore can't get them.
            RemoteError: They can't be had in time, or not without a person, or what provides them failed in another way.
        """

        def look_up() -> tuple[Any, Any]:
            session = make()
            if ours and not self.attended:
                for provider in session._session.get_component("credential_provider").providers:  # noqa: SLF001 - boto3 shows no way to it
                    self._quiet(provider)
            look = getattr(session, "get_credentials", None)
            if look is None:  # no session of boto3's, but something that makes clients
                return session, None
            found = look()
            if found is None:
                raise NoCredentialsError
            return session, found

        session, found = self.within(look_up)
        if found is not None:
            Bounded(found, self).get_frozen_credentials()
        return session

    def within(self, look_up: Callable[[], T]) -> T:
        """What a look-up returns.

        Raises:
            BotoCoreError, ClientError, RemoteError: As ``session``.
            NotSentError: The time was over before, or somebody cut it short: the credentials are not to blame.
        """
        if self._failure is not None:  # the next request of the pass would wait for the same in vain
            raise self._failure
        if self._deadline.over and not self.attended:  # says nothing of the credentials
            raise NotSentError
        own = Deadline(WAIT_S)
        try:
            return look_up() if self.attended else bounded(look_up, lambda: min(own.remaining_s(), self._deadline.remaining_s()))
        except OutOfTimeError:
            self._failure = NotSentError() if self._deadline.cut_short else _late()
            self._end_programs()
            raise self._failure from None
        except (BotoCoreError, ClientError, RemoteError) as error:
            if isinstance(error, (NoCredentialsError, RemoteError)):
                self._failure = error
            raise
        except Exception as error:
            cause = (error.__cause__ or error) if isinstance(error, CallError) else error
            self._failure = _halt(
                f"the credentials can't be looked up: {described(cause)}",
                type(cause).__name__,
                _CONFIGURE if isinstance(cause, OSError) and cause.filename is not None else _RENEW,
            )
            raise self._failure from error

    # -- our own sessions -------------------------------------------------------------------------------------------

    def _quiet(self, provider: Any) -> Any:  # noqa: ANN401
        """Replace what asks and what runs programs; the names are those of botocore's own parameters."""
        if hasattr(provider, "_prompter"):
            provider._prompter = _refuse  # noqa: SLF001
        if hasattr(provider, "_popen"):
            provider._popen = self._run  # noqa: SLF001
        builder = getattr(provider, "_profile_provider_builder", None)
        if builder is not None:  # makes the providers of a role's source profile
            make = builder.providers
            builder.providers = lambda *args, **kwargs: [self._quiet(each) for each in make(*args, **kwargs)]
        return provider

    def _run(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - as Popen
        """Run a ``credential_process``: without a terminal to ask on, and in a session of its own to be ended with."""
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)  # noqa: S603 - the user's
        self._programs.append(program)
        if self._failure is not None:  # given up meanwhile
            self._end_programs()
        return program

    def _end_programs(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(program.pid, signal.SIGKILL)


class Bounded:
    """Credentials to sign with, that are refreshed in time or not at all.

    Args:
        inner: botocore's, or the caller's.
        patience: Of the pass.
    """

    def __init__(self, inner: Any, patience: Patience) -> None:  # noqa: ANN401
        self._inner = inner
        self._patience = patience

    def get_frozen_credentials(self) -> Any:  # noqa: ANN401
        """Those of now; see ``Patience.session`` for what is raised."""
        is_old = getattr(self._inner, "refresh_needed", None)
        if type(self._inner) is Credentials or (is_old is not None and not is_old()):  # nearly always
            return self._inner.get_frozen_credentials()
        if not self._patience.attended and _would_ask(self._inner):
            _refuse()
        return self._patience.within(self._inner.get_frozen_credentials)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._inner, name)


def _refuse(*_: object) -> NoReturn:
    raise _halt(
        "the profile wants an MFA code, and nobody is there to be asked",
        "MfaRequired",
        "run `journaltrack sync` in a terminal, or put temporary credentials into the environment (`aws sts get-session-token`)",
    )


def _late() -> RemoteError:
    return _halt(
        "the credentials did not come in time",
        "CredentialsTimeout",
        "see why credential_process, or whatever else AWS_PROFILE names, does not answer",
    )


def _halt(message: str, code: str, hint: str) -> RemoteError:
    return RemoteError(message, kind=ErrorKind.HALT, code=code, hint=f"{hint}; nothing was lost", everywhere=True)


def _would_ask(credentials: Any) -> bool:  # noqa: ANN401
    """Whether the next look at a caller's credentials asks for an MFA code; trying would use up the one time that botocore asks.

    botocore keeps the answer in closures of ``AssumeRoleProvider`` (credentials.py); where it does not look like that, nobody is asked.
    """
    refresh = getattr(credentials, "_refresh_using", None)
    asks = getattr(refresh, "_has_been_called", None) is False
    fetcher = getattr(getattr(refresh, "_refresh", refresh), "__self__", None)
    if refresh is None or getattr(credentials, "_frozen_credentials", None) is not None:
        return False
    cached = getattr(fetcher, "_load_from_cache", lambda: None)()
    return cached is None and (asks or _would_ask(getattr(fetcher, "_source_credentials", None)))
