"""Fills a cloud's database with a past: many devices and a million sync events, through the cloud's own store."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from collections.abc import Iterator
from itertools import islice

import asyncpg

from cloud.flows.rotation import new_secret
from cloud.rules.streaks import State
from cloud.store import drivers, events
from cloud.store.db import Tx
from pisyncd.core import wire

HISTORY_DEVICE = "history-device"
HISTORY_EVENTS = 10_000
_ROWS_PER_WRITE = 20_000
_FIVE_MINUTES_MS = 300_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Past:
    """What was written: tokens of the first devices, by device id."""

    tokens: dict[str, str]
    devices: int
    events: int


def _statuses(chance: random.Random, count: int, failing: bool) -> list[str]:
    if failing:
        return [chance.choice(("success", "failed", "failed", "partial")) for _ in range(count)]
    return ["success"] * count


def _rows(chance: random.Random, dk: int, statuses: list[str], now_ms: int) -> Iterator[tuple[object, ...]]:
    streak = 0
    for index, status in enumerate(statuses):
        at_ms = now_ms - (len(statuses) - index) * _FIVE_MINUTES_MS
        streak = streak + 1 if status == "failed" else 0 if status == "success" else streak
        event_id = f"{chance.getrandbits(128):032x}"
        files, errors = {"success": (12, 0), "partial": (9, 3), "failed": (0, 2)}[status]
        digest = hashlib.sha256(event_id.encode()).digest()
        yield (
            *(dk, event_id, digest, at_ms, at_ms, wire.rfc3339(at_ms), files, errors, 4.2, status, streak, 0),
            *(index + 1, "boot", index * 1000, None, 123_456, 900, 0),
        )


def _state(dk: int, statuses: list[str], now_ms: int) -> State:
    streak = 0
    for status in statuses:
        streak = streak + 1 if status == "failed" else 0 if status == "success" else streak
    failed = statuses.count("failed")
    return State(
        dk=dk,
        events_total=len(statuses),
        success_total=statuses.count("success"),
        partial_total=statuses.count("partial"),
        failed_total=failed,
        consecutive_failures=streak,
        files_synced_total=12 * statuses.count("success") + 9 * statuses.count("partial"),
        last_status=statuses[-1],  # type: ignore[arg-type]
        last_event_at_ms=now_ms - _FIVE_MINUTES_MS,
        last_success_at_ms=now_ms - _FIVE_MINUTES_MS,
        last_failed_at_ms=now_ms - _FIVE_MINUTES_MS if failed else None,
        last_error_code="link-down" if failed else None,
        last_speed_mbps=4.2,
        last_queue_depth=0,
        alert_opened_at_ms=None,
    )


async def _devices(tx: Tx, names: list[str], with_token: int, now_ms: int) -> tuple[dict[str, int], dict[str, str]]:
    keys: dict[str, int] = {}
    tokens: dict[str, str] = {}
    for index, name in enumerate(names):
        dk = int(await tx.value("add_device", device_id=name, now_ms=now_ms))
        await tx.run("add_device_state", dk=dk, now_ms=now_ms)
        keys[name] = dk
        if index < with_token:
            tokens[name] = new_secret("device")
            token_hash = wire.token_hash(tokens[name])
            await tx.run("add_device_token", token_hash=token_hash, dk=dk, now_ms=now_ms)
    await tx.run("identity_changed")
    return keys, tokens


async def _tidy(url: str) -> None:
    # What autovacuum has done long since in a database that was filled over months.
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


async def fill(database: str, *, devices: int, total: int, with_token: int, seed: int = 3) -> Past:
    """Write `total` events of `devices` devices, one of which has HISTORY_EVENTS; one in five often fails.

    `database` is a SQLite path or a PostgreSQL URL; the schema is brought up to date first.
    """
    chance = random.Random(seed)
    now_ms = int(time.time() * 1000)
    names = [HISTORY_DEVICE, *(f"device-{index:05}" for index in range(1, devices))]
    share, rest = divmod(max(0, total - HISTORY_EVENTS), devices - 1)
    async with drivers.opened(database) as db:
        async with db.transaction() as tx:
            keys, tokens = await _devices(tx, names, with_token, now_ms)
        counts = {name: HISTORY_EVENTS if name == HISTORY_DEVICE else share for name in names}
        counts[names[-1]] += rest
        statuses = {name: _statuses(chance, counts[name], index % 5 == 0) for index, name in enumerate(names)}
        rows = (row for name in names for row in _rows(chance, keys[name], statuses[name], now_ms))
        while block := list(islice(rows, _ROWS_PER_WRITE)):
            async with db.transaction() as tx:
                await tx.bulk("add_syncs", block)
        async with db.transaction() as tx:
            states = [_state(keys[name], statuses[name], now_ms) for name in names if statuses[name]]
            await tx.bulk("save_states", [events._state_row(state, now_ms) for state in states])
    if drivers.is_postgres_url(database):
        await _tidy(database)
    return Past(tokens=tokens, devices=devices, events=sum(counts.values()))
