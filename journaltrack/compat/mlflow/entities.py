"""Turn what a journal has into MLflow's entities, and what it refuses into MLflow's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    ExperimentTag,
    InputTag,
    LifecycleStage,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelTag,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_USER

from journaltrack.compat.mlflow import addresses, book, state
from journaltrack.compat.mlflow.book import Book
from journaltrack.compat.mlflow.state import ExperimentState, RunState
from journaltrack.errors import JournaltrackError
from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import DATASET

NOBODY: Final = "unknown"
"""The user of a run that names none, as MLflow's client says."""


@contextlib.contextmanager
def told_to_mlflow() -> Iterator[None]:
    """Raise our errors as MLflow's, which its code expects."""
    try:
        yield
    except JournaltrackError as error:
        text = f"{error.message}. {error.hint}" if error.hint else error.message
        is_input = isinstance(error, ValueError)
        code = INVALID_PARAMETER_VALUE if is_input else INTERNAL_ERROR
        raise MlflowException(text, error_code=code) from error


def opened(journal: str | None) -> Book:
    """Return the book of a journal.

    Raises:
        MlflowException: It can't be opened.
    """
    with told_to_mlflow():
        return book.opened(journal)


def experiment(held: Book, known: ExperimentState) -> Experiment:
    """Return an experiment."""
    return Experiment(
        known.id,
        known.shown,
        addresses.artifact_uri(held.path, f"experiment-{known.id}"),
        LifecycleStage.DELETED if known.is_deleted else LifecycleStage.ACTIVE,
        tags=[ExperimentTag(*tag) for tag in known.tags.items()],
        creation_time=known.created_ns // 10**6,
        last_update_time=known.changed_ns // 10**6,
    )


def run(held: Book, known: RunState) -> Run:
    """Return a run. Its metrics are read when somebody asks for them."""
    info = RunInfo(
        run_id=known.name,
        run_name=known.run_name,
        experiment_id=experiment_id(known),
        user_id=known.tags.get(MLFLOW_USER, NOBODY),
        status=known.status_name,
        start_time=known.start_ms,
        end_time=known.end_ms,
        lifecycle_stage=LifecycleStage.DELETED if known.is_deleted else LifecycleStage.ACTIVE,
        artifact_uri=addresses.artifact_uri(held.path, known.name),
    )
    datasets = datasets_of(known)
    inputs = [LoggedModelInput(model_id) for model_id, _ in known.told(vocabulary.MODEL_INPUT)]
    outputs = [
        LoggedModelOutput(model_id, int(told.get("step") or 0))
        for model_id, told in known.told(vocabulary.MODEL_OUTPUT)
    ]
    return Run(info, Data(held, known), RunInputs(datasets, inputs), RunOutputs(outputs))


def model(held: Book, model_id: str, source: RunState, told: Mapping[str, Any]) -> LoggedModel:
    """Return a logged model of a run, of its document."""
    metrics = [
        Metric(
            each.name,
            each.point.value,
            each.point.timestamp_ms,
            each.point.step,
            model_id=model_id,
            dataset_name=each.dataset_name,
            dataset_digest=each.dataset_digest,
            run_id=each.run_id,
        )
        for each in held.of_model(model_id)
    ]
    return LoggedModel(
        experiment_id=str(told.get("experiment_id")),
        model_id=model_id,
        name=str(told.get("name")),
        artifact_location=addresses.artifact_uri(held.path, source.name, str(told.get("folder"))),
        creation_timestamp=int(told.get("created_ms") or 0),
        last_updated_timestamp=int(told.get("updated_ms") or 0),
        model_type=told.get("model_type"),
        source_run_id=told.get("source_run_id"),
        status=int(told.get("status") or 0),
        tags=[LoggedModelTag(*each) for each in told.get("tags", {}).items()],
        params=[LoggedModelParameter(*each) for each in told.get("params", {}).items()],
        metrics=metrics,
    )


class Data(RunData):
    """What a run has. Its metrics are read when somebody asks: that reads all points once."""

    def __init__(self, held: Book, known: RunState) -> None:
        self._book, self._run_id = held, known.name
        # MLflow's class sets metrics: the setters below take them for nothing.
        self._points: list[Metric] | None = []
        super().__init__(
            None,
            [Param(*each) for each in known.parameters.items()],
            [RunTag(*each) for each in known.tags.items()],
        )
        self._points = None

    @property
    def _metric_objs(self) -> list[Metric]:
        if self._points is None:
            self._points = [
                Metric(name, each.value, each.timestamp_ms, each.step, run_id=self._run_id)
                for name, each in self._book.latest(self._run_id).items()
            ]
        return self._points

    @_metric_objs.setter
    def _metric_objs(self, _: object) -> None:
        """Nothing: they are read."""

    @property
    def _metrics(self) -> dict[str, float]:
        return {each.key: each.value for each in self._metric_objs}

    @_metrics.setter
    def _metrics(self, _: object) -> None:
        """Nothing: they are read."""


def experiment_id(known: RunState) -> str:
    """Return the id of a run's experiment."""
    return addresses.experiment_id(known.experiment or addresses.DEFAULT)


def told_of(each: DatasetInput) -> dict[str, Any]:
    """Return the document of a dataset input."""
    held = dict(each.dataset).items()
    return {
        "dataset": {key: state.as_unicode(value) for key, value in held if value is not None},
        "tags": [{"key": tag.key, "value": state.as_unicode(tag.value)} for tag in each.tags],
    }


def datasets_of(known: RunState) -> list[DatasetInput]:
    """Return the dataset inputs of a run. Those that can't be read are passed over."""
    found = []
    for _, told in known.told(DATASET):
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            tags = [InputTag(str(each["key"]), str(each["value"])) for each in told["tags"]]
            found.append(DatasetInput(Dataset.from_dictionary(told["dataset"]), tags))
    return found


def context_of(each: DatasetInput) -> str:
    """Return what a dataset was used for."""
    return next((tag.value for tag in each.tags if tag.key == MLFLOW_DATASET_CONTEXT), "")


def pairs(items: Any) -> dict[str, Any]:  # noqa: ANN401 - lists of tags or parameters, or a dict
    """Return tags or parameters as texts by key."""
    if isinstance(items, dict):
        return {str(key): state.as_unicode(str(value)) for key, value in items.items()}
    found = ((each.key, "" if each.value is None else str(each.value)) for each in items or ())
    return {key: state.as_unicode(value) for key, value in found}


def refused(text: str) -> MlflowException:
    """Return the error of what a journal can't do."""
    return MlflowException(text, INVALID_STATE)


def missing(text: str) -> MlflowException:
    """Return the error of what is not there."""
    return MlflowException(text, RESOURCE_DOES_NOT_EXIST)
