"""Rows of uploads: what was announced, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from cloud.store.db import Row, Tx

Kind = Literal["file", "bundle"]
Role = Literal["whole", "part", "final"]
State = Literal["receiving", "published", "partial", "refused", "ended"]
REFUSALS_SHOWN_MAX = 10_000
_SEPARATOR = " "


class UploadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One upload. `length_bytes` is None while it is deferred; `parts` are the ids a final upload is made of."""

    id: str
    dk: int
    kind: Kind
    role: Role
    length_bytes: int | None
    path: bytes
    sha256: str | None
    mtime_ms: int | None
    metadata: str
    created_at_ms: int
    expires_at_ms: int
    parts: tuple[str, ...] = ()
    state: State = "receiving"
    error_code: str | None = None
    published: int = 0
    reused: int = 0
    refused: int = 0
    finished_at_ms: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an upload ends. `refusals` are (path, code) of the entries of a bundle that were not published."""

    state: Literal["published", "partial", "refused"]
    error_code: str | None = None
    published: int = 0
    reused: int = 0
    refusals: Sequence[tuple[bytes, str]] = ()


def _row(row: Row) -> UploadRow:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row of the driver is no mapping
    values["parts"] = tuple(values["parts"].split())
    values["path"] = bytes(values["path"])
    return UploadRow(**values)


async def insert(tx: Tx, upload: UploadRow) -> None:
    """Adds a new upload."""
    await tx.run(
        "upload_insert",
        id=upload.id,
        dk=upload.dk,
        kind=upload.kind,
        role=upload.role,
        length_bytes=upload.length_bytes,
        path=upload.path,
        sha256=upload.sha256,
        mtime_ms=upload.mtime_ms,
        metadata=upload.metadata,
        parts=_SEPARATOR.join(upload.parts),
        created_at_ms=upload.created_at_ms,
        expires_at_ms=upload.expires_at_ms,
    )


async def get(tx: Tx, upload: str) -> UploadRow | None:
    """The upload, or None."""
    row = await tx.one("upload_get", id=upload)
    return None if row is None else _row(row)


async def set_length(tx: Tx, upload: str, length_bytes: int) -> bool:
    """Says a deferred length; False when it was said before."""
    return await tx.run("upload_set_length", id=upload, length_bytes=length_bytes) == 1


async def touch(tx: Tx, upload: str, expires_at_ms: int) -> None:
    """An unfinished upload that goes on is kept longer."""
    await tx.run("upload_touch", id=upload, expires_at_ms=expires_at_ms)


async def finish(tx: Tx, upload: str, outcome: Outcome, *, now_ms: int, expires_at_ms: int) -> bool:
    """Ends a receiving upload; False when it has ended before, and then nothing is changed."""
    changed = await tx.run(
        "upload_finish",
        id=upload,
        state=outcome.state,
        error_code=outcome.error_code,
        published=outcome.published,
        reused=outcome.reused,
        refused=len(outcome.refusals),
        now_ms=now_ms,
        expires_at_ms=expires_at_ms,
    )
    if changed:
        rows = [(upload, number, path, code) for number, (path, code) in enumerate(outcome.refusals)]
        await tx.bulk("upload_refuse_entries", rows)
    return changed == 1


async def end(tx: Tx, upload: str, *, now_ms: int, expires_at_ms: int) -> None:
    """Terminated by its client, or expired. It answers 410 until `expires_at_ms`."""
    await tx.run("upload_end", id=upload, now_ms=now_ms, expires_at_ms=expires_at_ms)


async def refusals(tx: Tx, upload: str) -> list[tuple[bytes, str]]:
    """The refused entries of a bundle, at most 10,000: path and code."""
    rows = await tx.all("upload_refusals", id=upload, row_limit=REFUSALS_SHOWN_MAX)
    return [(bytes(row["path"]), row["code"]) for row in rows]


async def receiving(tx: Tx, after: tuple[int, str], limit: int) -> list[Row]:
    """Unfinished uploads in the order of their creation, after (created_at_ms, id)."""
    return await tx.all("upload_receiving", after_ms=after[0], after_id=after[1], row_limit=limit)


async def expired(tx: Tx, *, now_ms: int, limit: int) -> list[tuple[str, State]]:
    """Uploads whose time is over, oldest first: id and state."""
    rows = await tx.all("upload_expired", now_ms=now_ms, row_limit=limit)
    return [(row["id"], row["state"]) for row in rows]


async def forget(tx: Tx, upload: str) -> None:
    """Removes the row of an upload that has ended; it is unknown from then on."""
    await tx.run("upload_forget", id=upload)


async def owning_bytes(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Which of these are uploads that still receive."""
    return {row["id"] for row in await tx.lookup("uploads_known", [(upload,) for upload in ids])}


async def blobs_in_use(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Which of these blobs something refers to."""
    return {row["blob"] for row in await tx.lookup("blobs_known", [(blob,) for blob in ids])}
