"""What is hooked into boto3's clients: every answer is looked at before anybody uses it.

The one place where answers that boto3 reads are told from those of proxies (``proof``), from those
that were cut, and where errors lose the credentials that they quote. ``fast_metrics`` calls the same
functions for the answers that it reads itself.

Where a request of boto3's leaves: the look at the gate of a pass right before its first byte.

botocore's ``before-send`` comes after waiting, credentials and signing, but before a connection is made, which may take long: names,
TCP, TLS, proxies. So connections look, too, once they are made. The route without boto3 looks by itself (``fast_metrics``).

And a connection that nobody used for seconds is not used again: a firewall or a NAT may have forgotten it without a word, and a
request that leaves over it is never answered.
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
"""Ours: what is forgotten sooner than this is none that requests could follow each other on."""
_GATE_HOOK: Final = "journaltrack-gate"


class _Gated:
    """A connection that looks at the gate once it is made; nothing was sent until then."""

    gate: Deadline
    idle_since = float("inf")

    @property
    def was_idle(self) -> bool:
        """Whether nobody has used it for long."""
        return self.gate.now() - self.idle_since > IDLE_MAX_S

    def connect(self) -> None:
        """See ``http.client.HTTPConnection.connect``.

        Raises:
            NotSentError: It took too long.
        """
        self.gate.connecting()
        super().connect()  # type: ignore[misc]
        self.gate.departing()


class GatedConnection(_Gated, AWSHTTPConnection):  # type: ignore[misc]
    """... over TCP alone."""


class GatedTlsConnection(_Gated, AWSHTTPSConnection):  # type: ignore[misc]
    """... with TLS."""


class _FreshPool:
    """A pool that lends no connection which was idle for long."""

    gate: Deadline

    def _get_conn(self, timeout: float | None = None) -> Any:  # noqa: ANN401 - urllib3's connections, whichever version
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        if getattr(connection, "was_idle", False):
            connection.close()  # it connects anew when it is used
        return connection

    def _put_conn(self, connection: Any) -> None:  # noqa: ANN401 - as above
        if connection is not None:
            connection.idle_since = self.gate.now()
        super()._put_conn(connection)  # type: ignore[misc]


def guard(client: Any, gate: Deadline) -> None:  # noqa: ANN401 - boto3 has no types of its own
    """Have every request of a client, which nobody has used yet, look at the gate right before its first byte."""

    def look_at_gate(**_: object) -> None:
        gate.departing()

    client.meta.events.register("before-send", look_at_gate, unique_id=_GATE_HOOK)
    session = getattr(client._endpoint, "http_session", None)  # noqa: SLF001 - as all private names of botocore's here: read, and tried by tests
    pools = getattr(session, "_pool_classes_by_scheme", {})
    for scheme, pool in list(pools.items()):
        of = {AWSHTTPConnection: GatedConnection, AWSHTTPSConnection: GatedTlsConnection}.get(getattr(pool, "ConnectionCls", None))
        if of is not None:
            connections = type(of.__name__, (of,), {"gate": gate})
            pools[scheme] = type(pool.__name__, (_FreshPool, pool), {"ConnectionCls": connections, "gate": gate})


_ASKED: Final = "journaltrack-asked"
_BEGAN: Final = "journaltrack-began"
_OUR_HOOK: Final = "journaltrack-answer"
_OWN: Final = "journaltrack."


class Answered(Protocol):
    """Is told of every answer."""

    def __call__(self, operation: str, took_s: float, *, throttled: bool) -> None:
        """Take note of it."""


def look_at_answers(client: Any, answered: Answered) -> None:  # noqa: ANN401 - boto3 has no types of its own
    """Have the client raise where an answer does not prove itself, and tell no secrets.

    Args:
        client: One of our own.
        answered: Called for every answer, with how long it took (seconds) and whether it asks for fewer requests.
    """

    def after_call(*, http_response: Any, parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: object) -> None:  # noqa: ANN401
        answered(model.name, time.monotonic() - context.get(_BEGAN, float("inf")), throttled=is_throttled(parsed))
        if http_response.status_code >= 300:  # noqa: PLR2004 - as botocore
            scrubbed(parsed, client)
            return
        if http_response.raw is None:  # no connection gave it, but ``Stubber`` or another mock in this process
            return
        body = None if model.has_streaming_output else http_response.content
        headers = parsed["ResponseMetadata"]["HTTPHeaders"]
        if body is not None and model.http.get("method") != "HEAD":
            _check_whole(headers, len(body))
        expected = int(model.http.get("responseCode", 200))
        prove(Said(model.name, http_response.status_code, headers, body, parsed, context.get(_ASKED, {}), expected))

    client.meta.events.register_last("before-parameter-build", _note, unique_id=f"{_OUR_HOOK}-asked")
    client.meta.events.register_last("before-call", _begin, unique_id=f"{_OUR_HOOK}-began")
    client.meta.events.register("after-call", after_call, unique_id=_OUR_HOOK)


def prove(said: Said) -> None:
    """Let an answer pass that proves itself.

    Raises:
        RemoteError: It does not; what was sent may have had an effect.
    """
    problem = flaw(said)
    if problem is not None:
        raise not_an_answer(said.operation, f"HTTP {said.status}: {problem}", said.body)


def scrubbed(parsed: dict[str, Any], client: Any) -> None:  # noqa: ANN401
    """Take the credentials out of an error's text before anybody keeps or prints it.

    SignatureDoesNotMatch quotes the canonical request, which has the session token in it
    (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
    """
    error = parsed.get("Error")
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    if isinstance(error, dict) and isinstance(error.get("Message"), str) and credentials is not None:
        frozen = credentials.get_frozen_credentials()
        error["Message"] = without_secrets(error["Message"], filter(None, (frozen.secret_key, frozen.token)))


def handlers_of(client: Any, event: str) -> list[Any]:  # noqa: ANN401
    """What is called for an event of a client (botocore has no public way to ask).

    Raises:
        AttributeError: The client does not tell.
    """
    emitter = client.meta.events
    return list(getattr(emitter, "_emitter", emitter)._handlers.prefix_search(event))  # noqa: SLF001


def is_our_hook(handler: object) -> bool:
    """Whether a handler is one of this package's."""
    return str(getattr(handler, "__module__", "")).startswith(_OWN)


class Checked:
    """A client that somebody passed in and hooked into: used as it is, and what it answers is looked at.

    Nothing is hooked into it: its owner goes on using it. An answer that did not come over HTTP (of
    ``Stubber``, or of a fake) is its owner's own.
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
            answer = member(**parameters)
            metadata = answer.get("ResponseMetadata", {})
            headers = metadata.get("HTTPHeaders")
            if headers:
                prove(Said(operation, int(metadata.get("HTTPStatusCode", 0)), headers, None, answer, parameters))
            return answer

        return call


def _note(*, params: Mapping[str, Any], context: dict[str, Any], **_: object) -> None:
    context[_ASKED] = params


def _begin(*, context: dict[str, Any], **_: object) -> None:
    context[_BEGAN] = time.monotonic()


def _check_whole(headers: Mapping[str, str], actual: int) -> None:
    """A success that is shorter than it says is none. What is missing may be refusals.

    botocore does not look (httpsession.py: ``enforce_content_length=False``), and takes half an object of JSON for an empty one.

    Raises:
        IncompleteReadError: It is.
    """
    length = str(headers.get("content-length", ""))
    if length.isdigit() and actual < int(length):
        raise IncompleteReadError(actual_bytes=actual, expected_bytes=int(length))
