"""What a device is subscribed to: GET and PUT /api/devices/{device_id}/subscriptions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, payload
from cloud.flows import subscriptions
from cloud.services import SERVICES, wall_ms
from pisyncd.core import problems

Names = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=subscriptions.VALUE_CHARS_MAX)]],
    Meta(max_length=subscriptions.SUBSCRIPTIONS_MAX),
]


class SubscriptionsIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the device is to be subscribed to from now on; at most 1000 in all."""

    site: Names = []
    group: Names = []
    user: Names = []


class SubscriptionsOut(msgspec.Struct, frozen=True, kw_only=True):
    """What the device is subscribed to, in order."""

    device_id: str
    site: list[str]
    group: list[str]
    user: list[str]


_decoder = msgspec.json.Decoder(SubscriptionsIn)


async def get_subscriptions(request: web.Request) -> web.Response:
    """200 with what the device is subscribed to. Raises Refusal 401, 403, 404."""
    device_id = request.match_info["device_id"]
    await access.require(request, device=device_id, role="viewer")
    found = await subscriptions.of_device(request.app[SERVICES].db, device_id)
    return answers.ok(request, SubscriptionsOut(device_id=device_id, **subscriptions.by_kind(found)))


async def put_subscriptions(request: web.Request) -> web.Response:
    """200 with what the device is subscribed to now. Raises Refusal 400, 401, 403, 404, 408, 413, 422."""
    device_id = request.match_info["device_id"]
    principal = await access.require(request, role="operator")
    services = request.app[SERVICES]
    content = await payload.read(request)
    try:
        wanted = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(content, SubscriptionsIn, error) from None
    scopes = subscriptions.checked({"site": wanted.site, "group": wanted.group, "user": wanted.user})
    found = await subscriptions.replace(services.db, device_id, scopes, actor=principal.actor, now_ms=wall_ms())
    services.feed.moved()
    return answers.ok(request, SubscriptionsOut(device_id=device_id, **subscriptions.by_kind(found)))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/devices/{device_id}/subscriptions", get_subscriptions)
    app.router.add_put("/api/devices/{device_id}/subscriptions", put_subscriptions)
