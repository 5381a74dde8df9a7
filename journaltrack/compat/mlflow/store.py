"""The tracking store of a journal, for MLflow's client and for its server's page.

Turn MLflow's calls into what a ``Book`` records, and what it reads into MLflow's entities. Checks
are MLflow's own, so that code which works with the journal works with a server. Two are not: values
are not cut to the lengths that a server takes, and nothing is asynchronous, since a call is done
when it returns.

Traces, prompts, evaluation datasets and the like have no place in a journal. They raise
``MlflowException`` with NOT_IMPLEMENTED, as everything does that ``AbstractStore`` leaves open.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from mlflow.entities import (
    Experiment,
    LifecycleStage,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    Run,
    RunInfo,
    RunStatus,
    ViewType,
    _DatasetSummary,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    NOT_IMPLEMENTED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.mlflow_tags import (
    MLFLOW_LOGGED_MODELS,
    MLFLOW_RUN_NAME,
    MLFLOW_USER,
)
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.search_utils import (
    SearchExperimentsUtils,
    SearchLoggedModelsUtils,
    SearchUtils,
)
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    _validate_experiment_name,
    _validate_length_limit,
    _validate_logged_model_name,
    _validate_metric,
    _validate_param_keys_unique,
    _validate_param_name,
    _validate_run_id,
    _validate_tag_name,
)

from journaltrack import limits
from journaltrack.compat.mlflow import addresses, book, entities, state
from journaltrack.compat.mlflow.entities import told_to_mlflow
from journaltrack.compat.mlflow.state import ExperimentState, RunState
from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import Draft
from journaltrack.util import paths

_MAX_RESULTS: Final = 50_000
"""MLflow's ``SEARCH_MAX_RESULTS_THRESHOLD``."""
_STEPS: Final = 2**63
_SUMMARIES_MAX: Final = 1_000
"""As many as MLflow's own stores tell of."""
_DONE: Final = RunOperations([])


class TrackingStore(AbstractStore):
    """A journal as MLflow's tracking store.

    Args:
        store_uri: ``journaltrack:`` or ``journaltrack:///path/journal``.
    """

    def __init__(self, store_uri: str) -> None:
        super().__init__()
        with told_to_mlflow():
            self._book = book.opened(paths.of_uri(store_uri))

    # -- experiments -------------------------------------------------------------------------------

    def search_experiments(
        self,
        view_type=ViewType.ACTIVE_ONLY,
        max_results=1_000,
        filter_string=None,
        order_by=None,
        page_token=None,
    ) -> PagedList:
        _check_max_results(max_results)
        known = [
            entities.experiment(self._book, each)
            for each in self._book.experiments().values()
            if view_type == ViewType.ALL or each.is_deleted == (view_type == ViewType.DELETED_ONLY)
        ]
        found = SearchExperimentsUtils.filter(known, filter_string)
        order = order_by or ["creation_time DESC", "experiment_id ASC"]
        found = SearchExperimentsUtils.sort(found, order)
        return PagedList(*SearchUtils.paginate(found, page_token, max_results))

    def create_experiment(self, name, artifact_location=None, tags=None) -> str:
        _validate_experiment_name(name)
        name = state.as_unicode(name)
        if artifact_location:
            raise _refused(
                f"an experiment with artifact_location={artifact_location!r} can't be made: "
                "the journal keeps all artifacts. No changes were made"
            )
        for tag in tags or ():
            _validate_tag_name(tag.key)
        there = self._book.experiment(shown=name)
        if there is not None and not (there.id == addresses.DEFAULT_ID and name != there.shown):
            deleted = " in deleted state" if there.is_deleted else ""
            raise MlflowException(
                f"Experiment '{name}' already exists{deleted}.", RESOURCE_ALREADY_EXISTS
            )
        with told_to_mlflow():
            return self._book.create_experiment(name, _pairs(tags)).id

    def get_experiment(self, experiment_id) -> Experiment:
        return entities.experiment(self._book, self._known(experiment_id))

    def get_experiment_by_name(self, experiment_name) -> Experiment | None:
        found = self._book.experiment(shown=state.as_unicode(str(experiment_name)))
        return None if found is None else entities.experiment(self._book, found)

    def delete_experiment(self, experiment_id) -> None:
        known = self._known(experiment_id)
        if known.id == addresses.DEFAULT_ID:
            raise _refused("the default experiment can't be deleted. No changes were made")
        if known.is_deleted:
            raise _missing(f"No active experiment with id={experiment_id}")
        self._declare(known, {}, vocabulary.DELETED)

    def restore_experiment(self, experiment_id) -> None:
        known = self._known(experiment_id)
        if not known.is_deleted:
            raise _missing(f"No deleted experiment with id={experiment_id}")
        self._declare(known, {}, LifecycleStage.ACTIVE)

    def rename_experiment(self, experiment_id, new_name) -> None:
        raise _refused(
            "an experiment can't be renamed in a journal, since recorded runs name it. No changes "
            "were made. Deliver the journal, and rename the experiment on the server"
        )

    def set_experiment_tag(self, experiment_id, tag) -> None:
        _validate_tag_name(tag.key)
        self._declare(self._active(experiment_id), _pairs([tag]))

    def delete_experiment_tag(self, experiment_id, key) -> None:
        known = self._active(experiment_id)
        if key not in known.tags:
            raise _missing(f"No tag with name: {key} in experiment with id {experiment_id}")
        self._declare(known, {key: None})

    def _declare(
        self, known: ExperimentState, tags: Mapping[str, str | None], stage: str | None = None
    ) -> None:
        with told_to_mlflow():
            self._book.declare(known, state.experiment_draft(known, tags, stage))

    def _known(self, experiment_id: object) -> ExperimentState:
        wanted = addresses.DEFAULT_ID if experiment_id is None else str(experiment_id)
        found = self._book.experiment(experiment_id=wanted)
        if found is None:
            raise _missing(f"No Experiment with id={wanted} exists")
        return found

    def _active(self, experiment_id: object) -> ExperimentState:
        known = self._known(experiment_id)
        if known.is_deleted:
            raise MlflowException(
                f"The experiment {experiment_id} must be in the 'active' lifecycle_stage.",
                INVALID_PARAMETER_VALUE,
            )
        return known

    # -- runs --------------------------------------------------------------------------------------

    def create_run(self, experiment_id, user_id, start_time, tags, run_name) -> Run:
        known = self._active(experiment_id)
        given = _pairs(tags)
        for key in given:
            _validate_tag_name(key)
        named = given.get(MLFLOW_RUN_NAME)
        run_name = state.as_unicode(run_name or "")
        if run_name and named and run_name != named:
            raise MlflowException(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with "
                f"different values (run_name='{run_name}', mlflow.runName='{named}').",
                INVALID_PARAMETER_VALUE,
            )
        if user_id:
            given.setdefault(MLFLOW_USER, user_id)
        start_ms = _checked_ms("start_time", start_time or time.time_ns() // 10**6)
        name = run_name or named or _generate_random_name()
        with told_to_mlflow():
            made = self._book.create_run(known, start_ms, given, name)
        return entities.run(self._book, made)

    def get_run(self, run_id) -> Run:
        return entities.run(self._book, self._book.state(self._read(run_id).state.name))

    def update_run_info(self, run_id, run_status, end_time, run_name) -> RunInfo:
        run = self._open(run_id)
        drafts: list[Draft] = []
        if run_status is not None:
            name = RunStatus.to_string(run_status)
            # MLflow resumes a run with the end that it had: one that goes on has none.
            is_ended = end_time is not None and RunStatus.is_terminated(run_status)
            end_ns = _checked_ms("end_time", end_time) * 10**6 if is_ended else None
            drafts.append(vocabulary.status(primary=state.STATUSES[name], end_ns=end_ns))
        if run_name:
            named = _pairs({MLFLOW_RUN_NAME: run_name})
            drafts += state.tag_drafts(named, run.state.legal_tags)
        with told_to_mlflow():
            self._book.append(run, drafts)
            if run_status is not None and RunStatus.is_terminated(run_status):
                # As the close of a tracker does: what the run has is on the disk.
                self._book.journal.flush()
        return self.get_run(run_id).info

    def delete_run(self, run_id) -> None:
        self._stage(self._open(run_id), vocabulary.DELETED)

    def restore_run(self, run_id) -> None:
        run = self._read(run_id)
        if not run.state.is_deleted:
            raise MlflowException(
                f"The run {run_id} must be in 'deleted' lifecycle_stage.", INVALID_PARAMETER_VALUE
            )
        self._stage(run, LifecycleStage.ACTIVE)

    def _stage(self, run: book.Run, stage: str) -> None:
        with told_to_mlflow():
            self._book.append(run, [vocabulary.label(vocabulary.STAGE, stage)])
            self._book.run(run.state.name)

    def _search_runs(
        self, experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
    ) -> tuple[list[Run], str | None]:
        _check_max_results(max_results)
        wanted = set(map(str, experiment_ids))
        known = []
        for each in self._book.runs():
            is_wanted = run_view_type == ViewType.ALL or each.is_deleted == (
                run_view_type == ViewType.DELETED_ONLY
            )
            if is_wanted and entities.experiment_id(each) in wanted and not _is_model(each):
                known.append(entities.run(self._book, each))
        found = SearchUtils.sort(SearchUtils.filter(known, filter_string), order_by)
        page, token = SearchUtils.paginate(found, page_token, max_results)
        return page, token

    def _read(self, run_id: object) -> book.Run:
        _validate_run_id(run_id)
        try:
            return self._book.run(str(run_id))
        except KeyError:
            raise _missing(f"Run with id={run_id} not found") from None

    def _open(self, run_id: object) -> book.Run:
        """Return a run that is not deleted."""
        run = self._read(run_id)
        if run.state.is_deleted:
            raise MlflowException(
                f"The run {run_id} must be in the 'active' state. Current state is deleted.",
                INVALID_PARAMETER_VALUE,
            )
        return run

    # -- logging -----------------------------------------------------------------------------------

    def log_metric(self, run_id, metric) -> None:
        if metric.model_id is not None or metric.dataset_name is not None:
            self.log_batch(run_id, [metric], [], [])
            return
        _check_metric(metric)
        self._live(run_id)
        with told_to_mlflow():
            self._book.log_metric(
                run_id, metric.key, metric.value, int(metric.timestamp), int(metric.step)
            )

    def log_param(self, run_id, param) -> None:
        self.log_batch(run_id, [], [param], [])

    def set_tag(self, run_id, tag) -> None:
        self.log_batch(run_id, [], [], [tag])

    def log_batch(self, run_id, metrics, params, tags) -> None:
        for metric in metrics:
            _check_metric(metric)
        for param in params:
            _validate_param_name(param.key)
            _check_length(param.key)
        for tag in tags:
            _validate_tag_name(tag.key)
            _check_length(tag.key)
        _validate_param_keys_unique(params)
        run = self._open(run_id)
        given = _pairs(params)
        points = [
            book.point_draft(
                each.key,
                each.value,
                int(each.timestamp),
                int(each.step),
                {
                    "model_id": each.model_id,
                    "dataset_name": each.dataset_name,
                    "dataset_digest": each.dataset_digest,
                },
            )
            for each in metrics
        ]

        def drafts_of(now: RunState) -> list[Draft]:
            parameters = self._parameters(run, now, given) if given else []
            return [*points, *parameters, *state.tag_drafts(_pairs(tags), now.legal_tags)]

        with told_to_mlflow():
            if given:
                self._book.change(run, list(given), drafts_of)
            elif drafts := drafts_of(run.state):
                self._book.append(run, drafts)

    def _parameters(self, run: book.Run, now: RunState, given: Mapping[str, str]) -> list[Draft]:
        """Draft parameters; as in all of MLflow's stores, none can be changed."""
        held = now.parameters
        for key, value in given.items():
            if key in held and held[key] not in {value, vocabulary.REDACTED}:
                raise MlflowException(
                    f"Changing param values is not allowed. Param with key='{key}' was already "
                    f"logged with value='{held[key]}' for run ID='{now.name}'. Attempted "
                    f"logging new value '{value}'.",
                    INVALID_PARAMETER_VALUE,
                )
        return self._book.parameter_drafts(run, given)

    def log_metric_async(self, run_id, metric) -> RunOperations:
        self.log_metric(run_id, metric)
        return _DONE

    def log_param_async(self, run_id, param) -> RunOperations:
        self.log_param(run_id, param)
        return _DONE

    def set_tag_async(self, run_id, tag) -> RunOperations:
        self.set_tag(run_id, tag)
        return _DONE

    def log_batch_async(self, run_id, metrics, params, tags) -> RunOperations:
        self.log_batch(run_id, metrics, params, tags)
        return _DONE

    def delete_tag(self, run_id, key) -> None:
        run = self._open(run_id)
        if key not in run.state.tags:
            raise _missing(f"No tag with name: {key} in run with id {run_id}")
        with told_to_mlflow():
            self._book.append(run, state.tag_drafts({key: None}, set()))

    def record_logged_model(self, run_id, mlflow_model) -> None:
        told = mlflow_model.get_tags_dict()

        def drafts_of(now: RunState) -> list[Draft]:
            before = json.loads(now.tags.get(MLFLOW_LOGGED_MODELS, "[]"))
            return state.tag_drafts({MLFLOW_LOGGED_MODELS: json.dumps([*before, told])}, set())

        with told_to_mlflow():
            self._book.change(self._open(run_id), [MLFLOW_LOGGED_MODELS], drafts_of)

    def log_inputs(self, run_id, datasets=None, models=None) -> None:
        run = self._open(run_id)
        drafts = [state.dataset(entities.told_of(each)) for each in datasets or ()]
        drafts += [
            state.document(vocabulary.MODEL_INPUT, each.model_id, {}) for each in models or ()
        ]
        with told_to_mlflow():
            self._book.append(run, drafts)

    def log_outputs(self, run_id, models) -> None:
        run = self._open(run_id)
        drafts = [
            state.document(vocabulary.MODEL_OUTPUT, each.model_id, {"step": each.step})
            for each in models or ()
        ]
        with told_to_mlflow():
            self._book.append(run, drafts)

    def _live(self, run_id: object) -> None:
        """Check that a run is there and not deleted, as far as this process has read it."""
        run = self._book.seen(str(run_id))
        if run is None or run.state.is_deleted:
            self._open(run_id)

    def get_metric_history(
        self, run_id, metric_key, max_results=None, page_token=None
    ) -> PagedList:
        self._read(run_id)
        points = [
            Metric(metric_key, each.value, each.timestamp_ms, each.step, run_id=run_id)
            for each in self._book.history(run_id, metric_key)
        ]
        if max_results is None:
            return PagedList(points, None)
        return PagedList(*SearchUtils.paginate(points, page_token, max_results))

    # -- logged models -----------------------------------------------------------------------------

    def create_logged_model(
        self,
        experiment_id=addresses.DEFAULT_ID,
        name=None,
        source_run_id=None,
        tags=None,
        params=None,
        model_type=None,
    ) -> LoggedModel:
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
                "tags": _pairs(tags),
                "params": _pairs(params),
            }
            self._book.append(run, [state.document(vocabulary.MODEL, model_id, told)])
            # Another process may have begun one of this name meanwhile: the first has the folder.
            models = self._book.state(run.state.name).told(vocabulary.MODEL)
            folder = told["folder"]
            if next(own for own, each in models if each.get("folder") == folder) != model_id:
                self._change(model_id, lambda own: own.update(folder=f"{name}-{model_id}"))
        return self.get_logged_model(model_id)

    def log_logged_model_params(self, model_id, params) -> None:
        self._change(model_id, lambda told: told["params"].update(_pairs(params)))

    def finalize_logged_model(self, model_id, status) -> LoggedModel:
        return self._change(model_id, lambda told: told.update(status=int(status.to_int())))

    def set_logged_model_tags(self, model_id, tags) -> None:
        self._change(model_id, lambda told: told["tags"].update(_pairs(tags)))

    def delete_logged_model_tag(self, model_id, key) -> None:
        if key not in self.get_logged_model(model_id).tags:
            raise _missing(f"No tag with key {key!r} found for model with ID {model_id!r}.")
        self._change(model_id, lambda told: told["tags"].pop(key, None))

    def delete_logged_model(self, model_id) -> None:
        self._change(model_id, lambda told: told.update(stage=vocabulary.DELETED))

    def get_logged_model(self, model_id, allow_deleted=False) -> LoggedModel:
        run, told = self._model_told(model_id)
        if told.get("stage") == vocabulary.DELETED and not allow_deleted:
            raise _missing(f"Logged model with ID '{model_id}' not found.")
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
            raise _missing(f"Logged model with ID '{model_id}' not found.") from None

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

    def _search_datasets(self, experiment_ids) -> list[_DatasetSummary]:
        """Return the datasets of these experiments' runs, for MLflow's page."""
        wanted = set(map(str, experiment_ids))
        found = {
            (
                entities.experiment_id(run),
                each.dataset.name,
                each.dataset.digest,
                entities.context_of(each),
            )
            for run in self._book.runs()
            if entities.experiment_id(run) in wanted
            for each in entities.datasets_of(run)
        }
        return [_DatasetSummary(*each) for each in sorted(found)[:_SUMMARIES_MAX]]

    # -- what a journal has no place for -----------------------------------------------------------

    def search_traces(self, *_: object, **__: object) -> tuple[list[Any], None]:
        """Return that there are none: MLflow's page asks for them."""
        return [], None

    def search_datasets(self, *_: object, **__: object) -> PagedList:
        """Return that there are no evaluation datasets."""
        return PagedList([], None)

    def link_traces_to_run(self, trace_ids, run_id) -> None:
        raise MlflowException("a journal has no traces; nothing was recorded", NOT_IMPLEMENTED)

    def start_trace(self, trace_info) -> None:
        self.link_traces_to_run([], "")


def _check_metric(metric: Metric) -> None:
    _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
    if not -_STEPS <= int(metric.step) < _STEPS:
        raise MlflowException(
            f"the step of metric '{metric.key}' has more than 64 bits; nothing was recorded",
            INVALID_PARAMETER_VALUE,
        )
    _checked_ms(f"timestamp of metric '{metric.key}'", metric.timestamp)


def _checked_ms(what: str, given: float) -> int:
    """Return a time in whole milliseconds."""
    if not 0 <= int(given) <= limits.JOURNAL_NS_MAX // 10**6:
        raise MlflowException(
            f"the {what} is {int(given)}: no milliseconds from 1970 to 2262; nothing was recorded",
            INVALID_PARAMETER_VALUE,
        )
    return int(given)


def _check_length(key: str) -> None:
    _validate_length_limit("key", MAX_ENTITY_KEY_LENGTH, key)


def _check_max_results(max_results: object) -> None:
    if not isinstance(max_results, int) or not 1 <= max_results <= _MAX_RESULTS:
        raise MlflowException(
            f"Invalid value {max_results} for parameter 'max_results' supplied. It must be from 1 "
            f"to {_MAX_RESULTS}",
            INVALID_PARAMETER_VALUE,
        )


def _is_model(known: RunState) -> bool:
    """Return whether a component is a logged model that no run made."""
    return known.name.startswith("m-") and f"{vocabulary.MODEL}{known.name}" in known.documents


def _pairs(items: Any) -> dict[str, Any]:  # noqa: ANN401 - lists of tags or parameters, or a dict
    if isinstance(items, dict):
        return {str(key): state.as_unicode(str(value)) for key, value in items.items()}
    pairs = ((each.key, "" if each.value is None else str(each.value)) for each in items or ())
    return {key: state.as_unicode(value) for key, value in pairs}


def _refused(text: str) -> MlflowException:
    return MlflowException(text, INVALID_STATE)


def _missing(text: str) -> MlflowException:
    return MlflowException(text, RESOURCE_DOES_NOT_EXIST)
