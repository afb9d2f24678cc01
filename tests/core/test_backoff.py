"""When to try again: tables and properties of the pure rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import backoff
from pisyncd.core.backoff import Admit, Breaker, Policy, Wait

POLICY = Policy(base_s=5, cap_s=1800, quick_retries=3, quick_s=5)
chances = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 2.5, 5), (3, 2.5, 5), (4, 1, 5), (5, 1, 10), (6, 1, 20), (12, 1, 1280), (13, 1, 1800), (500, 1, 1800)],
)
def test_the_waits_double_up_to_the_cap_with_full_jitter(failures, least, most):
    waits = [backoff.delay(POLICY, failures, chance / 100) for chance in range(100)]
    assert least <= min(waits)
    assert max(waits) <= most
    assert max(waits) > most * 0.9


def test_the_jitter_is_inside_the_cap_so_a_herd_at_the_cap_still_spreads():
    waits = sorted(backoff.delay(POLICY, 100, chance / 10) for chance in range(10))
    assert waits[-1] - waits[0] > 1000


@given(st.integers(1, 200), chances, st.floats(0, 3600))
def test_retry_after_wins(failures, chance, retry_after_s):
    wait = backoff.delay(POLICY, failures, chance, retry_after_s)
    assert retry_after_s <= wait <= retry_after_s * 1.1


def test_attempts_side_by_side_count_once():
    once = backoff.after_failure(Breaker(), POLICY, 1000, 0.5)
    assert backoff.after_failure(once, POLICY, 1001, 0.5) == once
    assert once.failures == 1
    told = backoff.after_failure(once, POLICY, 1001, 0.0, retry_after_s=100)
    assert told == Breaker(failures=1, due_at_ms=101_001)


@given(st.integers(0, 50), st.integers(0, 10**9), st.integers(0, 10**9), st.booleans())
def test_a_breaker_admits_all_when_closed_none_until_due_then_one(failures, due, now, trial_running):
    decision = backoff.admit(Breaker(failures=failures, due_at_ms=due), now, trial_running)
    if failures == 0:
        assert decision == Admit(trial=False)
    elif now < due:
        assert isinstance(decision, Wait)
        assert decision.seconds == (due - now) / 1000
    elif trial_running:
        assert isinstance(decision, Wait)
    else:
        assert decision == Admit(trial=True)


LADDER = [(1, 25), (2, 125), (3, 625), (4, 3125), (5, 15625), (6, 78125), (9, 86400)]


@pytest.mark.parametrize(("attempts", "about_s"), LADDER)
def test_one_refused_item_climbs_its_own_ladder(attempts, about_s):
    assert backoff.item_delay(attempts, 0.0) == pytest.approx(about_s * 0.9)
    assert backoff.item_delay(attempts, 0.999) == pytest.approx(about_s * 1.1, rel=0.01)
