"""What people ask of devices, and what devices say of themselves: told with a batch, once, until it is answered."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
from conftest import Cloud
from page_helpers import person

from cloud.flows import audit, commands, identity
from cloud.services import wall_ms
from cloud.store.db import Row

NUMBERS = itertools.count(1)
VITALS = {
    "at": "2026-03-02T08:00:00Z", "version": "1.0", "temperature_c": 61.5, "disk_total_bytes": 1000,
    "disk_free_bytes": 30, "clock_trusted": True, "throttled": {"under_voltage": True},
}  # fmt: skip


async def tell(cloud: Cloud, device: dict[str, str], *told: dict[str, Any]) -> dict[str, Any]:
    """A batch of reports; the whole answer. Without a report an event keeps it company."""
    number = next(NUMBERS)
    event = {"itemType": "event", "id": f"e{number}", "itemData": {"eventType": "x", "eventData": {}}}
    items = [{"itemType": "vitals", "id": f"v{number}.{index}", "itemData": each} for index, each in enumerate(told)]
    body = {"batchId": f"b{number}", "items": items or [event]}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=device)
    assert status == 200, answer
    return dict(answer)


async def asked(cloud: Cloud, device: dict[str, str]) -> list[dict[str, str]]:
    """What the answer to a batch asks for, once the service has seen every wish."""
    cloud.services.commands._checked_s = float("-inf")
    return list((await tell(cloud, device))["next"].get("commands", []))


async def targets(cloud: Cloud) -> list[str]:
    """Of whom people asked something, by the audit."""
    async with cloud.services.db.reading() as tx:
        return [row["target"] for row in await audit.entries(tx, audit.Wanted(action=commands.ASKED), limit=9)]


async def kept(cloud: Cloud, device_id: str) -> Row | None:
    async with cloud.services.db.reading() as tx:
        dk = await identity.device_key(tx, device_id)
        return await tx.one("vitals_shown", dk=dk)


async def test_a_wish_is_told_until_it_is_answered(cloud: Cloud) -> None:
    device, other, operator = await cloud.enroll("pi-1"), await cloud.enroll("pi-2"), await cloud.key("operator")
    at = "/api/devices/pi-1/commands"
    assert await asked(cloud, device) == []
    status, made = await cloud.call("POST", at, json={"kind": "support-bundle"}, headers=operator)
    assert (status, made["data"]["state"]) == (202, "pending")
    again = (await cloud.call("POST", at, json={"kind": "support-bundle"}, headers=operator))[1]
    assert again["data"]["id"] == made["data"]["id"]
    command = {"id": made["data"]["id"], "kind": "support-bundle"}
    assert await asked(cloud, other) == []
    assert [await asked(cloud, device) for _ in range(2)] == [[command], [command]]
    assert (await cloud.call("GET", at, headers=operator))[1]["data"][0]["state"] == "sent"
    result = {"id": command["id"], "state": "done", "detail": ".pisync/support/x.tar.gz"}
    await tell(cloud, other, {"commands": [{**result, "state": "failed"}]})
    assert await asked(cloud, device) == [command], "nobody answers for another"
    await tell(cloud, device, {"commands": [result]})
    assert await asked(cloud, device) == []
    found = (await cloud.call("GET", at, headers=operator))[1]["data"]
    assert [(each["state"], each["detail"]) for each in found] == [("done", ".pisync/support/x.tar.gz")]
    await tell(cloud, device, {"commands": [{**result, "state": "failed"}]})
    assert (await cloud.call("GET", at, headers=operator))[1]["data"][0]["state"] == "done", "over is over"
    assert await targets(cloud) == ["pi-1"]


@pytest.mark.parametrize("body", [{}, {"kind": "reboot"}, {"kind": "sync", "more": 1}, [], None])
async def test_wishes_that_are_none(cloud_lite: Cloud, body: Any) -> None:
    await cloud_lite.enroll("pi-1")
    operator = await cloud_lite.key("operator")
    status, answer = await cloud_lite.call("POST", "/api/devices/pi-1/commands", json=body, headers=operator)
    assert (status in (400, 422), bool(answer["code"])) == (True, True)
    assert (await cloud_lite.call("POST", "/api/devices/no/commands", json={"kind": "sync"}, headers=operator))[
        0
    ] == 404


async def test_what_nobody_answers_ends(cloud: Cloud) -> None:
    device, operator = await cloud.enroll("pi-1"), await cloud.key("operator")
    await cloud.call("POST", "/api/devices/pi-1/commands", json={"kind": "sync"}, headers=operator)
    assert await commands.forget(cloud.services.db, wall_ms() + commands.EXPIRE_MS - 60_000) == 0
    assert await commands.forget(cloud.services.db, wall_ms() + commands.EXPIRE_MS + 60_000) == 1
    assert await asked(cloud, device) == []
    found = (await cloud.call("GET", "/api/devices/pi-1/commands", headers=operator))[1]["data"]
    assert [each["state"] for each in found] == ["expired"]


async def test_what_the_cloud_wants_of_a_device(cloud: Cloud) -> None:
    device, operator = await cloud.enroll("pi-1"), await cloud.key("operator")
    async with cloud.http.get(cloud.url + "/api/device/config", headers=device) as answer:
        etag, config = answer.headers["ETag"], (await answer.json())["data"]
    assert config["commands"] == []
    assert config["pacing"]["batch_max_events"] == 500
    assert "profile" in config["record_types"]
    headers = {**device, "If-None-Match": etag}
    async with cloud.http.get(cloud.url + "/api/device/config", headers=headers) as answer:
        assert (answer.status, answer.headers["ETag"], await answer.read()) == (304, etag, b"")
    await cloud.call("POST", "/api/devices/pi-1/commands", json={"kind": "sync"}, headers=operator)
    cloud.services.commands._checked_s = float("-inf")
    status, answered = await cloud.call("GET", "/api/device/config", headers=headers)
    assert (status, [each["kind"] for each in answered["data"]["commands"]]) == (200, ["sync"])
    assert (await cloud.call("GET", "/api/device/config", headers=operator))[0] == 403


async def test_the_newest_report_counts(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    assert await kept(cloud, "pi-1") is None
    await tell(cloud, device, {"version": "0.9"}, VITALS)
    row = await kept(cloud, "pi-1")
    assert row is not None
    assert row["at_ms"] == 1_772_438_400_000
    found = (await cloud.call("GET", "/api/devices/pi-1", headers=await cloud.key()))[1]["data"]
    assert found["vitals"] == VITALS
    assert found["vitals_at"] == "2026-03-02T08:00:00.000Z"
    await tell(cloud, device, {**VITALS, "clock_trusted": False, "temperature_c": 50})
    row = await kept(cloud, "pi-1")
    assert row is not None
    assert abs(row["at_ms"] - wall_ms()) < 600_000, "a clock that is not trusted tells no time"
    who = await person(cloud, "viewer")
    async with who.http:
        text = (await who.get("/devices/pi-1")).text
    assert "50" in text
    assert "61.5" not in text


@pytest.mark.parametrize(
    "told", [{"temperature_c": "hot"}, {"version": "x\0"}, {"disk_free_bytes": -1}, {"commands": [{"id": "x"}]}, []]
)
async def test_reports_that_are_none_are_refused_and_kept(cloud: Cloud, told: Any) -> None:
    device = await cloud.enroll("pi-1")
    answer = await tell(cloud, device, told)
    assert [(each["status"], each["code"]) for each in answer["data"]["results"]] == [("failed", "item-invalid")]
    assert await kept(cloud, "pi-1") is None


async def test_people_ask_on_the_pages(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await cloud.enroll("pi-2")
    who = await person(cloud, "operator")
    async with who.http:
        page = await who.get("/devices/pi-1")
        forms = [each for each in page.posts if each.action.endswith("/ask")]
        assert [each.fields["kind"] for each in forms] == [["sync"], ["support-bundle"]]
        assert await who.send(forms[1]) == "/devices/pi-1?done=support-bundle-asked"
        page = await who.get("/devices/pi-1?done=support-bundle-asked")
        assert "waits for the next contact" in page.text
        many = (await who.get("/devices")).form("/devices/bulk")
        assert await who.send(many, action="sync", all="1") == "/devices?done=sync-asked"
        kinds = [each["kind"] for each in await asked(cloud, device)]
        assert sorted(kinds) == ["support-bundle", "sync"]
        await tell(
            cloud,
            device,
            {"commands": [{"id": (await asked(cloud, device))[0]["id"], "state": "done", "detail": "a b"}]},
        )
        assert "/api/devices/pi-1/files/a%20b" in (await who.get("/devices/pi-1")).links
    assert sorted(await targets(cloud)) == ["pi-1", "pi-1", "pi-2"]


def test_the_command_line(tmp_path: Any) -> None:
    def run(*args: str) -> str:
        called = [sys.executable, "-m", "cloud", args[0], "--data", str(tmp_path), *args[1:]]
        done = subprocess.run(called, check=False, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else f"{done.returncode} {done.stderr}"

    run("enroll", "pi-1")
    made = run("ask", "sync", "pi-1").strip()
    assert made.startswith("cmd_")
    assert run("ask", "sync", "pi-1").strip() == made
    assert made in run("requests", "pi-1")
    assert run("ask", "sync", "pi-9").startswith("1 ")
    assert run("describe", "pi-1", "--label", "Desk", "--tag", "lab") == ""
    assert "pi-1" in run("devices", "--tag", "lab", "--search", "Desk")
    assert run("describe", "pi-1", "--untag", "lab") == ""
    assert "pi-1" not in run("devices", "--tag", "lab")
    assert run("mute", "pi-1", "--for", "2h", "--note", "new card") == ""
    assert "pi-1" in run("devices", "--state", "muted")
    assert run("unmute", "pi-1") == ""
    assert "pi-1" not in run("devices", "--state", "muted")
