"""How a tracker starts and ends: its settings, the name it tracks, the journal it opens, its final status.

The parts of ``tracker`` that need no tracker. Must not know the reconciler, boto3 or SQL.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
import traceback as tracebacks
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from journaltrack import entries as vocabulary
from journaltrack import jobs, limits, provenance, redaction, validation
from journaltrack.configuration import Configuration, current
from journaltrack.deadline import Deadline
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.journal import Journal, OnJournalError
from journaltrack.services import ReplayRequest
from journaltrack.trial_component import TrialComponent

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.database import Durability
    from journaltrack.entries import Draft

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `create` and `load` were given, and the configuration at that time: for the life of the tracker."""

    artifact_bucket: str | None = None
    artifact_prefix: str | None = None
    boto3_session: Any = None
    sagemaker_client: Any = None
    strict: bool = False
    sync: str = "close"
    close_deadline_s: float = 10.0
    durability: Durability = "process"
    redact: tuple[str, ...] = ()
    configuration: Configuration = field(default_factory=Configuration)


def settings_of(
    bucket: str | None = None,
    prefix: str | None = None,
    session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
    client: Any = None,  # noqa: ANN401
    strict: bool = False,
    sync: str | None = None,
    close_deadline_s: float | None = None,
    durability: Durability | None = None,
    redact: Iterable[str] | None = None,
) -> Settings:
    """The settings, checked; what was not given comes from the configuration.

    Raises:
        InvalidInputError: An option that can't be right.
        InvalidTypeError: A bucket or prefix that is no str, patterns that are no list of str, a session or client that is none.
    """
    known = current()
    chosen = sync or known.sync
    close_deadline_s = known.close_deadline_s if close_deadline_s is None else close_deadline_s
    if chosen not in {"close", "background", "off"}:
        raise InvalidInputError(
            f"sync={chosen!r} is not known",
            hint='"close" replays on close, "background" all the time, "off" leaves it to `journaltrack sync` or `watch`',
        )
    if not close_deadline_s > 0:
        raise InvalidInputError(f"close_deadline_s is {close_deadline_s}; it must be positive", hint='sync="off" replays nothing on close')
    validation.optional_text(bucket, "artifact_bucket")
    validation.optional_text(prefix, "artifact_prefix")
    _check_makes_requests(session, "boto3_session", "client", "boto3.Session()")
    _check_makes_requests(client, "sagemaker_boto_client", "update_trial_component", 'session.client("sagemaker")')
    return Settings(
        bucket,
        prefix,
        session,
        client,
        strict,
        chosen,
        close_deadline_s,
        durability or cast("Durability", known.durability),
        (*known.redact, *redaction.patterns(redact)),
        known,
    )


def _check_makes_requests(value: object, what: str, method: str, example: str) -> None:
    """A prefix or a region in the place of a session is told at the call, not by a warning hours later."""
    if value is not None and not callable(getattr(value, method, None)):
        raise InvalidTypeError(
            f"{what} is of the type {type(value).__name__}, which makes no requests: it has no {method}()",
            hint=f"pass what {example} returns, or nothing",
        )


def replay_request(journal: Path, component: str, deadline_s: float, settings: Settings) -> ReplayRequest:
    """What a tracker with these settings asks for; its time begins now."""
    return ReplayRequest(
        journal, component, deadline_s, Deadline(deadline_s), settings.configuration, settings.boto3_session, settings.sagemaker_client
    )


def name_for(name: str | None, base: str | None, *, resume: bool) -> str:
    """The name of a new component: the given one in lower case, or one made here, unique."""
    if name is not None:
        if base is not None:
            raise InvalidInputError("give trial_component_name or base_trial_component_name, not both")
        return _lower(validation.entity_name(name, "trial component name"))
    if resume:
        raise InvalidInputError("resume=True needs a trial_component_name", hint="the name is how the next job finds the run")
    base = "trialcomponent" if base is None else _lower(validation.entity_name(base, "base trial component name"))
    suffix = f"-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    return base[: limits.NAME_CHARS_MAX - len(suffix)].rstrip("-") + suffix


def name_to_load(name: str | None, training_job: str | None, processing_job: str | None) -> tuple[str, bool]:
    """The name to load, and whether it is a job's component."""
    given = [n for n in (name, training_job, processing_job) if n is not None]
    if len(given) > 1:
        raise InvalidInputError("give one of trial_component_name, training_job_name and processing_job_name")
    if training_job is not None:
        return _lower(validation.entity_name(jobs.component_of(training_job, "training"), "trial component name")), True
    if processing_job is not None:
        return _lower(validation.entity_name(jobs.component_of(processing_job, "processing"), "trial component name")), True
    if name is not None:
        return _lower(validation.entity_name(name, "trial component name")), False
    resolved = jobs.component_of_this_job()
    if resolved is None:
        raise InvalidInputError(
            "no trial_component_name was given, and this is no SageMaker training, processing or transform job",
            hint="name the component, or use Tracker.create()",
        )
    return resolved, True


def _lower(name: str) -> str:
    if name != name.lower():
        logger.warning("trial component names are kept in lower case, which is all that SageMaker's metrics accept: %s", name.lower())
    return name.lower()


def open_journal(
    journal: str | os.PathLike[str] | Journal | None, durability: Durability, on_journal_error: OnJournalError
) -> tuple[Journal, bool]:
    """The journal to write to, and whether it was opened here."""
    if isinstance(journal, Journal):
        return journal, False
    provenance.ask_git()
    return Journal.open(journal, durability=durability, on_journal_error=on_journal_error), True


@contextlib.contextmanager
def closing_on_error(journal: Journal, owned: bool) -> Iterator[None]:
    """Close a journal that was opened here if the block fails."""
    try:
        yield
    except BaseException:
        if owned:
            journal.close()
        raise


def attached(journal: Journal, name: object) -> TrialComponent:
    """A foreign trial component object, tracked in the default journal."""
    checked = _lower(validation.entity_name(name, "trial_component.trial_component_name"))
    component_id = journal.component(checked)
    if not journal.state_entries(component_id):
        journal.append(component_id, [vocabulary.load()])
    return TrialComponent(journal, component_id, checked)


def keys_in(journal: Journal, component_id: int) -> dict[str, set[str]]:
    """The names that the component has in the journal, deliverable ones."""
    keys: dict[str, set[str]] = {kind: set() for kind in vocabulary.KEYS_MAX}
    for entry in journal.state_entries(component_id):
        if entry.kind in keys and len(keys[entry.kind]) < vocabulary.KEYS_MAX[entry.kind][0] and vocabulary.undeliverable(entry) is None:
            keys[entry.kind].add(entry.name or "")
    return keys


def final_status(error: BaseException | None) -> Draft:
    """The status at the end of a `with` block that ended so; the traceback is for the journal alone."""
    now_ns = time.time_ns()
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return vocabulary.status(primary="Completed", end_ns=now_ns)
    text = "".join(tracebacks.format_exception(type(error), error, error.__traceback__))[-limits.TRACEBACK_CHARS_MAX :]
    message = f"SystemExit: {error.code}" if isinstance(error, SystemExit) else str(error)
    return vocabulary.status(
        primary="Stopped" if isinstance(error, KeyboardInterrupt) else "Failed",
        message=limits.one_line(message) or type(error).__name__,
        end_ns=now_ns,
        traceback=text,
    )
