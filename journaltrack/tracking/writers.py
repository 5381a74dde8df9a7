"""Take a tracker's metrics and files: two small protocols, and their defaults.

The defaults write to the journal. Beside them: warnings about what was recorded, and the files that
a call names.

Invariant: a warning comes last, after the entry is in the journal. Whoever turns warnings into
errors (``python -W error``) loses no entry by it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, SupportsIndex, cast

from journaltrack import limits
from journaltrack.errors import (
    ArtifactError,
    InvalidTypeError,
    JournalError,
    JournalFullError,
    JournalWriteError,
    UndeliverableError,
)
from journaltrack.journal import vocabulary
from journaltrack.tracking import validation
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.util import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.spool.spool import Spool, SpooledBlob
    from journaltrack.journal.vocabulary import Draft
    from journaltrack.tracking.trial_component import TrialComponent

logger = logging.getLogger(__name__)

_PACKAGE: Final = os.path.join(Path(__file__).parents[1], "")  # noqa: PTH118 - with the slash


class Notice(NamedTuple):
    """Something to tell once for each kind and name."""

    kind: str
    name: str
    text: str


class Notices:
    """Tell each notice of one tracker once."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def refuse(self, drafts: Iterable[Draft]) -> None:
        """Refuse, for strict trackers, what AWS could never accept.

        Nothing is recorded by then.

        Raises:
            UndeliverableError: AWS could never accept one of them.
        """
        for draft in drafts:
            if draft.undeliverable is not None:
                text = f"{_told_of(draft)}; it was not recorded"
                hint = "strict=False records it and leaves it out of the delivery"
                raise UndeliverableError(text, hint=hint)

    def tell(self, drafts: Iterable[Draft], others: Iterable[Notice] = ()) -> None:
        """Warn of recorded drafts that AWS could never accept, and give other notices."""
        refused = [draft for draft in drafts if draft.undeliverable is not None]
        kept = [draft for draft in refused if vocabulary.is_for_file(draft)]
        if kept:
            more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
            text = (
                f"{_told_of(kept[0])}{more}. It is recorded, and SageMaker gets it in the artifact "
                f"{vocabulary.PARAMETERS_FILE}, as all others like it"
            )
            self._tell(Notice(vocabulary.PARAMETERS_FILE, "", text))
        for draft in refused:
            if not vocabulary.is_for_file(draft):
                text = f"{_told_of(draft)}. It is recorded, but will not be delivered to SageMaker"
                self._tell(Notice(draft.kind, draft.name or "", text))
        for notice in others:
            self._tell(notice)

    def _tell(self, notice: Notice) -> None:
        if notice[:2] not in self._told:
            # Before the warning, which may be an error.
            self._told.add(notice[:2])
            warn(notice.text)


def warn(text: str) -> None:
    """Give a ``JournaltrackWarning`` at the line that called into the package."""
    frame, level = sys._getframe(), 1  # noqa: SLF001 - how warnings finds it, too
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, JournaltrackWarning, stacklevel=level)


def warn_of_creation(text: str) -> None:
    """Warn of something in a new run. It costs nobody the run."""
    try:
        warn(text)
    except JournaltrackWarning:
        # With `-W error` the warning is an error, which would cost the run its tracker.
        logger.warning("%s", text)


def _told_of(draft: Draft) -> str:
    return f"{draft.kind} {limits.shown(draft.name or '')}: {draft.undeliverable}"


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


class MetricsWriter(Protocol):
    """Takes metric points, one per call, as the caller gave them."""

    def log_metric(
        self,
        metric_name: str,
        value: Any,  # noqa: ANN401
        timestamp: Any = None,  # noqa: ANN401
        iteration_number: Any = None,  # noqa: ANN401
    ) -> None:
        """Record one point."""
        ...

    def close(self) -> None:
        """Finish: no more points follow."""
        ...


class ArtifactUploader(Protocol):
    """Takes files and says where they are."""

    def upload_artifact(self, file_path: str | os.PathLike[str]) -> tuple[str, str]:
        """Store a file, and return its URI and an ETag or digest."""
        ...


class LineageArtifactTracker(Protocol):
    """Takes the lineage of files that an ``ArtifactUploader`` stored."""

    def add_input_artifact(
        self, name: str, source_uri: str, etag: str | None, artifact_type: str | None
    ) -> None:
        """Note a file that the component read."""
        ...

    def add_output_artifact(
        self, name: str, source_uri: str, etag: str | None, artifact_type: str | None
    ) -> None:
        """Note a file that the component made."""
        ...

    def save(self) -> None:
        """Tell SageMaker what was noted."""
        ...


class JournalMetricsWriter:
    """Write points to the journal. This is the default.

    Args:
        trial_component: The component that the points belong to.
        record: Takes drafts that need the general path, and the notices about them. It raises if
            strict, else records and then warns.
        strict: Whether to raise for a value that is no number, instead of leaving it out.
    """

    def __init__(
        self,
        trial_component: TrialComponent,
        record: Callable[[list[vocabulary.Draft], list[Notice]], None],
        *,
        strict: bool = False,
    ) -> None:
        self._journal: Journal = trial_component.journal
        self._component_id = trial_component.component_id
        self._record = record
        self._strict = strict
        # Names that passed the check, which costs more than this look-up.
        self._valid: set[str] = set()

    def log_metric(
        self,
        metric_name: str,
        value: object,
        timestamp: validation.Moment | None = None,
        iteration_number: SupportsIndex | None = None,
    ) -> None:
        """Record one point; see ``Tracker.log_metric``."""
        if (
            type(value) is float
            # False for NaN and infinity.
            and value - value == 0
            and timestamp is None
            and (
                iteration_number is None
                or (type(iteration_number) is int and 0 <= iteration_number <= limits.STEP_MAX)
            )
            # A name of another class may raise when it is compared.
            and type(metric_name) is str
            and metric_name in self._valid
        ):
            self._journal.append_metric(
                self._component_id, metric_name, value, iteration_number, time.time_ns()
            )
            return
        self._log([(metric_name, value)], timestamp, iteration_number, strict=True)

    def log_metrics(
        self,
        metrics: Sequence[tuple[str, object]],
        timestamp: validation.Moment | None,
        iteration_number: SupportsIndex | None,
    ) -> None:
        """Record points of one time and step; see ``Tracker.log_metrics``."""
        if timestamp is None:
            valid = self._valid
            for name, value in metrics:
                if (
                    type(value) is not float
                    or value - value != 0
                    or type(name) is not str
                    or name not in valid
                ):
                    break
            else:
                if metrics:
                    self._journal.append_metrics(
                        self._component_id,
                        cast("Sequence[tuple[str, float]]", metrics),
                        validation.step(iteration_number),
                        time.time_ns(),
                    )
                    return
        self._log(metrics, timestamp, iteration_number, strict=self._strict)

    def _log(
        self,
        points: Sequence[tuple[str, object]],
        timestamp: validation.Moment | None,
        iteration_number: SupportsIndex | None,
        *,
        strict: bool,
    ) -> None:
        """Check points and record them, unless ``strict`` without those that are no numbers.

        Raises:
            InvalidInputError: A name, step or time that can never be right.
            InvalidTypeError: An argument of the wrong type.
        """
        step = validation.step(iteration_number)
        when = time.time_ns() if timestamp is None else validation.timestamp_ns(timestamp)
        drafts: list[vocabulary.Draft] = []
        left_out: list[Notice] = []
        for metric_name, given in points:
            name = validation.key(metric_name, "metric name", limits.METRIC_NAME_CHARS_MAX)
            try:
                numbers = [
                    (name, validation.metric_value(value)) for name, value in _parts(name, given)
                ]
            except InvalidTypeError as error:
                if strict:
                    raise
                text = f"metric {limits.shown(name)} is left out: {error.message}"
                text += "; a pair is a mean and its deviation" if type(given) is tuple else ""
                left_out.append(Notice("no number", name, text))
                continue
            for each, number in numbers:
                self._valid.add(each)
                drafts.append(vocabulary.metric(each, number, step, when))
        notices = [
            _of_rounding(draft)
            for draft in drafts
            if draft.value is not None and draft.payload is not None
        ]
        if timestamp is not None and validation.like_a_step(timestamp, when):
            notices += [_of_a_step(draft.name or "", when) for draft in drafts]
        self._record(drafts, notices + left_out)

    def close(self) -> None:
        """Do nothing: every point is in the journal."""


def _parts(name: str, value: object) -> Sequence[tuple[str, object]]:
    """Return a point as it is, or those of a mean and its standard deviation.

    Cross-validation gives such tuples (``xgboost.cv``).
    """
    if type(value) is not tuple or len(value) != 2:  # noqa: PLR2004 - a pair
        return ((name, value),)
    other = validation.key(f"{name}-std", "metric name", limits.METRIC_NAME_CHARS_MAX)
    return ((name, value[0]), (other, value[1]))


def _of_rounding(draft: vocabulary.Draft) -> Notice:
    name, exact = draft.name or "", limits.shown(vocabulary.decode(draft.payload)["exact"])
    metric = f"metric {limits.shown(name)}"
    text = f"{metric}: {exact} is recorded with all its digits; {draft.value!r} is sent"
    return Notice("digits", name, text)


def _of_a_step(name: str, timestamp_ns: int) -> Notice:
    moment = datetime.fromtimestamp(timestamp_ns // 1_000_000_000, timezone.utc).isoformat()
    text = (
        f"metric {limits.shown(name)} is recorded with the time {moment}: its timestamp is so "
        "small that it may be a step; pass a step as iteration_number="
    )
    return Notice("timestamp", name, text)


class JournalArtifactUploader:
    """Keep files in the journal's spool for the delivery to upload. This is the default.

    Args:
        trial_component: The component that the files belong to.
        make_room: Frees room in the spool. Called with the journal's folder and the bytes needed.
        spool_max_bytes: The spool's limit in bytes; 0 for no limit.
    """

    def __init__(
        self,
        trial_component: TrialComponent,
        make_room: Callable[[Path, int], int] | None = None,
        spool_max_bytes: int = 0,
    ) -> None:
        self._journal = trial_component.journal
        self._spool_max_bytes = spool_max_bytes
        self._make_room = make_room

    def spool(self, file_path: str | os.PathLike[str]) -> SpooledBlob:
        """Keep the bytes of the file as they are now.

        Raises:
            ArtifactError: The file is missing, not a regular file, or keeps changing.
            JournalWriteError: The journal's disk refuses it.
            JournalFullError: (a JournalWriteError) The disk is full, or the spool is at its limit.
        """
        journal = self._journal
        blob = self._admitting(Path(file_path)).add(
            file_path, journal.renew_blob, self._of_size, durable=journal.waits_for_disk
        )
        return self._noted(blob)

    def spool_bytes(self, content: bytes) -> SpooledBlob:
        """Keep these bytes. See ``spool`` for what is raised."""
        journal = self._journal
        blob = self._admitting(content).add_bytes(
            content, journal.renew_blob, durable=journal.waits_for_disk
        )
        return self._noted(blob)

    def _noted(self, blob: SpooledBlob) -> SpooledBlob:
        """Note in the journal that the spool has these bytes."""
        try:
            self._journal.add_blob(blob.sha256, blob.size_bytes)
        except JournalWriteError as error:
            error.message += "; the artifact was not logged"
            raise
        return blob

    def _admitting(self, content: Path | bytes) -> Spool:
        """Return the spool, with room for the content if the spool has a limit."""
        from journaltrack.journal.spool.spool import Spool  # noqa: PLC0415 - many runs log no file

        # Read at every call: the journal may have been moved.
        folder = self._journal.path
        spool = Spool(folder / paths.SPOOL)
        if self._spool_max_bytes:
            make_room = self._make_room
            room = (
                None
                if make_room is None
                else (lambda wanted_bytes: make_room(folder, wanted_bytes))
            )
            _admit(spool, content, self._spool_max_bytes, room)
        return spool

    def _of_size(self, size_bytes: int) -> list[str]:
        from journaltrack.journal.spool.spool import blobs_of_size  # noqa: PLC0415 - as above

        try:
            return blobs_of_size(self._journal.database, size_bytes)
        except JournalError:
            # Then the file is copied, and the next append reports the journal's error.
            return []

    def confirm(self, contents: Mapping[str, Path | bytes]) -> None:
        """Check that the spool has a recorded call's contents; add missing ones again.

        Once the call is recorded, no process removes them. One may have removed them before, if the
        call took longer than its grace time.

        Args:
            contents: By digest, the bytes or the file that they came from.

        Raises:
            ArtifactError: A content is not in the spool any more, and its file has changed.
        """
        from journaltrack.journal.spool.spool import Spool  # noqa: PLC0415 - as above

        for sha256, source in contents.items():
            spool = Spool(self._journal.path / paths.SPOOL)
            if spool.has(sha256):
                continue
            if isinstance(source, bytes):
                spool.add_bytes(source, self._journal.renew_blob)
            elif spool.add(source, self._journal.renew_blob).sha256 != sha256:
                raise ArtifactError(
                    f"{source} is recorded, but its content left the spool and the file changed",
                    hint="log it again; a sync will quarantine the entry that can't be delivered",
                )

    def upload_artifact(self, file_path: str | os.PathLike[str]) -> tuple[str, str]:
        """Keep the file, and return its path in the spool and its SHA-256."""
        blob = self.spool(file_path)
        return str(blob.path), blob.sha256


def _admit(
    spool: Spool, content: Path | bytes, max_bytes: int, make_room: Callable[[int], int] | None
) -> None:
    """Check that a content fits into the spool, and make room if it does not.

    Several processes that log at the same moment may exceed the limit by one file each.

    Args:
        spool: The spool to which the content will be added.
        content: The file to log, or the bytes.
        max_bytes: The limit for all files in the spool, in bytes.
        make_room: Removes delivered contents to free that many bytes. Returns how many it freed.

    Raises:
        JournalFullError: It does not fit. Nothing was copied.
    """
    from journaltrack.journal.spool.spool import spool_use  # noqa: PLC0415 - as above

    try:
        wanted = (
            len(content) if isinstance(content, bytes) else os.stat(content).st_size  # noqa: PTH116
        )
    except (OSError, ValueError):
        # Also a NUL in the path. The copy will say what is wrong.
        return
    excess = spool_use(spool.folder).size_bytes + wanted - max_bytes
    if excess <= 0:
        return
    if make_room is not None and wanted <= max_bytes:
        excess -= make_room(excess)
    if excess > 0 and not spool.holds(content):
        what = "the chart" if isinstance(content, bytes) else str(content)
        raise JournalFullError(
            f"{what} ({wanted} bytes) was not logged: with it the spool at {spool.folder} would be "
            f"{excess} bytes over its limit of {max_bytes}",
            hint="run `journaltrack sync`, which delivers and makes room; or raise spool_max_bytes",
        )
