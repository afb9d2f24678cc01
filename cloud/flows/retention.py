"""What has had its time: generic telemetry, refused items, tombstones of records, decisions about them.

Learning events and messages stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud.flows import export_status
from cloud.rules import exporting, retention
from cloud.store import records
from cloud.store.db import Database, Tx

PORTION_ROWS = 5000
#: Statements for each of them, while all who write records wait.
RECORDS_ROWS = 200
PORTIONS_MAX = 400


class Retention:
    """The jobs, for a worker that calls them at intervals; each gives the number of rows it removed."""

    def __init__(self, db: Database, now_ms: Callable[[], int], *, keep_days: int, export_on: bool) -> None:
        self._db = db
        self._now_ms = now_ms
        self._keep_days = keep_days
        self._export_on = export_on

    async def telemetry(self) -> int:
        """Forgets telemetry that is old enough and, when there is an export, in its files."""
        watermark = await export_status.watermark(self._db, exporting.TELEMETRY) if self._export_on else 0
        through = retention.forget_through(export_on=self._export_on, watermark=watermark)
        return await self._forget("retention_telemetry", through=through)

    async def rejected(self) -> int:
        """Forgets refused items that are as old."""
        return await self._forget("retention_rejected")

    async def tombstones(self, keep_days: int) -> int:
        """Forgets records that were deleted long ago; a device that has not heard of it by now fetches all anew."""
        removed = 0
        for _ in range(PORTIONS_MAX):
            async with self._db.transaction() as tx:
                count = await self._forget_records(tx, keep_days)
            removed += count
            if count < RECORDS_ROWS:
                break
        return removed

    async def _forget_records(self, tx: Tx, keep_days: int) -> int:
        # A record that is made anew just now must not be taken for the tombstone that it was.
        await records.lock(tx)
        before_ms = retention.forget_before_ms(self._now_ms(), keep_days)
        found = await tx.all("retention_tombstones", before_ms=before_ms, row_limit=RECORDS_ROWS)
        for row in found:
            for part in ("tombstone_scopes", "tombstone_conflicts", "tombstone"):
                await tx.run(f"retention_{part}", type=row["type"], id=row["id"])
        if found:
            await tx.run("retention_forgotten", change=max(row["change"] for row in found))
        return len(found)

    async def conflicts(self) -> int:
        """Forgets decisions about records that are settled; those that a person has to take stay."""
        return await self._forget("retention_conflicts", keep_days=retention.CONFLICTS_KEEP_DAYS)

    async def _forget(self, query: str, *, keep_days: int | None = None, **params: Any) -> int:
        before_ms = retention.forget_before_ms(self._now_ms(), self._keep_days if keep_days is None else keep_days)
        removed = 0
        for _ in range(PORTIONS_MAX):
            async with self._db.transaction() as tx:
                count = await tx.run(query, before_ms=before_ms, row_limit=PORTION_ROWS, **params)
            removed += count
            if count < PORTION_ROWS:
                break
        return removed
