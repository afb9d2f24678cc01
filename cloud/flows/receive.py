"""The body of one request becomes durable bytes of an upload.

Blocks, and is meant for a thread; one receiver serves one request and is called by one thread at a time.
"""

from __future__ import annotations

import enum
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Protocol, TypeAlias

from backports import zstd

from cloud.rules.tus import Checksum
from cloud.store.blobs import Appender, BlobStore, StorageFull, full_means_busy

PIECE_BYTES = 1 << 20
HELD_BYTES_MAX = 8 << 20
HELD_PIECES_MAX = 1024
# 8 MiB of decoder window: what zstd writes up to its level 19, and a bound on memory per connection.
WINDOW_LOG_MAX = 23

Digest: TypeAlias = "hashlib._Hash"


class End(enum.Enum):
    """How a body ended."""

    WHOLE = "whole"
    CUT = "cut"
    STALLED = "stalled"
    STOPPED = "stopped"


class Source(Protocol):
    """A request body as it arrives. `end` is None until it has ended; bytes that came before are still to be taken."""

    @property
    def end(self) -> End | None: ...

    async def take(self) -> Sequence[bytes]:
        """Waits for bytes and gives all there are; with `end` set afterwards there are no more."""

    def stop(self) -> None:
        """Ends the body at what has arrived so far."""


class BodyTooLong(Exception):
    """The body holds more than the upload still takes."""


class BodyBroken(Exception):
    """The body does not decode."""


class ChecksumMismatch(Exception):
    """The body is not what Upload-Checksum says."""


class _Held:
    """Bytes that may not count yet: a little in memory, more in a nameless file."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._memory: list[bytes] = []
        self._size = 0
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        with full_means_busy():
            self._size += len(data)
            if self._file is None and self._size > HELD_BYTES_MAX:
                self._blobs.require_room()
                self._file = self._blobs.spool()
                self._file.writelines(self._memory)
                self._memory.clear()
            if self._file is None:
                self._memory.append(data)
                if len(self._memory) > HELD_PIECES_MAX:
                    # A body that drips in byte by byte must not cost more in objects than in bytes.
                    self._memory = [b"".join(self._memory)]
            else:
                self._file.write(data)

    def pieces(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._memory
            return
        with full_means_busy():
            self._file.seek(0)
        while data := self._file.read(PIECE_BYTES):
            yield data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _unzstd() -> Callable[[bytes], Iterator[bytes]]:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
    decoder = zstd.ZstdDecompressor(options=options)
    begun = False

    def decode(data: bytes) -> Iterator[bytes]:
        nonlocal decoder, begun
        if not data and begun and not decoder.eof:
            raise BodyBroken("the zstd body is cut")
        while data or not (decoder.needs_input or decoder.eof):
            if decoder.eof:
                decoder = zstd.ZstdDecompressor(options=options)
            begun = True
            try:
                piece = decoder.decompress(data, max_length=PIECE_BYTES)
            except zstd.ZstdError as fault:
                raise BodyBroken(str(fault)) from fault
            data = decoder.unused_data if decoder.eof else b""
            if piece:
                yield piece

    return decode


def _gunzip() -> Callable[[bytes], Iterator[bytes]]:
    decoder = zlib.decompressobj(31)
    begun = False

    def decode(data: bytes) -> Iterator[bytes]:
        nonlocal decoder, begun
        if not data and begun and not decoder.eof:
            raise BodyBroken("the gzip body is cut")
        while True:
            if decoder.eof and data:
                decoder = zlib.decompressobj(31)
            begun = begun or bool(data)
            try:
                piece = decoder.decompress(data, PIECE_BYTES)
            except zlib.error as fault:
                raise BodyBroken(str(fault)) from fault
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if piece:
                yield piece
            # A full piece can leave output inside the decoder although all input was taken.
            if not data and len(piece) < PIECE_BYTES:
                break

    return decode


def _identity(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def decoder(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """Decodes a body piece by piece; called with b'' at its end, it raises BodyBroken when something is missing."""
    return {"identity": lambda: _identity, "gzip": _gunzip, "zstd": _unzstd}[encoding]()


class Receiver:
    """Takes a body in. `digest` covers the upload from its first byte up to `offset`, or is None when unknown."""

    def __init__(
        self,
        blobs: BlobStore,
        upload: str,
        *,
        offset: int,
        room: int,
        digest: Digest | None,
        checksum: Checksum | None = None,
        encoding: str = "identity",
    ) -> None:
        self._blobs = blobs
        self._upload = upload
        self._start = offset
        self._room = room
        self._first_digest = digest
        self.digest = None if digest is None else digest.copy()
        self._checksum = checksum
        self._check = None if checksum is None else checksum.hasher()
        self._held = None if checksum is None else _Held(blobs)
        self._decode = decoder(encoding)
        self._appender: Appender | None = None
        self.taken = 0

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def offset(self) -> int:
        """Where the upload stands with what is durable."""
        return self._start if self._appender is None else self._appender.committed

    @property
    def settled(self) -> bool:
        """Whether everything written is durable, so that `offset` and `digest` can be relied on."""
        return self._appender is None or self._appender.offset == self._appender.committed

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Takes the next bytes of the body. Raises BodyTooLong, BodyBroken and StorageFull; the receiver must then be
        ended with `abandon` or, for StorageFull, with `keep`."""
        for chunk in chunks:
            if chunk:
                self._take(self._decode(chunk))

    def _take(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.taken += len(piece)
            if self.taken > self._room:
                raise BodyTooLong
            if self._check is None or self._held is None:
                self._write(piece)
            else:
                self._check.update(piece)
                self._held.write(piece)

    def _write(self, piece: bytes) -> None:
        if self._appender is None:
            self._appender = self._blobs.append(self._upload, self._start)
        before = self._appender.offset
        try:
            self._appender.write(piece)
        except StorageFull:
            piece = piece[: self._appender.offset - before]
            raise
        finally:
            if self.digest is not None:
                self.digest.update(piece)

    def complete(self) -> int:
        """The body has ended as it should: verifies it, makes it durable and gives the new offset.

        Raises ChecksumMismatch, BodyBroken and StorageFull.
        """
        self._take(self._decode(b""))
        if self._checksum is not None and self._check is not None and self._held is not None:
            if self._check.digest() != self._checksum.digest:
                raise ChecksumMismatch
            try:
                for piece in self._held.pieces():
                    self._write(piece)
            except StorageFull:
                # A part of a verified body would not be verified.
                self.abandon()
                raise
        return self.keep()

    def last(self, chunks: Iterable[bytes], end: End) -> None:
        """The last bytes of the body and how it ended, in one go: what `feed`, `complete` and `keep` do."""
        self.feed(chunks)
        if end is End.WHOLE:
            self.complete()
        else:
            self.keep()

    def keep(self) -> int:
        """The body was cut: makes durable what arrived and gives the new offset. Held bytes are not kept."""
        if not self.settled and self._appender is not None:
            try:
                self._appender.commit()
            except BaseException:
                # After a sync that failed nobody knows which of these bytes reached the disk.
                self.abandon()
                raise
        return self.offset

    def abandon(self) -> int:
        """Nothing of this body counts."""
        if self._appender is not None:
            self._appender.rewind(self._start)
        self.digest = None if self._first_digest is None else self._first_digest.copy()
        return self._start

    def close(self) -> None:
        if self._appender is not None:
            self._appender.close()
        if self._held is not None:
            self._held.close()


def digest_of(stream: IO[bytes]) -> Digest:
    """Hashes everything that `stream` holds."""
    digest = hashlib.sha256()
    while data := stream.read(4 * PIECE_BYTES):
        digest.update(data)
    return digest
