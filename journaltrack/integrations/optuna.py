"""Log an Optuna study: ``study.optimize(…, callbacks=[callback])``.

For Optuna 3.0 or later. Needs no import of Optuna: its callbacks are any callables. Must not know
other frameworks.

One run records the study, and each trial is a point of its series: what a search found is seen in
one chart, and a search of 1,000 trials makes no 1,000 runs in SageMaker. With ``trial_runs=True``
each trial is a run of its own besides.

Invariant: a finished trial is recorded in one transaction, and once for each journal. The series
``state`` tells which are: a point is a trial, by its number and the time of its end. A study in a
storage knows its run, so a process that resumes the study resumes the run. It also records what a
killed process had finished and not recorded.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalError
from journaltrack.integrations.base import FrameworkRun, script_name
from journaltrack.integrations.loggers import Logs, is_rank_zero, prefixed, with_name
from journaltrack.tracking import validation

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from journaltrack.tracking.tracker import Tracker

RUN: Final = "journaltrack_run"
"""The user attribute of a study that names its run."""
_COMPLETE: Final = "COMPLETE"
_PRUNED: Final = "PRUNED"
_FAILED: Final = "FAIL"
_POINTS: Final = (
    "SELECT step, timestamp_ns FROM entry WHERE component_id = ? AND kind = 'metric' AND name = ?"
)


class TrialFailedError(Exception):
    """A trial failed. Optuna keeps no exception of it."""


class JournaltrackCallback(Logs):
    """Record the finished trials of a study, on rank zero.

    A trial's points have its number as their step, and the time of its end: ``value``, or the names
    of ``study.set_metric_names``, else ``value-0`` and so on for several objectives; ``best_value``
    for one; ``state`` (1 complete, 2 pruned, 3 failed); ``duration_s``; and each parameter as
    ``params/<name>``. A parameter that is no number is the index of its choice, and
    ``choices/<name>`` tells the choices. The last value of a pruned trial is ``value-pruned``.

    Use it as a ``with`` block: at the end of it, the table ``trials`` (with intermediate values and
    attributes) and the best trial are recorded. An exception makes the run Failed, and the trial
    that raised it is recorded: Optuna does not call callbacks for it. Without a block, all that is
    recorded when the process exits.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        prefix: The beginning of all names, such as ``"search/"``.
        trial_runs: Record each trial as a run besides: with its parameters and intermediate values,
            as Completed, Stopped (pruned) or Failed. Its name is that of the study's run and its
            number.
        options: Arguments of ``Tracker.create``. Without a name, the study's run is named after the
            study, and a study that is loaded from a storage resumes it, whatever ``resume`` is.
    """

    def __init__(
        self,
        *,
        tracker: Tracker | None = None,
        prefix: str = "",
        trial_runs: bool = False,
        **options: Any,
    ) -> None:
        # Without a name, `resume` is the study's affair: a study knows its run.
        self._is_named = tracker is not None or "trial_component_name" in options
        if not self._is_named:
            options.pop("resume", None)
        self._run = FrameworkRun(tracker, options)
        self._run.conclude = self._end_study
        self._options = options if tracker is None else _beside(tracker)
        self._prefix = prefix
        self._wants_trial_runs = trial_runs
        self._trial_runs: dict[int, FrameworkRun] = {}
        # Optuna calls from several threads (n_jobs).
        self._lock = threading.RLock()
        self._study: Any = None
        # As Optuna notes times.
        self._since = dt.datetime.now()  # noqa: DTZ005
        self._objectives: list[str] = []
        self._directions: list[str] = []
        self._recorded: set[tuple[int, int]] = set()
        self._best: float | None = None
        self._told_choices: set[str] = set()

    def __call__(self, study: Any, trial: Any) -> None:
        """Record a finished trial; at the first one, also those before that are not recorded."""
        with self._lock:
            if is_rank_zero():
                self._begin(study)
                self._record([trial])

    def tracker_of(self, trial: Any) -> Tracker:
        """Return the tracker of a trial's own run, to log with inside the objective.

        Args:
            trial: The objective's argument.

        Raises:
            InvalidInputError: There are no such runs, without ``trial_runs=True``.
        """
        if not self._wants_trial_runs:
            raise InvalidInputError(
                "the trials of this study have no runs of their own; nothing was recorded",
                hint="JournaltrackCallback(trial_runs=True)",
            )
        with self._lock:
            self._begin(trial.study)
            return self._run_of(trial).tracker

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Record the table and the best trial, end the run, and deliver."""
        try:
            self._end_study(error)
        finally:
            for run in self._trial_runs.values():
                run.end(error)
            self._trial_runs.clear()
            super().__exit__(kind, error, traceback)

    # -- inside ----------------------------------------------------------------------------

    def _end_study(self, error: BaseException | None) -> None:
        """Record the end of the study: of a block, or of the process without one."""
        try:
            with self._lock:
                if is_rank_zero():
                    self._conclude(error)
        # The storage may be what failed. That must not hide the exception that ended the block.
        except Exception as failure:  # noqa: BLE001
            self._run.leave_out("the end of the study", failure)

    def _begin(self, study: Any) -> None:
        """Learn of a study, and record the trials that this run lacks."""
        if self._study is study:
            return
        self._study = study
        known = self._name_run(study)
        names = getattr(study, "metric_names", None)
        self._directions = [each.name.lower() for each in study.directions]
        many = len(self._directions)
        self._objectives = names or (
            ["value"] if many == 1 else [f"value-{number}" for number in range(many)]
        )
        self._recorded, self._best = self._read(), None
        trials = _finished(study)
        # Of a run that the study knows, and this journal does not, another journal has the trials.
        is_elsewhere = known and not self._recorded
        for trial in trials:
            if is_elsewhere or _key(trial) in self._recorded:
                self._note_best(trial)
        if not is_elsewhere:
            self._record(trials)

    def _name_run(self, study: Any) -> bool:
        """Take the run that the study has, or tell it. Return whether it had one."""
        name = study.user_attrs.get(RUN)
        if not self._is_named and not self._run.is_made:
            if name is None:
                base = limits.suggested_name(study.study_name).lower()
                # Optuna's own name of a study without one tells nothing.
                if base.startswith("no-name-"):
                    base = script_name() or "study"
                options = {"base_trial_component_name": base, **self._options}
            else:
                options = {**with_name(self._options, name), "resume": True}
            self._run = FrameworkRun(None, options)
            self._run.conclude = self._end_study
        if name is None:
            try:
                study.set_user_attr(RUN, self._run.name)
            # A storage may raise anything. Without the name a later process makes another run.
            except Exception as error:  # noqa: BLE001
                self._run.leave_out("the run's name in the study", error)
        return bool(name == self._run.name)

    def _read(self) -> set[tuple[int, int]]:
        """Return the trials in the journal: their numbers and times."""
        component = self._run.tracker.trial_component
        database = component.journal.database
        names = (component.component_id, f"{self._prefix}state")
        try:
            with database.lock:
                return {(number, at_ns) for number, at_ns in database.read(_POINTS, names)}
        # Appending reports it. A trial may be recorded twice then.
        except JournalError:
            return set()

    def _has_failed(self, trial: Any) -> bool:
        """Return whether a trial failed since this was made."""
        at = trial.datetime_complete
        return trial.state.name == _FAILED and at is not None and at >= self._since

    def _record(self, trials: Iterable[Any]) -> None:
        """Record finished trials, but for those that the journal has."""
        for trial in trials:
            if _key(trial) in self._recorded:
                continue
            if self._wants_trial_runs:
                self._end_trial(trial)
            self._log_choices(trial)
            self._run.log_metrics(
                prefixed(self._prefix, self._points(trial)), trial.number, trial.datetime_complete
            )
            self._recorded.add(_key(trial))

    def _points(self, trial: Any) -> dict[str, Any]:
        """Return a trial's points by name."""
        points: dict[str, Any] = {"state": trial.state.value}
        if trial.duration is not None:
            points["duration_s"] = trial.duration.total_seconds()
        if trial.values is not None:
            suffix = "-pruned" if trial.state.name == _PRUNED else ""
            points |= {
                f"{name}{suffix}": value
                for name, value in zip(self._objectives, trial.values, strict=False)
            }
        self._note_best(trial)
        if self._best is not None:
            points["best_value"] = self._best
        for name, value in trial.params.items():
            choices = _choices(trial.distributions[name])
            points[f"params/{name}"] = value if choices is None else choices.index(value)
        return points

    def _note_best(self, trial: Any) -> None:
        """Note the value of a trial that is the best so far, of one objective."""
        if trial.state.name == _COMPLETE and len(self._objectives) == 1 and _is_feasible(trial):
            maximizes = self._directions == ["maximize"]
            if self._best is None or (trial.value > self._best) == maximizes:
                self._best = trial.value

    def _log_choices(self, trial: Any) -> None:
        """Record what the indices of a parameter mean, once for each."""
        for name, distribution in trial.distributions.items():
            choices = _choices(distribution)
            if choices is not None and name not in self._told_choices:
                self._told_choices.add(name)
                self._run.log_parameters({f"{self._prefix}choices/{name}": str(choices)})

    def _conclude(self, error: BaseException | None) -> None:
        """Record the trial that raised, the table of all trials, and the best."""
        if error is not None:
            # Also if it was the first trial: no callback was called.
            self._run.tracker.log_parameters({})
        study = self._study
        if study is None:
            return
        trials = _finished(study)
        if error is not None:
            # Optuna calls no callback for one that raised. Another process may have recorded it.
            self._recorded |= self._read()
            self._record(filter(self._has_failed, trials))
        if not trials:
            return
        # A study without a complete, feasible trial has no best one.
        try:
            best = study.best_trials if len(self._objectives) > 1 else [study.best_trial]
        except ValueError:
            best = []
        found: dict[str, Any] = {
            "study": study.study_name,
            "directions": ", ".join(self._directions),
            "best/trials": ", ".join(str(trial.number) for trial in best),
        }
        if len(best) == 1:
            found |= {f"best/{name}": value for name, value in best[0].params.items()}
            found |= dict(
                zip((f"best/{n}" for n in self._objectives), best[0].values, strict=False)
            )
        self._run.log_parameters(prefixed(self._prefix, found))
        rows = [self._row(trial) for trial in trials]
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        self._run.tracker.log_table(f"{self._prefix}trials", columns)

    def _row(self, trial: Any) -> dict[str, Any]:
        return {
            "number": trial.number,
            "state": trial.state.name,
            **dict(zip(self._objectives, trial.values or (), strict=False)),
            **prefixed("params/", trial.params),
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
            "intermediate_values": json.dumps(trial.intermediate_values),
            **prefixed("user_attrs/", trial.user_attrs),
        }

    # -- runs of trials --------------------------------------------------------------------

    def _run_of(self, trial: Any) -> FrameworkRun:
        """Return the run of a trial, which may be over already."""
        run = self._trial_runs.get(trial.number)
        if run is None:
            name = limits.with_end(self._run.name, f"-trial-{trial.number:05d}")
            run = FrameworkRun(None, {**with_name(self._options, name), "resume": True})
            self._trial_runs[trial.number] = run
        return run

    def _end_trial(self, trial: Any) -> None:
        """Record a finished trial in its run, and end that."""
        run, at = self._run_of(trial), trial.datetime_complete
        del self._trial_runs[trial.number]
        tracker = run.tracker
        if trial.datetime_start is not None:
            # Without a tracker in the objective the run is made when the trial is over.
            tracker.trial_component.start_time = trial.datetime_start
        run.log_parameters(trial.params)
        for step, value in trial.intermediate_values.items():
            run.log_metrics({"intermediate": value}, step, at)
        if trial.values is not None and trial.state.name == _COMPLETE:
            run.log_metrics(dict(zip(self._objectives, trial.values, strict=False)), None, at)
        run.log_parameters(prefixed("user_attrs/", trial.user_attrs))
        if trial.state.name == _PRUNED:
            run.stop(f"Optuna pruned the trial at step {trial.last_step}", at)
            tracker.close()
        elif trial.state.name == _FAILED:
            run.end(TrialFailedError("the trial failed; Optuna's log has the exception"))
        else:
            run.stop(None, at, status="Completed")
            tracker.close()


def _beside(tracker: Tracker) -> dict[str, Any]:
    """Return the arguments for runs beside that of a tracker."""
    settings = tracker._settings  # noqa: SLF001 - the package's own
    return {"journal": tracker.trial_component.journal, "sync": settings.sync}


def _finished(study: Any) -> list[Any]:
    """Return the trials of a study that are over."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _key(trial: Any) -> tuple[int, int]:
    """Return what tells a trial from another one of its number, of another study."""
    at = trial.datetime_complete
    return trial.number, 0 if at is None else validation.timestamp_ns(at)


def _choices(distribution: Any) -> list[Any] | None:
    """Return the choices of a parameter whose values are not all numbers; None of any other."""
    choices = getattr(distribution, "choices", None)
    if choices is None or all(isinstance(each, (int, float)) for each in choices):
        return None
    return list(choices)


def _is_feasible(trial: Any) -> bool:
    """Return whether a trial meets the study's constraints, if there are any."""
    # Until Optuna 5 they were a list of the sampler's.
    found = getattr(trial, "constraints", None) or trial.system_attrs.get("constraints") or ()
    return all(each <= 0 for each in (found.values() if hasattr(found, "values") else found))
