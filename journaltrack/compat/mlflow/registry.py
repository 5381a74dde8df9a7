"""The model registry that a journal does not have: every call refuses, and says what to do."""

from __future__ import annotations

from typing import Any, NoReturn

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import NOT_IMPLEMENTED
from mlflow.store.model_registry.abstract_store import AbstractStore


def _refusal(name: str) -> Any:  # noqa: ANN401 - a method of any signature
    def refuse(*_: object, **__: object) -> NoReturn:
        raise MlflowException(
            f"{name}: a journal has no model registry, so nothing was registered. The model itself "
            "is recorded if it was logged. Deliver the journal to an MLflow server with "
            "`journaltrack sync --to`, and register it there, or set MLFLOW_REGISTRY_URI",
            error_code=NOT_IMPLEMENTED,
        )

    refuse.__name__ = name
    refuse.__doc__ = "Refuse: see the module."
    return refuse


class RegistryStore(AbstractStore):
    """Refuses what MLflow's registry can do. Searches find nothing: MLflow's page asks for them."""

    def search_registered_models(self, *_: object, **__: object) -> Any:  # noqa: ANN401
        """Return that there are none."""
        from mlflow.store.entities.paged_list import PagedList  # noqa: PLC0415 - few need it

        return PagedList([], None)

    search_model_versions = search_registered_models


for _name in [name for name in vars(AbstractStore) if not name.startswith("_")]:
    if _name not in vars(RegistryStore) and callable(getattr(AbstractStore, _name)):
        setattr(RegistryStore, _name, _refusal(_name))
