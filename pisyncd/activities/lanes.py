"""What the lanes of the uploader share: who holds which transfer, what comes next, and the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from pisyncd.activities.preparing import Preparer
from pisyncd.activities.way import Way
from pisyncd.core import plan
from pisyncd.core.errors import PermanentError, UploadGone
from pisyncd.outbox import Outbox
from pisyncd.outbox.files import Transfer, Version
from pisyncd.uplink import Uplink

log = structlog.get_logger()

INVENTORY = "contents_learned"


class UploadSpoilt(PermanentError):
    """What was spooled for the upload cannot be read any more; it is made anew."""

    code = "spool-lost"


@dataclass(slots=True)
class Moving:
    """A transfer that a lane holds, and what memory knows of it. Only `transfer` is durable."""

    transfer: Transfer
    url: str | None
    offset: int
    sure: bool
    # what a transfer of one file carries; the many of a bundle are read when they are needed
    version: Version | None
    compress: bool | None = None
    began_s: float = field(default_factory=time.monotonic)
    sent_bytes: int = 0
    rate_bps: float | None = None
    verifying: bool = False

    @property
    def only(self) -> Version:
        """The version that a transfer of one file carries."""
        if self.version is None:
            raise UploadSpoilt("the transfer carries nothing any more")
        return self.version


@dataclass(slots=True)
class Counters:
    """What happened since the start; a sync cycle is the difference of two of these."""

    attempted: int = 0
    files_synced: int = 0
    errors: int = 0
    error_code: str | None = None


class Lanes:
    """What the lanes share: who holds what, and the counters."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        uplink: Uplink,
        way: Way,
        preparer: Preparer,
        rules: plan.Rules,
        device_id: str,
        compress: bool,
    ) -> None:
        self.outbox = outbox
        self.uplink = uplink
        self.way = way
        self.preparer = preparer
        self.rules = rules
        self.compress = compress
        self.device_id = device_id
        self.counters = Counters()
        self.moving: dict[int, Moving] = {}
        self.reserved: set[int] = set()
        self.delivered: Callable[[], None] = lambda: None
        self.doubted: Callable[[], None] = lambda: None
        # a transfer that was claimed a moment ago belongs to the lane that claimed it, though nobody moves it yet
        self.adoptable: set[int] = set()
        self._choosing = asyncio.Lock()
        self._inventory_done = False

    async def load(self) -> None:
        """What the last run had begun is gone on with."""
        self.adoptable = {each.id for each in await self.outbox.files.transfers_begun()}

    async def doubt(self) -> None:
        """The cloud has lost what it had acknowledged (a restored backup): all files are offered again, those whose
        content it still has by name alone."""
        await self.outbox.files.doubt_delivered(INVENTORY)
        self._inventory_done = False
        self.doubted()

    async def choose(self) -> Transfer | None:
        """The next transfer, claimed; None when nothing is due."""
        async with self._choosing:
            await self._take_inventory()
            decision = await self._decide()
            if isinstance(decision, plan.Nothing):
                return None
            if isinstance(decision, plan.Resume):
                return await self._adopt(decision.transfer)
            versions = decision.versions if isinstance(decision, plan.Bundle) else (decision.version,)
            mine = {version.id for version in versions}
            self.reserved |= mine
        try:
            if isinstance(decision, plan.Bundle):
                made = await self.preparer.together(decision)
            else:
                made = await self.preparer.single(decision.version)
            if made is not None:
                self.counters.attempted += len(versions)
                self.moving[made.id] = await self._resumed(made)
            return made
        finally:
            self.reserved -= mine

    async def _decide(self) -> plan.Resume[Transfer] | plan.Single[Version] | plan.Bundle[Version] | plan.Nothing:
        begun = await self.outbox.files.transfers_begun() if self.adoptable else []
        waiting = await self.outbox.files.next_in_turn(self.rules.entries_max, besides=self.reserved)
        rules = self.rules
        if waiting and not self.preparer.has_room():
            rules = plan.Rules(file_bytes_max=rules.file_bytes_max, parallel=rules.parallel, spool=False)
        return plan.next_upload(
            [each for each in begun if each.id in self.adoptable],
            waiting,
            busy=self.moving,
            rules=rules,
            goodput_bps=self.uplink.goodput.known_bps,
        )

    async def _adopt(self, transfer: Transfer) -> Transfer | None:
        self.adoptable.discard(transfer.id)
        moving = await self._resumed(transfer)
        if moving.version is None and (transfer.kind == "file" or not await self.outbox.files.members(transfer.id)):
            # a stop came between dealing with its files and ending it
            await self.outbox.files.end(transfer)
            self.preparer.remove_spool(transfer)
            return None
        self.moving[transfer.id] = moving
        return transfer

    async def _resumed(self, chosen: Transfer) -> Moving:
        versions = await self.outbox.files.members(chosen.id) if chosen.kind == "file" else []
        version = versions[0] if versions else None
        return Moving(chosen, url=chosen.url, offset=0, sure=chosen.url is None, version=version)

    async def _take_inventory(self) -> None:
        """A fresh outbox asks once what the cloud has from this device, and never sends that again."""
        if self._inventory_done or await self.outbox.memory.get(INVENTORY):
            self._inventory_done = True
            return
        try:
            async for digests in self.uplink.contents(self.device_id):
                await self.outbox.files.learn_contents(digests)
        except (UploadGone, PermanentError) as error:
            # it only saves traffic: a cloud that does not answer it must not hold up the files
            log.warning("inventory.refused", code=error.code, detail=error.detail)
        else:
            await self.outbox.memory.set(INVENTORY, "1")
        self._inventory_done = True
