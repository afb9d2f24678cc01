"""New tokens for devices, in the answer to a batch: made again until one is used, which ends those before it.

A device that is given a token uses it from its next request on; until then the old one holds, so that an answer that
is lost costs nothing. Only hashes are kept: what was lost cannot be said again, another token is made.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable

from cloud.flows import audit
from cloud.rules.access import Principal
from cloud.store.db import Database, Row, Tx
from pisyncd.core import wire

#: An answer may be on its way so long, and requests with the old token under way.
GRACE_MS = 60_000
KEPT_MS = 30 * 86_400_000
REMEMBERED_MAX = 10_000
RENEWED = "device.token_renewed"
ASKED = "device.token_renewal_asked"


def new_secret(kind: str) -> str:
    """A token of 256 random bits; the prefix lets a person (and a secret scanner) see what it is."""
    return f"pisync_{kind}_{secrets.token_urlsafe(32)}"


class Rotation:
    """Gives devices the tokens that they are to go on with."""

    def __init__(self, db: Database, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._now_ms = now_ms
        self._given: OrderedDict[int, int] = OrderedDict()

    async def next_token(self, principal: Principal) -> str | None:
        """The token to go on with; None: the one that it has."""
        now_ms = self._now_ms()
        if principal.renew_at_ms is None or principal.renew_at_ms > now_ms:
            return None
        # Answers to batches side by side must not overtake each other.
        if now_ms - self._given.get(principal.dk, -GRACE_MS) < GRACE_MS:
            return None
        self._given[principal.dk] = now_ms
        if len(self._given) > REMEMBERED_MAX:
            self._given.popitem(last=False)
        async with self._db.transaction() as tx:
            return await _make(tx, principal, now_ms)


async def _make(tx: Tx, principal: Principal, now_ms: int) -> str:
    token = new_secret("device")
    ends_at_ms = now_ms + GRACE_MS
    await tx.run("end_unused_tokens", dk=principal.dk, token_at_ms=principal.token_at_ms, ends_at_ms=ends_at_ms)
    await tx.run("drop_ended_tokens", dk=principal.dk, before_ms=now_ms - KEPT_MS)
    await tx.run("add_device_token", token_hash=wire.token_hash(token), dk=principal.dk, now_ms=now_ms)
    await audit.record(
        tx, now_ms=now_ms, actor=audit.SYSTEM, action=RENEWED, target=principal.device_id, detail={"with": "batch"}
    )
    return token


async def first_use(db: Database, row: Row, token_hash: str, now_ms: int) -> None:
    """A token (a row of `device_by_token`) is used for the first time: those before it end after GRACE_MS."""
    async with db.transaction() as tx:
        if not await tx.run("token_used", token_hash=token_hash, now_ms=now_ms):
            return
        made_at_ms = row["created_at_ms"]
        ended = await tx.run(
            "end_older_tokens", dk=row["dk"], created_at_ms=made_at_ms, ends_at_ms=now_ms + GRACE_MS
        )
        if ended + await tx.run("rotated_device", dk=row["dk"], at_ms=made_at_ms):
            await tx.run("identity_changed")


async def ask(tx: Tx, dk: int, device_id: str, *, actor: str, now_ms: int) -> None:
    """The next batch of the device is answered with a new token."""
    await tx.run("rotate_device", dk=dk, at_ms=now_ms)
    await audit.record(tx, now_ms=now_ms, actor=actor, action=ASKED, target=device_id, detail={})
    await tx.run("identity_changed")
