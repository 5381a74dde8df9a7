"""The driver that mutates the core: what it changes, where, and what it makes of the tests'
answer.
"""

from __future__ import annotations

import ast
import textwrap

import pytest

from tests.mutants.__main__ import ROOT, Reviewed, known_modules, main, path_of
from tests.mutants.mutations import mutants, sample
from tests.mutants.running import Tree

pytestmark = pytest.mark.slow

SOURCE = textwrap.dedent(
    '''\
    """A module with 1 < 2 in its docstring."""

    import logging

    logger = logging.getLogger(__name__)


    def smaller(a: int, b: "a < b") -> int | None:
        """Compares 1 < 2."""
        text = "é" if a < b and a else "ü"  # é
        logger.info("%s", a < b)
        while text:
            break
        return f"{a < b}"


    class Table:
        """Holds."""

        def read(self, database):
            self.rows = database.read("SELECT x FROM t WHERE x < 1 AND y IS NULL ORDER BY x DESC")
            if not self.rows:
                raise LookupError
    '''
)


def changes():
    """(function, operator, before, after) of all mutants."""
    return {(m.function, m.operator, m.before, m.after) for m in mutants(SOURCE)}


def test_each_kind_of_change_is_made_where_the_tree_says():
    """Conditions, operands, constants, statements, returns and SQL are changed, also behind
    letters of more than a byte.
    """
    text = 'text = "é" if a < b and a else "ü"  # é'
    rows = 'self.rows = database.read("SELECT x FROM t WHERE x < 1 AND y IS NULL ORDER BY x DESC")'
    assert changes() >= {
        ("smaller", "comparison", text, text.replace("a < b", "(a <= b)")),
        ("smaller", "and/or", text, text.replace("a < b and a", "(a < b or a)")),
        ("smaller", "operand", text, text.replace("a < b and a", "(a)")),
        ("smaller", "negate", text, text.replace("a < b and a", "(not (a < b and a))")),
        ("smaller", "break", "break", "continue"),
        ("smaller", "return None", 'return f"{a < b}"', "return None"),
        ("Table.read", "delete", rows, "pass"),
        ("Table.read", "SQL", rows, rows.replace("x < 1", "x <= 1")),
        ("Table.read", "SQL", rows, rows.replace("AND", "OR")),
        ("Table.read", "SQL", rows, rows.replace("IS NULL", "IS NOT NULL")),
        ("Table.read", "SQL", rows, rows.replace(" DESC", "")),
        ("Table.read", "negate", "if not self.rows:", "if (self.rows):"),
        ("Table.read", "delete", "raise LookupError", "pass"),
    }


def test_what_no_behaviour_can_tell_is_left_alone():
    """Docstrings, annotations and calls of the logger have no mutants."""
    assert not [
        m
        for m in mutants(SOURCE)
        if "docstring" in m.before or "Compares" in m.before or "logger.info" in m.before
    ]
    assert not [m for m in mutants(SOURCE) if m.before.startswith("def ")]


def test_mutants_of_the_core_are_python_and_differ():
    """Each is a module of its own that can be parsed, with one place changed."""
    for name in known_modules():
        source = path_of(name).read_text(encoding="utf-8")
        changed = [mutant.apply(source) for mutant in sample(source, 40, "all")]
        assert len({*changed, source}) == len(changed) + 1
        for each in changed[:8]:
            ast.parse(each)


def test_a_seed_chooses_the_same_mutants():
    """The same for the same source and seed, others for another seed, never more than there are."""
    assert sample(SOURCE, 5, "1 a") == sample(SOURCE, 5, "1 a")
    assert sample(SOURCE, 5, "1 a") != sample(SOURCE, 5, "2 a")
    assert sample(SOURCE, 10_000, "1 a") == mutants(SOURCE)


def test_the_map_names_modules_and_tests_that_are_there():
    """Each module is found by its name, each test file exists, and each reviewed mutant is of a
    module that is mutated.
    """
    known = known_modules()
    for name, tests in known.items():
        assert path_of(name).is_file()
        assert tests
        for test in tests:
            assert (ROOT / test).is_file(), f"{name}: {test}"
    assert {module for module, *_ in Reviewed().known} <= known.keys()
    assert all(
        reason.startswith(("equivalent: ", "cosmetic: ")) for reason in Reviewed().known.values()
    )


def test_a_module_that_is_not_there_is_told():
    """A name that nothing or several things have is an error, which names the map."""
    for name in ("no_such_module", "__init__"):
        with pytest.raises(LookupError, match=r"modules\.toml"):
            path_of(name)


def test_a_reviewed_mutant_is_known_wherever_it_moves(tmp_path):
    """By module, function and lines, whatever their place and spaces."""
    mutant = next(m for m in mutants(SOURCE) if m.operator == "comparison")
    told = tmp_path / "equivalent.toml"
    told.write_text(
        f"[[mutant]]\nmodule = 'm'\nfunction = 'smaller'\nbefore = '{mutant.before}'\nafter = "
        f"'{mutant.after}'\nreason = 'equivalent: so'\n"
    )
    moved = next(
        m
        for m in mutants(SOURCE.replace("import logging\n", "import logging\n\n\n"))
        if m.operator == "comparison"
    )
    assert moved.start != mutant.start
    assert Reviewed(told).reason("m", moved) == "equivalent: so"
    assert Reviewed(told).reason("other", moved) is None


@pytest.fixture
def project(tmp_path):
    """A small project, with a test that leaves a process behind."""
    root = tmp_path / "project"
    (root / "journaltrack").mkdir(parents=True)
    (root / "journaltrack" / "__init__.py").write_text(
        "def smaller(a, b):\n    while b > 10:\n        b -= 1\n    return a < b\n"
    )
    (root / "test_it.py").write_text(
        "import os, subprocess, sys\nfrom journaltrack import smaller\n\ndef test_it():\n    "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        "start_new_session=True)\n    assert smaller(1, 12) and not smaller(12, 11)\n"
    )
    return root


@pytest.mark.filterwarnings("ignore:subprocess")
def test_mutants_are_run_in_a_copy(project, tmp_path):
    """What a test notices is killed, the rest survives, what never ends is stopped; the checkout
    stays, and so does the copy's original.
    """
    tree = Tree(project, tmp_path / "copies")
    name = "journaltrack/__init__.py"
    source = (project / name).read_text()
    runs = {
        text: tree.test(["test_it.py"], timeout_s, (name, source.replace(*change)))
        for text, change, timeout_s in (
            ("noticed", ("a < b", "a > b"), 120),
            ("not noticed", ("a < b", "a <= b"), 120),
            ("endless", ("b -= 1", "pass"), 2),
        )
    }
    assert {text: run.verdict for text, run in runs.items()} == {
        "noticed": "killed",
        "not noticed": "survived",
        "endless": "timeout",
    }
    assert runs["noticed"].test == "test_it.py::test_it"
    assert tree.test(["test_it.py"], 120).verdict == "survived"
    assert (project / name).read_text() == (tree.folder / name).read_text() == source


def test_wrong_usage_is_told(capsys):
    """A module that is not in the map is refused, with those that are."""
    with pytest.raises(SystemExit):
        main(["--module", "no_such_module"])
    assert "readback" in capsys.readouterr().err
