"""The page in a real browser: what people see, click and keep."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from journaltrack import Tracker, sync
from journaltrack.journal.destinations import copies
from tests.simulator.mlflow import MlflowServer
from tests.viewing import awkward, hostile, runs

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def expect(locator):
    """Expect something of what the page shows, as long as it takes."""
    from playwright.sync_api import expect

    return expect(locator)


def names(page):
    """The runs in the table, in their order."""
    return page.locator("tbody th.name a")


def keys(page):
    """The keys of the runs by name."""
    answer = "async () => (await (await jt.get('runs', {limit: 100})).json()).runs"
    return {run["name"]: run["key"] for run in page.evaluate(answer)}


def go(page, route, **values):
    """Go to a page of the page, as a link would."""
    page.evaluate("([page, values]) => { location.hash = jt.href(page, values); }", [route, values])


def curve(page, metric):
    """The chart of a metric, once it is drawn."""
    chart = page.locator(f'.chart[data-metric="{metric}"]')
    expect(chart.locator("canvas")).to_be_visible()
    return chart


def test_runs_are_listed_and_sorted_by_a_click(window, view, tmp_path):
    """The newest run comes first; a click on a metric sorts by it, another one turns it round."""
    page = window(view(runs(tmp_path / "journal")).url).page
    expect(names(page)).to_have_text([f"Run-{n}" for n in (5, 4, 3, 2, 1, 0)])
    page.get_by_role("button", name="loss", exact=True).click()
    heading = page.locator("th", has=page.get_by_role("button", name="loss"))
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(names(page).first).to_have_text(re.compile("Run-[03]"))
    page.get_by_role("button", name="loss").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(names(page).first).to_have_text(re.compile("Run-[25]"))
    page.reload()
    expect(names(page).first).to_have_text(re.compile("Run-[25]"))


def test_an_expression_filters_and_a_wrong_one_is_explained(window, view, tmp_path):
    """What fits is left; what can't be understood is told beside the field, and can be mended."""
    page = window(view(runs(tmp_path / "journal")).url).page
    field = page.get_by_role("searchbox", name="Filter")
    field.fill("lr < 0.2 and optimizer = sgd")
    field.press("Enter")
    expect(names(page)).to_have_text(["Run-5", "Run-1"])
    field.fill("lr <")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("accuracy > 2")
    field.press("Enter")
    expect(page.get_by_text("No run fits")).to_be_visible()
    field.fill("")
    expect(names(page)).to_have_count(6)


def test_a_filter_that_is_not_applied_does_not_look_applied(window, view, tmp_path):
    """What was typed says that it waits for Enter; rows of an older filter are told as such."""
    page = window(view(runs(tmp_path / "journal")).url).page
    expect(names(page)).to_have_count(6)
    field = page.get_by_role("searchbox", name="Filter")
    assert "Enter" in field.get_attribute("placeholder")
    waiting = page.get_by_text("Enter applies this filter")
    field.fill("lr < 0.2 and")
    expect(waiting).to_be_visible()
    field.press("Enter")
    expect(page.get_by_text("This filter was not applied")).to_be_visible()
    expect(waiting).to_have_count(0)
    expect(page.locator(".stale tbody")).to_be_visible()
    field.fill("lr < 0.2 and optimizer = sgd")
    field.press("Enter")
    expect(names(page)).to_have_text(["Run-5", "Run-1"])
    expect(page.locator(".stale")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_arrow_tells_the_order_of_what_is_shown(window, view, tmp_path):
    """Newest first is descending in the column of starts, and a click turns both round."""
    page = window(view(runs(tmp_path / "journal", count=2)).url).page
    expect(names(page)).to_have_text(["Run-1", "Run-0"])
    heading = page.locator("th", has=page.get_by_role("button", name="started"))
    for shown, order in ((["Run-1", "Run-0"], "descending"), (["Run-0", "Run-1"], "ascending")):
        expect(names(page)).to_have_text(shown)
        expect(heading).to_have_attribute("aria-sort", order)
        expect(heading).to_contain_text("↓" if order == "descending" else "↑")
        heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    for link, order in (("age", "descending"), ("-age", "ascending")):
        go(page, "runs", sort=link)
        expect(heading).to_have_attribute("aria-sort", order)


def test_runs_of_several_journals_name_their_journal(window, view, tmp_path):
    """Below each name is what tells its journal from the others, on the screen at any width; side
    by side, too, runs of the same name are told apart.
    """
    for name in ("alpha", "beta"):
        runs(tmp_path / name / "journal", count=2)
    page = window(view(tmp_path / "alpha", tmp_path / "beta").url).page
    captions = page.locator("tbody th.name small")
    expect(captions).to_have_text(["beta/journal"] * 2 + ["alpha/journal"] * 2)
    answer = "async () => (await (await jt.get('runs', {})).json()).runs"
    same = [run["key"] for run in page.evaluate(answer) if run["name"] == "run-0"]
    go(page, "compare", run=same)
    labels = curve(page, "loss").locator(".legend .label")
    expect(labels).to_have_text(["Run-0 (beta)", "Run-0 (alpha)"])


def test_a_diverged_run_is_told_in_the_table(window, view, tmp_path):
    """Values that are no numbers are counted beside the status, whatever columns are shown."""
    journal = runs(tmp_path / "journal", count=1)
    awkward(journal)
    page = window(view(journal).url).page
    row = page.locator("tr", has=page.get_by_role("link", name="awkward"))
    expect(row.locator(".chip.warn")).to_have_text("11 not finite")
    expect(page.locator("tbody .chip", has_text="not finite")).to_have_count(1)


def test_the_page_follows_the_address(window, view, tmp_path):
    """Nothing of one run is seen at the address of another, nor at that of none."""
    page = window(view(runs(tmp_path / "journal", count=4)).url).page
    expect(names(page)).to_have_count(4)
    known = keys(page)
    for name in ("run-0", "run-1", "run-2"):
        go(page, "run", run=known[name])
        label = name.capitalize()
        expect(page.locator("h1")).to_have_text(label)
        expect(curve(page, "loss").locator(".legend .label")).to_have_text([label])
    for gone in ("run", "compare"):
        go(page, "run", run=known["run-3"])
        expect(curve(page, "loss").locator(".legend .label")).to_have_text(["Run-3"])
        go(page, gone, run="none")
        expect(page.locator("[role=alert], .alert").first).to_be_visible()
        expect(page.locator("main")).not_to_contain_text("Run-3")
    for some in (["run-0", "run-1"], ["run-2", "run-3"], ["run-1"]):
        go(page, "compare", run=[known[name] for name in some])
        labels = [name.capitalize() for name in some]
        expect(curve(page, "loss").locator(".legend .label")).to_have_text(labels)
    go(page, "compare", run=[known["run-0"]], **{"from": "abc", "to": "1"})
    expect(page.get_by_text("is not a number").first).to_be_visible()
    expect(page.locator(".chart canvas")).to_have_count(0)


def test_nothing_of_the_run_before_shows_while_the_next_one_loads(window, view, tmp_path):
    """Until the answer is there, the page says that it loads, with no heading of another run."""
    opened = window(view(runs(tmp_path / "journal", count=2)).url)
    page = opened.page
    expect(names(page)).to_have_count(2)
    known = keys(page)
    go(page, "run", run=known["run-0"])
    expect(page.locator("h1")).to_have_text("Run-0")
    held = []
    page.route("**/api/run?*", lambda route: held.append(route))  # noqa: PLW0108
    # The page says that it loads before the browser has asked.
    with page.expect_request("**/api/run?*"):
        go(page, "run", run=known["run-1"])
    expect(page.get_by_text("Loading…")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("Run-0")
    held.pop().continue_()
    expect(page.locator("h1")).to_have_text("Run-1")


def test_an_axis_of_time_is_in_24_hours_and_inside(window, view, tmp_path):
    """Labels of any span are ISO's times and dates, none is cut at the edges of the drawing."""
    page = window(view(runs(tmp_path / "journal", count=1)).url).page
    texts, outside = page.evaluate(
        """async () => {
            const texts = [];
            const outside = [];
            const fill = CanvasRenderingContext2D.prototype.fillText;
            CanvasRenderingContext2D.prototype.fillText = function (text, x, y, ...rest) {
                const half = this.measureText(text).width / 2;
                const begin = { left: 0, right: 2 * half, end: 2 * half }[this.textAlign] ?? half;
                const { e, f } = this.getTransform();
                texts.push(text);
                const right = x + e + 2 * half - begin;
                const below = y + f + 11 * devicePixelRatio * (this.textBaseline === "top" ? 1 : 0);
                if (right > this.canvas.width || below > this.canvas.height) outside.push(text);
                return fill.call(this, text, x, y, ...rest);
            };
            const place = document.body.appendChild(document.createElement("div"));
            for (const span of [0.01, 1, 30, 600, 7200, 86400, 3 * 86400, 90 * 86400, 2e8]) {
                for (let shift = 0; shift < 6; shift += 1) {
                    const x = [1.79e9, 1.79e9 + span * (0.9 + shift / 40)];
                    const series = [{ label: "x", colour: 0, x, y: [-1, 1] }];
                    jt.draw(place, series, { kind: "time", width: 340, height: 200 });
                    await new Promise((done) => requestAnimationFrame(done));
                }
            }
            return [texts, outside];
        }"""
    )
    times = [text for text in texts if ":" in text or re.fullmatch(r"\d{4}-.*", text)]
    assert len(times) > 50
    for text in times:
        assert re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d{3})?)?|\d{4}-\d\d-\d\d", text), text
    assert not any(re.search("[ap]m", text, re.IGNORECASE) for text in texts)
    assert outside == []


def test_no_dot_lies_beyond_the_grid(window, view, tmp_path):
    """The lines of a scatter plot begin below the lowest dot and end above the highest."""
    page = window(view(runs(tmp_path / "journal", count=3)).url).page
    expect(names(page)).to_have_count(3)
    go(page, "compare", run=list(keys(page).values()), y="loss", p="lr")
    plot = page.get_by_role("group", name="loss against lr")
    expect(plot.locator("circle")).to_have_count(3)
    lines, dots = (
        plot.locator(shape).evaluate_all(f"all => all.map((e) => Number(e.getAttribute('{at}')))")
        for shape, at in (("line.grid", "y1"), ("circle", "cy"))
    )
    assert min(lines) <= min(dots)
    assert max(lines) >= max(dots)


def test_characters_that_turn_or_hide_text_are_escaped_everywhere(window, view, tmp_path):
    """A name can't look like another one: controls are shown as the terminal shows them, on each
    page and in what is read aloud.
    """
    journal = tmp_path / "journal"
    turned = "a\u202egnp.\u2066b\u200b"
    for name in ("one", "two"):
        with Tracker.create(trial_component_name=name, journal=journal, sync="off") as tracker:
            tracker.log_parameter(turned, f"{name} {turned}")
            tracker.log_metric(turned, 1.0, step=0)
            tracker.set_note(f"line\n{turned}")
            tracker.log_output(turned, f"s3://bucket/{turned}")
    page = window(view(journal).url).page
    expect(names(page)).to_have_count(2)
    known = keys(page)
    for route, values in (
        ("runs", {}),
        ("run", {"run": known["one"]}),
        ("compare", {"run": list(known.values())}),
    ):
        go(page, route, **values)
        expect(page.locator("main")).to_contain_text(r"a\u202egnp.\u2066b\u200b")
        shown = page.evaluate(
            "document.body.innerText + [...document.querySelectorAll('*')].map((e) =>"
            " ['title', 'aria-label', 'alt'].map((n) => e.getAttribute(n)).join('')).join('')"
        )
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", shown), route
    go(page, "run", run=known["one"])
    expect(page.locator(".note")).to_contain_text("line\n")
    curve(page, turned)


def test_columns_are_chosen_and_stay_in_the_link(window, view, tmp_path):
    """A column that is added or left out is so after a reload, too."""
    page = window(view(runs(tmp_path / "journal")).url).page
    page.locator("summary", has_text="Columns").click()
    page.get_by_role("checkbox", name="duration").uncheck()
    page.get_by_role("checkbox", name="depth").check()
    expect(page.get_by_role("button", name="depth")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="depth")).to_be_visible()
    expect(page.locator("thead", has_text="duration")).to_have_count(0)


def test_selected_runs_are_compared(window, view, tmp_path):
    """Curves lie over each other, what differs is named, and the best value is marked."""
    page = window(view(runs(tmp_path / "journal")).url).page
    for number in (0, 1, 2):
        page.get_by_role("checkbox", name=f"Select run-{number}").check()
    page.get_by_role("button", name="Compare 3").click()
    expect(page.get_by_role("heading", name="Compare 3 runs")).to_be_visible()
    expect(curve(page, "loss").locator(".legend li")).to_have_count(3)
    parameters = page.get_by_role("region", name="Parameters")
    expect(parameters.locator("tbody th")).to_have_text(["lr", "optimizer"])
    expect(page.locator(".best").first).to_be_visible()
    expect(page.get_by_role("group", name="Parallel coordinates").locator("path")).to_have_count(3)
    page.get_by_role("combobox", name="Metric").select_option("loss")
    expect(page.get_by_role("group", name="loss against lr").locator("circle")).to_have_count(3)
    address = page.url
    page.get_by_role("checkbox", name="Run-1").uncheck()
    expect(curve(page, "loss").locator(".legend li")).to_have_count(2)
    page.goto("about:blank")
    page.goto(address)
    expect(page.get_by_role("heading", name="Compare 3 runs")).to_be_visible()


def test_what_has_one_value_is_no_axis(window, view, tmp_path):
    """A parameter that one run lacks, and that is the same in the others, explains nothing."""
    journal = runs(tmp_path / "journal", count=2)
    with Tracker.create(trial_component_name="bare", journal=journal, sync="off") as tracker:
        tracker.log_parameters({"lr": 1.0, "optimizer": "sgd"})
        tracker.log_metric("loss", 1.0, step=0)
    page = window(view(journal).url).page
    go(page, "compare", run=list(keys(page).values()))
    parameters = page.get_by_role("region", name="Parameters")
    expect(parameters.locator("tbody th")).to_have_text(["depth", "lr", "optimizer"])
    options = page.get_by_role("combobox", name="Parameter").locator("option")
    expect(options).to_have_text(["lr", "optimizer"])


def test_values_that_differ_by_one_bit_are_drawn(window, view, tmp_path):
    """The page answers still: a metric may hold times in nanoseconds, whose next double is far."""
    journal = tmp_path / "journal"
    for number in range(2):
        name = f"run-{number}"
        with Tracker.create(trial_component_name=name, journal=journal, sync="off") as tracker:
            tracker.log_parameter("lr", 1.7e18 + 256 * number)
            for step in range(3):
                tracker.log_metric("at_ns", 1.7e18 + 256 * number, step=step)
    page = window(view(journal).url).page
    go(page, "compare", run=list(keys(page).values()))
    curve(page, "at_ns")
    assert page.locator("svg.drawn circle").count() == 2


def test_an_axis_of_any_size_has_labels(window, view, tmp_path):
    """A curve tells nothing without the numbers beside it; uPlot's own steps end at 1e16."""
    page = window(view(runs(tmp_path / "journal", count=1)).url).page
    spans = [(-1e308, 1e308), (-3e-310, 3e-310), (0, 0.001), (0, 1), (0.5, 0.9), (-1, 1), (0, 3)]
    spans += [(0, 10), (-12.5, 12.5), (0, 30), (100, 200), (0, 1e6), (1.7e18, 1.7e18 + 4096)]
    labels = page.evaluate(
        """async (spans) => {
            const place = document.body.appendChild(document.createElement("div"));
            const of = async ([low, high]) => {
                const series = [{ label: "x", colour: 0, x: [0, 1, 2], y: [low, high, low] }];
                const drawn = jt.draw(place, series, { kind: "step", width: 600, height: 200 });
                await new Promise((done) => requestAnimationFrame(done));
                return drawn.chart.axes[1]._values;
            };
            const found = [];
            for (const span of spans) found.push(await of(span));
            return found;
        }""",
        spans,
    )
    for span, found in zip(spans, labels, strict=True):
        assert found, span
        assert len(found) >= 2, span
        assert all(found), span


def test_a_comparison_shows_all_metrics_when_asked(window, view, tmp_path):
    """The table begins with 200 metrics, says so, and hides none for good."""
    page = window(view(awkward(tmp_path / "journal")).url).page
    go(page, "compare", run=[keys(page)["wide"]])
    rows = page.get_by_role("region", name="Metrics").locator("tbody tr")
    expect(rows).to_have_count(200)
    page.get_by_role("button", name="All 1000 metrics").click()
    expect(rows).to_have_count(1000)


def test_zooming_asks_for_the_part_that_is_shown(window, view, tmp_path):
    """Dragging over a chart fetches that range with more detail, and the link keeps it."""
    journal = tmp_path / "journal"
    with Tracker.create(trial_component_name="long", journal=journal, sync="off") as tracker:
        for step in range(20_000):
            tracker.log_metric("loss", float(step % 97), iteration_number=step)
    opened = window(view(journal).url)
    page = opened.page
    expect(names(page)).to_have_count(1)
    go(page, "run", run=keys(page)["long"])
    chart = curve(page, "loss")
    box = chart.locator(".u-over").bounding_box()
    y = box["y"] + box["height"] / 2
    with page.expect_response(lambda answer: "from=" in answer.url) as asked:
        page.mouse.move(box["x"] + box["width"] * 0.50, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.51, y, steps=5)
        page.mouse.up()
    query = parse_qs(urlsplit(asked.value.url).query)
    low, high = (float(query[end][0]) for end in ("from", "to"))
    assert 9_000 < low < high < 11_000
    assert high - low < 1_000
    (found,) = asked.value.json()["series"]
    assert found["is_exact"]
    assert len([x for x in found["x"] if low <= x <= high]) == int(high) - int(low + 0.999_999) + 1
    kept = page.url
    assert "from=" in kept
    with page.expect_response(lambda answer: "from=" in answer.url):
        page.reload()
    curve(page, "loss").get_by_role("button", name="All", exact=True).click()
    expect(chart.get_by_role("button", name="All", exact=True)).to_have_count(0)
    assert "from=" not in page.url


def test_a_chart_is_moved_with_the_keyboard(window, view, tmp_path):
    """Plus zooms in, an arrow moves, 0 shows everything again."""
    page = window(view(runs(tmp_path / "journal", count=1)).url).page
    expect(names(page)).to_have_count(1)
    go(page, "run", run=keys(page)["run-0"])
    curve(page, "loss").locator(".plot").focus()
    for key in ("+", "ArrowRight", "-"):
        before = page.url
        page.keyboard.press(key)
        page.wait_for_url(lambda url, before=before: url != before and "from" in url)
    page.keyboard.press("0")
    page.wait_for_url(lambda url: "from=" not in url)


def test_axes_scales_and_smoothing_are_kept_in_the_link(window, view, tmp_path):
    """Each control changes the address, and each axis is drawn."""
    page = window(view(runs(tmp_path / "journal", count=2)).url).page
    expect(names(page)).to_have_count(2)
    go(page, "compare", run=list(keys(page).values()))
    curve(page, "loss")
    page.get_by_role("button", name="log y").click()
    expect(page.get_by_role("button", name="log y")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="log x").click()
    page.get_by_role("slider", name="Smoothing").fill("0.9")
    for axis in ("time", "relative", "step"):
        with page.expect_response(lambda answer, axis=axis: f"x={axis}" in answer.url):
            page.get_by_role("combobox", name="Horizontal axis").select_option(axis)
        curve(page, "loss")
    page.reload()
    curve(page, "loss")
    expect(page.get_by_role("button", name="log y")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("slider", name="Smoothing")).to_have_value("0.9")


def test_what_training_appends_appears_by_itself(window, view, tmp_path):
    """A new point and a new run are on the screen without a click, while training goes on."""
    journal = runs(tmp_path / "journal", count=1)
    opened = window(view(journal).url)
    page = opened.page
    expect(names(page)).to_have_count(1)
    with Tracker.create(trial_component_name="later", journal=journal, sync="off") as tracker:
        expect(names(page)).to_have_count(2)
        expect(page.locator(".chip", has_text="running")).to_be_visible()
        tracker.log_metric("loss", 0.5, iteration_number=0)
        go(page, "run", run=keys(page)["later"])
        last = curve(page, "loss").locator(".legend li").first
        expect(last).to_contain_text("0.5")
        for step, value in enumerate((0.25, 0.125, 0.0625), start=1):
            tracker.log_metric("loss", value, iteration_number=step)
            expect(last).to_contain_text(str(value))
        tracker.log_metric("fresh", 1.0, iteration_number=0)
        curve(page, "fresh")
    expect(page.locator("h1 + .chip")).to_have_text("completed")


def test_more_tabs_than_a_browser_keeps_connections_are_live(window, view, tmp_path):
    """Each tab of many follows training, also when the one that listens is closed."""
    journal = runs(tmp_path / "journal", count=1, steps=2)
    first = window(view(journal).url)
    tabs = [first.page]
    for _ in range(8):
        tabs.append(first.context.new_page())
        tabs[-1].goto(first.page.url)
        expect(tabs[-1].get_by_text("live", exact=True)).to_be_visible()
        expect(tabs[-1].get_by_role("link", name="Run-0")).to_be_visible()
    for number, closed in enumerate([None, tabs[0], tabs[1]]):
        if closed:
            first.page = tabs[-1]
            closed.close()
            tabs.remove(closed)
        with Tracker.create(trial_component_name=f"new-{number}", journal=journal, sync="off"):
            for tab in tabs:
                expect(tab.get_by_role("link", name=f"new-{number}")).to_be_visible()


def test_hostile_names_are_shown_and_never_run(window, view, tmp_path):
    """No text of a journal runs as a script, on any page; each is on the screen as it is."""
    runs(tmp_path / "journal", count=1)
    texts = hostile(tmp_path / "journal")
    page = window(view(tmp_path / "journal").url).page
    expect(names(page)).to_have_count(3)
    expect(page.get_by_text(texts["label"][:60])).to_be_visible()
    expect(page.locator("tbody")).not_to_contain_text("function")
    expect(page.locator("tbody")).not_to_contain_text("[object")
    known = keys(page)
    go(page, "run", run=known["hostile"])
    expect(page.get_by_role("heading", name=texts["metric"])).to_be_visible()
    expect(page.get_by_text(texts["value"]).first).to_be_visible()
    for number in range(3):
        page.get_by_role("button", name="Preview").first.click()
        expect(page.locator(".preview pre")).to_have_count(number + 1)
    go(page, "run", run=known[texts["name"]])
    expect(page.get_by_text(texts["tagged"]).first).to_be_visible()
    go(page, "compare", run=list(known.values()))
    expect(page.get_by_role("heading", name="Compare 3 runs")).to_be_visible()
    expect(page.get_by_text(texts["parameter"]).first).to_be_visible()
    go(page, "runs", where=texts["name"], sort=texts["metric"])
    expect(page.get_by_role("alert")).to_be_visible()
    go(page, "delivery")
    expect(page.get_by_text("pending").first).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x], script:not([src])").count() == 0


def test_deliveries_are_shown_for_each_destination(window, view, tmp_path):
    """In the list, of a run and of the journal, by name; without any, SageMaker is not named."""
    journal = runs(tmp_path / "journal", count=1, steps=5)
    page = window(view(journal).url).page
    expect(names(page)).to_have_count(1)
    row = page.locator("tbody tr")
    expect(row).to_contain_text("pending")
    expect(row).not_to_contain_text("sagemaker")
    with MlflowServer() as server:
        sync(journal, destination=server.uri)
    name = next(iter(copies(journal)))
    expect(row).to_contain_text(f"{name} delivered")
    expect(row).to_contain_text("sagemaker")
    go(page, "run", run=next(iter(keys(page).values())))
    expect(page.get_by_text("delivered, 0 pending, 0 quarantined")).to_be_visible()
    go(page, "delivery")
    expect(page.get_by_text("0 pending, 0 quarantined")).to_be_visible()


def test_artifacts_are_previewed_and_saved(window, view, tmp_path):
    """Images, JSON and text are shown, other bytes are not; each is saved byte for byte."""
    rows = zlib.compress(b"\0\xff\0\0" * 1)
    header = struct.pack(">2I5B", 1, 1, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    files = {
        "dot.png": png,
        "settings.json": b'{"deep": {"list": [1, 2]}}',
        "notes.txt": "für später".encode(),
        "weights.bin": bytes(range(256)),
    }
    journal = tmp_path / "journal"
    with Tracker.create(trial_component_name="run", journal=journal, sync="off") as tracker:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
            tracker.log_artifact(tmp_path / name)
    page = window(view(journal).url).page
    expect(names(page)).to_have_count(1)
    go(page, "run", run=keys(page)["run"])
    shown = {"settings.json": '"deep"', "notes.txt": "für später", "weights.bin": "No preview"}
    for name, content in files.items():
        row = page.locator("tr", has=page.get_by_role("rowheader", name=name))
        row.get_by_role("button", name="Preview").click()
        if name == "dot.png":
            expect(row.get_by_role("img")).to_have_js_property("naturalWidth", 1)
        else:
            expect(row.get_by_role("region")).to_contain_text(shown[name])
        with page.expect_download() as saved:
            row.get_by_role("link", name="Download").click()
        assert saved.value.suggested_filename == name
        assert Path(saved.value.path()).read_bytes() == content


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_and_steps_can_be_looked_at(window, view, tmp_path, width):
    """A table has rows and columns at any width, a slider shows each step, hundreds of parameters
    are folded and found, and a run that failed tells what it printed last.
    """
    journal = tmp_path / "journal"
    with (
        warnings.catch_warnings(),
        contextlib.suppress(KeyError),
        Tracker.create(trial_component_name="run", journal=journal, sync="off") as tracker,
    ):
        warnings.simplefilter("ignore")
        tracker.log_parameters({f"p{number:03}": number for number in range(400)})
        tracker.log_table("scores", {"label": ["a", "b"] * 150, "hits": list(range(300))})
        for step in (0, 10, 20):
            tracker.log_text(f"sample of {step}", "sample.txt", step=step)
        tracker.log_text("\x1b[31mloss is nan\x1b[0m", "output.log")
        raise KeyError("lr")
    page = window(view(journal).url, width=width).page
    expect(names(page)).to_have_count(1)
    go(page, "run", run=keys(page)["run"])
    page.get_by_text("Last lines of the output").click()
    expect(page.get_by_text("loss is nan", exact=True)).to_be_visible()
    parameters = page.get_by_role("region", name="Parameters")
    expect(parameters.get_by_role("row")).to_have_count(25)
    parameters.get_by_role("searchbox").fill("p399")
    expect(parameters.get_by_role("row")).to_have_count(1)
    parameters.get_by_role("searchbox").fill("")
    parameters.get_by_role("button", name="All 400 parameters").click()
    expect(parameters.get_by_role("row")).to_have_count(400)
    table = page.locator("tr", has=page.get_by_role("rowheader", name="scores.json"))
    table.get_by_role("button", name="Preview").click()
    shown = table.get_by_role("table")
    expect(shown.get_by_role("columnheader")).to_have_text(["label", "hits"])
    expect(shown.get_by_role("cell")).to_have_count(400)
    cells = [shown.get_by_role("cell").nth(number).bounding_box() for number in (0, 1)]
    assert cells[0]["y"] == cells[1]["y"]
    expect(table).to_contain_text("100 more rows")
    sample = page.locator("tr", has=page.get_by_role("rowheader", name="sample.txt"))
    sample.get_by_role("slider").press("ArrowLeft")
    expect(sample.get_by_role("region")).to_have_text("sample of 10")
    sample.get_by_role("slider").press("Home")
    expect(sample.get_by_role("region")).to_have_text("sample of 0")
    with page.expect_download() as saved:
        sample.get_by_role("link", name="Download").click()
    assert Path(saved.value.path()).read_text() == "sample of 0"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_charts_and_tables_are_saved(window, view, tmp_path):
    """A chart is saved as a picture and as all of its points, the table of runs as CSV."""
    page = window(view(runs(tmp_path / "journal", count=2)).url).page
    expect(names(page)).to_have_count(2)
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0].startswith("name,status,")
    assert len(lines) == 3
    go(page, "compare", run=list(keys(page).values()))
    chart = curve(page, "loss")
    with page.expect_download() as saved:
        chart.get_by_role("button", name="PNG").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as saved:
        chart.get_by_role("link", name="CSV").click()
    assert len(Path(saved.value.path()).read_text().splitlines()) == 1 + 2 * 200


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_follows_the_theme(window, view, tmp_path, width, scheme):
    """Nothing sticks out sideways at either width, and the background is light or dark."""
    journal = runs(tmp_path / "journal", count=3)
    awkward(journal)
    page = window(view(journal).url, width=width, scheme=scheme).page
    expect(names(page)).to_have_count(5)
    known = keys(page)
    some = [known[name] for name in ("run-0", "run-1", "awkward")]
    for route, values in (
        ("runs", {"sel": some}),
        ("run", {"run": known["awkward"]}),
        ("compare", {"run": some}),
        ("delivery", {}),
    ):
        go(page, route, **values)
        expect(page.locator("main table, main .chart canvas").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, route
        red = page.evaluate(
            "Number(/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0])"
        )
        assert (red > 128) == (scheme == "light")


def test_the_theme_can_be_chosen(window, view, tmp_path):
    """A choice overrides the system's theme, and lasts."""
    page = window(view(runs(tmp_path / "journal", count=1)).url, scheme="light").page
    page.get_by_role("combobox", name="Theme").select_option("dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 20, 19)"
    page.reload()
    expect(names(page)).to_have_count(1)
    assert page.evaluate(background) == "rgb(20, 20, 19)"


def test_the_page_is_usable_by_keyboard_alone(window, view, tmp_path):
    """`/` goes to the filter; Tab reaches checkbox, link and button; each control has a name."""
    page = window(view(runs(tmp_path / "journal", count=2)).url).page
    expect(names(page)).to_have_count(2)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Filter")).to_be_focused()
    box = page.get_by_role("checkbox", name="Select run-1")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
            )
        )
    assert {"Select run-0", "Select run-1", "Run-0", "Run-1"} <= reached
    box.focus()
    page.keyboard.press("Space")
    expect(box).to_be_checked()
    go(page, "compare", run=list(keys(page).values()))
    curve(page, "loss")
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((e) => !(e.textContent.trim()"
        " || e.getAttribute('aria-label') || (e.labels && e.labels.length)) ).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_values_and_steps_of_any_kind_are_drawn_or_explained(window, view, tmp_path):
    """Extremes, gaps, odd steps, a thousand metrics, 300 parameters, long texts: no fault, and only
    what is near the screen is drawn.
    """
    opened = window(view(awkward(tmp_path / "journal")).url)
    page = opened.page
    expect(names(page)).to_have_count(2)
    known = keys(page)
    for values in ({}, {"logy": 1}, {"logx": 1, "logy": 1}, {"x": "time"}, {"smooth": 0.9}):
        go(page, "run", run=known["awkward"], **values)
        curve(page, "backwards")
    never = page.locator('.chart[data-metric="never-finite"]')
    never.scroll_into_view_if_needed()
    expect(never).to_contain_text("No finite points")
    expect(page.locator('.chart[data-metric*="ünïcode"]')).to_be_attached()
    page.get_by_role("button", name=re.compile("All [0-9]+ parameters")).click()
    expect(page.get_by_role("button", name="All 5000 characters")).to_be_attached()
    go(page, "run", run=known["wide"])
    curve(page, "m0000")
    expect(page.get_by_role("button", name="Show 48 more of 1000 metrics")).to_be_attached()
    assert page.locator("canvas").count() < 48
    page.get_by_role("searchbox", name="Find a metric").fill("m0999")
    expect(page.locator(".chart")).to_have_count(1)
    curve(page, "m0999")


def test_a_journal_that_vanishes_in_mid_view_is_told(window, view, tmp_path):
    """The page says what is wrong and keeps what it shows; a stopped server is told, too."""
    runs(tmp_path / "all" / "one", count=1)
    runs(tmp_path / "all" / "two", count=2)
    viewing = view(tmp_path / "all")
    page = window(viewing.url).page
    expect(names(page)).to_have_count(3)
    shutil.rmtree(tmp_path / "all" / "two")
    expect(page.get_by_role("alert").first).to_be_visible()
    expect(names(page)).to_have_count(3)
    viewing.end()
    expect(page.get_by_text("not connected")).to_be_visible()


def test_a_link_with_values_of_no_sense_is_explained_or_bounded(window, view, tmp_path):
    """A mean with a weight above 1 would be a wrong curve; a range of no numbers is an error."""
    page = window(view(runs(tmp_path / "journal", count=2)).url).page
    some = list(keys(page).values())
    go(page, "compare", run=some, smooth="7")
    expect(page.get_by_text("0.99", exact=True)).to_be_visible()
    go(page, "compare", run=some, **{"from": "abc", "to": "1"})
    expect(page.get_by_text("is not a number").first).to_be_visible()


def test_a_deep_link_to_a_run_that_is_gone_says_so(window, view, tmp_path):
    """An unknown run, and no run, get a message instead of an empty page."""
    page = window(view(runs(tmp_path / "journal", count=1)).url).page
    expect(names(page)).to_have_count(1)
    go(page, "run", run="none")
    expect(page.get_by_role("alert")).to_contain_text("there is no run")
    go(page, "run")
    expect(page.get_by_text("No run was named")).to_be_visible()
    go(page, "compare", run=["none", keys(page)["run-0"]])
    expect(page.get_by_text("not there any more")).to_be_visible()


def test_delivery_shows_states_and_the_next_commands(window, view, tmp_path):
    """Counts, the reason of what is quarantined, and commands to copy."""
    page = window(view(awkward(tmp_path / "journal")).url).page
    page.get_by_role("link", name="Delivery").click()
    expect(page.get_by_text("journaltrack sync")).to_be_visible()
    expect(page.get_by_text("NaN or infinite").first).to_be_visible()
    assert json.loads(page.evaluate("JSON.stringify(jt.live.connected)")) is True


def test_a_run_shows_which_code_ran_where(window, view, tmp_path):
    """Command, job and packages of the process are in its provenance, the changes to the code
    unfold; nothing of them is markup. A comparison tells what differs.
    """
    folder = tmp_path / "tree"
    folder.mkdir()
    script = (
        "from journaltrack import Tracker\nwith Tracker.create(journal={!r}, sync='off'):\n    {}"
    )
    (folder / "train.py").write_text(script.format(str(tmp_path / "journal"), "pass"))
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *command]
        subprocess.run(git, cwd=folder, check=True)
    changed = script.format(str(tmp_path / "journal"), "print('<b>changed</b>')")
    (folder / "train.py").write_text(changed)
    subprocess.run(
        [sys.executable, "train.py", "--name", "<script>alert(1)</script>", "--token", "hidden"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "JOURNALTRACK_GIT_DIFF": "on",
            "SLURM_JOB_ID": "4711",
        },
        check=True,
        stdout=subprocess.DEVNULL,
    )
    page = window(view(tmp_path / "journal").url).page
    names(page).first.click()
    provenance = page.get_by_role("region", name="Provenance")
    expect(provenance).to_contain_text("train.py --name '<script>alert(1)</script>' --token")
    expect(provenance).to_contain_text("SLURM_JOB_ID=4711")
    expect(provenance).to_contain_text("with uncommitted changes")
    expect(provenance).not_to_contain_text("hidden")
    provenance.get_by_text(re.compile(r"^\d+ packages$")).first.click()
    expect(provenance.get_by_text(re.compile("^pytest=="))).to_be_visible()
    provenance.get_by_role("button", name="Show").click()
    preview = provenance.get_by_role("region", name="Preview of git.diff")
    expect(preview).to_contain_text("+    print('<b>changed</b>')")
    # A run of other code is told from it.
    Tracker.create(trial_component_name="other", journal=tmp_path / "journal", sync="off").close()
    page.reload()
    go(page, "compare", run=list(keys(page).values()))
    code = page.get_by_role("region", name="Code")
    expect(code.locator("tbody")).to_contain_text("with uncommitted changes")
    expect(code.locator("tbody th", has_text="program")).to_be_visible()
