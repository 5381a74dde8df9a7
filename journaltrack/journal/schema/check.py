"""Check a database's schema before anything else reads it.

A journal from somebody else may hold triggers and views, which SQLite runs when a table is written
or read. It may hold generated columns, and virtual tables, whose content SQLite's own modules
parse. journaltrack makes none of these, except the triggers in ``schema``; any other is refused.
Additional ordinary tables are harmless and are accepted: ``sqlite3 .recover`` leaves one behind.

The check of an unchanged schema costs one digest. Only a schema that differs is compared in detail
with the one that ``schema`` makes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import (
    JournalAlteredError,
    JournalError,
    JournalFullError,
    JournalLockedError,
    JournalReadOnlyError,
    JournalTooNewError,
    JournalWriteError,
    NotAJournalError,
)
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.errors import translated
from journaltrack.util.text import is_newer_version, version_needed

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

HEAD_DIGEST: Final = "1cf2f7f03b24a355941904888270071209a1394c59dbef77318bc7b8ac8217ef"
"""Digest of the schema of ``schema.HEAD``. A test compares it with that of a new journal."""
_VERSION_TABLE: Final = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
)
_OURS: Final = frozenset({"entry", "meta", "alembic_version"})
_TELLING: Final = frozenset({"entry", "meta", "receipt", "writer"})
"""A database with one of these tables and a revision is a journal, of some version."""
_KNOWN: Final = frozenset(f"{number:04d}" for number in range(1, int(schema.HEAD) + 1))
_OBJECTS_MAX: Final = 1_000
_NAMED_MAX: Final = 5
_STATISTICS: Final = frozenset(
    {
        "CREATETABLEsqlite_stat1(tbl,idx,stat)",
        "CREATETABLEsqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    }
)
"""Tables that ANALYZE makes, without white space."""
GENERATION_MAX: Final = 2**62
"""Our limit for a lease's generation, which grows by one with every pass."""
_RECORDS: Final = (
    ("meta", "typeof(journal_id) = 'text' AND length(journal_id) BETWEEN 1 AND 200"),
    ("lease", f"typeof(generation) = 'integer' AND generation BETWEEN 0 AND {GENERATION_MAX}"),
    ("mark", "typeof(seq) = 'integer' AND seq BETWEEN 0 AND 9223372036854775807"),
)
"""Tables that have exactly one row, and the condition that it meets."""
_ALL_RECORDS: Final = " UNION ALL ".join(
    f"SELECT * FROM (SELECT {condition} FROM {table} LIMIT 2)" for table, condition in _RECORDS
)
_STATED: Final = (
    "SELECT (SELECT max(version_num) FROM alembic_version LIMIT 1), "
    "(SELECT required_version FROM meta LIMIT 1), (SELECT created_by_version FROM meta LIMIT 1)"
)
"""What ``_version`` reads one by one from tables that may be anybody's."""
_GENERATED: Final = re.compile(r"\bas\s*\(", re.IGNORECASE)
_VIRTUAL: Final = re.compile(r"\s*create\s+virtual\b", re.IGNORECASE)


class _Object(NamedTuple):
    """A row of ``sqlite_master``."""

    kind: str
    name: str
    table: str
    sql: str


class _Stated(NamedTuple):
    """A journal's statements about its schema.

    Its revision, the first version that can read it, and the version that created the journal.
    """

    revision: str | None
    required: object
    created_by: object

    @property
    def is_newer(self) -> bool:
        """Return whether only a newer journaltrack can have written this.

        Revisions are numbers that only grow.
        """
        if is_newer_version(self.required):
            return True
        return self.revision is not None and self.revision > schema.HEAD

    def refusal(self, path: Path) -> JournalTooNewError:
        """Return the error for a journal of a newer version."""
        needed = version_needed(self.required, self.created_by)
        shown = limits.shown(self.revision or "unknown")
        return JournalTooNewError(
            f"a newer journaltrack wrote the journal at {path.parent}: its schema revision is "
            f"{shown}, and this version ({__version__}) knows {schema.HEAD} at most; "
            "no changes were made",
            hint=f"install {needed}: pip install -U journaltrack",
        )


def version(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the schema revision that a journal states; None if it is empty.

    Reads only what every future revision keeps: ``alembic_version``, and the versions in ``meta``.
    This comes before the schema is checked or used, because a newer journaltrack may have made any
    table, column, trigger or view.

    Args:
        connection: An open connection to the database.
        path: The file, for messages.

    Raises:
        JournalTooNewError: A newer journaltrack wrote it.
        NotAJournalError: It has tables, but not those of a journal.
        JournalAlteredError: It states no revision, or one that never existed.
    """
    objects = [_Object(*row) for row in _rows(connection)]
    return _version(connection, path, objects) if objects else None


def revision(connection: sqlite3.Connection, path: Path, *, writing: bool) -> str | None:
    """Check the schema and return its revision; None if the database is empty.

    Args:
        connection: An open connection to the database.
        path: The file, for messages.
        writing: Also require every index and trigger of ours. Without our triggers an entry could
            be changed.

    Raises:
        JournalTooNewError: A newer journaltrack wrote it.
        NotAJournalError: It has tables, but not those of a journal.
        JournalAlteredError: It has objects that journaltrack did not make, or lacks some.
    """
    rows = _rows(connection)
    if not rows:
        return None
    # Nearly always: nothing but our own tables.
    if _is_head(rows):
        row = connection.execute(_STATED).fetchone()
        stated = _Stated(*(each if isinstance(each, str) else None for each in row))
        if stated.is_newer:
            raise stated.refusal(path)
        return _known(path, stated)
    objects = [_Object(*row) for row in rows]
    current = _version(connection, path, objects)
    _refuse(path, [each for each in objects if _runs(each)], "holds")
    if current == schema.HEAD:
        wanted = {(each.kind, each.name): each for each in _made()}
        found = {(each.kind, each.name): each for each in objects}
        known = {each.name for each in wanted.values() if each.kind == "table"}
        strange = [
            each
            for key, each in found.items()
            if each.table in known and each.sql and not _same(each, wanted.get(key))
        ]
        _refuse(path, strange, "holds")
        missing = [each for key, each in wanted.items() if key not in found]
        _refuse(path, [each for each in missing if writing or each.kind == "table"], "lacks")
    return current


def newer_schema(file: Path) -> JournalTooNewError | None:
    """Return the error if a newer journaltrack wrote a schema SQLite can't parse.

    A newer journaltrack may use features of a newer SQLite, which an older one calls "malformed
    database schema". With ``writable_schema`` SQLite skips such objects. The file is opened
    read-only.
    """
    for how in ("mode=ro", "mode=ro&immutable=1"):
        with contextlib.suppress(
            sqlite3.Error, UnicodeDecodeError, JournalAlteredError, NotAJournalError
        ):
            connection = sqlite3.connect(f"file:{quote(str(file))}?{how}", uri=True)
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA writable_schema = ON")
                version(connection, file)
            except JournalTooNewError as error:
                return error
            finally:
                connection.close()
    return None


def why_refused(error: JournalError, database: Database) -> JournalError:
    """Return a better error for a failed append, if there is one.

    A newer journaltrack may have upgraded the journal while it is open here.
    """
    if isinstance(error, (JournalFullError, JournalLockedError, JournalReadOnlyError)):
        return error
    try:
        with database.lock, translated(database.path):
            version(database.connection, database.path)
    except JournalTooNewError as newer:
        return JournalWriteError(
            f"a newer journaltrack upgraded the journal at {database.path.parent} while it is in "
            "use; this process can record nothing more in it",
            hint=f"{newer.hint}, and start again; entries already recorded are safe",
        )
    except JournalError:
        # The first error is the more precise one.
        pass
    return error


def _rows(connection: sqlite3.Connection) -> tuple[tuple[str, ...], ...]:
    """Return the members of an ``_Object`` for each row of ``sqlite_master``."""
    found = connection.execute(
        "SELECT cast(type AS text), cast(name AS text), cast(tbl_name AS text), "
        "coalesce(cast(sql AS text), '') FROM sqlite_master "
        "ORDER BY type, name LIMIT ?",
        (_OBJECTS_MAX,),
    )
    return tuple(found.fetchall())


# A process that opens thousands of journals finds one schema in nearly all of them. One, because
# another's may be large.
@functools.lru_cache(maxsize=1)
def _is_head(rows: tuple[tuple[str, ...], ...]) -> bool:
    return digest([_Object(*row) for row in rows]) == HEAD_DIGEST


def _version(connection: sqlite3.Connection, path: Path, objects: Sequence[_Object]) -> str:
    present = {
        each.name: each.sql
        for each in objects
        if each.kind == "table" and not _VIRTUAL.match(each.sql)
    }
    # Only ordinary tables are read: that runs no code, whatever else the database holds.
    tables = {name for name, sql in present.items() if not _GENERATED.search(sql)}
    stated = _Stated(
        _cell(connection, tables, "alembic_version", "max(version_num)"),
        _cell(connection, tables, "meta", "required_version"),
        _cell(connection, tables, "meta", "created_by_version"),
    )
    if tables & _TELLING and stated.is_newer:
        raise stated.refusal(path)
    if not present.keys() >= _OURS:
        raise NotAJournalError(
            "the file is an SQLite database, but not a journal; no changes were made",
            hint="name the folder of a journal, or an empty or new one",
        )
    return _known(path, stated)


def _known(path: Path, stated: _Stated) -> str:
    """Return the revision that a journal states, if this version knows it."""
    if stated.revision not in _KNOWN:
        raise JournalAlteredError(
            f"the journal at {path.parent} states no known schema revision; no changes were made",
            hint=_HINT,
        )
    return str(stated.revision)


def _cell(connection: sqlite3.Connection, tables: set[str], table: str, what: str) -> str | None:
    """Return a text from a table that may have any columns; None if there is none."""
    if table not in tables:
        return None
    try:
        row = connection.execute(f"SELECT {what} FROM {table} LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return None
        raise
    return row[0] if row and isinstance(row[0], str) else None


def check_records(connection: sqlite3.Connection, path: Path) -> None:
    """Check the journal's records about itself, on which everything else relies.

    Raises:
        JournalAlteredError: journaltrack never writes such records.
    """
    if connection.execute(_ALL_RECORDS).fetchall() == [(1,)] * len(_RECORDS):
        return
    for table, condition in _RECORDS:
        rows = connection.execute(f"SELECT {condition} FROM {table} LIMIT 2").fetchall()
        if rows != [(1,)]:
            raise JournalAlteredError(
                f"table {table} of the journal at {path.parent} is altered; no changes were made",
                hint=_HINT,
            )


def digest(objects: Sequence[_Object]) -> str:
    """Return the SHA-256 of a schema, ordered by kind and name, without white space.

    It leaves out the indexes that SQLite makes by itself, and SQLite's statistics.
    """
    texts = [
        "\0".join(each)
        for each in objects
        if each.sql and not (each.name.startswith("sqlite_") and _plain(each.sql) in _STATISTICS)
    ]
    return hashlib.sha256(_plain("\0\0".join(texts)).encode()).hexdigest()


def _made() -> list[_Object]:
    with sqlite3.connect(":memory:", isolation_level=None) as connection:
        for statement in (*schema.ddl(), _VERSION_TABLE):
            connection.execute(statement)
        what = "type, name, tbl_name, sql"
        rows = connection.execute(
            f"SELECT {what} FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name"
        ).fetchall()
    connection.close()
    return [_Object(*row) for row in rows]


def _runs(each: _Object) -> bool:
    """Return whether SQLite runs this object, or code for it, when a table is used."""
    if each.kind == "trigger":
        return all(_plain(each.sql) != _plain(ours) for ours in schema.TRIGGERS)
    return each.kind not in {"table", "index"} or (
        each.kind == "table" and bool(_VIRTUAL.match(each.sql) or _GENERATED.search(each.sql))
    )


def _same(each: _Object, wanted: _Object | None) -> bool:
    return (
        wanted is not None and each.table == wanted.table and _plain(each.sql) == _plain(wanted.sql)
    )


def _plain(sql: str) -> str:
    """Return the text without white space, in which revisions and ``schema`` differ."""
    return "".join(sql.split())


_HINT: Final = (
    "`journaltrack check` says more; restore your own journal from a copy, trust no other"
)


def _refuse(path: Path, objects: list[_Object], holds: str) -> None:
    if not objects:
        return
    names = ", ".join(
        f"{each.kind[:20]} {limits.shown(each.name)}" for each in objects[:_NAMED_MAX]
    )
    more = f" and {len(objects) - _NAMED_MAX} more" if len(objects) > _NAMED_MAX else ""
    what = "which no journaltrack made" if holds == "holds" else "which journaltrack makes"
    raise JournalAlteredError(
        f"the journal at {path.parent} {holds} {names}{more}, {what}; no changes were made",
        hint=_HINT,
    )
