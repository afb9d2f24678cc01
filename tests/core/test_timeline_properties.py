"""The boot-epoch rule, whatever happened and whatever is told: true histories, lies, and changes near by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from pisyncd.core import timeline
from pisyncd.core.timeline import AGREEMENT_MS, NUMBER_MAX, WALL_MAX_MS, Boot, Bounds, Moment, Span
from pisyncd.core.wire import rfc3339

S = 1000
MIN = 60 * S
HOUR = 60 * MIN
DAY = 24 * HOUR
NOON = 1_768_910_400_000  # 2026-01-20T12:00:00Z


NOTHING = Bounds()


def boot(number: int, *, last: int = 0, cloud: Bounds = NOTHING, claim: Bounds = NOTHING, copy: str = "") -> Boot:
    return Boot(boot_id=f"boot-{number}{copy}", number=number, last_boottime_ms=last, cloud=cloud, claim=claim)


def around(offset_ms: int, error_ms: int) -> Bounds:
    return Bounds(low_ms=offset_ms - error_ms, high_ms=offset_ms + error_ms)


def ends(span: Span, start: int = NOON) -> tuple[int | None, int | None]:
    """Relative to NOON, so that a person can read it."""
    return (
        None if span.low_ms is None else span.low_ms - start,
        None if span.high_ms is None else span.high_ms - start,
    )


# --- every history --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Happened:
    """One boot as it really was: what a device cannot know, and the true evidence for it."""

    number: int
    offset_ms: int
    ppm: int
    events: tuple[int, ...]
    cloud: tuple[Bounds, ...]
    claims: tuple[Bounds, ...]

    def wall(self, boottime_ms: int) -> int:
        return self.offset_ms + boottime_ms + boottime_ms * self.ppm // 1_000_000

    def known(self, cloud: tuple[Bounds, ...] | None = None, claims: tuple[Bounds, ...] | None = None) -> Boot:
        return boot(
            self.number,
            last=max(self.events),
            cloud=timeline.meet(*(self.cloud if cloud is None else cloud)),
            claim=timeline.meet(*(self.claims if claims is None else claims)),
        )


spans_of_time = st.one_of(
    st.integers(0, 10), st.integers(0, 5 * MIN), st.integers(0, 2 * DAY), st.integers(0, 400 * DAY)
)


@st.composite
def happened(draw: st.DrawFn, number: int, start_ms: int, length_ms: int) -> Happened:
    boottimes = st.integers(0, length_ms)
    true = Happened(
        number=number,
        offset_ms=start_ms,
        ppm=draw(st.integers(-100, 100)),
        events=tuple(draw(st.lists(boottimes, min_size=1, max_size=4))),
        cloud=(),
        claims=(),
    )
    cloud, claims = [], []
    for boottime in draw(st.lists(st.sampled_from(true.events), max_size=2)):
        wall = true.wall(boottime) + draw(spans_of_time)
        cloud.append(timeline.received(received_ms=wall, boottime_ms=boottime))
    for boottime in draw(st.lists(st.sampled_from(true.events), max_size=2)):
        limit = draw(st.sampled_from([0, S, MIN]))
        wall = true.wall(boottime) + draw(st.integers(0, limit))
        cloud.append(timeline.sent(received_ms=wall, boottime_ms=boottime, transit_max_ms=limit))
    for boottime in draw(st.lists(st.sampled_from(true.events), max_size=2)):
        wall = true.wall(boottime) + draw(st.integers(-AGREEMENT_MS, AGREEMENT_MS))
        claims.append(timeline.claimed(wall_ms=wall, boottime_ms=boottime))
    for asked in draw(st.lists(st.sampled_from(true.events), max_size=1)):
        answered = asked + draw(st.integers(0, MIN))
        cloud_ms = draw(st.integers(true.wall(asked), true.wall(answered)))
        claims.append(timeline.echoed(asked, answered, cloud_ms))
    return replace(true, cloud=tuple(cloud), claims=tuple(claims))


@st.composite
def histories(draw: st.DrawFn) -> list[Happened]:
    """True boots, one after the other; some sent nothing and are not known at all."""
    boots: list[Happened] = []
    number, start = draw(st.integers(1, 1000)), NOON + draw(st.integers(-DAY, DAY))
    for _ in range(draw(st.integers(1, 7))):
        length = draw(spans_of_time)
        boots.append(draw(happened(number, start, length)))
        start = boots[-1].wall(length) + draw(spans_of_time)
        number += draw(st.sampled_from([1, 1, 1, 2, 50]))
    return boots


def assert_holds(moment: Moment, wall_ms: int) -> None:
    if moment.error_ms is not None:
        assert moment.at_ms is not None
        assert moment.at_ms - moment.error_ms <= wall_ms <= moment.at_ms + moment.error_ms


def assert_inside(inner: Span, outer: Span) -> None:
    assert outer.low_ms is None or (inner.low_ms is not None and inner.low_ms >= outer.low_ms)
    assert outer.high_ms is None or (inner.high_ms is not None and inner.high_ms <= outer.high_ms)


@settings(deadline=None)
@given(histories(), st.sampled_from([None, 0, DAY]))
def test_the_truth_is_always_inside(history: list[Happened], before_ms: int | None) -> None:
    floor = None if before_ms is None else history[0].offset_ms - before_ms
    for true, span in zip(history, timeline.resolve([h.known() for h in history], floor_ms=floor), strict=True):
        event(span.kind)
        assert not span.contradicted
        assert span.low_ms is None or span.low_ms <= true.offset_ms
        assert span.high_ms is None or true.offset_ms <= span.high_ms
        for boottime in true.events:
            moment = timeline.at(span, boottime)
            assert_holds(moment, true.wall(boottime))
            if span.high_ms is not None and moment.error_ms is None:
                assert moment.at_ms is not None
                assert true.wall(boottime) <= moment.at_ms


@settings(deadline=None)
@given(histories(), st.data())
def test_more_evidence_never_widens(history: list[Happened], data: st.DataObject) -> None:
    def some(of: tuple[Bounds, ...]) -> tuple[Bounds, ...]:
        return tuple(one for one in of if data.draw(st.booleans()))

    less = timeline.resolve([h.known(cloud=some(h.cloud), claims=some(h.claims)) for h in history])
    for inner, outer in zip(timeline.resolve([h.known() for h in history]), less, strict=True):
        assert_inside(inner, outer)


@settings(deadline=None)
@given(histories())
def test_nothing_tighter_follows(history: list[Happened]) -> None:
    """Against the rule written out: every earlier boot's low and all lengths since, every later boot's high."""
    boots = [h.known() for h in history]
    own = [timeline.meet(b.cloud, b.claim) for b in boots]
    steps = [max(0, b.last_boottime_ms - b.last_boottime_ms // 10_000 - 1) for b in boots]
    for k, span in enumerate(timeline.resolve(boots)):
        lows = [low + sum(steps[j:k]) for j in range(k + 1) if (low := own[j].low_ms) is not None]
        highs = [high - sum(steps[k:j]) for j in range(k, len(own)) if (high := own[j].high_ms) is not None]
        assert (span.low_ms, span.high_ms) == (max(lows, default=None), min(highs, default=None))


@settings(deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(history: list[Happened], random: Random) -> None:
    again = []
    for true in history:
        cloud, claims = [*true.cloud, *true.cloud], [*true.claims, *true.claims]
        random.shuffle(cloud)
        random.shuffle(claims)
        twice = true.known(cloud=tuple(cloud), claims=tuple(claims))
        half = len(cloud) // 2
        stepwise = timeline.meet(timeline.meet(*cloud[:half]), timeline.meet(*cloud[half:]))
        again.append(replace(twice, cloud=timeline.meet(stepwise, stepwise)))
    random.shuffle(again)
    assert timeline.resolve(again) == timeline.resolve([h.known() for h in history])


# --- every lie ------------------------------------------------------------------------------------------------------


@st.composite
def liars(draw: st.DrawFn) -> Boot:
    """Boots that would follow each other every 20 ms, told about so roughly that many exclude each other."""
    number = draw(st.integers(0, 12))
    ends_of_it = st.one_of(st.none(), st.integers(-8, 8).map(lambda off: number * 20 + off), st.integers(0, 240))
    return boot(
        number,
        copy=draw(st.sampled_from(["", "", "", "", "", "-copy"])),
        last=draw(st.integers(0, 30)),
        cloud=Bounds(low_ms=draw(ends_of_it), high_ms=draw(ends_of_it)),
        claim=Bounds(low_ms=draw(ends_of_it), high_ms=draw(ends_of_it)),
    )


lines = st.lists(liars(), min_size=1, max_size=14, unique_by=lambda b: b.boot_id)
any_number = st.one_of(st.integers(), st.sampled_from([-NUMBER_MAX, -1, 0, 1, NUMBER_MAX, 2**63, -(2**70)]))


@settings(deadline=None)
@given(lines, st.one_of(st.none(), st.integers(0, 60)))
def test_contradictions_never_raise_and_the_clouds_word_stays(boots: list[Boot], floor: int | None) -> None:
    by_id = {b.boot_id: b for b in boots}
    for span in timeline.resolve(boots, floor_ms=floor):
        cloud, claim = by_id[span.boot_id].cloud, by_id[span.boot_id].claim
        event(f"{span.kind} {span.contradicted}")
        assert span.low_ms is None or span.high_ms is None or span.low_ms <= span.high_ms
        assert cloud.high_ms is None or (span.high_ms is not None and span.high_ms <= cloud.high_ms)
        if cloud.low_ms is not None and (cloud.high_ms is None or cloud.low_ms <= cloud.high_ms):
            assert span.low_ms is not None
            assert span.low_ms >= cloud.low_ms
        if not span.contradicted:
            said = timeline.meet(cloud, claim, Bounds(low_ms=floor))
            assert_inside(span, replace(span, low_ms=said.low_ms, high_ms=said.high_ms))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(any_number, any_number, any_number, any_number, any_number, st.sampled_from("cs ")),
        min_size=1,
        max_size=6,
    ),
    st.one_of(st.none(), any_number),
    any_number,
)
@example([(1, NUMBER_MAX, 0, 0, 0, "s")] + [(n, NUMBER_MAX, 0, 0, 0, " ") for n in range(2, 3000)], None, 2**53)
def test_any_number_gives_an_answer_that_fits_a_database_and_a_calendar(
    told: list[tuple[int, int, int, int, int, str]], floor: int | None, boottime: int
) -> None:
    boots = [
        boot(
            number,
            copy=str(place),
            last=last,
            cloud=timeline.sent(received_ms=wall, boottime_ms=seen, transit_max_ms=error) if "s" in kinds else Bounds(),
            claim=timeline.claimed(wall_ms=wall, boottime_ms=seen, error_ms=error) if "c" in kinds else Bounds(),
        )
        for place, (number, last, wall, seen, error, kinds) in enumerate(told)
    ]
    spans = timeline.resolve(boots, floor_ms=floor)
    assert spans == timeline.resolve(boots[::-1], floor_ms=floor)
    for span in spans:
        moment = timeline.at(span, boottime)
        for number in (span.low_ms, span.high_ms, moment.at_ms, moment.error_ms):
            assert number is None or -(2**63) <= number < 2**63
        if moment.at_ms is not None:
            assert 0 <= moment.at_ms <= WALL_MAX_MS
            assert rfc3339(moment.at_ms)


# --- only the neighbourhood -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(lines, liars(), st.one_of(st.none(), st.integers(0, 60)), st.data())
def test_a_neighbourhood_gives_the_same_as_all(
    old: list[Boot], change: Boot, floor: int | None, data: st.DataObject
) -> None:
    new = [b for b in old if b.boot_id != change.boot_id] + [change]
    before = {span.boot_id: span for span in timeline.resolve(old, floor_ms=floor)}
    after = {span.boot_id: span for span in timeline.resolve(new, floor_ms=floor)}
    low = data.draw(st.integers(0, change.number), label="from")
    high = data.draw(st.integers(change.number, 12), label="to")
    near = timeline.neighbourhood([b for b in new if low <= b.number <= high], {change.number}, floor_ms=floor)
    enough_before = near.enough_before or low <= min(b.number for b in new)
    enough_after = near.enough_after or high >= max(b.number for b in new)
    event(f"enough {enough_before and enough_after}, fewer than all {len(near.spans) < len(new)}")
    if enough_before and enough_after:
        moved = {span.boot_id: span for span in near.spans}
        assert {**before, **moved} == after
        assert change.boot_id in moved


def test_a_claim_between_contradictions_carries_a_change_further_than_the_clouds_word() -> None:
    """By the cloud's word alone boot 4 is out of boot 1's reach; by the claim of boot 3 it is not."""
    rest = [
        boot(2, cloud=Bounds(low_ms=80, high_ms=90)),
        boot(3, cloud=Bounds(low_ms=0, high_ms=100), claim=Bounds(low_ms=10, high_ms=85)),
        boot(4, cloud=Bounds(high_ms=70)),
    ]
    before = timeline.resolve([boot(1, cloud=Bounds(low_ms=0)), *rest])
    changed = [boot(1, cloud=Bounds(low_ms=86)), *rest]
    assert before[3] != timeline.resolve(changed)[3]
    assert timeline.neighbourhood(changed, {1}).spans == tuple(timeline.resolve(changed))


def test_nothing_changed_needs_nothing() -> None:
    near = timeline.neighbourhood([boot(1)], {2})
    assert (near.spans, near.enough_before, near.enough_after) == ((), True, True)


@pytest.mark.parametrize("online_every", [1, 2, 7])
def test_a_change_in_a_long_life_stays_near(online_every: int) -> None:
    """Three years, three boots of two hours a day, a network in every n-th: a handful of rows around is enough."""

    def lived(n: int) -> Boot:
        start, online = NOON + n * 8 * HOUR, -n % online_every  # so many boots later
        receipt = timeline.received(received_ms=start + online * 8 * HOUR + HOUR, boottime_ms=2 * HOUR)
        sending = timeline.sent(received_ms=start + HOUR + S, boottime_ms=HOUR, transit_max_ms=MIN)
        return boot(n, last=2 * HOUR, cloud=receipt if online else sending)

    boots = [lived(n) for n in range(1, 3001)]
    changed = 1500 - 1500 % online_every
    late = replace(boots[changed - 1], claim=around(NOON + changed * 8 * HOUR, AGREEMENT_MS), last_boottime_ms=3 * HOUR)
    new = [*boots[: changed - 1], late, *boots[changed:]]
    reach = 6 * online_every
    near = timeline.neighbourhood(new[changed - reach - 1 : changed + reach], {changed})
    assert near.enough_before
    assert near.enough_after
    assert len(near.spans) < 2 * reach
    moved = {span.number: span for span in near.spans}
    assert [moved.get(s.number, s) for s in timeline.resolve(boots)] == timeline.resolve(new)


def roughly(random: Random, number: int) -> Bounds:
    """What may be known of a boot that begins about 40 * number: often true, sometimes one-sided, sometimes a lie."""
    middle = 40 * number + random.randint(-8, 8)
    if random.random() < 0.6:
        return Bounds(low_ms=middle - random.randint(0, 12), high_ms=middle + random.randint(0, 12))
    low, high = (random.choice([None, middle, middle, random.randint(0, 900)]) for _ in range(2))
    return Bounds(low_ms=low, high_ms=high)


@pytest.mark.parametrize("seed", range(3))
def test_neighbourhoods_by_seed(seed: int) -> None:
    """Longer lines, mostly in order, so that windows are often enough: the fast half of the property above."""
    random, enough = Random(seed), 0

    def lived(n: int, copy: str = "") -> Boot:
        cloud, claim = (roughly(random, n) if random.random() < chance else NOTHING for chance in (0.8, 0.5))
        return boot(n, copy=copy, last=random.randint(0, 34), cloud=cloud, claim=claim)

    for _ in range(300):
        count = random.randint(8, 22)
        old = [lived(n, copy) for n in range(count + 1) for copy in random.choice([[""]] * 20 + [["", "-copy"], []])]
        change = lived(random.randint(1, count))
        new = [b for b in old if b.boot_id != change.boot_id] + [change]
        low, high = change.number - random.randint(2, 9), change.number + random.randint(2, 9)
        near = timeline.neighbourhood([b for b in new if low <= b.number <= high], {change.number})
        if (near.enough_before or low <= 1) and (near.enough_after or high >= count):
            enough += len(near.spans) < len(new)
            moved = {span.boot_id: span for span in (*timeline.resolve(old), *near.spans)}
            assert moved == {span.boot_id: span for span in timeline.resolve(new)}
    assert enough > 30
