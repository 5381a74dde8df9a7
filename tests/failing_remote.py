"""A remote in memory that fails as scheduled, and keeps what it was asked, in order."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.memory import MemoryRemote


def passing(code="InternalFailure", **options):
    """What another try may find gone."""
    return RemoteError("later", kind=ErrorKind.TRANSIENT, code=code, **options)


class FailingRemote(MemoryRemote):
    """Takes one failure of a method's schedule for each of its requests; None lets a request
    through.

    Attributes:
        asked: (method, component) of each request.
        applied: The same, of those that took effect.
        failures: By method.
        beside: By method: called in the midst of each request.
    """

    def __init__(self):
        super().__init__()
        self.asked = []
        self.applied = []
        self.failures = defaultdict(deque)
        self.beside = {}
        self._meeting = threading.Lock()

    def _meet(self, method, component, answer):
        with self._meeting:
            self.asked.append((method, component))
            failure = self.failures[method].popleft() if self.failures[method] else None
        self.beside.get(method, lambda: None)()
        if failure is not None:
            raise failure
        answered = answer()
        self.applied.append((method, component))
        return answered

    def about(self, component):
        """The methods that the component was asked for, in order."""
        return [method for method, name in self.asked if name == component]

    def describe(self, component):
        return self._meet(
            "describe", component, lambda: super(FailingRemote, self).describe(component)
        )

    def create(self, spec):
        return self._meet("create", spec.name, lambda: super(FailingRemote, self).create(spec))

    def associate(self, component, experiment, trial):
        return self._meet(
            "associate",
            component,
            lambda: super(FailingRemote, self).associate(component, experiment, trial),
        )

    def disassociate(self, component, trial):
        return self._meet(
            "disassociate",
            component,
            lambda: super(FailingRemote, self).disassociate(component, trial),
        )

    def declare(self, declared):
        return self._meet(
            "declare", declared.make.name, lambda: super(FailingRemote, self).declare(declared)
        )

    def add_tags(self, component, tags):
        return self._meet(
            "tags", component, lambda: super(FailingRemote, self).add_tags(component, tags)
        )

    def upload(self, blob):
        return self._meet("upload", blob.component, lambda: super(FailingRemote, self).upload(blob))

    def link(self, link):
        return self._meet("link", link.component, lambda: super(FailingRemote, self).link(link))

    def update(self, component, fields):
        return self._meet(
            "update", component, lambda: super(FailingRemote, self).update(component, fields)
        )

    def put_metrics(self, component, points):
        return self._meet(
            "put_metrics",
            component,
            lambda: super(FailingRemote, self).put_metrics(component, points),
        )

    def read_metrics(self, component, steps):
        return self._meet(
            "read_metrics",
            component,
            lambda: super(FailingRemote, self).read_metrics(component, steps),
        )

    def put_document(self, document):
        return self._meet(
            "put_document", document.name, lambda: super(FailingRemote, self).put_document(document)
        )
