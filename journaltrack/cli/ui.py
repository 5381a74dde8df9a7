"""Implement ``journaltrack ui``: runs in a browser, from this machine alone."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from typing import Final

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals
from journaltrack.errors import MissingExtraError

_PORT_MAX: Final = 65_535
_MIRROR_EVERY_S: Final = 2.0
"""Ours: how often to look into a mirror for what is new."""


@click.command(
    epilog="\b\nExamples:\n  journaltrack ui\n  journaltrack ui /data/journals --port 8765 "
    "--no-browser\n  ssh -L 8765:127.0.0.1:8765 node   # then open the address here"
)
@about_journals
@click.option(
    "--port",
    metavar="N",
    type=common.Whole(0, _PORT_MAX),
    default=0,
    help="Port on loopback; 0 for a free one.  [default: 0]",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@common.options_with_json("Print the address as one JSON object.")
def command(journals: Journals, *, port: int, no_browser: bool, as_json: bool) -> ExitCode:
    """Show runs in a browser: tables, curves, comparison, delivery.

    The first line of stdout is the page's address. It holds a secret: who has it can read the
    journals, from this machine alone. The page needs no network and follows runs while they train.
    The command changes nothing, and ends with Ctrl-C.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise MissingExtraError(
            "journaltrack ui needs starlette and uvicorn, which are not installed",
            hint="pip install 'journaltrack[ui]'",
        )
    import secrets  # noqa: PLC0415 - shell completion imports this module

    from journaltrack.ui import server  # noqa: PLC0415

    for path in journals.typed:
        _warn_of(path)
    with server.listening(port) as listener:
        token = secrets.token_urlsafe(24)
        number = listener.getsockname()[1]
        address = f"http://{server.LOOPBACK}:{number}/?token={token}"
        if as_json:
            output.print_json_line({"url": address, "port": number})
        else:
            output.write(address)
            output.say("hint: Ctrl-C ends it", err=True)
        sys.stdout.flush()
        if not no_browser and _has_screen():
            import webbrowser  # noqa: PLC0415

            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        named = journals.named
        ended = threading.Event()
        for mirror in journals.mirrors:
            from journaltrack.mirror.copies import keep_extended  # noqa: PLC0415 - few name one

            keep_extended(mirror, _MIRROR_EVERY_S, ended)
        try:
            server.serve(named, listener, token)
        finally:
            ended.set()
    return ExitCode.OK


def _warn_of(named: str) -> None:
    """Say that something named has no journal: a table without a run looks like one that has none.

    One may still be made, so the page is shown.
    """
    from journaltrack.util import paths  # noqa: PLC0415 - as above

    path = paths.expanded(named)
    if not path.exists():
        output.problem("warning", f"there is no journal at {path}", "check the path")
    elif path.is_dir() and not (paths.is_mirror(path) or any(paths.journals_in(path))):
        output.problem(
            "warning",
            f"{path} has no journal in it",
            f"check the path; journals are searched for {paths.DEPTH_MAX} folders deep",
        )


def _has_screen() -> bool:
    """Return whether a browser would open a window, not take over the terminal."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
