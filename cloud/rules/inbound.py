"""Webhooks from other systems: what their bodies may hold, and which write of a record each asks for."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pisyncd.core import problems, record
from pisyncd.core.problems import Refusal
from pisyncd.core.record import RecordId

BODY_BYTES_MAX = 256 * 1024

_WHOLE = r"$(?!\n)"  # a bare $ would let a trailing newline pass

EventId = Annotated[str, Meta(pattern=r"^[!-~]{1,128}" + _WHOLE)]
Moment = Annotated[str, Meta(max_length=64, extra_json_schema={"format": "date-time"})]
Verb = Literal["created", "updated", "deleted"]


class EnrollmentChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/webhooks/enrollment-changed. `retryCount` and `status` are the sender's own."""

    id: EventId
    type: Literal["enrollment.created", "enrollment.updated", "enrollment.deleted"]
    resourceId: RecordId
    resourceType: Literal["enrollment"]
    timestamp: Moment
    data: dict[str, Any] | None = None
    retryCount: Any = None
    status: Any = None


class ProfileUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/webhooks/profile-updated; a user is a profile here."""

    id: EventId
    type: Literal[
        "profile.created", "profile.updated", "profile.deleted", "user.created", "user.updated", "user.deleted"
    ]
    resourceId: RecordId
    resourceType: Literal["profile", "user"]
    timestamp: Moment
    data: dict[str, Any] | None = None
    retryCount: Any = None
    status: Any = None


Told = EnrollmentChanged | ProfileUpdated

ENROLLMENT = "enrollment-changed"
PROFILE = "profile-updated"
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    ENROLLMENT: msgspec.json.Decoder(EnrollmentChanged),
    PROFILE: msgspec.json.Decoder(ProfileUpdated),
}
_RECORD_TYPES = {ENROLLMENT: "enrollment", PROFILE: "profile"}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook in one form. `digest`: of what it says, not of how often it was sent."""

    id: str
    hook: str
    type: str
    verb: Verb
    record_type: str
    record_id: str
    fields: dict[str, Any]
    timestamp_ms: int
    digest: bytes


def decode(hook: str, body: bytes) -> Event:
    """A webhook of `hook`, ENROLLMENT or PROFILE. Raises Refusal 400 (no JSON), 413, 422 (with every fault's place)."""
    decoder = _DECODERS[hook]
    try:
        told: Told = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, decoder.type, error) from None
    verb: Verb = told.type.rpartition(".")[2]  # type: ignore[assignment]
    if told.data is None and verb != "deleted":
        raise problems.invalid("/data", "required", "data holds the fields of the record")
    fields = {} if verb == "deleted" else dict(told.data or {})
    record.check_fields(record.BUILT_IN[_RECORD_TYPES[hook]], fields, pointer="/data")
    return Event(
        id=told.id,
        hook=hook,
        type=told.type,
        verb=verb,
        record_type=_RECORD_TYPES[hook],
        record_id=told.resourceId,
        fields=fields,
        timestamp_ms=problems.moment(told.timestamp, "timestamp"),
        digest=hashlib.sha256(record.canonical([hook, told.type, told.resourceId, fields])).digest(),
    )


def check_time(told_ms: int, now_ms: int, tolerance_s: int) -> None:
    """Raises Refusal 401 for a time that is off by more than `tolerance_s`, before or after."""
    if abs(now_ms - told_ms) > tolerance_s * 1000:
        raise Refusal(
            401,
            "timestamp-outside-tolerance",
            f"the webhook's time is off by more than {tolerance_s} s",
            hint="sign every attempt anew with the time of sending; look at the sender's clock",
        )


def too_large() -> Refusal:
    """413: more than any record holds."""
    return Refusal(413, "too-large", f"a webhook has at most {BODY_BYTES_MAX} bytes", hint="send ids")


def off() -> Refusal:
    """503: nobody can be believed without a secret."""
    return Refusal(
        503, "webhooks-off", "no webhook_secret is set", hint="set webhook_secret_file (or PISYNC_CLOUD_WEBHOOK_SECRET)"
    )


def unsigned() -> Refusal:
    """401, the same for a signature that is missing and for one that is wrong."""
    return Refusal(
        401,
        "signature-invalid",
        "the webhook is not signed by the secret that is set here",
        hint="x-webhook-signature: the hex HMAC-SHA256 of the body, or the three headers of Standard Webhooks",
    )
