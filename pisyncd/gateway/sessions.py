"""Learner sessions: POST /v1/sessions, .../answer, .../submit and GET .../review, as in the cloud."""

from __future__ import annotations

from aiohttp import web

from pisyncd.core import envelope, session
from pisyncd.gateway.bodies import Bodies
from pisyncd.gateway.boundary import answer
from pisyncd.outbox import Outbox


class LearnerSessions:
    """One handler per route."""

    def __init__(self, outbox: Outbox, bodies: Bodies) -> None:
        self._sessions = outbox.sessions
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """What applications and browsers may use."""
        return [
            web.post("/v1/sessions", self.create),
            web.post("/v1/sessions/{session_id}/answer", self.answer),
            web.post("/v1/sessions/{session_id}/submit", self.submit),
            web.get("/v1/sessions/{session_id}/review", self.review, allow_head=False),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """201 with the session, 200 when it was made before. Raises Refusal 400, 403, 409, 413, 422."""
        user_id = _user(request)
        if user_id is None:
            raise session.user_missing()
        async with self._bodies.of(request) as body:
            made, is_new = await self._sessions.create(session.decode_session(body), user_id)
        return answer(session.session_out(made), 201 if is_new else 200)

    async def answer(self, request: web.Request) -> web.Response:
        """200 with the answer as it is now. Raises Refusal 400, 403, 404, 409, 413, 422."""
        async with self._bodies.of(request) as body:
            asked = session.decode_answer(body)
            given = await self._sessions.answer(_session_id(request), _user(request), asked)
        return answer(session.answer_out(given))

    async def submit(self, request: web.Request) -> web.Response:
        """200 with the session, which has ended. Raises Refusal 400, 403, 404, 413, 422."""
        async with self._bodies.of(request) as body:
            session.decode_submit(body)
            ended = await self._sessions.submit(_session_id(request), _user(request))
        return answer(session.session_out(ended))

    async def review(self, request: web.Request) -> web.Response:
        """200 with the session and its answers. Raises Refusal 400, 403, 404, 409."""
        found, given = await self._sessions.review(_session_id(request), _user(request))
        return answer(session.review_out(found, given))


def _user(request: web.Request) -> str | None:
    return session.named_user(request.headers.get(session.USER_HEADER))


def _session_id(request: web.Request) -> str:
    text = request.match_info["session_id"]
    if not envelope.is_uuid(text):
        raise session.unknown(text)
    return text.lower()
