"""journaltrack: an offline-first experiment tracker with the API of the SageMaker Experiments ``Tracker``.

Every call is committed to a local SQLite journal before it returns; a reconciler replays what is pending to SageMaker
and S3, and an audit says what was recorded and what arrived.

    from journaltrack import Tracker

    with Tracker.create(display_name="digits") as tracker:
        tracker.log_parameter("learning_rate", 0.01)
        tracker.log_metric("train:loss", 0.25, iteration_number=1)

Nothing heavy is imported until it is used: SQLAlchemy with ``Tracker`` or ``Journal``, boto3 with the first replay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from journaltrack import errors
from journaltrack._version import __version__

if TYPE_CHECKING:
    from journaltrack.app.composition import sync, verify
    from journaltrack.journal.journal import Journal
    from journaltrack.reports.report import audit
    from journaltrack.tracking.finish import finish
    from journaltrack.tracking.tracker import Tracker
    from journaltrack.tracking.trial_component import TrialComponent
    from journaltrack.transfer.bundle.pack import bundle
    from journaltrack.transfer.bundle.reading import open_bundle
    from journaltrack.transfer.export.exporter import export

__all__ = [
    "Journal",
    "Tracker",
    "TrialComponent",
    "__version__",
    "audit",
    "bundle",
    "errors",
    "export",
    "finish",
    "open_bundle",
    "sync",
    "verify",
]

_LAZY = {
    "Tracker": "journaltrack.tracking.tracker",
    "sync": "journaltrack.app.composition",
    "Journal": "journaltrack.journal.journal",
    "TrialComponent": "journaltrack.tracking.trial_component",
    "audit": "journaltrack.reports.report",
    "export": "journaltrack.transfer.export.exporter",
    "finish": "journaltrack.tracking.finish",
    "verify": "journaltrack.app.composition",
    "bundle": "journaltrack.transfer.bundle.pack",
    "open_bundle": "journaltrack.transfer.bundle.reading",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the module's own attributes
    """Import on first use (PEP 562)."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
