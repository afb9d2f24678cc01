"""Facts as the rows that are written, in the order of the statements that take them (`store/*.sql`)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from cloud.rules.facts import UNSTAMPED, Fact, MessageFact, Place, Stamp, SyncFact, TrackFact
from pisyncd.core import envelope, wire
from pisyncd.core.envelope import Envelope
from pisyncd.core.vitals import Vitals


def sync(
    dk: int, fact: SyncFact, *, occurred_at_ms: int, received_at_ms: int, status: str, failures: int, flags: int
) -> tuple[Any, ...]:
    return (
        dk,
        fact.event_id,
        fact.digest,
        occurred_at_ms,
        received_at_ms,
        fact.timestamp,
        fact.files,
        fact.errors,
        fact.speed_mbps,
        status,
        failures,
        flags,
        fact.seq,
        fact.boot_id,
        fact.boottime_ms,
        fact.error_code,
        fact.bytes_sent,
        fact.duration_ms,
        fact.queue_depth,
    )


def _stamp(stamp: Stamp) -> tuple[str | None, int | None, int | None, int | None]:
    return (
        stamp.boot_id,
        stamp.boottime_ms,
        stamp.wall_ms,
        None if stamp.trusted is None else int(stamp.trusted),
    )


def _place(place: Place | None) -> tuple[str | None, int | None]:
    return (place.stream, place.seq) if place else (None, None)


def message(dk: int, user_id: str, fact: MessageFact, now_ms: int) -> tuple[Any, ...]:
    return (
        dk,
        user_id,
        fact.item_id,
        fact.item_type,
        *_place(fact.place),
        fact.digest,
        fact.body,
        *_stamp(fact.stamp),
        now_ms,
    )


def vitals(dk: int, told: Vitals, now_ms: int) -> tuple[Any, ...]:
    """A row of device_vitals: what is understood of a report. A time that the device's clock cannot know yet is that of
    receipt."""
    body = msgspec.json.encode(replace(told, commands=[])).decode()
    at_ms = wire.from_rfc3339(told.at) if told.at and told.clock_trusted else None
    share: float | None = None
    if told.disk_free_bytes is not None and told.disk_total_bytes:
        share = 100 * told.disk_free_bytes / told.disk_total_bytes
    bad = told.throttled is not None and (told.throttled.throttled or told.throttled.under_voltage)
    return (
        dk,
        body,
        now_ms if at_ms is None else min(at_ms, now_ms),
        now_ms,
        told.version,
        share,
        told.temperature_c,
        None if told.throttled is None else int(bad),
        None if told.clock_trusted is None else int(told.clock_trusted),
    )


def track(dk: int, user_id: str, fact: TrackFact, received_at_ms: int, batch_id: str) -> tuple[Any, ...]:
    return (
        dk,
        user_id,
        fact.event_id,
        fact.digest,
        fact.event_type,
        fact.data,
        fact.client_ts_ms,
        batch_id,
        *_place(fact.place),
        *_stamp(fact.stamp),
        received_at_ms,
    )


def attempt(
    event: Envelope,
    user_id: str,
    event_ts_ms: int,
    dk: int = 0,
    stamp: Stamp = UNSTAMPED,
    place: Place | None = None,
) -> tuple[Any, ...]:
    """A row of attempt_events, in the order of the statement `add_attempts`."""
    return (
        event.id,
        envelope.VERSION,
        event.event_type,
        event_ts_ms,
        event.client_ts_ms,
        event.seq,
        event.session_id,
        user_id,
        event.question_id,
        event.source,
        event.payload,
        event.digest,
        dk,
        *_place(place),
        *_stamp(stamp),
    )


def rejected(dk: int, fact: Fact, code: str, detail: str, now_ms: int) -> tuple[Any, ...]:
    if isinstance(fact, SyncFact):
        item_id, item_type, body = fact.event_id, "sync_event", fact.raw
    else:
        item_id, item_type, body = fact.item_id, fact.item_type, fact.body
    place = _place(fact.place)
    if code in ("personal-data", "record-purged"):
        # What may not be kept as an event, or was removed for good, may not be kept as a refused one either.
        body = ""
    return (dk, item_id, item_type, *place, fact.digest, code, detail, body, now_ms)
