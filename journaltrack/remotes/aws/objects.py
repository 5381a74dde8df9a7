"""Keep the files of a dataset in S3, as ``journaltrack.transfer.export.store.Store``; read others.

A file goes in one conditional request with its SHA-256: S3 compares, and overwrites nothing. So it
appears whole, or not at all. Must not know what a file contains, nor when a request is repeated.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import ClientError

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.errors import classified, is_taken
from journaltrack.remotes.aws.parts import Body, digest_at
from journaltrack.remotes.upload_notes import Place

if TYPE_CHECKING:
    from journaltrack.remotes.aws.s3 import Uploader

T = TypeVar("T")

PUT_BYTES_MAX: Final = 5 << 30
"""S3's limit for one PutObject: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html."""

_READ_BYTES: Final = 1 << 20


class Objects:
    """The objects under a prefix of a bucket.

    Args:
        uploader: Has the client, with the storage options.
        bucket: Must exist.
        prefix: Without slashes at its ends; '' for none.
        repeat: Makes a request, again if it may succeed then.
    """

    def __init__(
        self,
        uploader: Uploader,
        bucket: str,
        prefix: str,
        repeat: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._uploader = uploader
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._repeat = repeat
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def names(self, folder: str) -> list[str]:
        """Send ListObjectsV2."""
        begin = f"{self._prefix}{folder}/"

        def listed(client: Any, bucket: str) -> list[str]:  # noqa: ANN401 - boto3 has no types
            """List all pages."""
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=begin)
            keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
            return sorted(key.removeprefix(begin) for key in keys)

        return self._ask(listed)

    def end(self, name: str, size_bytes: int) -> bytes:
        """Send GetObject for the last bytes."""

        def read(client: Any, bucket: str) -> bytes:  # noqa: ANN401
            """Read the answer to its end."""
            answer = client.get_object(
                Bucket=bucket, Key=self._prefix + name, Range=f"bytes=-{size_bytes}"
            )
            content: bytes = answer["Body"].read()
            return content

        return self._ask(read)

    def fetch(self, name: str, to: IO[bytes]) -> None:
        """Send GetObject, and write all of a file to a local one."""

        def read(client: Any, bucket: str) -> None:  # noqa: ANN401
            """Write the answer, in place of what an earlier attempt wrote."""
            to.seek(0)
            to.truncate()
            answer = client.get_object(Bucket=bucket, Key=self._prefix + name)
            with contextlib.closing(answer["Body"]) as body:
                shutil.copyfileobj(body, to, _READ_BYTES)
            to.flush()

        self._ask(read)

    def create(self, name: str, write: Callable[[IO[bytes]], None]) -> bool:
        """Write the file to a temporary one, and send PutObject with ``IfNoneMatch``."""
        with tempfile.TemporaryFile() as file:
            write(file)
            file.flush()
            descriptor, size_bytes = file.fileno(), os.fstat(file.fileno()).st_size
            if size_bytes > PUT_BYTES_MAX:
                raise RemoteError(
                    f"{name} would have {size_bytes} bytes, more than S3 takes in one request; "
                    "the journal is unchanged",
                    kind=ErrorKind.PERMANENT,
                    code="EntityTooLarge",
                    hint="export to a folder, and copy that to S3",
                )
            sha256 = digest_at(descriptor, 0, size_bytes)
            digest = base64.b64decode(sha256).hex()

            def put(client: Any, bucket: str) -> bool:  # noqa: ANN401
                """Send it, unless its key is taken."""
                place = Place(bucket, self._prefix + name, digest)
                try:
                    answer = client.put_object(
                        Bucket=bucket,
                        Key=place.key,
                        Body=Body(descriptor, 0, size_bytes, lambda: None),
                        IfNoneMatch="*",
                        ChecksumSHA256=sha256,
                        Metadata={"sha256": digest},
                    )
                except ClientError as error:
                    if not is_taken(error):
                        raise
                    # By an earlier attempt whose answer was lost, or by others.
                    held = self._uploader.find(f"s3://{bucket}/{place.key}")
                    return held is not None and held.noted_sha256 == digest
                body = Body(descriptor, 0, size_bytes, lambda: None)
                self._uploader.confirm(answer, body, place, size_bytes)
                return True

            return self._ask(put)

    def _ask(self, request: Callable[[Any, str], T]) -> T:
        """Make a request with the client and the bucket's name, and classify what it raises."""

        def attempt() -> T:
            """Make it once."""
            try:
                return request(*self._uploader.place(self._bucket))
            # botocore raises many kinds, as do connections.
            except Exception as error:
                raise classified(error) from error

        answer: T = self._repeat(attempt)
        return answer
