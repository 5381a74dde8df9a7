"""A mirror on a file system that misbehaves as shared ones do: stale listings and handles, cached
attributes, errors, no locks, a full disk, a server that hangs or crashes.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from contextlib import closing

import pytest

from journaltrack.errors import LeaseHeldError, MirrorError
from journaltrack.journal.journal import Journal
from journaltrack.mirror import beside, copies, delivery, folders, join
from journaltrack.mirror.check import check
from journaltrack.mirror.follower import Follower
from journaltrack.mirror.ship import Shipper
from journaltrack.remotes.memory import MemoryRemote
from tests.builders import CREATION, add_artifact, opened
from tests.copies import content, points, record, sound, states, sync
from tests.faults import faulty_disk
from tests.faults.shared_disk import Fault, SharedDisk
from tests.patience import FOREVER_S, scaled

NUMBERS = [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT]
WRITING = ["create", "write", "fsync", "rename", "fsyncdir", "setattr", "flush", "unlink"]
READING = ["lookup", "opendir", "readdir", "open", "read", "getattr"]


def copy_in(home, mirror):
    """Extend the copy in a home, as far as the mirror can be read."""
    os.environ["JOURNALTRACK_HOME"] = str(home)
    found = copies.extended(mirror)
    assert len(found) <= 1
    for each in found:
        assert each.problem is None or isinstance(each.problem, MirrorError), each.problem
        problems = [replica.problem for replica in each.replicas]
        assert all(problem is None or isinstance(problem, MirrorError) for problem in problems)
    return found[0].folder if found else None


def tried(call, *arguments):
    """Do something that a failing mirror may refuse."""
    try:
        return call(*arguments)
    except MirrorError as error:
        return None if error.hint else pytest.fail("an error without a hint")


def hour(place, seed):
    """A node writes, joins and removes while its reader reads; the server errs, fills and crashes;
    each client sees late what others do.
    """
    chance = random.Random(seed)
    disk = SharedDisk(place / "node", place / "login")
    join.FANIN, join.GRACE_S = 4, -1.0
    mirror = folders.opened(place / "node" / "mirror", create=True)
    journal = place / "journal"
    with opened(place, {"run": [CREATION]}) as log:
        add_artifact(log, b"weights" * 1_000)
    copied = None
    with closing(Shipper(journal, mirror)) as shipper:
        for _ in range(scaled(40)):
            record(journal, *points(*range(chance.randrange(1, 4))))
            kind = chance.choice(["well", "error", "error", "stale", "full"])
            disk.set(
                faults=[
                    Fault(
                        chance.choice(WRITING + READING),
                        chance.choice(NUMBERS),
                        after=chance.randrange(6),
                        count=chance.randrange(1, 4),
                        is_done=chance.random() < 0.3,
                    )
                    for _ in range(2 if kind == "error" else 0)
                ],
                stale_looks=chance.randrange(1, 30) if kind == "stale" else 0,
                cached_s=3_600 if kind == "stale" else 0,
                room=4_000 if kind == "full" else None,
                full=chance.choice([errno.ENOSPC, errno.EDQUOT]),
            )
            tried(lambda: shipper.copy_blobs(shipper.ship()))
            tried(shipper.join)
            if chance.random() < 0.3:
                disk.set(crash=True)
            copied = tried(copy_in, place / "home", place / "login" / "mirror") or copied
            if copied is not None:
                assert content(copied).keys() <= content(journal).keys()
        counts = disk.set(faults=[], stale_looks=0, cached_s=0, room=None)
        shipper.copy_blobs(shipper.ship())
        shipper.join()
    # A new process looks for what the server lost.
    with closing(Shipper(journal, mirror)) as shipper:
        shipper.copy_blobs(shipper.ship())
    for client, home in (("login", "home"), ("node", "another"), ("login", "a third")):
        found = copy_in(place / home, place / client / "mirror")
        assert content(found) == content(journal)
        sound(found)
        assert all(each.is_well for each in check(folders.opened(place / client / "mirror")))
    assert counts["setlk"] == counts["setlkw"] == 0
    disk.close()


@pytest.mark.parametrize("seed", range(scaled(2)))
def test_a_misbehaving_shared_disk_loses_nothing(tmp_path, seed):
    """Whatever the shared file system does, a reader has nothing that was not recorded, and sees
    no contradiction; when it works again, everything arrives, and is proved. Nobody asks it for
    a lock.
    """
    faulty_disk.assert_in_child(hour, tmp_path, seed)


def claimed(place):
    """Two machines want to deliver, each with a cached listing of its own."""
    disk = SharedDisk(place / "one", place / "two")
    mirror = folders.opened(place / "one" / "mirror", create=True)
    record(place / "journal", *points(1, 2))
    with closing(Shipper(place / "journal", mirror)) as shipper:
        shipper.ship()
    one = copy_in(place / "home one", place / "one" / "mirror")
    two = copy_in(place / "home two", place / "two" / "mirror")
    sent = []

    def deliver(journal):
        """Deliver what is pending, if this copy may."""
        try:
            with delivery.delivering(journal):
                sent.append(sync(journal, MemoryRemote()).delivered)
        except (LeaseHeldError, MirrorError) as error:
            sent.append(error)

    # Whoever has an old listing makes the same claim: the server knows better.
    disk.set(stale_looks=1_000)
    for name in ("one", "two"):
        os.listdir(place / name / "mirror" / mirror.journals()[0])
    with delivery.delivering(one, stay=True):
        deliver(two)
    assert isinstance(sent.pop(), (LeaseHeldError, MirrorError))
    disk.set(stale_looks=0)
    delivery.release(one)
    # No links; the answer to a link is lost; so is that to a rename; the folder can't be listed.
    for fault in (
        Fault("link", errno.EPERM),
        Fault("link", errno.EIO, is_done=True),
        Fault("rename", errno.ESTALE, is_done=True),
        Fault("readdir", errno.EIO),
        Fault("fsyncdir", errno.ENOSPC),
    ):
        disk.set(faults=[fault])
        deliver(one)
        disk.set(faults=[])
        deliver(one)
    assert sum(each for each in sent if isinstance(each, int)) == 3
    sent.clear()
    two = copy_in(place / "home two", place / "two" / "mirror")
    deliver(two)
    assert sent == [0]
    assert states(two) == states(one) == {"delivered": 3}
    disk.close()


def test_two_machines_with_stale_listings_do_not_deliver_twice(tmp_path):
    """A machine that does not see another one's claim does not get one. Errors while one claims,
    writes its receipts or releases make it try again; each point is sent once.
    """
    faulty_disk.assert_in_child(claimed, tmp_path)


def hung(place):
    """The server does not answer while a node logs."""
    disk = SharedDisk(place / "node")
    mirror = folders.opened(place / "node" / "mirror", create=True)
    record(place / "journal", *points(0))
    follower = Follower(place / "journal", mirror, 0.1)
    ended = threading.Event()
    thread = threading.Thread(target=follower.run, args=(ended,))
    thread.start()
    disk.set(is_paused=True)
    with closing(Journal.open(place / "journal")) as log:
        component = log.component("a")
        for value in range(1_000):
            log.append(component, points(value))
        log.flush()
    assert thread.is_alive()
    disk.set(is_paused=False)
    ended.set()
    thread.join(FOREVER_S)
    assert not thread.is_alive()
    (found,) = check(mirror)
    assert found.is_well
    assert found.entries == len(content(place / "journal"))
    disk.close()


def test_a_server_that_hangs_holds_no_call_up(tmp_path):
    """While the shared file system answers nothing, a thousand entries are recorded; when it
    answers again, they are mirrored.
    """
    faulty_disk.assert_in_child(hung, tmp_path)


def open_on(place):
    """A program has a file open on a server that does not answer, and uses a journal elsewhere."""
    disk = SharedDisk(place / "node")
    with (place / "node" / "data").open("wb", buffering=0):
        disk.set(is_paused=True)
        record(place / "journal", *points(0))
        record(place / "journal", *points(1))
        disk.set(is_paused=False)
    disk.close()


def test_a_file_that_is_open_on_a_hanging_server_delays_no_journal(tmp_path):
    """Closing a journal asks no file system about other files that the process has open."""
    faulty_disk.assert_in_child(open_on, tmp_path)


def never(place):
    """The server never answers again, and nobody logs any more."""
    disk = SharedDisk(place / "node")
    journal, mirror = place / "journal", place / "node" / "mirror"
    record(journal, *points(0))
    asked = threading.Event()
    beside._HURRIED_S = 0.0
    users = beside.Post(journal, mirror).enter()
    found = []

    def mirrored():
        """Mirror beside somebody who logs."""
        found.append(beside.mirror_beside(journal, mirror, 0.1, asked))

    thread = threading.Thread(target=mirrored)
    thread.start()
    post = beside.Post(journal, mirror)
    wanted = post.hurry()
    while post.told().answered < wanted:
        assert thread.is_alive()
    disk.set(is_paused=True)
    record(journal, *points(1))
    os.close(users)
    asked.set()
    thread.join(FOREVER_S)
    assert not thread.is_alive()
    assert "does not answer" in found[0].message
    assert not post.is_running()
    disk.close()


def test_who_mirrors_ends_though_the_server_never_answers(tmp_path):
    """When a job ends while its file server hangs, no process stays behind: who mirrors gives up
    some time after SIGTERM, or after the last one that logged.
    """
    faulty_disk.assert_in_child(never, tmp_path)


def silently(place):
    """The server crashes at each moment of writing a segment."""
    disk = SharedDisk(place / "node")
    mirror = folders.opened(place / "node" / "mirror", create=True)
    journal = place / "journal"
    record(journal, *points(0))
    with closing(Shipper(journal, mirror)) as shipper:
        shipper.ship()
        for operation in WRITING:
            for is_done in (False, True):
                record(journal, *points(1, 2))
                disk.set(faults=[Fault(operation, errno.EIO, is_done=is_done)])
                tried(shipper.ship)
                disk.set(faults=[], crash=True)
                (found,) = check(mirror)
                assert not found.problems
                shipper.ship()
                disk.set(crash=True)
                (found,) = check(mirror)
                assert found.is_well, (operation, is_done, found)
                assert found.entries == len(content(journal))
    disk.close()


def test_a_server_that_loses_what_was_not_synced_loses_no_entry(tmp_path):
    """Wherever the server crashes, what a writer believes to be mirrored is there, whole, with its
    name; what it was writing, it writes again.
    """
    faulty_disk.assert_in_child(silently, tmp_path)


def unreadable(place):
    """One of two replicas can't be read, at each operation and with each error."""
    disk = SharedDisk(place / "node", place / "login")
    mirror = folders.opened(place / "node" / "mirror", create=True)
    for name in ("journal", "twin"):
        if name == "twin":
            shutil.copytree(place / "journal", place / "twin")
        record(place / name, *points(1), component=name)
        with closing(Shipper(place / name, mirror)) as shipper:
            shipper.ship()
    everything = content(place / "twin") | content(place / "journal")
    for operation in READING:
        for number in (errno.EIO, errno.ESTALE, errno.EACCES):
            for after in range(3):
                disk.set(faults=[Fault(operation, number, after=after)])
                os.environ["JOURNALTRACK_HOME"] = str(place / f"{operation}-{number}-{after}")
                try:
                    found = copies.extended(place / "login" / "mirror")
                except MirrorError:
                    found = []
                for copied in found:
                    if copied.folder is not None:
                        assert content(copied.folder).keys() <= everything.keys()
                        assert len(copied.notes) == sum(
                            each.waits is not None or each.problem is not None
                            for each in copied.replicas
                        )
                disk.set(faults=[])
                (copied,) = copies.extended(place / "login" / "mirror")
                assert copied.notes == []
                assert content(copied.folder) == everything
    # Another user's files, for as long as nobody gives the right to read them.
    replicas = mirror.replicas(mirror.journals()[0])
    disk.set(faults=[Fault("open", errno.EACCES, after=4)])
    os.environ["JOURNALTRACK_HOME"] = str(place / "others")
    (copied,) = copies.extended(place / "login" / "mirror")
    told = {each.name: each.problem for each in copied.replicas if each.problem is not None}
    assert len(told) == 1
    assert len(replicas) == 2
    assert any("Permission denied" in note for note in copied.notes)
    assert content(copied.folder)
    disk.close()


def test_a_reader_that_can_not_read_keeps_what_it_has_and_reads_the_rest(tmp_path):
    """Whichever operation fails while a mirror is read, the copy holds nothing that is not proved,
    and later everything. A replica that can't be read is told, and holds no other one up.
    """
    faulty_disk.assert_in_child(unreadable, tmp_path)
