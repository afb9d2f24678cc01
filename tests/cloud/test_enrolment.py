"""Letting devices in: the tables, lost answers, races, strangers with a known name, and what a code brings along."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from conftest import Cloud, StartCloud

from cloud.flows import enrolment, groups
from cloud.flows.enrolment import Asked, Place
from cloud.flows.groups import Group
from cloud.flows.identity import Identity
from cloud.rules import enrolling as rules
from cloud.rules.enrolling import Code, FleetKey, Found
from cloud.store import feed
from cloud.store.db import Database
from pisyncd.core.problems import Refusal

ACTOR = "operator:amina"
NOW = 1_800_000_000_000
CODE = Code(device_id=None, expires_at_ms=100, used_by=None)
KEY = FleetKey(auto_accept=False, devices=0, devices_max=None, expires_at_ms=None, revoked=False)
NEW = Found(device_id="pi-1")
IN = Found(device_id="pi-1", enrolled=True)
SAME = Found(device_id="pi-1", enrolled=True, same_token=True)


@pytest.mark.parametrize(
    ("code", "found", "verdict"),
    [
        (None, NEW, "refuse"),
        (CODE, NEW, "admit"),
        (replace(CODE, expires_at_ms=50), NEW, "refuse"),
        (replace(CODE, device_id="pi-2"), NEW, "refuse"),
        (replace(CODE, device_id="pi-1"), NEW, "admit"),
        (CODE, IN, "taken"),
        (replace(CODE, device_id="pi-1"), IN, "replace"),
        (replace(CODE, used_by="pi-1"), SAME, "again"),
        (replace(CODE, used_by="pi-1", expires_at_ms=1), SAME, "again"),
        (replace(CODE, used_by="pi-1"), IN, "refuse"),
        (replace(CODE, used_by="pi-2"), SAME, "refuse"),
    ],
)
def test_what_a_code_does(code: Code | None, found: Found, verdict: str) -> None:
    assert rules.by_code(code, found, 50) == verdict


@pytest.mark.parametrize(
    ("key", "found", "verdict"),
    [
        (None, NEW, "refuse"),
        (replace(KEY, revoked=True), SAME, "refuse"),
        (replace(KEY, expires_at_ms=50), NEW, "refuse"),
        (KEY, NEW, "ask"),
        (KEY, SAME, "again"),
        (KEY, IN, "ask"),
        (replace(KEY, auto_accept=True), NEW, "admit"),
        (replace(KEY, auto_accept=True), IN, "ask"),
        (replace(KEY, auto_accept=True, devices=3, devices_max=3), NEW, "ask"),
        (KEY, replace(NEW, request="pending"), "wait"),
        (KEY, replace(NEW, request="accepted"), "again"),
        (KEY, replace(NEW, request="rejected"), "reject"),
    ],
)
def test_what_a_fleet_key_does(key: FleetKey | None, found: Found, verdict: str) -> None:
    assert rules.by_fleet_key(key, found, 50) == verdict


@pytest.mark.parametrize("typed", ["K7QM3-XPD01", "k7qm3xpdol", " K7QM3 XPDOI ", "k-7-q-m-3-x-p-d-0-1"])
def test_codes_are_read_as_people_type_them(typed: str) -> None:
    assert rules.normalized(typed) == "K7QM3XPD01"


def asked(device_id: str, secret: str) -> Asked:
    token_hash = hashlib.sha256(secret.encode()).hexdigest()
    return Asked(device_id=device_id, token_hash=token_hash, hardware={"model": "Pi 5"}, address="192.0.2.1")


async def code(db: Database, **more: Any) -> str:
    return await enrolment.make_code(
        db, **{"device_id": None, "place": Place(), "lasts_s": 3600, "actor": ACTOR, "now_ms": NOW, **more}
    )


async def refused(status: int, work: Any) -> Refusal:
    with pytest.raises(Refusal) as error:
        await work
    assert error.value.status == status
    assert error.value.hint
    return error.value


async def test_a_code_lets_one_device_in_and_an_answer_that_was_lost_is_given_again(db: Database) -> None:
    made = await code(db)
    first = await enrolment.by_code(db, made.lower(), asked("pi-1", "s1"), NOW)
    assert (first.state, first.fresh) == ("accepted", True)
    again = await enrolment.by_code(db, made, asked("pi-1", "s1"), NOW + 10 * 3_600_000)
    assert (again.state, again.fresh) == ("accepted", False)
    for other in (asked("pi-1", "s2"), asked("pi-2", "s1"), asked("pi-2", "s3")):
        await refused(403, enrolment.by_code(db, made, other, NOW))
    found = await Identity(db, lambda: NOW).who("s1")
    assert found is not None
    assert found.device_id == "pi-1"


async def test_a_used_an_old_and_an_unknown_code_are_answered_alike(db: Database) -> None:
    used, old = await code(db), await code(db, lasts_s=60)
    await enrolment.by_code(db, used, asked("pi-1", "s1"), NOW)
    told = {
        (await refused(403, enrolment.by_code(db, each, asked("pi-9", "s9"), NOW + 61_000))).detail
        for each in (used, old, "AAAAA-AAAAA", "", "ä" * 10, "x" * 1000)
    }
    assert len(told) == 1


async def test_of_many_who_use_a_code_at_once_one_is_in(db: Database) -> None:
    made = await code(db)
    results = await asyncio.gather(
        *(enrolment.by_code(db, made, asked(f"pi-{n}", f"s{n}"), NOW) for n in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in results) == 1
    assert all(isinstance(each, Refusal) for each in results if isinstance(each, BaseException))


async def test_a_code_for_anybody_knocks_nobody_out_and_one_for_the_device_replaces_it(db: Database) -> None:
    await enrolment.by_code(db, await code(db), asked("pi-1", "s1"), NOW)
    await refused(409, enrolment.by_code(db, await code(db), asked("pi-1", "s2"), NOW))
    bound = await code(db, device_id="pi-1")
    await refused(403, enrolment.by_code(db, bound, asked("pi-2", "s2"), NOW))
    await enrolment.by_code(db, bound, asked("pi-1", "s2"), NOW + 1)
    who = Identity(db, lambda: NOW + 2)
    assert await who.who("s1") is None
    assert await who.who("s2") is not None


async def test_a_code_brings_site_groups_tags_and_records_along(db: Database) -> None:
    await groups.put_group(db, Group(name="west", kind="region"), actor=ACTOR, now_ms=NOW)
    await groups.put_group(db, Group(name="kasese", kind="site", parent="west"), actor=ACTOR, now_ms=NOW)
    await groups.put_group(db, Group(name="pilot"), actor=ACTOR, now_ms=NOW)
    made = await code(db, place=Place(site="kasese", groups=("pilot",), tags=("lab",)))
    await enrolment.by_code(db, made, asked("pi-1", "s1"), NOW)
    async with db.reading() as tx:
        row = await tx.one("device_by_id", device_id="pi-1")
        assert row is not None
        assert await groups.of_device(tx, row["dk"]) == ("kasese", ["pilot"], ["lab"])
        assert await feed.subscriptions(tx, row["dk"]) == {("site", "kasese")}
    for place in (Place(site="west"), Place(site="none"), Place(groups=("kasese",)), Place(tags=("a/b",))):
        await refused(422, code(db, place=place))


async def fleet_key(db: Database, **more: Any) -> str:
    options = {"place": Place(), "auto_accept": False, "devices_max": None, "expires_at_ms": None, **more}
    return await enrolment.make_fleet_key(db, "cards", actor=ACTOR, now_ms=NOW, **options)


async def test_a_device_waits_until_a_person_has_said_yes_or_no(db: Database) -> None:
    key = await fleet_key(db)
    for _ in range(2):
        assert (await enrolment.by_fleet_key(db, key, asked("pi-1", "s1"), NOW)).state == "pending"
        assert (await enrolment.by_fleet_key(db, key, asked("pi-2", "s2"), NOW)).state == "pending"
    async with db.reading() as tx:
        assert [row["device_id"] for row in await enrolment.requests(tx)] in (["pi-1", "pi-2"], ["pi-2", "pi-1"])
    assert await Identity(db, lambda: NOW).who("s1") is None
    async with db.transaction() as tx:
        await enrolment.accept(tx, "pi-1", request_id=None, replace=False, actor=ACTOR, now_ms=NOW)
        await enrolment.reject(tx, "pi-2", request_id=None, actor=ACTOR, now_ms=NOW)
    assert (await enrolment.by_fleet_key(db, key, asked("pi-1", "s1"), NOW)).state == "accepted"
    await refused(403, enrolment.by_fleet_key(db, key, asked("pi-2", "s2"), NOW))
    assert await Identity(db, lambda: NOW).who("s1") is not None


async def test_a_stranger_with_a_known_name_knocks_nobody_out(db: Database) -> None:
    key = await fleet_key(db, auto_accept=True)
    assert (await enrolment.by_fleet_key(db, key, asked("pi-1", "s1"), NOW)).fresh
    assert (await enrolment.by_fleet_key(db, key, asked("pi-1", "s1"), NOW)).state == "accepted"
    assert (await enrolment.by_fleet_key(db, key, asked("pi-1", "stranger"), NOW)).state == "pending"
    async with db.transaction() as tx:
        (row,) = await enrolment.requests(tx)
        assert row["known"] == 1
        with pytest.raises(Refusal):
            await enrolment.accept(tx, "pi-1", request_id=None, replace=False, actor=ACTOR, now_ms=NOW)
    assert await Identity(db, lambda: NOW).who("s1") is not None
    async with db.transaction() as tx:
        await enrolment.accept(tx, "pi-1", request_id=row["id"], replace=True, actor=ACTOR, now_ms=NOW + 1)
    who = Identity(db, lambda: NOW + 2)
    assert await who.who("s1") is None
    assert await who.who("stranger") is not None


async def test_a_key_that_accepts_by_itself_does_so_for_so_many_only(db: Database) -> None:
    key = await fleet_key(db, auto_accept=True, devices_max=2)
    states = [(await enrolment.by_fleet_key(db, key, asked(f"pi-{n}", f"s{n}"), NOW)).state for n in range(4)]
    assert states == ["accepted", "accepted", "pending", "pending"]


async def test_over_http_with_a_token_of_its_own_and_without(cloud: Cloud) -> None:
    operator, admin = await cloud.key("operator"), await cloud.key("admin")
    _, answer = await cloud.call("POST", "/api/enroll-codes", json={"device_id": "pi-1"}, headers=operator)
    body = {"device_id": "pi-1", "code": answer["data"]["code"]}
    status, answer = await cloud.call("POST", "/api/enroll", json=body)
    assert status == 201
    device = {"Authorization": f"Bearer {answer['data']['token']}"}
    assert (await cloud.call("GET", "/api/probe?challenge=abc", headers=device))[0] == 200
    assert (await cloud.call("POST", "/api/enroll", json=body))[0] == 403
    assert (await cloud.call("POST", "/api/devices/pi-1/retire", headers=operator))[0] == 200
    assert (await cloud.call("POST", "/api/devices/pi-1/retire", headers=operator))[0] == 409
    async with asyncio.timeout(60):
        while (await cloud.call("GET", "/api/probe?challenge=abc", headers=device))[0] != 401:
            await asyncio.sleep(0.05)
    _, answer = await cloud.call("GET", "/api/audit?target=pi-1", headers=admin)
    assert [each["action"] for each in answer["data"]] == ["device.revoked", "device.enrolled", "enroll-code.made"]
    assert answer["data"][1]["actor"].startswith("key:k-")


@pytest.mark.parametrize(
    "body",
    [{}, {"device_id": "pi-1"}, {"device_id": "a b", "code": "x"}, {"device_id": "pi-1", "code": "x", "fleet_key": "y"},
     {"device_id": "pi-1", "fleet_key": "y"}, {"device_id": "pi-1", "code": "x", "token_sha256": "short"},
     {"device_id": "pi-1", "code": "x" * 50}, {"device_id": "pi-1", "code": "x", "hardware": {"a": "x" * 500}}],
)  # fmt: skip
async def test_what_cannot_be_asked(cloud_lite: Cloud, body: Any) -> None:
    assert (await cloud_lite.call("POST", "/api/enroll", json=body))[0] == 422


async def test_guessing_codes_is_limited_for_an_address(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(rate_login=3)
    body = {"device_id": "pi-1", "code": "AAAAA-AAAAA"}
    statuses = [(await cloud.call("POST", "/api/enroll", json=body))[0] for _ in range(5)]
    assert statuses == [403, 403, 403, 429, 429]
