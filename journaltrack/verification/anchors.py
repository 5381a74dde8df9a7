"""Fetches a journal's anchors from where passes put them, and holds the journal against them. Reads both, changes neither.

Where anchors may be is told by the journal (its last anchor, and where its artifacts went), or by the configuration. What the
journal itself remembers of them is no proof: whoever cuts off its end cuts that off, too. So the documents are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from journaltrack.errors import RemoteError
from journaltrack.journal import view
from journaltrack.journal.chain import ChainProblem
from journaltrack.replay.evidence import anchors
from journaltrack.reports.proof.check import anchor_problems
from journaltrack.reports.proof.replayed import Evidence, attestation_problems

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.remote import Remote


@dataclass(frozen=True, slots=True)
class AnchorsReport:
    """How a journal compares with its anchors.

    Attributes:
        documents: How many were found.
        problems: Where the journal is behind them, or is not what they say; or where one is missing.
        note: Why they could not be asked for, if so.
    """

    documents: int = 0
    problems: tuple[ChainProblem, ...] = ()
    note: str | None = None


def compare_with_anchors(journal: Journal, remote: Remote, *, default_place: bool = False) -> AnchorsReport:
    """Fetch the anchors and compare.

    Args:
        journal: Opened for reading alone.
        remote: Where they are.
        default_place: Look also where a journal without artifacts is anchored.
    """
    known = anchors.last(journal.database)
    places = anchors.places(journal.database, default=default_place)
    if known is not None and known.uri is None and not default_place:
        places = []  # named by parameters alone
    documents: dict[str, bytes] = {}
    try:
        for bucket, prefix in places:
            documents.update(remote.documents(bucket, prefix, anchors.folder_of(journal.journal_id)))
    except RemoteError as error:
        return AnchorsReport(len(documents), note=f"{error.code}: {error.message}")
    with view.snapshot(journal.database):
        evidence = Evidence()
        attestation_problems(journal.database, evidence)  # for what was removed on the record
        problems = anchor_problems(journal.database, documents, evidence.gaps)
    if known is not None and known.uri is not None and not any(known.sha256 in name for name in documents):
        problems.append(ChainProblem("anchor", f"the newest anchor that the journal knows of is gone: {known.uri}"))
    return AnchorsReport(len(documents), tuple(problems))
