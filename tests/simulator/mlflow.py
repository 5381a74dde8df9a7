"""A strict MLflow tracking server in memory: its REST API as MLflow 3.17.2 with SQLite answers it.

What it is: experiments, runs and artifacts behind a loopback server, faults that a test schedules,
and a list of every request. Rules and limits are those of /work/shared/facts/mlflow.md, measured:
points that are equal in (key, value, timestamp, step) are one; a batch is taken whole or not at
all; parameters can't be changed; values are cut without a word; a run's id can't be chosen.
It must not know: journaltrack.
Invariant: one request at a time; nothing sleeps.
"""

from __future__ import annotations

import functools
import json
import math
import posixpath
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from tests.simulator.server import Server
from tests.simulator.wire import HttpReply, HttpRequest

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
BUCKET = "/the-bucket/"
"""Where addresses lead that the server signs, with ``root="s3://the-bucket"``."""
_KEY = re.compile(r"[/\w.\- :]*")
_FILTER = re.compile(r"tags\.`([^`]+)` = '([^']*)'")
_STATUSES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}
_LARGEST = 1.7976931348623157e308

CUT_BEFORE, CUT_AFTER = "cut before", "cut after"
"""The connection is closed without an answer, before or after the request took effect."""


class RefusedError(Exception):
    """What the server answers instead."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Run:
    """A run and all that it received."""

    id: str
    experiment_id: str
    name: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    deleted: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: dict[tuple[str, str, int, int], None] = field(default_factory=dict)
    datasets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    model_inputs: set[str] = field(default_factory=set)


@dataclass
class Model:
    """A logged model and all that it received."""

    id: str
    experiment_id: str
    name: str
    source_run_id: str
    status: int = 1
    deleted: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, str | None], float] = field(default_factory=dict)


@dataclass
class Experiment:
    """An experiment."""

    id: str
    name: str
    deleted: bool = False
    tags: dict[str, str] = field(default_factory=dict)


class MlflowServer:
    """The server, as a context manager.

    Attributes:
        experiments, runs, models: By id.
        has_models: Whether it is MLflow 3: older ones have no route for logged models.
        files: Contents of artifacts, by path.
        asked: (method, path) of each request, in order.
        fault: Called with the number of each request, its method and its path; returns a status to
            answer, ``CUT_BEFORE``, ``CUT_AFTER``, a whole ``HttpReply``, or None.
        allow: Returns whether a request may be made; else it is answered with 401.
        root: Where runs have their artifacts.
    """

    def __init__(self, root: str = "mlflow-artifacts:") -> None:
        self.experiments: dict[str, Experiment] = {}
        self.runs: dict[str, Run] = {}
        self.models: dict[str, Model] = {}
        self.has_models = True
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.fault: Callable[[int, str, str], object] = lambda *_: None
        self.allow: Callable[[HttpRequest], bool] = lambda _: True
        self.root = root
        self._lock = threading.Condition()
        self._server = Server(self._handle)
        self._add_experiment("Default")

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def stop(self) -> None:
        """Stop answering; ``start`` answers on the same port again."""
        self._server.stop()

    def start(self) -> None:
        """Answer again."""
        self._server.start()

    @property
    def uri(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self._server.port}"

    # -- what a test looks at

    def active(self, component: str | None = None) -> list[Run]:
        """The runs that are not deleted, of a component."""
        return [
            run
            for run in self.runs.values()
            if not run.deleted and component in {None, run.tags.get("journaltrack.component")}
        ]

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 300.0) -> bool:
        """Wait until a condition about what the server holds is true; looked at at each request."""
        with self._lock:
            return bool(self._lock.wait_for(condition, timeout_s))

    def history(self, run: Run, key: str) -> list[tuple[float, int, int]]:
        """The points of a metric: value, timestamp, step."""
        return [(float(v), at, step) for name, v, at, step in run.points if name == key]

    # -- inside

    def _handle(self, request: HttpRequest) -> HttpReply | None:
        with self._lock:
            reply = self._reply(request)
            self._lock.notify_all()
            return reply

    def _reply(self, request: HttpRequest) -> HttpReply | None:
        path = unquote(request.path)
        self.asked.append((request.method, path))
        fault = self.fault(len(self.asked), request.method, path)
        if fault == CUT_BEFORE:
            return None
        if isinstance(fault, HttpReply):
            return fault
        if isinstance(fault, int):
            return _json(fault, {"error_code": f"HTTP{fault}", "message": "scheduled"})
        if not self.allow(request):
            return HttpReply(401, b"You are not authenticated.")
        try:
            reply = self._answered(request, path)
        except RefusedError as refused:
            told = {"error_code": refused.code, "message": refused.message}
            reply = _json(refused.status, told)
        return None if fault == CUT_AFTER else reply

    def _answered(self, request: HttpRequest, path: str) -> HttpReply:
        query = {key: values[-1] for key, values in parse_qs(request.query).items()}
        if path.startswith(BUCKET):
            return self._object(request, path[len(BUCKET) :], query)
        if path.startswith(FILES):
            return self._file(request, path[len(FILES) :].strip("/"), query)
        if not path.startswith(API):
            return HttpReply(404, b"<html>Not Found</html>")
        name = path.removeprefix(API)
        routes: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]] = {
            ("GET", "experiments/get-by-name"): self._get_experiment,
            ("POST", "experiments/create"): self._create_experiment,
            ("POST", "experiments/search"): self._search_experiments,
            ("POST", "experiments/set-experiment-tag"): self._tag_experiment,
            ("POST", "runs/create"): self._create_run,
            ("GET", "runs/get"): lambda told: {"run": self._run_json(self._run(told))},
            ("POST", "runs/search"): self._search_runs,
            ("POST", "runs/update"): self._update_run,
            ("POST", "runs/delete"): self._delete_run,
            ("POST", "runs/restore"): self._restore_run,
            ("POST", "runs/delete-tag"): self._delete_tag,
            ("POST", "runs/log-batch"): self._log_batch,
            ("POST", "runs/log-inputs"): self._log_inputs,
            ("POST", "runs/outputs"): self._log_outputs,
            ("GET", "metrics/get-history"): self._history,
            ("GET", "artifacts/list"): self._list,
            ("POST", "artifacts/presigned-upload-url"): self._presign,
            ("POST", "artifacts/presigned-download-url"): self._presign,
        }
        route = routes.get((request.method, name))
        if name.startswith("logged-models") and self.has_models:
            route = functools.partial(self._of_models, request.method, name.split("/")[1:])
        if route is None:
            return HttpReply(404, b"<html>Not Found</html>")
        told = json.loads(request.body) if request.body else query
        return _json(200, route(told))

    # experiments

    def _add_experiment(self, name: str) -> Experiment:
        made = Experiment(str(len(self.experiments)), name)
        self.experiments[made.id] = made
        return made

    def _experiment_json(self, each: Experiment) -> dict[str, Any]:
        return {
            "experiment_id": each.id,
            "name": each.name,
            "lifecycle_stage": "deleted" if each.deleted else "active",
            "tags": _pairs(each.tags),
        }

    def _get_experiment(self, told: dict[str, Any]) -> dict[str, Any]:
        for each in self.experiments.values():
            if each.name == told["experiment_name"]:
                return {"experiment": self._experiment_json(each)}
        raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "no such experiment")

    def _create_experiment(self, told: dict[str, Any]) -> dict[str, Any]:
        if any(each.name == told["name"] for each in self.experiments.values()):
            raise RefusedError(400, "RESOURCE_ALREADY_EXISTS", "Experiment already exists")
        return {"experiment_id": self._add_experiment(told["name"]).id}

    def _search_experiments(self, told: dict[str, Any]) -> dict[str, Any]:
        found = [self._experiment_json(e) for e in self.experiments.values() if not e.deleted]
        return _page(found, told, "experiments")

    def _tag_experiment(self, told: dict[str, Any]) -> dict[str, Any]:
        _check_key(told["key"], "tag")
        self.experiments[told["experiment_id"]].tags[told["key"]] = told["value"]
        return {}

    # runs

    def _run(self, told: dict[str, Any], *, active: bool = False) -> Run:
        run = self.runs.get(told.get("run_id") or "")
        if run is None:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "Run not found")
        if active and (run.deleted or self.experiments[run.experiment_id].deleted):
            text = f"The run {run.id} must be in the 'active' state."
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", text)
        return run

    def _run_json(self, run: Run) -> dict[str, Any]:
        latest = {}
        for name, value, at, step in run.points:
            latest[name] = {"key": name, "value": _out(value), "timestamp": at, "step": step}
        info = {
            "run_id": run.id,
            "experiment_id": run.experiment_id,
            "run_name": run.name,
            "status": run.status,
            "start_time": run.start_time,
            "artifact_uri": f"{self.root}/{run.experiment_id}/{run.id}/artifacts",
            "lifecycle_stage": "deleted" if run.deleted else "active",
        }
        data = {
            "metrics": [*latest.values()],
            "params": _pairs(run.params),
            "tags": _pairs(run.tags),
        }
        return {
            "info": info | ({} if run.end_time is None else {"end_time": run.end_time}),
            "data": {key: value for key, value in data.items() if value},
            "inputs": {
                "dataset_inputs": [*run.datasets.values()],
                "model_inputs": [{"model_id": each} for each in sorted(run.model_inputs)],
            },
            "outputs": {
                "model_outputs": [{"model_id": k, "step": step} for k, step in run.outputs.items()]
            },
        }

    def _create_run(self, told: dict[str, Any]) -> dict[str, Any]:
        experiment = self.experiments.get(told["experiment_id"])
        if experiment is None:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "No Experiment with that id exists")
        if experiment.deleted:
            text = "The experiment must be in the 'active' state."
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", text)
        made = Run(uuid.uuid4().hex, experiment.id, told.get("run_name") or "", told["start_time"])
        for tag in told.get("tags") or ():
            _check_key(tag["key"], "tag")
            made.tags[tag["key"]] = tag["value"][:8000]
        self.runs[made.id] = made
        return {"run": self._run_json(made)}

    def _search_runs(self, told: dict[str, Any]) -> dict[str, Any]:
        wanted = _FILTER.findall(told.get("filter", ""))
        assert " AND ".join(f"tags.`{k}` = '{v}'" for k, v in wanted) == told.get("filter", "")
        found = [
            self._run_json(run)
            for run in self.runs.values()
            if run.experiment_id in told["experiment_ids"]
            and (told.get("run_view_type") == "ALL" or not run.deleted)
            and all(run.tags.get(key) == value for key, value in wanted)
        ]
        return _page(found, told, "runs")

    def _update_run(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told, active=True)
        if told.get("status") in _STATUSES:
            run.status = told["status"]
        if told.get("end_time") is not None:
            assert isinstance(told["end_time"], int)
            run.end_time = told["end_time"]
        return {"run_info": self._run_json(run)["info"]}

    def _delete_run(self, told: dict[str, Any]) -> dict[str, Any]:
        self._run(told).deleted = True
        return {}

    def _restore_run(self, told: dict[str, Any]) -> dict[str, Any]:
        self._run(told).deleted = False
        return {}

    def _delete_tag(self, told: dict[str, Any]) -> dict[str, Any]:
        if self._run(told, active=True).tags.pop(told["key"], None) is None:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "No tag with that name")
        return {}

    def _log_batch(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told, active=True)
        metrics, params, tags = (told.get(key) or () for key in ("metrics", "params", "tags"))
        if len(metrics) > 1000 or len(params) > 100 or len(tags) > 100:
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", "too many items")
        if len(metrics) + len(params) + len(tags) > 1000:
            raise RefusedError(
                400, "INVALID_PARAMETER_VALUE", "A batch takes at most 1000 entities"
            )
        points = {}
        for each in metrics:
            _check_key(each["key"], "metric")
            # The real one keeps time 0 and step 0 for a time that is not whole.
            assert type(each["timestamp"]) is int
            assert type(each["step"]) is int
            value = float(each["value"])
            value = math.copysign(_LARGEST, value) if math.isinf(value) else value
            points[each["key"], repr(value), each["timestamp"], each["step"]] = None
        new: dict[str, str] = {}
        for each in params:
            _check_key(each["key"], "param")
            held = {**run.params, **new}.get(each["key"])
            if each["key"] in new or held not in {None, each["value"][:6000]}:
                text = f"Changing param values is not allowed. Param with key='{each['key']}'"
                raise RefusedError(400, "INVALID_PARAMETER_VALUE", text)
            new[each["key"]] = each["value"][:6000]
        for each in tags:
            _check_key(each["key"], "tag")
        run.points |= points
        for each in metrics:
            if "model_id" in each:
                model = self.models[each["model_id"]]
                model.metrics[each["key"], each.get("dataset_name")] = float(each["value"])
        run.params |= new
        run.tags |= {each["key"]: each["value"][:8000] for each in tags}
        return {}

    def _log_inputs(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told, active=True)
        for each in told.get("datasets") or ():
            dataset = each["dataset"]
            run.datasets[dataset["name"], dataset["digest"]] = each
        run.model_inputs |= {each["model_id"] for each in told.get("models") or ()}
        return {}

    def _log_outputs(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told, active=True)
        for each in told["models"]:
            if each["model_id"] in run.outputs:
                raise RefusedError(400, "BAD_REQUEST", "(sqlite3.IntegrityError) UNIQUE constraint")
            run.outputs[each["model_id"]] = each["step"]
        return {}

    # logged models

    def _of_models(self, method: str, path: list[str], told: dict[str, Any]) -> dict[str, Any]:
        if (method, path) == ("POST", []):
            return {"model": self._model_json(self._create_model(told))}
        if (method, path) == ("POST", ["search"]):
            wanted = _FILTER.findall(told.get("filter", ""))
            found = [
                self._model_json(each)
                for each in self.models.values()
                if each.experiment_id in told["experiment_ids"]
                and not each.deleted
                and all(each.tags.get(key) == value for key, value in wanted)
            ]
            return {"models": found[: told["max_results"]]} if found else {}
        model = self.models.get(path[0])
        if model is None or (model.deleted and method != "DELETE"):
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "Logged model not found.")
        # The real one wants it in the path and in the request.
        assert method in {"GET", "DELETE"} or told["model_id"] == model.id
        if path[1:]:
            assert len(told[path[1]]) <= 100
            held = {"params": model.params, "tags": model.tags}[path[1]]
            held |= {each["key"]: each["value"] for each in told[path[1]]}
            return {}
        if method == "DELETE":
            model.deleted = True
            return {}
        if method == "PATCH":
            model.status = told["status"]
        return {"model": self._model_json(model)}

    def _create_model(self, told: dict[str, Any]) -> Model:
        if set(told["name"]) & set("/:.%\"'"):
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", "Invalid model name")
        source = told.get("source_run_id", "")
        made = Model(f"m-{uuid.uuid4().hex}", told["experiment_id"], told["name"], source)
        made.tags = {each["key"]: each["value"] for each in told.get("tags") or ()}
        return self.models.setdefault(made.id, made)

    def _model_json(self, model: Model) -> dict[str, Any]:
        info = {
            "model_id": model.id,
            "experiment_id": model.experiment_id,
            "name": model.name,
            "creation_timestamp_ms": [*self.models].index(model.id),
            "artifact_uri": f"{self.root}/{model.experiment_id}/models/{model.id}/artifacts",
            "tags": _pairs(model.tags),
        }
        return {"info": info, "data": {"params": _pairs(model.params)}}

    def _history(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told)
        found = [
            {"key": name, "value": _out(value), "timestamp": at, "step": step}
            for name, value, at, step in sorted(run.points, key=lambda p: (p[2], p[3], p[1]))
            if name == told["metric_key"]
        ]
        return _page(found, told, "metrics")

    # artifacts

    def _presign(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told)
        assert 1 <= told["expiration"] <= 604_800
        if not self.root.startswith("s3:"):
            text = "Presigned upload is not supported for proxied artifact storage"
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", text)
        place = f"{run.experiment_id}/{run.id}/artifacts/{told['path']}"
        headers = {"Content-Type": "text/x-signed"}
        return {
            "presigned_url": f"{self.uri}{BUCKET}{quote(place)}?signature=good",
            "headers": headers,
        }

    def _object(self, request: HttpRequest, path: str, query: dict[str, str]) -> HttpReply:
        """What S3 does with a request that somebody signed: one way of asking alone is right."""
        signed = query == {"signature": "good"} and "authorization" not in request.headers
        if not signed or request.headers.get("content-type") != "text/x-signed":
            return HttpReply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        if request.method == "PUT":
            self.files[path] = request.body
            return HttpReply(200, b"")
        held = self.files.get(path)
        return HttpReply(404, b"<Error/>") if held is None else HttpReply(200, held)

    def _list(self, told: dict[str, Any]) -> dict[str, Any]:
        run = self._run(told)
        begin = f"{run.experiment_id}/{run.id}/artifacts/"
        found = {k.removeprefix(begin): v for k, v in self.files.items() if k.startswith(begin)}
        files = [
            {"path": name, "is_dir": False, "file_size": str(len(content))}
            for name, content in found.items()
            if posixpath.dirname(name) == told.get("path", "")
        ]
        return {"root_uri": f"{self.root}/{begin}", **({"files": files} if files else {})}

    def _file(self, request: HttpRequest, path: str, query: dict[str, str]) -> HttpReply:
        while (decoded := unquote(path)) != path:
            path = decoded
        if "#" in path:
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", "Invalid path")
        if request.method == "PUT":
            self.files[path] = request.body
            return _json(200, {})
        if path:
            held = self.files.get(path)
            return (
                HttpReply(404, b"<html>Not Found</html>") if held is None else HttpReply(200, held)
            )
        folder = query.get("path", "")
        found = [
            {"path": posixpath.basename(name), "is_dir": False, "file_size": len(content)}
            for name, content in self.files.items()
            if posixpath.dirname(name) == folder
        ]
        return _json(200, {"files": found} if found else {})


def _check_key(key: str, what: str) -> None:
    norm = posixpath.normpath(key)
    bad = norm != key or norm == "." or norm.startswith(("..", "/"))
    if bad or not _KEY.fullmatch(key) or not key or len(key) > 250:
        raise RefusedError(400, "INVALID_PARAMETER_VALUE", f"Invalid {what} name: {key!r}")


def _page(found: list[Any], told: dict[str, Any], name: str) -> dict[str, Any]:
    first, most = int(told.get("page_token") or 0), int(told.get("max_results") or 1000)
    page = {name: found[first : first + most]} if found[first:] else {}
    return page | ({"next_page_token": str(first + most)} if first + most < len(found) else {})


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _out(value: str) -> float | str:
    return "NaN" if value == "nan" else float(value)


def _json(status: int, told: dict[str, Any]) -> HttpReply:
    return HttpReply(status, json.dumps(told).encode(), {"Content-Type": "application/json"})
