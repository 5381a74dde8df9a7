"""Find the experiments of an MLflow server, make those that are missing, and set what they have.

An experiment is asked for once in a pass. A trial is a tag of its experiment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import NOT_ALLOWED, ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal.groups import Declared, Group, GroupKind, laid_over
from journaltrack.remotes.mlflow import names, told_as

if TYPE_CHECKING:
    from journaltrack.remotes.mlflow.http import Http

PAGE: Final = 1_000
"""Things in a page of a search."""
EXISTS: Final = "RESOURCE_ALREADY_EXISTS"


class Experiments:
    """The experiments of one server, for one pass. Threads may share it.

    Args:
        http: The server.
        creates: Whether to create experiments that are missing.
    """

    def __init__(self, http: Http, *, creates: bool) -> None:
        self._http = http
        self._creates = creates
        self._lock = threading.RLock()
        # By name, and those that were there.
        self._known: dict[str, str] = {}
        self._there: list[str] = []

    def declare(self, declared: Declared) -> str:
        """Make the experiment, or the trial's. Return its address."""
        made = declared.make
        before = self.group(made.kind, made.name)
        experiment_id = self.id_of(made.experiment or made.free_name)
        address = f"{self._http.server.base}/#/experiments/{experiment_id}"
        wanted = made if before is None else declared.change
        if wanted is None:
            return address
        tags = (
            told_as.experiment_tags(wanted)
            if made.kind == "experiment"
            else {
                told_as.key_of(told_as.TRIAL, made.name): told_as.trial_text(
                    laid_over(before or made, wanted)
                )
            }
        )
        for key, value in tags.items():
            content = {"experiment_id": experiment_id, "key": key, "value": value}
            self._http.post("experiments/set-experiment-tag", content)
        return address

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Read an experiment, or a trial from the tags of its experiment."""
        for each in self._all():
            held = told_as.tags_in({"data": each})
            own_name = held.get(told_as.NAME, str(each["name"]))
            if kind == "experiment" and own_name.lower() == name.lower():
                kept = told_as.kept_names(held)
                own = (k for k in held if not k.startswith(names.OURS) and k != told_as.NOTE)
                return Group(
                    "experiment",
                    own_name,
                    None,
                    held.get(told_as.DISPLAY_NAME),
                    held.get(told_as.NOTE),
                    tuple((names.read(k, kept), held[k]) for k in own) if tags else (),
                )
            for key, text in held.items() if kind == "trial" else ():
                if key.startswith(told_as.TRIAL) and names.read(
                    key.removeprefix(told_as.TRIAL)
                ).lower() == (name.lower()):
                    return told_as.trial_of(
                        names.read(key.removeprefix(told_as.TRIAL)), str(each["name"]), text
                    )
        return None

    def id_of(self, name: str) -> str:
        """Return the id of an experiment. Make it if it is missing."""
        with self._lock:
            if name in self._known:
                return self._known[name]
            told = self._named(name)
            if told is None and not self._creates:
                raise RemoteError(
                    f"the experiment {name} does not exist, and allow.create_experiments is false",
                    kind=ErrorKind.HALT,
                    code=NOT_ALLOWED,
                    hint="create it and sync again; everything waits in the journal",
                )
            if told is None:
                try:
                    self._http.post("experiments/create", {"name": name}, "experiment_id")
                except RemoteError as error:
                    # Another process was faster.
                    if error.code != EXISTS:
                        raise
                told = self._named(name)
            if told is None or told.get("lifecycle_stage") == "deleted":
                raise RemoteError(
                    f"the experiment {name} was deleted in MLflow, which keeps its name",
                    kind=ErrorKind.HOLD,
                    code="ExperimentDeleted",
                    hint="restore it there (`mlflow experiments restore`), or delete it for good",
                )
            return self._known.setdefault(name, str(told["experiment_id"]))

    def _named(self, name: str) -> Mapping[str, Any] | None:
        try:
            told = self._http.get("experiments/get-by-name", "experiment", experiment_name=name)
        except ComponentMissingError:
            return None
        found: Mapping[str, Any] = told["experiment"]
        return found

    def ids(self) -> list[str]:
        """Return the ids of all experiments, asked for once in a pass."""
        with self._lock:
            if not self._there:
                self._there = [str(each["experiment_id"]) for each in self._all()]
        return list(dict.fromkeys([*self._there, *self._known.copy().values()]))

    def _all(self) -> list[Mapping[str, Any]]:
        asked = {"max_results": PAGE, "view_type": "ACTIVE_ONLY"}
        return [
            each
            for page in pages(self._http, "experiments/search", asked)
            for each in page.get("experiments") or ()
        ]


def pages(http: Http, path: str, asked: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the pages of a search."""
    token: Any = None
    while True:
        content = {**asked, **({"page_token": token} if token else {})}
        page = http.post(path, content, None)
        yield page
        token = page.get("next_page_token")
        if not token:
            return
