"""When it happened, on a board without a clock battery.

Within a boot each event knows its boottime. Unknown is the boot's *offset*, the wall time at boottime 0. So one known
moment dates a whole boot, also what came before it; a boot without one lies between its neighbours:

    wall ----[== boot 1 ==]-------[= boot 2 =]---[= boot 3 =]-------[== boot 4 ==]---->
             sent: +-2 s           untrusted      untrusted         claimed: +-2 min
                           |<- 2 begins here or later, 3 by the length of 2 after that
              3 ends here or earlier, 2 by the length of 3 before ->|

What one boot says by itself are bounds for its offset. They `meet`, in any order and any number of times:

    evidence                  the offset is                                  whose word
    claimed(wall, boottime)   wall - boottime +- error                       the device's: its clock is trusted
    echoed(sent, answ., at)   between at - answered and at - sent           the device's, of a proven answer
    received(at, boottime)    at most at - boottime                          the cloud's
    sent(at, boottime, max)   between at - max - boottime and at - boottime  the cloud's, needs no device clock

Contradictions (a school's router gave a wrong time) raise nothing: what the cloud knows, of this boot and through its
neighbours, stands above claims; `contradicted` tells that something was ignored. Times are whole milliseconds, bounds
are rounded outwards, and a crystal may be off by 100 ppm: 9 s a day, or a boot of a month would contradict itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isinf
from typing import Literal

from pisyncd.core import chain

AGREEMENT_MS = 120_000  # how far off a clock may be that pisyncd.runtime.clock calls trusted
NUMBER_MAX = 2**53
WALL_MAX_MS = 253_402_300_799_999  # the end of the year 9999: RFC 3339 cannot write more
Kind = Literal["exact", "interval", "open"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """low_ms <= offset <= high_ms; None: not known. A low above the high is evidence that contradicts itself."""

    low_ms: int | None = None
    high_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """What is known of one boot by itself."""

    boot_id: str
    number: int  # the device counts its boots from 1; 0, or one that two boots have (a copied card), gives no order
    last_boottime_ms: int = 0  # the largest seen, that of sending included
    cloud: Bounds = Bounds()  # received and sent
    claim: Bounds = Bounds()  # claimed


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A boot's offset. exact: its own evidence has both ends; interval: neighbours or floor gave one; open: one lacks.
    contradicted: some evidence of this boot, or what follows from its neighbours, had to be ignored."""

    boot_id: str
    number: int
    low_ms: int | None
    high_ms: int | None
    kind: Kind
    contradicted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """at_ms +- error_ms. Without error_ms at_ms is the latest, or else the earliest, possible time, if any is known."""

    at_ms: int | None
    error_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbourhood:
    """Spans that a change may have moved. Not enough_before (enough_after): true only if the device has no older
    (newer) boot than those given; otherwise ask again with more."""

    spans: tuple[Span, ...]
    enough_before: bool
    enough_after: bool


def claimed(*, wall_ms: int, boottime_ms: int, error_ms: int = AGREEMENT_MS) -> Bounds:
    """A stamp that the device calls trusted."""
    offset, error = _wall(wall_ms) - _count(boottime_ms), _count(error_ms) + _slack(boottime_ms)
    return Bounds(low_ms=offset - error, high_ms=offset + error)


def received(*, received_ms: int, boottime_ms: int) -> Bounds:
    """Nothing happens after the cloud has it. Of a batch, the largest boottime says the most."""
    return Bounds(high_ms=_wall(received_ms) - _count(boottime_ms) + _slack(boottime_ms))


def sent(*, received_ms: int, boottime_ms: int, transit_max_ms: int) -> Bounds:
    """A batch left in the boot that sent it at boottime_ms, at most transit_max_ms before received_ms."""
    offset = _wall(received_ms) - _count(boottime_ms)
    return Bounds(low_ms=offset - _count(transit_max_ms) - _slack(boottime_ms), high_ms=offset + _slack(boottime_ms))


def echoed(sent_ms: int, answered_ms: int, cloud_ms: int) -> Bounds:
    """A request left at boottime sent_ms, and its answer, at boottime answered_ms, gave the cloud's time cloud_ms."""
    low = _wall(cloud_ms) - _count(answered_ms) - _slack(answered_ms)
    return Bounds(low_ms=low, high_ms=_wall(cloud_ms) - _count(sent_ms) + _slack(sent_ms))


def meet(*bounds: Bounds) -> Bounds:
    """All of them: the greatest low, the least high."""
    lows = [b.low_ms for b in bounds if b.low_ms is not None]
    highs = [b.high_ms for b in bounds if b.high_ms is not None]
    return Bounds(low_ms=max(lows, default=None), high_ms=min(highs, default=None))


def at(span: Span, boottime_ms: int) -> Moment:
    """When the event of this boot happened; between 1970 and 9999."""
    boottime, slack = _count(boottime_ms), _slack(boottime_ms)
    low = None if span.low_ms is None else min(max(0, span.low_ms + boottime - slack), WALL_MAX_MS)
    high = None if span.high_ms is None else min(max(0, span.high_ms + boottime + slack), WALL_MAX_MS)
    if low is None or high is None:
        return Moment(at_ms=low if high is None else high, error_ms=None)
    return Moment(at_ms=(low + high) // 2, error_ms=(high - low + 1) // 2)


def resolve(boots: Collection[Boot], *, floor_ms: int | None = None) -> list[Span]:
    """The spans of one device's boots, in their order. None of them began before floor_ms."""
    return _Line(boots, floor_ms).spans


def neighbourhood(boots: Collection[Boot], changed: Collection[int], *, floor_ms: int | None = None) -> Neighbourhood:
    """`resolve`, but only what can differ after boots with the numbers `changed` came or learnt more.

    boots: all the device's boots from one number to another, these within. A change reaches up to a boot that its own
    evidence holds in place whatever comes from there, and so does what lies outside.
    """
    line = _Line(boots, floor_ms)
    places = [place for place, boot in enumerate(line.boots) if boot.number in changed]
    if not places:
        return Neighbourhood(spans=(), enough_before=True, enough_after=True)
    first, last = places[0], places[-1]
    sure_first, sure_last = 0, len(line.boots) - 1
    for own in (line.by_cloud, line.by_all):
        before, after = chain.held(own, line.steps, first, last)
        first, last = before + 1, after - 1
        sure_last, sure_first = chain.held(own, line.steps, sure_last + 1, sure_first - 1)
    spans = tuple(line.spans[first : last + 1])
    return Neighbourhood(spans=spans, enough_before=sure_first <= first, enough_after=last <= sure_last)


class _Line:
    """Boots in order, resolved twice: by the cloud's word alone, then with each claim that fits into that."""

    def __init__(self, boots: Collection[Boot], floor_ms: int | None) -> None:
        self.boots = sorted(boots, key=lambda boot: (boot.number, boot.boot_id))
        count = Counter(boot.number for boot in self.boots)
        alone = [boot.number > 0 and count[boot.number] == 1 for boot in self.boots]
        lengths = [max(0, _count(boot.last_boottime_ms) - _slack(boot.last_boottime_ms)) for boot in self.boots]
        ordered = map(all, pairwise(alone))
        self.steps = [length if known else None for length, known in zip(lengths, ordered, strict=False)]
        floor = -inf if floor_ms is None else _wall(floor_ms)
        self.by_cloud = [_by_cloud(boot, floor) for boot in self.boots]
        around, odd = chain.tighten(self.by_cloud, self.steps)
        claims = list(map(_fitting, self.boots, around))
        self.by_all = list(map(chain.both, around, claims))
        resolved, odd_too = chain.tighten(self.by_all, self.steps)
        own = [chain.both(_by_cloud(boot, -inf), claim) for boot, claim in zip(self.boots, claims, strict=True)]
        said = [chain.both(chain.both(_pair(boot.cloud), _pair(boot.claim)), (floor, inf)) for boot in self.boots]
        ignored = [a or b or chain.both(c, d) != c for a, b, c, d in zip(odd, odd_too, resolved, said, strict=True)]
        self.spans = list(map(_span, self.boots, resolved, own, ignored))


def _by_cloud(boot: Boot, floor: float) -> chain.Pair:
    low, high = _pair(boot.cloud)
    if low > high:  # a batch was longer on its way than it may be; what was received, was received
        low = -inf
    return (max(low, floor) if floor <= high else low), high


def _fitting(boot: Boot, around: chain.Pair) -> chain.Pair:
    claim = _pair(boot.claim)
    low, high = chain.both(claim, around)
    return claim if low <= high else (-inf, inf)


def _span(boot: Boot, pair: chain.Pair, own: chain.Pair, ignored: bool) -> Span:
    low, high = (None if isinf(end) else int(end) for end in pair)
    kind: Kind = "exact" if not any(map(isinf, own)) else "open" if low is None or high is None else "interval"
    return Span(boot_id=boot.boot_id, number=boot.number, low_ms=low, high_ms=high, kind=kind, contradicted=ignored)


def _pair(bounds: Bounds) -> chain.Pair:
    low, high = bounds.low_ms, bounds.high_ms
    return (-inf if low is None else low), (inf if high is None else high)


def _wall(wall_ms: int) -> int:
    return _count(wall_ms, least=-NUMBER_MAX)


def _count(ms: int, *, least: int = 0) -> int:
    return min(max(ms, least), NUMBER_MAX)


def _slack(boottime_ms: int) -> int:
    """100 ppm and what rounding takes."""
    return _count(boottime_ms) // 10_000 + 1
