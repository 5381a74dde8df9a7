"""Tell which inputs, outputs, charts and files a run has, by the names that people gave. Pure.

An upload alone is a chart, one step of an image, or git's diff. SageMaker has places for 60
references, so these have none, or share one. Here each is an artifact of its own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Artifact, blob_of, value_of
from journaltrack.journal.provenance import DIFF_NAME
from journaltrack.journal.vocabulary import Entry
from journaltrack.util.text import text_or_none

KINDS: Final = frozenset(
    {vocabulary.UPLOAD, vocabulary.INPUT, vocabulary.OUTPUT, vocabulary.LINEAGE}
)
"""The kinds of entries that tell of artifacts."""
_SIZE_MAX: Final = 2**63
_AT_STEP: Final = re.compile(r"(?P<name>.+)/step-(?P<step>[0-9]{6,10})(?P<suffix>\.[^/.]*)?")


class Content(NamedTuple):
    """An input or output of a run, or a content that it keeps.

    Attributes:
        name: What the caller named it.
        direction: "input" or "output"; None of a content that is neither, such as git's diff.
        value: A text or URI, of a reference that is no content of the journal.
        media_type: As it was recorded.
        sha256, size_bytes: Of a content.
        kind: A chart's type, such as "Table".
        step: The step that it belongs to.
        seq: The entry that recorded it last.
        writer_id: The process that did.
    """

    name: str
    direction: str | None
    value: str | None
    media_type: str | None
    sha256: str | None
    size_bytes: int | None
    kind: str | None
    step: int | None
    seq: int
    writer_id: int


def at_step(name: str, step: int | None) -> str:
    """Return the name of a content of one step: ``loss.png`` is ``loss/step-000012.png``."""
    if step is None:
        return name
    suffix = PurePosixPath(name).suffix
    return f"{name.removesuffix(suffix)}/step-{step:06d}{suffix}"


def of_step(name: str) -> tuple[str, int] | None:
    """Return what ``at_step`` made a name of; None if it did not."""
    found = _AT_STEP.fullmatch(name)
    if found is None:
        return None
    base, step = f"{found['name']}{found['suffix'] or ''}", int(found["step"])
    return (base, step) if at_step(base, step) == name else None


def contents(entries: Iterable[Entry]) -> list[Content]:
    """Return the artifacts of one run, in the order in which they were named first.

    Of a name, the last recorded content counts; with steps, the last of each step.

    Args:
        entries: Of one component, in the order in which they were recorded. Others than of
            ``KINDS`` are passed over, and so is what can't be read.
    """
    known = _Known()
    for entry in entries:
        # One bad entry must not hide the others.
        with contextlib.suppress(ValueError):
            known.add(entry)
    found = known.found()
    first = {each.name: place for place, each in reversed([*enumerate(found)])}
    return sorted(found, key=lambda each: (first[each.name], each.step or 0))


class _Known:
    """The last entries by what they name."""

    def __init__(self) -> None:
        self._uploads: dict[str, Entry] = {}
        self._references: dict[tuple[str, str], Entry] = {}
        self._charts: dict[str, Entry] = {}
        self._sizes: dict[str, object] = {}
        # The last of each process: a run that was started again keeps why it ended before.
        self._logs: dict[str, dict[int, Entry]] = {}

    def add(self, entry: Entry) -> None:
        """Take in an entry.

        Raises:
            ValueError: It can't be read.
        """
        if entry.kind == vocabulary.UPLOAD:
            sha256 = blob_of(entry).sha256
            self._sizes[sha256] = entry.detail.get("size")
            # Processes of one run may differ in what git tells.
            name = f"{entry.name}/{sha256}" if entry.name == DIFF_NAME else str(entry.name)
            self._uploads[name] = entry
            if vocabulary.OUTPUT_LOGS.fullmatch(name):
                of_process = self._logs.setdefault(name, {})
                of_process.pop(entry.writer_id, None)
                of_process[entry.writer_id] = entry
        elif entry.kind == vocabulary.LINEAGE:
            self._charts[blob_of(entry).sha256] = entry
        elif entry.kind in {vocabulary.INPUT, vocabulary.OUTPUT}:
            value_of(entry)
            self._references[entry.kind, str(entry.name)] = entry

    def found(self) -> list[Content]:
        """Return what they name."""
        found: list[Content] = []
        left: list[Entry] = []
        # What is named with its step is not named once more as the last one.
        with_step: set[tuple[str, str | None]] = set()
        for name, entry in self._uploads.items():
            base, step = of_step(name) or ("", 0)
            is_own = (vocabulary.OUTPUT, name) in self._references
            if is_own or (vocabulary.OUTPUT, base) not in self._references:
                left.append(entry)
                continue
            with_step.add((base, blob_of(entry).sha256))
            found.append(_content(entry, base, self._sizes, step=step))
        referenced: set[str | None] = set()
        for (_, name), entry in self._references.items():
            each = _content(entry, name, self._sizes)
            referenced.add(each.sha256)
            if (name, each.sha256) not in with_step:
                found.append(each)
        for entry in left:
            of = self._charts.get(blob_of(entry).sha256)
            each = _content(entry, str(entry.name), self._sizes, of=of)
            if each.sha256 not in referenced:
                found.append(each)
        return [*found, *self._earlier_logs({each.sha256 for each in found})]

    def _earlier_logs(self, known: set[str | None]) -> Iterator[Content]:
        """Yield what earlier processes printed, ``output.log.1`` first, as logrotate names it."""
        for name, of_process in self._logs.items():
            entries = [each for each in of_process.values() if blob_of(each).sha256 not in known]
            for number, entry in enumerate(reversed(entries), start=1):
                yield _content(entry, f"{name}.{number}", self._sizes)


def _content(
    entry: Entry,
    name: str,
    sizes: Mapping[str, object],
    *,
    step: int | None = None,
    of: Entry | None = None,
) -> Content:
    """Return what an upload or a reference names.

    Args:
        entry: The upload or reference.
        name: As people call it.
        sizes: Of contents, by digest.
        step: See ``Content``.
        of: The lineage of the chart whose upload it is.
    """
    is_upload = entry.kind == vocabulary.UPLOAD
    value = None if is_upload else value_of(entry)
    sha256 = None if isinstance(value, Artifact) else blob_of(entry).sha256
    size = sizes.get(sha256) if sha256 else None
    direction: str | None = entry.kind
    if is_upload:
        direction = text_or_none(of.detail.get("direction")) if of else None
        direction = vocabulary.OUTPUT if step is not None else direction
    return Content(
        name,
        direction,
        value.value if isinstance(value, Artifact) else None,
        text_or_none(entry.detail.get("media_type")),
        sha256,
        size if isinstance(size, int) and 0 <= size < _SIZE_MAX else None,
        text_or_none(of.detail.get("type")) if of else None,
        step,
        entry.seq,
        entry.writer_id,
    )
