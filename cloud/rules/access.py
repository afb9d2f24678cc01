"""Who may do what, and where. A device speaks only for itself, a user too.

A person or a key holds grants: a role, everywhere or for the devices of one group. Each role covers those before it:
viewer < operator < admin. What does not belong to a device (webhooks, records, keys, the audit) takes a grant that
holds everywhere. A key may be narrowed to scopes as well: parts of the API, by the first word of the path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

Role = Literal["viewer", "operator", "admin"]

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
#: Parts of the API that a key can be narrowed to, by the first word after /api/ or /v1/.
_WORDS: dict[str, tuple[str, ...]] = {
    "devices": ("devices", "device", "overview", "faults", "groups", "tags", "me"),
    "sync": ("sync-event", "sync"),
    "files": ("files",),
    "telemetry": ("telemetry", "sessions"),
    "records": ("records", "changes", "conflicts"),
    "webhooks": ("webhooks",),
    "exports": ("exports",),
    "audit": ("audit",),
    "notifications": ("notifications", "rules", "channels", "silences", "incidents", "notices", "alerts"),
    "enrolment": ("enroll", "enrolments", "enroll-codes", "fleet-keys"),
    "people": ("operators", "keys"),
    "service": ("health", "probe", "metrics"),
}
SCOPES: tuple[str, ...] = tuple(_WORDS)
_SCOPE_OF = {word: scope for scope, words in _WORDS.items() for word in words}
DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$"

_DEVICE_ID = re.compile(DEVICE_ID_PATTERN.rstrip("$"))
_NAME = re.compile(NAME_PATTERN.rstrip("$"))


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role, for the devices of `group`, or everywhere when it is None."""

    role: Role
    group: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who sent a request: a device (`dk`), a key or an operator (`name`, `grants`), or a user (`user_id`, a UUID).

    `token_at_ms`: of a device, when its token was made; `renew_at_ms`: when it is to be replaced, None: not at all.
    `scopes`: the parts of the API that a key is narrowed to; empty: all.
    """

    kind: Literal["device", "key", "operator", "user"]
    name: str
    dk: int = 0
    grants: tuple[Grant, ...] = ()
    scopes: frozenset[str] = frozenset()
    user_id: str = ""
    token_at_ms: int = 0
    renew_at_ms: int | None = None

    @property
    def device_id(self) -> str:
        """The public id of a device; empty for others."""
        return self.name if self.kind == "device" else ""

    @property
    def role(self) -> Role | None:
        """The highest role that holds everywhere."""
        return highest(grant.role for grant in self.grants if grant.group is None)

    @property
    def actor(self) -> str:
        """How the audit names it: 'operator:amina', 'key:reports', 'device:pi-1'."""
        return f"{self.kind}:{self.name}"


def highest(roles: Iterable[Role]) -> Role | None:
    """The highest of some roles; None of none."""
    held = set(roles)
    return next((role for role in reversed(ROLES) if role in held), None)


def covers(held: Role | None, needed: Role) -> bool:
    """Whether a key of role `held` may do what asks for `needed`: admin > operator > viewer."""
    return held is not None and ROLES.index(held) >= ROLES.index(needed)


def reach(principal: Principal, needed: Role) -> frozenset[str] | None:
    """The groups whose devices are within reach for what asks for `needed`; None: all devices; empty: none."""
    held = [grant for grant in principal.grants if covers(grant.role, needed)]
    if any(grant.group is None for grant in held):
        return None
    return frozenset(grant.group for grant in held if grant.group is not None)


def within(groups: frozenset[str] | None, of_device: Collection[str]) -> bool:
    """Whether a device of these groups is in reach (see `reach`)."""
    return groups is None or not groups.isdisjoint(of_device)


def scope_of(path: str) -> str | None:
    """The part of the API that a path belongs to; None for what is no API: '/api/devices/pi-1' -> 'devices'."""
    words = path.split("/", 3)
    if len(words) < 3 or words[1] not in ("api", "v1"):
        return "service" if path == "/metrics" else None
    return _SCOPE_OF.get(words[2])


def in_scope(principal: Principal, path: str) -> bool:
    """Whether a key may be used for this path at all."""
    return not principal.scopes or scope_of(path) in principal.scopes


def reaches(principal: Principal, named: str | None, *, owner: str, dk: int) -> bool:
    """Whether a learner session of `owner`, told by device `dk` (0: made here), is within reach.

    A user reaches their own. A device that names a learner reaches that learner's, else those that it told of itself.
    """
    if principal.kind == "user":
        return principal.user_id == owner
    if principal.kind != "device":
        return False
    return named == owner if named is not None else dk == principal.dk


def is_device_id(text: str) -> bool:
    """1-128 of A-Z a-z 0-9 . _ : @ -, beginning with a letter or digit."""
    return _DEVICE_ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can name a key, a person, a group, a tag, a channel or a rule."""
    return _NAME.fullmatch(text) is not None
