"""How long a busy service is tried, and an absent one. How refusals for too many requests slow
the rate: tests/contract/test_throttled.py.
"""

from __future__ import annotations

import time

import pytest

from journaltrack.errors import RemoteError
from journaltrack.remotes.retry import ATTEMPTS_MAX, UNREACHABLE_S, RetryingRemote
from journaltrack.replay.plan.actions import Fields
from journaltrack.util.deadline import Deadline
from tests.failing_remote import FailingRemote, passing


@pytest.fixture
def wait(monkeypatch):
    """Waiting that takes no time, but lets the clock go on for longer than an absent service is
    waited for.
    """
    passed_s = 0.0
    now = time.monotonic

    def waited(seconds):
        nonlocal passed_s
        passed_s += seconds + 2 * UNREACHABLE_S

    monkeypatch.setattr(time, "monotonic", lambda: now() + passed_s)
    return waited


@pytest.mark.parametrize("code", ["ThrottlingException", "ServiceUnavailable"])
def test_a_busy_service_is_tried_for_as_long_as_it_takes(wait, code):
    """A service that answers, if only with refusals, gets all attempts, however long they take."""
    remote = FailingRemote()
    remote.failures["update"] += [passing(code, throttled=code == "ThrottlingException")] * 20
    with pytest.raises(RemoteError):
        RetryingRemote(remote, deadline=Deadline(), sleep=wait).update(
            "run", Fields(parameters={"a": 1.0})
        )
    assert len(remote.asked) == ATTEMPTS_MAX


def test_a_silent_service_is_not_waited_for_again(wait):
    """A service that could not be reached for longer than a moment is given up after the second
    attempt.
    """
    remote = FailingRemote()
    remote.failures["update"] += [passing("ConnectTimeoutError", unreachable=True)] * 20
    with pytest.raises(RemoteError):
        RetryingRemote(remote, deadline=Deadline(), sleep=wait).update(
            "run", Fields(parameters={"a": 1.0})
        )
    assert len(remote.asked) == 2
