"""Name artifacts in an object store, and note uploads under way so that they survive a kill.

Notes are small files in the spool. An intent is written before an upload begins at the store, its
id afterwards. So after a kill at any moment, one of both is there.

A note is only a hint: a journal may come from somebody else, or may have lost its notes. No note
decides what is sent, skipped or completed; the store's own answers do.

Must not know any store.
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

logger = logging.getLogger(__name__)

DEFAULT_PREFIX: Final = "trial-component-artifacts"
"""The original library's prefix."""
PREFIX: Final = f"{TEMPORARY}upload-"
"""Start of a note's file name, which is a temporary file's.

No bundle contains it, and it is removed if nobody touches it for long.
"""
_BYTES_MAX: Final = 8192
_ID_CHARS_MAX: Final = 2048


def object_name(name: str) -> str:
    """Return an artifact's name as the last part of a key.

    No name leads out of its component's folder.
    """
    # A file name need not be UTF-8.
    text = name.encode(errors="replace").decode()
    printable = "".join(char if char.isprintable() else "_" for char in text)
    parts = [part for part in printable.split("/") if part not in {"", "..", "."}]
    return "/".join(parts) or "artifact"


def prefix_name(prefix: str | None) -> str:
    """Return the folder of a bucket for a prefix; None stands for the default prefix."""
    return object_name(prefix or DEFAULT_PREFIX)


class Place(NamedTuple):
    """Bucket and key for a content, with its digest in hexadecimal."""

    bucket: str
    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Note:
    """An upload that was begun, or was about to be.

    Attributes:
        part_bytes: Size of its parts.
        intended_at_s: Seconds since the epoch, by this machine's clock.
        upload_id: The store's id. None if the process died before it knew.
    """

    part_bytes: int
    intended_at_s: float
    upload_id: str | None = None


class UploadNotes:
    """The notes in a spool.

    Args:
        folder: The spool. None keeps no notes.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def intend(self, place: Place, part_bytes: int) -> Note:
        """Note that an upload is about to be begun."""
        return self._write(place, Note(part_bytes, time.time()))

    def begun(self, place: Place, note: Note, upload_id: str) -> Note:
        """Note the upload's id."""
        return self._write(place, Note(note.part_bytes, note.intended_at_s, upload_id))

    def read(self, place: Place) -> Note | None:
        """Return the note, or None if there is none or it can't be read."""
        if self._folder is None:
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path(self._folder, place), flags)
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
        """Return whether there are any notes."""
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
            descriptor = os.open(
                partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            files.hand_over(descriptor, path.parent.parent)
            try:
                os.write(descriptor, text)
            finally:
                os.close(descriptor)
            partial.replace(path)
        # The upload goes on. After a kill, S3's list of uploads is enough to find it again.
        except OSError as error:
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
    if not isinstance(held, dict):
        return None
    if any(held.get(name) != value for name, value in place._asdict().items()):
        return None
    part_bytes, intended_at_s = held.get("part_bytes"), held.get("intended_at_s")
    if type(part_bytes) is not int or type(intended_at_s) is not float:
        return None
    upload_id = held.get("upload_id")
    if upload_id is not None and not _is_upload_id(upload_id):
        return None
    return Note(part_bytes, intended_at_s, upload_id)


def _is_upload_id(held: object) -> bool:
    return isinstance(held, str) and 0 < len(held) <= _ID_CHARS_MAX and held.isprintable()
