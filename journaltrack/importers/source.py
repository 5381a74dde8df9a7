"""Say what an importer finds: runs, and a stream of items of each. Values only.

An importer knows one format and no journal. The core (``record``, ``target``) knows journals and no
format. An item is one thing to record, or one thing that was left out, with the reason. Nothing is
left out silently.
"""

from __future__ import annotations

import decimal
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.util import paths

_EXAMPLES_MAX: Final = 3
READ_EVERY_BYTES: Final = 1 << 18
"""How often an importer says how much it has read."""
TEXT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Ours: the largest description of a run that is read."""


class Point(NamedTuple):
    """One point of a metric.

    Attributes:
        name: The metric's name in the source.
        value: A number, finite or not.
        step: As the source has it, or None.
        time_ns: Nanoseconds since the epoch; None if the source has no time of it.
    """

    name: str
    value: float
    step: int | None = None
    time_ns: int | None = None


class Parameters(NamedTuple):
    """Parameters by name, as ``log_parameters`` takes them."""

    values: Mapping[str, Any]


class File(NamedTuple):
    """A file of the source, to record as an artifact."""

    path: Path
    name: str
    media_type: str | None = None


class Content(NamedTuple):
    """Bytes to record as an artifact."""

    content: bytes
    name: str
    media_type: str | None = None


class Tags(NamedTuple):
    """Tags of the run."""

    values: Mapping[str, str]


class Note(NamedTuple):
    """The run's text for people."""

    text: str


class Status(NamedTuple):
    """How the run ended, and its times in nanoseconds since the epoch. None: not known."""

    primary: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    message: str | None = None


class LeftOut(NamedTuple):
    """Something that is not recorded.

    Attributes:
        what: Its kind, in the singular: "histogram".
        why: The reason.
        example: Its name.
        number: How many.
        is_harm: Whether the source is damaged or unreadable there. False: SageMaker or a journal
            has no place for it, or nobody asked for it.
    """

    what: str
    why: str
    example: str = ""
    number: int = 1
    is_harm: bool = False


@dataclass(slots=True)
class LeftOuts:
    """Count what was left out, by kind and reason, with a few examples of each."""

    counts: dict[tuple[str, str, bool], list[Any]] = field(default_factory=dict)

    def add(self, left_out: LeftOut) -> None:
        """Count one."""
        key = (left_out.what, left_out.why, left_out.is_harm)
        known = self.counts.setdefault(key, [0])
        known[0] += left_out.number
        # One more than is shown tells that there are more.
        if left_out.example and left_out.example not in known and len(known) <= _EXAMPLES_MAX + 1:
            known.append(left_out.example)

    @property
    def is_harm(self) -> bool:
        """Return whether a part of the source could not be read."""
        return any(is_harm for _, _, is_harm in self.counts)

    def to_json(self) -> list[dict[str, Any]]:
        """Return what ``json.dumps`` takes."""
        return [
            {"what": what, "why": why, "count": count, "examples": examples, "is_harm": is_harm}
            for what, why, is_harm, count, examples, _ in self.told()
        ]

    def told(self) -> Iterator[tuple[str, str, bool, int, list[str], bool]]:
        """Yield what, why, whether it is harm, how many, some examples, and if there are more."""
        for (what, why, is_harm), (count, *known) in self.counts.items():
            yield what, why, is_harm, count, known[:_EXAMPLES_MAX], len(known) > _EXAMPLES_MAX


class Read(NamedTuple):
    """How many more bytes of the source were read."""

    size_bytes: int


Item: TypeAlias = Point | Parameters | File | Content | Tags | Note | Status | LeftOut | Read


@dataclass(frozen=True, slots=True)
class SourceRun:
    """One run of a source.

    Attributes:
        name: Of the folder or file, or the run's id. The core makes it valid and unique.
        id: What the source calls it. It tells the runs of one path apart.
        mark: What identifies it wherever it is: the source's own unique id, or a digest of how
            its records begin. It stays the same while the run grows.
        items: Reads the run. Each call reads it anew.
        size_bytes: How much there is to read.
        display_name: The name that people gave it.
        untimed_ns: The time of points without one. None: they have times.
        is_guess: Whether another run may begin with the same records, and so have the same mark.
    """

    name: str
    id: str
    mark: str
    items: Callable[[], Iterable[Item]]
    size_bytes: int = 0
    display_name: str | None = None
    untimed_ns: int | None = None
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What was found at a path.

    Attributes:
        format: The importer's name.
        path: The path.
        runs: In the order of their names.
        left_out: What belongs to no run that is imported.
    """

    format: str
    path: Path
    runs: tuple[SourceRun, ...]
    left_out: tuple[LeftOut, ...] = ()


def digest(*parts: object) -> str:
    """Return 16 hexadecimal digits that stand for some values."""
    text = json.dumps([str(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def found_at(path: str | os.PathLike[str]) -> Path:
    """Return a path that is there, absolute.

    Raises:
        InvalidInputError: Nothing is there.
    """
    found = Path(os.path.abspath(paths.expanded(path)))  # noqa: PTH100 - links stay as they are
    if not found.exists():
        raise InvalidInputError(
            f"there is nothing at {found}; nothing was imported", hint="check the path"
        )
    return found


def below(root: Path, left_out: Callable[[LeftOut], object]) -> Iterator[Path]:
    """Yield the regular files below a folder, folder by folder, sorted.

    A link is followed only to what is below the folder, too: a tree that somebody else made must
    not have other files of this machine recorded. Hidden folders are left out.

    Args:
        root: The folder.
        left_out: Told of links that lead out of it, and of what can't be read.
    """
    real = root.resolve()

    def unreadable(error: OSError) -> None:
        """Tell of a folder that can't be listed."""
        left_out(LeftOut("folder", f"{error.strerror}", str(error.filename), is_harm=True))

    for parent, names, files in os.walk(root, onerror=unreadable):
        names.sort()
        for name in names:
            if Path(parent, name).is_symlink():
                left_out(LeftOut("folder", "it is a link", str(Path(parent, name))))
        names[:] = [name for name in names if not name.startswith(".")]
        for name in sorted(files):
            file = Path(parent, name)
            if file.is_symlink() and not file.resolve().is_relative_to(real):
                left_out(LeftOut("file", "it is a link to a file elsewhere", str(file)))
            elif file.is_file():
                yield file


def text_of(file: Path, root: Path, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Return the text of a small file in UTF-8 that describes a run.

    As with ``below``, a link is followed only to what is below the source, too.

    Args:
        file: The file.
        root: The folder of the source.
        bytes_max: The size from which on it is refused.

    Raises:
        ValueError: It is a link to a file elsewhere, too large, or no UTF-8.
        OSError: It can't be read.
    """
    if not file.resolve().is_relative_to(root.resolve()):
        msg = "it is a link to a file elsewhere"
        raise ValueError(msg)
    with file.open("rb") as stream:
        content = stream.read(bytes_max + 1)
    if len(content) > bytes_max:
        msg = f"it has more than {bytes_max} bytes"
        raise ValueError(msg)
    return content.decode()


def number_of(text: object) -> float | None:
    """Return the number that a cell holds: also NaN and infinity; None for anything else."""
    if isinstance(text, bool):
        return float(text)
    if isinstance(text, (int, float)):
        return text
    # Of Parquet.
    if isinstance(text, decimal.Decimal):
        return float(text)
    if not isinstance(text, str):
        return None
    try:
        # float() also takes "1_000", which nobody writes for a number into a table.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def step_of(value: object) -> int | LeftOut:
    """Return a step of the source as an integer, or why the point is left out."""
    if isinstance(value, int):
        return int(value)
    number = number_of(value)
    if number is None or not math.isfinite(number):
        return LeftOut("point", f"its step is no number: {limits.shown(str(value))}", is_harm=True)
    if not float(number).is_integer():
        return LeftOut("point", "its step is no whole number, which SageMaker asks for")
    return int(number)
