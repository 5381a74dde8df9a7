"""Retries: what is tried again, how often, for how long, and at what cost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, RemoteError
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.remotes.retry import UNREACHABLE_ATTEMPTS_MAX, RetryingRemote
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from journaltrack.replay.remote import Answer
from journaltrack.util.deadline import Deadline

SPEC = ComponentSpec("run", "o")
POINTS = [MetricPoint("m", 1.0, 1, 0)]


def passing(**options: Any) -> RemoteError:
    return RemoteError("later", kind=ErrorKind.TRANSIENT, code="ThrottlingException", **options)


class Flaky(MemoryRemote):
    """Fails as scheduled before it works."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.calls = 0

    def _meet(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)

    def create(self, spec: ComponentSpec) -> Answer:
        self._meet()
        return super().create(spec)

    def update(self, component: str, fields: Fields) -> Answer:
        self._meet()
        return super().update(component, fields)

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        self._meet()
        return super().put_metrics(component, points)


def retrying(
    inner: MemoryRemote, waits: list[float] | None = None, **options: Any
) -> RetryingRemote:
    noted = [] if waits is None else waits
    return RetryingRemote(inner, **{"deadline": Deadline(), "sleep": noted.append, **options})


def test_what_passes_is_tried_until_it_is_taken():
    """Transient failures are hidden, and counted."""
    waits: list[float] = []
    remote = retrying(Flaky(passing(), passing(maybe_applied=True), passing()), waits)
    assert remote.create(SPEC).arn
    assert remote.attempts_of_last_call() == 4
    assert len(waits) == 3


@pytest.mark.parametrize("kind", [ErrorKind.PERMANENT, ErrorKind.HOLD, ErrorKind.HALT])
def test_what_does_not_pass_goes_up_at_once(kind: ErrorKind):
    """Only transient failures are tried again."""
    inner = Flaky(RemoteError("no", kind=kind, code="X"))
    remote = retrying(inner)
    with pytest.raises(RemoteError, match="no"):
        remote.create(SPEC)
    assert (inner.calls, remote.attempts_of_last_call()) == (1, 1)


def test_the_last_failure_goes_up_as_it_is():
    """After the last attempt the remote's own error is raised, not one of tenacity's."""
    last = passing()
    inner = Flaky(passing(), passing(), last)
    with pytest.raises(RemoteError) as caught:
        retrying(inner, attempts_max=3).create(SPEC)
    assert caught.value is last
    assert inner.calls == 3


def test_any_attempt_may_have_been_the_one_that_took_effect():
    """Whatever a later one says, which came too late to tell."""
    remote = retrying(
        Flaky(
            passing(),
            passing(maybe_applied=True),
            RemoteError("no", kind=ErrorKind.PERMANENT, code="X"),
        )
    )
    with pytest.raises(RemoteError, match="no") as caught:
        remote.update("run", Fields())
    assert caught.value.maybe_applied


def test_what_nobody_expected_goes_up_at_once():
    """Also from a later attempt: it is no failure of the remote."""
    inner = Flaky(passing(), KeyError("x"), passing())
    with pytest.raises(KeyError):
        retrying(inner).create(SPEC)
    assert inner.calls == 2


def test_specific_errors_keep_their_type():
    """What the reconciler tells apart by type is told apart behind retries too."""
    remote = retrying(MemoryRemote())
    remote.create(SPEC)
    with pytest.raises(AlreadyExistsError):
        remote.create(SPEC)
    with pytest.raises(ComponentMissingError):
        remote.update("gone", Fields(parameters={"a": 1.0}))


def test_metrics_that_may_be_there_are_not_sent_again():
    """A lost answer is in doubt at once, also when it comes after refusals that were none."""
    inner = Flaky(passing(), passing(maybe_applied=True), passing())
    remote = retrying(inner)
    with pytest.raises(RemoteError) as caught:
        remote.put_metrics("run", POINTS)
    assert caught.value.maybe_applied
    assert (inner.calls, remote.attempts_of_last_call()) == (2, 2)


def test_an_unreachable_remote_gets_few_attempts():
    """Nobody there: three attempts, not as many as for a busy service."""
    inner = Flaky(*(passing(unreachable=True) for _ in range(20)))
    with pytest.raises(RemoteError):
        retrying(inner).create(SPEC)
    assert inner.calls == UNREACHABLE_ATTEMPTS_MAX


def test_no_wait_goes_past_the_deadline():
    """Without time for the wait and another attempt the failure goes up."""
    inner = Flaky(*(passing() for _ in range(20)))
    remote = retrying(inner, deadline=Deadline(0.0))
    with pytest.raises(RemoteError):
        remote.create(SPEC)
    assert inner.calls == 1


def test_cancelling_ends_a_wait_and_sends_nothing_more():
    """A pass that is told to stop does so now, not after the back-off, and makes no more
    requests.
    """
    deadline = Deadline(60.0)
    waiting = threading.Event()

    def sleep(_: float) -> None:
        waiting.set()
        deadline.wait(30.0)

    inner = Flaky(*(passing() for _ in range(20)))
    remote = RetryingRemote(inner, deadline=deadline, sleep=sleep)
    errors: list[RemoteError] = []

    def work() -> None:
        try:
            remote.create(SPEC)
        except RemoteError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert waiting.wait(300)
    deadline.cancel()
    thread.join()
    assert not thread.is_alive()
    assert len(errors) == 1
    assert inner.calls == 1


def test_waits_grow_and_are_random():
    """Full jitter: each wait lies between 0 and a bound that doubles, so that many workers do
    not come back at once.
    """
    bounds = [0.2 * 2**n for n in range(7)]
    series = []
    for _ in range(50):
        waits: list[float] = []
        with pytest.raises(RemoteError):
            retrying(Flaky(*(passing() for _ in range(20))), waits).create(SPEC)
        assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
        series.append(tuple(waits))
    assert len(set(series)) == len(series)


def test_threads_count_their_own_attempts():
    """The attempts of one thread's last call are not those of another's."""
    remote = retrying(Flaky(passing()))
    remote.create(SPEC)
    counts: list[int] = []

    def work() -> None:
        remote.describe("run")
        counts.append(remote.attempts_of_last_call())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (remote.attempts_of_last_call(), counts) == (2, [1])


def test_a_call_that_succeeds_costs_almost_nothing():
    """The wrapper makes few calls of its own around one that succeeds (measured: 1 µs), for a
    replay is thousands of them.
    """

    class Instant(MemoryRemote):
        def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
            return answer

    answer = Answer("r")
    remote = RetryingRemote(Instant(), deadline=Deadline())
    remote.put_metrics("run", POINTS)
    calls: list[str] = []
    sys.setprofile(
        lambda _frame, event, _arg: calls.append(event) if event in {"call", "c_call"} else None
    )
    try:
        for _ in range(100):
            remote.put_metrics("run", POINTS)
    finally:
        sys.setprofile(None)
    assert len(calls) / 100 <= 20
