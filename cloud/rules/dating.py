"""What a group of reports says about the boots of its devices; pisyncd.core.timeline makes times of it."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.rules.admit import Clocks, Unit
from cloud.rules.facts import AttemptFact, MessageFact, Stamp, TrackFact
from pisyncd.core import timeline
from pisyncd.core.timeline import Boot, Bounds

#: How long a batch may be on its way: its deadline begins anew with every piece that goes.
TRANSIT_MAX_MS = 120_000
#: A bound that moved by less is not worth resolving the boots again; the wider one stays right.
WORTH_MS = 500


@dataclass(slots=True)
class _Seen:
    """The stamps of one boot in one batch: the largest boottime, and the trusted stamps at both ends."""

    last_ms: int = 0
    first_trusted: Stamp | None = None
    last_trusted: Stamp | None = None


def evidence(unit: Unit, received_ms: int) -> list[Boot]:
    """The boots that a device's batch speaks of, each with what the batch says about its offset."""
    seen: dict[str, _Seen] = {}
    for fact in unit.facts:
        if isinstance(fact, AttemptFact | TrackFact | MessageFact):
            _note(seen, fact.stamp)
    clocks = unit.clocks or Clocks()
    if clocks.boot_id is not None and clocks.boottime_ms is not None:
        found = seen.setdefault(clocks.boot_id, _Seen())
        found.last_ms = max(found.last_ms, clocks.boottime_ms)
    return [_boot(boot_id, found, clocks, received_ms) for boot_id, found in seen.items()]


def _note(seen: dict[str, _Seen], stamp: Stamp) -> None:
    if stamp.boot_id is None or stamp.boottime_ms is None:
        return
    found = seen.get(stamp.boot_id)
    if found is None:
        found = seen[stamp.boot_id] = _Seen()
    found.last_ms = max(found.last_ms, stamp.boottime_ms)
    if stamp.trusted and stamp.wall_ms is not None:
        found.first_trusted = found.first_trusted or stamp
        found.last_trusted = stamp


def _boot(boot_id: str, seen: _Seen, clocks: Clocks, received_ms: int) -> Boot:
    cloud = timeline.received(received_ms=received_ms, boottime_ms=seen.last_ms)
    claims = [
        timeline.claimed(wall_ms=stamp.wall_ms, boottime_ms=stamp.boottime_ms)
        for stamp in (seen.first_trusted, seen.last_trusted)
        if stamp is not None and stamp.wall_ms is not None and stamp.boottime_ms is not None
    ]
    if boot_id == clocks.boot_id and clocks.boottime_ms is not None:
        sent = timeline.sent(
            received_ms=received_ms, boottime_ms=clocks.boottime_ms, transit_max_ms=TRANSIT_MAX_MS
        )
        cloud = timeline.meet(cloud, sent)
        if clocks.echo is not None:
            claims.append(timeline.echoed(*clocks.echo))
    return Boot(
        boot_id=boot_id,
        number=clocks.boots.get(boot_id, 0),
        last_boottime_ms=seen.last_ms,
        cloud=cloud,
        claim=timeline.meet(*claims),
    )


def combined(known: Boot | None, told: Boot) -> Boot:
    """Both together."""
    if known is None:
        return told
    return Boot(
        boot_id=known.boot_id,
        number=known.number or told.number,
        last_boottime_ms=max(known.last_boottime_ms, told.last_boottime_ms),
        cloud=timeline.meet(known.cloud, told.cloud),
        claim=timeline.meet(known.claim, told.claim),
    )


def worth_resolving(known: Boot | None, now: Boot, answer: Bounds | None) -> bool:
    """Whether what was learnt moves any time that counts; `answer` is what an exact boot was resolved to."""
    if known is None or answer is None or known.number != now.number:
        return True
    own = timeline.meet(now.cloud, now.claim)
    return _tighter(answer.low_ms, own.low_ms, 1) or _tighter(answer.high_ms, own.high_ms, -1)


def _tighter(before_ms: int | None, now_ms: int | None, direction: int) -> bool:
    return now_ms is not None and (before_ms is None or (now_ms - before_ms) * direction >= WORTH_MS)
