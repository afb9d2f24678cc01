"""Rows of delivered contents and of the versions of each device's files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from cloud.store.db import Database, Row, Tx
from pisyncd.core import wire

_BEYOND_ALL_PATHS = b"\xff" * (wire.PATH_BYTES_MAX + 1)


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes of a content lie: `length_bytes` from `offset_bytes` on in `blob`."""

    sha256: str
    blob: str
    offset_bytes: int
    length_bytes: int


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a file. Versions count from 1, so the current `version` is also how many there are."""

    path: bytes
    version: int
    sha256: str
    length_bytes: int
    mtime_ms: int | None
    published_at_ms: int
    upload_id: str


class Stored(FileRow, frozen=True, kw_only=True):
    """A version of a file and where its bytes lie."""

    blob: str
    offset_bytes: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A content that takes its place under a path."""

    path: bytes
    sha256: str
    length_bytes: int
    mtime_ms: int | None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What a device has delivered: files, the bytes of their current versions, all versions, and when last."""

    files: int
    length_bytes: int
    versions: int
    last_published_at_ms: int | None


def _values(row: Row) -> dict[str, Any]:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row of the driver is no mapping
    values["path"] = bytes(values["path"])
    return values


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """The paths that begin with `prefix` are those from the first up to, not including, the second."""
    stem = prefix.rstrip(b"\xff")
    return prefix, stem[:-1] + bytes([stem[-1] + 1]) if stem else _BEYOND_ALL_PATHS


async def add_contents(tx: Tx, dk: int, contents: Iterable[Content], now_ms: int) -> None:
    """Adds what the device delivered; contents that are there already stay as they are."""
    rows = [(dk, c.sha256, c.blob, c.offset_bytes, c.length_bytes, now_ms) for c in contents]
    # In one order everywhere, so that two uploads of a device cannot wait for each other's rows.
    await tx.bulk("content_add", sorted(rows))


async def publish(tx: Tx, dk: int, upload: str, deliveries: Sequence[Delivery], now_ms: int) -> None:
    """Makes each delivery the current version of its path, unless that content is current already."""
    ordered = sorted(deliveries, key=lambda each: each.path)
    await tx.bulk("file_publish", [(dk, d.path, d.sha256, d.length_bytes, d.mtime_ms, upload, now_ms) for d in ordered])
    await tx.bulk("file_version_publish", [(dk, d.path, upload) for d in ordered])


async def content(tx: Tx, dk: int, sha256: str) -> Content | None:
    """Where a content of the device lies, or None when it never delivered it."""
    row = await tx.one("content_get", dk=dk, sha256=sha256)
    return None if row is None else Content(**{name: row[name] for name in Content.__struct_fields__})


async def known_contents(tx: Tx, dk: int, digests: Iterable[str]) -> dict[str, int]:
    """Which of these contents the device has delivered before, with their lengths in bytes."""
    rows = await tx.lookup("contents_known", [(dk, sha256) for sha256 in sorted(set(digests))])
    return {row["sha256"]: row["length_bytes"] for row in rows}


async def contents_page(db: Database, dk: int, *, after: str, limit: int) -> list[str]:
    """SHA-256 of what the device has delivered, in their order, after `after`."""
    async with db.reading() as tx:
        return [row["sha256"] for row in await tx.all("content_page", dk=dk, after=after, row_limit=limit)]


async def count_contents(db: Database, dk: int) -> int:
    """How many contents the device has delivered."""
    async with db.reading() as tx:
        return int(await tx.value("content_count", dk=dk))


async def list_files(
    db: Database, device_id: str, *, prefix: bytes = b"", after: bytes = b"", limit: int = 100, offset: int = 0
) -> list[FileRow]:
    """The current versions whose path begins with `prefix`, in the order of their paths, after the path `after`."""
    low, high = prefix_range(prefix)
    async with db.reading() as tx:
        rows = await tx.all(
            "file_page", device_id=device_id, after=after, low=low, high=high, row_limit=limit, row_offset=offset
        )
    return [FileRow(**_values(row)) for row in rows]


async def count_files(db: Database, device_id: str, *, prefix: bytes = b"") -> int:
    """How many files of the device have a path that begins with `prefix`."""
    low, high = prefix_range(prefix)
    async with db.reading() as tx:
        return int(await tx.value("file_count", device_id=device_id, low=low, high=high))


async def totals(db: Database, device_id: str) -> Totals:
    """What the device has delivered so far."""
    async with db.reading() as tx:
        row = await tx.one("file_totals", device_id=device_id)
    if row is None:
        return Totals(files=0, length_bytes=0, versions=0, last_published_at_ms=None)
    return Totals(
        files=row["files"],
        length_bytes=int(row["length_bytes"]),
        versions=int(row["versions"]),
        last_published_at_ms=row["last_published_at_ms"],
    )


async def find(db: Database, device_id: str, path: bytes, version: int | None = None) -> Stored | None:
    """A file's current version, or the given one, and where its bytes lie."""
    async with db.reading() as tx:
        if version is None:
            row = await tx.one("file_current", device_id=device_id, path=path)
        else:
            row = await tx.one("file_at_version", device_id=device_id, path=path, version=version)
    return None if row is None else Stored(**_values(row))


async def versions(db: Database, device_id: str, path: bytes, *, before: int, limit: int) -> list[FileRow]:
    """The versions of a file below `before`, newest first."""
    async with db.reading() as tx:
        rows = await tx.all("file_versions", device_id=device_id, path=path, before=before, row_limit=limit)
    return [FileRow(**_values(row)) for row in rows]
