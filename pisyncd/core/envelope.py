"""The envelope v1 of a learning event, and the payload of each of its types.

Both ends judge by these rules, so an application is answered by the device as it would be by the cloud. Fields and
types: docs/learning-events.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pisyncd.core import privacy, wire
from pisyncd.core.problems import Refusal, unreadable

EVENTS_MAX = 50
PAYLOAD_BYTES_MAX = 4096
REASONS_MAX = 5
VERSION = 1
_WHOLE = r"$(?!\n)"  # a bare $ would let a trailing newline pass
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

Uuid = Annotated[str, Meta(pattern=_UUID + _WHOLE, extra_json_schema={"format": "uuid"})]
Source = Literal["web", "mobile", "api"]
Moment = Annotated[str, Meta(max_length=64, extra_json_schema={"format": "date-time"})]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
Position = Annotated[int, Meta(ge=0, le=10_000)]
Index = Annotated[int, Meta(ge=0, le=1_000)]
_WORD = r"^[A-Za-z0-9][A-Za-z0-9 _.:/-]{0,63}" + _WHOLE
Word = Annotated[str, Meta(pattern=_WORD)]
# Not Word: a pattern beside a list in one union makes msgspec 0.22.0 free what is in use, and the process ends.
# `choices_fault` looks at the texts.
Scalar = Annotated[str, Meta(max_length=64)] | int | float | bool | None
Choices = Annotated[dict[Word, Scalar | list[Scalar]], Meta(max_length=50)]


class _Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a type of event carries and nothing else."""


class SessionCreated(_Payload, frozen=True, kw_only=True):
    """The choices that a session was made by, and the number of its questions."""

    mode: Word
    filters: Choices
    count: Annotated[int, Meta(ge=0, le=500)]


class SessionSubmitted(_Payload, frozen=True, kw_only=True):
    """Why a session ended."""

    reason: Literal["manual", "expired"]


class Nothing(_Payload, frozen=True, kw_only=True):
    """The type says it all."""


class Viewed(_Payload, frozen=True, kw_only=True):
    """Which question is shown, counted from 0."""

    position: Position


class Navigated(_Payload, frozen=True, kw_only=True):
    """From one question to another."""

    from_position: Position
    to_position: Position


class AnswerSelected(_Payload, frozen=True, kw_only=True):
    """The first choice at a question."""

    position: Position
    selected_index: Index


class AnswerChanged(_Payload, frozen=True, kw_only=True):
    """Another choice."""

    position: Position
    from_index: Index
    to_index: Index


class MarkToggled(_Payload, frozen=True, kw_only=True):
    """To be looked at again, or no longer."""

    position: Position
    marked: bool


class PauseBlur(_Payload, frozen=True, kw_only=True):
    """The window lost or got the focus."""

    state: Literal["blur", "focus"]


Kind = Literal["lifecycle", "navigation", "answer", "behavior"]

#: Each event type with its kind and payload.
TYPES: dict[str, tuple[Kind, type[_Payload]]] = {
    "SESSION_CREATED": ("lifecycle", SessionCreated),
    "SESSION_SUBMITTED": ("lifecycle", SessionSubmitted),
    "SESSION_EXPIRED": ("lifecycle", Nothing),
    "REVIEW_OPENED": ("lifecycle", Nothing),
    "QUESTION_VIEWED": ("navigation", Viewed),
    "NAVIGATE_NEXT": ("navigation", Navigated),
    "NAVIGATE_PREV": ("navigation", Navigated),
    "NAVIGATE_JUMP": ("navigation", Navigated),
    "ANSWER_SELECTED": ("answer", AnswerSelected),
    "ANSWER_CHANGED": ("answer", AnswerChanged),
    "MARK_FOR_REVIEW_TOGGLED": ("answer", MarkToggled),
    "PAUSE_BLUR": ("behavior", PauseBlur),
}
#: Sent last and shed first where there is no room: kind -> priority 1-10.
PRIORITY: dict[Kind, int] = {"lifecycle": 8, "answer": 8, "navigation": 3, "behavior": 2}
#: What has this priority or less may be shed; answers never.
SHEDDABLE_MAX = 3


class EventIn(msgspec.Struct, frozen=True, kw_only=True):
    """One event as an application sends it. `event_ts` of a client is not taken: the server sets it."""

    event_type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    session_id: Uuid
    payload: msgspec.Raw
    id: Uuid | None = None
    event_version: Literal[1] = 1
    client_ts: Moment | None = None
    seq: Seq | None = None
    user_id: Uuid | None = None
    question_id: Uuid | None = None
    source: Source | None = None


class EventsIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/telemetry/events: at most 50 events, each judged alone."""

    events: Annotated[list[msgspec.Raw], Meta(extra_json_schema={"maxItems": EVENTS_MAX})]
    source: Source | None = None


class EventsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to POST /v1/telemetry/events; at most 5 reasons."""

    accepted: int
    rejected: int
    rejected_reasons_sample: list[Reason]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why the event at `index` was refused."""

    index: int
    code: str
    detail: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event, checked; `payload` is its JSON as sent, ids are in lower case, `client_ts_ms` wall milliseconds.

    A Struct and not a dataclass: 10,000 of them a second are made, and a frozen dataclass takes five times as long.
    """

    id: str
    event_type: str
    client_ts: str | None
    client_ts_ms: int | None
    seq: int | None
    session_id: str
    user_id: str
    question_id: str | None
    source: Source | None
    payload: str
    digest: bytes

    @property
    def priority(self) -> int:
        """1-10."""
        return PRIORITY[TYPES[self.event_type][0]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Why an event is not taken, with what could still be told of it."""

    code: str
    detail: str
    session_id: str | None = None


class _Version(msgspec.Struct, frozen=True):
    event_version: int | None = None


_version_decoder = msgspec.json.Decoder(_Version)
_events_decoder = msgspec.json.Decoder(EventsIn)
_event_decoder = msgspec.json.Decoder(EventIn)
_payload_encoder = msgspec.json.Encoder(order="deterministic")
_payload_decoders = {name: msgspec.json.Decoder(kind) for name, (_, kind) in TYPES.items()}
_ID = re.compile(_UUID + _WHOLE)
_A_WORD = re.compile(_WORD)


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the usual form, in either case."""
    return _ID.match(text) is not None


def choices_fault(choices: Mapping[str, Any]) -> str | None:
    """What is wrong about a text among `choices` of a session, or None."""
    for name, value in choices.items():
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and not _A_WORD.match(text):
                return (
                    f"filters/{name}: a text is 1-64 of A-Z a-z 0-9 space _ . : / -, beginning with a letter or digit"
                )
    return None


def is_envelope(data: bytes) -> bool:
    """Whether the data of a batch's event says `event_version`."""
    # Without the name in it, nothing has to be decoded to say no.
    if b"event_version" not in data:
        return False
    try:
        return _version_decoder.decode(data).event_version is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def decode_events(body: bytes) -> EventsIn:
    """Raises Refusal 400 (not JSON), 413 (more than 50 events) or 422 for the envelope; events are not looked into."""
    try:
        asked = _events_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(body, EventsIn, error) from None
    if len(asked.events) > EVENTS_MAX:
        raise Refusal(
            413,
            "too-many-events",
            f"at most {EVENTS_MAX} events are taken at a time, these are {len(asked.events)}",
            hint="send half of them at a time",
        )
    return asked


def judge(raw: bytes, *, source: Source | None = None, user_id: str | None = None) -> Envelope | Rejection:
    """One event checked by itself. `source` and `user_id` stand in where the event does not say.

    Whether the session is the user's and the question the session's is for those to say who know the session; `user_id`
    is '' when nobody has said it.
    """
    try:
        event = _event_decoder.decode(raw)
        # msgspec looks at what it converts; the payload passes unread, and must be text before it is kept.
        payload = bytes(event.payload).decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejection(code="event-invalid", detail=str(error)[:300])
    session_id = event.session_id.lower()
    if event.event_type not in TYPES:
        return Rejection(code="event-type-unknown", detail=f"known types: {', '.join(TYPES)}", session_id=session_id)
    if len(event.payload) > PAYLOAD_BYTES_MAX:
        return Rejection(
            code="payload-too-large", detail=f"at most {PAYLOAD_BYTES_MAX} bytes of payload", session_id=session_id
        )
    found = _payload(event.event_type, payload)
    if isinstance(found, Rejection):
        return found
    client_ts_ms = None if event.client_ts is None else wire.from_rfc3339(event.client_ts)
    if event.client_ts is not None and client_ts_ms is None:
        detail = "client_ts is RFC 3339 with a zone: 2026-01-31T12:30:45Z"
        return Rejection(code="event-invalid", detail=detail, session_id=session_id)
    return _checked(event, found, session_id, client_ts_ms, source, user_id)


def _payload(event_type: str, payload: str) -> str | Rejection:
    """The payload in one form, however it was written, so that a client that writes it anew sends the same event."""
    try:
        decoded = _payload_decoders[event_type].decode(payload)
    except msgspec.ValidationError as error:
        # Personal data is named as such also where the type has no room for it.
        if found := _personal(payload):
            return Rejection(code="personal-data", detail=f"payload{found[0]}: {found[1]}")
        return Rejection(code="payload-invalid", detail=f"{event_type}: {error}"[:300])
    except (msgspec.DecodeError, RecursionError) as error:
        return Rejection(code="payload-invalid", detail=f"{event_type}: {error}"[:300])
    # All other payloads are numbers and fixed words by their type.
    if event_type == "SESSION_CREATED" and (found := _personal(payload)):
        return Rejection(code="personal-data", detail=f"payload{found[0]}: {found[1]}")
    return _payload_encoder.encode(decoded).decode()


def _personal(payload: str) -> tuple[str, str] | None:
    try:
        return privacy.personal(msgspec.json.decode(payload))
    except (msgspec.DecodeError, RecursionError):
        return None


def _checked(
    event: EventIn,
    payload: str,
    session_id: str,
    client_ts_ms: int | None,
    source: Source | None,
    user_id: str | None,
) -> Envelope:
    user = (event.user_id or user_id or "").lower()
    question = event.question_id.lower() if event.question_id else None
    digest = _digest(event.event_type, client_ts_ms, event.seq, session_id, user, question, payload)
    return Envelope(
        id=event.id.lower() if event.id else derived_id(digest),
        event_type=event.event_type,
        client_ts=event.client_ts,
        client_ts_ms=client_ts_ms,
        seq=event.seq,
        session_id=session_id,
        user_id=user,
        question_id=question,
        source=event.source or source,
        payload=payload,
        digest=digest,
    )


def _digest(*parts: object) -> bytes:
    # NUL stands in none of the parts: JSON and ids have no control characters.
    return hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def derived_id(digest: bytes) -> str:
    """16 bytes as a UUID of version 8 (RFC 9562): the same content has the same id."""
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def message(event: Envelope) -> dict[str, Any]:
    """The `itemData` by which a device passes an event on."""
    body: dict[str, Any] = {
        "event_version": VERSION,
        "id": event.id,
        "event_type": event.event_type,
        "session_id": event.session_id,
        "user_id": event.user_id,
        "payload": msgspec.Raw(event.payload.encode()),
    }
    for name in ("client_ts", "seq", "question_id", "source"):
        if (value := getattr(event, name)) is not None:
            body[name] = value
    return body
