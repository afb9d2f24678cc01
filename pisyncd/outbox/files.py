"""Files owed to the cloud: one row per version of a path, and the transfers that carry them."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import aiosqlite
import msgspec

from pisyncd.core import wire
from pisyncd.core.errors import PiSyncError, SourceGone
from pisyncd.outbox.books import Ledger
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.messages import Messages

if TYPE_CHECKING:
    from pisyncd.core.settle import Sighting

_files = queries("files")
_transfers = queries("transfers")
_books = queries("books")


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """What a batch of sightings came to. Bytes are those of new and changed files."""

    new: int
    changed: int
    unchanged: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A version of a path, as it was seen. `path` is relative to its root."""

    id: int
    root: str
    path: bytes
    kind: Literal["file", "sqlite"]
    size: int
    mtime_ns: int
    inode: int
    priority: int
    attempts: int = 0
    sha256: bytes | None = None
    state: str = "pending"

    @property
    def wire_path(self) -> bytes:
        """The name under which the cloud keeps it: root name, slash, path."""
        return self.root.encode() + b"/" + self.path


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """An upload under way. `offset` is what the cloud has said that it holds durably."""

    id: int
    kind: Literal["file", "bundle"]
    spool: str | None
    length: int
    offset: int
    sha256: bytes
    priority: int
    url: str | None
    mismatches: int


class Files:
    """add, next_in_turn, claim, complete, postpone, fail, supersede, retry."""

    def __init__(self, db: Database, messages: Messages, ledger: Ledger) -> None:
        self._db = db
        self._messages = messages
        self._ledger = ledger

    async def add(self, sightings: Sequence[Sighting], *, due_in_s: float = 0.0) -> Added:
        """Records what the watcher saw: new and changed versions become pending, together with the message."""
        async with self._db.transaction() as tx:
            await _files.stage_one(tx, [_fields(each) for each in sightings])
            unchanged = await _files.drop_unchanged(tx)
            changed_or_new, byte_count = await _files.staged(tx)
            new = 0
            if changed_or_new:
                due = {"due_at_ms": self._db.now_ms() + int(due_in_s * 1000) if due_in_s else 0}
                await _files.refresh_pending(tx, **due)
                await _files.supersede_begun(tx)
                now = {"now_ms": self._db.now_ms(), "wall_ms": self._db.clock.wall_ms()}
                new = await _files.insert_new(tx, **now, **due)
                body = {"eventType": "upload.queued", "eventData": {"files": changed_or_new, "bytes": byte_count}}
                await self._messages.append(tx, wire.STREAM_EVENT, "event", body)
            await _files.unstage(tx)
        return Added(new=new, changed=changed_or_new - new, unchanged=unchanged, bytes=byte_count)

    async def next_in_turn(self, most: int, *, besides: Collection[int] = ()) -> list[Version]:
        """Pending versions whose time has come, in the order in which they are to be sent, besides the given ids."""
        held = msgspec.json.encode(list(besides)).decode()
        rows = _files.next_in_turn(self._db.reader, now_ms=self._db.now_ms(), most=most, besides=held)
        return [_version(row) async for row in rows]

    async def next_due_in_s(self, tries_max: int = 2**31) -> float | None:
        """Seconds until a pending version is due that was postponed less than `tries_max` times, None without one."""
        due = await _files.next_due(self._db.reader, tries_max=tries_max)
        return None if due is None else max(0.0, (due - self._db.now_ms()) / 1000)

    async def claim(
        self,
        members: Sequence[tuple[Version, bytes]],
        *,
        kind: Literal["file", "bundle"],
        spool: str | None,
        length: int,
        sha256: bytes,
        priority: int,
    ) -> Transfer | None:
        """Begins a transfer of the (version, SHA-256) that are still as they were read; None when none is."""
        async with self._db.transaction() as tx:
            now = {"now_ms": self._db.now_ms(), "wall_ms": self._db.clock.wall_ms()}
            transfer_id = await _transfers.begin(
                tx, kind=kind, spool=spool, length=length, sha256=sha256, priority=priority, **now
            )
            await _files.claim(tx, [{**_keys(version, sha), "transfer_id": transfer_id} for version, sha in members])
            if not await _files.claimed(tx, transfer_id=transfer_id):
                await _transfers.end(tx, id=transfer_id)
                return None
        return Transfer(
            id=transfer_id,
            kind=kind,
            spool=spool,
            length=length,
            offset=0,
            sha256=sha256,
            priority=priority,
            url=None,
            mismatches=0,
        )

    async def complete_unchanged(self, members: Sequence[tuple[Version, bytes]]) -> None:
        """These versions hold what the cloud has for their path already."""
        async with self._db.transaction() as tx:
            now = {"wall_ms": self._db.clock.wall_ms()}
            await _files.complete_unchanged(tx, [{**_keys(version, sha), **now} for version, sha in members])
            for version, _ in members:
                await _files.drop_older_of(tx, root=version.root, path=version.path, id=version.id)

    async def delivered(self, version: Version) -> bytes | None:
        """The SHA-256 that the cloud holds as the newest of this path, if this device has sent any."""
        value = await _files.delivered(self._db.reader, root=version.root, path=version.path)
        return None if value is None else bytes(value)

    async def knows_content(self, sha256: bytes) -> bool:
        """Whether the cloud has this content from this device."""
        return await _files.knows_content(self._db.reader, sha256=sha256) is not None

    async def learn_contents(self, digests: Iterable[bytes]) -> None:
        """The cloud has said that it has these contents from this device."""
        async with self._db.transaction() as tx:
            await _files.remember_content(tx, [{"sha256": each} for each in digests])

    async def forget_contents(self, digests: Iterable[bytes]) -> None:
        """The cloud has said that it does not have these contents."""
        async with self._db.transaction() as tx:
            await _files.forget_content(tx, [{"sha256": each} for each in digests])

    async def doubt_delivered(self, inventory: str) -> None:
        """The cloud may have lost anything that it had acknowledged: every file counts as never seen, and the cursor
        `inventory`, by which the contents are known to be learned, is dropped. One transaction."""
        async with self._db.transaction() as tx:
            await _files.doubt_delivered(tx)
            await _files.doubt_contents(tx)
            await _books.drop_cursor(tx, name=inventory)

    async def transfers_begun(self) -> list[Transfer]:
        """Transfers under way, those that the cloud knows of first, then by priority and age."""
        return [Transfer(**dict(row)) async for row in _transfers.begun(self._db.reader)]

    async def transfer(self, transfer_id: int) -> Transfer | None:
        row = await _transfers.get(self._db.reader, id=transfer_id)
        return Transfer(**dict(row)) if row else None

    async def members(self, transfer_id: int) -> list[Version]:
        """The versions that a transfer carries, also those that were superseded meanwhile."""
        return [_version(row) async for row in _files.members(self._db.reader, transfer_id=transfer_id)]

    async def located(self, transfer_id: int, url: str, offset: int) -> None:
        """The cloud has given the upload an address."""
        async with self._db.transaction() as tx:
            await _transfers.located(tx, id=transfer_id, url=url, offset=offset)

    async def start_over(self, transfer_id: int, *, mismatch: bool) -> None:
        """The cloud no longer knows the upload, or what it holds was not what was sent."""
        async with self._db.transaction() as tx:
            await _transfers.start_over(tx, id=transfer_id, mismatch=int(mismatch))

    async def complete(self, transfer: Transfer, *, bytes_sent: int, duration_ms: int) -> int:
        """The cloud has published what is still claimed by the transfer; gives how many files. One transaction."""
        async with self._db.transaction() as tx:
            await _files.remember_contents(tx, transfer_id=transfer.id)
            await _files.drop_older_versions(tx, transfer_id=transfer.id)
            completed: int = await _files.complete_transfer(
                tx, transfer_id=transfer.id, wall_ms=self._db.clock.wall_ms()
            )
            await self._end(tx, transfer.id)
            data = {
                "kind": transfer.kind,
                "files": completed,
                "bytes": transfer.length,
                "bytes_sent": bytes_sent,
                "duration_ms": duration_ms,
            }
            body = {"eventType": "upload.completed", "eventData": data}
            await self._messages.append(tx, wire.STREAM_EVENT, "event", body)
        return completed

    async def give_back(self, transfer: Transfer) -> None:
        """Ends a transfer; what it carried is pending again at once."""
        async with self._db.transaction() as tx:
            async for row in _files.members(tx, transfer_id=transfer.id):
                await self._release(tx, row["id"])
            await self._end(tx, transfer.id)

    async def postpone(self, versions: Iterable[Version], error: PiSyncError, due_at_ms: int) -> None:
        """These versions are offered again later; they block nobody."""
        async with self._db.transaction() as tx:
            for version in versions:
                if await _files.has_pending_successor(tx, id=version.id):
                    await _files.supersede(tx, id=version.id)
                else:
                    await _files.postpone(tx, id=version.id, due_at_ms=due_at_ms, **_blame(error))

    async def fail(self, versions: Sequence[Version], error: PiSyncError) -> None:
        """These versions are listed as failed until a person asks again or the file changes; the ledger says so."""
        async with self._db.transaction() as tx:
            for version in versions:
                await _files.fail(tx, id=version.id, **_blame(error))
            what = "file-gone" if isinstance(error, SourceGone) else "file-refused"
            named = ", ".join(wire.display_path(each.wire_path) for each in versions[:20])
            await self._ledger.record(
                tx, what, error.code, count=len(versions), bytes=sum(each.size for each in versions), detail=named
            )

    async def supersede(self, versions: Iterable[Version]) -> None:
        """The source is another one now; the watcher offers it anew when it is quiet."""
        async with self._db.transaction() as tx:
            for version in versions:
                await _files.supersede(tx, id=version.id)
            await _files.sweep_superseded(tx)

    async def end(self, transfer: Transfer) -> None:
        """Ends a transfer whose members were each dealt with."""
        async with self._db.transaction() as tx:
            await self._end(tx, transfer.id)

    async def retry(self, version_id: int | None = None) -> int:
        """Failed and postponed versions, or one of them, are due now; gives how many."""
        async with self._db.transaction() as tx:
            if version_id is None:
                return int(await _files.retry_all(tx))
            return int(await _files.retry_one(tx, id=version_id))

    async def spools(self) -> set[str]:
        """Names of the spool files that transfers still need."""
        return {row[0] async for row in _transfers.spools(self._db.reader)}

    async def _release(self, tx: aiosqlite.Connection, version_id: int) -> None:
        if await _files.has_pending_successor(tx, id=version_id):
            await _files.supersede(tx, id=version_id)
        else:
            await _files.release(tx, id=version_id, due_at_ms=0)

    async def _end(self, tx: aiosqlite.Connection, transfer_id: int) -> None:
        await _files.release_superseded(tx, transfer_id=transfer_id)
        await _files.sweep_superseded(tx)
        await _transfers.end(tx, id=transfer_id)


class Queue:
    """What a person asks about the files: read only."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def anything_owed(self) -> bool:
        """Whether any file waits or is under way; cheap."""
        return bool(await _files.owed_now(self._db.reader))

    async def owed(self) -> tuple[int, int, int | None]:
        """(files, bytes, outbox time of the oldest)."""
        row = await _files.owed(self._db.reader)
        return int(row[0]), int(row[1]), row[2]

    async def by_priority(self) -> list[dict[str, Any]]:
        """Per priority: files, bytes, oldest_at_ms."""
        return [dict(row) async for row in _files.by_priority(self._db.reader)]

    async def by_state(self) -> dict[str, tuple[int, int]]:
        """state -> (files, bytes)."""
        return {row[0]: (row[1], row[2]) async for row in _files.by_state(self._db.reader)}

    async def page(self, most: int, skip: int = 0) -> list[dict[str, Any]]:
        """Rows of pending and uploading versions in the order in which they go."""
        return [dict(row) async for row in _files.queue(self._db.reader, most=most, skip=skip)]

    async def versions(self, root: str, path: bytes) -> list[dict[str, Any]]:
        """All rows of a path, newest first."""
        return [dict(row) async for row in _files.versions(self._db.reader, root=root, path=path)]

    async def get(self, version_id: int) -> dict[str, Any] | None:
        row = await _files.get_row(self._db.reader, id=version_id)
        return dict(row) if row else None

    async def position(self, version_id: int, priority: int) -> int:
        """How many pending versions go before this one."""
        return int(await _files.position(self._db.reader, id=version_id, priority=priority))

    async def failures(self, most: int) -> list[dict[str, Any]]:
        """Rows that failed for good, then those that are postponed after an error."""
        return [dict(row) async for row in _files.failures(self._db.reader, most=most)]

    async def count_failures(self) -> int:
        return int(await _files.count_failures(self._db.reader))


def _fields(sighting: Sighting) -> dict[str, Any]:
    return {
        "root": sighting.root,
        "path": sighting.path,
        "kind": sighting.kind,
        "size": sighting.size,
        "mtime_ns": sighting.mtime_ns,
        "inode": sighting.inode,
        "priority": sighting.priority,
    }


def _version(row: sqlite3.Row) -> Version:
    # thousands of these are in memory at a time: one string per root is enough
    return Version(**{**dict(row), "root": sys.intern(row["root"])})


def _keys(version: Version, sha256: bytes) -> dict[str, Any]:
    return {
        "id": version.id,
        "size": version.size,
        "mtime_ns": version.mtime_ns,
        "inode": version.inode,
        "sha256": sha256,
    }


def _blame(error: PiSyncError) -> dict[str, str]:
    return {"code": error.code, "detail": error.detail, "hint": error.hint}
