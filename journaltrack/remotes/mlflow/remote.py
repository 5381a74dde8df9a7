"""An MLflow tracking server as a remote.

A trial component is a run, a trial a tag of it, an experiment an experiment. A run is found by two
tags that its creation sets: the component's name, and the owner, which no other journal has. MLflow
makes a second run when a creation is sent twice. So a creation looks first, and a run that was made
twice all the same (the first answer was lost, and came into effect late) is deleted when the next
look finds both: points go only to a run whose creation was answered, and they mark it.

A parameter can't be changed there. The value that is sent first is the parameter. A later one is
the tag ``journaltrack.parameter.NAME``, which counts. With ``last_parameters``, each is that tag
until the run ended, and then becomes the parameter. Status, message and times are kept whole in
one tag, since MLflow keeps no message, and no second start.

Must not know HTTP, or the journal's tables.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import (
    AlreadyExistsError,
    ComponentMissingError,
    ErrorKind,
    RemoteError,
)
from journaltrack.journal.fold import Artifact, Status, merge_status
from journaltrack.journal.groups import Declared, Group, GroupKind, named_trial
from journaltrack.journal.vocabulary import DATASET, DELETED, LAST_LABELS, RUN_NAME, STAGE
from journaltrack.remotes.mlflow import names, told_as
from journaltrack.remotes.mlflow.artifacts import Artifacts
from journaltrack.remotes.mlflow.experiments import EXISTS, PAGE, Experiments, pages
from journaltrack.remotes.mlflow.lacking import Lacking
from journaltrack.remotes.mlflow.models import MODEL_IDS, Models, Source
from journaltrack.remotes.mlflow.parents import Parents
from journaltrack.replay.evidence.gone import REMEDY
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from journaltrack.replay.remote import (
    Answer,
    BlobUpload,
    Capabilities,
    RemoteComponent,
    RemoteObject,
)

if TYPE_CHECKING:
    from journaltrack.remotes.mlflow.http import Http
    from journaltrack.replay.remote import Remote

logger = logging.getLogger(__name__)

EXPERIMENT: Final = "journaltrack"
"""The experiment of runs that name none."""
POINTS_MAX: Final = 999
"""One less than MLflow takes in a request: the first one has a tag beside the points."""
NAMES_MAX: Final = 100
"""Names in a request: servers before 2026-02 may fail when more come again (mlflow#20807)."""
IN_FLIGHT_MAX: Final = 8
"""Ours: a server with SQLite takes one batch at a time, and the last of many would time out."""
ITEMS_MAX: Final = 100
"""Parameters, or tags, in a request."""
_SEARCHED: Final = re.compile(r"[\w .:/@+-]{1,256}", re.ASCII)
"""An owner as a filter can name it. Ours are UUIDs."""
_POINTS_PAGE: Final = 25_000
_MS: Final = 1_000_000
_IN: Final = "INVALID_PARAMETER_VALUE"


@dataclass(slots=True)
class _Run:
    """A run that was found.

    ``marked``: it has the tag ``DELIVERED``.
    """

    id: str
    experiment_id: str
    artifacts: str
    marked: bool = False


class MlflowRemote(Lacking):
    """Implements ``journaltrack.replay.remote.Remote``. Threads may share it.

    Args:
        http: The server.
        owners: The owner by component, in lower case, of those that a journal made for itself
            alone. Others are found by their name.
        experiment: Of runs that name none.
        bucket: Makes the remote that writes to S3, when it is first needed.
        creates: Whether to create experiments that are missing.
        last_parameters: Whether parameters are tags until the run ended.
        presigned: Whether the server signs uploads to S3, see ``Artifacts``. It signs none to
            where it keeps models.
        models: The journal's logged models, see ``Models``.
    """

    can = Capabilities(
        service="MLflow",
        points_max=POINTS_MAX,
        names_max=NAMES_MAX,
        repeatable=True,
        reads_points=True,
        in_flight_max=IN_FLIGHT_MAX,
        time_ns=_MS,
        any_time=True,
        keys_max={},
        refuses=names.refuses,
        held=names.text_of,
        held_point=names.held_point,
        told=names.told,
        parameters_file=False,
        note_tag=told_as.NOTE,
        labels=told_as.has_label,
        by_name=True,
        in_experiments=True,
        lineage=False,
        documents=False,
    )

    def __init__(
        self,
        http: Http,
        *,
        owners: Mapping[str, str],
        bucket: Callable[[], Remote],
        experiment: str = EXPERIMENT,
        creates: bool = True,
        last_parameters: bool = False,
        presigned: bool = False,
        models: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> None:
        self._last_parameters = last_parameters
        self._http = http
        self._owners = owners
        self._default = experiment
        self._artifacts = Artifacts(http, bucket, presigned=presigned)
        self._lock = threading.Lock()
        self._locks: dict[str, threading.RLock] = defaultdict(threading.RLock)
        self._runs: dict[str, _Run] = {}
        self._experiments = Experiments(http, creates=creates)
        self._parents = Parents(http, self._experiments.ids, self._id_of, owners)
        self._models = Models(http, self._experiments.ids, models or {}, takes_files=not presigned)
        # Components whose creation was sent without an answer.
        self._unclear: set[str] = set()
        # Runs that are deleted since the journal says so.
        self._deleted: dict[str, str] = {}
        # Those of them that are restored for a request.
        self._restored: set[str] = set()

    def close(self) -> None:
        """Close the connections. First delete what a lost answer may have made twice."""
        for name in sorted(self._unclear):
            with contextlib.suppress(RemoteError):
                self._search(name)
        with contextlib.suppress(RemoteError):
            self._models.close()
        self._http.close()

    # -- runs -------------------------------------------------------------------------------------

    def describe(self, component: str) -> RemoteComponent | None:
        """Read the run, without its points."""
        run = self._find(component)
        if run is None:
            return None
        try:
            told = self._read(run)
        except ComponentMissingError:
            told = None
        if told is None or not told_as.is_there(told):
            self._forget(component)
            return None
        return told_as.component_of(component, told, f"{self._http.server.base}/#/experiments/")

    def create(self, spec: ComponentSpec) -> Answer:
        """Create the run, unless it is there."""
        if problem := limits.name_problem(spec.name, "trial component name"):
            raise RemoteError(problem, kind=ErrorKind.PERMANENT, code=_IN)
        if not _SEARCHED.fullmatch(spec.owner):
            # The run would never be found again, and made once more by each pass.
            text = f"the owner {limits.shown(spec.owner)} can't be searched for in MLflow"
            raise RemoteError(text, kind=ErrorKind.PERMANENT, code=_IN)
        key = spec.name.lower()
        with self._of(key):
            # Also before another attempt: the one before may have taken effect.
            if self._find(spec.name) is not None:
                raise AlreadyExistsError(
                    f"a run of {spec.name} is there", kind=ErrorKind.HOLD, code=EXISTS
                )
            started_ns = time.time_ns() if spec.start_ns is None else spec.start_ns
            tags = {names.tag(k): v for k, v in spec.tags} | {
                told_as.COMPONENT: key,
                told_as.OWNER: spec.owner,
                told_as.ASKED: str(time.time_ns()),
                f"{names.OURS}name": spec.name,
            }
            if spec.display_name is not None:
                tags[told_as.DISPLAY_NAME] = spec.display_name
            content = {
                "experiment_id": self._experiments.id_of(spec.experiment or self._default),
                "start_time": started_ns // _MS,
                "run_name": spec.display_name or spec.name,
                "tags": told_as.pairs(tags),
            }
            try:
                made = self._http.post("runs/create", content, "run")
            except RemoteError as error:
                if error.maybe_applied:
                    self._unclear.add(key)
                raise
            run = self._known(key, made["run"])
            return Answer(arn=self._uri(run))

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Note the trial in a tag. A run can't leave the experiment that it was made in."""
        name = named_trial(experiment, trial)
        self._set(component, {f"{told_as.TRIAL}{names.spelled(name)}": experiment or name})
        return Answer()

    def disassociate(self, component: str, trial: str) -> Answer:
        """Remove the trial's tag."""
        run = self._run(component)
        wanted = trial.lower()
        for key in told_as.tags_in(self._read(run)):
            if (
                key.startswith(told_as.TRIAL)
                and names.read(key.removeprefix(told_as.TRIAL)).lower() == wanted
            ):
                with contextlib.suppress(ComponentMissingError):
                    self._http.post("runs/delete-tag", {"run_id": run.id, "key": key})
        return Answer()

    def trials(self, component: str) -> frozenset[str] | None:
        """Read them from the tags."""
        run = self._find(component)
        if run is None:
            return None
        begin = len(told_as.TRIAL)
        held = (key for key in told_as.tags_in(self._read(run)) if key.startswith(told_as.TRIAL))
        return frozenset(names.read(key[begin:]).lower() for key in held)

    def add_tags(self, component: str, tags: Mapping[str, str | None]) -> Answer:
        """Set the tags, and what is told by labels.

        These are dataset inputs, the parent run, logged models, and whether the run is deleted.
        """
        run = self._run(component)
        given = {key: value for key, value in tags.items() if value is not None}
        last = {k: given.pop(k) for k in list(given) if k.startswith(LAST_LABELS)}
        if last:
            self._tell_last(component, run, last)
            if not given:
                return Answer()
        datasets = [given.pop(key) for key in list(given) if key.startswith(DATASET)]
        wanted = {names.tag(key): value for key, value in given.items()}
        if told_as.PARENT in wanted:
            wanted |= self._parents.tags(wanted[told_as.PARENT])
        self._send(component, run, {}, wanted)
        self._parents.look_again(run.id, wanted)
        # Each run of MLflow's code has it from its beginning.
        if RUN_NAME in wanted:
            self._parents.adopt(component, run.id)
        for key in (names.tag(key) for key, value in tags.items() if value is None):
            # It may be gone already.
            with contextlib.suppress(ComponentMissingError):
                self._http.post("runs/delete-tag", {"run_id": run.id, "key": key})
        if datasets:
            content = {"run_id": run.id, "datasets": [json.loads(each) for each in datasets]}
            self._about(component, lambda: self._http.post("runs/log-inputs", content))
        return Answer()

    def _tell_last(self, component: str, run: _Run, labels: dict[str, str]) -> None:
        """Complete the run's models. Delete or restore it: a tag says that the journal does."""
        stage = labels.pop(STAGE, None)
        told = self._about(component, lambda: self._read(run))
        is_deleted = told["info"].get("lifecycle_stage") == DELETED
        if is_deleted and stage == DELETED:
            return
        if is_deleted and stage is not None:
            self._deleted.pop(component.lower(), None)
            self._restored.discard(component.lower())
            self._http.post("runs/restore", {"run_id": run.id})
        source = Source(run.id, run.experiment_id)
        self._about(component, lambda: self._models.tell(source, labels, told))
        if stage is not None:
            self._send(component, run, {}, {told_as.STAGED: stage})
        if stage == DELETED:
            self._deleted[component.lower()] = run.id
            self._about(component, lambda: self._http.post("runs/delete", {"run_id": run.id}))

    def tags(self, component: str) -> Mapping[str, str] | None:
        """Read the tags that are not journaltrack's."""
        run = self._find(component)
        if run is None:
            return None
        held = told_as.tags_in(self._read(run))
        if told_as.PARENT in held:
            with contextlib.suppress(ComponentMissingError):
                parent = self._http.get("runs/get", "run", run_id=held[told_as.PARENT])["run"]
                own = told_as.tags_in(parent).get(f"{names.OURS}name")
                held[told_as.PARENT] = own or held[told_as.PARENT]
        kept = told_as.kept_names(held)
        return {names.read(k, kept): v for k, v in held.items() if not k.startswith(names.OURS)}

    def update(self, component: str, fields: Fields) -> Answer:
        """Set parameters, references and status."""
        run = self._run(component)
        told = self._about(component, lambda: self._read(run))
        status = fields.status
        merged = _merged(told_as.status_in(told), status)
        tags, parameters = self._parameters(fields.parameters, told, merged)
        for begin, artifacts in (
            (told_as.INPUT, fields.input_artifacts),
            (told_as.OUTPUT, fields.output_artifacts),
        ):
            for name, artifact in artifacts.items():
                tags |= told_as.long_name(name) | {
                    told_as.key_of(begin, name): told_as.artifact_text(artifact)
                }
        if status is not None and merged is not None:
            tags[told_as.STATUS] = told_as.status_text(merged)
        self._send(component, run, parameters, tags)
        if fields.input_artifacts:
            self._inputs(component, run, fields.input_artifacts)
        if status is not None and (primary := names.status_of(status.primary)) is not None:
            content: dict[str, Any] = {"run_id": run.id, "status": primary}
            if names.ended(status):
                ended_ns = time.time_ns() if status.end_ns is None else status.end_ns
                content["end_time"] = ended_ns // _MS
            self._about(component, lambda: self._http.post("runs/update", content, "run_info"))
        return Answer(arn=self._uri(run))

    def _parameters(
        self,
        wanted: Mapping[str, str | float],
        told: Mapping[str, Any],
        status: Status | None,
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return the tags and the parameters that give a run these parameters."""
        held, there = told_as.tags_in(told), told_as.parameters_in(told)
        if not self._last_parameters:
            return told_as.parameters_to_send(wanted, there, held)
        begin, kept = told_as.PARAMETER, told_as.kept_names(held)
        tags: dict[str, str] = {}
        parameters: dict[str, str] = {}
        is_over = status is not None and names.ended(status)
        if is_over:
            waiting = {
                names.read(key.removeprefix(begin), kept): text
                for key, text in held.items()
                if key.startswith(begin)
            }
            tags, parameters = told_as.parameters_to_send({**waiting, **wanted}, there, held)
        for name, value in wanted.items():
            key = told_as.key_of(begin, name)
            # A tag that is there counts: it must not tell an older value.
            if not is_over or key in held:
                tags |= told_as.long_name(name) | {key: names.text_of(value)}
        return tags, parameters

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Record the points, all of them or none. Sent twice, they are there once."""
        run = self._run(component)
        spelled = {name: names.spelled(name) for name in {point.name for point in points}}
        long = {tag: n for n in spelled if (tag := names.kept_by(n)) is not None}
        if long:
            self._send(component, run, {}, long)
        metrics = [
            {
                "key": spelled[point.name],
                "value": names.number(point.value),
                "timestamp": point.timestamp_ns // _MS,
                "step": point.step or 0,
            }
            for point in points
        ]
        self._batch(component, run, metrics=metrics)
        return Answer()

    def points(self, component: str, name: str) -> Iterator[MetricPoint]:
        """Yield every point of a metric."""
        run = self._run(component)
        asked: Any = {"metric_key": names.spelled(name), "max_results": _POINTS_PAGE}
        while True:
            page = self._http.get("metrics/get-history", None, run_id=run.id, **asked)
            for each in page.get("metrics") or ():
                at_ns = int(each.get("timestamp") or 0) * _MS
                yield MetricPoint(name, float(each["value"]), int(each.get("step") or 0), at_ns)
            if not page.get("next_page_token"):
                return
            asked["page_token"] = page["next_page_token"]

    # -- experiments ------------------------------------------------------------------------------

    def declare(self, declared: Declared) -> Answer:
        """Make the experiment. A trial is a tag of its experiment."""
        return Answer(arn=self._experiments.declare(declared))

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Read an experiment, or a trial from the tags of its experiment."""
        return self._experiments.group(kind, name, tags=tags)

    # -- artifacts --------------------------------------------------------------------------------

    def upload(self, blob: BlobUpload) -> Answer:
        """Store the file among the run's artifacts, or among those of its model."""
        run = self._run(blob.component)
        source = Source(run.id, run.experiment_id)
        model = self._models.place(blob.component, source, blob.name)
        if model is not None:
            return self._artifacts.upload(
                replace(blob, name=model.name),
                model.artifacts,
                self._models.noted(model.model_id) or {},
                lambda key, value: self._models.note(model.model_id, {key: value}),
            )
        held = self._about(blob.component, lambda: told_as.tags_in(self._read(run)))
        return self._artifacts.upload(
            blob, run.artifacts, held, lambda key, value: self._set(blob.component, {key: value})
        )

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """Find an artifact of a run."""

        def noted(run_id: str) -> Mapping[str, str] | None:
            """Return the tags of the run, or of the model; None: it was deleted."""
            if run_id.startswith(MODEL_IDS):
                return self._models.noted(run_id)
            try:
                told = self._http.get("runs/get", "run", run_id=run_id)["run"]
            except ComponentMissingError:
                return None
            return told_as.tags_in(told) if told_as.is_there(told) else None

        return self._artifacts.find(uri, noted, read=read)

    # -- inside -----------------------------------------------------------------------------------

    def _of(self, key: str) -> threading.RLock:
        with self._lock:
            return self._locks[key]

    def _uri(self, run: _Run) -> str:
        return f"{self._http.server.base}/#/experiments/{run.experiment_id}/runs/{run.id}"

    def _known(self, key: str, told: Mapping[str, Any]) -> _Run:
        info = told["info"]
        run = _Run(
            str(info["run_id"]),
            str(info["experiment_id"]),
            str(info.get("artifact_uri") or ""),
            told_as.DELIVERED in told_as.tags_in(told),
        )
        self._runs[key] = run
        if told_as.tags_in(told).get(told_as.STAGED) == DELETED:
            self._deleted[key] = run.id
        return run

    def _forget(self, component: str) -> None:
        self._runs.pop(component.lower(), None)

    def _run(self, component: str) -> _Run:
        run = self._find(component)
        if run is None:
            raise ComponentMissingError(
                f"MLflow has no run of {component}",
                kind=ErrorKind.HOLD,
                code="RunMissing",
                hint=REMEDY,
            )
        return run

    def _id_of(self, component: str) -> str | None:
        run = self._find(component)
        return None if run is None else run.id

    def _find(self, component: str) -> _Run | None:
        key = component.lower()
        # Nearly always.
        if (run := self._runs.get(key)) is not None:
            return run
        with self._of(key):
            return self._runs.get(key) or self._search(key)

    def _search(self, key: str) -> _Run | None:
        """Look for the run of a component; delete those that were made twice."""
        if limits.name_problem(key, "trial component name"):
            return None
        owner = self._owners.get(key)
        wanted = {told_as.COMPONENT: key, **({} if owner is None else {told_as.OWNER: owner})}
        if owner is not None and not _SEARCHED.fullmatch(owner):
            return None
        ids = self._experiments.ids()
        found: list[Mapping[str, Any]] = []
        asked = {
            "experiment_ids": ids,
            "filter": " AND ".join(f"tags.`{tag}` = '{text}'" for tag, text in wanted.items()),
            "max_results": PAGE,
            "run_view_type": "ALL",
        }
        for page in pages(self._http, "runs/search", asked) if ids else ():
            found += filter(told_as.is_there, page.get("runs") or ())
        if not found:
            return None
        if len({told_as.tags_in(run).get(told_as.OWNER) for run in found}) > 1:
            raise RemoteError(
                f"MLflow has runs of {key} from several journals, and the journal does not say "
                "which it is; nothing was sent",
                kind=ErrorKind.HOLD,
                code="SeveralRuns",
                hint="delete those that are not wanted, or record under another name",
            )
        found.sort(key=told_as.preference)
        for twin in found[1:]:
            if told_as.DELIVERED not in told_as.tags_in(twin):
                logger.info("MLflow made the run of %s twice; the empty one is deleted", key)
                self._http.post("runs/delete", {"run_id": twin["info"]["run_id"]})
        return self._known(key, found[0])

    def _read(self, run: _Run) -> dict[str, Any]:
        told: dict[str, Any] = self._http.get("runs/get", "run", run_id=run.id)["run"]
        return told

    def _about(self, component: str, request: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Make a request about a run. If it is gone, look for it again the next time.

        One that the journal says is deleted takes nothing: it is restored for the request.
        """
        key = component.lower()
        try:
            if key not in self._restored:
                return request()
        except ComponentMissingError:
            if key not in self._deleted:
                self._forget(component)
                raise
        told = {"run_id": self._deleted[key]}
        with self._of(key):
            self._restored.add(key)
            self._http.post("runs/restore", told)
            try:
                return request()
            finally:
                # If this fails, the next request does it.
                self._http.post("runs/delete", told)
                self._restored.discard(key)

    def _set(self, component: str, tags: Mapping[str, str]) -> None:
        self._send(component, self._run(component), {}, tags)

    def _send(
        self,
        component: str,
        run: _Run,
        parameters: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Set parameters and tags, in as many requests as necessary."""
        texts, pairs = told_as.pairs(parameters), told_as.pairs(tags)
        while texts or pairs:
            # The mark needs a place, too.
            most = ITEMS_MAX - (not run.marked)
            self._batch(component, run, params=texts[:ITEMS_MAX], tags=pairs[:most])
            texts, pairs = texts[ITEMS_MAX:], pairs[most:]

    def _batch(self, component: str, run: _Run, **items: Sequence[Mapping[str, Any]]) -> None:
        content: dict[str, Any] = {"run_id": run.id, **{k: v for k, v in items.items() if v}}
        if not run.marked:
            content["tags"] = [
                *content.get("tags", ()),
                {"key": told_as.DELIVERED, "value": "true"},
            ]
        self._about(component, lambda: self._http.post("runs/log-batch", content))
        run.marked = True

    def _inputs(self, component: str, run: _Run, inputs: Mapping[str, Artifact]) -> None:
        content = {"run_id": run.id, "datasets": told_as.datasets(inputs)}
        self._about(component, lambda: self._http.post("runs/log-inputs", content))


def _merged(held: Status | None, status: Status | None) -> Status | None:
    """Return the status that a run has after an update."""
    if status is None:
        return held
    merged = merge_status(held, status)
    return merged if isinstance(merged, Status) else status
