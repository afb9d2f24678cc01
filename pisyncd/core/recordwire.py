"""Records on the wire: what a device pushes, what it pulls, and how one is answered by either end."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pisyncd.core import problems, record
from pisyncd.core.record import Count, RecordId, RecordType, State, TypeRule, Writer

#: itemType of records whose type is none of the four that every API knows.
ITEM_TYPE = "record"
ITEM_TYPES = frozenset({ITEM_TYPE, *record.BUILT_IN})
PAGE_MAX = 500
WAIT_MAX_S = 900
ETAGS_MAX = 100
_ETAG = re.compile(r'\s*(?:(\*)|(?:W/)?"([^"]*)")\s*')


#: How far each writer has been seen.
Version = Annotated[dict[Writer, Count], Meta(max_length=record.WRITERS_MAX)]


class Pushed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`itemData` by which a device passes a record on: all of it, as it stands after one write.

    `base`: how far the record had seen its writers before that write.
    """

    type: RecordType
    id: RecordId
    state: msgspec.Raw
    base: Version = {}


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record of GET /api/changes. `gone`: this device is not entitled to it any more, or it was purged.

    `version` instead of a state: what the caller told last itself. A copy that has not seen all of that is an earlier
    one, and fetches everything anew.
    """

    type: RecordType
    id: RecordId
    state: State | None = None
    gone: bool = False
    version: dict[str, int] = {}


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of GET /api/changes. `cursor` is opaque and is kept with what it covers; `more`: ask again at once.

    `rules` and `rules_etag`: how records are reconciled, when the caller's `rules=` names another etag.
    """

    changes: list[Change]
    cursor: str
    more: bool
    rules_etag: str
    rules: dict[str, TypeRule] | None = None


class FieldsIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of PUT (all fields) and PATCH (some; null removes one) of a record."""

    fields: dict[str, Any]


class ConflictBrief(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about this record. `open`: a person has to decide."""

    id: str
    field: str
    open: bool
    explanation: str


class RecordOut(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is answered. `etag` goes into If-Match; `version` is how far it has seen each writer.

    `sync_status` on a device: `pending` until the cloud has it; in the cloud always `synced`.
    """

    type: str
    id: str
    fields: dict[str, Any]
    deleted: bool
    version: dict[str, int]
    etag: str
    last_updated_at: str
    last_synced_at: str | None
    sync_status: str
    conflicts: list[ConflictBrief]


_fields_decoder = msgspec.json.Decoder(FieldsIn)
_pushed_decoder = msgspec.json.Decoder(Pushed)


def decode_fields(body: bytes) -> FieldsIn:
    """Raises Refusal 400, 422."""
    try:
        return _fields_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, FieldsIn, error) from None


def decode_pushed(data: bytes) -> Pushed:
    """Raises Refusal 400, 422. The state inside is looked at by `record.checked_state`."""
    try:
        return _pushed_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(data, Pushed, error) from None


def is_pushed(data: dict[str, Any]) -> bool:
    """Whether an item's data is a record with its state, and not plain fields; {'state': 'done'} is none.

    A device's that is broken is not taken for fields that are called type and state.
    """
    state = data.get("state")
    if isinstance(state, dict) and "version" in state:
        return True
    return {"type", "id", "state"} <= data.keys() <= {"type", "id", "base", "state"}


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a record type without a state: plain fields as any application sends them.

    `base` is the version that the sender had seen, None when it does not say.
    """

    type: str
    id: str
    fields: dict[str, Any]
    base: dict[str, int] | None
    deleted: bool


def plain(item_type: str, data: dict[str, Any]) -> Plain | None:
    """The record in plain data; None when it names none. Raises Refusal 422.

    {'progressId': 'prog_1', 'moduleId': 'mod_1', 'percent': 75} -> progress prog_1 with moduleId and percent;
    `recordType` names the type of an item `record`, `baseVersion` the version that was seen, `deleted: true` deletes.
    """
    fields = dict(data)
    record_type = fields.pop("recordType", None) if item_type == ITEM_TYPE else item_type
    base, deleted = fields.pop("baseVersion", None), fields.pop("deleted", False)
    record_id = None
    for name in (f"{item_type}Id", *record.ID_FIELDS):
        if isinstance(fields.get(name), str):
            record_id = fields.pop(name)
            break
    if record_id is None and item_type == "profile" and isinstance(fields.get("userId"), str):
        record_id = fields["userId"]
    if record_id is None or record_type is None:
        return None
    if not record.is_record_id(record_id):
        raise id_invalid("/itemData")
    try:
        version = None if base is None else msgspec.convert(base, Version)
        kind = msgspec.convert(record_type, RecordType)
        gone = msgspec.convert(deleted, bool)
    except msgspec.ValidationError as error:
        raise problems.invalid("/itemData", "invalid", str(error)) from None
    return Plain(type=kind, id=record_id, fields=fields, base=version, deleted=gone)


def id_invalid(pointer: str) -> problems.Refusal:
    """422: this cannot name a record."""
    return problems.invalid(pointer, "id", "the id of a record has 1-128 of A-Z a-z 0-9 . _ : ~ @ -")


def type_unknown(record_type: str, known: record.Rules) -> problems.Refusal:
    """404: no such type here."""
    return problems.Refusal(
        404,
        "record-type-unknown",
        f"there is no record type {record_type[:32]!r}",
        hint=f"known: {', '.join(sorted(known))}; the cloud's setting record_types_file adds more",
    )


def unknown(record_type: str, record_id: str) -> problems.Refusal:
    """404: no such record."""
    return problems.Refusal(404, "record-unknown", f"there is no {record_type} {record_id}", hint="PUT makes one")


def stale(etag: str) -> problems.Refusal:
    """412: If-Match names another version."""
    return problems.Refusal(
        412,
        "version-mismatch",
        "the record has changed since it was read",
        hint="GET it again, then write with its etag in If-Match",
        headers={"ETag": f'"{etag}"'},
    )


def etags(header: str | None) -> set[str] | None:
    """What If-Match names ('*' as it is); None without one. Raises Refusal 400."""
    if header is None:
        return None
    found = [_ETAG.fullmatch(each) for each in header.split(",")]
    if len(found) > ETAGS_MAX or None in found:
        raise problems.malformed('If-Match is "ETAG" as a record gave it, or *', code="if-match-invalid")
    return {match[1] or match[2] for match in found if match is not None}
