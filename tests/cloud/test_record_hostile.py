"""Records of devices that are broken, set back, or somebody else's: refused with a code, taking nothing along."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Cloud
from record_helpers import KEY, Device, item, shown, sql, state_of, subscribe

from cloud.rules import records as rules
from pisyncd.core import admitting, record
from pisyncd.core.edits import Delete, Patch, Put
from pisyncd.core.problems import Refusal
from pisyncd.core.record import State, Write


async def test_nobody_writes_in_the_name_of_another(cloud: Cloud) -> None:
    one, two = await Device.enroll(cloud, "pi-1"), await Device.enroll(cloud, "pi-2")
    await subscribe(cloud, "pi-2", "group", "4b")
    await one.push(one.write({"groupId": "4b", "percent": 10, "badges": ["a"]}))
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"mode": "b"}))
    known = await state_of(cloud)
    mine = two.writer
    two.writer, two.state = one.writer, State(version={one.writer: 7})
    (result,) = await two.push(two.write({"percent": 99}))
    assert result["code"] == "ownership-mismatch"
    for writer in (next(each for each in known.version if each.startswith("c-")), "u-0123456789abcdef", "c-ffffffff"):
        two.writer, two.state = writer, State(version={writer: 7})
        assert (await two.push(two.write({"percent": 99})))[0]["code"] == "ownership-mismatch"
    # what it claims to have seen of others, without having it, erases nothing
    two.writer = mine
    claims = dict.fromkeys(known.version, 2**53)
    two.state = State(version=dict(sorted(claims.items())), registers={"": known.registers[""]})
    (result,) = await two.push(two.write({"percent": 20}))
    assert result["status"] in ("synced", "conflict")
    now = await state_of(cloud)
    assert {writer: now.version[writer] for writer in known.version} == dict(known.version)
    assert await shown(cloud) == {"groupId": "4b", "percent": 20, "badges": ["a"], "mode": "b"}


BAD_STATES: list[Any] = [
    None,
    7,
    "state",
    [],
    {},
    {"version": {}, "registers": {}},
    {"version": {"d-0001": 0}, "registers": {}},
    {"version": {"d-0001": 2**60}, "registers": {}},
    {"version": {"d-0001": 1.5}, "registers": {}},
    {"version": {"x": 1}, "registers": {}},
    {"version": {"d-0001": 1}, "registers": {}},
    {"version": {"d-0001": 1}, "registers": {"": []}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 2, 0, 0, True]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, {"percent": 1}]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 9, True]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 2**60, 0, True]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, True], ["d-0001", 1, 0, 0, True]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, True]], "a b": [["d-0001", 1, 0, 0, 1]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, True]], "percent": [["d-0001", 1, 0, 0, "x"]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, True]], "n": [["d-0001", 1, 0, 0, 10**30]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, True]], "n": [["d-0001", 1, 0, 0, "\0"]]}},
    {"version": {f"d-{n:04x}": 1 for n in range(300)}, "registers": {"": [["d-0001", 1, 0, 0, True]]}},
    {"version": {"d-0001": 1}, "registers": {"": [["d-0001", 1, 0, 0, True]], "n": [["d-0001", 1, 0, 0, "x" * 40000]]}},
]


async def test_a_broken_state_fails_alone(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    items = [
        item("progress", {"type": "progress", "id": f"bad-{number}", "state": state})
        for number, state in enumerate(BAD_STATES)
    ]
    items += [
        item("progress", {"type": "horoscope", "id": "r2", "state": {}}),
        item("progress", {"type": "profile", "id": "r2", "state": BAD_STATES[-1]}),
        item("progress", {"type": "progress", "id": "no/id", "state": {}}),
        item("record", {"recordType": "horoscope", "recordId": "r2", "a": 1}),
        item("progress", {"progressId": "a b", "percent": 1}),
        item("progress", {"progressId": "r3", "percent": "much"}),
        item("progress", {"progressId": "r3", "percent": 1, "baseVersion": {"d-0001": "x"}}),
    ]
    results = await one.push(*items, one.write({"percent": 5}))
    assert {each["status"] for each in results[:-1]} == {"failed"}
    assert {each["code"] for each in results[:-1]} <= {"item-invalid", "record-type-unknown", "record-too-large"}
    assert results[-1]["status"] == "synced"
    assert (await cloud.services.records.page("progress", limit=50))[1] == 1


async def test_what_is_personal_is_kept_nowhere(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    refused = await one.push(
        one.write({"email": "amina@example.org"}),
        item("progress", {"progressId": "r2", "teacher": {"email": "amina@example.org"}}),
    )
    assert [each.get("code") for each in refused] == ["personal-data"] * 2
    for table, column in (("rejected_item", "body"), ("message", "body"), ("record", "state"), ("batch_log", "errors")):
        assert not await sql(cloud, f"SELECT 1 FROM {table} WHERE {column} LIKE '%example.org%'")
    taken = await one.push(item("profile", {"userId": "u9", "email": "amina@example.org"}))
    assert taken[0]["status"] == "synced"
    assert await shown(cloud, "profile", "u9") == {"userId": "u9", "email": "amina@example.org"}


async def test_a_number_given_twice_keeps_both_writes(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"mode": "a", "attempts": 1}))
    before = one.state
    await one.push(one.write({"mode": "b", "attempts": 3}))
    one.state = before
    (result,) = await one.push(one.write({"mode": "c", "badges": ["x"]}))
    assert (result["status"], result["resolution"]["strategy"]) == ("conflict", "last-write-wins")
    writers = set((await state_of(cloud)).version)
    assert len(writers) == 2
    assert all(writer.startswith(one.writer) for writer in writers)
    now = await shown(cloud)
    assert now == {"mode": now["mode"], "attempts": 3, "badges": ["x"]}
    owners = await sql(cloud, "SELECT name FROM record_writer WHERE dk > 0")
    assert [row["name"] for row in owners] == ["pi-1", "pi-1"]


async def test_a_database_that_was_set_back_is_told_to_come_by_another_name(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"mode": "a"}))
    before, seq = one.state, one.seq
    await one.push(one.write({"mode": "b"}))
    one.state, one.seq = before, seq
    again = [one.write({"mode": "c", "badges": ["x"]}), one.write({"mode": "d"})]
    for _ in range(2):
        results = await one.push(*again)
        assert [each["code"] for each in results] == ["seq-conflict", "seq-conflict"]
        assert all("resolution" not in each for each in results)
    assert await shown(cloud) == {"mode": "b"}
    # pisyncd.outbox.setback: the same once more, beside what the other copy wrote
    one.state = admitting.renamed(one.state, one.writer)
    (result,) = await one.push(one.item(stream="record-new", seq=1))
    assert result["status"] == "conflict"
    assert (await shown(cloud))["badges"] == ["x"]
    assert {write.value for write in (await state_of(cloud)).registers["mode"]} == {"b", "d"}


async def test_what_was_removed_for_good_does_not_come_back(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"percent": 5}))
    await sql(cloud, "UPDATE record SET state = '{}', fields = '{}', purged = 1, deleted = 1", write=True)
    for each in (one.write({"percent": 6}), item("progress", {"progressId": "r1", "percent": 7})):
        assert (await one.push(each))[0]["code"] == "record-purged"
    assert [row["body"] for row in await sql(cloud, "SELECT body FROM rejected_item")] == ["", ""]
    with pytest.raises(Refusal, match="removed for good"):
        await cloud.services.records.write(KEY, "progress", "r1", Put({"percent": 1}))


async def test_another_name_of_a_writer_is_its_devices_alone(cloud: Cloud) -> None:
    one, two = await Device.enroll(cloud, "pi-1"), await Device.enroll(cloud, "pi-2")
    await subscribe(cloud, "pi-2", "group", "4b")
    await one.push(one.write({"groupId": "4b", "percent": 10}))
    two.writer = f"{one.writer}~00000000"
    (result,) = await two.push(two.write({"percent": 99}))
    assert result["code"] == "ownership-mismatch"


async def test_whoever_makes_up_writers_shuts_nobody_out(cloud: Cloud) -> None:
    one, two = await Device.enroll(cloud, "pi-1"), await Device.enroll(cloud, "pi-2")
    await subscribe(cloud, "pi-2", "group", "4b")
    await one.push(one.write({"groupId": "4b", "percent": 10}))
    for count in range(8):
        made_up = {f"d-{count:04x}{number:04x}": 1 for number in range(32)}
        two.state = State(version=made_up, registers={"": (Write(next(iter(made_up)), 1, 1, 1, True),)})
        await two.push(two.item())
    assert len((await state_of(cloud)).version) <= 1 + rules.WRITERS_EACH_MAX
    assert (await one.push(one.write({"percent": 20})))[0]["status"] in ("synced", "conflict")
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"percent": 30}))
    assert await shown(cloud) == {"groupId": "4b", "percent": 30}


async def test_a_full_record_can_still_be_put_right_by_the_cloud(cloud: Cloud) -> None:
    most = record.WRITERS_MAX - rules.WRITERS_ROOM
    for number in range(most // rules.WRITERS_EACH_MAX + 2):
        one = await Device.enroll(cloud, f"pi-{number}")
        await subscribe(cloud, f"pi-{number}", "group", "4b")
        for part in range(8):
            made_up = {f"d-{number:04x}{part:04x}{each:04x}": 1 for each in range(8)}
            first = Write(next(iter(made_up)), 1, 1, 1, True)
            group = {} if number or part else {"groupId": (Write(first.writer, 1, 1, 1, "4b"),)}
            one.state = State(version=made_up, registers={"": (first,), **group})
            await one.push(one.item())
    assert len((await state_of(cloud)).version) == most
    (result,) = await one.push(item("progress", {"progressId": "r1", "percent": 1}))
    assert result["code"] == "record-too-large"
    await cloud.services.records.write(KEY, "progress", "r1", Delete())
