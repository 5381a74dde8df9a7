"""Check what is inside the database, and the artifact bytes that its entries name.

The checks cover pages, schema, records, chains, clock and spool. Invariants: they only read, and
see the database through one snapshot. In the spool they follow no link and open only regular
files.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.doctor.findings import Check, Finding
from journaltrack.journal import removed, view, vocabulary
from journaltrack.journal.queries import OVERLOOKED
from journaltrack.journal.schema import schema
from journaltrack.replay.evidence import taken
from journaltrack.replay.lease import TTL_S
from journaltrack.reports.proof.check import (
    ADVICE,
    anchor_problems,
    anchors_fitting,
    bad_contents,
    database_problems,
    is_absent,
    needed_contents,
    record_evidence,
    references_without_blob,
)
from journaltrack.util import paths
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database


def check_spool(database: Database) -> Iterator[Finding]:
    """Check every recorded content, and every file in the spool."""
    folder = database.path.parent
    wanted = needed_contents(database)
    bad = bad_contents(database)
    needed = {sha256: message for sha256, message in bad.items() if sha256 in wanted}
    if needed:
        yield Finding(
            "spool",
            "problem",
            _listed(needed),
            "artifacts with these bytes can't be delivered; all else can",
            "`journaltrack check --repair --restore-from FOLDER` restores them from a folder "
            "that still has the files; then run `journaltrack retry`",
            "spool",
            tuple(sorted(needed)),
        )
    gone = {
        sha256: message
        for sha256, message in bad.items()
        if sha256 not in wanted and is_absent(folder / paths.SPOOL, sha256)
    }
    if gone:
        yield Finding(
            "spool",
            "note",
            _listed(gone),
            "they are delivered: S3 holds them",
            "do nothing, unless you want them here too",
            None,
            tuple(sorted(gone)),
        )
    changed = {sha256: message for sha256, message in bad.items() if sha256 not in {*wanted, *gone}}
    if changed:
        yield Finding(
            "spool",
            "problem",
            _listed(changed),
            "somebody or the disk changed contents that are delivered: S3 holds them as they were",
            "`journaltrack check --remote` compares them; `journaltrack check --repair` moves "
            "the changed ones aside",
            "spool",
            tuple(sorted(changed)),
        )
    for problem in references_without_blob(database):
        yield Finding(
            "spool",
            "problem",
            problem.message,
            "the artifact can't be delivered unless its bytes are found",
            "run `journaltrack check --repair --restore-from FOLDER`, then `journaltrack retry`",
            "spool",
            (str(problem.sha256),),
        )
    yield from _strangers(
        folder, {str(sha256) for (sha256,) in database.read("SELECT sha256 FROM blob")}
    )


def _listed(bad: dict[str, str]) -> str:
    messages = [bad[sha256] for sha256 in sorted(bad)]
    return "; ".join(messages[:3]) + (
        f"; and {len(messages) - 3} more" if len(messages) > 3 else ""  # noqa: PLR2004
    )


def _strangers(folder: Path, recorded: set[str]) -> Iterator[Finding]:
    strangers = [
        path
        for path in files_in_spool(folder)
        if path.name not in recorded and not path.name.startswith("incoming-")
    ]
    if strangers:
        yield Finding(
            "spool",
            "note",
            f"files in the spool that belong to no entry: {len(strangers)}",
            "a kill left them before their call was recorded, or their entry is on a page that "
            "is lost: they are kept",
            "remove them by hand if the journal has no other problem",
            subjects=tuple(str(path.relative_to(folder)) for path in strangers[:100]),
        )


def files_in_spool(folder: Path) -> Iterator[Path]:
    """Yield all files of the spool (two levels; links are not followed)."""
    spool = folder / paths.SPOOL
    if spool.is_symlink() or not spool.is_dir():
        return
    with os.scandir(spool) as found:
        for entry in sorted(found, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as inside:
                    yield from (Path(e.path) for e in sorted(inside, key=lambda e: e.name))
            else:
                yield Path(entry.path)


_WAL_LARGE_BYTES: Final = 256 << 20
_CLOCK_STEP_NS: Final = 60 * 10**9
"""A larger clock difference is worth a note; a smaller one is a time server's work."""
_TIMES_AT_ONCE: Final = 20_000
_ALTERED: Final = (
    "first copy the whole journal, and compare it with a backup; "
    "`journaltrack sync` holds back what its chain does not prove, `--unproved` sends it"
)
_ANOTHER_ANCHOR: Final = (
    "compare the journal ids, and name an anchor of this journal as it was kept: `journaltrack "
    "report` writes one, and a sync puts them into S3"
)
_NOT_HERE: Final = "a process that is not in this journal"
_ALONE: Final = (
    "nobody changed or removed what these chains had then; the anchor says nothing of other "
    "chains: it names only those that grew since the anchor before, which was not given"
)
_ALL_ANCHORS: Final = (
    "give all anchors from number 1 on, each with `--anchor`; or the anchor of a `journaltrack "
    "report`, which names all chains"
)
_KINDS: Final = tuple(sorted(vocabulary.KINDS))


def check_pages(database: Database) -> Iterator[Finding]:
    """Run SQLite's own check, and check the size of its log."""
    problems = [problem.message for problem in database_problems(database)]
    if problems:
        yield damaged(
            f"SQLite finds the database damaged: {'; '.join(problems[:3])}"
            + (" ..." if len(problems) > 3 else "")  # noqa: PLR2004
        )
    log = database.path.with_name(f"{database.path.name}-wal")
    if log.exists() and log.stat().st_size > _WAL_LARGE_BYTES:
        yield Finding(
            "database",
            "warning",
            f"the write-ahead log has {log.stat().st_size} bytes",
            "nothing is lost, but opening and reading the journal get slow; a process that reads "
            "for hours keeps the log growing",
            "end long readers, then run `journaltrack check --repair` to empty the log",
            "log",
        )


def damaged(message: str) -> Finding:
    """Return the finding that makes a repair rebuild the database."""
    return Finding(
        "database",
        "problem",
        message,
        "entries on damaged pages can't be read; the others can",
        "end the processes that log, then run `journaltrack check --repair`: it rebuilds the "
        "database from all that is readable and keeps the damaged files",
        "rebuild",
    )


def objects(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Return the normalized SQL of a database's objects, by (type, name).

    Objects are tables, indexes, triggers and views.
    """
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {(str(kind), str(name)): "".join(str(sql).split()) for kind, name, sql in rows}


def expected_objects() -> dict[tuple[str, str], str]:
    """Return the objects of a journal that this version creates."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.create(connection, journal_id="", now_ns=0, version="")
        return objects(connection)


def check_schema(database: Database) -> Iterator[Finding]:
    """Check that the schema has a journal's objects, and no others."""
    with database.lock:
        found, expected = objects(database.connection), expected_objects()
    strange = {key: sql for key, sql in found.items() if expected.get(key) != sql}
    foreign = sorted(
        name
        for (kind, name), sql in strange.items()
        if kind != "table" or (kind, name) in expected or "VIRTUAL" in sql[:20].upper()
    )
    harmless = sorted(name for _, name in strange if name not in foreign)
    missing = sorted((kind, name) for kind, name in expected if (kind, name) not in found)
    if foreign:
        yield Finding(
            "schema",
            "problem",
            "the database has objects that are not a journal's, or differ from a journal's: "
            f"{', '.join(foreign)}",
            "somebody else made them; triggers and views among them could change what is "
            "recorded or shown",
            "`journaltrack check --repair` copies the entries into a clean database and keeps "
            "this one in damaged/",
            "rebuild",
            tuple(foreign),
        )
    if harmless:
        yield Finding(
            "schema",
            "note",
            f"the database has further tables: {', '.join(harmless)}",
            "journaltrack neither reads nor writes them",
            subjects=tuple(harmless),
        )
    tables = [name for kind, name in missing if kind == "table"]
    if tables:
        yield damaged(f"tables are missing: {', '.join(tables)}")
    rest = tuple(name for kind, name in missing if kind != "table")
    if rest:
        yield Finding(
            "schema",
            "problem",
            f"the database misses {', '.join(rest)}",
            "what was recorded is no longer guarded against changes (triggers), or found slowly "
            "(indexes)",
            "`journaltrack check --repair` creates them again; the check of the chains tells "
            "whether entries were changed meanwhile",
            "schema",
            rest,
        )


def check_records(database: Database) -> Iterator[Finding]:
    """Check that the tables agree with each other."""
    read = database.read
    for each, *_ in taken.unfinished(database):
        effect = (
            "nothing is altered or lost; what is pending here may have been sent there already, "
            "so that a sync sends nothing"
        )
        yield Finding("records", "problem", each.text, effect, each.hint)
    for table, rows in (("meta", 1), ("mark", 1), ("lease", 1), ("alembic_version", 1)):
        count = read(f"SELECT count(*) FROM {table}")[0][0]
        if count != rows:
            yield damaged(f"the table {table} has {count} rows, {rows} is right")
            return
    yield from _check_mark(database)
    yield from _check_lease_row(database)
    (strays,) = read(
        "SELECT count(*) FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM entry e "
        "WHERE e.seq = d.seq)"
    )[0]
    if strays:
        yield Finding(
            "records",
            "problem",
            f"settlements of entries that are not there: {strays}",
            "entries were removed from the journal",
            "the check of the chains names the gaps; compare with a copy",
        )
    (nameless,) = read(
        "SELECT count(*) FROM entry e WHERE NOT EXISTS (SELECT 1 FROM component c "
        "WHERE c.id = e.component_id)"
    )[0]
    if nameless:
        yield damaged(f"entries of components that are not recorded: {nameless}")
    unreadable = [
        i for i, text in read("SELECT id, entries FROM receipt") if not _is_readable(text)
    ]
    if unreadable:
        yield Finding(
            "records",
            "problem",
            "receipts that don't say which entries they are about: "
            f"{', '.join(map(str, unreadable[:5]))} ({len(unreadable)} in all)",
            "what those requests sent can't be told; their entries count as they are recorded "
            "otherwise",
            "compare with a copy of the journal",
        )
    yield from _worth_knowing(database)


def _worth_knowing(database: Database) -> Iterator[Finding]:
    """Note what is on the record, and is no problem."""
    unfinished = view.in_flight(database).receipts
    if unfinished:
        yield Finding(
            "records",
            "note",
            f"requests begun and not finished: {unfinished}; a sync is running, or was killed",
            "after a kill the next sync finds out what became of them",
            "journaltrack sync",
        )
    prunes = [removal for removal in removed.removals(database) if removal.entries]
    if prunes:
        yield Finding(
            "records",
            "note",
            f"entries removed on the record: {sum(removal.entries for removal in prunes)}, the "
            f"last {view.iso(prunes[-1].at_ns)}",
            "they were delivered before; `journaltrack audit` says when and by whom they were "
            "removed, and where they are archived",
        )
    places = ",".join("?" * len(_KINDS))
    (unknown,) = database.read(
        f"SELECT count(*) FROM entry WHERE stream <> 'metric' AND kind NOT IN ({places})", _KINDS
    )[0]
    if unknown:
        yield Finding(
            "records",
            "note",
            f"entries of kinds that this version does not know: {unknown}",
            "they are kept and stay pending",
            "install a newer journaltrack to deliver them",
        )


def _is_readable(text: object) -> bool:
    try:
        ranges_in(text)
    except ValueError:
        return False
    return True


def _check_mark(database: Database) -> Iterator[Finding]:
    ((mark,),) = database.read("SELECT seq FROM mark")
    ((newest,),) = database.read("SELECT coalesce(max(seq), 0) FROM entry")
    hidden = 0
    if isinstance(mark, int) and 0 <= mark <= newest:
        ((hidden,),) = database.read(f"SELECT count(*) {OVERLOOKED}", (mark,))
        if not hidden:
            return
    yield Finding(
        "records",
        "problem",
        f"the low-water mark is {mark!r}"
        + (
            f"; pending entries below it: {hidden}" if hidden else f", the newest entry is {newest}"
        ),
        "pending entries below the mark would never be sent",
        "`journaltrack check --repair` computes it again",
        "mark",
    )


def _check_lease_row(database: Database) -> Iterator[Finding]:
    ((generation, expires_at_ns),) = database.read("SELECT generation, expires_at_ns FROM lease")
    if not isinstance(generation, int) or not (
        expires_at_ns is None or isinstance(expires_at_ns, int)
    ):
        yield Finding(
            "records",
            "problem",
            f"the lease can't be read: generation {generation!r}, expires {expires_at_ns!r}",
            "no process can sync the journal",
            "`journaltrack check --repair` creates it again",
            "lease",
        )
        return
    rows = database.read(
        "SELECT owner, host, expires_at_ns FROM lease WHERE owner IS NOT NULL "
        "AND expires_at_ns > ?",
        (time.time_ns(),),
    )
    if rows:
        owner, _, expires_at_ns = rows[0]
        yield Finding(
            "records",
            "note",
            f"the lease is recorded for {owner}",
            "a sync on that machine holds it while that process lives; one that died on another "
            "machine holds it for "
            f"{int(min(TTL_S, max(0, expires_at_ns - time.time_ns()) / 1e9))} s more",
        )


def check_chains(
    database: Database, anchors: Mapping[str, bytes] | None = None
) -> Iterator[Finding]:
    """Check that entries, writers and settlements are as they were recorded.

    Args:
        database: Of the journal.
        anchors: Documents by name to check the journal against, see ``reports.proof.check``.
    """
    problems, evidence = record_evidence(database)
    documents = anchors or {}
    problems += anchor_problems(database, documents, evidence.gaps)
    for problem in problems:
        whose = ""
        if problem.writer:
            who = f"pid {problem.pid} on {problem.host}"
            known = problem.pid is not None or problem.host is not None
            whose = f" (writer {problem.writer}, {who if known else _NOT_HERE})"
        # Derived tables are no evidence.
        check: Check = "records" if problem.kind == "record" else "chains"
        advice = _ANOTHER_ANCHOR if problem.kind == "anchor file" else _ALTERED
        yield Finding(check, "problem", f"{problem.message}{whose}", ADVICE[problem.kind], advice)
    for message, has_all_before in anchors_fitting(database, documents, problems, evidence.gaps):
        if has_all_before:
            meaning = "nobody changed or removed what the journal had when the anchor was made"
            yield Finding("chains", "note", message, meaning)
        else:
            yield Finding("chains", "warning", message, _ALONE, _ALL_ANCHORS)


def check_clock(database: Database) -> Iterator[Finding]:
    """Check whether a node's clock jumped, or is ahead of this one."""
    sql = "SELECT count(*), max(recorded_at_ns) FROM entry WHERE recorded_at_ns > ?"
    ((ahead, newest_ns),) = database.read(sql, (time.time_ns() + _CLOCK_STEP_NS,))
    effect = (
        "order is kept; metrics carry the time of that clock: see `timestamps` in "
        "docs/configuration.md; docs/analysis.md shows how to list them"
    )
    if ahead:
        yield Finding(
            "clock",
            "note",
            f"entries recorded in the future of this machine's clock: {ahead}, until "
            f"{view.iso(newest_ns)}",
            effect,
        )
    back = _steps_back(database)
    if back:
        yield Finding(
            "clock",
            "note",
            f"the clock went back by more than a minute while something was logged; times: {back}",
            effect,
        )


def _steps_back(database: Database) -> int:
    """Count how often a writer's clock went back between two of its entries."""
    sql = (
        "SELECT seq, writer_id, recorded_at_ns FROM entry WHERE seq > ? "
        "AND typeof(recorded_at_ns) = 'integer' AND typeof(writer_id) = 'integer' ORDER BY seq "
        f"LIMIT {_TIMES_AT_ONCE}"
    )
    last_ns: dict[int, int] = {}
    after_seq = times = 0
    while page := database.read(sql, (after_seq,)):
        for _, writer_id, recorded_ns in page:
            times += recorded_ns < last_ns.get(writer_id, recorded_ns) - _CLOCK_STEP_NS
            last_ns[writer_id] = recorded_ns
        after_seq = page[-1][0]
    return times
