"""Who is who: enrolment, keys, sessions, and the remembered answers to "whose token is this?"."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from cloud.flows import announcing, audit, rotation, standing
from cloud.rules import access
from cloud.rules.access import Grant, Principal, Role
from cloud.store.db import Database, DuplicateRow, Row, Tx
from pisyncd.core import problems, wire
from pisyncd.core.errors import PermanentError

REMEMBERED_MAX = 100_000
CHECK_INTERVAL_S = 0.5


class AlreadyThere(PermanentError):
    """It exists already."""

    code = "already-there"


class NotThere(PermanentError):
    """It does not exist."""

    code = "not-there"


class Identity:
    """Answers whose token it is, from memory when it can.

    What is remembered is forgotten when the generation in the database has risen, which is looked at before any
    answer that would be older than CHECK_INTERVAL_S: a revocation by another process holds within that time.
    """

    def __init__(
        self,
        db: Database,
        now_ms: Callable[[], int],
        *,
        remembered_max: int = REMEMBERED_MAX,
        token_keep_ms: int | None = None,
    ) -> None:
        """`token_keep_ms`: devices are to have a new token after so long; None: never by itself."""
        self._db = db
        self._now_ms = now_ms
        self._known: OrderedDict[bytes, tuple[Principal, int | None]] = OrderedDict()
        self._max = remembered_max
        self._token_keep_ms = token_keep_ms
        self._generation = -1
        self._checked_at = float("-inf")
        self._checking = asyncio.Lock()
        self.evictions = 0

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._known)

    async def who(self, token: str) -> Principal | None:
        """The holder of a device token or API key, or None."""
        if time.monotonic() - self._checked_at > CHECK_INTERVAL_S:
            await self._check_generation()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        entry = self._known.get(digest)
        if entry is not None:
            principal, expires_at_ms = entry
            if expires_at_ms is None or expires_at_ms > self._now_ms():
                self._known.move_to_end(digest)
                return principal
            del self._known[digest]
        return await self._look_up(digest)

    async def refresh(self) -> int:
        """Forgets now what has changed; gives the generation, which rises with every change. Raises StorageBusy."""
        await self._check_generation(at_once=True)
        return self._generation

    async def _check_generation(self, *, at_once: bool = False) -> None:
        async with self._checking:
            if not at_once and time.monotonic() - self._checked_at <= CHECK_INTERVAL_S:
                return
            asked_at = time.monotonic()
            async with self._db.reading() as tx:
                generation = await tx.value("identity_generation")
            if generation != self._generation:
                self._known.clear()
                self._generation = generation
            self._checked_at = asked_at

    async def _look_up(self, digest: bytes) -> Principal | None:
        generation = self._generation
        async with self._db.reading() as tx:
            row = await tx.one("device_by_token", token_hash=digest.hex(), now_ms=self._now_ms())
            key = None if row else await tx.one("key_by_hash", key_hash=digest.hex(), now_ms=self._now_ms())
        found: tuple[Principal, int | None] | None = None
        if row is not None:
            found = self._device_principal(row), row["expires_at_ms"]
            if row["used_at_ms"] is None and row["succeeds"]:
                await rotation.first_use(self._db, row, digest.hex(), self._now_ms())
        elif key is not None:
            found = _key_principal(key), key["expires_at_ms"]
        # An answer read before a revocation was noticed must not be remembered after it.
        if found is not None and generation == self._generation:
            self._known[digest] = found
            if len(self._known) > self._max:
                self._known.popitem(last=False)
                self.evictions += 1
        return found[0] if found else None

    def _device_principal(self, row: Row) -> Principal:
        renew_at_ms: int | None = row["rotate_at_ms"]
        if renew_at_ms is None and self._token_keep_ms is not None:
            renew_at_ms = row["created_at_ms"] + self._token_keep_ms
        if row["expires_at_ms"] is not None:
            # Its successor is there already.
            renew_at_ms = None
        made_at_ms = row["created_at_ms"]
        return Principal(
            kind="device", name=row["device_id"], dk=row["dk"], token_at_ms=made_at_ms, renew_at_ms=renew_at_ms
        )

    async def session(self, token: str) -> Principal | None:
        """The operator behind a page session, or None."""
        async with self._db.reading() as tx:
            row = await tx.one("session_by_hash", session_hash=wire.token_hash(token), now_ms=self._now_ms())
        if row is None:
            return None
        grants = msgspec.json.decode(row["grants"], type=tuple[Grant, ...])
        return Principal(kind="operator", name=row["name"], grants=grants)

    async def begin_session(self, operator: str, lasts_s: int) -> str:
        """A session of an operator who has shown who they are."""
        secret = rotation.new_secret("session")
        now_ms = self._now_ms()
        async with self._db.transaction() as tx:
            await tx.run(
                "add_session",
                session_hash=wire.token_hash(secret),
                operator=operator,
                now_ms=now_ms,
                expires_at_ms=now_ms + lasts_s * 1000,
            )
        return secret

    async def end_session(self, token: str) -> None:
        """Ends a page session; an unknown one is ended already."""
        async with self._db.transaction() as tx:
            await tx.run("drop_session", session_hash=wire.token_hash(token))


async def drop_expired_sessions(db: Database, now_ms: int) -> int:
    """Forgets page sessions that have had their time; gives how many."""
    async with db.transaction() as tx:
        return await tx.run("drop_expired_sessions", now_ms=now_ms)


def _key_principal(row: Row) -> Principal:
    groups = msgspec.json.decode(row["groups"], type=list[str])
    return Principal(
        kind="key",
        name=row["name"],
        grants=tuple(Grant(role=row["role"], group=group) for group in groups or (None,)),
        scopes=frozenset(msgspec.json.decode(row["scopes"], type=list[str])),
    )


async def groups_of(tx: Tx, dk: int) -> frozenset[str]:
    """The names of a device's groups, its site and region among them."""
    return frozenset(row["name"] for row in await tx.all("groups_of_device", dk=dk))


async def device_key(tx: Tx, device_id: str) -> int:
    """The internal key of an enrolled device. Raises Refusal 404."""
    row = await tx.one("device_by_id", device_id=device_id) if access.is_device_id(device_id) else None
    if row is None:
        raise problems.device_unknown(device_id)
    return int(row["dk"])


async def enroll(db: Database, device_id: str, now_ms: int, *, actor: str = audit.SYSTEM) -> str:
    """Lets a device in; gives its token. Raises AlreadyThere; a revoked device is let in again."""
    if not access.is_device_id(device_id):
        raise PermanentError(
            f"{device_id!r} cannot be a device id",
            code="device-id-invalid",
            hint="1-128 of A-Z a-z 0-9 . _ : @ -, beginning with a letter or digit",
        )
    try:
        async with db.transaction() as tx:
            secret = rotation.new_secret("device")
            await admit(tx, device_id, wire.token_hash(secret), now_ms, actor=actor)
            return secret
    except DuplicateRow:
        raise _taken(device_id) from None


def _taken(device_id: str) -> AlreadyThere:
    return AlreadyThere(
        f"device {device_id} is enrolled already",
        hint=f"`pisync-cloud rotate {device_id}` gives it a new token; its old one ends",
    )


async def admit(tx: Tx, device_id: str, token_hash: str, now_ms: int, *, actor: str, replace: bool = False) -> int:
    """Lets a device in with a token of which the SHA-256 is known; gives its internal key.

    A revoked device is let in again. Of one that is in, `replace` ends the old tokens. Raises AlreadyThere.
    """
    row = await tx.one("device_by_id", device_id=device_id)
    if row is None:
        dk = await tx.value("add_device", device_id=device_id, now_ms=now_ms)
        await tx.run("add_device_state", dk=dk, now_ms=now_ms)
        await tx.run("add_standing", dk=dk, now_ms=now_ms)
    elif row["revoked_at_ms"] is not None:
        dk = row["dk"]
        await tx.run("restore_device", dk=dk)
        await tx.run("mark_device_state", dk=dk, shut_out=0)
        await standing.restore(tx, dk, now_ms)
    elif replace:
        dk = row["dk"]
        await tx.run("end_device_tokens", dk=dk, ends_at_ms=now_ms)
    else:
        raise _taken(device_id)
    before = None if row is None else _device(device_id, revoked=row["revoked_at_ms"] is not None)
    after = _device(device_id, revoked=False)
    await _tell(tx, now_ms, actor, audit.DEVICE_ENROLLED, device_id, before=before, after=after)
    told = announcing.of_device("device.enrolled", device_id, again=row is not None)
    await announcing.announce(tx, [told], now_ms)
    await tx.run("add_device_token", token_hash=token_hash, dk=dk, now_ms=now_ms)
    await tx.run("identity_changed")
    await tx.run("fleet_changed")
    return int(dk)


async def rotate(db: Database, device_id: str, now_ms: int, *, keep_old_s: int = 0, actor: str = audit.SYSTEM) -> str:
    """A new token for an enrolled device; the old ones end after `keep_old_s`. Raises NotThere."""
    async with db.transaction() as tx:
        dk = await _enrolled(tx, device_id)
        await tx.run("end_device_tokens", dk=dk, ends_at_ms=now_ms + keep_old_s * 1000)
        same = _device(device_id, revoked=False)
        await _tell(tx, now_ms, actor, audit.DEVICE_ROTATED, device_id, before=same, after=same, keep_old_s=keep_old_s)
        return await _new_token(tx, dk, now_ms)


async def revoke(db: Database, device_id: str, now_ms: int, *, actor: str = audit.SYSTEM) -> None:
    """Shuts a device out; its files and history stay. Raises NotThere."""
    async with db.transaction() as tx:
        dk = await _enrolled(tx, device_id)
        await tx.run("end_device_tokens", dk=dk, ends_at_ms=now_ms)
        await tx.run("revoke_device", dk=dk, now_ms=now_ms)
        await tx.run("mark_device_state", dk=dk, shut_out=1)
        await standing.retire(tx, dk, "revoked", now_ms)
        before, after = _device(device_id, revoked=False), _device(device_id, revoked=True)
        await _tell(tx, now_ms, actor, audit.DEVICE_REVOKED, device_id, before=before, after=after)
        await announcing.announce(tx, [announcing.of_device("device.revoked", device_id)], now_ms)
        await tx.run("identity_changed")


async def create_key(
    db: Database,
    name: str,
    role: Role,
    now_ms: int,
    *,
    groups: Sequence[str] = (),
    scopes: Sequence[str] = (),
    expires_at_ms: int | None = None,
    actor: str = audit.SYSTEM,
) -> str:
    """A new API key, for everything or for some groups and parts of the API. Raises AlreadyThere, PermanentError."""
    if not access.is_name(name):
        raise PermanentError(
            f"{name!r} cannot name a key", code="name-invalid", hint="1-64 of A-Z a-z 0-9 space . _ @ -"
        )
    _check_scopes(scopes)
    secret = rotation.new_secret(role)
    limits: dict[str, Any] = {"groups": sorted(set(groups)), "scopes": sorted(set(scopes))}
    limits["expires_at_ms"] = expires_at_ms
    try:
        async with db.transaction() as tx:
            await check_groups(tx, groups)
            await tx.run(
                "add_key",
                key_hash=wire.token_hash(secret),
                name=name,
                role=role,
                now_ms=now_ms,
                groups=msgspec.json.encode(limits["groups"]).decode(),
                scopes=msgspec.json.encode(limits["scopes"]).decode(),
                expires_at_ms=expires_at_ms,
            )
            told = {key: value for key, value in limits.items() if value}
            after = _key(name, role) | told
            await _tell(tx, now_ms, actor, audit.KEY_CREATED, name, after=after, role=role, **told)
    except DuplicateRow:
        raise AlreadyThere(
            f"a key named {name} exists already", hint=f"`pisync-cloud key revoke {name}` ends it, or take another name"
        ) from None
    return secret


async def check_groups(tx: Tx, groups: Iterable[str]) -> None:
    """Raises PermanentError for a group that is not there."""
    unknown = set(groups) - {row["name"] for row in await tx.all("known_groups")}
    if unknown:
        raise PermanentError(
            f"there is no group {', '.join(sorted(unknown))}",
            code="group-unknown",
            hint="`pisync-cloud group add NAME` makes one",
        )


def _check_scopes(scopes: Sequence[str]) -> None:
    unknown = sorted(set(scopes) - set(access.SCOPES))
    if unknown:
        raise PermanentError(
            f"there is no scope {', '.join(unknown)}", code="scope-unknown", hint=f"scopes: {', '.join(access.SCOPES)}"
        )


async def revoke_key(db: Database, name: str, now_ms: int, *, actor: str = audit.SYSTEM) -> None:
    """Ends an API key and the page sessions that began with it. Raises NotThere."""
    async with db.transaction() as tx:
        role = await tx.value("role_of_key", name=name)
        if not await tx.run("revoke_key", name=name, now_ms=now_ms):
            raise NotThere(f"no key is named {name}", hint="`pisync-cloud key list` shows the names")
        await _tell(tx, now_ms, actor, audit.KEY_REVOKED, name, before=_key(name, role), role=role)
        await tx.run("identity_changed")


def _device(device_id: str, *, revoked: bool) -> dict[str, Any]:
    return {"device_id": device_id, "revoked": revoked}


def _key(name: str, role: str) -> dict[str, Any]:
    return {"name": name, "role": role}


async def _tell(
    tx: Tx,
    now_ms: int,
    actor: str,
    action: str,
    target: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    **detail: Any,
) -> None:
    """Into the audit, with what was changed as hashes; tokens have no part in it."""
    await audit.record(
        tx,
        now_ms=now_ms,
        actor=actor,
        action=action,
        target=target,
        detail=detail,
        before_hash=None if before is None else audit.hash_of(before),
        after_hash=None if after is None else audit.hash_of(after),
    )


async def _enrolled(tx: Tx, device_id: str) -> int:
    row = await tx.one("device_by_id", device_id=device_id)
    if row is None or row["revoked_at_ms"] is not None:
        raise NotThere(f"no device {device_id} is enrolled", hint=f"`pisync-cloud enroll {device_id}` lets it in")
    return int(row["dk"])


async def _new_token(tx: Tx, dk: int, now_ms: int) -> str:
    secret = rotation.new_secret("device")
    await tx.run("add_device_token", token_hash=wire.token_hash(secret), dk=dk, now_ms=now_ms)
    await tx.run("identity_changed")
    return secret
