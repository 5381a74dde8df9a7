"""Read and change a trial component, as the journal has it.

What was logged reads back as it was logged, also values that AWS could never accept. Below it is
what SageMaker held when the component was loaded. A change is a call of the tracker: an assignment
records an entry, or raises. Nothing is changed in memory alone.

The class methods are those of the original's ``TrialComponent``. They answer from the journal, and
add what SageMaker says if it answers in time.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from journaltrack import limits
from journaltrack.errors import ComponentNotFoundError, InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import (
    FieldValue,
    Place,
    Status,
    blob_of,
    in_order,
    merge_status,
    text_or_none,
    value_of,
)
from journaltrack.journal.queries import origins
from journaltrack.tracking import shapes, validation
from journaltrack.tracking.recording import (
    Recorder,
    Recording,
    items_of_pages,
    members_of,
    moment,
    ns_in,
    time_in,
)
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Direction
    from journaltrack.tracking.catalog import (
        TrialComponentSearchResult,
        TrialComponentSummary,
    )
    from journaltrack.tracking.experiments import TrialSummary
    from journaltrack.tracking.members import (
        TrialComponentArtifact,
        TrialComponentMetricSummary,
        TrialComponentSource,
        TrialComponentStatus,
    )
    from journaltrack.tracking.tracker import Tracker
    from journaltrack.tracking.validation import Moment, Parameters

STATUSES: Final = ("InProgress", "Completed", "Failed", "Stopping", "Stopped")
"""What SageMaker takes as a status."""


class TrialComponent:
    """A trial component. Every attribute reads the journal again.

    Assigning to ``parameters``, ``input_artifacts``, ``output_artifacts``, ``status``,
    ``start_time`` or ``end_time``, or to a name in one of the first three, records the new value,
    as the tracker's methods do. Names that an assigned dict lacks keep their values, as in
    SageMaker. All other attributes are read-only.

    Entries whose payload can't be decoded are skipped: the journal may be damaged or crafted.

    Args:
        journal: The journal that has it.
        component_id: Its id, from ``journal.component``.
        name: Its name.
        pending_alone: Read only what is not settled yet.

    Attributes:
        recorder: Records changes; None until a tracker tracks the component.
        elsewhere: Returns what other journals have of its metrics; None: this one has all.
    """

    __slots__ = (
        "__weakref__",
        "_name",
        "_pending_alone",
        "component_id",
        "elsewhere",
        "journal",
        "recorder",
    )

    def __init__(
        self, journal: Journal, component_id: int, name: str, *, pending_alone: bool = False
    ) -> None:
        self.journal = journal
        self.component_id = component_id
        self._name = name
        self._pending_alone = pending_alone
        self.recorder: Recorder | None = None
        self.elsewhere: Callable[[], Sequence[TrialComponentMetricSummary]] | None = None

    # -- the original's class methods --------------------------------------------------------

    @classmethod
    def create(
        cls,
        trial_component_name: str,
        display_name: str | None = None,
        tags: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        *,
        journal: str | os.PathLike[str] | Journal | None = None,
    ) -> TrialComponent:
        """Record a new component, offline; see ``Tracker.create``."""
        return (
            _tracker()
            .create(
                display_name,
                trial_component_name=trial_component_name,
                tags=tags,
                sagemaker_boto_client=sagemaker_boto_client,
                journal=journal,
            )
            .trial_component
        )

    @classmethod
    def load(
        cls,
        trial_component_name: str,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        *,
        journal: str | os.PathLike[str] | Journal | None = None,
    ) -> TrialComponent:
        """Return a component that exists; see ``Tracker.load``."""
        return (
            _tracker()
            .load(
                trial_component_name, sagemaker_boto_client=sagemaker_boto_client, journal=journal
            )
            .trial_component
        )

    @classmethod
    def list(
        cls,
        source_arn: str | None = None,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        trial_name: str | None = None,
        experiment_name: str | None = None,
        max_results: int | None = None,
        next_token: str | None = None,
        *,
        journal: str | os.PathLike[str] | Journal | None = None,
    ) -> Iterator[TrialComponentSummary]:
        """Yield summaries of the journal's components, and of SageMaker's if it answers in time.

        Args:
            source_arn: Only the component of this job.
            created_before: Only those created before this time.
            created_after: Only those created after this time.
            sort_by: "Name" or "CreationTime", the default.
            sort_order: "Ascending" or "Descending", the default.
            sagemaker_boto_client: Client for the question.
            trial_name: Only those of this trial.
            experiment_name: Only those of this experiment.
            max_results: SageMaker's page size. As in the original, all pages are read.
            next_token: Where SageMaker's answer begins.
            journal: See ``Tracker.create``.
        """
        from journaltrack.tracking import catalog  # noqa: PLC0415 - it imports this module

        members = {
            "SourceArn": source_arn,
            "CreatedBefore": created_before,
            "CreatedAfter": created_after,
            "SortBy": sort_by,
            "SortOrder": sort_order,
            "TrialName": trial_name,
            "ExperimentName": experiment_name,
            "MaxResults": max_results,
            "NextToken": next_token,
        }
        return catalog.components(catalog.Source(journal, sagemaker_boto_client), members)

    @classmethod
    def search(
        cls,
        search_expression: Any = None,  # noqa: ANN401 - the original's, or a dict
        sort_by: str | None = None,
        sort_order: str | None = None,
        max_results: int | None = None,
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        *,
        journal: str | os.PathLike[str] | Journal | None = None,
    ) -> Iterator[TrialComponentSearchResult]:
        """Yield the components that an expression fits, from the journal and from SageMaker.

        Args:
            search_expression: An object with ``to_boto()``, or a dict, as SageMaker's Search takes
                it. None: all components.
            sort_by: A property such as "Parameters.lr"; None: "LastModifiedTime".
            sort_order: "Ascending" or "Descending", the default.
            max_results: SageMaker's page size. As in the original, all pages are read.
            sagemaker_boto_client: Client for the question.
            journal: See ``Tracker.create``.

        Raises:
            InvalidInputError: The expression has an unknown operator.
            InvalidTypeError: It is no expression.
        """
        from journaltrack.tracking import catalog  # noqa: PLC0415 - as above

        members = {"SortBy": sort_by, "SortOrder": sort_order, "MaxResults": max_results}
        source = catalog.Source(journal, sagemaker_boto_client)
        return catalog.search(source, search_expression, members)

    # -- the original's methods --------------------------------------------------------------

    def save(self) -> None:
        """Deliver what is recorded, within the tracker's ``close_deadline_s``.

        Like ``Tracker.close`` it never raises for the network. The tracker stays open.

        Raises:
            JournalWriteError: The journal refuses entries.
        """
        self._recorder().save()

    def delete(self, force_disassociate: bool | None = None) -> dict[str, Any]:
        """Delete the component in SageMaker, now. The journal keeps all that was recorded.

        Nothing is deleted offline. What is still pending stays pending: a sync then holds the
        component, and says how to create it again.

        Args:
            force_disassociate: First remove it from its trials. Without that, SageMaker refuses to
                delete a component that is in one.

        Raises:
            ComponentNotFoundError: SageMaker has no such component.
            RemoteError: SageMaker could not be asked, or refuses.
        """
        ask, name = self._recorder().ask, self.trial_component_name
        component = {"TrialComponentName": name}
        if force_disassociate:
            for trial in items_of_pages(ask, "list_trials", component, "TrialSummaries"):
                place = {**component, "TrialName": trial["TrialName"]}
                ask("disassociate_trial_component", place)
        answer = ask("delete_trial_component", component)
        if not answer:
            raise ComponentNotFoundError(
                f"SageMaker has no trial component {name}; nothing was deleted",
                hint="the journal keeps what was recorded; the next sync delivers it",
            )
        return dict(answer)

    def list_trials(self) -> Iterator[TrialSummary]:
        """Yield the component's trials, from the journal, and from SageMaker if it answers."""
        from journaltrack.tracking import catalog, experiments  # noqa: PLC0415 - as above

        source = catalog.Source(self.journal, self.sagemaker_boto_client)
        return experiments.listed(source, "trial", {"TrialComponentName": self._name})

    # -- attributes --------------------------------------------------------------------------

    @property
    def trial_component_name(self) -> str:
        """Return the component's name."""
        return self._name

    @property
    def trial_component_arn(self) -> str | None:
        """Return the ARN; None until SageMaker confirmed the component."""
        row = self.journal.find(self._name)
        known = row.arn if row else None
        return known or text_or_none(self.held.get("TrialComponentArn"))

    @property
    def display_name(self) -> str | None:
        """Return the display name that was given to ``create``, or that SageMaker has."""
        names = [e.detail.get("display_name") for e in self.entries(vocabulary.CREATE)]
        given = next((name for name in reversed(names) if name), None)
        return given or text_or_none(self.held.get("DisplayName"))

    @display_name.setter
    def display_name(self, value: str | None) -> None:
        if value != self.display_name:
            raise InvalidInputError(
                f"the display name of {self._name} is part of its creation; nothing was changed",
                hint="give it to Tracker.create(display_name=...)",
            )

    @property
    def parameters(self) -> dict[str, str | float | None]:
        """Return the last value per name, also those that only ``parameters.json`` can hold."""
        return Recording(
            self._parameters,
            self._own_parameters,
            lambda new: self._recorder().parameters(new),
            "parameters",
        )

    @parameters.setter
    def parameters(self, value: Parameters) -> None:
        self.parameters.update(shapes.pairs(value, "parameters"))

    @property
    def input_artifacts(self) -> dict[str, TrialComponentArtifact]:
        """Return the last input per name."""
        return self._live_artifacts(vocabulary.INPUT)

    @input_artifacts.setter
    def input_artifacts(self, value: Mapping[str, Any]) -> None:
        self.input_artifacts.update(shapes.pairs(value, "input artifacts"))

    @property
    def output_artifacts(self) -> dict[str, TrialComponentArtifact]:
        """Return the last output per name."""
        return self._live_artifacts(vocabulary.OUTPUT)

    @output_artifacts.setter
    def output_artifacts(self, value: Mapping[str, Any]) -> None:
        self.output_artifacts.update(shapes.pairs(value, "output artifacts"))

    @property
    def status(self) -> TrialComponentStatus | None:
        """Return the last status; None if none was set."""
        status = self._status()
        from journaltrack.tracking.members import TrialComponentStatus  # noqa: PLC0415 - see there

        return TrialComponentStatus(status.primary, status.message) if status.primary else None

    @status.setter
    def status(self, value: object) -> None:
        primary = getattr(value, "primary_status", value)
        message = validation.optional_text(getattr(value, "message", None), "the status message")
        if primary not in STATUSES:
            known = ", ".join(STATUSES)
            raise InvalidInputError(
                f"status is {limits.shown(str(primary))}; it is one of {known}; nothing was changed"
            )
        text = None if message is None else limits.one_line(message) or None
        self._recorder().status(vocabulary.status(primary=primary, message=text))

    @property
    def start_time(self) -> datetime | None:
        """Return when the run started, in UTC."""
        return moment(self._status().start_ns)

    @start_time.setter
    def start_time(self, value: Moment) -> None:
        start_ns = validation.timestamp_ns(value)
        self._recorder().status(vocabulary.status(start_ns=start_ns))

    @property
    def end_time(self) -> datetime | None:
        """Return when the run ended, in UTC."""
        return moment(self._status().end_ns)

    @end_time.setter
    def end_time(self, value: Moment) -> None:
        end_ns = validation.timestamp_ns(value)
        self._recorder().status(vocabulary.status(end_ns=end_ns))

    @property
    def tags(self) -> builtins.list[dict[str, str]] | None:
        """Return the tags that were recorded, as AWS takes them; None if there are none.

        Those of ``create`` and of ``set_tags``. SageMaker does not describe a component's tags.
        """
        given = [e.detail.get("tags") for e in self.entries(vocabulary.CREATE)]
        created = next((tags for tags in reversed(given) if isinstance(tags, dict) and tags), {})
        known = {**created}
        for entry in self.entries(vocabulary.TAGS):
            known |= vocabulary.tags_of(entry)
        return [{"Key": key, "Value": str(text)} for key, text in known.items()] or None

    @property
    def metrics(self) -> builtins.list[TrialComponentMetricSummary]:
        """Return a summary of each metric. The time grows with the points.

        With a mirror, it counts what other journals of the mirror had of the run when this was read
        first.
        """
        from journaltrack.tracking import members  # noqa: PLC0415 - see there

        # First: it may bring what other nodes logged into this journal.
        others = [] if self.elsewhere is None else self.elsewhere()
        own = members.metric_summaries(self.journal, self.component_id).get(self.component_id, [])
        return members.summed_up([*own, *others]) if others else own

    @property
    def source(self) -> TrialComponentSource | None:
        """Return the job that SageMaker made the component for, as far as that is known."""
        from journaltrack.tracking.members import TrialComponentSource  # noqa: PLC0415 - see there

        source = self.held.get("Source")
        if not isinstance(source, dict):
            return None
        arn, kind = source.get("SourceArn"), source.get("SourceType")
        return TrialComponentSource(text_or_none(arn), text_or_none(kind))

    @property
    def creation_time(self) -> datetime | None:
        """Return when SageMaker created the component, else when this journal did."""
        if "CreationTime" in self.held or not self.entries(vocabulary.CREATE):
            return time_in(self.held, "CreationTime")
        sql = "SELECT created_at_ns FROM component WHERE id = ?"
        ((created_at_ns,),) = self.journal.database.read(sql, (self.component_id,))
        return moment(created_at_ns if isinstance(created_at_ns, int) else None)

    @property
    def last_modified_time(self) -> datetime | None:
        """Return when SageMaker's component was last changed, as of the look-up."""
        return time_in(self.held, "LastModifiedTime")

    @property
    def sagemaker_boto_client(self) -> Any:  # noqa: ANN401 - boto3 has no types of its own
        """Return the client that was given to ``create`` or ``load``, or None."""
        return self.recorder and self.recorder.client

    @property
    def created_by(self) -> None:
        """Return None: journals do not keep who made a component in SageMaker."""

    last_modified_by = created_by
    parameters_to_remove = created_by
    input_artifacts_to_remove = created_by
    output_artifacts_to_remove = created_by

    # -- reading -----------------------------------------------------------------------------

    @property
    def held(self) -> Mapping[str, Any]:
        """Return what SageMaker held when the component was loaded, see ``held_of``."""
        if self._pending_alone:
            return {}
        found = [e.detail.get("held") for e in self.entries(vocabulary.LOAD)]
        return next((held for held in reversed(found) if isinstance(held, dict)), {})

    def entries(self, kind: str) -> builtins.list[vocabulary.Entry]:
        """Return entries in the order in which they were recorded.

        In a merged journal this is not the order of ``seq``.
        """
        found = [
            e
            for e in self.journal.state_entries(self.component_id)
            if e.kind == kind and _is_readable(e)
        ]
        if self._pending_alone and found:
            sql = "SELECT seq FROM delivery WHERE seq IN (SELECT value FROM json_each(?))"
            asked = json.dumps([e.seq for e in found])
            settled = {seq for (seq,) in self.journal.database.read(sql, (asked,))}
            found = [e for e in found if e.seq not in settled]
        origin = origins(self.journal.database.read).get
        return in_order(
            found, [Place(n, e.recorded_at_ns, origin(e.writer_id, 0)) for n, e in enumerate(found)]
        )

    def _recorder(self) -> Recorder:
        if self.recorder is None:
            # A tracker makes itself the recorder of its component.
            _tracker()(self)
        return cast("Recorder", self.recorder)

    def _parameters(self) -> dict[str, str | float | None]:
        held = {
            name: number_or_text
            for name, value in members_of(self.held, "Parameters")
            for number_or_text in [value.get("StringValue", value.get("NumberValue"))]
            if isinstance(number_or_text, (str, int, float))
        }
        return {**held, **self._own_parameters()}

    def _own_parameters(self) -> dict[str, str | float | None]:
        return {
            entry.name or "": vocabulary.parameter_of(entry)
            for entry in self.entries(vocabulary.PARAMETER)
        }

    def _live_artifacts(self, kind: Direction) -> dict[str, TrialComponentArtifact]:
        def record(new: Mapping[str, Any]) -> None:
            """Record what a script put into the mapping."""
            self._recorder().references(kind, new)

        return Recording(
            lambda: self._artifacts(kind),
            lambda: self._own_artifacts(kind),
            record,
            f"{kind} artifacts",
        )

    def _artifacts(self, kind: Direction) -> dict[str, TrialComponentArtifact]:
        from journaltrack.tracking.members import TrialComponentArtifact  # noqa: PLC0415 - as above

        of_held = "InputArtifacts" if kind == vocabulary.INPUT else "OutputArtifacts"
        held = {
            name: TrialComponentArtifact(value["Value"], text_or_none(value.get("MediaType")))
            for name, value in members_of(self.held, of_held)
            if isinstance(value.get("Value"), str)
        }
        return {**held, **self._own_artifacts(kind)}

    def _own_artifacts(self, kind: Direction) -> dict[str, TrialComponentArtifact]:
        from journaltrack.tracking.members import TrialComponentArtifact  # noqa: PLC0415 - as above

        artifacts: dict[str, TrialComponentArtifact] = {}
        uris: dict[tuple[object, ...], str] | None = None
        for entry in self.entries(kind):
            detail = entry.detail
            value = detail.get("value")
            if not isinstance(value, str):
                if not isinstance(detail.get("sha256"), str):
                    continue
                # This checks the digest: a crafted one could name a file outside the spool.
                blob = blob_of(entry)
                uris = self._uris() if uris is None else uris
                place = (blob.sha256, blob.bucket or "", blob.prefix or "")
                value = uris.get(place, self._spooled(blob.sha256))
            artifacts[entry.name or ""] = TrialComponentArtifact(value, detail.get("media_type"))
        return artifacts

    def blob_at(self, path: str) -> vocabulary.BlobRef | None:
        """Return the file of this component that has this path in the spool, or None."""
        for entry in (*self.entries(vocabulary.INPUT), *self.entries(vocabulary.OUTPUT)):
            # A crafted digest names no file.
            with contextlib.suppress(ValueError):
                if (
                    "sha256" in entry.detail
                    and self._spooled((blob := blob_of(entry)).sha256) == path
                ):
                    return blob
        return None

    def _spooled(self, sha256: str) -> str:
        return str(self.journal.path / paths.SPOOL / sha256[:2] / sha256)

    def _uris(self) -> dict[tuple[object, ...], str]:
        """Return where the component's files are in S3, by digest, bucket and prefix."""
        sql = "SELECT sha256, bucket, prefix, uri FROM location WHERE component_id = ?"
        rows = self.journal.database.read(sql, (self.component_id,))
        return {tuple(blob): uri for *blob, uri in rows if isinstance(uri, str)}

    def _status(self) -> Status:
        held = self.held.get("Status")
        known = held if isinstance(held, dict) else {}
        merged: FieldValue = Status(
            text_or_none(known.get("PrimaryStatus")),
            text_or_none(known.get("Message")),
            ns_in(self.held, "StartTime"),
            ns_in(self.held, "EndTime"),
        )
        for entry in self.entries(vocabulary.STATUS):
            # A crafted journal may have impossible times.
            with contextlib.suppress(ValueError):
                merged = merge_status(merged, value_of(entry))
        return merged if isinstance(merged, Status) else Status()

    def __str__(self) -> str:
        """Return the name, so that other libraries take the component for it."""
        return self._name

    def __repr__(self) -> str:
        return f"TrialComponent({self._name!r}, journal={str(self.journal.path)!r})"


def _tracker() -> type[Tracker]:
    """Return the class that records: it imports this module."""
    from journaltrack.tracking.tracker import Tracker  # noqa: PLC0415

    return Tracker


def _is_readable(entry: vocabulary.Entry) -> bool:
    try:
        return entry.unsound is None and isinstance(entry.detail, dict)
    except ValueError:
        return False
