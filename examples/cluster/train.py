"""A training that a scheduler may stop, kill and start again on another node.

    SHARED=/shared/me sbatch slurm.sh
    SHARED=/shared/me sbatch --array=0-2 slurm.sh
    SHARED=/shared/me sbatch slurm_torchrun.sh

``resume=True`` without a name is the job's own run. Started again on another node, it continues
from the mirror, without a network. A real training reads its checkpoint, too.
"""

from __future__ import annotations

import os
import time

from journaltrack import Tracker

STEPS = int(os.environ.get("STEPS", "100"))
STEP_S = float(os.environ.get("STEP_S", "0.01"))
RANK = int(os.environ.get("RANK", "0"))
NAME = f"rank-{RANK}:loss"


def main() -> None:
    """Train what is left to train."""
    with Tracker.create(resume=True, sigterm="stop") as tracker:
        known = {each.metric_name: each.count for each in tracker.trial_component.metrics}
        for step in range(known.get(NAME, 0), STEPS):
            time.sleep(STEP_S)
            tracker.log_metric(NAME, 1 / (step + 1), iteration_number=step)


if __name__ == "__main__":
    main()
