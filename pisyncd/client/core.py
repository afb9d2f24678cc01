"""The one core behind both faces: capturing, syncing, telling how it is, and the calls that are answered."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from pisyncd.client import events, rules, settings
from pisyncd.client.engine import Engine, starting
from pisyncd.client.errors import ClientError
from pisyncd.client.events import Event, Spoiled, now_rfc3339
from pisyncd.client.handlers import Handlers
from pisyncd.client.queuefile import StoreTrouble
from pisyncd.client.settings import Options
from pisyncd.client.store import Failure, Totals
from pisyncd.client.transport import Link, Unreachable
from pisyncd.client.views import ClientStatus, FailureView, Problem, SyncResult
from pisyncd.client.writer import DISK_HINT, Captured

#: A capture waits at most so long until it is on disk; usually that is a fraction of a millisecond.
KEPT_WAIT_S = 0.25
#: The first one of a process, which finds the queue not yet opened, so long at most; `initialize` opens it.
OPEN_WAIT_S = 1.0
INITIALIZE_S = 5.0
SYNC_S = 30.0
SUBMIT_S = 3.0
FAILURES_SHOWN = 5


#: event_type, event_data, metadata, session_id, question_id
Wanted = tuple[Any, Any, Any, Any, Any]


class Kept:
    """Events on their way to the disk: their ids, None for what could not be made into one."""

    def __init__(self, ids: list[str | None], done: Future[bool], engine: Engine | None) -> None:
        self.ids = ids
        self.done = done
        self._engine = engine

    @property
    def first(self) -> str | None:
        """The id of a single event."""
        return self.ids[0] if self.ids else None

    def worth_waiting(self) -> bool:
        """False while the disk is behind: the application does not stand still with it."""
        if self.done.done():
            return False
        return self._engine is not None and not self._engine.writer.behind and not self._engine.inside()

    def wait_s(self) -> float:
        """At most so long; the first events also wait for the queue to be opened."""
        opened = self._engine is None or self._engine.writer.opened.is_set()
        return KEPT_WAIT_S if opened else OPEN_WAIT_S

    def too_late(self) -> None:
        """It took longer than that: who comes next does not wait until the disk has caught up."""
        if self._engine is not None and not self.done.done():
            self._engine.writer.behind = True

    def wait(self) -> None:
        """Until it is on disk, at most `wait_s`."""
        if self.worth_waiting():
            try:
                self.done.result(self.wait_s())
            except FutureTimeout:
                self.too_late()


class Core:
    """See TelemetryClient. Any thread may call anything; `capture` never raises and never waits."""

    def __init__(self, options: Options) -> None:
        self.config = settings.read(options)
        self.session_id = self.config.session_id
        self.handlers = Handlers()
        self._token = self.config.token
        self._bound = settings.bound_user(self.config.url, self.config.token)
        self._engine: Engine | None = None
        self._on_disk = True
        self._lost = 0

    def engine(self) -> Engine:
        """The running engine of this process; started when there is none."""
        engine = self._engine
        if engine is not None and engine.pid == os.getpid():
            return engine
        if engine is not None:
            self._on_disk = engine.left_behind() and self._on_disk
            self._engine = None
        with starting():
            if self._engine is None:
                made = Engine(self.config, self._token, self.handlers.emit, on_disk=self._on_disk)
                made.start()
                self._engine = made
            return self._engine

    # Recording

    def capture(self, wanted: Iterable[Wanted], *, at_once: bool = False) -> Kept:
        """Hands events over to be kept; `at_once` in this thread, if the disk is quick. Never raises."""
        made: list[Event] = []
        spoiled: list[Spoiled] = []
        ids: list[str | None] = []
        done: Future[bool] = Future()
        try:
            for each in wanted:
                event = self._make(*each)
                if isinstance(event, Event):
                    made.append(event)
                    ids.append(event.id)
                else:
                    spoiled.append(event)
                    ids.append(None)
        except Exception as error:
            spoiled.append(events.spoil("", error))
        try:
            engine = self.engine()
            captured = Captured(events=made, spoiled=spoiled, kept=done)
            if not (at_once and engine.writer.keep_now(captured)):
                engine.writer.put(captured)
            engine.keep()
        except Exception:
            self._lost += len(made) + len(spoiled)
            return Kept([None for _ in ids], done, None)
        return Kept(ids, done, engine)

    def _make(self, event_type: Any, data: Any, metadata: Any, session_id: Any, question_id: Any) -> Event | Spoiled:
        try:
            return events.make(
                event_type,
                data,
                metadata,
                user_id=self._user_id(),
                session_id=session_id,
                default_session_id=self.session_id,
                question_id=question_id,
            )
        except Exception as error:
            return events.spoil(event_type, error)

    def _user_id(self) -> str:
        return self._bound or self.config.user_id

    # Sending

    def flush(self) -> Future[SyncResult]:
        """Sends what is captured by now; the result comes when it is sent or cannot be. Never raises."""
        try:
            return self.engine().flush()
        except Exception as error:
            failed: Future[SyncResult] = Future()
            failed.set_result(unfinished("internal", repr(error)[:500]))
            return failed

    def sync(self, timeout_s: float) -> SyncResult:
        """Flushes and waits at most `timeout_s`. In a handler it does not wait. Never raises."""
        result = self.flush()
        if self._engine is not None and self._engine.inside():
            return unfinished("in-handler", "a handler cannot wait for the sync that calls it; it follows")
        try:
            return result.result(timeout_s)
        except FutureTimeout:
            return still_sending(timeout_s)

    def set_token(self, token: str | None) -> None:
        """Another token from now on, for example when a JWT was renewed. Raises ValueError."""
        settings.check_token(token)
        self._token = token
        self._bound = settings.bound_user(self.config.url, token)
        if self._engine is not None:
            self._engine.sender.renew(token)

    def retry_failed(self) -> int:
        """Puts what was refused for good into the queue again, as far as it is kept (1,000 events); how many."""
        try:
            return sum(store.retry_failed() for store in (self.engine().queue, self.engine().spare))
        except StoreTrouble as error:
            raise ClientError(error.code, error.detail, retryable=True) from error

    def close(self, timeout_s: float | None = None) -> SyncResult | None:
        """Flushes, at most `timeout_s` long (exit_s), and ends the threads. Capturing again starts them again."""
        engine = self._engine
        if engine is None or engine.pid != os.getpid():
            return None
        until = time.monotonic() + (self.config.exit_s if timeout_s is None else timeout_s)
        result = self.sync(max(0.0, until - time.monotonic()))
        self._engine = None
        engine.stop(until)
        return result

    # Telling

    def status(self) -> ClientStatus:
        """See ClientStatus. Never raises."""
        engine = self.engine()
        totals, waiting_in_memory, failures = Totals(), 0, list[Failure]()
        problems = [engine.sender.last_error, engine.writer.trouble]
        for store in (engine.queue, engine.spare):
            try:
                found = store.totals()
                totals = totals.plus(found)
                failures += store.failures(FAILURES_SHOWN)
                waiting_in_memory = found.pending if store.file.path is None else 0
            except StoreTrouble as error:
                problems.append(Problem(code=error.code, detail=error.detail, hint=DISK_HINT, at=now_rfc3339()))
        failures = sorted(failures, key=lambda each: each.at, reverse=True)[:FAILURES_SHOWN]
        if failures:
            newest = failures[0]
            problems.append(Problem(code=newest.code, detail=newest.detail, hint="", at=newest.at))
        due_s = engine.sender.due - time.monotonic()
        return ClientStatus(
            captured=totals.captured + self._lost + engine.writer.dropped,
            sent=totals.sent,
            failed=totals.failed + self._lost,
            dropped=totals.dropped + engine.writer.dropped,
            pending=totals.pending,
            pending_bytes=totals.bytes,
            unwritten=engine.writer.waiting,
            durable=engine.on_disk and not waiting_in_memory and not engine.writer.waiting,
            state=_state(engine.sender.busy, due_s, totals.pending),
            next_attempt_s=round(due_s, 1) if due_s > 0 else None,
            last_sync_at=engine.sender.last_sync_at,
            last_error=max((each for each in problems if each), key=lambda each: each["at"], default=None),
            failures=[_view(each) for each in failures],
            handler_errors=self.handlers.errors,
            destination=self.config.where,
            queue=str(self.config.path) if engine.on_disk else ":memory:",
        )

    # Calls that are answered

    def request(self, method: str, path: str, body: Any = None, *, fine: Iterable[int] = ()) -> dict[str, Any]:
        """One call, one attempt; the JSON object that it is answered with. Raises ClientError."""
        link = Link(self.config, self._token)
        try:
            answer = link.ask(method, path, body, user_id="" if self._bound else self.config.user_id)
        except Unreachable as silent:
            raise ClientError(silent.code, silent.detail, silent.hint, retryable=True) from silent
        except (TypeError, ValueError, RecursionError) as error:
            raise ClientError("request-invalid", f"cannot be written as JSON: {error}") from error
        finally:
            link.close()
        if not (200 <= answer.status < 300 or answer.status in fine):
            trouble = rules.trouble_of(answer.status, answer.body)
            raise ClientError(
                trouble.code,
                trouble.detail,
                trouble.hint,
                status=answer.status,
                retryable=answer.status in rules.RETRIED,
            )
        if not isinstance(answer.body, dict):
            hint = "look who answers there: a proxy, or a login page of a network"
            raise ClientError("answer-strange", f"{self.config.where} does not answer with JSON", hint, retryable=True)
        return answer.body


def wanted_of(captured: Iterable[Any]) -> Iterator[Wanted]:
    """What `capture` takes, from mappings in either spelling; what is none becomes an event that fails."""
    for each in captured:
        if not isinstance(each, Mapping):
            yield None, None, None, None, None
            continue
        yield (
            each.get("event_type", each.get("eventType")),
            each.get("event_data", each.get("eventData")),
            each.get("metadata"),
            each.get("session_id", each.get("sessionId")),
            each.get("question_id", each.get("questionId")),
        )


def _view(failure: Failure) -> FailureView:
    return FailureView(
        id=failure.id, event_type=failure.event_type, code=failure.code, detail=failure.detail, at=failure.at
    )


def unfinished(code: str, detail: str) -> SyncResult:
    """The result of a sync whose end is not known."""
    problem = Problem(code=code, detail=detail, hint="nothing is lost: sending goes on", at=now_rfc3339())
    return SyncResult(ok=False, sent=0, failed=0, pending=0, error=problem)


def still_sending(timeout_s: float) -> SyncResult:
    """The result of a sync that was waited for no longer."""
    return unfinished("still-sending", f"not done within {timeout_s:g} s")


def _state(busy: bool, due_s: float, pending: int) -> str:
    if busy:
        return "sending"
    if due_s > 0:
        return "backing-off"
    return "waiting" if pending else "idle"
