"""What the client tells the application: plain dictionaries."""

from __future__ import annotations

from typing import TypedDict


class Problem(TypedDict):
    """What went wrong, and when."""

    code: str
    detail: str
    hint: str
    at: str


class SyncResult(TypedDict):
    """How a sync went. `ok`: everything that could be sent is sent, also when some of it was refused for good."""

    ok: bool
    sent: int
    failed: int
    pending: int
    error: Problem | None


class FailureView(TypedDict):
    """An event that was refused for good. `id` is '' where nobody said which."""

    id: str
    event_type: str
    code: str
    detail: str
    at: str


class ClientStatus(TypedDict):
    """How the client is.

    captured, sent, failed, dropped, pending   of the queue since it was made, whoever captured and sent;
                                               captured = sent + failed + dropped + pending
    pending_bytes      what pending events take
    unwritten          calls of this process whose events are on their way to the disk, and are counted when there
    durable            everything that waits is on disk
    state              `idle`, `sending`, `waiting` (for the next flush), `backing-off`
    next_attempt_s     seconds until the next attempt while backing off, else None
    last_error         what went wrong last, also when it is over
    failures           the newest events that were refused for good, at most 5
    """

    captured: int
    sent: int
    failed: int
    dropped: int
    pending: int
    pending_bytes: int
    unwritten: int
    durable: bool
    state: str
    next_attempt_s: float | None
    last_sync_at: str | None
    last_error: Problem | None
    failures: list[FailureView]
    handler_errors: int
    destination: str
    queue: str
