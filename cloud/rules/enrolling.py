"""How a device is let in: by a code that works once, or by the key of a fleet that stands on prepared cards.

by            what is found                                       what happens
code          unknown, expired, used by somebody else,            Refuse (one answer for all of them)
              or for another device
code          used, by this device with this token                Again
code          the device is in already, the code is for it        Replace: its old tokens end
code          the device is in already, the code is for anybody   Taken
code          anything else                                       Admit
fleet key     unknown, expired, revoked                           Refuse
fleet key     in already with this token                          Again
fleet key     asked before                                        as that was decided: Wait, Again, Reject
fleet key     the device is in already                            Ask: a person says whether it is the same
fleet key     accepts by itself, and is not used up               Admit
fleet key     anything else                                       Ask

A stranger who uses the name of a device that is in never knocks it out: only a person or a code for that very device
replaces it. Codes are read as people type them: O is 0, I and L are 1; case and dashes do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["admit", "replace", "again", "ask", "wait", "taken", "refuse", "reject"]

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_CHARS = 10
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


@dataclass(frozen=True, kw_only=True)
class Code:
    """A code as it is kept. `device_id` None: for whichever device."""

    device_id: str | None
    expires_at_ms: int
    used_by: str | None


@dataclass(frozen=True, kw_only=True)
class FleetKey:
    """A fleet's key as it is kept; `devices`: how many have come in by it."""

    auto_accept: bool
    devices: int
    devices_max: int | None
    expires_at_ms: int | None
    revoked: bool


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of who asks. `enrolled`: such a device is in; `same_token`: with the token that it shows."""

    device_id: str
    enrolled: bool = False
    same_token: bool = False
    request: Literal["pending", "accepted", "rejected"] | None = None


def normalized(code: str) -> str:
    """'k7qm3-xpdo1' -> 'K7QM3XPD01'."""
    return code.strip().upper().translate(_READ_AS)


def shown(code: str) -> str:
    """'K7QM3XPD01' -> 'K7QM3-XPD01'."""
    return f"{code[:5]}-{code[5:]}"


def by_code(code: Code | None, found: Found, now_ms: int) -> Verdict:
    """What a code does; see the table."""
    if code is None or (code.device_id is not None and code.device_id != found.device_id):
        return "refuse"
    if code.used_by is not None:
        return "again" if code.used_by == found.device_id and found.same_token else "refuse"
    if code.expires_at_ms <= now_ms:
        return "refuse"
    if found.enrolled:
        return "replace" if code.device_id is not None else "taken"
    return "admit"


def by_fleet_key(key: FleetKey | None, found: Found, now_ms: int) -> Verdict:
    """What a fleet's key does; see the table."""
    if key is None or key.revoked or (key.expires_at_ms is not None and key.expires_at_ms <= now_ms):
        return "refuse"
    if found.enrolled and found.same_token:
        return "again"
    if found.request is not None:
        return {"pending": "wait", "accepted": "again", "rejected": "reject"}[found.request]  # type: ignore[return-value]
    if not found.enrolled and key.auto_accept and (key.devices_max is None or key.devices < key.devices_max):
        return "admit"
    return "ask"
