"""Who is told of what: rules, channels, silences, and what was told. Of a channel's address only its kind is shown."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import notifying
from cloud.flows.notifying import Channel, RuleSpec, SilenceSpec
from cloud.rules import access
from cloud.rules.standing import STATES
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row, Tx
from pisyncd.core import problems
from pisyncd.core.problems import Refusal

SHOWN = 50
MINUTES_MAX = notifying.WAIT_MAX_S // 60
_LISTS = ("states", "groups", "tags", "faults", "channels", "escalate_to")


async def show_all(request: web.Request, tried: Tried) -> web.StreamResponse:
    """Rules, silences and what was told for all who may look; channels for admins."""
    is_admin = access.covers(forms.who(request).role, "admin")
    async with request.app[SERVICES].db.reading() as tx:
        notices, _ = await notifying.log(tx, None, before_id=2**63 - 1, limit=SHOWN)
        context = {
            "rules": [_rule(row) for row in await notifying.rules(tx)],
            "channels": await _channels(tx, notices) if is_admin else [],
            "silences": await notifying.silences(tx, wall_ms()),
            "notices": notices[:SHOWN],
            "group_names": await forms.group_names(tx),
            "lasting": forms.lasting,
            "tried": tried,
        }
    return frame.render(request, "notifications.html", context, status=tried.status)


def _rule(row: Row) -> dict[str, Any]:
    return {**dict(row), **{name: msgspec.json.decode(row[name], type=list[str]) for name in _LISTS}}


async def _channels(tx: Tx, notices: list[Row]) -> list[dict[str, Any]]:
    last = {row["channel"]: row for row in reversed(notices)}
    return [{**_channel(row), "last": last.get(row["name"])} for row in await notifying.channels(tx)]


def _channel(row: Row) -> dict[str, Any]:
    """Without what its address holds: 'mailtos://...'."""
    return {**dict(row), "url": f"{row['url'].partition('://')[0]}://…"}


@page()
async def get_notifications(request: web.Request) -> web.StreamResponse:
    """200: rules, channels, silences."""
    return await show_all(request, NOTHING)


# Rules


async def show_rule(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One rule, or an empty form for a new one. Raises Refusal 404."""
    name = request.match_info.get("name") or first(tried.fields, "name")
    async with request.app[SERVICES].db.reading() as tx:
        found = {row["name"]: _rule(row) for row in await notifying.rules(tx)}
        channels = [row["name"] for row in await notifying.channels(tx)]
        group_names = await forms.group_names(tx)
    if "name" in request.match_info and name not in found:
        raise Refusal(404, "rule-unknown", "There is no such rule.")
    empty = {**dict.fromkeys(_LISTS, ()), "name": "", "states": ("failing", "overdue"), "wait_s": 0, "enabled": 1}
    context = {
        "rule": found.get(name, {**empty, "escalate_after_s": None}),
        "states": [state for state in STATES if state not in ("muted", "retired")],
        "channels": channels,
        "group_names": group_names,
        "tried": tried,
    }
    return frame.render(request, "rule.html", context, status=tried.status)


@page(role="admin")
async def get_rule(request: web.Request) -> web.StreamResponse:
    """200: the form of one rule, or of a new one. Raises Refusal 404 (shown as a page)."""
    return await show_rule(request, NOTHING)


@form(role="admin")
@beside(show_rule, "rule")
async def post_rule(request: web.Request, fields: Fields) -> str:
    """A rule is made or changed. Raises Refusal 422."""
    wait_minutes = forms.whole(fields, "wait_minutes", least=0, most=MINUTES_MAX) or 0
    escalate_minutes = forms.whole(fields, "escalate_minutes", least=1, most=MINUTES_MAX)
    rule = RuleSpec(
        name=first(fields, "name"),
        states=fields.get("states", []),
        groups=forms.names(fields, "groups"),
        tags=forms.names(fields, "tags"),
        faults=forms.names(fields, "faults"),
        channels=fields.get("channels", []),
        wait_s=wait_minutes * 60,
        escalate_after_s=None if escalate_minutes is None else escalate_minutes * 60,
        escalate_to=fields.get("escalate_to", []),
        enabled=forms.ticked(fields, "enabled"),
    )
    await notifying.put_rule(request.app[SERVICES].db, rule, actor=forms.who(request).actor, now_ms=wall_ms())
    return "/notifications?done=rule-saved"


@form(role="admin")
@beside(show_all, "remove")
async def post_remove_rule(request: web.Request, fields: Fields) -> str:
    """A rule is removed; its incidents end. Raises Refusal 404."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await notifying.remove_rule(db, first(fields, "name"), actor=actor, now_ms=wall_ms())
    return "/notifications?done=rule-removed"


# Channels


async def show_channel(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One channel, or an empty form for a new one. Raises Refusal 404."""
    name = request.match_info.get("name") or first(tried.fields, "name")
    async with request.app[SERVICES].db.reading() as tx:
        found = {row["name"]: _channel(row) for row in await notifying.channels(tx)}
    if "name" in request.match_info and name not in found:
        raise Refusal(404, "channel-unknown", "There is no such channel.")
    empty = {"name": "", "url": "", "quiet_hours": "", "digest_at": "", "timezone": "", "enabled": 1}
    return frame.render(
        request, "channel.html", {"channel": found.get(name, empty), "tried": tried}, status=tried.status
    )


@page(role="admin")
async def get_channel(request: web.Request) -> web.StreamResponse:
    """200: the form of one channel, or of a new one. Raises Refusal 404 (shown as a page)."""
    return await show_channel(request, NOTHING)


@form(role="admin")
@beside(show_channel, "channel")
async def post_channel(request: web.Request, fields: Fields) -> str:
    """A channel is made or changed; an empty address leaves that of one that is there. Raises Refusal 422."""
    db, name = request.app[SERVICES].db, first(fields, "name")
    async with db.reading() as tx:
        known = {row["name"]: row["url"] for row in await notifying.channels(tx)}
    channel = Channel(
        name=name,
        url=first(fields, "url") or known.get(name, ""),
        quiet_hours=first(fields, "quiet_hours"),
        digest_at=first(fields, "digest_at"),
        timezone=first(fields, "timezone"),
        enabled=forms.ticked(fields, "enabled"),
    )
    await notifying.put_channel(db, channel, actor=forms.who(request).actor, now_ms=wall_ms())
    return "/notifications?done=channel-saved"


@form(role="admin")
@beside(show_all, "remove")
async def post_remove_channel(request: web.Request, fields: Fields) -> str:
    """A channel is removed. Raises Refusal 404, 409 while a rule tells it."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await notifying.remove_channel(db, first(fields, "name"), actor=actor, now_ms=wall_ms())
    return "/notifications?done=channel-removed"


@form(role="admin")
@beside(show_all, "test")
async def post_test_channel(request: web.Request, fields: Fields) -> str:
    """A test message goes out. Raises Refusal 404."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await notifying.ask_test(db, first(fields, "name"), actor=actor, now_ms=wall_ms())
    return "/notifications?done=channel-tested"


# Silences


@form(role="operator")
@beside(show_all, "silence")
async def post_silence(request: web.Request, fields: Fields) -> str:
    """Something is kept quiet for a while. Raises Refusal 422."""
    now_ms, until_ms = wall_ms(), forms.moment(fields, "until")
    if until_ms is None:
        raise problems.invalid("/until", "required", "until when?")
    from_ms = forms.moment(fields, "from")
    silence = SilenceSpec(
        from_ms=now_ms if from_ms is None else from_ms,
        until_ms=until_ms,
        comment=first(fields, "comment"),
        device_id=first(fields, "device_id") or None,
        group=first(fields, "group") or None,
        tag=first(fields, "tag") or None,
        fault=first(fields, "fault") or None,
    )
    await notifying.add_silence(request.app[SERVICES].db, silence, actor=forms.who(request).actor, now_ms=now_ms)
    return "/notifications?done=silence-added#silences"


@form(role="operator")
@beside(show_all, "remove")
async def post_remove_silence(request: web.Request, fields: Fields) -> str:
    """It is told of again. Raises Refusal 404."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await notifying.remove_silence(db, first(fields, "id"), actor=actor, now_ms=wall_ms())
    return "/notifications?done=silence-removed#silences"


def setup(app: web.Application) -> None:
    """Adds the pages; the fixed paths before those with a name in them."""
    router, base = app.router, "/notifications"
    router.add_get(base, get_notifications)
    for kind, show, put, remove in (
        ("rules", get_rule, post_rule, post_remove_rule),
        ("channels", get_channel, post_channel, post_remove_channel),
    ):
        router.add_get(f"{base}/{kind}", show)
        router.add_post(f"{base}/{kind}", put)
        router.add_post(f"{base}/{kind}/remove", remove)
        router.add_get(f"{base}/{kind}/{{name}}", show)
    router.add_post(f"{base}/channels/test", post_test_channel)
    router.add_post(f"{base}/silences", post_silence)
    router.add_post(f"{base}/silences/remove", post_remove_silence)
