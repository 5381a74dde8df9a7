"""Prepare a tracker's start and end: settings, names, journal, services, final status.

These are the parts of ``tracker`` that need no tracker. Must not know the reconciler, boto3 or SQL.

``Services`` are the callables that need the network or the reconciler. This module implements none
of them, and the tracker does not know who does. ``WIRED`` finds them in the composition root, which
the first call of one imports. So a tracker's class is complete wherever it comes from: a worker
unpickles it by its module.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
import traceback as tracebacks
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, SupportsFloat, TypeAlias, cast

from journaltrack import limits
from journaltrack.errors import (
    ErrorKind,
    InvalidInputError,
    InvalidTypeError,
    RemoteError,
    described,
)
from journaltrack.journal import provenance, vocabulary
from journaltrack.journal.journal import Journal, OnJournalError
from journaltrack.tracking import validation, writers
from journaltrack.tracking.jobs import component_of, component_of_this_job, name_of_this_job
from journaltrack.tracking.sigterm import TerminatedError
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.util import paths
from journaltrack.util.config import RUN_JOB_VARIABLE, RUN_VARIABLE, Configuration, current
from journaltrack.util.deadline import Deadline
from journaltrack.util.guard import GRACE_S, guarded, outcome

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Durability
    from journaltrack.journal.vocabulary import Draft
    from journaltrack.util.output import Capture


class ReplayRequest(NamedTuple):
    """A tracker's request for one component of its journal.

    Attributes:
        journal: The journal's folder.
        component: The component's name.
        deadline_s: How long it may take, in seconds.
        deadline: The same, running since the request. It is cancelled when nobody waits any more.
        configuration: The configuration when the tracker was created.
        boto3_session: The caller's session, or None.
        sagemaker_client: The caller's client, or None.
    """

    journal: Path
    component: str
    deadline_s: float
    deadline: Deadline
    configuration: Configuration
    boto3_session: Any
    sagemaker_client: Any


Ask: TypeAlias = Callable[[ReplayRequest, str, Mapping[str, Any]], Mapping[str, Any]]
"""Makes one request of SageMaker, see ``Services``."""


class Background(Protocol):
    """A delivery of a journal that runs beside training."""

    def finish(self, request: ReplayRequest) -> None:
        """Deliver the request within its deadline; end if no other tracker needs it."""
        ...


class Mirroring(Protocol):
    """A process beside training that mirrors a journal."""

    def hurry(self) -> None:
        """Mirror what is new at once. Does not wait."""
        ...

    def finish(self, deadline: Deadline) -> str | None:
        """Wait until all that was recorded is mirrored.

        Returns:
            Why not everything is mirrored; None: it is.
        """
        ...


class Services(NamedTuple):
    """Callables that need the network or the lease.

    Each may raise anything. The tracker's guard keeps that from training.

    Attributes:
        replay: Delivers what it can.
        ask: Makes one request of SageMaker, by boto3's name of it and its members, and returns the
            answer. An empty one: something that was named does not exist.
        background: Starts to deliver a journal, for ``sync="background"``.
        make_room: Removes delivered contents from the spool of the journal in a folder. It stops
            when that many bytes are free, or when nothing more can be removed. Returns how many
            bytes it freed.
        mirror: Begins to mirror a journal into a folder, a segment every so many seconds.
        fetch: Makes a missing journal as a copy of the one that knows a run in a mirror, if one
            does, within the deadline.
        elsewhere: Brings a journal what a mirror has of it, and returns copies of the mirror's
            other journals that have a run, within the deadline.
    """

    replay: Callable[[ReplayRequest], None] | None = None
    ask: Ask | None = None
    background: Callable[[ReplayRequest], Background] | None = None
    make_room: Callable[[Path, int], int] | None = None
    mirror: Callable[[Path, Path, float], Mirroring] | None = None
    fetch: Callable[[Path, Path, str, Deadline], None] | None = None
    elsewhere: Callable[[Path, Path, str, Deadline], Sequence[Path]] | None = None


def _later(service: str) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:  # noqa: ANN401 - what the service returns
        """Import the service, and call it."""
        return getattr(importlib.import_module("journaltrack.app.composition").SERVICES, service)(
            *arguments
        )

    return call


WIRED: Final = Services(**{service: _later(service) for service in Services._fields})
"""The services of the composition root."""


logger = logging.getLogger(__name__)

FETCH_S: Final = 60.0
"""Our choice: how long a run that is continued waits for its journal from a mirror at most."""


class Settings(NamedTuple):
    """The arguments of `create` and `load`, and the configuration at that time.

    They stay the same for the life of the tracker.
    """

    artifact_bucket: str | None = None
    artifact_prefix: str | None = None
    boto3_session: Any = None
    sagemaker_client: Any = None
    strict: bool = False
    sync: str = "close"
    close_deadline_s: float = 10.0
    durability: Durability = "process"
    redact: tuple[str, ...] = ()
    sigterm: str = "default"
    configuration: Configuration = Configuration()
    mirror: Path | None = None


def settings_of(
    bucket: str | None = None,
    prefix: str | None = None,
    session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
    client: Any = None,  # noqa: ANN401
    strict: bool = False,
    sync: str | bool | None = None,
    close_deadline_s: float | None = None,
    durability: Durability | None = None,
    redact: Iterable[str] | None = None,
    sigterm: str | None = None,
    mirror: str | os.PathLike[str] | None = None,
) -> Settings:
    """Check the settings. What is None comes from the configuration.

    Raises:
        InvalidInputError: An option has an impossible value.
        InvalidTypeError: An option has the wrong type.
    """
    known = current()
    if not isinstance(sync, (str, bool, type(None))):
        raise InvalidTypeError(
            f"sync must be a str or a bool, not {type(sync).__name__}", hint=_SYNC_HINT
        )
    if not isinstance(mirror, (str, os.PathLike, type(None))):
        raise InvalidTypeError(f"mirror must be a folder's path, not {type(mirror).__name__}")
    mirror = known.mirror if mirror is None else mirror
    chosen = known.sync if sync is None else _SYNC_OF_BOOL[sync] if isinstance(sync, bool) else sync
    if chosen is None:
        # A mirror is for machines without a network: somebody else delivers.
        chosen = "off" if mirror else "close"
    if chosen not in {"close", "background", "off"}:
        raise InvalidInputError(f"sync={limits.shown(chosen)} is not known", hint=_SYNC_HINT)
    close_deadline_s = known.close_deadline_s if close_deadline_s is None else close_deadline_s
    if isinstance(close_deadline_s, bool) or not isinstance(close_deadline_s, SupportsFloat):
        kind = type(close_deadline_s).__name__
        raise InvalidTypeError(f"close_deadline_s must be a number of seconds, not {kind}")
    if not close_deadline_s > 0:
        raise InvalidInputError(
            f"close_deadline_s is {close_deadline_s}; it must be positive",
            hint='sync="off" delivers nothing on close',
        )
    if not isinstance(durability, (str, type(None))):
        raise InvalidTypeError(
            f"durability must be a str, not {type(durability).__name__}",
            hint='give "process" or "power"',
        )
    sigterm = known.sigterm if sigterm is None else sigterm
    if sigterm not in {"default", "stop"}:
        raise InvalidInputError(
            f"sigterm={sigterm!r} is not known",
            hint='"stop" ends the with block and the run; "default" does nothing',
        )
    validation.optional_text(prefix, "artifact_prefix")
    check_makes_requests(session, client)
    return Settings(
        validation.bucket(bucket),
        prefix,
        session,
        client,
        strict,
        chosen,
        float(close_deadline_s),
        cast("Durability", known.durability) if durability is None else durability,
        (*known.redact, *validation.patterns(redact)),
        sigterm,
        known,
        paths.expanded(mirror).absolute() if mirror else None,
    )


def check_makes_requests(session: object, client: object) -> None:
    """Refuse a value that is no session or client, such as a prefix or a region.

    Without this check the caller would learn it hours later, from a warning.

    Raises:
        InvalidTypeError: It can't make requests.
    """
    for value, what, method, example in (
        (session, "boto3_session", "client", "boto3.Session()"),
        (client, "sagemaker_boto_client", "update_trial_component", 'session.client("sagemaker")'),
    ):
        if value is not None and not callable(getattr(value, method, None)):
            raise InvalidTypeError(
                f"{what} is of the type {type(value).__name__}, which has no {method}()",
                hint=f"pass the result of {example}, or nothing",
            )


def replay_request(
    journal: Path, component: str, deadline_s: float, settings: Settings
) -> ReplayRequest:
    """Return a tracker's request to replay. Its deadline starts now."""
    return ReplayRequest(
        journal,
        component,
        deadline_s,
        Deadline(deadline_s),
        settings.configuration,
        settings.boto3_session,
        settings.sagemaker_client,
    )


def asked(
    ask: Ask | None,
    request: ReplayRequest,
    operation: str,
    members: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Return SageMaker's answer to a request that the caller can't do without.

    Args:
        ask: The service, see ``Services``.
        request: Says how to reach SageMaker, and how long to wait.
        operation: boto3's name of the operation.
        members: The request's.

    Raises:
        RemoteError: There is no answer in time, or it is a refusal.
    """
    if ask is None:
        text = f"{operation} was not done: nothing here reaches SageMaker"
        raise RemoteError(text, kind=ErrorKind.HALT, code="NotConnected")
    found = outcome(
        lambda: ask(request, operation, members),
        lambda: request.deadline.grace_remaining_s() + GRACE_S,
    )
    if isinstance(found, RemoteError):
        raise found
    if isinstance(found, Exception):
        raise RemoteError(
            f"{operation} may not have been done: {described(found)}",
            kind=ErrorKind.TRANSIENT,
            code=type(found).__name__,
            hint="try again when SageMaker can be reached",
            maybe_applied=True,
        ) from found
    return found


_SYNC_OF_BOOL: Final = {True: "close", False: "off"}
_SYNC_HINT: Final = (
    '"close" (or True) delivers on close, "background" all the time; with "off" (or False) '
    "run `journaltrack sync` or `journaltrack watch` yourself"
)


def name_for(
    name: str | None, base: str | None, *, resume: bool, display_name: str | None = None
) -> str:
    """Return a new component's name: the given one in lower case, or a unique one.

    In a job, ``resume`` needs no name: a job that is started again finds its run. The hint of an
    error quotes ``display_name``, which is often taken for the name.
    """
    if name is not None:
        if base is not None:
            raise InvalidInputError(
                "give trial_component_name or base_trial_component_name, not both"
            )
        return _lower(validation.entity_name(name, "trial component name"))
    of_job = name_of_this_job()
    if resume and of_job is not None and base is None:
        return of_job
    if resume:
        raise InvalidInputError(
            "resume=True needs a trial_component_name: this process runs in no job (Slurm, "
            "SageMaker, ...) whose name could be the run's",
            hint="the next process finds the run by that name"
            + (f"; {limits.shown(display_name)} is its display name" if display_name else ""),
        )
    base = (
        of_job or "trialcomponent"
        if base is None
        else _lower(validation.entity_name(base, "base trial component name"))
    )
    suffix = f"-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
    return limits.with_end(base, suffix)


def run_of_launch(*, resume: bool = True) -> str | None:
    """Return the run that ``journaltrack run`` names for this script; None outside of one.

    Args:
        resume: Whether the caller continues a run. If not, only its first call in each process gets
            the name: a script that creates several runs means several.

    Raises:
        InvalidInputError: Somebody else set the variable, to what can't be a name.
    """
    name = os.environ.get(RUN_VARIABLE)
    of_job, job = os.environ.get(RUN_JOB_VARIABLE), os.environ.get("SLURM_JOB_ID")
    # ``sbatch`` hands the environment on: a job that the command submits is another one.
    if of_job and job and of_job != job:
        return None
    if not name or (not resume and _created.get(name) == os.getpid()):
        return None
    if not resume:
        _created[name] = os.getpid()
    return _lower(validation.entity_name(name, RUN_VARIABLE))


_created: dict[str, int] = {}
"""By run of a launch: the process that created it without ``resume``."""


def name_to_load(
    name: str | None, training_job: str | None, processing_job: str | None
) -> tuple[str, bool]:
    """Return the name to load, and whether it is a job's component.

    As in the original, an empty name counts as none. A component's name wins over a job's, and a
    training job's over a processing job's.
    """
    given = {"trial component": name, "training": training_job, "processing": processing_job}
    kind = next((kind for kind, each in given.items() if each is not None and each != ""), None)
    of_job = kind != "trial component"
    if kind is not None and of_job:
        name = component_of(validation.entity_name(given[kind], f"{kind} job name"), kind)
    if kind is not None:
        return _lower(validation.entity_name(name, "trial component name")), of_job
    launched = run_of_launch()
    if launched is not None:
        return launched, False
    resolved = component_of_this_job()
    if resolved is None:
        raise InvalidInputError(
            "no trial_component_name was given, and this process runs in no SageMaker job",
            hint="name the component, or use Tracker.create()",
        )
    return resolved, True


def _lower(name: str) -> str:
    if name != name.lower():
        logger.warning(
            "the name is recorded in lower case, because SageMaker's metrics accept no other: %s",
            name.lower(),
        )
    return name.lower()


def open_journal(
    journal: str | os.PathLike[str] | Journal | None,
    settings: Settings,
    on_journal_error: OnJournalError,
    *,
    create: bool = True,
    resumed: tuple[Services, str] | None = None,
) -> tuple[Journal, bool]:
    """Return the journal to write to, and whether this call opened it.

    Args:
        journal: An open one, a folder, or None for the default one.
        settings: The tracker's.
        on_journal_error: See ``Journal.open``.
        create: Make a missing journal.
        resumed: The services, and the run that the caller continues. If there is no journal yet,
            and the mirror knows the run, the journal continues that of the mirror.
    """
    provenance.ask(context=settings.configuration.context, redact=settings.redact)
    if settings.sync == "close":
        # boto3 needs it, and while the interpreter exits it can't be imported: a run that is closed
        # then would not be delivered.
        import concurrent.futures.thread  # noqa: F401, PLC0415 - 2 ms, only for that
    if isinstance(journal, Journal):
        return journal, False
    mirror = settings.mirror
    if journal is None and mirror is not None:
        journal = paths.default_journal(mirrored=True)
    if resumed is not None and mirror is not None:
        folder, fetch = paths.journal_folder(journal), resumed[0].fetch
        if fetch is not None and not (folder / paths.DATABASE).exists():
            deadline = Deadline(FETCH_S)
            guarded(
                lambda: fetch(folder, mirror, resumed[1], deadline),
                f"{resumed[1]} is not continued from its mirror; it goes on in a new journal",
                deadline,
            )
    # ``os.path``: what is wrong with the path is told when it is opened.
    if os.path.exists(paths.journal_folder(journal) / paths.DESTINATION):  # noqa: PTH110
        from journaltrack.journal import destinations  # noqa: PLC0415 - few need it

        destinations.refuse_copy(paths.journal_folder(journal), "logged into")
    opened = Journal.open(
        journal,
        durability=settings.durability,
        on_journal_error=on_journal_error,
        create=create,
        appending=True,
    )
    return opened, True


@contextlib.contextmanager
def closing_on_error(journal: Journal, owned: bool) -> Iterator[None]:
    """Close an owned journal if the block fails."""
    try:
        yield
    except BaseException:
        if owned:
            journal.close()
        raise


def system_seconds(wanted: bool | float | None, settings: Settings) -> float:
    """Return the seconds between two looks at the system; 0 for none.

    Args:
        wanted: See ``Tracker.create``.
        settings: The tracker's.

    Raises:
        InvalidInputError: It is no possible number of seconds.
        InvalidTypeError: It is no number.
    """
    configured_s = settings.configuration.system.every_s
    if wanted is None or wanted is False:
        return 0.0 if wanted is False else configured_s
    from journaltrack.tracking import system  # noqa: PLC0415 - few runs want it

    return system.seconds_of(wanted, configured_s)


def captured(at_exit: Callable[[], None]) -> Capture | None:
    """Begin to keep what this process prints; warn and return None if that is not possible.

    Args:
        at_exit: Called when the interpreter ends.
    """
    import atexit  # noqa: PLC0415 - few runs want it

    from journaltrack.util import output  # noqa: PLC0415

    try:
        capture = output.Capture()
    except OSError as error:
        writers.warn_of_creation(f"the output is not kept: {error}")
        return None
    atexit.register(at_exit)
    return capture


def attached(journal: Journal, name: object) -> TrialComponent:
    """Return a component of the journal for a name from a foreign component object."""
    checked = _lower(validation.entity_name(name, "trial_component.trial_component_name"))
    component_id = journal.component(checked)
    if not journal.state_entries(component_id):
        journal.append(component_id, [vocabulary.load()])
    return TrialComponent(journal, component_id, checked)


def keys_in(journal: Journal, component_id: int) -> dict[str, set[str]]:
    """Return the deliverable names that the component has in the journal, by kind."""
    keys: dict[str, set[str]] = {kind: set() for kind in vocabulary.KEYS_MAX}
    for entry in journal.state_entries(component_id):
        # A damaged payload, which ``plan`` quarantines.
        with contextlib.suppress(ValueError):
            if (
                entry.kind in keys
                and len(keys[entry.kind]) < vocabulary.KEYS_MAX[entry.kind][0]
                and vocabulary.undeliverable(entry) is None
            ):
                keys[entry.kind].add(entry.name or "")
    return keys


def final_status(error: BaseException | None) -> Draft:
    """Return the status at the end of a `with` block.

    Only the journal gets the traceback.

    An exception may be of any class. Errors in its own methods do not prevent the status.
    """
    now_ns = time.time_ns()
    if error is None or is_success(error):
        return vocabulary.status(primary="Completed", end_ns=now_ns)
    kind = _text_of(lambda: type(error).__name__) or "an exception"
    message = limits.one_line(_text_of(lambda: _message_of(error)))
    text = _text_of(
        lambda: "".join(tracebacks.format_exception(type(error), error, error.__traceback__))
    )
    return vocabulary.status(
        primary="Stopped" if _is_stop(error) else "Failed",
        message=message or kind,
        end_ns=now_ns,
        traceback=text[-limits.TRACEBACK_CHARS_MAX :] or kind,
    )


def _message_of(error: BaseException) -> str:
    if isinstance(error, SystemExit) and not isinstance(error, TerminatedError):
        return f"SystemExit: {error.code}"
    return str(error)


def is_success(error: BaseException) -> bool:
    """Return whether an exception is a ``SystemExit`` by which the interpreter exits with 0.

    If its code is no integer, the interpreter prints it and exits with 1.
    """
    code = error.code if isinstance(error, SystemExit) else error
    return code is None or (isinstance(code, int) and int(code) == 0)


def _is_stop(error: BaseException) -> bool:
    """Return whether an exception only asks the block to end, or is a group of such.

    These are SIGTERM, Ctrl-C, the cancellation of a task, and the closing of a generator.
    """
    classes = type(error).__mro__
    # By name, because Python 3.10 has no such class. trio and anyio raise groups on Ctrl-C.
    if any(each.__name__ == "BaseExceptionGroup" for each in classes):
        members = getattr(error, "exceptions", ())
        return bool(members) and all(_is_stop(each) for each in members)
    names = {(each.__module__, each.__name__) for each in classes}
    return isinstance(
        error, (KeyboardInterrupt, GeneratorExit, TerminatedError)
    ) or not names.isdisjoint(_CANCELLED)


_CANCELLED: Final = {("asyncio.exceptions", "CancelledError"), ("trio", "Cancelled")}
"""By name, because importing asyncio takes longer than creating a tracker."""


def _text_of(make: Callable[[], str]) -> str:
    """Return a text that foreign code makes; an empty one if that code fails."""
    try:
        return str.__str__(make())
    # Nothing may hide the error that ended the block.
    except BaseException as error:  # noqa: BLE001
        logger.debug("an exception has no text: %s", type(error).__name__)
        return ""
