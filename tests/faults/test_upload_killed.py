"""A sync that is killed in the middle of a large artifact: the next one sends what S3 has not,
and nothing is left behind.
"""

from __future__ import annotations

import os
import signal

import pytest

from journaltrack import Tracker
from journaltrack.remotes.aws.parts import CONNECTIONS
from journaltrack.util.digest import PART_BYTES
from tests.processes import sync_process
from tests.simulator import simulator

PARTS = 9


@pytest.fixture
def logged(tmp_path):
    """A journal with one artifact of nine parts, and its bytes."""
    content = os.urandom((PARTS - 1) * PART_BYTES + 1000)
    (tmp_path / "model.bin").write_bytes(content)
    tracker = Tracker.create(
        trial_component_name="run",
        journal=tmp_path / "journal",
        artifact_bucket="bucket",
        sync="off",
    )
    tracker.log_artifact(tmp_path / "model.bin")
    tracker.close()
    return tmp_path / "journal", content


@pytest.mark.parametrize("parts", [1, 4, 7, 9])
def test_a_kill_costs_a_part_a_connection_at_most(logged, parts):
    """Killed when its n-th part arrives, a sync is completed by another, which continues its
    upload.
    """
    journal, content = logged
    with simulator() as sim:
        child = []

        def kill(_call):
            if child and len(sim.calls("UploadPart")) >= parts:
                child[0].kill()

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
    """Killed when the parts are put together, a sync may have made the object: the next one
    finds it, or makes it.
    """
    journal, content = logged
    with simulator() as sim:
        child = []
        sim.on_request = lambda call: (
            child[0].kill() if call.operation == "CompleteMultipartUpload" and child else None
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


def test_a_kill_before_the_upload_is_noted_leaves_nothing(logged):
    """Killed when the upload begins at S3, a sync does not know its id: the next one goes on
    with it.
    """
    journal, content = logged
    with simulator() as sim:
        child = []
        sim.on_request = lambda call: (
            child[0].kill() if call.operation == "CreateMultipartUpload" and child else None
        )
        child.append(sync_process(journal, sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode == -signal.SIGKILL
        assert sim.wait_until(lambda s: len(s.uploads) == 1)
        sim.on_request = None
        again = sync_process(journal, sim.endpoint_url)
        out, err = again.communicate()
        assert again.returncode == 0, out + err
        assert [stored.body for stored in sim.artifacts.values()] == [content]
        assert len(sim.calls("CreateMultipartUpload")) == 1
        assert not sim.uploads
    assert [path.name for path in (journal / "spool").iterdir() if path.is_file()] == []


def test_killed_again_and_again_an_upload_comes_to_its_end(logged):
    """Syncs that are killed at their second part, each of them, send all of a large artifact,
    and little of it twice.
    """
    journal, content = logged
    with simulator() as sim:
        kills = 0
        while not sim.artifacts:
            child, seen = [], []

            def kill(call, child=child, seen=seen, alive=kills >= 4):
                seen.append(call.operation)
                if seen.count("UploadPart") == 2 and child and not alive:
                    child[0].kill()

            sim.on_request = kill
            child.append(sync_process(journal, sim.endpoint_url))
            out, err = child[0].communicate()
            assert child[0].returncode in {0, -signal.SIGKILL}, out + err
            kills += child[0].returncode == -signal.SIGKILL
        sim.on_request = None
        assert PARTS <= len(sim.calls("UploadPart")) <= PARTS + kills * CONNECTIONS
        assert len(sim.calls("CreateMultipartUpload")) == 1
        assert [stored.body for stored in sim.artifacts.values()] == [content]
        assert not sim.uploads


def test_ctrl_c_leaves_what_was_sent(logged):
    """A pass that is interrupted is no failure of the artifact: the next one sends the rest, no
    part twice.
    """
    journal, content = logged
    with simulator() as sim:
        child = []
        sim.on_request = lambda call: (
            child[0].send_signal(signal.SIGINT)
            if call.operation == "UploadPart" and child
            else None
        )
        child.append(sync_process(journal, sim.endpoint_url))
        child[0].communicate()
        sim.on_request = None
        assert len(sim.uploads) == 1
        again = sync_process(journal, sim.endpoint_url)
        out, err = again.communicate()
        assert again.returncode == 0, out + err
        assert len(sim.calls("UploadPart")) == PARTS
        assert [stored.body for stored in sim.artifacts.values()] == [content]
        assert not sim.uploads
