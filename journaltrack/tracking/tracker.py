"""Track a run: SageMaker Experiments' ``Tracker``, before a journal.

This is the public API: how a tracker is made, ends and travels. ``run_log`` has the calls that
record. Must not know the reconciler, boto3 or SQL. What needs the network (*deliver on close*,
*look up on load*) are callables, ``Tracker.services``, which ``delivery`` calls.

Invariant: only ``close``, and ``load`` of an unknown name, touch the network, both within a
deadline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from journaltrack.errors import InvalidInputError
from journaltrack.journal import provenance, vocabulary
from journaltrack.journal.fold import blob_of
from journaltrack.journal.journal import Journal, OnJournalError
from journaltrack.tracking import validation
from journaltrack.tracking.delivery import Delivery, loaded, look_up
from journaltrack.tracking.jobs import component_of_this_job
from journaltrack.tracking.recording import Recorder
from journaltrack.tracking.run_log import RunLog
from journaltrack.tracking.settings import (
    WIRED,
    Services,
    Settings,
    attached,
    captured,
    closing_on_error,
    final_status,
    name_for,
    name_to_load,
    open_journal,
    run_of_launch,
    settings_of,
    system_seconds,
)
from journaltrack.tracking.sigterm import SigtermStops
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.tracking.writers import (
    ArtifactUploader,
    JournalArtifactUploader,
    JournalMetricsWriter,
    LineageArtifactTracker,
    MetricsWriter,
    warn_of_creation,
)

if TYPE_CHECKING:
    from types import TracebackType

    from journaltrack.journal.sqlite.connection import Durability
    from journaltrack.tracking.system import SystemMetrics
    from journaltrack.util.output import Capture

logger = logging.getLogger(__name__)

_DIFF_WAIT_S = 2.0
"""Our choice: how long a run lasts at least, if git needs that long for its diff."""


class Tracker(RunLog):
    """Record the parameters, metrics and artifacts of one trial component.

    Make one with ``create`` or ``load``. It is thread-safe. A forked child may use it, and becomes
    a writer of its own.

    As a context manager it sets the run's status and times. The status is Completed at the end of
    the block, and Failed with the message of an exception. It is Stopped on KeyboardInterrupt,
    asyncio's CancelledError, GeneratorExit and SIGTERM (see ``create``). ``SystemExit`` with code 0
    or None means Completed, with any other code Failed.

    Args:
        trial_component: From another tracker, or any object with a ``trial_component_name``, which
            is then tracked in the default journal.
        metrics_writer: Takes the metrics; None for the journal.
        artifact_uploader: Takes the files of ``log_artifact``; None for the journal's spool.
        lineage_artifact_tracker: Takes the lineage of the files that a caller's own
            ``artifact_uploader`` took, and saves it on close. None: nobody does.
    """

    services: ClassVar[Services] = WIRED
    component_type: ClassVar[type[TrialComponent]] = TrialComponent
    """What ``create`` and ``load`` make of a component."""

    def __init__(
        self,
        trial_component: object,
        metrics_writer: MetricsWriter | None = None,
        artifact_uploader: ArtifactUploader | None = None,
        lineage_artifact_tracker: LineageArtifactTracker | None = None,
        *,
        _settings: Settings | None = None,
    ) -> None:
        settings = settings_of() if _settings is None else _settings
        if not isinstance(trial_component, TrialComponent):
            trial_component = attached(
                open_journal(None, settings, "buffer")[0],
                getattr(trial_component, "trial_component_name", None),
            )
        self._delivery = Delivery(
            trial_component.journal,
            trial_component.trial_component_name,
            settings,
            lambda: self.services,
        )
        super().__init__(
            trial_component,
            settings,
            self._delivery.make_room,
            metrics_writer,
            artifact_uploader,
            lineage_artifact_tracker,
        )
        self._sigterm = SigtermStops()
        self._capture: Capture | None = None
        self._system: SystemMetrics | None = None
        self._owns_journal = False
        self._diffing: provenance.Diffing | None = None
        if settings.mirror is not None:
            trial_component.elsewhere = self._delivery.elsewhere
        if trial_component.recorder is None:
            trial_component.recorder = Recorder(
                self._set_parameters,
                self._log_references,
                lambda status: self._append([status]),
                lambda *file: self._record_kept([self._drafter.file_of_run(*file)]),
                lambda content: self._record_kept([self._drafter.output(content)]),
                self._save,
                self._delivery.ask,
                settings.sagemaker_client,
            )

    @classmethod
    def create(
        cls,
        display_name: str | None = None,
        artifact_bucket: str | None = None,
        artifact_prefix: str | None = None,
        boto3_session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        *,
        trial_component_name: str | None = None,
        base_trial_component_name: str | None = None,
        resume: bool = False,
        experiment_name: str | None = None,
        trial_name: str | None = None,
        tags: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        durability: Durability | None = None,
        strict: bool = False,
        on_journal_error: OnJournalError = "buffer",
        sync: str | bool | None = None,
        close_deadline_s: float | None = None,
        redact: Sequence[str] | None = None,
        sigterm: str | None = None,
        capture_output: bool = False,
        system_metrics: bool | float | None = None,
        mirror: str | os.PathLike[str] | None = None,
    ) -> Tracker:
        """Create a tracker for a new trial component, without network or credentials.

        None for ``durability``, ``sync``, ``close_deadline_s`` or ``sigterm`` means the configured
        value (docs/configuration.md), else the default given here.

        Args:
            display_name: The name that SageMaker shows. Dots, underscores and spaces, which it
                refuses, become hyphens, with a warning.
            artifact_bucket: Bucket for artifacts. None means ``sagemaker-<region>-<account>``,
                which the delivery finds out.
            artifact_prefix: Prefix of the artifacts' keys; None for ``trial-component-artifacts``.
            boto3_session: Session for the delivery on close.
            sagemaker_boto_client: Client for the delivery on close.
            trial_component_name: The component's name; None for a new, unique one. None under
                ``journaltrack run`` is the run that it began. None with ``resume`` in a job is the
                job's own, which is the same when the job starts again.
            base_trial_component_name: The beginning of a new, unique name.
            resume: Attach to the component of that name if it exists, in this journal or in
                SageMaker. For a script that may not be the first of its run. With ``mirror``, a
                journal that does not exist yet continues the one of the mirror that knows the run,
                and ``trial_component.metrics`` counts the points of all journals there.
            experiment_name: Experiment that the component belongs to. The delivery creates it if it
                is missing.
            trial_name: Trial that the component belongs to. If the experiment is named, the
                delivery creates it if it is missing.
            tags: Tags that the component gets when it is created.
            journal: A journal or its folder; None for the default journal.
            durability: ``"process"`` (the default) or ``"power"``, see ``Journal.open``.
            strict: Raise ``UndeliverableError`` for values that AWS could never accept, instead of
                recording them marked as such.
            on_journal_error: ``"buffer"`` or ``"raise"``, see ``Journal.open``.
            sync: ``"close"`` (the default) or True delivers on close. ``"background"`` also
                delivers while training runs, in another process. ``"off"`` or False leaves it to
                ``journaltrack sync`` or ``watch``.
            close_deadline_s: Seconds that the delivery on close may take, by default 10.
            redact: Patterns of names, case-insensitive, in addition to the configured ones. The
                values of parameters, inputs and outputs with such a name are never recorded:
                "[redacted]" replaces them.
            sigterm: With ``"stop"``, SIGTERM ends the `with` block like an exception
                (``SystemExit`` with code 143), and the run as Stopped. That works only in the
                process and the main thread that entered the block. ``"default"`` does not handle
                SIGTERM.
            capture_output: Keep what this process and its children print, until ``close``, which
                records the last megabyte as the artifact ``output.log``.
            system_metrics: Record how busy machine, processes and GPUs are: every so many seconds,
                with True every 10. Needs ``journaltrack[system]``. None: as configured.
            mirror: Folder that machines share. A process beside this one writes what is logged into
                it within 2 s, and another machine delivers it (docs/mirrors.md). Then ``sync`` is
                "off" unless you say otherwise. ``close`` waits until everything is mirrored, as
                long as ``close_deadline_s``. None: as configured.

        Raises:
            InvalidInputError: A name, tag or option has an impossible value. Or, without
                ``resume``, the journal has a component of that name.
            JournalError: The journal can't be opened.
        """
        settings = settings_of(
            artifact_bucket,
            artifact_prefix,
            boto3_session,
            sagemaker_boto_client,
            strict,
            sync,
            close_deadline_s,
            durability,
            redact,
            sigterm,
            mirror,
        )
        watching = (capture_output, system_seconds(system_metrics, settings))
        mended = None
        if display_name is not None:
            display_name, mended = validation.display_name(display_name)
        for name, what in ((experiment_name, "experiment name"), (trial_name, "trial name")):
            if name is not None:
                validation.entity_name(name, what)
        checked_tags = validation.tags(tags)
        if trial_component_name is None and base_trial_component_name is None:
            trial_component_name = run_of_launch(resume=resume)
            # ``journaltrack run`` has begun it.
            resume = resume or trial_component_name is not None
        name = name_for(
            trial_component_name,
            base_trial_component_name,
            resume=resume,
            display_name=display_name,
        )
        resumed = (cls.services, name) if resume else None
        opened, owned = open_journal(journal, settings, on_journal_error, resumed=resumed)
        with closing_on_error(opened, owned):
            component_id = opened.component(name)
            owner = str(uuid.uuid4())
            drafts = [
                vocabulary.create(
                    owner=owner,
                    display_name=display_name,
                    resume=resume,
                    tags=checked_tags,
                    bucket=settings.artifact_bucket,
                    prefix=settings.artifact_prefix,
                )
            ]
            if experiment_name is not None or trial_name is not None:
                drafts.append(vocabulary.associate(experiment=experiment_name, trial=trial_name))
            if resume:
                opened.append(component_id, drafts)
            elif not opened.append_first(component_id, drafts):
                raise InvalidInputError(
                    f"the journal at {opened.path} has a trial component {name} already",
                    hint="pass resume=True to continue it, or use Tracker.load(name)",
                )
            tracker = cls._made(
                cls.component_type(opened, component_id, name), settings, owned, watching
            )
        if mended:
            warn_of_creation(mended)
        return tracker

    @classmethod
    def load(
        cls,
        trial_component_name: str | None = None,
        artifact_bucket: str | None = None,
        artifact_prefix: str | None = None,
        boto3_session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        training_job_name: str | None = None,
        processing_job_name: str | None = None,
        *,
        journal: str | os.PathLike[str] | Journal | None = None,
        durability: Durability | None = None,
        strict: bool = False,
        on_journal_error: OnJournalError = "buffer",
        sync: str | bool | None = None,
        close_deadline_s: float | None = None,
        lookup_deadline_s: float | None = None,
        redact: Sequence[str] | None = None,
        sigterm: str | None = None,
        capture_output: bool = False,
        system_metrics: bool | float | None = None,
        mirror: str | os.PathLike[str] | None = None,
    ) -> Tracker:
        """Create a tracker for a trial component that exists.

        Without a name, under ``journaltrack run``, this is the run that it began. Inside a
        SageMaker job this is the component of that job. A name that this
        journal has needs no network. Any other name is looked up in SageMaker. If AWS does not
        answer in time, the first sync verifies the name.

        Args:
            trial_component_name: The component's name; None inside a job.
            artifact_bucket: See ``create``.
            artifact_prefix: See ``create``.
            boto3_session: See ``create``; also for the look-up.
            sagemaker_boto_client: See ``create``; also for the look-up.
            training_job_name: Track the component of this training job. Not used with a
                component's name.
            processing_job_name: Track the component of this processing job. Not used with any
                other name.
            journal: See ``create``.
            durability: See ``create``.
            strict: See ``create``.
            on_journal_error: See ``create``.
            sync: See ``create``; ``"off"`` also skips the look-up.
            close_deadline_s: See ``create``.
            lookup_deadline_s: Seconds that the look-up may take. None means the configured value,
                else 3.
            redact: See ``create``.
            sigterm: See ``create``.
            capture_output: See ``create``.
            system_metrics: See ``create``.
            mirror: See ``create``. A journal that does not exist yet continues the one of the
                mirror that knows the run.

        Raises:
            ComponentNotFoundError: (a ValueError) SageMaker has no such component.
            InvalidInputError: (a ValueError) There is no name and no job, or the name is invalid.
            JournalError: The journal can't be opened.
        """
        settings = settings_of(
            artifact_bucket,
            artifact_prefix,
            boto3_session,
            sagemaker_boto_client,
            strict,
            sync,
            close_deadline_s,
            durability,
            redact,
            sigterm,
            mirror,
        )
        watching = (capture_output, system_seconds(system_metrics, settings))
        name, is_job = name_to_load(trial_component_name, training_job_name, processing_job_name)
        resumed = (cls.services, name)
        opened, owned = open_journal(journal, settings, on_journal_error, resumed=resumed)
        with closing_on_error(opened, owned):
            known = opened.find(name)
            if known is not None and opened.state_entries(known.id):
                return cls._made(
                    cls.component_type(opened, known.id, known.name), settings, owned, watching
                )
            answer = (
                None
                if is_job
                else look_up(cls.services.ask, opened.path, name, settings, lookup_deadline_s)
            )
            draft = loaded(name, answer, settings, is_job=is_job)
            component_id = opened.component(name)
            opened.append(component_id, [draft])
            return cls._made(
                cls.component_type(opened, component_id, name), settings, owned, watching
            )

    # -- life ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until everything logged is on the disk, where it survives a loss of power.

        With a mirror, it is written there at once. This call does not wait for that.

        Raises:
            JournalWriteError: The journal refuses entries; ``unwritten`` of them wait in memory.
        """
        self._journal.flush()
        self._delivery.flush()

    def close(self) -> None:
        """Flush the journal to the disk, then deliver within the deadline. Idempotent.

        The delivery never raises: undelivered entries stay in the journal. What you log afterwards
        is recorded, and the next ``close`` delivers it. In a forked child this only flushes: the
        parent delivers the run.

        Raises:
            JournalWriteError: The journal refuses entries. The tracker stays open.
        """
        if self._closed or self._journal.postpone(self.close):
            return
        self._end_watching()
        if self._diffing is not None:
            self._diffing.end(_DIFF_WAIT_S)
        self._journal.save()
        try:
            self._metrics_writer.close()
            if self._lineage_tracker is not None:
                self._lineage_tracker.save()
        finally:
            # Also if a caller's writer raises. A signal handler may have closed it meanwhile.
            if not self._closed:
                self._closed = True
                self._deliver()

    @property
    def is_terminated(self) -> bool:
        """Return whether SIGTERM interrupted the ``with`` block; see ``sigterm`` of ``create``."""
        return self._sigterm.is_raised

    def __enter__(self) -> Tracker:  # noqa: PYI034 - the original's signature
        if not self._is_job():
            start_ns = None if self.trial_component.start_time is not None else time.time_ns()
            self._append([vocabulary.status(primary="InProgress", start_ns=start_ns)])
        if self._settings.sigterm == "stop":
            self._sigterm.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._sigterm.at_the_end(error):
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        try:
            # A forked child that leaves the block does not end the run.
            if self._delivery.is_here() and not self._is_job():
                self._append([final_status(error)])
            self.close()
        except Exception as failure:
            if error is None:
                raise
            # Any error of the end, also of a caller's metrics writer, must not hide the exception
            # that ended the block.
            logger.exception("closing failed while another exception was on its way out")
            # With `-W error` the warning is an error, too.
            with contextlib.suppress(RuntimeWarning):
                warnings.warn(
                    f"closing the tracker failed: {failure}", RuntimeWarning, stacklevel=2
                )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a tracker of the same component in the same journal.

        For ``multiprocessing`` with "spawn" and a DataLoader's workers. In the other process it is
        a writer of its own. Like a forked child, it neither delivers nor ends the run.
        """
        writer = self._metrics_writer
        own = (
            None if isinstance(writer, JournalMetricsWriter) else writer,
            None if isinstance(self._uploader, JournalArtifactUploader) else self._uploader,
            self._lineage_tracker,
        )
        settings = self._settings._replace(boto3_session=None, sagemaker_client=None, sync="off")
        how = (os.fspath(self._journal.path), settings, self._journal.on_journal_error)
        return _elsewhere, (self.trial_component.trial_component_name, how, *own)

    def __str__(self) -> str:
        """Return the component's name, so that other libraries take the tracker for it."""
        return self.trial_component.trial_component_name

    def __repr__(self) -> str:
        return f"Tracker({self.trial_component!r})"

    # -- inside ----------------------------------------------------------------------------

    @classmethod
    def _made(
        cls,
        trial_component: TrialComponent,
        settings: Settings,
        owned: bool,
        watching: tuple[bool, float],
    ) -> Tracker:
        tracker = cls(trial_component, None, None, _settings=settings)
        tracker._owns_journal = owned
        tracker._delivery.begin()
        if settings.configuration.git_diff:
            tracker._diffing = provenance.Diffing(tracker._record_diff)
        tracker._watch(*watching)
        return tracker

    def _record_diff(self, diff: bytes) -> None:
        """Record git's diff as an upload, unless the component has it."""
        kept = self._drafter.upload(provenance.DIFF_NAME, diff, "text/x-diff")
        known = (blob_of(entry) for entry in self.trial_component.entries(vocabulary.UPLOAD))
        if not any(blob.sha256 in kept.content for blob in known):
            self._record_kept([kept])

    def _watch(self, capture_output: bool, every_s: float) -> None:
        """Begin to record system metrics and to keep the output, if they are wanted."""
        if every_s:
            from journaltrack.tracking import system  # noqa: PLC0415 - few runs want it

            deliver = self._settings.configuration.system.deliver
            self._system = system.SystemMetrics(self.trial_component, every_s, deliver=deliver)
            told = system.missing()
            if told:
                warn_of_creation(told)
            self._system.start()
        if capture_output:
            self._capture = captured(self._end_watching)

    def _end_watching(self) -> None:
        """Record the end of the output, and end the system metrics."""
        if self._system is not None:
            self._system.stop()
        capture, self._capture = self._capture, None
        kept = None if capture is None else capture.end()
        if kept is not None and kept.content:
            self._record_kept([self._drafter.output(kept.text())])

    def _deliver(self) -> None:
        """Release what a closed tracker does not need, and deliver what was logged."""
        if self._owns_journal:
            try:
                # Reading back opens it again.
                self._journal.rest()
            except Exception:
                # Everything is on the disk by now.
                logger.debug("the journal of %s stays open", self.trial_component, exc_info=True)
        self._delivery.finish()

    def _save(self) -> None:
        """Deliver what is pending, and stay open; see ``TrialComponent.save``."""
        if not self._journal.postpone(self._save):
            self._journal.save()
            self._delivery.save()

    def _reopen(self) -> None:
        """Record a call after ``close`` like any other: the next ``close`` delivers it."""
        super()._reopen()
        self._delivery.begin()
        if self._system is not None and self._delivery.is_here():
            self._system.start()

    def _is_job(self) -> bool:
        """Return whether SageMaker made the component for the job we are in.

        Then the job owns its status and times.
        """
        return component_of_this_job() == self.trial_component.trial_component_name.lower()


def _elsewhere(
    name: str,
    how: tuple[str, Settings, OnJournalError],
    metrics_writer: MetricsWriter | None,
    artifact_uploader: ArtifactUploader | None,
    lineage_artifact_tracker: LineageArtifactTracker | None,
) -> Tracker:
    """Rebuild a pickled tracker in the process that received it."""
    path, settings, on_journal_error = how
    journal, owned = open_journal(path, settings, on_journal_error, create=False)
    tracker = Tracker(
        TrialComponent(journal, journal.component(name), name),
        metrics_writer,
        artifact_uploader,
        lineage_artifact_tracker,
        _settings=settings,
    )
    tracker._owns_journal = owned  # noqa: SLF001 - this module's own
    tracker._delivery.leave_to_others()  # noqa: SLF001
    tracker._delivery.begin()  # noqa: SLF001
    return tracker
