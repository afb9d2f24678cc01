"""Learning events in great numbers, without room, and with a damaged outbox: what is taken, shed, kept and told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.activities.clerk import Clerk
from pisyncd.outbox.intake import KEEP_TAKEN

from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, TRACK, App, event, new_id, waiting
from .outbox_rig import FakeClock


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def app(rig: Rig) -> AsyncIterator[App]:
    async with App(rig) as made:
        yield made


BLUR = {"event_type": "PAUSE_BLUR", "payload": {"state": "blur"}}
ANSWER = {"event_type": "ANSWER_SELECTED", "payload": {"position": 1, "selected_index": 0}}


async def test_a_thousand_at_once_share_a_few_commits_and_none_is_lost(rig: Rig, app: App) -> None:
    commits = 0

    def trace(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    await rig.outbox.db._writer.set_trace_callback(trace)
    events = [event(id=new_id(), seq=number) for number in range(1000)]
    answers = await asyncio.gather(*(app.post("/v1/telemetry/events", {"events": [each]}, **NAMED) for each in events))
    assert all(answer == (200, {"accepted": 1, "rejected": 0, "rejected_reasons_sample": []}) for answer in answers)
    found = await waiting(rig)
    assert sorted(str(item.id) for item in found) == sorted(each["id"] for each in events)
    assert [item.seq for item in found] == list(range(1, 1001))
    assert commits < 500


async def test_one_that_fails_takes_no_other_of_its_group_with_it(rig: Rig) -> None:
    db = rig.outbox.db

    def broken(connection: Any) -> None:
        connection.execute("INSERT INTO cursors (name, value) VALUES ('half', 'done')")
        raise RuntimeError("broken")

    async def good(name: str) -> None:
        await db.write(lambda connection: connection.execute("INSERT INTO cursors VALUES (?, '1')", (name,)).rowcount)

    results = await asyncio.gather(good("a"), db.write(broken), good("b"), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RuntimeError, type(None)]
    assert [await rig.outbox.memory.get(name) for name in ("a", "b", "half")] == ["1", "1", None]


async def test_a_caller_that_goes_away_takes_no_other_with_it(rig: Rig) -> None:
    db = rig.outbox.db
    async with db.transaction():
        tasks = [asyncio.create_task(db.write(lambda _: 7)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 2
    assert [type(result) for result in results].count(int) == 3
    assert not db._group._queue


async def test_urgent_ones_go_first_and_losses_before_all(rig: Rig, app: App) -> None:
    for priority in (1, 10, 5):
        body = {"eventType": "x", "metadata": {"priority": priority, "eventId": f"p{priority}"}}
        await app.post("/api/telemetry/track", body)
    async with rig.outbox.db.transaction() as tx:
        await rig.outbox.ledger.record(tx, "file-refused", "test")
    assert [item.id for item in await waiting(rig)][1:] == ["p10", "p5", "p1"]
    assert (await waiting(rig))[0].itemType == "loss"


async def test_without_room_behaviour_is_shed_answers_never_and_the_ledger_says_so(tmp_path: Path) -> None:
    clock = FakeClock()
    async with gateway(tmp_path, clock=clock) as rig, App(rig) as app:  # type: ignore[arg-type]
        clerk = Clerk(rig.outbox)
        rig.outbox.intake.has_room = lambda: False
        body = {"events": [event(**BLUR), event(**ANSWER), event()]}
        for _ in range(5):
            answer = (await app.post("/v1/telemetry/events", body, **NAMED))[1]
            assert (answer["accepted"], answer["rejected"]) == (1, 2)
            assert {reason["code"] for reason in answer["rejected_reasons_sample"]} == {"shed"}
        low = {"eventType": "hovered", "metadata": {"priority": 3}}
        status, problem = await app.post("/api/telemetry/track", low)
        assert (status, problem["code"], problem["retryable"]) == (507, "shed", False)
        assert (await app.post("/api/telemetry/track", {"eventType": "done"}))[0] == 200
        items = [{"itemType": "event", "id": "r", "itemData": low}, {"itemType": "progress", "id": "p", "itemData": {}}]
        outcome = (await app.post("/api/telemetry/batch", {"batchId": "b", "items": items}))[1]["data"]
        assert [each.get("code") for each in outcome["results"]] == ["shed", None]
        assert (await app.ask("GET", "/status"))[1]["intake"]["shedding"] == "disk-floor"
        assert await clerk.step() > 60
        (entry,) = await rig.outbox.ledger.newest(5)
        assert (entry["what"], entry["reason"], entry["count"]) == ("events-shed", "disk-floor", 12)
        await app.post("/api/telemetry/track", low)
        assert await clerk.step() == pytest.approx(60), "at most one entry a minute"
        assert await rig.outbox.ledger.count() == 1
    # A kill leaves what was not told yet where it is counted.
    async with gateway(tmp_path, clock=clock) as rig, App(rig) as app:  # type: ignore[arg-type]
        await Clerk(rig.outbox).step()
        assert [entry["count"] for entry in await rig.outbox.ledger.newest(5)] == [1, 12]
        rig.outbox.intake.has_room = lambda: True
        assert (await app.post("/api/telemetry/track", low))[0] == 200
        assert (await app.ask("GET", "/status"))[1]["intake"]["shedding"] == ""


async def test_a_full_queue_sheds_behaviour_and_counts_no_answers(rig: Rig, app: App) -> None:
    rig.outbox.messages.queue_max = 3
    for _ in range(5):
        assert (await app.post("/v1/telemetry/events", {"events": [event(**ANSWER)]}, **NAMED))[1]["accepted"] == 1
    taken = [(await app.post("/v1/telemetry/events", {"events": [event()]}, **NAMED))[1]["accepted"] for _ in range(5)]
    assert taken == [1, 1, 1, 0, 0]
    found = await waiting(rig)
    low = [item for item in found if str(item.stream).startswith("learn3-")]
    await rig.outbox.messages.accept_through({str(low[0].stream): 1})
    assert (await app.post("/v1/telemetry/events", {"events": [event()]}, **NAMED))[1]["accepted"] == 1
    await rig.outbox.messages.tell_shed(rig.outbox.ledger)
    (entry,) = await rig.outbox.ledger.newest(5)
    assert (entry["what"], entry["reason"], entry["count"]) == ("events-shed", "queue-full", 2)


async def test_a_disk_without_any_room_is_trouble_that_passes(rig: Rig, app: App) -> None:
    (pages,) = next(iter(await rig.outbox.db.reader.execute_fetchall("PRAGMA page_count")))
    await rig.outbox.db._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
    answered: list[str] = []
    for number in range(200):
        body = {"eventType": "x", "eventData": {"pad": ["y" * 150] * 20}, "metadata": {"eventId": f"e{number}"}}
        status, answer, headers = await app.ask("POST", "/api/telemetry/track", body)
        if status != 200:
            break
        answered.append(answer["data"]["eventId"])
    assert (status, answer["code"], answer["retryable"]) == (503, "storage-full", True)
    assert int(headers["Retry-After"]) >= 1
    await rig.outbox.db._writer.execute("PRAGMA max_page_count = 100000")
    assert (await app.post("/api/telemetry/track", body))[0] == 200
    assert [item.id for item in await waiting(rig)] == [*answered, body["metadata"]["eventId"]]  # type: ignore[index]


async def test_a_long_queue_is_not_counted_one_by_one(rig: Rig) -> None:
    for query in ("count_reports", "by_stream", "streams_owing", "batch"):
        sql = (Path(__file__).parents[2] / "pisyncd/outbox/messages.sql").read_text()
        text = next(part for part in sql.split("-- name: ") if part.startswith(query)).partition("\n")[2].rstrip("; \n")
        named = {"sheddable_max": 3, "stream": "x", "after": 0, "most": 10}
        rows = await rig.outbox.db.reader.execute_fetchall(f"EXPLAIN QUERY PLAN {text}", named)
        plan = [row[3] for row in rows]
        assert not [line for line in plan if line.startswith(("SCAN m", "SCAN f", "USE TEMP"))], (query, plan)


async def test_ids_are_forgotten_when_there_are_too_many(rig: Rig, app: App) -> None:
    await app.post("/api/telemetry/track", TRACK)
    fill = """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120000)
        INSERT INTO taken (key, digest, wall_ms) SELECT randomblob(16), randomblob(16), 1 FROM n"""
    await rig.outbox.db.write(lambda db: db.execute(fill).rowcount)
    await rig.outbox.intake.trim()
    rows = await rig.outbox.db.reader.execute_fetchall("SELECT count(*) FROM taken")
    assert next(iter(rows))[0] == KEEP_TAKEN
    # Still waiting, so still known, though only by the message itself.
    status, body = await app.post("/api/telemetry/track", TRACK)
    assert (status, body["data"]["eventId"]) == (200, "evt_1")
    assert (await app.post("/api/telemetry/track", {**TRACK, "eventData": {}}))[0] == 200
    assert len(await waiting(rig)) == 2


async def test_a_damaged_outbox_ends_the_daemon_which_repairs_it(rig: Rig, app: App) -> None:
    woken: list[bool] = []
    rig.outbox.db.damaged = lambda: woken.append(True)
    writer = rig.outbox.db._writer
    (page,) = next(iter(await writer.execute_fetchall("SELECT rootpage FROM sqlite_schema WHERE name = 'taken'")))
    await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    with rig.outbox.db.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    await writer.execute("PRAGMA shrink_memory")
    status, problem = await app.post("/api/telemetry/track", TRACK)
    assert (status, problem["code"], problem["retryable"]) == (503, "storage-damaged", True)
    assert woken
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        await Clerk(rig.outbox).step()
