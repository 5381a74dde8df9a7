"""A ``sync`` against an endpoint that throttles: how soon its rate is found, how much of it is
used, and how many requests are wasted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.journals import make_copies
from benchmarks.measure import Result, Run, Values, child, compare, say
from benchmarks.throttling_server import throttling_server

CHANGES = ((50.0, 200.0), (200.0, 50.0))
"""Requests a second that are allowed, first and then."""
WASTED_MAX = 5.0
FOUND_S_MAX = 10.0
USED_MIN = 85.0
_WINDOW_S = 1.0
_counter = itertools.count()

Log = Sequence[tuple[float, bool]]


def run(options: Run) -> list[Result]:
    """Both changes, so many seconds before and after each; quick: one of them."""
    seconds = 15.0 if not options.quick else max(1.5, 6.0 * min(1.0, options.scale))
    results = []
    for first, then in CHANGES[: 1 if options.quick else len(CHANGES)]:
        metrics = int(10 * (first + then) * seconds)
        model = options.folder / f"limiter-{next(_counter)}"
        measured: list[Values] = []
        for number, folder in enumerate(
            make_copies(model, metrics, 1 if options.quick else options.rounds)
        ):
            say(f"  round {number + 1}: {first:g}, then {then:g} requests a second")
            with throttling_server(first, then, seconds) as server:
                child(
                    "benchmarks.replay:sync",
                    folder=str(folder),
                    endpoint_url=server.endpoint_url,
                    metrics=metrics,
                )
                measured.append(judged(server.log(), first, then, seconds))
        results += _results(f"{first:g}/s, then {then:g}/s", measured)
    return results


def judged(log: Log, first: float, then: float, change_s: float) -> Values:
    """Of both parts: when the rate was found, and from then on what was used and wasted; the
    last second is no second of full use.
    """
    end = max(change_s + 2.0, log[-1][0] - 1.0)
    found_first, found_then = found_s(log, first, 0.0, change_s), found_s(log, then, change_s, end)
    used_first, wasted_first = use(log, first, min(found_first, change_s - 1.0), change_s)
    used_then, wasted_then = use(log, then, min(change_s + found_then, end - 1.0), end)
    return {
        "found_first_s": found_first,
        "found_then_s": found_then,
        "used_first": used_first,
        "used_then": used_then,
        "wasted_first": wasted_first,
        "wasted_then": wasted_then,
        "wasted": use(log, first, 0.0, log[-1][0] + 1.0)[1],
    }


def found_s(log: Log, rate: float, begin: float, end: float) -> float:
    """Seconds from ``begin`` until, for a second, what is taken is within 20 % of the rate and no
    more than 5 % are refused.

    What a full bucket adds counts as taken, so more than the rate is allowed by what it holds: a
    second's worth.
    """
    at = begin
    while at + _WINDOW_S <= end:
        used, wasted = use(log, rate, at, at + _WINDOW_S)
        if used >= 80 and wasted <= WASTED_MAX:
            return max(at - begin, 0.01)
        at += 0.05
    return end - begin


def use(log: Log, rate: float, begin: float, end: float) -> tuple[float, float]:
    """Percent of the allowed requests that were made from ``begin`` to ``end``, and percent of
    the made ones that were refused.
    """
    taken = sum(1 for at, was_taken in log if was_taken and begin <= at < end)
    refused = sum(1 for at, was_taken in log if not was_taken and begin <= at < end)
    return 100 * taken / (rate * (end - begin)), max(100 * refused / max(1, taken + refused), 0.001)


def _results(what: str, measured: Sequence[Values]) -> list[Result]:
    def one(title: str, figure: str, unit: str, **bound: float | str) -> Result:
        return compare("limiter", f"{what}: {title}", unit, [v[figure] for v in measured], **bound)  # type: ignore[arg-type] - target, better

    return [
        one("until the first rate is found", "found_first_s", "s", target=FOUND_S_MAX),
        one("until the second rate is found", "found_then_s", "s", target=FOUND_S_MAX),
        one(
            "of the first rate used, once found",
            "used_first",
            "%",
            target=USED_MIN,
            better="higher",
        ),
        one(
            "of the second rate used, once found",
            "used_then",
            "%",
            target=USED_MIN,
            better="higher",
        ),
        one("refused, first rate, once found", "wasted_first", "%", target=WASTED_MAX),
        one("refused, second rate, once found", "wasted_then", "%", target=WASTED_MAX),
        one("refused, in all", "wasted", "%", target=WASTED_MAX),
    ]
