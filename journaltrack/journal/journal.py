"""Open a journal and read it: an append-only log of calls in one SQLite file.

Artifact bytes are beside that file. ``append`` records entries; ``outcomes`` records what a replay
did. Must not know AWS, boto3, the tracker or the reconciler.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from journaltrack.errors import InvalidInputError, JournalError, JournalWriteError
from journaltrack.journal import first_steps, vocabulary
from journaltrack.journal.append import Appender, OnJournalError
from journaltrack.journal.queries import UNSETTLED
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.connection import BUSY_TIMEOUT_S, Database, Durability
from journaltrack.journal.vocabulary import Draft, Entry
from journaltrack.util import paths

__all__ = ["ComponentRow", "Journal", "LastStatus", "OnJournalError"]

logger = logging.getLogger(__name__)

SELECT_ENTRY: Final = (
    "SELECT e.seq, e.writer_id, e.writer_seq, c.id, c.name, e.stream, e.kind, e.name, "
    "e.value, e.step, e.timestamp_ns, e.payload, e.recorded_at_ns, e.digest "
    "FROM entry e JOIN component c ON c.id = e.component_id "
)

_STATUSES_MAX: Final = 100
"""How many status entries are read at most. All that a journaltrack writes have a status."""
_ANY_OF_COMPONENT: Final = (
    "SELECT 1 FROM entry WHERE component_id = ? AND stream <> 'metric' LIMIT 1"
)


class ComponentRow(NamedTuple):
    """A trial component in the journal.

    ``arn`` and ``confirmed_at_ns`` are None until a replay confirmed the component.
    """

    id: int
    name: str
    arn: str | None
    confirmed_at_ns: int | None


class LastStatus(NamedTuple):
    """A component's last recorded status, and the writer that recorded it."""

    seq: int
    writer_id: int
    primary: str

    @property
    def in_progress(self) -> bool:
        """Return whether the run is not over, according to the journal."""
        return self.primary == "InProgress"

    def is_begun_by(self, writer_id: int) -> bool:
        """Return whether that writer began a run that is not over."""
        return self.in_progress and self.writer_id == writer_id


class Journal(Appender):
    """An open journal. It is thread-safe.

    Every process opens its own. A forked child does so by itself.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_journal_error: OnJournalError = "buffer",
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        revision: str = schema.HEAD,
    ) -> None:
        """Use ``Journal.open``."""
        super().__init__(database, on_journal_error, clock_ns, monotonic, revision)
        # Contents that this process added, and that need not be on the disk yet.
        self._unsynced: set[str] = set()
        _all_open.add(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "process",
        on_journal_error: OnJournalError = "buffer",
        create: bool = True,
        read_only: bool = False,
        at_rest: bool = False,
        appending: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        clock_ns: Callable[[], int] = time.time_ns,
        host: str | None = None,
    ) -> Journal:
        """Open a journal. Create a missing one, and upgrade an older one after a backup.

        Args:
            path: The journal's folder. None means the default journal
                (``journaltrack.util.paths.default_journal``).
            durability: With ``"process"``, a returned call survives SIGKILL. With ``"power"``, it
                also survives loss of power, for one disk barrier per call.
            on_journal_error: If the journal refuses an entry (disk full, locked), ``"buffer"``
                keeps it in memory and writes it as soon as possible; ``"raise"`` raises.
            create: Create the journal if there is none.
            read_only: Only read: create, upgrade and lock nothing. An older journal is read from a
                private, upgraded copy.
            at_rest: See ``Database``.
            appending: Only append, as a tracker does. An older journal that can't be upgraded now
                (no room for the backup) is used as it is.
            busy_timeout_s: How long to wait for another process's transaction, in seconds.
            clock_ns: Returns nanoseconds since the epoch.
            host: What is recorded in place of this machine's name. Entries of one name are in the
                order of the journal, those of several in the order of their times.

        Raises:
            InvalidInputError: ``durability`` or ``on_journal_error`` is unknown.
            JournalNotFoundError: There is no journal and ``create`` is false.
            NotAJournalError: Something else is there.
            JournalTooNewError: A newer version wrote it. No changes were made.
            JournalOutdatedError: With ``read_only``: an older version wrote it, and there is no
                room for a copy.
            JournalCorruptError: The file is damaged. No changes were made.
            JournalWriteError: The folder can't be written.
        """
        if durability not in {"process", "power"} or on_journal_error not in {"buffer", "raise"}:
            raise InvalidInputError(
                f"durability={durability!r}, on_journal_error={on_journal_error!r}: not both known",
                hint='durability is "process" or "power", on_journal_error is "buffer" or "raise"',
            )
        folder = paths.journal_folder(path)
        file = folder / paths.DATABASE
        create = create and not read_only
        first_steps.prepare(folder, file, create=create)
        with first_steps.recognizing_newer(file):
            database = Database(
                file,
                durability=durability,
                read_only=read_only,
                at_rest=at_rest,
                busy_timeout_s=busy_timeout_s,
            )
            try:
                revision = first_steps.bring_up_to_date(
                    database, clock_ns, create=create, appending=appending
                )
                opened = cls(
                    database,
                    on_journal_error=on_journal_error,
                    clock_ns=clock_ns,
                    revision=revision,
                )
                opened._inserter.host = host
            except BaseException:
                database.close()
                raise
            return opened

    def __fspath__(self) -> str:
        """Return the journal's folder, so that an open journal is also a path."""
        return os.fspath(self.path)

    # -- writing ---------------------------------------------------------------------------

    def component(self, name: str) -> int:
        """Return the local id of a component, and record the component if it is new.

        The name is case-insensitive.

        Raises:
            JournalWriteError: It is new, and the journal can't be written.
        """
        row = self.find(name)
        if row is None:
            columns = (name, self._clock_ns())
            sql = "INSERT OR IGNORE INTO component (name, created_at_ns) VALUES (?, ?)"
            self.database.write(lambda c: c.execute(sql, columns))
            row = self.find(name)
        if row is None:  # pragma: no cover - the row was just written
            raise JournalWriteError(f"the component {name} could not be recorded")
        self._inserter.names[row.id] = row.name
        return row.id

    def append_first(self, component_id: int, drafts: Sequence[Draft]) -> bool:
        """Record a component's first calls, unless it has some.

        If several processes try, only one succeeds. A component without an entry belongs to no
        process: its creator was killed, or has not recorded the entry yet.

        Returns:
            Whether the calls were the first. If not, nothing was recorded.

        Raises:
            JournalWriteError: See ``append``.
        """
        with self.database.lock:
            if any(
                entry.component_id == component_id for entry in self._inserter.waiting_entries()
            ):
                return False
            return self.append_if(
                lambda: not self.database.read(_ANY_OF_COMPONENT, (component_id,)),
                component_id,
                drafts,
            )

    def renew_blob(self, sha256: str) -> None:
        """Announce that a content will be in the spool again.

        From now on, processes that remove delivered contents keep this one.
        """
        columns = (self._clock_ns(), sha256)
        sql = "UPDATE blob SET spooled_at_ns = ? WHERE sha256 = ?"
        self.database.write(lambda connection: connection.execute(sql, columns))

    @property
    def waits_for_disk(self) -> bool:
        """Return whether a call returns only when it is on the disk."""
        return self.database.durability == "power" or not self.database.wal

    def add_blob(self, sha256: str, size_bytes: int) -> None:
        """Record that the spool has a content. ``flush`` waits until it is on the disk."""
        if not self.waits_for_disk:
            self._unsynced.add(sha256)
        columns = (sha256, size_bytes, self._clock_ns())
        sql = "INSERT OR IGNORE INTO blob VALUES (?, ?, ?)"
        self.database.write(lambda connection: connection.execute(sql, columns))

    def flush(self, *, patience_s: float = 0.0) -> None:
        """Do what ``Appender.flush`` does, and wait for the contents of artifacts first."""
        if self._unsynced:
            from journaltrack.journal.spool.spool import Spool  # noqa: PLC0415 - few log files

            digests = tuple(self._unsynced)
            Spool(self.path / paths.SPOOL).sync(digests)
            self._unsynced.difference_update(digests)
        super().flush(patience_s=patience_s)

    def close(self) -> None:
        """Flush and close. Idempotent.

        Raises:
            JournalWriteError: See ``flush``. The journal stays open then.
        """
        if self.database.closed or self.postpone(self.close):
            return
        if not self.database.read_only:
            self.save()
        self._checkpointer.wait()
        self._leave()
        self.database.close()

    def rest(self) -> None:
        """Close the connection until its next use. Call ``flush`` before.

        What is appended afterwards belongs to a new writer.
        """
        if self.postpone(self.rest):
            return
        self._checkpointer.wait()
        self._leave()
        self.database.rest()

    def _leave(self) -> None:
        """End this writer.

        While a run that it began is in progress, its file stays: it names the process whose death
        interrupts the run.
        """
        with self.database.lock:
            life, writer_id = self._inserter.end()
            if life is None:
                return
            try:
                statuses = [self.last_status(component_id) for component_id in life.components]
                left = any(
                    status is not None and status.is_begun_by(writer_id) for status in statuses
                )
            except JournalError:
                left = True
            if left:
                life.leave()
            else:
                life.end(self.path)

    # -- reading ---------------------------------------------------------------------------

    def find(self, name: str) -> ComponentRow | None:
        """Return the component of that name, case-insensitive, or None."""
        rows = self.database.read(
            "SELECT id, name, arn, confirmed_at_ns FROM component WHERE name = ?",
            (name.encode("utf-8", "replace").decode(),),
        )
        return _component_row(rows[0]) if rows else None

    def runs(self) -> list[ComponentRow]:
        """Return the components, without the rows that stand for experiments and trials."""
        from journaltrack.journal.groups import is_run  # noqa: PLC0415 - no tracker needs it

        return [row for row in self.components() if is_run(row.name)]

    def components(self) -> list[ComponentRow]:
        """Return all components, in the order in which they were recorded.

        Also the rows that stand for experiments and trials, see ``groups``.
        """
        rows = self.database.read(
            "SELECT id, name, arn, confirmed_at_ns FROM component ORDER BY id"
        )
        return [_component_row(row) for row in rows]

    def state_entries(self, component_id: int) -> list[Entry]:
        """Return all entries of a component except metrics, in order.

        The time does not depend on the number of metrics.
        """
        sql = SELECT_ENTRY + "WHERE e.component_id = ? AND e.stream <> 'metric' ORDER BY e.seq"
        written = [vocabulary.entry_of(row) for row in self.database.read(sql, (component_id,))]
        with self.database.lock:
            waiting = [
                e for e in self._inserter.waiting_entries() if e.component_id == component_id
            ]
        return written + [e for e in waiting if e.stream != vocabulary.METRIC]

    def last_status(self, component_id: int) -> LastStatus | None:
        """Return the last status that was set for the component, or None.

        One that was recorded for a silent node does not hide what that node recorded later.
        The time grows with the component's calls since then, without metrics.
        """
        of_component = "e.component_id = ? AND e.stream <> 'metric' AND e.kind = 'status'"
        sql = f"{SELECT_ENTRY}WHERE {of_component} ORDER BY e.seq DESC LIMIT ?"
        said: Entry | None = None
        silence: Entry | None = None
        for entry in map(
            vocabulary.entry_of, self.database.read(sql, (component_id, _STATUSES_MAX))
        ):
            if vocabulary.primary_status(entry) is None:
                continue
            if vocabulary.silence_of(entry) is None:
                said = entry
                break
            # Recorded for a silent node, by a reader of its mirror: the last one counts.
            silence = silence or entry
        if silence is not None:
            repeats = (vocabulary.silence_of(silence) or {}).get("again")
            if said is None or (not repeats and said.recorded_at_ns < silence.recorded_at_ns):
                said = silence
        if said is None:
            return None
        return LastStatus(said.seq, said.writer_id, vocabulary.primary_status(said) or "")

    def last_seq(self) -> int:
        """Return the newest entry's ``seq``; 0 if there is none."""
        return int(self.database.read("SELECT coalesce(max(seq), 0) FROM entry")[0][0])

    def entries(
        self, *, after_seq: int = 0, pending: bool = False, limit: int = 10_000
    ) -> list[Entry]:
        """Return one page of entries, in order of ``seq``.

        Args:
            after_seq: The last ``seq`` of the page before.
            pending: Only entries that are not settled.
            limit: Number of entries per page.
        """
        settled = f"AND {UNSETTLED} " if pending else ""
        sql = f"{SELECT_ENTRY}WHERE e.seq > ? {settled}ORDER BY e.seq LIMIT ?"
        return [
            vocabulary.entry_of(row) for row in self.database.read_page(sql, (after_seq, limit))
        ]


def _component_row(row: tuple[Any, ...]) -> ComponentRow:
    """Return a row with the right types: SQLite keeps any type in any column."""
    component_id, name, arn, confirmed_at_ns = row
    return ComponentRow(
        component_id,
        name if isinstance(name, str) else repr(name),
        arn if isinstance(arn, str) else None,
        confirmed_at_ns if isinstance(confirmed_at_ns, int) else None,
    )


_all_open: weakref.WeakSet[Journal] = weakref.WeakSet()


def appending_in(folder: Path) -> list[Journal]:
    """Return the journals in or below a folder that this process appends to."""
    return [
        journal
        for journal in list(_all_open)
        if not journal.database.closed
        and journal.writer_uuid is not None
        and journal.path.is_relative_to(folder)
    ]


@atexit.register
def _write_at_exit() -> None:
    """Save what waits in memory or is in deleted files, after a script without ``close``."""
    for journal in list(_all_open):
        if not journal.database.closed and (
            journal.unwritten or (journal.writer_uuid is not None and journal.database.moved())
        ):
            try:
                journal.save()
            except JournalError as error:
                logger.error("%s", error)  # noqa: TRY400 - a traceback says nothing here
