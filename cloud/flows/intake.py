"""The bytes of one request go into an upload, and whatever ends them early is answered with where the upload stands."""

from __future__ import annotations

import contextlib

import structlog

from cloud.flows.offsets import Offsets
from cloud.flows.publish import Threads, to_the_end
from cloud.flows.receive import BodyBroken, BodyTooLong, ChecksumMismatch, Digest, End, Receiver, Source
from cloud.flows.terms import Request
from cloud.rules import refusals
from cloud.store.blobs import BlobStore, StorageFull
from cloud.store.uploads import UploadRow

log = structlog.get_logger()


class Intake:
    """Takes bodies in. The caller holds the upload's lock."""

    def __init__(self, blobs: BlobStore, threads: Threads, offsets: Offsets, bytes_max: int) -> None:
        self._blobs = blobs
        self._threads = threads
        self._offsets = offsets
        self._bytes_max = bytes_max
        self._live: set[Source] = set()
        self._draining = False

    def drain(self) -> None:
        """The service stops: bodies end where they are, what arrived is kept, and no new ones are taken."""
        self._draining = True
        for body in tuple(self._live):
            body.stop()

    async def take_in(
        self, upload: UploadRow, offset: int, digest: Digest | None, request: Request
    ) -> tuple[int, Digest | None]:
        if self._draining:
            raise refusals.stopping(offset)
        room = (self._bytes_max if upload.length_bytes is None else upload.length_bytes) - offset
        if request.encoding == "identity" and request.declared is not None and request.declared > room:
            raise refusals.too_long(offset)
        with Receiver(
            self._blobs,
            upload.id,
            offset=offset,
            room=room,
            digest=digest,
            checksum=request.checksum,
            encoding=request.encoding,
        ) as receiver:
            self._live.add(request.body)
            try:
                end = await to_the_end(self._receive(receiver, request.body), request.body.stop)
            finally:
                self._live.discard(request.body)
                self._offsets.remember(upload.id, receiver)
        if end is not End.WHOLE:
            log.info("upload.cut", upload=upload.id, offset=receiver.offset, bytes=receiver.taken, end=end.value)
            if self._draining:
                raise refusals.stopping(receiver.offset)
            how = {End.CUT: refusals.cut, End.STALLED: refusals.stalled, End.STOPPED: refusals.preempted}
            raise how[end](receiver.offset)
        return receiver.offset, receiver.digest

    async def _receive(self, receiver: Receiver, body: Source) -> End:
        run = self._threads.run
        try:
            while True:
                chunks = await body.take()
                end = body.end
                if end is not None:
                    await run(receiver.last, chunks, end)
                    return end
                await run(receiver.feed, chunks)
        except ChecksumMismatch:
            raise refusals.mismatch(await run(receiver.abandon)) from None
        except BodyTooLong:
            raise refusals.too_long(await run(receiver.abandon)) from None
        except BodyBroken as fault:
            raise refusals.broken(await run(receiver.abandon), str(fault)) from None
        except StorageFull as full:
            with contextlib.suppress(StorageFull):
                await run(receiver.keep)
            log.warning("storage.filled", offset=receiver.offset)
            raise refusals.storage_full(receiver.offset, full.retry_after_s) from full
