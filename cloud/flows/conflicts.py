"""Conflict review: what was decided between writes, and what a person makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.flows import audit
from cloud.flows.recording import Author
from cloud.flows.records import Records, Written
from cloud.rules import resolving
from cloud.rules.resolving import Become, Pick
from cloud.store import records as store
from cloud.store.db import Database, Row, Tx
from pisyncd.core import record
from pisyncd.core.deciding import Decision
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.problems import Refusal
from pisyncd.core.record import EMPTY

RESOLVED = "conflict.resolved"
INT64_MAX = 2**63 - 1
_ID = re.compile(r"cf_[0-9a-f]{24}")
_decoder = msgspec.json.Decoder(Decision)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which conflicts; None: of all."""

    state: str | None = None
    type: str | None = None
    record_id: str | None = None
    dk: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A row with its decision, and what a person calls the writers of its sides."""

    row: Row
    decision: Decision
    names: Mapping[str, str]


async def page(
    tx: Tx, wanted: Wanted, *, before: int = INT64_MAX, limit: int, offset: int
) -> tuple[list[Conflict], int]:
    """Up to limit + 1 conflicts, newest first, without names; and how many there are."""
    asked: dict[str, Any] = {"type": wanted.type, "record_id": wanted.record_id, "dk": wanted.dk}
    name = "conflicts_open" if wanted.state == "open" else "conflicts"
    if wanted.state != "open":
        asked["state"] = wanted.state
    rows = await tx.all(f"{name}_page", **asked, before=before, row_limit=limit + 1, row_offset=offset)
    total = await tx.value(f"{name}_count", **asked)
    return [Conflict(row=row, decision=_decoder.decode(row["decision"]), names={}) for row in rows], int(total)


async def one(tx: Tx, conflict_id: str) -> Conflict:
    """A conflict with names. Raises Refusal 404."""
    row = await tx.one("conflict_by_id", id=conflict_id) if _ID.fullmatch(conflict_id) else None
    if row is None:
        raise Refusal(
            404, "conflict-unknown", "there is no such conflict", hint="GET /api/conflicts lists them; old ones end"
        )
    decision = _decoder.decode(row["decision"])
    writers = {decision.winner.writer, *(side.writer for side in decision.losers)}
    found = await store.writers(tx, sorted(writers))
    return Conflict(row=row, decision=decision, names={name: writer.name for name, writer in found.items()})


class Review:
    """Resolves conflicts by ordinary new versions."""

    def __init__(self, db: Database, records: Records, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._records = records
        self._now_ms = now_ms

    async def resolve(self, conflict_id: str, choice: Pick | Mapping[str, Any], *, actor: str) -> Conflict:
        """A side, or merged fields, over all sides; gives the conflict as it ended.

        Durable when it returns. Raises Refusal 404, 409, 413, 422, StorageBusy.
        """
        async with self._db.transaction() as tx:
            # First of all, as every write of a record does: two who resolve the same must not wait for each other.
            await store.lock(tx)
            conflict = await one(tx, conflict_id)
            if conflict.row["state"] == "resolved":
                raise _resolved(conflict)
            written = await self._decide(tx, conflict, choice, actor)
            ended = await one(tx, conflict_id)
        if written.changed:
            self._records.changed()
        return ended

    async def _decide(self, tx: Tx, conflict: Conflict, choice: Pick | Mapping[str, Any], actor: str) -> Written:
        decision, now_ms = conflict.decision, self._now_ms()
        key = (decision.type, decision.record_id)
        rule = self._records.rule(decision.type)
        kept = (await store.known(tx, [key])).get(key)
        before = kept.state if kept else EMPTY
        if isinstance(choice, Pick):
            become = resolving.picked(decision, rule, before, choice)
            how: dict[str, Any] = {"by": "pick", "pick": choice.side, "index": choice.index}
        else:
            become = resolving.given(rule, choice)
            how = {"by": "fields", "fields": choice}
        written = await self._records.write_in(tx, Author(actor=actor), *key, _edit(become), now_ms)
        text = msgspec.json.encode({**how, "version": written.state.version}).decode()
        await tx.run("resolve_conflict", id=decision.id, now_ms=now_ms, resolved_by=actor, resolution=text)
        await audit.record(
            tx,
            now_ms=now_ms,
            actor=actor,
            action=RESOLVED,
            target=decision.id,
            detail={"record": audit.target_of(*key), "field": decision.field, "by": how["by"]},
            before_hash=record.digest(before),
            after_hash=record.digest(written.state),
        )
        return written


def _edit(become: Become) -> Edit:
    if become.fields is None:
        return Delete()
    if become.whole:
        return Put(become.fields, decided=True)
    return Patch(become.fields, create=True, decided=True)


def _resolved(conflict: Conflict) -> Refusal:
    return Refusal(
        409,
        "conflict-resolved",
        f"{conflict.row['resolved_by']} was first",
        hint="GET it to see how it ended; write the record itself to change it again",
    )
