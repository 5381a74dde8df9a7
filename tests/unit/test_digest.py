"""The digests of a content's parts: taken piece by piece, and read back from a payload."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.journal.vocabulary import BlobRef, decode, upload
from journaltrack.util import digest
from journaltrack.util.digest import PartDigests, PartHasher

PART = 7


@given(st.lists(st.binary(max_size=20)))
def test_parts_do_not_depend_on_the_pieces(pieces):
    """However the bytes come: the digest of every part, in order, also of a short last one."""
    content = b"".join(pieces)
    hasher = PartHasher(len(content))
    hasher._part_bytes = hasher._left = PART
    for piece in pieces:
        hasher.update(memoryview(piece))
    parts = [content[at : at + PART] for at in range(0, len(content), PART)]
    assert hasher.result() == (PART, b"".join(hashlib.sha256(part).digest() for part in parts))


def test_a_payload_keeps_them():
    """As they were, and beside what it always had."""
    parts = PartDigests(digest.PART_BYTES, bytes(range(64)))
    draft = upload("a", BlobRef("0" * 64, None, None), 5, None, "a", parts=parts)
    assert PartDigests.read(decode(draft.payload)["parts"]) == parts
    assert "parts" not in decode(upload("a", BlobRef("0" * 64, None, None), 5, None, "a").payload)


@pytest.mark.parametrize(
    "members",
    [
        "null",
        "[]",
        "5",
        "{}",
        '{"size":8388608}',
        '{"size":0,"sha256":""}',
        '{"size":true,"sha256":""}',
        '{"size":1.5,"sha256":""}',
        '{"size":"8","sha256":""}',
        '{"size":8388608,"sha256":7}',
        '{"size":8388608,"sha256":"a"}',
        '{"size":8388608,"sha256":"\\u00e9"}',
    ],
)
def test_what_is_no_digests_is_none(members):
    """A journal may come from elsewhere. Without digests, the upload hashes."""
    assert PartDigests.read(json.loads(members)) is None
