"""POST /api/webhooks/enrollment-changed and /api/webhooks/profile-updated: other systems tell of changes."""

from __future__ import annotations

from aiohttp import web

from cloud.api import answers, payload
from cloud.rules import inbound as rules
from cloud.services import SERVICES


async def post_enrollment_changed(request: web.Request) -> web.Response:
    """200 with what became of it. Raises Refusal 400, 401, 409, 410, 413, 415, 422, 503."""
    return await _take(request, rules.ENROLLMENT)


async def post_profile_updated(request: web.Request) -> web.Response:
    """200 with what became of it. Raises Refusal 400, 401, 409, 410, 413, 415, 422, 503."""
    return await _take(request, rules.PROFILE)


async def _take(request: web.Request, hook: str) -> web.Response:
    inbound = request.app[SERVICES].inbound
    # Whoever cannot be believed is refused before the body is read, and a body of a stranger is never large.
    if request.content_length is not None and request.content_length > rules.BODY_BYTES_MAX:
        raise rules.too_large()
    inbound.check_on()
    body = await payload.read(request)
    if len(body) > rules.BODY_BYTES_MAX:
        raise rules.too_large()
    event = inbound.believe(hook, request.headers, body)
    return answers.ok(request, await inbound.take(event))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post(f"/api/webhooks/{rules.ENROLLMENT}", post_enrollment_changed)
    app.router.add_post(f"/api/webhooks/{rules.PROFILE}", post_profile_updated)
