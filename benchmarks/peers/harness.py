"""Runs in a peer's interpreter: logs one scalar after the other, or tells which of them are in the
peer's local store.

Standard library only; knows no peer. An adapter is a file with two functions:

``start(folder, **options) -> (log, end)``
    Begins a run whose local store is in the folder; ``log(step)`` records one scalar and returns
    when the peer's call does, and ``end()`` ends the run as a script does that is not killed.
``found(folder, **options) -> steps``
    The steps that are in the store, read in a fresh process after the writer has gone.

Progress is a file of two 64-bit integers, mapped into memory so that a SIGKILL does not take it
along: how many calls have *returned*, and when the first one did (``time.monotonic_ns``, the same
clock in all processes).
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import signal
import struct
import sys
import time
from array import array
from collections.abc import Callable
from types import ModuleType
from typing import Any

LIFE_S = 900
"""A process that nobody kills ends by itself."""
PROGRESS_BYTES = 16
WARM_UP = 50

Log = Callable[[int], object]


def main(arguments: list[str]) -> None:
    """``harness.py MODE ADAPTER FOLDER RESULT ORDER``, where ORDER is a JSON object."""
    mode, adapter_path, folder, result_path, order_json = arguments
    signal.alarm(LIFE_S)
    order: dict[str, Any] = json.loads(order_json)
    adapter, options = load(adapter_path), order.pop("options", {})
    if mode == "found":
        _write(result_path, {"found": sorted(adapter.found(folder, **options))})
        return
    with open(order.pop("progress"), "r+b") as file:
        progress = mmap.mmap(file.fileno(), PROGRESS_BYTES)
    log, end = adapter.start(folder, **options)
    log(0)
    struct.pack_into("=QQ", progress, 0, 1, time.monotonic_ns())
    if mode == "latency":
        _write(result_path, latency(log, **order))
        # whoever ordered this ends it: what an orderly end takes is not measured, and some take
        # minutes
        while True:
            signal.pause()
    elif mode == "orderly":
        for step in range(1, order["calls"]):
            log(step)
        end()
    else:
        keep_logging(log, progress, **order)


def latency(log: Log, calls: int, seconds: float) -> dict[str, float]:
    """The distribution of the times of single calls in a tight loop: so many calls, or as many
    as fit into so many seconds.
    """
    clock = time.perf_counter_ns
    warm_until = clock() + int(seconds * 1e9 / 10)
    step = 1
    while step <= WARM_UP and clock() < warm_until:
        log(step)
        step += 1
    samples = array("q")
    started = clock()
    until = started + int(seconds * 1e9)
    for number in range(step, step + calls):
        before = clock()
        log(number)
        after = clock()
        samples.append(after - before)
        if after > until:
            break
    took = clock() - started
    return distribution(samples, took)


def distribution(samples: array[int], took_ns: int) -> dict[str, float]:
    """Percentiles by nearest rank from below, the slowest call, and the rate of all of them."""
    ordered = sorted(samples)
    count = len(ordered)
    return {
        "calls": count,
        "p50_us": ordered[count // 2] / 1e3,
        "p99_us": ordered[int(count * 0.99)] / 1e3,
        "p999_us": ordered[int(count * 0.999)] / 1e3,
        "max_us": ordered[-1] / 1e3,
        "calls_per_s": count / (took_ns / 1e9),
    }


def keep_logging(log: Log, progress: mmap.mmap, per_s: float = 0.0) -> None:
    """Log until killed, as fast as it goes or at an even pace; a call counts once it has
    returned.
    """
    begun = time.monotonic()
    step = 1
    while True:
        if per_s:
            time.sleep(max(0.0, begun + step / per_s - time.monotonic()))
        log(step)
        step += 1
        struct.pack_into("=Q", progress, 0, step)


def load(path: str) -> ModuleType:
    """An adapter; not found by name, which may be that of the peer's own package."""
    spec = importlib.util.spec_from_file_location("journaltrack_peer_adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write(path: str, document: dict[str, Any]) -> None:
    """Whole or not at all: the reader polls for it."""
    import os

    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(path + ".part", path)


if __name__ == "__main__":
    main(sys.argv[1:])
