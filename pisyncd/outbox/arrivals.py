"""What applications tell, checked, in the form in which it is taken in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from pisyncd.core import envelope, record, track
from pisyncd.core.envelope import Envelope, Rejection, Source
from pisyncd.core.problems import Refusal
from pisyncd.core.recordwire import Plain
from pisyncd.core.track import Event

#: The priority of progress, assessments and the like.
ITEM_PRIORITY = 7
#: That of those which are records; none of them is ever shed.
RECORD_PRIORITY = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One event or item. `key` stands for its id and whose id it is, `digest` for its content; `body` is JSON.

    `message_id` is the id that the message has when it is free; `event_id` is what the application calls it.
    """

    event_id: str
    key: bytes
    digest: bytes
    message_id: str
    item_type: str
    body: str
    priority: int

    @property
    def batch_id(self) -> str:
        """What a repeat is answered with, too, without being kept."""
        return envelope.derived_id(_digest("batch", self.key))


@dataclass(frozen=True, kw_only=True, slots=True)
class OfSession:
    """An event of envelope v1, as sent; whose it is may be for its session to say."""

    raw: bytes
    source: Source | None
    event: Envelope

    @property
    def priority(self) -> int:
        """1-10."""
        return self.event.priority

    def belonging_to(self, user_id: str) -> Envelope | Rejection:
        """The event with its user; its id and digest are made of the user, too."""
        return envelope.judge(self.raw, source=self.source, user_id=user_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class OfRecord:
    """Plain data that names a record: a write of it. `key` and `digest` as of an Arrival."""

    event_id: str
    key: bytes
    digest: bytes
    plain: Plain

    @property
    def priority(self) -> int:
        """1-10."""
        return RECORD_PRIORITY


def judge_event(raw: bytes, source: Source | None, user_id: str | None) -> OfSession | Rejection:
    """An event of envelope v1; `user_id` is the one that the request names."""
    event = envelope.judge(raw, source=source, user_id=user_id)
    if isinstance(event, Rejection):
        return event
    if user_id and event.user_id != user_id:
        detail = "user_id is not the user that PiSync-User names"
        return Rejection(code="session-not-yours", detail=detail, session_id=event.session_id)
    return OfSession(raw=raw, source=source, event=event)


def rejection(refusal: Refusal) -> Rejection:
    """A refused event among others."""
    detail = "; ".join(f"{error.pointer}: {error.detail}" for error in refusal.errors) or refusal.detail
    code = refusal.code if refusal.code in ("personal-data", "event-too-large") else "item-invalid"
    return Rejection(code=code, detail=detail[:300])


def of_session(event: Envelope) -> Arrival:
    """An event of envelope v1. Its id is one of the world: a UUID."""
    return Arrival(
        event_id=event.id,
        key=_digest("v1", event.id),
        digest=event.digest,
        message_id=event.id,
        item_type="event",
        body=_json(envelope.message(event)),
        priority=event.priority,
    )


def tracked(event: Event, event_id: str, user_id: str) -> Arrival:
    """A generic event. Its id is its user's: `evt_1` of one learner does not stand in the way of another's."""
    user_id = user_id or event.user_id
    key = _digest("track", user_id, event_id)
    return Arrival(
        event_id=event_id,
        key=key,
        digest=event.digest,
        message_id=envelope.derived_id(key) if user_id else event_id,
        item_type="event",
        body=_json(track.message(event, event_id, user_id)),
        priority=event.priority,
    )


def other(item_type: str, item_id: str, data: str, user_id: str) -> Arrival:
    """An item that is passed on as it is; `data` is JSON, `user_id` '' when it is of nobody."""
    return Arrival(
        event_id=item_id,
        key=_digest("item", user_id, item_id),
        digest=_digest(item_type, data),
        message_id=item_id,
        item_type=item_type,
        body=data,
        priority=ITEM_PRIORITY,
    )


def of_record(item_id: str, plain: Plain, user_id: str) -> OfRecord:
    """A write of a record; `user_id` '' when it is of nobody."""
    content = (plain.type, plain.id, record.canonical(plain.fields), plain.deleted)
    return OfRecord(event_id=item_id, key=_digest("item", user_id, item_id), digest=_digest(*content), plain=plain)


def _json(body: dict[str, Any]) -> str:
    return msgspec.json.encode(body).decode()


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
