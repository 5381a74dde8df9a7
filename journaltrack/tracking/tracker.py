"""The public API: the SageMaker Experiments ``Tracker``, with a journal in front of the network.

validate → spool → append. Must not know the reconciler, boto3 or SQL; what needs the network (*replay on close*, *look
up on load*) are callables, ``Tracker.services``, and every call of one goes through ``guard``.

Invariants: a call has either journaled all it was given, in one transaction, when it returns, or raised and journaled
nothing. No call but ``close`` and ``load`` of an unknown name touches the network, both bounded by a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import mimetypes
import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from journaltrack import limits
from journaltrack.errors import ArtifactError, ComponentNotFoundError, InvalidInputError, InvalidTypeError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.journal import Journal, OnJournalError
from journaltrack.tracking import artifact_files, sagemaker_job, validation
from journaltrack.tracking.artifact_files import LeftOut
from journaltrack.tracking.notices import Notice, Notices, warn
from journaltrack.tracking.services import WIRED, Background, ReplayRequest, Services
from journaltrack.tracking.settings import (
    Settings,
    attached,
    closing_on_error,
    final_status,
    keys_in,
    name_for,
    name_to_load,
    open_journal,
    replay_request,
    settings_of,
)
from journaltrack.tracking.sigterm import SigtermStops
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.tracking.writers import ArtifactUploader, JournalArtifactUploader, JournalMetricsWriter, MetricsWriter
from journaltrack.util.config import Redaction
from journaltrack.util.guard import guarded

if TYPE_CHECKING:
    from types import TracebackType
    from typing import SupportsIndex

    from journaltrack.journal.entries import BlobRef, Direction, Draft
    from journaltrack.journal.sqlite.connection import Durability
    from journaltrack.tracking.validation import Moment, Number, Parameters

logger = logging.getLogger(__name__)


class Tracker:
    """Records the parameters, metrics and artifacts of one trial component.

    Make one with ``create`` or ``load``. Threads may share it; a forked child may go on using it (it becomes a writer
    of its own). As a context manager it sets status and times: Completed, Failed on an exception (with its message),
    Stopped on KeyboardInterrupt, asyncio's CancelledError, GeneratorExit, and on SIGTERM (see ``create``); ``SystemExit`` with
    code 0 or None is a completed run, with any other a failed one.

    Args:
        trial_component: From another tracker, or any object with a ``trial_component_name``, which is then tracked in
            the default journal.
        metrics_writer: Takes the metrics; None: the journal.
        artifact_uploader: Takes the files of ``log_artifact``; None: the journal's spool.
    """

    services: ClassVar[Services] = WIRED

    def __init__(
        self,
        trial_component: object,
        metrics_writer: MetricsWriter | None = None,
        artifact_uploader: ArtifactUploader | None = None,
        *,
        _settings: Settings | None = None,
    ) -> None:
        if not isinstance(trial_component, TrialComponent):
            trial_component = attached(Journal.open(appending=True), getattr(trial_component, "trial_component_name", None))
        self.trial_component: TrialComponent = trial_component
        self._journal: Journal = trial_component.journal
        self._id: int = trial_component.component_id
        self._journal_metrics = JournalMetricsWriter(trial_component, self._append)
        self._metrics_writer: MetricsWriter = self._journal_metrics if metrics_writer is None else metrics_writer
        self._settings = settings = settings_of() if _settings is None else _settings
        if artifact_uploader is None:
            artifact_uploader = JournalArtifactUploader(trial_component, self._make_room, settings.configuration.spool_max_bytes)
        self._uploader: ArtifactUploader = artifact_uploader
        self._sigterm = SigtermStops()
        self._redaction = Redaction(self._settings.redact)
        self._owns_journal = False
        self._closed = False
        self._background: Background | None = None
        self._pid = os.getpid()
        self._notices = Notices()
        self._keys = keys_in(self._journal, self._id)

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
    ) -> Tracker:
        """A tracker for a new trial component. Needs neither network nor credentials.

        Args:
            display_name: As SageMaker shows it; dots, underscores and spaces, which it refuses, become
                hyphens, with a warning.
            artifact_bucket: For artifacts; None: ``sagemaker-<region>-<account>``, found out at the replay.
            artifact_prefix: Of the artifacts' keys; None: ``trial-component-artifacts``.
            boto3_session: For the replay on close.
            sagemaker_boto_client: For the replay on close.
            trial_component_name: None: made here, unique.
            base_trial_component_name: The beginning of a made name.
            resume: Attach to the component of that name if it exists, in this journal or in SageMaker: for a script
                that does not know whether it is the first of its run.
            experiment_name: Experiment to belong to, created at the replay when missing.
            trial_name: Trial to belong to, created at the replay when missing (if the experiment is named).
            tags: Put on the component when it is created.
            journal: A journal or its folder; None: the default journal.
            durability: ``"process"`` or ``"power"``, see ``Journal.open``. Here and below None: what the configuration says
                (docs/configuration.md), else ``"process"``.
            strict: Raise ``UndeliverableError`` for what AWS could never accept, instead of journaling it marked so.
            on_journal_error: ``"buffer"`` or ``"raise"``, see ``Journal.open``.
            sync: ``"close"`` or True: replay on close; ``"background"``: also while training runs, in
                another process; ``"off"`` or False: leave it to ``journaltrack sync`` or ``watch``.
                None: see ``durability``, else ``"close"``.
            close_deadline_s: Seconds that the replay on close may take; None: see ``durability``, else 10.
            redact: Patterns of names (case does not matter), beside those of the configuration: the values of parameters, inputs
                and outputs with such a name are replaced by "[redacted]" before they are recorded, for ever.
            sigterm: ``"stop"``: SIGTERM ends the `with` block as an exception does (``SystemExit`` with code 143), and the run as Stopped;
                only in the process and on the main thread that entered it. ``"default"``: what it does without us. None: see ``durability``.

        Raises:
            InvalidInputError: A name, tag or option that can't be right, or (without ``resume``) a name that this
                journal has already.
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
        )
        mended = None
        if display_name is not None:
            display_name, mended = validation.display_name(display_name)
        for name, what in ((experiment_name, "experiment name"), (trial_name, "trial name")):
            if name is not None:
                validation.entity_name(name, what)
        checked_tags = validation.tags(tags)
        name = name_for(trial_component_name, base_trial_component_name, resume=resume)
        opened, owned = open_journal(journal, settings.durability, on_journal_error)
        with closing_on_error(opened, owned):
            component_id = opened.component(name)
            drafts = [vocabulary.create(owner=str(uuid.uuid4()), display_name=display_name, resume=resume, tags=checked_tags)]
            if experiment_name is not None or trial_name is not None:
                drafts.append(vocabulary.associate(experiment=experiment_name, trial=trial_name))
            if resume:
                opened.append(component_id, drafts)
            elif not opened.append_first(component_id, drafts):
                raise InvalidInputError(
                    f"the journal at {opened.path} has a trial component {name} already",
                    hint="pass resume=True to continue it, or use Tracker.load(name)",
                )
            tracker = cls._made(TrialComponent(opened, component_id, name), settings, owned)
        if mended:
            try:
                warn(mended)
            except JournaltrackWarning:  # an error here would cost the run its tracker
                logger.warning("%s", mended)
        return tracker

    @classmethod
    def load(
        cls,
        trial_component_name: str | None = None,
        artifact_bucket: str | None = None,
        artifact_prefix: str | None = None,
        boto3_session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        *,
        training_job_name: str | None = None,
        processing_job_name: str | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        durability: Durability | None = None,
        strict: bool = False,
        on_journal_error: OnJournalError = "buffer",
        sync: str | bool | None = None,
        close_deadline_s: float | None = None,
        lookup_deadline_s: float | None = None,
        redact: Sequence[str] | None = None,
        sigterm: str | None = None,
    ) -> Tracker:
        """A tracker for a trial component that exists.

        Without a name, inside a SageMaker job: the component of that job. A name that this journal knows needs no
        network. Any other is looked up if AWS answers in time; otherwise it is taken on trust and verified by the
        first replay.

        Args:
            trial_component_name: Or None inside a job.
            artifact_bucket: As for ``create``; likewise the other arguments of the same name.
            artifact_prefix: See ``create``.
            boto3_session: See ``create``; also for the look-up.
            sagemaker_boto_client: See ``create``; also for the look-up.
            training_job_name: Track that job's component.
            processing_job_name: Track that job's component.
            journal: See ``create``.
            durability: See ``create``.
            strict: See ``create``.
            on_journal_error: See ``create``.
            sync: See ``create``; ``"off"`` also skips the look-up.
            close_deadline_s: See ``create``.
            lookup_deadline_s: Seconds that the look-up may take; None: see ``durability``, else 3.
            redact: See ``create``.
            sigterm: See ``create``.

        Raises:
            ComponentNotFoundError: (a ValueError) AWS says that it does not exist.
            InvalidInputError: (a ValueError) No name and no job, or a name that can't be right.
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
        )
        name, is_job = name_to_load(trial_component_name, training_job_name, processing_job_name)
        opened, owned = open_journal(journal, settings.durability, on_journal_error)
        with closing_on_error(opened, owned):
            known = opened.find(name)
            if known is not None and opened.state_entries(known.id):
                return cls._made(TrialComponent(opened, known.id, known.name), settings, owned)
            verified: bool | None = None
            lookup = cls.services.lookup
            if not is_job and settings.sync != "off" and lookup is not None:
                deadline_s = settings.configuration.lookup_deadline_s if lookup_deadline_s is None else lookup_deadline_s
                request = replay_request(opened.path, name, deadline_s, settings)
                failure = f"SageMaker could not be asked for {name}; it is verified at the first replay"
                verified = guarded(lambda: lookup(request), failure, request.deadline)
            if verified is False:
                raise ComponentNotFoundError(
                    f"SageMaker has no trial component {name}",
                    hint="check name and region, or use Tracker.create(trial_component_name=..., resume=True)",
                )
            component_id = opened.component(name)
            opened.append(component_id, [vocabulary.load(job=is_job, verified=bool(verified))])
            return cls._made(TrialComponent(opened, component_id, name), settings, owned)

    # -- logging ------------------------------------------------------------------------------------------------

    def log_parameter(self, name: str, value: Any) -> None:  # noqa: ANN401 - anything has a str()
        """Record a parameter; the last value per name counts.

        Args:
            name: At most 320 characters on one line.
            value: Text or a number (NumPy scalars, and arrays and tensors of one element, too);
                booleans become "True" or "False", anything else its ``str()``. Text beyond 2,500
                characters is journaled, but not delivered. An integer that a double can't hold exactly
                (beyond 2^53) is text with all its digits: SageMaker's numbers are doubles.

        Raises:
            InvalidInputError: A name that AWS can never accept, or a value without a text.
        """
        self.log_parameters({name: value})

    def log_parameters(self, parameters: Parameters) -> None:
        """Record parameters, all or none; see ``log_parameter``.

        Args:
            parameters: A mapping, an ``argparse.Namespace``, a dataclass, or an iterable of (name, value) pairs.

        Raises:
            InvalidTypeError: None of these.
            InvalidInputError: See ``log_parameter``.
        """
        self._append([self._parameter(name, value) for name, value in validation.pairs(parameters, "parameters")])

    def log_input(self, name: str, value: str, media_type: str | None = None) -> None:
        """Record an input artifact: a URI or other text of at most 2,048 characters; the last value per name counts."""
        self._append(*self._reference("input", name, value, media_type))

    def log_output(self, name: str, value: str, media_type: str | None = None) -> None:
        """Record an output artifact: a URI or other text of at most 2,048 characters; the last value per name counts."""
        self._append(*self._reference("output", name, value, media_type))

    def log_artifact(self, file_path: str | os.PathLike[str], name: str | None = None, media_type: str | None = None) -> None:
        """Record a local file as an output artifact: its bytes as they are now; later changes to the file do not matter.

        Args:
            file_path: A regular file; ``~`` is the home folder.
            name: Of the artifact; None: the file's name.
            media_type: None: guessed from the file's suffix.

        Raises:
            ArtifactError: (a ValueError) The file is missing, not a regular file, or keeps changing.
            JournalWriteError: The journal's disk does not take it.
        """
        self.log_output_artifact(file_path, name, media_type)

    def log_output_artifact(self, file_path: str | os.PathLike[str], name: str | None = None, media_type: str | None = None) -> None:
        """Record a local file as an output artifact; see ``log_artifact``."""
        self._record_kept([self._keep("output", artifact_files.given(file_path), name, media_type, set())])

    def log_input_artifact(self, file_path: str | os.PathLike[str], name: str | None = None, media_type: str | None = None) -> None:
        """Record a local file as an input artifact; see ``log_artifact``."""
        self._record_kept([self._keep("input", artifact_files.given(file_path), name, media_type, set())])

    def log_artifacts(self, directory: str | os.PathLike[str], *, direction: Direction = "output") -> None:
        """Record every file below a folder, named by its path relative to it, all in one transaction.

        Links are followed. A file or folder that can't be read is left out with a warning, and so is
        a name that AWS can never accept (not UTF-8, beyond 128 characters). A strict tracker raises.

        Raises:
            ArtifactError: (a ValueError) Not a folder that can be read, or nothing in it can be recorded.
            InvalidInputError: ``direction`` is neither "input" nor "output".
        """
        if direction not in {"input", "output"}:  # anything else would be an entry of an unknown kind: pending for ever
            raise InvalidInputError(f'direction is {direction!r}; it is "input" or "output"')
        root = artifact_files.given(directory)
        if not os.path.isdir(root):  # noqa: PTH112 - never raises
            raise ArtifactError(f"{root} is not a folder", hint="for a file use log_artifact(file_path)")
        files, left_out = artifact_files.below(root)
        kept: list[_Kept] = []
        new: set[tuple[str, str | None]] = set()
        for path, name in files:
            try:
                kept.append(self._keep(direction, path, name, None, new))
            except InvalidInputError as error:  # noqa: PERF203 - a copy costs more
                left_out.append(LeftOut(name, error.message))
        if not left_out:
            self._record_kept(kept)
            return
        text = artifact_files.told(root, sorted(left_out), len(kept))
        if self._settings.strict or not kept:
            raise ArtifactError(text, hint="strict=False records the others" if kept else "")
        self._record_kept(kept, [Notice("folder", text, text)])

    def log_metric(
        self,
        metric_name: str,
        value: Number,
        timestamp: Moment | None = None,
        iteration_number: SupportsIndex | None = None,
        *,
        step: SupportsIndex | None = None,
    ) -> None:
        """Record one point of a metric.

        Args:
            metric_name: At most 255 characters on one line.
            value: A number, NumPy's and arrays or tensors of one element too. NaN and infinity are
                journaled, but can't be delivered; an integer that a double can't hold exactly is
                journaled with all digits and sent as that double.
            timestamp: A datetime (a naive one is local time), NumPy's datetime64 (which is UTC) or
                seconds since the epoch, up to 2262-04-11; None: now.
            iteration_number: An integer from 0 to 2^31-1.
            step: Another name of ``iteration_number``.

        Raises:
            InvalidInputError: A name, step or time that AWS can never accept, or two steps.
            InvalidTypeError: An argument of the wrong type.
        """
        if self._closed:
            self._reopen()
        if step is not None:
            iteration_number = validation.one_step(iteration_number, step)
        self._metrics_writer.log_metric(metric_name, value, timestamp, iteration_number)

    def log_metrics(
        self,
        metrics: Mapping[str, Number],
        iteration_number: SupportsIndex | None = None,
        timestamp: Moment | None = None,
        *,
        step: SupportsIndex | None = None,
    ) -> None:
        """Record a point of several metrics, all or none; see ``log_metric``."""
        if self._closed:
            self._reopen()
        if step is not None:
            iteration_number = validation.one_step(iteration_number, step)
        points = list(metrics.items()) if type(metrics) is dict else validation.pairs(metrics, "metrics")
        if self._metrics_writer is not self._journal_metrics:
            for name, value in points:
                self._metrics_writer.log_metric(name, value, timestamp, iteration_number)
            return
        self._journal_metrics.log_metrics(points, timestamp, iteration_number)

    # -- life -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """A power barrier: all that was logged is on the disk when this returns.

        Raises:
            JournalWriteError: Entries wait wait in memory, ``unwritten`` of them, because the journal takes none.
        """
        self._journal.flush()

    def close(self) -> None:
        """Flush the journal to the disk, then replay within the deadline. Idempotent.

        Nothing that the replay meets is raised: what is not delivered stays in the journal. What is logged afterwards is
        recorded, and delivered by the next ``close``. In a forked child this flushes alone: the run is the parent's to deliver.

        Raises:
            JournalWriteError: Entries could not be written to the journal; the tracker stays open.
        """
        if self._closed or self._journal.postpone(self.close):
            return
        self._journal.save()
        try:
            self._metrics_writer.close()
        finally:  # a caller's writer may raise: what is in the journal is delivered all the same
            if not self._closed:  # else a signal handler closed it meanwhile
                self._closed = True
                self._deliver()

    def __enter__(self) -> Tracker:  # noqa: PYI034 - the original's signature
        if not self._is_job():
            start_ns = None if self.trial_component.start_time is not None else time.time_ns()
            self._append([vocabulary.status(primary="InProgress", start_ns=start_ns)])
        if self._settings.sigterm == "stop":
            self._sigterm.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._sigterm.at_the_end(error):
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        try:
            if os.getpid() == self._pid and not self._is_job():  # a forked child that leaves the block does not end the run
                self._append([final_status(error)])
            self.close()
        except Exception as failure:
            if error is None:
                raise
            # Also what a caller's own metrics writer raises: the exception that ended the block is the one to see.
            logger.exception("closing failed while another exception was on its way out")
            with contextlib.suppress(RuntimeWarning):  # `-W error`: as above
                warnings.warn(f"closing the tracker failed: {failure}", RuntimeWarning, stacklevel=2)

    def __reduce__(self) -> tuple[Any, ...]:
        """In a process that gets it by pickle (``multiprocessing`` with "spawn", a DataLoader's worker): another writer of the same
        component in the same journal. Like a forked child, it neither replays nor ends the run.
        """
        own = [
            None if isinstance(given, default) else given
            for given, default in ((self._metrics_writer, JournalMetricsWriter), (self._uploader, JournalArtifactUploader))
        ]
        settings = replace(self._settings, boto3_session=None, sagemaker_client=None, sync="off")
        how = (os.fspath(self._journal.path), settings.durability, self._journal.on_journal_error)
        return _elsewhere, (self.trial_component.trial_component_name, how, settings, *own)

    def __repr__(self) -> str:
        return f"Tracker({self.trial_component!r})"

    # -- inside -----------------------------------------------------------------------------------------------------

    @classmethod
    def _made(cls, trial_component: TrialComponent, settings: Settings, owned: bool) -> Tracker:
        tracker = cls(trial_component, None, None, _settings=settings)
        tracker._owns_journal = owned
        tracker._begin_delivering()
        return tracker

    def _begin_delivering(self) -> None:
        begin = self.services.background
        if self._settings.sync == "background" and begin is not None and os.getpid() == self._pid:
            failure = f"{self.trial_component.trial_component_name} is not delivered in the background, but on close"
            request = self._replay_request()
            self._background = guarded(lambda: begin(request), failure)

    def _deliver(self) -> None:
        """Have what was logged delivered, and give up what a closed tracker does not need."""
        name = self.trial_component.trial_component_name
        if self._owns_journal:
            try:
                self._journal.rest()  # reading back opens it again
            except Exception:  # everything is on the disk by now
                logger.debug("the journal of %s stays open", name, exc_info=True)
        if os.getpid() != self._pid:
            return
        background, self._background = self._background, None
        deliver = background.finish if background is not None else self.services.replay if self._settings.sync != "off" else None
        if deliver is not None:
            request = self._replay_request()
            failure = f"{name} was not delivered on close, its entries stay in the journal until the next close or `journaltrack sync`"
            guarded(lambda: deliver(request), failure, request.deadline, sends=True)

    def _replay_request(self) -> ReplayRequest:
        return replay_request(
            self._journal.path, self.trial_component.trial_component_name, self._settings.close_deadline_s, self._settings
        )

    def _make_room(self, journal: Path, wanted_bytes: int) -> int:
        make_room = self.services.make_room
        if make_room is None:
            return 0
        return guarded(lambda: make_room(journal, wanted_bytes), "no room could be made in the spool") or 0

    def _reopen(self) -> None:
        """A call after ``close``: it is recorded as any other, and the next ``close`` delivers it."""
        self._closed = False
        self._begin_delivering()

    def _is_job(self) -> bool:
        """Whether the component is that of the SageMaker job we are in: the job owns status and times then."""
        return sagemaker_job.component_of_this_job() == self.trial_component.trial_component_name.lower()

    def _append(self, drafts: Sequence[Draft], notices: Sequence[Notice] = ()) -> None:
        """Record drafts in one transaction; then tell what there is to tell."""
        self._notices.tell(self._record(drafts), notices)

    def _record(self, drafts: Sequence[Draft]) -> list[Draft]:
        """``_append`` without the telling; the drafts as they were recorded."""
        if self._closed:
            self._reopen()
        new: set[tuple[str, str | None]] = set()
        checked = [self._within_limit(draft, new) for draft in drafts]
        if self._settings.strict:
            self._notices.refuse(checked)
        if checked:
            self._journal.append(self._id, checked)
        for draft in checked:
            if draft.kind in vocabulary.KEYS_MAX and draft.name is not None and draft.undeliverable is None:
                self._keys[draft.kind].add(draft.name)
        return checked

    def _within_limit(self, draft: Draft, new: set[tuple[str, str | None]]) -> Draft:
        """Mark a name beyond what a component can hold; ``new`` collects those that the same call brings."""
        if draft.kind not in vocabulary.KEYS_MAX or draft.undeliverable is not None:
            return draft
        keys_max, _ = vocabulary.KEYS_MAX[draft.kind]
        keys = self._keys[draft.kind]
        if draft.name in keys or (draft.kind, draft.name) in new:
            return draft
        if len(keys) + sum(kind == draft.kind for kind, _ in new) < keys_max:
            new.add((draft.kind, draft.name))
            return draft
        return draft._replace(undeliverable=vocabulary.too_many(draft.kind))

    def _parameter(self, name: object, value: object) -> Draft:
        key = validation.key(name, "parameter name", limits.PARAMETER_KEY_CHARS_MAX)
        if self._is_redacted("parameter", key):
            return vocabulary.redacted(vocabulary.PARAMETER, key)
        return vocabulary.parameter(key, validation.parameter_value(value))

    def _is_redacted(self, kind: str, name: str) -> bool:
        """Whether the value of that name is not to be recorded; says so once per name, and never says the value."""
        if not self._redaction.matches(name):
            return False
        if self._redaction.is_news(kind, name):
            logger.info("the value of %s %s is not recorded: its name matches a pattern of `redact`", kind, limits.shown(name))
        return True

    def _reference(self, direction: Direction, name: str, value: str | BlobRef, media_type: str | None) -> tuple[list[Draft], list[Notice]]:
        key = validation.key(name, f"{direction} name", limits.ARTIFACT_KEY_CHARS_MAX)
        if not isinstance(value, (str, vocabulary.BlobRef)):
            raise InvalidTypeError(f"the value of {direction} {key!r} must be a str, not {type(value).__name__}")
        media_type = validation.optional_text(media_type, "media_type")
        problem = limits.media_type_problem(media_type) if media_type else None
        text = f"{problem}: it is recorded, and left out of what is sent"
        notices = [Notice("media type", media_type or "", text)] if problem else []
        if isinstance(value, str) and self._is_redacted(direction, key):
            return [vocabulary.redacted(direction, key)], notices
        if isinstance(value, str):
            value = validation.long_text(value, f"the value of {direction} {limits.shown(key)}")
        return [vocabulary.artifact(direction, key, value, media_type)], notices

    def _keep(
        self, direction: Direction, file_path: str, name: str | None, media_type: str | None, new: set[tuple[str, str | None]]
    ) -> _Kept:
        """Keep the file's bytes; return what to record. Everything is checked before the copy.

        ``new`` collects the names that the same call brings, as for ``_within_limit``.
        """
        path = Path(file_path)
        key = validation.key(path.name if name is None else name, "artifact name", limits.ARTIFACT_KEY_CHARS_MAX)
        media_type = validation.optional_text(media_type, "media_type") or mimetypes.guess_type(path.name)[0]
        if not isinstance(self._uploader, JournalArtifactUploader):
            uri, _ = self._uploader.upload_artifact(file_path)
            return _Kept({}, *self._reference(direction, key, uri, media_type))
        spooled = self._uploader.spool(path)
        blob = vocabulary.BlobRef(spooled.sha256, self._settings.artifact_bucket, self._settings.artifact_prefix)
        upload = vocabulary.upload(key, blob, spooled.size_bytes, media_type, path.name)
        references, notices = self._reference(direction, key, blob, media_type)
        reference = self._within_limit(references[0], new)
        return _Kept({spooled.sha256: path}, [upload._replace(undeliverable=reference.undeliverable), reference], notices)

    def _record_kept(self, files: Sequence[_Kept], notices: Sequence[Notice] = ()) -> None:
        """Record files that were kept, all in one transaction; then tell what there is to tell."""
        recorded = self._record([draft for file in files for draft in file.drafts])
        if isinstance(self._uploader, JournalArtifactUploader):
            self._uploader.confirm({sha256: path for file in files for sha256, path in file.content.items()})
        self._notices.tell(recorded, [*(notice for file in files for notice in file.notices), *notices])


class _Kept(NamedTuple):
    """A file whose bytes were kept (by digest) or handed on; what to record and to tell about it."""

    content: dict[str, Path]
    drafts: list[Draft]
    notices: list[Notice]


def _elsewhere(
    name: str,
    how: tuple[str, Durability, OnJournalError],
    settings: Settings,
    metrics_writer: MetricsWriter | None,
    artifact_uploader: ArtifactUploader | None,
) -> Tracker:
    """A tracker that was pickled, in the process that it came to."""
    path, durability, on_journal_error = how
    journal = Journal.open(path, durability=durability, on_journal_error=on_journal_error, create=False, appending=True)
    tracker = Tracker(TrialComponent(journal, journal.component(name), name), metrics_writer, artifact_uploader, _settings=settings)
    tracker._owns_journal, tracker._pid = True, -1  # noqa: SLF001 - this module's own; nobody's pid: not its run
    return tracker
