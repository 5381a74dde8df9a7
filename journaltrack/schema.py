"""The journal's schema: tables, triggers, creation in one transaction, upgrade after a backup.

One truth in SQLAlchemy Core, shared with Alembic: ``tests/migrations`` compares what ``create`` makes with what the
revisions in ``migrations/`` make, triggers included. Alembic is imported only to upgrade, since it costs 0.4 s.

Everything recorded is in ``entry``, which only grows. ``receipt`` and ``delivery`` say what became of it. The other
tables are what can be derived (``field``, ``location``, ``mark``) or belongs to the machinery (``lease``, ``meta``).
``attestation`` is the evidence for all of that: what each finished receipt says, in a chain of digests.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import re
import sqlite3
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, create_engine, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex, CreateTable

from journaltrack import limits
from journaltrack.entries import description_digest
from journaltrack.errors import JournalTooNewError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

UPGRADE_WAIT_S: Final = 600.0
"""How long a process waits for another one that upgrades the journal, backup included, seconds."""
HEAD: Final = "0002"
"""The revision that this code reads and writes; ``tests/migrations`` compares it with Alembic's head."""

metadata = MetaData()

entry = Table(
    "entry",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("writer_id", Integer, nullable=False),
    Column("writer_seq", Integer, nullable=False),
    Column("component_id", Integer, nullable=False),
    Column("stream", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text),
    Column("value", Float),
    Column("step", Integer),
    Column("timestamp_ns", Integer),
    Column("payload", Text),
    Column("recorded_at_ns", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
)
# Metrics are nearly all entries and are read in order of seq: an index that leaves them out costs their append nothing.
Index("entry_state", entry.c.component_id, entry.c.seq, sqlite_where=text("stream <> 'metric'"))

writer = Table(
    "writer",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uuid", Text, nullable=False, unique=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("user", Text, nullable=False),
    Column("program", Text, nullable=False),
    Column("started_at_ns", Integer, nullable=False),
    Column("package_version", Text, nullable=False),
    Column("python_version", Text, nullable=False),
    Column("git_commit", Text),
    # Since 0002; NULL in writers of 0001.
    Column("git_dirty", Integer),
    Column("packages", Text),
    Column("journal_id", Text),
    Column("digest", LargeBinary),
)

WRITER_COLUMNS: Final = tuple(column.name for column in writer.columns if column.name not in {"id", "digest"})
"""Of a writer, those that its digest is of, in this order."""

component = Table(
    "component",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text(collation="NOCASE"), nullable=False, unique=True),
    Column("created_at_ns", Integer, nullable=False),
    # What the remote told us: NULL until a replay confirmed that the component is there.
    Column("arn", Text),
    Column("confirmed_at_ns", Integer),
)

receipt = Table(
    "receipt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("action", Text, nullable=False),
    Column("component_id", Integer),
    Column("entries", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("started_at_ns", Integer, nullable=False),
    Column("finished_at_ns", Integer),
    Column("outcome", Text),
    Column("attempts", Integer),
    Column("request_id", Text),
    Column("error_code", Text),
    Column("error_text", Text),
)
Index("receipt_unfinished", receipt.c.id, sqlite_where=text("finished_at_ns IS NULL"))
Index("receipt_component", receipt.c.component_id, receipt.c.id)

delivery = Table(
    "delivery",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("receipt_id", Integer),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("settled_at_ns", Integer, nullable=False),
)
# Problems are few: status and retry find them without reading what was delivered.
Index("delivery_problem", delivery.c.outcome, delivery.c.seq, sqlite_where=text("outcome IN ('quarantined', 'in doubt')"))

attestation = Table(  # what a finished request or a decision says, chained per process and readable without this journal
    "attestation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("writer_id", Integer, nullable=False),
    Column("writer_seq", Integer, nullable=False),
    Column("receipt_id", Integer),
    Column("body", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
)
Index("attestation_chain", attestation.c.writer_id, attestation.c.writer_seq, unique=True)
Index("attestation_receipt", attestation.c.receipt_id)

blob = Table(
    "blob",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size_bytes", Integer, nullable=False),
    Column("spooled_at_ns", Integer, nullable=False),
)

location = Table(  # where a component's blob is in S3; bucket and prefix as asked for, '' for the default
    "location",
    metadata,
    Column("component_id", Integer, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("prefix", Text, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("receipt_id", Integer, nullable=False),
)

field = Table(  # the entry that the remote holds now for each key of a component, as far as this journal knows
    "field",
    metadata,
    Column("component_id", Integer, primary_key=True),
    Column("map", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
)

mark = Table(  # every entry up to seq is settled
    "mark",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", Text),
    Column("host", Text),
    Column("pid", Integer),
    Column("generation", Integer, nullable=False),
    Column("acquired_at_ns", Integer),
    Column("expires_at_ns", Integer),
)

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("journal_id", Text, nullable=False),
    Column("created_at_ns", Integer, nullable=False),
    Column("created_by_version", Text, nullable=False),
    Column("required_version", Text, nullable=False),
    # Since 0002: receipts up to this one, and settlements up to this time, are from before there were attestations.
    Column("attested_after_receipt", Integer),
    Column("attested_after_ns", Integer),
    Column("digest", LargeBinary),
)

TRIGGERS: Final = (
    "CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END",
    "CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END",
    "CREATE TRIGGER writer_no_update BEFORE UPDATE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END",
    "CREATE TRIGGER writer_no_delete BEFORE DELETE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END",
    "CREATE TRIGGER attestation_no_update BEFORE UPDATE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END",
    "CREATE TRIGGER attestation_no_delete BEFORE DELETE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END",
    "CREATE TRIGGER receipt_no_delete BEFORE DELETE ON receipt BEGIN SELECT RAISE(ABORT, 'receipts are kept'); END",
    (
        "CREATE TRIGGER receipt_settled_once BEFORE UPDATE ON receipt WHEN OLD.finished_at_ns IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'a finished receipt is immutable'); END"
    ),
)
"""Guards against our own mistakes and other people's scripts; they cost an INSERT nothing."""

_DIALECT = sqlite.dialect()


def ddl() -> list[str]:
    """Every statement that makes the schema of ``HEAD``, in order."""
    statements = [str(CreateTable(table).compile(dialect=_DIALECT)) for table in metadata.sorted_tables]
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=_DIALECT)) for index in indexes]
    return [*statements, *TRIGGERS]


def insert_sql(table: Table) -> str:
    """The INSERT of all columns of a table but an integer primary key, with ``?`` in the order of the columns."""
    names = [c.name for c in table.columns if not (c.primary_key and isinstance(c.type, Integer) and len(table.primary_key) == 1)]
    return str(table.insert().values(dict.fromkeys(names)).compile(dialect=_DIALECT, column_keys=names))


def value_kinds(table: Table) -> tuple[tuple[type, ...], ...]:
    """The Python types that SQLite may give for each column; an integer primary key is the rowid, and None in its row."""
    shape: list[tuple[type, ...]] = []
    for column in table.columns:
        if column.primary_key and isinstance(column.type, Integer) and len(table.primary_key) == 1:
            shape.append((type(None),))  # the rowid
            continue
        kinds: tuple[type, ...] = (str,)
        if isinstance(column.type, Integer):
            kinds = (int,)
        elif isinstance(column.type, Float):
            kinds = (float, int)  # SQLite stores a whole number in fewer bytes
        elif isinstance(column.type, LargeBinary):
            kinds = (bytes,)
        shape.append((*kinds, type(None)) if column.nullable else kinds)
    return tuple(shape)


def create(connection: sqlite3.Connection, *, journal_id: str, now_ns: int, version: str) -> None:
    """Make the schema in one transaction: after a kill the database is either whole or empty.

    Does nothing if another process made it meanwhile. The connection is in autocommit mode.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in ddl():
                connection.execute(statement)
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (HEAD,))
            facts = (journal_id, now_ns, version, version, 0, 0)
            connection.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?)", (*facts, description_digest(*facts)))
            connection.execute("INSERT INTO lease (id, generation) VALUES (1, 0)")
            connection.execute("INSERT INTO mark VALUES ('settled', 0)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def upgrade(path: Path, current: str, *, now_ns: int, migrations: Path | None = None, head: str = HEAD) -> Path | None:
    """Bring a journal's database to ``head``, atomically, after a backup beside it.

    Args:
        path: The database file.
        current: Its revision.
        now_ns: Names the backup.
        migrations: Folder of the revisions; default: the one inside the package.
        head: The revision to reach.

    Returns:
        The backup's path, or None when there was nothing to do, or another process did it meanwhile.

    Raises:
        JournalTooNewError: ``current`` is not a revision that this code knows. Nothing was changed.
    """
    if current == head:
        return None
    from alembic import command  # noqa: PLC0415 - 0.4 s, only to migrate
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        if migrations is None:
            packaged = importlib.resources.files("journaltrack.migrations")
            migrations = stack.enter_context(importlib.resources.as_file(packaged))
        config = Config()
        config.set_main_option("script_location", str(migrations).replace("%", "%%"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current not in known:
            raise too_new(path, current)
        engine = upgrading_engine(path)
        stack.callback(engine.dispose)
        try:
            # One transaction from here on: nobody appends, and no other process upgrades, between the backup and the end.
            with engine.begin() as connection:
                current = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
                if current == head:  # by another process, meanwhile
                    return None
                backup = path.with_name(f"{path.name}.{current}.{now_ns}.backup")
                _back_up(path, backup)
                config.attributes["connection"] = connection
                command.upgrade(config, head)
        except DBAPIError as error:
            raise error.orig or error from error
    return backup


def upgrading_engine(path: Path) -> Engine:
    """Connections whose transactions take the write lock when they begin, and keep DDL inside: the driver commits before it otherwise."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, connect_args={"timeout": UPGRADE_WAIT_S})

    @event.listens_for(engine, "connect")
    def _autocommit(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _back_up(path: Path, backup: Path) -> None:
    """A consistent copy, readable by the owner alone, whole on disk before it gets its name."""
    partial = backup.with_name(backup.name + ".partial")
    partial.unlink(missing_ok=True)  # of an upgrade that was killed; nobody else upgrades now
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(partial)) as target:
        target.execute("PRAGMA synchronous=FULL")
        source.backup(target)
    partial.replace(backup)


def too_new(path: Path, current: str) -> JournalTooNewError:
    """The error that refuses a newer journal, naming the version that can read it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT required_version FROM meta").fetchone()
    # The text is the journal's: it is told only if it can be nothing but a version.
    needed = f"journaltrack {row[0]}" if row and re.fullmatch(r"\d{1,4}(\.\d{1,6}){1,3}", str(row[0])) else "a newer journaltrack"
    return JournalTooNewError(
        f"the journal has schema revision {limits.shown(current)}, this version knows {HEAD} at most; nothing was changed",
        hint=f"install {needed} or later: pip install -U journaltrack",
    )
