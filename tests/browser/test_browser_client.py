"""The browser's client in a real browser: what is captured arrives, once, whatever the page and the link do."""

from __future__ import annotations

import uuid

import pytest
from intake_rig import BATCH_PATH, SESSION_PATH, RecordingIntake
from page_rig import NEVER, SESSION, Opener, capture, start, status
from playwright.async_api import BrowserContext

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_ten_events_are_sent_at_once(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(flushMs=3_600_000)
    ids = await capture(page, 9)
    assert intake.requests == []
    ids += await capture(page, 1)
    assert [event["id"] for event in await intake.holding(10)] == ids
    assert [len(request.ids) for request in intake.requests] == [10]
    assert all(uuid.UUID(id).version == 4 for id in ids)


async def test_fewer_are_sent_when_the_time_is_up(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(flushMs=50)
    ids = await capture(page, 3)
    assert [event["id"] for event in await intake.holding(3)] == ids


async def test_submit_sends_all_before_a_redirect(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    await capture(page, 120)
    assert await page.evaluate("telemetry.submit()") is True
    await intake.holding(120)
    assert [len(request.ids) for request in intake.requests] == [50, 50, 20]
    assert (await status(page))["pending"] == 0


async def test_what_waits_in_a_reloaded_page_is_sent(
    open_page: Opener, intake: RecordingIntake, context: BrowserContext
) -> None:
    page = await open_page(**NEVER, script="navigator.sendBeacon = () => true")  # this beacon gets lost on the way
    ids = await capture(page, 4)
    await page.reload()
    await start(page, **NEVER)
    assert [event["id"] for event in await intake.holding(4)] == ids


async def test_session_events_go_the_session_way(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, sessionId=SESSION, token="secret", userId=str(uuid.UUID(int=7)))
    await page.evaluate("telemetry.track('QUESTION_VIEWED', { position: 1 }, { questionId: 'q' })")
    await page.evaluate("telemetry.track('PAUSE_BLUR', { state: 'blur' })")
    await page.evaluate("telemetry.track('interview_completed', { score: 85 })")
    assert (await page.evaluate("telemetry.sync()"))["successCount"] == 3
    viewed, paused, other = await intake.holding(3)
    assert [request.path for request in intake.requests] == [SESSION_PATH, BATCH_PATH]
    assert (viewed["seq"], viewed["session_id"], viewed["question_id"]) == (1, SESSION, "q")
    assert (paused["seq"], paused["payload"]) == (2, {"state": "blur"})
    assert (other["event_type"], other["payload"]) == ("interview_completed", {"score": 85})
    assert {request.headers["Authorization"] for request in intake.requests} == {"Bearer secret"}
    assert {request.headers["PiSync-User"] for request in intake.requests} == {str(uuid.UUID(int=7))}
