"""Where a dataset's files are: a folder, or (``remotes.aws.objects``) a bucket of S3.

A file appears whole, or not at all, and is never changed. Must not know what a file contains.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from journaltrack.errors import InvalidInputError
from journaltrack.util import paths


class Store(Protocol):
    """Keep files under names of parts that are joined by slashes.

    Attributes:
        uri: Where it is, for people.
    """

    uri: str

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted; none if there is no such folder."""

    def end(self, name: str, size_bytes: int) -> bytes:
        """Return the last bytes of a file, or all if it has no more."""

    def create(self, name: str, write: Callable[[IO[bytes]], None]) -> bool:
        """Make a file of what ``write`` writes. Return False if the name was taken meanwhile."""


class Folder:
    """A folder of this machine's; implements ``Store``.

    Args:
        folder: Made with the first file.
        journals: The journals that are exported. It must not be in one of them.

    Raises:
        InvalidInputError: It is in a journal, or is no folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *journals: Path) -> None:
        self._folder = paths.expanded(folder).resolve()
        self._journals = journals
        self.uri = str(self._folder)
        for journal in journals:
            if self._folder.is_relative_to(journal.resolve()):
                raise InvalidInputError(
                    f"{self._folder} is inside of the journal",
                    hint="a journal's folder is its own: name a folder elsewhere",
                )
        if self._folder.exists() and not self._folder.is_dir():
            raise InvalidInputError(
                f"{self._folder} is not a folder; nothing was written",
                hint="name a folder for the dataset, or a file with --output",
            )

    def names(self, folder: str) -> list[str]:
        """List the folder."""
        try:
            return sorted(os.listdir(self._folder / folder))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return []

    def end(self, name: str, size_bytes: int) -> bytes:
        """Read the end of the file."""
        with (self._folder / name).open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size_bytes, 0))
            return file.read()

    def create(self, name: str, write: Callable[[IO[bytes]], None]) -> bool:
        """Write the file under a hidden name, and give it its own once it is on the disk."""
        target = self._folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Of exports that were killed: also of files that have their names.
        paths.remove_left(target.parent)
        try:
            with paths.whole_file(target, *self._journals, force=False) as (_, stream):
                write(stream)
        except InvalidInputError:
            if not target.exists():
                raise
            return False
        return True
