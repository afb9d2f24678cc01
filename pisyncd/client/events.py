"""From what the application says to what waits in the queue."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pisyncd.client import rules

BODY_BYTES_MAX = 16 * 1024
#: Counted on top of an event's own bytes for what the row and its indexes take.
ROW_BYTES = 120
_SPELLINGS = {"session": ("session_id", "sessionId"), "question": ("question_id", "questionId")}


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): time first, so that a database keeps together what came together; else random."""
    number = int.from_bytes(os.urandom(16)) & ((1 << 80) - 1) | (time.time_ns() // 1_000_000 & ((1 << 48) - 1)) << 80
    number = number & ~(0xF << 76) | 7 << 76
    return str(uuid.UUID(int=number & ~(3 << 62) | 2 << 62))


class Unfit(Exception):
    """This is no event that anybody would take."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event as it waits. `kind` is `learning` or `track`; `body` its JSON as sent, without `seq`."""

    id: str
    event_type: str
    kind: str
    rank: int
    user_id: str
    session_id: str
    body: str

    @property
    def bytes(self) -> int:
        """What it takes in the queue."""
        return len(self.body.encode()) + ROW_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoiled:
    """What could not be made into an event: counted as failed, with the reason."""

    event_type: str
    code: str
    detail: str


def make(
    event_type: Any,
    event_data: Any,
    metadata: Any,
    *,
    user_id: str = "",
    session_id: Any = None,
    question_id: Any = None,
    default_session_id: Any = None,
) -> Event:
    """An event with its id and the time now. Raises Unfit.

    `metadata` may hold `sessionId` and `questionId` (or `session_id`, `question_id`), `eventId`, `clientTimestamp` and
    `priority`. An event of the 12 learning types that belongs to a session is of the kind `learning`.
    """
    if not isinstance(event_type, str) or not event_type:
        raise Unfit("event-invalid", f"the type of an event is text, not {type(event_type).__name__}")
    name = str.__str__(event_type)[:200]
    data = _mapping("event_data", event_data)
    about = _mapping("metadata", metadata)
    session = session_id or _said(about, "session") or default_session_id
    if name in rules.LEARNING_RANKS and session:
        return _learning(name, data, about, user_id, str(session), question_id or _said(about, "question"))
    return _track(name, data, about, user_id)


def spoil(event_type: Any, error: Exception) -> Spoiled:
    """The record of an event that could not be made, whatever the reason."""
    name = str.__str__(event_type)[:200] if isinstance(event_type, str) else ""
    if isinstance(error, Unfit):
        return Spoiled(event_type=_clean(name), code=error.code, detail=_clean(error.detail))
    return Spoiled(event_type=_clean(name), code="event-invalid", detail=_clean(f"{type(error).__name__}: {error}"))


def _learning(name: str, data: dict[str, Any], about: dict[str, Any], user: str, session: str, question: Any) -> Event:
    given = about.get("eventId")
    event_id = given.lower() if isinstance(given, str) and _is_uuid(given) else new_id()
    body = {
        "id": event_id,
        "event_type": name,
        "client_ts": _client_ts(about),
        "session_id": session,
        "question_id": str(question) if question else None,
        "payload": _small(data),
    }
    return Event(
        id=event_id,
        event_type=name,
        kind="learning",
        rank=rules.rank(name),
        user_id=user,
        session_id=session,
        body=_json(body, BODY_BYTES_MAX),
    )


def _track(name: str, data: dict[str, Any], about: dict[str, Any], user: str) -> Event:
    given = about.get("eventId")
    event_id = str.__str__(given)[:128] if isinstance(given, str) and given else new_id()
    metadata = {**about, "clientTimestamp": _client_ts(about), "eventId": event_id}
    body = {"eventId": event_id, "eventType": name, "eventData": _small(data), "metadata": metadata}
    return Event(
        id=event_id,
        event_type=name,
        kind="track",
        rank=rules.rank(name),
        user_id=user,
        session_id="",
        body=_json(body, BODY_BYTES_MAX),
    )


def now_rfc3339() -> str:
    """2026-01-20T12:34:56.000Z"""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _client_ts(about: dict[str, Any]) -> str:
    said = about.get("clientTimestamp")
    return said if isinstance(said, str) and said else now_rfc3339()


def _mapping(what: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Unfit("event-invalid", f"{what} is a mapping, not {type(value).__name__}")
    return dict(value)


def _said(about: dict[str, Any], what: str) -> Any:
    return next((about[spelling] for spelling in _SPELLINGS[what] if about.get(spelling)), None)


def _small(data: dict[str, Any]) -> dict[str, Any]:
    _json(data, rules.PAYLOAD_BYTES_MAX)
    return data


def _json(value: Any, bytes_max: int) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise Unfit("event-invalid", f"cannot be written as JSON: {error}") from None
    if size > bytes_max:
        raise Unfit("payload-too-large", f"{size} bytes, {bytes_max} are allowed")
    return text


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()[:500]
