"""The logged models of a journal: documents of the runs that made them.

``LoggedModels`` is a part of the store. A model's files are below its name in its run; one that no
run made has a component of its own.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.search_utils import SearchLoggedModelsUtils
from mlflow.utils.validation import _validate_logged_model_name

from journaltrack.compat.mlflow import addresses, entities, state
from journaltrack.compat.mlflow.entities import missing, pairs, told_to_mlflow
from journaltrack.journal import vocabulary

if TYPE_CHECKING:
    from journaltrack.compat.mlflow import book
    from journaltrack.compat.mlflow.state import ExperimentState, RunState
    from journaltrack.journal.vocabulary import Draft


class LoggedModels:
    """MLflow's methods for logged models. Mixed into the store, which has the rest."""

    # The store's.
    _book: book.Book
    _open: Callable[[object], book.Run]
    _active: Callable[[object], ExperimentState]

    def create_logged_model(
        self,
        experiment_id=addresses.DEFAULT_ID,
        name=None,
        source_run_id=None,
        tags=None,
        params=None,
        model_type=None,
    ) -> LoggedModel:
        """Begin a logged model. Its files go below its name in its run."""
        _validate_logged_model_name(name)
        known = self._active(experiment_id)
        name = name or _generate_random_name()
        model_id = f"m-{uuid.uuid4().hex}"
        now_ms = time.time_ns() // 10**6
        with told_to_mlflow():
            run = (
                self._open(source_run_id)
                if source_run_id
                else self._book.begin_model(model_id, known, name)
            )
            known_models = self._book.state(run.state.name).told(vocabulary.MODEL)
            taken = {told.get("folder") for _, told in known_models}
            told = {
                "name": name,
                "folder": name if name not in taken else f"{name}-{model_id}",
                "experiment_id": known.id,
                "source_run_id": source_run_id,
                "model_type": model_type,
                "status": int(LoggedModelStatus.PENDING.to_int()),
                "created_ms": now_ms,
                "updated_ms": now_ms,
                "tags": pairs(tags),
                "params": pairs(params),
            }
            self._book.append(run, [state.document(vocabulary.MODEL, model_id, told)])
            # Another process may have begun one of this name meanwhile: the first has the folder.
            models = self._book.state(run.state.name).told(vocabulary.MODEL)
            folder = told["folder"]
            if next(own for own, each in models if each.get("folder") == folder) != model_id:
                self._change(model_id, lambda own: own.update(folder=f"{name}-{model_id}"))
        return self.get_logged_model(model_id)

    def log_logged_model_params(self, model_id, params) -> None:
        """Set parameters of a logged model."""
        self._change(model_id, lambda told: told["params"].update(pairs(params)))

    def finalize_logged_model(self, model_id, status) -> LoggedModel:
        """Set the status of a logged model."""
        return self._change(model_id, lambda told: told.update(status=int(status.to_int())))

    def set_logged_model_tags(self, model_id, tags) -> None:
        """Set tags of a logged model."""
        self._change(model_id, lambda told: told["tags"].update(pairs(tags)))

    def delete_logged_model_tag(self, model_id, key) -> None:
        """Remove a tag of a logged model."""
        if key not in self.get_logged_model(model_id).tags:
            raise missing(f"No tag with key {key!r} found for model with ID {model_id!r}.")
        self._change(model_id, lambda told: told["tags"].pop(key, None))

    def delete_logged_model(self, model_id) -> None:
        """Mark a logged model as deleted."""
        self._change(model_id, lambda told: told.update(stage=vocabulary.DELETED))

    def get_logged_model(self, model_id, allow_deleted=False) -> LoggedModel:
        """Return a logged model by its id."""
        run, told = self._model_told(model_id)
        if told.get("stage") == vocabulary.DELETED and not allow_deleted:
            raise missing(f"Logged model with ID '{model_id}' not found.")
        return entities.model(self._book, model_id, run.state, told)

    def search_logged_models(
        self,
        experiment_ids,
        filter_string=None,
        datasets=None,
        max_results=None,
        order_by=None,
        page_token=None,
    ) -> PagedList:
        """Return a page of the logged models that a filter finds."""
        if datasets and not all(each.get("dataset_name") for each in datasets):
            raise MlflowException(
                "`dataset_name` in the `datasets` clause must be specified.",
                INVALID_PARAMETER_VALUE,
            )
        wanted = set(map(str, experiment_ids))
        known = []
        for run in self._book.runs():
            for model_id, told in run.told(vocabulary.MODEL):
                is_deleted = told.get("stage") == vocabulary.DELETED
                if str(told.get("experiment_id")) in wanted and not is_deleted:
                    # A document that can't be read hides no other.
                    with contextlib.suppress(ValueError, TypeError, AttributeError):
                        known.append(entities.model(self._book, model_id, run, told))
        found = SearchLoggedModelsUtils.filter_logged_models(known, filter_string, datasets)
        found = SearchLoggedModelsUtils.sort(found, order_by)
        page = SearchLoggedModelsUtils.paginate(found, page_token, max_results or 100)
        return PagedList(*page)

    def _model_told(self, model_id: str) -> tuple[book.Run, dict[str, Any]]:
        try:
            run = self._book.run_of_model(model_id)
            return run, dict(self._book.state(run.state.name).told(vocabulary.MODEL))[model_id]
        except KeyError:
            raise missing(f"Logged model with ID '{model_id}' not found.") from None

    def _change(self, model_id: str, change: Any) -> LoggedModel:  # noqa: ANN401 - of its document
        run, _ = self._model_told(model_id)

        def drafts_of(now: RunState) -> list[Draft]:
            told = dict(now.told(vocabulary.MODEL))[model_id]
            change(told)
            told["updated_ms"] = time.time_ns() // 10**6
            return [state.document(vocabulary.MODEL, model_id, told)]

        with told_to_mlflow():
            self._book.change(run, [f"{vocabulary.MODEL}{model_id}"], drafts_of)
        return self.get_logged_model(model_id, allow_deleted=True)
