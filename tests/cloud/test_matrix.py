"""Every operation of the API with every kind of principal: who passes is what the document says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
from conftest import Cloud, StartCloud
from page_helpers import Checker

from cloud.api.openapi import Operation
from cloud.api.operations import OPERATIONS
from cloud.flows import groups, identity, operators
from cloud.flows.groups import Described, Group
from cloud.rules import access
from cloud.services import wall_ms

CRON = "cron-secret-of-the-matrix-0123456789"
#: What who holds a role for one group only may ask for: the devices of this group, and no other.
GROUPED = {
    "getDevices", "getDevice", "patchDevice", "getTransitions", "postMute", "postUnmute", "getOverview", "getFaults",
    "getGroups", "getIncidents", "getIncident", "postAcknowledge", "postCommand", "getCommands", "postRetire",
    "postDeviceToken", "getTimeline", "getMe",
}  # fmt: skip
#: Answered to anybody, whatever they hold.
OPEN = {"P", "W", "C"}
ROLES = {"viewer": "V", "operator": "VO", "admin": "VOA"}
KINDS = ("nobody", "device", "other", "viewer", "operator", "admin", "of_group", "scoped", "expired", "revoked")


class Stand:
    """A cloud with one of each kind of principal; pi-1 belongs to the group north, pi-2 to none."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.who: dict[str, dict[str, str]] = {"nobody": {}}

    async def fill(self) -> None:
        db = self.cloud.services.db
        self.who["device"] = await self.cloud.enroll("pi-1")
        self.who["other"] = await self.cloud.enroll("pi-2")
        for role in ROLES:
            self.who[role] = await self.cloud.key(role)
        await groups.put_group(db, Group(name="north"), actor="cli:t", now_ms=wall_ms())
        await groups.assign(db, "pi-1", Described(groups=["north"]), actor="cli:t", now_ms=wall_ms())
        now_ms = wall_ms()
        made = {
            "of_group": await identity.create_key(db, "of-group", "admin", now_ms, groups=["north"]),
            "scoped": await identity.create_key(db, "scoped", "admin", now_ms, scopes=["service"]),
            "expired": await identity.create_key(db, "expired", "admin", now_ms, expires_at_ms=now_ms - 1),
            "revoked": await identity.create_key(db, "revoked", "admin", now_ms),
        }
        await identity.revoke_key(db, "revoked", now_ms)
        self.who |= {name: {"Authorization": f"Bearer {secret}"} for name, secret in made.items()}

    async def ask(self, operation: Operation, kind: str, device_id: str = "pi-1") -> int:
        path = re.sub(r"\{device_id\}", device_id, operation.path)
        path = re.sub(r"\{[^{}]*\}", "x", path)
        if operation.name == "getChanges":
            path += "?wait=0"
        body = None if operation.method in ("GET", "HEAD", "OPTIONS", "DELETE") else b"{}"
        async with self.cloud.http.request(
            operation.method, self.cloud.url + path, headers=self.who[kind], data=body
        ) as answer:
            return answer.status


@pytest.fixture
async def stand(start_cloud: StartCloud) -> AsyncIterator[Stand]:
    made = Stand(await start_cloud(rate_login=100_000, cron_secret=CRON, metrics_open=False))
    await made.fill()
    yield made


def passes(operation: Operation, kind: str) -> bool:
    """What the document says: letters of who may."""
    held = set(operation.auth)
    if kind in ROLES:
        return bool(held & set(ROLES[kind]))
    if kind in ("device", "other"):
        return "D" in held
    if kind == "of_group":
        return operation.name in GROUPED
    return kind == "scoped" and access.scope_of(operation.path) == "service" and bool(held & set("VOA"))


@pytest.mark.parametrize("kind", KINDS)
async def test_who_passes_is_what_the_document_says(stand: Stand, kind: str) -> None:
    wrong = []
    for operation in OPERATIONS:
        # Last: it ends the device that all others are asked about.
        if set(operation.auth) & OPEN or operation.name in ("postRetire", "getMetrics"):
            continue
        status = await stand.ask(operation, kind)
        named = "{device_id}" in operation.path
        shut = status in (401, 403) or (status == 404 and kind == "other" and named)
        expected = passes(operation, kind)
        if kind == "other" and named:
            expected = False
        if status >= 500 or shut == expected:
            wrong.append((operation.name, kind, status))
    assert wrong == []


async def test_nobody_reaches_a_device_beyond_their_groups(stand: Stand) -> None:
    reached = []
    for operation in OPERATIONS:
        if "{device_id}" in operation.path and not set(operation.auth) & OPEN:
            status = await stand.ask(operation, "of_group", "pi-2")
            if status not in (403, 404):
                reached.append((operation.name, status))
    assert reached == []


async def test_lists_of_a_group_hold_its_devices_alone(stand: Stand) -> None:
    headers = stand.who["of_group"]
    _, answer = await stand.cloud.call("GET", "/api/devices", headers=headers)
    assert [each["device_id"] for each in answer["data"]] == ["pi-1"]
    _, answer = await stand.cloud.call("GET", "/api/overview", headers=headers)
    assert (answer["data"]["devices"], answer["data"]["hours"]) == (1, [])
    _, answer = await stand.cloud.call("GET", "/api/groups", headers=headers)
    assert [each["name"] for each in answer["data"]] == ["north"]


def test_every_operation_belongs_to_one_part_of_the_api() -> None:
    assert [
        one.path for one in OPERATIONS if one.path.startswith(("/api/", "/v1/")) and access.scope_of(one.path) is None
    ] == []
    assert {one.name for one in OPERATIONS} >= GROUPED - {"getTimeline"}


async def test_a_session_acts_only_with_its_token(stand: Stand) -> None:
    async with await stand.cloud.signed_in("operator") as session:
        url = f"{stand.cloud.url}/api/devices/pi-1/mute"
        async with session.post(url, json={}) as answer:
            assert answer.status == 401
        async with session.post(url, json={}, headers={"X-CSRF-Token": "0" * 64}) as answer:
            assert answer.status == 401
        async with session.get(f"{stand.cloud.url}/") as answer:
            token = re.search(r'name="csrf" value="([0-9a-f]{64})"', await answer.text())
        assert token is not None
        async with session.post(url, json={}, headers={"X-CSRF-Token": token[1]}) as answer:
            assert answer.status == 200
        async with session.put(f"{stand.cloud.url}/api/rules/x", json={}, headers={"X-CSRF-Token": token[1]}) as answer:
            assert answer.status == 403


HEADERS = {
    "Cache-Control": "no-store", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}  # fmt: skip


async def test_every_page_is_shut_to_what_is_foreign(stand: Stand) -> None:
    async with await stand.cloud.signed_in("admin") as session:
        waiting, seen = ["/"], set[str]()
        while waiting:
            path = waiting.pop()
            if path in seen or path.startswith(("/api", "/assets", "data:")):
                continue
            seen.add(path)
            async with session.get(stand.cloud.url + path) as answer:
                assert answer.status < 500, path
                if "html" not in answer.headers.get("Content-Type", ""):
                    continue
                for name, value in HEADERS.items():
                    assert answer.headers[name] == value, path
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                page = Checker.read(await answer.text())
            waiting += [link.partition("#")[0] for link in page.links if link.startswith("/") and link != "/logout"]
        assert len(seen) > 12


async def test_a_key_of_a_person_who_is_removed_works_no_longer(stand: Stand) -> None:
    name, password = await stand.cloud.operator("admin")
    keeper, _ = await stand.cloud.operator("admin")
    assert keeper
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        form = {"name": name, "password": password}
        async with session.post(f"{stand.cloud.url}/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
        await operators.set_disabled(stand.cloud.services.db, name, True, now_ms=wall_ms(), actor="cli:t")
        async with asyncio.timeout(60), session.get(f"{stand.cloud.url}/api/devices") as answer:
            assert answer.status == 401
        async with session.post(f"{stand.cloud.url}/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 401
