"""A bundle becomes one pack: the contents of its members, checked, one after the other in one file.

Blocks, and is meant for a thread. Nothing is held whole in memory, and no limit of the archive's own making is
believed: decoded bytes, members and the decoder's window are bounded here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TypeAlias

from backports import zstd

from cloud.rules import bundle
from cloud.store.blobs import Appender

READ_BYTES = 1 << 20
WRITE_BYTES = 4 << 20
WINDOW_LOG_MAX = 25


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one bundle may unpack to."""

    decoded_bytes_max: int = 2 << 30
    entries_max: int = 100_000


class TooLarge(Exception):
    """The bundle unpacks to more than the limits allow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Where the bytes of one content lie in the pack."""

    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """The members by path (the last of equal paths), the contents by SHA-256, and what was refused."""

    members: dict[bytes, bundle.Member]
    contents: dict[str, Packed]
    refused: list[bundle.Fault]


class _Decoded(io.RawIOBase):
    """The decoded bytes of one zstd stream, at most `limit` of them."""

    def __init__(self, source: IO[bytes], limit: int) -> None:
        self._source = source
        self._left = limit
        self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX})

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data:
            if self._decoder.eof:
                if self._decoder.unused_data or self._source.read(1):
                    raise bundle.BadBundle("something follows the compressed stream")
                return 0
            more = self._source.read(READ_BYTES) if self._decoder.needs_input else b""
            if not more and self._decoder.needs_input:
                raise bundle.BadBundle("the compressed stream is cut")
            try:
                data = self._decoder.decompress(more, max_length=len(buffer))
            except zstd.ZstdError as fault:
                raise bundle.BadBundle(f"the compressed stream is broken: {fault}") from fault
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        buffer[: len(data)] = data
        return len(data)


_Stream: TypeAlias = "io.BufferedReader[_Decoded]"


@dataclass(kw_only=True)
class _Packer:
    """Collects the contents of members; small ones are gathered so that a thousand of them cost a few writes."""

    pack: Appender
    members: dict[bytes, bundle.Member] = field(default_factory=dict)
    contents: dict[str, Packed] = field(default_factory=dict)
    refused: list[bundle.Fault] = field(default_factory=list)
    _pending: bytearray = field(default_factory=bytearray)

    def position(self) -> int:
        return self.pack.offset + len(self._pending)

    def flush(self) -> None:
        self.pack.write(self._pending)
        self._pending = bytearray()

    def small(self, entry: bundle.Member, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            self.refused.append(bundle.Fault(path=entry.path, code="checksum-mismatch"))
            return
        if entry.sha256 not in self.contents:
            self.contents[entry.sha256] = Packed(offset=self.position(), length=len(data))
            self._pending += data
            if len(self._pending) >= WRITE_BYTES:
                self.flush()
        self.members[entry.path] = entry

    def large(self, entry: bundle.Member, chunks: Iterator[bytes]) -> None:
        self.flush()
        start = self.pack.offset
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
            self.pack.write(chunk)
        sound = digest.hexdigest() == entry.sha256
        if sound:
            self.members[entry.path] = entry
        else:
            self.refused.append(bundle.Fault(path=entry.path, code="checksum-mismatch"))
        if not sound or entry.sha256 in self.contents:
            self.pack.rewind(start)
        else:
            self.contents[entry.sha256] = Packed(offset=start, length=entry.size)


def _exactly(stream: _Stream, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise bundle.BadBundle("the archive is cut")
    return data


def _chunks(stream: _Stream, count: int) -> Iterator[bytes]:
    while count:
        chunk = _exactly(stream, min(count, READ_BYTES))
        count -= len(chunk)
        yield chunk


def _headers(stream: _Stream, entries_max: int) -> Iterator[tuple[bundle.Header, dict[bytes, bytes], int]]:
    """Each member's header, pax records and stored size. The caller reads the data before it asks for the next."""
    pax: dict[bytes, bytes] = {}
    seen = 0
    while True:
        head = bundle.header(_exactly(stream, bundle.BLOCK))
        if head is None:
            break
        seen += 1
        # A member and its pax block count apart, and archives of nothing but pax blocks end too.
        if seen > 2 * entries_max:
            raise TooLarge
        if head.kind in (bundle.PAX_NEXT, bundle.PAX_GLOBAL):
            if head.size > bundle.PAX_BYTES_MAX:
                raise bundle.BadBundle("a pax header is too large")
            found = bundle.records(_exactly(stream, head.size))
            _exactly(stream, -head.size % bundle.BLOCK)
            # What a global header says of all members would be said of a hostile one too; PiSync writes none.
            pax = found if head.kind == bundle.PAX_NEXT else pax
            continue
        yield head, pax, bundle.stored_size(head, pax)
        pax = {}
    while rest := stream.read(READ_BYTES):
        if rest.count(0) != len(rest):
            raise bundle.BadBundle("something follows the end of the archive")


def unpack(source: IO[bytes], pack: Appender, limits: Limits) -> Unpacked:
    """Reads the whole bundle and writes the contents of its members to `pack`, durably.

    Members that only refer to a content (`reuse`) are in `members` without being in `contents`; the caller knows what
    the device has delivered before. Raises BadBundle, TooLarge and StorageFull.
    """
    stream: _Stream = io.BufferedReader(_Decoded(source, limits.decoded_bytes_max), READ_BYTES)
    packer = _Packer(pack=pack)
    for head, pax, size in _headers(stream, limits.entries_max):
        entry = bundle.member(head, pax, size)
        if isinstance(entry, bundle.Fault):
            packer.refused.append(entry)
            for _ in _chunks(stream, size):
                pass
        elif entry.reuse:
            packer.members[entry.path] = entry
        elif size <= READ_BYTES:
            packer.small(entry, _exactly(stream, size))
        else:
            packer.large(entry, _chunks(stream, size))
        _exactly(stream, -size % bundle.BLOCK)
    packer.flush()
    pack.commit()
    return Unpacked(members=packer.members, contents=packer.contents, refused=packer.refused)
