"""Learning events over the socket: answers as the contract has them, messages as the cloud takes them."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.activities.clerk import Clerk
from pisyncd.core import encodings, envelope
from pisyncd.outbox.intake import KEEP_TAKEN

from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, OTHER, USER, App, data, event, new_id, waiting
from .outbox_rig import FakeClock


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def app(rig: Rig) -> AsyncIterator[App]:
    async with App(rig) as made:
        yield made


TRACK = {
    "eventType": "interview_completed",
    "eventData": {"score": 85},
    "metadata": {"clientTimestamp": "2024-01-20T10:30:00Z", "userAgent": "Firefox", "eventId": "evt_1", "priority": 9},
}


async def test_a_tracked_event_is_answered_and_waits_for_the_cloud(rig: Rig, app: App) -> None:
    status, body = await app.post("/api/telemetry/track", TRACK, **NAMED)
    assert (status, body["success"], body["data"]["eventId"]) == (200, True, "evt_1")
    (item,) = await waiting(rig)
    assert (item.itemType, item.seq, item.boot_id) == ("event", 1, rig.outbox.db.clock.boot_id)
    assert item.stream is not None
    assert item.stream.startswith("learn9-")
    assert data(item) == {
        "eventId": "evt_1",
        "eventType": "interview_completed",
        "eventData": {"score": 85},
        "userId": USER,
        "metadata": {"clientTimestamp": "2024-01-20T10:30:00Z"},
    }


async def test_a_repeat_is_answered_as_the_first_time_also_after_a_restart(tmp_path: Path) -> None:
    async with gateway(tmp_path) as rig, App(rig) as app:
        first = await app.post("/api/telemetry/track", TRACK)
        await asyncio.sleep(0)
        assert await app.post("/api/telemetry/track", TRACK) == first
    async with gateway(tmp_path) as rig, App(rig) as app:
        assert await app.post("/api/telemetry/track", TRACK) == first
        status, problem = await app.post("/api/telemetry/track", {**TRACK, "eventData": {"score": 1}})
        assert (status, problem["code"], problem["retryable"]) == (409, "id-conflict", False)
        assert len(await waiting(rig)) == 1


async def test_what_has_left_is_still_known(rig: Rig, app: App) -> None:
    first = await app.post("/api/telemetry/track", TRACK)
    (item,) = await waiting(rig)
    await rig.outbox.messages.accept_through({item.stream: item.seq})  # type: ignore[dict-item]
    assert await app.post("/api/telemetry/track", TRACK) == first
    assert await waiting(rig) == []


async def test_an_id_is_that_of_its_user_and_nobody_stands_in_anothers_way(rig: Rig, app: App) -> None:
    for headers in ({}, NAMED, {"PiSync-User": OTHER}):
        status, body = await app.post("/api/telemetry/track", TRACK, **headers)
        assert (status, body["data"]["eventId"]) == (200, "evt_1")
    shared = new_id()
    assert (await app.post("/v1/telemetry/events", {"events": [event(id=shared)]}, **NAMED))[1]["accepted"] == 1
    same_id = {**TRACK, "metadata": {"eventId": shared}}
    assert (await app.post("/api/telemetry/track", same_id))[0] == 200
    items = [{"itemType": "progress", "id": shared, "itemData": {"lesson": 3}}]
    body = (await app.post("/api/telemetry/batch", {"batchId": "b", "items": items}))[1]
    assert body["data"]["results"][0]["status"] == "synced"
    found = await waiting(rig)
    assert len({item.id for item in found}) == len(found) == 6
    assert sorted(data(item).get("userId", "") for item in found if "eventId" in data(item)) == ["", "", USER, OTHER]


async def test_without_an_id_each_tracked_event_is_one_of_its_own(rig: Rig, app: App) -> None:
    plain = {"eventType": "clicked"}
    ids = {(await app.post("/api/telemetry/track", plain))[1]["data"]["eventId"] for _ in range(3)}
    assert len(ids) == len(await waiting(rig)) == 3


async def test_events_of_a_session_are_judged_one_by_one(rig: Rig, app: App) -> None:
    session_id, question = new_id(), new_id()
    events: list[Any] = [
        event(session_id=session_id, seq=1, client_ts="2026-01-20T12:34:56.000Z", question_id=question),
        event("ANSWER_SELECTED", {"position": 1, "selected_index": 2}, session_id=session_id, question_id=question),
        event("NOT_KNOWN"),
        event(payload={"position": "one"}),
        event(payload={"position": 1, "email": "amina@example.org"}),
        event(payload={"position": 1, "more": "x" * 5000}),
        "not an object",
    ]
    status, body = await app.post("/v1/telemetry/events", {"source": "web", "events": events}, **NAMED)
    assert (status, body["accepted"], body["rejected"]) == (200, 2, 5)
    reasons = [(reason["index"], reason["code"]) for reason in body["rejected_reasons_sample"]]
    assert reasons == [
        (2, "event-type-unknown"),
        (3, "payload-invalid"),
        (4, "personal-data"),
        (5, "payload-too-large"),
        (6, "event-invalid"),
    ]
    answer, viewed = await waiting(rig)
    assert answer.stream is not None
    assert (answer.stream[:7], data(answer)["event_type"]) == ("learn8-", "ANSWER_SELECTED")
    judged = envelope.judge(bytes(viewed.itemData))
    assert isinstance(judged, envelope.Envelope)
    assert (judged.id, judged.user_id, judged.source, judged.seq) == (viewed.id, USER, "web", 1)
    again = (await app.post("/v1/telemetry/events", {"source": "web", "events": events[:2]}, **NAMED))[1]
    assert again == {"accepted": 2, "rejected": 0, "rejected_reasons_sample": []}
    assert len(await waiting(rig)) == 2


async def test_somebody_has_to_say_whose_it_is(rig: Rig, app: App) -> None:
    async def reason(one: dict[str, Any], **headers: str) -> str | None:
        body = (await app.post("/v1/telemetry/events", {"events": [one]}, **headers))[1]
        return body["rejected_reasons_sample"][0]["code"] if body["rejected"] else None

    assert await reason(event()) == "user-missing"
    assert await reason(event(user_id=USER)) is None
    assert await reason(event(user_id=USER), PiSync_User=OTHER) == "session-not-yours"
    status, problem = await app.post("/v1/telemetry/events", {"events": []}, PiSync_User="Amina")
    assert (status, problem["code"]) == (400, "user-invalid")
    questions = [new_id(), new_id()]
    made = (await app.post("/v1/sessions", {"mode": "quiz", "question_ids": questions}, **NAMED))[1]
    mine = {"session_id": made["id"]}
    assert await reason(event(**mine, question_id=questions[0])) is None, "the owner counts"
    assert await reason(event(**mine, question_id=new_id())) == "question-not-in-session"
    assert await reason(event(**mine), PiSync_User=OTHER) == "session-not-yours"
    sent = [data(item) for item in await waiting(rig) if item.itemType == "event"]
    assert {each["user_id"] for each in sent} == {USER}


async def test_the_same_id_with_other_content_is_refused_and_the_first_stays(rig: Rig, app: App) -> None:
    one = event(id=new_id())
    assert (await app.post("/v1/telemetry/events", {"events": [one]}, **NAMED))[1]["accepted"] == 1
    body = (await app.post("/v1/telemetry/events", {"events": [{**one, "seq": 9}]}, **NAMED))[1]
    assert body["rejected_reasons_sample"][0]["code"] == "id-conflict"
    (item,) = await waiting(rig)
    assert "seq" not in data(item)


async def test_a_batch_is_judged_item_by_item(rig: Rig, app: App) -> None:
    one = event(id=new_id(), event_version=1)
    items: list[Any] = [
        {"itemType": "event", "id": "row-1", "itemData": one},
        {"itemType": "event", "itemData": {"eventId": "evt_7", "eventType": "opened", "eventData": {}}},
        {"itemType": "event", "id": "row-3", "itemData": {"eventType": "opened", "eventData": {"phone": "1"}}},
        {"itemType": "progress", "itemData": {"lesson": 3}},
        {"itemType": "progress", "id": "row-5", "itemData": [1]},
        {"itemType": "vitals", "id": "row-6", "itemData": {}},
        {"itemType": "session", "id": "row-7", "itemData": {}},
        {"itemType": "assessment", "id": "row-8", "itemData": {"text": "x" * 70_000}},
        {
            "itemType": "event",
            "id": "row-9",
            "itemData": {"eventType": "opened", "eventId": "evt_7", "eventData": {"n": 1}},
        },
        17,
    ]
    status, body = await app.post("/api/telemetry/batch", {"batchId": "b-1", "items": items}, **NAMED)
    assert (status, body["success"]) == (200, True)
    outcome = body["data"]
    assert [(each["itemId"], each["status"], each.get("code")) for each in outcome["results"]] == [
        ("row-1", "synced", None),
        ("evt_7", "synced", None),
        ("row-3", "failed", "personal-data"),
        ("b-1.3", "synced", None),
        ("row-5", "failed", "item-invalid"),
        ("row-6", "failed", "item-type-unknown"),
        ("row-7", "failed", "item-type-unknown"),
        ("row-8", "failed", "item-too-large"),
        ("row-9", "conflict", "id-conflict"),
        ("b-1.9", "failed", "item-invalid"),
    ]
    counts = [outcome[name] for name in ("processed", "successful", "failed", "conflicts", "duplicates")]
    assert (counts, outcome["receivedThrough"]) == ([10, 3, 6, 1, 0], {})
    again = (await app.post("/api/telemetry/batch", {"batchId": "b-1", "items": items[:4]}, **NAMED))[1]["data"]
    assert [each["status"] for each in again["results"]] == ["duplicate", "duplicate", "failed", "duplicate"]
    brief = await app.ask(
        "POST", "/api/telemetry/batch", {"batchId": "b-1", "items": items[:4]}, Prefer="return=minimal", **NAMED
    )
    assert len(brief[1]["data"]["results"]) == 1
    assert [item.itemType for item in await waiting(rig)] == ["progress", "event", "event"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/telemetry/track", b"{", 400, "malformed"),
        ("/api/telemetry/track", b"\xff\xfe", 400, "malformed"),
        ("/api/telemetry/track", b"[]", 422, "validation"),
        ("/api/telemetry/track", {"eventType": "9"}, 422, "validation"),
        ("/api/telemetry/track", {"eventType": "x", "eventData": {"t": ["y" * 150] * 40}}, 413, "event-too-large"),
        ("/api/telemetry/track", {"eventType": "x", "eventData": {"name": "Amina"}}, 422, "personal-data"),
        ("/api/telemetry/track", {"eventType": "x", "metadata": {"clientTimestamp": "now"}}, 422, "validation"),
        ("/api/telemetry/track", b'{"eventType": "x", "eventData": {"a": ' + b"[" * 5000, 400, "malformed"),
        ("/v1/telemetry/events", {"events": [{}] * 51}, 413, "too-many-events"),
        ("/v1/telemetry/events", {"events": 1}, 422, "validation"),
        ("/v1/telemetry/events", {"source": "fax", "events": []}, 422, "validation"),
        ("/api/telemetry/batch", {"batchId": "b", "items": []}, 422, "validation"),
        ("/api/telemetry/batch", {"batchId": "b", "items": [1] * 501}, 422, "validation"),
        ("/api/telemetry/batch", b" " * (1024 * 1024 + 1), 413, "too-large"),
    ],
)
async def test_what_cannot_be_taken_is_said_precisely(app: App, path: str, body: Any, status: int, code: str) -> None:
    answered, problem, headers = await app.ask("POST", path, body)
    assert (answered, problem["code"]) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert problem["retryable"] is False


async def test_bodies_may_be_packed_within_the_limit_of_what_comes_out(rig: Rig, app: App) -> None:
    raw = json.dumps({"eventType": "x", "eventData": {"n": 1}}).encode()
    for encoding, packed in (("gzip", gzip.compress(raw)), ("zstd", encodings.zstd_packed(raw)), ("identity", raw)):
        status, _ = await app.post("/api/telemetry/track", packed, Content_Encoding=encoding)
        assert status == 200, encoding
    bomb = gzip.compress(b" " * 200_000_000)
    assert (await app.post("/api/telemetry/track", bomb, Content_Encoding="gzip"))[1]["code"] == "too-large"
    cut = gzip.compress(raw)[:-9]
    assert (await app.post("/api/telemetry/track", cut, Content_Encoding="gzip"))[1]["code"] == "body-encoding"
    assert (await app.post("/api/telemetry/track", raw, Content_Encoding="br"))[0] == 415
    assert len(await waiting(rig)) == 3


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


BLUR = {"event_type": "PAUSE_BLUR", "payload": {"state": "blur"}}
ANSWER = {"event_type": "ANSWER_SELECTED", "payload": {"position": 1, "selected_index": 0}}


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


async def test_the_state_of_the_sync_is_told_in_the_seeds_words(rig: Rig, app: App) -> None:
    async def status() -> dict[str, Any]:
        return (await app.ask("GET", "/api/telemetry/status"))[1]["syncStatus"]

    assert await status() == {
        "lastSyncTime": None,
        "pendingItems": 0,
        "totalItems": 0,
        "syncHealth": "unknown",
        "successRate": 1.0,
        "avgSyncDuration": 0.0,
        "lastError": None,
    }
    for number in range(4):
        await app.post("/api/telemetry/track", {**TRACK, "metadata": {"eventId": f"e{number}"}})
    found = await waiting(rig)
    await rig.outbox.messages.accept_through({str(found[0].stream): 3})
    told = await status()
    assert told["lastSyncTime"].endswith("Z")
    assert (told["pendingItems"], told["totalItems"], told["syncHealth"]) == (1, 4, "good")


async def test_the_browsers_client_is_served_with_a_tag(app: App) -> None:
    status, code, headers = await app.ask("GET", "/telemetry.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"export class" in code
    assert (await app.ask("GET", "/telemetry.js", If_None_Match=headers["ETag"]))[0] == 304
    assert (await app.ask("GET", "/telemetry.js", If_None_Match='"old"'))[0] == 200


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


NASTY = [
    b"null", b"true", b"-1", b"1e999", b"12345678901234567890123", b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"',
    b'"\\udc00x"', b'"' + b"\xff" + b'"', b'"' + b"x" * 300 + b'"', b"[" * 400 + b"]" * 400, b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 300 + b"1" + b"}" * 300, b'{"name":1}', b'{"a":1,"a":2}', b"{", b"\xef\xbb\xbf{}",
    b'"2026-13-40T99:99:99Z"',
    b'"\'; DROP TABLE messages; --"', b"NaN", b"0.1e1", b'"' + "\u202e\u0000é".encode() + b'"',
]  # fmt: skip
SHAPES = [
    ("/api/telemetry/track", b'{"eventType":%s,"eventData":{"a":1}}'),
    ("/api/telemetry/track", b'{"eventType":"x","eventData":%s}'),
    ("/api/telemetry/track", b'{"eventType":"x","eventData":{"a":%s}}'),
    ("/api/telemetry/track", b'{"eventType":"x","metadata":%s}'),
    ("/api/telemetry/track", b'{"eventType":"x","metadata":{"eventId":%s,"priority":3}}'),
    ("/api/telemetry/track", b'{"eventType":"x","metadata":{"clientTimestamp":%s}}'),
    ("/api/telemetry/batch", b'{"batchId":%s,"items":[1]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":%s}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[%s]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"progress","itemData":%s}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"progress","itemData":{"a":%s}}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"progress","id":%s,"itemData":{}}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":%s,"itemData":{}}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"event","itemData":%s}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"event","itemData":{"event_version":%s}}]}'),
    ("/v1/telemetry/events", b'{"events":%s}'),
    ("/v1/telemetry/events", b'{"events":[%s]}'),
    ("/v1/telemetry/events", b'{"source":%s,"events":[]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"PAUSE_BLUR","session_id":%s,"payload":{"state":"blur"}}]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"REVIEW_OPENED","session_id":"%%s","payload":%s}]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"REVIEW_OPENED","session_id":"%%s","payload":{},"seq":%s}]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"REVIEW_OPENED","session_id":"%%s","payload":{},"id":%s}]}'),
    ("/v1/sessions", b"%s"),
    ("/v1/sessions", b'{"mode":%s,"question_ids":["%%s"]}'),
    ("/v1/sessions", b'{"mode":"quiz","question_ids":%s}'),
    ("/v1/sessions", b'{"mode":"quiz","question_ids":["%%s"],"filters":{"a":%s}}'),
    ("/v1/sessions", b'{"mode":"quiz","question_ids":["%%s"],"duration_s":%s}'),
]


@pytest.mark.parametrize("place", range(len(SHAPES)))
async def test_nothing_that_is_sent_is_a_fault_of_ours(rig: Rig, app: App, place: int) -> None:
    path, shape = SHAPES[place]
    for nasty in NASTY:
        body = shape.replace(b"%%s", new_id().encode()).replace(b"%s", nasty)
        status, answer, _ = await app.ask("POST", path, body, **NAMED)
        assert status < 500, (body[:200], answer)
        assert status in (200, 201) or answer["code"], body[:200]
    # Whatever was taken is sound JSON for whoever reads it next.
    for item in await waiting(rig):
        assert isinstance(data(item), dict)
