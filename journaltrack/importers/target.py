"""Record items of a source in one run of a journal: what it lacks, and nothing twice.

Must not know a format, nor how a run is named.

Invariants:

- *Idempotent by content*: an entry is recorded once for each time that the source has it, however
  often the source is imported, in parts, after a kill, or by two processes at once. The journal's
  own entries are the memory. There is no other state.
- Points go in transactions of ``BATCH``: memory does not grow with the source. Each point that the
  journal had before takes 12 bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import (
    InvalidInputError,
    InvalidTypeError,
    JournalFullError,
    JournaltrackError,
    described,
)
from journaltrack.importers.known import Known, known_in, known_of_new
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
    Status,
    Tags,
)
from journaltrack.journal import vocabulary
from journaltrack.tracking import shapes
from journaltrack.tracking.run_log import RunLog
from journaltrack.tracking.settings import settings_of
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.tracking.writers import Notices
from journaltrack.util.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft
    from journaltrack.tracking.writers import Notice

BATCH: Final = 5_000
"""Ours: points of one transaction."""


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
        asked_name: The name that the caller wanted.
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
    asked_name: str | None = None

    @property
    def has_other_name(self) -> bool:
        """Return whether it was imported before, under another name than the one asked for."""
        return self.asked_name is not None and self.asked_name.lower() != self.name

    @property
    def is_changed(self) -> bool:
        """Return whether this import recorded something of it."""
        return self.is_new or bool(self.points or self.state)


class Target(RunLog):
    """Record items of one run of a journal, but for those that the journal has.

    Args:
        journal: An open journal.
        component_id: The run's id, from ``Journal.component``.
        name: The run's name.
        told: Gets what was recorded and left out.
        untimed_ns: The time of points without one; None: the source has times.
        known: What the journal has of the run; None: read it.
        begin: Creates the run, right before its first entry. None: the run is there.
    """

    def __init__(
        self,
        journal: Journal,
        component_id: int,
        name: str,
        told: ImportedRun,
        untimed_ns: int | None = None,
        known: Known | None = None,
        begin: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(
            TrialComponent(journal, component_id, name),
            settings_of(sync="off"),
            lambda _folder, _wanted: 0,
            None,
            None,
            None,
        )
        if known is None and begin is not None:
            known = known_of_new(journal, component_id, name, is_timed=untimed_ns is None)
        elif known is None:
            runs = {component_id: (name, untimed_ns is None)}
            known = known_in(journal, runs)[component_id]
        self.told = told
        self._begin = begin
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

    @property
    def is_begun(self) -> bool:
        """Return whether the run is in the journal."""
        return self._begin is None

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
        if new and self._begin is not None:
            self._begin()
            self._begin = None
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
            # Strict: the summary tells what is left out, and why.
            self._append(*self._drafter.parameters(shapes.flattened(values), "/", strict=True))
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
