"""The body of an attestation that comes from elsewhere, read with suspicion: everything has a type and a bound, or it is refused.

Pure: no I/O. What a body means is in ``attestations`` (who writes it) and ``applier`` (who follows it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from journaltrack import limits
from journaltrack.replay.evidence.in_doubt import READBACK
from journaltrack.replay.evidence.outcomes import DeliveryOutcome
from journaltrack.util.intervals import ranges_in

BODY_CHARS_MAX: Final = 64 << 20
"""Ours: of an attestation; a release of a million scattered entries has 10 MB."""
TEXT_CHARS_MAX: Final = 1 << 20
"""Ours: of a member that is text (an error, a reason)."""
UUID_CHARS_MAX: Final = 200
"""Ours: of a writer's id; ours have 36."""
GENERATION_MAX: Final = 2**61
"""Ours: of a lease, well below what makes a journal unusable (``check``)."""
WRITERS_MAX: Final = 100_000
"""Ours: whose entries one attestation names."""
_OUTCOMES: Final = frozenset(get_args(DeliveryOutcome))
_DIGEST_CHARS: Final = 64
REOPEN: Final = "reopen"
"""The action of receipts for what ``check --remote --repair`` made pending again."""

Named = Mapping[str, tuple[tuple[int, int], ...]]
"""Entries by their writer's uuid: (first, last) of runs of their places."""


@dataclass(frozen=True, slots=True)
class Group:
    """Entries that share what became of them."""

    outcome: str
    reason: str | None
    entries: Named
    at_ns: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a body says; the names are those of ``attestations.Statement``. ``started_at_ns`` is None where there was no request."""

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
    location: tuple[str, str, str, str] | None
    forgotten: tuple[str, str, str] | None

    def looked(self, group: Group) -> bool:
        """Whether somebody looked what became of entries in doubt, and it was not told: that changes the reason alone."""
        return self.action == READBACK and group.outcome == "in doubt"

    @property
    def released(self) -> bool:
        """Whether it made its entries pending."""
        return self.outcome == "released"

    @property
    def reopened(self) -> bool:
        """Whether what it made pending had been delivered, and was found to be gone."""
        return self.released and self.action == REOPEN


def read(body: object) -> Said:
    """What a body says.

    Raises:
        ValueError: It is nothing that a journaltrack attests; the message says why, without quoting more than a little.
    """
    members = _members(body)
    entries = _named(members.get("entries"))
    finished_at_ns = _integer(members, "finished_at_ns")
    settled = tuple(_group(each, entries, finished_at_ns) for each in _list(members, "settled"))
    if "started_at_ns" not in members and (members.get("object") is not None or any(g.outcome == "delivered" for g in settled)):
        raise ValueError("it says that something was delivered, and by no request")
    return Said(
        action=_text(members, "action"),
        outcome=_text(members, "outcome"),
        component=_text_or_none(members, "component"),
        entries=entries,
        settled=settled,
        generation=_integer(members, "generation", GENERATION_MAX),
        started_at_ns=_integer(members, "started_at_ns") if "started_at_ns" in members else None,
        finished_at_ns=finished_at_ns,
        attempts=_integer(members, "attempts") if "attempts" in members else None,
        request_id=_text_or_none(members, "request_id"),
        error_code=_text_or_none(members, "error_code"),
        error_text=_text_or_none(members, "error_text"),
        arn=_text_or_none(members, "arn"),
        missing=members.get("missing") is True,
        location=_location(members.get("object")),
        forgotten=_content(members["forgotten"], "forgotten") if "forgotten" in members else None,
    )


def _members(body: object) -> dict[str, Any]:
    if not isinstance(body, str) or len(body) > BODY_CHARS_MAX or not body.isascii():
        raise ValueError("it is no text in ASCII, or too long")
    try:
        members = json.loads(body)
    except RecursionError:
        members = None
    if not isinstance(members, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - bad data
    return members


def _group(each: object, entries: Named, finished_at_ns: int) -> Group:
    if not isinstance(each, list) or not 3 <= len(each) <= 4:  # noqa: PLR2004 - outcome, reason, entries, perhaps since when
        raise _wrong("settled", each)
    outcome, reason, named, *since = each
    if outcome not in _OUTCOMES or not isinstance(outcome, str):
        raise _wrong("settled", outcome)
    told = {"reason": reason, "since": since[0] if since else finished_at_ns}
    return Group(outcome, _text_or_none(told, "reason"), entries if named is None else _named(named), _integer(told, "since"))


def _named(value: object) -> Named:
    if not isinstance(value, dict) or len(value) > WRITERS_MAX:
        raise _wrong("entries", value)
    found = {}
    for uuid, text in value.items():
        if not 0 < len(uuid) <= UUID_CHARS_MAX or not _storable(uuid):
            raise _wrong("entries", uuid)
        found[uuid] = tuple(ranges_in(text))
    return found


def _location(value: object) -> tuple[str, str, str, str] | None:
    if value is None:
        return None
    content = _content(value, "object")
    return (*content, _text(value, "uri")) if isinstance(value, dict) else None


def _content(value: object, member: str) -> tuple[str, str, str]:
    """Digest, bucket and prefix."""
    if not isinstance(value, dict):
        raise _wrong(member, value)
    sha256, bucket, prefix = (_text(value, name) for name in ("sha256", "bucket", "prefix"))
    if len(sha256) != _DIGEST_CHARS or not set(sha256) <= set("0123456789abcdef"):
        raise _wrong(member, sha256)
    return sha256, bucket, prefix


def _list(members: Mapping[str, Any], name: str) -> list[Any]:
    value = members.get(name, [])
    if not isinstance(value, list):
        raise _wrong(name, value)
    return value


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX or not _storable(value):
        raise _wrong(name, value)
    return value


def _text_or_none(members: Mapping[str, Any], name: str) -> str | None:
    return None if members.get(name) is None else _text(members, name)


def _integer(members: Mapping[str, Any], name: str, highest: int = 2**63 - 1) -> int:
    value = members.get(name)
    if type(value) is not int or not 0 <= value <= highest:
        raise _wrong(name, value)
    return value


def _storable(text: str) -> bool:
    """Whether SQLite takes it as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(name: str, value: object) -> ValueError:
    return ValueError(f"its member {name!r} can't be {limits.shown(str(value)[:200])}")
