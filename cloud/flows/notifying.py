"""Channels, rules and silences: who is told of what, and when. Everything that people change here is audited."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.flows import audit
from cloud.rules import access, calendar, notices
from cloud.rules.standing import STATES
from cloud.store.db import Database, Row, Tx
from pisyncd.core import problems
from pisyncd.core.problems import Refusal

CHANNEL_PUT = "channel.put"
CHANNEL_REMOVED = "channel.removed"
CHANNEL_TESTED = "channel.tested"
RULE_PUT = "rule.put"
RULE_REMOVED = "rule.removed"
SILENCE_ADDED = "silence.added"
SILENCE_REMOVED = "silence.removed"
URL_MAX = 2000
LIST_MAX = 50
WAIT_MAX_S = 30 * 86_400
SILENCE_MAX_MS = 366 * 86_400_000


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Where messages go: an address of apprise; when it is left alone, or the one time of day at which it is used."""

    name: str
    url: str
    quiet_hours: str = ""
    digest_at: str = ""
    timezone: str = ""
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class RuleSpec:
    """What a rule is about and whom it tells; empty lists match everything."""

    name: str
    states: Sequence[str] = ("failing", "overdue")
    groups: Sequence[str] = ()
    tags: Sequence[str] = ()
    faults: Sequence[str] = ()
    channels: Sequence[str] = ()
    wait_s: int = 0
    escalate_after_s: int | None = None
    escalate_to: Sequence[str] = ()
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class SilenceSpec:
    """Nothing is told from `from_ms` to `until_ms` of what matches all that is given."""

    from_ms: int
    until_ms: int
    comment: str
    device_id: str | None = None
    group: str | None = None
    tag: str | None = None
    fault: str | None = None


async def put_channel(db: Database, channel: Channel, *, actor: str, now_ms: int) -> None:
    """Makes or changes a channel. Raises Refusal 422."""
    _name(channel.name, "channel")
    if not channel.url or len(channel.url) > URL_MAX or not channel.url.isprintable():
        raise problems.invalid("/url", "url", "a channel has an address", hint="mailto://, slack://, tgram://, json://")
    if channel.url.partition("://")[0].lower() in notices.LOCAL_SCHEMES:
        raise problems.invalid(
            "/url", "scheme", "this kind of address stays on the server itself", hint="mailto://, slack://"
        )
    if channel.quiet_hours and notices.span(channel.quiet_hours) is None:
        raise problems.invalid("/quiet_hours", "span", "quiet hours are written as 22:00-06:00")
    if channel.digest_at and notices.minutes(channel.digest_at) is None:
        raise problems.invalid("/digest_at", "time", "the time of a digest is written as 07:00")
    if channel.timezone and not calendar.is_timezone(channel.timezone):
        raise problems.invalid("/timezone", "timezone", f"there is no {channel.timezone!r}", hint="Africa/Kampala")
    async with db.transaction() as tx:
        before = await tx.one("channel_by_name", name=channel.name)
        await tx.run(
            "put_channel",
            name=channel.name,
            url=channel.url,
            quiet_hours=channel.quiet_hours,
            digest_at=channel.digest_at,
            timezone=channel.timezone,
            enabled=int(channel.enabled),
            now_ms=now_ms,
        )
        scheme = channel.url.partition("://")[0]
        await _tell(tx, CHANNEL_PUT, channel.name, actor, now_ms, before, channel, scheme=scheme)


async def remove_channel(db: Database, name: str, *, actor: str, now_ms: int) -> None:
    """Raises Refusal 404, 409 while a rule names it."""
    async with db.transaction() as tx:
        before = await channel(tx, name)
        using = [
            row["name"]
            for row in await tx.all("alert_rules")
            if name in _decoded(row["channels"]) or name in _decoded(row["escalate_to"])
        ]
        if using:
            raise Refusal(409, "channel-in-use", f"rules tell it: {', '.join(using)}", hint="change those rules first")
        await tx.run("drop_channel", name=name)
        await _tell(tx, CHANNEL_REMOVED, name, actor, now_ms, before, None)


async def channel(tx: Tx, name: str) -> Row:
    """Raises Refusal 404."""
    row = await tx.one("channel_by_name", name=name)
    if row is None:
        raise Refusal(
            404, "channel-unknown", f"there is no channel {name!r}"[:200], hint="GET /api/channels lists them"
        )
    return row


async def channels(tx: Tx) -> list[Row]:
    """All channels by name; `url` holds secrets."""
    return await tx.all("channels")


async def put_rule(db: Database, rule: RuleSpec, *, actor: str, now_ms: int) -> None:
    """Makes or changes a rule. Raises Refusal 422."""
    _name(rule.name, "rule")
    if not rule.states or set(rule.states) - set(STATES):
        raise problems.invalid("/states", "enum", "a rule is about states", hint=f"one or more of {', '.join(STATES)}")
    for field in ("groups", "tags", "faults", "channels", "escalate_to"):
        values: Sequence[str] = getattr(rule, field)
        if len(values) > LIST_MAX or not all(0 < len(each) <= 128 and each.isprintable() for each in values):
            raise problems.invalid(f"/{field}", "list", f"{field} are at most {LIST_MAX} names")
    if not 0 <= rule.wait_s <= WAIT_MAX_S or (
        rule.escalate_after_s is not None and not 1 <= rule.escalate_after_s <= WAIT_MAX_S
    ):
        raise problems.invalid("/wait_s", "range", f"times are at most {WAIT_MAX_S} seconds")
    async with db.transaction() as tx:
        await _known(tx, "/channels", [*rule.channels, *rule.escalate_to], await tx.all("channels"), "channel")
        await _known(tx, "/groups", rule.groups, await tx.all("known_groups"), "group")
        before = await tx.one("alert_rule_by_name", name=rule.name)
        await tx.run(
            "put_alert_rule",
            name=rule.name,
            enabled=int(rule.enabled),
            states=_encoded(rule.states),
            groups=_encoded(rule.groups),
            tags=_encoded(rule.tags),
            faults=_encoded(rule.faults),
            channels=_encoded(rule.channels),
            wait_s=rule.wait_s,
            escalate_after_s=rule.escalate_after_s,
            escalate_to=_encoded(rule.escalate_to),
            now_ms=now_ms,
        )
        await tx.run("fleet_changed")
        await _tell(tx, RULE_PUT, rule.name, actor, now_ms, before, rule)


async def remove_rule(db: Database, name: str, *, actor: str, now_ms: int) -> None:
    """Its open incidents end without a word. Raises Refusal 404."""
    async with db.transaction() as tx:
        before = await tx.one("alert_rule_by_name", name=name)
        if before is None:
            raise Refusal(404, "rule-unknown", f"there is no rule {name!r}"[:200], hint="GET /api/rules lists them")
        await tx.run("drop_alert_rule", name=name)
        await tx.run("fleet_changed")
        await _tell(tx, RULE_REMOVED, name, actor, now_ms, before, None)


async def rules(tx: Tx) -> list[Row]:
    """All rules by name."""
    return await tx.all("alert_rules")


async def add_silence(db: Database, silence: SilenceSpec, *, actor: str, now_ms: int) -> str:
    """Nothing is told of what matches for a while; gives its id. Raises Refusal 422."""
    matchers = (silence.device_id, silence.group, silence.tag, silence.fault)
    if not any(matchers):
        raise problems.invalid("", "matcher", "a silence names a device, group, tag or fault", hint="give at least one")
    if any(each is not None and (not each or len(each) > 128 or not each.isprintable()) for each in matchers):
        raise problems.invalid("", "matcher", "names are 1 to 128 printable characters")
    if not silence.from_ms < silence.until_ms <= now_ms + SILENCE_MAX_MS or silence.until_ms <= now_ms:
        raise problems.invalid("/until", "range", "a silence ends in the future, within a year")
    if not 0 < len(silence.comment) <= 500 or "\0" in silence.comment:
        raise problems.invalid("/comment", "text", "a silence has a comment of at most 500 characters", hint="say why")
    number = f"sil_{secrets.token_hex(8)}"
    async with db.transaction() as tx:
        await tx.run(
            "add_silence",
            id=number,
            device_id=silence.device_id,
            group_name=silence.group,
            tag=silence.tag,
            fault=silence.fault,
            from_ms=silence.from_ms,
            until_ms=silence.until_ms,
            comment=silence.comment,
            created_by=actor,
            now_ms=now_ms,
        )
        await _tell(tx, SILENCE_ADDED, number, actor, now_ms, None, silence)
    return number


async def remove_silence(db: Database, number: str, *, actor: str, now_ms: int) -> None:
    """Raises Refusal 404."""
    async with db.transaction() as tx:
        before = await tx.one("silence_by_id", id=number)
        if before is None:
            raise Refusal(404, "silence-unknown", "there is no such silence", hint="GET /api/silences lists them")
        await tx.run("drop_silence", id=number)
        await _tell(tx, SILENCE_REMOVED, number, actor, now_ms, before, None)


async def silences(tx: Tx, now_ms: int) -> list[Row]:
    """Those that have not ended."""
    return await tx.all("silences", now_ms=now_ms)


async def ask_test(db: Database, name: str, *, actor: str, now_ms: int) -> None:
    """A test message goes out at once, whatever the hour. Raises Refusal 404."""
    async with db.transaction() as tx:
        await channel(tx, name)
        await tx.run("add_notice", incident_id=None, channel=name, kind="test", due_at_ms=now_ms, now_ms=now_ms)
        await _tell(tx, CHANNEL_TESTED, name, actor, now_ms, None, None)


async def log(tx: Tx, channel_name: str | None, *, before_id: int, limit: int) -> tuple[list[Row], int]:
    """Up to limit + 1 notices, newest first, and how many there are."""
    rows = await tx.all("notices_page", channel=channel_name, before_id=before_id, row_limit=limit + 1)
    return rows, await tx.value("notices_count", channel=channel_name)


def _name(name: str, what: str) -> None:
    if not access.is_name(name):
        raise problems.invalid(
            "/name", "name", f"{name[:80]!r} cannot name a {what}", hint="1-64 of A-Z a-z 0-9 space . _ @ -"
        )


async def _known(tx: Tx, where: str, wanted: Iterable[str], rows: Sequence[Row], what: str) -> None:
    unknown = sorted(set(wanted) - {row["name"] for row in rows})
    if unknown:
        raise problems.invalid(
            where, f"{what}-unknown", f"there is no {what} {', '.join(unknown)}"[:300], hint="make it first"
        )


def _encoded(values: Sequence[str]) -> str:
    return msgspec.json.encode(sorted(set(values))).decode()


def _decoded(text: str) -> list[str]:
    return msgspec.json.decode(text, type=list[str])


async def _tell(
    tx: Tx, action: str, target: str, actor: str, now_ms: int, before: Row | None, after: Any, **detail: Any
) -> None:
    hashed = {"before_hash": None if before is None else audit.hash_of(dict(before))}
    hashed["after_hash"] = None if after is None else audit.hash_of(msgspec.to_builtins(after))
    await audit.record(tx, now_ms=now_ms, actor=actor, action=action, target=target, detail=detail, **hashed)
