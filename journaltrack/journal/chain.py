"""The chains of digests: every writer is as it described itself, every entry as its writer recorded
it. Changes nothing.

A writer's entries are chained by their digests (``vocabulary.chain_next_entries``). Who follows a
chain says where it begins, what the components are called, and how to go across a place where an
entry is not the next one: an audit goes from the first entry to the last (``chain_problems``), a
pass looks at what it is about to send (``proof``). What was removed on the record (``prune``) is a
gap that may be gone across. Memory grows with writers, not with entries.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.errors import translated
from journaltrack.util.intervals import SEQ_MAX, merged

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database

FACTS: Final = (
    "journal_id, created_at_ns, created_by_version, required_version, attested_after_receipt, "
    "attested_after_ns"
)
"""The columns of ``meta`` that its digest is of, in this order."""
ProblemKind: TypeAlias = Literal[
    "database",
    "meta",
    "writer",
    "chain",
    "gap",
    "attestation",
    "receipt",
    "delivery",
    "record",
    "blob",
    "anchor",
    "anchor file",
]
BODY_CHARS_MAX: Final = 64 << 20
"""Ours: of an attestation; a release of a million scattered entries has 10 MB."""
_SINCE_0002: Final = 9
"""The place of the first column of a writer that format 0001 did not have."""
COLUMNS: Final = (
    "e.seq, e.writer_id, e.writer_seq, e.component_id, e.stream, e.kind, e.name, e.value, "
    "e.step, e.timestamp_ns, e.payload, e.recorded_at_ns, e.digest"
)
"""Of an entry ``e``: what ``follow`` takes."""


class Removed:
    """Runs of one writer's entries that were removed on the record.

    Copies of a journal may be pruned apart and merged then: runs may overlap, and what is missing
    may be a part of several.
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

    def members(self, uuid: str, above: int) -> Iterator[tuple[str, int, int, str]]:
        """Those that end above a place, as attestations name them: the writer's uuid, first,
        last, digest.
        """
        return (
            (uuid, first, last, digest.hex())
            for last, (first, digest) in self._by_last.items()
            if last > above
        )

    def across(self, first: int, last: int) -> bytes | None:
        """The digest of the last of these places, if all of them were removed; else None."""
        if last not in self._by_last:
            return None
        if self._joined is None:
            self._joined = merged(self.runs())
        place = bisect.bisect_right(self._joined, (first, last)) - 1
        at = max(place, 0)
        return (
            self._by_last[last][1]
            if any(begin <= first and last <= end for begin, end in self._joined[at : at + 2])
            else None
        )


Gaps: TypeAlias = Mapping[str, Removed]
"""By a writer's uuid."""


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """Something that is not as it was written.

    Attributes:
        kind: "database" (SQLite's own check), "meta" (what the journal says of itself), "writer" (a
            process is not as it described itself, or not recorded), "chain" (an entry's content and
            digest differ), "gap" (an entry is missing or out of place), "attestation" (the same of
            attestations), "receipt" and "delivery" (a record is not what was attested, or nothing
            attests it), "record" (what is derived contradicts what it is derived from), "blob",
            "anchor" (the journal is behind one, or differs), "anchor file" (a document is no anchor
            of this journal).
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
        """Return the chain's first broken link, and follow it no further."""
        self.broken = True
        return ChainProblem(kind, message, self.uuid, self.host, self.pid, seq)


class Heads(NamedTuple):
    """Say where the chains of all writers are at an entry.

    Attributes:
        seq: Of the entry.
        ends: By the writer's id: the place and digest of its last entry up to there. Writers
            without one are left out.
    """

    seq: int
    ends: Mapping[int, tuple[int, bytes]]


def begin_of(uuid: object, digest: object) -> bytes:
    """Return the digest before a writer's first entry, given what its row has."""
    return digest if isinstance(digest, bytes) else vocabulary.chain_start(str(uuid))


def is_described(digest: object, columns: Sequence[Any]) -> bool:
    """Return whether a writer with this digest and these columns is as it described itself.

    One of format 0001 had no digest. Whoever takes one away breaks the chains that begin with it.
    """
    return (
        digest is None and all(column is None for column in columns[_SINCE_0002:])
    ) or describes(digest, columns, vocabulary.writer_digest)


def undescribed(chain: Chain) -> ChainProblem:
    """Return the problem of a writer that is not as it described itself."""
    return chain.problem(
        "writer", f"the writer {limits.shown(chain.uuid)} is not as it described itself"
    )


def describes(
    digest: object,
    columns: Sequence[Any],
    digest_of: Callable[..., bytes] = vocabulary.description_digest,
) -> bool:
    """Return whether the digest is that of what a row says of itself."""
    try:
        return bool(digest_of(*columns) == digest)
    except (TypeError, ValueError):
        return False


def follow(
    rows: Iterable[tuple[Any, ...]],
    chain_of: Callable[[Any], Chain | None],
    name_of: Callable[[Any], Any],
    across: Callable[[Chain, int, int], bool],
) -> list[ChainProblem]:
    """Follow the chains along these entries, and return the first broken link of each.

    Args:
        rows: Entries by their ``COLUMNS``, in order of ``seq``.
        chain_of: How far the chain of a writer (by its id) was followed; None: no such writer.
        name_of: Returns a component's name, by its id.
        across: Moves a chain across what was removed before a place; returns whether it could.
    """
    middles: dict[tuple[int, str], str] = {}
    found: list[ChainProblem] = []
    unknown: set[Any] = set()
    current: Any = None
    chain = Chain("", "", 0, b"", broken=True)
    sha256 = hashlib.sha256
    # Of the current chain. In variables, not attributes: this loop runs a million times.
    last, before = -1, b""
    for (
        seq, writer_id, writer_seq, component_id, stream, kind, name, value, step, timestamp_ns,
        payload, recorded_at_ns, digest,
    ) in rows:  # fmt: skip
        if writer_id != current:
            chain.writer_seq, chain.digest = last, before
            known = chain_of(writer_id)
            if known is None:
                if writer_id not in unknown:
                    unknown.add(writer_id)
                    found.append(_no_writer(seq, writer_id))
                chain, current = Chain("", "", 0, b"", broken=True), None
                last, before = -1, b""
                continue
            current, chain = writer_id, known
            last, before = chain.writer_seq, chain.digest
        if (
            writer_seq == last + 1
            and kind == "metric"
            and payload is None
            and type(value) is float
            and stream == "metric"
            and type(timestamp_ns) is type(recorded_at_ns) is type(writer_seq) is int
            and (step is None or type(step) is int)
            and not chain.broken
        ):
            middle = middles.get((component_id, name))
            if middle is None and isinstance(name, str):
                middle = vocabulary.metric_text(str(name_of(component_id)), name)
                middles[component_id, name] = middle
            text = (
                f"[{writer_seq}{middle}{value!r},{'null' if step is None else step},"
                f"{timestamp_ns},null,{recorded_at_ns}]"
            )
            if sha256(before + text.encode()).digest() == digest:
                before, last = digest, writer_seq
                continue
        if chain.broken:
            continue
        chain.writer_seq, chain.digest = last, before
        columns = (stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns)
        if problem := _link_problem(
            chain, seq, writer_seq, name_of(component_id), columns, digest, across
        ):
            found.append(problem)
        last, before = chain.writer_seq, chain.digest
    chain.writer_seq, chain.digest = last, before
    return found


def _no_writer(seq: int, writer_id: object) -> ChainProblem:
    message = f"entries from {seq} on are of writer {told(writer_id)}, which is not recorded"
    return ChainProblem("writer", message, seq=seq)


def _link_problem(
    chain: Chain,
    seq: int,
    writer_seq: Any,  # noqa: ANN401 - whatever SQLite holds
    component: object,
    columns: tuple[Any, ...],
    digest: Any,  # noqa: ANN401
    across: Callable[[Chain, int, int], bool],
) -> ChainProblem | None:
    """Go on by one entry of any kind, or say why that can't be."""
    if type(writer_seq) is not int or (
        writer_seq != chain.writer_seq + 1 and not across(chain, writer_seq, seq)
    ):
        message = (
            f"entry {seq} is number {told(writer_seq)} of its writer, {chain.writer_seq + 1} was "
            "expected"
        )
        return chain.problem("gap", f"{message}: {_why_there(chain, writer_seq)}", seq)
    if encoding(chain.digest, writer_seq, component, columns, digest) is None:
        message = (
            f"entry {seq} ({chain.writer_seq + 1} of its writer) is not what its writer "
            "recorded: its digest does not fit its content"
        )
        return chain.problem(
            "chain", f"{message}, or what was before it is not there any more", seq
        )
    chain.digest, chain.writer_seq = digest, writer_seq
    return None


def _why_there(chain: Chain, writer_seq: object) -> str:
    if isinstance(writer_seq, int) and writer_seq > chain.writer_seq:
        return "those between were removed, or entries were put into another order"
    return "it was inserted or moved"


def told(value: object) -> str:
    """Show what SQLite holds: a number plain, anything else as a stranger's text."""
    return str(value) if type(value) is int else limits.shown(str(value))


def across_removed(chain: Chain, writer_seq: int, gaps: Gaps) -> bool:
    """Move a chain across what was removed on the record.

    Returns:
        Whether the place that comes now is the next one then.
    """
    removed = gaps.get(chain.uuid)
    if removed is None or writer_seq <= chain.writer_seq + 1:
        return False
    digest = removed.across(chain.writer_seq + 1, writer_seq - 1)
    if digest is None:
        return False
    chain.writer_seq, chain.digest = writer_seq - 1, digest
    return True


def encoding(
    before: bytes, writer_seq: int, component: object, columns: Sequence[Any], digest: object
) -> bytes | None:
    """Return an entry's canonical encoding; None if its digest is of something else.

    SQLite keeps no sign of zero, the digest does: both are tried.

    Args:
        before: Of the link before.
        writer_seq: The entry's place.
        component: What its component is called.
        columns: Its columns from ``stream`` to ``recorded_at_ns``.
        digest: As it is recorded.
    """
    value = columns[3]
    # A column may have a type that no entry has.
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        for same in (value, -0.0) if value == 0 else (value,):
            line = vocabulary.canonical(writer_seq, component, *columns[:3], same, *columns[4:])  # type: ignore[arg-type]
            if hashlib.sha256(before + line).digest() == digest:
                return line
    return None


def read_body(body: object) -> dict[str, Any] | None:
    """The members of an attestation's body; None if it is none: a crafted journal."""
    try:
        members = (
            json.loads(body) if isinstance(body, str) and len(body) <= BODY_CHARS_MAX else None
        )
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def take_gaps(
    gaps: dict[str, Removed], members: Mapping[str, Any], member: str = "removed"
) -> None:
    """Add the runs of entries that a member of an attestation says were removed, by their writers.

    Raises:
        ValueError, TypeError: They are none.
    """
    for uuid, first, last, digest in members.get(member) or ():
        # a gap that leads back would never end
        if type(first) is not int or type(last) is not int or not 0 < first <= last:
            msg = "not a range of places"
            raise ValueError(msg)
        gaps.setdefault(uuid, Removed()).add(first, last, bytes.fromhex(digest))


def removed_in(connection: sqlite3.Connection) -> dict[str, Removed]:
    """The runs of entries that attestations say were removed; what can't be read is left out."""
    gaps: dict[str, Removed] = {}
    for (body,) in connection.execute(
        "SELECT body FROM attestation WHERE instr(body, '\"removed\"') ORDER BY id"
    ):
        with contextlib.suppress(ValueError, TypeError):
            take_gaps(gaps, read_body(body) or {})
    return gaps


def writer_problems(database: Database) -> list[ChainProblem]:
    """Descriptions that are not those that the chains begin with, of the journal itself and of
    each writer.
    """
    found = []
    (facts,) = database.read(f"SELECT {FACTS}, digest FROM meta")
    if not describes(facts[-1], facts[:-1]):
        found.append(
            ChainProblem(
                "meta",
                "what the journal says of itself (its id, when and by which version it was made) "
                "was changed",
            )
        )
    for *columns, digest in database.read(
        f"SELECT {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer ORDER BY id"
    ):
        uuid, host, pid = columns[:3]
        if not is_described(digest, columns):
            found.append(undescribed(Chain(str(uuid), str(host), pid, b"")))
    return found


def chains(database: Database, *, attestations: bool = False) -> dict[int, Chain]:
    """The beginnings of all writers' chains, by the writer's id."""
    started = {}
    for writer_id, uuid, host, pid, digest in database.read(
        "SELECT id, uuid, host, pid, digest FROM writer"
    ):
        begin = begin_of(uuid, digest)
        started[writer_id] = Chain(
            str(uuid),
            str(host),
            pid,
            vocabulary.attestation_start(begin) if attestations else begin,
        )
    return started


def chain_problems(
    database: Database,
    gaps: Sequence[Gaps] = (),
    pruned_to: Mapping[str, int] | None = None,
    begin: Heads | None = None,
) -> list[ChainProblem]:
    """Return the first broken link of each writer's entries.

    Args:
        database: Of the journal.
        gaps: Entries that were removed on the record (``prune``), from attestations whose own chain
            holds.
        pruned_to: By the writer's uuid: the last place that was removed here, and not in another
            copy.
        begin: Go on from there.
    """
    started, after = chains(database), 0
    if begin is not None:
        after = begin.seq
        for writer_id, (place, digest) in begin.ends.items():
            started[writer_id].writer_seq, started[writer_id].digest = place, digest
    found = _followed(database, started, (after, SEQ_MAX), gaps)
    return found + _cut_off(started.values(), pruned_to or {})


def heads(database: Database, up_to: int) -> Heads | None:
    """Follow the chains without a gap up to an entry. None if any of them does not hold."""
    started = chains(database)
    if _followed(database, started, (0, up_to), ()):
        return None
    followed = (each for each in started.items() if each[1].writer_seq)
    return Heads(up_to, {i: (chain.writer_seq, chain.digest) for i, chain in followed})


def _followed(
    database: Database,
    started: Mapping[int, Chain],
    between: tuple[int, int],
    gaps: Sequence[Gaps],
) -> list[ChainProblem]:
    """Follow the chains above one ``seq`` and up to another."""
    names = dict(database.read("SELECT id, name FROM component"))
    with database.lock, translated(database.path):
        rows = database.connection.execute(
            f"SELECT {COLUMNS} FROM entry e WHERE e.seq > ? AND e.seq <= ? ORDER BY e.seq", between
        )
        return follow(
            rows,
            started.get,
            names.get,
            lambda chain, place, _: any(across_removed(chain, place, each) for each in gaps),
        )


def _cut_off(followed: Iterable[Chain], pruned_to: Mapping[str, int]) -> list[ChainProblem]:
    """Return writers of which something was removed here and nothing is left: the last entry of a
    writer never is removed so.

    Of what another copy removed, the entries behind it may not have come yet.
    """
    found = []
    for chain in followed:
        last = pruned_to.get(chain.uuid, 0)
        if last and last >= chain.writer_seq and not chain.broken:
            message = (
                f"the entries of writer {limits.shown(chain.uuid)} after number {last} are gone, "
                "and nobody attests it"
            )
            found.append(chain.problem("gap", message))
    return found
