"""A sync that is killed in the middle of a large artifact: the next one sends what S3 has not, and nothing is left behind."""

from __future__ import annotations

import os
import signal

import pytest

from journaltrack import Tracker
from journaltrack.remotes.aws_parts import CONNECTIONS, PART_BYTES
from tests.faults.conftest import sync_process
from tests.simulator import simulator

PARTS = 9


@pytest.fixture
def logged(tmp_path):
    """A journal with one artifact of nine parts, and its bytes."""
    content = os.urandom((PARTS - 1) * PART_BYTES + 1000)
    (tmp_path / "model.bin").write_bytes(content)
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "journal", artifact_bucket="bucket", sync="off")
    tracker.log_artifact(tmp_path / "model.bin")
    tracker.close()
    return tmp_path / "journal", content


@pytest.mark.parametrize("parts", [1, 4, 7, 9])
def test_a_kill_costs_a_part_a_connection_at_most(logged, parts):
    """Killed when its n-th part arrives, a sync is completed by another, which continues its upload."""
    journal, content = logged
    with simulator() as sim:
        child = []

        def kill(_call):
            if child and len(sim.calls("UploadPart")) >= parts:
                os.kill(child[0].pid, signal.SIGKILL)

        sim.on_request = kill
        child.append(sync_process(journal, sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode == -signal.SIGKILL
        sim.on_request = None
        again = sync_process(journal, sim.endpoint_url)
        out, err = again.communicate()
        assert again.returncode == 0, out + err
        assert [stored.body for stored in sim.artifacts.values()] == [content]
        assert len(sim.calls("CreateMultipartUpload")) == 1
        assert PARTS <= len(sim.calls("UploadPart")) <= PARTS + CONNECTIONS
        assert not sim.uploads


def test_a_kill_before_the_end_is_known_leaves_one_object(logged):
    """Killed when the parts are put together, a sync may have made the object: the next one finds it, or makes it."""
    journal, content = logged
    with simulator() as sim:
        child = []
        sim.on_request = lambda call: (
            os.kill(child[0].pid, signal.SIGKILL) if call.operation == "CompleteMultipartUpload" and child else None
        )
        child.append(sync_process(journal, sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode == -signal.SIGKILL
        sim.on_request = None
        again = sync_process(journal, sim.endpoint_url)
        out, err = again.communicate()
        assert again.returncode == 0, out + err
        assert [stored.body for stored in sim.artifacts.values()] == [content]
        assert len(sim.calls("UploadPart")) == PARTS
        assert not sim.uploads
