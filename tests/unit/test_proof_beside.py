"""The entries' chains are followed in a process beside the rest of a proof. Only its word that all
of them hold counts, and only for the caller's own snapshot.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing

import pytest

from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.evidence import statements
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.proof import beside, check
from journaltrack.util import process
from tests.builders import CREATION, opened, points
from tests.copies import change


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A journal with delivered points, large enough for a process."""
    monkeypatch.setattr(beside, "ENTRIES_MIN", 10)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with opened(tmp_path, {"run": [CREATION, *points(25)]}) as journal:
        Reconciler(journal, MemoryRemote(), options=Options()).run()
    return tmp_path / "journal"


def proved(folder):
    """From where this process followed the chains, and what the proof found."""
    said = []
    chain_problems = check.chain_problems

    def noted(database, gaps, pruned_to, begin=None):
        """Note from where the chains are followed here: 0 is the beginning."""
        said.append(0 if begin is None else begin.seq)
        return chain_problems(database, gaps, pruned_to, begin)

    with pytest.MonkeyPatch.context() as patch, closing(Journal.open(folder, read_only=True)) as it:
        patch.setattr(check, "chain_problems", noted)
        with check.proved(it.database) as (problems, _):
            return said, [problem.kind for problem in problems]


def test_a_journal_that_holds_is_proved_there(folder):
    """The rest is followed here: with attestations to read less than half."""
    assert proved(folder) == ([26], [])


@pytest.fixture
def pending(folder, monkeypatch):
    """The same journal, of which half is followed here."""
    monkeypatch.setattr(beside, "_ENTRIES_OF_ATTESTATION", 0)
    return folder


def test_without_attestations_each_follows_a_half(pending):
    """There is nothing else to do here meanwhile."""
    assert proved(pending) == ([13], [])


@pytest.mark.parametrize(("seq", "begins"), [(5, [0]), (13, [0]), (14, [13, 0]), (26, [13, 0])])
def test_what_does_not_hold_is_found_here(pending, seq, begins):
    """Before the middle the process says nothing. Behind it, all is looked at again."""
    change(pending, f"UPDATE entry SET value = 70 WHERE seq = {seq}")
    assert proved(pending) == (begins, ["chain"])


def test_an_entry_whose_writer_has_none_behind_the_middle(pending):
    """Its chain ends there, and another one's begins behind it."""
    with closing(Journal.open(pending)) as journal:
        journal.append(journal.component("run"), points(30))
    assert proved(pending) == ([28], [])


@pytest.mark.parametrize("what", ["last", "middle"])
def test_an_entry_that_is_gone_is_found_here(folder, what):
    """From the middle, or with what is recorded of it."""
    change(folder, f"DELETE FROM entry WHERE seq = {26 if what == 'last' else 20}")
    said, kinds = proved(folder)
    assert kinds
    assert said == ([25] if what == "last" else [0])


@pytest.mark.parametrize(
    "code", ["pass", "import sys; sys.exit(1)", "print('[[13,13,0],[]]')", "1/0", "print([])"]
)
def test_another_word_counts_for_nothing(folder, monkeypatch, code):
    """Also of a program that is no Python, and ends without an error."""
    monkeypatch.setattr(beside, "_CODE", code)
    assert proved(folder) == ([0], [])


def test_without_a_process_all_is_followed_here(folder, monkeypatch):
    """A frozen program, one core, or a system that starts none."""
    for patched, name, value in (
        (process, "can_have_child", lambda: False),
        (os, "cpu_count", lambda: None),
        (beside.subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(OSError())),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(patched, name, value)
            assert proved(folder) == ([0], [])


def test_what_is_appended_meanwhile_is_not_its_matter(folder, monkeypatch):
    """The process may see later entries, and follows those of the caller's snapshot alone."""
    python = process.python

    def append_first(*arguments):
        """Append before the process starts."""
        with closing(Journal.open(folder)) as journal:
            journal.append(journal.component("run"), points(3))
        return python(*arguments)

    monkeypatch.setattr(process, "python", append_first)
    assert proved(folder) == ([26], [])


def test_the_usual_body_is_read_as_any_other(folder):
    """The short way gives what the general one gives, and takes nothing else for it."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        bodies = [body for (body,) in connection.execute("SELECT body FROM attestation")]
    usual = [body for body in bodies if statements.plain(body) is not None]
    assert len(usual) == 3
    for body in usual:
        assert statements.plain(body) == statements.said(json.loads(body))
        members = json.loads(body)
        for name, value in {
            "arn": "arn:x",
            "missing": True,
            "outcome": "failed",
            "component": 'a"b',
            "settled": [["in doubt", None, None]],
            "generation": 2**61 + 1,
            "attempts": 2**63,
            "started_at_ns": -1,
            "finished_at_ns": 1.5,
            "request_id": "\N{SNOWMAN}",
            "entries": {"a": "1-3,5"},
            "more": 1,
        }.items():
            text = json.dumps({**members, name: value}, separators=(",", ":"))
            assert statements.plain(text) is None, name
        for wrong in ('"0-3"', '"3-2"', '"1-3-4"', '"-1"'):
            text = body.replace(json.dumps(next(iter(members["entries"].values()))), wrong)
            assert statements.plain(text) is None, wrong
            with pytest.raises(ValueError):
                statements.read(text)
        assert statements.plain(body + " ") is None
        assert statements.plain(body[:-1]) is None
    assert statements.plain(None) is None
