"""Records in batches, as devices push them and as applications tell of them: what joins, conflicts, is refused."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud, StartCloud
from record_helpers import KEY, SECRET, Device, item, push, shown, sql, state_of, subscribe, user

from cloud.services import wall_ms
from pisyncd.core import merge, record
from pisyncd.core.edits import Patch, Put


async def test_what_a_device_writes_is_here_and_again_changes_nothing(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    first = one.write({"percent": 40})
    second = one.write({"percent": 80, "userId": "7d444840-9dc0-11d1-b245-5ffdce74fad2"})
    results = await one.push(first, second)
    assert [each["status"] for each in results] == ["synced", "synced"]
    assert [each["status"] for each in await one.push(first, second)] == ["duplicate", "duplicate"]
    assert await shown(cloud) == {"percent": 80, "userId": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}
    kept = await state_of(cloud)
    assert kept.version == {one.writer: 2}
    assert {write.clock for writes in kept.registers.values() for write in writes} == {record.JUDGED_TRUSTED}


async def test_who_has_seen_all_replaces_it_quietly(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"percent": 40, "mode": "a"}))
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"mode": "b"}))
    one.state = merge.join(one.state, await state_of(cloud))
    (result,) = await one.push(one.write({"mode": "c"}))
    assert result == {"itemId": result["itemId"], "status": "synced", "timestamp": result["timestamp"]}
    assert await shown(cloud) == {"percent": 40, "mode": "c"}


@pytest.mark.parametrize(
    ("kind", "here", "there", "winner", "now"),
    [
        ("progress", {"percent": 90}, {"percent": 85}, "server", {"percent": 90}),
        ("progress", {"percent": 80}, {"percent": 85}, "client", {"percent": 85}),
        ("enrollment", {"status": "active"}, {"status": "done"}, "client", {"status": "done"}),
        ("assessment", {"grade": 3}, {"grade": 4}, "client", {"grade": 4}),
    ],
)
async def test_writes_that_have_not_seen_each_other_are_a_conflict_by_the_rule_of_the_type(
    cloud: Cloud, kind: str, here: dict[str, Any], there: dict[str, Any], winner: str, now: dict[str, Any]
) -> None:
    one = await Device.enroll(cloud, "pi-1", kind)
    await one.push(one.write({"open": True}))
    await cloud.services.records.write(KEY, kind, "r1", Put({"open": True, **here}))
    (result,) = await one.push(one.write(there, at_ms=wall_ms() + 5000))
    assert result["status"] == "conflict"
    assert "code" not in result
    found = result["resolution"]
    assert (found["winner"], found["conflictId"][:3]) == (winner, "cf_")
    assert "pi-1" in found["detail"]
    assert "the cloud" in found["detail"]
    assert await shown(cloud, kind) == {"open": True, **now}
    _, log = await cloud.call("GET", "/api/telemetry/batches", headers=one.headers)
    assert log["data"][0]["conflictDetails"] == [
        {
            "itemId": result["itemId"],
            "code": "merged",
            "detail": found["detail"],
            "conflictId": found["conflictId"],
            "strategy": found["strategy"],
        }
    ]
    assert (log["data"][0]["successCount"], log["data"][0]["conflictCount"]) == (0, 1)


async def test_plain_fields_stand_beside_what_the_sender_had_not_seen(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    made = item("progress", {"progressId": "r1", "percent": 75, "timeSpent": 30})
    assert (await push(cloud, device, made))[0]["status"] == "synced"
    more = item("progress", {"progressId": "r1", "percent": 80, "timeSpent": 60})
    assert (await push(cloud, device, more))[0]["status"] == "synced"
    assert await shown(cloud) == {"percent": 80, "timeSpent": 60}
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"note_id": "n1", "percent": 90}))
    version = (await state_of(cloud)).version
    beside = item("progress", {"progressId": "r1", "note_id": "n2"})
    (result,) = await push(cloud, device, beside)
    # nobody knows when it was written
    assert (result["status"], result["resolution"]["winner"]) == ("conflict", "server")
    seen = item("progress", {"progressId": "r1", "note_id": "n3", "baseVersion": version})
    assert (await push(cloud, device, seen))[0]["status"] == "synced"
    assert await shown(cloud) == {"percent": 90, "timeSpent": 60, "note_id": "n3"}
    gone = item("progress", {"progressId": "r1", "deleted": True, "baseVersion": (await state_of(cloud)).version})
    assert (await push(cloud, device, gone))[0]["status"] == "synced"
    assert (await cloud.services.records.read("progress", "r1", deleted=True)).view.deleted


async def test_data_that_names_no_record_stays_a_message(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    assert (await push(cloud, device, item("progress", {"percent": 3})))[0]["status"] == "synced"
    assert (await cloud.services.records.page("progress", limit=10))[1] == 0


async def test_what_two_cannot_settle_stays_open_until_a_write_has_seen_both(
    start_cloud: StartCloud, database_url: str, tmp_path: Path
) -> None:
    types = tmp_path / "types.yaml"
    types.write_text("attendance: {strategy: manual}\n")
    cloud = await start_cloud(database=database_url, record_types_file=str(types))
    one = await Device.enroll(cloud, "pi-1", "attendance")
    two = await Device.enroll(cloud, "pi-2", "attendance")
    await subscribe(cloud, "pi-2", "site", "s1")
    await one.push(one.write({"siteId": "s1", "present": 20}))
    (result,) = await two.push(two.write({"siteId": "s1", "present": 21}))
    assert (result["status"], result["resolution"]["winner"]) == ("conflict", "undecided")
    rows = await sql(cloud, "SELECT state, field, dk FROM conflict")
    assert [row["state"] for row in rows] == ["open"]
    _, log = await cloud.call("GET", "/api/telemetry/batches", headers=two.headers)
    assert log["data"][0]["conflictDetails"][0]["code"] == "undecided"
    # a third side makes another decision of it, and only that one is open
    await one.push(one.write({"siteId": "s1", "present": 22}))
    states = await sql(cloud, "SELECT state, resolved_by, resolution FROM conflict ORDER BY ord")
    assert [row["state"] for row in states] == ["resolved", "open"]
    assert states[0]["resolved_by"] == "device:pi-1"
    assert json.loads(states[0]["resolution"])["by"] == "successor"
    await cloud.services.records.write(KEY, "attendance", "r1", Put({"siteId": "s1", "present": 22}))
    states = await sql(cloud, "SELECT state, resolved_by FROM conflict ORDER BY ord")
    assert [(row["state"], row["resolved_by"]) for row in states][1] == ("resolved", "key:desk")


async def test_a_device_writes_what_is_new_what_it_wrote_and_what_concerns_it(cloud: Cloud) -> None:
    one, two = await Device.enroll(cloud, "pi-1"), await Device.enroll(cloud, "pi-2")
    await one.push(one.write({"groupId": "4b", "percent": 10}))
    item_of_two = two.write({"percent": 20})
    for _ in range(2):
        (result,) = await two.push(item_of_two)
        assert (result["status"], result["code"]) == ("failed", "ownership-mismatch")
    plain = item("progress", {"progressId": "r1", "percent": 99})
    assert (await push(cloud, two.headers, plain))[0]["code"] == "ownership-mismatch"
    assert await shown(cloud) == {"groupId": "4b", "percent": 10}
    assert len(await sql(cloud, "SELECT code FROM rejected_item WHERE code = 'ownership-mismatch'")) == 2
    assert len(await sql(cloud, "SELECT item_id FROM message")) == 1
    await subscribe(cloud, "pi-2", "group", "4b")
    (result,) = await two.push(two.write({"percent": 30}))
    assert result["status"] == "conflict"
    assert (await shown(cloud))["percent"] == 30
    # it has written it now, wherever the record moves
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"groupId": "5a"}))
    assert (await two.push(two.write({"percent": 40})))[0]["status"] == "conflict"
    scopes = await sql(cloud, "SELECT kind, value, gone FROM record_scope ORDER BY kind, value")
    assert [(row["kind"], row["value"], row["gone"]) for row in scopes] == [
        ("device", "pi-1", 0), ("device", "pi-2", 0), ("group", "4b", 1), ("group", "5a", 0),
    ]  # fmt: skip


async def test_a_wrong_clock_is_put_right_by_what_is_known_of_the_boot(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1", "enrollment")
    wrong = 1_000_000_000_000
    sent = {"sentBootId": "boot-a", "sentBoottimeMs": 600_000, "boots": {"boot-a": 1}}
    sent["echo"] = [599_000, 599_900, wall_ms()]
    stamp = {"boot_id": "boot-a", "boottime_ms": 540_000, "wall_ms": wrong, "clock_trusted": False}
    await one.push({**one.write({"status": "a"}, at_ms=wrong, trusted=False), **stamp}, **sent)
    (write,) = (await state_of(cloud, "enrollment")).registers[""]
    assert write.clock == record.JUDGED_TRUSTED
    assert abs(write.at_ms - (wall_ms() - 60_000)) < 30_000
    # of a boot that nothing is known of, and of a trusted clock that runs ahead, nobody knows
    await one.push({**one.write({"status": "b"}, at_ms=wrong, trusted=False), "boot_id": "boot-b", "boottime_ms": 5})
    (write,) = (await state_of(cloud, "enrollment")).registers[""]
    assert (write.clock, write.at_ms) == (record.JUDGED_UNTRUSTED, wrong)
    await one.push(one.write({"status": "c"}, at_ms=wall_ms() + 3_600_000))
    (write,) = (await state_of(cloud, "enrollment")).registers[""]
    assert write.clock == record.JUDGED_UNTRUSTED
    assert write.at_ms <= wall_ms()


async def test_a_right_clock_is_not_set_back_by_what_the_first_batch_of_a_boot_leaves_open(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1", "enrollment")
    now = wall_ms()
    stamp = {"boot_id": "boot-a", "boottime_ms": 540_000, "wall_ms": now - 60, "clock_trusted": True}
    sent = {"sentBootId": "boot-a", "sentBoottimeMs": 540_060, "boots": {"boot-a": 1}}
    await one.push({**one.write({"status": "a"}, at_ms=now - 60), **stamp}, **sent)
    (write,) = (await state_of(cloud, "enrollment")).registers[""]
    assert (write.clock, write.at_ms) == (record.JUDGED_TRUSTED, now - 60)


async def test_a_user_writes_their_own(start_cloud: StartCloud, database_url: str) -> None:
    cloud = await start_cloud(database=database_url, jwt_secret=SECRET)
    me, other = user(), user()
    mine = str(uuid.uuid4())
    mine_too = user(sub=mine)
    assert (await push(cloud, me, item("progress", {"progressId": "r1", "percent": 5})))[0]["status"] == "synced"
    assert (await push(cloud, me, item("progress", {"progressId": "r1", "percent": 9})))[0]["status"] == "synced"
    assert await shown(cloud) == {"percent": 9}
    results = await push(
        cloud,
        other,
        item("progress", {"progressId": "r1", "percent": 99}),
        item("profile", {"profileId": mine, "grade": 4}),
        item("progress", {"type": "progress", "id": "r2", "state": {"version": {"d-0001": 1}, "registers": {}}}),
    )
    assert [each["code"] for each in results] == ["ownership-mismatch", "ownership-mismatch", "item-invalid"]
    assert (await push(cloud, mine_too, item("profile", {"profileId": mine, "grade": 4})))[0]["status"] == "synced"
    audited = await sql(cloud, "SELECT actor, action, target FROM audit WHERE action LIKE 'record.%' ORDER BY id")
    assert [row["action"] for row in audited] == ["record.created", "record.updated", "record.created"]
    assert all(row["actor"].startswith("user:") and mine not in row["actor"] + row["target"] for row in audited)


async def test_minimal_answers_name_conflicts(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"mode": "a"}))
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"mode": "b"}))
    body = {"batchId": "b", "items": [one.write({"mode": "c"}), one.item("r2")]}
    headers = {**one.headers, "Prefer": "return=minimal"}
    _, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=headers)
    assert [each["status"] for each in answer["data"]["results"]] == ["conflict"]
    assert answer["data"]["successful"] == 1


async def test_an_instance_is_told_the_version_of_what_it_told_last_itself(cloud: Cloud) -> None:
    one, two = await Device.enroll(cloud, "pi-1"), await Device.enroll(cloud, "pi-2")
    for device in (one, two):
        await subscribe(cloud, device.name, "site", "A")

    async def pull(device: Device, since: str, **query: str) -> tuple[list[dict[str, Any]], str]:
        asked = "&".join(f"{name}={value}" for name, value in {"since": since, **query}.items())
        status, answer = await cloud.call("GET", f"/api/changes?{asked}", headers=device.headers)
        assert status == 200, answer
        return answer["data"]["changes"], answer["data"]["cursor"]

    _, begun = await pull(one, "")
    _, begun_two = await pull(two, "")
    await one.push(one.write({"percent": 40}))
    ((echo,), after) = await pull(one, begun, writer=one.writer)
    assert echo == {"type": "progress", "id": "r1", "version": {one.writer: 1}}
    for device, since, query in (
        (one, begun, {}),
        (one, begun, {"writer": two.writer}),
        (one, "", {"writer": one.writer}),
    ):
        ((whole,), _) = await pull(device, since, **query)
        assert whole["state"]["version"] == {one.writer: 1}
    ((whole,), _) = await pull(two, begun_two, writer=two.writer)
    two.state = record.checked_state(json.dumps(whole["state"]).encode())
    await two.push(two.write({"mode": "b"}))
    ((whole,), _) = await pull(one, after, writer=one.writer)
    assert whole["state"]["version"] == {one.writer: 1, two.writer: 1}


async def test_a_copy_that_stands_beside_another_write_is_told_all(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1", "assessment")
    await one.push(one.write({"grade": 3}))
    await cloud.services.records.write(KEY, "assessment", "r1", Put({"grade": 1}))
    begun = (await cloud.call("GET", "/api/changes?since=", headers=one.headers))[1]["data"]["cursor"]
    await one.push(one.write({"grade": 4}))
    asked = f"/api/changes?since={begun}&writer={one.writer}"
    (whole,) = (await cloud.call("GET", asked, headers=one.headers))[1]["data"]["changes"]
    assert len(whole["state"]["registers"][""]) == 2
