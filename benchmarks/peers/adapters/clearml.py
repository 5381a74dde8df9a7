"""ClearML, offline: reports in JSON Lines in the session's folder, by a queue and a thread;
zipped at the end.
"""

import glob
import json
import os

from clearml import Task


def start(folder):
    Task.set_offline(offline_mode=True)
    task = Task.init(
        project_name="benchmark",
        task_name="benchmark",
        auto_connect_arg_parser=False,
        auto_connect_frameworks=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )
    report = task.get_logger().report_scalar
    return lambda step: report("loss", "loss", 1.0 / (step + 1), step), task.close


def found(folder):
    steps = []
    for path in glob.glob(f"{os.environ['HOME']}/.clearml/cache/offline/*/metrics.jsonl"):
        with open(path, "rb") as file:
            for line in file:
                steps += [
                    int(event["iter"]) for event in _events(line) if event.get("metric") == "loss"
                ]
    return steps


def _events(line):
    try:
        return json.loads(line)
    except ValueError:
        return []  # the last line was cut
