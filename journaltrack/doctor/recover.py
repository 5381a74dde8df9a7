"""Build a new database from everything that is readable in a damaged one.

Rows are told apart by their shape, so that neither the schema nor an index needs to be intact.
Derived tables are derived again. Three rules: a readable entry is kept as it is; what may have
been sent is never simply sent again; nothing is invented without a name that says so. Changes
nothing in the damaged journal.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import quote

from journaltrack._version import __version__
from journaltrack.doctor import sqlite_pages
from journaltrack.doctor.sqlite_pages import Row
from journaltrack.errors import JournalCorruptError, JournalTooNewError
from journaltrack.journal import removed
from journaltrack.journal.queries import UNSETTLED
from journaltrack.journal.schema import check, schema, tables
from journaltrack.journal.vocabulary import LOCAL, description_digest
from journaltrack.replay.evidence.attestations import Scribe, insert_receipt
from journaltrack.replay.evidence.statements import REPAIR, DeliveryOutcome, Settled, Statement
from journaltrack.util import paths
from journaltrack.util.intervals import as_intervals, as_text, ranges_in
from journaltrack.util.text import is_newer_version, version_needed

LOST_NAME: Final = "lost-name-of-component"
"""Prefix of the names of components whose own row could not be read."""
_NAMELESS: Final = "the name of its component was on a page that is lost"
_PERHAPS_SENT: Final = (
    "it may have been sent: the record of its delivery may have been on a page that is lost"
)
_SENT: Final = f"e.stream = 'metric' AND e.kind <> '{LOCAL}'"
# A request leaves only after its receipt is there; what came from a copy has a delivery.
_TRIED: Final = (
    "e.component_id IN (SELECT component_id FROM receipt WHERE action = 'metrics' UNION "
    "SELECT c.component_id FROM delivery d JOIN entry c ON c.seq = d.seq "
    "WHERE d.outcome = 'delivered')"
)
_RECORDS: Final = ("receipt", "delivery", "attestation")
"""The tables that say what was sent."""
_DIGEST_BYTES: Final = 32
_BATCH: Final = 10_000
_OUTCOMES: Final = frozenset(get_args(DeliveryOutcome))


@dataclass(slots=True)
class Salvaged:
    """Say what was salvaged.

    Attributes:
        pages: Pages read.
        damaged: Why each damaged page is damaged, by page number (0: the log).
        rows: Rows kept, by table.
        missing: Entries (``seq``) missing between others, as "120-143,150". Whether entries are
            missing at the end can't be told.
        removed: How many of the missing were removed on the record.
        in_doubt: Metrics put in doubt, since the record of their delivery may be lost.
        nameless: Entries quarantined because the name of their component is lost.
        journal_id_kept: Whether the journal kept its identity.
    """

    pages: int = 0
    damaged: dict[int, str] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    missing: str = ""
    removed: int = 0
    in_doubt: int = 0
    nameless: int = 0
    journal_id_kept: bool = False

    def __str__(self) -> str:
        """Return the summary in one line."""
        parts = [
            f"rebuilt the database from {self.pages} pages, {len(self.damaged)} of them damaged",
            f"entries kept: {self.rows['entry']}",
            f"missing between others: {self.missing or 'none'}"
            + (f", {self.removed} of them removed on the record" if self.removed else ""),
            f"in doubt: {self.in_doubt}" if self.in_doubt else "",
            f"without the name of their component: {self.nameless}" if self.nameless else "",
            "" if self.journal_id_kept else "the journal's identity is lost: it has a new one",
        ]
        return "; ".join(part for part in parts if part)


def salvage(folder: Path, target: Path, *, now_ns: int) -> Salvaged:
    """Build a database at ``target`` from the damaged journal in ``folder``.

    Nobody may have the journal open.

    Args:
        folder: The journal's.
        target: Must not exist.
        now_ns: Nanoseconds since the epoch.

    Raises:
        JournalCorruptError: Nothing of a journal is readable there; ``target`` is not created.
        JournalTooNewError: A newer journaltrack wrote it; ``target`` is not created.
        OSError: The files can't be read, or the target can't be written.
    """
    found = Salvaged()
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with (
            closing(sqlite3.connect(target, isolation_level=None)) as connection,
            ExitStack() as stack,
        ):
            connection.execute("PRAGMA synchronous=OFF")
            schema.create(
                connection, journal_id=str(uuid.uuid4()), now_ns=now_ns, version=__version__
            )
            connection.execute("BEGIN")
            pages = sqlite_pages.opened(folder / paths.DATABASE, stack)
            generation = _copy(connection, pages.rows(), found)
            found.pages, found.damaged = pages.count, pages.damaged
            _refuse_nothing(folder, found)
            database = folder / paths.DATABASE
            whole = not pages.damaged and _is_whole(database)
            recorded = whole or all(_is_whole(database, table) for table in _RECORDS)
            _complete(connection, found, generation, now_ns, whole=whole, recorded=recorded)
            connection.execute("COMMIT")
        paths.fsync(target)
        paths.fsync(target.parent)
    except BaseException:
        for path in (target, target.with_name(f"{target.name}-journal")):
            path.unlink(missing_ok=True)
        raise
    return found


def _refuse_nothing(folder: Path, found: Salvaged) -> None:
    if not found.rows["entry"] and not found.rows["meta"]:
        raise JournalCorruptError(
            f"nothing of a journal is readable in {folder / paths.DATABASE}; it was left as it is",
            hint="restore the folder from a copy",
        )


# -- telling rows apart ---------------------------------------------------------------------


_SHAPES: Final = {
    table.name: (len(table.columns), tables.value_kinds(table))
    for table in tables.metadata.sorted_tables
}
_BY_LENGTH: Final[dict[int, list[str]]] = {}
for _name, (_length, _) in _SHAPES.items():
    _BY_LENGTH.setdefault(_length, []).append(_name)
# Rows from before revisions 0002 and 0004 have no cells for the columns that they added.
for _length in (10, 14):
    _BY_LENGTH.setdefault(_length, []).append("writer")
_BY_LENGTH.setdefault(5, []).append("meta")


def _table_of(values: tuple[Any, ...]) -> str | None:
    for name in _BY_LENGTH.get(len(values), ()):
        if all(
            isinstance(value, kinds) for value, kinds in zip(values, _SHAPES[name][1], strict=False)
        ):
            return name
    return None


def _insert(table: str, *, conflict: str = "", ignore: bool = True) -> str:
    count = _SHAPES[table][0]
    return (
        f"INSERT {'OR IGNORE ' if ignore else ''}INTO {table} "
        f"VALUES ({','.join('?' * count)}) {conflict}"
    )


# Copies of a row come from pages no longer in use, or from an unproved log. Entries and
# deliveries never change. Of a receipt the finished copy is the later one; of a field, the one
# with the later entry.
_FINISHED: Final = (
    "finished_at_ns = excluded.finished_at_ns, outcome = excluded.outcome, attempts = "
    "excluded.attempts"
)
_SQL: Final = {
    **{
        name: _insert(name)
        for name in ("entry", "writer", "component", "delivery", "blob", "location", "attestation")
    },
    "receipt": _insert(
        "receipt",
        ignore=False,
        conflict=f"ON CONFLICT (id) DO UPDATE SET {_FINISHED}, request_id = "
        "excluded.request_id, error_code = excluded.error_code, "
        "error_text = excluded.error_text WHERE finished_at_ns IS NULL "
        "AND excluded.finished_at_ns IS NOT NULL",
    ),
    "field": _insert(
        "field",
        ignore=False,
        conflict="ON CONFLICT (component_id, map, key) DO UPDATE SET seq = excluded.seq "
        "WHERE excluded.seq > seq",
    ),
}


def _makes_sense(name: str, rowid: int, values: tuple[Any, ...]) -> bool:
    """Return whether a row that has the shape of a table's can be one of it."""
    if name == "entry":
        return rowid >= 1 and len(values[12]) == _DIGEST_BYTES
    return name != "delivery" or values[2] in _OUTCOMES


def _copy(connection: sqlite3.Connection, rows: Iterable[Row], found: Salvaged) -> int | None:
    """Copy every row into its table; return the highest lease generation.

    None means that no lease was found.
    """
    generation: int | None = None
    waiting: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _SQL}

    def flush(name: str) -> None:
        """Insert the rows that wait for a table."""
        connection.executemany(_SQL[name], waiting[name])
        waiting[name].clear()

    for row in rows:
        name = _table_of(row.values)
        if name is None:
            continue
        length, kinds = _SHAPES[name]
        values = row.values if kinds[0] != (type(None),) else (row.rowid, *row.values[1:])
        values += (None,) * (length - len(values))
        if not _makes_sense(name, row.rowid, values):
            continue
        if name == "lease":
            generation = max(generation or 0, int(values[4]))  # type: ignore[arg-type]
        elif name == "meta":
            _refuse_newer(values[4])
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?,?,?,?,?,?,?,?)", (1, *values[1:])
            )
            found.journal_id_kept = True
        elif name in waiting:
            waiting[name].append(values)
            if len(waiting[name]) >= _BATCH:
                flush(name)
        found.rows[name] += name in {"lease", "meta", "mark"}
    for name in waiting:
        flush(name)
        found.rows[name] = connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    return generation


def _refuse_newer(required: object) -> None:
    if is_newer_version(required):
        raise JournalTooNewError(
            "a newer journaltrack wrote the journal: this version would lose what it does not "
            "know; it was left as it is",
            hint=f"repair it with {version_needed(required)}: pip install -U journaltrack",
        )


# -- what follows from what is lost ---------------------------------------------------------


def _complete(
    connection: sqlite3.Connection,
    found: Salvaged,
    generation: int | None,
    now_ns: int,
    *,
    whole: bool,
    recorded: bool,
) -> None:
    """Name nameless components, settle what may be sent, derive the rest again.

    ``recorded``: the tables of requests are whole, so a component without one was never sent.
    """
    execute = connection.execute
    settled: list[Settled] = []
    execute(
        "INSERT INTO writer (id, uuid, host, pid, user, program, started_at_ns, package_version, "
        "python_version) SELECT DISTINCT writer_id, 'lost-writer-' || writer_id, 'unknown', 0, "
        "'unknown', 'unknown', 0, '', '' FROM entry WHERE writer_id NOT IN (SELECT id "
        "FROM writer)"
    )
    lost = _name_nameless(connection, now_ns)
    found.nameless = len(lost)
    settled.append(Settled("quarantined", _NAMELESS, as_intervals(lost)))
    used = execute(
        "SELECT max(generation) FROM receipt WHERE typeof(generation) = 'integer'"
    ).fetchone()[0]
    highest = min(max(generation or 0, used or 0, 0), check.GENERATION_MAX - 1)
    never_synced = generation == 0 and used is None
    # Or it is of format 0001.
    if not whole or execute("SELECT digest FROM meta").fetchone()[0] is None:
        _begin_evidence_anew(connection, now_ns)
    if not whole and not never_synced:
        settled.append(
            Settled("delivered", None, as_intervals(_settle_by_receipts(connection, now_ns)))
        )
        perhaps = f"{_SENT} AND {_TRIED}" if recorded else _SENT
        in_doubt = _settle(connection, "in doubt", _PERHAPS_SENT, now_ns, perhaps)
        found.in_doubt = len(in_doubt)
        settled.append(Settled("in doubt", _PERHAPS_SENT, as_intervals(in_doubt)))
        # Settle what could not be settled above: no receipt is in flight any more.
        execute(
            "UPDATE receipt SET finished_at_ns = ?, outcome = 'interrupted' "
            "WHERE finished_at_ns IS NULL",
            (now_ns,),
        )
    pending = f"SELECT min(e.seq) - 1 FROM entry e WHERE {UNSETTLED}"
    execute(f"UPDATE mark SET seq = coalesce(({pending}), (SELECT max(seq) FROM entry), 0)")
    execute("UPDATE lease SET generation = ?", (highest + 1,))
    gaps = execute(
        "SELECT previous + 1, seq - 1 FROM (SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS "
        "previous FROM entry) WHERE seq > previous + 1"
    )
    found.missing = as_text(gaps)
    found.removed = removed.entries_in(connection)
    settled = [each for each in settled if each.entries]
    said = Statement(
        REPAIR,
        "repaired",
        None,
        (),
        now_ns,
        highest + 1,
        settled,
        None,
        now_ns,
        attempts=0,
        error_text=str(found),
    )
    Scribe(lambda: now_ns).attest(
        connection, [said._replace(receipt_id=insert_receipt(connection, said))]
    )


def _name_nameless(connection: sqlite3.Connection, now_ns: int) -> list[int]:
    """Name components whose own row is lost; quarantine their entries, and return them."""
    lost: list[int] = []
    nameless = connection.execute(
        "SELECT DISTINCT component_id FROM entry WHERE component_id NOT IN (SELECT id "
        "FROM component)"
    ).fetchall()
    for (component_id,) in nameless:
        connection.execute(
            "INSERT INTO component (id, name, created_at_ns) VALUES (?, ?, ?)",
            (component_id, f"{LOST_NAME}-{component_id}", now_ns),
        )
        lost += _settle(
            connection, "quarantined", _NAMELESS, now_ns, "e.component_id = ?", component_id
        )
    return lost


def _begin_evidence_anew(connection: sqlite3.Connection, now_ns: int) -> None:
    """Require no attestations of what was recorded so far.

    Those may be on a lost page.

    Attestations that are there still count.
    """
    facts = "journal_id, created_at_ns, created_by_version, required_version"
    columns = connection.execute(
        f"SELECT {facts}, (SELECT coalesce(max(id), 0) FROM receipt), ? FROM meta", (now_ns,)
    ).fetchone()
    connection.execute(
        "UPDATE meta SET attested_after_receipt = ?, attested_after_ns = ?, digest = ?",
        (*columns[4:], description_digest(*columns)),
    )


def _settle(
    connection: sqlite3.Connection,
    outcome: str,
    reason: str,
    now_ns: int,
    which: str,
    *parameters: object,
) -> list[int]:
    """Settle the entries of a condition that have no settlement; return them."""
    sql = f"SELECT e.seq FROM entry e WHERE {which} AND {UNSETTLED}"
    seqs = [seq for (seq,) in connection.execute(sql, parameters)]
    connection.executemany(
        "INSERT INTO delivery VALUES (?, NULL, ?, ?, ?)",
        [(seq, outcome, reason, now_ns) for seq in seqs],
    )
    return seqs


def _settle_by_receipts(connection: sqlite3.Connection, now_ns: int) -> list[int]:
    """Settle entries that a receipt calls delivered; return them.

    These are the entries without a delivery row of their own.
    """
    settled: list[int] = []
    delivered = (
        "SELECT id, entries FROM receipt WHERE outcome = 'delivered' AND action <> 'readback'"
    )
    unsettled = f"SELECT e.seq FROM entry e WHERE e.seq BETWEEN ? AND ? AND {UNSETTLED}"
    for receipt_id, text in connection.execute(delivered).fetchall():
        with contextlib.suppress(ValueError):
            for interval in ranges_in(text):
                seqs = [seq for (seq,) in connection.execute(unsettled, interval)]
                rows = [(seq, receipt_id, now_ns) for seq in seqs]
                connection.executemany(
                    "INSERT INTO delivery VALUES (?, ?, 'delivered', NULL, ?)", rows
                )
                settled += seqs
    return settled


def _is_whole(database: Path, table: str = "1") -> bool:
    """Return whether SQLite finds nothing wrong with the original, opened read-only.

    With a table: with that table and its indexes.
    """
    try:
        with closing(
            sqlite3.connect(f"file:{quote(os.fsencode(database))}?mode=ro", uri=True)
        ) as connection:
            found = connection.execute(f"PRAGMA integrity_check({table})").fetchone()
            return bool(found == ("ok",))
    # SQLite's complaint may quote a damaged name.
    except (sqlite3.Error, UnicodeDecodeError):
        return False
