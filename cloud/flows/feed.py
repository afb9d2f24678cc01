"""What changed for one device, from a cursor on; at once, or as soon as there is something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from cloud.flows import audit
from cloud.flows.waiting import Waiting
from cloud.rules import cursors
from cloud.rules.cursors import Cursor
from cloud.store import feed as rows
from cloud.store.db import Database, Row
from cloud.store.feed import Marks, Part, Scope
from pisyncd.core.problems import Refusal
from pisyncd.core.record import Rules

PAGE_BYTES_MAX = 1024 * 1024
#: So many who were woken together ask the database at once; the others wait for their turn.
ASKING_MAX = 2


class CursorExpired(Refusal):
    """The cursor does not hold here any more; `snapshot` is where to begin anew."""

    def __init__(self, types: tuple[str, ...] | None) -> None:
        super().__init__(
            410,
            "cursor-expired",
            "the cursor is too old, of another database, or from before the subscriptions or the types changed",
            hint="begin anew at `snapshot`, without `since`; drop at the end what did not come again",
        )
        self.snapshot = "/api/changes" + (f"?types={quote(','.join(types), safe=',')}" if types else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Who asks for what. `types` sorted, None for all; `writer`: which instance of the device it is, '' unknown."""

    dk: int
    device_id: str
    since: str
    types: tuple[str, ...] | None
    limit: int
    writer: str = ""


class ChangeOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`recordwire.Change` with the state as it is stored."""

    type: str
    id: str
    state: msgspec.Raw | None = None
    gone: bool = False
    version: msgspec.Raw | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Changes, where to go on, and whether there is more at once. `seen` and `scopes`: what it was read by."""

    changes: list[ChangeOut]
    cursor: str
    more: bool
    seen: Marks
    scopes: frozenset[Scope]


class Feed:
    """The feed of changes of one database. `rules`: which types there are, and how they are reconciled."""

    def __init__(self, db: Database, waiting: Waiting, rules: Rules) -> None:
        self.rules = rules
        self._db = db
        self._waiting = waiting
        self._turn = asyncio.Semaphore(ASKING_MAX)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds requests while inside. Raises StorageBusy."""
        async with self._db.transaction() as tx:
            await rows.identity(tx)
        async with self._waiting.running():
            yield

    @property
    def held(self) -> int:
        """How many requests wait."""
        return self._waiting.held

    def moved(self) -> None:
        """Records or subscriptions were changed by this process."""
        self._waiting.moved()

    def release(self) -> None:
        """The service stops: who waits is answered now."""
        self._waiting.release()

    async def page(self, ask: Ask) -> Page:
        """What there is now. Raises CursorExpired, StorageBusy."""
        async with self._db.reading() as tx:
            # In this order: a change of the subscriptions in between makes the cursor one of before, never of after.
            seen = await rows.marks(tx)
            scopes = await rows.subscriptions(tx, ask.dk)
            epoch = cursors.epoch(seen.identity, ask.device_id, scopes, ask.types)
            cursor = cursors.read(ask.since, epoch, head=seen.head, forgotten=seen.forgotten)
            if cursor is None:
                raise CursorExpired(ask.types)
            wanted = Part(
                dk=ask.dk,
                device_id=ask.device_id,
                types=ask.types,
                since=cursor.seq,
                head=seen.head,
                began=cursor.began,
            )
            found = await rows.part(tx, wanted, limit=ask.limit, bytes_max=PAGE_BYTES_MAX)
            # A tombstone that was dropped between both reads is in neither of them.
            forgotten = (await rows.marks(tx)).forgotten if cursor.seq < seen.head else seen.forgotten
            if cursors.read(ask.since, epoch, head=seen.head, forgotten=forgotten) is None:
                raise CursorExpired(ask.types)
        sent = found[: ask.limit]
        more = bool(sent) and sent[0]["found"] > len(sent)
        # What does not concern the device is passed over for good.
        reached = sent[-1]["change"] if more else seen.head
        return Page(
            changes=[_change(row, "" if cursor.began else ask.writer) for row in sent],
            cursor=cursors.write(epoch, Cursor(seq=reached, began=cursor.began)),
            more=more,
            seen=seen,
            scopes=scopes | {("device", ask.device_id)},
        )

    async def hold(self, page: Page, ask: Ask, *, timeout_s: float, is_gone: Callable[[], bool]) -> bool:
        """Waits after an empty page; True when `page` has to be asked for again. Raises Refusal 503."""
        return await self._waiting.hold(ask.dk, page.scopes, page.seen, timeout_s=timeout_s, is_gone=is_gone)

    async def page_in_turn(self, ask: Ask) -> Page:
        """`page` for one of many who were woken together: they must not take the readers from everyone else."""
        async with self._turn:
            return await self.page(ask)


async def restored(db: Database, *, actor: str, now_ms: int) -> None:
    """After a backup was restored: every device fetches its records anew and sends again what is lost here, and the
    cloud writes under another name. For when no service runs. Raises StorageBusy."""
    async with db.transaction() as tx:
        await rows.change_identity(tx)
        await audit.record(tx, now_ms=now_ms, actor=actor, action="cloud.restored", target="records", detail={})


def _change(row: Row, writer: str) -> ChangeOut:
    """`writer`: whose copy need not be told what it told last itself; '' in a full fetch, where all has to come."""
    told, _, version = row["echo"].partition(":")
    if row["gone"]:
        return ChangeOut(type=row["type"], id=row["id"], gone=True)
    if writer and told == writer:
        return ChangeOut(type=row["type"], id=row["id"], version=msgspec.Raw(version.encode()))
    return ChangeOut(type=row["type"], id=row["id"], state=msgspec.Raw(row["state"].encode()))
