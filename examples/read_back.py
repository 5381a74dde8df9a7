"""Compare a trial component in SageMaker with a journal and with the files on disk, without any
code of journaltrack.

    python examples/read_back.py JOURNAL COMPONENT FOLDER

Plain boto3 reads the component and its objects in S3, plain sqlite3 the journal. Prints a line per
fact; the exit code is 1 if one of them does not hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
import urllib.request
from pathlib import Path
from typing import Any

import boto3

FAILED: list[str] = []


def main() -> int:
    """Read both sides and compare them."""
    journal, name, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    with contextlib.closing(
        sqlite3.connect(f"file:{journal.resolve() / 'journal.db'}?mode=ro", uri=True)
    ) as database:
        rows = database.execute(
            "SELECT e.kind, e.name, e.value, e.step, e.payload FROM entry e "
            "JOIN component c ON c.id = e.component_id WHERE c.name = ? ORDER BY e.seq",
            (name,),
        ).fetchall()
    component = boto3.client("sagemaker").describe_trial_component(TrialComponentName=name)
    compare_status(component)
    compare_parameters(component, rows)
    compare_metrics(component, rows)
    compare_artifacts(component, rows, folder)
    return 1 if FAILED else 0


def fact(text: str, *, holds: bool) -> None:
    """Print it, and remember it if it does not hold."""
    print(f"{'✓' if holds else '✗'} {text}", flush=True)
    if not holds:
        FAILED.append(text)


def compare_status(component: dict[str, Any]) -> None:
    """The last start ended well, and both times are there."""
    status = component["Status"]["PrimaryStatus"]
    times = f"{component['StartTime']:%H:%M:%S} to {component['EndTime']:%H:%M:%S}"
    fact(
        f"SageMaker: {component['TrialComponentName']} is {status}, {times}",
        holds=status == "Completed",
    )


def compare_parameters(component: dict[str, Any], rows: list[tuple[Any, ...]]) -> None:
    """The last value of each parameter, text as StringValue and numbers as NumberValue."""
    recorded = {}
    for kind, name, value, _, payload in rows:
        if kind == "parameter":
            recorded[name] = (
                {"StringValue": json.loads(payload)["text"]}
                if value is None
                else {"NumberValue": value}
            )
    fact(
        f"SageMaker: {len(recorded)} parameters, all as in the journal",
        holds=component["Parameters"] == recorded,
    )


def compare_metrics(component: dict[str, Any], rows: list[tuple[Any, ...]]) -> None:
    """Each metric's summary, and every single point where the endpoint can be asked for them."""
    # An epoch that was repeated after a kill is in the journal twice, with the same numbers; the
    # stand-in keeps one point per step.
    recorded: dict[str, dict[int, float]] = {}
    for kind, name, value, step, _ in rows:
        if kind == "metric":
            recorded.setdefault(name, {})[step] = value
    arrived = {summary["MetricName"]: summary for summary in component["Metrics"]}
    fact(
        f"SageMaker: the metrics are {', '.join(sorted(recorded))}",
        holds=set(arrived) == set(recorded),
    )
    for name, points in sorted(recorded.items()):
        told = arrived.get(name, {})
        expected = {
            "Count": len(points),
            "Min": min(points.values()),
            "Max": max(points.values()),
            "Last": points[max(points)],
        }
        shown = " ".join(f"{key.lower()} {value:.6g}" for key, value in expected.items())
        fact(
            f"SageMaker: {name}: {shown}, as in the journal",
            holds={key: told.get(key) for key in expected} == expected,
        )
    points_there = points_of_stand_in(component["TrialComponentName"])
    if points_there is not None:
        count = sum(len(points) for points in recorded.values())
        fact(
            f"the stand-in's memory holds exactly the journal's {count} points, bit for bit",
            holds=points_there == recorded,
        )


def points_of_stand_in(name: str) -> dict[str, dict[int, float]] | None:
    """Every point that moto holds, from its own dump of its memory; None if the endpoint is not
    moto.
    """
    url = f"{boto3.client('sagemaker').meta.endpoint_url}/moto-api/data.json"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the endpoint that was configured
            held = json.load(answer)["sagemaker"]["FakeTrialComponent"]
    except (OSError, ValueError, KeyError):
        return None
    metrics = next(
        json.loads(json.dumps(c["metrics"])) for c in held if c["trial_component_name"] == name
    )
    return {
        metric: {int(step): float(point["Value"]) for step, point in m["Values"].items()}
        for metric, m in metrics.items()
    }


def compare_artifacts(component: dict[str, Any], rows: list[tuple[Any, ...]], folder: Path) -> None:
    """Inputs by their text; outputs by downloading each, and comparing its SHA-256 with the
    journal's and the file's.
    """
    inputs = {
        name: json.loads(payload)["value"] for kind, name, _, _, payload in rows if kind == "input"
    }
    told = {name: artifact["Value"] for name, artifact in component["InputArtifacts"].items()}
    fact(f"SageMaker: input {', '.join(inputs)} as in the journal", holds=told == inputs)

    uploads = {
        name: json.loads(payload)["sha256"]
        for kind, name, _, _, payload in rows
        if kind == "upload"
    }
    outputs = component["OutputArtifacts"]
    fact(f"SageMaker: {len(uploads)} output artifacts", holds=set(outputs) == set(uploads))
    for name, recorded in uploads.items():
        bucket, _, key = outputs[name]["Value"].removeprefix("s3://").partition("/")
        there = hashlib.sha256(
            boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        ).hexdigest()
        local = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        fact(
            f"S3: s3://{bucket}/{key} has SHA-256 {there[:16]}…, as {folder / name} and the "
            "journal",
            holds=there == recorded == local,
        )


if __name__ == "__main__":
    sys.exit(main())
