"""SIGKILL to processes that upload a large artifact in parts, and what the next sync sends, counted at the server."""

from __future__ import annotations

import hashlib
import signal
from collections import Counter

import pytest

from journaltrack import Tracker
from journaltrack.auditing import audit
from journaltrack.remotes.aws_parts import CONNECTIONS, PART_BYTES
from tests.faults.conftest import sync_process
from tests.simulator import simulator

COUNT = 7
CONTENT = b"".join(hashlib.sha256(str(n).encode()).digest() * (PART_BYTES // 32) for n in range(COUNT - 1)) + b"the rest"


@pytest.fixture
def large(tmp_path):
    """The folder of a journal with one artifact of seven parts."""
    (tmp_path / "model.bin").write_bytes(CONTENT)
    with Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off") as tracker:
        tracker.log_artifact(tmp_path / "model.bin")
    return tmp_path / "journal"


def killed_at(sim, journal, operation, number):
    """A sync that is killed when the request of that number arrives; what S3 has of the upload, and how many of its parts had come."""
    process = sync_process(journal, sim.endpoint_url)
    arrived = Counter()

    def kill(call):
        arrived[call.operation] += 1
        if call.operation == operation and arrived[operation] == number:
            process.kill()

    sim.on_request = kill
    process.communicate(timeout=60)
    sim.on_request = None
    assert process.returncode == -signal.SIGKILL
    begun = arrived["UploadPart"]
    # A part that had come whole before the kill is taken; one that was cut off never arrives.
    assert sim.wait_until(lambda s: len(s.calls("UploadPart")) == begun)
    with sim.lock:
        return {number for upload in sim.uploads.values() for number in upload.parts}, begun


@pytest.mark.parametrize(
    ("operation", "number"),
    [("CreateMultipartUpload", 1), ("UploadPart", 1), ("UploadPart", 4), ("UploadPart", COUNT), ("CompleteMultipartUpload", 1)],
)
def test_at_most_one_part_per_connection_is_sent_again(large, operation, number):
    """The next sync sends what S3 has not, into the same upload; the artifact arrives whole, and no upload is left to be paid for."""
    with simulator() as sim:
        held, begun = killed_at(sim, large, operation, number)
        before = len(sim.calls("UploadPart"))
        process = sync_process(large, sim.endpoint_url)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, output + errors
        sent = [call.params["PartNumber"] for call in sim.calls("UploadPart")[before:]]
        completed = operation == "CompleteMultipartUpload" and not sent
        if not completed:
            assert sorted(sent) == sorted(set(range(1, COUNT + 1)) - held)
            assert len(sent) - (COUNT - begun) <= CONNECTIONS
        assert len(sim.calls("CreateMultipartUpload")) == 1
        assert not sim.uploads
        (stored,) = sim.artifacts.values()
        assert stored.body == CONTENT
        assert stored.checksums["sha256"].endswith(f"-{COUNT}")
    assert audit(large).totals.pending == 0
    assert [path.name for path in (large / "spool").iterdir() if path.is_file()] == []


def test_killed_again_and_again_every_part_is_taken_once(large):
    """Each sync is killed at its second part, by the first one that comes after; the bytes that S3 takes in all are bounded."""
    with simulator() as sim:
        kills = 0
        while not sim.artifacts:
            process = sync_process(large, sim.endpoint_url)
            seen = Counter()

            def kill(call, process=process, seen=seen, alive=kills >= 4):
                seen[call.operation] += 1
                if seen["UploadPart"] == 2 and not alive:
                    process.kill()

            sim.on_request = kill
            output, errors = process.communicate(timeout=60)
            kills += process.returncode == -signal.SIGKILL
            assert process.returncode in {0, -signal.SIGKILL}, output + errors
        sim.on_request = None
        sent = Counter(call.params["PartNumber"] for call in sim.calls("UploadPart") if call.applied)
        assert set(sent) == set(range(1, COUNT + 1))
        assert sum(sent.values()) <= COUNT + kills * CONNECTIONS
        assert len(sim.calls("CreateMultipartUpload")) == 1
        assert not sim.uploads
        (stored,) = sim.artifacts.values()
        assert stored.body == CONTENT


def test_a_deadline_of_a_sync_leaves_what_was_sent(large):
    """A pass that is cut short is no failure of the artifact: the next one sends the rest."""
    with simulator() as sim:
        process = sync_process(large, sim.endpoint_url)
        sim.on_request = lambda call: process.send_signal(signal.SIGINT) if call.operation == "UploadPart" else None
        process.communicate(timeout=60)
        sim.on_request = None
        assert len(sim.uploads) == 1
        process = sync_process(large, sim.endpoint_url)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, output + errors
        sent = Counter(call.params["PartNumber"] for call in sim.calls("UploadPart") if call.applied)
        assert sent == dict.fromkeys(range(1, COUNT + 1), 1)
        assert not sim.uploads
