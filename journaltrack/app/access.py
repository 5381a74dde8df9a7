"""Tell whether the credentials may do what a sync needs, before one is tried. Changes nothing.

What the sync of a journal needs is read from the requests that it would make: an experiment that is
described needs other permissions than one that is named. Without a journal it is what runs usually
need.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from journaltrack.app.connection import PROBE_TIMEOUT_S, Connection
from journaltrack.errors import JournalNotFoundError
from journaltrack.journal import view
from journaltrack.journal.journal import Journal
from journaltrack.remotes.upload_notes import prefix_name
from journaltrack.replay import reconciler
from journaltrack.replay.evidence.proof import Proof
from journaltrack.replay.plan.actions import (
    AddTags,
    Associate,
    Declare,
    Disassociate,
    Ensure,
    Link,
    PutMetrics,
    Request,
    Settle,
    Update,
    Upload,
)
from journaltrack.replay.reconciler import Options
from journaltrack.util import config
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from journaltrack.remotes.aws.access import Access, Model, Wanted
    from journaltrack.util.config import Configuration

USUAL: Final = frozenset(
    {
        *("DescribeTrialComponent", "UpdateTrialComponent", "CreateTrialComponent", "AddTags"),
        *("BatchPutMetrics", "DescribeTrial", "AssociateTrialComponent"),
        *("CreateExperiment", "CreateTrial"),
    }
)
"""What runs usually ask of SageMaker, beside lineage."""
_LINEAGE: Final = frozenset({"ListArtifacts", "AddAssociation", "CreateArtifact"})
_ALWAYS: Final[Mapping[type, Collection[str]]] = {
    Ensure: {"DescribeTrialComponent"},
    Update: {"UpdateTrialComponent"},
    PutMetrics: {"BatchPutMetrics"},
    Associate: {"DescribeTrial", "AssociateTrialComponent"},
    Disassociate: {"DisassociateTrialComponent"},
    # It names the component by its ARN.
    AddTags: {"DescribeTrialComponent", "AddTags"},
    Link: _LINEAGE,
}
"""What each kind of request asks for, whatever it says."""


def run_access(
    connection: Connection,
    known: Configuration,
    bucket: str | None = None,
    prefix: str | None = None,
    *,
    journals: Iterable[str | None] | None = None,
    deadline: Deadline | None = None,
) -> Access:
    """Tell whether the credentials may do what a sync needs. Changes nothing.

    Args:
        connection: How to reach the remote.
        known: The configuration: it says which features are on.
        bucket: The bucket of the artifacts; None for those of the journals, or the default one.
        prefix: Their prefix; None for the default one.
        journals: What syncs of these need, and nothing else. None: what runs usually need, and
            what the default journal's sync needs, if there is one.
        deadline: Cancelling it ends the waiting.

    Raises:
        JournalError: A journal can't be read.
        RemoteError: boto3 can't be imported.
    """
    remote = connection.remote(deadline or Deadline(), concurrency=1, timeout_s=PROBE_TIMEOUT_S)
    try:
        return remote.access(_wanted(connection, known, bucket, prefix, journals))
    finally:
        remote.close()


def _wanted(
    connection: Connection,
    known: Configuration,
    bucket: str | None,
    prefix: str | None,
    journals: Iterable[str | None] | None,
) -> Wanted:
    # With boto3.
    from journaltrack.remotes.aws.access import Model, Wanted  # noqa: PLC0415

    actions: set[str] = set()
    # Of each bucket the first prefix: a run may have its own.
    places: dict[str | None, str | None] = {}
    models: dict[str, Model] = {}
    names: dict[str, set[str]] = defaultdict(set)
    if journals is None:
        actions |= USUAL | (_LINEAGE if known.lineage else set())
        places[bucket] = prefix
    for journal in [None] if journals is None else journals:
        # Without a journal named, the default one need not be there.
        with contextlib.suppress(*([JournalNotFoundError] if journals is None else [])):
            for action in _planned(journal, Options(**known.of_a_pass())):
                actions.update(_asked(action, creates=connection.allow.create_experiments))
                for kind, model in _models(action, Model):
                    before = models.setdefault(kind, model)
                    models[kind] = before if before.tags else model
                    names[kind].add(model.name)
                if isinstance(action, Upload):
                    where = (action.blob.bucket, action.blob.prefix)
                    places.setdefault(*((bucket, prefix) if bucket is not None else where))
    return Wanted(
        frozenset(actions),
        tuple(places.items()),
        anchors=_folder_of_anchors(known, next(iter(places.values()))) if places else None,
        models=models,
        names=names,
        create_buckets=connection.allow.create_buckets,
        named=bucket is not None,
    )


def _folder_of_anchors(known: Configuration, prefix: str | None) -> str | None:
    """Return the folder of the anchors in the bucket; None without any."""
    if known.anchor in {"off", "parameter"}:
        return None
    of_anchors = known.prefix_of_anchors()
    below = "" if of_anchors == "" else prefix_name(of_anchors or prefix)
    return "/".join(part for part in (below, config.ANCHORS) if part)


def _planned(journal: str | None, options: Options) -> Iterator[Request]:
    """Yield the requests that a sync of a journal would make."""
    opened = Journal.open(journal, create=False, read_only=True)
    with contextlib.closing(opened), view.snapshot(opened.database):
        for action in reconciler.dry_run(opened, options, Proof(opened.database)):
            if not isinstance(action, Settle):
                yield action


def _asked(action: Request, *, creates: bool) -> Iterator[str]:
    """Yield the operations of SageMaker that a request needs."""
    yield from _ALWAYS.get(type(action), ())
    if isinstance(action, Ensure) and action.mode in {"create", "resume"}:
        yield "CreateTrialComponent"
        yield from ["AddTags"] if action.spec.tags else []
    elif isinstance(action, Associate) and creates and action.experiment is not None:
        yield from ("CreateExperiment", "CreateTrial")
    elif isinstance(action, Declare):
        yield from _declared(action, creates=creates)


def _declared(action: Declare, *, creates: bool) -> Iterator[str]:
    """Yield the operations that a declaration needs, whether or not it is there already."""
    make, change = action.declared
    kind = make.kind.capitalize()
    yield f"Describe{kind}"
    if creates:
        yield from {"CreateExperiment", f"Create{kind}"}
    if change is not None and (change.display_name is not None or change.description is not None):
        yield f"Update{kind}"
    if make.tags:
        yield "AddTags"


def _models(action: Request, model: type[Model]) -> Iterator[tuple[str, Model]]:
    """Yield what a request names, by kind: what is tried has similar names, and the same tags."""
    if isinstance(action, Declare):
        made = action.declared.make
        yield made.kind, model(made.name, made.tags)
        if made.experiment is not None:
            yield "experiment", model(made.experiment)
        return
    if isinstance(action, Associate):
        if action.experiment is not None:
            yield "experiment", model(action.experiment)
        yield "trial", model(action.its_trial)
    if isinstance(action, Disassociate):
        yield "trial", model(action.trial)
    if isinstance(action, Ensure):
        yield "component", model(action.component, action.spec.tags)
    elif isinstance(action, AddTags):
        yield (
            "component",
            model(action.component, tuple((k, v) for k, v in action.tags.items() if v is not None)),
        )
    else:
        yield "component", model(action.component)
