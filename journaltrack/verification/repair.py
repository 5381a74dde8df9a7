"""Make what a verification found missing pending again, for the next pass.

This changes the journal, and needs the lease. It removes nothing from the remote, and overwrites no
object.

The service stores a point twice if it is sent twice. So points are sent again only where it is
proven that the remote has none: for a metric, or a step, of which the service shows no point. The
points must have been delivered before the verification began.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from journaltrack.journal.queries import ARRIVED
from journaltrack.journal.vocabulary import (
    ASSOCIATE,
    CREATE,
    DISASSOCIATE,
    EXPERIMENT,
    LABEL,
    LINEAGE,
    LOAD,
    NOTE,
    STATUS,
    TAGS,
    TRIAL,
)
from journaltrack.replay.evidence.anchors import bucket_used
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.util.intervals import contains
from journaltrack.verification.diff import Difference

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.journal.vocabulary import BlobRef
    from journaltrack.replay.lease import Lease

_OF_COMPONENT: Final = f"WHERE e.component_id = ? AND {ARRIVED}"
_DELIVERED: Final = f"FROM entry e JOIN delivery d ON d.seq = e.seq {_OF_COMPONENT}"
_BY_ENTRY: Final = {"parameter", "input", "output", "lineage", "trial", "tag"}
"""Differences whose entry alone is sent again."""


def reopen(
    database: Database,
    lease: Lease,
    differences: Sequence[Difference],
    *,
    read_at_ns: int,
    receipt_id: int,
) -> int:
    """Make the entries behind repairable differences pending again.

    Args:
        database: The journal's database, for writing.
        lease: The lease that the caller holds.
        differences: The differences that a verification found.
        read_at_ns: When the verification began, nanoseconds since the epoch. Points delivered later
            stay delivered.
        receipt_id: The journal's newest receipt at that time: the same limit, if clocks are wrong.

    Returns:
        How many entries became pending.
    """
    settlement = Settlement(database, lease)
    reopened = 0
    for difference in differences:
        if not difference.repairable:
            continue
        component_id, why, absent = difference.component_id, difference.kind, False
        if difference.what == "component":
            seqs, absent = _all_of(database, component_id), True
        elif difference.what == "metric":
            seqs = _points(database, difference, read_at_ns, receipt_id)
        elif difference.what == "status":
            seqs = _of_kind(database, component_id, STATUS)
        elif difference.what in _BY_ENTRY and difference.seq is not None:
            seqs = [difference.seq]
        elif difference.what in {EXPERIMENT, TRIAL}:
            seqs = _of_kind(database, component_id, EXPERIMENT, TRIAL)
        elif difference.what == "object" and difference.blob is not None:
            seqs = _of_blob(database, component_id, difference.blob)
        else:
            continue
        reopened += settlement.reopen(component_id, seqs, why, blob=difference.blob, absent=absent)
    return reopened


def by_bucket(differences: Sequence[Difference]) -> dict[tuple[str, str] | None, list[Difference]]:
    """Group differences by the bucket that was used in place of the recorded one.

    Returns:
        Differences by (recorded bucket or '' for the default, used bucket). The key None has those
        whose bucket was not replaced.
    """
    found: dict[tuple[str, str] | None, list[Difference]] = {}
    for each in differences:
        replaced = None
        if each.blob is not None and each.name is not None and each.name.startswith("s3://"):
            recorded, actual = (
                each.blob.bucket or "",
                each.name.removeprefix("s3://").partition("/")[0],
            )
            used = bucket_used(recorded, actual)
            replaced = (recorded, used) if used is not None and used != recorded else None
        found.setdefault(replaced, []).append(each)
    return found


def _all_of(database: Database, component_id: int) -> list[int]:
    """Return the entries that make the component and its state.

    Its metrics and its blobs are left out: what the remote shows of them decides.
    """
    held = database.read("SELECT seq FROM field WHERE component_id = ?", (component_id,))
    making = (CREATE, LOAD, ASSOCIATE, DISASSOCIATE, TAGS, LABEL, NOTE, STATUS, LINEAGE)
    return sorted({*_of_kind(database, component_id, *making), *(seq for (seq,) in held)})


def _of_kind(database: Database, component_id: int, *kinds: str) -> list[int]:
    of_kinds = "e.kind IN (SELECT value FROM json_each(?))"
    rows = database.read(
        f"SELECT e.seq {_DELIVERED} AND e.stream <> 'metric' AND {of_kinds} ORDER BY e.seq",
        (component_id, json.dumps(kinds)),
    )
    return [seq for (seq,) in rows]


def _of_blob(database: Database, component_id: int, blob: BlobRef) -> list[int]:
    """Return a blob's uploads, its lineage, and the references that the component holds now.

    A new upload may get another URI.
    """
    rows = database.read(
        f"SELECT e.seq {_DELIVERED} AND e.stream <> 'metric' "
        "AND (e.kind IN ('upload', 'lineage') OR EXISTS (SELECT 1 FROM field f WHERE "
        "f.component_id = e.component_id AND f.seq = e.seq)) "
        "AND CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.sha256') = ? "
        "AND coalesce(json_extract(e.payload, '$.bucket'), '') = ? "
        "AND coalesce(json_extract(e.payload, '$.prefix'), '') = ? ELSE 0 END ORDER BY e.seq",
        (component_id, blob.sha256, blob.bucket or "", blob.prefix or ""),
    )
    return [seq for (seq,) in rows]


def _points(
    database: Database, difference: Difference, read_at_ns: int, receipt_id: int
) -> list[int]:
    rows = database.read(
        f"SELECT e.seq, e.step {_DELIVERED} AND d.outcome = 'delivered' "
        "AND e.stream = 'metric' AND e.name = ? AND d.settled_at_ns <= ? "
        "AND d.receipt_id <= ? ORDER BY e.seq",
        (difference.component_id, difference.name, read_at_ns, receipt_id),
    )
    if not difference.steps:
        return [seq for seq, _ in rows]
    return [seq for seq, step in rows if isinstance(step, int) and contains(difference.steps, step)]
