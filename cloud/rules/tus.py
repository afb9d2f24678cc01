"""What the headers of the tus 1.0.0 protocol say, read from text that a stranger wrote.

Everything here is pure: header text in, values out, `BadHeader` when a value cannot be taken as it stands.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pisyncd.core import wire

VERSION = wire.TUS_VERSION
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
    "concatenation",
)
CHECKSUMS = ("sha1", "sha256")
ENCODINGS = ("identity", "gzip", "zstd")

INTEGER_DIGITS_MAX = 16
METADATA_CHARS_MAX = 8_190
PARTS_MAX = 1_000

_INTEGER = re.compile(rf"[0-9]{{1,{INTEGER_DIGITS_MAX}}}")
_SIGNED = re.compile(rb"-?[0-9]{1,15}")
_SHA256 = re.compile(rb"[0-9a-f]{64}")
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_PART_URL = re.compile(r"(?:https?://[^/\s]+)?/?(?:[^?#\s]*/)?api/files/([0-9a-f]{32})/?|([0-9a-f]{32})")

Kind = Literal["file", "bundle"]


class BadHeader(ValueError):
    """A header cannot be taken as it stands."""

    def __init__(self, header: str, detail: str) -> None:
        super().__init__(f"{header}: {detail}")
        self.header = header
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """What a request body must hash to."""

    algorithm: str
    digest: bytes

    def hasher(self) -> hashlib._Hash:
        return hashlib.new(self.algorithm, usedforsecurity=False)


@dataclass(frozen=True, kw_only=True)
class Concat:
    """`parts` is empty for a partial upload and names the parts, in order, for a final one."""

    final: bool
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a client wants made of an upload, taken from its metadata. `path` is raw wire path bytes."""

    kind: Kind = "file"
    path: bytes = b""
    sha256: bytes | None = None
    mtime_ms: int | None = None
    reuse: bool = False


def is_upload_id(text: str) -> bool:
    """Whether `text` can name an upload: 32 lowercase hex digits, never anything a path could be made of."""
    return _UPLOAD_ID.fullmatch(text) is not None


def integer(header: str, text: str | None) -> int | None:
    """'42' -> 42, None -> None. Signs, blanks, other digits and more than 16 of them raise BadHeader."""
    if text is None:
        return None
    if not _INTEGER.fullmatch(text):
        raise BadHeader(header, f"must be 1 to {INTEGER_DIGITS_MAX} decimal digits")
    return int(text)


def required_integer(header: str, text: str | None) -> int:
    """As `integer`, but a missing header raises BadHeader too."""
    value = integer(header, text)
    if value is None:
        raise BadHeader(header, "is missing")
    return value


def creation_length(length: str | None, defer: str | None, concat: Concat | None) -> int | None:
    """The Upload-Length of a creation, None when it is deferred or follows from the parts."""
    if concat is not None and concat.final:
        if length is not None or defer is not None:
            raise BadHeader("Upload-Length", "must not be sent for a final upload; it is the sum of the parts")
        return None
    if defer is not None and defer != "1":
        raise BadHeader("Upload-Defer-Length", "must be 1")
    if (length is None) == (defer is None):
        raise BadHeader("Upload-Length", "send either Upload-Length or Upload-Defer-Length: 1")
    return integer("Upload-Length", length)


def checksum(text: str | None) -> Checksum | None:
    """'sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=' -> Checksum. Unknown algorithms and wrong digest sizes raise BadHeader."""
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    if algorithm not in CHECKSUMS:
        raise BadHeader("Upload-Checksum", f"the algorithm must be one of {', '.join(CHECKSUMS)}")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise BadHeader("Upload-Checksum", "the digest is not base64") from None
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise BadHeader("Upload-Checksum", "the digest has the wrong size")
    return Checksum(algorithm=algorithm, digest=digest)


def concat(text: str | None) -> Concat | None:
    """'partial' -> Concat(final=False); 'final;/api/files/a /api/files/b' -> Concat(final=True, parts=(a, b))."""
    if text is None:
        return None
    if text == "partial":
        return Concat(final=False)
    word, _, listed = text.partition(";")
    urls = listed.split()
    if word != "final" or not urls or len(urls) > PARTS_MAX:
        raise BadHeader("Upload-Concat", f"must be 'partial' or 'final;' and 1 to {PARTS_MAX} upload addresses")
    parts = []
    for url in urls:
        match = _PART_URL.fullmatch(url)
        if match is None:
            raise BadHeader("Upload-Concat", "names something that is not an upload of this server")
        parts.append(match[1] or match[2])
    return Concat(final=True, parts=tuple(parts))


def encoding(text: str | None) -> str | None:
    """The one Content-Encoding of a body: 'identity', 'gzip' or 'zstd'; None when it is not supported."""
    word = (text or "identity").strip().lower()
    word = "gzip" if word == "x-gzip" else word
    return word if word in ENCODINGS else None


def metadata(text: str | None) -> Mapping[str, bytes]:
    """The pairs of Upload-Metadata. It is kept as sent and never used in a path or a header."""
    if text is None:
        return {}
    if len(text) > METADATA_CHARS_MAX:
        raise BadHeader("Upload-Metadata", f"is longer than {METADATA_CHARS_MAX} characters")
    try:
        return wire.decode_metadata(text)
    except ValueError as fault:
        raise BadHeader("Upload-Metadata", str(fault)) from None


def intent(pairs: Mapping[str, bytes]) -> Intent:
    """What the metadata asks for. A client that knows nothing of PiSync names its file with `filename` or `name`."""
    kind = pairs.get("kind", b"file")
    if kind not in (b"file", b"bundle"):
        raise BadHeader("Upload-Metadata", "kind must be file or bundle")
    sha256 = pairs.get("sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise BadHeader("Upload-Metadata", "sha256 must be 64 lowercase hex digits")
    mtime = pairs.get("mtime_ms")
    if mtime is not None and not _SIGNED.fullmatch(mtime):
        raise BadHeader("Upload-Metadata", "mtime_ms must be an integer of at most 15 digits")
    return Intent(
        kind="bundle" if kind == b"bundle" else "file",
        path=pairs.get("path") or pairs.get("filename") or pairs.get("name") or b"",
        sha256=None if sha256 is None else bytes.fromhex(sha256.decode()),
        mtime_ms=None if mtime is None else int(mtime),
        reuse="reuse" in pairs,
    )
