"""Who did what, for as long as the database lives. Users stand in it by the SHA-256 of their id, never by the id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from cloud.store.db import Row, Tx

USER_PURGED = "user.purged"
EXPORT_STARTED = "export.started"
EXPORT_FORGOTTEN = "export.forgotten"


def hash_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of a value's canonical JSON: keys sorted, no spaces. Equal values hash the same."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


async def record(
    tx: Tx,
    *,
    now_ms: int,
    actor: str,
    action: str,
    target: str,
    detail: Mapping[str, Any],
    before_hash: str | None = None,
    after_hash: str | None = None,
) -> None:
    """Adds an entry; it stands when `tx` is committed. No secret may be in it, and a user only by SHA-256.

    `actor` is 'key:NAME', 'cli:UNIX_USER', 'webhook:NAME', 'device:ID' or 'system'. The hashes (see `hash_of`) are of
    what was there before and after; None: nothing was.
    """
    await tx.run(
        "audit_add",
        at_ms=now_ms,
        actor=actor,
        action=action,
        target=target,
        detail=msgspec.json.encode(detail).decode(),
        before_hash=before_hash,
        after_hash=after_hash,
    )


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
