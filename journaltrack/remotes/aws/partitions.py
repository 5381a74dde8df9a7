"""AWS's partitions as botocore knows them: names of regions, and of hosts. Read once, when first asked.

Must not decide anything: a region that botocore does not know may be newer than it.
"""

from __future__ import annotations

import difflib
import functools
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.loaders import create_loader

_NEAR: Final = 0.7


def is_aws(endpoint_url: str) -> bool:
    """Whether an address is one of AWS's own, of whichever partition."""
    host = (urlsplit(endpoint_url).hostname or "").lower()
    return any(host.endswith(f".{suffix}") for suffix in _suffixes())


def unknown_region(endpoint_url: str) -> tuple[str, str | None] | None:
    """The region in an address of AWS's, if botocore knows none of that name.

    Returns:
        It, and the known one that is spelt most like it.
    """
    host = (urlsplit(endpoint_url).hostname or "").lower()
    suffix = next((each for each in _suffixes() if host.endswith(f".{each}")), None)
    if suffix is None:
        return None
    service, _, region = host[: -len(suffix) - 1].rpartition(".")
    if not service or region == "s3" or region in _regions():
        return None
    near = difflib.get_close_matches(region, _regions(), 5, _NEAR)
    near.sort(key=lambda each: sorted(each) != sorted(region))  # two letters in the other order come first
    return region, near[0] if near else None


@functools.lru_cache(maxsize=1)
def _partitions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = create_loader().load_data("partitions")["partitions"]
    return found


@functools.lru_cache(maxsize=1)
def _suffixes() -> tuple[str, ...]:
    """The longest first: one of them may be the end of another."""
    outputs = [partition["outputs"] for partition in _partitions()]
    found = {each[name] for each in outputs for name in ("dnsSuffix", "dualStackDnsSuffix") if each.get(name)}
    return tuple(sorted(found, key=lambda suffix: -len(suffix)))


@functools.lru_cache(maxsize=1)
def _regions() -> tuple[str, ...]:
    return tuple(sorted({region for partition in _partitions() for region in partition["regions"]}))
