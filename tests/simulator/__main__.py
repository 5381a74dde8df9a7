"""Serve the simulator from a process of its own: `python -m tests.simulator --port 0`.

Prints one JSON line with the endpoint, then serves until SIGTERM or SIGINT. With `--state FILE`
the account is read from the file when it exists and written to it at the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from tests.simulator.core import Simulator
from tests.simulator.state import state_from_json, state_to_json


def main() -> int:
    """Run until told to stop; 1 when the simulator itself failed on some request."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--max-rate", type=float)
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()

    state = None
    if options.state is not None and options.state.exists():
        state = state_from_json(json.loads(options.state.read_text()))
    sim = Simulator(
        port=options.port,
        region=options.region,
        state=state,
        latency_s=options.latency_ms / 1000,
        max_rate=options.max_rate,
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.set())
    sim.start()
    sys.stdout.write(json.dumps({"endpoint_url": sim.endpoint_url}) + "\n")
    sys.stdout.flush()
    stopping.wait()
    sim.stop()
    if options.state is not None:
        options.state.write_text(json.dumps(state_to_json(sim.state)))
    sys.stderr.write("".join(sim.bugs))
    return 1 if sim.bugs else 0


if __name__ == "__main__":
    sys.exit(main())
