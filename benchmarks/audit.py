"""The audit's questions about a large journal: how soon the first page is there, and the answers
that read everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

FIRST_PAGE_S_MAX = 0.3
RSS_MIB_MAX = 150.0
PAGE = 200
FIRST_PAGES: dict[str, dict[str, Any]] = {
    "all": {},
    "pending, 2 of all": {"state": "pending"},
    "quarantined, few": {"state": "quarantined"},
    "of a kind without entries": {"kind": "parameter"},
    "of a name without entries": {"name": "nothing*"},
    "the last tenth by time": {"since": 0.9},
}


def run(options: Run) -> list[Result]:
    """A journal whose metrics are delivered but for a few, and the first entry of all still
    pending: the low-water mark helps nobody.
    """
    metrics = options.size(1_000_000, 100_000)
    folder = options.folder / f"audit-{metrics}"
    child("benchmarks.journals:make", folder=str(folder), metrics=metrics)
    child("benchmarks.journals:deliver", folder=str(folder))
    pages = {
        f"{kind}: {name}": {"question": kind, **filters}
        for kind in ("entries", "timeline")
        for name, filters in FIRST_PAGES.items()
    }
    whole = {f"{question}": {"question": question} for question in ("entry", "report", "stream")}
    sides = [
        Side(name, "benchmarks.audit:ours", {"folder": str(folder), **asked})
        for name, asked in {**pages, **whole}.items()
    ]
    values = take_turns(sides, options.rounds)
    what = f"{metrics:,} entries"
    results = [
        compare(
            "audit",
            f"{what}: first page, {name}",
            "s",
            [v["answer_s"] for v in values[name]],
            target=FIRST_PAGE_S_MAX,
        )
        for name in pages
    ]
    results += [
        compare("audit", f"{what}: {name}", "s", [v["answer_s"] for v in values[name]])
        for name in whole
    ]
    return [
        *results,
        compare(
            "audit",
            f"{what}: peak memory, stream of all entries",
            "MiB",
            [v["rss_mib"] for v in values["stream"]],
            target=RSS_MIB_MAX,
        ),
    ]


def ours(folder: str, question: str, since: float | None = None, **filters: Any) -> Values:
    """One question, with its modules loaded and the file in the system's cache, as after a first
    look.
    """
    from journaltrack.journal.filter import Choice
    from journaltrack.journal.journal import Journal
    from journaltrack.reports import entries, entry, history, report

    journal = Journal.open(folder, create=False, read_only=True)
    ((first_ns, last_ns, last_seq),) = journal.database.read(
        "SELECT min(recorded_at_ns), max(recorded_at_ns), max(seq) FROM entry"
    )
    journal.database.read("SELECT max(settled_at_ns) FROM delivery")
    journal.close()
    middle_ns = first_ns + int((last_ns - first_ns) * (0.5 if since is None else since))
    if since is not None:
        filters["since_ns"] = middle_ns
    answers: dict[str, Callable[[], Any]] = {
        "entries": lambda: list(entries.each_entry(folder, limit=PAGE, **filters)),
        "timeline": lambda: list(history.timeline(folder, Choice(**filters), limit=PAGE)),
        "entry": lambda: entry.entry(folder, last_seq),
        "report": lambda: report.audit(folder),
        "stream": lambda: sum(1 for _ in entries.each_entry(folder)),
    }
    started = time.perf_counter()
    answers[question]()
    return {"answer_s": time.perf_counter() - started}
