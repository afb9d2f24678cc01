"""What a sync event means for its device: its status, the counters, the streak, the notification.

status      errors, files
success     no errors
partial     errors, but some files arrived
failed      errors and no file

A streak is a run of failed events; any other event ends it. A streak that reaches `notify_after` opens one
notification; it stays open, and no second one is opened, until the device succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pisyncd.core.wire import SyncStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The counters of one device, as kept in device_state. Times are wall milliseconds, None when never."""

    dk: int
    events_total: int = 0
    success_total: int = 0
    partial_total: int = 0
    failed_total: int = 0
    consecutive_failures: int = 0
    files_synced_total: int = 0
    last_status: SyncStatus | None = None
    last_event_at_ms: int | None = None
    last_success_at_ms: int | None = None
    last_failed_at_ms: int | None = None
    last_error_code: str | None = None
    last_speed_mbps: float | None = None
    last_queue_depth: int | None = None
    alert_opened_at_ms: int | None = None


def sync_status(files: int, errors: int) -> SyncStatus:
    """How a sync ended, from its counts."""
    if errors == 0:
        return "success"
    return "partial" if files > 0 else "failed"


def advance(
    state: State,
    *,
    status: SyncStatus,
    files: int,
    speed_mbps: float | None,
    error_code: str | None,
    queue_depth: int | None,
    occurred_at_ms: int,
    now_ms: int,
    notify_after: int,
) -> State:
    """The counters after one more event, and whether a notification is open then."""
    failed = status == "failed"
    streak = state.consecutive_failures + 1 if failed else 0
    opened_at_ms = state.alert_opened_at_ms
    if status == "success":
        opened_at_ms = None
    elif opened_at_ms is None and streak >= notify_after:
        opened_at_ms = now_ms
    return replace(
        state,
        events_total=state.events_total + 1,
        success_total=state.success_total + (status == "success"),
        partial_total=state.partial_total + (status == "partial"),
        failed_total=state.failed_total + failed,
        consecutive_failures=streak,
        files_synced_total=state.files_synced_total + files,
        last_status=status,
        last_event_at_ms=occurred_at_ms,
        last_success_at_ms=occurred_at_ms if status == "success" else state.last_success_at_ms,
        last_failed_at_ms=occurred_at_ms if failed else state.last_failed_at_ms,
        last_error_code=error_code if error_code is not None and status != "success" else state.last_error_code,
        last_speed_mbps=speed_mbps if speed_mbps is not None else state.last_speed_mbps,
        last_queue_depth=queue_depth if queue_depth is not None else state.last_queue_depth,
        alert_opened_at_ms=opened_at_ms,
    )
