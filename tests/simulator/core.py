"""The simulator: routes a request to its service, plays the scheduled faults, keeps the record.

What it is: the one object that tests hold.
It must not know: how an operation works.
Invariant: applying a request and recording it happen under one lock, so what a test reads under
`lock` is consistent; every answered request has an id of its own.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import traceback
from collections import Counter
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, ParamSpec

from tests.simulator import s3_wire
from tests.simulator.auth import Access, caller_identity, credential
from tests.simulator.constraints import operation_check
from tests.simulator.faults import (
    BadGateway,
    BlackHole,
    Call,
    CutAfter,
    CutBefore,
    Fault,
    HttpError,
    Instead,
    PartialErrors,
    Predicate,
    Request,
    Schedule,
    TokenBucket,
    fault_from_json,
)
from tests.simulator.lineage import Lineage
from tests.simulator.metrics import Metrics
from tests.simulator.routing import Route, route_of
from tests.simulator.s3 import S3
from tests.simulator.sagemaker import SageMaker
from tests.simulator.search import Search
from tests.simulator.server import Server
from tests.simulator.state import Component, Experiment, NameMap, State, StoredObject, Trial, Upload
from tests.simulator.wire import HttpReply, HttpRequest, ServiceError, json_reply, render_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_P = ParamSpec("_P")
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"


class Simulator:
    """AWS on a loopback port. Attributes may be changed at any time, from any thread.

    Attributes:
        access: Which access keys are expired, denied or known; whether the region is checked.
        metrics: Quotas on metrics (`metrics.names_max`, `metrics.window_s`).
        lineage: What the lineage holds (`lineage.artifacts`, `lineage.associations`,
            `lineage.edges()`), and what it takes for the same artifact (`lineage.unique`).
        search: How old a thing is before it is found (`search.lag_s`).
        s3: Sizes of its pages (`s3.page_parts_max`).
        latency_s: Time to wait before each request is applied.
        on_request: Called before a request is applied, without the lock.
        lock: Hold it to look at several things at one moment.
        bugs: Tracebacks of the simulator's own failures, answered with 500 SimulatorBug.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        region: str = "us-east-1",
        state: State | None = None,
        latency_s: float = 0.0,
        max_rate: float | None = None,
        known_keys: set[str] | None = None,
        check_region: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing listens before `start`.

        Args:
            port: 0 for a free one.
            region: The region of the account, for ARNs and for `check_region`.
            state: What is there already.
            latency_s: Seconds to wait before each request is applied.
            max_rate: Requests a second over all services before they are throttled.
            known_keys: The access keys that exist; None for any.
            check_region: Refuse requests that are signed for another region.
            clock: Seconds since 1970, for times of creation, for `max_rate`, and for the Date of
                every reply.
        """
        self.state = state or State()
        self._clock = clock
        self.access = Access(region, check_region, known_keys)
        self.metrics = Metrics(self.state, clock)
        self._sagemaker = SageMaker(self.state, region, clock)
        self.lineage = Lineage(self.state, region, clock)
        self.search = Search(self.state, region, clock)
        self._operations = {
            **self._sagemaker.operations,
            **self.lineage.operations,
            **self.search.operations,
        }
        self.latency_s = latency_s
        self.on_request: Callable[[Call], None] | None = None
        self.lock = threading.RLock()
        self.bugs: list[str] = []
        self._changed = threading.Condition(self.lock)
        self.s3 = S3(self.state, region, clock)
        self._bucket = TokenBucket(max_rate, clock) if max_rate else None
        self._schedule = Schedule()
        self._requests: list[Request] = []
        self._numbers = itertools.count(1)
        self._released = threading.Event()
        self._server = Server(self._handle, port)

    @property
    def endpoint_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def requests(self) -> list[Request]:
        """The finished requests so far, in the order in which they were applied."""
        with self.lock:
            return list(self._requests)

    @property
    def components(self) -> NameMap[Component]:
        """The trial components by name, whatever its case; live."""
        return self.state.components

    @property
    def experiments(self) -> NameMap[Experiment]:
        """The experiments by name; live."""
        return self.state.experiments

    @property
    def trials(self) -> NameMap[Trial]:
        """The trials by name; live."""
        return self.state.trials

    @property
    def buckets(self) -> set[str]:
        """The buckets of the account; live."""
        return self.state.buckets

    @property
    def objects(self) -> dict[tuple[str, str], StoredObject]:
        """The S3 objects by bucket and key; live."""
        return self.state.objects

    @property
    def artifacts(self) -> dict[tuple[str, str], StoredObject]:
        """The S3 objects but for anchors, which passes put beside them."""
        return {
            place: held
            for place, held in self.state.objects.items()
            if "journaltrack-anchors/" not in place[1]
        }

    @property
    def uploads(self) -> dict[str, Upload]:
        """The unfinished multipart uploads by id; live."""
        return self.state.uploads

    @property
    def expired(self) -> set[str]:
        """The access keys whose token has expired; add to it at any time."""
        return self.access.expired

    @property
    def denied(self) -> set[str]:
        """The access keys that may do nothing; add to it at any time."""
        return self.access.denied

    def start(self) -> None:
        """Listen; again on the same port after a `stop`."""
        self._released = threading.Event()
        self._server.start()

    def stop(self) -> None:
        """Close every connection and the port; the state stays."""
        self._released.set()
        self._server.stop()

    def fail(
        self,
        operation: str,
        fault: Fault,
        times: int = 1,
        after: int = 0,
        when: Predicate | None = None,
    ) -> None:
        """Schedule a fault.

        Args:
            operation: Name of the operation as botocore has it, or "*" for any.
            fault: What happens.
            times: How many calls meet it.
            after: How many matching calls pass before that.
            when: Says which calls match.
        """
        with self.lock:
            self._schedule.add(operation, fault, times, after, when)

    def clear_faults(self) -> None:
        """Forget the faults that have not happened."""
        with self.lock:
            self._schedule.clear()

    def release(self) -> None:
        """Close the connections that fell into a black hole."""
        with self.lock:
            released, self._released = self._released, threading.Event()
        released.set()

    def calls(self, operation: str) -> list[Request]:
        """Give the finished requests of one operation."""
        return [request for request in self.requests if request.operation == operation]

    def wait_until(self, condition: Callable[[Simulator], bool], timeout_s: float = 300.0) -> bool:
        """Wait, without polling, until a request makes `condition` true; False after the time."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout_s)

    def add_component(self, name: str, source_arn: str | None = None) -> Component:
        """Create a component as SageMaker does for a job."""
        with self.lock:
            return self._sagemaker.add_component(name, source_arn)

    def summary(self) -> dict[str, Any]:
        """Count what is there, as JSON values."""
        with self.lock:
            return {
                "components": {
                    item.name: {
                        "parameters": item.parameters,
                        "input_artifacts": item.input_artifacts,
                        "output_artifacts": item.output_artifacts,
                        "status": item.status,
                        "metrics": Counter(point.name for point in item.metrics),
                    }
                    for item in self.components.values()
                },
                "experiments": list(self.experiments),
                "trials": {item.name: item.components for item in self.trials.values()},
                "lineage": self.lineage.edges(),
                "objects": {f"{b}/{key}": len(o.body) for (b, key), o in self.objects.items()},
                "uploads": len(self.uploads),
                "requests": Counter(request.operation for request in self._requests),
                "applied": Counter(r.operation for r in self._requests if r.applied),
                "bugs": self.bugs,
            }

    def _handle(self, request: HttpRequest) -> HttpReply | None:
        try:
            if request.path.startswith("/_simulator/"):
                return self._control(request)
            return self._answer(request)
        except Exception:  # noqa: BLE001 - a thread has nobody above it who would tell
            self.bugs.append(traceback.format_exc())
            return json_reply({"__type": "SimulatorBug", "message": self.bugs[-1]}, status=500)

    def _control(self, request: HttpRequest) -> HttpReply:
        if (request.method, request.path) == ("GET", "/_simulator/state"):
            return json_reply(self.summary())
        if (request.method, request.path) == ("POST", "/_simulator/fail"):
            data = json.loads(request.body)
            fault = fault_from_json(data["fault"])
            self.fail(data["operation"], fault, data.get("times", 1), data.get("after", 0))
            return json_reply({})
        if (request.method, request.path) == ("POST", "/_simulator/release"):
            self.release()
            return json_reply({})
        return json_reply({"message": "no such control"}, status=404)

    def _answer(self, request: HttpRequest) -> HttpReply | None:
        route = route_of(request)
        who = credential(request.headers)
        call = Call(
            next(self._numbers), route.service, route.operation, route.params, who.access_key
        )
        request_id = f"00000000-0000-4000-8000-{call.n:012x}"
        if self.on_request is not None:
            self.on_request(call)
        if self.latency_s:
            self._released.wait(self.latency_s)
        with self.lock:
            fault = self._schedule.take(call)
            released = self._released
        reply: HttpReply | None
        if isinstance(fault, CutBefore | BadGateway) or (
            isinstance(fault, HttpError | Instead | BlackHole) and not fault.applied
        ):
            reply = _spoil(fault, call, request, request_id)
            self._record(call, reply, request_id, applied=False)
        else:
            reply = self._apply(request, route, call, fault, request_id)
        if isinstance(fault, BlackHole):
            released.wait()
        date = {"Date": formatdate(self._clock(), usegmt=True)}
        return None if reply is None else replace(reply, headers={**date, **reply.headers})

    def _apply(
        self, request: HttpRequest, route: Route, call: Call, fault: Fault | None, request_id: str
    ) -> HttpReply | None:
        reply: HttpReply | None
        try:
            perform = self._prepare(request, route, call, fault, request_id)
            with self.lock:
                reply = perform()
                applied = True
                if isinstance(fault, CutAfter | BlackHole):
                    reply = None
                if isinstance(fault, HttpError | Instead):
                    reply = _spoil(fault, call, request, request_id)
                self._record(call, reply, request_id, applied=True)
        except ServiceError as error:
            applied = False
            silent = isinstance(fault, CutAfter | BlackHole)
            reply = (
                None if silent else render_error(call.service, request.method, error, request_id)
            )
            self._record(call, reply, request_id, applied=applied)
        return reply if isinstance(fault, Instead) else _with_id(reply, call.service, request_id)

    def _prepare(
        self, request: HttpRequest, route: Route, call: Call, fault: Fault | None, request_id: str
    ) -> Callable[[], HttpReply]:
        """Check everything that needs no state, outside the lock; return what changes it."""
        self.access.check(call.service, call.operation, credential(request.headers))
        self._check_rate(call.service)
        if route.refusal is not None:
            raise route.refusal
        if route.s3_call is not None:
            s3_call = route.s3_call
            body, checksums = s3_wire.verified_body(s3_call, request)
            return lambda: self.s3.apply(s3_call, body, checksums)
        if route.service == "sts":
            return lambda: caller_identity(request_id)
        operation_check(route.service, route.operation)(route.params)
        if route.operation == "BatchPutMetrics":
            partial = fault if isinstance(fault, PartialErrors) else PartialErrors({})
            return lambda: json_reply(
                self.metrics.batch_put(route.params, partial.codes, call.n, applied=partial.applied)
            )
        if route.operation == "BatchGetMetrics":
            return lambda: json_reply(self.metrics.batch_get(route.params))
        operation = self._operations[route.operation]
        return lambda: json_reply(operation(route.params))

    def _check_rate(self, service: str) -> None:
        if self._bucket is None:
            return
        with self.lock:
            within = self._bucket.take()
        if not within and service == "s3":
            raise ServiceError(503, "SlowDown", "Please reduce your request rate.")
        if not within:
            raise ServiceError(400, "ThrottlingException", "Rate exceeded")

    def _record(
        self, call: Call, reply: HttpReply | None, request_id: str, *, applied: bool
    ) -> None:
        finished = Request(
            call.n,
            call.service,
            call.operation,
            call.params,
            call.access_key,
            status=reply.status if reply else 0,
            request_id=request_id,
            applied=applied,
        )
        with self._changed:
            self._requests.append(finished)
            self._changed.notify_all()


def _spoil(fault: Fault, call: Call, request: HttpRequest, request_id: str) -> HttpReply | None:
    if isinstance(fault, HttpError):
        error = ServiceError(fault.status, fault.code, fault.message)
        reply = render_error(call.service, request.method, error, request_id)
        return _with_id(reply, call.service, request_id)
    if isinstance(fault, Instead):
        return HttpReply(
            fault.status, b"" if request.method == "HEAD" else fault.body, fault.headers
        )
    if isinstance(fault, BadGateway):
        return HttpReply(502, _HTML, {"Content-Type": "text/html"})
    return None


def _with_id(reply: HttpReply | None, service: str, request_id: str) -> HttpReply | None:
    if reply is None:
        return None
    name = "x-amz-request-id" if service == "s3" else "x-amzn-RequestId"
    return replace(reply, headers={name: request_id, **reply.headers})


def _running(
    make: Callable[_P, Simulator],
) -> Callable[_P, AbstractContextManager[Simulator]]:
    @contextmanager
    def run(*args: _P.args, **options: _P.kwargs) -> Iterator[Simulator]:
        """Run a simulator for the length of a `with`; takes the arguments of `Simulator`.

        Raises:
            RuntimeError: The simulator itself failed on some request.
        """
        running = make(*args, **options)
        running.start()
        try:
            yield running
        finally:
            running.stop()
        if running.bugs:
            raise RuntimeError("\n".join(running.bugs))

    return run


simulator = _running(Simulator)
