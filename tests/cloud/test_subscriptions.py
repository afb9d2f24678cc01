"""What devices are entitled to: over HTTP and at the terminal, with what the audit says of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
from conftest import Cloud
from feed_helpers import device

from cloud.flows import audit

NOTHING: dict[str, list[str]] = {"site": [], "group": [], "user": []}


async def put(cloud: Cloud, device_id: str, body: Any, role: str = "operator") -> tuple[int, Any]:
    return await cloud.call("PUT", f"/api/devices/{device_id}/subscriptions", json=body, headers=await cloud.key(role))


async def shown(cloud: Cloud, device_id: str) -> dict[str, list[str]]:
    status, body = await cloud.call("GET", f"/api/devices/{device_id}/subscriptions", headers=await cloud.key("viewer"))
    assert status == 200
    assert body["data"].pop("device_id") == device_id
    return dict(body["data"])


async def told(cloud: Cloud) -> list[dict[str, Any]]:
    async with cloud.services.db.reading() as tx:
        rows = await audit.entries(tx, limit=50)
    return [dict(row) for row in rows if row["action"] == "subscriptions.changed"]


async def test_they_are_replaced(cloud: Cloud) -> None:
    pi = await device(cloud, "pi")
    assert await shown(cloud, "pi") == NOTHING
    wanted = {"site": ["B", "A", "A"], "user": ["u1"]}
    status, body = await put(cloud, "pi", wanted)
    assert (status, body["data"]["site"], body["data"]["user"]) == (200, ["A", "B"], ["u1"])
    status, body = await put(cloud, "pi", {"site": ["Schule Zürich № 3"], "group": ["4b"]})
    assert status == 200
    assert await shown(cloud, "pi") == {"site": ["Schule Zürich № 3"], "group": ["4b"], "user": []}
    assert (await put(cloud, "pi", {}))[0] == 200
    assert await shown(cloud, "pi") == NOTHING
    # The device may look, another one may not.
    other = await device(cloud, "other")
    for who, expected in ((pi, 200), (other, 403)):
        assert (await cloud.call("GET", "/api/devices/pi/subscriptions", headers=who.headers))[0] == expected


async def test_the_audit_says_who_and_what_and_no_user(cloud: Cloud) -> None:
    await device(cloud, "pi")
    await put(cloud, "pi", {"site": ["A"], "user": ["7d44"]})
    await put(cloud, "pi", {"site": ["A"], "user": ["7d44"]})
    await put(cloud, "pi", {"group": ["4b"]})
    newest, first = await told(cloud)
    assert (first["target"], first["actor"].partition(":")[0], first["before_hash"]) == ("pi", "key", None)
    hashed = hashlib.sha256(b"7d44").hexdigest()
    assert json.loads(first["detail"])["added"] == {"site": ["A"], "user": [hashed]}
    assert json.loads(newest["detail"]) == {"added": {"group": ["4b"]}, "removed": {"site": ["A"], "user": [hashed]}}
    assert newest["before_hash"] == first["after_hash"]
    assert "7d44" not in first["detail"] + newest["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 422),
        (b'{"site": "A"}', 422),
        (b'{"sites": ["A"]}', 422),
        (b'{"site": [""]}', 422),
        (b'{"site": ["a\\u0000b"]}', 422),
        (b'{"site": ["a\\nb"]}', 422),
        (b'{"site": [1]}', 422),
        (b'{"site": [null]}', 422),
        (b'{"site": ["\xff"]}', 400),
        (json.dumps({"site": ["x" * 129]}).encode(), 422),
        (json.dumps({"site": [str(n) for n in range(501)], "user": [str(n) for n in range(500)]}).encode(), 422),
        (b'{"site": ' + b"[" * 5000, 422),
    ],
)
async def test_what_is_refused(cloud_lite: Cloud, body: bytes, status: int) -> None:
    await device(cloud_lite, "pi")
    headers = await cloud_lite.key("operator")
    found, problem = await cloud_lite.call("PUT", "/api/devices/pi/subscriptions", data=body, headers=headers)
    assert (found, bool(problem["hint"] or problem["errors"])) == (status, True), problem
    assert await shown(cloud_lite, "pi") == NOTHING


async def test_who_may(cloud_lite: Cloud) -> None:
    pi = await device(cloud_lite, "pi")
    assert (await put(cloud_lite, "pi", {}, role="viewer"))[0] == 403
    assert (await cloud_lite.call("PUT", "/api/devices/pi/subscriptions", json={}, headers=pi.headers))[0] == 403
    assert (await cloud_lite.call("PUT", "/api/devices/pi/subscriptions", json={}))[0] == 401
    assert (await put(cloud_lite, "nobody", {}))[1]["code"] == "device-unknown"
    assert (await put(cloud_lite, "%00", {}))[0] == 404


async def test_two_at_once_leave_what_one_of_them_wanted(cloud: Cloud) -> None:
    await device(cloud, "pi")
    wanted = [{"site": [f"S{number}"], "group": [], "user": []} for number in range(6)]
    answers = await asyncio.gather(*(put(cloud, "pi", each) for each in wanted))
    assert {status for status, _ in answers} == {200}
    assert await shown(cloud, "pi") in wanted


def cli(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloud", *arguments, "--database", url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_at_the_terminal(database_url: str) -> None:
    done = cli(database_url, "enroll", "pi", "--site", "A", "--group", "4b")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("pisync_device_")
    assert cli(database_url, "subscribe", "pi", "--site", "B", "--user", "u1").returncode == 0
    assert cli(database_url, "unsubscribe", "pi", "--site", "A", "--site", "unknown").returncode == 0
    found = json.loads(cli(database_url, "subscriptions", "pi", "--json").stdout)
    assert found == {"device_id": "pi", "site": ["B"], "group": ["4b"], "user": ["u1"]}
    lines = cli(database_url, "subscriptions", "pi").stdout.splitlines()
    assert [line.split() for line in lines] == [["KIND", "NAME"], ["site", "B"], ["group", "4b"], ["user", "u1"]]
    assert cli(database_url, "unsubscribe", "pi", "--all").returncode == 0
    assert "subscribed to nothing" in cli(database_url, "subscriptions", "pi").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["subscribe", "pi"], "--site"),
        (["unsubscribe", "pi"], "--site"),
        (["subscribe", "nobody", "--site", "A"], "nobody"),
        (["subscribe", "pi", "--site", ""], "1 to 128"),
        (["subscribe", "pi", "--site", "a\nb"], "1 to 128"),
        (["subscriptions", "nobody"], "nobody"),
    ],
)
def test_what_the_terminal_refuses(tmp_path: Any, arguments: list[str], says: str) -> None:
    url = str(tmp_path / "pisync.db")
    assert cli(url, "enroll", "pi").returncode == 0
    done = cli(url, *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_with_a_wrong_subscription_is_not_let_in(tmp_path: Any) -> None:
    url = str(tmp_path / "pisync.db")
    assert cli(url, "enroll", "pi", "--site", "").returncode == 1
    assert json.loads(cli(url, "devices", "--json").stdout or "[]") == []
