"""Vitals: what is worth a message, and that it never becomes many."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pisyncd.core import telling
from pisyncd.core.telling import worth_telling
from pisyncd.core.vitals import CommandResult, Throttled, Vitals

WELL = Vitals(
    version="1.0", temperature_c=55.0, disk_free_bytes=60, disk_total_bytes=100, clock_trusted=True, failed_files=0,
    owed_messages=3, throttled=Throttled(),
)  # fmt: skip
HOUR_S = telling.SPACING_S


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, False),
        ({"temperature_c": 79.0}, False),
        ({"temperature_c": 81.0}, True),
        ({"disk_free_bytes": 21}, False),
        ({"disk_free_bytes": 19}, True),
        ({"disk_free_bytes": None}, False),
        ({"owed_messages": 999, "cpu_percent": 99.0, "uptime_s": 7}, False),
        ({"failed_files": 1}, True),
        ({"clock_trusted": False}, True),
        ({"version": "1.1"}, True),
        ({"throttled": Throttled(under_voltage=True)}, True),
        ({"throttled": None}, True),
        ({"card_wear_percent": 10.0}, True),
    ],
)
def test_what_a_person_would_act_upon(changed: dict[str, object], told: bool) -> None:
    now = replace(WELL, **changed)
    assert worth_telling(WELL, now, HOUR_S) == told
    assert not worth_telling(WELL, now, HOUR_S - 1)
    assert worth_telling(WELL, now, telling.DAILY_S)


def test_the_first_and_the_end_of_a_command_are_told_at_once() -> None:
    assert worth_telling(None, WELL, 0.0)
    assert worth_telling(WELL, replace(WELL, commands=[CommandResult(id="c", state="done")]), 0.0)


@given(
    st.lists(st.tuples(st.floats(20, 99), st.integers(0, 100), st.booleans(), st.booleans()), min_size=2, max_size=600)
)
def test_however_wild_a_machine_is_it_tells_at_most_hourly_and_at_least_daily(
    samples: list[tuple[float, int, bool, bool]],
) -> None:
    told: list[int] = []
    before: Vitals | None = None
    for minute, (warm, free, trusted, low) in enumerate(samples * 8):
        at_s = minute * 300
        throttled = Throttled(under_voltage=low)
        now = replace(WELL, temperature_c=warm, disk_free_bytes=free, clock_trusted=trusted, throttled=throttled)
        if worth_telling(before, now, at_s - told[-1] if told else 0.0):
            before, told = now, [*told, at_s]
    gaps = [later - earlier for earlier, later in pairwise(told)]
    assert all(telling.SPACING_S <= gap <= telling.DAILY_S for gap in gaps)
