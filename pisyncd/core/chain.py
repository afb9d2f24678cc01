"""Bounds along a line: each place has a low and a high, and from one place to the next it is at least a step.

    own      [10, 20]  --5-->  [-, -]  --5-->  [18, 40]
    tighter  [10, 20]  --5-->  [15, 35]  --5-->  [20, 40]

Pure arithmetic; pisyncd.core.timeline says what the places are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

Pair = tuple[float, float]  # low <= high: whole numbers, or infinite when not known
Steps = Sequence[int | None]  # one fewer than places; None: nothing is known of these two's order

_FAR = 2**60  # or many hostile steps together would not fit a database's 64 bits


def tighten(own: list[Pair], steps: Steps) -> tuple[list[Pair], list[bool]]:
    """Bounds made tighter by the places before and after, and where these did not fit: the place's own stay there."""
    lows = _push(own, steps)
    highs = _push(_mirror(own), steps[::-1])[::-1]
    pairs = [(low, -high) for (low, _), (high, _) in zip(lows, highs, strict=True)]
    odd = [a or b or low > high for (_, a), (_, b), (low, high) in zip(lows, highs, pairs, strict=True)]
    return [pair if pair[0] <= pair[1] else alone for pair, alone in zip(pairs, own, strict=True)], odd


def _push(own: list[Pair], steps: Steps) -> list[tuple[float, bool]]:
    """Each low, at least the one before and the step; or its own and True, if its high forbids that."""
    lows: list[tuple[float, bool]] = []
    for (low, high), step in zip(own, (None, *steps), strict=False):
        least = -inf if step is None else min(lows[-1][0] + step, _FAR)
        lows.append((low, True) if least > high else (max(low, least), False))
    return lows


def held(own: list[Pair], steps: Steps, first: int, last: int) -> tuple[int, int]:
    """The nearest before `first` whose high, and after `last` whose low, does not depend on these; or one outside."""
    end = len(own) - 1
    return end - _held_after(_mirror(own), steps[::-1], end - first), _held_after(own, steps, last)


def _held_after(own: list[Pair], steps: Steps, last: int) -> int:
    """_push with all lows at once that a place can have, whatever that of `last` is, until only one is left."""
    least, most = -inf, inf
    for here in range(last + 1, len(own)):
        low, high = own[here]
        if here > last + 1:  # the step from `last` itself may be another one than before
            step = steps[here - 1]
            if step is None:
                return here
            least, most = min(least + step, _FAR), min(most + step, _FAR)
            if most <= low or least > high:
                return here
        least, most = (max(low, least) if most <= high else low), min(high, max(low, most))
    return len(own)


def _mirror(own: list[Pair]) -> list[Pair]:
    """The same line seen from its end, so that highs are pushed as lows are."""
    return [(-high, -low) for low, high in reversed(own)]


def both(a: Pair, b: Pair) -> Pair:
    return max(a[0], b[0]), min(a[1], b[1])
