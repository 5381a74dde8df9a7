"""Loss of power at any moment: what was acknowledged is on the disk, whatever the disk made of what
was not synced.

Real programs are recorded (`disktrace`), and at moments of the record a disk is made as it may be
after a loss of power there (`diskmodel`): with nothing, everything, or any part of what was not
synced, torn at sectors. What is on it is counted by plain sqlite3. The controls show that the
method sees a loss: the same records with a barrier left out.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.report import audit
from tests import tally
from tests.copies import verify_chains
from tests.faults import disktrace, power_programs
from tests.faults.diskmodel import CHOICES, Disk
from tests.migrations.test_migrations import NEXT, migrations_with
from tests.patience import scaled

WHY_NOT = disktrace.supported()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
MOMENTS = scaled(24)
SEED = int(os.environ.get("JOURNALTRACK_SEED", "5"))
LIVE = {
    "power": True,
    "mixed": True,
    "checkpoint": True,
    "beside": True,
    "threads": True,
    "ranks": True,
    "process": False,
}
"""Scenarios, and whether each call by itself is a barrier."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Records programs, each once."""
    made = {}

    def get(scenario):
        if scenario not in made:
            place = tmp_path_factory.mktemp(scenario)
            (place / "disk").mkdir()
            environment = os.environ | {
                "JOURNALTRACK_HOME": str(place),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            }
            if scenario == "upgrade":
                environment["NEXT_REVISION"] = NEXT
                environment["MIGRATIONS"] = str(
                    migrations_with(place, 'op.execute("CREATE TABLE copy AS SELECT * FROM entry")')
                )
            command = [power_programs.__file__, scenario, place / "disk", place / "acks"]
            events, code, _ = disktrace.record(
                command, folder=place / "disk", acknowledgements=place / "acks", env=environment
            )
            assert code == 0
            made[scenario] = str(place / "disk"), events
        return made[scenario]

    return get


def moments(events, count=MOMENTS):
    """Places in the record: all around acknowledgements are worth more than those between two
    writes of a page.
    """
    chance = random.Random(SEED)
    places = range(len(events) + 1)
    return sorted(chance.sample(places, min(count, len(places))))


def disks(root, events, target, count=MOMENTS):
    """Every disk that is tried: (events that came before, a folder with what is left)."""
    disk, done = Disk(root), 0
    for moment in moments(events, count):
        for event in events[done:moment]:
            disk.apply(event)
        done = moment
        for number, choice in enumerate(CHOICES):
            shutil.rmtree(target, ignore_errors=True)
            disk.write_to(target, choice, f"{SEED}-{moment}-{number}")
            yield events[:moment], target / "journal"


def acknowledged(events, *, live):
    """By writer: the number of its last call that must be there, and of the last that returned."""
    certain, returned = {}, {}
    for event in events:
        if event.kind == "ack":
            word, *rest = event.data.decode().split()
            if word in {"call", "flushed"}:
                writer, number = rest[0], int(rest[1])
                returned[writer] = max(number, returned.get(writer, -1))
                if live or word == "flushed":
                    certain[writer] = max(number, certain.get(writer, -1))
    return certain, returned


def entries_in(folder):
    """(kind, name, value) of every entry, by plain sqlite3, after its own check; nothing when
    there is no database.
    """
    path = folder / "journal.db"
    if not path.exists():
        return Counter()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'entry'"
        ).fetchone()[0]:
            return Counter()
        return Counter(connection.execute("SELECT kind, name, value FROM entry"))


def lost_and_torn(folder, before, *, live):
    """Calls that had to be there and are not, and calls of which a part is."""
    certain, returned = acknowledged(before, live=live)
    there = entries_in(folder)
    lost, torn = [], []
    for writer in ("v", "w"):
        calls = [
            sum(there[each] > 0 for each in power_programs.expected(writer, n))
            for n in range(power_programs.CALLS)
        ]
        whole = [count == len(power_programs.expected(writer, n)) for n, count in enumerate(calls)]
        lost += [(writer, n) for n in range(certain.get(writer, -1) + 1) if not whole[n]]
        torn += [(writer, n) for n, count in enumerate(calls) if count and not whole[n]]
        missing = whole.index(False) if False in whole else len(whole)
        # a hole: not the end of what was logged
        torn += [(writer, n) for n in range(missing, len(whole)) if whole[n]]
        assert missing <= returned.get(writer, -1) + 2
    return lost, torn


def blobs_damaged(folder, certain=None):
    """Artifacts that an entry names and whose bytes are not all in the spool; given the number of
    each writer's last call that must be there, of the calls up to that.
    """
    path = folder / "journal.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'entry'"
        ).fetchone()[0]:
            return []
        named = connection.execute(
            "SELECT name, json_extract(payload, '$.sha256') FROM entry WHERE kind = 'upload'"
        ).fetchall()
    damaged = []
    for name, sha256 in named:
        writer, _, number = name.partition(":")
        if certain is not None and int(number) > certain.get(writer, -1):
            continue
        blob = folder / "spool" / sha256[:2] / sha256
        if not blob.exists() or hashlib.sha256(blob.read_bytes()).hexdigest() != sha256:
            damaged.append(sha256)
    return damaged


@pytest.mark.parametrize("scenario", LIVE)
def test_what_a_barrier_covered_survives_loss_of_power(scenario, recorded, tmp_path):
    """Every call (power) or every call before a flush (process) is there, whole, with its bytes;
    the journal opens and its chains hold.
    """
    root, events = recorded(scenario)
    tried = 0
    for before, folder in disks(root, events, tmp_path / "disk"):
        assert lost_and_torn(folder, before, live=LIVE[scenario]) == ([], []), (
            scenario,
            len(before),
        )
        certain, _ = acknowledged(before, live=LIVE[scenario])
        assert blobs_damaged(folder, certain if scenario == "process" else None) == []
        tried += 1
        tally.count("loss of power: training", attacks=1, checked=sum(entries_in(folder).values()))
        if tried % 5 == 0:
            Journal.open(folder).close()
            assert verify_chains(folder) == []
    assert tried == len(CHOICES) * min(MOMENTS, len(events) + 1)


def without(events, pattern):
    """The record of a program that does not sync files or folders whose path matches."""
    import fnmatch

    return [e for e in events if not (e.kind == "fsync" and fnmatch.fnmatch(e.path, pattern))]


@pytest.mark.parametrize(
    ("scenario", "pattern"),
    [("power", "*-wal"), ("process", "*-wal"), ("power", "*/journal"), ("power", "*/disk")],
)
def test_the_method_sees_a_missing_barrier(scenario, pattern, recorded, tmp_path):
    """Control: without the syncs of the log, of the journal's folder, or of the folder that it
    is in, calls are lost.
    """
    root, events = recorded(scenario)
    found = [
        lost
        for before, folder in disks(root, without(events, pattern), tmp_path / "disk", 25)
        for lost in lost_and_torn_or_damaged(folder, before, live=LIVE[scenario])
    ]
    assert found


def lost_and_torn_or_damaged(folder, before, *, live):
    """What is wrong, a damaged database included."""
    try:
        lost, torn = lost_and_torn(folder, before, live=live)
    except (AssertionError, sqlite3.DatabaseError) as error:
        return [repr(error)]
    return lost + torn


@pytest.mark.parametrize(
    ("scenario", "pattern"), [("power", "*/spool/incoming-*"), ("process", "*/spool/??/*")]
)
def test_the_method_sees_an_artifact_that_was_not_synced(scenario, pattern, recorded, tmp_path):
    """Control: without the sync of an artifact's bytes, an entry names what is not there."""
    root, events = recorded(scenario)
    assert any(
        blobs_damaged(folder, acknowledged(before, live=LIVE[scenario])[0])
        for before, folder in disks(root, without(events, pattern), tmp_path / "disk", 25)
    )


def test_waiting_for_no_disk_loses_the_last_calls(recorded, tmp_path):
    """Control: without a barrier of its own a returned call may be lost, as the documentation
    says.
    """
    root, events = recorded("process")
    assert any(
        lost_and_torn(folder, before, live=True)[0]
        for before, folder in disks(root, events, tmp_path / "disk", 25)
    )


def remote_after(before):
    """What the remote holds: all that it was sent."""
    remote = MemoryRemote()
    for event in before:
        if event.kind == "ack" and event.data.startswith(b"sent "):
            name, arguments = pickle.loads(base64.b64decode(event.data.split()[1]))
            if name == "upload":
                remote.objects[arguments[0].name] = arguments[0].sha256
            else:
                getattr(remote, name)(*arguments)
    return remote


def sent_twice(before, folder):
    """Points that are at the remote twice after the next pass, and are not called in doubt;
    points that are nowhere.
    """
    if not (folder / "journal.db").exists():
        return []
    remote = remote_after(before)
    with closing(Journal.open(folder)) as journal:
        # A journal that lost more than it should have is seen to be behind: not what is tried here.
        Reconciler(journal, remote, options=Options(concurrency=2, even_if_behind=True)).run()
        rows = journal.database.read(
            "SELECT e.name, e.value, d.outcome FROM entry e "
            "LEFT JOIN delivery d ON d.seq = e.seq WHERE e.kind = 'metric'"
        )
    assert audit(folder).totals.adds_up
    points = Counter((p.name, p.value) for c in remote.components.values() for p in c.points)
    problems = [each for each, count in points.items() if count > 1]
    problems += [
        (name, value)
        for name, value, outcome in rows
        if outcome == "delivered" and not points[name, value]
    ]
    known = {(name, value) for name, value, _ in rows}
    return problems + [("unknown to the journal", each) for each in points if each not in known]


def test_a_pass_that_lost_power_sends_nothing_twice(recorded, tmp_path):
    """The next pass knows of every request that was made: its metrics are in doubt, not sent
    again; no request is of entries that were lost.
    """
    root, events = recorded("sync")
    first = next(n for n, e in enumerate(events) if e.data.startswith(b"sent "))
    begun = [e for e in events if e.kind == "ack" and e.data.startswith(b"sent ")]
    assert len(begun) > 8
    for before, folder in disks(root, events, tmp_path / "disk"):
        if len(before) >= first - 20:
            assert sent_twice(before, folder) == [], len(before)
            tally.count(
                "loss of power: a sync", attacks=1, checked=sum(entries_in(folder).values())
            )


def test_the_method_sees_requests_that_were_not_noted_first(recorded, tmp_path):
    """Control: without the sync of what a pass is about to send, a later pass sends metrics
    twice.
    """
    root, events = recorded("sync")
    first = next(n for n, e in enumerate(events) if e.data.startswith(b"sent "))
    careless = events[: first - 20] + without(events[first - 20 :], "*-wal")
    assert any(
        sent_twice(before, folder)
        for before, folder in disks(root, careless, tmp_path / "disk", 60)
    )


def test_an_upgrade_that_lost_power_is_whole_or_absent(recorded, tmp_path):
    """Old or new schema with every entry; a backup under its name is whole."""
    root, events = recorded("upgrade")
    upgraded = next(n for n, e in enumerate(events) if e.data.startswith(b"flushed w 43"))
    seen = Counter()
    for before, folder in disks(root, events, tmp_path / "disk"):
        if len(before) <= upgraded:
            continue
        assert lost_and_torn(folder, before, live=False) == ([], [])
        with closing(sqlite3.connect(folder / "journal.db")) as connection:
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
        assert ("annotation" in tables) == ("copy" in tables) == (revision == NEXT)
        seen[revision] += 1
        tally.count(
            "loss of power: an upgrade", attacks=1, checked=sum(entries_in(folder).values())
        )
        for backup in folder.glob("*.backup"):
            with closing(sqlite3.connect(backup)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (
                    schema.HEAD,
                )
        if revision == NEXT:
            assert list(folder.glob("*.backup")), "upgraded, and the backup is gone"
    assert len(seen) == 2
