"""Draw curves with Braille characters: eight dots a character, in a frame with labels.

Where Braille can't be printed, or where several curves have no colours to tell them apart, each
curve is drawn with a letter of its own. Returns lines; prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from journaltrack.cli import output, viewing

_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a Braille character by column and row (Unicode, block 2800)."""
_BRAILLE: Final = 0x2800
_COLOURS: Final = ("cyan", "magenta", "yellow", "green", "blue", "red")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_LABEL_CHARS: Final = 10


@dataclass(frozen=True, slots=True)
class Curve:
    """What to draw: a name, and points in order. None in ``y`` is a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]


class Canvas:
    """A grid of characters with 2 x 4 dots each."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._owner = [[-1] * width for _ in range(height)]

    def line(self, begin: tuple[int, int], end: tuple[int, int], owner: int) -> None:
        """Draw a line from one dot to another; (0, 0) is at the bottom left."""
        (x0, y0), (x1, y1) = begin, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            x = x0 + round((x1 - x0) * step / steps)
            y = y0 + round((y1 - y0) * step / steps)
            row, column = self.height - 1 - y // 4, x // 2
            self._bits[row][column] |= _DOTS[x % 2][3 - y % 4]
            self._owner[row][column] = owner

    def rows(self, *, letters: bool, colours: bool) -> Iterator[str]:
        """Yield the lines, from the top."""
        for bits, owners in zip(self._bits, self._owner, strict=True):
            cells = []
            for each, owner in zip(bits, owners, strict=True):
                if not each:
                    cells.append(" ")
                    continue
                text = _letter(owner) if letters else chr(_BRAILLE + each)
                cells.append(output.painted(text, _colour(owner)) if colours else text)
            yield "".join(cells).rstrip()


def drawn(
    curves: Sequence[Curve],
    *,
    width: int,
    height: int,
    x_label: Callable[[float], str],
    log_x: bool = False,
    log_y: bool = False,
) -> list[str]:
    """Return curves in a frame, as lines.

    Args:
        curves: What to draw.
        width: Columns of the terminal.
        height: Lines of the curves themselves.
        x_label: Formats a value of the horizontal axis.
        log_x: Use a logarithmic horizontal axis. Points that are not positive are left out.
        log_y: The same for the vertical axis.
    """
    scaled = [_scaled(curve, log_x=log_x, log_y=log_y) for curve in curves]
    points = [(x, y) for curve in scaled for x, y in curve if y is not None]
    if not points:
        return ["  no finite value to draw" + (" on a logarithmic axis" if log_x or log_y else "")]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    columns = max(width - _LABEL_CHARS - 2, 10)
    canvas = Canvas(columns, height)
    for owner, curve in enumerate(scaled):
        before: tuple[int, int] | None = None
        for x, y in curve:
            here = None
            if y is not None:
                here = (
                    round(viewing.share(x, left, right) * (2 * columns - 1)),
                    round(viewing.share(y, low, high) * (4 * height - 1)),
                )
                canvas.line(before or here, here, owner)
            before = here
    has_colours = output.painted("x", "red") != "x"
    letters = not viewing.can_draw(chr(_BRAILLE)) or (len(curves) > 1 and not has_colours)
    rows = list(canvas.rows(letters=letters, colours=len(curves) > 1))
    lines = []
    for number, row in enumerate(rows):
        at = 1 - number / max(height - 1, 1)
        is_labelled = number in {0, height - 1} or number == height // 2
        label = f"{_unscaled(low + (high - low) * at, log_y):.4g}" if is_labelled else ""
        if low == high:
            # A constant is in the middle, and has one label.
            label = f"{_unscaled(low, log_y):.4g}" if number == height // 2 else ""
        elif number == 0:
            label = f"{_unscaled(high, log_y):.4g}"
        lines.append(f"{label:>{_LABEL_CHARS}} {_BAR if viewing.can_draw(_BAR) else '|'}{row}")
    begin, end = x_label(_unscaled(left, log_x)), x_label(_unscaled(right, log_x))
    space = max(columns - len(begin) - len(end), 1)
    lines.append(f"{'':>{_LABEL_CHARS}} {' '}{begin}{' ' * space}{end}")
    return lines


def legend(curves: Sequence[Curve], texts: Sequence[str]) -> list[str]:
    """Return a line for each curve: its mark, its name, and a text."""
    has_colours = output.painted("x", "red") != "x"
    return [
        f"  {output.painted('──' if viewing.can_draw('─') else '--', _colour(place))} "
        f"{curve.label}  {text}"
        if has_colours or len(curves) == 1
        else f"  {_letter(place)} {curve.label}  {text}"
        for place, (curve, text) in enumerate(zip(curves, texts, strict=True))
    ]


_BAR: Final = "┤"


def _scaled(curve: Curve, *, log_x: bool, log_y: bool) -> list[tuple[float, float | None]]:
    found: list[tuple[float, float | None]] = []
    for x, y in zip(curve.x, curve.y, strict=True):
        if log_x and x <= 0:
            continue
        gap = y is None or (log_y and y <= 0)
        found.append(
            (
                math.log10(x) if log_x else x,
                None if gap or y is None else math.log10(y) if log_y else y,
            )
        )
    return found


def _unscaled(value: float, log: bool) -> float:
    return 10**value if log else value


def _colour(owner: int) -> str:
    return _COLOURS[owner % len(_COLOURS)]


def _letter(owner: int) -> str:
    return _LETTERS[owner % len(_LETTERS)]
