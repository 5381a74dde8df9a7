"""Where a request of boto3's leaves: the look at the gate of a pass right before its first byte.

botocore's ``before-send`` comes after waiting, credentials and signing, but before a connection is made, which may take long: names,
TCP, TLS, proxies. So connections look, too, once they are made. The route without boto3 looks by itself (``fast_metrics``).

And a connection that nobody used for seconds is not used again: a firewall or a NAT may have forgotten it without a word, and a
request that leaves over it is never answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline

IDLE_MAX_S: Final = 4.0
"""Ours: what is forgotten sooner than this is none that requests could follow each other on."""
_OUR_HOOK: Final = "journaltrack-gate"


class _Gated:
    """A connection that looks at the gate once it is made; nothing was sent until then."""

    gate: Deadline

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
        if self.gate.now() - getattr(connection, "idle_since", float("inf")) > IDLE_MAX_S:
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

    client.meta.events.register("before-send", look_at_gate, unique_id=_OUR_HOOK)
    session = getattr(client._endpoint, "http_session", None)  # noqa: SLF001 - as all private names of botocore's here: read, and tried by tests
    pools = getattr(session, "_pool_classes_by_scheme", {})
    for scheme, pool in list(pools.items()):
        of = {AWSHTTPConnection: GatedConnection, AWSHTTPSConnection: GatedTlsConnection}.get(getattr(pool, "ConnectionCls", None))
        if of is not None:
            connections = type(of.__name__, (of,), {"gate": gate})
            pools[scheme] = type(pool.__name__, (_FreshPool, pool), {"ConnectionCls": connections, "gate": gate})
