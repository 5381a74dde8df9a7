"""`journaltrack ui` over HTTP: who may ask, what is answered, and that nothing is changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack import Tracker
from tests.viewing import Viewing, awkward, hostile, runs, served

QUESTIONS = ("runs", "run", "compare", "series", "delivery", "points.csv", "artifact", "preview")


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The side cache is a test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def view(cached):
    """Starts servers; they are ended with the test, without a complaint of theirs."""
    with served() as start:
        yield start


def key_of(viewing, name):
    """The key of a run."""
    return next(run["key"] for run in viewing.json("/api/runs")["runs"] if run["name"] == name)


def test_the_first_line_is_an_address_that_opens_the_page(view, tmp_path):
    """The address with its token answers with the page; its scripts come from the same place."""
    viewing = view(runs(tmp_path / "journal"))
    page = viewing.ask("/")
    assert page.status == 200
    assert page.getheader("Content-Type") == "text/html; charset=utf-8"
    for script in re.findall(r'(?:src|href)="([^"]+)"', page.body.decode()):
        assert viewing.ask(f"/{script}", token=False).status == 200, script


def test_who_lacks_the_token_learns_nothing(view, tmp_path):
    """Page, requests and events are refused without the token, with another, and with a part."""
    viewing = view(runs(tmp_path / "journal", count=1))
    for path in ("/", "/api/events", *(f"/api/{name}" for name in QUESTIONS), "/api/none"):
        for token in (False, "", "x", viewing.token[:-1], f"{viewing.token}x"):
            refused = viewing.ask(path, token=token)
            assert refused.status == 403, (path, token)
            assert b"run-0" not in refused.body
    bearer = {"Authorization": f"Bearer {viewing.token}"}
    assert viewing.ask("/api/runs", token=False, headers=bearer).status == 200


def test_a_page_of_another_name_is_refused(view, tmp_path):
    """A Host that is not loopback's is refused even with the token: names can be rebound."""
    viewing = view(runs(tmp_path / "journal", count=1))
    for host in ("evil.example", f"evil.example:{viewing.port}", "127.0.0.1.evil.example", ""):
        assert viewing.ask("/api/runs", headers={"Host": host}).status == 400, host
    for host in ("localhost", f"localhost:{viewing.port}", "127.0.0.1:9999"):
        assert viewing.ask("/api/runs", headers={"Host": host}).status == 200, host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_questions_are_answered(view, tmp_path, method):
    """No path takes a method that changes something."""
    viewing = view(runs(tmp_path / "journal", count=1))
    for path in ("/", "/api/events", "/static/app.js", *(f"/api/{name}" for name in QUESTIONS)):
        assert viewing.ask(path, method=method).status == 405, path


def test_every_answer_has_the_headers_that_keep_scripts_out(view, tmp_path):
    """Policy, nosniff, no framing and no referrer are on answers and errors alike."""
    viewing = view(runs(tmp_path / "journal", count=1))
    answers = [
        viewing.ask("/"),
        viewing.ask("/static/app.js"),
        viewing.ask("/static/none"),
        viewing.ask("/none"),
        viewing.ask("/", token=False),
        viewing.ask("/", headers={"Host": "evil.example"}),
        viewing.ask("/", method="POST"),
        *(viewing.ask(f"/api/{name}", run="x", metric="m") for name in QUESTIONS),
    ]
    for answer in answers:
        policy = answer.getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'none'"), answer.status
        assert "unsafe" not in policy
        assert not re.search(r"https?:|\*", policy)
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("X-Frame-Options") == "DENY"
        assert answer.getheader("Referrer-Policy") == "no-referrer"
        assert answer.getheader("Access-Control-Allow-Origin") is None
        assert answer.getheader("Set-Cookie") is None


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/static/vendor/../../views.py",
        "/static/%00",
    ],
)
def test_nothing_outside_of_the_static_files_is_served(view, tmp_path, path):
    """No spelling of a path leads out of the folder of the page's own files."""
    answer = view(runs(tmp_path / "journal", count=1)).ask(path)
    assert answer.status in {400, 404}
    assert b"import" not in answer.body
    assert b"root:" not in answer.body


def test_it_listens_on_loopback_alone(view, tmp_path):
    """The kernel's table has the port on 127.0.0.1 and on no other address."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("only Linux has the table")
    port = view(runs(tmp_path / "journal", count=1)).port
    listening = [
        fields[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for fields in map(str.split, Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_an_artifact_is_sent_to_be_saved_and_never_to_be_shown(view, tmp_path):
    """A logged page arrives as an attachment of no type, sandboxed, byte for byte."""
    viewing = view(runs(tmp_path / "journal", count=1).parent)
    hostile(tmp_path / "journal")
    key = key_of(viewing, "hostile")
    outputs = [a for a in viewing.json("/api/run", run=key)["artifacts"] if a["sha256"]]
    assert {each["name"] for each in outputs} >= {"page.html", "picture.svg"}
    for each in outputs:
        sent = viewing.ask("/api/artifact", run=key, sha256=each["sha256"])
        assert sent.status == 200
        assert sent.getheader("Content-Type") == "application/octet-stream"
        assert sent.getheader("Content-Disposition").startswith("attachment; filename*=")
        assert "sandbox" in sent.getheader("Content-Security-Policy")
        assert len(sent.body) == each["size_bytes"] == int(sent.getheader("Content-Length"))
        shown = viewing.ask("/api/preview", run=key, sha256=each["sha256"])
        assert shown.getheader("Content-Type") == "application/json"
        assert json.loads(shown.body)["kind"] == "text"
        assert "sandbox" in shown.getheader("Content-Security-Policy")


def test_no_file_but_an_artifact_of_the_run_is_read(view, tmp_path):
    """A link in the spool's place, another run's content, and paths for digests are not found."""
    journal = tmp_path / "journal"
    (tmp_path / "secret").write_text("secret")
    for name in ("one", "two"):
        (tmp_path / "file").write_text(name)
        with Tracker.create(trial_component_name=name, journal=journal, sync="off") as tracker:
            tracker.log_artifact(tmp_path / "file")
    viewing = view(journal)
    one, two = (
        viewing.json("/api/run", run=key_of(viewing, name))["artifacts"][0]["sha256"]
        for name in ("one", "two")
    )
    key = key_of(viewing, "one")
    assert viewing.ask("/api/artifact", run=key, sha256=one).body == b"one"
    blob = journal / "spool" / one[:2] / one
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    for sha256 in (one, two, "../../secret", "/etc/passwd", "", "A" * 64, f"{one}\n"):
        for path in ("/api/artifact", "/api/preview"):
            answer = viewing.ask(path, run=key, sha256=sha256)
            assert answer.status == 404, sha256
            assert b"secret" not in answer.body
    shutil.rmtree(blob.parent)
    (tmp_path / one).write_text("secret")
    blob.parent.symlink_to(tmp_path)
    assert viewing.ask("/api/artifact", run=key, sha256=one).body != b"secret"


def test_looking_changes_nothing_in_the_journal(view, tmp_path):
    """After every question the journal's folder has the same files with the same bytes."""
    journal = runs(tmp_path / "journal", count=2)
    (tmp_path / "file").write_text("x")
    with Tracker.load("run-0", journal=journal, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "file")

    def content():
        # SQLite's readers make an empty log, and what they share of it.
        kept = [path for path in journal.rglob("*") if not path.name.endswith(("-shm", "-wal"))]
        return {path: path.read_bytes() for path in kept if path.is_file()}

    before = content()
    viewing = view(journal)
    key = key_of(viewing, "run-0")
    sha256 = viewing.json("/api/run", run=key)["artifacts"][0]["sha256"]
    for name in QUESTIONS:
        assert viewing.ask(f"/api/{name}", run=key, metric="loss", sha256=sha256).status == 200
    assert viewing.end()[0] == 0
    assert content() == before


def test_it_works_on_a_journal_that_nobody_can_write(view, tmp_path):
    """A journal on read-only media is shown."""
    journal = runs(tmp_path / "journal", count=2)
    for path in (*journal.rglob("*"), journal):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        viewing = view(journal)
        assert viewing.json("/api/runs")["total"] == 2
        assert viewing.json("/api/series", run=key_of(viewing, "run-0"), metric="loss")["series"]
    finally:
        for path in (journal, *journal.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)


def test_an_event_follows_each_change(view, tmp_path):
    """A point that another process appends is told, and is in the next answer."""
    journal = runs(tmp_path / "journal", count=1)
    viewing = view(journal)
    key = key_of(viewing, "run-0")
    with (
        viewing.events() as lines,
        Tracker.load("run-0", journal=journal, sync="off") as tracker,
    ):
        assert next(lines) == "retry: 1000"
        # Where it stands, and that the run was loaded.
        assert "event: changed" in lines
        tracker.log_metric("loss", 42.0, iteration_number=1_000)
        for line in lines:
            if line == "event: changed":
                found = viewing.json("/api/series", run=key, metric="loss")
                if found["series"][0]["last"] == 42.0:
                    break
        else:
            pytest.fail("the stream ended without the news")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_while_a_page_is_open(cached, tmp_path, number):
    """Ctrl-C and SIGTERM end it with 0, although a stream of events is open."""
    viewing = Viewing(runs(tmp_path / "journal", count=1))
    with viewing.events() as lines:
        assert next(lines)
        code, errors = viewing.end(number)
    assert code == 0, errors
    assert "Traceback" not in errors


def test_a_curve_has_what_fits_on_the_screen_and_zooming_in_has_more(view, tmp_path):
    """Of 20,000 points a chart gets at most some per column; a small range has every point."""
    journal = tmp_path / "journal"
    with Tracker.create(trial_component_name="long", journal=journal, sync="off") as tracker:
        for step in range(20_000):
            tracker.log_metric("loss", float(step % 97), iteration_number=step)
    viewing = view(journal)
    question = {"run": key_of(viewing, "long"), "metric": "loss", "columns": 500}
    (whole,) = viewing.json("/api/series", **question)["series"]
    assert len(whole["x"]) <= 3 * 500
    assert not whole["is_exact"]
    assert (min(whole["y"]), max(whole["y"])) == (0.0, 96.0)
    (part,) = viewing.json("/api/series", **question, **{"from": 5_000, "to": 5_100})["series"]
    assert part["is_exact"]
    assert [x for x in part["x"] if 5_000 <= x <= 5_100] == list(range(5_000, 5_101))


def test_values_that_json_lacks_and_odd_steps_are_answered(view, tmp_path):
    """NaN, infinities, extremes, missing, repeated and backward steps, a thousand metrics, long
    texts: each answer is strict JSON.
    """
    viewing = view(awkward(tmp_path / "journal"))
    key = key_of(viewing, "awkward")
    run = viewing.json("/api/run", run=key)
    assert len(run["parameters"]) == 301
    for metric in run["metrics"]:
        for axis in ("step", "time", "relative"):
            for columns in (1, 3, 500):
                found = viewing.json(
                    "/api/series", run=key, metric=metric["name"], x=axis, columns=columns
                )
                assert len(found["series"]) == 1
    assert len(viewing.json("/api/run", run=key_of(viewing, "wide"))["metrics"]) == 1_000
    assert viewing.json("/api/compare", run=[key, "gone", key_of(viewing, "wide")])["missing"]
    assert viewing.json("/api/runs", sort="-extremes", col=["p:long", "m:extremes"])["total"] == 2


def test_the_columns_are_those_that_most_runs_have(view, tmp_path):
    """One run with a thousand metrics takes one column, as any run that has none of the others."""
    journal = runs(tmp_path / "journal", count=3, steps=2)
    awkward(journal)
    columns = view(journal).json("/api/runs")["columns"]
    assert [each for each in columns if each.startswith("m:")] == [
        *("m:accuracy", "m:backwards", "m:loss", "m:m0000"),
    ]


def test_bad_questions_are_answered_with_what_is_wrong(view, tmp_path):
    """An expression, column, number, axis or run that does not exist gets a message."""
    viewing = view(runs(tmp_path / "journal", count=1))
    bad = [
        ("runs", {"where": "lr <"}, 400),
        ("runs", {"where": "nothing = 1"}, 404),
        ("runs", {"sort": "nothing"}, 404),
        ("runs", {"limit": "many"}, 400),
        ("run", {"run": "none"}, 404),
        ("run", {}, 404),
        ("series", {"x": "sideways", "metric": "loss"}, 400),
        ("series", {"from": "nan", "metric": "loss"}, 400),
        ("series", {"from": "here", "metric": "loss"}, 400),
    ]
    for name, query, status in bad:
        answer = viewing.ask(f"/api/{name}", **query)
        assert answer.status == status, (name, query, answer.body)
        assert json.loads(answer.body)["error"]["message"]


def test_a_journal_that_is_damaged_newer_or_gone_hides_no_other(view, tmp_path):
    """Runs of good journals are listed beside the problem of each bad one, and delivery says so."""
    runs(tmp_path / "all" / "good", count=2)
    runs(tmp_path / "all" / "newer", count=1)
    with closing(sqlite3.connect(tmp_path / "all" / "newer" / "journal.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    runs(tmp_path / "all" / "damaged", count=1)
    with open(tmp_path / "all" / "damaged" / "journal.db", "r+b") as file:
        file.write(b"no database at all")
    viewing = view(tmp_path / "all")
    found = viewing.json("/api/runs")
    assert found["total"] == 2
    assert len(found["problems"]) == 2
    assert all(problem["message"] for problem in found["problems"])
    journals = viewing.json("/api/delivery")["journals"]
    assert sorted("error" in each for each in journals) == [False, True, True]
    shutil.rmtree(tmp_path / "all" / "good")
    assert len(viewing.json("/api/runs")["problems"]) >= 2
    assert viewing.ask("/").status == 200


def test_delivery_names_what_failed_and_the_commands_to_run_next(view, tmp_path):
    """Quarantined entries are grouped by reason; what can never be sent is not to be retried."""
    viewing = view(awkward(tmp_path / "journal"))
    (journal,) = viewing.json("/api/delivery")["journals"]
    assert journal["status"]["quarantined"]
    assert any("NaN" in problem["reason"] for problem in journal["problems"])
    commands = [each["command"].split()[1] for each in journal["next"]]
    assert commands == ["sync", "audit"]


def test_all_points_can_be_saved_as_csv(view, tmp_path):
    """The file has each point of each run, and no text that a spreadsheet would run."""
    viewing = view(runs(tmp_path / "journal", count=2, steps=50))
    keys = [run["key"] for run in viewing.json("/api/runs")["runs"]]
    sent = viewing.ask("/api/points.csv", run=keys, metric="loss")
    assert sent.getheader("Content-Disposition").startswith("attachment")
    lines = sent.body.decode().splitlines()
    assert lines[0] == "run,step,time,value"
    assert len(lines) == 1 + 2 * 50


def test_without_the_extra_the_command_names_it(tmp_path):
    """Where starlette is missing, one line says what to install, with the code for wrong usage."""
    program = (
        "import sys; sys.modules['starlette'] = None\n"
        "from journaltrack.cli import main; main(['ui', '--no-browser'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'journaltrack[ui]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(view, tmp_path):
    """A second server on the same port ends with a message and the code for wrong usage."""
    viewing = view(runs(tmp_path / "journal", count=1))
    command = [sys.executable, "-m", "journaltrack", "ui", "--no-browser", "--port"]
    done = subprocess.run(
        [*command, str(viewing.port), str(tmp_path / "journal")],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert str(viewing.port) in done.stderr
    assert done.stdout == ""


def test_a_path_without_a_journal_is_warned_of(tmp_path):
    """An empty table of runs would look like a journal without any; the page is served all the
    same, since a script may make the journal later.
    """
    (tmp_path / "empty").mkdir()
    viewing = Viewing(tmp_path / "gone", tmp_path / "empty", runs(tmp_path / "j", count=1))
    assert viewing.ask("/").status == 200
    code, errors = viewing.end()
    assert code == 0
    assert f"there is no journal at {tmp_path / 'gone'}" in errors
    assert f"{tmp_path / 'empty'} has no journal in it" in errors
    assert errors.count("warning") == 2
