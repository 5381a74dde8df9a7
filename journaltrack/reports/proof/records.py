"""The journal's own tables against the evidence: receipts, settlements, and what is derived from them. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.chain import ChainProblem, read_body, told
from journaltrack.journal.queries import IS_BEFORE
from journaltrack.journal.sqlite.errors import translated
from journaltrack.reports.proof.attestations import Claim, Coverage, Evidence
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.entries import Entry
    from journaltrack.journal.sqlite.connection import Database

_NAMED: Final = Claim(0, None, "", None, 0)
LISTED_MAX: Final = 100
"""Ours: problems of one kind that are listed; the first are what matters."""
_COLUMNS: Final = (
    "action",
    "outcome",
    "generation",
    "started_at_ns",
    "finished_at_ns",
    "attempts",
    "request_id",
    "error_code",
    "error_text",
)
"""Of a receipt; its attestation has the same under the same names."""
_DELIVERIES: Final = (
    "SELECT d.seq, e.writer_id, e.writer_seq, d.receipt_id, d.outcome, d.reason, d.settled_at_ns "
    "FROM delivery d CROSS JOIN entry e ON e.seq = d.seq WHERE typeof(e.writer_seq) = 'integer' ORDER BY d.seq"
)
_MAP: Final = (
    "CASE e.kind WHEN 'parameter' THEN 'parameters' WHEN 'input' THEN 'input_artifacts' WHEN 'output' THEN 'output_artifacts' "
    "WHEN 'status' THEN 'status' END"
)
_LATEST: Final = (  # of each key and each journal and host that recorded: in one pass, and not one for each field
    f"(SELECT e.component_id AS component_id, {_MAP} AS map, coalesce(e.name, '') AS key, max(e.seq) AS seq, "
    "max(coalesce(d.receipt_id, 0)) AS receipt_id FROM entry e CROSS JOIN delivery d ON d.seq = e.seq LEFT JOIN writer w ON w.id = e.writer_id "
    "WHERE e.stream <> 'metric' AND e.kind IN ('parameter', 'input', 'output', 'status') AND d.outcome = 'delivered' "
    "GROUP BY 1, 2, 3, w.journal_id, w.host)"
)
_FIELDS: Final = (
    "SELECT DISTINCT f.component_id, f.map, f.key, f.seq FROM field f LEFT JOIN entry e ON e.seq = f.seq LEFT JOIN delivery d ON d.seq = f.seq "
    f"LEFT JOIN {_LATEST} l ON l.component_id = f.component_id AND l.map = f.map AND l.key = f.key LEFT JOIN entry o ON o.seq = l.seq "
    "WHERE e.seq IS NULL OR e.component_id IS NOT f.component_id OR e.stream = 'metric' OR coalesce(e.name, '') <> f.key "
    f"OR f.map IS NOT {_MAP} OR coalesce(d.outcome, '') IN ('quarantined', 'in doubt') "
    f"OR (o.seq <> e.seq AND {IS_BEFORE.replace('n.', 'e.')}) LIMIT ?"
)
_FIELDS_LOST: Final = (
    f"SELECT l.component_id, l.map, l.key, l.seq FROM {_LATEST} l LEFT JOIN field f ON f.component_id = l.component_id AND f.map = l.map "
    "AND f.key = l.key WHERE f.seq IS NULL AND l.receipt_id > ? LIMIT ?"
)
_UNSETTLED: Final = (
    "SELECT e.seq, e.writer_id, e.writer_seq FROM entry e WHERE NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = e.seq) "
    "AND typeof(e.writer_seq) = 'integer' ORDER BY e.seq"
)
_UNSETTLED_BELOW: Final = (
    "SELECT e.seq FROM entry e WHERE e.seq <= ? AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = e.seq) "
    "AND e.seq NOT IN (SELECT seq FROM unsettled) ORDER BY e.seq LIMIT 1"
)
_BELOW: Final = "SELECT (SELECT count(*) FROM entry WHERE seq <= ?1), (SELECT count(*) FROM delivery WHERE seq <= ?1)"
_STRAYS: Final = "SELECT d.seq FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.seq = d.seq) LIMIT 1"
_ENDS: Final = "SELECT writer_id, writer_seq FROM entry WHERE seq IN (?, ?) AND typeof(writer_seq) = 'integer'"
_UPLOADS: Final = (
    "SELECT c.name, json_extract(p.text, '$.sha256'), coalesce(json_extract(p.text, '$.bucket'), ''), "
    "coalesce(json_extract(p.text, '$.prefix'), '') FROM (SELECT component_id, CASE WHEN json_valid(payload) THEN payload END AS text "
    "FROM entry WHERE seq BETWEEN ? AND ?) p LEFT JOIN component c ON c.id = p.component_id"
)


def record_problems(database: Database, evidence: Evidence) -> list[ChainProblem]:
    """What is recorded otherwise than it was attested, is attested and not recorded, or recorded and attested by nobody."""
    found: list[ChainProblem] = []
    for problems in (
        _receipts(database, evidence),
        _deliveries(database, evidence),
        _undelivered_gaps(database, evidence),
        _remote(database, evidence),
        _derived(database, evidence),
        _gone(database, evidence),
    ):
        for count, problem in enumerate(problems):
            found.append(problem)
            if count + 1 == LISTED_MAX:
                found.append(ChainProblem(problem.kind, f"and perhaps more: {LISTED_MAX} are listed at most"))
                break
    return found


def _receipts(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    legacy, _ = _legacy(database)
    unattested = database.read(
        "SELECT r.id FROM receipt r WHERE r.finished_at_ns IS NOT NULL AND r.id > ? "
        "AND NOT EXISTS (SELECT 1 FROM attestation a WHERE a.receipt_id = r.id) ORDER BY r.id LIMIT ?",
        (legacy, LISTED_MAX),
    )
    for (receipt_id,) in unattested:
        yield ChainProblem("receipt", f"nobody attests the receipt {receipt_id}: it was forged, or its attestation was removed")
    identities = _Identities(database, evidence)
    columns = ", ".join(f"r.{name}" for name in _COLUMNS)
    sql = (
        f"SELECT a.id, a.receipt_id, a.body, r.id, c.name, r.entries, {columns} FROM attestation a LEFT JOIN receipt r ON r.id = a.receipt_id "
        "LEFT JOIN component c ON c.id = r.component_id WHERE a.receipt_id IS NOT NULL ORDER BY a.id"
    )
    with database.lock, translated(database.path):
        for number, receipt_id, body, there, component, entries, *values in database.connection.execute(sql):
            members = read_body(body) if isinstance(body, str) else None
            if members is None:
                continue  # told of by ``attestation_problems``
            if there is None:
                yield ChainProblem("receipt", f"the receipt {receipt_id} is gone, attestation {number} is of it")
                continue
            wrong = [name for name, value in zip(_COLUMNS, values, strict=True) if members.get(name) != value]
            if not _same_component(members.get("component"), component, entries):
                wrong.append("component")
            if not identities.agree(entries, members.get("entries")):
                wrong.append("entries")
            if wrong:
                yield ChainProblem("receipt", f"the receipt {receipt_id} is not what was attested of it: {', '.join(wrong)}")


def _legacy(database: Database) -> tuple[int, int]:
    """Up to which receipt, and which time, nothing needs to be attested."""
    receipt_id, at_ns = database.read("SELECT attested_after_receipt, attested_after_ns FROM meta")[0]
    return receipt_id if isinstance(receipt_id, int) else 0, at_ns if isinstance(at_ns, int) else 0


def _same_component(attested: object, recorded: object, entries: object) -> bool:
    """Whether a receipt is of the component that its attestation names.

    One from another copy is of none if neither the component nor an entry of it was here.
    """
    if recorded is None and entries == "":
        return attested is None or isinstance(attested, str)
    same = isinstance(attested, str) and isinstance(recorded, str) and attested.lower() == recorded.lower()
    return same or (attested is None and recorded is None)


class _Identities:
    """Which entries a receipt's text names, in the words of attestations."""

    def __init__(self, database: Database, evidence: Evidence) -> None:
        self._database = database
        self._uuids = {i: str(uuid) for i, uuid in database.read("SELECT id, uuid FROM writer")}
        self._ids = {uuid: i for i, uuid in self._uuids.items()}
        self._gaps = evidence.gaps

    def agree(self, text: object, named: object) -> bool:
        """Whether the receipt names the entries that the attestation names, those that were removed on the record left out."""
        try:
            intervals = ranges_in(text)
            wanted = {(uuid, interval) for uuid, ranges in dict(named or {}).items() for interval in ranges_in(ranges)}  # type: ignore[call-overload]
        except (ValueError, TypeError, AttributeError):
            return False
        if len(intervals) == 1 and wanted == self._between(*intervals[0]):
            return True
        found: dict[str, list[list[int]]] = {}
        highest = 0
        rows = self._database.connection.execute(
            "SELECT e.seq, e.writer_id, e.writer_seq FROM json_each(?) i CROSS JOIN entry e "
            "ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') WHERE typeof(e.writer_seq) = 'integer'",
            (json.dumps(intervals),),
        )
        for seq, writer_id, writer_seq in rows:
            highest = max(highest, seq)
            runs = found.setdefault(self._uuids.get(writer_id, f"unknown-{writer_id}"), [])
            if runs and writer_seq == runs[-1][1] + 1:
                runs[-1][1] = writer_seq
            else:
                runs.append([writer_seq, writer_seq])
        there = {(uuid, (first, last)) for uuid, runs in found.items() for first, last in runs}
        if there == wanted or (bool(self._gaps) and self._without_removed(wanted) == self._without_removed(there)):
            return True
        return self._came_later(there, wanted, highest)

    def _came_later(self, there: set[tuple[str, tuple[int, int]]], wanted: set[tuple[str, tuple[int, int]]], highest: int) -> bool:
        """Whether a receipt from another copy leaves out nothing but entries that were not here when it came."""
        coverage: dict[str, list[tuple[int, int]]] = {}
        for uuid, interval in wanted:
            coverage.setdefault(uuid, []).append(interval)
        for uuid, (first, last) in there:
            if not any(begin <= first and last <= end for begin, end in coverage.get(uuid, ())):
                return False
        for uuid, intervals in coverage.items():
            writer_id = self._ids.get(uuid)
            known = sum(last - first + 1 for name, (first, last) in there if name == uuid)
            if writer_id is None or known == sum(last - first + 1 for first, last in intervals):
                continue
            left_out = self._database.connection.execute(
                "SELECT count(*) FROM entry e CROSS JOIN json_each(?) i ON e.writer_seq BETWEEN json_extract(i.value, '$[0]') "
                "AND json_extract(i.value, '$[1]') WHERE e.writer_id = ? AND e.seq <= ?",
                (json.dumps(intervals), writer_id, highest),
            ).fetchone()[0]
            if left_out != known:
                return False
        return True

    def _between(self, first: int, last: int) -> set[tuple[str, tuple[int, int]]] | None:
        """The same for neighbours of one writer, which nearly all are; as many places as numbers: all between are that writer's, too."""
        ends = self._database.connection.execute(_ENDS, (first, last)).fetchall()
        if not ends or ends[0][0] != ends[-1][0] or ends[-1][1] - ends[0][1] != last - first:
            return None
        return {(self._uuids.get(ends[0][0], ""), (ends[0][1], ends[-1][1]))}

    def _without_removed(self, runs: set[tuple[str, tuple[int, int]]]) -> dict[str, list[tuple[int, int]]]:
        left: dict[str, Coverage[Claim]] = {}
        for uuid, (first, last) in sorted(runs):
            left.setdefault(uuid, Coverage()).put(first, last, _NAMED)
        for uuid, coverage in left.items():
            for first, last in self._gaps[uuid].runs() if uuid in self._gaps else ():
                coverage.put(first, last, None)
        places = {uuid: [(first, last) for first, last, _ in coverage.all()] for uuid, coverage in left.items()}
        return {uuid: each for uuid, each in places.items() if each}


class _Run(NamedTuple):
    """Settlements of entries of one writer that are alike, neighbours in its chain and in the journal."""

    seq: int
    writer_id: int
    first: int
    last: int
    alike: tuple[Any, ...]


def _runs(database: Database) -> Iterator[_Run]:
    """All settlements, neighbours together."""
    with database.lock, translated(database.path):
        rows = database.connection.execute(_DELIVERIES)
        begun = next(rows, None)
        if begun is None:
            return
        seq, writer_id, first, *alike = begun
        last, (receipt_id, outcome, reason, settled_at_ns) = first, alike
        for row in rows:
            _, of, place, by, result, why, at = row
            if by == receipt_id and place == last + 1 and at == settled_at_ns and result == outcome and why == reason and of == writer_id:
                last = place
                continue
            yield _Run(seq, writer_id, first, last, (receipt_id, outcome, reason, settled_at_ns))
            seq, writer_id, first, receipt_id, outcome, reason, settled_at_ns = row
            last = first
        yield _Run(seq, writer_id, first, last, (receipt_id, outcome, reason, settled_at_ns))


def _deliveries(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    uuids = {i: str(uuid) for i, uuid in database.read("SELECT id, uuid FROM writer")}
    legacy = _legacy(database)
    proved = settled = 0
    for run in _runs(database):
        settled += run.last - run.first + 1
        uuid = uuids.get(run.writer_id, "")
        place = run.first
        coverage = evidence.coverage.get(uuid)
        for first, last, claim in coverage.of(run.first, run.last) if coverage is not None else ():
            if place < first:
                yield from _unclaimed(database, run, place, first - 1, legacy)
            fits = _fits(database, evidence, run, (first, last), claim, legacy[0])
            if not fits and not _was_before(claim, run.alike, legacy):
                yield _told(run, first, "is not what was attested of it")
            proved += last - first + 1
            place = last + 1
        if place <= run.last:
            yield from _unclaimed(database, run, place, run.last, legacy)
    yield from _missing(database, evidence, proved)
    if settled < database.read("SELECT count(*) FROM delivery")[0][0]:
        for (seq,) in database.read(_STRAYS):
            yield ChainProblem("delivery", f"there is a record of what became of entry {seq}, which is not there", seq=seq)


def _fits(database: Database, evidence: Evidence, run: _Run, part: tuple[int, int], claim: Claim, legacy: int) -> bool:
    receipt_id, outcome, reason, settled_at_ns = run.alike
    if (outcome, reason, settled_at_ns) != (claim.outcome, claim.reason, claim.at_ns):
        return False
    if claim.by_merge:
        return receipt_id is None or isinstance(receipt_id, int)
    if receipt_id == claim.receipt_id or claim.receipt_id is not None:
        return bool(receipt_id == claim.receipt_id)
    # What needed no request of its own may name the one that uploaded the same content; a repair speaks of requests from before it.
    wanted = evidence.uploads.get(receipt_id)
    if wanted is None:
        return isinstance(receipt_id, int) and 0 < receipt_id <= legacy
    begin = run.seq - run.first
    rows = database.read(_UPLOADS, (begin + part[0], begin + part[1]))
    return all((str(name).lower(), *content) == wanted for name, *content in rows)


def _was_before(claim: Claim, alike: tuple[Any, ...], legacy: tuple[int, int]) -> bool:
    """Whether a settlement of format 0001 stayed, or stayed in doubt, although a claim came from another copy: see ``_after``."""
    receipt_id, outcome, reason, settled_at_ns = alike
    if not isinstance(settled_at_ns, int) or not _of_format_0001(receipt_id, settled_at_ns, legacy):
        return False
    if outcome in {"delivered", "superseded"}:
        return claim.outcome not in {"delivered", "superseded"} or claim.at_ns >= settled_at_ns
    return bool(outcome == claim.outcome == "in doubt" and reason == claim.reason)


def _of_format_0001(receipt_id: object, settled_at_ns: object, legacy: tuple[int, int]) -> bool:
    if receipt_id is None:
        return isinstance(settled_at_ns, int) and 0 < settled_at_ns <= legacy[1]
    return isinstance(receipt_id, int) and 0 < receipt_id <= legacy[0]


def _told(run: _Run, first: int, what: str) -> ChainProblem:
    seq = run.seq + first - run.first
    return ChainProblem("delivery", f"the record of what became of entry {seq} ({limits.shown(str(run.alike[1]))}) {what}", seq=seq)


def _unclaimed(database: Database, run: _Run, first: int, last: int, legacy: tuple[int, int]) -> Iterator[ChainProblem]:
    """Settlements that no request made: refused when they were recorded, which follows from the entry; or of format 0001."""
    receipt_id, outcome, reason, settled_at_ns = run.alike
    if _of_format_0001(receipt_id, settled_at_ns, legacy):
        return
    if receipt_id is None and outcome == "quarantined":
        for place in range(first, last + 1):
            if not _refused_at_once(database, run.seq + place - run.first, reason, settled_at_ns):
                yield _told(run, place, "does not follow from the entry, and nobody attests it")
                return
        return
    yield _told(run, first, "is attested by nobody: it was forged, or its attestation was removed")


def _refused_at_once(database: Database, seq: int, reason: object, settled_at_ns: object) -> bool:
    """Whether the append itself refused the entry for that reason."""
    entry = _entry(database, seq)
    if entry is None or entry.recorded_at_ns != settled_at_ns:
        return False
    if entry.kind == vocabulary.UPLOAD:  # nothing is uploaded for a reference that can't be sent, which was recorded with it
        reference = _entry(database, seq + 1)
        with_it = reference is not None and (reference.writer_id, reference.writer_seq) == (entry.writer_id, entry.writer_seq + 1)
        entry = reference if with_it and reference is not None and reference.name == entry.name else None
    return entry is not None and (_is_undeliverable(entry, reason) or _is_one_too_many(database, entry, reason))


def _entry(database: Database, seq: int) -> Entry | None:
    columns = database.read(
        "SELECT e.seq, e.writer_id, e.writer_seq, e.component_id, '', e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
        "e.recorded_at_ns, e.digest FROM entry e WHERE e.seq = ?",
        (seq,),
    )
    found = vocabulary.entry_of(columns[0]) if columns else None
    return found if found is not None and found.unsound is None else None


def _is_undeliverable(entry: Entry, reason: object) -> bool:
    try:
        problem = vocabulary.undeliverable(entry)
        # The second is what was said at first of a number that is too large for a double.
        return problem == reason or (problem == limits.too_large("the value") and reason == limits.not_finite("the value"))
    except ValueError:
        return False


def _is_one_too_many(database: Database, entry: Entry, reason: object) -> bool:
    """Whether the component had as many keys as it may have, and not this one."""
    if entry.kind not in vocabulary.KEYS_MAX or reason != vocabulary.too_many(entry.kind):
        return False
    keys_max, _ = vocabulary.KEYS_MAX[entry.kind]
    ((keys, same),) = database.read(
        "SELECT count(*), total(name IS ?1) FROM (SELECT DISTINCT e.name FROM entry e WHERE e.component_id = ?2 AND e.stream <> 'metric' "
        "AND e.kind = ?3 AND e.seq < ?4)",
        (entry.name, entry.component_id, entry.kind, entry.seq),
    )
    return bool(keys - same >= keys_max)


def _missing(database: Database, evidence: Evidence, proved: int) -> Iterator[ChainProblem]:
    """Settlements that were attested, are not overridden, and are not recorded (any more)."""
    if proved >= sum(last - first + 1 for coverage in evidence.coverage.values() for first, last, _ in coverage.all()):
        return
    uuids = {i: str(uuid) for i, uuid in database.read("SELECT id, uuid FROM writer")}
    with database.lock, translated(database.path):
        for seq, writer_id, place in database.connection.execute(_UNSETTLED):
            coverage = evidence.coverage.get(uuids.get(writer_id, ""))
            for _, _, claim in coverage.of(place, place) if coverage is not None else ():
                what = f"what became of entry {seq} ({limits.shown(str(claim.outcome))})"
                message = f"{what} was attested ({claim.attestation}), and is not recorded (any more)"
                yield ChainProblem("delivery", message, writer=uuids[writer_id], seq=seq)


def _undelivered_gaps(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    """Entries that were removed on the record although nothing says that they had been delivered."""
    legacy, _ = _legacy(database)
    for uuid, gaps in evidence.gaps.items():
        coverage = evidence.coverage.get(uuid)
        for first, last in gaps.runs():
            claims = coverage.of(first, last) if coverage is not None else []
            delivered = sum(end - begin + 1 for begin, end, claim in claims if claim.outcome in {"delivered", "superseded"})
            others = sum(end - begin + 1 for begin, end, _ in claims) - delivered
            if others or (delivered < last - first + 1 and not legacy):
                count = last - first + 1 - delivered
                message = f"{count} entries of writer {limits.shown(uuid)} ({first}-{last}) were removed, and nobody attests that they had been delivered"
                yield ChainProblem("gap", message, writer=uuid)


def _told_early(database: Database) -> set[str]:
    """Components of which another copy's receipts told before they were recorded here: what the remote has of them was not noted then.

    The next pass asks for it. Such receipts name no component here, and no entries.
    """
    rows = database.read(
        "SELECT DISTINCT CASE WHEN json_valid(a.body) THEN json_extract(a.body, '$.component') END FROM receipt r "
        "JOIN attestation a ON a.receipt_id = r.id WHERE r.component_id IS NULL AND r.entries = ''"
    )
    return {name.lower() for (name,) in rows if isinstance(name, str)}


def _remote(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    """What is known of components and objects came from requests."""
    until, _ = _legacy(database)
    early = _told_early(database)
    for name, arn, confirmed_at_ns in database.read("SELECT name, arn, confirmed_at_ns FROM component ORDER BY id"):
        attested = evidence.components.get(str(name).lower())
        if (attested is None and until) or ((attested is None or str(name).lower() in early) and arn is None and confirmed_at_ns is None):
            continue
        if attested != (arn, confirmed_at_ns) and not (until and attested is not None and attested[1] == confirmed_at_ns):
            message = f"what is recorded of {limits.shown(str(name))} (its ARN, and that it is there) is not what was attested"
            yield ChainProblem("record", message)
    rows = database.read(
        "SELECT c.name, l.sha256, l.bucket, l.prefix, l.uri, l.receipt_id FROM location l LEFT JOIN component c ON c.id = l.component_id"
    )
    recorded = set()
    for name, sha256, bucket, prefix, uri, receipt_id in rows:
        there = evidence.objects.get((str(name).lower(), sha256, bucket, prefix))
        recorded.add((str(name).lower(), sha256, bucket, prefix))
        if there != (uri, receipt_id) and not (there is None and isinstance(receipt_id, int) and receipt_id <= until):
            message = f"where the content {limits.shown(str(sha256))} of {limits.shown(str(name))} was uploaded to is not what was attested"
            yield ChainProblem("record", message, sha256=str(sha256))
    here = {str(name).lower() for (name,) in database.read("SELECT name FROM component")}
    for key, (_, receipt_id) in evidence.objects.items():
        if key[0] not in here:
            continue  # receipts from another copy may be about components of which there is nothing here
        if key not in recorded and key[0] not in early and not (isinstance(receipt_id, int) and receipt_id <= until):
            message = f"the content {limits.shown(key[1])} of {limits.shown(key[0])} was uploaded, and where to is not recorded (any more)"
            yield ChainProblem("record", message, sha256=key[1])


def _gone(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    """Numbers that nobody has: entries and receipts are numbered without gaps, whoever writes them."""
    removed = sum(last - first + 1 for gaps in evidence.gaps.values() for first, last in gaps.runs())
    for what, table, column, after, allowed in (
        ("entry", "entry", "seq", 0, removed),
        ("receipt", "receipt", "id", _legacy(database)[0], 0),
    ):
        count, last = database.read(f"SELECT count(*), max({column}) FROM {table} WHERE {column} > ?", (after,))[0]
        if last is None or last - after - count <= allowed:
            continue
        ((first, until),) = database.read(
            f"SELECT p + 1, n - 1 FROM (SELECT {column} AS n, lag({column}, 1, ?1) OVER (ORDER BY {column}) AS p FROM {table} "
            f"WHERE {column} > ?1) WHERE n > p + 1 LIMIT 1",
            (after,),
        )
        which = f"{what} {first} is" if first == until else f"{'entries' if what == 'entry' else 'receipts'} {first} to {until} are"
        message = f"{which} gone: numbers are given without gaps, and nothing records that it was removed"
        yield ChainProblem("gap" if what == "entry" else "receipt", message)


def _derived(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    for component_id, field_map, key, seq in database.read(_FIELDS_LOST, (_legacy(database)[0], LISTED_MAX)):
        what = f"{limits.shown(str(field_map))} {limits.shown(str(key))} of component {told(component_id)}"
        yield ChainProblem("record", f"entry {told(seq)} was delivered, and it is not recorded that the remote holds {what}")
    for component_id, field_map, key, seq in database.read(_FIELDS, (LISTED_MAX,)):
        what = f"{limits.shown(str(field_map))} {limits.shown(str(key))} of component {told(component_id)}"
        yield ChainProblem("record", f"entry {told(seq)} is not the one that the remote holds for {what}")
    ((generation,),) = database.read("SELECT generation FROM lease")
    if not isinstance(generation, int) or generation < evidence.generation:
        yield ChainProblem("record", f"the lease has generation {told(generation)}, {evidence.generation} was used already")
    ((mark,),) = database.read("SELECT seq FROM mark")
    ((recorded, settled),) = database.read(_BELOW, (mark,))
    unsettled = database.read(_UNSETTLED_BELOW, (mark,)) if recorded > settled else []  # counting costs a tenth of looking
    if unsettled:
        ((seq,),) = unsettled
        message = f"entry {seq} is not settled, and the low-water mark says that all is settled or listed up to it: it would never be sent"
        yield ChainProblem("record", message, seq=seq)
