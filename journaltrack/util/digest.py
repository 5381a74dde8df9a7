"""Compute the SHA-256 of a file, and recognize one as text. Must not know where files are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

BLOCK_BYTES: Final = 1 << 20
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
