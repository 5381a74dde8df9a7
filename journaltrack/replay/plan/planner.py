"""Plan the requests that deliver pending entries.

``plan(entries, states, points) -> [Action]``:

- The order of requests is the ``phase`` of ``actions``.
- All parameters, artifacts and status calls of a component fold into one update. The last call
  per key wins. Metrics go as many to a request as the remote takes. A content is uploaded once
  per component, and gets one lineage artifact for each name, type and direction.
- Every action names the entries that it settles. Entries of an unknown kind are in no action:
  they stay pending.

``beside`` compares values with those of other journals that write to the same component. A service
holds the last value that it was sent, and does not say when it was recorded. It does show when the
run whose status it holds began and ended. So:

- A status recorded before that run's last known moment is older, and is not sent.
- A parameter or artifact recorded before that run *began*, and held with another value, counts as
  older too: the later run set it.
- Everything else is sent, since its age can't be known.

``out_of_bounds`` refuses names and payloads beyond every limit. A tracker refuses these at the
call, so they come from journals that somebody crafted. AWS would refuse them too, but only after
megabytes were sent, and perhaps with the whole request.

Pure: no I/O, no clock, no randomness. Must not know SQLite or any remote.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack import limits
from journaltrack.journal import groups, vocabulary
from journaltrack.journal.fold import (
    MAP_OF_KIND,
    Artifact,
    FieldMap,
    FieldValue,
    Part,
    PendingArtifact,
    Place,
    Status,
    blob_of,
    merge_status,
    parts_in_order,
    required_text,
    text_or_none,
    value_of,
)
from journaltrack.journal.vocabulary import BlobRef, Entry
from journaltrack.replay.plan import grouping
from journaltrack.replay.plan.actions import (
    Action,
    Change,
    ComponentSpec,
    ComponentState,
    Ensure,
    Link,
    MetricPoint,
    Mode,
    Points,
    PutMetrics,
    PutPoints,
    Run,
    Settle,
    Update,
    Upload,
)
from journaltrack.replay.remote import SAGEMAKER, Capabilities
from journaltrack.util.digest import PartDigests

if TYPE_CHECKING:
    from journaltrack.replay.remote import RemoteComponent

NOTE_STAYS: Final = "a note stays in the journal: SageMaker has no place for it"
FILE_IS_THERE: Final = "{service} has the file itself, and needs no reference to it"
FILE_STAYS: Final = "it has the parameters that SageMaker can't take, and is for SageMaker alone"
LINEAGE_STAYS: Final = "lineage stays in the journal: {service} has none, or lineage = false"
LABEL_STAYS: Final = "it stays in the journal: {service} has no place for it"
_NOT_UPLOADED: Final = "the upload of its content is quarantined"
_EXACT_NS: Final = 1_000_000_000
"""Services keep times in less detail than we do. Nanoseconds."""
# MetricPoint(*members), without a call of Python code.
_POINT: Final = partial(tuple.__new__, MetricPoint)


class Beside(NamedTuple):
    """Hold what is left of an update.

    ``older`` says, by ``seq``, why the remote keeps its own value.
    """

    update: Update
    older: Mapping[int, str]


def beside(update: Update, found: RemoteComponent, service: str = SAGEMAKER.service) -> Beside:
    """Remove from an update what is older than the remote's value.

    Args:
        update: With its blobs resolved.
        found: The component as the remote holds it.
        service: The remote's name.
    """
    status = found.status
    own_ns = update.own_until_ns or 0
    began_ns, ended_ns = (
        at_ns if at_ns is not None and at_ns > own_ns + _EXACT_NS else 0
        for at_ns in ((status.start_ns, status.end_ns) if status else (0, 0))
    )
    known_ns = max(began_ns, ended_ns)
    older: dict[int, str] = {}
    changes = []
    for change in update.changes:
        recorded_ns = change.each[-1].place.recorded_at_ns
        if change.map == "status":
            is_older = recorded_ns + _EXACT_NS < known_ns
        else:
            theirs = getattr(found, change.map).get(change.key)
            is_older = (
                recorded_ns + _EXACT_NS < began_ns and theirs is not None and theirs != change.value
            )
        if is_older:
            older |= dict.fromkeys(
                (part.place.seq for part in change.each),
                f"{service} holds {_reason(change, found, began_ns, known_ns)}",
            )
        else:
            changes.append(change)
    return Beside(replace(update, changes=tuple(changes)), older)


def _reason(change: Change, found: RemoteComponent, began_ns: int, known_ns: int) -> str:
    primary = (found.status and found.status.primary) or "no status"
    if change.map == "status":
        return f"a later status, of another journal: {primary}, at {_moment(known_ns)}"
    theirs = f"of a run that began later, at {_moment(began_ns)}, in another journal"
    return f"another value, {theirs}"


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def out_of_bounds(entry: Entry) -> str | None:
    """Return why the entry can't be sent, or None if no bound is broken.

    Raises:
        ValueError: Its payload can't be read.
    """
    if entry.kind in {vocabulary.EXPERIMENT, vocabulary.TRIAL}:
        return groups.problem_of(groups.declaration_of(entry).group)
    if not groups.is_run(entry.component):
        return f"an experiment or trial has no entries of kind {limits.shown(entry.kind)}"
    if len(entry.component) > limits.NAME_CHARS_MAX:
        return _too_long(entry.component, "the component's name", limits.NAME_CHARS_MAX)
    if entry.kind == vocabulary.CREATE:
        return _of_creation(entry.detail)
    if entry.kind in groups.MEMBERSHIPS:
        named = zip(("experiment", "trial"), groups.membership_of(entry), strict=True)
        return next(
            (
                p
                for what, name in named
                if isinstance(name, str) and (p := limits.name_problem(name, f"the {what}'s name"))
            ),
            None,
        )
    if entry.kind == vocabulary.STATUS:
        message = entry.detail.get("message")
        return _too_long(
            message, "the status message", limits.STATUS_MESSAGE_CHARS_MAX
        ) or _too_long(entry.detail.get("primary"), "the status", limits.NAME_CHARS_MAX)
    return _of_upload(entry) if entry.kind == vocabulary.UPLOAD else None


def _of_creation(detail: Mapping[str, object]) -> str | None:
    tags = detail.get("tags")
    if isinstance(tags, dict):
        if len(tags) > limits.TAGS_MAX:
            return f"the component has {len(tags)} tags; SageMaker takes at most {limits.TAGS_MAX}"
        for key, value in tags.items():
            problem = (
                limits.tag_problem(key, value)
                if isinstance(value, str)
                else "a tag's value is not text"
            )
            if problem:
                return problem
    return _too_long(detail.get("owner"), "the owner", limits.OWNER_CHARS_MAX) or _too_long(
        detail.get("display_name"), "the display name", limits.NAME_CHARS_MAX
    )


def _of_upload(entry: Entry) -> str | None:
    bucket, prefix = entry.detail.get("bucket"), entry.detail.get("prefix")
    # The bucket may be given as an access point's ARN.
    if isinstance(bucket, str) and len(bucket) > limits.ARTIFACT_VALUE_CHARS_MAX:
        return f"the bucket's name has {len(bucket)} characters"
    parts = (prefix if isinstance(prefix, str) else "", entry.component, entry.name or "")
    size_bytes = sum(len(part.encode(errors="replace")) + 1 for part in parts)
    if size_bytes > limits.OBJECT_KEY_BYTES_MAX:
        most = limits.OBJECT_KEY_BYTES_MAX
        return f"its place in S3 would have {size_bytes} bytes; S3 takes at most {most}"
    return None


def _too_long(text: object, what: str, chars_max: int) -> str | None:
    if isinstance(text, str) and len(text) > chars_max:
        return f"{what} has {len(text)} characters; SageMaker takes at most {chars_max}"
    return None


@dataclass(slots=True)
class _Component:
    """Collect one component's entries while they are read."""

    component_id: int
    name: str
    creates: list[Entry] = field(default_factory=list)
    loads: list[Entry] = field(default_factory=list)
    grouping: list[Entry] = field(default_factory=list)
    tags: list[Entry] = field(default_factory=list)
    trials: set[tuple[str, str | None, str | None]] = field(default_factory=set)
    uploads: dict[BlobRef, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    # By blob, name, type and direction.
    links: dict[tuple[BlobRef, str, str, str], list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )
    changes: dict[tuple[FieldMap, str], list[Part]] = field(default_factory=dict)
    keys: dict[FieldMap, set[str]] = field(default_factory=lambda: defaultdict(set))
    metrics: list[Entry] = field(default_factory=list)
    points: Points | None = None


class Plan(NamedTuple):
    """Hold the requests to make.

    ``metrics`` belong to phase 3, beside the actions of that phase. They are made one by one, on
    demand.
    """

    actions: list[Action]
    metrics: Iterator[PutMetrics]


def plan(
    entries: Iterable[Entry],
    states: Mapping[int, ComponentState],
    points: Iterable[Points] = (),
    can: Capabilities = SAGEMAKER,
) -> list[Action]:
    """Return the requests that deliver these entries.

    Args:
        entries: Pending entries in order of ``seq``.
        states: What is known of their components, by component id. A missing one was never seen
            remotely.
        points: Further pending entries, each component once: metrics that can be sent as they
            are.
        can: What the remote can do.

    Returns:
        Actions in order of their phase. Within a phase they are independent of each other.
    """
    planned = prepare(entries, states, points, can)
    return [*planned.actions, *planned.metrics]


def prepare(
    entries: Iterable[Entry],
    states: Mapping[int, ComponentState],
    points: Iterable[Points] = (),
    can: Capabilities = SAGEMAKER,
) -> Plan:
    """Return the same as ``plan``, but make the requests of metrics on demand."""
    components: dict[int, _Component] = {}
    actions: list[Action] = []
    for entry in entries:
        if entry.kind not in vocabulary.KINDS:
            continue
        component = components.get(entry.component_id)
        if component is None:
            component = components[entry.component_id] = _Component(
                entry.component_id, entry.component
            )
        refusal = _read(entry, component, states.get(entry.component_id, ComponentState()), can)
        if refusal is not None:
            actions.append(refusal)
    for each in points:
        components.setdefault(
            each.component_id, _Component(each.component_id, each.component)
        ).points = each
    for component_id, component in components.items():
        actions += _requests(component, states.get(component_id, ComponentState()), can)
    actions.sort(key=lambda action: action.phase)
    metrics = (_metrics(component, can) for component in components.values())
    return Plan(actions, itertools.chain.from_iterable(metrics))


def resolve(update: Update, state: ComponentState) -> tuple[Update | None, list[Settle]]:
    """Put the URIs of uploaded blobs into an update.

    Args:
        update: As planned.
        state: Of its component, after the uploads.

    Returns:
        The update and what needs no request. The update lacks references whose blob is not
        uploaded yet: they stay pending. It is None if nothing is left. No request is needed for
        references whose blob will never be uploaded, nor for what a later entry overrode.
    """
    changes = []
    settled: list[Settle] = []
    for change in update.changes:
        known = _apart(update.component_id, change, state)
        settled += known.settled
        if known.ready:
            changes.append(Change.of(change.map, change.key, known.ready))
    return (
        replace(update, changes=tuple(changes), own_until_ns=state.own_until_ns)
        if changes
        else None
    ), settled


def awaited(update: Update, state: ComponentState) -> list[int]:
    """Return the entries of an update that wait for an upload."""
    return [
        part.place.seq
        for change in update.changes
        for part in _apart(update.component_id, change, state).waiting
    ]


def in_turns(action: Action, state: ComponentState) -> Iterator[Action]:
    """Yield the actions that one planned action becomes.

    An update becomes up to three kinds: the update now, what needs no request, and the update
    after the uploads.
    """
    if not isinstance(action, Update):
        yield action
        return
    now, settled = resolve(action, state)
    if now is not None:
        yield now
    yield from settled
    waiting = [
        (change, _apart(action.component_id, change, state).waiting) for change in action.changes
    ]
    later = tuple(Change.of(change.map, change.key, parts) for change, parts in waiting if parts)
    if later:
        yield replace(action, changes=later)


class _Apart(NamedTuple):
    """Divide the entries of a change: to send now, waiting for an upload, settled."""

    ready: list[Part]
    waiting: list[Part]
    settled: list[Settle]


def _apart(component_id: int, change: Change, state: ComponentState) -> _Apart:
    apart = _Apart([], [], [])
    for part in change.each:
        later = (
            state.overridden_by(change.map, change.key, part.place)
            if change.map != "status"
            else None
        )
        if later is not None:
            apart.settled.append(_overridden(component_id, part, later))
        elif not isinstance(part.value, PendingArtifact):
            apart.ready.append(part)
        elif part.value.blob in state.locations:
            artifact = Artifact(state.locations[part.value.blob][0], part.value.media_type)
            apart.ready.append(part._replace(value=artifact))
        elif part.value.blob in state.refused:
            seqs = (part.place.seq,)
            apart.settled.append(Settle(component_id, seqs, "quarantined", _NOT_UPLOADED))
        else:
            apart.waiting.append(part)
    if apart.waiting and apart.ready and apart.ready[-1].place.is_before(apart.waiting[-1].place):
        # The last value counts, and it waits. To send an earlier one now would waste a request.
        return _Apart([], parts_in_order((*apart.ready, *apart.waiting)), apart.settled)
    return apart


def _read(
    entry: Entry, component: _Component, state: ComponentState, can: Capabilities
) -> Settle | None:
    """Add one entry to its component, or return why it can't be sent."""
    try:
        if entry.unsound:
            problem: str | None = f"the entry can't be read: {entry.unsound}"
        else:
            problem = can.refuses(entry) or out_of_bounds(entry)
        if problem is None and (left_out := _left_out(entry, can)) is not None:
            return Settle(entry.component_id, (entry.seq,), "superseded", left_out)
        if problem is None and entry.kind == vocabulary.LOCAL:
            # Only in a copy whose records of settlements were lost.
            return Settle(entry.component_id, (entry.seq,), "superseded", vocabulary.LOCAL_STAYS)
        if problem is None:
            problem = _add(entry, component, state, can)
        if (
            problem
            and can.parameters_file
            and vocabulary.is_for_file(entry)
            and not (entry.unsound or out_of_bounds(entry))
        ):
            return Settle(entry.component_id, (entry.seq,), "superseded", vocabulary.IN_FILE)
    # Also JSONDecodeError: the payload is damaged or crafted.
    except ValueError as error:
        problem = f"the entry can't be read: {error}"
    return Settle(entry.component_id, (entry.seq,), "quarantined", problem) if problem else None


def _left_out(entry: Entry, can: Capabilities) -> str | None:
    """Return why nothing of an entry is sent, if the remote has no place for its kind."""
    if entry.kind == vocabulary.NOTE:
        vocabulary.note_of(entry)
        return None if can.note_tag else NOTE_STAYS
    if entry.kind == vocabulary.LABEL:
        vocabulary.label_of(entry)
        return None if can.labels(entry.name or "") else LABEL_STAYS.format(service=can.service)
    if entry.kind == vocabulary.OUTPUT and can.by_name and "sha256" in entry.detail:
        return FILE_IS_THERE.format(service=can.service)
    if vocabulary.is_of_parameters_file(entry) and not can.parameters_file:
        return FILE_STAYS
    if entry.kind == vocabulary.LINEAGE and not can.lineage:
        return LINEAGE_STAYS.format(service=can.service)
    return None


def _add_grouping(entry: Entry, component: _Component) -> str | None:
    if entry.kind in groups.MEMBERSHIPS:
        moved = (entry.kind, *groups.membership_of(entry))
        if moved not in component.trials and len(component.trials) >= limits.ASSOCIATIONS_MAX:
            most = limits.ASSOCIATIONS_MAX
            return f"the component goes into {most} trials already, which is the limit of one sync"
        component.trials.add(moved)
    component.grouping.append(entry)
    return None


def _add(
    entry: Entry, component: _Component, state: ComponentState, can: Capabilities
) -> str | None:
    if entry.kind == vocabulary.METRIC:
        component.metrics.append(entry)
        return None
    if entry.kind in MAP_OF_KIND:
        return _add_change(entry, component, state, can)
    detail = entry.detail
    if entry.kind == vocabulary.CREATE:
        required_text(detail, "owner")
        component.creates.append(entry)
    elif entry.kind == vocabulary.LOAD:
        component.loads.append(entry)
    elif entry.kind in groups.GROUPING:
        return _add_grouping(entry, component)
    elif entry.kind in {vocabulary.TAGS, vocabulary.NOTE, vocabulary.LABEL}:
        grouping.told_by(entry, can.note_tag)
        component.tags.append(entry)
    elif entry.kind == vocabulary.LINEAGE:
        artifact = entry.name or "", required_text(detail, "type")
        link = blob_of(entry), *artifact, required_text(detail, "direction")
        component.links[link].append(entry.seq)
    else:
        component.uploads[blob_of(entry)].append(entry)
    return None


def _add_change(
    entry: Entry, component: _Component, state: ComponentState, can: Capabilities
) -> str | None:
    field_map = MAP_OF_KIND[entry.kind]
    key = entry.name or ""
    value = _value(entry)
    parts = component.changes.get((field_map, key))
    if parts is None:
        if field_map != "status":
            held, taken = state.keys.get(field_map, frozenset()), component.keys[field_map]
            keys_max = can.keys_max.get(field_map)
            if keys_max is not None and key not in held and len(held | taken) >= keys_max:
                most = f"{keys_max} {field_map.replace('_', ' ')}"
                return f"the component has {most} already, which is {can.service}'s limit"
            taken.add(key)
        parts = component.changes[field_map, key] = []
    parts.append(
        Part(Place(entry.seq, entry.recorded_at_ns, state.origins.get(entry.writer_id, 0)), value)
    )
    return None


def _value(entry: Entry) -> FieldValue:
    """Return what an entry sets. A number that is not finite is sent as its text."""
    if entry.kind == vocabulary.PARAMETER and entry.value is None and "exact" in entry.detail:
        return vocabulary.sent_parameter(vocabulary.parameter_of(entry))
    return value_of(entry)


def _update(
    component: _Component, state: ComponentState, replaced: Mapping[int, int]
) -> list[Action]:
    """Return the update with the last value of each key, and what is settled.

    A reference to a content that is ``replaced`` waits for no upload: a later one has its name.
    """
    settled: list[Action] = []
    changes = []
    gone = {
        blob
        for blob, entries in component.uploads.items()
        if replaced and blob not in state.locations and all(e.seq in replaced for e in entries)
    }
    for (field_map, key), parts in component.changes.items():
        left = []
        *earlier, last = parts_in_order(parts)
        for part in (*earlier, last):
            value = part.value
            if part is not last and isinstance(value, PendingArtifact) and value.blob in gone:
                settled.append(_overridden(component.component_id, part, last.place.seq))
                continue
            later = state.overridden_by(field_map, key, part.place)
            open_value = value if later is None else _left_open(part, state)
            if open_value is not None:
                left.append(part._replace(value=open_value))
            elif later is not None:
                settled.append(_overridden(component.component_id, part, later))
        if left:
            changes.append(Change.of(field_map, key, left))
    return (
        [*settled, Update(component.component_id, component.name, tuple(changes))]
        if changes
        else settled
    )


def _left_open(part: Part, state: ComponentState) -> Status | None:
    """Return what later status calls that arrived first leave open of an earlier one."""
    if not isinstance(part.value, Status):
        return None
    later: FieldValue = Status()
    for each in state.statuses:
        if part.place.is_before(each.place):
            later = merge_status(later, each.value)
    if not isinstance(later, Status):
        return None
    own = part.value
    left = Status(
        primary=own.primary if later.primary is None else None,
        message=own.message if later.primary is None and later.message is None else None,
        start_ns=own.start_ns if later.start_ns is None else None,
        end_ns=own.end_ns if later.end_ns is None else None,
    )
    return left if left != Status() else None


def _overridden(component_id: int, part: Part, later: int) -> Settle:
    return Settle(component_id, (part.place.seq,), "superseded", f"entry {later} overrides it")


def _requests(component: _Component, state: ComponentState, can: Capabilities) -> list[Action]:
    where = (component.component_id, component.name)
    actions: list[Action] = []
    made = component.creates + component.loads
    if not (
        made
        or component.grouping
        or component.tags
        or component.uploads
        or component.links
        or component.changes
        or component.metrics
        or component.points
    ):
        # All its entries were refused: no request needs the component.
        return []
    if not groups.is_run(component.name):
        return [*grouping.declarations(*where, component.grouping, state)]
    if not state.confirmed:
        actions.append(_ensure(component, state))
    elif made:
        seqs = tuple(e.seq for e in made)
        actions.append(
            Settle(component.component_id, seqs, "superseded", "the component was confirmed before")
        )
    if component.grouping:
        actions += grouping.memberships(*where, component.grouping, state)
    actions += grouping.tags(*where, component.tags, state, can.note_tag)
    replaced = _replaced(component) if can.by_name else {}
    return [
        *actions,
        *_uploads(component, state, can, replaced),
        *_update(component, state, replaced),
        *_links(component, state),
    ]


def _replaced(component: _Component) -> dict[int, int]:
    """Return the pending uploads that later ones of their names replace, by ``seq``."""
    replaced: dict[int, int] = {}
    last: dict[str | None, int] = {}
    every = itertools.chain.from_iterable(component.uploads.values())
    for entry in sorted(every, key=lambda e: e.seq, reverse=True):
        if entry.name in last:
            replaced[entry.seq] = last[entry.name]
        if entry.detail.get("replaces"):
            last.setdefault(entry.name, entry.seq)
    return replaced


def _uploads(
    component: _Component, state: ComponentState, can: Capabilities, replaced: Mapping[int, int]
) -> Iterator[Upload | Settle]:
    """Yield an upload for each content, or what needs none since the content is there."""
    for seq, later in replaced.items():
        why = f"entry {later} overrides it"
        yield Settle(component.component_id, (seq,), "superseded", why)
    for blob, pending in component.uploads.items():
        uri, receipt_id = state.locations.get(blob, (None, 0))
        entries = [entry for entry in pending if entry.seq not in replaced]
        replacing = frozenset(e.name or "" for e in entries if e.detail.get("replaces"))
        there = [
            e.seq
            for e in entries
            # What replaces may have been replaced: the remote knows.
            if uri is not None
            and (not can.by_name or (e.name not in replacing and uri.endswith(f"/{e.name}")))
        ]
        if there:
            yield Settle(
                component.component_id,
                tuple(there),
                "superseded",
                f"the same content is at {uri}",
                receipt_id,
            )
        left = [entry for entry in entries if entry.seq not in there]
        if left:
            first, *others = dict.fromkeys(entry.name or blob.sha256 for entry in left)
            detail = left[0].detail
            yield Upload(
                component.component_id,
                component.name,
                blob,
                first,
                _size(detail),
                text_or_none(detail.get("media_type")),
                tuple(entry.seq for entry in left),
                tuple(others) if can.by_name else (),
                replacing if can.by_name else frozenset(),
                PartDigests.read(detail.get("parts")),
            )


def _links(component: _Component, state: ComponentState) -> Iterator[Action]:
    """Yield the lineage of contents, whether they are uploaded yet or not."""
    where = (component.component_id, component.name)
    for (blob, name, artifact_type, direction), seqs in component.links.items():
        if blob not in state.locations and blob in state.refused:
            yield Settle(component.component_id, tuple(seqs), "quarantined", _NOT_UPLOADED)
            continue
        uri, _ = state.locations.get(blob, (None, 0))
        yield Link(
            *where,
            blob,
            uri,
            name,
            artifact_type,
            vocabulary.INPUT if direction == vocabulary.INPUT else vocabulary.OUTPUT,
            tuple(seqs),
        )


def _metrics(component: _Component, can: Capabilities) -> Iterator[PutMetrics]:
    """Yield all points of the component, as many to a request as fit, in order of ``seq``."""
    known = _joined(component)
    if known is None:
        return
    writers, places = known.writer_ids, known.writer_seqs
    one_run = len(set(writers)) == 1 and list(places) == [
        *range(places[0], places[0] + len(places))
    ]
    members = zip(known.names, known.values, known.steps, known.timestamps_ns, strict=True)
    points = map(_POINT, members)
    make = PutPoints if can.repeatable else PutMetrics
    for part in _parts(known.names, can):
        mine = places[part]
        runs = ((writers[0], mine[0], mine[-1]),) if one_run else _runs(writers[part], mine)
        yield make(
            component.component_id,
            component.name,
            tuple(itertools.islice(points, len(mine))),
            tuple(known.seqs[part]),
            runs,
        )


def _parts(names: Sequence[str], can: Capabilities) -> Iterator[slice]:
    """Yield which points go together, as the remote takes them."""
    if can.names_max is None:
        for start in range(0, len(names), can.points_max):
            yield slice(start, start + can.points_max)
        return
    start = 0
    seen: set[str] = set()
    for place, name in enumerate(names):
        is_full = len(seen) == can.names_max and name not in seen
        if is_full or place - start == can.points_max:
            yield slice(start, place)
            start, seen = place, set()
        seen.add(name)
    yield slice(start, len(names))


def _joined(component: _Component) -> Points | None:
    """Return the component's points as columns, also those read as entries."""
    known = component.points
    if not component.metrics:
        return known
    rows = [(e.seq, e.writer_id, e.writer_seq, *_point(e)) for e in component.metrics]
    if known is not None:
        columns = (
            known.seqs,
            known.writer_ids,
            known.writer_seqs,
            known.names,
            known.values,
            known.steps,
            known.timestamps_ns,
        )
        rows += zip(*columns, strict=True)
        rows.sort(key=lambda row: row[0])
    return Points(component.component_id, component.name, *zip(*rows, strict=True))


def _runs(writers: Iterable[int], places: Iterable[int]) -> tuple[Run, ...]:
    runs: list[list[int]] = []
    for writer, place in zip(writers, places, strict=True):
        if runs and runs[-1][0] == writer and place == runs[-1][2] + 1:
            runs[-1][2] = place
        else:
            runs.append([writer, place, place])
    return tuple((writer, first, last) for writer, first, last in runs)


def _ensure(component: _Component, state: ComponentState) -> Ensure:
    details = [e.detail for e in component.creates]
    mode: Mode = "load"
    if any(d.get("resume") for d in details) or (details and component.loads):
        mode = "resume"
    elif details:
        mode = "create"
    elif any(e.detail.get("job") for e in component.loads):
        mode = "job"
    first = details[0] if details else {}
    tags = first.get("tags")
    parts = component.changes.get(("status", ""), ())
    starts = (part.value.start_ns for part in parts if isinstance(part.value, Status))
    joined = (e for e in component.grouping if e.kind == vocabulary.ASSOCIATE)
    named = (text_or_none(e.detail.get("full_name")) or groups.membership_of(e)[0] for e in joined)
    spec = ComponentSpec(
        name=component.name,
        owner=text_or_none(first.get("owner")) or "",
        display_name=next(
            (d["display_name"] for d in reversed(details) if text_or_none(d.get("display_name"))),
            None,
        ),
        tags=tuple((str(k), str(v)) for k, v in tags.items()) if isinstance(tags, dict) else (),
        experiment=next((experiment for experiment in named if experiment), None),
        start_ns=next((start for start in starts if start is not None), None),
    )
    seqs = tuple(e.seq for e in component.creates + component.loads)
    return Ensure(
        component.component_id,
        component.name,
        spec,
        mode,
        state.create_attempted or mode != "create",
        seqs,
        state.create_attempted,
    )


def _point(entry: Entry) -> MetricPoint:
    timestamp_ns = entry.recorded_at_ns if entry.timestamp_ns is None else entry.timestamp_ns
    value = float(entry.detail["exact"]) if entry.value is None else entry.value
    return MetricPoint(entry.name or "", value, entry.step, timestamp_ns)


def _size(detail: Mapping[str, object]) -> int:
    value = detail.get("size")
    return value if isinstance(value, int) and 0 <= value < 2**63 else 0
