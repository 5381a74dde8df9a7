"""Real clients of a simulator, and what it refuses them.

It must not know: what a service does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.patience import FOREVER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator.core import Simulator


def client(
    sim: Simulator, service: str, *, key: str = "AKIDTEST", region: str = "us-east-1", **config: Any
) -> Any:
    """Give a real client that tries everything once and doesn't wait long."""
    options = {"retries": {"total_max_attempts": 1}, "read_timeout": FOREVER_S, **config}
    make: Any = boto3.client  # its stubs want the name of a service as a literal
    return make(
        service,
        endpoint_url=sim.endpoint_url,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key="not-a-secret",
        config=Config(**options),
    )


def refusal(call: Callable[..., object], **arguments: Any) -> tuple[str, str]:
    """Give code and message of the error that a call must end in."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]
