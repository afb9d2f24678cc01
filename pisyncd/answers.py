"""What an answer of our cloud comes to: its shapes, and what a refusal means for the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from pisyncd.core import recordwire, wire
from pisyncd.core.errors import (
    CloudBusy,
    CursorExpired,
    OffsetMismatch,
    PiSyncError,
    Rejected,
    StorageBusy,
    TokenRefused,
    TooLarge,
    TransientError,
    UploadGone,
)

T = TypeVar("T")

RETRY_AFTER_MAX_S = 3600.0


class ChunkMismatch(TransientError):
    """A chunk arrived other than it was sent."""

    code = "chunk-mismatch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A proven answer."""

    status: int
    headers: Any
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where an upload stands in the cloud. `url` is absolute."""

    url: str
    offset: int
    length: int | None
    state: str
    error_code: str | None


class ProbeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of GET /api/probe."""

    proof: str
    server_time: str


class ChangesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of GET /api/changes."""

    data: recordwire.Changes


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of GET /api/files/{id}."""

    data: wire.UploadStatus


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    next_cursor: str | None = None


class ContentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of GET /api/devices/{id}/contents: SHA-256 in hex."""

    data: list[str]
    pagination: _Page = _Page()


def progress(answer: Answer, url: str, length: int | None) -> Progress:
    """Where an upload stands, by the headers. Raises CloudBusy when they hold no numbers."""
    told = answer.headers.get("Upload-Length")
    return Progress(
        url=url,
        offset=number(answer.headers.get("Upload-Offset", "0")),
        length=number(told) if told else length,
        state=answer.headers.get(wire.UPLOAD_STATE, "receiving"),
        error_code=answer.headers.get(wire.UPLOAD_ERROR),
    )


def number(text: str) -> int:
    """Raises CloudBusy."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CloudBusy("the cloud gave an offset that is no number", code="answer-invalid")
    return int(text)


def decode(answer: Answer, shape: type[T]) -> T:
    """The body. Raises CloudBusy (answer-invalid) when it is not of that shape."""
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CloudBusy(f"the cloud's answer cannot be read: {error}", code="answer-invalid") from error


def retry_after(answer: Answer) -> float | None:
    """Seconds, at most an hour; None when the header is missing or no number."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), RETRY_AFTER_MAX_S)
    return None


def refusal(answer: Answer) -> PiSyncError:
    """What a refusing answer of our cloud means for the caller."""
    try:
        problem = msgspec.json.decode(answer.body, type=wire.Problem)
        detail, code, hint = problem.detail or problem.title, problem.code, problem.hint
    except (msgspec.DecodeError, msgspec.ValidationError):
        detail, code, hint = f"the cloud answered {answer.status}", f"http-{answer.status}", ""
    match answer.status:
        case 401:
            return TokenRefused(detail)
        case 410 if code == CursorExpired.code:
            return CursorExpired(detail)
        case 404 | 410:
            return UploadGone(detail)
        case 409 if "Upload-Offset" in answer.headers:
            return OffsetMismatch(number(answer.headers["Upload-Offset"]))
        case 413:
            return TooLarge(detail, hint=hint or None)
        case 507:
            return StorageBusy(detail, code=code, hint=hint, retry_after_s=retry_after(answer))
        case 460:
            return ChunkMismatch(detail)
        case 408 | 423 | 425 | 429:
            return CloudBusy(detail, code=code, hint=hint or None, retry_after_s=retry_after(answer))
        case status if status >= 500:
            return CloudBusy(detail, code=code, hint=hint or None, retry_after_s=retry_after(answer))
    return Rejected(detail, code=code, hint=hint)
