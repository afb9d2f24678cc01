"""Requests that wait for changes: who is woken, by what, and what ends the waiting."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from conftest import Cloud, StartCloud
from feed_helpers import device, subscribe, until, write

from cloud.flows import identity, waiting
from cloud.store import drivers

A, B = ("site", "A"), ("site", "B")


async def test_a_commit_wakes_whom_it_concerns_alone(cloud: Cloud) -> None:
    db, feed_ = cloud.services.db, cloud.services.feed
    at_a, at_b = await device(cloud, "pi-a", site=["A"]), await device(cloud, "pi-b", site=["B"])
    await at_a.pull()
    await at_b.pull()
    waits = [asyncio.create_task(each.ask(wait=900)) for each in (at_a, at_b)]
    await until(lambda: feed_.held == 2)
    await write(db, "a1", A)
    feed_.moved()
    status, body = await waits[0]
    assert (status, [each["id"] for each in body["data"]["changes"]]) == (200, ["a1"])
    assert feed_.held == 1
    await write(db, "b1", B)
    feed_.moved()
    assert (await waits[1])[1]["data"]["changes"][0]["id"] == "b1"
    assert feed_.held == 0


async def test_what_one_device_tells_wakes_the_others_of_its_site(cloud: Cloud) -> None:
    """The whole way: a batch, its record, the feed."""
    one, two = await device(cloud, "pi-1", site=["A"]), await device(cloud, "pi-2", site=["A"])
    other = await device(cloud, "pi-3", site=["B"])
    for each in (one, two, other):
        await each.pull()
    waits = [asyncio.create_task(each.ask(wait=900)) for each in (two, other)]
    await until(lambda: cloud.services.feed.held == 2)
    item = {"itemType": "progress", "itemData": {"progressId": "p1", "percent": 75}, "id": "i1"}
    status, body = await cloud.call(
        "POST", "/api/telemetry/batch", json={"batchId": "b", "items": [item]}, headers=one.headers
    )
    assert (status, body["data"]["successful"]) == (200, 1)
    (change,) = (await waits[0])[1]["data"]["changes"]
    assert (change["type"], change["id"]) == ("progress", "p1")
    assert not waits[1].done()
    assert await one.pull() == ["p1"]
    cloud.services.feed.release()
    assert (await waits[1])[1]["data"]["changes"] == []


async def test_what_is_there_is_not_waited_for(cloud_lite: Cloud) -> None:
    pi = await device(cloud_lite, "pi", site=["A"])
    await write(cloud_lite.services.db, "a", A)
    assert (await pi.ask(wait=900))[1]["data"]["changes"]
    await pi.pull()
    assert (await pi.ask(wait=900, rules="other"))[1]["data"]["rules"]
    assert (await pi.ask(wait=0))[1]["data"]["changes"] == []


async def test_the_time_is_over(cloud_lite: Cloud) -> None:
    pi = await device(cloud_lite, "pi", site=["A"])
    await write(cloud_lite.services.db, "b", B)
    status, body = await pi.ask(wait=1)
    assert (status, body["data"]["changes"], body["data"]["more"]) == (200, [], False)
    assert body["data"]["cursor"].endswith(".1")


async def test_the_commit_of_another_process_wakes(start_cloud: StartCloud, postgres_url: str) -> None:
    """And that of another one, which enrols and subscribes at a terminal."""
    cloud = await start_cloud(database=postgres_url)
    pi = await device(cloud, "pi", site=["A"])
    await pi.pull()
    wait = asyncio.create_task(pi.ask(wait=900))
    await until(lambda: cloud.services.feed.held == 1)
    async with drivers.opened(postgres_url) as other:
        await write(other, "a1", A)
        assert (await wait)[1]["data"]["changes"][0]["id"] == "a1"
    await pi.pull()
    wait = asyncio.create_task(pi.ask(wait=900))
    await until(lambda: cloud.services.feed.held == 1)
    command = [sys.executable, "-m", "cloud", "subscribe", "pi", "--group", "4b", "--database", postgres_url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (await wait)[0] == 410


async def test_other_subscriptions_wake(cloud: Cloud) -> None:
    pi = await device(cloud, "pi", site=["A"])
    await pi.pull()
    wait = asyncio.create_task(pi.ask(wait=900))
    await until(lambda: cloud.services.feed.held == 1)
    await subscribe(cloud, "pi", site=["B"])
    assert (await wait)[0] == 410


async def test_a_token_that_ended_while_waiting(cloud_lite: Cloud) -> None:
    db = cloud_lite.services.db
    pi = await device(cloud_lite, "pi", site=["A"])
    await pi.pull()
    wait = asyncio.create_task(pi.ask(wait=900))
    await until(lambda: cloud_lite.services.feed.held == 1)
    await identity.revoke(db, "pi", 1)
    cloud_lite.services.identity._checked_at = float("-inf")
    await write(db, "a", A)
    cloud_lite.services.feed.moved()
    assert (await wait)[0] == 401


async def test_a_client_that_goes_away_is_not_waited_for(cloud_lite: Cloud) -> None:
    pi = await device(cloud_lite, "pi", site=["A"])
    await pi.pull()
    async with aiohttp.ClientSession() as http:
        wait = asyncio.create_task(
            http.get(f"{cloud_lite.url}/api/changes?since={pi.cursor}&wait=900", headers=pi.headers)
        )
        await until(lambda: cloud_lite.services.feed.held == 1)
        wait.cancel()
        await asyncio.gather(wait, return_exceptions=True)
    await until(lambda: cloud_lite.services.feed.held == 0)


async def test_a_device_that_comes_again_and_again_holds_only_a_few(cloud_lite: Cloud) -> None:
    pi = await device(cloud_lite, "pi", site=["A"])
    await pi.pull()
    most = waiting.HELD_PER_DEVICE_MAX
    waits = [asyncio.create_task(pi.ask(wait=900)) for _ in range(most + 3)]
    await asyncio.wait(waits, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    await until(lambda: sum(each.done() for each in waits) == 3)
    assert cloud_lite.services.feed.held == most
    cloud_lite.services.feed.release()
    assert {status for status, _ in await asyncio.gather(*waits)} == {200}


async def test_too_many_wait(cloud_lite: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "HELD_MAX", 0)
    pi = await device(cloud_lite, "pi", site=["A"])
    status, body = await pi.ask(wait=900)
    assert (status, body["code"], body["retryable"]) == (503, "too-many-waiting", True)


async def test_many_wait_and_the_database_is_asked_by_few(cloud: Cloud) -> None:
    """They hold no connection to the database; a commit makes those ask whom it concerns, once each."""
    services = cloud.services
    pis = [await device(cloud, f"pi-{number}", site=[f"S{number}"]) for number in range(25)]
    for pi in pis:
        await pi.pull()
    waits = [asyncio.create_task(pi.ask(wait=900)) for pi in pis for _ in range(3)]
    await until(lambda: services.feed.held == len(waits))
    asked: list[str] = []
    page = services.feed.page

    async def counted(ask: object) -> object:
        asked.append(ask.device_id)  # type: ignore[attr-defined]
        return await page(ask)  # type: ignore[arg-type]

    services.feed.page = counted  # type: ignore[method-assign, assignment]
    await write(services.db, "r", ("site", "S7"))
    services.feed.moved()
    woken = await asyncio.gather(*waits[21:24])
    assert [body["data"]["changes"][0]["id"] for _, body in woken] == ["r"] * 3
    assert asked == ["pi-7"] * 3
    assert services.feed.held == len(waits) - 3
    services.feed.release()
    assert {status for status, _ in await asyncio.gather(*waits)} == {200}


async def test_a_stop_does_not_wait_for_who_waits(tmp_path: Path) -> None:
    """A real process: SIGTERM answers the held request, empty, and the service ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cloud", "serve", "--data", str(tmp_path), "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cloud", "enroll", "pi", "--data", str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        headers = {"Authorization": f"Bearer {done.stdout.strip()}"}
        async with aiohttp.ClientSession() as http:
            # Two on one connection each; the first answer tells that the service is there.
            async with http.get(f"{url}/api/changes", headers=headers) as answer:
                assert answer.status == 200
            wait = asyncio.create_task(http.get(f"{url}/api/changes?wait=900", headers=headers))
            await _is_held(http, url)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(15):
                answer = await wait
                assert (await answer.json())["data"]["changes"] == []
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _is_held(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(15):
        while True:
            async with http.get(f"{url}/metrics") as answer:
                if "pisync_changes_waiting 1.0" in await answer.text():
                    return
