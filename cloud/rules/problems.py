"""What a client did wrong, as a value: status, code, what happened, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from pisyncd.core import wire
from pisyncd.core.errors import PiSyncError

RETRYABLE = frozenset({408, 425, 429, 502, 503, 504})


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
            retryable=status in RETRYABLE,
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
