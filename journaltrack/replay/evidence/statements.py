"""Define what an attestation says. Write its body, or read one with suspicion.

A body names entries by their writer and place, and components by name. So it means the same in
every copy of the journal. ``Statement`` says the same in one journal's own numbers.

Invariant: everything read from elsewhere has a type and a bound, or is refused.

``follow`` says what a statement makes of entries. docs/journal-format.md lists the body's members.
Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from journaltrack import limits
from journaltrack.journal.chain import BODY_CHARS_MAX, read_body
from journaltrack.util.digest import is_digest
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.vocabulary import BlobRef
    from journaltrack.replay.plan.actions import Run

DeliveryOutcome: TypeAlias = Literal["delivered", "superseded", "quarantined", "in doubt"]
"""What becomes of an entry."""
RELEASED: Final = "released"
"""The outcome of statements that make their entries pending again."""
READBACK: Final = "readback"
"""The action of receipts for what reading back found."""
REOPEN: Final = "reopen"
"""The action of receipts for what was found gone, and is pending again."""
REPAIR: Final = "repair"
"""The action of the statement of a repair: it says for other requests what became of entries."""
MERGE: Final = "merge"
"""The action of statements for what was decided, or found, when copies were merged."""

TEXT_CHARS_MAX: Final = 1 << 20
"""Our own limit: characters of a member that is text (an error, a reason)."""
UUID_CHARS_MAX: Final = 200
"""Our own limit: characters of a writer's id. Ours have 36."""
GENERATION_MAX: Final = 2**61
"""Our own limit: a lease's generation. Well below what makes a journal unusable (``check``)."""
WRITERS_MAX: Final = 100_000
"""Our own limit: writers whose entries one attestation names."""
_OUTCOMES: Final = frozenset(get_args(DeliveryOutcome))

Intervals: TypeAlias = Sequence[tuple[int, int]]
"""(first, last) of entries by ``seq``. Numbers between that the journal lacks do not count."""
Named: TypeAlias = Mapping[str, tuple[tuple[int, int], ...]]
"""Entries by their writer's uuid: (first, last) of runs of their places."""


class Content(NamedTuple):
    """Name bytes in a place for uploads.

    ``bucket`` and ``prefix`` are '' for the configured ones.
    """

    sha256: str
    bucket: str
    prefix: str


def content_of(blob: BlobRef) -> Content:
    """Return a blob's name in statements and in the tables."""
    return Content(blob.sha256, blob.bucket or "", blob.prefix or "")


class Settled(NamedTuple):
    """Hold entries that share an outcome (``DeliveryOutcome``) and its reason.

    Attributes:
        outcome: Of the entries.
        reason: Of the outcome.
        entries: The entries.
        at_ns: Since when, if not since the statement: what a merge found settled.
        receipt_id: The request that settled them, if another than the statement's. Not attested.
    """

    outcome: str
    reason: str | None
    entries: Intervals
    at_ns: int | None = None
    receipt_id: int | None = None


class Statement(NamedTuple):
    """Say what an attestation says, in one journal's own numbers.

    A named tuple: with so many members, a dataclass takes four times as long to make.

    Attributes:
        action: Of the request ("metrics", "update", ...), or the decision ("plan", "release",
            "settle", "repair", ...).
        outcome: Of the receipt. For a decision without one: what was decided.
        component_id: None: the journal itself.
        entries: What the statement is about.
        settled: What became of them. Entries it does not name stay as they are.
        receipt_id: Of this journal. None: no request was needed.
        generation: Of the lease.
        started_at_ns: Nanoseconds since the epoch.
        finished_at_ns: Nanoseconds since the epoch.
        attempts: As the receipt has it. So are ``request_id``, ``error_code`` and ``error_text``.
        arn: The remote said that the component exists, under this ARN. '': without an ARN.
        missing: The remote said that the component does not exist, or no longer.
        uploaded: (content, uri) of an upload.
        forgotten: An uploaded content that is gone, and must be uploaded again.
        more: Further members of the body.
        runs: Where ``entries`` are in their writers' chains, in order of ``seq``. (): to be
            looked up.
    """

    action: str
    outcome: str
    component_id: int | None
    entries: Intervals
    finished_at_ns: int
    generation: int
    settled: Sequence[Settled] = ()
    receipt_id: int | None = None
    started_at_ns: int | None = None
    attempts: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_text: str | None = None
    arn: str | None = None
    missing: bool = False
    uploaded: tuple[Content, str] | None = None
    forgotten: Content | None = None
    more: Mapping[str, Any] = MappingProxyType({})
    runs: Sequence[Run] = ()

    def apart(self) -> list[Settled]:
        """Return the groups that are not about all entries, and must name their own."""
        return [settled for settled in self.settled if settled.entries != self.entries]

    def body(
        self, component: str | None, named: Mapping[str, str], apart: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        """Return the members of the statement's body.

        Args:
            component: Its name.
            named: The statement's entries, by the writer's uuid, as text.
            apart: The same for each group of ``apart``.
        """
        whole = [_group_body(each, None) for each in self.settled if each.entries == self.entries]
        settled = [
            *whole,
            *(
                _group_body(each, entries)
                for each, entries in zip(self.apart(), apart, strict=True)
            ),
        ]
        content, uri = self.uploaded or (None, None)
        members = {
            "action": self.action,
            "outcome": self.outcome,
            "component": component,
            "entries": named,
            "settled": settled or None,
            "generation": self.generation,
            "started_at_ns": self.started_at_ns,
            "finished_at_ns": self.finished_at_ns,
            "attempts": self.attempts,
            "request_id": self.request_id,
            "error_code": self.error_code,
            "error_text": self.error_text,
            "arn": self.arn,
            "missing": self.missing or None,
            "object": {**content._asdict(), "uri": uri} if content else None,
            "forgotten": self.forgotten._asdict() if self.forgotten else None,
            **self.more,
        }
        return {name: value for name, value in members.items() if value is not None}


def _group_body(settled: Settled, entries: Mapping[str, str] | None) -> list[Any]:
    """Return a group as a body holds it.

    Without a fourth member, the statement's time holds.
    """
    return [
        settled.outcome,
        settled.reason,
        entries,
        *(() if settled.at_ns is None else (settled.at_ns,)),
    ]


class Group(NamedTuple):
    """Hold entries that share what became of them."""

    outcome: str
    reason: str | None
    entries: Named
    at_ns: int


class Said(NamedTuple):
    """Hold what a body says. The names are those of ``Statement``.

    ``started_at_ns`` is None if there was no request.
    """

    action: str
    outcome: str
    component: str | None
    entries: Named
    settled: tuple[Group, ...]
    generation: int
    started_at_ns: int | None
    finished_at_ns: int
    attempts: int | None
    request_id: str | None
    error_code: str | None
    error_text: str | None
    arn: str | None
    missing: bool
    uploaded: tuple[Content, str] | None
    forgotten: Content | None

    @property
    def released(self) -> bool:
        """Return whether it made its entries pending."""
        return self.outcome == RELEASED

    def here(
        self, places: Callable[[Named], Intervals], component_id: int | None, receipt_id: int | None
    ) -> Statement:
        """Return the same as a statement in a journal's own numbers.

        Args:
            places: Returns where the named entries are in that journal.
            component_id: In that journal. None: it has no such component.
            receipt_id: In that journal. None: it has no receipt.
        """
        entries = places(self.entries)
        settled = [
            Settled(
                each.outcome,
                each.reason,
                entries if each.entries is self.entries else places(each.entries),
                each.at_ns,
            )
            for each in self.settled
        ]
        return Statement(
            self.action,
            self.outcome,
            component_id,
            entries,
            self.finished_at_ns,
            self.generation,
            settled,
            receipt_id,
            self.started_at_ns,
            self.attempts,
            self.request_id,
            self.error_code,
            self.error_text,
            self.arn,
            self.missing,
            self.uploaded,
            self.forgotten,
        )


def looked(action: str, outcome: str) -> bool:
    """Return whether this says that a reading did not settle entries in doubt."""
    return action == READBACK and outcome == "in doubt"


_NUMBER: Final = "(0|[1-9][0-9]{0,17}|1[0-9]{18})"
"""A number below every limit here; nanoseconds have 19 digits."""
_WORD: Final = "([0-9A-Za-z_.:/-]{1,200})"
_PLAIN: Final = re.compile(
    rf'{{"action":"{_WORD}","outcome":"delivered","component":"{_WORD}",'
    rf'"entries":{{"([0-9a-f-]{{1,40}})":"([0-9]{{1,18}})(?:-([0-9]{{1,18}}))?"}},'
    rf'"settled":\[\["delivered",null,null\]\],"generation":{_NUMBER},"started_at_ns":{_NUMBER},'
    rf'"finished_at_ns":{_NUMBER},"attempts":{_NUMBER},"request_id":"{_WORD}"}}'
)


def plain(body: object) -> Said | None:
    """Return what the body of the usual statement says, or None if it may be another.

    Usual: one request delivered entries that follow each other, as ``attestations.Scribe`` writes
    it. This takes a tenth of the time of the general way. A test compares the two.
    """
    found = _PLAIN.fullmatch(body) if isinstance(body, str) else None
    if found is None:
        return None
    action, component, uuid, first, last, *numbers, request_id = found.groups()
    interval = (int(first), int(last or first))
    if not 0 < interval[0] <= interval[1]:
        return None
    entries = {uuid: (interval,)}
    generation, started_at_ns, finished_at_ns, attempts = map(int, numbers)
    settled = (Group("delivered", None, entries, finished_at_ns),)
    return Said(
        action,
        "delivered",
        component,
        entries,
        settled,
        generation,
        started_at_ns,
        finished_at_ns,
        attempts,
        request_id,
        error_code=None,
        error_text=None,
        arn=None,
        missing=False,
        uploaded=None,
        forgotten=None,
    )


def read(body: object) -> Said:
    """Return what a body says.

    Raises:
        ValueError: No journaltrack attests this. The message says why, and quotes little.
    """
    return plain(body) or said(members_of(body))


def said(members: Mapping[str, Any]) -> Said:
    """Return what the members of a body say.

    Raises:
        ValueError: As ``read``.
    """
    get = members.get
    entries = _named(get("entries"))
    finished_at_ns = _integer(get("finished_at_ns"), "finished_at_ns")
    settled = tuple(
        [_group(each, entries, finished_at_ns) for each in _list(get("settled", []), "settled")]
    )
    if "started_at_ns" not in members and (
        get("object") is not None or any(g.outcome == "delivered" for g in settled)
    ):
        raise ValueError("it says that something was delivered, and by no request")
    return Said(
        action=_text(get("action"), "action"),
        outcome=_text(get("outcome"), "outcome"),
        component=None
        if (component := get("component")) is None
        else _text(component, "component"),
        entries=entries,
        settled=settled,
        generation=_integer(get("generation"), "generation", GENERATION_MAX),
        started_at_ns=_integer(members["started_at_ns"], "started_at_ns")
        if "started_at_ns" in members
        else None,
        finished_at_ns=finished_at_ns,
        attempts=_integer(members["attempts"], "attempts") if "attempts" in members else None,
        request_id=None
        if (request_id := get("request_id")) is None
        else _text(request_id, "request_id"),
        error_code=None
        if (error_code := get("error_code")) is None
        else _text(error_code, "error_code"),
        error_text=None
        if (error_text := get("error_text")) is None
        else _text(error_text, "error_text"),
        arn=None if (arn := get("arn")) is None else _text(arn, "arn"),
        missing=get("missing") is True,
        uploaded=None if (uploaded := get("object")) is None else _uploaded(uploaded),
        forgotten=_content(members["forgotten"], "forgotten") if "forgotten" in members else None,
    )


def members_of(body: object) -> dict[str, Any]:
    """Return the members of a body.

    Raises:
        ValueError: It has none.
    """
    if not isinstance(body, str) or len(body) > BODY_CHARS_MAX or not body.isascii():
        raise ValueError("it is no text in ASCII, or too long")
    members = read_body(body)
    if members is None:
        raise ValueError("it is no JSON object")
    return members


def _group(each: object, entries: Named, finished_at_ns: int) -> Group:
    # Outcome, reason, entries, and perhaps since when.
    if not isinstance(each, list) or not 3 <= len(each) <= 4:  # noqa: PLR2004 - see above
        raise _wrong("settled", each)
    outcome, reason, named, *since = each
    if not isinstance(outcome, str) or outcome not in _OUTCOMES:
        raise _wrong("settled", outcome)
    return Group(
        outcome,
        None if reason is None else _text(reason, "reason"),
        entries if named is None else _named(named),
        _integer(since[0], "since") if since else finished_at_ns,
    )


def _named(value: object) -> Named:
    if not isinstance(value, dict) or len(value) > WRITERS_MAX:
        raise _wrong("entries", value)
    for uuid in value:
        if not 0 < len(uuid) <= UUID_CHARS_MAX or not (uuid.isascii() or _storable(uuid)):
            raise _wrong("entries", uuid)
    return {uuid: tuple(ranges_in(text)) for uuid, text in value.items()}


def _uploaded(value: object) -> tuple[Content, str]:
    content = _content(value, "object")
    return content, _text(
        value["uri"] if isinstance(value, dict) and "uri" in value else None, "uri"
    )


def _content(value: object, member: str) -> Content:
    if not isinstance(value, dict):
        raise _wrong(member, value)
    content = Content(*(_text(value.get(name), name) for name in Content._fields))
    if not is_digest(content.sha256):
        raise _wrong(member, content.sha256)
    return content


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(name, value)
    return value


def _text(value: object, name: str) -> str:
    if (
        isinstance(value, str)
        and len(value) <= TEXT_CHARS_MAX
        and (value.isascii() or _storable(value))
    ):
        return value
    raise _wrong(name, value)


def _integer(value: object, name: str, highest: int = 2**63 - 1) -> int:
    if type(value) is int and 0 <= value <= highest:
        return value
    raise _wrong(name, value)


def _storable(text: str) -> bool:
    """Return whether SQLite takes it as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(name: str, value: object) -> ValueError:
    return ValueError(f"its member {name!r} can't be {limits.shown(str(value)[:200])}")
