"""Match names with shell patterns, and suggest names that are similar to one that does not match.

Pure.
"""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from difflib import SequenceMatcher

PERHAPS: Final = "perhaps "
"""Start of a hint that suggests a similar name."""
_NEAR: Final = 0.6
_NEAR_MAX: Final = 3
_SHOWN_MAX: Final = 5
_SHOWN_CHARS_MAX: Final = 80
_LOOKED_AT_MAX: Final = 10_000
"""Ours: how many of the newest names are compared. Each costs a few microseconds."""
_RATED_MAX: Final = 100
"""Ours: how many of them are compared exactly, each in a millisecond at most."""
_COMPARED_CHARS_MAX: Final = 120
"""Ours: how much of each name is compared: the exact way costs its square."""
_WANTED_CHARS_MAX: Final = 1_000
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
    from difflib import SequenceMatcher  # noqa: PLC0415 - few names are misspelled

    literal = _compared(_WILD.sub("", wanted[:_WANTED_CHARS_MAX]))
    if not literal:
        return []
    matcher = SequenceMatcher(None, "", literal)
    names = names[-_LOOKED_AT_MAX:]
    # An upper limit first, whose cost is linear: names of a foreign journal may be all alike.
    likely = _most_like(names, _RATED_MAX, lambda name: _score(matcher, literal, name, exact=False))
    return _most_like(likely, _NEAR_MAX, lambda name: _score(matcher, literal, name, exact=True))


def _most_like(names: Iterable[str], count: int, score: Callable[[str], float]) -> list[str]:
    found = ((score(name), name) for name in names)
    return [name for _, name in heapq.nlargest(count, (one for one in found if one[0] >= _NEAR))]


def _compared(name: str) -> str:
    return name[:_COMPARED_CHARS_MAX].lower()


def _score(matcher: SequenceMatcher[str], literal: str, name: str, *, exact: bool) -> float:
    """Return how similar a name is to a pattern's literal text, from 0 to 1, or an upper limit.

    Compare the whole name, its start and its end, since patterns often name a part.
    """
    name, length = _compared(name), len(literal)
    best = 0.0
    for part in {name, name[:length], name[max(0, len(name) - length) :]}:
        matcher.set_seq1(part)
        found = matcher.quick_ratio()
        if exact and found >= _NEAR:
            found = matcher.ratio()
        best = max(best, found)
    return best


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARS_MAX else name[: _SHOWN_CHARS_MAX - 1] + "…"
