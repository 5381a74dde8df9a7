"""Every refusal for too many requests slows the rate of its API, whichever way the request went,
and nothing else does.
"""

from __future__ import annotations

import pytest

from journaltrack.errors import RemoteError
from journaltrack.remotes.rate_limit import RateLimit, Throttle
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay.plan.actions import Fields, MetricPoint
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import aws
from tests.simulator import HttpError, Simulator, simulator

POINTS = [MetricPoint("loss", 0.5, 1, 1_700_000_000_123_456_789)]
METRICS, UPDATE = "BatchPutMetrics", "UpdateTrialComponent"
ROUTES = pytest.mark.parametrize(
    ("api", "hooked"),
    [(METRICS, True), (METRICS, False), (UPDATE, False)],
    ids=["boto3", "direct", "update"],
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Throttle, bool]]:
    """What throttles are told, in order: which one, and whether of a refusal."""
    told: list[tuple[Throttle, bool]] = []
    refused, taken = Throttle.refused, Throttle.taken
    monkeypatch.setattr(
        Throttle, "refused", lambda throttle: (told.append((throttle, True)), refused(throttle))[1]
    )
    monkeypatch.setattr(
        Throttle, "taken", lambda throttle: (told.append((throttle, False)), taken(throttle))[1]
    )
    return told


def retrying(
    sim: Simulator, limit: RateLimit, *, hooked: bool, attempts_max: int = 8
) -> RetryingRemote:
    """A remote that has a component, and has sent metrics once."""
    sim.add_component("run")
    remote = RetryingRemote(
        aws(sim.endpoint_url, hooked=hooked, rate_limit=limit),
        deadline=Deadline(),
        attempts_max=attempts_max,
        sleep=lambda _: None,
    )
    remote.put_metrics("run", POINTS)
    return remote


def send(remote: RetryingRemote, api: str) -> None:
    if api == METRICS:
        remote.put_metrics("run", POINTS)
    else:
        remote.update("run", Fields(parameters={"a": 1.0}))


@ROUTES
@pytest.mark.parametrize("throttled", [0, 1, 2, 5])
def test_each_throttling_answer_slows_the_rate(
    told: list[tuple[Throttle, bool]], api: str, hooked: bool, throttled: int
):
    """The rate is told of every refusal for too many requests, the first and the later ones, and
    of no other failure.
    """
    limit = RateLimit(0)
    with simulator() as sim:
        remote = retrying(sim, limit, hooked=hooked)
        told.clear()
        for _ in range(throttled):
            sim.fail(api, HttpError(400, "ThrottlingException"))
        sim.fail(api, HttpError(400, "ConflictException"))
        send(remote, api)
        assert len(sim.calls(api)) == throttled + 2 + (api == METRICS)
    assert [refused for throttle, refused in told if throttle is limit.of(api)] == [
        True
    ] * throttled + [False] * 2
    assert not any(refused for throttle, refused in told if throttle is not limit.of(api))
    assert (limit.of(api).per_s is not None) is (throttled > 0)
    assert limit.of(UPDATE if api == METRICS else METRICS).per_s is None


@ROUTES
def test_a_refusal_that_ends_the_attempts_slows_the_rate_too(
    told: list[tuple[Throttle, bool]], api: str, hooked: bool
):
    """Also where nothing is tried again, since nothing more may be."""
    limit = RateLimit(0)
    with simulator() as sim:
        remote = retrying(sim, limit, hooked=hooked, attempts_max=1)
        told.clear()
        sim.fail(api, HttpError(503, "SlowDown"))
        with pytest.raises(RemoteError) as caught:
            send(remote, api)
    assert caught.value.throttled
    assert [throttle for throttle, refused in told if refused] == [limit.of(api)]
    assert limit.of(api).per_s is not None
