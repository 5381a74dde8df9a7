"""Which service and operation a request is meant for, and its members.

It must not know: state, faults, credentials.
Invariant: never raises on what a client sent; what can't be read becomes the route's refusal, so
that such a request is recorded like any other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.simulator import s3_wire
from tests.simulator.wire import HttpRequest, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

_METRICS_PATHS = {"/BatchPutMetrics", "/BatchGetMetrics"}
_TARGET = "SageMaker."


@dataclass(frozen=True, slots=True)
class Route:
    """A request with its service, operation and members; `refusal` when they can't be read."""

    service: str
    operation: str
    params: Mapping[str, Any]
    s3_call: s3_wire.S3Call | None = None
    refusal: ServiceError | None = None


def route_of(request: HttpRequest) -> Route:
    """Tell the services apart as their protocols do; what is no other's is S3's."""
    target = request.headers.get("x-amz-target", "")
    if target.startswith(_TARGET):
        return _json_route("sagemaker", target.removeprefix(_TARGET), request.body)
    if request.path in _METRICS_PATHS:
        return _json_route("sagemaker-metrics", request.path[1:], request.body)
    if request.method == "POST" and request.path == "/":
        form = parse_qs(request.body.decode("ascii"))
        action = form.get("Action", [""])[0]
        known = action == "GetCallerIdentity"
        refusal = None if known else ServiceError(400, "InvalidAction", "No such action")
        return Route("sts", action, {}, refusal=refusal)
    call = s3_wire.parse(request)
    return Route("s3", call.operation, call.params(), s3_call=call)


def _json_route(service: str, operation: str, body: bytes) -> Route:
    try:
        params = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as error:
        return Route(
            service,
            operation,
            {},
            refusal=ServiceError(400, "SerializationException", str(error)),
        )
    return Route(service, operation, params)


def _refuse_constant(name: str) -> None:
    message = f"{name} is not JSON"
    raise ValueError(message)
