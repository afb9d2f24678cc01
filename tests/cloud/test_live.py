"""Server-sent events: an open page hears that there is something new, who may not look hears nothing."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from conftest import Cloud
from page_helpers import person

from cloud.dashboard import live as stream_rules
from cloud.flows import live as rules
from cloud.flows import operators
from cloud.services import wall_ms

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 3, "total_errors": 0}


async def told(stream: aiohttp.ClientResponse) -> str:
    """What the next `changed` event says."""
    async with asyncio.timeout(30):
        while True:
            line = (await stream.content.readline()).decode()
            assert line, "the stream has ended"
            if line.startswith("data: "):
                return line.removeprefix("data: ").strip()


async def test_a_page_hears_what_there_is_and_what_is_new(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    who = await person(cloud, "viewer")
    async with who.http as http, http.get(f"{cloud.url}/live") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["Cache-Control"] == "no-store"
        first = await told(stream)
        assert first == await cloud.services.live.now()
        assert (await cloud.call("POST", "/api/sync-event", json=EVENT, headers=device))[0] == 201
        second = await told(stream)
        # Judging the device may have been told of in the same look.
        assert second.split(".")[1] != first.split(".")[1]
        async with cloud.services.db.transaction() as tx:
            await tx.run("fleet_changed")
        third = await told(stream)
        assert int(third.split(".")[0]) > int(first.split(".")[0])
        assert cloud.services.live.listeners == 1


async def test_a_page_says_what_it_was_made_from(cloud_lite: Cloud) -> None:
    who = await person(cloud_lite, "viewer")
    async with who.http as http, http.get(f"{cloud_lite.url}/") as answer:
        assert f'data-seen="{await cloud_lite.services.live.now()}"' in await answer.text()


async def test_strangers_hear_nothing(cloud_lite: Cloud) -> None:
    assert (await cloud_lite.call("GET", "/live"))[0] == 204
    device = await cloud_lite.enroll("pi-1")
    assert (await cloud_lite.call("GET", "/live", headers=device))[0] == 204


async def test_a_session_has_some_pages_and_the_service_some_more(
    cloud_lite: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LISTENERS_PER_SESSION_MAX", 2)
    monkeypatch.setattr(rules, "LISTENERS_MAX", 3)
    one, other = await person(cloud_lite), await person(cloud_lite)
    address = f"{cloud_lite.url}/live"
    async with one.http, other.http, one.http.get(address) as first, one.http.get(address) as second:
        await told(first)
        await told(second)
        async with one.http.get(address) as third:
            assert third.status == 204
        async with other.http.get(address) as third:
            await told(third)
            async with other.http.get(address) as fourth:
                assert fourth.status == 503
                assert fourth.headers["Retry-After"] == "60"


async def test_the_stream_ends_with_the_session(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_rules, "BEAT_S", 0.05)
    signed_out, shut_out = await person(cloud), await person(cloud, "viewer")
    await person(cloud)
    address = f"{cloud.url}/live"
    async with signed_out.http, shut_out.http, signed_out.http.get(address) as one, shut_out.http.get(address) as two:
        await told(one)
        await told(two)
        await cloud.services.identity.end_session(signed_out.cookie)
        await operators.set_disabled(cloud.services.db, shut_out.name, True, now_ms=wall_ms(), actor="test")
        async with asyncio.timeout(30):
            await one.content.read()
            await two.content.read()
        async with shut_out.http.get(address) as again:
            assert again.status == 204


async def test_a_stop_ends_all_streams(cloud_lite: Cloud) -> None:
    who = await person(cloud_lite)
    async with who.http as http, http.get(f"{cloud_lite.url}/live") as stream:
        await told(stream)
        await cloud_lite.services.live.release()
        async with asyncio.timeout(30):
            await stream.content.read()
    assert cloud_lite.services.live.listeners == 0


async def test_a_page_that_is_closed_listens_no_more(cloud_lite: Cloud) -> None:
    who = await person(cloud_lite)
    async with who.http as http:
        async with http.get(f"{cloud_lite.url}/live") as stream:
            await told(stream)
        # The page is closed; it is noticed with the next thing that there is to say.
        async with asyncio.timeout(30):
            while cloud_lite.services.live.listeners:
                async with cloud_lite.services.db.transaction() as tx:
                    await tx.run("fleet_changed")
                await asyncio.sleep(0.05)
