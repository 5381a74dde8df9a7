"""``journaltrack audit``: what was recorded, and what became of all of it. Chooses the question; the answers are in ``audit_*``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from journaltrack.cli import common, output, several
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.reports.choice import Choice
    from journaltrack.reports.history import KeyKind
    from journaltrack.reports.proof.check import ChainProblem
    from journaltrack.reports.report import AuditReport

_STATES = ("pending", "in flight", "delivered", "in doubt", "quarantined")
_KEY_KINDS = ("parameter", "input", "output", "status")
_TERMINAL_LIMIT = 200
"""Lines of a page on a terminal, where nobody reads a million."""
_FILTERS = {
    "--entries": {"state", "kind", "name", "since", "until", "limit", "after", "verify"},
    "--entry": set(),
    "--history": {"kind", "since", "until"},
    "--timeline": {"state", "kind", "name", "since", "until", "limit", "after"},
    "the report": {"verify"},
}
"""What may stand beside each question."""
_LINES = frozenset({"--entries", "--history", "--timeline"})
"""Questions that ``--json`` answers with a line for each thing."""
_WHEN = common.When()


@click.command(
    epilog="\b\nExamples:\n  journaltrack audit\n  journaltrack audit /mnt/usb/journal --verify\n"
    "  journaltrack audit --component 'digits-*' --entries --state quarantined\n"
    "  journaltrack audit --entries --json | jq -c 'select(.kind == \"metric\")'\n"
    "  journaltrack audit --entry 23\n  journaltrack audit --history learning_rate\n"
    "  journaltrack audit --timeline --since 2h --limit 100"
)
@common.many_journals
@common.component_option
@click.option("--entries", is_flag=True, help="List every entry with what became of it; with --json one JSON object per line.")
@click.option(
    "--entry", metavar="SEQ", type=click.IntRange(min=1), help="All about one entry: who wrote it, and every request that carried it."
)
@click.option("--history", metavar="NAME", help="Every value of a parameter, input or output, or of the `status`.")
@click.option("--timeline", is_flag=True, help="All that happened in order: writers, entries, requests, settlements, decisions.")
@click.option("--state", type=click.Choice(_STATES), help="Only entries in this state.")
@click.option("--kind", metavar="KIND", help="Only entries of this kind (parameter, metric, upload, ...).")
@click.option("--name", metavar="GLOB", help="Only entries whose name fits the pattern, such as 'train:*' (case matters).")
@click.option("--since", metavar="WHEN", type=_WHEN, help="Only what was recorded (or happened) since: 2h, 3d (ago), 2026-11-03.")
@click.option("--until", metavar="WHEN", type=_WHEN, help="Only what was recorded (or happened) before.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), help=f"A page of so many lines; {_TERMINAL_LIMIT} on a terminal, else all."
)
@click.option("--after", metavar="PLACE", help="The next page: what the page before said.")
@click.option("--verify", is_flag=True, help="Recompute the chains of digests and the digests of all artifacts.")
@click.option(
    "--anchor",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="With --verify: an anchor that was kept outside; what was cut off from the journal's end is found. May be repeated.",
)
@common.common_options
def command(
    journals: tuple[str, ...],
    more_journals: tuple[str, ...],
    *,
    component: str | None,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """What was recorded in each JOURNAL, by which process, what was delivered when and with which request id, and what was not.

    A folder of journals stands for those in it.

    Every entry is in exactly one state, and the states add up. The exit code is 0 only if all is delivered: 3 while some
    is pending, 4 if some is quarantined or in doubt, 8 if something does not add up (--entries does not add up). The other
    questions end with 0 when they are answered. Changes nothing.
    """
    if asked["anchor"] and not asked["verify"]:
        raise click.UsageError("--anchor says what --verify compares with")
    question = _question(asked, component)
    named = several.Journals.named(journals, more_journals)
    if named.are_several and (strange := [f"--{name}" for name in ("entry", "after", "anchor") if asked[name]]):
        raise click.UsageError(f"{', '.join(strange)} is about one journal: name it")

    def answer(path: str | None) -> ExitCode:
        if named.are_several and not as_json:
            output.say("" if question == "the report" else output.clean(common.path_of(path)))
        if question == "the report":
            return _report(path, component, verify=asked["verify"], anchors=asked["anchor"], as_json=as_json)
        return _answer(question, path, component, asked, as_json=as_json)

    form: several.Form = "lines" if question in _LINES else "document"
    return several.each(named, answer, as_json=form if as_json else None)


def _question(asked: dict[str, Any], component: str | None) -> str:
    """Which question is asked; one at a time, with the filters that belong to it."""
    said = [option for option in ("--entries", "--entry", "--history", "--timeline") if _is_given(asked[option[2:]])]
    if len(said) > 1:
        raise click.UsageError(f"{' and '.join(said)} are questions of their own: ask one at a time")
    question = said[0] if said else "the report"
    filters = ("state", "kind", "name", "since", "until", "limit", "after", "verify")
    strange = [f"--{name}" for name in filters if _is_given(asked[name]) and name not in _FILTERS[question]]
    if component is not None and question == "--entry":
        strange.append("--component")
    if strange:
        where = [name for name in ("--entries", "--timeline") if not {option[2:] for option in strange} - _FILTERS[name]]
        hint = f"; {' and '.join(strange)} choose among --entries" if where and question == "the report" else ""
        raise click.UsageError(f"{', '.join(strange)} can't be combined with {question}{hint}")
    if question == "--history" and asked["kind"] not in {None, *_KEY_KINDS}:
        raise click.UsageError(f"--history knows the kinds {', '.join(_KEY_KINDS)}")
    return question


def _is_given(value: object) -> bool:
    return value is not None and value is not False


def _answer(question: str, path: str | None, component: str | None, asked: dict[str, Any], *, as_json: bool) -> ExitCode:
    from journaltrack.cli import audit_entries, audit_times  # noqa: PLC0415
    from journaltrack.reports.choice import Choice  # noqa: PLC0415 - SQLAlchemy

    choice = Choice(component, asked["kind"], asked["name"], asked["state"], asked["since"], asked["until"])
    limit = asked["limit"]
    if limit is None and output.on_terminal() and not as_json:
        limit = _TERMINAL_LIMIT
    page = audit_entries.Page(limit)
    _check(path, choice, asked["history"])
    _tell_removed(path)
    if question == "--entry":
        return audit_entries.show_entry(path, asked["entry"], as_json=as_json)
    if question == "--history":
        return audit_entries.show_history(path, asked["history"], cast("KeyKind | None", asked["kind"]), choice, as_json=as_json)
    if question == "--timeline":
        return audit_times.list_timeline(path, choice, page, asked["after"], as_json=as_json)
    code = audit_entries.list_entries(path, choice, page, _seq(asked["after"]), as_json=as_json)
    verified = _verified(path, asked["anchor"]) if asked["verify"] else None
    _print_verified(verified, as_json=as_json)
    return ExitCode.JOURNAL if verified else code


def _check(path: str | None, choice: Choice, key: str | None) -> None:
    """Whether what the filters name is there."""
    from journaltrack.journal import view  # noqa: PLC0415 - SQLAlchemy
    from journaltrack.reports import history  # noqa: PLC0415 - SQLAlchemy

    with view.opened(path) as own:
        choice.check(own)
        if key is not None:
            history.check(own, choice, key)


def _tell_removed(path: str | None) -> None:
    """What no answer about single entries can have."""
    from journaltrack.journal import removed, view  # noqa: PLC0415 - SQLAlchemy

    with view.opened(path) as own:
        entries = removed.entries(own.database)
    if entries:
        gone = output.plural(entries, "entry")
        output.say(
            f"note: {gone} are removed from the journal, on the record, and not in the answer; `journaltrack audit` says more", err=True
        )


def _seq(after: str | None) -> int:
    if after is None:
        return 0
    if not after.isascii() or not after.isdecimal() or int(after[:20]) >= 2**63 - 1:
        raise click.BadParameter("it is the number of the last entry of the page before", param_hint="--after")
    return int(after)


def _report(path: str | None, component: str | None, *, verify: bool, anchors: Sequence[str], as_json: bool) -> ExitCode:
    from journaltrack.cli.audit_report import print_report  # noqa: PLC0415
    from journaltrack.reports.report import audit  # noqa: PLC0415 - SQLAlchemy

    report = audit(path, component=component)
    verified = _verified(path, anchors) if verify else None
    code = _code(report, verified)
    if as_json:
        output.print_json({**report.to_json(), "verified": _json(verified), "exit_code": int(code)})
    else:
        print_report(report, verified=verify)
    if report.inconsistencies:
        output.problem(
            "error", f"the journal does not add up: {'; '.join(report.inconsistencies)}", "journaltrack audit --verify names the entries"
        )
    _print_verified(verified, as_json=as_json)
    return code


def _verified(path: str | None, anchors: Sequence[str]) -> list[ChainProblem]:
    from journaltrack.reports.proof.check import verify_chains  # noqa: PLC0415

    return verify_chains(path, anchors={Path(anchor).name: Path(anchor).read_bytes() for anchor in anchors})


def _code(report: AuditReport, verified: Sequence[ChainProblem] | None) -> ExitCode:
    if report.inconsistencies or verified:
        return ExitCode.JOURNAL
    if report.totals.quarantined or report.totals.in_doubt:
        return ExitCode.PROBLEMS
    return ExitCode.OK if report.all_delivered else ExitCode.PENDING


def _json(verified: Sequence[ChainProblem] | None) -> Any:  # noqa: ANN401 - JSON
    from journaltrack.journal.view import to_json  # noqa: PLC0415

    return to_json(verified)


def _print_verified(verified: Sequence[ChainProblem] | None, *, as_json: bool) -> None:
    if verified is None:
        return
    if not verified:
        output.say("verified: every chain of digests and every artifact is as it was recorded", err=as_json)
        return
    for found in verified:
        whose = f" (writer {found.writer}, pid {found.pid} on {found.host})" if found.writer else ""
        output.problem("error", f"{found.message}{whose}")
    from journaltrack.reports.proof.check import ADVICE  # noqa: PLC0415

    for kind in dict.fromkeys(found.kind for found in verified):
        output.say(f"hint: {kind}: {ADVICE[kind]}", err=True)
    output.say(
        "hint: copy the whole journal before anything else, and compare with a backup; `sync` holds back what its chain does not prove",
        err=True,
    )
    output.say(f"not verified: {output.plural(len(verified), 'problem')}", err=as_json)
