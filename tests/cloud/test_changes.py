"""The feed of changes: who gets what, in which order, and from which cursor on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Cloud, StartCloud
from feed_helpers import device, execute, subscribe, write

from cloud.flows import audit
from cloud.flows import feed as flow
from cloud.flows.recording import Author
from cloud.flows.records import Records
from cloud.rules import cursors
from cloud.rules.cursors import Cursor
from cloud.services import wall_ms
from cloud.store import feed
from pisyncd.core import record, recordwire
from pisyncd.core.edits import Put

A, B = ("site", "A"), ("site", "B")
TYPES = {"types": "progress"}


@pytest.fixture(params=["recent", "whole"])
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the feed."""
    if request.param == "whole":
        monkeypatch.setattr(feed, "RECENT_CHANGES", -1)
    return str(request.param)


async def test_a_device_gets_what_concerns_it_and_nothing_else(cloud: Cloud, plan: str) -> None:
    db = cloud.services.db
    at_a, at_b = await device(cloud, "pi-a", site=["A"]), await device(cloud, "pi-b", site=["B"])
    by_user = await device(cloud, "pi-u", user=["u1"], group=["4b"])
    await write(db, "a1", A)
    await write(db, "b1", B)
    await write(db, "u1", A, ("user", "u1"))
    await write(db, "g1", ("group", "4b"))
    await write(db, "own", ("device", "pi-b"))
    await write(db, "kind", ("group", "A"), ("user", "B"))
    assert await at_a.pull(**TYPES) == ["a1", "u1"]
    assert await at_b.pull(**TYPES) == ["b1", "own"]
    assert await by_user.pull(**TYPES) == ["u1", "g1"]
    for each in (at_a, at_b, by_user):
        assert await each.pull(**TYPES) == []
    await write(db, "a1", percent=7)
    assert await at_a.pull(**TYPES) == ["a1"]
    assert at_a.copy["a1"]["registers"]["percent"][0][4] == 7
    assert await at_b.pull(**TYPES) == []


async def test_the_answer_is_what_devices_read(cloud: Cloud) -> None:
    at_a = await device(cloud, "pi-a", site=["A"])
    await write(cloud.services.db, "a1", A)
    status, body = await at_a.ask(rules="")
    assert status == 200
    changes = msgspec.convert(body["data"], recordwire.Changes)
    assert record.checked_state(record.encode(changes.changes[0].state or record.EMPTY).encode())
    assert changes.rules == record.BUILT_IN
    assert changes.rules_etag == record.rules_etag(record.BUILT_IN)
    _, body = await at_a.ask(rules=changes.rules_etag)
    assert body["data"]["rules"] is None


async def test_what_moves_to_another_site_is_gone_here(cloud: Cloud, plan: str) -> None:
    db = cloud.services.db
    at_a, at_b = await device(cloud, "pi-a", site=["A"]), await device(cloud, "pi-b", site=["B"])
    await write(db, "r", A)
    assert (await at_a.pull(), await at_b.pull()) == (["r"], [])
    await write(db, "r", B, gone=[A])
    assert (await at_a.pull(), await at_b.pull()) == (["-r"], ["r"])
    assert (at_a.copy, list(at_b.copy)) == ({}, ["r"])
    await write(db, "r", A, gone=[B])
    assert (await at_a.pull(), await at_b.pull()) == (["r"], ["-r"])
    # Who begins is not told of what was gone before, but of what is deleted.
    await write(db, "p", A, purged=True, deleted=True)
    await write(db, "d", A, deleted=True)
    late = await device(cloud, "pi-late", site=["A", "B"])
    assert await late.pull() == ["r", "d"]
    assert await at_a.pull() == ["-p", "d"]


async def test_pages_follow_each_other_and_the_end_is_the_head(cloud: Cloud, plan: str) -> None:
    db = cloud.services.db
    at_a = await device(cloud, "pi-a", site=["A"])
    for number in range(7):
        await write(db, f"r{number}", A if number % 3 else B)
    await write(db, "gone", B, gone=[A])
    _, body = await at_a.ask(limit=2)
    assert [each["id"] for each in body["data"]["changes"]] == ["r1", "r2"]
    assert body["data"]["more"] is True
    # In the middle of the first run: what changes again comes again, what is gone since then is told.
    at_a.cursor = body["data"]["cursor"]
    await write(db, "r1", B, gone=[A])
    assert await at_a.pull(limit=2) == ["r4", "r5", "-r1"]
    head = await execute(db, "SELECT value FROM generation WHERE name = 'records'")
    assert at_a.cursor.endswith(f".{head}")
    for _ in range(3):
        await write(db, "b", B)
    assert await at_a.pull() == []
    assert at_a.cursor.endswith(f".{head + 3}")


async def test_a_page_has_a_size_and_never_less_than_one(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "PAGE_BYTES_MAX", 10)
    at_a = await device(cloud, "pi-a", site=["A"])
    for number in range(3):
        await write(cloud.services.db, f"r{number}", A)
    _, body = await at_a.ask()
    assert (len(body["data"]["changes"]), body["data"]["more"]) == (1, True)
    assert await at_a.pull() == ["r0", "r1", "r2"]


async def test_types_are_asked_for(cloud: Cloud) -> None:
    db = cloud.services.db
    at_a = await device(cloud, "pi-a", site=["A"])
    await write(db, "p", A)
    await write(db, "u", A, record_type="profile")
    assert await at_a.pull(types="profile") == ["u"]
    # A cursor holds for the types that it was made for: others were passed over.
    assert await at_a.pull(types="progress,profile") == ["410", "p", "u"]
    assert await at_a.pull(types="profile,progress") == []


async def test_large_pages_are_compressed_for_who_takes_it(cloud_lite: Cloud) -> None:
    at_a = await device(cloud_lite, "pi-a", site=["A"])
    for number in range(20):
        await write(cloud_lite.services.db, f"r{number}", A)
    url = cloud_lite.url + "/api/changes"
    async with cloud_lite.http.get(url, headers={**at_a.headers, "Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len((await answer.json())["data"]["changes"]) == 20
    async with cloud_lite.http.get(url, headers={**at_a.headers, "Accept-Encoding": "identity"}) as answer:
        assert "Content-Encoding" not in answer.headers
        assert len((await answer.json())["data"]["changes"]) == 20


# Cursors


async def test_other_subscriptions_begin_anew(cloud: Cloud) -> None:
    db = cloud.services.db
    pi = await device(cloud, "pi", site=["A"])
    await write(db, "a", A)
    await write(db, "b", B)
    assert await pi.pull() == ["a"]
    await subscribe(cloud, "pi", site=["B"])
    assert await pi.pull() == ["410", "b"]
    assert list(pi.copy) == ["b"]
    # The same again changes nothing.
    await subscribe(cloud, "pi", site=["B"])
    assert await pi.pull() == []


async def test_a_database_that_was_set_back(cloud: Cloud) -> None:
    db = cloud.services.db
    pi = await device(cloud, "pi", site=["A"])
    await write(db, "a", A)
    await write(db, "b", A)
    assert await pi.pull() == ["a", "b"]
    await execute(db, "UPDATE generation SET value = 1 WHERE name = 'records'")
    await execute(db, "DELETE FROM record WHERE change > 1")
    assert await pi.pull() == ["410", "a"]
    assert list(pi.copy) == ["a"]


async def test_a_cursor_of_another_cloud(start_cloud: StartCloud, tmp_path: Path) -> None:
    one, two = [await start_cloud(data=str(tmp_path / name)) for name in ("one", "two")]
    here, there = await device(one, "pi", site=["A"]), await device(two, "pi", site=["A"])
    await write(one.services.db, "a", A)
    await write(two.services.db, "b", A)
    await here.pull()
    there.cursor = here.cursor
    assert await there.pull() == ["410", "b"]


async def test_tombstones_that_were_dropped(cloud: Cloud) -> None:
    db = cloud.services.db
    late, early = await device(cloud, "pi-late", site=["A"]), await device(cloud, "pi-early", site=["A"])
    for number in range(5):
        await write(db, f"r{number}", A)
    _, body = await late.ask(limit=4)
    late.cursor = body["data"]["cursor"]
    await early.pull()
    await execute(db, "UPDATE generation SET value = 5 WHERE name = 'records-forgotten'")
    # What was forgotten before a first run began is not missed by it; what was forgotten since then is.
    assert await late.pull() == ["r4"]
    assert await early.pull() == []
    await write(db, "r6", A)
    await execute(db, "UPDATE generation SET value = 6 WHERE name = 'records-forgotten'")
    assert (await early.pull())[0] == "410"
    begun = await device(cloud, "pi-begun", site=["A"])
    assert len(await begun.pull(limit=2)) == 6


async def test_a_tombstone_that_is_dropped_while_the_feed_is_read(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = cloud.services.db
    pi = await device(cloud, "pi", site=["A"])
    await write(db, "a", A)
    await write(db, "b", A)
    assert await pi.pull() == ["a", "b"]
    last = await write(db, "a", deleted=True)
    await write(db, "b")
    read = feed.part

    async def dropped_before(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(feed, "part", read)
        await execute(db, "UPDATE generation SET value = ? WHERE name = 'records-forgotten'", last)
        await execute(db, "DELETE FROM record WHERE id = 'a'")
        return await read(*arguments, **more)

    monkeypatch.setattr(feed, "part", dropped_before)
    assert await pi.pull() == ["410", "b"]
    assert list(pi.copy) == ["b"]


@pytest.mark.parametrize(
    "text", ["x", "1.2", "0" * 12 + ".1", "0" * 12 + ".-1", "\x00", "9" * 5000, "k3x9.1742", "0" * 12 + ".٣"]
)
async def test_what_is_no_cursor_begins_anew(cloud_lite: Cloud, text: str) -> None:
    pi = await device(cloud_lite, "pi", site=["A"])
    status, body = await pi.ask(since=text, types="profile,progress")
    assert (status, body["code"], body["retryable"]) == (410, "cursor-expired", False)
    assert body["snapshot"] == "/api/changes?types=profile,progress"
    assert body["hint"]


def test_cursors_as_they_are_written() -> None:
    mine = cursors.epoch(1, "pi", [A], None)
    assert cursors.epoch(1, "pi", [A], ["x"]) != mine != cursors.epoch(1, "pi", [A, B], None)
    assert cursors.write(mine, Cursor(seq=5, began=9)) == f"{mine}.5.9"
    assert cursors.write(mine, Cursor(seq=9, began=9)) == f"{mine}.9"
    assert cursors.read(f"{mine}.5.9", mine, head=9, forgotten=9) == Cursor(seq=5, began=9)
    assert cursors.read(f"{mine}.5.10", mine, head=9, forgotten=0) is None
    assert cursors.read("", mine, head=9, forgotten=9) == Cursor(seq=0, began=9)


@pytest.mark.parametrize(
    "query",
    ["types=unknown", "types=progress,", "types=%00", "wait=901", "wait=-1", "wait=1.5", "limit=0", "limit=501"],
)
async def test_what_is_refused(cloud_lite: Cloud, query: str) -> None:
    pi = await device(cloud_lite, "pi")
    status, body = await cloud_lite.call("GET", f"/api/changes?{query}", headers=pi.headers)
    assert (status, body["code"]) == (422, "validation")


async def test_only_devices_ask(cloud_lite: Cloud) -> None:
    assert (await cloud_lite.call("GET", "/api/changes"))[0] == 401
    status, body = await cloud_lite.call("GET", "/api/changes", headers=await cloud_lite.key("admin"))
    assert (status, body["code"]) == (403, "role-missing")


async def test_a_restored_database_is_another_one_for_devices_and_writes_under_another_name(cloud: Cloud) -> None:
    db, records = cloud.services.db, cloud.services.records
    pi = await device(cloud, "pi", site=["A"])
    author, fields = Author("key:desk"), {"siteId": "A", "percent": 1}
    before = (await records.write(author, "progress", "p", Put(fields))).state.version
    assert await pi.pull() == ["p"]
    await flow.restored(db, actor="cli:root", now_ms=wall_ms())
    again = Records(db, wall_ms)
    await again.prepare()
    after = (await again.write(author, "progress", "p", Put({**fields, "percent": 2}))).state.version
    assert len(before) == 1
    assert set(before) < set(after)
    assert len(after) == 2
    assert await pi.pull() == ["410", "p"]
    async with db.reading() as tx:
        assert [row["action"] for row in await audit.entries(tx, limit=20)].count("cloud.restored") == 1
