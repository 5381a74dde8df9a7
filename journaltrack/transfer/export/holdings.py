"""Say which entries the files of a dataset hold, so that each entry comes into a table once.

A file says so in its notes. An entry is named by its writer and its place in the writer's chain,
which are the same in every copy of a journal. So copies and merged journals can be exported to one
dataset.

Must not know files or journals. Invariant: what is read has a type and a bound, or is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from journaltrack.util.intervals import as_text, merged, ranges_in, size, without

NOTE: Final = "journaltrack-dataset"
"""The note's name in a file."""
VERSION: Final = 1
_MAX: Final = 2**63 - 1
Places: TypeAlias = dict[str, list[tuple[int, int]]]
"""Entries by the writer's uuid: sorted (first, last) of places in its chain."""


@dataclass(slots=True)
class Holdings:
    """Hold what files of a dataset have of one journal.

    Attributes:
        entries: By table: the entries that were looked at for it. Those without a row in it count.
        attestations: By the uuid of the process that attested: the last place that was looked at,
            in the copy of the journal that was exported last. Another copy can know others.
        attested_at_ns: When that was; 0: they were not looked at.
        ends: By writer: its last place, and that entry's ``seq`` in the copy that was exported.
        whole: Whether this repeats what earlier files of the table say.
    """

    entries: dict[str, Places] = field(default_factory=dict)
    attestations: dict[str, int] = field(default_factory=dict)
    attested_at_ns: int = 0
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)
    whole: bool = False

    def add(self, other: Holdings) -> None:
        """Take over what another one says."""
        for table, places in other.entries.items():
            mine = self.entries.setdefault(table, {})
            for uuid, intervals in places.items():
                mine[uuid] = merged([*mine.get(uuid, ()), *intervals])
        if other.attested_at_ns > self.attested_at_ns:
            self.attestations, self.attested_at_ns = other.attestations, other.attested_at_ns
        for uuid, end in other.ends.items():
            self.ends[uuid] = max(end, self.ends.get(uuid, (0, 0)))

    def lacking(self, table: str, here: Mapping[str, Sequence[tuple[int, int]]]) -> Places:
        """Return which of these entries the table lacks."""
        known = self.entries.get(table, {})
        found = {uuid: without(each, known.get(uuid, ())) for uuid, each in here.items()}
        return {uuid: intervals for uuid, intervals in found.items() if intervals}

    def covered(self, tables: Iterable[str]) -> tuple[int, dict[str, tuple[int, int]]]:
        """Return up to which ``seq`` all tables have all entries, if this is true of a journal.

        It is true of one from which nothing was removed, if its entries are as in ``ends``: all
        entries that are held lie up to that ``seq``, and are as many.

        Returns:
            The ``seq``, and ``ends`` of the writers that are held; 0 if there is none.
        """
        held = [self.entries.get(table, {}) for table in tables]
        ends = {uuid: self.ends.get(uuid, (0, 0)) for uuid in held[0]}
        if any(each != held[0] for each in held) or any(
            held[0][uuid] != [(1, place)] for uuid, (place, _) in ends.items()
        ):
            return 0, {}
        last = max((seq for _, seq in ends.values()), default=0)
        if last != sum(size(intervals) for intervals in held[0].values()):
            return 0, {}
        return last, ends

    def text(self, journal_id: str) -> str:
        """Return it as a file's note has it: JSON."""
        # Tables mostly hold the same.
        groups: list[tuple[list[str], Places]] = []
        for table, places in self.entries.items():
            for tables, same in groups:
                if same == places:
                    tables.append(table)
                    break
            else:
                groups.append(([table], places))
        members = {
            "version": VERSION,
            "journal_id": journal_id,
            "whole": self.whole,
            "entries": [
                [tables, {uuid: as_text(intervals) for uuid, intervals in places.items()}]
                for tables, places in groups
            ],
            "attestations": self.attestations,
            "attested_at_ns": self.attested_at_ns,
            "ends": self.ends,
        }
        return json.dumps(members, separators=(",", ":"))


def read(text: str | bytes, journal_id: str) -> Holdings:
    """Return the holdings in a note.

    Args:
        text: The note.
        journal_id: Of the journal that the file is said to be of.

    Raises:
        ValueError: No journaltrack wrote this of that journal, or a newer one did.
    """
    try:
        members = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(members, dict) or members.get("journal_id") != journal_id:
        raise ValueError(f"it is not of journal {journal_id}")
    if members.get("version") != VERSION:
        raise ValueError(f"its version is {members.get('version')!r}, and known is {VERSION}")
    found = Holdings(whole=members.get("whole") is True)
    for tables, places in _pairs(members.get("entries")):
        read_places = {uuid: merged(ranges_in(ranges)) for uuid, ranges in _object(places).items()}
        found.entries |= {str(table): dict(read_places) for table in _list(tables)}
    for uuid, place in _object(members.get("attestations")).items():
        found.attestations[uuid] = _number(place)
    found.attested_at_ns = _number(members.get("attested_at_ns"))
    for uuid, end in _object(members.get("ends")).items():
        ((place, seq),) = _pairs([end])
        found.ends[uuid] = (_number(place), _number(seq))
    return found


def _pairs(value: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - of JSON
    pairs = [_list(each) for each in _list(value)]
    if any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004
        raise ValueError("it has something else where pairs should be")
    return [(first, second) for first, second in pairs]


def _list(value: Any) -> list[Any]:  # noqa: ANN401
    if not isinstance(value, list):
        raise ValueError("it has no list where one should be")  # noqa: TRY004 - bad data
    return value


def _object(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ValueError("it has no object where one should be")  # noqa: TRY004 - bad data
    return value


def _number(value: Any) -> int:  # noqa: ANN401
    if type(value) is not int or not 0 <= value < _MAX:
        raise ValueError("it has no number where one should be")
    return value
