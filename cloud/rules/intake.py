"""What a device reports, checked and in one form, whichever way it came.

A sync event comes as the body of POST /api/sync-event or as an item of a batch; both become a `SyncFact`. Any other
item becomes a `MessageFact`; an item that cannot be accepted as it is becomes a `Fault` and is kept with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cloud.rules import facts, learning, records
from cloud.rules.access import DEVICE_ID_PATTERN
from cloud.rules.facts import Fact, Fault, MessageFact, Place, RecordPush, SyncFact
from pisyncd.core import problems, record, recordwire, track, vitals
from pisyncd.core.wire import BATCH_ITEMS_MAX

ITEM_BYTES_MAX = 256 * 1024
#: A record travels with all its versions, and a few names around them.
RECORD_ITEM_BYTES_MAX = record.STATE_BYTES_MAX + 16 * 1024
_WHOLE = r"$(?!\n)"  # a bare $ would let a trailing newline pass

DeviceId = Annotated[str, Meta(pattern=DEVICE_ID_PATTERN.rstrip("$") + _WHOLE, max_length=128)]
Token = Annotated[str, Meta(pattern=r"^[!-~]{1,128}" + _WHOLE, max_length=128)]
Code = Annotated[str, Meta(pattern=r"^[ -~]{1,128}" + _WHOLE, max_length=128)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Big = Annotated[int, Meta(ge=0, le=2**53)]
Seq = Annotated[int, Meta(ge=1, le=2**53)]
Moment = Annotated[str, Meta(max_length=64, extra_json_schema={"format": "date-time"})]
Mbps = Annotated[float, Meta(ge=0, le=1e9, description="Mbps; null when nothing was measured")]
StreamName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}" + _WHOLE)]


class SyncEventIn(msgspec.Struct, frozen=True, kw_only=True):
    """One sync cycle as the device saw it."""

    device_id: DeviceId
    timestamp: Moment
    total_files_synced: Count
    total_errors: Count
    internet_speed: Mbps | None = None
    event_id: Token | None = None
    seq: Seq | None = None
    boot_id: Token | None = None
    boottime_ms: Big | None = None
    sent_at: Moment | None = None
    error_code: Code | None = None
    bytes_sent: Big | None = None
    duration_ms: Big | None = None
    queue_depth: Big | None = None


class ItemIn(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a batch."""

    itemType: str
    itemData: msgspec.Raw
    id: Token | None = None
    stream: StreamName | None = None
    seq: Seq | None = None
    boot_id: Token | None = None
    boottime_ms: Big | None = None
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53)] | None = None
    clock_trusted: bool | None = None


class BatchIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/telemetry/batch: 1-500 items; each is judged alone.

    `sentBootId` and `sentBoottimeMs`: the device's boot and its monotonic clock at the moment of sending; `boots`: the
    device's own count of the boots that the items name; `echo`: the monotonic times at which an earlier request of this
    boot left and was answered, and the cloud's time in that answer. From these every event of a boot gets its time.
    """

    batchId: Token
    items: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=BATCH_ITEMS_MAX)]
    sentAt: Moment | None = None
    sentBootId: Token | None = None
    sentBoottimeMs: Big | None = None
    boots: Annotated[dict[Token, Seq], Meta(max_length=BATCH_ITEMS_MAX)] | None = None
    echo: tuple[Big, Big, Big] | None = None


ITEM_TYPES = frozenset({"event", "sync_event", "session", "vitals", "loss", *recordwire.ITEM_TYPES})


#: What a user may send; the others are the device's own.
USER_ITEM_TYPES = frozenset({"event", *recordwire.ITEM_TYPES})
#: Codes that are told as they are; all others mean that the item is invalid.
_TOLD = frozenset(
    {
        "ownership-mismatch",
        "personal-data",
        "event-too-large",
        "record-type-unknown",
        "record-too-large",
        *learning.CODES,
    }
)

_sync_decoder = msgspec.json.Decoder(SyncEventIn)
_batch_decoder = msgspec.json.Decoder(BatchIn)
_item_decoder = msgspec.json.Decoder(ItemIn)
_vitals_decoder = msgspec.json.Decoder(vitals.Vitals)


def _sync_digest(event: SyncEventIn, timestamp_ms: int) -> bytes:
    # sent_at is left out: it changes with every attempt to send the same event.
    return facts.digest_of(
        timestamp_ms,
        event.total_files_synced,
        event.total_errors,
        event.internet_speed,
        event.error_code,
        event.bytes_sent,
        event.duration_ms,
        event.queue_depth,
    )


def decode_sync_event(body: bytes) -> SyncEventIn:
    """Raises Refusal 400 (not JSON) or 422 (with every fault's place)."""
    try:
        return _sync_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, SyncEventIn, error) from None


def decode_batch(body: bytes) -> BatchIn:
    """Raises Refusal 400 or 422 for the envelope; items are not looked into."""
    try:
        return _batch_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, BatchIn, error) from None


def decode_vitals(data: bytes) -> vitals.Vitals:
    """What a device says of itself. Raises Refusal 400 or 422."""
    try:
        return _vitals_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(data, vitals.Vitals, error) from None


def sync_fact(
    event: SyncEventIn,
    raw: str,
    *,
    item: ItemIn | None = None,
    batch_sent_ms: int | None = None,
    place: Place | None = None,
) -> SyncFact:
    """The fact in a sync event; without an id of its own it gets one from its content. Raises Refusal 422."""
    timestamp_ms = problems.moment(event.timestamp, "timestamp")
    sent_ms = batch_sent_ms if event.sent_at is None else problems.moment(event.sent_at, "sent_at")
    digest = _sync_digest(event, timestamp_ms)
    return SyncFact(
        event_id=event.event_id or (item.id if item and item.id else f"auto-{digest.hex()}"),
        digest=digest,
        timestamp=event.timestamp,
        timestamp_ms=timestamp_ms,
        sent_ms=sent_ms,
        files=event.total_files_synced,
        errors=event.total_errors,
        speed_mbps=event.internet_speed,
        error_code=event.error_code,
        bytes_sent=event.bytes_sent,
        duration_ms=event.duration_ms,
        queue_depth=event.queue_depth,
        seq=place.seq if place else event.seq,
        boot_id=item.boot_id if item and item.boot_id else event.boot_id,
        boottime_ms=item.boottime_ms if item and item.boottime_ms is not None else event.boottime_ms,
        trusted=item.clock_trusted if item else None,
        raw=raw,
        place=place,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    """Whose batch an item stands in: a device (`device_id`), which may name a learner (`user_id`), or a user.

    `rules`: the types of records that are known.
    """

    device_id: str = ""
    user_id: str = ""
    batch_id: str = ""
    sent_ms: int | None = None
    rules: record.Rules = field(default_factory=lambda: record.BUILT_IN)


def item_fact(raw: bytes, sender: Sender, index: int) -> Fact:
    """The fact in one item of a batch, or the Fault that it is. Never raises for what a client sent."""
    fallback_id = f"{sender.batch_id}.{index}"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return _fault({}, fallback_id, raw.decode("utf-8", "backslashreplace"), "encoding", "the item is not UTF-8")
    try:
        item = _item_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _fault(_salvage(raw), fallback_id, text, "item-invalid", str(error))
    known = {"id": item.id, "stream": item.stream, "seq": item.seq, "itemType": item.itemType}
    if (item.stream is None) != (item.seq is None):
        return _fault(known, fallback_id, text, "item-invalid", "stream and seq come together")
    allowed = ITEM_TYPES if sender.device_id else USER_ITEM_TYPES
    if item.itemType not in allowed:
        return _fault(known, fallback_id, text, "item-type-unknown", f"known: {', '.join(sorted(allowed))}")
    bytes_max = RECORD_ITEM_BYTES_MAX if item.itemType in recordwire.ITEM_TYPES else ITEM_BYTES_MAX
    if len(raw) > bytes_max:
        return _fault(known, fallback_id, text, "item-too-large", f"at most {bytes_max} bytes")
    place = Place(stream=item.stream, seq=item.seq) if item.stream and item.seq and sender.device_id else None
    try:
        return _judged(item, text, place, sender, fallback_id)
    except problems.Refusal as refusal:
        detail = "; ".join(f"{error.pointer}: {error.detail}" for error in refusal.errors) or refusal.detail
        code = refusal.code if refusal.code in _TOLD else "item-invalid"
        return _fault(known, fallback_id, text, code, detail)


def _judged(item: ItemIn, text: str, place: Place | None, sender: Sender, fallback_id: str) -> Fact:
    if item.itemType == "event":
        stamp = learning.stamp(item.boot_id, item.boottime_ms, item.wall_ms, item.clock_trusted)
        return learning.event_fact(
            bytes(item.itemData),
            text,
            item_id=item.id,
            fallback_id=fallback_id,
            place=place,
            stamp=stamp,
            user_id=sender.user_id or None,
        )
    if item.itemType != "sync_event":
        return _message(item, place, fallback_id, sender)
    event = decode_sync_event(bytes(item.itemData))
    if event.device_id != sender.device_id:
        raise problems.ownership_mismatch(event.device_id)
    return sync_fact(event, text, item=item, batch_sent_ms=sender.sent_ms, place=place)


def _message(item: ItemIn, place: Place | None, fallback_id: str, sender: Sender) -> MessageFact:
    data = bytes(item.itemData)
    found = _record(item.itemType, data, sender) if item.itemType in recordwire.ITEM_TYPES else None
    if found is not None:
        return _record_message(item, place, fallback_id, sender, found)
    body = data.decode("utf-8")
    told = decode_vitals(data) if item.itemType == vitals.ITEM_TYPE else None
    own_id, user_id = track.decode_other(item.itemType, data)
    change, events = learning.session_change(body) if item.itemType == "session" else (None, ())
    return MessageFact(
        item_id=item.id or (f"{place.stream}.{place.seq}" if place else own_id or fallback_id),
        digest=facts.digest_of(item.itemType, body),
        item_type=item.itemType,
        body=body,
        user_id=sender.user_id or user_id,
        stamp=learning.stamp(item.boot_id, item.boottime_ms, item.wall_ms, item.clock_trusted),
        place=place,
        change=change,
        events=events,
        sent_ms=sender.sent_ms,
        vitals=told,
    )


def _record(item_type: str, data: bytes, sender: Sender) -> RecordPush | recordwire.Plain | None:
    """The record in an item; None when its data names none. Raises Refusal."""
    try:
        loose = msgspec.json.decode(data, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.invalid("/itemData", "object", f"itemData is an object: {error}"[:300]) from None
    if recordwire.is_pushed(loose):
        if not sender.device_id:
            raise problems.invalid("/itemData/state", "device", "only a device sends records with their versions")
        push = records.pushed(data, sender.rules)
        if item_type not in (push.type, recordwire.ITEM_TYPE):
            raise problems.invalid("/itemData/type", "type", f"the item is a {item_type}, its data is another type's")
        return push
    plain = recordwire.plain(item_type, loose)
    if plain is not None:
        records.check_plain(plain, sender.rules)
    return plain


def _record_message(
    item: ItemIn, place: Place | None, fallback_id: str, sender: Sender, found: RecordPush | recordwire.Plain
) -> MessageFact:
    body = bytes(item.itemData).decode("utf-8")
    digest = facts.digest_of(item.itemType, body)
    user_id, shown_id = sender.user_id, ""
    item_id = item.id or (f"{place.stream}.{place.seq}" if place else "")
    if isinstance(found, recordwire.Plain):
        user_id = user_id or track.decode_other(item.itemType, bytes(item.itemData))[1]
        shown_id = "" if item_id else found.id
    # The record's id cannot name the item: the next item about the same record has another content.
    return MessageFact(
        item_id=item_id or f"{fallback_id}.{digest.hex()[:12]}",
        digest=digest,
        item_type=item.itemType,
        body=body,
        user_id=user_id,
        stamp=learning.stamp(item.boot_id, item.boottime_ms, item.wall_ms, item.clock_trusted),
        place=place,
        sent_ms=sender.sent_ms,
        record=found,
        shown_id=shown_id,
    )


def _salvage(raw: bytes) -> dict[str, Any]:
    """What can still be told of a broken item, so that it can be named and its place in the stream counts."""
    found: dict[str, Any] = {}
    try:
        loose = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return found
    if isinstance(loose, dict):
        for name, kind in (("id", Token), ("stream", StreamName), ("seq", Seq), ("itemType", Code)):
            try:
                found[name] = msgspec.convert(loose.get(name), kind)
            except msgspec.ValidationError:
                continue
    return found


def _fault(known: dict[str, Any], fallback_id: str, text: str, code: str, detail: str) -> Fault:
    stream, seq = known.get("stream"), known.get("seq")
    return Fault(
        item_id=known.get("id") or (f"{stream}.{seq}" if stream and seq else fallback_id),
        digest=facts.digest_of(text),
        item_type=str(known.get("itemType") or "")[:128].replace("\0", ""),
        body=text.replace("\0", ""),
        code=code,
        detail=detail[:1000].replace("\0", ""),
        place=Place(stream=stream, seq=seq) if stream and seq else None,
    )
