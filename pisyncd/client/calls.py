"""The calls that are answered: sessions, and how daemon and cloud are. Each may raise ClientError."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from pisyncd.client.core import SUBMIT_S, Core
from pisyncd.client.errors import ClientError

Id = str | uuid.UUID


def create_session(
    core: Core,
    mode: str,
    question_ids: Iterable[Id],
    filters: Mapping[str, Any] | None,
    duration_s: int | None,
    session_id: Id | None,
) -> dict[str, Any]:
    """POST /v1/sessions; the session becomes the core's current one."""
    body: dict[str, Any] = {
        # Named here, so that asking again makes no second one.
        "id": str(session_id or uuid.uuid4()),
        "mode": mode,
        "question_ids": [str(each) for each in question_ids],
    }
    if filters is not None:
        body["filters"] = dict(filters)
    if duration_s is not None:
        body["duration_s"] = duration_s
    session = core.request("POST", "/v1/sessions", body)
    core.session_id = str(session.get("id") or body["id"])
    return session


def answer(
    core: Core, session_id: Id, question_id: Id, selected_index: int | None, marked: bool | None
) -> dict[str, Any]:
    """POST /v1/sessions/{id}/answer with what is given."""
    body: dict[str, Any] = {"question_id": str(question_id)}
    if selected_index is not None:
        body["selected_index"] = selected_index
    if marked is not None:
        body["marked"] = marked
    return core.request("POST", f"/v1/sessions/{_part(session_id)}/answer", body)


def submit_session(core: Core, session_id: Id) -> dict[str, Any]:
    """Sends what is captured, then POST /v1/sessions/{id}/submit."""
    core.sync(SUBMIT_S)
    return core.request("POST", f"/v1/sessions/{_part(session_id)}/submit", {})


def review(core: Core, session_id: Id) -> dict[str, Any]:
    """GET /v1/sessions/{id}/review."""
    return core.request("GET", f"/v1/sessions/{_part(session_id)}/review")


def status(core: Core) -> dict[str, Any]:
    """The daemon's /status through its socket; /api/telemetry/status at an address."""
    if core.config.url is None:
        return core.request("GET", "/status")
    return core.request("GET", "/api/telemetry/status")


def health(core: Core) -> dict[str, Any]:
    """The daemon's /healthz through its socket; /api/health at an address. 503 is an answer: not healthy."""
    if core.config.url is None:
        return core.request("GET", "/healthz", fine=(503,))
    try:
        return core.request("GET", "/api/health", fine=(503,))
    except ClientError as error:
        if error.status != 404:
            raise
        return core.request("GET", "/healthz", fine=(503,))


def _part(value: Id) -> str:
    return quote(str(value), safe="")
