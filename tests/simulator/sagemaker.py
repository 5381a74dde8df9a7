"""The experiment operations of SageMaker, on the simulated account.

What it is: one method per operation; takes checked members, changes the state, gives the output.
It must not know: HTTP, credentials, which faults are scheduled.
Invariant: an operation that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.simulator.answers import (
    TAGS_MAX,
    Operations,
    Output,
    Params,
    invalid,
    listed,
    missing,
    present,
    tag_list,
    tags_of,
    times,
)
from tests.simulator.auth import ACCOUNT
from tests.simulator.metrics import metric_summaries
from tests.simulator.state import Artifact, Component, Experiment, State, Trial

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


class SageMaker:
    """The service; the caller holds the lock."""

    def __init__(self, state: State, region: str, clock: Callable[[], float]) -> None:
        self._state, self._region, self._clock = state, region, clock
        self.operations: Operations = {
            "CreateTrialComponent": self._create_component,
            "UpdateTrialComponent": self._update_component,
            "DescribeTrialComponent": self._describe_component,
            "ListTrialComponents": self._list_components,
            "CreateExperiment": self._create_experiment,
            "DescribeExperiment": self._describe_experiment,
            "CreateTrial": self._create_trial,
            "DescribeTrial": self._describe_trial,
            "AssociateTrialComponent": self._associate,
            "DisassociateTrialComponent": self._disassociate,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
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
        component = self._component(params["TrialComponentName"].rpartition("/")[2])
        output = {
            **_summary(component),
            "Parameters": component.parameters,
            "InputArtifacts": component.input_artifacts,
            "OutputArtifacts": component.output_artifacts,
            "MetadataProperties": component.metadata_properties or None,
            "Metrics": metric_summaries(component),
        }
        return present(output)

    def _list_components(self, params: Params) -> Output:
        found = list(self._state.components.values())
        if name := params.get("TrialName"):
            wanted = set(self._trial(name).components)
            found = [item for item in found if item.name.lower() in wanted]
        if name := params.get("ExperimentName"):
            experiment = self._experiment(name).name
            trials = [t for t in self._state.trials.values() if t.experiment == experiment]
            wanted = {component for trial in trials for component in trial.components}
            found = [item for item in found if item.name.lower() in wanted]
        if source := params.get("SourceArn"):
            found = [item for item in found if item.source_arn == source]
        by_name: dict[str, Callable[[Component], Any]] = {"Name": lambda item: item.name}
        return listed(params, found, "TrialComponentSummaries", _summary, by_name)

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

    def _describe_experiment(self, params: Params) -> Output:
        item = self._experiment(params["ExperimentName"])
        output = {
            "ExperimentName": item.name,
            "ExperimentArn": item.arn,
            "Description": item.description,
            "DisplayName": item.display_name,
            **times(item.created, item.modified),
        }
        return present(output)

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

    def _describe_trial(self, params: Params) -> Output:
        item = self._trial(params["TrialName"])
        output = {
            "TrialName": item.name,
            "TrialArn": item.arn,
            "ExperimentName": item.experiment,
            "MetadataProperties": item.metadata_properties or None,
            "DisplayName": item.display_name,
            **times(item.created, item.modified),
        }
        return present(output)

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

    def _by_arn(self, arn: str) -> Component | Experiment | Trial | Artifact:
        found = self._state.by_arn(arn)
        if found is None:
            raise missing(arn, "Resource")
        return found

    def _component(self, name: str) -> Component:
        found = self._state.components.get(name)
        if found is None:
            raise missing(name, "TrialComponent")
        return found

    def _experiment(self, name: str) -> Experiment:
        found = self._state.experiments.get(name)
        if found is None:
            raise missing(name, "Experiment")
        return found

    def _trial(self, name: str) -> Trial:
        found = self._state.trials.get(name)
        if found is None:
            raise missing(name, "Trial")
        return found

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


def _summary(item: Component) -> Output:
    return {
        "TrialComponentName": item.name,
        "TrialComponentArn": item.arn,
        "Source": {"SourceArn": item.source_arn} if item.source_arn else None,
        "TrialComponentSource": {"SourceArn": item.source_arn} if item.source_arn else None,
        "Status": item.status or None,
        "StartTime": item.start_time,
        "EndTime": item.end_time,
        "DisplayName": item.display_name,
        **times(item.created, item.modified),
    }
