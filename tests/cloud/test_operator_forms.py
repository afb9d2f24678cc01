"""The operators' pages that change something: who sees and may do what, that every form works and stands in the audit,
that no form works from elsewhere, that names are only text, and that a secret is shown once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Cloud, StartCloud
from hypothesis import given
from hypothesis import strategies as st
from page_helpers import Checker, Form, Person, person
from record_helpers import Device, sql, subscribe
from webhook_rig import Receiver, receiving

from cloud.dashboard import record_pages
from cloud.flows import audit, conflicts, endpoints, enrolment, groups, identity
from cloud.flows.endpoints import Actor
from cloud.flows.incidents import Alerting, Terms
from cloud.rules import access
from cloud.services import wall_ms
from cloud.store.db import Row
from pisyncd.core import wire
from pisyncd.core.record import TypeRule

SignIn = Callable[..., Awaitable[Person]]


@pytest.fixture
async def sign_in() -> AsyncIterator[SignIn]:
    """Signs somebody in, for as long as the test takes."""
    async with AsyncExitStack() as stack:

        async def signed_in(cloud: Cloud, role: str = "admin", group: str | None = None) -> Person:
            found = await person(cloud, role, group)
            stack.push_async_callback(found.http.close)
            return found

        yield signed_in


async def told(cloud: Cloud, action: str) -> list[Row]:
    """What the audit says of an action, newest first."""
    async with cloud.services.db.reading() as tx:
        return await audit.entries(tx, audit.Wanted(action=action), limit=500)


async def whole_audit(cloud: Cloud) -> str:
    async with cloud.services.db.reading() as tx:
        return "\n".join(str(dict(row)) for row in await audit.entries(tx, limit=500))


async def group(cloud: Cloud, name: str, kind: str = "group") -> None:
    """A group to name."""
    now = wall_ms()
    values = f"('{name}', '{kind}', NULL, NULL, NULL, '', {now}, {now})"
    await sql(cloud, f"INSERT INTO device_group VALUES {values}", write=True)


# Incidents


async def incident(cloud: Cloud, subject: str, *device_ids: str) -> int:
    """Devices are overdue, and nobody has taken it on."""
    now, db = wall_ms(), cloud.services.db
    async with db.transaction() as tx:
        number: int = await tx.value(
            "add_incident",
            rule="needs-a-person",
            kind="device" if len(device_ids) == 1 else "group",
            subject=subject,
            cause="overdue",
            fault="",
            escalate_at_ms=now + 3_600_000,
            devices=len(device_ids),
            now_ms=now,
        )
        dks = [await identity.device_key(tx, each) for each in device_ids]
        await tx.bulk("join_incident", [(number, dk, now) for dk in dks])
        # In the same transaction: the cloud's own alerter closes what is about devices that are well.
        overdue = "UPDATE device_standing SET state = 'overdue', under = 'overdue', due_at_ms = NULL"
        await tx._connection.execute(f"{overdue} WHERE dk IN ({', '.join(map(str, dks))})")  # type: ignore[attr-defined]
    await Alerting(db, wall_ms, Terms()).look()
    return number


async def member(cloud: Cloud, device_id: str, name: str) -> None:
    """A device of a group."""
    values = f"SELECT dk, '{name}', 'group' FROM device WHERE device_id = '{device_id}'"
    await sql(cloud, f"INSERT INTO group_member (dk, name, kind) {values}", write=True)


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


# Notifications


async def test_a_channel_a_rule_and_a_silence_are_made_changed_and_removed(cloud: Cloud, sign_in: SignIn) -> None:
    await group(cloud, "north")
    admin, base = await sign_in(cloud), "/notifications"
    address = "mailtos://user:hunter2@mail.example/?to=a@b.example"
    page = await admin.get(f"{base}/channels")
    refused = await admin.shown(
        page.form(f"{base}/channels"), 422, name="duty", url=address, quiet_hours="at night", digest_at="07:00"
    )
    assert refused.form(f"{base}/channels").fields["digest_at"] == ["07:00"]
    assert "hunter2" not in str(refused.form(f"{base}/channels").fields)
    await admin.shown(page.form(f"{base}/channels"), 422, name="duty", url="exec://rm")
    await admin.send(page.form(f"{base}/channels"), name="duty", url=address)
    page = await admin.get(f"{base}/channels/duty")
    assert "hunter2" not in page.text
    await admin.send(page.form(f"{base}/channels"), quiet_hours="22:00-06:00")
    page = await admin.get(base)
    assert "not 22:00-06:00" in page.text
    assert await admin.send(page.form(f"{base}/channels/test", name="duty")) == f"{base}?done=channel-tested"
    page = await admin.get(f"{base}/rules")
    await admin.shown(page.form(f"{base}/rules"), 422, name="failing", states=[])
    refused = await admin.shown(page.form(f"{base}/rules"), 422, name="failing", groups="nowhere", states=["failing"])
    assert refused.form(f"{base}/rules").fields["states"] == ["failing"]
    await admin.send(
        page.form(f"{base}/rules"), name="failing", states=["failing"], groups="north", channels=["duty"],
        wait_minutes=90, faults="card-*, card-full", escalate_minutes=2880, escalate_to=["duty"],
    )  # fmt: skip
    page = await admin.get(base)
    for words in ("for 1 h 30 min", "duty after 2 d", "card-*", "north"):
        assert words in page.text
    page = await admin.get(f"{base}/rules/failing")
    sent = page.form(f"{base}/rules")
    assert sent.fields["groups"] == ["north"]
    assert sent.fields["channels"] == ["duty"]
    in_use = await admin.shown((await admin.get(f"{base}/channels/duty")).form(f"{base}/channels/remove"), 409)
    assert "failing" in in_use.text
    await admin.send(page.form(f"{base}/rules/remove"))
    await admin.send((await admin.get(f"{base}/channels/duty")).form(f"{base}/channels/remove"))
    await admin.get(f"{base}/rules/failing", 404)
    await admin.get(f"{base}/channels/duty", 404)
    assert "hunter2" not in await whole_audit(cloud)
    actions = {row["action"] for row in await told(cloud, "*")}
    assert {"channel.put", "channel.tested", "channel.removed", "rule.put", "rule.removed"} <= actions


async def test_an_operator_keeps_something_quiet(cloud: Cloud, sign_in: SignIn) -> None:
    operator, viewer = await sign_in(cloud, "operator"), await sign_in(cloud, "viewer")
    soon = (datetime.now(UTC) + timedelta(days=7)).date()
    page = await operator.get("/notifications")
    assert {each.action for each in page.posts} == {"/logout", "/notifications/silences"}
    form = page.form("/notifications/silences")
    for wrong in ({"until": ""}, {"until": "soon"}, {"until": "2020-01-01T00:00"}, {"fault": ""}, {"comment": ""}):
        typed = {"fault": "card-<b>", "comment": "known", "until": f"{soon}T10:00", **wrong}
        refused = await operator.shown(form, 422, **typed)
        assert refused.form("/notifications/silences").fields["fault"] == [typed["fault"]]
    assert await operator.send(form, fault="card-<b>", comment="known", until=f"{soon}T10:00")
    page = await viewer.get("/notifications")
    assert "card-<b>" in page.text
    assert f"{soon} 10:00 UTC" in page.text
    assert {each.action for each in page.posts} == {"/logout"}
    page = await operator.get("/notifications")
    await operator.send(page.form("/notifications/silences/remove"))
    assert {row["action"] for row in await told(cloud, "silence.*")} == {"silence.added", "silence.removed"}


# Groups


async def test_a_region_with_a_site_is_made_changed_and_removed(cloud: Cloud, sign_in: SignIn) -> None:
    await cloud.enroll("pi-1")
    admin = await sign_in(cloud)
    page = await admin.get("/groups")
    await admin.send(page.form("/groups"), name="East", kind="region")
    refused = await admin.shown(page.form("/groups"), 422, name="Gasabo 2", parent="West", learners=120, note="<b>")
    assert refused.form("/groups").fields["parent"] == ["West"]
    await admin.shown(page.form("/groups"), 422, name="Gasabo 2", learners="many")
    await admin.send(refused.form("/groups"), parent="East")
    assert "already" in (await admin.shown(page.form("/groups"), 409, name="East")).text
    await groups.assign(
        cloud.services.db, "pi-1", groups.Described(site="Gasabo 2", tags=["solar"]), actor="x", now_ms=wall_ms()
    )
    page = await admin.get("/groups")
    assert "<b>" in page.text
    where = "/groups/Gasabo%202"
    assert where in page.links
    page = await admin.get(where)
    assert page.form(where).fields["learners"] == ["120"]
    await admin.send(page.form(where), note="moved", calendar="rwanda")
    assert where in (await admin.get("/groups/East")).links
    assert "1 device" in (await admin.get(where)).text
    await admin.send(page.form(f"{where}/remove"))
    await admin.get(where, 404)
    assert {row["action"] for row in await told(cloud, "group.*")} == {"group.put", "group.removed"}


async def test_groups_beyond_reach_are_not_there(cloud: Cloud, sign_in: SignIn) -> None:
    for name in ("north", "south"):
        await group(cloud, name)
    operator = await sign_in(cloud, "operator", "north")
    page = await operator.get("/groups")
    assert "/groups/north" in page.links
    assert "south" not in page.text
    await operator.get("/groups/south", 404)
    assert {each.action for each in (await operator.get("/groups/north")).posts} == {"/logout"}


# Enrolment


async def asks(cloud: Cloud, device_id: str, fleet_key: str, **hardware: str) -> None:
    """A device with a prepared card asks to be let in."""
    asked = enrolment.Asked(
        device_id=device_id,
        token_hash=wire.token_hash(f"token of {device_id} {hardware}"),
        hardware=hardware,
        address="192.0.2.7",
    )
    answer = await enrolment.by_fleet_key(cloud.services.db, fleet_key, asked, wall_ms())
    assert answer.state == "pending"


async def test_devices_with_prepared_cards_are_let_in_or_kept_out(cloud: Cloud, sign_in: SignIn) -> None:
    admin = await sign_in(cloud)
    page = await admin.get("/enrolment")
    refused = await admin.shown(page.form("/enrolment/fleet-keys"), 422, name="east 2026", site="nowhere", days=30)
    assert refused.form("/enrolment/fleet-keys").fields["site"] == ["nowhere"]
    key = only_secret(await admin.shown(page.form("/enrolment/fleet-keys"), name="east 2026", tags="solar", days=30))
    await cloud.enroll("pi-known")
    for device_id in ("pi-new", "pi-strange", "pi-known"):
        await asks(cloud, device_id, key, model="Pi <b>4</b>", serial=f"s-{device_id}")
    page = await admin.get("/enrolment")
    assert "Pi <b>4</b>" in page.text
    assert "name is taken" in page.text
    accept, reject = "/enrolment/requests/accept", "/enrolment/requests/reject"
    await admin.send(page.form(accept, device_id="pi-new"))
    await admin.send(page.form(reject, device_id="pi-strange"))
    await admin.send(page.form(accept, device_id="pi-known"))
    await admin.shown(page.form(reject, device_id="pi-new"), 404)
    assert "No device waits" in (await admin.get("/enrolment")).text
    assert "pi-new" in (await admin.get("/enrolment?state=accepted")).text
    assert "pi-strange" in (await admin.get("/enrolment?state=rejected")).text
    assert await cloud.services.identity.who("token of pi-new {'model': 'Pi <b>4</b>', 'serial': 's-pi-new'}")
    assert await admin.send(page.form("/enrolment/fleet-keys/revoke", name="east 2026"))
    assert key not in await whole_audit(cloud)
    actions = {row["action"] for row in await told(cloud, "*")}
    assert {"fleet-key.made", "fleet-key.revoked", "enrolment.accepted", "enrolment.rejected"} <= actions
    await admin.get("/enrolment?state=odd", 422)


async def test_a_code_is_made_and_ended(cloud: Cloud, sign_in: SignIn) -> None:
    admin = await sign_in(cloud)
    page = await admin.get("/enrolment")
    for wrong in ({"hours": 0}, {"hours": ""}, {"device_id": "no device"}, {"tags": "<b>"}):
        refused = await admin.shown(page.form("/enrolment/codes"), 422, **wrong)
        name, value = next(iter(wrong.items()))
        assert refused.form("/enrolment/codes").fields[name] == [str(value)]
    code = only_secret(await admin.shown(page.form("/enrolment/codes"), device_id="pi-9"))
    page = await admin.get("/enrolment")
    assert "pi-9" in page.text
    assert code not in page.text
    await admin.send(page.form("/enrolment/codes/remove"))
    assert code.replace("-", "") not in (await whole_audit(cloud)).replace("-", "")
    assert {row["action"] for row in await told(cloud, "enroll-code.*")} == {"enroll-code.made", "enroll-code.removed"}


# Conflicts


async def undecided(cloud: Cloud, name: str = "attendance") -> str:
    """Two devices write the same record without having seen each other, of a type that people decide."""
    cloud.services.records.rules[name] = TypeRule(strategy="manual")
    for device_id, value in (("pi-1", "present <b>"), ("pi-2", "absent")):
        one = await Device.enroll(cloud, device_id, name)
        await subscribe(cloud, device_id, "group", "4b")
        await one.push(one.write({"status": value, "group_id": "4b"}, trusted=device_id == "pi-1"))
    async with cloud.services.db.reading() as tx:
        (found, *_), _ = await conflicts.page(tx, conflicts.Wanted(state="open"), limit=1, offset=0)
    return str(found.row["id"])


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


def only_secret(page: Checker) -> str:
    """The secret that a page shows, once."""
    (found,) = page.secrets
    assert page.text.count(found) == 1
    assert not any(found in link for link in page.links)
    assert all(found not in value for each in page.forms for several in each.fields.values() for value in several)
    return found


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


HOSTILE = '=1+1\n"><script>alert(1)</script>\u202e{{ 7*7 }}'


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


# People and keys


async def test_a_person_is_let_in_changed_shut_out_and_removed(cloud: Cloud, sign_in: SignIn) -> None:
    await group(cloud, "north")
    admin = await sign_in(cloud)
    page = await admin.get("/people")
    refused = await admin.shown(page.form("/people"), 422, name="amina", everywhere="viewer", password="short")
    assert refused.form("/people").fields["name"] == ["amina"]
    assert refused.form("/people").fields["everywhere"] == ["viewer"]
    assert "short" not in str(refused.form("/people").fields)
    assert "nothing would be granted" in (await admin.shown(page.form("/people"), 422, name="amina")).text
    made = await admin.shown(page.form("/people"), name="amina", groups_operator="north")
    password = only_secret(made)
    again = await admin.shown(page.form("/people"), 409, name="amina", everywhere="viewer")
    assert again.secrets == []
    page = await admin.get("/people/amina")
    assert "operator of north" in page.text
    assert password not in page.text
    assert (
        await admin.send(page.form("/people/amina/grants"), everywhere="viewer") == "/people/amina?done=person-changed"
    )
    assert "viewer everywhere" in (await admin.get("/people")).text
    await admin.shown(page.form("/people/amina/grants"), 422, everywhere="viewer", groups_admin="nowhere")
    second = only_secret(await admin.shown(page.form("/people/amina/password")))
    own = "four plain words here"
    assert await admin.send(page.form("/people/amina/password"), password=own)
    assert await admin.send(page.form("/people/amina/state"))
    page = await admin.get("/people/amina")
    assert await admin.send(page.form("/people/amina/state", state="enabled"))
    assert await admin.send(page.form("/people/amina/remove")) == "/people?done=person-removed"
    await admin.get("/people/amina", 404)
    said = await whole_audit(cloud)
    for secret in (password, second, own):
        assert secret not in said
    actions = {row["action"] for row in await told(cloud, "operator.*")}
    assert actions == {f"operator.{each}" for each in ("added", "granted", "disabled", "enabled", "removed")}
    assert await told(cloud, "password.changed")


async def test_the_last_administrator_cannot_shut_everybody_out(cloud_lite: Cloud, sign_in: SignIn) -> None:
    admin = await sign_in(cloud_lite)
    page = await admin.get(f"/people/{admin.name}")
    for action in ("state", "remove"):
        refused = await admin.shown(page.form(f"/people/{admin.name}/{action}"), 409)
        assert "last administrator" in refused.text
    refused = await admin.shown(page.form(f"/people/{admin.name}/grants"), 409, everywhere="viewer")
    assert "last administrator" in refused.text


async def test_a_key_is_made_narrow_and_ends(cloud: Cloud, sign_in: SignIn) -> None:
    await group(cloud, "north")
    admin = await sign_in(cloud)
    page = await admin.get("/people")
    refused = await admin.shown(page.form("/people/keys"), 422, name="reports", days="0")
    assert "1 to 3650" in refused.text
    scope = access.SCOPES[0]
    made = await admin.shown(page.form("/people/keys"), name="reports", days="7", groups="north", scopes=[scope])
    secret = only_secret(made)
    principal = await cloud.services.identity.who(secret)
    assert principal is not None
    assert principal.grants == (access.Grant(role="viewer", group="north"),)
    assert principal.scopes == {scope}
    page = await admin.get("/people")
    assert secret not in page.text
    assert "devices of north" in page.text
    assert await admin.send(page.form("/people/keys/revoke", name="reports")) == "/people?done=key-revoked"
    assert secret not in await whole_audit(cloud)
    assert {row["action"] for row in await told(cloud, "key.*")} == {"key.created", "key.revoked"}


# Everything


PAGES: dict[str, tuple[str, bool]] = {
    "/conflicts": ("viewer", False),
    "/incidents": ("viewer", True),
    "/enrolment": ("operator", False),
    "/exports": ("viewer", False),
    "/groups": ("viewer", True),
    "/notifications": ("viewer", False),
    "/notifications/rules": ("admin", False),
    "/notifications/channels": ("admin", False),
    "/people": ("admin", False),
    "/webhooks": ("admin", False),
    "/audit": ("admin", False),
    "/audit.csv": ("admin", False),
}


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_for_its_role(cloud_lite: Cloud, sign_in: SignIn, path: str) -> None:
    needed, grouped = PAGES[path]
    for role in ("viewer", "operator", "admin"):
        may = access.covers(role, needed)  # type: ignore[arg-type]
        for group in (None, "north"):
            one = await sign_in(cloud_lite, role, group)
            status = 200 if may and (grouped or group is None) else 403
            async with one.http.get(cloud_lite.url + path, allow_redirects=False) as answer:
                assert answer.status == status, (path, role, group)
    async with cloud_lite.http.get(cloud_lite.url + path, allow_redirects=False) as answer:
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/login?next=")


def form_routes(cloud: Cloud) -> list[str]:
    """Every path that takes a form."""
    found = {
        route.resource.canonical
        for route in cloud.app.router.routes()
        if route.method == "POST" and route.resource and not route.resource.canonical.startswith(("/api", "/v1"))
    }
    return sorted(found - {"/login", "/logout"})


async def test_no_form_works_from_elsewhere_or_for_who_may_only_look(cloud_lite: Cloud, sign_in: SignIn) -> None:
    admin, viewer = await sign_in(cloud_lite), await sign_in(cloud_lite, "viewer")
    key = await cloud_lite.key("admin")
    before = await whole_audit(cloud_lite)
    token = (await viewer.get("/exports")).forms[0].fields["csrf"][0]
    for route in form_routes(cloud_lite):
        path = cloud_lite.url + re.sub(r"\{.*?\}", "some", route)
        for data in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": token}):
            async with admin.http.post(path, data=data, allow_redirects=False) as answer:
                assert answer.status == 403, (route, data)
        async with viewer.http.post(path, data={"csrf": token}, allow_redirects=False) as answer:
            assert answer.status == 403, route
        async with cloud_lite.http.post(path, data={"csrf": token}, headers=key, allow_redirects=False) as answer:
            assert answer.status == 303, route
            assert answer.headers["Location"] == "/login"
    assert await whole_audit(cloud_lite) == before


OWN = (
    "/enrolment",
    "/incidents",
    "/notifications",
    "/groups",
    "/conflicts",
    "/webhooks",
    "/exports",
    "/audit",
    "/people",
)


#: What operators may send.
OPERATORS = ("/conflicts/", "/incidents/", "/notifications/silences", "/enrolment/requests", "/enrolment/codes")


async def filled(cloud: Cloud, admin: Person) -> None:
    """Something hostile of everything that people can write."""
    await undecided(cloud)
    await group(cloud, "north")
    await member(cloud, "pi-1", "north")
    number = await incident(cloud, "pi-1", "pi-1")
    page = await admin.get(f"/incidents/{number}")
    await admin.send(page.form(f"/incidents/{number}/acknowledge"), note=HOSTILE)
    page = await admin.get("/webhooks")
    await admin.shown(page.form("/webhooks"), url="https://one.example/hook", description=HOSTILE)
    page = await admin.get("/groups/north")
    await admin.send(page.form("/groups/north"), note=HOSTILE)
    page = await admin.get("/notifications/channels")
    await admin.send(page.form("/notifications/channels"), name="duty", url="json://one.example/<b>")
    page = await admin.get("/notifications/rules")
    await admin.send(
        page.form("/notifications/rules"), name="all", channels=["duty"], faults="<script>alert(2)</script>"
    )
    soon = (datetime.now(UTC) + timedelta(days=7)).date()
    page = await admin.get("/notifications")
    silence = page.form("/notifications/silences")
    await admin.send(silence, tag="<img src=x>", comment=HOSTILE, until=f"{soon}T10:00")
    page = await admin.get("/enrolment")
    key = only_secret(await admin.shown(page.form("/enrolment/fleet-keys"), name="cards"))
    await asks(cloud, "pi-3", key, model=HOSTILE)
    page = await admin.get("/people")
    await admin.shown(page.form("/people"), name="amina", groups_viewer="north")
    await admin.shown(page.form("/people/keys"), name="reports")


async def crawl(one: Person) -> dict[str, Checker]:
    """Every page of ours that links lead to."""
    seen: dict[str, Checker] = {}
    waiting = [path for path, (role, _) in PAGES.items() if not path.endswith(".csv") and role]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        async with one.http.get(one.cloud.url + path, allow_redirects=False) as answer:
            if answer.status == 403:
                continue
        seen[path] = page = await one.get(path)
        ours = {link.partition("#")[0] for link in page.links if link.startswith(OWN) and ".csv" not in link}
        waiting += [link for link in ours if link not in {form.action for form in page.posts}]
    return seen


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_every_page_is_whole_and_its_forms_are_ours(cloud_lite: Cloud, sign_in: SignIn, role: str) -> None:
    await filled(cloud_lite, await sign_in(cloud_lite))
    one = await sign_in(cloud_lite, role)
    pages = await crawl(one)
    token = next(iter(pages.values())).posts[0].fields["csrf"]
    assert token[0]
    assert any(path.startswith("/conflicts/") for path in pages)
    assert any(path.startswith("/webhooks/") for path in pages) == (role == "admin")
    for path, page in pages.items():
        assert page.tags.isdisjoint({"i", "img"}), path
        assert "\u202e" not in page.text, path
        assert page.secrets == [], path
        for each in page.posts:
            assert each.fields.get("csrf") == token, (path, each.action)
            assert each.buttons == 1, (path, each.action)
            if role != "admin" and each.action != "/logout":
                assert role == "operator", (path, each.action)
                assert each.action.startswith(OPERATORS), each.action
