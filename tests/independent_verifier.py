"""A verifier of journals, written from docs/journal-format.md alone: it shares no code with the
package, and is slow and simple.

``python tests/independent_verifier.py FOLDER`` prints what it finds, and the heads of all chains.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

ARRIVED = {"delivered", "superseded"}
ENTRY = (
    "seq, writer_id, writer_seq, component_id, stream, kind, name, value, step, timestamp_ns, "
    "payload, recorded_at_ns, digest"
)
WRITER = (
    "uuid, host, pid, user, program, started_at_ns, package_version, python_version, git_commit, "
    "git_dirty, packages, journal_id, context"
)
META = (
    "journal_id, created_at_ns, created_by_version, required_version, attested_after_receipt, "
    "attested_after_ns"
)
RECEIPT = (
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
MAPS = {
    "parameter": "parameters",
    "input": "input_artifacts",
    "output": "output_artifacts",
    "status": "status",
}
RANGES = re.compile(r"(\d+(-\d+)?(,\d+(-\d+)?)*)?", re.ASCII)


def sha256(data):
    """Its bytes."""
    return hashlib.sha256(data).digest()


def canonical(columns):
    """The canonical encoding: a JSON array without spaces, in UTF-8."""
    return json.dumps(
        list(columns), ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode("utf-8", "surrogatepass")


def described(columns):
    """What a writer's digest covers: ``context``, the last column, only where it has a value."""
    return columns if columns[-1] is not None else columns[:-1]


def expanded(ranges):
    """``"1-3,7"`` as ``[1, 2, 3, 7]``."""
    if not isinstance(ranges, str) or not RANGES.fullmatch(ranges):
        raise ValueError(ranges)
    pairs = [part.split("-") for part in ranges.split(",")] if ranges else []
    return [place for pair in pairs for place in range(int(pair[0]), int(pair[-1]) + 1)]


class Verifier:
    """One look at one journal.

    Attributes:
        problems: Sentences; empty when all is well.
        heads: By the writer's uuid: (entries, digest of the last, attestations, digest of the
            last).
    """

    def __init__(self, folder, noted=None):
        self.folder = Path(folder)
        self.problems = []
        self.heads = {}
        self.claims = {}  # (uuid, place) -> (receipt, outcome, reason, settled_at_ns)
        self.components, self.objects, self.uploads = {}, {}, {}
        self.gaps, self.blobs_removed = {}, set()
        self.gaps_to_come = {}
        self.generation = 0
        self.proved = {}  # receipt -> bodies
        with closing(
            sqlite3.connect(f"file:{self.folder / 'journal.db'}?mode=ro", uri=True)
        ) as self.database:
            self.database.text_factory = lambda text: text.decode("utf-8", "replace")
            self.database.execute("BEGIN")
            try:
                self._verify()
            except (sqlite3.Error, ValueError, TypeError) as error:
                # SQLite's messages quote what is damaged
                self.problems.append(f"it can't be read: {error!r}")
        for uuid, (entries, digest, attestations, attested) in (noted or {}).items():
            self._compare_head(uuid, "entries", entries, digest)
            self._compare_head(uuid, "attestations", attestations, attested)

    def rows(self, sql, *parameters):
        """All rows."""
        return self.database.execute(sql, parameters).fetchall()

    def _verify(self):
        self.problems += [
            f"SQLite: {line}" for (line,) in self.rows("PRAGMA integrity_check") if line != "ok"
        ]
        revision = self.rows("SELECT version_num FROM alembic_version")[0][0]
        if revision not in {"0001", "0002", "0003", "0004"}:
            self.problems.append(f"revision {revision!r} is not described")
            return
        self.names = dict(self.rows("SELECT id, name FROM component"))
        self.digests = {}  # (uuid, place) of entries, for heads that were noted
        self.attested = {}  # the same of attestations
        if revision == "0001":
            self.writers = {
                i: (uuid, sha256(uuid.encode()))
                for i, uuid in self.rows("SELECT id, uuid FROM writer")
            }
            self._entries()
            return
        self._descriptions(revision)
        self._attestations()
        self._entries()
        self._receipts()
        self._settlements()
        self._remote()
        self._derived()
        self._numbers()
        self._blobs()

    def _descriptions(self, revision):
        meta = self.rows(f"SELECT {META}, digest FROM meta")
        if len(meta) != 1 or sha256(canonical(meta[0][:-1])) != meta[0][-1]:
            self.problems.append("meta is not what its digest says")
        self.bound, self.bound_ns = (
            value if isinstance(value, int) else 0 for value in meta[0][4:6]
        )
        self.writers = {}
        who = WRITER if revision >= "0004" else WRITER.replace("context", "NULL")
        for number, *columns, digest in self.rows(f"SELECT id, {who}, digest FROM writer"):
            uuid = columns[0]
            if digest is None and columns[9:] == [None] * 4:  # of 0001
                self.writers[number] = (uuid, sha256(str(uuid).encode()))
                continue
            self.writers[number] = (uuid, digest if isinstance(digest, bytes) else b"")
            if sha256(canonical(described(columns))) != digest:
                self.problems.append(f"writer {uuid!r} is not as it described itself")

    def _attestations(self):
        ends = {
            number: (0, sha256(b"attestation" + start))
            for number, (_, start) in self.writers.items()
        }
        broken = set()
        sql = (
            "SELECT id, writer_id, writer_seq, receipt_id, body, digest FROM attestation "
            "ORDER BY id"
        )
        for number, writer, place, receipt, body, digest in self.rows(sql):
            if writer not in ends:
                self.problems.append(f"attestation {number} is of an unknown writer")
                continue
            if writer in broken:
                continue
            before, previous = ends[writer]
            if (
                place != before + 1
                or not isinstance(body, str)
                or sha256(previous + body.encode()) != digest
            ):
                self.problems.append(
                    f"attestation {number} is not the next link of writer {self.writers[writer][0]}"
                )
                broken.add(writer)
                continue
            ends[writer] = (place, digest)
            self.attested[self.writers[writer][0], place] = digest
            try:
                self._apply(json.loads(body), receipt)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self.problems.append(f"attestation {number} can't be read: {error!r}")
                broken.add(writer)
        self.attestation_ends = ends

    def _apply(self, body, receipt):
        at_ns, named = body["finished_at_ns"], body["entries"]
        self.generation = max(self.generation, body.get("generation", 0))
        if body["outcome"] == "released":
            for key in self._places(named):
                _, outcome, _, since = self.claims.get(key, (None, None, None, at_ns + 1))
                if since <= at_ns if body["action"] == "reopen" else outcome not in ARRIVED:
                    self.claims.pop(key, None)
        for outcome, reason, entries, *since in body.get("settled", []):
            proof = {"repair": "old", "merge": "any"}.get(body["action"], receipt)
            claim = (proof, outcome, reason, since[0] if since else at_ns)
            for key in self._places(named if entries is None else entries):
                self._claim(
                    key, claim, looked=body["action"] == "readback" and outcome == "in doubt"
                )
        for uuid, first, last, digest in body.get("removed", []):
            self.gaps.setdefault(uuid, []).append((first, last, bytes.fromhex(digest)))
        if body["action"] == "taken" and receipt is not None:
            for uuid, first, last, digest in body.get("gaps", []):
                self.gaps_to_come.setdefault(uuid, []).append((first, last, bytes.fromhex(digest)))
        self.blobs_removed.update(body.get("blobs", []))
        if receipt is not None:
            self.proved.setdefault(receipt, []).append(body)
        self._apply_remote(body, receipt, at_ns)

    def _claim(self, key, claim, *, looked):
        before = self.claims.get(key, (None, None, None, 0))
        if before[1] in ARRIVED and (looked or claim[1] not in ARRIVED or claim[3] >= before[3]):
            return
        if before[1] == claim[1] == "in doubt":
            claim = (*before[:2], claim[2], before[3])
        elif looked:
            return
        self.claims[key] = claim

    def _apply_remote(self, body, receipt, at_ns):
        name = str(body.get("component")).lower()
        arn, _ = self.components.get(name, (None, None))
        if "arn" in body:
            self.components[name] = (body["arn"] or arn, at_ns)
        if body.get("missing"):
            self.components[name] = (arn, None)
        if "forgotten" in body:
            gone = body["forgotten"]
            self.objects.pop((name, gone["sha256"], gone["bucket"], gone["prefix"]), None)
        if "object" in body:
            there = body["object"]
            key = (name, there["sha256"], there["bucket"], there["prefix"])
            self.objects[key] = (there["uri"], receipt)
            self.uploads.setdefault(receipt, set()).add(key)

    @staticmethod
    def _places(named):
        return [(uuid, place) for uuid, ranges in named.items() for place in expanded(ranges)]

    @staticmethod
    def _across(gaps, first, last):
        """The digest of the last of these places, if all of them were removed."""
        digest = next((digest for _, end, digest in gaps if end == last), None)
        while digest is not None and first <= last:
            first, before = (
                max((end for begin, end, _ in gaps if begin <= first <= end), default=first - 1)
                + 1,
                first,
            )
            if first == before:
                return None
        return digest

    def _entries(self):
        ends = {number: (0, start) for number, (_, start) in self.writers.items()}
        broken = set()
        self.identity, self.seqs = {}, {}  # seq -> (uuid, place), and back
        for seq, writer, place, component, *columns, recorded_at_ns, digest in self.rows(
            f"SELECT {ENTRY} FROM entry ORDER BY seq"
        ):
            if writer not in ends:
                self.problems.append(f"entry {seq} is of an unknown writer")
                continue
            uuid = self.writers[writer][0]
            self.identity[seq] = (uuid, place)
            self.seqs[uuid, place] = seq
            if writer in broken:
                continue
            before, previous = ends[writer]
            across = None
            for gaps in (self.gaps, self.gaps_to_come) if isinstance(place, int) else ():
                across = across or self._across(gaps.get(uuid, ()), before + 1, place - 1)
            if across is not None:
                before, previous = place - 1, across
            if place != before + 1 or not self._links(
                previous, place, component, columns, recorded_at_ns, digest
            ):
                self.problems.append(f"entry {seq} is not the next link of writer {uuid}")
                broken.add(writer)
                continue
            ends[writer] = (place, digest)
            self.digests[uuid, place] = digest
        attested = getattr(self, "attestation_ends", ends)
        self.heads = {
            uuid: (*ends[number], *attested[number]) for number, (uuid, _) in self.writers.items()
        }

    def _links(self, previous, place, component, columns, recorded_at_ns, digest):
        stream, kind, name, value, *rest = columns
        for same in (value, -0.0) if value == 0 else (value,):  # SQLite forgets the sign of zero
            try:
                text = canonical(
                    [
                        place,
                        self.names.get(component),
                        stream,
                        kind,
                        name,
                        same,
                        *rest,
                        recorded_at_ns,
                    ]
                )
            except (ValueError, TypeError):
                return False
            if sha256(previous + text) == digest:
                return True
        return False

    def _receipts(self):
        columns = ", ".join(RECEIPT)
        found = {
            i: row
            for i, *row in self.rows(f"SELECT id, component_id, entries, {columns} FROM receipt")
        }
        for number, (component, entries, *values) in found.items():
            bodies = self.proved.get(number, [])
            if not bodies and values[4] is not None and number > self.bound:
                self.problems.append(f"receipt {number} is attested by nobody")
            for body in bodies:
                try:
                    seqs = expanded(entries)
                    # What one copy removed, another may have brought again: neither side counts it.
                    named = sorted(
                        key
                        for seq in seqs
                        if (key := self.identity.get(seq)) and not self._removed(key)
                    )
                    wanted = sorted(
                        key for key in self._places(body["entries"]) if not self._removed(key)
                    )
                    came_later = {
                        key
                        for key in wanted
                        if self.seqs.get(key, 2**63)
                        > max([seq for seq in seqs if seq in self.identity], default=0)
                    }
                except (ValueError, TypeError) as error:
                    self.problems.append(f"receipt {number} can't be read: {error!r}")
                    continue
                wrong = [body.get(name) for name in RECEIPT] != values
                nowhere = [seq for seq in seqs if seq not in self.identity]
                if nowhere and (not self.gaps or nowhere[-1] > max(self.identity)):
                    wrong = True
                elsewhere = component is None and not entries
                if (
                    str(body.get("component")).lower() != str(self.names.get(component)).lower()
                    and not elsewhere
                ):
                    wrong = True
                if wrong or named not in (wanted, sorted({*wanted} - came_later)):
                    self.problems.append(f"receipt {number} is not what was attested")
        self.problems += [
            f"receipt {number} is gone" for number in self.proved if number not in found
        ]

    def _removed(self, key):
        uuid, place = key
        return any(first <= place <= last for first, last, _ in self.gaps.get(uuid, ()))

    def _settlements(self):
        settled = set()
        sql = (
            "SELECT d.seq, d.receipt_id, d.outcome, d.reason, d.settled_at_ns, e.recorded_at_ns, "
            "e.component_id, e.payload, e.kind FROM delivery d LEFT JOIN entry e ON e.seq = d.seq"
        )
        for row in self.rows(sql):
            seq, receipt, outcome, reason, at_ns, recorded_at_ns, component, payload, kind = row
            key = self.identity.get(seq)
            settled.add(key)
            claim = self.claims.get(key)
            if key is None:
                self.problems.append(f"there is no entry {seq}, and it is settled")
            elif claim is None:
                old = (
                    0 < receipt <= self.bound
                    if isinstance(receipt, int)
                    else isinstance(at_ns, int) and 0 < at_ns <= self.bound_ns
                )
                local = (kind, outcome, reason) == (
                    "local",
                    "superseded",
                    "a local metric stays in the journal: nothing of it is sent",
                )
                refused = outcome == "quarantined" and kind != "local"
                at_once = receipt is None and at_ns == recorded_at_ns and (local or refused)
                if not old and not at_once:
                    self.problems.append(f"what became of entry {seq} is attested by nobody")
            elif (outcome, reason, at_ns) != claim[1:] or not self._proof(
                receipt, claim[0], component, payload
            ):
                self.problems.append(f"what became of entry {seq} is not what was attested")
        there = set(self.identity.values())
        self.problems += [
            f"{key} is attested and not settled"
            for key in self.claims
            if key in there and key not in settled
        ]

    def _proof(self, receipt, attested, component, payload):
        if attested == "any":
            return receipt is None or isinstance(receipt, int)
        if receipt == attested or attested not in {None, "old"}:
            return receipt == attested
        if receipt is None or (isinstance(receipt, int) and 0 < receipt <= self.bound):
            return True
        detail = json.loads(payload) if payload else {}
        content = (detail.get("sha256"), detail.get("bucket") or "", detail.get("prefix") or "")
        return (str(self.names.get(component)).lower(), *content) in self.uploads.get(receipt, ())

    def _told_early(self):
        """Components of which receipts from another copy told before they were recorded here."""
        sql = (
            "SELECT a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
            "WHERE r.component_id IS NULL AND r.entries = ''"
        )
        return {str(json.loads(body).get("component")).lower() for (body,) in self.rows(sql)}

    def _remote(self):
        early = self._told_early()
        for name, arn, confirmed_at_ns in self.rows(
            "SELECT name, arn, confirmed_at_ns FROM component"
        ):
            attested = self.components.get(str(name).lower())
            old = self.bound > 0 and (attested is None or attested[1] == confirmed_at_ns)
            unnoted = name.lower() in early and arn is None and confirmed_at_ns is None
            if (attested or (None, None)) != (arn, confirmed_at_ns) and not old and not unnoted:
                self.problems.append(f"component {name!r} is not known as it was attested")
        recorded = {}
        for component, sha, bucket, prefix, uri, receipt in self.rows(
            "SELECT component_id, sha256, bucket, prefix, uri, receipt_id FROM location"
        ):
            recorded[str(self.names.get(component)).lower(), sha, bucket, prefix] = (uri, receipt)
        here = {str(name).lower() for name in self.names.values()}
        for key in {*recorded, *(key for key in self.objects if key[0] in here)}:
            receipt = (self.objects.get(key) or recorded[key])[1]
            lost = key not in recorded or key not in self.objects
            if key not in recorded and key[0] in early:
                continue
            if recorded.get(key) != self.objects.get(key) and not (
                lost and isinstance(receipt, int) and receipt <= self.bound
            ):
                self.problems.append(f"where the content {key[1]} is, is not what was attested")

    def _derived(self):
        held = {
            (c, m, k): seq
            for c, m, k, seq in self.rows("SELECT component_id, map, key, seq FROM field")
        }
        wanted = {}
        sql = (
            "SELECT e.component_id, e.kind, coalesce(e.name, ''), e.seq, d.receipt_id, "
            "e.recorded_at_ns, w.journal_id, w.host FROM entry e "
            "JOIN delivery d ON d.seq = e.seq JOIN writer w ON w.id = e.writer_id "
            "WHERE e.stream <> 'metric' AND d.outcome = 'delivered' ORDER BY e.seq"
        )
        places = {}
        for component, kind, name, seq, receipt, recorded, *origin in self.rows(sql):
            if kind in MAPS:
                key = (component, MAPS[kind], name)
                if key in held or not isinstance(receipt, int) or receipt > self.bound:
                    before = places.get(key)
                    if (
                        before is None
                        or before[2] == origin
                        or (before[1], before[0]) < (recorded, seq)
                    ):
                        places[key] = (seq, recorded, origin)
                        wanted[key] = seq
        superseded = {
            seq for (seq,) in self.rows("SELECT seq FROM delivery WHERE outcome = 'superseded'")
        }
        for key in {*held, *wanted}:
            if held.get(key) != wanted.get(key) and not (key in held and held[key] in superseded):
                self.problems.append(f"the remote does not hold entry {held.get(key)} for {key}")
        ((mark,),) = self.rows("SELECT seq FROM mark")
        there = self.rows("SELECT 1 FROM sqlite_master WHERE name = 'unsettled'")
        listed = {seq for (seq,) in self.rows("SELECT seq FROM unsettled")} if there else set()
        below = self.rows(
            "SELECT seq FROM entry WHERE seq <= ? AND seq NOT IN (SELECT seq FROM delivery)", mark
        )
        if {seq for (seq,) in below} - listed:
            self.problems.append("an entry below the low-water mark is neither settled nor listed")
        ((generation,),) = self.rows("SELECT generation FROM lease")
        if generation < self.generation:
            self.problems.append("the lease has gone back")

    def _numbers(self):
        removed = sum(last - first + 1 for gaps in self.gaps.values() for first, last, _ in gaps)
        for table, column, after, allowed in (
            ("entry", "seq", 0, removed),
            ("receipt", "id", self.bound, 0),
        ):
            count, last = self.rows(
                f"SELECT count(*), max({column}) FROM {table} WHERE {column} > ?", after
            )[0]
            if count and last - after - count > allowed:
                self.problems.append(f"the numbers in {table} have gaps")

    def _blobs(self):
        known = dict(self.rows("SELECT sha256, size_bytes FROM blob"))
        for (payload,) in self.rows(
            "SELECT payload FROM entry WHERE kind = 'upload' AND payload IS NOT NULL"
        ):
            try:
                digest = json.loads(payload).get("sha256")
            except (ValueError, AttributeError):
                continue
            if digest is not None and digest not in known:
                self.problems.append(f"the content {digest} is not recorded")
        for digest, size in known.items():
            if digest in self.blobs_removed:
                continue
            path = self.folder / "spool" / str(digest)[:2] / str(digest)
            if (
                not re.fullmatch("[0-9a-f]{64}", str(digest))
                or path.is_symlink()
                or path.parent.is_symlink()
                or not path.is_file()
            ):
                self.problems.append(f"the blob {digest} is missing")
            elif (
                path.stat().st_size != size
                or hashlib.sha256(path.read_bytes()).hexdigest() != digest
            ):
                self.problems.append(f"the blob {digest} has other bytes")

    def _compare_head(self, uuid, what, place, digest):
        found = (self.digests if what == "entries" else self.attested).get((uuid, place))
        if place and found != digest:
            self.problems.append(
                f"writer {uuid} had {place} {what} when its head was noted: they are not those "
                "that are here"
            )


def verify(folder, noted=None):
    """What is wrong with a journal; ``noted``: heads of an earlier time."""
    return Verifier(folder, noted).problems


def heads(folder):
    """The heads of all chains, to be noted elsewhere."""
    return Verifier(folder).heads


if __name__ == "__main__":
    looked = Verifier(sys.argv[1])
    sys.stdout.write(
        "".join(f"{line}\n" for line in looked.problems) or "all is as it was written\n"
    )
    for writer, (count, link, attestations, attested) in looked.heads.items():
        sys.stdout.write(f"{writer} {count} {link.hex()} {attestations} {attested.hex()}\n")
    sys.exit(bool(looked.problems))
