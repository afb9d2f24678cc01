"""Small files travel together: a pax tar in one zstd stream, written to a spool file so that a resume is byte-exact.

The headers are built by hand: tarfile spends more time per member than hashing and compressing 5 KB together. The
result is a plain pax archive that tar(1) and tarfile read, names that are not UTF-8 or contain newlines included.

Headers of each member: PISYNC.sha256 (hex), PISYNC.mtime_ms; with PISYNC.reuse=1 the member is empty and
PISYNC.size tells how long the content is that the cloud already has from this device.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from pisyncd.core.errors import PiSyncError, SourceChanged
from pisyncd.sources import disk

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FEED_BYTES = 256 * 1024
BLOCK = 512
END = bytes(2 * BLOCK)
NAME_BYTES_MAX = 100


class BundleEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One file to pack. `key` is handed back as it is; `reuse_sha256` (32 bytes): the cloud has this content."""

    key: int
    wire_path: bytes
    source: bytes
    expected: disk.Fingerprint
    mtime_ms: int
    reuse_sha256: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleInfo:
    """What was written: `length` bytes with `sha256` (32 bytes).

    packed: (key, sha256, size) of each file in it; skipped: (key, error) of each that could not be read honestly;
    left: keys that found no room.
    """

    length: int
    sha256: bytes
    packed: list[tuple[int, bytes, int]]
    skipped: list[tuple[int, PiSyncError]]
    left: list[int]


def _nothing_known(_sha256: bytes) -> bool:
    return False


def write(
    entries: Iterable[BundleEntry],
    dst: Path,
    *,
    bytes_max: int,
    level: int = 1,
    known: Callable[[bytes], bool] = _nothing_known,
) -> BundleInfo:
    """Packs `entries` into the new file `dst`, which has at most `bytes_max` bytes and is durable on return.

    `known(sha256)` is asked after hashing: True sends the hash instead of the content. At least one readable entry is
    taken, however small bytes_max is. Every file is read whole, so entries should be of some MiB at most; memory
    stays below 10 MB above that. Runs in a thread. Raises OSError for the spool only (disk full): dst is then gone.
    """
    packed: list[tuple[int, bytes, int]] = []
    skipped: list[tuple[int, PiSyncError]] = []
    left: list[int] = []
    part = dst.with_name(dst.name + ".part")
    try:
        with part.open("wb", buffering=0) as file:
            spool = _Spool(write=file.write, compressor=zstd.ZstdCompressor(level=level))
            for entry in entries:
                if left:
                    left.append(entry.key)
                    continue
                try:
                    content, sha256, size = _read(entry, known)
                except PiSyncError as error:
                    skipped.append((entry.key, error))
                    continue
                member = _header(entry, sha256, size, reused=content is None)
                body = content or b""
                if packed and not spool.fits(len(member) + len(body) + BLOCK, bytes_max):
                    left.append(entry.key)
                    continue
                spool.feed(member)
                spool.feed(body)
                spool.feed(bytes(-len(body) % BLOCK))
                packed.append((entry.key, sha256, size))
            spool.finish()
            os.fsync(file.fileno())
        part.rename(dst)
        disk.sync_dir(dst.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return BundleInfo(length=spool.written, sha256=spool.digest.digest(), packed=packed, skipped=skipped, left=left)


def _read(entry: BundleEntry, known: Callable[[bytes], bool]) -> tuple[bytes | None, bytes, int]:
    """(content or None when the cloud has it, sha256, size). Raises what disk raises."""
    size = entry.expected.size
    if entry.reuse_sha256 is not None:
        if disk.fingerprint(entry.source) != entry.expected:
            raise SourceChanged
        return None, entry.reuse_sha256, size
    content, sha256 = disk.read_small(entry.source, entry.expected)
    return (None if known(sha256) else content), sha256, size


@dataclass(kw_only=True, slots=True)
class _Spool:
    """Compresses what it is fed and writes it, counting and hashing what was written."""

    write: Callable[[bytes | memoryview], int | None]
    compressor: zstd.ZstdCompressor
    written: int = 0
    unsure: int = 0
    waiting: bytearray = field(default_factory=bytearray)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def fits(self, size: int, bytes_max: int) -> bool:
        """Whether `size` more bytes stay below the limit even if they do not compress."""
        reserve = size + size // 128 + 4 * BLOCK
        if self.written + self.unsure + self.unsure // 128 + reserve <= bytes_max:
            return True
        self._compress(zstd.ZstdCompressor.FLUSH_BLOCK)
        self.unsure = 0
        return self.written + reserve <= bytes_max

    def feed(self, data: bytes) -> None:
        self.unsure += len(data)
        self.waiting += data
        if len(self.waiting) >= FEED_BYTES:
            self._compress(zstd.ZstdCompressor.CONTINUE)

    def finish(self) -> None:
        self.waiting += END
        self._compress(zstd.ZstdCompressor.FLUSH_FRAME)

    def _compress(self, mode: Literal[0, 1, 2]) -> None:
        data = self.compressor.compress(self.waiting, mode)
        self.waiting.clear()
        self.digest.update(data)
        self.written += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self.write(rest) or 0 :]


def _header(entry: BundleEntry, sha256: bytes, size: int, *, reused: bool) -> bytes:
    """The pax header and the ustar header of one member."""
    path = entry.wire_path
    records = _record(b"PISYNC.sha256", sha256.hex().encode()) + _record(b"PISYNC.mtime_ms", b"%d" % entry.mtime_ms)
    if reused:
        records += _record(b"PISYNC.reuse", b"1") + _record(b"PISYNC.size", b"%d" % size)
    if len(path) > NAME_BYTES_MAX or not path.isascii():
        try:
            path.decode()
        except UnicodeDecodeError:
            records = _record(b"hdrcharset", b"BINARY") + records
        records += _record(b"path", path)
    stored = 0 if reused else size
    mtime = min(max(entry.mtime_ms // 1000, 0), 0o77777777777)
    return b"".join(
        (
            _ustar(b"././@PaxHeader", len(records), 0, b"x"),
            records,
            bytes(-len(records) % BLOCK),
            _ustar(path[:NAME_BYTES_MAX], stored, mtime, b"0"),
        )
    )


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record: its own length in decimal, a space, key=value, a newline."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


_OWNER = b"0000644\x000000000\x000000000\x00"
_TAIL = b"ustar\x0000" + bytes(32 + 32) + b"0000000\x000000000\x00" + bytes(155 + 12)


def _ustar(name: bytes, size: int, mtime: int, kind: bytes) -> bytes:
    front = b"%b%b%011o\x00%011o\x00" % (name.ljust(NAME_BYTES_MAX, b"\x00"), _OWNER, size, mtime)
    total = sum(front) + sum(_TAIL) + kind[0] + 8 * 32
    return b"%b%06o\x00 %b%b%b" % (front, total, kind, bytes(NAME_BYTES_MAX), _TAIL)
