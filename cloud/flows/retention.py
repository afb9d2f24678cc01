"""What has had its time: generic telemetry and refused items. Learning events and messages stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud.flows import export_status
from cloud.rules import exporting, retention
from cloud.store.db import Database

PORTION_ROWS = 5000
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

    async def _forget(self, query: str, **params: Any) -> int:
        before_ms = retention.forget_before_ms(self._now_ms(), self._keep_days)
        removed = 0
        for _ in range(PORTIONS_MAX):
            async with self._db.transaction() as tx:
                count = await tx.run(query, before_ms=before_ms, row_limit=PORTION_ROWS, **params)
            removed += count
            if count < PORTION_ROWS:
                break
        return removed
