"""GET /api/sync/status, POST /api/sync/process, GET /api/sync/health, and metrics of deliveries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import Cloud, StartCloud
from webhook_rig import Receiver, busy, receiving, update

from cloud.flows import announcing, endpoints, queue
from cloud.flows.endpoints import Actor
from cloud.services import wall_ms
from pisyncd.core.errors import ConfigError

SECRET = {"x-cron-secret": "s3cret"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
async def cloud(start_cloud: StartCloud, database_url: str) -> Cloud:
    return await start_cloud(database=database_url, webhook_allow="127.0.0.0/8", cron_secret="s3cret")


async def announce(cloud: Cloud, *happenings: announcing.Happening, at_ms: int | None = None) -> None:
    async with cloud.services.db.transaction() as tx:
        await announcing.announce(tx, happenings, wall_ms() if at_ms is None else at_ms)


async def endpoint(cloud: Cloud, url: str) -> str:
    actor = Actor(name="key:test", now_ms=wall_ms())
    made = await endpoints.create(
        cloud.services.db, cloud.services.poster, actor, url=url, description="", event_types=["*"]
    )
    return made.id


async def test_the_queue_is_counted_pushed_and_judged(cloud: Cloud, receiver: Receiver) -> None:
    admin = await cloud.key("admin")
    bad = await endpoint(cloud, receiver.url("/bad"))
    await endpoint(cloud, receiver.url("/good"))
    receiver.behave["/bad"] = busy
    _, answer = await cloud.call("GET", "/api/sync/status", headers=admin)
    assert answer["data"] == {"total": 0, "processing": 0, "pending": 0, "failed": 0}
    _, answer = await cloud.call("GET", "/api/sync/health", headers=admin)
    assert answer["data"] == {
        "healthy": True,
        "message": "nothing was to be delivered",
        "failureRate": 0.0,
        "totalFailures": 0,
        "recentFailures": [],
        "failuresByType": {},
        "failuresByResource": {},
        "averageRetries": 0.0,
        "queue": {"total": 0, "processing": 0, "pending": 0, "failed": 0},
    }
    await announce(cloud, update("u1", 1), update("u2", 2), update("u2", 3))
    status, answer = await cloud.call("POST", "/api/sync/process", headers=SECRET)
    assert status == 200
    assert set(answer) == {"success", "data", "metadata"}
    done = answer["data"]
    assert {key: done[key] for key in ("total", "processing", "pending", "failed")} == {
        "total": 6, "processing": 0, "pending": 3, "failed": 0,
    }  # fmt: skip
    assert done["processed"] <= 5
    _, answer = await cloud.call("GET", "/api/sync/health", headers=admin)
    health = answer["data"]
    assert (health["healthy"], health["failureRate"], health["totalFailures"]) == (False, 0.4, 2)
    assert health["message"] == "2 of 5 attempts failed within a day"
    assert health["failuresByType"] == {"profile.updated": 2}
    assert health["failuresByResource"] == {"profile": 2}
    assert health["queue"] == {"total": 6, "processing": 0, "pending": 3, "failed": 0}
    assert [
        (each["endpoint"], each["type"], each["error"], each["status_code"]) for each in health["recentFailures"]
    ] == [(bad, "profile.updated", "http-status", 429)] * 2
    assert {each["resource"] for each in health["recentFailures"]} == {"profile/u1", "profile/u2"}
    receiver.behave["/bad"] = 200
    for resource in ("profile/u1", "profile/u2"):
        await cloud.services.dispatcher.process(resource)
    _, answer = await cloud.call("GET", "/api/sync/health", headers=admin)
    assert answer["data"]["averageRetries"] == round(2 / 6, 3)
    async with cloud.http.get(cloud.url + "/metrics") as reply:
        text = await reply.text()
    assert 'pisync_webhook_attempts_total{outcome="delivered"} 6.0' in text
    assert 'pisync_webhook_attempts_total{outcome="retry"} 2.0' in text


async def test_what_waits_for_too_long_is_unhealthy(cloud: Cloud, receiver: Receiver) -> None:
    admin = await cloud.key("admin")
    await endpoint(cloud, receiver.url("/x"))
    receiver.behave["/x"] = busy
    await announce(cloud, update("u1", 1), at_ms=wall_ms() - 20 * 60_000)
    await cloud.services.dispatcher.process()
    _, answer = await cloud.call("GET", "/api/sync/health", headers=admin)
    assert not answer["data"]["healthy"]
    assert "the oldest delivery waits for 20 minutes" in answer["data"]["message"]


async def test_only_admins_and_the_cron_job(start_cloud: StartCloud, tmp_path: Path) -> None:
    file = tmp_path / "cron"
    file.write_text("s3cret\n")
    cloud = await start_cloud(cron_secret_file=str(file))
    operator = await cloud.key("operator")
    for path in ("/api/sync/status", "/api/sync/health"):
        assert (await cloud.call("GET", path))[0] == 401
        assert (await cloud.call("GET", path, headers=operator))[0] == 403
    admin = await cloud.key("admin")
    for headers in ({}, admin, {"x-cron-secret": "s3cre"}, {"x-cron-secret": ""}, {"x-cron-secret": "\u00e9"}):
        status, answer = await cloud.call("POST", "/api/sync/process", headers=headers)
        assert (status, answer["code"]) == (401, "cron-secret")
    status, answer = await cloud.call("POST", "/api/sync/process", headers=SECRET)
    assert (status, answer["data"]["processed"]) == (200, 0)


async def test_without_a_secret_there_is_no_push(cloud_lite: Cloud) -> None:
    for headers in ({}, SECRET, {"x-cron-secret": ""}):
        status, answer = await cloud_lite.call("POST", "/api/sync/process", headers=headers)
        assert (status, answer["code"]) == (503, "cron-off")
        assert "cron_secret_file" in answer["hint"]


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_file_without_a_secret_stops_the_service(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "cron"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="cron_secret_file"):
        queue.read_cron_secret("", str(file))
