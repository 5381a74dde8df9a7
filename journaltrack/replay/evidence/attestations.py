"""Write attestations: what each request or decision says of which entries.

Receipts and deliveries are this journal's own tables, made for its queries. An attestation is the
evidence for them, and can be carried to another copy of the journal.

Invariants:

- An entry becomes only what an attestation says (``follow``), in the same transaction.
- The attestations of a process are dense. A chain of digests links them, from the process's
  description on. None is ever changed.
- An append waits for whoever holds SQLite's write lock. So long tasks (a merge, an import, a prune,
  a release) work in ``Turns``.

Must not know what an action does or where it goes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from journaltrack.journal import provenance
from journaltrack.journal.schema import schema
from journaltrack.journal.vocabulary import attestation_next, attestation_start
from journaltrack.replay.evidence.follow import JOURNAL, Tables, follow
from journaltrack.replay.evidence.statements import Statement
from journaltrack.util.intervals import as_text, extend

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.statements import Intervals, Settled
    from journaltrack.replay.lease import Lease
    from journaltrack.replay.plan.actions import Run

T = TypeVar("T")

TRANSACTION_S: Final = 0.015
"""Our own limit: seconds that a transaction should take. An append that meets one waits for it."""
PAUSE_S: Final = 0.002
"""Our own limit: least seconds between two transactions.

SQLite tries again after 1 ms and 2 ms, then more rarely. So a waiting append gets its turn.
"""
_FIRST: Final = 500
_MIN, _MAX = 50, 20_000
_INSERT_RECEIPT: Final = schema.insert_sql("receipt")
_INSERT_WRITER: Final = schema.insert_writer_sql()
_INSERT: Final = schema.insert_sql("attestation")
_OF_WRITER: Final = "FROM attestation WHERE writer_id = ?"
_LAST: Final = f"SELECT writer_seq, digest {_OF_WRITER} ORDER BY writer_seq DESC LIMIT 1"
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# Gives for a text what ``_encode`` gives.
_quoted: Final = json.encoder.encode_basestring_ascii


class Scribe:
    """Write attestations of one process.

    Args:
        clock_ns: Nanoseconds since the epoch.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.clock_ns = clock_ns
        self._started_ns = clock_ns()
        self._info: provenance.WriterInfo | None = None
        # 0 until the writer is recorded.
        self._writer_id = 0
        self._writer_seq = 0
        self._chain = b""
        # A transaction failed: the chain must be read from the journal again.
        self._unsure = False
        self._names: dict[int | None, str | None] = {}
        self._uuids: dict[int, str] = {}

    def attest(
        self,
        connection: sqlite3.Connection,
        statements: Sequence[Statement],
        tables: Tables = JOURNAL,
    ) -> None:
        """Change the journal's tables as each statement says, and record its attestation.

        Call it inside a transaction.
        """
        if not statements:
            return
        follow(connection, statements, tables)
        self._be_recorded(connection)
        bodies = [self._plain_body(connection, statement) for statement in statements]
        others = [
            statement for statement, body in zip(statements, bodies, strict=True) if body is None
        ]
        written = iter(self._bodies(connection, others) if others else ())
        rows = []
        for statement, plain in zip(statements, bodies, strict=True):
            body = next(written) if plain is None else plain
            self._writer_seq += 1
            self._chain = attestation_next(self._chain, body)
            rows.append(
                (self._writer_id, self._writer_seq, statement.receipt_id, body, self._chain)
            )
        connection.executemany(_INSERT, rows)

    def _plain_body(self, connection: sqlite3.Connection, statement: Statement) -> str | None:
        """Return the body of the usual statement, or None if the statement says more.

        Usual: one request delivered all entries, and their places are known. This code is four
        times as fast as the encoder. A test compares the two.
        """
        s, settled, runs = statement, statement.settled, statement.runs
        if not runs or len(settled) != 1 or settled[0][:4] != ("delivered", None, s.entries, None):
            return None
        if (
            s.error_code is not None
            or s.error_text is not None
            or s.arn is not None
            or s.missing
            or s.more
        ):
            return None
        if s.uploaded is not None or s.forgotten is not None:
            return None
        component = self._name(connection, s.component_id)
        if (
            component is None
            or s.receipt_id is None
            or s.started_at_ns is None
            or s.attempts is None
            or s.request_id is None
        ):
            return None
        # Nearly always.
        if len(runs) == 1:
            ((writer_id, first, last),) = runs
            places = first if first == last else f"{first}-{last}"
            named = f'{_quoted(self._uuid(connection, writer_id))}:"{places}"'
        else:
            named = ",".join(
                [
                    f'{_quoted(uuid)}:"{places}"'
                    for uuid, places in self._named(connection, runs).items()
                ]
            )
        return (
            f'{{"action":{_quoted(s.action)},"outcome":{_quoted(s.outcome)},'
            f'"component":{_quoted(component)},"entries":{{{named}}},'
            f'"settled":[["delivered",null,null]],"generation":{s.generation},'
            f'"started_at_ns":{s.started_at_ns},"finished_at_ns":{s.finished_at_ns},'
            f'"attempts":{s.attempts},"request_id":{_quoted(s.request_id)}}}'
        )

    def _bodies(
        self, connection: sqlite3.Connection, statements: Sequence[Statement]
    ) -> Iterator[str]:
        """Yield the bodies of these statements, whatever they say."""
        groups: list[Intervals] = []
        for statement in statements:
            groups.append(statement.entries)
            groups += [settled.entries for settled in statement.apart()]
        identities = iter(self._identities(connection, groups))
        for statement in statements:
            named = next(identities)
            apart = [next(identities) for _ in statement.apart()]
            yield _encode(
                statement.body(self._name(connection, statement.component_id), named, apart)
            )

    def _be_recorded(self, connection: sqlite3.Connection) -> None:
        """Record this process as a writer of the journal, and find its chain's end."""
        if self._info is None:
            (journal_id,) = connection.execute("SELECT journal_id FROM meta").fetchone()
            self._info = provenance.describe_process(
                self._started_ns, str(journal_id), training=False
            )
            self._chain = attestation_start(self._info.digest)
        if self._unsure:
            found = connection.execute(
                "SELECT id FROM writer WHERE uuid = ?", (self._info.uuid,)
            ).fetchone()
            self._writer_id = found[0] if found else 0
            last = connection.execute(_LAST, (self._writer_id,)).fetchone()
            self._writer_seq, self._chain = last or (
                0,
                attestation_start(self._info.digest),
            )
            self._unsure = False
        if not self._writer_id:
            self._writer_id = int(
                connection.execute(_INSERT_WRITER, self._info.columns()).lastrowid or 0
            )

    def _identities(
        self, connection: sqlite3.Connection, groups: Sequence[Intervals]
    ) -> list[dict[str, str]]:
        """Return the entries of each group by the writer's uuid, such as "1-3,7".

        One query, streamed: a group may be of any size.
        """
        found: list[dict[int, list[tuple[int, int]]]] = [{} for _ in groups]
        wanted = _encode(
            [
                (number, *interval)
                for number, intervals in enumerate(groups)
                for interval in intervals
            ]
        )
        rows = connection.execute(
            "SELECT json_extract(i.value, '$[0]'), e.writer_id, e.writer_seq "
            "FROM json_each(?) i CROSS JOIN entry e "
            "ON e.seq BETWEEN json_extract(i.value, '$[1]') AND json_extract(i.value, '$[2]')",
            (wanted,),
        )
        for number, writer_id, writer_seq in rows:
            if type(writer_seq) is not int:
                # In a crafted journal: it has no place to name.
                continue
            extend(found[number].setdefault(writer_id, []), writer_seq, writer_seq)
        return [
            {
                self._uuid(connection, writer_id): as_text(runs)
                for writer_id, runs in by_writer.items()
            }
            for by_writer in found
        ]

    def _named(self, connection: sqlite3.Connection, runs: Sequence[Run]) -> dict[str, str]:
        """Return the same as ``_identities`` for entries whose places are known."""
        by_writer: dict[int, list[tuple[int, int]]] = {}
        for writer_id, first, last in runs:
            # Another writer's entries may have come in between.
            extend(by_writer.setdefault(writer_id, []), first, last)
        return {
            self._uuid(connection, writer_id): as_text(mine)
            for writer_id, mine in by_writer.items()
        }

    def _uuid(self, connection: sqlite3.Connection, writer_id: int) -> str:
        uuid = self._uuids.get(writer_id)
        if uuid is None:
            row = connection.execute(
                "SELECT uuid FROM writer WHERE id = ?", (writer_id,)
            ).fetchone()
            uuid = self._uuids[writer_id] = str(row[0]) if row else f"unknown-{writer_id}"
        return uuid

    def _name(self, connection: sqlite3.Connection, component_id: int | None) -> str | None:
        if component_id not in self._names:
            row = connection.execute(
                "SELECT name FROM component WHERE id = ?", (component_id,)
            ).fetchone()
            self._names[component_id] = str(row[0]) if row else None
        return self._names[component_id]


class Attestor(Scribe):
    """Write transactions and their attestations, as the holder of the lease.

    Args:
        database: Of the journal.
        lease: The caller holds it while this is used.
        clock_ns: Nanoseconds since the epoch.
    """

    def __init__(
        self, database: Database, lease: Lease, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(clock_ns)
        self.database = database
        self.lease = lease

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Record everything inside the block, or nothing. Check the lease first.

        Raises:
            LeaseLostError: Another process took it over.
        """
        try:
            with self.database.transaction() as connection:
                self.lease.check(connection)
                yield connection
        except BaseException:
            self._unsure = True
            raise

    def decide(
        self,
        connection: sqlite3.Connection,
        action: str,
        outcome: str,
        component_id: int | None,
        entries: Intervals,
        settled: Sequence[Settled] = (),
        *,
        at_ns: int | None = None,
        attempts: int = 0,
        **members: Any,  # noqa: ANN401 - others of the statement's
    ) -> Statement:
        """Record a decision or a finding, with a receipt that is finished at once.

        Call it inside a transaction. The arguments are members of ``Statement``. ``at_ns`` is
        when, nanoseconds since the epoch. None: now.
        """
        now_ns = self.clock_ns() if at_ns is None else at_ns
        said = Statement(
            action,
            outcome,
            component_id,
            entries,
            now_ns,
            self.lease.generation,
            settled,
            started_at_ns=now_ns,
            attempts=attempts,
            **members,
        )
        said = said._replace(receipt_id=insert_receipt(connection, said))
        self.attest(connection, [said])
        return said


def insert_receipt(connection: sqlite3.Connection, said: Statement) -> int:
    """Record a finished receipt, and return its id. Call it inside a transaction."""
    columns = (
        *(
            said.action,
            said.component_id,
            as_text(said.entries),
            said.generation,
            said.started_at_ns,
            said.finished_at_ns,
        ),
        *(said.outcome, said.attempts, said.request_id, said.error_code, said.error_text),
    )
    return int(connection.execute(_INSERT_RECEIPT, columns).lastrowid or 0)


class Turns:
    """Make short transactions of an attestor, and choose how much each takes.

    Attributes:
        size: Rows for the next transaction.
    """

    def __init__(self, attestor: Attestor) -> None:
        self.size = _FIRST
        self._attestor = attestor
        self._ended = 0.0

    def pages(self, rows: Iterable[T]) -> Iterator[list[T]]:
        """Yield the rows in pages, each as large as the next transaction should take."""
        left = iter(rows)
        while page := list(itertools.islice(left, self.size)):
            yield page

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Begin a transaction a while after the last one, then choose the next size.

        Raises:
            LeaseLostError: Another process took the lease over.
        """
        left_s = self._ended + PAUSE_S - time.monotonic()
        # Preparing the rows may have been pause enough.
        if left_s > 0:
            time.sleep(left_s)
        with self._attestor.transaction() as connection:
            # The wait for others does not count: it says nothing about the size.
            began = time.monotonic()
            yield connection
        self._ended = time.monotonic()
        self.size = max(
            _MIN,
            min(int(self.size * min(2.0, TRANSACTION_S / max(self._ended - began, 1e-4))), _MAX),
        )
