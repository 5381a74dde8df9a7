"""Compare the journal's tables with its attestations, followed again.

Every attestation is in a chain (``attested``). ``follow`` does with it what it did when it was made
or taken over, but in temporary tables. They are in memory while they are small, and in ``TMPDIR``
beyond that. Where the journal's own tables hold something else, nobody attested it. The module
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.journal.chain import ChainProblem, removed_in, told
from journaltrack.journal.queries import ENTRY_COLUMNS, IS_BEFORE, OVERLOOKED, PROBLEM
from journaltrack.journal.vocabulary import (
    KEYS_MAX,
    LOCAL,
    LOCAL_STAYS,
    UPLOAD,
    entry_of,
    too_many,
    undeliverable,
)
from journaltrack.replay.evidence.follow import Replay, replaying
from journaltrack.replay.evidence.statements import MERGE
from journaltrack.reports.proof.attested import LISTED_MAX, Evidence, Receipts, attestation_problems
from journaltrack.util.intervals import size

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.journal.vocabulary import Entry

_MAP: Final = (
    "CASE e.kind WHEN 'parameter' THEN 'parameters' WHEN 'input' THEN 'input_artifacts' WHEN "
    "'output' THEN 'output_artifacts' WHEN 'status' THEN 'status' END"
)
# Of each key, and of each journal and host that recorded it: in one pass, not one for each field.
_LATEST: Final = (
    f"(SELECT e.component_id AS component_id, {_MAP} AS map, coalesce(e.name, '') AS key, "
    "max(e.seq) AS seq, max(coalesce(d.receipt_id, 0)) AS receipt_id FROM entry e "
    "CROSS JOIN delivery d ON d.seq = e.seq LEFT JOIN writer w ON w.id = e.writer_id "
    "WHERE e.stream <> 'metric' AND e.kind IN ('parameter', 'input', 'output', 'status') "
    "AND d.outcome = 'delivered' GROUP BY 1, 2, 3, w.journal_id, w.host)"
)
_FIELDS: Final = (
    "SELECT DISTINCT f.component_id, f.map, f.key, f.seq FROM field f "
    "LEFT JOIN entry e ON e.seq = f.seq LEFT JOIN delivery d ON d.seq = f.seq "
    f"LEFT JOIN {_LATEST} l ON l.component_id = f.component_id AND l.map = f.map "
    "AND l.key = f.key LEFT JOIN entry o ON o.seq = l.seq WHERE e.seq IS NULL "
    "OR e.component_id IS NOT f.component_id OR e.stream = 'metric' "
    f"OR coalesce(e.name, '') <> f.key OR f.map IS NOT {_MAP} "
    f"OR {PROBLEM} OR (o.seq <> e.seq "
    f"AND {IS_BEFORE.replace('n.', 'e.')}) LIMIT ?"
)
_FIELDS_LOST: Final = (
    f"SELECT l.component_id, l.map, l.key, l.seq FROM {_LATEST} l "
    "LEFT JOIN field f ON f.component_id = l.component_id AND f.map = l.map AND f.key = l.key "
    "WHERE f.seq IS NULL AND l.receipt_id > ? LIMIT ?"
)
_FIRST_OVERLOOKED: Final = f"SELECT e.seq {OVERLOOKED} ORDER BY e.seq LIMIT 1"
_BELOW: Final = (
    "SELECT (SELECT count(*) FROM entry WHERE seq <= ?1), (SELECT count(*) FROM delivery "
    "WHERE seq <= ?1)"
)
# An upload that needed no request of its own may name the one that uploaded the same content. What
# a merge found may name any request. A repair speaks of requests from before it.
_BY_ANOTHER: Final = (
    "CASE WHEN t.receipt_id IS NOT NULL THEN EXISTS (SELECT 1 FROM receipt r "
    f"WHERE r.id = t.receipt_id AND r.action = '{MERGE}') AND (d.receipt_id IS NULL "
    "OR typeof(d.receipt_id) = 'integer') ELSE d.receipt_id BETWEEN 1 AND ? OR EXISTS (SELECT 1 "
    "FROM replayed_upload u JOIN entry e ON e.seq = d.seq WHERE u.receipt_id = d.receipt_id "
    "AND u.component_id = e.component_id AND CASE "
    "WHEN json_valid(e.payload) THEN u.sha256 = json_extract(e.payload, '$.sha256') "
    "AND u.bucket = coalesce(json_extract(e.payload, '$.bucket'), '') "
    "AND u.prefix = coalesce(json_extract(e.payload, '$.prefix'), '') END) END"
)
_OTHERWISE: Final = (
    "SELECT d.seq, d.receipt_id, d.outcome, d.reason, d.settled_at_ns, t.seq IS NOT NULL, "
    "EXISTS (SELECT 1 FROM entry e WHERE e.seq = d.seq) FROM delivery d "
    "LEFT JOIN replayed_delivery t ON t.seq = d.seq WHERE CASE WHEN t.seq IS NULL THEN 1 "
    "ELSE d.outcome IS NOT t.outcome OR d.reason IS NOT t.reason "
    "OR d.settled_at_ns IS NOT t.settled_at_ns OR (d.receipt_id IS NOT t.receipt_id "
    f"AND NOT ({_BY_ANOTHER})) END ORDER BY d.seq"
)
_NOT_RECORDED: Final = (
    "SELECT t.seq, t.outcome, (SELECT a.id FROM attestation a "
    "WHERE a.receipt_id = t.receipt_id), w.uuid FROM replayed_delivery t "
    "JOIN entry e ON e.seq = t.seq LEFT JOIN writer w ON w.id = e.writer_id "
    "WHERE t.seq NOT IN (SELECT seq FROM delivery) ORDER BY t.seq"
)


def record_problems(database: Database) -> tuple[list[ChainProblem], Evidence]:
    """Find broken chains, and records that differ from what was attested.

    The caller holds a snapshot.
    """
    evidence = Evidence()
    legacy = _legacy(database)
    with replaying(database) as replay:
        gaps = removed_in(database.connection)
        replay.number_removed(gaps)
        if any(legacy):
            replay.remember(*legacy)
        receipts = Receipts(database, replay, gaps)
        found = attestation_problems(database, evidence, receipts)
        replay.finish()
        for problems in (
            [*_unattested(database, legacy[0]), *receipts.found],
            _deliveries(database, legacy),
            _missing(database),
            _undelivered_gaps(replay, evidence, legacy[0]),
            _remote(database, legacy[0]),
            _derived(database, evidence),
            _gone(database, evidence),
        ):
            for count, problem in enumerate(problems):
                found.append(problem)
                if count + 1 == LISTED_MAX:
                    found.append(
                        ChainProblem(
                            problem.kind, f"and perhaps more: {LISTED_MAX} are listed at most"
                        )
                    )
                    break
    return found, evidence


def _unattested(database: Database, legacy: int) -> Iterator[ChainProblem]:
    """Yield the finished receipts that nobody attests."""
    rows = database.read(
        "SELECT r.id FROM receipt r WHERE r.finished_at_ns IS NOT NULL AND r.id > ? "
        "AND NOT EXISTS (SELECT 1 FROM attestation a WHERE a.receipt_id = r.id) ORDER BY r.id "
        "LIMIT ?",
        (legacy, LISTED_MAX),
    )
    for (receipt_id,) in rows:
        yield ChainProblem(
            "receipt",
            f"nobody attests the receipt {receipt_id}: it was forged, or its attestation was "
            "removed",
        )


def _legacy(database: Database) -> tuple[int, int]:
    """Return up to which receipt, and which time, nothing needs an attestation."""
    receipt_id, at_ns = database.read("SELECT attested_after_receipt, attested_after_ns FROM meta")[
        0
    ]
    return receipt_id if isinstance(receipt_id, int) else 0, at_ns if isinstance(at_ns, int) else 0


def _deliveries(database: Database, legacy: tuple[int, int]) -> Iterator[ChainProblem]:
    """Yield what became of entries otherwise than attested.

    Of neighbours with the same problem, only the first comes.
    """
    before: tuple[Any, ...] = ()
    for seq, *alike in database.connection.execute(_OTHERWISE, (legacy[0],)):
        receipt_id, outcome, reason, settled_at_ns, is_attested, is_there = alike
        at_once = receipt_id is None and not is_attested and is_there
        if at_once and _settled_at_once(database, seq, outcome, reason, settled_at_ns):
            continue
        at_once = at_once and outcome == "quarantined"
        if before == (seq - 1, *alike):
            before = (seq, *alike)
            continue
        before = (seq, *alike)
        record = f"the record of what became of entry {seq} ({limits.shown(str(outcome))})"
        if not is_there:
            message = f"there is a record of what became of entry {seq}, which is not there"
        elif is_attested:
            message = f"{record} is not what was attested of it"
        elif at_once:
            message = f"{record} does not follow from the entry, and nobody attests it"
        else:
            message = (
                f"{record} is attested by nobody: it was forged, or its attestation was removed"
            )
        yield ChainProblem("delivery", message, seq=seq)


def _settled_at_once(
    database: Database, seq: int, outcome: object, reason: object, settled_at_ns: object
) -> bool:
    """Return whether the append itself settled the entry so: it stays here, or AWS refuses it."""
    entry = _entry(database, seq)
    if entry is None or entry.recorded_at_ns != settled_at_ns:
        return False
    if entry.kind == LOCAL or outcome != "quarantined":
        return (entry.kind, outcome, reason) == (LOCAL, "superseded", LOCAL_STAYS)
    # An upload is refused with its reference, which was recorded right behind it.
    if entry.kind == UPLOAD:
        reference = _entry(database, seq + 1)
        with_it = reference is not None and (reference.writer_id, reference.writer_seq) == (
            entry.writer_id,
            entry.writer_seq + 1,
        )
        entry = (
            reference
            if with_it and reference is not None and reference.name == entry.name
            else None
        )
    return entry is not None and (
        _is_undeliverable(entry, reason) or _is_one_too_many(database, entry, reason)
    )


def _entry(database: Database, seq: int) -> Entry | None:
    columns = database.read(f"SELECT {ENTRY_COLUMNS} FROM entry e WHERE e.seq = ?", (seq,))
    found = entry_of(columns[0]) if columns else None
    return found if found is not None and found.unsound is None else None


def _is_undeliverable(entry: Entry, reason: object) -> bool:
    try:
        problem = undeliverable(entry)
        # Early versions gave the second reason for a number that is too large for a double.
        return problem == reason or (
            problem == limits.too_large("the value") and reason == limits.not_finite("the value")
        )
    except ValueError:
        return False


def _is_one_too_many(database: Database, entry: Entry, reason: object) -> bool:
    """Return whether the component already had the maximum of other keys."""
    if entry.kind not in KEYS_MAX or reason != too_many(entry.kind):
        return False
    keys_max, _ = KEYS_MAX[entry.kind]
    ((keys, same),) = database.read(
        "SELECT count(*), total(name IS ?1) FROM (SELECT DISTINCT e.name FROM entry e "
        "WHERE e.component_id = ?2 AND e.stream <> 'metric' AND e.kind = ?3 AND e.seq < ?4)",
        (entry.name, entry.component_id, entry.kind, entry.seq),
    )
    return bool(keys - same >= keys_max)


def _missing(database: Database) -> Iterator[ChainProblem]:
    """Yield settlements that were attested and not overridden, but are not recorded."""
    for seq, outcome, number, uuid in database.connection.execute(_NOT_RECORDED):
        which = "by a plan" if number is None else number
        message = (
            f"what became of entry {seq} ({limits.shown(str(outcome))}) was attested ({which}), "
            "and is not recorded (any more)"
        )
        yield ChainProblem("delivery", message, writer=str(uuid), seq=seq)


def _undelivered_gaps(replay: Replay, evidence: Evidence, legacy: int) -> Iterator[ChainProblem]:
    """Yield removed entries that nobody attests as delivered."""
    for uuid, gaps in evidence.gaps.items():
        for first, last in gaps.runs():
            arrived, others = replay.of_removed(uuid, first, last)
            missing = last - first + 1 - arrived
            if others or (missing and not legacy):
                message = (
                    f"{missing} entries of writer {limits.shown(uuid)} ({first}-{last}) were "
                    "removed, and nobody attests that they had been delivered"
                )
                yield ChainProblem("gap", message, writer=uuid)


def _told_early(database: Database) -> set[str]:
    """Return the components that another copy's receipts told of too early.

    They came before the component was recorded here. What the remote holds of it was not noted
    then, and the next pass asks for it. Such receipts name no component here, and no entries.
    """
    rows = database.read(
        "SELECT DISTINCT CASE WHEN json_valid(a.body) THEN json_extract(a.body, '$.component') "
        "END FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
        "WHERE r.component_id IS NULL AND r.entries = ''"
    )
    return {name.lower() for (name,) in rows if isinstance(name, str)}


def _remote(database: Database, legacy: int) -> Iterator[ChainProblem]:
    """Yield what is recorded of components and objects otherwise than attested."""
    early = _told_early(database)
    rows = database.read(
        "SELECT c.name, c.arn, c.confirmed_at_ns, t.confirmed_at_ns FROM component c "
        "JOIN replayed_component t ON t.id = c.id WHERE c.arn IS NOT t.arn "
        "OR c.confirmed_at_ns IS NOT t.confirmed_at_ns ORDER BY c.id"
    )
    for name, arn, confirmed_at_ns, attested_ns in rows:
        unnoted = str(name).lower() in early and arn is None and confirmed_at_ns is None
        if not unnoted and not (legacy and confirmed_at_ns == attested_ns):
            message = (
                f"what is recorded of {limits.shown(str(name))} (its ARN, and that it is there) "
                "is not what was attested"
            )
            yield ChainProblem("record", message)
    columns = "component_id, sha256, bucket, prefix, uri, receipt_id"
    forged = database.read(
        f"SELECT c.name, l.* FROM (SELECT {columns} FROM location EXCEPT SELECT {columns} "
        "FROM replayed_location) l LEFT JOIN component c ON c.id = l.component_id"
    )
    for name, _, sha256, *_ in forged:
        message = (
            f"where the content {limits.shown(str(sha256))} of {limits.shown(str(name))} was "
            "uploaded to is not what was attested"
        )
        yield ChainProblem("record", message, sha256=str(sha256))
    key = "component_id, sha256, bucket, prefix"
    lost = database.read(
        "SELECT c.name, l.sha256 FROM replayed_location l "
        "JOIN component c ON c.id = l.component_id WHERE l.receipt_id > ? "
        f"AND ({', '.join(f'l.{name}' for name in key.split(', '))}) NOT IN (SELECT {key} "
        "FROM location)",
        (legacy,),
    )
    for name, sha256 in lost:
        if str(name).lower() not in early:
            message = (
                f"the content {limits.shown(sha256)} of {limits.shown(str(name))} was uploaded, "
                "and where to is not recorded (any more)"
            )
            yield ChainProblem("record", message, sha256=sha256)


def _gone(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    """Yield numbers that no row has: entries and receipts are numbered without gaps."""
    removed = sum(size(gaps.runs()) for gaps in evidence.gaps.values())
    for what, table, column, after, allowed in (
        ("entry", "entry", "seq", 0, removed),
        ("receipt", "receipt", "id", _legacy(database)[0], 0),
    ):
        count, last = database.read(
            f"SELECT count(*), max({column}) FROM {table} WHERE {column} > ?", (after,)
        )[0]
        if last is None or last - after - count <= allowed:
            continue
        ((first, until),) = database.read(
            f"SELECT p + 1, n - 1 FROM (SELECT {column} AS n, lag({column}, 1, ?1) OVER (ORDER "
            f"BY {column}) AS p FROM {table} WHERE {column} > ?1) WHERE n > p + 1 LIMIT 1",
            (after,),
        )
        which = (
            f"{what} {first} is"
            if first == until
            else f"{'entries' if what == 'entry' else 'receipts'} {first} to {until} are"
        )
        message = (
            f"{which} gone: numbers are given without gaps, and nothing records that it was removed"
        )
        yield ChainProblem("gap" if what == "entry" else "receipt", message)


def _derived(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    for component_id, field_map, key, seq in database.read(
        _FIELDS_LOST, (_legacy(database)[0], LISTED_MAX)
    ):
        what = (
            f"{limits.shown(str(field_map))} {limits.shown(str(key))} of component "
            f"{told(component_id)}"
        )
        yield ChainProblem(
            "record",
            f"entry {told(seq)} was delivered, and it is not recorded that the remote holds {what}",
        )
    for component_id, field_map, key, seq in database.read(_FIELDS, (LISTED_MAX,)):
        what = (
            f"{limits.shown(str(field_map))} {limits.shown(str(key))} of component "
            f"{told(component_id)}"
        )
        yield ChainProblem(
            "record", f"entry {told(seq)} is not the one that the remote holds for {what}"
        )
    ((generation,),) = database.read("SELECT generation FROM lease")
    if not isinstance(generation, int) or generation < evidence.generation:
        yield ChainProblem(
            "record",
            f"the lease has generation {told(generation)}, {evidence.generation} was used already",
        )
    ((mark,),) = database.read("SELECT seq FROM mark")
    ((recorded, settled),) = database.read(_BELOW, (mark,))
    # Counting costs a tenth of looking.
    unsettled = database.read(_FIRST_OVERLOOKED, (mark,)) if recorded > settled else []
    if unsettled:
        ((seq,),) = unsettled
        message = (
            f"entry {seq} is not settled, and the low-water mark says that all is settled or "
            "listed up to it: it would never be sent"
        )
        yield ChainProblem("record", message, seq=seq)
