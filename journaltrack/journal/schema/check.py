"""Whether a database has the schema that journaltrack makes, and nothing in it that would run: read before anything else is.

A journal from somebody else may hold triggers and views, which SQLite runs when a table is written or read, generated
columns, and virtual tables, which load code of SQLite's that parses what they hold. None of them is ever ours, but for the
triggers of ``schema``. Further ordinary tables do no harm (``sqlite3 .recover`` leaves one behind): they are let be.

A whole schema costs one digest; only one that differs is compared with what ``schema`` makes.
"""

from __future__ import annotations

import contextlib
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

HEAD_DIGEST: Final = "9ed323b272150c7f34a49e5b54e64c04b5c57af93cd8b2198cb65c898196396f"
"""Of the schema of ``schema.HEAD``; ``tests/unit/test_schema_check.py`` compares it with that of a new journal."""
_VERSION_TABLE: Final = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
_OURS: Final = frozenset({"entry", "meta", "alembic_version"})
_TELLING: Final = frozenset({"entry", "meta", "receipt", "writer"})
"""Any of them beside a revision makes a database a journal's, of whatever version."""
_KNOWN: Final = frozenset(f"{number:04d}" for number in range(1, int(schema.HEAD) + 1))
_OBJECTS_MAX: Final = 1_000
_NAMED_MAX: Final = 5
_STATISTICS: Final = frozenset({"CREATETABLEsqlite_stat1(tbl,idx,stat)", "CREATETABLEsqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"})
"""What ANALYZE makes, with white space taken away."""
GENERATION_MAX: Final = 2**62
"""Ours: of a lease; one is added for every pass."""
_RECORDS: Final = (
    ("meta", "typeof(journal_id) = 'text' AND length(journal_id) BETWEEN 1 AND 200"),
    ("lease", f"typeof(generation) = 'integer' AND generation BETWEEN 0 AND {GENERATION_MAX}"),
    ("mark", "typeof(seq) = 'integer' AND seq BETWEEN 0 AND 9223372036854775807"),
)
"""Tables of one row, and what holds of it."""
_GENERATED: Final = re.compile(r"\bas\s*\(", re.IGNORECASE)
_VIRTUAL: Final = re.compile(r"\s*create\s+virtual\b", re.IGNORECASE)


class _Object(NamedTuple):
    """A row of ``sqlite_master``."""

    kind: str
    name: str
    table: str
    sql: str


class _Stated(NamedTuple):
    """What a journal says of its schema: its revision, and the versions that need it and that made it."""

    revision: str | None
    required: object
    created_by: object

    @property
    def is_newer(self) -> bool:
        """Whether only a newer journaltrack can have written this. Revisions are numbers that grow."""
        if is_newer_version(self.required):
            return True
        return self.revision is not None and self.revision > schema.HEAD

    def refusal(self, path: Path) -> JournalTooNewError:
        """Make the error that refuses it."""
        needed = version_needed(self.required, self.created_by)
        shown = limits.shown(self.revision or "unknown")
        return JournalTooNewError(
            f"the journal at {path.parent} was written by a newer journaltrack: it has schema revision {shown}, and this "
            f"version ({__version__}) knows {schema.HEAD} at most; nothing was read or changed",
            hint=f"install {needed}: pip install -U journaltrack",
        )


def version(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the schema revision that a journal states; None when the database is empty.

    Reads only what a journal of any future revision keeps (``alembic_version``, and versions in ``meta``), before anything
    of its schema is judged or used: a newer journaltrack may have made any table, column, trigger or view.

    Args:
        connection: To the database.
        path: Of the file, for messages.

    Raises:
        JournalTooNewError: A newer journaltrack wrote it.
        NotAJournalError: It holds tables, but not a journal's.
        JournalAlteredError: It states a revision that never was, or none.
    """
    objects = _objects(connection)
    return _version(connection, path, objects) if objects else None


def revision(connection: sqlite3.Connection, path: Path, *, writing: bool) -> str | None:
    """The schema revision of a database whose schema is what that revision has: None when it holds nothing at all.

    Args:
        connection: To it.
        path: Of the file, for messages.
        writing: Also see that nothing of ours is missing: without our triggers an entry could be changed.

    Raises:
        JournalTooNewError: A newer journaltrack wrote it.
        NotAJournalError: It holds tables, but not a journal's.
        JournalAlteredError: It holds what no journaltrack made.
    """
    objects = _objects(connection)
    if not objects:
        return None
    current = _version(connection, path, objects)
    if digest(objects) == HEAD_DIGEST:
        return current
    _refuse(path, [each for each in objects if _runs(each)], "holds")
    if current == schema.HEAD:
        wanted = {(each.kind, each.name): each for each in _made()}
        found = {(each.kind, each.name): each for each in objects}
        known = {each.name for each in wanted.values() if each.kind == "table"}
        strange = [each for key, each in found.items() if each.table in known and each.sql and not _same(each, wanted.get(key))]
        _refuse(path, [each for each in strange if each.sql], "holds")
        missing = [each for key, each in wanted.items() if key not in found]
        _refuse(path, [each for each in missing if writing or each.kind == "table"], "lacks")
    return current


def newer_schema(file: Path) -> JournalTooNewError | None:
    """Return the refusal of a journal whose schema this SQLite can't parse, when a newer journaltrack wrote it.

    A newer journaltrack may use what only a newer SQLite knows, which this one calls "malformed database schema". With
    ``writable_schema`` it passes over such objects; the file is opened for reading alone.
    """
    for how in ("mode=ro", "mode=ro&immutable=1"):
        with contextlib.suppress(sqlite3.Error, UnicodeDecodeError, JournalAlteredError, NotAJournalError):
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
    """Return why a journal takes no entry: it may have been upgraded by a newer journaltrack while it is open here."""
    if isinstance(error, (JournalFullError, JournalLockedError, JournalReadOnlyError)):
        return error
    try:
        with database.lock, translated(database.path):
            version(database.connection, database.path)
    except JournalTooNewError as newer:
        return JournalWriteError(
            f"the journal at {database.path.parent} was upgraded by a newer journaltrack while it is in use, and takes no more entries",
            hint=f"{newer.hint}, and start again: what is in the journal is safe",
        )
    except JournalError:
        pass  # what it is is said already
    return error


def _objects(connection: sqlite3.Connection) -> list[_Object]:
    rows = connection.execute(
        "SELECT cast(type AS text), cast(name AS text), cast(tbl_name AS text), coalesce(cast(sql AS text), '') FROM sqlite_master "
        "ORDER BY type, name LIMIT ?",
        (_OBJECTS_MAX,),
    )
    return [_Object(*row) for row in rows]


def _version(connection: sqlite3.Connection, path: Path, objects: Sequence[_Object]) -> str:
    # Reading an ordinary table runs nothing, whatever else there is.
    tables = {each.name for each in objects if each.kind == "table" and not _VIRTUAL.match(each.sql) and not _GENERATED.search(each.sql)}
    stated = _Stated(
        _cell(connection, tables, "alembic_version", "max(version_num)"),
        _cell(connection, tables, "meta", "required_version"),
        _cell(connection, tables, "meta", "created_by_version"),
    )
    if tables & _TELLING and stated.is_newer:
        raise stated.refusal(path)
    present = {each.name for each in objects if each.kind == "table" and not _VIRTUAL.match(each.sql)}
    if not present >= _OURS:
        raise NotAJournalError(
            "the file is an SQLite database, but not a journal; it was left as it is",
            hint="name the folder of a journal, or an empty or new one",
        )
    if stated.revision not in _KNOWN:
        raise JournalAlteredError(f"the journal at {path.parent} does not say which schema it has; it was left as it is", hint=_HINT)
    return str(stated.revision)


def _cell(connection: sqlite3.Connection, tables: set[str], table: str, what: str) -> str | None:
    """Return a text of a table that may have any columns; None when there is none."""
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
    """See that the journal's records about itself are what they must be: everything else relies on them.

    Raises:
        JournalAlteredError: They are not.
    """
    for table, condition in _RECORDS:
        rows = connection.execute(f"SELECT {condition} FROM {table} LIMIT 2").fetchall()
        if rows != [(1,)]:
            raise JournalAlteredError(
                f"the table {table} of the journal at {path.parent} holds nothing that journaltrack wrote; it was left as it is", hint=_HINT
            )


def digest(objects: Sequence[_Object]) -> str:
    """Of a schema in order of kind and name, white space taken away; indexes that SQLite makes by itself and its statistics do not count."""
    texts = ["\0".join(each) for each in objects if each.sql and not (each.name.startswith("sqlite_") and _plain(each.sql) in _STATISTICS)]
    return hashlib.sha256(_plain("\0\0".join(texts)).encode()).hexdigest()


def _made() -> list[_Object]:
    with sqlite3.connect(":memory:", isolation_level=None) as connection:
        for statement in (*schema.ddl(), _VERSION_TABLE):
            connection.execute(statement)
        rows = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name"
        ).fetchall()
    connection.close()
    return [_Object(*row) for row in rows]


def _runs(each: _Object) -> bool:
    """Whether SQLite would run it, or give its content to a module, when a table is used."""
    if each.kind == "trigger":
        return all(_plain(each.sql) != _plain(ours) for ours in schema.TRIGGERS)
    return each.kind not in {"table", "index"} or (each.kind == "table" and bool(_VIRTUAL.match(each.sql) or _GENERATED.search(each.sql)))


def _same(each: _Object, wanted: _Object | None) -> bool:
    return wanted is not None and each.table == wanted.table and _plain(each.sql) == _plain(wanted.sql)


def _plain(sql: str) -> str:
    """Without white space: revisions and ``schema`` differ in it."""
    return "".join(sql.split())


_HINT: Final = "`journaltrack doctor` says more; if the journal is not yours, do not trust it; if it is, restore it from a copy"


def _refuse(path: Path, objects: list[_Object], holds: str) -> None:
    if not objects:
        return
    names = ", ".join(f"{each.kind[:20]} {limits.shown(each.name)}" for each in objects[:_NAMED_MAX])
    more = f" and {len(objects) - _NAMED_MAX} more" if len(objects) > _NAMED_MAX else ""
    what = "which no journaltrack made" if holds == "holds" else "which journaltrack makes"
    raise JournalAlteredError(f"the journal at {path.parent} {holds} {names}{more}, {what}; it was left as it is", hint=_HINT)
