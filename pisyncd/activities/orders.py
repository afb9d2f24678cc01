"""Does what people at the cloud ask of this device, once, and tells how it ended.

The cloud asks again with every batch until it has been told. What was done is remembered in the transaction that
tells it, so a device that is switched off in between does it a second time rather than not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec
import structlog

from pisyncd.activities.sampler import Sampler
from pisyncd.core.errors import PiSyncError
from pisyncd.core.settle import Sighting
from pisyncd.core.vitals import OWN_ROOT, Command, CommandResult
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake

log = structlog.get_logger()

INTERVAL_S = 6 * 3600.0
DONE = "commands.done"
DONE_MAX = 100
PRIORITY = 9


class Orders:
    """One step does what was asked for; a step without an order removes bundles that have arrived."""

    name = "orders"
    deadline_s = 300.0

    def __init__(
        self,
        outbox: Outbox,
        sampler: Sampler,
        directory: Path,
        *,
        sync: Callable[[], None],
        queued: Callable[[], None],
        describe: Callable[[], Awaitable[dict[str, object]]],
    ) -> None:
        """`directory` is that of OWN_ROOT; `describe`: the parts of a support bundle, by the name of their file."""
        self.wake = Wake()
        self._outbox = outbox
        self._sampler = sampler
        self._directory = directory
        self._sync = sync
        self._queued = queued
        self._describe = describe
        self._asked: dict[str, Command] = {}

    def ask(self, commands: Iterable[Command]) -> None:
        """What the answer to a batch asks for; the same again and again."""
        fresh = {each.id: each for each in commands}
        if fresh.keys() - self._asked.keys():
            self.wake.set()
        self._asked = fresh

    async def step(self) -> float:
        """Seconds until the next look. Raises StorageBusy."""
        done = await self._done()
        open_now = [each for each in self._asked.values() if each.id not in done]
        if open_now:
            results = [await self._do(each) for each in open_now]
            kept = [*done, *(each.id for each in results)][-DONE_MAX:]
            remember = {DONE: msgspec.json.encode(kept).decode()}
            await self._sampler.tell(await self._sampler.look(), results, remember=remember)
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        await self._tidy()
        return INTERVAL_S

    async def _do(self, command: Command) -> CommandResult:
        try:
            detail = await self._bundle(command.id) if command.kind == "support-bundle" else self._sync_now()
        except (PiSyncError, OSError) as error:
            log.warning("command.failed", id=command.id, kind=command.kind, detail=str(error))
            return CommandResult(id=command.id, state="failed", detail=_plain(str(error) or type(error).__name__))
        log.info("command.done", id=command.id, kind=command.kind)
        return CommandResult(id=command.id, state="done", detail=detail)

    def _sync_now(self) -> str:
        self._sync()
        return ""

    async def _bundle(self, command_id: str) -> str:
        # Only here: what packs archives would stay in the memory of a daemon that is never asked.
        from pisyncd.sources import support

        name = support.file_name(command_id)
        path = self._directory / name
        parts = await self._describe()
        made = await asyncio.to_thread(support.write, path, parts)
        seen = Sighting(
            root=OWN_ROOT, path=name.encode(), size=made.st_size, mtime_ns=made.st_mtime_ns, inode=made.st_ino,
            priority=PRIORITY,
        )  # fmt: skip
        await self._outbox.files.add([seen])
        self._queued()
        return f"{OWN_ROOT}/{name}"

    async def _done(self) -> list[str]:
        kept = await self._outbox.memory.get(DONE)
        try:
            return [] if kept is None else msgspec.json.decode(kept, type=list[str])
        except msgspec.DecodeError:
            return []

    async def _tidy(self) -> None:
        for path in await asyncio.to_thread(lambda: sorted(self._directory.glob("support/*.tar.gz"))):
            name = str(path.relative_to(self._directory))
            states = [each["state"] for each in await self._outbox.queue.versions(OWN_ROOT, name.encode())]
            if not {"pending", "uploading"} & set(states):
                await asyncio.to_thread(path.unlink, missing_ok=True)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:200]
