"""Journals from somebody else: whatever they hold, no code runs, no foreign file is read or
sent, no terminal is garbled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import warnings
from contextlib import closing

import pytest

from journaltrack import Tracker, errors
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from tests import tally
from tests.copies import verify_chains
from tests.faults.hostile import (
    ESCAPES,
    SOAK,
    VALUES,
    base,
    by_hand,
    cells,
    copied,
    every_command,
    run,
)
from tests.simulator import simulator

pytestmark = pytest.mark.filterwarnings(
    "ignore::journaltrack.tracking.validation.JournaltrackWarning"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A journal with every kind of entry in every state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return base(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def endpoint():
    """A strict stand-in for AWS."""
    with simulator() as sim:
        yield sim


@pytest.mark.parametrize("seed", range(8 * SOAK))
def test_cells_of_any_type_are_data(model, endpoint, tmp_path, credentials, seed):
    """A few cells of any table hold any value: every command ends with a result or with an error
    of ours, as text and as JSON.
    """
    chance = random.Random(seed)
    journal = copied(model, tmp_path / "j")
    chosen = chance.sample([cell for cell in cells(journal) if cell[0] != "alembic_version"], 3)
    with by_hand(journal) as connection:
        for table, column in chosen:
            value = chance.choice(VALUES)
            rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
            for row in chance.sample(rows, min(len(rows), chance.choice([1, 3]))):
                with contextlib.suppress(sqlite3.Error):  # a key that is taken, or must be a number
                    connection.execute(
                        f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', (value, row)
                    )
    every_command(journal, endpoint.endpoint_url, as_json=bool(seed % 2))
    tally.count("crafted cells, through every command", attacks=1)


def test_bytes_of_a_database_flipped(model, tmp_path):
    """Fuzzing: whatever the bytes are, the commands that read end with a result or an error of
    ours; so does a sync.
    """
    chance = random.Random(3)
    original = (model / "journal.db").read_bytes()
    journal = copied(model, tmp_path / "j")
    for _ in range(20 * SOAK):
        content = bytearray(original)
        for _ in range(chance.choice([1, 3, 30])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        for left in journal.glob("journal.db*"):
            left.unlink()
        (journal / "journal.db").write_bytes(content)
        for command in (["status"], ["check"], ["show", "run"], ["runs"], ["plot"], ["check"]):
            run(*command, "-j", journal)
        with (
            contextlib.suppress(errors.JournaltrackError),
            closing(Journal.open(journal, create=False)) as opened,
        ):
            Reconciler(opened, MemoryRemote()).run()
        tally.count(
            "bytes of the database flipped, through the reading commands and a sync", attacks=1
        )


@pytest.mark.parametrize(
    "name",
    [
        "journal.db",
        "journal.db-wal",
        "journal.db-shm",
        "journal.db-journal",
        "reconcile.lock",
        "spool",
    ],
)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_links_and_fifos_in_place_of_the_journals_files(model, tmp_path, name, kind):
    """Nothing is opened: an error that names the file, at once; what the link names is
    untouched.
    """
    journal = copied(model, tmp_path / "j")
    victim = tmp_path / "victim"
    victim.mkdir() if name == "spool" else victim.write_bytes(b"mine")
    path = journal / name
    shutil.rmtree(path) if name == "spool" else path.unlink(missing_ok=True)
    path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    for command in ("status", "audit", "sync"):
        code, _, err = run(command, "-j", journal)
        assert code == 8
        assert name in err
    with pytest.raises(errors.NotAJournalError):
        Tracker.create(trial_component_name="x", journal=journal, sync="off")
    assert list(victim.iterdir()) == [] if name == "spool" else victim.read_bytes() == b"mine"


PLANTED = {
    "a trigger": "CREATE TRIGGER x AFTER INSERT ON delivery BEGIN UPDATE meta SET "
    "journal_id = 'owned'; END",
    "a view": "ALTER TABLE blob RENAME TO b2; CREATE VIEW blob AS WITH RECURSIVE f(x) AS "
    "(SELECT 1 UNION ALL SELECT x + 1 FROM f) SELECT * FROM f",
    "a generated column": "ALTER TABLE writer ADD COLUMN z AS (hex(zeroblob(1000000)))",
    "one of ours with another body": (
        "DROP TRIGGER receipt_no_delete; CREATE TRIGGER receipt_no_delete BEFORE DELETE ON "
        "receipt BEGIN DELETE FROM entry; END"
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_code_in_the_schema_does_not_run(model, tmp_path, planted):
    """Triggers, views and generated columns are refused before anything is read or written;
    doctor names them.
    """
    journal = copied(model, tmp_path / "j")
    with closing(sqlite3.connect(journal / "journal.db", isolation_level=None)) as connection:
        connection.executescript(PLANTED[planted])
    before = hashlib.sha256((journal / "journal.db").read_bytes()).digest()
    for command in ("status", "audit", "show", "runs", "plot", "sync", "retry", "resolve"):
        extra = {"show": ["run"], "resolve": ["--delivered"]}.get(command, [])
        code, _, err = run(command, *extra, "-j", journal)
        assert code == 8, (command, err)
        assert "no journaltrack made" in err or "lacks" in err
    with pytest.raises(errors.JournalAlteredError):
        Tracker.create(trial_component_name="x", journal=journal, sync="off")
    assert hashlib.sha256((journal / "journal.db").read_bytes()).digest() == before
    assert run("check", "-j", journal)[0] == 4


@pytest.mark.parametrize("what", ["a link", "a linked folder", "a FIFO", "other bytes"])
def test_no_foreign_file_is_uploaded(model, tmp_path, credentials, what):
    """A blob that is a link to a secret, in a linked folder, a FIFO, or another content:
    quarantined, and nothing of it is at AWS.
    """
    journal = copied(model, tmp_path / "j")
    secret = tmp_path / "secret"
    # even if its content is the one that is wanted: it is not the journal's file
    secret.write_bytes(b"more")
    digest = hashlib.sha256(b"more").hexdigest()
    blob = journal / "spool" / digest[:2] / digest
    blob.unlink()
    if what == "a link":
        blob.symlink_to(secret)
    elif what == "a linked folder":
        blob.parent.rmdir()
        (tmp_path / digest[:2]).mkdir()
        shutil.copy(secret, tmp_path / digest[:2] / digest)
        blob.parent.symlink_to(tmp_path / digest[:2])
    elif what == "a FIFO":
        os.mkfifo(blob)
    else:
        blob.write_bytes(b"mine")
    with simulator() as sim:
        code, out, err = run(
            "sync",
            journal,
            "--endpoint-url",
            sim.endpoint_url,
            "--region",
            "us-east-1",
            "--component",
            "next",
        )
        assert code == 4, (out, err)
        made = "trial-component-artifacts/next/parameters.json"
        assert {key for _, key in sim.artifacts} == {made}
    assert verify_chains(journal) != []


def test_names_and_values_stay_data(tmp_path, credentials):
    """SQL, markup, escapes and paths in every name and value: recorded as they are, shown
    escaped, sent as text.
    """
    nasty = ["'; DROP TABLE entry; --", "../../etc/passwd", "[red]x[/red]", ESCAPES.strip()[:50]]
    tracker = Tracker.create(trial_component_name="nasty", journal=tmp_path / "j", sync="off")
    (tmp_path / "file").write_bytes(b"x")
    for number, text in enumerate(nasty):
        tracker.log_parameter(f"p{number}", text)
        for call in (
            lambda text=text: tracker.log_parameter(text, 1),
            lambda text=text: tracker.log_metric(text, 1.0),
            lambda text=text: tracker.log_artifact(str(tmp_path / "file"), name=text),
        ):
            with contextlib.suppress(errors.InvalidInputError):  # what AWS could never take
                call()
    tracker.close()
    with simulator() as sim:
        for as_json in (False, True):
            every_command(tmp_path / "j", sim.endpoint_url, "nasty", as_json=as_json)
        assert sim.objects
        assert not any("/../" in f"/{key}/" for _, key in sim.objects)
    assert verify_chains(tmp_path / "j") == []


def test_what_we_make_is_for_its_owner_alone(tmp_path):
    """Whatever the umask: folders 0700, files 0600; a journal that others can get at is warned
    about, once.
    """
    script = (
        "import os, sys; os.umask(0); from journaltrack import Tracker\nt = "
        "Tracker.create(trial_component_name='run', journal=sys.argv[1], sync='off'); "
        "t.log_metric('a', 1)\nopen(sys.argv[1] + '.f', 'w').write('x'); "
        "t.log_artifact(sys.argv[1] + '.f')\nprint(sorted((oct(os.lstat(os.path.join(d, "
        "n)).st_mode & 0o777)) for d, ds, fs in os.walk(sys.argv[1]) for n in ds + fs))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "j")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(eval(done.stdout)) == {"0o600", "0o700"}
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o700
    (tmp_path / "j").chmod(0o777)
    code, _, err = run("status", "-j", tmp_path / "j")
    assert code == 0
    assert "other users can write" in err


def test_values_of_twenty_megabytes(model, tmp_path):
    """Reading commands do not choke on it: bounded cells, and an end."""
    journal = copied(model, tmp_path / "j")
    with by_hand(journal) as connection:
        connection.execute(
            'UPDATE entry SET payload = \'{"text": "\' || replace(hex(zeroblob(10000000)), '
            "'00', 'ab') || '\"}' WHERE kind = 'parameter'"
        )
    for command in (
        *(["status"], ["audit"], ["audit", "entries"], ["show", "run"]),
        *(["runs"], ["compare", "*"], ["runs", "--json"]),
    ):
        _, out, _ = run(*command, "-j", journal)
        assert len(out) < 10_000_000
