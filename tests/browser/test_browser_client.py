"""The browser's client in a real browser: when events are sent, in which shape, and what an application is told."""

from __future__ import annotations

import uuid

import jwt
import pytest
from intake_rig import BATCH_PATH, SESSION_PATH, Answer, RecordingIntake
from page_rig import NEVER, SESSION, Opener, capture, start, status, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

LEARNER, OTHER = str(uuid.UUID(int=7)), str(uuid.UUID(int=8))


async def test_ten_events_are_sent_at_once(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(flushMs=3_600_000)
    ids = await capture(page, 9)
    assert intake.requests == []
    ids += await capture(page, 1)
    assert [event["id"] for event in await intake.holding(10)] == ids
    assert [len(request.ids) for request in intake.requests] == [10]
    assert all(uuid.UUID(id).version == 7 for id in ids)


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


async def test_submit_does_not_wait_for_a_server_that_hangs(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    await capture(page, 3)
    intake.gate.clear()
    assert await page.evaluate("telemetry.submit({ timeoutMs: 50 })") is False
    await intake.until(lambda: len(intake.requests) == 2)  # the flush, and what was left to the browser
    assert (await status(page))["pending"] == 3
    intake.gate.set()
    await intake.holding(3)


async def test_session_events_go_the_session_way(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, sessionId=SESSION, token="secret", userId=LEARNER)
    await page.evaluate("telemetry.track('QUESTION_VIEWED', { position: 1 }, { questionId: 'q' })")
    await page.evaluate("window.stopped = { watching: telemetry.watchBlur() }")
    await page.evaluate("dispatchEvent(new Event('blur'))")
    await page.evaluate("{ stopped.watching(); dispatchEvent(new Event('focus')) }")
    await page.evaluate("telemetry.track('interview_completed', { score: 85 }, { priority: 2 })")
    assert (await page.evaluate("telemetry.sync()"))["successCount"] == 3
    viewed, paused, other = await intake.holding(3)
    assert [request.path for request in intake.requests] == [SESSION_PATH, BATCH_PATH]
    assert (viewed["seq"], viewed["session_id"], viewed["question_id"]) == (1, SESSION, "q")
    assert (paused["seq"], paused["event_type"], paused["payload"]) == (2, "PAUSE_BLUR", {"state": "blur"})
    assert (other["event_type"], other["payload"]) == ("interview_completed", {"score": 85})
    assert (other["priority"], other["eventId"]) == (2, other["id"])
    assert all(event.get("client_ts", event.get("clientTimestamp")).endswith("Z") for event in (viewed, paused, other))
    assert {request.headers["Authorization"] for request in intake.requests} == {"Bearer secret"}
    assert {request.headers["PiSync-User"] for request in intake.requests} == {LEARNER}


async def test_session_types_without_a_session_go_with_the_batch(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    await page.evaluate("telemetry.track('REVIEW_OPENED')")
    await page.evaluate("telemetry.sync()")
    await intake.holding(1)
    assert [request.path for request in intake.requests] == [BATCH_PATH]


async def test_seq_goes_on_after_a_reload(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, sessionId=SESSION)
    await capture(page, 3, "QUESTION_VIEWED")
    await page.evaluate("telemetry.sync()")
    await page.reload()
    await start(page, **NEVER, sessionId=SESSION)
    await capture(page, 2, "QUESTION_VIEWED")
    await page.evaluate("telemetry.sync()")
    assert [event["seq"] for event in await intake.holding(5)] == [1, 2, 3, 4, 5]


async def test_an_event_is_kept_as_it_was_when_it_was_captured(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    given = await page.evaluate(
        """async () => {
            const data = { answer: 1 };
            const id = telemetry.captureEvent("a", data, { eventId: "mine" });
            data.answer = 2;
            await telemetry.sync();
            return id;
        }"""
    )
    assert given == "mine"
    assert [(event["id"], event["payload"]) for event in await intake.holding(1)] == [("mine", {"answer": 1})]


async def test_capturing_never_throws(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    ids = await page.evaluate(
        """() => {
            const cyclic = {};
            cyclic.self = cyclic;
            const bad = telemetry.captureEvents([
                { eventType: "cyclic", eventData: cyclic }, { eventType: "big", eventData: { n: 1n } },
                { eventType: "", eventData: {} }, {}, null,
                { eventType: "long", eventData: { text: "x".repeat(5000) } },
            ]);
            telemetry.captureEvents(null);
            return [...bad, telemetry.captureEvent("good", null, null)];
        }"""
    )
    assert all(isinstance(id, str) for id in ids)
    await page.evaluate("telemetry.sync()")
    assert [event["id"] for event in await intake.holding(1)] == ids[-1:]
    seen = await status(page)
    assert seen["rejected"] == {"event-invalid": 5, "payload-too-large": 1}
    assert (seen["pending"], seen["delivered"]) == (0, 1)


async def test_events_captured_before_the_start_are_sent_too(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    await page.evaluate(
        """async () => {
            const { TelemetryService } = await import("/telemetry.js");
            const early = new TelemetryService();
            early.captureEvent("early");
            await early.sync();
        }"""
    )
    await intake.holding(1)


async def test_listeners_hear_of_every_sync(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    await page.evaluate("void telemetry.on('sync:complete', () => { throw new Error('mine') })")
    await page.evaluate(
        "window.calls = []; window.off = { on: telemetry.on('sync:start', (each) => calls.push(each.pending)) }; 0"
    )
    await capture(page, 2)
    await page.evaluate("telemetry.sync()")
    await page.evaluate("void off.on()")
    intake.answers = [Answer(status=503)]
    await capture(page, 1)
    await page.evaluate("telemetry.sync()")
    assert await page.evaluate("calls") == [2]
    heard = await page.evaluate("heard.filter((each) => each.name !== 'sync:start').slice(0, 2)")
    assert [(each["name"], each["successCount"], each["error"]) for each in heard] == [
        ("sync:complete", 2, None),
        ("sync:failed", 0, "http-503"),
    ]


async def test_what_one_learner_left_is_not_sent_as_the_next_one(open_page: Opener, intake: RecordingIntake) -> None:
    first = await open_page(**NEVER, userId=LEARNER, script="navigator.sendBeacon = () => true")
    intake.judge = lambda _path, _events: Answer(status=503)
    ids = await capture(first, 3)
    await first.evaluate("telemetry.sync()")
    await first.close()
    # What a page sends while it closes arrives later than the next page may have begun.
    intake.judge = lambda _path, events: Answer(status=503) if {event["id"] for event in events} & set(ids) else None
    second = await open_page(**NEVER, userId=OTHER)
    others = await capture(second, 1)
    await second.evaluate("telemetry.submit()")
    sent = [(request.headers["PiSync-User"], request.ids) for request in intake.requests]
    assert [each for each in sent if each[0] == OTHER] == [(OTHER, others)]
    assert {tuple(found) for who, found in sent if who == LEARNER} == {tuple(ids)}
    intake.judge = lambda _path, _events: None
    again = await open_page(**NEVER, userId=LEARNER)
    await again.evaluate("telemetry.sync()")
    assert (intake.requests[-1].headers["PiSync-User"], intake.requests[-1].ids) == (LEARNER, ids)


async def test_a_jwt_names_its_learner(open_page: Opener, intake: RecordingIntake) -> None:
    first, second = (jwt.encode({"sub": user}, "k" * 32, algorithm="HS256") for user in (LEARNER, OTHER))
    page = await open_page(**NEVER, token=first)
    ids = await capture(page, 2)
    await page.evaluate("(token) => telemetry.setToken(token)", second)
    others = await capture(page, 1)
    await page.evaluate("telemetry.sync()")
    await page.evaluate("(token) => telemetry.setToken(token)", first)
    await intake.holding(3)
    sent = [(request.headers["Authorization"], request.ids) for request in intake.requests]
    assert sent == [(f"Bearer {second}", others), (f"Bearer {first}", ids)]
    assert all("PiSync-User" not in request.headers for request in intake.requests)


async def test_the_sync_service_has_the_words_of_the_sync_api(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    await page.evaluate("window.sync = new SyncService({ telemetry, intervalMs: 20 })")
    assert await page.evaluate("[sync.getHealth().syncHealth, sync.getStatus().running]") == ["unknown", False]
    await page.evaluate("sync.start()")
    await capture(page, 2)
    await intake.holding(2)  # by its beat alone
    await until(page, "sync.getStatus().pendingItems === 0 && sync.getStatus().lastSyncTime !== null")
    seen = await page.evaluate("({ ...sync.getHealth() })")
    assert (seen["syncHealth"], seen["running"], seen["totalItems"], seen["successRate"]) == ("good", True, 2, 1)
    await page.evaluate("sync.stop()")
    assert await page.evaluate("sync.getStatus().running") is False
    intake.judge = lambda _path, _events: Answer(status=503)
    await capture(page, 1)
    assert (await page.evaluate("sync.triggerSync()"))["error"] == "http-503"
    assert await page.evaluate("sync.getHealth().syncHealth") == "degraded"
    await page.evaluate("sync.triggerSync().then(() => sync.triggerSync())")
    assert await page.evaluate("sync.getHealth().syncHealth") == "poor"
    intake.judge = lambda _path, _events: None
    await page.evaluate("sync.triggerSync()")
    assert await page.evaluate("sync.getHealth().syncHealth") == "good"
