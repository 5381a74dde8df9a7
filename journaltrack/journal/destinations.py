"""Keep a copy of a journal for each further destination, and bring it up to date.

The journal itself says what SageMaker has. ``destinations/NAME`` in its folder is a journal with
the same id and the same entries under the same numbers, and with deliveries of its own. Nothing is
written there when a call is recorded: a pass brings the copy up to date first.

Contents are linked, not copied: one file in both spools. A content that was removed from the
journal's spool stays in the copy's as long as the destination needs it.

Must not know how anything is sent, nor what a destination is beside its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import InvalidInputError, JournalCorruptError, JournalNotFoundError
from journaltrack.journal import first_steps, queries
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.journal.schema.text import COLUMNS
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite.copies import write_copy
from journaltrack.journal.vocabulary import LOCAL, LOCAL_STAYS, MODEL
from journaltrack.util import config, paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

_MARK_BYTES_MAX: Final = 65_536
_ROWS: Final = 5_000
"""Entries copied in one transaction."""
_COLUMNS: Final = COLUMNS["entry"]
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM entry WHERE seq > ? ORDER BY seq LIMIT {_ROWS}"
_INSERT: Final = f"INSERT INTO entry VALUES ({', '.join('?' * len(_COLUMNS))})"
_WRITERS: Final = f"SELECT id, {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer"
_INSERT_WRITER: Final = schema.insert_writer_sql()
_INSERT_LOCAL: Final = (
    "INSERT OR IGNORE INTO delivery (seq, outcome, reason, settled_at_ns) "
    "VALUES (?, 'superseded', ?, ?)"
)
_LAST: Final = "SELECT seq, digest FROM entry ORDER BY seq DESC LIMIT 1"
_SEQ, _WRITER, _UUID = 0, 1, 1
_KIND, _RECORDED = _COLUMNS.index("kind"), _COLUMNS.index("recorded_at_ns")
# Of uploads that are not settled; few entries are uploads.
_NEEDED: Final = (
    "SELECT DISTINCT json_extract(e.payload, '$.sha256'), b.size_bytes FROM entry e "
    "LEFT JOIN blob b ON b.sha256 = json_extract(e.payload, '$.sha256') "
    f"WHERE e.stream = 'upload' AND json_valid(e.payload) AND {queries.UNSETTLED}"
)
_SENT: Final = (
    "SELECT EXISTS (SELECT 1 FROM receipt r LEFT JOIN attestation a ON a.receipt_id = r.id "
    f"WHERE {queries.MAY_HAVE_EFFECT})"
)
# CROSS JOIN: the index of what is no metric needs the component. All metrics would be read else.
_OF_EACH: Final = (
    "FROM component c CROSS JOIN entry e ON e.component_id = c.id "
    "WHERE e.stream <> 'metric' AND json_valid(e.payload)"
)
_OWNERS: Final = (
    "SELECT lower(c.name), json_extract(e.payload, '$.owner'), json_extract(e.payload, '$.resume') "
    f"{_OF_EACH} AND e.stream = 'component' AND e.kind = 'create' ORDER BY e.seq"
)
_MODELS: Final = (
    "SELECT lower(c.name), e.name, json_extract(e.payload, '$.text') "
    f"{_OF_EACH} AND e.kind = 'label' AND e.name GLOB ? ORDER BY e.seq"
)


def folder_of(journal: Path, name: str) -> Path:
    """Return the folder of a destination's copy, whether it is there or not.

    Raises:
        InvalidInputError: It is no name of a destination.
    """
    if not config.DESTINATION_NAME.fullmatch(name) or name == config.SAGEMAKER:
        raise InvalidInputError(
            f"{limits.shown(name)} is no name of a further destination",
            hint="use a-z, 0-9, - and _; sagemaker is the journal's own",
        )
    return journal / paths.DESTINATIONS / name


def copies(journal: Path) -> dict[str, Path]:
    """Return the folders of a journal's copies, by destination."""
    try:
        found = sorted((journal / paths.DESTINATIONS).iterdir())
    except OSError:
        return {}
    return {
        each.name: each
        for each in found
        if config.DESTINATION_NAME.fullmatch(each.name)
        and not _is_link(each)
        and (each / paths.DATABASE).exists()
    }


def marked(folder: Path) -> Mapping[str, Any] | None:
    """Return where the copy in a folder goes; None: it is no copy for a destination.

    Raises:
        JournalCorruptError: The mark can't be read.
    """
    file = folder / paths.DESTINATION
    try:
        with file.open("rb") as opened:
            told = json.loads(opened.read(_MARK_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("uri"), str):
        raise JournalCorruptError(
            f"{file} does not say where the copy of the journal beside it goes",
            hint=f"remove {folder}: the next sync makes it again from the journal",
        )
    return told


def name_of(folder: str | os.PathLike[str]) -> str:
    """Return whose deliveries a journal has: ``config.SAGEMAKER``, or of a copy its destination."""
    path = Path(folder)
    return path.name if (path / paths.DESTINATION).exists() else config.SAGEMAKER


def word_of(folder: str | os.PathLike[str]) -> str:
    """Return how a command names whose deliveries a journal has: a name, or an address."""
    name = name_of(folder)
    try:
        told = marked(Path(folder)) or {}
    except JournalCorruptError:
        told = {}
    return _named(name, told)


def option_of(folder: str | os.PathLike[str]) -> str:
    """Return the option that names a copy's destination in a command; "" for a journal itself."""
    word = word_of(folder)
    return "" if word == config.SAGEMAKER else f" --to {word}"


def _named(name: str, told: Mapping[str, Any]) -> str:
    """Return how a command names a destination: no configuration has the name of an address."""
    uri = str(told.get("uri"))
    return uri if config.name_of_address(uri) == name else name


def refuse_copy(folder: Path, what: str) -> None:
    """Refuse to use a copy as if it were the journal.

    Args:
        folder: Of a journal.
        what: What was to be done, in the passive: "merged".

    Raises:
        InvalidInputError: It is a copy for a destination.
    """
    if (folder / paths.DESTINATION).exists():
        raise InvalidInputError(
            f"{folder} is a copy of the journal at {folder.parent.parent} for another destination, "
            f"and can't be {what}",
            hint="its deliveries are not SageMaker's; name the journal itself",
        )


def extended(journal: Path, name: str, told: Mapping[str, Any]) -> Path:
    """Bring the copy for a destination up to date, and return its folder.

    Args:
        journal: The journal's folder.
        name: The destination's.
        told: Where it goes: ``destination.json``. Its ``uri`` must be that of the copy.

    Raises:
        InvalidInputError: The copy goes to another address.
        JournalError: The journal can't be read, or the copy can't be written.
    """
    folder = folder_of(journal, name)
    refuse_copy(journal, "delivered to a destination of its own")
    _refuse_links(folder)
    with closing(Journal.open(journal, create=False, read_only=True)) as source:
        if not (folder / paths.DATABASE).exists():
            _make(source, folder, told)
        _refuse_other_address(folder, told)
        with closing(Journal.open(folder, create=False)) as copy:
            if copy.journal_id != source.journal_id:
                raise _foreign(folder, journal)
            _copy(source, copy)
            _link(source, copy)
    return folder


@contextlib.contextmanager
def preview(journal: Path, name: str, told: Mapping[str, Any]) -> Iterator[Path]:
    """Give the folder of a copy as ``extended`` would leave it, without contents, for the block.

    It is elsewhere, and removed afterwards: the journal and its copies stay as they are.

    Raises:
        InvalidInputError: The copy goes to another address.
        JournalError: The journal can't be read.
    """
    folder = folder_of(journal, name)
    refuse_copy(journal, "delivered to a destination of its own")
    _refuse_links(folder)
    with (
        tempfile.TemporaryDirectory(prefix="journaltrack-") as elsewhere,
        closing(Journal.open(journal, create=False, read_only=True)) as source,
    ):
        beside = Path(elsewhere) / name
        if (folder / paths.DATABASE).exists():
            _refuse_other_address(folder, told)
            beside.mkdir(mode=0o700)
            held = Journal.open(folder, create=False, read_only=True)
            with closing(held), held.database.lock:
                write_copy(held.database.connection, beside / paths.DATABASE)
        else:
            _make(source, beside, told)
        with closing(Journal.open(beside, create=False)) as copy:
            if copy.journal_id != source.journal_id:
                raise _foreign(folder, journal)
            _copy(source, copy)
        yield beside


def place(journal: Path, name: str, told: Mapping[str, Any]) -> Path:
    """Return the folder of a copy that is there, with everything that the journal has.

    Raises:
        JournalNotFoundError: Nothing was delivered there yet.
        InvalidInputError: The copy goes to another address.
        JournalError: The copy lacks entries and can't be written, or one of them can't be read.
    """
    folder = folder_of(journal, name)
    refuse_copy(journal, "asked for a destination of its own")
    _refuse_links(folder)
    if not (folder / paths.DATABASE).exists():
        raise JournalNotFoundError(
            f"nothing of the journal at {journal} was delivered to {name} yet",
            hint=f"`journaltrack sync --to {_named(name, told)}` delivers it",
        )
    _refuse_other_address(folder, told)
    with (
        closing(Journal.open(journal, create=False, read_only=True)) as source,
        closing(Journal.open(folder, create=False, read_only=True)) as copy,
    ):
        if source.last_seq() <= copy.last_seq():
            return folder
    return extended(journal, name, told)


def forget_unsent(folder: Path) -> None:
    """Remove a copy of which no request can have had an effect."""
    with closing(Journal.open(folder, create=False, read_only=True)) as copy:
        ((sent,),) = copy.database.read(_SENT)
    if not sent:
        shutil.rmtree(folder, ignore_errors=True)


def save(journal: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring all copies up to date, before something leaves the journal.

    Args:
        journal: The journal's folder.
        wanted: Destinations that may have no copy yet, with what to write into it.

    Raises:
        JournalError: A copy can't be brought up to date. Then nothing may leave.
    """
    there = {name: marked(folder) or {} for name, folder in copies(journal).items()}
    for name, told in {**wanted, **there}.items():
        extended(journal, name, told)


def is_behind(journal: Path, name: str) -> bool:
    """Return whether a pass to a destination would have something to do."""
    folder = folder_of(journal, name)
    if not (folder / paths.DATABASE).exists():
        return True
    with (
        closing(Journal.open(journal, create=False, read_only=True)) as source,
        closing(Journal.open(folder, create=False, read_only=True)) as copy,
    ):
        return source.last_seq() > copy.last_seq() or queries.is_pending(
            copy.database, lambda _: True
        )


class Own(NamedTuple):
    """What a journal has made itself, by component in lower case.

    Attributes:
        owners: See ``owners``.
        models: The documents of logged models (``vocabulary.MODEL``) by their ids.
    """

    owners: Mapping[str, str] = {}
    models: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}


def own(database: Database) -> Own:
    """Return what finds the journal's runs and models at a destination."""
    models: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, label, text in database.read(_MODELS, (f"{MODEL}*",)):
        # What can't be read is no model.
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            told = json.loads(text)
            if isinstance(told, dict):
                models.setdefault(str(name), {})[str(label).removeprefix(MODEL)] = told
    return Own(owners(database), models)


def owners(database: Database) -> dict[str, str]:
    """Return the owner of each component that the journal made for itself, by lower-case name."""
    found: dict[str, str | None] = {}
    for name, owner, resume in database.read(_OWNERS):
        # Without an owner, the journal is it.
        is_own = isinstance(owner, str) and owner and not resume
        found.setdefault(str(name), owner if is_own else None)
    return {name: owner for name, owner in found.items() if owner is not None}


def _make(source: Journal, folder: Path, told: Mapping[str, Any]) -> None:
    first_steps.make_folder(folder.parent)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    (beside / paths.SPOOL).mkdir(mode=0o700, parents=True)
    beside.chmod(0o700)
    try:
        file = beside / paths.DATABASE
        file.touch(mode=0o600)
        ((created_at_ns,),) = source.database.read("SELECT created_at_ns FROM meta")
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            schema.create(
                connection,
                journal_id=source.journal_id,
                now_ns=created_at_ns,
                version=__version__,
            )
        # Chooses the log.
        Journal.open(beside, create=False).close()
        mark = beside / paths.DESTINATION
        mark.write_text(json.dumps(dict(told), indent=1) + "\n", encoding="utf-8")
        paths.fsync(mark)
        # Another process may have been faster: its copy is as good.
        with contextlib.suppress(OSError):
            beside.rename(folder)
            paths.fsync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _refuse_other_address(folder: Path, told: Mapping[str, Any]) -> None:
    held = marked(folder) or {}
    if config.normal_address(str(held.get("uri"))) != told.get("uri"):
        raise InvalidInputError(
            f"the destination {folder.name} was {limits.shown(str(held.get('uri')))}, and is now "
            f"{limits.shown(str(told.get('uri')))}; nothing was sent",
            hint=f"name the new one differently; or, if it is the same server, change the uri in "
            f"{folder / paths.DESTINATION}",
        )


def _is_link(folder: Path) -> bool:
    """Return whether a copy is not in its journal's own folder: a link may lead anywhere."""
    return any(
        each.is_symlink()
        for each in (folder.parent, folder, folder / paths.SPOOL, folder / paths.DATABASE)
    )


def _refuse_links(folder: Path) -> None:
    if _is_link(folder):
        raise JournalCorruptError(
            f"{folder} leads out of its journal's folder by a link; nothing was sent",
            hint="a journal may come from somebody else: remove the link",
        )


def _foreign(folder: Path, journal: Path) -> JournalCorruptError:
    return JournalCorruptError(
        f"{folder} is no copy of the journal at {journal}: their entries differ; nothing was sent",
        hint=f"was a backup of the journal put back? Remove {folder}: `journaltrack sync"
        f"{option_of(folder)} --even-if-behind` makes it again and delivers the whole history",
    )


def _copy(source: Journal, copy: Journal) -> None:
    """Append the entries that the copy lacks."""
    known = copy.database.read(_LAST)
    if known:
        ((seq, digest),) = known
        there = source.database.read("SELECT digest FROM entry WHERE seq = ?", (seq,))
        # Without one it was pruned: the end of each chain stays, so no number comes twice.
        if (there and there[0][0] != digest) or source.last_seq() < seq:
            raise _foreign(copy.path, source.path)
    writers: dict[Any, int] = {}
    read, page = source.database.read, source.database.read_page
    while True:
        # In the transaction: another process may extend the copy, too.
        with copy.database.transaction() as connection:
            (after,) = connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()
            rows = page(_SELECT, (after,))
            if not rows:
                return
            if any(row[_WRITER] not in writers for row in rows):
                _learn(connection, read, writers)
            connection.executemany(
                _INSERT, [(row[_SEQ], writers.get(row[_WRITER], 0), *row[2:]) for row in rows]
            )
            connection.executemany(
                _INSERT_LOCAL,
                [(r[_SEQ], LOCAL_STAYS, r[_RECORDED]) for r in rows if r[_KIND] == LOCAL],
            )


def _learn(
    connection: sqlite3.Connection, read: Callable[[str], list[Any]], writers: dict[Any, int]
) -> None:
    """Take over the processes, components and contents that the copy lacks."""
    here = dict(connection.execute("SELECT uuid, id FROM writer").fetchall())
    for row in read(_WRITERS):
        if row[_UUID] not in here:
            cursor = connection.execute(_INSERT_WRITER, row[1:])
            here[row[_UUID]] = int(cursor.lastrowid or 0)
        writers[row[0]] = here[row[_UUID]]
    rows = read("SELECT id, name, created_at_ns FROM component")
    connection.executemany(
        "INSERT OR IGNORE INTO component (id, name, created_at_ns) VALUES (?, ?, ?)", rows
    )
    connection.executemany(
        "INSERT OR IGNORE INTO blob VALUES (?, ?, ?)",
        read("SELECT sha256, size_bytes, spooled_at_ns FROM blob"),
    )


def _link(source: Journal, copy: Journal) -> None:
    """Give the copy the contents that it has to deliver; remove what nobody needs any more."""
    theirs, own = Spool(source.path / paths.SPOOL), Spool(copy.path / paths.SPOOL)
    needed = {
        sha256: size
        for sha256, size in copy.database.read(_NEEDED)
        if isinstance(sha256, str) and is_digest(sha256)
    }
    for sha256, size_bytes in needed.items():
        if own.has(sha256) or not theirs.has(sha256):
            continue
        path = own.path_of(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            os.link(theirs.path_of(sha256), path)
        # A file system without links.
        except OSError:
            own.take_over(theirs.folder, sha256, size_bytes)
    for sha256 in _held(own.folder):
        if sha256 not in needed and not theirs.has(sha256):
            own.path_of(sha256).unlink(missing_ok=True)


def _held(spool: Path) -> Iterator[str]:
    for folder in sorted(spool.iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            yield from (file.name for file in sorted(folder.iterdir()) if is_digest(file.name))
