"""Open the place of a dataset: a folder, or a prefix of a bucket in S3. Read a file from there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalNotFoundError, RemoteError
from journaltrack.transfer.export.store import Folder
from journaltrack.util import paths
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from journaltrack.app.connection import Connection
    from journaltrack.remotes.aws.objects import Objects
    from journaltrack.transfer.export.store import Store


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
    if not uri.startswith(paths.S3):
        yield Folder(uri, *journals)
        return
    with _objects(uri, connection, "nothing was exported", "s3://BUCKET/PREFIX") as (make, prefix):
        yield make(prefix.strip("/"))


def fetch(uri: str, to: Path, connection: Connection) -> None:
    """Read an object of S3 into a new file.

    Args:
        uri: ``s3://bucket/key``.
        to: The file.
        connection: How to reach S3.

    Raises:
        InvalidInputError: The address can't be that of an object.
        JournalNotFoundError: There is no such object.
        RemoteError: It can't be read.
    """
    with (
        _objects(uri, connection, "nothing was read", "s3://BUCKET/KEY") as (make, key),
        to.open("xb") as file,
    ):
        if not key:
            raise InvalidInputError(
                f"{limits.shown(uri)} names no object; nothing was read",
                hint="name it as s3://BUCKET/KEY",
            )
        try:
            make("").fetch(key, file)
        except RemoteError as error:
            if error.code not in {"NoSuchKey", "404"}:
                raise
            raise JournalNotFoundError(
                f"there is nothing at {limits.shown(uri)}; nothing was sent",
                hint="check the address (`aws s3 ls`)",
            ) from error


@contextlib.contextmanager
def _objects(
    uri: str, connection: Connection, so: str, form: str
) -> Iterator[tuple[Callable[[str], Objects], str]]:
    """Give what makes the objects of an address's bucket by their prefix, and the rest of it."""
    bucket, _, rest = uri.removeprefix(paths.S3).partition("/")
    problem = limits.bucket_problem(bucket)
    if problem is not None:
        raise InvalidInputError(
            f"{limits.shown(uri)} names no bucket: {problem}; {so}", hint=f"name it as {form}"
        )
    from journaltrack.remotes.retry import RetryingRemote  # noqa: PLC0415 - only for S3

    deadline = Deadline()
    remote = connection.remote(deadline, concurrency=1)
    with contextlib.closing(remote):
        repeat = RetryingRemote(remote, deadline=deadline).repeat
        yield lambda prefix: remote.objects(bucket, prefix, repeat), rest
