"""Record tags and notes of a run, also when it is over: by a person, or by another program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import Draft
from journaltrack.tracking import validation
from journaltrack.tracking.trial_component import TrialComponent


@dataclass(frozen=True, slots=True)
class Annotated:
    """What was recorded.

    Attributes:
        journal: The journal's folder.
        component: The component's name in the journal.
        tags: The tags that were set.
        note: The note; None if none was set.
    """

    journal: str
    component: str
    tags: dict[str, str]
    note: str | None

    def to_json(self) -> dict[str, Any]:
        """Return this for ``json.dumps``, see ``journaltrack.journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


def annotate(
    component: str,
    *,
    tags: Mapping[str, str] | None = None,
    note: str | None = None,
    journal: str | os.PathLike[str] | None = None,
) -> Annotated:
    """Set tags and the note of a run. The next sync delivers the tags.

    Args:
        component: The component's name, case-insensitive.
        tags: Tags to add; the last value per key counts.
        note: Text for people; "" removes the note. It stays in the journal.
        journal: The journal's folder; None for the default journal.

    Raises:
        InvalidInputError: There is no such component, or AWS would refuse the tags. Nothing was
            recorded.
        JournalError: The journal can't be read or written.
    """
    wanted = validation.tags(dict(tags or {}))
    text = None if note is None else validation.note(note)
    opened = Journal.open(journal, create=False, on_journal_error="raise")
    try:
        row = view.component(opened, component)
        drafts = [] if text is None else [vocabulary.note(text)]
        if wanted:
            drafts += tagging(TrialComponent(opened, row.id, row.name), wanted)
        opened.append(row.id, drafts)
        opened.flush()
        return Annotated(str(opened.path), row.name, wanted, text)
    finally:
        opened.close()


def tagging(component: TrialComponent, tags: Mapping[str, str]) -> Sequence[Draft]:
    """Return the draft that adds tags to a component.

    Raises:
        InvalidInputError: It would have more tags than AWS takes. Nothing was recorded.
    """
    known = {each["Key"] for each in component.tags or ()} | tags.keys()
    if len(known) > limits.TAGS_MAX:
        raise InvalidInputError(
            f"{component.trial_component_name} would have {len(known)} tags; AWS takes at most "
            f"{limits.TAGS_MAX}. Nothing was recorded",
            hint="set another value for a key that it has, or write a note",
        )
    return [vocabulary.tags(dict(tags))]
