"""Habits of the suite that no linter knows: docstrings, patience, and names of tests that are
there.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what a loaded machine may take: shorter waits are either no wait at all, or the subject of a test
LITERALS_S = range(1, 300)
TEXTS = {".py", ".md", ".toml", ".yaml", ".yml", ""}
TEST_NAME = re.compile(r"(?<![\w/.-])test_\w+")
TEST_PATH = re.compile(r"\btests/[\w/]*(?:\.py(?:::(\w+))?|/)")


@functools.cache
def files() -> list[Path]:
    """The files of the project: those that git has or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no work tree of git")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The modules of the tests, by path."""
    found = [
        file for file in files() if file.suffix == ".py" and file.is_relative_to(ROOT / "tests")
    ]
    return {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in found
    }


@functools.cache
def names() -> dict[str, set[str]]:
    """What each module of the tests defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {
        path: {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        for path, tree in trees().items()
    }


def each_test() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every test with its module."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield path, node


def test_each_test_says_which_property_it_checks():
    """A test has a docstring: sentences, that end with a full stop, and not its name once more."""
    wrong = []
    for path, node in each_test():
        text = ast.get_docstring(node) or ""
        words = re.sub(r"\W+", "_", text.lower()).strip("_")
        if not text.endswith(".") or len(text.split()) < 3 or f"test_{words}" == node.name:
            wrong.append(f"{path}:{node.lineno} {node.name}: {text!r}")
    assert wrong == []


def test_a_journal_of_a_module_s_own_says_how_it_differs():
    """A module takes the `journal` of its folder's conftest, or documents the one that it makes."""
    undocumented = [
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name == "journal"
        and any("fixture" in ast.unparse(each) for each in node.decorator_list)
        and not ast.get_docstring(node)
    ]
    assert undocumented == []


def test_no_wait_depends_on_how_fast_the_machine_is():
    """Waiting for a process, a thread or an event takes `FOREVER_S` or hundreds of seconds: less
    fails beside a busy neighbour.
    """
    wrong = []
    for path, tree in trees().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = call.func
            waits = [
                keyword.value
                for keyword in call.keywords
                if keyword.arg in {"timeout", "timeout_s"}
            ]
            if isinstance(function, ast.Attribute) and function.attr in {
                "wait",
                "join",
                "wait_until",
                "settimeout",
            }:
                of = ast.unparse(function.value)
                # a deadline's clock is a test's; a life is no thread
                waits += [] if of in {"deadline", "life"} else call.args[-1:]
            literals = [
                wait.value
                for wait in waits
                if isinstance(wait, ast.Constant) and type(wait.value) in {int, float}
            ]
            wrong += [
                f"{path}:{call.lineno} {ast.unparse(call)}"
                for literal in literals
                if int(literal) in LITERALS_S
            ]
    allowed = "socket.create_connection(('127.0.0.1', port), timeout=1)"  # is tried again
    assert [each for each in wrong if allowed not in each] == []


def test_no_test_sleeps():
    """Time passes on a test's own clock, or something is waited for."""
    sleeps = {"time.sleep", "sleep", "asyncio.sleep"}
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in sleeps
        and "fake_peers" not in path
    ]
    assert wrong == []


def test_every_test_that_is_named_is_there():
    """Paths and names of tests in comments, docstrings, configuration and documentation lead to
    a test; `test_x_…` to some.
    """
    defined = set().union(*names().values()) | {Path(path).stem for path in names()}
    wrong = []
    for file in files():
        own = file.relative_to(ROOT).as_posix()
        if file.suffix not in TEXTS or own == "tests/test_style.py":
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for match in TEST_PATH.finditer(text):
            path = match[0].partition("::")[0]
            if not (ROOT / path).exists() or (match[1] and match[1] not in names()[path]):
                wrong.append(f"{own}: {match[0]}")
        if own.startswith(("tests/", "examples/")):  # Python's own names are there too
            continue
        # a user's own
        shown = {
            name
            for names in re.findall(r"^def (test_\w+)|^# (test_\w+)\.py$", text, re.MULTILINE)
            for name in names
        }
        unknown = set(TEST_NAME.findall(text)) - defined - shown
        wrong += [
            f"{own}: {name}"
            for name in unknown
            if not name.endswith("_") or not any(each.startswith(name) for each in defined)
        ]
    assert wrong == []
