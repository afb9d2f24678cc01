"""Notices on their way: claimed with a lease, sent as one message per channel, and what came of it.

A service that dies between sending and saying so sends again: at least once, never lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloud.flows import incidents
from cloud.rules import notices
from cloud.rules.notices import Line
from cloud.store.db import Database, Row, Tx

LEASE_MS = 300_000


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """One notice to be sent."""

    id: int
    attempts: int
    kind: str
    line: Line


@dataclass(frozen=True, kw_only=True)
class Message:
    """Everything that a channel is to be told now."""

    channel: str
    url: str
    claimed: Sequence[Claimed]


async def due_channels(db: Database, now_ms: int) -> list[str]:
    """The channels for which something is due."""
    async with db.reading() as tx:
        return [row["channel"] for row in await tx.all("due_channels", now_ms=now_ms)]


async def claim(db: Database, channel: str, now_ms: int, timezone: str) -> Message | None:
    """What is to be sent to `channel` now; nobody else sends it while the lease lasts."""
    async with db.transaction() as tx:
        rows = await tx.all("claim_notices", channel=channel, now_ms=now_ms, lease_until_ms=now_ms + LEASE_MS)
        row = await tx.one("channel_by_name", name=channel)
        if row is None or not row["enabled"]:
            for each in rows:
                await tx.run("drop_notice", id=each["id"], now_ms=now_ms)
            return None
        usable_ms = notices.usable_at(incidents.hours_of(row, timezone), now_ms)
        silences = await tx.all("silences", now_ms=now_ms)
        claimed = []
        for each in rows:
            later_ms = await _not_before(tx, each, silences, now_ms, usable_ms if not row["digest_at"] else now_ms)
            if later_ms > now_ms:
                await tx.run("notice_later", id=each["id"], due_at_ms=later_ms, error="", forgiven=1)
            else:
                claimed.append(await _claimed(tx, each, now_ms))
    return Message(channel=channel, url=row["url"], claimed=claimed) if claimed else None


async def _not_before(tx: Tx, notice: Row, silences: Sequence[Row], now_ms: int, usable_ms: int) -> int:
    """When a notice may be sent: after quiet hours and silences. A test is sent at once."""
    if notice["kind"] == "test":
        return now_ms
    until = [usable_ms]
    if silences and notice["incident_id"] is not None:
        about = await _about(tx, notice["incident_id"])
        until += [each["until_ms"] for each in silences if each["from_ms"] <= now_ms and _silenced(each, about)]
    return max(until)


@dataclass(frozen=True, kw_only=True)
class _About:
    devices: frozenset[str]
    groups: frozenset[str]
    tags: frozenset[str]
    fault: str


async def _about(tx: Tx, number: int) -> _About:
    incident = await tx.one("incident_by_id", id=number)
    members = await tx.all("incident_members", id=number, groups=None, row_limit=2)
    one = members[0]["dk"] if len(members) == 1 else 0
    groups = {row["name"] for row in await tx.all("groups_of_device", dk=one)}
    assert incident is not None
    if incident["kind"] == "group":
        groups.add(incident["subject"])
    return _About(
        devices=frozenset(row["device_id"] for row in members if len(members) == 1),
        groups=frozenset(groups),
        tags=frozenset(row["tag"] for row in await tx.all("tags_of_device", dk=one)),
        fault=incident["fault"],
    )


def _silenced(silence: Row, about: _About) -> bool:
    wanted: list[tuple[str | None, Any]] = [
        (silence["device_id"], about.devices),
        (silence["group_name"], about.groups),
        (silence["tag"], about.tags),
        (silence["fault"], {about.fault}),
    ]
    return all(value is None or value in held for value, held in wanted)


async def _claimed(tx: Tx, notice: Row, now_ms: int) -> Claimed:
    incident = await tx.one("incident_by_id", id=notice["incident_id"]) if notice["incident_id"] is not None else None
    if incident is None:
        line = Line(kind="test", subject="", about="", detail="", at_ms=now_ms)
    else:
        left = [row["subject"] for row in await tx.all("left_of_incident", id=incident["id"])]
        line = Line(
            kind=notice["kind"],
            subject=incident["subject"],
            about=incident["cause"],
            detail=incident["fault"],
            at_ms=incident["opened_at_ms"],
            devices=incident["devices"],
            left=left if notice["kind"] == "recovered" and incident["kind"] != "device" else (),
        )
    return Claimed(id=notice["id"], attempts=notice["attempts"], kind=notice["kind"], line=line)


async def settle(db: Database, message: Message, error: str, now_ms: int) -> int:
    """What came of sending; '' when it was taken. How many notices are given up."""
    failed = 0
    async with db.transaction() as tx:
        for each in message.claimed:
            if not error:
                await tx.run("notice_sent", id=each.id, now_ms=now_ms)
            elif each.kind != "test" and each.attempts <= len(notices.RETRY_S):
                due_ms = now_ms + notices.RETRY_S[each.attempts - 1] * 1000
                await tx.run("notice_later", id=each.id, due_at_ms=due_ms, error=error[:300], forgiven=0)
            else:
                failed += 1
                await tx.run("notice_failed", id=each.id, error=error[:300], now_ms=now_ms)
    return failed
