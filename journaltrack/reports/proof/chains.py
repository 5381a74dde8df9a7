"""The chains of digests: every writer is as it described itself, every entry as its writer recorded it. Changes nothing.

One pass over all entries in order of ``seq``; memory grows with writers, not with entries. ``chain`` follows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.chain import (
    COLUMNS,
    Chain,
    ChainProblem,
    ProblemKind,
    across_removed,
    begin_of,
    describes,
    follow,
    is_described,
    undescribed,
)
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.errors import translated

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.reports.proof.attestations import Evidence

FACTS: Final = "journal_id, created_at_ns, created_by_version, required_version, attested_after_receipt, attested_after_ns"
"""The columns of ``meta`` that its digest is of, in this order."""

ADVICE: Final[Mapping[ProblemKind, str]] = {
    "database": "SQLite's pages are damaged: entries may be unreadable; `journaltrack check --repair` restores what is there into a new database",
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


def writer_problems(database: Database) -> list[ChainProblem]:
    """Descriptions that are not those that the chains begin with, of the journal itself and of each writer."""
    found = []
    (facts,) = database.read(f"SELECT {FACTS}, digest FROM meta")
    if not describes(facts[-1], facts[:-1]):
        found.append(ChainProblem("meta", "what the journal says of itself (its id, when and by which version it was made) was changed"))
    for *columns, digest in database.read(f"SELECT {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer ORDER BY id"):
        uuid, host, pid = columns[:3]
        if not is_described(digest, columns):
            found.append(undescribed(Chain(str(uuid), str(host), pid, b"")))
    return found


def chains(database: Database, *, attestations: bool = False) -> dict[int, Chain]:
    """The beginnings of all writers' chains, by the writer's id."""
    started = {}
    for writer_id, uuid, host, pid, digest in database.read("SELECT id, uuid, host, pid, digest FROM writer"):
        begin = begin_of(uuid, digest)
        started[writer_id] = Chain(str(uuid), str(host), pid, vocabulary.attestation_start(begin) if attestations else begin)
    return started


def chain_problems(database: Database, evidence: Evidence) -> list[ChainProblem]:
    """Return the first broken link of each writer's entries.

    Args:
        database: Of the journal.
        evidence: Tells which entries were removed on the record (``prune``), from attestations whose own chain holds.
    """
    started = chains(database)
    names = dict(database.read("SELECT id, name FROM component"))
    known = (evidence.gaps, evidence.gaps_to_come)
    with database.lock, translated(database.path):
        rows = database.connection.execute(f"SELECT {COLUMNS} FROM entry e ORDER BY e.seq")
        found = follow(rows, started.get, names.get, lambda chain, place, _: any(across_removed(chain, place, gaps) for gaps in known))
    return found + _cut_off(started.values(), evidence.pruned_to)


def _cut_off(followed: Iterable[Chain], pruned_to: Mapping[str, int]) -> list[ChainProblem]:
    """Return writers of which something was removed here and nothing is left: the last entry of a writer never is removed so.

    Of what another copy removed, the entries behind it may not have come yet.
    """
    found = []
    for chain in followed:
        last = pruned_to.get(chain.uuid, 0)
        if last and last >= chain.writer_seq and not chain.broken:
            message = f"the entries of writer {limits.shown(chain.uuid)} after number {last} are gone, and nobody attests it"
            found.append(chain.problem("gap", message))
    return found
