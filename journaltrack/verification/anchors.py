"""Fetch a journal's anchors and compare the journal with them. Changes neither.

The journal names the places where anchors may be (its last anchor, and the places of its
artifacts), or the configuration does. The journal's own record of its anchors is no proof: whoever
removes the journal's end removes that record, too. So the anchors are listed at the remote.
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
    """The result of comparing a journal with its anchors.

    Attributes:
        documents: How many anchors were found.
        problems: Where the journal lacks or contradicts what an anchor states; missing anchors.
        note: Why the remote could not be asked, if so.
    """

    documents: int = 0
    problems: tuple[ChainProblem, ...] = ()
    note: str | None = None


def compare_with_anchors(
    journal: Journal, remote: Remote, *, default_place: bool = False
) -> AnchorsReport:
    """Fetch the anchors and compare the journal with them.

    Args:
        journal: The journal, opened read-only.
        remote: The remote that holds the anchors.
        default_place: Look also at the place for journals without artifacts.
    """
    known = anchors.last(journal.database)
    places = anchors.places(journal.database, default=default_place)
    if known is not None and known.uri is None and not default_place:
        # Its only anchors are parameters of components.
        places = []
    documents: dict[str, bytes] = {}
    try:
        for bucket, prefix in places:
            documents.update(
                remote.documents(bucket, prefix, anchors.folder_of(journal.journal_id))
            )
    except RemoteError as error:
        return AnchorsReport(len(documents), note=f"{error.code}: {error.message}")
    with view.snapshot(journal.database):
        evidence = Evidence()
        # Called for the gaps that it collects: entries that were removed on the record.
        attestation_problems(journal.database, evidence)
        problems = anchor_problems(journal.database, documents, evidence.gaps)
    if (
        known is not None
        and known.uri is not None
        and not any(known.sha256 in name for name in documents)
    ):
        problems.append(
            ChainProblem(
                "anchor", f"the newest anchor that the journal knows of is gone: {known.uri}"
            )
        )
    return AnchorsReport(len(documents), tuple(problems))
