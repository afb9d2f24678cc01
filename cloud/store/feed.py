"""Rows of the feed of changes, and the marks by which a reader knows where it is."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from cloud.store.db import Row, Tx

#: As (kind, value): ('site', 'A'), ('group', '4b'), ('user', '7d44...'), ('device', 'pi-1').
Scope = tuple[str, str]

#: Up to so many changes behind the head the changes are looked through; beyond it, what concerns the device.
RECENT_CHANGES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """How far the feed goes, and which part of it is not complete any more.

    `head` is the last change, `forgotten` the last of which a tombstone was dropped; `subscriptions` rises with every
    change of any subscription; `identity` is this database's own number.
    """

    head: int
    forgotten: int
    subscriptions: int
    identity: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Which part of the feed, for whom. `types` None: all. What was gone at `began` already is left out until there."""

    dk: int
    device_id: str
    types: tuple[str, ...] | None
    since: int
    head: int
    began: int


async def identity(tx: Tx) -> int:
    """This database's own number; a new one gets it here."""
    await tx.run("feed_identity_add", value=secrets.randbits(62) | 1)
    return int(await tx.value("feed_identity"))


async def change_identity(tx: Tx) -> None:
    """Another number: this database was restored, and what is known elsewhere of the one before does not hold."""
    await identity(tx)
    await tx.run("feed_identity_change", value=secrets.randbits(62) | 1)


async def marks(tx: Tx) -> Marks:
    """The marks as they are now."""
    row = await tx.one("feed_marks")
    assert row is not None
    return Marks(**dict(row))


async def subscriptions(tx: Tx, dk: int) -> frozenset[Scope]:
    """What a device is subscribed to."""
    return frozenset((row["kind"], row["value"]) for row in await tx.all("subscriptions_of", dk=dk))


async def part(tx: Tx, wanted: Part, *, limit: int, bytes_max: int) -> list[Row]:
    """Up to `limit` + 1 rows (type, id, change, state, gone, found); `found` may be more when they have too many bytes.

    The first one comes however large it is.
    """
    return await tx.all(
        "feed_recent" if wanted.head - wanted.since <= RECENT_CHANGES else "feed_whole",
        dk=wanted.dk,
        device_id=wanted.device_id,
        types=None if wanted.types is None else f",{','.join(wanted.types)},",
        since=wanted.since,
        head=wanted.head,
        began=wanted.began,
        row_limit=limit + 1,
        bytes_max=bytes_max,
    )


async def touched(tx: Tx, since: int, head: int) -> frozenset[Scope]:
    """Whom the changes after `since` concern."""
    return frozenset((row["kind"], row["value"]) for row in await tx.all("feed_touched", since=since, head=head))


async def change_subscriptions(tx: Tx, dk: int, *, add: Iterable[Scope], drop: Iterable[Scope], now_ms: int) -> None:
    """Adds and takes away."""
    for kind, value in sorted(drop):
        await tx.run("subscription_drop", dk=dk, kind=kind, value=value)
    for kind, value in sorted(add):
        await tx.run("subscription_add", dk=dk, kind=kind, value=value, now_ms=now_ms)
    await tx.run("subscriptions_changed")
