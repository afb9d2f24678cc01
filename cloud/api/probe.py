"""GET /api/probe: the proof that this is the device's own cloud, and the time."""

from __future__ import annotations

import msgspec
from aiohttp import web

from cloud.api import access
from cloud.rules import problems
from cloud.services import wall_ms
from pisyncd.core import wire


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a challenge: HMAC-SHA256 keyed with the token, and the server's time."""

    proof: str
    server_time: str
    device_id: str


async def get_probe(request: web.Request) -> web.Response:
    """200 with the proof. Raises Refusal 401, 422."""
    challenge = request.query.get("challenge", "")
    principal = await access.require(request, device=True, role="viewer")
    if not wire.is_challenge(challenge):
        raise problems.invalid("query:challenge", "pattern", "challenge is 1-128 of A-Z a-z 0-9 _ -")
    token = access.bearer(request)
    proof = wire.proof(token, challenge)
    body = msgspec.json.encode(Probe(proof=proof, server_time=wire.rfc3339(wall_ms()), device_id=principal.device_id))
    headers = {"Cache-Control": "no-store", wire.PROOF_HEADER: proof}
    return web.Response(body=body, content_type="application/json", headers=headers)


def setup(app: web.Application) -> None:
    """Adds the route."""
    app.router.add_get("/api/probe", get_probe)
