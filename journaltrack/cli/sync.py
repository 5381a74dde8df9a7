"""Implement ``journaltrack sync``: deliver what is pending."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error, told_unheard, worst
from journaltrack.cli.jobs import Jobs, within_open_files
from journaltrack.cli.journals import Journals, about_journals, each
from journaltrack.errors import JournalOutdatedError, JournaltrackError, RemoteError, more
from journaltrack.util.deadline import Deadline
from journaltrack.util.text import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from journaltrack.app.connection import Connection
    from journaltrack.app.one_place import OnePlace
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.dispatch import Company
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.replay.reconciler import Options
    from journaltrack.reports.status import Standing
    from journaltrack.util.config import Configuration, Destination

_HELD_MAX: Final = 10
_CONCURRENCY_MAX: Final = 256
_JOBS: Final = 16
"""Journals at a time: hides 30 ms of latency behind the CPU time of small ones (ADR 0057)."""
_JOBS_MAX: Final = 64


class _Replacement(click.ParamType[tuple[str, str]]):
    """Parse two buckets: ``OLD=NEW``."""

    name = "buckets"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, str]:
        """Convert as click does."""
        from journaltrack import limits  # noqa: PLC0415 - shell completion imports this module

        old, _, new = value.partition("=")
        problem = "it must be OLD=NEW" if not old or not new else limits.bucket_problem(new)
        if problem is not None:
            self.fail(f"{output.clean(value)}: {problem}", param, ctx)
        return old, new


@dataclass(slots=True, kw_only=True)
class _Run(common.Stoppable):
    """Hold what all journals of one call share.

    Attributes:
        connections: They lead to the destinations.
        one_place: None if copies do not matter.
        verbose: Whether to print tracebacks.
        halted: By destination: what every other request there would meet as well.
        ids: The ids of journals that were looked at.
    """

    options: Options
    connections: list[Connection]
    one_place: OnePlace | None
    verbose: bool
    halted: dict[Destination | None, RemoteError] = field(default_factory=dict)
    ids: dict[str | None, str] = field(default_factory=dict)

    def key(self, journal: str | None) -> object:
        """Return what journals share that must be synced one after the other.

        These are copies of one journal, and bundles: each may be merged into any journal.
        """
        # The sync of it reports what is wrong, also of a disk that can't be read.
        with contextlib.suppress(JournaltrackError, OSError):
            if _is_bundle(journal):
                return "bundle"
            return self.ids.setdefault(journal, _id_of(journal))
        return journal


@click.command(
    epilog="\b\nExamples:\n  journaltrack sync\n  journaltrack sync /mnt/usb/*/journal "
    "--profile research --region eu-west-1\n"
    "  journaltrack sync --component 'digits-*' --since 2d --dry-run\n"
    "  journaltrack sync --to lab --dry-run"
)
@about_journals
@click.option(
    "--to",
    metavar="NAME|URI",
    multiple=True,
    help="Deliver to this destination: sagemaker, [destinations.NAME] of the configuration, or "
    "the address of an MLflow server. May be repeated.  [default: deliver_to, else all]",
)
@common.component_option
@click.option(
    "--since",
    metavar="WHEN",
    type=common.When(),
    help="Only what was recorded since: 2h, 3d (ago), 2026-11-03, 2026-11-03T12:00+01:00.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the requests that would be made; contact nobody."
)
@click.option(
    "--create-or-attach",
    is_flag=True,
    help="Create loaded components that are missing, attach to foreign ones that exist.",
)
@click.option(
    "--bucket",
    "buckets",
    metavar="OLD=NEW",
    multiple=True,
    type=_Replacement(),
    help="Upload to NEW what was recorded for the bucket OLD; first `journaltrack retry` what is "
    "quarantined. May be repeated.",
)
@click.option(
    "--even-if-behind",
    is_flag=True,
    help="Send what is pending even if another copy of the journal was delivered further; "
    "metric points may be duplicated.",
)
@click.option(
    "--unproved",
    is_flag=True,
    help="Send also entries whose chain of digests does not hold: somebody may have altered them.",
)
@common.connection_options
@click.option(
    "--concurrency",
    metavar="N",
    type=common.Whole(1, _CONCURRENCY_MAX),
    help="Requests in flight, of all journals together, at most 16 of them uploads.  [default: 96]",
)
@click.option(
    "--jobs",
    metavar="N",
    type=common.Whole(1, _JOBS_MAX),
    default=_JOBS,
    help=f"Journals at a time.  [default: {_JOBS}]",
)
@click.option(
    "--deadline",
    "deadline_s",
    metavar="SECONDS",
    type=common.Number(0, min_open=True),
    help="Stop after this time; the rest stays pending.",
)
@common.common_options
def command(
    journals: Journals,
    *,
    component: str | None,
    since: int | None,
    dry_run: bool,
    create_or_attach: bool,
    buckets: tuple[tuple[str, str], ...],
    to: tuple[str, ...],
    even_if_behind: bool,
    unproved: bool,
    config_file: str | None,
    deadline_s: float | None,
    jobs: int,
    as_json: bool,
    **given: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Send what is pending in each JOURNAL to SageMaker and S3.

    With --to, or further destinations in the configuration, send it there as well. Each has its own
    record of what arrived; one that is added later gets the whole history.

    A folder of journals stands for those in it. A JOURNAL may be a bundle, a file that
    `journaltrack bundle` made, also one in S3 (s3://BUCKET/KEY). It is unpacked once, into
    "bundles" beside the default journal; later bundles of the same journal add what is new.

    Sync as often as you like: what is delivered is not sent again. Ctrl-C or SIGTERM stops after
    the requests in flight, with everything recorded; a second Ctrl-C waits some seconds for them
    at most, a second SIGTERM not at all. With several journals, the worst exit code is returned.

    If a process's chain of digests does not hold, somebody altered what it recorded. Its entries
    are not sent (exit code 8); all others are.
    """
    from journaltrack.app.connection import Sharing  # noqa: PLC0415
    from journaltrack.app.one_place import OnePlace  # noqa: PLC0415
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415 - SQLAlchemy

    known, connection = common.reach(config_file, given)
    sharing = Sharing()
    connection = replace(connection, sharing=sharing)
    options = Options(
        component,
        since,
        create_or_attach=create_or_attach,
        even_if_behind=even_if_behind,
        unproved=unproved,
        **known.of_a_pass(),
    )
    jobs, concurrency = within_open_files(jobs, options.concurrency)
    run = _Run(
        deadline=Deadline(deadline_s),
        options=replace(options, concurrency=concurrency),
        connections=[
            connection.with_buckets(dict(buckets)).to(each)
            for each in (map(known.destination, dict.fromkeys(to)) if to else known.targets)
        ],
        one_place=OnePlace() if len(journals.folders) > 1 and not even_if_behind else None,
        verbose=common.is_verbose(),
    )
    if not dry_run:
        _end_silent(journals, known)
    with sharing, common.stopping(run), output.going_on() as lost:
        code = each(
            journals,
            lambda journal: _one(run, journal, dry_run=dry_run, as_json=as_json),
            as_json="list" if as_json else None,
            jobs=None if jobs == 1 or dry_run else Jobs(jobs, run.deadline, run.key),
            has_ended=lambda: run.signal,
            final=run.code,
            verdict=None if dry_run else "all delivered",
        )
    return worst([code, *map(told_unheard, lost[:1])])


def _end_silent(journals: Journals, known: Configuration) -> None:
    """Record of runs on nodes that went silent that they stopped."""
    for path in journals.mirrors:
        from journaltrack.mirror import copies, folders  # noqa: PLC0415 - few name one

        mirror = folders.opened(path)
        for settled in copies.settle(
            mirror, copies.extended(path), known.silent_after_s, known.claim_s
        ):
            for name in settled.ended:
                output.problem(
                    "note",
                    f"{output.clean(name)}: its node went silent. It is recorded as Stopped; if "
                    "the node comes back, its own status counts again",
                )
            for name in settled.again:
                output.problem(
                    "note", f"{output.clean(name)} was not over: its own status counts again"
                )


def _one(run: _Run, journal: str | None, *, dry_run: bool, as_json: bool) -> ExitCode:
    if journal is None or not _is_bundle(journal):
        return (
            _dry_run(run, journal, as_json=as_json)
            if dry_run
            else _sync_all(run, journal, as_json=as_json)
        )
    with tempfile.TemporaryDirectory(prefix="journaltrack-") as place:
        file = _fetched(run, journal, Path(place))
        if dry_run:
            folder = _unpacked(journal, file, Path(place) / "unpacked", as_json=as_json)
            return _dry_run(run, str(folder), as_json=as_json)
        folder = _unpacked(journal, file, None, as_json=as_json)
        # It may be large, and is not needed any more.
        shutil.rmtree(place, ignore_errors=True)
        code = _sync_all(run, str(folder), as_json=as_json, bundle=common.path_of(journal))
    # Receipts tell of SageMaker.
    if all(each.destination is not None for each in run.connections):
        return code
    output.say(
        "hint: so that the node knows what arrived: journaltrack receipts export "
        f"{output.clean(str(folder))} -o {output.clean(Path(journal).stem)}.receipts here, and "
        "journaltrack receipts import there",
        err=True,
    )
    return code


def _is_bundle(journal: str | None) -> bool:
    """Return whether a file is named, or an address in S3, where a journal can't be."""
    from journaltrack.util import paths  # noqa: PLC0415 - as above

    return journal is not None and (
        journal.startswith(paths.S3) or paths.expanded(journal).is_file()
    )


def _fetched(run: _Run, bundle: str, place: Path) -> str:
    """Return the file of a bundle. One in S3 is read into ``place``."""
    from journaltrack.util import paths  # noqa: PLC0415 - as above

    if not bundle.startswith(paths.S3):
        return bundle
    from journaltrack.app import dataset  # noqa: PLC0415 - few are in S3

    file = place / "bundle"
    dataset.fetch(bundle, file, run.connections[0].to(None))
    return str(file)


def _unpacked(bundle: str, file: str, into: Path | None, *, as_json: bool) -> Path:
    """Return the folder of the journal in a bundle, whose file is at hand."""
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.bundle.arrival import bring  # noqa: PLC0415

    with ProgressView(common.path_of(bundle), unit="bytes") as view:
        arrived = bring(file, into=into, on_progress=view)
    if not as_json:
        merged = arrived.merged
        new = (
            output.plural(sum(source.entries for source in merged.sources), "new entry")
            if merged is not None
            else "nothing new"
        )
        what = "unpacked" if merged is None and not arrived.known else f"{new} brought"
        output.say(
            f"{output.clean(common.path_of(bundle))}: {what}; its journal is "
            f"{output.clean(str(arrived.folder))}"
        )
    return arrived.folder


def _dry_run(run: _Run, journal: str | None, *, as_json: bool) -> ExitCode:
    return worst([_planned(run, each, journal, as_json=as_json) for each in run.connections])


def _planned(run: _Run, connection: Connection, journal: str | None, *, as_json: bool) -> ExitCode:
    """Print what one destination would be sent."""
    from journaltrack.app.connection import capabilities  # noqa: PLC0415 - as above
    from journaltrack.cli import dry_run  # noqa: PLC0415
    from journaltrack.journal import destinations  # noqa: PLC0415
    from journaltrack.util import paths  # noqa: PLC0415

    to = connection.destination
    with contextlib.ExitStack() as stack:
        where = journal
        if to is not None:
            folder = paths.default_journal() if journal is None else paths.expanded(journal)
            copy = destinations.preview(folder, to.name, to.mark)
            where = str(stack.enter_context(copy))
        path, found, altered = dry_run.plans(
            where,
            run.options,
            connection.allow,
            connection.storage.instead,
            capabilities(connection),
        )
        if to is not None:
            path = str(destinations.folder_of(folder, to.name))
    code = ExitCode.OK if altered is None else exit_code_of(altered)
    if as_json:
        output.print_json(
            {
                "journal": path,
                "destination": "sagemaker" if to is None else to.name,
                "dry_run": True,
                "components": [plan.to_json() for plan in found],
                "exit_code": int(code),
            }
        )
    else:
        dry_run.print_plans(path, found)
    if altered is not None:
        report_error(altered, verbose=False)
    return code


def _sync_all(
    run: _Run, journal: str | None, *, as_json: bool, bundle: str | None = None
) -> ExitCode:
    """Deliver a journal to each destination. A failure of one does not stop the next."""
    codes: list[ExitCode] = []
    for connection in run.connections:
        if codes and run.signal:
            break
        try:
            codes.append(_sync(run, connection, journal, as_json=as_json, bundle=bundle))
        except JournaltrackError as error:
            if len(run.connections) == 1:
                raise
            codes.append(exit_code_of(error))
            report_error(error, verbose=run.verbose)
    return worst(codes)


def _sync(
    run: _Run,
    connection: Connection,
    journal: str | None,
    *,
    as_json: bool,
    bundle: str | None = None,
) -> ExitCode:
    from journaltrack.app.composition import run_pass  # noqa: PLC0415
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.reports.status import standing  # noqa: PLC0415

    stands: list[Standing] = []

    def look(delivered: Journal) -> None:
        """Note where the journal stands after the pass."""
        stands.append(
            standing(delivered, component=run.options.component, since=run.options.since_ns)
        )

    with _led(connection) as company:
        if connection.destination in run.halted:
            raise _not_tried(journal, run.halted[connection.destination])
        with _from_one_place(run, journal), ProgressView(common.path_of(journal)) as view:
            report = run_pass(journal, connection, run.options, run.deadline, view, afterwards=look)
        halted = report.halted
        if halted is not None and (halted.everywhere or halted.unreachable):
            run.halted.setdefault(connection.destination, halted)
        # One that had nothing to send proves nothing.
        if halted is None and report.failed is None and report.requests:
            company.proved()
    (after,) = stands
    code = _code(report, after)
    if as_json:
        output.print_json(
            {
                **_json(report, after, code),
                "destination": "sagemaker"
                if connection.destination is None
                else connection.destination.name,
                **({} if bundle is None else {"bundle": bundle}),
            }
        )
    else:
        output.say(_summary(report, after))
    _explain(report, after, run.options.component, stopped=bool(run.signal))
    return code


@contextlib.contextmanager
def _led(connection: Connection) -> Iterator[Company]:
    """Let the first pass go ahead: what stops it stops the others before they send anything."""
    assert connection.sharing is not None  # noqa: S101 - as the command made it
    company = connection.sharing.company
    with company.led():
        yield company


def _not_tried(journal: str | None, halted: RemoteError) -> RemoteError:
    """Return the error of a journal that would meet what another one met."""
    message = (
        f"{output.clean(common.path_of(journal))} was not tried, its entries stay pending: "
        f"{halted.message}"
    )
    return RemoteError(message, **halted.members)


def _id_of(journal: str | Path | None) -> str:
    from journaltrack.journal import view  # noqa: PLC0415 - as above

    with view.opened(journal) as own:
        return own.journal_id


@contextlib.contextmanager
def _from_one_place(run: _Run, journal: str | None) -> Iterator[None]:
    """Sync only one of several copies of a journal in one call."""
    from journaltrack.replay import pass_report  # noqa: PLC0415 - as above
    from journaltrack.util import paths  # noqa: PLC0415 - as above

    folder = paths.default_journal() if journal is None else paths.expanded(journal)
    with contextlib.ExitStack() as stack:
        if run.one_place is not None:
            # Copies are as old, and are told apart by what they find there.
            with contextlib.suppress(JournalOutdatedError):
                known = run.ids.get(journal) or _id_of(folder)
                stack.enter_context(
                    run.one_place.of(folder, known, lambda: pass_report.look(folder))
                )
        yield


def _code(report: PassReport, after: Standing) -> ExitCode:
    codes = [
        exit_code_of(error)
        for error in (report.halted, report.uploads_halted, report.altered)
        if error is not None
    ]
    lineage = report.lineage_halted
    # What lineage alone lacks leaves it pending, and no more.
    if lineage is not None and lineage.everywhere:
        codes.append(exit_code_of(lineage))
    if after.pending or after.in_flight:
        codes.append(
            ExitCode.UNREACHABLE
            if report.out_of_time or report.failed is not None
            else ExitCode.PENDING
        )
    if after.quarantined or after.in_doubt:
        codes.append(ExitCode.PROBLEMS)
    return worst(codes)


def _summary(report: PassReport, after: Standing) -> str:
    delivered = f"{report.delivered} delivered"
    if report.superseded and report.superseded == report.delivered:
        # Nothing of it was sent, perhaps since nothing can be.
        delivered = f"0 delivered, {report.superseded} superseded"
    elif report.superseded:
        delivered += f" ({report.superseded} of them superseded)"
    return (
        f"{output.clean(after.path)}: {delivered}, "
        f"{report.quarantined} quarantined, {report.in_doubt} in doubt in "
        f"{output.plural(report.requests, 'request')}, {duration(report.duration_s)}; now "
        f"{after.pending + after.in_flight} pending, {after.quarantined} quarantined, "
        f"{after.in_doubt} in doubt"
    )


def _explain(report: PassReport, after: Standing, component: str | None, *, stopped: bool) -> None:
    """Explain on stderr why not everything is delivered, and what to do."""
    _tell_ended(report.ended)
    if report.arrived or report.not_arrived:
        output.say(
            f"of the entries in doubt {report.arrived} proved to be there, {report.not_arrived} "
            "not: those were pending again",
            err=True,
        )
    for what, problem in (
        ("the sync stopped: ", report.halted),
        ("uploads stopped: ", report.uploads_halted),
        ("", report.altered),
    ):
        if problem is not None:
            output.problem("error", f"{what}{problem.message}", problem.hint)
            output.say(more(problem), err=True)
    if report.lineage_halted is not None:
        output.problem(
            "error",
            f"lineage stopped, all else goes on: {report.lineage_halted.message}",
            f"{report.lineage_halted.hint or 'sync again'}; to give it up: lineage = false",
        )
    _tell_held(report)
    if report.failed is not None and (
        report.halted is None or report.failed.message != report.halted.message
    ):
        output.problem(
            "error",
            f"some requests failed, {_what_became(report)}: {report.failed.message}",
            report.failed.hint,
        )
        output.say(more(report.failed), err=True)
    if report.out_of_time and not stopped:
        output.problem(
            "error",
            "the deadline expired before everything was sent",
            "sync again: it continues where this one stopped",
        )
    if after.quarantined or after.in_doubt:
        from journaltrack.reports.status import undeliverable  # noqa: PLC0415 - SQLAlchemy

        output.problem(
            "warning",
            f"{output.plural(after.quarantined, 'entry')} quarantined, {after.in_doubt} in doubt",
            _what_to_do(
                after, undeliverable(after.path, component=component) if after.quarantined else 0
            ),
        )


def _what_became(report: PassReport) -> str:
    """Say what became of the entries of failed requests."""
    if not report.in_doubt:
        return "their entries stay pending"
    return (
        f"{output.plural(report.in_doubt, 'point')} may have arrived and "
        f"{'is' if report.in_doubt == 1 else 'are'} in doubt (later syncs read back what is "
        "there), other entries stay pending"
    )


def _what_to_do(after: Standing, never: int) -> str:
    """Say what to do about entries that are quarantined or in doubt.

    Nothing helps ``never`` of them.
    """
    from journaltrack.journal import destinations  # noqa: PLC0415 - SQLAlchemy

    to = destinations.option_of(after.path)
    hints = [f"`journaltrack audit{to}` names them and says why"]
    if never:
        which = "they" if never == after.quarantined and not after.in_doubt else f"{never} of them"
        hints.append(
            f"{which} can never be sent to {common.service_of(after.path)}, and stay in the journal"
        )
    if after.quarantined > never:
        hints.append(
            f"`journaltrack retry{to}` makes {'the others' if never else 'them'} pending again, "
            "once the cause is gone"
        )
    if after.in_doubt:
        hints.append("a later sync reads back what is in doubt")
    return "; ".join(hints)


def _tell_held(report: PassReport) -> None:
    """Report which components are held, each reason once.

    The reason that stopped the pass is not repeated.
    """
    told = {error.message for error in (report.halted, report.uploads_halted) if error is not None}
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, error in report.held.items():
        by_reason.setdefault((error.message, error.hint), []).append(name)
    for (message, hint), names in list(by_reason.items())[:_HELD_MAX]:
        who = ", ".join(names[:_HELD_MAX]) + (
            f" and {len(names) - _HELD_MAX} more" if len(names) > _HELD_MAX else ""
        )
        if message in told:
            output.problem("held", f"{who}: for the same reason")
        else:
            output.problem("held", f"{who}: {message}", hint)
    if len(by_reason) > _HELD_MAX:
        left = sum(len(names) for names in list(by_reason.values())[_HELD_MAX:])
        output.say(
            f"held: {output.plural(left, 'more component')}; --json names them all", err=True
        )


def _tell_ended(names: Sequence[str]) -> None:
    for name in names[:_HELD_MAX]:
        output.problem(
            "note", f"{name} was interrupted: its process is gone. It is recorded as Stopped"
        )
    if len(names) > _HELD_MAX:
        output.say(
            f"note: {len(names) - _HELD_MAX} more runs were interrupted, and are recorded as "
            "Stopped; --json names them all",
            err=True,
        )


def _json(report: PassReport, after: Standing, code: ExitCode) -> dict[str, Any]:
    return {
        "journal": after.path,
        "journal_id": after.journal_id,
        "delivered": report.delivered,
        "superseded": report.superseded,
        "quarantined": report.quarantined,
        "in_doubt": report.in_doubt,
        "arrived": report.arrived,
        "not_arrived": report.not_arrived,
        "ended": report.ended,
        "requests": report.requests,
        "duration_s": round(report.duration_s, 3),
        "out_of_time": report.out_of_time,
        "halted": _error(report.halted),
        "uploads_halted": _error(report.uploads_halted),
        "lineage_halted": _error(report.lineage_halted),
        "altered": None
        if report.altered is None
        else {"message": report.altered.message, "hint": report.altered.hint},
        "failed": _error(report.failed),
        "held": {name: _error(error) for name, error in report.held.items()},
        "after": {
            "pending": after.pending,
            "in_flight": after.in_flight,
            "quarantined": after.quarantined,
            "in_doubt": after.in_doubt,
        },
        "exit_code": int(code),
    }


def _error(error: RemoteError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "code": error.code,
        "kind": error.kind.value,
        "message": error.message,
        "hint": error.hint,
        "request_id": error.request_id,
        "unreachable": error.unreachable,
    }
