"""Which files a call names: a path with ``~`` in it, and all that is below a folder, links followed.

Reads names alone, no content. Must not know the tracker or the journal.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from journaltrack import limits
from journaltrack.errors import ArtifactError, InvalidTypeError

_SHOWN_MAX = 5


class LeftOut(NamedTuple):
    """A file or folder that is not recorded, by its name below the folder that was asked for, and why."""

    name: str
    reason: str


class Files(NamedTuple):
    """What is below a folder: paths and their names relative to it, in order; and what can't be read."""

    found: list[tuple[str, str]]
    left_out: list[LeftOut]


def given(path: object) -> str:
    """The path that a caller means; ``~`` at its begin is the home folder, unless there is a file of that very name.

    Raises:
        InvalidTypeError: It is no path.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise InvalidTypeError(f"a path must be a str or os.PathLike, not {type(path).__name__}; nothing was recorded")
    text = os.fsdecode(path)
    return os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else text  # noqa: PTH111 - never raises


def below(root: str) -> Files:
    """Everything below a folder. A linked folder is followed, but not into a folder that it lies in itself.

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
                raise ArtifactError(f"the folder {root} can't be read: {error.strerror}; nothing was recorded") from error
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
    """What to say about files of a folder that are not recorded."""
    some = "; ".join(f"{limits.shown(each.name)}: {each.reason}" for each in left_out[:_SHOWN_MAX])
    more = f"; and {len(left_out) - _SHOWN_MAX} more" if len(left_out) > _SHOWN_MAX else ""
    return f"{len(left_out)} files or folders in {root} are not recorded, {recorded} are: {some}{more}"
