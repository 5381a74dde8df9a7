"""Read the artifacts of a run from its journal: bytes, tables, and previews for people.

A content is foreign, whoever wrote the journal: it is read through the spool's door, which follows
no link, and counts only if it has the digest that was recorded. A preview is bounded, and is data:
text, rows, or the bytes of an image of a known form. Nothing of it is ever run. Must not know who
shows it.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack.errors import (
    ArtifactError,
    JournalAlteredError,
    JournaltrackError,
    MissingExtraError,
)
from journaltrack.journal.sqlite import files
from journaltrack.journal.vocabulary import OUTPUT_LOGS
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from journaltrack.reports.component import ArtifactView

Kind: TypeAlias = Literal["image", "table", "json", "text", "none"]

TEXT_BYTES_MAX: Final = 256 * 1024
"""Ours: of a text, this much is shown."""
IMAGE_BYTES_MAX: Final = 16 * 1024 * 1024
TABLE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Ours: a longer document of a chart is shown as text, as far as that goes."""
ROWS_MAX: Final = 200
COLUMNS_MAX: Final = 50
CELL_CHARS_MAX: Final = 200
"""Ours: what is shown of a table."""
TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 64 * 1024
_LINE_CHARS_MAX: Final = 500
_PIECE_BYTES: Final = 1 << 18
_IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""Images by their first bytes. SVG is shown as text: it may hold a script."""
_CURVES: Final = {
    "PrecisionRecallCurve": ("precision", "recall"),
    "ROCCurve": ("falsePositiveRate", "truePositiveRate"),
}
"""Members of the charts that are curves: see ``tracking.charts``."""
# ECMA-48: control sequences (5.4), strings (5.6), and any other function that escape begins.
_CONTROLS: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]"
)


class Table(NamedTuple):
    """A table, or its beginning.

    Attributes:
        columns: Their names.
        rows: A cell per column: texts, numbers, booleans and None.
        more: How many rows are left out; None: nobody knows.
    """

    columns: list[str]
    rows: list[list[Any]]
    more: int | None = 0

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas is optional
        """Return a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return pandas().DataFrame(self.rows, columns=self.columns)


class Preview(NamedTuple):
    """What can be shown of a content.

    Attributes:
        kind: "none" if nothing can.
        media_type: Of an image.
        image: Its bytes.
        text: Of a text or JSON document, without control sequences.
        table: Its first rows.
    """

    kind: Kind
    media_type: str | None = None
    image: bytes = b""
    text: str = ""
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """An input or output of a run: a reference, or a content that its journal keeps.

    Attributes:
        name: What the script named it.
        direction: "input" or "output"; None of what is neither, such as git's diff.
        value: A text or URI; None for a content.
        media_type: As it was recorded.
        sha256, size_bytes: Of a content.
        kind: A chart's type, such as "Table".
        step: The step that it belongs to.
        spool: The spool of the journal.
    """

    name: str
    direction: str | None
    value: str | None = None
    media_type: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    kind: str | None = None
    step: int | None = None
    spool: str | None = None

    @property
    def file(self) -> Path | None:
        """Return the file in the journal's spool; None if it is not there (any more)."""
        file = self._place()
        return file if file is not None and file.is_file() and not file.is_symlink() else None

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        names = ("name", "direction", "value", "media_type", "sha256", "size_bytes", "kind", "step")
        file = self.file
        return {
            **{name: getattr(self, name) for name in names},
            "file": None if file is None else str(file),
        }

    def read(self) -> bytes:
        """Return the content.

        Raises:
            ArtifactError: It is no content, or is not in the journal (any more).
            JournalAlteredError: It is not what was recorded.
        """
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in pieces, the last one once all have the digest; raise as ``read``."""
        digest = hashlib.sha256()
        last = b""
        try:
            with self._opened() as descriptor:
                while piece := os.read(descriptor, _PIECE_BYTES):
                    digest.update(piece)
                    if last:
                        yield last
                    last = piece
        except (OSError, ValueError) as error:
            raise self._missing() from error
        if digest.hexdigest() != self.sha256:
            raise self._altered()
        yield last

    def save(self, to: str | os.PathLike[str] | IO[bytes], *, force: bool = False) -> None:
        """Write the content to a file, which appears when it is whole and has been checked.

        Args:
            to: The file, or an open one.
            force: Replace an existing file.

        Raises:
            ArtifactError, JournalAlteredError: See ``read``. No file is left.
            InvalidInputError: Something is in the file's place.
        """
        if not isinstance(to, (str, os.PathLike)):
            to.writelines(self.chunks())
            return
        journal = Path(self.spool or os.devnull).parent
        with paths.whole_file(to, journal, force=force) as (_, stream):
            stream.writelines(self.chunks())

    def table(self) -> Table:
        """Return all rows of a table, chart or CSV file.

        Raises:
            ArtifactError: It is no table, or see ``read``.
            JournalAlteredError: See ``read``.
        """
        content = self.read()
        table = _table(self, content, len(content))
        if table is None:
            raise ArtifactError(f"{self.name!r} is no table", hint="read() returns its bytes")
        return table

    def preview(self, rows_max: int = ROWS_MAX) -> Preview:
        """Return what can be shown of it.

        Args:
            rows_max: How many rows of a table.

        Raises:
            ArtifactError: See ``read``.
            JournalAlteredError: All of it was read, and it is not what was recorded.
        """
        try:
            with self._opened() as descriptor:
                size = os.fstat(descriptor).st_size
                head = os.pread(descriptor, TEXT_BYTES_MAX, 0)
                media_type = _image_type(head)
                is_image = media_type is not None and size <= IMAGE_BYTES_MAX
                is_document = size <= TABLE_BYTES_MAX and head.lstrip()[:1] in {b"{", b"["}
                if is_image or is_document:
                    head = os.pread(descriptor, size, 0)
        except (OSError, ValueError) as error:
            raise self._missing() from error
        if size <= len(head) and hashlib.sha256(head).hexdigest() != self.sha256:
            raise self._altered()
        if is_image:
            return Preview("image", media_type, head)
        table = _table(self, head, size)
        if table is not None:
            return Preview("table", table=_bounded(table, rows_max))
        return _text(head[:TEXT_BYTES_MAX], size)

    def last_lines(self, count: int = TAIL_LINES) -> list[str]:
        """Return the last lines of a text, without control sequences; raise as ``preview``."""
        try:
            with self._opened() as descriptor:
                size = os.fstat(descriptor).st_size
                tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        except (OSError, ValueError) as error:
            raise self._missing() from error
        lines = plain(tail.decode("utf-8", "replace").rstrip()).split("\n")
        # The first one may have lost its beginning.
        whole = lines if size <= len(tail) or len(lines) == 1 else lines[1:]
        shown = (
            "".join(c for c in each if c.isprintable() or c == "\t") for each in whole[-count:]
        )
        return [
            each if len(each) <= _LINE_CHARS_MAX else f"{each[: _LINE_CHARS_MAX - 1]}…"
            for each in shown
        ]

    def _place(self) -> Path | None:
        if self.sha256 is None or self.spool is None:
            return None
        return Path(self.spool) / self.sha256[:2] / self.sha256

    def _opened(self) -> Any:  # noqa: ANN401 - a context manager
        file = self._place()
        if file is None:
            raise self._missing()
        return files.opened_blob(file)

    def _altered(self) -> JournalAlteredError:
        return JournalAlteredError(
            f"the content of {self.name!r} in the journal is not what was recorded",
            hint="`journaltrack check` says what else is damaged",
        )

    def _missing(self) -> ArtifactError:
        if self.value is not None:
            return ArtifactError(f"{self.name!r} is a reference to {self.value}, not a content")
        return ArtifactError(
            f"the content of {self.name!r} is not in the journal",
            hint="it was pruned or never copied here; SageMaker's S3 bucket may have it. A bundle "
            "must be unpacked first",
        )


def of_view(view: ArtifactView, journal: str) -> Artifact:
    """Return the artifact that a report of a journal tells of."""
    return Artifact(
        view.name,
        view.direction,
        None if view.sha256 else view.value,
        view.media_type,
        view.sha256 if is_digest(view.sha256) else None,
        view.size_bytes,
        view.kind,
        view.step,
        str(Path(journal) / paths.SPOOL),
    )


def output_tail(artifacts: Sequence[Artifact], count: int = TAIL_LINES) -> list[str]:
    """Return the last lines that a run printed, as a terminal shows them, without colours.

    Of several ranks, those of the first one whose output is here.

    Args:
        artifacts: Of the run.
        count: How many lines at most. Long ones are cut.
    """
    for each in artifacts:
        if OUTPUT_LOGS.fullmatch(each.name):
            with contextlib.suppress(JournaltrackError):
                return each.last_lines(count)
    return []


def plain(text: str) -> str:
    """Return a text without control sequences; of a line that was written over, what was last."""
    lines = _CONTROLS.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _image_type(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _IMAGES if head.startswith(magic)), None)


def _text(head: bytes, size: int) -> Preview:
    # The cut may go through a character.
    text = head.decode("utf-8", "replace")
    text = text.rstrip("\ufffd") if size > len(head) else text
    if b"\0" in head or "\ufffd" in text:
        return Preview("none")
    if size > len(head):
        return Preview("text", text=f"{plain(text)}\n… {size - len(head)} more bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return Preview("text", text=plain(text))
    return Preview("json", text=json.dumps(document, indent=2, ensure_ascii=False))


def _table(artifact: Artifact, content: bytes, size: int) -> Table | None:
    """Return the rows of what is a table; None if it is none."""
    suffix = Path(artifact.name).suffix.lower()
    delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix)
    if delimiter is None and artifact.media_type in {"text/csv", "text/tab-separated-values"}:
        delimiter = "," if artifact.media_type == "text/csv" else "\t"
    if delimiter is not None:
        return _of_csv(content, delimiter, is_whole=size <= len(content))
    if size > len(content) or content.lstrip()[:1] != b"{":
        return None
    try:
        document = json.loads(content)
        return _of_chart(document) if isinstance(document, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _of_csv(content: bytes, delimiter: str, *, is_whole: bool) -> Table | None:
    if b"\0" in content:
        return None
    # Without the end of what is only a beginning: it may be half a row.
    text = content.decode("utf-8-sig", "replace")
    text = text if is_whole else text.rpartition("\n")[0]
    try:
        head, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except (csv.Error, ValueError):
        return None
    width = len(head)
    padded = [(row + [""] * width)[:width] for row in rows if row]
    return Table(head, padded, 0 if is_whole else None)


def _of_chart(document: dict[str, Any]) -> Table | None:
    """Return the table of a chart as ``tracking.charts`` makes it."""
    kind = document.get("type")
    if kind == "Table":
        columns = [str(each["name"]) for each in document["fields"]]
        values = [list(document["data"][name]) for name in columns]
        return Table(columns, [list(row) for row in zip(*values, strict=True)])
    if kind in _CURVES:
        names = list(_CURVES[kind])
        values = [list(document[name]) for name in names]
        return Table(names, [list(row) for row in zip(*values, strict=True)])
    if kind == "ConfusionMatrix":
        matrix = [list(row) for row in document["confusionMatrix"]]
        columns = ["true, predicted", *map(str, range(len(matrix)))]
        return Table(columns, [[place, *row] for place, row in enumerate(matrix)])
    return None


def _bounded(table: Table, rows_max: int) -> Table:
    """Return what is shown of a table."""
    rows = table.rows[:rows_max]
    more = None if table.more is None else len(table.rows) - len(rows)
    columns = table.columns
    if len(columns) > COLUMNS_MAX:
        left = len(columns) - COLUMNS_MAX
        columns = [*columns[:COLUMNS_MAX], f"… {left} more"]
        rows = [[*row[:COLUMNS_MAX], None] for row in rows]
    return Table([_cell(each) for each in columns], [list(map(_cell, row)) for row in rows], more)


def _cell(value: Any) -> Any:  # noqa: ANN401 - of JSON
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    text = plain(text)
    return text if len(text) <= CELL_CHARS_MAX else f"{text[: CELL_CHARS_MAX - 1]}…"


def pandas() -> Any:  # noqa: ANN401 - pandas is optional
    """Return the module pandas.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            "to_pandas needs pandas, which is not installed", hint="pip install pandas"
        ) from error
    return pd
