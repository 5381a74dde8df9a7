"""The evidence: every attestation is in its chain, and together they say what became of every entry. Changes nothing.

Reads attestations alone, in the order in which they were recorded or applied here. What they amount to is in ``Evidence``, which
``records`` holds against the journal's own tables. Memory grows with requests (about 300 bytes each), not with entries.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from journaltrack.journal import entries as vocabulary
from journaltrack.journal.chain import ChainProblem, Removed, read_body, take_gaps, told
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay.evidence.taken import TAKEN
from journaltrack.reports.proof.chains import chains
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

_RELEASED: Final = "released"
_ARRIVED: Final = frozenset({"delivered", "superseded"})
_READBACK: Final = "readback"
_REOPEN: Final = "reopen"
_MERGE: Final = "merge"
_PROVES_NOTHING: Final = frozenset({"repair", _MERGE})
"""Actions that say it of other requests: a settlement may name another receipt."""


class Claim(NamedTuple):
    """What was attested of a run of one writer's entries: by which receipt, and what became of them when."""

    attestation: int
    receipt_id: int | None
    outcome: str
    reason: str | None
    at_ns: int
    by_merge: bool = False  # what was found when copies were brought together: the record may name any request


T = TypeVar("T")


class Coverage(Generic[T]):
    """Claims about the entries of one writer: the last one about each place holds."""

    __slots__ = ("_claims", "_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._claims: list[T] = []

    def put(self, first: int, last: int, claim: T | None) -> None:
        """These places have this claim, or (None) none any more."""
        if not self._lasts or first > self._lasts[-1]:
            if claim is not None:
                self._firsts.append(first)
                self._lasts.append(last)
                self._claims.append(claim)
            return
        start = bisect.bisect_left(self._lasts, first)
        end = bisect.bisect_right(self._firsts, last)
        firsts, lasts, claims = [], [], []
        if start < end and self._firsts[start] < first:
            firsts.append(self._firsts[start])
            lasts.append(first - 1)
            claims.append(self._claims[start])
        if claim is not None:
            firsts.append(first)
            lasts.append(last)
            claims.append(claim)
        if start < end and self._lasts[end - 1] > last:
            firsts.append(last + 1)
            lasts.append(self._lasts[end - 1])
            claims.append(self._claims[end - 1])
        self._firsts[start:end], self._lasts[start:end], self._claims[start:end] = firsts, lasts, claims

    def of(self, first: int, last: int) -> list[tuple[int, int, T]]:
        """The claims about these places, in order, cut to them."""
        start, end = bisect.bisect_left(self._lasts, first), bisect.bisect_right(self._firsts, last)
        return [(max(first, self._firsts[i]), min(last, self._lasts[i]), self._claims[i]) for i in range(start, end)]

    def all(self) -> Iterator[tuple[int, int, T]]:
        """All of them, in order."""
        return zip(self._firsts, self._lasts, self._claims, strict=True)


@dataclass(slots=True)
class Evidence:
    """What the attestations amount to.

    Attributes:
        coverage: By the writer's uuid: what became of its entries.
        components: By name in lower case: (ARN or None, when it was confirmed or None).
        objects: By (component in lower case, sha256, bucket, prefix): the URI and the receipt of the last upload.
        uploads: By receipt: what it uploaded, as in ``objects``.
        generation: The highest of a lease.
        gaps: See ``chain.Gaps``; ``gaps_to_come`` were told by merges alone, before the attestations of them came.
        pruned_to: By the writer's uuid: the last place that was removed here, and not in another copy.
        blobs_removed: Contents that were removed from the spool on the record.
    """

    coverage: dict[str, Coverage[Claim]] = field(default_factory=lambda: defaultdict(Coverage))
    components: dict[str, tuple[str | None, int | None]] = field(default_factory=dict)
    objects: dict[tuple[str, str, str, str], tuple[str, int | None]] = field(default_factory=dict)
    uploads: dict[int, tuple[str, str, str, str]] = field(default_factory=dict)
    generation: int = 0
    gaps: dict[str, Removed] = field(default_factory=dict)
    gaps_to_come: dict[str, Removed] = field(default_factory=dict)
    pruned_to: dict[str, int] = field(default_factory=dict)
    blobs_removed: set[str] = field(default_factory=set)


def attestation_problems(database: Database, evidence: Evidence) -> list[ChainProblem]:
    """The first broken link of each chain of attestations; what the others say goes into ``evidence``."""
    started = chains(database, attestations=True)
    found = []
    with database.lock, translated(database.path):
        rows = database.connection.execute("SELECT id, writer_id, writer_seq, receipt_id, body, digest FROM attestation ORDER BY id")
        for number, writer_id, writer_seq, receipt_id, body, digest in rows:
            chain = started.get(writer_id)
            if chain is None:
                message = f"attestation {number} is of writer {told(writer_id)}, which is not recorded"
                found.append(ChainProblem("attestation", message))
                continue
            if chain.broken:
                continue
            if writer_seq != chain.writer_seq + 1:
                message = f"attestation {number} is number {told(writer_seq)} of its writer, {chain.writer_seq + 1} was expected"
                found.append(chain.problem("attestation", message))
                continue
            if not isinstance(body, str) or vocabulary.attestation_next(chain.digest, body) != digest:
                found.append(
                    chain.problem("attestation", f"attestation {number} is not what was attested: its digest does not fit its body")
                )
                continue
            chain.digest, chain.writer_seq = digest, writer_seq
            members = read_body(body)
            if members is None or not take(evidence, number, receipt_id, members):
                found.append(chain.problem("attestation", f"the body of attestation {number} can't be read"))
    return found


def take(evidence: Evidence, number: int, receipt_id: int | None, members: Mapping[str, Any]) -> bool:
    """Add what one attestation says; False if it can't be read."""
    at_ns, outcome, named = members.get("finished_at_ns"), members.get("outcome"), members.get("entries")
    if not isinstance(at_ns, int) or not isinstance(outcome, str) or not isinstance(named, dict):
        return False
    generation = members.get("generation")
    evidence.generation = max(evidence.generation, generation if isinstance(generation, int) else 0)
    try:
        action = members.get("action")
        if outcome == _RELEASED:
            _released(evidence, named, at_ns if action == _REOPEN else None)
        proof = None if action in _PROVES_NOTHING else receipt_id
        for settled, reason, entries, *since in members.get("settled") or ():
            claim = Claim(number, proof, settled, reason, since[0] if since else at_ns, action == _MERGE)
            looked = action == _READBACK and settled == "in doubt"
            _settle(evidence, named if entries is None else entries, claim, looked=looked)
        _take_remote(evidence, receipt_id, members, at_ns)
        _take_removed(evidence, receipt_id, members)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return True


def _settle(evidence: Evidence, named: Mapping[str, str], claim: Claim | None, *, looked: bool = False) -> None:
    """These entries have this claim, or none any more. ``looked``: somebody looked, and it was not told: what is in doubt stays so.

    Where it is not in doubt (any more), as in a copy where somebody decided about it meanwhile, that says nothing.
    """
    for uuid, text in named.items():
        coverage = evidence.coverage[uuid]
        for first, last in ranges_in(text):
            before = coverage.of(first, last)
            if looked:
                for begin, end, earlier in before:
                    if earlier.outcome == "in doubt" and claim is not None:
                        coverage.put(begin, end, earlier._replace(reason=claim.reason))
                continue
            coverage.put(first, last, claim)
            for begin, end, earlier in before:
                now = _after(earlier, claim)
                if now is not claim:
                    coverage.put(begin, end, now)


def _released(evidence: Evidence, named: Mapping[str, str], reopened_ns: int | None) -> None:
    """These entries are pending again; what arrived stays so, unless it was found to be gone (``reopened_ns``) after it had arrived."""
    if reopened_ns is None:
        _settle(evidence, named, None)
        return
    for uuid, text in named.items():
        coverage = evidence.coverage[uuid]
        for first, last in ranges_in(text):
            for begin, end, earlier in coverage.of(first, last):
                if earlier.at_ns <= reopened_ns:
                    coverage.put(begin, end, None)


def _after(earlier: Claim, claim: Claim | None) -> Claim | None:
    """What holds of entries with a claim when another one comes; of two copies that delivered the same, the one that did first.

    ``applier`` says the same in SQL.
    """
    if earlier.outcome in _ARRIVED:  # whatever somebody thinks who did not know it
        return claim if claim is not None and claim.outcome in _ARRIVED and claim.at_ns < earlier.at_ns else earlier
    if claim is not None and earlier.outcome == claim.outcome == "in doubt":  # still: since when, and by which request, stays
        return earlier._replace(reason=claim.reason)
    return claim


def _take_remote(evidence: Evidence, receipt_id: int | None, members: Mapping[str, Any], at_ns: int) -> None:
    component = members.get("component")
    if not isinstance(component, str):
        return
    name = component.lower()
    arn, _ = evidence.components.get(name, (None, None))
    if "arn" in members:
        evidence.components[name] = (str(members["arn"]) or arn, at_ns)
    if members.get("missing"):
        evidence.components[name] = (arn, None)
    if "forgotten" in members:  # found to be gone, and to be uploaded again
        gone = members["forgotten"]
        evidence.objects.pop((name, gone["sha256"], gone["bucket"], gone["prefix"]), None)
    if "object" in members:
        there = members["object"]
        key = (name, there["sha256"], there["bucket"], there["prefix"])
        evidence.objects[key] = (there["uri"], receipt_id)
        if receipt_id is not None:
            evidence.uploads[receipt_id] = key


def _take_removed(evidence: Evidence, receipt_id: int | None, members: Mapping[str, Any]) -> None:
    take_gaps(evidence.gaps, members)
    if receipt_id is None:
        for uuid, _, last, _ in members.get("removed") or ():
            evidence.pruned_to[uuid] = max(last, evidence.pruned_to.get(uuid, 0))
    elif members.get("action") == TAKEN:
        take_gaps(evidence.gaps_to_come, members, "gaps")
    evidence.blobs_removed.update(map(str, members.get("blobs") or ()))
