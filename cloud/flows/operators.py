"""People: who may sign in, with what password, and what they may do.

Passwords are kept as argon2id (RFC 9106, the low-memory choice: 64 MiB, 3 passes, 4 lanes). Whatever ends what a
person may do ends their sessions as well. Somebody can always administer: the last administrator stays.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cloud.flows import audit
from cloud.flows.identity import AlreadyThere, NotThere, check_groups
from cloud.rules import access, passwords
from cloud.rules.access import Grant
from cloud.store.db import Database, DuplicateRow, Row, Tx
from pisyncd.core.errors import PermanentError

ADDED = "operator.added"
GRANTED = "operator.granted"
DISABLED = "operator.disabled"
ENABLED = "operator.enabled"
REMOVED = "operator.removed"
PASSWORD_CHANGED = "password.changed"  # noqa: S105 - the name of an action
SIGNED_IN = "login.succeeded"
NOT_SIGNED_IN = "login.failed"

#: Each takes 64 MiB for a tenth of a second.
AT_ONCE = 2
_turns = asyncio.Semaphore(AT_ONCE)
hasher = PasswordHasher()
_STRANGER = "no-such-operator"
_dummy: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Person:
    """An operator. Times are wall milliseconds."""

    name: str
    grants: tuple[Grant, ...]
    created_at_ms: int
    updated_at_ms: int
    disabled_at_ms: int | None
    password_hash: str

    @property
    def is_admin(self) -> bool:
        """Whether they may administer everything, now."""
        return self.disabled_at_ms is None and Grant(role="admin") in self.grants

    def shown(self) -> dict[str, Any]:
        """For the audit: everything but the password."""
        grants = [{"role": each.role, "group": each.group} for each in self.grants]
        return {"name": self.name, "grants": grants, "disabled": self.disabled_at_ms is not None}


async def hashed(password: str) -> str:
    """The argon2id hash of a password."""
    async with _turns:
        return await asyncio.to_thread(hasher.hash, password)


def new_password() -> str:
    """A password of 120 random bits, to be shown once."""
    return secrets.token_urlsafe(15)


async def people(tx: Tx) -> list[Person]:
    """All operators by name."""
    return [_person(row) for row in await tx.all("operators")]


async def one(tx: Tx, name: str) -> Person:
    """Raises NotThere."""
    row = await tx.one("operator_by_name", name=name)
    if row is None:
        raise NotThere(f"no operator is named {name}", hint="`pisync-cloud operator list` shows the names")
    return _person(row)


async def add(
    db: Database, name: str, password: str, grants: Sequence[Grant], *, now_ms: int, actor: str = audit.SYSTEM
) -> None:
    """Lets a person sign in. Raises AlreadyThere, PermanentError for a name, password or group that cannot be."""
    if not access.is_name(name):
        raise PermanentError(
            f"{name!r} cannot name an operator", code="name-invalid", hint="1-64 of A-Z a-z 0-9 space . _ @ -"
        )
    _check(password, name)
    made = Person(
        name=name,
        grants=tuple(dict.fromkeys(grants)),
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        disabled_at_ms=None,
        password_hash=await hashed(password),
    )
    try:
        async with db.transaction() as tx:
            await _known(tx, made.grants)
            await tx.run(
                "add_operator", name=name, password_hash=made.password_hash, grants=_encode(made.grants), now_ms=now_ms
            )
            await _tell(tx, ADDED, actor, now_ms, before=None, after=made)
    except DuplicateRow:
        raise AlreadyThere(f"an operator named {name} exists already", hint="take another name") from None


async def set_grants(db: Database, name: str, grants: Sequence[Grant], *, now_ms: int, actor: str) -> None:
    """Exactly these from now on. Raises NotThere, PermanentError."""
    async with db.transaction() as tx:
        before = await one(tx, name)
        await _known(tx, grants)
        await _save(tx, GRANTED, before, replace(before, grants=tuple(dict.fromkeys(grants))), actor, now_ms)


async def set_disabled(db: Database, name: str, disabled: bool, *, now_ms: int, actor: str) -> None:
    """Whether they may not sign in. Raises NotThere, PermanentError for the last administrator."""
    async with db.transaction() as tx:
        before = await one(tx, name)
        after = replace(before, disabled_at_ms=now_ms if disabled else None)
        await _save(tx, DISABLED if disabled else ENABLED, before, after, actor, now_ms)


async def set_password(db: Database, name: str, password: str, *, now_ms: int, actor: str) -> None:
    """Also ends all sessions of that person. Raises NotThere, PermanentError."""
    _check(password, name)
    made = await hashed(password)
    async with db.transaction() as tx:
        before = await one(tx, name)
        await _save(tx, PASSWORD_CHANGED, before, replace(before, password_hash=made), actor, now_ms)


async def remove(db: Database, name: str, *, now_ms: int, actor: str) -> None:
    """For good; what they did stays in the audit. Raises NotThere, PermanentError for the last administrator."""
    async with db.transaction() as tx:
        before = await one(tx, name)
        await _somebody_stays(tx, before)
        await tx.run("end_sessions_of", operator=name)
        await tx.run("remove_operator", name=name)
        await _tell(tx, REMOVED, actor, now_ms, before=before, after=None)


async def check(db: Database, name: str, password: str, *, address: str, now_ms: int) -> Person | None:
    """The person whose name and password these are, or None; both ends are in the audit."""
    async with db.reading() as tx:
        row = await tx.one("operator_by_name", name=name)
    person = None if row is None else _person(row)
    # A name that nobody has must take as long as one that somebody has.
    right = await _verify(person.password_hash if person else await _stranger(), password[: passwords.CHARS_MAX])
    if person is None or not right or person.disabled_at_ms is not None:
        async with db.transaction() as tx:
            known = name if person is not None else "unknown"
            await _note(tx, NOT_SIGNED_IN, f"operator:{known}", known, now_ms, address)
        return None
    async with db.transaction() as tx:
        if hasher.check_needs_rehash(person.password_hash):
            await _write(tx, replace(person, password_hash=await hashed(password)), now_ms)
        await _note(tx, SIGNED_IN, f"operator:{name}", name, now_ms, address)
    return person


async def _verify(known: str, password: str) -> bool:
    async with _turns:
        try:
            return await asyncio.to_thread(hasher.verify, known, password)
        except (VerificationError, InvalidHashError):
            return False


async def _stranger() -> str:
    if not _dummy:
        _dummy.append(await hashed(_STRANGER))
    return _dummy[0]


def _check(password: str, name: str) -> None:
    wrong = passwords.fault(password, name)
    if wrong is not None:
        raise PermanentError(wrong, code="password-weak", hint="a sentence of a few words is easy to keep")


async def _known(tx: Tx, grants: Sequence[Grant]) -> None:
    await check_groups(tx, [each.group for each in grants if each.group is not None])


async def _somebody_stays(tx: Tx, leaving: Person) -> None:
    if leaving.is_admin and not any(each.is_admin for each in await people(tx) if each.name != leaving.name):
        raise PermanentError(
            f"{leaving.name} is the last administrator", code="last-admin", hint="make another one first"
        )


async def _save(tx: Tx, action: str, before: Person, after: Person, actor: str, now_ms: int) -> None:
    if not after.is_admin:
        await _somebody_stays(tx, before)
    await _write(tx, after, now_ms)
    if action != ENABLED:
        await tx.run("end_sessions_of", operator=after.name)
    await _tell(tx, action, actor, now_ms, before=before, after=after)


async def _write(tx: Tx, person: Person, now_ms: int) -> None:
    await tx.run(
        "save_operator",
        name=person.name,
        password_hash=person.password_hash,
        grants=_encode(person.grants),
        disabled_at_ms=person.disabled_at_ms,
        now_ms=now_ms,
    )


async def _tell(tx: Tx, action: str, actor: str, now_ms: int, *, before: Person | None, after: Person | None) -> None:
    shown = after or before
    assert shown is not None
    await audit.record(
        tx,
        now_ms=now_ms,
        actor=actor,
        action=action,
        target=shown.name,
        detail={"grants": shown.shown()["grants"]},
        before_hash=None if before is None else audit.hash_of(before.shown()),
        after_hash=None if after is None else audit.hash_of(after.shown()),
    )


async def _note(tx: Tx, action: str, actor: str, name: str, now_ms: int, address: str) -> None:
    await audit.record(tx, now_ms=now_ms, actor=actor, action=action, target=name, detail={"address": address})


def _encode(grants: Sequence[Grant]) -> str:
    return msgspec.json.encode(grants).decode()


def _person(row: Row) -> Person:
    return Person(
        name=row["name"],
        grants=msgspec.json.decode(row["grants"], type=tuple[Grant, ...]),
        created_at_ms=row["created_at_ms"],
        updated_at_ms=row["updated_at_ms"],
        disabled_at_ms=row["disabled_at_ms"],
        password_hash=row["password_hash"],
    )
