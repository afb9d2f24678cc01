"""Both faces against the daemon's own gateway and outbox."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

# The rigs of the device's own tests: they put a real gateway on a real socket.
from edge.gateway_rig import Rig, gateway

from pisyncd.client import ClientError, SyncClient, TelemetryClient, blocking
from pisyncd.outbox.books import Cycle

from .rig import USER, Server, problem

QUESTIONS = [str(uuid.UUID(int=n)) for n in range(1, 4)]
OTHER = "99999999-9999-4999-8999-999999999999"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def client(rig: Rig, tmp_path: Path) -> AsyncIterator[TelemetryClient]:
    async with TelemetryClient(path=tmp_path / "app.db", socket=rig.socket, user_id=USER, flush_s=10_000) as made:
        await made.sync()
        yield made


async def _owed(rig: Rig) -> int:
    return (await rig.outbox.messages.owed())[0]


async def test_a_session_from_its_beginning_to_its_review(client: TelemetryClient, rig: Rig) -> None:
    heard: list[str] = []
    done = asyncio.Event()

    async def complete(result: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        heard.append("complete")
        done.set()

    client.on("sync:start", lambda result: heard.append("start"))
    client.on("sync:complete", complete)
    session = await client.create_session("practice", QUESTIONS, filters={"level": 2}, duration_s=600)
    assert session["state"] == "active" and client.session_id == session["id"]
    assert (await client.create_session("practice", QUESTIONS, filters={"level": 2}, duration_s=600, id=session["id"]))[
        "id"
    ] == session["id"]
    viewed = await client.capture_event("QUESTION_VIEWED", {"position": 0}, {"questionId": QUESTIONS[0]})
    client.capture_event("PAUSE_BLUR", {"state": "blur"})  # not awaited, captured all the same
    turned = await client.capture_events(
        [
            {"event_type": "NAVIGATE_NEXT", "event_data": {"from_position": 0, "to_position": 1}},
            {"event_type": "opened"},
        ]
    )
    assert viewed and all(turned)
    answer = await client.answer(session["id"], QUESTIONS[0], selected_index=2, marked=True)
    assert (answer["selected_index"], answer["marked"], answer["position"]) == (2, True, 0)
    with pytest.raises(ClientError) as refused:
        await client.review(session["id"])
    assert (refused.value.code, refused.value.status, refused.value.retryable) == ("session-active", 409, False)
    assert (await client.submit_session(session["id"]))["state"] == "submitted"
    reviewed = await client.review(session["id"])
    assert [each["selected_index"] for each in reviewed["answers"]] == [2]
    status = await client.get_status()
    assert (status["captured"], status["sent"], status["failed"], status["pending"]) == (4, 4, 0, 0), status
    await asyncio.wait_for(done.wait(), 60)
    assert heard[:2] == ["start", "complete"]


async def test_each_event_is_judged_alone_and_a_repeat_is_none(client: TelemetryClient, rig: Rig) -> None:
    session = await client.create_session("practice", QUESTIONS)
    owed = await _owed(rig)
    await client.capture_event("QUESTION_VIEWED", {"position": 0})
    await client.capture_event("QUESTION_VIEWED", {"position": "first"})
    await client.capture_event("QUESTION_VIEWED", {"position": 1}, question_id=OTHER)
    await client.capture_event("QUESTION_VIEWED", {"position": 1}, session_id="no uuid")
    await client.capture_event("page_turned", {"email": "someone"})
    for _ in range(2):
        about = {"eventId": "evt_1", "clientTimestamp": "2026-01-20T10:30:00Z"}
        await client.capture_event("page_turned", {"page": 3}, about)
    assert session["id"] == client.session_id
    result = await client.sync()
    status = await client.get_status()
    assert (result["ok"], status["sent"], status["failed"], status["pending"]) == (True, 3, 4, 0), status
    assert {each["code"] for each in status["failures"]} == {
        "payload-invalid",
        "question-not-in-session",
        "event-invalid",
        "personal-data",
    }
    assert await _owed(rig) - owed == 2


async def test_the_event_loop_is_not_held_up(tmp_path: Path) -> None:
    server = Server(tmp_path / "slow.sock")
    loop, ticks = asyncio.get_running_loop(), asyncio.Event()
    server.answering = lambda asked: asyncio.run_coroutine_threadsafe(ticks.wait(), loop).result(60) and None
    server.start()
    try:
        async with TelemetryClient(path=tmp_path / "app.db", socket=server.path, flush_s=10_000) as client:
            captured = await client.capture_event("page_turned")
            syncing = asyncio.create_task(client.sync())
            # Only a loop that turns can let the server answer.
            loop.call_soon(ticks.set)
            assert (await syncing)["ok"] and server.ids == [captured]
    finally:
        server.stop()


async def test_a_cancelled_capture_is_captured(client: TelemetryClient, rig: Rig) -> None:
    async def capture() -> None:
        await client.capture_event("page_turned")

    tasks = [asyncio.create_task(capture()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await client.sync())["ok"]
    status = await client.get_status()
    assert status["sent"] == 5


async def test_a_handler_that_fails_is_counted(client: TelemetryClient) -> None:
    async def bad(result: object) -> None:
        raise RuntimeError("of the application")

    client.on("sync:start", bad)
    client.on("sync:start", lambda result: 1 // 0)
    assert (await client.sync())["ok"]
    while (await client.get_status())["handler_errors"] < 2:
        await asyncio.sleep(0)
    with pytest.raises(TypeError):
        blocking.TelemetryClient(path="/nowhere").on("sync:start", bad)


async def test_calls_that_are_answered_say_what_is_wrong(tmp_path: Path) -> None:
    client = TelemetryClient(path=tmp_path / "app.db", socket=tmp_path / "none.sock")
    with pytest.raises(ClientError) as away:
        await client.create_session("practice", QUESTIONS)
    assert (away.value.code, away.value.status, away.value.retryable) == ("not-running", None, True)
    assert away.value.detail and away.value.hint
    with pytest.raises(ClientError) as wrong:
        await client.create_session("practice", QUESTIONS, filters={"odd": object()})
    assert wrong.value.code == "request-invalid"
    server = Server(tmp_path / "odd.sock")
    server.answering = lambda asked: problem(503, "storage-busy")
    server.start()
    try:
        with pytest.raises(ClientError) as busy:
            await TelemetryClient(path=tmp_path / "app.db", socket=server.path).review("../status?")
        assert (busy.value.code, busy.value.status, busy.value.retryable) == ("storage-busy", 503, True)
        assert server.asked[0].path == "/v1/sessions/../status?/review"  # as aiohttp shows a quoted part
    finally:
        server.stop()


def _cycle(outcome: Any, **more: Any) -> Cycle:
    known = {"attempted": 1, "files_synced": 1, "errors": 0, "bytes_sent": 10, "duration_ms": 2500}
    return Cycle(**{**known, "outcome": outcome, "speed_mbps": 1.5, "error_code": None, **more})


async def test_a_sync_is_triggered_and_followed(rig: Rig) -> None:
    heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    await rig.outbox.cycles.record(_cycle("success"), None)
    async with SyncClient(socket=rig.socket, interval_s=0.01) as sync:
        for name in ("sync:start", "sync:complete", "sync:failed"):
            sync.on(name, lambda detail, name=name: heard.put_nowait((name, detail)))
        assert (await sync.get_status())["device_id"] == "pibox-0042"
        assert (await sync.get_health()) == {"healthy": True, "stuck": []}
        assert (await sync.trigger_sync())["done"] and rig.memory.asked == ["sync"]
        assert (await heard.get())[0] == "sync:start"
        # What was there at the first look is not told; that look must be over before the next cycle ends.
        while sync._watch._before is None:
            await asyncio.sleep(0)
        await rig.outbox.cycles.record(_cycle("success", files_synced=7), None)
        name, detail = await asyncio.wait_for(heard.get(), 60)
        assert (name, detail["files_synced"]) == ("sync:complete", 7)
        await rig.outbox.cycles.record(_cycle("failed", errors=2), None)
        name, detail = await asyncio.wait_for(heard.get(), 60)
        assert (name, detail["errors"]) == ("sync:failed", 2)
    rig.memory.stuck = ["uploader"]
    assert (await sync.get_health())["healthy"] is False


async def test_following_a_daemon_that_is_away_goes_on(tmp_path: Path) -> None:
    sync = SyncClient(socket=tmp_path / "none.sock", interval_s=0.01)
    await sync.start()
    while sync.last_error is None:
        await asyncio.sleep(0)
    assert sync.last_error["code"] == "not-running"
    for call in (sync.get_status, sync.get_health, sync.trigger_sync):
        with pytest.raises(ClientError):
            await call()
    await sync.stop()


def test_at_an_address_the_queue_is_flushed_and_the_telemetry_status_shown(server: Server, tmp_path: Path) -> None:
    status = {"syncStatus": {"lastSyncTime": None, "pendingItems": 0}}
    answers = {"/api/telemetry/status": status, "/api/health": {"status": "healthy"}}
    server.answering = lambda asked: web.json_response(answers[asked.path]) if asked.path in answers else None
    server.start()
    where = {"path": tmp_path / "app.db", "url": f"http://127.0.0.1:{server.port}", "token": "device-token"}
    heard: list[str] = []
    with blocking.TelemetryClient(**where) as telemetry, blocking.SyncClient(telemetry=telemetry, **where) as sync:
        captured = telemetry.capture_event("page_turned")
        sync.on("sync:complete", lambda result: heard.append("complete"))
        assert sync.trigger_sync()["ok"] and server.ids == [captured] and heard == ["complete"]
        assert sync.get_status() == status
        assert sync.get_health() == {"status": "healthy"}
    assert server.asked[0].headers["Authorization"] == "Bearer device-token"
