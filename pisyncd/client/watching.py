"""Following the device's syncs: looks at the status now and then and tells what has changed."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from pisyncd.client import calls
from pisyncd.client.core import SYNC_S, Core
from pisyncd.client.errors import ClientError
from pisyncd.client.events import now_rfc3339
from pisyncd.client.handlers import Handlers
from pisyncd.client.views import Problem

SOON_S = 1.0
SOON_FOR_S = 60.0

Change = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is compared of a status: `mark` grows or changes with every sync that ended."""

    mark: Any = None
    sending: bool = False
    error: Any = None


def seen(status: dict[str, Any]) -> Seen:
    """Of the daemon's /status, or of /api/telemetry/status."""
    if isinstance(sync := status.get("syncStatus"), dict):
        return Seen(mark=sync.get("lastSyncTime"), error=sync.get("lastError"))
    newest = max((cycle["id"] for cycle in _cycles(status)), default=0)
    return Seen(mark=newest, sending=status.get("verdict") == "sending")


def changes(before: Seen | None, status: dict[str, Any], *, asked: bool) -> list[Change]:
    """What to tell, oldest first. The first look tells nothing: it is not known what was there before.

    `asked`: this application has triggered a sync and has not heard of it yet; then being offline is a failure, too.
    """
    if before is None:
        return []
    now = seen(status)
    if "syncStatus" in status:
        return _of_cloud(before, now, status)
    told: list[Change] = []
    if now.sending and not before.sending and not asked:
        told.append(("sync:start", {}))
    for cycle in sorted(_cycles(status), key=lambda each: int(each["id"])):
        if cycle["id"] > before.mark:
            told += _of_cycle(cycle, asked=asked)
    return told


def _of_cycle(cycle: dict[str, Any], *, asked: bool) -> list[Change]:
    outcome = cycle.get("outcome")
    if outcome == "failed" or (outcome == "offline" and asked):
        return [("sync:failed", cycle)]
    return [] if outcome == "offline" else [("sync:complete", cycle)]


def _of_cloud(before: Seen, now: Seen, status: dict[str, Any]) -> list[Change]:
    told: list[Change] = []
    if now.mark != before.mark and now.mark is not None:
        told.append(("sync:complete", status["syncStatus"]))
    if now.error != before.error and now.error:
        told.append(("sync:failed", status["syncStatus"]))
    return told


def _cycles(status: dict[str, Any]) -> list[dict[str, Any]]:
    found = status.get("cycles")
    return (
        [each for each in found if isinstance(each, dict) and isinstance(each.get("id"), int)]
        if isinstance(found, list)
        else []
    )


class Watch:
    """See SyncClient. `telemetry` is what trigger_sync flushes where there is no daemon to ask."""

    def __init__(self, core: Core, telemetry: Core, interval_s: float) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s is a number of seconds, not {interval_s!r}")
        self.core = core
        self.telemetry = telemetry
        self.handlers = Handlers()
        self.last_error: Problem | None = None
        self._interval_s = interval_s
        self._look = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped = True
        self._before: Seen | None = None
        self._asked_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether it follows. In a forked process it does not until it is started again."""
        return not self._stopped and self._pid == os.getpid()

    def start(self) -> None:
        """Starts following; nothing happens when it does already."""
        if self.running:
            return
        self._look, self._stopped, self._pid, self._before = threading.Event(), False, os.getpid(), None
        self._thread = threading.Thread(target=self._run, args=(self._look,), name="pisync-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends following; a look under way tells nothing any more."""
        self._stopped = True
        self._look.set()

    def trigger(self) -> dict[str, Any]:
        """POST /sync at the daemon; at an address, flushes the telemetry queue. Raises ClientError."""
        if self.core.config.url is not None:
            return self._flushed()
        done = self.core.request("POST", "/sync")
        self.handlers.emit("sync:start", done)
        self._asked_at = time.monotonic()
        self._look.set()
        return done

    def _flushed(self) -> dict[str, Any]:
        self.handlers.emit("sync:start", {})
        result = self.telemetry.sync(SYNC_S)
        self.handlers.emit("sync:complete" if result["ok"] else "sync:failed", result)
        return dict(result)

    def look(self) -> None:
        """One look, in the caller's thread. Never raises."""
        try:
            status = calls.status(self.core)
            asked = self._asked_at is not None
            told = changes(self._before, status, asked=asked)
            self._before = seen(status)
        except ClientError as error:
            self.last_error = Problem(code=error.code, detail=error.detail, hint=error.hint, at=now_rfc3339())
            return
        except Exception as error:
            self.last_error = Problem(code="answer-strange", detail=repr(error)[:500], hint="", at=now_rfc3339())
            return
        for name, detail in told:
            if name != "sync:start":
                self._asked_at = None
            if not self._stopped or not self._pid:
                self.handlers.emit(name, detail)

    def _run(self, look: threading.Event) -> None:
        while not self._stopped and self._look is look:
            look.clear()
            self.look()
            look.wait(self._wait_s())

    def _wait_s(self) -> float:
        if self._asked_at is not None:
            if time.monotonic() - self._asked_at < SOON_FOR_S:
                return min(SOON_S, self._interval_s)
            self._asked_at = None
        return self._interval_s
