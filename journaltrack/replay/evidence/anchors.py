"""Anchors: the heads of all chains, kept where whoever may write to the journal need not be able to.

A chain proves its own past, but not that it once went further. So at the end of a pass the newest digest of every writer is
put into a small document outside: in S3 beside the artifacts, under a name that tells the document's SHA-256, never over
another one; and, if wanted, that SHA-256 into a parameter of each component. ``reports.proof.check``
holds a journal against it.

A failing anchor ends no pass and loses nothing: the next pass makes another. Must not know any particular remote.

Whether another copy of a journal was delivered further than this one: asked before anything is sent. Changes nothing.

A copy that was synced elsewhere, or the journal that a backup of it came from, left anchors outside: documents with numbers, in one
folder for each journal id. One request lists those from this copy's newest on. One that this copy did not make is fetched: if it
names an attestation that is not here, others sent what is pending here, and nobody would notice that it is sent twice.

What can't be asked keeps no pass from going on. Must not know what is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from journaltrack._version import __version__
from journaltrack.errors import COPY_AHEAD_HINT, JournalBehindError, JournalError, RemoteError, UnexpectedError, described
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.plan.actions import Fields
from journaltrack.replay.remote import Document
from journaltrack.util.threads import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.proof import Proof
    from journaltrack.replay.lease import Gate
    from journaltrack.replay.remote import Answer, Remote

Heads: TypeAlias = Mapping[str, tuple[int, str]]
"""By a writer's uuid: the number and the digest (hexadecimal) of the newest link of its chain."""
Kind: TypeAlias = Literal["entries", "attestations"]

FORMAT: Final = "journaltrack-anchor"
VERSION: Final = 1
NAME: Final = re.compile(r"(\d{8,18})-([0-9a-f]{64})\.json")
"""What ``name_of`` gives: the number and the SHA-256."""
BYTES_MAX: Final = 64 << 20
"""Ours: of a document that is read; one has 150 bytes for each process that logged since the one before."""


@dataclass(frozen=True, slots=True)
class HeadsDocument:
    """What an anchor says. ``previous`` is the SHA-256 of the one before, None for the first; ``made_at_ns`` is nanoseconds since the epoch."""

    journal_id: str
    number: int
    previous: str | None
    made_at_ns: int
    entries: Heads
    attestations: Heads

    def encode(self) -> bytes:
        """As it is stored."""
        told = {
            "format": FORMAT,
            "version": VERSION,
            "journal_id": self.journal_id,
            "number": self.number,
            "previous": self.previous,
            "made_at_ns": self.made_at_ns,
            "made_by": f"journaltrack {__version__}",
            "entries": self.entries,
            "attestations": self.attestations,
        }
        return json.dumps(told, separators=(",", ":")).encode()


def folder_of(journal_id: str) -> str:
    """Where the anchors of a journal are, below the prefix of its artifacts."""
    return f"journaltrack-anchors/{journal_id}"


def name_of(number: int, sha256: str) -> str:
    """The name of a document: its number, and its SHA-256."""
    return f"{number:08d}-{sha256}.json"


def decode(content: bytes) -> HeadsDocument | None:
    """What a document says; None if it is none of ours."""
    try:
        told = json.loads(content) if len(content) <= BYTES_MAX else None
        if not isinstance(told, dict) or told["format"] != FORMAT or told["version"] != VERSION:
            return None
        document = HeadsDocument(
            told["journal_id"], told["number"], told["previous"], told["made_at_ns"], _heads(told["entries"]), _heads(told["attestations"])
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = isinstance(document.journal_id, str) and isinstance(document.number, int) and isinstance(document.previous, (str, type(None)))
    return document if sound and isinstance(document.made_at_ns, int) else None


def _heads(told: dict[str, list[object]]) -> dict[str, tuple[int, str]]:
    heads = {}
    for uuid, (number, digest) in told.items():
        if type(number) is not int or number < 1 or not isinstance(digest, str):
            raise TypeError
        heads[uuid] = (number, digest)
    return heads


logger = logging.getLogger(__name__)

ACTION: Final = "anchor"
PARAMETER: Final = "journaltrack.anchor"
"""The parameter of a component that names the last anchor: ``<number> <sha256>``."""
_OWN: Final = (
    "SELECT a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id JOIN writer w ON w.id = a.writer_id "
    "WHERE r.component_id IS NULL AND r.action = ? AND r.outcome = 'delivered' "
    "AND (w.journal_id IS NULL OR w.journal_id = (SELECT journal_id FROM meta)) ORDER BY r.id DESC LIMIT ?"
)
"""Those of other journals came with a merge or with receipts: they have numbers and a place of their own."""
_HEADS: Final[dict[Kind, str]] = {  # the bare columns are those of the row with the maximum: https://sqlite.org/lang_select.html#bareagg
    "entries": "SELECT w.uuid, e.writer_seq, e.digest, max(e.seq) FROM entry e JOIN writer w ON w.id = e.writer_id WHERE e.seq > ? GROUP BY e.writer_id",
    # By the index on writers, SQLite would read all attestations there are to have them in groups: of new ones alone by their numbers.
    "attestations": "SELECT w.uuid, a.writer_seq, a.digest, max(a.id) FROM attestation a NOT INDEXED JOIN writer w ON w.id = a.writer_id "
    "WHERE a.id > ? GROUP BY a.writer_id",
}


_ATTEMPTS: Final = "SELECT outcome, finished_at_ns FROM receipt WHERE component_id IS NULL AND action = ? AND finished_at_ns IS NOT NULL ORDER BY id DESC LIMIT ?"
_FAILURES_FREE: Final = 1
"""Failures in a row after which the next pass tries again;"""
_PAUSE_FIRST_S: Final = 60.0
"""... after one more, not within a minute, and twice as long after each."""
_PAUSE_MAX_S: Final = 3600.0
_FAILURES_COUNTED: Final = 10


@dataclass(frozen=True, slots=True)
class Anchor:
    """An anchor that was made: ``seq`` and ``attestation`` say how far in this journal; ``at_ns`` is nanoseconds since the epoch.

    ``uri`` is None if parameters alone name it.
    """

    number: int
    sha256: str
    at_ns: int
    uri: str | None
    seq: int
    attestation: int


def last(database: Database) -> Anchor | None:
    """The newest of this journal that it knows of."""
    return next(iter(own(database, 1)), None)


def own(database: Database, most: int = -1) -> list[Anchor]:
    """Return this journal's anchors that it knows of, the newest first; at most ``most``, -1: all."""
    found = (anchor_of(body) for (body,) in database.read(_OWN, (ACTION, most)))
    return [anchor for anchor in found if anchor is not None]


def anchor_of(body: object) -> Anchor | None:
    """The anchor that an attestation tells of; None if it tells of none."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):  # crafted: as if there were none
        members = json.loads(str(body))
        anchor = members["anchor"]
        at_ns, (seq, attestation) = int(members["finished_at_ns"]), map(int, anchor["reached"])
        return Anchor(int(anchor["number"]), str(anchor["sha256"]), at_ns, anchor.get("uri"), seq, attestation)
    return None


def make(
    database: Database,
    settlement: Settlement,
    remote: Remote,
    places: str,
    *,
    proof: Proof,
    is_over: Callable[[], bool],
    every_s: float,
    clock_ns: Callable[[], int],
    above: int = 0,
) -> Anchor | None:
    """Anchor what is new since the last time.

    Args:
        database: Of the journal.
        settlement: Of the pass; its lease is held.
        remote: Where to.
        places: "artifacts": into S3 where the first artifacts went, once there are some; "s3": also before, into the default bucket;
            "parameter": into a parameter of each component; "both": "artifacts" and "parameter"; "off".
        proof: What the pass has seen of the chains. Writers whose chains do not hold since the last anchor are left out of this one.
        is_over: Whether there is no more time.
        every_s: Not before the last one is so old, seconds.
        clock_ns: Nanoseconds since the epoch.
        above: Its number is to be higher: of another copy's newest one.

    Returns:
        The anchor, None if there is none: nothing new, nowhere to put it, too early or too late, or it failed (there is a receipt then).
    """
    place = None if places == "parameter" else newest_place(database) or ((None, None) if places == "s3" else None)
    named = places in {"parameter", "both"}
    if places == "off" or (place is None and not named):
        return None
    before, now_ns = last(database), clock_ns()
    if before is not None and 0 <= now_ns - before.at_ns < every_s * 1e9:
        return None
    if has_to_wait(database, now_ns):
        return None
    reached = (_newest(database, "entry", "seq"), _newest(database, "attestation", "id"))
    if not _is_new(database, before):
        return None
    broken = proof.broken_since(before.seq if before else 0, before.attestation if before else 0, is_over)
    if broken is None:
        return None
    document = _document(database, before, now_ns, above, broken)
    number, content = document.number, document.encode()
    sha256 = hashlib.sha256(content).hexdigest()
    (receipt_id,) = settlement.begin([Intent(ACTION, None, ())])
    answer: Answer | None = None
    try:
        if place is not None:
            stored = Document(*place, folder_of(document.journal_id), name_of(number, sha256), content)
            answer = remote.put_document(stored)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the anchor's alone
        failure = error if isinstance(error, RemoteError) else UnexpectedError(error, maybe_applied=True)
        logger.info("the journal was not anchored: %s", failure)
        settlement.finish([_failed(receipt_id, None, failure)])
        return None
    if named and not _name_it(database, settlement, remote, before, f"{number} {sha256}") and place is None:
        settlement.finish([Outcome(receipt_id, None, "failed", attempts=0, error_text="no component took the parameter")])
        return None
    uri = answer.uri if answer is not None else None
    told = {"number": number, "sha256": sha256, "uri": uri, "reached": list(reached), "document": content.decode()}
    request_id = answer.request_id if answer is not None else None
    settlement.finish([Outcome(receipt_id, None, "delivered", request_id=request_id, more={"anchor": told})])
    return Anchor(number, sha256, now_ns, uri, *reached)


def has_to_wait(database: Database, now_ns: int) -> bool:
    """Return whether the last attempts failed, and the last of them not long enough ago for another one."""
    rows = database.read(_ATTEMPTS, (ACTION, _FAILURES_COUNTED))
    failures = len(list(itertools.takewhile(lambda row: row[0] != "delivered", rows)))
    if failures <= _FAILURES_FREE or not isinstance(rows[0][1], int):
        return False
    pause_s = min(_PAUSE_FIRST_S * 2 ** (failures - _FAILURES_FREE - 1), _PAUSE_MAX_S)
    return bool(0 <= now_ns - rows[0][1] < pause_s * 1e9)


def _name_it(database: Database, settlement: Settlement, remote: Remote, before: Anchor | None, value: str) -> int:
    """Set the parameter of each component that has new entries; how many took it."""
    rows = database.read(
        "SELECT c.id, c.name FROM component c WHERE c.confirmed_at_ns IS NOT NULL AND EXISTS "
        "(SELECT 1 FROM entry e WHERE e.component_id = c.id AND e.seq > ?)",
        (before.seq if before else 0,),
    )
    taken = 0
    for component_id, name in rows:
        (receipt_id,) = settlement.begin([Intent(ACTION, component_id, ())])
        try:
            answer = remote.update(str(name), Fields(parameters={PARAMETER: value}))
        except Exception as error:  # noqa: BLE001 - as above
            failure = error if isinstance(error, RemoteError) else UnexpectedError(error, maybe_applied=True)
            logger.info("%s does not name its anchor: %s", name, failure)
            settlement.finish([_failed(receipt_id, component_id, failure)])
            continue
        settlement.finish([Outcome(receipt_id, component_id, "delivered", request_id=answer.request_id, more={"named": value})])
        taken += 1
    return taken


_SOUND: Final = "typeof(bucket) = 'text' AND typeof(prefix) = 'text' AND typeof(uri) = 'text'"
_HOST: Final = (
    "CASE WHEN bucket <> '' AND substr(uri, 6, length(bucket) + 1) = bucket || '/' THEN bucket "
    "WHEN uri LIKE 's3://_%/%' THEN substr(uri, 6, instr(substr(uri, 6), '/') - 1) ELSE '' END"
)
_BY_DEFAULT: Final = re.compile(r"sagemaker-[a-z0-9-]+-[0-9]{12}")
"""The bucket that a remote chooses itself: it may be another one where a journal is synced next."""


def places(database: Database, *, default: bool) -> list[tuple[str | None, str | None]]:
    """(bucket, prefix), None for the remote's own, where anchors of this journal may be."""
    rows = database.read(f"SELECT DISTINCT bucket, prefix, {_HOST} FROM location WHERE {_SOUND}")
    found = [(bucket_used(recorded, actual), prefix or None) for recorded, prefix, actual in rows]
    known = last(database)
    if default or (not found and known is not None and known.uri is not None):
        found.append((None, None))
    return list(dict.fromkeys(found))


def newest_place(database: Database) -> tuple[str | None, str | None] | None:
    """Where the newest anchor is that this journal knows of, or would be; None where there is no place for one yet."""
    known = last(database)
    bucket, _, key = ((known and known.uri) or "").removeprefix("s3://").partition("/")
    prefix, marked, _ = key.rpartition(f"/{folder_of('')}")
    # All in one place: a copy of the journal looks for them where the last one is that it knows of.
    return (bucket_used("", bucket), prefix) if bucket and marked else _place(database)


def _place(database: Database) -> tuple[str | None, str | None] | None:
    """Where the last artifact was put."""
    rows = database.read(f"SELECT bucket, prefix, {_HOST} FROM location WHERE {_SOUND} ORDER BY receipt_id DESC LIMIT 1")
    return (bucket_used(rows[0][0], rows[0][2]), rows[0][1] or None) if rows else None


def bucket_used(recorded: str, actual: str) -> str | None:
    """Return where an artifact is, None: in the default bucket.

    Another one may have been used in place of the recorded one (`sync --bucket`).
    """
    return None if not recorded and _BY_DEFAULT.fullmatch(actual) else actual or recorded or None


def _is_new(database: Database, before: Anchor | None) -> bool:
    """Return whether there is more than the last anchor itself."""
    if before is None:
        return bool(database.read("SELECT 1 FROM entry LIMIT 1"))
    if database.read("SELECT 1 FROM entry WHERE seq > ? LIMIT 1", (before.seq,)):
        return True
    newer = database.read(
        "SELECT r.action FROM attestation a LEFT JOIN receipt r ON r.id = a.receipt_id WHERE a.id > ? LIMIT 1000", (before.attestation,)
    )
    return any(action != ACTION for (action,) in newer)


def _document(database: Database, before: Anchor | None, now_ns: int, above: int, left_out: Collection[str]) -> HeadsDocument:
    def heads(kind: Kind, since: int) -> Heads:
        rows = database.read(_HEADS[kind], (since,))
        return {str(uuid): (number, digest.hex()) for uuid, number, digest, _ in rows if isinstance(digest, bytes) and uuid not in left_out}

    return HeadsDocument(
        journal_id=str(database.read("SELECT journal_id FROM meta")[0][0]),
        number=max(before.number if before else 0, above) + 1,
        previous=before.sha256 if before else None,
        made_at_ns=now_ns,
        entries=heads("entries", before.seq if before else 0),
        attestations=heads("attestations", before.attestation if before else 0),
    )


def _failed(receipt_id: int, component_id: int | None, error: RemoteError) -> Outcome:
    return Outcome(receipt_id, component_id, "failed", request_id=error.request_id, error_code=error.code, error_text=error.message[:2_000])


def _newest(database: Database, table: str, column: str) -> int:
    return int(database.read(f"SELECT coalesce(max({column}), 0) FROM {table}")[0][0])


T = TypeVar("T")


ASK_S: Final = 3.0
"""Ours: how long a pass waits for the answer. A store that does not answer keeps metrics back for no longer, and only where it answered before."""
_FETCHED_MAX: Final = 8
"""Ours: of the anchors that others made, the newest are looked at."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Another copy of the journal, as its anchor tells of it.

    Attributes:
        number: Of the newest anchor there is.
        made_at_ns: When that copy made the one that shows it, nanoseconds since the epoch.
    """

    number: int
    made_at_ns: int

    def error(self) -> JournalBehindError:
        """What to raise instead of sending."""
        made_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(max(self.made_at_ns // 10**9, 0), 2**33)))
        return JournalBehindError(
            f"another copy of this journal was delivered further than this one: it was anchored at {made_at} UTC (number {self.number}) after "
            "requests of which nothing is known here; nothing was sent",
            hint=COPY_AHEAD_HINT,
        )


def ask(database: Database, remote: Remote, places: str, gate: Gate, now_ns: int) -> Ahead | None:
    """Another copy that is ahead; None if there is none, or that can't be told.

    Args:
        database: Of the journal.
        remote: Where its anchors are.
        places: Where they are put, see ``anchors.make``. "off": nobody is asked. Those in parameters do not say of which journal they are.
        gate: Of the pass.
        now_ns: Nanoseconds since the epoch.
    """
    if places in {"off", "parameter"} or has_to_wait(database, now_ns):
        return None
    place = newest_place(database) or ((None, None) if places == "s3" else None)
    if place is None:
        return None
    journal_id = str(database.read("SELECT journal_id FROM meta")[0][0])
    known, where = last(database), (*place, folder_of(journal_id))
    until = time.monotonic() + ASK_S

    def answer(request: Callable[[], T]) -> T:
        return bounded(request, lambda: min(until - time.monotonic(), gate.remaining_s()))

    try:
        listed = answer(lambda: remote.document_names(*where, f"{known.number if known else 0:08d}"))
        own = known and name_of(known.number, known.sha256)
        others = {name for name in listed if name != own and NAME.fullmatch(name)}
        names = sorted(others - _own_names(database)) if others else []
        for name in reversed(names[-_FETCHED_MAX:]):
            document = decode(answer(partial(remote.document, *where, name)) or b"")
            if document is not None and document.journal_id == journal_id and not _is_known(database, document):
                return Ahead(int(names[-1].partition("-")[0]), document.made_at_ns)
    except JournalError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the store does
        logger.info("whether another copy of the journal is ahead could not be asked: %s", described(error))
    return None


def _own_names(database: Database) -> set[str]:
    """Of all anchors that this copy knows of: one that was synced elsewhere may have brought its receipts."""
    return {name_of(anchor.number, anchor.sha256) for anchor in own(database)}


def _is_known(database: Database, document: HeadsDocument) -> bool:
    """Return whether this copy has all that the anchor names of what became of entries: it is its own, and only its answer was lost."""
    sql = (
        "SELECT w.uuid, a.writer_seq, a.digest FROM json_each(?) j JOIN writer w ON w.uuid = json_extract(j.value, '$[0]') "
        "JOIN attestation a ON a.writer_id = w.id AND a.writer_seq = json_extract(j.value, '$[1]')"
    )
    asked = {(uuid, number): digest for uuid, (number, digest) in document.attestations.items()}
    here = {
        (uuid, number): bytes(digest).hex() if isinstance(digest, bytes) else ""
        for uuid, number, digest in database.read(sql, (json.dumps(list(asked)),))
    }
    return here == asked
