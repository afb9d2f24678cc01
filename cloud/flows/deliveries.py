"""Deliveries: claimed in lanes under a lease, settled in groups. One transaction each.

A lane is what waits of one resource at one endpoint, in its order. Whoever claims a lane holds it until the lease is
over; what nobody settled by then is pending again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloud.rules import delivery
from cloud.rules.delivery import Attempted, Candidate, Verdict
from cloud.store.db import Database, Tx
from cloud.store.webhooks import Endpoint, as_endpoint

#: Deliveries looked at in one claim of one endpoint.
WINDOW = 300
#: With a full window of what has to wait for others, those are looked at again after that.
ASIDE_MS = 1000
PORTION_ROWS = 5000
PORTIONS_MAX = 200
#: The reason of an endpoint that a person switched off: its deliveries wait until it is switched on again.
SWITCHED_OFF = "switched off"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A delivery in somebody's hands. `body` is None when its event was removed (a purge) in the meantime.

    `early_for_ms`: it was not due before then, somebody asked for it; such an attempt uses nothing of the schedule up.
    """

    id: int
    endpoint_id: str
    resource: str
    attempts: int
    lease_until_ms: int
    event_id: str
    type: str
    body: bytes | None
    early_for_ms: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What was claimed of an endpoint; `more`: something else waits there, at the latest for these to end."""

    endpoint: Endpoint
    lanes: list[list[Item]]
    more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """An attempt and what it means."""

    item: Item
    attempted: Attempted
    verdict: Verdict


@dataclass(kw_only=True, slots=True)
class Settled:
    """What changed with endpoints: names, and reasons of those that were disabled."""

    recovered: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)
    disabled: dict[str, str] = field(default_factory=dict)


async def ready(db: Database, now_ms: int, resource: str | None = None) -> list[Endpoint]:
    """Endpoints with something to deliver now; with a `resource` those that have anything of it, due or not."""
    async with db.reading() as tx:
        if resource is None:
            rows = await tx.all("webhook_endpoints_ready", now_ms=now_ms)
        else:
            rows = await tx.all("webhook_endpoints_of_resource", resource=resource)
    return [as_endpoint(row) for row in rows]


async def claim(
    db: Database,
    wanted: Sequence[tuple[Endpoint, int]],
    *,
    now_ms: int,
    lease_ms: int,
    resource: str | None = None,
    seen: frozenset[int] = frozenset(),
) -> list[Claim]:
    """Takes up to so many lanes of each endpoint; `seen` had their turn already and hold what comes after them."""
    async with db.transaction() as tx:
        return [
            await _claim(tx, endpoint, room, now_ms=now_ms, until_ms=now_ms + lease_ms, resource=resource, seen=seen)
            for endpoint, room in wanted
        ]


async def _claim(
    tx: Tx, endpoint: Endpoint, room: int, *, now_ms: int, until_ms: int, resource: str | None, seen: frozenset[int]
) -> Claim:
    if resource is None:
        rows = await tx.all("webhook_due", endpoint_id=endpoint.id, now_ms=now_ms, row_limit=WINDOW)
    else:
        rows = await tx.all("webhook_due_of_resource", endpoint_id=endpoint.id, resource=resource, row_limit=WINDOW)
    due = [Candidate(id=row["id"], resource=row["resource"], earlier=row["earlier"]) for row in rows]
    due = [each for each in due if each.id not in seen]
    lanes, blocked = delivery.lanes(due, room=room)
    ids = [each for lane in lanes for each in lane]
    if resource is None:
        await _step_aside(tx, due, blocked, now_ms, full=len(due) == WINDOW and not ids)
    taken = {row["id"]: row for row in await tx.lookup("webhook_take", [(each, until_ms) for each in ids])}
    ords = sorted({row["event_ord"] for row in taken.values()})
    events = {row["ord"]: row for row in await tx.lookup("webhook_bodies", [(each,) for each in ords])}

    def item(number: int) -> Item:
        row, event = taken[number], events.get(taken[number]["event_ord"])
        return Item(
            id=number,
            endpoint_id=endpoint.id,
            resource=row["resource"],
            attempts=row["attempts"],
            lease_until_ms=until_ms,
            event_id=event["id"] if event else "",
            type=event["type"] if event else "",
            body=event["body"].encode() if event else None,
            early_for_ms=row["due_at_ms"] if row["attempts"] and row["due_at_ms"] > now_ms else 0,
        )

    return Claim(
        endpoint=endpoint,
        lanes=[[item(number) for number in lane if number in taken] for lane in lanes],
        more=len(due) > len(ids),
    )


async def _step_aside(tx: Tx, due: list[Candidate], blocked: list[Candidate], now_ms: int, *, full: bool) -> None:
    """What waits for a postponed delivery becomes due with that one, so that it does not fill the window until then."""
    here = {each.id for each in due}
    waiting = [each for each in blocked if each.earlier is not None and each.earlier not in here]
    standing = await tx.lookup("webhook_standing", [(each,) for each in sorted({e.earlier or 0 for e in waiting})])
    due_at = {row["id"]: row["due_at_ms"] for row in standing if row["state"] == "pending"}
    later: list[tuple[int, int]] = []
    for each in blocked:
        # Along the chain: the second one behind a postponed delivery waits for it as well.
        at_ms = due_at.get(each.earlier or 0, now_ms + ASIDE_MS if full else 0)
        if at_ms > now_ms:
            due_at[each.id] = at_ms
            later.append((each.id, at_ms))
    await tx.lookup("webhook_defer", later)


async def settle(db: Database, ended: Sequence[Ended], released: Sequence[Item], now_ms: int) -> Settled:
    """Writes what became of deliveries and gives back those that did not have their turn."""
    async with db.transaction() as tx:
        await tx.lookup("webhook_settle", [_row(each, now_ms) for each in ended])
        await tx.lookup("webhook_add_attempts", [_attempt(each) for each in ended])
        await tx.lookup("webhook_release", [(each.id, each.lease_until_ms) for each in released])
        behind = {(e.item.endpoint_id, e.item.resource): due for e in ended if (due := _due_behind(e, now_ms))}
        await tx.lookup("webhook_behind", [(*key, due) for key, due in sorted(behind.items())])
        return await _endpoints(tx, ended, now_ms)


def _row(each: Ended, now_ms: int) -> tuple[object, ...]:
    verdict, attempted = each.verdict, each.attempted
    return (
        each.item.id,
        each.item.lease_until_ms,
        verdict.state,
        verdict.due_at_ms,
        attempted.status_code,
        attempted.error,
        None if verdict.state == "pending" else now_ms,
        each.item.attempts + (verdict.state != "pending" or not each.item.early_for_ms),
    )


def _attempt(each: Ended) -> tuple[object, ...]:
    done = each.attempted
    return (
        each.item.id,
        each.item.endpoint_id,
        done.at_ms,
        done.duration_ms,
        done.status_code,
        done.error,
        done.answer,
    )


def _due_behind(each: Ended, now_ms: int) -> int:
    """When what follows in the resource is due from now on; 0: as it was."""
    if each.verdict.state == "pending":
        return each.verdict.due_at_ms
    return now_ms if each.item.attempts else 0


async def _endpoints(tx: Tx, ended: Sequence[Ended], now_ms: int) -> Settled:
    """Keeps how endpoints fare. In one order, so that two dispatchers never wait for each other."""
    settled = Settled()
    groups: dict[str, list[Ended]] = {}
    for each in ended:
        groups.setdefault(each.item.endpoint_id, []).append(each)
    for endpoint_id, group in sorted(groups.items()):
        if any(each.attempted.error is None for each in group):
            if await tx.run("webhook_recovered", id=endpoint_id):
                settled.recovered.append(endpoint_id)
        elif await tx.run("webhook_failing", id=endpoint_id, now_ms=min(each.attempted.at_ms for each in group)):
            settled.failing.append(endpoint_id)
        held = max((each.verdict.held_until_ms or 0 for each in group), default=0)
        if held:
            await tx.run("webhook_hold", id=endpoint_id, until_ms=held)
        reason = next((each.verdict.disable for each in group if each.verdict.disable), "")
        if reason and await tx.run("webhook_disable", id=endpoint_id, reason=reason, now_ms=now_ms):
            settled.disabled[endpoint_id] = reason
    await _end_those_of_disabled(tx, ended, now_ms)
    return settled


async def _end_those_of_disabled(tx: Tx, ended: Sequence[Ended], now_ms: int) -> None:
    postponed = sorted({each.item.endpoint_id for each in ended if each.attempted.error is not None})
    for row in await tx.lookup("webhook_states", [(each,) for each in postponed]):
        if row["state"] == "disabled" and row["reason"] != SWITCHED_OFF:
            await tx.run("webhook_end_pending", endpoint_id=row["id"], error="endpoint-gone", now_ms=now_ms)


async def reclaim(db: Database, now_ms: int) -> int:
    """Gives back what somebody held for longer than the lease; tells how many."""
    async with db.reading() as tx:
        if not await tx.value("webhook_lease_over", now_ms=now_ms):
            return 0
    async with db.transaction() as tx:
        return await tx.run("webhook_reclaim", now_ms=now_ms)


async def is_open(db: Database, cut_ms: int, now_ms: int) -> bool:
    """Whether anything that was due at `cut_ms` still waits for its turn or is having it."""
    async with db.reading() as tx:
        return bool(await tx.value("webhook_open_due", cut_ms=cut_ms, now_ms=now_ms))


async def open_heads(db: Database, resource: str) -> set[int]:
    """The first unfinished delivery of a resource at each endpoint."""
    async with db.reading() as tx:
        rows = await tx.all("webhook_open_heads", resource=resource)
    return {row["id"] for row in rows if row["id"] is not None}


async def forget(db: Database, now_ms: int, keep_days: int) -> int:
    """Removes attempts, ended deliveries and events that are older; gives how many rows."""
    before_ms = now_ms - keep_days * delivery.DAY_MS
    async with db.transaction() as tx:
        await tx.run("webhook_end_lost", now_ms=now_ms, before_ms=before_ms)
    return sum(
        [await _forget(db, f"webhook_forget_{what}", before_ms) for what in ("attempts", "deliveries", "events")]
    )


async def _forget(db: Database, query: str, before_ms: int) -> int:
    removed = 0
    for _ in range(PORTIONS_MAX):
        async with db.transaction() as tx:
            count = await tx.run(query, before_ms=before_ms, row_limit=PORTION_ROWS)
        removed += count
        if count < PORTION_ROWS:
            break
    return removed


def in_hand(claims: Iterable[Claim]) -> int:
    """How many deliveries were claimed."""
    return sum(len(lane) for each in claims for lane in each.lanes)
