"""Implement ``journaltrack help``: show the documentation that comes with the package.

A topic is a page, or a heading of a page. ``errors.topic`` names the one of an error: each is a
heading of ``docs/reference/errors.md``.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.util import patterns

if TYPE_CHECKING:
    from importlib.abc import Traversable

_PACKAGE = "journaltrack.docs"
_FOLDERS = ("", "integrations", "reference")


def complete_topic(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of pages."""
    return [name for name in pages() if name.startswith(incomplete)]


@click.command(
    epilog="\b\nExamples:\n  journaltrack help\n  journaltrack help watch\n"
    "  journaltrack help journal-locked\n"
    "  journaltrack help journaltrack.service > journaltrack.service"
)
@click.argument("topic", required=False, shell_complete=complete_topic)
@common.common_options
def command(topic: str | None, *, as_json: bool) -> ExitCode:
    """Show the documentation about TOPIC; without one, list the pages.

    TOPIC is a page, a heading in one, or a command. Errors name theirs. The pages come with the
    package: you need no network.
    """
    if topic is None:
        listed = {name: _title(page) for name, page in pages().items()}
        text = "".join(f"{name:<22}{title}\n" for name, title in listed.items())
    else:
        text = about(topic)
    if as_json:
        output.print_json({"topic": topic, "text": text, "exit_code": int(ExitCode.OK)})
    elif topic is None or not output.on_terminal():
        output.write(text.rstrip("\n"))
    else:
        _show(text)
    return ExitCode.OK


def pages() -> dict[str, Traversable]:
    """Return the pages by name: files without ``.md``, in any of the folders."""
    top = importlib.resources.files(_PACKAGE)
    found = [
        page
        for folder in _FOLDERS
        for page in top.joinpath(folder).iterdir()
        if page.name.endswith((".md", ".service"))
    ]
    return {page.name.removesuffix(".md"): page for page in sorted(found, key=lambda p: p.name)}


def about(topic: str) -> str:
    """Return the page of that name, or the first section with that heading.

    Raises:
        click.UsageError: There is none. It names similar ones.
    """
    known = pages()
    wanted = topic.lower().removesuffix(".md")
    if wanted in known:
        return known[wanted].read_text(encoding="utf-8")
    headings: dict[str, str] = {}
    # Errors first: their headings are the topics that errors name.
    for page in (known["errors"], *known.values()):
        for heading, text in sections(page.read_text(encoding="utf-8")):
            headings.setdefault(heading, text)
    if wanted in headings:
        return headings[wanted]
    meant = patterns.near(wanted, [*known, *headings])
    hint = f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    raise click.UsageError(
        f"No such topic {output.clean(topic)!r}.{hint} `journaltrack help` lists the pages."
    )


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sections of a page: the heading as in a link (GitHub's rule), and the text.

    A section has those below it in it.
    """
    lines = text.splitlines(keepends=True)
    headings: list[tuple[int, int, str]] = []
    fenced = False
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        found = None if fenced else re.match(r"(#+) (.*)", line)
        if found:
            name = re.sub(r"[^\w -]", "", found[2].lower()).replace(" ", "-")
            headings.append((number, len(found[1]), name))
    for place, (start, level, name) in enumerate(headings):
        ends = (after for after, other, _ in headings[place + 1 :] if other <= level)
        yield name, "".join(lines[start : next(ends, len(lines))])


def _title(page: Traversable) -> str:
    """Return a page's first line without its marks."""
    with page.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def _show(text: str) -> None:
    """Show Markdown on a terminal, in its pager."""
    from rich.markdown import Markdown  # noqa: PLC0415 - only for a terminal

    console = output.terminal()
    with console.capture() as shown:
        console.print(Markdown(text, hyperlinks=False))
    click.echo_via_pager(shown.get())
