"""From rows of the outbox to views."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pisyncd.core import wire
from pisyncd.gateway.views import CycleView, FailureView, LossView, QueuedFile, VersionView

Row = Mapping[str, Any]


def version_of(row: Row) -> VersionView:
    """One row of the path's history."""
    sha256, completed = row["sha256"], row["completed_wall_ms"]
    return VersionView(
        id=row["id"],
        state=row["state"],
        size=row["size"],
        modified_at=_wall(row["mtime_ns"] // 1_000_000),
        queued_at=_wall(row["queued_wall_ms"]),
        completed_at=None if completed is None else _wall(completed),
        sha256=None if sha256 is None else bytes(sha256).hex(),
        attempts=row["attempts"],
        error_code=row["error_code"],
        error_detail=row["error_detail"],
    )


def shown(path: bytes) -> tuple[str, str | None]:
    """(text for people, base64 of the raw bytes where the text does not say them exactly)."""
    text = wire.display_path(path)
    exact = text.encode("utf-8", "replace") == path and text.isprintable()
    return text, None if exact else base64.b64encode(path).decode("ascii")


def wire_path(row: Row) -> bytes:
    """The name under which the cloud keeps a file."""
    return str(row["root"]).encode("utf-8", "surrogateescape") + b"/" + bytes(row["path"])


def failure_of(row: Row, now_ms: int) -> FailureView:
    """A file that could not be sent."""
    text, exact = shown(wire_path(row))
    final = row["state"] == "failed"
    return FailureView(
        id=row["id"],
        path=text,
        path_b64=exact,
        size=row["size"],
        final=final,
        code=row["error_code"] or "unknown",
        detail=row["error_detail"] or "",
        hint=row["error_hint"] or "",
        attempts=row["attempts"],
        next_try_s=None if final else max(0.0, (row["due_at_ms"] - now_ms) / 1000),
    )


def queued_of(row: Row, now_ms: int, position: int) -> QueuedFile:
    """A file that waits, at its position in the order of sending."""
    text, exact = shown(wire_path(row))
    return QueuedFile(
        id=row["id"],
        position=position,
        path=text,
        path_b64=exact,
        size=row["size"],
        priority=row["priority"],
        state=row["state"],
        waited_s=age_s(now_ms, row["queued_at_ms"]) or 0.0,
        due_in_s=max(0.0, (row["due_at_ms"] - now_ms) / 1000),
        attempts=row["attempts"],
        error_code=row["error_code"],
    )


def cycle_of(row: Row) -> CycleView:
    """One sync cycle."""
    return CycleView(
        id=row["id"],
        ended_at=_wall(row["ended_wall_ms"]),
        clock_trusted=bool(row["clock_trusted"]),
        outcome=row["outcome"],
        attempted=row["attempted"],
        files_synced=row["files_synced"],
        errors=row["errors"],
        bytes_sent=row["bytes_sent"],
        speed_mbps=row["speed_mbps"],
        duration_s=row["duration_ms"] / 1000,
        error_code=row["error_code"],
        reported=row["event_id"] is not None,
    )


def loss_of(row: Row) -> LossView:
    """An entry of the loss ledger."""
    return LossView(
        id=row["id"],
        at=_wall(row["wall_ms"]),
        what=row["what"],
        reason=row["reason"],
        count=row["count"],
        bytes=row["bytes"],
        detail=row["detail"],
    )


def age_s(now_ms: int, at_ms: int | None) -> float | None:
    """Seconds since a moment in outbox time."""
    return None if at_ms is None else max(0.0, (now_ms - at_ms) / 1000)


def _wall(wall_ms: int) -> str:
    try:
        return wire.rfc3339(wall_ms)
    except (OverflowError, ValueError, OSError):
        # A card can hold any mtime, also one of the year 300000.
        return "unknown"
