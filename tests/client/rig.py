"""A server on a real socket that answers by the contract, in a thread of its own, or as a test wants it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from pisyncd.client.blocking import TelemetryClient

ROOT = Path(__file__).resolve().parents[2]
USER = "11111111-1111-4111-8111-111111111111"
SESSION = "22222222-2222-4222-8222-222222222222"
QUESTION = "33333333-3333-4333-8333-333333333333"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in it, of either path."""
        if self.path == "/v1/telemetry/events":
            return list(self.body["events"])
        return [item["itemData"] for item in self.body["items"]]


Client = Callable[..., TelemetryClient]
Answering = Callable[[Asked], web.Response | None]


class Server:
    """Answers on `path`. `answering` may answer instead, by returning something."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[Asked] = []
        self.answering: Answering = lambda asked: None
        self.port = 0
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Server:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[-1][1]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        asked = Asked(method=request.method, path=request.path, headers=dict(request.headers), body=body)
        answer = self.answering(asked)
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        return answer or self.by_contract(asked)

    def by_contract(self, asked: Asked) -> web.Response:
        if asked.path == "/v1/telemetry/events":
            return accepted(len(asked.events))
        if asked.path == "/api/telemetry/batch":
            return batched([(item["id"], "synced") for item in asked.body["items"]])
        return problem(404, "route-unknown")

    def wait_for(self, true: Callable[[Server], bool], what: str = "it") -> None:
        """Until a request has made it true."""
        with self._changed:
            assert self._changed.wait_for(lambda: true(self), 60), f"{what} did not happen; {len(self.asked)} requests"

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that came, in their order."""
        return [
            event
            for asked in self.asked
            if asked.method == "POST" and "telemetry" in asked.path
            for event in asked.events
        ]

    @property
    def ids(self) -> list[str]:
        return [event.get("id") or event["eventId"] for event in self.events]


def accepted(count: int, *reasons: dict[str, Any], rejected: int | None = None) -> web.Response:
    refused = len(reasons) if rejected is None else rejected
    return web.json_response(
        {"accepted": count - refused, "rejected": refused, "rejected_reasons_sample": list(reasons)}
    )


def batched(results: list[tuple[str, str]]) -> web.Response:
    good = sum(status in ("synced", "duplicate") for _, status in results)
    data = {
        "processed": len(results),
        "successful": good,
        "failed": len(results) - good,
        "conflicts": 0,
        "duplicates": 0,
        "results": [{"itemId": each, "status": status, "code": f"item-{status}"} for each, status in results],
    }
    return web.json_response({"success": True, "data": data})


def problem(status: int, code: str, **headers: str) -> web.Response:
    return web.json_response(
        {"code": code, "detail": f"it is {code}", "hint": "", "retryable": False, "status": status},
        status=status,
        content_type="application/problem+json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def program(code: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """Another process that runs `code` with the client importable, without site-packages."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
