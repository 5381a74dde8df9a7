"""Insert calls into a journal, as the next entries of this process's chain.

Each process that appends is a *writer* with a dense ``writer_seq`` and a chain of digests. A forked
child is a writer of its own. A call gets its places when it is written, not before. So calls that
wait in memory have none, and are lost if the process ends before they are written.

Invariants: what the journal holds and ``Inserter.head`` agree, or ``Inserter.is_unsure`` says that
it must be looked up. Adding or removing a waiting call is one step of the interpreter, so no
exception and no signal handler finds a part of a call. Must not know why a call waits, or when to
try again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalError, JournalWriteError, described
from journaltrack.journal import provenance, vocabulary, writers
from journaltrack.journal.schema import check, schema
from journaltrack.journal.sqlite.errors import REFUSED, is_about_values, translated
from journaltrack.journal.vocabulary import Draft, Entry

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.journal.writers import WriterLife

_Row: TypeAlias = tuple[Draft, int, int, int, bytes]
"""A draft with its ``writer_seq``, its component's id, when it was recorded, and its digest."""
POINTS_AT_ONCE: Final = 64
"""Our limit: rows of one call by one statement. More go row by row."""
_CALLS_AT_ONCE_MAX: Final = 1 << 20
INSERT_ENTRY: Final = schema.insert_sql("entry")
# What is the same for all points costs nothing to bind.
_INSERT_METRIC: Final = (
    "INSERT INTO entry (writer_id, writer_seq, component_id, stream, kind, name, value, step, "
    "timestamp_ns, recorded_at_ns, digest) VALUES (?, ?, ?, 'metric', 'metric', ?, ?, ?, ?, ?, ?)"
)
# As above: nor does what no parameter has.
_INSERT_PARAMETER: Final = (
    "INSERT INTO entry (writer_id, writer_seq, component_id, stream, kind, name, value, payload, "
    "recorded_at_ns, digest) VALUES (?, ?, ?, 'component', 'parameter', ?, ?, ?, ?, ?)"
)
_INSERT_SETTLED: Final = (
    "INSERT INTO delivery (seq, outcome, reason, settled_at_ns) VALUES (?, ?, ?, ?)"
)
_RENEW_OF_UPLOAD: Final = (
    "UPDATE blob SET spooled_at_ns = ? WHERE sha256 = json_extract(?, '$.sha256')"
)


@functools.cache
def _repeated(insert: str, count: int) -> str:
    """Build one INSERT for several rows: half the time of as many statements."""
    before, _, row = insert.partition(" VALUES ")
    return f"{before} VALUES {', '.join([row] * count)}"


def _is_plain(draft: Draft) -> bool:
    """Return whether a draft becomes one row and nothing beside it."""
    return vocabulary.settled_at_once(draft) is None and draft.stream != vocabulary.UPLOAD


def _statement(writer_id: int, rows: Sequence[_Row]) -> tuple[str, list[Any]] | None:
    """Return one INSERT for all rows, and its parameters; None: it takes several statements."""
    if not 0 < len(rows) <= POINTS_AT_ONCE:
        return None
    given: list[Any] = []
    if all(row[0].kind == vocabulary.PARAMETER and row[0].undeliverable is None for row in rows):
        insert = _INSERT_PARAMETER
        for draft, place, component_id, at_ns, digest in rows:
            _, _, name, value, _, _, payload, _ = draft
            given += (writer_id, place, component_id, name, value, payload, at_ns, digest)
    elif all(_is_plain(row[0]) for row in rows):
        insert = INSERT_ENTRY
        for row in rows:
            given += _columns(writer_id, row)
    else:
        return None
    return _repeated(insert, len(rows)), given


def _columns(writer_id: int, row: _Row) -> tuple[Any, ...]:
    draft, place, component_id, at_ns, digest = row
    return (writer_id, place, component_id, *draft[:7], at_ns, digest)


class UnmetError(Exception):
    """The condition of a call does not hold."""


class Call(NamedTuple):
    """A call to record: all its drafts, or none.

    Attributes:
        component_id: The component's id.
        drafts: The entries to record.
        at_ns: The time of the call, nanoseconds since the epoch, UTC.
        condition: Checked in the transaction that records the call. If it is false, nothing is
            recorded.
    """

    component_id: int
    drafts: tuple[Draft, ...]
    at_ns: int
    condition: Callable[[], bool] | None = None


def points_call(
    component_id: int,
    points: Sequence[tuple[str, float]],
    step: int | None,
    timestamp_ns: int,
    now_ns: int,
) -> Call:
    """Return the call that records points of metrics, each given by name and value."""
    drafts = [
        Draft("metric", "metric", name, float(value), step, timestamp_ns) for name, value in points
    ]
    return Call(component_id, tuple(drafts), now_ns)


class Waiting(deque[Call]):
    """The calls that wait in memory, in order.

    Attributes:
        generation: The process that they belong to (``Database.generation``).
        entries: Number of their entries.
    """

    def __init__(self, generation: int) -> None:
        super().__init__()
        self.generation = generation
        self.entries = 0

    def add(self, call: Call, generation: int) -> None:
        """Add a call of this process.

        Raises:
            InvalidInputError: The call alone has too many entries. It was not added.
            JournalWriteError: Too many entries wait. This call was not added.
        """
        self.follow_fork(generation)
        count, most = len(call.drafts), limits.BUFFERED_ENTRIES_MAX
        if count > most:
            raise InvalidInputError(
                f"this call has {count} entries, and one call takes at most {most}; nothing of it "
                "was recorded",
                hint="record them in several calls; log_dict keeps any number in one file",
            )
        if self.entries + count > most:
            raise JournalWriteError(
                f"this call was not recorded: {self.entries} entries wait in memory, the limit",
                hint="free space on its disk, or end the process that locks it",
                unwritten=self.entries,
            )
        self.append(call)
        self.entries += count

    def first(self, count: int) -> tuple[Call, ...]:
        """Return the first calls, ``count`` at most."""
        while True:
            # A signal handler may add a call meanwhile: then try again.
            with contextlib.suppress(RuntimeError):
                return tuple(islice(self, count))

    def forget(self, *calls: Call) -> bool:
        """Remove calls, and return whether the last one was still waiting."""
        found = False
        for call in calls:
            found = call in self
            if found:
                self.remove(call)
        self.count_again()
        return found

    def count_again(self) -> None:
        """Count the entries again: an interruption may have left a wrong number."""
        self.entries = sum(len(call.drafts) for call in tuple(self))

    def follow_fork(self, generation: int) -> None:
        """Forget the parent's calls in a forked child: they are the parent's to write."""
        if self.generation != generation:
            self.clear()
            self.entries = 0
            self.generation = generation


class _Attempt(NamedTuple):
    """A transaction that may have been committed: the ``writer_seq`` before it, and its calls."""

    writer_seq: int
    calls: tuple[Call, ...]


class Inserter:
    """This process as a writer of a journal. Hold the database's lock.

    Args:
        database: The journal's database.
        journal_id: The journal's identity.
        waiting: Loses the calls that are found to be recorded.
        clock_ns: Returns nanoseconds since the epoch.
        revision: The journal's schema. An older one is appended to as its own version did.

    Attributes:
        head: The last ``writer_seq`` and digest of the chain: one value, which no signal can split.
        is_unsure: ``head`` need not be what the journal holds.
        writer_id: The writer's id; 0 until it is recorded, with its first entries.
        writer: Describes this process; None before its first append.
        generation: The process that the writer is, see ``Database.generation``.
        host: What the writer has in place of this machine's name; None: nothing.
        names: Names of components, by id.
        metric_texts: By component and name: what the encodings of all points of a metric share.
    """

    def __init__(
        self,
        database: Database,
        journal_id: str,
        waiting: Waiting,
        clock_ns: Callable[[], int],
        revision: str,
    ) -> None:
        self.head: tuple[int, bytes] = (0, b"")
        self.is_unsure = False
        self.writer_id = 0
        self.writer: provenance.WriterInfo | None = None
        self.generation = -1
        self.host: str | None = None
        self.names: dict[int, str] = {}
        self.metric_texts: defaultdict[int, dict[str, str]] = defaultdict(dict)
        self._database = database
        self._journal_id = journal_id
        self._waiting = waiting
        self._clock_ns = clock_ns
        # For ever: what a newer schema adds may be left out.
        self._revision = revision
        self._life: WriterLife | None = None
        self._attempt: _Attempt | None = None
        self._calls_at_once = _CALLS_AT_ONCE_MAX

    # -- the writer --------------------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Return whether this process, not its parent, is a writer."""
        return self.writer is not None and self.generation == self._database.generation

    def start(self) -> None:
        """Make this process a writer: at its first append, and in a forked child."""
        now_ns = min([self._clock_ns(), *(call.at_ns for call in self._waiting.first(1))])
        info = provenance.describe_process(
            now_ns, self._journal_id, revision=self._revision, host=self.host
        )
        self.writer = info
        self.writer_id = 0
        self.head = (0, info.digest)
        self.is_unsure, self._attempt = False, None
        self._life = writers.hold(self._database.path.parent, info.uuid)
        # Made again, each joins its component.
        self.metric_texts.clear()
        self._database.append_beside_others()
        # Last: an interruption before it lets the next append start again.
        self.generation = self._database.generation

    def end(self) -> tuple[WriterLife | None, int]:
        """End this writer, if others can tell that it lives. The next append starts another one.

        Returns:
            Its lock, which the caller gives back, or None; its id.
        """
        ended = self._life, self.writer_id
        if self._life is not None:
            self._life, self.writer, self.writer_id = None, None, 0
        return ended

    def component_name(self, component_id: int) -> str:
        """Return a component's name, and note that the writer appends to it."""
        if self._life is not None:
            self._life.join(component_id)
        name = self.names.get(component_id)
        if name is None:
            rows = self._database.read("SELECT name FROM component WHERE id = ?", (component_id,))
            name = self.names[component_id] = str(rows[0][0])
        return name

    def look_up(self) -> None:
        """Find out what the journal holds, if that is unsure.

        It is after an interruption, or an attempt that failed but may have been committed.

        Raises:
            JournalError: It can't be read.
        """
        if not self.is_unsure:
            return
        with translated(self._database.path):
            self._database.roll_back()
        if self.writer is not None:
            recorded = self._database.read(
                "SELECT id FROM writer WHERE uuid = ?", (self.writer.uuid,)
            )
            self.writer_id = recorded[0][0] if recorded else 0
            rows = self._database.read(
                "SELECT writer_seq, digest FROM entry WHERE writer_id = ? ORDER BY seq DESC "
                "LIMIT 1",
                (self.writer_id,),
            )
            attempt = self._attempt
            if rows and attempt is not None and rows[0][0] > attempt.writer_seq:
                self._waiting.forget(*attempt.calls)
            # What was delivered and removed leaves the head as it was.
            if rows and rows[0][0] > self.head[0]:
                self.head = (rows[0][0], bytes(rows[0][1]))
        self._attempt = None
        self.is_unsure = False

    # -- one point, or some: the hot path ----------------------------------------------------------

    def insert_point(
        self,
        component_id: int,
        name: str,
        middle: str,
        value: float,
        step: int | None,
        timestamp_ns: int,
        now_ns: int,
    ) -> Call | None:
        """Insert a point as a transaction of its own.

        Args:
            component_id: The component's id.
            name: The metric's name.
            middle: Of ``metric_texts``.
            value: Finite.
            step: The step, or None.
            timestamp_ns: The point's time.
            now_ns: When it was recorded.

        Returns:
            The call if the driver refused it, for ``insert_waiting``; None if it is recorded.
        """
        value = float(value)
        writer_seq, digest = self.head
        writer_seq += 1
        digest = vocabulary.chain_next_metric(
            digest, writer_seq, middle, value, step, timestamp_ns, now_ns
        )
        try:
            self._database.connection.execute(
                _INSERT_METRIC,
                (
                    self.writer_id,
                    writer_seq,
                    component_id,
                    name,
                    value,
                    step,
                    timestamp_ns,
                    now_ns,
                    digest,
                ),
            )
        except REFUSED:
            return self._refused(component_id, ((name, value),), step, timestamp_ns, now_ns)
        self.head = (writer_seq, digest)
        return None

    def insert_points(
        self,
        component_id: int,
        points: Sequence[tuple[str, float]],
        middles: Sequence[str | None],
        step: int | None,
        timestamp_ns: int,
        now_ns: int,
    ) -> Call | None:
        """Insert points of several metrics by one statement, as ``insert_point`` does one."""
        writer_seq, digest = self.head
        writer_id, columns = self.writer_id, list[Any]()
        digests = vocabulary.chain_next_metrics(
            digest,
            writer_seq + 1,
            [(middle or "", value) for middle, (_, value) in zip(middles, points, strict=True)],
            step,
            timestamp_ns,
            now_ns,
        )
        for (name, value), digest in zip(points, digests, strict=True):
            writer_seq += 1
            columns += (
                writer_id,
                writer_seq,
                component_id,
                name,
                value,
                step,
                timestamp_ns,
                now_ns,
                digest,
            )
        try:
            self._database.connection.execute(_repeated(_INSERT_METRIC, len(points)), columns)
        except REFUSED:
            return self._refused(component_id, points, step, timestamp_ns, now_ns)
        self.head = (writer_seq, digest)
        return None

    def _refused(
        self,
        component_id: int,
        points: Sequence[tuple[str, float]],
        step: int | None,
        timestamp_ns: int,
        now_ns: int,
    ) -> Call:
        """Return the call of points that were refused, but may have taken effect."""
        call = points_call(component_id, points, step, timestamp_ns, now_ns)
        self._attempt = _Attempt(self.head[0], (call,))
        self.is_unsure = True
        return call

    # -- calls -------------------------------------------------------------------------------------

    def insert_at_once(self, call: Call) -> bool:
        """Insert a call as a transaction of its own, if one statement can; see ``insert_point``.

        Returns:
            Whether it is recorded. If not, it is for ``insert_waiting``.
        """
        rows, head = self._placed((call,))
        statement = _statement(self.writer_id, rows)
        if statement is None:
            return False
        try:
            self._database.connection.execute(*statement)
        except REFUSED:
            self._attempt = _Attempt(self.head[0], (call,))
            self.is_unsure = True
            return False
        self.head = head
        self._keep_texts(call)
        return True

    def insert_waiting(self, own: Call | None, log: Callable[..., None]) -> None:
        """Insert the calls that wait, in order, and forget them.

        They go in one transaction; after a failure, in smaller ones.

        Args:
            own: The caller's own call. Its error is raised; any other call that can't be recorded
                is left out.
            log: Takes a level, a text and its arguments.

        Raises:
            JournalError: The journal refuses.
            Exception: ``own`` can't be recorded, for its own reason.
        """
        while self._waiting:
            if not self.is_started:
                self.start()
            self.look_up()
            calls = self._waiting.first(self._calls_at_once)
            if not calls:
                return
            try:
                self._insert(calls)
            except BaseException as error:
                self.is_unsure = True
                if is_about_values(error) or isinstance(error, UnmetError):
                    # Find out which.
                    if len(calls) > 1:
                        self._calls_at_once = 1
                        continue
                    self._waiting.forget(calls[0])
                    if calls[0] is own:
                        raise
                    log(
                        logging.ERROR,
                        "a call that waited in memory can't be recorded (%s); it is left out",
                        described(error),
                    )
                    continue
                self._calls_at_once = max(1, min(self._calls_at_once, len(calls)) // 2)
                explained = self._explained(error)
                # Also what a signal handler raises.
                if explained is error:
                    raise
                raise explained from error
            self._calls_at_once = min(2 * self._calls_at_once, _CALLS_AT_ONCE_MAX)

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, MemoryError):
            return JournalWriteError(
                f"no memory is left to record in the journal at {self._database.path.parent}",
                hint="free memory; what waits is written then",
            )
        if isinstance(error, JournalError):
            return check.why_refused(error, self._database)
        return error

    def _insert(self, calls: tuple[Call, ...]) -> None:
        """Give calls their places, write them in one transaction, and forget them."""
        rows, head = self._placed(calls)

        def insert(connection: sqlite3.Connection) -> int:
            """Write the rows, and return the writer's id."""
            if not all(call.condition is None or call.condition() for call in calls):
                raise UnmetError
            writer_id = self.writer_id or self._insert_writer(connection)
            statement = _statement(writer_id, rows)
            if statement is not None:
                connection.execute(*statement)
                return writer_id
            for row in rows:
                draft, _, _, at_ns, _ = row
                seq = connection.execute(INSERT_ENTRY, _columns(writer_id, row)).lastrowid
                if draft.stream == vocabulary.UPLOAD:
                    connection.execute(_RENEW_OF_UPLOAD, (at_ns, draft.payload))
                settled = vocabulary.settled_at_once(draft)
                if settled is not None:
                    connection.execute(_INSERT_SETTLED, (seq, *settled, at_ns))
            return writer_id

        self._attempt = _Attempt(self.head[0], calls)
        self.writer_id = self._database.write(insert)
        self.head = head
        self._waiting.forget(*calls)
        self._attempt = None
        for call in calls:
            self._keep_texts(call)

    def _placed(self, calls: tuple[Call, ...]) -> tuple[list[_Row], tuple[int, bytes]]:
        """Return the drafts with their places in the chain, and the head after them."""
        writer_seq, digest = self.head
        rows: list[_Row] = []
        for call in calls:
            name = self.component_name(call.component_id)
            digests = vocabulary.chain_next_entries(
                digest, writer_seq + 1, name, call.drafts, call.at_ns
            )
            for draft, digest in zip(call.drafts, digests, strict=True):
                writer_seq += 1
                rows.append((draft, writer_seq, call.component_id, call.at_ns, digest))
        return rows, (writer_seq, digest)

    def _insert_writer(self, connection: sqlite3.Connection) -> int:
        assert self.writer is not None  # noqa: S101 - it was started
        sql = schema.insert_writer_sql(self._revision)
        return int(connection.execute(sql, self.writer.columns(self._revision)).lastrowid or 0)

    def _keep_texts(self, call: Call) -> None:
        for draft in call.drafts:
            if draft.kind != vocabulary.METRIC:
                continue
            texts, name = self.metric_texts[call.component_id], draft.name or ""
            if name not in texts:
                texts[name] = vocabulary.metric_text(self.component_name(call.component_id), name)

    def waiting_entries(self) -> Iterator[Entry]:
        """Yield the entries that wait, as entries without a place."""
        for call in tuple(self._waiting):
            name = self.names.get(call.component_id, "")
            for draft in call.drafts:
                yield Entry(
                    0, self.writer_id, 0, call.component_id, name, *draft[:7], call.at_ns, b""
                )
