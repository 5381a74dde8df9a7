"""What strictly typed callers may pass: no test runs this, ``make lint`` checks it; an ignore that is not needed is an error."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from journaltrack import Tracker


@dataclass
class Settings:
    """Parameters as a dataclass."""

    lr: float = 0.1


class Writer:
    """A caller's own metrics writer, typed as the original's."""

    def log_metric(self, metric_name: str, value: float, timestamp: float | None = None, iteration_number: int | None = None) -> None:
        """Take a point."""

    def close(self) -> None:
        """Take no more."""


def train(tracker: Tracker) -> None:
    """NumPy's numbers and times, namespaces, dataclasses, pairs and own writers are taken; what raises is refused."""
    tracker.log_metric("a", np.float32(0.5), iteration_number=np.int64(3))
    tracker.log_metric("a", np.int64(5), np.datetime64("now"))
    tracker.log_metric("a", np.array([0.5]), 1_700_000_000)
    tracker.log_metrics({"a": np.float32(0.5), "b": 1}, 3, 1.7e9)
    tracker.log_metric("a", 0.5, step=np.int64(3))
    tracker.log_metrics({"a": 0.5}, step=3)
    tracker.log_parameters(argparse.Namespace(lr=0.1))
    tracker.log_parameters(Settings())
    tracker.log_parameters([("lr", 0.1)])
    tracker.log_parameters({"lr": np.float32(0.1)})
    Tracker(tracker.trial_component, Writer())
    Tracker.create(sync=False)
    tracker.log_metric("a", "0.5")  # type: ignore[arg-type]
    tracker.log_metric("a", 0.5, iteration_number="3")  # type: ignore[arg-type]
    tracker.log_metric("a", 0.5, step="3")  # type: ignore[arg-type]
    tracker.log_parameters(None)  # type: ignore[arg-type]
