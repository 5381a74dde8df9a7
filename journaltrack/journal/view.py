"""Give reports a consistent view of a journal, its entries' states, and JSON.

Prints nothing, changes nothing. A report reads through its own connection, so that a report of a
million entries does not delay an append. A journal may come from somebody else: columns may have
any type and any size, and receipts may name entries that do not exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError, NothingMatchesError
from journaltrack.journal import groups, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.errors import translated
from journaltrack.util import paths, patterns
from journaltrack.util.intervals import contains, merged, ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.journal import ComponentRow
    from journaltrack.journal.sqlite.connection import Database

T = TypeVar("T")

State: TypeAlias = Literal["pending", "in flight", "delivered", "in doubt", "quarantined"]
When: TypeAlias = dt.datetime | dt.timedelta | int
"""A point in time: an aware datetime, how long ago, or nanoseconds since the epoch."""
RECENT_RECEIPTS: Final = 10_000
"""Our limit: how many receipts ``status`` searches for the last success and the last error."""
IS_RECENT: Final = f"id > (SELECT coalesce(max(id), 0) FROM receipt) - {RECENT_RECEIPTS}"

_UNFINISHED_PAGE: Final = (
    "SELECT id, CASE WHEN typeof(entries) = 'text' AND length(entries) <= ?2 THEN entries END "
    "FROM receipt WHERE finished_at_ns IS NULL AND id > ?1 ORDER BY id LIMIT 100"
)
"""Reads 100 at a time: a journal from elsewhere may have any number of them, of any size."""
_STATE_OF_OUTCOME: Final[dict[str, State]] = {
    "delivered": "delivered",
    "superseded": "delivered",
    "in doubt": "in doubt",
    "quarantined": "quarantined",
}


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A request that did not deliver all its entries.

    ``outcome`` is that of the receipt ("held", "failed", ...).
    """

    receipt_id: int
    action: str
    outcome: str | None
    code: str | None
    text: str | None
    at_ns: int | None
    attempts: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """The entries that unfinished receipts name.

    Attributes:
        receipts: Number of unfinished receipts.
        intervals: (first, last) of their entries, sorted and without overlaps.
        unreadable: Receipts whose list of entries can't be read: the journal is damaged or crafted.
    """

    receipts: int
    intervals: tuple[tuple[int, int], ...]
    unreadable: tuple[int, ...]

    def names(self, seq: int) -> bool:
        """Return whether an unfinished receipt names the entry.

        Fast also in a crafted journal with as many intervals as entries.
        """
        return contains(self.intervals, seq)

    @property
    def json(self) -> str:
        """Return the intervals for SQLite's ``json_each``."""
        return json.dumps(self.intervals)


@contextlib.contextmanager
def opened(journal: Journal | str | os.PathLike[str] | None) -> Iterator[Journal]:
    """Yield a read-only journal with its own connection, for the time of a report.

    Args:
        journal: An open journal, a path, or None for the default journal.

    Raises:
        JournalError: It can't be opened.
    """
    if isinstance(journal, Journal) and journal.database.read_only:
        yield journal
        return
    own = Journal.open(
        journal.path if isinstance(journal, Journal) else journal, create=False, read_only=True
    )
    try:
        yield own
    finally:
        own.close()


def look(journal: Journal | str | os.PathLike[str] | None, work: Callable[[Journal], T]) -> T:
    """Return what ``work`` reads of one state of a journal.

    A journal that nobody writes is read without SQLite's locks and log. Of thousands that takes a
    quarter less time, and no file is made beside any. If it changed meanwhile, what was read is
    dropped, and ``work`` is called again.

    Args:
        journal: As of ``opened``.
        work: Reads the journal, and changes nothing.

    Raises:
        JournalError: It can't be opened.
    """
    is_reading = isinstance(journal, Journal) and journal.database.read_only
    file = paths.journal_folder(journal) / paths.DATABASE
    before = None if is_reading else files.at_rest(file)
    if before is not None:
        found: list[T] = []
        failed: Exception | None = None
        try:
            with contextlib.closing(
                Journal.open(file.parent, create=False, read_only=True, at_rest=True)
            ) as own:
                found.append(work(own))
        # Half of a change may look like anything.
        except Exception as error:  # noqa: BLE001 - raised if nothing changed
            failed = error
        if files.stamp(file) == before:
            if failed is not None:
                raise failed
            return found[0]
    with opened(journal) as own, snapshot(own.database):
        return work(own)


@contextlib.contextmanager
def snapshot(database: Database, *, in_memory: bool = False) -> Iterator[None]:
    """Make all reads in the block see the same state of the journal.

    Others may append and settle meanwhile.

    Args:
        database: The journal's database.
        in_memory: Keep temporary tables in memory instead of a file.
    """
    with database.lock, translated(database.path):
        connection = database.connection
        if in_memory:
            connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("BEGIN")
        try:
            yield
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if in_memory:
                connection.execute("PRAGMA temp_store = DEFAULT")


def matching(journal: Journal, pattern: str | None, *, displayed: bool = False) -> str | None:
    """Return the ids of the components that a shell pattern matches, as a JSON array.

    The pattern is case-insensitive. None means all components.

    Args:
        journal: The journal.
        pattern: Of names.
        displayed: Where no name fits, look at display names.

    Raises:
        NothingMatchesError: No component matches. An empty report would look like success.
    """
    if pattern is None:
        return None
    rows = journal.components()
    found = [row.id for row in rows if patterns.fits(row.name, pattern)]
    if not found and displayed:
        found = sorted(_displayed_as(journal, pattern))
    if not found:
        raise _no_component(journal, f"that fits {limits.shown(pattern)}", pattern)
    return json.dumps(found)


def component(journal: Journal, name: str) -> ComponentRow:
    """Return the component of a name, case-insensitive, or the only one of a display name.

    Raises:
        NothingMatchesError: There is none.
    """
    row = journal.find(name)
    if row is not None and groups.is_run(row.name):
        return row
    shown_as = _displayed_as(journal, name)
    if len(shown_as) == 1:
        return next(each for each in journal.components() if each.id in shown_as)
    raise _no_component(journal, limits.shown(name), name)


def _no_component(journal: Journal, which: str, wanted: str) -> NothingMatchesError:
    message = f"the journal {journal.path} has no component {which}"
    rows = journal.runs()
    shown_as = _displayed_as(journal, wanted)
    displayed = [str(row.name) for row in rows if row.id in shown_as]
    if displayed:
        return NothingMatchesError(
            message, hint=f"that is the display name of {patterns.some(displayed)}"
        )
    return NothingMatchesError(message, hint=patterns.hint(wanted, [str(row.name) for row in rows]))


def _displayed_as(journal: Journal, wanted: str) -> set[int]:
    """Return the ids of the components with a display name: of the creation, or a later one."""
    sql = (
        "SELECT component_id, kind, coalesce(json_extract(payload, '$.display_name'), "
        "json_extract(payload, '$.text')) FROM entry WHERE stream <> 'metric' AND "
        "(kind = ?1 OR (kind = ?2 AND name = ?3)) AND json_valid(payload) ORDER BY seq"
    )
    given = (vocabulary.CREATE, vocabulary.LABEL, vocabulary.RUN_NAME)
    # The last of each kind.
    last = {(number, kind): name for number, kind, name in journal.database.read(sql, given)}
    return {
        number
        for (number, _), name in last.items()
        if name is not None and patterns.fits(name, wanted)
    }


def in_flight(database: Database) -> InFlight:
    """Return the entries that unfinished receipts name."""
    intervals: list[tuple[int, int]] = []
    unreadable = []
    count = after = 0
    while page := database.read(_UNFINISHED_PAGE, (after, limits.PAYLOAD_CHARS_MAX)):
        count, after = count + len(page), page[-1][0]
        for receipt_id, text in page:
            try:
                intervals += ranges_in(text)
            except ValueError:  # noqa: PERF203 - one bad item must not hide the others
                unreadable.append(receipt_id)
        intervals = merged(intervals)
    return InFlight(count, tuple(intervals), tuple(unreadable))


def state_of(outcome: object, *, flying: bool) -> State | None:
    """Return an entry's state, from its delivery's outcome.

    None for an outcome that this version does not know. ``flying`` says whether an unfinished
    receipt names the entry.
    """
    if outcome is None:
        return "in flight" if flying else "pending"
    return _STATE_OF_OUTCOME.get(outcome) if isinstance(outcome, str) else None


_LANE: Final = "CASE WHEN action IN ('upload', 'lineage') THEN action ELSE '' END"
_IS_ERROR: Final = "error_text IS NOT NULL AND action <> 'repair'"
_ANY_ERROR: Final = f"SELECT 1 FROM receipt WHERE {_IS_ERROR} AND {{chosen}} LIMIT 1"
_LAST_ERROR: Final = (
    f"WITH done AS (SELECT component_id, {_LANE} AS lane, max(id) AS id FROM receipt "
    "WHERE outcome = 'delivered' AND {chosen} GROUP BY 1, 2), "
    "error AS (SELECT id, action, outcome, error_code, error_text, finished_at_ns, attempts, "
    f"request_id, component_id, {_LANE} AS lane, "
    "outcome IN ('held', 'halted', 'failed') AS waits FROM receipt "
    f"WHERE {_IS_ERROR} AND {{chosen}}) "
    "SELECT id, action, outcome, error_code, error_text, finished_at_ns, attempts, request_id "
    "FROM error e WHERE NOT EXISTS (SELECT 1 FROM done d WHERE d.component_id IS e.component_id "
    "AND d.id > e.id AND (d.lane = e.lane OR NOT e.waits)) ORDER BY id DESC LIMIT 1"
)


def last_error(database: Database, component_id: int | None = None) -> ErrorRecord | None:
    """Return the last failed request that no later delivery has overcome, or None.

    A delivery overcomes the earlier errors of its component. But metrics that arrive say nothing of
    uploads and lineage that wait, and the other way round: an error that left entries pending is
    overcome in its own lane.

    Args:
        database: Of the journal.
        component_id: Look at all requests of this component. None: at the newest
            ``RECENT_RECEIPTS`` of all components.
    """
    chosen = IS_RECENT if component_id is None else "component_id = ?1"
    given = () if component_id is None else (component_id,)
    # Nearly always none. Preparing the long statement takes five times as long as this one.
    if not database.read(_ANY_ERROR.format(chosen=chosen), given):
        return None
    rows = database.read(_LAST_ERROR.format(chosen=chosen), given)
    return ErrorRecord(*rows[0]) if rows else None


def detail_of(payload: object) -> dict[str, Any]:
    """Decode a payload. Return an empty dict if it is absent or can't be read."""
    if not isinstance(payload, str):
        return {}
    if len(payload) > limits.PAYLOAD_CHARS_MAX:
        return {"omitted": f"{len(payload)} characters; they are in the journal"}
    try:
        return vocabulary.decode(payload)
    except ValueError:
        return {}


def origins(database: Database, component_id: int) -> tuple[str, ...]:
    """Return how a component came into this journal, in order.

    Each is "created", "loaded" or "job". After one of them, "resumed" means that a later process
    continued it. A command's trackers do not continue the run that was launched for them, nor do
    other ranks of one launch.
    """
    of_component = "component_id = ? AND stream <> 'metric' AND kind IN ('create', 'load')"
    rows = database.read(
        f"SELECT kind, payload FROM entry WHERE {of_component} ORDER BY seq",
        (component_id,),
    )
    found: list[str] = []
    launches: set[tuple[str, str]] = set()
    for kind, payload in rows:
        detail = detail_of(payload)
        launch = detail.get("launch")
        start = rank = ""
        if isinstance(launch, dict):
            start, rank = f"{launch.get('job')} {launch.get('step')}", str(launch.get("rank"))
        if kind != vocabulary.CREATE:
            found.append("job" if detail.get("job") else "loaded")
        elif not found:
            found.append("created")
        elif not launches or (
            start and ((start, rank) in launches or start not in {each for each, _ in launches})
        ):
            found.append("resumed")
        if start:
            launches.add((start, rank))
    return tuple(dict.fromkeys(found))


def nanoseconds(name: str, when: When | None) -> int | None:
    """Return a point in time as nanoseconds since the epoch; None for None.

    Args:
        name: The argument's name, for the message.
        when: An aware datetime, how long ago, or nanoseconds since the epoch.

    Raises:
        InvalidTypeError: It is none of these.
        InvalidInputError: It is a datetime without a time zone.
    """
    if when is None:
        return None
    if isinstance(when, dt.timedelta):
        found = time.time_ns() - _nanoseconds_in(when)
    elif isinstance(when, dt.datetime):
        if when.tzinfo is None:
            raise InvalidInputError(
                f"{name} has no time zone",
                hint="say datetime.now(timezone.utc), or moment.astimezone() for local time",
            )
        found = _nanoseconds_in(when - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc))
    elif type(when) is int:
        found = when
    else:
        raise InvalidTypeError(
            f"{name} is {type(when).__name__}; it must be a datetime, a timedelta or nanoseconds"
        )
    # A journal has nothing older or newer, and SQLite accepts no larger number.
    return min(max(found, 0), limits.JOURNAL_NS_MAX)


def _nanoseconds_in(span: dt.timedelta) -> int:
    return (span.days * 86_400 + span.seconds) * 1_000_000_000 + span.microseconds * 1000


def iso(time_ns: object) -> str | None:
    """Format nanoseconds since the epoch as ISO 8601 in UTC, with microseconds.

    None for None and for what is no integer.
    """
    if not isinstance(time_ns, int):
        return None
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    try:
        moment = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"out of range: {time_ns} ns"
    # strftime does not fill years before 1000 to four digits.
    if moment.year < 1000:  # noqa: PLR2004
        return f"out of range: {time_ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


def iso_seconds(time_ns: object) -> str | None:
    """Format a time like ``iso``, to the second."""
    text = iso(time_ns)
    return f"{text[:19]}Z" if text is not None and text.endswith("Z") else text


def to_json(value: Any) -> Any:  # noqa: ANN401 - any report, or any part of one
    """Convert a report for ``json.dumps``.

    Dataclasses become objects. Times (``*_ns``) become ISO 8601 text, under the name without
    ``_ns``. Bytes become hexadecimal text, and NaN and infinity become text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _members(
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        )
    if isinstance(value, Mapping):
        return {str(key): to_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(member) for member in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _members(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removesuffix("_ns"): iso(value) if name.endswith("_ns") else to_json(value)
        for name, value in members.items()
    }
