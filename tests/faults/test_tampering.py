"""Attacks on the proof: flipped bytes, edited, removed, inserted, reordered and forged records,
swapped artifacts.

Each is found and named, by ``check`` and by a verifier that knows docs/journal-format.md alone;
what can't be found without a copy or a noted head is here, too. JOURNALTRACK_SOAK from 10 on flips
every byte.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.errors import JournaltrackError
from journaltrack.journal import vocabulary
from journaltrack.journal.chain import ProblemKind
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import Draft, chain_next_entries
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.proof.check import ADVICE
from tests import independent_verifier, tally
from tests.copies import change, verify_chains, without_triggers
from tests.faults import hostile, tampering
from tests.golden import REVISIONS, restore
from tests.migrations.test_golden import _made_by_the_old_release

SOAK = float(os.environ.get("JOURNALTRACK_SOAK", "1"))
STRIDE = max(1, int(60 / SOAK)) if SOAK < 10 else 1
SEED = int(os.environ.get("JOURNALTRACK_SEED", "42"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A journal in one file, in which everything has happened; not to be changed."""
    folder = tampering.make(tmp_path_factory.mktemp("model") / "j")
    assert not (folder / "journal.db-wal").exists()
    return folder


@pytest.fixture
def journal(model, tmp_path):
    """A copy of the model, in which everything has happened: to be changed."""
    return Path(shutil.copytree(model, tmp_path / "j"))


def tamper(folder, script):
    """Somebody who knows SQL."""
    with without_triggers(folder) as connection:
        before = connection.total_changes
        if callable(script):
            script(connection)
        else:
            connection.executescript(script)
        assert connection.total_changes > before, "it changed nothing"


def found(folder):
    """What is found, with nothing changed by looking."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    problems = verify_chains(folder)
    assert {path: path.read_bytes() for path in before} == before
    return problems


# -- bytes
# ------------------------------------------------------------------------------------------------


def outcome(folder):
    """How a damaged journal is met: "refused" by an error of ours, "found", or None."""
    try:
        return "found" if verify_chains(folder) else None
    except JournaltrackError:
        return "refused"


def test_every_flipped_byte_of_the_database_is_found_or_changes_no_evidence(journal):
    """No flip crashes, is written over, or changes what is evidence without being found; both
    verifiers agree on that.
    """
    file = journal / "journal.db"
    image, evidence = file.read_bytes(), tampering.content(file)
    wordless = _wordless(file)
    places, chance = tampering.used(image), random.Random(SEED)
    counts = dict.fromkeys(("found", "refused", None), 0)
    descriptor = os.open(file, os.O_RDWR)
    try:
        for number, place in enumerate(places[SEED % STRIDE :: STRIDE]):
            flipped = bytes([image[place] ^ chance.randrange(1, 256)])
            os.pwrite(descriptor, flipped, place)
            met = outcome(journal)
            counts[met] += 1
            if met is None:
                assert tampering.content(file) == evidence, (
                    f"the flip of byte {place} to {flipped!r} is not found"
                )
            if number % 4 == 0 and not independent_verifier.verify(journal):
                assert _wordless(file) in (wordless, None), (
                    f"the flip of byte {place} to {flipped!r} is not found by the document's "
                    "verifier"
                )
            assert (
                os.pread(descriptor, len(image) + 1, 0)
                == image[:place] + flipped + image[place + 1 :]
            ), "it was written over"
            os.pwrite(descriptor, image[place : place + 1], place)
    finally:
        os.close(descriptor)
    assert counts["found"] > 10 * counts[None]
    tally.count(
        "flipped bytes of a database", attacks=sum(counts.values()), checked=sum(counts.values())
    )


def _wordless(file):
    """The evidence for those who do not know in which words the package refuses; None if a
    broken schema keeps anybody from reading it.
    """
    try:
        content = tampering.content(file)
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    content["delivery"] = [
        (*row[:3], row[4]) if row[1] == "None" else row for row in content["delivery"]
    ]
    return content


def test_bytes_of_no_meaning_have_none(journal):
    """All bytes between the cells of all pages at once: nothing is found, since nothing is
    changed.
    """
    file = journal / "journal.db"
    image = bytearray(file.read_bytes())
    evidence, used = tampering.content(file), set(tampering.used(image))
    for place in set(range(len(image))) - used:
        image[place] ^= 0xFF
    file.write_bytes(image)
    assert tampering.content(file) == evidence
    assert verify_chains(journal) == []


def test_every_flipped_byte_of_an_artifact_is_found(journal):
    """Each byte of each blob; the digest of the blob is named."""
    for blob in [path for path in (journal / "spool").rglob("*") if path.is_file()]:
        image = blob.read_bytes()
        for place in range(len(image)):
            blob.write_bytes(image[:place] + bytes([image[place] ^ 0x20]) + image[place + 1 :])
            (problem,) = verify_chains(journal)
            assert (problem.kind, problem.sha256) == ("blob", blob.name)
        blob.write_bytes(image)
    assert verify_chains(journal) == []


def test_every_truncation_of_the_file_is_met(journal):
    """A file that ends early, at any page or inside of one, is refused or found."""
    file = journal / "journal.db"
    image = file.read_bytes()
    for length in {*range(0, len(image), 4096), *random.Random(SEED).sample(range(len(image)), 20)}:
        file.write_bytes(image[:length])
        assert outcome(journal) is not None, length
        assert file.read_bytes() == image[:length]


# -- records
# ------------------------------------------------------------------------------------------------

SWAP = (
    "UPDATE entry SET seq = -1 WHERE seq = {0}; UPDATE entry SET seq = {0} "
    "WHERE seq = {1}; UPDATE entry SET seq = {1} WHERE seq = -1"
)
COPY = (
    "writer_id, {writer_seq}, component_id, stream, kind, name, value, step, timestamp_ns, "
    "payload, recorded_at_ns, digest FROM entry"
)

THE_RECEIPT = "(SELECT id FROM receipt WHERE entries IN ('10-11,13', 'nonsense'))"
"""Of the request that delivered three points; which number it has depends on what else was under
way.
"""
ATTACKS = {
    # entries
    "a value": ("UPDATE entry SET value = 0.25 WHERE seq = 11", "entry 11 .*digest does not fit"),
    "a value by the smallest bit": (
        "UPDATE entry SET value = 0.33333333333333337 WHERE seq = 13",
        "entry 13 .*digest does not fit",
    ),
    "a name": ("UPDATE entry SET name = 'less' WHERE seq = 11", "entry 11 .*digest does not fit"),
    "a step": ("UPDATE entry SET step = NULL WHERE seq = 11", "entry 11 .*digest does not fit"),
    "a time": (
        "UPDATE entry SET timestamp_ns = timestamp_ns + 1 WHERE seq = 11",
        "entry 11 .*digest does not fit",
    ),
    "when it was recorded": (
        "UPDATE entry SET recorded_at_ns = recorded_at_ns - 1 WHERE seq = 11",
        "entry 11 .*digest does not fit",
    ),
    "a payload": (
        "UPDATE entry SET payload = replace(payload, 'quo', 'duo') WHERE seq = 7",
        "entry 7 .*digest does not fit",
    ),
    "a value that NaN stands for": (
        "UPDATE entry SET value = 1.0 WHERE seq = 9",
        "entry 9 .*digest does not fit",
    ),
    "a kind": ("UPDATE entry SET kind = 'input' WHERE seq = 7", "entry 7 .*digest does not fit"),
    "whose component it is": (
        "UPDATE entry SET component_id = 3 - component_id WHERE seq = 11",
        "entry 11 .*digest does not fit",
    ),
    "a digest": (
        "UPDATE entry SET digest = zeroblob(32) WHERE seq = 11",
        "entry 11 .*digest does not fit",
    ),
    "the last digest": (
        "UPDATE entry SET digest = zeroblob(32) WHERE seq = 41",
        "entry 41 .*digest does not fit",
    ),
    "a place that is text": (
        "UPDATE entry SET writer_seq = 'x' WHERE seq = 11",
        "entry 11 is number 'x' of its writer",
    ),
    "removed from the middle": (
        "DELETE FROM entry WHERE seq = 11",
        "entry 13 is number 9 of its writer, 8 was expected.*removed",
    ),
    "removed with its settlement": (
        "DELETE FROM entry WHERE seq = 11; DELETE FROM delivery WHERE seq = 11",
        "entry 13 is number 9 of its writer, 8 was expected.*removed",
    ),
    "removed while pending": (
        "DELETE FROM entry WHERE seq = 35",
        "entry 37 .*was expected.*removed",
    ),
    "the tail of a writer": (
        "DELETE FROM entry WHERE seq = 30; DELETE FROM delivery WHERE seq = 30",
        "entry 30 is gone",
    ),
    "the pending tail of a writer": ("DELETE FROM entry WHERE seq IN (38, 40)", "entry 38 is gone"),
    "reordered": (SWAP.format(35, 37), "entry 35 is number .* was expected"),
    "reordered between writers": (
        SWAP.format(11, 12),
        r"the receipt \d+ is not what was attested of it: entries",
    ),
    "swapped between writers": (
        "UPDATE entry SET writer_id = 3 - writer_id WHERE seq IN (35, 36)",
        "entry 35 .*",
    ),
    "numbered anew": ("UPDATE entry SET seq = 50 WHERE seq = 41", "entries 41 to 49 are gone"),
    "inserted twice": (
        f"INSERT INTO entry SELECT 42, {COPY.format(writer_seq='writer_seq')} WHERE seq = 37",
        "entry 42 .*inserted",
    ),
    "inserted at the end": (
        f"INSERT INTO entry SELECT 42, {COPY.format(writer_seq='24')} WHERE seq = 41",
        "entry 42 .*digest does not fit",
    ),
    "of nobody": (
        "UPDATE entry SET writer_id = 99 WHERE seq = 41",
        "entries from 41 on are of writer 99, which is not recorded",
    ),
    # receipts
    **{
        f"a receipt's {column}": (
            f"UPDATE receipt SET {column} = {value} WHERE id = {THE_RECEIPT}",
            rf"the receipt \d+ is not what was attested of it: {said}",
        )
        for column, value, said in (
            ("action", "'update'", "action"),
            ("component_id", "2", "component"),
            ("entries", "'10-12'", "entries"),
            ("entries", "'10-11'", "entries"),
            ("entries", "'nonsense'", "entries"),
            ("generation", "2", "generation"),
            ("started_at_ns", "1", "started_at_ns"),
            ("finished_at_ns", "1", "finished_at_ns"),
            ("outcome", "'refused'", "outcome"),
            ("attempts", "2", "attempts"),
            ("request_id", "'forged'", "request_id"),
            ("error_code", "'Forged'", "error_code"),
            ("error_text", "''", "error_text"),
            ("finished_at_ns", "NULL", "finished_at_ns"),
        )
    },
    "a receipt removed": (
        f"DELETE FROM receipt WHERE id = {THE_RECEIPT}",
        r"the receipt \d+ is gone",
    ),
    "a receipt forged": (
        (
            "INSERT INTO receipt SELECT 35, action, component_id, '35', generation, "
            "started_at_ns, finished_at_ns, outcome, attempts, 'x', NULL, NULL FROM receipt "
            f"WHERE id = {THE_RECEIPT}; INSERT INTO delivery "
            "VALUES (35, 35, 'delivered', NULL, 1900002000187000000)"
        ),
        "nobody attests the receipt 35",
    ),
    "a receipt removed with all that speaks of it": (
        (
            "UPDATE attestation SET receipt_id = NULL "
            f"WHERE receipt_id = {THE_RECEIPT}; UPDATE delivery SET receipt_id = NULL "
            f"WHERE receipt_id = {THE_RECEIPT}; DELETE FROM receipt WHERE id = {THE_RECEIPT}"
        ),
        r"receipt \d+ is gone",
    ),
    # settlements
    "an outcome": (
        "UPDATE delivery SET outcome = 'superseded' WHERE seq = 11",
        "what became of entry 11 .* is not what was attested",
    ),
    "a settlement's receipt": (
        "UPDATE delivery SET receipt_id = 1 WHERE seq = 11",
        "what became of entry 11 .* is not what was attested",
    ),
    "a reason": (
        "UPDATE delivery SET reason = 'none' WHERE seq = 33",
        "what became of entry 33 .* is not what was attested",
    ),
    "a reason of old": (
        "UPDATE delivery SET reason = 'none' WHERE seq = 31",
        "what became of entry 31 .* does not follow from the entry",
    ),
    "when it was settled": (
        "UPDATE delivery SET settled_at_ns = 1 WHERE seq = 11",
        "what became of entry 11 .* is not what was attested",
    ),
    "when it was refused": (
        "UPDATE delivery SET settled_at_ns = -1 WHERE seq = 31",
        "what became of entry 31 .* does not follow",
    ),
    "a settlement removed": (
        "DELETE FROM delivery WHERE seq = 11",
        r"what became of entry 11 .* was attested \(\d+\), and is not recorded",
    ),
    "a settlement forged": (
        "INSERT INTO delivery VALUES (35, 8, 'delivered', NULL, 1)",
        "what became of entry 35 .* is attested by nobody",
    ),
    "a settlement of nothing": (
        "INSERT INTO delivery VALUES (99, 8, 'delivered', NULL, 1)",
        "entry 99, which is not there",
    ),
    "a refusal forged": (
        (
            "INSERT INTO delivery SELECT seq, NULL, 'quarantined', 'it is ugly', recorded_at_ns "
            "FROM entry WHERE seq = 35"
        ),
        "what became of entry 35 .* does not follow from the entry",
    ),
    "a proof of another content": (
        "UPDATE delivery SET receipt_id = 22 WHERE seq = 25",
        "what became of entry 25 .* is not what was attested",
    ),
    "a proof that is none": (
        "UPDATE delivery SET receipt_id = -84 WHERE seq = 25",
        "what became of entry 25 .* is not what was attested",
    ),
    "a doubt taken away": (
        "UPDATE delivery SET outcome = 'delivered', reason = NULL WHERE seq = 34",
        "what became of entry 34 .* is not what",
    ),
    # attestations
    "a body": (
        "UPDATE attestation SET body = replace(body, 'delivered', 'refused') WHERE receipt_id = 5",
        r"attestation \d+ is not what was attested",
    ),
    "a body that is none": (
        "UPDATE attestation SET body = x'00' WHERE id = 5",
        "attestation 5 is not what was attested",
    ),
    "an attestation removed": (
        "DELETE FROM attestation WHERE id = 5",
        r"attestation 6 is number 6 of its writer, 5 was expected",
    ),
    "the last attestation of a process": (
        "DELETE FROM attestation WHERE id = 14",
        r"nobody attests the receipt \d+",
    ),
    "attestations reordered": (
        (
            "UPDATE attestation SET id = -1 WHERE id = 5; UPDATE attestation SET id = 5 "
            "WHERE id = 6; UPDATE attestation SET id = 6 WHERE id = -1"
        ),
        "attestation 5 is number 6 of its writer, 5 was expected",
    ),
    "an attestation repeated": (
        (
            "INSERT INTO attestation SELECT 99, writer_id, writer_seq + 99, receipt_id, body, digest "
            "FROM attestation WHERE id = 5"
        ),
        "attestation 99 is number 104 of its writer",
    ),
    "whose attestation it is": (
        "UPDATE attestation SET writer_id = 1 WHERE id = 14",
        "attestation 14 is number 14 of its writer, 1 was expected",
    ),
    "which receipt it attests": (
        f"UPDATE attestation SET receipt_id = 1 WHERE receipt_id = {THE_RECEIPT}",
        r"nobody attests the receipt \d+",
    ),
    # what is known of the remote
    "where an artifact is": (
        "UPDATE location SET uri = 's3://mine/x'",
        "was uploaded to is not what was attested",
    ),
    "by which request it is there": (
        "UPDATE location SET receipt_id = 1",
        "was uploaded to is not what was attested",
    ),
    "a place forgotten": (
        "DELETE FROM location WHERE receipt_id = 6",
        "was uploaded, and where to is not recorded",
    ),
    "a place invented": (
        "INSERT INTO location VALUES (1, 'x', '', '', 's3://mine', 3)",
        "was uploaded to is not what was attested",
    ),
    "an ARN": (
        "UPDATE component SET arn = 'arn:mine' WHERE id = 1",
        "recorded of 'Run-A' .* is not what was attested",
    ),
    "an ARN forgotten": (
        "UPDATE component SET arn = NULL WHERE id = 1",
        "recorded of 'Run-A' .* is not what was attested",
    ),
    "when it was confirmed": (
        "UPDATE component SET confirmed_at_ns = NULL WHERE id = 2",
        "recorded of 'run-b' .* is not what was attested",
    ),
    "a component's name": (
        "UPDATE component SET name = 'run-a' WHERE id = 1",
        "entry 1 .*digest does not fit",
    ),
    "a component removed": ("DELETE FROM component WHERE id = 2", "entry 4 .*digest does not fit"),
    "two components' names": (
        (
            "UPDATE component SET name = 'x' WHERE id = 1; UPDATE component SET name = 'Run-A' "
            "WHERE id = 2; UPDATE component SET name = 'run-b' WHERE id = 1"
        ),
        "entry 1 .*digest does not fit",
    ),
    "a field forgotten": (
        "DELETE FROM field WHERE key = 'x'",
        "not recorded that the remote holds 'parameters' 'x'",
    ),
    "a field of an older entry": (
        "UPDATE field SET seq = 3 WHERE key = 'x'",
        "entry 3 is not the one that the remote holds",
    ),
    "a field of nothing": (
        "INSERT INTO field VALUES (1, 'parameters', 'y', 3)",
        "entry 3 is not the one that the remote holds",
    ),
    "a field of another component": (
        "INSERT INTO field VALUES (2, 'parameters', 'text', 7)",
        "entry 7 is not the one that the remote holds",
    ),
    "the mark": ("UPDATE mark SET seq = 41", "entry 35 is not settled, and the low-water mark"),
    "the lease": ("UPDATE lease SET generation = 1", "the lease has generation 1"),
    # who, and what
    **{
        f"a writer's {column}": (
            f"UPDATE writer SET {column} = {value} WHERE id = 1",
            "the writer .* is not as it described itself",
        )
        for column, value in (
            ("host", "'other'"),
            ("pid", "1"),
            ("user", "'other'"),
            ("program", "'other'"),
            ("started_at_ns", "1"),
            ("package_version", "'9'"),
            ("python_version", "'9'"),
            ("git_commit", "'c0ffee'"),
            ("git_dirty", "1 - coalesce(git_dirty, 0)"),
            ("packages", "'{}'"),
            ("context", """'{"command":["python","other.py"]}'"""),
            ("journal_id", "'other'"),
            ("uuid", "'other'"),
            ("digest", "NULL"),
        )
    },
    "a writer without digest": (
        (
            "UPDATE writer SET digest = NULL, git_dirty = NULL, packages = NULL, journal_id = NULL "
            "WHERE id = 1"
        ),
        "entry 1 .*digest does not fit",
    ),
    "a writer removed": (
        "DELETE FROM writer WHERE id = 1",
        "entries from 1 on are of writer 1, which is not recorded",
    ),
    "a reconciler removed": (
        "DELETE FROM writer WHERE id = 3",
        "attestation 1 is of writer 3, which is not recorded",
    ),
    "two writers' ids": (
        (
            "UPDATE writer SET id = -1 WHERE id = 1; UPDATE writer SET id = 1 "
            "WHERE id = 2; UPDATE writer SET id = 2 WHERE id = -1"
        ),
        "entry 1 .*digest does not fit",
    ),
    **{
        f"the journal's {column}": (
            f"UPDATE meta SET {column} = {value}",
            "what the journal says of itself",
        )
        for column, value in (
            ("journal_id", "'other'"),
            ("created_at_ns", "1"),
            ("created_by_version", "'9'"),
            ("required_version", "'9'"),
            ("attested_after_receipt", "99"),
            ("attested_after_ns", "1900002000187000000"),
            ("digest", "NULL"),
        )
    },
    "a blob's row": (
        "DELETE FROM blob WHERE size_bytes > 0",
        "entry 19 names the content .* which is not recorded",
    ),
    "a blob's size": ("UPDATE blob SET size_bytes = size_bytes + 1", "bytes, .* were recorded"),
    "a blob invented": (
        f"INSERT INTO blob VALUES ('{'ab' * 32}', 1, 1)",
        f"the blob {'ab' * 32} is missing",
    ),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_what_was_changed_is_found_and_named(journal, what):
    """Somebody with SQL changes one thing: both verifiers find it, and ours says what it is."""
    script, said = ATTACKS[what]
    tamper(journal, script)
    problems = found(journal)
    assert any(re.search(said, problem.message) for problem in problems), [
        problem.message for problem in problems
    ]
    if what not in {"a reason of old", "a refusal forged"}:  # the words are the package's
        assert independent_verifier.verify(journal)


@pytest.mark.parametrize("seq", range(2, 12))
def test_a_settlement_of_a_request_of_two_writers_is_missed(tmp_path, seq):
    """One request carries the points of two processes: whichever settlement is taken away, it is
    found.
    """
    with (
        closing(Journal.open(tmp_path / "j")) as first,
        closing(Journal.open(tmp_path / "j")) as second,
    ):
        first.append(first.component("a"), [vocabulary.create(owner="owner")])
        for step in range(10):
            (first, second)[step // 5].append_metric(first.component("a"), "loss", 1.0, step, 1)
        Reconciler(first, MemoryRemote(), options=Options()).run()
    assert verify_chains(tmp_path / "j") == []
    tamper(tmp_path / "j", f"DELETE FROM delivery WHERE seq = {seq}")
    (problem,) = [
        problem for problem in verify_chains(tmp_path / "j") if problem.kind == "delivery"
    ]
    assert "is not recorded" in problem.message
    assert independent_verifier.verify(tmp_path / "j")


@pytest.mark.parametrize(
    "what", ["other bytes", "swapped", "missing", "cut off", "longer", "a link"]
)
def test_a_changed_artifact_is_found_and_named(journal, what, tmp_path):
    """The blob's digest is named, and both verifiers find it."""
    blob, empty = sorted(
        (path for path in (journal / "spool").rglob("*") if path.is_file()),
        key=lambda path: -path.stat().st_size,
    )
    content = blob.read_bytes()
    (tmp_path / "elsewhere").write_bytes(content)
    blob.unlink()
    if what == "swapped":
        empty.rename(blob)
        empty.write_bytes(content)
    elif what == "a link":
        blob.symlink_to(tmp_path / "elsewhere")
    elif what != "missing":
        blob.write_bytes(
            {"other bytes": b"G" + content[1:], "cut off": content[:-1], "longer": content + b"\n"}[
                what
            ]
        )
    problems = verify_chains(journal)
    assert blob.name in {problem.sha256 for problem in problems}
    assert all(problem.kind == "blob" and problem.sha256 in problem.message for problem in problems)
    assert independent_verifier.verify(journal)


def test_any_value_in_any_cell_is_found_or_no_evidence(model, tmp_path):
    """Values of every type and of absurd sizes, in rows at random: no crash, and what is not
    found is in a column that proves nothing.
    """
    chance = random.Random(SEED)
    with closing(sqlite3.connect(model / "journal.db")) as connection:
        connection.execute(
            "INSERT OR IGNORE INTO unsettled VALUES (1)"
        )  # the only table that may be empty; it is settled, which is no harm
        connection.commit()
        rows = {}
        for table, _ in hostile.cells(model):
            rows[table] = [
                row
                for (row,) in connection.execute(
                    f"SELECT rowid FROM {table} WHERE rowid <> 34 OR '{table}' <> 'receipt'"
                )
            ]
    met = dict.fromkeys(("found", "refused", None, "impossible"), 0)
    work, evidence = tmp_path / "j", tampering.content(model / "journal.db")
    for table, column in hostile.cells(model):
        for value in chance.sample(hostile.VALUES, min(len(hostile.VALUES), max(1, int(SOAK)))):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(model, work)
            try:
                change(
                    work,
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                    value,
                    chance.choice(rows[table]),
                )
            except (sqlite3.IntegrityError, sqlite3.OperationalError):
                met["impossible"] += 1
                continue
            how = outcome(work)
            met[how] += 1
            assert how is not None or tampering.content(work / "journal.db") == evidence, (
                table,
                column,
                value,
            )
            independent_verifier.verify(work)
    assert met["found"] > 3 * met[None]
    tally.count(
        "values of any type in any cell",
        attacks=sum(met.values()) - met["impossible"],
        checked=met["found"],
    )


def test_the_command_says_what_was_found_what_it_means_and_what_to_do(journal):
    """Exit code 8; each problem, and for each kind of them once what it means."""
    tamper(
        journal,
        "UPDATE entry SET value = 0.25 WHERE seq = 11; DELETE FROM delivery WHERE seq IN (10, 13)",
    )
    result = CliRunner().invoke(main, ["check", "--journal", str(journal)])
    assert result.exit_code == 8
    assert "entry 11 " in result.stdout
    assert result.stdout.count("what became of entry 1") == 2
    assert result.stdout.count(ADVICE["delivery"]) == result.stdout.count(ADVICE["chain"]) == 1
    assert set(ADVICE) == set(get_args(ProblemKind))


# -- what is not found without a copy, an anchor or a noted head
# ------------------------------------------------------


def cut(connection):
    """The last recorded entries, as if they had never been; nothing speaks of them yet."""
    connection.executescript(
        "DELETE FROM entry WHERE seq >= 39; DELETE FROM receipt WHERE finished_at_ns IS NULL"
    )


def forge(connection):
    """The last entry says something else, and its chain is computed again: no secret is needed
    for that.
    """
    columns = (
        "writer_id, writer_seq, stream, kind, name, value, step, timestamp_ns, payload, "
        "recorded_at_ns"
    )
    writer, place, *draft, recorded_at_ns = connection.execute(
        f"SELECT {columns} FROM entry WHERE seq = 41"
    ).fetchone()
    draft[3] = 99.0
    ((before,),) = connection.execute(
        "SELECT digest FROM entry WHERE writer_id = ? AND writer_seq = ?", (writer, place - 1)
    ).fetchall()
    (digest,) = chain_next_entries(before, place, "Run-A", [Draft(*draft)], recorded_at_ns)
    connection.execute("UPDATE entry SET value = 99.0, digest = ? WHERE seq = 41", (digest,))


@pytest.mark.parametrize("attack", [cut, forge])
def test_a_cut_tail_and_a_forgery_show_against_a_noted_head_alone(journal, attack):
    """The documented limit: what is left is a journal like any other, until it is compared with
    what was noted before.
    """
    noted = independent_verifier.heads(journal)
    assert independent_verifier.verify(journal, noted) == []
    tamper(journal, attack)
    assert verify_chains(journal) == []
    assert independent_verifier.verify(journal) == []
    assert any(
        "when its head was noted" in problem
        for problem in independent_verifier.verify(journal, noted)
    )


def test_a_journal_that_grew_still_has_its_old_heads(journal):
    """A noted head is found again in a longer journal."""
    noted = independent_verifier.heads(journal)
    with closing(Journal.open(journal)) as opened:
        opened.append_metric(opened.component("Run-A"), "more", 1.0, None, 1)
    assert independent_verifier.verify(journal, noted) == []


# -- healthy journals
# -------------------------------------------------------------------------------------------------


def test_the_independent_verifier_shares_no_code_with_the_package():
    """It imports the standard library alone, and nothing of it by name."""
    tree = ast.parse(Path(independent_verifier.__file__).read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "sqlite3" in names
    assert (
        names
        <= {"__future__", "hashlib", "json", "re", "sqlite3", "sys", "contextlib", "pathlib"}
        <= sys.stdlib_module_names | {"__future__"}
    )
    assert not any(
        isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in {"__import__", "exec", "eval"}
        for node in ast.walk(tree)
    )


def test_a_journal_in_which_everything_happened_is_proved(model):
    """Both verifiers find nothing, and every outcome that there is occurs."""
    assert verify_chains(model) == []
    assert independent_verifier.verify(model) == []
    with closing(sqlite3.connect(model / "journal.db")) as connection:
        outcomes = {outcome for (outcome,) in connection.execute("SELECT outcome FROM delivery")}
        assert outcomes == {"delivered", "superseded", "quarantined", "in doubt"}
        actions = {action for (action,) in connection.execute("SELECT action FROM receipt")}
        assert actions == {
            "ensure",
            "associate",
            "upload",
            "update",
            "metrics",
            "readback",
            "settle",
            "release",
        }


@pytest.mark.parametrize("revision", REVISIONS)
def test_golden_journals_are_proved_before_and_after(revision, tmp_path):
    """As an old release left it, upgraded, with points in doubt since then that are asked for
    and stay in doubt, delivered.
    """
    folder = restore(revision, tmp_path / "j")
    assert independent_verifier.verify(folder) == []
    with closing(Journal.open(folder)) as journal:
        assert verify_chains(folder) == independent_verifier.verify(folder) == []
        remote = tampering.Moody()
        for component in journal.components():
            if component.confirmed_at_ns is not None:
                remote.components[component.name] = _made_by_the_old_release(journal, component)
        Reconciler(journal, remote, options=Options()).run()
    assert verify_chains(folder) == independent_verifier.verify(folder) == []


def test_points_in_doubt_since_before_there_were_attestations_stay_it(tmp_path):
    """A request of 0001 that nobody attests, asked for by the code of today: its settlement has
    another reason, and is no forgery.
    """
    folder = restore("0001", tmp_path / "j")
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as connection:
        connection.execute(
            "UPDATE receipt SET finished_at_ns = started_at_ns, outcome = 'in doubt', attempts = "
            "1 WHERE finished_at_ns IS NULL"
        )
        connection.execute(
            "INSERT INTO delivery SELECT seq, 5, 'in doubt', 'lost', recorded_at_ns FROM entry "
            "WHERE seq BETWEEN 28 AND 32"
        )
    with closing(Journal.open(folder)) as journal:
        remote = tampering.Moody()
        remote.hides = True
        for component in journal.components():
            if component.confirmed_at_ns is not None:
                remote.components[component.name] = _made_by_the_old_release(journal, component)
        Reconciler(journal, remote, options=Options(visible_after_s=9e9)).run()
        assert journal.database.read(
            "SELECT count(*) FROM delivery WHERE outcome = 'in doubt'"
        ) == [(5,)]
    assert verify_chains(folder) == independent_verifier.verify(folder) == []


def test_an_old_journal_that_never_synced_is_proved(tmp_path):
    """Of 0001, without any receipt or settlement: its writers have no digest, and nothing is
    wrong with that.
    """
    folder = restore("0001", tmp_path / "j")
    tamper(
        folder,
        "DELETE FROM receipt; DELETE FROM delivery; DELETE FROM field; DELETE "
        "FROM location; UPDATE mark SET seq = 0; UPDATE component SET arn = NULL, "
        "confirmed_at_ns = NULL",
    )
    Journal.open(folder).close()
    assert verify_chains(folder) == independent_verifier.verify(folder) == []


def test_text_that_is_not_utf_8_is_a_problem_and_no_crash(journal):
    """SQLite keeps any bytes as text: they are read as well as can be, and the digest does not
    fit.
    """
    tamper(journal, "UPDATE entry SET name = CAST(x'6c6fff' AS TEXT) WHERE seq = 11")
    assert any(problem.seq == 11 and problem.kind == "chain" for problem in found(journal))
    assert independent_verifier.verify(journal)


def test_heads_are_what_the_document_says(model):
    """The digests of one writer, by hand: the description, then each entry."""
    with closing(sqlite3.connect(model / "journal.db")) as connection:
        columns = connection.execute(
            f"SELECT {independent_verifier.WRITER} FROM writer WHERE id = 2"
        ).fetchone()
        described = independent_verifier.described(columns)
        digest = hashlib.sha256(
            json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        ).digest()
        assert connection.execute("SELECT digest FROM writer WHERE id = 2").fetchone() == (digest,)
    assert independent_verifier.heads(model)[columns[0]][0] == 12
