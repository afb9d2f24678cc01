"""Webhooks out, for admins: endpoints, their secrets, the delivery log, replays and tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import endpoints
from cloud.flows.endpoints import Actor, Change
from cloud.rules import delivery, targets
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from cloud.store.webhooks import Endpoint
from pisyncd.core import problems, wire

Url = Annotated[str, Meta(min_length=1, max_length=targets.URL_MAX)]
Description = Annotated[str, Meta(max_length=500)]
Filters = Annotated[list[Annotated[str, Meta(min_length=1, max_length=80)]], Meta(min_length=1, max_length=50)]
KEEP_HOURS_MAX = 24 * 30


class WebhookIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new endpoint. `event_types`: 'profile.updated', 'profile.*' or '*'."""

    url: Url
    description: Description = ""
    event_types: Filters = msgspec.field(default_factory=lambda: ["*"])


class WebhookChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be different. `state` 'enabled' also brings back one that was disabled."""

    url: Url | None = None
    description: Description | None = None
    event_types: Filters | None = None
    state: Literal["enabled", "disabled"] | None = None


class RotateIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the old secret signs as well."""

    keep_old_hours: Annotated[int, Meta(ge=0, le=KEEP_HOURS_MAX)] = 24


class ReplayIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One delivery, or all that happened from `since` to before `until` (now)."""

    delivery_id: Annotated[int, Meta(ge=1, le=params.INT64_MAX)] | None = None
    since: str | None = None
    until: str | None = None


class WebhookOut(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. `reason`: why it is disabled; `old_secret_until`: until then two secrets sign."""

    id: str
    url: str
    description: str
    event_types: list[str]
    state: Literal["enabled", "disabled"]
    reason: str
    failing_since: str | None
    held_until: str | None
    old_secret_until: str | None
    created_at: str
    last_updated_at: str


class WebhookSecret(WebhookOut, frozen=True, kw_only=True):
    """An endpoint with its secret, which is told only here."""

    secret: str


class AttemptOut(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. `answer`: how the answer's body begins, else what went wrong."""

    at: str
    duration_ms: int
    status_code: int | None
    error: str | None
    answer: str


class DeliveryOut(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the delivery log; `event_id` is the webhook-id, `due_at` that of the next attempt."""

    id: int
    event_id: str | None
    type: str | None
    resource: str
    kind: Literal["event", "replay", "test"]
    state: delivery.State
    attempts_total: int
    attempts: list[AttemptOut]
    due_at: str | None
    status_code: int | None
    error: str | None
    created_at: str
    ended_at: str | None
    last_updated_at: str


class ReplayOut(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries were made anew."""

    replayed: int


class TestOut(msgspec.Struct, frozen=True, kw_only=True):
    """What came back of a test. `error` is null when it was delivered."""

    event_id: str
    delivered: bool
    status_code: int | None
    duration_ms: int
    error: str | None
    answer: str


async def _actor(request: web.Request) -> Actor:
    principal = await access.require(request, role="admin")
    return Actor(name=principal.actor, now_ms=wall_ms())


def fields(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as it is shown."""
    at = answers.time_or_none
    rotating = len(endpoint.secrets(wall_ms())) > 1
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": list(endpoint.event_types),
        "state": endpoint.state,
        "reason": endpoint.reason,
        "failing_since": at(endpoint.failing_since_ms),
        "held_until": at(endpoint.held_until_ms),
        "old_secret_until": at(endpoint.old_until_ms) if rotating else None,
        "created_at": wire.rfc3339(endpoint.created_at_ms),
        "last_updated_at": wire.rfc3339(endpoint.updated_at_ms),
    }


async def get_webhooks(request: web.Request) -> web.Response:
    """200 with a page of endpoints, newest first. Raises Refusal 401, 403, 422."""
    await access.require(request, role="admin")
    page = params.page(request, limit=50, by_number=True)
    async with request.app[SERVICES].db.reading() as tx:
        found, total = await endpoints.page(tx, limit=page.limit, offset=page.offset)
    return answers.ok(
        request,
        [WebhookOut(**fields(each)) for each in found],
        pagination=answers.pagination(page.number, page.limit, total, None),
    )


async def post_webhook(request: web.Request) -> web.Response:
    """201 with the endpoint and its secret. Raises Refusal 400, 401, 403, 408, 409, 413, 422."""
    actor = await _actor(request)
    services = request.app[SERVICES]
    wanted = await payload.read_as(request, WebhookIn)
    made = await endpoints.create(
        services.db,
        services.poster,
        actor,
        url=wanted.url,
        description=wanted.description,
        event_types=wanted.event_types,
    )
    return answers.ok(request, WebhookSecret(**fields(made), secret=made.secret), status=201)


async def get_webhook(request: web.Request) -> web.Response:
    """200 with an endpoint. Raises Refusal 401, 403, 404."""
    await access.require(request, role="admin")
    async with request.app[SERVICES].db.reading() as tx:
        found = await endpoints.find(tx, request.match_info["webhook_id"])
    return answers.ok(request, WebhookOut(**fields(found)))


async def patch_webhook(request: web.Request) -> web.Response:
    """200 with the endpoint as it is now. Raises Refusal 400, 401, 403, 404, 408, 413, 422."""
    actor = await _actor(request)
    services = request.app[SERVICES]
    body = await payload.read_as(request, WebhookChange)
    wanted = Change(url=body.url, description=body.description, event_types=body.event_types, state=body.state)
    changed = await endpoints.change(services.db, services.poster, actor, request.match_info["webhook_id"], wanted)
    services.dispatcher.wake()
    return answers.ok(request, WebhookOut(**fields(changed)))


async def delete_webhook(request: web.Request) -> web.Response:
    """204: it is removed. Raises Refusal 401, 403, 404."""
    actor = await _actor(request)
    await endpoints.remove(request.app[SERVICES].db, actor, request.match_info["webhook_id"])
    return web.Response(status=204)


async def post_rotate(request: web.Request) -> web.Response:
    """200 with the endpoint and its new secret. Raises Refusal 400, 401, 403, 404, 408, 413, 422."""
    actor = await _actor(request)
    wanted = await payload.read_as(request, RotateIn)
    db = request.app[SERVICES].db
    made = await endpoints.rotate(db, actor, request.match_info["webhook_id"], wanted.keep_old_hours)
    return answers.ok(request, WebhookSecret(**fields(made), secret=made.secret))


async def post_replay(request: web.Request) -> web.Response:
    """202: they are delivered once more. Raises Refusal 400, 401, 403, 404, 408, 409, 413, 422."""
    actor = await _actor(request)
    services = request.app[SERVICES]
    wanted = await payload.read_as(request, ReplayIn)
    endpoint_id = request.match_info["webhook_id"]
    if (wanted.delivery_id is None) == (wanted.since is None):
        raise problems.invalid("/since", "required", "either delivery_id or since (and until) is needed")
    if wanted.delivery_id is not None:
        count = await endpoints.replay_one(services.db, actor, endpoint_id, wanted.delivery_id)
    else:
        since_ms = problems.moment(wanted.since or "", "since")
        until_ms = actor.now_ms + 1 if wanted.until is None else problems.moment(wanted.until, "until")
        count = await endpoints.replay_span(services.db, actor, endpoint_id, since_ms, until_ms)
    services.dispatcher.wake()
    return answers.ok(request, ReplayOut(replayed=count), status=202)


async def post_test(request: web.Request) -> web.Response:
    """200 with what came back, whatever that was. Raises Refusal 401, 403, 404."""
    actor = await _actor(request)
    services = request.app[SERVICES]
    event_id, done = await endpoints.test(services.db, services.poster.post, actor, request.match_info["webhook_id"])
    return answers.ok(
        request,
        TestOut(
            event_id=event_id,
            delivered=done.error is None,
            status_code=done.status_code,
            duration_ms=done.duration_ms,
            error=done.error,
            answer=done.answer,
        ),
    )


async def get_deliveries(request: web.Request) -> web.Response:
    """200 with a page of the delivery log, newest first. Raises Refusal 401, 403, 404, 422."""
    await access.require(request, role="admin")
    page = params.page(request, limit=50)
    state = params.choice(request, "state", delivery.STATES)
    kind = params.choice(request, "type", (*sorted(delivery.TYPES), delivery.TEST_TYPE))
    endpoint_id = request.match_info["webhook_id"]
    before_id = page.before[1] if page.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        rows, total = await endpoints.log(
            tx, endpoint_id, state=state, kind=kind, before_id=before_id, limit=page.limit, offset=page.offset
        )
        more, rows = len(rows) > page.limit, rows[: page.limit]
        attempts = await tx.lookup("webhook_attempts_of", [(row["id"],) for row in rows])
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    return answers.ok(
        request,
        [_delivery(row, [each for each in attempts if each["delivery_id"] == row["id"]]) for row in rows],
        pagination=answers.pagination(page.number, page.limit, total, cursor),
    )


def _delivery(row: Row, attempts: Iterable[Row]) -> DeliveryOut:
    made = [
        AttemptOut(
            at=wire.rfc3339(each["at_ms"]),
            duration_ms=each["duration_ms"],
            status_code=each["status_code"],
            error=each["error"],
            answer=each["answer"],
        )
        for each in attempts
    ]
    return DeliveryOut(
        id=row["id"],
        event_id=row["event_id"],
        type=row["type"],
        resource=row["resource"],
        kind=row["kind"],
        state=row["state"],
        attempts_total=row["attempts"],
        attempts=made,
        due_at=wire.rfc3339(row["due_at_ms"]) if row["ended_at_ms"] is None else None,
        status_code=row["status_code"],
        error=row["error"],
        created_at=wire.rfc3339(row["created_at_ms"]),
        ended_at=answers.time_or_none(row["ended_at_ms"]),
        last_updated_at=made[-1].at if made else wire.rfc3339(row["created_at_ms"]),
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    router, one = app.router, "/api/webhooks/{webhook_id}"
    router.add_get("/api/webhooks", get_webhooks)
    router.add_post("/api/webhooks", post_webhook)
    router.add_get(one, get_webhook)
    router.add_patch(one, patch_webhook)
    router.add_delete(one, delete_webhook)
    router.add_post(f"{one}/rotate-secret", post_rotate)
    router.add_post(f"{one}/replay", post_replay)
    router.add_post(f"{one}/test", post_test)
    router.add_get(f"{one}/deliveries", get_deliveries)
