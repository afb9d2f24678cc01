"""When a device asks for changes of records: never while it should wait, and never later than promised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import pull
from pisyncd.core.backoff import Wait
from pisyncd.core.pull import Ask, Need, Past, Rule

HOUR_MS = 3_600_000


def asks(rule=Rule(), past=Past(), now_ms=10 * HOUR_MS, **need):  # noqa: B008
    return pull.decide(rule, past, Need(**need), now_ms)


def test_records_here_or_a_link_that_came_up_are_worth_a_wait():
    assert asks(records=True, online_s=1e6) == Ask(300.0)
    assert asks(online_s=60.0) == Ask(300.0)
    assert asks(Rule(wait_s=900), Past(held_s=48.0), records=True) == Ask(48.0)


def test_who_waits_gets_a_short_request_whatever_went_before():
    assert asks(past=Past(not_before_ms=99 * HOUR_MS), asked=True) == Ask(0.0)
    assert asks(records=True, trial=True) == Ask(0.0)
    assert asks(records=True, more=True) == Ask(0.0)


def test_quiet_devices_ask_on_occasions_and_now_and_then():
    past = Past(asked_at_ms=10 * HOUR_MS - 60_000)
    quiet = {"online_s": 1e6}
    assert asks(past=past, **quiet) == Wait(21_540.0, "nothing is expected")
    assert asks(past=past, occasion=True, **quiet) == Wait(240.0, "nothing is expected")
    assert asks(past=past, now_ms=11 * HOUR_MS, occasion=True, **quiet) == Ask(0.0)
    assert asks(past=past, now_ms=17 * HOUR_MS, **quiet) == Ask(0.0)
    assert asks(Rule(wait_s=0), past, records=True) == Wait(21_540.0, "nothing is expected")
    assert asks(past=Past(), **quiet) == Ask(0.0)


@pytest.mark.parametrize(
    ("took_s", "wait_s", "moved", "more", "pause_s"),
    [
        (0.0, 300.0, False, False, 1.0),
        (300.0, 300.0, False, False, 1.0),
        (5.0, 300.0, True, False, 1.0),
        (1.0, 0.0, True, True, 0.0),
        (1.0, 0.0, False, True, 1.0),
    ],
)
def test_between_two_answers(took_s, wait_s, moved, more, pause_s):
    after = pull.answered(Past(), 0, took_s=took_s, wait_s=wait_s, moved=moved, more=more)
    assert after.not_before_ms == pause_s * 1000


def test_empty_answers_that_come_at_once_are_asked_for_less_and_less():
    past, pauses = Past(), []
    for _ in range(12):
        past = pull.answered(past, 0, took_s=0.0, wait_s=300.0, moved=False, more=False)
        pauses.append(past.not_before_ms / 1000)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert pull.answered(past, 0, took_s=1.0, wait_s=300.0, moved=True, more=False).empty == 0


def test_a_way_that_cuts_waits_is_learned_and_forgotten_with_the_network():
    past = pull.cut(Past(), 0, 60.0)
    assert past.held_s == 48.0
    assert pull.cut(past, 0, 6.0).held_s == pull.HELD_MIN_S
    assert pull.on_another_network(past).held_s == Past().held_s


def test_refusals_are_asked_again_after_a_minute_to_six_hours():
    past, waits = Past(), []
    for _ in range(12):
        past = pull.refused(past, 0, 0.999999)
        waits.append(round(past.not_before_ms / 1000))
    assert waits[:4] == [60, 120, 240, 480]
    assert waits[-1] == 21_600
    assert pull.refused(Past(), 0, 0.5, 100.0).not_before_ms == 105_000


@given(
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1e7),
    st.sampled_from([0.0, 300.0]),
)
def test_every_wait_ends_and_none_is_longer_than_allowed(now_ms, asked_ms, occasion, records, online_s, wait_s):
    rule = Rule(wait_s=wait_s)
    need = Need(occasion=occasion, records=records, online_s=online_s)
    decision = pull.decide(rule, Past(asked_at_ms=min(asked_ms, now_ms)), need, now_ms)
    if isinstance(decision, Ask):
        assert 0 <= decision.wait_s <= wait_s
    else:
        assert 0 < decision.seconds <= rule.idle_s
