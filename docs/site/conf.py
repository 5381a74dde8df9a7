"""Build the site of the documentation: `make docs`.

The sources are the Markdown files of the repository, which read as well on GitHub. Only navigation
(``index.md``) and what is generated from code are the site's own: a page for each command, and the
Python API. The same pages of commands make the manual page. Nothing is fetched from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from journaltrack._version import __version__
from journaltrack.cli import COMMANDS, main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GENERATED = HERE / "generated"

project = "journaltrack"
author = project_copyright = "The journaltrack developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/site/index"
include_patterns = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**"]
include_patterns += [".github/SECURITY.md", "benchmarks/README.md", "tests/README.md"]
exclude_patterns = [".venv*", "build", "dist"]
nitpicky = False  # annotations name classes of the standard library and of boto3
default_role = "code"
smartquotes = False
myst_heading_anchors = 4
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # signatures have them; Google's sections have the meaning
autodoc_member_order = "bysource"
napoleon_use_ivar = True
html_theme = "furo"
html_title = f"journaltrack {__version__}"
html_show_sphinx = False
html_copy_source = False
man_pages = [
    ("docs/site/generated/commands", project, "record experiments, deliver later", [author], 1)
]


def write_commands(*_: object) -> None:
    """Write a page for each command, and the one that lists them."""
    GENERATED.mkdir(exist_ok=True)
    for stale in GENERATED.glob("*.md"):
        stale.unlink()
    group = click.Context(main, info_name=project)
    listed = ["# Commands", *helps(group), "```{toctree}", *COMMANDS, "```"]
    (GENERATED / "commands.md").write_text("\n".join(listed) + "\n", encoding="utf-8")
    for name in COMMANDS:
        context = click.Context(main.get_command(group, name), group, name)
        more = f"See also [what scripts read](../../cli.md#{name})."
        page = "\n".join([f"# {name}", *helps(context), more])
        (GENERATED / f"{name}.md").write_text(page + "\n", encoding="utf-8")


def helps(context: click.Context) -> list[str]:
    """Return the lines of a command's help, and of those of its subcommands."""
    lines = ["", "```text", context.get_help(), "```", ""]
    if isinstance(context.command, click.Group) and context.parent:
        for name, command in context.command.commands.items():
            lines += [f"## {context.info_name} {name}"]
            lines += helps(click.Context(command, context, name))
    return lines


def lead_to_the_site(app: Any, error: Exception | None) -> None:  # noqa: ANN401 - Sphinx's
    """Let the top of the site lead to its first page, which is not at the top of the repository."""
    if error is None and app.builder.format == "html":
        page = '<!DOCTYPE html><meta http-equiv="refresh" content="0; url=docs/site/index.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx's
    """Connect what is generated."""
    app.connect("config-inited", write_commands)
    app.connect("build-finished", lead_to_the_site)
