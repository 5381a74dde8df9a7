"""What developers' tools are told: the targets of make, CI, the hooks before a commit, the
fragments of the changelog.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def recipe(target):
    """The commands of a target, as make would run them."""
    # it may run under make
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    command = ["make", "-n", "-o", ".venv/.installed", target]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith(".venv/bin/")]


def test_the_hooks_before_a_commit_are_what_lint_runs():
    """Each command of `make lint` is a hook that uses the tools of .venv, and no hook comes from
    elsewhere.
    """
    file = ROOT / ".pre-commit-config.yaml"
    subprocess.run([BIN / "pre-commit", "validate-config", file], check=True)
    (repository,) = yaml.safe_load(file.read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    hooks = [hook["entry"].replace(" --force-exclude", " .") for hook in repository["hooks"]]
    assert hooks == recipe("lint")


def test_ci_runs_the_targets_of_make_on_every_python_that_is_supported():
    """The workflow's commands are targets that exist; its versions are those of the classifiers
    and of .ci/run.
    """
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))[
        "jobs"
    ]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {command.split()[0] for command in commands} == {"make"}
    for target in {target for command in commands for target in command.split()[1:]}:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    supported = re.findall(
        r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert jobs["test"]["strategy"]["matrix"]["python"] == supported
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"for version in (.*); do", run)[1].split() == supported
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_fragments_become_an_entry_of_the_changelog(tmp_path):
    """`scriv collect` takes every line of every fragment."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "changelog.d", tmp_path / "changelog.d")
    (tmp_path / "changelog.d" / "new.md").write_text(
        "- A change that users notice.\n\n### Journal format\n\n- A new revision.\n"
    )
    subprocess.run(
        [BIN / "scriv", "collect", "--keep", "--version", "99.0"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    changed = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = changed.partition("## 99.0")[2].partition("## 0.1.0")[0]
    for fragment in (tmp_path / "changelog.d").glob("*.md"):
        if fragment.name != "README.md":
            lines = [
                line
                for line in fragment.read_text(encoding="utf-8").splitlines()
                if line.startswith("- ")
            ]
            assert lines, fragment
            assert [line for line in lines if line not in entry] == []
