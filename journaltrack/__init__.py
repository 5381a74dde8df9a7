"""Track experiments offline first, with the API of SageMaker Experiments' ``Tracker``.

Every call is committed to a local SQLite journal before it returns. A sync delivers what is pending
to SageMaker and S3, and an audit says what was recorded and what arrived.

    from journaltrack import Tracker

    with Tracker.create(display_name="digits") as tracker:
        tracker.log_parameter("learning_rate", 0.01)
        tracker.log_metric("train:loss", 0.25, step=1)

The public API is the names in ``__all__``, and the modules ``journaltrack.errors``,
``journaltrack.types`` (annotations for what the functions return) and ``journaltrack.testing``
(for your own tests). Everything else is internal and may change in any release.
docs/python-api.md describes the public API.

Heavy imports wait until they are used: boto3 comes with the first delivery.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from journaltrack import errors
from journaltrack._version import __version__

if TYPE_CHECKING:
    from journaltrack.app.api import check, export_dataset, prune, resolve, retry, sync, verify
    from journaltrack.journal.journal import Journal
    from journaltrack.readmodel.model import runs
    from journaltrack.reports.report import audit
    from journaltrack.reports.status import status
    from journaltrack.tracking.finish import finish
    from journaltrack.tracking.tracker import Tracker
    from journaltrack.tracking.trial_component import TrialComponent
    from journaltrack.tracking.validation import JournaltrackWarning
    from journaltrack.transfer.bundle.pack import bundle
    from journaltrack.transfer.bundle.unpack import open_bundle
    from journaltrack.transfer.export.exporter import export
    from journaltrack.transfer.merge import merge
    from journaltrack.transfer.receipts import export_receipts, import_receipts

__all__ = [
    "Journal",
    "JournaltrackWarning",
    "Tracker",
    "TrialComponent",
    "__version__",
    "audit",
    "bundle",
    "check",
    "errors",
    "export",
    "export_dataset",
    "export_receipts",
    "finish",
    "import_receipts",
    "merge",
    "open_bundle",
    "prune",
    "resolve",
    "retry",
    "runs",
    "status",
    "sync",
    "verify",
]

_LAZY = {
    **dict.fromkeys(
        ("check", "export_dataset", "prune", "resolve", "retry", "sync", "verify"),
        "journaltrack.app.api",
    ),
    "Journal": "journaltrack.journal.journal",
    "JournaltrackWarning": "journaltrack.tracking.validation",
    "Tracker": "journaltrack.tracking.tracker",
    "TrialComponent": "journaltrack.tracking.trial_component",
    "audit": "journaltrack.reports.report",
    "bundle": "journaltrack.transfer.bundle.pack",
    "export": "journaltrack.transfer.export.exporter",
    "export_receipts": "journaltrack.transfer.receipts",
    "finish": "journaltrack.tracking.finish",
    "import_receipts": "journaltrack.transfer.receipts",
    "merge": "journaltrack.transfer.merge",
    "open_bundle": "journaltrack.transfer.bundle.unpack",
    "runs": "journaltrack.readmodel.model",
    "status": "journaltrack.reports.status",
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
    """Return the public names."""
    return sorted(__all__)
