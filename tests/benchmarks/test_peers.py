"""Peers are measured and killed as they should be: with trackers made for it, in this
interpreter, really SIGKILLed.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import campaign, environments, harness, outcomes, registry
from benchmarks.peers.campaign import Loss
from benchmarks.peers.registry import Peer

FAKES = Path(__file__).parent / "fake_peers"


def fake(name, **more):
    return Peer(name, FAKES / f"{name}.py", **more)


@pytest.fixture
def python():
    return environments.Environments().python(fake("writing"))


def test_loss_is_what_returned_and_is_not_there():
    """A value found twice counts once, one beyond what returned counts for nothing, whatever the
    order.
    """
    assert Loss.of(5, {0, 1, 2, 3, 4}) == Loss(returned=5, lost=0, beyond=0)
    assert Loss.of(5, {0, 1, 4, 5}) == Loss(returned=5, lost=2, beyond=1)
    assert Loss.of(5, set()) == Loss(returned=5, lost=5, beyond=0)
    assert Loss.of(0, {0}) == Loss(returned=0, lost=0, beyond=1)


def test_percentiles_are_of_the_calls():
    """Of a thousand calls of 1 to 1,000 µs, each percentile is the call at its rank, and the
    rate is that of the whole time.
    """
    values = harness.distribution(
        array("q", (n * 1000 for n in range(1000, 0, -1))), took_ns=2_000_000_000
    )
    assert values == {
        "calls": 1000,
        "p50_us": 501,
        "p99_us": 991,
        "p999_us": 1000,
        "max_us": 1000,
        "calls_per_s": 500,
    }


def test_what_is_written_at_the_call_survives(tmp_path, python):
    """Killed at full speed after some thousand calls, a tracker that writes at once has lost
    none.
    """
    loss = campaign.killed(fake("writing"), python, tmp_path, calls=3_000, seconds=600)
    assert loss.returned >= 3_000
    assert loss.lost == 0
    assert loss.beyond <= 1
    assert list(tmp_path.iterdir()) == []


def behind_the_last_block(loss):
    """What a tracker loses that writes a thousand values at a time."""
    if loss.beyond:  # killed in the call that wrote a block, right after that
        assert (loss.beyond, loss.returned % 1_000) == (1, 999)
        return 0
    return loss.returned % 1_000


def test_what_is_buffered_is_lost(tmp_path, python):
    """Killed at full speed, a tracker that writes in blocks has lost what was behind the last
    whole block.
    """
    loss = campaign.killed(fake("buffering"), python, tmp_path, calls=3_000, seconds=600)
    assert loss.returned >= 3_000
    assert loss.lost == behind_the_last_block(loss)


def test_all_of_a_slow_run_may_be_lost(tmp_path, python):
    """At a pace, a tracker that buffers has written nothing yet."""
    loss = campaign.killed(fake("buffering"), python, tmp_path, calls=5, seconds=600, per_s=100)
    assert loss.returned >= 5
    assert loss.lost == behind_the_last_block(loss)


def test_helpers_are_killed_too(tmp_path, python):
    """A helper in another session dies with the run: it can't write on until the store is read."""
    with campaign.life(fake("helping"), python, tmp_path, "log") as lived:
        returned = lived.kill_after(500, 600)
        helper = next(tmp_path.glob("peer-*/store/helper")).read_text()
        # What has ended has no program, whether it is gone, a zombie, or has still to close its
        # files.
        assert not Path("/proc", helper, "exe").exists()
        assert returned >= 500
        assert Loss.of(returned, lived.found()).beyond <= 1


def test_latencies_are_measured_within_their_time(tmp_path, python):
    """A tight loop gives percentiles in order, a rate, and the time until the first value;
    nothing is left behind.
    """
    values = campaign.latency(fake("writing"), python, tmp_path, calls=500, seconds=600)
    assert values["calls"] == 500
    assert 0 < values["p50_us"] <= values["p99_us"] <= values["p999_us"] <= values["max_us"]
    assert values["calls_per_s"] > 0
    assert values["start_ms"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_finds_too_little_is_told(tmp_path, python):
    """An adapter that can't read back an orderly run proves no loss."""
    campaign.check_reader(fake("buffering"), python, tmp_path, calls=30)
    with pytest.raises(
        campaign.PeerFailedError, match="of 30 calls of an orderly run, 0 are found"
    ):
        campaign.check_reader(fake("forgetting"), python, tmp_path, calls=30)


def test_a_run_that_hangs_at_its_end_is_tried_again(tmp_path, python):
    """That a tracker does not come to an end now and then says nothing of its reader."""
    hanging = tmp_path / "hanging.py"
    source = (FAKES / "writing.py").read_text()
    mark = tmp_path / "hung"
    end = (
        f"(lambda: None) if os.path.exists({str(mark)!r}) else (lambda: (open({str(mark)!r}, "
        "'w').close(), __import__('time').sleep(600)))"
    )
    hanging.write_text(source.replace("lambda: os.close(file)", end))
    stores = tmp_path / "stores"
    stores.mkdir()
    # Only the first try hangs for sure. A machine on which it does not even come so far has another
    # two.
    campaign.check_reader(Peer("hanging", hanging), python, stores, calls=30, waits_s=(1, 300, 300))
    assert mark.exists()
    assert list(stores.iterdir()) == []


def test_a_peer_that_does_not_start_says_why(tmp_path, python):
    """The last lines of what it said are in the table."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no licence')\n")
    with pytest.raises(campaign.PeerFailedError, match="no licence"):
        campaign.latency(Peer("broken", broken), python, tmp_path, calls=5, seconds=1)


def test_the_run_goes_on_without_a_peer_that_cannot_be_installed(tmp_path, monkeypatch):
    """One line says why there is nothing; the others have their figures, and JSON and table say
    the same.
    """
    missing = Peer("missing", FAKES / "writing.py", str(tmp_path / "missing-1.0-py3-none-any.whl"))
    (tmp_path / "stores").mkdir()
    monkeypatch.setenv("JOURNALTRACK_PEERS", str(tmp_path / "environments"))
    monkeypatch.setattr(command, "PEERS", (missing, fake("writing"), fake("forgetting")))
    target = tmp_path / "figures.json"
    assert (
        command.main(
            [
                "--quick",
                "--rounds",
                "1",
                "--json",
                str(target),
                "--folder",
                str(tmp_path / "stores"),
            ]
        )
        == 0
    )
    absent, written, forgotten = json.loads(target.read_text())["peers"]
    assert absent["failed"].startswith("can't be installed: ")
    assert absent["latency"] == {}
    assert absent["killed_fast"] is None
    assert written["failed"] is None
    assert written["latency"]["p50_us"]["median"] > 0
    assert written["killed_fast"]["lost"]["runs"] == written["killed_slow"]["lost"]["runs"] == [0]
    assert "0 are found" in forgotten["failed"]
    assert forgotten["killed_fast"] is None
    rows = outcomes.rows([absent, written, forgotten])
    assert "not measured: can't be installed" in rows[0][-1]
    assert rows[1][6:8] == ("0", "0")
    assert rows[2][6:8] == ("", "")


def test_every_peer_has_its_adapter_and_its_pin():
    """Names are unique; what is installed is pinned to a version, or is the checkout."""
    peers = registry.PEERS
    assert len({peer.name for peer in peers}) == len(peers)
    for peer in peers:
        assert peer.adapter.is_file(), peer
        assert peer.returned
        assert peer.requirement in {None, registry.OURS} or "==" in peer.requirement
