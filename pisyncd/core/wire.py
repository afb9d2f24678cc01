"""What travels between device and cloud: names, bodies and their encodings.

Both sides import this module and nothing else of each other. The tus protocol is version 1.0.0
(https://tus.io/protocols/resumable-upload), problem details are RFC 9457, wall time on the wire is RFC 3339 with `Z`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from pisyncd.core import vitals

TUS_VERSION = "1.0.0"
OFFSET_STREAM = "application/offset+octet-stream"
PROBLEM_JSON = "application/problem+json"
PROBLEM_URN = "urn:pisync:problem:"

CHALLENGE_HEADER = "PiSync-Challenge"
PROOF_HEADER = "PiSync-Proof"
TIME_HEADER = "PiSync-Time"
REQUEST_ID_HEADER = "X-Request-ID"
UPLOAD_STATE = "Upload-State"
UPLOAD_ERROR = "Upload-Error"

STREAM_SYNC = "sync"
STREAM_EVENT = "event"
STREAM_LOSS = "loss"
STREAM_RECORD = "record"

UploadState = Literal["receiving", "verifying", "published", "partial", "refused"]
ItemStatus = Literal["synced", "duplicate", "failed", "conflict"]
SyncStatus = Literal["success", "partial", "failed"]

BATCH_ITEMS_MAX = 500
CONTENTS_PAGE_MAX = 10_000
PATH_BYTES_MAX = 4096
NAME_BYTES_MAX = 255

PAX_SHA256 = "PISYNC.sha256"
PAX_MTIME = "PISYNC.mtime_ms"
PAX_REUSE = "PISYNC.reuse"
PAX_SIZE = "PISYNC.size"

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_KEY = re.compile(r"[!-+\--~]+")


class ErrorItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fault in a request: where (a JSON pointer), which, and what."""

    pointer: str
    code: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error answer: RFC 9457 problem details with PiSync's code, hint and retryability."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    request_id: str = ""
    retryable: bool = False
    errors: list[ErrorItem] = []


class Pacing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the cloud asks of the device, which obeys within its own bounds.

    In answers to a batch only: `commands` are asked again until a report of vitals tells how they ended; `token` is to
    be used from the next request on, and the old one works until it was.
    """

    sync_in_s: float | None = None
    batch_max_events: int | None = None
    batch_max_bytes: int | None = None
    commands: list[vitals.Command] = []
    token: str | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a batch. (device, stream, seq) names it for good."""

    itemType: str
    itemData: Any
    id: str | None = None
    stream: str | None = None
    seq: int | None = None
    boot_id: str | None = None
    boottime_ms: int | None = None
    wall_ms: int | None = None
    clock_trusted: bool | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of POST /api/telemetry/batch."""

    batchId: str
    items: list[Item]
    sentAt: str | None = None
    sentBootId: str | None = None
    sentBoottimeMs: int | None = None
    boots: dict[str, int] | None = None
    echo: tuple[int, int, int] | None = None


class Resolution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a conflict about a record ended. `conflictId` stands in GET /api/conflicts."""

    conflictId: str
    strategy: str
    winner: Literal["client", "server", "undecided"]
    detail: str = ""


class ItemResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one item. A conflict with a `resolution` was taken: both sides are kept; one without was not."""

    itemId: str
    status: ItemStatus
    timestamp: str
    code: str | None = None
    resolution: Resolution | None = None


class BatchOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch; `receivedThrough` is the watermark per stream."""

    processed: int
    successful: int
    failed: int
    conflicts: int
    duplicates: int
    results: list[ItemResult]
    syncTime: str
    receivedThrough: dict[str, int]


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to POST /api/telemetry/batch."""

    success: bool
    data: BatchOutcome
    next: Pacing = Pacing()


class SyncHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How messages fare, at either end. `avgSyncDuration` is in milliseconds, `successRate` from 0 to 1."""

    lastSyncTime: str | None
    pendingItems: int
    totalItems: int
    syncHealth: Literal["good", "degraded", "poor", "unknown"]
    successRate: float
    avgSyncDuration: float
    lastError: str | None
    receivedThrough: dict[str, int]


class TelemetryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /api/telemetry/status."""

    syncStatus: SyncHealth


class RefusedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a bundle that was not published."""

    path: str
    path_b64: str
    code: str
    hint: str = ""


class EntryCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries of an upload met which end."""

    published: int = 0
    reused: int = 0
    refused: int = 0


class UploadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of GET /api/files/{id}. `offset` and `length` count decoded bytes."""

    id: str
    state: UploadState
    offset: int
    length: int | None
    kind: str
    error_code: str | None = None
    hint: str | None = None
    entries: EntryCounts = EntryCounts()
    refused: list[RefusedEntry] = []
    last_updated_at: str | None = None


def rfc3339(wall_ms: int) -> str:
    """1700000000123 -> '2023-11-14T22:13:20.123Z'."""
    seconds, millis = divmod(wall_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{millis:03d}Z"


def from_rfc3339(text: str) -> int | None:
    """RFC 3339 with a zone -> wall milliseconds; None when it is none. '2023-08-15T12:30:45Z' -> 1692102645000."""
    if len(text) < 20 or text[10] not in "Tt ":
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment - _EPOCH) // _MILLISECOND if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def token_hash(token: str) -> str:
    """What the cloud keeps of a token: 64 hex digits of its SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def is_challenge(text: str) -> bool:
    """Whether `text` may stand in a challenge: 1-128 of A-Z a-z 0-9 _ -."""
    return _CHALLENGE.fullmatch(text) is not None


def proof(token: str, challenge: str) -> str:
    """The answer to a challenge: HMAC-SHA256 keyed with the token, 64 hex digits."""
    return hmac.digest(token.encode("utf-8", "surrogateescape"), challenge.encode(), "sha256").hex()


def proof_holds(token: str, challenge: str, answer: str | None) -> bool:
    """Whether `answer` can only come from someone who knows the token."""
    return answer is not None and hmac.compare_digest(
        proof(token, challenge).encode(), answer.encode("utf-8", "replace")
    )


def encode_metadata(pairs: dict[str, bytes | None]) -> str:
    """{'kind': b'file', 'reuse': None} -> 'kind ZmlsZQ==,reuse' (tus Upload-Metadata)."""
    return ",".join(
        key if value is None else f"{key} {base64.b64encode(value).decode('ascii')}" for key, value in pairs.items()
    )


def decode_metadata(header: str) -> dict[str, bytes]:
    """The reverse of encode_metadata; a key without a value gives b''. Raises ValueError on anything malformed."""
    pairs: dict[str, bytes] = {}
    if not header.strip():
        return pairs
    for part in header.split(","):
        key, _, value = part.strip().partition(" ")
        if not _KEY.fullmatch(key) or key in pairs:
            raise ValueError("a key of Upload-Metadata is empty, repeated or not printable ASCII")
        try:
            pairs[key] = base64.b64decode(value.strip(), validate=True)
        except ValueError as error:
            raise ValueError(f"the value of {key!r} in Upload-Metadata is not base64") from error
    return pairs


def display_path(path: bytes) -> str:
    """Raw path bytes as text a person can read: what is not UTF-8 appears as \\xNN."""
    return path.decode("utf-8", "backslashreplace")


def path_fault(path: bytes) -> str | None:
    """Why `path` cannot be a wire path, or None. It is a key, never a place in a file system."""
    if not path or len(path) > PATH_BYTES_MAX:
        return "the path is empty or longer than 4096 bytes"
    if b"\0" in path:
        return "the path holds a NUL byte"
    for part in path.split(b"/"):
        if part in (b"", b".", b".."):
            return "the path is absolute or has an empty, '.' or '..' component"
        if len(part) > NAME_BYTES_MAX:
            return "a component of the path is longer than 255 bytes"
    return None
