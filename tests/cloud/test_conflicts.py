"""Conflict review: what was decided, how a person decides it anew, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from conftest import Cloud
from feed_helpers import Device, device, until

from cloud.flows import audit
from cloud.flows.recording import Recording
from cloud.flows.records import Author
from cloud.rules import resolving
from cloud.rules.resolving import Become, Pick
from cloud.services import wall_ms
from pisyncd.core import deciding, merge, record
from pisyncd.core.edits import Put
from pisyncd.core.merge import Pen
from pisyncd.core.problems import Refusal
from pisyncd.core.record import BUILT_IN, EMPTY, State, TypeRule

AT_MS = 1_772_438_400_000  # 2026-03-02T08:00
ONE = Pen(writer="d-0001", at_ms=AT_MS, clock=record.JUDGED_TRUSTED)
TWO = Pen(writer="d-0002", at_ms=AT_MS + 60_000, clock=record.JUDGED_TRUSTED)
THREE = Pen(writer="d-0003", at_ms=AT_MS + 30_000, clock=record.JUDGED_TRUSTED)
PROGRESS = BUILT_IN["progress"]
MANUAL = TypeRule(strategy="manual")


@pytest.fixture
async def pi(cloud: Cloud) -> Device:
    """A device whose site all records of these tests concern; and a type that people decide."""
    cloud.services.records.rules["attendance"] = MANUAL
    return await device(cloud, "pi-1", site=["A"])


def fields(state: State, rule: TypeRule, pen: Pen, **values: Any) -> State:
    return merge.put(state, rule, values, pen)


async def tell(pi: Device, record_type: str, record_id: str, *states: State) -> list[str]:
    """What devices tell arrives; gives the ids of the conflicts that it brought up."""
    services, key = pi.cloud.services, (record_type, record_id)
    async with services.db.transaction() as tx:
        dk = await tx.value("device_by_id", device_id=pi.device_id)
        work = await Recording.begin(tx, services.records.rules, [key], wall_ms(), dks={dk})
        author = Author(actor=f"device:{pi.device_id}", dk=dk)
        work.claim(["d-0001"], author, "pibox-1")
        entry, state = work.entry(key), EMPTY
        for each in (entry.state, *states):
            state = merge.join(state, each)
        news = work.change(entry, state, author)
        await work.save()
    services.records.changed()
    return [each.id for each in news]


async def get(cloud: Cloud, path: str) -> Any:
    status, body = await cloud.call("GET", path, headers=await cloud.key("viewer"))
    assert status == 200, body
    return body


async def resolve(cloud: Cloud, conflict_id: str, body: Any, role: str = "operator") -> tuple[int, Any]:
    return await cloud.call("POST", f"/api/conflicts/{conflict_id}/resolve", json=body, headers=await cloud.key(role))


async def shown(cloud: Cloud, record_type: str, record_id: str) -> dict[str, Any]:
    return dict((await cloud.services.records.read(record_type, record_id)).view.fields)


async def test_an_automatic_decision_is_told_and_overruled(cloud: Cloud, pi: Device) -> None:
    base = fields(EMPTY, PROGRESS, ONE, percent=10)
    (found,) = await tell(
        pi, "progress", "p1", fields(base, PROGRESS, ONE, percent=80), fields(base, PROGRESS, TWO, percent=85)
    )
    told = (await get(cloud, f"/api/conflicts/{found}"))["data"]
    assert (told["state"], told["rule"], told["reason"], told["device_id"]) == ("automatic", "max", "greatest", "pi-1")
    assert "85" in told["explanation"] and "80 of pibox-1" in told["explanation"]
    assert (told["winner"]["value"], told["winner"]["at"]) == (85, "2026-03-02T08:01:00.000Z")
    assert (told["losers"][0]["name"], told["losers"][0]["value"], told["losers"][0]["deleted"]) == (
        "pibox-1",
        80,
        False,
    )
    assert (told["resolution"], told["resolved_by"]) == (None, None)
    await pi.pull()
    wait = asyncio.create_task(pi.ask(wait=900))
    await until(lambda: cloud.services.feed.held == 1)
    status, body = await resolve(cloud, found, {"pick": "loser", "index": 0})
    assert (status, body["data"]["state"], body["data"]["resolution"]["pick"]) == (200, "resolved", "loser")
    assert body["data"]["resolved_by"].startswith("key:k-")
    # An ordinary version, which travels; nothing stands beside it any more.
    state = record.checked_state(json.dumps((await wait)[1]["data"]["changes"][0]["state"]).encode())
    assert merge.view(state, PROGRESS).fields == {"percent": 80}
    assert deciding.decisions("progress", "p1", state, PROGRESS) == []
    assert merge.seen(state.version, base.version)
    status, body = await resolve(cloud, found, {"pick": "winner"})
    assert (status, body["code"]) == (409, "conflict-resolved")
    async with cloud.services.db.reading() as tx:
        entries = [
            each
            for each in await audit.entries(tx, limit=9)
            if each["action"] in ("conflict.resolved", "record.updated")
        ]
    assert len(entries) == 2
    assert len({entry["before_hash"] for entry in entries}) == len({entry["after_hash"] for entry in entries}) == 1


@pytest.mark.parametrize(
    ("choice", "result"),
    [
        ({"pick": "winner"}, {"here": 2}),
        ({"pick": "loser", "index": 0}, {"here": 1}),
        ({"pick": "loser", "index": 1}, {"here": 3, "late": True}),
        ({"fields": {"here": 4}}, {"here": 4}),
        ({"fields": {}}, {}),
    ],
)
async def test_an_open_one_is_decided(cloud: Cloud, pi: Device, choice: Any, result: Any) -> None:
    (found,) = await tell(
        pi,
        "attendance",
        "t1",
        fields(EMPTY, MANUAL, ONE, here=1),
        fields(EMPTY, MANUAL, TWO, here=2),
        fields(EMPTY, MANUAL, THREE, here=3, late=True),
    )
    (listed,) = (await get(cloud, "/api/conflicts?state=open"))["data"]
    assert (listed["id"], listed["reason"], listed["field"]) == (found, "undecided", "")
    assert (await cloud.services.records.read("attendance", "t1")).view.conflicted
    status, body = await resolve(cloud, found, choice)
    assert status == 200, body
    assert await shown(cloud, "attendance", "t1") == result
    assert not (await cloud.services.records.read("attendance", "t1")).view.conflicted
    assert (await get(cloud, "/api/conflicts?state=open"))["data"] == []
    assert (await get(cloud, "/api/conflicts?state=resolved"))["pagination"]["total"] == 1


@pytest.mark.parametrize("late", [ONE, TWO])
async def test_a_deletion_is_picked(cloud: Cloud, pi: Device, late: Pen) -> None:
    """Whether it is what is shown until then, or the other side."""
    other = TWO if late is ONE else ONE
    base = fields(EMPTY, MANUAL, ONE, here=1)
    (found,) = await tell(pi, "attendance", "t1", merge.delete(base, MANUAL, late), fields(base, MANUAL, other, here=2))
    side = {"pick": "winner"} if late is TWO else {"pick": "loser"}
    told = (await get(cloud, f"/api/conflicts/{found}"))["data"]
    assert (told["winner"] if late is TWO else told["losers"][0])["deleted"] is True
    assert (await resolve(cloud, found, side))[0] == 200
    kept = (await cloud.services.records.read("attendance", "t1", deleted=True)).kept
    assert kept.deleted
    assert deciding.decisions("attendance", "t1", kept.state, MANUAL) == []


async def test_what_a_deletion_hid_comes_back(cloud: Cloud, pi: Device) -> None:
    base = fields(EMPTY, PROGRESS, ONE, percent=10, note=1)
    (found,) = await tell(
        pi, "progress", "p1", merge.delete(base, PROGRESS, ONE), fields(base, PROGRESS, TWO, percent=90, note=1)
    )
    told = (await get(cloud, f"/api/conflicts/{found}"))["data"]
    assert (told["reason"], told["field"], told["winner"]["deleted"]) == ("deleted", "percent", True)
    assert (await resolve(cloud, found, {"pick": "loser"}))[0] == 200
    assert await shown(cloud, "progress", "p1") == {"percent": 90}


async def test_a_deletion_that_is_confirmed_stays(cloud: Cloud, pi: Device) -> None:
    base = fields(EMPTY, PROGRESS, ONE, percent=10)
    (found,) = await tell(
        pi, "progress", "p1", merge.delete(base, PROGRESS, ONE), fields(base, PROGRESS, TWO, percent=90)
    )
    status, body = await resolve(cloud, found, {"pick": "winner"})
    assert (status, body["data"]["state"]) == (200, "resolved")
    with pytest.raises(Refusal) as caught:
        await shown(cloud, "progress", "p1")
    assert caught.value.code == "record-unknown"


async def test_a_later_write_that_has_seen_all_settles_it(cloud: Cloud, pi: Device) -> None:
    (found,) = await tell(
        pi, "attendance", "t1", fields(EMPTY, MANUAL, ONE, here=1), fields(EMPTY, MANUAL, TWO, here=2)
    )
    await cloud.services.records.write(Author(actor="key:amina"), "attendance", "t1", Put({"here": 3}))
    told = (await get(cloud, f"/api/conflicts/{found}"))["data"]
    assert (told["state"], told["resolved_by"], told["resolution"]["by"]) == ("resolved", "key:amina", "write")
    assert (await resolve(cloud, found, {"pick": "winner"}))[0] == 409


async def test_only_one_of_two_decides(cloud: Cloud, pi: Device) -> None:
    (found,) = await tell(
        pi, "attendance", "t1", fields(EMPTY, MANUAL, ONE, here=1), fields(EMPTY, MANUAL, TWO, here=2)
    )
    answers = await asyncio.gather(*(resolve(cloud, found, {"fields": {"here": n}}) for n in range(5, 9)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409]
    (won,) = [body["data"]["resolution"]["fields"] for status, body in answers if status == 200]
    assert await shown(cloud, "attendance", "t1") == won


async def test_lists_go_by_page_and_by_cursor(cloud: Cloud, pi: Device) -> None:
    other = await device(cloud, "pi-2")
    ids = []
    for number in range(5):
        base = fields(EMPTY, PROGRESS, ONE, percent=10)
        one, two = fields(base, PROGRESS, ONE, percent=20), fields(base, PROGRESS, TWO, percent=30)
        ids += await tell(other if number == 4 else pi, "progress", f"p{number}", one, two)
    ids += await tell(pi, "attendance", "t", fields(EMPTY, MANUAL, ONE, a=1), fields(EMPTY, MANUAL, TWO, a=2))

    async def listed(query: str) -> list[int]:
        return [ids.index(each["id"]) for each in (await get(cloud, f"/api/conflicts?{query}"))["data"]]

    assert await listed("") == [5, 4, 3, 2, 1, 0]
    assert await listed("limit=2&page=2") == [3, 2]
    first = await get(cloud, "/api/conflicts?limit=4")
    assert (first["pagination"]["total"], first["pagination"]["total_pages"]) == (6, 2)
    assert await listed(f"limit=4&cursor={first['pagination']['next_cursor']}") == [1, 0]
    assert await listed("state=open") == [5]
    assert await listed("state=automatic&type=progress&record_id=p3") == [3]
    assert await listed("device_id=pi-2") == [4]
    assert await listed("type=profile") == []
    assert await listed("state=resolved") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("state=closed", 422),
        ("type=%00", 422),
        ("record_id=%00", 422),
        ("record_id=a%0a", 422),
        ("device_id=nobody", 404),
        ("device_id=%00", 404),
        ("cursor=x", 422),
        ("limit=0", 422),
    ],
)
async def test_lists_that_are_refused(cloud: Cloud, query: str, status: int) -> None:
    found, problem = await cloud.call("GET", f"/api/conflicts?{query}", headers=await cloud.key("viewer"))
    assert (found, bool(problem["code"])) == (status, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"{}", 422),
        (b'{"pick": "winner", "fields": {}}', 422),
        (b'{"pick": "both"}', 422),
        (b'{"pick": "loser", "index": 1}', 422),
        (b'{"pick": "loser", "index": -1}', 422),
        (b'{"pick": "winner", "index": 0}', 422),
        (b'{"fields": {}, "index": 0}', 422),
        (b'{"fields": []}', 422),
        (b'{"fields": {"1": 1}}', 422),
        (b'{"fields": {"contact": "amina@example.org"}}', 422),
        (b'{"fields": {"a": "' + b"x" * 40_000 + b'"}}', 413),
        (b'{"fields": ' + b'{"a":' * 3000, 400),
        (b'{"fields": {"a": ' + b"[" * 20 + b"]" * 20 + b"}}", 422),
        (b'{"unknown": 1}', 422),
    ],
)
async def test_choices_that_are_refused(cloud_lite: Cloud, body: bytes, status: int) -> None:
    cloud = cloud_lite
    cloud.services.records.rules["attendance"] = MANUAL
    pi = await device(cloud, "pi-1", site=["A"])
    (found,) = await tell(
        pi, "attendance", "t1", fields(EMPTY, MANUAL, ONE, here=1), fields(EMPTY, MANUAL, TWO, here=2)
    )
    path, headers = f"/api/conflicts/{found}/resolve", await cloud.key("operator")
    answer, problem = await cloud.call("POST", path, data=body, headers=headers)
    assert (answer, bool(problem["code"])) == (status, True), problem
    assert (await get(cloud, f"/api/conflicts/{found}"))["data"]["state"] == "open"


@pytest.mark.parametrize(
    "value",
    ['"\\u0000"', '"\\ud800"', "1e400", "-0.0", "1e-400", "9" * 400, "18446744073709551615", '{"": null}', "[[[]]]"],
)
async def test_odd_values_are_kept_or_refused(cloud: Cloud, pi: Device, value: str) -> None:
    (found,) = await tell(
        pi, "attendance", "t1", fields(EMPTY, MANUAL, ONE, here=1), fields(EMPTY, MANUAL, TWO, here=2)
    )
    path, headers = f"/api/conflicts/{found}/resolve", await cloud.key("operator")
    body = f'{{"fields": {{"note": {value}, "note2": {value}}}}}'
    status, answer = await cloud.call("POST", path, data=body.encode(), headers=headers)
    assert status in (200, 400, 422), answer
    told = (await get(cloud, f"/api/conflicts/{found}"))["data"]
    assert told["state"] == ("resolved" if status == 200 else "open")
    assert (await pi.ask())[0] == 200


async def test_who_may(cloud_lite: Cloud) -> None:
    pi = await device(cloud_lite, "pi-1", site=["A"])
    base = fields(EMPTY, PROGRESS, ONE, percent=10)
    one, two = fields(base, PROGRESS, ONE, percent=20), fields(base, PROGRESS, TWO, percent=30)
    (found,) = await tell(pi, "progress", "p1", one, two)
    assert (await resolve(cloud_lite, found, {"pick": "winner"}, role="viewer"))[0] == 403
    for path in ("/api/conflicts", f"/api/conflicts/{found}"):
        assert (await cloud_lite.call("GET", path))[0] == 401
        assert (await cloud_lite.call("GET", path, headers=pi.headers))[0] == 403
    for unknown in ("cf_" + "0" * 24, "x", "%00", "..%2f"):
        assert (await resolve(cloud_lite, unknown, {"pick": "winner"}))[1]["code"] == "conflict-unknown"


def test_what_a_pick_means() -> None:
    """Where it is more than the value of a side."""
    base = fields(EMPTY, PROGRESS, ONE, badges=["a"], percent=1)
    one = merge.patch(base, PROGRESS, {"badges": None}, ONE)
    two = merge.patch(base, PROGRESS, {"badges": ["a", "b"]}, TWO)
    three = merge.patch(base, PROGRESS, {"badges": ["a", "c"]}, THREE)
    joined = merge.join(merge.join(one, two), three)
    (union,) = deciding.decisions("progress", "p", joined, PROGRESS)
    assert resolving.picked(union, PROGRESS, joined, Pick(side="winner")) == Become(fields={"badges": ["a", "b", "c"]})
    assert resolving.picked(union, PROGRESS, joined, Pick(side="loser")) == Become(fields={"badges": None})
    # The record itself, deleted here and made anew there.
    gone = merge.delete(base, PROGRESS, ONE)
    anew = merge.put(merge.delete(base, PROGRESS, TWO), PROGRESS, {"percent": 5}, TWO)
    both = merge.join(gone, anew)
    found = {each.field: each for each in deciding.decisions("progress", "p", both, PROGRESS)}
    assert resolving.picked(found[""], PROGRESS, both, Pick(side="loser")) == Become(fields={"percent": 5}, whole=True)
    assert resolving.picked(found[""], PROGRESS, both, Pick(side="winner")) == Become(fields=None, whole=True)
    assert resolving.picked(found["percent"], PROGRESS, both, Pick(side="winner")) == Become(fields=None)
