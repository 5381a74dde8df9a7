"""How S3 is to keep what is uploaded, and on whose account: members of every request that has them.

One hook, not a parameter at each call: which operations take which member, botocore's model says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from journaltrack.util.config import Storage

_OUR_HOOK: Final = "journaltrack-storage"
_EVENT: Final = "before-parameter-build.s3"


def ask_for(
    client: Any,  # noqa: ANN401 - boto3 has no types of its own
    storage: Storage,
    owner_of: Callable[[str], str | None],
) -> None:
    """Have an S3 client ask for this storage.

    Args:
        client: One of our own.
        storage: What is configured.
        owner_of: The account that a bucket must belong to; None: any.
    """
    wanted = {
        "ServerSideEncryption": storage.encryption or ("aws:kms" if storage.kms_key else None),
        "SSEKMSKeyId": storage.kms_key,
        "RequestPayer": "requester" if storage.requester_pays else None,
    }

    def add(*, params: dict[str, Any], model: Any, **_: object) -> None:  # noqa: ANN401
        members: Mapping[str, Any] = model.input_shape.members
        owner = owner_of(str(params.get("Bucket", "")))
        for name, value in ({**wanted, "ExpectedBucketOwner": owner}).items():
            if value is not None and name in members:
                params.setdefault(name, value)

    client.meta.events.register_first(_EVENT, add, unique_id=_OUR_HOOK)
