"""Where each open upload stands, and its SHA-256 so far. The disk is the truth; this is a memory of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from cloud.flows.publish import Threads
from cloud.flows.receive import Digest, Receiver
from cloud.store.blobs import BlobStore
from cloud.store.uploads import UploadRow

OPEN_MAX = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """`digest` covers the bytes up to `offset`; None when they were not read since the start of the service."""

    offset: int
    digest: Digest | None


class Offsets:
    """Offsets of receiving uploads. Only the holder of an upload's lock may call `load` and `remember`."""

    def __init__(self, blobs: BlobStore, threads: Threads) -> None:
        self._blobs = blobs
        self._threads = threads
        self._open: OrderedDict[str, Open] = OrderedDict()

    def known(self, upload_id: str) -> Open | None:
        """What is remembered, or None."""
        return self._open.get(upload_id)

    async def load(self, upload: UploadRow) -> Open:
        """What is remembered, else what the disk says, which is remembered then."""
        known = self._open.get(upload.id)
        if known is None:
            offset = await self._threads.run(self._stored, upload)
            known = Open(offset=offset, digest=None if offset else hashlib.sha256())
            self._keep(upload.id, known)
        return known

    async def peek(self, upload: UploadRow) -> int:
        """The offset for someone who does not hold the lock: a writer may be at work, so nothing is remembered."""
        known = self._open.get(upload.id)
        return await self._threads.run(self._stored, upload) if known is None else known.offset

    def remember(self, upload_id: str, receiver: Receiver) -> None:
        """After a request. On doubt everything is forgotten and the next request asks the disk."""
        if receiver.settled:
            self._keep(upload_id, Open(offset=receiver.offset, digest=receiver.digest))
        else:
            self.forget(upload_id)

    def forget(self, upload_id: str) -> None:
        """The next request asks the disk."""
        self._open.pop(upload_id, None)

    def _keep(self, upload_id: str, known: Open) -> None:
        self._open[upload_id] = known
        self._open.move_to_end(upload_id)
        while len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)

    def _stored(self, upload: UploadRow) -> int:
        # A finish that was cut short after its rename has left the whole in the contents.
        if upload.kind == "file" and upload.length_bytes and self._blobs.moved_bytes(upload.id) == upload.length_bytes:
            return upload.length_bytes
        return self._blobs.offset(upload.id)
