"""The tracking store of a journal, for MLflow's client and for its server's page.

Turn MLflow's calls into what a ``Book`` records, and what it reads into MLflow's entities. Checks
are MLflow's own, so that code which works with the journal works with a server. Two are not: values
are not cut to the lengths that a server takes, and nothing is asynchronous, since a call is done
when it returns.

Traces, prompts, evaluation datasets and the like have no place in a journal. What
``AbstractStore`` leaves open raises ``UnsupportedError``, and says so.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlflow.entities import (
    Experiment,
    LifecycleStage,
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
    NOT_IMPLEMENTED,
    RESOURCE_ALREADY_EXISTS,
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
    SearchUtils,
)
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    _validate_experiment_name,
    _validate_length_limit,
    _validate_metric,
    _validate_param_keys_unique,
    _validate_param_name,
    _validate_run_id,
    _validate_tag_name,
)

from journaltrack import limits
from journaltrack.compat.mlflow import addresses, book, entities, state
from journaltrack.compat.mlflow.entities import missing, pairs, refused, told_to_mlflow
from journaltrack.compat.mlflow.models import LoggedModels
from journaltrack.compat.mlflow.points import Logged
from journaltrack.compat.mlflow.state import ExperimentState, Point, RunState
from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import Draft
from journaltrack.util import paths

_MAX_RESULTS: Final = 50_000
"""MLflow's ``SEARCH_MAX_RESULTS_THRESHOLD``."""
_STEPS: Final = 2**63
_SUMMARIES_MAX: Final = 1_000
"""As many as MLflow's own stores tell of."""
_DONE: Final = RunOperations([])


class TrackingStore(LoggedModels, AbstractStore):
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
        """Return a page of the experiments that a filter finds."""
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
        """Make an experiment, and return its id."""
        _validate_experiment_name(name)
        name = state.as_unicode(name)
        if artifact_location:
            raise refused(
                f"an experiment with artifact_location={artifact_location!r} can't be made: "
                "the journal keeps all artifacts. No changes were made"
            )
        for tag in tags or ():
            _validate_tag_name(tag.key)
        was_missed = name in self._book.missed
        self._book.missed.discard(name)
        there = self._book.experiment(shown=name)
        if there is not None and was_missed and not there.is_deleted:
            # Another process made it since this one looked. MLflow's ``set_experiment`` would take
            # the error, and log into the default experiment.
            if tags:
                self._declare(there, pairs(tags))
            return there.id
        if there is not None and not (there.id == addresses.DEFAULT_ID and name != there.shown):
            deleted = " in deleted state" if there.is_deleted else ""
            raise MlflowException(
                f"Experiment '{name}' already exists{deleted}.", RESOURCE_ALREADY_EXISTS
            )
        with told_to_mlflow():
            return self._book.create_experiment(name, pairs(tags)).id

    def get_experiment(self, experiment_id) -> Experiment:
        """Return an experiment by its id."""
        return entities.experiment(self._book, self._known(experiment_id))

    def get_experiment_by_name(self, experiment_name) -> Experiment | None:
        """Return an experiment by its name; None: there is none."""
        name = state.as_unicode(str(experiment_name))
        found = self._book.experiment(shown=name)
        if found is None:
            self._book.missed.add(name)
            return None
        return entities.experiment(self._book, found)

    def delete_experiment(self, experiment_id) -> None:
        """Mark an experiment as deleted."""
        known = self._known(experiment_id)
        if known.id == addresses.DEFAULT_ID:
            raise refused("the default experiment can't be deleted. No changes were made")
        if known.is_deleted:
            raise missing(f"No active experiment with id={experiment_id}")
        self._declare(known, {}, vocabulary.DELETED)

    def restore_experiment(self, experiment_id) -> None:
        """Restore a deleted experiment."""
        known = self._known(experiment_id)
        if not known.is_deleted:
            raise missing(f"No deleted experiment with id={experiment_id}")
        self._declare(known, {}, LifecycleStage.ACTIVE)

    def rename_experiment(self, experiment_id, new_name) -> None:
        """Refuse: recorded runs name their experiment."""
        raise refused(
            "an experiment can't be renamed in a journal, since recorded runs name it. No changes "
            "were made. Deliver the journal, and rename the experiment on the server"
        )

    def set_experiment_tag(self, experiment_id, tag) -> None:
        """Set a tag of an experiment."""
        _validate_tag_name(tag.key)
        self._declare(self._active(experiment_id), pairs([tag]))

    def delete_experiment_tag(self, experiment_id, key) -> None:
        """Remove a tag of an experiment."""
        known = self._active(experiment_id)
        if key not in known.tags:
            raise missing(f"No tag with name: {key} in experiment with id {experiment_id}")
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
            raise missing(f"No Experiment with id={wanted} exists")
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
        """Begin a run."""
        known = self._active(experiment_id)
        given = pairs(tags)
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
        if user_id and user_id != entities.NOBODY:
            given.setdefault(MLFLOW_USER, user_id)
        start_ms = _checked_ms("start_time", start_time or time.time_ns() // 10**6)
        name = run_name or named or _generate_random_name()
        with told_to_mlflow():
            made = self._book.create_run(known, start_ms, given, name)
        return entities.run(self._book, made)

    def get_run(self, run_id) -> Run:
        """Return a run as it is now, whichever process recorded it."""
        return entities.run(self._book, self._book.state(self._read(run_id).state.name))

    def update_run_info(self, run_id, run_status, end_time, run_name) -> RunInfo:
        """Record a run's status, end and name. An end is on the disk when it returns."""
        run = self._open(run_id)
        drafts: list[Draft] = []
        if run_status is not None:
            name = RunStatus.to_string(run_status)
            # MLflow resumes a run with the end that it had: one that goes on has none.
            is_ended = end_time is not None and RunStatus.is_terminated(run_status)
            end_ns = _checked_ms("end_time", end_time) * 10**6 if is_ended else None
            drafts.append(vocabulary.status(primary=state.STATUSES[name], end_ns=end_ns))
        if run_name:
            named = pairs({MLFLOW_RUN_NAME: run_name})
            drafts += state.tag_drafts(named, run.state.legal_tags)
        with told_to_mlflow():
            self._book.append(run, drafts)
            if run_status is not None and RunStatus.is_terminated(run_status):
                # As the close of a tracker does: what the run has is on the disk.
                self._book.journal.flush()
        return self.get_run(run_id).info

    def delete_run(self, run_id) -> None:
        """Mark a run as deleted: a delivery deletes it at an MLflow server, too."""
        self._stage(run_id, vocabulary.DELETED)

    def restore_run(self, run_id) -> None:
        """Restore a deleted run."""
        self._stage(run_id, LifecycleStage.ACTIVE)

    def _stage(self, run_id: object, stage: str) -> None:
        run = self._read(run_id)
        # As in MLflow's own stores, that is no error.
        if run.state.is_deleted == (stage == vocabulary.DELETED):
            return
        with told_to_mlflow():
            self._book.append(run, [vocabulary.label(vocabulary.STAGE, stage)])
            self._book.run(run.state.name)

    def _search_runs(
        self, experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
    ) -> tuple[list[Run], str | None]:
        max_results = _MAX_RESULTS if max_results is None else max_results
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
            raise missing(f"Run with id={run_id} not found") from None

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
        """Record one point: the hot path."""
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
        """Record a parameter, unless the run has it with another value."""
        self.log_batch(run_id, [], [param], [])

    def set_tag(self, run_id, tag) -> None:
        """Set a tag of a run."""
        self.log_batch(run_id, [], [], [tag])

    def log_batch(self, run_id, metrics, params, tags) -> None:
        """Record points, parameters and tags: all of them, or none."""
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
        given = pairs(params)
        logged = [
            Logged(
                each.key,
                Point(int(each.step), int(each.timestamp), float(each.value)),
                each.model_id,
                each.dataset_name,
                each.dataset_digest,
            )
            for each in metrics
        ]
        with told_to_mlflow():
            points = self._book.point_drafts(run, logged)

        def drafts_of(now: RunState) -> list[Draft]:
            parameters = self._parameters(run, now, given) if given else []
            return [*points, *parameters, *state.tag_drafts(pairs(tags), now.legal_tags)]

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
        """Do what ``log_metric`` does: it is done on return."""
        self.log_metric(run_id, metric)
        return _DONE

    def log_param_async(self, run_id, param) -> RunOperations:
        """Do what ``log_param`` does: it is done on return."""
        self.log_param(run_id, param)
        return _DONE

    def set_tag_async(self, run_id, tag) -> RunOperations:
        """Do what ``set_tag`` does: it is done on return."""
        self.set_tag(run_id, tag)
        return _DONE

    def log_batch_async(self, run_id, metrics, params, tags) -> RunOperations:
        """Do what ``log_batch`` does: it is done on return."""
        self.log_batch(run_id, metrics, params, tags)
        return _DONE

    def delete_tag(self, run_id, key) -> None:
        """Remove a tag of a run."""
        run = self._open(run_id)
        if key not in run.state.tags:
            raise missing(f"No tag with name: {key} in run with id {run_id}")
        with told_to_mlflow():
            self._book.append(run, state.tag_drafts({key: None}, set()))

    def record_logged_model(self, run_id, mlflow_model) -> None:
        """Add a model to the run's history of models, as MLflow 2 does."""
        told = mlflow_model.get_tags_dict()

        def drafts_of(now: RunState) -> list[Draft]:
            before = json.loads(now.tags.get(MLFLOW_LOGGED_MODELS, "[]"))
            return state.tag_drafts({MLFLOW_LOGGED_MODELS: json.dumps([*before, told])}, set())

        with told_to_mlflow():
            self._book.change(self._open(run_id), [MLFLOW_LOGGED_MODELS], drafts_of)

    def log_inputs(self, run_id, datasets=None, models=None) -> None:
        """Record datasets and models that a run used."""
        run = self._open(run_id)
        given = [state.dataset(entities.told_of(each)) for each in datasets or ()]
        # As in MLflow's own stores, the first input of a dataset counts, with its tags.
        first = {each.name: each for each in reversed(given)}
        drafts = [each for name, each in first.items() if name not in run.state.documents]
        drafts += [
            state.document(vocabulary.MODEL_INPUT, each.model_id, {}) for each in models or ()
        ]
        with told_to_mlflow():
            self._book.append(run, drafts)

    def log_outputs(self, run_id, models) -> None:
        """Record models that a run made."""
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
        """Return a page of a metric's points, in the order of recording."""
        self._read(run_id)
        points = [
            Metric(metric_key, each.value, each.timestamp_ms, each.step, run_id=run_id)
            for each in self._book.history(run_id, metric_key)
        ]
        if max_results is None:
            return PagedList(points, None)
        return PagedList(*SearchUtils.paginate(points, page_token, max_results))

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
        """Refuse: a journal has no traces."""
        raise UnsupportedError("link_traces_to_run")

    def start_trace(self, trace_info) -> None:
        """Refuse: a journal has no traces."""
        raise UnsupportedError("start_trace")


class UnsupportedError(MlflowException, NotImplementedError):
    """A journal has no place for what MLflow's code asks for. MLflow handles either base."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: a journal has no place for this, so nothing was recorded. It keeps "
            "experiments, runs and logged models. For traces, prompts, evaluation datasets and "
            "the like, set the tracking URI to an MLflow server",
            NOT_IMPLEMENTED,
        )


def _or_refused(name: str, inherited: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that says what it means where MLflow's raises a bare error."""

    @functools.wraps(inherited)
    def call(*args: object, **kwargs: object) -> Any:  # noqa: ANN401 - whatever MLflow's returns
        try:
            return inherited(*args, **kwargs)
        except NotImplementedError as error:
            raise UnsupportedError(name) from error

    return call


for _class in AbstractStore.__mro__[:-1]:
    for _name, _method in vars(_class).items():
        is_open = getattr(TrackingStore, _name) is _method
        if is_open and inspect.isfunction(_method) and not inspect.iscoroutinefunction(_method):
            setattr(TrackingStore, _name, _or_refused(_name, _method))


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
