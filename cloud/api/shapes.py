"""What the lists and resources look like on the wire."""

from __future__ import annotations

from typing import Literal

import msgspec

from cloud.rules.fleet import Freshness
from cloud.rules.standing import StateName
from pisyncd.core.vitals import Vitals
from pisyncd.core.wire import SyncStatus


class SyncEventOut(msgspec.Struct, frozen=True, kw_only=True):
    """A sync event as it is kept. `occurred_at` is the time it has in the history, with what was doubtful about it."""

    event_id: str
    device_id: str
    timestamp: str
    occurred_at: str
    received_at: str
    time_flags: list[Literal["clock_suspect", "future", "derived", "late"]]
    total_files_synced: int
    total_errors: int
    internet_speed: float | None
    sync_status: SyncStatus
    consecutive_failures: int
    seq: int | None = None
    error_code: str | None = None
    bytes_sent: int | None = None
    duration_ms: int | None = None
    queue_depth: int | None = None
    last_updated_at: str


class DeviceOut(msgspec.Struct, frozen=True, kw_only=True):
    """A device and how it does. `failing_since` is when the open notification began."""

    device_id: str
    enrolled_at: str
    revoked_at: str | None
    last_seen_at: str | None
    last_status: SyncStatus | None
    last_event_at: str | None
    last_success_at: str | None
    last_failed_at: str | None
    last_error_code: str | None
    events_total: int
    success_total: int
    partial_total: int
    failed_total: int
    consecutive_failures: int
    failing_since: str | None
    files_synced_total: int
    internet_speed: float | None
    queue_depth: int | None
    label: str
    site: str | None
    state: StateName
    state_since: str
    state_reason: str
    freshness: Freshness
    muted_until: str | None
    clears_at: str | None
    last_updated_at: str


class DeviceFaultOut(msgspec.Struct, frozen=True, kw_only=True):
    """A failure of a device by its code; `since` null: it is over."""

    code: str
    title: str
    hint: str
    since: str | None
    first_seen_at: str
    last_seen_at: str
    count: int


class DeviceDetail(DeviceOut, frozen=True, kw_only=True):
    """One device; `received_through` is the watermark of each message stream."""

    note: str
    groups: list[str]
    tags: list[str]
    faults: list[DeviceFaultOut]
    received_through: dict[str, int]
    vitals: Vitals | None
    vitals_at: str | None


class FailureOut(msgspec.Struct, frozen=True, kw_only=True):
    """A device with repeated failures."""

    device_id: str
    failed_count: int
    consecutive_failures: int
    last_status: SyncStatus | None
    last_success_at: str | None
    last_failed_at: str | None
    last_error_code: str | None
    failing_since: str | None
    acknowledged: bool
    last_updated_at: str


class NotificationOut(msgspec.Struct, frozen=True, kw_only=True):
    """A run of failures long enough to tell someone; open until the device succeeds."""

    id: int
    device_id: str
    kind: str
    opened_at: str
    closed_at: str | None
    consecutive_failures: int
    last_error_code: str | None
    last_updated_at: str


class ItemTrouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong with one item of a batch. With a `conflictId` it was taken; GET /api/conflicts/ID tells."""

    itemId: str
    code: str
    detail: str
    conflictId: str | None = None
    strategy: str | None = None


class BatchLogOut(msgspec.Struct, frozen=True, kw_only=True):
    """One batch as it was received; `duration` in milliseconds, at most 20 `errors` and 20 `conflictDetails`."""

    batchId: str
    itemCount: int
    successCount: int
    failureCount: int
    conflictCount: int
    duplicateCount: int
    receivedAt: str
    last_updated_at: str
    duration: int
    status: Literal["success", "partial", "error"]
    errors: list[ItemTrouble]
    conflictDetails: list[ItemTrouble]


class DatabaseHealth(msgspec.Struct, frozen=True, kw_only=True):
    """`latency` in milliseconds, measured for this answer; null when the database does not answer."""

    status: Literal["connected", "disconnected"]
    latency: float | None


class CacheHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The remembered tokens."""

    status: Literal["connected"]
    evictions: int
    entries: int


class SchedulerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The housekeeping."""

    status: Literal["running", "stopped"]
    nextSync: str | None


class HealthServices(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the service."""

    database: DatabaseHealth
    cache: CacheHealth
    scheduler: SchedulerHealth


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /api/health. `uptime` in seconds."""

    status: Literal["healthy", "unhealthy"]
    uptime: int
    services: HealthServices
    timestamp: str
