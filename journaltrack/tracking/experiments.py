"""Declare, change, list and search experiments and trials.

What is declared goes into the journal first. Then, unless delivery is off, a pass delivers it
within the time of a look-up, since jobs name experiments and trials that must be there. Without an
answer it waits for the next pass.

Lists and searches answer from the journal, and add what SageMaker says if it answers in time, by
the rules of ``catalog``. The journal knows those that were declared, and those that components were
put into.

Must not know boto3, or the API of any library that is stood in for.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import ComponentNotFoundError, InvalidInputError, InvalidTypeError
from journaltrack.journal import groups, vocabulary
from journaltrack.journal.groups import Declared, GroupKind, row_of
from journaltrack.journal.journal import SELECT_ENTRY, Journal
from journaltrack.journal.queries import origins
from journaltrack.tracking import catalog, search_rules, validation
from journaltrack.tracking.catalog import Source, has_parent, present
from journaltrack.tracking.recording import moment
from journaltrack.tracking.search_rules import Shape, in_sequence
from journaltrack.tracking.settings import (
    asked,
    attached,
    open_journal,
    replay_request,
)
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.util.guard import guarded

if TYPE_CHECKING:
    from journaltrack.journal.vocabulary import Draft, Entry
    from journaltrack.tracking.settings import ReplayRequest, Services, Settings

NAME: Final[Mapping[GroupKind, str]] = {"experiment": "ExperimentName", "trial": "TrialName"}
_ARN: Final[Mapping[GroupKind, str]] = {"experiment": "ExperimentArn", "trial": "TrialArn"}
_SUMMARIES: Final[Mapping[GroupKind, str]] = {
    "experiment": "ExperimentSummaries",
    "trial": "TrialSummaries",
}
_RESOURCES: Final[Mapping[GroupKind, tuple[str, str]]] = {
    "experiment": ("Experiment", "Experiment"),
    "trial": ("ExperimentTrial", "Trial"),
}
"""SageMaker's name of what is searched, and of what a result holds."""
_SILENCE_S: Final = 60.0
"""Ours: how long no delivery is tried after one without an answer."""
_silence = {"until_s": 0.0}
_GROUPING: Final = (
    f"{SELECT_ENTRY}WHERE e.stream <> 'metric' "
    "AND e.kind IN (SELECT value FROM json_each(?)) ORDER BY e.component_id, e.seq"
)


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """An experiment in a list."""

    experiment_name: str | None = None
    experiment_arn: str | None = None
    display_name: str | None = None
    creation_time: datetime | None = None
    last_modified_time: datetime | None = None
    experiment_source: Shape | None = None

    def __str__(self) -> str:
        """Return the name, so that other libraries take the summary for it."""
        return self.experiment_name or ""


@dataclass(frozen=True, slots=True)
class ExperimentSearchResult:
    """An experiment that a search found. As in the original, nested members are boto3's."""

    experiment_arn: str | None = None
    experiment_name: str | None = None
    display_name: str | None = None
    source: Shape | None = None
    tags: Any = None
    description: str | None = None
    creation_time: datetime | None = None
    created_by: Any = None
    last_modified_time: datetime | None = None
    last_modified_by: Any = None


@dataclass(frozen=True, slots=True)
class TrialSearchResult:
    """A trial that a search found. As in the original, nested members are boto3's."""

    trial_arn: str | None = None
    trial_name: str | None = None
    display_name: str | None = None
    source: Shape | None = None
    tags: Any = None
    trial_component_summaries: Any = None
    experiment_name: str | None = None
    creation_time: datetime | None = None
    created_by: Any = None
    last_modified_time: datetime | None = None
    last_modified_by: Any = None


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """A trial. Of one that only the journal knows, the name is known."""

    trial_name: str | None = None
    trial_arn: str | None = None
    display_name: str | None = None
    creation_time: datetime | None = None
    last_modified_time: datetime | None = None
    trial_source: Shape | None = None

    def __str__(self) -> str:
        """Return the name, so that other libraries take the summary for it."""
        return self.trial_name or ""


# -- recording ---------------------------------------------------------------------------------


def declare(
    source: Source,
    kind: GroupKind,
    name: str,
    *,
    experiment: str | None = None,
    display_name: str | None = None,
    description: str | None = None,
    tags: object = None,
) -> None:
    """Record an experiment or trial, or a change of it.

    Args:
        source: The journal to write to.
        kind: "experiment" or "trial".
        name: Its name.
        experiment: The experiment of a trial, which the replay creates if it is missing.
        display_name: The name that SageMaker shows.
        description: What an experiment is about.
        tags: Tags to add, as a dict or as AWS takes them.

    Raises:
        InvalidInputError: SageMaker could never take it. Nothing was recorded.
        InvalidTypeError: A value has the wrong type.
        JournalError: The journal can't be written.
    """
    validation.entity_name(name, f"{kind} name")
    if display_name is not None:
        display_name, _ = validation.display_name(display_name)
    description = validation.optional_text(description, "the description")
    checked = validation.tags(tags)
    if kind == "trial":
        experiment = validation.entity_name(experiment, "experiment name")
        draft = vocabulary.trial(experiment, name=name, display_name=display_name, tags=checked)
    else:
        draft = vocabulary.experiment(
            name=name, display_name=display_name, description=description, tags=checked
        )
    group = groups.Group(kind, name, experiment, display_name, description, tuple(checked.items()))
    if problem := groups.problem_of(group):
        raise InvalidInputError(f"{problem}; nothing was recorded")
    _record(source, lambda journal: journal.component(row_of(kind, name)), draft)


def join(source: Source, component: object, experiment: str | None, trial: str) -> None:
    """Record that a component belongs to a trial, and deliver it, unless an open tracker will.

    Args:
        source: The journal to write to, unless the component names its own.
        component: A tracker, a component, anything with a component's name, or the name.
        experiment: The trial's experiment. None: the trial must exist when this is delivered.
        trial: The trial's name.

    Raises:
        InvalidInputError: SageMaker could never take the component's name. Nothing was recorded.
        InvalidTypeError: It is nothing of these, such as None.
    """
    _move(source, component, vocabulary.associate(experiment=experiment, trial=trial))


def leave(source: Source, component: object, trial: str) -> None:
    """Record that a component no longer belongs to a trial; see ``join``."""
    _move(source, component, vocabulary.disassociate(trial))


def deliver(source: Source, row: str) -> None:
    """Deliver what is recorded of a row, within the time of a look-up.

    Never raises for the network. After an attempt without any answer, none is made for a while:
    a script that declares much must not wait for each of its calls.
    """
    settings = source.settings
    replay = _services().replay
    if settings.sync == "off" or replay is None or time.monotonic() < _silence["until_s"]:
        return
    request = _request(source, row, _look_up_s(settings), settings)
    failure = f"{row} was not delivered; its entries stay in the journal"
    began_s = time.monotonic()
    guarded(lambda: replay(request), failure, request.deadline, sends=True)
    if time.monotonic() - began_s >= request.deadline_s:
        _silence["until_s"] = time.monotonic() + _SILENCE_S


def ask(source: Source, operation: str, members: Shape) -> Mapping[str, Any]:
    """Make one request of SageMaker that can't wait for a replay.

    Raises:
        RemoteError: There is no answer, or a refusal.
    """
    settings = source.settings
    request = _request(source, "", settings.close_deadline_s, settings)
    return asked(_services().ask, request, operation, members)


def _record(source: Source, row: Callable[[Journal], int], draft: Draft) -> None:
    settings = source.settings
    opened, owned = open_journal(source.journal, settings, "raise")
    with contextlib.closing(opened) if owned else contextlib.nullcontext():
        opened.append(row(opened), [draft])


def _move(source: Source, component: object, draft: Draft) -> None:
    known = getattr(component, "trial_component", component)
    if isinstance(known, TrialComponent):
        # The tracker may have closed its journal.
        closed = known.journal.database.closed
        source = replace(source, journal=known.journal.path if closed else known.journal)
    name = getattr(known, "trial_component_name", known)
    # An object of another library may be one that has its name as text.
    if type(name).__str__ is object.__str__:
        raise InvalidTypeError(
            f"a trial component must be a tracker, a component or a name, not {type(name).__name__}"
            "; nothing was recorded"
        )
    text = str(name)
    _record(source, lambda journal: attached(journal, text).component_id, draft)
    # An open tracker delivers on close.
    if getattr(component, "closed", True):
        deliver(source, text.lower())


def _request(
    source: Source, component: str, deadline_s: float, settings: Settings
) -> ReplayRequest:
    return replay_request(source.folder, component, deadline_s, settings)


def _look_up_s(settings: Settings) -> float:
    return settings.configuration.lookup_deadline_s


def _services() -> Services:
    from journaltrack.tracking.tracker import Tracker  # noqa: PLC0415 - it imports trial_component

    return Tracker.services


# -- reading -----------------------------------------------------------------------------------


def load(source: Source, kind: GroupKind, name: str) -> dict[str, Any]:
    """Return an experiment or trial as boto3 describes it: SageMaker's, else the journal's.

    Without an answer, one that the journal does not know has its name alone.

    Raises:
        ComponentNotFoundError: SageMaker has none of that name, and neither has the journal.
    """
    validation.entity_name(name, f"{kind} name")
    settings = source.settings
    service = _services().ask
    answer: Mapping[str, Any] | None = None
    if service is not None and settings.sync != "off":
        request = _request(source, "", _look_up_s(settings), settings)
        members = {NAME[kind]: name}
        failure = f"SageMaker could not be asked for the {kind} {name}"
        answer = guarded(
            lambda: service(request, f"describe_{kind}", members), failure, request.deadline
        )
    with catalog.reading(source.journal) as journal:
        known = None if journal is None else _Reading(journal, kind).known.get(name.lower())
    if answer:
        return dict(answer) if known is None else {**answer, **known.pending}
    if known is not None and known.is_made:
        return known.shape
    if answer is None:
        return {NAME[kind]: name}
    raise ComponentNotFoundError(
        f"SageMaker has no {kind} {name}, and neither has the journal",
        hint=f"check name and region, or create the {kind}",
    )


def listed(source: Source, kind: GroupKind, members: Shape) -> Iterator[Any]:
    """Return an iterator over summaries of experiments or trials.

    Args:
        source: Where to look.
        kind: What to list.
        members: Of the request ListExperiments or ListTrials; None: not given.

    Raises:
        InvalidInputError: They can't be sorted so.
    """
    by = search_rules.checked(
        members.get("SortBy") or "CreationTime", ("Name", "CreationTime"), "sort_by"
    )
    order = catalog.order_of(members)
    before, after = catalog.bounds_of(members)
    component = str(members.get("TrialComponentName") or "").lower()

    def is_wanted(known: _Known) -> bool:
        """Return whether the request asks for it."""
        created = known.shape.get("CreationTime")
        return (
            (before is None or (created is not None and created <= before))
            and (after is None or (created is not None and created >= after))
            and has_parent([known.shape], "ExperimentName", members.get("ExperimentName"))
            and (not component or known.words.get(component, False))
        )

    def has_left(known: _Known) -> bool:
        """Return whether the component is to leave the trial, which SageMaker has not heard."""
        return not known.pending_words.get(component, True)

    def answers(settings: Settings) -> list[Shape] | None:
        """Return what SageMaker says; None without an answer."""
        return catalog.pages(source, settings, f"list_{kind}s", members, _SUMMARIES[kind])

    def results() -> Iterator[Any]:
        """Yield what both have, each once."""
        key = NAME[kind] if by == "Name" else by
        for shape in in_sequence(_both(source, kind, is_wanted, answers, has_left), key, order):
            yield catalog.made(ExperimentSummary if kind == "experiment" else TrialSummary, shape)

    return results()


def searched(
    source: Source,
    kind: GroupKind,
    expression: Any,  # noqa: ANN401 - the original's, or a dict
    members: Shape,
) -> Iterator[Any]:
    """Return an iterator over the experiments or trials that an expression fits.

    As ``catalog.search`` does for components.
    """
    wanted = search_rules.expression_of(expression)
    order = catalog.order_of(members)
    resource, item = _RESOURCES[kind]
    request = {**members, "Resource": resource, "SearchExpression": wanted or None}

    def answers(settings: Settings) -> list[Shape] | None:
        """Return what SageMaker says; None without an answer."""
        found = catalog.pages(source, settings, "search", request, "Results")
        return found and [each[item] for each in found if item in each]

    def results() -> Iterator[Any]:
        """Yield what both have, each once."""
        shapes = _both(source, kind, lambda known: search_rules.fits(wanted, known.shape), answers)
        kept = ExperimentSearchResult if kind == "experiment" else TrialSearchResult
        for shape in in_sequence(shapes, members.get("SortBy") or "LastModifiedTime", order):
            yield catalog.made(kept, shape)

    return results()


def _both(
    source: Source,
    kind: GroupKind,
    is_wanted: Callable[[_Known], bool],
    answers: Callable[[Settings], list[Shape] | None],
    has_left: Callable[[_Known], bool] = lambda _: False,
) -> list[Shape]:
    """Return SageMaker's, and those of the journal that are wanted, each once."""
    found = answers(source.settings)
    shapes = {str(each[NAME[kind]]).lower(): each for each in found or ()}
    with catalog.reading(source.journal) as journal:
        for name, known in _Reading(journal, kind).known.items() if journal is not None else ():
            if name not in shapes:
                if known.is_made and is_wanted(known):
                    shapes[name] = known.shape
            elif has_left(known):
                del shapes[name]
            else:
                shapes[name] = {**shapes[name], **known.pending}
    return [*shapes.values()]


@dataclass(slots=True)
class _Known:
    """What a journal knows of an experiment or trial.

    Attributes:
        shape: As boto3 describes it.
        pending: The same, of what is not delivered yet.
        words: By component in lower case: whether it is in the trial.
        pending_words: The same, of what is not delivered yet.
        is_made: Whether the journal's entries make it. Others only leave it.
    """

    shape: dict[str, Any]
    pending: dict[str, Any] = field(default_factory=dict)
    words: dict[str, bool] = field(default_factory=dict)
    pending_words: dict[str, bool] = field(default_factory=dict)
    is_made: bool = False


class _Reading:
    """What a journal knows of all experiments, or of all trials.

    Attributes:
        known: By name in lower case.
    """

    def __init__(self, journal: Journal, kind: GroupKind) -> None:
        self.known: dict[str, _Known] = {}
        self._journal = journal
        self._kind = kind
        self._origins = origins(journal.database.read)
        # Runs have many other entries.
        found = journal.database.read(_GROUPING, (json.dumps(sorted(groups.GROUPING)),))
        by_row: dict[str, list[Entry]] = defaultdict(list)
        for entry in map(vocabulary.entry_of, found):
            if groups.is_readable(entry):
                by_row[entry.component].append(entry)
        for name, entries in by_row.items():
            if groups.is_run(name):
                self._add_memberships(name.lower(), entries)
            else:
                row = journal.find(name)
                self._add_declarations(row and row.arn, entries)

    def _at(self, name: str, entries: Sequence[Entry], *, is_made: bool = True) -> _Known:
        """Return what is known by a name that these entries mention."""
        times = [entry.recorded_at_ns for entry in entries]
        seen = {
            NAME[self._kind]: name,
            "CreationTime": moment(min(times)),
            "LastModifiedTime": moment(max(times)),
        }
        known = self.known.setdefault(name.lower(), _Known(seen))
        known.is_made |= is_made
        return known

    def _add_declarations(self, arn: str | None, entries: Sequence[Entry]) -> None:
        told = groups.declared_by(entries, self._origins)
        if told.make.kind != self._kind:
            if told.make.experiment is not None:
                self._at(told.make.experiment, entries)
            return
        known = self._at(told.make.name, entries)
        known.shape |= present(**{_ARN[self._kind]: arn}) | _members(told)
        pending = self._pending(entries)
        if pending:
            known.pending |= _members(groups.declared_by(pending, self._origins))

    def _add_memberships(self, component: str, entries: Sequence[Entry]) -> None:
        pending = {entry.seq for entry in self._pending(entries)}
        for entry in groups.memberships(entries, self._origins).values():
            experiment, is_in = groups.membership_of(entry)[0], entry.kind == vocabulary.ASSOCIATE
            if self._kind == "experiment":
                if experiment is not None:
                    self._at(experiment, [entry])
                continue
            known = self._at(groups.trial_of(entry), [entry], is_made=is_in)
            known.shape |= present(ExperimentName=known.shape.get("ExperimentName") or experiment)
            known.words[component] = is_in
            if entry.seq in pending:
                known.pending_words[component] = is_in
            if is_in:
                told = known.shape.setdefault("TrialComponentSummaries", [])
                told.append({"TrialComponentName": component})

    def _pending(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return those of the entries that are not settled."""
        sql = "SELECT seq FROM delivery WHERE seq IN (SELECT value FROM json_each(?))"
        seqs = json.dumps([entry.seq for entry in entries])
        settled = {seq for (seq,) in self._journal.database.read(sql, (seqs,))}
        return [entry for entry in entries if entry.seq not in settled]


def _members(told: Declared) -> dict[str, Any]:
    """Return what declarations add up to, in boto3's words."""
    made = told.make
    return present(
        ExperimentName=made.experiment if made.kind == "trial" else made.name,
        DisplayName=made.display_name,
        Description=made.description,
        Tags=[{"Key": key, "Value": value} for key, value in made.tags] or None,
    )
