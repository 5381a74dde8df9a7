"""Keep the heads of all chains outside the journal, as anchors.

Whoever may write to the journal need not be able to write there.

A chain proves its own past, but not that it once went further. So at the end of a pass the newest
digest of every writer goes into a small document outside. It lies in S3 in the bucket of the
artifacts, in a folder of its own. Its name contains its SHA-256, and it never replaces another one.
If wanted, that SHA-256 also goes into a parameter of each component. ``reports.proof.check`` holds
a journal against its anchors.

``ahead`` asks by them whether another copy of the journal was delivered further.

Invariant: a failing anchor ends no pass and loses nothing, since the next pass makes another.

Must not know any particular remote, or what is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from journaltrack._version import __version__
from journaltrack.errors import (
    RemoteError,
    UnexpectedError,
)
from journaltrack.journal.groups import IS_RUN
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.plan.actions import Fields
from journaltrack.replay.remote import Answer, Document
from journaltrack.util.config import ANCHORS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.proof import Proof
    from journaltrack.replay.remote import Remote

logger = logging.getLogger(__name__)

T = TypeVar("T")
Heads: TypeAlias = Mapping[str, tuple[int, str]]
"""By a writer's uuid: the number and the digest (hexadecimal) of the newest link of its chain."""
Kind: TypeAlias = Literal["entries", "attestations"]

FORMAT: Final = "journaltrack-anchor"
VERSION: Final = 1
NAME: Final = re.compile(r"(\d{8,18})-([0-9a-f]{64})\.json")
"""What ``name_of`` gives: the number and the SHA-256."""
BYTES_MAX: Final = 64 << 20
"""Our own limit: bytes of a document that is read.

One has 150 bytes for each process that logged since the one before.
"""
ACTION: Final = "anchor"
PARAMETER: Final = "journaltrack.anchor"
"""The parameter of a component that names the last anchor: ``<number> <sha256>``."""
_FAILURES_FREE: Final = 1
"""Failures in a row after which the next pass tries again at once."""
_PAUSE_FIRST_S: Final = 60.0
"""Seconds to pause after one failure more. Each further one doubles the pause."""
_PAUSE_MAX_S: Final = 3600.0
_FAILURES_COUNTED: Final = 10

_OWN: Final = (
    "SELECT a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
    "JOIN writer w ON w.id = a.writer_id "
    "WHERE r.component_id IS NULL AND r.action = ? AND r.outcome = 'delivered' "
    "AND (w.journal_id IS NULL OR w.journal_id = (SELECT journal_id FROM meta)) "
    "ORDER BY r.id DESC LIMIT ?"
)
"""Only this journal's. Those of other journals came with a merge or with receipts.

They have numbers and a place of their own.
"""
# The bare columns are those of the row with the maximum:
# https://sqlite.org/lang_select.html#bareagg
_HEADS: Final[dict[Kind, str]] = {
    "entries": (
        "SELECT w.uuid, e.writer_seq, e.digest, max(e.seq) FROM entry e "
        "JOIN writer w ON w.id = e.writer_id WHERE e.seq > ? GROUP BY e.writer_id"
    ),
    # By the index on writers, SQLite would read all attestations to group them. NOT INDEXED reads
    # only the new ones, by their numbers.
    "attestations": (
        "SELECT w.uuid, a.writer_seq, a.digest, max(a.id) FROM attestation a NOT INDEXED "
        "JOIN writer w ON w.id = a.writer_id WHERE a.id > ? GROUP BY a.writer_id"
    ),
}
_ATTEMPTS: Final = (
    "SELECT outcome, finished_at_ns FROM receipt WHERE component_id IS NULL AND action = ? "
    "AND finished_at_ns IS NOT NULL ORDER BY id DESC LIMIT ?"
)
_NEWS: Final = (
    "SELECT 1 FROM attestation a JOIN writer w ON w.id = a.writer_id "
    "LEFT JOIN receipt r ON r.id = a.receipt_id "
    "WHERE a.id > ? AND coalesce(r.action, '') NOT IN (?, ?) AND NOT EXISTS "
    "(SELECT 1 FROM json_each(?) t WHERE json_extract(t.value, '$[0]') = w.uuid "
    "AND a.writer_seq BETWEEN json_extract(t.value, '$[1]') AND json_extract(t.value, '$[2]')) "
    "LIMIT 1"
)
_SOUND: Final = "typeof(bucket) = 'text' AND typeof(prefix) = 'text' AND typeof(uri) = 'text'"
_HOST: Final = (
    "CASE WHEN bucket <> '' AND substr(uri, 6, length(bucket) + 1) = bucket || '/' THEN bucket "
    "WHEN uri LIKE 's3://_%/%' THEN substr(uri, 6, instr(substr(uri, 6), '/') - 1) ELSE '' END"
)
_BY_DEFAULT: Final = re.compile(r"sagemaker-[a-z0-9-]+-[0-9]{12}")
"""The bucket that a remote chooses itself. Where a journal is synced next, it may be another."""


@dataclass(frozen=True, slots=True)
class HeadsDocument:
    """Say what an anchor says.

    Attributes:
        journal_id: Of the journal.
        number: Of the anchor.
        previous: The SHA-256 of the anchor before, None for the first.
        made_at_ns: Nanoseconds since the epoch.
        entries: The heads of the chains of entries.
        attestations: The heads of the chains of attestations.
    """

    journal_id: str
    number: int
    previous: str | None
    made_at_ns: int
    entries: Heads
    attestations: Heads

    def encode(self) -> bytes:
        """Return the document as it is stored."""
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
    """Return where a journal's anchors are, below their prefix."""
    return f"{ANCHORS}/{journal_id}"


def name_of(number: int, sha256: str) -> str:
    """Return the name of a document: its number, and its SHA-256."""
    return f"{number:08d}-{sha256}.json"


def decode(content: bytes) -> HeadsDocument | None:
    """Return what a document says, or None if it is none of ours."""
    try:
        told = json.loads(content) if len(content) <= BYTES_MAX else None
        if not isinstance(told, dict) or told["format"] != FORMAT or told["version"] != VERSION:
            return None
        document = HeadsDocument(
            told["journal_id"],
            told["number"],
            told["previous"],
            told["made_at_ns"],
            _heads(told["entries"]),
            _heads(told["attestations"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = (
        isinstance(document.journal_id, str)
        and isinstance(document.number, int)
        and isinstance(document.previous, (str, type(None)))
    )
    return document if sound and isinstance(document.made_at_ns, int) else None


def _heads(told: dict[str, list[object]]) -> dict[str, tuple[int, str]]:
    heads = {}
    for uuid, (number, digest) in told.items():
        if type(number) is not int or number < 1 or not isinstance(digest, str):
            raise TypeError
        heads[uuid] = (number, digest)
    return heads


@dataclass(frozen=True, slots=True)
class Anchor:
    """Describe an anchor that was made.

    Attributes:
        number: Of the anchor.
        sha256: Of its document.
        at_ns: Nanoseconds since the epoch.
        uri: Of its document. None: only parameters name it.
        seq: The last entry of this journal that it covers.
        attestation: The id of the last attestation that it covers.
    """

    number: int
    sha256: str
    at_ns: int
    uri: str | None
    seq: int
    attestation: int


def last(database: Database) -> Anchor | None:
    """Return the newest anchor of this journal that the journal knows of."""
    return next(iter(own(database, 1)), None)


def own(database: Database, most: int = -1) -> list[Anchor]:
    """Return the anchors of this journal that it knows of, the newest first.

    At most ``most``. -1: all.
    """
    found = (anchor_of(body) for (body,) in database.read(_OWN, (ACTION, most)))
    return [anchor for anchor in found if anchor is not None]


def anchor_of(body: object) -> Anchor | None:
    """Return the anchor that an attestation tells of, or None."""
    # A crafted body tells of none.
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        members = json.loads(str(body))
        anchor = members["anchor"]
        at_ns, (seq, attestation) = int(members["finished_at_ns"]), map(int, anchor["reached"])
        return Anchor(
            int(anchor["number"]), str(anchor["sha256"]), at_ns, anchor.get("uri"), seq, attestation
        )
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
    prefix: str | None = "",
) -> Anchor | None:
    """Anchor what is new since the last anchor.

    Args:
        database: Of the journal.
        settlement: Of the pass. Its lease is held.
        remote: Where to put it.
        places: "artifacts": into the bucket of the first artifacts, once there are some. "s3":
            the same, but without artifacts into the default bucket. "parameter": into a parameter
            of each component. "both": "artifacts" and "parameter". "off": nowhere.
        proof: What the pass has seen of the chains. Writers whose chains do not hold since the
            last anchor are left out of this one.
        is_over: Returns whether the time is over.
        every_s: Least age of the last anchor in seconds before another is made.
        clock_ns: Nanoseconds since the epoch.
        above: The new number is above this one: the number of another copy's newest anchor.
        prefix: The prefix of a journal's first anchor: "" for the bucket's root, None for that of
            the last artifact. Later ones follow the first.

    Returns:
        The anchor. None if nothing is new, there is nowhere to put it, or it is too early or too
        late. Also None if it failed: a receipt says so.
    """
    place, named = _next_place(database, places, prefix), places in {"parameter", "both"}
    if place is None and not named:
        return None
    before, now_ns = last(database), clock_ns()
    early = before is not None and 0 <= now_ns - before.at_ns < every_s * 1e9
    if early or has_to_wait(database, now_ns) or not _is_new(database, before):
        return None
    reached = (_newest(database, "entry", "seq"), _newest(database, "attestation", "id"))
    since = (before.seq, before.attestation) if before else (0, 0)
    broken = proof.broken_since(*since, is_over)
    if broken is None:
        return None
    document = _document(database, before, now_ns, above, broken)
    number, content = document.number, document.encode()
    sha256 = hashlib.sha256(content).hexdigest()
    (receipt_id,) = settlement.begin([Intent(ACTION, None, ())])
    answer: Answer | None = Answer()
    if place is not None:
        folder, name = folder_of(document.journal_id), name_of(number, sha256)
        put = partial(remote.put_document, Document(*place, folder, name, content))
        answer = _answer(settlement, receipt_id, None, put)
    if answer is None:
        return None
    is_named = named and _name_it(database, settlement, remote, before, f"{number} {sha256}")
    if place is None and not is_named:
        why = "no component took the parameter"
        settlement.finish([Outcome(receipt_id, None, "failed", attempts=0, error_text=why)])
        return None
    told = {
        "number": number,
        "sha256": sha256,
        "uri": answer.uri,
        "reached": list(reached),
        "document": content.decode(),
    }
    request_id, more = answer.request_id, {"anchor": told}
    settlement.finish([Outcome(receipt_id, None, "delivered", request_id=request_id, more=more)])
    return Anchor(number, sha256, now_ns, answer.uri, *reached)


def _answer(
    settlement: Settlement, receipt_id: int, component_id: int | None, request: Callable[[], Answer]
) -> Answer | None:
    """Return the answer to a request. None if it failed: then the receipt says so."""
    try:
        return request()
    except Exception as error:  # noqa: BLE001 - any failure concerns the anchor alone
        failure = (
            error if isinstance(error, RemoteError) else UnexpectedError(error, maybe_applied=True)
        )
    logger.info("the journal was not anchored, a later pass tries again: %s", failure)
    failed = Outcome(
        receipt_id,
        component_id,
        "failed",
        request_id=failure.request_id,
        error_code=failure.code,
        error_text=failure.message[:2_000],
    )
    settlement.finish([failed])
    return None


def has_to_wait(database: Database, now_ns: int) -> bool:
    """Return whether to pause, because the last attempts failed a short while ago."""
    rows = database.read(_ATTEMPTS, (ACTION, _FAILURES_COUNTED))
    failures = len(list(itertools.takewhile(lambda row: row[0] != "delivered", rows)))
    if failures <= _FAILURES_FREE or not isinstance(rows[0][1], int):
        return False
    pause_s = min(_PAUSE_FIRST_S * 2 ** (failures - _FAILURES_FREE - 1), _PAUSE_MAX_S)
    return bool(0 <= now_ns - rows[0][1] < pause_s * 1e9)


def _name_it(
    database: Database, settlement: Settlement, remote: Remote, before: Anchor | None, value: str
) -> int:
    """Set the parameter of each component with new entries. Return how many took it."""
    rows = database.read(
        "SELECT c.id, c.name FROM component c WHERE c.confirmed_at_ns IS NOT NULL "
        f"AND {IS_RUN} AND EXISTS "
        "(SELECT 1 FROM entry e WHERE e.component_id = c.id AND e.seq > ?)",
        (before.seq if before else 0,),
    )
    count = 0
    for component_id, name in rows:
        (receipt_id,) = settlement.begin([Intent(ACTION, component_id, ())])
        fields = Fields(parameters={PARAMETER: value})
        request = partial(remote.update, str(name), fields)
        answer = _answer(settlement, receipt_id, component_id, request)
        if answer is None:
            continue
        done = Outcome(
            receipt_id,
            component_id,
            "delivered",
            request_id=answer.request_id,
            more={"named": value},
        )
        settlement.finish([done])
        count += 1
    return count


def places(
    database: Database, *, default: bool, prefix: str | None = ""
) -> list[tuple[str | None, str | None]]:
    """Return (bucket, prefix) of each place where anchors of this journal may be.

    None: the remote's own. The prefix "" is the bucket's root.

    Args:
        database: Of the journal.
        default: Whether to include the places of a journal without artifacts.
        prefix: See ``make``.
    """
    rows = database.read(f"SELECT DISTINCT bucket, prefix, {_HOST} FROM location WHERE {_SOUND}")
    found = [
        (bucket_used(recorded, actual), each)
        for recorded, of_artifacts, actual in rows
        for each in (of_artifacts or None if prefix is None else prefix, of_artifacts or None)
    ]
    known = known_place(database)
    if known is not None:
        found.append(known)
    if default:
        found += [(None, prefix), (None, None)]
    return list(dict.fromkeys(found))


def places_of_copies(database: Database, prefix: str | None) -> list[tuple[str | None, str | None]]:
    """Return where another copy may have put its anchors, if this one knows of no place.

    That is where the recorded artifacts are to go, and the default bucket.
    """
    rows = database.read(
        "SELECT DISTINCT json_extract(payload, '$.bucket'), json_extract(payload, '$.prefix') "
        "FROM entry WHERE stream = 'upload' AND kind = 'upload' AND json_valid(payload)"
    )
    recorded = [(str(bucket or "") or None, str(of or "") or None) for bucket, of in rows]
    found = [
        (bucket, each)
        for bucket, of_artifacts in [*recorded, (None, None)]
        for each in (of_artifacts if prefix is None else prefix, of_artifacts)
    ]
    return list(dict.fromkeys(found))


def _next_place(
    database: Database, places: str, prefix: str | None
) -> tuple[str | None, str | None] | None:
    """Return where the next anchor goes. None: nowhere (yet)."""
    if places in {"off", "parameter"}:
        return None
    known, last_one = known_place(database), place_of_artifacts(database)
    if known is not None:
        return known
    if last_one is not None:
        return last_one if prefix is None else (last_one[0], prefix)
    return (None, prefix) if places == "s3" else None


def known_place(database: Database) -> tuple[str | None, str | None] | None:
    """Return where the newest known anchor is.

    All are in one place: a copy of the journal looks where the last anchor is that it knows of.
    """
    known = last(database)
    bucket, _, key = ((known and known.uri) or "").removeprefix("s3://").partition("/")
    prefix, marked, _ = f"/{key}".rpartition(f"/{folder_of('')}")
    return (bucket_used("", bucket), prefix.strip("/")) if bucket and marked else None


def place_of_artifacts(database: Database) -> tuple[str | None, str | None] | None:
    """Return where the last artifact was put."""
    last_one = f"WHERE {_SOUND} ORDER BY receipt_id DESC LIMIT 1"
    rows = database.read(f"SELECT bucket, prefix, {_HOST} FROM location {last_one}")
    return (bucket_used(rows[0][0], rows[0][2]), rows[0][1] or None) if rows else None


def bucket_used(recorded: str, actual: str) -> str | None:
    """Return the bucket of an artifact. None: the default bucket.

    Another one may have been used in place of the recorded one (`sync --bucket`).
    """
    return None if not recorded and _BY_DEFAULT.fullmatch(actual) else actual or recorded or None


def _is_new(database: Database, before: Anchor | None) -> bool:
    """Return whether more is new than the last anchor itself and what was taken over.

    The copy that attested what was taken over does not know that this one took it. An anchor of
    it would say that this copy was delivered further.
    """
    if before is None:
        return bool(database.read("SELECT 1 FROM entry LIMIT 1"))
    if database.read("SELECT 1 FROM entry WHERE seq > ? LIMIT 1", (before.seq,)):
        return True
    places = [
        (uuid, *interval)
        for each in taken.all_of(database)
        for uuid, intervals in each.places.items()
        for interval in intervals
    ]
    return bool(database.read(_NEWS, (before.attestation, ACTION, taken.TAKEN, json.dumps(places))))


def _document(
    database: Database, before: Anchor | None, now_ns: int, above: int, left_out: Collection[str]
) -> HeadsDocument:
    def heads(kind: Kind, since: int) -> Heads:
        """Return the heads of the chains that grew since then, by writer."""
        rows = database.read(_HEADS[kind], (since,))
        return {
            str(uuid): (number, digest.hex())
            for uuid, number, digest, _ in rows
            if isinstance(digest, bytes) and uuid not in left_out
        }

    return HeadsDocument(
        journal_id=str(database.read("SELECT journal_id FROM meta")[0][0]),
        number=max(before.number if before else 0, above) + 1,
        previous=before.sha256 if before else None,
        made_at_ns=now_ns,
        entries=heads("entries", before.seq if before else 0),
        attestations=heads("attestations", before.attestation if before else 0),
    )


def document_of(database: Database, at_ns: int) -> HeadsDocument:
    """Return a document with the heads of all chains, for a person to keep.

    It is no anchor that the journal knows of. `journaltrack check --anchor` takes it like one.

    Args:
        database: Of the journal, in a snapshot.
        at_ns: The time, nanoseconds since the epoch.
    """
    before = last(database)
    return _document(database, None, at_ns, before.number if before else 0, ())


def _newest(database: Database, table: str, column: str) -> int:
    return int(database.read(f"SELECT coalesce(max({column}), 0) FROM {table}")[0][0])
