"""A real browser: Debian's Chromium, driven by playwright.

Where Chromium is missing the tests are skipped, with the reason; under CI (the variable that every
CI sets, and .ci/run) its absence is a failure. Playwright waits for what a test expects, so no test
sleeps. Each page's requests are kept: nothing but loopback may be asked. A picture of each test's
end is in ``build/screenshots/``.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.patience import FOREVER_S
from tests.viewing import served

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Without these, Chromium asks hosts of its maker when it starts.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    """One Chromium for the tests of a module."""
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("Chromium is not installed: apt-get install --no-install-recommends chromium")
    assert CHROMIUM, "CI must have Chromium: apt-get install --no-install-recommends chromium"
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=FOREVER_S * 1_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield running
        running.close()


class Window:
    """A page, what it asked for, and what went wrong in it."""

    def __init__(self, context):
        self.context = context
        self.page = context.new_page()
        self.asked = []
        self.faults = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("dialog", lambda dialog: (self.faults.append("dialog"), dialog.dismiss()))

    def _said(self, message):
        # What the server refuses is shown on the page; Chromium writes it down, too.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    @property
    def strangers(self):
        """What was asked of any place but loopback and the page itself."""
        return [
            url
            for url in self.asked
            if urlsplit(url).scheme not in {"data", "blob", "file"}
            and urlsplit(url).hostname != "127.0.0.1"
        ]


@pytest.fixture
def window(browser, request, monkeypatch, tmp_path):
    """Opens windows: ``window(url, width=..., height=..., scheme=...)`` gives a ``Window``.

    At the end none may have had a fault, or asked anything outside of this machine.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = []

    def start(url, width=1280, height=860, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            accept_downloads=True,
            **options,
        )
        context.set_default_timeout(FOREVER_S * 1_000)
        opened.append(Window(context))
        opened[-1].page.goto(url)
        return opened[-1]

    yield start
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w-]+", "-", request.node.name)
    for number, each in enumerate(opened):
        each.page.screenshot(path=PICTURES / f"{name}-{number}.png", full_page=True)
        each.context.close()
    for each in opened:
        assert each.faults == []
        assert each.strangers == []


@pytest.fixture
def view(window):
    """Starts servers; they end with the test."""
    with served() as start:
        yield start
