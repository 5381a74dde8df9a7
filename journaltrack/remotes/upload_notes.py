"""Notes about uploads under way, small files in the spool, so that a killed one is found again.

An intent is written before an upload is begun at the store, and its id after: whatever moment a kill takes, one of both is there.
A note is a hint: a journal may come from somebody else, or its notes may be lost. Nothing is sent, skipped or put together because of
one; the store's own answers decide.

How artifacts are named in an object store. Pure; knows no store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from journaltrack.journal.spool.spool import TEMPORARY
from journaltrack.journal.sqlite import files

DEFAULT_PREFIX: Final = "trial-component-artifacts"
"""As the original library names it."""


def object_name(name: str) -> str:
    """An artifact's name as the last part of a key; it can't leave its component's folder, whatever the name says."""
    text = name.encode(errors="replace").decode()  # a file name that is not UTF-8
    printable = "".join(char if char.isprintable() else "_" for char in text)
    return "/".join(part for part in printable.split("/") if part not in {"", "..", "."}) or "artifact"


def prefix_name(prefix: str | None) -> str:
    """The folder of a bucket that a prefix stands for; None: the default one."""
    return object_name(prefix or DEFAULT_PREFIX)


logger = logging.getLogger(__name__)

PREFIX: Final = f"{TEMPORARY}upload-"
"""A temporary file's name: it is in no bundle, and is removed when nobody has touched it for long."""
_BYTES_MAX: Final = 8192
_ID_CHARS_MAX: Final = 2048


class Place(NamedTuple):
    """Where a content goes."""

    bucket: str
    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Note:
    """An upload that was begun, or was about to be.

    Attributes:
        part_bytes: Size of its parts.
        intended_at_s: Seconds since the epoch, by this machine's clock.
        upload_id: As the store calls it; None if the process died before it knew.
    """

    part_bytes: int
    intended_at_s: float
    upload_id: str | None = None


class UploadNotes:
    """The notes in a folder; without one, none are kept.

    Args:
        folder: The spool.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def intend(self, place: Place, part_bytes: int) -> Note:
        """Note that an upload is about to be begun."""
        return self._write(place, Note(part_bytes, time.time()))

    def begun(self, place: Place, note: Note, upload_id: str) -> Note:
        """Note what it is called."""
        return self._write(place, Note(note.part_bytes, note.intended_at_s, upload_id))

    def read(self, place: Place) -> Note | None:
        """What was noted; None also if it can't be read."""
        if self._folder is None:
            return None
        try:
            descriptor = os.open(self._path(self._folder, place), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return _parsed(os.read(descriptor, _BYTES_MAX), place)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def any(self) -> bool:
        """Whether there are notes at all."""
        return self._folder is not None and any(self._folder.glob(f"{PREFIX}*"))

    def forget(self, place: Place) -> None:
        """Remove the note."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._path(self._folder, place).unlink()

    def _write(self, place: Place, note: Note) -> Note:
        if self._folder is None:
            return note
        path = self._path(self._folder, place)
        partial = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        text = json.dumps({**place._asdict(), **asdict(note)}).encode()
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            files.hand_over(descriptor, path.parent.parent)
            try:
                os.write(descriptor, text)
            finally:
                os.close(descriptor)
            partial.replace(path)
        except OSError as error:  # the upload goes on; what a kill leaves is found by what S3 tells of it
            logger.debug("no note of the upload could be kept in %s: %s", self._folder, error)
            with contextlib.suppress(OSError):
                partial.unlink()
        return note

    @staticmethod
    def _path(folder: Path, place: Place) -> Path:
        name = hashlib.sha256("\0".join(place).encode(errors="surrogatepass")).hexdigest()
        return folder / f"{PREFIX}{name[:32]}.json"


def _parsed(text: bytes, place: Place) -> Note | None:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(held, dict) or any(held.get(name) != value for name, value in place._asdict().items()):
        return None
    part_bytes, intended_at_s, upload_id = held.get("part_bytes"), held.get("intended_at_s"), held.get("upload_id")
    if type(part_bytes) is not int or type(intended_at_s) is not float:
        return None
    if upload_id is not None and not (isinstance(upload_id, str) and 0 < len(upload_id) <= _ID_CHARS_MAX and upload_id.isprintable()):
        return None
    return Note(part_bytes, intended_at_s, upload_id)
