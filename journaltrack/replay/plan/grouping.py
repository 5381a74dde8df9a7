"""Plan experiments, trials, which components are in them, and tags.

- The declarations of an experiment or trial fold into one request. What a later entry that arrived
  gave is not sent again with an earlier value.
- What puts a component into a trial, and what takes it out, is sent in order. An entry that a
  later one undid, which arrived, needs no request.
- Tags fold into one request, without those of which a later value arrived. Whether a run is
  deleted goes by itself: a run that is gone takes nothing.

Pure: no I/O, no clock. Must not know SQLite or any remote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

from journaltrack.journal import vocabulary
from journaltrack.journal.groups import (
    MEMBERSHIPS,
    Declaration,
    Group,
    declaration_of,
    laid_over,
    membership_of,
    ordered,
    trial_of,
)
from journaltrack.journal.vocabulary import Entry
from journaltrack.replay.plan.actions import (
    Action,
    AddTags,
    Associate,
    ComponentState,
    Conclude,
    Declare,
    Disassociate,
    Restore,
    Settle,
)

_Part: TypeAlias = "tuple[int, tuple[tuple[str, str | None], ...]]"
"""An entry, and the tags that it sets or removes."""


def declarations(
    component_id: int, row: str, entries: Sequence[Entry], state: ComponentState
) -> Iterator[Declare]:
    """Yield the request for the pending declarations of an experiment or trial.

    There are several only if they name several experiments of a trial, which is in one.
    """
    pending = {entry.seq for entry in entries}
    parts: list[Declaration] = []
    later: Group | None = None
    for entry in reversed(ordered([*state.grouped, *entries], state.origins)):
        part = declaration_of(entry)
        if entry.seq in pending:
            parts.append(part if later is None else part.without(later))
        elif not part.if_new:
            later = part.group if later is None else laid_over(part.group, later)
    by_experiment: dict[str, list[Declaration]] = defaultdict(list)
    for part in reversed(parts):
        by_experiment[(part.group.experiment or "").lower()].append(part)
    for same in by_experiment.values():
        yield Declare(component_id, row, tuple(same))


def memberships(
    component_id: int, component: str, entries: Sequence[Entry], state: ComponentState
) -> Iterator[Action]:
    """Yield what puts a component into trials and takes it out, in order for each trial."""
    pending = {entry.seq for entry in entries}
    by_trial: dict[str, list[Entry]] = defaultdict(list)
    arrived_before = [entry for entry in state.grouped if entry.kind in MEMBERSHIPS]
    for entry in ordered([*arrived_before, *entries], state.origins):
        by_trial[trial_of(entry).lower()].append(entry)
    for known in by_trial.values():
        arrived = [number for number, each in enumerate(known) if each.seq not in pending]
        last = arrived[-1] if arrived else -1
        for entry in known[: max(last, 0)]:
            if entry.seq in pending and entry.kind != known[last].kind:
                why = f"entry {known[last].seq} overrides it"
                yield Settle(component_id, (entry.seq,), "superseded", why)
        left = [
            entry
            for number, entry in enumerate(known)
            if entry.seq in pending and (number > last or entry.kind == known[last].kind)
        ]
        for (kind, names), same in groupby(left, lambda each: (each.kind, membership_of(each))):
            seqs = tuple(entry.seq for entry in same)
            if kind == vocabulary.ASSOCIATE:
                yield Associate(component_id, component, *names, seqs)
            else:
                yield Disassociate(component_id, component, names[1] or "", seqs)


def told_by(entry: Entry, note_tag: str | None) -> dict[str, str | None]:
    """Return the tags of an entry. A note is a tag where the remote shows notes.

    None: the entry removes the tag.

    Raises:
        ValueError: The entry can't be read.
    """
    if entry.kind == vocabulary.NOTE:
        return {note_tag: vocabulary.note_of(entry)} if note_tag else {}
    if entry.kind == vocabulary.LABEL:
        return {entry.name or "": vocabulary.label_of(entry)}
    return {**vocabulary.tags_of(entry)}


def tags(
    component_id: int,
    component: str,
    entries: Sequence[Entry],
    state: ComponentState,
    note_tag: str | None = None,
) -> Iterator[Action]:
    """Yield the request for the pending tags of a component, and what needs none."""
    pending = {entry.seq for entry in entries}
    kinds = {vocabulary.TAGS, vocabulary.LABEL} | ({vocabulary.NOTE} if note_tag else set())
    arrived = [entry for entry in state.grouped if entry.kind in kinds]
    later: dict[str, int] = {}
    parts: list[_Part] = []
    for entry in reversed(ordered([*arrived, *entries], state.origins)):
        told = told_by(entry, note_tag)
        if entry.seq not in pending:
            later |= dict.fromkeys(told, entry.seq)
            continue
        left = tuple((key, value) for key, value in told.items() if key not in later)
        if left:
            parts.append((entry.seq, left))
        else:
            by = max((later[key] for key in told), default=0)
            why = f"entry {by} overrides it" if told else "it has no tags"
            yield Settle(component_id, (entry.seq,), "superseded", why)
    parts.reverse()
    by_turn: dict[type[AddTags], list[_Part]] = defaultdict(list)
    stages = [each for _, told in parts for key, each in told if key == vocabulary.STAGE]
    is_restored = bool(stages) and stages[-1] != vocabulary.DELETED
    for part in parts:
        _, ((key, _), *_) = part
        turn: type[AddTags] = Conclude if key.startswith(vocabulary.LAST_LABELS) else AddTags
        if key == vocabulary.STAGE and is_restored:
            turn = Restore if state.confirmed else AddTags
        by_turn[turn].append(part)
    for make, these in by_turn.items():
        yield make(component_id, component, tuple(these))
