"""The export: what is in the store and not yet in the warehouse's files is planned, written, and only then counted.

A crash leaves a range planned; the next run writes it again under the same names. A purge in between makes it stale,
and it is done again until none came in between. See docs/export.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from cloud.flows import audit
from cloud.flows.publish import Threads
from cloud.rules import exporting
from cloud.rules.exporting import Dataset, FileEntry, Range
from cloud.store import exports as rows
from cloud.store import parquet
from cloud.store.db import Database, DuplicateRow, Row
from cloud.store.exportdir import AlreadyExporting, ExportDir
from pisyncd.core import wire
from pisyncd.core.errors import ConfigError, PermanentError, TransientError

log = structlog.get_logger()

PURGES_MAX = 20
#: A long backlog shows in the manifest while it is worked off; more often costs a disk more than the files do.
MANIFEST_EVERY_S = 10.0


class Progress(Protocol):
    """Is told how far a range is: rows written of those expected."""

    def __call__(self, part: Range, done: int, /, *, published: bool = False) -> None: ...


@dataclass(kw_only=True)
class Report:
    """What a run has done. `trouble`: the first failure, if any."""

    ranges: int = 0
    rows: int = 0
    rewritten: int = 0
    files_missing: list[str] = field(default_factory=list)
    trouble: Exception | None = None


class Export:
    """Everything needed for a run. Raises ConfigError when pyarrow is not installed."""

    def __init__(
        self, db: Database, directory: ExportDir, threads: Threads, now_ms: Callable[[], int], *, rows_max: int
    ) -> None:
        parquet.require()
        self._db = db
        self._directory = directory
        self._threads = threads
        self._now_ms = now_ms
        self._rows_max = rows_max
        self._listed_at = 0.0

    async def run(self, progress: Progress) -> Report:
        """Exports what is there when it begins. Raises AlreadyExporting, StorageBusy, StorageFull, ConfigError.

        A range that does not pass is left for the next run, the others go on; a full disk ends the run.
        """
        report = Report()
        async with self._alone():
            for dataset in exporting.ALL:
                await self._require_own(dataset)
            try:
                for dataset in exporting.GROWING:
                    await self._grow(dataset, report, progress)
                for dataset in exporting.SNAPSHOTS:
                    part = await rows.plan_snapshot(self._db, dataset, self._now_ms())
                    await self._finish(dataset, part, report, progress)
            finally:
                await self._threads.run(parquet.release)
        return report

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        # The lock is the connection's: the pool takes it back when the connection is given back.
        async with self._db.reading() as tx:
            if not await tx.value("export_alone"):
                raise AlreadyExporting
            with self._directory.held():
                yield

    async def _require_own(self, dataset: Dataset) -> None:
        async with self._db.reading() as tx:
            latest = await tx.one("export_latest", dataset=dataset.name)
        if self._directory.has_manifest(dataset.name):
            return
        if latest is not None:
            raise ConfigError(
                f"{self._directory.root} is not the directory that {dataset.name} was exported to before",
                code="export-dir-wrong",
                hint="set export_dir to that one, or `pisync-cloud export --anew` writes all that is in the database",
            )
        # Before anything is published: a kill right after must not make this look like somebody else's directory.
        await self._write_manifest(dataset)

    async def _grow(self, dataset: Dataset, report: Report, progress: Progress) -> None:
        bound = await rows.settled_ord(self._db, dataset)
        waiting = await rows.unfinished(self._db, dataset)
        for part in waiting:
            await self._finish(dataset, part, report, progress)
        while len(await rows.unfinished(self._db, dataset)) < exporting.FAILED_MAX:
            try:
                part_or_none = await rows.plan(
                    self._db, dataset, bound=bound, rows_max=self._rows_max, now_ms=self._now_ms()
                )
            except DuplicateRow as error:
                raise AlreadyExporting from error
            if part_or_none is None:
                break
            await self._finish(dataset, part_or_none, report, progress)
        await self._write_manifest(dataset)

    async def _finish(self, dataset: Dataset, part: Range, report: Report, progress: Progress) -> None:
        try:
            files = await self._until_published(dataset, part, report, progress)
        except PermanentError as error:
            await self._note(part, error, report)
            return
        except Exception as error:
            await self._note(part, error, report)
            raise
        count = sum(entry.rows for entry in files)
        report.ranges += 1
        report.rows += count
        report.rewritten += part.is_out and bool(dataset.day)
        progress(part, count, published=True)
        if not dataset.day or time.monotonic() - self._listed_at >= MANIFEST_EVERY_S:
            await self._write_manifest(dataset)

    async def _note(self, part: Range, error: Exception, report: Report) -> None:
        code = getattr(error, "code", type(error).__name__)
        log.warning("export.failed", dataset=part.dataset, from_ord=part.from_ord, code=code, error=str(error))
        report.trouble = report.trouble or error
        # The disk that is full may be the database's own; the error that began it is the one to tell.
        with contextlib.suppress(TransientError):
            await rows.failed(self._db, part, f"{code}: {error}")

    async def _until_published(
        self, dataset: Dataset, part: Range, report: Report, progress: Progress
    ) -> Sequence[FileEntry]:
        for _ in range(PURGES_MAX):
            await rows.take_up(self._db, part, self._now_ms())
            if part.is_out and dataset.day:
                files, finished = await self._rewrite(dataset, part, report)
            else:
                files, finished = await self._write(dataset, part, progress)
            await self._put_in_place(dataset, part, files, finished)
            if await rows.publish(self._db, part, files, self._now_ms()):
                return files
            log.info("export.again", dataset=dataset.name, from_ord=part.from_ord, reason="a user was purged")
            if part.is_out:
                part = dataclasses.replace(part, files=tuple(files))
        raise PermanentError("users were purged all the time while this range was written")

    async def _write(
        self, dataset: Dataset, part: Range, progress: Progress
    ) -> tuple[list[FileEntry], dict[str, Path]]:
        run, stem = self._threads.run, f"{dataset.name}-{part.from_ord}-{part.to_ord}"
        writer = await run(
            parquet.Partitions,
            dataset,
            lambda day: self._directory.temporary(f"{stem}-{day}"),
            self._directory.require_room,
        )
        done = 0
        try:
            async for page in rows.pages(self._db, dataset, part):
                await run(_add, writer, dataset, page)
                done += len(page)
                progress(part, done)
            found = await run(writer.finish, even_empty=not dataset.day)
        except BaseException:
            await run(writer.abandon)
            raise
        files: list[FileEntry] = []
        for day, (path, count) in sorted(found.items()):
            size, digest = await run(self._directory.seal, path)
            relative = exporting.file_path(dataset, part, day)
            files.append(FileEntry(path=relative, event_date=day, rows=count, bytes=size, sha256=digest))
        finished = {entry.path: found[entry.event_date][0] for entry in files}
        return files, finished

    async def _rewrite(self, dataset: Dataset, part: Range, report: Report) -> tuple[list[FileEntry], dict[str, Path]]:
        run = self._threads.run
        async with self._db.reading() as tx:
            purged = await audit.purged(tx, dataset.name)
        files: list[FileEntry] = []
        finished: dict[str, Path] = {}
        for entry in part.files:
            temporary = self._directory.temporary(f"{dataset.name}-{entry.path}")
            source = self._directory.path(dataset.name, entry.path)
            try:
                left = await run(
                    parquet.copy_without,
                    source,
                    temporary,
                    lambda user: exporting.unwanted_through(user, purged),
                    self._directory.require_room,
                )
            except FileNotFoundError:
                # Moved away by somebody: there is nothing to take out here, but there may be where it went.
                log.warning("export.file_missing", path=str(source))
                report.files_missing.append(f"{dataset.name}/{entry.path}")
                continue
            is_copied = await run(temporary.is_file)
            if left:
                # Counted anew in both cases: a run that was killed may have replaced the file already.
                size, digest = await run(self._directory.seal, temporary if is_copied else source)
                files.append(msgspec.structs.replace(entry, rows=left, bytes=size, sha256=digest))
            if left and is_copied:
                finished[entry.path] = temporary
        return files, finished

    async def _put_in_place(
        self, dataset: Dataset, part: Range, files: Sequence[FileEntry], finished: dict[str, Path]
    ) -> None:
        run, directory = self._threads.run, self._directory
        for relative, temporary in finished.items():
            await run(directory.publish, temporary, dataset.name, relative)
        if not dataset.day:
            return
        keep = {entry.path for entry in files}
        gone = await run(directory.others, dataset.name, exporting.part_name(part), keep)
        if gone:
            # The manifest first: who reads by it must not look for a file that is no longer there.
            await self._write_manifest(dataset, without=gone)
            await run(directory.remove, dataset.name, gone)

    async def _write_manifest(self, dataset: Dataset, *, without: Sequence[str] = ()) -> None:
        ranges = await rows.ranges(self._db, dataset)
        found = exporting.manifest(dataset.name, ranges, without=without, generated_at=wire.rfc3339(self._now_ms()))
        content = msgspec.json.format(msgspec.json.encode(found), indent=1)
        await self._threads.run(self._directory.write_manifest, dataset.name, content)
        self._listed_at = time.monotonic()


def _add(writer: parquet.Partitions, dataset: Dataset, page: Sequence[Row]) -> None:
    by_column = dict(zip(page[0].keys(), zip(*page, strict=True), strict=True))
    for day, columns in exporting.by_day(dataset, by_column):
        writer.add(day, columns)
