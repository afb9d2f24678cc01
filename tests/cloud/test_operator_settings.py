"""Pages where it is set who is told, who belongs where, who may do what, and how devices are let in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from conftest import Cloud
from page_content import asks, group, only_secret, told, whole_audit
from page_helpers import Person

from cloud.flows import groups
from cloud.rules import access
from cloud.services import wall_ms

SignIn = Callable[..., Awaitable[Person]]


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
