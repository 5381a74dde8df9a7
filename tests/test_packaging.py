"""What is shipped works without the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement

from journaltrack._version import __version__
from journaltrack.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist and the wheel that is built from it, given the build requirements: pip and build
    have no index to ask.
    """
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".git",
        ".venv*",
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        ".demo",
        ".hypothesis",
        ".*_cache",
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    alone = os.environ | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    """The wheel, built from the sdist."""
    (built,) = dist.glob("*.whl")
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
    shown = {f"journaltrack/{page.relative_to(ROOT)}" for page in (ROOT / "docs").glob("*.md")}
    assert {*shown, "journaltrack/docs/journaltrack.service"} <= set(names)
    assert not [
        name
        for name in names
        if name.startswith(("journaltrack/docs/adr", "journaltrack/docs/site"))
    ]


def test_the_sdist_holds_what_its_users_read_and_no_tests(dist):
    """Everything that git has and a user of the sdist can use is in it; tests run in a checkout."""
    (built,) = dist.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "docs/guide.md", "examples/demo.py"} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_the_index_takes_both_files(dist):
    """`twine check --strict` has nothing to say of their metadata and the page that they make."""
    files = [*dist.glob("*.whl"), *dist.glob("*.tar.gz")]
    assert len(files) == 2
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_licences_of_vendored_files_travel_with_the_wheel(wheel):
    """The metadata names each licence that VENDORED.txt names, and the wheel has each text."""
    vendor = ROOT / "journaltrack" / "ui" / "static" / "vendor"
    lines = (vendor / "VENDORED.txt").read_text(encoding="utf-8").splitlines()
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        told = BytesParser().parsebytes(archive.read(metadata))
        texts = {Path(name).name for name in archive.namelist() if "dist-info/licenses/" in name}
    vendored = {line.split()[3] for line in lines if not line.startswith("#")}
    assert {"Apache-2.0", *vendored} == set(told["License-Expression"].split(" AND "))
    assert texts == {"LICENSE", *(path.name for path in vendor.glob("LICENSE-*"))}


def test_every_file_of_a_release_names_the_same_version_and_requirements():
    """CITATION.cff and the conda recipe say what the package says, with its weakest bounds."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "release" / "recipe.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert str(citation["version"]) == recipe["context"]["version"] == __version__
    assert recipe["about"]["license"] == project["license"]
    assert all((ROOT / name).is_file() for name in recipe["about"]["license_file"])
    weakest = {"python": Requirement(f"python{project['requires-python']}").specifier}
    for line in project["dependencies"]:
        each = Requirement(line)
        if each.name not in weakest or "python_version <" in str(each.marker):
            weakest[each.name] = each.specifier
    conda = [Requirement(line.replace(" ", "")) for line in recipe["requirements"]["run"]]
    assert {each.name: each.specifier for each in conda} == weakest


def test_the_image_is_made_of_what_docker_gets_and_runs_a_command_that_exists():
    """hadolint finds nothing; each file copied is there and let through; the command's options are
    ours.
    """
    dockerfile = ROOT / "release" / "Dockerfile"
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
    text = dockerfile.read_text(encoding="utf-8")
    copied = {
        name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()
    }
    let_through = dockerfile.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert {line[1:] for line in let_through.splitlines() if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    words = json.loads(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1])
    told = CliRunner().invoke(main, [words[1], "--help"]).output
    assert words[0] == "journaltrack"
    assert [word for word in words if word.startswith("--") and word not in told] == []


def test_forms_for_issues_are_forms():
    """Each form of GitHub's has a name, a description and fields with labels."""
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    for path in set(folder.glob("*.yml")) - {folder / "config.yml"}:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert form["name"]
        assert form["description"]
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert fields
        assert all(field["attributes"]["label"] for field in fields)


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
    for arguments, told in ((["--version"], "journaltrack"), (["help", "lease"], "### lease")):
        done = subprocess.run(
            [python, "-m", "journaltrack", *arguments],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told in done.stdout, done.stderr
