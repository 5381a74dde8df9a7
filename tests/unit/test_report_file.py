"""`journaltrack report`: what one file says, and that no name in a journal changes what it is."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack.cli import main
from journaltrack.readmodel import model as readmodel
from journaltrack.ui.page import to_html
from journaltrack.ui.report import anchor_name, gather, to_markdown, verdict
from tests.viewing import awkward, hostile, runs

pytestmark = pytest.mark.slow


class Tags(HTMLParser):
    """The elements of a document, and the texts of its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.inside = {"script": [], "style": []}
        self._open = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in self.inside:
            self._open = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag):
        self._open = None if tag == self._open else self._open

    def handle_data(self, data):
        if self._open:
            self.inside[self._open][-1] += data


def reported(journal, *names):
    """The report of some runs; all without names."""
    with readmodel.open([journal], cache=False) as model:
        model.refresh()
        return gather(model, model.find(names or ["*"]))


def test_a_report_has_who_when_what_and_how_to_verify(tmp_path):
    """Name, user, commit or its absence, parameters, digests, states and commands are in both
    formats.
    """
    journal = runs(tmp_path / "journal", count=2)
    (tmp_path / "weights").write_bytes(b"weights")
    with journaltrack.Tracker.load("run-0", journal=journal, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "weights")
    report = reported(journal)
    writer = report.runs[0].details.writers[-1]
    sha256 = hashlib.sha256(b"weights").hexdigest()
    for text in map(html.unescape, (to_html(report), to_markdown(report))):
        for wanted in (
            *("run-0", "Run-1", "lr", "optimizer", "sgd", "loss", "accuracy"),
            *(writer.user, writer.host, sha256, "pending", "Intact"),
            f"journaltrack check --anchor {anchor_name(report.journals[0])} {journal}",
            f"journaltrack check --remote {journal}",
        ):
            assert wanted in text.replace("\\", ""), wanted


def test_who_adds_a_note_later_did_not_record_the_run(tmp_path):
    """Processes that only tag and note a run are no part of where it came from; its own is."""
    journal = runs(tmp_path / "journal", count=1)
    for command in (["tag", "run-0", "a=b"], ["note", "run-0", "seen"]):
        subprocess.run(
            [sys.executable, "-m", "journaltrack", *command, "-j", str(journal)],
            check=True,
            capture_output=True,
        )
    text = to_markdown(reported(journal))
    assert text.count("- recorded by: ") == 1
    assert "processes" not in text
    assert "seen" in text


def test_a_report_tells_range_and_what_is_no_number(tmp_path):
    """The last value, the extremes and the count of NaN and infinities are in both formats."""
    with journaltrack.Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for step, value in enumerate((4.0, 1.0, 2.5)):
            tracker.log_metric("loss", value, step=step)
        with pytest.warns(journaltrack.JournaltrackWarning, match="NaN"):
            tracker.log_metric("loss", float("nan"), step=3)
    report = reported(tmp_path / "journal")
    assert "nan (1 … 4), 1 of 4 not finite" in to_markdown(report)
    assert "1 … 4, 1 of 4 not finite" in to_html(report)


def test_characters_that_turn_text_are_escaped_in_both_formats(tmp_path):
    """What is invisible or turns text around is shown as in the terminal; lines stay lines."""
    with journaltrack.Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.log_parameter("a\u202eb", "c\u2066d\x1b[31m")
        tracker.set_note("one\n\ttwo \u200f")
    report = reported(tmp_path / "journal")
    page = to_html(report)
    body = page[page.index("<body") : page.index("<script")]
    for text in (body, to_markdown(report)):
        assert not [each for each in text if not each.isprintable() and each not in "\n\t"]
        assert "u202e" in text
    assert "one\n\ttwo" in body


def test_a_report_tells_hours_as_hours(tmp_path):
    """Nobody divides 19,800 seconds in their head."""
    begun = datetime(2026, 11, 3, tzinfo=timezone.utc)
    with journaltrack.Tracker.create(
        trial_component_name="long", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.trial_component.start_time = begun
    tracker.trial_component.end_time = begun + timedelta(hours=5.5)
    report = reported(tmp_path / "journal")
    assert all("5 h 30 min" in text for text in (to_html(report), to_markdown(report)))


def test_the_anchor_in_a_report_proves_the_journal_and_finds_what_was_cut_off(tmp_path):
    """`check` takes the anchor: the journal as it was passes, and one without its end does not."""
    journal = runs(tmp_path / "journal", count=2)
    text = to_html(reported(journal))
    link = re.search(r'href="data:application/json;base64,([^"]+)"', text)[1]
    anchor = tmp_path / "anchor.json"
    anchor.write_bytes(base64.b64decode(link))
    assert journaltrack.check(journal, anchors=anchor).healthy
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        connection.executescript(
            "DROP TRIGGER IF EXISTS entry_is_never_deleted;"
            + "".join(
                f"DROP TRIGGER {name};"
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entry'"
                ).fetchall()
            )
            + "DELETE FROM entry WHERE seq > (SELECT max(seq) - 5 FROM entry);"
        )
        connection.commit()
    assert not journaltrack.check(journal, anchors=anchor).healthy


def test_nothing_but_our_scripts_may_run_and_nothing_is_fetched(tmp_path):
    """The policy names the digests of exactly the scripts and styles inside; no attribute runs or
    fetches anything.
    """
    runs(tmp_path / "journal", count=1)
    hostile(tmp_path / "journal")
    page = Tags(to_html(reported(tmp_path / "journal")))
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    data, *scripts = page.inside["script"]
    assert json.loads(data)
    for texts, directive in ((scripts, "script-src"), (page.inside["style"], "style-src")):
        named = re.search(rf"{directive} ([^;]+)", policy)[1].split()
        sums = [hashlib.sha256(text.encode()).digest() for text in texts]
        assert named == [f"'sha256-{base64.b64encode(each).decode()}'" for each in sums]
    for tag, attributes in page.elements:
        assert tag not in {"img", "iframe", "object", "embed", "link", "base", "form"}, tag
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert not {"src", "action", "background"} & set(attributes)
        assert attributes.get("href", "data:").startswith("data:application/json;base64,"[:5])


def test_hostile_names_are_texts_in_both_formats(tmp_path):
    """Each name is there as text; in Markdown no tag, link, code or table cell begins in one."""
    texts = hostile(tmp_path / "journal")
    report = reported(tmp_path / "journal")
    page = to_html(report)
    assert html.escape(texts["parameter"]) in page
    assert texts["parameter"] not in page.partition('<script type="application/json"')[0]
    written = to_markdown(report)
    assert "<img" not in written
    assert "<script" not in written
    tables = re.findall(r"(?m)(?:^\|.*\n)+", written)
    assert any("&lt;img" in table for table in tables)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_values_of_any_kind_are_reported(tmp_path):
    """NaN, infinities, extremes, odd steps, 1,000 metrics: a report is made, and says so."""
    report = reported(awkward(tmp_path / "journal"))
    page = Tags(to_html(report))
    curves = json.loads(page.inside["script"][0], parse_constant=lambda word: 1 / 0)
    assert len(curves) <= 100
    assert "more metrics are in the table" in to_html(report)
    assert "nan" in to_markdown(report)


def test_a_damaged_journal_is_reported_as_such(tmp_path):
    """The result of `check` is in the report: an altered entry is found, the file made."""
    journal = runs(tmp_path / "journal", count=1)
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entry'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE entry SET value = 7 WHERE stream = 'metric' AND step = 3")
        connection.commit()
    report = reported(journal)
    assert "found problems" in verdict(report.journals[0])
    assert "found problems" in to_html(report)
    assert "found problems" in to_markdown(report)


def command(*arguments, cwd, code=0):
    """Run `journaltrack report`."""
    done = subprocess.run(
        [sys.executable, "-m", "journaltrack", "report", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command_writes_a_file_or_to_stdout(tmp_path):
    """HTML by default, Markdown by the file's name or --format; --json tells where it is."""
    journal = runs(tmp_path / "journal", count=2)
    command("run-0", "-j", journal, cwd=tmp_path)
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    told = command("run-*", "-j", journal, "-o", "all.md", "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["runs"] == ["run-1", "run-0"]
    assert (tmp_path / "all.md").read_text().startswith("# 2 runs\n")
    shown = command("run-0", "-j", journal, "--format", "md", cwd=tmp_path)
    assert shown.stdout.startswith("# Run-0\n")
    assert command("none", "-j", journal, cwd=tmp_path, code=2).stdout == ""


def test_a_report_needs_no_server(tmp_path):
    """Where starlette and uvicorn are missing, a report is written all the same."""
    journal = runs(tmp_path / "journal", count=1)
    program = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        f"from journaltrack.cli import main; main(['report', '-j', {str(journal)!r}])"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "report.html").exists()


def test_a_report_shows_artifacts_and_runs_none(tmp_path):
    """Images inline, tables as tables, texts without colours, some steps of many; what is a page or
    a drawing with a script is text. Everything is bounded, and the rest is counted.
    """
    journal = tmp_path / "journal"
    image = b"\x89PNG\r\n\x1a\n"
    with journaltrack.Tracker.create(
        trial_component_name="run", journal=journal, sync="off"
    ) as tracker:
        tracker.log_table("scores", {"label": ["<b>a</b>"] * 60, "hits": list(range(60))})
        for step in range(20):
            tracker.log_text(f"step {step} \x1b[31mred\x1b[0m", "sample.txt", step=step)
        for name, content in (
            ("plot.png", image + b"\0" * 100),
            ("large.png", image + b"\0" * 2_000_001),
            ("page.html", b"<script>window.pwned=1</script>"),
            ("drawing.svg", b'<svg onload="window.pwned=1"/>'),
        ):
            (tmp_path / name).write_bytes(content)
            tracker.log_artifact(tmp_path / name)
    report = reported(journal)
    page, text = to_html(report), to_markdown(report)
    elements = Tags(page).elements
    sources = [attributes["src"] for tag, attributes in elements if tag == "img"]
    plot = base64.b64encode(image + b"\0" * 100).decode()
    assert sources == [f"data:image/png;base64,{plot}"]
    assert len([tag for tag, _ in elements if tag == "script"]) == 4
    for shown in ("&lt;script&gt;window.pwned=1", "&lt;svg onload=", "&lt;b&gt;a&lt;/b&gt;"):
        assert shown in page
    assert "… 10 more rows" in page
    assert "… 50 more rows" in text
    assert [n for n in range(20) if f"step {n} red" in page] == [0, 4, 8, 11, 15, 19]
    assert "sample.txt (step 7)" in page
    assert "large.png" in page
    assert "\x1b" not in page + text


def test_a_report_tells_why_a_run_failed(tmp_path):
    """Message, traceback and the end of what it printed are in both formats; of a run that ended
    well, the output is one of its artifacts.
    """
    for name in ("bad", "good"):
        with (
            contextlib.suppress(KeyError),
            journaltrack.Tracker.create(
                trial_component_name=name, journal=tmp_path / "journal", sync="off"
            ) as tracker,
        ):
            lines = "".join(f"line {number}\n" for number in range(100))
            tracker.log_text(f"{lines}\x1b[1mloss\x1b[0m is nan\n", "output.log")
            if name == "bad":
                raise KeyError("lr")
    for text in (
        to_html(reported(tmp_path / "journal", "bad")),
        to_markdown(reported(tmp_path / "journal", "bad")).replace("\\", ""),
    ):
        flat = html.unescape(text)
        assert 'raise KeyError("lr")' in flat
        assert "loss is nan" in flat
        assert "last lines of the output" in flat
    assert "last lines of the output" not in to_html(reported(tmp_path / "journal", "good"))
    shown = CliRunner().invoke(main, ["show", "bad", "-j", str(tmp_path / "journal")]).stdout
    assert shown.count('raise KeyError("lr")') == 1
    assert shown.index("traceback") < shown.index("end of output.log") < shown.index("loss is nan")
    assert "line 79\n" not in shown


def test_a_report_replaces_no_file_unless_forced(tmp_path):
    """What is there stays as it is, before anything is read; a journal's folder takes none."""
    journal = runs(tmp_path / "journal", count=1)
    file = tmp_path / "report.html"
    file.write_text("mine")

    def report(*options):
        return CliRunner().invoke(main, ["report", "-j", str(journal), *map(str, options)])

    done = report("-o", file)
    assert (done.exit_code, "--force" in done.stderr, file.read_text()) == (2, True, "mine")
    assert report("-o", file, "--force").exit_code == 0
    assert file.read_text().startswith("<!doctype html>")
    assert report("-o", journal / "report.html").exit_code == 2


def test_runs_of_one_display_name_are_told_apart_in_a_report(tmp_path):
    """In the table, the curves' legends and the headings of both formats."""
    for number in (1, 2):
        with journaltrack.Tracker.create(
            "Digits", trial_component_name=f"digits-{number}", journal=tmp_path / "j", sync="off"
        ) as tracker:
            tracker.log_metric("loss", number, step=0)
    report = reported(tmp_path / "j")
    for text in (to_html(report), to_markdown(report)):
        assert text.count("Digits (digits-1)") >= 3
        assert text.count("Digits (digits-2)") >= 3
