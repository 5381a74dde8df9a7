"""``python -m benchmarks.peers [--quick] [--only NAME…] [--json FILE]``: theirs and ours,
measured and killed the same way, in one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.measure import machine, say, watched_load
from benchmarks.peers import campaign, outcomes
from benchmarks.peers.environments import CannotBeInstalledError, Environments, version
from benchmarks.peers.outcomes import Outcome
from benchmarks.peers.registry import PEERS, Peer
from benchmarks.tables import aligned, markdown

RESULTS = Path(__file__).resolve().parent.parent / "results"
CHECKED = 30
"""Calls of the orderly run that shows whether a peer's store can be read back."""
# With --quick or without: the tight loop; killed at full speed; killed at a pace, where calls are
# no limit.
TIGHT: dict[bool, Any] = {
    True: {"calls": 2_000, "seconds": 3.0},
    False: {"calls": 20_000, "seconds": 10.0},
}
FAST: dict[bool, Any] = {
    True: {"calls": 2_000, "seconds": 1.0},
    False: {"calls": 5_000, "seconds": 2.0},
}
SLOW: dict[bool, Any] = {
    True: {"calls": 10**9, "seconds": 4.0, "per_s": 10.0},
    False: {"calls": 10**9, "seconds": 20.0, "per_s": 2.0},
}
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure those that were asked for; one that can't be installed or started is told in the
    table, and fails nothing.
    """
    known = PEERS
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls, 1 round")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help=f"beginnings of names; there are: {'; '.join(peer.name for peer in known)}",
    )
    parser.add_argument("--rounds", type=int, help="default 5, 1 with --quick")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: a new file in benchmarks/results/"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the table as benchmarks/README.md has it"
    )
    parser.add_argument(
        "--folder", type=Path, help="where stores are written: measure the disk that matters"
    )
    options = parser.parse_args(arguments)
    chosen = [
        peer
        for peer in known
        if not options.only or any(peer.name.startswith(name) for name in options.only)
    ]
    if not chosen:
        parser.error(f"no such peer; there are: {'; '.join(peer.name for peer in known)}")

    started = time.strftime("%Y-%m-%dT%H-%M-%S")
    rounds = options.rounds or (1 if options.quick else 5)
    with (
        tempfile.TemporaryDirectory(prefix="journaltrack-peers-", dir=options.folder) as folder,
        watched_load() as load,
    ):
        found = measure(chosen, Environments(), Path(folder), rounds, quick=options.quick)
    document: dict[str, Any] = {
        "started_at": started,
        "quick": options.quick,
        "rounds": rounds,
        "machine": machine(),
        "load": load.to_json(),
        "peers": [outcome.to_json() for outcome in found],
    }
    table = [outcomes.HEADER, *outcomes.rows(document["peers"])]
    print((markdown if options.markdown else aligned)(table), flush=True)
    target = options.json or RESULTS / f"{started}-peers{'-quick' if options.quick else ''}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    say(f"figures: {target}; CPUs kept busy meanwhile by others: {load.others:.2f}")
    return 0


def measure(
    chosen: Sequence[Peer], environments: Environments, folder: Path, rounds: int, *, quick: bool
) -> list[Outcome]:
    """All rounds: in each, every peer in turn, beginning with another one, and last all of them
    slowly at the same time.
    """
    found = [Outcome(peer) for peer in chosen]
    there = [
        (outcome, python)
        for outcome in found
        if (python := _installed(outcome, environments)) is not None
    ]
    readable = set()
    # this warms up, too: compiles what pip did not, and fills the page cache
    for outcome, python in there:
        say(f"  can its store be read: {outcome.peer.name}")
        if _tried(
            outcome,
            lambda peer=outcome.peer, python=python: (
                campaign.check_reader(peer, python, folder, calls=CHECKED) or True
            ),
        ):
            readable.add(outcome.peer.name)
    for number in range(rounds):
        first = number % max(1, len(there))
        for outcome, python in (*there[first:], *there[:first]):
            say(f"  round {number + 1} of {rounds}: {outcome.peer.name}")
            _one_turn(outcome, python, folder, quick=quick, readable=outcome.peer.name in readable)
        say(
            f"  round {number + 1} of {rounds}: all of them at {SLOW[quick]['per_s']:g} calls a "
            "second"
        )
        with ThreadPoolExecutor(max(1, len(there))) as pool:  # they sleep nearly all the time
            slow = [
                pool.submit(_slowly, outcome, python, folder, quick=quick)
                for outcome, python in there
                if outcome.peer.name in readable
            ]
        for future in slow:
            future.result()
    return found


def _installed(outcome: Outcome, environments: Environments) -> Path | None:
    try:
        python = environments.python(outcome.peer)
        outcome.version = version(python, outcome.peer.requirement)
    except CannotBeInstalledError as error:
        outcome.failed = f"can't be installed: {error}"
        say(f"  {outcome.peer.name}: {outcome.failed}")
        return None
    return python


def _one_turn(outcome: Outcome, python: Path, folder: Path, *, quick: bool, readable: bool) -> None:
    peer = outcome.peer
    if measured := _tried(outcome, lambda: campaign.latency(peer, python, folder, **TIGHT[quick])):
        outcome.latencies.append(measured)
    if readable and (
        lost := _tried(outcome, lambda: campaign.killed(peer, python, folder, **FAST[quick]))
    ):
        outcome.fast.append(lost)


def _slowly(outcome: Outcome, python: Path, folder: Path, *, quick: bool) -> None:
    if lost := _tried(
        outcome, lambda: campaign.killed(outcome.peer, python, folder, **SLOW[quick])
    ):
        outcome.slow.append(lost)


def _tried(outcome: Outcome, attempt: Callable[[], T]) -> T | None:
    try:
        return attempt()
    except campaign.PeerFailedError as error:
        outcome.failed = str(error)
        say(f"  {outcome.peer.name}: {error}")
        return None


if __name__ == "__main__":
    sys.exit(main())
