"""The journal's own tables against the evidence: receipts, settlements, and what is derived from them. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import entries as vocabulary
from journaltrack import limits
from journaltrack.actions import ranges_in
from journaltrack.database import translated
from journaltrack.report_attestations import Claim, Evidence, read_body
from journaltrack.report_chains import ChainProblem

if TYPE_CHECKING:
    from journaltrack.database import Database

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
    "FROM delivery d CROSS JOIN entry e ON e.seq = d.seq ORDER BY d.seq"
)
_FIELDS: Final = (
    "SELECT f.component_id, f.map, f.key, f.seq FROM field f LEFT JOIN entry e ON e.seq = f.seq LEFT JOIN delivery d ON d.seq = f.seq "
    "WHERE e.seq IS NULL OR e.component_id IS NOT f.component_id OR e.stream = 'metric' OR coalesce(e.name, '') <> f.key "
    "OR f.map IS NOT CASE e.kind WHEN 'parameter' THEN 'parameters' WHEN 'input' THEN 'input_artifacts' "
    "WHEN 'output' THEN 'output_artifacts' WHEN 'status' THEN 'status' END OR coalesce(d.outcome, '') IN ('quarantined', 'in doubt') "
    "OR EXISTS (SELECT 1 FROM entry n JOIN delivery nd ON nd.seq = n.seq WHERE n.component_id = f.component_id AND n.stream <> 'metric' "
    "AND n.seq > f.seq AND n.kind = e.kind AND n.name IS e.name AND nd.outcome = 'delivered') LIMIT ?"
)


def record_problems(database: Database, evidence: Evidence) -> list[ChainProblem]:
    """What is recorded otherwise than it was attested, is attested and not recorded, or recorded and attested by nobody."""
    found: list[ChainProblem] = []
    for problems in (
        _receipts(database, evidence),
        _deliveries(database, evidence),
        _remote(database, evidence),
        _derived(database, evidence),
    ):
        for count, problem in enumerate(problems):
            found.append(problem)
            if count + 1 == LISTED_MAX:
                found.append(ChainProblem(problem.kind, f"and perhaps more: {LISTED_MAX} are listed at most"))
                break
    return found


def _receipts(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    (legacy,) = database.read("SELECT coalesce(attested_after_receipt, 0) FROM meta")[0]
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
        found: dict[str, list[list[int]]] = {}
        highest = 0
        rows = self._database.connection.execute(
            "SELECT e.seq, e.writer_id, e.writer_seq FROM json_each(?) i CROSS JOIN entry e "
            "ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')",
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
                "SELECT count(*) FROM entry e CROSS JOIN json_each(?1) i ON e.writer_seq BETWEEN json_extract(i.value, '$[0]') "
                "AND json_extract(i.value, '$[1]') WHERE e.writer_id = ?2 AND e.seq <= ?3",
                (json.dumps(intervals), writer_id, highest),
            ).fetchone()[0]
            if left_out != known:
                return False
        return True

    def _without_removed(self, runs: set[tuple[str, tuple[int, int]]]) -> set[tuple[str, int]]:
        return {
            (uuid, place)
            for uuid, (first, last) in runs
            for place in range(first, last + 1)
            if not any(begin <= place <= end for begin, (end, _) in self._gaps.get(uuid, {}).items())
        }


class _Run(NamedTuple):
    """Settlements of neighbouring entries of one writer that are alike."""

    seq: int
    writer_id: int
    first: int
    last: int
    alike: tuple[Any, ...]


def _runs(database: Database) -> Iterator[_Run]:
    """All settlements, neighbours together."""
    with database.lock, translated(database.path):
        begun: list[Any] | None = None
        for seq, writer_id, writer_seq, *alike in database.connection.execute(_DELIVERIES):
            if begun is not None and writer_seq == begun[3] + 1 and writer_id == begun[1] and alike == begun[4]:
                begun[3] = writer_seq
                continue
            if begun is not None:
                yield _run_of(*begun)
            begun = [seq, writer_id, writer_seq, writer_seq, alike]
        if begun is not None:
            yield _run_of(*begun)


def _run_of(seq: int, writer_id: int, first: int, last: int, alike: list[Any]) -> _Run:
    return _Run(seq, writer_id, first, last, tuple(alike))


def _deliveries(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    uuids = {i: str(uuid) for i, uuid in database.read("SELECT id, uuid FROM writer")}
    legacy = database.read("SELECT coalesce(attested_after_receipt, 0), coalesce(attested_after_ns, 0) FROM meta")[0]
    proved: dict[tuple[str, int], int] = {}  # writer and attestation to how many settlements it proves
    for run in _runs(database):
        uuid = uuids.get(run.writer_id, "")
        place = run.first
        coverage = evidence.coverage.get(uuid)
        for first, last, claim in coverage.of(run.first, run.last) if coverage is not None else ():
            if place < first:
                yield from _unclaimed(database, run, place, first - 1, legacy)
            if not _fits(claim, run.alike) and not _was_before(claim, run.alike, legacy):
                yield _told(run, first, "is not what was attested of it")
            proved[uuid, claim.attestation] = proved.get((uuid, claim.attestation), 0) + last - first + 1
            place = last + 1
        if place <= run.last:
            yield from _unclaimed(database, run, place, run.last, legacy)
    yield from _missing(database, evidence, proved)


def _fits(claim: Claim, alike: tuple[Any, ...]) -> bool:
    receipt_id, outcome, reason, settled_at_ns = alike
    if (outcome, reason, settled_at_ns) != (claim.outcome, claim.reason, claim.at_ns):
        return False
    # What needed no request of its own may name the one that proves it, such as the upload of the same content.
    return receipt_id == claim.receipt_id or claim.receipt_id is None


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
        return isinstance(settled_at_ns, int) and settled_at_ns <= legacy[1]
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
    columns = database.read(
        "SELECT e.seq, e.writer_id, e.writer_seq, e.component_id, '', e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
        "e.recorded_at_ns, e.digest FROM entry e WHERE e.seq = ?",
        (seq,),
    )
    if not columns:
        return False
    entry = vocabulary.entry_of(columns[0])
    try:
        return entry.recorded_at_ns == settled_at_ns and entry.unsound is None and vocabulary.undeliverable(entry) == reason
    except ValueError:
        return False


def _missing(database: Database, evidence: Evidence, proved: dict[tuple[str, int], int]) -> Iterator[ChainProblem]:
    """Settlements that were attested, are not overridden, and are not recorded (any more)."""
    ids = {str(uuid): i for i, uuid in database.read("SELECT id, uuid FROM writer")}
    heads = dict(database.read("SELECT writer_id, max(writer_seq) FROM entry GROUP BY writer_id"))
    for uuid, coverage in evidence.coverage.items():
        removed = evidence.gaps.get(uuid, {})
        claimed: dict[int, list[tuple[int, int]]] = {}
        for first, last, claim in coverage.all():
            head = heads.get(ids.get(uuid))
            if isinstance(head, int) and first <= head:  # what is beyond is of another copy, and not here (yet)
                claimed.setdefault(claim.attestation, []).append((first, min(last, head)))
        for number, runs in claimed.items():
            wanted = sum(last - first + 1 for first, last in runs)
            if proved.get((uuid, number), 0) >= wanted or uuid not in ids:
                continue
            for first, last in runs:
                gone = sum(max(0, min(last, end) - max(first, begin) + 1) for begin, (end, _) in removed.items())
                there, settled = database.read(
                    "SELECT count(*), count(d.seq) FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
                    "WHERE e.writer_id = ? AND e.writer_seq BETWEEN ? AND ?",
                    (ids[uuid], first, last),
                )[0]
                if there - settled > 0 and last - first + 1 > gone:
                    message = f"what became of {there - settled} entries of writer {limits.shown(uuid)} ({first}-{last}) was attested ({number}) and is not recorded"
                    yield ChainProblem("delivery", message, writer=uuid)


def _remote(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    """What is known of components and objects came from requests."""
    legacy = bool(database.read("SELECT coalesce(attested_after_receipt, 0) FROM meta")[0][0])
    for name, arn, confirmed_at_ns in database.read("SELECT name, arn, confirmed_at_ns FROM component ORDER BY id"):
        attested = evidence.components.get(str(name).lower())
        if attested is None and (legacy or (arn is None and confirmed_at_ns is None)):
            continue
        if attested != (arn, confirmed_at_ns) and not (legacy and attested is not None and attested[1] == confirmed_at_ns):
            message = f"what is recorded of {limits.shown(str(name))} (its ARN, and that it is there) is not what was attested"
            yield ChainProblem("record", message)
    rows = database.read(
        "SELECT c.name, l.sha256, l.bucket, l.prefix, l.uri, l.receipt_id FROM location l LEFT JOIN component c ON c.id = l.component_id"
    )
    (until,) = database.read("SELECT coalesce(attested_after_receipt, 0) FROM meta")[0]
    for name, sha256, bucket, prefix, uri, receipt_id in rows:
        there = evidence.objects.get((str(name).lower(), sha256, bucket, prefix))
        if there != (uri, receipt_id) and not (there is None and isinstance(receipt_id, int) and receipt_id <= until):
            message = f"where the content {limits.shown(str(sha256))} of {limits.shown(str(name))} was uploaded to is not what was attested"
            yield ChainProblem("record", message, sha256=str(sha256))


def _derived(database: Database, evidence: Evidence) -> Iterator[ChainProblem]:
    for component_id, field_map, key, seq in database.read(_FIELDS, (LISTED_MAX,)):
        what = f"{limits.shown(str(field_map))} {limits.shown(str(key))} of component {limits.shown(str(component_id))}"
        yield ChainProblem("record", f"entry {limits.shown(str(seq))} is not the one that the remote holds for {what}")
    ((generation,),) = database.read("SELECT generation FROM lease")
    if not isinstance(generation, int) or generation < evidence.generation:
        yield ChainProblem("record", f"the lease has generation {limits.shown(str(generation))}, {evidence.generation} was used already")
    unsettled = database.read(
        "SELECT e.seq FROM entry e WHERE e.seq <= (SELECT seq FROM mark) AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = e.seq) LIMIT 1"
    )
    if unsettled:
        message = (
            f"entry {unsettled[0][0]} is not settled, and the low-water mark says that all is settled up to it: it would never be sent"
        )
        yield ChainProblem("record", message, seq=unsettled[0][0])
    strays = database.read("SELECT d.seq FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.seq = d.seq) LIMIT 1")
    if strays:
        yield ChainProblem("delivery", f"there is a record of what became of entry {strays[0][0]}, which is not there", seq=strays[0][0])
