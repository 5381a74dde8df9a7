"""Read what the SDK's session, this process's job and SageMaker say of a run. Check arguments.

Must not know boto3 or the SDK: a session is whatever has their attributes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError, RemoteError, RunContextError
from journaltrack.tracking import validation
from journaltrack.tracking.catalog import Source
from journaltrack.tracking.delivery import loaded, look_up
from journaltrack.tracking.jobs import job_of_this_process
from journaltrack.tracking.settings import Settings, asked, replay_request, settings_of
from journaltrack.tracking.tracker import Tracker

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from journaltrack.journal.journal import Journal
    from journaltrack.tracking.validation import Moment

    Where = str | os.PathLike[str] | Journal

NAME_CHARS_MAX: Final = limits.NAME_CHARS_MAX // 2 - 1
"""Of an experiment and of a run: both and a hyphen are the component's name."""
_OPTIONS: Final = ("artifact_bucket", "artifact_prefix", "boto3_session", "sagemaker_boto_client")
_DEFAULT_PREFIX: Final = "trial-component-artifacts"


def options_of(session: object, bucket: str | None, prefix: str | None) -> dict[str, Any]:
    """Return the arguments of ``Tracker.create`` for a session of the SDK, or one of boto3.

    The bucket and the prefix that such a session was made with count as in the SDK, as far as they
    are known without a network.

    Raises:
        InvalidTypeError: It is neither.
    """
    client = getattr(session, "sagemaker_client", None)
    boto_session = getattr(session, "boto_session", None)
    if session is not None and client is None and boto_session is None:
        if not callable(getattr(session, "client", None)):
            raise InvalidTypeError(
                f"sagemaker_session is of the type {type(session).__name__}, which has neither "
                "sagemaker_client nor client()",
                hint="pass sagemaker.Session(), boto3.Session(), or nothing",
            )
        boto_session = session
    if not bucket:
        # As `determine_bucket_and_prefix` of the SDK: of the default bucket alone.
        bucket = _text(session, "_default_bucket_name_override")
        folder = _text(session, "default_bucket_prefix")
        if folder:
            prefix = f"{folder}/{prefix or _DEFAULT_PREFIX}"
    return dict(zip(_OPTIONS, (bucket, prefix, boto_session, client), strict=True))


def source_of(session: object, journal: Where | None = None) -> Source:
    """Return where to look: a journal, and SageMaker by a session of the SDK, or of boto3."""
    options = options_of(session, None, None)
    return Source(journal, options["sagemaker_boto_client"], options["boto3_session"])


def _text(session: object, name: str) -> str | None:
    value = getattr(session, name, None)
    return value if isinstance(value, str) and value else None


def checked_name(name: object, what: str) -> str:
    """Return a name in lower case, as SageMaker keeps it for ``Run``."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} must be a str, not {type(name).__name__}")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidInputError(
            f"The {what} (length: {len(name)}) must have length less than or equal to "
            f"{NAME_CHARS_MAX}"
        )
    return validation.entity_name(name, what).lower()


def settings_for(options: Mapping[str, Any]) -> Settings:
    """Return the settings of what ``options_of`` returned.

    Raises:
        InvalidInputError: The bucket has an impossible name.
        InvalidTypeError: A value has the wrong type.
    """
    return settings_of(*(options[name] for name in _OPTIONS))


def run_of_this_job(session: object, journal: Where | None) -> tuple[str, str]:
    """Return the experiment and the run that this SageMaker job was started with.

    Raises:
        RunContextError: There is no such job, it has no run, or SageMaker does not say so in time.
    """
    job = job_of_this_process()
    if job is None:
        raise RunContextError(
            "Failed to load a Run object. Please make sure a Run object has been initialized "
            "already.",
            hint="call it inside of `with Run(...)`, or name the run: "
            "load_run(run_name=..., experiment_name=...)",
        )
    kind, job_name = job
    hint = "name the run: load_run(run_name=..., experiment_name=...)"
    settings = settings_for(options_of(session, None, None))
    deadline_s = settings.configuration.lookup_deadline_s
    try:
        answer = asked(
            Tracker.services.ask,
            replay_request(Source(journal).folder, "", deadline_s, settings),
            f"describe_{kind}_job",
            {f"{kind.capitalize()}JobName": job_name},
        )
    except RemoteError as error:
        raise RunContextError(
            f"SageMaker could not be asked for the run of the job {job_name}: {error.message}",
            hint=hint,
        ) from error
    config = answer.get("ExperimentConfig") or {}
    experiment, component = config.get("ExperimentName"), config.get("RunName")
    if not experiment or not component:
        raise RunContextError(
            f"Not able to fetch RunName in ExperimentConfig of the {kind} job {job_name}", hint=hint
        )
    return experiment, component.lower().removeprefix(f"{experiment.lower()}-")


def load_held(journal: Journal, name: str, settings: Settings) -> None:
    """Record what SageMaker holds of a run that the journal does not know, if it answers."""
    known = journal.find(name)
    if known is not None and journal.state_entries(known.id):
        return
    answer = look_up(Tracker.services.ask, journal.path, name, settings)
    if answer:
        journal.append(journal.component(name), [loaded(name, answer, settings, is_job=False)])


def check_recent(timestamp: Moment) -> None:
    """Refuse a time that the original refuses: SageMaker may not take such a point."""
    seconds = validation.timestamp_ns(timestamp) / 1e9
    if not -limits.METRIC_AGE_MAX_S <= seconds - time.time() <= limits.METRIC_AHEAD_MAX_S:
        raise InvalidInputError(
            f"Supplied timestamp {seconds:f} is invalid: it must be between two weeks before and "
            "two hours from now; nothing was recorded",
            hint="a step is step=; for older points use Tracker.log_metric",
        )
