"""The list of devices and the page of one device: what they show, and what people do there."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from typing import Any

from conftest import Cloud
from page_helpers import Person, person
from record_helpers import sql

from cloud.flows import identity
from cloud.flows.groups import Described, Group, assign, put_group
from cloud.services import wall_ms

FAILED = {
    "device_id": "pi-1",
    "timestamp": "2026-01-01T00:00:00Z",
    "total_files_synced": 0,
    "total_errors": 2,
    "error_code": "card-full",
    "queue_depth": 120,
}


async def failing(cloud: Cloud, device_id: str = "pi-1") -> dict[str, str]:
    """A device that fails, with an incident."""
    device = await cloud.enroll(device_id)
    for number in range(4):
        body = {**FAILED, "device_id": device_id, "event_id": f"e{number}"}
        assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201
    await cloud.services.assessor.step()
    await cloud.services.alerter.step()
    return device


async def audited(cloud: Cloud, action: str) -> list[tuple[str, str]]:
    rows = await sql(cloud, f"SELECT actor, target FROM audit WHERE action = '{action}' ORDER BY id")
    return [(row["actor"], row["target"]) for row in rows]


async def test_a_device_that_fails_says_so_with_a_hint(cloud: Cloud) -> None:
    await failing(cloud)
    who = await person(cloud, "viewer")
    async with who.http:
        page = await who.get("/devices/pi-1")
        assert "4 failed in a row" in page.text
        assert "card full card-full now" in page.text
        assert "free some space on the card" in page.text
        assert "120 items" in page.text
        assert page.posts == [each for each in page.posts if each.action == "/logout"]
        page = await who.get("/failures")
        assert "/devices?fault=card-full" in page.links
        assert "/devices/pi-1" in page.links
        page = await who.get("/devices?fault=card-full&state=failing")
        assert "1 device with “card full”" in page.text


async def test_an_incident_is_taken_on_from_the_device(cloud: Cloud) -> None:
    await failing(cloud)
    who = await person(cloud, "operator")
    async with who.http:
        page = await who.get("/devices/pi-1")
        form = next(each for each in page.posts if each.action.endswith("/acknowledge"))
        assert await who.send(form, note="a new card is on its way") == "/devices/pi-1?done=acknowledged"
        page = await who.get("/devices/pi-1?done=acknowledged")
        assert f"Taken on by operator:{who.name}" in page.text
        assert "a new card is on its way" in page.text
        assert not [each for each in page.posts if each.action.endswith("/acknowledge")]
        assert "taken on" in (await who.get("/failures")).text


async def test_a_device_is_muted_and_heard_of_again(cloud: Cloud) -> None:
    await failing(cloud)
    who = await person(cloud, "operator")
    async with who.http:
        form = (await who.get("/devices/pi-1")).form("/devices/pi-1/mute")
        refused = await who.shown(form, 422, **{"for": "until", "until": "2020-01-01T00:00", "note": "kept"})
        assert "a moment that is still to come" in refused.text
        assert refused.form("/devices/pi-1/mute").fields["note"] == ["kept"]
        await who.shown(form, 422, **{"for": "8"})
        assert await who.send(form, **{"for": "7", "note": "new card"}) == "/devices/pi-1?done=muted"
        page = await who.get("/devices/pi-1?done=muted")
        assert "Muted: nobody is told" in page.text
        assert "It would be ✕ failing" in page.text
        assert f"by operator:{who.name}" in page.text
        assert await who.send(page.form("/devices/pi-1/unmute")) == "/devices/pi-1?done=unmuted"
        form = (await who.get("/devices/pi-1")).form("/devices/pi-1/mute")
        await who.send(form, **{"for": ""})
        assert "until somebody ends that" in (await who.get("/devices/pi-1")).text
    assert await audited(cloud, "device.muted") == [(f"operator:{who.name}", "pi-1")] * 2


async def test_what_people_say_of_a_device(cloud: Cloud) -> None:
    await cloud.enroll("pi-1")
    who = await person(cloud, "operator")
    for group in (Group(name="north", kind="site"), Group(name="pilot")):
        await put_group(cloud.services.db, group, actor="test", now_ms=wall_ms())
    async with who.http:
        form = (await who.get("/devices/pi-1")).form("/devices/pi-1/describe")
        refused = await who.shown(form, 422, site="nowhere", label="Lab")
        assert refused.form("/devices/pi-1/describe").fields["label"] == ["Lab"]
        said = {"label": "Lab <1>", "note": "by the\r\ndoor", "site": "north", "groups": "pilot", "tags": "old, new"}
        assert await who.send(form, **said) == "/devices/pi-1?done=described"
        page = await who.get("/devices/pi-1")
        assert "Lab <1>" in page.text
        assert "by the\ndoor" in page.text
        assert {"/devices?group=north", "/devices?group=pilot", "/devices?tag=old", "/devices?tag=new"} <= set(
            page.links
        )
    assert await audited(cloud, "device.described") == [(f"operator:{who.name}", "pi-1")]


async def test_a_device_is_retired_only_by_its_name(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    who = await person(cloud, "admin")
    async with who.http:
        assert "/devices/pi-1/retire" in (await who.get("/devices/pi-1")).links
        form = (await who.get("/devices/pi-1/retire")).form("/devices/pi-1/retire")
        await who.shown(form, 422, confirm="pi-2")
        assert (await cloud.call("GET", "/api/devices/pi-1", headers=device))[0] == 200
        assert await who.send(form, confirm="pi-1") == "/devices/pi-1?done=device-retired"
        page = await who.get("/devices/pi-1?done=device-retired")
        assert "retired" in page.text
        assert [each.action for each in page.posts] == ["/logout"]
        await who.get("/devices/nobody/retire", 404)
    async with asyncio.timeout(60):
        while (await cloud.call("GET", "/api/devices/pi-1", headers=device))[0] != 401:
            await asyncio.sleep(0.05)


async def test_who_sees_one_group_sees_and_touches_no_other_device(cloud: Cloud) -> None:
    await put_group(cloud.services.db, Group(name="north"), actor="test", now_ms=wall_ms())
    for name in ("pi-in", "pi-out"):
        await failing(cloud, name)
    await assign(cloud.services.db, "pi-in", Described(groups=["north"]), actor="test", now_ms=wall_ms())
    who = await person(cloud, "operator", "north")
    async with who.http:
        for path in ("/", "/devices", "/failures", "/devices/pi-in"):
            page = await who.get(path)
            assert "pi-out" not in page.text
            assert "/audit" not in page.links
        form = page.form("/devices/pi-in/mute")
        assert "site" not in page.form("/devices/pi-in/describe").fields
        await who.get("/devices/pi-out", 404)
        for action in ("mute", "unmute", "describe"):
            form.action = f"/devices/pi-out/{action}"
            await who.shown(form, 404)
        form = (await who.get("/devices")).form("/devices/bulk")
        await who.shown(form, 404, device=["pi-out"], action="mute")
        await who.shown(form, 403, device=["pi-in"], action="group", name="north")
        await who.send(form, all="1", action="tag", name="mine")
        async with who.http.get(f"{cloud.url}/devices.csv") as answer:
            assert "pi-out" not in await answer.text()
    assert await audited(cloud, "device.muted") == []
    assert await audited(cloud, "device.described") == [("test", "pi-in"), (f"operator:{who.name}", "pi-in")]


async def vitals(cloud: Cloud, body: dict[str, Any]) -> None:
    async with cloud.services.db.reading() as tx:
        dk = await identity.device_key(tx, "pi-1")
    text = json.dumps(body).replace("'", "''")
    statement = f"INSERT INTO device_vitals (dk, body, at_ms, received_at_ms) VALUES ({dk}, '{text}', {wall_ms()}, 1)"
    await sql(cloud, statement, write=True)


async def test_vitals_are_shown_and_what_is_bad_is_marked(cloud: Cloud) -> None:
    await cloud.enroll("pi-1")
    who = await person(cloud, "viewer")
    async with who.http:
        assert "has not told of itself yet" in (await who.get("/devices/pi-1")).text
        told = {
            "temperature_c": 84.2,
            "throttled": {"under_voltage": True},
            "disk_total_bytes": 1000_000,
            "disk_free_bytes": 50_000,
            "uptime_s": 200_000,
            "version": "1.2 <b>",
            "clock_trusted": False,
            "owed_messages": 7,
        }
        await vitals(cloud, told)
        page = await who.get("/devices/pi-1")
    for shown in ("! 84 °C", "! under voltage", "! not trusted", "2 days", "1.2 <b>", "7 messages owed"):
        assert shown in page.text, shown


async def test_the_list_as_a_file_holds_no_formula(cloud: Cloud) -> None:
    await failing(cloud)
    await cloud.enroll("pi-2")
    await assign(cloud.services.db, "pi-1", Described(label="=1+1", tags=["x"]), actor="test", now_ms=wall_ms())
    who = await person(cloud, "viewer")

    async def rows(query: str) -> list[dict[str, str]]:
        async with who.http.get(f"{cloud.url}/devices.csv{query}") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/csv"
            return list(csv.DictReader(io.StringIO(await answer.text())))

    async with who.http:
        found = await rows("")
        assert [row["device_id"] for row in found] == ["pi-1", "pi-2"]
        assert found[0]["label"] == "'=1+1"
        assert found[0]["state"] == "failing"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00Z", found[0]["last_seen_at"])
        assert [row["device_id"] for row in await rows("?tag=x")] == ["pi-1"]
        async with who.http.get(f"{cloud.url}/devices.csv?state=sad") as answer:
            assert answer.status == 422


async def test_pages_of_the_list_keep_what_was_asked_for(cloud_lite: Cloud) -> None:
    for number in range(51):
        await cloud_lite.enroll(f"pi-{number:02}")
    who: Person = await person(cloud_lite, "viewer")
    async with who.http:
        page = await who.get("/devices?state=new&sort=device_id&search=pi")
        assert "51 devices" in page.text
        assert "/devices?state=new&sort=device_id&search=pi&page=2" in page.links
        page = await who.get("/devices?state=new&sort=device_id&search=pi&page=2")
        assert "/devices/pi-50" in page.links
        assert "/devices/pi-00" not in page.links


async def test_many_are_muted_tagged_and_grouped_at_once(cloud: Cloud) -> None:
    await put_group(cloud.services.db, Group(name="pilot"), actor="test", now_ms=wall_ms())
    for number in range(3):
        await cloud.enroll(f"pi-{number}")
    who = await person(cloud, "operator")
    async with who.http:
        form = (await who.get("/devices?sort=device_id")).form("/devices/bulk?sort=device_id")
        refused = await who.shown(form, 422)
        assert "No device is chosen." in refused.text
        two = ["pi-0", "pi-2"]
        refused = await who.shown(form, 422, device=two, action="tag", name="<bad>")
        assert refused.form("/devices/bulk?sort=device_id").fields["name"] == ["<bad>"]
        assert await who.send(form, device=two, action="mute", note="holidays") == "/devices?sort=device_id&done=muted"
        page = await who.get("/devices?sort=device_id&done=muted")
        assert page.text.count("holidays") == 2
        await who.send(form, all="1", action="unmute")
        assert "holidays" not in (await who.get("/devices")).text
        await who.send(form, device=two, action="tag", name="old")
        await who.send(form, device=["pi-0"], action="untag", name="old")
        assert "1 device" in (await who.get("/devices?tag=old")).text
        await who.send(form, all="1", action="group", name="pilot")
        await who.send(form, device=["pi-1"], action="ungroup", name="pilot")
        assert "2 devices" in (await who.get("/devices?group=pilot")).text
        await who.shown(form, 404, device=["pi-0", "nobody"], action="tag", name="new")
        assert "/devices?tag=new" not in (await who.get("/devices/pi-0")).links
    assert len(await audited(cloud, "device.muted")) == 2
    viewer = await person(cloud, "viewer")
    async with viewer.http:
        assert not [each for each in (await viewer.get("/devices")).posts if each.action.startswith("/devices")]
