"""Send single requests to SageMaker and S3 through boto3, and classify their errors.

This module decides nothing and retries nothing. The limits and merge rules that it relies on are
AWS's own (botocore's service models; UpdateTrialComponent: "existing parameters are kept, those
with an identical key are replaced"). Another endpoint need not merge per key: moto replaces whole
maps. There, an update reads the component, merges here, and writes the whole.

What a service shows of metrics are aggregates (counts and means): summaries come from
DescribeTrialComponent, single steps from BatchGetMetrics. AWS does not document that they are
complete at once; the module ``journaltrack.replay.evidence.readback`` says what they prove.
Endpoints or permissions without BatchGetMetrics give only the summaries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal.fold import Artifact, Status
from journaltrack.remotes.aws.clients import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Clients
from journaltrack.remotes.aws.errors import (
    SAFE_TO_REPEAT,
    classified,
    is_of_parsing,
    not_found,
)
from journaltrack.remotes.aws.groups import Groups
from journaltrack.remotes.aws.lineage import Lineage
from journaltrack.remotes.aws.metrics import MetricsSender, utc
from journaltrack.remotes.aws.s3 import Uploader
from journaltrack.remotes.rate_limit import RateLimit
from journaltrack.replay.evidence.readback import ReadBack, Shown
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from journaltrack.replay.remote import (
    SAGEMAKER,
    Answer,
    ArtifactLink,
    BlobUpload,
    Document,
    Linked,
    Refusal,
    RemoteComponent,
    RemoteMetric,
)
from journaltrack.util.config import Storage
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from types import TracebackType

    from journaltrack.journal.groups import Declared, Group, GroupKind
    from journaltrack.remotes.aws.access import Access, Wanted
    from journaltrack.remotes.aws.objects import Objects
    from journaltrack.replay.remote import Capabilities, RemoteObject

logger = logging.getLogger(__name__)

UPLOADS_IN_FLIGHT: Final = 16
"""Ours: uploads at a time. They are bound by bandwidth and memory, other requests by latency."""
_PERMANENT_CODES: Final = frozenset({"METRIC_LIMIT_EXCEEDED", "VALIDATION_ERROR"})
_OWNER_PREFIX: Final = "journaltrack:"
"""Prefix of the owner in a component's MetadataProperties.GeneratedBy."""
_QUERIES_MAX: Final = 100
"""Queries in one BatchGetMetrics request (``MetricQueryList``).

A metric takes two: counts and means.
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class AwsRemote:
    """Implements ``journaltrack.replay.remote.Remote`` with boto3. Threads may share it.

    Args:
        session: A ``boto3.Session`` to use.
        sagemaker_client: A client to use for SageMaker.
        profile: Profile of the AWS configuration.
        region: AWS region.
        endpoint_url: One endpoint for all services.
        deadline: Bounds the time-outs and cuts an upload short.
        concurrency: Requests that will be in flight.
        merges_per_key: Whether the service merges updates. None: only AWS's own endpoint does.
        connect_timeout_s: Seconds to establish a connection.
        read_timeout_s: Seconds that a server may be silent.
        rate_limit: Bounds requests per second, together with all remotes that share it.
        attended: Whether a person can be asked for an MFA code.
        storage: Storage options of uploads.
        create_buckets: Whether to create a bucket that is missing.
        create_experiments: Whether to create experiments and trials that are missing.
        can: What it is used for of what SageMaker can do.
    """

    def __init__(
        self,
        *,
        session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        sagemaker_client: Any = None,  # noqa: ANN401
        profile: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        deadline: Deadline | None = None,
        concurrency: int = 96,
        merges_per_key: bool | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        rate_limit: RateLimit | None = None,
        attended: bool = False,
        storage: Storage | None = None,
        create_buckets: bool = True,
        create_experiments: bool = True,
        can: Capabilities = SAGEMAKER,
    ) -> None:
        self.can = can
        deadline = deadline or Deadline()
        self._clients = Clients(
            session=session,
            sagemaker_client=sagemaker_client,
            profile=profile,
            region=region,
            endpoint_url=endpoint_url,
            deadline=deadline,
            connections=concurrency,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            rate_limit=rate_limit,
            attended=attended,
        )
        self._metrics = MetricsSender(self._clients)
        self._uploader = Uploader(
            self._clients, deadline, storage or Storage(), create_buckets=create_buckets
        )
        self._lineage = Lineage(self._clients, self._uploader, self._find)
        self._groups = Groups(self._clients, creates=create_experiments)
        self._merges_per_key = merges_per_key
        # Components created here and not updated since: nothing to merge with.
        self._created: set[str] = set()
        self._lock = threading.Lock()
        self._uploading = threading.BoundedSemaphore(UPLOADS_IN_FLIGHT)

    def close(self) -> None:
        """Close the connections. Requests under way end by themselves."""
        self._metrics.close()
        self._clients.close()

    def describe(self, component: str) -> RemoteComponent | None:
        """Send DescribeTrialComponent."""
        with _classifying(component):
            try:
                answer = self._clients.sagemaker.describe_trial_component(
                    TrialComponentName=component
                )
            except ClientError as error:
                if not_found(error):
                    return None
                raise
        return _component(component, answer)

    def call(self, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """Make one request of SageMaker that no entry stands for, such as a list.

        Args:
            operation: boto3's name of it: "list_trials".
            members: The request's.

        Returns:
            The answer's members; empty if SageMaker says that something named does not exist.
        """
        with _classifying(None):
            try:
                answer = getattr(self._clients.sagemaker, operation)(**members)
            except ClientError as error:
                if not_found(error):
                    return {}
                raise
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    def objects(
        self, bucket: str, prefix: str, repeat: Callable[[Callable[[], Any]], Any]
    ) -> Objects:
        """Return the place of a dataset; see the module ``objects``."""
        from journaltrack.remotes.aws.objects import Objects  # noqa: PLC0415 - few export

        return Objects(self._uploader, bucket, prefix, repeat)

    def access(self, wanted: Wanted) -> Access:
        """Tell what these credentials may do; see the module ``access``."""
        from journaltrack.remotes.aws.access import Examination  # noqa: PLC0415 - passes don't ask

        return Examination(self._clients, self._uploader, wanted).run()

    def create(self, spec: ComponentSpec) -> Answer:
        """Send CreateTrialComponent."""
        request: dict[str, Any] = {
            "TrialComponentName": spec.name,
            "MetadataProperties": {"GeneratedBy": _OWNER_PREFIX + spec.owner},
        }
        if spec.display_name is not None:
            request["DisplayName"] = spec.display_name
        if spec.tags:
            request["Tags"] = [{"Key": key, "Value": value} for key, value in spec.tags]
        with _classifying(spec.name):
            answer = self._clients.sagemaker.create_trial_component(**request)
        with self._lock:
            self._created.add(spec.name.lower())
        return Answer(_request_id(answer), arn=answer.get("TrialComponentArn"))

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Send CreateExperiment, CreateTrial and AssociateTrialComponent."""
        with _classifying(None):
            return self._groups.associate(component, experiment, trial)

    def disassociate(self, component: str, trial: str) -> Answer:
        """Send DisassociateTrialComponent."""
        with _classifying(None):
            return self._groups.disassociate(component, trial)

    def declare(self, declared: Declared) -> Answer:
        """Send CreateExperiment or CreateTrial; if it is there, describe and update it."""
        with _classifying(None):
            return self._groups.declare(declared)

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Send DescribeExperiment or DescribeTrial, and with ``tags`` ListTags."""
        with _classifying(None):
            return self._groups.group(kind, name, tags=tags)

    def add_tags(self, component: str, tags: Mapping[str, str | None]) -> Answer:
        """Send AddTags."""
        arn = self._find(component)
        if arn is None:
            raise ComponentMissingError(
                f"there is no trial component {component} to add tags to",
                kind=ErrorKind.HOLD,
                code="ResourceNotFound",
                hint="`journaltrack check --remote --repair` creates it again",
            )
        with _classifying(component):
            return self._groups.add_tags(arn, {k: v for k, v in tags.items() if v is not None})

    def tags(self, component: str) -> Mapping[str, str] | None:
        """Send ListTags."""
        arn = self._find(component)
        if arn is None:
            return None
        with _classifying(component):
            return self._groups.tags(arn)

    def trials(self, component: str) -> frozenset[str] | None:
        """Send ListTrials."""
        with _classifying(None):
            return self._groups.trials(component)

    def upload(self, blob: BlobUpload) -> Answer:
        """Upload the file, at most ``UPLOADS_IN_FLIGHT`` at a time (see the module ``s3``)."""
        with self._uploading, _classifying(None):
            return self._uploader.upload(blob)

    def link(self, link: ArtifactLink) -> Answer:
        """Send HeadObject, CreateArtifact and AddAssociation."""
        with _classifying(None):
            return self._lineage.link(link)

    def linked(self, link: ArtifactLink) -> Linked:
        """Send ListArtifacts and ListAssociations."""
        with _classifying(None):
            return self._lineage.linked(link)

    def put_document(self, document: Document) -> Answer:
        """Send PutObject with ``IfNoneMatch``."""
        with _classifying(None):
            return self._uploader.put_document(document)

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> Mapping[str, bytes]:
        """Send ListObjectsV2, and GetObject for each document."""
        with _classifying(None):
            return self._uploader.documents(bucket, prefix, folder)

    def document_names(
        self, bucket: str | None, prefix: str | None, folder: str, after: str
    ) -> Sequence[str]:
        """Send ListObjectsV2."""
        with _classifying(None):
            return self._uploader.document_names(bucket, prefix, folder, after)

    def document(
        self, bucket: str | None, prefix: str | None, folder: str, name: str
    ) -> bytes | None:
        """Send GetObject."""
        with _classifying(None):
            return self._uploader.document(bucket, prefix, folder, name)

    def update(self, component: str, fields: Fields) -> Answer:
        """Send UpdateTrialComponent, with what is there if the service does not merge."""
        if not self._merges(component):
            fields = self._merged(component, fields)
        with _classifying(component):
            answer = self._clients.sagemaker.update_trial_component(
                TrialComponentName=component, **_update_request(fields)
            )
        return Answer(_request_id(answer), arn=answer.get("TrialComponentArn"))

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Send BatchPutMetrics (see the module ``metrics``).

        BatchPutMetrics takes only lower-case component names. Other operations ignore case.
        """
        with _classifying(component):
            answer = self._metrics.put(component.lower(), points)
        request_id = _request_id(answer)
        refused = _refused(answer.get("Errors") or (), len(points), request_id)
        return Answer(request_id, refused=refused)

    def points(self, component: str, name: str) -> tuple[MetricPoint, ...]:  # noqa: ARG002
        """Return (): SageMaker shows no single points."""
        return ()

    def read_metrics(self, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
        """Send DescribeTrialComponent, and BatchGetMetrics for steps."""
        with _classifying(component):
            return _read_back(self._clients, component, steps)

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """Send HeadObject, and GetObject to read the object."""
        with _classifying(None):
            return self._uploader.find(uri, read=read)

    def _find(self, component: str) -> str | None:
        found = self.describe(component)
        return None if found is None else found.arn

    def _merges(self, component: str) -> bool:
        with _classifying(component):
            if self._merges_per_key is None:
                self._merges_per_key = self._clients.is_aws
        with self._lock:
            fresh = component.lower() in self._created
            self._created.discard(component.lower())
        return self._merges_per_key or fresh

    def _merged(self, component: str, fields: Fields) -> Fields:
        held = self.describe(component)
        # If the component is missing, the update fails with AWS's own words.
        if held is None:
            return fields

        def both(name: str) -> dict[str, Any]:
            """Return what is there and what is new of one map; nothing if nothing is new."""
            new = getattr(fields, name)
            return {**getattr(held, name), **new} if new else {}

        return Fields(
            parameters=both("parameters"),
            input_artifacts=both("input_artifacts"),
            output_artifacts=both("output_artifacts"),
            status=fields.status,
        )


class _classifying:  # noqa: N801 - reads as a verb in `with`
    """Turn whatever boto3 raises inside the block into a ``RemoteError``.

    A class, since a generator costs 2 µs more.
    """

    __slots__ = ("_component",)

    def __init__(self, component: str | None) -> None:
        self._component = component

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and is_of_parsing(error):
            msg = f"the answer is not one of the service: {error}"
            raise classified(ResponseParserError(msg), self._component) from error
        if isinstance(error, Exception) and not isinstance(error, RemoteError):
            raise classified(error, self._component) from error


def _refused(
    errors: Sequence[dict[str, Any]], count: int, request_id: str | None
) -> dict[int, Refusal]:
    """Return the points of a partial success that the service refused, by index.

    Args:
        errors: ``BatchPutMetricsError`` members: Code and MetricIndex, counted from 0.
        count: Points in the request.
        request_id: The answer's.

    Raises:
        RemoteError: An index is missing or out of range. Some points were taken, and it is not
            known which.
    """
    refused = {}
    for error in errors:
        code = str(error.get("Code") or "UNKNOWN")
        index = error.get("MetricIndex", 0 if count == 1 else None)
        if not isinstance(index, int) or not 0 <= index < count:
            raise RemoteError(
                f"BatchPutMetrics refused a point of {count} ({code}): invalid index {index}",
                kind=ErrorKind.TRANSIENT,
                code=code,
                request_id=request_id,
                maybe_applied=True,
            )
        permanent = code in _PERMANENT_CODES
        doubtful = not permanent and code not in SAFE_TO_REPEAT
        text = "refused by BatchPutMetrics"
        refused[index] = Refusal(code, text, permanent=permanent, maybe_applied=doubtful)
    return refused


def _nanoseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _update_request(fields: Fields) -> dict[str, Any]:
    request: dict[str, Any] = {}
    if fields.parameters:
        request["Parameters"] = {
            name: {"StringValue" if isinstance(value, str) else "NumberValue": value}
            for name, value in fields.parameters.items()
        }
    if fields.input_artifacts:
        request["InputArtifacts"] = {
            name: _artifact(artifact) for name, artifact in fields.input_artifacts.items()
        }
    if fields.output_artifacts:
        request["OutputArtifacts"] = {
            name: _artifact(artifact) for name, artifact in fields.output_artifacts.items()
        }
    status = fields.status or Status()
    if status.primary is not None:
        request["Status"] = {"PrimaryStatus": status.primary}
        if status.message is not None:
            request["Status"]["Message"] = status.message
    if status.start_ns is not None:
        request["StartTime"] = utc(status.start_ns)
    if status.end_ns is not None:
        request["EndTime"] = utc(status.end_ns)
    return request


def _artifact(artifact: Artifact) -> dict[str, str]:
    media_type = {"MediaType": artifact.media_type} if artifact.media_type else {}
    return {"Value": artifact.value, **media_type}


def _artifacts(members: Mapping[str, Any]) -> dict[str, Artifact]:
    return {name: Artifact(held["Value"], held.get("MediaType")) for name, held in members.items()}


def _component(name: str, answer: Mapping[str, Any]) -> RemoteComponent:
    status = answer.get("Status") or {}
    times = (_nanoseconds(answer.get("StartTime")), _nanoseconds(answer.get("EndTime")))
    return RemoteComponent(
        name=answer.get("TrialComponentName", name),
        arn=answer.get("TrialComponentArn", ""),
        owner=_owner_of(answer),
        display_name=answer.get("DisplayName"),
        parameters={
            name: held["StringValue"] if "StringValue" in held else held.get("NumberValue", 0.0)
            for name, held in answer.get("Parameters", {}).items()
        },
        input_artifacts=_artifacts(answer.get("InputArtifacts", {})),
        output_artifacts=_artifacts(answer.get("OutputArtifacts", {})),
        status=Status(status.get("PrimaryStatus"), status.get("Message"), *times),
        request_id=_request_id(answer),
        metrics=_summaries(answer),
    )


def _request_id(answer: Any) -> str | None:  # noqa: ANN401
    request_id = answer.get("ResponseMetadata", {}).get("RequestId")
    return str(request_id) if request_id else None


def _read_back(
    clients: Clients, component: str, steps: Mapping[str, tuple[int, int]]
) -> ReadBack | None:
    """Return what the service shows of the component's metrics.

    Raises:
        ClientError, BotoCoreError, RemoteError: The request failed.
    """
    try:
        answer = clients.sagemaker.describe_trial_component(TrialComponentName=component)
    except ClientError as error:
        if not_found(error):
            return None
        raise
    totals = {name: Shown(each.points, each.mean) for name, each in _summaries(answer).items()}
    shown: dict[tuple[str, int], Shown] = {}
    read: set[str] = set()
    remaining = iter(steps.items())
    while some := dict(islice(remaining, _QUERIES_MAX // 2)):
        results = _queried(clients, answer["TrialComponentArn"], some)
        if results is None:
            break
        for name, of_metric in zip(some, results, strict=True):
            if of_metric is not None:
                read.add(name)
                shown.update({(name, step): each for step, each in of_metric.items()})
    described = answer.get("ResponseMetadata", {})
    return ReadBack(
        totals,
        shown,
        frozenset(read),
        described.get("RequestId"),
        owner=_owner_of(answer) or "",
        at_ns=_date_ns(described.get("HTTPHeaders")),
    )


def _owner_of(answer: Mapping[str, Any]) -> str | None:
    """Return ``ComponentSpec.owner`` from a DescribeTrialComponent answer.

    None if journaltrack did not create the component.
    """
    generated_by = str((answer.get("MetadataProperties") or {}).get("GeneratedBy", ""))
    return (
        generated_by.removeprefix(_OWNER_PREFIX) if generated_by.startswith(_OWNER_PREFIX) else None
    )


def _date_ns(headers: Mapping[str, str] | None) -> int | None:
    """Return the answer's time from its header ``Date`` (RFC 9110), precise to the second."""
    try:
        return int(parsedate_to_datetime((headers or {})["date"]).timestamp()) * 10**9
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _summaries(answer: Mapping[str, Any]) -> dict[str, RemoteMetric]:
    """Return the metrics of a DescribeTrialComponent answer, by name.

    No member of ``TrialComponentMetricSummary`` is required.
    """
    found: dict[str, RemoteMetric] = {}
    for each in answer.get("Metrics", []):
        if "MetricName" in each and "Count" in each and "Avg" in each:
            mean = each["Avg"]
            least, most, last = (each.get(name, mean) for name in ("Min", "Max", "Last"))
            found[each["MetricName"]] = RemoteMetric(each["Count"], least, most, last, mean)
    return found


def _queried(
    clients: Clients, arn: str, steps: Mapping[str, tuple[int, int]]
) -> list[dict[int, Shown] | None] | None:
    """Read the steps of some metrics.

    Returns:
        One element per metric, in order: its steps, or None if they are incomplete. None instead of
        the list if the endpoint or the permissions lack BatchGetMetrics.
    """
    queries = [
        _query(arn, name, statistic, *bounds)
        for name, bounds in steps.items()
        for statistic in ("Count", "Avg")
    ]
    try:
        answer = clients.metrics.batch_get_metrics(MetricQueries=queries)
    except ClientError as error:
        failure = classified(error)
        if failure.kind is ErrorKind.TRANSIENT:
            raise
        logger.info("can't read single steps back, only sums are compared: %s", failure.message)
        return None
    results = answer.get("MetricQueryResults", [])
    if len(results) != len(queries):
        return None
    pairs = zip(results[::2], results[1::2], steps.values(), strict=True)
    return [_steps(counts, means, bounds) for counts, means, bounds in pairs]


def _query(arn: str, name: str, statistic: str, first: int, last: int) -> dict[str, Any]:
    return {
        "MetricName": name,
        "ResourceArn": arn,
        "MetricStat": statistic,
        "Period": "IterationNumber",
        "XAxisType": "IterationNumber",
        "Start": first,
        "End": last,
    }


def _steps(
    counts: dict[str, Any], means: dict[str, Any], bounds: tuple[int, int]
) -> dict[int, Shown] | None:
    """Return one metric's steps; None unless both answers are complete and about the same steps."""
    if counts.get("Status") != "Complete" or means.get("Status") != "Complete":
        return None
    count_of = dict(zip(counts["XAxisValues"], counts["MetricValues"], strict=False))
    mean_of = dict(zip(means["XAxisValues"], means["MetricValues"], strict=False))
    if count_of.keys() != mean_of.keys():
        return None
    first, last = bounds
    return {
        step: Shown(round(count), mean_of[step])
        for step, count in count_of.items()
        if first <= step <= last
    }
