"""DVCLive: a line of a TSV file a call; DVC's own experiments and reports are off, they need a
Git repository.
"""

import csv

from dvclive import Live


def start(folder):
    live = Live(folder, save_dvc_exp=False, report=None, monitor_system=False, dvcyaml=None)

    def log(step):
        live.step = step
        live.log_metric("loss", 1.0 / (step + 1))

    return log, live.end


def found(folder):
    with open(f"{folder}/plots/metrics/loss.tsv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file, delimiter="\t") if row["loss"]]
