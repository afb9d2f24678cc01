"""How many batches are under way, on links whose best is known."""

from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import window
from pisyncd.core.window import MOST, START


def reached(*, round_trip_s: float, per_batch_s: float) -> int:
    """On a link where a batch takes `per_batch_s` and its answer `round_trip_s` more, and the others wait behind."""
    now = START
    for _ in range(12):
        slowest_s = max(round_trip_s + per_batch_s, now * per_batch_s)
        now = window.adjust(now, slowest_s=slowest_s, quickest_s=round_trip_s + per_batch_s)
    return now


def test_a_long_link_gets_as_many_as_fill_it() -> None:
    full = (0.3 + 0.16) / 0.16
    assert full <= reached(round_trip_s=0.3, per_batch_s=0.16) <= full + 2
    assert reached(round_trip_s=0.8, per_batch_s=0.05) == MOST


def test_a_slow_link_without_delay_gets_few() -> None:
    assert reached(round_trip_s=0.01, per_batch_s=1.0) <= START
    assert reached(round_trip_s=0.01, per_batch_s=6.0) == 1


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), max_size=40))
def test_it_stays_within_bounds(looks: list[tuple[float, float]]) -> None:
    now = START
    for slowest_s, quickest_s in looks:
        now = window.adjust(now, slowest_s=slowest_s, quickest_s=quickest_s)
        assert 1 <= now <= MOST
