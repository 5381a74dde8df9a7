"""Packing a journal and unpacking it: what is in, what is left out, and what is never
overwritten.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import Journal, Tracker, bundle, open_bundle
from journaltrack.cli import main
from journaltrack.cli.progress import ProgressView, line
from journaltrack.errors import (
    BundleDamagedError,
    BundleSpoolError,
    InvalidInputError,
    JournalError,
)
from journaltrack.journal.spool.spool import Spool
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.pass_report import Progress
from journaltrack.replay.reconciler import Reconciler
from journaltrack.transfer.bundle.layout import Layout
from journaltrack.util.paths import file_bytes_max
from tests import golden
from tests.copies import verify_chains
from tests.faults.bundles import crafted, digest, journal_of, layout_of, problem_of, written_over

CONTENTS = [b"", b"x" * 512, b"weights" * 1000, os.urandom(3_000_000)]


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal: artifacts of several sizes, and metrics, all pending."""
    return journal_of(tmp_path, CONTENTS)


def delivered(folder):
    """Deliver all that is pending."""
    own = Journal.open(folder)
    Reconciler(own, MemoryRemote()).run()
    own.close()


def entries_of(folder):
    """All entries of a journal, by a plain reader."""
    with (
        closing(sqlite3.connect(f"file:{folder / 'journal.db'}?mode=ro", uri=True)) as connection,
        connection,
    ):
        return connection.execute("SELECT * FROM entry ORDER BY seq").fetchall()


def files_of(folder):
    """Everything below a folder, with its bytes; without the two files that SQLite makes in
    order to read.
    """
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.endswith(("-wal", "-shm"))
    }


def test_a_check_of_a_bundle_says_that_it_is_one(journal, tmp_path):
    """The hint is the one of an audit."""
    bundle(journal, to=tmp_path / "some.bundle")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "some.bundle")])
    assert "it is a bundle" in done.output
    assert "journal.db" not in done.output


@pytest.mark.parametrize("all_blobs", [False, True])
def test_a_content_that_no_entry_names_yet(journal, tmp_path, all_blobs):
    """A training records a content first, and then the entry: a bundle that is made between the
    two becomes a journal that verifies.
    """
    (tmp_path / "new").write_bytes(b"new")
    with closing(Journal.open(journal)) as own:
        blob = Spool(journal / "spool").add(tmp_path / "new")
        own.add_blob(blob.sha256, blob.size_bytes)
    bundle(journal, to=tmp_path / "b", all_blobs=all_blobs)
    with open_bundle(tmp_path / "b") as opened:
        assert (blob.sha256 in opened.manifest.left_out) is not all_blobs
        assert verify_chains(opened.extract(tmp_path / "out")) == []


def test_a_bundle_becomes_the_same_journal(journal, tmp_path):
    """Unpacked: the same entries and blobs, chains that hold, a folder and files for their owner
    alone; the journal is as it was.
    """
    before = files_of(journal)
    made = bundle(journal, to=tmp_path / "b")
    assert files_of(journal) == before
    with open_bundle(tmp_path / "b") as opened:
        opened.verify()
        assert opened.manifest_sha256 == made.manifest_sha256
        folder = opened.extract(tmp_path / "out")
    assert entries_of(folder) == entries_of(journal)
    assert {name: data for name, data in files_of(folder).items() if "spool" in name} == {
        f"spool/{digest(c)[:2]}/{digest(c)}": c for c in CONTENTS
    }
    assert verify_chains(folder) == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]} == {
        0o600,
        0o700,
    }
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    assert (made.blobs, made.size_bytes, made.damaged) == (4, (tmp_path / "b").stat().st_size, ())
    remote = MemoryRemote()
    own = Journal.open(folder)
    assert Reconciler(own, remote).run().pending == 0
    own.close()


def test_tar_and_sha256sum_read_it(journal, tmp_path):
    """Without journaltrack: tar lists and unpacks it, sha256sum proves it, and what comes out is
    a journal.
    """
    made = bundle(journal, to=tmp_path / "b")
    listed = subprocess.run(
        ["tar", "-tf", tmp_path / "b"], capture_output=True, text=True, check=True
    )
    assert listed.stderr == ""
    names = listed.stdout.split()
    assert names[:2] + names[-1:] == [
        "journaltrack-bundle.json",
        "journal.db",
        "journaltrack-bundle.sha256",
    ]
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "b", "-C", tmp_path / "out"], check=True)
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "journaltrack-bundle.sha256"],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=True,
    )
    assert checked.stdout.count(": OK") == 2 + made.blobs
    assert verify_chains(tmp_path / "out") == []
    assert (
        json.loads((tmp_path / "out" / "journaltrack-bundle.json").read_text())["last_seq"]
        == made.last_seq
    )


def test_what_is_delivered_is_left_out_and_named(journal, tmp_path):
    """Blobs that no pending entry needs are not in the bundle unless they are asked for, and the
    manifest says which.
    """
    delivered(journal)
    (tmp_path / "file").write_bytes(b"new")
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "file", name="new")
    made = bundle(journal, to=tmp_path / "b")
    assert (made.blobs, made.left_out) == (1, 4)
    with open_bundle(tmp_path / "b") as opened:
        assert set(opened.manifest.left_out) == {digest(c) for c in CONTENTS}
        assert list(opened.manifest.blobs) == [digest(b"new")]
    everything = bundle(journal, to=tmp_path / "all", all_blobs=True)
    assert (everything.blobs, everything.left_out) == (5, 0)
    assert problem_of(tmp_path / "all") is None
    Spool(journal / "spool").path_of(digest(b"")).unlink()  # S3 holds it
    assert bundle(journal, to=tmp_path / "all-2", all_blobs=True).left_out == 1


def test_missing_and_damaged_blobs_are_all_named_and_never_silent(journal, tmp_path):
    """Without a word the bundle is refused, with every blob that is wrong; with it the bundle
    says so, and is whole.
    """
    spool = Spool(journal / "spool")
    spool.path_of(digest(CONTENTS[1])).write_bytes(b"y" * 512)
    spool.path_of(digest(CONTENTS[2])).write_bytes(b"short")
    spool.path_of(digest(CONTENTS[3])).unlink()
    with pytest.raises(BundleSpoolError, match="is missing") as caught:
        bundle(journal, to=tmp_path / "b")
    assert caught.value.blobs == {digest(CONTENTS[3]): "missing"}
    spool.path_of(digest(CONTENTS[3])).symlink_to("/etc/passwd")
    with pytest.raises(BundleSpoolError):
        bundle(journal, to=tmp_path / "b")
    spool.path_of(digest(CONTENTS[3])).unlink()
    spool.path_of(digest(CONTENTS[3])).write_bytes(CONTENTS[3])
    with pytest.raises(BundleSpoolError, match="is damaged") as caught:
        bundle(journal, to=tmp_path / "b")
    assert caught.value.blobs == dict.fromkeys(
        (digest(CONTENTS[1]), digest(CONTENTS[2])), "damaged"
    )
    assert not (tmp_path / "b").exists()
    made = bundle(journal, to=tmp_path / "b", skip_damaged=True)
    assert set(made.damaged) == set(caught.value.blobs)
    with open_bundle(tmp_path / "b") as opened:
        opened.verify()
        assert opened.manifest.damaged == caught.value.blobs
        assert set(opened.manifest.blobs) == {digest(CONTENTS[0]), digest(CONTENTS[3])}


def test_nothing_is_overwritten(journal, tmp_path):
    """Not an existing file unless asked to, nothing inside of a journal, and no folder."""
    (tmp_path / "b").write_bytes(b"precious")
    with pytest.raises(InvalidInputError, match="exists"):
        bundle(journal, to=tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"precious"
    assert bundle(journal, to=tmp_path / "b", force=True).blobs == 4
    for to in (
        journal / "b",
        journal / "spool" / "b",
        tmp_path,
        tmp_path / "none" / "b",
        "/dev/null",
    ):
        with pytest.raises(InvalidInputError):
            bundle(journal, to=to)
    assert problem_of(tmp_path / "b") is None


@pytest.fixture
def whole(journal, tmp_path):
    """The bytes of a bundle."""
    bundle(journal, to=tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def test_two_at_once_do_not_write_to_one_file(journal, tmp_path):
    """Each has a file of its own: whoever is done first gives it the name, and the other one is
    told.
    """
    made = []

    def second(_progress):
        if not made:
            made.append(bundle(journal, to=tmp_path / "b"))

    with pytest.raises(InvalidInputError, match="exists"):
        bundle(journal, to=tmp_path / "b", on_progress=second)
    with open_bundle(tmp_path / "b") as opened:
        opened.verify()
        assert opened.manifest_sha256 == made[0].manifest_sha256
    assert not list(tmp_path.glob(".*"))


def test_extracting_replaces_nothing(journal, whole, tmp_path):
    """Only a new or an empty folder is taken; a half one that a kill left is replaced, and its
    links are not followed.
    """
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    half = tmp_path / ".out.partial"
    half.mkdir()
    (half / "spool").symlink_to(tmp_path / "full")
    with open_bundle(tmp_path / "whole") as opened:
        for into in ("full", "link", "whole", "none/out", ""):
            with pytest.raises(InvalidInputError):
                opened.extract(tmp_path / into)
        assert opened.extract(tmp_path / "empty") == tmp_path / "empty"
        assert opened.extract(tmp_path / "out") == tmp_path / "out"
    assert files_of(tmp_path / "full") == {"file": b"mine"}
    assert not half.exists()
    assert entries_of(tmp_path / "out") == entries_of(journal)


def test_a_failed_extraction_leaves_nothing(whole, tmp_path):
    """Damage that is found in the last byte of the last blob undoes all of it."""
    layout = layout_of(tmp_path / "whole")
    last = [m for m in layout.blobs() if m.size_bytes][-1]
    other = bytes([whole[last.content_end - 1] ^ 1])
    with (
        written_over(tmp_path / "whole", last.content_end - 1, other),
        open_bundle(tmp_path / "whole") as opened,
        pytest.raises(BundleDamagedError, match=last.sha256),
    ):
        opened.extract(tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_the_database_of_a_bundle_is_checked_like_any_other(journal, whole, tmp_path):
    """A bundle whose parts fit together, but whose database is no journal, another one, or holds
    code, becomes no folder.
    """
    database = whole[(d := layout_of(tmp_path / "whole").database).content_offset : d.content_end]
    with (
        pytest.raises(BundleDamagedError, match="not the one"),
        open_bundle(crafted(tmp_path / "c1", database)) as opened,
    ):
        opened.extract(tmp_path / "out")
    with (
        pytest.raises(JournalError),
        open_bundle(crafted(tmp_path / "c2", b"no database")) as opened,
    ):
        opened.extract(tmp_path / "out")
    shutil.copytree(journal, tmp_path / "evil")
    with closing(sqlite3.connect(tmp_path / "evil" / "journal.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("CREATE TRIGGER t AFTER INSERT ON delivery BEGIN DELETE FROM lease; END")
    evil = (tmp_path / "evil" / "journal.db").read_bytes()
    with pytest.raises(JournalError), open_bundle(crafted(tmp_path / "c3", evil)) as opened:
        opened.extract(tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_journal_that_can_only_be_read_is_bundled(journal, tmp_path):
    """From a medium that can't be written, as a mounted image is."""
    for path in [*journal.rglob("*"), journal]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        bundle(journal, to=tmp_path / "b")
    finally:
        for path in [journal, *journal.rglob("*")]:
            path.chmod(0o700 if not path.is_file() else 0o600)
    assert problem_of(tmp_path / "b") is None


def test_the_snapshot_leaves_nothing_in_the_temporary_folder(journal, tmp_path, monkeypatch):
    """Neither the copy of the database nor its folder stays; where there is no room for it, the
    message says where.
    """
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    bundle(journal, to=tmp_path / "b")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_command_line_packs_checks_and_extracts(journal, tmp_path):
    """Each way prints what it did, as text and as JSON, with its exit code; what does not go
    together is refused.
    """

    def run(*arguments):
        done = CliRunner().invoke(main, ["bundle", *map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    code, out, _ = run(journal, "-o", tmp_path / "b")
    assert code == 0
    assert "4 artifact contents" in out
    assert run(journal, "-o", tmp_path / "b")[0] == 2
    code, out, _ = run("--check", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["last_seq"] == len(entries_of(journal))
    assert "left out" in run("--check", tmp_path / "b")[1]
    code, out, _ = run("--extract", tmp_path / "b", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(out)["journal"] == str(tmp_path / "out")
    assert run("--extract", tmp_path / "b", tmp_path / "out")[0] == 2
    with written_over(tmp_path / "b", 200_000, b"damage"):
        code, out, err = run("--check", tmp_path / "b")
        assert (code, out) == (8, "")
        assert "error:" in err
    Spool(journal / "spool").path_of(digest(CONTENTS[3])).write_bytes(b"bad")
    assert run(journal, "-o", tmp_path / "c")[0] == 8
    code, out, err = run(journal, "-o", tmp_path / "c", "--skip-damaged")
    assert code == 4
    assert digest(CONTENTS[3]) in err
    assert run("--check", tmp_path / "c")[0] == 4
    for wrong in (
        [],
        [journal],
        ["--check", tmp_path / "b", journal],
        ["--check", tmp_path / "b", "--force"],
        ["--check", tmp_path / "none"],
    ):
        assert run(*wrong)[0] == 2


def test_a_bundle_of_the_first_writer_is_opened(tmp_path):
    """It was written byte by byte, with numbers in fields that tarfile leaves empty: it is
    proved and unpacked as any other.
    """
    (tmp_path / "old").write_bytes(
        gzip.decompress((Path(golden.__file__).parent / "bundle-1.gz").read_bytes())
    )
    with open_bundle(tmp_path / "old") as opened:
        opened.verify()
        assert (
            opened.manifest_sha256
            == "8397cb3344d8cf9fa24b0092bcc787e736e147ceafb20eaeefbf46125157097a"
        )
        made = opened.extract(tmp_path / "out")
    assert verify_chains(made) == []
    with closing(sqlite3.connect(made / "journal.db")) as connection, connection:
        contents = connection.execute("SELECT sha256 FROM blob ORDER BY size_bytes").fetchall()
    assert contents == [(digest(content),) for content in (b"", b"x" * 512, b"weights" * 100)]
    remote = MemoryRemote()
    with closing(Journal.open(made)) as own:
        assert Reconciler(own, remote).run().pending == 0


def test_progress_after_one_entry_promises_nothing(capsys):
    """One request tells nothing of the speed: it said how many minutes were left."""
    ticks = iter((0.0, 6.0, 12.0))
    view = ProgressView("sync", monotonic=lambda: next(ticks))
    view._before = 0
    for done in (1, 20):
        view(Progress(done, 100))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "sync: 1 of 100 entries (1 %)"
    assert second == "sync: 20 of 100 entries (20 %), 2/s, about 48 s left"


def test_progress_in_bytes_says_how_much_and_how_long():
    """Bytes are shown in the units that people use."""
    assert (
        line("bundle", 5_000_000, 10_000_000, 1e6, unit="bytes")
        == "bundle: 5.0 MB of 10.0 MB (50 %), 1.0 MB/s, about 5.0 s left"
    )


def test_python_reads_the_archive(journal, tmp_path):
    """tarfile gives the same bytes for every member."""
    bundle(journal, to=tmp_path / "b")
    layout: Layout = layout_of(tmp_path / "b")
    with tarfile.open(tmp_path / "b", "r:") as archive:
        for member in layout.members():
            stream = archive.extractfile(member.name)
            assert isinstance(stream, io.BufferedReader)
            assert digest(stream.read()) == member.sha256


def test_a_file_system_that_takes_no_such_file_is_known(tmp_path):
    """FAT32 ends at 4 GiB, which is told before the copy and not after an hour of it."""
    mounts = tmp_path / "mounts"
    line_of = "1 0 8:1 / {} rw - {} /dev/sda1 rw\n"
    mounts.write_text(line_of.format("/", "ext4") + line_of.format(tmp_path, "vfat"))
    assert file_bytes_max(tmp_path, mounts) == 2**32 - 1
    assert file_bytes_max(tmp_path.parent, mounts) is None


def test_a_terminal_is_not_drawn_to_for_every_piece(journal, tmp_path, monkeypatch):
    """On a terminal, a bar in bytes; thousands of steps a second do not slow the copy down."""
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", written)
    ticks = iter(n / 1000 for n in range(10**6))
    with ProgressView("bundle", unit="bytes", monotonic=lambda: next(ticks)) as view:
        bundle(journal, to=tmp_path / "b", on_progress=view)
        drawn = view._bar.tasks[0]
        assert drawn.completed == drawn.total
    assert "3.1 MB" in written.getvalue() or "3.2 MB" in written.getvalue()
