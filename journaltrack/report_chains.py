"""The chains of digests: every writer is as it described itself, every entry as its writer recorded it. Changes nothing.

One pass over all entries in order of ``seq``; memory grows with writers, not with entries. Points of metrics, which are nearly
all entries, are encoded by hand as the append does it.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack import entries as vocabulary
from journaltrack import limits, schema
from journaltrack.sqlite_errors import translated

if TYPE_CHECKING:
    from journaltrack.database import Database

ProblemKind: TypeAlias = Literal[
    "database", "meta", "writer", "chain", "gap", "attestation", "receipt", "delivery", "record", "blob", "anchor"
]


class Removed:
    """Runs of one writer's entries that were removed on the record.

    Copies of a journal may be pruned apart and merged then: runs may overlap, and what is missing may be a part of several.
    """

    def __init__(self) -> None:
        self._by_last: dict[int, tuple[int, bytes]] = {}
        self._joined: list[tuple[int, int]] | None = None

    def add(self, first: int, last: int, digest: bytes) -> None:
        """Another run, with the digest of its last entry."""
        known = self._by_last.get(last)
        if known is None or first < known[0]:
            self._by_last[last] = (first, digest)
            self._joined = None

    @property
    def end(self) -> int:
        """The last place of all; 0: nothing was removed."""
        return max(self._by_last, default=0)

    def runs(self) -> Iterator[tuple[int, int]]:
        """(first, last) of each."""
        return ((first, last) for last, (first, _) in self._by_last.items())

    def across(self, first: int, last: int) -> bytes | None:
        """The digest of the last of these places, if all of them were removed; else None."""
        if last not in self._by_last:
            return None
        if self._joined is None:
            self._joined = []
            for begin, end in sorted(self.runs()):
                if self._joined and begin <= self._joined[-1][1] + 1:
                    self._joined[-1] = (self._joined[-1][0], max(self._joined[-1][1], end))
                else:
                    self._joined.append((begin, end))
        place = bisect.bisect_right(self._joined, (first, last)) - 1
        at = max(place, 0)
        return self._by_last[last][1] if any(begin <= first and last <= end for begin, end in self._joined[at : at + 2]) else None


Gaps: TypeAlias = Mapping[str, Removed]
"""By a writer's uuid."""

FACTS: Final = "journal_id, created_at_ns, created_by_version, required_version, attested_after_receipt, attested_after_ns"
"""The columns of ``meta`` that its digest is of, in this order."""
_ENTRIES: Final = (
    "SELECT seq, writer_id, writer_seq, component_id, stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns, digest "
    "FROM entry ORDER BY seq"
)

ADVICE: Final[Mapping[ProblemKind, str]] = {
    "database": "SQLite's pages are damaged: entries may be unreadable; `journaltrack doctor --repair` restores what is there into a new database",
    "meta": "somebody edited what the journal says of itself; the entries have chains of their own, and stand or fall by those",
    "writer": "who recorded entries can't be told; if a row is gone, so is the beginning of its chain: nothing of that writer is proved",
    "chain": "of that writer the entries from there on are not proved, those before are; which of them was edited can be told by a copy",
    "gap": "entries are missing or out of place; what was there can be told by a copy alone",
    "attestation": "what that process says of deliveries is not proved from there on: ask AWS's CloudTrail by request id, or compare with a copy",
    "receipt": "what it says was sent is not proved: the request id can be looked up at AWS",
    "delivery": "what it says of the entry is not proved; the entry itself has a chain of its own",
    "record": "this can be computed from entries and attestations, and is not what comes out: somebody edited it, or a page was lost",
    "blob": "the artifact can't be uploaded from here any more; if it was before, S3 has it: compare its SHA-256",
    "anchor": "what was there at a sync is not here: removed from the end, or a chain was computed anew; or this copy is older than the one synced then",
}
"""What each kind of problem means for the data, and what helps."""


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """Something that is not as it was written.

    Attributes:
        kind: "database" (SQLite's own check), "meta" (what the journal says of itself), "writer" (a process is not as it described
            itself, or not recorded), "chain" (an entry's content and digest differ), "gap" (an entry is missing or out of place),
            "attestation" (the same of attestations), "receipt" and "delivery" (a record is not what was attested, or nothing attests
            it), "record" (what is derived contradicts what it is derived from), "blob", "anchor".
        message: What was found.
        writer: The process's unique id.
        host, pid: Of that process.
        seq: Of the entry.
        sha256: Of the blob.
    """

    kind: ProblemKind
    message: str
    writer: str | None = None
    host: str | None = None
    pid: int | None = None
    seq: int | None = None
    sha256: str | None = None


@dataclass(slots=True)
class Chain:
    """How far one chain has been followed."""

    uuid: str
    host: str
    pid: int
    digest: bytes
    writer_seq: int = 0
    broken: bool = False

    def problem(self, kind: ProblemKind, message: str, seq: int | None = None) -> ChainProblem:
        """Its first broken link."""
        self.broken = True
        return ChainProblem(kind, message, self.uuid, self.host, self.pid, seq)


def writer_problems(database: Database) -> list[ChainProblem]:
    """Descriptions that are not those that the chains begin with, of the journal itself and of each writer."""
    found = []
    (facts,) = database.read(f"SELECT {FACTS}, digest FROM meta")
    if not _describes(facts[-1], facts[:-1]):
        found.append(ChainProblem("meta", "what the journal says of itself (its id, when and by which version it was made) was changed"))
    for *columns, digest in database.read(f"SELECT {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer ORDER BY id"):
        uuid, host, pid = columns[:3]
        if digest is None and all(column is None for column in columns[9:]):
            continue  # of format 0001, which had no digest; whoever takes one away breaks the chains that begin with it
        if not _describes(digest, columns):
            found.append(
                ChainProblem("writer", f"the writer {limits.shown(str(uuid))} is not as it described itself", str(uuid), str(host), pid)
            )
    return found


def chains(database: Database, *, attestations: bool = False) -> dict[int, Chain]:
    """The beginnings of all writers' chains, by the writer's id."""
    started = {}
    for writer_id, uuid, host, pid, digest in database.read("SELECT id, uuid, host, pid, digest FROM writer"):
        begin = digest if isinstance(digest, bytes) else vocabulary.chain_start(str(uuid))
        started[writer_id] = Chain(str(uuid), str(host), pid, vocabulary.attestation_start(begin) if attestations else begin)
    return started


def chain_problems(database: Database, gaps: Gaps | None = None) -> list[ChainProblem]:
    """The first broken link of each writer's entries.

    Args:
        database: Of the journal.
        gaps: Entries that were removed on the record (``pruning``), from attestations whose own chain holds.
    """
    started = chains(database)
    names = dict(database.read("SELECT id, name FROM component"))
    middles: dict[tuple[int, str], str] = {}
    found: list[ChainProblem] = []
    unknown: set[Any] = set()
    current: Any = None
    chain = Chain("", "", 0, b"", broken=True)
    sha256 = hashlib.sha256
    last, before = -1, b""  # of the current chain; in variables, not attributes: this loop runs a million times
    with database.lock, translated(database.path):
        for (
            seq,
            writer_id,
            writer_seq,
            component_id,
            stream,
            kind,
            name,
            value,
            step,
            timestamp_ns,
            payload,
            recorded_at_ns,
            digest,
        ) in database.connection.execute(_ENTRIES):
            if writer_id != current:
                chain.writer_seq, chain.digest = last, before
                if writer_id not in started:
                    if writer_id not in unknown:
                        unknown.add(writer_id)
                        message = f"entries from {seq} on are of writer {told(writer_id)}, which is not recorded"
                        found.append(ChainProblem("writer", message, seq=seq))
                    chain, current = Chain("", "", 0, b"", broken=True), None
                    last, before = -1, b""
                    continue
                current, chain = writer_id, started[writer_id]
                last, before = chain.writer_seq, chain.digest
            if (
                writer_seq == last + 1
                and kind == "metric"
                and payload is None
                and type(value) is float
                and stream == "metric"
                and type(timestamp_ns) is int
                and type(recorded_at_ns) is int
                and type(writer_seq) is int
                and (step is None or type(step) is int)
                and not chain.broken
            ):
                middle = middles.get((component_id, name))
                if middle is None and isinstance(name, str):
                    middle = middles[component_id, name] = vocabulary.metric_text(str(names.get(component_id)), name)
                text = f"[{writer_seq}{middle}{value!r},{'null' if step is None else step},{timestamp_ns},null,{recorded_at_ns}]"
                if sha256(before + text.encode()).digest() == digest:
                    before, last = digest, writer_seq
                    continue
            if chain.broken:
                continue
            chain.writer_seq, chain.digest = last, before
            columns = (stream, kind, name, value, step, timestamp_ns, payload)
            if problem := _link_problem(chain, seq, writer_seq, names.get(component_id), columns, recorded_at_ns, digest, gaps):
                found.append(problem)
            last, before = chain.writer_seq, chain.digest
    chain.writer_seq, chain.digest = last, before
    return found + _cut_off(started.values(), gaps or {})


def _cut_off(followed: Iterable[Chain], gaps: Gaps) -> list[ChainProblem]:
    """Writers of which something was removed on the record and nothing is left: the last entry of a writer never is removed so."""
    found = []
    for chain in followed:
        last = gaps[chain.uuid].end if chain.uuid in gaps else 0
        if last and last >= chain.writer_seq and not chain.broken:
            message = f"the entries of writer {limits.shown(chain.uuid)} after number {last} are gone, and nobody attests it"
            found.append(chain.problem("gap", message))
    return found


def _link_problem(
    chain: Chain,
    seq: int,
    writer_seq: Any,  # noqa: ANN401 - whatever SQLite holds
    component: object,
    columns: tuple[Any, ...],
    recorded_at_ns: object,
    digest: Any,  # noqa: ANN401
    gaps: Gaps | None,
) -> ChainProblem | None:
    """Go on by one entry of any kind, or say why that can't be."""
    if type(writer_seq) is not int or (writer_seq != chain.writer_seq + 1 and not _across(chain, writer_seq, gaps)):
        message = f"entry {seq} is number {told(writer_seq)} of its writer, {chain.writer_seq + 1} was expected"
        return chain.problem("gap", f"{message}: {_why_there(chain, writer_seq)}", seq)
    if not _follows(chain, writer_seq, component, columns, recorded_at_ns, digest):
        message = f"entry {seq} ({chain.writer_seq + 1} of its writer) is not what its writer recorded: its digest does not fit its content"
        return chain.problem("chain", f"{message}, or what was before it is not there any more", seq)
    chain.digest, chain.writer_seq = digest, writer_seq
    return None


def _why_there(chain: Chain, writer_seq: object) -> str:
    if isinstance(writer_seq, int) and writer_seq > chain.writer_seq:
        return "those between were removed, or entries were put into another order"
    return "it was inserted or moved"


def told(value: object) -> str:
    """What SQLite holds, in a message: numbers plain, anything else as a stranger's text."""
    return str(value) if type(value) is int else limits.shown(str(value))


def _across(chain: Chain, writer_seq: object, gaps: Gaps | None) -> bool:
    """Go across what was removed on the record; whether the place that comes now is the next one then."""
    removed = (gaps or {}).get(chain.uuid)
    if removed is None or not isinstance(writer_seq, int) or writer_seq <= chain.writer_seq + 1:
        return False
    digest = removed.across(chain.writer_seq + 1, writer_seq - 1)
    if digest is None:
        return False
    chain.writer_seq, chain.digest = writer_seq - 1, digest
    return True


def _follows(chain: Chain, writer_seq: int, component: object, columns: tuple[Any, ...], recorded_at_ns: Any, digest: object) -> bool:  # noqa: ANN401
    """Whether the digest is that of the content. SQLite keeps no sign of zero, the digest does: both are tried."""
    stream, kind, name, value, step, timestamp_ns, payload = columns
    for same in (value, -0.0) if value == 0 else (value,):
        draft = vocabulary.Draft(stream, kind, name, same, step, timestamp_ns, payload)
        try:
            if vocabulary.chain_next(chain.digest, writer_seq, component, draft, recorded_at_ns) == digest:  # type: ignore[arg-type]
                return True
        except (TypeError, ValueError, RecursionError):  # a column of a type that no entry has
            return False
    return False


def _describes(digest: object, columns: Any) -> bool:  # noqa: ANN401 - whatever SQLite holds
    try:
        return bool(vocabulary.description_digest(*columns) == digest)
    except (TypeError, ValueError):
        return False
