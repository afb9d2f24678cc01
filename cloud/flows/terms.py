"""What is said about an upload: what a client announces and sends, and where the upload stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cloud.flows import unpack
from cloud.flows.receive import Source
from cloud.rules import tus
from cloud.store.uploads import Outcome, UploadRow

Stage = Literal["receiving", "verifying", "published", "partial", "refused"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Bounds: bytes of one upload, how long unfinished and ended uploads are kept, how long an answer may wait."""

    upload_bytes_max: int
    keep_ms: int
    answer_s: float = 20.0
    unpack: unpack.Limits = field(default_factory=unpack.Limits)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a client announces. `length` is None when it is deferred or follows from the parts."""

    length: int | None
    intent: tus.Intent
    concat: tus.Concat | None = None
    metadata: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A body that comes with a request, and how it is to be read. `declared` is its size in bytes when known."""

    body: Source
    declared: int | None = None
    checksum: tus.Checksum | None = None
    encoding: str = "identity"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an upload stands."""

    upload: UploadRow
    offset: int
    stage: Stage
    error_code: str | None = None
    entries: tuple[int, int, int] = (0, 0, 0)


def ended(upload: UploadRow, outcome: Outcome) -> Standing:
    return Standing(
        upload=upload,
        offset=upload.length_bytes or 0,
        stage=outcome.state,
        error_code=outcome.error_code,
        entries=(outcome.published, outcome.reused, len(outcome.refusals)),
    )
