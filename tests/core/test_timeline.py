"""The boot-epoch rule: plain examples first, then what must hold for every history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from pisyncd.core import chain, timeline
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


# --- one boot -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "bounds", "low", "high"),
    [
        ("a trusted stamp at noon, one hour after the start",
         timeline.claimed(wall_ms=NOON, boottime_ms=HOUR), -HOUR - 120_361, -HOUR + 120_361),
        ("received at noon: it did not start later than an hour before",
         timeline.received(received_ms=NOON, boottime_ms=HOUR), None, -HOUR + 361),
        ("sent one hour after the start, at most 5 s before noon",
         timeline.sent(received_ms=NOON, boottime_ms=HOUR, transit_max_ms=5 * S), -HOUR - 5 * S - 361, -HOUR + 361),
        ("a whole day costs 8.6 s of certainty",
         timeline.sent(received_ms=NOON, boottime_ms=DAY, transit_max_ms=0), -DAY - 8641, -DAY + 8641),
    ],
)  # fmt: skip
def test_evidence(what: str, bounds: Bounds, low: int | None, high: int) -> None:
    assert bounds == Bounds(low_ms=None if low is None else NOON + low, high_ms=NOON + high), what


def test_trust_that_comes_late_dates_the_whole_boot() -> None:
    """Six hours without a network; then the cloud answers, and the first event of the boot gets its time too."""
    offline = boot(1, last=6 * HOUR, cloud=timeline.received(received_ms=NOON + HOUR, boottime_ms=6 * HOUR))
    (before,) = timeline.resolve([offline])
    assert timeline.at(before, MIN) == Moment(at_ms=NOON + HOUR - 6 * HOUR + 2161 + MIN + 7, error_ms=None)
    answered = replace(offline, claim=timeline.claimed(wall_ms=NOON, boottime_ms=6 * HOUR))
    (after,) = timeline.resolve([answered])
    assert after.kind == "exact"
    assert timeline.at(after, MIN) == Moment(at_ms=NOON - 6 * HOUR + MIN, error_ms=AGREEMENT_MS + 2161 + 7)


def test_at_rounds_outwards() -> None:
    span = Span(boot_id="b", number=1, low_ms=NOON, high_ms=NOON + 3, kind="exact")
    assert timeline.at(span, 10) == Moment(at_ms=NOON + 11, error_ms=3)  # NOON + 9 ... NOON + 14


@pytest.mark.parametrize(
    ("what", "cloud", "claim", "low", "high"),
    [
        ("they agree: both count", around(0, 5), around(3, 5), -2, 5),
        ("the claim is a year early", around(0, 5), around(-365 * DAY, 5), -5, 5),
        ("the claim is later than the receipt", Bounds(high_ms=NOON), around(DAY, 5), None, 0),
        ("two claims exclude each other", Bounds(high_ms=NOON), Bounds(low_ms=NOON - 1, high_ms=NOON - 9), None, 0),
        ("a batch was longer on its way than it may be", Bounds(low_ms=NOON + 9, high_ms=NOON), Bounds(), None, 0),
        ("the same, and a claim", Bounds(low_ms=NOON + 9, high_ms=NOON), around(-3, 5), -8, 0),
    ],
)  # fmt: skip
def test_contradictions_keep_the_clouds_word(
    what: str, cloud: Bounds, claim: Bounds, low: int | None, high: int
) -> None:
    (span,) = timeline.resolve([boot(1, cloud=shift(cloud), claim=shift(claim))])
    assert ends(span) == (low, high), what
    assert span.contradicted is (not what.startswith("they agree"))


def shift(bounds: Bounds) -> Bounds:
    """The table's small numbers to NOON, those from NOON as they are."""
    low, high = (end if end is None or end > NOON // 2 else NOON + end for end in (bounds.low_ms, bounds.high_ms))
    return Bounds(low_ms=low, high_ms=high)


# --- several boots --------------------------------------------------------------------------------------------------


def test_untrusted_boots_lie_between_their_neighbours() -> None:
    """The docstring's picture: 1 sent, 2 and 3 untrusted, 4 claims. Lengths 1 h, 30 min, 20 min."""
    boots = [
        boot(1, last=HOUR, cloud=around(NOON, 0)),
        boot(2, last=30 * MIN),
        boot(3, last=20 * MIN),
        boot(4, last=MIN, claim=around(NOON + 10 * HOUR, AGREEMENT_MS)),
    ]
    one, two, three, four = timeline.resolve(boots)
    assert [span.kind for span in (one, two, three, four)] == ["exact", "interval", "interval", "exact"]
    assert ends(one) == (0, 0)
    assert ends(two) == (HOUR - 361, 10 * HOUR + 2 * MIN - 20 * MIN + 121 - 30 * MIN + 181)
    assert ends(three) == (HOUR - 361 + 30 * MIN - 181, 10 * HOUR + 2 * MIN - 20 * MIN + 121)
    assert ends(four) == (10 * HOUR - 2 * MIN, 10 * HOUR + 2 * MIN)


def test_ends_stay_open_unless_there_is_a_floor() -> None:
    first = boot(7, last=HOUR, cloud=Bounds(high_ms=NOON))
    last = boot(9, last=HOUR)  # 8 sent nothing
    spans = timeline.resolve([last, first])
    assert [(span.number, ends(span), span.kind) for span in spans] == [
        (7, (None, 0), "open"),
        (9, (None, None), "open"),
    ]
    assert timeline.at(spans[1], 5) == Moment(at_ms=None, error_ms=None)
    spans = timeline.resolve([last, first], floor_ms=NOON - DAY)
    assert [(ends(span), span.kind) for span in spans] == [
        ((-DAY, 0), "interval"),
        ((-DAY + HOUR - 361, None), "open"),
    ]
    assert timeline.at(spans[1], 5) == Moment(at_ms=NOON - DAY + HOUR - 361 + 4, error_ms=None)


def test_a_floor_later_than_the_receipt_is_ignored() -> None:
    (span,) = timeline.resolve([boot(1, cloud=Bounds(high_ms=NOON))], floor_ms=NOON + 1)
    assert (ends(span), span.contradicted) == ((None, 0), True)


def test_power_flickers_and_neighbours_make_each_other_exact() -> None:
    """Four boots of a minute within five: each claim says +-2 min, all together say more."""
    boots = [boot(n, last=MIN, claim=around(NOON + n * 61 * S, AGREEMENT_MS)) for n in range(3)]
    boots.append(boot(3, last=MIN, cloud=around(NOON + 3 * 61 * S, S)))
    first, *_ = timeline.resolve(boots)
    assert ends(first) == (-2 * MIN, 3 * 61 * S + S - 3 * MIN + 3 * 7)


def test_a_wrong_clock_that_never_reached_the_cloud_is_found_by_what_the_cloud_knows_of_its_neighbours() -> None:
    """Boot 2 believed a router that lives in 2020; the cloud had boot 1 already in 2026."""
    boots = [
        boot(1, last=HOUR, cloud=around(NOON, S)),
        boot(2, last=HOUR, cloud=Bounds(high_ms=NOON + DAY), claim=around(NOON - 6 * 365 * DAY, AGREEMENT_MS)),
        boot(3, last=HOUR, cloud=around(NOON + DAY, S)),
    ]
    one, two, three = timeline.resolve(boots)
    assert [span.contradicted for span in (one, two, three)] == [False, True, False]
    assert (ends(two), two.kind) == ((-S + HOUR - 361, DAY + S - HOUR + 361), "interval")


def test_two_claims_against_each_other_stay_both_and_say_so() -> None:
    """No word of the cloud decides; boots further away are not drawn into it."""
    boots = [
        boot(1, last=HOUR, claim=around(NOON - 10 * DAY, AGREEMENT_MS)),
        boot(2, last=HOUR, claim=around(NOON, AGREEMENT_MS)),
        boot(3, last=HOUR, claim=around(NOON - 365 * DAY, AGREEMENT_MS)),
        boot(4, last=HOUR, claim=around(NOON + DAY, AGREEMENT_MS)),
    ]
    spans = timeline.resolve(boots)
    assert [span.contradicted for span in spans] == [False, True, True, False]
    assert [(span.low_ms, span.high_ms) for span in spans] == [(b.claim.low_ms, b.claim.high_ms) for b in boots]


def test_a_copied_card_orders_nothing() -> None:
    """Two boards count on from the same number, at the same time: no contradiction, no order between them."""
    boots = [
        boot(1, last=HOUR, cloud=around(NOON, S)),
        boot(2, last=DAY, cloud=around(NOON + DAY, S), copy="-a"),
        boot(2, last=DAY, cloud=around(NOON + DAY + HOUR, S), copy="-b"),
        boot(3, last=DAY, cloud=around(NOON + DAY + 2 * HOUR, S)),
    ]
    spans = timeline.resolve(boots)
    assert not any(span.contradicted for span in spans)
    assert timeline.resolve(boots[::-1]) == spans


def test_a_month_in_one_boot_does_not_contradict_itself() -> None:
    """The crystal loses 80 ppm: 207 s in 30 days, far more than a batch is on its way."""
    stamps = [(day * DAY, NOON + day * DAY + day * DAY * 80 // 1_000_000) for day in range(31)]
    cloud = timeline.meet(
        *(timeline.sent(received_ms=wall, boottime_ms=boottime, transit_max_ms=S) for boottime, wall in stamps)
    )
    (span,) = timeline.resolve([boot(1, last=30 * DAY, cloud=cloud)])
    assert not span.contradicted
    for boottime, wall in stamps:
        assert_holds(timeline.at(span, boottime), wall)


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
    return replace(true, cloud=tuple(cloud), claims=tuple(claims))


@st.composite
def histories(draw: st.DrawFn) -> list[Happened]:
    """True boots, one after the other; some sent nothing and are not known at all."""
    boots: list[Happened] = []
    number, start = draw(st.integers(0, 1000)), NOON + draw(st.integers(-DAY, DAY))
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


@given(histories(), st.data())
def test_more_evidence_never_widens(history: list[Happened], data: st.DataObject) -> None:
    def some(of: tuple[Bounds, ...]) -> tuple[Bounds, ...]:
        return tuple(one for one in of if data.draw(st.booleans()))

    less = timeline.resolve([h.known(cloud=some(h.cloud), claims=some(h.claims)) for h in history])
    for inner, outer in zip(timeline.resolve([h.known() for h in history]), less, strict=True):
        assert_inside(inner, outer)


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


@given(
    st.lists(
        st.tuples(any_number, any_number, any_number, any_number, any_number, st.sampled_from("cs ")),
        min_size=1,
        max_size=6,
    ),
    st.one_of(st.none(), any_number),
    any_number,
)
@example([(0, NUMBER_MAX, 0, 0, 0, "s")] + [(n, NUMBER_MAX, 0, 0, 0, " ") for n in range(1, 3000)], None, 2**53)
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


@settings(max_examples=400)
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

    boots = [lived(n) for n in range(3000)]
    changed = 1500 - 1500 % online_every
    late = replace(boots[changed], claim=around(NOON + changed * 8 * HOUR, AGREEMENT_MS), last_boottime_ms=3 * HOUR)
    new = [*boots[:changed], late, *boots[changed + 1 :]]
    reach = 6 * online_every
    near = timeline.neighbourhood(new[changed - reach : changed + reach + 1], {changed})
    assert near.enough_before
    assert near.enough_after
    assert len(near.spans) < 2 * reach
    moved = {span.number: span for span in near.spans}
    assert [moved.get(s.number, s) for s in timeline.resolve(boots)] == timeline.resolve(new)


def test_the_docstring_of_chain() -> None:
    inf = float("inf")
    tighter, odd = chain.tighten([(10, 20), (-inf, inf), (18, 40)], [5, 5])
    assert (tighter, odd) == ([(10, 20), (15, 35), (20, 40)], [False, False, False])
    assert all(b[0] - a[0] >= 5 for a, b in pairwise(tighter))
