"""Find the files that a call names, by a path or by their folder.

Reads only names, no content. Must not know the tracker or the journal.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from journaltrack import limits
from journaltrack.errors import ArtifactError, InvalidTypeError

_SHOWN_MAX = 5


class LeftOut(NamedTuple):
    """A file or folder that is not recorded, by its name below the root, and why."""

    name: str
    reason: str


class Files(NamedTuple):
    """The files below a folder: (path, relative name), sorted; and those left out."""

    found: list[tuple[str, str]]
    left_out: list[LeftOut]


def given(path: object) -> str:
    """Return the path that a caller means.

    ``~`` is the home folder, unless a file of exactly that name exists.

    Raises:
        InvalidTypeError: It is not a path.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        kind = type(path).__name__
        raise InvalidTypeError(
            f"a path must be a str or os.PathLike, not {kind}; nothing was recorded"
        )
    text = os.fsdecode(path)
    if not text.startswith("~") or os.path.lexists(text):
        return text
    return os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser raises where there is no home


def below(root: str) -> Files:
    """List everything below a folder.

    Links are followed, except to a folder that contains them.

    Raises:
        ArtifactError: The folder itself can't be read.
    """
    found: list[tuple[str, str]] = []
    left_out: list[LeftOut] = []
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while folders:
        folder, above = folders.pop()
        path = os.path.join(root, folder)  # noqa: PTH118 - a name may be any bytes
        try:
            status = os.stat(path)  # noqa: PTH116 - as above
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(path) as entries:
                known = list(entries)
        except OSError as error:
            if not folder:
                text = f"the folder {root} can't be read: {error.strerror}; nothing was recorded"
                raise ArtifactError(text, hint="check its permissions") from error
            left_out.append(LeftOut(folder, error.strerror or str(error)))
            continue
        for entry in known:
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if entry.is_dir():
                    folders.append((name, above | {identity}))
                elif entry.is_file():
                    found.append((entry.path, name))
                else:
                    os.stat(entry.path)  # noqa: PTH116 - says what is wrong with a link
                    left_out.append(LeftOut(name, "not a regular file"))
            except OSError as error:
                left_out.append(LeftOut(name, error.strerror or str(error)))
    return Files(sorted(found, key=lambda file: file[1].split("/")), sorted(left_out))


def told(root: str, left_out: list[LeftOut], recorded: int) -> str:
    """Say which files of a folder are not recorded, and why. Names 5 at most."""
    some = "; ".join(f"{limits.shown(each.name)}: {each.reason}" for each in left_out[:_SHOWN_MAX])
    more = f"; and {len(left_out) - _SHOWN_MAX} more" if len(left_out) > _SHOWN_MAX else ""
    count = len(left_out)
    return f"{count} files or folders in {root} are not recorded, {recorded} are: {some}{more}"
