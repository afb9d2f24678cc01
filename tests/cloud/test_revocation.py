"""Whoever is shut out is out within a minute, also in the middle of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from conftest import Cloud
from feed_helpers import device, until

from cloud.api import shutout
from cloud.flows import identity
from cloud.services import wall_ms


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutout, "LOOK_S", 0.05)


async def test_a_held_request_ends_with_its_token(cloud: Cloud) -> None:
    mine, theirs = await device(cloud, "pi-1", site=["A"]), await device(cloud, "pi-2", site=["A"])
    for each in (mine, theirs):
        await each.pull()
    waits = [asyncio.create_task(each.ask(wait=900)) for each in (mine, theirs)]
    await until(lambda: cloud.services.feed.held == 2)
    await identity.revoke(cloud.services.db, "pi-1", wall_ms())
    status, answer = await waits[0]
    assert (status, answer["code"]) == (401, "token-refused")
    assert not waits[1].done(), "nobody else is disturbed"
    assert cloud.services.feed.held == 1
    cloud.services.feed.release()
    assert (await waits[1])[0] == 200


async def test_an_upload_under_way_ends_with_its_token(cloud: Cloud) -> None:
    auth = await cloud.enroll("pi-1")
    headers = {**auth, "Tus-Resumable": "1.0.0", "Upload-Length": "1000", "Upload-Metadata": "path cg=="}
    async with cloud.http.post(cloud.url + "/api/files", headers=headers) as made:
        assert made.status == 201
        at = made.headers["Location"]
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100
        await never.wait()

    async def patch() -> int:
        sent = {**auth, "Tus-Resumable": "1.0.0", "Upload-Offset": "0"}
        sent["Content-Type"] = "application/offset+octet-stream"
        async with cloud.http.patch(cloud.url + at, headers=sent, data=body()) as answer:
            return answer.status

    uploads, upload_id = cloud.services.uploads, at.rpartition("/")[2]
    sending = asyncio.create_task(patch())
    path = uploads.blobs.upload_path(upload_id)
    await until(lambda: uploads._locks.held(upload_id) and path.exists() and path.stat().st_size == 100)
    await identity.revoke(cloud.services.db, "pi-1", wall_ms())
    assert await sending == 401
    await until(lambda: not uploads._locks.held(upload_id))
    assert (await uploads.look(None, upload_id, take_over=True)).offset == 100, "what had arrived is kept"


async def test_nobody_is_looked_at_while_nothing_changes(cloud_lite: Cloud) -> None:
    under_way = shutout.UnderWay()
    mine = await device(cloud_lite, "pi-1", site=["A"])
    await mine.pull()
    assert [await under_way.look(cloud_lite.app) for _ in range(2)] == [0, 0]
