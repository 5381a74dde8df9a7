"""Answer the questions of ``journaltrack audit`` about single entries.

The questions are a list of entries, and one entry in full. ``audit_history`` asks with the same
filters, and pages as this module does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Form, Journals, about_journals, each, of_destination
from journaltrack.errors import InvalidInputError
from journaltrack.journal.context import facts_of, packages_of

if TYPE_CHECKING:
    from journaltrack.journal.filter import Choice
    from journaltrack.journal.writer_records import WriterRecord
    from journaltrack.reports.entries import AuditedEntry
    from journaltrack.reports.entry import EntryAudit, ReceiptRecord

_Item = TypeVar("_Item")
_Command = TypeVar("_Command", bound=Callable[..., Any])
_STATES = ("pending", "in flight", "delivered", "in doubt", "quarantined")
_TERMINAL_LIMIT = 200
"""Lines of a page on a terminal; nobody reads a million."""
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
VALUE_CHARS_MAX = 60
_NUMBER_CHARS_MAX = 14


class _Seq(click.ParamType[int]):
    """Parse the number of an entry."""

    name = "number"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Convert as click does."""
        text = str(value)
        if not text.isascii() or not text.isdecimal() or not 0 < int(text[:20]) < 2**63:
            self.fail(
                f"{output.clean(text)} is not the number of an entry; `journaltrack audit entries` "
                "lists them",
                param,
                ctx,
            )
        return int(text)


_WHEN = common.When()
since_option = click.option(
    "--since",
    metavar="WHEN",
    type=_WHEN,
    help="Only what was recorded (or happened) since: 2h, 3d (ago), 2026-11-03.",
)
until_option = click.option(
    "--until", metavar="WHEN", type=_WHEN, help="Only what was recorded (or happened) before."
)


def _single(_ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str | None:
    """Refuse several values: click alone would take the last one, and say nothing."""
    if len(set(given)) > 1:
        raise click.UsageError(f"{param.opts[0]} takes one state: ask once for each")
    return given[0] if given else None


def page_options(command: _Command) -> _Command:
    """Add the options of questions that list: state, kind, name, times and pages."""
    state = click.option(
        "--state",
        multiple=True,
        type=click.Choice(_STATES),
        callback=_single,
        help="Only entries in this state.",
    )
    kind = click.option(
        "--kind", metavar="KIND", help="Only entries of this kind (parameter, metric, upload, ...)."
    )
    name = click.option(
        "--name",
        metavar="GLOB",
        help="Only entries whose name fits the pattern, such as 'train:*' (case matters).",
    )
    limit = click.option(
        "--limit",
        metavar="N",
        type=common.Whole(min=1),
        help=f"Lines per page; {_TERMINAL_LIMIT} on a terminal, else all.",
    )
    after = click.option(
        "--after", metavar="PLACE", help="Continue after this place, as the page before printed it."
    )
    return state(kind(name(since_option(until_option(limit(after(command)))))))


@click.command(
    "entries",
    short_help="List every entry, with what became of it.",
    epilog="\b\nExamples:\n  journaltrack audit entries --state quarantined\n"
    "  journaltrack audit entries --name 'train:*' --since 2h --limit 100\n"
    "  journaltrack audit entries --json | jq -c 'select(.kind == \"metric\")'",
)
@about_journals
@of_destination
@common.component_option
@page_options
@common.options_with_json_lines
def entries_command(
    journals: Journals,
    *,
    component: str | None,
    limit: int | None,
    after: str | None,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """List every entry of each JOURNAL with what became of it.

    The exit code is 0 if everything is delivered, 3 if entries are pending, and 4 if some are
    quarantined or in doubt.
    """
    if after is not None:
        journals.only("--after")
    after_seq = _seq(after)
    return answered(
        journals,
        lambda path: _list_entries(
            path,
            chosen(path, component, **asked),
            Page(limit, as_json=as_json),
            after_seq,
            as_json=as_json,
        ),
        as_json=as_json,
    )


@click.command(
    "entry",
    short_help="Show one entry in full, and every request that carried it.",
    epilog="\b\nExamples:\n  journaltrack audit entry 23\n"
    "  journaltrack audit entry 23 /mnt/usb/journal --json | jq .receipts",
)
@click.argument("number", metavar="N", type=_Seq())
@about_journals
@of_destination
@common.common_options
def entry_command(number: int, journals: Journals, *, as_json: bool) -> ExitCode:
    """Show entry N of JOURNAL in full.

    Show what was recorded, who wrote it, and every request that carried it.
    """
    path = journals.only("audit entry")
    _tell_removed(path)
    return _show_entry(path, number, as_json=as_json)


def answered(
    journals: Journals, answer: Callable[[str | None], ExitCode], *, as_json: bool
) -> ExitCode:
    """Answer for every journal in turn, under its name if there are several."""

    def headed(path: str | None) -> ExitCode:
        """Answer about one journal, under its name."""
        if journals.are_several and not as_json:
            if journals.is_later(path):
                output.say()
            output.say(output.clean(common.path_of(path)))
        return answer(path)

    form: Form = "lines" if as_json else None
    return each(journals, headed, as_json=form)


def chosen(
    path: str | None,
    component: str | None,
    *,
    key: str | None = None,
    **asked: Any,  # noqa: ANN401 - click's
) -> Choice:
    """Return what the filters choose, and note what no answer about single entries can show.

    Raises an error if the filters name nothing.
    """
    from journaltrack.journal import view  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.journal.filter import Choice  # noqa: PLC0415
    from journaltrack.reports import history  # noqa: PLC0415 - SQLAlchemy

    choice = Choice(
        component,
        asked["kind"],
        asked.get("name"),
        asked.get("state"),
        asked["since"],
        asked["until"],
    )
    with view.opened(path) as own:
        choice.check(own)
        if key is not None:
            history.check(own, choice, key)
    _tell_removed(path)
    return choice


def _tell_removed(path: str | None) -> None:
    """Say which entries were removed: no answer about single entries can show them."""
    from journaltrack.journal import removed, view  # noqa: PLC0415 - SQLAlchemy

    with view.opened(path) as own:
        entries = removed.entries(own.database)
    if entries:
        gone = output.plural(entries, "entry")
        output.say(
            f"note: {gone} were pruned from the journal and are not shown; `journaltrack audit` "
            "has the record",
            err=True,
        )


def _seq(after: str | None) -> int:
    if after is None:
        return 0
    if not after.isascii() or not after.isdecimal() or int(after[:20]) >= 2**63 - 1:
        raise click.BadParameter(
            "it must be the number of the last entry of the page before", param_hint="--after"
        )
    return int(after)


class Page:
    """Hold items up to a limit, and where the next page begins.

    ``limit`` None means all, on a terminal ``_TERMINAL_LIMIT``. ``next_after`` is None at the end.
    """

    def __init__(self, limit: int | None, *, as_json: bool) -> None:
        is_read = output.on_terminal() and not as_json
        self._limit = _TERMINAL_LIMIT if limit is None and is_read else limit
        self._as_json = as_json
        self.next_after: int | str | None = None

    def of(self, items: Iterable[_Item], place: Callable[[_Item], int | str]) -> Iterator[_Item]:
        """Return the page's part of ``to_read`` items.

        ``place`` returns an item's place as ``--after`` takes it.
        """
        last: int | str | None = None
        for number, item in enumerate(items):
            if number == self._limit:
                self.next_after = last
                return
            yield item
            last = place(item)

    @property
    def to_read(self) -> int | None:
        """Return how many items to ask for: one more shows whether there is another page."""
        return None if self._limit is None else self._limit + 1

    def say(self) -> None:
        """Say how to get the next page, if there is one."""
        if self.next_after is None:
            return
        if self._as_json:
            output.print_json_line({"next_after": self.next_after})
        else:
            output.say(f"more follow: repeat the command with --after {self.next_after}")


def _list_entries(
    path: str | None, choice: Choice, page: Page, after_seq: int, *, as_json: bool
) -> ExitCode:
    """List the chosen entries in constant memory.

    Return the exit code of the components' delivery.
    """
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
        texts, spare = (
            {"component", "name", "value", "reason"},
            ("settled", "action", "sent", "writer", "request id", "reason", "recorded", "kind"),
        )
        tables.listing(
            _ENTRY_COLUMNS,
            {"seq", "step", "sent"},
            map(_entry_row, found),
            "no such entries",
            texts=texts,
            spare=spare,
        )
    page.say()
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
    """Return the entry's state; superseded entries are named as such."""
    return "superseded" if entry.superseded else entry.state


def who(entry: AuditedEntry) -> str:
    """Describe the process that recorded the entry."""
    return f"{entry.user}@{entry.host}:{entry.pid}"


def short_value(entry: AuditedEntry) -> str:
    """Return the value as recorded, or its text, URI, digest or status.

    On a terminal numbers have ten digits.
    """
    if entry.value is not None:
        text = str(output.number(entry.value))
        return (
            f"{entry.value:.10g}"
            if output.on_terminal() and len(text) > _NUMBER_CHARS_MAX
            else text
        )
    members = ("exact", "text", "value", "sha256", "primary", "note")
    key = next((key for key in members if key in entry.detail), None)
    if key is None:
        tags = entry.detail.get("tags")
        told = ", ".join(f"{k}={v}" for k, v in tags.items()) if isinstance(tags, dict) else ""
        return output.cut(told, VALUE_CHARS_MAX) or "-"
    return (
        output.digest(entry.detail[key])
        if key == "sha256"
        else output.cut(entry.detail[key], VALUE_CHARS_MAX)
    )


def _show_entry(path: str | None, seq: int, *, as_json: bool) -> ExitCode:
    """Print one entry in full."""
    from journaltrack.reports.entry import entry  # noqa: PLC0415 - SQLAlchemy

    found = entry(path, seq)
    if found is None:
        raise InvalidInputError(
            f"the journal has no entry {seq}",
            hint="`journaltrack audit entries` lists those that it has",
        )
    if as_json:
        output.print_json({**found.to_json(), "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    _print_entry(found)
    return ExitCode.OK


def _print_entry(found: EntryAudit) -> None:
    entry = found.entry
    rows: list[tuple[str, object]] = [
        ("entry", f"{entry.seq}, kind {entry.kind}, stream {entry.stream}"),
        ("component", entry.component),
        ("name", entry.name),
        ("value", short_value(entry) if entry.value is None else output.number(entry.value)),
    ]
    digest = found.digest.hex() if isinstance(found.digest, bytes) else found.digest
    for key, value in entry.detail.items():
        label, shown = output.with_moment(key, value)
        # 43 characters for each 8 MiB of a file.
        shown = output.cut(shown) if key == "parts" else shown
        # The lines of a traceback; other texts stand as they were recorded.
        lines = str(shown).splitlines() if key == "traceback" else [shown]
        rows += [(f"  {label}" if not place else "", line) for place, line in enumerate(lines)]
    rows += [
        ("step", entry.step),
        ("timestamp", output.instant(entry.timestamp_ns)),
        ("recorded", output.instant(entry.recorded_at_ns)),
        (
            "digest",
            f"{output.digest(digest)}, place {found.writer_seq} in its writer's chain",
        ),
        ("state", state_of(entry)),
        ("  settled", output.instant(entry.settled_at_ns)),
        ("  reason", entry.reason),
    ]
    if found.superseded_by is not None:
        rows.append(("  instead", f"entry {found.superseded_by}"))
    if found.settled_by is not None:
        by = found.settled_by
        rows.append(
            (
                "  settled by",
                (
                    f"receipt {by.id}, {by.action} {by.outcome or 'unfinished'}, request "
                    f"{by.request_id or '-'}"
                ),
            )
        )
    if found.earlier is not None or found.later is not None:
        rows.append(
            ("same key", f"before: entry {found.earlier or '-'}, after: entry {found.later or '-'}")
        )
    rows += _writer_rows(found)
    tables.fields(rows)
    tables.table(
        "requests and decisions that name it",
        (
            "receipt",
            "action",
            "outcome",
            "started",
            "finished",
            "sent",
            "request id",
            "code",
            "error",
        ),
        [_receipt_row(receipt) for receipt in found.receipts],
        spare=("started",),
    )
    if found.receipts_omitted:
        output.say(f"and {found.receipts_omitted} more")
    if found.unreadable:
        output.say(
            f"{output.plural(found.unreadable, 'receipt')} of the component can't be read; "
            "`journaltrack check` names them"
        )


def _writer_rows(found: EntryAudit) -> list[tuple[str, object]]:
    writer = found.writer
    if writer is None:
        return [("recorded by", f"writer {found.entry.writer_id}, which is not recorded")]
    packages = ", ".join(
        f"{name} {version}" for name, version in sorted((writer.packages or {}).items())
    )
    installed = ", ".join(
        f"{name} {version}" for name, version in packages_of(writer.context).items()
    )
    dirty = {None: "not recorded", True: "yes", False: "no"}[writer.git_dirty]
    return [
        (
            "recorded by",
            (
                f"{writer.user}@{writer.host}, pid {writer.pid}, started "
                f"{output.instant(writer.started_at_ns)}"
            ),
        ),
        ("  program", writer.program),
        ("  commit", commit(writer, 100)),
        ("  changes", dirty),
        ("  python", writer.python_version),
        ("  version", f"journaltrack {writer.package_version}"),
        ("  packages", packages or "not recorded"),
        *((f"  {label}", text) for label, text in facts_of(writer.context)),
        ("  installed", installed or None),
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


def commit(writer: WriterRecord, chars_max: int = 13) -> str:
    """Describe the commit that a process ran from, and whether it was modified."""
    return output.cut(writer.git_commit or "", chars_max) + ("+changes" if writer.git_dirty else "")
