"""Who may do what, and how soon a change made elsewhere holds."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sqlite3
from collections.abc import Awaitable, Callable

import pytest
from conftest import Cloud, StartCloud

from cloud.flows import identity
from cloud.flows.identity import Identity
from cloud.rules import access
from cloud.services import wall_ms
from cloud.store.db import Database
from pisyncd.core.errors import PermanentError

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0}


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await check():
            await asyncio.sleep(0.05)


async def test_no_token_and_a_wrong_token_are_told_apart(cloud_lite: Cloud) -> None:
    for headers, code in (
        ({}, "token-missing"),
        ({"Authorization": "Bearer "}, "token-missing"),
        ({"Authorization": "Basic eDp5"}, "token-missing"),
        ({"Authorization": "Bearer wrong"}, "token-refused"),
    ):
        async with cloud_lite.http.get(f"{cloud_lite.url}/api/devices", headers=headers) as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert problem["code"] == code
            assert problem["retryable"] is False


async def test_only_hashes_of_secrets_are_stored(start_cloud: StartCloud, tmp_path: object) -> None:
    cloud = await start_cloud()
    device, viewer = await cloud.enroll("pi-1"), await cloud.key("viewer")
    with sqlite3.connect(cloud.services.settings.database_url) as lite:
        dump = "\n".join(lite.iterdump())
    lite.close()
    for headers in (device, viewer):
        token = headers["Authorization"].removeprefix("Bearer ")
        assert token not in dump
        assert hashlib.sha256(token.encode()).hexdigest() in dump


@pytest.mark.parametrize("path", ["/api/probe?challenge=abc", "/api/nothing", "/api/devices", "/api/probe?challenge="])
async def test_every_answer_to_a_token_carries_the_proof_and_the_time(cloud_lite: Cloud, path: str) -> None:
    headers = {**await cloud_lite.enroll("pi-1"), "PiSync-Challenge": "c-1_A"}
    token = headers["Authorization"].removeprefix("Bearer ")
    proof = hmac.digest(token.encode(), b"c-1_A", "sha256").hex()
    for method in ("GET", "PUT", "HEAD"):
        async with cloud_lite.http.request(method, cloud_lite.url + path, headers=headers) as answer:
            assert answer.headers["PiSync-Proof"] == proof
            assert abs(int(answer.headers["PiSync-Time"]) - wall_ms()) < 60_000
            assert "Date" in answer.headers
    unknown = {"Authorization": "Bearer x", "PiSync-Challenge": "c"}
    async with cloud_lite.http.get(cloud_lite.url + path, headers=unknown) as answer:
        assert answer.headers["PiSync-Proof"] == hmac.digest(b"x", b"c", "sha256").hex()


async def test_the_probe_proves_and_tells_the_time(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    token = device["Authorization"].removeprefix("Bearer ")
    status, answer = await cloud_lite.call("GET", "/api/probe?challenge=abc", headers=device)
    assert status == 200
    assert answer["proof"] == hmac.digest(token.encode(), b"abc", "sha256").hex()
    assert answer["device_id"] == "pi-1"
    assert answer["server_time"].endswith("Z")
    for bad in ("", "a b", "x" * 129, "%00", "ä"):
        assert (await cloud_lite.call("GET", f"/api/probe?challenge={bad}", headers=device))[0] == 422


async def test_revoking_elsewhere_is_noticed(start_cloud: StartCloud, database_url: str) -> None:
    here, elsewhere = await start_cloud(database=database_url), await start_cloud(database=database_url)
    device, viewer = await here.enroll("pi-1"), await here.key("viewer")
    assert (await here.call("POST", "/api/sync-event", json=EVENT, headers=device))[0] == 201
    await identity.revoke(elsewhere.services.db, "pi-1", wall_ms())

    async def refused() -> bool:
        return (await here.call("POST", "/api/sync-event", json=EVENT, headers=device))[0] == 401

    await until(refused)
    _, answer = await here.call("GET", "/api/devices/pi-1", headers=viewer)
    assert answer["data"]["revoked_at"] is not None


async def test_rotating_elsewhere_ends_the_old_token_and_the_new_one_works_at_once(
    start_cloud: StartCloud, database_url: str
) -> None:
    here, elsewhere = await start_cloud(database=database_url), await start_cloud(database=database_url)
    old = await here.enroll("pi-1")
    assert (await here.call("POST", "/api/sync-event", json=EVENT, headers=old))[0] == 201
    new = {"Authorization": "Bearer " + await identity.rotate(elsewhere.services.db, "pi-1", wall_ms())}
    assert (await here.call("POST", "/api/sync-event", json=EVENT, headers=new))[0] == 200

    async def refused() -> bool:
        return (await here.call("POST", "/api/sync-event", json=EVENT, headers=old))[0] == 401

    await until(refused)


async def test_a_rotated_token_may_live_on_for_a_while(db: Database) -> None:
    now = [1_000_000]
    who = Identity(db, lambda: now[0])
    old = await identity.enroll(db, "pi-1", now[0])
    new = await identity.rotate(db, "pi-1", now[0], keep_old_s=60)
    assert await who.who(old) is not None
    now[0] += 60_001
    assert await who.who(old) is None
    assert await who.who(new) is not None


async def test_a_revoked_device_can_be_enrolled_again(db: Database) -> None:
    first = await identity.enroll(db, "pi-1", 1)
    with pytest.raises(identity.AlreadyThere):
        await identity.enroll(db, "pi-1", 2)
    await identity.revoke(db, "pi-1", 3)
    second = await identity.enroll(db, "pi-1", 4)
    who = Identity(db, lambda: 5)
    assert await who.who(first) is None
    found = await who.who(second)
    assert found is not None
    assert found.device_id == "pi-1"


async def test_enrolling_one_device_from_many_sides_gives_one_token(db: Database) -> None:
    results = await asyncio.gather(*(identity.enroll(db, "pi-1", 1) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, str) for result in results) == 1
    assert all(isinstance(result, str | identity.AlreadyThere) for result in results)


@pytest.mark.parametrize("device_id", ["", " ", "a b", "-x", "x" * 129, "a/b", "ä", "a\nb", "a\n", "a\0"])
async def test_what_cannot_be_a_device_id(db: Database, device_id: str) -> None:
    with pytest.raises(PermanentError):
        await identity.enroll(db, device_id, 1)


async def test_remembered_tokens_are_bounded(db: Database) -> None:
    who = Identity(db, lambda: 1, remembered_max=3)
    tokens = [await identity.enroll(db, f"pi-{n}", 1) for n in range(6)]
    for token in tokens:
        assert await who.who(token) is not None
    assert (who.remembered, who.evictions) == (3, 3)
    for number in range(20):
        assert await who.who(f"wrong-{number}") is None
    assert who.remembered == 3


def test_roles_cover_the_lesser_ones() -> None:
    table = {held: [access.covers(held, needed) for needed in access.ROLES] for held in access.ROLES}
    assert table == {
        "viewer": [True, False, False],
        "operator": [True, True, False],
        "admin": [True, True, True],
    }
    assert not access.covers(None, "viewer")


async def test_a_viewer_reads_and_a_device_reads_only_itself(cloud_lite: Cloud) -> None:
    device, viewer = await cloud_lite.enroll("pi-1"), await cloud_lite.key("viewer")
    for path in ("/api/devices", "/api/devices/repeated-failures", "/api/notifications"):
        assert (await cloud_lite.call("GET", path, headers=viewer))[0] == 200
        assert (await cloud_lite.call("GET", path, headers=device))[0] == 403
    for path in ("/api/devices/pi-1", "/api/device/pi-1/sync-history"):
        assert (await cloud_lite.call("GET", path, headers=viewer))[0] == 200
        assert (await cloud_lite.call("GET", path, headers=device))[0] == 200
    assert (await cloud_lite.call("GET", "/api/devices/pi-9", headers=viewer))[0] == 404
    assert (await cloud_lite.call("GET", "/api/devices/pi-9", headers=device))[0] == 403


async def test_health_is_public_and_measured(cloud: Cloud) -> None:
    status, health = await cloud.call("GET", "/api/health")
    assert status == 200
    assert health["status"] == "healthy"
    assert health["services"]["database"]["status"] == "connected"
    assert health["services"]["database"]["latency"] > 0
    assert health["services"]["cache"]["status"] == "connected"
    assert health["services"]["scheduler"]["status"] == "running"
    assert set(health) == {"status", "uptime", "services", "timestamp", "metadata"}


async def test_bytes_of_a_speed_test_are_counted_and_bounded(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("meter-1")
    status, answer = await cloud_lite.call("POST", "/api/probe", data=bytes(32_768), headers=device)
    assert (status, answer["received"]) == (200, 32_768)
    too_much = bytes(cloud_lite.services.settings.body_bytes_max + 1)
    assert (await cloud_lite.call("POST", "/api/probe", data=too_much, headers=device))[0] == 413
    assert (await cloud_lite.call("POST", "/api/probe", data=b"x"))[0] == 401
