"""Implement ``journaltrack mirror``: write a journal into a shared folder, segment by segment."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode, worst
from journaltrack.cli.journals import arguments_and_journals

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.mirror.folders import Mirror
    from journaltrack.mirror.ship import Shipped

_LISTED_MAX: Final = 5
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class _Place(click.Path):
    """A path that is not looked at: it may be on a file server that hangs or refuses for now."""

    def convert(
        self, value: str | os.PathLike[str], _: click.Parameter | None, __: click.Context | None
    ) -> str | os.PathLike[str]:
        """Return it as it is."""
        return value


@click.command(
    epilog="\b\nExamples:\n  journaltrack mirror /tmp/run/journal /shared/mirror --follow\n"
    "  journaltrack sync /shared/mirror\n"
    "  journaltrack mirror --check /shared/mirror"
)
@arguments_and_journals(
    lambda arguments, options: {"named": (*options, *arguments)},
    "The same as the argument.",
    metavar="[[JOURNAL] FOLDER]",
    type=_Place(),
)
@click.option("--follow", is_flag=True, help="Go on until SIGTERM or Ctrl-C.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=common.Number(0.1, 3600),
    help="With --follow: time between segments at least.  [default: 1.5]",
)
@click.option(
    "--check",
    "checks",
    is_flag=True,
    help="Prove every segment in FOLDER, and say what is missing; write nothing.",
)
@click.option(
    "--take-over",
    "takes_over",
    is_flag=True,
    help="Deliver from here what a lost machine delivered: its pending points are in doubt.",
)
@click.option(
    "--child",
    is_flag=True,
    hidden=True,
    help="For Tracker.create(mirror=...): ends when no process logs to JOURNAL any more.",
)
@click.option(
    "--prune",
    "prunes",
    is_flag=True,
    help="Remove from FOLDER the journals that were delivered long ago; this machine keeps copies.",
)
@click.option(
    "--delivered-before",
    metavar="WHEN",
    type=common.When(),
    help="With --prune: every entry was delivered before: 30d (ago), 2026-11-03.",
)
@click.option("--dry-run", is_flag=True, help="With --prune: show what would go, and what stays.")
@common.common_options
def command(
    named: tuple[str, ...],
    *,
    child: bool,
    follow: bool,
    interval: float | None,
    checks: bool,
    takes_over: bool,
    prunes: bool,
    delivered_before: int | None,
    dry_run: bool,
    as_json: bool,
) -> ExitCode:
    """Write what is new in JOURNAL into FOLDER, which other machines share.

    FOLDER gets files that never change: segments of entries and receipts, and the bytes of
    artifacts. Name it in place of a journal on another machine: sync, watch, status, runs, audit,
    check, export and ui read it. What was delivered there comes back into JOURNAL.

    FOLDER becomes a mirror if it is new or empty. Without JOURNAL, the default journal is
    mirrored, without FOLDER into the configured mirror. You may interrupt and repeat this at any
    moment.
    """
    if not prunes:
        common.refuse_without(
            "--prune", {"--delivered-before": delivered_before, "--dry-run": dry_run}
        )
    elif delivered_before is None:
        raise click.UsageError("give --delivered-before WHEN; nothing was removed")
    from journaltrack.util import config, paths  # noqa: PLC0415 - completion

    known = config.current()
    if checks or takes_over or prunes:
        folder = named[0] if named else known.mirror
        has_others = follow or interval is not None or checks + takes_over + prunes > 1
        if folder is None or len(named) > 1 or has_others:
            raise click.UsageError(
                "--check, --take-over and --prune take FOLDER, and none of the others"
            )
        if delivered_before is not None:
            return _prune(folder, delivered_before, dry_run=dry_run, as_json=as_json)
        return (_check if checks else _take_over)(folder, as_json=as_json)
    if len(named) > 2 or not (named or known.mirror):  # noqa: PLR2004 - JOURNAL FOLDER
        raise click.UsageError("name the journal and the folder: JOURNAL FOLDER")
    if interval is not None and not (follow or child):
        raise click.UsageError("--interval needs --follow")
    interval = known.mirror_every_s if interval is None else interval
    mirror = named[-1] if named else str(known.mirror)
    journal = paths.journal_folder(
        named[0] if len(named) > 1 else paths.default_journal(mirrored=True)
    )
    if child:
        return _mirror_as_child(journal, paths.expanded(mirror).absolute(), interval)
    return _mirror(journal, mirror, follow=follow, interval=interval, as_json=as_json)


def _mirror_as_child(journal: Path, mirror: Path, interval: float) -> ExitCode:
    """Mirror for ``Tracker.create(mirror=...)``, until nobody logs any more."""
    from journaltrack.mirror.beside import mirror_beside  # noqa: PLC0415 - completion

    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    asked = threading.Event()

    def await_signal() -> None:
        """Note the first signal. Later ones change nothing."""
        signal.sigwait(_SIGNALS)
        asked.set()

    threading.Thread(target=await_signal, name="journaltrack-signal", daemon=True).start()
    failure = mirror_beside(journal, mirror, interval, asked)
    return ExitCode.OK if failure is None else ExitCode.JOURNAL


def _mirror(journal: Path, named: str, *, follow: bool, interval: float, as_json: bool) -> ExitCode:
    from journaltrack.mirror import folders  # noqa: PLC0415 - completion
    from journaltrack.mirror.follower import Follower  # noqa: PLC0415

    mirror = folders.opened(named, create=True)
    replicas = []
    if follow:
        shipped = _follow(journal, mirror, interval)
    else:
        follower = Follower(journal, mirror, interval)
        replicas = follower.once()
        shipped = follower.shipped
    for each in replicas:
        if each.problem is not None:
            output.problem("warning", each.problem.message, each.problem.hint)
        elif each.waits is not None:
            output.problem("note", f"{each.name}: {each.waits}")
    code = ExitCode.JOURNAL if shipped.halted else ExitCode.OK
    if shipped.blobs_missing or any(each.problem is not None for each in replicas):
        code = worst([code, ExitCode.PROBLEMS])
    if as_json:
        members = {"journal": str(journal), "mirror": str(mirror.path), **asdict(shipped)}
        output.print_json({**members, "exit_code": int(code)})
        return code
    output.say(
        f"{output.clean(str(journal))}: {output.plural(shipped.entries, 'entry')} and "
        f"{output.plural(shipped.attestations, 'receipt')} in "
        f"{output.plural(shipped.segments, 'segment')} ({output.size(shipped.segment_bytes)}), "
        f"{output.plural(shipped.blobs, 'artifact')} ({output.size(shipped.blob_bytes)}) mirrored"
    )
    for uuid, place in shipped.halted.items():
        output.problem(
            "error",
            f"the entries of the process {uuid} from number {place} on are not what was recorded, "
            "and are not mirrored; all others are",
            "`journaltrack check` says more",
        )
    if shipped.blobs_missing:
        output.problem(
            "warning",
            f"{output.plural(len(shipped.blobs_missing), 'artifact')} missing in the spool, or "
            f"damaged: {', '.join(shipped.blobs_missing[:_LISTED_MAX])}",
        )
    return code


def _follow(journal: Path, mirror: Mirror, interval: float) -> Shipped:
    """Follow a journal on a thread until a signal comes; return what was written.

    ``sigwait`` takes the signal. A handler that sets an event may interrupt who waits for it, and
    then both wait for ever.
    """
    from journaltrack.mirror.beside import in_charge  # noqa: PLC0415 - completion
    from journaltrack.mirror.follower import Follower  # noqa: PLC0415
    from journaltrack.mirror.ship import Shipped  # noqa: PLC0415

    shipped = Shipped()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        """Follow, and wake the main thread at the end."""
        try:
            with in_charge(journal, mirror.path, ended) as post:
                follower = Follower(journal, mirror, interval, wanted=post.wanted, tell=post.tell)
                follower.shipped = shipped
                follower.run(ended)
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            failures.append(error)
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    thread = threading.Thread(target=run, name="journaltrack-mirror", daemon=True)
    thread.start()
    signal.sigwait(_SIGNALS)
    ended.set()
    # A second Ctrl-C ends the process at once.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    thread.join()
    for error in failures:
        raise error
    return shipped


def _check(named: str, *, as_json: bool) -> ExitCode:
    from journaltrack.mirror import check, folders, retention  # noqa: PLC0415 - completion

    found = check.check(folders.opened(named))
    removed = retention.removed(folders.opened(named))
    code = ExitCode.OK if all(each.is_well for each in found) else ExitCode.PROBLEMS
    if as_json:
        replicas = [each.to_json() for each in found]
        output.print_json(
            {"mirror": named, "replicas": replicas, "removed": removed, "exit_code": int(code)}
        )
        return code
    columns = ("journal", "replica", "files", "entries", "receipts", "size", "last segment")
    rows = [
        (
            each.journal_id,
            each.replica,
            each.files,
            each.entries,
            each.attestations,
            output.size(each.size_bytes),
            output.digest(each.last) if each.last else None,
        )
        for each in found
    ]
    tables.table("proved", columns, rows)
    for each in found:
        for what, numbers in (("missing", each.missing), ("damaged", each.damaged)):
            if numbers:
                some = ", ".join(map(str, numbers[:_LISTED_MAX]))
                output.problem("error", f"{each.replica}: segments are {what}: {some}")
        if each.artifacts_missing:
            some = ", ".join(each.artifacts_missing[:_LISTED_MAX])
            output.problem(
                "warning", f"{each.replica}: artifacts are missing, or have other bytes: {some}"
            )
        for problem in each.problems:
            output.problem("error", f"{each.replica}: {problem}")
    for journal_id, record in removed.items():
        output.say(
            f"{journal_id}: removed on the record at {output.moment(record.get('removed_at_ns'))}, "
            "after it was delivered"
        )
    if code is ExitCode.OK:
        output.say("nothing is missing up to the last segment of each replica")
    return code


def _prune(named: str, before_ns: int, *, dry_run: bool, as_json: bool) -> ExitCode:
    from journaltrack.journal import view  # noqa: PLC0415 - completion
    from journaltrack.mirror import retention  # noqa: PLC0415
    from journaltrack.util import paths  # noqa: PLC0415

    found = retention.prune(paths.expanded(named), before_ns, dry_run=dry_run)
    if as_json:
        journals = [view.to_json(each) for each in found]
        output.print_json({"mirror": named, "journals": journals, "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    for each in found:
        what = (
            f"stays: {each.why_not}"
            if each.why_not is not None
            else f"{'would be removed' if dry_run else 'removed'}; its copy is {each.copy}"
        )
        output.say(
            f"{each.journal_id}: {output.plural(each.entries, 'entry')} in "
            f"{output.plural(each.files, 'file')} ({output.size(each.size_bytes)}) {what}"
        )
    return ExitCode.OK


def _take_over(named: str, *, as_json: bool) -> ExitCode:
    from journaltrack.mirror import copies, delivery, folders  # noqa: PLC0415 - completion

    mirror = folders.opened(named)
    doubts = {}
    for copied in copies.extended(mirror.path):
        if copied.folder is not None:
            doubts[str(copied.folder)] = delivery.take_over(copied.folder, mirror)
    if as_json:
        output.print_json({"mirror": named, "in_doubt": doubts, "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    for journal, count in doubts.items():
        output.say(f"{output.clean(journal)}: delivered from here now; {count} points in doubt")
    return ExitCode.OK
