"""What applications send, judged piece by piece. Pure: bytes in, pieces or reasons out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pisyncd.core import envelope, problems, recordwire, track, wire
from pisyncd.core.envelope import Rejection
from pisyncd.core.problems import Refusal
from pisyncd.outbox import arrivals
from pisyncd.outbox.intake import Piece

ITEM_BYTES_MAX = 64 * 1024
#: What an application may send; the other types are the device's own.
ITEM_TYPES = ("event", "progress", "assessment", "profile", "enrollment", "record")

Token = Annotated[str, Meta(pattern=r"^[!-~]{1,128}$(?!\n)")]


class BatchIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/telemetry/batch: 1-500 items; each is judged alone."""

    batchId: Token
    items: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=wire.BATCH_ITEMS_MAX)]


class ItemIn(msgspec.Struct, frozen=True, kw_only=True):
    """One item. Streams and numbers are the device's own: those of an application are not looked at."""

    itemType: str
    itemData: msgspec.Raw
    id: Token | None = None


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    id: Token


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One item of a batch: what is to be taken in, or why it is not. `item_id` '' is that of the event."""

    item_id: str
    found: Piece | Rejection


_batch_decoder = msgspec.json.Decoder(BatchIn)
_item_decoder = msgspec.json.Decoder(ItemIn)
_named_decoder = msgspec.json.Decoder(_Named)

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def batch(body: bytes) -> BatchIn:
    """Raises Refusal 400 or 422 for the envelope; items are not looked into."""
    try:
        return _batch_decoder.decode(body)
    except _UNREADABLE as error:
        raise problems.unreadable(body, BatchIn, error) from None


def item(raw: bytes, fallback_id: str, user_id: str | None) -> Judged:
    """One item of a batch. Never raises for what a client sent."""
    try:
        asked = _item_decoder.decode(raw)
        text = bytes(asked.itemData).decode("utf-8")
    except _UNREADABLE as error:
        return Judged(item_id=_name(raw) or fallback_id, found=Rejection(code="item-invalid", detail=str(error)[:300]))
    if asked.itemType not in ITEM_TYPES:
        unknown = Rejection(code="item-type-unknown", detail=f"known: {', '.join(ITEM_TYPES)}")
        return Judged(item_id=asked.id or fallback_id, found=unknown)
    found = (
        _event(asked, fallback_id, user_id)
        if asked.itemType == "event"
        else _other(asked, text, fallback_id, user_id or "")
    )
    return Judged(item_id=asked.id or _shown_id(found, fallback_id), found=found)


def _shown_id(found: Piece | Rejection, fallback_id: str) -> str:
    """What an item is called that has no id: a record by its own, an event by that which it was given."""
    if isinstance(found, arrivals.OfRecord):
        return found.plain.id
    return fallback_id if isinstance(found, Rejection) else ""


def _event(asked: ItemIn, fallback_id: str, user_id: str | None) -> Piece | Rejection:
    data = bytes(asked.itemData)
    if envelope.is_envelope(data):
        return arrivals.judge_event(data, None, user_id)
    try:
        event = track.decode_item(data)
    except Refusal as refusal:
        return arrivals.rejection(refusal)
    event_id = event.id or asked.id or fallback_id
    return arrivals.tracked(event, event_id, user_id or "")


def _other(asked: ItemIn, text: str, fallback_id: str, user_id: str) -> Piece | Rejection:
    data = bytes(asked.itemData)
    if len(data) > ITEM_BYTES_MAX:
        return Rejection(code="item-too-large", detail=f"at most {ITEM_BYTES_MAX} bytes")
    try:
        own_id, own_user = track.decode_other(asked.itemType, data)
        whole = msgspec.json.decode(data, type=dict[str, Any])
        if user_id and not own_user:
            # The header ends here; whose it is has to travel with it.
            whole["userId"] = user_id
            text = msgspec.json.encode(whole).decode()
        plain = _plain(asked.itemType, whole)
    except Refusal as refusal:
        code = refusal.code if refusal.code == "personal-data" else "item-invalid"
        return Rejection(code=code, detail=refusal.detail)
    if plain is not None:
        return arrivals.of_record(asked.id or fallback_id, plain, own_user or user_id)
    return arrivals.other(asked.itemType, asked.id or own_id or fallback_id, text, own_user or user_id)


def _plain(item_type: str, data: dict[str, Any]) -> recordwire.Plain | None:
    """The write of a record that an item is; None: it names no record and is passed on. Raises Refusal 422."""
    if isinstance(data.get("state"), dict):
        raise problems.invalid("/itemData/state", "state", "how a record stands is told by devices; send its fields")
    plain = recordwire.plain(item_type, data)
    if plain is None and item_type == recordwire.ITEM_TYPE:
        raise problems.invalid("/itemData", "record", "an item `record` names its recordType and recordId")
    return plain


def _name(raw: bytes) -> str:
    try:
        return _named_decoder.decode(raw).id
    except _UNREADABLE:
        return ""
