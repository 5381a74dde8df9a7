"""What the documents point to is there."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

from journaltrack.cli import COMMANDS

ROOT = Path(__file__).parents[1]


def test_every_promise_names_tests_that_exist():
    """Each row of the promises' table in ARCHITECTURE.md names at least one test, and every test
    named is there.
    """
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    promises = [line for line in text.splitlines() if re.match(r"\| \d \|", line)]
    assert {line[2] for line in promises} == set("1234567")
    for line in promises:
        named = re.findall(r"`(tests/[^`]*)`", line)
        assert named, line
        for path in named:
            assert (ROOT / path).exists(), path


def test_one_edge_leads_upwards():
    """The wiring is named, to be imported when it is needed, by the tracker's services and
    nothing else below it.
    """
    below = [
        path
        for path in (ROOT / "journaltrack").rglob("*.py")
        if path.parent.name not in {"app", "cli", "journaltrack"}
    ]
    assert {
        (str(path.relative_to(ROOT)), node.value)
        for path in below
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"journaltrack\.(app|cli)(\.\w+)+", node.value)
    } == {("journaltrack/tracking/settings.py", "journaltrack.app.composition")}


def test_modules_that_a_text_names_exist():
    """A logger or an import by name follows the module: each dotted name is one of a module, but
    for the key of an anchor.
    """
    named = {
        (str(path.relative_to(ROOT)), node.value)
        for path in (ROOT / "journaltrack").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"journaltrack(\.[a-z_]+)+", node.value)
    }
    assert {(path, name) for path, name in named if importlib.util.find_spec(name) is None} == {
        ("journaltrack/replay/evidence/anchors.py", "journaltrack.anchor")
    }


def test_every_command_is_under_the_rule():
    """The contract that commands know no other command names all of them."""
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = told.split('id = "commands"')[1].split("]")[0]
    named = re.findall(r"\"journaltrack\.cli\.(\w+)\"", contract)
    assert {name.rstrip("_") for name in named} == set(COMMANDS)


def test_every_package_is_installed():
    """The list of packages in pyproject.toml names each folder with modules."""
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "journaltrack").rglob("__init__.py")
    }
    assert {package for package in there if f'"{package}",' not in told} == set()


def test_numbered_parameters_are_given_by_name():
    """Python 3.12 warns of a sequence for ``?1``, which Python 3.14 refuses: SQL with numbers goes
    through ``bound`` (as ``Database.read`` does), not to a connection.
    """
    direct = []
    for path in (ROOT / "journaltrack").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        numbered = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_numbered(node.value)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        direct += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"execute", "executemany"}
            and node.args
            and (
                _is_numbered(node.args[0])
                or (isinstance(node.args[0], ast.Name) and node.args[0].id in numbered)
            )
        ]
    assert direct == []


def _is_numbered(node):
    """Whether an expression holds a text with a numbered parameter of SQLite."""
    return node is not None and any(
        isinstance(each, ast.Constant)
        and isinstance(each.value, str)
        and re.search(r"\?\d", each.value)
        for each in ast.walk(node)
    )
