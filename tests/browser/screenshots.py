"""Take the pictures of docs/pictures/ (`make screenshots`).

The runs are made up, always the same ones. Another day's pictures differ in dates alone.
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

from journaltrack import Tracker
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.viewing import Viewing

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
BYTES_MAX = 200_000
"""Pictures are part of the repository: small ones."""
STEPS = 600


def record(journal: Path) -> None:
    """Record eight runs that people could have made, the last one still training."""
    chance = random.Random(1)
    for number in range(8):
        lr, optimizer = (0.3, 0.1, 0.03, 0.01)[number % 4], ("adam", "sgd")[number // 4]
        tracker = Tracker.create(
            trial_component_name=f"resnet-{optimizer}-{number}",
            journal=journal,
            sync="off",
            tags={"sweep": "lr"} if number % 2 else None,
        )
        tracker.__enter__()
        tracker.log_parameters(
            {"lr": lr, "optimizer": optimizer, "batch_size": 64 * (1 + number % 3)}
        )
        for step in range(STEPS if number < 7 else STEPS // 3):
            loss = 2.3 * math.exp(-step * lr / 40) + 0.2 + chance.gauss(0, 0.05)
            values = {"train/loss": loss}
            if step % 20 == 0:
                values |= {"val/loss": 1.1 * loss + 0.02, "val/accuracy": 1 - loss / 3}
            tracker.log_metrics(values, step=step)
        if number < 7:
            tracker.__exit__(None, None, None)


def take(page: Page, name: str) -> None:
    """Take one picture, as small as the rule says."""
    page.mouse.move(0, 0)
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    size = file.stat().st_size
    sys.stderr.write(f"{file}: {size} bytes\n")
    if size > BYTES_MAX:
        sys.exit(f"{file} has more than {BYTES_MAX} bytes")


def main() -> None:
    """Record runs, look at them, and take pictures."""
    if CHROMIUM is None:
        sys.exit("Chromium is missing: apt-get install --no-install-recommends chromium")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        record(Path(folder) / "journal")
        viewing = Viewing(Path(folder) / "journal", env={"XDG_CACHE_HOME": folder})
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1200, "height": 450})
        page.goto(f"{viewing.url}#/runs?sort=train%2Floss")
        page.get_by_role("checkbox", name="Select resnet-sgd-4").check()
        page.get_by_role("checkbox", name="Select resnet-adam-1").check()
        take(page, "runs")
        answer = "async () => (await (await jt.get('runs', {})).json()).runs.map((run) => run.key)"
        keys = page.evaluate(answer)[:6]
        chosen = urlencode([*(("run", key) for key in keys), ("smooth", "0.6")])
        page.set_viewport_size({"width": 1200, "height": 600})
        page.goto(f"{viewing.url}#/compare?{chosen}")
        page.locator("canvas").nth(1).wait_for()
        take(page, "compare")
        browser.close()
        viewing.end()
    # The last run is left open: it would wait for its end.
    os._exit(0)


if __name__ == "__main__":
    main()
