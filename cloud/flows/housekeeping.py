"""What has to be done for uploads from time to time. Each job gives the number of things it has dealt with.

`recover` finishes what a stop or a crash left between the last byte and the publication, `expire` ends uploads whose
time is over and forgets ended ones later, `sweep` removes bytes that nobody owns.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from cloud.flows.uploads import Uploads
from cloud.store import uploads as rows
from cloud.store.db import Database

# A body of a creation has bytes before it has a row; younger files are therefore left alone.
ORPHAN_AGE_S = 6 * 3600.0
SWEEP_EVERY_S = 6 * 3600.0
PAGE = 500


class Housekeeping:
    """The jobs, for a worker that calls them at intervals."""

    def __init__(
        self,
        db: Database,
        uploads: Uploads,
        now_ms: Callable[[], int],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        orphan_age_s: float = ORPHAN_AGE_S,
    ) -> None:
        self._db = db
        self._uploads = uploads
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._orphan_age_s = orphan_age_s
        self._sweep_at = monotonic()

    async def recover(self) -> int:
        """Finishes uploads whose bytes are all there."""
        return await self._uploads.recover()

    async def expire(self) -> int:
        """Ends unfinished uploads whose time is over; removes the rows of those that ended long ago."""
        dealt_with = 0
        while True:
            async with self._db.reading() as tx:
                page = await rows.expired(tx, now_ms=self._now_ms(), limit=PAGE)
            before = dealt_with
            for upload, state in page:
                if state == "receiving":
                    dealt_with += await self._uploads.expire(upload)
                else:
                    async with self._db.transaction() as tx:
                        await rows.forget(tx, upload)
                    dealt_with += 1
            # What somebody is at work on is left for the next time.
            if len(page) < PAGE or dealt_with == before:
                return dealt_with

    async def sweep(self) -> int:
        """Removes files that belong to no upload and no content, a few times a day."""
        if self._monotonic() < self._sweep_at:
            return 0
        self._sweep_at = self._monotonic() + SWEEP_EVERY_S
        blobs = self._uploads.blobs
        removed = 0
        async for found in self._old(blobs.uploads):
            async with self._db.reading() as tx:
                owned = await rows.owning_bytes(tx, [path.name.partition(".")[0] for path in found])
            removed += await self._remove([path for path in found if path.name.partition(".")[0] not in owned])
        async for found in self._old(blobs.contents):
            async with self._db.reading() as tx:
                used = await rows.blobs_in_use(tx, [path.name for path in found])
            removed += await self._remove([path for path in found if path.name not in used])
        return removed

    async def _old(self, base: Path) -> AsyncIterator[list[Path]]:
        folders = self._uploads.blobs.names(base, time.time() - self._orphan_age_s)
        while found := await self._uploads.threads.run(lambda: next(folders, [])):
            yield found

    async def _remove(self, paths: list[Path]) -> int:
        for path in paths:
            await self._uploads.threads.run(path.unlink, missing_ok=True)
        return len(paths)
