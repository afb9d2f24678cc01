"""The thread that sends what waits: at 10 events, after 12 s, when asked. One process at a time sends from a queue."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from pisyncd.client import rules, settings
from pisyncd.client.events import now_rfc3339
from pisyncd.client.queuefile import StoreTrouble
from pisyncd.client.rules import Later, Settled, Smaller, Trouble
from pisyncd.client.settings import Settings
from pisyncd.client.store import Group, Store
from pisyncd.client.transport import Answer, Link, Unreachable
from pisyncd.client.views import Problem, SyncResult
from pisyncd.client.writer import DISK_HINT

LOOK_S = 0.05
TURN_LOOK_S = 0.05
TURN_RETRY_S = 1.0
TURN_WAIT_S = 30.0
#: No limit to a group but its path's.
ANY = 1_000_000

Emit = Callable[[str, object], None]


class Sender:
    """Sends from `stores`; `emit` hears of `sync:start`, `sync:complete` and `sync:failed`."""

    def __init__(self, config: Settings, token: str | None, stores: Sequence[Store], emit: Emit) -> None:
        self._config = config
        self._stores = stores
        self._emit = emit
        self._inbox: queue.SimpleQueue[Future[SyncResult] | None] = queue.SimpleQueue()
        self._chance = random.Random()  # noqa: S311  (spreads attempts, hides nothing)
        self._woken = False
        # Captured since the last look; at the start, by whoever was here before.
        self._fresh = 1
        self._stopping = False
        self._asked_to_wait_until = 0.0
        self._counted = (0, 0)
        self.turn = _Turn(config.path)
        self._token = token
        self.failures = 0
        self.due = 0.0
        self.busy = False
        self.last_error: Problem | None = None
        self.last_sync_at: str | None = None

    @property
    def user_id(self) -> str | None:
        """Whose events may be sent; None is anybody's."""
        return settings.bound_user(self._config.url, self._token)

    def grown(self, events: int) -> None:
        """Hears how many were captured; wakes the thread when there are enough for a request."""
        self._fresh += events
        if self._fresh >= self._config.flush_count and not self._woken and time.monotonic() >= self.due:
            self._woken = True
            self._inbox.put(None)

    def renew(self, token: str | None) -> None:
        """Another token; it is tried at once."""
        self._token, self.due = token, 0.0
        self._inbox.put(None)

    def ask(self, result: Future[SyncResult]) -> None:
        """Sends at once, backing off or not; `result` is set afterwards."""
        self._inbox.put(result)

    def stop(self) -> None:
        """Ends the thread after the request under way."""
        self._stopping = True
        self._inbox.put(None)

    def run(self) -> None:
        """The thread."""
        wait_s = 0.0
        while not self._stopping:
            wait_s = self.step(wait_s)
        self._tell(self._collect(0.0), self._result(_problem(Trouble(code="closed", detail="the client is closed"))))

    def step(self, wait_s: float) -> float:
        """Waits until there is something to do or `wait_s` are over, does it; the seconds until the next look."""
        asked = self._collect(wait_s)
        self._woken, fresh = False, self._fresh
        try:
            result = self._round(forced=bool(asked)) if asked or time.monotonic() >= self.due else self._result(None)
        except Exception as error:
            # A thread that ends would send nothing any more.
            result = self._postponed(self._silence(Trouble(code="internal", detail=repr(error)[:500])))
        self._tell(asked, result)
        if fresh:
            self._fresh = max(0, self._fresh - fresh)
            self._housekeep()
        left = max(0.0, self.due - time.monotonic()) or self._config.flush_s
        return max(LOOK_S, min(self._config.flush_s, left))

    def _tell(self, asked: Sequence[Future[SyncResult]], result: SyncResult) -> None:
        for each in asked:
            if each.set_running_or_notify_cancel():
                each.set_result(result)

    def _collect(self, wait_s: float) -> list[Future[SyncResult]]:
        found: list[Future[SyncResult]] = []
        with contextlib.suppress(queue.Empty):
            item = self._inbox.get(timeout=max(0.001, wait_s))
            while True:
                found += [] if item is None else [item]
                item = self._inbox.get(block=False)
        return found

    def _round(self, *, forced: bool) -> SyncResult:
        self._counted = (0, 0)
        if (left := self._asked_to_wait_until - time.monotonic()) > 0:
            return self._result(_problem(Trouble(code="asked-to-wait", detail=f"for {left:.0f} s more")))
        with self.turn.taken(self._owes if forced else None) as mine:
            if mine:
                return self._deliver(forced=forced)
        self.due = time.monotonic() + TURN_RETRY_S
        if forced and self._owes():
            return self._result(_problem(Trouble(code="queue-in-use", detail="another process is sending from it")))
        return self._result(None)

    def _owes(self) -> bool:
        if self._stopping:
            return False
        for store in self._stores:
            with contextlib.suppress(StoreTrouble):
                if store.count_of(self.user_id):
                    return True
        return False

    def _deliver(self, *, forced: bool) -> SyncResult:
        result = self._result(None)
        if not forced and not self._owes():
            return result
        self.busy = True
        try:
            self._emit("sync:start", {"pending": result["pending"]})
            later = self._drain_all()
        finally:
            self.busy = False
        if later is None:
            self.failures, self.due = 0, 0.0
            self.last_sync_at = now_rfc3339()
            result = self._result(None)
        else:
            result = self._postponed(later)
        self._emit("sync:complete" if later is None else "sync:failed", result)
        return result

    def _housekeep(self) -> None:
        for store in self._stores:
            with contextlib.suppress(StoreTrouble):
                store.housekeep()

    def _drain_all(self) -> Later | None:
        link = Link(self._config, self._token)
        try:
            for store in self._stores:
                if later := self._drain(store, link):
                    return later
        finally:
            link.close()
        return None

    def _drain(self, store: Store, link: Link) -> Later | None:
        """Sends what waited at the beginning. Each turn takes events out, halves the group, or ends."""
        upto, limit = None, ANY
        while not self._stopping:
            try:
                upto = store.newest() if upto is None else upto
                group = store.take(upto=upto, user_id=self.user_id, count_max=limit)
            except StoreTrouble as error:
                # What cannot be read is no reason not to send what is in the other one.
                self.last_error = _problem(Trouble(code=error.code, detail=error.detail, hint=DISK_HINT))
                return None
            if group is None:
                return None
            match self._offer(group, link):
                case Later() as later:
                    return later
                case Smaller():
                    limit = max(1, len(group.events) // 2)
                case Settled() as settled:
                    if trouble := self._settle(store, group, settled):
                        return trouble
                    limit = min(limit * 2, ANY)
        return None

    def _settle(self, store: Store, group: Group, settled: Settled) -> Later | None:
        try:
            sent, failed = store.settle(group, settled)
        except StoreTrouble as error:
            # They are sent again, which is safe, but not at once and for ever.
            return self._silence(Trouble(code=error.code, detail=error.detail))
        self._counted = (self._counted[0] + sent, self._counted[1] + failed)
        for trouble in settled.failed.values():
            self.last_error = _problem(trouble)
        self.failures = 0
        return None

    def _offer(self, group: Group, link: Link) -> rules.Decision:
        """One request and what follows from it."""
        path, body = request_of(group, self._config.source)
        try:
            user = "" if self.user_id else group.user_id
            answer = link.ask("POST", path, body, user_id=user)
            return self._judged(group, answer)
        except Unreachable as silent:
            return self._silence(Trouble(code=silent.code, detail=silent.detail, hint=silent.hint))
        except rules.Strange as strange:
            return self._silence(Trouble(code="answer-strange", detail=f"{self._config.where}: {strange}"))

    def _judged(self, group: Group, answer: Answer) -> rules.Decision:
        if 200 <= answer.status < 300:
            if group.kind == "learning":
                return rules.judge_learning(len(group.events), answer.body)
            return rules.judge_batch([event.id for event in group.events], answer.body)
        return rules.after_answer(
            answer.status,
            rules.trouble_of(answer.status, answer.body),
            events=len(group.events),
            failures=self.failures + 1,
            chance=self._chance.random(),
            retry_after_s=rules.retry_after_s(answer.retry_after, datetime.now(UTC)),
        )

    def _silence(self, trouble: Trouble) -> Later:
        return rules.after_silence(trouble, self.failures + 1, self._chance.random())

    def _postponed(self, later: Later) -> SyncResult:
        self.failures += 1
        self.due = time.monotonic() + later.seconds
        if later.asked:
            self._asked_to_wait_until = self.due
        self.last_error = _problem(later.trouble)
        return self._result(self.last_error)

    def _result(self, error: Problem | None) -> SyncResult:
        pending = 0
        for store in self._stores:
            with contextlib.suppress(StoreTrouble):
                pending += store.totals().pending
        sent, failed = self._counted
        return SyncResult(ok=error is None, sent=sent, failed=failed, pending=pending, error=error)


def request_of(group: Group, source: str) -> tuple[str, bytes]:
    """Path and body for a group."""
    if group.kind == "learning":
        events = [each.body if each.seq is None else f'{each.body[:-1]},"seq":{each.seq}}}' for each in group.events]
        return rules.LEARNING_PATH, f'{{"source":{json.dumps(source)},"events":[{",".join(events)}]}}'.encode()
    items = [f'{{"itemType":"event","id":{json.dumps(each.id)},"itemData":{each.body}}}' for each in group.events]
    # Named by its content: the same events again are the same batch.
    name = f"{group.events[0].id}-{len(group.events)}"
    return rules.BATCH_PATH, f'{{"batchId":{json.dumps(name[-128:])},"items":[{",".join(items)}]}}'.encode()


def _problem(trouble: Trouble) -> Problem:
    return Problem(code=trouble.code, detail=trouble.detail, hint=trouble.hint, at=now_rfc3339())


class _Turn:
    """Whose turn it is to send, among all that share a queue. The kernel takes it from a process that dies."""

    def __init__(self, queue_path: Path) -> None:
        self._path = queue_path.with_name(queue_path.name + ".lock")
        self.fd: int | None = None

    @contextlib.contextmanager
    def taken(self, worth_waiting: Callable[[], bool] | None) -> Iterator[bool]:
        """Gives whether it is ours; waits for it as long as `worth_waiting()`."""
        try:
            self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            # Sending twice is safe, not sending is not.
            yield True
            return
        try:
            yield self._locked(worth_waiting, time.monotonic() + TURN_WAIT_S)
        finally:
            # Also told to the kernel: a child that was forked meanwhile holds the same lock by the same descriptor.
            with contextlib.suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)
            self.fd = None

    def let_go(self) -> None:
        """In a forked child: a turn of the parent's must not last as long as the child."""
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = None

    def _locked(self, worth_waiting: Callable[[], bool] | None, until: float) -> bool:
        assert self.fd is not None
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if worth_waiting is None or time.monotonic() >= until or not worth_waiting():
                    return False
                time.sleep(TURN_LOOK_S)
            except OSError:
                return True
            else:
                return True
