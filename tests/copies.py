"""Helpers of tests about copies of a journal: recording, syncing against a remote in memory, and
what a copy holds.
"""

from __future__ import annotations

import contextlib
import sqlite3

from journaltrack.journal import view, vocabulary
from journaltrack.journal.chain import ChainProblem
from journaltrack.journal.journal import Journal
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.proof.check import (
    anchor_problems,
    bad_contents,
    database_problems,
    proved,
    references_without_blob,
)
from tests import independent_verifier

CATEGORY = {"superseded": "delivered", None: "pending"}


def record(folder, *drafts, component="a", at_ns=None):
    """A process records a creation and these drafts in a component."""
    journal = Journal.open(folder, **({} if at_ns is None else {"clock_ns": lambda: at_ns}))
    journal.append(
        journal.component(component),
        [vocabulary.create(owner=f"owner of {component}", resume=True), *drafts],
    )
    journal.close()


def points(*values):
    """Points of one metric."""
    return [vocabulary.metric("m", float(value), None, 1) for value in values]


def sync(folder, remote, **options):
    """A pass."""
    journal = Journal.open(folder, create=False)
    try:
        return Reconciler(journal, remote, options=Options(**options)).run()
    finally:
        journal.close()


def read(folder, sql, *parameters):
    """Rows of a journal."""
    journal = Journal.open(folder, create=False, read_only=True)
    try:
        return journal.database.read(sql, parameters)
    finally:
        journal.close()


@contextlib.contextmanager
def without_triggers(folder):
    """A connection to a journal of somebody who knows SQL: the triggers are dropped, and put
    back.
    """
    with contextlib.closing(
        sqlite3.connect(folder / "journal.db", isolation_level=None)
    ) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        try:
            yield connection
        finally:
            for _, sql in triggers:
                connection.execute(sql)


def change(folder, sql, *parameters):
    """Tamper with a journal, triggers or not."""
    with without_triggers(folder) as connection:
        connection.execute(sql, parameters)


def content(folder):
    """Digest and state of every entry, by what it is in every copy."""
    rows = read(
        folder,
        "SELECT w.uuid, e.writer_seq, e.digest, d.outcome FROM entry e "
        "JOIN writer w ON w.id = e.writer_id LEFT JOIN delivery d ON d.seq = e.seq",
    )
    return {
        (uuid, place): (digest, CATEGORY.get(outcome, outcome))
        for uuid, place, digest, outcome in rows
    }


def states(folder):
    """How many entries are in which state."""
    found = {}
    for _, state in content(folder).values():
        found[state] = found.get(state, 0) + 1
    return found


def verify_chains(journal, *, anchors=None):
    """What ``journaltrack check`` finds wrong with pages, chains, tables and contents."""
    with view.opened(journal) as own:
        problems = list(database_problems(own.database))
        with proved(own.database) as (found, evidence):
            problems += found
            problems += references_without_blob(own.database)
            problems += anchor_problems(own.database, anchors or {}, evidence.gaps)
            bad = bad_contents(own.database)
    return problems + [ChainProblem("blob", why, sha256=sha256) for sha256, why in bad.items()]


def sound(folder):
    """Every chain holds, and all tables are what was attested."""
    assert verify_chains(folder) == []
    assert independent_verifier.verify(folder) == []
