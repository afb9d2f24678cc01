"""Who may do what. A device speaks only for itself, a user too; a key may do what its and the lesser roles may."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "operator", "admin"]

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$"

_DEVICE_ID = re.compile(DEVICE_ID_PATTERN.rstrip("$"))
_NAME = re.compile(NAME_PATTERN.rstrip("$"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who sent a request: a device (`dk`, `device_id`), a key (`name`, `role`) or a user (`user_id`, a UUID)."""

    kind: Literal["device", "key", "user"]
    name: str
    dk: int = 0
    role: Role | None = None
    user_id: str = ""

    @property
    def device_id(self) -> str:
        """The public id of a device; empty for others."""
        return self.name if self.kind == "device" else ""


def covers(held: Role | None, needed: Role) -> bool:
    """Whether a key of role `held` may do what asks for `needed`: admin > operator > viewer."""
    return held is not None and ROLES.index(held) >= ROLES.index(needed)


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
    """Whether `text` can name a key."""
    return _NAME.fullmatch(text) is not None
