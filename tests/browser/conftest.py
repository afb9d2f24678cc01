"""A real headless Chromium, one for the session; a context of its own, an empty profile, for every test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from intake_rig import RecordingIntake
from page_rig import ARGUMENTS, Opener, start
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

ROOT = Path(__file__).resolve().parents[2]
# What Chromium itself writes to the console when a request fails; no page can prevent it.
BROWSER_SAYS = ("Failed to load resource", "Access to fetch at")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is; scripts/browser gets it when it can, else the test is skipped with what it says."""
    if shutil.which("chromium") is None:
        done = subprocess.run([ROOT / "scripts/browser"], capture_output=True, text=True, timeout=540)
        if done.returncode:
            pytest.skip(done.stdout.strip() or done.stderr.strip())
    found = shutil.which("chromium")
    assert found is not None
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="session")
async def intake() -> AsyncIterator[RecordingIntake]:
    async with RecordingIntake().serving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, intake: RecordingIntake) -> AsyncIterator[BrowserContext]:
    """Closed before the intake is, so that no request of a dying page hangs on a server that waits for it."""
    fresh = await browser.new_context()
    fresh.set_default_timeout(60_000)
    yield fresh
    intake.gate.set()
    await fresh.close()


@pytest.fixture
def loud() -> list[str]:
    """What the pages of a test have said louder than console.debug, or thrown: a learner must see none of it."""
    return []


def listen(page: Page, loud: list[str]) -> None:
    page.on("pageerror", lambda error: loud.append(str(error)))
    page.on(
        "console",
        lambda said: (
            loud.append(said.text) if said.type != "debug" and not said.text.startswith(BROWSER_SAYS) else None
        ),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(context: BrowserContext, intake: RecordingIntake, loud: list[str]) -> AsyncIterator[Opener]:
    """Opens a page with `window.telemetry` initialized by the options given; `at` is the page's base URL."""

    async def opened(*, at: str | None = None, script: str | None = None, **options: Any) -> Page:
        page = await context.new_page()
        listen(page, loud)
        if script is not None:
            await page.add_init_script(script)
        await page.goto((at or intake.url) + "/")
        await start(page, **options)
        return page

    yield opened
    assert loud == []
