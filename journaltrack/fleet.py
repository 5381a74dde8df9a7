"""Run commands about many journals on the workers of a Dask cluster.

A task is a command in a process of its own: ``journaltrack sync A B --json``. Its exit code and its
JSON are the result. A command that runs twice is harmless, so Dask may repeat a task whose worker
died. Workers need this package, the journals under the same paths, and credentials of their own:
none is sent to them.

Must not know what a command does. The only door to Dask (the extra ``dask``), which is imported
when a fleet runs. ADR 0059 has the reasons.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from journaltrack.errors import ErrorKind, InvalidInputError, MissingExtraError, RemoteError
from journaltrack.journal import view
from journaltrack.replay.pass_report import Progress
from journaltrack.util import paths

if TYPE_CHECKING:
    from distributed import Client

LEASE_WAIT_S: Final = 120.0
"""Ours: how long a command is repeated while another process holds the journal's lease.

That may be the command of a worker that was killed, which goes on to its end.
"""
_LEASE_PAUSE_S: Final = 1.0
_LEASE_HELD: Final = 7
_UNEXPECTED: Final = 1
_PROBLEMS_CHARS_MAX: Final = 10_000
AnyPath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Say how one command ended.

    Attributes:
        journals: What it was about.
        exit_code: Of the command; docs/reference/exit-codes.md lists them. 1, too, if no worker
            finished it.
        report: The JSON document that it printed; None: it printed none.
        problems: What it printed on stderr, the last 10,000 characters.
        worker: The address of the worker that ran it; '' if none finished.
    """

    journals: tuple[str, ...]
    exit_code: int
    report: Any
    problems: str
    worker: str


@dataclass(frozen=True, slots=True)
class FleetReport:
    """Say how all commands ended, in the order of the journals."""

    command: str
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Return those with an exit code other than 0."""
        return tuple(each for each in self.outcomes if each.exit_code)

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def sync_many(
    journals: Sequence[AnyPath],
    *,
    client: Client,
    requests_per_s: float | None = None,
    options: Sequence[str] = (),
    per_task: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> FleetReport:
    """Deliver what is pending in many journals.

    Args:
        journals: Their folders, or the files of bundles, or addresses of bundles in S3
            (``s3://bucket/key``).
        client: Of the cluster.
        requests_per_s: What all commands together may send, for each API; None: each adapts to
            refusals by itself, which is slower for all.
        options: Further options of the command, such as ``["--component", "digits-*"]``.
        per_task: Journals for each command. Several save starting it.
        on_progress: Called with how many commands ended, of how many.

    Raises:
        MissingExtraError: Dask is not installed.
        InvalidInputError: An argument is invalid. Nothing was started.
    """
    return run_many(
        ["sync", *options],
        _parts(journals, per_task),
        client=client,
        requests_per_s=requests_per_s,
        on_progress=on_progress,
    )


def export_many(
    journals: Sequence[AnyPath],
    *,
    to: AnyPath,
    client: Client,
    options: Sequence[str] = (),
    per_task: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> FleetReport:
    """Add what is new in many journals to one dataset.

    Args:
        journals: Their folders.
        to: A folder that all workers share, or ``s3://BUCKET/PREFIX``.
        client: As for ``sync_many``. So are the others, and what is raised.
        options: As for ``sync_many``.
        per_task: As for ``sync_many``.
        on_progress: As for ``sync_many``.
    """
    place = os.fspath(to)
    if not place.startswith("s3://"):
        place = str(paths.expanded(place).absolute())
    return run_many(
        ["export", "--to", place, *options],
        _parts(journals, per_task),
        client=client,
        on_progress=on_progress,
    )


def audit_many(
    journals: Sequence[AnyPath],
    *,
    client: Client,
    options: Sequence[str] = (),
    per_task: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> FleetReport:
    """Audit many journals, named by their folders.

    The other arguments, and what is raised, are those of ``sync_many``.
    """
    return run_many(
        ["audit", *options], _parts(journals, per_task), client=client, on_progress=on_progress
    )


def merge_many(
    targets: Mapping[AnyPath, Sequence[AnyPath]],
    *,
    client: Client,
    on_progress: Callable[[Progress], None] | None = None,
) -> FleetReport:
    """Merge journals into several targets, beside each other.

    Args:
        targets: By the folder of each target: the journals to merge into it.
        client: As for ``sync_many``. So is what is raised.
        on_progress: As for ``sync_many``.
    """
    tasks = [
        (["merge", "--into", str(paths.journal_folder(target))], _named("merge", sources))
        for target, sources in targets.items()
    ]
    return _run_all("merge", tasks, client, None, on_progress)


def run_many(
    command: Sequence[str],
    groups: Sequence[Sequence[AnyPath]],
    *,
    client: Client,
    requests_per_s: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> FleetReport:
    """Run a command for each group of journals.

    Args:
        command: Its name, and options. It must have ``--json``.
        groups: The journals of each command.
        client: As for ``sync_many``. So are the others, and what is raised.
        requests_per_s: As for ``sync_many``.
        on_progress: As for ``sync_many``.
    """
    tasks = [(list(command), _named(command[0], group)) for group in groups]
    return _run_all(command[0], tasks, client, requests_per_s, on_progress)


def _run_all(
    name: str,
    tasks: Sequence[tuple[list[str], tuple[str, ...]]],
    client: Client,
    requests_per_s: float | None,
    on_progress: Callable[[Progress], None] | None,
) -> FleetReport:
    distributed = load()
    if requests_per_s is not None and not requests_per_s > 0:
        raise InvalidInputError(
            f"requests_per_s is {requests_per_s}; it must be more than 0. Nothing was started",
            hint="None: no common limit",
        )
    tell = on_progress or (lambda _: None)
    found: dict[int, Outcome] = {}
    with client.as_current(), _shares(client, len(tasks), requests_per_s) as (leases, share):
        run = uuid.uuid4().hex
        futures = {
            client.submit(
                _task, command, journals, share, leases, pure=False, key=f"{name}-{run}-{n}"
            ): n
            for n, (command, journals) in enumerate(tasks)
        }
        tell(Progress(0, len(tasks)))
        try:
            for future in distributed.as_completed(list(futures)):
                number = futures[future]
                try:
                    found[number] = Outcome(*future.result())
                # Its workers died again and again, or the scheduler went away.
                except Exception as error:  # noqa: BLE001
                    told = f"no worker ended it: {error}"
                    found[number] = Outcome(tasks[number][1], _UNEXPECTED, None, told, "")
                tell(Progress(len(found), len(tasks)))
        finally:
            # Without a scheduler there is nothing to cancel, and what ended is still told.
            with contextlib.suppress(OSError, RuntimeError):
                client.cancel(list(futures))
    return FleetReport(name, tuple(found[n] for n in range(len(tasks))))


@contextlib.contextmanager
def _shares(
    client: Client, tasks: int, requests_per_s: float | None
) -> Iterator[tuple[Any, float | None]]:
    """Cut a rate into a share for each command that can run at a time, leased while it does.

    The client is the current one.
    """
    if requests_per_s is None or not tasks:
        yield None, None
        return
    threads = sum(client.nthreads().values())
    shares = max(1, min(threads, tasks))
    leases = load().Semaphore(shares, name=f"journaltrack-{uuid.uuid4().hex}")
    try:
        yield leases, requests_per_s / shares
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            leases.close()


def _task(
    command: Sequence[str],
    journals: tuple[str, ...],
    share: float | None,
    leases: Any,  # noqa: ANN401
) -> tuple[tuple[str, ...], int, Any, str, str]:
    """Run a command on a worker; return the members of its ``Outcome``."""
    own = {} if share is None else {"JOURNALTRACK_REQUESTS_PER_S": str(share)}
    with leases or contextlib.nullcontext():
        ends = time.monotonic() + LEASE_WAIT_S
        while True:
            done = subprocess.run(  # noqa: S603 - no shell
                [sys.executable, "-m", "journaltrack", *command, "--json", "--", *journals],
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if done.returncode != _LEASE_HELD or time.monotonic() > ends:
                break
            time.sleep(_LEASE_PAUSE_S)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    worker = load().get_worker().address
    return journals, done.returncode, report, done.stderr[-_PROBLEMS_CHARS_MAX:], worker


def load() -> Any:  # noqa: ANN401 - it has no types
    """Import Dask.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import distributed  # noqa: PLC0415 - an extra, and a second
    except ImportError as error:
        raise MissingExtraError(
            f"a fleet needs Dask, which can't be imported: {error}",
            hint="pip install 'journaltrack[dask]'",
        ) from error
    return distributed


def unreachable(scheduler: str, error: OSError) -> RemoteError:
    """Return the error for a scheduler that does not answer."""
    return RemoteError(
        f"the scheduler at {scheduler} can't be reached: {error}; nothing was started",
        kind=ErrorKind.TRANSIENT,
        code="SchedulerUnreachable",
        hint="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
        unreachable=True,
    )


def _parts(journals: Sequence[AnyPath], per_task: int) -> list[Sequence[AnyPath]]:
    if per_task < 1:
        raise InvalidInputError(f"per_task is {per_task}; it must be 1 or more")
    return [journals[n : n + per_task] for n in range(0, len(journals), per_task)]


def _named(command: str, journals: Sequence[AnyPath]) -> tuple[str, ...]:
    """Return what to name to a command, whatever the worker's folder is.

    Raises:
        InvalidInputError: Only a sync delivers bundles, which alone can be in S3.
    """
    names = tuple(os.fspath(each) for each in journals)
    for name in names:
        if name.startswith(paths.S3) and command != "sync":
            raise InvalidInputError(
                f"{command} reads journals from folders, and {name} is an address in S3; nothing "
                "was started",
                hint="sync a bundle from there, or copy the folder to where the workers see it",
            )
    return tuple(
        name if name.startswith(paths.S3) else str(paths.journal_folder(name)) for name in names
    )
