"""Record the runs of a source in a journal, each under a name of its own.

The core of all importers: it finds a name and a place for each run, and ``target`` records its
items. Must not know a format.

Invariant: a run that was not imported from this source is never touched.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournaltrackError, described
from journaltrack.importers.known import Known, known_in
from journaltrack.importers.source import (
    LeftOut,
    LeftOuts,
    Source,
    SourceRun,
    Status,
    digest,
)
from journaltrack.importers.target import ImportedRun, Target
from journaltrack.journal import provenance, view, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.replay.pass_report import Progress
from journaltrack.reports.processes import (
    IMPORTED_FROM,
    IMPORTED_ID,
    IMPORTED_KEY,
    IMPORTED_PATH,
)
from journaltrack.tracking import validation
from journaltrack.tracking.finish import FINAL_STATUSES
from journaltrack.tracking.settings import settings_of
from journaltrack.util import patterns

_KEY_CHARS: Final = 8
"""Characters of the key in the name of a run whose own name is taken."""


@dataclass(slots=True)
class Imported:
    """What an import did.

    Attributes:
        format, path: The source.
        journal: The journal's folder.
        runs: One per run, in the source's order.
        left_out: What belongs to no run that was imported.
    """

    format: str
    path: str
    journal: str
    runs: list[ImportedRun] = field(default_factory=list)
    left_out: LeftOuts = field(default_factory=LeftOuts)

    def leave_out(self, run: ImportedRun) -> None:
        """Move a run that has nothing to record to what was left out."""
        self.runs.remove(run)
        self.left_out.add(LeftOut("run", "it has nothing that can be recorded", run.id))
        for (what, why, is_harm), (count, *examples) in run.left_out.counts.items():
            for place, example in enumerate(examples or [""]):
                self.left_out.add(LeftOut(what, why, example, 0 if place else count, is_harm))

    @property
    def is_harm(self) -> bool:
        """Return whether a part of the source could not be read."""
        return self.left_out.is_harm or any(run.left_out.is_harm for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        converted: dict[str, Any] = view.to_json(
            {
                "format": self.format,
                "path": self.path,
                "journal": self.journal,
                "points": sum(run.points for run in self.runs),
                "known": sum(run.known for run in self.runs),
                "runs": [
                    {
                        "name": run.name,
                        "id": run.id,
                        "is_new": run.is_new,
                        "already_imported": run.has_other_name,
                        "points": run.points,
                        "known": run.known,
                        "other_entries": run.state,
                        "not_finite": run.not_finite,
                        "old": run.old,
                        "missing_in_source": run.missing,
                        "left_out": run.left_out.to_json(),
                        "noted": run.noted.to_json(),
                    }
                    for run in self.runs
                ],
                "left_out": self.left_out.to_json(),
            }
        )
        return converted


def import_source(
    source: Source,
    journal: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    prefix: str = "",
    status: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Imported:
    """Record the runs of a source in a journal, with what it lacks.

    A run that can't be read is left out, and the others are recorded.

    Args:
        source: From the ``find`` of a format's module.
        journal: The journal's folder, created if it is missing; None: the default journal.
        name: The name of the source's only run.
        prefix: Begins the names of the runs.
        status: The final status of runs whose source has none.
        on_progress: Called with the bytes that were read.

    Raises:
        InvalidInputError: ``name`` or ``prefix`` can't be used, or the journal has another run of
            that name. Nothing was recorded.
        JournalError: The journal can't be read or written. What was recorded so far stays; import
            again.
    """
    _check_names(source, name, prefix, status)
    settings = settings_of(sync="off")
    provenance.ask(context=settings.configuration.context, redact=settings.redact)
    opened = Journal.open(journal, on_journal_error="raise", appending=True)
    with contextlib.closing(opened):
        done = Imported(source.format, str(source.path), str(opened.path))
        for each in source.left_out:
            done.left_out.add(each)
        names = _Names(opened, source)
        placed = [(run, names.of(run, name, prefix)) for run in source.runs]
        known = known_in(
            opened,
            {
                place.row: (place.name, run.untimed_ns is None)
                for run, place in placed
                if place.row is not None
            },
        )
        total, before = sum(run.size_bytes for run in source.runs), 0
        for run, place in placed:
            told = ImportedRun(place.name, run.id)
            done.runs.append(told)
            had = None if place.row is None else known.pop(place.row)
            has_other_name = name is not None and place.name != name.lower()
            if run.is_guess or (has_other_name and had is not None):
                place, had = names.settled(run, place, had, name, prefix)  # noqa: PLW2901
            told.name, told.asked_name = place.name, name
            row, begin = place.row, None
            if row is None:
                row = opened.component(place.name)
                begin = functools.partial(names.create, run, place._replace(row=row), told)
            target = Target(opened, row, place.name, told, run.untimed_ns, had, begin)
            _record_run(target, run, status, _counter(on_progress, before, total))
            if not target.is_begun:
                done.leave_out(told)
            before += run.size_bytes
        opened.flush()
        return done


def _counter(
    on_progress: Callable[[Progress], None] | None, before: int, total: int
) -> Callable[[int], None]:
    """Return what tells how far the import is, from the bytes of a run that were read."""

    def count(read: int) -> None:
        """Tell it."""
        if on_progress is not None:
            on_progress(Progress(min(before + read, total), total))

    return count


def _record_run(
    target: Target, run: SourceRun, status: str | None, on_read: Callable[[int], None]
) -> None:
    """Record one run. If it can't be read to its end, say so."""
    try:
        target.record(run.items(), on_read)
        # A run without anything has no end, either.
        if status is not None and not target.has_status and target.is_begun:
            target.record([Status(status)])
    except JournaltrackError:
        raise
    # A damaged or crafted file makes the libraries that read it raise anything. The other runs
    # are read all the same.
    except Exception as error:  # noqa: BLE001
        why = f"it can't be read to its end: {described(error)}"
        target.told.left_out.add(LeftOut("run", why, run.id, is_harm=True))
    target.told.missing = target.known.unmatched


def _is_other(journal: Journal, run: SourceRun, place: _Place, known: Known) -> bool:
    """Return whether a run of the journal is another one than that of the source.

    It is, if each has points that the other lacks: a run that grows keeps those that it had.
    """
    told = ImportedRun(place.name, run.id)
    trial = Target(journal, place.row or 0, place.name, told, run.untimed_ns, known.copy())
    # The import itself tells of what can't be read.
    with contextlib.suppress(Exception):
        return trial.differs(run.items())
    return False


def _check_names(source: Source, name: str | None, prefix: str, status: str | None) -> None:
    """Refuse names that can't be used, before anything is recorded."""
    if status is not None and status not in FINAL_STATUSES:
        raise InvalidInputError(
            f"status is {limits.shown(status)}; a run ends as one of {', '.join(FINAL_STATUSES)}"
        )
    if name is not None:
        validation.entity_name(name, "run name")
        if prefix:
            raise InvalidInputError("give a name or a prefix, not both; nothing was imported")
        if len(source.runs) > 1:
            raise InvalidInputError(
                f"a name is for one run, and {source.path} has {len(source.runs)}; "
                "nothing was imported",
                hint=f"use a prefix, or the path of one of them: "
                f"{patterns.some([run.id for run in source.runs])}",
            )
    if prefix:
        validation.entity_name(f"{prefix}x", "prefix")


class _Place(NamedTuple):
    """Where a run goes: its name, its key, and its id in the journal (None: it is new)."""

    name: str
    key: str
    row: int | None


class _Names:
    """Find a name in the journal for each run.

    A run that was imported before keeps the name that it has. A new one gets its own name, made
    valid. If another run has that, the end of its key is added. The same key is not the same run
    where it is a guess: there the points decide.
    """

    def __init__(self, journal: Journal, source: Source) -> None:
        self._journal = journal
        self._source = source
        self._taken = {row.name.lower(): row.id for row in journal.components()}
        self._keys: dict[int, str | None] = {}
        sql = (
            "SELECT component_id, CASE kind WHEN 'create' THEN payload END FROM entry "
            "WHERE stream <> 'metric' ORDER BY seq"
        )
        for component_id, payload in journal.database.read(sql):
            self._keys[component_id] = self._keys.get(component_id) or _key_in(payload)
        # A component without an entry belongs to nobody: its creator was killed.
        self._taken = {name: row for name, row in self._taken.items() if row in self._keys}
        self._named: dict[str | None, list[str]] = {}
        for taken, row in self._taken.items():
            self._named.setdefault(self._keys[row], []).append(taken)
        # Runs that this import records into.
        self._found: set[int] = set()
        self._seen: set[str] = set()

    def of(self, run: SourceRun, name: str | None, prefix: str) -> _Place:
        """Return where a run goes.

        Raises:
            InvalidInputError: The journal has another run of the name that was asked for.
        """
        key = digest(self._source.format, run.mark)
        # A copy beside it, which may have gone on in another way.
        while key in self._seen:
            key = digest(key, run.id)
        self._seen.add(key)
        base = _base(run, name, prefix)
        named = self._named.get(key, [])
        if name is not None and base in self._taken and base not in named:
            raise _taken(name, run)
        known = base if base in named else next(iter(named), None)
        row = -1 if known is None else self._taken[known]
        if known is None or row < 0:
            return self._new(base, key)
        self._found.add(row)
        return _Place(known, key, row)

    def settled(
        self, run: SourceRun, place: _Place, known: Known | None, name: str | None, prefix: str
    ) -> tuple[_Place, Known | None]:
        """Return where a run goes whose mark others may have: into the one that it continues.

        A name that was asked for counts if no run has the content already.

        Args:
            run: The run.
            place: Where it goes by its mark.
            known: What the journal has there; None: the run is new.
            name: As of ``import_source``.
            prefix: As of ``import_source``.

        Raises:
            InvalidInputError: The journal has another run of the name that was asked for.
        """
        if known is not None and not _is_other(self._journal, run, place, known):
            return place, known
        key = digest(self._source.format, run.mark)
        for other in [each for k in (key, digest(key, run.id)) for each in self._named.get(k, ())]:
            row = self._taken[other]
            if row >= 0 and row not in self._found:
                found = _Place(other, place.key, row)
                had = known_in(self._journal, {row: (other, run.untimed_ns is None)})[row]
                if not _is_other(self._journal, run, found, had):
                    self._found.add(row)
                    return found, had
        if known is None:
            return place, None
        if name is not None and place.name == name.lower():
            raise _taken(name, run)
        return self._new(_base(run, name, prefix), place.key), None

    def _new(self, base: str, key: str) -> _Place:
        """Return a place for a new run, under a name that is free."""
        ended = limits.with_end(base, f"-{key[:_KEY_CHARS]}")
        more = (f"run-{key}-{number}" for number in itertools.count(2))
        names = itertools.chain((base, ended, f"run-{key}"), more)
        name = next(each for each in names if each not in self._taken)
        self._taken[name] = -1
        return _Place(name, key, None)

    def create(self, run: SourceRun, place: _Place, told: ImportedRun) -> bool:
        """Record a new run, and return whether it was not there yet.

        Raises:
            InvalidInputError: Another process has just created another run of that name.
        """
        row = place.row or 0
        tags = {
            IMPORTED_FROM: self._source.format,
            IMPORTED_ID: tag_text(run.id),
            IMPORTED_KEY: place.key,
            IMPORTED_PATH: tag_text(str(self._source.path)),
        }
        shown = run.display_name or run.id
        draft = vocabulary.create(
            owner=str(uuid.uuid4()),
            display_name=None if shown.lower() == place.name else limits.suggested_name(shown),
            tags={key: value for key, value in tags.items() if value},
        )
        told.is_new = self._journal.append_first(row, [draft])
        if not told.is_new:
            entries = self._journal.state_entries(row)
            if place.key not in {_key_in(entry.payload) for entry in entries}:
                raise InvalidInputError(
                    f"another process has just created another run {place.name}; what was imported "
                    "before it stays",
                    hint="import again",
                )
        return told.is_new


def _base(run: SourceRun, name: str | None, prefix: str) -> str:
    """Return the name that a run gets if no other run has it."""
    return (limits.suggested_name(f"{prefix}{run.name}") if name is None else name).lower()


def _taken(name: str, run: SourceRun) -> InvalidInputError:
    return InvalidInputError(
        f"the journal has a run {name.lower()} that was not imported from {run.id}; "
        "nothing was imported",
        hint="give another name",
    )


def _key_in(payload: str | None) -> str | None:
    """Return what identifies an imported run, from its creation; None if it was not imported."""
    with contextlib.suppress(ValueError):
        tags = vocabulary.decode(payload).get("tags")
        key = tags.get(IMPORTED_KEY) if isinstance(tags, dict) else None
        return key if isinstance(key, str) else None
    return None


def tag_text(text: str) -> str:
    """Return a text as the value of a tag: what AWS refuses becomes a hyphen, and it is cut."""
    kept = "".join(c if limits.tag_problem("k", c) is None else "-" for c in text[:300])
    return kept[: limits.TAG_VALUE_CHARS_MAX]
