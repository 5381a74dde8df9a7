"""Make the logged models of an MLflow server, and set what they have.

A model is found by a tag with its id in the journal: the server chooses ids itself, and makes a
second model when a creation is sent twice. So a creation looks first, and of two models the one
without files is deleted. Files of a model are uploaded to where the server keeps those of models.
Its status comes last, when nothing of its run is pending: a model that is ready has all files.

Servers before MLflow 3 have no logged models. There, files of models are files of their runs.

Must not know HTTP, or the journal's tables.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal.vocabulary import DELETED, MODEL, MODEL_INPUT, MODEL_METRICS, MODEL_OUTPUT
from journaltrack.remotes.mlflow import artifacts, names, told_as

if TYPE_CHECKING:
    from journaltrack.remotes.mlflow.http import Http

MODEL_ID: Final = f"{names.OURS}model"
"""The tag of a logged model with its id in the journal."""
MODEL_IDS: Final = "m-"
"""How the ids of logged models begin. Those of runs are digits alone."""
_NO_ROUTE: Final = "HTTP404"
"""The code of an answer without one of MLflow's."""
_PAGE: Final = 100
_PENDING: Final = 1
"""MLflow's ``LOGGED_MODEL_PENDING``. 2 is ready, 3 is a failed upload."""


class Source(NamedTuple):
    """The run that made a model, at the server."""

    run_id: str
    experiment_id: str


class Place(NamedTuple):
    """Where a file of a model is stored: the model, its artifacts, and the file's name there."""

    model_id: str
    artifacts: str
    name: str


class Models:
    """The logged models of one server, for one pass. Threads may share it.

    Args:
        http: The server.
        experiments: Returns the ids of all experiments.
        known: The documents of the journal's models by id, by component in lower case.
        takes_files: Whether files can be stored where the server keeps those of models.
    """

    def __init__(
        self,
        http: Http,
        experiments: Callable[[], list[str]],
        known: Mapping[str, Mapping[str, Mapping[str, Any]]],
        *,
        takes_files: bool,
    ) -> None:
        self._http = http
        self._experiments = experiments
        self._known = known
        self._lock = threading.Lock()
        self._locks: dict[str, threading.RLock] = defaultdict(threading.RLock)
        # As the server has them, by their id in the journal.
        self._found: dict[str, Mapping[str, Any]] = {}
        self._unclear: set[str] = set()
        self._are_there: bool | None = None if takes_files else False

    def close(self) -> None:
        """Delete what a lost answer may have made twice."""
        for own_id in sorted(self._unclear):
            self._search(own_id)

    def place(self, component: str, source: Source, name: str) -> Place | None:
        """Return where a file of a run goes if it is a model's. Make the model if it is missing."""
        for own_id, told in self._known.get(component.lower(), {}).items():
            begin = f"{told.get('folder')}/"
            if name.startswith(begin) and told.get("stage") != DELETED and self._has_models():
                model = self._model(own_id, source, told)
                where = str(model["artifact_uri"])
                return Place(str(model["model_id"]), where, name.removeprefix(begin))
        return None

    def note(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a model."""
        content = {"model_id": model_id, "tags": told_as.pairs(tags)}
        self._http.patch(f"logged-models/{model_id}/tags", content)

    def noted(self, model_id: str) -> Mapping[str, str] | None:
        """Return the tags of a model; None: there is none."""
        try:
            told = self._http.get(f"logged-models/{model_id}", "model")["model"]
        except ComponentMissingError:
            return None
        return _tags_in(told["info"])

    def tell(self, source: Source, labels: Mapping[str, str], run: Mapping[str, Any]) -> None:
        """Set what the labels of a run say of models: status, metrics, and whose they are.

        Args:
            source: The run.
            labels: Those that begin as ``MODEL`` and its like do.
            run: As the server has it.
        """
        if not labels or not self._has_models():
            return
        for name in (each for each in labels if each.startswith(MODEL)):
            self._finish(name.removeprefix(MODEL), source, _read(labels[name]))
        metrics = [
            point
            for name, text in labels.items()
            if name.startswith(MODEL_METRICS)
            for point in self._metrics(
                name.removeprefix(MODEL_METRICS).partition("/")[0], _read(text)
            )
        ]
        for first in range(0, len(metrics), _PAGE):
            part = {"run_id": source.run_id, "metrics": metrics[first : first + _PAGE]}
            self._http.post("runs/log-batch", part)
        told = (run.get("outputs") or {}).get("model_outputs") or ()
        held = {str(each["model_id"]) for each in told}
        outputs = self._named(labels, MODEL_OUTPUT)
        # Sent twice, one is refused.
        if new := [each for each in outputs if each["model_id"] not in held]:
            self._http.post("runs/outputs", {"run_id": source.run_id, "models": new})
        if inputs := self._named(labels, MODEL_INPUT):
            models = [{"model_id": each["model_id"]} for each in inputs]
            self._http.post("runs/log-inputs", {"run_id": source.run_id, "models": models})

    def _named(self, labels: Mapping[str, str], begin: str) -> list[dict[str, Any]]:
        """Return the models that labels name, by their ids at the server, with their steps."""
        found: list[dict[str, Any]] = []
        for name, text in labels.items():
            if name.startswith(begin):
                model_id = self._id_of(name.removeprefix(begin))
                step = _read(text).get("step")
                if model_id is not None:
                    found.append(
                        {"model_id": model_id, "step": step if isinstance(step, int) else 0}
                    )
        return found

    # -- inside -----------------------------------------------------------------------------------

    def _has_models(self) -> bool:
        """Return whether the server has logged models, asked for once in a pass."""
        with self._lock:
            if self._are_there is None:
                asked = {"experiment_ids": self._experiments(), "max_results": 1}
                try:
                    self._http.post("logged-models/search", asked, None)
                except RemoteError as error:
                    if error.code != _NO_ROUTE:
                        raise
                    self._are_there = False
                else:
                    self._are_there = True
            return self._are_there

    def _finish(self, own_id: str, source: Source, told: Mapping[str, Any]) -> None:
        """Set what a model has, and its status. Idempotent."""
        if told.get("stage") == DELETED:
            model = self._search(own_id)
            if model is not None:
                self._http.delete(f"logged-models/{model['model_id']}")
                self._found.pop(own_id, None)
            return
        model = self._model(own_id, source, told)
        model_id = str(model["model_id"])
        params = told_as.pairs({names.spelled(k): str(v) for k, v in _pairs(told, "params")})
        for first in range(0, len(params), _PAGE):
            part = {"model_id": model_id, "params": params[first : first + _PAGE]}
            self._http.post(f"logged-models/{model_id}/params", part)
        if tags := {names.tag(key): str(value) for key, value in _pairs(told, "tags")}:
            self.note(model_id, tags)
        status = told.get("status")
        if isinstance(status, int) and status > _PENDING:
            self._http.patch(
                f"logged-models/{model_id}", {"model_id": model_id, "status": status}, "model"
            )

    def _metrics(self, own_id: str, told: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return points of the run once more, with the model that they tell of.

        A point that is sent again is there once.
        """
        model_id = self._id_of(own_id)
        found: list[dict[str, Any]] = []
        points = told.get("points")
        for each in points if model_id is not None and isinstance(points, list) else ():
            # A journal from somebody else may have anything.
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                name, step, timestamp, value, dataset, digest = each
                point = {
                    "key": names.spelled(str(name)),
                    "value": names.number(float(value)),
                    "timestamp": int(timestamp),
                    "step": int(step),
                    "model_id": model_id,
                    "dataset_name": dataset,
                    "dataset_digest": digest,
                }
                found.append({key: each for key, each in point.items() if each is not None})
        return found

    def _id_of(self, own_id: str) -> str | None:
        """Return a model's id at the server; None: no journal delivers it there."""
        model = self._found.get(own_id) or self._search(own_id)
        if model is not None:
            return str(model["model_id"])
        if any(own_id in models for models in self._known.values()):
            raise RemoteError(
                f"the model {own_id} is not there yet",
                kind=ErrorKind.TRANSIENT,
                code="ModelMissing",
            )
        return None

    def _model(self, own_id: str, source: Source, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a model as the server has it. Make it if it is missing."""
        with self._lock:
            lock = self._locks[own_id]
        with lock:
            found = self._found.get(own_id) or self._search(own_id)
            if found is not None:
                return found
            content = {
                "experiment_id": source.experiment_id,
                "name": told.get("name"),
                "model_type": told.get("model_type"),
                "source_run_id": source.run_id if told.get("source_run_id") else None,
                "tags": told_as.pairs({MODEL_ID: own_id}),
            }
            given = {key: value for key, value in content.items() if value is not None}
            try:
                made = self._http.post("logged-models", given, "model")["model"]["info"]
            except RemoteError as error:
                if error.maybe_applied:
                    self._unclear.add(own_id)
                raise
            return self._found.setdefault(own_id, made)

    def _search(self, own_id: str) -> Mapping[str, Any] | None:
        """Look for a model; delete one that was made twice."""
        asked = {
            "experiment_ids": self._experiments(),
            "filter": f"tags.`{MODEL_ID}` = '{own_id}'",
            "max_results": _PAGE,
        }
        told = self._http.post("logged-models/search", asked, None)
        found: list[Mapping[str, Any]] = [each["info"] for each in told.get("models") or ()]
        if not found:
            return None
        found.sort(key=_preference)
        for twin in found[1:]:
            if not _has_files(twin):
                self._http.delete(f"logged-models/{twin['model_id']}")
        self._found[own_id] = found[0]
        return found[0]


def _preference(info: Mapping[str, Any]) -> tuple[bool, int, str]:
    """Order models of one creation: one that has files comes first, then the oldest."""
    made_ms = int(info.get("creation_timestamp_ms") or 0)
    return not _has_files(info), made_ms, str(info["model_id"])


def _has_files(info: Mapping[str, Any]) -> bool:
    return any(key.startswith(artifacts.NOTED) for key in _tags_in(info))


def _tags_in(info: Mapping[str, Any]) -> dict[str, str]:
    return told_as.tags_in({"data": info})


def _read(text: str) -> Mapping[str, Any]:
    """Return the document of a label. One that can't be read says nothing."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _pairs(told: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    held = told.get(name)
    return [*held.items()] if isinstance(held, dict) else []
