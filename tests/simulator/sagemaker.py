"""The experiment operations of SageMaker, on the simulated account.

What it is: one method per operation; takes checked members, changes the state, gives the output.
It must not know: HTTP, credentials, which faults are scheduled.
Invariant: an operation that raises has changed nothing.

Deletes are refused while something holds the thing, as the reference says of each. It names no
error for that: ValidationException is what AWS answers where it declares nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.simulator.answers import (
    TAGS_MAX,
    Operations,
    Output,
    Params,
    existing,
    invalid,
    listed,
    present,
    tag_list,
    tags_of,
    times,
)
from tests.simulator.auth import ACCOUNT
from tests.simulator.lineage import forget_associations, lineage_group_arn, source_type
from tests.simulator.metrics import metric_summaries
from tests.simulator.state import Artifact, Component, Experiment, State, Trial
from tests.simulator.wire import ServiceError

_PARAMETERS_MAX = 300
_ARTIFACTS_MAX = 60
_KINDS = {
    "Trial Component": "experiment-trial-component",
    "Experiment": "experiment",
    "Trial": "experiment-trial",
}
# attribute, member of the request, members to remove, most that AWS keeps
_MAPS = (
    ("parameters", "Parameters", "ParametersToRemove", _PARAMETERS_MAX),
    ("input_artifacts", "InputArtifacts", "InputArtifactsToRemove", _ARTIFACTS_MAX),
    ("output_artifacts", "OutputArtifacts", "OutputArtifactsToRemove", _ARTIFACTS_MAX),
)
_BY_NAME: Mapping[str, Callable[[Any], str]] = {"Name": lambda item: item.name}


class SageMaker:
    """The service; the caller holds the lock."""

    def __init__(self, state: State, region: str, clock: Callable[[], float]) -> None:
        self._state, self._region, self._clock = state, region, clock
        self.operations: Operations = {
            "CreateTrialComponent": self._create_component,
            "UpdateTrialComponent": self._update_component,
            "DescribeTrialComponent": self._describe_component,
            "ListTrialComponents": self._list_components,
            "DeleteTrialComponent": self._delete_component,
            "CreateExperiment": self._create_experiment,
            "UpdateExperiment": self._update_experiment,
            "DescribeExperiment": self._describe_experiment,
            "ListExperiments": self._list_experiments,
            "DeleteExperiment": self._delete_experiment,
            "CreateTrial": self._create_trial,
            "UpdateTrial": self._update_trial,
            "DescribeTrial": self._describe_trial,
            "ListTrials": self._list_trials,
            "DeleteTrial": self._delete_trial,
            "AssociateTrialComponent": self._associate,
            "DisassociateTrialComponent": self._disassociate,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }

    def add_component(self, name: str, source_arn: str | None = None) -> Component:
        """Create a component as SageMaker itself does for a job."""
        now = self._now()
        component = Component(
            name, self._arn("Trial Component", name), name, now, now, source_arn=source_arn
        )
        self._state.components[name] = component
        return component

    def _create_component(self, params: Params) -> Output:
        name = params["TrialComponentName"]
        _must_be_new("Trial Component", name, self._state.components)
        _check_values(params)
        now = self._now()
        component = Component(
            name=name,
            arn=self._arn("Trial Component", name),
            display_name=params.get("DisplayName") or name,
            created=now,
            modified=now,
            metadata_properties=dict(params.get("MetadataProperties") or {}),
            tags=tags_of(params),
        )
        _merge(component, params)
        self._state.components[name] = component
        return {"TrialComponentArn": component.arn}

    def _update_component(self, params: Params) -> Output:
        component = self._component(params["TrialComponentName"])
        _check_values(params)
        _merge(component, params)
        component.display_name = params.get("DisplayName") or component.display_name
        component.modified = self._now()
        return {"TrialComponentArn": component.arn}

    def _describe_component(self, params: Params) -> Output:
        return component_record(
            self._component(params["TrialComponentName"].rpartition("/")[2]), self._region
        )

    def _list_components(self, params: Params) -> Output:
        filters = ("ExperimentName", "SourceArn", "TrialName")
        if sum(params.get(name) is not None for name in filters) > 1:
            # "You can also filter on one of the following", says the reference.
            message = f"Only one of {', '.join(filters)} can be given"
            raise invalid(message)
        found = list(self._state.components.values())
        if name := params.get("TrialName"):
            wanted = set(self._trial(name).components)
            found = [item for item in found if item.name.lower() in wanted]
        if name := params.get("ExperimentName"):
            trials = self._trials_of(self._experiment(name))
            wanted = {component for trial in trials for component in trial.components}
            found = [item for item in found if item.name.lower() in wanted]
        if source := params.get("SourceArn"):
            found = [item for item in found if item.source_arn == source]
        return listed(params, found, "TrialComponentSummaries", _component_summary, _BY_NAME)

    def _delete_component(self, params: Params) -> Output:
        component = self._component(params["TrialComponentName"])
        holding = [trial.name for trial in self._trials_with(component)]
        if holding:
            raise _held("Trial Component", component.name, "trials", holding)
        forget_associations(self._state, component.arn)
        del self._state.components[component.name]
        return {"TrialComponentArn": component.arn}

    def _create_experiment(self, params: Params) -> Output:
        name = params["ExperimentName"]
        _must_be_new("Experiment", name, self._state.experiments)
        now = self._now()
        experiment = Experiment(
            name=name,
            arn=self._arn("Experiment", name),
            display_name=params.get("DisplayName") or name,
            created=now,
            modified=now,
            description=params.get("Description"),
            tags=tags_of(params),
        )
        self._state.experiments[name] = experiment
        return {"ExperimentArn": experiment.arn}

    def _update_experiment(self, params: Params) -> Output:
        item = self._experiment(params["ExperimentName"])
        item.display_name = params.get("DisplayName") or item.display_name
        if params.get("Description") is not None:
            item.description = params["Description"]
        item.modified = self._now()
        return {"ExperimentArn": item.arn}

    def _describe_experiment(self, params: Params) -> Output:
        return experiment_record(self._experiment(params["ExperimentName"]))

    def _list_experiments(self, params: Params) -> Output:
        found = list(self._state.experiments.values())
        return listed(params, found, "ExperimentSummaries", _experiment_summary, _BY_NAME)

    def _delete_experiment(self, params: Params) -> Output:
        experiment = self._experiment(params["ExperimentName"])
        holding = [trial.name for trial in self._trials_of(experiment)]
        if holding:
            raise _held("Experiment", experiment.name, "trials", holding)
        forget_associations(self._state, experiment.arn)
        del self._state.experiments[experiment.name]
        return {"ExperimentArn": experiment.arn}

    def _create_trial(self, params: Params) -> Output:
        name = params["TrialName"]
        experiment = self._experiment(params["ExperimentName"])
        _must_be_new("Trial", name, self._state.trials)
        now = self._now()
        trial = Trial(
            name=name,
            arn=self._arn("Trial", name),
            display_name=params.get("DisplayName") or name,
            created=now,
            modified=now,
            experiment=experiment.name,
            metadata_properties=dict(params.get("MetadataProperties") or {}),
            tags=tags_of(params),
        )
        self._state.trials[name] = trial
        return {"TrialArn": trial.arn}

    def _update_trial(self, params: Params) -> Output:
        item = self._trial(params["TrialName"])
        item.display_name = params.get("DisplayName") or item.display_name
        item.modified = self._now()
        return {"TrialArn": item.arn}

    def _describe_trial(self, params: Params) -> Output:
        return trial_record(self._trial(params["TrialName"]))

    def _list_trials(self, params: Params) -> Output:
        found = list(self._state.trials.values())
        if name := params.get("ExperimentName"):
            found = self._trials_of(self._experiment(name))
        if name := params.get("TrialComponentName"):
            holding = self._trials_with(self._component(name))
            found = [item for item in found if item in holding]
        return listed(params, found, "TrialSummaries", _trial_summary, _BY_NAME)

    def _delete_trial(self, params: Params) -> Output:
        trial = self._trial(params["TrialName"])
        if trial.components:
            raise _held("Trial", trial.name, "trial components", trial.components)
        del self._state.trials[trial.name]
        return {"TrialArn": trial.arn}

    def _associate(self, params: Params) -> Output:
        component = self._component(params["TrialComponentName"])
        trial = self._trial(params["TrialName"])
        if component.name.lower() not in trial.components:
            trial.components.append(component.name.lower())
        return {"TrialComponentArn": component.arn, "TrialArn": trial.arn}

    def _disassociate(self, params: Params) -> Output:
        component = self._component(params["TrialComponentName"])
        trial = self._trial(params["TrialName"])
        if component.name.lower() in trial.components:
            trial.components.remove(component.name.lower())
        return {"TrialComponentArn": component.arn, "TrialArn": trial.arn}

    def _add_tags(self, params: Params) -> Output:
        owner = self._by_arn(params["ResourceArn"])
        tags = {**owner.tags, **tags_of(params)}
        if len(tags) > TAGS_MAX:
            message = f"A resource can have at most {TAGS_MAX} tags"
            raise invalid(message)
        owner.tags = tags
        return {"Tags": tag_list(tags)}

    def _list_tags(self, params: Params) -> Output:
        return {"Tags": tag_list(self._by_arn(params["ResourceArn"]).tags)}

    def _delete_tags(self, params: Params) -> Output:
        owner = self._by_arn(params["ResourceArn"])
        owner.tags = {k: v for k, v in owner.tags.items() if k not in params["TagKeys"]}
        return {}

    def _trials_of(self, experiment: Experiment) -> list[Trial]:
        return [t for t in self._state.trials.values() if t.experiment == experiment.name]

    def _trials_with(self, component: Component) -> list[Trial]:
        name = component.name.lower()
        return [trial for trial in self._state.trials.values() if name in trial.components]

    def _by_arn(self, arn: str) -> Component | Experiment | Trial | Artifact:
        return existing(self._state.by_arn(arn), arn, "Resource")

    def _component(self, name: str) -> Component:
        return existing(self._state.components.get(name), name, "TrialComponent")

    def _experiment(self, name: str) -> Experiment:
        return existing(self._state.experiments.get(name), name, "Experiment")

    def _trial(self, name: str) -> Trial:
        return existing(self._state.trials.get(name), name, "Trial")

    def _arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self._region}:{ACCOUNT}:{_KINDS[kind]}/{name}"

    def _now(self) -> float:
        return round(self._clock(), 3)


def _must_be_new(kind: str, name: str, existing: Mapping[str, object]) -> None:
    if name in existing:
        message = (
            f"{kind} names must be unique within an AWS account and region. {kind} with name "
            f"({name}) already exists."
        )
        raise invalid(message)


def _check_values(params: Params) -> None:
    for key, value in (params.get("Parameters") or {}).items():
        given = [
            member for member in ("StringValue", "NumberValue") if value.get(member) is not None
        ]
        if len(given) != 1:
            message = f"Parameter '{key}' must have exactly one of StringValue and NumberValue"
            raise invalid(message)


def _merge(component: Component, params: Params) -> None:
    """Merge maps per key, as UpdateTrialComponent documents; set what else is given."""
    merged: dict[str, dict[str, Any]] = {}
    for attribute, member, removal, most in _MAPS:
        values = {**getattr(component, attribute), **(params.get(member) or {})}
        for key in params.get(removal) or ():
            values.pop(key, None)
        if len(values) > most:
            message = f"A trial component can have at most {most} {member}; got {len(values)}"
            raise invalid(message)
        merged[attribute] = values
    for attribute, values in merged.items():
        setattr(component, attribute, values)
    if params.get("Status"):
        component.status = dict(params["Status"])
    if params.get("StartTime") is not None:
        component.start_time = params["StartTime"]
    if params.get("EndTime") is not None:
        component.end_time = params["EndTime"]


def _held(kind: str, name: str, what: str, holding: list[str]) -> ServiceError:
    message = f"{kind} '{name}' has associated {what}: {', '.join(holding)}"
    return invalid(message)


def component_record(item: Component, region: str) -> Output:
    """Describe a component, as DescribeTrialComponent and Search do."""
    source = _source(item)
    output = {
        **_component_summary(item),
        "Source": source,
        "Sources": [source] if source else None,
        "Parameters": item.parameters,
        "InputArtifacts": item.input_artifacts,
        "OutputArtifacts": item.output_artifacts,
        "MetadataProperties": item.metadata_properties or None,
        "Metrics": metric_summaries(item),
        "LineageGroupArn": lineage_group_arn(region),
    }
    del output["TrialComponentSource"]
    return present(output)


def experiment_record(item: Experiment) -> Output:
    """Describe an experiment, as DescribeExperiment and Search do."""
    when = times(item.created, item.modified)
    return present({**_experiment_summary(item), "Description": item.description, **when})


def trial_record(item: Trial) -> Output:
    """Describe a trial, as DescribeTrial and Search do."""
    output = {
        **_trial_summary(item),
        "ExperimentName": item.experiment,
        "MetadataProperties": item.metadata_properties or None,
        **times(item.created, item.modified),
    }
    return present(output)


def _source(item: Component) -> Output | None:
    if item.source_arn is None:
        return None
    return present({"SourceArn": item.source_arn, "SourceType": source_type(item.source_arn)})


def _component_summary(item: Component) -> Output:
    return {
        "TrialComponentName": item.name,
        "TrialComponentArn": item.arn,
        "TrialComponentSource": _source(item),
        "Status": item.status or None,
        "StartTime": item.start_time,
        "EndTime": item.end_time,
        "DisplayName": item.display_name,
        **times(item.created, item.modified),
    }


def _experiment_summary(item: Experiment) -> Output:
    return {
        "ExperimentName": item.name,
        "ExperimentArn": item.arn,
        "DisplayName": item.display_name,
        "CreationTime": item.created,
        "LastModifiedTime": item.modified,
    }


def _trial_summary(item: Trial) -> Output:
    return {
        "TrialName": item.name,
        "TrialArn": item.arn,
        "DisplayName": item.display_name,
        "CreationTime": item.created,
        "LastModifiedTime": item.modified,
    }
