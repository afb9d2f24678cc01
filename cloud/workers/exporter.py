"""The scheduled export: once per interval, sooner after a failure, at once when somebody asks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from cloud.flows.exports import Export
from cloud.flows.publish import Threads
from cloud.rules import exporting
from cloud.rules.exporting import Range
from cloud.store import parquet
from cloud.store.db import Database
from cloud.store.exportdir import ExportDir
from pisyncd.core.errors import ConfigError, PiSyncError
from pisyncd.core.problems import Refusal

log = structlog.get_logger()

State = Literal["off", "unavailable", "idle", "running", "failing"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When and where; no `directory`: off."""

    directory: Path | None
    interval_s: float
    rows_max: int
    free_floor_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Under:
    """The range that is being written."""

    part: Range
    rows_done: int


class Exporter:
    """Runs exports one after the other."""

    def __init__(self, db: Database, plan: Plan, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._plan = plan
        self._now_ms = now_ms
        self._asked = asyncio.Event()
        self._threads: Threads | None = None
        self._failures = 0
        self.begun_at_ms: int | None = None
        self.ended_at_ms: int | None = None
        self.next_run_ms: int | None = None
        self.under: Under | None = None
        self.error: PiSyncError | None = self._obstacle()

    def _obstacle(self) -> PiSyncError | None:
        if self._plan.directory is None:
            return PiSyncError("no export_dir is set", code="export-off", hint="set export_dir to switch the export on")
        try:
            parquet.require()
        except ConfigError as error:
            return error
        return None

    @property
    def state(self) -> State:
        """off and unavailable: nothing is ever exported; failing: the last run ended with an error."""
        if self._plan.directory is None:
            return "off"
        if self._threads is None:
            return "unavailable"
        if self.begun_at_ms is not None:
            return "running"
        return "failing" if self.error else "idle"

    @property
    def failures(self) -> int:
        """Failed runs since the last good one."""
        return self._failures

    def ask(self) -> None:
        """Runs as soon as possible, once more if it is running. Raises Refusal 409 when it never will."""
        if self._threads is None:
            error = self.error
            raise Refusal(
                409,
                error.code if error else "export-off",
                error.detail if error else "the export does not run",
                hint=error.hint if error else "",
            )
        self._asked.set()

    async def step(self) -> float:
        """One run; gives the seconds until the next."""
        assert self._threads is not None
        assert self._plan.directory is not None
        self._asked.clear()
        self.begun_at_ms = self._now_ms()
        self.next_run_ms = None
        try:
            directory = ExportDir(self._plan.directory, free_floor_bytes=self._plan.free_floor_bytes)
            export = Export(self._db, directory, self._threads, self._now_ms, rows_max=self._plan.rows_max)
            report = await export.run(self._progress)
            self._settle(report.trouble)
        except PiSyncError as error:
            self._settle(error)
        except Exception as error:
            log.exception("export.failed")
            self._settle(error)
        finally:
            self.begun_at_ms = self.under = None
            self.ended_at_ms = self._now_ms()
        chance = random.random()  # noqa: S311 - spreads load, guards nothing
        return exporting.retry_s(self._failures, self._plan.interval_s, chance)

    def _settle(self, error: Exception | None) -> None:
        if error is None:
            self.error, self._failures = None, 0
            return
        if not isinstance(error, PiSyncError):
            error = PiSyncError(f"{type(error).__name__}: {error}", hint="the log has the details")
        self.error = error
        self._failures += 1
        log.warning("export.postponed", code=error.code, detail=error.detail, failures=self._failures)

    def _progress(self, part: Range, done: int, /, *, published: bool = False) -> None:
        self.under = None if published else Under(part=part, rows_done=done)
        if published and done:
            log.info("export.published", dataset=part.dataset, from_ord=part.from_ord, to_ord=part.to_ord, rows=done)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside; does nothing when there is an obstacle, which `state` and `error` tell."""
        if self.error is not None:
            if self.state != "off":
                log.warning("export.unavailable", code=self.error.code, hint=self.error.hint)
            yield
            return
        self._threads = Threads(1)
        task = asyncio.create_task(self._work(), name="exporter")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._threads.close()
            self.next_run_ms = None

    async def _work(self) -> None:
        while True:
            pause_s = await self.step()
            self.next_run_ms = self._now_ms() + round(pause_s * 1000)
            try:
                async with asyncio.timeout(pause_s):
                    await self._asked.wait()
            except TimeoutError:
                continue
