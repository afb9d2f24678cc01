"""From a decision of the plan to a claimed transfer: read honestly, hash, snapshot, pack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import structlog

from pisyncd import meters
from pisyncd.core import backoff, plan
from pisyncd.core.errors import (
    PiSyncError,
    SourceChanged,
    SourceGone,
    SourceUnreadable,
    StorageBusy,
    TooLarge,
    TransientError,
)
from pisyncd.outbox import Outbox
from pisyncd.outbox.files import Transfer, Version
from pisyncd.runtime.activity import beat
from pisyncd.sources import bundle, disk, sqlite, tree

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareRules:
    """Bytes and seconds."""

    upload_bytes_max: int
    free_floor_bytes: int
    free_floor_percent: float
    item_base_s: float
    item_cap_s: float
    debounce_s: float


class Preparer:
    """Makes transfers out of pending versions, and decides what becomes of those that cannot be read."""

    def __init__(
        self,
        outbox: Outbox,
        roots: Mapping[str, Path],
        spool_dir: Path,
        rules: PrepareRules,
        chance: Callable[[], float],
        stopping: Callable[[], bool],
    ) -> None:
        self.roots = roots
        self.rules = rules
        self.spool_dir = spool_dir
        self._outbox = outbox
        self._chance = chance
        self._stopping = stopping

    def has_room(self) -> bool:
        """Whether the disk is above its floor, so that something may be spooled."""
        return meters.above_floor(self.spool_dir.parent, self.rules.free_floor_bytes, self.rules.free_floor_percent)

    def source_path(self, version: Version) -> bytes:
        """Where the version's file is. Raises SourceGone when its root is no longer configured."""
        root = self.roots.get(version.root)
        if root is None:
            raise SourceGone(f"the root {version.root!r} is no longer watched", hint="add it to `watch` again")
        return os.fsencode(root) + b"/" + version.path

    async def single(self, version: Version) -> Transfer | None:
        """A transfer of one version; None when it was dealt with in another way."""
        spool = None
        try:
            if version.size > self.rules.upload_bytes_max:
                raise TooLarge(f"{version.size} bytes are more than transfer.upload_bytes_max")
            path = self.source_path(version)
            if version.kind == "sqlite":
                spool = self._spool_name("sqlite")
                shot = await self._snapshot(path, spool)
                length, sha256 = shot.size, shot.sha256
            else:
                length = version.size
                sha256 = await asyncio.to_thread(disk.hash_file, path, _expected(version), self._stopping)
            return await self._claim_single(version, sha256, length, spool)
        except PiSyncError as error:
            self._drop_spool(spool)
            await self.dispose([version], error)
            return None

    async def together(self, decision: plan.Bundle[Version]) -> Transfer | None:
        """A transfer of several small versions in one spooled bundle; None when none of them could be packed."""
        spool = self._spool_name("bundle")
        versions = {version.id: version for version in decision.versions}
        faults: list[tuple[Version, PiSyncError]] = []
        entries = []
        for version in decision.versions:
            try:
                entries.append(_entry(version, self.source_path(version)))
            except PiSyncError as error:
                faults.append((version, error))
        try:
            info = await asyncio.to_thread(self._pack, entries, self.spool_dir / spool, decision.bytes_max)
        except OSError as error:
            self._drop_spool(spool)
            raise StorageBusy(f"no room to pack a bundle: {error.strerror}", code="storage-full") from error
        faults += [(versions[key], error) for key, error in info.skipped]
        for version, fault in faults:
            await self.dispose([version], fault)
        transfer = None
        if info.packed:
            transfer = await self._outbox.files.claim(
                [(versions[key], sha256) for key, sha256, _ in info.packed],
                kind="bundle",
                spool=spool,
                length=info.length,
                sha256=info.sha256,
                priority=max(versions[key].priority for key, _, _ in info.packed),
            )
        if transfer is None:
            self._drop_spool(spool)
        return transfer

    async def dispose(self, versions: Sequence[Version], error: PiSyncError) -> None:
        """What becomes of versions that met `error`: seen anew, offered later, or listed as failed.

        Raises TransientError again, because that is not the versions' fault.
        """
        if isinstance(error, SourceChanged):
            await self._see_again(versions)
        elif isinstance(error, SourceUnreadable):
            await self.offer_later(versions, error)
        elif isinstance(error, TransientError):
            raise error
        else:
            log.warning("upload.failed", code=error.code, detail=error.detail, files=len(versions))
            await self._outbox.files.fail(versions, error)

    async def offer_later(self, versions: Sequence[Version], error: PiSyncError) -> None:
        """Each climbs its own ladder; the others go on."""
        for version in versions:
            wait_s = backoff.item_delay(
                version.attempts + 1, self._chance(), base_s=self.rules.item_base_s, cap_s=self.rules.item_cap_s
            )
            due_at_ms = self._outbox.db.now_ms() + int(wait_s * 1000)
            await self._outbox.files.postpone([version], error, due_at_ms)
        log.warning("upload.postponed", code=error.code, detail=error.detail, files=len(versions))

    def remove_spool(self, transfer: Transfer) -> None:
        """The transfer has ended."""
        self._drop_spool(transfer.spool)

    async def _claim_single(self, version: Version, sha256: bytes, length: int, spool: str | None) -> Transfer | None:
        if await self._outbox.files.delivered(version) == sha256:
            await self._outbox.files.complete_unchanged([(version, sha256)])
            self._drop_spool(spool)
            return None
        transfer = await self._outbox.files.claim(
            [(version, sha256)], kind="file", spool=spool, length=length, sha256=sha256, priority=version.priority
        )
        if transfer is None:
            self._drop_spool(spool)
        return transfer

    async def _snapshot(self, path: bytes, spool: str) -> sqlite.Snapshot:
        if not self.has_room():
            raise StorageBusy("the disk is below its floor, so no database can be captured", code="storage-full")
        return await asyncio.to_thread(sqlite.snapshot, path, self.spool_dir / spool, self._stopping)

    def _pack(self, entries: list[bundle.BundleEntry], spool: Path, bytes_max: int) -> bundle.BundleInfo:
        with _known_contents(self._outbox.db.path) as known:

            def ask(sha256: bytes) -> bool:
                beat()  # a slow card packs for minutes; each file is progress
                return known(sha256)

            return bundle.write(entries, spool, bytes_max=bytes_max, known=ask)

    async def _see_again(self, versions: Sequence[Version]) -> None:
        """A changed source becomes a new pending version, due when it may be quiet."""
        sightings = []
        for version in versions:
            try:
                path = self.source_path(version)
                # What was a file may have become a database, which must not be sent by its bytes, or the other way.
                seen = await asyncio.to_thread(tree.sight, version.root, version.path, path, version.priority)
            except SourceChanged:
                await self._outbox.files.supersede([version])
                continue
            except PiSyncError as error:
                await self.dispose([version], error)
                continue
            sightings.append(seen)
        if sightings:
            await self._outbox.files.add(sightings, due_in_s=self.rules.debounce_s)

    def _spool_name(self, kind: str) -> str:
        self.spool_dir.mkdir(exist_ok=True)  # somebody may have tidied up
        return f"{token_hex(8)}.{kind}"

    def _drop_spool(self, name: str | None) -> None:
        if name is not None:
            (self.spool_dir / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _known_contents(outbox_path: Path) -> Iterator[Callable[[bytes], bool]]:
    """Asks, in the thread that packs, whether the cloud has a content already."""
    with contextlib.closing(sqlite3.connect(f"file:{outbox_path}?mode=ro", uri=True)) as db:
        query = "SELECT 1 FROM contents WHERE sha256 = ?"
        yield lambda sha256: db.execute(query, (sha256,)).fetchone() is not None


def _expected(version: Version) -> disk.Fingerprint:
    return disk.Fingerprint(version.size, version.mtime_ns, version.inode)


def _entry(version: Version, path: bytes) -> bundle.BundleEntry:
    return bundle.BundleEntry(
        key=version.id,
        wire_path=version.wire_path,
        source=path,
        expected=_expected(version),
        mtime_ms=version.mtime_ns // 1_000_000,
    )
