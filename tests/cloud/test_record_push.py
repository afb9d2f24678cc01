"""Records in batches, as devices push them and as applications tell of them: what joins, conflicts, is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from conftest import Cloud, StartCloud

from cloud.flows.records import Author, Patch, Put
from cloud.services import wall_ms
from pisyncd.core import merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.problems import Refusal
from pisyncd.core.record import EMPTY, State

KEY = Author("key:desk")
SECRET = "a-secret-of-at-least-thirty-two-bytes"


class Device:
    """A device as the cloud sees one: its own copy of one record, which it pushes write by write."""

    numbers = itertools.count(1)

    def __init__(self, cloud: Cloud, headers: dict[str, str], name: str, kind: str = "progress") -> None:
        self.cloud, self.headers, self.name, self.kind = cloud, headers, name, kind
        self.writer = "d-" + hashlib.sha256(name.encode()).hexdigest()[:16]
        self.state = EMPTY
        self.seq = 0

    @classmethod
    async def enroll(cls, cloud: Cloud, name: str, kind: str = "progress") -> Device:
        return cls(cloud, await cloud.enroll(name), name, kind)

    def write(
        self, fields: dict[str, Any], *, at_ms: int | None = None, trusted: bool = True, record_id: str = "r1"
    ) -> dict[str, Any]:
        """An item with one more write of some fields."""
        pen = Pen.of_device(self.writer, wall_ms() if at_ms is None else at_ms, trusted=trusted)
        self.state = merge.patch(self.state, self.cloud.services.records.rules[self.kind], fields, pen)
        return self.item(record_id)

    def item(self, record_id: str = "r1", **changes: Any) -> dict[str, Any]:
        self.seq += 1
        data = {"type": self.kind, "id": record_id, "base": {}, "state": json.loads(record.canonical(self.state))}
        return item(self.kind, data, **{"stream": f"record-{self.writer[-4:]}", "seq": self.seq, **changes})

    async def push(self, *items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        return await push(self.cloud, self.headers, *items, **more)


def item(kind: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    item_type = kind if kind in record.BUILT_IN else "record"
    return {"itemType": item_type, "itemData": data, "id": f"i-{next(Device.numbers)}", **changes}


async def push(cloud: Cloud, headers: dict[str, str], *items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    body = {"batchId": f"b-{next(Device.numbers)}", "items": list(items), **more}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=headers)
    assert status == 200, answer
    data = answer["data"]
    assert data["processed"] == len(items) == data["successful"] + data["failed"] + data["conflicts"]
    return data["results"]  # type: ignore[no-any-return]


def user(sub: str = "") -> dict[str, str]:
    """The headers of a learner."""
    claims = {"sub": sub or str(uuid.uuid4()), "exp": 4_000_000_000}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


async def sql(cloud: Cloud, statement: str, *, write: bool = False) -> list[dict[str, Any]]:
    """Rows of a statement of the test's own."""
    db = cloud.services.db
    async with db.transaction() if write else db.reading() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        rows = await (connection.fetch if db.dialect == "postgres" else connection.execute_fetchall)(statement)
        return [dict(row) for row in rows]


async def subscribe(cloud: Cloud, device_id: str, kind: str, value: str) -> None:
    """Entitles a device."""
    dk = (await sql(cloud, f"SELECT dk FROM device WHERE device_id = '{device_id}'"))[0]["dk"]
    await sql(cloud, f"INSERT INTO subscription VALUES ({dk}, '{kind}', '{value}', 0)", write=True)


async def shown(cloud: Cloud, kind: str = "progress", record_id: str = "r1") -> dict[str, Any]:
    return dict((await cloud.services.records.read(kind, record_id)).view.fields)


async def state_of(cloud: Cloud, kind: str = "progress", record_id: str = "r1") -> State:
    return (await cloud.services.records.read(kind, record_id, deleted=True)).kept.state


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
    one.state = merge.renamed(one.state, one.writer)
    (result,) = await one.push(one.item(stream="record-new", seq=1))
    assert result["status"] == "conflict"
    assert (await shown(cloud))["badges"] == ["x"]
    assert {write.value for write in (await state_of(cloud)).registers["mode"]} == {"b", "d"}


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


async def test_what_was_removed_for_good_does_not_come_back(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"percent": 5}))
    await sql(cloud, "UPDATE record SET state = '{}', fields = '{}', purged = 1, deleted = 1", write=True)
    for each in (one.write({"percent": 6}), item("progress", {"progressId": "r1", "percent": 7})):
        assert (await one.push(each))[0]["code"] == "record-purged"
    with pytest.raises(Refusal, match="removed for good"):
        await cloud.services.records.write(KEY, "progress", "r1", Put({"percent": 1}))


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
