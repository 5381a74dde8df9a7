"""What scripts send to AWS: by what they do there, and as the original libraries did it.

``recorded.json`` beside the scripts was made by the original libraries: sagemaker 2.257.7 (``Run``)
and sagemaker-experiments 0.1.45 (``Tracker``), with scikit-learn 1.9, which ran the same scripts
against the simulator, with their own imports. To make it again, with a Python that has them:

    python -m tests.e2e.recording PYTHON [SCRIPT...]
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.processes import ENVIRONMENT
from tests.simulator import Simulator, simulator
from tests.simulator.clients import client

SCRIPTS = Path(__file__).parent / "scripts"
RECORDED = SCRIPTS / "recorded.json"
BUCKET = "the-bucket"
JOB = "arn:aws:sagemaker:us-east-1:123456789012:training-job/nightly-7"
THERE = ("nightly-7-aws-training-job", "evaluation")
"""Components that exist before the scripts run: of a job, and of earlier work."""
_IMPORTS = (
    (r"from journaltrack\.compat\.sagemaker(\.experiments)?", "from sagemaker.experiments"),
    (r"from journaltrack import Tracker", "from smexperiments.tracker import Tracker"),
)
# The names that both libraries make up.
_RANDOM = re.compile(r"trialcomponent-[0-9a-z-]{20,}", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TALK = re.compile(r"^sagemaker\.config INFO .*\n", re.MULTILINE)


def prepare(sim: Simulator) -> None:
    """Make what scripts find in the account."""
    sim.buckets.add(BUCKET)
    for name in THERE:
        client(sim, "sagemaker").create_trial_component(TrialComponentName=name)
    # As SageMaker makes it for a job.
    sim.components[THERE[0]].source_arn = JOB


def effect(sim: Simulator, output: str) -> dict[str, Any]:
    """Return what the requests that took effect did, field by field and without their order.

    Times are told by being there. What depends on chance, such as an ARN's end, is left out.
    """
    found = _Effect({each.arn: each.name for each in sim.lineage.artifacts.values()})
    for request in sim.requests:
        tell = getattr(found, _CAPITAL.sub("_", request.operation).lower(), None)
        if request.applied and tell is not None:
            # Who made it: the originals say nothing.
            given = {n: v for n, v in request.params.items() if n != "MetadataProperties"}
            tell(found.done.setdefault(request.operation, {}), given)
    found.done["output"] = output.splitlines()
    found.done["objects"] = {
        key: _content(held.body)
        for (bucket, key), held in sim.artifacts.items()
        if bucket == BUCKET
    }
    text = json.dumps(found.done)
    for random, name in found.names.items():
        text = re.sub(re.escape(random), name, text, flags=re.IGNORECASE)
    done: dict[str, Any] = json.loads(text)
    return done


class _Effect:
    """What requests did, by operation; the methods have the operations' names, as boto3 has them.

    Attributes:
        done: What they did.
        names: What to call components whose names are random, by name in lower case.
    """

    def __init__(self, artifacts: Mapping[str, str]) -> None:
        self.done: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self._artifacts = artifacts

    def _create(self, into: dict[str, Any], given: dict[str, Any], member: str) -> None:
        name = given.pop(member)
        if _RANDOM.fullmatch(name):
            self.names[name.lower()] = f"random-{given['DisplayName']}"
        tags = {tag["Key"]: tag["Value"] for tag in given.pop("Tags", ())}
        into[name] = {**_fields(given), **({"Tags": tags} if tags else {})}

    def create_experiment(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        self._create(into, given, "ExperimentName")

    def create_trial(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        self._create(into, given, "TrialName")

    def create_trial_component(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        self._create(into, given, "TrialComponentName")

    def associate_trial_component(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        into[given["TrialComponentName"]] = given["TrialName"]

    def update_trial_component(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        """Merge it into those before it, as SageMaker does."""
        held = into.setdefault(given.pop("TrialComponentName"), {})
        for name, value in _fields(given).items():
            if isinstance(value, dict) and name != "Status":
                if value:
                    held[name] = {**held.get(name, {}), **value}
            # The originals send back what they were told: the name that it was created with.
            elif name != "DisplayName":
                held[name] = value

    def batch_put_metrics(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        points = into.setdefault(given["TrialComponentName"], [])
        points += [_fields(point) for point in given["MetricData"]]
        points.sort(key=json.dumps)

    def create_artifact(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        source = given["Source"]
        into[given["ArtifactName"]] = {
            "ArtifactType": given["ArtifactType"],
            "SourceUri": source["SourceUri"],
            "SourceTypes": [each["SourceIdType"] for each in source["SourceTypes"]],
        }

    def add_association(self, into: dict[str, Any], given: dict[str, Any]) -> None:
        ends = [given[end] for end in ("SourceArn", "DestinationArn")]
        named = [self._artifacts.get(end, end.rpartition("/")[2]) for end in ends]
        into[" → ".join(named)] = given["AssociationType"]


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: "a time" if name.endswith("Time") or name == "Timestamp" else value
        for name, value in given.items()
    }


def _content(data: bytes) -> Any:
    """Return an object as JSON if it is that, else its bytes."""
    try:
        return json.loads(data)
    except ValueError:
        return data.hex()


def record(python: str, *names: str) -> None:
    """Run the scripts (of these names) with the original libraries, and keep what they did."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    for script in sorted(SCRIPTS.glob("*.py")):
        if names and script.stem not in names:
            continue
        text = script.read_text()
        for ours, theirs in _IMPORTS:
            text = re.sub(ours, theirs, text)
        with simulator() as sim, tempfile.TemporaryDirectory() as folder:
            prepare(sim)
            (Path(folder) / script.name).write_text(text)
            environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
            environment |= ENVIRONMENT | {
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": sim.endpoint_url,
                "HOME": folder,
            }
            done = subprocess.run(
                [python, script.name],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"{script.name}: {done.stderr}")
            recorded[script.stem] = effect(sim, _TALK.sub("", done.stdout))
        text = json.dumps(recorded, indent=1, sort_keys=True, ensure_ascii=False)
        RECORDED.write_text(text + "\n")


if __name__ == "__main__":
    record(*sys.argv[1:])
