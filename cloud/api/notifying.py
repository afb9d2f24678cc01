"""Who is told: channels, rules and silences, and the log of what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import notifying
from cloud.flows.notifying import Channel, RuleSpec, SilenceSpec
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from cloud.workers import notifier
from pisyncd.core import problems, wire

Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=notifying.LIST_MAX)]
Seconds = Annotated[int, Meta(ge=0, le=notifying.WAIT_MAX_S)]


class ChannelIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`url` is one of apprise: mailtos://, slack://, tgram://, pagerduty://, json://. Times are local to `timezone`."""

    url: Annotated[str, Meta(min_length=1, max_length=notifying.URL_MAX)]
    quiet_hours: Annotated[str, Meta(max_length=20)] = ""
    digest_at: Annotated[str, Meta(max_length=10)] = ""
    timezone: Annotated[str, Meta(max_length=64)] = ""
    enabled: bool = True


class ChannelOut(msgspec.Struct, frozen=True, kw_only=True):
    """A channel; its address is shown without secrets."""

    name: str
    url: str
    quiet_hours: str
    digest_at: str
    timezone: str
    enabled: bool
    last_updated_at: str


class RuleIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Empty lists match everything. `wait_s`: how long a state has to last; `faults`: error codes, `card-*` too."""

    states: Names = msgspec.field(default_factory=lambda: ["failing", "overdue"])
    groups: Names = []
    tags: Names = []
    faults: Names = []
    channels: Names = []
    wait_s: Seconds = 0
    escalate_after_s: Seconds | None = None
    escalate_to: Names = []
    enabled: bool = True


class RuleOut(RuleIn, frozen=True, kw_only=True):
    """A rule."""

    name: str
    last_updated_at: str


class SilenceIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is given has to match, all of it. `until` or `for_s`; it begins now unless `from` says otherwise."""

    comment: Annotated[str, Meta(min_length=1, max_length=500)]
    device_id: str | None = None
    group: str | None = None
    tag: str | None = None
    fault: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    until: str | None = None
    for_s: Annotated[int, Meta(ge=60, le=366 * 86_400)] | None = None


class SilenceOut(msgspec.Struct, frozen=True, kw_only=True):
    """A silence."""

    id: str
    device_id: str | None
    group: str | None
    tag: str | None
    fault: str | None
    from_: str = msgspec.field(name="from")
    until: str
    comment: str
    created_by: str
    last_updated_at: str


class NoticeOut(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was or is to be told on one channel."""

    id: int
    incident_id: int | None
    channel: str
    kind: Literal["opened", "recovered", "escalated", "test"]
    state: Literal["pending", "processing", "sent", "failed", "dropped"]
    subject: str | None
    due_at: str
    attempts: int
    error: str
    ended_at: str | None
    last_updated_at: str


class RemovedOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is no more."""

    removed: str
    last_updated_at: str


def channel_out(row: Row) -> ChannelOut:
    """Without secrets; takes a moment, apprise has to be asked."""
    return ChannelOut(
        name=row["name"],
        url=notifier.shown(row["url"]),
        quiet_hours=row["quiet_hours"],
        digest_at=row["digest_at"],
        timezone=row["timezone"],
        enabled=bool(row["enabled"]),
        last_updated_at=wire.rfc3339(row["updated_at_ms"]),
    )


def rule_out(row: Row) -> RuleOut:
    """A row of alert_rule."""
    lists = {
        name: msgspec.json.decode(row[name], type=list[str])
        for name in ("states", "groups", "tags", "faults", "channels", "escalate_to")
    }
    return RuleOut(
        name=row["name"],
        **lists,
        wait_s=row["wait_s"],
        escalate_after_s=row["escalate_after_s"],
        enabled=bool(row["enabled"]),
        last_updated_at=wire.rfc3339(row["updated_at_ms"]),
    )


def silence_out(row: Row) -> SilenceOut:
    """A row of silence."""
    return SilenceOut(
        id=row["id"],
        device_id=row["device_id"],
        group=row["group_name"],
        tag=row["tag"],
        fault=row["fault"],
        from_=wire.rfc3339(row["from_ms"]),
        until=wire.rfc3339(row["until_ms"]),
        comment=row["comment"],
        created_by=row["created_by"],
        last_updated_at=wire.rfc3339(row["created_at_ms"]),
    )


def _all(request: web.Request, shown: Sequence[msgspec.Struct]) -> web.Response:
    """A list that is short enough for one page."""
    return answers.ok(request, shown, pagination=answers.pagination(1, max(1, len(shown)), len(shown), None))


async def get_channels(request: web.Request) -> web.Response:
    """200 with all channels. Raises Refusal 401, 403."""
    await access.require(request, role="admin")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await notifying.channels(tx)
    return _all(request, await asyncio.to_thread(lambda: [channel_out(row) for row in rows]))


async def put_channel(request: web.Request) -> web.Response:
    """200 with the channel. Raises Refusal 400, 401, 403, 408, 413, 415, 422."""
    principal = await access.require(request, role="admin")
    asked = await payload.read_as(request, ChannelIn)
    name, db = request.match_info["name"], request.app[SERVICES].db
    if not await asyncio.to_thread(notifier.understood, asked.url):
        raise problems.invalid("/url", "url", "apprise does not understand this address", hint=notifier.EXAMPLES)
    channel = Channel(name=name, **msgspec.structs.asdict(asked))
    await notifying.put_channel(db, channel, actor=principal.actor, now_ms=wall_ms())
    async with db.reading() as tx:
        row = await notifying.channel(tx, name)
    return answers.ok(request, await asyncio.to_thread(channel_out, row))


async def delete_channel(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404, 409."""
    principal = await access.require(request, role="admin")
    name, now_ms = request.match_info["name"], wall_ms()
    await notifying.remove_channel(request.app[SERVICES].db, name, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, RemovedOut(removed=name, last_updated_at=wire.rfc3339(now_ms)))


async def post_test(request: web.Request) -> web.Response:
    """202: a test is on its way; the log tells what came of it. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="admin")
    name, now_ms = request.match_info["name"], wall_ms()
    db = request.app[SERVICES].db
    await notifying.ask_test(db, name, actor=principal.actor, now_ms=now_ms)
    async with db.reading() as tx:
        rows, _ = await notifying.log(tx, name, before_id=params.INT64_MAX, limit=1)
    return answers.ok(request, notice_out(rows[0]), status=202)


async def get_rules(request: web.Request) -> web.Response:
    """200 with all rules. Raises Refusal 401, 403."""
    await access.require(request, role="viewer")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await notifying.rules(tx)
    return _all(request, [rule_out(row) for row in rows])


async def put_rule(request: web.Request) -> web.Response:
    """200 with the rule. Raises Refusal 400, 401, 403, 408, 413, 415, 422."""
    principal = await access.require(request, role="admin")
    asked = await payload.read_as(request, RuleIn)
    name, db = request.match_info["name"], request.app[SERVICES].db
    rule = RuleSpec(name=name, **msgspec.structs.asdict(asked))
    await notifying.put_rule(db, rule, actor=principal.actor, now_ms=wall_ms())
    async with db.reading() as tx:
        rows = await notifying.rules(tx)
    return answers.ok(request, next(rule_out(row) for row in rows if row["name"] == name))


async def delete_rule(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="admin")
    name, now_ms = request.match_info["name"], wall_ms()
    await notifying.remove_rule(request.app[SERVICES].db, name, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, RemovedOut(removed=name, last_updated_at=wire.rfc3339(now_ms)))


async def get_silences(request: web.Request) -> web.Response:
    """200 with the silences that have not ended. Raises Refusal 401, 403."""
    await access.require(request, role="viewer")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await notifying.silences(tx, wall_ms())
    return _all(request, [silence_out(row) for row in rows])


async def post_silence(request: web.Request) -> web.Response:
    """201 with the silence. Raises Refusal 400, 401, 403, 408, 413, 415, 422."""
    principal = await access.require(request, role="operator")
    asked = await payload.read_as(request, SilenceIn)
    now_ms, db = wall_ms(), request.app[SERVICES].db
    from_ms = now_ms if asked.from_ is None else problems.moment(asked.from_, "from")
    if (asked.until is None) == (asked.for_s is None):
        raise problems.invalid("/until", "both", "give either until or for_s")
    until_ms = from_ms + (asked.for_s or 0) * 1000 if asked.until is None else problems.moment(asked.until, "until")
    spec = SilenceSpec(
        from_ms=from_ms,
        until_ms=until_ms,
        comment=asked.comment,
        device_id=asked.device_id,
        group=asked.group,
        tag=asked.tag,
        fault=asked.fault,
    )
    number = await notifying.add_silence(db, spec, actor=principal.actor, now_ms=now_ms)
    async with db.reading() as tx:
        rows = await notifying.silences(tx, now_ms)
    return answers.ok(request, next(silence_out(row) for row in rows if row["id"] == number), status=201)


async def delete_silence(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="operator")
    number, now_ms = request.match_info["silence_id"], wall_ms()
    await notifying.remove_silence(request.app[SERVICES].db, number, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, RemovedOut(removed=number, last_updated_at=wire.rfc3339(now_ms)))


def notice_out(row: Row) -> NoticeOut:
    """A row of the log."""
    plain = ("id", "incident_id", "channel", "kind", "state", "subject", "attempts", "error")
    return NoticeOut(
        **{name: row[name] for name in plain},
        due_at=wire.rfc3339(row["due_at_ms"]),
        ended_at=answers.time_or_none(row["ended_at_ms"]),
        last_updated_at=wire.rfc3339(row["ended_at_ms"] or row["created_at_ms"]),
    )


async def get_notices(request: web.Request) -> web.Response:
    """200 with a page of what was told, newest first. Raises Refusal 401, 403, 422."""
    await access.require(request, role="viewer")
    page = params.page(request, limit=50)
    before_id = page.before[1] if page.before else params.INT64_MAX
    channel = request.query.get("channel") or None
    async with request.app[SERVICES].db.reading() as tx:
        rows, total = await notifying.log(tx, channel, before_id=before_id, limit=page.limit)
    more, rows = len(rows) > page.limit, rows[: page.limit]
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    shown = [notice_out(row) for row in rows]
    return answers.ok(request, shown, pagination=answers.pagination(page.number, page.limit, total, cursor))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    router = app.router
    router.add_get("/api/channels", get_channels)
    router.add_put("/api/channels/{name}", put_channel)
    router.add_delete("/api/channels/{name}", delete_channel)
    router.add_post("/api/channels/{name}/test", post_test)
    router.add_get("/api/rules", get_rules)
    router.add_put("/api/rules/{name}", put_rule)
    router.add_delete("/api/rules/{name}", delete_rule)
    router.add_get("/api/silences", get_silences)
    router.add_post("/api/silences", post_silence)
    router.add_delete("/api/silences/{silence_id}", delete_silence)
    router.add_get("/api/notices", get_notices)
