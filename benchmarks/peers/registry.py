"""Which trackers are measured, in which mode, and what their calls promise. Nothing is imported
of any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = "journaltrack"
"""The requirement that is the checkout itself."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of the table.

    Attributes:
        name: In the table and on the command line.
        adapter: The file that knows its API.
        requirement: What ``pip install`` is given; None: the standard library is enough.
        options: Handed to the adapter's functions.
        environment: Variables that keep it from a network, an account, and telemetry.
        returned: What has happened when a call returns, in a few words.
        seconds: It is given so long to start, and to read its store back.
    """

    name: str
    adapter: Path
    requirement: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    returned: str = ""
    seconds: float = 120.0


def pins(path: Path = HERE / "peers.txt") -> dict[str, str]:
    """``name==version`` of each package, by its name."""
    lines = (
        line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()
    )
    return {line.partition("==")[0]: line for line in lines if line}


def _adapter(name: str) -> Path:
    return HERE / "adapters" / f"{name}.py"


_PINNED = pins()
_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
PEERS = (
    Peer("bare sqlite3, NORMAL", _adapter("sqlite"), returned="committed, in the kernel"),
    Peer(
        "bare sqlite3, FULL",
        _adapter("sqlite"),
        options={"synchronous": "FULL"},
        returned="committed, on the disk (fsync)",
    ),
    Peer("journaltrack", _adapter("journaltrack"), OURS, returned="committed, in the kernel"),
    Peer(
        "journaltrack, power",
        _adapter("journaltrack"),
        OURS,
        {"durability": "power"},
        returned="committed, on the disk (fsync)",
    ),
    Peer(
        "dvclive",
        _adapter("dvclive"),
        _PINNED["dvclive"],
        environment={"DVC_NO_ANALYTICS": "1"},
        returned="a line of a TSV file",
    ),
    Peer(
        "aim",
        _adapter("aim"),
        _PINNED["aim"],
        environment={"__AIM_TELEMETRY_ENABLED__": "0"},
        returned="RocksDB's log, in the kernel",
    ),
    Peer(
        "neptune-scale, offline",
        _adapter("neptune_scale"),
        _PINNED["neptune-scale"],
        environment={
            "NEPTUNE_MODE": "offline",
            "NEPTUNE_API_TOKEN": "",
            "NEPTUNE_DISABLE_TELEMETRY": "true",
        },
        returned="committed, on the disk (fsync)",
    ),
    Peer(
        "mlflow, file store",
        _adapter("mlflow"),
        _PINNED["mlflow"],
        {"store": "file"},
        _MLFLOW,
        "a line of a file",
    ),
    Peer(
        "mlflow, SQLite",
        _adapter("mlflow"),
        _PINNED["mlflow"],
        {"store": "sqlite"},
        _MLFLOW,
        "committed, on the disk (fsync)",
    ),
    Peer(
        "mlflow, SQLite, asynchronous",
        _adapter("mlflow"),
        _PINNED["mlflow"],
        {"store": "sqlite", "synchronous": False},
        _MLFLOW,
        "in a queue",
    ),
    Peer(
        "wandb, offline",
        _adapter("wandb"),
        _PINNED["wandb"],
        environment={
            "WANDB_MODE": "offline",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        },
        returned="sent to its own process",
    ),
    Peer("tensorboardX", _adapter("tensorboardx"), _PINNED["tensorboardX"], returned="in a queue"),
    Peer(
        "comet, offline",
        _adapter("comet"),
        _PINNED["comet_ml"],
        environment={
            "COMET_MODE": "OFFLINE",
            "COMET_API_KEY": "none",
            "COMET_DISABLE_AUTO_LOGGING": "1",
            "COMET_LOGGING_CONSOLE": "ERROR",
            "COMET_ERROR_TRACKING_ENABLE": "0",
            "COMET_INTERNAL_SENTRY_ENABLE": "0",
        },
        returned="in a queue",
    ),
    Peer(
        "trackio",
        _adapter("trackio"),
        _PINNED["trackio"],
        environment={
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
        },
        returned="in a list in memory",
    ),
    Peer(
        "clearml, offline",
        _adapter("clearml"),
        _PINNED["clearml"],
        environment={"CLEARML_OFFLINE_MODE": "1", "CLEARML_LOG_LEVEL": "ERROR"},
        returned="in a queue",
    ),
)
"""All, ours and the floor among them, in the order of the table."""
