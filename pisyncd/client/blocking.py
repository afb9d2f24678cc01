"""The client as plain calls, for applications without asyncio.

from pisyncd.client.blocking import TelemetryClient

with TelemetryClient(application="reader", user_id=LEARNER) as client:
    client.capture_event("interview_completed", {"score": 85})
    session = client.create_session("practice", question_ids)
    client.capture_event("QUESTION_VIEWED", {"position": 0}, {"questionId": question_ids[0]})
    client.submit_session(session["id"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, Unpack

from pisyncd.client import calls
from pisyncd.client.calls import Id
from pisyncd.client.core import INITIALIZE_S, SUBMIT_S, SYNC_S, Core, wanted_of
from pisyncd.client.errors import ClientError
from pisyncd.client.handlers import Handler
from pisyncd.client.records import (
    SYNC_NOW_S,
    TRIES,
    Change,
    Conflict,
    Desk,
    Fields,
    IfMatch,
    Record,
    lost_race,
    to_change,
)
from pisyncd.client.settings import Connection, Options
from pisyncd.client.views import ClientStatus, Problem, SyncResult
from pisyncd.client.watching import Watch

__all__ = [
    "ClientError",
    "ClientStatus",
    "Conflict",
    "Problem",
    "Record",
    "RecordsClient",
    "SyncClient",
    "SyncResult",
    "TelemetryClient",
]

Off = Callable[[], None]


class TelemetryClient:
    """Records learning events and sends them when it can. See Options for what it takes; any thread may use it.

    Raises ValueError for an address or an id that is none.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self._core = Core(options)

    def initialize(self) -> None:
        """Opens the queue (at most 5 s) and starts sending what is left from before. The first event does the same."""
        self._core.engine().opened(INITIALIZE_S)

    def capture_event(
        self,
        event_type: str,
        event_data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        session_id: Id | None = None,
        question_id: Id | None = None,
    ) -> str | None:
        """Keeps an event and gives its id, None for what is none; never raises, `get_status()` counts.

        When this returns the event is on disk and survives the end of the program, however it comes. Should the disk
        not answer within 250 ms (1 s for the first event without `initialize`) it returns nevertheless, and the event
        follows as soon as the disk does. `session_id` and `question_id` may also stand in `metadata` (`sessionId`,
        `questionId`).
        """
        kept = self._core.capture([(event_type, event_data, metadata, session_id, question_id)], at_once=True)
        kept.wait()
        return kept.first

    def capture_events(self, events: Iterable[Mapping[str, Any]]) -> list[str | None]:
        """Many at once, each with `event_type` (or `eventType`), `event_data`, `metadata`, `session_id`, ..."""
        kept = self._core.capture(wanted_of(events))
        kept.wait()
        return kept.ids

    def sync(self, timeout_s: float = SYNC_S) -> SyncResult:
        """Sends everything now, backing off or not, and waits for it; only a Retry-After is respected. Never raises."""
        return self._core.sync(timeout_s)

    def submit(self, timeout_s: float = SUBMIT_S) -> SyncResult:
        """Before a redirect or the end of a page: `sync` with a short wait."""
        return self._core.sync(timeout_s)

    def get_status(self) -> ClientStatus:
        """Counters and the last trouble."""
        return self._core.status()

    def on(self, name: str, handler: Handler) -> Off:
        """Calls `handler(result)` at `sync:start`, `sync:complete`, `sync:failed`, in the client's own thread.

        Gives a function that ends it. Raises ValueError for another name, TypeError for what cannot be called so.
        """
        return self._core.handlers.on(name, _plain(handler))

    def set_token(self, token: str | None) -> None:
        """Another token from now on."""
        self._core.set_token(token)

    def retry_failed(self) -> int:
        """Offers what was refused for good again (of the newest 1,000); how many. Raises ClientError."""
        return self._core.retry_failed()

    def close(self, timeout_s: float | None = None) -> None:
        """Sends what waits, at most `timeout_s` (exit_s) long, and ends the threads. The rest stays in the queue."""
        self._core.close(timeout_s)

    def __enter__(self) -> TelemetryClient:
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def session_id(self) -> str | None:
        """The session of events that name none; `create_session` sets it."""
        return self._core.session_id

    @session_id.setter
    def session_id(self, session_id: Id | None) -> None:
        self._core.session_id = str(session_id) if session_id else None

    def create_session(
        self,
        mode: str,
        question_ids: Iterable[Id],
        *,
        filters: Mapping[str, Any] | None = None,
        duration_s: int | None = None,
        id: Id | None = None,
    ) -> dict[str, Any]:
        """The new session; events belong to it from now on. The same `id` again gives the same. Raises ClientError."""
        return calls.create_session(self._core, mode, question_ids, filters, duration_s, id)

    def answer(
        self, session_id: Id, question_id: Id, selected_index: int | None = None, marked: bool | None = None
    ) -> dict[str, Any]:
        """Records an answer, a mark, or both. Raises ClientError."""
        return calls.answer(self._core, session_id, question_id, selected_index, marked)

    def submit_session(self, session_id: Id) -> dict[str, Any]:
        """Sends what is captured, then ends the session. Raises ClientError."""
        return calls.submit_session(self._core, session_id)

    def review(self, session_id: Id) -> dict[str, Any]:
        """The session with its answers, after it has ended. Raises ClientError."""
        return calls.review(self._core, session_id)


class SyncClient:
    """Follows and triggers the device's syncs with the cloud.

    Takes what TelemetryClient takes, `interval_s` (seconds between two looks), and for a `url` the `telemetry` client
    whose queue trigger_sync flushes.
    """

    def __init__(
        self, *, interval_s: float = 30.0, telemetry: TelemetryClient | None = None, **options: Unpack[Options]
    ) -> None:
        core = Core(options)
        self._watch = Watch(core, telemetry._core if telemetry else core, interval_s)

    def start(self) -> None:
        """Looks every `interval_s` seconds, in a thread, and calls the handlers for what has changed."""
        self._watch.start()

    def stop(self) -> None:
        """Ends that."""
        self._watch.stop()

    def trigger_sync(self) -> dict[str, Any]:
        """Asks the daemon for a sync cycle now, `{"done": ...}`; at a `url` flushes the telemetry queue instead and
        gives its SyncResult. Raises ClientError when the daemon cannot be asked."""
        return self._watch.trigger()

    def get_status(self) -> dict[str, Any]:
        """The daemon's status; at a `url` `{"syncStatus": ...}`. Raises ClientError."""
        return calls.status(self._watch.core)

    def get_health(self) -> dict[str, Any]:
        """`{"healthy", "stuck"}` of the daemon; at a `url` the answer of /api/health. Raises ClientError."""
        return calls.health(self._watch.core)

    def on(self, name: str, handler: Handler) -> Off:
        """Calls `handler(detail)` at `sync:start`, `sync:complete`, `sync:failed`; the detail is the cycle's."""
        return self._watch.handlers.on(name, _plain(handler))

    @property
    def last_error(self) -> Problem | None:
        """Why a look did not work last."""
        return self._watch.last_error

    @property
    def handler_errors(self) -> int:
        """How many handlers have raised."""
        return self._watch.handlers.errors

    def __enter__(self) -> SyncClient:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class RecordsClient:
    """Reads and writes records at the device (its socket, unless a `url` is given) or in the cloud.

    A device answers a write when it is durable, and sends it to the cloud as soon as it can; there is no queue here.
    Takes `socket`, `url`, `token`, `timeout_s` as TelemetryClient does. Raises ValueError for an address that is none;
    every call may raise ClientError.
    """

    def __init__(self, **options: Unpack[Connection]) -> None:
        self._desk = Desk(options)

    def get(self, type: str, id: str, *, deleted: bool = False) -> Record | None:
        """None when there is none; a deleted one only with `deleted`."""
        return self._desk.get(type, id, deleted=deleted)

    def list(self, type: str, *, limit: int | None = None, deleted: bool = False) -> Iterator[Record]:
        """All records of a type in the order of their ids, at most `limit`; deleted ones only with `deleted`."""
        for page in self._desk.pages(type, limit=limit, deleted=deleted):
            yield from page

    def put(self, type: str, id: str, fields: Fields, *, if_match: IfMatch = None) -> Record:
        """All fields anew; makes the record when there is none. 412 `version-mismatch` when it has changed since
        `if_match` was read."""
        return self._desk.put(type, id, fields, if_match)

    def patch(self, type: str, id: str, fields: Fields, *, if_match: IfMatch = None) -> Record:
        """Some fields; None removes one. 404 `record-unknown` when there is none."""
        return self._desk.patch(type, id, fields, if_match)

    def delete(self, type: str, id: str, *, if_match: IfMatch = None) -> Record:
        """Gives the tombstone. 404 `record-unknown` when there is none."""
        return self._desk.delete(type, id, if_match)

    def update(self, type: str, id: str, change: Change, tries: int = TRIES) -> Record:
        """Reads, lets `change(fields)` give new fields (or None: it has changed those it got), and writes them if
        nobody has written in between; else again, `tries` times in all, then 412 `version-mismatch`."""
        for left in reversed(range(max(1, tries))):
            record, fields = to_change(self.get(type, id), type, id)
            changed = change(fields)
            try:
                return self.put(type, id, fields if changed is None else changed, if_match=record)
            except ClientError as error:
                if not lost_race(error, left):
                    raise
        raise AssertionError("unreachable")

    def sync_now(self, type: str, id: str, timeout_s: float = SYNC_NOW_S) -> Record:
        """Waits until what waits of this record is in the cloud and what the cloud has of it is here.

        ClientError `offline` when the cloud cannot be reached; what was written stays queued and follows.
        """
        return self._desk.sync_now(type, id, timeout_s)

    def sync_enrollment_now(self, id: str, timeout_s: float = SYNC_NOW_S) -> Record:
        """`sync_now` of an enrollment."""
        return self.sync_now("enrollment", id, timeout_s)

    def sync_profile_now(self, id: str, timeout_s: float = SYNC_NOW_S) -> Record:
        """`sync_now` of a profile."""
        return self.sync_now("profile", id, timeout_s)

    def set_token(self, token: str | None) -> None:
        """Another token from now on."""
        self._desk.set_token(token)


def _plain(handler: Handler) -> Handler:
    if iscoroutinefunction(handler):
        raise TypeError("nobody would await it here; pisyncd.client takes handlers that are coroutines")
    return handler
