"""Merges and imports of receipts that are killed at any moment: nothing or all of it is there, and doing it again completes it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys

import pytest

from journaltrack.receipting import export_receipts
from journaltrack.remotes.memory import MemoryRemote
from tests import tally
from tests.copies import content, points, record, sound, states, sync

KILLS = int(6 * float(os.environ.get("JOURNALTRACK_SOAK", "1")))
MERGE = "from journaltrack.merging import merge; import sys; merge([sys.argv[1]], into=sys.argv[2])"
IMPORT = "from journaltrack.receipting import import_receipts; import sys; import_receipts(sys.argv[1], sys.argv[2])"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A journal of 4,000 points, and a copy of it that was synced."""
    root = tmp_path_factory.mktemp("delivered")
    record(root / "origin", *points(*range(4_000)))
    shutil.copytree(root / "origin", root / "copy")
    sync(root / "copy", MemoryRemote())
    export_receipts(root / "copy", to=root / "receipts")
    return root


@pytest.mark.parametrize("program", [MERGE, IMPORT], ids=["merge", "import"])
def test_a_kill_leaves_nothing_or_all(delivered, tmp_path, program):
    """SIGKILL at random moments: every chain holds, no state in between, and the next run ends where one without a kill does."""
    chance = random.Random(1)
    wanted = content(delivered / "copy")
    before = content(delivered / "origin")
    source = delivered / ("copy" if program is MERGE else "receipts")
    for number in range(KILLS):
        target = tmp_path / str(number)
        shutil.copytree(delivered / "origin", target)
        process = subprocess.Popen([sys.executable, "-c", program, str(source), str(target)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2 + 0.8 * chance.random())
        process.kill()
        process.wait()
        assert content(target) in (before, wanted)
        sound(target)
        subprocess.run([sys.executable, "-c", program, str(source), str(target)], check=True)
        assert content(target) == wanted
        sound(target)
        tally.count("merges and imports of receipts, killed", attacks=1, checked=len(wanted))
        shutil.rmtree(target)
    assert states(delivered / "origin") == {"pending": 4_001}
