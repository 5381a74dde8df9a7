"""Verify that the remote holds what a journal delivered.

It reads both and changes neither. Threads that touch only the remote ask for a few components at a
time; the remote limits its own rate.

Claims are read before the remote is asked. So what a pass sends meanwhile is extra, and never seems
missing. Before a component is reported as different, it is asked for again if a request about it
was sent meanwhile.

Anchors are listed at the remote, and the journal is compared with them. The journal names the
places where they may be, or the configuration does. The journal's own record of its anchors is no
proof: whoever removes the journal's end removes that record, too.

Invariant: memory does not grow with the journal. Must not know boto3 or the tracker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError
from journaltrack.journal import view
from journaltrack.journal.chain import ChainProblem
from journaltrack.journal.fold import Artifact
from journaltrack.journal.queries import last_receipt_id
from journaltrack.replay.evidence import anchors, readback
from journaltrack.replay.pass_report import PassReport, Progress, error_to_json
from journaltrack.reports.proof.attested import evidence_of
from journaltrack.reports.proof.check import anchor_problems
from journaltrack.util import patterns
from journaltrack.util.deadline import Deadline
from journaltrack.util.threads import DaemonPool
from journaltrack.verification import expected, shared_runs
from journaltrack.verification.diff import (
    REPEATED,
    Claims,
    Difference,
    GroupClaim,
    Kind,
    PointKey,
    What,
    compare,
    compare_group,
    compare_link,
    compare_object,
    compare_points,
    compare_tags,
    compare_trials,
    empty_steps,
    is_foreign,
)
from journaltrack.verification.expected import Undelivered

if TYPE_CHECKING:
    from journaltrack.journal.groups import Group
    from journaltrack.journal.journal import ComponentRow, Journal
    from journaltrack.replay.remote import (
        Capabilities,
        Linked,
        Remote,
        RemoteComponent,
        RemoteObject,
    )

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AnchorsReport:
    """The result of comparing a journal with its anchors.

    Attributes:
        documents: How many anchors were found.
        problems: Where the journal lacks or contradicts what an anchor states; missing anchors.
        note: Why the remote could not be asked, about one place or all of them, if so.
        places: In how many places anchors were looked for.
    """

    documents: int = 0
    problems: tuple[ChainProblem, ...] = ()
    note: str | None = None
    places: int = 0


def compare_with_anchors(
    journal: Journal,
    remote: Remote,
    *,
    default_place: bool = False,
    prefix: str | None = "",
    of_copies: bool = False,
) -> AnchorsReport:
    """Fetch the anchors and compare the journal with them.

    Args:
        journal: The journal, opened read-only.
        remote: The remote that holds the anchors.
        default_place: Look also at the places for journals without artifacts.
        prefix: The prefix of a journal's first anchor, see ``anchors.make``.
        of_copies: If the journal knows of no place, look where another copy would have made the
            first anchor.
    """
    known = anchors.last(journal.database)
    places = anchors.places(journal.database, default=default_place, prefix=prefix)
    if known is not None and known.uri is None and not default_place:
        # Its only anchors are parameters of components.
        places = []
    elif not places and of_copies:
        places = anchors.places_of_copies(journal.database, prefix)
    documents: dict[str, bytes] = {}
    note = None
    for place in places:
        try:
            documents.update(remote.documents(*place, anchors.folder_of(journal.journal_id)))
        except RemoteError as error:  # noqa: PERF203 - a request costs more
            note = f"{error.code}: {error.message}"
            # A policy may allow one place and not the other.
            if error.unreachable:
                break
    with view.snapshot(journal.database):
        gaps = evidence_of(journal.database).gaps
        problems = anchor_problems(journal.database, documents, gaps)
    if (
        known is not None
        and known.uri is not None
        and note is None
        and not any(known.sha256 in name for name in documents)
    ):
        problems.append(
            ChainProblem(
                "anchor", f"the newest anchor that the journal knows of is gone: {known.uri}"
            )
        )
    return AnchorsReport(len(documents), tuple(problems), note, len(places))


REQUESTS_PER_S: Final = 10.0
"""Our default for requests per second: a check has time, and training's passes come first."""
CONCURRENCY: Final = 4
"""Requests in flight."""
DIFFERENCES_MAX: Final = 10_000
"""Our limit for the differences that a report lists. The others are only counted."""
_GROUP_COMPONENTS: Final = 200
"""For how many components one scan of the journal sums up the metrics."""
_PASSING_MAX: Final = 3
"""After this many failures in a row, each after retries, a verification ends."""
_BUSY: Final = "a sync is sending to this component now: verify again after it"


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to verify.

    Attributes:
        component: Shell pattern of component names, case-insensitive; None for all.
        deep: Read the content of objects for which the store has no digest.
        visible_after_s: Seconds after a delivery in which the remote may not show the points yet.
        timestamps: For a repair, see ``reconciler.Options``.
        anchor: Where passes put anchors, see ``reconciler.Options``. Anchors are compared only when
            all components are verified.
        anchor_prefix: The prefix of a journal's first anchor, see ``anchors.make``.
        names: Verify only components of these names; None for all that the pattern matches.
        shared: Runs that other journals have, too: what those delivered is no difference.
    """

    component: str | None = None
    deep: bool = False
    visible_after_s: float = readback.VISIBLE_AFTER_S
    timestamps: str = "keep"
    anchor: str = "artifacts"
    anchor_prefix: str | None = ""
    names: frozenset[str] | None = None
    shared: shared_runs.Shared = field(default_factory=dict)

    def of(self, names: frozenset[str]) -> VerifyOptions:
        """Return the same options for these components."""
        return replace(self, component=None, names=names)

    def wants(self, name: str) -> bool:
        """Return whether to verify the component of that name."""
        if self.names is not None:
            return name in self.names
        return patterns.fits(name, self.component)


@dataclass(slots=True)
class Checked:
    """How much was compared.

    "Checksum" objects are compared by the store's digest of the whole, "content" objects by reading
    them. "Size" objects are compared by their size and the digest that we noted at their upload.
    """

    components: int = 0
    parameters: int = 0
    artifacts: int = 0
    metrics: int = 0
    points: int = 0
    objects_by_checksum: int = 0
    objects_by_content: int = 0
    objects_by_size: int = 0
    lineage: int = 0
    trials: int = 0
    groups: int = 0
    tags: int = 0


@dataclass(slots=True)
class Repair:
    """A repair's result: entries made pending again, and the passes that sent them."""

    reopened: int = 0
    passes: list[PassReport] = field(default_factory=list)


@dataclass(slots=True)
class VerifyReport:
    """The result of comparing the remote with the journal.

    Attributes:
        journal, journal_id: The journal's path and identity.
        at_ns: When the verification began, nanoseconds since the epoch.
        receipt_id: The journal's newest receipt at that time.
        checked: How much was compared.
        counts: Number of differences by kind.
        differences: The first ``DIFFERENCES_MAX`` of them.
        undelivered: Entries of the components of which nothing is claimed yet.
        unverified: Number of components of which nothing was delivered.
        halted: Why the verification ended early, if it did.
        out_of_time: Whether the deadline ended it.
        duration_s: How long it took, in seconds.
        repair: The repair before this; None if none was asked for.
        anchors: The comparison with the journal's anchors; None if they were not compared.
    """

    journal: str
    journal_id: str
    at_ns: int
    receipt_id: int
    checked: Checked = field(default_factory=Checked)
    counts: dict[Kind, int] = field(
        default_factory=lambda: {"missing": 0, "different": 0, "extra": 0, "unknown": 0}
    )
    differences: list[Difference] = field(default_factory=list)
    undelivered: Undelivered = field(default_factory=Undelivered)
    unverified: int = 0
    halted: RemoteError | None = None
    out_of_time: bool = False
    duration_s: float = 0.0
    repair: Repair | None = None
    anchors: AnchorsReport | None = None

    @property
    def complete(self) -> bool:
        """Return whether everything delivered was compared, with a known result."""
        return self.halted is None and not self.out_of_time and not self.counts["unknown"]

    @property
    def verified(self) -> bool:
        """Return whether the remote holds everything delivered, as it was sent."""
        anchored = self.anchors is None or not self.anchors.problems
        return (
            self.complete
            and anchored
            and not self.counts["missing"]
            and not self.counts["different"]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report for ``json.dumps``, see ``journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(replace(self, halted=None, repair=None))
        for difference, told in zip(self.differences, converted["differences"], strict=True):
            for internal in ("component_id", "blob", "steps"):
                del told[internal]
            told["sha256"] = difference.blob.sha256 if difference.blob else None
            told["missing_steps"] = [list(interval) for interval in difference.steps]
            if difference.what == "status" and difference.name in {"start", "end"}:
                told["expected"], told["found"] = (
                    view.iso(difference.expected),
                    view.iso(difference.found),
                )
        converted["verified"] = self.verified
        converted["halted"] = error_to_json(self.halted)
        if self.repair is not None:
            passes = [each.to_json() for each in self.repair.passes]
            converted["repair"] = {"reopened": self.repair.reopened, "passes": passes}
        return converted


@dataclass(frozen=True, slots=True)
class _Found:
    """The remote's answers about one component."""

    component: RemoteComponent | None
    objects: Sequence[RemoteObject | RemoteError | None] = ()
    links: Sequence[Linked | RemoteError] = ()
    objects_read: int = 0
    trials: frozenset[str] | RemoteError | None = None
    tags: Mapping[str, str] | RemoteError | None = None
    group: Group | RemoteError | None = None
    # By metric, where the remote shows every point.
    points: Mapping[str, set[PointKey]] = field(default_factory=dict)


class Verifier:
    """Compare one journal with one remote.

    Args:
        journal: The journal, opened read-only.
        remote: A remote that retries, limits its rate, and raises only ``RemoteError``.
        options: What to verify.
        deadline: When it is over, the verification ends.
        on_progress: Called on the caller's thread, when components were compared.
        clock_ns: Returns nanoseconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        remote: Remote,
        *,
        options: VerifyOptions | None = None,
        deadline: Deadline | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._journal = journal
        self._remote = remote
        self._options = options or VerifyOptions()
        self._deadline = deadline or Deadline()
        self._on_progress = on_progress
        self._clock_ns = clock_ns
        self._report = VerifyReport(
            str(journal.path), journal.journal_id, clock_ns(), last_receipt_id(journal.database)
        )
        self._failures = 0

    def run(self) -> VerifyReport:
        """Verify every component of which something was delivered.

        Returns:
            The result. It includes failed requests, which are not raised.

        Raises:
            NothingMatchesError: No component matches. The remote was not asked.
            JournalError: The journal can't be read.
        """
        started = time.monotonic()
        ids = view.matching(self._journal, self._options.component)
        rows = [row for row in self._journal.components() if self._options.wants(str(row.name))]
        self._report.undelivered = expected.undelivered(self._journal.database, ids)
        pool = DaemonPool(CONCURRENCY, "journaltrack-verify")
        try:
            self._look_at(rows, pool)
            if (
                not self._ended()
                and self._options.component is None
                and self._options.names is None
                and self._remote.can.documents
            ):
                by_default = self._options.anchor == "s3"
                self._report.anchors = compare_with_anchors(
                    self._journal,
                    self._remote,
                    default_place=by_default,
                    prefix=self._options.anchor_prefix,
                    of_copies=self._options.anchor not in {"off", "parameter"},
                )
        finally:
            pool.shutdown(wait=not self._deadline.over, cancel_futures=True)
        self._report.out_of_time = self._deadline.over and self._report.halted is None
        self._report.duration_s = time.monotonic() - started
        return self._report

    def _look_at(self, rows: Sequence[ComponentRow], pool: DaemonPool) -> None:
        running: dict[Future[_Found], Claims] = {}
        waiting = deque[Claims]()
        groups = self._groups(rows)
        judged = 0
        while not self._ended():
            if not waiting and (group := next(groups, None)) is not None:
                waiting += group
            while waiting and len(running) < CONCURRENCY:
                claims = waiting.popleft()
                running[pool.submit(self._ask, claims)] = claims
            if not running:
                return
            finished, _ = wait(
                running, timeout=min(1.0, self._deadline.remaining_s()), return_when=FIRST_COMPLETED
            )
            for future in finished:
                self._judge(running.pop(future), future)
                judged += 1
            if self._on_progress is not None and finished:
                self._on_progress(Progress(judged + self._report.unverified, len(rows)))

    def _groups(self, rows: Sequence[ComponentRow]) -> Iterator[list[Claims]]:
        for start in range(0, len(rows), _GROUP_COMPONENTS):
            group = rows[start : start + _GROUP_COMPONENTS]
            found = self._read(group)
            self._report.unverified += len(group) - len(found)
            if found:
                yield found

    def _ask(self, claims: Claims) -> _Found:
        """Ask the remote about one component. Called on a worker's thread."""
        if claims.group is not None:
            return self._ask_of_group(claims.group.group)
        component = self._remote.describe(claims.name)
        objects: list[RemoteObject | RemoteError | None] = []
        links: list[Linked | RemoteError] = []
        objects_read = 0
        for claim in claims.objects:
            self._refuse_if_over()
            try:
                found = self._remote.find_object(claim.uri)
                if (
                    self._options.deep
                    and found is not None
                    and found.sha256 is None
                    and found.size_bytes == claim.size_bytes
                ):
                    found = self._remote.find_object(claim.uri, read=True)
                    objects_read += 1
            except RemoteError as error:
                if error.unreachable or error.everywhere:
                    raise
                objects.append(error)
            else:
                objects.append(found)
        for each in claims.links if component is not None else ():
            self._refuse_if_over()
            try:
                links.append(self._remote.linked(each.link))
            except RemoteError as error:
                if error.unreachable or error.everywhere:
                    raise
                links.append(error)
        there = component is not None
        trials = self._told(lambda: self._remote.trials(claims.name), claims.trials and there)
        tags = self._told(lambda: self._remote.tags(claims.name), claims.tags and there)
        points = self._points_there(claims) if there else {}
        return _Found(component, objects, links, objects_read, trials, tags, points=points)

    def _points_there(self, claims: Claims) -> dict[str, set[PointKey]]:
        """Ask for every point, where the remote shows them."""
        points: dict[str, set[PointKey]] = {}
        can = self._remote.can
        for name in (
            expected.metrics_of(self._journal.database, claims.component_id)
            if can.reads_points
            else ()
        ):
            self._refuse_if_over()
            points[name] = {
                expected.point_key(each.value, each.step or 0, each.timestamp_ns, can)
                for each in self._remote.points(claims.name, name)
            }
        return points

    def _told(self, ask: Callable[[], T], wanted: object) -> T | RemoteError | None:
        if not wanted:
            return None
        self._refuse_if_over()
        try:
            return ask()
        except RemoteError as error:
            if error.unreachable or error.everywhere:
                raise
            return error

    def _ask_of_group(self, wanted: Group) -> _Found:
        """Ask about an experiment or trial. Without a permission for it, the others are compared.

        Its tags have a permission of their own.
        """
        ask = partial(self._remote.group, wanted.kind, wanted.name)
        refusal: RemoteError | None = None
        if wanted.tags:
            found = self._told(ask, wanted=True)
            if not isinstance(found, RemoteError):
                return _Found(None, group=found)
            # Many failures in a row end the comparison.
            if found.kind is ErrorKind.TRANSIENT:
                raise found
            refusal = found
        group = self._told(partial(ask, tags=False), wanted=True)
        return _Found(None, group=group, tags=refusal)

    def _refuse_if_over(self) -> None:
        if self._deadline.over:
            raise RemoteError("the deadline expired", kind=ErrorKind.TRANSIENT, code=DEADLINE_OVER)

    def _judge(self, claims: Claims, future: Future[_Found]) -> None:
        try:
            found = future.result()
            differences = self._differences(claims, found)
            for _ in range(2):
                if (
                    not differences
                    or expected.last_receipt(self._journal.database, claims.component_id)
                    == claims.receipt_id
                ):
                    break
                claims = self._again(claims)
                found = self._ask(claims)
                differences = self._differences(claims, found)
            else:
                differences = [
                    replace(each, kind="unknown", repairable=False, steps=(), note=_BUSY)
                    for each in differences
                ]
        except RemoteError as error:
            self._failed(claims, error)
            return
        self._failures = 0
        self._count(claims, found)
        self._add(differences)

    def _again(self, claims: Claims) -> Claims:
        rows = [row for row in self._journal.components() if row.id == claims.component_id]
        return next(iter(self._read(rows)), claims)

    def _read(self, rows: Sequence[ComponentRow]) -> list[Claims]:
        note_tag = self._remote.can.note_tag
        found = expected.read(self._journal, rows, note_tag)
        return shared_runs.completed(found, self._journal, self._options.shared, note_tag)

    def _differences(self, claims: Claims, found: _Found) -> list[Difference]:
        if claims.group is not None:
            return [*_of_group(claims, claims.group, found)]
        database = self._journal.database
        until_ns = self._clock_ns() - int(self._options.visible_after_s * 1e9)
        told = compare(
            self._as_held(claims),
            found.component,
            shown_until_ns=until_ns,
            logged=expected.logged(database, claims),
        )
        differences = [self._with_steps(claims, found.component, each) for each in told]
        for claim, there in zip(claims.objects, found.objects, strict=True):
            if isinstance(there, RemoteError):
                untold = _untold(claims, "object", there, claim.uri)
                differences.append(replace(untold, blob=claim.blob))
            elif (difference := compare_object(claims, claim, there)) is not None:
                differences.append(difference)
        return [
            *differences,
            *self._of_points(claims, found),
            *_of_lineage(claims, found),
            *_told_apart(claims, "trial", found.trials, compare_trials),
            *_told_apart(claims, "tag", found.tags, compare_tags),
        ]

    def _as_held(self, claims: Claims) -> Claims:
        """Return the claims with values as the remote keeps them.

        Without metrics, if it shows every point: those are compared one by one.
        """
        can = self._remote.can
        fields = {
            place: replace(
                claim,
                value=_held(can, claim.value),
                also=tuple(_held(can, each) for each in claim.also),
            )
            for place, claim in claims.fields.items()
        }
        metrics = {} if can.reads_points else claims.metrics
        return replace(claims, fields=fields, metrics=metrics)

    def _of_points(self, claims: Claims, found: _Found) -> Iterator[Difference]:
        if found.component is None:
            return
        foreign = is_foreign(claims, found.component)
        for name, there in found.points.items():
            delivered, others = expected.points_of(
                self._journal.database, claims.component_id, name, self._remote.can
            )
            yield from compare_points(claims, name, delivered, others, there, foreign=foreign)

    def _with_steps(
        self, claims: Claims, component: RemoteComponent | None, difference: Difference
    ) -> Difference:
        """Add the steps of a metric that are proven to be missing: safe to repair.

        Also remark on steps with several points, of which a stand-in for AWS may keep one.
        """
        name = difference.name or ""
        if (
            difference.what != "metric"
            or difference.kind != "different"
            or name not in claims.metrics
            or component is None
        ):
            return difference
        if claims.metrics[name].removed:
            return difference
        if claims.exclusive and component.owner != claims.owner:
            return difference
        delivered = expected.steps_of(self._journal.database, claims.component_id, name)
        if delivered is None:
            return difference
        remark = REPEATED if max(delivered.values()) > 1 else None
        if remark is not None:
            note = difference.note
            difference = replace(difference, note=f"{note}; {remark}" if note else remark)
        shown = self._remote.read_metrics(claims.name, {name: (min(delivered), max(delivered))})
        if shown is None or name not in shown.by_step or name not in shown.totals:
            return difference
        by_step: Mapping[int, int] = {
            step: each.points for (metric, step), each in shown.steps.items() if metric == name
        }
        steps = empty_steps(delivered, by_step, shown.totals[name].points)
        if not steps:
            return difference
        return replace(difference, repairable=True, steps=steps, note=remark)

    def _failed(self, claims: Claims, error: RemoteError) -> None:
        if self._deadline.over:
            return
        self._failures += 1
        halts = error.kind is ErrorKind.HALT and not error.uploads_only
        if error.unreachable or error.everywhere or halts or self._failures >= _PASSING_MAX:
            self._report.halted = self._report.halted or error
        what: What = claims.group.group.kind if claims.group is not None else "component"
        self._add([_untold(claims, what, error, claims.name)])

    def _add(self, differences: Sequence[Difference]) -> None:
        for difference in differences:
            self._report.counts[difference.kind] += 1
        room = DIFFERENCES_MAX - len(self._report.differences)
        self._report.differences += differences[: max(room, 0)]

    def _count(self, claims: Claims, found: _Found) -> None:
        checked = self._report.checked
        if claims.group is not None:
            checked.groups += not isinstance(found.group, RemoteError)
            return
        checked.components += 1
        if isinstance(found.trials, frozenset):
            checked.trials += len(claims.trials)
        if claims.tags and isinstance(found.tags, Mapping):
            checked.tags += len(claims.tags)
        parameters = sum(field_map == "parameters" for field_map, _ in claims.fields)
        checked.parameters += parameters
        checked.artifacts += len(claims.fields) - parameters
        checked.metrics += len(claims.metrics)
        checked.points += sum(metric.points for metric in claims.metrics.values())
        there = [
            each for each in found.objects if each is not None and not isinstance(each, RemoteError)
        ]
        by_size = sum(each.sha256 is None for each in there)
        checked.objects_by_size += by_size
        checked.objects_by_content += found.objects_read
        checked.objects_by_checksum += len(there) - by_size - found.objects_read

        checked.lineage += sum(not isinstance(each, RemoteError) for each in found.links)

    def _ended(self) -> bool:
        return self._report.halted is not None or self._deadline.over


def _held(can: Capabilities, value: str | float | Artifact) -> str | float | Artifact:
    return value if isinstance(value, Artifact) else can.held(value)


def _told_apart(
    claims: Claims,
    what: What,
    found: T | RemoteError | None,
    compared: Callable[[Claims, T], Iterator[Difference]],
) -> Iterator[Difference]:
    if isinstance(found, RemoteError):
        yield _untold(claims, what, found)
    elif found is not None:
        yield from compared(claims, found)


def _untold(
    claims: Claims, what: What, refusal: RemoteError, name: str | None = None
) -> Difference:
    note = f"{refusal.code}: {refusal.message}"
    return Difference(claims.component_id, claims.name, "unknown", what, name, note=note)


def _of_group(claims: Claims, claim: GroupClaim, found: _Found) -> Iterator[Difference]:
    wanted, kind = claim.group, claim.group.kind
    if isinstance(found.group, RemoteError):
        yield _untold(claims, kind, found.group, wanted.name)
    elif isinstance(found.tags, RemoteError) and found.group is not None:
        known = replace(claim, group=replace(wanted, tags=()))
        yield from compare_group(claims, known, found.group)
        yield _untold(claims, kind, found.tags, "tags")
    else:
        yield from compare_group(claims, claim, found.group)


def _of_lineage(claims: Claims, found: _Found) -> Iterator[Difference]:
    if found.component is None:
        return
    for claim, there in zip(claims.links, found.links, strict=True):
        if isinstance(there, RemoteError):
            yield replace(_untold(claims, "lineage", there, claim.link.name), seq=claim.seq)
        elif difference := compare_link(claims, claim, there, found.component):
            yield difference
