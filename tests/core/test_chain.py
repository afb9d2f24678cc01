"""Bounds along a line: by example, and against the rule written out."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pisyncd.core import chain

inf = float("inf")
ANY = (-inf, inf)


@pytest.mark.parametrize(
    ("what", "own", "steps", "tighter", "odd"),
    [
        ("the docstring", [(10, 20), ANY, (18, 40)], [5, 5], [(10, 20), (15, 35), (20, 40)], ""),
        ("just possible", [(5, 20), (0, 10)], [5], [(5, 5), (10, 10)], ""),
        ("impossible", [(6, 20), (0, 10)], [5], [(6, 20), (0, 10)], "01"),
        ("no order", [(6, 20), (0, 10)], [None], [(6, 20), (0, 10)], ""),
        ("between two that disagree", [(80, 90), (0, 99), (10, 20)], [0, 0], [(80, 90), (0, 99), (10, 20)], "012"),
        ("nothing", [], [], [], ""),
    ],
)  # fmt: skip
def test_tighten(
    what: str, own: list[chain.Pair], steps: list[int | None], tighter: list[chain.Pair], odd: str
) -> None:
    assert chain.tighten(own, steps) == (tighter, [str(place) in odd for place in range(len(own))]), what


@pytest.mark.parametrize(
    ("what", "own", "steps", "after"),
    [
        ("clear of the one before", [ANY, (0, 9), (14, 20)], [5, 5], 2),
        ("could be pushed by one", [ANY, (0, 9), (13, 20)], [5, 5], 3),
        ("pushed, whatever comes", [ANY, (0, 9), (-inf, 4)], [5, 5], 2),
        ("perhaps just not too late", [ANY, (0, 9), (-inf, 5)], [5, 5], 3),
        ("through one of which nothing is known", [ANY, (0, 9), ANY, (19, 30)], [5, 5, 5], 3),
        ("perhaps ignored on the way", [ANY, (4, 9), (2, 5), (-inf, 3)], [0, 0, 0], 4),
        ("no order there", [ANY, (0, 9), ANY, ANY], [5, 5, None], 3),
        ("no order here, but there may have been before", [ANY, (0, 9), (13, 20)], [None, 5], 3),
    ],
)
def test_held(what: str, own: list[chain.Pair], steps: list[int | None], after: int) -> None:
    assert chain.held(own, steps, 0, 0) == (-1, after), what
    mirrored = [(-high, -low) for low, high in reversed(own)]
    end = len(own) - 1
    assert chain.held(mirrored, steps[::-1], end, end) == (end - after, len(own)), what


@settings(deadline=None)
@given(st.data())
def test_what_is_held_does_not_depend_on_where_the_last_one_is(data: st.DataObject) -> None:
    """Against all: every low of the last one, also through another step than before."""
    near = st.integers(0, 12)
    side = st.one_of(st.none(), near)
    own = [ANY]
    for low, high in data.draw(st.lists(st.tuples(side, side), min_size=2, max_size=6)):
        pair = (-inf if low is None else low, inf if high is None else high)
        own.append((min(pair), max(pair)) if None not in (low, high) else pair)
    steps = data.draw(st.lists(st.one_of(near, near, near, st.none()), min_size=len(own) - 1, max_size=len(own) - 1))
    _, after = chain.held(own, steps, 0, 0)
    event(f"held {after < len(own)}")
    seen = set()
    for low in (-inf, *range(-5, 40)):
        seen.add(tuple(pushed(low, own, steps)[after:]))
    assert len(seen) == 1


def pushed(low: float, own: list[chain.Pair], steps: list[int | None]) -> list[tuple[float, bool]]:
    """The rule for lows written out, with no step from the first."""
    out = [(low, False)]
    for place in range(1, len(own)):
        step = steps[place - 1] if place > 1 else 0
        least = -inf if step is None else out[-1][0] + step
        ignored = least > own[place][1]
        out.append((own[place][0] if ignored else max(own[place][0], least), ignored))
    return out
