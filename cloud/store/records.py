"""Reads what changes of records have to be judged by, and writes what comes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud.store.db import Row, Tx
from pisyncd.core import record
from pisyncd.core.deciding import Decision
from pisyncd.core.record import EMPTY, State

Key = tuple[str, str]
Scope = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A record as it is kept. Times in wall milliseconds."""

    type: str
    id: str
    state: State
    deleted: bool
    purged: bool
    change: int
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """Whose a writer is (dk 0: the cloud's, or a user's in whose name it writes), and what a person calls it."""

    dk: int
    name: str


def kept(row: Row) -> Kept:
    """A row of `record`."""
    purged = bool(row["purged"])
    return Kept(
        type=row["type"],
        id=row["id"],
        state=EMPTY if purged else record.decode(row["state"]),
        deleted=bool(row["deleted"]),
        purged=purged,
        change=row["change"],
        created_at_ms=row["created_at_ms"],
        updated_at_ms=row["updated_at_ms"],
    )


async def lock(tx: Tx) -> None:
    """Nobody else changes any record until the end of `tx`."""
    await tx.value("records_lock")


async def known(tx: Tx, keys: Collection[Key]) -> dict[Key, Kept]:
    """What is kept of records by (type, id)."""
    return {(row["type"], row["id"]): kept(row) for row in await tx.lookup("known_records", list(keys))}


async def scopes(tx: Tx, keys: Collection[Key]) -> dict[Key, dict[Scope, bool]]:
    """Whom records concern: scope -> whether that is over."""
    found: dict[Key, dict[Scope, bool]] = {key: {} for key in keys}
    for row in await tx.lookup("known_record_scopes", list(keys)):
        found[row["type"], row["id"]][row["kind"], row["value"]] = bool(row["gone"])
    return found


async def writers(tx: Tx, names: Iterable[str]) -> dict[str, Writer]:
    """Whose these writers are; those that nobody has are left out."""
    rows = await tx.lookup("known_record_writers", [(name,) for name in names])
    return {row["writer"]: Writer(dk=row["dk"], name=row["name"]) for row in rows}


async def subscriptions(tx: Tx, dks: Collection[int]) -> dict[int, set[Scope]]:
    """What devices are entitled to."""
    found: dict[int, set[Scope]] = {dk: set() for dk in dks}
    for row in await tx.lookup("known_subscriptions", [(dk,) for dk in dks]):
        found[row["dk"]].add((row["kind"], row["value"]))
    return found


async def device_ids(tx: Tx, dks: Collection[int]) -> dict[int, str]:
    """The public ids of devices."""
    return {row["dk"]: row["device_id"] for row in await tx.lookup("known_devices", [(dk,) for dk in dks])}


async def known_conflicts(tx: Tx, ids: Iterable[str]) -> set[str]:
    """Which of these decisions are kept already."""
    return {row["id"] for row in await tx.lookup("known_conflicts", [(each,) for each in ids])}


async def open_conflicts(tx: Tx, keys: Collection[Key]) -> dict[Key, set[str]]:
    """The ids of the open conflicts of records."""
    found: dict[Key, set[str]] = {}
    for row in await tx.lookup("open_conflicts_of", list(keys)):
        found.setdefault((row["type"], row["record_id"]), set()).add(row["id"])
    return found


async def save(tx: Tx, changed: Sequence[tuple[Kept, Mapping[str, object], str]]) -> None:
    """Writes records, what they show and whose copy is alike (`Entry.echo`), and moves each to the end of
    the feed of changes; `change` is ignored."""
    first = await tx.value("records_advance", count=len(changed)) - len(changed) + 1
    rows = [
        (
            one.type,
            one.id,
            record.encode(one.state),
            record.canonical(dict(fields)).decode(),
            int(one.deleted),
            first + index,
            echo,
            one.created_at_ms,
            one.updated_at_ms,
        )
        for index, (one, fields, echo) in enumerate(changed)
    ]
    await tx.bulk("save_records", rows)


async def save_scopes(tx: Tx, changed: Iterable[tuple[Key, Mapping[Scope, bool]]]) -> None:
    """Writes whom records concern now, and whom no more."""
    rows = [(*key, *scope, int(gone)) for key, scopes_now in changed for scope, gone in sorted(scopes_now.items())]
    await tx.bulk("save_record_scopes", rows)


async def add_writers(tx: Tx, found: Mapping[str, Writer]) -> None:
    """Keeps whose writers are; who came first has it."""
    await tx.bulk("add_record_writers", [(name, writer.dk, writer.name) for name, writer in sorted(found.items())])


def conflict_row(decision: Decision, explanation: str, dk: int, now_ms: int) -> tuple[object, ...]:
    """A row for `add_conflicts`."""
    return (
        decision.id,
        decision.type,
        decision.record_id,
        decision.field,
        "open" if decision.open else "automatic",
        record.canonical(decision).decode(),
        explanation,
        dk,
        now_ms,
    )
