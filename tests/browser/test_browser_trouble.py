"""Links that are down, servers that refuse, strangers that answer: nothing is lost and nothing blocks."""

from __future__ import annotations

from typing import Any

import pytest
from intake_rig import BATCH_PATH, SESSION_PATH, Answer, Event, RecordingIntake
from page_rig import NEVER, SESSION, Opener, capture, start, status, until
from playwright.async_api import BrowserContext

pytestmark = pytest.mark.asyncio(loop_scope="session")


def problem(status: int, code: str, **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body={"title": code, "status": status, "code": code})


def always(answer: Answer) -> Any:
    return lambda _path, _events: answer


def nothing(_path: str, _events: list[Event]) -> None:
    return None


async def test_offline_then_online_delivers_once(
    open_page: Opener, intake: RecordingIntake, context: BrowserContext
) -> None:
    page = await open_page()
    await context.set_offline(True)
    ids = await capture(page, 12)
    await until(page, "heard.some((each) => each.name === 'sync:failed')")
    seen = await status(page)
    assert (seen["pending"], seen["lastError"], intake.requests) == (12, "link-down", [])
    await context.set_offline(False)
    assert [event["id"] for event in await intake.holding(12)] == ids
    await until(page, "telemetry.getStatus().pending === 0")
    assert set(intake.arrivals.values()) == {1}


@pytest.mark.parametrize("code", [408, 429, 502, 503, 504])
async def test_what_passes_is_tried_again(open_page: Opener, intake: RecordingIntake, code: int) -> None:
    page = await open_page()
    intake.answers = [Answer(status=code), Answer(status=code)]
    await capture(page, 10)
    await intake.holding(10)
    assert len(intake.requests) == 3
    await until(page, "telemetry.getStatus().pending === 0")
    assert (await status(page))["rejected"] == {}


async def test_retry_after_is_kept_by_all_tabs_and_pages(open_page: Opener, intake: RecordingIntake) -> None:
    page, other = await open_page(), await open_page()
    intake.answers = [problem(429, "too-many-requests", **{"Retry-After": "3600"})]
    await capture(page, 10)
    for tab in (page, other):
        # A browser carries localStorage from one tab's process to the other's in its own time.
        await until(tab, "telemetry.getStatus().waitMs > 3_000_000")
        assert (await tab.evaluate("telemetry.sync()"))["error"] == "waiting"
    await page.reload()
    await start(page)
    assert (await page.evaluate("telemetry.sync()"))["error"] == "waiting"
    assert len(intake.requests) == 1
    await page.evaluate("localStorage.clear()")  # an hour later
    assert (await page.evaluate("telemetry.sync()"))["successCount"] == 10


async def test_each_learner_waits_for_himself(open_page: Opener, intake: RecordingIntake) -> None:
    pages = [await open_page(userId=user) for user in ("one", "two")]
    intake.answers = [Answer(status=503, headers={"Retry-After": "3600"})] * 2
    for page in pages:
        await capture(page, 10)
        await until(page, "telemetry.getStatus().waitMs > 0")
    for page in pages:
        assert (await page.evaluate("telemetry.sync()"))["error"] == "waiting"
    assert len(intake.requests) == 2


async def test_after_retry_after_it_goes_on_by_itself(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page()
    intake.answers = [Answer(status=503, headers={"Retry-After": "1"})]
    await capture(page, 10)
    await intake.holding(10)
    assert len(intake.requests) == 2


async def test_a_clock_that_was_set_back_ends_a_wait(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    intake.answers = [Answer(status=503, headers={"Retry-After": "3600"})]
    await capture(page, 1)
    await page.evaluate("telemetry.sync()")
    await page.evaluate("{ const now = Date.now; Date.now = () => now() - 86_400_000 }")
    assert (await page.evaluate("telemetry.sync()"))["successCount"] == 1


async def test_a_batch_that_is_too_large_is_halved(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER)
    intake.judge = lambda _path, events: Answer(status=413) if len(events) > 7 else None
    ids = await capture(page, 50)
    assert (await page.evaluate("telemetry.sync()"))["successCount"] == 50
    assert [event["id"] for event in await intake.holding(50)] == ids
    assert set(intake.arrivals.values()) == {1}


@pytest.mark.parametrize("name", ["lesson.step", "QUESTION_VIEWED"], ids=["batch", "session"])
@pytest.mark.parametrize("refusal", [Answer(status=413), problem(422, "personal-data"), problem(400, "event-invalid")])
async def test_a_poison_event_leaves_alone(
    open_page: Opener, intake: RecordingIntake, name: str, refusal: Answer
) -> None:
    """A server that refuses a whole request for one event in it."""
    page = await open_page(**NEVER, sessionId=SESSION)
    intake.judge = lambda _path, events: refusal if any(event["payload"] == {"i": 13} for event in events) else None
    ids = await capture(page, 50, name)
    result = await page.evaluate("telemetry.sync()")
    assert (result["successCount"], result["failureCount"], result["error"]) == (49, 1, None)
    assert [event["id"] for event in await intake.holding(49)] == ids[:13] + ids[14:]
    seen = await status(page)
    code = refusal.body["code"] if isinstance(refusal.body, dict) else "payload-too-large"
    assert (seen["pending"], seen["rejected"]) == (0, {code: 1})
    assert seen["failures"][0]["id"] == ids[13]


@pytest.mark.parametrize("name", ["lesson.step", "QUESTION_VIEWED"], ids=["batch", "session"])
async def test_refused_events_are_counted_and_leave(open_page: Opener, intake: RecordingIntake, name: str) -> None:
    page = await open_page(**NEVER, sessionId=SESSION)
    intake.bad = lambda event: "payload-invalid" if event["payload"]["i"] % 4 == 0 else None
    await capture(page, 30, name)
    result = await page.evaluate("telemetry.sync()")
    assert (result["successCount"], result["failureCount"]) == (22, 8)
    await intake.holding(22)
    seen = await status(page)
    # Of the session's path an answer names five at most.
    named = {"payload-invalid": 8} if name == "lesson.step" else {"payload-invalid": 5, "not-listed": 3}
    assert (seen["pending"], seen["rejected"]) == (0, named)
    assert len(intake.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=200, body="<html>Welcome to our hotel</html>"),
        Answer(status=200, body={"success": True}),
        Answer(status=200, body={"accepted": 9, "rejected": 0}),
        Answer(status=200, body={"accepted": None, "rejected": None}),
        Answer(status=200, body={"data": {"results": [None, {"itemId": "x", "status": "synced"}]}}),
        Answer(status=302, headers={"Location": "/"}),
        Answer(status=204),
        Answer(status=400, body="<html>nginx</html>"),
        Answer(status=404, body="<html>nginx</html>"),
        Answer(status=500, body="<html>nginx</html>"),
    ],
    ids=["portal", "200", "other-count", "null", "other-items", "redirect", "204", "400", "404", "500"],
)
@pytest.mark.parametrize("name", ["lesson.step", "QUESTION_VIEWED"], ids=["batch", "session"])
async def test_a_stranger_s_answer_is_no_answer(
    open_page: Opener, intake: RecordingIntake, answer: Answer, name: str
) -> None:
    page = await open_page(**NEVER, sessionId=SESSION)
    intake.judge = always(answer)
    await capture(page, 10, name)
    assert (await page.evaluate("telemetry.sync()"))["error"] is not None
    seen = await status(page)
    assert (seen["pending"], seen["rejected"], seen["dropped"]) == (10, {}, 0)
    intake.judge = nothing
    await page.evaluate("telemetry.sync()")
    await intake.holding(10)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_token_keeps_the_events_for_the_next_one(
    open_page: Opener, intake: RecordingIntake, code: int
) -> None:
    page = await open_page(**NEVER, token="old")
    intake.judge = always(problem(code, "token-refused"))
    await capture(page, 10)
    assert (await page.evaluate("telemetry.sync()"))["error"] == "token-refused"
    assert (await status(page))["waitMs"] > 200_000  # it is not tried again and again
    intake.judge = nothing
    await page.evaluate("telemetry.setToken('new')")
    await intake.holding(10)
    assert [request.headers["Authorization"] for request in intake.requests] == ["Bearer old", "Bearer new"]


async def test_one_path_in_trouble_does_not_hold_up_the_other(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, sessionId=SESSION)
    intake.judge = lambda path, _events: Answer(status=404) if path == SESSION_PATH else None
    await capture(page, 3, "QUESTION_VIEWED")
    await capture(page, 3)
    assert (await page.evaluate("telemetry.sync()"))["successCount"] == 3
    await intake.holding(3)
    assert intake.requests[-1].path == BATCH_PATH
    assert (await status(page))["pending"] == 3


async def test_damaged_local_storage_harms_nothing(open_page: Opener, intake: RecordingIntake) -> None:
    for damage in ("{", "5", "null", '{"seqs": null, "waits": 7, "rejected": []}'):
        page = await open_page(**NEVER, sessionId=SESSION)
        keys = ["pisync-telemetry", "pisync-telemetry:tab"]
        await page.evaluate("([keys, text]) => keys.forEach((key) => localStorage.setItem(key, text))", [keys, damage])
        before = len(intake.events)
        await capture(page, 2, "QUESTION_VIEWED")
        await page.evaluate("telemetry.sync()")
        await intake.holding(before + 2)
        await page.close()


# --- another origin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"token": "secret", "userId": SESSION}, {}], ids=["token", "plain"])
async def test_another_origin_is_asked_first(
    open_page: Opener, intake: RecordingIntake, options: dict[str, str]
) -> None:
    """The page from one port, its events to another: a preflight, then the events; also when the page is left."""
    async with RecordingIntake(allow_origin=intake.url).serving() as other:
        page = await open_page(**NEVER, url=other.url, **options)
        await capture(page, 3)
        assert (await page.evaluate("telemetry.sync()"))["successCount"] == 3
        assert other.preflights > 0
        other.answers = [problem(429, "too-many-requests", **{"Retry-After": "3600"})]
        await capture(page, 2)
        await page.evaluate("telemetry.sync()")
        assert (await status(page))["waitMs"] > 3_000_000  # another origin's header, readable because it is exposed
        await page.evaluate("localStorage.clear()")
        await page.goto("about:blank")
        await other.holding(5)
        assert intake.requests == []
        assert ["Authorization" in request.headers for request in other.requests] == ["token" in options] * 3


async def test_an_origin_that_may_not_ask_keeps_its_events(open_page: Opener, intake: RecordingIntake) -> None:
    async with RecordingIntake(allow_origin="http://elsewhere.test").serving() as other:
        page = await open_page(**NEVER, url=other.url)
        await capture(page, 3)
        assert (await page.evaluate("telemetry.sync()"))["error"] == "link-down"
        assert (await status(page))["pending"] == 3
        assert other.requests == []
        await page.close()
