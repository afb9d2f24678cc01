"""Rows of webhooks as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from cloud.store.db import Row, Tx


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where webhooks go. `secret` and `old_secret` never leave the service but by creating and rotating."""

    id: str
    url: str
    description: str
    event_types: tuple[str, ...]
    secret: str
    old_secret: str | None
    old_until_ms: int | None
    state: Literal["enabled", "disabled"]
    reason: str
    failing_since_ms: int | None
    held_until_ms: int | None
    created_at_ms: int
    updated_at_ms: int

    def secrets(self, now_ms: int) -> list[str]:
        """What signs now: the newest, and the one before while that still counts."""
        if self.old_secret is None or self.old_until_ms is None or self.old_until_ms <= now_ms:
            return [self.secret]
        return [self.secret, self.old_secret]


def as_endpoint(row: Row) -> Endpoint:
    """A row of webhook_endpoint."""
    return Endpoint(
        id=row["id"],
        url=row["url"],
        description=row["description"],
        event_types=tuple(msgspec.json.decode(row["event_types"], type=list[str])),
        secret=row["secret"],
        old_secret=row["old_secret"],
        old_until_ms=row["old_until_ms"],
        state=row["state"],
        reason=row["reason"],
        failing_since_ms=row["failing_since_ms"],
        held_until_ms=row["held_until_ms"],
        created_at_ms=row["created_at_ms"],
        updated_at_ms=row["updated_at_ms"],
    )


async def device_names(tx: Tx, dks: Iterable[int]) -> dict[int, str]:
    """The public ids of devices."""
    rows = await tx.lookup("webhook_device_names", [(dk,) for dk in sorted(set(dks))])
    return {row["dk"]: row["device_id"] for row in rows}
