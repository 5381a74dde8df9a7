"""Values that must not be kept: names that match a pattern have theirs replaced before anything is journaled.

Pure. One way: what is replaced is nowhere, neither in the journal nor in its log, and can't be had back.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Final

from journaltrack.errors import InvalidTypeError

REDACTED: Final = "[redacted]"
"""What stands in the place of a value."""


def patterns(given: object) -> tuple[str, ...]:
    """What a caller passed as ``redact``, checked.

    Raises:
        InvalidTypeError: Not a list of text; a single text is refused, since its characters would be taken for patterns.
    """
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidTypeError(f'redact must be a list of patterns such as ["*token*"], not {type(given).__name__}')
    found = tuple(given)
    if not all(isinstance(each, str) for each in found):
        raise InvalidTypeError("redact must be a list of str")
    return found


class Redaction:
    """Whether a value is to be replaced, by its name.

    Args:
        wanted: Shell patterns; case does not matter.
    """

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self._patterns = tuple(dict.fromkeys(each.lower() for each in wanted if each))
        self._told: set[tuple[str, str]] = set()

    def matches(self, name: str) -> bool:
        """Whether the value of that name is to be replaced."""
        lower = name.lower()
        return any(fnmatch.fnmatchcase(lower, pattern) for pattern in self._patterns)

    def is_news(self, kind: str, name: str) -> bool:
        """Whether it was not asked for this name before: it is logged once."""
        if (kind, name) in self._told:
            return False
        self._told.add((kind, name))
        return True
