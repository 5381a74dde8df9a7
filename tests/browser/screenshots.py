"""Take the pictures of docs/pictures/ (`make screenshots`).

The runs are made up, always the same ones: a sweep that began two days ago.
"""

from __future__ import annotations

import io
import math
import os
import pty
import random
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from operator import mul
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from journaltrack import Tracker
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.viewing import Viewing

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
BYTES_MAX = 300_000
"""Of all together: pictures are part of the repository."""
STEPS = 300
COLUMNS = 100
COMMANDS = (
    ("runs", "--sort", "train/loss"),
    ("plot", "train/loss", "resnet-sgd-4", "resnet-adam-1"),
)
"""What the picture of a terminal shows."""


def record(journal: Path) -> None:
    """Record a sweep of eight runs, one after the other, the last one still training."""
    chance = random.Random(1)
    settings = [(lr, optimizer) for optimizer in ("adam", "sgd") for lr in (0.3, 0.1, 0.03, 0.01)]
    paces = [timedelta(seconds=66 + chance.uniform(-8, 8)) for _ in settings]
    steps = [STEPS] * (len(settings) - 1) + [STEPS // 3]
    started = datetime.now(timezone.utc) - sum(map(mul, paces, steps), timedelta())
    for number, (lr, optimizer) in enumerate(settings):
        tracker = Tracker.create(
            trial_component_name=f"resnet-{optimizer}-{number}",
            journal=journal,
            sync="off",
            tags={"sweep": "lr"} if optimizer == "sgd" else None,
        )
        tracker.trial_component.start_time = started
        tracker.__enter__()
        tracker.log_parameters({"lr": lr, "optimizer": optimizer, "batch_size": 128})
        for step in range(steps[number]):
            started += paces[number]
            loss = 2.3 * math.exp(-step * lr / 20) + 0.2 + chance.gauss(0, 0.02)
            values = {"train/loss": loss}
            if step % 10 == 0:
                values |= {"val/loss": 1.1 * loss + 0.02, "val/accuracy": 1 - loss / 3}
            tracker.log_metrics(values, step=step, timestamp=started)
        if number < len(settings) - 1:
            tracker.__exit__(None, None, None)
            tracker.trial_component.end_time = started


def take(page: Page, name: str) -> None:
    """Take one picture, if there is room for it."""
    page.mouse.move(0, 0)
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    sys.stderr.write(f"{file}: {file.stat().st_size} bytes\n")
    if sum(each.stat().st_size for each in PICTURES.iterdir()) > BYTES_MAX:
        sys.exit(f"the pictures have more than {BYTES_MAX} bytes")


def terminal(journal: Path, arguments: tuple[str, ...]) -> str:
    """Return what a command prints on a terminal, with its colours."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "journaltrack", *arguments, "-j", str(journal)],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
    )
    os.close(slave)
    printed = b""
    try:
        while part := os.read(master, 65_536):
            printed += part
    # So a terminal ends whose program has.
    except OSError:
        pass
    os.close(master)
    process.wait()
    return printed.decode()


def typed(journal: Path) -> str:
    """Return a page that shows the commands as a terminal does."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for arguments in COMMANDS:
        console.print(f"[bold]$ journaltrack {' '.join(arguments)}[/bold]", highlight=False)
        console.print(Text.from_ansi(terminal(journal, arguments).replace("\r", "")))
    return console.export_html(theme=MONOKAI)


def main() -> None:
    """Record runs, look at them, and take pictures."""
    if CHROMIUM is None:
        sys.exit("Chromium is missing: apt-get install --no-install-recommends chromium")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        record(Path(folder) / "journal")
        viewing = Viewing(Path(folder) / "journal", env={"XDG_CACHE_HOME": folder})
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1200, "height": 490})
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
        # The page's own policy takes no content from outside.
        plain = browser.new_page(viewport={"width": 1000, "height": 100})
        plain.set_content(typed(Path(folder) / "journal"))
        height = plain.evaluate("document.documentElement.scrollHeight")
        plain.set_viewport_size({"width": 1000, "height": height})
        take(plain, "terminal")
        browser.close()
        viewing.end()
    # The last run is left open: it would wait for its end.
    os._exit(0)


if __name__ == "__main__":
    main()
