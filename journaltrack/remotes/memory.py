"""A remote in memory, for tests of code that uses journaltrack and for experiments.

It needs no network, merges per key and enforces the limits of ``limits.py``. It keeps metric points
as a list, so that duplicates show. It passes the same contract tests as ``aws.remote``.
"""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from statistics import fmean
from typing import Any

from journaltrack import limits
from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal.fold import Artifact, Status, merge_status
from journaltrack.journal.groups import Declared, Group, GroupKind, laid_over, problem_of
from journaltrack.journal.sqlite import files
from journaltrack.remotes.upload_notes import DEFAULT_PREFIX
from journaltrack.replay.evidence.readback import ReadBack, Shown
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from journaltrack.replay.remote import (
    SAGEMAKER,
    Answer,
    ArtifactLink,
    BlobUpload,
    Capabilities,
    Document,
    Linked,
    Refusal,
    RemoteComponent,
    RemoteMetric,
    RemoteObject,
)

DEFAULT_BUCKET = "memory"


@dataclass(slots=True)
class MemoryComponent:
    """A component and everything that it received."""

    spec: ComponentSpec
    parameters: dict[str, str | float] = field(default_factory=dict)
    input_artifacts: dict[str, Artifact] = field(default_factory=dict)
    output_artifacts: dict[str, Artifact] = field(default_factory=dict)
    status: Status | None = None
    points: list[MetricPoint] = field(default_factory=list)
    trials: list[tuple[str | None, str | None]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class MemoryRemote:
    """Implements ``journaltrack.replay.remote.Remote``.

    Attributes:
        components: By lower-case name.
        objects: SHA-256 of uploaded blobs, by URI.
        stored: Contents of documents, by URI.
        sizes: Sizes of uploaded blobs in bytes, by URI.
        artifacts: Name and type of lineage artifacts, by the URI of their source.
        associations: (component's name in lower case, URI of the artifact, whether the component
            produced it).
        groups: Experiments and trials, by kind and lower-case name.

    Args:
        can: What it can do: it keeps repeated points once if this says so.
    """

    def __init__(self, can: Capabilities = SAGEMAKER) -> None:
        self.can = can
        self.components: dict[str, MemoryComponent] = {}
        self.objects: dict[str, str] = {}
        self.stored: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.artifacts: dict[str, tuple[str, str]] = {}
        self.associations: set[tuple[str, str, bool]] = set()
        self.groups: dict[tuple[GroupKind, str], Group] = {}
        self._requests = 0
        self._lock = threading.Lock()

    def describe(self, component: str) -> RemoteComponent | None:
        """Return copies of what is held of the component."""
        with self._lock:
            request_id = self._request_id()
            held = self.components.get(component.lower())
            if held is None:
                return None
            return RemoteComponent(
                held.spec.name,
                _arn(held.spec.name),
                held.spec.owner,
                held.spec.display_name,
                dict(held.parameters),
                dict(held.input_artifacts),
                dict(held.output_artifacts),
                held.status,
                request_id,
                _summaries(held.points),
            )

    def call(self, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """Describe or delete a component, as ``AwsRemote.call`` does.

        Raises:
            RemoteError: It is another operation. Then journals answer alone.
        """
        name = str(members.get("TrialComponentName", ""))
        held = self.describe(name)
        if operation == "delete_trial_component":
            with self._lock:
                self.components.pop(name.lower(), None)
            return {} if held is None else {"TrialComponentArn": held.arn}
        if operation != "describe_trial_component":
            text = f"the remote in memory has no {operation}"
            raise RemoteError(text, kind=ErrorKind.TRANSIENT, code="NotInMemory")
        return {} if held is None else _described(held)

    def create(self, spec: ComponentSpec) -> Answer:
        """Create the component if SageMaker would take its names."""
        problem = limits.name_problem(spec.name, "trial component name") or (
            limits.name_problem(spec.display_name, "display name")
            if spec.display_name is not None
            else None
        )
        with self._lock:
            request_id = self._request_id()
            if problem:
                raise _refused(problem, request_id)
            if spec.name.lower() in self.components:
                msg = f"a component named {spec.name} already exists"
                raise AlreadyExistsError(
                    msg, kind=ErrorKind.HOLD, code="AlreadyExists", request_id=request_id
                )
            self.components[spec.name.lower()] = MemoryComponent(spec, tags=dict(spec.tags))
            return Answer(request_id, arn=_arn(spec.name))

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Note the association. Without an experiment's name, the trial need not exist."""
        with self._lock:
            request_id = self._request_id()
            self._held(component, request_id).trials.append((experiment, trial))
            if experiment is not None:
                its_trial = trial or limits.default_trial(experiment)
                self._keep(Group("experiment", experiment))
                self._keep(Group("trial", its_trial, experiment))
            return Answer(request_id)

    def disassociate(self, component: str, trial: str) -> Answer:
        """Remove what was noted of the trial."""
        with self._lock:
            request_id = self._request_id()
            held = self._held(component, request_id)
            held.trials = [each for each in held.trials if _trial_of(*each) != trial.lower()]
            return Answer(request_id)

    def add_tags(self, component: str, tags: Mapping[str, str | None]) -> Answer:
        """Keep the tags if SageMaker would take them."""
        with self._lock:
            request_id = self._request_id()
            held = self._held(component, request_id)
            wanted = {**held.tags, **{k: v for k, v in tags.items() if v is not None}}
            problem = limits.tags_problem(wanted)
            if problem:
                raise _refused(problem, request_id)
            held.tags = wanted
            return Answer(request_id)

    def tags(self, component: str) -> Mapping[str, str] | None:
        """Return copies of the tags."""
        with self._lock:
            held = self.components.get(component.lower())
            return None if held is None else dict(held.tags)

    def declare(self, declared: Declared) -> Answer:
        """Keep the experiment or trial, and what is set on it."""
        with self._lock:
            request_id = self._request_id()
            group = declared.make
            problem = problem_of(group)
            if problem:
                raise _refused(problem, request_id)
            if group.experiment is not None:
                self._keep(Group("experiment", group.experiment))
            is_new = (group.kind, group.name.lower()) not in self.groups
            held = self._keep(group)
            if group.experiment and str(held.experiment).lower() != group.experiment.lower():
                text = f"the trial {group.name} belongs to the experiment {held.experiment}"
                raise _refused(text, request_id)
            if not is_new and declared.change is not None:
                changed = laid_over(held, replace(declared.change, experiment=None))
                if problem := problem_of(changed):
                    raise _refused(problem, request_id)
                self.groups[group.kind, group.name.lower()] = changed
            return Answer(request_id, arn=f"arn:memory:{group.kind}/{held.name}")

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Return what is kept of it."""
        with self._lock:
            self._request_id()
            held = self.groups.get((kind, name.lower()))
            return held if held is None or tags else replace(held, tags=())

    def trials(self, component: str) -> frozenset[str] | None:
        """Return the trials that were noted."""
        with self._lock:
            self._request_id()
            held = self.components.get(component.lower())
            if held is None:
                return None
            return frozenset(_trial_of(*each) for each in held.trials if any(each))

    def _keep(self, group: Group) -> Group:
        return self.groups.setdefault((group.kind, group.name.lower()), group)

    def upload(self, blob: BlobUpload) -> Answer:
        """Read the file, and keep its digest and size instead of its bytes."""
        with self._lock:
            request_id = self._request_id()
            try:
                with (
                    files.opened_blob(blob.path) as descriptor,
                    open(descriptor, "rb", closefd=False) as file,
                ):
                    content = file.read()
                    found = hashlib.sha256(content).hexdigest()
            except (OSError, ValueError) as error:
                text = f"{blob.path} is not there: {error}"
                raise RemoteError(
                    text, kind=ErrorKind.PERMANENT, code="BlobMissing", request_id=request_id
                ) from error
            if found != blob.sha256 or len(content) > blob.size_bytes:
                text = f"{blob.path} is damaged"
                raise RemoteError(
                    text, kind=ErrorKind.PERMANENT, code="BlobDamaged", request_id=request_id
                )
            uri = _folder_uri(blob.bucket, blob.prefix or None, blob.component) + blob.name
            if self.objects.get(uri, blob.sha256) != blob.sha256:
                stem, extension = posixpath.splitext(uri)
                uri = f"{stem}.{blob.sha256[:12]}{extension}"
            self.objects[uri] = blob.sha256
            self.sizes[uri] = len(content)
            return Answer(request_id, uri=uri)

    def link(self, link: ArtifactLink) -> Answer:
        """Keep the artifact and its association."""
        with self._lock:
            request_id = self._request_id()
            self._held(link.component, request_id)
            problem = limits.name_problem(link.name, "artifact name") or limits.text_problem(
                link.artifact_type, "artifact type", limits.LINEAGE_TYPE_CHARS_MAX
            )
            if problem or self.objects.get(link.uri) != link.sha256:
                raise _refused(problem or f"{link.uri} is not the uploaded content", request_id)
            self.artifacts.setdefault(link.uri, (link.name, link.artifact_type))
            self.associations.add((link.component.lower(), link.uri, link.is_output))
            return Answer(request_id)

    def linked(self, link: ArtifactLink) -> Linked:
        """Return what is kept of them."""
        with self._lock:
            request_id = self._request_id()
            association = (link.component.lower(), link.uri, link.is_output)
            return Linked(link.uri in self.artifacts, association in self.associations, request_id)

    def put_document(self, document: Document) -> Answer:
        """Keep the document, unless something has its name."""
        with self._lock:
            request_id = self._request_id()
            uri = _folder_uri(document.bucket, document.prefix, document.folder) + document.name
            self.stored.setdefault(uri, document.content)
            return Answer(request_id, uri=uri)

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> Mapping[str, bytes]:
        """Return the documents of a folder, by name."""
        with self._lock:
            self._request_id()
            begin = _folder_uri(bucket, prefix, folder)
            return {
                uri.removeprefix(begin): content
                for uri, content in self.stored.items()
                if uri.startswith(begin)
            }

    def document_names(
        self, bucket: str | None, prefix: str | None, folder: str, after: str
    ) -> Sequence[str]:
        """Return the names in a folder that sort after ``after``."""
        return sorted(name for name in self.documents(bucket, prefix, folder) if name > after)

    def document(
        self, bucket: str | None, prefix: str | None, folder: str, name: str
    ) -> bytes | None:
        """Return the document of this name, or None."""
        return self.documents(bucket, prefix, folder).get(name)

    def update(self, component: str, fields: Fields) -> Answer:
        """Merge the fields per key, as SageMaker does."""
        with self._lock:
            request_id = self._request_id()
            held = self._held(component, request_id)
            problem = _fields_problem(held, fields)
            if problem:
                raise _refused(problem, request_id)
            held.parameters.update(fields.parameters)
            held.input_artifacts.update(fields.input_artifacts)
            held.output_artifacts.update(fields.output_artifacts)
            if fields.status is not None:
                status = merge_status(held.status, fields.status)
                held.status = status if isinstance(status, Status) else fields.status
            return Answer(request_id, arn=_arn(held.spec.name))

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Append the points. Refuse each one that SageMaker would refuse."""
        with self._lock:
            request_id = self._request_id()
            held = self._held(component, request_id)
            most = self.can.points_max
            if not 1 <= len(points) <= most:
                raise _refused(f"a request takes 1 to {most} points, not {len(points)}", request_id)
            refused = {}
            known = set(held.points) if self.can.repeatable else set()
            for index, point in enumerate(points):
                finite = point.value if math.isfinite(point.value) else None
                problem = limits.text_problem(
                    point.name, "metric name", limits.METRIC_NAME_CHARS_MAX
                )
                problem = problem or limits.number_problem(finite, "the value")
                if problem:
                    refused[index] = Refusal("VALIDATION_ERROR", problem, permanent=True)
                elif point not in known:
                    held.points.append(point)
            return Answer(request_id, refused=refused)

    def points(self, component: str, name: str) -> list[MetricPoint]:
        """Return copies of a metric's points."""
        with self._lock:
            held = self._held(component, self._request_id())
            return [point for point in held.points if point.name == name]

    def read_metrics(self, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
        """Return counts and means of the points, at once complete."""
        with self._lock:
            request_id = self._request_id()
            held = self.components.get(component.lower())
            if held is None:
                return None
            by_name: dict[str, list[float]] = defaultdict(list)
            by_step: dict[tuple[str, int], list[float]] = defaultdict(list)
            for point in held.points:
                by_name[point.name].append(point.value)
                first, last = steps.get(point.name, (1, 0))
                if point.step is not None and first <= point.step <= last:
                    by_step[point.name, point.step].append(point.value)
            return ReadBack(
                {name: Shown(len(values), fmean(values)) for name, values in by_name.items()},
                {step: Shown(len(values), fmean(values)) for step, values in by_step.items()},
                frozenset(steps),
                request_id,
                owner=held.spec.owner,
            )

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:  # noqa: ARG002
        """Return the object at a URI. Its digest is at hand without reading."""
        with self._lock:
            request_id = self._request_id()
            if not re.match("s3://[^/]+/.", uri):
                raise _refused(f"{limits.shown(uri)} is no URI of this remote", request_id)
            sha256 = self.objects.get(uri)
            return (
                None
                if sha256 is None
                else RemoteObject(self.sizes.get(uri, 0), sha256, sha256, request_id)
            )

    def close(self) -> None:
        """Give up nothing: what it holds can be looked at afterwards."""

    def _held(self, component: str, request_id: str) -> MemoryComponent:
        held = self.components.get(component.lower())
        if held is None:
            msg = f"there is no component {component}"
            raise ComponentMissingError(
                msg, kind=ErrorKind.HOLD, code="ResourceNotFound", request_id=request_id
            )
        return held

    def _request_id(self) -> str:
        self._requests += 1
        return f"memory-{self._requests}"


def _trial_of(experiment: str | None, trial: str | None) -> str:
    return (trial or limits.default_trial(experiment or "")).lower()


def _fields_problem(held: MemoryComponent, fields: Fields) -> str | None:
    """Return why SageMaker would refuse the update, or None."""
    if len(held.parameters.keys() | fields.parameters.keys()) > limits.PARAMETERS_MAX:
        return f"a component has at most {limits.PARAMETERS_MAX} parameters"
    for name, value in fields.parameters.items():
        problem = limits.text_problem(name, "parameter name", limits.PARAMETER_KEY_CHARS_MAX)
        if isinstance(value, str):
            problem = problem or limits.text_problem(
                value, "value", limits.PARAMETER_STRING_CHARS_MAX, chars_min=0
            )
        else:
            problem = problem or limits.number_problem(
                value if math.isfinite(value) else None, "the value"
            )
        if problem:
            return problem
    both = (
        (held.input_artifacts, fields.input_artifacts),
        (held.output_artifacts, fields.output_artifacts),
    )
    for there, new in both:
        if len(there.keys() | new.keys()) > limits.ARTIFACTS_MAX:
            return f"a component has at most {limits.ARTIFACTS_MAX} artifacts each way"
        for name, artifact in new.items():
            problem = limits.text_problem(name, "artifact name", limits.ARTIFACT_KEY_CHARS_MAX)
            problem = problem or limits.text_problem(
                artifact.value, "value", limits.ARTIFACT_VALUE_CHARS_MAX
            )
            if not problem and artifact.media_type:
                problem = limits.media_type_problem(artifact.media_type)
            if problem:
                return problem
    return None


def _folder_uri(bucket: str | None, prefix: str | None, folder: str) -> str:
    """Return the URI of a folder; the prefix "" is the bucket's root."""
    begin = DEFAULT_PREFIX if prefix is None else prefix
    return f"s3://{bucket or DEFAULT_BUCKET}/{begin}{'/' if begin else ''}{folder}/"


def _summaries(points: Sequence[MetricPoint]) -> dict[str, RemoteMetric]:
    by_name: dict[str, list[float]] = defaultdict(list)
    for point in points:
        by_name[point.name].append(point.value)
    return {
        name: RemoteMetric(len(values), min(values), max(values), values[-1], fmean(values))
        for name, values in by_name.items()
    }


def _described(held: RemoteComponent) -> dict[str, Any]:
    """Return a component as DescribeTrialComponent does."""
    status = held.status or Status()
    times = {"StartTime": status.start_ns, "EndTime": status.end_ns}
    return {
        "TrialComponentName": held.name,
        "TrialComponentArn": held.arn,
        "DisplayName": held.display_name or held.name,
        **({"Status": {"PrimaryStatus": status.primary}} if status.primary else {}),
        **{
            name: datetime.fromtimestamp(at_ns / 1e9, timezone.utc)
            for name, at_ns in times.items()
            if at_ns is not None
        },
        "Parameters": {
            name: {"StringValue" if isinstance(value, str) else "NumberValue": value}
            for name, value in held.parameters.items()
        },
        "InputArtifacts": {name: {"Value": a.value} for name, a in held.input_artifacts.items()},
        "OutputArtifacts": {name: {"Value": a.value} for name, a in held.output_artifacts.items()},
    }


def _arn(name: str) -> str:
    return f"arn:memory:trial-component/{name.lower()}"


def _refused(problem: str, request_id: str) -> RemoteError:
    return RemoteError(
        problem, kind=ErrorKind.PERMANENT, code="ValidationException", request_id=request_id
    )
