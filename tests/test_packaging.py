"""What is shipped works without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".git",
        ".venv*",
        "__pycache__",
        "*.egg-info",
        "build",
        ".demo",
        ".hypothesis",
        ".*_cache",
        "tests",
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_top_level_is_the_cards():
    """The folders and files that the design card names stand at the top."""
    for name in (
        "journaltrack",
        "migrations",
        "tests",
        "alembic.ini",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "Makefile",
        ".ci/run",
    ):
        assert (ROOT / name).exists(), name


def test_wheel_holds_the_package_and_its_migrations_and_no_tests(wheel):
    """Migrations and the marker for types are inside; tests, examples and benchmarks are not."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "journaltrack/py.typed" in names
    assert "journaltrack/migrations/env.py" in names
    assert "journaltrack/migrations/versions/0001_first.py" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"journaltrack"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "journaltrack").rglob("*.py")}
    assert modules <= set(names), modules - set(names)
    static = ROOT / "journaltrack" / "ui" / "static"
    page = {path.relative_to(ROOT).as_posix() for path in static.rglob("*") if path.is_file()}
    assert page <= set(names), page - set(names)


def test_installed_wheel_tracks_and_migrates_outside_of_the_repository(wheel, tmp_path):
    """In an empty virtual environment a journal is made, Alembic's revisions are found, and the
    command line runs.
    """
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    # As docs/install.md has it, but for the dependencies.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    carried = ["--no-index", "--find-links", str(wheel.parent), "journaltrack"]
    lacking = subprocess.run([*pip, *carried], capture_output=True, text=True, check=False)
    assert lacking.returncode != 0, "nothing but the folder is asked"
    assert "No matching distribution found for" in lacking.stderr
    subprocess.run([*pip, "--no-deps", *carried], check=True)
    # The dependencies are borrowed, so that no registry is asked; the editable install of this
    # repository is not.
    borrowed = site / "borrowed"
    borrowed.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "journaltrack" not in path.name and not path.name.endswith(".pth"):
            (borrowed / path.name).symlink_to(path)
    (site / "borrowed.pth").write_text(str(borrowed))
    code = (
        "import journaltrack, pathlib, sqlite3\nfrom journaltrack import Tracker; from "
        "journaltrack.journal.schema import schema\nassert 'venv' in journaltrack.__file__, "
        "journaltrack.__file__\nt = Tracker.create(journal='j', sync='off'); t.log_metric('m', "
        "1.0); t.close()\nfrom alembic.script import ScriptDirectory; from alembic.config import "
        "Config; import importlib.resources as r\nc = Config(); "
        "c.set_main_option('script_location', str(r.files('journaltrack.migrations')))\nassert "
        "ScriptDirectory.from_config(c).get_current_head() == schema.HEAD\nk = "
        "sqlite3.connect('j/journal.db'); k.execute(\"UPDATE alembic_version SET "
        "version_num='9999'\"); k.commit(); k.close()\ntry: Tracker.create(journal='j', "
        "sync='off')\nexcept journaltrack.errors.JournalTooNewError as e: print('refused')\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "refused", done.stderr
    done = subprocess.run(
        [python, "-m", "journaltrack", "--version"],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "journaltrack" in done.stdout
