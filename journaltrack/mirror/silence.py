"""End the runs of nodes that went silent, in the copy from which they are delivered.

A node that dies can't say so. If its heartbeat (``heartbeat``) is missing for long enough, and a
run there is in progress, the copy that delivers the journal records for it that it stopped. That
is an entry like any other, in a chain of the copy's own; the other copies take it over.

The node may come back, or the run goes on elsewhere. So such an entry says how much of the run's
processes was known (``upto``). As soon as more of them is here, the run's own last status is
repeated: nothing that the run itself said is overridden for good. Both entries have a time right
behind the run's own entries, by the clock of the run's node, and are of a host of their own (the
replica). So in every copy they stand before whatever the node records later.

Invariant: only the copy that holds the claim (``delivery``) records anything. Must not know a
remote.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import LeaseHeldError
from journaltrack.journal import fold, queries, view, vocabulary
from journaltrack.journal.fold import Place, Status
from journaltrack.journal.journal import Journal
from journaltrack.mirror import exchange, heartbeat
from journaltrack.mirror.delivery import delivering
from journaltrack.replay.lease import CLAIM_S
from journaltrack.util.text import logfmt

if TYPE_CHECKING:
    from journaltrack.journal.journal import ComponentRow
    from journaltrack.journal.vocabulary import Draft, Entry
    from journaltrack.mirror.exchange import State
    from journaltrack.mirror.folders import Mirror
    from journaltrack.mirror.heartbeat import Life

logger = logging.getLogger(__name__)

AFTER_S: Final = 600.0
"""Our choice: how long a node may be silent before its runs end. Shared file systems are down for
minutes, and cached listings are a minute old.
"""
_WAIT_S: Final = 10.0
"""Our choice: how long to wait for a process that mirrors the same copy."""
_TIME_MAX: Final = 2**63 - 1
"""The largest number that SQLite keeps."""
_MARKED: Final = (
    "SELECT DISTINCT component_id FROM entry WHERE stream <> 'metric' AND kind = 'status' "
    """AND instr(payload, '"silence"')"""
)
_UUIDS: Final = "SELECT id, uuid FROM writer"
_WRITERS: Final = "SELECT DISTINCT writer_id FROM entry WHERE component_id = ? AND seq > ?"
_LAST: Final = (
    "SELECT seq, recorded_at_ns FROM entry WHERE component_id = ? ORDER BY seq DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Settled:
    """What was recorded for silent nodes.

    Attributes:
        ended: Names of the runs that were ended as Stopped.
        again: Names of those whose own status counts again.
    """

    ended: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    @property
    def any(self) -> bool:
        """Return whether anything was recorded."""
        return bool(self.ended or self.again)


@dataclass(frozen=True, slots=True)
class _Due:
    """A status to record: of which run, and at what time."""

    row: ComponentRow
    draft: Draft
    at_ns: int
    again: bool


def settle(
    copy: Path,
    mirror: Mirror,
    after_s: float = AFTER_S,
    waiting: Collection[str] = (),
    *,
    stay: bool = False,
    claim_s: float = CLAIM_S,
) -> Settled:
    """End the runs of silent nodes, and give those that are back their own status.

    Args:
        copy: The folder of a copy.
        mirror: Its mirror.
        after_s: How long a node may be silent; 0: for ever.
        waiting: Replicas of which something is here that can't be taken over yet.
        stay: See ``delivery.delivering``.
        claim_s: See there.

    Returns:
        What was recorded. Nothing is while another copy delivers the journal.

    Raises:
        JournalError: The copy or the mirror can't be read or written.
    """
    with closing(Journal.open(copy, create=False, read_only=True)) as journal:
        state, lives = looked(copy, mirror, journal.journal_id, wait_s=_WAIT_S)
        nodes = _Nodes(lives, after_s, waiting)
        if not _due(journal, state, nodes):
            return Settled()
    done = Settled()
    try:
        with delivering(copy, stay=stay, claim_s=claim_s), exchange.alone(copy, wait_s=_WAIT_S):
            state = exchange.load(copy, mirror.id)
            at_ns = 0
            with closing(
                Journal.open(
                    copy,
                    create=False,
                    on_journal_error="raise",
                    clock_ns=lambda: at_ns,
                    host=state.replica,
                )
            ) as journal:
                for due in _due(journal, state, nodes):
                    at_ns = due.at_ns
                    journal.append(due.row.id, [due.draft])
                    (done.again if due.again else done.ended).append(due.row.name)
                    said = vocabulary.decode(due.draft.payload)
                    told = {"run": due.row.name, "status": said.get("primary")}
                    event = "node-back" if due.again else "node-silent"
                    logger.info(logfmt(event, **told, text=said.get("message")))
    except LeaseHeldError as error:
        # Who delivers the journal records it.
        logger.debug("%s", error.message)
    return done


def looked(
    copy: Path, mirror: Mirror, journal_id: str, *, wait_s: float = 0.0
) -> tuple[State, list[Life]]:
    """Look which nodes of a journal live, and note that in a copy of it.

    Raises:
        LeaseHeldError: Another process mirrors the copy for so long.
        JournalError: The copy can't be written, or the mirror not be read.
    """
    with exchange.alone(copy, wait_s=wait_s):
        state = exchange.load(copy, mirror.id)
        before = {name: seen.life for name, seen in state.seen.items()}
        lives = heartbeat.look(mirror, journal_id, state)
        if {name: seen.life for name, seen in state.seen.items()} != before:
            exchange.save(copy, mirror.id, state)
    return state, lives


class _Nodes:
    """Which replicas are silent, and which live."""

    def __init__(self, lives: list[Life], after_s: float, waiting: Collection[str]) -> None:
        self.at_ns = {life.name: life.at_ns for life in lives}
        silent = [life for life in lives if after_s > 0 and life.is_silent(after_s)]
        # What is still to come of a silent node would say that it is back. But not for ever.
        self.silent = {
            life.name
            for life in silent
            if life.name not in waiting or life.silent_s >= 2 * life.limit_s(after_s)
        }
        self.living = {life.name for life in lives if life.every_s is not None} - {
            life.name for life in silent
        }


def _due(journal: Journal, state: State, nodes: _Nodes) -> list[_Due]:
    """Return what is to be recorded."""
    marked = {number for (number,) in journal.database.read(_MARKED)}
    if not marked and not nodes.silent:
        return []
    uuids = {number: str(uuid) for number, uuid in journal.database.read(_UUIDS)}
    origins = queries.origins(journal.database.read)
    found = []
    for row in journal.runs():
        last = journal.last_status(row.id)
        if row.id in marked or (nodes.silent and last is not None and last.in_progress):
            run = _Run(journal, row, uuids, origins, state)
            due = run.again() or run.ended(nodes)
            if due is not None:
                found.append(due)
    return found


class _Run:
    """What is recorded of one run's status."""

    def __init__(
        self,
        journal: Journal,
        row: ComponentRow,
        uuids: Mapping[int, str],
        origins: Mapping[int, int],
        state: State,
    ) -> None:
        self._journal = journal
        self._row = row
        self._uuids = uuids
        self._heads = state.heads
        entries = journal.state_entries(row.id)
        of_silence = {
            entry.seq
            for entry in entries
            if entry.kind == vocabulary.STATUS and vocabulary.silence_of(entry) is not None
        }
        own = [entry for entry in entries if entry.seq not in of_silence]
        statuses = [
            entry
            for entry in entries
            if entry.kind == vocabulary.STATUS and vocabulary.primary_status(entry) is not None
        ]
        places = [Place(e.seq, e.recorded_at_ns, origins.get(e.writer_id, 0)) for e in statuses]
        in_order = fold.in_order(statuses, places)
        self._own = [entry for entry in in_order if entry.seq not in of_silence]
        self._last = in_order[-1] if in_order else None
        self._readers = {e.writer_id for e in entries if e.seq in of_silence}
        processes = {uuids.get(entry.writer_id, "") for entry in own}
        self._owners = {
            name for name, seen in state.seen.items() if not seen.processes.isdisjoint(processes)
        }
        began = uuids.get(self._own[-1].writer_id) if self._own else None
        self._began_by = {name for name, seen in state.seen.items() if began in seen.processes}
        self._newest: tuple[int, int] = journal.database.read(_LAST, (row.id,))[0]
        latest_ns = max(self._newest[1], *(entry.recorded_at_ns for entry in entries))
        self._behind_ns = min(latest_ns + 1, _TIME_MAX)

    def again(self) -> _Due | None:
        """Return the run's own status, if it is not the last one and more of the run is here."""
        silence = None if self._last is None else vocabulary.silence_of(self._last)
        if self._last is None or silence is None or not self._own:
            return None
        known = silence.get("upto")
        known = known if isinstance(known, dict) else {}
        later = [entry for entry in self._own if self._is_beyond(known, entry)]
        if not later and silence.get("again"):
            return None
        here = {**dict.fromkeys(known, 0), **self._upto(self._last.seq)}
        if not later and not any(
            self._heads.get(uuid, (0, ""))[0] > _place(known, uuid) for uuid in here
        ):
            return None
        # Of several nodes that went on, the one whose entry came last.
        said = _status(max(later, key=lambda entry: entry.seq) if later else self._own[-1])
        if said is None:
            return None
        draft = vocabulary.status(
            primary=said.primary,
            message=said.message,
            start_ns=said.start_ns,
            end_ns=said.end_ns,
            silence={"upto": self._upto(), "again": True},
        )
        return _Due(self._row, draft, self._behind_ns, again=True)

    def ended(self, nodes: _Nodes) -> _Due | None:
        """Return that the run stopped, if it is in progress and its node is silent."""
        if self._last is None or vocabulary.primary_status(self._last) != "InProgress":
            return None
        silent = self._began_by & nodes.silent
        if not silent or self._owners & nodes.living:
            return None
        seq, recorded_at_ns = self._newest
        at = view.iso_seconds(max(nodes.at_ns[name] for name in silent)) or "an unknown time"
        message = f"the node went silent at {at}, last mirrored entry {seq}"
        draft = vocabulary.status(
            primary="Stopped",
            message=limits.one_line(message),
            end_ns=None if limits.time_problem(recorded_at_ns, "the end") else recorded_at_ns,
            silence={"upto": self._upto()},
        )
        return _Due(self._row, draft, self._behind_ns, again=False)

    def _upto(self, after_seq: int = 0) -> dict[str, int]:
        """Return how much of the run's processes is here; of those with entries beyond a place."""
        rows = self._journal.database.read(_WRITERS, (self._row.id, after_seq))
        found = {self._uuids.get(number, "") for (number,) in rows if number not in self._readers}
        return {uuid: self._heads[uuid][0] for uuid in found if uuid in self._heads}

    def _is_beyond(self, known: Mapping[str, Any], entry: Entry) -> bool:
        return entry.writer_seq > _place(known, self._uuids.get(entry.writer_id, ""))


def _place(known: Mapping[str, Any], uuid: str) -> int:
    place = known.get(uuid, 0)
    return place if isinstance(place, int) else 0


def _status(entry: Entry) -> Status | None:
    try:
        found = fold.value_of(entry)
    except ValueError:
        return None
    return found if isinstance(found, Status) else None
