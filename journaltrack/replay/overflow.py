"""Keep the parameters that SageMaker can't take in one JSON artifact for each component.

``planner`` says which: a value of more than 2,500 characters or of several lines, NaN, the 301st
name. Right before a pass settles them, ``Overflow`` makes the artifact ``parameters.json`` of *all*
of the component that did not fit, the last value per name, and records its upload and reference.
The same pass delivers them.

The content follows from the entries alone, and an equal content is recorded once. So it does not
matter who recorded the parameters, in which calls and processes, or whether a pass was killed
between the artifact and the settlement. After a merge, the next pass that settles such a parameter
makes the artifact of both.

Must not know the remote, or how anything is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import JournalError
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Place, in_order
from journaltrack.journal.queries import HAS_ARRIVED, origins
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import IN_FILE, PARAMETER, BlobRef
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Entry
    from journaltrack.replay.plan.actions import Settle

logger = logging.getLogger(__name__)

# Delivered ones, and those that earlier passes left pending.
_HAVE_ONE: Final = (
    "SELECT component_id FROM field WHERE component_id IN (SELECT value FROM json_each(?1)) "
    "AND map = 'output_artifacts' AND key IN (?2, ?3) UNION "
    "SELECT e.component_id FROM unsettled u CROSS JOIN entry e ON e.seq = u.seq "
    "WHERE e.component_id IN (SELECT value FROM json_each(?1)) AND e.stream = 'upload' "
    "AND e.name IN (?2, ?3)"
)
_OUTCOMES: Final = (
    "SELECT d.seq, d.outcome, d.reason FROM entry e JOIN delivery d ON d.seq = e.seq "
    "WHERE e.component_id = ? AND e.stream <> 'metric' AND e.kind = 'parameter'"
)


class Overflow:
    """Keep the artifacts of a journal's components during one pass.

    Args:
        journal: The pass's.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # Components with such parameters in this pass: their artifact may not be delivered yet.
        self._looked_at: set[int] = set()

    def keep(self, entries: Iterable[Entry], settled: Sequence[Settle]) -> list[Settle]:
        """Record the artifacts of components whose parameters did not fit, if they changed.

        Args:
            entries: The pass's chunk of pending entries.
            settled: What needs no request.

        Returns:
            What of it may be settled now: without the parameters of a component whose artifact
            can't be recorded. They stay pending.

        Raises:
            JournalError: The journal can't be read.
        """
        in_file = {seq for each in settled if each.reason == IN_FILE for seq in each.seqs}
        changed = [entry for entry in entries if entry.kind == PARAMETER]
        ids = {entry.component_id for entry in changed}
        wanted = {entry.component_id for entry in changed if entry.seq in in_file}
        wanted |= ids & self._looked_at
        if others := sorted(ids - wanted):
            asked = (json.dumps(others), *vocabulary.PARAMETERS_FILES)
            wanted |= {number for (number,) in self._journal.database.read(_HAVE_ONE, asked)}
        self._looked_at |= wanted
        sent = {entry.seq for entry in changed} - in_file
        failed, recorded = set(), set()
        for component_id in sorted(wanted):
            try:
                if _keep(self._journal, component_id, in_file, sent):
                    recorded.add(component_id)
            # A full disk; in a crafted journal, a link where the spool has a folder.
            except JournalError as error:  # noqa: PERF203 - one must not hold up the others
                failed.add(component_id)
                _warn(error)
        if recorded:
            try:
                # They must not wait in memory: what they hold counts as settled from now on.
                self._journal.flush()
            except JournalError as error:
                failed |= recorded
                _warn(error)
        return [
            each for each in settled if each.reason != IN_FILE or each.component_id not in failed
        ]


def _warn(error: JournalError) -> None:
    logger.warning(
        "the artifact %s can't be recorded; its parameters stay pending: %s",
        vocabulary.PARAMETERS_FILE,
        error,
    )


def _keep(journal: Journal, component_id: int, in_file: set[int], sent: set[int]) -> bool:
    """Append the artifact of a component, unless it has this content. Return whether it did."""
    known_origins = origins(journal.database.read)
    found = [e for e in journal.state_entries(component_id) if _is_readable(e)]
    places = [Place(e.seq, e.recorded_at_ns, known_origins.get(e.writer_id, 0)) for e in found]
    state = in_order(found, places)
    made = [e for e in state if e.kind == vocabulary.UPLOAD and vocabulary.is_of_parameters_file(e)]
    kept = _kept(journal, component_id, state, in_file, sent)
    if not (made or kept):
        return False
    content = json.dumps(kept, indent=1, allow_nan=False).encode()
    if made and made[-1].detail.get("sha256") == hashlib.sha256(content).hexdigest():
        return False
    blob = Spool(journal.path / paths.SPOOL).add_bytes(content, journal.renew_blob)
    journal.add_blob(blob.sha256, blob.size_bytes)
    name, fits = _name(state, {e.detail.get("sha256") for e in made})
    ref = BlobRef(blob.sha256, *_store(state))
    drafts = [vocabulary.parameters_file(name, ref, blob.size_bytes)]
    if fits:
        drafts.append(vocabulary.parameters_reference(name, ref))
    journal.append(component_id, drafts)
    return True


def _kept(
    journal: Journal,
    component_id: int,
    state: Iterable[Entry],
    in_file: set[int],
    sent: set[int],
) -> dict[str, str | float | None]:
    """Return the last values of names whose last value that counts did not fit."""
    rows = journal.database.read(_OUTCOMES, (component_id,))
    outcomes = {seq: (outcome, reason) for seq, outcome, reason in rows}
    kept: dict[str, str | float | None] = {}
    for entry in state:
        if entry.kind != PARAMETER or entry.name is None:
            continue
        outcome, reason = outcomes.get(entry.seq, (None, None))
        if entry.seq in in_file or (outcome == "superseded" and reason == IN_FILE):
            value = vocabulary.parameter_of(entry)
            is_text = isinstance(value, float) and not math.isfinite(value)
            kept[entry.name] = str(value) if is_text else value
        elif entry.seq in sent or outcome in HAS_ARRIVED:
            kept.pop(entry.name, None)
    return kept


def _name(state: Sequence[Entry], own: set[Any]) -> tuple[str, bool]:
    """Return the artifact's name, and whether the component has a place for a reference."""
    outputs = {
        e.name: e.detail.get("sha256") for e in state if e.kind == vocabulary.OUTPUT and e.name
    }
    name = next(
        (each for each in vocabulary.PARAMETERS_FILES if outputs.get(each, "") in {"", *own}),
        vocabulary.PARAMETERS_FILES[-1],
    )
    return name, name in outputs or len(outputs) < limits.ARTIFACTS_MAX


def _store(state: Iterable[Entry]) -> tuple[str | None, str | None]:
    """Return the bucket and prefix that the run was given; None for the defaults."""
    bucket = prefix = None
    for entry in state:
        if entry.kind in {vocabulary.CREATE, vocabulary.LOAD}:
            given = (entry.detail.get("bucket"), entry.detail.get("prefix"))
            if any(isinstance(each, str) for each in given):
                bucket, prefix = (each if isinstance(each, str) else None for each in given)
    return bucket, prefix


def _is_readable(entry: Entry) -> bool:
    with contextlib.suppress(ValueError):
        return entry.unsound is None and isinstance(entry.detail, dict)
    return False
