"""Endpoints: made, changed, rotated, removed; replays and tests. Every change stands in the audit, no secret does."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from cloud.flows import announcing, audit, deliveries
from cloud.flows.announcing import Happening
from cloud.rules import delivery, signing, targets
from cloud.rules.delivery import Attempted
from cloud.rules.targets import Network
from cloud.store.db import Database, Row, Tx
from cloud.store.webhooks import Endpoint, as_endpoint
from pisyncd.core import problems
from pisyncd.core.problems import Refusal

CREATED = "webhook.created"
CHANGED = "webhook.changed"
REMOVED = "webhook.removed"
ROTATED = "webhook.rotated"
REPLAYED = "webhook.replayed"
TESTED = "webhook.tested"

ENDPOINTS_MAX = 200
REPLAY_MAX = 50_000
HOUR_MS = 3_600_000

#: The addresses of a name; nothing when it is not known now.
Addresses = Callable[[str], Awaitable[Sequence[str]]]
Post = Callable[..., Awaitable[Attempted]]


class Where(Protocol):
    """What may be an endpoint: `allow` of the settings, and how a name is looked up."""

    @property
    def allow(self) -> Sequence[Network]: ...
    async def addresses(self, host: str) -> Sequence[str]: ...


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who does it, by the audit's name ('key:amina'), and when."""

    name: str
    now_ms: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is to be different; None leaves it."""

    url: str | None = None
    description: str | None = None
    event_types: Sequence[str] | None = None
    state: Literal["enabled", "disabled"] | None = None


def unknown(endpoint_id: str) -> Refusal:
    """404: there is no such endpoint."""
    return Refusal(
        404, "webhook-unknown", f"there is no webhook {endpoint_id[:80]!r}", hint="GET /api/webhooks lists them"
    )


async def find(tx: Tx, endpoint_id: str) -> Endpoint:
    """An endpoint. Raises Refusal 404."""
    row = await tx.one("webhook_endpoint", id=endpoint_id) if "\0" not in endpoint_id else None
    if row is None:
        raise unknown(endpoint_id)
    return as_endpoint(row)


async def page(tx: Tx, *, limit: int, offset: int) -> tuple[list[Endpoint], int]:
    """Endpoints, newest first, and how many there are."""
    rows = await tx.all("webhook_endpoints", row_limit=limit, row_offset=offset)
    return [as_endpoint(row) for row in rows], await tx.value("webhook_endpoints_count")


async def log(
    tx: Tx, endpoint_id: str, *, state: str | None, kind: str | None, before_id: int, limit: int, offset: int
) -> tuple[list[Row], int]:
    """Up to limit + 1 deliveries, newest first, and how many there are. Raises Refusal 404."""
    await find(tx, endpoint_id)
    only = {"endpoint_id": endpoint_id, "state": state, "type": kind}
    rows = await tx.all("webhook_delivery_page", **only, before_id=before_id, row_limit=limit + 1, row_offset=offset)
    return rows, await tx.value("webhook_delivery_count", **only)


async def check_target(url: str, where: Where) -> None:
    """Raises Refusal 422 for what webhooks may not go to, as far as it can be told now."""
    judged = targets.judge(url, where.allow)
    if isinstance(judged, targets.Fault):
        raise problems.invalid("/url", judged.code, judged.detail, hint=judged.hint)
    if judged.address is not None:
        return
    found = [address for text in await where.addresses(judged.host) if (address := targets.parse_address(text))]
    plain = judged.scheme == "http"
    if found and not any(targets.permitted(each, where.allow, plain=plain) for each in found):
        detail = f"{judged.host} is {', '.join(map(str, found))[:200]}, where webhooks may not go to"
        raise problems.invalid("/url", "target-refused", detail, hint="the setting webhook_allow permits more")


def check_filters(event_types: Sequence[str]) -> list[str]:
    """The filters, each once. Raises Refusal 422 for one that can never match."""
    for index, each in enumerate(event_types):
        if not delivery.is_filter(each):
            known = ", ".join(sorted(delivery.TYPES))
            detail = f"{each[:80]!r} is no type of event: {known}, a family ('profile.*') or '*'"
            raise problems.invalid(f"/event_types/{index}", "enum", detail)
    return list(dict.fromkeys(event_types))


async def create(
    db: Database, where: Where, actor: Actor, *, url: str, description: str, event_types: Sequence[str]
) -> Endpoint:
    """A new endpoint; its secret is told only here. Raises Refusal 409, 422."""
    filters = check_filters(event_types)
    await check_target(url, where)
    endpoint_id = f"wh_{secrets.token_hex(8)}"
    async with db.transaction() as tx:
        if await tx.value("webhook_endpoints_count") >= ENDPOINTS_MAX:
            raise Refusal(409, "webhooks-too-many", f"there are {ENDPOINTS_MAX} webhooks", hint="remove one first")
        await tx.run(
            "webhook_add_endpoint",
            id=endpoint_id,
            url=url,
            description=description.replace("\0", ""),
            event_types=_json(filters),
            secret=signing.secret_of(secrets.token_bytes(signing.SECRET_BYTES)),
            now_ms=actor.now_ms,
        )
        made = await find(tx, endpoint_id)
        await _record(tx, actor, CREATED, made, after=made)
    return made


async def change(db: Database, where: Where, actor: Actor, endpoint_id: str, wanted: Change) -> Endpoint:
    """Changes an endpoint; enabling it forgets why it was disabled. Raises Refusal 404, 422."""
    if wanted.url is not None:
        await check_target(wanted.url, where)
    async with db.transaction() as tx:
        before = await find(tx, endpoint_id)
        after = _changed(before, wanted)
        if after == before:
            return before
        await tx.run(
            "webhook_change_endpoint",
            id=endpoint_id,
            url=after.url,
            description=after.description,
            event_types=_json(list(after.event_types)),
            state=after.state,
            reason=after.reason,
            failing_since_ms=after.failing_since_ms,
            held_until_ms=after.held_until_ms,
            now_ms=actor.now_ms,
        )
        after = await find(tx, endpoint_id)
        await _record(tx, actor, CHANGED, after, before=before, after=after)
    return after


def _changed(before: Endpoint, wanted: Change) -> Endpoint:
    after = replace(
        before,
        url=before.url if wanted.url is None else wanted.url,
        description=before.description if wanted.description is None else wanted.description.replace("\0", ""),
        event_types=before.event_types if wanted.event_types is None else tuple(check_filters(wanted.event_types)),
    )
    if wanted.state == "enabled":
        return replace(after, state="enabled", reason="", failing_since_ms=None, held_until_ms=None)
    if wanted.state == "disabled" and before.state == "enabled":
        return replace(after, state="disabled", reason=deliveries.SWITCHED_OFF)
    return after


async def remove(db: Database, actor: Actor, endpoint_id: str) -> None:
    """Removes an endpoint; what was to be delivered to it is not any more. Raises Refusal 404."""
    async with db.transaction() as tx:
        before = await find(tx, endpoint_id)
        await tx.run("webhook_remove_endpoint", id=endpoint_id)
        await tx.run("webhook_end_pending", endpoint_id=endpoint_id, error="endpoint-removed", now_ms=actor.now_ms)
        await _record(tx, actor, REMOVED, before, before=before)


async def rotate(db: Database, actor: Actor, endpoint_id: str, keep_old_hours: int) -> Endpoint:
    """A new secret; the old one signs as well for so many hours. Raises Refusal 404."""
    async with db.transaction() as tx:
        before = await find(tx, endpoint_id)
        keeps = keep_old_hours > 0
        await tx.run(
            "webhook_rotate_secret",
            id=endpoint_id,
            secret=signing.secret_of(secrets.token_bytes(signing.SECRET_BYTES)),
            old_secret=before.secret if keeps else None,
            old_until_ms=actor.now_ms + keep_old_hours * HOUR_MS if keeps else None,
            now_ms=actor.now_ms,
        )
        after = await find(tx, endpoint_id)
        await _record(tx, actor, ROTATED, after, before=before, after=after, keep_old_hours=keep_old_hours)
    return after


async def replay_one(db: Database, actor: Actor, endpoint_id: str, delivery_id: int) -> int:
    """Delivers one once more, with the same id and body. Raises Refusal 404, 409."""
    async with db.transaction() as tx:
        endpoint = await _enabled(tx, endpoint_id)
        row = await tx.one("webhook_replay_one", endpoint_id=endpoint_id, delivery_id=delivery_id)
        if row is None:
            raise Refusal(
                404,
                "delivery-unknown",
                f"this webhook has no delivery {delivery_id} that could be replayed",
                hint=f"GET /api/webhooks/{endpoint_id}/deliveries lists them",
            )
        await _again(tx, endpoint_id, [(row["ord"], row["resource"])], actor.now_ms)
        await _record(tx, actor, REPLAYED, endpoint, delivery_id=delivery_id, count=1)
    return 1


async def replay_span(db: Database, actor: Actor, endpoint_id: str, since_ms: int, until_ms: int) -> int:
    """Delivers all that happened from `since_ms` to before `until_ms` and that the endpoint's filters let through.

    What is still on its way is not doubled. Raises Refusal 404, 409, 422.
    """
    async with db.transaction() as tx:
        endpoint = await _enabled(tx, endpoint_id)
        rows = await tx.all(
            "webhook_replay_span",
            endpoint_id=endpoint_id,
            since_ms=since_ms,
            until_ms=until_ms,
            row_limit=REPLAY_MAX + 1,
        )
        if len(rows) > REPLAY_MAX:
            detail = f"more than {REPLAY_MAX} events happened in that time"
            raise problems.invalid("/since", "range", detail, hint="replay shorter spans, one after the other")
        found = [(row["ord"], _resource(row)) for row in rows if delivery.wants(endpoint.event_types, row["type"])]
        await _again(tx, endpoint_id, found, actor.now_ms)
        await _record(tx, actor, REPLAYED, endpoint, since_ms=since_ms, until_ms=until_ms, count=len(found))
    return len(found)


def _resource(row: Row) -> str:
    return f"{row['resource_type']}/{row['resource_id']}"


async def _enabled(tx: Tx, endpoint_id: str) -> Endpoint:
    endpoint = await find(tx, endpoint_id)
    if endpoint.state == "disabled":
        raise Refusal(
            409,
            "webhook-disabled",
            f"the webhook is disabled: {endpoint.reason}",
            hint='PATCH it with {"state": "enabled"} first',
        )
    return endpoint


async def _again(tx: Tx, endpoint_id: str, events: Sequence[tuple[int, str]], now_ms: int) -> None:
    rows = [(endpoint_id, ord_, resource, "replay", "pending", now_ms, now_ms) for ord_, resource in events]
    await tx.bulk("webhook_add_deliveries", rows)


async def test(db: Database, post: Post, actor: Actor, endpoint_id: str) -> tuple[str, Attempted]:
    """Sends `webhook.test` now, once, also to a disabled endpoint; gives the event's id and how it ended."""
    async with db.reading() as tx:
        endpoint = await find(tx, endpoint_id)
    happening = Happening(
        type=delivery.TEST_TYPE, resource_type="webhook", resource_id=endpoint_id, data={"message": "a test of PiSync"}
    )
    event = announcing.prepare(happening, actor.now_ms)
    done = await post(endpoint, event_id=event.id, body=event.body.encode(), attempt=1)
    ended_ms = done.at_ms + done.duration_ms
    async with db.transaction() as tx:
        ords = await announcing.add_events(tx, [event], actor.now_ms)
        number = await tx.value(
            "webhook_add_test",
            endpoint_id=endpoint_id,
            event_ord=ords[event.id],
            resource=event.resource,
            state="failed" if done.error else "delivered",
            at_ms=done.at_ms,
            status_code=done.status_code,
            error=done.error,
            ended_at_ms=ended_ms,
        )
        row = (number, endpoint_id, done.at_ms, done.duration_ms, done.status_code, done.error, done.answer)
        await tx.lookup("webhook_add_attempts", [row])
        await _record(tx, actor, TESTED, endpoint, status_code=done.status_code, error=done.error)
    return event.id, done


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _hash(endpoint: Endpoint | None) -> str | None:
    """Of everything an endpoint is, its secrets by their hashes: a rotation shows, the secret does not."""
    if endpoint is None:
        return None
    hidden = [hashlib.sha256(each.encode()).hexdigest() for each in (endpoint.secret, endpoint.old_secret or "")]
    shown = (endpoint.url, endpoint.description, endpoint.event_types, endpoint.state, endpoint.reason, hidden)
    return hashlib.sha256(msgspec.json.encode(shown)).hexdigest()


async def _record(
    tx: Tx,
    actor: Actor,
    action: str,
    endpoint: Endpoint,
    *,
    before: Endpoint | None = None,
    after: Endpoint | None = None,
    **more: Any,
) -> None:
    await audit.record(
        tx,
        now_ms=actor.now_ms,
        actor=actor.name,
        action=action,
        target=endpoint.id,
        # Of the address the host alone: many hold a secret in their path.
        detail={
            "host": urlsplit(endpoint.url).netloc,
            "event_types": endpoint.event_types,
            "state": endpoint.state,
            **more,
        },
        before_hash=_hash(before),
        after_hash=_hash(after),
    )
