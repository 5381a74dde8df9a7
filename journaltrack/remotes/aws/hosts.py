"""Know AWS's hosts and regions: from botocore's partitions, read once at first use.

They only help to explain a failure and to tell AWS from a stand-in: a region that botocore does not
know may be newer than botocore.
"""

from __future__ import annotations

import difflib
import functools
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.loaders import create_loader

_NEAR: Final = 0.7
"""How alike a region and a misspelt one are at least, of 1."""


def is_aws(endpoint_url: str) -> bool:
    """Return whether an address belongs to AWS, in any partition."""
    host = (urlsplit(endpoint_url).hostname or "").lower()
    return any(host.endswith(f".{suffix}") for suffix in _suffixes())


def unknown_region(endpoint_url: str) -> tuple[str, str | None] | None:
    """Return the region in an AWS address if botocore does not know it.

    Returns:
        The region, and the known region that is spelled most like it (or None). None if the
        address is not AWS's or its region is known.
    """
    host = (urlsplit(endpoint_url).hostname or "").lower()
    suffix = next((each for each in _suffixes() if host.endswith(f".{each}")), None)
    if suffix is None:
        return None
    service, _, region = host[: -len(suffix) - 1].rpartition(".")
    if not service or region == "s3" or region in _regions():
        return None
    near = difflib.get_close_matches(region, _regions(), 5, _NEAR)
    # Prefer a region with the same letters in another order: a typing error.
    near.sort(key=lambda each: sorted(each) != sorted(region))
    return region, near[0] if near else None


@functools.lru_cache(maxsize=1)
def _partitions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = create_loader().load_data("partitions")["partitions"]
    return found


@functools.lru_cache(maxsize=1)
def _suffixes() -> tuple[str, ...]:
    """Return AWS's host suffixes, the longest first: one may be the end of another."""
    outputs = [partition["outputs"] for partition in _partitions()]
    found = {
        each[name]
        for each in outputs
        for name in ("dnsSuffix", "dualStackDnsSuffix")
        if each.get(name)
    }
    return tuple(sorted(found, key=lambda suffix: -len(suffix)))


@functools.lru_cache(maxsize=1)
def _regions() -> tuple[str, ...]:
    regions = {region for partition in _partitions() for region in partition["regions"]}
    return tuple(sorted(regions))
