"""A report in one file, opened from the disk in a real browser without any network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.viewing import awkward, hostile, runs

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Writes the report of all runs of a journal; returns its address."""

    def write(journal):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        command = [sys.executable, "-m", "journaltrack", "report", "*", "-j", str(journal)]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "report.html").as_uri()

    return write


def expect(locator):
    """Expect something of what the page shows, as long as it takes."""
    from playwright.sync_api import expect

    return expect(locator)


def test_a_report_opens_without_a_network_and_its_curves_are_alive(window, report, tmp_path):
    """Opened offline from the disk, it asks for nothing but itself, and values can be read off."""
    url = report(runs(tmp_path / "journal", count=3))
    opened = window(url, offline=True)
    chart = opened.page.locator(".chart", has_text="loss").first
    chart.scroll_into_view_if_needed()
    expect(chart.locator("canvas")).to_be_visible()
    last = chart.locator(".legend li span:last-child").first
    before = last.text_content()
    box = chart.locator(".u-over").bounding_box()
    opened.page.mouse.move(box["x"] + 10, box["y"] + 10)
    expect(last).not_to_have_text(before)
    assert opened.asked == [url]


def test_a_report_shows_its_curves_where_no_script_may_run(window, report, tmp_path):
    """Without scripts, as in a mail program, curves are pictures and everything can be read."""
    url = report(runs(tmp_path / "journal", count=2))
    page = window(url, offline=True, java_script_enabled=False).page
    expect(page.locator(".still svg path").first).to_be_visible()
    expect(page.get_by_text("result of check")).to_be_visible()
    expect(page.get_by_text("journaltrack check --remote")).to_be_visible()


def test_a_report_prints(window, report, tmp_path):
    """On paper the curves are pictures, and nothing is cut off."""
    page = window(report(runs(tmp_path / "journal", count=2)), offline=True).page
    page.emulate_media(media="print")
    expect(page.locator(".still svg").first).to_be_visible()
    expect(page.locator(".plot").first).to_be_hidden()
    assert page.pdf().startswith(b"%PDF")


def test_a_printed_report_keeps_colours_and_sizes(window, report, tmp_path):
    """On paper the colours that tell curves apart are printed, and side notes are no larger than
    what they belong to.
    """
    page = window(report(runs(tmp_path / "journal", count=2)), offline=True).page
    page.emulate_media(media="print")
    style = "e => [getComputedStyle(e).printColorAdjust, parseFloat(getComputedStyle(e).fontSize)]"
    swatches = page.locator(".swatch").evaluate_all(f"all => all.map({style})")
    assert swatches
    assert {adjust for adjust, _ in swatches} == {"exact"}
    larger = page.evaluate(
        "[...document.querySelectorAll('td *, th *, dd *')].filter((e) =>"
        " parseFloat(getComputedStyle(e).fontSize) >"
        " parseFloat(getComputedStyle(e.parentElement).fontSize)).map((e) => e.outerHTML)"
    )
    assert larger == []


def test_values_of_a_report_have_room_at_390_pixels(window, report, tmp_path):
    """On a phone the values take most of the width, not their labels."""
    page = window(report(runs(tmp_path / "journal", count=1)), offline=True, width=390).page
    widths = page.locator("dl.facts dd").evaluate_all("all => all.map((e) => e.clientWidth)")
    assert widths
    assert min(widths) > 390 / 2


def test_a_hostile_report_runs_nothing(window, report, tmp_path):
    """Names that try to run as scripts are texts in the report, too."""
    texts = hostile(tmp_path / "journal")
    page = window(report(tmp_path / "journal"), offline=True).page
    expect(page.get_by_role("heading", name=texts["metric"])).to_be_visible()
    expect(page.get_by_text(texts["value"]).first).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_fits_and_holds_any_values(window, report, tmp_path, width):
    """Extremes, 1,000 metrics and long texts: no fault, and nothing sticks out sideways."""
    page = window(report(awkward(tmp_path / "journal")), offline=True, width=width).page
    page.locator(".chart").first.scroll_into_view_if_needed()
    expect(page.locator(".chart canvas").first).to_be_visible()
    expect(page.get_by_role("columnheader", name="column_of_a_wide_table_0")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_anchor_can_be_saved_from_the_page(window, report, tmp_path):
    """A click saves the heads of the chains under the name that the command below uses."""
    page = window(report(runs(tmp_path / "journal", count=1)), offline=True).page
    link = page.get_by_role("link", name="anchor-")
    with page.expect_download() as saved:
        link.click()
    assert saved.value.suggested_filename == link.text_content()
    assert b"journaltrack-anchor" in Path(saved.value.path()).read_bytes()
