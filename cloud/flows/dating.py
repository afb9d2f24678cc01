"""Keeps what is known of each boot, so that every event of it has its time; inside the transaction of the ingest."""

from __future__ import annotations

from collections.abc import Sequence

from cloud.rules import dating, times
from cloud.rules.admit import Unit
from cloud.store import boots as store
from cloud.store.db import Tx
from pisyncd.core import timeline
from pisyncd.core.timeline import Boot

#: How many boots before and after a changed one are looked at; the last is all of them.
REACHES = (20, 400, 2**60)


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
        if dating.worth_resolving(before.boot if before else None, boot, before.answer if before else None):
            moved.setdefault(dk, set()).add(boot.number)
    for dk, numbers in moved.items():
        await _resolve(tx, dk, numbers, now_ms)


async def _resolve(tx: Tx, dk: int, numbers: set[int], now_ms: int) -> None:
    for reach in REACHES:
        boots = await store.between(tx, dk, min(numbers) - reach, max(numbers) + reach)
        found = timeline.neighbourhood(boots, numbers, floor_ms=times.OLDEST_MS)
        if found.enough_before and found.enough_after:
            break
    await store.save_spans(tx, dk, found.spans, now_ms)
