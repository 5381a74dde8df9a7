"""A journal against its anchors: what was cut off from the end of a chain, or rewritten with all that followed. Changes nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack import limits
from journaltrack.journal.chain import ChainProblem
from journaltrack.replay.evidence import anchors

if TYPE_CHECKING:
    from journaltrack.journal.chain import Gaps
    from journaltrack.journal.sqlite.connection import Database

_NAME: Final = re.compile(r"\d{8,}-([0-9a-f]{64})\.json")


class _Head(NamedTuple):
    anchor: str
    uuid: str
    number: int
    digest: str


def anchor_problems(database: Database, documents: Mapping[str, bytes], gaps: Gaps | None = None) -> list[ChainProblem]:
    """Where a journal is behind its anchors, or is not what they say.

    Args:
        database: Of the journal, in a snapshot; that its chains hold is for ``proof.check`` to say.
        documents: By name. One that is named as ``anchors.name_of`` does is held against the SHA-256 in it, too.
        gaps: What was removed on the record.
    """
    found: list[ChainProblem] = []
    ((journal_id,),) = database.read("SELECT journal_id FROM meta")
    digests = {hashlib.sha256(content).hexdigest() for content in documents.values()}
    heads: dict[anchors.Kind, list[_Head]] = {"entries": [], "attestations": []}
    for name, content in sorted(documents.items()):
        document, named = anchors.decode(content), _NAME.fullmatch(name)
        if document is None or (named and named[1] != hashlib.sha256(content).hexdigest()):
            found.append(ChainProblem("anchor", f"the anchor {limits.shown(name)} is not the document that it was made as"))
            continue
        if document.journal_id != journal_id:
            message = f"the anchor {limits.shown(name)} is of the journal {limits.shown(document.journal_id)}, not of this one"
            found.append(ChainProblem("anchor", message))
            continue
        if document.previous is not None and document.previous not in digests and len(documents) > 1:
            found.append(ChainProblem("anchor", f"the anchor before {limits.shown(name)} is missing: it was removed"))
        heads["entries"] += [_Head(name, uuid, *head) for uuid, head in document.entries.items()]
        heads["attestations"] += [_Head(name, uuid, *head) for uuid, head in document.attestations.items()]
    found += _behind(database, "entries", "entry", heads["entries"], gaps or {})
    found += _behind(database, "attestations", "attestation", heads["attestations"], {})
    return found


def _behind(database: Database, kind: anchors.Kind, table: str, heads: list[_Head], gaps: Gaps) -> Iterator[ChainProblem]:
    """Heads that the journal does not reach, or has otherwise; of each writer the furthest."""
    writers = {str(uuid): (i, str(host), pid) for i, uuid, host, pid in database.read("SELECT id, uuid, host, pid FROM writer")}
    places = json.dumps(sorted({(writers[head.uuid][0], head.number) for head in heads if head.uuid in writers}))
    there = {
        (writer_id, number): bytes(digest).hex() if isinstance(digest, bytes) else ""
        for writer_id, number, digest in database.read(
            f"SELECT writer_id, writer_seq, digest FROM {table} WHERE (writer_id, writer_seq) IN "
            "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
            (places,),
        )
    }
    ends = dict(database.read(f"SELECT writer_id, max(writer_seq) FROM {table} GROUP BY writer_id"))
    told: set[str] = set()
    for head in sorted(heads, key=lambda head: -head.number):
        if head.uuid in told:
            continue
        writer_id, host, pid = writers.get(head.uuid, (0, None, None))
        gone = gaps[head.uuid].end if head.uuid in gaps else 0
        end = max(ends.get(writer_id, 0), gone) if head.uuid in writers else 0
        message = None
        if end < head.number:
            message = (
                f"{head.number - end} {kind} were removed from the end of a writer's chain: it ends at {end}, "
                f"and the anchor {limits.shown(head.anchor)} has {head.number}"
            )
        elif there.get((writer_id, head.number), head.digest) != head.digest:
            message = f"number {head.number} of a writer's {kind} is another one than when it was anchored ({limits.shown(head.anchor)})"
        if message is not None:
            told.add(head.uuid)
            yield ChainProblem("anchor", message, head.uuid, host, pid)
