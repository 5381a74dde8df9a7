"""Tell runs that several journals have, so that what one of them delivered is no difference.

Nodes log into one run, each into a journal of its own. SageMaker keeps one start, one end, and one
value of a parameter: that of the journal that was delivered last. Changes nothing.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from journaltrack.errors import JournaltrackError
from journaltrack.journal import groups
from journaltrack.journal.journal import Journal
from journaltrack.verification import expected
from journaltrack.verification.diff import Claims

Shared: TypeAlias = Mapping[str, Sequence[Path]]
"""By a run's name: the folders of the journals that have it."""


def among(folders: Iterable[Path]) -> Shared:
    """Return the runs that several journals have.

    A journal that can't be read is left out: its own check tells why.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in dict.fromkeys(folders):
        with (
            contextlib.suppress(JournaltrackError),
            closing(Journal.open(folder, create=False, read_only=True)) as journal,
        ):
            for row in journal.components():
                if groups.is_run(row.name):
                    found[row.name].append(journal.path)
    return {name: some for name, some in found.items() if len(some) > 1}


def completed(
    claims: Sequence[Claims], journal: Journal, shared: Shared, note_tag: str | None = None
) -> list[Claims]:
    """Return claims with what other journals delivered, as values that the remote may have.

    Args:
        claims: Those of one journal.
        journal: That journal.
        shared: The runs that others have, too.
        note_tag: See ``Capabilities``.

    Raises:
        JournalError: Another journal can't be read.
    """
    others: dict[Path, set[str]] = defaultdict(set)
    for each in claims:
        for folder in shared.get(each.name, ()):
            if folder != journal.path:
                others[folder].add(each.name)
    found = {each.name: each for each in claims}
    for folder, names in others.items():
        with closing(Journal.open(folder, create=False, read_only=True)) as other:
            rows = [row for row in other.components() if row.name in names]
            for theirs in expected.read(other, rows, note_tag):
                found[theirs.name] = _with(found[theirs.name], theirs)
    return list(found.values())


def _with(own: Claims, theirs: Claims) -> Claims:
    fields = {
        place: claim
        if (other := theirs.fields.get(place)) is None
        else replace(claim, also=(*claim.also, other.value, *other.also))
        for place, claim in own.fields.items()
    }
    status = own.status
    if status is not None and theirs.status is not None:
        status = replace(status, also=(*status.also, theirs.status.value, *theirs.status.also))
    return replace(own, fields=fields, status=status)
