"""The rule of direction: tracker → journal ← reconciler → remote, and one door for each library."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import journaltrack

PACKAGE = Path(journaltrack.__file__).parent

DOORS = {
    "boto3": ("remotes.aws", "remotes.aws_clients"),
    "botocore": (
        "remotes.aws",
        "remotes.aws_bodies",
        "remotes.aws_clients",
        "remotes.aws_credentials",
        "remotes.aws_direct",
        "remotes.aws_errors",
        "remotes.aws_hooks",
        "remotes.aws_metrics",
        "remotes.aws_multipart",
        "remotes.aws_s3",
        "remotes.aws_wire",
    ),
    "urllib3": ("remotes.aws_wire",),
    "s3transfer": (),
    "tenacity": ("remotes.retrying",),
    "alembic": ("upgrading",),
    "watchdog": ("watcher",),
    "sqlalchemy": ("tables", "upgrading"),
    "pyarrow": ("exporting_parquet",),
    "click": ("cli",),
    "rich": ("cli",),
    "sqlite3": (
        "schema",
        "schema_check",
        "upgrading",
        "sqlite_errors",
        "database",
        "log_modes",
        "journal",
        "settlement",
        "doubts",
        "lease",
        "auditing",
        "report",
        "doctor",
        "salvage",
        "rescue",
        "exporting_pages",
        "bundling_snapshot",  # SQLite's backup API wants a connection to copy into
        "applying",
        "merging",
        "cli",
    ),
}
FORBIDDEN = {
    "tracker": ("reconciler", "settlement", "lease", "perform", "remotes", "composition", "cli"),
    "services": ("tracker", "journal", "database", "reconciler", "remotes", "remote", "cli"),
    "guard": ("tracker", "journal", "database", "reconciler", "remotes", "remote", "services", "composition", "cli"),
    "bounded": ("tracker", "journal", "database", "reconciler", "remotes", "remote", "composition", "cli"),
    "journal": ("tracker", "reconciler", "settlement", "remotes", "plan", "remote", "composition", "cli"),
    "watcher": ("tracker", "journal", "database", "settlement", "reconciler", "remotes", "composition", "cli"),
    "reconciler": ("tracker", "remotes", "composition", "cli"),
    "perform": ("tracker", "journal", "database", "remotes", "composition", "cli"),
    "gate": ("tracker", "journal", "database", "settlement", "reconciler", "remotes", "remote", "composition", "cli"),
    "attempt": ("tracker", "journal", "database", "reconciler", "remotes", "composition", "cli"),
    "course": ("tracker", "journal", "database", "reconciler", "remotes", "remote", "composition", "cli"),
    "uploads": ("tracker", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "dispatch": ("tracker", "journal", "database", "plan", "reconciler", "remotes", "composition", "cli"),
    "ending": ("tracker", "journal", "database", "plan", "reconciler", "remotes", "remote", "composition", "cli"),
    "remotes": ("tracker", "journal", "database", "settlement", "reconciler", "composition", "cli"),
    "auditing": ("tracker", "remotes", "composition", "cli"),
    "report": ("tracker", "remotes", "composition", "cli"),
    "exporting": ("tracker", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "bundling": ("tracker", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "spool": ("journal", "database", "schema", "remotes"),
    "writer_life": ("tracker", "journal", "database", "schema", "entries", "reconciler", "remotes", "composition", "cli"),
    "interruption": ("tracker", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "interrupted_runs": ("tracker", "reconciler", "remotes", "remote", "composition", "cli"),
    "finishing": ("tracker", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "sigterm": ("tracker", "journal", "database", "entries", "reconciler", "remotes", "composition", "cli"),
    "copying": ("spool", "journal", "database", "schema", "remotes", "bundling"),
    "doctor": ("tracker", "reconciler", "remotes", "remote", "composition", "cli"),
    "statements": ("tracker", "journal", "database", "reconciler", "remotes", "remote", "composition", "cli"),
    "applying": ("tracker", "journal", "reconciler", "remotes", "remote", "composition", "cli"),
    "receipting": ("tracker", "reconciler", "remotes", "remote", "composition", "cli"),
    "merging": ("tracker", "reconciler", "remotes", "remote", "composition", "cli"),
    "doubts": ("tracker", "reconciler", "remotes", "remote", "composition", "cli"),
    "claims": ("tracker", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "comparing": ("tracker", "journal", "database", "settlement", "reconciler", "remotes", "composition", "cli"),
    "verifying": ("tracker", "reconciler", "remotes", "composition", "cli"),
    "mending": ("tracker", "reconciler", "remotes", "remote", "composition", "cli"),
    "removed": ("tracker", "journal", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "pruning": ("tracker", "reconciler", "perform", "plan", "remotes", "remote", "composition", "cli"),
    "spool_use": ("tracker", "journal", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
    "spool_limit": ("tracker", "journal", "database", "lease", "settlement", "remotes", "remote", "composition", "cli"),
    "compacting": ("tracker", "journal", "reconciler", "settlement", "remotes", "remote", "composition", "cli"),
}
PURE = {
    "actions": {"time", "random", "datetime", "os", "sqlite3", "sqlalchemy", "pathlib", "threading", "logging"},
    "comparing": {"time", "random", "datetime", "os", "sqlite3", "sqlalchemy", "pathlib", "threading", "logging"},
    "readback": {"time", "random", "datetime", "os", "sqlite3", "sqlalchemy", "pathlib", "threading", "logging"},
    "schedule": {"time", "random", "datetime", "os", "sqlite3", "sqlalchemy", "pathlib", "threading", "logging"},
    "plan": {"time", "random", "datetime", "os", "sqlite3", "sqlalchemy", "pathlib", "threading", "logging"},
    "entries": {"time", "random", "datetime", "os", "sqlite3", "pathlib", "threading", "logging"},
    "bundling_format": {"time", "random", "datetime", "os", "sqlite3", "sqlalchemy", "pathlib", "threading", "logging"},
    "limits": {"time", "random", "datetime", "os", "sqlite3", "pathlib", "threading", "logging"},
    "errors": {"time", "os", "sqlite3", "pathlib", "logging"},
}


MODULE = re.compile(r"journaltrack(\.\w+)+")
ROOT = {"__init__", "services", "background", "pass_process"}
"""Who may know the composition root, beside the command line: the package, which offers its functions; the one edge from the tracker
to it, which names it for a first call; and what the root itself hands out."""


@functools.cache
def modules():
    """Name of every module of the package, and all modules that it imports at run time."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name] = tuple(imported(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def imported(tree):
    """Every module that a tree imports at run time, wherever the import stands."""
    skipped = {
        id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):  # for importlib
            yield node.value
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.startswith("journaltrack"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def begins(name, prefixes):
    """Whether the module is one of these, or below or beside it (report_entries counts as report)."""
    return any(name == p or name.startswith((p + ".", p + "_")) for p in prefixes)


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library):
    """A library is imported only where the design says."""
    users = [name for name, imports in modules().items() if library in {i.split(".")[0] for i in imports}]
    assert [u for u in users if not begins(u, DOORS[library])] == [], f"{library} has its door in {DOORS[library]}"


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layers_look_one_way(layer):
    """No module imports what lies beyond its layer."""
    crossings = [
        f"{name} imports {used}"
        for name, imports in modules().items()
        if begins(name, (layer,))
        for used in imports
        if used.startswith("journaltrack.")
        and begins(used.removeprefix("journaltrack."), FORBIDDEN[layer])
        and not begins(used, ("journaltrack.journal.Journal",))
    ]
    allowed = {"perform imports journaltrack.remote"}
    assert [c for c in crossings if c not in allowed] == []


def test_the_composition_root_has_few_users():
    """Nothing but the sanctioned edges leads from the layers to the root that joins them, by name neither."""
    users = {name for name, imports in modules().items() if any(begins(used, ("journaltrack.composition",)) for used in imports)}
    assert {name for name in users if not begins(name, ("cli",))} == ROOT


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_no_clock_file_or_chance(module):
    """Vocabulary and plan depend on nothing that can differ between two runs."""
    assert {i.split(".")[0] for i in modules()[module]} & PURE[module] == set()
