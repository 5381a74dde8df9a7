"""Training processes SIGKILLed at random moments, and everything counted that they were told is
recorded.

The reader is plain sqlite3, and knows from ``killing.script`` every value that has to be in the
file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from journaltrack.errors import JournalNotFoundError
from tests.copies import verify_chains
from tests.faults.killing import WAIT_S, Child, Item, Zygote, content, script

# until all log, in a journal that is made
OPENING_S = {"one": 0.04, "processes": 0.12, "threads": 0.04, "forks": 0.06}
# from the first call on: forks take their time
LOGGING_S = {"one": 0.03, "processes": 0.06, "threads": 0.03, "forks": 0.15}


@dataclass(slots=True)
class Training:
    """What a campaign against training processes counted. Calls and entries as the writers'
    acknowledgements say.
    """

    mode: str
    seed: int
    kills: int = 0
    while_opening: int = 0  # kills before any call had returned
    journals: int = 0
    looks: int = 0
    writers: int = 0
    calls: int = 0  # acknowledged
    entries: int = 0  # acknowledged
    found: int = 0
    lost: int = 0  # acknowledged, not found
    torn: int = 0  # calls of which a part is there, or that are there otherwise than made
    stray: int = 0  # entries that nobody can have made
    in_progress: int = 0  # calls that were not acknowledged and are there, whole
    blobs: int = 0
    logs_left: int = 0  # kills that left a write-ahead log to recover
    # what writers did that had made a call before
    killed_in: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    duration_s: float = 0.0


class Ledger:
    """One journal: what its writers were told is recorded, against what is in the file."""

    def __init__(self, folder: Path, summary: Training) -> None:
        self.folder, self.summary = folder, summary
        self.acknowledged: dict[str, int] = {}  # the last acknowledged call per writer
        self._new: set[str] = set()
        self._seen_seq = 0
        self._blobs: set[str] = set()
        self._wrong: Counter[str] = Counter()

    def acknowledge(self, told: bytes) -> None:
        """Take over what a killed group has told."""
        last: dict[str, int] = {}
        for line in told.decode().splitlines():
            tag, _, number = line.partition(" ")
            if tag == "!":
                self.summary.problems.append(number)
                continue
            first = 0 if tag.count("-") == 1 else 1
            assert int(number) == self.acknowledged.get(tag, first - 1) + 1, line
            self.acknowledged[tag] = int(number)
            self._new.add(tag)
            last[tag] = int(number)
        self.summary.killed_in += Counter(
            script(tag, number + 1)[0] for tag, number in last.items()
        )
        log = self.folder / "journal.db-wal"
        self.summary.logs_left += log.exists() and log.stat().st_size > 0

    def look(self, *, thorough: bool) -> None:
        """Count what came since the last look; ``thorough``: also what SQLite and the digest
        chains say of the whole file.
        """
        found, summary = self._found(), self.summary
        summary.looks += 1
        tags = self._new | {tag for tag, _ in found}
        self._new = set()
        for tag in tags:
            first = 0 if tag.count("-") == 1 else 1
            last = self.acknowledged.get(tag, first - 1)
            summary.writers += 1
            for number in range(first, last + 2):
                does, expected = script(tag, number)
                there = found.pop((tag, number), [])
                if number <= last:
                    summary.calls += 1
                    summary.entries += len(expected)
                    missing = (Counter(expected) - Counter(there)).total()
                    self._wrong["lost"] += missing
                    self._wrong["torn"] += there != expected and missing < max(1, len(expected))
                elif there:
                    summary.in_progress += 1
                    self._wrong["torn"] += there != expected
                summary.found += len(there)
                if does == "artifact" and there:
                    self._check_blob(content(tag, number), expected[0].text)
        self._wrong["stray"] += sum(map(len, found.values()))
        if thorough:
            self._check_whole()

    def recount(self) -> None:
        """Look at everything once more, from the beginning, and hand in what is wrong: what was
        there may not be gone.
        """
        whole = Ledger(self.folder, Training(self.summary.mode, self.summary.seed))
        whole.acknowledged, whole._new = self.acknowledged, set(self.acknowledged)
        whole.look(thorough=True)
        for name, count in (self._wrong | whole._wrong).items():
            setattr(self.summary, name, getattr(self.summary, name) + count)
        self.summary.problems += whole.summary.problems
        rows = self._read("SELECT count(*) FROM entry")
        if rows is not None and rows[0][0] != whole.summary.found + whole._wrong["stray"]:
            self.summary.problems.append(
                f"{self.folder}: {rows[0][0]} entries, {whole.summary.found} were made"
            )
        for file in (self.folder / "spool").glob("??/*"):
            if hashlib.sha256(file.read_bytes()).hexdigest() != file.name:
                self.summary.problems.append(f"{file} has other bytes than its name says")

    def _read(self, sql, *parameters):
        """Rows; None when the journal's creation was killed before there was a table. Leaves the
        log as the kill left it.
        """
        path = self.folder / "journal.db"
        for mode in ("ro", "rw") if path.exists() else ():
            # Right for reading alone would be enough but for a kill while SQLite switched to the
            # write-ahead log.
            with (
                contextlib.suppress(sqlite3.OperationalError),
                contextlib.closing(_connect(path, mode)) as connection,
            ):
                if connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'entry'"
                ).fetchone():
                    return connection.execute(sql, parameters).fetchall()
                return None
        assert not path.exists(), f"{path} can't be read"
        return None

    def _found(self):
        """The entries after the last look, by writer and call."""
        rows = (
            self._read(
                "SELECT seq, kind, name, value, step, payload FROM entry WHERE seq > ? "
                "ORDER BY seq",
                self._seen_seq,
            )
            or ()
        )
        self._blobs = {sha256 for (sha256,) in self._read("SELECT sha256 FROM blob") or ()}
        found, makers = defaultdict(list), {}
        for seq, kind, name, value, step, payload in rows:
            self._seen_seq = seq
            detail = json.loads(payload or "{}")
            text = (
                detail.get("text")
                or detail.get("value")
                or detail.get("display_name")
                or detail.get("sha256")
            )
            if kind == "metric":
                maker = (name.rpartition(".")[0], step)
            elif kind == "create":
                maker = (text, 0)
            else:
                made_of = {"upload": detail.get("file_name"), "output": makers.get(text)}.get(
                    kind, text
                ) or "unknown.0"
                makers[text] = made_of
                maker = (made_of.split(".")[0], int(made_of.split(".")[1]))
            found[maker].append(Item(kind, name, value, step, text))
        return found

    def _check_blob(self, expected: bytes, sha256: str) -> None:
        path = self.folder / "spool" / sha256[:2] / sha256
        self.summary.blobs += 1
        if sha256 not in self._blobs or not path.exists() or path.read_bytes() != expected:
            self.summary.problems.append(f"{path} is recorded, and is not there as it was")

    def _check_whole(self) -> None:
        lines = self._read("PRAGMA quick_check") or [("ok",)]
        self.summary.problems += [str(line) for (line,) in lines if line != "ok"]
        try:
            # has SQLite's integrity_check in it
            self.summary.problems += map(str, verify_chains(self.folder))
        except JournalNotFoundError:
            assert not self.acknowledged


def _connect(path, mode):
    return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=WAIT_S)


def kill_training(
    mode: str, folder: Path, kills: int, seed: int, *, thorough_every: int = 100
) -> Training:
    """Kill so many groups of training processes: half of them log to one journal that goes on,
    half make a new one.
    """
    began = time.monotonic()
    chance = random.Random(f"{seed} {mode}")
    summary = Training(mode, seed, journals=1)
    (folder / "scratch").mkdir()
    lasting, fresh, lives = Ledger(folder / "lasting", summary), None, 0
    with Zygote("training") as zygote:
        for n in range(kills):
            if fresh is None:
                fresh, lives = Ledger(folder / f"fresh{n}", summary), chance.randint(1, 3)
                summary.journals += 1
            ledger = chance.choice([lasting, fresh])
            _round(zygote, ledger, chance, n)
            # The reader's look itself makes SQLite recover the log: not after every kill, so that a
            # next opening has to.
            if chance.random() < 0.5:
                ledger.look(thorough=ledger is fresh or n % thorough_every == 0)
            lives -= ledger is fresh
            if lives == 0:
                _close_the_books(zygote, fresh, n)
                shutil.rmtree(fresh.folder)
                fresh = None
        for ledger in filter(None, (fresh, lasting)):
            _close_the_books(zygote, ledger, kills)
    summary.duration_s = time.monotonic() - began
    return summary


def _round(zygote, ledger, chance, n) -> None:
    summary = ledger.summary
    child = Child(zygote, **_order(ledger, n, summary.mode))
    # a moment after the first call has returned; else one after the fork: opening, creation
    if chance.random() < 0.6:
        child.listen(WAIT_S, until=lambda told: b"\n" in told)
        child.listen(chance.uniform(0, LOGGING_S[summary.mode]))
    else:
        child.listen(chance.uniform(0, OPENING_S[summary.mode]))
    code = child.kill()
    summary.kills += 1
    summary.while_opening += not child.told
    if code != -signal.SIGKILL:
        summary.problems.append(f"round {n} ended by itself with {code}")
    ledger.acknowledge(child.told)


def _close_the_books(zygote, ledger, n) -> None:
    """A last session in peace, then a count of everything."""
    child = Child(zygote, **_order(ledger, f"{n}p", "one", calls=12))
    if child.end() != 0:
        ledger.summary.problems.append(f"the journal {ledger.folder} can't be used any more")
    ledger.acknowledge(child.told)
    ledger.look(thorough=False)
    ledger.recount()


def _order(ledger, n, mode, calls=None):
    # some are continued, none grows for ever
    component = f"run-{n // 8}" if isinstance(n, int) else f"run-{n}"
    return {
        "tag": f"r{n}",
        "mode": mode,
        "calls": calls,
        "component": component,
        "folder": str(ledger.folder),
        "scratch": str(ledger.folder.parent / "scratch"),
    }
