"""The boot-epoch rule: plain examples first, then what must hold for every history."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pisyncd.core import timeline
from pisyncd.core.timeline import AGREEMENT_MS, Boot, Bounds, Moment, Span

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
        ("asked an hour after the start, the answer a second later says noon: within that second",
         timeline.echoed(HOUR, HOUR + S, NOON), -HOUR - S - 361, -HOUR + 361),
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
    boots = [boot(n, last=MIN, claim=around(NOON + n * 61 * S, AGREEMENT_MS)) for n in range(1, 4)]
    boots.append(boot(4, last=MIN, cloud=around(NOON + 4 * 61 * S, S)))
    first, *_ = timeline.resolve(boots)
    assert ends(first) == (61 * S - 2 * MIN, 4 * 61 * S + S - 3 * MIN + 3 * 7)


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


def test_claims_against_each_other_leave_the_boot_between_them_what_the_cloud_knows() -> None:
    boots = [
        boot(1, cloud=around(NOON, S)),
        boot(2, claim=around(NOON + 9 * HOUR, S)),
        boot(3),
        boot(4, claim=around(NOON + HOUR, S)),
        boot(5, cloud=around(NOON + DAY, S)),
    ]
    spans = timeline.resolve(boots)
    assert (ends(spans[2]), spans[2].kind) == ((-S, DAY + S), "interval")
    assert [span.contradicted for span in spans] == [False, True, True, True, False]


def test_what_the_cloud_alone_contradicts_is_told_also_when_claims_hide_it() -> None:
    boots = [
        boot(1, cloud=around(NOON, S)),
        boot(2, claim=around(NOON + HOUR, S)),
        boot(3, cloud=Bounds(high_ms=NOON - DAY)),
    ]
    assert [span.contradicted for span in timeline.resolve(boots)] == [True, True, True]


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
        moment = timeline.at(span, boottime)
        assert moment.at_ms is not None
        assert moment.error_ms is not None
        assert abs(moment.at_ms - wall) <= moment.error_ms


def test_a_boot_that_was_not_counted_has_no_order() -> None:
    """An old device tells no number: 0 is not before 1."""
    boots = [boot(0, last=HOUR, cloud=around(NOON + DAY, S)), boot(1, last=HOUR, claim=around(NOON, S))]
    spans = timeline.resolve(boots)
    assert [(ends(span), span.contradicted) for span in spans] == [
        ((DAY - S, DAY + S), False),
        ((-S, S), False),
    ]
