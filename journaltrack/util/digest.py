"""Compute the SHA-256 of a file and of its parts, and recognize one as text.

Must not know where files are, nor which store takes parts.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

BLOCK_BYTES: Final = 1 << 20
IN_ONE_PIECE_BYTES_MAX: Final = 16 << 20
"""Ours: the largest content that a store gets in one piece.

S3 verifies and keeps the SHA-256 of the whole. Parts are not faster at this size, and need two more
requests (ADR 0022).
"""
PART_BYTES: Final = 8 << 20
"""boto3's part size. A kill loses at most one part of each connection."""
PARTS_MAX: Final = 10_000
"""S3's limits: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html.

The largest object, 48.8 TiB, has 10,000 parts of 5 GiB.
"""
_LENGTH: Final = 64
_DIGITS: Final = frozenset("0123456789abcdef")


def is_digest(value: object) -> bool:
    """Return whether it is a SHA-256 in lower-case hexadecimal: only that may be part of a path."""
    return isinstance(value, str) and len(value) == _LENGTH and _DIGITS.issuperset(value)


def digest_of(read: Callable[[int], bytes]) -> str:
    """Return the SHA-256 of all that ``read`` gives, as hexadecimal; it gives nothing at the end.

    Args:
        read: Such as ``file.read``; called with the number of bytes to give at most.
    """
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    while block := read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def part_bytes_of(size_bytes: int) -> int:
    """Return the usual part size of a content of that size."""
    least = -(-size_bytes // PARTS_MAX)
    return max(PART_BYTES, -(-least // (1 << 20)) << 20)


class PartDigests(NamedTuple):
    """The SHA-256 of each part of a content.

    Attributes:
        part_bytes: The size of every part but the last.
        digests: 32 bytes for each part, one after the other.
    """

    part_bytes: int
    digests: bytes

    def members(self) -> dict[str, int | str]:
        """Return it as a payload has it: the size, and the digests in base64."""
        text = binascii.b2a_base64(self.digests, newline=False).decode()
        return {"size": self.part_bytes, "sha256": text}

    @classmethod
    def read(cls, members: object) -> PartDigests | None:
        """Return what ``members`` wrote; None if it is anything else."""
        if not isinstance(members, dict):
            return None
        part_bytes, text = members.get("size"), members.get("sha256")
        if type(part_bytes) is not int or part_bytes <= 0 or not isinstance(text, str):
            return None
        try:
            return cls(part_bytes, binascii.a2b_base64(text))
        except ValueError:
            return None


class PartHasher:
    """Hash the parts of a content whose bytes pass by in order.

    Args:
        size_bytes: Of the content.
    """

    def __init__(self, size_bytes: int) -> None:
        self._part_bytes = self._left = part_bytes_of(size_bytes)
        self._digest = hashlib.sha256()
        self._done = b""

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        while data:
            piece, data = data[: self._left], data[self._left :]
            self._digest.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._end_part()

    def result(self) -> PartDigests:
        """Return the digests of all parts, after the last byte."""
        if self._left != self._part_bytes:
            self._end_part()
        return PartDigests(self._part_bytes, self._done)

    def _end_part(self) -> None:
        self._done += self._digest.digest()
        self._digest, self._left = hashlib.sha256(), self._part_bytes
