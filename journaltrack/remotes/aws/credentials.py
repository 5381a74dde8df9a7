"""Look up credentials for unattended requests: in time or not at all, and without asking a person.

The user chooses where credentials come from: files, a program (``credential_process``), STS, or a
session with its own providers. Any of these may never return, or raise anything. They may also ask
for an MFA code on the terminal, which would stop a training process. Therefore

- a look-up runs on a thread of its own,
- it is given up after ``WAIT_S``, or when the pass has no time left,
- nobody is asked for a code,
- only a ``RemoteError`` or one of botocore's own exceptions comes out.

With a person at the terminal (``journaltrack sync``), botocore works as usual.
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
from journaltrack.util.guard import CallError, OutOfTimeError, bounded

T = TypeVar("T")

WAIT_S: Final = 30.0
"""Ours: the longest wait for credentials, as long as for a server's answer."""
_RENEW: Final = "renew them (for example `aws sso login`), or repair what provides them"
_CONFIGURE: Final = (
    "configure credentials (`aws configure`), or restore the file or program of the profile"
)
"""If a file or program can't be opened: renewing would not help."""


class Patience:
    """Look up the credentials of one pass, within its time.

    Args:
        deadline: The pass's deadline.
        attended: Whether a person can be asked. Then nothing bounds the wait.
    """

    def __init__(self, deadline: Deadline, *, attended: bool) -> None:
        self._deadline = deadline
        self.attended = attended
        self._failure: Exception | None = None
        self._programs: list[subprocess.Popen[bytes]] = []

    # boto3 has no types of its own.
    def session(self, make: Callable[[], Any], *, ours: bool) -> Any:  # noqa: ANN401
        """Return a session that has resolved its credentials.

        Args:
            make: Makes or returns the boto3 session.
            ours: Whether the session is ours alone. Then its prompts and programs can be replaced.

        Raises:
            BotoCoreError, ClientError: botocore can't get them.
            RemoteError: They did not come in time, need a person, or what provides them failed.
        """

        def look_up() -> tuple[Any, Any]:
            """Make the session, quieten its providers, and ask them."""
            session = make()
            if ours and not self.attended:
                # boto3 has no public way to the providers.
                resolver = session._session.get_component("credential_provider")  # noqa: SLF001
                for provider in resolver.providers:
                    self._quiet(provider)
            # A caller may pass anything that makes clients, without the rest of a boto3 session.
            look = getattr(session, "get_credentials", None)
            if look is None:
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
        """Return the result of a look-up.

        Raises:
            BotoCoreError, ClientError, RemoteError: As ``session``.
            NotSentError: The pass's time is over, or somebody cut it short. The credentials are not
                to blame.
        """
        # Every later request of the pass would wait in vain.
        if self._failure is not None:
            raise self._failure
        if self._deadline.over and not self.attended:
            raise NotSentError
        own, deadline = Deadline(WAIT_S), self._deadline
        try:
            if self.attended:
                return look_up()
            return bounded(look_up, lambda: min(own.remaining_s(), deadline.remaining_s()))
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
            names_file = isinstance(cause, OSError) and cause.filename is not None
            self._failure = _halt(
                f"the credentials can't be looked up: {described(cause)}",
                type(cause).__name__,
                _CONFIGURE if names_file else _RENEW,
            )
            raise self._failure from error

    # -- our own sessions --

    def _quiet(self, provider: Any) -> Any:  # noqa: ANN401
        """Replace what prompts and what runs programs. botocore's parameters have these names."""
        if hasattr(provider, "_prompter"):
            provider._prompter = _refuse  # noqa: SLF001
        if hasattr(provider, "_popen"):
            provider._popen = self._run  # noqa: SLF001
        # The builder makes the providers of a role's source profile.
        builder = getattr(provider, "_profile_provider_builder", None)
        if builder is not None:
            make = builder.providers
            builder.providers = lambda *args, **kwargs: [*map(self._quiet, make(*args, **kwargs))]
        return provider

    # The options are those of Popen.
    def _run(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
        """Run a ``credential_process`` without a terminal to prompt on.

        It gets a session of its own, so that it can be ended with all its children.
        """
        program = subprocess.Popen(  # noqa: S603 - the user configured it
            command, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
        self._programs.append(program)
        # The look-up was given up meanwhile.
        if self._failure is not None:
            self._end_programs()
        return program

    def _end_programs(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(program.pid, signal.SIGKILL)


class Bounded:
    """Credentials to sign with, refreshed in time or not at all.

    Args:
        inner: botocore's credentials, or the caller's.
        patience: Looks them up within the pass's time.
    """

    def __init__(self, inner: Any, patience: Patience) -> None:  # noqa: ANN401
        self._inner = inner
        self._patience = patience

    def get_frozen_credentials(self) -> Any:  # noqa: ANN401
        """Return the current credentials; raises as ``Patience.session``."""
        is_old = getattr(self._inner, "refresh_needed", None)
        # The fast path, taken nearly always: nothing to refresh.
        if type(self._inner) is Credentials or (is_old is not None and not is_old()):
            return self._inner.get_frozen_credentials()
        if not self._patience.attended and _would_ask(self._inner):
            _refuse()
        return self._patience.within(self._inner.get_frozen_credentials)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._inner, name)


def _refuse(*_: object) -> NoReturn:
    raise _halt(
        "the profile needs an MFA code, and nobody is there to be asked",
        "MfaRequired",
        "run `journaltrack sync` in a terminal, or use `aws sts get-session-token`",
    )


def _late() -> RemoteError:
    return _halt(
        "the credentials did not come in time",
        "CredentialsTimeout",
        "check why credential_process, or what else AWS_PROFILE names, does not answer",
    )


def _halt(message: str, code: str, hint: str) -> RemoteError:
    hint = f"{hint}; nothing was lost"
    return RemoteError(message, kind=ErrorKind.HALT, code=code, hint=hint, everywhere=True)


def _would_ask(credentials: Any) -> bool:  # noqa: ANN401
    """Return whether the next look at a caller's credentials would ask for an MFA code.

    Trying is no option: botocore asks only once. It keeps the answer in closures of
    ``AssumeRoleProvider`` (credentials.py). Credentials without these closures do not ask.
    """
    refresh = getattr(credentials, "_refresh_using", None)
    asks = getattr(refresh, "_has_been_called", None) is False
    fetcher = getattr(getattr(refresh, "_refresh", refresh), "__self__", None)
    if refresh is None or getattr(credentials, "_frozen_credentials", None) is not None:
        return False
    cached = getattr(fetcher, "_load_from_cache", lambda: None)()
    return cached is None and (asks or _would_ask(getattr(fetcher, "_source_credentials", None)))
