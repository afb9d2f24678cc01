"""Pages come and go: reloaded, left, closed, killed, several at once, without a database, without TLS."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import psutil
import pytest
from intake_rig import RecordingIntake
from page_rig import ARGUMENTS, INSECURE_HOST, NEVER, SESSION, Opener, capture, start, status, until
from playwright.async_api import BrowserContext, async_playwright

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAVED = """
    new Promise((done) => {
        indexedDB.open("pisync-telemetry").onsuccess = ({ target }) => {
            const count = target.result.transaction("events").objectStore("events").count();
            count.onsuccess = () => done(count.result);
        };
    })
"""
LOSE_BEACONS = "navigator.sendBeacon = () => true"
COUNT_BEACONS = """
    const send = navigator.sendBeacon.bind(navigator);
    navigator.sendBeacon = (...words) => {
        localStorage.beacons = Number(localStorage.beacons ?? 0) + 1;
        return send(...words);
    };
"""


async def test_what_waits_in_a_reloaded_page_is_sent(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, script=LOSE_BEACONS)
    ids = await capture(page, 4)
    await page.reload()
    assert intake.requests == []
    await start(page, **NEVER)
    assert [event["id"] for event in await intake.holding(4)] == ids


async def test_a_page_that_is_left_sends_a_beacon(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, sessionId=SESSION, script=COUNT_BEACONS)
    ids = [*await capture(page, 2), *await capture(page, 2, "ANSWER_SELECTED")]
    await page.goto("about:blank")
    assert {event["id"] for event in await intake.holding(4)} == set(ids)
    await page.goto(intake.url)
    await until(page, "localStorage.beacons === '2'")  # one for each path
    # A beacon proves nothing: it is sent once more, and the store knows the ids.
    await start(page, **NEVER)
    await intake.until(lambda: set(intake.arrivals.values()) == {2})
    await intake.holding(4)


async def test_a_page_with_a_token_is_left_with_its_headers(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, token="secret", script=COUNT_BEACONS)
    await capture(page, 3)
    await page.goto("about:blank")
    await intake.holding(3)
    assert [request.headers["Authorization"] for request in intake.requests] == ["Bearer secret"]
    await page.goto(intake.url)
    assert await page.evaluate("localStorage.beacons ?? null") is None


@pytest.mark.parametrize("token", [None, "secret"])
async def test_a_page_that_is_closed_sends_what_it_has(
    open_page: Opener, intake: RecordingIntake, token: str | None
) -> None:
    await open_page()  # the browser itself goes on
    page = await open_page(**NEVER, **({"token": token} if token else {}))
    await capture(page, 3)
    await page.close(run_before_unload=True)
    await intake.holding(3)


async def test_a_refused_beacon_is_replaced(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, script="navigator.sendBeacon = () => false")
    await capture(page, 3)
    await page.goto("about:blank")
    await intake.holding(3)


async def test_a_page_that_is_left_sends_answers_first(open_page: Opener, intake: RecordingIntake) -> None:
    """64 KiB is what browsers take; the rest waits in the database."""
    page = await open_page(**NEVER, sessionId=SESSION)
    await page.evaluate(
        """() => {
            const text = "x".repeat(3900);
            for (let i = 0; i < 30; i++) telemetry.track("QUESTION_VIEWED", { text });
            for (let i = 0; i < 5; i++) telemetry.track("ANSWER_SELECTED", { text });
        }"""
    )
    await page.goto("about:blank")
    await intake.until(lambda: len(intake.events) > 5)
    first = [event["event_type"] for event in await intake.stored()]
    assert first[:5] == ["ANSWER_SELECTED"] * 5
    assert len(first) < 35
    await page.goto(intake.url)
    await start(page, **NEVER)
    await intake.holding(35)


async def test_an_event_of_the_last_moment_is_not_lost(open_page: Opener, intake: RecordingIntake) -> None:
    """Captured while the page goes away: there is no time to wait for a database."""
    page = await open_page(**NEVER, script=LOSE_BEACONS)
    await page.evaluate("addEventListener('pagehide', () => telemetry.captureEvent('last'))")
    await page.goto("about:blank")
    await page.goto(intake.url)
    await start(page, flushMs=20)  # it looks again: the old page may end after the new one has begun
    assert [event["event_type"] for event in await intake.holding(1)] == ["last"]


@pytest.mark.parametrize("secure", [True, False], ids=["locks", "claims"])
async def test_tabs_share_one_queue_and_send_each_event_once(
    open_page: Opener, intake: RecordingIntake, secure: bool
) -> None:
    """Web Locks exist in secure contexts only: a PiBox in a classroom's network is none."""
    base = intake.url if secure else intake.url.replace("127.0.0.1", INSECURE_HOST)
    tabs = [await open_page(at=base, **NEVER) for _ in range(3)]
    ways = "[isSecureContext, 'locks' in navigator, 'randomUUID' in crypto]"
    assert [await tab.evaluate(ways) for tab in tabs] == [[secure] * 3] * 3
    for tab in tabs:
        await capture(tab, 60)
    syncs = [await tab.evaluate_handle("({ sync: telemetry.sync() })") for tab in tabs]
    results = [await sync.evaluate("async ({ sync }) => await sync") for sync in syncs]
    await intake.holding(180)
    assert set(intake.arrivals.values()) == {1}
    assert sum(result["successCount"] for result in results) == 180
    assert [(await status(tab))["pending"] for tab in tabs] == [0, 0, 0]


async def test_a_tab_sends_what_a_closed_one_left(open_page: Opener, intake: RecordingIntake) -> None:
    stays = await open_page(**NEVER)
    goes = await open_page(**NEVER, script=LOSE_BEACONS)
    ids = await capture(goes, 5)
    await goes.close(run_before_unload=True)
    await stays.evaluate("telemetry.sync()")
    assert [event["id"] for event in await intake.holding(5)] == ids


async def test_seq_is_one_count_for_all_tabs(open_page: Opener, intake: RecordingIntake) -> None:
    tabs = [await open_page(**NEVER, sessionId=SESSION) for _ in range(2)]
    for count, tab in enumerate([*tabs, *tabs]):
        # Tabs see each other's numbers a moment later; no learner is that quick.
        await until(
            tab, f"(JSON.parse(localStorage['pisync-telemetry'] ?? '{{}}').seqs?.['{SESSION}'] ?? 0) === {5 * count}"
        )
        await capture(tab, 5, "QUESTION_VIEWED")
    await tabs[0].evaluate("telemetry.sync()")
    assert [event["seq"] for event in await intake.holding(20)] == list(range(1, 21))


@pytest.mark.parametrize(
    "script",
    [
        "Object.defineProperty(window, 'indexedDB', { value: undefined })",
        "IDBFactory.prototype.open = () => { throw new DOMException('private', 'SecurityError') }",
        "IDBDatabase.prototype.transaction = () => { throw new DOMException('full', 'QuotaExceededError') }",
    ],
    ids=["none", "forbidden", "broken"],
)
async def test_without_a_database_events_wait_in_memory(
    open_page: Opener, intake: RecordingIntake, script: str
) -> None:
    page = await open_page(**NEVER, script=script)
    await capture(page, 60)
    await page.evaluate("telemetry.sync()")
    await intake.holding(60)
    seen = await status(page)
    assert (seen["storage"], seen["pending"]) == ("memory", 0)
    assert seen["storageReason"]
    await capture(page, 3)
    await page.goto("about:blank")
    await intake.holding(63)


async def test_without_local_storage_a_page_counts_for_itself(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(
        **NEVER, sessionId=SESSION, script="Object.defineProperty(window, 'localStorage', { value: undefined })"
    )
    await capture(page, 3, "QUESTION_VIEWED")
    await page.evaluate("telemetry.sync()")
    assert [event["seq"] for event in await intake.holding(3)] == [1, 2, 3]


async def test_at_the_ceiling_behaviour_goes_first_and_answers_last(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, sessionId=SESSION, maxEvents=20)
    await capture(page, 15, "ANSWER_SELECTED")
    await capture(page, 10, "lesson.step")
    await capture(page, 20, "PAUSE_BLUR")
    await capture(page, 3, "ANSWER_CHANGED")
    await page.evaluate("telemetry.sync()")
    kept = [event["event_type"] for event in await intake.holding(20)]
    assert kept == ["ANSWER_SELECTED"] * 15 + ["ANSWER_CHANGED"] * 3 + ["lesson.step"] * 2
    assert (await status(page))["dropped"] == 28
    await page.reload()
    await start(page, **NEVER)
    assert (await status(page))["dropped"] == 28


async def test_the_ceiling_counts_bytes_too(open_page: Opener, intake: RecordingIntake) -> None:
    page = await open_page(**NEVER, maxBytes=20_000)
    await page.evaluate("for (let i = 0; i < 30; i++) telemetry.track('a', { text: 'x'.repeat(1000), i })")
    await page.evaluate("telemetry.sync()")
    left = len(await intake.stored())
    assert 10 < left < 20
    assert (await status(page))["dropped"] == 30 - left


async def test_a_killed_browser_sends_when_it_is_started_again(
    chromium: str, intake: RecordingIntake, tmp_path: Path
) -> None:
    async with async_playwright() as playwright:

        async def launch() -> BrowserContext:
            return await playwright.chromium.launch_persistent_context(
                tmp_path / "profile", executable_path=chromium, args=ARGUMENTS
            )

        context = await launch()
        page = await context.new_page()
        await page.goto(intake.url)
        await start(page, **NEVER)
        ids = await capture(page, 5)
        assert await page.evaluate(SAVED) == 5
        async with context.expect_event("close"):
            for process in _of_profile(tmp_path / "profile"):
                process.send_signal(signal.SIGKILL)
        assert intake.requests == []
        (tmp_path / "profile" / "SingletonLock").unlink(missing_ok=True)
        context = await launch()
        page = await context.new_page()
        await page.goto(intake.url)
        await start(page, **NEVER)
        assert [event["id"] for event in await intake.holding(5)] == ids
        await context.close()


def _of_profile(profile: Path) -> list[psutil.Process]:
    """The browser that this test started: a child of this process that names the profile."""
    words = f"--user-data-dir={profile}"
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended since, a zombie among them
            if words in child.cmdline():
                found.append(child)
    return found
