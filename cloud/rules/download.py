"""What a download request asks for, and how a hostile file name is written into a header."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import quote

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*")
_ETAG = re.compile(r'(?:W/)?"([^"]*)"')
_PLAIN_NAME = re.compile(rb"[^A-Za-z0-9._ -]")


@dataclass(frozen=True, kw_only=True)
class Span:
    """`length` bytes from `start` on; `partial` when that was asked for."""

    start: int
    length: int
    partial: bool


def span(header: str | None, size: int) -> Span | None:
    """The bytes to send of `size`, None when the range cannot be satisfied (416).

    Several ranges, other units and nonsense are answered with the whole, as RFC 9110 allows.
    """
    whole = Span(start=0, length=size, partial=False)
    match = _RANGE.fullmatch(header or "")
    if match is None or not (match[1] or match[2]):
        return whole
    if not match[1]:
        length = min(int(match[2]), size)
        return Span(start=size - length, length=length, partial=True) if length else None
    start = int(match[1])
    end = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < start:
        return whole
    return Span(start=start, length=end - start + 1, partial=True) if start < size else None


def names_etag(header: str | None, sha256: str) -> bool:
    """Whether If-None-Match or If-Match names this content: '*', '"<sha256>"', or a list of them."""
    return header is not None and (header.strip() == "*" or sha256 in _ETAG.findall(header))


def range_applies(if_range: str | None, sha256: str) -> bool:
    """Whether a Range still means the content that the client has a part of. A date never does."""
    return if_range is None or if_range.strip() == f'"{sha256}"'


def repr_digest(sha256: str) -> str:
    """The Repr-Digest of a content (RFC 9530): 'sha-256=:<base64>:'."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def disposition(path: bytes) -> str:
    """Content-Disposition for the last component of a path: never a line break, a quote or a path in the header."""
    name = path.rpartition(b"/")[2]
    plain = _PLAIN_NAME.sub(b"_", name).decode("ascii").strip(". ") or "file"
    exact = quote(name.decode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"
