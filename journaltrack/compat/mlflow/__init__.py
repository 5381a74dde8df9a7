"""MLflow's own code logs into a journal: ``MLFLOW_TRACKING_URI=journaltrack:`` is all it needs.

The functions here are the entry points that MLflow loads with its client (``pyproject.toml``). They
import the rest when a URI of this scheme is used, so that nobody else pays for it.

MLflow is known in this package alone, as the extra ``mlflow``. ``addresses`` and ``state`` are
pure; ``book`` knows the journal and no MLflow; ``store`` (with ``models`` and ``entities``),
``artifacts`` and ``registry`` are MLflow's plug-ins over it.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

__all__ = ["artifact_repository", "model_registry_store", "tracking_store"]


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:  # noqa: ANN401, ARG001
    """Return the tracking store of a journal.

    Args:
        store_uri: ``journaltrack:`` for the default journal, or ``journaltrack:///path/journal``.
        artifact_uri: Not used: artifacts are in the journal.
    """
    from journaltrack.compat.mlflow.store import TrackingStore  # noqa: PLC0415 - when it is used

    return TrackingStore(store_uri)


def model_registry_store(store_uri: str, **_: object) -> Any:  # noqa: ANN401
    """Return a registry that refuses every call: a journal has none."""
    from journaltrack.compat.mlflow.registry import RegistryStore  # noqa: PLC0415 - as above

    return RegistryStore(store_uri)


def artifact_repository(artifact_uri: str, *uris: object, **options: object) -> Any:  # noqa: ANN401
    """Return the artifacts of a run, or of a logged model, in a journal."""
    from journaltrack.compat.mlflow.artifacts import ArtifactRepository  # noqa: PLC0415 - as above

    return ArtifactRepository(artifact_uri, *uris, **options)


@atexit.register
def _rest() -> None:
    """Close the journals at the end of the process.

    MLflow ends an open run at its own exit. It registers that after it has loaded the entry points,
    so that it comes before this.
    """
    book = sys.modules.get(f"{__name__}.book")
    if book is not None:
        book.rest()
