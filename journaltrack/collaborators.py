"""What a tracker hands metrics and files to: two small protocols, and the defaults that write to the journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from journaltrack import entries as vocabulary
from journaltrack import limits, paths, spool_limit, spool_use, validation
from journaltrack.errors import ArtifactError, JournalError
from journaltrack.spool import Spool, SpooledBlob

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from journaltrack.journal import Journal
    from journaltrack.trial_component import TrialComponent


class MetricsWriter(Protocol):
    """Takes metric points, one a call."""

    def log_metric(
        self, metric_name: str, value: float, timestamp: datetime | float | None = None, iteration_number: int | None = None
    ) -> None:
        """Record one point."""
        ...

    def close(self) -> None:
        """No more points come."""
        ...


class ArtifactUploader(Protocol):
    """Takes files and says where they are."""

    def upload_artifact(self, file_path: str | os.PathLike[str]) -> tuple[str, str]:
        """Store a file; returns its URI and an ETag or digest."""
        ...


class JournalMetricsWriter:
    """Writes points to the journal: the default.

    Args:
        trial_component: Of which the points are.
        admit: Called with a draft that AWS could never accept, before it is journaled: warns, or raises when strict.
    """

    def __init__(self, trial_component: TrialComponent, admit: Callable[[vocabulary.Draft], None]) -> None:
        self._journal: Journal = trial_component.journal
        self._component_id = trial_component.component_id
        self._admit = admit
        self._valid: set[str] = set()  # names that passed: the check costs more than the look-up

    def draft(self, metric_name: str, value: object, timestamp: datetime | float | None, iteration_number: int | None) -> vocabulary.Draft:
        """The point as it is journaled.

        Raises:
            InvalidInputError: A name, step or time that AWS can never accept.
            InvalidTypeError: An argument of the wrong type.
        """
        step = validation.step(iteration_number)
        when = time.time_ns() if timestamp is None else validation.timestamp_ns(timestamp)
        return self._draft(metric_name, value, when, step)

    def _draft(self, metric_name: str, value: object, timestamp_ns: int, step: int | None) -> vocabulary.Draft:
        name = validation.key(metric_name, "metric name", limits.METRIC_NAME_CHARS_MAX)
        self._valid.add(name)
        return vocabulary.metric(name, validation.metric_value(value), step, timestamp_ns)

    def log_metric(
        self, metric_name: str, value: object, timestamp: datetime | float | None = None, iteration_number: int | None = None
    ) -> None:
        """Record one point; see ``Tracker.log_metric``."""
        if (
            type(value) is float
            and value - value == 0  # neither NaN nor infinite
            and timestamp is None
            and (iteration_number is None or (type(iteration_number) is int and 0 <= iteration_number <= limits.STEP_MAX))
            and metric_name in self._valid
        ):
            self._journal.append_metric(self._component_id, metric_name, value, iteration_number, time.time_ns())
            return
        draft = self.draft(metric_name, value, timestamp, iteration_number)
        if draft.undeliverable is not None:
            self._admit(draft)
        self._journal.append(self._component_id, [draft])

    def log_metrics(self, metrics: Mapping[str, object], timestamp: datetime | float | None, iteration_number: int | None) -> None:
        """Record points of one moment and step, all or none; see ``Tracker.log_metrics``."""
        when = time.time_ns() if timestamp is None else validation.timestamp_ns(timestamp)
        step = validation.step(iteration_number)
        valid, points = self._valid, []
        for name, value in metrics.items():
            if type(value) is not float or value - value != 0 or name not in valid:
                break
            points.append((name, value))
        else:
            if points:
                self._journal.append_metrics(self._component_id, points, step, when)
                return
        drafts = [self._draft(name, value, when, step) for name, value in metrics.items()]
        for draft in drafts:
            if draft.undeliverable is not None:
                self._admit(draft)
        if drafts:
            self._journal.append(self._component_id, drafts)

    def close(self) -> None:
        """Nothing: every point is in the journal already."""


class JournalArtifactUploader:
    """Keeps files in the journal's spool, to be uploaded by a replay: the default.

    Args:
        trial_component: Of which the files are.
        make_room: For ``spool_limit``: called with the journal's folder and the bytes that are needed.
        spool_max_bytes: How large the spool may grow; 0: no limit.
    """

    def __init__(
        self, trial_component: TrialComponent, make_room: Callable[[Path, int], int] | None = None, spool_max_bytes: int = 0
    ) -> None:
        self._journal = trial_component.journal
        self._spool_max_bytes = spool_max_bytes
        self._make_room = make_room

    def spool(self, file_path: str | os.PathLike[str]) -> SpooledBlob:
        """Keep the bytes of the file as they are now.

        Raises:
            ArtifactError: The file is missing, not a regular file, or keeps changing.
            JournalWriteError: The journal's disk does not take it.
            JournalFullError: (a JournalWriteError) The disk is full, or the spool has reached its limit.
        """
        folder = self._journal.path  # now: the journal may have been moved
        spool = Spool(folder / paths.SPOOL)
        if self._spool_max_bytes:
            make_room = self._make_room
            room = None if make_room is None else (lambda wanted_bytes: make_room(folder, wanted_bytes))
            spool_limit.admit(spool, Path(file_path), self._spool_max_bytes, room)
        blob = spool.add(file_path, self._journal.renew_blob, self._of_size)
        self._journal.add_blob(blob.sha256, blob.size_bytes)
        return blob

    def _of_size(self, size_bytes: int) -> list[str]:
        try:
            return spool_use.of_size(self._journal.database, size_bytes)
        except JournalError:  # then it is copied; what is wrong with the journal is told where it matters
            return []

    def confirm(self, files: Mapping[str, Path]) -> None:
        """After the call is recorded: nobody removes its contents any more. See that nobody did until now.

        Args:
            files: By digest, where each content came from.

        Raises:
            ArtifactError: A content left the spool while its call took longer than others wait for it, and its file has changed since.
        """
        for sha256, path in files.items():
            spool = Spool(self._journal.path / paths.SPOOL)
            if not spool.has(sha256) and spool.add(path, self._journal.renew_blob).sha256 != sha256:
                raise ArtifactError(
                    f"{path} is recorded, but its content is not in the spool any more, and the file has changed since",
                    hint="log it again; the entry that can't be delivered is quarantined",
                )

    def upload_artifact(self, file_path: str | os.PathLike[str]) -> tuple[str, str]:
        """Keep the file; returns its path in the spool and its SHA-256."""
        blob = self.spool(file_path)
        return str(blob.path), blob.sha256
