"""What the reconciler needs of a remote: the protocol, its answers, and nothing of any particular service.

A remote performs single requests and classifies failures as ``RemoteError``; it keeps no state of ours and decides
nothing. Its methods are called from several threads at once. Wrapping one remote in another (retries, rate limits,
recording) is how behaviour is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from journaltrack.journal.fold import Artifact, Status
from journaltrack.replay.evidence.readback import ReadBack
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item of a request was not taken; ``permanent`` False means that it may be sent again.

    Attributes:
        maybe_applied: It may have taken effect all the same: what went wrong was not a refusal.
    """

    code: str
    message: str
    permanent: bool
    maybe_applied: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the remote said to one successful request.

    Attributes:
        request_id: The remote's id of the request; None when no request was needed.
        arn: Of the component, when the answer tells it.
        uri: Of the uploaded object.
        refused: ``put_metrics``: items that were not taken, by their position.
        older: Entries that were not sent, by ``seq``, with why: the remote holds a later value of another journal.
    """

    request_id: str | None = None
    arn: str | None = None
    uri: str | None = None
    refused: Mapping[int, Refusal] = field(default_factory=dict)
    older: Mapping[int, str] = field(default_factory=dict)


class RemoteMetric(NamedTuple):
    """The points of one metric as the remote sums them up. Which point is ``last`` is the remote's own notion."""

    points: int
    minimum: float
    maximum: float
    last: float
    mean: float


@dataclass(frozen=True, slots=True)
class RemoteComponent:
    """A component as the remote holds it.

    Attributes:
        owner: ``ComponentSpec.owner`` of its create, None if not made by us.
        metrics: Summaries by name; aggregated by the service, and documented nowhere to be complete at once.
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
    """An object as the store holds it.

    Attributes:
        size_bytes: Its size.
        sha256: Of its whole content (hexadecimal), computed by the store or from what was read; None if that is not to be had.
        noted_sha256: The digest that its uploader noted beside it: tells whose it is, proves nothing about its bytes.
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
        bucket: None for the remote's default bucket, created when missing.
        prefix: None for the remote's default prefix.
        media_type: Its Content-Type, or None.
        scratch: A folder for small files with which an upload that was cut off is found again; None: nothing is noted.
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


@dataclass(frozen=True, slots=True)
class Document:
    """A small JSON document to put under ``<prefix>/<folder>/<name>``; ``bucket`` and ``prefix`` None: the remote's defaults."""

    bucket: str | None
    prefix: str | None
    folder: str
    name: str
    content: bytes


class Remote(Protocol):
    """Where entries are delivered to. Every method raises ``RemoteError`` and nothing else for a failed request."""

    def describe(self, component: str) -> RemoteComponent | None:
        """The component, or None if the remote says that it does not exist."""
        ...

    def create(self, spec: ComponentSpec) -> Answer:
        """Create the component.

        Raises:
            AlreadyExistsError: The name is taken, by us or by somebody else.
        """
        ...

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Put the component into the trial; create trial and experiment when missing. Without a trial's name, the
        experiment's default trial is used; without an experiment's, the trial must exist.
        """
        ...

    def upload(self, blob: BlobUpload) -> Answer:
        """Store the file and return its URI. An object of the same content under the name is success; one of other
        content is left alone, and the file is stored under a name that tells its content.
        """
        ...

    def put_document(self, document: Document) -> Answer:
        """Store the document and return its URI, unless there is something under its name: that it is there is as good."""
        ...

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> Mapping[str, bytes]:
        """What ``put_document`` stored in a folder, by name; empty if there is no such bucket or folder."""
        ...

    def document_names(self, bucket: str | None, prefix: str | None, folder: str, after: str) -> Sequence[str]:
        """The names in a folder of ``put_document`` that come after this one in order, the first 1,000 of them: one request."""
        ...

    def document(self, bucket: str | None, prefix: str | None, folder: str, name: str) -> bytes | None:
        """What ``put_document`` stored under this name; None if it is not there."""
        ...

    def update(self, component: str, fields: Fields) -> Answer:
        """Set fields of the component; keys not named are left alone.

        Raises:
            ComponentMissingError: There is no such component.
        """
        ...

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Record one to ten points. Not idempotent.

        Raises:
            ComponentMissingError: There is no such component.
        """
        ...

    def read_metrics(self, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
        """What the service shows of the component's metrics; None if it says that the component does not exist.

        Args:
            component: Its name.
            steps: Metrics of which single steps are asked for, with the first and last step.
        """
        ...

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """The object at a URI that ``upload`` gave; None if the store says that it (or its bucket) does not exist.

        Args:
            uri: Of the object.
            read: Read its content for ``sha256``, if the store has no digest of the whole. Nothing is kept of it.

        Raises:
            RemoteError: Also (permanent) for a URI that this remote can't have given.
        """
        ...
