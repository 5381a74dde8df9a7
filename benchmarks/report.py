"""``python -m benchmarks.report [--into benchmarks/README.md] FILE…``: tables in Markdown from the
JSON that runs have left; nothing is measured.

A page says where a table goes, and keeps its text: what stands between ``<!-- table: NAME -->`` and
``<!-- end of table -->`` is replaced if the files have that table. NAME is ``peers``, ``targets``,
or that of a benchmark.

Files may be of ``benchmarks`` and of ``benchmarks.peers``; where several have the same benchmark,
the last one counts. What a result says is decided in ``measure`` and ``peers.outcomes``; here it is
only laid out. ``compare`` puts two runs side by side.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import outcomes
from benchmarks.tables import markdown

HEADER = ("", "ratio (range)", "ours (range)", "floor", "target")
CHANGES = ("", "before", "now", "change", "")
_PLACE = re.compile(
    r"(?P<begin><!-- table: (?P<name>[\w-]+) -->).*?(?P<end><!-- end of table -->)", re.DOTALL
)
NOISE = 0.1
"""A change below this is none: these machines differ by more from one minute to the next."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every table that the files hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PAGE",
        help="replace the page's tables instead of printing them",
    )
    options = parser.parse_args(arguments)
    made = tables([json.loads(path.read_text(encoding="utf-8")) for path in options.files])
    if options.into is None:
        print("\n\n".join(f"### {name}\n\n{text}" for name, text in made.items()))
    else:
        options.into.write_text(
            filled(options.into.read_text(encoding="utf-8"), made), encoding="utf-8"
        )
    return 0


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with the tables that there are in their places."""

    def place(found: re.Match[str]) -> str:
        text = made.get(found["name"])
        return found[0] if text is None else f"{found['begin']}\n\n{text}\n\n{found['end']}"

    return _PLACE.sub(place, page)


def tables(documents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By name: the peers', one of the targets, and one for each benchmark; each with what it was
    measured on.
    """
    benchmarks: dict[str, Mapping[str, Any]] = {}
    peers: Mapping[str, Any] | None = None
    for document in documents:
        benchmarks |= document.get("benchmarks", {})
        peers = document if "peers" in document else peers
    made = {}
    if peers is not None:
        made["peers"] = (
            f"{conditions(peers)}\n\n{markdown([outcomes.HEADER, *outcomes.rows(peers['peers'])])}"
        )
    targets = [
        result
        for benchmark in benchmarks.values()
        for result in benchmark["results"]
        if result["target"] is not None
    ]
    if targets:
        made["targets"] = markdown([HEADER, *map(row, targets)])
    for name, benchmark in benchmarks.items():
        document = next(
            document for document in reversed(documents) if name in document.get("benchmarks", {})
        )
        made[name] = (
            f"{conditions(document, benchmark['load'])}\n\n"
            f"{markdown([HEADER, *map(row, benchmark['results'])])}"
        )
    return made


def conditions(document: Mapping[str, Any], load: Mapping[str, float] | None = None) -> str:
    """What the figures were taken on, and how quiet it was: a reader has to know."""
    machine, load = document["machine"], load or document["load"]
    return (
        f"{document['started_at'][:10]}, {document['rounds']} "
        f"rounds{', quick' if document['quick'] else ''}; {machine['cpus']} CPUs, Python "
        f"{machine['python']}, SQLite {machine['sqlite']}, Linux {machine['kernel']}; other work "
        f"kept {load['others']:.2f} CPUs busy meanwhile."
    )


def row(result: Mapping[str, Any]) -> tuple[str, ...]:
    """One result, from what is stored of it."""
    ratio = spread(result["ratio"]) if result["ratio"] else ""
    floor = (
        f"{number(result['floor']['median'])} {result['unit']} ({result['floor_name']})"
        if result["floor"]
        else ""
    )
    target = ""
    if result["target"] is not None:
        target = (
            f"{'<=' if result['better'] == 'lower' else '>='} {result['target']:g}: "
            f"{'met' if result['met'] else 'MISSED'}"
        )
    return (result["what"], ratio, f"{spread(result['ours'])} {result['unit']}", floor, target)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What both runs have, as rows: by the ratio to the floor where there is one, since the
    machine is in both of its sides.
    """
    old = {
        (name, result["what"], result["floor_name"]): result
        for name, benchmark in before["benchmarks"].items()
        for result in benchmark["results"]
    }
    rows = []
    for name, benchmark in now["benchmarks"].items():
        for result in benchmark["results"]:
            earlier = old.get((name, result["what"], result["floor_name"]))
            if earlier is not None:
                rows.append(_change(name, earlier, result))
    return rows


def _change(name: str, earlier: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    key = "ratio" if earlier["ratio"] and result["ratio"] else "ours"
    unit = "x floor" if key == "ratio" else result["unit"]
    was, now = earlier[key], result[key]
    if not was["median"]:
        return (
            f"{name}: {result['what']}",
            f"{spread(was)} {unit}",
            f"{spread(now)} {unit}",
            "",
            "",
        )
    change = now["median"] / was["median"] - 1
    apart = now["low"] > was["high"] or now["high"] < was["low"]
    verdict = ""
    if abs(change) >= NOISE and apart:
        verdict = "better" if (change < 0) == (result["better"] == "lower") else "WORSE"
    elif abs(change) >= NOISE:
        verdict = "ranges overlap"
    return (
        f"{name}: {result['what']}",
        f"{spread(was)} {unit}",
        f"{spread(now)} {unit}",
        f"{change:+.0%}",
        verdict,
    )


def spread(values: Mapping[str, Any]) -> str:
    """Median and range."""
    if len(values["runs"]) == 1:
        return number(values["median"])
    return f"{number(values['median'])} ({number(values['low'])}-{number(values['high'])})"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
