"""Sum up the requests that a sync would make, per component.

Invariants: contacts nobody, changes nothing. Memory grows with the names of parameters, artifacts
and metrics, not with entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from journaltrack.app.composition import check_size
from journaltrack.cli import output, tables
from journaltrack.errors import RemoteError
from journaltrack.journal import view
from journaltrack.journal.filter import check_buckets
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import OWN_LABEL
from journaltrack.remotes.allow import Rules
from journaltrack.replay import reconciler
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.proof import Proof
from journaltrack.replay.plan.actions import (
    Action,
    AddTags,
    Associate,
    Declare,
    Disassociate,
    Ensure,
    Link,
    PutMetrics,
    PutPoints,
    Request,
    Settle,
    Update,
    Upload,
)
from journaltrack.replay.remote import SAGEMAKER
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.errors import JournalAlteredError
    from journaltrack.replay.reconciler import Options
    from journaltrack.replay.remote import Capabilities
    from journaltrack.util.config import AllowConfiguration

_NAMES_MAX: Final = 20
_MODES: Final = {
    "create": "create it",
    "resume": "create it, or attach to it if it exists",
    "load": "check whether it exists",
    "job": "check whether its job created it",
}


@dataclass(slots=True)
class ComponentPlan:
    """Say what would be sent for one component.

    Attributes:
        component: Its name.
        entries: How many entries these requests settle.
        requests: How many, by action.
        ensure: How the sync makes sure that it exists: "create", "resume", "load" or "job";
            None if it is known to exist.
        trials: (experiment, trial) pairs to associate it with.
        left: Trials to take it out of.
        declared: What would be set, of a row that stands for an experiment or trial.
        uploads: Bytes by artifact name.
        lineage: Names of lineage artifacts.
        keys: Names by "parameters", "input_artifacts" or "output_artifacts".
        status: Whether its status or times would be set.
        metrics: Points by metric.
        without_request: Entries settled without a request, by outcome and reason.
        refused: Requests that ``[allow]`` in the configuration forbids, by reason.
    """

    component: str
    entries: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    ensure: str | None = None
    trials: list[tuple[str | None, str | None]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    declared: dict[str, Any] | None = None
    uploads: dict[str, int] = field(default_factory=dict)
    lineage: list[str] = field(default_factory=list)
    keys: dict[str, dict[str, None]] = field(default_factory=dict)
    status: bool = False
    metrics: Counter[str] = field(default_factory=Counter)
    without_request: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as ``--json`` prints it."""
        return {
            "component": self.component,
            "entries": self.entries,
            "requests": dict(self.requests),
            "ensure": self.ensure,
            "trials": [
                {"experiment": experiment, "trial": trial} for experiment, trial in self.trials
            ],
            "left_trials": self.left,
            "declared": self.declared,
            "uploads": [{"name": name, "size_bytes": size} for name, size in self.uploads.items()],
            "lineage": self.lineage,
            "parameters": list(self.keys.get("parameters", ())),
            "input_artifacts": list(self.keys.get("input_artifacts", ())),
            "output_artifacts": list(self.keys.get("output_artifacts", ())),
            "status": self.status,
            "metrics": dict(self.metrics),
            "without_request": dict(self.without_request),
            "refused": dict(self.refused),
        }


def plans(
    journal: str | None,
    options: Options,
    allow: AllowConfiguration,
    instead: Mapping[str, str],
    can: Capabilities = SAGEMAKER,
) -> tuple[str, list[ComponentPlan], JournalAlteredError | None]:
    """Return the journal's path, the plans, and why a sync would not send all.

    Args:
        journal: Its folder; None: the default journal.
        options: Of the sync.
        allow: What may be delivered.
        instead: Buckets to upload to, by the bucket that each replaces.
        can: What the remote can do.

    Raises:
        NothingMatchesError: The journal has no such component, or nothing for one of the buckets.
        JournalBehindError: A merge into the journal was killed.
        JournalError: The journal can't be read.
    """
    rules = Rules(allow, instead)
    check_size(paths.default_journal() if journal is None else paths.expanded(journal), allow)
    opened = Journal.open(journal, create=False, read_only=True)
    try:
        view.matching(opened, options.component)
        check_buckets(opened, instead)
        if not options.even_if_behind:
            taken.refuse_unfinished(opened.database)
        names = {row.id: row.name for row in opened.components()}
        found: dict[int, ComponentPlan] = {}
        proof = Proof(opened.database)
        with view.snapshot(opened.database):
            for action in reconciler.dry_run(opened, options, proof, can):
                plan = found.setdefault(
                    action.component_id, ComponentPlan(names.get(action.component_id, ""))
                )
                _add(plan, action, rules)
        return str(opened.path), list(found.values()), None if options.unproved else proof.altered
    finally:
        opened.close()


def print_plans(path: str, found: list[ComponentPlan]) -> None:
    """Print the plans as lines."""
    requests = sum(sum(plan.requests.values()) for plan in found)
    entries = sum(plan.entries for plan in found)
    output.say(
        f"{output.clean(path)}: would make {output.plural(requests, 'request')} for "
        f"{output.plural(entries, 'entry')}; nothing was sent"
    )
    for plan in found:
        rows = [
            (
                f"  {action}",
                f"{output.plural(count, 'request'):<14}  {_described(plan, action)}".rstrip(),
            )
            for action, count in plan.requests.items()
        ]
        rows += [
            ("  refused", f"{output.plural(count, 'request'):<14}  {why}")
            for why, count in plan.refused.items()
        ]
        rows += [
            ("  no request", f"{output.plural(count, 'entry'):<14}  {why}")
            for why, count in plan.without_request.items()
        ]
        output.say(output.clean(plan.component))
        tables.fields(rows)


def _add(plan: ComponentPlan, action: Action, rules: Rules) -> None:
    plan.entries += len(action.seqs)
    if isinstance(action, Settle):
        plan.without_request[f"{action.outcome}: {action.reason}"] += len(action.seqs)
        return
    if isinstance(action, Ensure) and plan.ensure is not None:
        # The plan of a later chunk does not know that an earlier one makes the component.
        return
    plan.requests[action.action] += 1
    try:
        _look_at(plan.component, action, rules)
    except RemoteError as refusal:
        plan.refused[refusal.message] += 1
    _note(plan, action)


def _note(plan: ComponentPlan, action: Request) -> None:
    """Note what a request would send."""
    if isinstance(action, Ensure):
        plan.ensure = action.mode
    elif isinstance(action, Associate):
        plan.trials.append((action.experiment, action.trial))
    elif isinstance(action, Disassociate):
        plan.left.append(action.trial)
    elif isinstance(action, AddTags):
        # What begins so is a document, which nobody reads here.
        plan.tags.update(
            {k: "…" if k.startswith(OWN_LABEL) else v or "" for k, v in action.tags.items()}
        )
    elif isinstance(action, Declare):
        plan.declared = _settings(action)
    elif isinstance(action, Upload):
        plan.uploads[action.name] = action.size_bytes
    elif isinstance(action, Link):
        plan.lineage.append(action.name)
    elif isinstance(action, PutMetrics):
        plan.metrics.update(point.name for point in action.points)
    else:
        _add_changes(plan, action)


def _settings(action: Declare) -> dict[str, Any]:
    """Return what a new experiment or trial would get."""
    made = action.declared.make
    given = {
        "experiment": made.experiment,
        "display_name": made.display_name,
        "description": made.description,
        "tags": dict(made.tags) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _add_changes(plan: ComponentPlan, action: Update) -> None:
    for change in action.changes:
        if change.map == "status":
            plan.status = True
        else:
            plan.keys.setdefault(change.map, {})[change.key] = None


def _look_at(component: str, action: Action, rules: Rules) -> None:
    """Raise ``RemoteError`` for a request that is not allowed."""
    if isinstance(action, Declare):
        rules.group(action.declared.make)
        return
    # Looking needs no permission.
    if not isinstance(action, Ensure) or action.mode in {"create", "resume"}:
        rules.component(component)
    if isinstance(action, Associate):
        rules.association(action.experiment, action.trial)
    elif isinstance(action, Disassociate):
        rules.association(None, action.trial)
    elif isinstance(action, Link):
        rules.place(action.blob.bucket, action.blob.prefix)
    elif isinstance(action, Upload):
        rules.place(action.blob.bucket, action.blob.prefix)
        rules.artifact(action.name, action.size_bytes)


def _described(plan: ComponentPlan, action: str) -> str:
    if action == Ensure.action:
        return _MODES.get(plan.ensure or "", "")
    if action == Associate.action:
        return ", ".join(
            f"trial {trial or '(default)'} of experiment {experiment or '(any)'}"
            for experiment, trial in plan.trials
        )
    if action == Disassociate.action:
        return f"out of {_few(plan.left)}"
    if action == AddTags.action:
        return _few([f"{key}={value}" for key, value in plan.tags.items()])
    if action == Declare.action:
        return _few([*(plan.declared or ())])
    if action == Upload.action:
        return _few([f"{name} ({output.size(size)})" for name, size in plan.uploads.items()])
    if action == Link.action:
        return _few(plan.lineage)
    if action in {PutMetrics.action, PutPoints.action}:
        return _few([f"{name} {count}" for name, count in plan.metrics.items()])
    parts = [
        f"{field_map.replace('_', ' ')}: {_few(list(keys))}"
        for field_map, keys in plan.keys.items()
    ]
    return "; ".join([*parts, *(["status"] if plan.status else [])])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more
