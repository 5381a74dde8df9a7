"""The checksums S3 knows, including the two CRCs that Python's library lacks.

It must not know: HTTP, objects.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@cache
def _crc_table(polynomial: int) -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _crc(data: bytes, *, polynomial: int, size_bytes: int) -> bytes:
    table = _crc_table(polynomial)
    value = ones = (1 << 8 * size_bytes) - 1
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return (value ^ ones).to_bytes(size_bytes, "big")


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# The polynomials are bit-reversed. CRC32C and CRC64NVME run at some 10 MB/s here.
ALGORITHMS: Mapping[str, Callable[[bytes], bytes]] = {
    "crc32": _crc32,
    "crc32c": partial(_crc, polynomial=0x82F63B78, size_bytes=4),
    "crc64nvme": partial(_crc, polynomial=0x9A6C9329AC4BC9B5, size_bytes=8),
    "sha1": _sha1,
    "sha256": _sha256,
}


def checksum(algorithm: str, data: bytes) -> str:
    """Compute a checksum as S3 writes it: the digest, big endian, in base64."""
    return base64.b64encode(ALGORITHMS[algorithm](data)).decode("ascii")


def composite(algorithm: str, parts: list[str]) -> str:
    """Compute the checksum of a multipart object's part checksums, with the number of parts."""
    whole = b"".join(base64.b64decode(part) for part in parts)
    return f"{checksum(algorithm, whole)}-{len(parts)}"


def md5_hex(data: bytes) -> str:
    """Compute the MD5 of which S3 makes ETags."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
