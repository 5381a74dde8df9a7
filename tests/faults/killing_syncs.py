"""SIGKILL at random moments to processes that sync, while training goes on; counted in the journal
and in AWS's stand-in.

The journal is read with plain sqlite3 and AWS as the simulator holds it: neither asks journaltrack
what it believes.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from journaltrack import Tracker
from tests.copies import verify_chains
from tests.faults.killing import WAIT_S, Child, Zygote
from tests.simulator import simulator

# a kill follows the arrival of one of so many first requests of a pass, or its start
REQUESTS_MAX = (8, 12)
COMPONENTS = ("run-a", "run-b")


@dataclass(slots=True)
class Syncing:
    """What a campaign against syncing processes counted; the entries at its end, after one sync
    in peace.
    """

    seed: int | str
    kills: int = 0
    finished: int = 0  # passes that were through before the kill
    requests: int = 0
    entries: int = 0
    points: int = 0
    delivered: int = 0  # superseded ones too
    in_doubt: int = 0
    in_doubt_there: int = 0  # points in doubt that AWS has
    quarantined: int = 0
    lost: int = 0  # entries that are not in the journal, or are delivered and not in AWS
    duplicated: int = 0  # points that AWS has more than once
    unexplained: int = 0  # points that AWS has, and that are pending or quarantined
    artifacts: int = 0
    # passes that had such a request in flight
    killed_in: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    duration_s: float = 0.0


class Training:
    """Goes on logging to two components, and remembers what it logged."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.options = {"journal": folder / "journal", "sync": "off"}
        self.trackers = {
            name: Tracker.create(trial_component_name=name, **self.options) for name in COMPONENTS
        }
        self.points: list[tuple[str, str, float]] = []
        self.parameters: dict[str, dict] = {name: {} for name in COMPONENTS}
        self.artifacts: dict[str, dict[str, bytes]] = {name: {} for name in COMPONENTS}
        self.number = 0
        self.others = len(COMPONENTS)  # entries that are no points

    def go_on(self, calls: int) -> None:
        """Make so many calls; every value occurs once."""
        for _ in range(calls):
            name, does = self.chance.choice(COMPONENTS), self.chance.random()
            tracker, self.number = self.trackers[name], self.number + 1
            if does < 0.6:
                tracker.log_metric("loss", float(self.number), iteration_number=self.number)
                self.points.append((name, "loss", float(self.number)))
            elif does < 0.75:
                points = {f"m{i}": self.number + i / 16 for i in range(7)}
                tracker.log_metrics(points)
                self.points += [(name, key, value) for key, value in points.items()]
            elif does < 0.95:
                key, value = (
                    f"p{self.number % 9}",
                    self.chance.choice([float(self.number), f"text {self.number}"]),
                )
                tracker.log_parameter(key, value)
                self.parameters[name][key] = (
                    {"NumberValue": value} if isinstance(value, float) else {"StringValue": value}
                )
                self.others += 1
            elif does < 0.98:
                file = self.folder / f"a{self.number % 5}"
                file.write_bytes(f"{self.number} ".encode() * self.chance.randint(1, 9_000))
                tracker.log_artifact(file)
                self.artifacts[name][file.name] = file.read_bytes()
                self.others += 2
            else:
                tracker.close()
                self.trackers[name] = Tracker.load(name, **self.options)

    def close(self) -> None:
        """No more calls."""
        for tracker in self.trackers.values():
            tracker.close()


def kill_syncs(folder: Path, kills: int, seed: int | str) -> Syncing:
    """Kill so many passes over one journal, then let one end in peace and count."""
    began = time.monotonic()
    summary, chance = Syncing(seed), random.Random(f"{seed} sync")
    arrived, arrives = os.pipe()  # a byte for every request
    os.set_blocking(arrived, False)
    with Zygote("sync") as zygote, simulator(latency_s=0.001) as sim:
        sim.on_request = lambda call: os.write(arrives, b".")
        training = Training(folder, chance)
        order = {"folder": str(folder / "journal"), "endpoint_url": sim.endpoint_url}
        while summary.kills < kills:
            training.go_on(chance.randint(0, 25))
            child = Child(zygote, **order)
            _await_moment(child, arrived, chance, training)
            code = child.kill()
            summary.kills += code == -signal.SIGKILL
            summary.finished += code == 0
            if code not in {0, -signal.SIGKILL}:
                summary.problems.append(child.told.decode())
            _let_settle(sim)
            _drain(arrived)
            _check_points(sim, training, summary)
            if code:
                unfinished = _read(
                    folder, "SELECT DISTINCT action FROM receipt WHERE finished_at_ns IS NULL"
                )
                summary.killed_in.update([action for (action,) in unfinished] or ["nothing"])
        training.go_on(10)
        training.close()
        _end_in_peace(zygote, order, sim, summary)
        _count(sim, training, summary)
    os.close(arrived)
    os.close(arrives)
    summary.duration_s = time.monotonic() - began
    return summary


def _await_moment(child, arrived, chance, training) -> None:
    """Some time after the pass began, or after its n-th request arrived; training goes on
    meanwhile.
    """
    n = chance.randint(0, chance.choice(REQUESTS_MAX))
    count = 0
    while count < n and not child.ended:
        child.listen(WAIT_S, also=[arrived])
        count += _drain(arrived)
    training.go_on(chance.randint(0, 3))
    child.listen(chance.uniform(0, 0.01 if n else 0.1))


def _drain(arrived) -> int:
    with contextlib.suppress(BlockingIOError):
        return len(os.read(arrived, 1 << 16))
    return 0


def _let_settle(sim) -> None:
    """Until what the killed process had sent has been applied, as far as it ever will be."""
    url = urlsplit(sim.endpoint_url)
    # all others are accepted by now
    with contextlib.closing(
        http.client.HTTPConnection(url.hostname, url.port, timeout=WAIT_S)
    ) as last:
        last.request("GET", "/_simulator/nothing")
        last.getresponse().read()
    for thread in list(sim._server._threads):
        if "_serve" in thread.name:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a connection of a killed process is open"


def _read(folder: Path, sql: str):
    with contextlib.closing(
        sqlite3.connect(f"file:{folder}/journal/journal.db?mode=ro", uri=True, timeout=WAIT_S)
    ) as connection:
        return connection.execute(sql).fetchall()


def _states(folder: Path) -> dict[int, str]:
    """The state of every entry, from the tables alone."""
    states = {
        seq: outcome or "pending"
        for seq, outcome in _read(
            folder, "SELECT seq, outcome FROM entry LEFT JOIN delivery USING (seq)"
        )
    }
    for (seqs,) in _read(folder, "SELECT entries FROM receipt WHERE finished_at_ns IS NULL"):
        for part in filter(None, seqs.split(",")):  # an anchor names no entries
            first, _, last = part.partition("-")
            states.update(
                (seq, "in flight")
                for seq in range(int(first), int(last or first) + 1)
                if states[seq] == "pending"
            )
    return states


def _check_points(sim, training, summary) -> Counter[str]:
    """Points are where the journal says: delivered ones once, those in flight or in doubt once
    at most, others not at all.
    """
    states = _states(training.folder)
    there = Counter(
        (c.name, point.name, point.value) for c in sim.components.values() for point in c.metrics
    )
    rows = _read(
        training.folder,
        "SELECT e.seq, c.name, e.name, e.value FROM entry e "
        "JOIN component c ON c.id = e.component_id WHERE e.stream = 'metric'",
    )
    logged = Counter(training.points)
    logged.subtract((*point,) for _, *point in rows)
    lost, duplicated, unexplained = logged.total(), sum(there.values()) - len(there), 0
    doubtful_there = 0
    for seq, *point in rows:
        count = there.pop((*point,), 0)
        lost += states[seq] == "delivered" and count == 0
        unexplained += states[seq] in {"pending", "quarantined"} and count > 0
        doubtful_there += states[seq] == "in doubt" and count > 0
    if any(logged.values()) or there:
        summary.problems.append("other points are in the journal, or in AWS, than were logged")
    mark = _read(training.folder, "SELECT seq FROM mark")[0][0]
    listed = {seq for (seq,) in _read(training.folder, "SELECT seq FROM unsettled")}
    if any(
        seq <= mark and seq not in listed and state in {"pending", "in flight"}
        for seq, state in states.items()
    ):
        summary.problems.append(f"something pending is below the mark {mark}")
    summary.lost, summary.duplicated = max(summary.lost, lost), max(summary.duplicated, duplicated)
    summary.unexplained, summary.in_doubt_there = (
        max(summary.unexplained, unexplained),
        doubtful_there,
    )
    return Counter(states.values())


def _end_in_peace(zygote, order, sim, summary) -> None:
    """One sync that nobody kills leaves nothing pending; the next one has nothing to do."""
    for what in ("the sync in peace", "the one after it"):
        before = len(sim.requests)
        child = Child(zygote, **order)
        code = child.end()
        if code != 0 or child.told != b"0 None\n":
            summary.problems.append(f"{what} ended with {code}: {child.told.decode()}")
    if len(sim.requests) != before:
        summary.problems.append("a sync with nothing to do made requests")
    summary.requests = before


def _count(sim, training, summary) -> None:
    """The last count, and what is no point: parameters are the last ones logged, artifacts have
    their bytes.
    """
    states = _check_points(sim, training, summary)
    summary.entries, summary.points = states.total(), len(training.points)
    summary.delivered = states.pop("delivered", 0) + states.pop("superseded", 0)
    summary.in_doubt, summary.quarantined = states.pop("in doubt", 0), states.pop("quarantined", 0)
    summary.lost += abs(len(training.points) + training.others - summary.entries)
    if states:
        summary.problems.append(f"after a sync in peace there is still {states}")
    if list(sim.components) != list(dict.fromkeys(sim.components)) or set(sim.components) != set(
        COMPONENTS
    ):
        summary.problems.append(f"the components are {list(sim.components)}")
    for name in COMPONENTS:
        component = sim.components[name]
        if component.parameters != training.parameters[name]:
            summary.problems.append(
                f"{name} has the parameters {component.parameters}, not {training.parameters[name]}"
            )
        bodies = {}
        for key, artifact in component.output_artifacts.items():
            bucket, _, path = artifact["Value"].removeprefix("s3://").partition("/")
            bodies[key] = sim.objects[bucket, path].body
        if bodies != training.artifacts[name]:
            summary.problems.append(f"{name} has other artifacts than were logged")
        summary.artifacts += len(bodies)
    for action, count in _read(
        training.folder,
        "SELECT action, count(*) FROM receipt WHERE finished_at_ns IS NULL GROUP BY action",
    ):
        summary.problems.append(f"{count} receipts of {action} are unfinished")
    summary.problems += [
        str(line) for (line,) in _read(training.folder, "PRAGMA integrity_check") if line != "ok"
    ]
    summary.problems += map(str, verify_chains(training.folder / "journal"))
