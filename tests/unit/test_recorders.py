"""Who recorded a run, by one rule, and what is told of how processes differ."""

from __future__ import annotations

import json

import pytest

from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import Entry
from journaltrack.journal.writer_records import WriterRecord
from journaltrack.reports.processes import WRITERS_MAX, Recorders, compared, differences, told

pytestmark = pytest.mark.fast


def entry(writer_id, kind, name=None, **detail):
    """An entry of a writer."""
    payload = json.dumps(detail) if detail else None
    return Entry(
        1, writer_id, 1, 1, "run", "component", kind, name, None, None, None, payload, 1, b""
    )


def writer(number, started_s=None, **members):
    """A process."""
    known = {
        "uuid": str(number),
        "host": "node",
        "pid": number,
        "user": "ada",
        "program": "train.py",
        "started_at_ns": (started_s or number) * 10**9,
        "package_version": "0.1",
        "python_version": "3.11",
        "git_commit": "a" * 40,
        **members,
    }
    return WriterRecord(number, **known)


def recorded(*entries, writers=writer):
    """The numbers of the writers that recorded a run with some entries."""
    recorders = Recorders()
    for each in entries:
        recorders.add(each)
    return [each.id for each in recorders.records(writers)]


def test_who_only_comes_later_did_not_record_the_run():
    """Tags, notes, a final status, and the file that a pass makes of parameters; if that is all,
    whoever there is.
    """
    later = [
        entry(2, vocabulary.TAGS),
        entry(3, vocabulary.NOTE),
        entry(4, vocabulary.STATUS, primary="Failed"),
        entry(5, vocabulary.UPLOAD, "parameters.json", of="parameters"),
        entry(5, vocabulary.OUTPUT, "parameters.json"),
    ]
    for kind, detail in (
        (vocabulary.CREATE, {"owner": "me"}),
        (vocabulary.LOAD, {}),
        (vocabulary.PARAMETER, {}),
        (vocabulary.UPLOAD, {}),
        (vocabulary.STATUS, {"primary": "InProgress"}),
    ):
        assert recorded(entry(1, kind, **detail), *later) == [1], kind
    assert recorded(*later) == [2, 3, 4, 5]


def test_the_newest_process_is_the_last_whatever_the_order_of_a_merge():
    """Ids follow the order in which copies were merged; the newest of many are kept."""
    entries = [entry(number, vocabulary.CREATE) for number in (1, 2, 3)]
    began = {1: 30, 2: 10, 3: 20}
    assert recorded(*entries, writers=lambda n: writer(n, began[n])) == [2, 3, 1]
    many = [entry(number, vocabulary.CREATE) for number in range(1, 101)]
    assert recorded(*many) == list(range(101 - WRITERS_MAX, 101))
    assert recorded(*entries, writers=lambda n: None if n == 2 else writer(n)) == [1, 3]


def test_an_imported_run_belongs_to_who_resumed_it():
    """As long as nobody did, the import's processes only say who copied it."""
    tags = {"imported_from": "csv", "imported_id": "old"}
    parts = [
        entry(1, vocabulary.CREATE, tags=tags),
        entry(2, vocabulary.PARAMETER, "lr"),
    ]
    recorders = Recorders()
    for each in parts:
        recorders.add(each)
    found = recorders.records(writer)
    assert ([each.id for each in found], recorders.is_import(found)) == ([1, 2], True)
    assert recorders.imported_from == "csv, old"
    recorders.add(entry(3, vocabulary.CREATE, resume=True))
    found = recorders.records(writer)
    assert ([each.id for each in found], recorders.is_import(found)) == ([3], False)


@pytest.mark.parametrize(
    ("earlier", "text"),
    [
        ({}, ""),
        (
            {"git_commit": "b" * 40, "git_dirty": True},
            f"commit {'b' * 12} with uncommitted changes",
        ),
        ({"git_commit": None}, "commit unknown"),
        ({"git_dirty": True}, f"commit {'a' * 12} with uncommitted changes"),
        (
            {"host": "other", "user": "bob", "python_version": "3.10"},
            "host other; user bob; Python 3.10",
        ),
        ({"packages": {"numpy": "1.26", "torch": "2.0"}}, "numpy 1.26, torch 2.0, zarr (none)"),
        ({"packages": {}}, ""),
        (
            {"packages": {f"p{n}": "1" for n in range(9)}},
            "numpy (none), p0 1, p1 1, p2 1, p3 1, 6 packages more",
        ),
    ],
)
def test_an_earlier_process_tells_what_was_different(earlier, text):
    """With its values; what only one of both recorded is no difference of packages."""
    newest = writer(2, packages={"numpy": "2.0", "zarr": "3.0"})
    before = writer(1, **{"packages": newest.packages, **earlier})
    assert differences(newest, before) == text


def test_views_get_the_newest_process_and_a_line_for_each_earlier_one():
    """The newest of these first; of an import no code, and of nobody nothing."""
    rows = told([writer(1, host="old"), writer(2), writer(3)], imported_from=None, is_import=False)
    labels = [label for label, _ in rows]
    assert labels == ["recorded by", "commit", "program", "versions", "before", "before"]
    texts = [text for _, text in rows]
    assert texts[0].endswith("; the newest of 3 processes")
    assert "pid 3" in texts[0]
    assert (texts[-2].endswith("the same code and packages"), texts[-1].endswith(": host old")) == (
        True,
        True,
    )
    rows = told([writer(1)], imported_from="csv, old", is_import=True)
    assert [label for label, _ in rows] == ["imported from", "imported by"]
    assert told([], imported_from=None, is_import=False) == []


def test_runs_of_other_code_are_told_apart():
    """By commit, changes, host and packages; of a run without a process nothing is made up."""
    one = writer(1, packages={"numpy": "2.0", "torch": "3.0"})
    two = writer(2, git_commit="b" * 40, git_dirty=True, host="other", packages={"numpy": "2.1"})
    code, packages = compared([(one, None), (None, None), (two, "c" * 64)])
    assert code == {
        "commit": ("a" * 12, None, f"{'b' * 12} with uncommitted changes"),
        "host": ("node", None, "other"),
        "uncommitted changes": (None, None, "c" * 12),
    }
    assert packages == {"numpy": ("2.0", None, "2.1"), "torch": ("3.0", None, None)}
    # The same commit with other changes is other code.
    changed = [(writer(n, git_dirty=True), sha256 * 64) for n, sha256 in ((1, "c"), (2, "d"))]
    assert compared(changed) == ({"uncommitted changes": ("c" * 12, "d" * 12)}, {})
    assert compared([(one, None), (writer(3, packages=one.packages), None)]) == ({}, {})
    # A process that told no packages, and an import, differ from nothing.
    assert compared([(one, None), (writer(3), None), (None, None)]) == ({}, {})
