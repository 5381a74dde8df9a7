"""Nodes that go silent, and come back: what the copy that delivers their journals records."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, runs
from journaltrack.cli import main
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.mirror import copies, delivery, exchange, folders, heartbeat
from journaltrack.mirror.follower import Follower
from journaltrack.mirror.ship import Shipper
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.reports import component
from journaltrack.util import paths, process
from tests.copies import content, points, read, sound, states, sync

HOUR_NS = 3_600 * 10**9


class Node:
    """A machine with a journal of its own, a clock of its own, and a process that mirrors."""

    def __init__(self, tmp_path, name="node", skew_ns=0):
        self.journal = tmp_path / name
        self.mirror = folders.opened(tmp_path / "mirror", create=True)
        self.name = name
        self.skew_ns = skew_ns

    def clock_ns(self):
        """Its time."""
        return time.time_ns() + self.skew_ns

    def log(self, *drafts, run="run"):
        """A process records; its run is not over unless a draft says so."""
        with closing(Journal.open(self.journal, clock_ns=self.clock_ns, host=self.name)) as journal:
            number = journal.component(run)
            if not journal.state_entries(number):
                begun = vocabulary.status(primary="InProgress", start_ns=self.clock_ns())
                drafts = (vocabulary.create(owner="o"), begun, *drafts)
            journal.append(number, drafts)

    def ship(self, every_s=30.0, takes=True):
        """Mirror what is new, and promise the next heartbeat."""
        with closing(Shipper(self.journal, self.mirror, clock_ns=self.clock_ns)) as shipper:
            shipper.ship()
            shipper.beat(every_s)
        if takes:
            Follower(self.journal, self.mirror)._take()

    def age(self, seconds):
        """The server's time goes on, and nothing comes from this node."""
        name = exchange.load(self.journal, self.mirror.id).replica
        (file,) = self.mirror.path.glob(f"*/{name}/{heartbeat.FILE}")
        at_s = time.time() - seconds
        os.utime(file, (at_s, at_s))


def settled(mirror, after_s=600.0):
    """A reader extends its copies and looks for silent nodes; returns names of runs ended, and of
    runs whose own status counts again.
    """
    found = copies.extended(mirror.path)
    done = copies.settle(mirror, found, after_s, 600.0)
    return (
        [name for each in done for name in each.ended],
        [name for each in done for name in each.again],
    )


def copy_in(mirror):
    """The folder of the one copy."""
    (folder,) = paths.journals_in(copies.place_of(mirror))
    return folder


def status_in(journal, run="run"):
    """Status, message and end as a copy shows them."""
    found = component.show(journal, run).status
    return found.primary, found.message, found.end_ns


def test_a_silent_node_s_run_is_stopped_once(tmp_path):
    """Its run is Stopped at its last entry, with when the node was last seen and what was mirrored
    last. That is recorded once, in a chain of its own, and delivered.
    """
    node = Node(tmp_path)
    node.log(*points(1, 2))
    node.ship()
    assert settled(node.mirror) == ([], [])
    node.age(599)
    assert settled(node.mirror) == ([], [])
    node.age(700)
    assert settled(node.mirror) == (["run"], [])
    assert settled(node.mirror) == ([], [])
    folder = copy_in(node.mirror)
    status, message, end_ns = status_in(folder)
    assert status == "Stopped"
    assert message.startswith("the node went silent at 20")
    assert message.endswith("Z, last mirrored entry 4")
    assert [(end_ns,)] == read(folder, "SELECT recorded_at_ns FROM entry WHERE seq = 4")
    sound(folder)
    remote = MemoryRemote()
    assert sync(folder, remote).pending == 0
    assert remote.components["run"].status.primary == "Stopped"
    # The node's journal, the lost one, is what was mirrored.
    assert len(content(folder)) == 5


def test_a_run_on_a_node_that_lives_is_running(tmp_path, monkeypatch):
    """Where a mirror is delivered, runs in progress are running as soon as a new heartbeat of their
    node was seen, until some are overdue. A first heartbeat may be an old one, and proves nothing;
    a node that ended in order promises none.
    """
    node = Node(tmp_path)
    now_s = process.since_boot_s()
    monkeypatch.setattr(process, "since_boot_s", lambda: now_s)

    def state():
        return [run.status for run in runs(copy_in(node.mirror))]

    node.log(*points(1))
    node.ship()
    (file,) = node.mirror.path.rglob(heartbeat.FILE)
    os.utime(file, (time.time() - 91, time.time() - 91))
    assert settled(node.mirror) == ([], [])
    assert settled(node.mirror) == ([], [])
    assert state() == ["unknown"]
    node.ship()
    assert settled(node.mirror) == ([], [])
    assert state() == ["running"]
    now_s += 89.0
    assert state() == ["running"]
    now_s += 2.0
    assert state() == ["unknown"]
    assert settled(node.mirror) == ([], [])
    assert state() == ["unknown"]
    node.ship()
    assert settled(node.mirror) == ([], [])
    assert state() == ["running"]
    node.ship(every_s=None)
    assert settled(node.mirror) == ([], [])
    assert state() == ["unknown"]


@pytest.mark.parametrize(("kind", "status"), [(None, "running"), ("lustre", "unknown")])
def test_who_reads_a_mirror_sees_that_a_run_is_running(tmp_path, monkeypatch, kind, status):
    """Nobody delivers. A heartbeat that is new by the file server's time shows it at once; by a
    client's time it does not.
    """
    node = Node(tmp_path)
    shared = {node.mirror.path: kind}
    monkeypatch.setattr(paths, "network_file_system", lambda path: shared.get(Path(path)))
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "login"))
    node.log(*points(1))
    node.ship()
    done = CliRunner().invoke(main, ["runs", str(node.mirror.path), "--json"])
    assert [run["status"] for run in json.loads(done.stdout)] == [status]


@pytest.mark.parametrize("skew_ns", [0, HOUR_NS, -HOUR_NS])
@pytest.mark.parametrize("ends", [False, True])
def test_a_node_that_comes_back_has_the_last_word(tmp_path, skew_ns, ends):
    """What the node records later counts, whatever its clock says: its own status, or that it is in
    progress. Both histories are the same in both copies afterwards.
    """
    node = Node(tmp_path, skew_ns=skew_ns)
    node.log(*points(1))
    node.ship()
    node.age(700)
    assert settled(node.mirror) == (["run"], [])
    final = [vocabulary.status(primary="Completed", end_ns=node.clock_ns())] if ends else []
    node.log(*points(2), *final)
    node.ship()
    assert settled(node.mirror) == ([], [] if ends else ["run"])
    assert settled(node.mirror) == ([], [])
    node.ship()
    expected = "Completed" if ends else "InProgress"
    folder = copy_in(node.mirror)
    for journal in (folder, node.journal):
        assert status_in(journal)[0] == expected
        sound(journal)
    assert content(folder).keys() == content(node.journal).keys()
    with closing(Journal.open(node.journal, read_only=True)) as journal:
        assert journal.last_status(1).primary == expected
    remote = MemoryRemote()
    assert sync(folder, remote).pending == 0
    assert remote.components["run"].status.primary == expected
    # And if it is lost for good, its run ends after all.
    node.age(700)
    assert settled(node.mirror) == ([] if ends else ["run"], [])


def test_what_a_node_recorded_while_it_was_silent_counts(tmp_path):
    """A node that was cut off ends its run; when the mirror is there again, the run has ended as
    the node says, in both copies, also where the reader's entry comes last.
    """
    node = Node(tmp_path)
    node.log(*points(1))
    node.ship()
    node.age(700)
    node.log(vocabulary.status(primary="Completed", end_ns=node.clock_ns()))
    assert settled(node.mirror) == (["run"], [])
    Follower(node.journal, node.mirror)._take()
    assert status_in(node.journal)[0] == "Completed"
    with closing(Journal.open(node.journal, read_only=True)) as journal:
        assert journal.last_status(1).primary == "Completed"
    node.ship()
    assert settled(node.mirror) == ([], [])
    assert status_in(copy_in(node.mirror))[0] == "Completed"


@pytest.mark.parametrize("skew_ns", [0, -HOUR_NS])
def test_a_run_that_goes_on_elsewhere_is_in_progress(tmp_path, skew_ns):
    """A job that is requeued continues its run on another node, whose clock may be behind: the run
    is in progress again, ends as that node says, and the first node's silence does not end it.
    """
    node = Node(tmp_path)
    node.log(*points(1))
    node.ship()
    node.age(700)
    assert settled(node.mirror) == (["run"], [])
    shutil.copytree(copy_in(node.mirror), tmp_path / "other")
    other = Node(tmp_path, "other", skew_ns)
    other.log(vocabulary.status(primary="InProgress"), *points(2))
    other.ship()
    assert settled(node.mirror) == ([], [] if not skew_ns else ["run"])
    assert settled(node.mirror) == ([], [])
    assert status_in(copy_in(node.mirror))[0] == "InProgress"
    other.log(vocabulary.status(primary="Completed"))
    other.ship()
    settled(node.mirror)
    assert settled(node.mirror) == ([], [])
    assert status_in(copy_in(node.mirror))[0] == "Completed"
    other.ship()
    assert status_in(other.journal)[0] == "Completed"


def test_what_has_ended_in_order_is_never_stopped(tmp_path):
    """A run that is over keeps its status; a mirror that ended in order, or that promised nothing,
    is not silent; a node that lives is not either, however old its entries are.
    """
    node = Node(tmp_path)
    node.log(vocabulary.status(primary="Failed"), run="over")
    node.ship()
    node.age(10_000)
    assert settled(node.mirror) == ([], [])
    node.log(*points(1))
    node.ship(every_s=None)
    node.age(10_000)
    assert settled(node.mirror) == ([], [])
    node.ship()
    node.age(10)
    assert settled(node.mirror) == ([], [])
    assert settled(node.mirror, after_s=0) == ([], [])
    # Three heartbeats may be missing, however short a silence is asked for.
    node.age(80)
    assert settled(node.mirror, after_s=1) == ([], [])
    node.age(100)
    assert settled(node.mirror, after_s=1) == (["run"], [])


def test_silence_is_measured_by_one_clock(tmp_path, monkeypatch):
    """Where files have the times of clients, such as on Lustre, the reader counts how long it has
    seen the same heartbeat, itself: a node's clock may be an hour off.
    """
    monkeypatch.setattr(paths, "network_file_system", lambda _: "lustre")
    now_s = [0.0]
    monkeypatch.setattr(process, "since_boot_s", lambda: now_s[0])

    def ended_at(second):
        """The runs that are ended at a second of the reader's clock."""
        now_s[0] = float(second)
        return settled(node.mirror)[0]

    node = Node(tmp_path)
    node.log(*points(1))
    node.ship()
    node.age(3_600)
    assert [ended_at(second) for second in (1_000, 1_599)] == [[], []]
    node.ship()
    node.age(3_600)
    assert [ended_at(second) for second in (1_600, 2_199)] == [[], []]
    # A machine that was booted meanwhile begins again.
    monkeypatch.setattr(process, "boot", lambda: "another")
    assert [ended_at(second) for second in (2_201, 2_800, 2_801)] == [[], [], ["run"]]


def test_only_who_delivers_records_it(tmp_path, monkeypatch):
    """Of two readers, the one that delivers records that a run stopped; the other one gets that
    from the mirror, and records nothing.
    """
    node = Node(tmp_path)
    node.log(*points(1))
    node.ship()
    node.age(700)
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "one"))
    copies.extended(node.mirror.path)
    one = copy_in(node.mirror)
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "two"))
    copies.extended(node.mirror.path)
    with delivery.delivering(one, stay=True):
        pass
    assert settled(node.mirror) == ([], [])
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "one"))
    assert settled(node.mirror) == (["run"], [])
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "two"))
    assert settled(node.mirror) == ([], [])
    assert status_in(copy_in(node.mirror))[0] == "Stopped"
    assert states(copy_in(node.mirror)) == {"pending": 4}


def test_times_beyond_measure_stop_nothing(tmp_path):
    """Times that no clock has, in a heartbeat or an entry, end the run as others do."""
    node = Node(tmp_path, skew_ns=2**63 - 2 - time.time_ns() - 60 * 10**9)
    node.log(*points(1))
    node.skew_ns += 60 * 10**9 - 1
    node.clock_ns = lambda: 2**63 - 1
    node.log(*points(2))
    node.ship()
    node.age(700)
    assert settled(node.mirror) == (["run"], [])
    assert settled(node.mirror) == ([], [])
    sound(copy_in(node.mirror))


def test_no_heartbeat_says_nothing(tmp_path):
    """A mirror of an older version has none; one that can't be read is none; whatever it says."""
    node = Node(tmp_path)
    node.log(*points(1))
    node.ship()
    (file,) = node.mirror.path.glob(f"*/*/{heartbeat.FILE}")
    good = json.loads(file.read_bytes())
    bad = [
        b"",
        b"[]",
        b"{",
        b"\xff",
        json.dumps(good | {"version": 2}).encode(),
        json.dumps(good | {"every_s": "30"}).encode(),
        json.dumps(good | {"every_s": float("nan")}).encode(),
        json.dumps(good | {"every_s": -1}).encode(),
        json.dumps(good | {"at_ns": 2**70}).encode(),
        b"[" * 4_000,
    ]
    for data in bad:
        file.write_bytes(data)
        node.age(10_000)
        assert settled(node.mirror) == ([], []), data
    file.unlink()
    assert settled(node.mirror) == ([], [])
    file.symlink_to("/dev/zero")
    assert settled(node.mirror) == ([], [])


def test_a_follower_promises_until_nobody_writes(tmp_path):
    """A process that mirrors promises the next heartbeat. When it ends, it promises none, unless a
    process still writes: that one is not mirrored any more.
    """
    mirror = folders.opened(tmp_path / "mirror", create=True)
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off")
    told = []
    for _ in range(2):
        ended = threading.Event()
        follower = Follower(tmp_path / "journal", mirror, 0.1, 30.0)
        thread = threading.Thread(target=follower.run, args=(ended,))
        thread.start()
        while not list(mirror.path.glob(f"*/*/{heartbeat.FILE}")):
            assert thread.is_alive()
        (file,) = mirror.path.glob(f"*/*/{heartbeat.FILE}")
        told.append(json.loads(file.read_bytes())["every_s"])
        ended.set()
        thread.join()
        told.append(json.loads(file.read_bytes())["every_s"])
        file.unlink()
        tracker.close()
    assert told == [30.0, 30.0, 30.0, None]
    Follower(tmp_path / "journal", mirror).once()
    assert json.loads(file.read_bytes())["every_s"] is None
