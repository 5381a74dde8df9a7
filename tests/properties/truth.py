"""What the model knows: a remote whose every effect is recorded, faults by script, a database
that dies at any seam.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, defaultdict
from statistics import fmean

from journaltrack.errors import (
    AlreadyExistsError,
    ComponentMissingError,
    ErrorKind,
    JournalWriteError,
    RemoteError,
)
from journaltrack.journal.sqlite.connection import Database
from journaltrack.replay.evidence.readback import ReadBack, Shown
from journaltrack.replay.remote import SAGEMAKER, Answer, Refusal, RemoteComponent

ERRORS = {
    "throttled": lambda: RemoteError(
        "slow down", kind=ErrorKind.TRANSIENT, code="ThrottlingException", throttled=True
    ),
    "500": lambda: RemoteError("sorry", kind=ErrorKind.TRANSIENT, code="InternalFailure"),
    "unreachable": lambda: RemoteError(
        "refused", kind=ErrorKind.TRANSIENT, code="EndpointConnectionError", unreachable=True
    ),
    "expired": lambda: RemoteError(
        "expired", kind=ErrorKind.HALT, code="ExpiredTokenException", everywhere=True
    ),
    "limit": lambda: RemoteError("too many", kind=ErrorKind.HOLD, code="ResourceLimitExceeded"),
    "a bug": lambda: KeyError("nobody expected this"),
    "timeout, not applied": lambda: RemoteError(
        "silence", kind=ErrorKind.TRANSIENT, code="ReadTimeout", maybe_applied=True
    ),
}
LOST_ANSWERS = {"cut after", "kill after"}
BUG = "a bug"
FAULTS = [
    "none",
    "partial",
    "kill before",
    *sorted(LOST_ANSWERS),
    *(name for name in ERRORS if name != BUG),
]


class KilledError(BaseException):
    """The process ends here: no code of ours may catch it."""


class Seams(Database):
    """A connection whose process dies before or after the n-th transaction, and does nothing
    ever after.
    """

    dies_at: int | None = None
    dies_after_commit = False
    dead = False
    refuses_at: int | None = None  # and some transactions from the n-th on are refused
    refuses_times = 0

    @contextlib.contextmanager
    def transaction(self):
        if self.refuses_at is not None:
            self.refuses_at -= 1
            if self.refuses_at < 0 < self.refuses_times:
                self.refuses_times -= 1
                raise JournalWriteError("the disk fails for a moment")
        if self.dead or (self.dies_at == 0 and not self.dies_after_commit):
            self.dead = True
            raise KilledError
        with super().transaction() as connection:
            yield connection
        if self.dies_at == 0:
            self.dead = True
            raise KilledError
        if self.dies_at is not None:
            self.dies_at -= 1


class Truth:
    """A remote that remembers everything; one fault of the script is taken per request."""

    def __init__(self, can=SAGEMAKER):
        self.can = can
        self.lock = threading.Lock()
        self.components = {}
        self.points = []  # (component, metric, value, step)
        # points that reading back shows for certain; each later one may be shown or not
        self.visible = 0
        self.uploads = Counter()
        self.links = set()  # (component, URI, name)
        self.places = set()  # (component, trial)
        self.tags = {}  # of experiments, by name
        self.documents_stored = {}
        self.script = []
        self.of_metrics = False
        self.requests = 0
        self.batches = []
        self.beside = None  # called once, in the midst of a request
        self.victim = None  # whose database dies with the process
        self.ended = False  # no pass is under way
        self.late = 0  # requests that came all the same

    def _request(self, apply, *, codes=None):
        beside, self.beside = self.beside, None
        if beside is not None:
            beside()
        with self.lock:
            self.requests += 1
            self.late += self.ended
            fault = self.script.pop(0) if self.script and (codes or not self.of_metrics) else "none"
            if fault == "kill before":
                self._die()
            if fault in ERRORS:
                raise ERRORS[fault]()  # noqa: RSE102 - makes the error
            if fault == "partial" and codes is not None:
                return codes()
            answer = apply()
            if fault == "cut after":
                raise RemoteError(
                    "reset",
                    kind=ErrorKind.TRANSIENT,
                    code="ConnectionClosedError",
                    maybe_applied=True,
                )
            if fault == "kill after":
                self._die()
            return answer

    def _die(self):
        if self.victim is not None:
            self.victim.dead = True
        raise KilledError

    def describe(self, component):
        def apply():
            held = self.components.get(component)
            return held and RemoteComponent(component, f"arn:{component}", owner=held["owner"])

        return self._request(apply)

    def create(self, spec):
        def apply():
            if spec.name in self.components:
                raise AlreadyExistsError(
                    "it exists", kind=ErrorKind.PERMANENT, code="AlreadyExists"
                )
            self.components[spec.name] = {
                "owner": spec.owner,
                "parameters": {},
                "artifacts": {},
                "status": None,
            }
            return Answer("r", arn=f"arn:{spec.name}")

        return self._request(apply)

    def associate(self, component, _experiment, trial):
        def apply():
            self._held(component)
            self.places.add((component, trial))
            return Answer("r")

        return self._request(apply)

    def disassociate(self, component, trial):
        def apply():
            self.places.discard((component, trial))
            return Answer("r")

        return self._request(apply)

    def declare(self, declared):
        def apply():
            if "poison" in dict(declared.make.tags).values():
                raise RemoteError("poisonous", kind=ErrorKind.PERMANENT, code="ValidationException")
            held = self.tags.setdefault(declared.make.name, dict(declared.make.tags))
            held.update(declared.change.tags if declared.change else ())
            return Answer("r", arn=f"arn:{declared.make.name}")

        return self._request(apply)

    def upload(self, blob):
        def apply():
            self.uploads[blob.sha256] += 1
            return Answer("r", uri=f"s3://bucket/{blob.component}/{blob.name}")

        return self._request(apply)

    def link(self, link):
        def apply():
            self._held(link.component)
            assert self.uploads[link.sha256], f"{link} was not uploaded"
            self.links.add((link.component, link.uri, link.name))
            return Answer("r")

        return self._request(apply)

    def put_document(self, document):
        def apply():
            self.documents_stored.setdefault(document.name, document.content)
            return Answer("r", uri=f"s3://bucket/{document.folder}/{document.name}")

        return self._request(apply)

    def update(self, component, fields):
        def apply():
            held = self._held(component)
            if "poison" in fields.parameters.values():
                raise RemoteError("poisonous", kind=ErrorKind.PERMANENT, code="ValidationException")
            held["parameters"].update(fields.parameters)
            held["artifacts"].update({k: a.value for k, a in fields.output_artifacts.items()})
            held["status"] = fields.status or held["status"]
            return Answer("r")

        return self._request(apply)

    def put_metrics(self, component, points):
        self.batches.append([p.value for p in points])

        def take(taken):
            for p in taken:
                point = (component, p.name, p.value, p.step)
                if not self.can.repeatable or point not in self.points:
                    self.points.append(point)

        def apply():
            self._held(component)
            if any(p.value < 0 for p in points):
                raise RemoteError("negative", kind=ErrorKind.PERMANENT, code="ValidationException")
            take(points)
            return Answer("r")

        def partly():
            self._held(component)
            codes = [
                "INTERNAL_ERROR",
                "METRIC_LIMIT_EXCEEDED",
                "CONFLICT_ERROR",
                "VALIDATION_ERROR",
            ]
            refused = {
                i: Refusal(
                    code, "refused", permanent=code in {"METRIC_LIMIT_EXCEEDED", "VALIDATION_ERROR"}
                )
                for i, code in zip(range(0, len(points), 2), codes, strict=False)
            }
            take(p for i, p in enumerate(points) if i not in refused)
            return Answer("r", refused=refused)

        return self._request(apply, codes=partly)

    def read_metrics(self, component, steps):
        def apply():
            if component not in self.components:
                return None
            totals, by_step = defaultdict(list), defaultdict(list)
            # of the later ones, every other is shown already
            shown = self.points[: self.visible] + self.points[self.visible :: 2]
            for owner, name, value, step in shown:
                if owner == component:
                    totals[name].append(value)
                    if step is not None and name in steps:
                        by_step[name, step].append(value)
            return ReadBack(
                {k: Shown(len(v), fmean(v)) for k, v in totals.items()},
                {k: Shown(len(v), fmean(v)) for k, v in by_step.items()},
                frozenset(steps),
                "r",
            )

        return self._request(apply)

    def _held(self, component):
        if component not in self.components:
            raise ComponentMissingError("gone", kind=ErrorKind.HOLD, code="ResourceNotFound")
        return self.components[component]
