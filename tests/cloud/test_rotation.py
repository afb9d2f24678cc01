"""New tokens with the answer to a batch: given when due, again when lost, and the old ones end with the first use."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from conftest import Cloud, StartCloud

from cloud.flows import identity, rotation
from cloud.flows.identity import Identity
from cloud.flows.rotation import GRACE_MS, Rotation
from cloud.services import wall_ms
from cloud.store.db import Database, Tx
from pisyncd.core import wire

NUMBERS = itertools.count(1)
DAY_MS = 86_400_000


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def given(cloud: Cloud, token: str) -> str | None:
    """The token in the answer to a batch."""
    event = {"itemType": "event", "id": f"e{next(NUMBERS)}", "itemData": {"eventType": "x", "eventData": {}}}
    body = {"batchId": f"b{next(NUMBERS)}", "items": [event]}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=bearer(token))
    assert status == 200, answer
    return answer["next"].get("token")


class Clock:
    def __init__(self) -> None:
        self.ms = wall_ms()

    def now(self) -> int:
        return self.ms


async def test_a_device_is_given_a_new_token_when_somebody_asks(cloud: Cloud) -> None:
    first = (await cloud.enroll("pi-1"))["Authorization"].removeprefix("Bearer ")
    other = (await cloud.enroll("pi-2"))["Authorization"].removeprefix("Bearer ")
    admin = await cloud.key("admin")
    assert await given(cloud, first) is None
    assert (await cloud.call("POST", "/api/devices/pi-1/token", headers=admin))[0] == 202
    cloud.services.identity._checked_at = float("-inf")
    second = await given(cloud, first)
    assert second is not None
    assert second != first
    assert await given(cloud, first) is None, "not another one while the answer may be on its way"
    assert await given(cloud, other) is None
    assert await given(cloud, second) is None
    async with cloud.services.db.reading() as tx:
        dk = await identity.device_key(tx, "pi-1")
        rows = [row async for row in _tokens(tx, (first, second), wall_ms())]
    assert dk
    assert rows[0]["expires_at_ms"] is not None, "the old one ends"
    assert rows[0]["expires_at_ms"] - wall_ms() <= GRACE_MS
    assert rows[1]["expires_at_ms"] is None


async def _tokens(tx: Tx, tokens: Sequence[str], now_ms: int) -> AsyncIterator[Any]:
    for token in tokens:
        yield await tx.one("device_by_token", token_hash=wire.token_hash(token), now_ms=now_ms)


async def test_the_whole_way_by_the_clock(db: Database) -> None:
    clock = Clock()
    first = await identity.enroll(db, "pi-1", clock.ms)
    who = Identity(db, clock.now, token_keep_ms=30 * DAY_MS)
    turning = Rotation(db, clock.now)

    async def holder(token: str) -> identity.Principal | None:
        who._checked_at = float("-inf")
        return await who.who(token)

    async def offered(token: str) -> str | None:
        found = await holder(token)
        assert found is not None
        return await turning.next_token(found)

    assert await offered(first) is None
    clock.ms += 30 * DAY_MS
    lost = await offered(first)
    clock.ms += GRACE_MS
    second = await offered(first)
    assert lost is not None and second is not None and lost != second
    assert await holder(first) is not None, "an answer that was lost costs nothing"
    clock.ms += GRACE_MS + 1
    assert await holder(lost) is None, "who was made before and never used is over"
    assert await offered(second) is None
    assert await offered(first) is None, "its successor is there already"
    clock.ms += GRACE_MS + 1
    assert await holder(first) is None
    assert await holder(second) is not None
    clock.ms += 30 * DAY_MS
    assert await offered(second) is not None


async def test_a_token_at_once(cloud: Cloud) -> None:
    old, admin = await cloud.enroll("pi-1"), await cloud.key("admin")
    asked = {"when": "now", "keep_old_s": 0}
    status, made = await cloud.call("POST", "/api/devices/pi-1/token", json=asked, headers=admin)
    assert status == 200
    cloud.services.identity._checked_at = float("-inf")
    assert await given(cloud, made["data"]["token"]) is None
    assert (await cloud.call("GET", "/api/device/config", headers=old))[0] == 401


@pytest.mark.parametrize("days", [0, 1])
async def test_the_setting(start_cloud: StartCloud, days: int) -> None:
    cloud = await start_cloud(token_rotate_days=days)
    token = (await cloud.enroll("pi-1"))["Authorization"].removeprefix("Bearer ")
    found = await cloud.services.identity.who(token)
    assert found is not None
    assert (found.renew_at_ms is None) == (days == 0)
    assert await given(cloud, token) is None


async def test_asking_is_in_the_audit(cloud_lite: Cloud) -> None:
    await cloud_lite.enroll("pi-1")
    async with cloud_lite.services.db.transaction() as tx:
        dk = await identity.device_key(tx, "pi-1")
        await rotation.ask(tx, dk, "pi-1", actor="cli:amina", now_ms=5)
        rows = await tx.all("audit_of_action", action=rotation.ASKED)
    assert [row["target"] for row in rows] == ["pi-1"]
