"""Read what a journal delivered, as claims that ``diff`` compares.

Changes nothing.

For each key, the remote holds the value of the entry that ``field`` names. Status calls merge in
the order in which they were recorded. Blobs are where ``location`` says. One scan of the journal
sums up the metrics of many components.

A journal may come from somebody else: its columns may have any type. An entry that can't be read is
named, and nothing is claimed of it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.journal import groups, queries, removed, view
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
    value_of,
)
from journaltrack.journal.queries import ENTRY_COLUMNS, HAS_ARRIVED, PROBLEM, origins
from journaltrack.journal.sqlite import files
from journaltrack.journal.vocabulary import (
    ASSOCIATE,
    CREATE,
    LABEL,
    LINEAGE,
    LOAD,
    NOTE,
    OUTPUT,
    OWN_LABEL,
    TAGS,
    BlobRef,
    Entry,
    entry_of,
)
from journaltrack.replay.plan.grouping import told_by
from journaltrack.replay.remote import ArtifactLink
from journaltrack.util import paths
from journaltrack.util.digest import is_digest
from journaltrack.util.text import text_or_none
from journaltrack.verification.diff import (
    Claims,
    FieldClaim,
    GroupClaim,
    LinkClaim,
    MetricClaim,
    ObjectClaim,
    PointKey,
    StatusClaim,
    TagClaim,
)

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.journal import ComponentRow, Journal
    from journaltrack.journal.removed import RemovedMetric
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.remote import Capabilities

STEPS_MAX: Final = 100_000
"""Our limit: how many steps of one metric are compared one by one. It bounds the memory."""
# typeof and abs: SQLite keeps values of any type in any column, and infinity.
_IS_NUMBER: Final = "typeof(e.value) = 'real' AND abs(e.value) < 9e999"
_IS_POINT: Final = (
    f"e.stream = 'metric' AND e.kind = 'metric' AND typeof(e.name) = 'text' AND {_IS_NUMBER}"
)
_POINTS: Final = f"FROM entry e JOIN delivery d ON d.seq = e.seq WHERE {_IS_POINT}"
_LOGGED: Final = (
    "FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
    "WHERE e.stream = 'metric' AND e.kind = 'metric' AND typeof(e.name) = 'text'"
)
_NOT_FINITE: Final = frozenset({"nan", "inf", "-inf"})
_MAYBE_POINTS: Final = f"FROM entry e LEFT JOIN delivery d ON d.seq = e.seq WHERE {_IS_POINT}"


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Numbers of entries of which nothing is claimed.

    ``pending`` includes those in flight.
    """

    pending: int = 0
    in_doubt: int = 0
    quarantined: int = 0

    @property
    def any(self) -> bool:
        """Return whether there are any."""
        return bool(self.pending or self.in_doubt or self.quarantined)


def undelivered(database: Database, component_ids: str | None) -> Undelivered:
    """Count the entries of some components that are not delivered.

    Args:
        database: The journal's database.
        component_ids: Their ids as a JSON array; None for all components.
    """
    wanted = "(? IS NULL OR e.component_id IN (SELECT value FROM json_each(?)))"
    of_these = (component_ids, component_ids)
    ((pending,),) = database.read(
        f"SELECT count(*) {queries.PENDING} AND {wanted}",
        of_these,
    )
    joined = "FROM delivery d JOIN entry e ON e.seq = d.seq"
    problems = dict(
        database.read(
            f"SELECT d.outcome, count(*) {joined} WHERE {PROBLEM} AND {wanted} GROUP BY d.outcome",
            of_these,
        )
    )
    return Undelivered(pending, problems.get("in doubt", 0), problems.get("quarantined", 0))


def read(
    journal: Journal, rows: Sequence[ComponentRow], note_tag: str | None = None
) -> list[Claims]:
    """Return what was delivered of these components.

    Components of which nothing was delivered are left out. ``note_tag``: see ``Capabilities``.
    """
    database = journal.database
    with view.snapshot(database):
        metrics = _metrics(database, rows)
        found = [_claims(journal, row, metrics.get(row.id, {}), note_tag) for row in rows]
    return [claims for claims in found if claims is not None]


def logged(database: Database, claims: Claims) -> Callable[[str, float], bool]:
    """Return a function that says whether a value was logged for a metric.

    It reads backwards from the newest point: points that AWS took in another order were logged
    close together.
    """

    def is_logged(name: str, value: float) -> bool:
        """Return whether the journal has a point of this value that may have arrived."""
        margin = abs(value) * 1e-6
        found = database.read(
            f"SELECT 1 {_MAYBE_POINTS} "
            "AND (d.outcome IS NULL OR d.outcome IN ('delivered', 'in doubt')) "
            "AND e.component_id = ? AND e.name = ? AND e.seq <= ? "
            "AND e.value BETWEEN ? AND ? ORDER BY e.seq DESC LIMIT 1",
            (
                claims.component_id,
                name,
                claims.metrics[name].last_seq,
                value - margin,
                value + margin,
            ),
        )
        return bool(found)

    return is_logged


def steps_of(database: Database, component_id: int, name: str) -> dict[int, int] | None:
    """Count a metric's delivered points by step.

    None if a point has no step, or if there are more than ``STEPS_MAX`` steps.
    """
    of_metric = "e.component_id = ? AND e.name = ? GROUP BY e.step LIMIT ?"
    rows = database.read(
        f"SELECT e.step, count(*) {_POINTS} AND d.outcome = 'delivered' AND {of_metric}",
        (component_id, name, STEPS_MAX + 1),
    )
    sound = all(isinstance(step, int) and 0 <= step <= limits.STEP_MAX for step, _ in rows)
    return dict(rows) if sound and 0 < len(rows) <= STEPS_MAX else None


def metrics_of(database: Database, component_id: int) -> list[str]:
    """Return the names of the metrics of which points were delivered, NaN among them."""
    rows = database.read(
        f"SELECT DISTINCT e.name {_LOGGED} AND d.outcome = 'delivered' AND e.component_id = ?",
        (component_id,),
    )
    return [name for (name,) in rows]


def points_of(
    database: Database, component_id: int, name: str, can: Capabilities
) -> tuple[set[PointKey], set[PointKey]]:
    """Return a metric's points as a service keeps them: those delivered, and the others."""
    found: tuple[set[PointKey], set[PointKey]] = (set(), set())
    rows = database.read(
        "SELECT e.value, CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.exact') "
        f"END, e.step, e.timestamp_ns, e.recorded_at_ns, d.outcome {_LOGGED} "
        "AND e.component_id = ? AND e.name = ?",
        (component_id, name),
    )
    for value, exact, step, timestamp_ns, recorded_at_ns, outcome in rows:
        number = float(exact) if value is None and exact in _NOT_FINITE else value
        at_ns = recorded_at_ns if timestamp_ns is None else timestamp_ns
        if isinstance(number, float) and isinstance(at_ns, int) and outcome != "quarantined":
            found[outcome != "delivered"].add(point_key(number, step or 0, at_ns, can))
    return found


def point_key(value: float, step: int, at_ns: int, can: Capabilities) -> PointKey:
    """Return a point as a service keeps it."""
    return repr(can.held_point(value)), step, at_ns // (can.time_ns or 1)


def last_receipt(database: Database, component_id: int) -> int:
    """Return the newest receipt about the component; 0 if there is none.

    If it changes, a request was sent meanwhile.
    """
    ((newest,),) = database.read(
        "SELECT coalesce(max(id), 0) FROM receipt WHERE component_id = ?", (component_id,)
    )
    return int(newest)


def _claims(
    journal: Journal,
    row: ComponentRow,
    metrics: Mapping[str, MetricClaim],
    note_tag: str | None,
) -> Claims | None:
    database = journal.database
    claims = Claims(row.id, row.name, last_receipt(database, row.id), metrics=metrics)
    if not groups.is_run(row.name):
        return _declared(database, claims)
    locations = {
        BlobRef(sha256, bucket or None, prefix or None): (uri, size_bytes)
        for sha256, bucket, prefix, uri, size_bytes in database.read(
            "SELECT l.sha256, l.bucket, l.prefix, l.uri, b.size_bytes "
            "FROM location l LEFT JOIN blob b ON b.sha256 = l.sha256 "
            "WHERE l.component_id = ? AND typeof(l.sha256) = 'text' AND typeof(l.uri) = 'text' "
            "ORDER BY l.receipt_id",
            (row.id,),
        )
    }
    uris = {blob: uri for blob, (uri, _) in locations.items()}
    last = {uri: blob for blob, uri in uris.items()}
    reading = _Reading(uris, origins(database.read), note_tag)
    held = {
        seq for (seq,) in database.read("SELECT seq FROM field WHERE component_id = ?", (row.id,))
    }
    for *columns, outcome, receipt_id in _state_rows(database, row.id):
        entry = entry_of(tuple(columns))
        reading.add(entry, outcome, receipt_id, is_held=entry.seq in held)
    objects = tuple(
        ObjectClaim(
            uri,
            blob,
            size if isinstance(size, int) else None,
            _in_spool(journal.path / paths.SPOOL, blob.sha256, size),
        )
        for blob, (uri, size) in locations.items()
        # A later content may have replaced it.
        if last[uri] == blob
    )
    found = replace(reading.result(claims), objects=objects)
    delivered = bool(
        found.fields
        or found.status
        or reading.there
        or any(metric.points for metric in metrics.values())
    )
    return found if delivered or objects else None


def _declared(database: Database, claims: Claims) -> Claims | None:
    """Return the claims about an experiment or trial; None if no declaration arrived."""
    known_origins = origins(database.read)
    arrived: list[Entry] = []
    pending: list[Entry] = []
    for *columns, outcome, _ in _state_rows(database, claims.component_id):
        entry = entry_of(tuple(columns))._replace(component=claims.name)
        if entry.kind in groups.GROUPING and groups.is_readable(entry):
            if outcome == "delivered":
                arrived.append(entry)
            elif outcome is None:
                pending.append(entry)
    if not arrived:
        return None
    told = groups.declared_by(arrived, known_origins)
    may_be = groups.declared_by(pending, known_origins).change if pending else None
    # Without a change it may have been there, with values of its own.
    bare = replace(told.make, display_name=None, description=None, tags=())
    return replace(claims, group=GroupClaim(told.change or bare, may_be))


def _state_rows(database: Database, component_id: int) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a component's state, with their outcome and receipt.

    Leaves out metrics, uploads and values that later ones override. Reads 10,000 entries at a time.
    """
    after_seq = 0
    while True:
        rows = database.read_page(
            f"SELECT {ENTRY_COLUMNS}, d.outcome, d.receipt_id "
            "FROM entry e LEFT JOIN delivery d ON d.seq = e.seq WHERE e.component_id = ? "
            "AND e.stream <> 'metric' AND e.kind <> 'upload' AND e.seq > ? "
            "AND (d.outcome IS NOT 'superseded' OR e.kind IN ('status', 'create', 'load')) "
            "ORDER BY e.seq LIMIT 10000",
            (component_id, after_seq),
        )
        if not rows:
            return
        yield from rows
        after_seq = rows[-1][0]


class _Reading:
    """Fold one component's entries into its claims."""

    def __init__(
        self,
        locations: Mapping[BlobRef, str],
        known_origins: Mapping[int, int],
        note_tag: str | None,
    ) -> None:
        # Whether the remote confirmed the component.
        self.there = False
        self._locations = locations
        self._origins = known_origins
        self._note_tag = note_tag
        self._owner: str | None = None
        self._owners: set[str] = set()
        self._display_name: str | None = None
        self._shared = False
        self._fields: dict[tuple[FieldMap, str], FieldClaim] = {}
        self._later: dict[tuple[FieldMap, str], list[str | float | Artifact]] = defaultdict(list)
        # By receipt. The boolean says whether the part was the last one of its request.
        self._statuses: dict[int, list[tuple[Part, bool]]] = defaultdict(list)
        self._later_status: list[Status] = []
        self._named: set[tuple[FieldMap, str]] = set()
        # By link: the entry.
        self._links: dict[ArtifactLink, int] = {}
        self._memberships: list[Entry] = []
        self._tags: list[tuple[Entry, bool]] = []
        self._unreadable: list[int] = []

    def add(self, entry: Entry, outcome: object, receipt_id: object, *, is_held: bool) -> None:
        """Add one entry, in order of ``seq``.

        Args:
            entry: The entry.
            outcome: Its delivery's outcome; None if it has none.
            receipt_id: Its delivery's receipt.
            is_held: Whether the table ``field`` names it.
        """
        try:
            if entry.unsound:
                raise ValueError(entry.unsound)  # noqa: TRY301 - handled like a decoding error
            if entry.kind in MAP_OF_KIND:
                self._add_field(entry, outcome, receipt_id, is_held=is_held)
            elif entry.kind in {CREATE, LOAD} and outcome in HAS_ARRIVED:
                self._add_origin(entry, outcome)
            elif entry.kind == LINEAGE and outcome == "delivered":
                self._add_link(entry)
            elif entry.kind in {TAGS, LABEL, NOTE} and outcome in {"delivered", None}:
                told_by(entry, self._note_tag)
                self._tags.append((entry, outcome is None))
            elif entry.kind in groups.MEMBERSHIPS and outcome == "delivered":
                groups.trial_of(entry)
                self._memberships.append(entry)
        except ValueError:
            if outcome == "delivered":
                self._unreadable.append(entry.seq)

    def _add_origin(self, entry: Entry, outcome: object) -> None:
        detail = entry.detail
        self.there = True
        self._shared |= entry.kind == LOAD or bool(detail.get("resume"))
        if entry.kind == CREATE and outcome == "delivered":
            owner = text_or_none(detail.get("owner"))
            self._owner = self._owner or owner
            self._owners |= {owner} if owner is not None else set()
            self._display_name = text_or_none(detail.get("display_name")) or self._display_name

    def _add_link(self, entry: Entry) -> None:
        blob = blob_of(entry)
        if blob in self._locations:
            link = ArtifactLink(
                component=entry.component,
                uri=self._locations[blob],
                sha256=blob.sha256,
                name=entry.name or "",
                artifact_type=required_text(entry.detail, "type"),
                is_output=entry.detail.get("direction") == OUTPUT,
                bucket=blob.bucket,
                prefix=blob.prefix,
            )
            self._links[link] = entry.seq

    def _add_field(
        self, entry: Entry, outcome: object, receipt_id: object, *, is_held: bool
    ) -> None:
        field_map = MAP_OF_KIND[entry.kind]
        place = (field_map, entry.name or "")
        value = value_of(entry) if outcome != "quarantined" else None
        if isinstance(value, Status):
            if outcome is None:
                self._later_status.append(value)
            elif outcome in HAS_ARRIVED and isinstance(receipt_id, int):
                part = Part(
                    Place(entry.seq, entry.recorded_at_ns, self._origins.get(entry.writer_id, 0)),
                    value,
                )
                self._statuses[receipt_id].append((part, outcome == "delivered"))
            return
        if outcome != "delivered":
            self._named.add(place)
        held = self._resolved(value)
        if held is None:
            return
        if outcome == "delivered" and is_held:
            self._fields[place] = FieldClaim(held, entry.seq, recorded_at_ns=entry.recorded_at_ns)
        elif outcome is None:
            self._later[place].append(held)

    def _resolved(self, value: FieldValue | None) -> str | float | Artifact | None:
        if isinstance(value, PendingArtifact):
            uri = self._locations.get(value.blob)
            return None if uri is None else Artifact(uri, value.media_type)
        return None if isinstance(value, Status) else value

    def result(self, claims: Claims) -> Claims:
        """Return the claims, completed with the added entries."""
        fields = {
            place: replace(claim, also=tuple(self._later.get(place, ())))
            for place, claim in self._fields.items()
        }
        return replace(
            claims,
            owner=self._owner,
            owners=frozenset(self._owners),
            exclusive=self._owner is not None and not self._shared,
            display_name=self._display_name,
            fields=fields,
            status=self._status(),
            trials={
                groups.trial_of(entry): entry.seq
                for entry in groups.memberships(self._memberships, self._origins).values()
                if entry.kind == ASSOCIATE and groups.trial_of(entry)
            },
            tags=self._tag_claims(),
            named=frozenset(self._named),
            links=tuple(
                LinkClaim(replace(link, component=claims.name), seq)
                for link, seq in self._links.items()
            ),
            unreadable=tuple(self._unreadable),
        )

    def _tag_claims(self) -> dict[str, TagClaim]:
        found: dict[str, TagClaim] = {}
        pending = {entry.seq for entry, is_pending in self._tags if is_pending}
        for entry in groups.ordered([entry for entry, _ in self._tags], self._origins):
            for key, value in told_by(entry, self._note_tag).items():
                is_pending = entry.seq in pending
                if value is None or key.startswith(OWN_LABEL):
                    # Gone, or about to go, or no tag.
                    found.pop(key, None)
                elif not is_pending:
                    found[key] = TagClaim(value, entry.seq)
                elif key in found:
                    found[key] = replace(found[key], also=value)
        return found

    def _status(self) -> StatusClaim | None:
        """Merge the delivered statuses in the order in which they were recorded.

        A request that ended in quarantine delivered none of its entries.
        """
        sent = [
            [part for part, _ in group]
            for group in self._statuses.values()
            if any(was_last for _, was_last in group)
        ]
        merged: Status | None = None
        last_seq = 0
        for part in parts_in_order(part for group in sent for part in group):
            if isinstance(part.value, Status):
                # SageMaker accepts no message without a status.
                value = (
                    part.value
                    if part.value.primary is not None
                    else part.value._replace(message=None)
                )
                merged, last_seq = _merged(merged, value), part.place.seq
        if merged is None:
            return None
        also = []
        later = merged
        for value in self._later_status:
            later = _merged(later, value)
            also.append(later)
        return StatusClaim(merged, last_seq, tuple(also))


def _merged(earlier: Status | None, later: Status) -> Status:
    merged = merge_status(earlier, later)
    return merged if isinstance(merged, Status) else later


def _metrics(database: Database, rows: Sequence[ComponentRow]) -> dict[int, dict[str, MetricClaim]]:
    """Sum up metrics by component and name, in one scan.

    Points in flight count as in doubt: the remote may have them.
    """
    ids = json.dumps([row.id for row in rows])
    summed = (
        "count(*), min(e.value), max(e.value), "
        "max(CASE WHEN typeof(d.settled_at_ns) = 'integer' THEN d.settled_at_ns ELSE 0 END), "
        "max(e.seq) AS last_seq"
    )
    of_these = "e.component_id IN (SELECT value FROM json_each(?)) GROUP BY 1, 2, 3"
    found = database.read(
        "SELECT m.*, (SELECT e.value FROM entry e WHERE e.seq = m.last_seq) "
        f"FROM (SELECT e.component_id, e.name, d.outcome, {summed} "
        f"{_POINTS} AND d.outcome IN ('delivered', 'in doubt') AND {of_these}) m",
        (ids,),
    )
    flying = view.in_flight(database)
    if flying.intervals:
        # CROSS JOIN makes SQLite go from the intervals to the entries: a crafted journal may have
        # very many of both.
        found += database.read(
            f"SELECT m.*, NULL FROM (SELECT e.component_id, e.name, NULL, {summed} "
            "FROM json_each(?) i CROSS JOIN entry e ON e.seq BETWEEN "
            "json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') "
            "LEFT JOIN delivery d ON d.seq = e.seq "
            f"WHERE {_IS_POINT} AND d.seq IS NULL AND {of_these}) m",
            (flying.json, ids),
        )
    claims: dict[int, dict[str, MetricClaim]] = defaultdict(dict)
    for component_id, name, outcome, points, least, most, settled_at_ns, last_seq, last in found:
        known = claims[component_id].get(name, MetricClaim())
        known = replace(known, last_seq=max(known.last_seq, last_seq))
        if outcome == "delivered":
            known = replace(
                known,
                points=points,
                minimum=least,
                maximum=most,
                last=last,
                settled_at_ns=settled_at_ns,
            )
        else:
            known = replace(
                known,
                in_doubt=known.in_doubt + points,
                doubt_minimum=least
                if known.doubt_minimum is None
                else min(least, known.doubt_minimum),
                doubt_maximum=most
                if known.doubt_maximum is None
                else max(most, known.doubt_maximum),
            )
        claims[component_id][name] = known
    ids_of = {str(row.name).lower(): row.id for row in rows}
    for (component, name), gone in removed.metrics(database).items():
        if component in ids_of:
            of_component = claims[ids_of[component]]
            of_component[name] = _with_removed(of_component.get(name, MetricClaim()), gone)
    return claims


def _with_removed(claim: MetricClaim, gone: RemovedMetric) -> MetricClaim:
    """Add the delivered points that were pruned from the journal."""
    return replace(
        claim,
        points=claim.points + gone.points,
        minimum=gone.minimum if claim.minimum is None else min(claim.minimum, gone.minimum),
        maximum=gone.maximum if claim.maximum is None else max(claim.maximum, gone.maximum),
        removed=gone.points,
    )


def _in_spool(spool: Path, sha256: str, size_bytes: object) -> bool:
    """Return whether the spool has the blob, judged by its size alone."""
    if not is_digest(sha256):
        return False
    try:
        with files.opened_blob(spool / sha256[:2] / sha256) as file:
            return size_bytes is None or os.fstat(file).st_size == size_bytes
    except (OSError, ValueError):
        return False
