"""Limit journals to what the operator allows: a remote that wraps another and refuses first.

A journal in an inbox names buckets, folders, components and experiments. Whoever syncs it uses
their own credentials for all of these. This remote refuses what the configuration's table
``[allow]`` does not name. It gives a reason, and sends nothing. Nothing is lost:

- a component is held,
- a bucket or prefix takes no uploads,
- an artifact that is too large is quarantined.

Reading what a component holds needs no permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.errors import NOT_ALLOWED, ErrorKind, RemoteError
from journaltrack.remotes.upload_notes import prefix_name

if TYPE_CHECKING:
    from journaltrack.journal.groups import Declared, Group, GroupKind
    from journaltrack.replay.evidence.readback import ReadBack
    from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
    from journaltrack.replay.remote import (
        Answer,
        ArtifactLink,
        BlobUpload,
        Capabilities,
        Document,
        Linked,
        Remote,
        RemoteComponent,
        RemoteObject,
    )
    from journaltrack.util.config import AllowConfiguration

_HINT: Final = "it waits in the journal: allow it (`journaltrack config`), or remove the journal"


class Rules:
    """What is allowed. Each method raises ``RemoteError`` for what is not.

    Args:
        allow: The table of the configuration.
        instead: Buckets that the operator replaces, see ``Storage.instead``. The replacement must
            be allowed, not the bucket that it replaces.
    """

    def __init__(self, allow: AllowConfiguration, instead: Mapping[str, str]) -> None:
        self._allow = allow
        self._instead = instead

    def component(self, name: str) -> None:
        """Check a trial component that is to be written to."""
        if not _fits(name.lower(), self._allow.components, str.lower):
            raise _refused("trial component", name, "components", ErrorKind.HOLD)

    def association(self, experiment: str | None, trial: str | None) -> None:
        """Check an experiment and a trial.

        The trial's name must fit as well: it may belong to another experiment.
        """
        for kind, name in (("experiment", experiment), ("trial", trial)):
            if name is not None and not _fits(name.lower(), self._allow.experiments, str.lower):
                raise _refused(kind, name, "experiments", ErrorKind.HALT)

    def group(self, group: Group) -> None:
        """Check an experiment, or a trial and its experiment."""
        names = (group.experiment, group.name) if group.kind == "trial" else (group.name, None)
        self.association(*names)

    def artifact(self, name: str, size_bytes: int) -> None:
        """Check the size of an artifact."""
        most = self._allow.artifact_bytes_max
        # The recorded size is enough: ``upload`` refuses a file with more bytes than were recorded.
        if most and size_bytes > most:
            size = f"has {size_bytes} bytes, allow.artifact_bytes_max is {most}"
            raise RemoteError(
                f"the artifact {limits.shown(name)} {size}: nothing was sent",
                kind=ErrorKind.PERMANENT,
                code=NOT_ALLOWED,
                hint="raise allow.artifact_bytes_max, then `journaltrack retry`",
            )

    def place(self, bucket: str | None, prefix: str | None) -> None:
        """Check an object's bucket and prefix.

        The default bucket (None) is the operator's own. A pattern may name any parent folder of
        the prefix.
        """
        used = self._instead.get(bucket or "", bucket)
        if used is not None and not _fits(used, self._allow.buckets):
            raise _refused("bucket", used, "buckets", ErrorKind.HALT)
        folder = prefix_name(prefix)
        parts = folder.split("/")
        parents = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        allowed = self._allow.prefixes
        if not any(_fits(parent, allowed, lambda each: each.strip("/")) for parent in parents):
            raise _refused("prefix", folder, "prefixes", ErrorKind.HALT)


class AllowingRemote:
    """Implements ``journaltrack.replay.remote.Remote``.

    Args:
        inner: The remote to wrap.
        rules: What is allowed.
    """

    def __init__(self, inner: Remote, rules: Rules) -> None:
        self._inner = inner
        self._rules = rules

    @property
    def can(self) -> Capabilities:
        """Return what the wrapped remote can do."""
        return self._inner.can

    def describe(self, component: str) -> RemoteComponent | None:
        """Describe any component: reading needs no permission."""
        return self._inner.describe(component)

    def create(self, spec: ComponentSpec) -> Answer:
        """Create the component if its name is allowed."""
        self._rules.component(spec.name)
        if spec.experiment is not None and self.can.in_experiments:
            # Before the run is there: it could not leave the experiment.
            self._rules.association(spec.experiment, None)
        return self._inner.create(spec)

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Associate what is allowed, under names that are allowed."""
        self._rules.component(component)
        self._rules.association(experiment, trial)
        return self._inner.associate(component, experiment, trial)

    def disassociate(self, component: str, trial: str) -> Answer:
        """Take the component out of the trial if both names are allowed."""
        self._rules.component(component)
        self._rules.association(None, trial)
        return self._inner.disassociate(component, trial)

    def declare(self, declared: Declared) -> Answer:
        """Declare what has an allowed name."""
        self._rules.group(declared.make)
        return self._inner.declare(declared)

    def add_tags(self, component: str, tags: Mapping[str, str | None]) -> Answer:
        """Add tags if the component's name is allowed."""
        self._rules.component(component)
        return self._inner.add_tags(component, tags)

    def tags(self, component: str) -> Mapping[str, str] | None:
        """Return the tags of any component: reading needs no permission."""
        return self._inner.tags(component)

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Look up any of them: reading needs no permission."""
        return self._inner.group(kind, name, tags=tags)

    def trials(self, component: str) -> frozenset[str] | None:
        """Return the trials of any component: reading needs no permission."""
        return self._inner.trials(component)

    def upload(self, blob: BlobUpload) -> Answer:
        """Upload the file if its component, place and size are allowed."""
        self._rules.component(blob.component)
        self._rules.place(blob.bucket, blob.prefix)
        self._rules.artifact(blob.name, blob.size_bytes)
        return self._inner.upload(blob)

    def link(self, link: ArtifactLink) -> Answer:
        """Link if the component and the place of the upload are allowed."""
        self._rules.component(link.component)
        self._rules.place(link.bucket, link.prefix)
        return self._inner.link(link)

    def linked(self, link: ArtifactLink) -> Linked:
        """Look it up: that needs no permission."""
        return self._inner.linked(link)

    def put_document(self, document: Document) -> Answer:
        """Store the document if its place is allowed."""
        self._rules.place(document.bucket, _top(document.prefix, document.folder))
        return self._inner.put_document(document)

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> Mapping[str, bytes]:
        """Return the documents of a place that is allowed."""
        self._rules.place(bucket, _top(prefix, folder))
        return self._inner.documents(bucket, prefix, folder)

    def document_names(
        self, bucket: str | None, prefix: str | None, folder: str, after: str
    ) -> Sequence[str]:
        """Return the names in a place that is allowed."""
        self._rules.place(bucket, _top(prefix, folder))
        return self._inner.document_names(bucket, prefix, folder, after)

    def document(
        self, bucket: str | None, prefix: str | None, folder: str, name: str
    ) -> bytes | None:
        """Return a document of a place that is allowed."""
        self._rules.place(bucket, _top(prefix, folder))
        return self._inner.document(bucket, prefix, folder, name)

    def update(self, component: str, fields: Fields) -> Answer:
        """Update the component if its name is allowed."""
        self._rules.component(component)
        return self._inner.update(component, fields)

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Record the points if the component's name is allowed."""
        self._rules.component(component)
        return self._inner.put_metrics(component, points)

    def points(self, component: str, name: str) -> Iterable[MetricPoint]:
        """Read any component: reading needs no permission."""
        return self._inner.points(component, name)

    def read_metrics(self, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
        """Read any component: reading needs no permission."""
        return self._inner.read_metrics(component, steps)

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """Find any object: reading needs no permission."""
        return self._inner.find_object(uri, read=read)


def _top(prefix: str | None, folder: str) -> str | None:
    """Return the prefix of a folder of documents; one at the bucket's root is its own."""
    return folder if prefix == "" else prefix


def _fits(name: str, patterns: Sequence[str], spelt: Callable[[str], str] = str) -> bool:
    return not patterns or any(fnmatchcase(name, spelt(pattern)) for pattern in patterns)


def _refused(what: str, name: str, key: str, kind: ErrorKind) -> RemoteError:
    return RemoteError(
        f"the {what} {limits.shown(name)} is not allowed by allow.{key}: nothing was sent",
        kind=kind,
        code=NOT_ALLOWED,
        hint=_HINT,
        uploads_only=key in {"buckets", "prefixes"},
    )
