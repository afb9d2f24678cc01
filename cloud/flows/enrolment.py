"""Lets devices in by codes and fleet keys, and keeps those that wait for a person. Rules: cloud/rules/enrolling.py."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.flows import audit, groups, identity, rotation, subscriptions
from cloud.rules import access
from cloud.rules import enrolling as rules
from cloud.rules.enrolling import Code, FleetKey, Found
from cloud.store.db import Database, DuplicateRow, Row, Tx
from pisyncd.core import problems, wire
from pisyncd.core.problems import Refusal

CODE_MADE = "enroll-code.made"
CODE_REMOVED = "enroll-code.removed"
KEY_MADE = "fleet-key.made"
KEY_REVOKED = "fleet-key.revoked"
ACCEPTED = "enrolment.accepted"
REJECTED = "enrolment.rejected"
PENDING_MAX = 1000
PENDING_OF_ADDRESS_MAX = 200
PENDING_KEEP_MS = 30 * 86_400_000
CODES_KEEP_MS = 90 * 86_400_000
RETRY_S = 60
SHOWN_MAX = 500


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a device belongs once it is in."""

    site: str | None = None
    groups: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a device says that wants to be let in; `token_hash` is the SHA-256 of a token that it made itself."""

    device_id: str
    token_hash: str
    hardware: Mapping[str, str]
    address: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`state`: accepted or pending; `fresh`: it came in with this request."""

    device_id: str
    state: str
    fresh: bool = False


async def make_code(db: Database, *, device_id: str | None, place: Place, lasts_s: int, actor: str, now_ms: int) -> str:
    """A code for one device, as it is typed: 'K7QM3-XPD01'. Raises Refusal 422."""
    if device_id is not None and not access.is_device_id(device_id):
        raise problems.invalid("/device_id", "device-id", "this cannot be a device id")
    code = "".join(secrets.choice(rules.ALPHABET) for _ in range(rules.CODE_CHARS))
    async with db.transaction() as tx:
        await _check(tx, place)
        await tx.run(
            "add_code",
            code_hash=wire.token_hash(code),
            device_id=device_id,
            created_by=actor,
            now_ms=now_ms,
            expires_at_ms=now_ms + lasts_s * 1000,
            **_columns(place),
        )
        await _note(tx, CODE_MADE, device_id or "", actor, now_ms, site=place.site)
    return rules.shown(code)


async def make_fleet_key(
    db: Database,
    name: str,
    *,
    place: Place,
    auto_accept: bool,
    devices_max: int | None,
    expires_at_ms: int | None,
    actor: str,
    now_ms: int,
) -> str:
    """A key for prepared cards. Raises Refusal 409, 422."""
    if not access.is_name(name):
        raise problems.invalid("/name", "name", f"{name[:80]!r} cannot name a key", hint="letters, digits, . _ @ -")
    secret = rotation.new_secret("fleet")
    try:
        async with db.transaction() as tx:
            await _check(tx, place)
            await tx.run(
                "add_fleet_key",
                key_hash=wire.token_hash(secret),
                name=name,
                auto_accept=int(auto_accept),
                devices_max=devices_max,
                created_by=actor,
                now_ms=now_ms,
                expires_at_ms=expires_at_ms,
                **_columns(place),
            )
            await _note(tx, KEY_MADE, name, actor, now_ms, auto_accept=auto_accept)
    except DuplicateRow:
        raise Refusal(409, "already-there", f"a fleet key named {name} exists already", hint="another name") from None
    return secret


async def revoke_fleet_key(db: Database, name: str, *, actor: str, now_ms: int) -> None:
    """No device comes in by it any more; those that are in stay. Raises Refusal 404."""
    async with db.transaction() as tx:
        if not await tx.run("revoke_fleet_key", name=name, now_ms=now_ms):
            raise Refusal(
                404, "fleet-key-unknown", f"there is no fleet key {name!r}"[:200], hint="it may be revoked already"
            )
        await _note(tx, KEY_REVOKED, name, actor, now_ms)


async def remove_code(db: Database, beginning: str, *, actor: str, now_ms: int) -> None:
    """Ends a code that was not used, by the first signs of its hash. Raises Refusal 404."""
    async with db.transaction() as tx:
        known = len(beginning) >= 8 and all(sign in "0123456789abcdef" for sign in beginning)
        if not known or not await tx.run("drop_code", beginning=f"{beginning}%"):
            raise Refusal(404, "code-unknown", "there is no such code that was not used", hint="the list shows them")
        await _note(tx, CODE_REMOVED, beginning[:16], actor, now_ms)


async def codes(tx: Tx) -> list[Row]:
    """The newest codes; they stand there by their hash."""
    return await tx.all("codes", row_limit=SHOWN_MAX)


async def fleet_keys(tx: Tx) -> list[Row]:
    """All keys with the number of devices that came in by each."""
    return await tx.all("fleet_keys")


async def requests(tx: Tx, state: str = "pending") -> list[Row]:
    """Devices that asked to be let in, the one that waits longest first."""
    return await tx.all("requests", state=state, row_limit=SHOWN_MAX)


async def by_code(db: Database, code: str, asked: Asked, now_ms: int) -> Answer:
    """Lets a device in by a code. Raises Refusal 403, 409."""
    code_hash = wire.token_hash(rules.normalized(code))
    async with db.transaction() as tx:
        row = await tx.one("code_by_hash", code_hash=code_hash)
        known = (
            Code(device_id=row["device_id"], expires_at_ms=row["expires_at_ms"], used_by=row["used_by"])
            if row
            else None
        )
        verdict = rules.by_code(known, await _found(tx, asked, now_ms), now_ms)
        if verdict == "again":
            return Answer(device_id=asked.device_id, state="accepted")
        if verdict == "taken":
            raise _taken(asked.device_id)
        used = verdict in ("admit", "replace") and await tx.run(
            "use_code", code_hash=code_hash, device_id=asked.device_id, now_ms=now_ms
        )
        if not used or row is None:
            raise Refusal(
                403,
                "code-refused",
                "this code does not let a device in",
                hint="it works once, for a few days; ask for a new one",
            )
        await _admit(tx, asked, _place(row), actor=row["created_by"], now_ms=now_ms, replace=verdict == "replace")
    return Answer(device_id=asked.device_id, state="accepted", fresh=True)


async def by_fleet_key(db: Database, key: str, asked: Asked, now_ms: int) -> Answer:
    """Lets a device in by a fleet's key, or has it wait for a person. Raises Refusal 403, 429."""
    async with db.transaction() as tx:
        row = await tx.one("fleet_key_by_hash", key_hash=wire.token_hash(key))
        found = await _found(tx, asked, now_ms)
        verdict = rules.by_fleet_key(_fleet_key(row), found, now_ms)
        if verdict == "refuse" or row is None:
            raise Refusal(
                403, "fleet-key-refused", "this key lets no device in", hint="it may have ended; ask for a new one"
            )
        if verdict == "reject":
            raise Refusal(403, "enrolment-rejected", "a person has rejected this device", hint="ask them why")
        if verdict == "again":
            return Answer(device_id=asked.device_id, state="accepted")
        if verdict == "wait":
            before = await tx.one("request_by_token", token_hash=asked.token_hash)
            assert before is not None
            await tx.run("touch_request", id=before["id"], now_ms=now_ms, address=asked.address)
            return Answer(device_id=asked.device_id, state="pending")
        if verdict == "ask":
            await _room(tx, row["name"], asked.address)
        await _keep(tx, asked, row["name"], found, now_ms, accepted=verdict == "admit")
        if verdict == "ask":
            await tx.run("fleet_changed")
            return Answer(device_id=asked.device_id, state="pending")
        await _admit(tx, asked, _place(row), actor=row["created_by"], now_ms=now_ms, replace=False)
    return Answer(device_id=asked.device_id, state="accepted", fresh=True)


async def accept(tx: Tx, device_id: str, *, request_id: str | None, replace: bool, actor: str, now_ms: int) -> None:
    """Lets a device in that waits. Raises Refusal 404, 409."""
    row = await _waiting(tx, device_id, request_id)
    if row["known"] and not replace:
        raise Refusal(
            409,
            "device-taken",
            f"a device {device_id} is in already",
            hint="`replace` ends its tokens and lets this one in",
        )
    await tx.run("decide_request", id=row["id"], state="accepted", now_ms=now_ms, decided_by=actor)
    key = await tx.one("fleet_key_by_name", name=row["fleet_key"])
    asked = Asked(device_id=device_id, token_hash=row["token_hash"], hardware={}, address=row["address"])
    await _admit(tx, asked, _place(key) if key else Place(), actor=actor, now_ms=now_ms, replace=replace)
    await _note(tx, ACCEPTED, device_id, actor, now_ms, request=row["id"], replace=replace)


async def reject(tx: Tx, device_id: str, *, request_id: str | None, actor: str, now_ms: int) -> None:
    """Keeps a device out that waits. Raises Refusal 404, 409."""
    row = await _waiting(tx, device_id, request_id)
    await tx.run("decide_request", id=row["id"], state="rejected", now_ms=now_ms, decided_by=actor)
    await tx.run("fleet_changed")
    await _note(tx, REJECTED, device_id, actor, now_ms, request=row["id"])


async def forget(db: Database, now_ms: int) -> int:
    """Drops codes and requests that have had their time; how many."""
    async with db.transaction() as tx:
        dropped = await tx.run("drop_codes", before_ms=now_ms - CODES_KEEP_MS)
        return dropped + await tx.run("drop_requests", before_ms=now_ms - PENDING_KEEP_MS)


async def _found(tx: Tx, asked: Asked, now_ms: int) -> Found:
    row = await tx.one("device_by_id", device_id=asked.device_id)
    enrolled = row is not None and row["revoked_at_ms"] is None
    holder = await tx.value("device_of_token", token_hash=asked.token_hash, now_ms=now_ms)
    request = await tx.one("request_by_token", token_hash=asked.token_hash)
    same = request is not None and request["device_id"] == asked.device_id
    return Found(
        device_id=asked.device_id,
        enrolled=enrolled,
        same_token=row is not None and enrolled and holder == row["dk"],
        request=request["state"] if request is not None and same else None,
    )


async def _admit(tx: Tx, asked: Asked, place: Place, *, actor: str, now_ms: int, replace: bool) -> None:
    try:
        async with tx.savepoint():
            dk = await identity.admit(tx, asked.device_id, asked.token_hash, now_ms, actor=actor, replace=replace)
    except (DuplicateRow, identity.AlreadyThere):
        raise _taken(asked.device_id) from None
    if place.site or place.groups:
        known = {row["name"]: row["kind"] for row in await groups.groups(tx)}
        # A group that was removed meanwhile keeps no device out.
        site = place.site if known.get(place.site or "") == "site" else None
        await groups.set_members(tx, dk, site, [name for name in place.groups if known.get(name) == "group"])
        if site:
            records = subscriptions.checked({"site": [site]})
            await subscriptions.change_in(tx, asked.device_id, add=records, actor=actor, now_ms=now_ms)
    if place.tags:
        await groups.set_tags(tx, dk, place.tags)


async def _room(tx: Tx, name: str, address: str) -> None:
    row = await tx.one("requests_pending", fleet_key=name, address=address)
    if row is not None and (row["devices"] >= PENDING_MAX or row["of_address"] >= PENDING_OF_ADDRESS_MAX):
        raise Refusal(
            429, "too-many-waiting", "too many devices wait to be let in", hint="accept or reject those that wait",
            headers={"Retry-After": "3600"},
        )  # fmt: skip


async def _keep(tx: Tx, asked: Asked, key: str, found: Found, now_ms: int, *, accepted: bool) -> None:
    try:
        async with tx.savepoint():
            await tx.run(
                "add_request",
                id=f"enr_{secrets.token_hex(8)}",
                device_id=asked.device_id,
                token_hash=asked.token_hash,
                fleet_key=key,
                state="accepted" if accepted else "pending",
                known=int(found.enrolled),
                hardware=msgspec.json.encode(asked.hardware).decode(),
                address=asked.address,
                now_ms=now_ms,
                decided_at_ms=now_ms if accepted else None,
                decided_by=f"fleet-key:{key}" if accepted else None,
            )
    except DuplicateRow:
        raise Refusal(409, "token-taken", "this token was shown by another device", hint="make a new one") from None


async def _waiting(tx: Tx, device_id: str, request_id: str | None) -> Row:
    rows = [row for row in await tx.all("request_by_device", device_id=device_id) if request_id in (None, row["id"])]
    if not rows:
        raise Refusal(
            404, "enrolment-unknown", f"no device {device_id} waits"[:200], hint="GET /api/enrolments lists them"
        )
    if len(rows) > 1:
        raise Refusal(409, "enrolment-unclear", f"several devices call themselves {device_id}", hint="give request_id")
    return rows[0]


async def _check(tx: Tx, place: Place) -> None:
    known = {row["name"]: row["kind"] for row in await groups.groups(tx)}
    if place.site is not None and known.get(place.site) != "site":
        raise problems.invalid("/site", "site-unknown", f"there is no site {place.site!r}"[:200], hint="make it first")
    wrong = [name for name in place.groups if known.get(name) != "group"]
    if wrong:
        raise problems.invalid(
            "/groups", "group-unknown", f"there is no group {wrong[0]!r}"[:200], hint="make it first"
        )
    if len(place.tags) > groups.TAGS_MAX or not all(access.is_name(tag) for tag in place.tags):
        raise problems.invalid("/tags", "tag", "a tag cannot be like that", hint="letters, digits, . _ @ - and blanks")


def _taken(device_id: str) -> Refusal:
    return Refusal(
        409, "device-taken", f"a device {device_id} is in already", hint="take a code that was made for this device"
    )


def _fleet_key(row: Row | None) -> FleetKey | None:
    if row is None:
        return None
    return FleetKey(
        auto_accept=bool(row["auto_accept"]),
        devices=row["devices"],
        devices_max=row["devices_max"],
        expires_at_ms=row["expires_at_ms"],
        revoked=row["revoked_at_ms"] is not None,
    )


def _columns(place: Place) -> dict[str, Any]:
    return {
        "site": place.site,
        "groups": msgspec.json.encode(place.groups).decode(),
        "tags": msgspec.json.encode(place.tags).decode(),
    }


def _place(row: Row) -> Place:
    return Place(site=row["site"], groups=_texts(row["groups"]), tags=_texts(row["tags"]))


def _texts(text: str) -> tuple[str, ...]:
    found: Sequence[str] = msgspec.json.decode(text, type=list[str])
    return tuple(found)


async def _note(tx: Tx, action: str, target: str, actor: str, now_ms: int, **detail: Any) -> None:
    await audit.record(tx, now_ms=now_ms, actor=actor, action=action, target=target, detail=detail)
