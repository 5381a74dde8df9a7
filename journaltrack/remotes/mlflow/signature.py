"""Sign requests to AWS's managed MLflow, with botocore's signature version 4."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.credentials import Patience

if TYPE_CHECKING:
    from journaltrack.remotes.mlflow.http import Sign
    from journaltrack.util.deadline import Deadline

_CHUNK_BYTES = 1 << 20
_UNSIGNED = frozenset({"connection", "user-agent", "content-length"})
"""Headers that something in between may change."""


def signer(
    profile: str | None, deadline: Deadline, *, attended: bool = False
) -> Callable[[str, str], Sign]:
    """Return what makes a signature of (region, service).

    Args:
        profile: Of the AWS configuration. None: the usual one.
        deadline: Ends the wait for credentials.
        attended: Whether a person can be asked for an MFA code.
    """
    lock = threading.Lock()
    found: list[Any] = []

    def credentials() -> Any:  # noqa: ANN401 - botocore has no types of its own
        """Return the credentials, looked up once: botocore renews them itself."""
        with lock:
            if not found:
                found.append(_looked_up(profile, deadline, attended=attended))
            try:
                return found[0].get_frozen_credentials()
            # They are renewed now and then, which may fail.
            except (BotoCoreError, ClientError) as error:
                raise _missing(str(error)) from error

    def make(region: str, service: str) -> Sign:
        """Return the signature for one service."""

        def sign(
            method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes]
        ) -> Mapping[str, str]:
            """Return the headers to add."""
            digest = hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else _digest(body)
            kept = {k: v for k, v in headers.items() if k.lower() not in _UNSIGNED}
            request = AWSRequest(
                method, url, headers={**kept, "X-Amz-Content-SHA256": digest}, data=b""
            )
            SigV4Auth(credentials(), service, region).add_auth(request)
            return {k: v for k, v in request.headers.items() if k not in kept}

        return sign

    return make


def _looked_up(profile: str | None, deadline: Deadline, *, attended: bool) -> Any:  # noqa: ANN401
    try:
        session = Patience(deadline, attended=attended).session(
            lambda: boto3.Session(profile_name=profile), ours=True
        )
        credentials = session.get_credentials()
    except (BotoCoreError, ClientError) as error:
        raise _missing(str(error)) from error
    if credentials is None:
        raise _missing("there are none")
    return credentials


def _missing(why: str) -> RemoteError:
    return RemoteError(
        f"no AWS credentials for the managed MLflow: {why}",
        kind=ErrorKind.HALT,
        code="NoCredentials",
        everywhere=True,
        hint="configure them (`aws configure`), or name a profile in the destination",
    )


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
