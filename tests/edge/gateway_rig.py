"""A gateway on a real socket over a real outbox; only what the daemon holds in memory is set by hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pisyncd.config import Cloud, Config, Gateway, Intake, WatchRoot
from pisyncd.core.errors import PiSyncError, Rejected
from pisyncd.core.settle import Sighting
from pisyncd.gateway import serving
from pisyncd.gateway.ports import LinkView, RootView, SpoolView, TransferView
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.runtime.clock import Clock


class Memory:
    """What only the running daemon knows, as a test wants it."""

    def __init__(self, config: Config, outbox: Outbox) -> None:
        self.config = config
        self.clock = outbox.db.clock
        self.config_fault = ""
        self.intake_fault = ""
        self.enrolment_fault = ""
        self.link_now = LinkView(state="full", reason="our cloud has proven itself", probed_ago_s=0.0, proven_ago_s=3.0)
        self.moving: list[TransferView] = []
        self.root_views = [
            RootView(name=root.name, path=str(root.path), state="watching", scanned_ago_s=12.0) for root in config.watch
        ]
        self.settling: dict[tuple[str, bytes], float] = {}
        self.stuck: list[str] = []
        self.spool_view = SpoolView(path=str(config.intake_dir))
        self.is_paused = False
        self.asked: list[str] = []
        self.not_synced = ""
        self._outbox = outbox

    def link(self) -> LinkView:
        return self.link_now

    def transfers(self) -> Sequence[TransferView]:
        return self.moving

    def roots(self) -> Sequence[RootView]:
        return self.root_views

    def spool(self) -> SpoolView:
        return self.spool_view

    def settling_s(self, root: str, path: bytes) -> float | None:
        return self.settling.get((root, path))

    def late(self) -> Sequence[str]:
        return self.stuck

    def paused(self) -> bool:
        return self.is_paused

    async def pause(self) -> None:
        self.is_paused = True

    async def resume(self) -> None:
        self.is_paused = False

    async def retry(self, file_id: int | None) -> int:
        return await self._outbox.files.retry(file_id)

    def sync(self) -> None:
        self.asked.append("sync")

    async def sync_record(self, record_type: str, record_id: str) -> str:
        self.asked.append(f"{record_type}/{record_id}")
        return self.not_synced

    def probe(self) -> None:
        self.asked.append("probe")


class Rig:
    """A device with one root, and the verbs that put files into its outbox."""

    def __init__(self, memory: Memory, outbox: Outbox, root: Path) -> None:
        self.memory = memory
        self.outbox = outbox
        self.root = root
        self.socket = memory.config.socket

    async def offer(self, name: bytes, content: bytes = b"hello", *, priority: int = 5) -> int:
        """Writes the file and offers it; gives the row's id."""
        path = os.fsencode(self.root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        status = os.stat(path)
        sighting = Sighting(
            root="learning",
            path=name,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            priority=priority,
        )
        await self.outbox.files.add([sighting])
        return int((await self.outbox.queue.versions("learning", name))[0]["id"])

    async def begin(self, name: bytes) -> int:
        """Claims the pending version of `name`; gives the transfer's id."""
        version = next(each for each in await self.outbox.files.next_in_turn(100) if each.path == name)
        transfer = await self.outbox.files.claim(
            [(version, b"\1" * 32)], kind="file", spool=None, length=version.size, sha256=b"\1" * 32, priority=5
        )
        assert transfer is not None
        return transfer.id

    async def finish(self, name: bytes) -> None:
        """The cloud has it."""
        transfer = await self.outbox.files.transfer(await self.begin(name))
        assert transfer is not None
        await self.outbox.files.complete(transfer, bytes_sent=transfer.length, duration_ms=1000)

    async def refuse(self, name: bytes, error: PiSyncError | None = None) -> None:
        """The cloud does not want it."""
        version = next(each for each in await self.outbox.files.next_in_turn(100) if each.path == name)
        await self.outbox.files.fail([version], error or Rejected("the cloud refused it", code="path-invalid"))

    async def postpone(self, name: bytes, seconds: float) -> None:
        """It is tried again later."""
        version = next(each for each in await self.outbox.files.next_in_turn(100) if each.path == name)
        due_at_ms = self.outbox.db.now_ms() + int(seconds * 1000)
        await self.outbox.files.postpone(
            [version], Rejected("not now", code="checksum-mismatch", hint="wait"), due_at_ms
        )


@contextlib.asynccontextmanager
async def gateway(directory: Path, *, intake: Intake | None = None, clock: Clock | None = None) -> AsyncIterator[Rig]:
    """A running gateway below `directory`, a second time with the same outbox."""
    root = directory / "learning"
    root.mkdir(exist_ok=True)
    config = Config(
        device_id="pibox-0042",
        state_dir=directory,
        runtime_dir=directory / "run",
        cloud=Cloud(url="https://cloud.example.org"),
        watch=(WatchRoot(path=root, name="learning", exclude=("*.tmp", "cache/**"), include=()),),
        gateway=Gateway(group="root"),
        intake=intake or Intake(),
    )
    async with open_outbox(directory / "outbox.db", clock or Clock()) as outbox:
        memory = Memory(config, outbox)
        async with serving(memory, outbox):
            yield Rig(memory, outbox, root)
