"""Webhooks out: endpoints, the delivery log of one, replays, tests, secrets that are shown once."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloud.api import params
from cloud.api.webhooks import KEEP_HOURS_MAX
from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import endpoints
from cloud.flows.endpoints import Actor, Change
from cloud.rules import delivery, targets
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row, Tx
from cloud.store.webhooks import Endpoint
from pisyncd.core import problems

SHOWN = 50
DESCRIPTION_MAX = 500
KEEP_HOURS = 24
#: What a form offers: everything and whole families, and what can happen by itself.
FAMILIES = ("*", *sorted({f"{each.partition('.')[0]}.*" for each in delivery.TYPES}))
SINGLE_TYPES = tuple(sorted(delivery.TYPES))


def _actor(request: web.Request) -> Actor:
    return Actor(name=forms.who(request).actor, now_ms=wall_ms())


async def show_all(request: web.Request, tried: Tried) -> web.StreamResponse:
    """All endpoints and the form for one more."""
    async with request.app[SERVICES].db.reading() as tx:
        found, total = await endpoints.page(tx, limit=endpoints.ENDPOINTS_MAX, offset=0)
    context = {"webhooks": found, "total": total, "families": FAMILIES, "single_types": SINGLE_TYPES, "tried": tried}
    return frame.render(request, "webhooks.html", context, status=tried.status)


@page(role="admin")
async def get_webhooks(request: web.Request) -> web.StreamResponse:
    """200: all endpoints."""
    return await show_all(request, NOTHING)


@form(role="admin")
@beside(show_all, "add")
async def post_webhook(request: web.Request, fields: Fields) -> web.StreamResponse:
    """200: the new endpoint's secret, shown only here. Raises Refusal 409, 422."""
    services = request.app[SERVICES]
    made = await endpoints.create(
        services.db,
        services.poster,
        _actor(request),
        url=_url(fields),
        description=_description(fields),
        event_types=_event_types(fields),
    )
    return _secret(request, made, "The webhook is made", "")


def _url(fields: Fields) -> str:
    url = first(fields, "url")
    if not 0 < len(url) <= targets.URL_MAX:
        raise problems.invalid("/url", "length", f"an address has 1-{targets.URL_MAX} characters")
    return url


def _description(fields: Fields) -> str:
    text = first(fields, "description")
    if len(text) > DESCRIPTION_MAX:
        raise problems.invalid("/description", "length", f"a description has at most {DESCRIPTION_MAX} characters")
    return text


def _event_types(fields: Fields) -> list[str]:
    chosen = [each for each in fields.get("event_types", []) if each]
    if not chosen:
        raise problems.invalid("/event_types", "required", "nothing would be sent", hint="choose what is to be sent")
    return chosen


def _secret(request: web.Request, endpoint: Endpoint, title: str, note: str) -> web.Response:
    context = {
        "title": title,
        "label": "Signing secret",
        "secret": endpoint.secret,
        "note": note or "Who receives the webhooks verifies their signatures with it (Standard Webhooks).",
        "back": f"/webhooks/{endpoint.id}",
        "back_label": "The webhook",
    }
    return frame.render(request, "secret.html", context)


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One endpoint, its delivery log and its forms. Raises Refusal 404, 422."""
    asked = params.page(request, limit=SHOWN)
    state = params.choice(request, "state", delivery.STATES)
    kind = params.choice(request, "type", (*sorted(delivery.TYPES), delivery.TEST_TYPE))
    endpoint_id, before_id = request.match_info["webhook_id"], asked.before[1] if asked.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        endpoint = await endpoints.find(tx, endpoint_id)
        found, total = await endpoints.log(
            tx, endpoint_id, state=state, kind=kind, before_id=before_id, limit=SHOWN, offset=0
        )
        rows = found[:SHOWN]
        deliveries = await _with_attempts(tx, rows)
    context = {
        "webhook": endpoint,
        "two_secrets": len(endpoint.secrets(wall_ms())) > 1,
        "deliveries": deliveries,
        "state": state or "",
        "type": kind or "",
        "states": delivery.STATES,
        "types": [*sorted(delivery.TYPES), delivery.TEST_TYPE],
        "families": FAMILIES,
        "single_types": SINGLE_TYPES,
        "keep_hours": KEEP_HOURS,
        "keep_hours_max": KEEP_HOURS_MAX,
        "list": forms.listed(
            request, f"/webhooks/{endpoint_id}", asked, total, rows[-1]["id"] if len(found) > SHOWN else None
        ),
        "tried": tried,
    }
    return frame.render(request, "webhook.html", context, status=tried.status)


async def _with_attempts(tx: Tx, rows: list[Row]) -> list[dict[str, Any]]:
    attempts: dict[int, list[Row]] = {}
    for row in await tx.lookup("webhook_attempts_of", [(row["id"],) for row in rows]):
        attempts.setdefault(row["delivery_id"], []).append(row)
    return [{**dict(row), "made": attempts.get(row["id"], [])} for row in rows]


@page(role="admin")
async def get_webhook(request: web.Request) -> web.StreamResponse:
    """200: one endpoint. Raises Refusal 404, 422 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="admin")
@beside(show, "change")
async def post_change(request: web.Request, fields: Fields) -> str:
    """Another address, description or choice of events. Raises Refusal 404, 422."""
    wanted = Change(url=_url(fields), description=_description(fields), event_types=_event_types(fields))
    return await _changed(request, wanted, "webhook-changed")


@form(role="admin")
@beside(show, "state")
async def post_state(request: web.Request, fields: Fields) -> str:
    """Switched off, or on again. Raises Refusal 404, 422."""
    on = forms.choice(fields, "state", ["enabled", "disabled"]) == "enabled"
    wanted = Change(state="enabled" if on else "disabled")
    return await _changed(request, wanted, "webhook-enabled" if on else "webhook-disabled")


async def _changed(request: web.Request, wanted: Change, done: str) -> str:
    services, endpoint_id = request.app[SERVICES], request.match_info["webhook_id"]
    await endpoints.change(services.db, services.poster, _actor(request), endpoint_id, wanted)
    services.dispatcher.wake()
    return f"/webhooks/{endpoint_id}?done={done}"


@form(role="admin")
@beside(show, "rotate")
async def post_rotate(request: web.Request, fields: Fields) -> web.StreamResponse:
    """200: the new secret, shown only here. Raises Refusal 404, 422."""
    hours = forms.whole(fields, "keep_old_hours", least=0, most=KEEP_HOURS_MAX, default=KEEP_HOURS) or 0
    made = await endpoints.rotate(request.app[SERVICES].db, _actor(request), request.match_info["webhook_id"], hours)
    note = f"The old one signs as well for {hours} hours." if hours else "The old one does not sign any more."
    return _secret(request, made, "The secret is another one", note)


@form(role="admin")
@beside(show, "replay")
async def post_replay(request: web.Request, fields: Fields) -> str:
    """One delivery, or all of a time, once more. Raises Refusal 404, 409, 422."""
    services, endpoint_id, actor = request.app[SERVICES], request.match_info["webhook_id"], _actor(request)
    number = forms.whole(fields, "delivery_id", least=1, most=10**15 - 1)
    if number is not None:
        await endpoints.replay_one(services.db, actor, endpoint_id, number)
    else:
        since_ms, until_ms = forms.moment(fields, "since"), forms.moment(fields, "until")
        if since_ms is None:
            raise problems.invalid("/since", "required", "from when on?")
        until_ms = actor.now_ms + 1 if until_ms is None else until_ms
        await endpoints.replay_span(services.db, actor, endpoint_id, since_ms, until_ms)
    services.dispatcher.wake()
    return f"/webhooks/{endpoint_id}?done=webhook-replayed"


@form(role="admin")
@beside(show, "test")
async def post_test(request: web.Request, _fields: Fields) -> str:
    """Sends a test now; the delivery log shows what came back. Raises Refusal 404."""
    services, endpoint_id = request.app[SERVICES], request.match_info["webhook_id"]
    _, done = await endpoints.test(services.db, services.poster.post, _actor(request), endpoint_id)
    return f"/webhooks/{endpoint_id}?done={'webhook-tested' if done.error is None else 'webhook-test-failed'}"


@form(role="admin")
@beside(show, "remove")
async def post_remove(request: web.Request, _fields: Fields) -> str:
    """It is removed, with what was still to be delivered to it. Raises Refusal 404."""
    await endpoints.remove(request.app[SERVICES].db, _actor(request), request.match_info["webhook_id"])
    return "/webhooks?done=webhook-removed"


def setup(app: web.Application) -> None:
    """Adds the pages."""
    router, one = app.router, "/webhooks/{webhook_id}"
    router.add_get("/webhooks", get_webhooks)
    router.add_post("/webhooks", post_webhook)
    router.add_get(one, get_webhook)
    for name, handler in (
        ("change", post_change),
        ("state", post_state),
        ("rotate", post_rotate),
        ("replay", post_replay),
        ("test", post_test),
        ("remove", post_remove),
    ):
        router.add_post(f"{one}/{name}", handler)
