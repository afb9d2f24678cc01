"""Records in the cloud: read and written one by one, by its API, by webhooks in and by who resolves a conflict.

What devices push goes through cloud.flows.pushes; both change records by cloud.flows.recording.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cloud.flows.recording import Author, Entry, Recording
from cloud.rules import records as rules
from cloud.rules.records import Key
from cloud.store import feed
from cloud.store import records as store
from cloud.store.db import Database, Tx
from cloud.store.records import Kept, Writer
from pisyncd.core import edits, merge, record, recordwire
from pisyncd.core.edits import Delete, Edit, Patch
from pisyncd.core.errors import ConfigError
from pisyncd.core.merge import Pen, View
from pisyncd.core.problems import Refusal
from pisyncd.core.record import State, TypeRule

CLOUD_NAME = "the cloud"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A record after a write. `created`: it was not there; `changed`: a new version was made. Wall milliseconds."""

    type: str
    id: str
    state: State
    view: View
    created: bool
    changed: bool
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A record as it is kept, and what it shows."""

    kept: Kept
    view: View


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """Which records are to be seen: None for all, or those a device is entitled to."""

    dk: int
    device_id: str


class Records:
    """See the module. `changed` is called after each commit that changed records; who commits a `write_in` calls it."""

    def __init__(self, db: Database, now_ms: Callable[[], int], known_rules: record.Rules = record.BUILT_IN) -> None:
        self._db = db
        self._now_ms = now_ms
        self._writer = ""
        self.rules = dict(known_rules)
        self.changed: Callable[[], None] = lambda: None

    async def prepare(self) -> None:
        """Holds the types against what is kept, and makes the cloud's own writer. Raises ConfigError, StorageBusy."""
        async with self._db.transaction() as tx:
            await store.lock(tx)
            await check_forms(tx, self.rules)
            self._writer = await _cloud_writer(tx)

    def rule(self, record_type: str) -> TypeRule:
        """How records of a type are reconciled. Raises Refusal 404."""
        found = self.rules.get(record_type)
        if found is None:
            raise recordwire.type_unknown(record_type, self.rules)
        return found

    async def write(
        self,
        author: Author,
        record_type: str,
        record_id: str,
        edit: Edit,
        *,
        if_match: str | Collection[str] | None = None,
    ) -> Written:
        """Durable when it returns. Raises Refusal 404, 410, 412, 413, 422, StorageBusy."""
        async with self._db.transaction() as tx:
            written = await self.write_in(tx, author, record_type, record_id, edit, self._now_ms(), if_match=if_match)
        if written.changed:
            self.changed()
        return written

    async def write_in(
        self,
        tx: Tx,
        author: Author,
        record_type: str,
        record_id: str,
        edit: Edit,
        now_ms: int,
        *,
        if_match: str | Collection[str] | None = None,
    ) -> Written:
        """As `write`, inside of a transaction. `if_match`: an etag or several, '*' for any that is there.

        A device's author has to be entitled, else there is no such record for it.
        """
        rule = self.rule(record_type)
        if not record.is_record_id(record_id):
            raise record_id_invalid()
        key = (record_type, record_id)
        dks = {author.dk} if author.dk else set()
        writers = {author.writer} if author.writer else set()
        work = await Recording.begin(tx, self.rules, [key], now_ms, dks=dks, writers=writers)
        entry = work.entry(key)
        if author.dk and not work.entitled(entry, author.dk):
            raise recordwire.unknown(*key)
        _check_present(entry, edit, if_match)
        pen = Pen.of_cloud(author.writer or self._writer or await _cloud_writer(tx), now_ms)
        state = edits.applied(entry.state, rule, edit, pen)
        if state == entry.state:
            return _written(entry, now_ms, changed=False)
        rules.check_size(state, entry.state if author.writer else None)
        if author.writer:
            work.claim([author.writer], author, work.device_id(author.dk) if author.dk else _called(author))
        work.change(entry, state, author)
        await work.save()
        return _written(entry, now_ms, changed=True)

    async def read(
        self, record_type: str, record_id: str, *, deleted: bool = False, reader: Reader | None = None
    ) -> Found:
        """A record. Raises Refusal 404 for none, for a deleted one unless asked for, and for what `reader` may not."""
        rule = self.rule(record_type)
        key = (record_type, record_id)
        async with self._db.reading() as tx:
            row = (
                await tx.one("record_by_id", type=record_type, id=record_id) if record.is_record_id(record_id) else None
            )
            kept = store.kept(row) if row is not None else None
            if kept is None or kept.purged or (kept.deleted and not deleted):
                raise recordwire.unknown(*key)
            if reader is not None and not await _entitled(tx, key, reader):
                raise recordwire.unknown(*key)
        return Found(kept=kept, view=merge.view(kept.state, rule))

    async def page(
        self, record_type: str, *, after: str = "", limit: int, deleted: bool = False, reader: Reader | None = None
    ) -> tuple[list[Found], int]:
        """Up to limit + 1 records of a type by id, and how many there are. Raises Refusal 404."""
        rule = self.rule(record_type)
        asked: dict[str, Any] = {"type": record_type, "deleted": int(deleted)}
        whose = "" if reader is None else "_of_device"
        if reader is not None:
            asked |= {"dk": reader.dk, "device_id": reader.device_id}
        async with self._db.reading() as tx:
            rows = await tx.all(f"records_page{whose}", **asked, after=after, row_limit=limit + 1)
            total = await tx.value(f"records_count{whose}", **asked)
        found = map(store.kept, rows)
        return [Found(kept=kept, view=merge.view(kept.state, rule)) for kept in found], int(total)

    async def conflicts_of(self, keys: Sequence[Key]) -> dict[Key, list[recordwire.ConflictBrief]]:
        """The newest decisions about records that nobody has settled, newest first."""
        found: dict[Key, list[recordwire.ConflictBrief]] = {}
        async with self._db.reading() as tx:
            rows = await tx.lookup("standing_conflicts_of", list(keys))
        for row in sorted(rows, key=lambda row: -int(row["ord"])):
            brief = recordwire.ConflictBrief(
                id=row["id"], field=row["field"], open=row["state"] == "open", explanation=row["explanation"]
            )
            found.setdefault((row["type"], row["record_id"]), []).append(brief)
        return found


def record_id_invalid() -> Refusal:
    """422: this cannot name a record."""
    return Refusal(
        422,
        "record-id-invalid",
        "this cannot be the id of a record",
        hint="1-128 of A-Z a-z 0-9 . _ : ~ @ -, beginning with a letter or digit",
    )


def _check_present(entry: Entry, edit: Edit, if_match: str | Collection[str] | None) -> None:
    if entry.purged:
        raise Refusal(410, "record-purged", "this record was removed for good", hint="use a new id")
    etag = record.etag(entry.state)
    if if_match is not None:
        wanted = {if_match} if isinstance(if_match, str) else set(if_match)
        if etag not in wanted and not ("*" in wanted and entry.view.present):
            raise recordwire.stale(etag)
    missing = not entry.view.exists if isinstance(edit, Delete) else not entry.view.present
    if missing and (isinstance(edit, Delete) or (isinstance(edit, Patch) and not edit.create)):
        raise recordwire.unknown(*entry.key)


def _written(entry: Entry, now_ms: int, *, changed: bool) -> Written:
    kept = entry.kept
    return Written(
        type=entry.key[0],
        id=entry.key[1],
        state=entry.state,
        view=entry.view,
        created=changed and entry.view.present and not entry.before.present,
        changed=changed,
        created_at_ms=kept.created_at_ms if kept else now_ms,
        updated_at_ms=now_ms if changed or kept is None else kept.updated_at_ms,
    )


def _called(author: Author) -> str:
    kind, _, name = author.actor.partition(":")
    return f"a user ({name[:8]})" if kind == "user" else name or kind


async def _entitled(tx: Tx, key: tuple[str, str], reader: Reader) -> bool:
    scopes = (await store.scopes(tx, [key]))[key]
    mine = (await store.subscriptions(tx, [reader.dk]))[reader.dk] | {("device", reader.device_id)}
    return not mine.isdisjoint(scope for scope, gone in scopes.items() if not gone)


async def _cloud_writer(tx: Tx) -> str:
    """The cloud's own writer, named after this database's number: after a restore it is another one, because the one
    before has used numbers that this database does not know of."""
    found = f"c-{await feed.identity(tx):016x}"
    await store.add_writers(tx, {found: Writer(dk=0, name=CLOUD_NAME)})
    return found


async def check_forms(tx: Tx, known_rules: record.Rules) -> None:
    """Holds the form of each type against what is kept in it, and notes it. Raises ConfigError with all faults."""
    kept = {row["type"] for row in await tx.all("record_types_kept")}
    faults = []
    noted = {row["type"]: bool(row["by_field"]) for row in await tx.all("record_forms")}
    for name, rule in sorted(known_rules.items()):
        if name in kept and noted.get(name, rule.by_field) != rule.by_field:
            was = "merge" if noted[name] else "another strategy"
            faults.append(f"{name}: there are records of this type, which was {was}; it cannot become {rule.strategy}")
        elif noted.get(name) != rule.by_field:
            await tx.run("save_record_form", type=name, by_field=int(rule.by_field))
    if faults:
        raise ConfigError(
            "; ".join(faults), hint="give the type another name, or its old strategy, in record_types_file"
        )

