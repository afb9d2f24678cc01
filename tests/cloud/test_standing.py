"""The states of a device: the table, what time alone changes, muting, flapping; and a month as a fleet lives it."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloud.rules import standing as rules
from cloud.rules.calendar import Calendar
from cloud.rules.standing import FOREVER_MS, QUIET_STEP_MS, STATES, TROUBLED, Facts, Standing, Terms, Transition

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START = int(datetime(2026, 1, 5, 8, tzinfo=UTC).timestamp() * 1000)
UTC_DAYS = Calendar()
TERMS = Terms()
ENROLLED = Standing(dk=1, since_ms=START - DAY_MS)


def judge(before: Standing, facts: Facts, now_ms: int) -> tuple[Standing, Transition | None]:
    return rules.judge(before, facts, UTC_DAYS, TERMS, now_ms)


def heard(seen_ms: int, events: int = 1, **more: object) -> Facts:
    return Facts(seen_ms=seen_ms, events=events, **more)  # type: ignore[arg-type]


def healthy_for(days: int) -> tuple[Standing, int]:
    """A device that was heard of every hour for so long, and its last contact."""
    standing, last = ENROLLED, START
    for hour in range(days * 24):
        last = START + hour * HOUR_MS
        standing, _ = judge(standing, heard(last, hour + 1), last)
    return standing, last


def test_a_device_is_new_until_it_is_heard_of() -> None:
    standing, change = judge(ENROLLED, Facts(seen_ms=None, events=0), START + 300 * DAY_MS)
    assert (standing.state, change, standing.due_at_ms) == ("new", None, None)
    standing, change = judge(ENROLLED, heard(START), START + 5)
    assert standing.state == "healthy"
    assert change == Transition(dk=1, old="new", new="healthy", reason="heard", detail="", at_ms=START)


def test_failing_begins_with_the_streak_and_ends_with_it() -> None:
    standing, last = healthy_for(3)
    alert_ms = last + 600_000
    bad = heard(alert_ms, 100, alert_at_ms=alert_ms, failures=3, error_code="card-full")
    standing, change = judge(standing, bad, alert_ms + 50)
    assert change is not None
    assert (change.new, change.reason, change.at_ms) == ("failing", "failures-in-a-row", alert_ms)
    assert change.detail == "3 syncs in a row failed: card-full"
    again, none = judge(standing, replace(bad, seen_ms=alert_ms + 60_000, events=101, failures=4), alert_ms + 60_001)
    assert none is None
    assert again.since_ms == alert_ms
    _, change = judge(again, heard(alert_ms + 120_000, 102), alert_ms + 120_001)
    assert change is not None
    assert (change.old, change.new) == ("failing", "healthy")


def test_a_silence_is_quiet_first_and_overdue_when_it_is_unlikely() -> None:
    standing, last = healthy_for(30)
    facts = heard(last, standing.heard_events)
    seen = []
    while standing.due_at_ms is not None:
        now_ms = standing.due_at_ms
        assert judge(standing, facts, now_ms - 1)[1] is None
        standing, change = judge(standing, facts, now_ms)
        if change is not None:
            seen.append((change.new, (change.at_ms - last) / DAY_MS))
    assert [state for state, _ in seen] == ["expected-quiet", "overdue"]
    assert seen[0][1] == 1.0
    assert 2 <= seen[1][1] <= 4


def test_who_fails_and_falls_silent_is_failing_until_the_silence_is_unlikely() -> None:
    standing, last = healthy_for(30)
    facts = heard(last + 1, 9999, alert_at_ms=last, failures=5)
    standing, _ = judge(standing, facts, last + 2)
    standing, change = judge(standing, facts, last + DAY_MS + HOUR_MS)
    assert (standing.state, change) == ("failing", None)
    for _ in range(2):
        # The first time nobody had needed the exact moment yet.
        assert (standing.state, standing.due_at_ms is None) == ("failing", False)
        standing, change = judge(standing, facts, standing.due_at_ms or 0)
    assert standing.state == "overdue"
    assert change is not None
    assert "had been failing" in change.detail


def test_a_device_that_comes_back_with_a_backlog_recovers_and_says_when() -> None:
    standing, last = healthy_for(10)
    standing, _ = judge(standing, heard(last, standing.heard_events), last + 20 * DAY_MS)
    assert standing.state == "overdue"
    back = last + 20 * DAY_MS
    standing, change = judge(standing, heard(back, 1000, queue_depth=1000), back)
    assert change is not None
    assert (change.new, standing.clear_at_ms) == ("recovering", None)
    standing, _ = judge(standing, heard(back + 60_000, 1001, queue_depth=800), back + 60_000)
    assert standing.clear_at_ms == back + 60_000 + 800 * 60_000 // 200
    standing, _ = judge(standing, heard(back + 120_000, 1002, queue_depth=900), back + 120_000)
    assert (standing.state, standing.clear_at_ms) == ("recovering", None)
    standing, change = judge(standing, heard(back + 180_000, 1003, queue_depth=10), back + 180_000)
    assert change is not None
    assert (change.new, change.reason) == ("healthy", "backlog-gone")


def test_a_growing_backlog_of_a_healthy_device_is_no_recovery() -> None:
    standing, last = healthy_for(2)
    standing, change = judge(standing, heard(last + 1, 9999, queue_depth=10_000), last + 1)
    assert (standing.state, change) == ("healthy", None)


def test_muting_covers_everything_and_loses_nothing() -> None:
    standing, last = healthy_for(3)
    standing, change = rules.mute(standing, last + 5 * DAY_MS, "rebuilding", last)
    assert change is not None
    assert (change.new, standing.detail, standing.under) == ("muted", "rebuilding", "healthy")
    facts = heard(last + 1, 9999, alert_at_ms=last + 1, failures=3)
    standing, change = judge(standing, facts, last + 2)
    assert (change, standing.state, standing.under) == (None, "muted", "failing")
    standing, change = judge(standing, replace(facts, seen_ms=last + 5 * DAY_MS - 1), last + 5 * DAY_MS)
    assert change is not None
    assert (change.old, change.new, change.reason) == ("muted", "failing", "mute-ended")
    assert standing.muted_until_ms is None


def test_unmuting_shows_what_it_would_be() -> None:
    standing, last = healthy_for(1)
    standing, _ = rules.mute(standing, FOREVER_MS, "", last)
    assert judge(standing, heard(last + 1, 99), last + 400 * DAY_MS)[0].state == "muted"
    standing, change = rules.unmute(standing, last + 5)
    assert change is not None
    assert (change.old, change.new, standing.due_at_ms) == ("muted", "healthy", last + 5)
    assert rules.unmute(standing, last + 6) == (standing, None)


def test_retired_is_for_good_whatever_is_heard() -> None:
    standing, last = healthy_for(1)
    standing, change = judge(standing, heard(last, 24, shut_out=True), last + 5)
    assert change is not None
    assert (change.new, standing.due_at_ms) == ("retired", None)
    assert rules.mute(standing, FOREVER_MS, "", last) == (standing, None)


def flap(standing: Standing, last: int, times: int, every_ms: int) -> tuple[Standing, list[Transition], int]:
    """Fails and succeeds in turn."""
    changes, events = [], standing.heard_events
    for _ in range(times):
        last += every_ms
        events += 3
        standing, change = judge(standing, heard(last, events, alert_at_ms=last, failures=3), last)
        changes += [change] if change else []
        last += every_ms
        events += 1
        standing, change = judge(standing, heard(last, events), last)
        changes += [change] if change else []
    return standing, changes, last


def test_flapping_is_told_once_and_ends_when_it_keeps_still() -> None:
    standing, last = healthy_for(3)
    standing, changes, last = flap(standing, last, 40, 15 * 60_000)
    assert len(changes) <= 12
    assert (standing.state, standing.flapping) == ("failing", True)
    facts = heard(last, standing.heard_events)
    assert standing.due_at_ms is not None
    assert last < standing.due_at_ms <= last + 2 * DAY_MS
    facts = heard(standing.due_at_ms, standing.heard_events + 1)
    standing, change = judge(standing, facts, standing.due_at_ms)
    assert (standing.state, standing.flapping) == ("healthy", False)
    assert change is not None


def test_trouble_once_a_day_is_no_flapping() -> None:
    standing, last = healthy_for(3)
    standing, changes, _ = flap(standing, last, 10, 12 * HOUR_MS)
    assert not standing.flapping
    assert len(changes) == 20


steps = st.lists(
    st.tuples(
        st.integers(1, 20 * 24 * 60),  # minutes that pass
        st.sampled_from(["heard", "fails", "recovers", "backlog", "silence", "mute", "unmute", "shut-out", "due"]),
        st.integers(0, 500),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_happens_the_laws_hold(script: list[tuple[int, str, int]]) -> None:
    standing, facts, now_ms = ENROLLED, Facts(seen_ms=None, events=0), START
    changes: list[Transition] = []

    def took(result: tuple[Standing, Transition | None]) -> Standing:
        after, change = result
        if change is not None:
            changes.append(change)
            assert change.old != change.new == after.state
            assert change.at_ms <= now_ms
        assert after.state in STATES
        assert (after.state == "muted") == (after.muted_until_ms is not None)
        assert after.state in ("muted", after.under)
        return after

    for minutes, what, number in script:
        now_ms += minutes * 60_000
        if what in ("heard", "fails", "recovers", "backlog"):
            alert = now_ms if what == "fails" and facts.alert_at_ms is None else facts.alert_at_ms
            alert = None if what == "recovers" else alert
            facts = replace(facts, seen_ms=now_ms, events=facts.events + 1, alert_at_ms=alert, failures=3 * bool(alert))
            facts = replace(facts, queue_depth=number if what == "backlog" else facts.queue_depth)
        elif what == "due" and standing.due_at_ms is not None:
            now_ms = max(now_ms, standing.due_at_ms)
        elif what == "mute":
            standing = took(rules.mute(standing, now_ms + number * HOUR_MS + 1, "", now_ms))
        elif what == "unmute":
            standing = took(rules.unmute(standing, now_ms))
        elif what == "shut-out":
            facts = replace(facts, shut_out=number % 7 == 0)
        standing = took(judge(standing, facts, now_ms))
        assert took(judge(standing, facts, now_ms)) == standing, "judging again changes nothing"
        if standing.due_at_ms is not None:
            assert standing.due_at_ms > now_ms
            early_ms = max(now_ms, standing.due_at_ms - QUIET_STEP_MS)
            assert judge(standing, facts, early_ms)[1] is None, "nothing changes long before it is due"
    for earlier, later in itertools.pairwise(changes):
        assert earlier.new == later.old, "transitions are a chain"
        assert earlier.at_ms <= later.at_ms


@pytest.mark.parametrize("seed", range(3))
def test_a_month_of_a_fleet(seed: int) -> None:
    """School weeks, generator hours, always on, one that dies: nobody is troubled but the dead, who is found."""
    rng = random.Random(seed)
    patterns = {
        "school": lambda day, hour: day % 7 < 5 and 8 <= hour < 15,
        "generator": lambda day, hour: 18 <= hour < 20,
        "always": lambda day, hour: True,
        "dead": lambda day, hour: day < 40 and day % 7 < 5 and 8 <= hour < 15,
    }
    for name, pattern in patterns.items():
        standing, facts = ENROLLED, Facts(seen_ms=None, events=0)
        troubled: list[int] = []
        for number in range(60 * 24):
            day, hour = divmod(number, 24)
            now_ms = START - 8 * HOUR_MS + number * HOUR_MS
            if pattern(day, hour) and rng.random() < 0.9:
                facts = Facts(seen_ms=now_ms + rng.randrange(HOUR_MS), events=facts.events + 1)
            now_ms += HOUR_MS
            standing, change = judge(standing, facts, now_ms)
            if change is not None and change.new in TROUBLED:
                troubled.append(day)
        if name == "dead":
            assert len(troubled) == 1
            assert 42 <= troubled[0] <= 47
        else:
            assert troubled == [], name
