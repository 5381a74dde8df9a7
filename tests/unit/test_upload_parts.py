"""How a file is cut into parts, within S3's limits; and what a body reads."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.remotes.aws.parts import CHUNK_BYTES, CONNECTIONS, Body, Plan
from journaltrack.util.digest import PART_BYTES

MIB = 1 << 20
LARGEST = 10_000 * 5 * 1024 * MIB
"""Of an object: 10,000 parts of 5 GiB
(docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
"""


@given(st.integers(1, LARGEST), st.none() | st.integers(-1, 6 * 1024 * MIB))
def test_parts_cover_a_file_within_s3s_limits(size_bytes, noted):
    """Whatever a note says: at most 10,000 parts of 5 MiB to 5 GiB, the last one of what is
    left, one after the other.
    """
    plan = Plan.of(size_bytes, noted)
    assert 1 <= plan.count <= 10_000
    assert 5 * MIB <= plan.part_bytes <= 5 * 1024 * MIB
    assert plan.size(plan.count) == size_bytes - plan.place(plan.count)
    assert 0 < plan.size(plan.count) <= plan.part_bytes
    assert plan.size(1) == min(size_bytes, plan.part_bytes)
    assert [plan.size(number) for number in (0, -1, plan.count + 1)] == [0, 0, 0]
    assert 1 <= plan.connections <= CONNECTIONS


@pytest.mark.parametrize(
    ("size_bytes", "noted", "part_bytes"),
    [
        (17 * MIB, None, PART_BYTES),
        (10_000 * PART_BYTES, None, PART_BYTES),
        (10_000 * PART_BYTES + 1, None, PART_BYTES + MIB),
        (17 * MIB, 5 * MIB, 5 * MIB),
        (17 * MIB, 5 * MIB - 1, PART_BYTES),
        (17 * MIB, 64 * MIB, 64 * MIB),
        (17 * MIB, 5 * 1024 * MIB, PART_BYTES),
        (10_000 * PART_BYTES, PART_BYTES - 1, PART_BYTES),
        (LARGEST, None, 5 * 1024 * MIB),
    ],
)
def test_a_note_decides_where_it_can(size_bytes, noted, part_bytes):
    """Parts are as the upload was begun, unless they would be too many, too small, or more than
    is worth a kill.
    """
    assert Plan.of(size_bytes, noted).part_bytes == part_bytes


@pytest.fixture
def descriptor(tmp_path):
    """A file of three pieces."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (3 * CHUNK_BYTES // 256))
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def read_all(body, size):
    """Everything, by reads of that size."""
    pieces = []
    while piece := body.read(size):
        pieces.append(bytes(piece))
    return b"".join(pieces)


@pytest.mark.parametrize("size", [1, 16384, CHUNK_BYTES, 2 * CHUNK_BYTES + 1, -1])
def test_a_body_is_its_part_of_the_file(descriptor, size):
    """However it is read, and again after a seek; the file's own position does not matter."""
    os.lseek(descriptor, 77, os.SEEK_SET)
    body = Body(descriptor, 100, 2 * CHUNK_BYTES + 50, lambda: None)
    wanted = (bytes(range(256)) * (3 * CHUNK_BYTES // 256))[100 : 100 + 2 * CHUNK_BYTES + 50]
    assert len(body) == len(wanted)
    assert read_all(body, size) == wanted
    assert body.tell() == len(wanted)
    body.seek(-50, os.SEEK_END)
    assert read_all(body, size) == wanted[-50:]
    body.seek(0)
    assert read_all(body, size) == wanted


def test_a_body_of_a_file_that_became_shorter_is_an_error(descriptor):
    """Not an end: the server would wait for the rest."""
    body = Body(descriptor, 0, 4 * CHUNK_BYTES, lambda: None)
    with pytest.raises(OSError, match="shorter"):
        read_all(body, 16384)


def test_an_empty_body_is_nothing(descriptor):
    """An artifact may have no bytes."""
    assert read_all(Body(descriptor, 0, 0, lambda: None), -1) == b""
