"""Drawings and words of the pages: what is not nothing is seen, what is seen is within the drawing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.dashboard import charts, words
from cloud.dashboard.charts import HEIGHT, LEAST, Series
from cloud.flows.fleet import FaultRow, Hour, Snapshot
from pisyncd.core.vitals import Vitals

DAY_MS = 86_400_000
# A Thursday.
NOW_MS = 1_790_000_000_000 + 3 * DAY_MS
counts = st.one_of(st.integers(0, 3), st.integers(0, 2**53))


@st.composite
def several(draw: st.DrawFn) -> tuple[list[str], list[Series]]:
    length = draw(st.integers(1, 12))
    series = [
        Series(
            kind=f"k{number}",
            label=f"s{number}",
            values=(values := draw(st.lists(st.one_of(st.none(), counts), min_size=length, max_size=length))),
            shown=[str(value) for value in values],
            below=draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    return [str(number) for number in range(length)], series


@given(several())
def test_bars_stand_within_the_drawing_side_by_side_and_on_their_side(made: tuple[list[str], list[Series]]) -> None:
    labels, series = made
    chart = charts.draw("t", "s", labels, series)
    if chart is None:
        assert not any(value for each in series for value in each.values)
        return
    assert [bar.label for bar in chart.bars] == labels
    assert all(0 <= bar.x <= chart.width - charts.STEP for bar in chart.bars)
    for at, bar in enumerate(chart.bars):
        told = [each for each in series if each.values[at]]
        assert [part.kind for part in bar.parts] == [each.kind for each in told]
        spans = []
        for part, each in zip(bar.parts, told, strict=True):
            assert part.height >= LEAST
            assert part.y >= 0
            assert part.y + part.height <= HEIGHT
            assert part.y >= chart.line if each.below else part.y + part.height <= chart.line
            spans.append((part.y, part.y + part.height))
        spans.sort()
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=48))
def test_the_rate_says_the_same_as_its_table(hours: list[tuple[int, int, int]]) -> None:
    made = [
        Hour(hour_ms=at * 3_600_000, success=good, partial=some, failed=bad)
        for at, (good, some, bad) in enumerate(hours)
    ]
    chart = charts.rate(made)
    if chart is None:
        assert not any(sum(each) for each in hours)
        return
    shown = [tuple(int(value.replace("\u202f", "")) for value in bar.values) for bar in chart.bars]
    assert shown == hours


@pytest.mark.parametrize(
    ("ago_ms", "said"),
    [
        (0, "since 14:13"),
        (DAY_MS, "since yesterday"),
        (2 * DAY_MS, "since Tuesday"),
        (6 * DAY_MS, "since Friday"),
        (7 * DAY_MS, "since 17 September"),
        (400 * DAY_MS, "since 20 August 2025"),
    ],
)
def test_since_when(ago_ms: int, said: str) -> None:
    assert words.since(NOW_MS - ago_ms, NOW_MS) == said


def test_what_is_to_come() -> None:
    assert words.ahead(None, NOW_MS) == ""
    assert words.ahead(NOW_MS - 1, NOW_MS) == "any moment"
    assert words.ahead(NOW_MS + 7_200_000, NOW_MS) == "in 2 hours"


NOTHING = Snapshot(states={}, total=0, freshness=[], hours=[], faults=[], incidents_open=0, at_ms=NOW_MS)
CARD = FaultRow(
    code="card-full",
    title="card full",
    hint="",
    devices=212,
    since_ms=NOW_MS - 2 * DAY_MS,
    first_seen_ms=0,
    last_seen_ms=0,
    count=900,
)
VAGUE = replace(CARD, code="unspecified", title="failed without a reason", devices=900)


@pytest.mark.parametrize(
    ("states", "faults", "said"),
    [
        ({"healthy": 5}, [CARD], ""),
        ({"failing": 1}, [], "1 device fails"),
        ({"overdue": 1}, [], "1 device is overdue"),
        ({"failing": 3, "overdue": 2}, [CARD], "3 devices fail, 2 are overdue; 212 devices: card full since Tuesday"),
        ({"failing": 3}, [VAGUE, CARD], "3 devices fail; 212 devices: card full since Tuesday"),
        ({"failing": 3}, [VAGUE], "3 devices fail; 900 devices: failed without a reason since Tuesday"),
        ({"failing": 3}, [replace(CARD, since_ms=None)], "3 devices fail"),
    ],
)
def test_what_needs_a_person_in_a_line(states: dict[str, int], faults: list[FaultRow], said: str) -> None:
    assert words.attention(replace(NOTHING, states=states, faults=faults), NOW_MS) == said


def test_a_device_that_tells_nothing_has_no_vitals() -> None:
    assert words.vitals(Vitals()) == []
    assert words.vitals(Vitals(uptime_s=30, disk_free_bytes=5)) == [
        ("Card free", "5 B", False),
        ("Up for", "under a minute", False),
    ]
