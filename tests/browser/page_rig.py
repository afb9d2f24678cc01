"""What a page of a test does: start the client, capture, tell its status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import Page

# A name that is not loopback: to the browser an origin without TLS, as a PiBox has in a classroom's network.
INSECURE_HOST = "box.test"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1",
]
NEVER = {"flushEvents": 10_000, "flushMs": 3_600_000}
SESSION = "6b7d0a52-3f0e-4f52-9d0b-6a2b8f6f3c11"

Opener = Callable[..., Awaitable[Page]]


async def start(page: Page, **options: Any) -> None:
    """Starts the client in a page that is there already, as a lesson does when it loads."""
    await page.evaluate(
        """async (options) => {
            const { TelemetryService, SyncService } = await import("/telemetry.js");
            window.SyncService = SyncService;
            window.heard = [];
            window.telemetry = new TelemetryService(options);
            for (const name of ["sync:start", "sync:complete", "sync:failed"])
                telemetry.on(name, (detail) => heard.push({ name, ...detail }));
            await telemetry.initialize();
        }""",
        options,
    )


async def capture(page: Page, count: int, name: str = "lesson.step") -> list[str]:
    """Ids of `count` events captured in one go."""
    ids: list[str] = await page.evaluate(
        "([count, name]) => Array.from({ length: count }, (_, i) => telemetry.captureEvent(name, { i }))", [count, name]
    )
    return ids


async def status(page: Page) -> dict[str, Any]:
    seen: dict[str, Any] = await page.evaluate("telemetry.getStatus()")
    return seen


async def until(page: Page, condition: str) -> None:
    """Waits until a JavaScript expression is true in the page."""
    await page.wait_for_function(condition)
