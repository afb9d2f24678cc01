"""When it happened, on a board without a clock battery.

Within one boot every event knows its boottime exactly (CLOCK_BOOTTIME). What is not known is the boot's *offset*: the
wall time at boottime 0. One trusted moment anywhere in a boot therefore dates the whole boot, also what came before;
a boot without one lies between its neighbours, because a board has one boot at a time:

    wall  ----[== boot 1 ==]-------[= boot 2 =]--[= boot 3 =]--------[== boot 4 ==]---->
               sent: exact          untrusted     untrusted           claimed: +-120 s
                           |<- 2 begins here or later, 3 a whole boot 2 after that
                                    and 3 ends here or earlier, 2 a whole boot 3 before ->|

What is known of one boot are bounds for its offset, met (`meet`) as they arrive, in any order, any number of times:

    evidence                  bounds for the offset                        whose        trusts
    claimed(wall, boottime)   wall - boottime, +- error                    the device   the device's clock
    received(at, boottime)    at most at - boottime                        the cloud    nothing of the device
    sent(at, boottime, max)   from at - max - boottime to at - boottime    the cloud    the boottime only

Contradictions (a clock that a school's router had set wrong) raise nothing: the cloud's own evidence, of this boot and
through its neighbours, stands above what devices claim; what had to be ignored is told by `contradicted`.
All times are integer milliseconds; bounds are rounded outwards. A crystal that is off by 100 ppm (9 s a day) is allowed for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

AGREEMENT_MS = 120_000  # how far a trusted clock may be off: pisyncd.runtime.clock believes it up to here
NUMBER_MAX = 2**53
WALL_MAX_MS = 253_402_300_799_999  # the last moment of the year 9999, the last one that RFC 3339 can write
_FAR = 2**60  # keeps chained hostile durations within a database's 64 bits

_Pair = tuple[float, float]  # low, high; infinite when not known, otherwise whole numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """The offset lies in [low_ms, high_ms]; None: not known. Low above high: the evidence contradicts itself."""

    low_ms: int | None = None
    high_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """All that is known of one boot by itself."""

    boot_id: str
    number: int  # the device counts its boots; a number that two boots carry (a copied card) orders neither
    last_boottime_ms: int = 0  # the largest seen
    cloud: Bounds = Bounds()  # received and sent
    claim: Bounds = Bounds()  # claimed


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Where a boot's offset lies. exact: the boot's own evidence has both ends; interval: its neighbours or the floor
    gave one; open: an end is missing."""

    boot_id: str
    number: int
    low_ms: int | None
    high_ms: int | None
    kind: Literal["exact", "interval", "open"]
    contradicted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """An event's time: at_ms +- error_ms. Without error_ms: at_ms is the latest (or else the earliest) possible time."""

    at_ms: int | None
    error_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbourhood:
    """The spans that a change may have moved. Not enough_before (or _after): they are right only if no older (newer)
    boot of this device exists beyond those given; otherwise load more and ask again."""

    spans: tuple[Span, ...]
    enough_before: bool
    enough_after: bool


def claimed(*, wall_ms: int, boottime_ms: int, error_ms: int = AGREEMENT_MS) -> Bounds:
    """A stamp that the device calls trusted."""
    offset, slack = _wall(wall_ms) - _count(boottime_ms), _slack(boottime_ms) + _count(error_ms)
    return Bounds(low_ms=offset - slack, high_ms=offset + slack)


def received(*, received_ms: int, boottime_ms: int) -> Bounds:
    """An event does not happen after the cloud, by its own clock, has it."""
    return Bounds(high_ms=_wall(received_ms) - _count(boottime_ms) + _slack(boottime_ms))


def sent(*, received_ms: int, boottime_ms: int, transit_max_ms: int) -> Bounds:
    """A batch left the device at boottime_ms of the sending boot, at most transit_max_ms before the cloud had it."""
    high = received(received_ms=received_ms, boottime_ms=boottime_ms).high_ms
    low = _wall(received_ms) - _count(transit_max_ms) - _count(boottime_ms) - _slack(boottime_ms)
    return Bounds(low_ms=low, high_ms=high)


def meet(*bounds: Bounds) -> Bounds:
    """What all of them say together: the greatest low, the least high."""
    lows = [b.low_ms for b in bounds if b.low_ms is not None]
    highs = [b.high_ms for b in bounds if b.high_ms is not None]
    return Bounds(low_ms=max(lows, default=None), high_ms=min(highs, default=None))


def at(span: Span, boottime_ms: int) -> Moment:
    """The time of an event of this boot, between 1970 and 9999."""
    boottime, slack = _count(boottime_ms), _slack(boottime_ms)
    low = None if span.low_ms is None else min(max(span.low_ms + boottime - slack, 0), WALL_MAX_MS)
    high = None if span.high_ms is None else min(max(span.high_ms + boottime + slack, 0), WALL_MAX_MS)
    if low is None or high is None:
        return Moment(at_ms=low if high is None else high, error_ms=None)
    middle = (low + high) // 2
    return Moment(at_ms=middle, error_ms=high - middle)


def resolve(boots: Collection[Boot], *, floor_ms: int | None = None) -> list[Span]:
    """The spans of one device's boots, in their order. No boot of it began before floor_ms."""
    return _Line(boots, floor_ms).spans()


def neighbourhood(boots: Collection[Boot], changed: Collection[int], *, floor_ms: int | None = None) -> Neighbourhood:
    """Like resolve, but only what may differ after the boots with the numbers `changed` were added or learnt more.

    `boots` may be any unbroken stretch of the device's boots around them. A change goes as far as it can tell: it ends
    at a boot that its own evidence places clear of what comes from there.
    """
    line = _Line(boots, floor_ms)
    places = [place for place, boot in enumerate(line.boots) if boot.number in changed]
    if not places:
        return Neighbourhood(spans=(), enough_before=True, enough_after=True)
    first, last = places[0], places[-1]
    known_first, known_last = 0, len(line.boots) - 1
    for own in (line.by_cloud, line.by_all):
        first, last = line.settled_before(own, first) + 1, line.settled_after(own, last) - 1
        known_first, known_last = line.settled_after(own, known_first - 1), line.settled_before(own, known_last + 1)
    return Neighbourhood(
        spans=tuple(line.spans()[first : last + 1]),
        enough_before=known_first <= first,
        enough_after=last <= known_last,
    )


class _Line:
    """Boots in order, resolved twice: by the cloud's evidence alone, then with every claim that fits into that."""

    def __init__(self, boots: Collection[Boot], floor_ms: int | None) -> None:
        self.boots = sorted(boots, key=lambda boot: (boot.number, boot.boot_id, repr(boot)))
        count = Counter(boot.number for boot in self.boots)
        self.steps = [  # at least this long from one start to the next; None: nothing is known of their order
            _count(a.last_boottime_ms) - _slack(a.last_boottime_ms) if count[a.number] == count[b.number] == 1 else None
            for a, b in pairwise(self.boots)
        ]
        floor = -math.inf if floor_ms is None else floor_ms
        clouds = [_pair(boot.cloud) for boot in self.boots]
        # A batch that was longer on its way than the limit makes a low too high; received never lies.
        clouds_sound = [(low if low <= high else -math.inf, high) for low, high in clouds]
        self.by_cloud = [(max(low, floor) if floor <= high else low, high) for low, high in clouds_sound]
        around, odd = self._chain(self.by_cloud)
        claims = [_pair(boot.claim) for boot in self.boots]
        fits = [max(a[0], c[0]) <= min(a[1], c[1]) and c[0] <= c[1] for a, c in zip(around, claims, strict=True)]
        self.by_all = [
            (max(a[0], c[0]), min(a[1], c[1])) if fit else a for a, c, fit in zip(around, claims, fits, strict=True)
        ]
