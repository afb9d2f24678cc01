"""People, keys and tags over the API; the timeline; repeated failures by time, group and whether they are taken on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud, StartCloud

from cloud.flows import groups, identity, operators
from cloud.flows.groups import Described, Group
from cloud.services import wall_ms
from cloud.store.db import Database

LONG = "a long enough sentence"


async def test_who_asks(cloud: Cloud) -> None:
    me = {}
    for name, headers in (("device", await cloud.enroll("pi-1")), ("admin", await cloud.key("admin"))):
        status, answer = await cloud.call("GET", "/api/me", headers=headers)
        assert status == 200
        me[name] = answer["data"]
    assert (me["device"]["kind"], me["device"]["name"], me["device"]["grants"]) == ("device", "pi-1", [])
    assert (me["admin"]["kind"], me["admin"]["grants"]) == ("key", [{"role": "admin", "group": None}])
    assert (await cloud.call("GET", "/api/me"))[0] == 401


async def test_an_operator_from_the_beginning_to_the_end(cloud: Cloud) -> None:
    admin = await cloud.key("admin")

    async def put(**body: Any) -> tuple[int, Any]:
        return await cloud.call("PUT", "/api/operators/grace", json=body, headers=admin)

    assert (await put(grants=[{"role": "viewer"}]))[0] == 422, "a new one takes a password"
    assert (await put(password="short", grants=[{"role": "viewer"}]))[0] == 422
    assert (await put(password=LONG, grants=[{"role": "viewer", "group": "nowhere"}]))[0] == 422
    status, made = await put(password=LONG, grants=[{"role": "admin"}])
    assert (status, made["data"]["disabled"]) == (201, False)
    session = await cloud.services.identity.begin_session("grace", 3600)
    status, changed = await put(grants=[{"role": "viewer"}], disabled=True)
    if status == 409:
        # She was the only administrator of the pages: another one comes first.
        await operators.add(cloud.services.db, "amina", LONG, [operators.Grant(role="admin")], now_ms=wall_ms())
        status, changed = await put(grants=[{"role": "viewer"}], disabled=True)
    assert (status, changed["data"]["disabled"]) == (200, True)
    assert await cloud.services.identity.session(session) is None
    listed = (await cloud.call("GET", "/api/operators", headers=admin))[1]["data"]
    assert {each["name"]: each["disabled"] for each in listed} == {"amina": False, "grace": True}
    assert "password" not in str(listed)
    assert (await cloud.call("DELETE", "/api/operators/grace", headers=admin))[0] == 200
    assert (await cloud.call("DELETE", "/api/operators/grace", headers=admin))[0] == 404
    assert (await cloud.call("DELETE", "/api/operators/amina", headers=admin))[0] == 409, "the last administrator"


async def test_a_key_and_its_limits(cloud: Cloud) -> None:
    admin = await cloud.key("admin")
    await cloud.enroll("pi-1")
    body = {"name": "reports", "role": "viewer", "scopes": ["devices"], "lasts_s": 3600}
    status, made = await cloud.call("POST", "/api/keys", json=body, headers=admin)
    assert status == 201
    held = {"Authorization": f"Bearer {made['data']['key']}"}
    assert (await cloud.call("GET", "/api/devices", headers=held))[0] == 200
    assert (await cloud.call("GET", "/api/webhooks", headers=held))[0] == 403
    assert (await cloud.call("POST", "/api/keys", json=body, headers=admin))[0] == 409
    assert (await cloud.call("POST", "/api/keys", json={**body, "name": "x", "scopes": ["all"]}, headers=admin))[
        0
    ] == 422
    listed = {each["name"]: each for each in (await cloud.call("GET", "/api/keys", headers=admin))[1]["data"]}
    assert listed["reports"]["scopes"] == ["devices"]
    assert listed["reports"]["expires_at"] is not None
    assert made["data"]["key"] not in str(listed)
    assert (await cloud.call("DELETE", "/api/keys/reports", headers=admin))[0] == 200
    cloud.services.identity._checked_at = float("-inf")
    assert (await cloud.call("GET", "/api/devices", headers=held))[0] == 401
    assert (await cloud.call("DELETE", "/api/keys/reports", headers=admin))[0] == 404


def test_a_key_with_limits_by_the_command_line(tmp_path: Path) -> None:
    called = [sys.executable, "-m", "cloud", "key", "create", "reports", "--role", "viewer", "--data", str(tmp_path)]
    done = subprocess.run(
        [*called, "--scope", "devices", "--expires", "30d"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pisync_viewer_")
    done = subprocess.run([*called, "--group", "nowhere"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no group nowhere" in done.stderr


async def report(cloud: Cloud, device: dict[str, str], device_id: str, number: int, at: str, *, failed: bool) -> None:
    body = {
        "device_id": device_id, "timestamp": at, "total_files_synced": 0 if failed else 1,
        "total_errors": int(failed), "internet_speed": None, "event_id": f"e{number}",
        **({"error_code": "card-full"} if failed else {}),
    }  # fmt: skip
    assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_the_timeline_page_by_page_is_the_whole(cloud: Cloud, limit: int) -> None:
    device, operator = await cloud.enroll("pi-1"), await cloud.key("operator")
    for number in range(5):
        await report(cloud, device, "pi-1", number, "2026-01-01T00:00:00Z", failed=number % 2 == 0)
    await cloud.call("POST", "/api/devices/pi-1/commands", json={"kind": "sync"}, headers=operator)
    await cloud.call("POST", "/api/devices/pi-1/mute", json={"note": "new card"}, headers=operator)
    await cloud.call("PATCH", "/api/devices/pi-1", json={"label": "desk"}, headers=operator)
    whole = (await cloud.call("GET", "/api/devices/pi-1/timeline?limit=500", headers=operator))[1]
    kinds = [each["kind"] for each in whole["data"]]
    assert {kind: kinds.count(kind) for kind in ("sync", "fault", "command", "state")} == {
        "sync": 5, "fault": 1, "command": 1, "state": kinds.count("state")
    }  # fmt: skip
    assert {"audit", "state"} <= set(kinds)
    assert whole["pagination"]["total"] == len(kinds)
    assert [each["at"] for each in whole["data"]] == sorted((each["at"] for each in whole["data"]), reverse=True)
    found: list[Any] = []
    cursor = ""
    while True:
        page = (await cloud.call("GET", f"/api/devices/pi-1/timeline?limit={limit}{cursor}", headers=device))[1]
        found += page["data"]
        if page["pagination"]["next_cursor"] is None:
            break
        assert len(page["data"]) == limit
        cursor = f"&cursor={page['pagination']['next_cursor']}"
    assert found == whole["data"]


async def test_tags_are_renamed_and_taken_away(cloud: Cloud) -> None:
    operator, db = await cloud.key("operator"), cloud.services.db
    for device_id, tags in (("pi-1", ["lab"]), ("pi-2", ["lab", "new"]), ("pi-3", [])):
        await cloud.enroll(device_id)
        await groups.assign(db, device_id, Described(tags=tags), actor="cli:t", now_ms=wall_ms())

    async def held() -> dict[str, int]:
        rows = (await cloud.call("GET", "/api/tags", headers=operator))[1]["data"]
        return {row["tag"]: row["devices"] for row in rows}

    assert (await cloud.call("PUT", "/api/tags/lab", json={"tag": "new"}, headers=operator))[0] == 200
    assert await held() == {"new": 2}
    assert (await cloud.call("PUT", "/api/tags/new", json={"tag": "new"}, headers=operator))[0] == 200
    assert await held() == {"new": 2}
    assert (await cloud.call("PUT", "/api/tags/new", json={"tag": "/"}, headers=operator))[0] == 422
    assert (await cloud.call("PUT", "/api/tags/gone", json={"tag": "x"}, headers=operator))[0] == 404
    assert (await cloud.call("DELETE", "/api/tags/new", headers=operator))[0] == 200
    assert await held() == {}
    assert (await cloud.call("DELETE", "/api/tags/new", headers=operator))[0] == 404


async def take_on(db: Database, device_id: str) -> None:
    """An incident of the device that somebody has taken on."""
    made = {"rule": "r", "kind": "device", "subject": device_id, "cause": "failing", "fault": "", "devices": 1}
    async with db.transaction() as tx:
        dk = await identity.device_key(tx, device_id)
        number = await tx.value("add_incident", **made, escalate_at_ms=None, now_ms=1)
        await tx.bulk("join_incident", [(number, dk, 1)])
        await tx.run("acknowledge_incident", id=number, now_ms=2, acknowledged_by="cli:t", note="")


async def test_repeated_failures_by_time_and_group(cloud: Cloud) -> None:
    viewer, db = await cloud.key(), cloud.services.db
    await groups.put_group(db, Group(name="north"), actor="cli:t", now_ms=wall_ms())
    for device_id, at in (("pi-old", "2020-01-01T00:00:00Z"), ("pi-new", "2099-01-01T00:00:00Z")):
        device = await cloud.enroll(device_id)
        for number in range(5):
            await report(cloud, device, device_id, number, at, failed=True)
    await groups.assign(db, "pi-new", Described(groups=["north"]), actor="cli:t", now_ms=wall_ms())

    async def listed(query: str) -> list[str]:
        status, answer = await cloud.call("GET", f"/api/devices/repeated-failures?{query}", headers=viewer)
        assert status == 200, answer
        assert answer["pagination"]["total"] == len(answer["data"])
        return sorted(each["device_id"] for each in answer["data"])

    for mode in ("total", "consecutive"):
        assert await listed(f"mode={mode}") == ["pi-new", "pi-old"]
        assert await listed(f"mode={mode}&group=north") == ["pi-new"]
        assert await listed(f"mode={mode}&group=south") == []
        assert await listed(f"mode={mode}&acknowledged=true") == []
        assert await listed(f"mode={mode}&acknowledged=false&window=86400&threshold=4") == await listed(
            f"mode={mode}&window=86400"
        )
    await take_on(db, "pi-old")
    assert await listed("acknowledged=true") == ["pi-old"]
    assert await listed("acknowledged=false") == ["pi-new"]
    # A time in the future is flagged and counts as that of receipt; the old one lies outside of the window.
    assert await listed("window=86400") == ["pi-new"]
    assert await listed("window=86400&threshold=5") == []
    for bad in ("window=59", "window=-1", "window=x", "acknowledged=perhaps"):
        assert (await cloud.call("GET", f"/api/devices/repeated-failures?{bad}", headers=viewer))[0] == 422


async def test_https_is_to_stay_https(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(trusted_proxies="127.0.0.1")
    for proto, sent in (("https", True), ("http", False)):
        async with cloud.http.get(cloud.url + "/livez", headers={"X-Forwarded-Proto": proto}) as answer:
            assert ("Strict-Transport-Security" in answer.headers) == sent
