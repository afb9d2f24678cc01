"""The rhythm in which a device is heard of, learnt from its contacts: how likely each weekday is, and at which hours.

A day counts once: with contact or without. Older weeks count less and less (DECAY per open day of the same weekday).
Days on which school is closed teach nothing. A silence is overdue once its probability under the rhythm has fallen
below a limit:

    P(silence) = product over the open days since the last contact of (1 - p(weekday)),
    p = (days with contact + PRIOR x p of all weekdays) / (days + PRIOR), at most P_MAX

so that a weekday of which little is known counts like the others, the most regular device has to miss two days, and one
that comes now and then is missed after weeks. Of a day that has not ended only the hours count at which the device is
usually heard of. Times are wall milliseconds.
"""

from __future__ import annotations

import math

import msgspec

from cloud.rules.calendar import DAY_S, Calendar, weekday

DECAY = 0.9
PRIOR = 3.0
P_MAX = 0.9
#: What a longer silence would teach, its beginning has taught already; a device that was away for months comes back
#: with the rhythm that it had.
TAUGHT_DAYS_MAX = 28
#: However little is expected, a silence of so many days is overdue.
DAYS_MAX = 400
HOUR_S = 3600


class Rhythm(msgspec.Struct, kw_only=False, array_like=True, gc=False):
    """Per weekday: days seen, days with contact, and the weight of each hour; the last contact's day and hour."""

    days: list[float]
    heard: list[float]
    hours: list[dict[int, float]]
    day: int = -1
    hour: int = -1


_decode = msgspec.json.Decoder(Rhythm).decode


def load(text: str) -> Rhythm:
    """The rhythm as it is stored; a new one for ''."""
    if text:
        return _decode(text)
    return Rhythm([0.0] * 7, [0.0] * 7, [{} for _ in range(7)])


def dump(rhythm: Rhythm) -> str:
    """As it is stored."""
    return msgspec.json.encode(rhythm).decode()


def learn(rhythm: Rhythm, at_ms: int, calendar: Calendar) -> bool:
    """Counts a contact, in place; whether anything changed. One that is not later than the last teaches nothing."""
    local_s = calendar.local_s(at_ms)
    day, hour = local_s // DAY_S, local_s % DAY_S // HOUR_S
    if (day, hour) <= (rhythm.day, rhythm.hour):
        return False
    if day > rhythm.day:
        if rhythm.day >= 0:
            for missed in range(rhythm.day + 1, min(day, rhythm.day + 1 + TAUGHT_DAYS_MAX)):
                if calendar.is_open(missed):
                    _count(rhythm, weekday(missed), 0.0)
        if calendar.is_open(day):
            _count(rhythm, weekday(day), 1.0)
    rhythm.day, rhythm.hour = day, hour
    if calendar.is_open(day):
        hours = rhythm.hours[weekday(day)]
        hours[hour] = round(hours.get(hour, 0.0) + 1.0, 3)
    return True


def _count(rhythm: Rhythm, which: int, heard: float) -> None:
    rhythm.days[which] = round(rhythm.days[which] * DECAY + 1.0, 3)
    rhythm.heard[which] = round(rhythm.heard[which] * DECAY + heard, 3)
    if heard:
        hours = rhythm.hours[which]
        rhythm.hours[which] = {
            hour: fresh for hour, weight in hours.items() if (fresh := round(weight * DECAY, 3)) > 0.05
        }


def likely(rhythm: Rhythm) -> list[float]:
    """How likely a contact is on each weekday, Monday first, when school is open."""
    # After one contact nothing is known yet of how often they come: 0.4.
    overall = (sum(rhythm.heard) + 1.0) / (sum(rhythm.days) + 4.0)
    return [
        min(P_MAX, (heard + PRIOR * overall) / (days + PRIOR))
        for heard, days in zip(rhythm.heard, rhythm.days, strict=True)
    ]


def overdue_at(rhythm: Rhythm, last_ms: int, calendar: Calendar, improbable: float) -> int:
    """When the silence since `last_ms` becomes less likely than `improbable` (0.01), to the hour."""
    missing = -math.log(improbable)
    first = calendar.local_s(last_ms) // DAY_S + 1
    p_of = likely(rhythm)
    surprise_of = [-math.log(1.0 - p) for p in p_of]
    for day in range(first, first + DAYS_MAX):
        if not calendar.is_open(day):
            continue
        which = weekday(day)
        if surprise_of[which] >= missing:
            hour = _hour_when(rhythm.hours[which], (1.0 - math.exp(-missing)) / p_of[which])
            return calendar.at_ms(day * DAY_S + hour * HOUR_S)
        missing -= surprise_of[which]
    return calendar.at_ms((first + DAYS_MAX) * DAY_S)


def never_overdue_before(last_ms: int, calendar: Calendar, improbable: float) -> int:
    """Whatever the rhythm, `overdue_at` is not earlier: so many days it takes the most regular device."""
    days = math.ceil(math.log(improbable) / math.log(1.0 - P_MAX) - 1e-9)
    return calendar.at_ms((calendar.local_s(last_ms) // DAY_S + days) * DAY_S + HOUR_S)


def _hour_when(hours: dict[int, float], share: float) -> int:
    """The end of the hour (1-24) by which that share of a day's contacts has usually come."""
    share *= sum(hours.values()) or 24.0
    for hour in range(23):
        share -= hours.get(hour, 0.0) if hours else 1.0
        if share <= 0.0:
            return hour + 1
    return 24
