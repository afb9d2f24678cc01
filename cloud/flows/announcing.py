"""Tells endpoints what happened: rows for the dispatcher, written in the transaction of the fact itself."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.rules import delivery
from cloud.rules.admit import Alert
from cloud.store import webhooks
from cloud.store.db import Tx
from pisyncd.core import wire


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """`type` is the dotted past-tense name ('profile.updated'), `data` goes to endpoints as it is (JSON).

    `user_id`: whom it tells about, so that a purge of that user finds it.
    """

    type: str
    resource_type: str
    resource_id: str
    data: Mapping[str, Any]
    user_id: str = ""


def of_device(kind: str, device_id: str, **data: Any) -> Happening:
    """'device.enrolled' and its like; `data` beside the device's id."""
    return Happening(type=kind, resource_type="device", resource_id=device_id, data={"deviceId": device_id, **data})


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str
    resourceId: str
    resourceType: str
    timestamp: str
    data: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A happening with its id and the body that is signed and sent."""

    id: str
    body: str
    happening: Happening

    @property
    def resource(self) -> str:
        """Deliveries of one resource keep their order."""
        return f"{self.happening.resource_type}/{self.happening.resource_id}"


def prepare(happening: Happening, now_ms: int) -> Prepared:
    """The body is made once: every attempt and every replay has the same bytes and the same id."""
    # Ids that rise with time are written side by side in the index.
    event_id = f"msg_{now_ms:012x}{secrets.token_hex(10)}"
    body = _Body(
        id=event_id,
        type=happening.type,
        resourceId=happening.resource_id,
        resourceType=happening.resource_type,
        timestamp=wire.rfc3339(now_ms),
        data=happening.data,
    )
    return Prepared(id=event_id, body=msgspec.json.encode(body).decode(), happening=happening)


async def wanted(tx: Tx, kinds: Collection[str]) -> set[str]:
    """Those of `kinds` that any endpoint would be told; spares looking up what the data needs."""
    subscribers = await _subscribers(tx)
    return {kind for kind in kinds if any(delivery.wants(filters, kind) for _, filters, _ in subscribers)}


async def announce(tx: Tx, happenings: Sequence[Happening], now_ms: int) -> int:
    """Writes what is to be delivered of `happenings`, in their order; gives the number of deliveries.

    A happening that no endpoint wants leaves nothing. One that only a disabled endpoint wants is kept without a
    delivery, so that a replay can bring it once the endpoint is back.
    """
    if not happenings:
        return 0
    subscribers = await _subscribers(tx)
    kept: list[tuple[Prepared, list[str]]] = []
    for happening in happenings:
        found = [(id_, on) for id_, filters, on in subscribers if delivery.wants(filters, happening.type)]
        if found:
            kept.append((prepare(happening, now_ms), [id_ for id_, on in found if on]))
    ords = await add_events(tx, [each for each, _ in kept], now_ms)
    rows = [
        (endpoint_id, ords[each.id], each.resource, "event", "pending", now_ms, now_ms)
        for each, endpoint_ids in kept
        for endpoint_id in endpoint_ids
    ]
    await tx.bulk("webhook_add_deliveries", rows)
    return len(rows)


async def announce_alerts(tx: Tx, alerts: Sequence[Alert], now_ms: int) -> int:
    """Devices that fail again and again, and those that do no more."""
    if not alerts:
        return 0
    names = await webhooks.device_names(tx, [alert.dk for alert in alerts])
    happenings = [
        of_device(
            "device.failing" if alert.verb == "open" else "device.recovered",
            names.get(alert.dk, ""),
            consecutiveFailures=alert.consecutive_failures,
            errorCode=alert.error_code,
        )
        for alert in alerts
    ]
    return await announce(tx, happenings, now_ms)


async def add_events(tx: Tx, events: Sequence[Prepared], now_ms: int) -> dict[str, int]:
    """Writes what happened; gives the ord of each id."""
    rows = [
        (
            each.id,
            each.happening.type,
            each.happening.resource_type,
            each.happening.resource_id,
            each.body,
            each.happening.user_id,
            now_ms,
        )
        for each in events
    ]
    await tx.bulk("webhook_add_events", rows)
    return {row["id"]: row["ord"] for row in await tx.lookup("webhook_event_ords", [(each.id,) for each in events])}


async def _subscribers(tx: Tx) -> list[tuple[str, list[str], bool]]:
    rows = await tx.all("webhook_subscribers")
    return [(row["id"], msgspec.json.decode(row["event_types"]), row["state"] == "enabled") for row in rows]
