"""Track a run: SageMaker Experiments' ``Tracker``, before a journal.

This is the public API: validate → spool → append. Must not know the reconciler, boto3 or SQL. What
needs the network (*replay on close*, *look up on load*) are callables, ``Tracker.services``. Every
call of one goes through ``guard``.

Invariants: a call either records all its arguments in one transaction, or raises and records
nothing. Only ``close`` and ``load`` of an unknown name touch the network, both within a deadline.
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
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import (
    ArtifactError,
    ComponentNotFoundError,
    InvalidInputError,
    InvalidTypeError,
)
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal, OnJournalError
from journaltrack.tracking import validation, writers
from journaltrack.tracking.recording import Recorder, held_of
from journaltrack.tracking.settings import (
    WIRED,
    Background,
    ReplayRequest,
    Services,
    Settings,
    asked,
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
from journaltrack.tracking.trial_component import TrialComponent, component_of_this_job
from journaltrack.tracking.validation import JournaltrackWarning, Redaction
from journaltrack.tracking.writers import (
    ArtifactUploader,
    JournalArtifactUploader,
    JournalMetricsWriter,
    LeftOut,
    LineageArtifactTracker,
    MetricsWriter,
    Notice,
    Notices,
    warn,
)
from journaltrack.util.guard import guarded

if TYPE_CHECKING:
    from types import TracebackType
    from typing import SupportsIndex

    from journaltrack.journal.sqlite.connection import Durability
    from journaltrack.journal.vocabulary import BlobRef, Direction, Draft
    from journaltrack.tracking.validation import Moment, Number, Parameters

logger = logging.getLogger(__name__)

_UNTYPED: Final = "Tracker"
"""The type of a file's lineage artifact without a media type, as in the original library."""


class Tracker:
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

    def __init__(
        self,
        trial_component: object,
        metrics_writer: MetricsWriter | None = None,
        artifact_uploader: ArtifactUploader | None = None,
        lineage_artifact_tracker: LineageArtifactTracker | None = None,
        *,
        _settings: Settings | None = None,
    ) -> None:
        if not isinstance(trial_component, TrialComponent):
            trial_component = attached(
                Journal.open(appending=True), getattr(trial_component, "trial_component_name", None)
            )
        self.trial_component: TrialComponent = trial_component
        self._journal: Journal = trial_component.journal
        self._id: int = trial_component.component_id
        self._journal_metrics = JournalMetricsWriter(trial_component, self._append)
        self._metrics_writer: MetricsWriter = (
            self._journal_metrics if metrics_writer is None else metrics_writer
        )
        self._settings = settings = settings_of() if _settings is None else _settings
        self._spooler = JournalArtifactUploader(
            trial_component, self._make_room, settings.configuration.spool_max_bytes
        )
        self._uploader: ArtifactUploader = (
            self._spooler if artifact_uploader is None else artifact_uploader
        )
        self._lineage_tracker = lineage_artifact_tracker
        self._sigterm = SigtermStops()
        self._redaction = Redaction(self._settings.redact)
        self._owns_journal = False
        self._closed = False
        self._background: Background | None = None
        self._pid = os.getpid()
        self._notices = Notices()
        self._keys = keys_in(self._journal, self._id)
        if trial_component.recorder is None:
            trial_component.recorder = Recorder(
                self.log_parameters,
                self._log_references,
                self._set,
                self._save,
                self._ask,
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
    ) -> Tracker:
        """Create a tracker for a new trial component, without network or credentials.

        None for ``durability``, ``sync``, ``close_deadline_s`` or ``sigterm`` means the configured
        value (docs/configuration.md), else the default given here.

        Args:
            display_name: The name that SageMaker shows. Dots, underscores and spaces, which it
                refuses, become hyphens, with a warning.
            artifact_bucket: Bucket for artifacts. None means ``sagemaker-<region>-<account>``,
                which the replay finds out.
            artifact_prefix: Prefix of the artifacts' keys; None for ``trial-component-artifacts``.
            boto3_session: Session for the replay on close.
            sagemaker_boto_client: Client for the replay on close.
            trial_component_name: The component's name; None for a new, unique one.
            base_trial_component_name: The beginning of a new, unique name.
            resume: Attach to the component of that name if it exists, in this journal or in
                SageMaker. For a script that may not be the first of its run.
            experiment_name: Experiment that the component belongs to. A replay creates it if it is
                missing.
            trial_name: Trial that the component belongs to. If the experiment is named, a replay
                creates it if it is missing.
            tags: Tags that the component gets when it is created.
            journal: A journal or its folder; None for the default journal.
            durability: ``"process"`` (the default) or ``"power"``, see ``Journal.open``.
            strict: Raise ``UndeliverableError`` for values that AWS could never accept, instead of
                recording them marked as such.
            on_journal_error: ``"buffer"`` or ``"raise"``, see ``Journal.open``.
            sync: ``"close"`` (the default) or True replays on close. ``"background"`` replays also
                while training runs, in another process. ``"off"`` or False leaves it to
                ``journaltrack sync`` or ``watch``.
            close_deadline_s: Seconds that the replay on close may take, by default 10.
            redact: Patterns of names, case-insensitive, in addition to the configured ones. The
                values of parameters, inputs and outputs with such a name are never recorded:
                "[redacted]" replaces them.
            sigterm: With ``"stop"``, SIGTERM ends the `with` block like an exception
                (``SystemExit`` with code 143), and the run as Stopped. That works only in the
                process and the main thread that entered the block. ``"default"`` does not handle
                SIGTERM.

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
        )
        mended = None
        if display_name is not None:
            display_name, mended = validation.display_name(display_name)
        for name, what in ((experiment_name, "experiment name"), (trial_name, "trial name")):
            if name is not None:
                validation.entity_name(name, what)
        checked_tags = validation.tags(tags)
        name = name_for(
            trial_component_name,
            base_trial_component_name,
            resume=resume,
            display_name=display_name,
        )
        opened, owned = open_journal(journal, settings.durability, on_journal_error)
        with closing_on_error(opened, owned):
            component_id = opened.component(name)
            owner = str(uuid.uuid4())
            drafts = [
                vocabulary.create(
                    owner=owner, display_name=display_name, resume=resume, tags=checked_tags
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
            tracker = cls._made(TrialComponent(opened, component_id, name), settings, owned)
        if mended:
            try:
                warn(mended)
            except JournaltrackWarning:
                # With `-W error` the warning is an error, which would cost the run its tracker.
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
    ) -> Tracker:
        """Create a tracker for a trial component that exists.

        Without a name, inside a SageMaker job, this is the component of that job. A name that this
        journal has needs no network. Any other name is looked up in SageMaker. If AWS does not
        answer in time, the first replay verifies the name.

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
        )
        name, is_job = name_to_load(trial_component_name, training_job_name, processing_job_name)
        opened, owned = open_journal(journal, settings.durability, on_journal_error)
        with closing_on_error(opened, owned):
            known = opened.find(name)
            if known is not None and opened.state_entries(known.id):
                return cls._made(TrialComponent(opened, known.id, known.name), settings, owned)
            answer: Mapping[str, Any] | None = None
            ask = cls.services.ask
            if not is_job and settings.sync != "off" and ask is not None:
                if lookup_deadline_s is None:
                    lookup_deadline_s = settings.configuration.lookup_deadline_s
                request = replay_request(opened.path, name, lookup_deadline_s, settings)
                members = {"TrialComponentName": name}
                failure = (
                    f"SageMaker could not be asked for {name}; it is verified at the first replay"
                )
                answer = guarded(
                    lambda: ask(request, "describe_trial_component", members),
                    failure,
                    request.deadline,
                )
            if answer is not None and not answer:
                raise ComponentNotFoundError(
                    f"SageMaker has no trial component {name}",
                    hint="check name and region, or create it: Tracker.create(..., resume=True)",
                )
            redaction = Redaction(settings.redact)
            held = held_of(answer or {}, lambda _, key: redaction.matches(key))
            component_id = opened.component(name)
            opened.append(
                component_id,
                [vocabulary.load(job=is_job, verified=answer is not None, held=held)],
            )
            return cls._made(TrialComponent(opened, component_id, name), settings, owned)

    # -- logging ---------------------------------------------------------------------------

    def log_parameter(self, name: str, value: Any) -> None:  # noqa: ANN401 - anything has a str()
        """Record a parameter. The last value per name counts.

        Args:
            name: At most 320 characters on one line.
            value: Text or a number, also a NumPy scalar, or an array or tensor of one element.
                Booleans become "True" or "False", anything else its ``str()``. Text of more than
                2,500 characters is recorded, but not delivered. An integer that a double can't hold
                exactly (beyond 2^53) is text with all its digits: SageMaker's numbers are doubles.

        Raises:
            InvalidInputError: AWS can never accept the name, or the value has no text.
        """
        self.log_parameters({name: value})

    def log_parameters(self, parameters: Parameters) -> None:
        """Record parameters, all or none; see ``log_parameter``.

        Args:
            parameters: A mapping, an ``argparse.Namespace``, a dataclass, or an iterable of
                (name, value) pairs.

        Raises:
            InvalidTypeError: It is none of these.
            InvalidInputError: See ``log_parameter``.
        """
        self._append(
            [
                self._parameter(name, value)
                for name, value in validation.pairs(parameters, "parameters")
            ]
        )

    def log_input(self, name: str, value: str, media_type: str | None = None) -> None:
        """Record an input artifact: a URI or other text. The last value per name counts.

        Args:
            name: At most 128 characters.
            value: At most 2,048 characters. A longer text is recorded, but not delivered.
            media_type: The media type, if you want to record it.
        """
        self._append(*self._reference("input", name, value, media_type))

    def log_output(self, name: str, value: str, media_type: str | None = None) -> None:
        """Record an output artifact: a URI or other text; see ``log_input``."""
        self._append(*self._reference("output", name, value, media_type))

    def log_artifact(
        self,
        file_path: str | os.PathLike[str],
        name: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Record a local file as an output artifact, with its bytes as they are now.

        Later changes to the file do not matter.

        Args:
            file_path: A regular file. ``~`` is the home folder.
            name: The artifact's name; None for the file's name.
            media_type: The media type; None to guess it from the file's suffix.

        Raises:
            ArtifactError: (a ValueError) The file is missing, no regular file, or keeps changing.
            JournalWriteError: The journal's disk refuses it.
        """
        self.log_output_artifact(file_path, name, media_type)

    def log_output_artifact(
        self,
        file_path: str | os.PathLike[str],
        name: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Record a local file as an output artifact; see ``log_artifact``."""
        self._record_kept([self._keep("output", writers.given(file_path), name, media_type, set())])

    def log_input_artifact(
        self,
        file_path: str | os.PathLike[str],
        name: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Record a local file as an input artifact; see ``log_artifact``."""
        self._record_kept([self._keep("input", writers.given(file_path), name, media_type, set())])

    def log_artifacts(
        self,
        directory: str | os.PathLike[str],
        media_type: str | None = None,
        *,
        direction: Direction = "output",
    ) -> None:
        """Record every file below a folder, all in one transaction.

        Each artifact's name is the file's path relative to the folder. Links are followed. A file
        or folder that can't be read is left out, with a warning. So is a name that AWS can never
        accept (not UTF-8, or longer than 128 characters). A strict tracker raises instead.

        Args:
            directory: The folder. ``~`` is the home folder.
            media_type: The media type of all files; None to guess each from its file's suffix.
            direction: ``"output"`` or ``"input"``.

        Raises:
            ArtifactError: (a ValueError) It is not a readable folder, or has nothing to record.
            InvalidInputError: ``direction`` is neither "input" nor "output".
        """
        # Any other direction would be an entry of an unknown kind, which stays pending for ever.
        if direction not in {"input", "output"}:
            raise InvalidInputError(f'direction is {direction!r}; it is "input" or "output"')
        root = writers.given(directory)
        if not os.path.isdir(root):  # noqa: PTH112 - never raises
            raise ArtifactError(
                f"{root} is not a folder", hint="for a file use log_artifact(file_path)"
            )
        files, left_out = writers.below(root)
        kept: list[_Kept] = []
        new: set[tuple[str, str | None]] = set()
        for path, name in files:
            try:
                kept.append(self._keep(direction, path, name, media_type, new))
            except InvalidInputError as error:  # noqa: PERF203 - a copy costs more
                left_out.append(LeftOut(name, error.message))
        if not left_out:
            self._record_kept(kept)
            return
        text = writers.told(root, sorted(left_out), len(kept))
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
        points = (
            list(metrics.items()) if type(metrics) is dict else validation.pairs(metrics, "metrics")
        )
        if self._metrics_writer is not self._journal_metrics:
            for name, value in points:
                self._metrics_writer.log_metric(name, value, timestamp, iteration_number)
            return
        self._journal_metrics.log_metrics(points, timestamp, iteration_number)

    # -- charts ----------------------------------------------------------------------------

    def log_table(
        self,
        title: str | None,
        values: Mapping[str, Sequence[Any]] | None = None,
        data_frame: Any = None,  # noqa: ANN401 - pandas or polars
        output_artifact: bool = True,
    ) -> None:
        """Record a table. Give either ``values`` or ``data_frame``.

        What is missing, NaN or infinite becomes null.

        Args:
            title: The title.
            values: Lists of equal length, by the column's name.
            data_frame: A data frame.
            output_artifact: Whether the run produced the table. False: it used it.

        Raises:
            InvalidInputError: The columns do not fit together. Nothing was recorded.
            InvalidTypeError: It is no table. Nothing was recorded.
        """
        from journaltrack.tracking import charts  # noqa: PLC0415 - most runs have none

        named = charts.checked_title(title, "Table", time.time())
        self._log_chart(charts.table(named, values, data_frame), output_artifact)

    def log_precision_recall(
        self,
        y_true: Any,  # noqa: ANN401 - lists, and arrays of any library
        predicted_probabilities: Any,  # noqa: ANN401
        positive_label: str | int | None = None,
        title: str | None = None,
        output_artifact: bool = True,
        no_skill: float | None = None,
    ) -> None:
        """Record a precision-recall curve. Needs scikit-learn (``journaltrack[charts]``).

        Args:
            y_true: The true labels.
            predicted_probabilities: The scores of the positive class, one per label.
            positive_label: The positive class; None if the labels are 0 and 1.
            title: The title; None for the type and the time.
            output_artifact: Whether the run produced the chart. False: it used it.
            no_skill: Precision of a classifier that guesses.

        Raises:
            InvalidInputError: No curve can be computed from the values. Nothing was recorded.
            MissingExtraError: scikit-learn is not installed. Nothing was recorded.
        """
        from journaltrack.tracking import charts  # noqa: PLC0415 - most runs have none

        named = charts.checked_title(title, "PrecisionRecallCurve", time.time())
        chart = charts.precision_recall(
            y_true, predicted_probabilities, positive_label, named, no_skill
        )
        self._log_chart(chart, output_artifact)

    def log_roc_curve(
        self,
        y_true: Any,  # noqa: ANN401 - lists, and arrays of any library
        y_score: Any,  # noqa: ANN401
        title: str | None = None,
        output_artifact: bool = True,
    ) -> None:
        """Record a ROC curve of binary labels; see ``log_precision_recall``."""
        from journaltrack.tracking import charts  # noqa: PLC0415 - most runs have none

        named = charts.checked_title(title, "ROCCurve", time.time())
        self._log_chart(charts.roc_curve(y_true, y_score, named), output_artifact)

    def log_confusion_matrix(
        self,
        y_true: Any,  # noqa: ANN401 - lists, and arrays of any library
        y_pred: Any,  # noqa: ANN401
        title: str | None = None,
        output_artifact: bool = True,
    ) -> None:
        """Record a confusion matrix of up to 2,000 labels; see ``log_precision_recall``.

        Its rows are the true labels, its columns the predicted ones, both sorted.
        """
        from journaltrack.tracking import charts  # noqa: PLC0415 - most runs have none

        named = charts.checked_title(title, "ConfusionMatrix", time.time())
        self._log_chart(charts.confusion_matrix(y_true, y_pred, named), output_artifact)

    def _log_chart(self, chart: Mapping[str, Any], output_artifact: bool) -> None:
        """Keep a chart in the spool, and record its upload and lineage in one transaction."""
        from journaltrack.tracking import charts  # noqa: PLC0415 - most runs have none

        content = charts.encode(chart)
        spooled = self._spooler.spool_bytes(content)
        title, blob = chart["title"], self._blob_ref(spooled.sha256)
        lineage = self._lineage(
            vocabulary.OUTPUT if output_artifact else vocabulary.INPUT, title, blob, chart["type"]
        )
        fits = limits.text_problem(title, "", limits.ARTIFACT_KEY_CHARS_MAX) is None
        name = f"{title if fits else limits.suggested_name(title)}.json"
        upload = vocabulary.upload(name, blob, spooled.size_bytes, "application/json", name)
        self._record_kept([_Kept({spooled.sha256: content}, [upload, *lineage], [])])

    # -- life ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until everything logged is on the disk, where it survives a loss of power.

        Raises:
            JournalWriteError: The journal refuses entries; ``unwritten`` of them wait in memory.
        """
        self._journal.flush()

    def close(self) -> None:
        """Flush the journal to the disk, then replay within the deadline. Idempotent.

        The replay never raises: undelivered entries stay in the journal. What you log afterwards is
        recorded, and the next ``close`` delivers it. In a forked child this only flushes: the
        parent delivers the run.

        Raises:
            JournalWriteError: The journal refuses entries. The tracker stays open.
        """
        if self._closed or self._journal.postpone(self.close):
            return
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
            if os.getpid() == self._pid and not self._is_job():
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
        a writer of its own. Like a forked child, it neither replays nor ends the run.
        """
        own = [
            None if isinstance(given, default) else given
            for given, default in (
                (self._metrics_writer, JournalMetricsWriter),
                (self._uploader, JournalArtifactUploader),
            )
        ]
        settings = replace(self._settings, boto3_session=None, sagemaker_client=None, sync="off")
        how = (os.fspath(self._journal.path), settings.durability, self._journal.on_journal_error)
        name = self.trial_component.trial_component_name
        return _elsewhere, (name, how, settings, *own, self._lineage_tracker)

    def __str__(self) -> str:
        """Return the component's name, so that other libraries take the tracker for it."""
        return self.trial_component.trial_component_name

    def __repr__(self) -> str:
        return f"Tracker({self.trial_component!r})"

    # -- inside ----------------------------------------------------------------------------

    @classmethod
    def _made(cls, trial_component: TrialComponent, settings: Settings, owned: bool) -> Tracker:
        tracker = cls(trial_component, None, None, _settings=settings)
        tracker._owns_journal = owned
        tracker._begin_delivering()
        return tracker

    def _begin_delivering(self) -> None:
        begin = self.services.background
        if self._settings.sync == "background" and begin is not None and os.getpid() == self._pid:
            name = self.trial_component.trial_component_name
            failure = f"{name} is not delivered in the background, but on close"
            request = self._replay_request()
            self._background = guarded(lambda: begin(request), failure)

    def _deliver(self) -> None:
        """Deliver what was logged, and release what a closed tracker does not need."""
        name = self.trial_component.trial_component_name
        if self._owns_journal:
            try:
                # Reading back opens it again.
                self._journal.rest()
            except Exception:
                # Everything is on the disk by now.
                logger.debug("the journal of %s stays open", name, exc_info=True)
        if os.getpid() != self._pid:
            return
        background, self._background = self._background, None
        deliver = self.services.replay if self._settings.sync != "off" else None
        if background is not None:
            deliver = background.finish
        if deliver is not None:
            request = self._replay_request()
            how = "the next close or `journaltrack sync` delivers them"
            failure = f"{name} was not delivered on close; its entries stay in the journal, {how}"
            guarded(lambda: deliver(request), failure, request.deadline, sends=True)

    def _log_references(self, direction: Direction, values: Mapping[str, Any]) -> None:
        """Record inputs or outputs by name, each a text or an artifact, all or none."""
        drafts: list[Draft] = []
        notices: list[Notice] = []
        for name, given in values.items():
            value = getattr(given, "value", given)
            # A file that was read back before its upload is still that file.
            blob = self.trial_component.blob_at(value) if isinstance(value, str) else None
            found = self._reference(
                direction, name, blob or value, getattr(given, "media_type", None)
            )
            drafts += found[0]
            notices += found[1]
        self._append(drafts, notices)

    def _set(self, status: Draft) -> None:
        self._append([status])

    def _save(self) -> None:
        """Deliver what is pending, and stay open; see ``TrialComponent.save``."""
        if self._journal.postpone(self._save):
            return
        self._journal.save()
        replay = self.services.replay
        if os.getpid() == self._pid and self._settings.sync != "off" and replay is not None:
            request = self._replay_request()
            failure = f"{self.trial_component} was not saved; its entries stay in the journal"
            guarded(lambda: replay(request), failure, request.deadline, sends=True)

    def _ask(self, operation: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make one request of SageMaker within the deadline of a close.

        Raises:
            RemoteError: There is no answer, or a refusal.
        """
        return asked(self.services.ask, self._replay_request(), operation, members)

    def _replay_request(self) -> ReplayRequest:
        return replay_request(
            self._journal.path,
            self.trial_component.trial_component_name,
            self._settings.close_deadline_s,
            self._settings,
        )

    def _make_room(self, journal: Path, wanted_bytes: int) -> int:
        make_room = self.services.make_room
        if make_room is None:
            return 0
        return (
            guarded(lambda: make_room(journal, wanted_bytes), "no room could be made in the spool")
            or 0
        )

    def _reopen(self) -> None:
        """Record a call after ``close`` like any other: the next ``close`` delivers it."""
        self._closed = False
        self._begin_delivering()

    def _is_job(self) -> bool:
        """Return whether SageMaker made the component for the job we are in.

        Then the job owns its status and times.
        """
        return component_of_this_job() == self.trial_component.trial_component_name.lower()

    def _append(self, drafts: Sequence[Draft], notices: Sequence[Notice] = ()) -> None:
        """Record drafts in one transaction, then give the notices."""
        self._notices.tell(self._record(drafts), notices)

    def _record(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Record drafts in one transaction, and return them as recorded."""
        if self._closed:
            self._reopen()
        new: set[tuple[str, str | None]] = set()
        checked = [self._within_limit(draft, new) for draft in drafts]
        if self._settings.strict:
            self._notices.refuse(checked)
        if checked:
            self._journal.append(self._id, checked)
        for draft in checked:
            if (
                draft.kind in vocabulary.KEYS_MAX
                and draft.name is not None
                and draft.undeliverable is None
            ):
                self._keys[draft.kind].add(draft.name)
        return checked

    def _within_limit(self, draft: Draft, new: set[tuple[str, str | None]]) -> Draft:
        """Mark a draft undeliverable if its name is one too many for the component.

        ``new`` collects the new names of the same call.
        """
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
        """Return whether not to record a value. Logs each such name once."""
        if not self._redaction.matches(name):
            return False
        if self._redaction.is_news(kind, name):
            logger.info(
                "the value of %s %s is not recorded: its name matches a pattern of `redact`",
                kind,
                limits.shown(name),
            )
        return True

    def _reference(
        self, direction: Direction, name: str, value: str | BlobRef, media_type: str | None
    ) -> tuple[list[Draft], list[Notice]]:
        key = validation.key(name, f"{direction} name", limits.ARTIFACT_KEY_CHARS_MAX)
        if not isinstance(value, (str, vocabulary.BlobRef)):
            raise InvalidTypeError(
                f"the value of {direction} {key!r} must be a str, not {type(value).__name__}"
            )
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
        self,
        direction: Direction,
        file_path: str,
        name: str | None,
        media_type: str | None,
        new: set[tuple[str, str | None]],
    ) -> _Kept:
        """Check everything, then keep the file's bytes, and return what to record.

        ``new`` collects the new names of the same call, as for ``_within_limit``.
        """
        path = Path(file_path)
        key = validation.key(
            path.name if name is None else name, "artifact name", limits.ARTIFACT_KEY_CHARS_MAX
        )
        media_type = (
            validation.optional_text(media_type, "media_type") or mimetypes.guess_type(path.name)[0]
        )
        if not isinstance(self._uploader, JournalArtifactUploader):
            uri, etag = self._uploader.upload_artifact(file_path)
            found = _Kept({}, *self._reference(direction, key, uri, media_type))
            if self._lineage_tracker is not None:
                add = getattr(self._lineage_tracker, f"add_{direction}_artifact")
                add(key, uri, etag, media_type)
            return found
        spooled = self._uploader.spool(path)
        blob = self._blob_ref(spooled.sha256)
        upload = vocabulary.upload(key, blob, spooled.size_bytes, media_type, path.name)
        references, notices = self._reference(direction, key, blob, media_type)
        reference = self._within_limit(references[0], new)
        drafts = [upload._replace(undeliverable=reference.undeliverable), reference]
        if reference.undeliverable is None:
            drafts += self._lineage(direction, key, blob, media_type)
        return _Kept({spooled.sha256: path}, drafts, notices)

    def _blob_ref(self, sha256: str) -> BlobRef:
        return vocabulary.BlobRef(
            sha256, self._settings.artifact_bucket, self._settings.artifact_prefix
        )

    def _lineage(
        self, direction: Direction, name: str, blob: BlobRef, artifact_type: str | None
    ) -> list[Draft]:
        """Draft the lineage of a content, as the original library sends it. None if it is off."""
        if not self._settings.configuration.lineage:
            return []
        sent_name = limits.lineage_name(name, f"artifact-{blob.sha256[:12]}")
        problem = limits.text_problem(artifact_type or "", "", limits.LINEAGE_TYPE_CHARS_MAX)
        sent_type = _UNTYPED if problem or artifact_type is None else artifact_type
        title = name if name != sent_name else None
        return [vocabulary.lineage(sent_name, blob, sent_type, direction, title)]

    def _record_kept(self, files: Sequence[_Kept], notices: Sequence[Notice] = ()) -> None:
        """Record kept files in one transaction, then give the notices."""
        recorded = self._record([draft for file in files for draft in file.drafts])
        self._spooler.confirm(
            {sha256: source for file in files for sha256, source in file.content.items()}
        )
        self._notices.tell(
            recorded, [*(notice for file in files for notice in file.notices), *notices]
        )


class _Kept(NamedTuple):
    """A file or chart that was kept (``content``: by digest) or uploaded, and what to record."""

    content: dict[str, Path | bytes]
    drafts: list[Draft]
    notices: list[Notice]


def _elsewhere(
    name: str,
    how: tuple[str, Durability, OnJournalError],
    settings: Settings,
    metrics_writer: MetricsWriter | None,
    artifact_uploader: ArtifactUploader | None,
    lineage_artifact_tracker: LineageArtifactTracker | None,
) -> Tracker:
    """Rebuild a pickled tracker in the process that received it."""
    path, durability, on_journal_error = how
    journal = Journal.open(
        path, durability=durability, on_journal_error=on_journal_error, create=False, appending=True
    )
    tracker = Tracker(
        TrialComponent(journal, journal.component(name), name),
        metrics_writer,
        artifact_uploader,
        lineage_artifact_tracker,
        _settings=settings,
    )
    # -1 is no process's pid: this process does not end the run.
    tracker._owns_journal, tracker._pid = True, -1  # noqa: SLF001 - this module's own
    return tracker
