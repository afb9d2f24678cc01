"""The operator's pages: readable without scripts, shut to strangers, safe with hostile names."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from conftest import Cloud, StartCloud
from yarl import URL

from cloud.flows import identity
from cloud.services import wall_ms
from cloud.store import files

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 3, "total_errors": 0}
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Checker(HTMLParser):
    """Fails on tags that do not match, on scripts, and on anything from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("href", "src", "action"):
                assert value is not None
                assert value.startswith(("/", "data:image/"))
                assert not value.startswith("//")
                self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


async def page(cloud: Cloud, path: str, session: aiohttp.ClientSession, status: int = 200) -> tuple[str, list[str]]:
    async with session.get(cloud.url + path) as answer:
        text = await answer.text()
        assert answer.status == status, text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return text, checker.links


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
    async with await signed_in(cloud) as session:
        text, links = await page(cloud, "/", session)
        assert "/devices/pi-1" in links
        text, links = await page(cloud, "/devices/pi-1", session)
        assert "docs/lesson 1.txt" in text
        assert "/api/devices/pi-1/files/docs/lesson%201.txt" in links
        assert "1.5 KB" in text
        assert "page 1 of 2" in text
        text, _ = await page(cloud, "/devices/pi-1?events=2", session)
        assert "page 2 of 2" in text
        await page(cloud, "/devices/pi-1?files=99&events=99", session)
        text, _ = await page(cloud, "/?search=nobody", session)
        assert "No device has" in text
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
        assert "<script" not in text
        assert "<img" not in text
        assert "49" not in re.findall(r">2-(.*?)<", text)
        assert "\u202e" not in text
        assert "/api/devices/pi-1/files/7-a%3Fb%23c%2541%26d" in links
        for query in ("search=%3Cscript%3E", "search=%22onload%3D", "search=%00"):
            text, _ = await page(cloud_lite, f"/?{query}", session)
            assert "<script" not in text


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
