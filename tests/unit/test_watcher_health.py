"""What a watcher tells: a file that monitors can read at any moment, and Prometheus's format."""

from __future__ import annotations

import json
import os
import re
import stat
import threading

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.replay.pass_report import PassReport, Position
from journaltrack.util import paths
from journaltrack.util.config import WatchConfiguration
from journaltrack.watch import health as watcher_health
from journaltrack.watch.breaker import Backoff
from journaltrack.watch.folders import NoEvents
from journaltrack.watch.health import Health, living, prometheus
from journaltrack.watch.journal import Delivery, WatchedJournal
from journaltrack.watch.watcher import Watcher

NOW_NS = 1_800_000_000 * 10**9
DOWN = RemoteError(
    "refused",
    kind=ErrorKind.TRANSIENT,
    code="EndpointConnectionError",
    unreachable=True,
    hint="check",
)


def clock_ns():
    return NOW_NS


@pytest.fixture
def watcher(tmp_path):
    """A watcher that knows two journals, one of them with a quote and a line break in its name."""
    made = Watcher(
        lambda: [tmp_path],
        lambda _: Delivery(0),
        lambda: None,
        WatchConfiguration(),
        events=lambda _: NoEvents(),
        clock=lambda: 100.0,
    )
    for name in ("a", 'b"\n\\'):
        journal = WatchedJournal(tmp_path / name, Backoff(1, 10, lambda: 1.0), arriving=False)
        made.journals[journal.path] = journal
    report = PassReport(
        delivered=7, quarantined=1, requests=3, duration_s=0.5, position=Position(8, 3)
    )
    made.journals[tmp_path / "a"].take(Delivery(0, report.position, report), 100.0, NOW_NS, 0.3)
    return made


def health(tmp_path, **options):
    return Health(
        tmp_path / "health.json",
        tmp_path / "watch.prom",
        clock_ns=clock_ns,
        clock=lambda: 100.0,
        **options,
    )


def test_the_file_says_how_it_is(tmp_path, watcher):
    """Endpoint, journals, counts and times are told; times are seconds since the epoch."""
    health(tmp_path)(watcher)
    told = json.loads((tmp_path / "health.json").read_text())
    assert (told["state"], told["pid"], told["at"]) == ("ok", os.getpid(), NOW_NS / 1e9)
    first = told["journals"][0]
    assert (first["delivered"], first["quarantined"], first["requests"], first["rate_per_s"]) == (
        7,
        1,
        3,
        16.0,
    )
    assert first["last_success"] == NOW_NS / 1e9
    watcher.gate.fail(DOWN, 90.0)
    health(tmp_path)(watcher)
    told = json.loads((tmp_path / "health.json").read_text())
    assert told["state"] == "down"
    assert told["endpoint"]["error"] == {
        "code": "EndpointConnectionError",
        "message": "refused",
        "hint": "check",
    }
    assert told["endpoint"]["since"] == NOW_NS / 1e9 - 10
    assert told["endpoint"]["next_probe"] <= NOW_NS / 1e9 - 9


def test_a_reader_never_sees_half_a_file(tmp_path, watcher):
    """While it is written over and over, the file is whole at every reading, and no other file
    is left.
    """
    tell = health(tmp_path)
    tell(watcher)
    ended = threading.Event()

    def write():
        while not ended.is_set():
            tell(watcher)

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(300):
        assert json.loads((tmp_path / "health.json").read_text())["format"] == 1
    ended.set()
    thread.join()
    assert {path.name for path in tmp_path.iterdir()} == {"health.json", "watch.prom"}
    assert stat.S_IMODE((tmp_path / "health.json").stat().st_mode) == 0o644


def test_a_file_that_cannot_be_written_is_logged_once_and_ends_nothing(tmp_path, watcher, caplog):
    """A monitor's folder that is missing or full does not stop deliveries."""
    (tmp_path / "file").write_text("")
    tell = Health(tmp_path / "file" / "health.json", clock_ns=clock_ns)
    tell(watcher)
    tell(watcher)
    assert len([record for record in caplog.records if "can't be written" in record.message]) == 1


def test_prometheus_can_read_it(tmp_path, watcher):
    """Every line is a comment or a sample of the text format, each metric has one type, and
    labels are escaped.
    """
    text = prometheus(health(tmp_path).state_of(watcher))
    sample = re.compile(r'[a-z_]+(\{journal="(\\.|[^"\\])*"\})? -?\d+(\.\d+)?')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines()), text
    types = re.findall(r"^# TYPE (\w+) (gauge|counter)$", text, re.MULTILINE)
    assert len(dict(types)) == len(types)
    assert 'journal="' + str(tmp_path) + r"/b\"\n\\" + '"' in text
    assert 'journaltrack_delivered_entries_total{journal="' + str(tmp_path) + '/a"} 7' in text
    assert "journaltrack_endpoint_up 1" in text


def test_watchers_that_live_are_found_and_others_are_not(tmp_path, watcher):
    """Its own file is found in the home; one that is stale, stopped, or something else is not."""
    own = Health(clock_ns=clock_ns)
    own(watcher)
    folder = watcher_health.default_folder()
    assert own.health_file.parent == folder == paths.home() / "watchers"
    assert [state["pid"] for state in living(clock_ns=clock_ns)] == [os.getpid()]
    (folder / "other.json").write_text("[1]")
    (folder / "torn.json").write_text('{"format": 1, "at"')
    assert len(list(living(clock_ns=clock_ns))) == 1
    assert list(living(clock_ns=lambda: NOW_NS + 61 * 10**9)) == []
    own.close()
    assert not own.health_file.exists()
    named = Health(folder / "named.json", clock_ns=clock_ns)
    named(watcher)
    named.close()
    assert json.loads((folder / "named.json").read_text())["state"] == "stopped"
    assert list(living(clock_ns=clock_ns)) == []
