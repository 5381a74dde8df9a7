"""Say in MLflow's JSON what a run has, and read it back: parameters, tags, status, references.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Final

from journaltrack.journal.fold import Artifact, Status
from journaltrack.journal.groups import Group
from journaltrack.journal.vocabulary import (
    DATASET,
    DATASET_CONTEXT,
    DELETED,
    LAST_LABELS,
    OWN_LABEL,
)
from journaltrack.remotes.mlflow import names
from journaltrack.replay.remote import RemoteComponent

COMPONENT: Final = f"{names.OURS}component"
OWNER: Final = f"{names.OURS}owner"
DELIVERED: Final = f"{names.OURS}delivered"
"""The tag of a run that got anything beside its creation."""
ASKED: Final = f"{names.OURS}created"
"""The tag that says when a run's creation was sent, nanoseconds since the epoch."""
STATUS: Final = f"{names.OURS}status"
STAGED: Final = f"{names.OURS}stage"
"""The tag of a run that the journal says is deleted."""
PARAMETER: Final = f"{names.OURS}parameter."
INPUT: Final = f"{names.OURS}input."
OUTPUT: Final = f"{names.OURS}output."
TRIAL: Final = f"{names.OURS}trial."
DISPLAY_NAME: Final = f"{names.OURS}display_name"
NOTE: Final = "mlflow.note.content"
PARENT: Final = "mlflow.parentRunId"
NAME: Final = f"{names.OURS}experiment"
"""The tag of an experiment that has another name in the journal."""


def has_label(name: str) -> bool:
    """Return whether MLflow has a place for a label of this name."""
    return not name.startswith(OWN_LABEL) or name.startswith((DATASET, *LAST_LABELS))


def is_there(run: Mapping[str, Any]) -> bool:
    """Return whether a run counts as there: one that the journal says is deleted does."""
    is_deleted = run["info"].get("lifecycle_stage") == DELETED
    return not is_deleted or tags_in(run).get(STAGED) == DELETED


def preference(run: Mapping[str, Any]) -> tuple[bool, str, str]:
    """Order runs of one creation: the one that got anything comes first, then the oldest."""
    tags = tags_in(run)
    return DELIVERED not in tags, tags.get(ASKED, "").zfill(20), str(run["info"]["run_id"])


def pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return values as MLflow takes them."""
    return [{"key": key, "value": value} for key, value in values.items()]


def tags_in(told: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's tags."""
    held = (told.get("data") or {}).get("tags") or ()
    return {str(each["key"]): str(each.get("value", "")) for each in held}


def parameters_in(told: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's parameters, as MLflow spells them."""
    held = (told.get("data") or {}).get("params") or ()
    return {str(each["key"]): str(each.get("value", "")) for each in held}


def kept_names(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the names that are too long for MLflow, by their digest."""
    begin = names.NAME
    return {k.removeprefix(begin): v for k, v in tags.items() if k.startswith(begin)}


def key_of(begin: str, name: str) -> str:
    """Return the tag of something named; it is as long as MLflow takes."""
    text = names.spelled(name)
    if len(begin) + len(text) > names.KEY_CHARS_MAX:
        text = names.shortened(name)
    return f"{begin}{text}"


def long_name(name: str) -> dict[str, str]:
    """Return the tag that keeps a name which is too long, if it is."""
    tag = names.kept_by(name)
    return {} if tag is None else {tag: name}


def parameters_to_send(
    wanted: Mapping[str, str | float], there: Mapping[str, str], held: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tags and the parameters that give the run these parameters."""
    tags: dict[str, str] = {}
    parameters: dict[str, str] = {}
    for name, value in wanted.items():
        key, text, override = names.spelled(name), names.text_of(value), key_of(PARAMETER, name)
        tags |= long_name(name)
        if key not in there:
            parameters[key] = text
        elif there[key] != text or override in held:
            tags |= {override: text}
    return tags, parameters


def component_of(component: str, told: Mapping[str, Any], base: str) -> RemoteComponent:
    """Return a run as a component."""
    info, tags = told["info"], tags_in(told)
    kept = kept_names(tags)
    parameters = {names.read(key, kept): text for key, text in parameters_in(told).items()}
    maps: dict[str, dict[str, Artifact]] = {INPUT: {}, OUTPUT: {}}
    for key, text in tags.items():
        if key.startswith(PARAMETER):
            parameters[names.read(key.removeprefix(PARAMETER), kept)] = text
        for begin, artifacts in maps.items():
            if key.startswith(begin):
                artifacts[names.read(key.removeprefix(begin), kept)] = _reference(text)
    return RemoteComponent(
        tags.get(f"{names.OURS}name", component),
        f"{base}{info['experiment_id']}/runs/{info['run_id']}",
        tags.get(OWNER),
        # People, and MLflow's code, may rename a run.
        tags.get(DISPLAY_NAME, info.get("run_name")),
        parameters,
        maps[INPUT],
        maps[OUTPUT],
        status_in(told),
    )


def artifact_text(artifact: Artifact) -> str:
    """Return the value of the tag that stands for a reference."""
    if artifact.media_type is None and not artifact.value.startswith("{"):
        return artifact.value
    return json.dumps({"value": artifact.value, "media_type": artifact.media_type})


def datasets(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return inputs as MLflow's dataset inputs."""
    return [
        {
            "dataset": {
                "name": names.spelled(name),
                "digest": names.digest(artifact.value),
                "source_type": artifact.value.partition("://")[0][:20] or "external",
                "source": json.dumps({"uri": artifact.value}),
            },
            "tags": [{"key": DATASET_CONTEXT, "value": "input"}],
        }
        for name, artifact in inputs.items()
    ]


def _reference(text: str) -> Artifact:
    if text.startswith("{"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(text)
            return Artifact(str(told["value"]), told["media_type"])
    return Artifact(text)


def status_text(status: Status) -> str:
    """Return the value of the tag that keeps a status."""
    told = {
        "status": status.primary,
        "message": status.message,
        "start_ns": status.start_ns,
        "end_ns": status.end_ns,
    }
    return json.dumps({key: value for key, value in told.items() if value is not None})


def status_in(told: Mapping[str, Any]) -> Status | None:
    """Return a run's status; None: it has none."""
    text = tags_in(told).get(STATUS)
    if text is None:
        return None
    with contextlib.suppress(ValueError, AttributeError):
        held = json.loads(text)
        return Status(*(held.get(key) for key in ("status", "message", "start_ns", "end_ns")))
    return None


def experiment_tags(group: Group) -> dict[str, str]:
    """Return the tags of an experiment."""
    told = ((DISPLAY_NAME, group.display_name), (NOTE, group.description))
    given = {key: text for key, text in told if text is not None}
    if group.full_name is not None:
        given[NAME] = group.name
    return {names.tag(key): value for key, value in group.tags} | given


def trial_text(group: Group) -> str:
    """Return the value of the tag that keeps a trial."""
    return json.dumps({"display_name": group.display_name, "tags": dict(group.tags)})


def trial_of(name: str, experiment: str, text: str) -> Group:
    """Return a trial, by the tag that keeps it."""
    display_name: str | None = None
    tags: dict[str, str] = {}
    with contextlib.suppress(ValueError, AttributeError):
        told = json.loads(text)
        display_name, tags = told.get("display_name"), told.get("tags") or {}
    return Group("trial", name, experiment, display_name, None, tuple(tags.items()))
