"""GET /api/telemetry/status: how what applications told fares on its way to the cloud."""

from __future__ import annotations

from typing import Literal

from pisyncd.core import wire
from pisyncd.gateway.ports import Device
from pisyncd.outbox import Outbox

CYCLES = 50

Health = Literal["good", "degraded", "poor", "unknown"]


async def sync_status(device: Device, outbox: Outbox) -> wire.TelemetryStatus:
    """From the outbox, and from what the last attempt met.

    `totalItems` are all since the outbox was made, `avgSyncDuration` is that of a cycle, `lastSyncTime` is when the
    cloud acknowledged last, `successRate` the share of what it took of what it answered to.
    """
    pending, _, _ = await outbox.messages.owed()
    acknowledged = await outbox.messages.acknowledged()
    refused = await outbox.ledger.count_of("message-refused")
    last_ms = await outbox.messages.acknowledged_wall_ms()
    cycles = await outbox.cycles.newest(CYCLES)
    link = device.link()
    rate = max(0.0, 1 - refused / acknowledged) if acknowledged else 1.0
    fault = link.fault_code or next((cycle["error_code"] for cycle in cycles[:1]), None)
    return wire.TelemetryStatus(
        syncStatus=wire.SyncHealth(
            lastSyncTime=None if last_ms is None else wire.rfc3339(last_ms),
            pendingItems=pending,
            totalItems=acknowledged + pending,
            syncHealth=_health(last_ms, rate, offline=link.state != "full", pending=pending, fault=link.fault_code),
            successRate=round(rate, 4),
            avgSyncDuration=round(sum(cycle["duration_ms"] for cycle in cycles) / len(cycles), 1) if cycles else 0.0,
            lastError=fault,
            receivedThrough=await outbox.messages.accepted(),
        )
    )


def _health(last_ms: int | None, rate: float, *, offline: bool, pending: int, fault: str) -> Health:
    """Being offline is no fault; what waits meanwhile is only late."""
    if last_ms is None:
        return "unknown"
    if rate < 0.8 or fault in ("token-refused", "storage-full", "storage-error"):
        return "poor"
    return "degraded" if rate < 0.95 or fault or (offline and pending) else "good"
