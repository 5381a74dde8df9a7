"""Names, and shell patterns of them: which fit, and which are near to one that fits nothing. Pure."""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

PERHAPS: Final = "perhaps "
"""How a hint begins that knows something near."""
_NEAR: Final = 0.6
_NEAR_MAX: Final = 3
_SHOWN_MAX: Final = 5
_SHOWN_CHARS_MAX: Final = 80
_LOOKED_AT_MAX: Final = 10_000
"""Ours: of the names, the newest so many are compared: each costs some microseconds."""
_WILD: Final = re.compile(r"\[[^]]*\]|[*?]")


def fits(name: object, pattern: str | None) -> bool:
    """Whether a shell pattern names it; case does not matter. None names everything."""
    return pattern is None or fnmatch.fnmatchcase(str(name).lower(), pattern.lower())


def hint(wanted: str, names: Sequence[str]) -> str:
    """What may have been meant by a name or pattern that fits none of ``names`` (the newest last)."""
    if not names:
        return "it has none at all"
    meant = near(wanted, names)
    if meant:
        return PERHAPS + " or ".join(map(_shown, meant))
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return f"it has: {', '.join(map(_shown, names[-_SHOWN_MAX:]))}{more}"


def near(wanted: str, names: Sequence[str]) -> list[str]:
    """Those of the names that are spelt most like it, the nearest first."""
    literal = _WILD.sub("", wanted).lower()
    scores = ((_score(literal, name.lower()), name) for name in names[-_LOOKED_AT_MAX:])
    found = heapq.nlargest(_NEAR_MAX, (each for each in scores if each[0] >= _NEAR))
    return [name for _, name in found]


def _score(literal: str, name: str) -> float:
    """How alike they are: all of the name or, since patterns are of parts, its beginning or end."""
    if not literal:
        return 0.0
    parts = {name, name[: len(literal)], name[max(0, len(name) - len(literal)) :]}
    matchers = [SequenceMatcher(None, part, literal) for part in parts]
    likely = [matcher for matcher in matchers if matcher.quick_ratio() >= _NEAR]
    return max((matcher.ratio() for matcher in likely), default=0.0)


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARS_MAX else name[: _SHOWN_CHARS_MAX - 1] + "…"
