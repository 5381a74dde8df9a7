"""What can go wrong, when, and how often: scheduled faults and a request rate limit.

What it is: small values that say how a request is spoiled, and the schedule that deals them out.
It must not know: HTTP, state, services.
Invariant: deterministic; the same calls in the same order meet the same faults. Nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """One request as faults, hooks and predicates see it, before it is applied.

    `n` counts from 1 over all services; `params` are the decoded members (S3: Bucket, Key, ...).
    """

    n: int
    service: str
    operation: str
    params: Mapping[str, Any]
    access_key: str


@dataclass(frozen=True, slots=True)
class Request(Call):
    """A finished request. `status` is 0 when no answer was given; `applied` says it took effect."""

    status: int
    request_id: str
    applied: bool


@dataclass(frozen=True, slots=True)
class HttpError:
    """Answered with this error; `applied` says whether the request takes effect all the same."""

    status: int
    code: str
    message: str = "scheduled fault"
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Instead:
    """Something answers in the service's place, without its request id.

    `applied` False: a sign-in page that passes nothing on; True: a proxy that passed the request on
    and replaced the answer.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    applied: bool = False


@dataclass(frozen=True, slots=True)
class CutBefore:
    """The connection is closed without an answer; not applied."""


@dataclass(frozen=True, slots=True)
class CutAfter:
    """Applied, then the connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class PartialErrors:
    """BatchPutMetrics answers 200, but items fail: their index, from 0, to the error code.

    `applied`: they are recorded all the same.
    """

    codes: Mapping[int, str]
    applied: bool = False


@dataclass(frozen=True, slots=True)
class BlackHole:
    """Never answered until the simulator stops or `release()`, which closes the connection.

    `applied` says whether the request takes effect before the silence.
    """

    applied: bool = False


@dataclass(frozen=True, slots=True)
class BadGateway:
    """A proxy's 502 with a page of HTML; not applied."""


Fault = HttpError | Instead | CutBefore | CutAfter | PartialErrors | BlackHole | BadGateway
Predicate = Callable[[Call], bool]

_BY_NAME: Mapping[str, type[Fault]] = {
    kind.__name__: kind
    for kind in (HttpError, Instead, CutBefore, CutAfter, PartialErrors, BlackHole, BadGateway)
}


def fault_from_json(data: Mapping[str, Any]) -> Fault:
    """Build a fault from `{"type": "HttpError", "status": 500, ...}`."""
    fields = {name: value for name, value in data.items() if name != "type"}
    if "codes" in fields:
        fields["codes"] = {int(index): code for index, code in fields["codes"].items()}
    if "body" in fields:
        fields["body"] = fields["body"].encode()
    return _BY_NAME[data["type"]](**fields)


@dataclass(slots=True)
class _Plan:
    operation: str
    fault: Fault
    times: int
    after: int
    when: Predicate | None


@dataclass(slots=True)
class Schedule:
    """Deals out faults; plans are asked in the order in which they were made."""

    _plans: list[_Plan] = field(default_factory=list)

    def add(
        self, operation: str, fault: Fault, times: int, after: int, when: Predicate | None
    ) -> None:
        """Plan `fault` for `times` matching calls, after letting `after` of them pass."""
        self._plans.append(_Plan(operation, fault, times, after, when))

    def take(self, call: Call) -> Fault | None:
        """Use up and return the fault that this call meets, if any."""
        for plan in self._plans:
            if plan.operation not in {call.operation, "*"}:
                continue
            if plan.when is not None and not plan.when(call):
                continue
            if plan.after:
                plan.after -= 1
                continue
            plan.times -= 1
            if not plan.times:
                self._plans.remove(plan)
            return plan.fault
        return None

    def clear(self) -> None:
        """Forget every plan."""
        self._plans.clear()

    def pending(self) -> int:
        """Count the plans that have not been used up."""
        return len(self._plans)


@dataclass(slots=True)
class TokenBucket:
    """Lets `rate` requests a second through, with a burst of one second's worth."""

    rate: float
    clock: Callable[[], float]
    _tokens: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        """Start full."""
        self._tokens, self._at = max(1.0, self.rate), self.clock()

    def take(self) -> bool:
        """Say whether one more request is within the rate."""
        now = self.clock()
        self._tokens = min(max(1.0, self.rate), self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
