"""Content encodings of request bodies; the limit applies to what comes out."""

from __future__ import annotations

import sys
import zlib

from pisyncd.core.problems import Refusal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KNOWN = ("gzip", "deflate", "zstd")
_WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_ZSTD_WINDOW_LOG_MAX = 27


def canonical(header: str | None) -> str:
    """'GZip' -> 'gzip', none or identity -> ''. Raises Refusal 415."""
    encoding = (header or "").strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding == "x-gzip":
        return "gzip"
    if encoding not in KNOWN:
        raise Refusal(
            415, "content-encoding", f"Content-Encoding {encoding[:40]!r} is not known here", hint="gzip, zstd or none"
        )
    return encoding


def decode(body: bytes, encoding: str, *, bytes_max: int) -> bytes:
    """The decoded body. Raises Refusal 400 when it is broken or ends too early, 413 when it is too large decoded."""
    if not encoding:
        return body
    try:
        decoded, whole = _zstd(body, bytes_max) if encoding == "zstd" else _zlib(body, encoding, bytes_max)
    except (zlib.error, zstd.ZstdError, EOFError, MemoryError) as error:
        raise Refusal(400, "body-encoding", f"the body is not valid {encoding}: {error}") from None
    if len(decoded) > bytes_max:
        raise too_large(bytes_max)
    if not whole:
        raise Refusal(400, "body-encoding", f"the {encoding} body ends too early")
    return decoded


def zstd_packed(body: bytes) -> bytes:
    """One zstd frame; level 3 packs a batch of events into a sixth at 60 MB/s and more."""
    return zstd.compress(body, 3)


def too_large(bytes_max: int) -> Refusal:
    """413 with the limit."""
    return Refusal(413, "too-large", f"at most {bytes_max} bytes are taken here", hint="send less at a time")


def _zlib(body: bytes, encoding: str, bytes_max: int) -> tuple[bytes, bool]:
    decoder = zlib.decompressobj(_WINDOW_BITS[encoding])
    decoded = decoder.decompress(body, bytes_max + 1)
    return decoded, decoder.eof and not decoder.unused_data


def _zstd(body: bytes, bytes_max: int) -> tuple[bytes, bool]:
    # The window is limited too: a frame of a few bytes can ask for gigabytes of it.
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX}
    decoder = zstd.ZstdDecompressor(options=options)
    decoded = decoder.decompress(body, bytes_max + 1)
    return decoded, decoder.eof and not decoder.unused_data
