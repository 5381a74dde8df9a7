"""Every fenced block of the documentation is executed: what a reader copies works, and the output
shown is real.

A file is a session: its blocks run in order, in one temporary folder with a default journal of its
own.

- ``python`` is run as a program, with no network and no credentials. If its first line is ``#
  name.py`` it is saved under that name, so that later commands can run it.
- ``console``: each line after ``$`` is run by bash; the simulators are AWS and MLflow, variables
  and the working folder last until the end of the file. Lines below are its output: compared
  after what differs from run to run (times, ids, paths) was taken out; ``…`` stands for anything,
  on a line of its own for any lines. A command that fails must be followed by ``$ echo $?``.
- ``bash`` is a script, run with ``set -eu`` in the same way.
- ``toml`` must be a configuration; it is saved under the name in its first line. ``ini`` must be a
  unit that systemd takes (where there is systemd). ``json`` and ``yaml`` must parse, and commands
  of containers be ours. ``text`` is prose.
- Any other language is an error, and so is none.

``make`` and ``pip`` are checked against Makefile and pyproject.toml instead of being run;
tests/test_packaging.py installs.
"""

from __future__ import annotations

import configparser
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from journaltrack.cli import COMMANDS, ExitCode
from journaltrack.util import config
from tests import warm
from tests.simulator import simulator
from tests.simulator.mlflow import MlflowServer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    # The rest needs MLflow: tests/mlflow/test_offline_docs.py executes it.
    *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "mlflow-offline.md"}),
    *sorted((ROOT / "docs" / "reference").glob("*.md")),
    # Its neighbour needs torch: tests/frameworks/test_training_docs.py executes it.
    ROOT / "docs" / "integrations" / "trees-and-searches.md",
]
BIN = Path(sys.executable).parent
EXAMPLE_ENDPOINT = "http://127.0.0.1:5000"  # what the documentation writes for a local stand-in
EXAMPLE_MOUNT = "/media/usb"  # and for a disk that is carried about
TIMEOUT_S = 600

VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"trialcomponent-\d[a-z0-9-]*"), "<name>"),
    (
        re.compile(
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{12,64}\b"
        ),
        "<id>",
    ),
    (re.compile(r"journaltrack,? (version )?\d+\.\d+\.\d+\S*"), "journaltrack <version>"),
    (re.compile(r"(?<![\w:/.])/[^\s\",:]+"), "<path>"),
    (re.compile(r"\b\d+(\.\d+)? (B|kB|MB|GB)\b"), "<size>"),
    (re.compile(r"\b\d+(\.\d+)? m?s\b"), "<duration>"),
    (
        re.compile(r'"duration_s": [\d.]+|"(\w+_bytes|oldest_pending_age_s|pid)": [\d.]+'),
        "<number>",
    ),
    (re.compile(r"[ \t]+"), " "),
]
# What commands tell every five seconds while they are at work: where they take as long.
PROGRESS = re.compile(r".* \(\d+ %\), .*/s(, about .* left)?|\d+ of \d+ components? verified")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the number of the line after its fence."""

    language: str
    lines: list[str]
    line: int

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True)
class Command:
    """A command of a ``console`` block, and the output shown below it."""

    text: str
    output: list[str]
    line: int


class WrongError(AssertionError):
    """A block that does not do what the documentation says."""


class Session:
    """Runs the blocks of one file."""

    def __init__(self, folder: Path, endpoint_url: str, mlflow_uri: str = "") -> None:
        self.folder = folder
        self.endpoint_url = endpoint_url
        self.code = 0
        self.exports = folder / ".exports"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        (folder / "usb").mkdir()
        self.where = folder / ".where"
        self.where.write_text(str(self.work))
        offline = {
            name: value
            for name, value in os.environ.items()
            # xdist says how wide its terminal is.
            if not name.startswith(("AWS_", "JOURNALTRACK_", "COVERAGE", "PYTEST", "COLUMNS"))
        }
        self.offline = offline | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "JOURNALTRACK_HOME": str(folder / "home" / "journaltrack"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.online = self.offline | {
            "AWS_ENDPOINT_URL": endpoint_url,
            "MLFLOW_TRACKING_URI": mlflow_uri,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }

    def check(self, block: Block) -> None:
        """Execute a block in the way of its language."""
        ways = {
            "python": self._python,
            "console": self._console,
            "bash": self._bash,
            "toml": self._toml,
            "ini": self._unit,
            "yaml": self._manifest,
            "json": lambda block: json.loads(block.text),
            "text": lambda _: None,
        }
        if block.language not in ways:
            raise WrongError(
                f"line {block.line}: nobody knows how to check the language {block.language!r}"
            )
        ways[block.language](block)

    def _console(self, block: Block) -> None:
        for command in commands(block):
            self._command(command)
        self._expect_success(block.line + len(block.lines))

    def _bash(self, block: Block) -> None:
        self._command(Command("set -eu\n" + block.text, [], block.line))
        self._expect_success(block.line)

    def _toml(self, block: Block) -> None:
        named = re.fullmatch(r"# ([\w-]+\.toml)", block.lines[0])
        file = self.work / (named[1] if named else "block.toml")
        file.write_text(block.text, encoding="utf-8")
        config.load(file, environ={})

    def _manifest(self, block: Block) -> None:
        for words in containers(yaml.safe_load(block.text)):
            if words[:1] == ["journaltrack"]:
                options_exist(words)

    def _python(self, block: Block) -> None:
        named = re.fullmatch(r"# ([\w-]+\.py)", block.lines[0])
        script = self.work / (named[1] if named else f"block-{block.line}.py")
        script.write_text(block.text, encoding="utf-8")
        done = warm.run(
            [sys.executable, script],
            cwd=self.work,
            env=self.offline,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise WrongError(
                f"line {block.line}: the program ended with "
                f"{done.returncode}:\n{done.stdout}{done.stderr}"
            )

    def _unit(self, block: Block) -> None:
        """systemd has nothing to say against the unit; its command is ours, with options that
        exist. A unit that the package has is shown as it is.
        """
        shipped = ROOT / "docs" / block.lines[0].removeprefix("# ")
        if shipped.is_file() and block.text != shipped.read_text(encoding="utf-8"):
            raise WrongError(f"line {block.line}: not what {shipped} has")
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str
        unit.read_string(block.text)
        words = shlex.split(unit["Service"]["ExecStart"])
        options_exist(["journaltrack", *words[1:]])
        if shutil.which("systemd-analyze"):
            file = self.work / "documented.service"
            file.write_text(
                block.text.replace(words[0], shutil.which("true") or "true"), encoding="utf-8"
            )
            told = subprocess.run(
                ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
            ).stderr
            wrong = [
                line
                for line in told.splitlines()
                if file.name in line and re.search("Unknown|Failed|Invalid|ignoring", line)
            ]
            if wrong:
                raise WrongError(f"line {block.line}: systemd says: {wrong}")

    def _command(self, command: Command) -> None:
        if command.text.startswith(("make ", "pip ")):
            checked_otherwise(command.text)
            return
        if self.code != 0 and command.text.strip() != "echo $?":
            self._expect_success(command.line)
        text = command.text.replace(EXAMPLE_ENDPOINT, self.endpoint_url).replace(
            EXAMPLE_MOUNT, str(self.folder / "usb")
        )
        script = (
            f'(exit {self.code})\n{text}\ncode=$?; env -0 > "{self.exports}"; pwd > "{self.where}"; '
            "exit $code\n"
        )
        done = warm.run(
            without_shell(text) or ["bash", "-c", script],
            cwd=self.where.read_text().rstrip("\n"),
            env=self._exported() or self.online,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self.code, self.last = done.returncode, f"{command.text}\n{done.stdout}"
        problem = difference(command.output, done.stdout)
        if problem:
            raise WrongError(
                f"line {command.line}: $ {command.text}\n{problem}\n--- all that it "
                f"printed:\n{done.stdout}"
            )

    def _exported(self) -> dict[str, str]:
        """The environment that the last command of bash left."""
        text = self.exports.read_text() if self.exports.exists() else ""
        return dict(each.split("=", 1) for each in text.split("\0") if each)

    def _expect_success(self, line: int) -> None:
        if self.code != 0:
            raise WrongError(
                f"before line {line}: exit code {self.code}, and no `$ echo $?` shows it: $ "
                f"{self.last}"
            )


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown file."""
    found: list[Block] = []
    inside: tuple[str, str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*(```+|~~~+)(.*)", line)
        if inside is None and fence:
            inside, lines = (fence[1], fence[2].strip(), number + 1), []
        elif inside is not None and fence and fence[1] == inside[0] and not fence[2].strip():
            found.append(Block(inside[1], lines, inside[2]))
            inside = None
        elif inside is not None:
            lines.append(line)
    if inside is not None:
        raise WrongError(f"line {inside[2]}: the block does not end")
    return found


def without_shell(text: str) -> list[str] | None:
    """The arguments of a command that is Python's or ours, if bash has nothing to do in it."""
    if re.search(r"[^\w\s./:=,@+-]", text):
        return None
    name, *words = text.split()
    starts = {"journaltrack": ["-m", "journaltrack"], "python": []}
    return [sys.executable, *starts[name], *words] if name in starts else None


def containers(tree: object) -> Iterator[list[str]]:
    """What containers of a Kubernetes manifest run."""
    if isinstance(tree, dict):
        if "image" in tree and "args" in tree:
            yield tree["args"]
        for value in tree.values():
            yield from containers(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from containers(value)


@functools.cache
def help_of(*command: str | Path) -> str:
    """What a command says of its options; nothing if there is no such command."""
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout


def options_exist(words: list[str]) -> None:
    """The command and its options are in its help."""
    told = help_of(BIN / words[0], words[1])
    missing = [word for word in words if word.startswith("--") and word not in told]
    if not told or missing:
        raise WrongError(f"{' '.join(words)}: no such command, or no {missing}")


def commands(block: Block) -> list[Command]:
    """The commands of a ``console`` block; a backslash at the end of a line continues it."""
    found: list[Command] = []
    for number, line in enumerate(block.lines, block.line):
        if line.startswith("$ "):
            found.append(Command(line[2:], [], number))
        elif found and not found[-1].output and found[-1].text.endswith("\\"):
            found[-1] = Command(f"{found[-1].text}\n{line}", [], found[-1].line)
        elif found:
            found[-1].output.append(line)
        elif line.strip():
            raise WrongError(f"line {number}: output without a command")
    return found


def difference(expected: list[str], actual: str) -> str | None:
    """What of the output shown is not in the output, or None. No output shown: any is right."""
    wanted = [stable(line) for line in expected if line.strip()]
    got = [
        stable(line)
        for line in actual.splitlines()
        if line.strip() and not PROGRESS.fullmatch(line)
    ]
    if not wanted:
        return None
    pattern = "".join(
        "(?:.*\n)*?" if line in {"…", "..."} else ".*".join(map(re.escape, line.split("…"))) + "\n"
        for line in wanted
    )
    if re.fullmatch(pattern, "".join(line + "\n" for line in got)):
        return None
    return (
        "--- shown:\n" + "\n".join(wanted) + "\n--- printed, in the same form:\n" + "\n".join(got)
    )


def stable(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, replacement in VOLATILE:
        line = pattern.sub(replacement, line)
    return line.strip()


def checked_otherwise(command: str) -> None:
    """``make`` targets exist; ``pip`` installs or fetches this project, with extras that it has,
    and options that pip has.
    """
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in words[1:]:
            if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
                raise WrongError(f"the Makefile has no target {target}")
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = help_of(sys.executable, "-m", "pip", words[1])
    rest = iter(words[2:])
    for word in rest:
        option, _, value = word.partition("=")
        if option.startswith("-"):
            if not re.search(rf"{re.escape(option)}\b", told):
                raise WrongError(f"there is no pip {words[1]} {option}")
            if f"{option} <" in told and not value:
                next(rest)
            continue
        name, _, extra = word.rstrip("]").partition("[")
        if name != project["name"] or (extra and extra not in project["optional-dependencies"]):
            raise WrongError(f"pip {words[1]} {word} is not how this project is installed")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_block_of_the_documentation_works(path, tmp_path):
    """Each block of the file runs without error, and prints what the file shows."""
    with simulator() as sim, MlflowServer() as mlflow:
        session = Session(tmp_path, sim.endpoint_url, mlflow.uri)
        found = blocks(path.read_text(encoding="utf-8"))
        programs = "".join(block.text for block in found if block.language == "python")
        warm.preload(*re.findall(r"^(?:from|import) (\w\S*)", programs, re.MULTILINE))
        for block in found:
            session.check(block)


def test_the_table_of_exit_codes_is_the_enum():
    """docs/reference/exit-codes.md names every exit code with its meaning, and what to do."""
    text = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\d+) \| (.*?) \| .*\|$", text, re.MULTILINE)
    assert shown == [(str(code.value), code.meaning) for code in ExitCode]


def test_every_command_has_its_section():
    """docs/cli.md, where `journaltrack help COMMAND` finds a command without a page of its own."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(COMMANDS)


def test_the_table_of_keys_is_the_code():
    """docs/configuration.md has every key with its default, choices and meaning, and no other.

    A key's name ends in its unit, and a switch is true or false.
    """
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    wanted = []
    for setting in config.settings():
        default = "" if setting.default in (None, (), "") else f"`{setting.default}`"
        choices = [f"`{each}`" for each in setting.choices]
        if isinstance(setting.default, bool):
            default, choices = default.lower(), []
        meaning = ": ".join([setting.meaning, *filter(None, [", ".join(choices)])])
        wanted.append((setting.key, default, meaning))
    assert shown == wanted


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_links_inside_of_the_project_lead_somewhere(path):
    """A relative link names a file that is there, and a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {
                re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
            }, target


def test_an_entry_of_the_glossary_has_at_most_fifteen_words():
    """Who looks a word up reads one sentence."""
    text = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\| ([\w ]+) \| (.+) \|$", text, re.MULTILINE)
    assert len(entries) > 10
    assert [word for word, meaning in entries if len(meaning.split()) > 15] == []


def test_a_block_in_an_unknown_language_is_an_error(tmp_path):
    """No block is skipped silently."""
    for info in ("", "pycon", "python title=x"):
        (block,) = blocks(f"```{info}\n1\n```\n")
        with pytest.raises(WrongError, match="nobody knows"):
            Session(tmp_path / (info.replace(" ", "") or "none"), "").check(block)


def test_output_that_is_not_printed_is_an_error():
    """The comparison sees a missing line, an additional one and another number, and overlooks
    times, ids and progress.
    """
    printed = (
        "3 delivered in 0.2 s\nrequest 00000000-0000-4000-8000-000000000001 at "
        "2026-11-23T20:05:00Z\n"
    )
    assert (
        difference(
            [
                "3 delivered in 1.4 s",
                "request 0a000000-0000-4000-8000-00000000000f at 2027-01-01T00:00:00Z",
            ],
            printed,
        )
        is None
    )
    assert difference(["3 delivered …", "…"], printed) is None
    slow = (
        "/j: 2 of 54 entries (3 %), 0/s, about 4 min 6 s left\n1 of 2 components "
        f"verified\n{printed}"
    )
    assert difference(["3 delivered …", "…"], slow) is None
    assert difference(["4 delivered in 0.2 s", "…"], printed)
    assert difference(["3 delivered in 0.2 s"], printed)
    assert difference(["…", "request … at 2026-11-23T20:05:00Z", "done"], printed)


def test_make_targets_and_package_names_must_exist():
    """``make`` and ``pip install`` lines are held against Makefile and pyproject.toml."""
    checked_otherwise("make demo")
    checked_otherwise("pip install journaltrack[examples]")
    checked_otherwise("pip install --no-index --find-links wheels journaltrack")
    wrong = (
        "pip install journal-track",
        "pip install journaltrack[all]",
        "pip install --offline journaltrack",
    )
    for command in ("make dinner", "pip fetch --dest wheels journaltrack", *wrong):
        with pytest.raises(WrongError):
            checked_otherwise(command)


def test_a_command_that_fails_must_show_its_exit_code(tmp_path):
    """A failing command is an error, unless ``$ echo $?`` follows and shows the code."""
    session = Session(tmp_path, "")
    session.check(Block("console", ["$ (exit 3)", "$ echo $?", "3"], 1))
    with pytest.raises(WrongError, match="exit code 3"):
        session.check(Block("console", ["$ (exit 3)", "$ true"], 1))
