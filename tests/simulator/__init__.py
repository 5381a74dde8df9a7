"""A strict AWS on a loopback port for real boto3: experiments, lineage, metrics, STS and S3.

What it is: `with simulator() as sim:` and `sim.endpoint_url`. Constraints come from botocore's own
service models; merges, name clashes, missing things and repeated metric points are as AWS has
them; faults are scheduled with `sim.fail(...)` and every request is in `sim.requests`.
It must not know: anything of journaltrack.
"""

from tests.simulator.core import Simulator, simulator
from tests.simulator.faults import (
    BadGateway,
    BlackHole,
    Call,
    CutAfter,
    CutBefore,
    Fault,
    HttpError,
    Instead,
    PartialErrors,
    Request,
)
from tests.simulator.state import Artifact, Association, Component, MetricPoint, StoredObject

__all__ = [
    "Artifact",
    "Association",
    "BadGateway",
    "BlackHole",
    "Call",
    "Component",
    "CutAfter",
    "CutBefore",
    "Fault",
    "HttpError",
    "Instead",
    "MetricPoint",
    "PartialErrors",
    "Request",
    "Simulator",
    "StoredObject",
    "simulator",
]
