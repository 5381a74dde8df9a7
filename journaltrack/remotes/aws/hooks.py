"""Hook into boto3's clients: check each request before it leaves, and each answer before its use.

Answers: this module tells the service's answers from those of proxies (``proof``) and from those
that were cut short. It removes credentials from errors that quote them. ``metrics`` calls the same
functions for the answers that it reads itself.

Requests: each looks at the gate of its pass right before its first byte. botocore's ``before-send``
comes after waiting, credentials and signing, but before connecting, which may take long (DNS, TCP,
TLS, proxies). So a connection looks again once it is made. ``metrics`` looks by itself.

Connections: one that was idle for ``IDLE_MAX_S`` is not used again. A firewall or a NAT may have
dropped it silently, and a request over it is never answered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection
from botocore.exceptions import IncompleteReadError

from journaltrack.remotes.aws.errors import is_throttled, not_an_answer
from journaltrack.remotes.aws.proof import Said, flaw
from journaltrack.util.text import without_secrets

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline

IDLE_MAX_S: Final = 4.0
"""Ours. A network that drops idle connections sooner than this could keep none at all."""
_GATE_HOOK: Final = "journaltrack-gate"


class _Gated:
    """A connection that looks at the gate once it is made, before anything is sent."""

    gate: Deadline
    idle_since = float("inf")

    @property
    def was_idle(self) -> bool:
        """Return whether the connection was idle for ``IDLE_MAX_S``."""
        return self.gate.now() - self.idle_since > IDLE_MAX_S

    def connect(self) -> None:
        """Connect, and look at the gate before and after.

        Raises:
            NotSentError: Connecting took too long.
        """
        self.gate.connecting()
        super().connect()  # type: ignore[misc]
        self.gate.departing()


class GatedConnection(_Gated, AWSHTTPConnection):  # type: ignore[misc]
    """A gated connection over TCP alone."""


class GatedTlsConnection(_Gated, AWSHTTPSConnection):  # type: ignore[misc]
    """A gated connection with TLS."""


class _FreshPool:
    """A pool that does not lend connections that were idle for long."""

    gate: Deadline

    # urllib3's connections, whichever version
    def _get_conn(self, timeout: float | None = None) -> Any:  # noqa: ANN401
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        # A closed connection connects again when it is used.
        if getattr(connection, "was_idle", False):
            connection.close()
        return connection

    def _put_conn(self, connection: Any) -> None:  # noqa: ANN401 - as above
        if connection is not None:
            connection.idle_since = self.gate.now()
        super()._put_conn(connection)  # type: ignore[misc]


def guard(client: Any, gate: Deadline) -> None:  # noqa: ANN401 - boto3 has no types of its own
    """Make every request of a client look at the gate right before its first byte.

    Args:
        client: A client that nobody has used yet.
        gate: The deadline of the pass.
    """
    client.meta.events.register("before-send", lambda **_: gate.departing(), unique_id=_GATE_HOOK)
    # This module only reads botocore's private names. Tests try each of them.
    session = getattr(client._endpoint, "http_session", None)  # noqa: SLF001
    pools = getattr(session, "_pool_classes_by_scheme", {})
    gated = {AWSHTTPConnection: GatedConnection, AWSHTTPSConnection: GatedTlsConnection}
    for scheme, pool in list(pools.items()):
        of = gated.get(getattr(pool, "ConnectionCls", None))
        if of is not None:
            connections = type(of.__name__, (of,), {"gate": gate})
            members = {"ConnectionCls": connections, "gate": gate}
            pools[scheme] = type(pool.__name__, (_FreshPool, pool), members)


_ASKED: Final = "journaltrack-asked"
_BEGAN: Final = "journaltrack-began"
_OUR_HOOK: Final = "journaltrack-answer"
_OWN: Final = "journaltrack."


class Answered(Protocol):
    """A callable that takes note of every answer, see ``Clients.answered``."""

    def __call__(self, operation: str, took_s: float, *, throttled: bool) -> None:
        """Take note of an answer."""


def look_at_answers(client: Any, answered: Answered) -> None:  # noqa: ANN401
    """Make a client raise if an answer does not prove itself, and remove secrets from errors.

    Args:
        client: A client that this package made.
        answered: Called for every answer.
    """

    def after_call(
        *,
        http_response: Any,  # noqa: ANN401
        parsed: dict[str, Any],
        model: Any,  # noqa: ANN401
        context: dict[str, Any],
        **_: object,
    ) -> None:
        """Count the answer, and raise unless it is whole and proves itself."""
        took_s = time.monotonic() - context.get(_BEGAN, float("inf"))
        answered(model.name, took_s, throttled=is_throttled(parsed, model.name))
        status = http_response.status_code
        if status >= 300:  # noqa: PLR2004 - as botocore
            scrubbed(parsed, client)
            return
        # The answer came from a mock in this process (``Stubber``), not over a connection.
        if http_response.raw is None:
            return
        body = None if model.has_streaming_output else http_response.content
        headers = parsed["ResponseMetadata"]["HTTPHeaders"]
        if body is not None and model.http.get("method") != "HEAD":
            _check_whole(headers, len(body))
        asked, expected = context.get(_ASKED, {}), int(model.http.get("responseCode", 200))
        prove(Said(model.name, status, headers, body, parsed, asked, expected))

    events = client.meta.events
    events.register_last("before-parameter-build", _note, unique_id=f"{_OUR_HOOK}-asked")
    events.register_last("before-call", _begin, unique_id=f"{_OUR_HOOK}-began")
    events.register("after-call", after_call, unique_id=_OUR_HOOK)


def prove(said: Said) -> None:
    """Check that an answer proves itself.

    Raises:
        RemoteError: It does not. The request may have taken effect.
    """
    problem = flaw(said)
    if problem is not None:
        raise not_an_answer(said.operation, f"HTTP {said.status}: {problem}", said.body)


def scrubbed(parsed: dict[str, Any], client: Any) -> None:  # noqa: ANN401
    """Remove the client's credentials from an error's text before anybody keeps or prints it.

    SignatureDoesNotMatch quotes the canonical request, which contains the session token
    (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
    """
    error = parsed.get("Error")
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    if not isinstance(error, dict) or credentials is None:
        return
    message = error.get("Message")
    if isinstance(message, str):
        frozen = credentials.get_frozen_credentials()
        error["Message"] = without_secrets(message, filter(None, (frozen.secret_key, frozen.token)))


def handlers_of(client: Any, event: str) -> list[Any]:  # noqa: ANN401
    """Return the handlers of a client's event. botocore has no public way to ask.

    Raises:
        AttributeError: The client does not tell.
    """
    emitter = client.meta.events
    handlers = getattr(emitter, "_emitter", emitter)._handlers  # noqa: SLF001
    return list(handlers.prefix_search(event))


def is_our_hook(handler: object) -> bool:
    """Return whether a handler belongs to this package."""
    return str(getattr(handler, "__module__", "")).startswith(_OWN)


class Checked:
    """A client that somebody passed in and hooked into; this wrapper checks its answers.

    It adds no hooks, since the owner goes on using the client. It does not check an answer that did
    not come over HTTP (from ``Stubber`` or a fake).
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401
        self._client = client

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        member = getattr(self._client, name)
        names: Any = getattr(getattr(self._client, "meta", None), "method_to_api_mapping", None)
        operation = names.get(name) if isinstance(names, Mapping) else None
        if operation is None:
            return member

        def call(**parameters: Any) -> Any:  # noqa: ANN401
            """Call the client's method, and check the answer."""
            answer = member(**parameters)
            metadata = answer.get("ResponseMetadata", {})
            headers = metadata.get("HTTPHeaders")
            if headers:
                status = int(metadata.get("HTTPStatusCode", 0))
                prove(Said(operation, status, headers, None, answer, parameters))
            return answer

        return call


def _note(*, params: Mapping[str, Any], context: dict[str, Any], **_: object) -> None:
    context[_ASKED] = params


def _begin(*, context: dict[str, Any], **_: object) -> None:
    context[_BEGAN] = time.monotonic()


def _check_whole(headers: Mapping[str, str], actual: int) -> None:
    """Refuse a success that is shorter than its length says: the missing part may hold refusals.

    botocore does not check (httpsession.py: ``enforce_content_length=False``), and parses half a
    JSON object as an empty one.

    Raises:
        IncompleteReadError: The answer is shorter.
    """
    length = str(headers.get("content-length", ""))
    if length.isdigit() and actual < int(length):
        raise IncompleteReadError(actual_bytes=actual, expected_bytes=int(length))
