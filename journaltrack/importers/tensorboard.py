"""Read TensorBoard's event files: scalars, hyper-parameters, texts and images.

Through TensorBoard's own reader of records (the extra ``tensorboard``), which goes on after a
record that is still being written. Its other half, which turns old summaries into new ones, is left
out: with it a scalar takes six times as long. Both forms are read here.

A run is a folder with event files, named as TensorBoard names it. All its files are read, by name:
each restart has written one. What TensorBoard hides after a restart (steps that are done again) is
there, too.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import InvalidInputError, MissingExtraError
from journaltrack.importers.source import (
    READ_EVERY_BYTES,
    Content,
    Item,
    LeftOut,
    Parameters,
    Point,
    Read,
    Source,
    SourceRun,
    Status,
    below,
    digest,
    found_at,
)
from journaltrack.importers.target import ImportedRun, Target
from journaltrack.journal.view import iso_seconds

if TYPE_CHECKING:
    import os

    from journaltrack.journal.journal import Journal

FORMAT: Final = "tensorboard"
MEDIA_BYTES_MAX: Final = 64 * 1024 * 1024
"""Ours: bytes of the images and texts of one run that are kept in memory until its end."""
IMAGES_MAX: Final = 24
TEXTS_MAX: Final = 16
"""Ours: artifacts of a run that are images, and texts. SageMaker takes 60 in all."""
TEXT_STEPS_MAX: Final = 100
"""Ours: the last values of a text that are kept."""
_ELEMENTS_MAX: Final = 10_000
_FRAME_BYTES: Final = 16
"""What stands around a record: its length (8 bytes), and two checksums (4 each)."""
_HEADER_BYTES: Final = 12
_FIRST_RECORD_BYTES: Final = 256
_SUFFIXES: Final = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"GIF8", "gif"))
_STATUSES: Final = {1: "Completed", 2: "Failed"}
"""Of the plug-in "hparams"; STATUS_RUNNING is 3."""
_OLD_KINDS: Final = {
    "histo": "histogram",
    "audio": "audio",
    "obsolete_old_style_histogram": "histogram",
}
_NO_PLACE: Final = "journaltrack has no place for it"


class _Library:
    """What is used of TensorBoard.

    Raises:
        MissingExtraError: It is not installed.
    """

    def __init__(self) -> None:
        try:
            base = "tensorboard.backend.event_processing.event_file_loader"
            self.loader: Any = importlib.import_module(base).RawEventFileLoader
            self.event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
            self.ndarray: Any = importlib.import_module("tensorboard.util.tensor_util").make_ndarray
            self.hparams: Any = importlib.import_module(
                "tensorboard.plugins.hparams.plugin_data_pb2"
            ).HParamsPluginData
            self.decode_error: Any = importlib.import_module("google.protobuf.message").DecodeError
            self.checksum: Any = importlib.import_module(
                "tensorboard.compat.tensorflow_stub.pywrap_tensorflow"
            ).masked_crc32c
        except ImportError as error:
            raise MissingExtraError(
                f"event files need TensorBoard, which can't be imported ({error}); nothing was "
                "imported",
                hint="pip install 'journaltrack[tensorboard]'",
            ) from error


def find(path: str | os.PathLike[str]) -> Source:
    """Find the runs in a log folder of TensorBoard, or the run of one event file.

    Raises:
        InvalidInputError: There is none.
        MissingExtraError: TensorBoard is not installed.
    """
    library = _Library()
    root = found_at(path)
    left_out: list[LeftOut] = []
    files = _by_folder(root, left_out.append)
    runs = []
    for folder, names in files.items():
        relative = folder.relative_to(root if root.is_dir() else root.parent).as_posix()
        mark = _mark(names)
        if mark is None:
            why = "its event files are empty"
            left_out.append(LeftOut("run", why, relative))
            continue
        base = root.name if root.is_dir() else folder.name
        runs.append(
            SourceRun(
                name=base if relative == "." else f"{base}/{relative}",
                id=relative if relative != "." else base,
                mark=mark,
                items=lambda names=names: _RunReader(library, names).all(),  # type: ignore[misc]
                size_bytes=sum(file.stat().st_size for file in names),
            )
        )
    if not files:
        raise InvalidInputError(
            f"{root} has no event files of TensorBoard; nothing was imported",
            hint="their names have 'tfevents' in them; name the folder that you give to "
            "`tensorboard --logdir`",
        )
    return Source(FORMAT, root, tuple(runs), tuple(left_out))


def _by_folder(root: Path, left_out: Callable[[LeftOut], object]) -> dict[Path, list[Path]]:
    """Return the event files by folder, each in the order of their names."""
    if not root.is_dir():
        return {root.parent: [root]}
    found: dict[Path, list[Path]] = {}
    for file in below(root, left_out):
        if "tfevents" in file.name:
            found.setdefault(file.parent, []).append(file)
    return dict(sorted(found.items()))


def _mark(files: list[Path]) -> str | None:
    """Return what identifies a run: its first record, which has the time to the microsecond."""
    for file in files:
        try:
            with file.open("rb") as stream:
                first = stream.read(_FIRST_RECORD_BYTES)
        except OSError:
            # Its reader will say so.
            return digest(file.name)
        if len(first) > _HEADER_BYTES:
            (length,) = struct.unpack("<Q", first[:8])
            return digest(first[: min(length + _FRAME_BYTES, _FIRST_RECORD_BYTES)].hex())
    return None


@dataclass(slots=True)
class _Kept:
    """Media that are recorded at the end of a run: of each name the last ones."""

    texts: dict[str, list[tuple[int, float, str]]] = field(default_factory=dict)
    images: dict[str, list[bytes]] = field(default_factory=dict)
    size_bytes: int = 0


class _RunReader:
    """Read the event files of one run, on from where it was.

    Args:
        library: TensorBoard's.
        files: The event files, in order.
        prefix: Begins the names of metrics and artifacts.
    """

    def __init__(self, library: _Library, files: list[Path], prefix: str = "") -> None:
        self._library = library
        self._prefix = prefix
        self._files: dict[Path, _FileReader] = {}
        # TensorFlow 1 says only once which plug-in a tag belongs to.
        self._plugins: dict[str, str] = {}
        self._kept = _Kept()
        self._changed: set[str] = set()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._status: str | None = None
        self.add(files)

    def add(self, files: list[Path]) -> None:
        """Take files that are new."""
        for file in files:
            if file not in self._files:
                self._files[file] = _FileReader(self._library, file)

    def all(self) -> Iterator[Item]:
        """Read the run from its beginning to its end."""
        yield from self.new()
        for reader in self._files.values():
            yield from reader.rest()
        yield from self.media()
        if self._first_s is not None and self._last_s is not None:
            yield Status(self._status, _ns(self._first_s), _ns(self._last_s))

    def new(self) -> Iterator[Item]:
        """Read the records that were written since the last call."""
        for reader in self._files.values():
            for record in reader.records():
                if isinstance(record, LeftOut | Read):
                    yield record
                else:
                    yield from self._event(record)

    def media(self) -> Iterator[Item]:
        """Give texts and images that changed since the last call."""
        kept, changed = self._kept, self._changed
        self._changed = set()
        for tag, values in list(kept.texts.items())[:TEXTS_MAX]:
            if f"text/{tag}" in changed:
                yield Content(_markdown(values), f"text/{tag}.md", "text/markdown")
        for tag, images in list(kept.images.items())[:IMAGES_MAX]:
            if f"images/{tag}" not in changed:
                continue
            for place, image in enumerate(images):
                ending = next((s for magic, s in _SUFFIXES if image.startswith(magic)), "bin")
                number = f"-{place}" if len(images) > 1 else ""
                kind = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif"}.get(ending)
                yield Content(image, f"images/{tag}{number}.{ending}", kind)
        for what, found, most in (
            ("text", kept.texts, TEXTS_MAX),
            ("image", kept.images, IMAGES_MAX),
        ):
            for tag in list(found)[most:]:
                if f"{what}{'s' if what == 'image' else ''}/{tag}" in changed:
                    yield LeftOut(what, f"a run gets {most} at most", tag)

    # -- inside --------------------------------------------------------------------------------

    def _event(self, event: Any) -> Iterator[Item]:  # noqa: ANN401 - a protobuf
        time_s = event.wall_time
        if time_s > 0:
            self._first_s = time_s if self._first_s is None else min(self._first_s, time_s)
            self._last_s = time_s if self._last_s is None else max(self._last_s, time_s)
        kind = event.WhichOneof("what")
        if kind == "summary":
            time_ns, step = _ns(time_s), event.step
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    yield Point(self._prefix + value.tag, value.simple_value, step, time_ns)
                else:
                    yield from self._value(value, step, time_s)
        elif kind in {"graph_def", "meta_graph_def", "tagged_run_metadata"}:
            yield LeftOut("graph", _NO_PLACE)

    def _value(self, value: Any, step: int, time_s: float) -> Iterator[Item]:  # noqa: ANN401
        tag, kind = self._prefix + value.tag, value.WhichOneof("value")
        plugin = value.metadata.plugin_data.plugin_name
        if plugin:
            self._plugins[value.tag] = plugin
        else:
            plugin = self._plugins.get(value.tag, "")
        try:
            if plugin == "hparams":
                yield from self._hparams(value.metadata.plugin_data.content)
            elif kind == "image":
                yield from self._images(tag, [value.image.encoded_image_string])
            elif kind != "tensor":
                yield LeftOut(_OLD_KINDS.get(kind or "", kind or "empty value"), _NO_PLACE, tag)
            elif plugin == "text":
                texts = self._array(value.tensor).ravel().tolist()
                yield from self._text(tag, step, time_s, texts)
            elif plugin == "images":
                # The first two are width and height.
                yield from self._images(tag, list(value.tensor.string_val)[2:])
            elif plugin in {"scalars", ""}:
                number = self._number(value.tensor)
                if number is None:
                    yield LeftOut("tensor", "it is no single number", tag)
                else:
                    yield Point(tag, number, step, _ns(time_s))
            else:
                yield LeftOut(plugin.removesuffix("s"), _NO_PLACE, tag)
        # Of a tensor whose type TensorBoard does not know, or whose bytes are too few.
        except (ValueError, TypeError, KeyError, self._library.decode_error) as error:
            yield LeftOut("value", f"it can't be read: {error}", tag, is_harm=True)

    def _number(self, tensor: Any) -> float | None:  # noqa: ANN401
        if tensor.dtype == 1 and len(tensor.float_val) == 1:
            return float(tensor.float_val[0])
        if math.prod(each.size for each in tensor.tensor_shape.dim) != 1:
            return None
        array = self._array(tensor)
        return float(array.item()) if array.size == 1 and array.dtype.kind in "fiub" else None

    def _array(self, tensor: Any) -> Any:  # noqa: ANN401
        """Return a small tensor as an array: its shape may claim any size."""
        if not 0 <= math.prod(each.size for each in tensor.tensor_shape.dim) <= _ELEMENTS_MAX:
            msg = f"it claims more than {_ELEMENTS_MAX} elements"
            raise ValueError(msg)
        return self._library.ndarray(tensor)

    def _hparams(self, content: bytes) -> Iterator[Item]:
        found = self._library.hparams.FromString(content)
        if found.HasField("session_start_info"):
            values = {
                name: getattr(value, value.WhichOneof("kind") or "", None)
                for name, value in sorted(found.session_start_info.hparams.items())
            }
            yield Parameters({self._prefix + name: value for name, value in values.items()})
        if found.HasField("session_end_info"):
            self._status = _STATUSES.get(found.session_end_info.status, self._status)

    def _text(self, tag: str, step: int, time_s: float, texts: list[Any]) -> Iterator[Item]:
        text = "\n\n".join(
            each.decode(errors="replace") if isinstance(each, bytes) else str(each)
            for each in texts
        )
        if self._kept.size_bytes + len(text) > MEDIA_BYTES_MAX:
            yield LeftOut("text", f"a run has more than {MEDIA_BYTES_MAX} bytes of media", tag)
            return
        values = self._kept.texts.setdefault(tag, [])
        values.append((step, time_s, text))
        self._kept.size_bytes += len(text)
        self._changed.add(f"text/{tag}")
        if len(values) > TEXT_STEPS_MAX:
            self._kept.size_bytes -= len(values.pop(0)[2])
            yield LeftOut("text", f"of each name the last {TEXT_STEPS_MAX} are kept", tag)

    def _images(self, tag: str, images: list[bytes]) -> Iterator[Item]:
        before = self._kept.images.get(tag, [])
        size = sum(map(len, images)) - sum(map(len, before))
        if self._kept.size_bytes + size > MEDIA_BYTES_MAX:
            yield LeftOut("image", f"a run has more than {MEDIA_BYTES_MAX} bytes of media", tag)
            return
        self._kept.size_bytes += size
        self._kept.images[tag] = images
        self._changed.add(f"images/{tag}")
        if before:
            yield LeftOut("image", "of each name only the last one is kept", tag, len(before))


class _FileReader:
    """Read one event file, on from where it was."""

    def __init__(self, library: _Library, path: Path) -> None:
        self._library = library
        self._path = path
        self._loader: Any = None
        self._offset = 0

    def records(self) -> Iterator[Any]:
        """Yield the events that were not read yet, and how much was read."""
        if self._loader is None:
            # It opens the file only at the first record.
            with self._path.open("rb"):
                self._loader = self._library.loader(str(self._path))
        told = self._offset
        for record in self._loader.Load():
            self._offset += len(record) + _FRAME_BYTES
            try:
                yield self._library.event.FromString(record)
            except self._library.decode_error as error:
                yield LeftOut("record", f"it is no event: {error}", str(self._path), is_harm=True)
            if self._offset - told >= READ_EVERY_BYTES:
                yield Read(self._offset - told)
                told = self._offset
        yield Read(self._offset - told)

    def rest(self) -> Iterator[LeftOut]:
        """Say what the file has behind its last whole record."""
        size = self._path.stat().st_size
        if size <= self._offset:
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            header = stream.read(_HEADER_BYTES)
        left, name = size - self._offset, str(self._path)
        if len(header) == _HEADER_BYTES:
            length, checksum = struct.unpack("<QI", header)
            if self._library.checksum(header[:8]) != checksum or length + _FRAME_BYTES <= left:
                why = f"the file is damaged from byte {self._offset} on, {left} bytes are left out"
                yield LeftOut("record", why, name, is_harm=True)
                return
        why = "it is not written to its end (yet); the next import takes it"
        yield LeftOut("record", why, name)


class Follower:
    """Import event files into a run while they are written.

    Everything below the folder goes into the one run: the names of metrics from a sub-folder begin
    with its path (``train/loss``). It keeps its place, so that ``poll`` costs what is new. Nothing
    is recorded twice, also by another ``Follower`` after a restart. Not thread-safe.

    Args:
        folder: The log folder. It need not be there yet.
        journal: An open journal, for appending.
        component_id: The run's id, from ``Journal.component``.
        name: The run's name.
        is_ours: Returns whether an event file that was last changed at a time, in nanoseconds since
            the epoch, is of this run. Others are left alone.

    Attributes:
        told: What was recorded and left out so far.
        files: The event files that were found.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        journal: Journal,
        component_id: int,
        name: str,
        *,
        is_ours: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._library = _Library()
        self._folder = Path(folder).expanduser().absolute()
        self._is_ours = is_ours
        self.files: set[Path] = set()
        self.told = ImportedRun(name, self._folder.name)
        self._target = Target(journal, component_id, name, self.told)
        self._readers: dict[Path, _RunReader] = {}

    def poll(self) -> int:
        """Record the points and parameters that were written since the last call.

        Returns:
            How many points were recorded.

        Raises:
            JournalError: The journal refuses.
            OSError: An event file can't be read. The next call goes on after what was recorded.
        """
        before = self.told.points
        for reader in self._found():
            self._target.record(reader.new())
        return self.told.points - before

    def finish(self) -> int:
        """Record what is left: the last points, then texts and images. See ``poll``."""
        recorded = self.poll()
        for reader in self._readers.values():
            self._target.record(reader.media())
        return recorded

    def _found(self) -> list[_RunReader]:
        """Return the readers of all folders, with the files that are new."""
        if self._folder.is_dir():
            for folder, files in _by_folder(self._folder, lambda _: None).items():
                fresh = [file for file in files if self._is_ours(file.stat().st_mtime_ns)]
                self.files.update(fresh)
                relative = folder.relative_to(self._folder).as_posix()
                if folder in self._readers:
                    self._readers[folder].add(fresh)
                elif fresh:
                    prefix = "" if relative == "." else f"{relative}/"
                    self._readers[folder] = _RunReader(self._library, fresh, prefix)
        return list(self._readers.values())


def _ns(time_s: float) -> int:
    """Return seconds as nanoseconds, to the microsecond: a double has no more of this century."""
    # False for NaN, too. What is out of range stays so.
    return round(time_s * 1e6) * 1000 if abs(time_s) < 1e12 else -1  # noqa: PLR2004


def _markdown(values: list[tuple[int, float, str]]) -> bytes:
    """Return the values of a text, with step and time if there are several."""
    if len(values) == 1:
        return values[0][2].encode()
    return "".join(
        f"<!-- step {step}, {iso_seconds(_ns(time_s)) or 'no time'} -->\n\n{text}\n\n"
        for step, time_s, text in values
    ).encode()
