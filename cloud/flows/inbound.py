"""Webhooks of other systems: believed when they are signed, applied once, answered the same again.

The write of the record, what it is answered with and the entry in the audit are one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cloud.flows import audit
from cloud.flows.recording import Author
from cloud.flows.records import Records, Written
from cloud.rules import inbound as rules
from cloud.rules import signing
from cloud.rules.inbound import Event
from cloud.store import records as store
from cloud.store.db import Database, DuplicateRow, Row, Tx
from pisyncd.core import problems, record, recordwire, wire
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

RECEIVED = "webhook.received"
KEEP_MS = 30 * 24 * 3600 * 1000
_SIGNED = (signing.ID_HEADER, signing.TIME_HEADER, signing.SIGNATURE_HEADER, signing.LEGACY_HEADER)


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook is answered with. `applied`: it changed the record; `resource` null: there is none to change."""

    received: bool
    id: str
    applied: bool
    resource: recordwire.RecordOut | None


def read_secrets(*, secret: str, file: str, previous: str) -> tuple[str, ...]:
    """The secrets that hold: `webhook_secret` or the one line of `webhook_secret_file`, and the one before it.

    () when webhooks are off. Raises ConfigError.
    """
    if file:
        try:
            secret = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"webhook_secret_file: {error}", hint="it holds the secret as one line of text") from None
        if not secret.strip():
            raise ConfigError(f"webhook_secret_file: {file} is empty", hint="it holds the secret as one line of text")
    found = tuple(each.strip() for each in (secret, previous) if each.strip())
    return found if secret.strip() else ()


class Inbound:
    """See the module. `secrets` () refuses everything."""

    def __init__(
        self, db: Database, records: Records, now_ms: Callable[[], int], *, secrets: Sequence[str], tolerance_s: int
    ) -> None:
        self._db = db
        self._records = records
        self._now_ms = now_ms
        self._secrets = tuple(secrets)
        self._tolerance_s = tolerance_s

    def check_on(self) -> None:
        """Raises Refusal 503 when no secret is set."""
        if not self._secrets:
            raise rules.off()

    def believe(self, hook: str, headers: Mapping[str, str], body: bytes) -> Event:
        """What a webhook says, when it is signed and fresh. Raises Refusal 400, 401, 413, 422, 503."""
        self.check_on()
        # Of a header that is there twice, another program may read the other one.
        names = [name.lower() for name, _ in headers.items()]
        if any(names.count(name) > 1 for name in _SIGNED):
            raise rules.unsigned()
        signed = signing.verified(self._secrets, headers, body)
        if signed is None:
            raise rules.unsigned()
        if signed.timestamp_s is not None:
            rules.check_time(signed.timestamp_s * 1000, self._now_ms(), self._tolerance_s)
        event = rules.decode(hook, body)
        if signed.timestamp_s is None:
            rules.check_time(event.timestamp_ms, self._now_ms(), self._tolerance_s)
        return event

    async def take(self, event: Event) -> msgspec.Raw:
        """`Received` as JSON: applied, or as it was answered the first time. Raises Refusal 409, 410, 413, 422."""
        try:
            answer, changed = await self._apply(event)
        except DuplicateRow:
            async with self._db.reading() as tx:
                answer, changed = _again(await tx.one("inbound_by_id", id=event.id), event), False
        if changed:
            self._records.changed()
        return answer

    async def _apply(self, event: Event) -> tuple[msgspec.Raw, bool]:
        async with self._db.transaction() as tx:
            # Two of the same at once: the second one waits here, and then sees the first.
            await store.lock(tx)
            known = await tx.one("inbound_by_id", id=event.id)
            if known is not None:
                return _again(known, event), False
            now_ms = self._now_ms()
            key = (event.record_type, event.record_id)
            before = (await store.known(tx, [key])).get(key)
            written = await self._write(tx, event, now_ms)
            answer = msgspec.json.encode(
                Received(
                    received=True,
                    id=event.id,
                    applied=written is not None and written.changed,
                    resource=None if written is None else await _out(tx, written),
                )
            )
            await tx.run("inbound_add", id=event.id, digest=event.digest, answer=answer.decode(), now_ms=now_ms)
            await audit.record(
                tx,
                now_ms=now_ms,
                actor=f"webhook:{event.hook}",
                action=RECEIVED,
                target=audit.target_of(*key),
                detail={"event": event.id, "type": event.type, "applied": written is not None and written.changed},
                before_hash=None if before is None else record.digest(before.state),
                after_hash=None if written is None else record.digest(written.state),
            )
        return msgspec.Raw(answer), written is not None and written.changed

    async def _write(self, tx: Tx, event: Event, now_ms: int) -> Written | None:
        """None: there was nothing to delete."""
        author = Author(f"webhook:{event.hook}")
        try:
            return await self._records.write_in(tx, author, event.record_type, event.record_id, _edit(event), now_ms)
        except Refusal as refusal:
            if event.verb == "deleted" and refusal.status in (404, 410):
                return None
            raise

    async def drop_old(self) -> int:
        """Forgets answers of 30 days ago; gives how many."""
        async with self._db.transaction() as tx:
            return await tx.run("inbound_drop_old", before_ms=self._now_ms() - KEEP_MS)


def _edit(event: Event) -> Edit:
    match event.verb:
        case "created":
            return Put(event.fields)
        case "updated":
            return Patch(event.fields, create=True)
        case "deleted":
            return Delete()


def _again(known: Row | None, event: Event) -> msgspec.Raw:
    if known is None or bytes(known["digest"]) != event.digest:
        raise problems.id_conflict(event.id)
    return msgspec.Raw(known["answer"].encode())


async def _out(tx: Tx, written: Written) -> recordwire.RecordOut:
    rows: list[Any] = await tx.lookup("standing_conflicts_of", [(written.type, written.id)])
    at = wire.rfc3339(written.updated_at_ms)
    return recordwire.RecordOut(
        type=written.type,
        id=written.id,
        fields=dict(written.view.fields),
        deleted=written.view.deleted,
        version=written.state.version,
        etag=record.etag(written.state),
        last_updated_at=at,
        last_synced_at=at,
        sync_status="synced",
        conflicts=[
            recordwire.ConflictBrief(
                id=row["id"], field=row["field"], open=row["state"] == "open", explanation=row["explanation"]
            )
            for row in sorted(rows, key=lambda row: -int(row["ord"]))
        ],
    )
