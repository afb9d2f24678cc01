"""The end of an upload: the whole is verified, moved to its place, and becomes visible in one transaction.

A crash between any two steps leaves the upload receiving with all its bytes, so that finishing it again ends the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog

from cloud.flows import announcing, receive, unpack
from cloud.rules import bundle
from cloud.store import files, uploads, webhooks
from cloud.store.blobs import BlobStore, StorageFull
from cloud.store.db import Database, Tx
from cloud.store.uploads import Outcome, UploadRow
from pisyncd.core import wire

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
HEAVY_AT_ONCE = 2
COMPLETED = "upload.completed"
#: Files of a bundle that its webhook names.
NAMED_MAX = 50


async def to_the_end(work: Awaitable[T], stop: Callable[[], None] = lambda: None) -> T:
    """Waits for `work` even when cancelled: then `stop` is called, the work ends as it must, and the cancel goes on.

    An upload's lock must not be given up while a thread still writes, and what arrived must be kept.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop()
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise


class Threads:
    """Where blocking work is done. A cancelled caller still waits until its work has really ended."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="blobs")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await to_the_end(loop.run_in_executor(self._pool, lambda: work(*args, **kwargs)))

    def close(self) -> None:
        self._pool.shutdown()


class Publisher:
    """Ends uploads whose bytes are all there."""

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        threads: Threads,
        *,
        limits: unpack.Limits,
        keep_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._threads = threads
        self._limits = limits
        self._keep_ms = keep_ms
        self._now_ms = now_ms
        self._heavy = asyncio.Semaphore(HEAVY_AT_ONCE)

    async def finish(self, upload: UploadRow, digest: receive.Digest | None, *, new: bool = False) -> Outcome:
        """Verifies and publishes. `digest` covers the whole upload or is None; a `new` upload has no row yet.

        One that is over already ends as it did. Raises StorageFull and StorageBusy; nothing is lost then, and it can be
        tried again.
        """
        if not new and (before := await self._ended_before(upload)) is not None:
            return before
        whole = upload.role != "final" or await self._concatenate(upload)
        sha256 = await self._sha256(upload, digest)
        if not whole:
            outcome = await self._refuse(upload, "parts-changed", new=new)
        elif upload.sha256 is not None and upload.sha256 != sha256:
            outcome = await self._refuse(upload, "checksum-mismatch", new=new)
        elif upload.kind == "bundle":
            outcome = await self._publish_bundle(upload, new=new)
        elif wire.path_fault(upload.path) is not None:
            outcome = await self._refuse(upload, "path-invalid", new=new)
        else:
            outcome = await self._publish_file(upload, sha256, new=new)
        log.info(
            "upload.refused" if outcome.state == "refused" else "upload.completed",
            upload=upload.id,
            kind=upload.kind,
            bytes=upload.length_bytes,
            state=outcome.state,
            code=outcome.error_code,
            published=outcome.published,
            reused=outcome.reused,
            refused=len(outcome.refusals),
        )
        return outcome

    async def _ended_before(self, upload: UploadRow) -> Outcome | None:
        # Whoever asks to finish may have looked before somebody else had finished it: its bytes are gone by now.
        async with self._db.reading() as tx:
            row = await uploads.get(tx, upload.id)
            if row is None or row.state == "ended":
                return Outcome(state="refused", error_code="upload-ended")
            if row.state == "receiving":
                return None
            refusals = await uploads.refusals(tx, upload.id)
        return Outcome(
            state=row.state,
            error_code=row.error_code,
            published=row.published,
            reused=row.reused,
            refusals=refusals,
        )

    async def reuse(self, upload: UploadRow) -> Outcome | None:
        """Publishes a new upload from a content that the device delivered before; None when there is none."""
        if upload.sha256 is None or upload.kind != "file" or wire.path_fault(upload.path) is not None:
            return None
        async with self._db.reading() as tx:
            known = await files.content(tx, upload.dk, upload.sha256)
        if known is None or known.length_bytes != upload.length_bytes:
            return None
        outcome = Outcome(state="published", reused=1)
        async with self._db.transaction() as tx:
            await self._record(tx, upload, outcome, [], [_delivery(upload, known.sha256)], new=True)
        log.info("upload.reused", upload=upload.id, bytes=upload.length_bytes)
        return outcome

    async def _concatenate(self, upload: UploadRow) -> bool:
        """Whether the parts still make up what they did when the final upload was created."""
        if await self._threads.run(self._blobs.moved_bytes, upload.id) == upload.length_bytes:
            return True
        async with self._heavy:
            return await self._threads.run(self._blobs.concatenate, upload.id, upload.parts) == upload.length_bytes

    async def _sha256(self, upload: UploadRow, digest: receive.Digest | None) -> str:
        if digest is None and upload.length_bytes:
            async with self._heavy:
                return await self._threads.run(self._hash_again, upload.id)
        return (digest or hashlib.sha256()).hexdigest()

    def _hash_again(self, upload: str) -> str:
        with self._blobs.open_upload(upload, moved=True) as stream:
            return receive.digest_of(stream).hexdigest()

    async def _record(
        self,
        tx: Tx,
        upload: UploadRow,
        outcome: Outcome,
        contents: list[files.Content],
        deliveries: list[files.Delivery],
        *,
        new: bool,
    ) -> None:
        now = self._now_ms()
        if new:
            await uploads.insert(tx, upload)
        await files.add_contents(tx, upload.dk, contents, now)
        await files.publish(tx, upload.dk, upload.id, deliveries, now)
        await uploads.finish(tx, upload.id, outcome, now_ms=now, expires_at_ms=now + self._keep_ms)
        if outcome.state != "refused" and await announcing.wanted(tx, (COMPLETED,)):
            await announcing.announce(tx, [await _happening(tx, upload, outcome, deliveries)], now)

    async def _refuse(self, upload: UploadRow, code: str, *, new: bool) -> Outcome:
        outcome = Outcome(state="refused", error_code=code)
        async with self._db.transaction() as tx:
            await self._record(tx, upload, outcome, [], [], new=new)
        await self._threads.run(self._blobs.discard, upload.id)
        return outcome

    async def _publish_file(self, upload: UploadRow, sha256: str, *, new: bool) -> Outcome:
        length = upload.length_bytes or 0
        async with self._db.reading() as tx:
            known = await files.content(tx, upload.dk, sha256)
        contents = []
        if known is None:
            contents = [files.Content(sha256=sha256, blob=upload.id, offset_bytes=0, length_bytes=length)]
            if length:
                await self._threads.run(self._blobs.publish, upload.id)
        outcome = Outcome(state="published", published=1)
        async with self._db.transaction() as tx:
            await self._record(tx, upload, outcome, contents, [_delivery(upload, sha256)], new=new)
        if known is not None:
            await self._threads.run(self._blobs.discard, upload.id)
        return outcome

    async def _publish_bundle(self, upload: UploadRow, *, new: bool) -> Outcome:
        try:
            async with self._heavy:
                unpacked = await self._threads.run(self._unpack, upload.id)
        except bundle.BadBundle as fault:
            log.info("bundle.broken", upload=upload.id, detail=str(fault))
            return await self._refuse(upload, "bundle-invalid", new=new)
        except unpack.TooLarge:
            return await self._refuse(upload, "bundle-too-large", new=new)
        contents = [
            files.Content(sha256=sha256, blob=upload.id, offset_bytes=packed.offset, length_bytes=packed.length)
            for sha256, packed in unpacked.contents.items()
        ]
        wanted = [each.sha256 for each in unpacked.members.values() if each.sha256 not in unpacked.contents]
        async with self._db.reading() as tx:
            lengths = await files.known_contents(tx, upload.dk, wanted)
        lengths |= {each.sha256: each.length_bytes for each in contents}
        outcome, deliveries = judge(unpacked, lengths)
        if contents:
            await self._threads.run(self._blobs.publish_pack, upload.id)
        async with self._db.transaction() as tx:
            await self._record(tx, upload, outcome, contents, deliveries, new=new)
        await self._threads.run(self._blobs.discard, upload.id)
        return outcome

    def _unpack(self, upload: str) -> unpack.Unpacked:
        try:
            with self._blobs.open_upload(upload) as source, self._blobs.pack(upload) as pack:
                return unpack.unpack(source, pack, self._limits)
        except StorageFull:
            # What was unpacked so far must not take the room that the next try needs.
            self._blobs.pack_path(upload).unlink(missing_ok=True)
            raise


def judge(unpacked: unpack.Unpacked, lengths: dict[str, int]) -> tuple[Outcome, list[files.Delivery]]:
    """What becomes of a bundle, given the lengths of all contents that the device has delivered, in it or before."""
    deliveries: list[files.Delivery] = []
    refusals = [(fault.path, fault.code) for fault in unpacked.refused]
    reused = 0
    for entry in unpacked.members.values():
        if entry.reuse and lengths.get(entry.sha256) != entry.size:
            refusals.append((entry.path, "content-missing"))
            continue
        reused += entry.reuse
        deliveries.append(
            files.Delivery(
                path=entry.path, sha256=entry.sha256, length_bytes=lengths[entry.sha256], mtime_ms=entry.mtime_ms
            )
        )
    outcome = Outcome(
        state="partial" if refusals else "published",
        published=len(deliveries) - reused,
        reused=reused,
        refusals=refusals,
    )
    return outcome, deliveries


def _delivery(upload: UploadRow, sha256: str) -> files.Delivery:
    return files.Delivery(
        path=upload.path, sha256=sha256, length_bytes=upload.length_bytes or 0, mtime_ms=upload.mtime_ms
    )


async def _happening(
    tx: Tx, upload: UploadRow, outcome: Outcome, deliveries: list[files.Delivery]
) -> announcing.Happening:
    names = await webhooks.device_names(tx, [upload.dk])
    return announcing.Happening(
        type=COMPLETED,
        resource_type="upload",
        resource_id=upload.id,
        data={
            "deviceId": names.get(upload.dk, ""),
            "kind": upload.kind,
            "state": outcome.state,
            "bytes": upload.length_bytes,
            "published": outcome.published,
            "reused": outcome.reused,
            "refused": len(outcome.refusals),
            "files": [
                {"path": wire.display_path(each.path), "sha256": each.sha256, "bytes": each.length_bytes}
                for each in deliveries[:NAMED_MAX]
            ],
        },
    )
