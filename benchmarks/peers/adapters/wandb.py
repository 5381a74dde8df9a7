"""Weights & Biases, offline: a transaction log that a process of its own (wandb-core) writes.

The log is LevelDB's log format behind a header of seven bytes; the package's own scanner is in its
Go part (``core/internal/transactionlog``).
"""

import glob
import json
import struct

import wandb
from wandb.proto import wandb_internal_pb2

_HEADER, _BLOCK, _RECORD = 7, 32_768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def start(folder):
    settings = wandb.Settings(
        console="off",
        silent=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        disable_git=True,
    )
    run = wandb.init(project="benchmark", dir=folder, mode="offline", settings=settings)
    return lambda step: run.log({"loss": 1.0 / (step + 1)}, step=step), run.finish


def found(folder):
    steps = []
    for path in glob.glob(f"{folder}/wandb/offline-run-*/*.wandb"):
        for data in _records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                values = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                if "loss" in values:
                    steps.append(int(values.get("_step", record.history.step.num)))
    return steps


def _records(path):
    """Whole records, up to the first that was cut."""
    with open(path, "rb") as file:
        data = file.read()
    place, parts = _HEADER, []
    while place + _RECORD <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or place + _RECORD + length > len(data):
            return
        parts.append(data[place + _RECORD : place + _RECORD + length])
        place += _RECORD + length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
