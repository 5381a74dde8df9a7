"""Say what became of entries: the one interpretation of attestations.

Three callers share it. A pass follows its own statements as it makes them. An import follows those
of another copy. A proof (``reports.proof``) follows everything a journal has, from the first on,
in tables of its own, to compare.

The rules, for an entry of which something is already known:

- What arrived (delivered, superseded) is final. Of two arrivals the earlier one holds. But what is
  found gone (``REOPEN``) is pending again, unless it arrived after that.
- A release makes pending again what did not arrive.
- An entry that is still in doubt keeps its first time and request. The later reason replaces the
  earlier one.
- A reading that did not settle it changes the reason of an entry in doubt, and nothing else.
- In all other cases the later word holds.

``tests/independent_verifier.py`` implements them from docs/journal-format.md alone.

Must not know who says something, nor what an action does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import JournalCorruptError
from journaltrack.journal.places import Places
from journaltrack.journal.queries import ARRIVED
from journaltrack.journal.schema.schema import ddl
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay.evidence.statements import RELEASED, REOPEN, REPAIR, looked
from journaltrack.util.intervals import merged, size

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.chain import Removed
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.statements import Intervals, Said, Statement

_ARRIVED: Final = ARRIVED.removeprefix("d.outcome IN ")
_FEW: Final = 1_000
"""Our own limit: numbers that are named one by one."""
_AT_ONCE: Final = 1_000
"""Our own limit: statements that are followed together."""
NAMED_MAX: Final = 1_000_000
"""Our own limit: entries that all attestations of a journal name.

``NAMED_TIMES_MAX`` for each entry comes on top.
"""
NAMED_TIMES_MAX: Final = 100
"""Our own limit: how often each entry may be sent, refused and released by hand.

A crafted journal of a few megabytes could name each a hundred thousand times.
"""


class Tables:
    """Hold the SQL that changes what is known of entries, and of the remote.

    Args:
        prefix: Of the tables' names.
        entries: The entries that count, as the table of a FROM clause.
        mark: Whether there is a low-water mark. It goes back to what is pending again.
        pending: Whether all entries to settle must be pending. SQLite refuses the others.
    """

    def __init__(
        self, prefix: str = "", entries: str = "entry", *, mark: bool = True, pending: bool = False
    ) -> None:
        delivery, component, location = (
            f"{prefix}{name}" for name in ("delivery", "component", "location")
        )
        still = "outcome = 'in doubt' AND excluded.outcome = 'in doubt'"
        known = (
            " ON CONFLICT (seq) DO UPDATE SET "
            f"receipt_id = CASE WHEN {still} THEN receipt_id ELSE excluded.receipt_id END, "
            f"settled_at_ns = CASE WHEN {still} THEN settled_at_ns "
            "ELSE excluded.settled_at_ns END, "
            f"reason = excluded.reason, outcome = excluded.outcome WHERE outcome NOT IN {_ARRIVED} "
            f"OR (excluded.outcome IN {_ARRIVED} AND excluded.settled_at_ns < settled_at_ns)"
        )
        columns = "receipt_id, outcome, reason, settled_at_ns, seq"
        settle = f"INSERT INTO {delivery} ({columns}) SELECT ?, ?, ?, ?,"
        known = "" if pending else known
        self.settle = f"{settle} e.seq FROM {entries} e WHERE e.seq BETWEEN ? AND ?{known}"
        self.settle_few = f"{settle} n.value FROM json_each(?) n WHERE true{known}"
        self.look = (
            f"UPDATE {delivery} SET reason = ? WHERE seq BETWEEN ? AND ? AND outcome = 'in doubt'"
        )
        self.release = (
            f"DELETE FROM {delivery} WHERE seq BETWEEN ? AND ? AND outcome NOT IN {_ARRIVED}"
        )
        self.reopen = f"DELETE FROM {delivery} WHERE seq BETWEEN ? AND ? AND settled_at_ns <= ?"
        self.mark = "UPDATE mark SET seq = min(seq, ?)" if mark else None
        confirmed = "confirmed_at_ns = ?, arn = coalesce(nullif(?, ''), arn)"
        self.confirm = f"UPDATE {component} SET {confirmed} WHERE id = ?"
        self.miss = f"UPDATE {component} SET confirmed_at_ns = NULL WHERE id = ?"
        same = "component_id = ? AND sha256 = ? AND bucket = ? AND prefix = ?"
        self.forget = f"DELETE FROM {location} WHERE {same}"
        place = "component_id, sha256, bucket, prefix, uri, receipt_id"
        self.upload = f"INSERT OR REPLACE INTO {location} ({place}) VALUES (?, ?, ?, ?, ?, ?)"


JOURNAL: Final = Tables()
"""The journal's own tables."""
PENDING: Final = Tables(pending=True)
"""The same for a pass: what it settles must be pending."""
_MADE: Final = [
    *(
        sql.replace(f"CREATE TABLE {name} ", f"CREATE TEMP TABLE replayed_{name} ")
        for sql in ddl()
        for name in ("delivery", "component", "location")
        if f"CREATE TABLE {name} " in sql
    ),
    "CREATE TEMP TABLE replayed_upload (receipt_id, component_id, sha256, bucket, prefix)",
    "CREATE TEMP TABLE replayed_removed (seq INTEGER PRIMARY KEY)",
]
_REPLAYED: Final = Tables("replayed_", mark=False)
_AND_REMOVED: Final = "(SELECT seq FROM entry UNION ALL SELECT seq FROM replayed_removed)"
_WITH_REMOVED: Final = Tables("replayed_", _AND_REMOVED, mark=False)


def follow(
    connection: sqlite3.Connection, statements: Iterable[Statement], tables: Tables = JOURNAL
) -> None:
    """Change the tables as these statements say, in order.

    Call it inside a transaction.
    """
    # Settlements, many at a time: a pass has hundreds, nearly all by the same SQL.
    rows: list[tuple[Any, ...]] = []
    sql = tables.settle
    for said in statements:
        if said.outcome == RELEASED:
            _flush(connection, sql, rows)
            _release(connection, said, tables)
        # A repair speaks of other requests than its own.
        receipt_id = None if said.action == REPAIR else said.receipt_id
        for group in said.settled:
            if group.outcome == "in doubt" and looked(said.action, group.outcome):
                _flush(connection, sql, rows)
                connection.executemany(
                    tables.look, [(group.reason, *interval) for interval in group.entries]
                )
                continue
            by = receipt_id if group.receipt_id is None else group.receipt_id
            at_ns = said.finished_at_ns if group.at_ns is None else group.at_ns
            few = _few(group.entries) if len(group.entries) > 1 else None
            wanted = tables.settle if few is None else tables.settle_few
            if wanted is not sql:
                _flush(connection, sql, rows)
                sql = wanted
            if few is None:
                rows += [
                    (by, group.outcome, group.reason, at_ns, first, last)
                    for first, last in group.entries
                ]
            else:
                rows.append((by, group.outcome, group.reason, at_ns, few))
        if said.component_id is not None and (
            said.arn is not None or said.missing or said.uploaded or said.forgotten
        ):
            learn(connection, said, tables)
    _flush(connection, sql, rows)


def _flush(connection: sqlite3.Connection, sql: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        connection.executemany(sql, rows)
        rows.clear()


def _few(intervals: Intervals) -> str | None:
    """Return the numbers in several intervals as JSON, or None if they are many.

    For a few numbers, as in a request beside others, this takes a fourth of the time.
    """
    numbers: list[int] = []
    for first, last in intervals:
        if first == last:
            numbers.append(first)
        elif last - first > _FEW or len(numbers) > _FEW:
            return None
        else:
            numbers.extend(range(first, last + 1))
    return str(numbers) if len(numbers) <= _FEW else None


def _release(connection: sqlite3.Connection, said: Statement, tables: Tables) -> None:
    if said.action == REOPEN:
        connection.executemany(
            tables.reopen, [(*interval, said.finished_at_ns) for interval in said.entries]
        )
    else:
        connection.executemany(tables.release, said.entries)
    if said.entries and tables.mark is not None:
        connection.execute(tables.mark, (max(min(said.entries)[0] - 1, 0),))


def learn(connection: sqlite3.Connection, said: Statement, tables: Tables = JOURNAL) -> None:
    """Record what a statement says of its component at the remote.

    Call it inside a transaction.
    """
    component_id = said.component_id
    if said.arn is not None:
        connection.execute(tables.confirm, (said.finished_at_ns, said.arn, component_id))
    if said.missing:
        connection.execute(tables.miss, (component_id,))
    if said.forgotten is not None:
        connection.execute(tables.forget, (component_id, *said.forgotten))
    if said.uploaded is not None:
        content, uri = said.uploaded
        connection.execute(tables.upload, (component_id, *content, uri, said.receipt_id or 0))


class Replay:
    """Follow statements in tables of their own.

    Args:
        database: Of the journal. The caller holds its lock, and is inside ``replaying``.
    """

    def __init__(self, database: Database) -> None:
        self._connection = database.connection
        self._components = {
            str(name).lower(): i for i, name in database.read("SELECT id, name FROM component")
        }
        self._waiting: list[Statement] = []
        self._tables = _REPLAYED
        (entries,) = database.read("SELECT count(*) FROM entry")[0]
        self._left = NAMED_MAX + NAMED_TIMES_MAX * entries
        self.clear()
        # Last: what is made is closed by the caller.
        self.places = Places(database)

    def clear(self) -> None:
        """Start again without any statement."""
        for name in ("delivery", "component", "location", "upload"):
            self._connection.execute(f"DELETE FROM replayed_{name}")
        copied = "SELECT id, name, created_at_ns FROM component"
        self._connection.execute(
            f"INSERT INTO replayed_component (id, name, created_at_ns) {copied}"
        )

    def number_removed(self, gaps: Mapping[str, Removed]) -> None:
        """Give removed entries numbers below 0, to prove what became of them too."""
        number = 0
        for uuid, removed in gaps.items():
            for first, last in merged(removed.runs()):
                number -= last - first + 1
                self.places.add_removed(uuid, first, last, number - first)
        if number:
            self._tables = _WITH_REMOVED
            rows = ((each,) for each in range(number, 0))
            self._connection.executemany("INSERT INTO replayed_removed VALUES (?)", rows)

    def remember(self, receipt_id: int, at_ns: int) -> None:
        """Take over what was recorded up to then in format 0001, and never attested.

        Later statements come after it.
        """
        old = f"receipt_id BETWEEN 1 AND {receipt_id}"
        self._connection.execute(
            "INSERT INTO replayed_delivery SELECT * FROM delivery "
            f"WHERE typeof(settled_at_ns) = 'integer' AND ({old} OR "
            "(receipt_id IS NULL AND settled_at_ns BETWEEN 1 AND ?)) "
            "AND seq IN (SELECT seq FROM entry)",
            (at_ns,),
        )
        self._connection.execute(
            f"INSERT INTO replayed_location SELECT * FROM location WHERE {old}"
        )
        if receipt_id:
            self._connection.execute(
                "INSERT OR REPLACE INTO replayed_component SELECT * FROM component"
            )

    def follow(self, said: Said, receipt_id: int | None) -> Statement:
        """Follow one more statement. Return it in the journal's numbers.

        Raises:
            JournalCorruptError: The attestations name entries more often than journaltrack does.
        """
        component_id = (
            None if said.component is None else self._components.get(said.component.lower())
        )
        here = said.here(self.places.find, component_id, receipt_id)
        self._left -= size(here.entries)
        for each in here.settled:
            if each.entries is not here.entries:
                self._left -= size(each.entries)
        if self._left < 0:
            raise JournalCorruptError(
                f"attestations name entries more than {NAMED_TIMES_MAX} times; nothing was proved",
                hint="journaltrack makes no such journal; copy it again from where it was recorded",
            )
        self._waiting.append(here)
        if receipt_id is not None and here.uploaded is not None:
            columns = (receipt_id, component_id, *here.uploaded[0])
            self._connection.execute("INSERT INTO replayed_upload VALUES (?, ?, ?, ?, ?)", columns)
        if len(self._waiting) >= _AT_ONCE:
            self.finish()
        return here

    def finish(self) -> None:
        """Follow the statements that wait, so that the tables hold everything said."""
        follow(self._connection, self._waiting, self._tables)
        self._waiting.clear()

    def of_removed(self, uuid: str, first: int, last: int) -> tuple[int, int]:
        """Return how many of these removed entries arrived, and how many did not.

        Only entries count of which something was said.
        """
        of_these = "FROM replayed_delivery d WHERE d.seq BETWEEN ? AND ? AND d.seq < 0"
        sql = f"SELECT count(*), total({ARRIVED}) {of_these}"
        found = [
            self._connection.execute(sql, interval).fetchone()
            for interval in self.places.find({uuid: ((first, last),)})
        ]
        arrived = sum(int(each[1]) for each in found)
        return arrived, sum(each[0] for each in found) - arrived

    def arrived(self) -> list[tuple[int, int]]:
        """Return (first, last) of entries of which a statement says that they arrived."""
        return self._connection.execute(
            "SELECT min(seq), max(seq) FROM "
            "(SELECT seq, seq - row_number() OVER (ORDER BY seq) AS run FROM replayed_delivery d "
            f"WHERE {ARRIVED}) GROUP BY run ORDER BY 1"
        ).fetchall()

    def uploaded(self) -> set[str]:
        """Return the contents that a statement says were uploaded and exist."""
        return {
            sha256 for (sha256,) in self._connection.execute("SELECT sha256 FROM replayed_location")
        }


@contextlib.contextmanager
def replaying(database: Database) -> Iterator[Replay]:
    """Make a replay of the journal as it is now, for the length of the block.

    ``view.snapshot`` says where its tables are.
    """
    with database.lock, translated(database.path):
        connection = database.connection
        connection.execute("SAVEPOINT replaying")
        replay = None
        try:
            for sql in _MADE:
                connection.execute(sql)
            replay = Replay(database)
            yield replay
        finally:
            if replay is not None:
                replay.places.close()
            if connection.in_transaction:
                connection.execute("ROLLBACK TO replaying")
                connection.execute("RELEASE replaying")
