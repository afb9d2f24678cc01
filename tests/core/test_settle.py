import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core.settle import Ready, Wait, judge, judge_again, judge_found

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("now_s", "first_s", "last_s", "mtime_age_s", "expected"),
    [
        (110.0, 100.0, 100.0, 10.0, Ready()),
        (104.0, 100.0, 100.0, 4.0, 6.0),
        (110.0, 100.0, 108.0, 2.0, 8.0),
        (110.0, 100.0, 100.0, 3.0, 7.0),  # written without an event
        (110.0, 100.0, 100.0, -300 * DAY_S, Ready()),  # from the future: only the events count
        (104.0, 100.0, 100.0, -300 * DAY_S, 6.0),
        (110.0, 100.0, 100.0, 300 * DAY_S, Ready()),
        (158.0, 100.0, 157.0, 1.0, 2.0),  # not beyond force_s
        (160.0, 100.0, 159.0, 1.0, Ready(forced=True)),
    ],
)
def test_judge(now_s: float, first_s: float, last_s: float, mtime_age_s: float, expected: Ready | float) -> None:
    verdict = judge(now_s=now_s, first_s=first_s, last_s=last_s, mtime_age_s=mtime_age_s, debounce_s=10.0, force_s=60.0)
    if isinstance(expected, Ready):
        assert verdict == expected
    else:
        assert isinstance(verdict, Wait)
        assert verdict.seconds == expected


@pytest.mark.parametrize(
    ("mtime_age_s", "expected"),
    [
        (10.0, Ready()),
        (DAY_S, Ready()),
        (4.0, Wait(seconds=6.0, reason="written just now")),
        (0.0, Wait(seconds=10.0, reason="written just now")),
        (-3.0, Wait(seconds=10.0, reason="written just now")),
        (-DAY_S, Ready()),
    ],
)
def test_judge_found(mtime_age_s: float, expected: Ready | Wait) -> None:
    assert judge_found(mtime_age_s=mtime_age_s, debounce_s=10.0) == expected


def test_judge_again() -> None:
    assert judge_again(now_s=5.0, offered_s=None, interval_s=60.0) == Ready()
    assert judge_again(now_s=65.0, offered_s=5.0, interval_s=60.0) == Ready()
    assert judge_again(now_s=30.0, offered_s=5.0, interval_s=60.0) == Wait(seconds=35.0, reason="captured a moment ago")


@given(
    first_s=st.floats(0, 1e6),
    gap_s=st.floats(0, 1e5),
    since_s=st.floats(0, 1e5),
    mtime_age_s=st.floats(-1e9, 1e9),
    debounce_s=st.floats(0, 3600),
    force_s=st.floats(0, 86_400),
)
def test_no_clock_keeps_a_file_waiting_beyond_force(
    first_s: float, gap_s: float, since_s: float, mtime_age_s: float, debounce_s: float, force_s: float
) -> None:
    last_s = first_s + gap_s
    now_s = last_s + since_s
    verdict = judge(
        now_s=now_s,
        first_s=first_s,
        last_s=last_s,
        mtime_age_s=mtime_age_s,
        debounce_s=debounce_s,
        force_s=force_s,
    )
    if isinstance(verdict, Wait):
        assert 0 < verdict.seconds <= debounce_s
        assert now_s + verdict.seconds <= first_s + force_s + 1e-3
    else:
        assert verdict.forced is False or now_s - first_s >= force_s
