"""Uploads that are being finished: each once, however many requests wait for it, and on when all of them have gone."""

from __future__ import annotations

import asyncio

import structlog

from cloud.flows.publish import Publisher
from cloud.flows.receive import Digest
from cloud.store.uploads import Outcome, UploadRow

log = structlog.get_logger()


class Finishing:
    """The tasks that finish uploads, by upload."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}

    def __contains__(self, upload_id: str) -> bool:
        return upload_id in self._tasks

    def start(self, upload: UploadRow, digest: Digest | None, *, new: bool = False) -> asyncio.Task[Outcome]:
        """Begins to finish an upload, or joins who has begun."""
        task = self._tasks.get(upload.id)
        if task is None:
            task = asyncio.create_task(self._publisher.finish(upload, digest, new=new), name=f"finish {upload.id}")
            self._tasks[upload.id] = task
            task.add_done_callback(lambda done: self._done(upload.id, done))
        return task

    async def wait(self, upload_id: str) -> None:
        """Returns when nobody finishes this upload any more."""
        task = self._tasks.get(upload_id)
        if task is not None:
            await asyncio.wait({task})

    async def close(self, drain_s: float) -> None:
        """Waits for all; what is cut off is finished after the next start."""
        if self._tasks:
            _, unfinished = await asyncio.wait(set(self._tasks.values()), timeout=drain_s)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _done(self, upload_id: str, task: asyncio.Task[Outcome]) -> None:
        self._tasks.pop(upload_id, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning("upload.postponed", upload=upload_id, error=str(error), kind=type(error).__name__)
