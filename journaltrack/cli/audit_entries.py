"""How ``journaltrack audit`` answers about entries: a list, one in full, the history of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from journaltrack.cli import output
from journaltrack.cli.audit_report import commit
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.errors import InvalidInputError

if TYPE_CHECKING:
    from journaltrack.reports.choice import Choice
    from journaltrack.reports.entries import AuditedEntry
    from journaltrack.reports.entry import EntryAudit
    from journaltrack.reports.history import KeyKind, Revision
    from journaltrack.reports.receipts import ReceiptRecord

_Item = TypeVar("_Item")
_ENTRY_COLUMNS = (
    "seq",
    "recorded",
    "component",
    "kind",
    "name",
    "value",
    "step",
    "state",
    "settled",
    "action",
    "sent",
    "request id",
    "writer",
    "reason",
)
_VALUE_CHARS_MAX = 60


class Page:
    """Items up to a limit (None: all), and where the next page begins: ``next_after``, None at the end."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.next_after: int | str | None = None

    def of(self, items: Iterable[_Item], place: Callable[[_Item], int | str]) -> Iterator[_Item]:
        """The items of this page, of ``to_read`` items; ``place`` is that of an item as ``--after`` takes it."""
        last: int | str | None = None
        for number, item in enumerate(items):
            if number == self._limit:
                self.next_after = last
                return
            yield item
            last = place(item)

    @property
    def to_read(self) -> int | None:
        """How many items to ask for: one more tells whether there is a further page."""
        return None if self._limit is None else self._limit + 1

    def say(self, *, as_json: bool) -> None:
        """How to get the next page, if there is one."""
        if self.next_after is None:
            return
        if as_json:
            output.print_json_line({"next_after": self.next_after})
        else:
            output.say(f"more follow: say the same with --after {self.next_after}")


def list_entries(path: str | None, choice: Choice, page: Page, after_seq: int, *, as_json: bool) -> ExitCode:
    """Every chosen entry, in constant memory; the code says whether all of the components is delivered."""
    from journaltrack.journal.view import to_json  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.entries import each_entry, unsettled  # noqa: PLC0415

    found = page.of(
        each_entry(
            path,
            component=choice.component,
            state=choice.state,
            kind=choice.kind,
            name=choice.name,
            since_ns=choice.since_ns,
            until_ns=choice.until_ns,
            after_seq=after_seq,
            limit=page.to_read,
        ),
        lambda entry: entry.seq,
    )
    if as_json:
        for entry in found:
            output.print_json_line(to_json(entry))
    else:
        output.listing(_ENTRY_COLUMNS, {"seq", "step", "sent"}, map(_entry_row, found), "no such entries")
    page.say(as_json=as_json)
    pending, problems = unsettled(path, component=choice.component)
    if problems:
        return ExitCode.PROBLEMS
    return ExitCode.PENDING if pending else ExitCode.OK


def _entry_row(entry: AuditedEntry) -> tuple[object, ...]:
    return (
        entry.seq,
        output.moment(entry.recorded_at_ns),
        entry.component,
        entry.kind,
        entry.name,
        short_value(entry),
        entry.step,
        state_of(entry),
        output.moment(entry.settled_at_ns),
        entry.action,
        entry.attempts,
        entry.request_id,
        who(entry),
        output.cut(entry.reason or "", 200),
    )


def state_of(entry: AuditedEntry) -> str | None:
    """The state, with what is superseded told apart."""
    return "superseded" if entry.superseded else entry.state


def who(entry: AuditedEntry) -> str:
    """The process that recorded it."""
    return f"{entry.user}@{entry.host}:{entry.pid}"


def short_value(entry: AuditedEntry) -> str:
    """The value as recorded, or what stands for it: text, a URI, a digest, a status."""
    if entry.value is not None:
        return output.cut(entry.value, _VALUE_CHARS_MAX)
    found = next((entry.detail[key] for key in ("exact", "text", "value", "sha256", "primary") if key in entry.detail), "-")
    return output.cut(found, _VALUE_CHARS_MAX)


def show_entry(path: str | None, seq: int, *, as_json: bool) -> ExitCode:
    """One entry in full."""
    from journaltrack.reports.entry import entry  # noqa: PLC0415 - SQLAlchemy

    found = entry(path, seq)
    if found is None:
        raise InvalidInputError(f"the journal has no entry {seq}", hint="`journaltrack audit --entries` lists those that it has")
    if as_json:
        output.print_json({**found.to_json(), "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    _print_entry(found)
    return ExitCode.OK


def _print_entry(found: EntryAudit) -> None:
    entry = found.entry
    rows: list[tuple[str, object]] = [
        ("entry", f"{entry.seq}, a {entry.kind} of the stream {entry.stream}"),
        ("component", entry.component),
        ("name", entry.name),
        ("value", entry.value if entry.value is not None else short_value(entry)),
    ]
    rows += [(f"  {key}", value) for key, value in entry.detail.items()]
    rows += [
        ("step", entry.step),
        ("timestamp", output.instant(entry.timestamp_ns)),
        ("recorded", output.instant(entry.recorded_at_ns)),
        (
            "digest",
            f"{found.digest.hex() if isinstance(found.digest, bytes) else found.digest}, place {found.writer_seq} in its writer's chain",
        ),
        ("state", state_of(entry)),
        ("  settled", output.instant(entry.settled_at_ns)),
        ("  reason", entry.reason),
    ]
    if found.superseded_by is not None:
        rows.append(("  instead", f"entry {found.superseded_by}"))
    if found.settled_by is not None:
        by = found.settled_by
        rows.append(("  settled by", f"receipt {by.id}, {by.action} {by.outcome or 'unfinished'}, request {by.request_id or '-'}"))
    if found.earlier is not None or found.later is not None:
        rows.append(("same key", f"before: entry {found.earlier or '-'}, after: entry {found.later or '-'}"))
    rows += _writer_rows(found)
    output.fields(rows)
    output.table(
        "requests and decisions that name it",
        ("receipt", "action", "outcome", "started", "finished", "sent", "request id", "code", "error"),
        [_receipt_row(receipt) for receipt in found.receipts],
    )
    if found.receipts_omitted:
        output.say(f"and {found.receipts_omitted} more")
    if found.unreadable:
        output.say(f"{output.plural(found.unreadable, 'receipt')} of the component can't be read; `journaltrack doctor` names them")


def _writer_rows(found: EntryAudit) -> list[tuple[str, object]]:
    writer = found.writer
    if writer is None:
        return [("recorded by", f"writer {found.entry.writer_id}, which is not recorded")]
    packages = ", ".join(f"{name} {version}" for name, version in sorted((writer.packages or {}).items()))
    dirty = {None: "not recorded", True: "yes", False: "no"}[writer.git_dirty]
    return [
        ("recorded by", f"{writer.user}@{writer.host}, pid {writer.pid}, started {output.instant(writer.started_at_ns)}"),
        ("  program", writer.program),
        ("  commit", commit(writer, 100)),
        ("  changes", dirty),
        ("  python", writer.python_version),
        ("  version", f"journaltrack {writer.package_version}"),
        ("  packages", packages or "not recorded"),
    ]


def _receipt_row(receipt: ReceiptRecord) -> tuple[object, ...]:
    return (
        receipt.id,
        receipt.action,
        receipt.outcome or "unfinished",
        output.instant(receipt.started_at_ns),
        output.instant(receipt.finished_at_ns),
        receipt.attempts,
        receipt.request_id,
        receipt.error_code,
        output.cut(receipt.error_text or "", 300),
    )


def show_history(path: str | None, name: str, kind: KeyKind | None, choice: Choice, *, as_json: bool) -> ExitCode:
    """Every value of a key."""
    from journaltrack.journal.view import to_json  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports.history import history  # noqa: PLC0415

    found = history(path, name, kind=kind, component=choice.component, since_ns=choice.since_ns, until_ns=choice.until_ns)
    if as_json:
        for revision in found:
            output.print_json_line(to_json(revision))
        return ExitCode.OK
    columns = ("seq", "recorded", "component", "kind", "value", "before", "before seq", "state", "writer")
    output.listing(
        columns,
        {"seq", "before seq"},
        map(_revision_row, found),
        f"the journal has no parameter, input, output or status {output.clean(name)}",
    )
    return ExitCode.OK


def _revision_row(revision: Revision) -> tuple[object, ...]:
    entry = revision.entry
    before = "(first)" if revision.earlier_seq is None else _said(revision.earlier) if revision.changed else "(the same)"
    return (
        entry.seq,
        output.moment(entry.recorded_at_ns),
        entry.component,
        entry.kind,
        _said(revision.value),
        before,
        revision.earlier_seq,
        state_of(entry),
        who(entry),
    )


def _said(value: object) -> str:
    if isinstance(value, dict):
        value = " ".join(f"{key}={output.instant(part) if key.endswith('_ns') else part}" for key, part in value.items())
    return output.cut("-" if value is None else value, _VALUE_CHARS_MAX)
