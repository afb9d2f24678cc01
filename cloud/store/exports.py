"""Rows of the export's ranges, and pages of what is exported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from cloud.rules.exporting import Dataset, FileEntry, Range
from cloud.store.db import Database, Row, Tx

PAGE_ROWS = 5000


def as_range(row: Row) -> Range:
    """A row of export_range."""
    return Range(
        dataset=row["dataset"],
        from_ord=row["from_ord"],
        to_ord=row["to_ord"],
        state=row["state"],
        rows_count=row["rows_count"],
        files=msgspec.json.decode(row["files"], type=tuple[FileEntry, ...]),
        attempts=row["attempts"],
        error=row["error"],
        published_at_ms=row["published_at_ms"],
    )


async def ranges(db: Database, dataset: Dataset) -> list[Range]:
    """All ranges of a dataset in order."""
    async with db.reading() as tx:
        return [as_range(row) for row in await tx.all("export_ranges", dataset=dataset.name)]


async def unfinished(db: Database, dataset: Dataset) -> list[Range]:
    """The ranges that are planned or stale, in order."""
    async with db.reading() as tx:
        return [as_range(row) for row in await tx.all("export_unfinished", dataset=dataset.name)]


async def settled_ord(db: Database, dataset: Dataset) -> int:
    """The newest ord below which nothing will appear any more. Raises StorageBusy when writers take too long."""
    async with db.transaction() as tx:
        await tx.value("export_patience")
        await tx.value(f"export_settle_{dataset.name}")
        return int(await tx.value(f"export_newest_{dataset.name}"))


async def portion(tx: Tx, dataset: Dataset, *, bound: int, rows_max: int) -> Range | None:
    """The next range that can be planned, at most `rows_max` rows and up to `bound`; None when there is no more."""
    after = await tx.value("export_planned_through", dataset=dataset.name)
    found = await tx.one(f"export_portion_{dataset.name}", after=after, bound=bound, row_limit=rows_max)
    if found is None or not found["rows_count"]:
        return None
    return Range(
        dataset=dataset.name,
        from_ord=after,
        to_ord=found["to_ord"],
        state="planned",
        rows_count=found["rows_count"],
    )


async def plan(db: Database, dataset: Dataset, *, bound: int, rows_max: int, now_ms: int) -> Range | None:
    """Plans the next range; None when there is no more. Raises DuplicateRow when someone else just did."""
    async with db.transaction() as tx:
        part = await portion(tx, dataset, bound=bound, rows_max=rows_max)
        if part is not None:
            await tx.run(
                "export_plan",
                dataset=part.dataset,
                from_ord=part.from_ord,
                to_ord=part.to_ord,
                rows_count=part.rows_count,
                now_ms=now_ms,
            )
        return part


async def plan_snapshot(db: Database, dataset: Dataset, now_ms: int) -> Range:
    """A snapshot is planned anew each time."""
    async with db.transaction() as tx:
        await tx.run("export_plan_snapshot", dataset=dataset.name, now_ms=now_ms)
    return Range(dataset=dataset.name, from_ord=0, to_ord=0, state="planned")


async def take_up(db: Database, part: Range, now_ms: int) -> None:
    """From here on a purge makes the range stale again, and `publish` says so."""
    async with db.transaction() as tx:
        await tx.run("export_take_up", dataset=part.dataset, from_ord=part.from_ord, now_ms=now_ms)


async def publish(db: Database, part: Range, files: Sequence[FileEntry], now_ms: int) -> bool:
    """Marks a range as published; False when a user was purged since it was taken up."""
    async with db.transaction() as tx:
        marked = await tx.run(
            "export_publish",
            dataset=part.dataset,
            from_ord=part.from_ord,
            rows_count=sum(entry.rows for entry in files),
            files=msgspec.json.encode(files).decode(),
            now_ms=now_ms,
        )
    return marked == 1


async def failed(db: Database, part: Range, error: str) -> None:
    """Counts a failed attempt and keeps its reason."""
    async with db.transaction() as tx:
        await tx.run("export_failed", dataset=part.dataset, from_ord=part.from_ord, error=error[:1000])


async def pages(db: Database, dataset: Dataset, part: Range) -> AsyncIterator[list[Row]]:
    """The rows of a range. Each page is a read of its own, so that none holds up the database's housekeeping."""
    after, after_id = (part.from_ord, "") if dataset.day else (-1, "")
    while True:
        async with db.reading() as tx:
            rows = await tx.all(
                f"export_page_{dataset.name}",
                after=after,
                after_id=after_id,
                to_ord=part.to_ord,
                row_limit=PAGE_ROWS,
            )
        if rows:
            yield rows
            after, after_id = rows[-1]["after"], rows[-1]["after_id"]
        if len(rows) < PAGE_ROWS:
            return
