"""Lanes that carry files to the cloud. One step prepares a transfer or sends one chunk of it."""

from __future__ import annotations

import asyncio
import base64
import time

import structlog

from pisyncd.activities.lanes import Lanes, Moving, UploadSpoilt
from pisyncd.answers import Progress
from pisyncd.core import backoff, transfer
from pisyncd.core.errors import (
    LinkDown,
    OffsetMismatch,
    PermanentError,
    PiSyncError,
    Rejected,
    SourceChanged,
    TransientError,
    UploadGone,
)
from pisyncd.runtime import memory
from pisyncd.runtime.activity import Stop, Wake
from pisyncd.sources import disk, stream

log = structlog.get_logger()

VERIFY_POLL_S = 2.0
MISMATCHES_MAX = 5
STEP_DEADLINE_S = 600.0
PATIENT_MISSES = 4


class Lane:
    """One of several transfers at a time. `stall_s` is how long the uplink waits for a byte."""

    def __init__(self, number: int, lanes: Lanes, stop: Stop, *, stall_s: float) -> None:
        self.name = f"uploader-{number}"
        self.deadline_s = STEP_DEADLINE_S + stall_s
        self.wake = Wake()
        self._lanes = lanes
        self._outbox = lanes.outbox
        self._way = lanes.way
        self._uplink = lanes.uplink
        self._stop = stop
        self._held: int | None = None
        self._misses = 0
        self._reached = -1
        self._not_before_s = 0.0
        lanes.way.listen(self.wake)

    async def step(self) -> float:
        """Prepares a transfer or sends one chunk. 0 when there is more to do."""
        held_back_s = self._not_before_s - time.monotonic()
        if held_back_s > 0:
            return held_back_s
        decision = self._way.admit(self.name)
        if isinstance(decision, backoff.Wait):
            return decision.seconds
        try:
            pause_s = await self._advance()
            self._misses = 0
            return pause_s
        except TransientError as error:
            return await self._troubled(error)
        finally:
            self._way.settle(self.name)

    async def _advance(self) -> float:
        if self._held is None:
            chosen = await self._lanes.choose()
            if chosen is None:
                if not self._lanes.moving:
                    memory.give_back()
                due_s = await self._outbox.files.next_due_in_s()
                if due_s == 0.0 or self._lanes.adoptable:
                    # something is due: another lane holds it, or it was just dealt with without a transfer
                    return 1.0 if self._lanes.reserved or self._lanes.moving else 0.0
                return min(due_s or 3600.0, 3600.0)
            self._held = chosen.id
        moving = self._lanes.moving[self._held]
        try:
            pause_s = await self._move(moving)
            await self._way.succeeded()
            return pause_s
        except OffsetMismatch as error:
            moving.offset, moving.sure = error.offset, True
        except UploadGone:
            moving.url, moving.offset, moving.sure, moving.verifying = None, 0, True, False
            await self._outbox.files.start_over(moving.transfer.id, mismatch=False)
        except PermanentError as error:
            await self._abandon(moving, error)
        return 0.0

    async def _troubled(self, error: TransientError) -> float:
        """Forgets what is in doubt and says how long to wait."""
        self._misses += 1
        if self._held is not None:
            moving = self._lanes.moving[self._held]
            if moving.offset > self._reached:
                self._misses = 1
            self._reached = moving.offset
            moving.sure = moving.url is None
            moving.rate_bps = None
            if self._stop:
                self._let_go()
        if not isinstance(error, (LinkDown, disk.Stopped)):
            self._lanes.counters.errors += 1
            self._lanes.counters.error_code = error.code
        await self._way.failed(error)
        log.info("upload.interrupted", lane=self.name, code=error.code, detail=error.detail)
        pause_s = backoff.link_delay(self._misses, self._way.chance(), self._way.rules.backoff)
        if self._misses > PATIENT_MISSES:
            # a link that proves itself and then breaks every transfer must not be hammered: no wake ends this wait
            self._not_before_s = time.monotonic() + pause_s
        return pause_s

    async def _move(self, moving: Moving) -> float:
        """One exchange with the cloud about this transfer."""
        if moving.verifying:
            return await self._ask_verdict(moving)
        if moving.url is not None and not moving.sure:
            progress = await self._uplink.head(moving.url)
        else:
            progress = await self._send_chunk(moving)
        if progress.offset > moving.transfer.length:
            raise Rejected("the cloud holds more bytes than the upload has", code="offset-invalid")
        moving.url, moving.offset, moving.sure = progress.url, progress.offset, True
        if moving.transfer.url is None and progress.state == "receiving":
            await self._outbox.files.located(moving.transfer.id, progress.url, progress.offset)
        if progress.state == "receiving":
            return 0.0
        return await self._conclude(moving, progress.state, progress.error_code)

    async def _send_chunk(self, moving: Moving) -> Progress:
        length, offset = moving.transfer.length, moving.offset
        size = min(self._way.chunk_bytes, length - offset)
        reuse = moving.url is None and moving.transfer.kind == "file" and await self._known(moving)
        source = await asyncio.to_thread(self._open, moving)
        began_s = time.monotonic()
        try:
            if moving.compress is None:
                moving.compress = await asyncio.to_thread(self._compresses, moving, source)
            chunk = stream.Chunk(source, offset, size, compress=moving.compress)
            try:
                if reuse:
                    return await self._create(moving, None, {}, reuse=True)
                headers = await self._chunk_headers(moving, chunk, size)
                if moving.url is None:
                    # on a link that breaks, the address comes first: bytes that arrive before it is known are lost
                    first = chunk if size and not self._misses else None
                    progress = await self._create(moving, first, headers if first else {}, reuse=False)
                    if first is None:
                        return progress
                else:
                    progress = await self._uplink.append(moving.url, offset, chunk.body(), headers)
            except LinkDown as error:
                if chunk.error is not None:
                    raise chunk.error from error
                if error.code == "link-stalled":
                    self._way.chunk_bytes = transfer.chunk_after_timeout(self._way.rules.chunk, self._way.chunk_bytes)
                raise
        finally:
            source.close()
        self._learn(moving, chunk, time.monotonic() - began_s)
        return progress

    async def _create(
        self, moving: Moving, chunk: stream.Chunk | None, headers: dict[str, str], *, reuse: bool
    ) -> Progress:
        metadata: dict[str, bytes | None] = {
            "kind": moving.transfer.kind.encode(),
            "sha256": moving.transfer.sha256.hex().encode(),
        }
        if moving.transfer.kind == "file":
            version = moving.only
            metadata["path"] = version.wire_path
            metadata["mtime_ms"] = b"%d" % (version.mtime_ns // 1_000_000)
        if reuse:
            metadata["reuse"] = None
        body = chunk.body() if chunk is not None else None
        return await self._uplink.create(length=moving.transfer.length, metadata=metadata, body=body, headers=headers)

    async def _known(self, moving: Moving) -> bool:
        return await self._outbox.files.knows_content(moving.transfer.sha256)

    def _open(self, moving: Moving) -> disk.Source:
        """The bytes to send: the spool, or the source itself as it was claimed."""
        if moving.transfer.spool is not None:
            path = self._lanes.preparer.spool_dir / moving.transfer.spool
            try:
                return disk.Source(path, disk.fingerprint(path))
            except PiSyncError as error:
                raise UploadSpoilt(f"the spool file cannot be read: {error.detail}") from error
        version = moving.only
        expected = disk.Fingerprint(version.size, version.mtime_ns, version.inode)
        return disk.Source(self._lanes.preparer.source_path(version), expected)

    def _compresses(self, moving: Moving, source: disk.Source) -> bool:
        if not self._lanes.compress or moving.transfer.kind == "bundle":
            return False
        middle = moving.transfer.length // 2
        sample = source.read(0, stream.SAMPLE_BYTES // 2) + source.read(middle, stream.SAMPLE_BYTES // 2)
        return stream.shrinks(sample)

    async def _chunk_headers(self, moving: Moving, chunk: stream.Chunk, size: int) -> dict[str, str]:
        headers = {"Content-Encoding": "zstd"} if moving.compress and size else {}
        if not moving.compress and size:
            headers["Content-Length"] = str(size)
        known_bps = self._uplink.goodput.known_bps
        if size and transfer.wants_checksum(size, known_bps, moving.transfer.mismatches):
            digest = await asyncio.to_thread(chunk.digest)
            headers["Upload-Checksum"] = f"sha256 {base64.b64encode(digest).decode()}"
        return headers

    def _learn(self, moving: Moving, chunk: stream.Chunk, elapsed_s: float) -> None:
        moving.sent_bytes += chunk.encoded_bytes
        moving.rate_bps = chunk.size / max(elapsed_s, 0.001)
        self._uplink.goodput.learn(chunk.encoded_bytes, elapsed_s)
        self._way.chunk_bytes = transfer.chunk_after(
            self._way.rules.chunk, self._way.chunk_bytes, chunk.size, elapsed_s
        )

    async def _ask_verdict(self, moving: Moving) -> float:
        status = await self._uplink.status(moving.url or "")
        if status.state == "verifying":
            return VERIFY_POLL_S
        return await self._conclude(moving, status.state, status.error_code)

    async def _conclude(self, moving: Moving, state: str, error_code: str | None) -> float:
        """The cloud has all bytes and has judged them."""
        if state == "verifying":
            moving.verifying = True
            return VERIFY_POLL_S
        if state == "refused":
            return await self._refused(moving, error_code or "rejected")
        if state == "partial":
            await self._refused_entries(moving)
        duration_ms = int((time.monotonic() - moving.began_s) * 1000)
        count = await self._outbox.files.complete(
            moving.transfer, bytes_sent=moving.sent_bytes, duration_ms=duration_ms
        )
        self._lanes.counters.files_synced += count
        log.info(
            "upload.completed",
            transfer=moving.transfer.id,
            kind=moving.transfer.kind,
            files=count,
            bytes=moving.transfer.length,
            sent_bytes=moving.sent_bytes,
            duration_ms=duration_ms,
        )
        self._let_go()
        self._lanes.preparer.remove_spool(moving.transfer)
        self._lanes.delivered()
        return 0.0

    async def _refused(self, moving: Moving, code: str) -> float:
        mismatch = code == "checksum-mismatch"
        if (mismatch and moving.transfer.mismatches < MISMATCHES_MAX) or code == "content-missing":
            log.warning("upload.restarted", transfer=moving.transfer.id, code=code)
            if not mismatch:
                await self._outbox.files.forget_contents([moving.transfer.sha256])
            await self._outbox.files.start_over(moving.transfer.id, mismatch=mismatch)
            self._lanes.adoptable.add(moving.transfer.id)
            self._let_go()
            return 0.0
        await self._abandon(moving, Rejected(f"the cloud refused it: {code}", code=code))
        return 0.0

    async def _refused_entries(self, moving: Moving) -> None:
        """Each refused entry of a bundle meets its own end; the others are complete."""
        status = await self._uplink.status(moving.url or "")
        refused = {base64.b64decode(entry.path_b64): entry for entry in status.refused}
        missing: list[bytes] = []
        for version in await self._outbox.files.members(moving.transfer.id):
            entry = refused.get(version.wire_path)
            if entry is None:
                continue
            self._lanes.counters.errors += 1
            self._lanes.counters.error_code = entry.code
            error = Rejected(f"the cloud refused it: {entry.code}", code=entry.code, hint=entry.hint)
            if entry.code == "content-missing" and version.sha256 is not None:
                missing.append(version.sha256)
                await self._outbox.files.postpone([version], error, self._outbox.db.now_ms())
            elif entry.code == "checksum-mismatch":
                await self._lanes.preparer.offer_later([version], error)
            else:
                await self._outbox.files.fail([version], error)
        await self._outbox.files.forget_contents(missing)

    async def _abandon(self, moving: Moving, error: PermanentError) -> None:
        """The transfer will not pass: what it carried goes its own ways, and the cloud may forget it."""
        if not isinstance(error, SourceChanged):
            self._lanes.counters.errors += 1
            self._lanes.counters.error_code = error.code
        members = await self._outbox.files.members(moving.transfer.id)
        live = [version for version in members if version.state == "uploading"]
        if isinstance(error, UploadSpoilt):
            log.error("upload.spool_lost", transfer=moving.transfer.id, detail=error.detail)
        elif moving.transfer.kind == "bundle":
            await self._lanes.preparer.offer_later(live, error)
        else:
            await self._lanes.preparer.dispose(live, error)
        await self._outbox.files.give_back(moving.transfer)
        self._let_go()
        self._lanes.preparer.remove_spool(moving.transfer)
        if moving.url is not None:
            await self._uplink.terminate(moving.url)

    def _let_go(self) -> None:
        if self._held is not None:
            self._lanes.moving.pop(self._held, None)
            self._held = None
