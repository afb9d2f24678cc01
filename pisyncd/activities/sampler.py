"""Tells the cloud how this machine is, seldom enough for a metered link, and how the commands of people ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from msgspec.structs import replace

from pisyncd import hardware
from pisyncd.core import vitals, wire
from pisyncd.core.telling import worth_telling
from pisyncd.core.vitals import CommandResult, Vitals
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake

log = structlog.get_logger()

INTERVAL_S = 300.0
TOLD = "vitals.told"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was told last, and when by the outbox's time."""

    vitals: Vitals
    at_ms: int


class Sampler:
    """One step looks at the machine and writes a report when it is worth one."""

    name = "sampler"
    deadline_s = 120.0

    def __init__(self, outbox: Outbox, state_dir: Path, *, told: Callable[[], None]) -> None:
        self.wake = Wake()
        self._outbox = outbox
        self._state_dir = state_dir
        self._told = told
        #: Another place for `proc`, `sys` and `etc`.
        self.root = Path("/")

    async def step(self) -> float:
        """Seconds until the next look. Raises StorageBusy."""
        now = await self.look()
        before = await self._before()
        age_s = 0.0 if before is None else (self._outbox.db.now_ms() - before.at_ms) / 1000
        # What nobody has fetched yet says enough; what follows it would only wait as well.
        if worth_telling(before.vitals if before else None, now, age_s) and not await self._waiting():
            await self.tell(now)
        return INTERVAL_S

    async def look(self) -> Vitals:
        """The machine and the outbox now."""
        clock, outbox = self._outbox.db.clock, self._outbox
        seen = await asyncio.to_thread(hardware.read, self._state_dir, self.root)
        messages, _, _ = await outbox.messages.owed()
        files, size, _ = await outbox.queue.owed()
        return replace(
            seen,
            at=wire.rfc3339(clock.wall_ms()),
            clock_trusted=clock.trusted(),
            owed_messages=messages,
            owed_files=files,
            owed_bytes=size,
            failed_files=await outbox.queue.count_failures(),
        )

    async def tell(
        self, now: Vitals, results: Sequence[CommandResult] = (), *, remember: Mapping[str, str] | None = None
    ) -> None:
        """Writes a report, and what is to be remembered with it (name -> value), in one transaction."""
        said = replace(now, commands=list(results))
        kept = Told(vitals=now, at_ms=self._outbox.db.now_ms())
        async with self._outbox.db.transaction() as tx:
            await self._outbox.messages.append(tx, vitals.STREAM, vitals.ITEM_TYPE, msgspec.to_builtins(said))
            for name, value in {**(remember or {}), TOLD: msgspec.json.encode(kept).decode()}.items():
                await self._outbox.memory.set_in(tx, name, value)
        log.info("vitals.told", temperature_c=now.temperature_c, disk_free_bytes=now.disk_free_bytes)
        self._told()

    async def _before(self) -> Told | None:
        kept = await self._outbox.memory.get(TOLD)
        try:
            return None if kept is None else msgspec.json.decode(kept, type=Told)
        except msgspec.DecodeError:
            # Written by another version: told anew.
            return None

    async def _waiting(self) -> bool:
        return any(each["stream"].startswith(f"{vitals.STREAM}-") for each in await self._outbox.messages.by_stream())
