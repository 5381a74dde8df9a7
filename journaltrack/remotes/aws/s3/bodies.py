"""What is sent to S3, in pieces, and signed by the digest that is known already.

The bytes of a request are read when they are sent, a piece at a time that stays in a core's cache: a deadline ends a transfer in its
middle, a slow connection's time-out is one of a piece, and no part is ever in memory.

Must not know which request it is.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
from collections.abc import Callable
from typing import Any, Final

from botocore import auth

CHUNK_BYTES: Final = 256 * 1024
"""http.client would send 16 KiB at a time, which costs a tenth of a transfer's CPU more."""
_SIGNER: Final = "journaltrack-s3v4"
_CHECKSUM: Final = "x-amz-checksum-sha256"
_BODIES: Final = ("PutObject", "UploadPart")
"""Where that header is the digest of the body; with CompleteMultipartUpload it speaks of the object."""


class Body:
    """A part of a file as botocore wants a body, a file of its own. Memory: one piece.

    Args:
        descriptor: Of the file, which stays the caller's. Its position is neither used nor changed.
        start: Where the body begins in it.
        size_bytes: Of the body.
        check: Called before each piece; what it raises ends the request.
    """

    def __init__(self, descriptor: int, start: int, size_bytes: int, check: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size_bytes = size_bytes
        self._check = check
        self._place = 0
        self._piece = memoryview(bytearray(min(CHUNK_BYTES, size_bytes)))

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, size: int = -1) -> bytes | memoryview:
        """The next piece, ``CHUNK_BYTES`` also where less was asked for, as http.client does; valid until the next one is read.

        Raises:
            OSError: The file ends before the body does.
        """
        self._check()
        left = self._size_bytes - self._place
        if left <= 0:
            return b""
        wanted = left if size < 0 else min(left, max(size, CHUNK_BYTES))
        piece = self._piece[:wanted] if wanted <= len(self._piece) else memoryview(bytearray(wanted))
        count = os.preadv(self._descriptor, [piece], self._start + self._place)
        if not count:
            raise OSError(errno.EIO, "the file has become shorter")  # the server would wait for the rest
        self._place += count
        return piece[:count]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file: a redirected request is sent again."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size_bytes}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """As of a file."""
        return self._place


class _ChecksumAuth(auth.S3SigV4Auth):  # type: ignore[misc]
    """botocore's signature, with the digest of the body taken from the checksum that the request carries; S3 verifies both."""

    def payload(self, request: Any) -> str:  # noqa: ANN401
        """The body's SHA-256 in hexadecimal."""
        value = request.headers.get(_CHECKSUM)
        try:
            return base64.b64decode(value, validate=True).hex()
        except (TypeError, ValueError, binascii.Error):
            return str(super().payload(request))


def sign_by_checksum(client: Any) -> None:  # noqa: ANN401
    """Have an S3 client not hash bodies again whose SHA-256 it is given.

    botocore signs the SHA-256 of a body, which it computes, unless the connection has TLS and it computed a checksum itself; one that
    it was given does not count (botocore.auth.S3SigV4Auth._should_sha256_sign_payload looks for ``request_algorithm``).
    """
    auth.AUTH_TYPE_MAPS.setdefault(_SIGNER, _ChecksumAuth)
    for operation in _BODIES:
        client.meta.events.register_first(f"choose-signer.s3.{operation}", _chosen)


def _chosen(*, signing_name: str, signature_version: object, context: dict[str, Any], **_: object) -> str | None:
    """The signer, in the place of botocore's usual one; other ones (SigV4a, S3 Express, none, presigned) stay."""
    usual = context.get("auth_type") in {None, "v4"} and signature_version in {"v4", "s3v4"} and signing_name == "s3"
    return _SIGNER if usual else None
