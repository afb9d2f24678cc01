"""How far the export is, read from the store; the files are not looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cloud.flows import audit
from cloud.rules import exporting
from cloud.rules.exporting import Dataset, Range
from cloud.store import exports as rows
from cloud.store.db import Database, Row, Tx
from cloud.store.exportdir import ExportDir
from pisyncd.core.problems import Refusal

#: Rows that wait beyond the last planned range are counted up to here; counting all would read the whole backlog.
LAG_MAX = 1_000_000

Standing = Literal["new", "current", "behind", "stale", "failing"]


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """One dataset. `lag_rows`: what is in the store and not in the files, exact up to LAG_MAX; `stale`: published
    ranges that still hold rows of a purged user; `failed`: ranges whose last attempt failed; `trouble`: the first."""

    dataset: str
    state: Standing
    watermark: int
    rows: int
    lag_rows: int
    ranges: int
    stale: int
    failed: int
    latest: Range | None
    trouble: Range | None


async def statuses(db: Database) -> list[DatasetStatus]:
    """All datasets in the order of the export."""
    async with db.reading() as tx:
        totals = {row["dataset"]: row for row in await tx.all("export_totals")}
        return [await _status(tx, dataset, totals.get(dataset.name)) for dataset in exporting.ALL]


async def _status(tx: Tx, dataset: Dataset, total: Row | None) -> DatasetStatus:
    planned = total["planned_through"] if total else 0
    first_owed = total["first_owed"] if total else None
    lag = total["rows_owed"] if total else 0
    if dataset.day:
        lag += await tx.value(f"export_lag_{dataset.name}", after=planned, row_limit=LAG_MAX)
    latest = await tx.one("export_latest", dataset=dataset.name)
    trouble = await tx.one("export_trouble", dataset=dataset.name)
    stale, failed = (total["stale"], total["failed"]) if total else (0, 0)
    return DatasetStatus(
        dataset=dataset.name,
        state=_standing(latest is not None, lag, stale, failed),
        watermark=planned if first_owed is None else first_owed,
        rows=total["rows_out"] if total else 0,
        lag_rows=lag,
        ranges=total["ranges"] if total else 0,
        stale=stale,
        failed=failed,
        latest=rows.as_range(latest) if latest else None,
        trouble=rows.as_range(trouble) if trouble else None,
    )


def _standing(ever: bool, lag: int, stale: int, failed: int) -> Standing:
    if failed:
        return "failing"
    if stale:
        return "stale"
    if lag:
        return "behind"
    return "current" if ever else "new"


async def watermark(db: Database, dataset: Dataset) -> int:
    """Everything of the dataset up to this ord has been published."""
    async with db.reading() as tx:
        return int(await tx.value("export_watermark", dataset=dataset.name))


async def forget(db: Database, directory: ExportDir, *, actor: str, now_ms: Callable[[], int]) -> int:
    """Lets the export begin anew in an empty directory; gives how many ranges are forgotten. Raises Refusal."""
    names: Sequence[str] = [dataset.name for dataset in exporting.ALL]
    if any(directory.has_manifest(name) for name in names):
        raise Refusal(
            409,
            "export-dir-used",
            f"{directory.root} holds an export already; with another one in it every row would be there twice",
            hint="set export_dir to an empty directory",
        )
    async with db.transaction() as tx:
        count = await tx.run("export_forget")
        await audit.record(
            tx,
            now_ms=now_ms(),
            actor=actor,
            action=audit.EXPORT_FORGOTTEN,
            target=str(directory.root),
            detail={"ranges": count},
        )
    return count
