"""The operator's pages: readable without scripts, shut to strangers, safe with hostile names."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest
from conftest import Cloud, StartCloud
from page_helpers import Checker
from yarl import URL

from cloud.flows import identity
from cloud.services import wall_ms
from cloud.store import files

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 3, "total_errors": 0}


async def page(cloud: Cloud, path: str, session: aiohttp.ClientSession, status: int = 200) -> tuple[str, list[str]]:
    async with session.get(cloud.url + path) as answer:
        text = await answer.text()
        assert answer.status == status, text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
    return text, Checker.read(text).links


async def signed_in(cloud: Cloud, role: str = "viewer") -> aiohttp.ClientSession:
    return await cloud.signed_in(role)


async def fill(cloud: Cloud) -> dict[str, str]:
    device = await cloud.enroll("pi-1")
    for number in range(25):
        errors = int(number % 5 == 0)
        body: dict[str, Any] = {**EVENT, "event_id": f"e{number}", "total_errors": errors, "internet_speed": 4.25}
        assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201
    return device


async def publish(cloud: Cloud, path: bytes) -> None:
    sha256 = "ab" * 32
    async with cloud.services.db.transaction() as tx:
        dk = await identity.device_key(tx, "pi-1")
        content = files.Content(sha256=sha256, blob="b", offset_bytes=0, length_bytes=1536)
        await files.add_contents(tx, dk, [content], wall_ms())
        delivery = files.Delivery(path=path, sha256=sha256, length_bytes=1536, mtime_ms=0)
        await files.publish(tx, dk, "u" * 32, [delivery], wall_ms())


async def test_pages_show_the_fleet_and_a_device(cloud: Cloud) -> None:
    await fill(cloud)
    await publish(cloud, b"docs/lesson 1.txt")
    await cloud.services.assessor.step()
    async with await signed_in(cloud) as session:
        text, links = await page(cloud, "/", session)
        assert "/devices?state=healthy" in links
        assert "Nothing needs a person." in text
        assert "1 device in all." in text
        text, links = await page(cloud, "/devices", session)
        assert "/devices/pi-1" in links
        text, links = await page(cloud, "/failures", session)
        assert "failed without a reason" in text
        text, links = await page(cloud, "/devices/pi-1", session)
        assert "docs/lesson 1.txt" in text
        assert "/api/devices/pi-1/files/docs/lesson%201.txt" in links
        assert "1.5 KB" in text
        assert "page 1 of 2" in text
        text, _ = await page(cloud, "/devices/pi-1?events=2", session)
        assert "page 2 of 2" in text
        await page(cloud, "/devices/pi-1?files=99&events=99", session)
        text, _ = await page(cloud, "/devices?search=nobody&state=failing&group=x&tag=y&freshness=stale", session)
        assert "No device is like that" in text
        await page(cloud, "/devices?state=sad", session, 422)
        await page(cloud, "/devices/nobody", session, 404)
        await page(cloud, "/devices/pi-1?events=x", session, 422)


async def test_an_empty_cloud_says_what_to_do(cloud: Cloud) -> None:
    async with await signed_in(cloud) as session:
        text, _ = await page(cloud, "/", session)
        assert "pisync-cloud enroll" in text
        await cloud.enroll("pi-1")
        text, _ = await page(cloud, "/devices/pi-1", session)
        assert "Nothing has arrived yet" in text


HOSTILE = [
    b"<script>alert(1)</script>",
    b'"><img src=x onerror=alert(1)>',
    b"{{ 7*7 }}{% raise %}",
    b"line\nbreak\r\n",
    b"\xff\xfe\x80",
    "\u202egnp.exe".encode(),
    b"//evil.example/x",
    b"a?b#c%41&d",
]


async def test_hostile_names_are_only_text(cloud_lite: Cloud) -> None:
    await fill(cloud_lite)
    for number, name in enumerate(HOSTILE):
        await publish(cloud_lite, b"%d-" % number + name)
    async with await signed_in(cloud_lite) as session:
        text, links = await page(cloud_lite, "/devices/pi-1", session)
        assert "<script>" not in text
        assert "<img" not in text
        assert "49" not in re.findall(r">2-(.*?)<", text)
        assert "\u202e" not in text
        assert "/api/devices/pi-1/files/7-a%3Fb%23c%2541%26d" in links
        for query in ("search=%3Cscript%3E", "search=%22onload%3D", "search=%00"):
            text, _ = await page(cloud_lite, f"/devices?{query}", session)
            assert "<script>" not in text


async def test_strangers_are_sent_to_sign_in_and_back(cloud_lite: Cloud) -> None:
    for path in ("/", "/devices/pi-1?events=2"):
        async with cloud_lite.http.get(cloud_lite.url + path, allow_redirects=False) as answer:
            assert answer.status == 303
            assert URL(answer.headers["Location"], encoded=True).query["next"] == path
    async with cloud_lite.http.get(
        cloud_lite.url + "/", headers={"Authorization": "Bearer x"}, allow_redirects=False
    ) as answer:
        assert answer.status == 303


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nX: y"]
)
async def test_signing_in_never_leads_to_another_host(cloud_lite: Cloud, target: str) -> None:
    name, password = await cloud_lite.operator()
    form = {"name": name, "password": password, "next": target}
    async with cloud_lite.http.post(f"{cloud_lite.url}/login", data=form, allow_redirects=False) as answer:
        assert answer.headers["Location"] == "/"


async def test_a_wrong_password_and_odd_forms_are_401(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(rate_login=100)
    for body in (
        b"name=x&password=y",
        b"",
        b"name=%00",
        b"name=" + b"a" * 100_000,
        b"\xff\xfe",
        b"&" * 5000,
        b"a=a&" * 500,
    ):
        async with cloud.http.post(f"{cloud.url}/login", data=body) as answer:
            assert answer.status in (400, 401), body[:20]
            assert "Set-Cookie" not in answer.headers


async def test_a_session_ends_by_signing_out(cloud: Cloud) -> None:
    session = await signed_in(cloud)
    copy = {"Cookie": "; ".join(f"{cookie.key}={cookie.value}" for cookie in session.cookie_jar)}
    text, _ = await page(cloud, "/", session)
    csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', text)
    assert csrf is not None
    async with session.post(f"{cloud.url}/logout", allow_redirects=False) as answer:
        assert answer.status == 403
    assert (await cloud.call("GET", "/api/devices", headers=copy))[0] == 200
    async with session.post(f"{cloud.url}/logout", data={"csrf": csrf[1]}, allow_redirects=False) as answer:
        assert answer.status == 303
    await session.close()
    assert (await cloud.call("GET", "/api/devices", headers=copy))[0] == 401


async def test_a_session_only_reads(cloud_lite: Cloud) -> None:
    await cloud_lite.enroll("pi-1")
    async with await signed_in(cloud_lite, "operator") as session:
        async with session.get(f"{cloud_lite.url}/api/devices/pi-1") as answer:
            assert answer.status == 200
        async with session.post(f"{cloud_lite.url}/api/sync-event", json=EVENT) as answer:
            assert answer.status == 401


async def test_the_open_dashboard_needs_no_key_and_only_under_a_loopback_name(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(open_dashboard=True)
    await page(cloud, "/", cloud.http)
    assert (await cloud.call("GET", "/api/devices"))[0] == 200
    assert (await cloud.call("POST", "/api/sync-event", json=EVENT))[0] == 401
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"):
        assert (await cloud.call("GET", "/api/devices", headers={"Host": host}))[0] == 401
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8080"):
        assert (await cloud.call("GET", "/api/devices", headers={"Host": host}))[0] == 200


async def test_what_needs_a_person_stands_first_and_somebody_takes_it_on(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    for number in range(3):
        body = {
            **EVENT,
            "event_id": f"e{number}",
            "total_files_synced": 0,
            "total_errors": 1,
            "error_code": "card-full",
        }
        assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201
    await cloud.services.assessor.step()
    await cloud.services.alerter.step()
    async with await signed_in(cloud) as viewer:
        text, _ = await page(cloud, "/", viewer)
        assert re.search(r"<b>1 device fails; 1 device: card full since \d\d:\d\d\.</b>", text)
        assert "Acknowledge" not in text
    async with await signed_in(cloud, "operator") as session:
        text, _ = await page(cloud, "/", session)
        action = re.search(r'action="(/incidents/\d+/acknowledge)"', text)
        csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', text)
        assert action is not None
        assert csrf is not None
        async with session.post(cloud.url + action[1], data={}, allow_redirects=False) as answer:
            assert answer.status == 403
        async with session.post(cloud.url + action[1], data={"csrf": csrf[1], "note": "on it"}) as answer:
            assert answer.status == 200
        text, _ = await page(cloud, "/", session)
        assert "Acknowledge" not in text
        text, _ = await page(cloud, "/devices/pi-1", session)
        assert "Taken on by operator:" in text
