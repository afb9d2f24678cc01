"""The boots of devices: the evidence about each, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud.store.db import Row, Tx
from pisyncd.core.timeline import Boot, Bounds, Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A boot, and what it was resolved to if its own evidence dates it."""

    boot: Boot
    answer: Bounds | None


def _boot(row: Row) -> Boot:
    return Boot(
        boot_id=row["boot_id"],
        number=row["number"],
        last_boottime_ms=row["last_boottime_ms"],
        cloud=Bounds(low_ms=row["cloud_low_ms"], high_ms=row["cloud_high_ms"]),
        claim=Bounds(low_ms=row["claim_low_ms"], high_ms=row["claim_high_ms"]),
    )


def _answer(row: Row) -> Bounds | None:
    return Bounds(low_ms=row["low_ms"], high_ms=row["high_ms"]) if row["kind"] == "exact" else None


async def known(tx: Tx, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Known]:
    """What is kept of boots by (dk, boot_id); their devices are locked by the ingest already."""
    rows = await tx.lookup("known_boots", keys)
    return {(row["dk"], row["boot_id"]): Known(boot=_boot(row), answer=_answer(row)) for row in rows}


async def offsets(tx: Tx, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Bounds]:
    """What the offsets of boots were resolved to, as far as it is known, by (dk, boot_id)."""
    rows = await tx.lookup("known_boots", keys)
    return {(row["dk"], row["boot_id"]): Bounds(low_ms=row["low_ms"], high_ms=row["high_ms"]) for row in rows}


async def save_evidence(tx: Tx, boots: Mapping[tuple[int, str], Boot], now_ms: int) -> None:
    """Writes the evidence; a new boot is open until it is resolved."""
    rows = [
        (
            dk,
            boot.boot_id,
            boot.number,
            boot.last_boottime_ms,
            boot.cloud.low_ms,
            boot.cloud.high_ms,
            boot.claim.low_ms,
            boot.claim.high_ms,
            now_ms,
        )
        for (dk, _), boot in boots.items()
    ]
    await tx.bulk("save_boots", rows)


async def between(tx: Tx, dk: int, first: int, last: int) -> list[Boot]:
    """The boots of a device with these numbers and between."""
    return [_boot(row) for row in await tx.all("boots_between", dk=dk, first=first, last=last)]


async def save_spans(tx: Tx, dk: int, spans: Sequence[Span], now_ms: int) -> None:
    """Writes the answers."""
    rows = [(span.low_ms, span.high_ms, span.kind, int(span.contradicted), now_ms, dk, span.boot_id) for span in spans]
    await tx.bulk("save_spans", rows)
