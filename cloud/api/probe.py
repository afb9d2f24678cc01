"""/api/probe: GET proves that this is the device's own cloud and tells the time, POST takes bytes for a speed test."""

from __future__ import annotations

import msgspec
from aiohttp import web

from cloud.api import access, answers, payload
from cloud.services import wall_ms
from pisyncd.core import problems, wire


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
    body = Probe(proof=proof, server_time=wire.rfc3339(wall_ms()), device_id=principal.device_id)
    return answers.beside(request, body, headers={wire.PROOF_HEADER: proof})


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes of a speed test arrived; they are not kept."""

    received: int


async def post_probe(request: web.Request) -> web.Response:
    """200 with the count. Raises Refusal 401, 413."""
    await access.require(request, device=True, role="operator")
    return answers.beside(request, Received(received=len(await payload.read(request))))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/probe", get_probe)
    app.router.add_post("/api/probe", post_probe)
