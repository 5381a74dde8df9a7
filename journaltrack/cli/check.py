"""Implement ``journaltrack check``: diagnose, compare with AWS, and repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error, worst
from journaltrack.cli.journals import Journals, about_journals, each, of_destination
from journaltrack.errors import JournaltrackError, NothingMatchesError
from journaltrack.util.deadline import Deadline
from journaltrack.util.text import duration

if TYPE_CHECKING:
    from journaltrack.doctor import Examination, Finding
    from journaltrack.replay.pass_report import Progress
    from journaltrack.verification.diff import Difference
    from journaltrack.verification.verifier import Checked, Repair, VerifyReport

_STYLES: Final = {"problem": "red", "warning": "yellow"}
_ALIKE_MAX: Final = 3
"""Ours: findings that mean the same and are printed. A rebuild may break each writer's chain."""
_ROWS_MAX: Final = 50
_TELL_AFTER_S: Final = 2.0
_TELL_EVERY_S: Final = 5.0
_OF_REMOTE: Final = {
    "component": "--component",
    "deep": "--deep",
    "rate_per_s": "--rate",
    "profile": "--profile",
    "region": "--region",
    "endpoint_url": "--endpoint-url",
}


@click.command(
    epilog="\b\nExamples:\n"
    "  journaltrack check                    # look at the journal, contact nobody\n"
    "  journaltrack check --repair --restore-from ~/checkpoints\n"
    "  journaltrack check --remote           # compare with SageMaker and S3, too\n"
    "  journaltrack check --remote --repair  # send again what is missing there\n"
    "  journaltrack check --access           # try the credentials alone"
)
@about_journals
@of_destination
@click.option(
    "--remote",
    is_flag=True,
    help="Also compare what was delivered with what SageMaker and S3 hold now.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Repair what can be repaired. With --remote, send again what is missing there and "
    "can't be duplicated. "
    "Nothing is deleted: replaced files move to damaged/ in the journal.",
)
@click.option(
    "--restore-from",
    metavar="FOLDER",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --repair: a folder to restore missing or damaged artifacts from, by content. "
    "May be repeated.",
)
@click.option(
    "--anchor",
    "anchors",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An anchor kept outside the journal: shows whether its end was cut off. May be repeated.",
)
@click.option(
    "--access",
    is_flag=True,
    help="Only say whether these credentials may do what a sync of JOURNAL needs. Without a "
    "JOURNAL: also what runs usually need. Changes nothing.",
)
@click.option(
    "--bucket",
    metavar="NAME[/PREFIX]",
    help="With --access: where artifacts go, for runs to come.  "
    "[default: those of the JOURNAL, or sagemaker-<region>-<account>/trial-component-artifacts]",
)
@common.component_option
@click.option(
    "--deep",
    is_flag=True,
    help="With --remote: download and hash objects without a whole SHA-256 in S3 (above 16 "
    "MiB). Nothing is kept.",
)
@common.connection_options
@click.option(
    "--rate",
    "rate_per_s",
    metavar="N",
    type=common.Number(0, min_open=True),
    help="With --remote: requests per second at most.  [default: 10]",
)
@common.common_options
def command(
    journals: Journals,
    *,
    remote: bool,
    repair: bool,
    restore_from: tuple[Path, ...],
    anchors: tuple[Path, ...],
    access: bool,
    bucket: str | None,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Check each JOURNAL, and repair it.

    The checks cover files, disk, locks, database, records, chains of digests, artifacts and the
    clock.

    Each finding says what it means for your data and what to do. Training and syncs may go on
    meanwhile.

    With --remote, also compare with SageMaker and S3: parameters, artifacts, status, display name,
    counts and extremes of metrics, sizes and checksums of objects. This sends a few requests per
    second. What AWS has beyond that is listed, and is not a failure.

    The exit code is 0 if all is well, 3 if something is not delivered or could not be compared
    (--remote), 4 for problems and for what is missing or different, and 8 if something was altered
    after it was recorded.

    With --access, try the credentials instead: who they are, the region, the bucket, the clock, and
    each permission that a request without effect can show. With a JOURNAL, only what a sync of it
    needs now. The exit code is 0 if nothing speaks against a sync, 5 if a permission, the bucket or
    the clock does, and 6 if something could not be tried for want of an answer.
    """
    if not access:
        common.refuse_without("--access", {"--bucket": bucket})
    if access:
        return _access(
            journals, bucket, [remote, repair, *restore_from, *anchors], as_json=as_json, **asked
        )
    if not repair:
        common.refuse_without("--repair", {"--restore-from": restore_from})
    if not remote:
        common.refuse_without(
            "--remote", {option: asked[name] for name, option in _OF_REMOTE.items()}
        )
        if journals.to is None:
            common.refuse_without("--remote or --to", {"--config": asked["config_file"]})
    if anchors:
        journals.only("--anchor")
    run = common.Stoppable(Deadline())
    compare = _comparison(run, journals, repair=repair, **asked) if remote else None
    with common.stopping(run):
        return each(
            journals,
            lambda journal: run.code(
                _check(
                    journal,
                    anchors,
                    restore_from,
                    compare,
                    repair=repair,
                    as_json=as_json,
                    apart=journals.is_later(journal),
                )
            ),
            as_json="document" if as_json else None,
            has_ended=lambda: run.signal,
            verdict="all well",
        )


def _access(
    journals: Journals,
    bucket: str | None,
    others: Sequence[object],
    *,
    as_json: bool,
    component: str | None,
    deep: bool,
    rate_per_s: float | None,
    **aws: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Check the credentials alone; see ``cli.access``."""
    from journaltrack.cli.access import check_access  # noqa: PLC0415 - shell completion

    if any([*others, component, deep, rate_per_s]):
        raise click.UsageError(
            "--access tries the credentials alone: it takes journals, --bucket, --profile, "
            "--region, --endpoint-url, --config and --json"
        )
    return check_access(journals, bucket, as_json=as_json, **aws)


def _comparison(
    run: common.Stoppable,
    journals: Journals,
    *,
    repair: bool,
    component: str | None,
    deep: bool,
    rate_per_s: float | None,
    config_file: str | None,
    **aws: Any,  # noqa: ANN401 - as above
) -> Callable[[str | None], VerifyReport]:
    """Say how to compare a journal with SageMaker and S3."""
    from journaltrack.app.composition import run_verify  # noqa: PLC0415
    from journaltrack.util import paths  # noqa: PLC0415 - shell completion
    from journaltrack.verification import shared_runs  # noqa: PLC0415
    from journaltrack.verification.verifier import REQUESTS_PER_S, VerifyOptions  # noqa: PLC0415

    given = {**aws, "requests_per_s": rate_per_s}
    known, connection = common.reach(config_file, given, REQUESTS_PER_S)
    connection = connection.to(None if journals.to is None else known.destination(journals.to))
    options = VerifyOptions(
        component,
        deep=deep,
        visible_after_s=known.visible_after_s,
        timestamps=known.timestamps,
        anchor=known.anchor,
        anchor_prefix=known.prefix_of_anchors(),
        shared=shared_runs.among(map(paths.journal_folder, journals.folders))
        if len(journals.folders) > 1
        else {},
    )

    def compare(journal: str | None) -> VerifyReport:
        """Compare one journal; with ``repair`` send again what is missing."""
        if connection.destination is not None:
            # Of a copy: the journal itself.
            journal = str(paths.journal_folder(journal).parent.parent)
        return run_verify(journal, connection, options, run.deadline, _teller(), repair=repair)

    return compare


def _check(
    journal: str | None,
    anchors: Sequence[Path],
    restore_from: Sequence[Path],
    compare: Callable[[str | None], VerifyReport] | None,
    *,
    repair: bool,
    as_json: bool,
    apart: bool,
) -> ExitCode:
    """Check one journal and print every finding, even if AWS can't be asked."""
    from journaltrack.app.api import check  # noqa: PLC0415 - shell completion imports this module

    examination = check(
        journal, repair=repair, restore_from=restore_from, anchors=anchors, on_progress=_progress()
    )
    report, failure = None, None
    if compare is not None:
        try:
            report = compare(journal)
        except NothingMatchesError:
            raise
        except JournaltrackError as error:
            failure = error
    codes = [_code_of_journal(examination)]
    codes += [_code_of_remote(report)] if report is not None else []
    codes += [exit_code_of(failure)] if failure is not None else []
    code = worst(codes)
    if as_json:
        output.print_json(_json(examination, report, failure, code))
    else:
        if apart:
            output.say()
        _print_examination(examination, offer=not repair)
        if report is not None:
            output.say()
            _print_report(report)
    if report is not None:
        _explain(report)
    if failure is not None:
        report_error(failure, verbose=common.is_verbose())
    return code


def _code_of_journal(examination: Examination) -> ExitCode:
    if any(
        finding.check == "chains" and finding.severity == "problem"
        for finding in examination.findings
    ):
        return ExitCode.JOURNAL
    return ExitCode.OK if examination.healthy else ExitCode.PROBLEMS


def _code_of_remote(report: VerifyReport) -> ExitCode:
    codes = []
    if report.halted is not None:
        codes.append(exit_code_of(report.halted))
    if report.out_of_time:
        codes.append(ExitCode.UNREACHABLE)
    if report.counts["missing"] or report.counts["different"]:
        codes.append(ExitCode.PROBLEMS)
    if report.anchors is not None and report.anchors.problems:
        codes.append(ExitCode.JOURNAL)
    if report.undelivered.any or report.counts["unknown"]:
        codes.append(ExitCode.PENDING)
    return worst(codes)


def _json(
    examination: Examination,
    report: VerifyReport | None,
    failure: JournaltrackError | None,
    code: ExitCode,
) -> dict[str, Any]:
    remote = report.to_json() if report is not None else None
    return {
        **examination.to_json(),
        "remote": remote if failure is None else output.error_json(failure, exit_code_of(failure)),
        "exit_code": int(code),
    }


def _progress() -> Callable[[Progress], None]:
    """Return a callback that prints a line per check, once checks take long.

    It prints on a terminal only.
    """
    from journaltrack.doctor import CHECKS  # noqa: PLC0415

    began = time.monotonic()

    def tell(progress: Progress) -> None:
        """Name the check that begins."""
        if (
            output.on_terminal(err=True)
            and progress.done < progress.total
            and time.monotonic() - began >= _TELL_AFTER_S
        ):
            output.say(f"checking {CHECKS[progress.done]} ...", err=True)

    return tell


def _teller() -> Callable[[Progress], None]:
    """Return a callback that prints a line on stderr now and then.

    At ten requests per second, a thousand components take some minutes.
    """
    told = time.monotonic()

    def tell(progress: Progress) -> None:
        """Say how many components are compared."""
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            output.say(
                f"{progress.done} of {output.plural(progress.total, 'component')} compared",
                err=True,
            )

    return tell


def _print_examination(examination: Examination, *, offer: bool) -> None:
    from journaltrack.doctor import CHECKS  # noqa: PLC0415

    skipped = [check for check in CHECKS if check not in examination.checked]
    tables.fields(
        [
            ("journal", examination.path),
            ("journal id", examination.journal_id),
            ("checked", ", ".join(examination.checked)),
            *([("not checked", ", ".join(skipped))] if skipped else []),
        ]
    )
    if examination.repaired:
        output.say()
    for each_repair in examination.repaired:
        output.say(
            f"{'repaired' if each_repair.done else 'not repaired'}: {each_repair.repair}: "
            f"{output.clean(each_repair.message)}"
        )
    alike: dict[tuple[str, ...], list[Finding]] = {}
    for finding in examination.findings:
        alike.setdefault(
            (finding.check, finding.severity, finding.meaning, finding.advice), []
        ).append(finding)
    for findings in alike.values():
        output.say()
        _print_findings(findings)
    output.say()
    problems = sum(f.severity == "problem" for f in examination.findings)
    warnings = sum(f.severity == "warning" for f in examination.findings)
    also = output.plural(warnings, "warning")
    if examination.healthy:
        output.say("the journal is well" + (f", with {also}" if warnings else ""))
    else:
        output.say(
            f"the journal has {output.plural(problems, 'problem')}"
            + (f" and {also}" if warnings else "")
        )
    if offer and any(f.repair for f in examination.findings):
        output.say("hint: `journaltrack check --repair` repairs what can be repaired", err=True)


def _print_findings(alike: Sequence[Finding]) -> None:
    """Print findings that mean the same, with one meaning and one advice."""
    for finding in alike[:_ALIKE_MAX]:
        text = (
            f"{finding.severity}: {finding.check}: {output.cut(output.clean(finding.message), 500)}"
        )
        output.say(text, style=_STYLES.get(finding.severity))
    if len(alike) > _ALIKE_MAX:
        output.say(f"... and {len(alike) - _ALIKE_MAX} more like these; --json has them")
    output.say(f"  meaning: {output.clean(alike[0].meaning)}")
    if alike[0].advice:
        output.say(f"  advice: {output.clean(alike[0].advice)}")


def _grouped(checked: Checked) -> str:
    """Return how many experiments, trials, places in them and tags were compared, if any."""
    told = [
        f"{output.plural(checked.groups, 'experiment or trial', 'experiments and trials')}, "
        if checked.groups
        else "",
        f"{output.plural(checked.trials, 'place in a trial', 'places in trials')}, "
        if checked.trials
        else "",
        f"{output.plural(checked.tags, 'tag')}, " if checked.tags else "",
    ]
    return "".join(told)


def _print_report(report: VerifyReport) -> None:
    from journaltrack.verification.diff import LATER  # noqa: PLC0415 - as above

    checked = report.checked
    output.say(
        f"compared {output.plural(checked.components, 'component')}, "
        f"{output.plural(checked.parameters, 'parameter')}, "
        f"{output.plural(checked.artifacts, 'artifact')}, "
        f"{output.plural(checked.points, 'point')} of "
        f"{output.plural(checked.metrics, 'metric')}, {_objects(report)}, "
        f"{checked.lineage} of lineage, {_grouped(checked)}"
        f"{duration(report.duration_s)}"
    )
    if report.repair is not None:
        output.say(_repaired(report.repair))
    wrong = [each for each in report.differences if each.kind != "extra"]
    extra = [each for each in report.differences if each.kind == "extra"]
    _table("differences", wrong)
    _table("beyond what this journal delivered (no failure)", extra)
    counts = report.counts
    if not checked.components and not checked.groups and report.verified:
        output.say("nothing was delivered yet: there is nothing to compare")
    elif report.verified:
        later = any(difference.note == LATER for difference in extra)
        but = ", except what a later run of another journal replaced" if later else ""
        output.say(f"everything that was delivered is there{but}")
    else:
        output.say(
            f"{counts['missing']} missing, {counts['different']} different, {counts['unknown']} "
            "could not be told"
        )
    anchored = report.anchors
    if anchored is not None and anchored.documents and not anchored.problems:
        all_of = "" if anchored.documents == 1 else f"all {anchored.documents} of "
        output.say(f"the journal reaches {all_of}its {'anchors' if all_of else 'anchor'}")
    elif anchored is not None and not anchored.documents and anchored.note is None:
        where = "no anchor was found" if anchored.places else "no anchor was looked for"
        output.say(f"{where}: nothing shows whether the journal's end was cut off")
    waiting = report.undelivered
    if waiting.any:
        output.say(
            "not everything is delivered, and the rest was not compared: "
            f"{waiting.pending} pending, {waiting.in_doubt} in doubt, {waiting.quarantined} "
            "quarantined"
        )


def _objects(report: VerifyReport) -> str:
    checked = report.checked
    ways = (
        (checked.objects_by_checksum, "by checksum"),
        (checked.objects_by_content, "by content"),
        (checked.objects_by_size, "by size and recorded digest alone"),
    )
    told = [f"{count} {how}" for count, how in ways if count]
    total = sum(count for count, _ in ways)
    return output.plural(total, "object") + (f" ({', '.join(told)})" if told else "")


def _repaired(repair: Repair) -> str:
    delivered = sum(each.delivered for each in repair.passes)
    return (
        f"repair: {output.plural(repair.reopened, 'entry')} made pending again, {delivered} "
        "sent; compared once more"
    )


def _table(title: str, differences: Sequence[Difference]) -> None:
    rows = [
        (
            each.component,
            each.kind,
            each.what,
            each.name,
            _value(each, each.expected),
            _value(each, each.found),
            _remark(each),
        )
        for each in differences[:_ROWS_MAX]
    ]
    tables.table(title, ("component", "is", "what", "name", "expected", "found", "remark"), rows)
    if len(differences) > _ROWS_MAX:
        output.say(f"  ... and {len(differences) - _ROWS_MAX} more; --json has them")


def _value(difference: Difference, value: object) -> str | None:
    if value is None:
        return None
    if difference.what == "status" and difference.name in {"start", "end"}:
        return output.instant(value)
    return output.cut(value, 200)


def _remark(difference: Difference) -> str | None:
    if difference.steps:
        steps = [
            str(first) if first == last else f"{first}-{last}" for first, last in difference.steps
        ]
        return output.cut(
            f"nothing is there at step {', '.join(steps)}; --repair sends it again", 200
        )
    return difference.note or ("--repair sends it again" if difference.repairable else None)


def _explain(report: VerifyReport) -> None:
    """Explain on stderr why the comparison is not complete, and what to do."""
    from journaltrack.journal import destinations  # noqa: PLC0415 - as above

    to = destinations.option_of(report.journal)
    if report.halted is not None:
        output.problem(
            "error", f"the comparison stopped: {report.halted.message}", report.halted.hint
        )
    for found in report.anchors.problems if report.anchors is not None else ():
        hint = (
            "if another copy was synced, bring its receipts or its entries (receipts import, "
            "merge); else first copy the whole journal, then compare it with a backup: it or its "
            "anchors lost something"
        )
        of = output.clean(common.path_of(report.journal))
        output.problem("error", f"the journal at {of}: {found.message}", hint)
    if report.anchors is not None and report.anchors.note is not None:
        output.problem(
            "warning", f"the journal's anchors could not be checked: {report.anchors.note}"
        )
    if report.out_of_time:
        output.problem("error", "the comparison was stopped before everything was compared")
    for sent in report.repair.passes if report.repair is not None else ():
        problem = sent.problem
        if problem is not None:
            output.problem(
                "error", f"not everything could be sent again: {problem.message}", problem.hint
            )
    if report.repair is None and any(each.repairable for each in report.differences):
        output.say(
            f"hint: `journaltrack check --remote --repair{to}` sends again what is missing",
            err=True,
        )
    if report.undelivered.any:
        output.say(f"hint: `journaltrack audit{to}` says what is not delivered, and why", err=True)
