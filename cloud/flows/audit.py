"""Who did what, for as long as the database lives. Users stand in it by the SHA-256 of their id, never by the id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.rules import exporting
from cloud.store.db import Row, Tx

USER_PURGED = "user.purged"
EXPORT_STARTED = "export.started"
EXPORT_FORGOTTEN = "export.forgotten"
DEVICE_ENROLLED = "device.enrolled"
DEVICE_ROTATED = "device.rotated"
DEVICE_REVOKED = "device.revoked"
KEY_CREATED = "key.created"
KEY_REVOKED = "key.revoked"

#: The actor of what nobody asked for.
SYSTEM = "system"

_PROFILE = "profile"


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


def target_of(record_type: str, record_id: str) -> str:
    """What names a record here: 'progress/prog_1'. A profile's id is a user's: 'profile/SHA-256 of it'."""
    return f"{record_type}/{exporting.user_hash(record_id) if record_type == _PROFILE else record_id}"


def _hashed(target: str) -> str:
    """'profile/u1' as it stands here, and a user's id as its SHA-256; anything else stays."""
    kind, slash, name = target.partition("/")
    if slash:
        return target_of(kind, name)
    return exporting.user_hash(target)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which entries: wall milliseconds from (with) and to (without); None: any.

    `action` may end with `*` ('record.*'), `target` may be a user's id or 'profile/ID' in the clear.
    """

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    from_ms: int = -(2**62)
    to_ms: int = 2**62

    def params(self) -> dict[str, Any]:
        """As the queries take them."""
        return {
            "actor": self.actor,
            "action": None if self.action is None else _pattern(self.action),
            "target": self.target,
            "hashed": None if self.target is None else _hashed(self.target),
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
        }


ALL = Wanted()


def _pattern(action: str) -> str:
    """'record.*' -> 'record.%'; what LIKE would take for more than itself is escaped."""
    stem = action.removesuffix("*")
    escaped = stem.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped + ("%" if stem != action else "")


async def entries(
    tx: Tx, wanted: Wanted = ALL, *, before_id: int = 2**63 - 1, limit: int, offset: int = 0
) -> list[Row]:
    """Up to `limit` entries, newest first."""
    found = wanted.params()
    return await tx.all("audit_page", **found, before_id=before_id, row_limit=limit, row_offset=offset)


async def count(tx: Tx, wanted: Wanted) -> int:
    """How many entries there are."""
    return int(await tx.value("audit_count", **wanted.params()))


async def purged(tx: Tx, dataset: str) -> dict[str, int]:
    """For each purged user's hash the last ord of the dataset that is to be gone."""
    found: dict[str, int] = {}
    for row in await tx.all("audit_of_action", action=USER_PURGED):
        through = msgspec.json.decode(row["detail"]).get("through", {}).get(dataset, 0)
        found[row["target"]] = max(through, found.get(row["target"], 0))
    return found
