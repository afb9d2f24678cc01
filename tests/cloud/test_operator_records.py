"""Pages where people work through incidents, conflicts, webhooks, exports and the audit."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from conftest import Cloud, StartCloud
from hypothesis import given
from hypothesis import strategies as st
from page_content import HOSTILE, group, incident, member, only_secret, told, undecided, whole_audit
from page_helpers import Form, Person
from webhook_rig import Receiver, receiving

from cloud.dashboard import record_pages
from cloud.flows import audit, endpoints
from cloud.flows.endpoints import Actor
from cloud.services import wall_ms

SignIn = Callable[..., Awaitable[Person]]


# Incidents


async def test_an_incident_is_taken_on_with_a_note(cloud: Cloud, sign_in: SignIn) -> None:
    await cloud.enroll("pi-1")
    number = await incident(cloud, "pi-1", "pi-1")
    operator = await sign_in(cloud, "operator")
    assert f"/incidents/{number}" in (await operator.get("/incidents")).links
    page = await operator.get(f"/incidents/{number}")
    assert "/devices/pi-1" in page.links
    action = f"/incidents/{number}/acknowledge"
    refused = await operator.shown(page.form(action), 422, note="x" * 501)
    assert refused.form(action).fields["note"] == ["x" * 501]
    assert (
        await operator.send(page.form(action), note="<b>Jean</b> goes there")
        == f"/incidents/{number}?done=acknowledged"
    )
    page = await operator.get("/incidents?state=acknowledged")
    assert "<b>Jean</b> goes there" in page.text
    assert [each for each in page.posts if each.action == action] == []
    refused = await operator.shown(Form(method="post", action=action, fields=page.posts[0].fields), 409)
    assert operator.name in refused.text
    (entry,) = await told(cloud, "incident.acknowledged")
    assert entry["actor"] == f"operator:{operator.name}"
    await operator.get("/incidents/99999", 404)
    await operator.get("/incidents/%00", 404)


async def test_incidents_beyond_reach_are_not_there(cloud: Cloud, sign_in: SignIn) -> None:
    for name in ("north", "south"):
        await group(cloud, name)
        for device_id in (f"pi-{name[0]}", f"pi-{name[0]}2"):
            await cloud.enroll(device_id)
            await member(cloud, device_id, name)
    north, south = await incident(cloud, "pi-n", "pi-n"), await incident(cloud, "pi-s", "pi-s")
    both = await incident(cloud, "both", "pi-n2", "pi-s2")
    operator, viewer = await sign_in(cloud, "operator", "north"), await sign_in(cloud, "viewer", "north")
    page = await operator.get("/incidents")
    assert f"/incidents/{north}" in page.links
    assert f"/incidents/{south}" not in page.links
    await operator.get(f"/incidents/{south}", 404)
    links = (await operator.get(f"/incidents/{both}")).links
    assert "/devices/pi-n2" in links
    assert "/devices/pi-s2" not in links
    fields = page.posts[0].fields
    await operator.shown(Form(method="post", action=f"/incidents/{south}/acknowledge", fields=fields), 404)
    assert await operator.send(page.form(f"/incidents/{north}/acknowledge")) == "/incidents?done=acknowledged"
    page = await viewer.get("/incidents")
    assert f"/incidents/{both}" in page.links
    assert [each for each in page.posts if "acknowledge" in each.action] == []


# Conflicts


async def test_a_conflict_is_looked_at_and_decided(cloud: Cloud, sign_in: SignIn) -> None:
    found = await undecided(cloud)
    operator = await sign_in(cloud, "operator")
    listed = await operator.get("/conflicts")
    assert f"/conflicts/{found}" in listed.links
    page = await operator.get(f"/conflicts/{found}")
    assert "present <b>" in page.text
    assert "unsure clock" in page.text
    assert len(page.posts) - len([each for each in page.posts if each.action == "/logout"]) == 3
    action = f"/conflicts/{found}/resolve"
    refused = await operator.shown(page.form(action, keep="values"), 422, values="{status: x}")
    assert "{status: x}" in refused.text
    assert "no JSON" in refused.text
    assert await operator.send(refused.form(action, keep="values"), values='{"status": "late", "group_id": "4b"}')
    state = await cloud.services.records.read("attendance", "r1")
    assert state.view.fields["status"] == "late"
    (entry,) = await told(cloud, "conflict.resolved")
    assert entry["actor"] == f"operator:{operator.name}"
    again = await operator.shown(page.form(action, keep="winner"), 409)
    assert "was first" in again.text
    assert [each for each in again.posts if each.action == action] == []


async def test_either_side_of_a_conflict_can_be_kept(cloud_lite: Cloud, sign_in: SignIn) -> None:
    found = await undecided(cloud_lite)
    operator = await sign_in(cloud_lite, "operator")
    page = await operator.get(f"/conflicts/{found}")
    before = (await cloud_lite.services.records.read("attendance", "r1")).view.fields["status"]
    await operator.send(page.form(f"/conflicts/{found}/resolve", keep="loser"))
    after = (await cloud_lite.services.records.read("attendance", "r1")).view.fields["status"]
    assert {before, after} == {"present <b>", "absent"}
    resolved = await operator.get("/conflicts?state=resolved&search=attendance/r1")
    assert f"/conflicts/{found}" in resolved.links
    viewer = await sign_in(cloud_lite, "viewer")
    await viewer.get("/conflicts?search=%00%22%3E", 422)
    await viewer.get("/conflicts/cf_nothing", 404)


# Webhooks


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def telling(start_cloud: StartCloud) -> Cloud:
    """A cloud that may send to this machine."""
    return await start_cloud(webhook_allow="127.0.0.0/8")


async def test_a_webhook_from_its_first_to_its_last_day(telling: Cloud, receiver: Receiver, sign_in: SignIn) -> None:
    admin = await sign_in(telling)
    page = await admin.get("/webhooks")
    refused = await admin.shown(page.form("/webhooks"), 422, url="ftp://x", description="the school's")
    assert refused.form("/webhooks").fields["description"] == ["the school's"]
    made = await admin.shown(refused.form("/webhooks"), url=receiver.url("/x"), event_types=["profile.*", "device.*"])
    secret = only_secret(made)
    (where,) = [link for link in made.links if link.startswith("/webhooks/wh_")]
    page = await admin.get(where)
    assert secret not in page.text
    assert page.form(f"{where}/change").fields["event_types"] == ["device.*", "profile.*"]
    assert await admin.send(page.form(f"{where}/test")) == f"{where}?done=webhook-tested"
    receiver.behave["/x"] = 500
    assert await admin.send(page.form(f"{where}/test")) == f"{where}?done=webhook-test-failed"
    page = await admin.get(where + "?state=failed")
    assert "status 500" in page.text
    assert await admin.send(page.form(f"{where}/change"), description="<b>", event_types=["*"])
    rotated = await admin.shown(page.form(f"{where}/rotate"), keep_old_hours=2)
    assert only_secret(rotated) != secret
    assert "two sign until" in (await admin.get(where)).text
    assert "<b>" in (await admin.get("/webhooks")).text
    assert await admin.send(page.form(f"{where}/state"))
    page = await admin.get(where)
    refused = await admin.shown(page.form(f"{where}/replay"), 409, since="2026-01-01T00:00")
    assert "disabled" in refused.text
    assert await admin.send(page.form(f"{where}/state", state="enabled"))
    assert await admin.send(page.form(f"{where}/remove")) == "/webhooks?done=webhook-removed"
    await admin.get(where, 404)
    actions = {row["action"] for row in await told(telling, "webhook.*")}
    assert actions == {"webhook.created", "webhook.changed", "webhook.tested", "webhook.rotated", "webhook.removed"}
    said = await whole_audit(telling)
    assert secret not in said
    assert only_secret(rotated) not in said


async def test_deliveries_are_replayed_one_by_one_and_of_a_time(
    telling: Cloud, receiver: Receiver, sign_in: SignIn
) -> None:
    admin = await sign_in(telling)
    services = telling.services
    actor = Actor(name="key:test", now_ms=wall_ms())
    made = await endpoints.create(
        services.db, services.poster, actor, url=receiver.url("/x"), description="", event_types=["*"]
    )
    await telling.enroll("pi-1")
    services.dispatcher.wake()
    await receiver.until("/x", 1)
    where = f"/webhooks/{made.id}"
    page = await admin.get(where)
    await admin.send(next(each for each in page.posts if each.fields.get("delivery_id")))
    await receiver.until("/x", 2)
    for since in ("", "yesterday"):
        (form,) = [each for each in page.posts if "since" in each.fields]
        refused = await admin.shown(form, 422, since=since)
        assert refused.form(form.action, since=since)
    await admin.send(form, since="2020-01-01T00:00", until="2020-01-02T00:00")
    await services.dispatcher.settled()
    await admin.send(form, since="2020-01-01T00:00")
    await receiver.until("/x", 3)
    assert len({each.id for each in receiver.at("/x")}) == 1
    assert [row["detail"].count("delivery_id") for row in await told(telling, "webhook.replayed")] == [0, 0, 1]
    await admin.get(where + "?state=nothing", 422)
    await admin.get(where + "?cursor=nothing", 422)


# Exports and the audit


async def test_an_export_is_started(start_cloud: StartCloud, sign_in: SignIn, tmp_path: Path) -> None:
    cloud = await start_cloud(export_dir=str(tmp_path / "out"))
    admin = await sign_in(cloud)
    page = await admin.get("/exports")
    assert await admin.send(page.form("/exports")) == "/exports?done=export-started"
    assert [row["actor"] for row in await told(cloud, "export.started")] == [f"operator:{admin.name}"]
    viewer = await sign_in(cloud, "viewer")
    page = await viewer.get("/exports")
    assert [each for each in page.posts if each.action == "/exports"] == []
    assert "attempt_events" in page.text


async def test_an_export_that_is_off_says_so(cloud_lite: Cloud, sign_in: SignIn) -> None:
    admin = await sign_in(cloud_lite)
    page = await admin.get("/exports")
    assert "export_dir" in page.text
    refused = await admin.shown(Form(method="post", action="/exports", fields=page.posts[0].fields), 409)
    assert "export_dir" in refused.text
    assert await told(cloud_lite, "export.started") == []


async def test_the_audit_is_searched_paged_and_downloaded(cloud: Cloud, sign_in: SignIn) -> None:
    async with cloud.services.db.transaction() as tx:
        for number in range(120):
            await audit.record(
                tx,
                now_ms=1_772_438_400_000 + number * 3_600_000,
                actor="key:=cmd|'/c calc'!A1",
                action="thing.done" if number % 2 else "thing.begun",
                target=f"t{number}",
                detail={"note": HOSTILE, "number": number},
            )
    admin = await sign_in(cloud)
    page = await admin.get("/audit?actor=key:%3Dcmd|'/c calc'!A1&action=thing.*")
    assert "\u202e" not in page.text
    assert "<script>" in page.text
    assert "120 in all" in page.text
    seen = set(re.findall(r"\bt\d+\b", page.text))
    while following := [link for link in page.links if "cursor=" in link]:
        page = await admin.get(following[0])
        seen |= set(re.findall(r"\bt\d+\b", page.text))
    assert seen == {f"t{number}" for number in range(120)}
    assert "t119" not in (await admin.get("/audit?to=2026-03-05&action=thing.*")).text
    assert "No such entry" in (await admin.get("/audit?target=nobody%00")).text
    await admin.get("/audit?from=yesterday", 422)
    async with admin.http.get(cloud.url + "/audit.csv?action=thing.*") as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert len(rows) == 120
    assert rows[0]["actor"] == "key:=cmd|'/c calc'!A1"
    assert rows[0]["at"].endswith("Z")
    async with admin.http.get(cloud.url + "/audit.csv?from=yesterday") as answer:
        assert answer.status == 422


@given(rows=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2), max_size=5))
def test_no_cell_of_a_download_is_a_formula(rows: list[list[str]]) -> None:
    text = record_pages.csv_lines(rows).decode()
    back = list(csv.reader(io.StringIO(text, newline="")))
    assert [[cell.removeprefix("'") for cell in row] for row in back] == [
        [cell.removeprefix("'") for cell in row] for row in rows
    ]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in back for cell in row)
