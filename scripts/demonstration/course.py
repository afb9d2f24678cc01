"""The course of one demonstration: watch, wait until everything is there, prove it, sum it up."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import reading
import stage
from cloudview import CloudView, Stored
from progress import Screen
from proof import Comparison, Prover
from watched import Watched
from weather import Link

from pisyncd.core.units import size

POLL_S = 0.25
COMPARE_EVERY_S = 1.5
WRITER_RUNS_AT_LEAST_S = 3.0
STUCK_AFTER_S = 120.0
IDLE_AFTER_S = 15.0
MOVING_AFTER_S = 60.0
EVENT_WITHIN_S = 30.0
FAILURES_MAX = 500


@dataclass(kw_only=True)
class Result:
    """How it ended: what compares how, what is in the cloud, what was read back, the sync events, and in what time."""

    comparison: Comparison = field(default_factory=Comparison)
    stored: dict[bytes, Stored] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    read_files: int = 0
    read_bytes: int = 0
    wrong: list[bytes] = field(default_factory=list)
    why_not: str = ""
    took_s: float = 0.0

    @property
    def complete(self) -> bool:
        return not self.why_not


@dataclass(kw_only=True)
class Course:
    """One run. `writer` keeps changing the sample's database, None for somebody's own folder."""

    play: stage.Stage
    watched: Watched
    screen: Screen
    link: Link
    writer: stage.Process | None

    def __post_init__(self) -> None:
        self.cloud = CloudView(self.play.port, self.play.viewer_key, stage.DEVICE_ID)
        self.prover = Prover(self.watched.path, self.watched.name.encode(), self.cloud, self.play.at.base)

    def greet(self) -> None:
        """Says what was found and where to look."""
        say = self.screen.say
        say(f"found {self.watched.files:,} files, {size(self.watched.size)}")
        say(f"page of the device: {self.play.url}/devices/{stage.DEVICE_ID}")
        say(f"its status, in another terminal: {stage.BIN}/pisyncctl --socket {self.play.at.socket} status")

    def until_interrupted(self) -> int:
        """Shows what happens until Ctrl-C; comes back only by an exception."""
        found = reading.Found(self.watched.files, self.watched.size)
        busy = True
        for status in self._statuses():
            progress = found.progress(status)
            self.screen.show(progress)
            self.link.advance(progress.done, self.screen.say)
            if busy and not progress.owed_files:
                self.screen.say("everything is delivered; change something in the folder, or end with Ctrl-C")
            busy = bool(progress.owed_files)
        raise AssertionError("the statuses never end")

    def deliver(self) -> Result:
        """Waits until everything is in the cloud or nothing moves any more, then reads it back."""
        result, began = Result(), time.monotonic()
        result.why_not = self._until_delivered(result, began)
        result.took_s = time.monotonic() - began
        if not result.comparison.made:
            self._compare(result)
        if result.comparison.same or result.comparison.snapshots:
            self._read_back(result)
        if not result.why_not:
            self._wait_for_event(result)
        status = self.play.ask("GET", "/status") or {}
        result.failures = status.get("failures", [])
        self.screen.close()
        return result

    def _statuses(self) -> Iterator[dict[str, Any]]:
        """The device's status about every POLL_S seconds. Raises Trouble when a process has ended by itself."""
        while True:
            for process in (self.play.cloud, self.play.device):
                if not process.running:
                    raise stage.Trouble(f"{process.name} ended with code {process.exit_code}:\n{process.tail()}")
            if (status := self.play.ask("GET", "/status")) is not None:
                yield status
            time.sleep(POLL_S)

    def _until_delivered(self, result: Result, began: float) -> str:
        """Empty when everything is delivered, else why not."""
        found = reading.Found(self.watched.files, self.watched.size)
        moved_at = compared_at = began
        seen: object = None
        for status in self._statuses():
            progress, now = found.progress(status), time.monotonic()
            self.screen.show(progress)
            self.link.advance(progress.done, self.screen.say)
            self._end_writer(progress.owed_files, now - began)
            if (state := (progress.owed_files, progress.owed_bytes, result.comparison.open)) != seen:
                seen, moved_at = state, now
            idle = reading.scanned(status) and not reading.under_way(status, self._failures(status))
            if (idle or now - began > MOVING_AFTER_S) and now - compared_at >= COMPARE_EVERY_S:
                self._compare(result)
                took = time.monotonic() - now
                # Looking through a large folder takes its time; most of it should go to the delivery.
                compared_at = time.monotonic() + 4 * took
                if self._is_done(result.comparison, idle, began):
                    return ""
                if idle and result.comparison.locked == result.comparison.open:
                    return f"{result.comparison.locked} files or folders cannot be read by this user"
            if self._still_for(moved_at) > (IDLE_AFTER_S if idle else STUCK_AFTER_S):
                return f"nothing moved for {self._still_for(moved_at):.0f} s"
        raise AssertionError("the statuses never end")

    def _failures(self, status: dict[str, Any]) -> list[dict[str, Any]]:
        """All that failed; the status itself names only the first few."""
        few: list[dict[str, Any]] = status["failures"]
        owed = status["queue"]["files"]["count"]
        if owed <= len(few) or not few or owed > FAILURES_MAX:
            return few
        page = self.play.ask("GET", f"/failures?limit={FAILURES_MAX}")
        more: list[dict[str, Any]] = page["failures"] if page else few
        return more

    def _still_for(self, moved_at: float) -> float:
        return time.monotonic() - moved_at

    def _compare(self, result: Result) -> None:
        try:
            result.stored = self.cloud.files()
            result.comparison = self.prover.compare(*self.watched.now(), result.stored)
        except (OSError, http.client.HTTPException) as error:
            self.screen.say(f"the cloud cannot be read: {error}")

    def _is_done(self, comparison: Comparison, idle: bool, began: float) -> bool:
        """Complete; or, in a folder that never rests, complete but for what changed just now."""
        if comparison.complete:
            return idle
        only_fresh = comparison.made and comparison.open == len(comparison.fresh)
        return only_fresh and time.monotonic() - began > MOVING_AFTER_S

    def _end_writer(self, owed_files: int, ran_s: float) -> None:
        """The sample's database is written to until nothing else is owed; then it is compared row by row."""
        if self.writer and self.writer.running and owed_files <= 1 and ran_s >= WRITER_RUNS_AT_LEAST_S:
            self.writer.stop()
            self.screen.say(f"the writing application ended: {self.writer.tail(1)}")

    def _read_back(self, result: Result) -> None:
        files = result.comparison.same + result.comparison.snapshots
        self.screen.say(f"reading {len(files):,} files back from the cloud")
        try:
            read = self.prover.read_back(files, result.stored)
        except (OSError, http.client.HTTPException) as error:
            result.why_not = result.why_not or f"reading back failed: {error}"
            return
        result.read_files, result.read_bytes, result.wrong = read
        if result.wrong:
            result.why_not = f"{len(result.wrong)} files read back are not what the cloud says they are"

    def _wait_for_event(self, result: Result) -> None:
        """A sync cycle on demand closes the delivery; its event is part of what is owed."""
        self.play.ask("POST", "/sync")
        deadline = time.monotonic() + EVENT_WITHIN_S
        for status in self._statuses():
            result.events = self.cloud.history()
            if result.events and not reading.messages(status):
                return
            if time.monotonic() > deadline:
                break
        result.why_not = "the files are there, but no sync event reached the cloud"
