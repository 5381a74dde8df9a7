"""Claims on a mirrored journal: how long they hold, how they are renewed, and who gets them next.

Each copy counts on this machine's clock, which these tests set.
"""

from __future__ import annotations

import contextlib
import json
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack import Journal
from journaltrack.errors import LeaseHeldError, LeaseLostError, NotSentError
from journaltrack.mirror import copies, delivery, exchange, folders
from journaltrack.mirror.ship import Shipper
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.lease import Gate
from journaltrack.util import paths, process
from journaltrack.util.deadline import Deadline
from tests.builders import add_artifact
from tests.copies import points, record, sound, states, sync

CLAIM_S = 600.0


@pytest.fixture
def clock(monkeypatch):
    """Seconds since this machine was booted."""
    now_s = [1_000.0]
    monkeypatch.setattr(process, "since_boot_s", lambda: now_s[0])
    return now_s


@pytest.fixture
def mirror(tmp_path):
    """A mirror of a journal with two points."""
    record(tmp_path / "journal", *points(1, 2))
    found = folders.opened(tmp_path / "mirror", create=True)
    ship(tmp_path / "journal", found)
    return found


def ship(journal, mirror):
    """Mirror what is new."""
    with closing(Shipper(journal, mirror)) as shipper:
        shipper.ship()


@pytest.fixture
def copy_of(mirror, tmp_path, monkeypatch):
    """Makes or extends the copy in a home of a name; returns its folder."""

    def extend(name):
        monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / name))
        (copied,) = copies.extended(mirror.path)
        return copied.folder

    return extend


def claim(journal, *, stay=True):
    """Deliver nothing; returns for how long requests might have left."""
    with delivery.delivering(journal, stay=stay, claim_s=CLAIM_S) as left_s:
        return left_s


def claims_in(mirror):
    """The numbers of claims."""
    return sorted(int(path.stem) for path in mirror.path.glob("*/delivery/*.claim"))


def test_a_claim_ends_before_anybody_takes_it_over(mirror, copy_of, clock):
    """Who does not renew sends nothing any more when others begin: they wait a quarter longer, each
    on its own clock from when it saw the claim. What was pending is in doubt then. The first one,
    back again, sends nothing.
    """
    one, two = copy_of("one"), copy_of("two")
    left_s = claim(one)
    clock[0] += 100
    for seconds in (0, 499, 100, 150):
        clock[0] += seconds
        with pytest.raises(LeaseHeldError, match="delivers") as held:
            claim(two)
        assert "13 min" in held.value.hint or "12 min" in held.value.hint
    assert left_s() == 0
    clock[0] += 1
    claim(two)
    assert states(two) == {"pending": 1, "in doubt": 2}
    for again in (claim, claim):
        with pytest.raises(LeaseHeldError):
            again(one)
    sound(two)


def test_a_renewed_claim_holds(mirror, copy_of, clock):
    """While it is renewed, nobody takes it over; a renewal is the next number. What needs no
    renewal yet makes no file.
    """
    one, two = copy_of("one"), copy_of("two")
    left_s = claim(one)
    for _ in range(20):
        clock[0] += 140
        delivery.tend(one)
        claim(one)
        with pytest.raises(LeaseHeldError):
            claim(two)
        assert left_s() > 300
    assert 8 < len(claims_in(mirror)) < 12
    assert states(two) == {"pending": 3}


@pytest.mark.slow
def test_a_pass_renews_its_claim(mirror, copy_of):
    """A pass that takes longer than a claim holds keeps it."""
    one, two = copy_of("one"), copy_of("two")
    with delivery.delivering(one, claim_s=2.0):
        while len(claims_in(mirror)) < 3:
            with pytest.raises(LeaseHeldError):
                claim(two)


def test_what_a_pass_makes_itself_is_in_the_mirror_with_its_receipts(mirror, tmp_path):
    """Such as a file of long parameters: nobody may mirror the journal after it."""
    journal = tmp_path / "journal"
    with delivery.delivering(journal), closing(Journal.open(journal)) as opened:
        add_artifact(opened, b"the parameters")
        journal_id = opened.journal_id
    kept = [file.read_bytes() for file in mirror.blobs(journal_id).rglob("*") if file.is_file()]
    assert kept == [b"the parameters"]


def test_of_two_takers_one_gets_it(mirror, copy_of, clock):
    """Two copies that waited for a lost one: the second begins to wait again."""
    one, two, three = copy_of("one"), copy_of("two"), copy_of("three")
    claim(one)
    for each in (two, three):
        with pytest.raises(LeaseHeldError):
            claim(each)
    clock[0] += 751
    claim(two)
    with pytest.raises(LeaseHeldError):
        claim(three)
    assert states(three) == {"pending": 3}


@pytest.mark.slow
def test_old_listings_do_no_harm(mirror, copy_of, clock):
    """Whoever sees an older claim than the newest one gets none: the next number is taken, or has
    been and was removed. The holder sees that nothing of its own is lost.
    """
    one, two = copy_of("one"), copy_of("two")
    left_s = claim(one)
    for _ in range(70):
        clock[0] += 200
        delivery.tend(one)
        claim(one)
    newest = claims_in(mirror)[-1]
    assert len(claims_in(mirror)) == 64
    name = exchange.load(two, mirror.id).replica or "two-0123456789abcdef"
    stale = delivery.Hold(two, mirror.journals()[0], mirror, name, CLAIM_S)
    for number in (1, 2, newest - 1, newest):
        with pytest.raises(LeaseHeldError):
            stale.make(number)
        assert stale.left_s() == 0
    assert left_s() > 0
    clock[0] += 200
    delivery.tend(one)
    assert left_s() == CLAIM_S


def test_an_unused_claim_is_given_back(mirror, copy_of, clock):
    """A watcher that has nothing to deliver releases the claim, so that anybody may deliver."""
    one, two = copy_of("one"), copy_of("two")
    claim(one)
    for _ in range(2):
        clock[0] += 200
        delivery.tend(one)
    copy_of("two")
    claim(two, stay=False)
    claim(one, stay=False)


def test_requests_end_with_the_claim(mirror, copy_of, clock):
    """Right before a request's first byte, the claim must still hold: a machine that was suspended
    sends nothing when it wakes. Later passes may, if nobody has taken over.
    """
    one = copy_of("one")
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(LeaseLostError, match="could not be renewed"))
        gate = Gate(Deadline(), stack.enter_context(delivery.delivering(one, claim_s=CLAIM_S)))
        gate.departing()
        clock[0] += 599
        gate.departing()
        clock[0] += 2
        assert gate.over
        with pytest.raises(NotSentError):
            gate.departing()
    with delivery.delivering(one, claim_s=CLAIM_S) as left_s:
        Gate(Deadline(), left_s).departing()
        assert sync(one, MemoryRemote()).pending == 0


def test_a_claim_of_a_killed_process_is_its_copy_s(mirror, copy_of, clock):
    """The next process of the same copy goes on at once, with a claim of its own."""
    one = copy_of("one")
    claim(one)
    delivery._kept.clear()
    claim(one)
    assert claims_in(mirror) == [1, 2]


def test_claims_of_older_versions_do_not_end(mirror, copy_of, clock):
    """One that does not say how long it holds, or says nonsense, is for an operator to take over;
    nothing is taken over either while something is missing that its maker may have sent.
    """
    one, two = copy_of("one"), copy_of("two")
    claim(one)
    (file,) = mirror.path.glob("*/delivery/*.claim")
    good = json.loads(file.read_bytes())
    for expires_s in (None, "600", -1, 0, 1e300, True, [], float("nan")):
        file.write_text(json.dumps(good | {"expires_s": expires_s}))
        for _ in range(2):
            with pytest.raises(LeaseHeldError):
                claim(two)
            clock[0] += 1e6
    file.write_text(json.dumps(good))
    with pytest.raises(LeaseHeldError):
        claim(two)
    clock[0] += 751
    (segment,) = mirror.path.glob("*/*/00000001.jsonl")
    journal = mirror.path.parent / "journal"
    record(journal, *points(3))
    ship(journal, mirror)
    record(journal, *points(4))
    ship(journal, mirror)
    hidden = Path(segment.with_name("00000002.jsonl"))
    hidden.rename(hidden.with_suffix(".away"))
    with pytest.raises(LeaseHeldError, match="not all of"):
        claim(two)
    hidden.with_suffix(".away").rename(hidden)
    claim(two)
    assert paths.MIRRORED in {path.name for path in two.iterdir()}
    assert states(two) == {"pending": 3, "in doubt": 4}
