"""What a client did wrong, as a value: status, code, what happened, what to do next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from pisyncd.core import wire
from pisyncd.core.errors import PiSyncError

RETRYABLE = frozenset({408, 425, 429, 502, 503, 504, 507})
#: Whatever the status: sending it again does not help.
FINAL = frozenset({"shed"})


class Refusal(PiSyncError):
    """The request was refused."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
        errors: Sequence[wire.ErrorItem] = (),
    ) -> None:
        super().__init__(detail, code=code, hint=hint)
        self.status = status
        self.headers = dict(headers or {})
        self.errors = list(errors)


def title(status: int) -> str:
    """404 -> 'Not Found'; tus' own 460 -> 'Checksum Mismatch'."""
    if status == 460:
        return "Checksum Mismatch"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_body(
    status: int,
    code: str,
    detail: str,
    *,
    hint: str = "",
    request_id: str = "",
    errors: Sequence[wire.ErrorItem] = (),
) -> bytes:
    """The JSON of an error answer (RFC 9457)."""
    return msgspec.json.encode(
        wire.Problem(
            type=wire.PROBLEM_URN + code,
            title=title(status),
            status=status,
            detail=detail,
            code=code,
            hint=hint,
            request_id=request_id,
            retryable=status in RETRYABLE and code not in FINAL,
            errors=list(errors),
        )
    )


def malformed(detail: str, *, code: str = "malformed", hint: str = "") -> Refusal:
    """400: the request cannot be read."""
    return Refusal(400, code, detail, hint=hint)


def invalid(pointer: str, code: str, detail: str, *, hint: str = "") -> Refusal:
    """422: readable, but one value is not allowed. `pointer` is a JSON pointer or `query:name`."""
    return Refusal(
        422, "validation", detail, hint=hint, errors=[wire.ErrorItem(pointer=pointer, code=code, detail=detail)]
    )


def moment(text: str, name: str) -> int:
    """A time of a body in wall milliseconds. Raises Refusal 422."""
    found = wire.from_rfc3339(text)
    if found is None:
        raise invalid(f"/{name}", "date-time", f"{name} is RFC 3339 with a zone: 2026-01-31T12:30:45Z")
    return found


def id_conflict(event_id: str) -> Refusal:
    """409: the same id came before with other content."""
    return Refusal(
        409,
        "id-conflict",
        f"event {event_id!r} was received before with other content",
        hint="give every event an id of its own; a repeat has to be sent unchanged",
    )


def device_unknown(device_id: str) -> Refusal:
    """404: nobody enrolled this device."""
    return Refusal(404, "device-unknown", f"no device {device_id!r} is enrolled", hint="pisync-cloud enroll DEVICE_ID")


def ownership_mismatch(device_id: str) -> Refusal:
    """403: a device speaks only for itself."""
    return Refusal(
        403,
        "ownership-mismatch",
        f"this token does not belong to device {device_id!r}",
        hint="use the token of that device; a device speaks only for itself",
    )


_PLACE = re.compile(r" - at `(key in )?\$(.*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[([0-9]+|\.\.\.)\]")
_FIELD = re.compile(r"`([^`]+)`")
_WORDS = (
    ("missing required", "required"),
    ("length", "length"),
    ("regex", "pattern"),
    (">=", "range"),
    ("<=", "range"),
    ("out of range", "range"),
    ("Expected `", "type"),
)


def pointer(message: str) -> tuple[str, str]:
    """msgspec's message -> (JSON pointer, rest). 'Expected `int` - at `$.a[2]`' -> ('/a/2', 'Expected `int`')."""
    found = _PLACE.search(message)
    path, rest = (found[2], message[: found.start()]) if found else ("", message)
    parts = [first or second for first, second in _STEP.findall(path)]
    if "missing required field" in rest and (field := _FIELD.search(rest.partition("field")[2])):
        parts.append(field[1])
    return "".join(f"/{part}" for part in parts), rest


def _error_item(message: str, prefix: str = "") -> wire.ErrorItem:
    where, detail = pointer(message)
    code = next((code for word, code in _WORDS if word in detail), "invalid")
    return wire.ErrorItem(pointer=prefix + where, code=code, detail=detail)


def unreadable(body: bytes, kind: type[msgspec.Struct], error: Exception) -> Refusal:
    """400 when `body` is not JSON, else 422 naming every field that does not fit `kind`."""
    if not isinstance(error, msgspec.ValidationError):
        detail = (
            "the body is nested too deeply" if isinstance(error, RecursionError) else f"the body is not JSON: {error}"
        )
        return malformed(detail, hint="send one JSON object in UTF-8")
    return Refusal(
        422,
        "validation",
        "the body is JSON, but not what is expected here",
        hint="/api-docs shows what is expected",
        errors=_faults(body, kind) or [_error_item(str(error))],
    )


def _faults(body: bytes, kind: type[msgspec.Struct]) -> list[wire.ErrorItem]:
    try:
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    found: list[wire.ErrorItem] = []
    for field in msgspec.structs.fields(kind):
        given: Any = raw.get(field.encode_name)
        if given is None:
            if field.required:
                found.append(
                    wire.ErrorItem(pointer=f"/{field.encode_name}", code="required", detail="this field is required")
                )
            continue
        try:
            msgspec.json.decode(given, type=field.type)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            found.append(_error_item(str(error), f"/{field.encode_name}"))
    return found
