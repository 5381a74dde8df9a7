"""Describe what a training process runs in: its job, command, machine and packages.

The description is the JSON object in the column ``context`` of the process's ``writer`` row. Of the
environment it holds the variables of ``JOB_VARIABLES``, and no others. What may be a secret is
replaced before the text exists.

``survey`` reads what a slow file system or driver may delay, on the thread that asks git.
``text_of`` reads the rest. Both run no program, import no package of others and open no socket.
They leave out what can't be read. ``facts_of`` tells people what a description says, which may be
a stranger's. Must not know a journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from journaltrack.journal.vocabulary import REDACTED
from journaltrack.util import patterns, process
from journaltrack.util.text import without_secrets

JOB_VARIABLES: Final = (
    # Slurm
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_JOB_NAME",
    "SLURM_SUBMIT_DIR",
    # torchrun and MPI
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
    # SageMaker
    "TRAINING_JOB_NAME",
    "TRAINING_JOB_ARN",
    "TRANSFORM_JOB_ARN",
    "SM_CURRENT_HOST",
    "SM_HOSTS",
    "SM_NUM_GPUS",
    "SM_MODEL_DIR",
    # Kubernetes
    "HOSTNAME",
    "JOB_COMPLETION_INDEX",
    # Batch
    "AWS_BATCH_JOB_ID",
    "AWS_BATCH_JOB_ARRAY_INDEX",
    "AWS_BATCH_JOB_NODE_INDEX",
    "AWS_BATCH_JOB_ATTEMPT",
)
"""The variables that are recorded, if they are set. ``SM_HPS`` and ``SM_TRAINING_ENV`` are not
among them: they hold whatever a user passed as a hyperparameter."""
_NOTEBOOK_VARIABLE: Final = "JPY_SESSION_NAME"
"""Jupyter's server sets it for a kernel: the notebook's path."""
_NOTEBOOK_NAME: Final = "__vsc_ipynb_file__"
"""VS Code sets it in the notebook's own namespace."""
_TEXT_CHARS_MAX: Final = 2_000
"""Ours: of a variable, an argument, a path."""
_LOOKED_AT_MAX: Final = 16_384
_COMMAND_CHARS_MAX: Final = 20_000
_PACKAGES_MAX: Final = 2_000
_PACKAGE_CHARS_MAX: Final = 100
_FOLDERS_MAX: Final = 100
"""Ours: of ``sys.path``."""
_GPUS_MAX: Final = 64
_READ_BYTES: Final = 4_096
_METADATA: Final = (".dist-info", ".egg-info")

_SECRET_WORDS: Final = frozenset(
    {"token", "secret", "secrets", "password", "passwd", "passphrase", "pass", "pwd", "pw"}
    | {"credential", "credentials", "apikey", "authorization", "auth", "bearer", "cookie"}
    | {"signature", "dsn"}
)
_SECRET_ENDS: Final = ("token", "secret", "password", "passwd", "apikey", "accesskey", "privatekey")
_KEYS: Final = frozenset(
    {"api", "access", "private", "secret", "account", "license", "signing", "encryption"}
    | {"master", "ssh", "service", "subscription", "storage", "auth", "shared"}
)
"""What makes a key a secret, as in ``api_key``."""
# Compiled when they are needed: that takes longer than all else here. A search begins once in a
# word: the interpreter's lock is held meanwhile, and a word may be a diff's whole megabyte.
_NAMED: Final = r"""(?<![\w.+/~@-])([\w.+/~@-]+)["']?\s*[=:]"""
_BEFORE_NAMES: Final = "0123456789.+/~@-"
_TOKEN_BEGINNINGS: Final = (
    *("hf_", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "sk-", "npm_"),
    *("pypi-", "xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-", "AKIA", "ASIA"),
)
"""What tokens begin with that tell what they are."""
_SECRET_FILES: Final = (
    *(
        ".env",
        ".env.*",
        "*.env",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.jks",
        "*.keystore",
        "*.ppk",
    ),
    *("*.kdbx", "*.gpg", "*.asc", "*.tfvars", "*.tfstate", "*.secret", "*.secrets", "*.token"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".my.cnf"),
    *(".htpasswd", ".npmrc", ".pypirc", ".git-credentials", ".dockercfg", ".dockerconfigjson"),
    *("credentials", "credentials.*", "*credentials*.json", "secret", "secret.*", "secrets"),
    *("secrets.*", "*service*account*.json", "kubeconfig*", "passwords*", "password.*", "token"),
    *("token.txt", "*apikey*.txt", "*api_key*.txt"),
)
"""Names of files that hold secrets, as shell patterns."""
_SECRET_FOLDERS: Final = frozenset(
    {".ssh", ".aws", ".gnupg", ".kube", ".docker", ".secrets", "secrets", "credentials"}
)
_SCRIPTS: Final = (".py", ".sh", ".ipynb")
_PYTHON: Final = r"(?:python|pypy)[0-9.]*[a-z]*"
_NOT_IN_COMMIT: Final = {
    "untracked": "git does not track it, so the commit does not have it",
    "no commit": "it is in no commit of git",
}
_TOKENS: Final = rf"\b(?:{'|'.join(_TOKEN_BEGINNINGS)})[\w-]{{12,}}"
_USER_INFO: Final = r"(://)[^/\s\"'<>`@]+@"
_CODE: Final = "[code]"
_FLAGS_OF_PYTHON: Final = "bBdEhiIOPqRsSuvVx?"


class Command(NamedTuple):
    """A command that this process launches.

    Attributes:
        file: The script, as far as the words tell.
        interpreter: The Python that runs it; None if that is not known.
        is_here: Whether that is of the same environment as this process's.
        folders: Where the packages of another environment are.
    """

    file: Path | None = None
    interpreter: str | None = None
    is_here: bool = False
    folders: tuple[str, ...] = ()


def command_of(words: Sequence[str]) -> Command:
    """Find out what a command runs, by its words and files. Starts nothing."""
    import shutil  # noqa: PLC0415 - few processes launch a command

    program = shutil.which(words[0]) or ""
    scripts = [word for word in words if word.endswith(_SCRIPTS) and Path(word).is_file()]
    is_python = re.fullmatch(_PYTHON, os.path.basename(program)) is not None  # noqa: PTH119
    begin = "" if is_python else _head(program).partition("\n")[0]
    # The path of a script with a "#!" line, unless it is on PATH, such as torchrun.
    if begin.startswith("#!") and "/" in words[0]:
        scripts.append(program)
    interpreter = program if is_python else None
    for word in begin.removeprefix("#!").split() if begin.startswith("#!") else ():
        if re.fullmatch(_PYTHON, os.path.basename(word)):  # noqa: PTH119
            interpreter = shutil.which(word)
    folder = Path(interpreter).parent if interpreter else None
    is_here = folder is not None and folder.resolve() == Path(process.executable()).parent.resolve()
    places = sorted(folder.parent.glob("lib/python3*/*-packages")) if folder else []
    return Command(
        Path(scripts[0]) if scripts else None, interpreter, is_here, tuple(map(str, places))
    )


def survey(command: Command | None = None) -> dict[str, Any]:
    """Read what may be slow: the installed packages, processor, memory and GPUs.

    Args:
        command: What this process launches: its environment counts.
    """
    folders = command.folders if command and not command.is_here else process.texts("path")
    packages, left_out = installed(folders)
    return {
        "cpu": _cpu(),
        "memory": _memory(),
        "gpus": gpus(),
        "installed": packages,
        "installed_left_out": left_out,
    }


def text_of(
    surveyed: Mapping[str, Any],
    redact: Iterable[str],
    environ: Mapping[str, str] = os.environ,
    command: Command | None = None,
) -> str:
    """Return the description as JSON.

    Args:
        surveyed: From ``survey``; empty if that has not ended in time.
        redact: Shell patterns of names whose values are not recorded.
        environ: The process's environment.
        command: What this process launches.
    """
    guard = Guard(redact)
    folder = None
    # The working folder may have been removed.
    with contextlib.suppress(OSError):
        folder = guard.cleaned(os.getcwd())  # noqa: PTH109 - a text
    job = {name: guard.cleaned(environ[name]) for name in JOB_VARIABLES if environ.get(name)}
    uname = os.uname()
    members = {
        "command": guard.command(whole_command()),
        "folder": folder,
        "notebook": _notebook(guard, environ),
        "python": _python(command),
        "system": f"{uname.sysname} {uname.release} {uname.machine}",
        "job": job,
        **surveyed,
    }
    kept = {name: value for name, value in members.items() if value}
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    # Arguments and paths need not be UTF-8.
    return text.encode(errors="replace").decode()


def _python(command: Command | None) -> dict[str, str]:
    """Return the interpreter: this process's, or that of the command that it launches."""
    if command is None or command.is_here or command.interpreter is None:
        told = {"implementation": sys.implementation.name, "executable": process.executable()}
        is_known = command is None or command.interpreter is not None
        return told if is_known else {**told, "of": "journaltrack run"}
    return {"executable": command.interpreter}


# -- secrets -------------------------------------------------------------------------------


class Guard:
    """Replace what may be a secret in a command line.

    Args:
        redact: Shell patterns of names, in addition to the words that name secrets.
    """

    def __init__(self, redact: Iterable[str] = ()) -> None:
        self._patterns = tuple(redact)

    def is_secret(self, name: str) -> bool:
        """Return whether the value of this name must not be recorded.

        Options are compared with hyphens and underscores alike, keys of Hydra also by their end.
        """
        plain = name.strip("-+~").replace("-", "_")
        spellings = {name, plain, re.split("[./@]", plain)[-1]}
        if any(
            patterns.fits(spelling, pattern.replace("-", "_")) or patterns.fits(spelling, pattern)
            for spelling in spellings
            for pattern in self._patterns
        ):
            return True
        words = patterns.words(plain)
        return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDS) for word in words) or any(
            before in _KEYS and word in {"key", "keys"} for before, word in pairwise(words)
        )

    def cleaned(self, text: str) -> str:
        """Return a text without the values of secret names, and without what looks like a secret.

        After the first secret name followed by "=" or ":" nothing is left: the value's end can't
        be known.
        """
        text = text[:_LOOKED_AT_MAX]
        for found in re.finditer(_NAMED, text) if "=" in text or ":" in text else ():
            if self.is_secret(found[1].lstrip(_BEFORE_NAMES)):
                text = text[: found.end()] + REDACTED
                break
        text = without_secrets(_without_known(text))
        return text if len(text) <= _TEXT_CHARS_MAX else text[: _TEXT_CHARS_MAX - 1] + "…"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments of a command without secrets.

        Of an option with a secret name, everything up to the next option is replaced.
        """
        shown: list[str] = []
        hides, chars = False, 0
        for argument in arguments:
            if hides and not _ends_values(argument):
                shown.append(REDACTED)
                continue
            hides = _is_option(argument) and self.is_secret(argument)
            # An argument may hold a whole command itself.
            parts = re.split(r"(\s+)", self.cleaned(argument))
            if len(parts) > 1:
                parts[::2] = self.command(parts[::2])
            shown.append("".join(parts))
            chars += len(shown[-1])
            if chars > _COMMAND_CHARS_MAX:
                return [*shown, f"… ({len(arguments) - len(shown)} more)"]
        return shown


def _without_known(text: str) -> str:
    has_one = any(beginning in text for beginning in _TOKEN_BEGINNINGS)
    return re.sub(_TOKENS, REDACTED, text) if has_one else text


def _is_option(word: str) -> bool:
    return word[:1] == "-" and word.lstrip("-")[:1].isalpha() and "=" not in word


def _ends_values(word: str) -> bool:
    """Return whether an option begins here; a secret may begin with one hyphen."""
    return word[:1] == "-" and (
        word[1:].isalpha() if len(word) == len("-x") else word[1:2] == "-" and word[2:3].isalpha()
    )


def without_tokens(diff: bytes) -> bytes:
    """Return a diff without user info in URLs and without tokens that tell what they are."""
    text = diff.decode(errors="surrogateescape")
    text = re.sub(_USER_INFO, rf"\1{REDACTED}@", _without_known(text))
    return text.encode(errors="surrogateescape")


def without_secret_files(diff: bytes) -> bytes:
    """Return git's diff without the changes of files whose names say that they hold secrets.

    A line stands for each of them, which ``git apply`` skips.
    """
    begin = b"diff --git "
    if not diff.startswith(begin):
        return diff
    kept = []
    # In a hunk, each line begins with another character.
    for part in diff.removeprefix(begin).split(b"\n" + begin):
        paths = {
            line[4:].split(b"\t")[0].strip(b'"').decode(errors="replace")
            for line in part.partition(b"\n@@")[0].split(b"\n")
            if line.startswith((b"--- ", b"+++ "))
        }
        found = sorted(filter(_is_secret_file, paths))
        if found:
            name = found[0].partition("/")[2]
            told = f"journaltrack left out {name}: its name says that it holds secrets"
            kept.append(told.encode() + (b"\n" if part.endswith(b"\n") else b""))
        else:
            kept.append(begin + part)
    return b"\n".join(kept)


def _is_secret_file(path: str) -> bool:
    *folders, name = path.lower().split("/")
    return not _SECRET_FOLDERS.isdisjoint(folders) or any(
        patterns.fits(name, pattern) for pattern in _SECRET_FILES
    )


def whole_command() -> list[str]:
    """Return the command line of this process, without the program of ``python -c``.

    That may be a script with anything in it.
    """
    words = process.texts("orig_argv")
    place = 1
    while place < len(words) and words[place].startswith("-"):
        # Options of one letter may be joined, the last one with its operand: "-uc".
        letters = words[place][1:].lstrip(_FLAGS_OF_PYTHON)
        if letters[:1] == "c":
            if letters[1:]:
                words[place] = words[place][: 1 - len(letters)] + _CODE
            elif place + 1 < len(words):
                words[place + 1] = _CODE
        if letters[:1] in {"c", "m"} or words[place] in {"-", "--"}:
            break
        has_operand = letters in {"W", "X", "-check-hash-based-pycs"}
        place += 2 if has_operand else 1
    # Python is embedded in another program.
    return words or process.texts("argv")


# -- what there is -------------------------------------------------------------------------


def installed(folders: Iterable[str]) -> tuple[dict[str, str], int]:
    """Return the versions of the packages that are installed in some folders, by their names.

    The names of folders tell them, as ``importlib.metadata`` finds them: milliseconds instead of
    seconds. As for an import, the first one of a name counts.

    Returns:
        Versions by name, and how many more there are than are told.
    """
    found: dict[str, str] = {}
    for folder in dict.fromkeys(list(folders)[:_FOLDERS_MAX]):
        # Also an archive, which is no folder, and what can't be a path.
        with contextlib.suppress(OSError, ValueError):
            for entry in os.listdir(folder or "."):  # noqa: PTH208 - only names are needed
                if entry.endswith(_METADATA) and not entry.startswith("~"):
                    stem = entry.rpartition(".")[0]
                    # "name-1.0-py3.11.egg-info"
                    if entry.endswith(_METADATA[1]):
                        stem = re.sub(r"-py\d[\d.]*$", "", stem)
                    name, _, version = stem.rpartition("-")
                    if name and len(entry) <= _PACKAGE_CHARS_MAX:
                        found.setdefault(name.replace("_", "-").lower(), version)
    kept = dict(sorted(found.items())[:_PACKAGES_MAX])
    return kept, len(found) - len(kept)


def gpus(folder: str = "/proc/driver/nvidia") -> dict[str, Any]:
    """Return the models of NVIDIA's GPUs, and the driver's version, as the driver tells them."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(f"{folder}/gpus"))[:_GPUS_MAX]  # noqa: PTH208 - as above
    if not names:
        return {}
    told = (_line(_head(f"{folder}/gpus/{name}/information"), "Model") for name in names)
    models = [model or "unknown" for model in told]
    driver = re.search(r"\d+\.\d+(?:\.\d+)?", _head(f"{folder}/version"))
    return {"models": models, "driver": driver and driver[0]}


def _cpu() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    known = {
        "model": _line(_head("/proc/cpuinfo"), "model name"),
        "count": os.cpu_count(),
        "usable": usable,
        "limit": min(_cpu_limits(), default=None),
    }
    return {name: value for name, value in known.items() if value}


def _cpu_limits() -> Iterator[float]:
    """Yield the numbers of processors that control groups allow."""
    for folder in groups("cpu"):
        quota, _, period = _head(f"{folder}/cpu.max").strip().partition(" ")
        if not quota:
            quota = _head(f"{folder}/cpu.cfs_quota_us").strip()
            period = _head(f"{folder}/cpu.cfs_period_us").strip()
        # "max" and -1 are no limit.
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield round(int(quota) / int(period), 2)


def _memory() -> dict[str, int]:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = []
    for folder in groups("memory"):
        limit = _head(f"{folder}/memory.max") or _head(f"{folder}/memory.limit_in_bytes")
        # "max"; version 1 has the largest number of pages for no limit.
        if limit.strip().isdecimal() and int(limit) < size:
            limits.append(int(limit))
    return {"bytes": size, **({"limit_bytes": min(limits)} if limits else {})}


def groups(
    controller: str, told: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> Iterator[str]:
    """Yield the folders of this process's control groups, up to the root, see cgroups(7)."""
    for line in _head(told).splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        # "0::" is version 2. A container may see only its own part of the tree.
        if number == "0" or controller in names.split(","):
            top = root if number == "0" else f"{root}/{controller}"
            parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
            for count in range(len(parts), -1, -1):
                yield "/".join([top, *parts[:count]])


def _notebook(guard: Guard, environ: Mapping[str, str]) -> str | None:
    """Return the notebook that this process computes, as its editor tells it."""
    named = None
    # What stands in for the module may do anything.
    with contextlib.suppress(Exception):
        named = vars(sys.modules["__main__"]).get(_NOTEBOOK_NAME)
    for found in (named, environ.get(_NOTEBOOK_VARIABLE)):
        if isinstance(found, str) and found:
            return guard.cleaned(found)
    return None


def _head(file: str) -> str:
    """Return the beginning of a file; all of it would be long on a machine with many processors."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _READ_BYTES).decode(errors="replace")
        finally:
            os.close(descriptor)
    return ""


def _line(text: str, name: str) -> str | None:
    """Return the value of a line such as ``name : value``."""
    lines = (line.partition(":") for line in text.splitlines() if line.startswith(name))
    return next((value.strip()[:_PACKAGE_CHARS_MAX] for _, _, value in lines), None)


# -- for people ----------------------------------------------------------------------------


def facts_of(context: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what a description says, as labels and texts; the installed packages left out.

    A member that is not as journaltrack writes it is left out: the journal may be a stranger's.
    """
    import shlex  # noqa: PLC0415 - a training process tells nobody

    context = context or {}
    words = context.get("command")
    facts = (
        ("command", shlex.join(map(str, words)) if isinstance(words, list) else None),
        ("folder", context.get("folder")),
        ("notebook", context.get("notebook")),
        ("job", " ".join(f"{name}={value}" for name, value in _members(context, "job").items())),
        ("code", _told_code(_members(context, "code"))),
        ("interpreter", _told_python(_members(context, "python"))),
        ("system", context.get("system")),
        ("processors", _told_cpu(_members(context, "cpu"))),
        ("memory", _told_memory(_members(context, "memory"))),
        ("GPUs", _told_gpus(_members(context, "gpus"))),
    )
    return [(label, text) for label, text in facts if isinstance(text, str) and text]


def packages_of(context: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the versions of the installed packages by name."""
    found = _members(context or {}, "installed")
    return {name: version for name, version in found.items() if isinstance(version, str)}


def _members(context: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = context.get(name)
    return found if isinstance(found, dict) else {}


def _told_code(code: Mapping[str, Any]) -> str:
    reason = _NOT_IN_COMMIT.get(str(code.get("git")))
    return f"{code.get('file')}: {reason}" if reason else ""


def _told_python(python: Mapping[str, Any]) -> str:
    told = " ".join(
        str(python[name]) for name in ("implementation", "executable") if name in python
    )
    return (
        f"{told} (that of {python['of']}: the command's is not known)" if "of" in python else told
    )


def _told_cpu(cpu: Mapping[str, Any]) -> str:
    usable, count, limit = cpu.get("usable"), cpu.get("count"), cpu.get("limit")
    parts = (
        cpu.get("model"),
        f"{usable} of {count} usable" if usable and count else count and f"{count} of them",
        limit and f"limited to the time of {limit}",
    )
    return ", ".join(str(part) for part in parts if part)


def _told_memory(memory: Mapping[str, Any]) -> str:
    sizes = [memory.get("bytes"), memory.get("limit_bytes")]
    told = [f"{size / 2**30:.1f} GiB" for size in sizes if type(size) is int and size < 2**63]
    return ", limited to ".join(told)


def _told_gpus(gpu: Mapping[str, Any]) -> str:
    models = gpu.get("models")
    counted = Counter(map(str, models)) if isinstance(models, list) else {}
    told = ", ".join(f"{count} x {model}" for model, count in counted.items())
    return f"{told}, driver {gpu['driver']}" if told and gpu.get("driver") else told
