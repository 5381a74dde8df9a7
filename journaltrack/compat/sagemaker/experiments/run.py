"""Track a run: SageMaker Python SDK's ``Run``, before a journal.

The signatures are those of sagemaker 2.257. After a sync SageMaker holds what that ``Run`` would
have put there: the experiment, its run group (a trial), the run (a trial component) with its tags,
status, parameters, artifacts, points, and the lineage of its charts.

Each call goes to a ``Tracker`` of the run's component, which records it before it returns. Must not
know the reconciler, boto3 or SQL.

Invariants: the constructor and every ``log_*`` need no network. One run at a time is inside its
``with`` block, in all threads, as in the original.
"""

from __future__ import annotations

import logging
import operator
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from journaltrack import limits
from journaltrack.compat.sagemaker.experiments.session import (
    check_recent,
    checked_name,
    load_held,
    options_of,
    run_of_this_job,
    settings_for,
    source_of,
)
from journaltrack.errors import InvalidInputError, InvalidTypeError, RunContextError
from journaltrack.journal import groups, vocabulary
from journaltrack.tracking import catalog, search_rules, validation
from journaltrack.tracking.settings import closing_on_error, open_journal
from journaltrack.tracking.tracker import Tracker
from journaltrack.tracking.writers import warn, warn_of_creation

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Direction
    from journaltrack.tracking.recording import Recorder
    from journaltrack.tracking.trial_component import TrialComponent
    from journaltrack.tracking.validation import Moment, Number, Parameters

    Tags = Mapping[str, str] | Sequence[Mapping[str, str]]
    _Loaded = Literal["here", "by name"] | None
    Where = str | os.PathLike[str] | Journal

logger = logging.getLogger(__name__)

_SOURCE_TAG: Final = {"sagemaker:trial-component-source": "run"}
"""By it SageMaker's console and ``list_runs`` tell runs from other components."""
_INSIDE: Final = "Within a run context"


class SortByType(Enum):
    """What ``list_runs`` sorts by."""

    CREATION_TIME = "CreationTime"
    NAME = "Name"


class SortOrderType(Enum):
    """The order of ``list_runs``."""

    ASCENDING = "Ascending"
    DESCENDING = "Descending"


class _Block(NamedTuple):
    """An open block: how the run was loaded for it, its thread, and whether it ends the run."""

    loaded: _Loaded
    thread: int
    ends: bool


class _Context:
    """The runs whose ``with`` blocks are open, the innermost last. Threads share it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.runs: list[Run] = []

    @property
    def current(self) -> Run | None:
        """Return the run of the innermost block, or None."""
        return self.runs[-1] if self.runs else None

    def named(self, experiment: str, name: str, journal: Where | None) -> Run | None:
        """Return the run of these names in this journal, if its block is open."""
        found = (r for r in [*self.runs] if (r.experiment_name, r.run_name) == (experiment, name))
        return next((r for r in found if r._is_in(journal)), None)  # noqa: SLF001


_context: Final = _Context()


def _after_fork_in_child() -> None:
    # Another thread may have held it.
    _context.lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Run:
    """Record the parameters, metrics and artifacts of one run of an experiment.

    ``log_*`` works inside of ``with Run(...) as run:``. Leaving the outermost block ends the run:
    its status becomes Completed, Failed with the exception's message, or Stopped on Ctrl-C. A run
    that ended can be entered again.

    Args:
        experiment_name: Experiment of the run, in lower case. At most 59 characters.
        run_name: The run's name, in lower case; None for a new one. At most 59 characters.
        experiment_display_name: The name that SageMaker shows, if the experiment is new.
        run_display_name: The name that SageMaker shows, if the run is new.
        tags: Tags of the experiment, the run group and the run, if they are new.
        sagemaker_session: The SDK's session, or one of boto3, for the replay. None: a replay
            makes one.
        artifact_bucket: See ``Tracker.create``.
        artifact_prefix: See ``Tracker.create``.
        journal: See ``Tracker.create``.

    Raises:
        InvalidInputError: (a ValueError) A name or tag has an impossible value.
        JournalError: The journal can't be opened.
    """

    def __init__(
        self,
        experiment_name: str,
        run_name: str | None = None,
        experiment_display_name: str | None = None,
        run_display_name: str | None = None,
        tags: Tags | None = None,
        sagemaker_session: Any = None,  # noqa: ANN401 - the SDK's, or boto3's
        artifact_bucket: str | None = None,
        artifact_prefix: str | None = None,
        *,
        journal: Where | None = None,
        _loads: bool = False,
        _listed: str | None = None,
    ) -> None:
        options = options_of(sagemaker_session, artifact_bucket, artifact_prefix)
        if _listed is not None:
            self.experiment_name, self.run_name = experiment_name, str(run_name)
        else:
            self.experiment_name = checked_name(experiment_name, "experiment_name")
            # Eight digits: of a thousand nodes that start at once, some share the original's four.
            self.run_name = (
                checked_name(run_name, "run_name")
                if run_name
                else f"sagemaker-run-{int(time.time())}-{secrets.token_hex(4)}"
            )
        self.run_group_name = limits.default_trial(self.experiment_name)
        self._component_name = _listed or f"{self.experiment_name}-{self.run_name}"
        self._blocks: list[_Block] = []
        self._loaded: _Loaded = "by name" if _loads else None
        self._has_warned = False
        self._load = partial(Tracker.load, self._component_name, journal=journal, **options)
        self._journal: Journal | None = None
        self._tracker: Tracker | None = None
        if _listed is None:
            shown = experiment_display_name, run_display_name
            self._record(*shown, tags, options, journal)

    def _record(
        self,
        experiment_display_name: str | None,
        run_display_name: str | None,
        tags: Tags | None,
        options: Mapping[str, Any],
        journal: Where | None,
    ) -> None:
        """Record the run, its experiment and group, unless they are there."""
        # All of it is checked before anything is recorded.
        name = validation.entity_name(self._component_name, "experiment and run name")
        settings = settings_for(options)
        checked_tags = validation.tags(tags)
        validation.tags({**checked_tags, **_SOURCE_TAG})
        if run_display_name is not None:
            validation.display_name(run_display_name)
        shown, mended = None, None
        if experiment_display_name is not None:
            shown, mended = validation.display_name(experiment_display_name)
        resumed = (Tracker.services, name)
        opened, owned = open_journal(journal, settings, "buffer", resumed=resumed)
        with closing_on_error(opened, owned):
            if self._loaded:
                load_held(opened, name, settings)
            # Before the run: a replay at this moment would make both without them.
            if shown is not None or checked_tags:
                self._declare(opened, shown, checked_tags)
            self._tracker = Tracker.create(
                run_display_name,
                trial_component_name=name,
                resume=True,
                experiment_name=self.experiment_name,
                trial_name=self.run_group_name,
                tags={**checked_tags, **_SOURCE_TAG},
                journal=opened,
                **options,
            )
        self._journal = opened if owned else None
        if mended:
            warn_of_creation(mended)

    def _declare(self, journal: Journal, display_name: str | None, tags: dict[str, str]) -> None:
        """Record what the experiment and the run group get if they are new."""
        experiment, group = self.experiment_name, self.run_group_name
        drafts = {
            groups.row_of("experiment", experiment): vocabulary.experiment(
                name=experiment, display_name=display_name, tags=tags, if_new=True
            ),
            groups.row_of("trial", group): vocabulary.trial(
                experiment, name=group, tags=tags, if_new=True
            ),
        }
        for row, draft in drafts.items():
            journal.append(journal.component(row), [draft])

    @property
    def experiment_config(self) -> dict[str, str]:
        """Return the experiment's configuration, as ``estimator.fit`` takes it."""
        return {
            "ExperimentName": self.experiment_name,
            "TrialName": self.run_group_name,
            "RunName": self._component_name,
        }

    # -- logging ---------------------------------------------------------------------------

    def log_parameter(self, name: str, value: str | float) -> None:
        """Record a parameter; see ``Tracker.log_parameter``.

        Raises:
            RunContextError: (a RuntimeError) The run is not inside its ``with`` block. So do all
                other ``log_*`` methods. Nothing was recorded.
        """
        self._inside().log_parameter(name, value)

    def log_parameters(self, parameters: Parameters) -> None:
        """Record parameters, all or none; see ``Tracker.log_parameters``."""
        self._inside().log_parameters(parameters)

    def log_metric(
        self,
        name: str,
        value: Number,
        timestamp: Moment | None = None,
        step: int | None = None,
    ) -> None:
        """Record one point of a metric; see ``Tracker.log_metric``.

        Raises:
            InvalidInputError: (a ValueError) ``step`` is no integer, or ``timestamp`` is more than
                two weeks ago or two hours ahead. Nothing was recorded.
        """
        tracker = self._inside()
        if step is not None:
            try:
                operator.index(step)
            except TypeError as error:
                raise InvalidInputError(
                    f"step must be int, not {type(step).__name__}; nothing was recorded"
                ) from error
        if timestamp is not None:
            check_recent(timestamp)
        tracker.log_metric(name, value, timestamp, step)

    def log_precision_recall(
        self,
        y_true: Any,  # noqa: ANN401 - lists, and arrays of any library
        predicted_probabilities: Any,  # noqa: ANN401
        positive_label: str | int | None = None,
        title: str | None = None,
        is_output: bool = True,
        no_skill: float | None = None,
    ) -> None:
        """Record a precision-recall curve; see ``Tracker.log_precision_recall``."""
        self._inside().log_precision_recall(
            y_true, predicted_probabilities, positive_label, title, is_output, no_skill
        )

    def log_roc_curve(
        self,
        y_true: Any,  # noqa: ANN401 - lists, and arrays of any library
        y_score: Any,  # noqa: ANN401
        title: str | None = None,
        is_output: bool = True,
    ) -> None:
        """Record a ROC curve; see ``Tracker.log_roc_curve``."""
        self._inside().log_roc_curve(y_true, y_score, title, is_output)

    def log_confusion_matrix(
        self,
        y_true: Any,  # noqa: ANN401 - lists, and arrays of any library
        y_pred: Any,  # noqa: ANN401
        title: str | None = None,
        is_output: bool = True,
    ) -> None:
        """Record a confusion matrix; see ``Tracker.log_confusion_matrix``."""
        self._inside().log_confusion_matrix(y_true, y_pred, title, is_output)

    def log_artifact(
        self, name: str, value: str, media_type: str | None = None, is_output: bool = True
    ) -> None:
        """Record a reference, such as a URI, as an output or input; nothing is uploaded."""
        tracker = self._inside()
        log = tracker.log_output if is_output else tracker.log_input
        log(name, value, media_type)

    def log_file(
        self,
        file_path: str | os.PathLike[str],
        name: str | None = None,
        media_type: str | None = None,
        is_output: bool | None = True,
        extra_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a local file as an output or input, with its bytes as they are now.

        As in the original, its key in S3 ends in the file's own name, and it has no lineage.

        Args:
            file_path: A regular file.
            name: The artifact's name; None for the file's name.
            media_type: The media type; None to guess it from the file's suffix.
            is_output: Whether the run produced it. False: it used it.
            extra_args: Not used, with a warning: encryption is configured (``encryption``,
                ``kms_key``).

        Raises:
            ArtifactError: (a ValueError) The file is missing, no regular file, or keeps changing.
        """
        self._inside()
        given: object = extra_args
        if not isinstance(given, (Mapping, type(None))):
            kind = type(given).__name__
            raise InvalidTypeError(f"extra_args must be a dict, not {kind}; nothing was recorded")
        direction: Direction = "output" if is_output else "input"
        self._recorder().file(direction, file_path, name, media_type)
        if extra_args and not self._has_warned:
            self._has_warned = True
            warn(
                f"extra_args of log_file are not sent ({', '.join(map(str, extra_args))}): the "
                "configuration says how files are stored (`journaltrack config`)"
            )

    # -- life ------------------------------------------------------------------------------

    def close(self) -> None:
        """Deliver what was logged, within a deadline; see ``Tracker.close``."""
        if self._tracker is not None:
            self._tracker.close()
            self._rest()

    def __enter__(self) -> Run:  # noqa: PYI034 - the original's signature
        with _context.lock:
            loaded, thread = self._loaded, threading.get_ident()
            is_nested = loaded == "here" and ("here", thread) in [b[:2] for b in self._blocks]
            if is_nested or (loaded is None and _context.current):
                what = "load_run" if loaded else "Run"
                raise RunContextError(
                    f"It is not allowed to use nested 'with' statements on the {what}.",
                    hint="load_run() returns the run of the block that you are in",
                )
            ends = not any(block.ends for block in self._blocks)
            self._blocks.append(_Block(loaded, thread, ends))
            _context.runs.append(self)
        if ends:
            try:
                self._tracking().__enter__()
                self._recorder().status(vocabulary.status(message=_INSIDE))
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside()
        # An inner block delivers nothing: training goes on, and must not wait for the network.
        if self._leave():
            self._tracking().__exit__(kind, error, traceback)
            self._rest()
        elif not self._blocks:
            # Of a thread that logged on after the run's end.
            self.close()

    def __getstate__(self) -> Any:  # noqa: ANN401 - it never returns
        """Refuse to be pickled, as the original does.

        Raises:
            NotImplementedError: Always.
        """
        msg = "Instance of Run type is not allowed to be pickled."
        raise NotImplementedError(msg)

    def __repr__(self) -> str:
        return f"Run({self.experiment_name!r}, {self.run_name!r})"

    # -- inside ----------------------------------------------------------------------------

    @property
    def _trial_component(self) -> TrialComponent:
        """Return the run's component. Not public in the original either, but used by scripts."""
        return self._tracking().trial_component

    def _tracking(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._load()
        return self._tracker

    def _recorder(self) -> Recorder:
        return cast("Recorder", self._trial_component.recorder)

    def _inside(self) -> Tracker:
        """Return the tracker of a run that is inside of its block."""
        if not self._blocks:
            raise RunContextError(
                "This method should be called inside context of 'with' statement. Nothing was "
                "recorded.",
                hint="with Run(...) as run: run.log_parameter(...)",
            )
        return self._tracking()

    def _leave(self) -> bool:
        """Leave this thread's innermost block, and return whether the run ends with it."""
        thread = threading.get_ident()
        with _context.lock:
            mine = [place for place, block in enumerate(self._blocks) if block.thread == thread]
            left = self._blocks.pop(mine[-1] if mine else -1)
            # From the end: of two blocks of one run, the inner one ends first.
            runs = _context.runs
            del runs[len(runs) - 1 - runs[::-1].index(self)]
            if not self._blocks:
                self._loaded = None
            return left.ends

    def _is_in(self, journal: Where | None) -> bool:
        """Return whether the run is recorded in this journal."""
        return bool(self._trial_component.journal.path == catalog.Source(journal).folder)

    def _rest(self) -> None:
        """Release the journal's files. The next use opens them again."""
        if self._journal is not None:
            try:
                self._journal.rest()
            except Exception:
                # Everything is on the disk by now.
                logger.debug("the journal of %r stays open", self, exc_info=True)


def load_run(
    run_name: str | None = None,
    experiment_name: str | None = None,
    sagemaker_session: Any = None,  # noqa: ANN401 - the SDK's, or boto3's
    artifact_bucket: str | None = None,
    artifact_prefix: str | None = None,
    tags: Tags | None = None,
    *,
    journal: Where | None = None,
) -> Run:
    """Return a run to log more to, for a ``with`` block.

    With both names: that run, which is created if it does not exist. Else the run whose block this
    is in. Else the run of the SageMaker job that this process runs in, for which SageMaker is
    asked. Of a run whose block this is in, it is the same object, unless another bucket or prefix
    is given.

    A run that the journal does not know is looked up in SageMaker, within ``lookup_deadline_s``.

    Args:
        run_name: The run's name.
        experiment_name: The experiment's; not used without ``run_name``.
        sagemaker_session: See ``Run``.
        artifact_bucket: See ``Run``.
        artifact_prefix: See ``Run``.
        tags: See ``Run``.
        journal: See ``Run``.

    Raises:
        InvalidInputError: (a ValueError) ``run_name`` is given without ``experiment_name``.
        RunContextError: (a RuntimeError) There is no such block, and no job with a run.
    """
    if run_name and not experiment_name:
        raise InvalidInputError(
            "Invalid input: experiment_name is missing when run_name is supplied",
            hint="load_run(run_name=..., experiment_name=...)",
        )
    run: Run | None = _context.current
    if run_name:
        names = checked_name(experiment_name, "experiment_name"), checked_name(run_name, "run_name")
        given = artifact_bucket or artifact_prefix
        run = None if given else _context.named(*names, journal)
    if run is None:
        if not run_name:
            experiment_name, run_name = run_of_this_job(sagemaker_session, journal)
        return Run(
            cast("str", experiment_name),
            run_name,
            tags=tags,
            sagemaker_session=sagemaker_session,
            artifact_bucket=artifact_bucket,
            artifact_prefix=artifact_prefix,
            journal=journal,
            _loads=True,
        )
    run._loaded = "by name" if run_name else "here"  # noqa: SLF001 - this module's own
    return run


def list_runs(
    experiment_name: str,
    created_before: datetime | None = None,
    created_after: datetime | None = None,
    sagemaker_session: Any = None,  # noqa: ANN401 - the SDK's, or boto3's
    max_results: int | None = None,
    next_token: str | None = None,
    sort_by: SortByType = SortByType.CREATION_TIME,
    sort_order: SortOrderType = SortOrderType.DESCENDING,
    *,
    journal: Where | None = None,
) -> list[Run]:
    """Return the runs of an experiment: the journal's, and SageMaker's if it answers in time.

    Nothing is recorded, and nothing is created.

    Args:
        experiment_name: The experiment.
        created_before: Only runs created before this time.
        created_after: Only runs created after this time.
        sagemaker_session: See ``Run``.
        max_results: SageMaker's page size. As in the original, all pages are read.
        next_token: Where SageMaker's answer begins.
        sort_by: What to sort by.
        sort_order: In which order.
        journal: See ``Run``.

    Raises:
        InvalidInputError: (a ValueError) An argument has an impossible value.
        InvalidTypeError: (a TypeError) An argument has the wrong type.
    """
    experiment_name = checked_name(experiment_name, "experiment_name")
    wanted = {"Parents.ExperimentName": experiment_name}
    wanted |= {f"Tags.{key}": value for key, value in _SOURCE_TAG.items()}
    filters = [
        {"Name": name, "Operator": "Equals", "Value": value} for name, value in wanted.items()
    ]
    # A value itself is taken as well.
    by, order = (str(getattr(given, "value", given)) for given in (sort_by, sort_order))
    search_rules.checked(by, tuple(each.value for each in SortByType), "sort_by")
    before, after = catalog.bounds_of(
        {"CreatedBefore": created_before, "CreatedAfter": created_after}
    )
    members = {
        "SortBy": "TrialComponentName" if by == SortByType.NAME.value else by,
        "SortOrder": order,
        "MaxResults": max_results,
        "NextToken": validation.optional_text(next_token, "next_token"),
    }
    source = source_of(sagemaker_session, journal)
    names = [
        str(found)
        for found in catalog.search(source, {"Filters": filters}, members)
        if _is_between(search_rules.utc(found.creation_time), after, before)
    ]
    return [
        Run(
            experiment_name,
            name.removeprefix(f"{experiment_name}-"),
            sagemaker_session=sagemaker_session,
            journal=journal,
            _listed=name,
        )
        for name in names
    ]


def _is_between(at: datetime | None, after: datetime | None, before: datetime | None) -> bool:
    """Return whether a time is between two others. All have a zone."""
    if at is None:
        return after is None and before is None
    return (after is None or after <= at) and (before is None or at <= before)
