"""What a writer's file proves: on this kernel, after a restart, on another host, in a copy, and
when it is crafted.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid

import pytest

from journaltrack import Journal
from journaltrack.errors import NotAJournalError
from journaltrack.journal import writers
from journaltrack.util import paths


@pytest.fixture
def writer(tmp_path):
    """The uuid of a writer whose lock is free, and what its file says."""
    name = str(uuid.uuid4())
    life = writers.hold(tmp_path, name)
    life.join(7)
    life.join(8)
    life.leave()
    return name


def rewrite(tmp_path, name, **changes):
    """Let the file say something else; it stays the same file."""
    path = tmp_path / paths.WRITERS / name
    first, _, rest = path.read_text().partition("\n")
    told = json.loads(first) | changes
    path.write_text(f"{json.dumps(told)}\n{rest}")


def look(tmp_path):
    """The one writer."""
    (found,) = writers.look(tmp_path)
    return found


def test_a_held_lock_is_a_life_and_a_free_one_of_a_living_process_too(tmp_path):
    """The lock proves the life; where it was lost, the process that is seen does."""
    life = writers.hold(tmp_path, str(uuid.uuid4()))
    assert look(tmp_path).alive is True
    life.leave()
    assert look(tmp_path).alive is True


def test_a_free_lock_of_a_process_that_is_gone_is_a_death(tmp_path, writer):
    """Another process has the number of the dead one by now: its start tells them apart."""
    rewrite(tmp_path, writer, started="1")
    found = look(tmp_path)
    assert (found.uuid, found.alive, found.copied, found.components) == (
        writer,
        False,
        False,
        {7, 8},
    )
    assert writers.dead(tmp_path) == {writer}


def test_where_the_system_tells_no_start_the_number_must_do(tmp_path, writer):
    """Without /proc a process with that number counts as the writer, and none as its death."""
    rewrite(tmp_path, writer, started=None)
    assert look(tmp_path).alive is True
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid in (ended.pid, -1, 0, 2**70, "x"):
        rewrite(tmp_path, writer, pid=pid, started=None)
        assert look(tmp_path).alive is False


def test_the_pid_of_another_namespace_says_nothing(tmp_path, writer):
    """A container's processes have numbers of their own: the lock alone counts, and this kernel
    knows that it is free.
    """
    rewrite(tmp_path, writer, pid_namespace=1)
    assert look(tmp_path).alive is False


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({"boot": "another"}, False),
        ({"boot": "another", "host": "another"}, None),
        ({"boot": "another", "machine": "another"}, None),
        ({"boot": None}, None),
    ],
)
def test_another_boot_is_a_death_on_the_same_host_alone(tmp_path, writer, changes, alive):
    """After a restart of this host nobody lives; a process on another host may, and its lock
    can't be seen from here.
    """
    rewrite(tmp_path, writer, **changes)
    assert look(tmp_path).alive is alive


def test_a_copied_file_tells_nothing(tmp_path, writer):
    """The lock is on the original: of its copy nobody can tell, whatever it says."""
    path = tmp_path / paths.WRITERS / writer
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    assert (look(tmp_path).alive, look(tmp_path).copied) == (None, True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b"\xff\n1\n",
        b'{"inode": 1}\n-1\n9999999999999999999999\n',
    ],
)
def test_a_file_that_says_nothing_proves_nothing(tmp_path, content):
    """Torn, empty and crafted files: nobody is dead, and nothing raises."""
    place = tmp_path / paths.WRITERS
    place.mkdir()
    (place / str(uuid.uuid4())).write_bytes(content)
    assert writers.dead(tmp_path) == set()
    assert all(not found.alive for found in writers.look(tmp_path))


def test_only_files_named_as_writers_are_looked_at(tmp_path):
    """Links, pipes and strange names are left alone, and never waited for."""
    place = tmp_path / paths.WRITERS
    place.mkdir()
    os.mkfifo(place / str(uuid.uuid4()))
    (place / str(uuid.uuid4())).symlink_to("/etc/passwd")
    (place / "README").write_text("{}\n")
    assert writers.look(tmp_path) == []
    (tmp_path / "victim").write_text("mine")
    writers.forget(tmp_path, "../victim")
    assert (tmp_path / "victim").exists()


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path):
    """A journal from elsewhere can't have this process write somewhere else."""
    Journal.open(tmp_path / "journal").close()
    (tmp_path / "victim").mkdir()
    (tmp_path / "journal" / paths.WRITERS).symlink_to(tmp_path / "victim")
    with pytest.raises(NotAJournalError, match="symbolic link"):
        Journal.open(tmp_path / "journal")
    assert writers.look(tmp_path / "journal") == []
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_folder_that_takes_no_file_costs_the_proof_alone(tmp_path):
    """Where no file can be made a writer has no life to show, and goes on recording."""
    folder = tmp_path / "journal"
    journal = Journal.open(folder)
    (folder / paths.WRITERS).write_text("a file")
    assert writers.hold(folder, str(uuid.uuid4())) is None
    (folder / paths.WRITERS).unlink()
    journal.close()


def test_the_empty_folder_goes_with_the_last_writer(tmp_path):
    """Two writers that end in any order leave neither files nor a folder."""
    one, other = (writers.hold(tmp_path, str(uuid.uuid4())) for _ in range(2))
    one.end(tmp_path)
    assert len(writers.look(tmp_path)) == 1
    other.end(tmp_path)
    assert not (tmp_path / paths.WRITERS).exists()


def test_a_writer_that_ends_removes_no_file_of_another(tmp_path):
    """What has its name by now, and is not its file, stays."""
    name = str(uuid.uuid4())
    life = writers.hold(tmp_path, name)
    path = tmp_path / paths.WRITERS / name
    path.rename(tmp_path / "moved")
    path.write_text("another")
    life.end(tmp_path)
    assert path.read_text() == "another"
