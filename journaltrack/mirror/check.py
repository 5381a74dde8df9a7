"""Prove a whole mirror: every segment, every chain, every artifact.

Each replica is followed from its first segment to its last. So it is proved that nothing is missing
up to there. What lies behind the last segment, only the journal knows. Changes nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import EvidenceError, JournalTooNewError, JournaltrackError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.spool.spool import Spool
from journaltrack.mirror import segments
from journaltrack.mirror.segments import Link, Segment
from journaltrack.transfer.apply_source import check_link, forged

if TYPE_CHECKING:
    from journaltrack.mirror.folders import Mirror, Replica, Span
    from journaltrack.transfer.apply_source import WriterRow

_MISSING_MAX: Final = 1_000
"""Our choice: of a gap, so many numbers are named."""


@dataclass(slots=True)
class Checked:
    """What was found of one replica.

    Attributes:
        journal_id, replica: Which.
        segments: How many files are in the proved sequence.
        entries, attestations, size_bytes: In these.
        files: How many segments are in the folder, with those that others stand for.
        heads: By the process's uuid: place and digest of the last entry that was proved.
        last: The SHA-256 of the last segment, also where another one stands for it.
        made_at_ns: When that was written.
        missing, damaged: Segments that are missing, or not as they were written, and that no later
            one stands in for.
        artifacts_missing: Artifacts that are missing or have other bytes.
        problems: What contradicts itself, in words.
    """

    journal_id: str
    replica: str
    segments: int = 0
    entries: int = 0
    attestations: int = 0
    size_bytes: int = 0
    files: int = 0
    heads: dict[str, Link] = field(default_factory=dict)
    last: str | None = None
    made_at_ns: int | None = None
    missing: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    artifacts_missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Return whether nothing is missing, damaged or contradictory."""
        return not (self.missing or self.damaged or self.artifacts_missing or self.problems)

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        heads = {uuid: [link.place, link.digest.hex()] for uuid, link in self.heads.items()}
        return members | {"heads": heads, "well": self.is_well}


def check(mirror: Mirror) -> list[Checked]:
    """Prove every replica of every journal of a mirror.

    Raises:
        MirrorError: The mirror can't be read.
    """
    found = []
    for journal_id in mirror.journals():
        for name in mirror.replicas(journal_id):
            replica = mirror.replica(journal_id, name)
            checked = _Check(mirror, journal_id, replica).run()
            # Its writer may have joined segments meanwhile, and removed those that were listed.
            found.append(checked if checked.is_well else _Check(mirror, journal_id, replica).run())
    return found


class _Check:
    def __init__(self, mirror: Mirror, journal_id: str, replica: Replica) -> None:
        self._replica = replica
        self._blobs = Spool(mirror.blobs(journal_id))
        self._found = Checked(journal_id, replica.path.name)
        self._writers: dict[str, WriterRow] = {}
        self._attested: dict[str, tuple[int, bytes]] = {}
        self._digests: set[str | None] = {None}
        self._looked: set[str] = set()

    def run(self) -> Checked:
        """Follow the replica from its first segment to its last."""
        unused: list[Span] = []
        before = taken = 0
        beyond: Span | None = None
        is_all = False
        while not is_all:
            listing = self._replica.listed(beyond=beyond)
            is_all, self._found.files = listing.is_all, listing.files
            for span in listing.spans:
                beyond = span
                if span.last <= taken:
                    # Another one stands for it, and was taken.
                    continue
                missing = list(itertools.islice(range(before + 1, span.first), _MISSING_MAX))
                before = max(before, span.last)
                segment = self._read(span)
                if segment is None:
                    self._found.damaged.append(span.last)
                elif segment.previous in self._digests or span.first <= taken:
                    self._take(segment)
                    taken = span.last
                    # It continues what is before the gap: its writer saw the gap, too.
                    missing, unused = [], [each for each in unused if each.last > taken]
                    for gaps in (self._found.damaged, self._found.missing):
                        gaps[:] = [number for number in gaps if number > taken]
                else:
                    unused.append(span)
                self._found.missing += missing
        if unused:
            self._found.problems.append(
                f"segment {unused[0]} continues one that is not there, as do {len(unused) - 1} more"
            )
        return self._found

    def _read(self, span: Span) -> Segment | None:
        try:
            segment = segments.read(self._replica, span)
        except segments.NotWholeError:
            return None
        except (JournalTooNewError, EvidenceError) as error:
            self._found.problems.append(error.message)
            return None
        self._found.size_bytes += segment.size_bytes
        return segment

    def _take(self, segment: Segment) -> None:
        found, where = self._found, f"segment {segment.number}"
        self._digests.add(segment.link)
        self._writers |= {row.uuid: row for row in segment.processes}
        try:
            self._follow(segment, where)
        except JournaltrackError as error:
            found.problems.append(error.message)
        fresh = {blob.sha256 for blob in segment.blobs if blob.is_there} - self._looked
        self._looked |= fresh
        found.artifacts_missing += sorted(sha for sha in fresh if not self._blobs.verify(sha))
        found.segments += 1
        found.last, found.made_at_ns = segment.link, segment.made_at_ns

    def _follow(self, segment: Segment, where: str) -> None:
        """Follow the chains along a segment."""
        found = self._found
        for run in segment.runs:
            known = found.heads.get(run.uuid) or Link(0, self._begin(run.uuid, where))
            if run.after.place > known.place:
                raise forged(where, f"entries {known.place + 1} and on are missing before it")
            for _ in segments.rows(run, known, where):
                found.entries += 1
            if run.head.place > known.place:
                found.heads[run.uuid] = run.head
        for each in segment.attestations:
            start = (0, vocabulary.attestation_start(self._begin(each.uuid, where)))
            chain = self._attested.get(each.uuid, start)
            if each.writer_seq > chain[0]:
                check_link(each, chain, where)
                self._attested[each.uuid] = (each.writer_seq, each.digest)
                found.attestations += 1

    def _begin(self, uuid: str, where: str) -> bytes:
        if uuid not in self._writers:
            raise forged(where, f"the process {uuid[:80]} is not described")
        return self._writers[uuid].begin
