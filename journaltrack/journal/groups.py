"""Experiments and trials: the rows that stand for them, and what their entries add up to.

An experiment and a trial are rows of the table ``component``, beside the trial components. Their
names, ``experiment/NAME`` and ``experiment-trial/NAME``, have a slash, which no name of SageMaker
has. So nothing collides, and entries of them are delivered, audited, merged and exported as all
others are. Whoever lists runs leaves these rows out (``IS_RUN``). Rows are in lower case, as
SageMaker ignores it: journals of several machines can be merged, however each spelled a name. A
declaration has the spelling, and the first one makes it.

A declaration is an entry of such a row. It makes the experiment or trial unless it is there, and
sets what it gives. The last one to give a member wins. A declaration that is *only for a new one*
(``if_new``) changes nothing of what is there.

Pure: no I/O. Must not know SQLite or any remote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final, Literal, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Place, in_order, required_text, text_or_none
from journaltrack.journal.vocabulary import Entry

GroupKind: TypeAlias = Literal["experiment", "trial"]

_ROWS: Final[Mapping[GroupKind, str]] = {
    "experiment": "experiment/",
    "trial": "experiment-trial/",
}
"""What a row's name begins with: as the ARN of such a thing does."""
MEMBERSHIPS: Final = frozenset({vocabulary.ASSOCIATE, vocabulary.DISASSOCIATE})
"""The kinds of entries that put a component into a trial, and take it out."""
GROUPING: Final = MEMBERSHIPS | _ROWS.keys()
IS_RUN: Final = " AND ".join(f"c.name NOT LIKE '{begin}%'" for begin in _ROWS.values())
"""Of a row ``c`` of the table ``component``: whether it stands for a trial component."""


@dataclass(frozen=True, slots=True)
class Group:
    """An experiment or a trial. None and (): not given.

    ``experiment`` is the trial's; ``description`` and ``full_name`` the experiment's.
    """

    kind: GroupKind
    name: str
    experiment: str | None = None
    display_name: str | None = None
    description: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    full_name: str | None = None

    @property
    def free_name(self) -> str:
        """Return the name for a service that takes any."""
        return self.full_name or self.name


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one entry gives an experiment or trial."""

    seq: int
    group: Group
    if_new: bool = False

    @property
    def is_bare(self) -> bool:
        """Return whether it sets nothing on what is there."""
        group = self.group
        return group.display_name is None and group.description is None and not group.tags

    def without(self, later: Group) -> Declaration:
        """Return it without the members that a later one gave."""
        mine, theirs = self.group, {key for key, _ in later.tags}
        return replace(
            self,
            group=replace(
                mine,
                display_name=None if later.display_name is not None else mine.display_name,
                description=None if later.description is not None else mine.description,
                tags=tuple(tag for tag in mine.tags if tag[0] not in theirs),
            ),
        )


class Declared(NamedTuple):
    """What declarations add up to.

    Attributes:
        make: What to make, if it is not there.
        change: What to set on what is there; None: nothing.
    """

    make: Group
    change: Group | None


def row_of(kind: GroupKind, name: str) -> str:
    """Return the name of the row of an experiment or trial, in lower case."""
    return _ROWS[kind] + name.lower()


def group_of(row: str) -> tuple[GroupKind, str] | None:
    """Return the kind and name of what a row stands for; None for a trial component."""
    for kind, begin in _ROWS.items():
        # SQLite compares the names of rows without case.
        if row[: len(begin)].lower() == begin:
            return kind, row[len(begin) :]
    return None


def is_run(row: str) -> bool:
    """Return whether a row stands for a trial component."""
    return group_of(row) is None


def declaration_of(entry: Entry) -> Declaration:
    """Return what an entry of kind ``experiment`` or ``trial`` declares.

    Raises:
        ValueError: It can't be read, or not as a declaration of its row.
    """
    found = group_of(entry.component)
    if found is None or found[0] != entry.kind:
        msg = f"an entry of kind {entry.kind} does not belong to {limits.shown(entry.component)}"
        raise ValueError(msg)
    kind, row = found
    detail = entry.detail
    name = text_or_none(detail.get("name")) or row
    if name.lower() != row.lower():
        msg = f"it is of {limits.shown(name)}, and not of {limits.shown(row)}"
        raise ValueError(msg)
    tags = vocabulary.tags_of(entry) if detail.get("tags") else {}
    group = Group(
        kind,
        name,
        required_text(detail, "experiment") if kind == "trial" else None,
        text_or_none(detail.get("display_name")),
        text_or_none(detail.get("description")) if kind == "experiment" else None,
        tuple(tags.items()),
        text_or_none(detail.get("full_name")) if kind == "experiment" else None,
    )
    return Declaration(entry.seq, group, bool(detail.get("if_new")))


def problem_of(group: Group) -> str | None:
    """Return why SageMaker could never take an experiment or trial as it is, or None."""
    if len(group.tags) > limits.TAGS_MAX:
        return f"{group.kind} has {len(group.tags)} tags; SageMaker takes at most {limits.TAGS_MAX}"
    names = (
        (group.name, f"{group.kind} name"),
        (group.experiment, "experiment name"),
        (group.display_name, f"{group.kind}'s display name"),
    )
    problems = [limits.name_problem(name, what) for name, what in names if name is not None]
    if group.description is not None:
        problems.append(
            limits.text_problem(
                group.description, "the description", limits.DESCRIPTION_CHARS_MAX, chars_min=0
            )
        )
    problems += [limits.tag_problem(key, value) for key, value in group.tags]
    return next((problem for problem in problems if problem), None)


def declared(declarations: Sequence[Declaration]) -> Declared:
    """Return what declarations add up to, in their order: at least one."""
    first = declarations[0].group
    nothing = Group(first.kind, first.name)
    changes = [each.group for each in declarations if not each.if_new]
    # Of those for a new one, the first makes it, and the others find it there.
    of_new = [each.group for each in reversed(declarations) if each.if_new]
    change = reduce(laid_over, changes, nothing)
    return Declared(reduce(laid_over, [*of_new, change], nothing), change if changes else None)


def declared_by(entries: Sequence[Entry], origins: Mapping[int, int]) -> Declared:
    """Return what entries of a row add up to: at least one, all of them readable.

    Args:
        entries: Of kind ``experiment`` or ``trial``.
        origins: ``Place.origin`` by writer.
    """
    return declared([declaration_of(entry) for entry in ordered(entries, origins)])


def laid_over(below: Group, above: Group) -> Group:
    """Return a group with what another one of the same name gives instead."""
    return replace(
        below,
        experiment=above.experiment or below.experiment,
        display_name=below.display_name if above.display_name is None else above.display_name,
        description=below.description if above.description is None else above.description,
        tags=tuple({**dict(below.tags), **dict(above.tags)}.items()),
        full_name=below.full_name if above.full_name is None else above.full_name,
    )


def membership_of(entry: Entry) -> tuple[str | None, str | None]:
    """Return the experiment and the trial that an entry of ``MEMBERSHIPS`` names.

    Raises:
        ValueError: The payload can't be read, or it says to leave no trial.
    """
    detail = entry.detail
    if entry.kind == vocabulary.DISASSOCIATE:
        return None, required_text(detail, "trial")
    return text_or_none(detail.get("experiment")), text_or_none(detail.get("trial"))


def trial_of(entry: Entry) -> str:
    """Return the trial of an entry of ``MEMBERSHIPS``: without a name the experiment's default.

    "" if the entry names neither.

    Raises:
        ValueError: As of ``membership_of``.
    """
    return named_trial(*membership_of(entry))


def named_trial(experiment: str | None, trial: str | None) -> str:
    """Return the trial that both name: without a trial the experiment's default. "": neither."""
    return trial or (limits.default_trial(experiment) if experiment else "")


def memberships(entries: Sequence[Entry], origins: Mapping[int, int]) -> dict[str, Entry]:
    """Return the last entry of ``MEMBERSHIPS`` for each trial, by its name in lower case.

    Args:
        entries: Of one component. Those that can't be read are left out.
        origins: ``Place.origin`` by writer.
    """
    known = [entry for entry in entries if is_readable(entry)]
    return {trial_of(entry).lower(): entry for entry in ordered(known, origins)}


def ordered(entries: Sequence[Entry], origins: Mapping[int, int]) -> list[Entry]:
    """Return entries in the order in which they were recorded."""
    places = [Place(e.seq, e.recorded_at_ns, origins.get(e.writer_id, 0)) for e in entries]
    return in_order(entries, places)


_READ: Final[Mapping[str, Callable[[Entry], object]]] = {
    **dict.fromkeys(_ROWS, declaration_of),
    **dict.fromkeys(MEMBERSHIPS, membership_of),
    vocabulary.TAGS: vocabulary.tags_of,
    vocabulary.NOTE: vocabulary.note_of,
    vocabulary.LABEL: vocabulary.label_of,
}


def is_readable(entry: Entry) -> bool:
    """Return whether an entry of ``GROUPING``, or with tags, a note or a label, can be read."""
    try:
        _READ[entry.kind](entry)
    except ValueError:
        return False
    return not entry.unsound
