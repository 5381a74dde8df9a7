"""Take a tracker's metrics and files: two small protocols, and their defaults.

The defaults write to the journal.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

from journaltrack import limits
from journaltrack.errors import ArtifactError, JournalError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.spool.spool import Spool, SpooledBlob, admit, blobs_of_size
from journaltrack.tracking import validation
from journaltrack.tracking.notices import Notice
from journaltrack.util import paths

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from journaltrack.journal.journal import Journal
    from journaltrack.tracking.trial_component import TrialComponent


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


class JournalMetricsWriter:
    """Write points to the journal. This is the default.

    Args:
        trial_component: The component that the points belong to.
        record: Takes drafts that need the general path, and the notices about them. It raises if
            strict, else records and then warns.
    """

    def __init__(
        self,
        trial_component: TrialComponent,
        record: Callable[[list[vocabulary.Draft], list[Notice]], None],
    ) -> None:
        self._journal: Journal = trial_component.journal
        self._component_id = trial_component.component_id
        self._record = record
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
            and metric_name in self._valid
        ):
            self._journal.append_metric(
                self._component_id, metric_name, value, iteration_number, time.time_ns()
            )
            return
        self._log([(metric_name, value)], timestamp, iteration_number)

    def log_metrics(
        self,
        metrics: Sequence[tuple[str, object]],
        timestamp: validation.Moment | None,
        iteration_number: SupportsIndex | None,
    ) -> None:
        """Record points of one time and step, all or none; see ``Tracker.log_metrics``."""
        if timestamp is None:
            valid, points = self._valid, []
            for name, value in metrics:
                if type(value) is not float or value - value != 0 or name not in valid:
                    break
                points.append((name, value))
            else:
                if points:
                    self._journal.append_metrics(
                        self._component_id,
                        points,
                        validation.step(iteration_number),
                        time.time_ns(),
                    )
                    return
        self._log(metrics, timestamp, iteration_number)

    def _log(
        self,
        points: Sequence[tuple[str, object]],
        timestamp: validation.Moment | None,
        iteration_number: SupportsIndex | None,
    ) -> None:
        """Check points and record them.

        Raises:
            InvalidInputError: A name, step or time that can never be right.
            InvalidTypeError: An argument of the wrong type.
        """
        step = validation.step(iteration_number)
        when = time.time_ns() if timestamp is None else validation.timestamp_ns(timestamp)
        drafts = []
        for metric_name, value in points:
            name = validation.key(metric_name, "metric name", limits.METRIC_NAME_CHARS_MAX)
            self._valid.add(name)
            drafts.append(vocabulary.metric(name, validation.metric_value(value), step, when))
        notices = [
            _of_rounding(draft)
            for draft in drafts
            if draft.value is not None and draft.payload is not None
        ]
        if timestamp is not None and validation.like_a_step(timestamp, when):
            notices += [_of_a_step(draft.name or "", when) for draft in drafts]
        self._record(drafts, notices)

    def close(self) -> None:
        """Do nothing: every point is in the journal."""


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
    """Keep files in the journal's spool for a replay to upload. This is the default.

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
            admit(spool, Path(file_path), self._spool_max_bytes, room)
        blob = spool.add(file_path, self._journal.renew_blob, self._of_size)
        self._journal.add_blob(blob.sha256, blob.size_bytes)
        return blob

    def _of_size(self, size_bytes: int) -> list[str]:
        try:
            return blobs_of_size(self._journal.database, size_bytes)
        except JournalError:
            # Then the file is copied, and the next append reports the journal's error.
            return []

    def confirm(self, files: Mapping[str, Path]) -> None:
        """Check that the spool has a recorded call's contents; add missing ones again.

        Once the call is recorded, no process removes them. One may have removed them before, if the
        call took longer than its grace time.

        Args:
            files: By digest, the file that each content came from.

        Raises:
            ArtifactError: A content is not in the spool any more, and its file has changed.
        """
        for sha256, path in files.items():
            spool = Spool(self._journal.path / paths.SPOOL)
            if not spool.has(sha256) and spool.add(path, self._journal.renew_blob).sha256 != sha256:
                raise ArtifactError(
                    f"{path} is recorded, but its content left the spool and the file has changed",
                    hint="log it again; a sync will quarantine the entry that can't be delivered",
                )

    def upload_artifact(self, file_path: str | os.PathLike[str]) -> tuple[str, str]:
        """Keep the file, and return its path in the spool and its SHA-256."""
        blob = self.spool(file_path)
        return str(blob.path), blob.sha256
