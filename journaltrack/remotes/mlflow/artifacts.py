"""Store artifacts where the runs of an MLflow server have theirs.

A server that stores artifacts itself takes them by HTTP. It overwrites whatever has the name, and
knows no digests. So the digest is kept in a tag of the run *before* the first byte is sent: a name
with another digest is somebody else's, and a file that was cut off is sent again. Artifacts in S3
go there directly, in parts that outlive a kill, by the remote for AWS; or, for credentials without
rights on the bucket, in one request each that the server signs.

Must not know runs, or how requests are made.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import urlsplit

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal.sqlite import files
from journaltrack.remotes.mlflow import names
from journaltrack.remotes.upload_notes import object_name
from journaltrack.replay.remote import Answer, BlobUpload, RemoteObject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.remotes.mlflow.http import Http
    from journaltrack.replay.remote import Remote

NOTED: Final = f"{names.OURS}artifact."
"""How the tags begin that say which content an artifact has: its SHA-256 and its size."""
_PROXIED: Final = "mlflow-artifacts"
PUT_BYTES_MAX: Final = 5 * 1024**3
"""S3's limit for one request."""
_SIGNED_S: Final = 3_600
"""Ours: how long an upload may take. The server's own default is a quarter of that."""
_CHUNK_BYTES: Final = 1 << 20
_RUN: Final = re.compile(r"(?P<folder>.*/artifacts)/(?P<name>.+)")
_DECODED: Final = re.compile(r"#|%(?=[0-9A-Fa-f]{2})")
_SHORT: Final = 12
_BESIDE: Final = ".files"
"""The end of a folder's name that a file has already."""


class Artifacts:
    """Stores and finds artifacts. Threads may share it.

    Args:
        http: The server.
        bucket: Makes the remote that writes to S3, when it is first needed.
        presigned: Whether the server signs each request to S3 instead.
    """

    def __init__(
        self, http: Http, bucket: Callable[[], Remote], *, presigned: bool = False
    ) -> None:
        self._http = http
        self._bucket = bucket
        self._presigned = presigned

    def upload(
        self,
        blob: BlobUpload,
        place: str,
        noted: Mapping[str, str],
        note: Callable[[str, str], None],
    ) -> Answer:
        """Store a file under its name in a run's artifacts.

        Args:
            blob: The file.
            place: The run's ``artifact_uri``.
            noted: The run's tags.
            note: Sets a tag of the run.
        """
        scheme = urlsplit(place).scheme
        name = object_name(blob.name)
        if scheme == "s3" and not self._presigned:
            return self._to_bucket(blob, place, name)
        if scheme not in {"s3", _PROXIED}:
            raise _no_door(place)
        # The server decodes a path until nothing is left to decode, and refuses what has a "#".
        name = _DECODED.sub(lambda found: f"_x{ord(found[0]):x}_", name)
        if scheme == _PROXIED:
            name = _apart(name, blob.sha256, noted)
        told = f"{blob.sha256} {blob.size_bytes}"
        held = noted.get(noted_under(name))
        if held is None and self._size(place, name) is not None:
            # Somebody else's, or of another journal.
            held = ""
        # What journaltrack stored itself may be replaced by what says so.
        if held not in {None, told} and not (held and blob.replaces):
            name = _with_digest(name, blob.sha256)
            held = noted.get(noted_under(name))
        uri = f"{place}/{name}"
        if held == told and self._size(place, name) == blob.size_bytes:
            return Answer(uri=uri)
        if held != told:
            note(noted_under(name), told)
        self._send(blob, place, name)
        return Answer(uri=uri)

    def find(
        self, uri: str, noted: Callable[[str], Mapping[str, str] | None], *, read: bool
    ) -> RemoteObject | None:
        """Return an artifact; None if it is not there, or if its run was deleted.

        Args:
            uri: An answer of ``upload``.
            noted: Returns a run's tags by its id; None: there is no such run any more.
            read: Whether to read the content for its digest.
        """
        scheme, found = urlsplit(uri).scheme, _RUN.fullmatch(uri)
        if scheme not in {"s3", _PROXIED} or found is None:
            text = f"{uri[:200]!r} is no artifact of a run"
            raise RemoteError(text, kind=ErrorKind.PERMANENT, code="NoArtifact")
        place, name = found["folder"], found["name"]
        tags = noted(_run_of(place))
        # The files of a deleted run stay for a while, where nobody sees them.
        if tags is None:
            return None
        if scheme == "s3" and not self._presigned:
            return self._bucket().find_object(uri, read=read)
        size_bytes = self._size(place, name)
        if size_bytes is None:
            return None
        digest = tags.get(noted_under(name), "").partition(" ")[0] or None
        whole = self._read(place, name) if read else None
        return RemoteObject(size_bytes, whole, digest)

    def _read(self, place: str, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in (
            self._http.read_file(f"{_folder(place)}/{name}")
            if _is_proxied(place)
            else self._http.read_signed(*self._signed("download", place, name))
        ):
            digest.update(chunk)
        return digest.hexdigest()

    def _signed(self, what: str, place: str, name: str) -> tuple[str, Mapping[str, str]]:
        """Return an address for one request to the store, and the headers that it needs."""
        asked = {"run_id": _run_of(place), "path": name, "expiration": _SIGNED_S}
        told = self._http.post(f"artifacts/presigned-{what}-url", asked, "presigned_url")
        url, headers = str(told["presigned_url"]), told.get("headers") or {}
        if urlsplit(url).scheme not in {"http", "https"}:
            raise _no_door(url)
        return url, {str(key): str(value) for key, value in headers.items()}

    def _size(self, place: str, name: str) -> int | None:
        """Return the size of what has a name; None: nothing has it."""
        wanted, folder = posixpath.basename(name), posixpath.dirname(name)
        try:
            if _is_proxied(place):
                listed = self._http.listed(posixpath.join(_folder(place), folder).rstrip("/"))
            else:
                asked = {"run_id": _run_of(place), **({"path": folder} if folder else {})}
                listed = self._http.get("artifacts/list", None, **asked)
        except RemoteError as error:
            # Some stores have no empty folders.
            if error.kind in {ErrorKind.HOLD, ErrorKind.PERMANENT}:
                return None
            raise
        for each in listed.get("files") or ():
            if posixpath.basename(str(each.get("path"))) == wanted and not each.get("is_dir"):
                return int(each.get("file_size") or 0)
        return None

    def _send(self, blob: BlobUpload, place: str, name: str) -> None:
        try:
            with (
                files.opened_blob(blob.path) as descriptor,
                open(descriptor, "rb", closefd=False) as file,
            ):
                size_bytes = os.fstat(descriptor).st_size
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                if size_bytes != blob.size_bytes or digest.hexdigest() != blob.sha256:
                    raise _lost(blob, "BlobDamaged", "is damaged")
                file.seek(0)
                self._put(place, name, file, size_bytes, blob.media_type)
        except (OSError, ValueError) as error:
            raise _lost(blob, "BlobMissing", f"can't be read: {error}") from error

    def _put(
        self, place: str, name: str, file: IO[bytes], size_bytes: int, media_type: str | None
    ) -> None:
        if _is_proxied(place):
            self._http.put_file(f"{_folder(place)}/{name}", file, size_bytes, media_type)
            return
        if size_bytes > PUT_BYTES_MAX:
            raise RemoteError(
                f"{name} has {size_bytes} bytes; S3 takes at most {PUT_BYTES_MAX} in one request",
                kind=ErrorKind.PERMANENT,
                code="EntityTooLarge",
                hint='use credentials that may write to the bucket, and uploads = "direct"',
            )
        url, headers = self._signed("upload", place, name)
        self._http.put_signed(url, file, size_bytes, headers)

    def _to_bucket(self, blob: BlobUpload, place: str, name: str) -> Answer:
        parts = urlsplit(place)
        prefix, _, folder = parts.path.strip("/").rpartition("/")
        return self._bucket().upload(
            BlobUpload(
                path=blob.path,
                sha256=blob.sha256,
                size_bytes=blob.size_bytes,
                component=folder,
                name=name,
                bucket=parts.netloc,
                prefix=prefix,
                media_type=blob.media_type,
                scratch=blob.scratch,
                parts=blob.parts,
            )
        )


def noted_under(name: str) -> str:
    """Return the tag that says which content an artifact has."""
    text = names.spelled(name)
    if len(NOTED) + len(text) > names.KEY_CHARS_MAX:
        text = hashlib.sha256(name.encode()).hexdigest()
    return f"{NOTED}{text}"


def _with_digest(name: str, sha256: str) -> str:
    stem, extension = posixpath.splitext(name)
    return f"{stem}.{sha256[:_SHORT]}{extension}"


def _apart(name: str, sha256: str, noted: Mapping[str, str]) -> str:
    """Return a name that is no folder of other files, and below no file.

    A server's disk can't hold both. S3 can, and a tracker takes both.
    """
    begin = f"{noted_under(name)}/"
    if any(key.startswith(begin) for key in noted):
        return _with_digest(name, sha256)
    parts = name.split("/")
    for count in range(1, len(parts)):
        parent = "/".join(parts[:count])
        if noted_under(parent) in noted:
            return f"{parent}{_BESIDE}/{'/'.join(parts[count:])}"
    return name


def _is_proxied(place: str) -> bool:
    return urlsplit(place).scheme == _PROXIED


def _run_of(place: str) -> str:
    """Return the id of the run whose artifacts are there."""
    return posixpath.basename(posixpath.dirname(place))


def _folder(place: str) -> str:
    """Return the path of a run's artifacts, as the server's routes take it."""
    return urlsplit(place).path.strip("/")


def _lost(blob: BlobUpload, code: str, why: str) -> RemoteError:
    return RemoteError(f"{blob.path} {why}", kind=ErrorKind.PERMANENT, code=code)


def _no_door(place: str) -> RemoteError:
    return RemoteError(
        f"the server keeps artifacts at {place[:200]}, which journaltrack can't write to",
        kind=ErrorKind.HALT,
        code="NoArtifactStore",
        uploads_only=True,
        hint="start it with `mlflow server --serve-artifacts`, or with artifacts in S3",
    )
