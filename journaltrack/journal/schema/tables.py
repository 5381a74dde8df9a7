"""Define the journal's tables in SQLAlchemy Core, for us and for Alembic.

``python -m journaltrack.journal.schema.tables && make format`` writes the SQL that the rest of the
package needs into ``text.py``. The reason is time: importing SQLAlchemy takes 0.15 s, longer than
everything else between the start of a training script and its first recorded call. One test
compares ``text.py`` with this module. ``tests/migrations`` compares the schema of ``schema.create``
with that of the revisions in ``migrations/``.

``entry`` holds everything recorded, and only grows. ``receipt`` and ``delivery`` say what became of
each entry. ``attestation`` is the evidence for that: the content of each finished receipt, in a
chain of digests. ``field``, ``location``, ``mark`` and ``unsettled`` can be derived from these.
``lease`` and ``meta`` belong to the journal itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

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
# Most entries are metrics, which are read in order of seq. An index without them costs their append
# nothing.
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
    # Since 0004; NULL in writers before, and where nobody asked for it.
    Column("context", Text),
)


component = Table(
    "component",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text(collation="NOCASE"), nullable=False, unique=True),
    Column("created_at_ns", Integer, nullable=False),
    # From the remote: NULL until a pass confirmed that the component exists there.
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
# Problems are few: with this index, status and retry find them without reading delivered entries.
Index(
    "delivery_problem",
    delivery.c.outcome,
    delivery.c.seq,
    sqlite_where=text("outcome IN ('quarantined', 'in doubt')"),
)

# The statement of a finished request or a decision, chained per process and readable without this
# journal.
attestation = Table(
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

# Where a component's blob is in S3. Bucket and prefix are those asked for, '' for the default.
location = Table(
    "location",
    metadata,
    Column("component_id", Integer, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("prefix", Text, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("receipt_id", Integer, nullable=False),
)

# The entry that the remote holds for each key of a component, as far as this journal knows.
field = Table(
    "field",
    metadata,
    Column("component_id", Integer, primary_key=True),
    Column("map", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
)

# Every entry up to seq is settled, or listed in ``unsettled``.
mark = Table(
    "mark",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
)

# Entries up to the mark that passes left pending. A row may outlive its entry's settlement.
unsettled = Table(
    "unsettled",
    metadata,
    Column("seq", Integer, primary_key=True),
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
    # Since 0002: receipts up to this one, and settlements up to this time, have no attestations.
    Column("attested_after_receipt", Integer),
    Column("attested_after_ns", Integer),
    Column("digest", LargeBinary),
)

TEXT_FILE = Path(__file__).with_name("text.py")
_DIALECT = sqlite.dialect()
_HEADER = '''"""Give the SQL of ``tables`` as text. Generated: change that module instead."""

from __future__ import annotations

from typing import Final
'''


def ddl() -> list[str]:
    """Return the statements that create tables and indexes, in order."""
    statements = [
        str(CreateTable(table).compile(dialect=_DIALECT)) for table in metadata.sorted_tables
    ]
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=_DIALECT)) for index in indexes]
    return statements


def insert_sql(table: Table) -> str:
    """Return the INSERT of a table's columns, with ``?`` in their order.

    An integer primary key is left out.
    """
    names = [c.name for c in table.columns if not _is_rowid(c, table)]
    return str(
        table.insert().values(dict.fromkeys(names)).compile(dialect=_DIALECT, column_keys=names)
    )


def _is_rowid(column: Column[Any], table: Table) -> bool:
    return column.primary_key and isinstance(column.type, Integer) and len(table.primary_key) == 1


def value_kinds(table: Table) -> tuple[tuple[type, ...], ...]:
    """Return the Python types that SQLite may give for each column.

    An integer primary key is the rowid, for which the row itself stores None.
    """
    shape: list[tuple[type, ...]] = []
    for column in table.columns:
        if _is_rowid(column, table):
            shape.append((type(None),))
            continue
        kinds: tuple[type, ...] = (str,)
        if isinstance(column.type, Integer):
            kinds = (int,)
        elif isinstance(column.type, Float):
            # SQLite stores a float without fraction as an integer, to save bytes.
            kinds = (float, int)
        elif isinstance(column.type, LargeBinary):
            kinds = (bytes,)
        shape.append((*kinds, type(None)) if column.nullable else kinds)
    return tuple(shape)


def rendered() -> str:
    """Return the content of ``text.py``, before formatting."""
    columns = {
        table.name: tuple(column.name for column in table.columns)
        for table in metadata.sorted_tables
    }
    inserts = {table.name: insert_sql(table) for table in metadata.sorted_tables}
    parts = [_HEADER]
    parts += ["DDL: Final = (", *(f"    {statement!r}," for statement in ddl()), ")"]
    parts += ['"""The statements that create tables and indexes, in order."""', ""]
    parts += [
        "COLUMNS: Final = {",
        *(f"    {name!r}: {names!r}," for name, names in columns.items()),
        "}",
    ]
    parts += ['"""The columns of each table, in order."""', ""]
    parts += [
        "INSERTS: Final = {",
        *(f"    {name!r}: {sql!r}," for name, sql in inserts.items()),
        "}",
    ]
    parts += ['"""The INSERT of each table\'s columns, without an integer primary key."""', ""]
    return "\n".join(parts)


if __name__ == "__main__":
    TEXT_FILE.write_text(rendered(), encoding="utf-8")
