"""Keeps what is known of each boot, so that every event of it has its time; inside the transaction of the ingest."""

from __future__ import annotations

from collections.abc import Sequence

from cloud.rules import dating, times
from cloud.rules.admit import Unit
from cloud.store import boots as store
from cloud.store.db import Tx
from pisyncd.core import timeline
from pisyncd.core.timeline import Boot

#: Boots that are looked at for one change, and how often more are asked for.
ROUNDS_MAX = 4


async def date(tx: Tx, units: Sequence[Unit], now_ms: int) -> None:
    """Adds what the batches of devices say about boots, and dates anew whatever that moves."""
    told: dict[tuple[int, str], Boot] = {}
    for unit in units:
        for boot in dating.evidence(unit, now_ms) if unit.dk else ():
            key = (unit.dk, boot.boot_id)
            told[key] = dating.combined(told.get(key), boot)
    if not told:
        return
    known = await store.known(tx, list(told))
    now = {key: dating.combined(known[key].boot if key in known else None, boot) for key, boot in told.items()}
    await store.save_evidence(tx, now, now_ms)
    moved: dict[int, set[int]] = {}
    for (dk, boot_id), boot in now.items():
        before = known.get((dk, boot_id))
        is_exact = before is not None and before.kind == "exact"
        if dating.worth_resolving(before.boot if before else None, boot, is_exact=is_exact):
            moved.setdefault(dk, set()).add(boot.number)
    for dk, numbers in moved.items():
        await _resolve(tx, dk, numbers, now_ms)


async def _resolve(tx: Tx, dk: int, numbers: set[int], now_ms: int) -> None:
    first, last = min(numbers), max(numbers)
    for _ in range(ROUNDS_MAX):
        boots = await store.around(tx, dk, first, last)
        found = timeline.neighbourhood(boots, numbers, floor_ms=times.OLDEST_MS)
        whole = (found.enough_before or boots[0].number == first, found.enough_after or boots[-1].number == last)
        if all(whole):
            break
        first, last = boots[0].number, boots[-1].number
    await store.save_spans(tx, dk, found.spans, now_ms)
