"""The page's own files: vendored as published, and asking no other place."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import journaltrack.ui

STATIC = Path(journaltrack.ui.__file__).with_name("static")
VENDORED = [
    line.split()
    for line in (STATIC / "vendor" / "VENDORED.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize("line", VENDORED, ids=lambda line: line[0])
def test_a_vendored_file_is_the_published_one(line):
    """The file's SHA-256 is the recorded one."""
    name, *_, sha256 = line
    assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == sha256


def test_every_vendored_file_is_recorded_with_its_licence():
    """VENDORED.txt names each file beside it, and each package has its licence there."""
    there = {path.name for path in (STATIC / "vendor").iterdir()} - {"VENDORED.txt"}
    assert {name for name, *_ in VENDORED} == there
    for package in {line[1] for line in VENDORED}:
        assert f"LICENSE-{package}" in there


def test_no_file_of_the_page_names_another_host():
    """Nothing but the names of XML's namespaces and comments begins like an address."""
    for path in STATIC.rglob("*"):
        if path.suffix in {".js", ".css", ".html", ".svg"}:
            text = path.read_text(encoding="utf-8")
            found = set(re.findall(r"https?://[\w./-]+", text)) - {"http://www.w3.org/2000/svg"}
            # A comment at the head of uPlot names its home.
            assert {each for each in found if "w3.org" not in each} <= {
                "https://github.com/leeoniya/uPlot"
            }, path.name


def test_the_page_runs_no_text():
    """Our scripts make no markup of strings and evaluate none."""
    for path in STATIC.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert not re.search(r"new Function|dangerouslySet|setTimeout\(\s*[\"'`]", text), path.name


def test_no_script_or_style_can_end_its_element():
    """What a report has inside of it holds no closing tag of its own."""
    for path in STATIC.rglob("*"):
        if path.suffix in {".js", ".css"}:
            text = path.read_text(encoding="utf-8").lower()
            assert not re.search(r"</(script|style)|<!--", text)
