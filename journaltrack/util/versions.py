"""Versions of journaltrack, as journals, bundles and files of receipts state them: is one newer, and which is needed.

What is stated is somebody else's text: it is shown only if it can be nothing but a version. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from journaltrack._version import __version__

_VERSION: Final = re.compile(r"(\d{1,4}(?:\.\d{1,6}){1,3})(?:[.-]?(?:a|b|rc|dev|post)\d{0,9}){0,2}", re.ASCII)


def is_newer(stated: object, than: str = __version__) -> bool:
    """Return whether a stated version has a higher release number; what is no version has none."""
    return _release(stated) > _release(than)


def needed(*stated: object, reader: str = __version__) -> str:
    """Name the version that reads what a newer journaltrack wrote, from what it states.

    Args:
        stated: Versions that would do, the best one first; those that are not newer are passed over.
        reader: This version.
    """
    for version in stated:
        if is_newer(version, reader):
            return f"journaltrack {version} or later"
    return f"a journaltrack newer than {reader}"


def _release(stated: object) -> tuple[int, ...]:
    found = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    numbers = [int(number) for number in found[1].split(".")] if found else []
    while numbers and not numbers[-1]:  # 1.0 is 1.0.0
        numbers.pop()
    return tuple(numbers)
