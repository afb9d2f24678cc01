"""What is answered when bytes of an upload cannot be taken: each says where the upload stands, to go on from there."""

from __future__ import annotations

from pisyncd.core.problems import Refusal

OFFSET = "Upload-Offset"
RETRY_AFTER_S = 60


def _at(offset: int) -> dict[str, str]:
    return {OFFSET: str(offset)}


def unknown() -> Refusal:
    """404: no such upload, or not this device's."""
    return Refusal(404, "upload-unknown", "there is no such upload", hint="create a new one")


def ended() -> Refusal:
    """410: terminated or expired."""
    return Refusal(410, "upload-ended", "this upload was ended or has expired", hint="create a new one")


def too_large(bytes_max: int) -> Refusal:
    """413: longer than any upload may be."""
    return Refusal(
        413,
        "upload-too-large",
        f"an upload has at most {bytes_max} bytes here",
        hint="exclude the file, or ask the operator of the cloud to raise upload_bytes_max",
        headers={"Tus-Max-Size": str(bytes_max)},
    )


def too_long(offset: int) -> Refusal:
    """413: the body goes beyond the upload's length; none of it counts."""
    return Refusal(413, "body-too-long", "the body goes beyond the upload's length", headers=_at(offset))


def conflict(offset: int, said: int) -> Refusal:
    """409: the offset is another one."""
    return Refusal(
        409,
        "offset-mismatch",
        f"the cloud holds {offset} bytes, not {said}",
        hint="ask for the offset and go on from there",
        headers=_at(offset),
    )


def preempted(offset: int | None = None) -> Refusal:
    """409: a newer request for the same upload took over; what arrived before that counts."""
    return Refusal(
        409,
        "upload-preempted",
        "a newer request for this upload took over",
        hint="ask for the offset and go on from there",
        headers={} if offset is None else _at(offset),
    )


def stopping(offset: int) -> Refusal:
    """503: the service stops; what arrived counts."""
    return Refusal(
        503,
        "service-stopping",
        "the cloud is being restarted",
        hint="go on from the offset in a moment",
        headers={**_at(offset), "Retry-After": "2"},
    )


def cut(offset: int) -> Refusal:
    """400: the body ended early; what arrived counts."""
    return Refusal(400, "body-cut", "the body ended early", hint="go on from the offset", headers=_at(offset))


def stalled(offset: int) -> Refusal:
    """408: no byte came for too long; what arrived counts."""
    return Refusal(408, "body-stalled", "no byte came for too long", hint="go on from the offset", headers=_at(offset))


def broken(offset: int, why: str) -> Refusal:
    """400: the body does not decode; none of it counts."""
    return Refusal(400, "body-unreadable", f"the body does not decode: {why}", headers=_at(offset))


def mismatch(offset: int) -> Refusal:
    """460: the body is not what its checksum says; none of it counts."""
    return Refusal(
        460,
        "checksum-mismatch",
        "the body is not what Upload-Checksum says",
        hint="send the same bytes again",
        headers=_at(offset),
    )


def storage_full(offset: int | None = None, retry_after_s: float | None = None) -> Refusal:
    """507: no room now; what arrived counts, and it goes on when there is room."""
    headers = {} if offset is None else _at(offset)
    headers["Retry-After"] = str(round(retry_after_s or RETRY_AFTER_S))
    return Refusal(
        507,
        "storage-full",
        "the cloud has no room for this now",
        hint="the operator of the cloud must make room; sending goes on by itself when there is",
        headers=headers,
    )


def length_fixed(length: int) -> Refusal:
    """400: the length was said before."""
    return Refusal(400, "length-fixed", f"Upload-Length is {length} and cannot be changed")


def length_too_small(offset: int) -> Refusal:
    """400: a deferred length below what has arrived."""
    return Refusal(400, "length-too-small", "more bytes than Upload-Length have arrived already", headers=_at(offset))


def final_takes_nothing() -> Refusal:
    """403: a final upload consists of its parts."""
    return Refusal(403, "upload-final", "a final upload takes no bytes of its own", hint="send the parts")


def part_unfinished(part: str) -> Refusal:
    """409: a final upload names something that is not a finished part."""
    return Refusal(409, "part-unfinished", f"{part} is not a finished partial upload", hint="finish its bytes first")
