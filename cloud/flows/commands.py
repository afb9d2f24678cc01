"""What people ask of devices: kept until the device has told how it ended, told with every answer to a batch.

What is open is held in memory and read again when the generation in the database has risen, so that a batch costs no
query; another process's wish reaches a device within CHECK_INTERVAL_S.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from cloud.flows import audit
from cloud.store.db import Database, Tx
from pisyncd.core.vitals import Command, CommandKind

CHECK_INTERVAL_S = 0.5
#: A device that was not heard of for so long is not told any more.
EXPIRE_MS = 30 * 86_400_000
KEEP_MS = 400 * 86_400_000
ASKED = "command.asked"


class Commands:
    """The open commands of all devices."""

    def __init__(self, db: Database, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._now_ms = now_ms
        self._open: dict[int, list[tuple[Command, bool]]] = {}
        self._generation = -1
        self._checked_s = float("-inf")
        self._checking = asyncio.Lock()

    async def open_for(self, dk: int) -> list[Command]:
        """What the device is asked now, oldest first; from then on it counts as told."""
        if time.monotonic() - self._checked_s > CHECK_INTERVAL_S:
            await self._check()
        found = self._open.get(dk, [])
        if not all(told for _, told in found):
            async with self._db.transaction() as tx:
                await tx.run("commands_sent", dk=dk, now_ms=self._now_ms())
            self._open[dk] = [(command, True) for command, _ in found]
        return [command for command, _ in found]

    async def _check(self) -> None:
        async with self._checking:
            if time.monotonic() - self._checked_s <= CHECK_INTERVAL_S:
                return
            asked_s = time.monotonic()
            async with self._db.reading() as tx:
                generation = await tx.value("commands_generation")
                if generation != self._generation:
                    found: defaultdict[int, list[tuple[Command, bool]]] = defaultdict(list)
                    for row in await tx.all("commands_open"):
                        command = Command(id=row["id"], kind=row["kind"])
                        found[row["dk"]].append((command, row["state"] == "sent"))
                    self._open, self._generation = dict(found), generation
            self._checked_s = asked_s


async def ask(tx: Tx, devices: Mapping[int, str], kind: CommandKind, *, actor: str, now_ms: int) -> list[str]:
    """Asks devices (key -> id) for something; the ids of the commands in their order.

    A device that is asked for the same already is not asked twice: its open command is given.
    """
    open_of = {row["dk"]: row["id"] for row in await tx.all("commands_open") if row["kind"] == kind}
    fresh = {dk: f"cmd_{secrets.token_hex(8)}" for dk in devices if dk not in open_of}
    await tx.bulk("add_commands", [(command, dk, kind, actor, now_ms) for dk, command in fresh.items()])
    for dk in fresh:
        await audit.record(
            tx, now_ms=now_ms, actor=actor, action=ASKED, target=devices[dk], detail={"kind": kind, "id": fresh[dk]}
        )
    if fresh:
        await tx.run("commands_changed")
        await tx.run("fleet_changed")
    return [(open_of | fresh)[dk] for dk in devices]


async def forget(db: Database, now_ms: int) -> int:
    """Ends what no device has answered for EXPIRE_MS, forgets what ended long ago; how many."""
    async with db.transaction() as tx:
        expired = await tx.run("expire_commands", now_ms=now_ms, before_ms=now_ms - EXPIRE_MS)
        if expired:
            await tx.run("commands_changed")
        return expired + await tx.run("drop_commands", before_ms=now_ms - KEEP_MS)
