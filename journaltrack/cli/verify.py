"""``journaltrack verify``: compare what was delivered with what SageMaker and S3 hold now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, several
from journaltrack.cli.exit_codes import ExitCode, worst
from journaltrack.cli.stopping import Stoppable, stopping
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from journaltrack.replay.pass_report import Progress
    from journaltrack.verification.diff import Difference
    from journaltrack.verification.verifier import Repair, VerifyReport

_ROWS_MAX: Final = 50
_TELL_EVERY_S: Final = 5.0


@click.command(
    epilog="\b\nExamples:\n  journaltrack verify\n  journaltrack verify --component 'digits-*' --deep\n"
    "  journaltrack verify --repair --rate 5"
)
@common.many_journals
@common.component_option
@click.option(
    "--deep", is_flag=True, help="Download and hash objects of which S3 has no SHA-256 of the whole (above 8 MiB); nothing is kept."
)
@click.option("--repair", is_flag=True, help="Send again what is missing, and can be sent without being there twice; then verify again.")
@common.connection_options
@click.option(
    "--rate", "rate_per_s", metavar="N", type=click.FloatRange(0, min_open=True), help="Requests per second at most.  [default: 10]"
)
@common.common_options
def command(
    journals: tuple[str, ...],
    more_journals: tuple[str, ...],
    *,
    component: str | None,
    deep: bool,
    repair: bool,
    config_file: str | None,
    profile: str | None,
    region: str | None,
    endpoint_url: str | None,
    rate_per_s: float | None,
    as_json: bool,
) -> ExitCode:
    """Compare what each JOURNAL has delivered with what SageMaker and S3 hold now. A folder of journals stands for those in it.

    Parameters, artifacts, status, display name, counts and extremes of metrics, sizes and checksums of objects. Reads only, a few
    requests a second, and takes no lease: training and syncs go on. What is there beyond that is told, and is no failure.
    """
    from journaltrack.app.composition import Connection, is_attended, run_verify  # noqa: PLC0415
    from journaltrack.remotes.rate_limit import RateLimit  # noqa: PLC0415
    from journaltrack.util import config  # noqa: PLC0415 - shell completion imports this module
    from journaltrack.verification.verifier import REQUESTS_PER_S, VerifyOptions  # noqa: PLC0415

    given = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    known = config.load(config_file, overrides=given).configuration
    options = VerifyOptions(component, deep=deep, visible_after_s=known.visible_after_s, timestamps=known.timestamps, anchor=known.anchor)
    rate_limit = RateLimit(rate_per_s or known.requests_per_s or REQUESTS_PER_S)
    connection = Connection(rate_limit=rate_limit, attended=is_attended(), **known.of_a_connection())
    run = Stoppable(Deadline())

    def answer(journal: str | None) -> ExitCode:
        report = run_verify(journal, connection, options, run.deadline, _teller(), repair=repair)
        code = run.code(_code(report))
        if as_json:
            output.print_json({**report.to_json(), "exit_code": int(code)})
        else:
            _print(report)
        _explain(report)
        return code

    with stopping(run):
        return several.each(
            several.Journals.named(journals, more_journals),
            answer,
            as_json="document" if as_json else None,
            has_ended=lambda: run.signal,
        )


def _teller() -> Callable[[Progress], None]:
    """A line on stderr now and then: at ten requests a second a thousand components take some minutes."""
    import time  # noqa: PLC0415

    told = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            output.say(f"{progress.done} of {output.plural(progress.total, 'component')} verified", err=True)

    return tell


def _code(report: VerifyReport) -> ExitCode:
    passes = report.repair.passes if report.repair is not None else []
    halts = [report.halted, *(error for each in passes for error in (each.halted, each.uploads_halted, each.altered))]
    codes = [common.exit_code_of(error) for error in halts if error is not None]
    if report.out_of_time:
        codes.append(ExitCode.UNREACHABLE)
    if report.counts["missing"] or report.counts["different"]:
        codes.append(ExitCode.PROBLEMS)
    if report.anchors is not None and report.anchors.problems:
        codes.append(ExitCode.JOURNAL)
    if report.undelivered.any or report.counts["unknown"]:
        codes.append(ExitCode.PENDING)
    return worst(codes)


def _print(report: VerifyReport) -> None:
    checked = report.checked
    output.say(
        f"{output.clean(report.journal)}: compared {output.plural(checked.components, 'component')}, "
        f"{output.plural(checked.parameters, 'parameter')}, {output.plural(checked.artifacts, 'artifact')}, "
        f"{output.plural(checked.points, 'point')} of {output.plural(checked.metrics, 'metric')}, {_objects(report)}, "
        f"{output.duration(report.duration_s)}"
    )
    if report.repair is not None:
        output.say(_repaired(report.repair))
    wrong = [each for each in report.differences if each.kind != "extra"]
    extra = [each for each in report.differences if each.kind == "extra"]
    _table("differences", wrong)
    _table("beyond what this journal delivered (no failure)", extra)
    counts = report.counts
    if not checked.components and report.verified:
        output.say("nothing was delivered yet: there is nothing to compare")
    elif report.verified:
        output.say("everything that was delivered is there")
    else:
        output.say(f"{counts['missing']} missing, {counts['different']} different, {counts['unknown']} could not be told")
    anchored = report.anchors
    if anchored is not None and anchored.documents and not anchored.problems:
        output.say(f"the journal reaches all of its {output.plural(anchored.documents, 'anchor')}")
    waiting = report.undelivered
    if waiting.any:
        output.say(
            f"not delivered, and not compared: {waiting.pending} pending, {waiting.in_doubt} in doubt, {waiting.quarantined} quarantined"
        )


def _objects(report: VerifyReport) -> str:
    checked = report.checked
    ways = (
        (checked.objects_by_checksum, "by checksum"),
        (checked.objects_by_content, "by content"),
        (checked.objects_by_size, "by size and noted digest alone"),
    )
    told = [f"{count} {how}" for count, how in ways if count]
    total = sum(count for count, _ in ways)
    return output.plural(total, "object") + (f" ({', '.join(told)})" if told else "")


def _repaired(repair: Repair) -> str:
    delivered = sum(each.delivered for each in repair.passes)
    return f"repair: {output.plural(repair.reopened, 'entry')} made pending again, {delivered} sent; compared once more"


def _table(title: str, differences: Sequence[Difference]) -> None:
    rows = [
        (each.component, each.kind, each.what, each.name, _value(each, each.expected), _value(each, each.found), _remark(each))
        for each in differences[:_ROWS_MAX]
    ]
    output.table(title, ("component", "is", "what", "name", "expected", "found", "remark"), rows)
    if len(differences) > _ROWS_MAX:
        output.say(f"  ... and {len(differences) - _ROWS_MAX} more; --json has them")


def _value(difference: Difference, value: object) -> str | None:
    if value is None:
        return None
    if difference.what == "status" and difference.name in {"start", "end"}:
        return output.moment(value)
    return output.cut(value, 200)


def _remark(difference: Difference) -> str | None:
    if difference.steps:
        steps = [str(first) if first == last else f"{first}-{last}" for first, last in difference.steps]
        return output.cut(f"nothing is there at step {', '.join(steps)}; --repair sends it again", 200)
    return difference.note or ("--repair sends it again" if difference.repairable else None)


def _explain(report: VerifyReport) -> None:
    """On stderr: why it is not complete, and what to do."""
    if report.halted is not None:
        output.problem("error", f"verifying stopped: {report.halted.message}", report.halted.hint)
    for found in report.anchors.problems if report.anchors is not None else ():
        hint = "copy the whole journal before anything else, and compare with a backup: something is missing from it, or from where it was anchored"
        output.problem("error", found.message, hint)
    if report.anchors is not None and report.anchors.note is not None:
        output.problem("warning", f"the journal's anchors could not be looked at: {report.anchors.note}")
    if report.out_of_time:
        output.problem("error", "it was stopped before everything was compared")
    for each in report.repair.passes if report.repair is not None else ():
        problem = each.problem
        if problem is not None:
            output.problem("error", f"not everything could be sent again: {problem.message}", problem.hint)
    if report.repair is None and any(each.repairable for each in report.differences):
        output.say("hint: `journaltrack verify --repair` sends again what is missing", err=True)
    if report.undelivered.any:
        output.say("hint: `journaltrack audit` says what is not delivered, and why", err=True)
