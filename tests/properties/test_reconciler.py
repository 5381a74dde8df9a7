"""A model that knows the truth: random calls, replays with faults and kills, against a real journal."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from journaltrack import entries as vocabulary
from journaltrack import lease as leases
from journaltrack.actions import expand
from journaltrack.entries import BlobRef
from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, RemoteError
from journaltrack.journal import Journal
from journaltrack.reconciler import Options, Reconciler
from journaltrack.remote import Answer, Refusal, RemoteComponent
from journaltrack.settlement import Settlement

CONCURRENCY = 3


class KilledError(BaseException):
    """The process ends here: no code of ours may catch it."""


class Truth:
    """A remote whose every effect is known, with a script of faults: one is taken per request."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.components: dict[str, dict] = {}
        self.points: list[tuple[str, float]] = []
        self.uploads: Counter[str] = Counter()
        self.script: list[str] = []
        self.of_metrics = False
        self.requests = 0

    def _request(self, apply, *, codes=None):
        with self.lock:
            self.requests += 1
            fault = self.script.pop(0) if self.script and (codes or not self.of_metrics) else "none"
            if fault == "kill before":
                raise KilledError
            if fault == "throttled":
                raise RemoteError("slow down", kind=ErrorKind.TRANSIENT, code="ThrottlingException")
            if fault == "unreachable":
                raise RemoteError("refused", kind=ErrorKind.TRANSIENT, code="EndpointConnectionError", unreachable=True)
            if fault == "expired":
                raise RemoteError("expired", kind=ErrorKind.HALT, code="ExpiredTokenException")
            if fault == "no answer, not applied":
                raise RemoteError("timeout", kind=ErrorKind.TRANSIENT, code="ReadTimeout", maybe_applied=True)
            if fault == "partial" and codes is not None:
                return codes()
            answer = apply()
            if fault == "no answer, applied":
                raise RemoteError("reset", kind=ErrorKind.TRANSIENT, code="ConnectionClosedError", maybe_applied=True)
            if fault == "kill after":
                raise KilledError
            return answer

    def describe(self, component):
        def apply():
            held = self.components.get(component)
            return held and RemoteComponent(component, f"arn:{component}", owner=held["owner"])

        return self._request(apply)

    def create(self, spec):
        def apply():
            if spec.name in self.components:
                raise AlreadyExistsError("it exists", kind=ErrorKind.PERMANENT, code="AlreadyExists")
            self.components[spec.name] = {"owner": spec.owner, "parameters": {}, "artifacts": {}}
            return Answer("r", arn=f"arn:{spec.name}")

        return self._request(apply)

    def associate(self, component, experiment, trial):
        return self._request(lambda: Answer("r"))

    def upload(self, blob):
        def apply():
            self.uploads[blob.sha256] += 1
            return Answer("r", uri=f"s3://bucket/{blob.component}/{blob.name}")

        return self._request(apply)

    def update(self, component, fields):
        def apply():
            held = self._held(component)
            if "poison" in fields.parameters.values():
                raise RemoteError("poisonous", kind=ErrorKind.PERMANENT, code="ValidationException")
            held["parameters"].update(fields.parameters)
            held["artifacts"].update({k: a.value for k, a in fields.output_artifacts.items()})
            return Answer("r")

        return self._request(apply)

    def put_metrics(self, component, points):
        def apply():
            self._held(component)
            if any(p.value < 0 for p in points):
                raise RemoteError("negative", kind=ErrorKind.PERMANENT, code="ValidationException")
            self.points += [(component, p.value) for p in points]
            return Answer("r")

        def partly():
            self._held(component)
            refused = {0: Refusal("INTERNAL_ERROR", "again", permanent=False)}
            if len(points) > 1:
                refused[len(points) - 1] = Refusal("METRIC_LIMIT_EXCEEDED", "full", permanent=True)
            self.points += [(component, p.value) for i, p in enumerate(points) if i not in refused]
            return Answer("r", refused=refused)

        return self._request(apply, codes=partly)

    def _held(self, component):
        if component not in self.components:
            raise ComponentMissingError("gone", kind=ErrorKind.HOLD, code="ResourceNotFound")
        return self.components[component]


FAULTS = st.lists(
    st.sampled_from(
        [
            "none",
            "no answer, applied",
            "no answer, not applied",
            "partial",
            "kill after",
            "kill before",
            "throttled",
            "unreachable",
            "expired",
        ]
    ),
    min_size=1,
    max_size=6,
)
COMPONENTS = st.sampled_from(["a", "b"])


class ReplayMachine(RuleBasedStateMachine):
    """Calls, replays, faults and kills in any order."""

    @initialize(known=st.booleans())
    def open(self, known) -> None:
        """A new journal with two components."""
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal.open(self.folder)
        self.truth = Truth()
        self.numbers = itertools.count(1)
        for name in "ab":
            self.journal.append(self.journal.component(name), [vocabulary.create(owner=f"owner of {name}")])
        if known:  # most faults are interesting behind the creation
            self.replay_in_peace()

    def teardown(self) -> None:
        """Remove the journal."""
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)

    @rule(component=COMPONENTS, count=st.integers(1, 25))
    def log_metrics(self, component, count) -> None:
        """Points with values that occur once."""
        self._log(component, [float(next(self.numbers)) for _ in range(count)])

    @rule(component=COMPONENTS, count=st.integers(1, 12))
    def log_spoiled_metrics(self, component, count) -> None:
        """Points among which AWS refuses one, and one that can't be sent at all."""
        values = [float(next(self.numbers)) for _ in range(count)]
        values[count // 2] *= -1
        self._log(component, [*values, float("nan")])

    def _log(self, component, values) -> None:
        self.journal.append(self.journal.component(component), [vocabulary.metric("m", v, 0, 1) for v in values])

    @rule(component=COMPONENTS, key=st.sampled_from("xyz"), poison=st.booleans())
    def log_parameter(self, component, key, poison) -> None:
        """A parameter, perhaps one that AWS refuses."""
        value = "poison" if poison else float(next(self.numbers))
        self.journal.append(self.journal.component(component), [vocabulary.parameter(key, value)])

    @rule(component=COMPONENTS, content=st.sampled_from("pq"))
    def log_artifact(self, component, content) -> None:
        """An artifact of one of two contents."""
        blob = BlobRef(content.encode().hex() * 32, None, None)
        drafts = [vocabulary.upload(content, blob, 1, None, "f"), vocabulary.artifact("output", content, blob, None)]
        self.journal.append(self.journal.component(component), drafts)

    @rule(script=FAULTS, of_metrics=st.booleans())
    def replay_with_faults(self, script, of_metrics) -> None:
        """A pass that meets faults (of its metric requests, or of whatever comes), and perhaps does not survive them."""
        self.truth.script = list(script)
        self.truth.of_metrics = of_metrics
        with contextlib.suppress(KilledError):
            Reconciler(self.journal, self.truth, options=Options(concurrency=CONCURRENCY)).run()
        self.truth.script = []

    @rule()
    def replay_in_peace(self) -> None:
        """A pass without faults ends with nothing pending, and the next one makes no request."""
        report = Reconciler(self.journal, self.truth, options=Options(concurrency=CONCURRENCY)).run()
        assert report.pending == 0, report
        before = self.truth.requests
        Reconciler(self.journal, self.truth).run()
        assert self.truth.requests == before

    @precondition(lambda self: any(s == "quarantined" for s in self.states().values()))
    @rule()
    def release(self) -> None:
        """Quarantined entries become pending again."""
        lease = leases.acquire(self.journal.database)
        Settlement(self.journal.database, lease).release(["quarantined"])
        lease.release()

    def states(self) -> dict[int, str]:
        """The state of every entry, from the tables alone."""
        read = self.journal.database.read
        states = dict.fromkeys((seq for (seq,) in read("SELECT seq FROM entry")), "pending")
        for (seqs,) in read("SELECT entries FROM receipt WHERE finished_at_ns IS NULL"):
            states.update(dict.fromkeys(expand(seqs), "in flight"))
        states.update(dict(read("SELECT seq, outcome FROM delivery")))
        return states

    @invariant()
    def points_are_where_the_journal_says(self) -> None:
        """Delivered points are there once, pending and quarantined ones are not, in-doubt and in-flight ones once at most."""
        if not hasattr(self, "journal"):
            return
        there = Counter(self.truth.points)
        states = self.states()
        for entry in self.journal.entries(limit=10**6):
            if entry.kind != "metric" or entry.value is None:
                continue
            count = there.pop((entry.component, entry.value), 0)
            state = states[entry.seq]
            assert count <= 1, f"{entry} was recorded {count} times"
            if state == "delivered":
                assert count == 1, f"{entry} is not there"
            elif state in {"pending", "quarantined"}:
                assert count == 0, f"{entry} is {state} and there"
            else:
                assert state in {"in doubt", "in flight"}
        assert not there, "the remote has points that the journal does not know"

    @invariant()
    def parameters_are_the_fold_of_what_was_delivered(self) -> None:
        """Where nothing is pending, the remote holds for each key the last value that was delivered."""
        if not hasattr(self, "journal"):
            return
        states = self.states()
        for component in self.journal.components():
            entries = [e for e in self.journal.state_entries(component.id) if e.kind == "parameter"]
            if any(states[e.seq] in {"pending", "in flight"} for e in entries):
                continue
            expected = {}
            for entry in entries:
                if states[entry.seq] == "delivered":
                    expected[entry.name] = entry.value
            held = self.truth.components.get(component.name, {"parameters": {}})["parameters"]
            assert {k: v for k, v in held.items() if k in expected} == expected

    @invariant()
    def the_mark_is_below_everything_pending(self) -> None:
        """No pending entry is hidden below the low-water mark."""
        if not hasattr(self, "journal"):
            return
        mark = self.journal.database.read("SELECT seq FROM mark")[0][0]
        assert all(seq > mark for seq, state in self.states().items() if state in {"pending", "in flight"})


TestReplay = ReplayMachine.TestCase
TestReplay.settings = settings(
    max_examples=int(os.environ.get("JOURNALTRACK_EXAMPLES", "100")),
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
