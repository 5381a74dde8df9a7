"""Open the place of a dataset: a folder, or a prefix of a bucket in S3."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.transfer.export.store import Folder
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from journaltrack.app.connection import Connection
    from journaltrack.transfer.export.store import Store

_S3: Final = "s3://"


@contextlib.contextmanager
def opened(
    to: str | os.PathLike[str], journals: Iterable[Path], connection: Connection
) -> Iterator[Store]:
    """Give the place of a dataset for the block.

    Args:
        to: A folder, or an address such as ``s3://bucket/prefix``.
        journals: The folders of the journals that are exported.
        connection: How to reach S3.

    Raises:
        InvalidInputError: Nothing can be there.
        RemoteError: boto3 can't be imported.
    """
    uri = os.fspath(to)
    if not uri.startswith(_S3):
        yield Folder(uri, *journals)
        return
    from journaltrack.remotes.retry import RetryingRemote  # noqa: PLC0415 - only for S3

    bucket, _, prefix = uri.removeprefix(_S3).partition("/")
    problem = limits.bucket_problem(bucket)
    if problem is not None:
        raise InvalidInputError(
            f"{limits.shown(uri)} names no bucket: {problem}; nothing was exported",
            hint="name it as s3://BUCKET/PREFIX",
        )
    deadline = Deadline()
    remote = connection.remote(deadline, concurrency=1)
    with contextlib.closing(remote):
        repeat = RetryingRemote(remote, deadline=deadline).repeat
        yield remote.objects(bucket, prefix.strip("/"), repeat)
