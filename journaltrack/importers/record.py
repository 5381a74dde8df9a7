"""Record the runs of a source in a journal: what it lacks, and nothing twice.

The core of all importers: it names the runs, and turns their items into entries. Must not know a
format.

Invariants:

- *Idempotent by content*: an entry is recorded once for each time that the source has it, however
  often the source is imported, in parts, after a kill, or by two processes at once. The journal's
  own entries are the memory. There is no other state.
- Points go in transactions of ``BATCH``: memory does not grow with the source. Each point that the
  journal had before takes 12 bytes.
- A run that was not imported from this source is never touched.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import (
    InvalidInputError,
    InvalidTypeError,
    JournalFullError,
    JournaltrackError,
    described,
)
from journaltrack.importers.known import Known, known_in
from journaltrack.importers.source import (
    Content,
    File,
    Item,
    LeftOut,
    LeftOuts,
    Note,
    Parameters,
    Point,
    Read,
    Source,
    SourceRun,
    Status,
    Tags,
    digest,
)
from journaltrack.journal import provenance, view, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.replay.pass_report import Progress
from journaltrack.tracking import validation
from journaltrack.tracking.finish import FINAL_STATUSES
from journaltrack.tracking.run_log import RunLog
from journaltrack.tracking.settings import settings_of
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.tracking.writers import Notices
from journaltrack.util import patterns
from journaltrack.util.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from journaltrack.journal.vocabulary import Draft
    from journaltrack.tracking.writers import Notice

BATCH: Final = 5_000
"""Ours: points of one transaction."""
TAG_FORMAT: Final = "imported_from"
TAG_ID: Final = "imported_id"
TAG_KEY: Final = "imported_key"
"""Tags of an imported run: the format, what the source calls it, and what identifies it."""
_KEY_CHARS: Final = 8
"""Characters of the key in the name of a run whose own name is taken."""


@dataclass(slots=True)
class ImportedRun:
    """What became of one run of a source.

    Attributes:
        name: Its name in the journal.
        id: What the source calls it.
        is_new: Whether this import created it.
        points: Points that were recorded.
        known: Points that the journal had before.
        state: Other entries that were recorded: parameters, tags, artifacts, status, note.
        not_finite: Recorded points whose value is NaN or infinite, which SageMaker does not take.
        old: Recorded points that are older than 14 days, or are ahead by 2 hours.
        missing: Points that the journal has of it, but not the source.
        left_out: What was not recorded, and why.
        noted: What was recorded, but can't be delivered as it is, and why.
    """

    name: str
    id: str
    is_new: bool = False
    points: int = 0
    known: int = 0
    state: int = 0
    not_finite: int = 0
    old: int = 0
    missing: int = 0
    left_out: LeftOuts = field(default_factory=LeftOuts)
    noted: LeftOuts = field(default_factory=LeftOuts)

    @property
    def is_changed(self) -> bool:
        """Return whether this import recorded something of it."""
        return self.is_new or bool(self.points or self.state)


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
        names = _Names(opened, source.format)
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
            told = ImportedRun(place.name, run.id, is_new=place.row is None)
            done.runs.append(told)

            def progress(read: int, before: int = before) -> None:
                """Say how far the import is."""
                if on_progress is not None:
                    on_progress(Progress(min(before + read, total), total))

            had = None if place.row is None else known.pop(place.row)
            if run.is_guess:
                place, had = names.settled(run, place, had, name, prefix)  # noqa: PLW2901
                told.name, told.is_new = place.name, place.row is None
            row = names.create(run, place) if place.row is None else place.row
            target = Target(opened, row, place.name, told, run.untimed_ns, had)
            _record_run(target, run, status, progress)
            before += run.size_bytes
        opened.flush()
        return done


def _record_run(
    target: Target, run: SourceRun, status: str | None, on_read: Callable[[int], None]
) -> None:
    """Record one run. If it can't be read to its end, say so."""
    try:
        target.record(run.items(), on_read)
        if status is not None and not target.has_status:
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

    def __init__(self, journal: Journal, format_name: str) -> None:
        self._journal = journal
        self._format = format_name
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
        key = digest(self._format, run.mark)
        # A copy beside it, which may have gone on in another way.
        while key in self._seen:
            key = digest(key, run.id)
        self._seen.add(key)
        if name is not None:
            row = self._taken.get(name.lower())
            if row is not None and self._keys[row] != key:
                raise _taken(name, run)
            return _Place(name.lower(), key, row)
        base = limits.suggested_name(f"{prefix}{run.name}").lower()
        named = self._named.get(key, [])
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
        if name is not None:
            if known is not None:
                raise _taken(name, run)
            return place, None
        key = digest(self._format, run.mark)
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
        return self._new(limits.suggested_name(f"{prefix}{run.name}").lower(), place.key), None

    def _new(self, base: str, key: str) -> _Place:
        """Return a place for a new run, under a name that is free."""
        ended = limits.with_end(base, f"-{key[:_KEY_CHARS]}")
        more = (f"run-{key}-{number}" for number in itertools.count(2))
        names = itertools.chain((base, ended, f"run-{key}"), more)
        name = next(each for each in names if each not in self._taken)
        self._taken[name] = -1
        return _Place(name, key, None)

    def create(self, run: SourceRun, place: _Place) -> int:
        """Record a new run, and return its id.

        Raises:
            InvalidInputError: Another process has just created another run of that name.
        """
        row = self._journal.component(place.name)
        tags = {TAG_FORMAT: self._format, TAG_ID: tag_text(run.id), TAG_KEY: place.key}
        shown = run.display_name or run.id
        draft = vocabulary.create(
            owner=str(uuid.uuid4()),
            display_name=None if shown.lower() == place.name else limits.suggested_name(shown),
            tags={key: value for key, value in tags.items() if value},
        )
        if not self._journal.append_first(row, [draft]):
            entries = self._journal.state_entries(row)
            if place.key not in {_key_in(entry.payload) for entry in entries}:
                raise InvalidInputError(
                    f"another process has just created another run {place.name}; what was imported "
                    "before it stays",
                    hint="import again",
                )
        return row


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
        key = tags.get(TAG_KEY) if isinstance(tags, dict) else None
        return key if isinstance(key, str) else None
    return None


def tag_text(text: str) -> str:
    """Return a text as the value of a tag: what AWS refuses becomes a hyphen, and it is cut."""
    kept = "".join(c if limits.tag_problem("k", c) is None else "-" for c in text[:300])
    return kept[: limits.TAG_VALUE_CHARS_MAX]


class Target(RunLog):
    """Record items of one run of a journal, but for those that the journal has.

    Args:
        journal: An open journal.
        component_id: The run's id, from ``Journal.component``.
        name: The run's name.
        told: Gets what was recorded and left out.
        untimed_ns: The time of points without one; None: the source has times.
        known: What the journal has of the run; None: read it.
    """

    def __init__(
        self,
        journal: Journal,
        component_id: int,
        name: str,
        told: ImportedRun,
        untimed_ns: int | None = None,
        known: Known | None = None,
    ) -> None:
        super().__init__(
            TrialComponent(journal, component_id, name),
            settings_of(sync="off"),
            lambda _folder, _wanted: 0,
            None,
            None,
            None,
        )
        if known is None:
            runs = {component_id: (name, untimed_ns is None)}
            known = known_in(journal, runs)[component_id]
        self.told = told
        self.known = known
        self.has_status = False
        self._untimed_ns = untimed_ns
        self._points: list[Draft] = []
        self._problems: dict[str, str | None] = {}
        self._notices = _Told(told)
        now_ns = time.time_ns()
        self._window_ns = (
            now_ns - limits.METRIC_AGE_MAX_S * 10**9,
            now_ns + limits.METRIC_AHEAD_MAX_S * 10**9,
        )

    def record(
        self, items: Iterable[Item], on_read: Callable[[int], None] = lambda _: None
    ) -> None:
        """Record items in order, points in batches.

        Raises:
            JournalError: The journal refuses.
            OSError: The source can't be read. What came before is recorded.
        """
        read = 0
        try:
            for item in items:
                if type(item) is Point:
                    self._point(item)
                    if len(self._points) >= BATCH:
                        self._write_points()
                elif isinstance(item, Read):
                    read += item.size_bytes
                    on_read(read)
                elif isinstance(item, LeftOut):
                    self.told.left_out.add(item)
                else:
                    self._state(item)
        finally:
            self._write_points()

    def differs(self, items: Iterable[Item]) -> bool:
        """Return whether journal and source both have points that the other lacks.

        Records nothing. ``known`` is used up.
        """
        is_more = False
        for item in items:
            if type(item) is Point:
                self._point(item)
                is_more |= sum(map(self.known.is_new, self._points)) > 0
                self._points.clear()
        return is_more and self.known.unmatched > 0

    # -- points ------------------------------------------------------------------------------------

    def _point(self, point: Point) -> None:
        name, value, step, time_ns = point
        problem = self._problems.get(name, "")
        if problem == "":
            problem = self._problems[name] = limits.text_problem(
                name, "its name", limits.METRIC_NAME_CHARS_MAX
            )
        if problem is not None:
            self._leave_out("point", problem, name)
        elif step is not None and not 0 <= step <= limits.STEP_MAX:
            self._leave_out("point", f"its step is not from 0 to {limits.STEP_MAX}", name)
        else:
            if time_ns is None:
                time_ns = self._untimed_ns
            if time_ns is None or not 0 <= time_ns <= limits.JOURNAL_NS_MAX:
                self._leave_out("point", "its time is before 1970 or after 2262", name)
            # False for NaN and infinity.
            elif type(value) is float and value - value == 0:
                self._points.append(
                    vocabulary.Draft("metric", "metric", name, value, step, time_ns)
                )
            else:
                self._points.append(vocabulary.metric(name, value, step, time_ns))

    def _write_points(self) -> None:
        points, self._points = self._points, []
        recorded = self._append_new(points)
        self.told.points += len(recorded)
        self.told.known += len(points) - len(recorded)
        earliest_ns, latest_ns = self._window_ns
        for draft in recorded:
            self.told.not_finite += draft.undeliverable is not None
            self.told.old += not earliest_ns <= (draft.timestamp_ns or 0) <= latest_ns

    def _append_new(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Record in one transaction the drafts that the journal lacks, and return them."""
        known = self.known
        new = [draft for draft in drafts if known.is_new(draft)]
        while new and not self._journal.append_if(known.is_current, self._id, new):
            # Another process imports into the run, too.
            known.look_again()
            new = [draft for draft in new if known.is_new(draft)]
        known.recorded(new)
        return new

    # -- all else ----------------------------------------------------------------------------------

    def _write(self, drafts: Sequence[Draft]) -> None:
        """Record what the journal lacks of it."""
        self.told.state += len(self._append_new(drafts))

    def _state(self, item: Item) -> None:
        """Record what is no point. What can't be recorded is left out."""
        if isinstance(item, Parameters):
            self._parameters(item.values)
        elif isinstance(item, File):
            self._file(item)
        elif isinstance(item, Content):
            self._content(item)
        elif isinstance(item, Tags):
            self._tags(item.values)
        elif isinstance(item, Note):
            if len(item.text) > limits.NOTE_CHARS_MAX:
                self._leave_out("note", f"only {limits.NOTE_CHARS_MAX} characters of it are kept")
            self._append([vocabulary.note(item.text[: limits.NOTE_CHARS_MAX])])
        elif isinstance(item, Status):
            self.has_status |= item.primary is not None
            self._append(
                [
                    vocabulary.status(
                        primary=item.primary,
                        message=limits.one_line(item.message or "") or None,
                        start_ns=item.start_ns,
                        end_ns=item.end_ns,
                    )
                ]
            )

    def _parameters(self, values: Mapping[str, Any]) -> None:
        """Record parameters; if not all can be, those that can."""
        try:
            self.log_parameters(values)
        except (InvalidInputError, InvalidTypeError) as error:
            if len(values) == 1:
                self._leave_out("parameter", error.message, next(iter(values)))
                return
            for name, value in values.items():
                self._parameters({name: value})

    def _file(self, file: File) -> None:
        try:
            with file.path.open("rb") as stream:
                sha256 = digest_of(stream.read)
            if not self.known.has_content(file.name, sha256):
                self.log_artifact(file.path, file.name, file.media_type)
        except (OSError, InvalidInputError, JournalFullError) as error:
            why = error.message if isinstance(error, JournaltrackError) else described(error)
            self._leave_out("artifact", why, file.name, is_harm=isinstance(error, OSError))

    def _content(self, content: Content) -> None:
        with tempfile.TemporaryDirectory(prefix="journaltrack-import-") as folder:
            path = Path(folder, limits.suggested_name(content.name) + Path(content.name).suffix)
            path.write_bytes(content.content)
            self._file(File(path, content.name, content.media_type))

    def _tags(self, values: Mapping[str, str]) -> None:
        """Record the tags that AWS takes, as long as there are not too many."""
        room = limits.TAGS_MAX - len(self.trial_component.tags or ())
        taken = {each["Key"] for each in self.trial_component.tags or ()}
        kept: dict[str, str] = {}
        for key, value in values.items():
            problem = limits.tag_problem(key, value)
            if problem is None and key not in taken and len(kept.keys() - taken) >= room:
                problem = f"a run has at most {limits.TAGS_MAX} tags"
            if problem is None:
                kept[key] = value
            else:
                self._leave_out("tag", problem, key)
        self._append([vocabulary.tags({key: value}) for key, value in kept.items()])

    def _leave_out(self, what: str, why: str, example: str = "", *, is_harm: bool = False) -> None:
        self.told.left_out.add(LeftOut(what, why, example, is_harm=is_harm))


class _Told(Notices):
    """Tell what a tracker would warn of in the summary."""

    def __init__(self, told: ImportedRun) -> None:
        super().__init__()
        self._noted = told.noted

    def tell(self, drafts: Iterable[Draft], others: Iterable[Notice] = ()) -> None:
        """Count what is recorded, but can't be delivered."""
        for draft in drafts:
            if draft.undeliverable is not None:
                self._noted.add(LeftOut(draft.kind, draft.undeliverable, draft.name or ""))
        for notice in others:
            self._noted.add(LeftOut(notice.kind, notice.text, notice.name))
