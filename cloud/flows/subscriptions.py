"""What a device is entitled to, beside what it wrote itself. Any change makes it fetch everything anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from cloud.flows import audit, identity
from cloud.rules import exporting
from cloud.store import feed as rows
from cloud.store.db import Database, Tx
from cloud.store.feed import Scope
from pisyncd.core import problems

Kind = Literal["site", "group", "user"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VALUE_CHARS_MAX = 128
SUBSCRIPTIONS_MAX = 1000
CHANGED = "subscriptions.changed"
_NAMED_MAX = 50


def checked(wanted: Mapping[str, Iterable[str]]) -> frozenset[Scope]:
    """{'site': ['A'], 'user': []} as scopes. Raises Refusal 422."""
    scopes: set[Scope] = set()
    for kind, values in wanted.items():
        for at, value in enumerate(values):
            if not 0 < len(value) <= VALUE_CHARS_MAX or not value.isprintable():
                raise problems.invalid(
                    f"/{kind}/{at}", "value", f"the name of a {kind} has 1 to {VALUE_CHARS_MAX} printable characters"
                )
            scopes.add((kind, value))
    if len(scopes) > SUBSCRIPTIONS_MAX:
        raise _too_many(len(scopes))
    return frozenset(scopes)


def by_kind(scopes: Iterable[Scope]) -> dict[str, list[str]]:
    """{'site': [...], 'group': [...], 'user': [...]}, each in order."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, value in sorted(scopes):
        found[kind].append(value)
    return found


async def of_device(db: Database, device_id: str) -> frozenset[Scope]:
    """What a device is subscribed to. Raises Refusal 404."""
    async with db.reading() as tx:
        return await rows.subscriptions(tx, await identity.device_key(tx, device_id))


async def replace(
    db: Database, device_id: str, wanted: frozenset[Scope], *, actor: str, now_ms: int
) -> frozenset[Scope]:
    """Exactly these from now on; gives them. Raises Refusal 404."""
    async with db.transaction() as tx:
        dk = await _locked(tx, device_id)
        return await _change(tx, dk, device_id, wanted, actor=actor, now_ms=now_ms)


async def change(
    db: Database,
    device_id: str,
    *,
    add: frozenset[Scope] = frozenset(),
    drop: frozenset[Scope] = frozenset(),
    actor: str,
    now_ms: int,
) -> frozenset[Scope]:
    """Some more, some less; gives what there is then. Raises Refusal 404, 422."""
    async with db.transaction() as tx:
        return await change_in(tx, device_id, add=add, drop=drop, actor=actor, now_ms=now_ms)


async def change_in(
    tx: Tx,
    device_id: str,
    *,
    add: frozenset[Scope] = frozenset(),
    drop: frozenset[Scope] = frozenset(),
    actor: str,
    now_ms: int,
) -> frozenset[Scope]:
    """`change` inside a transaction. Raises Refusal 404, 422."""
    dk = await _locked(tx, device_id)
    wanted = ((await rows.subscriptions(tx, dk)) - drop) | add
    if len(wanted) > SUBSCRIPTIONS_MAX:
        raise _too_many(len(wanted))
    return await _change(tx, dk, device_id, wanted, actor=actor, now_ms=now_ms)


async def _locked(tx: Tx, device_id: str) -> int:
    dk = await identity.device_key(tx, device_id)
    await tx.value("subscriptions_lock", dk=dk)
    return dk


async def _change(
    tx: Tx, dk: int, device_id: str, wanted: frozenset[Scope], *, actor: str, now_ms: int
) -> frozenset[Scope]:
    before = await rows.subscriptions(tx, dk)
    add, drop = wanted - before, before - wanted
    if not add and not drop:
        return wanted
    await rows.change_subscriptions(tx, dk, add=add, drop=drop, now_ms=now_ms)
    await audit.record(
        tx,
        now_ms=now_ms,
        actor=actor,
        action=CHANGED,
        target=device_id,
        detail={"added": _told(add), "removed": _told(drop)},
        before_hash=audit.hash_of(by_kind(before)) if before else None,
        after_hash=audit.hash_of(by_kind(wanted)) if wanted else None,
    )
    return wanted


def _told(scopes: frozenset[Scope]) -> dict[str, list[str]]:
    """At most 50 of each kind; users by the hash of their id, as everywhere in the audit."""
    found = by_kind(scopes)
    found["user"] = [exporting.user_hash(value) for value in found["user"][:_NAMED_MAX]]
    return {kind: values[:_NAMED_MAX] for kind, values in found.items() if values}


def _too_many(count: int) -> problems.Refusal:
    return problems.invalid("", "size", f"a device has at most {SUBSCRIPTIONS_MAX} subscriptions, not {count}")
