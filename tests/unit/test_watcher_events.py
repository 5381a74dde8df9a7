"""Events of the file system: those that matter wake, the others do not, and where there are none
it is known.
"""

from __future__ import annotations

import errno
import threading

import pytest

from journaltrack.util import paths
from journaltrack.watch import folders as watcher_events
from journaltrack.watch.folders import FolderEvents


@pytest.fixture
def events():
    """A source of events, and the flag that it raises."""
    woken = threading.Event()
    source = FolderEvents(woken.set)
    yield source, woken
    source.close()


def test_a_write_to_the_database_or_its_log_wakes(tmp_path, events):
    """The folder is named in which a database or a log was written."""
    source, woken = events
    for name in ("journal.db", "journal.db-wal"):
        folder = tmp_path / name
        folder.mkdir()
        assert source.watch(folder)
        (folder / name).write_bytes(b"x")
        assert woken.wait(300)
        woken.clear()
        assert source.taken() == {folder}
        source.forget(folder)


def test_folders_that_come_and_go_wake(tmp_path, events):
    """A journal that is copied, moved or removed is seen at the folder that holds it."""
    source, woken = events
    assert source.watch(tmp_path)
    (tmp_path / "new").mkdir()
    assert woken.wait(300)
    assert source.taken() == {tmp_path}


def test_other_files_and_forgotten_folders_do_not(tmp_path, events):
    """Neither a log file of a training script nor a folder that is polled meanwhile wakes
    anybody.
    """
    source, woken = events
    for name in ("quiet", "forgotten", "last"):
        (tmp_path / name).mkdir()
        assert source.watch(tmp_path / name)
    (tmp_path / "quiet" / "train.log").write_text("x")
    (tmp_path / "quiet" / "reconcile.lock").write_text("x")
    source.forget(tmp_path / "forgotten")
    (tmp_path / "forgotten" / "journal.db").write_text("x")
    (tmp_path / "last" / "journal.db").write_text("x")  # comes after all of them
    assert woken.wait(300)
    assert source.taken() == {tmp_path / "last"}


def test_a_folder_that_is_gone_can_be_forgotten_and_watched_again(tmp_path, events):
    """Neither the end of a watched folder nor its return confuses the source."""
    source, woken = events
    folder = tmp_path / "journal"
    folder.mkdir()
    assert source.watch(folder)
    folder.rmdir()
    source.forget(folder)
    assert not source.watch(folder), "there is nothing to watch"
    folder.mkdir()
    assert source.watch(folder)
    woken.clear()
    source.taken()
    (folder / "journal.db").write_text("x")
    assert woken.wait(300)
    assert folder in source.taken()


def test_network_file_systems_are_polled_with_a_warning(tmp_path, events, monkeypatch, caplog):
    """Where the kernel of another machine writes there are no events: the folder is not watched,
    and that is logged once.
    """
    source, _ = events
    monkeypatch.setattr(paths, "network_file_system", lambda _folder: "nfs4")
    (tmp_path / "a").mkdir()
    assert not source.watch(tmp_path)
    assert not source.watch(tmp_path / "a")
    assert [record.getMessage() for record in caplog.records] == [
        f"event=polling reason=network_file_system type=nfs4 folder={tmp_path}"
    ]


def test_a_limit_of_the_system_is_asked_again_only_later(tmp_path, monkeypatch, caplog):
    """Without watches to give, the system is not asked at every poll; after a while it is."""
    now = [0.0]
    source = FolderEvents(lambda: None, clock=lambda: now[0])

    class Full:
        """An observer of a system that has no watches left."""

        asked = 0
        daemon = False

        def start(self):
            """Nothing to start."""

        stop = join = start

        def schedule(self, *_, **__):
            Full.asked += 1
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(watcher_events, "Observer", Full)
    for _ in range(5):
        assert not source.watch(tmp_path)
    assert Full.asked == 1
    assert "fs.inotify.max_user_watches" in caplog.text
    now[0] += watcher_events.LIMIT_AGAIN_S + 1
    assert not source.watch(tmp_path)
    assert Full.asked == 2
    source.close()
