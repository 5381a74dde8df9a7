"""Match names with shell patterns, and suggest names that are similar to one that does not match.

Pure.
"""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from difflib import SequenceMatcher

PERHAPS: Final = "perhaps "
"""Start of a hint that suggests a similar name."""
_NEAR: Final = 0.6
_RATHER_NEAR: Final = 0.4
"""Ours: too little for "perhaps", and enough to be listed before what is unlike."""
_PART_CHARS_MIN: Final = 3
_OF_PART: Final = 0.8
"""Ours: how similar a name is that has the text anywhere: "acc" may mean "val/accuracy"."""
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
    ranked = _ranked(wanted, names, _RATHER_NEAR, _SHOWN_MAX)
    meant = [name for score, name in ranked if score >= _NEAR]
    if meant:
        return PERHAPS + " or ".join(map(_shown, meant[:_NEAR_MAX]))
    similar = [name for _, name in ranked]
    others = [name for name in names if name not in similar]
    newest = others[max(0, len(others) - _SHOWN_MAX + len(similar)) :]
    left_out = others[: len(others) - len(newest)]
    return f"it has: {some([*left_out, *similar, *newest])}"


def some(names: Sequence[str]) -> str:
    """Return the newest of some names (the newest last), and how many more there are."""
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return f"{', '.join(map(_shown, names[-_SHOWN_MAX:]))}{more}"


def suggests(hint: str) -> bool:
    """Return whether a hint names what may have been meant, and not only what there is."""
    return not hint.startswith("it has")


def near(wanted: str, names: Sequence[str]) -> list[str]:
    """Return the names that are spelled most like ``wanted``, the most similar first."""
    return [name for _, name in _ranked(wanted, names, _NEAR, _NEAR_MAX)]


def _ranked(wanted: str, names: Sequence[str], least: float, count: int) -> list[tuple[float, str]]:
    """Return the names that are at least so similar, the most similar first, with how similar."""
    from difflib import SequenceMatcher  # noqa: PLC0415 - few names are misspelled

    literal = _compared(_WILD.sub("", wanted[:_WANTED_CHARS_MAX]))
    if not literal:
        return []
    matcher = SequenceMatcher(None, "", literal)

    def most_like(names: Iterable[str], count: int, *, exact: bool) -> list[tuple[float, str]]:
        """Return the best of some names."""
        found = ((_score(matcher, literal, name, least, exact=exact), name) for name in names)
        return heapq.nlargest(count, (one for one in found if one[0] >= least))

    # An upper limit first, whose cost is linear: names of a foreign journal may be all alike.
    likely = most_like(dict.fromkeys(names[-_LOOKED_AT_MAX:]), _RATED_MAX, exact=False)
    return most_like((name for _, name in likely), count, exact=True)


def _compared(name: str) -> str:
    return name[:_COMPARED_CHARS_MAX].lower()


def _score(
    matcher: SequenceMatcher[str], literal: str, name: str, least: float, *, exact: bool
) -> float:
    """Return how similar a name is to a pattern's literal text, from 0 to 1, or an upper limit.

    Compare the whole name, its start and its end, since patterns often name a part.
    """
    name, length = _compared(name), len(literal)
    is_part = length >= _PART_CHARS_MIN and literal in name
    best = _OF_PART if is_part else 0.0
    for part in {name, name[:length], name[max(0, len(name) - length) :]}:
        matcher.set_seq1(part)
        found = matcher.quick_ratio()
        if exact and found >= least:
            found = matcher.ratio()
        best = max(best, found)
    return best


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARS_MAX else name[: _SHOWN_CHARS_MAX - 1] + "…"
