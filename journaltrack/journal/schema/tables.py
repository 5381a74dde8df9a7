"""The journal's tables, in SQLAlchemy Core: the one truth, shared with Alembic.

``python -m journaltrack.journal.schema.tables`` writes what the rest of the package needs of it, as plain text, into ``text.py``: importing
SQLAlchemy takes longer (0.15 s) than everything else between the start of a training script and its first recorded call. A test
compares the two, and ``tests/migrations`` compares what ``schema.create`` makes with what the revisions in ``migrations/`` make.

Everything recorded is in ``entry``, which only grows. ``receipt`` and ``delivery`` say what became of it. The other
tables are what can be derived (``field``, ``location``, ``mark``) or belongs to the machinery (``lease``, ``meta``).
``attestation`` is the evidence for all of that: what each finished receipt says, in a chain of digests.
"""

from __future__ import annotations

from pathlib import Path

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

mark = Table(  # every entry up to seq is settled, or listed as unsettled
    "mark",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
)

unsettled = Table(  # entries up to the mark that passes have left pending; a row may outlive its entry's settlement
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
    # Since 0002: receipts up to this one, and settlements up to this time, are from before there were attestations.
    Column("attested_after_receipt", Integer),
    Column("attested_after_ns", Integer),
    Column("digest", LargeBinary),
)

TEXT_FILE = Path(__file__).with_name("text.py")
_DIALECT = sqlite.dialect()
_HEADER = '''"""What the package needs of ``tables``, as text. Written by ``python -m journaltrack.journal.schema.tables``: change that instead."""

from __future__ import annotations

from typing import Final
'''


def ddl() -> list[str]:
    """Every statement that makes tables and indexes, in order."""
    statements = [str(CreateTable(table).compile(dialect=_DIALECT)) for table in metadata.sorted_tables]
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=_DIALECT)) for index in indexes]
    return statements


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


def rendered() -> str:
    """The text of ``text.py``."""
    columns = {table.name: tuple(column.name for column in table.columns) for table in metadata.sorted_tables}
    inserts = {table.name: insert_sql(table) for table in metadata.sorted_tables}
    parts = [_HEADER]
    parts += ["DDL: Final = (", *(f"    {statement!r}," for statement in ddl()), ")", '"""Makes tables and indexes, in order."""', ""]
    parts += [
        "COLUMNS: Final = {",
        *(f"    {name!r}: {names!r}," for name, names in columns.items()),
        "}",
        '"""Of each table, in order."""',
        "",
    ]
    parts += ["INSERTS: Final = {", *(f"    {name!r}: {sql!r}," for name, sql in inserts.items()), "}"]
    parts += ['"""Of all columns of a table but an integer primary key, with ``?`` in the order of the columns."""', ""]
    return "\n".join(parts)


if __name__ == "__main__":
    TEXT_FILE.write_text(rendered(), encoding="utf-8")
