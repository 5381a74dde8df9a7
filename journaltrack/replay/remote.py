"""Define what the reconciler needs of a remote: a protocol, and the answers.

A remote performs single requests, and classifies failures as ``RemoteError``. It keeps no state of
ours and decides nothing. Several threads call its methods at once. To add behaviour (retries, rate
limits, recording), wrap one remote in another.

Must not know any particular service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Artifact, FieldMap, Status
from journaltrack.journal.groups import Declared, Group, GroupKind
from journaltrack.replay.evidence.readback import ReadBack
from journaltrack.replay.plan.actions import KEYS_MAX, ComponentSpec, Fields, MetricPoint

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.util.digest import PartDigests


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Say what a remote can do. Plan, settlement and verification follow it.

    The defaults are SageMaker's.

    Attributes:
        service: Its name in messages.
        points_max: Points in one request of metrics.
        names_max: Names of metrics in one such request. None: no limit.
        repeatable: Whether points that were sent twice are there once. Then a request whose answer
            was lost is sent again, and nothing is ever in doubt.
        reads_points: Whether ``points`` returns every point.
        time_ns: In which steps it keeps the time of a point, nanoseconds. Points of one metric
            that are equal in it are one. 0: all points are kept.
        in_flight_max: Requests in flight at a time, at most.
        any_time: Whether a point may have any time.
        keys_max: Most keys of a component, by map. Missing: no limit.
        refuses: Returns why it could never take an entry, or None.
        held: Returns a parameter's value as ``describe`` shows it.
        held_point: Returns a metric's value as it keeps it.
        told: Returns how it keeps a metric's value otherwise than it was logged, or None.
        parameters_file: Whether parameters that it refuses are sent in one artifact for each
            component (``replay.overflow``). If not, they are quarantined.
        note_tag: The tag that shows a note. None: it has no place for notes.
        labels: Returns whether it has a place for a label of this name.
        by_name: Whether a content is uploaded under each of its names. If not, once.
        in_experiments: Whether a component is made in its experiment, and stays there.
        lineage: Whether it has lineage.
        documents: Whether it stores documents: the anchors of journals.
    """

    service: str = "SageMaker"
    points_max: int = limits.METRICS_PER_REQUEST_MAX
    names_max: int | None = None
    repeatable: bool = False
    reads_points: bool = False
    time_ns: int = 0
    in_flight_max: int = 256
    any_time: bool = False
    keys_max: Mapping[FieldMap, int] = field(default_factory=lambda: KEYS_MAX)
    refuses: Callable[[vocabulary.Entry], str | None] = vocabulary.undeliverable
    held: Callable[[str | float], str | float] = lambda value: value
    held_point: Callable[[float], float] = lambda value: value
    told: Callable[[float], str | None] = lambda _: None
    parameters_file: bool = True
    note_tag: str | None = None
    labels: Callable[[str], bool] = lambda _: False
    by_name: bool = False
    in_experiments: bool = False
    lineage: bool = True
    documents: bool = True


SAGEMAKER: Final = Capabilities()
"""What SageMaker and S3 can do."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say why one item of a request was not taken.

    Attributes:
        code: The remote's code.
        message: The remote's message.
        permanent: False: the item may be sent again.
        maybe_applied: The failure was no refusal, so the item may have taken effect.
    """

    code: str
    message: str
    permanent: bool
    maybe_applied: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold the remote's answer to one successful request.

    Attributes:
        request_id: The remote's id of the request. None: no request was needed.
        arn: Of the component, if the answer says it.
        uri: Of the uploaded object.
        refused: ``put_metrics``: items that were not taken, by their position.
        older: By ``seq``: why an entry was not sent, since the remote holds a later value of
            another journal.
    """

    request_id: str | None = None
    arn: str | None = None
    uri: str | None = None
    refused: Mapping[int, Refusal] = field(default_factory=dict)
    older: Mapping[int, str] = field(default_factory=dict)


class RemoteMetric(NamedTuple):
    """Sum up the points of one metric as the remote does.

    Which point is ``last`` is the remote's own notion.
    """

    points: int
    minimum: float
    maximum: float
    last: float
    mean: float


@dataclass(frozen=True, slots=True)
class RemoteComponent:
    """Hold a component as the remote has it.

    Attributes:
        owner: ``ComponentSpec.owner`` of its create. None: we did not make it.
        metrics: Summaries by name. The service aggregates them. No document promises that they
            are complete at once.
    """

    name: str
    arn: str
    owner: str | None = None
    display_name: str | None = None
    parameters: Mapping[str, str | float] = field(default_factory=dict)
    input_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    output_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    status: Status | None = None
    request_id: str | None = None
    metrics: Mapping[str, RemoteMetric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """Hold an object as the store has it.

    Attributes:
        size_bytes: Its size.
        sha256: Of its whole content (hexadecimal), as the store or a full read computed it.
            None: not available.
        noted_sha256: The digest that its uploader noted beside it. It shows whose object this
            is, and proves nothing about its bytes.
    """

    size_bytes: int
    sha256: str | None = None
    noted_sha256: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class BlobUpload:
    """A file to put under ``<prefix>/<component>/<name>``.

    Attributes:
        path: The file, of ``size_bytes`` bytes whose SHA-256 is ``sha256`` (hexadecimal).
        bucket: None: the remote's default bucket, created when missing.
        prefix: None: the remote's default prefix.
        media_type: Its Content-Type, or None.
        scratch: Folder for small files with which an interrupted upload is resumed. None: no
            such files.
        replaces: Whether it replaces what journaltrack stored under the name, where names are
            paths (``Capabilities.by_name``).
        parts: The digests of a large file's parts, if they were recorded with ``sha256``.
    """

    path: Path
    sha256: str
    size_bytes: int
    component: str
    name: str
    bucket: str | None = None
    prefix: str | None = None
    media_type: str | None = None
    scratch: Path | None = None
    replaces: bool = False
    parts: PartDigests | None = None


@dataclass(frozen=True, slots=True)
class ArtifactLink:
    """A lineage artifact of an uploaded blob, and its association with a component.

    Attributes:
        component: The component's name.
        uri: Where the blob is: an answer of ``upload``.
        sha256: The blob's digest, hexadecimal.
        name: The artifact's name.
        artifact_type: The artifact's type.
        is_output: Whether the component produced the blob. False: it used it.
        bucket, prefix: Those that the upload was asked for, see ``BlobUpload``.
    """

    component: str
    uri: str
    sha256: str
    name: str
    artifact_type: str
    is_output: bool
    bucket: str | None = None
    prefix: str | None = None


class Linked(NamedTuple):
    """Say what of an ``ArtifactLink`` the remote holds."""

    artifact: bool
    association: bool
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A small JSON document to put under ``<prefix>/<folder>/<name>``.

    ``bucket`` and ``prefix`` None: the remote's defaults. The prefix "" is the bucket's root.
    """

    bucket: str | None
    prefix: str | None
    folder: str
    name: str
    content: bytes


class Remote(Protocol):
    """Where entries are delivered to.

    A failed request raises ``RemoteError``, and no method raises anything else.
    """

    @property
    def can(self) -> Capabilities:
        """Return what it can do."""
        ...

    def describe(self, component: str) -> RemoteComponent | None:
        """Return the component, or None if the remote says that it does not exist."""
        ...

    def create(self, spec: ComponentSpec) -> Answer:
        """Create the component.

        Raises:
            AlreadyExistsError: The name is taken, by us or by somebody else.
        """
        ...

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Put the component into the trial. Create trial and experiment when missing.

        Without a trial's name, the experiment's default trial is used. Without an experiment's
        name, the trial must exist.
        """
        ...

    def disassociate(self, component: str, trial: str) -> Answer:
        """Take the component out of the trial. That it is not in it is success."""
        ...

    def declare(self, declared: Declared) -> Answer:
        """Make the experiment or trial, or change the one that is there. Idempotent.

        A trial's experiment is created when missing. Tags are added to those that are there.
        """
        ...

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Return the experiment or trial as the remote holds it; None if it does not exist.

        Args:
            kind: What it is.
            name: Its name.
            tags: Whether to ask for its tags, too. If not, it has none.
        """
        ...

    def add_tags(self, component: str, tags: Mapping[str, str | None]) -> Answer:
        """Add tags to those that the component has. Idempotent.

        Args:
            component: The component.
            tags: The tags. None removes one: only of a remote that has ``labels``.

        Raises:
            ComponentMissingError: The remote does not have the component.
        """
        ...

    def tags(self, component: str) -> Mapping[str, str] | None:
        """Return the component's tags; None if the remote says that it does not exist."""
        ...

    def trials(self, component: str) -> frozenset[str] | None:
        """Return the names of the trials that the component is in, in lower case.

        None if the remote says that the component does not exist.
        """
        ...

    def upload(self, blob: BlobUpload) -> Answer:
        """Store the file and return its URI.

        An object of the same content under the name is success. An object of other content is
        left alone, and the file is stored under a name that contains its digest.
        """
        ...

    def link(self, link: ArtifactLink) -> Answer:
        """Make the lineage artifact and its association, unless they exist. Idempotent.

        Raises:
            ComponentMissingError: There is no such component.
        """
        ...

    def linked(self, link: ArtifactLink) -> Linked:
        """Return whether the lineage artifact and its association exist."""
        ...

    def put_document(self, document: Document) -> Answer:
        """Store the document and return its URI.

        If something exists under its name, nothing is stored, and that is success.
        """
        ...

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> Mapping[str, bytes]:
        """Return what ``put_document`` stored in a folder, by name.

        Empty if there is no such bucket or folder.
        """
        ...

    def document_names(
        self, bucket: str | None, prefix: str | None, folder: str, after: str
    ) -> Sequence[str]:
        """Return the names in a folder of ``put_document`` that sort after ``after``.

        One request: the first 1,000 names.
        """
        ...

    def document(
        self, bucket: str | None, prefix: str | None, folder: str, name: str
    ) -> bytes | None:
        """Return what ``put_document`` stored under this name, or None."""
        ...

    def update(self, component: str, fields: Fields) -> Answer:
        """Set fields of the component; keys not named are left alone.

        Raises:
            ComponentMissingError: There is no such component.
        """
        ...

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Record points: one to ``Capabilities.points_max``.

        Not idempotent unless ``Capabilities.repeatable`` says so.

        Raises:
            ComponentMissingError: There is no such component.
        """
        ...

    def points(self, component: str, name: str) -> Iterable[MetricPoint]:
        """Return every point of a metric, if ``Capabilities.reads_points`` says so."""
        ...

    def read_metrics(self, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
        """Return what the service shows of the component's metrics.

        Args:
            component: Its name.
            steps: Metrics to read step by step, each with its first and last step.

        Returns:
            None if the service says that the component does not exist.
        """
        ...

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """Return the object at a URI that ``upload`` gave.

        Args:
            uri: Of the object.
            read: Read its content for ``sha256``, if the store has no digest of the whole. The
                content is not kept.

        Returns:
            None if the store says that the object or its bucket does not exist.

        Raises:
            RemoteError: Also (permanent) for a URI that this remote can't have given.
        """
        ...
