"""Single entries with what became of each: the audit's long form, a page at a time. Prints nothing, changes nothing.

Which entries a report is about: the filters that the audit's questions share, as conditions of SQLite. Pure but for the names of components.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import NothingMatchesError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal import queries, removed, view
from journaltrack.journal.view import InFlight, State
from journaltrack.util import patterns

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

_CONDITIONS: Final = (
    "e.component_id IN (SELECT value FROM json_each(?1))",
    "e.kind = ?2",
    "e.name GLOB ?3",
    "e.recorded_at_ns >= ?4",
    "e.recorded_at_ns < ?5",
)

_NAMES_MAX: Final = 10_000
_BY_DEFAULT: Final = "sagemaker-"
"""How the bucket is named that artifacts without one go to."""
_KINDS: Final = (
    *(vocabulary.CREATE, vocabulary.LOAD, vocabulary.ASSOCIATE, vocabulary.PARAMETER, vocabulary.INPUT),
    *(vocabulary.OUTPUT, vocabulary.STATUS, vocabulary.METRIC, vocabulary.UPLOAD),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to report on; None leaves a member open.

    Attributes:
        component: Shell pattern of component names (case does not matter).
        kind: Kind of entry.
        name: Shell pattern of what was logged: a metric, a parameter, an artifact (case matters).
        state: Where the entry is now.
        since_ns, until_ns: Recorded since and before, nanoseconds since the epoch.
    """

    component: str | None = None
    kind: str | None = None
    name: str | None = None
    state: State | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def of_entries(self) -> bool:
        """Whether it chooses among the entries of a component."""
        return not (self.kind is None and self.name is None and self.state is None)

    @property
    def condition(self) -> str:
        """What is asked of ``entry e``, but for the state; ?1 to ?5 are ``parameters``. Only what is asked: it is evaluated a million times."""
        asked = (self.component, self.kind, self.name, self.since_ns, self.until_ns)
        return " AND ".join(text for text, value in zip(_CONDITIONS, asked, strict=True) if value is not None) or "1"

    def parameters(self, journal: Journal) -> tuple[Any, ...]:
        """For ``condition``; further ones begin with ?6, and the last one must be used whatever is asked.

        Raises:
            NothingMatchesError: There is no such component.
        """
        # SQLite's GLOB negates a set with ^ where shells have !.
        name = None if self.name is None else self.name.replace("[!", "[^")
        return (view.matching(journal, self.component), self.kind, name, self.since_ns, self.until_ns)

    def check(self, journal: Journal) -> None:
        """See whether kind and name are of anything that the journal has, or had before a prune.

        Raises:
            NothingMatchesError: They are not: an empty answer would look like "all is well".
        """
        if self.kind is not None and self.kind not in _KINDS and not _any(journal, Choice(self.component, self.kind)):
            others = {str(kind) for (kind,) in journal.database.read("SELECT DISTINCT kind FROM entry")}
            raise nothing(journal, "no entry of the kind", self.kind, sorted(others.union(_KINDS)))
        if self.name is None or _any(journal, Choice(self.component, self.kind, self.name)):
            return
        if self.kind in {None, vocabulary.METRIC} and _was_removed(journal, self.name):
            return
        known = names(journal, Choice(self.component, self.kind))
        raise nothing(journal, "no entry whose name fits", self.name, known)


def check_buckets(journal: Journal, buckets: Iterable[str]) -> None:
    """See whether artifacts of the journal go to each of these buckets, as far as it knows.

    Raises:
        NothingMatchesError: None goes to one of them.
    """
    sql = "SELECT DISTINCT json_extract(payload, '$.bucket') FROM entry WHERE kind = ?1 AND json_valid(payload)"
    known = {bucket for (bucket,) in journal.database.read(sql, (vocabulary.UPLOAD,))}
    for bucket in buckets:
        by_default = None in known and bucket.startswith(_BY_DEFAULT)
        if (bucket or None) not in known and not by_default:
            named = sorted(str(each) if each else f"{_BY_DEFAULT}<region>-<account>" for each in known)
            raise nothing(journal, "no artifacts for the bucket", bucket, named)


def names(journal: Journal, choice: Choice, condition: str = "1") -> list[str]:
    """What the chosen entries are named, the newest last; at most ``_NAMES_MAX``. ``condition`` is further SQL about ``e``."""
    sql = (
        f"SELECT e.name FROM entry e WHERE e.name IS NOT NULL AND {condition} AND {choice.condition} "
        "GROUP BY e.name ORDER BY max(e.seq) DESC LIMIT ?6"
    )
    rows = journal.database.read(sql, (*choice.parameters(journal), _NAMES_MAX))
    return [str(name) for (name,) in reversed(rows)]


def nothing(journal: Journal, what: str, wanted: str, known: Sequence[str]) -> NothingMatchesError:
    """The error of a filter that names nothing, with what may have been meant."""
    message = f"the journal {journal.path} has {what} {limits.shown(wanted)}"
    return NothingMatchesError(message, hint=patterns.hint(wanted, known))


def _any(journal: Journal, choice: Choice) -> bool:
    sql = f"SELECT 1 FROM entry e WHERE {choice.condition} LIMIT ?6"
    return bool(journal.database.read(sql, (*choice.parameters(journal), 1)))


def _was_removed(journal: Journal, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for _, name in removed.metrics(journal.database))


PAGE_ENTRIES: Final = 5_000
_ALL: Final = 2**63

# What drives each query: problems have an index, what is in flight is named by few receipts; all else is a scan of the entries
# (0.1 s for 1,000,000, with the joins only for those that are chosen).
_ENTRIES: Final = "entry e LEFT JOIN delivery d ON d.seq = e.seq"
_PROBLEMS: Final = "delivery d CROSS JOIN entry e ON e.seq = d.seq"
_FLYING: Final = (
    "json_each(?8) i CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') "
    "LEFT JOIN delivery d ON d.seq = e.seq"
)
SOURCES: Final[dict[State | None, tuple[str, str]]] = {
    None: (_ENTRIES, "1"),
    "pending": (_ENTRIES, "d.seq IS NULL"),
    "in flight": (_FLYING, "d.seq IS NULL"),
    "delivered": (_ENTRIES, queries.ARRIVED),
    "in doubt": (_PROBLEMS, "d.outcome = 'in doubt'"),
    "quarantined": (_PROBLEMS, "d.outcome = 'quarantined'"),
}
"""What to read for a state, and on which condition; ?8 is what is in flight."""
_COLUMNS: Final = (
    "e.seq, c.name, e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, e.recorded_at_ns, d.outcome, "
    "d.seq IS NULL, d.settled_at_ns, d.reason, d.receipt_id, r.action, r.request_id, r.attempts, r.error_code, "
    "e.writer_id, w.host, w.user, w.pid, w.program"
)
_JOINED: Final = (
    "LEFT JOIN component c ON c.id = e.component_id LEFT JOIN receipt r ON r.id = d.receipt_id LEFT JOIN writer w ON w.id = e.writer_id"
)


@dataclass(frozen=True, slots=True)
class AuditedEntry:
    """One entry and what became of it.

    Attributes:
        seq: Its place in the journal.
        component, stream, kind, name, value, step, timestamp_ns, detail, recorded_at_ns: As recorded.
        state: Where it is now; None for an outcome that this version does not know.
        superseded: Delivered by a later entry that overrides it, or by an earlier upload of the same content.
        settled_at_ns, reason: When it was settled, and why if it was not simply delivered.
        receipt_id, action, request_id, attempts, code: The request that settled it.
        writer_id, host, user, pid, program: The process that recorded it.
    """

    seq: int
    component: str | None
    stream: str
    kind: str
    name: str | None
    value: float | None
    step: int | None
    timestamp_ns: int | None
    detail: dict[str, Any]
    recorded_at_ns: int
    state: State | None
    superseded: bool
    settled_at_ns: int | None
    reason: str | None
    receipt_id: int | None
    action: str | None
    request_id: str | None
    attempts: int | None
    code: str | None
    writer_id: int
    host: str | None
    user: str | None
    pid: int | None
    program: str | None


def entries_of(
    journal: Journal,
    *,
    component: str | None = None,
    state: State | None = None,
    kind: str | None = None,
    name: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after_seq: int = 0,
    limit: int = PAGE_ENTRIES,
) -> list[AuditedEntry]:
    """One page of entries in order of ``seq``; an empty one is the end.

    Args:
        journal: An open journal.
        component: Shell pattern of component names (case does not matter); None: all.
        state: Only entries in this state.
        kind: Only entries of this kind.
        name: Shell pattern of entries' names (case matters).
        since_ns: Only what was recorded since then, nanoseconds since the epoch.
        until_ns: Only what was recorded before.
        after_seq: The last ``seq`` of the page before.
        limit: Entries in a page at most; huge entries make it shorter.
    """
    choice = Choice(component, kind, name, state, since_ns, until_ns)
    source, condition = SOURCES[state]
    sql = f"SELECT {_COLUMNS} FROM {source} {_JOINED} WHERE e.seq > ?6 AND {condition} AND {choice.condition} ORDER BY e.seq LIMIT ?7"
    with view.snapshot(journal.database):
        flying = view.in_flight(journal.database)
        chosen_by = choice.parameters(journal)
        of_source = (flying.json,) if "?8" in source else ()
        while rows := journal.database.read_page(sql, (*chosen_by, after_seq, limit, *of_source)):
            found = [_audited(row, flying) for row in rows]
            chosen = found if state is None else [entry for entry in found if entry.state == state]
            if chosen:
                return chosen
            after_seq = rows[-1][0]  # all of the page that is not settled is in the other of the two states
    return []


def each_entry(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    component: str | None = None,
    state: State | None = None,
    kind: str | None = None,
    name: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after_seq: int = 0,
    limit: int | None = None,
) -> Iterator[AuditedEntry]:
    """All pages of ``entries_of`` one after the other, in constant memory; ``limit`` entries at most."""
    left = _ALL if limit is None else limit
    with view.opened(journal) as own:
        while left > 0:
            page = entries_of(
                own,
                component=component,
                state=state,
                kind=kind,
                name=name,
                since_ns=since_ns,
                until_ns=until_ns,
                after_seq=after_seq,
                limit=min(left, PAGE_ENTRIES),
            )
            if not page:
                return
            yield from page
            left -= len(page)
            after_seq = page[-1].seq


def unsettled(journal: Journal | str | os.PathLike[str] | None = None, *, component: str | None = None) -> tuple[bool, bool]:
    """Whether anything is pending or in flight, and whether anything is quarantined or in doubt; costs next to nothing.

    As ``status``, it looks for what is pending above the low-water mark alone; the whole report counts every entry.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        choice = Choice(component)
        sql = "SELECT e.seq FROM {0} WHERE {1} AND " + choice.condition + " LIMIT ?6"
        asked = (*choice.parameters(own), 1)
        pending = own.database.read(sql.format(_ENTRIES, f"{queries.LOOKED_AT} AND d.seq IS NULL"), asked)
        problems = own.database.read(sql.format(_PROBLEMS, queries.PROBLEM), asked)
        return bool(pending), bool(problems)


def entries_where(journal: Journal, condition: str, parameters: tuple[Any, ...]) -> Iterator[AuditedEntry]:
    """Entries in order of ``seq`` by a condition of the caller's on ``e``, whose parameters begin with ?3; a page at a time."""
    source, _ = SOURCES[None]
    sql = f"SELECT {_COLUMNS} FROM {source} {_JOINED} WHERE {condition} AND e.seq > ?1 ORDER BY e.seq LIMIT ?2"
    after_seq = 0
    while True:
        with view.snapshot(journal.database):
            flying = view.in_flight(journal.database)
            rows = journal.database.read_page(sql, (after_seq, PAGE_ENTRIES, *parameters))
        if not rows:
            return
        for row in rows:
            yield _audited(row, flying)
        after_seq = rows[-1][0]


def entries_in(journal: Journal, seqs: Sequence[int]) -> dict[int, AuditedEntry]:
    """Some entries by ``seq``, as far as they are there."""
    return {entry.seq: entry for entry in entries_where(journal, "e.seq IN (SELECT value FROM json_each(?3))", (json.dumps(seqs),))}


def entry_of(journal: Journal, seq: int) -> AuditedEntry | None:
    """One entry; None if there is none. Inside a ``report.snapshot``."""
    source, _ = SOURCES[None]
    rows = journal.database.read(f"SELECT {_COLUMNS} FROM {source} {_JOINED} WHERE e.seq = ?", (seq,))
    return _audited(rows[0], view.in_flight(journal.database)) if rows else None


def _audited(row: tuple[Any, ...], flying: InFlight) -> AuditedEntry:
    seq, component, stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns, outcome, unsettled, *rest = row
    return AuditedEntry(
        seq,
        component,
        stream,
        kind,
        name,
        value,
        step,
        timestamp_ns,
        view.detail_of(payload),
        recorded_at_ns,
        view.state_of(outcome, flying=bool(unsettled) and flying.names(seq)),
        outcome == "superseded",
        *rest,
    )
