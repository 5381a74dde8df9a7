"""Join a replica's small segments into few, each of which stands for those that it was made of.

A node that always logs writes 2,400 segments an hour. Its own writer joins them: it alone writes
into its folder, so no two processes ever join the same ones, and a node that dies leaves few files,
whoever reads them. Sixty-four neighbours become one, sixty-four of those the next, up to 4 MB.

The segment that stands for others has all their lines, and says which numbers it covers. A reader
takes it at any place within them. What it stands for is removed later, when no listing that a
client has cached still lacks it, and only if it is whole. So a kill at any step leaves nothing but
files that are not needed, and the next process removes those.

Invariants: no evidence is changed or left out, and no gap is ever covered: only segments are joined
of which each continues the one before. Must not know the journal.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournaltrackError
from journaltrack.mirror import segments
from journaltrack.mirror.folders import Span
from journaltrack.mirror.segments import Blob, Run, Segment
from journaltrack.transfer.apply_source import Attested, WriterRow
from journaltrack.util.intervals import extend
from journaltrack.util.text import logfmt

if TYPE_CHECKING:
    from journaltrack.mirror.folders import Replica

logger = logging.getLogger(__name__)

FANIN: Final = 64
"""Our choice: so many neighbours are joined. Each byte is written again two or three times."""
JOINED_BYTES: Final = 4 << 20
"""Our limit for a segment that stands for others. One of more than half of it stays as it is."""
_REMOVED_AT_ONCE: Final = 4
"""Our choice: a server may take half a second for each, and segments wait meanwhile."""
GRACE_S: Final = 120.0
"""Our choice: NFS clients keep a listing for 60 s at most, unless told otherwise (acdirmax)."""


@dataclass(slots=True)
class _File:
    """A file of the replica.

    ``content`` is what this process wrote there. ``is_done`` says that it is joined no more.
    """

    span: Span
    size_bytes: int | None = None
    content: Segment | None = None
    is_done: bool = False

    @property
    def level(self) -> int:
        """Return how often its content was joined."""
        level, width = 0, self.span.last - self.span.first + 1
        while width >= FANIN:
            level, width = level + 1, width // FANIN
        return level


@dataclass(slots=True)
class _Replaced:
    """Files that another one stands for, and when they may go."""

    by: Span
    spans: list[Span]
    due_s: float
    is_proved: bool = False


class Joiner:
    """Join the segments of this copy's own replica. The caller holds ``exchange.alone``.

    Args:
        replica: The replica's folder.
        spans: Its files, by ``Span.order``.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        replica: Replica,
        spans: Iterable[Span],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._files: list[_File] = []
        self._replaced: deque[_Replaced] = deque()
        left: list[Span] = []
        for span in spans:
            if self._files and span.last <= self._files[-1].span.last:
                left.append(span)
                continue
            self._left(left)
            left = []
            self._files.append(_File(span))
        self._left(left)

    def wrote(self, segment: Segment) -> None:
        """Note a segment that was written."""
        # What is large is not joined, and need not be kept in memory.
        is_done = segment.size_bytes > JOINED_BYTES // 2
        content = None if is_done else segment
        self._files.append(_File(segment.span, segment.size_bytes, content, is_done))

    def join(self) -> int:
        """Join what is due, and remove what is stood for; return how many segments were joined.

        Raises:
            MirrorError: The mirror can't be written. The next call tries again.
        """
        self._remove_due()
        joined = 0
        while (place := self._due()) is not None:
            joined += self._join(place)
        return joined

    def _due(self) -> int | None:
        """Return where the first files begin that are to be joined."""
        begun = size_bytes = 0
        for place, file in enumerate(self._files):
            if file.is_done:
                begun, size_bytes = place + 1, 0
                continue
            if file.level != self._files[begun].level:
                begun, size_bytes = place, 0
            size_bytes += file.size_bytes or 0
            if place > begun and (place + 1 - begun == FANIN or size_bytes > JOINED_BYTES):
                return begun
        return None

    def _join(self, place: int) -> int:
        """Join the files from a place on; return how many segments that were."""
        group = self._files[place : place + FANIN]
        parts: list[Segment] = []
        size, used = 0, 0
        for file in group:
            content = file.content or self._read(file)
            if size + (file.size_bytes or 0) > JOINED_BYTES and parts:
                break
            if content is None:
                # A later one continues the one before it, if its writer saw that. Else it is a gap.
                if not parts:
                    file.is_done = True
                    return 0
                used += 1
                continue
            if parts and not continues(parts, content):
                break
            parts.append(content)
            size += file.size_bytes or 0
            used += 1
        # What is not whole at the end may yet be needed as the sign of a gap.
        last = next(at for at in range(used, 0, -1) if group[at - 1].span.last == parts[-1].number)
        if len(parts) == 1:
            group[0].is_done, group[0].content = True, None
            return 0
        made = joined(parts)
        self._replica.write(made.span, segments.encode(made))
        is_done = last < len(group) or made.size_bytes > JOINED_BYTES // 2
        self._files[place : place + last] = [_File(made.span, made.size_bytes, None, is_done)]
        replaced = [file.span for file in group[:last]]
        self._replaced.append(_Replaced(made.span, replaced, self._clock() + GRACE_S))
        return len(parts)

    def _read(self, file: _File) -> Segment | None:
        """Return a file's content; None: it is not whole, or not as this replica writes."""
        try:
            found = segments.read(self._replica, file.span)
        except (segments.NotWholeError, JournaltrackError):
            return None
        file.size_bytes = found.size_bytes
        return found

    # -- what another one stands for --------------------------------------------------------------

    def _left(self, spans: list[Span]) -> None:
        """Note what a process that ended or was killed has left beside the last file."""
        if not spans:
            return
        by = self._files[-1].span
        try:
            age_s = time.time() - self._replica.file(by).stat().st_mtime
        except OSError:
            age_s = 0.0
        # The server's clock may be another one: then a reader waits for its listing.
        due_s = self._clock() + max(0.0, GRACE_S - max(age_s, 0.0))
        self._replaced.append(_Replaced(by, spans, due_s))

    def _remove_due(self) -> None:
        """Remove some of what is stood for by a whole file: on a slow server, segments wait."""
        for _ in range(_REMOVED_AT_ONCE):
            while self._replaced and not self._replaced[0].spans:
                self._replaced.popleft()
            if not self._replaced or self._replaced[0].due_s > self._clock():
                return
            replaced = self._replaced[0]
            if not replaced.is_proved and not self._is_stood_for(replaced.by):
                logger.warning(logfmt("mirror-keeps", segment=self._replica.file(replaced.by)))
                self._replaced.popleft()
                continue
            replaced.is_proved = True
            self._replica.remove(replaced.spans[0])
            del replaced.spans[0]

    def _is_stood_for(self, by: Span) -> bool:
        """Return whether a file is whole, or one that stands for it."""
        over = (file.span for file in self._files if file.span.first <= by.first <= file.span.last)
        return any(self._read(_File(span)) is not None for span in {by, *over})


def continues(parts: Sequence[Segment], following: Segment) -> bool:
    """Return whether a segment goes on exactly where the others end."""
    if following.previous != parts[-1].link or following.journal != parts[0].journal:
        return False
    last: dict[str, Run] = {run.uuid: run for part in parts for run in part.runs}
    described = {row.uuid: row for part in parts for row in part.processes}
    return all(
        run.uuid not in last
        or (run.after == last[run.uuid].head and run.seqs[0][0] > last[run.uuid].seqs[-1][1])
        for run in following.runs
    ) and all(described.get(row.uuid, row) == row for row in following.processes)


def joined(parts: Sequence[Segment]) -> Segment:
    """Return the segment that stands for others, with all that they say.

    Args:
        parts: Segments of one replica of which each ``continues`` those before.
    """
    runs: dict[str, Run] = {}
    processes: dict[str, WriterRow] = {}
    blobs: dict[str, Blob] = {}
    attestations: dict[tuple[str, int], Attested] = {}
    for part in parts:
        processes |= {row.uuid: row for row in part.processes if row.uuid not in processes}
        blobs |= {b.sha256: b for b in part.blobs if b.is_there or b.sha256 not in blobs}
        attestations |= {(each.uuid, each.writer_seq): each for each in part.attestations}
        for run in part.runs:
            known = runs.get(run.uuid)
            if known is None:
                runs[run.uuid] = replace(
                    run, seqs=[*run.seqs], lines=[*run.lines], removed=[*run.removed]
                )
                continue
            for first, last in run.seqs:
                extend(known.seqs, first, last)
            known.lines += run.lines
            known.removed += run.removed
            known.head = run.head
    return replace(
        parts[-1],
        previous=parts[0].previous,
        processes=list(processes.values()),
        blobs=list(blobs.values()),
        runs=list(runs.values()),
        attestations=list(attestations.values()),
        in_doubt=[each for part in parts for each in part.in_doubt],
        sha256="",
        joins=(parts[0].span.first, parts[-1].link),
    )
