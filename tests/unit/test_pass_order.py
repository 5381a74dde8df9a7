"""What a pass may send after something failed: nothing that would put an older value over a
newer one, or meet the same failure.
"""

from __future__ import annotations

from collections import Counter

import pytest

from journaltrack import limits
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.replay.plan import pending
from journaltrack.replay.reconciler import Options, Reconciler
from tests.failing_remote import FailingRemote, passing

LIMIT = RemoteError(
    "too many", kind=ErrorKind.HOLD, code="ResourceLimitExceeded", hint="ask for more"
)


def created(journal, name):
    """A component with its first entry."""
    component = journal.component(name)
    journal.append(component, [vocabulary.create(owner="me")])
    return component


def points(count, name="loss"):
    """So many, with values that occur once."""
    return [vocabulary.metric(name, float(n), n % limits.STEP_MAX, 1) for n in range(count)]


def a_chunk_of_others(journal):
    """As many points as are read at a time, of a component of their own: what is logged next is
    planned later in the pass.
    """
    journal.append(created(journal, "between"), points(pending.CHUNK_METRICS))


def one_pass(journal, remote, **options):
    """A pass; its report."""
    return Reconciler(journal, remote, options=Options(**options)).run()


def states(journal, component):
    """How many of the component's entries are in which state."""
    return Counter(
        outcome or "pending"
        for (outcome,) in journal.database.read(
            "SELECT d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
            "WHERE e.component_id = ?",
            (component,),
        )
    )


@pytest.mark.slow
def test_a_later_value_never_overtakes_one_that_failed(journal):
    """An update that failed for a while is sent again by the next pass: a newer value of the key
    is not sent before it.
    """
    remote = FailingRemote()
    component = created(journal, "run")
    journal.append(component, [vocabulary.parameter("rate", 1.0)])
    a_chunk_of_others(journal)
    journal.append(component, [vocabulary.parameter("rate", 2.0)])
    remote.failures["update"] += [passing()]
    first = one_pass(journal, remote)
    assert (first.halted, first.held) == (None, {})
    assert remote.components["run"].parameters == {}, (
        "the newer value was sent, and the older one is still to come"
    )
    assert len(remote.components["between"].points) == pending.CHUNK_METRICS, "others go on"
    assert one_pass(journal, remote).pending == 0
    assert remote.components["run"].parameters == {"rate": 2.0}


@pytest.mark.slow
def test_nothing_of_a_component_whose_creation_failed_for_a_while_is_sent(journal):
    """What could only be told that there is no such component waits, also when it is planned
    later; others are delivered.
    """
    remote = FailingRemote()
    component = created(journal, "run")
    journal.append(component, [*points(3), vocabulary.parameter("rate", 1.0)])
    a_chunk_of_others(journal)
    journal.append(component, [*points(3, "later"), vocabulary.parameter("rate", 2.0)])
    remote.failures["create"] += [passing()]
    first = one_pass(journal, remote)
    assert remote.about("run") == ["create"]
    assert (first.halted, first.held) == (None, {})
    assert states(journal, component) == {"pending": 9}
    assert one_pass(journal, remote).pending == 0
    assert remote.components["run"].parameters == {"rate": 2.0}
    assert len(remote.components["run"].points) == 6


@pytest.mark.slow
def test_everything_of_a_held_component_stays_pending(journal, tmp_path):
    """Of a component that can't go on nothing is sent or set aside, also of what is planned
    later in the pass; others go on.
    """
    remote = FailingRemote()
    component = created(journal, "run")
    (tmp_path / "model").write_bytes(b"weights")
    blob = Spool(journal.path / "spool").add(tmp_path / "model")
    journal.add_blob(blob.sha256, blob.size_bytes)
    upload = vocabulary.upload(
        "model", BlobRef(blob.sha256, None, None), blob.size_bytes, None, "model"
    )
    journal.append(component, [upload, *points(3)])
    a_chunk_of_others(journal)
    journal.append(component, [*points(3, "later"), vocabulary.parameter("rate", 1.0)])
    unreadable = vocabulary.parameter("text", "x")._replace(payload='{"text": 7}')
    journal.append(component, [unreadable])
    remote.failures["create"] += [LIMIT]
    first = one_pass(journal, remote)
    assert first.held.keys() == {"run"}
    assert remote.about("run") == ["create"]
    assert states(journal, component) == {"pending": 10}
    assert remote.objects == {}
    second = one_pass(journal, remote)
    assert (second.held, second.pending) == ({}, 0)
    assert states(journal, component) == {"delivered": 9, "quarantined": 1}


def test_points_that_are_read_one_by_one_go_out_with_the_others(journal):
    """A point without a time of its own, as an older release wrote it, is sent beside usual
    ones: none is passed over.
    """
    remote = FailingRemote()
    component = created(journal, "run")
    timeless = vocabulary.metric("loss", 100.0, 100, 1)._replace(timestamp_ns=None)
    journal.append(component, [*points(12), timeless, *points(12, "other")])
    report = one_pass(journal, remote)
    assert (report.pending, report.quarantined) == (0, 0)
    sent = Counter((point.name, point.value) for point in remote.components["run"].points)
    assert sent == Counter(
        [
            *(("loss", float(n)) for n in range(12)),
            ("loss", 100.0),
            *(("other", float(n)) for n in range(12)),
        ]
    )
    assert states(journal, component) == {"delivered": 26}


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (passing("EndpointConnectionError", unreachable=True), 1),
        (
            RemoteError(
                "expired", kind=ErrorKind.HALT, code="ExpiredTokenException", everywhere=True
            ),
            1,
        ),
        (RemoteError("denied", kind=ErrorKind.HALT, code="AccessDeniedException"), 3),
        (passing(), 3),
    ],
    ids=["unreachable", "expired", "denied", "passing"],
)
def test_asking_about_doubts_ends_where_the_next_request_would_fail_alike(journal, error, asked):
    """Without a connection or credentials, one component is asked about and not all; what one is
    denied says nothing of others.
    """
    remote = FailingRemote()
    for name in ("a", "b", "c"):
        journal.append(created(journal, name), points(5))
    remote.failures["put_metrics"] += [passing("ReadTimeoutError", maybe_applied=True)] * 3
    assert one_pass(journal, remote).in_doubt == 15
    remote.failures["read_metrics"] += [error] * 3
    report = one_pass(journal, remote, visible_after_s=0.0)
    assert len([method for method, _ in remote.asked if method == "read_metrics"]) == asked
    assert (report.halted is error) == (asked == 1)
    assert report.not_arrived == 0
