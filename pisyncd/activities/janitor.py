"""Keeps the state directory small: spools that nobody needs, pages that are free, refused lines of long ago."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake
from pisyncd.sources import refused

log = structlog.get_logger()

INTERVAL_S = 6 * 3600.0
#: Lines that were refused are in the ledger; they are kept to look at, the newest ones.
REFUSED_BYTES_MAX = 256 * 1024 * 1024


class Janitor:
    """One step sweeps once."""

    name = "janitor"
    deadline_s = 300.0

    def __init__(self, outbox: Outbox, spool_dir: Path, refused_dir: Path) -> None:
        self.wake = Wake()
        self._outbox = outbox
        self._spool_dir = spool_dir
        self._refused_dir = refused_dir

    async def step(self) -> float:
        """Seconds until the next sweep."""
        await self._outbox.db.shrink()
        removed = await asyncio.to_thread(refused.trim, self._refused_dir, REFUSED_BYTES_MAX)
        if removed:
            log.warning("spool.refused_lines_removed", files=removed, kept_bytes=REFUSED_BYTES_MAX)
        return INTERVAL_S

    async def sweep_spool(self) -> None:
        """Removes spools that a crash left behind.

        Only before the lanes begin: what they pack is not in the outbox yet.
        """
        needed = await self._outbox.files.spools()
        removed = await asyncio.to_thread(_remove_others, self._spool_dir, needed)
        if removed:
            log.info("spool.swept", files=removed)


def _remove_others(spool_dir: Path, needed: set[str]) -> int:
    others = [path for path in spool_dir.iterdir() if path.name not in needed]
    for path in others:
        path.unlink(missing_ok=True)
    return len(others)
