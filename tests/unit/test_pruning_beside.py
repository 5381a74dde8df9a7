"""Contents that are logged again while a prune has chosen them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite import files
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.reconciler import Reconciler
from journaltrack.retention.plan import GRACE_S, removable, remove


@pytest.mark.parametrize("again", [True, False])
def test_a_content_that_is_logged_again_is_young_again(tmp_path, again):
    """Recording an upload renews its content in the same transaction: a removal that chose it
    before leaves it alone, and takes it otherwise.
    """
    now_ns = 10**18
    (tmp_path / "model").write_bytes(b"weights")
    with closing(Journal.open(tmp_path / "j", clock_ns=lambda: now_ns)) as journal:
        component = journal.component("run")
        blob = Spool(tmp_path / "j" / "spool").add(tmp_path / "model")
        journal.add_blob(blob.sha256, blob.size_bytes)
        ref = BlobRef(blob.sha256, None, None)
        calls = [
            vocabulary.upload("model", ref, blob.size_bytes, None, "model"),
            vocabulary.artifact("output", "model", ref, None),
        ]
        journal.append(component, [vocabulary.create(owner="me"), *calls])
        assert Reconciler(journal, MemoryRemote(), clock_ns=lambda: now_ns).run().pending == 0
        delivered_ns, now_ns = now_ns, now_ns + int(2 * GRACE_S * 1e9)
        assert removable(journal.database, delivered_ns, now_ns) == [], "delivered, but not before"
        chosen = removable(journal.database, now_ns, now_ns)
        assert [content.sha256 for content in chosen] == [blob.sha256]
        if again:
            journal.append(component, calls[:1])
        lease = leases.acquire(journal.database, clock_ns=lambda: now_ns)
        gone = remove(Attestor(journal.database, lease, lambda: now_ns), chosen, now_ns)
        lease.release()
        assert gone == ([] if again else chosen)
        assert (tmp_path / "j" / "spool" / blob.sha256[:2] / blob.sha256).exists() == again
        assert removable(journal.database, now_ns, now_ns) == []


@pytest.mark.slow
def test_processes_that_end_meanwhile_have_nothing_open(tmp_path):
    """Whoever has a file open is found while other processes begin and end all the time, and
    nothing is raised.
    """
    file = tmp_path / "file"
    file.write_bytes(b"")
    short = (
        "import os\nfor _ in range(1_500):\n    if not os.fork():\n        os._exit(0)\n    "
        "os.wait()"
    )
    holds = "import sys\nfile = open(sys.argv[1])\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        with file.open(), subprocess.Popen([sys.executable, "-c", short]) as forking:
            while forking.poll() is None:
                assert [*files.having_open(file)] == [holder.pid] != [os.getpid()]
        holder.stdin.close()
