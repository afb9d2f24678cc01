"""A generic event: any type, any data that is small and holds nothing personal.

The body of POST /api/telemetry/track, and the data of a batch's `event` item. Both ends judge by these rules.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pisyncd.core import privacy, problems, wire
from pisyncd.core.envelope import Uuid
from pisyncd.core.problems import Refusal

DATA_BYTES_MAX = 4096
PRIORITY_DEFAULT = 5
_WHOLE = r"$(?!\n)"

EventType = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,63}" + _WHOLE)]
EventId = Annotated[str, Meta(pattern=r"^[!-~]{1,128}" + _WHOLE)]
Priority = Annotated[int, Meta(ge=1, le=10)]


class TrackMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """About the event. `userAgent` is taken and not kept; `priority` 10 goes first."""

    clientTimestamp: Annotated[str, Meta(max_length=64, extra_json_schema={"format": "date-time"})] | None = None
    userAgent: Annotated[str, Meta(max_length=1024)] | None = None
    eventId: EventId | None = None
    priority: Priority | None = None


class TrackIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/telemetry/track."""

    eventType: EventType
    eventData: dict[str, Any] = {}
    metadata: TrackMetadata = TrackMetadata()


class EventItem(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a batch's `event` item: the same, with the id beside the type; a device names the user."""

    eventType: EventType
    eventId: EventId | None = None
    eventData: dict[str, Any] = {}
    metadata: TrackMetadata = TrackMetadata()
    userId: Uuid | None = None


class _Own(msgspec.Struct, frozen=True):
    """What other items may say of themselves inside their data."""

    progressId: EventId | None = None
    assessmentId: EventId | None = None
    userId: Uuid | None = None


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of the answer to a tracked event."""

    eventId: str
    serverTimestamp: str
    batchId: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A generic event, checked; `data` is its JSON, `id` None when not given, `user_id` '' when of nobody."""

    id: str | None
    event_type: str
    data: str
    client_ts: str | None
    client_ts_ms: int | None
    priority: int
    digest: bytes
    user_id: str = ""


_track_decoder = msgspec.json.Decoder(TrackIn)
_item_decoder = msgspec.json.Decoder(EventItem)
_own_decoder = msgspec.json.Decoder(_Own)
#: Other items that tell of learning; `profile` and `enrollment` are records of persons by their nature.
IMPERSONAL = frozenset({"progress", "assessment"})


def decode(body: bytes) -> Event:
    """The event in a request. Raises Refusal 400, 413, 422."""
    try:
        asked = _track_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, TrackIn, error) from None
    return _event(asked, asked.metadata.eventId)


def decode_item(body: bytes) -> Event:
    """The event in a batch's item. Raises Refusal 400, 413, 422."""
    try:
        asked = _item_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, EventItem, error) from None
    return _event(asked, asked.eventId or asked.metadata.eventId)


def _event(asked: TrackIn | EventItem, event_id: str | None) -> Event:
    data = msgspec.json.encode(asked.eventData)
    if len(data) > DATA_BYTES_MAX:
        raise Refusal(
            413, "event-too-large", f"eventData has at most {DATA_BYTES_MAX} bytes", hint="send ids, not contents"
        )
    if found := privacy.personal(asked.eventData):
        raise personal_data(f"/eventData{found[0]}", found[1])
    if event_id and (found := privacy.personal(event_id)):
        raise personal_data("/eventId", found[1])
    said = asked.metadata.clientTimestamp
    client_ts_ms = None if said is None else problems.moment(said, "metadata/clientTimestamp")
    text = data.decode("utf-8", "surrogatepass")
    return Event(
        id=event_id,
        event_type=asked.eventType,
        data=text,
        client_ts=said,
        client_ts_ms=client_ts_ms,
        priority=asked.metadata.priority or PRIORITY_DEFAULT,
        user_id=(asked.userId or "").lower() if isinstance(asked, EventItem) else "",
        digest=hashlib.blake2b(repr((asked.eventType, text, client_ts_ms)).encode(), digest_size=16).digest(),
    )


def decode_other(item_type: str, data: bytes) -> tuple[str | None, str]:
    """(the id, the user or '') that an item of another type says of itself. Raises Refusal 400, 422.

    Its data is an object that every reader of JSON can read, and holds nothing personal where it tells of learning.
    """
    try:
        whole = msgspec.json.decode(data, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.invalid("/itemData", "object", f"itemData is an object: {error}"[:300]) from None
    if item_type in IMPERSONAL and (found := privacy.personal(whole)):
        raise personal_data(f"/itemData{found[0]}", found[1])
    try:
        own = _own_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None, ""
    return own.progressId or own.assessmentId, (own.userId or "").lower()


def personal_data(pointer: str, reason: str) -> Refusal:
    """422: what must not travel."""
    return Refusal(
        422,
        "personal-data",
        f"{pointer}: {reason}",
        hint="send ids, indexes and numbers; leave out names, contacts, addresses and free text",
        errors=[wire.ErrorItem(pointer=pointer, code="personal-data", detail=reason)],
    )


def message(event: Event, event_id: str, user_id: str) -> dict[str, Any]:
    """The `itemData` by which a device passes an event on; `user_id` '' when it is of nobody."""
    body: dict[str, Any] = {
        "eventId": event_id,
        "eventType": event.event_type,
        "eventData": msgspec.Raw(event.data.encode()),
    }
    if user_id:
        body["userId"] = user_id
    if event.client_ts is not None:
        body["metadata"] = {"clientTimestamp": event.client_ts}
    return body
