"""Learner sessions: POST /v1/sessions, .../answer, .../submit and GET .../review."""

from __future__ import annotations

from aiohttp import web

from cloud.api import access, answers, keys, payload
from cloud.flows.sessions import Caller
from cloud.services import SERVICES
from pisyncd.core import envelope, session


async def _caller(request: web.Request) -> Caller:
    principal = await access.require(request, device=True, user=True)
    request[keys.RATES] = await request.app[SERVICES].rates.items(principal, 1)
    if principal.kind == "user":
        return Caller(principal=principal, user_id=principal.user_id)
    return Caller(principal=principal, user_id=session.named_user(request.headers.get(session.USER_HEADER)))


def _session_id(request: web.Request) -> str:
    text = request.match_info["session_id"]
    if not envelope.is_uuid(text):
        raise session.unknown(text)
    return text.lower()


async def post_session(request: web.Request) -> web.Response:
    """201 with the session, 200 when it was made before. Raises Refusal 400, 401, 403, 409, 422."""
    caller = await _caller(request)
    asked = session.decode_session(await payload.read(request))
    made, is_new = await request.app[SERVICES].sessions.create(caller, asked)
    return answers.json(session.session_out(made), status=201 if is_new else 200)


async def post_answer(request: web.Request) -> web.Response:
    """200 with the answer as it is now. Raises Refusal 400, 401, 403, 404, 409, 422."""
    caller = await _caller(request)
    asked = session.decode_answer(await payload.read(request))
    given = await request.app[SERVICES].sessions.answer(caller, _session_id(request), asked)
    return answers.json(session.answer_out(given))


async def post_submit(request: web.Request) -> web.Response:
    """200 with the session, which has ended. Raises Refusal 400, 401, 403, 404, 409, 422."""
    caller = await _caller(request)
    session.decode_submit(await payload.read(request))
    return answers.json(
        session.session_out(await request.app[SERVICES].sessions.submit(caller, _session_id(request)))
    )  # fmt: skip


async def get_review(request: web.Request) -> web.Response:
    """200 with the session and its answers. Raises Refusal 400, 401, 403, 404, 409."""
    caller = await _caller(request)
    found, given = await request.app[SERVICES].sessions.review(caller, _session_id(request))
    return answers.json(session.review_out(found, given))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post("/v1/sessions", post_session)
    app.router.add_post("/v1/sessions/{session_id}/answer", post_answer)
    app.router.add_post("/v1/sessions/{session_id}/submit", post_submit)
    app.router.add_get("/v1/sessions/{session_id}/review", get_review, allow_head=False)
