"""The layout of a bundle: one encoding, which every tar reads, and a manifest that nobody can
lie in.
"""

from __future__ import annotations

import dataclasses
import io
import json
import resource
import tarfile

import pytest

from journaltrack.errors import BundleDamagedError, BundleTooNewError
from journaltrack.transfer.bundle.layout import (
    BLOCK_BYTES,
    Layout,
    Manifest,
    Member,
    decode,
    encode,
    header,
    is_header_of,
    manifest_size,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64
MANIFEST = Manifest(
    "id-1",
    1_700_000_000_000_000_000,
    "0.1.0",
    "node-7",
    42,
    "undelivered",
    4096,
    A,
    {B: 10, C: 2**40},
    (A,),
    {},
)


@pytest.mark.parametrize("size_bytes", [0, 1, 511, 512, 8**11 - 1, 8**11, 2**45])
def test_headers_are_read_by_tar_as_they_were_meant(size_bytes):
    """Python's tarfile sees a regular file of that name and size, also beyond the 8 GiB that the
    octal field holds.
    """
    info = tarfile.TarInfo.frombuf(
        header("spool/ab/x", size_bytes, 1_700_000_000), "utf-8", "strict"
    )
    assert (info.name, info.size, info.mtime, info.mode, info.type) == (
        "spool/ab/x",
        size_bytes,
        1_700_000_000,
        0o600,
        tarfile.REGTYPE,
    )


def first_header(name, size):
    """A header as the first writer of bundles made it, byte by byte; ``size`` is its field."""
    block = bytearray(512)
    fields = {
        0: name,
        100: b"0000600\0",
        108: b"0000000\0" * 2,
        124: size,
        136: b"15301776153\0",
        148: b" " * 8,
        156: b"0",
    }
    for place, value in (fields | {257: b"ustar\00000", 329: b"0000000\0" * 2}).items():
        block[place : place + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("size", "field"),
    [
        (0, b"00000000000\0"),
        (8**11 - 1, b"77777777777\0"),
        (8**11, b"\x80" + (8**11).to_bytes(11, "big")),
    ],
)
def test_headers_are_read_whoever_wrote_them(size, field):
    """tarfile's of any version of Python, and those of bundles that were written byte by byte;
    every flipped bit is found.
    """
    member = Member("spool/ab/x", size, A, 0)
    for block in (header("spool/ab/x", size, 1_700_000_000), first_header(b"spool/ab/x", field)):
        assert is_header_of(member, block)
        for place in range(512 * 8):
            flipped = bytearray(block)
            flipped[place // 8] ^= 1 << place % 8
            assert not is_header_of(member, bytes(flipped)), place


@pytest.mark.parametrize(
    "change",
    [{"name": "spool/ab/y"}, {"size": 3}, {"mode": 0o4600}, {"linkname": "x"}]
    + [{"type": kind} for kind in (*b"\x00123456789LKSxgXAV", *b"D")],
    ids=str,
)
def test_a_header_of_anything_else_is_refused(change):
    """Another name, size or mode, a link, and every type but a regular file: also what tar takes
    for one.
    """
    info = tarfile.TarInfo("spool/ab/x")
    info.size, info.mode, info.mtime = 2, 0o600, 1
    for name, value in change.items():
        setattr(info, name, bytes([value]) if name == "type" else value)
    assert not is_header_of(Member("spool/ab/x", 2, A, 0), info.tobuf(tarfile.USTAR_FORMAT)[-512:])


def test_a_manifest_is_read_back_as_it_was():
    """Encoding and decoding lose nothing; names of journals may hold anything."""
    odd = dataclasses.replace(MANIFEST, journal_id='a"\\\u202e\x00é')
    for manifest in (MANIFEST, odd):
        assert decode(encode(manifest), reader_version="0.1.0") == manifest


def test_members_follow_each_other_without_gaps():
    """Each member begins where the one before ends, on a block; the last one is followed by two
    blocks of zeros.
    """
    layout = Layout(MANIFEST)
    end = 0
    for member in layout.members():
        assert member.offset == end
        assert member.offset % BLOCK_BYTES == 0
        end = member.end
    assert layout.size_bytes == end + 1024
    names = [member.name for member in layout.members()]
    assert names == [
        "journaltrack-bundle.json",
        "journal.db",
        f"spool/bb/{B}",
        f"spool/cc/{C}",
        "journaltrack-bundle.sha256",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"created_at_ns": -1},
        {"last_seq": -(2**64)},
        {"last_seq": 1.0},
        {"last_seq": True},
        {"last_seq": 2**64},
        {"last_seq": 10**100},
        {"journal_id": 7},
        {"content": "some"},
        {"created_by": {"version": "0.1.0\u001b[2J", "host": "h"}},
        {"created_by": {"version": "0.1.0", "host": "../h"}},
        {"created_by": []},
        {"database": {"size_bytes": "1", "sha256": A}},
        {"database": {"size_bytes": 1, "sha256": "../../etc/passwd"}},
        {"blobs": {"../" * 20 + "abcd": 1}},
        {"blobs": {B.upper(): 1}},
        {"blobs": {C: 1, B: 1}},
        {"blobs": {B: -1}},
        {"blobs": {B: None}},
        {"blobs": [B]},
        {"left_out": [B]},
        {"left_out": ["x"]},
        {"left_out": [A, A]},
        {"damaged": {A: "missing"}, "left_out": [A]},
        {"damaged": {"d" * 64: "stolen"}},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_manifest_that_no_journaltrack_writes_is_refused(change):
    """Values of a wrong type or range, digests that are none, wrong orders and unknown members
    are damage.
    """
    data = json.dumps(json.loads(encode(MANIFEST)) | change, indent=1).encode() + b"\n"
    with pytest.raises(BundleDamagedError):
        decode(data, reader_version="0.1.0")


def test_a_manifest_in_another_form_is_refused():
    """The same values with other white space, or with a member twice, are not what journaltrack
    writes.
    """
    good = encode(MANIFEST)
    for data in (
        good + b" ",
        good[:-1],
        good.replace(b' "last_seq": 42', b' "last_seq": 41,\n "last_seq": 42'),
        b"",
        b"{}",
        good[1:],
    ):
        with pytest.raises(BundleDamagedError):
            decode(data, reader_version="0.1.0")


@pytest.mark.parametrize(
    "filling",
    [b"[" * 10**6, b"[],", b"{},", b'"a":1,', b"1e999,", b"9" * 10**6],
    ids=lambda f: repr(f[:8]),
)
def test_a_manifest_that_would_fill_the_memory_is_refused(filling):
    """Megabytes of nested or tiny values are refused without being built."""
    head = encode(MANIFEST).partition(b' "created_at_ns"')[0]
    data = head + b' "created_at_ns": [' + filling * (8_000_000 // len(filling))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleDamagedError):
        decode(data, reader_version="0.1.0")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_newer_format_names_the_version_that_reads_it():
    """Whatever a newer manifest holds, its beginning says what is needed; without a newer
    version there, it is one newer than this.
    """
    newer = (
        encode(MANIFEST)
        .replace(b'"journaltrack_bundle": 1', b'"journaltrack_bundle": 2')
        .replace(b'"0.1.0"', b'"3.4.0"', 1)
    )
    with pytest.raises(BundleTooNewError, match="format 2") as caught:
        decode(newer.partition(b' "created_at_ns"')[0] + b"anything", reader_version="0.1.0")
    assert "3.4.0" in caught.value.hint
    for stated in (b"3.4.0", b"", b"4.0.0rc1"):
        with pytest.raises(BundleTooNewError) as caught:
            decode(newer.replace(b"3.4.0", stated), reader_version="3.4.1")
        assert ("4.0.0rc1 or later" if b"rc" in stated else "newer than 3.4.1") in caught.value.hint


def test_the_first_header_tells_the_size_of_the_manifest_or_nothing():
    """A size that is binary, negative, too large or no number is that of no bundle."""
    good = header("journaltrack-bundle.json", 100, 0)
    assert manifest_size(good) == 100
    for data in (
        good[:511],
        header("other.json", 100, 0),
        header("journaltrack-bundle.json", 2**40, 0),
        bytes(512),
    ):
        assert manifest_size(data) is None
    assert manifest_size(good[:124] + b"-0000000100\0" + good[136:]) is None


def test_a_member_beyond_8_gib_is_read_by_tar():
    """The archive's index is right behind a member whose size is binary."""
    big = header("big", 8**11, 0)
    with tarfile.open(fileobj=io.BytesIO(big), mode="r:") as archive:
        assert next(iter(archive)).size == 8**11
