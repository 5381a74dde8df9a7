"""Name the parents of runs, which MLflow's code does in a tag, by the ids that they have there.

A child may arrive before its parent, if another journal has the parent. It keeps the id that the
parent has in that journal, and a mark. When the parent arrives, its delivery looks for marked runs.
Both sides write first and look then, so that none misses the other.

Must not know HTTP.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.remotes.mlflow import names, told_as
from journaltrack.remotes.mlflow.experiments import PAGE, pages

if TYPE_CHECKING:
    from journaltrack.remotes.mlflow.http import Http

WAITS: Final = f"{names.OURS}parent"
"""The tag of a run whose parent has not arrived."""
_FRESH_S: Final = 5.0
"""Ours: how old the list of waiting runs may be. So a pass of many runs asks seldom for it."""


class Parents:
    """Threads may share it.

    Args:
        http: The server.
        experiments: Returns the ids of all experiments.
        find: Returns the id of a component's run; None: there is none.
        own: The components of the journal, in lower case.
    """

    def __init__(
        self,
        http: Http,
        experiments: Callable[[], list[str]],
        find: Callable[[str], str | None],
        own: Collection[str],
    ) -> None:
        self._http = http
        self._experiments = experiments
        self._find = find
        self._own = own
        self._lock = threading.Lock()
        self._waiting: list[Mapping[str, Any]] = []
        self._looked_at: float | None = None

    def tags(self, parent: str) -> dict[str, str]:
        """Return the tags that give a run its parent.

        Raises:
            RemoteError: The journal has the parent, and it is not there yet.
        """
        run_id = self._find(parent)
        if run_id is not None:
            return {told_as.PARENT: run_id}
        if parent.lower() in self._own:
            raise RemoteError(
                f"the parent run {parent} is not there yet",
                kind=ErrorKind.TRANSIENT,
                code="ParentMissing",
            )
        return {told_as.PARENT: parent, WAITS: "true"}

    def look_again(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Look for the parent once more, after a run got its tags: it may have come meanwhile."""
        if WAITS in tags:
            parent_id = self._find(tags[told_as.PARENT])
            if parent_id is not None:
                self._give(run_id, parent_id)

    def adopt(self, component: str, run_id: str) -> None:
        """Give a run the children that wait for it. Idempotent."""
        with self._lock:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at > _FRESH_S:
                self._waiting = self._search()
                self._looked_at = now
            waiting = self._waiting
        for each in waiting:
            if told_as.tags_in(each).get(told_as.PARENT, "").lower() == component.lower():
                # Somebody may have deleted it since.
                with contextlib.suppress(ComponentMissingError):
                    self._give(str(each["info"]["run_id"]), run_id)

    def _give(self, run_id: str, parent_id: str) -> None:
        told = {"run_id": run_id, "tags": told_as.pairs({told_as.PARENT: parent_id})}
        self._http.post("runs/log-batch", told)
        with contextlib.suppress(ComponentMissingError):
            self._http.post("runs/delete-tag", {"run_id": run_id, "key": WAITS})

    def _search(self) -> list[Mapping[str, Any]]:
        ids = self._experiments()
        asked = {
            "experiment_ids": ids,
            "filter": f"tags.`{WAITS}` = 'true'",
            "max_results": PAGE,
        }
        found: list[Mapping[str, Any]] = []
        for page in pages(self._http, "runs/search", asked) if ids else ():
            found += page.get("runs") or ()
        return found
