"""Match names with shell patterns, and suggest names that are similar to one that does not match.

Pure.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

PERHAPS: Final = "perhaps "
"""Start of a hint that suggests a similar name."""
_NEAR: Final = 0.6
_NEAR_MAX: Final = 3
_SHOWN_MAX: Final = 5
_SHOWN_CHARS_MAX: Final = 80
_LOOKED_AT_MAX: Final = 10_000
"""Ours: how many of the newest names are compared. Each costs a few microseconds."""
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WILD: Final = re.compile(r"\[[^]]*\]|[*?]")


def fits(name: object, pattern: str | None) -> bool:
    """Return whether a shell pattern matches a name, ignoring case. None matches everything."""
    return pattern is None or fnmatch.fnmatchcase(str(name).lower(), pattern.lower())


def words(name: str) -> list[str]:
    """Return the words of a name, in lower case: "val/topKAcc_5" has val, top, k, acc and 5."""
    return [word.lower() for word in _WORDS.findall(name)]


def hint(wanted: str, names: Sequence[str]) -> str:
    """Return a hint for a name or pattern that matches none of ``names`` (the newest last)."""
    if not names:
        return "it has none at all"
    meant = near(wanted, names)
    if meant:
        return PERHAPS + " or ".join(map(_shown, meant))
    return f"it has: {some(names)}"


def some(names: Sequence[str]) -> str:
    """Return the newest of some names (the newest last), and how many more there are."""
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return f"{', '.join(map(_shown, names[-_SHOWN_MAX:]))}{more}"


def suggests(hint: str) -> bool:
    """Return whether a hint names what may have been meant, and not only what there is."""
    return not hint.startswith("it has")


def near(wanted: str, names: Sequence[str]) -> list[str]:
    """Return the names that are spelled most like ``wanted``, the most similar first."""
    literal = _WILD.sub("", wanted).lower()
    scores = ((_score(literal, name.lower()), name) for name in names[-_LOOKED_AT_MAX:])
    found = sorted((each for each in scores if each[0] >= _NEAR), reverse=True)
    return [name for _, name in found[:_NEAR_MAX]]


def _score(literal: str, name: str) -> float:
    """Return how similar a name is to a pattern's literal text, from 0 to 1.

    Compare the whole name, its start and its end, since patterns often name a part.
    """
    from difflib import SequenceMatcher  # noqa: PLC0415 - few names are misspelled

    if not literal:
        return 0.0
    parts = {name, name[: len(literal)], name[max(0, len(name) - len(literal)) :]}
    matchers = [SequenceMatcher(None, part, literal) for part in parts]
    likely = [matcher for matcher in matchers if matcher.quick_ratio() >= _NEAR]
    return max((matcher.ratio() for matcher in likely), default=0.0)


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARS_MAX else name[: _SHOWN_CHARS_MAX - 1] + "…"
