"""Who did what, for as long as the database lives. Users stand in it by the SHA-256 of their id, never by the id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cloud.store.db import Row, Tx

USER_PURGED = "user.purged"
EXPORT_STARTED = "export.started"
EXPORT_FORGOTTEN = "export.forgotten"


async def record(tx: Tx, *, now_ms: int, actor: str, action: str, target: str, detail: Mapping[str, Any]) -> None:
    """Adds an entry; it stands when `tx` is committed."""
    text = msgspec.json.encode(detail).decode()
    await tx.run("audit_add", at_ms=now_ms, actor=actor, action=action, target=target, detail=text)


async def entries(tx: Tx, *, before_id: int = 2**63 - 1, limit: int) -> list[Row]:
    """Up to `limit` entries, newest first."""
    return await tx.all("audit_page", before_id=before_id, row_limit=limit)


async def purged(tx: Tx, dataset: str) -> dict[str, int]:
    """For each purged user's hash the last ord of the dataset that is to be gone."""
    found: dict[str, int] = {}
    for row in await tx.all("audit_of_action", action=USER_PURGED):
        through = msgspec.json.decode(row["detail"]).get("through", {}).get(dataset, 0)
        found[row["target"]] = max(through, found.get(row["target"], 0))
    return found
