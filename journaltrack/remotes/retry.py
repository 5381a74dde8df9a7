"""Retry requests: the only retry layer, and the only module that imports tenacity.

Wraps a remote. A ``TRANSIENT`` failure is retried with exponential backoff and full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). The number of attempts
is bounded, and none starts after the deadline. A metric request whose answer was lost is not
retried, unless the remote keeps such points once: it may have taken effect, and nothing would show
a duplicate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError

if TYPE_CHECKING:
    from journaltrack.journal.groups import Declared, Group, GroupKind
    from journaltrack.replay.evidence.readback import ReadBack
    from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
    from journaltrack.replay.remote import (
        Answer,
        ArtifactLink,
        BlobUpload,
        Capabilities,
        Document,
        Linked,
        Remote,
        RemoteComponent,
        RemoteObject,
    )
    from journaltrack.util.deadline import Deadline

T = TypeVar("T")

ATTEMPTS_MAX: Final = 8
"""Attempts of one request: about 30 s of backoff on average."""
FEW_ATTEMPTS_MAX: Final = 3
"""Attempts of a request that nothing waits for, unless it is throttled."""
UNREACHABLE_ATTEMPTS_MAX: Final = 3
"""Attempts if the endpoint is unreachable. A pass notices that in one or two seconds."""
UNREACHABLE_S: Final = 2.0
"""No more attempts if those after the first took this long. A connection times out after 3 s."""
WAIT_FIRST_S: Final = 0.2
WAIT_MAX_S: Final = 20.0
WAIT_THROTTLED_MAX_S: Final = 1.0
"""A throttled request also waits for its turn (``rate_limit``), for as long as necessary."""
_WAIT: Final = wait_random_exponential(multiplier=WAIT_FIRST_S, max=WAIT_MAX_S)
_WAIT_THROTTLED: Final = wait_random_exponential(multiplier=WAIT_FIRST_S, max=WAIT_THROTTLED_MAX_S)


class RetryingRemote:
    """A remote that retries what may succeed; implements ``journaltrack.replay.remote.Remote``.

    Args:
        inner: The remote to wrap.
        deadline: No attempt starts after it. Cancelling it ends a wait at once.
        attempts_max: Most attempts of one request.
        sleep: Waits for a number of seconds. None uses ``deadline.wait``.
    """

    def __init__(
        self,
        inner: Remote,
        *,
        deadline: Deadline,
        attempts_max: int = ATTEMPTS_MAX,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._inner = inner
        self._deadline = deadline
        self._attempts_max = attempts_max
        self._sleep: Callable[[float], object] = sleep or deadline.wait
        self._local = threading.local()
        self._idempotent = self._policy(_is_transient)
        self._few = self._policy(_is_transient, FEW_ATTEMPTS_MAX)
        self._once = self._policy(lambda _: False)
        self._metrics = self._policy(_is_transient_and_not_applied)

    def repeat(self, request: Callable[[], T]) -> T:
        """Make a request that may be made any number of times, with retries."""
        return self._call(self._idempotent, request)

    def attempts_of_last_call(self) -> int:
        """Return how often the calling thread's last request was sent."""
        return getattr(self._local, "attempts", 1)

    @property
    def can(self) -> Capabilities:
        """Return what the wrapped remote can do."""
        return self._inner.can

    def describe(self, component: str) -> RemoteComponent | None:
        """Describe the component, with retries."""
        return self._call(self._idempotent, lambda: self._inner.describe(component))

    def create(self, spec: ComponentSpec) -> Answer:
        """Create the component, with retries.

        If the component exists already, an earlier attempt may have made it: the caller checks.
        """
        return self._call(self._idempotent, lambda: self._inner.create(spec))

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Associate the component, with retries."""
        return self._call(
            self._idempotent, lambda: self._inner.associate(component, experiment, trial)
        )

    def disassociate(self, component: str, trial: str) -> Answer:
        """Take the component out of the trial, with retries."""
        return self._call(self._idempotent, lambda: self._inner.disassociate(component, trial))

    def declare(self, declared: Declared) -> Answer:
        """Declare. Try a few times: nothing waits for it."""
        return self._call(self._few, lambda: self._inner.declare(declared))

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Look it up, with retries."""
        return self._call(self._idempotent, lambda: self._inner.group(kind, name, tags=tags))

    def add_tags(self, component: str, tags: Mapping[str, str | None]) -> Answer:
        """Add tags. Try a few times: nothing waits for it."""
        return self._call(self._few, lambda: self._inner.add_tags(component, tags))

    def tags(self, component: str) -> Mapping[str, str] | None:
        """Return the tags, with retries."""
        return self._call(self._idempotent, lambda: self._inner.tags(component))

    def trials(self, component: str) -> frozenset[str] | None:
        """Return the trials, with retries."""
        return self._call(self._idempotent, lambda: self._inner.trials(component))

    def upload(self, blob: BlobUpload) -> Answer:
        """Upload the file, with retries."""
        return self._call(self._idempotent, lambda: self._inner.upload(blob))

    def link(self, link: ArtifactLink) -> Answer:
        """Link. Try a few times: nothing waits for it."""
        return self._call(self._few, lambda: self._inner.link(link))

    def linked(self, link: ArtifactLink) -> Linked:
        """Look it up."""
        return self._call(self._idempotent, lambda: self._inner.linked(link))

    def put_document(self, document: Document) -> Answer:
        """Store the document. Try once: the next pass writes another document."""
        return self._call(self._once, lambda: self._inner.put_document(document))

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> Mapping[str, bytes]:
        """Return the documents, with retries."""
        return self._call(self._idempotent, lambda: self._inner.documents(bucket, prefix, folder))

    def document_names(
        self, bucket: str | None, prefix: str | None, folder: str, after: str
    ) -> Sequence[str]:
        """Return the names. Try once: a pass waits for it."""
        return self._call(
            self._once, lambda: self._inner.document_names(bucket, prefix, folder, after)
        )

    def document(
        self, bucket: str | None, prefix: str | None, folder: str, name: str
    ) -> bytes | None:
        """Return the document. Try once: a pass waits for it."""
        return self._call(self._once, lambda: self._inner.document(bucket, prefix, folder, name))

    def update(self, component: str, fields: Fields) -> Answer:
        """Update the component, with retries."""
        return self._call(self._idempotent, lambda: self._inner.update(component, fields))

    def put_metrics(self, component: str, points: Sequence[MetricPoint]) -> Answer:
        """Record the points. Unless they repeat, retry only what certainly had no effect."""
        policy = self._idempotent if self.can.repeatable else self._metrics
        return self._call(policy, lambda: self._inner.put_metrics(component, points))

    def points(self, component: str, name: str) -> Iterable[MetricPoint]:
        """Read the points, with retries."""
        return self._call(self._idempotent, lambda: self._inner.points(component, name))

    def read_metrics(self, component: str, steps: Mapping[str, tuple[int, int]]) -> ReadBack | None:
        """Read the metrics, with retries."""
        return self._call(self._idempotent, lambda: self._inner.read_metrics(component, steps))

    def find_object(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """Find the object, with retries."""
        return self._call(self._idempotent, lambda: self._inner.find_object(uri, read=read))

    def _call(self, policy: Retrying, request: Callable[[], T]) -> T:
        self._local.attempts = 1
        # The remote may be shared with other passes.
        self._deadline.govern()
        # The fast path, taken nearly always: tenacity costs more than the rest of this class.
        try:
            return request()
        except RemoteError as error:
            first: RemoteError = error
        last: list[RemoteError] = [first]
        known = True

        def attempt() -> T:
            """Send the request once more."""
            nonlocal known
            # tenacity's first attempt stands for the request above. If the wait was cut short,
            # nothing is sent.
            if known or self._deadline.over:
                known = False
                raise last[0]
            self._local.attempts += 1
            try:
                return request()
            except RemoteError as error:
                # Any attempt may have been the one that took effect.
                error.maybe_applied |= last[0].maybe_applied
                last[0] = error
                raise

        return policy(attempt)

    def _policy(
        self, retryable: Callable[[BaseException], bool], failures_max: int | None = None
    ) -> Retrying:
        """Return how to retry. ``failures_max`` bounds attempts that were not throttled."""
        return Retrying(
            retry=retry_if_exception(retryable),
            stop=partial(self._has_to_stop, failures_max=failures_max),
            wait=_wait_s,
            sleep=self._pause,
            reraise=True,
        )

    def _pause(self, seconds: float) -> None:
        self._sleep(seconds)

    def _has_to_stop(self, state: RetryCallState, failures_max: int | None) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        unreachable = isinstance(error, RemoteError) and error.unreachable
        attempts_max = self._attempts_max
        if not (isinstance(error, RemoteError) and error.throttled):
            attempts_max = min(attempts_max, failures_max or attempts_max)
        if unreachable:
            # The endpoint is silent and does not refuse: another time-out would show nothing new.
            if (state.seconds_since_start or 0.0) > UNREACHABLE_S:
                return True
            attempts_max = min(attempts_max, UNREACHABLE_ATTEMPTS_MAX)
        return (
            state.attempt_number >= attempts_max
            or self._deadline.remaining_s() <= state.upcoming_sleep
        )


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    throttled = isinstance(error, RemoteError) and error.throttled
    return (_WAIT_THROTTLED if throttled else _WAIT)(state)


def _is_transient(error: BaseException) -> bool:
    if not isinstance(error, RemoteError) or error.code == DEADLINE_OVER:
        return False
    return error.kind is ErrorKind.TRANSIENT


def _is_transient_and_not_applied(error: BaseException) -> bool:
    return _is_transient(error) and isinstance(error, RemoteError) and not error.maybe_applied
