"""Name the run of a job, so that a scheduler that starts the job again finds it.

A script's tracker has the job's name (``name_of_this_job``). Under ``journaltrack run`` a job may
run several commands: each is a run of its own, and ``claim`` finds or makes it in the journal. The
creation that a launch records says which *start* of the job it belongs to. So the same command is
continued after a requeue, and never by a later one of the same start: a failure stays to be seen.

Must not know the tracker or the launch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.util import process

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft

PROCESSING_JOB_CONFIG: Final = Path("/opt/ml/config/processingjobconfig.json")
_DIGEST_CHARS: Final = 12
_RANDOM_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ANY: Final = "SELECT 1 FROM entry WHERE component_id = ? LIMIT 1"
_UNENDED: Final = frozenset({"InProgress", "Stopping", "Stopped"})
"""Status of runs that a later start of their job may continue."""

_Name: TypeAlias = Callable[[Mapping[str, str]], str | None]


def component_of_this_job(processing_config: Path = PROCESSING_JOB_CONFIG) -> str | None:
    """Return the name of this job's component; None outside a SageMaker job.

    SageMaker creates it shortly after the job starts.
    """
    job = job_of_this_process(processing_config)
    return job and component_of(job[1], job[0])


def job_of_this_process(
    processing_config: Path = PROCESSING_JOB_CONFIG,
) -> tuple[str, str] | None:
    """Return the SageMaker job that this process runs in, as (kind, name); None outside of one.

    The sources are the environment and the files that SageMaker gives to a job, as the original
    library reads them (``smexperiments/_environment.py``).
    """
    for variable, kind in (("TRAINING_JOB_ARN", "training"), ("TRANSFORM_JOB_ARN", "transform")):
        name = _name_in(os.environ.get(variable))
        if name:
            return kind, name
    try:
        config = json.loads(processing_config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = _name_in(config.get("ProcessingJobArn") if isinstance(config, dict) else None)
    return ("processing", name) if name else None


def component_of(job_name: str, kind: str) -> str:
    """Return the name of the component that SageMaker creates for a job.

    ``kind`` is "training", "processing" or "transform".
    """
    return f"{job_name}-aws-{kind}-job".lower()


def name_of_this_job(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return a run's name that is the same whenever the scheduler starts this job again.

    Ranks of one job have one name, tasks of an array one each. None outside of a job, and in one
    that has no such name.
    """
    return next(filter(None, (name(environ) for name, _ in _JOBS)), None)


def start_of_this_job(environ: Mapping[str, str] = os.environ) -> str:
    """Return what differs between the starts of this job, and is the same in each of them."""
    found = next((start(environ) for name, start in _JOBS if name(environ)), "")
    return f"{found}/{environ.get('TORCHELASTIC_RESTART_COUNT') or 0}"


def valid(name: str, separators: str = "") -> str:
    """Return a name that SageMaker accepts, and that no other name gives.

    A name that must be changed or cut gets the end of a digest.

    Args:
        name: Any text.
        separators: Characters that may become hyphens without a digest.
    """
    plain = re.sub(f"[{re.escape(separators)}]", "-", name) if separators else name
    mended = re.sub("[^a-z0-9-]+", "-", plain.lower()).strip("-")
    if mended == plain and len(mended) <= limits.NAME_CHARS_MAX:
        return mended
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return limits.with_end(mended, f"-{digest}").strip("-")


def _of_sagemaker(environ: Mapping[str, str]) -> str | None:
    job = job_of_this_process()
    name = job[1] if job else environ.get("TRAINING_JOB_NAME")
    # The component that SageMaker makes of the job is in lower case, too.
    return valid(name.lower()) if name else None


def _of_slurm(environ: Mapping[str, str]) -> str | None:
    job, task = environ.get("SLURM_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if task:
        job = environ.get("SLURM_ARRAY_JOB_ID") or job
    return valid(f"slurm-{job}-{task}" if task else f"slurm-{job}") if job else None


def _of_batch(environ: Mapping[str, str]) -> str | None:
    # That of a task of an array, and of a node, ends with its number ("id:3", "id#0").
    job, task = environ.get("AWS_BATCH_JOB_ID"), environ.get("AWS_BATCH_JOB_ARRAY_INDEX")
    is_whole = not task or (job or "").endswith(f":{task}")
    return valid(f"batch-{job}" if is_whole else f"batch-{job}-{task}", ":#") if job else None


def _of_kubernetes(environ: Mapping[str, str]) -> str | None:
    # A pod of an indexed job is called "JOB-INDEX", also the next one after a failure.
    host, index = environ.get("HOSTNAME"), environ.get("JOB_COMPLETION_INDEX")
    return valid(host) if host and index and host.endswith(f"-{index}") else None


def _of_torchrun(environ: Mapping[str, str]) -> str | None:
    # "none" is the default, and --standalone makes a random one at each start.
    run = environ.get("TORCHELASTIC_RUN_ID")
    is_random = not run or run == "none" or _RANDOM_ID.fullmatch(run)
    return None if is_random else valid(f"torchrun-{run}")


def _container(_: Mapping[str, str]) -> str:
    """Return what identifies this container, which a scheduler starts for the job."""
    return f"{process.boot()}/{process.started(1)}"


def _parent(_: Mapping[str, str]) -> str:
    """Return what identifies the process that started this one: torchrun's agent, or a script."""
    parent = os.getppid()
    return f"{process.boot()}/{parent}/{process.started(parent)}"


_JOBS: Final[Sequence[tuple[_Name, Callable[[Mapping[str, str]], str]]]] = (
    (_of_sagemaker, _container),
    (_of_slurm, lambda environ: environ.get("SLURM_RESTART_COUNT") or "0"),
    (_of_batch, lambda environ: environ.get("AWS_BATCH_JOB_ATTEMPT") or "1"),
    (_of_kubernetes, _container),
    (_of_torchrun, _parent),
)
"""Of each scheduler: the job's name, and what tells its starts apart."""


def _name_in(arn: object) -> str | None:
    """Return the last part of ``arn:aws:sagemaker:REGION:ACCOUNT:training-job/NAME``."""
    return arn.rpartition("/")[2] or None if isinstance(arn, str) and "/" in arn else None


# -- several commands of one job ---------------------------------------------------------------


class Start(NamedTuple):
    """Which launch began or continued a run, as its creation records.

    Attributes:
        job: Which start of the job, from ``start_of_this_job``.
        step: Which step of the job, if the scheduler tells: Slurm's number.
        rank: The process's rank, None for the first one.
        command: A digest of the command line without secrets.
        board: The folder whose event files are imported.
        since_ns: Event files of earlier launches were last changed before this time.
    """

    job: str = ""
    step: str = ""
    rank: str | None = None
    command: str = ""
    board: str | None = None
    since_ns: int = 0

    @classmethod
    def of(
        cls,
        command: Sequence[str],
        board: str | None,
        since_ns: int,
        environ: Mapping[str, str] = os.environ,
    ) -> Start:
        """Return that of a command which this process launches.

        Args:
            command: Without secrets.
            board: See the attributes.
            since_ns: See the attributes.
            environ: This process's environment.
        """
        text = "\0".join(command).encode(errors="surrogatepass")
        step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID") or ""
        digest = hashlib.sha256(text).hexdigest()[:_DIGEST_CHARS]
        # A path need not be UTF-8.
        board = board and board.encode(errors="replace").decode()
        return cls(start_of_this_job(environ), step, process.rank(), digest, board, since_ns)

    def to_json(self) -> dict[str, Any]:
        """Return this as the member ``launch`` of a creation."""
        return {name: value for name, value in self._asdict().items() if value}

    @classmethod
    def from_json(cls, found: object) -> Start | None:
        """Return what a creation says; None if no launch recorded it. The text may be foreign."""
        if not isinstance(found, dict):
            return None
        texts = {
            name: found[name]
            for name in ("job", "step", "rank", "command", "board")
            if isinstance(found.get(name), str)
        }
        since_ns = found.get("since_ns")
        return cls(**texts, since_ns=since_ns if type(since_ns) is int else 0)


def claim(journal: Journal, base: str, start: Start, draft: Draft) -> tuple[str, int]:
    """Find or make the run of a launch, and record its creation there.

    It is the first run that an earlier start of the job launched by the same command. If the
    command changed, such as by ``--resume``, it is the only run of an earlier start that has not
    ended. Otherwise the run is new. Ranks of one launch get one run.

    Args:
        journal: An open journal.
        base: The name of the first run; later ones end with a number.
        start: The launch.
        draft: The creation, with the launch in it.

    Returns:
        The run's name and its id.

    Raises:
        JournalError: The journal refuses.
    """
    while True:
        name = _run_of(journal, base, start)
        component_id = journal.component(name)

        def is_so(name: str = name) -> bool:
            """Return whether no other process has launched meanwhile."""
            return _run_of(journal, base, start) == name

        if journal.append_if(is_so, component_id, [draft]):
            return name, component_id


def starts_in(journal: Journal, component_id: int | None = None) -> Iterator[tuple[int, Start]]:
    """Yield the launches that the creations of one run, or of all, tell of, in their order."""
    of_one = "" if component_id is None else "AND component_id = ? "
    rows = journal.database.read(
        "SELECT component_id, payload FROM entry WHERE stream <> 'metric' AND kind = ? "
        f"{of_one}ORDER BY seq",
        (vocabulary.CREATE, *(() if component_id is None else (component_id,))),
    )
    for number, payload in rows:
        # A stranger's.
        with contextlib.suppress(ValueError):
            found = Start.from_json(vocabulary.decode(payload).get("launch"))
            if found is not None:
                yield number, found


def _run_of(journal: Journal, base: str, start: Start) -> str:
    """Return the name of the run that a launch continues, or of a new one."""
    changed: list[str] = []
    for number in itertools.count(1):
        name = base if number == 1 else limits.with_end(base, f"-{number}")
        row = journal.find(name)
        if row is None or not journal.database.read(_ANY, (row.id,)):
            return changed[0] if len(changed) == 1 else name
        before = [each for _, each in starts_in(journal, row.id)]
        now = [each for each in before if each.job == start.job]
        is_taken = any(each.step != start.step or each.rank == start.rank for each in now)
        if not before or is_taken:
            continue
        # Ranks may have arguments of their own.
        is_other_rank = bool(now and start.step)
        if is_other_rank or any(each.command == start.command for each in before):
            return name
        last = journal.last_status(row.id)
        if not now and (last is None or last.primary in _UNENDED):
            changed.append(name)
    raise AssertionError  # pragma: no cover - a journal has no endless number of runs
