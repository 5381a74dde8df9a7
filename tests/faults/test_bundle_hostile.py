"""A bundle with other bytes than were written, cut short, or made by somebody with intentions:
found, named, and nothing is taken from it.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sqlite3
import tarfile
import warnings

import pytest

from journaltrack import bundle, open_bundle
from journaltrack.errors import (
    BundleDamagedError,
    BundleError,
    BundleTooNewError,
    InvalidInputError,
)
from tests.faults.bundles import crafted, digest, journal_of, layout_of, problem_of, written_over
from tests.faults.hostile import SOAK, VALUES, base, by_hand, cells, copied, run

SAMPLE = 500 * SOAK
CONTENTS = [b"", b"a" * 100, b"b" * 513]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A small bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    bundle(journal_of(folder, CONTENTS), to=folder / "b")
    return folder / "b"


def places(path, chance):
    """Every byte of a bundle, but of the database's, which its digest covers alike, a sample."""
    layout = layout_of(path)
    inside = range(layout.database.content_offset, layout.database.content_end)
    outside = [n for n in range(layout.size_bytes) if n not in inside]
    return outside + chance.sample(inside, min(SAMPLE, len(inside)))


def test_every_flipped_bit_is_found(path):
    """One bit of any byte, headers, padding and end included: the bundle is refused."""
    chance = random.Random(1)
    data = path.read_bytes()
    for place in places(path, chance):
        with written_over(path, place, bytes([data[place] ^ (1 << chance.randrange(8))])):
            assert problem_of(path) is not None, place
    assert problem_of(path) is None


def test_every_byte_that_is_cut_off_is_found_and_what_is_missing_is_named(path, tmp_path):
    """At every length; the message says how much there is, and from the manifest on which member
    is the first that is not whole.
    """
    data = path.read_bytes()
    layout = layout_of(path)
    cut = tmp_path / "cut"
    cut.write_bytes(data)
    for length in sorted(places(path, random.Random(2)), reverse=True):
        os.truncate(cut, length)
        error = problem_of(cut)
        assert isinstance(error, BundleDamagedError), length
        if length >= next(layout.members()).content_end:
            member = next((m for m in layout.members() if m.end > length), None)
            assert str(length) in error.message
            assert member is None or member.name in error.message
    cut.write_bytes(data + b"\0")
    assert "after its end" in problem_of(cut).message


def rewritten(path, target, change):
    """The bundle's members as ``change`` gives them, in an archive of Python's."""
    with (
        tarfile.open(path, "r:") as source,
        tarfile.open(target, "w:", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for info, data in change([(info, source.extractfile(info).read()) for info in source]):
            archive.addfile(info, io.BytesIO(data))
    return target


def member(name, data=b"", kind=tarfile.REGTYPE, link=""):
    """A member for an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


HOSTILE = {
    "parent": lambda m: [*m[:2], member("../evil", b"x" * 100), *m[3:]],
    "absolute": lambda m: [*m[:2], member("/tmp/evil", b"x" * 100), *m[3:]],
    "inside": lambda m: [*m[:2], member("spool/../../evil", b"x" * 100), *m[3:]],
    "symlink": lambda m: [
        *m[:2],
        member(m[2][0].name, kind=tarfile.SYMTYPE, link="/etc/passwd"),
        *m[3:],
    ],
    "database is a symlink": lambda m: [
        m[0],
        member("journal.db", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        *m[2:],
    ],
    "hard link": lambda m: [
        *m[:2],
        member(m[2][0].name, kind=tarfile.LNKTYPE, link="journal.db"),
        *m[3:],
    ],
    "device": lambda m: [*m[:2], member(m[2][0].name, kind=tarfile.CHRTYPE), *m[3:]],
    "fifo": lambda m: [*m[:2], member(m[2][0].name, kind=tarfile.FIFOTYPE), *m[3:]],
    "folder": lambda m: [*m[:2], member(m[2][0].name, kind=tarfile.DIRTYPE), *m[3:]],
    "sparse": lambda m: [
        *m[:2],
        member(m[2][0].name, b"x" * 100, kind=tarfile.GNUTYPE_SPARSE),
        *m[3:],
    ],
    "extended header": lambda m: [
        m[0],
        member("x", b"20 path=../../evil\n\n", kind=tarfile.XHDTYPE),
        *m[1:],
    ],
    "global header": lambda m: [member("x", b"20 path=../../evil\n\n", kind=tarfile.XGLTYPE), *m],
    "twice": lambda m: [*m[:3], m[2], *m[3:]],
    "another one": lambda m: [*m, member("more", b"x")],
    "another order": lambda m: [m[0], m[2], m[1], *m[3:]],
    "one less": lambda m: [*m[:2], *m[3:]],
    "no manifest": lambda m: m[1:],
    "escapes": lambda m: [*m[:2], member("\x1b]0;owned\x07\u202e", b"x" * 100), *m[3:]],
    "as tar would write it": lambda m: m,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_members_that_do_not_belong_there_are_refused(path, tmp_path, case):
    """Names that lead elsewhere, links, devices, members too many, too few, twice or in another
    order: no file is made anywhere.
    """
    (tmp_path / "in").mkdir()
    bad = rewritten(path, tmp_path / "in" / "bad", HOSTILE[case])
    with pytest.raises(BundleError):
        open_bundle(bad)
    for arguments in (("--check", bad), ("--extract", bad, tmp_path / "in" / "out")):
        code, out, err = run("bundle", *arguments)
        assert (code, out) == (8, "")
        assert "error:" in err
        assert "hint:" in err
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "bad"]


def test_what_stands_in_a_wrong_place_is_named(path, tmp_path):
    """The name and type that were found, escaped, and where which member should be."""
    data, layout = bytearray(path.read_bytes()), layout_of(path)
    blob = next(iter(layout.blobs()))
    data[blob.offset : blob.offset + 512] = tarfile.TarInfo("../../evil\x1b").tobuf(
        tarfile.USTAR_FORMAT
    )
    data[blob.offset + 156 : blob.offset + 157] = b"2"
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(BundleDamagedError) as caught:
        open_bundle(tmp_path / "bad")
    assert blob.name in caught.value.message
    assert "../../evil" in caught.value.message
    assert "symbolic link" in caught.value.message
    assert caught.value.message.isprintable()


def test_sizes_beyond_the_file_are_refused_before_anything_is_read(tmp_path):
    """A manifest that promises exabytes is one of a file that is cut short."""
    with pytest.raises(BundleDamagedError, match="cut short"):
        open_bundle(
            crafted(tmp_path / "b", b"db", database_bytes=2**60, database_sha256=digest(b"db"))
        )
    with pytest.raises(BundleDamagedError, match="cut short"):
        open_bundle(crafted(tmp_path / "b", b"db", [b"blob"], blobs={digest(b"blob"): 2**62}))


def test_a_newer_bundle_names_the_version_needed(path, tmp_path):
    """On opening, checking and extracting; nothing is made."""
    data = (
        path.read_bytes()
        .replace(b'"journaltrack_bundle": 1', b'"journaltrack_bundle": 2', 1)
        .replace(b'"0.1.0"', b'"7.0.0"', 1)
    )
    (tmp_path / "new").write_bytes(data)
    with pytest.raises(BundleTooNewError) as caught:
        open_bundle(tmp_path / "new")
    assert "7.0.0" in caught.value.hint
    code, _, err = run("bundle", "--extract", tmp_path / "new", tmp_path / "out")
    assert code == 8
    assert "journaltrack 7.0.0 or later" in err
    assert not (tmp_path / "out").exists()


def test_what_is_no_bundle_is_said_to_be_none(tmp_path):
    """An empty file, text, another archive, a folder, a FIFO, a device, nothing at all."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello\n" * 1000)
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(
            *[
                part if not isinstance(part, bytes) else io.BytesIO(part)
                for part in member("file", b"x")
            ]
        )
    for name in ("empty", "text", "other.tar"):
        with pytest.raises(BundleDamagedError):
            open_bundle(tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    for other in (tmp_path, tmp_path / "fifo", "/dev/zero", tmp_path / "none"):
        with pytest.raises(InvalidInputError):
            open_bundle(other)


def test_a_crafted_journal_is_bundled_or_refused(tmp_path):
    """Any value in any cell: never a traceback, never anything raw on the terminal, and a bundle
    that is made can be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        journal = base(tmp_path)
    chance = random.Random(5)
    found = chance.sample([(cell, value) for cell in cells(journal) for value in VALUES], 60 * SOAK)
    made = 0
    for (table, column), value in found:
        evil = copied(journal, tmp_path / "evil")
        with by_hand(evil) as connection, contextlib.suppress(sqlite3.IntegrityError):
            connection.execute(f'UPDATE "{table}" SET "{column}" = ?', (value,))
        code, _, _ = run("bundle", evil, "-o", tmp_path / "made", "--skip-damaged", "--force")
        assert code in {0, 2, 4, 8}, (table, column, value)
        if code in {0, 4}:
            made += 1
            assert run("bundle", "--check", tmp_path / "made")[0] == code, (table, column, value)
        for path in tmp_path.glob("made*"):
            path.unlink()
        shutil.rmtree(evil)
    assert made
