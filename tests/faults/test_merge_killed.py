"""Merges and imports of receipts that are killed at any moment: nothing or all of it is there, and doing it again completes it."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from journaltrack.receipting import export_receipts
from journaltrack.remotes.memory import MemoryRemote
from tests import tally
from tests.copies import content, points, record, sound, states, sync
from tests.faults.disktrace import Killing, supported

KILLS = int(6 * float(os.environ.get("JOURNALTRACK_SOAK", "1")))
WHY_NOT = supported()
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


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize("program", [MERGE, IMPORT], ids=["merge", "import"])
def test_a_kill_leaves_nothing_or_all(delivered, tmp_path, program):
    """SIGKILL before random changes of files: every chain holds, no state in between, and the next run ends where one without a kill does."""
    wanted = content(delivered / "copy")
    before = content(delivered / "origin")
    source = delivered / ("copy" if program is MERGE else "receipts")
    killing = Killing(program, tmp_path)
    shutil.copytree(delivered / "origin", tmp_path / "reference")
    changes = killing.changes(tmp_path / "reference", source, tmp_path / "reference")
    for number, at in enumerate([*random.Random(1).sample(range(1, changes), KILLS - 1), changes]):
        target = tmp_path / str(number)
        shutil.copytree(delivered / "origin", target)
        assert killing.killed(target, source, target, at=at)
        assert content(target) in (before, wanted)
        sound(target)
        assert not killing.killed(target, source, target, at=None)
        assert content(target) == wanted
        sound(target)
        tally.count("merges and imports of receipts, killed", attacks=1, checked=len(wanted))
        shutil.rmtree(target)
    assert states(delivered / "origin") == {"pending": 4_001}
