"""Record what a script logs of one trial component: parameters, metrics, artifacts and charts.

Validate → spool → append, of a component that exists in a journal. Must not know how a tracker is
made and ended, nor who delivers.

Invariant: a call either records all its arguments in one transaction, or raises and records
nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.tracking import shapes, validation
from journaltrack.tracking.drafts import Drafter
from journaltrack.tracking.settings import keys_in
from journaltrack.tracking.writers import JournalArtifactUploader, JournalMetricsWriter, Notices

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import SupportsIndex

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Direction, Draft
    from journaltrack.tracking.drafts import Kept
    from journaltrack.tracking.media import Media
    from journaltrack.tracking.settings import Settings
    from journaltrack.tracking.shapes import Named
    from journaltrack.tracking.trial_component import TrialComponent
    from journaltrack.tracking.validation import Moment, Number, Parameters
    from journaltrack.tracking.writers import (
        ArtifactUploader,
        LineageArtifactTracker,
        MetricsWriter,
        Notice,
    )


class RunLog:
    """Record the calls of one trial component.

    Args:
        trial_component: The component.
        settings: The tracker's.
        make_room: Frees room in the spool. Called with the journal's folder and the bytes needed.
        metrics_writer: Takes the metrics; None for the journal.
        artifact_uploader: Takes the files; None for the journal's spool.
        lineage_artifact_tracker: Takes the lineage of the files that a caller's own
            ``artifact_uploader`` took; None: nobody does.
    """

    def __init__(
        self,
        trial_component: TrialComponent,
        settings: Settings,
        make_room: Callable[[Path, int], int],
        metrics_writer: MetricsWriter | None,
        artifact_uploader: ArtifactUploader | None,
        lineage_artifact_tracker: LineageArtifactTracker | None,
    ) -> None:
        self._component = trial_component
        self._journal: Journal = trial_component.journal
        self._id: int = trial_component.component_id
        self._settings = settings
        self._journal_metrics = JournalMetricsWriter(
            trial_component, self._append, strict=settings.strict
        )
        self._metrics_writer: MetricsWriter = (
            self._journal_metrics if metrics_writer is None else metrics_writer
        )
        self._uploader = artifact_uploader
        self._lineage_tracker = lineage_artifact_tracker
        self._drafter = Drafter(
            trial_component,
            settings,
            keys_in(self._journal, self._id),
            JournalArtifactUploader(
                trial_component, make_room, settings.configuration.spool_max_bytes
            ),
            artifact_uploader,
            lineage_artifact_tracker,
        )
        self._notices = Notices()
        self._closed = False

    @property
    def trial_component(self) -> TrialComponent:
        """Return the component that is tracked. A tracker keeps it."""
        return self._component

    @property
    def closed(self) -> bool:
        """Return whether ``close`` was called, and nothing was logged since."""
        return self._closed

    def log_parameter(self, name: str, value: Any) -> None:  # noqa: ANN401 - anything has a str()
        """Record a parameter. The last value per name counts.

        Args:
            name: At most 320 characters on one line.
            value: Text, a number or None, also a NumPy scalar, or an array or tensor of one
                element. Booleans become "True" or "False", anything else its ``str()``. An integer
                that a double can't hold exactly (beyond 2^53) is text with all its digits:
                SageMaker's numbers are doubles. What SageMaker can't take, such as a text of more
                than 2,500 characters, goes into the artifact ``parameters.json``.

        Raises:
            InvalidInputError: AWS can never accept the name, or the value has no text.
        """
        given = [shapes.Named(name, value)]
        self._append(*self._drafter.parameters(given, "/", strict=True))

    def log_parameters(self, parameters: Parameters, *, separator: str = "/") -> None:
        """Record the parameters that are new or changed, in one transaction.

        Nested objects are taken apart: ``{"model": {"layers": 3}}`` is ``model/layers``. A list is
        one value. A value without text is left out, with a warning; see ``log_parameter``.

        Args:
            parameters: A mapping, an ``argparse.Namespace``, a dataclass, an attrs object, a
                configuration of OmegaConf, or an iterable of (name, value) pairs.
            separator: Joins the names of nested objects.

        Raises:
            InvalidTypeError: It is none of these.
            InvalidInputError: AWS can never accept a name, two values would have one name, or
                objects contain themselves. Of a strict tracker: or a value has no text.
        """
        self._log_named(shapes.flattened(parameters, separator), separator)

    def log_input(self, name: str, value: str, media_type: str | None = None) -> None:
        """Record an input artifact: a URI or other text. The last value per name counts.

        Args:
            name: At most 128 characters.
            value: At most 2,048 characters. A longer text is recorded, but not delivered.
            media_type: The media type, if you want to record it.
        """
        self._append(*self._drafter.reference("input", name, value, media_type))

    def log_output(self, name: str, value: str, media_type: str | None = None) -> None:
        """Record an output artifact: a URI or other text; see ``log_input``."""
        self._append(*self._drafter.reference("output", name, value, media_type))

    def set_tags(self, tags: Mapping[str, str] | Sequence[Mapping[str, str]]) -> None:
        """Add tags to the run, at any time. The last value per key counts.

        Args:
            tags: A dict, or a list as AWS takes it. A run has at most 50; keys have at most 128
                characters, values 256.

        Raises:
            InvalidTypeError: They are neither.
            InvalidInputError: AWS refuses a key or a value, or they are too many.
        """
        from journaltrack.tracking.annotation import tagging  # noqa: PLC0415 - few runs need it

        wanted = validation.tags(tags)
        if wanted:
            self._append(tagging(self.trial_component, wanted))

    def set_note(self, text: str) -> None:
        """Set the note of the run, at any time: text for people, which stays in the journal.

        Args:
            text: At most 10,000 characters; "" removes the note.

        Raises:
            InvalidTypeError: It is no text.
            InvalidInputError: It is too long.
        """
        self._append([vocabulary.note(validation.note(text))])

    def _repr_html_(self) -> str:
        """Show the run in a notebook, as the journal knows it."""
        from journaltrack.util.text import html_table  # noqa: PLC0415 - as above

        component = self.trial_component
        status = component.status
        return html_table(
            component.display_name or component.trial_component_name,
            {
                "run": component.trial_component_name,
                "journal": str(self._journal.path),
                "status": None if status is None else status.primary_status,
                **{f"tag {tag['Key']}": tag["Value"] for tag in component.tags or ()},
                **component.parameters,
            },
        )

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
        self._record_kept([self._drafter.file("output", file_path, name, media_type)])

    def log_input_artifact(
        self,
        file_path: str | os.PathLike[str],
        name: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Record a local file as an input artifact; see ``log_artifact``."""
        self._record_kept([self._drafter.file("input", file_path, name, media_type)])

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
        self._record_kept(*self._drafter.folder(direction, directory, media_type))

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
        """Record a point of several metrics, in one transaction; see ``log_metric``.

        A value that is no number is left out, with one warning per name, and the others are
        recorded. A strict tracker raises instead, and records nothing. A tuple of a mean and its
        standard deviation makes two points: ``name`` and ``name-std``.
        """
        if self._closed:
            self._reopen()
        if step is not None:
            iteration_number = validation.one_step(iteration_number, step)
        if type(metrics) is dict:
            points = list(metrics.items())
        else:
            # A name need not even be hashable.
            points = [
                (validation.key(name, "metric name", limits.METRIC_NAME_CHARS_MAX), value)
                for name, value in shapes.pairs(metrics, "metrics")
            ]
        if self._metrics_writer is not self._journal_metrics:
            for name, value in points:
                self._metrics_writer.log_metric(name, value, timestamp, iteration_number)
            return
        self._journal_metrics.log_metrics(points, timestamp, iteration_number)

    # -- figures, images, texts ------------------------------------------------------------

    def log_figure(
        self,
        figure: Any,  # noqa: ANN401 - of matplotlib or plotly
        name: str,
        *,
        step: SupportsIndex | None = None,
    ) -> None:
        """Record a figure as an output artifact, as it is now.

        Args:
            figure: Matplotlib's figure or axes, or plotly's figure.
            name: The artifact's name. Its suffix chooses the form: of matplotlib PNG (without one),
                SVG or PDF, of plotly JSON (without one) or HTML.
            step: The step that it belongs to. The figures of all steps are uploaded, each under
                its own name (``loss/step-000012.png``). The artifact is the last one.

        Raises:
            InvalidInputError: It can't be drawn in this form. Nothing was recorded.
            InvalidTypeError: It is no figure. Nothing was recorded.
        """
        from journaltrack.tracking import media  # noqa: PLC0415 - most runs have none

        self._record_media(media.figure(figure, name), step)

    def log_image(
        self,
        image: Any,  # noqa: ANN401 - of Pillow, or an array of any library
        name: str,
        *,
        step: SupportsIndex | None = None,
    ) -> None:
        """Record an image as an output artifact, as PNG.

        Args:
            image: Pillow's, or an array or tensor: height x width, with or without 1 to 4 channels
                behind or, of torch, in front. Integers from 0 to 255, floats from 0 to 1, or
                booleans.
            name: The artifact's name. Of Pillow's images, its suffix chooses the form.
            step: See ``log_figure``.

        Raises:
            InvalidInputError: It has another shape or other values. Nothing was recorded.
            InvalidTypeError: It is no image. Nothing was recorded.
        """
        from journaltrack.tracking import media  # noqa: PLC0415 - as above

        self._record_media(media.image(image, name), step)

    def log_text(self, text: str, name: str, *, step: SupportsIndex | None = None) -> None:
        """Record a text as an output artifact: a file in UTF-8.

        Args:
            text: The text.
            name: The artifact's name; without a suffix, ``.txt`` is added.
            step: See ``log_figure``.
        """
        from journaltrack.tracking import media  # noqa: PLC0415 - as above

        self._record_media(media.text(text, name), step)

    def log_dict(
        self,
        values: Any,  # noqa: ANN401 - a mapping, or what is nested like one
        name: str,
        *,
        step: SupportsIndex | None = None,
    ) -> None:
        """Record a mapping as an output artifact: a JSON document.

        Args:
            values: A mapping, namespace, dataclass or list, nested or not. What JSON lacks becomes
                text.
            name: The artifact's name. With the suffix ``.yaml`` it becomes YAML, by PyYAML.
            step: See ``log_figure``.

        Raises:
            InvalidInputError: It contains itself, or a value has no text. Nothing was recorded.
            MissingExtraError: PyYAML is not installed. Nothing was recorded.
        """
        from journaltrack.tracking import media  # noqa: PLC0415 - as above

        self._record_media(media.document(values, name), step)

    # -- charts ----------------------------------------------------------------------------

    def log_table(
        self,
        title: str | None,
        values: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] | None = None,
        data_frame: Any = None,  # noqa: ANN401 - pandas or polars
        output_artifact: bool = True,
    ) -> None:
        """Record a table. Give either ``values`` or ``data_frame``.

        What is missing, NaN or infinite becomes null.

        Args:
            title: The title.
            values: Lists of equal length, by the column's name. Or rows: a list of mappings.
            data_frame: A data frame.
            output_artifact: Whether the run produced the table. False: it used it.

        Raises:
            InvalidInputError: The columns do not fit together. Nothing was recorded.
            InvalidTypeError: It is no table. Nothing was recorded.
        """
        from journaltrack.tracking import charts, media  # noqa: PLC0415 - most runs have none

        named = charts.checked_title(title, "Table", time.time())
        chart = media.made(
            "the table",
            lambda: charts.table(named, media.rows_of(values) or values, data_frame),
        )
        self._record_kept([self._drafter.chart(chart, output_artifact)])

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
        self._record_kept([self._drafter.chart(chart, output_artifact)])

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
        self._record_kept(
            [self._drafter.chart(charts.roc_curve(y_true, y_score, named), output_artifact)]
        )

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
        self._record_kept(
            [self._drafter.chart(charts.confusion_matrix(y_true, y_pred, named), output_artifact)]
        )

    # -- inside ----------------------------------------------------------------------------

    def _reopen(self) -> None:
        """Record a call after ``close`` like any other."""
        self._closed = False

    def _record_media(self, media: Media, step: SupportsIndex | None) -> None:
        self._record_kept([self._drafter.media(media, validation.step(step))])

    def _log_named(self, given: Sequence[Named], separator: str = "/") -> None:
        strict = self._settings.strict
        self._append(*self._drafter.parameters(given, separator, strict=strict))

    def _set_parameters(self, values: Mapping[str, Any]) -> None:
        """Record parameters by name, all or none, also those that did not change."""
        self._append([self._drafter.parameter(name, value) for name, value in values.items()])

    def _log_references(self, direction: Direction, values: Mapping[str, Any]) -> None:
        """Record inputs or outputs by name, each a text or an artifact, all or none."""
        self._append(*self._drafter.references(direction, values))

    def _append(self, drafts: Sequence[Draft], notices: Sequence[Notice] = ()) -> None:
        """Record drafts in one transaction, then give the notices."""
        self._notices.tell(self._record(drafts), notices)

    def _record(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Record drafts in one transaction, and return them as recorded."""
        if self._closed:
            self._reopen()
        checked = self._drafter.limited(drafts)
        if self._settings.strict:
            self._notices.refuse(checked)
        if checked:
            # A pass keeps the parameters that SageMaker can't take in a file.
            recorded = [
                draft._replace(undeliverable=None)
                if draft.undeliverable is not None and vocabulary.is_for_file(draft)
                else draft
                for draft in checked
            ]
            self._write(recorded)
        self._drafter.recorded(checked)
        return checked

    def _write(self, drafts: Sequence[Draft]) -> None:
        """Append drafts to the journal in one transaction."""
        self._journal.append(self._id, drafts)

    def _record_kept(self, files: Sequence[Kept], notices: Sequence[Notice] = ()) -> None:
        """Record kept files in one transaction, then give the notices."""
        recorded = self._record([draft for file in files for draft in file.drafts])
        self._drafter.confirm(files)
        self._notices.tell(
            recorded, [*(notice for file in files for notice in file.notices), *notices]
        )
