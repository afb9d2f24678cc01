"""A range of a file on its way out: proven unchanged before its last byte leaves, compressed where that helps."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator

from pisyncd.core.errors import PiSyncError
from pisyncd.sources.disk import Source

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 256 * 1024
SAMPLE_BYTES = 64 * 1024
WORTH = 0.9
LEVEL = 1


def shrinks(data: bytes) -> bool:
    """Whether a sample of this content compresses by a tenth or more."""
    sample = data[:SAMPLE_BYTES]
    return len(sample) > 256 and len(zstd.compress(sample, level=LEVEL)) < WORTH * len(sample)


class Chunk:
    """Bytes `offset` to `offset + size` of an open source. `error` is what ended the reading, if anything did."""

    def __init__(self, source: Source, offset: int, size: int, *, compress: bool) -> None:
        self._source = source
        self._offset = offset
        self.size = size
        self._compress = compress
        self.error: PiSyncError | None = None
        self.encoded_bytes = 0

    def digest(self) -> bytes:
        """SHA-256 of the range before any encoding; reads it once more."""
        digest = hashlib.sha256()
        for data in self._read():
            digest.update(data)
        return digest.digest()

    async def body(self) -> AsyncIterator[bytes]:
        """The encoded range in pieces, read and compressed in a thread.

        Ends early, with `error` set, when the source is no longer what it was: the last piece is only given after the
        source was proven unchanged, so a torn range is never complete.
        """
        pieces = self._encoded()
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            self.encoded_bytes += len(piece)
            yield piece

    def _read(self) -> Iterator[bytes]:
        done = 0
        while done < self.size:
            data = self._source.read(self._offset + done, min(PIECE_BYTES, self.size - done))
            done += len(data)
            if done == self.size:
                self._source.check()
            yield data

    def _encoded(self) -> Iterator[bytes]:
        try:
            if not self._compress:
                yield from self._read()
                return
            compressor = zstd.ZstdCompressor(level=LEVEL)
            for data in self._read():
                # a flush per piece: what arrived of a cut body can be decoded and kept
                yield compressor.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)
            yield compressor.flush()
        except PiSyncError as error:
            self.error = error
            raise
