"""What a campaign gathers of each peer, and how it is summarized: medians and ranges, in JSON
and as a table. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Spread
from benchmarks.peers.campaign import Loss
from benchmarks.peers.registry import Peer

LATENCIES = ("p50_us", "p99_us", "p999_us", "max_us", "calls_per_s", "start_ms")


@dataclass(slots=True)
class Outcome:
    """Of one peer, one item for each round.

    Attributes:
        peer: Which.
        version: That was installed.
        failed: Why there is nothing, or less than there should be.
    """

    peer: Peer
    version: str = ""
    failed: str | None = None
    latencies: list[Mapping[str, float]] = field(default_factory=list)
    fast: list[Loss] = field(default_factory=list)
    slow: list[Loss] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "name": self.peer.name,
            "version": self.version,
            "returned": self.peer.returned,
            "failed": self.failed,
            "latency": {
                key: spread_json([run[key] for run in self.latencies])
                for key in (*LATENCIES, "calls")
                if self.latencies
            },
            "killed_fast": _losses(self.fast),
            "killed_slow": _losses(self.slow),
        }


def spread_json(values: Sequence[float]) -> dict[str, Any]:
    """Median, range, and the values themselves."""
    spread = Spread.of(values)
    return {"median": spread.median, "low": spread.low, "high": spread.high, "runs": spread.runs}


def _losses(losses: Sequence[Loss]) -> dict[str, Any] | None:
    if not losses:
        return None
    return {
        name: spread_json([getattr(loss, name) for loss in losses])
        for name in ("returned", "lost", "beyond")
    }


HEADER = (
    "tracker",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "max ms",
    "calls/s",
    "lost, fast",
    "lost, slow",
    "start ms",
    "what a returned call means",
)


def rows(outcomes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of the table: from what is stored, so that a file gives the same table as the run did."""
    return [_row(outcome) for outcome in outcomes]


def _row(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    title = f"{outcome['name']} {outcome['version']}".strip()
    latency = outcome["latency"]
    if not latency:
        return (title, *[""] * 8, f"not measured: {outcome['failed']}")
    figures = [
        f"{_number(latency[key]['median'])} "
        f"({_number(latency[key]['low'])}-{_number(latency[key]['high'])})"
        for key in LATENCIES[:1]
    ]
    figures += [_number(latency[key]["median"]) for key in ("p99_us", "p999_us")]
    figures.append(_number(latency["max_us"]["median"] / 1e3))
    figures.append(_number(latency["calls_per_s"]["median"]))
    lost = [_lost(outcome[key]) for key in ("killed_fast", "killed_slow")]
    note = outcome["returned"] + (
        f" (failed once: {outcome['failed']})" if outcome["failed"] else ""
    )
    return (title, *figures, *lost, _number(latency["start_ms"]["median"]), note)


def _lost(losses: Mapping[str, Any] | None) -> str:
    if losses is None:
        return ""
    most = f"{losses['lost']['median']:,.0f} of {losses['returned']['median']:,.0f}"
    if losses["lost"]["low"] == losses["lost"]["high"]:
        return "0" if not losses["lost"]["high"] else most
    return f"{most} ({losses['lost']['low']:,.0f}-{losses['lost']['high']:,.0f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
