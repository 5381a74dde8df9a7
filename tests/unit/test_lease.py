"""The lease: one process at a time may reconcile a journal, and whoever lost the lease can
settle nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading

import pytest

from journaltrack.errors import LeaseHeldError, LeaseLostError
from journaltrack.journal.journal import Journal
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Settlement

HOUR_NS = 3_600 * 10**9
pytestmark = pytest.mark.journal({"run": []})


class Clock:
    """Nanoseconds that a test moves."""

    def __init__(self, now_ns=1_800_000_000 * 10**9):
        self.now_ns = now_ns

    def __call__(self):
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


def row(journal):
    """Owner, generation and expiry, as recorded."""
    return journal.database.read("SELECT owner, generation, expires_at_ns FROM lease")[0]


def taken_elsewhere(journal, expires_at_ns):
    """As a process on another machine records it."""
    with journal.database.transaction() as connection:
        connection.execute(
            "UPDATE lease SET owner = 'pid 7 on node7', host = 'node7', pid = 7, generation = "
            "generation + 1, expires_at_ns = ?",
            (expires_at_ns,),
        )


HOLD = """
import sys
from journaltrack.replay import lease
from journaltrack.journal.journal import Journal
held = lease.acquire(Journal.open(sys.argv[1]).database)
print("held", flush=True)
sys.stdin.read()
"""


def holding(journal):
    """A process that holds the lease until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(journal.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    return process


def ended(process):
    process.kill()
    process.communicate()


def test_another_process_is_kept_out_and_named(journal):
    """While a process holds the lease nobody else gets it, and the message says who has it;
    killed, it holds nothing.
    """
    process = holding(journal)
    with pytest.raises(LeaseHeldError) as caught:
        leases.acquire(journal.database)
    assert f"pid {process.pid}" in caught.value.message
    assert socket.gethostname() in caught.value.message
    assert caught.value.hint
    ended(process)
    leases.acquire(journal.database).release()


def test_another_thread_is_kept_out(journal):
    """The kernel's lock does not tell threads apart; the lease does."""
    held = leases.acquire(journal.database)
    caught = []

    def attempt():
        other = Journal.open(journal.path)
        try:
            leases.acquire(other.database)
        except LeaseHeldError as error:
            caught.append(error)
        finally:
            other.close()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "another thread" in caught[0].message
    held.release()
    leases.acquire(journal.database).release()


def test_an_attempt_in_vain_frees_nothing(journal):
    """After somebody was refused, the holder still holds it."""
    process = holding(journal)
    for _ in range(3):
        with pytest.raises(LeaseHeldError):
            leases.acquire(journal.database)
    ended(process)


def test_every_holder_has_a_generation_of_its_own(journal):
    """Generations rise, and a released lease has no owner."""
    generations = []
    for _ in range(3):
        held = leases.acquire(journal.database)
        generations.append(held.generation)
        held.release()
    assert generations == sorted(set(generations))
    assert row(journal)[0] is None


def test_a_holder_on_another_machine_is_respected_until_its_time_is_over(journal, clock):
    """The kernel can't see there: only the clock frees that lease."""
    taken_elsewhere(journal, clock.now_ns + 60 * 10**9)
    with pytest.raises(LeaseHeldError, match="node7"):
        leases.acquire(journal.database, clock_ns=clock)
    clock.now_ns += 61 * 10**9
    leases.acquire(journal.database, clock_ns=clock).release()


@pytest.mark.parametrize("ahead_ns", [24 * HOUR_NS, 10 * 365 * 24 * HOUR_NS])
def test_an_expiry_that_no_lease_has_does_not_block(journal, clock, ahead_ns):
    """A machine whose clock was far ahead leaves an expiry that is taken for what it is."""
    taken_elsewhere(journal, clock.now_ns + ahead_ns)
    (_, generation, expires_at_ns) = row(journal)
    held = leases.acquire(journal.database, clock_ns=clock)
    assert row(journal)[1] == generation + 1
    assert clock.now_ns < row(journal)[2] < expires_at_ns
    held.release()


@pytest.mark.parametrize("jump_ns", [-48 * HOUR_NS, 48 * HOUR_NS])
def test_a_clock_that_jumps_neither_loses_nor_wedges_it(journal, clock, jump_ns):
    """The holder goes on settling after a jump, and the next one gets the lease."""
    held = leases.acquire(journal.database, clock_ns=clock)
    clock.now_ns += jump_ns
    with journal.database.transaction() as connection:
        held.check(connection)
    held.renew()
    held.release()
    leases.acquire(journal.database, clock_ns=clock).release()


def test_it_is_renewed_while_it_is_used(journal, clock):
    """Checks and renewals move the expiry ahead, but not at every one of them."""
    held = leases.acquire(journal.database, clock_ns=clock)
    first = row(journal)[2]
    clock.now_ns += 5 * 10**9
    held.renew()
    assert row(journal)[2] == first
    clock.now_ns += 20 * 10**9
    held.renew()
    assert row(journal)[2] == clock.now_ns + int(leases.TTL_S * 1e9)
    held.release()


def test_whoever_lost_it_can_settle_nothing(journal, clock):
    """After somebody took it over, every record of the former holder is refused, and nothing of
    it stays.
    """
    held = leases.acquire(journal.database, clock_ns=clock)
    settlement = Settlement(journal.database, held, clock)
    from journaltrack.replay.evidence.outcomes import Intent, Outcome

    (receipt_id,) = settlement.begin([Intent("update", 1, [1])])
    taken_elsewhere(journal, clock.now_ns + 60 * 10**9)
    for attempt in (
        lambda: settlement.begin([Intent("update", 1, [1])]),
        lambda: settlement.finish([Outcome(receipt_id, None, "delivered")]),
        lambda: settlement.advance_mark(5),
        settlement.recover,
    ):
        with pytest.raises(LeaseLostError):
            attempt()
    assert journal.database.read("SELECT finished_at_ns FROM receipt") == [(None,)]
    assert journal.database.read("SELECT seq FROM mark") == [(0,)]
    held.release()
    assert row(journal)[0] == "pid 7 on node7", "releasing takes nothing away from the new holder"


def _acquire_in_child(path, results):
    other = Journal.open(path)
    try:
        leases.acquire(other.database).release()
        results.put("acquired")
    except LeaseHeldError:
        results.put("held")


def test_a_forked_child_does_not_hold_its_parent_s(journal):
    """A child forked from a holder is somebody else; and its end frees nothing of the parent's."""
    held = leases.acquire(journal.database)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    for _ in range(2):
        child = context.Process(target=_acquire_in_child, args=(journal.path, results))
        child.start()
        assert results.get() == "held"
        child.join()
    held.release()
    child = context.Process(target=_acquire_in_child, args=(journal.path, results))
    child.start()
    assert results.get() == "acquired"
    child.join()


def test_the_file_of_a_dead_holder_does_not_matter(journal):
    """What a killed process left behind blocks nobody."""
    ended(holding(journal))
    assert (journal.path / leases.LOCK_FILE).exists()
    assert row(journal)[0] is not None
    held = leases.acquire(journal.database)
    assert row(journal)[0].startswith(f"pid {os.getpid()}")
    held.release()
