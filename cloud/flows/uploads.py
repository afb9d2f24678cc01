"""What a client can do with an upload: create, append, ask, end. One flow for every protocol that carries bytes.

The offset is the size of what is durable; the row in the database keeps what was announced and how it ended. While an
upload is open its SHA-256 is carried along in memory, so that a whole file is read again only after a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from cloud.flows.finishing import Finishing
from cloud.flows.intake import Intake
from cloud.flows.locks import Preempted, UploadLocks
from cloud.flows.offsets import Offsets
from cloud.flows.publish import Publisher, Threads
from cloud.flows.receive import Digest
from cloud.flows.terms import Plan, Policy, Request, Standing, ended
from cloud.rules import refusals, tus
from cloud.store import uploads as rows
from cloud.store.blobs import BlobStore, StorageFull
from cloud.store.db import Database, Row
from cloud.store.uploads import Outcome, UploadRow
from pisyncd.core.errors import PiSyncError

log = structlog.get_logger()

THREADS = 8
SMALL_BYTES = 1 << 20
TOUCH_EVERY_MS = 24 * 3_600_000
PARTS_KEPT_MS = 24 * 3_600_000
RECOVER_PAGE = 500


class Uploads:
    """Every upload of every device."""

    def __init__(self, db: Database, blobs: BlobStore, policy: Policy, now_ms: Callable[[], int]) -> None:
        self._db = db
        self.blobs = blobs
        self.policy = policy
        self._now_ms = now_ms
        self.threads = Threads(THREADS)
        self._locks = UploadLocks()
        self._offsets = Offsets(blobs, self.threads)
        self._intake = Intake(blobs, self.threads, self._offsets, policy.upload_bytes_max)
        self._publisher = Publisher(
            db, blobs, self.threads, limits=policy.unpack, keep_ms=policy.keep_ms, now_ms=now_ms
        )
        self._finishing = Finishing(self._publisher)

    def drain(self) -> None:
        """The service is about to stop: ends the bodies that are being received; what arrived is kept."""
        self._intake.drain()

    async def close(self) -> None:
        """Waits for uploads that are being finished; what is cut off is finished after the next start."""
        await self._finishing.close(self.policy.answer_s)
        self.threads.close()

    # -- create

    async def create(self, dk: int, plan: Plan, request: Request | None) -> Standing:
        """A new upload, with its first bytes when the request carries some.

        Raises Refusal 400, 408, 409, 413, 460, 507; the upload does not exist then.
        """
        if plan.concat is not None and plan.concat.final:
            return await self._create_final(dk, plan, plan.concat.parts)
        if plan.length is not None and plan.length > self.policy.upload_bytes_max:
            raise refusals.too_large(self.policy.upload_bytes_max)
        upload = self._row(dk, plan, plan.length, "part" if plan.concat else "whole")
        if plan.intent.reuse and upload.role == "whole":
            outcome = await self._publisher.reuse(upload)
            if outcome is not None:
                return ended(upload, outcome)
        if request is None and (upload.length_bytes != 0 or upload.role == "part"):
            await self._insert(upload)
            return Standing(upload=upload, offset=0, stage="receiving")
        return await self._create_with_bytes(upload, request)

    def _row(self, dk: int, plan: Plan, length: int | None, role: rows.Role) -> UploadRow:
        now = self._now_ms()
        upload = secrets.token_hex(16)
        intent = plan.intent
        return UploadRow(
            id=upload,
            dk=dk,
            kind=intent.kind,
            role=role,
            length_bytes=length,
            path=intent.path or f"unnamed/{upload}".encode(),
            sha256=None if intent.sha256 is None else intent.sha256.hex(),
            mtime_ms=intent.mtime_ms,
            metadata=plan.metadata,
            parts=plan.concat.parts if plan.concat else (),
            created_at_ms=now,
            expires_at_ms=now + self.policy.keep_ms,
        )

    async def _insert(self, upload: UploadRow) -> None:
        async with self._db.transaction() as tx:
            await rows.insert(tx, upload)

    async def _create_with_bytes(self, upload: UploadRow, request: Request | None) -> Standing:
        # A small file saves a transaction: its row is written with the outcome, and nobody knows its id before that.
        declared = 0 if request is None else request.declared
        new = upload.kind == "file" and declared is not None and declared <= SMALL_BYTES
        if not new:
            await self._insert(upload)
        try:
            digest: Digest | None = hashlib.sha256()
            offset = 0
            if request is not None:
                offset, digest = await self._intake.take_in(upload, 0, digest, request)
            if upload.role == "whole" and offset == upload.length_bytes:
                finishing = self._finishing.start(upload, digest, new=new)
                # Without a row nobody could ask again later, so this answer waits until the end.
                return await self._settle(upload, finishing, patient=new)
            if new:
                await self._insert(upload)
        except PiSyncError:
            await self._drop(upload, known=not new)
            raise
        return Standing(upload=upload, offset=offset, stage="receiving")

    async def _drop(self, upload: UploadRow, *, known: bool) -> None:
        """A creation that failed told nobody its address, so nobody can go on with it."""
        self._offsets.forget(upload.id)
        await self.threads.run(self.blobs.discard, upload.id)
        if known:
            now = self._now_ms()
            async with self._db.transaction() as tx:
                await rows.end(tx, upload.id, now_ms=now, expires_at_ms=now)
                await rows.forget(tx, upload.id)

    async def _create_final(self, dk: int, plan: Plan, parts: tuple[str, ...]) -> Standing:
        length = 0
        for part in parts:
            row = await self._mine(dk, part)
            size = await self._offsets.peek(row)
            if row.role != "part" or row.state != "receiving" or size != row.length_bytes:
                raise refusals.part_unfinished(part)
            length += size
        if length > self.policy.upload_bytes_max:
            raise refusals.too_large(self.policy.upload_bytes_max)
        upload = self._row(dk, plan, length, "final")
        await self._insert(upload)
        standing = await self._settle(upload, self._finishing.start(upload, None))
        if standing.stage == "published":
            async with self._db.transaction() as tx:
                for part in set(parts):
                    await rows.touch(tx, part, self._now_ms() + PARTS_KEPT_MS)
        return standing

    # -- append

    async def append(self, dk: int, upload_id: str, offset: int, length: int | None, request: Request) -> Standing:
        """Appends the body at `offset`; `length` says a deferred length. What arrived of a cut body is kept.

        Raises Refusal 400, 403, 404, 408, 409, 410, 413, 460, 507.
        """
        async with self._hold(upload_id, request.body.stop):
            upload = await self._mine(dk, upload_id)
            if upload.role == "final":
                raise refusals.final_takes_nothing()
            if length is not None:
                upload = await self._say_length(upload, length)
            current, digest = await self._stands_at(upload)
            if offset != current:
                raise refusals.conflict(current, offset)
            if upload.state != "receiving" or upload_id in self._finishing:
                await _expect_nothing(current, request)
            else:
                await self._intake.take_in(upload, current, digest, request)
                await self._touch(upload)
            finishing = self._finish_if_whole(upload)
        return await self._settle(upload, finishing)

    async def _stands_at(self, upload: UploadRow) -> tuple[int, Digest | None]:
        if upload.state != "receiving" or upload.id in self._finishing:
            return upload.length_bytes or 0, None
        known = await self._offsets.load(upload)
        return known.offset, known.digest

    async def _say_length(self, upload: UploadRow, length: int) -> UploadRow:
        if upload.length_bytes is not None:
            if upload.length_bytes != length:
                raise refusals.length_fixed(upload.length_bytes)
            return upload
        if length > self.policy.upload_bytes_max:
            raise refusals.too_large(self.policy.upload_bytes_max)
        offset, _ = await self._stands_at(upload)
        if length < offset:
            raise refusals.length_too_small(offset)
        async with self._db.transaction() as tx:
            await rows.set_length(tx, upload.id, length)
        return await self._mine(upload.dk, upload.id)

    async def _touch(self, upload: UploadRow) -> None:
        expires = self._now_ms() + self.policy.keep_ms
        if expires - upload.expires_at_ms > TOUCH_EVERY_MS:
            async with self._db.transaction() as tx:
                await rows.touch(tx, upload.id, expires)

    # -- ask and end

    async def look(self, dk: int | None, upload_id: str, *, take_over: bool) -> Standing:
        """Where the upload stands. With `take_over` whoever still writes is ended first, so the offset stays true;
        `dk` None looks at any device's upload.

        Raises Refusal 404, 409, 410.
        """
        if not take_over and self._locks.held(upload_id):
            upload = await self._mine(dk, upload_id)
            if upload.state == "receiving":
                return Standing(upload=upload, offset=await self._offsets.peek(upload), stage="receiving")
        async with self._hold(upload_id):
            upload = await self._mine(dk, upload_id)
            offset, _ = await self._stands_at(upload)
            finishing = self._finish_if_whole(upload)
        try:
            return await self._settle(upload, finishing)
        except PiSyncError as error:
            # All bytes are there. Whoever asks by PATCH gets the reason, whoever only looks may look again.
            log.warning("upload.waits", upload=upload_id, code=error.code)
            return Standing(upload=upload, offset=offset, stage="verifying")

    async def refused_entries(self, upload_id: str) -> list[tuple[bytes, str]]:
        """The refused entries of a bundle: path and code."""
        async with self._db.reading() as tx:
            return await rows.refusals(tx, upload_id)

    async def terminate(self, dk: int, upload_id: str) -> None:
        """Ends an upload for good. What it has published stays. Raises Refusal 404, 409, 410."""
        async with self._hold(upload_id):
            await self._mine(dk, upload_id)
            await self._finishing.wait(upload_id)
            await self._end(upload_id)

    async def expire(self, upload_id: str) -> bool:
        """Ends an upload whose time is over; False when somebody is at work on it."""
        if self._locks.held(upload_id) or upload_id in self._finishing:
            return False
        async with self._hold(upload_id):
            await self._end(upload_id)
        return True

    async def _end(self, upload_id: str) -> None:
        now = self._now_ms()
        self._offsets.forget(upload_id)
        async with self._db.transaction() as tx:
            await rows.end(tx, upload_id, now_ms=now, expires_at_ms=now + self.policy.keep_ms)
        await self.threads.run(self.blobs.discard, upload_id)
        log.info("upload.ended", upload=upload_id)

    async def recover(self) -> int:
        """Finishes uploads whose bytes were all there when the service stopped; gives their number."""
        after, finished = (0, ""), 0
        while True:
            async with self._db.reading() as tx:
                page = await rows.receiving(tx, after, RECOVER_PAGE)
            for upload_id in await self.threads.run(self._whole, page):
                if not self._locks.held(upload_id):
                    finished += await self._recover(upload_id)
            if page:
                after = (page[-1]["created_at_ms"], page[-1]["id"])
            if len(page) < RECOVER_PAGE:
                return finished

    def _whole(self, page: Sequence[Row]) -> list[str]:
        """Which uploads seem to have all their bytes, from the sizes alone."""
        return [
            row["id"]
            for row in page
            if row["role"] == "final" or (row["role"] == "whole" and row["length_bytes"] in self.blobs.sizes(row["id"]))
        ]

    async def _recover(self, upload_id: str) -> bool:
        async with self._hold(upload_id):
            async with self._db.reading() as tx:
                upload = await rows.get(tx, upload_id)
            if upload is None or upload.length_bytes is None or upload.state != "receiving":
                return False
            await self._stands_at(upload)
            finishing = self._finish_if_whole(upload)
        if finishing is None:
            return False
        await asyncio.wait({finishing})
        return finishing.exception() is None

    # -- shared

    @asynccontextmanager
    async def _hold(self, upload_id: str, stop: Callable[[], None] | None = None) -> AsyncIterator[None]:
        try:
            async with self._locks.hold(upload_id, stop):
                yield
        except Preempted:
            raise refusals.preempted() from None

    async def _mine(self, dk: int | None, upload_id: str) -> UploadRow:
        upload = None
        if tus.is_upload_id(upload_id):
            async with self._db.reading() as tx:
                upload = await rows.get(tx, upload_id)
        if upload is None or dk not in (None, upload.dk):
            raise refusals.unknown()
        if upload.state == "ended":
            raise refusals.ended()
        return upload

    def _finish_if_whole(self, upload: UploadRow) -> asyncio.Task[Outcome] | None:
        """Called under the lock, after `_stands_at`."""
        if upload.state != "receiving" or upload.role == "part" or upload.length_bytes is None:
            return None
        if upload.role == "final" or upload.id in self._finishing:
            return self._finishing.start(upload, None)
        known = self._offsets.known(upload.id)
        if known is None or known.offset != upload.length_bytes:
            return None
        return self._finishing.start(upload, known.digest)

    async def _settle(
        self, upload: UploadRow, finishing: asyncio.Task[Outcome] | None, *, patient: bool = False
    ) -> Standing:
        whole = upload.length_bytes or 0
        if finishing is not None:
            await asyncio.wait({finishing}, timeout=None if patient else self.policy.answer_s)
            if not finishing.done():
                return Standing(upload=upload, offset=whole, stage="verifying")
            try:
                outcome = finishing.result()
            except StorageFull as full:
                raise refusals.storage_full(whole, full.retry_after_s) from full
            self._offsets.forget(upload.id)
            return ended(upload, outcome)
        if upload.state == "receiving":
            return Standing(upload=upload, offset=await self._offsets.peek(upload), stage="receiving")
        assert upload.state != "ended"
        return Standing(
            upload=upload,
            offset=whole,
            stage=upload.state,
            error_code=upload.error_code,
            entries=(upload.published, upload.reused, upload.refused),
        )


async def _expect_nothing(offset: int, request: Request) -> None:
    """A client whose last answer was lost may ask again with an empty body."""
    if request.declared is None and not any(await request.body.take()):
        return
    if request.declared != 0:
        raise refusals.too_long(offset)
