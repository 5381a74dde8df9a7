"""One sync of many journals: they share limits and fates only where that is right, whatever ends
it, everything adds up, and what it says is in the order of the journals.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import pytest

from journaltrack import Journal
from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT, points_of, record, states, sync_process
from tests.simulator import HttpError, Instead, simulator

pytestmark = pytest.mark.slow
MANY = 20
POINTS = 25


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder of journals, each of a run of its own; tests take copies."""
    inbox = tmp_path_factory.mktemp("recorded")
    for n in range(MANY):
        record(inbox / f"journal-{n:02}", f"run-{n:02}", POINTS)
    return inbox


@pytest.fixture
def inbox(recorded, tmp_path):
    """A copy of the folder of journals."""
    return shutil.copytree(recorded, tmp_path / "inbox")


def run(folder, sim, *arguments, **variables):
    """Sync in a process in which warnings are errors: exit code, stdout and stderr."""
    env = {"PYTHONWARNINGS": "error", **variables}
    process = sync_process(folder, sim.endpoint_url, *arguments, env=env)
    out, err = process.communicate()
    return process.returncode, out, err


def told(out, inbox):
    """Return the journals that lines begin with, in order."""
    lines = (line.partition(": ") for line in out.splitlines())
    return [who.removeprefix(f"{inbox}/") for who, colon, _ in lines if colon and who[0] == "/"]


def total(inbox):
    """Count the entries of all journals by state."""
    return sum((states(each) for each in sorted(inbox.iterdir())), Counter())


def test_many_journals_arrive_and_are_told_in_their_order(inbox):
    """Whichever is done first, the answers stand in the order of the journals, as text and as
    JSON; nothing arrives twice.
    """
    names = [f"journal-{n:02}" for n in range(MANY)]
    with simulator() as sim:
        # One of the first journals is among the last to be done.
        sim.on_request = lambda call: (
            "run-01" in str(call.params)
            and sim.wait_until(lambda sim: len(points_of(sim, "run-09")) == POINTS)
        )
        code, out, err = run(inbox, sim)
        assert code == 0, out + err
        assert told(out, inbox) == names
        assert out.endswith(f"all delivered: {MANY} journals\n")
        assert "warning" not in err.lower()
        for n in range(MANY):
            assert points_of(sim, f"run-{n:02}") == Counter(map(float, range(POINTS)))
        code, out, err = run(inbox, sim, "--json")
    assert code == 0, out + err
    documents = json.loads(out)["journals"]
    assert [each["journal"].rpartition("/")[2] for each in documents] == names


def test_what_is_wrong_with_one_journal_stops_no_other(inbox):
    """A damaged journal, one whose run AWS refuses and a path that the system refuses have errors
    in their place; all others arrive.
    """
    (inbox / "journal-03" / "journal.db").write_bytes(b"no journal" * 1_000)
    with simulator() as sim:
        refusal = HttpError(400, "ValidationException", "no")
        sim.fail(
            "CreateTrialComponent",
            refusal,
            times=9,
            when=lambda call: call.params["TrialComponentName"] == "run-05",
        )
        code, out, err = run(inbox, sim, str(inbox / ("x" * 300)))
        assert code == 8, out + err
        assert len(sim.components) == MANY - 2
    assert told(out, inbox) == [f"journal-{n:02}" for n in range(MANY) if n != 3]
    assert f"not all delivered: 3 of {MANY + 1} journals\n" in out
    assert "journal-03" in err
    assert "x" * 300 in err


def test_refused_credentials_stop_all_journals(inbox):
    """What every request would meet ends the sync: journals that had not begun send nothing, and
    each is told.
    """
    with simulator() as sim:
        sim.expired.add("AKIDTEST")
        code, out, err = run(inbox, sim, "--jobs", "4")
        assert code == 5, out + err
        assert len(sim.requests) <= 2
    assert err.count("was not tried, its entries stay pending") == MANY - 1
    assert err.count("hint: ") <= 2, "once for those that were not tried"
    assert total(inbox).keys() == {"pending"}


def test_a_sign_in_page_puts_points_of_one_journal_in_doubt(inbox):
    """What was delivered before gets more points, and then something else answers."""
    with simulator() as sim:
        assert run(inbox, sim)[0] == 0
        for n in range(MANY):
            record(inbox / f"journal-{n:02}", f"run-{n:02}", POINTS)
        sim.fail("*", Instead(200, b"<html>", {"content-type": "text/html"}), times=1_000)
        code, out, err = run(inbox, sim, "--jobs", str(MANY))
    assert code == 6, out + err
    assert err.count("was not tried, its entries stay pending") == MANY - 1
    in_doubt = [states(each)["in doubt"] for each in sorted(inbox.iterdir())]
    assert sorted(in_doubt)[:-1] == [0] * (MANY - 1)
    assert max(in_doubt) <= 10


def test_journals_share_the_limit_of_requests(inbox):
    """With a limit of requests per second, all journals together keep it."""
    limit, times = 20, []
    with simulator() as sim:
        sim.on_request = lambda _: times.append(time.monotonic())
        # Not from the first arrival, which a busy machine may see late.
        began = time.monotonic()
        code, out, err = run(inbox, sim, JOURNALTRACK_REQUESTS_PER_S=str(limit))
    assert code == 0, out + err
    assert len(times) > 3 * limit
    # One second's worth at once, and then so many each second.
    assert len(times) <= limit * (max(times) - began + 1) + 1


def test_copies_of_one_journal_are_delivered_once(inbox):
    """Of two copies, the first in order is delivered, and the second is told to be a copy."""
    shutil.copytree(inbox / "journal-01", inbox / "journal-00-copy")
    with simulator() as sim:
        code, out, err = run(inbox, sim)
        assert points_of(sim, "run-01") == Counter(map(float, range(POINTS)))
    assert code == 8, out + err
    assert states(inbox / "journal-00-copy")["pending"] == 0
    assert states(inbox / "journal-01")["delivered"] == 0
    assert f"{inbox}/journal-01 is a copy of the journal at {inbox}/journal-00-copy" in err


def test_a_journal_under_two_names_is_delivered_once(inbox, tmp_path):
    """A link to a journal beside it is no failure: it finds nothing left."""
    (tmp_path / "link").symlink_to(inbox / "journal-00")
    with simulator() as sim:
        code, out, err = run(tmp_path / "link", sim, str(inbox), "--even-if-behind")
        assert code == 0, out + err
        assert points_of(sim, "run-00") == Counter(map(float, range(POINTS)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_journals_in_order(inbox, number):
    """After a signal, requests in flight are recorded, no journal is left with a lease or an open
    request, and the next sync delivers the rest once.
    """
    middle, heard = 3 * MANY // 2, threading.Event()
    with simulator() as sim:
        child = []

        def interrupt(call):
            """Send the signal in the middle, and answer when it was heard."""
            if call.n == middle:
                child[0].send_signal(number)
            if call.n >= middle:
                heard.wait(FOREVER_S)

        sim.on_request = interrupt
        child.append(sync_process(inbox, sim.endpoint_url, "--jobs", "4"))
        assert any("stopping after the requests in flight" in line for line in child[0].stderr)
        heard.set()
        out, err = child[0].communicate()
        assert child[0].returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], out + err
        assert "Traceback" not in err
        found = total(inbox)
        assert found["pending"], out + err
        assert not found["in doubt"], out + err
        for each in sorted(inbox.iterdir()):
            with closing(Journal.open(each, read_only=True, create=False)) as journal:
                rows = journal.database.read("SELECT owner FROM lease")
                assert rows == [(None,)]
                unfinished = "SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL"
                assert journal.database.read(unfinished) == [(0,)]
        sim.on_request = None
        code, out, err = run(inbox, sim)
        assert code == 0, out + err
        for n in range(MANY):
            assert points_of(sim, f"run-{n:02}") == Counter(map(float, range(POINTS)))


def test_what_was_done_is_told_as_json_after_a_second_ctrl_c(inbox):
    """The first Ctrl-C waits for the requests in flight, and the second one ends the sync: stdout
    is still one document, of the journals that are done.
    """
    heard, fifth = threading.Event(), threading.Event()

    def hold(call):
        """Answer about the first run alone. The fifth begins when that is done."""
        if "run-04" in str(call.params):
            fifth.set()
        if "run-00" not in str(call.params):
            heard.wait(FOREVER_S)

    with simulator() as sim:
        sim.on_request = hold
        process = sync_process(inbox, sim.endpoint_url, "--jobs", "4", "--json")
        assert fifth.wait(FOREVER_S)
        process.send_signal(signal.SIGINT)
        assert any("repeat to stop within seconds" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        heard.set()
        out, err = process.communicate()
    assert process.returncode == 130, out + err
    told = json.loads(out)
    assert told["exit_code"] == 130
    assert told["journals"]
    assert "Traceback" not in err
    assert not total(inbox)["in flight"]


def test_as_many_journals_at_a_time_as_files_may_be_open(inbox):
    """With 64 open files allowed, a sync of 64 journals at a time delivers all."""
    with simulator() as sim:
        command = [sys.executable, "-m", "journaltrack", "sync", str(inbox), "--jobs", "64"]
        done = subprocess.run(
            ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command],
            env={**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": sim.endpoint_url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert set(total(inbox)) == {"delivered", "superseded"}


def test_a_kill_in_the_middle_of_many_journals_loses_nothing(inbox):
    """After SIGKILL the next sync finishes: each point is there once, or it is in doubt."""
    with simulator() as sim:
        child = []

        def kill(call):
            """End the sync at this request."""
            if call.n == 3 * MANY // 2:
                child[0].kill()

        sim.on_request = kill
        child.append(sync_process(inbox, sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode == -signal.SIGKILL
        sim.on_request = None
        code, out, err = run(inbox, sim)
        found = total(inbox)
        assert found["pending"] == 0, out + err
        assert code == (4 if found["in doubt"] else 0), out + err
        lost = 0
        for n in range(MANY):
            there = points_of(sim, f"run-{n:02}")
            assert max(there.values()) == 1
            lost += POINTS - len(there)
        assert lost <= found["in doubt"]
