"""Calendars, and the rhythm that a device learns: when a silence is normal and when it is not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.rules import calendar as calendars
from cloud.rules import rhythm as rhythms
from cloud.rules.calendar import DAY_S, Calendar

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
KAMPALA = Calendar(timezone="Africa/Kampala")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def day(text: str) -> int:
    return at(text) // DAY_MS


def calendar_of(**body: Any) -> Calendar:
    found, faults = calendars.parse({"default": body}, "UTC")
    assert faults == []
    return found["default"]


def test_a_calendar_knows_weekdays_terms_and_holidays() -> None:
    known = calendar_of(
        timezone="Africa/Kampala",
        open_days=["mon", "Tuesday", "wed", "thu", "fri"],
        terms=[{"from": "2026-02-02", "to": "2026-05-01"}],
        holidays=["2026-03-09", {"from": "2026-04-03", "to": "2026-04-06"}],
    )
    opened = {text: known.is_open(day(text)) for text in (
        "2026-02-01", "2026-02-02", "2026-02-07", "2026-03-09", "2026-03-10", "2026-04-03", "2026-04-06", "2026-04-07",
        "2026-05-01", "2026-05-04",
    )}  # fmt: skip
    assert [text for text, is_open in opened.items() if is_open] == [
        "2026-02-02", "2026-03-10", "2026-04-07", "2026-05-01"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"a": "x"}, "a: a calendar is"),
        ({"a": {"zone": "x"}}, "unknown key 'zone'"),
        ({"a": {"timezone": "Mars/Base"}}, "a.timezone: there is no 'Mars/Base'"),
        ({"a": {"timezone": "../../etc/passwd"}}, "a.timezone"),
        ({"a": {"open_days": ["mo", "xx"]}}, "a.open_days"),
        ({"a": {"open_days": []}}, "a.open_days"),
        ({"a": {"terms": "always"}}, "a.terms: a list"),
        ({"a": {"terms": [{"from": "2026-02-02"}]}}, "a.terms"),
        ({"a": {"terms": [{"from": "2026-02-02", "to": "2026-02-01"}]}}, "a.terms"),
        ({"a": {"holidays": ["2026-02-30"]}}, "a.holidays"),
    ],
)
def test_every_fault_of_a_calendar_is_named(raw: dict[str, Any], told: str) -> None:
    _, faults = calendars.parse({**raw, "b": {"nonsense": 1}}, "UTC")
    assert any(fault.startswith(told) or told in fault for fault in faults)
    assert any(fault.startswith("b:") for fault in faults)


@given(st.integers(0, 2**31), st.sampled_from(["UTC", "Africa/Kampala", "Asia/Kathmandu", "America/New_York"]))
def test_local_time_and_back(second: int, zone: str) -> None:
    known = Calendar(timezone=zone)
    back_ms = known.at_ms(known.local_s(second * 1000))
    # Where a clock is set back an hour is there twice.
    assert abs(back_ms - second * 1000) in (0, HOUR_MS)


def contacts(first: str, days: int, calendar: Calendar, hours: dict[int, tuple[int, ...]], *, seed: int = 0,
             chance: float = 1.0, open_only: bool = True) -> Iterator[int]:  # fmt: skip
    """Moments of contact: on each weekday at these local hours, each day with this chance."""
    rng = random.Random(seed)
    for number in range(day(first), day(first) + days):
        if (open_only and not calendar.is_open(number)) or rng.random() >= chance:
            continue
        for hour in hours.get(calendars.weekday(number), ()):
            yield calendar.at_ms(number * DAY_S + hour * 3600) + rng.randrange(HOUR_MS)


SCHOOL = dict.fromkeys(range(5), tuple(range(8, 15)))
EVENING = dict.fromkeys(range(7), (18, 19))
ALWAYS = dict.fromkeys(range(7), tuple(range(24)))
WEEKLY = {0: (10,)}


def lived(moments: Iterator[int], calendar: Calendar) -> tuple[int, rhythms.Rhythm, int]:
    """(how often it was held overdue though it came back, the rhythm, the last contact)."""
    rhythm, last, false = rhythms.load(""), 0, 0
    for moment in moments:
        if last and rhythms.overdue_at(rhythm, last, calendar, 0.01) <= moment:
            false += 1
        rhythms.learn(rhythm, moment, calendar)
        rhythm = rhythms.load(rhythms.dump(rhythm))
        last = moment
    return false, rhythm, last


@pytest.mark.parametrize(
    ("hours", "calendar", "within_days"),
    [
        pytest.param(SCHOOL, KAMPALA, (2, 7), id="school-week-without-a-calendar"),
        pytest.param(SCHOOL, calendar_of(open_days=["mon", "tue", "wed", "thu", "fri"]), (2, 5), id="school-week"),
        pytest.param(EVENING, KAMPALA, (2, 4), id="generator-hours"),
        pytest.param(ALWAYS, KAMPALA, (1.5, 4), id="always-on"),
        pytest.param(WEEKLY, KAMPALA, (13, 30), id="weekly"),
    ],
)
def test_the_living_are_never_overdue_and_the_dead_are_found(
    hours: dict[int, tuple[int, ...]], calendar: Calendar, within_days: tuple[float, float]
) -> None:
    false, rhythm, last = lived(contacts("2026-01-05", 60, calendar, hours), calendar)
    assert false == 0
    silent_days = (rhythms.overdue_at(rhythm, last, calendar, 0.01) - last) / DAY_MS
    assert within_days[0] <= silent_days <= within_days[1]


def test_holidays_are_no_reason() -> None:
    calendar = calendar_of(
        timezone="Africa/Kampala", open_days=["mon", "tue", "wed", "thu", "fri"],
        terms=[{"from": "2026-01-05", "to": "2026-03-27"}, {"from": "2026-04-27", "to": "2026-07-31"}],
    )  # fmt: skip
    false, _, _ = lived(contacts("2026-01-05", 160, calendar, SCHOOL), calendar)
    assert false == 0
    _, rhythm, last = lived(contacts("2026-01-05", 82, calendar, SCHOOL), calendar)
    overdue_ms = rhythms.overdue_at(rhythm, last, calendar, 0.01)
    assert at("2026-04-28T00:00") < overdue_ms < at("2026-05-01T00:00")


@pytest.mark.parametrize("seed", range(20))
def test_an_irregular_device_is_seldom_held_overdue(seed: int) -> None:
    moments = list(contacts("2026-01-05", 365, KAMPALA, SCHOOL, seed=seed, chance=0.4))
    false, rhythm, last = lived(iter(moments), KAMPALA)
    silences = len({moment // DAY_MS for moment in moments})
    assert false <= max(2, silences * 0.05)
    assert 3 <= (rhythms.overdue_at(rhythm, last, KAMPALA, 0.01) - last) / DAY_MS <= 40


def test_a_long_absence_does_not_undo_what_was_learnt() -> None:
    _, before, _ = lived(contacts("2026-01-05", 60, KAMPALA, ALWAYS), KAMPALA)
    rhythms.learn(before, at("2026-12-01T10:00"), KAMPALA)
    assert all(p > 0.25 for p in rhythms.likely(before))


def test_a_clock_that_is_set_back_teaches_nothing() -> None:
    rhythm = rhythms.load("")
    assert rhythms.learn(rhythm, at("2026-01-05T10:00"), KAMPALA)
    kept = rhythms.dump(rhythm)
    assert not rhythms.learn(rhythm, at("2026-01-04T10:00"), KAMPALA)
    assert not rhythms.learn(rhythm, at("2026-01-05T10:30"), KAMPALA)
    assert rhythms.dump(rhythm) == kept


@given(
    st.lists(st.integers(0, 200 * 24), min_size=1, max_size=60, unique=True),
    st.sampled_from(["UTC", "Africa/Kampala", "America/New_York"]),
    st.floats(0.0001, 0.2),
)
def test_the_less_likely_a_silence_may_be_the_later_it_is_overdue(
    hours: list[int], zone: str, improbable: float
) -> None:
    calendar = Calendar(timezone=zone)
    rhythm, last = rhythms.load(""), 0
    for hour in sorted(hours):
        last = at("2026-01-01T00:00") + hour * HOUR_MS
        rhythms.learn(rhythm, last, calendar)
    sooner = rhythms.overdue_at(rhythm, last, calendar, improbable)
    later = rhythms.overdue_at(rhythm, last, calendar, improbable / 2)
    assert last < rhythms.never_overdue_before(last, calendar, improbable) <= sooner <= later
    assert later - last <= (rhythms.DAYS_MAX + 2) * DAY_MS
    assert len(rhythms.dump(rhythm)) < 6000
