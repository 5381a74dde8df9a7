"""Rounds, child processes, and the arithmetic of results. Knows nothing of what is measured.

The process that runs this stays small and imports nothing of weight: Linux counts the size of a
child's parent into the child's peak until the child has grown beyond it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
CHILD_S_MAX = 1_800
"""No child takes longer, even one that replays a million entries on a busy machine."""

Better: TypeAlias = Literal["lower", "higher"]
Values: TypeAlias = dict[str, float]
"""What one run of one side measured, by the figure's name (which ends in its unit)."""


class Side(NamedTuple):
    """One thing to run: ``target`` is ``module:function``, called with ``arguments`` in a child
    process of its own.
    """

    name: str
    target: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of some runs."""

    median: float
    low: float
    high: float
    runs: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize."""
        return cls(statistics.median(values), min(values), max(values), list(values))


@dataclass(frozen=True, slots=True)
class Result:
    """One figure, with its floor and target where there are such.

    Attributes:
        benchmark: Its benchmark.
        what: What was measured, in words.
        unit: Of ``ours`` and ``floor``.
        ours: Our values, one a round.
        floor: Those of ``floor_name``, from the same rounds.
        ratio: ours / floor, round by round.
        target: The bound for ``ratio``, or for ``ours`` where there is no floor.
        better: On which side of the bound the target is met.
    """

    benchmark: str
    what: str
    unit: str
    ours: Spread
    floor_name: str | None = None
    floor: Spread | None = None
    ratio: Spread | None = None
    target: float | None = None
    better: Better = "lower"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        reached = (self.ratio or self.ours).median
        return reached <= self.target if self.better == "lower" else reached >= self.target

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {**asdict(self), "met": self.met}


@dataclass(slots=True)
class Load:
    """How busy the machine was, and with what, while something was measured. All in CPUs."""

    before: float = 0.0
    total: float = 0.0
    ours: float = 0.0
    wall_s: float = 0.0

    @property
    def others(self) -> float:
        """CPUs kept busy by processes that are not the benchmark's."""
        return max(0.0, self.total - self.ours)

    def to_json(self) -> dict[str, float]:
        """As it is stored."""
        rounded = {name: round(value, 2) for name, value in asdict(self).items()}
        return {**rounded, "others": round(self.others, 2)}


@dataclass(slots=True)
class Run:
    """One call of ``python -m benchmarks``: its sizes, and where it may write."""

    quick: bool
    folder: Path
    rounds: int
    scale: float = 1.0
    results: list[Result] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """How many, of whatever it is; never fewer than 10."""
        return max(10, int((quick if self.quick else full) * self.scale))


def take_turns(sides: Sequence[Side], rounds: int) -> dict[str, list[Values]]:
    """Run every side once a round, beginning with another one each time; its values per side, in
    order of the rounds.
    """
    values: dict[str, list[Values]] = {side.name: [] for side in sides}
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            say(f"  round {number + 1} of {rounds}: {side.name}")
            values[side.name].append(child(side.target, **side.arguments))
    return values


def compare(
    benchmark: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    floor: Sequence[float] | None = None,
    *,
    floor_name: str | None = None,
    target: float | None = None,
    better: Better = "lower",
) -> Result:
    """A result from the values of the same rounds."""
    if floor is None:
        return Result(benchmark, what, unit, Spread.of(ours), target=target, better=better)
    ratios = [mine / theirs for mine, theirs in zip(ours, floor, strict=True)]
    return Result(
        benchmark,
        what,
        unit,
        Spread.of(ours),
        floor_name,
        Spread.of(floor),
        Spread.of(ratios),
        target,
        better,
    )


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    """Work in a new folder, which is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir("/")


def child(target: str, **arguments: Any) -> Values:
    """Call ``module:function`` in a fresh process; what it returns, with ``cpu_s`` and
    ``rss_mib`` of that process.
    """
    command = [sys.executable, "-m", "benchmarks.measure", target, json.dumps(arguments)]
    return spawn(command)


def spawn(command: Sequence[str]) -> Values:
    """Run a program; the JSON object that is its last line on stdout if there is one, with
    ``wall_s, cpu_s, rss_mib``.

    Raises:
        RuntimeError: It failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = process.communicate(timeout=CHILD_S_MAX)
    wall_s = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with "
            f"{process.returncode}:\n{errors[-4000:]}{output[-2000:]}"
        )
    last = output.rstrip().rpartition("\n")[2]
    return {"wall_s": wall_s, **(json.loads(last) if last.startswith("{") else {})}


def own_use() -> Values:
    """What this process used so far: ``cpu_s``, and its peak of resident memory ``rss_mib``."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": use.ru_utime + use.ru_stime, "rss_mib": use.ru_maxrss / 1024}


def environment() -> dict[str, str]:
    """A child's: nothing of the machine's AWS configuration, journals or proxies, credentials
    that are none, and the same whether there are changes here that are not committed.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "JOURNALTRACK_", "SAGEMAKER_", "TRAINING_JOB", "PYTHON"))
        and not name.lower().endswith("_proxy")
    }
    return kept | {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "JOURNALTRACK_GIT_DIFF": "off",
        "PYTHONHASHSEED": "0",
    }


@contextlib.contextmanager
def watched_load() -> Iterator[Load]:
    """How busy the machine is during the block; children must have ended when it ends."""
    load = Load(before=os.getloadavg()[0])
    started, busy, own = time.perf_counter(), _busy_s(), _own_s()
    yield load
    load.wall_s = time.perf_counter() - started
    load.total = (_busy_s() - busy) / load.wall_s
    load.ours = (_own_s() - own) / load.wall_s


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import sqlite3

    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
        )
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {
            name: _version(name)
            for name in ("journaltrack", "SQLAlchemy", "boto3", "botocore", "urllib3")
        },
    }


def sha256_of(path: str) -> str:
    """Hash a file as ``hashlib.file_digest`` does, which Python 3.10 has not."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    view = memoryview(buffer)
    with Path(path).open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _busy_s() -> float:
    """CPU seconds that the machine spent on anything since it started (proc(5): all but idle and
    iowait).
    """
    with contextlib.suppress(OSError):
        fields = [
            int(text)
            for text in Path("/proc/stat")
            .read_text(encoding="utf-8")
            .split("\n", 1)[0]
            .split()[1:9]
        ]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _own_s() -> float:
    return sum(
        use.ru_utime + use.ru_stime
        for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _main() -> None:
    """In the child: call the function that was named and print what it returns."""
    module, _, function = sys.argv[1].partition(":")
    values = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps({**own_use(), **values}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a tracker that was not closed would replay now


if __name__ == "__main__":
    _main()
