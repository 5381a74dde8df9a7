"""Mutate a sample of each core module, and tell what no test notices.

Run `make mutants`, or `python -m tests.mutants [--seed N] [--count M] [--module NAME]` in the
project's folder. The same seed chooses the same mutants of the same source. Each mutant is made in
a copy of the tree and meets the tests that ``modules.toml`` names for its module; the first failure
ends them. A survivor shows a missing test. If no user could notice it either, ``equivalent.toml``
names it, with the reason. Exit with 1 if anything survived that is not named there.
"""

from __future__ import annotations

import argparse
import difflib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.mutants.mutations import Mutant, sample
from tests.mutants.running import Run, Trees

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "journaltrack"
HERE: Final = Path(__file__).parent
# The machine may be busier than when the baseline was measured.
_TIMES_BASELINE: Final = 4
_SECONDS_MORE: Final = 60.0
_BASELINE_S: Final = 3_600.0


class Result(NamedTuple):
    """What became of a mutant; ``reason``: why nobody need notice it, if it was reviewed."""

    module: str
    mutant: Mutant
    run: Run
    reason: str | None

    @property
    def verdict(self) -> str:
        """Return the column of the table that counts it; what was reviewed is not run."""
        return self.run.verdict if self.reason is None else "equivalent"


def known_modules() -> dict[str, list[str]]:
    """Return the tests of each module that is mutated, the quickest first."""
    told = tomllib.loads((HERE / "modules.toml").read_text(encoding="utf-8"))
    return {name: list(tests) for name, tests in told.items()}


def path_of(name: str) -> Path:
    """Find a module by its name, or with as much of its folder as tells it from others.

    Raises:
        LookupError: There is no such module, or there are several.
    """
    found = [path for path in PACKAGE.rglob(f"{Path(name).name}.py") if path.match(f"{name}.py")]
    if len(found) != 1:
        msg = (
            f"{len(found)} modules of journaltrack are named {name}: see tests/mutants/modules.toml"
        )
        raise LookupError(msg)
    return found[0]


class Reviewed:
    """The mutants that nobody need notice: by module, function and changed lines, not by number."""

    def __init__(self, path: Path = HERE / "equivalent.toml") -> None:
        self.known = {
            (
                told["module"],
                told["function"],
                _spaceless(told["before"]),
                _spaceless(told["after"]),
            ): str(told["reason"])
            for told in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", [])
        }

    def reason(self, module: str, mutant: Mutant) -> str | None:
        """Return why nobody need notice it; None if it was not reviewed."""
        return self.known.get(
            (module, mutant.function, _spaceless(mutant.before), _spaceless(mutant.after))
        )


def _spaceless(text: str) -> str:
    return "".join(text.split())


def main(arguments: Sequence[str]) -> int:
    """Run, print survivors and table, and write both as JSON."""
    known = known_modules()
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--seed", type=int, default=1, help="which sample (default: 1)")
    parser.add_argument(
        "--count", type=int, default=20, help="mutants of each module (default: 20)"
    )
    parser.add_argument(
        "--module",
        action="append",
        choices=sorted(known),
        help="this one only; may be given several times",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=2,
        help="so many at a time, each in a copy of its own (default: 2)",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "mutants.json", help="where the JSON goes"
    )
    options = parser.parse_args(arguments)
    modules = {name: known[name] for name in options.module or known}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    results = list(_results(modules, options.seed, options.count, options.jobs))
    rows = _rows(modules, results)
    survivors = [result for result in results if result.verdict == "survived"]
    for result in survivors:
        sys.stdout.write(_shown(result))
    sys.stdout.write(
        f"\nseed {options.seed}, {len(results)} mutants, {time.monotonic() - began:.0f} "
        f"s\n\n{_table(rows)}"
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "seed": options.seed,
        "count": options.count,
        "modules": rows,
        "mutants": [_told(result) for result in results],
    }
    options.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 1 if survivors else 0


def _results(
    modules: Mapping[str, Sequence[str]], seed: int, count: int, jobs: int
) -> Iterator[Result]:
    """Yield each mutant's result in order of modules and places; tell stderr at once."""
    reviewed = Reviewed()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        trees = Trees(ROOT, Path(folder), jobs)
        try:
            files = list(dict.fromkeys(file for tests in modules.values() for file in tests))
            seconds = dict(zip(files, pool.map(partial(_baseline_s, trees), files), strict=True))
            waiting = []
            for module, tests in modules.items():
                timeout_s = _SECONDS_MORE + _TIMES_BASELINE * sum(seconds[file] for file in tests)
                source = path_of(module).read_text(encoding="utf-8")
                for mutant in sample(source, count, f"{seed} {module}"):
                    untested = Result(
                        module, mutant, Run("survived", "", ""), reviewed.reason(module, mutant)
                    )
                    waiting.append(pool.submit(_tested, trees, untested, source, tests, timeout_s))
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            trees.stop()


def _baseline_s(trees: Trees, file: str) -> float:
    """Return how many seconds a test file takes without any mutant.

    Raises:
        RuntimeError: A test fails.
    """
    started = time.monotonic()
    run = trees.test([file], _BASELINE_S)
    if run.verdict != "survived":
        msg = f"without any mutant, the tests fail: {run.test or file}\n{run.output}"
        raise RuntimeError(msg)
    return time.monotonic() - started


def _tested(
    trees: Trees, untested: Result, source: str, tests: Sequence[str], timeout_s: float
) -> Result:
    """Run the tests, unless the mutant was reviewed."""
    if untested.reason is not None:
        return untested
    module, mutant = untested.module, untested.mutant
    changed = (str(path_of(module).relative_to(ROOT)), mutant.apply(source))
    result = untested._replace(run=trees.test(tests, timeout_s, changed))
    sys.stderr.write(
        f"{result.verdict:10} {module}:{mutant.line} {mutant.operator} {result.run.test}\n"
    )
    return result


def _rows(
    modules: Mapping[str, Sequence[str]], results: Sequence[Result]
) -> dict[str, dict[str, int]]:
    """Count by module, and in all, how mutants ended."""
    rows = {}
    for name in [*modules, "all"]:
        mine = [result.verdict for result in results if name in {result.module, "all"}]
        rows[name] = {"mutants": len(mine)} | {
            v: mine.count(v) for v in ("killed", "timeout", "equivalent", "survived")
        }
    return rows


def _table(rows: Mapping[str, Mapping[str, int]]) -> str:
    """Return it in Markdown. A mutant that never ends counts as noticed, an equivalent one not."""
    lines = [
        "| module | mutants | killed | timeouts | equivalent | survived | noticed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        counted = row["mutants"] - row["equivalent"]
        noticed = f"{(row['killed'] + row['timeout']) / counted:.0%}" if counted else "-"
        cells = [
            name,
            *(
                str(row[column])
                for column in ("mutants", "killed", "timeout", "equivalent", "survived")
            ),
            noticed,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(result: Result) -> str:
    """Return a survivor as a difference."""
    path = path_of(result.module)
    source = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT))
    changed = result.mutant.apply(source).splitlines()
    difference = difflib.unified_diff(source.splitlines(), changed, name, name, n=2, lineterm="")
    return (
        f"\nsurvived: {result.mutant.operator} in {result.module}, "
        f"{result.mutant.function or 'the module'}\n" + "\n".join(difference) + "\n"
    )


def _told(result: Result) -> dict[str, Any]:
    mutant = result.mutant
    return {
        "module": result.module,
        "function": mutant.function,
        "operator": mutant.operator,
        "line": mutant.line,
        "before": mutant.before,
        "after": mutant.after,
        "verdict": result.verdict,
        "test": result.run.test,
        "reason": result.reason,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
